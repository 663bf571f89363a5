"""When an endpoint that failed may be dialled again (T33).

One failure count per place, whoever dialled; two schedules that it indexes: a person who asks again may sooner see an
answer than a node that dials by itself has to. Beyond the end of a schedule the wait doubles up to `backoff_s_max`.
Every wait is shortened by up to a quarter, evenly drawn, so that nodes that lost the same peer at the same moment do
not come back at the same moment.
"""

from __future__ import annotations

from typing import Final

import msgspec

from p2p.errors import Reason
from p2p.ids import PeerEndpoint
from p2p.limits import Limits

JITTER: Final = 0.25
"""The part of a wait that chance may take away."""


class Failures(msgspec.Struct, frozen=True):
    """What is remembered of a place that failed.

    Attributes:
        in_a_row: how often, since it last succeeded.
        due: when it may be dialled by itself again, monotonic seconds.
        reason: of the last one.
    """

    in_a_row: int
    due: float
    reason: Reason


class Backoff:
    """The endpoints that failed lately; at most `backoff_table_max`, those that failed longest ago are forgotten."""

    __slots__ = ("_limits", "_table")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._table: dict[tuple[str, str, int], Failures] = {}

    def __len__(self) -> int:
        return len(self._table)

    def failed(self, endpoint: PeerEndpoint, now: float, draw: float, reason: Reason, *, automatic: bool) -> float:
        """Note a failed dial.

        Args:
            endpoint: where to; who was expected there makes no difference.
            now: monotonic seconds.
            draw: an even draw from [0, 1).
            reason: why.
            automatic: the node dialled by itself.

        Returns:
            When the next dial is due.
        """
        key = endpoint.address
        before = self._table.pop(key, None)
        count = 1 if before is None else before.in_a_row + 1
        due = now + self.wait_s(count, automatic=automatic) * (1 - JITTER * draw)
        if before is not None:
            due = max(due, before.due)  # a manual failure in between does not bring an automatic dial forward
        self._table[key] = Failures(count, due, reason)
        if len(self._table) > self._limits.backoff_table_max:
            del self._table[next(iter(self._table))]
        return due

    def succeeded(self, endpoint: PeerEndpoint) -> None:
        """An authenticated session came of a dial: the endpoint starts anew."""
        self._table.pop(endpoint.address, None)

    def due(self, endpoint: PeerEndpoint, now: float) -> float:
        """When the endpoint may be dialled; `now` if at once."""
        failures = self._table.get(endpoint.address)
        return now if failures is None else max(now, failures.due)

    def failures(self, endpoint: PeerEndpoint) -> Failures | None:
        """How the endpoint failed, None if it did not lately."""
        return self._table.get(endpoint.address)

    def wait_s(self, count: int, *, automatic: bool) -> float:
        """The whole wait after the `count`-th failure in a row (from 1). It never falls as the count grows."""
        limits = self._limits
        schedule = limits.backoff_automatic_s if automatic else limits.backoff_manual_s
        if count <= len(schedule):
            return min(schedule[count - 1], limits.backoff_s_max)
        doublings = min(count - len(schedule), 64)  # far beyond any cap, and no float overflows
        return min(schedule[-1] * 2.0**doublings, limits.backoff_s_max)
