"""Whose logs a node keeps (replication section 6).

- With a trust list: the origins it names, and nobody else.
- With a network key: members, and origins that members introduce. One peer introduces at most
  `introduced_origins_per_peer_max`, and at least half of the `origins_max` slots stay for identities that proved
  themselves to us in a handshake: a member who makes up identities cannot crowd out the others.
- Open, or on loopback without either: only origins that proved themselves to us.

Pure: it knows identities and counts, nothing of links or stores.
"""

from __future__ import annotations

from collections.abc import Iterable

from p2p.ids import PeerId
from p2p.limits import Limits


class OriginAdmission:
    """Decides, and remembers what it decided, for one node."""

    def __init__(
        self, own: PeerId, limits: Limits, *, trusted: frozenset[PeerId] | None, members_introduce: bool
    ) -> None:
        self._own = own
        self._limits = limits
        self._trusted = trusted
        self._members_introduce = members_introduce
        self._proven: set[PeerId] = set()
        self._introduced: dict[PeerId, PeerId | None] = {}
        self._introductions: dict[PeerId, int] = {}

    def seed(self, origins: Iterable[PeerId]) -> None:
        """Take over the origins that the store holds already: they were admitted once."""
        for origin in origins:
            if origin != self._own and origin not in self._proven:
                self._introduced.setdefault(origin, None)

    def prove(self, peer_id: PeerId) -> None:
        """An identity completed a handshake with us: its own log may be kept."""
        if peer_id in self._proven or (self._trusted is not None and peer_id not in self._trusted):
            return
        if peer_id not in self._introduced and len(self) >= self._limits.origins_max:
            return
        self._drop_introduction(peer_id)
        self._proven.add(peer_id)

    def admit(self, origin: PeerId, via: PeerId) -> bool:
        """Whether records of `origin`, carried by the peer `via`, are kept."""
        if origin == self._own:
            return True
        if self._trusted is not None:
            return origin in self._trusted
        if origin in self._proven or origin in self._introduced:
            return True
        if not self._members_introduce:
            return False
        limits = self._limits
        if self._introductions.get(via, 0) >= limits.introduced_origins_per_peer_max:
            return False
        if len(self) >= limits.origins_max or len(self._introduced) >= limits.origins_max // 2:
            return False
        self._introduced[origin] = via
        self._introductions[via] = self._introductions.get(via, 0) + 1
        return True

    def forget(self, origin: PeerId) -> None:
        """Free the slot of an origin whose log was forgotten."""
        self._drop_introduction(origin)
        self._proven.discard(origin)

    def is_unlimited(self, origin: PeerId) -> bool:
        """Whether the byte quota does not hold for this origin: it is listed by name."""
        return self._trusted is not None and origin in self._trusted

    def __len__(self) -> int:
        return len(self._proven) + len(self._introduced)

    def _drop_introduction(self, origin: PeerId) -> None:
        via = self._introduced.pop(origin, None)
        if via is not None:
            self._introductions[via] -= 1
            if not self._introductions[via]:
                del self._introductions[via]
