"""What every benchmark shares: paired rounds, rows, and how they are told.

Absolute times move by a factor of two between runs on a shared machine. So a question is a ratio: what is measured and
its baseline run in turn, round by round, and the ratio is taken within each round. The median over the rounds is the
answer, and the spread says how far to trust it.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class Row:
    """One question and its answer.

    Attributes:
        question: what is compared with what, in words.
        ratio: the measured value over its baseline.
        goal: what this version is to reach.
        better: which side of the goal is good.
        figures: absolute figures behind the ratio, for the reader only.
        spread: half the distance between the quartiles of the rounds' ratios, relative to the median.
    """

    question: str
    ratio: float
    goal: float
    better: Better = "higher"
    figures: str = ""
    spread: float | None = None

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.ratio >= self.goal if self.better == "higher" else self.ratio <= self.goal


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


def as_table(rows: list[Row]) -> str:
    """Aligned plain text, one line a row."""
    header = ("question", "ratio", "spread", "goal", "met", "figures")
    lines = [header]
    for row in rows:
        sign = "≥" if row.better == "higher" else "≤"
        spread = "" if row.spread is None else f"±{row.spread:.0%}"
        met = "yes" if row.met else "NO"
        lines.append((row.question, f"{row.ratio:.3g}", spread, f"{sign} {row.goal:g}", met, row.figures))
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def as_json(rows: list[Row]) -> dict[str, list[dict[str, object]]]:
    """The same as values: `{"rows": [{"question", "ratio", "goal", "met", …}]}`."""
    return {
        "rows": [
            {
                "question": row.question,
                "ratio": round(row.ratio, 4),
                "goal": row.goal,
                "better": row.better,
                "met": row.met,
                "spread": None if row.spread is None else round(row.spread, 4),
                "figures": row.figures,
            }
            for row in rows
        ]
    }
