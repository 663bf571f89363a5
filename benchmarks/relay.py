"""What does it cost to go through a relay?

Source, relay and sink are three processes on loopback. The same messages go to the same sink over a direct link and
over a circuit, in turn. Over the circuit every byte is sealed twice at the source and opened twice at the sink, and
opened and sealed once more by the relay: three times the work, by three processes instead of two. On fewer free cores
than that the ratio is the ratio of the work.

And how fast an empty node catches up over a relay, which keeps no records itself, against the same over a direct link.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from functools import partial

import p2p
from benchmarks import worker
from benchmarks.catchup import append, catch_up
from benchmarks.harness import Row, Tell, ratio, row
from benchmarks.messages import Side, named, node_seconds
from benchmarks.pace import Pace
from benchmarks.worker import Effort, effort
from p2p.limits import KIB


async def _rows(pace: Pace, tell: Tell) -> None:
    async with worker.start("relay") as relay:
        port = (await relay.result())["port"]
        async with (
            worker.start("behind", port) as sink,
            p2p.open_node(node_id="source", listen_port=None, network_key=bytes(32)) as direct,
            p2p.open_node(node_id="far", listen_port=None, network_key=bytes(32)) as far,
            direct.channel("done") as direct_done,
            far.channel("done") as far_done,
        ):
            there = await sink.result()
            near_sink = await direct.connect(f"127.0.0.1:{there['port']}")
            await far.connect(f"127.0.0.1:{port}")
            far_sink = await far.connect(f"relay://relay/{near_sink.peer_id}")
            assert not far_sink.direct
            for size, count in ((128, 100_000), (KIB, 50_000), (64 * KIB, 2_000)):
                body = os.urandom(size)
                if pace.quick:
                    count //= 10

                def sending(
                    node: p2p.Node, to: p2p.Peer, done: p2p.Channel, body: bytes = body, count: int = count
                ) -> Side:
                    return lambda: effort(node_seconds(node, to, done, body, count), relay, sink)

                ways = sending(direct, near_sink, direct_done), sending(far, far_sink, far_done)
                tell(_row(size, count, await pace.in_turn(5 if pace.quick else 9, *ways)))


async def _catching_up(pace: Pace, tell: Tell) -> None:
    rounds, records = (3, 10_000) if pace.quick else (5, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        async with (
            worker.start("relay") as relay,
            p2p.open_node(node_id="holder", data_dir=folder, network_key=bytes(32), listen_host="127.0.0.1") as holder,
        ):
            await append(holder, records)
            port = (await relay.result())["port"]
            await holder.connect(f"127.0.0.1:{port}")
            direct = partial(catch_up, holder.endpoints[0].port, records)
            measured = await pace.in_turn(rounds, direct, partial(catch_up, port, records, str(holder.peer_id)))
    direct_s, relayed_s = zip(*measured, strict=True)
    tell(
        row(
            f"catch-up of {records:,} records of 256 B over one relay, durable, ÷ direct",
            ratio(direct_s, relayed_s),
            ">= 0.4",
            value=records / statistics.median(relayed_s),
            unit="records/s",
            baseline=f"the same over a direct link, {records / statistics.median(direct_s):,.0f}",
        )
    )


def _row(size: int, count: int, measured: list[tuple[Effort, ...]]) -> Row:
    direct, relayed = zip(*measured, strict=True)
    work = ratio((each.together for each in direct), (each.together for each in relayed))
    return row(
        f"one-way messages of {named(size)} over one relay ÷ direct",
        ratio((each.seconds for each in direct), (each.seconds for each in relayed)),
        ">= 0.4",
        value=statistics.median(count / each.seconds for each in relayed),
        unit="messages/s",
        baseline=f"the same over a direct link, {count / statistics.median(each.seconds for each in direct):,.0f}",
        note=f"in processor time of all processes {work}",
    )


def run(pace: Pace, tell: Tell) -> None:
    """Measure and tell the rows as they come."""
    pace.run(_rows, pace, tell)
    pace.run(_catching_up, pace, tell)
