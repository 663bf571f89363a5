"""The tasks of whole nodes whose work is counted (see guard.py): from the public API to the socket, and back up.

They do the same in every run, although tasks take turns: the schedule is that of a seed, the clock stands still while
anything is to be done, and the nodes draw from sources that repeat. The two ends of a link are the two ends of a pair
of sockets, so that bytes are there as soon as they are written and one read brings what one write took, whatever the
machine; what is in between is the stream that TCP has. Nothing here fills a socket: how much fits is the kernel's.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import trio
import trio.testing

import p2p
from benchmarks.guarded import Counting, Guarded, entropy_of
from p2p.errors import ConfigError
from p2p.ids import PeerEndpoint
from p2p.limits import KIB
from p2p.node.dispatch import Channel, Message
from p2p.node.node import Node
from p2p.testing.scheduler import run_seeded
from p2p.transport.base import Datagrams, Neighbourhood
from p2p.transport.tcp_stream import TcpStream
from p2p.windows import SimulatedClock

MESSAGES: Final = 256
LARGE_MESSAGES: Final = 16
REQUESTS: Final = 10
RECORDS: Final = 300
APPENDS: Final = 5
_AT: Final = PeerEndpoint("127.0.0.1", 9000)


def _in_loop(work: Callable[[Counting], Awaitable[None]]) -> Callable[[Counting], None]:
    return lambda counting: run_seeded(0, work, counting)


def _messages(*, capacity: int = 1024, before: int = 0) -> Callable[[Counting], Awaitable[None]]:
    """With a reader at work, who finds so many in the channel when the count begins."""

    async def run(counting: Counting) -> None:
        async with _two_nodes() as (a, b), b.channel("chat", capacity=capacity) as messages:

            async def send(count: int) -> None:
                for _ in range(count):
                    await a.send(b.peer_id, "chat", body)

            body = bytes(128)
            await _warm_up(a, b, messages)
            await send(before)
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                with counting:
                    nursery.start_soon(send, MESSAGES)
                    left = before + MESSAGES
                    async for _ in messages:
                        left -= 1
                        if not left:
                            break

    return run


async def _large_messages(counting: Counting) -> None:
    """One at a time: two would meet in the socket."""
    async with _two_nodes() as (a, b), b.channel("chat") as messages:
        body = bytes(64 * KIB)
        await _warm_up(a, b, messages)
        with counting:
            for _ in range(LARGE_MESSAGES):
                await a.send(b.peer_id, "chat", body)
                await messages.receive()


def _requests(handler: Callable[[Message], object]) -> Callable[[Counting], Awaitable[None]]:
    async def run(counting: Counting) -> None:
        async with _two_nodes() as (a, b), trio.open_nursery() as nursery:
            await nursery.start(b.serve, "echo", handler)
            body = bytes(128)
            await a.request(b.peer_id, "echo", body)
            await trio.testing.wait_all_tasks_blocked()
            with counting:
                for _ in range(REQUESTS):
                    await a.request(b.peer_id, "echo", body)
            nursery.cancel_scope.cancel()

    return run


def _answer(message: Message) -> bytes:
    return message.body


async def _answer_later(message: Message) -> bytes:
    return message.body


async def _chunks(counting: Counting) -> None:
    """Writes of 64 KiB that fit, each of them read at once: how a link does it, and how trio's streams do."""
    near, far = _pair()
    data = bytes(64 * KIB)
    came: list[int] = []

    def take(chunk: bytes | bytearray) -> bool:
        came.append(len(chunk))
        return False

    with counting:
        for _ in range(LARGE_MESSAGES // 2):
            assert near.send_nowait(data) == len(data)
            await far.receive_while(take, 128 * KIB)
            await near.send_all(data)
            assert len(await far.receive_some(128 * KIB)) == len(data)
    assert came == [len(data)] * (LARGE_MESSAGES // 2)
    await near.aclose()
    await far.aclose()


async def _follow(counting: Counting) -> None:
    async with _node("a", _Pairs()) as node:
        await node.wal.append_many([bytes(256)] * RECORDS)
        async with node.wal.follow() as records:
            with counting:
                for _ in range(RECORDS):
                    await anext(records)


async def _append(counting: Counting) -> None:
    async with _node("a", _Pairs()) as node, node.wal.follow() as records:
        payload = bytes(256)
        await node.wal.append(payload)
        await anext(records)
        with counting:
            for _ in range(APPENDS):
                await node.wal.append(payload)
                await anext(records)


async def _replicate(counting: Counting) -> None:
    async with _two_nodes() as (a, b), b.wal.follow() as records:
        payload = bytes(256)
        await a.wal.append(payload)
        await anext(records)
        await trio.testing.wait_all_tasks_blocked()
        with counting:
            for _ in range(APPENDS):
                await a.wal.append(payload)
                await anext(records)


ALL: Final = (
    Guarded("message of 128 B, node to node", MESSAGES, _in_loop(_messages())),
    Guarded("the same, into a full channel", MESSAGES, _in_loop(_messages(capacity=MESSAGES, before=MESSAGES))),
    Guarded("message of 64 KiB, node to node", LARGE_MESSAGES, _in_loop(_large_messages)),
    Guarded("request and answer of 128 B, node to node", REQUESTS, _in_loop(_requests(_answer))),
    Guarded("the same, of an async handler", REQUESTS, _in_loop(_requests(_answer_later))),
    Guarded("64 KiB written to a TCP stream and read", LARGE_MESSAGES, _in_loop(_chunks)),
    Guarded("a follower's 100 records", 3, _in_loop(_follow)),
    Guarded("append one record, until a follower has it", APPENDS, _in_loop(_append)),
    Guarded("append one record, until a peer's follower has it", APPENDS, _in_loop(_replicate)),
)


# What they are done with.


@asynccontextmanager
async def _two_nodes() -> AsyncIterator[tuple[Node, Node]]:
    net = _Pairs()
    async with _node("a", net) as a, _node("b", net, listen_port=_AT.port) as b:
        await a.connect(_AT)
        # Until all is said that a new link has to say.
        await trio.testing.wait_all_tasks_blocked()
        yield a, b


def _node(name: str, net: _Pairs, listen_port: int | None = None) -> AbstractAsyncContextManager[Node]:
    return p2p.open_node(
        node_id=name,
        network_key=bytes(32),
        listen_port=listen_port,
        network=net,
        clock=SimulatedClock(),
        entropy=entropy_of(name),
    )


async def _warm_up(a: Node, b: Node, messages: Channel) -> None:
    await a.send(b.peer_id, "chat", b"")
    await messages.receive()
    await trio.testing.wait_all_tasks_blocked()


def _pair() -> tuple[TcpStream, TcpStream]:
    near, far = socket.socketpair()
    for end in (near, far):
        # For several writes, which the kernel's usual room is on most machines and need not be.
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 208 * KIB)
    return TcpStream(near, _AT, speaks_first=True), TcpStream(far, _AT)


class _Pairs:
    """A network with one door, whose connections are pairs of sockets."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[TcpStream](1)

    @property
    def endpoints(self) -> tuple[PeerEndpoint, ...]:
        return (_AT,)

    def enter(self, nursery: trio.Nursery) -> None:
        """Nothing to do: its streams need no tasks."""

    async def listen(self, host: str | None, port: int, scheme: str | None = None) -> _Pairs:
        await trio.lowlevel.checkpoint()
        return self

    async def accept(self) -> TcpStream:
        return await self._receive.receive()

    async def aclose(self) -> None:
        await self._receive.aclose()

    async def resolve(self, endpoint: PeerEndpoint) -> tuple[PeerEndpoint, ...]:
        await trio.lowlevel.checkpoint()
        return (endpoint,)

    async def connect(self, endpoint: PeerEndpoint) -> TcpStream:
        near, far = _pair()
        await self._send.send(far)
        return near

    async def datagrams(self, near: Neighbourhood) -> Datagrams:
        raise ConfigError("nobody is looked for here")
