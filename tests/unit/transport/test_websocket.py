"""WebSocket beyond the contract of all transports: other implementations, any bytes, proxies of the mind.

The other side is played by wsproto or by bytes that are put together here, never by what is tested.
"""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, Pong, Request

import p2p
from p2p.errors import ConfigError, ConnectFailed, Reason
from p2p.ids import PeerEndpoint
from p2p.limits import KIB, Limits
from p2p.transport.base import RulesBroken
from p2p.transport.system import SystemNetwork
from p2p.transport.tls import TlsFiles
from p2p.transport.websocket import WebSocketListener, WebSocketNetwork
from p2p.transport.websocket_stream import FRAME_BYTES, WebSocketStream
from tests.certificates import certificates

UPGRADE = (
    b"GET /any/path?x=1 HTTP/1.1\r\nHost: node.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


QUICK = replace(Limits(), ws_close_s_max=0.05)
"""Bytes that are put together here answer no Close."""


@asynccontextmanager
async def network(limits: Limits | None = None, tls: TlsFiles | None = None) -> AsyncIterator[WebSocketNetwork]:
    """A network whose tasks end with the body."""
    it = WebSocketNetwork(limits or QUICK, tls)
    async with trio.open_nursery() as nursery:
        it.enter(nursery)
        yield it
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def listening(limits: Limits | None = None, tls: TlsFiles | None = None) -> AsyncIterator[WebSocketListener]:
    async with network(limits, tls) as it:
        listener = await it.listen("127.0.0.1", 0)
        try:
            yield listener
        finally:
            await listener.aclose()


async def dial(place: PeerEndpoint, limits: Limits | None = None, tls: TlsFiles | None = None) -> None:
    """Dial and be content with the connection."""
    failed = None
    async with network(limits, tls) as it:
        try:
            await (await it.connect(place)).aclose()
        except ConnectFailed as error:
            failed = error
    if failed is not None:
        raise failed


async def serve_echo(listener: WebSocketListener, *, count: int = 1) -> None:
    for _ in range(count):
        stream = await listener.accept()
        async with stream:
            try:
                while data := await stream.receive_some():
                    await stream.send_all(data)
            except trio.BrokenResourceError:
                pass


async def raw_to(listener: WebSocketListener) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", listener.endpoints[0].port)


async def answer_to(listener: WebSocketListener, sent: bytes, *, is_all: bool = False) -> bytes:
    """What a raw client is answered; b"" also for a reset."""
    async with await raw_to(listener) as raw:
        await raw.send_all(sent)
        if is_all:
            await raw.send_eof()
        try:
            return await raw.receive_some()
        except trio.BrokenResourceError:
            return b""


# Other implementations.


class Other:
    """A WebSocket by wsproto alone."""

    def __init__(self, stream: trio.abc.Stream, kind: ConnectionType) -> None:
        self.stream = stream
        self._ws = WSConnection(kind)

    async def say(self, event: Event) -> None:
        await self.stream.send_all(self._ws.send(event))

    async def hear(self) -> list[Event]:
        """What the next bytes say; never empty."""
        while not (events := list(self._ws.events())):
            data = await self.stream.receive_some()
            self._ws.receive_data(data or None)
        return events

    async def hear_until(self, is_enough: Callable[[list[Event]], bool]) -> list[Event]:
        heard: list[Event] = []
        while not is_enough(heard):
            heard += await self.hear()
        return heard


def payload(events: list[Event]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, BytesMessage))


@pytest.mark.parametrize("secure", [False, True])
async def test_another_implementation_talks_with_our_listener(secure: bool) -> None:
    files = certificates("127.0.0.1")
    async with listening(tls=files if secure else None) as listener, trio.open_nursery() as nursery:
        nursery.start_soon(serve_echo, listener)
        stream: trio.abc.Stream = await raw_to(listener)
        if secure:
            context = ssl.create_default_context(cafile=files.ca)
            stream = trio.SSLStream(stream, context, server_hostname="127.0.0.1", https_compatible=True)
        async with stream:
            other = Other(stream, ConnectionType.CLIENT)
            await other.say(Request(host="127.0.0.1", target="/p2p"))
            assert [type(event) for event in await other.hear()] == [AcceptConnection]

            async def say() -> None:
                for message in (b"one", b"", b"x" * 100_000, b"y" * 128 * KIB):
                    await other.say(BytesMessage(message))
                await other.say(Ping(b"are you there"))

            sent = b"one" + b"x" * 100_000 + b"y" * 128 * KIB
            async with trio.open_nursery() as saying:
                saying.start_soon(say)
                heard = await other.hear_until(
                    lambda events: len(payload(events)) == len(sent) and any(isinstance(e, Pong) for e in events)
                )
            assert payload(heard) == sent
            assert max(len(event.data) for event in heard if isinstance(event, BytesMessage)) <= FRAME_BYTES
            assert [bytes(event.payload) for event in heard if isinstance(event, Pong)] == [b"are you there"]
            await other.say(CloseConnection(code=1000))
            [closed] = await other.hear()
            assert isinstance(closed, CloseConnection)
            assert closed.code == 1000


@pytest.mark.parametrize("secure", [False, True])
async def test_we_talk_with_another_implementations_listener(secure: bool) -> None:
    files = certificates("127.0.0.1")
    requests: list[Request] = []
    ends: list[int] = []

    async def serve(stream: trio.abc.Stream) -> None:
        other = Other(stream, ConnectionType.SERVER)
        while not ends:
            for event in await other.hear():
                if isinstance(event, Request):
                    requests.append(event)
                    await other.say(AcceptConnection())
                elif isinstance(event, BytesMessage):
                    await other.say(BytesMessage(event.data, message_finished=event.message_finished))
                elif isinstance(event, CloseConnection):
                    ends.append(event.code)
                    await other.say(event.response())

    [door] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = door.socket.getsockname()[1]
    listener: trio.abc.Listener[Any] = door
    if secure:
        listener = trio.SSLListener(door, files.for_listening(), https_compatible=True)
    async with trio.open_nursery() as nursery, network(tls=TlsFiles(ca=files.ca)) as it:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        stream = await it.connect(PeerEndpoint("127.0.0.1", port, "wss" if secure else "ws"))
        async with stream:
            got = b""
            async with trio.open_nursery() as saying:
                saying.start_soon(stream.send_all, b"y" * 300_000)
                while len(got) < 300_000:
                    got += await stream.receive_some()
            assert got == b"y" * 300_000
        nursery.cancel_scope.cancel()
    assert ends == [1000], "closing waited until it was heard"
    assert [(request.host, request.target) for request in requests] == [(f"127.0.0.1:{port}", "/")]


async def test_a_cancelled_close_says_close_all_the_same() -> None:
    async with listening() as listener:
        raw, stream = await shaken(listener)
        async with raw:
            await trio.aclose_forcefully(stream)
            assert (await raw.receive_some())[:1] == b"\x88"
            assert await raw.receive_some() == b""


# The handshake.


async def test_a_web_page_is_refused_whoever_it_belongs_to() -> None:
    async with listening() as listener, trio.open_nursery() as nursery:
        nursery.start_soon(serve_echo, listener)
        answer = await answer_to(listener, UPGRADE + b"Origin: http://127.0.0.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 403 ")


async def test_t05_other_http_is_answered_and_closed_other_bytes_are_closed() -> None:
    for sent in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 3\r\n\r\nabc",
                 b"\x64VP2P" + bytes(100), b"\x16\x03\x01\x02\x00" + bytes(600), b"\r\n\r\n\r\n"):  # fmt: skip
        async with listening() as listener, trio.open_nursery() as nursery:
            nursery.start_soon(serve_echo, listener)
            answer = await answer_to(listener, sent, is_all=True)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4")


async def test_t06_an_endless_request_is_cut_off() -> None:
    limits = replace(QUICK, ws_handshake_bytes_max=1000)
    async with listening(limits) as listener, trio.open_nursery() as nursery:
        nursery.start_soon(serve_echo, listener)
        async with await raw_to(listener) as raw:
            await raw.send_all(UPGRADE)
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await raw.send_all(b"X-More: " + b"x" * 100 + b"\r\n")
                    await trio.lowlevel.checkpoint()


async def test_a_hostile_host_or_path_ends_one_stream_and_nothing_else() -> None:
    hosts = (b"xn--" + b"\xff" * 40, b"a" * 300, b"")
    async with listening() as listener:
        for host in hosts:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve_echo, listener)
                await answer_to(listener, UPGRADE.replace(b"node.example", host) + b"\r\n", is_all=True)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "HTTP 404"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n", "HTTP 302"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "HTTP 200"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n" + bytes(900_000), "HTTP 200"),
        (b"HTTP/1.1 101 Switching Protocols\r\n" + b"x-more: 1\r\n" * 1000, "too many bytes of handshake"),
        (b"SSH-2.0-OpenSSH\r\n", "no WebSocket came about"),
        (b"\x15\x03\x01\x00\x02\x02\x28", "TLS is spoken there: a door with a certificate is dialled with wss://"),
        (b"", "plain TCP is dialled with tcp://127.0.0.1:"),
    ],
)
async def test_a_dial_that_is_answered_otherwise_says_so(answer: bytes, says: str) -> None:
    async def answer_it(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        with suppress(trio.BrokenResourceError):
            await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        [server] = await nursery.start(lambda task_status: trio.serve_tcp(
            answer_it, 0, host="127.0.0.1", task_status=task_status))  # fmt: skip
        port = server.socket.getsockname()[1]
        with pytest.raises(ConnectFailed, match=says) as caught:
            await dial(PeerEndpoint("127.0.0.1", port, "ws"))
        assert caught.value.reason is Reason.REFUSED
        nursery.cancel_scope.cancel()


async def test_a_dial_that_nobody_answers_ends_in_time() -> None:
    async with listening() as listener:
        limits = replace(Limits(), dial_s_max=0.2)
        with pytest.raises(ConnectFailed) as caught:
            await dial(listener.endpoints[0], limits)
        assert caught.value.reason is Reason.TIMEOUT


# Certificates.


@pytest.mark.parametrize("case", ["unknown authority", "another name"])
async def test_a_certificate_that_is_not_accepted_says_why(case: str) -> None:
    files = certificates("node.example" if case == "another name" else "127.0.0.1")
    ours = TlsFiles(ca=files.ca if case == "another name" else None)
    async with listening(tls=files) as listener, trio.open_nursery() as nursery:
        nursery.start_soon(serve_echo, listener)
        with pytest.raises(ConnectFailed, match="certificate") as caught:
            await dial(listener.endpoints[0], tls=ours)
        assert caught.value.reason is Reason.CRYPTO


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_t49_of_a_name_that_was_judged_the_addresses_are_dialled_and_the_name_is_shown(scheme: str) -> None:
    class NoResolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *_: Any) -> Any:
            raise AssertionError("nobody may ask again where the name leads")

        async def getnameinfo(self, *_: Any) -> Any:
            raise AssertionError

    files = certificates("node.example")
    requests: list[Request] = []

    async def serve(stream: trio.abc.Stream) -> None:
        other = Other(stream, ConnectionType.SERVER)
        requests.extend(event for event in await other.hear() if isinstance(event, Request))
        await other.say(AcceptConnection())
        await other.hear()

    [door] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = door.socket.getsockname()[1]
    listener: trio.abc.Listener[Any] = door
    if scheme == "wss":
        listener = trio.SSLListener(door, files.for_listening(), https_compatible=True)
    trio.socket.set_custom_hostname_resolver(NoResolver())
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            ours, judged = TlsFiles(ca=files.ca), ("127.0.0.1",)
            await dial(PeerEndpoint("node.example", port, scheme, judged=judged), tls=ours)
            if scheme == "wss":
                with pytest.raises(ConnectFailed, match="certificate"):
                    await dial(PeerEndpoint("evil.example", port, scheme, judged=judged), tls=ours)
            nursery.cancel_scope.cancel()
    finally:
        trio.socket.set_custom_hostname_resolver(None)
    assert [request.host for request in requests] == [f"node.example:{port}"]


async def test_tls_is_not_spoken_where_it_is_not_expected() -> None:
    async with listening() as listener, trio.open_nursery() as nursery:
        nursery.start_soon(serve_echo, listener)
        with pytest.raises(ConnectFailed, match="dialled with ws://"):
            await dial(replace(listener.endpoints[0], scheme="wss"))


async def test_a_door_with_a_certificate_that_closes_on_what_is_no_tls_is_told_how_to_dial() -> None:
    async with listening(tls=certificates("127.0.0.1")) as listener, trio.open_nursery() as nursery:
        nursery.start_soon(serve_echo, listener)
        with pytest.raises(ConnectFailed, match=r"a door with a certificate with wss://127\.0\.0\.1:\d+\)"):
            await dial(replace(listener.endpoints[0], scheme="ws"))


async def test_who_speaks_another_protocol_to_the_door_is_told_at_once_what_is_spoken_here() -> None:
    async with listening(Limits()) as listener, trio.open_nursery() as nursery:
        nursery.start_soon(serve_echo, listener)
        answer = await answer_to(listener, b"\x64VP2P" + bytes(100), is_all=False)
        assert answer.startswith(b"HTTP/1.1 400 ")


async def test_files_that_cannot_be_used_are_named(tmp_path: Any) -> None:
    (tmp_path / "junk.pem").write_text("junk")
    for files in (TlsFiles(tmp_path / "none.pem"), TlsFiles(tmp_path / "junk.pem")):
        with pytest.raises(ConfigError, match=r"none\.pem|junk\.pem"):
            await WebSocketNetwork(tls=files).listen("127.0.0.1", 0)
    async with listening() as listener:
        with pytest.raises(ConnectFailed, match="authorities"):
            await dial(replace(listener.endpoints[0], scheme="wss"), tls=TlsFiles(ca=tmp_path / "none.pem"))


# Frames.


async def shaken(listener: WebSocketListener) -> tuple[trio.SocketStream, WebSocketStream]:
    """A raw client whose handshake is done, and the stream that serves it."""
    raw = await raw_to(listener)
    await raw.send_all(UPGRADE + b"\r\n")
    stream = await listener.accept()
    await stream.shake_hands()
    assert b"101" in await raw.receive_some()
    return raw, stream


def frame(opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True) -> bytes:
    length = len(payload)
    head = bytes([opcode | (0x80 if fin else 0), (0x80 if masked else 0) | (min(126, length))])
    return head + (length.to_bytes(2, "big") if length >= 126 else b"") + (bytes(4) if masked else b"") + payload


@pytest.mark.parametrize(
    "sent",
    [
        frame(1, b"text"), frame(2, b"unmasked", masked=False), frame(3, b"reserved"), frame(9, b"x" * 126),
        frame(9, b"cut", fin=False), frame(0, b"continues nothing"), b"\xff\xff\xff\xff", frame(8, b"\x03"),
        frame(8, (1002).to_bytes(2, "big")),
    ],
)  # fmt: skip
async def test_what_is_no_binary_websocket_breaks_the_stream(sent: bytes) -> None:
    async with listening() as listener:
        raw, stream = await shaken(listener)
        async with raw, stream:
            await raw.send_all(sent)
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(b"more")


async def test_a_cut_connection_is_broken_and_a_close_is_an_end() -> None:
    async with listening() as listener:
        raw, stream = await shaken(listener)
        async with raw, stream:
            await raw.send_all(frame(2, b"last") + frame(8, (1000).to_bytes(2, "big")))
            assert await stream.receive_some() == b"last"
            assert await stream.receive_some() == b""
            assert (await raw.receive_some())[0] == 0x88, "a Close is answered with a Close"
        raw, stream = await shaken(listener)
        async with raw, stream:
            await raw.send_eof()
            with pytest.raises(trio.BrokenResourceError, match="without a Close"):
                await stream.receive_some()


async def test_empty_and_cut_messages_are_no_end() -> None:
    async with listening() as listener:
        raw, stream = await shaken(listener)
        async with raw, stream:
            for part in (frame(2, b""), frame(2, b"a", fin=False), frame(0, b"", fin=False), frame(0, b"b")):
                for octet in part:
                    await raw.send_all(bytes([octet]))
            got = b""
            while len(got) < 2:
                got += await stream.receive_some()
            assert got == b"ab"


async def test_pings_are_answered_and_a_flood_of_them_ends_the_stream() -> None:
    async with listening() as listener:
        raw, stream = await shaken(listener)
        async with raw, stream:
            await raw.send_all(frame(9, b"hi") + frame(2, b"x"))
            assert await stream.receive_some() == b"x"
            assert await raw.receive_some() == frame(10, b"hi", masked=False)
            await flooded(raw, stream, frame(9, b"p" * 125))


@pytest.mark.parametrize("what", [frame(9, b""), frame(10, b""), frame(2, b"")])
async def test_t06_of_frames_that_bring_nothing_so_many_are_read_and_no_more(what: bytes) -> None:
    async with listening() as listener:
        raw, stream = await shaken(listener)
        async with raw, stream:
            await raw.send_all(what * 1000 + frame(2, b"x"))
            assert await stream.receive_some() == b"x"
            with suppress(trio.BrokenResourceError):
                await raw.send_all(what * 1100)
            with pytest.raises(trio.BrokenResourceError, match="frames without a message"):
                await stream.receive_some()


@pytest.mark.parametrize("opcode", [0, 10])
async def test_frames_that_never_make_a_message_end_the_stream(opcode: int) -> None:
    async with listening() as listener:
        raw, stream = await shaken(listener)
        async with raw, stream:
            await raw.send_all(frame(2, b"", fin=False))
            await flooded(raw, stream, frame(opcode, b"", fin=opcode > 0))


async def flooded(raw: trio.SocketStream, stream: WebSocketStream, what: bytes) -> None:
    """Send it without end, until the stream breaks, which must be soon."""
    sent = 0

    async def flood() -> None:
        nonlocal sent
        while True:
            await raw.send_all(what * 1000)
            sent += len(what) * 1000

    async def read_answers() -> None:
        while await raw.receive_some():
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        nursery.start_soon(read_answers)
        with pytest.raises(trio.BrokenResourceError, match="without a message"):
            await stream.receive_some()
        nursery.cancel_scope.cancel()
    assert sent < 32 * 1024 * KIB, "what the buffers of two sockets hold, and little more"


async def test_a_dial_that_text_answers_is_told_so_and_not_of_a_wrong_key() -> None:
    async with listening() as listener, p2p.open_node(node_id="a") as node:
        (place,) = listener.endpoints
        async with trio.open_nursery() as nursery:

            async def speak_text() -> None:
                stream = await listener.accept()
                await stream.receive_some()
                assert stream._ws is not None
                await stream._ws.send_message("hello")
                await trio.sleep_forever()

            nursery.start_soon(speak_text)
            told = r"a text message, where all are binary$"
            with trio.fail_after(60), pytest.raises(ConnectFailed, match=told) as caught:
                await node.connect(place)
            assert caught.value.reason is Reason.PROTOCOL
            nursery.cancel_scope.cancel()


async def test_messages_may_be_as_long_as_the_bound_and_no_longer() -> None:
    limits = replace(QUICK, ws_message_bytes_max=2000)
    async with listening(limits) as listener:
        raw, stream = await shaken(listener)
        async with raw, stream:
            for _ in range(20):
                await raw.send_all(frame(2, b"m" * 2000))
                assert await stream.receive_some() == b"m" * 2000
            await raw.send_all(frame(2, b"m" * 2001))
            with pytest.raises(RulesBroken, match="it was closed with code 1009"):
                await stream.receive_some()


async def test_messages_that_nobody_takes_yet_are_no_flood() -> None:
    limits = replace(QUICK, ws_message_bytes_max=2000)
    async with listening(limits) as listener:
        raw, stream = await shaken(listener)
        async with raw, stream:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(raw.send_all, frame(2, b"m" * 2000) * 500)
                for _ in range(500):
                    await wait_all_tasks_blocked()
                    assert await stream.receive_some() == b"m" * 2000


async def test_a_send_that_is_cancelled_half_way_cuts_the_connection() -> None:
    async with listening() as listener:
        raw, stream = await shaken(listener)
        async with raw, stream:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, bytes(32 * 1024 * KIB))
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            with pytest.raises(trio.BrokenResourceError, match="cancelled"):
                await stream.send_all(b"more")
            with pytest.raises(trio.BrokenResourceError):
                while await raw.receive_some():
                    pass


async def test_whatever_goes_wrong_with_a_connection_spares_the_network() -> None:
    """All of it ends in one nursery, which the node shares."""
    async with network() as it:
        listener = await it.listen("127.0.0.1", 0)
        for sent in (b"\0\0\0", UPGRADE.replace(b"node.example", b"xn--\xff") + b"\r\n", UPGRADE + b"Origin: a\r\n\r\n",
                     UPGRADE + b"\r\n" + b"\xff" * 50):  # fmt: skip
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve_echo, listener)
                await answer_to(listener, sent, is_all=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_echo, listener)
            async with await it.connect(listener.endpoints[0]) as stream:
                await stream.send_all(b"still here")
                assert await stream.receive_some() == b"still here"
        await listener.aclose()


async def test_a_network_that_was_given_no_nursery_says_so_and_one_that_ended_breaks_its_streams() -> None:
    with pytest.raises(RuntimeError, match="enter"):
        await WebSocketNetwork().connect(PeerEndpoint("127.0.0.1", 9, "ws"))
    async with listening() as listener:
        raw, stream = await shaken(listener)
        async with network() as it, trio.open_nursery() as nursery:
            nursery.start_soon(serve_echo, listener)
            ours = await it.connect(listener.endpoints[0])
            late = it
            nursery.cancel_scope.cancel()
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"x")
        await ours.aclose()
        with pytest.raises(ConnectFailed, match="ended"):
            await late.connect(listener.endpoints[0])
        async with raw:
            await stream.aclose()


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_any_bytes_end_one_stream_at_the_most(chunks: list[bytes]) -> None:
    async def main() -> None:
        async with listening() as listener:
            raw, stream = await shaken(listener)
            async with raw, stream:
                with suppress(trio.BrokenResourceError):
                    for chunk in chunks:
                        await raw.send_all(chunk)
                    await raw.send_eof()
                try:
                    while await stream.receive_some():
                        pass
                except trio.BrokenResourceError:
                    pass

    trio.run(main)


async def test_closing_waits_for_nobody_for_long() -> None:
    limits = replace(Limits(), ws_close_s_max=0.1)
    async with listening(limits) as listener:
        raw, stream = await shaken(listener)
        async with raw:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, bytes(32 * 1024 * 1024))
                await wait_all_tasks_blocked(0.02)
                nursery.cancel_scope.cancel()
            await stream.aclose()


# The network of them all.


def test_nothing_of_it_is_imported_before_it_is_used() -> None:
    names = ("trio_websocket", "wsproto", "h11")
    code = f"import sys, p2p; assert not [n for n in sys.modules if n.split('.')[0] in {names}]"
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_without_the_package_both_ways_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "p2p.transport.websocket", raising=False)
    monkeypatch.delitem(sys.modules, "p2p.transport.websocket_stream", raising=False)
    monkeypatch.setitem(sys.modules, "trio_websocket", None)
    network = SystemNetwork()
    with pytest.raises(ConnectFailed, match=r"pip install 'trio-p2p\[ws\]'") as caught:
        await network.connect(PeerEndpoint("127.0.0.1", 9, "ws"))
    assert caught.value.reason is Reason.UNSUPPORTED
    with pytest.raises(ConfigError, match=r"pip install 'trio-p2p\[ws\]'"):
        await network.listen("127.0.0.1", 0, "ws")


async def test_a_scheme_that_is_not_carried_is_named() -> None:
    with pytest.raises(ConnectFailed, match="mem://"):
        await SystemNetwork().connect(PeerEndpoint("a", 9, "mem"))
    with pytest.raises(ConfigError, match="mem://"):
        await SystemNetwork().listen("127.0.0.1", 0, "mem")


async def test_t04_a_dial_that_needs_a_thread_fails_while_none_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_thread(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)
    async with trio.open_nursery() as nursery:
        network = WebSocketNetwork()
        network.enter(nursery)
        with pytest.raises(ConnectFailed, match="can't start new thread"):
            await network.connect(PeerEndpoint("127.0.0.1", 1, "wss"))
