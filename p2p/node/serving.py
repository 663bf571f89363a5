"""Services: handlers that answer the requests of one channel.

Responsible for who is served when: a bounded queue, a few tasks that call the handler, and one answer for every request
whatever the handler does. It refuses to know how requests are sent (`requests`) and how answers travel
(`peer.connection`).

A request is answered with what its handler returns; or with a status: 1 if the handler raised, 2 if nobody serves the
channel (any more), 3 if too many wait here already, of this peer or of all. A handler that answered the message itself,
or refused it, has said all: a second answer would be taken for a forged one. Whatever one handler does, the others go
on: what a peer may have open is counted for each service apart, for an asker that gave up is not heard of, and a
handler that takes long would else keep its peer from asking anything of anybody. An answer that has to wait for room in
its peer's outbox keeps its task, and so slows down nobody but this service.

A request that its asker gives up is taken out of the line, or its handler is cancelled.

Nothing of trio is made per request: a task that was needed once stays, with a cancel scope that is made anew once it
was used, and a request that finds one idle wakes it. One more is started when a request finds none, up to the number
that may be served at a time: so no more of them are ever made than there were requests at once, whatever that number.
A handler that is a plain function needs not even that: it is called as its request is read, and the answer leaves at
once, or with those to the requests that came together with it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import msgspec
import trio

from p2p.errors import ConfigError, NotConnected, PayloadTooLarge, RemoteProtocolError
from p2p.limits import Limits
from p2p.msg import Data, encode_data
from p2p.node.interrupts import uninterrupted
from p2p.node.lines import Pace

if TYPE_CHECKING:
    from p2p.node.dispatch import Message
    from p2p.peer.connection import Connection

_log = logging.getLogger("p2p.serve")

Body: TypeAlias = bytes | msgspec.Struct
"""What a request or an answer carries: bytes as they are, a struct as JSON."""

Handler: TypeAlias = Callable[["Message"], "Awaitable[Body | None] | Body | None"]

T = TypeVar("T")

TypedHandler: TypeAlias = Callable[["Message", T], "Awaitable[Body | None] | Body | None"]

REQUESTS_PER_CHECKPOINT: Final = 64
"""A handler that never has to wait still lets others run this often."""

_ANSWERED: Final = b""
"""Stands in place of an encoded answer, which is never empty, where the handler gave one itself."""


def encode_body(body: object) -> bytes:
    """Return the bytes of a body; None is an empty one.

    Raises:
        ConfigError: it is neither bytes nor a msgspec struct.
    """
    if body is None:
        return b""
    if isinstance(body, msgspec.Struct):
        return msgspec.json.encode(body)
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    kind = type(body).__name__
    raise ConfigError(f"a body is of the kind {kind}: it must be bytes or a msgspec struct; of text, text.encode()")


def reader_of(body_type: type[T], name: str) -> Callable[[bytes], T]:
    """Make what reads bodies as a type, from JSON; it raises a RemoteProtocolError where one cannot be read so.

    Args:
        body_type: what `msgspec` reads.
        name: of the argument, for the error.

    Raises:
        ConfigError: it is no type that JSON is read as.
    """
    from p2p.strict_json import refuse_twins

    try:
        decoder = msgspec.json.Decoder(body_type)
    except TypeError as error:
        raise ConfigError(f"{name} must be a type that msgspec reads from JSON: {error}") from None
    what = f"a body is no {getattr(body_type, '__name__', body_type)}"

    def read(body: bytes) -> T:
        try:
            value = decoder.decode(body)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise RemoteProtocolError(f"{what}: {error}") from None
        refuse_twins(body, what)
        return value

    return read


def typed(handler: TypedHandler[T], body_type: type[T]) -> Handler:
    """Make a handler that reads bodies as a type before it calls the one given.

    Raises:
        ConfigError: it is no type that bodies are read as, or no handler.
    """
    check_handler(handler)
    body_of = reader_of(body_type, "body_type")

    def read(message: Message) -> Awaitable[Body | None] | Body | None:
        return handler(message, body_of(message.body))

    async def read_and_wait(message: Message) -> Body | None:
        result = read(message)
        return await result if isinstance(result, Awaitable) else result

    return read_and_wait if iscoroutinefunction(handler) else read


def check_handler(handler: object) -> None:
    """Refuse what cannot be called.

    Raises:
        ConfigError: it is such a thing.
    """
    if not callable(handler):
        raise ConfigError(f"a handler is a function, async or plain, and not a {type(handler).__name__}")


@uninterrupted
class Service:
    """A handler, and the requests that wait for it.

    Args:
        name: the channel.
        handler: called with each request.
        limits: bounds.

    Attributes:
        refused: requests that were answered with status 3.
    """

    def __init__(self, name: str, handler: Handler, limits: Limits) -> None:
        self.name = name
        self.refused = 0
        self._handler = handler
        self._limits = limits
        self._is_plain = not iscoroutinefunction(handler)
        self._waiting: deque[_Call] = deque()
        self._idle = trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery | None = None
        self._tasks_left = 0
        # Of each link that has requests here.
        self._shares: dict[Connection, _Share] = {}
        self._closed = False
        self._since_turn = 0
        self._scope = trio.CancelScope()
        self._lines = Pace(limits.refusal_lines_per_s, limits.refusal_lines_burst)

    def put(self, message: Message, asked: Asked) -> None:
        """Answer a request at once, line it up, or refuse it. Never waits."""
        link = asked.link
        if (self._waiting or self._shares) and not self._has_room(link, len(message.body)):
            self.refused += 1
            asked.refuse(Data.OVERLOADED)
            return
        begun = None
        # Whatever a peer sends at once, the loop gets its turn, and what waits for it is counted and bounded.
        if self._is_plain and not self._waiting and self._since_turn < REQUESTS_PER_CHECKPOINT:
            self._since_turn += 1
            begun = self._call(message, asked)
            if isinstance(begun, bytes) and (begun == _ANSWERED or link.send_reply_nowait(begun)):
                return
        link.serving += 1
        share = self._shares.get(link)
        if share is None:
            share = self._shares[link] = _Share()
        share.requests += 1
        share.bytes += len(message.body)
        call = _Call(self, message, asked, begun)
        link.served[asked.msg_id] = call
        self._waiting.append(call)
        if self._idle:
            self._idle.unpark()
        else:
            self._start_task()

    def _start_task(self) -> None:
        if self._nursery is not None and self._tasks_left:
            self._tasks_left -= 1
            self._nursery.start_soon(self._work)

    def _has_room(self, link: Connection, size: int) -> bool:
        limits, share = self._limits, self._shares.get(link)
        if len(self._waiting) >= limits.requests_waiting_max:
            return False
        return share is None or (
            share.requests < limits.pending_requests_max and share.bytes + size <= limits.pending_requests_bytes_max
        )

    def cancel(self, call: _Call) -> None:
        """Nobody waits for this answer any more: its handler is cancelled at its next checkpoint, or never called."""
        if call.scope is not None:
            call.scope.cancel()
        else:
            self._waiting.remove(call)
            self._drop(call)

    def _left(self, call: _Call) -> None:
        """A request is not waited for here any more."""
        link = call.asked.link
        link.serving -= 1
        del link.served[call.asked.msg_id]
        share = self._shares[link]
        share.requests -= 1
        share.bytes -= len(call.message.body)
        if not share.requests:
            del self._shares[link]

    async def run(self, concurrency: int, task_status: trio.TaskStatus[None]) -> None:
        """Serve with up to so many tasks until `close`, which cancels the handlers that are still at it."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                self._nursery, self._tasks_left = nursery, concurrency
                for _ in self._waiting:
                    self._start_task()
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    # From here the nursery may close to new tasks at any moment, while requests still come in.
                    self._nursery = None

    async def _work(self) -> None:
        while not self._closed:
            with trio.CancelScope() as scope:
                await self._work_until_cancelled(scope)

    async def _work_until_cancelled(self, scope: trio.CancelScope) -> None:
        """Serve one request after the other within a scope that ends with the one that is cancelled."""
        waiting = self._waiting
        since_checkpoint = 0
        while not (self._closed or scope.cancel_called):
            self._since_turn = 0
            if not waiting:
                since_checkpoint = 0
                await self._idle.park()
                continue
            since_checkpoint += 1
            if since_checkpoint == REQUESTS_PER_CHECKPOINT:
                since_checkpoint = 0
                await trio.lowlevel.checkpoint()
                continue
            call = waiting.popleft()
            call.scope = scope
            await self._serve(call)

    async def _serve(self, call: _Call) -> None:
        asked, begun = call.asked, call.begun
        link = asked.link
        is_over = False
        payload = _ANSWERED
        try:
            result = self._call(call.message, asked) if begun is None else begun
            payload = result if isinstance(result, bytes) else await self._finish(call.message, asked, result)
            # Where more requests wait their answers leave together.
            if payload != _ANSWERED and not link.send_reply_nowait(payload, at_once=not self._waiting):
                await link.send_reply(payload)
            is_over = True
        except NotConnected:
            # The asker has gone.
            is_over = True
        finally:
            self._left(call)
            if not is_over:
                # Cancelled, at the handler or while the answer waited for room: nobody serves it any more.
                if payload != _ANSWERED:
                    asked.reopen()
                asked.refuse(Data.NO_HANDLER)
            if link.is_parting:
                # It may have waited for this only.
                link.flush()

    def _call(self, message: Message, asked: Asked) -> Awaitable[object] | bytes:
        """Call the handler; return the encoded answer, or what has to be awaited for it."""
        try:
            result = self._handler(message)
            # Bytes first: asking an ABC takes longer than the rest.
            if not isinstance(result, bytes) and isinstance(result, Awaitable):
                return result
            return asked.answer(result)
        except (Exception, GeneratorExit):  # noqa: BLE001  # somebody else's code: its asker is told, and no one else
            return self._failed(message, asked)

    async def _finish(self, message: Message, asked: Asked, result: Awaitable[object]) -> bytes:
        try:
            return asked.answer(await result)
        except Exception:  # noqa: BLE001  # as in _call
            return self._failed(message, asked)
        except GeneratorExit as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is None:
                # Not out of the handler: this task itself is thrown away.
                raise
            return self._failed(message, asked)
        except BaseExceptionGroup as group:
            if group.split((Exception, GeneratorExit, trio.Cancelled))[1] is not None:
                # An interrupt.
                raise
            # Of a nursery of the handler's that was cancelled. What failed beside that is the handler's own.
            cancelled, failed = group.split(trio.Cancelled)
            if cancelled is None:
                return self._failed(message, asked)
            if failed is not None:
                self._tell(message)
            raise cancelled from None

    def _failed(self, message: Message, asked: Asked) -> bytes:
        self._tell(message)
        return _ANSWERED if asked.is_answered else asked.encode(Data.HANDLER_FAILED, b"")

    def _tell(self, message: Message) -> None:
        # A peer that knows how to make a handler fail must not decide how much is logged.
        untold = self._lines.take(trio.current_time())
        if untold is not None:
            more = f" (and {untold} times before)" if untold else ""
            _log.exception("the handler of %r failed on %r%s", self.name, message, more)

    def close(self) -> None:
        """No more requests are served; those that wait are told so. What handlers would answer has nowhere to go."""
        self._closed = True
        self._scope.cancel()
        while self._waiting:
            self._drop(self._waiting.popleft())

    def _drop(self, call: _Call) -> None:
        """One that nobody has begun to serve is not served."""
        if isinstance(call.begun, Coroutine):
            call.begun.close()
        elif isinstance(call.begun, bytes):
            # An answer that had no room yet.
            call.asked.reopen()
        self._left(call)
        call.asked.refuse(Data.NO_HANDLER)


# What an application's handler does is its own: Ctrl-C comes there as in the rest of the program.
trio.lowlevel.disable_ki_protection(Service._finish)  # noqa: SLF001  # of this module


class _Call:
    """A request that waits for its handler, or is with it.

    Attributes:
        begun: what a plain function returned, if it has to be awaited or waits for room; else None.
        scope: of the task that serves it; None while it waits.
    """

    __slots__ = ("asked", "begun", "message", "scope", "service")

    def __init__(
        self, service: Service, message: Message, asked: Asked, begun: Awaitable[object] | bytes | None
    ) -> None:
        self.service = service
        self.message = message
        self.asked = asked
        self.begun = begun
        self.scope: trio.CancelScope | None = None

    def cancel(self) -> None:
        """Its asker does not wait for it any more."""
        self.service.cancel(self)


class _Share:
    """What one link has of a service: requests that are served or wait."""

    __slots__ = ("bytes", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.bytes = 0


class Asked:
    """Which request a message is, and whether it was answered: it is, once."""

    __slots__ = ("is_answered", "link", "msg_id")

    def __init__(self, link: Connection, msg_id: int) -> None:
        self.link = link
        self.is_answered = False
        self.msg_id = msg_id
        link.unanswered += 1

    def answer(self, result: object) -> bytes:
        """Return the payload of the answer that a handler's result is; `_ANSWERED` if it gave one itself.

        Raises:
            ConfigError: the result is no body.
            PayloadTooLarge: it does not fit a frame.
        """
        if self.is_answered:
            return _ANSWERED
        body = result if type(result) is bytes else encode_body(result)
        link = self.link
        if len(body) > link.answer_bytes_max:
            raise PayloadTooLarge(f"an answer of {len(body)} bytes; {link.answer_bytes_max} fit a frame")
        self.is_answered = True
        link.unanswered -= 1
        return encode_data(b"", self.msg_id, Data.OK, body)

    def encode(self, status: int, body: bytes) -> bytes:
        """Return the payload of the answer. After that there is no other."""
        if not self.is_answered:
            self.is_answered = True
            self.link.unanswered -= 1
        return encode_data(b"", self.msg_id, status, body)

    def reopen(self) -> None:
        """The answer that was encoded was not sent after all: there may be another."""
        if self.is_answered:
            self.is_answered = False
            self.link.unanswered += 1

    def refuse(self, status: int) -> None:
        """Answer with a status, at once, unless there was an answer."""
        if not self.is_answered:
            self.link.send_status(self.encode(status, b""))
