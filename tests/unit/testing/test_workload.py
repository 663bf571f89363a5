"""A program of one's own in a simulated world: that one runs there is shown by the guide."""

from __future__ import annotations

from dataclasses import replace

from p2p.node.node import Node
from p2p.testing.machine import Machine
from p2p.testing.plan import draw_plan
from p2p.testing.workload import Workload
from p2p.testing.world import World


class Silent(Workload):
    """Appends past the ledger."""

    async def __call__(self, machine: Machine, node: Node) -> None:
        await node.wal.append(b"sold 3")


def test_what_nobody_said_would_be_appended_is_a_forgery() -> None:
    plan = replace(draw_plan(3, nodes=2, seconds=36), asks=False)
    report = World(3, plan, workload=Silent()).run()
    assert "was never appended: b'" in report.failures[0]
