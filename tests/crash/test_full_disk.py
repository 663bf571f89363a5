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
@pytest.mark.parametrize("how", ["50000", "50000 320", "200000"])
def test_t61_a_full_file_system_is_survived_and_left_behind(tmp_path: Path, how: str) -> None:
    program = f"{sys.executable} -m tests.crash.fuller {tmp_path} tmpfs {how}"
    fuller = f"mount -t tmpfs -o size=8m tmpfs {tmp_path} && exec {program}"
    assert run(["unshare", "-m", "sh", "-c", fuller]) == ["failed StoreFull", "read-only", "recovered"]


@pytest.mark.skipif(not can_mount(), reason="mounting a small file system needs privileges")
def test_t61_where_nothing_can_be_written_the_reason_is_told_and_what_is_there_read(tmp_path: Path) -> None:
    said = run(["unshare", "-m", sys.executable, "-m", "tests.crash.unwritable", str(tmp_path)])
    fresh = ["start StoreFull disk is full", "read StoreError start again"]
    full, read_only = ["start StoreFull disk is full", "read 1"], ["start StoreError", "read 1"]
    assert said == [*fresh * 3, *full, *read_only, "read StoreError copy"]


@pytest.mark.parametrize("log_kib", [[], ["320"]])
def test_t61_a_write_that_fails_is_survived_and_left_behind(tmp_path: Path, log_kib: list[str]) -> None:
    said = run([sys.executable, "-m", "tests.crash.fuller", str(tmp_path), "fsize", "50000", *log_kib])
    assert said == ["failed StoreError", "read-only", "recovered"]
