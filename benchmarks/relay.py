"""What does it cost to go through a relay?

Source, relay and sink are three processes on loopback. The same messages go to the same sink over a direct link and
over a circuit, in turn. Over the circuit every byte is sealed twice at the source and opened twice at the sink, and
opened and sealed once more by the relay: three times the work, by three processes instead of two. On fewer free cores
than that the ratio is the ratio of the work.
"""

from __future__ import annotations

import os
import statistics
from typing import Any

import trio

import p2p
from benchmarks import worker
from benchmarks.messages import node_seconds
from p2p.limits import KIB

GOAL = 0.4


async def _measure(quick: bool) -> list[dict[str, Any]]:
    rounds = 3 if quick else 7
    rows = []
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
            peer = (await direct.connect(f"127.0.0.1:{there['port']}")).peer_id
            await far.connect(f"127.0.0.1:{port}")
            assert not (await far.connect(f"relay://relay/{peer}")).direct
            for size, count in ((128, 100_000), (KIB, 50_000), (64 * KIB, 2_000)):
                body = os.urandom(size)
                if quick:
                    count //= 4
                await node_seconds(direct, peer, direct_done, body, count // 4)
                await node_seconds(far, peer, far_done, body, count // 4)
                ratios, rates = [], []
                for _ in range(rounds):
                    baseline = await node_seconds(direct, peer, direct_done, body, count)
                    seconds = await node_seconds(far, peer, far_done, body, count)
                    ratios.append(baseline / seconds)
                    rates.append(count / seconds)
                ratio = statistics.median(ratios)
                rows.append(
                    {
                        "question": f"one-way messages of {size} B over one relay ÷ direct",
                        "value": statistics.median(rates),
                        "unit": "messages/s",
                        "baseline": "the same over a direct link",
                        "ratio": ratio,
                        "goal": f">= {GOAL}",
                        "met": ratio >= GOAL,
                        "note": f"{min(ratios):.2f} to {max(ratios):.2f} over {rounds} rounds",
                    }
                )
    return rows


def run(quick: bool) -> list[dict[str, Any]]:
    """Measure and return the rows."""
    return trio.run(_measure, quick)
