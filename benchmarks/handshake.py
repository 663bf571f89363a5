"""What does a mutually authenticated, encrypted link cost, against a bare TCP connect?"""

from __future__ import annotations

import statistics
import time
from typing import Any

import trio

import p2p
from benchmarks import worker


async def _tcp_seconds(port: int) -> float:
    started = time.perf_counter()
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    seconds = time.perf_counter() - started
    await stream.aclose()
    return seconds


async def _link_seconds(node: p2p.Node, port: int) -> float:
    started = time.perf_counter()
    peer = await node.connect(f"127.0.0.1:{port}")
    seconds = time.perf_counter() - started
    await node.disconnect(peer)
    return seconds


async def _measure(quick: bool) -> list[dict[str, Any]]:
    rounds = 60 if quick else 300
    async with (
        worker.start("accept_only") as side,
        p2p.open_node(node_id="dialer", listen_port=None) as node,
    ):
        ports = await side.result()
        for _ in range(10):
            await _tcp_seconds(ports["raw_port"])
            await _link_seconds(node, ports["port"])
        baseline, ours = [], []
        for _ in range(rounds):
            baseline.append(await _tcp_seconds(ports["raw_port"]))
            ours.append(await _link_seconds(node, ports["port"]))
    ratio = statistics.median(ours) / statistics.median(baseline)
    return [
        {
            "question": "connect + mutual handshake ÷ TCP connect, one at a time",
            "value": statistics.median(ours) * 1e6,
            "unit": "µs",
            "baseline": f"trio TCP connect, {statistics.median(baseline) * 1e6:.0f} µs",
            "ratio": ratio,
            "goal": "<= 5",
            "met": ratio <= 5,
            "note": f"{rounds} rounds in turn",
        }
    ]


def run(quick: bool) -> list[dict[str, Any]]:
    """Measure and return the rows."""
    return trio.run(_measure, quick)
