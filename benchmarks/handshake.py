"""What does a mutually authenticated, encrypted link cost, against a TCP connect?

The baseline is `trio.open_tcp_stream`, which is how a program on trio connects: it looks the name up, tries addresses
side by side in a nursery, and connects. What the kernel's part of that is, a bare socket without any of it tells in the
note. Each figure is the median of a few connects, so that one that was interrupted does not count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable

import trio

import p2p
from benchmarks import worker
from benchmarks.harness import Tell, ratio, row
from benchmarks.pace import Pace


async def _bare_seconds(port: int) -> float:
    with trio.socket.socket() as bare:
        started = time.perf_counter()
        await bare.connect(("127.0.0.1", port))
        return time.perf_counter() - started


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


async def _median(times: int, connect: Callable[[], Awaitable[float]]) -> float:
    return statistics.median([await connect() for _ in range(times)])


async def _row(pace: Pace, tell: Tell) -> None:
    rounds, times = (9, 10) if pace.quick else (21, 20)
    async with (
        worker.start("accept_only") as side,
        p2p.open_node(node_id="dialer", listen_port=None) as node,
    ):
        ports = await side.result()
        measured = await pace.in_turn(
            rounds,
            lambda: _median(times, lambda: _bare_seconds(ports["raw_port"])),
            lambda: _median(times, lambda: _tcp_seconds(ports["raw_port"])),
            lambda: _median(times, lambda: _link_seconds(node, ports["port"])),
        )
    bare, connects, links = zip(*measured, strict=True)
    tell(
        row(
            "connect + mutual handshake ÷ TCP connect, one at a time",
            ratio(links, connects),
            "<= 5",
            value=statistics.median(links) * 1e6,
            unit="µs",
            baseline=f"trio.open_tcp_stream, {statistics.median(connects) * 1e6:.0f}",
            note=f"{times} connects a round; {ratio(links, bare).middle:.1f} × the connect of a bare socket,"
            f" {statistics.median(bare) * 1e6:.0f} µs",
        )
    )


def run(pace: Pace, tell: Tell) -> None:
    """Measure and tell the row."""
    pace.run(_row, pace, tell)
