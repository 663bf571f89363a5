"""How a quick run keeps to its time, however slow or busy the machine is.

The run has `QUICK_S_MAX`, and each benchmark its share of what is left, by what it takes on quiet cores. When its share
is used up, no more rounds begin but the three that an answer needs, and the row says so. What is not over when the time
of the whole run is, ends there: its rows until then count, and who has no time left is told as left out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
import trio

from benchmarks.harness import Row, in_turn

T = TypeVar("T")

QUICK_S_MAX: Final = 110.0
"""The rest of two minutes is for what is under way to end, processes included (`worker.END_S_MAX`)."""
ROUNDS_MIN: Final = 3


class OutOfTime(Exception):
    """The time of a quick run is up."""


@dataclass(slots=True)
class Pace:
    """What a benchmark may take.

    Attributes:
        quick: whether amounts are to be small.
        share_s: rounds that would begin after it are left out, but `ROUNDS_MIN`; by `time.monotonic`.
        end_s: all that is under way ends there.
    """

    quick: bool = False
    share_s: float = math.inf
    end_s: float = math.inf
    _due: int = 0

    async def in_turn(self, rounds: int, *sides: Callable[[], Awaitable[T]]) -> list[tuple[T, ...]]:
        """`harness.in_turn`, and perhaps fewer rounds."""
        self._due = rounds
        return await in_turn(rounds, *sides, enough=self._enough)

    def _enough(self, rounds: int) -> bool:
        return rounds >= ROUNDS_MIN and time.monotonic() >= self.share_s

    def told(self, row: Row) -> Row:
        """A row of what `in_turn` measured last: it says if there were fewer rounds."""
        if not 1 < row.rounds < self._due:
            return row
        note = f"cut to {row.rounds} rounds of {self._due}: its time was up"
        return msgspec.structs.replace(row, note=f"{row.note}; {note}" if row.note else note)

    def run(self, work: Callable[..., Awaitable[T]], *args: object) -> T:
        """`trio.run`, until the time is up.

        Raises:
            OutOfTime: it is.
        """

        async def until_the_end() -> T:
            with trio.move_on_after(max(0.0, self.end_s - time.monotonic())):
                return await work(*args)
            raise OutOfTime

        return trio.run(until_the_end)


class Budget:
    """The time of a run, and who gets how much of it."""

    def __init__(self, shares: Mapping[str, float], names: Iterable[str], *, quick: bool) -> None:
        """
        Args:
            shares: the seconds that each takes on quiet cores.
            names: of the benchmarks that will run, in their order.
            quick: whether there is a bound at all.
        """
        self._quick = quick
        self._end_s = time.monotonic() + QUICK_S_MAX if quick else math.inf
        self._waiting = {name: shares[name] for name in names}

    def begin(self, name: str) -> Pace:
        """The next benchmark begins.

        Raises:
            OutOfTime: nothing is left for it.
        """
        now_s = time.monotonic()
        if now_s >= self._end_s:
            raise OutOfTime
        waiting = sum(self._waiting.values())
        share = self._waiting.pop(name) / waiting
        return Pace(self._quick, now_s + (self._end_s - now_s) * share, self._end_s)
