"""How fast do encrypted messages go one way, against raw trio that coalesces as well as we do?

Sender and receiver are two processes on loopback. The baseline joins length-prefixed messages into 64 KiB writes and
cuts them apart again: the best that plain trio can do, without encryption, channels or addressing. For 64 KiB the
baseline's time and the time of one AEAD pass are added: sealing is the point there.

And what coalescing is worth to who has small messages: a link over TCP and one over WebSocket, beside raw trio with one
`send_all` per message.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

import trio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import p2p
from benchmarks import worker
from benchmarks.harness import Row, Tell, ratio, row
from benchmarks.pace import Pace
from benchmarks.worker import Effort, effort
from p2p.limits import KIB

Side = Callable[[], Awaitable[Effort]]


def named(size: int) -> str:
    """So many bytes, in words."""
    return f"{size // KIB} KiB" if size >= KIB else f"{size} B"


async def _raw_seconds(stream: trio.SocketStream, body: bytes, count: int) -> float:
    parts: list[bytes] = []
    waiting = 0
    started = time.perf_counter()
    for _ in range(count):
        # Message by message, as an application has them.
        parts.append(len(body).to_bytes(worker.LENGTH_BYTES, "little"))
        parts.append(body)
        waiting += len(body)
        if waiting >= 64 * KIB:
            await stream.send_all(b"".join(parts))
            parts.clear()
            waiting = 0
    await stream.send_all(b"".join(parts))
    await stream.send_all(bytes(worker.LENGTH_BYTES))
    await stream.receive_some()
    return time.perf_counter() - started


async def node_seconds(node: p2p.Node, peer: p2p.Peer, done: p2p.Channel, body: bytes, count: int) -> float:
    """Send so many messages to a `node_sink` and wait until it has them all."""
    started = time.perf_counter()
    send = node.send
    for _ in range(count):
        await send(peer, "bench", body)
    await send(peer, "bench", b"")
    await done.receive()
    return time.perf_counter() - started


async def _single_seconds(stream: trio.SocketStream, body: bytes, count: int) -> float:
    """One `send_all` per message, as a program sends that does not coalesce."""
    framed = len(body).to_bytes(worker.LENGTH_BYTES, "little") + body
    started = time.perf_counter()
    for _ in range(count):
        await stream.send_all(framed)
    await stream.send_all(bytes(worker.LENGTH_BYTES))
    await stream.receive_some()
    return time.perf_counter() - started


def _aead_seconds(body: bytes, count: int) -> float:
    aead = AESGCM(bytes(32))
    started = time.perf_counter()
    for _ in range(count):
        aead.encrypt(bytes(12), body, b"")
    return time.perf_counter() - started


async def _rows(pace: Pace, tell: Tell) -> None:
    async with (
        worker.start("raw_sink") as raw_side,
        worker.start("node_sink") as node_side,
        p2p.open_node(node_id="by-tcp", listen_port=None) as by_tcp,
        p2p.open_node(node_id="by-websocket", listen_port=None) as by_ws,
        by_tcp.channel("done") as tcp_done,
        by_ws.channel("done") as ws_done,
    ):
        raw = await trio.open_tcp_stream("127.0.0.1", (await raw_side.result())["port"])
        ports = await node_side.result()
        tcp_sink = await by_tcp.connect(f"127.0.0.1:{ports['port']}")
        ws_sink = await by_ws.connect(f"ws://127.0.0.1:{ports['ws_port']}")

        def over_tcp(body: bytes, count: int) -> Side:
            return lambda: effort(node_seconds(by_tcp, tcp_sink, tcp_done, body, count), node_side)

        def over_websocket(body: bytes, count: int) -> Side:
            return lambda: effort(node_seconds(by_ws, ws_sink, ws_done, body, count), node_side)

        rounds = 5 if pace.quick else 9
        for size, count, goal in ((128, 100_000, 0.30), (KIB, 50_000, 0.30), (64 * KIB, 2_000, 0.80)):
            body = os.urandom(size)
            if pace.quick:
                count //= 5

            async def coalesced(body: bytes = body, count: int = count) -> Effort:
                spent = await effort(_raw_seconds(raw, body, count), raw_side)
                return spent.and_then(_aead_seconds(body, count)) if len(body) >= 64 * KIB else spent

            measured = await pace.in_turn(rounds, coalesced, over_tcp(body, count))
            baseline, ours = zip(*measured, strict=True)
            question = f"one-way messages of {named(size)}, encrypted, ÷ coalesced raw trio"
            baseline_is = "raw trio, 64 KiB writes" + (" + AEAD" if size >= 64 * KIB else "")
            tell(_row(question, f">= {goal:g}", baseline_is, count, baseline, ours))

        body, count = os.urandom(128), 5_000 if pace.quick else 40_000
        measured = await pace.in_turn(
            rounds,
            lambda: effort(_single_seconds(raw, body, count), raw_side),
            over_tcp(body, count),
            over_websocket(body, count),
        )
        single, tcp, websocket = zip(*measured, strict=True)
        for over, ours, goal in (("TCP", tcp, 8), ("WebSocket", websocket, 5)):
            question = f"one-way messages of 128 B, encrypted, over {over} ÷ raw trio with one send_all per message"
            tell(_row(question, f">= {goal}", "raw trio over TCP, a write a message", count, single, ours))


def _row(question: str, goal: str, baseline: str, count: int, theirs: Sequence[Effort], ours: Sequence[Effort]) -> Row:
    work = ratio((each.busiest for each in theirs), (each.busiest for each in ours))
    rates = [count / each.seconds for each in ours]
    return row(
        question,
        ratio((each.seconds for each in theirs), (each.seconds for each in ours)),
        goal,
        value=statistics.median(rates),
        unit="messages/s",
        baseline=f"{baseline}, {count / statistics.median(each.seconds for each in theirs):,.0f}",
        note=f"in processor time of the busier end {work}",
    )


def run(pace: Pace, tell: Tell) -> None:
    """Measure and tell the rows as they come."""
    pace.run(_rows, pace, tell)
