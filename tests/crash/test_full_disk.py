"""Disks that have no room, or fail at a write: made by the system, not by stand-ins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def can_mount() -> bool:
    """Whether this user may mount a file system in a namespace of its own."""
    probe = "mount -t tmpfs -o size=1m tmpfs /mnt"
    try:
        done = subprocess.run(["unshare", "-m", "sh", "-c", probe], capture_output=True, timeout=30, check=False)
    except OSError:
        return False
    return done.returncode == 0


def run(command: list[str]) -> list[str]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


@pytest.mark.skipif(not can_mount(), reason="mounting a small file system needs privileges")
@pytest.mark.parametrize("log_kib", ["", "320"])
def test_t61_a_full_file_system_is_survived_and_left_behind(tmp_path: Path, log_kib: str) -> None:
    program = f"{sys.executable} -m tests.crash.fuller {tmp_path} tmpfs {log_kib}"
    fuller = f"mount -t tmpfs -o size=8m tmpfs {tmp_path} && exec {program}"
    assert run(["unshare", "-m", "sh", "-c", fuller]) == ["failed StoreFull", "read-only", "recovered"]


@pytest.mark.parametrize("log_kib", [[], ["320"]])
def test_t61_a_write_that_fails_is_survived_and_left_behind(tmp_path: Path, log_kib: list[str]) -> None:
    said = run([sys.executable, "-m", "tests.crash.fuller", str(tmp_path), "fsize", *log_kib])
    assert said == ["failed StoreError", "read-only", "recovered"]
