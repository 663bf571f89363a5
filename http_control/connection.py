"""One connection of a client, contained: whatever it sends, and whatever goes wrong, ends this connection only.

hypercorn does the HTTP; this module changes what was found wanting in how 0.18 treats a trio stream (its names are used
that are not public, hence the upper bound on its version):

- an exception of a connection left its task and ended the whole server: it is caught here and counted;
- a client that stops reading held a shielded send for ever: a send is bounded in time, and can be cancelled;
- closing, and the return to idle, ran in a scope that was cancelled already, so that `Connection: close` and HTTP/1.0
  stayed open and an idle connection had no deadline: both are shielded here, and bounded;
- the upgrades to HTTP/2 (h2c) and WebSocket are not offered: nothing here needs them, and most of the fatal connections
  came through them;
- what a proxy before us could read in another way is refused and ends the connection: two lengths of one body, a line
  that ends without CR or goes on in the next one, a method in lower case, a name of ours that is none (RFC 9112,
  sections 2.2, 3.1, 3.2, 5.2 and 6.1);
- bytes after a request that ends the connection, or a client that ends its direction, cut off the answer under way, or
  changed it into a 400: it goes out whole;
- who asks before sending a body (`Expect: 100-continue`) was told to go on before anybody had looked at the header: an
  answer that needs no body has a moment to come first (RFC 9110, section 10.1.1).
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, Final, cast

import h11
import trio
from h11._receivebuffer import ReceiveBuffer
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from http_control.limits import HttpLimits
from http_control.problem import problem_of, too_large

if TYPE_CHECKING:
    from hypercorn.config import Config
    from hypercorn.trio.worker_context import WorkerContext
    from hypercorn.typing import AppWrapper, LifespanState

_log = logging.getLogger("p2p.http")

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError, OSError)

PORT_MAX: Final = 65_535
_HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[\w-]{1,63}(?:\.[\w-]{1,63})*\.?)(?::([0-9]{0,5}))?", re.ASCII)
"""An address or a name, and a port's digits. What maps names to sites fails on labels that are empty or too long."""


class _StrictLines(ReceiveBuffer):
    """h11's buffer, but header lines end with CR LF, and not with LF alone, and each is one line."""

    def __init__(self) -> None:
        super().__init__()
        self._taken = bytearray()

    def _extract(self, count: int) -> bytearray:
        self._taken = super()._extract(count)
        return self._taken

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """A whole header, once it has come."""
        lines = super().maybe_extract_lines()
        if lines is not None and self._taken.count(b"\n") != self._taken.count(b"\r\n"):
            raise h11.LocalProtocolError("a header line that ends without CR")
        if any(line.startswith((b" ", b"\t")) for line in lines or ()):
            raise h11.LocalProtocolError("a header line that goes on in the next one")
        return lines


class PlainH11(H11Protocol):
    """HTTP/1.0 and 1.1, without upgrades, and with JSON where hypercorn answers with an empty body.

    Args:
        limits: `body_bytes_max`: more than that is refused before the client is told to go on; `continue_after_s`.
    """

    def __init__(self, *args: Any, limits: HttpLimits) -> None:
        super().__init__(*args)
        self._limits = limits
        self._is_whole = False
        connection = cast("h11.Connection", self.connection)
        connection._receive_buffer = _StrictLines()  # noqa: SLF001  # hence the bound on h11's version

    async def _handle_events(self) -> None:
        """Take what has come. No upgrade is taken: that header is ignored, as RFC 9110 (section 7.8) allows."""
        while True:
            try:
                event = self.connection.next_event()
            except h11.RemoteProtocolError as error:
                if self.stream is not None and (self._is_whole or self.connection.our_state is h11.SEND_BODY):
                    # It came after what is being answered.
                    await self.until_answered()
                elif self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                    await self._send_error_response(error.error_status_hint)
                await self.send(Closed())
                return
            if isinstance(event, h11.Request):
                self._is_whole = False
                await self.send(Updated(idle=False))
                await self._create_stream(event)
                if self.connection.they_are_waiting_for_100_continue:
                    self.task_group.spawn(self._tell_to_go_on)
            elif event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed) or self.stream is None:
                # Without a request under way, what is left is of a connection that ends: the server stops.
                return
            elif event is h11.PAUSED:
                await self.until_answered()
            elif isinstance(event, h11.Data):
                await self.stream.handle(Body(stream_id=STREAM_ID, data=bytes(event.data)))
            elif isinstance(event, h11.EndOfMessage):
                self._is_whole = True
                await self.stream.handle(EndBody(stream_id=STREAM_ID))

    async def until_answered(self) -> None:
        """Wait until no request is under way; for the task that reads."""
        while self.stream is not None:
            await self.can_read.clear()
            await self.can_read.wait()

    async def _tell_to_go_on(self) -> None:
        await trio.sleep(self._limits.continue_after_s)
        if self.connection.they_are_waiting_for_100_continue:
            headers = self.config.response_headers("h11")
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=headers))

    async def _create_stream(self, request: h11.Request) -> None:
        size = len(request.target) + sum(len(name) + len(value) for name, value in request.headers)
        refusal = None
        if request.http_version not in {b"1.0", b"1.1"}:
            refusal = 505
        elif size > self.config.h11_max_incomplete_size:
            # h11 looks at the size of what is incomplete only: a header that comes in one piece gets past it.
            refusal = 431
        elif not request.target.startswith(b"/") or request.method != request.method.upper():
            # The forms for proxies and for the server as a whole: nothing here is asked for by them, and what Quart
            # makes of an empty path is an exception. And a method that it takes for another one.
            refusal = 400
        else:
            refusal = self._refusal_of(request)
        if refusal is not None:
            await self.refuse(refusal)
            return
        self.stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii"),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1

    def _refusal_of(self, request: h11.Request) -> int | None:
        """The status of a request whose header must not be believed; None for any other."""
        headers = dict(request.headers)
        if b"transfer-encoding" in headers and (b"content-length" in headers or request.http_version == b"1.0"):
            return 400
        host = headers.get(b"host", b"")
        if host and not ((found := _HOST.fullmatch(host)) and int(found[1] or 0) <= PORT_MAX):
            return 400
        # h11 has checked that it is a number, of 20 digits at most.
        return 413 if int(headers.get(b"content-length", b"0")) > self._limits.body_bytes_max else None

    @property
    def is_header_under_way(self) -> bool:
        """Whether a part of a request's header has come, and no more."""
        return self.stream is None and self.connection.our_state is h11.IDLE and bool(self.connection.trailing_data[0])

    async def refuse(self, status: int) -> None:
        """Answer what has not become a request with an error, and end the connection."""
        await self._send_error_response(status)
        await self.send(Closed())

    async def _send_error_response(self, status_code: int) -> None:
        problem = too_large(self._limits.body_bytes_max) if status_code == 413 else problem_of(status_code)
        body = problem.body()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class Connection(TCPServer):
    """One accepted stream and the requests on it."""

    protocol: PlainH11  # type: ignore[assignment]  # hypercorn's wrapper exists to switch to HTTP/2
    stream: Stream  # type: ignore[assignment]  # it takes both kinds

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        state: LifespanState,
        stream: Stream,
        limits: HttpLimits,
    ) -> None:
        super().__init__(app, config, context, state, stream)  # type: ignore[arg-type]  # as above
        self._limits = limits
        self._scope = trio.CancelScope()
        self._reading = trio.CancelScope()
        self._is_closing = False
        self._idle_since: float | None = trio.current_time()
        self._asked_since = trio.current_time()
        self._sending_since: float | None = None

    def yields(self, now: float) -> tuple[int, float] | None:
        """See `places.Guest`."""
        if self._is_closing:
            return (0, 0.0)
        if self._idle_since is not None:
            return (1, self._idle_since)
        if self._sending_since is not None:
            awaited_since = self._sending_since
        elif self._theirs is h11.SEND_BODY:
            awaited_since = self._asked_since
        else:
            # It waits for us, and not we for it.
            return None
        return (2, awaited_since) if now - awaited_since >= self._limits.give_way_s else None

    def abort(self) -> None:
        """End it without another word."""
        self._scope.cancel()

    async def run(self) -> None:
        """Serve the connection to its end. Raises nothing but Cancelled."""
        try:
            with self._scope:
                await self._serve()
        except* Exception as group:  # noqa: BLE001  # whatever a stranger provoked ends his connection, and no more
            _log.debug("a connection ended with %r", group.exceptions[0])
        finally:
            await self._close()

    async def _serve(self) -> None:
        is_tls = isinstance(self.stream, trio.SSLStream)
        if isinstance(self.stream, trio.SSLStream):
            with trio.move_on_after(self._limits.tls_s_max) as handshake:
                try:
                    await self.stream.do_handshake()
                except _GONE:
                    return
            if handshake.cancelled_caught:
                return
            socket = self.stream.transport_stream.socket
        else:
            socket = self.stream.socket
        client = parse_socket_addr(socket.family, socket.getpeername())
        server = parse_socket_addr(socket.family, socket.getsockname())
        async with TaskGroup() as task_group:
            self._task_group = task_group
            self.protocol = PlainH11(
                self.app,
                self.config,
                self.context,
                task_group,
                ConnectionState(self.state),
                is_tls,
                client,
                server,
                self.protocol_send,
                limits=self._limits,
            )
            await self.idle_task.restart(task_group, self._idle_timeout)
            await self._read_data()

    async def _read_data(self) -> None:
        has_ended = False
        with self._reading:
            while not has_ended:
                try:
                    data = bytes(await self.stream.receive_some(self._limits.write_bytes))
                except _GONE:
                    break
                has_ended = not data
                if not self._is_closing:
                    await self.protocol.handle(RawData(data))
        if has_ended:
            # Of its direction; it may still read, and gets what does not take long.
            with trio.move_on_after(self._limits.linger_s_max):
                await self.protocol.until_answered()
        await self.idle_task.stop()
        await self.protocol.handle(Closed())

    async def protocol_send(self, event: Event) -> None:
        """Do what the protocol asks of the stream. What ends or rests the connection cannot be cancelled half-way."""
        if isinstance(event, RawData):
            await self._send(event.data)
        elif isinstance(event, Closed):
            with trio.move_on_after(self._limits.close_s_max, shield=True):
                await self._say_end()
            await self.protocol.handle(Closed())
        elif isinstance(event, Updated):
            with trio.CancelScope(shield=True):
                self._idle_since = trio.current_time() if event.idle else None
                self._asked_since = trio.current_time()
                if event.idle:
                    await self.idle_task.restart(self._task_group, self._idle_timeout)
                else:
                    await self.idle_task.stop()

    async def _send(self, data: bytes) -> None:
        async with self.send_lock:
            for start in range(0, len(data), self._limits.write_bytes):
                self._sending_since = trio.current_time()
                with trio.move_on_after(self._limits.write_stall_s_max) as patience:
                    try:
                        await self.stream.send_all(data[start : start + self._limits.write_bytes])
                    except _GONE:
                        self.abort()
                if patience.cancelled_caught:
                    self.abort()
            self._sending_since = None

    async def _say_end(self) -> None:
        """Close our direction, and let the reading end soon."""
        self._is_closing = True
        self._reading.deadline = min(self._reading.deadline, trio.current_time() + self._limits.linger_s_max)
        try:
            if not isinstance(self.stream, trio.SSLStream):
                await self.stream.send_eof()
            elif self._is_all_read():
                await self.stream.aclose()
            else:
                # TLS has no half-close; that of TCP serves as well, since every answer says where it ends.
                await self.stream.transport_stream.send_eof()
        except _GONE:
            self.abort()

    def _is_all_read(self) -> bool:
        """Whether the client has sent what it had to send: closing then resets nothing."""
        return self._theirs in {h11.DONE, h11.MUST_CLOSE, h11.CLOSED}

    @property
    def _theirs(self) -> object:
        """What the client is at, in h11's words."""
        return cast("h11.Connection", self.protocol.connection).their_state

    async def _close(self) -> None:
        with trio.move_on_after(self._limits.close_s_max, shield=True):
            try:
                await self.stream.aclose()
            except _GONE:
                return
        await trio.aclose_forcefully(self.stream)

    async def _idle_timeout(self) -> None:
        with trio.move_on_after(self._limits.header_s_max) as patience:
            await self.context.terminated.wait()
        if patience.cancelled_caught and self.protocol.is_header_under_way:
            self._is_closing = True
            await self.protocol.refuse(408)
            # What still comes is read for a moment, so that it does not take the answer away.
            return
        self.abort()
