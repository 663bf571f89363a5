"""How fast does an empty node catch up, durable record by durable record, against local appends?

A holder has 100,000 records of 256 B. In turn, a node with an empty store appends as many, in calls of 1,000 (that is
the baseline), and a second process with an empty store connects to the holder over TCP and tells when everything is
durable there. And the live tail: how long after an append returns is the record durable at the other side.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from typing import Final

import p2p
from benchmarks import worker
from benchmarks.harness import Tell, quiet_collector, ratio, row
from benchmarks.pace import Pace

RECORD_BYTES: Final = 256
PER_CALL: Final = 1000
LIVE_APPENDS: Final = 20


async def append(node: p2p.Node, records: int) -> float:
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
            return await append(node, records)


async def catch_up(port: int, records: int, *behind: str) -> float:
    """Seconds that an empty node in a process of its own takes, from a dial to the last record durable there.

    Args:
        port: of the holder; or of a relay, and who the holder is follows.
        records: how many the holder has.
        behind: nothing, or the holder's peer id.
    """
    async with worker.start("follower", port, records, *behind) as side:
        await side.result()
        await side.go()
        result = await side.result()
    assert result["direct"] == [not behind]
    return float(result["seconds"])


async def _catching_up(pace: Pace, tell: Tell) -> None:
    rounds, records = (3, 10_000) if pace.quick else (5, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        async with p2p.open_node(node_id="holder", data_dir=folder, network_key=bytes(32)) as holder:
            await append(holder, records)
            port = holder.endpoints[0].port
            measured = await pace.in_turn(rounds, lambda: _append_anew(records), lambda: catch_up(port, records))
    append_s, catch_up_s = zip(*measured, strict=True)
    tell(
        row(
            f"catch-up of {records:,} records of 256 B over TCP, durable, ÷ local append_many",
            ratio(append_s, catch_up_s),
            ">= 0.5",
            value=records / statistics.median(catch_up_s),
            unit="records/s",
            baseline=f"append_many of as many, {records / statistics.median(append_s):,.0f}",
        )
    )


async def _live(pace: Pace, tell: Tell) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        async with (
            p2p.open_node(node_id="a", data_dir=one) as a,
            p2p.open_node(node_id="b", data_dir=other) as b,
        ):
            await a.connect(b.endpoints[0])

            async def appends() -> tuple[float, float]:
                """The medians of the seconds until a record is durable here, and until it is at the other side."""
                local, remote = [], []
                for number in range(LIVE_APPENDS):
                    started = time.perf_counter()
                    seq = await a.wal.append(b"%d" % number)
                    local.append(time.perf_counter() - started)
                    await a.wal.wait_replicated(seq, peers=1)
                    remote.append(time.perf_counter() - started)
                return statistics.median(local), statistics.median(remote)

            measured = await pace.in_turn(5 if pace.quick else 15, appends)
    local_s, remote_s = zip(*(each for (each,) in measured), strict=True)
    tell(
        row(
            "append on A → acknowledged as durable by B, median ÷ append on A, median",
            ratio(remote_s, local_s),
            "<= 3",
            value=statistics.median(remote_s) * 1e3,
            unit="ms",
            baseline=f"{statistics.median(local_s) * 1e3:.2f}",
            note=f"both of the same {LIVE_APPENDS} appends a round; one process, two stores on one disk",
        )
    )


def run(pace: Pace, tell: Tell) -> None:
    """Measure and tell the rows as they come."""
    pace.run(_catching_up, pace, tell)
    pace.run(_live, pace, tell)
