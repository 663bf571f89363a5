"""Chance from a seed: everything random of a simulated world, and nothing else, comes from here.

A `Dice` is a tree. What one branch draws changes nothing for the others, so a fault more or a node less does not turn
a world into another one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """A source of chance that repeats itself.

    Args:
        seed: an integer, or the path of a branch.

    Example:
        >>> Dice(7).branch("disk").integer(1, 6) == Dice(7).branch("disk").integer(1, 6)
        True
    """

    __slots__ = ("_path", "_random")

    def __init__(self, seed: int | str) -> None:
        self._path = str(seed)
        self._random = random.Random(self._path)  # noqa: S311  # repeats itself: that is what it is for

    def branch(self, name: str) -> Dice:
        """An independent source; the same name gives the same one, whatever was drawn here."""
        return Dice(f"{self._path}/{name}")

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._random.random() < probability

    def fraction(self) -> float:
        """A number from 0 to below 1."""
        return self._random.random()

    def number(self, low: float, high: float) -> float:
        """A number between the two, evenly drawn."""
        return self._random.uniform(low, high)

    def integer(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return self._random.randint(low, high)

    def one_of(self, values: Sequence[T]) -> T:
        """One of the values."""
        return self._random.choice(values)

    def some(self, values: Sequence[T], count: int) -> list[T]:
        """So many different ones of the values, in any order."""
        return self._random.sample(values, count)

    def entropy(self, size: int) -> bytes:
        """Random bytes: fit for the window `entropy` of a simulated node, for nothing else in the world."""
        return self._random.randbytes(size)
