"""The programs that tests run beside Python: one list, installed where that can be done, told where it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.house.source import ROOT
from tests.programs import find_program, listed, needs


class Machine:
    """A copy of the script with a list of its own, and stand-ins for `id` and `apt-get`."""

    def __init__(self, place: Path) -> None:
        self.place = place
        shutil.copy(ROOT / "tests" / "install-debian-packages", place)
        (place / "bin").mkdir()

    def lists(self, *rows: str) -> None:
        (self.place / "debian-packages").write_text("# a comment\n" + "".join(f"{row}\n" for row in rows))

    def has(self, program: str, does: str) -> None:
        path = self.place / "bin" / program
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)

    def install(self) -> subprocess.CompletedProcess[str]:
        path = f"{self.place / 'bin'}:{os.environ['PATH']}"
        script = self.place / "install-debian-packages"
        return subprocess.run([script], env={"PATH": path}, capture_output=True, text=True, check=True)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_nothing_is_said_or_installed_where_all_is_there(machine: Machine) -> None:
    machine.lists("coreutils ls listing")
    machine.has("apt-get", "exit 1")
    done = machine.install()
    assert (done.stdout, done.stderr) == ("", "")


def test_who_is_not_root_is_told_what_to_install(machine: Machine) -> None:
    machine.lists("coreutils ls listing", "frobnitz frobnitzd the frobnication")
    machine.has("id", "echo 1000")
    machine.has("apt-get", "exit 1")
    done = machine.install()
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert "skipped" in line
    assert line.endswith("apt-get install -y --no-install-recommends frobnitz")


def test_root_installs_what_is_missing_and_only_that(machine: Machine) -> None:
    machine.lists("coreutils ls listing", "frobnitz frobnitzd the frobnication")
    machine.has("id", "echo 0")
    machine.has("apt-get", f'echo "$*" >> {machine.place}/calls')
    done = machine.install()
    assert (done.stdout, done.stderr) == ("installing for the tests: frobnitz\n", "")
    update, install = (machine.place / "calls").read_text().splitlines()
    assert update.endswith(" update")
    assert install.endswith(" install -y --no-install-recommends frobnitz")


def test_a_failed_installation_is_told_and_ends_nothing(machine: Machine) -> None:
    machine.lists("frobnitz frobnitzd the frobnication")
    machine.has("id", "echo 0")
    machine.has("apt-get", "echo 'E: no such thing'; exit 100")
    done = machine.install()
    assert "E: no such thing" in done.stderr
    assert "skipped" in done.stderr


def test_a_test_that_needs_a_missing_program_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.programs.PLACES", str(tmp_path))
    mark = needs("nginx").mark
    assert mark.args == (True,)
    assert "nginx" in mark.kwargs["reason"]
    (tmp_path / "nginx").write_text("")
    (tmp_path / "nginx").chmod(0o755)
    assert needs("nginx").mark.args == (False,)


def test_only_listed_programs_can_be_needed() -> None:
    assert "nginx" in listed()
    with pytest.raises(KeyError):
        find_program("frobnitzd")
