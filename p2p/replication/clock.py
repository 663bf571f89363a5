"""The hybrid logical clock: timestamps that follow the wall clock and yet never go back.

48 bits of Unix milliseconds, 16 bits of counter, read as one number of 64 bits. Every record of our own gets a higher
one than all before it, and than all records of others that were applied before, whatever the wall clock does: it may
jump years in either direction. Nothing is decided by these values, they are for people and for ordering by hand. So a
peer's timestamp from far in the future is recorded with its record as it is, but does not drag our own clock along.

Source: replication section 1.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from p2p.limits import USUAL

HLC_MAX: Final = 2**64 - 1
_COUNTER_BITS: Final = 16
_WALL_MS_MAX: Final = 2**47 - 1
"""The wall clock is believed up to the year 6429. It leaves 2^63 ticks above, so that no tick ever overflows."""


class HybridClock:
    """One node's clock.

    Args:
        last: the highest timestamp this node ever gave out (from its own log), 0 for none.
        future_s_max: a timestamp of others that is further ahead of the wall clock than this, in seconds, is not
            adopted.
    """

    __slots__ = ("_future_ms_max", "_last")

    def __init__(self, last: int = 0, future_s_max: float = USUAL.hlc_future_s_max) -> None:
        self._last = last
        self._future_ms_max = int(future_s_max * 1000)

    @property
    def last(self) -> int:
        """The highest timestamp given out or adopted."""
        return self._last

    def tick(self, wall_ms: int, count: int = 1) -> int:
        """Take `count` consecutive timestamps and return the first of them."""
        assert count > 0
        first = max(self._last + 1, _from_wall(wall_ms))
        self._last = first + count - 1
        assert self._last <= HLC_MAX
        return first

    def observe(self, hlc: int, wall_ms: int) -> None:
        """Take note of somebody's timestamp, so that our next one is higher; unless it is too far in the future."""
        if self._last < hlc < _from_wall(wall_ms + self._future_ms_max):
            self._last = hlc


def wall_ms_of(hlc: int) -> int:
    """Return the wall clock part, in Unix milliseconds."""
    return hlc >> _COUNTER_BITS


def wall_time(hlc: int) -> datetime:
    """Return the wall clock part, in UTC. What lies beyond the year 9999 is shown as its end."""
    seconds, milliseconds = divmod(wall_ms_of(hlc), 1000)
    try:
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=milliseconds * 1000)
    except (ValueError, OverflowError, OSError):
        return datetime.max.replace(tzinfo=UTC)


def _from_wall(wall_ms: int) -> int:
    return min(max(wall_ms, 0), _WALL_MS_MAX) << _COUNTER_BITS
