"""What stands between the server and any application: a request gets there whole, in time and within bounds, or not.

A body is at most `body_bytes_max`, so it is read here before the application is called: no application behind it can be
held up by a body that trickles, nor forget to look at its size. WebSockets are not spoken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import trio

from http_control.bugs import BugLog
from http_control.limits import HttpLimits
from http_control.problem import Problem, problem_of
from p2p import one_line

if TYPE_CHECKING:
    from hypercorn.typing import (
        ASGIFramework,
        ASGIReceiveCallable,
        ASGIReceiveEvent,
        ASGISendCallable,
        ASGISendEvent,
        HTTPScope,
        Scope,
    )


class Intake:
    """An ASGI application around another one.

    Args:
        app: the application.
        limits: `body_bytes_max` and `body_s_max` are used.
    """

    def __init__(self, app: ASGIFramework, limits: HttpLimits) -> None:
        self._app = app
        self._limits = limits
        self._bugs = BugLog(limits.bugs_told_per_min)

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._body(scope, receive)
        except Problem as problem:
            await _answer(problem, send)
            return
        if body is None:
            return
        waiting: list[bytes] = [body]

        async def replay() -> ASGIReceiveEvent:
            if waiting:
                event = {"type": "http.request", "body": waiting.pop(), "more_body": False}
                return cast("ASGIReceiveEvent", event)
            return await receive()

        has_begun = False

        async def note(event: ASGISendEvent) -> None:
            nonlocal has_begun
            has_begun = True
            await send(event)

        try:
            await self._app(scope, replay, note)
        except Exception as error:
            if has_begun:
                raise
            path = one_line(scope["path"], 200)
            self._bugs.tell(f"the application failed at {scope['method']} {path}", error, trio.current_time())
            await _answer(problem_of(500), send)

    async def _body(self, scope: HTTPScope, receive: ASGIReceiveCallable) -> bytes | None:
        """The whole body; None when the client has gone."""
        bytes_max = self._limits.body_bytes_max
        for name, value in scope["headers"]:
            # The server layer has checked that it is a number.
            if name.lower() == b"content-length" and int(value) > bytes_max:
                raise problem_of(413)
        parts: list[bytes] = []
        size = 0
        try:
            with trio.fail_after(self._limits.body_s_max):
                while True:
                    event = await receive()
                    if event["type"] != "http.request":
                        return None
                    part = event.get("body", b"")
                    size += len(part)
                    if size > bytes_max:
                        raise problem_of(413)
                    parts.append(part)
                    if not event.get("more_body", False):
                        return b"".join(parts)
        except trio.TooSlowError:
            raise problem_of(408) from None


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
