"""How fast is a request and its answer, against a raw trio echo of as many bytes?

Asker and answerer are two processes on loopback, and the next request is made when the answer to the last one is there:
what counts is how long one takes. The baseline has no deadline, no encryption and nobody to address; a request has all
three. Where 32 ask at a time, all requests share the one link that there is to a peer, and the echo has a connection
for each, as a program without a protocol would.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

import trio

import p2p
from benchmarks import worker
from benchmarks.harness import Row, Tell, ratio, row
from benchmarks.pace import Pace
from benchmarks.worker import Effort, effort

SIZE = 128
AT_ONCE = 32


async def _raw_seconds(stream: trio.SocketStream, body: bytes, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        await stream.send_all(body)
        got = await stream.receive_some()
        while len(got) < len(body):
            got += await stream.receive_some()
    return time.perf_counter() - started


async def _node_seconds(node: p2p.Node, peer: p2p.Peer, body: bytes, count: int) -> float:
    started = time.perf_counter()
    request = node.request
    for _ in range(count):
        await request(peer, "echo", body, timeout_s=5)
    return time.perf_counter() - started


async def _together(asking: Sequence[Callable[[], Awaitable[float]]]) -> float:
    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for ask in asking:
            nursery.start_soon(ask)
    return time.perf_counter() - started


async def _rows(pace: Pace, tell: Tell) -> None:
    rounds, count = (5, 800) if pace.quick else (9, 9_600)
    body, each = os.urandom(SIZE), count // AT_ONCE
    async with (
        worker.start("raw_echo") as raw_side,
        worker.start("node_echo") as node_side,
        p2p.open_node(node_id="asker", listen_port=None) as node,
        AsyncExitStack() as streams,
    ):
        port = (await raw_side.result())["port"]
        raw = [await streams.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port)) for _ in range(AT_ONCE)]
        peer = await node.connect(f"127.0.0.1:{(await node_side.result())['port']}")
        raw_many = [partial(_raw_seconds, stream, body, each) for stream in raw]
        node_many = [partial(_node_seconds, node, peer, body, each)] * AT_ONCE
        measured = await pace.in_turn(
            rounds,
            lambda: effort(_raw_seconds(raw[0], body, count), raw_side),
            lambda: effort(_node_seconds(node, peer, body, count), node_side),
            lambda: effort(_together(raw_many), raw_side),
            lambda: effort(_together(node_many), node_side),
        )
    echo, requests, echo_many, requests_many = zip(*measured, strict=True)
    one, many = (f"request and answer of {SIZE} B, {how} at a time, ÷ raw trio echo" for how in ("one", f"{AT_ONCE}"))
    tell(_row(one, ">= 0.8", "send_all and receive_some of trio.SocketStream", count, echo, requests))
    tell(_row(f"{many} on {AT_ONCE} connections", "", "the same on a connection each", count, echo_many, requests_many))


def _row(question: str, goal: str, baseline: str, count: int, theirs: Sequence[Effort], ours: Sequence[Effort]) -> Row:
    work = ratio((each.together for each in theirs), (each.together for each in ours))
    return row(
        question,
        ratio((each.seconds for each in theirs), (each.seconds for each in ours)),
        goal,
        value=statistics.median(count / each.seconds for each in ours),
        unit="requests/s",
        baseline=f"{baseline}, {count / statistics.median(each.seconds for each in theirs):,.0f}",
        note=f"in processor time of both ends {work}",
    )


def run(pace: Pace, tell: Tell) -> None:
    """Measure and tell the rows."""
    pace.run(_rows, pace, tell)
