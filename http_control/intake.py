"""What stands between the server and any application: a request gets there whole, in time and within bounds, or not.

A body is at most `body_bytes_max`: an application gets it in one piece or not at all, so that none can be held up by
one that trickles, nor forget to look at its size. An application that answers before the body has come, since the
header tells enough (no token, no such path), is not held up by it either: the connection ends after such an answer.
WebSockets are not spoken.

A stream of events, which has no end of its own, is ended whole when the server stops: who reads it sees that it is over
and that nothing broke.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import trio

from http_control.bugs import BugLog
from http_control.contained import contained
from http_control.limits import HttpLimits
from http_control.problem import Problem, problem_of, too_large
from p2p import one_line

if TYPE_CHECKING:
    from hypercorn.typing import (
        ASGIFramework,
        ASGIReceiveCallable,
        ASGIReceiveEvent,
        ASGISendCallable,
        ASGISendEvent,
        HTTPResponseStartEvent,
        HTTPScope,
        Scope,
    )


class Intake:
    """An ASGI application around another one.

    Args:
        app: the application.
        limits: `body_bytes_max`, `body_s_max`, `close_s_max` and `bugs_told_per_min` are used.
    """

    def __init__(self, app: ASGIFramework, limits: HttpLimits) -> None:
        self._app = app
        self._limits = limits
        self._bugs = BugLog(limits.bugs_told_per_min, is_ours=False)
        self._streams: set[_Stream] = set()
        self._is_stopping = False

    def stop(self) -> None:
        """End the streams of events that are open, and those that are opened from now on."""
        self._is_stopping = True
        for stream in self._streams:
            stream.end()

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(scope, receive, self._limits)
        stream = _Stream()

        async def note(event: ASGISendEvent) -> None:
            if event["type"] == "http.response.start":
                body.is_answered = True
                if not body.is_read:
                    # Refused by its header: the rest is not going to be read, so nothing can follow it.
                    event["headers"] = [*event["headers"], (b"connection", b"close")]
                if _is_endless(event):
                    self._streams.add(stream)
            await stream.send(send, event)
            if self._is_stopping and stream in self._streams:
                stream.end()

        try:
            with body.refused, stream.scope:
                await self._app(scope, body.receive, note)
        except BaseException as error:  # noqa: BLE001  # what ends the program is raised on
            await self._answer_for(error, scope, send, is_answered=body.is_answered)
        finally:
            self._streams.discard(stream)
        if stream.is_ended:
            await send(cast("ASGISendEvent", {"type": "http.response.body", "body": b"", "more_body": False}))
        elif body.problem is not None:
            await _answer(body.problem, send)

    async def _answer_for(
        self, error: BaseException, scope: HTTPScope, send: ASGISendCallable, *, is_answered: bool
    ) -> None:
        """Answer for what the application raised. One that has begun is cut off: who reads it sees that it is not
        whole."""
        try:
            failure = contained(error)
        except BaseException as end:
            is_over = self._is_stopping or isinstance(end, (KeyboardInterrupt, SystemExit))
            if is_over and not is_answered:
                # The last word; its reader may be slow, and holds nobody up.
                with trio.move_on_after(self._limits.close_s_max, shield=True):
                    await _answer(Problem(503, "stopping", "the server stops before this was answered"), send)
            raise
        what = f"the application failed at {scope['method']} {one_line(scope['path'], 200)}"
        self._bugs.tell(what, failure, trio.current_time())
        if not is_answered:
            await _answer(problem_of(500), send)


class _Body:
    """The body of one request, read when the application first asks, and then at once and whole.

    Attributes:
        is_read: whether nothing of it is left to come.
        is_answered: whether the answer has begun; what is wrong with the body makes no difference any more.
        problem: what is wrong with it; the application is cancelled then, by the scope `refused`.
    """

    def __init__(self, scope: HTTPScope, receive: ASGIReceiveCallable, limits: HttpLimits) -> None:
        self._receive = receive
        self._limits = limits
        headers = {name.lower(): value for name, value in scope["headers"]}
        # The server layer has checked that it is a number.
        self._announced = int(headers.get(b"content-length", b"0"))
        self._has_begun = False
        self.is_read = not self._announced and b"transfer-encoding" not in headers
        self.is_answered = False
        self.problem: Problem | None = None
        self.refused = trio.CancelScope()

    async def receive(self) -> ASGIReceiveEvent:
        """What the application gets in place of the server's."""
        if self._has_begun:
            return await self._receive()
        self._has_begun = True
        try:
            return await self._whole()
        except Problem as problem:
            if not self.is_answered:
                self.problem = problem
                self.refused.cancel()
            # What it is read for is cancelled, or answered already.
            await trio.sleep_forever()
            raise

    async def _whole(self) -> ASGIReceiveEvent:
        bytes_max = self._limits.body_bytes_max
        if self._announced > bytes_max:
            raise too_large(bytes_max)
        body = bytearray()
        try:
            with trio.fail_after(self._limits.body_s_max):
                while True:
                    event = await self._receive()
                    if event["type"] != "http.request":
                        return event
                    body += event.get("body", b"")
                    if len(body) > bytes_max:
                        raise too_large(bytes_max)
                    if not event.get("more_body", False):
                        self.is_read = True
                        return cast("ASGIReceiveEvent", {**event, "body": bytes(body), "more_body": False})
        except trio.TooSlowError:
            raise problem_of(408) from None


class _Stream:
    """An answer that may be a stream of events.

    Attributes:
        scope: of who writes it.
        is_ended: whether it is to get its end here: its last part went out whole, and it has no end yet.
    """

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.is_ended = False
        self._is_sending = False
        self._is_complete = False

    async def send(self, send: ASGISendCallable, event: ASGISendEvent) -> None:
        """Send one part. Cancelled in it nobody knows how much of it went out, and the stream cannot be ended."""
        self._is_sending = True
        await send(event)
        self._is_sending = False
        self._is_complete = event["type"] == "http.response.body" and not event.get("more_body", False)

    def end(self) -> None:
        """End it, now or when it is called again after the part that is being sent."""
        if not (self._is_sending or self._is_complete):
            self.is_ended = True
            self.scope.cancel()


def _is_endless(event: HTTPResponseStartEvent) -> bool:
    kinds = (value for name, value in event["headers"] if name.lower() == b"content-type")
    return any(kind.startswith(b"text/event-stream") for kind in kinds)


async def _answer(problem: Problem, send: ASGISendCallable) -> None:
    body = problem.body()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        # The rest of the request is not going to be read.
        (b"connection", b"close"),
    ]
    await send(cast("ASGISendEvent", {"type": "http.response.start", "status": problem.status, "headers": headers}))
    await send(cast("ASGISendEvent", {"type": "http.response.body", "body": body, "more_body": False}))
