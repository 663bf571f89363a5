"""A WebSocket connection of trio-websocket, over TLS or not, as a `LinkStream`: bytes in, bytes out, no messages.

Each connection has one task, in the nursery that the network was given. It makes the handshake (TLS, then HTTP) and is
where trio-websocket's reader runs; whatever that raises ends this stream and nothing else. It starts with the first use
of the stream: an accepted connection is handed to its link at once, like one of TCP, and shakes hands in the time and
on the slot of that link.

What trio-websocket leaves to us:

- Its reader takes one message ahead, and what it waits for is bounded by `Metered`.
- A **send that is cancelled half way** leaves a torn frame, as it leaves a torn record in `trio.SSLStream`. No frame
  may follow it, so the connection is cut.
- The **end** is clean only after a Close frame. A stream that ends without one is broken, as a TCP reset is.
- Closing waits for the other side's Close, `ws_close_s_max` at the most: until then bytes may be under way that a
  reset would destroy.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any, Final, Never

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream, wrap_server_stream

from p2p.ids import PeerEndpoint
from p2p.limits import Limits
from p2p.transport.base import LinkStream, RulesBroken, receive_size
from p2p.transport.metered import REQUEST, Metered
from p2p.transport.tcp_stream import CHUNKS_PER_CHECKPOINT, TcpStream

# Its reader is a task in our nursery; an interrupt there would end the node under its program.
trio.lowlevel.enable_ki_protection(WebSocketConnection._reader_task)  # noqa: SLF001  # there is no other hold on it

FRAME_BYTES: Final = 64 * 1024
"""What one message carries at most: a write of the link."""

_IDLE_MESSAGES: Final = 4
"""The reader has one message waiting, one in hand and one that is coming before a receiver shows up, and some pings."""
_GOING: Final = frozenset({1000, 1001, 1005})
"""Close codes of an end in order: done, going away, no code given."""
_RULES: Final = frozenset({1002, 1003, 1007, 1009})
"""Codes of a Close, of either side, for what may not be sent: no protocol, no such type, no text, too long."""
_NO_CLOSE: Final = 1006
"""What trio-websocket says of a stream that ended without a Close."""


class Refused(Exception):
    """The other side answered, and did not open a WebSocket."""


class _Foreign(Refused):
    """It broke the rules of WebSocket, or ours for it."""


class WebSocketStream(LinkStream):
    """One connection. The dialling side is given the host to ask for, the accepting side None.

    Args:
        wire: the TCP stream; owned from here on.
        nursery: where the connection's task runs.
        context: the TLS of this connection, None for plain `ws://`.
        host: the host that is dialled: whom a certificate must name.
        host_header: the Host of the request; None accepts a request.
        remote: where the other side is.
        limits: `ws_…`.
    """

    __slots__ = (
        "_at_hand", "_closed", "_context", "_failure", "_host", "_host_header", "_in", "_is_over", "_limits", "_meter",
        "_nursery", "_receiving", "_remote", "_scope", "_sending", "_shaken", "_started", "_wire", "_ws",
    )  # fmt: skip

    def __init__(
        self,
        wire: TcpStream,
        nursery: trio.Nursery,
        context: ssl.SSLContext | None,
        *,
        host: str | None = None,
        host_header: str | None = None,
        remote: PeerEndpoint | None,
        limits: Limits,
    ) -> None:
        self._wire = wire
        self._nursery = nursery
        self._context = context
        self._host = host
        self._host_header = host_header
        self._remote = remote
        self._limits = limits
        self._ws: WebSocketConnection | None = None
        self._meter: Metered | None = None
        self._scope = trio.CancelScope()
        self._started = False
        self._shaken = trio.Event()
        self._is_over = False
        self._failure: Exception | None = None
        self._closed = False
        self._sending = False
        self._receiving = False
        self._in = bytearray()
        self._at_hand = CHUNKS_PER_CHECKPOINT - 1

    @property
    def remote(self) -> PeerEndpoint | None:
        return self._remote

    @property
    def is_answered(self) -> bool:
        """Whether anything was said to the handshake, in whatever protocol."""
        return self._meter is not None and self._meter.has_heard

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._ws is not None else "shaking hands"
        return f"<WebSocketStream {self._remote} {state}>"

    # The connection's task.

    async def shake_hands(self) -> None:
        """Wait for the handshake, which the first call begins. Cancelled, it goes on without us.

        Raises:
            Refused, ssl.SSLError: as the cause of `trio.BrokenResourceError`, where the dialling side wants to know.
            trio.BrokenResourceError: it failed.
        """
        if not self._started and not self._closed:
            self._started = True
            try:
                self._nursery.start_soon(self._carry, name=f"WebSocket {self._remote}")
            except RuntimeError:  # the nursery is closed
                self._fail(Refused("the network that carries it has ended"))
                self._shaken.set()
        await self._shaken.wait()
        if self._ws is None:
            self._check_open()
            self._raise_broken()

    @trio.lowlevel.enable_ki_protection
    async def _carry(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._ws = await self._open(nursery)
                    self._shaken.set()
        except* Exception as group:  # noqa: BLE001  # three libraries and any bytes: whatever they trip over is the peer's
            self._fail(_first(group))
        finally:
            self._is_over = True
            self._shaken.set()
            await self._wire.aclose()

    async def _open(self, nursery: trio.Nursery) -> WebSocketConnection:
        below: trio.abc.Stream = self._wire
        if self._context is not None:
            over_tls = trio.SSLStream(
                self._wire,
                self._context,
                server_hostname=self._host,
                server_side=self._host_header is None,
                https_compatible=True,  # the end is told by Close
            )
            try:
                await over_tls.do_handshake()
            except trio.BrokenResourceError as error:
                raise _cause(error) from None
            below = over_tls
        limits, waiting = self._limits, trio.CancelScope()
        self._meter = meter = Metered(
            below,
            head_bytes_max=limits.ws_handshake_bytes_max,
            idle_bytes_max=_IDLE_MESSAGES * limits.ws_message_bytes_max,
            idle_frames_max=limits.ws_idle_frames_max,
            begins_with=REQUEST if self._host_header is None else b"",
            on_end=waiting.cancel,
        )
        try:
            with waiting:
                return await self._upgrade(nursery, meter)
        finally:
            if meter.status not in {None, 101}:
                self._fail(Refused(f"it answered HTTP {meter.status} where a WebSocket was asked for"))
            elif meter.is_tls:
                self._fail(Refused("TLS is spoken there: a door with a certificate is dialled with wss://"))
        raise meter.failure or EOFError("the other side ended the handshake")

    async def _upgrade(self, nursery: trio.Nursery, meter: Metered) -> WebSocketConnection:
        bytes_max = self._limits.ws_message_bytes_max
        # The annotation there names two kinds of streams; any does.
        stream: Any = meter
        if self._host_header is not None:
            return await wrap_client_stream(
                nursery, stream, self._host_header, "/", max_message_size=bytes_max, receive_buffer_size=FRAME_BYTES
            )
        request = await wrap_server_stream(nursery, stream, max_message_size=bytes_max, receive_buffer_size=FRAME_BYTES)
        # Browsers always say which page opens a WebSocket, and no page has business here: it could reach a node
        # that listens on loopback for programs of this machine only.
        if any(name.lower() == b"origin" for name, _ in request.headers):
            await request.reject(403)
            raise Refused("a web page asked for the connection")
        return await request.accept()

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error

    def _cut(self, error: Exception) -> None:
        self._fail(error)
        self._scope.cancel()
        self._wire.abort()

    def _raise_broken(self, closed: ConnectionClosed | None = None) -> Never:
        why, reason = self._failure, closed.reason if closed is not None else None
        if why is None and reason is not None and reason.code in _GOING:
            why = Refused("the other side closed the connection")
        elif why is None and reason is not None and reason.code != _NO_CLOSE:
            kind = _Foreign if reason.code in _RULES else Refused
            why = kind(f"it was closed with code {reason.code} {reason.reason or ''}".rstrip())
        elif why is None:
            failed = self._meter.failure if self._meter is not None else None
            why = failed or EOFError("the connection ended without a Close")
        broken = RulesBroken if isinstance(why, _Foreign) else trio.BrokenResourceError
        raise broken(str(why)) from why

    # Receiving.

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        size = receive_size(max_bytes)
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            return await self._receive(size)
        finally:
            self._receiving = False

    async def receive_chunk(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._at_hand == 0 or not self._in or self._receiving or self._closed:
            self._at_hand = CHUNKS_PER_CHECKPOINT - 1
            return await self.receive_some(max_bytes)
        self._at_hand -= 1
        return self._take(receive_size(max_bytes))

    async def _receive(self, size: int) -> bytes:
        self._check_open()
        if self._ws is None:
            await self.shake_hands()
        while not self._in:
            message = await self._next_message()
            self._check_open()
            if message is None:
                return b""
            if len(message) <= size and message:
                return message
            self._in += message
        self._check_open()
        return self._take(size)

    async def _next_message(self) -> bytes | None:
        """The next message; None at the end."""
        assert self._ws is not None
        assert self._meter is not None
        try:
            message = await self._ws.get_message()
        except ConnectionClosed as closed:
            self._check_open()
            if self._failure is None and closed.reason is not None and closed.reason.code in _GOING:
                return None
            self._raise_broken(closed)
        if message:
            # An empty one brings nothing, and costs as much to read as any.
            self._meter.progress()
        if isinstance(message, str):
            self._cut(_Foreign("a text message, where all are binary"))
            self._raise_broken()
        return message

    def _take(self, size: int) -> bytes:
        data = bytes(self._in[:size])
        del self._in[:size]
        return data

    # Sending.

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            self._check_open()
            if self._ws is None:
                await self.shake_hands()
            with memoryview(data) as view, view.cast("B") as octets:
                for start in range(0, len(octets), FRAME_BYTES):
                    await self._send(bytes(octets[start : start + FRAME_BYTES]))
        finally:
            self._sending = False

    async def _send(self, message: bytes) -> None:
        assert self._ws is not None
        try:
            await self._ws.send_message(message)
        except ConnectionClosed as closed:
            self._check_open()
            self._raise_broken(closed)
        except Exception as error:  # noqa: BLE001  # wsproto's, which refuses to send after an end
            self._check_open()
            self._fail(error)
            self._raise_broken()
        except BaseException:
            self._cut(Refused("a message was cut off: its sending was cancelled"))
            raise

    async def wait_send_all_might_not_block(self) -> None:
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            self._check_open()
            if self._ws is None:
                await self.shake_hands()
            assert self._meter is not None
            await self._meter.wait_send_all_might_not_block()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._check_open()
            self._raise_broken()
        finally:
            self._sending = False

    def _begin_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")

    # Ending.

    def abort(self) -> None:
        self._closed = True
        self._scope.cancel()
        self._shaken.set()
        self._wire.abort()

    async def aclose(self) -> None:
        """Say Close, wait for the other's, and let the connection go; `ws_close_s_max` at most.

        Cancelled, it says Close all the same if there is room for it, and waits for nothing more.
        """
        ws, is_in_order = self._ws, not (self._closed or self._sending or self._is_over or self._failure)
        self._closed = True
        try:
            if ws is not None and is_in_order:
                await self._say_close(ws)
        finally:
            self._scope.cancel()
            self._shaken.set()
            await self._wire.aclose()

    async def _say_close(self, ws: WebSocketConnection) -> None:
        meter = self._meter
        assert meter is not None
        with trio.move_on_after(self._limits.ws_close_s_max, shield=not meter.is_sending) as saying:

            def said() -> None:
                saying.shield = False

            meter.on_sent = said
            with suppress(Exception):  # gone is an end, too
                await ws.aclose()


def _first(group: BaseException) -> Exception:
    """The one exception that a group is about."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    assert isinstance(group, Exception)
    return group


def _cause(error: Exception) -> Exception:
    return error.__cause__ if isinstance(error.__cause__, Exception) else error
