"""Tasks that wait for a number to be reached, in any amount.

Tens of thousands may wait for the same head and run into the same timeout. A cancelled one is only marked, and all the
marked ones go when they are the half: so one cancellation costs as little as one wait, on average.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import Final

import trio


class _Waiter:
    __slots__ = ("event",)

    def __init__(self) -> None:
        self.event: trio.Event | None = trio.Event()


class Waiters:
    """Who waits for what. False when nobody does."""

    __slots__ = ("_gone", "_heap", "_numbers")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, _Waiter]] = []
        self._numbers: Final = count()
        self._gone = 0

    def __len__(self) -> int:
        return len(self._heap) - self._gone

    @property
    def lowest(self) -> int:
        """The least that somebody waits for, or who has gone waited for; there has to be one."""
        return self._heap[0][0]

    async def wait(self, number: int) -> None:
        """Wait until `wake` was called with this number, or a larger one."""
        waiter = _Waiter()
        event = waiter.event
        assert event is not None
        # The count keeps the order of those that wait for the same, and waiters need not be comparable.
        heapq.heappush(self._heap, (number, next(self._numbers), waiter))
        try:
            await event.wait()
        except BaseException:
            if not event.is_set():
                waiter.event = None
                self._forget_one()
            raise

    def wake(self, reached: float) -> None:
        """Let all go on that wait for this or less."""
        heap = self._heap
        while heap and (heap[0][0] <= reached or heap[0][2].event is None):
            event = heapq.heappop(heap)[2].event
            if event is None:
                self._gone -= 1
            else:
                event.set()

    def _forget_one(self) -> None:
        self._gone += 1
        if self._gone * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].event is not None]
            heapq.heapify(self._heap)
            self._gone = 0
