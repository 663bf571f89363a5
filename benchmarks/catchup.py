"""How fast does an empty node catch up, durable record by durable record, against local appends?

A holder has 100,000 records of 256 B. In every round, in another order from one to the next: a node with an empty store
appends as many, in calls of 1,000 (that is the baseline); and a second process with an empty store connects to the
holder over TCP and tells when everything is durable there. And the live tail: how long after an append returns is the
record durable at the other side.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from typing import Any, Final

import trio

import p2p
from benchmarks import worker
from benchmarks.harness import quiet_collector

RECORD_BYTES: Final = 256
PER_CALL: Final = 1000
WARM_UP: Final = 1
WARM_UP_LIVE: Final = 10


async def _append(node: p2p.Node, records: int) -> float:
    """Seconds that the appends take."""
    payloads = [os.urandom(RECORD_BYTES) for _ in range(PER_CALL)]
    with quiet_collector():
        started = time.perf_counter()
        for _ in range(records // PER_CALL):
            await node.wal.append_many(payloads)
        return time.perf_counter() - started


async def _append_anew(records: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        async with p2p.open_node(node_id="alone", data_dir=folder, listen_port=None) as node:
            return await _append(node, records)


async def _catch_up(port: int, records: int) -> float:
    async with worker.start("follower", port, records) as side:
        await side.result()
        await side.go()
        return float((await side.result())["seconds"])


async def _compare(rounds: int, records: int) -> list[tuple[float, float]]:
    """Seconds of the appends and of the catch-up, of each round."""
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        async with p2p.open_node(node_id="holder", data_dir=folder, network_key=bytes(32)) as holder:
            await _append(holder, records)
            port = holder.endpoints[0].port
            for number in range(WARM_UP + rounds):
                if number % 2:
                    append_s = await _append_anew(records)
                    catch_up_s = await _catch_up(port, records)
                else:
                    catch_up_s = await _catch_up(port, records)
                    append_s = await _append_anew(records)
                if number >= WARM_UP:
                    pairs.append((append_s, catch_up_s))
    return pairs


async def _live(rounds: int) -> list[tuple[float, float]]:
    """Seconds until a record is durable here, and until it is at the other side, of each round."""
    pairs = []
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        async with (
            p2p.open_node(node_id="a", data_dir=one) as a,
            p2p.open_node(node_id="b", data_dir=other) as b,
        ):
            await a.connect(b.endpoints[0])
            for number in range(WARM_UP_LIVE + rounds):
                started = time.perf_counter()
                seq = await a.wal.append(b"%d" % number)
                local = time.perf_counter() - started
                await a.wal.wait_replicated(seq, peers=1)
                if number >= WARM_UP_LIVE:
                    pairs.append((local, time.perf_counter() - started))
    return pairs


async def _measure(quick: bool) -> list[dict[str, Any]]:
    records, rounds = (20_000, 3) if quick else (100_000, 5)
    pairs = await _compare(rounds, records)
    ratios = [append_s / catch_up_s for append_s, catch_up_s in pairs]
    ratio = statistics.median(ratios)
    live = await _live(50 if quick else 300)
    append_rate, rate = (records / statistics.median(side) for side in zip(*pairs, strict=True))
    local, remote = (statistics.median(side) for side in zip(*live, strict=True))
    low, _, high = statistics.quantiles([there / here for here, there in live], n=4)
    return [
        {
            "question": f"catch-up of {records:,} records of 256 B over TCP, durable, ÷ local append_many",
            "value": rate,
            "unit": "records/s",
            "baseline": f"append_many of as many, {append_rate:,.0f}",
            "ratio": ratio,
            "goal": ">= 0.5",
            "met": ratio >= 0.5,
            "note": f"{min(ratios):.2f} to {max(ratios):.2f} over {rounds} rounds",
        },
        {
            "question": "append on A → acknowledged as durable by B, median ÷ append on A, median",
            "value": remote * 1e3,
            "unit": "ms",
            "baseline": f"append on A, {local * 1e3:.2f} ms",
            "ratio": remote / local,
            "goal": "<= 3",
            "met": remote / local <= 3,
            "note": f"one process, two stores on one disk; half of {len(live)} between {low:.1f} and {high:.1f}",
        },
    ]


def run(quick: bool) -> list[dict[str, Any]]:
    """Measure and return the rows."""
    return trio.run(_measure, quick)
