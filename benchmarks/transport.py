"""What does a TcpStream save beside trio.SocketStream, on the same loopback sockets in the same run?

Both ends live in one process. What is "at hand" was put into the socket by a plain
blocking `send` beforehand, so that only the read is timed; what is sent is drained by a plain `recv`, untimed as well.
The rows that wait have the other side played by the same kind of stream.

The last row asks what a WebSocket alone is worth: bytes joined to writes of 64 KiB, as a link joins its messages,
against one `send_all` per message on a trio.SocketStream. A link over WebSocket is in messages.py.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import trio

from benchmarks.harness import Row, Tell, ratio, row
from benchmarks.pace import Pace
from p2p.limits import Limits
from p2p.transport.tcp_stream import TcpStream

SMALL: Final = 128
LARGE: Final = 64 * 1024

AnyStream: TypeAlias = TcpStream | trio.SocketStream
Side: TypeAlias = Callable[[], Awaitable[float]]
Make: TypeAlias = Callable[[socket.socket], AnyStream]
Receive: TypeAlias = Callable[[AnyStream, int], Awaitable[bytes | bytearray]]


def run(pace: Pace, tell: Tell) -> None:
    """Measure and tell the rows as they come."""
    pace.run(_rows, pace, tell)


async def _rows(pace: Pace, tell: Tell) -> None:
    rounds, small = (5, 2_000) if pace.quick else (9, 10_000)
    large = small // 20

    async def compare(question: str, goal: str, ours: Side, trios: Side) -> None:
        mine, theirs = zip(*await pace.in_turn(rounds, ours, trios), strict=True)
        tell(_row(question, goal, mine, theirs))

    await compare(
        f"read {SMALL} B at hand, as a link's reader does (receive_chunk)",
        "<= 0.5",
        lambda: _reading(_ours, _receive_chunk, small),
        lambda: _reading(_trios, _receive_some, small),
    )
    await compare(
        f"read {SMALL} B at hand, with trio's promise of a checkpoint (receive_some)",
        "<= 0.85",
        lambda: _reading(_ours, _receive_some, small),
        lambda: _reading(_trios, _receive_some, small),
    )
    await compare(
        f"send {SMALL} B that fit, without waiting (send_nowait)",
        "<= 0.5",
        lambda: _sending_nowait(small),
        lambda: _sending(_trios, small, SMALL),
    )
    await compare(
        f"send {SMALL} B that fit (send_all)",
        "<= 0.85",
        lambda: _sending(_ours, small, SMALL),
        lambda: _sending(_trios, small, SMALL),
    )
    await compare(
        f"{SMALL} B there and back, both sides waiting for each read",
        "<= 1",
        lambda: _echoing(_ours, _receive_chunk, large),
        lambda: _echoing(_trios, _receive_some, large),
    )
    await compare(
        f"coalesced writes of {LARGE // 1024} KiB, sent and received",
        "<= 1",
        lambda: _streaming(_ours, _receive_chunk, large),
        lambda: _streaming(_trios, _receive_some, large),
    )
    joined, single = zip(
        *await pace.in_turn(rounds, lambda: _by_websocket(10 * small), lambda: _message_by_message(small)), strict=True
    )
    tell(
        row(
            f"a WebSocket alone, {SMALL} B in writes of {LARGE // 1024} KiB ÷ one send_all each on raw TCP",
            ratio(joined, single),
            value=statistics.median(joined),
            unit="messages/s",
            baseline=f"trio.SocketStream, {statistics.median(single):,.0f}",
        )
    )


def _row(question: str, goal: str, ours: Sequence[float], theirs: Sequence[float]) -> Row:
    return row(
        question,
        ratio(ours, theirs),
        goal,
        value=statistics.median(ours) * 1e6,
        unit="µs",
        baseline=f"trio.SocketStream, {statistics.median(theirs) * 1e6:.2f}",
    )


def _ours(sock: socket.socket) -> AnyStream:
    return TcpStream(sock)


def _trios(sock: socket.socket) -> AnyStream:
    sock.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


def _receive_some(stream: AnyStream, size: int) -> Awaitable[bytes | bytearray]:
    return stream.receive_some(size)


def _receive_chunk(stream: AnyStream, size: int) -> Awaitable[bytes | bytearray]:
    assert isinstance(stream, TcpStream)
    return stream.receive_chunk(size)


def _sockets() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client, server


async def _reading(make: Make, receive: Receive, count: int) -> float:
    """Seconds per read; a hundred reads' worth is put into the socket at a time."""
    client, server = _sockets()
    spent = 0.0
    async with make(server) as stream:
        with client:
            for _ in range(count // 100):
                client.sendall(bytes(100 * SMALL))
                begun = time.perf_counter()
                for _ in range(100):
                    await receive(stream, SMALL)
                spent += time.perf_counter() - begun
    return spent / count


async def _sending(make: Make, count: int, size: int) -> float:
    """Seconds per send_all that does not wait."""
    client, server = _sockets()
    spent = 0.0
    data = bytes(size)
    async with make(client) as stream:
        with server:
            for _ in range(count // 100):
                begun = time.perf_counter()
                for _ in range(100):
                    await stream.send_all(data)
                spent += time.perf_counter() - begun
                _drain(server, 100 * size)
    return spent / count


async def _sending_nowait(count: int) -> float:
    """Seconds per send_nowait."""
    client, server = _sockets()
    spent = 0.0
    data = bytes(SMALL)
    async with TcpStream(client) as stream:
        with server:
            for _ in range(count // 100):
                begun = time.perf_counter()
                for _ in range(100):
                    stream.send_nowait(data)
                spent += time.perf_counter() - begun
                _drain(server, 100 * SMALL)
    return spent / count


async def _echoing(make: Make, receive: Receive, count: int) -> float:
    """Seconds per round trip."""
    client, server = _sockets()
    async with make(client) as asking, make(server) as answering, trio.open_nursery() as nursery:

        async def echo() -> None:
            while data := await receive(answering, LARGE):
                await answering.send_all(data)

        nursery.start_soon(echo)
        begun = time.perf_counter()
        for _ in range(count):
            await asking.send_all(bytes(SMALL))
            await receive(asking, LARGE)
        spent = time.perf_counter() - begun
        nursery.cancel_scope.cancel()
    return spent / count


async def _streaming(make: Make, receive: Receive, count: int) -> float:
    """Seconds per write of 64 KiB, from the first send to the last byte received."""
    client, server = _sockets()
    data = bytes(LARGE)
    async with make(client) as sending, make(server) as receiving:

        async def send() -> None:
            for _ in range(count):
                await sending.send_all(data)

        begun = time.perf_counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            left = count * LARGE
            while left:
                left -= len(await receive(receiving, LARGE))
        return (time.perf_counter() - begun) / count


async def _message_by_message(count: int) -> float:
    """Messages per second, one send_all each, until the last one was received."""
    client, server = _sockets()
    async with _trios(client) as sending, _trios(server) as receiving:

        async def send() -> None:
            for _ in range(count):
                await sending.send_all(bytes(SMALL))

        return await _rate(send, receiving, count)


async def _by_websocket(count: int) -> float:
    """Messages per second, joined to writes of 64 KiB, until the last one was received."""
    from p2p.transport.websocket_stream import WebSocketStream

    client, server = _sockets()
    limits = Limits()
    async with trio.open_nursery() as nursery:
        sending = WebSocketStream(TcpStream(client), nursery, None, host_header="a", remote=None, limits=limits)
        receiving = WebSocketStream(TcpStream(server), nursery, None, remote=None, limits=limits)
        nursery.start_soon(receiving.shake_hands)
        await sending.shake_hands()

        async def send() -> None:
            waiting = bytearray()
            for _ in range(count):
                waiting += bytes(SMALL)
                if len(waiting) >= LARGE:
                    await sending.send_all(waiting)
                    waiting = bytearray()
            await sending.send_all(waiting)

        rate = await _rate(send, receiving, count)
        nursery.cancel_scope.cancel()
    return rate


async def _rate(send: Callable[[], Awaitable[None]], receiving: trio.abc.Stream, count: int) -> float:
    begun = time.perf_counter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        left = count * SMALL
        while left:
            left -= len(await receiving.receive_some(LARGE))
    return count / (time.perf_counter() - begun)


def _drain(sock: socket.socket, count: int) -> None:
    while count:
        count -= len(sock.recv(count))
