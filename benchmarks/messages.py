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
from collections.abc import Iterator
from typing import Any

import trio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import p2p
from benchmarks import worker
from p2p.limits import KIB


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


async def node_seconds(node: p2p.Node, peer: p2p.PeerId, done: p2p.Channel, body: bytes, count: int) -> float:
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


def _busier(before: tuple[float, float], receiver: worker.Worker) -> float:
    """Processor time since then, of the end that took more of it: with a core for each, the other one waits for it."""
    return max(time.process_time() - before[0], receiver.processor_s() - before[1])


async def _measure(quick: bool) -> list[dict[str, Any]]:
    rounds = 3 if quick else 7
    rows = []
    async with (
        worker.start("raw_sink") as raw_side,
        worker.start("node_sink") as node_side,
        p2p.open_node(node_id="source", listen_port=None) as node,
        node.channel("done") as done,
    ):
        raw = await trio.open_tcp_stream("127.0.0.1", (await raw_side.result())["port"])
        peer = (await node.connect(f"127.0.0.1:{(await node_side.result())['port']}")).peer_id
        for size, count, goal in ((128, 100_000, 0.30), (KIB, 50_000, 0.30), (64 * KIB, 2_000, 0.80)):
            body = os.urandom(size)
            if quick:
                count //= 4
            await _raw_seconds(raw, body, count // 4)
            await node_seconds(node, peer, done, body, count // 4)
            ratios, rates, works = [], [], []
            for _ in range(rounds):
                before = (time.process_time(), raw_side.processor_s())
                baseline = await _raw_seconds(raw, body, count)
                baseline_work = _busier(before, raw_side)
                if size >= 64 * KIB:
                    aead = _aead_seconds(body, count)
                    baseline += aead
                    baseline_work += aead
                before = (time.process_time(), node_side.processor_s())
                seconds = await node_seconds(node, peer, done, body, count)
                works.append(baseline_work / _busier(before, node_side))
                ratios.append(baseline / seconds)
                rates.append(count / seconds)
            question = f"one-way messages of {size} B, encrypted, ÷ coalesced raw trio"
            baseline_is = "raw trio, 64 KiB writes" + (" + AEAD" if size >= 64 * KIB else "")
            rows.append(_row(question, baseline_is, goal, rates, ratios, works))
    return rows


async def _measure_small(quick: bool) -> list[dict[str, Any]]:
    """128 B over each kind of link, and raw trio with one write a message, in turn."""
    body, count = os.urandom(128), 10_000 if quick else 40_000
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
        sink = (await by_tcp.connect(f"127.0.0.1:{ports['port']}")).peer_id
        await by_ws.connect(f"ws://127.0.0.1:{ports['ws_port']}")
        links = {"TCP": (by_tcp, tcp_done, 8), "WebSocket": (by_ws, ws_done, 5)}
        figures: dict[str, tuple[list[float], list[float], list[float]]] = {name: ([], [], []) for name in links}
        for number in range(1 + (3 if quick else 7)):
            before = (time.process_time(), raw_side.processor_s())
            baseline = await _single_seconds(raw, body, count)
            baseline_work = _busier(before, raw_side)
            for name, (node, done, _) in links.items():
                before = (time.process_time(), node_side.processor_s())
                seconds = await node_seconds(node, sink, done, body, 2 * count)
                work = _busier(before, node_side)
                if number:
                    rates, ratios, works = figures[name]
                    rates.append(2 * count / seconds)
                    ratios.append(2 * baseline / seconds)
                    works.append(2 * baseline_work / work)
    return [
        _row(
            f"one-way messages of 128 B, encrypted, over {name} ÷ raw trio with one send_all per message",
            "raw trio, a write a message",
            links[name][2],
            *figures[name],
        )
        for name in links
    ]


def _row(
    question: str, baseline: str, goal: float, rates: list[float], ratios: list[float], works: list[float]
) -> dict[str, Any]:
    ratio = statistics.median(ratios)
    return {
        "question": question,
        "value": statistics.median(rates),
        "unit": "messages/s",
        "baseline": baseline,
        "ratio": ratio,
        "goal": f">= {goal}",
        "met": ratio >= goal,
        "note": f"{min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} rounds;"
        f" in processor time of the busier end {statistics.median(works):.2f}",
    }


def run(quick: bool) -> Iterator[dict[str, Any]]:
    """Measure and return the rows as they come."""
    yield from trio.run(_measure, quick)
    yield from trio.run(_measure_small, quick)
