"""Is an honest peer still served while a node is attacked from all sides at once?

Processes of ordinary priority: the node, which appends and sends to everybody all the time; an honest peer that is
connected and asks it 100 times a second, and at other times connects anew; and three that attack:

    strangers      a thousand connections that send a byte of a handshake now and then, or speak another protocol;
                   thrown out, they come again. Besides, up to 1,000 datagrams a second announce nodes that are made up,
                   or forged
    flooders       four members with the network's key that send up to 3,200 messages a second each to a channel that
                   nobody reads
    stalled        members that are stopped (SIGSTOP) once they are connected, while the node appends and sends to them

The rates are bounds, and attackers have one processor of the machine, the node and its honest peer the others: such
as attack from elsewhere have machines of their own, and who gets a processor here says nothing of the node. What each
side takes is told beside the result.

The honest peer is measured before, during and after the attack; the quiet figure is that of before and after. All of it
stays on loopback, is bounded in number, and ends with this process.
"""

from __future__ import annotations

import os
import signal
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import trio

from benchmarks import worker
from benchmarks.harness import Row, Tell, row, spread
from benchmarks.pace import Pace
from p2p.limits import MIB

SLOW: Final = 1000
FLOODERS: Final = 4
STALLED: Final = 8
DISCOVERY_PORT: Final = 37_991
FAILED_S: Final = 60.0
"""What a connect that failed counts as."""
CALM_S: Final = 2.0
"""From the beginning of the attack to the first measurement, and from its end: by then all is as it goes on."""


class Stage(NamedTuple):
    """What the honest peer saw during one stage of the run.

    Attributes:
        took: seconds of each request.
        node_share, attackers_share: of one core, while it asked.
    """

    took: list[float]
    node_share: float
    attackers_share: float


class Attackers(NamedTuple):
    """The processes that attack."""

    strangers: worker.Worker
    flooders: worker.Worker

    def processor_s(self) -> float:
        """Processor time that they have taken together."""
        return self.strangers.processor_s() + self.flooders.processor_s()


@asynccontextmanager
async def _attack(port: int) -> AsyncIterator[Attackers]:
    """Attack a node while the body runs."""
    async with (
        worker.start("strangers") as strangers,
        worker.start("flooders", FLOODERS) as flooders,
        worker.start("stalled", STALLED) as stalled,
    ):
        for each in (strangers, flooders, stalled):
            await each.result()
        await flooders.ask(port=port)
        await stalled.ask(port=port)
        os.kill(stalled.pid, signal.SIGSTOP)
        await strangers.ask(port=port, discovery_port=DISCOVERY_PORT, connections=SLOW)
        await trio.sleep(CALM_S)
        yield Attackers(strangers, flooders)
    await trio.sleep(CALM_S)


async def _stage(
    target: worker.Worker, honest: worker.Worker, port: int, requests: int, attackers: Attackers | None = None
) -> Stage:
    began_s, before = trio.current_time(), await target.ask()
    spent_s = attackers.processor_s() if attackers else 0.0
    took = (await honest.ask(port=port, requests=requests))["took"]
    spent_s = attackers.processor_s() - spent_s if attackers else 0.0
    after, lasted_s = await target.ask(), trio.current_time() - began_s
    return Stage(took, (after["cpu_s"] - before["cpu_s"]) / lasted_s, spent_s / lasted_s)


def _p99_ms(took: list[float]) -> float:
    return statistics.quantiles(took, n=100)[98] * 1e3


def _median_ms(took: list[float]) -> float:
    return statistics.median(took) * 1e3


async def _rows(pace: Pace, tell: Tell) -> None:
    requests, dials = (200, 10) if pace.quick else (2000, 40)
    async with worker.start("target", DISCOVERY_PORT) as target, worker.start("honest") as honest:
        port = (await target.result())["port"]
        await honest.result()
        await honest.ask(port=port, requests=requests // 4, dials=2)
        # Before and after, together as many as meanwhile.
        quiet = [await _stage(target, honest, port, requests // 2)]
        calm_dials = await honest.ask(port=port, dials=dials)
        before = await target.ask()
        async with _attack(port) as attackers:
            attacked = await _stage(target, honest, port, requests, attackers)
            dialled = await honest.ask(port=port, dials=dials)
            after = await target.ask()
            effort, flood = await attackers.strangers.ask(report=True), await attackers.flooders.ask(report=True)
        quiet.append(await _stage(target, honest, port, requests // 2))
        links_lost = (await honest.ask(port=port))["links_lost"]
    tell(_latency(quiet, attacked))
    tell(_handshakes(calm_dials["dialled"], dialled["dialled"]))
    grown = max(0, after["resident"] - before["resident"])
    tell(
        row(
            "under attack: growth of the node's resident memory ÷ 32 MiB",
            spread([grown / (32 * MIB)]),
            "<= 1",
            value=grown / MIB,
            unit="MiB",
            baseline="32 MiB",
            note=f"{SLOW} slow handshakes ({effort['connections']:,} connections), {effort['datagrams']:,} forged"
            f" datagrams, {flood['sent']:,} messages of {FLOODERS} flooders, {STALLED} stalled readers",
        )
    )
    tell(
        row(
            "under attack: honest peers disconnected",
            spread([float(links_lost)]),
            "<= 0",
            value=links_lost,
            unit="links",
            baseline="none",
            note=f"the node ended {after['refused'] - before['refused']:,} connections that proved nothing",
        )
    )


def _latency(quiet: list[Stage], attacked: Stage) -> Row:
    calm = [seconds for stage in quiet for seconds in stage.took]
    each = " and ".join(f"{_p99_ms(stage.took):.1f}" for stage in quiet)
    return row(
        "under attack: p99 latency of an honest request ÷ the same when it is quiet",
        spread([_p99_ms(attacked.took) / _p99_ms(calm)]),
        "<= 2",
        value=_p99_ms(attacked.took),
        unit="ms",
        baseline=f"{_p99_ms(calm):.1f} when it is quiet, {each} before and after: one attack, that cannot be turned",
        note=f"{len(attacked.took)} requests; medians {_median_ms(attacked.took):.1f} and {_median_ms(calm):.1f} ms;"
        f" of one processor the node takes {attacked.node_share:.0%} (quiet: {quiet[0].node_share:.0%}), the attackers"
        f" {attacked.attackers_share:.0%}",
    )


def _handshakes(calm: list[float | None], dialled: list[float | None]) -> Row:
    done = [seconds for seconds in dialled if seconds is not None]
    slowest_s = max(done) if len(done) == len(dialled) else FAILED_S
    calm_s = max((seconds for seconds in calm if seconds is not None), default=FAILED_S)
    return row(
        "under attack: slowest connect and handshake of an honest peer ÷ 1 s",
        spread([slowest_s]),
        "<= 1",
        value=slowest_s * 1e3,
        unit="ms",
        baseline=f"1 s; {calm_s * 1e3:.0f} ms when it is quiet",
        note=f"{len(dialled)} of them, {len(dialled) - len(done)} failed",
    )


def run(pace: Pace, tell: Tell) -> None:
    """Measure and tell the rows."""
    pace.run(_rows, pace, tell)
