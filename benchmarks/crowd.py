"""What do many peers cost: handshakes at a time, memory of one that is idle, the processor's time for thousands?

The node that is measured has this process for itself; its peers are nodes without listeners in another one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Final

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

import p2p
from benchmarks import worker
from benchmarks.harness import Row
from p2p.limits import KIB

AT_ONCE: Final = 32


def _floor_seconds(times: int) -> float:
    """One side's cryptography for so many handshakes: a key pair, three exchanges, a signature made, one verified."""
    static, signing = X25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    public, verifying = static.public_key(), signing.public_key()
    signature = signing.sign(bytes(64))
    started = time.perf_counter()
    for _ in range(times):
        private = X25519PrivateKey.generate()
        private.public_key().public_bytes_raw()
        for _ in range(3):
            private.exchange(public)
        signing.sign(bytes(64))
        verifying.verify(signature, bytes(64))
    return time.perf_counter() - started


async def _handshakes(quick: bool) -> Row:
    rounds, per_round = (3, 320) if quick else (7, 1280)
    ratios, rates, floors = [], [], []
    async with p2p.open_node(node_id="crowded", max_peers=4096) as node, worker.start("crowd", AT_ONCE) as crowd:
        await crowd.result()
        for number in range(rounds + 1):
            floor = _floor_seconds(per_round // 4) * 4
            seconds = (await crowd.ask(task="handshakes", port=node.endpoints[0].port, count=per_round))["seconds"]
            if number:
                # The first round warms up.
                floors.append(floor)
                ratios.append(floor / seconds)
                rates.append(per_round / seconds)
    ratio = statistics.median(ratios)
    return {
        "question": f"handshakes per second, {AT_ONCE} at once ÷ one side's cryptography alone",
        "value": statistics.median(rates),
        "unit": "handshakes/s",
        "baseline": f"1 keygen, 3 exchanges, 1 sign, 1 verify: {statistics.median(floors) / per_round * 1e6:.0f} µs",
        "ratio": ratio,
        "goal": ">= 0.3",
        "met": ratio >= 0.3,
        "note": f"{min(ratios):.2f} to {max(ratios):.2f} over {rounds} rounds",
    }


async def _idle(quick: bool) -> list[Row]:
    warm, many, watch_s = (50, 300, 16.0) if quick else (100, 2000, 30.0)
    # In a process of its own: memory that was freed here before would be used again and not show.
    async with worker.start("hub") as hub, worker.start("crowd", many) as crowd:
        await crowd.result()
        port = (await hub.result())["port"]
        await crowd.ask(task="connect", port=port, count=warm)
        before = await hub.ask()
        await crowd.ask(task="connect", port=port, count=many)
        after = await hub.ask()
        assert after["peers"] == many, "everybody is connected"
        each = (after["resident"] - before["resident"]) / (many - warm)
        # Long enough to see the pings of a quiet link, which come every 15 s.
        await trio.sleep(watch_s)
        share = ((await hub.ask())["processor_s"] - after["processor_s"]) / watch_s
    of_2000 = share * 2000 / many
    return [
        {
            "question": "resident memory per idle peer ÷ 16 KiB",
            "value": each / KIB,
            "unit": "KiB",
            "baseline": "16 KiB",
            "ratio": each / (16 * KIB),
            "goal": "<= 1",
            "met": KIB < each <= 16 * KIB,
            "note": f"{warm} to {many} peers in one process, sealed TCP"
            + ("" if each > KIB else "; not measured: memory that was free before was used"),
        },
        {
            "question": "processor time of 2,000 idle peers ÷ one core",
            "value": of_2000 * 100,
            "unit": "% of a core",
            "baseline": "one core",
            "ratio": of_2000,
            "goal": "<= 0.05",
            "met": of_2000 <= 0.05,
            "note": f"{many} peers over {watch_s:g} s" + ("" if many == 2000 else ", scaled"),
        },
    ]


def run(quick: bool) -> Iterator[Row]:
    """Measure and return the rows as they come."""
    yield trio.run(_handshakes, quick)
    yield from trio.run(_idle, quick)
