"""Whole networks of real nodes, from seeds: see p2p/testing/world.py for what happens in them, and what must hold."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from p2p.limits import Limits
from p2p.testing.plan import FAULTS, RELAY_FAULT, Plan, draw_plan
from p2p.testing.world import World

ROOT = Path(__file__).resolve().parents[2]

SEEDS = (5, 6, 12, 14, 17, 19, 20, 26, 28, 29, 31, 37, 43, 45, 48, 52, 55, 57, 59, 63)
"""Of the first seventy, cheap ones that have everything twice between them; each kind of fault does happen in two."""
NODES = 5
"""Two or three more of them are four fifths of a world's time; `make proof` has worlds of seven."""
FAILED_ONCE = (65, 115, 264, 272)
"""Seeds that found something when they were new. They stay, although a change of the kit gives them another world: each
bug has a test of its own beside the code."""


@pytest.mark.parametrize("seed", [*SEEDS, *FAILED_ONCE])
def test_world(seed: int) -> None:
    report = World(seed, draw_plan(seed, nodes=NODES)).run()
    assert not report.failures, str(report)
    assert report.records
    assert bool(report.plan.walls) == bool(report.peaks["circuits passed on"])
    assert report.plan.asks == any("was answered by" in line for line in report.trace)


def kinds(plan: Plan) -> set[object]:
    """What this world is like, each in a word or two."""
    found: set[object] = {plan.admission, *(plan.faults or ["peace"])}
    found |= {f"{len(plan.villains)} villains", f"{len(plan.relays)} relays", f"receives {plan.segment_bytes}"}
    found |= {f"buffers {plan.buffer_bytes}", f"records {plan.record_bytes_max}", f"latency {plan.latency_s}"}
    found |= {("limits", plan.limits != Limits()), ("discovery", plan.discovery), ("walls", bool(plan.walls))}
    found |= {("requests", plan.asks), ("mail", plan.mails), ("disk errors", plan.disk_fault_rate > 0)}
    return found | {("loss", plan.loss > 0), ("duplicates", plan.duplicates > 0), ("jitter", plan.jitter_s > 0)}


def test_these_worlds_have_everything_twice_between_them() -> None:
    every = set[object]().union(*(kinds(draw_plan(seed, nodes=NODES)) for seed in range(1000)))
    assert every >= {*FAULTS, RELAY_FAULT, "peace", "key", "trust", "2 villains", "2 relays"}
    had = Counter(kind for seed in SEEDS for kind in kinds(draw_plan(seed, nodes=NODES)))
    assert {kind for kind in every if had[kind] < 2} == set()


def test_a_seed_gives_the_same_trace_in_another_process() -> None:
    """Another process has other addresses and another order of hashes: neither may show.

    Two small worlds that have loss, a villain, rot, resets, a split, walls, failing disks, requests, mail and wrong
    clocks between them; `tests/proof/traces.py` has twenty.
    """
    which = ["--seed", "246", "--worlds", "2", "--nodes", "3", "--seconds", "47"]
    outputs = []
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "p2p.testing", *which, "--trace"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.append(done.stdout.splitlines())
    assert len(outputs[0]) > 100
    assert outputs[0] == outputs[1]
