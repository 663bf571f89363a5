"""How much of the disk's speed is left to an application that appends, everything durable?

Ours are calls of a running node, `node.wal.append_many` and `node.wal.append`: it encodes, hashes, signs, keeps heads
and an index, and copies the index into SQLite's file from time to time, within the measured time. Raw means: append the
payloads' bytes to a file, fdatasync, in a loop. Both lie in the same directory, and take turns, in another order from
round to round; set TMPDIR to measure another disk. On a file system in memory the answer means nothing.

The processor time of a call, beside its clock, is what other work on the machine changes least. A disk that takes
longer makes both take longer, and the ratio rise.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple

import trio

import p2p
from benchmarks.harness import Row, quiet_collector
from p2p.node.wal import Wal

RECORD_BYTES: Final = 256
PER_CALL: Final = 1000
CALLS: Final = 160
"""One round writes 42 MB: each has several of SQLite's checkpoints in it."""
APPENDERS: Final = 10
SINGLES: Final = 1000
WARM_UP: Final = 1

Work = Callable[[], Awaitable[None]]


class _Spent(NamedTuple):
    """What a piece of work took, in seconds."""

    clock: float
    processor: float


class _Compared(NamedTuple):
    """Ours and raw of each round."""

    ours: list[_Spent]
    raw: list[_Spent]

    @property
    def ratios(self) -> list[float]:
        """Raw ÷ ours, by the clock."""
        return [raw.clock / ours.clock for ours, raw in zip(self.ours, self.raw, strict=True)]


async def _spend(work: Work) -> _Spent:
    with quiet_collector():
        clock, processor = time.perf_counter(), time.process_time()
        await work()
        return _Spent(time.perf_counter() - clock, time.process_time() - processor)


async def _compare(rounds: int, ours: Work, raw: Work) -> _Compared:
    compared = _Compared([], [])
    for number in range(WARM_UP + rounds):
        first, second = (ours, raw) if number % 2 else (raw, ours)
        spent = {first: await _spend(first), second: await _spend(second)}
        if number >= WARM_UP:
            compared.ours.append(spent[ours])
            compared.raw.append(spent[raw])
    return compared


def _row(question: str, compared: _Compared, *, records: int, calls: int, goal: float) -> Row:
    ratios = compared.ratios
    ratio = statistics.median(ratios)
    clock, raw_clock = (statistics.median(spent.clock for spent in side) for side in compared)
    processor, raw_processor = (statistics.median(spent.processor for spent in side) for side in compared)
    return {
        "question": question,
        "value": round(records / clock),
        "unit": "records/s",
        "baseline": round(records / raw_clock),
        "ratio": round(ratio, 2),
        "goal": f">= {goal:g}",
        "met": ratio >= goal,
        "note": f"{min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} rounds; a call "
        f"{clock / calls * 1e3:.2f} ms, {processor / calls * 1e3:.2f} of the processor's; raw "
        f"{raw_clock / calls * 1e3:.2f} and {raw_processor / calls * 1e3:.2f}",
    }


def _append_raw(file: int, data: bytes, times: int) -> None:
    for _ in range(times):
        os.write(file, data)
        os.fdatasync(file)


async def _many(wal: Wal, file: int, rounds: int) -> Row:
    payloads = [os.urandom(RECORD_BYTES) for _ in range(PER_CALL)]
    data = b"".join(payloads)

    async def ours() -> None:
        for _ in range(CALLS):
            await wal.append_many(payloads)

    async def raw() -> None:
        _append_raw(file, data, CALLS)

    return _row(
        "append_many, 1,000 records of 256 B a call, durable ÷ raw append + fdatasync of the same bytes",
        await _compare(rounds, ours, raw),
        records=PER_CALL * CALLS,
        calls=CALLS,
        goal=0.4,
    )


async def _single(wal: Wal, file: int, rounds: int) -> Row:
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

    return _row(
        f"single durable appends of 256 B, {APPENDERS} at once ÷ raw append + fdatasync, one at a time",
        await _compare(rounds, ours, raw),
        records=SINGLES,
        calls=SINGLES,
        goal=2,
    )


async def _measure(quick: bool) -> list[Row]:
    rounds = 5 if quick else 15
    rows = []
    for question in (_many, _single):
        with tempfile.TemporaryDirectory() as folder, (Path(folder) / "raw").open("ab", buffering=0) as file:
            async with p2p.open_node(node_id="writer", data_dir=Path(folder) / "data", listen_port=None) as node:
                rows.append(await question(node.wal, file.fileno(), rounds))
    return rows


def run(quick: bool) -> list[Row]:
    """Measure and return the rows."""
    return trio.run(_measure, quick)
