"""The same seed gives the same trace in another process, with other addresses and another order of hashes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEEDS = 20


def test_twenty_seeds_give_the_same_traces_in_two_processes() -> None:
    command = [sys.executable, "-m", "p2p.testing", "--seed", "0", "--worlds", str(SEEDS)]
    running = [
        subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE, text=True
        )
        for seed in "12"
    ]
    outputs = [child.communicate()[0] for child in running]
    assert [child.returncode for child in running] == [0, 0], outputs[0]
    digests = [line for line in outputs[0].splitlines() if line.startswith("  trace ")]
    assert len(set(digests)) == SEEDS
    assert outputs[0] == outputs[1]
