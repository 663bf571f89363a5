"""What do many peers cost: handshakes at a time, memory of one that is idle, the processor's time for thousands?

The node that is measured has this process for itself; its peers are nodes without listeners in another one.
"""

from __future__ import annotations

import statistics
import time
from itertools import pairwise
from typing import Final

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

import p2p
from benchmarks import worker
from benchmarks.harness import Tell, ratio, row, spread
from benchmarks.pace import Pace
from p2p.limits import KIB, Limits

AT_ONCE: Final = 32
STEPS: Final = 5
SETTLED_S: Final = 4.0
"""A link that begins has things to do at first, the last of them after 3 s."""
PING_S: Final = Limits().ping_after_s
PING_S_QUICK: Final = 5.0


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


async def _handshakes(pace: Pace, tell: Tell) -> None:
    rounds, per_round = (5, 160) if pace.quick else (9, 1280)
    async with p2p.open_node(node_id="crowded", max_peers=4096) as node, worker.start("crowd", AT_ONCE) as crowd:
        await crowd.result()

        async def cryptography() -> float:
            return _floor_seconds(per_round // 4) * 4

        async def handshakes() -> float:
            done = await crowd.ask(task="handshakes", port=node.endpoints[0].port, count=per_round)
            return float(done["seconds"])

        floor, ours = zip(*await pace.in_turn(rounds, cryptography, handshakes), strict=True)
    each_us = statistics.median(floor) / per_round * 1e6
    tell(
        row(
            f"handshakes per second, {AT_ONCE} at once ÷ one side's cryptography alone",
            ratio(floor, ours),
            ">= 0.3",
            value=per_round / statistics.median(ours),
            unit="handshakes/s",
            baseline=f"1 keygen, 3 exchanges, 1 sign, 1 verify: {each_us:.0f} µs",
        )
    )


async def _idle(pace: Pace, tell: Tell) -> None:
    warm, many, windows, ping_s = (50, 250, 1, PING_S_QUICK) if pace.quick else (200, 2000, 3, PING_S)
    step = (many - warm) // STEPS
    # In a process of its own: memory that was freed here before would be used again and not show.
    async with (
        worker.start("hub", ping_s) as hub,
        worker.start("crowd", many, ping_s) as crowd,
        worker.start("raw_hub") as raw_hub,
        worker.start("raw_crowd", ping_s) as raw_crowd,
    ):
        await crowd.result()
        port = (await hub.result())["port"]
        resident = []
        for count in range(warm, many + 1, step):
            await crowd.ask(task="connect", port=port, count=count)
            now = await hub.ask()
            assert now["peers"] == count, "everybody is connected"
            resident.append(now["resident"])
        each = spread((after - before) / step for before, after in pairwise(resident))
        assert each.middle > KIB, "memory that was free before was used: nothing was measured"
        tell(
            row(
                "resident memory per idle peer ÷ 16 KiB",
                each / (16 * KIB),
                "<= 1",
                value=each.middle / KIB,
                unit="KiB",
                baseline="16 KiB",
                note=f"{warm} to {many} peers in one process, sealed TCP; a bound, nothing to measure in turn",
            )
        )
        await raw_crowd.ask(port=(await raw_hub.result())["port"], count=many)
        await trio.sleep(SETTLED_S)
        looks, raw_looks = [await hub.ask()], [await raw_hub.ask()]
        assert raw_looks[0]["peers"] == many, "everybody is connected"
        for _ in range(windows):
            await trio.sleep(ping_s)
            looks.append(await hub.ask())
            raw_looks.append(await raw_hub.ask())
    # Each window has one ping of each quiet link in it: what there is to do within PING_S.
    spent, raw_spent = (
        [after["until_s"] - before["from_s"] for before, after in pairwise(each)] for each in (looks, raw_looks)
    )
    share, raw_share = (spread(seconds / PING_S for seconds in each) / (many / 2000) for each in (spent, raw_spent))
    scaled = "" if many == 2000 else f", times {2000 / many:g}"
    windows_are = f"{many} peers over {windows} × {ping_s:g} s with a ping of each{scaled}" + (
        "" if ping_s == PING_S else f"; one is due every {PING_S:g} s, and what it takes is reckoned so"
    )
    tell(
        row(
            "processor time of 2,000 idle peers ÷ one core",
            share,
            "<= 0.05",
            value=share.middle * 100,
            unit="% of a core",
            baseline="one core",
            note=windows_are,
        )
    )
    tell(
        row(
            "processor time of 2,000 idle peers ÷ as many raw trio connections that exchange a byte each way as often",
            ratio(spent, raw_spent),
            value=share.middle * 100,
            unit="% of a core",
            baseline=f"raw trio, nothing sealed and no deadline, {raw_share.middle * 100:.2f}",
            note=f"both at the same time; {windows_are}",
        )
    )


def run(pace: Pace, tell: Tell) -> None:
    """Measure and tell the rows as they come."""
    pace.run(_handshakes, pace, tell)
    pace.run(_idle, pace, tell)
