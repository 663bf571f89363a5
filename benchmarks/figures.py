"""What becomes of the rows: a table for people, JSON for programs, and the machine that they are of."""

from __future__ import annotations

import argparse
import os
import platform
import textwrap
from collections.abc import Mapping, Sequence
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Annotated, Final

import msgspec

from benchmarks.harness import Row

WIDTH: Final = 100
PACKAGES: Final = ("trio-p2p", "trio", "cryptography", "msgspec")
_HEAD: Final = f"{'ratio':>8}  {'goal':<7} {'met':<4} {'half of rounds':<16} question"
_QUESTION_INDENT: Final = " " * _HEAD.index("question")
_DETAILS_INDENT: Final = " " * 10


class Machine(msgspec.Struct, frozen=True):
    """What figures were measured on.

    Attributes:
        cpu: its model, as it calls itself.
        cores: those that this process may use.
        system: the operating system and the kind of machine.
        kernel: its release.
        python: the implementation and its version.
        packages: the versions of what the figures depend on most.
    """

    cpu: str
    cores: int
    system: str
    kernel: str
    python: str
    packages: Mapping[str, str]

    def __str__(self) -> str:
        packages = ", ".join(f"{name} {version}" for name, version in self.packages.items())
        return f"{self.cpu}, {self.cores} cores, {self.system} {self.kernel}, {self.python}, {packages}"


class Figures(msgspec.Struct, frozen=True):
    """All of one run, without a date.

    Attributes:
        machine: what it was measured on.
        quick: whether it was a short run.
        rows: the answers.
        left_out: benchmarks for which no time was left in a short run, or not enough to end them.
    """

    machine: Machine
    quick: bool
    rows: Annotated[Sequence[Row], msgspec.Meta(min_length=1)]
    left_out: tuple[str, ...] = ()


def this_machine(others: Mapping[str, str] | None = None) -> Machine:
    """The one that we run on.

    Args:
        others: versions of packages that another interpreter has.
    """
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        system=f"{platform.system()} on {platform.machine()}",
        kernel=platform.release(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages={name: metadata.version(name) for name in PACKAGES} | dict(others or {}),
    )


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or "a processor without a name"


def as_table(rows: Sequence[Row]) -> str:
    """Plain text of at most `WIDTH` columns: for each row its ratio, its goal, whether that is met, between which half
    of the rounds lie, and the question; below that, further in, what it is made of."""
    lines = [_HEAD]
    for benchmark, of_it in groupby(rows, lambda row: row.benchmark):
        lines += ["", benchmark]
        for row in of_it:
            lines += [*_answer(row), *_details(row)]
    return "\n".join(lines)


def _answer(row: Row) -> list[str]:
    met = "" if row.met is None else "yes" if row.met else "NO"
    half = f"{number(row.low)} to {number(row.high)}" if row.rounds > 1 else "one round"
    start = f"{number(row.ratio):>8}  {row.goal:<7} {met:<4} {half:<16} "
    return textwrap.wrap(row.question, WIDTH, initial_indent=start, subsequent_indent=_QUESTION_INDENT)


def _details(row: Row) -> list[str]:
    told = [f"{number(row.value)} {row.unit} beside {row.baseline}"]
    if row.rounds > 1:
        told.append(f"{row.rounds} rounds")
    if row.note:
        told.append(row.note)
    return textwrap.wrap("; ".join(told), WIDTH, initial_indent=_DETAILS_INDENT, subsequent_indent=_DETAILS_INDENT)


def number(value: float) -> str:
    """A figure with three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def check_out(parser: argparse.ArgumentParser, path: Path | None) -> None:
    """End with one line, before minutes are spent, if the figures cannot be written there."""
    if path is not None:
        was_there = path.exists()
        try:
            path.open("a").close()
            if not was_there:
                # No empty file is left where nothing comes to be measured.
                path.unlink()
        except OSError as error:
            parser.error(f"--out {path}: {error.strerror}")


def write(figures: Figures, path: Path) -> None:
    """Write figures as JSON, all or nothing: a disk that is full leaves those that were there before.

    Raises:
        OSError: it was not possible.
    """
    text = msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n"
    if path.exists() and not path.is_file():
        # A device or a pipe stays what it is.
        path.write_bytes(text)
        return
    path = path.resolve()
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(text)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read(path: Path) -> Figures:
    """Read what `write` wrote.

    Raises:
        OSError: there is no such file, or it cannot be read.
        msgspec.MsgspecError: it is something else, or holds no figure.
    """
    return msgspec.json.decode(path.read_bytes(), type=Figures)
