"""A program of one's own in a simulated world: that one runs there is shown by the guide."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import trio

from p2p.errors import NodeClosed
from p2p.node.node import Node
from p2p.testing.machine import Machine
from p2p.testing.plan import draw_plan
from p2p.testing.workload import Workload
from p2p.testing.world import World


class Silent(Workload):
    """Appends past the ledger."""

    async def __call__(self, machine: Machine, node: Node) -> None:
        await node.wal.append(b"sold 3")


class Sleeper(Workload):
    """Looks for the end of its node now and then."""

    async def __call__(self, machine: Machine, node: Node) -> None:
        with suppress(NodeClosed):
            while True:
                await trio.sleep(3)
                node.stats()


def test_what_nobody_said_would_be_appended_is_a_forgery() -> None:
    plan = replace(draw_plan(3, nodes=2, seconds=36), asks=False)
    report = World(3, plan, workload=Silent()).run()
    assert "was never appended: b'" in report.failures[0]


def test_an_application_that_sleeps_beyond_its_nodes_end_is_told_that_it_may_be_its_own_sleep() -> None:
    plan = replace(draw_plan(3, nodes=2, seconds=45), faults=("restart",), asks=False)
    report = World(3, plan, workload=Sleeper()).run()
    assert "it sleeps for longer itself" in report.failures[0]
