"""How much of the disk's speed is left to an application that appends, everything durable?

Raw means: append the payloads' bytes to a file, fdatasync, in a loop. Ours hashes, signs, keeps an index and heads,
and writes everything twice (SQLite's log, then its file): the checkpoints are within the measured time. Both use the
same directory; set TMPDIR to measure another disk. On a file system in memory the answer means nothing.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from benchmarks.harness import Row, quiet_collector, spread_of
from p2p.limits import Limits
from p2p.node.writer import Writer
from p2p.replication.batch import NewRecord
from p2p.store.keys import open_store
from p2p.windows import SystemBlocking, SystemClock

RECORD_BYTES: Final = 256
PER_CALL: Final = 1000
CALLS: Final = 160
"""One round writes 42 MB: each has several of SQLite's checkpoints in it, and begins its log anew."""
APPENDERS: Final = 10
SINGLES: Final = 1000


@asynccontextmanager
async def _writer(folder: Path) -> AsyncIterator[Writer]:
    store, identity = open_store(folder / "data", entropy=os.urandom, say=lambda _: None)
    writer = Writer(
        store=store,
        identity=identity,
        clock=SystemClock(),
        blocking=SystemBlocking(),
        limits=Limits(),
        emit=lambda _: None,
        admit=lambda _origin, _via: True,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        yield writer
        nursery.cancel_scope.cancel()
    store.close()


def _raw(file: int, data: bytes, times: int) -> None:
    for _ in range(times):
        os.write(file, data)
        os.fdatasync(file)


async def _seconds(work: Callable[[], Awaitable[None]]) -> float:
    with quiet_collector():
        start = time.perf_counter()
        await work()
        return time.perf_counter() - start


async def _compare(
    rounds: int, ours: Callable[[], Awaitable[None]], raw: Callable[[], Awaitable[None]]
) -> tuple[float, float, list[float]]:
    """Seconds of ours and of raw (medians), and raw ÷ ours of each round."""
    ours_s, raw_s = [], []
    for number in range(rounds + 1):
        first, second = (ours, raw) if number % 2 else (raw, ours)
        pair = {first: await _seconds(first), second: await _seconds(second)}
        if number:
            # The first round warms up.
            ours_s.append(pair[ours])
            raw_s.append(pair[raw])
    ratios = [slow / fast for fast, slow in zip(ours_s, raw_s, strict=True)]
    return statistics.median(ours_s), statistics.median(raw_s), ratios


async def _many(folder: Path, rounds: int) -> Row:
    payloads = [NewRecord("app", None, os.urandom(RECORD_BYTES)) for _ in range(PER_CALL)]
    data = b"".join(record.payload for record in payloads)
    with (folder / "raw").open("ab", buffering=0) as file:
        async with _writer(folder) as writer:

            async def ours() -> None:
                for _ in range(CALLS):
                    await writer.append_many(payloads)

            async def raw() -> None:
                _raw(file.fileno(), data, CALLS)

            ours_s, raw_s, ratios = await _compare(rounds, ours, raw)
    ratio = statistics.median(ratios)
    return {
        "question": "append_many, 1,000 records of 256 B a call, durable ÷ raw append + fdatasync of the same bytes",
        "value": round(PER_CALL * CALLS / ours_s),
        "unit": "records/s",
        "baseline": round(PER_CALL * CALLS / raw_s),
        "ratio": round(ratio, 2),
        "goal": ">= 0.4",
        "met": ratio >= 0.4,
        "note": f"± {spread_of(ratios):.0%}, checkpoints included",
    }


async def _single(folder: Path, rounds: int) -> Row:
    record = NewRecord("app", None, os.urandom(RECORD_BYTES))
    with (folder / "raw").open("ab", buffering=0) as file:
        async with _writer(folder) as writer:

            async def append() -> None:
                for _ in range(SINGLES // APPENDERS):
                    await writer.append_many((record,))

            async def ours() -> None:
                async with trio.open_nursery() as nursery:
                    for _ in range(APPENDERS):
                        nursery.start_soon(append)

            async def raw() -> None:
                _raw(file.fileno(), record.payload, SINGLES)

            ours_s, raw_s, ratios = await _compare(rounds, ours, raw)
    ratio = statistics.median(ratios)
    return {
        "question": f"single durable appends of 256 B, {APPENDERS} at once ÷ raw append + fdatasync, one at a time",
        "value": round(SINGLES / ours_s),
        "unit": "records/s",
        "baseline": round(SINGLES / raw_s),
        "ratio": round(ratio, 2),
        "goal": ">= 2",
        "met": ratio >= 2,
        "note": f"± {spread_of(ratios):.0%}",
    }


async def _measure(quick: bool) -> list[Row]:
    rounds = 2 if quick else 9
    rows = []
    for question in (_many, _single):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(await question(Path(folder), rounds))
    return rows


def run(quick: bool) -> list[Row]:
    """Measure and return the rows."""
    return trio.run(_measure, quick)
