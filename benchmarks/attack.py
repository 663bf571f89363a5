"""Is an honest peer still served while a node is attacked from all sides at once?

Five processes: the node; an honest peer that asks it one request after the other, and now and then connects anew; and
three that attack, with the processor time that those two leave, because what is measured is the node and not who gets
the processor:

    strangers      a thousand connections that send a byte of a handshake now and then, or speak another protocol;
                   thrown out, they come again. Besides, datagrams announce nodes that are made up, or forged
    flooders       members with the network's key that send as fast as they may to a channel that nobody reads
    stalled        members that are stopped (SIGSTOP) once they are connected, while the node appends and sends to them

All of it stays on loopback, is bounded in number, and ends with this process.
"""

from __future__ import annotations

import os
import signal
from typing import Final

import trio

from benchmarks import worker
from benchmarks.harness import Row
from p2p.limits import MIB

SLOW: Final = 1000
FLOODERS: Final = 4
STALLED: Final = 8
DISCOVERY_PORT: Final = 37_991
CALM_S: Final = 2.0
"""From the beginning of the attack to the first measurement: by then all attackers are there."""


async def _measure(quick: bool) -> list[Row]:
    requests, dials = (400, 10) if quick else (2000, 40)
    async with (
        worker.start("target", DISCOVERY_PORT) as target,
        worker.start("honest") as honest,
        worker.start("strangers") as strangers,
        worker.start("flooders", FLOODERS) as flooders,
        worker.start("stalled", STALLED) as stalled,
    ):
        port = (await target.result())["port"]
        for each in (honest, strangers, flooders, stalled):
            await each.result()
        await honest.ask(port=port, requests=requests // 4, dials=2)
        quiet = await honest.ask(port=port, requests=requests, dials=dials)
        before = await target.ask()
        await flooders.ask(port=port)
        await stalled.ask(port=port)
        os.kill(stalled.pid, signal.SIGSTOP)
        await strangers.ask(port=port, discovery_port=DISCOVERY_PORT, connections=SLOW)
        await target.ask(burden=True)
        await trio.sleep(CALM_S)
        begun, begun_s = await target.ask(), trio.current_time()
        attacked = await honest.ask(port=port, requests=requests, dials=dials)
        after, lasted_s = await target.ask(), trio.current_time() - begun_s
        effort, flood = await strangers.ask(report=True), await flooders.ask(report=True)
    grown = after["resident"] - before["resident"]
    slower = attacked["p99_s"] / quiet["p99_s"]
    note = (
        f"{SLOW} slow handshakes ({effort['connections']:,} connections), {effort['datagrams']:,} forged datagrams,"
        f" {flood['sent']:,} messages of {FLOODERS} flooders, {STALLED} stalled readers; the node's processor is busy"
        f" {(after['cpu_s'] - begun['cpu_s']) / lasted_s:.0%} of the time"
    )
    return [
        {
            "question": "under attack: growth of the node's resident memory ÷ 32 MiB",
            "value": grown / MIB,
            "unit": "MiB",
            "baseline": "32 MiB",
            "ratio": grown / (32 * MIB),
            "goal": "<= 1",
            "met": grown <= 32 * MIB,
            "note": note,
        },
        {
            "question": "under attack: slowest connect and handshake of an honest peer ÷ 1 s",
            "value": attacked["dial_s_max"] * 1e3,
            "unit": "ms",
            "baseline": f"1 s; {quiet['dial_s_max'] * 1e3:.0f} ms when it is quiet",
            "ratio": attacked["dial_s_max"],
            "goal": "<= 1",
            "met": attacked["dial_s_max"] <= 1 and not attacked["dials_failed"],
            "note": f"{dials} of them, {attacked['dials_failed']} failed",
        },
        {
            "question": "under attack: p99 latency of an honest request ÷ the same when it is quiet",
            "value": attacked["p99_s"] * 1e3,
            "unit": "ms",
            "baseline": f"quiet: {quiet['p99_s'] * 1e3:.1f} ms",
            "ratio": slower,
            "goal": "<= 2",
            "met": slower <= 2,
            "note": f"{requests}; medians {attacked['median_s'] * 1e3:.1f} and {quiet['median_s'] * 1e3:.1f} ms",
        },
        {
            "question": "under attack: honest peers disconnected",
            "value": attacked["links_lost"],
            "unit": "links",
            "baseline": "none",
            "ratio": float(attacked["links_lost"]),
            "goal": "<= 0",
            "met": not attacked["links_lost"],
            "note": f"the node ended {after['refused']:,} connections that proved nothing",
        },
    ]


def run(quick: bool) -> list[Row]:
    """Measure and return the rows."""
    return trio.run(_measure, quick)
