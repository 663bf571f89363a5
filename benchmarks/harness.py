"""What every benchmark shares: paired rounds, rows, and how they are told.

Absolute times move by a factor of two between runs on a shared machine. So a question is a ratio: what is measured and
its baseline run in turn, round by round, and the ratio is taken within each round. The median over the rounds is the
answer, and the spread says how far to trust it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import signal
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

Row = Mapping[str, object]
"""One question and its answer, with the keys of `COLUMNS`: the question in words, the value and unit behind it, the
baseline, the ratio, the goal as ">= 0.3" or "<= 8", whether it is met, and a note."""

COLUMNS: Final = ("question", "value", "unit", "baseline", "ratio", "goal", "met", "note")


@dataclass(frozen=True, slots=True)
class Paired:
    """Two things measured in turn.

    Attributes:
        first, second: medians over the rounds, in the unit that the callables return.
        ratio: median of first ÷ second within each round.
        spread: half the interquartile range of those ratios, relative to their median.
    """

    first: float
    second: float
    ratio: float
    spread: float


def paired(first: Callable[[], float], second: Callable[[], float], rounds: int, *, warm_up: int = 1) -> Paired:
    """Run both in turn and compare them round by round.

    Args:
        first, second: each does its work once and returns its figure (a rate, or seconds), above 0.
        rounds: at least 1; every other round runs them in the opposite order.
        warm_up: rounds that are run and not counted.
    """
    assert rounds >= 1
    pairs: list[tuple[float, float]] = []
    for number in range(warm_up + rounds):
        with quiet_collector():
            if number % 2:
                b = second()
                a = first()
            else:
                a = first()
                b = second()
        if number >= warm_up:
            pairs.append((a, b))
    ratios = [a / b for a, b in pairs]
    return Paired(
        first=statistics.median(a for a, _ in pairs),
        second=statistics.median(b for _, b in pairs),
        ratio=statistics.median(ratios),
        spread=spread_of(ratios),
    )


def spread_of(values: list[float]) -> float:
    """Half the interquartile range over the median; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / middle if middle else 0.0


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Keep the garbage collector's pauses between measurements instead of within them."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def at_most(question: str, value: float, unit: str, baseline: str, ratio: float, goal: float, note: str = "") -> Row:
    """The row of a question whose ratio should not be above `goal`."""
    return {
        "question": question,
        "value": value,
        "unit": unit,
        "baseline": baseline,
        "ratio": ratio,
        "goal": f"<= {goal:g}",
        "met": ratio <= goal,
        "note": note,
    }


def as_table(rows: Sequence[Row]) -> str:
    """Aligned plain text, one line a row."""
    lines = [COLUMNS, *(tuple(_cell(row.get(column, "")) for column in COLUMNS) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return str(value)


def as_json(rows: Sequence[Row]) -> dict[str, object]:
    """The same as values: `{"machine": …, "rows": [{"question", "ratio", "goal", "met", …}]}`."""
    return {"machine": machine(), "rows": [dict(row) for row in rows]}


def check_out(parser: argparse.ArgumentParser, path: Path | None) -> None:
    """End with one line, before minutes are spent, if the figures cannot be written there."""
    if path is not None:
        try:
            path.open("a").close()
        except OSError as error:
            parser.error(f"--out {path}: {error.strerror}")


def write(rows: Sequence[Row], path: Path | None) -> None:
    """Write the figures as JSON, if a file is named for them."""
    if path is not None:
        path.write_text(json.dumps(as_json(rows), indent=2) + "\n", encoding="utf-8")


def end_as_by_ctrl_c() -> None:
    """Let SIGTERM be a KeyboardInterrupt, so that processes and files of the benchmarks are cleared away."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def is_interrupt(error: BaseException) -> bool:
    """Whether somebody pressed Ctrl-C, by itself or in a group of what came of it."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(KeyboardInterrupt) is not None
    return isinstance(error, KeyboardInterrupt)


def machine() -> str:
    """What these figures were measured on, in one line."""
    cores = os.cpu_count() or 1
    return f"{platform.system()} on {platform.machine()}, {cores} cores, Python {platform.python_version()}"
