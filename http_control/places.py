"""Who has the places of a server: bounded in all and for each source, and with rules for who gives way (threat T54).

A source that has its share, or anybody when all places are taken, gets in only if somebody gives way. The first to give
way is one that is owed nothing any more, then the one that waits longest for its next request, then the one whose
request has been coming, or whose answer has been left untaken, longest: a connection that writes or reads by drips has
no claim on a place that somebody else wants.

Pure values: it refuses to know how a connection is ended.
"""

from __future__ import annotations

from collections import Counter
from typing import Generic, Protocol, TypeVar

from http_control.limits import HttpLimits


class Guest(Protocol):
    """Who takes a place."""

    def yields(self, now: float) -> tuple[int, float] | None:
        """How readily it gives way, the lowest first; None as long as it does not."""


G = TypeVar("G", bound=Guest)


class Places(Generic[G]):
    """The places of one server.

    Args:
        limits: `connections_max` and `connections_per_source_max` are used.
    """

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._guests: dict[G, str | None] = {}
        self._of_source: Counter[str] = Counter()

    def in_the_way(self, source: str | None, now: float) -> tuple[bool, G | None]:
        """Whether one more of a source may come, and who has to go for that.

        Args:
            source: None for one that is not counted by itself.
            now: on the clock of `Guest.yields`.
        """
        is_source_full = source is not None and self._of_source[source] >= self._limits.connections_per_source_max
        if not is_source_full and len(self._guests) < self._limits.connections_max:
            return True, None
        among = [guest for guest, its in self._guests.items() if not is_source_full or its == source]
        ready = [(key, guest) for guest in among if (key := guest.yields(now)) is not None]
        if not ready:
            return False, None
        return True, min(ready, key=lambda pair: pair[0])[1]

    def take(self, guest: G, source: str | None) -> None:
        """Give a place."""
        self._guests[guest] = source
        if source is not None:
            self._of_source[source] += 1

    def leave(self, guest: G) -> None:
        """Take a place back; without effect if that happened already."""
        source = self._guests.pop(guest, None)
        if source is None:
            return
        self._of_source[source] -= 1
        if not self._of_source[source]:
            del self._of_source[source]
