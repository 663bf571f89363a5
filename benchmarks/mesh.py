"""How often does a node of a full mesh receive one and the same batch?

16 nodes in one process (8 in a short run), every one linked with all others over the in-memory network, everything else
as it is: real handshakes, encryption, signatures. First every log finds its way to every node; then random nodes
append, one record a batch, faster than heads are told, and every push that any node received is counted. A node needs
each batch of the others exactly once; what comes on top is what choosing one supplier per log is meant to avoid.
"""

from __future__ import annotations

import logging
import random
import statistics
import time
from collections import Counter
from contextlib import AsyncExitStack

import trio

import p2p
from benchmarks.harness import Tell, row, spread
from benchmarks.pace import Pace
from benchmarks.worker import verdicts
from p2p.transport.memory import MemoryNetwork

NODES = 16
NODES_QUICK = 8


async def _until_equal(nodes: list[p2p.Node]) -> None:
    with trio.fail_after(60):
        while len({node.wal.digest() for node in nodes}) > 1:
            await trio.sleep(0.02)


def _received(nodes: list[p2p.Node]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for node in nodes:
        totals.update(verdicts(node))
    return totals


async def _copies(count: int, batches: int, seed: int) -> tuple[float, float]:
    """Return copies received per batch and node, and batches per second that reached all nodes."""
    rng = random.Random(seed)
    net = MemoryNetwork()
    key = rng.randbytes(32)
    async with AsyncExitStack() as stack:
        nodes: list[p2p.Node] = []
        for number in range(count):
            name = f"n{number}"
            peers = [f"mem://n{other}:9000" for other in range(number)]
            config = p2p.NodeConfig(
                node_id=name,
                listen_port=9000,
                network_key=key,
                network=net.network_for(name),
                peers=tuple(p2p.PeerEndpoint.parse(peer) for peer in peers),
            )
            nodes.append(await stack.enter_async_context(p2p.open_node(config)))
        with trio.fail_after(60):
            while any(len(node.peers()) < count - 1 for node in nodes):
                await trio.sleep(0.02)
        for node in nodes:
            await node.wal.append(b"first")
        await _until_equal(nodes)
        await trio.sleep(1.5)  # until the quiet links have told their heads too

        before = _received(nodes)
        started = time.perf_counter()
        for _ in range(batches):
            await rng.choice(nodes).wal.append(rng.randbytes(64))
        await _until_equal(nodes)
        seconds = time.perf_counter() - started
        await trio.sleep(1.5)
        after = _received(nodes)
    received = sum(after.values()) - sum(before.values())
    applied = after["applied"] - before["applied"]
    assert applied == batches * (count - 1), f"seed {seed}: {applied} batches applied"
    return received / applied, batches / seconds


def run(pace: Pace, tell: Tell) -> None:
    """Measure and tell the row. A count has no baseline that could be measured: each batch once is the least."""
    # Of 16 that stop in turn, those that still run would tell of all that are gone.
    logging.getLogger("p2p").setLevel(logging.ERROR)
    count, batches, seeds = (NODES_QUICK, 50, 1) if pace.quick else (NODES, 500, 3)
    results = [pace.run(_copies, count, batches, seed) for seed in range(seeds)]
    copies = spread(copies for copies, _ in results)
    rate = statistics.median(rate for _, rate in results)
    tell(
        row(
            f"copies of a batch received per node, {count}-node full mesh, steady state",
            copies,
            "<= 1.1",
            value=copies.middle,
            unit="copies",
            baseline="1: each batch once",
            note=f"a count, with a seed a round; {rate:.0f} batches/s reached all nodes, all in one process",
        )
    )
