"""What a stranger with a raw socket can do to a listening node.

Nothing here knows the protocol: bytes come from recordings that a `wiretap` makes of an honest connection, or from
other protocols. Every function reports what the victim did, as an `Answer`; whether that was right is for the test.

    async with silent_connections(where, 100):          # a hundred that say nothing
        ...
    answer = await speak(where, FOREIGN["http"])         # answer.end is End.RESET or End.EOF; answer.data what it said
    answer = await cut(where, recording, 17, Ending.RESET)

    async with wiretap(victim) as tap:                   # an honest peer dials tap.where instead
        tap.fault = Fault(Direction.UP, 40, Tamper.FLIP)
"""

from __future__ import annotations

import gc
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import trio

Where = tuple[str, int]
"""Host and port of the victim."""

PATIENCE_S: Final = 20.0
"""How long to wait for a victim to end a connection before it is said that it did not."""

FOREIGN: Final = {
    "http": b"GET / HTTP/1.1\r\nHost: victim.example\r\nUser-Agent: scan\r\n\r\n",
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "websocket": b"GET / HTTP/1.1\r\nHost: v\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303")
    + bytes(32)
    + b"\x20"
    + bytes(32)
    + bytes.fromhex("0002130101000000"),
    "ssh": b"SSH-2.0-OpenSSH_9.9\r\n",
    "socks5": b"\x05\x01\x00",
    "rdp": bytes.fromhex("030000130ee000000000000100080003000000"),
    "redis": b"*1\r\n$4\r\nPING\r\n",
    "nothing but zeros": bytes(64),
    "nothing but ones": b"\xff" * 64,
}
"""The first bytes of protocols that scanners try on every open port (T05)."""


class End(Enum):
    """How the victim ended a connection."""

    EOF = "eof"
    RESET = "reset"
    OPEN = "open"
    """Not at all, within the patience."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the victim did.

    Attributes:
        data: the bytes it sent.
        end: how it ended the connection.
        after_s: seconds from our first byte to that end.
        sent: bytes of ours that its kernel took.
    """

    data: bytes
    end: End
    after_s: float
    sent: int


class Ending(Enum):
    """How we leave."""

    CLOSE = "close"
    RESET = "reset"
    HALF_CLOSE = "half-close"
    """We send no more and read on."""
    STAY = "stay"
    """We say nothing more and keep the connection."""


async def dial(where: Where) -> trio.SocketStream:
    """One TCP connection to the victim."""
    return await trio.open_tcp_stream(*where)


def reset(stream: trio.SocketStream) -> None:
    """End a connection with a RST, at once."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


@asynccontextmanager
async def silent_connections(where: Where, count: int) -> AsyncIterator[list[trio.SocketStream]]:
    """Hold `count` connections that never send a byte (T02, T03)."""
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(await dial(where)) for _ in range(count)]
        yield streams


async def read_to_end(stream: trio.SocketStream, patience_s: float = PATIENCE_S) -> tuple[bytes, End]:
    """All that the victim says, and how it ends."""
    data = bytearray()
    with trio.move_on_after(patience_s):
        try:
            while chunk := await stream.receive_some():
                data += chunk
        except trio.BrokenResourceError:
            return bytes(data), End.RESET
        return bytes(data), End.EOF
    return bytes(data), End.OPEN


async def speak(
    where: Where, opening: bytes, ending: Ending = Ending.STAY, *, patience_s: float = PATIENCE_S
) -> Answer:
    """Say these bytes in one piece and see what comes of it."""
    return await speak_in_pieces(where, [opening], ending, patience_s=patience_s)


async def drip(
    where: Where, data: bytes, interval_s: float, *, size: int = 1, patience_s: float = PATIENCE_S
) -> Answer:
    """Say the bytes slowly, `size` of them every `interval_s` (T01, T23), until the victim has had enough."""
    pieces = (data[at : at + size] for at in range(0, len(data), size))
    return await speak_in_pieces(where, pieces, Ending.STAY, interval_s=interval_s, patience_s=patience_s)


async def cut(where: Where, recording: bytes, offset: int, ending: Ending, *, patience_s: float = PATIENCE_S) -> Answer:
    """Say the first `offset` bytes of a recording and leave (T10). For a half-close, see what the victim does."""
    return await speak_in_pieces(where, [recording[:offset]], ending, patience_s=patience_s)


async def speak_in_pieces(
    where: Where,
    pieces: Iterable[bytes],
    ending: Ending,
    *,
    interval_s: float = 0.0,
    patience_s: float = PATIENCE_S,
) -> Answer:
    """Send pieces one by one while reading; leave as told when all are sent."""
    begun = trio.current_time()
    sent = 0
    data, end = b"", End.OPEN

    async def listen() -> None:
        nonlocal data, end
        data, end = await read_to_end(stream, patience_s)
        nursery.cancel_scope.cancel()

    async def send() -> None:
        nonlocal sent
        for piece in pieces:
            try:
                await stream.send_all(piece)
            except trio.BrokenResourceError:
                return  # listen() tells how it ended
            sent += len(piece)
            await trio.sleep(interval_s)
        if ending is Ending.HALF_CLOSE:
            await stream.send_eof()
        elif ending is not Ending.STAY:
            nursery.cancel_scope.cancel()

    async with await dial(where) as stream:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            nursery.start_soon(send)
        if ending is Ending.RESET:
            reset(stream)
    return Answer(data, end, trio.current_time() - begun, sent)


class Direction(Enum):
    """Which half of a tapped connection."""

    UP = "to the victim"
    DOWN = "from the victim"


class Tamper(Enum):
    """What happens to the byte at a fault's offset, or to the connection there."""

    FLIP = "its lowest bit is turned over"
    DROP = "it is left out"
    INSERT = "a zero byte comes before it"
    STALL = "it and all after it are held back for ever"
    CLOSE = "both sides see a clean end before it"
    RESET = "both sides see a reset before it"
    HALF_CLOSE = "its receiver sees a clean end before it; the other direction goes on"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault in one direction of the next connections.

    Args:
        direction: of the bytes counted.
        offset: how many of them pass unharmed.
        tamper: what happens then.
    """

    direction: Direction
    offset: int
    tamper: Tamper


@dataclass(slots=True)
class Recording:
    """What went over one tapped connection, as its sender sent it."""

    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)

    def of(self, direction: Direction) -> bytearray:
        """The bytes of one direction."""
        return self.up if direction is Direction.UP else self.down


class Wiretap:
    """A man in the middle: honest peers dial it, it dials the victim, records both directions, and can do harm.

    Attributes:
        where: what to dial in place of the victim.
        fault: applied to connections that begin from now on; None passes everything on.
        recordings: one per connection, oldest first.
    """

    def __init__(self, victim: Where) -> None:
        self._victim = victim
        self.fault: Fault | None = None
        self.recordings: list[Recording] = []
        self.where: Where = ("127.0.0.1", 0)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started when `where` can be dialled."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.where = ("127.0.0.1", listeners[0].socket.getsockname()[1])
        task_status.started()
        await trio.serve_listeners(self._tap, listeners)

    async def _tap(self, near: trio.SocketStream) -> None:
        fault, recording = self.fault, Recording()
        self.recordings.append(recording)
        try:
            far = await dial(self._victim)
        except OSError:
            reset(near)
            return
        async with near, far, trio.open_nursery() as nursery:

            async def pump(direction: Direction, source: trio.SocketStream, sink: trio.SocketStream) -> None:
                mine = fault if fault is not None and fault.direction is direction else None
                try:
                    await _pump(source, sink, recording.of(direction), mine)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    _reset_both(near, far)
                except _Cut as cut:
                    if cut.tamper is Tamper.RESET:
                        _reset_both(near, far)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(pump, Direction.UP, near, far)
            nursery.start_soon(pump, Direction.DOWN, far, near)


@asynccontextmanager
async def wiretap(victim: Where) -> AsyncIterator[Wiretap]:
    """A running `Wiretap` before the victim."""
    tap = Wiretap(victim)
    async with trio.open_nursery() as nursery:
        await nursery.start(tap.run)
        yield tap
        nursery.cancel_scope.cancel()


class _Cut(Exception):
    """The connection ends here."""

    def __init__(self, tamper: Tamper) -> None:
        super().__init__(tamper)
        self.tamper = tamper


def _reset_both(*streams: trio.SocketStream) -> None:
    for stream in streams:
        if stream.socket.fileno() != -1:
            reset(stream)


async def _pump(source: trio.SocketStream, sink: trio.SocketStream, record: bytearray, fault: Fault | None) -> None:
    while chunk := await source.receive_some():
        before = len(record)
        record += chunk
        if fault is not None and fault.offset < len(record):
            at = fault.offset - before
            await _tamper(source, sink, bytes(chunk[:at]), bytes(chunk[at:]), fault.tamper)
            fault = None
        else:
            await sink.send_all(chunk)
    await sink.send_eof()


async def _tamper(source: trio.SocketStream, sink: trio.SocketStream, head: bytes, tail: bytes, tamper: Tamper) -> None:
    if tamper is Tamper.FLIP:
        await sink.send_all(head + bytes([tail[0] ^ 1]) + tail[1:])
    elif tamper is Tamper.DROP:
        await sink.send_all(head + tail[1:])
    elif tamper is Tamper.INSERT:
        await sink.send_all(head + b"\0" + tail)
    else:
        await sink.send_all(head)
        if tamper in (Tamper.CLOSE, Tamper.RESET):
            raise _Cut(tamper)
        if tamper is Tamper.HALF_CLOSE:
            await sink.send_eof()
        while await source.receive_some():  # taken and thrown away, so that the sender never notices
            pass


@dataclass(frozen=True, slots=True)
class Residue:
    """What a process holds: compare before and after an attack (T10, T67)."""

    descriptors: int
    tasks: int


def residue() -> Residue:
    """Count open descriptors and trio's tasks, after garbage was collected."""
    gc.collect()
    return Residue(len(os.listdir("/proc/self/fd")), _tasks_under(trio.lowlevel.current_root_task()))


def _tasks_under(task: trio.lowlevel.Task | None) -> int:
    assert task is not None, "to be called inside trio"
    return 1 + sum(_tasks_under(child) for nursery in task.child_nurseries for child in nursery.child_tasks)
