"""How fast is a request and its answer, against a raw trio echo of as many bytes?

Asker and answerer are two processes on loopback, and the next request is made when the answer to the last one is there:
what counts is how long one takes. Both are measured in turn. The baseline has no deadline, no encryption and nobody to
address; a request has all three.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import trio

import p2p
from benchmarks import worker

SIZE = 128
GOAL = 0.80


async def _raw_seconds(stream: trio.SocketStream, body: bytes, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        await stream.send_all(body)
        got = await stream.receive_some()
        while len(got) < len(body):
            got += await stream.receive_some()
    return time.perf_counter() - started


async def _node_seconds(node: p2p.Node, peer: p2p.PeerId, body: bytes, count: int) -> float:
    started = time.perf_counter()
    request = node.request
    for _ in range(count):
        await request(peer, "echo", body, timeout_s=5)
    return time.perf_counter() - started


async def _side_by_side(node: p2p.Node, peer: p2p.PeerId, body: bytes, count: int, askers: int) -> float:
    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(askers):
            nursery.start_soon(_node_seconds, node, peer, body, count // askers)
    return time.perf_counter() - started


async def _measure(quick: bool) -> list[dict[str, Any]]:
    rounds, count = (5, 2_000) if quick else (9, 10_000)
    body = os.urandom(SIZE)
    async with (
        worker.start("raw_echo") as raw_side,
        worker.start("node_echo") as node_side,
        p2p.open_node(node_id="asker", listen_port=None) as node,
    ):
        raw = await trio.open_tcp_stream("127.0.0.1", (await raw_side.result())["port"])
        peer = (await node.connect(f"127.0.0.1:{(await node_side.result())['port']}")).peer_id
        await _raw_seconds(raw, body, count // 4)
        await _node_seconds(node, peer, body, count // 4)
        ratios, rates, many, works = [], [], [], []
        for _ in range(rounds):
            idle = time.process_time() + raw_side.processor_s()
            baseline = await _raw_seconds(raw, body, count)
            baseline_work = time.process_time() + raw_side.processor_s() - idle
            idle = time.process_time() + node_side.processor_s()
            seconds = await _node_seconds(node, peer, body, count)
            works.append(baseline_work / (time.process_time() + node_side.processor_s() - idle))
            ratios.append(baseline / seconds)
            rates.append(count / seconds)
            many.append(baseline / await _side_by_side(node, peer, body, count, 32))
    ratio = statistics.median(ratios)
    return [
        {
            "question": f"request and answer of {SIZE} B, one at a time, ÷ raw trio echo",
            "value": statistics.median(rates),
            "unit": "requests/s",
            "baseline": "trio.SocketStream, send_all and receive_some",
            "ratio": ratio,
            "goal": f">= {GOAL}",
            "met": ratio >= GOAL,
            "note": f"{min(ratios):.2f} to {max(ratios):.2f} over {rounds} rounds;"
            f" in processor time of both ends {statistics.median(works):.2f};"
            f" 32 at a time {statistics.median(many):.1f} × the echo",
        }
    ]


def run(quick: bool) -> list[dict[str, Any]]:
    """Measure and return the rows."""
    return trio.run(_measure, quick)
