"""A WebSocket connection, over TLS or not, as a `LinkStream`: bytes in, bytes out, the borders of messages ignored.

It owns a TCP stream, and turns bytes with two machines that know no sockets: `TlsPump` and wsproto, the protocol behind
trio-websocket. trio-websocket itself needs a task per connection that reads ahead, in a nursery that somebody keeps for
it; here the task that reads the link does all of it, so backpressure, deadlines and cancellation are those of TCP.

How it moves:

- The **handshake** (TLS, then HTTP) is made by whoever first sends or receives. The accepting side is handed to its
  link at once, like a TCP connection, and has that link's slot and deadlines while it shakes hands.
- **Out** is one buffer: every byte that was framed and encrypted stays in it until the socket took it. A send that is
  cancelled half way leaves the rest to the next one, and no frame is torn.
- **In**: payloads are taken as they come, without waiting for the end of a frame. A ping is answered with the next free
  moment of the sending side, and of several only the last; no peer can make answers pile up.
- The **end** is clean only after a Close frame. A stream that ends without one is broken, as a TCP reset is.
"""

from __future__ import annotations

import ssl
from typing import Final

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
)
from wsproto.utilities import ProtocolError, RemoteProtocolError

from p2p.ids import PeerEndpoint
from p2p.limits import Limits
from p2p.transport.base import LinkStream, receive_size
from p2p.transport.tcp_stream import CHUNKS_PER_CHECKPOINT, TcpStream
from p2p.transport.tls import TlsPump

FRAME_BYTES: Final = 64 * 1024
"""What one message carries at most: a write of the link."""
OUT_BYTES_MAX: Final = 4 * FRAME_BYTES
"""What may wait to be sent although nobody sends: answers that TLS makes by itself. More is an attack."""

_GOING: Final = frozenset({1000, 1001, 1005})
"""Close codes of an end in order: done, going away, no code given."""


class Refused(Exception):
    """The other side answered, and did not open a WebSocket."""


class WebSocketStream(LinkStream):
    """One connection. The dialling side is given the host to ask for, the accepting side None.

    Args:
        wire: the TCP stream; owned from here on.
        tls: the TLS of this connection, None for plain `ws://`.
        host: the Host header of the request; None accepts a request.
        limits: `ws_handshake_bytes_max` and `ws_close_s_max` are used.
    """

    __slots__ = (
        "_at_hand", "_closed", "_ended", "_failure", "_handshake_bytes", "_host", "_in", "_is_open", "_limits", "_out",
        "_pong", "_receiving", "_remote", "_sending", "_shaking", "_tls", "_wire", "_ws",
    )  # fmt: skip

    def __init__(
        self, wire: TcpStream, tls: TlsPump | None, host: str | None, *, remote: PeerEndpoint | None, limits: Limits
    ) -> None:
        self._wire = wire
        self._tls = tls
        self._host = host
        self._remote = remote
        self._limits = limits
        self._ws = WSConnection(ConnectionType.SERVER if host is None else ConnectionType.CLIENT)
        self._in = bytearray()
        self._out = bytearray()
        self._pong: bytes | None = None
        self._shaking = trio.Lock()
        self._handshake_bytes = 0
        self._is_open = False
        self._ended = False
        self._failure: Exception | None = None
        self._closed = False
        self._sending = False
        self._receiving = False
        self._at_hand = CHUNKS_PER_CHECKPOINT - 1
        if host is not None and tls is not None:
            tls.begin()
            self._out += tls.data_to_send()
        elif host is not None:
            self._queue(Request(host=host, target="/"))

    @property
    def remote(self) -> PeerEndpoint | None:
        return self._remote

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._is_open else "shaking hands"
        return f"<WebSocketStream {self._remote} {state}>"

    # The handshake.

    async def shake_hands(self) -> None:
        """Make the handshake, unless another task made it meanwhile. Cancelled, it can be gone on with.

        Raises:
            Refused, ssl.SSLError: as the cause of `trio.BrokenResourceError`, where the dialling side wants to know.
            trio.BrokenResourceError: it failed.
        """
        async with self._shaking:
            while not self._is_open:
                self._check_usable()
                await self._flush()
                self._feed(await self._wire.receive_some(self._limits.ws_handshake_bytes_max))
            await self._flush()

    # Receiving.

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size = receive_size(max_bytes)
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            return await self._receive(size)
        finally:
            self._receiving = False

    async def receive_chunk(self, max_bytes: int | None = None) -> bytes:
        if self._at_hand == 0 or not self._in or self._receiving or self._closed:
            self._at_hand = CHUNKS_PER_CHECKPOINT - 1
            return await self.receive_some(max_bytes)
        self._at_hand -= 1
        return self._take(receive_size(max_bytes))

    async def _receive(self, size: int) -> bytes:
        self._check_open()
        if not self._is_open:
            await self.shake_hands()
        while not self._in:
            self._check_open()
            if self._ended:
                return b""
            if self._failure is not None:
                raise trio.BrokenResourceError(str(self._failure)) from self._failure
            self._feed(await self._wire.receive_chunk())
            self._answer()
        self._check_open()
        return self._take(size)

    def _take(self, size: int) -> bytes:
        data = bytes(self._in[:size])
        del self._in[:size]
        return data

    def _feed(self, data: bytes | bytearray) -> None:
        """Take what came from the wire; b"" is its end. What is wrong with it is kept and ends this stream alone."""
        try:
            plain: bytes | bytearray = data
            is_over = not data
            if self._tls is not None:
                was_shaken = self._tls.is_shaken
                plain = self._tls.receive(data)
                is_over = self._tls.is_over
                if self._tls.is_shaken and not was_shaken and self._host is not None:
                    self._queue(Request(host=self._host, target="/"))
            if plain and not self._ended:
                self._take_frames(plain)
            if is_over and not self._ended:
                self._fail(EOFError("the connection ended without a Close"))
        except Exception as error:  # noqa: BLE001  # two libraries and any bytes: whatever they trip over is the peer's
            self._fail(error)
        if self._tls is not None:
            self._out += self._tls.data_to_send()
        if len(self._out) > OUT_BYTES_MAX:
            self._fail(Refused("it makes us answer and does not read the answers"))

    def _take_frames(self, data: bytes | bytearray) -> None:
        if not self._is_open:
            self._handshake_bytes += len(data)
            if self._handshake_bytes > self._limits.ws_handshake_bytes_max:
                raise Refused(f"more than {self._limits.ws_handshake_bytes_max} bytes of handshake")
        try:
            self._ws.receive_data(bytes(data))
        except RemoteProtocolError as error:
            if self._host is None and error.event_hint is not None:
                self._queue(error.event_hint)
            raise
        for event in self._ws.events():
            self._handle(event)

    def _handle(self, event: Event) -> None:
        if isinstance(event, BytesMessage):
            self._in += event.data
        elif isinstance(event, Ping):
            self._pong = bytes(event.payload)
        elif isinstance(event, Pong | RejectData):
            pass
        elif isinstance(event, AcceptConnection):
            self._is_open = True
        elif isinstance(event, Request):
            self._judge(event)
        elif isinstance(event, RejectConnection):
            raise Refused(f"it answered HTTP {event.status_code} where a WebSocket was asked for")
        elif isinstance(event, CloseConnection) and event.code in _GOING:
            self._ended = True
            self._queue(event.response())
        elif isinstance(event, CloseConnection):
            raise Refused(f"it closed with code {int(event.code)} {event.reason or ''}".rstrip())
        else:
            raise Refused("a text message, where all are binary")

    def _judge(self, request: Request) -> None:
        # Browsers always say which page opens a WebSocket, and no page has business here: it could reach a node
        # that listens on loopback for programs of this machine only.
        if any(name == b"origin" for name, _ in request.extra_headers):
            self._queue(RejectConnection(status_code=403))
            raise Refused("a web page asked for the connection")
        self._queue(AcceptConnection())
        self._is_open = True

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error

    def _answer(self) -> None:
        """Send what is due although nobody sends, as far as it goes without waiting."""
        if self._sending or self._shaking.locked():
            return
        if not self._out:
            self._queue_pong()
        if self._out:
            del self._out[: self._wire.send_nowait(self._out)]

    # Sending.

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            self._check_open()
            if not self._is_open:
                await self.shake_hands()
            with memoryview(data) as view, view.cast("B") as octets:
                for start in range(0, len(octets), FRAME_BYTES):
                    await self._flush()
                    self._check_usable()
                    self._queue_pong()
                    self._queue(BytesMessage(bytes(octets[start : start + FRAME_BYTES])))
            await self._flush()
            while self._queue_pong():  # what came meanwhile could not be answered by who received it
                await self._flush()
            self._check_usable()
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            self._check_open()
            if not self._is_open:
                await self.shake_hands()
            await self._wire.wait_send_all_might_not_block()
            await self._flush()
        finally:
            self._sending = False

    def _begin_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True

    async def _flush(self) -> None:
        while self._out:
            sent = self._wire.send_nowait(self._out)
            del self._out[:sent]
            if not sent:
                # One byte waits for room, tells a broken connection, and cannot be cancelled half way.
                await self._wire.send_all(self._out[:1])
                del self._out[:1]

    def _queue(self, event: Event) -> None:
        data = self._ws.send(event)
        if self._tls is not None:
            self._tls.encrypt(data)
            data = self._tls.data_to_send()
        self._out += data

    def _queue_pong(self) -> bool:
        if self._pong is None or self._ended or self._failure is not None:
            return False
        self._queue(Pong(self._pong))
        self._pong = None
        return True

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")

    def _check_usable(self) -> None:
        self._check_open()
        if self._failure is not None:
            self._answer_refusal()
            raise trio.BrokenResourceError(str(self._failure)) from self._failure
        if self._ended:
            raise trio.BrokenResourceError("the other side closed the connection")

    def _answer_refusal(self) -> None:
        """An HTTP answer or a TLS alert that says why, if it goes without waiting."""
        if self._out and not self._is_open:
            del self._out[: self._wire.send_nowait(self._out)]

    # Ending.

    def abort(self) -> None:
        self._closed = True
        self._wire.abort()

    async def aclose(self) -> None:
        """Say Close and let the connection go; what was sent before is delivered. Waits `ws_close_s_max` at most."""
        is_in_order = self._is_open and not (self._closed or self._sending or self._out or self._failure)
        self._closed = True
        try:
            if is_in_order:
                self._queue_end()
                with trio.move_on_after(self._limits.ws_close_s_max):
                    await self._flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # gone meanwhile: that, too, is an end
        finally:
            await self._wire.aclose()

    def _queue_end(self) -> None:
        try:
            if not self._ended:
                self._queue(CloseConnection(code=1000))
            if self._tls is not None:
                self._tls.finish()
                self._out += self._tls.data_to_send()
        except (ProtocolError, ssl.SSLError):
            self._out.clear()
