"""A program of one's own in a simulated world."""

from __future__ import annotations

from dataclasses import replace

import trio

from p2p.errors import NodeClosed, StoreError
from p2p.node.node import Node
from p2p.replication.batch import NewRecord
from p2p.testing.machine import Machine
from p2p.testing.plan import Plan, draw_plan
from p2p.testing.workload import Workload
from p2p.testing.world import World


class Shop(Workload):
    """Sells something every second, with or without saying so."""

    def __init__(self, *, tells: bool) -> None:
        super().__init__()
        self.tells = tells
        self.sold = 0

    async def __call__(self, machine: Machine, node: Node) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(super().__call__, machine, node)
            nursery.start_soon(self.sell, machine, node)

    async def sell(self, machine: Machine, node: Node) -> None:
        while not self.is_resting:
            await trio.sleep(1)
            sale = NewRecord("sales", None, b"%d" % self.sold)
            self.sold += 1
            try:
                if self.tells:
                    await self.append(machine, node, [sale])
                else:
                    await node.wal.append_many([sale])
            except StoreError:
                continue
            except NodeClosed:
                return


def small_plan() -> Plan:
    return replace(draw_plan(3, nodes=2, seconds=45), faults=("crash",))


def test_a_program_of_ones_own_runs_in_a_world_and_what_it_appends_is_checked() -> None:
    shop = Shop(tells=True)
    report = World(3, small_plan(), workload=shop).run()
    assert not report.failures, report
    assert shop.sold > 2
    assert report.records > shop.sold / 2


def test_what_nobody_said_would_be_appended_is_a_forgery() -> None:
    report = World(3, small_plan(), workload=Shop(tells=False)).run()
    assert "was never appended: b'" in report.failures[0]
