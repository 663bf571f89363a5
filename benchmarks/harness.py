"""What every benchmark shares: rounds in turn, ratios with their spread, and the rows that come of them.

Absolute times move by a factor of two between runs on a shared machine. So a question is a ratio: what is measured and
its baseline run in turn, round by round, every other round in the opposite order, and the ratio is taken within each
round. The median over the rounds is the answer; its spread, between which half of the rounds lie, says how far to trust
it. What cannot be turned (a count, a log that only grows, an attack) says so in its note.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, TypeAlias, TypeVar

import msgspec

T = TypeVar("T")

Figure: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]
Above0: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]
Curve: TypeAlias = tuple[tuple[Above0, Above0], ...]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One question and its answer. All of it is written, also what is empty.

    Attributes:
        benchmark: the name of the module that asks.
        question: what is compared with what, in words.
        ratio: the answer; the median over the rounds.
        low, high: half of the rounds lie between them.
        rounds: how many there were.
        goal: of the ratio, as ">= 0.3" or "<= 8"; empty if there is none.
        met: whether it is; None if there is no goal.
        value, unit: what was measured, as it is.
        baseline: what it was compared with, in words.
        note: what else there is to know.
        curve: pairs of size and value, if the question was asked at several sizes.
    """

    benchmark: str = ""
    question: str
    ratio: Figure
    low: Figure
    high: Figure
    rounds: Annotated[int, msgspec.Meta(ge=1)] = 1
    goal: Annotated[str, msgspec.Meta(pattern=r"^([<>]= \d+(\.\d+)?)?$")] = ""
    met: bool | None = None
    value: float
    unit: str
    baseline: str
    note: str = ""
    curve: Curve = ()

    def __post_init__(self) -> None:
        if not self.low <= self.ratio <= self.high < math.inf:
            raise ValueError(f"the ratio is not within its spread: {self.low}, {self.ratio}, {self.high}")
        if not math.isfinite(self.value):
            raise ValueError(f"the value is no number: {self.value}")


Tell: TypeAlias = Callable[[Row], None]
"""Takes a row as soon as it is known."""


async def in_turn(
    rounds: int,
    *sides: Callable[[], Awaitable[T]],
    warm_up: int = 1,
    enough: Callable[[int], bool] = lambda _: False,
) -> list[tuple[T, ...]]:
    """Run all sides in turn, round by round.

    None pays for the garbage of another: a collection runs before each, and within it as in any program.

    Args:
        rounds: at least 1; every other round goes through the sides in the opposite order.
        sides: each does its work once and returns its figure.
        warm_up: rounds that are run and not counted.
        enough: whether so many rounds will do, where the time is short.

    Returns:
        The figures of each round, in the order of `sides`.
    """
    assert rounds >= 1
    counted = []
    order = range(len(sides))
    for number in range(warm_up + rounds):
        figures: dict[int, T] = {}
        for side in reversed(order) if number % 2 else order:
            gc.collect()
            figures[side] = await sides[side]()
        if number >= warm_up:
            counted.append(tuple(figures[side] for side in order))
            if enough(len(counted)):
                break
    return counted


@dataclass(frozen=True, slots=True)
class Ratio:
    """One thing ÷ another.

    Attributes:
        middle: the median over the rounds.
        low, high: half of the rounds lie between them (the quartiles).
        rounds: how many there were.
    """

    middle: float
    low: float
    high: float
    rounds: int

    def __truediv__(self, bound: float) -> Ratio:
        return Ratio(self.middle / bound, self.low / bound, self.high / bound, self.rounds)

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(first: Iterable[float], second: Iterable[float]) -> Ratio:
    """Compare two series within each round."""
    return spread(a / b for a, b in zip(first, second, strict=True))


def spread(values: Iterable[float]) -> Ratio:
    """The median of values, one a round, and between which half of them lie."""
    each = list(values)
    if len(each) < 2:
        return Ratio(each[0], each[0], each[0], 1)
    low, middle, high = statistics.quantiles(each, n=4, method="inclusive")
    # Of values that are all alike the last digit may differ.
    return Ratio(middle, min(low, middle), max(middle, high), len(each))


def row(
    question: str,
    answer: Ratio,
    goal: str = "",
    *,
    value: float,
    unit: str,
    baseline: str,
    note: str = "",
    curve: Curve = (),
) -> Row:
    """The row of an answer; see `Row`."""
    return Row(
        question=question,
        ratio=answer.middle,
        low=answer.low,
        high=answer.high,
        rounds=answer.rounds,
        goal=goal,
        met=reached(answer.middle, goal) >= 1 if goal else None,
        value=value,
        unit=unit,
        baseline=baseline,
        note=note,
        curve=curve,
    )


def reached(found: float, goal: str) -> float:
    """How far a goal such as ">= 0.3" or "<= 5" is reached: 1 is just so, more is better. A goal of nothing at all
    ("<= 0") is reached without end, or not at all."""
    sign, _, bound = goal.partition(" ")
    over, under = (found, float(bound)) if sign == ">=" else (float(bound), found)
    return over / under if under else math.inf


def seconds_of(work: Callable[[], object], times: int = 1) -> float:
    """Seconds of one run of something short: the median of so many, without the collector's pauses."""
    taken = []
    with quiet_collector():
        for _ in range(times):
            started = time.perf_counter()
            work()
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Keep the garbage collector's pauses out of what is too short for them."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
