"""How long something with a peer over a relay is waited for that was too short before: twice as long each time, for a
while.

Responsible for the factor, and for forgetting it. It refuses to know what is waited for.

It is kept for the way and not for the peer: a relay that is silent, be it slow, frozen or hostile, makes nobody wait
longer for another one. What it costs: a peer whose own link is slow is found to be so over each of its relays.
"""

from __future__ import annotations

from typing import TypeAlias

from p2p.ids import PeerId

Way: TypeAlias = tuple[PeerId, PeerId]
"""A peer, and the relay next to this node that leads there."""


class Patience:
    """Factors of many ways, 1 unless something was doubled.

    Args:
        factor_max: no more than that many times as long.
        kept_s: a factor is forgotten so many seconds after it was doubled last.
        ways_max: of so many ways; the one that was doubled longest ago goes first.
    """

    __slots__ = ("_factor_max", "_factors", "_kept_s", "_ways_max")

    def __init__(self, factor_max: int, kept_s: float, ways_max: int) -> None:
        self._factor_max = factor_max
        self._kept_s = kept_s
        self._ways_max = ways_max
        self._factors: dict[Way, tuple[int, float]] = {}

    def factor(self, way: Way, now: float) -> int:
        """How many times as long as usual."""
        factor, until = self._factors.get(way, (1, now))
        return factor if now < until else 1

    def double(self, way: Way, now: float) -> None:
        """Twice as long from now on."""
        factor = min(2 * self.factor(way, now), self._factor_max)
        self._factors.pop(way, None)
        self._factors[way] = factor, now + self._kept_s
        if len(self._factors) > self._ways_max:
            del self._factors[next(iter(self._factors))]
