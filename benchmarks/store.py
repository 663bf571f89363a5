"""How much of the disk's speed is left to an application that appends, everything durable?

Ours are calls of a running node, `node.wal.append_many` and `node.wal.append`: it encodes, hashes, signs, keeps heads
and an index, and copies the index into SQLite's file from time to time, within the measured time. Raw means: append the
payloads' bytes to a file, fdatasync, in a loop. Both lie in the same directory; set TMPDIR to measure another disk. On
a file system in memory the answer means nothing.

The processor time of a call, beside its clock, is what other work on the machine changes least. A disk that takes
longer makes both take longer, and the ratio rise.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import trio

import p2p
from benchmarks.harness import Row, Tell, quiet_collector, ratio, row
from benchmarks.pace import Pace
from benchmarks.worker import Effort, effort
from p2p.node.wal import Wal

RECORD_BYTES: Final = 256
PER_CALL: Final = 1000
CALLS: Final = 160
"""One round writes 42 MB: each has several of SQLite's checkpoints in it."""
CALLS_QUICK: Final = 40
APPENDERS: Final = 10
SINGLES: Final = 1000

Work = Callable[[], Awaitable[None]]


async def _seconds(work: Work) -> float:
    with quiet_collector():
        started = time.perf_counter()
        await work()
        return time.perf_counter() - started


async def _row(question: str, goal: str, pace: Pace, ours: Work, raw: Work, *, records: int, calls: int) -> Row:
    async def spend(work: Work) -> Effort:
        return await effort(_seconds(work))

    mine, theirs = zip(
        *await pace.in_turn(5 if pace.quick else 15, partial(spend, ours), partial(spend, raw)), strict=True
    )
    clock_s, raw_clock_s = (statistics.median(each.seconds for each in side) for side in (mine, theirs))
    work_ms, raw_work_ms = (statistics.median(each.together for each in side) / calls * 1e3 for side in (mine, theirs))
    return row(
        question,
        ratio((each.seconds for each in theirs), (each.seconds for each in mine)),
        goal,
        value=records / clock_s,
        unit="records/s",
        baseline=f"{records / raw_clock_s:,.0f}",
        note=f"a call {clock_s / calls * 1e3:.2f} ms, {work_ms:.2f} of the processor's;"
        f" raw {raw_clock_s / calls * 1e3:.2f} and {raw_work_ms:.2f}",
    )


def _append_raw(file: int, data: bytes, times: int) -> None:
    for _ in range(times):
        os.write(file, data)
        os.fdatasync(file)


async def _many(wal: Wal, file: int, pace: Pace) -> Row:
    payloads = [os.urandom(RECORD_BYTES) for _ in range(PER_CALL)]
    data = b"".join(payloads)
    calls = CALLS_QUICK if pace.quick else CALLS

    async def ours() -> None:
        for _ in range(calls):
            await wal.append_many(payloads)

    async def raw() -> None:
        _append_raw(file, data, calls)

    question = "append_many, 1,000 records of 256 B a call, durable ÷ raw append + fdatasync of the same bytes"
    return await _row(question, ">= 0.4", pace, ours, raw, records=PER_CALL * calls, calls=calls)


async def _single(wal: Wal, file: int, pace: Pace) -> Row:
    payload = os.urandom(RECORD_BYTES)

    async def append() -> None:
        for _ in range(SINGLES // APPENDERS):
            await wal.append(payload)

    async def ours() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(APPENDERS):
                nursery.start_soon(append)

    async def raw() -> None:
        _append_raw(file, payload, SINGLES)

    question = f"single durable appends of 256 B, {APPENDERS} at once ÷ raw append + fdatasync, one at a time"
    return await _row(question, ">= 2", pace, ours, raw, records=SINGLES, calls=SINGLES)


async def _rows(pace: Pace, tell: Tell) -> None:
    for question in (_many, _single):
        with tempfile.TemporaryDirectory() as folder, (Path(folder) / "raw").open("ab", buffering=0) as file:
            async with p2p.open_node(node_id="writer", data_dir=Path(folder) / "data", listen_port=None) as node:
                tell(await question(node.wal, file.fileno(), pace))


def run(pace: Pace, tell: Tell) -> None:
    """Measure and tell the rows as they come."""
    pace.run(_rows, pace, tell)
