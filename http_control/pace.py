"""How often a group of sources may be wrong within a second (threat T53).

A wrong token is known as one at once. An application's rule takes its time, and whoever it is asked about meanwhile may
be wrong: so it counts as one until the rule has said yes, and who comes beyond that waits for an answer of before. A
dashboard whose rule looks into a database is let in a little later; guesses are as few as with a rule that is quick.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from http_control.limits import HttpLimits
from http_control.problem import Problem
from p2p import registry


class Guess:
    """What the rule is being asked.

    Attributes:
        is_right: whether it said yes; to be set by who asks.
    """

    __slots__ = ("is_right",)

    def __init__(self) -> None:
        self.is_right = False


class _Asking:
    """A group about which the rule is asked now."""

    __slots__ = ("here", "under_way", "waiting")

    def __init__(self) -> None:
        self.here = 0
        self.under_way = 0
        self.waiting = trio.lowlevel.ParkingLot()


class Pace:
    """Counts who was wrong, and holds back who would be too many.

    Args:
        limits: `failures_per_s`, `failure_sources_max`, and `hook_s_max` for how long somebody waits.
    """

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        # Per group of sources: the second it was wrong in, and how often.
        self._wrong: OrderedDict[str, tuple[int, int]] = OrderedDict()
        # As many as there are requests under way, and no more.
        self._asking: dict[str, _Asking] = {}

    def __len__(self) -> int:
        """Groups that something is kept of."""
        return len(self._wrong) + len(self._asking)

    def check(self, source: str, second: int) -> None:
        """Return unless the source was wrong too often within this second: then it is not listened to.

        Raises:
            Problem: it was.
        """
        self._check(registry.prefix_of(source), second)

    def note(self, source: str, second: int) -> None:
        """Count that it was wrong."""
        self._note(registry.prefix_of(source), second)

    @asynccontextmanager
    async def guess(self, source: str) -> AsyncIterator[Guess]:
        """Hold a place among those that may be wrong, as long as the rule takes; whoever leaves it without a yes was.

        Raises:
            Problem: the source was wrong too often within this second, or none of its places became free.
        """
        group = registry.prefix_of(source)
        asking = self._asking.setdefault(group, _Asking())
        asking.here += 1
        try:
            await self._wait(group, asking)
            guess = Guess()
            asking.under_way += 1
            try:
                yield guess
            finally:
                asking.under_way -= 1
                if not guess.is_right:
                    self._note(group, _this_second())
                asking.waiting.unpark_all()
        finally:
            asking.here -= 1
            if not asking.here:
                del self._asking[group]

    async def _wait(self, group: str, asking: _Asking) -> None:
        with trio.move_on_after(self._limits.hook_s_max):
            while self._check(group, _this_second()) + asking.under_way >= self._limits.failures_per_s:
                # For somebody to be found out, or the next second, in which as many may be wrong again.
                with trio.move_on_at(_this_second() + 1):
                    await asking.waiting.park()
            return
        raise _too_many("more of this source is asked than the application answers")

    def _check(self, group: str, second: int) -> int:
        wrong_in, count = self._wrong.get(group, (second, 0))
        count = count if wrong_in == second else 0
        if count >= self._limits.failures_per_s:
            raise _too_many()
        return count

    def _note(self, group: str, second: int) -> None:
        wrong_in, count = self._wrong.get(group, (second, 0))
        self._wrong[group] = (second, count + 1 if wrong_in == second else 1)
        self._wrong.move_to_end(group)
        if len(self._wrong) > self._limits.failure_sources_max:
            self._wrong.popitem(last=False)


def _this_second() -> int:
    return int(trio.current_time())


def _too_many(why: str = "this source was refused too often") -> Problem:
    return Problem(429, "too_many_attempts", why, headers=(("retry-after", "1"),))
