"""Whole networks of real nodes, from seeds: see p2p/testing/world.py for what happens in them, and what must hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2p.testing.plan import draw_plan
from p2p.testing.world import World

ROOT = Path(__file__).resolve().parents[2]

SEEDS = range(20)
NODES = 5
"""Two or three more of them are four fifths of a world's time; `make proof` has 120 worlds of seven."""
FAILED_ONCE = (115, 264, 272)
"""Seeds that found something when they were new. They stay, although a change of the kit gives them another world: each
bug has a test of its own beside the code."""


@pytest.mark.parametrize(
    ("seed", "nodes"), [*((seed, NODES) for seed in SEEDS), *((seed, None) for seed in FAILED_ONCE)]
)
def test_world(seed: int, nodes: int | None) -> None:
    report = World(seed, draw_plan(seed, nodes=nodes)).run()
    assert not report.failures, str(report)
    assert report.records
    assert bool(report.plan.walls) == bool(report.peaks["circuits passed on"])
    assert report.plan.asks == any("was answered by" in line for line in report.trace)


def test_a_seed_gives_the_same_trace_in_another_process() -> None:
    """Another process has other addresses and another order of hashes: neither may show.

    Two short worlds that have loss, villains, rot, resets, a split and wrong clocks between them.
    """
    outputs = []
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "p2p.testing", "--seed", "12", "--worlds", "2", "--trace"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.append(done.stdout.splitlines())
    assert len(outputs[0]) > 100
    assert outputs[0] == outputs[1]
