"""How fast does an empty node catch up, durable record by durable record, against local appends?

The holder appends 100,000 records of 256 B in calls of 1,000 (that is the baseline, in the same run); then a second
process with an empty store connects over TCP and tells when everything is durable there. And the live tail: how long
after an append returns is the record durable at the other side.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import trio

import p2p
from benchmarks import worker

RECORD_BYTES = 256
PER_CALL = 1000


async def _catch_up(folder: Path, records: int) -> tuple[float, float]:
    async with p2p.open_node(node_id="holder", data_dir=folder, network_key=bytes(32)) as node:
        payloads = [p2p.NewRecord("app", None, os.urandom(RECORD_BYTES)) for _ in range(PER_CALL)]
        started = time.perf_counter()
        for _ in range(records // PER_CALL):
            await node.wal.append_many(payloads)
        append_seconds = time.perf_counter() - started
        async with worker.start("follower", node.endpoints[0].port, records) as side:
            await side.result()
            await side.go()
            seconds = (await side.result())["seconds"]
    return append_seconds, seconds


async def _live(rounds: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        async with (
            p2p.open_node(node_id="a", data_dir=one) as a,
            p2p.open_node(node_id="b", data_dir=other) as b,
        ):
            await a.connect(b.endpoints[0])
            local, remote = [], []
            for number in range(rounds):
                started = time.perf_counter()
                seq = await a.wal.append(b"%d" % number)
                local.append(time.perf_counter() - started)
                await a.wal.wait_replicated(seq, peers=1)
                remote.append(time.perf_counter() - started)
    return statistics.median(local), statistics.median(remote)


async def _measure(quick: bool) -> list[dict[str, Any]]:
    records = 20_000 if quick else 100_000
    ratios, rates = [], []
    for _ in range(1 if quick else 3):
        with tempfile.TemporaryDirectory() as folder:
            append_seconds, seconds = await _catch_up(Path(folder), records)
        ratios.append(append_seconds / seconds)
        rates.append(records / seconds)
    ratio = statistics.median(ratios)
    local, remote = await _live(50 if quick else 300)
    return [
        {
            "question": f"catch-up of {records:,} records of 256 B over TCP, durable, ÷ local append_many",
            "value": statistics.median(rates),
            "unit": "records/s",
            "baseline": "append_many of the same records, 1,000 a call",
            "ratio": ratio,
            "goal": ">= 0.5",
            "met": ratio >= 0.5,
            "note": f"{min(ratios):.2f} to {max(ratios):.2f}",
        },
        {
            "question": "append on A → acknowledged as durable by B, median ÷ append on A, median",
            "value": remote * 1e3,
            "unit": "ms",
            "baseline": f"append on A, {local * 1e3:.2f} ms",
            "ratio": remote / local,
            "goal": "<= 3",
            "met": remote / local <= 3,
            "note": "one process, two stores on one disk",
        },
    ]


def run(quick: bool) -> list[dict[str, Any]]:
    """Measure and return the rows."""
    return trio.run(_measure, quick)
