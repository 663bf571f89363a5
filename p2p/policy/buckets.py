"""The token bucket: so many at once, so many per second in the long run."""

from __future__ import annotations

from typing import Final

_ROUNDING: Final = 1e-6
"""A token is whole when so little is missing: else who waits until `ready_at` may find that nothing is ready yet."""


class TokenBucket:
    """Holds up to `burst` tokens and gains `rate` of them per second; starts full.

    Args:
        rate: tokens per second, not negative.
        burst: how many there are at most, positive.

    A `now` that goes backwards changes nothing: time counts from the latest one seen.
    """

    __slots__ = ("_burst", "_rate", "_seen", "_tokens")

    def __init__(self, rate: float, burst: float) -> None:
        assert rate >= 0, "a bucket does not leak"
        assert burst > 0, "a bucket without room refuses everything"
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._seen: float | None = None

    def take(self, now: float, count: float = 1.0) -> bool:
        """Take `count` tokens if there are as many; else take none and return False."""
        self._fill(now)
        if self._tokens < count - _ROUNDING:
            return False
        self._tokens = max(0.0, self._tokens - count)
        return True

    def give_back(self, count: float = 1.0) -> None:
        """Return tokens that were taken for something that proved harmless. Never fills beyond the burst."""
        self._tokens = min(self._burst, self._tokens + count)

    def available(self, now: float) -> float:
        """How many tokens there are."""
        self._fill(now)
        return self._tokens

    def ready_at(self, now: float, count: float = 1.0) -> float:
        """The first moment, not before `now`, when `take(…, count)` may succeed; infinity if never."""
        self._fill(now)
        missing = count - self._tokens
        if missing <= _ROUNDING:
            return now
        if count > self._burst or self._rate == 0:
            return float("inf")
        return now + missing / self._rate

    def _fill(self, now: float) -> None:
        if self._seen is None:
            self._seen = now
        elif now > self._seen:
            self._tokens = min(self._burst, self._tokens + (now - self._seen) * self._rate)
            self._seen = now


class BucketTable:
    """A token bucket per source, for so many sources; the one that asked longest ago is forgotten for a new one.

    Args:
        rate, burst: of each bucket.
        sources_max: how many are remembered.
    """

    __slots__ = ("_burst", "_rate", "_sources_max", "_table")

    def __init__(self, rate: float, burst: float, sources_max: int) -> None:
        assert sources_max > 0, "a table without room forgets everybody"
        self._rate = rate
        self._burst = burst
        self._sources_max = sources_max
        self._table: dict[str, TokenBucket] = {}

    def __len__(self) -> int:
        return len(self._table)

    def of(self, source: str) -> TokenBucket:
        """The bucket of a source, which becomes the one used last."""
        bucket = self._table.pop(source, None)
        if bucket is None:
            bucket = TokenBucket(self._rate, self._burst)
            if len(self._table) >= self._sources_max:
                del self._table[next(iter(self._table))]
        self._table[source] = bucket
        return bucket
