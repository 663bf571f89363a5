"""Fifty nodes in a tree, parted and joined again: equal within 30 virtual seconds of the last link."""

from __future__ import annotations

from dataclasses import replace

from p2p.testing.plan import draw_plan
from p2p.testing.world import CONVERGED_MANY_S_MAX, World

NODES = 50


def test_fifty_nodes_converge() -> None:
    plan = draw_plan(6, nodes=NODES, seconds=60)
    calm = replace(plan, safety_s=10, append_every_s=6, faults=("cut", "power cut", "split"), segment_bytes=None)
    report = World(6, calm).run()
    assert not report.failures, str(report)
    assert len(report.plan.hosts) == NODES
    assert report.converged_s <= CONVERGED_MANY_S_MAX
