"""How long something with a peer is waited for that was too short before: twice as long each time, for a while.

Responsible for the factor, and for forgetting it. It refuses to know what is waited for.
"""

from __future__ import annotations

from p2p.ids import PeerId


class Patience:
    """Factors of many peers, 1 unless something was doubled.

    Args:
        factor_max: no more than that many times as long.
        kept_s: a factor is forgotten so many seconds after it was doubled last.
        peers_max: of so many peers; the one that was doubled longest ago goes first.
    """

    __slots__ = ("_factor_max", "_factors", "_kept_s", "_peers_max")

    def __init__(self, factor_max: int, kept_s: float, peers_max: int) -> None:
        self._factor_max = factor_max
        self._kept_s = kept_s
        self._peers_max = peers_max
        self._factors: dict[PeerId, tuple[int, float]] = {}

    def factor(self, peer_id: PeerId, now: float) -> int:
        """How many times as long as usual."""
        factor, until = self._factors.get(peer_id, (1, now))
        return factor if now < until else 1

    def double(self, peer_id: PeerId, now: float) -> None:
        """Twice as long from now on."""
        factor = min(2 * self.factor(peer_id, now), self._factor_max)
        self._factors.pop(peer_id, None)
        self._factors[peer_id] = factor, now + self._kept_s
        if len(self._factors) > self._peers_max:
            del self._factors[next(iter(self._factors))]
