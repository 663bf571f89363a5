"""Whose logs a node keeps (replication section 6).

- With a trust list: the origins it names, and nobody else.
- With a network key: members, and origins that members introduce. One peer introduces at most
  `introduced_origins_per_peer_max`, and at least half of the `origins_max` slots stay for identities that proved
  themselves to us in a handshake: a member who makes up identities cannot crowd out the others.
- Open, or on loopback without either: only origins that proved themselves to us.

What is not admitted is remembered, so that somebody can be told why two nodes do not agree.

Pure: it knows identities and counts, nothing of links or stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from p2p.ids import PeerId
from p2p.limits import Limits


class _Introduction(msgspec.Struct):
    """An origin that somebody else brought, and who is charged for it; nobody if that was in an earlier run.

    Until something of it is held it only stands for as long as pushes of it are being judged: their bytes may be
    anything, and an origin that nobody signed for costs no slot.
    """

    via: PeerId | None
    judged: int = 0
    held: bool = False


class OriginAdmission:
    """Decides, and remembers what it decided, for one node.

    Attributes:
        left_alone: origins that were refused and still would be; at most `origins_max` of them.
    """

    def __init__(
        self, own: PeerId, limits: Limits, *, trusted: frozenset[PeerId] | None, members_introduce: bool
    ) -> None:
        self._own = own
        self._limits = limits
        self._trusted = trusted
        self._members_introduce = members_introduce
        self._proven: dict[PeerId, None] = {}
        self._held: set[PeerId] = set()
        self._introduced: dict[PeerId, _Introduction] = {}
        self._introductions: dict[PeerId, int] = {}
        self.left_alone: set[PeerId] = set()

    def seed(self, origins: Iterable[PeerId], met: Callable[[PeerId], bool]) -> None:
        """Take over the origins that the store holds already: they were admitted once.

        Args:
            origins: whose logs there are.
            met: whether that identity proved itself to us in an earlier run.
        """
        for origin in origins:
            if origin == self._own:
                continue
            self._held.add(origin)
            if met(origin):
                self._drop_introduction(origin)
                self._proven[origin] = None
            elif origin not in self._proven:
                self._introduced.setdefault(origin, _Introduction(None, held=True))

    def prove(self, peer_id: PeerId) -> None:
        """An identity completed a handshake with us: its own log may be kept.

        When all slots are taken, who proved himself longest ago and wrote nothing gives his back.
        """
        if self._trusted is not None and peer_id not in self._trusted:
            return
        if peer_id in self._proven:
            del self._proven[peer_id]
        elif peer_id not in self._introduced and len(self) >= self._limits.origins_max:
            silent = next((other for other in self._proven if other not in self._held), None)
            if silent is None:
                return
            del self._proven[silent]
        self._drop_introduction(peer_id)
        self._proven[peer_id] = None
        self.left_alone.discard(peer_id)

    def admit(self, origin: PeerId, via: PeerId) -> bool:
        """Whether records of `origin`, carried by the peer `via`, are kept. What came of them is told by `settle`."""
        if self._decide(origin, via):
            self.left_alone.discard(origin)
            return True
        if len(self.left_alone) < self._limits.origins_max:
            self.left_alone.add(origin)
        return False

    def _decide(self, origin: PeerId, via: PeerId) -> bool:
        if origin == self._own:
            return True
        if self._trusted is not None:
            return origin in self._trusted
        if origin == via:
            # It is on the link itself. Usually known already; its slot may have gone to others while it was silent.
            self.prove(origin)
        if origin in self._proven:
            return True
        introduction = self._introduced.get(origin)
        if introduction is not None:
            introduction.judged += 1
            return True
        if not self._members_introduce:
            return False
        limits = self._limits
        if self._introductions.get(via, 0) >= limits.introduced_origins_per_peer_max:
            return False
        if len(self) >= limits.origins_max or len(self._introduced) >= limits.origins_max // 2:
            return False
        self._introduced[origin] = _Introduction(via, judged=1)
        self._introductions[via] = self._introductions.get(via, 0) + 1
        return True

    def settle(self, origin: PeerId, via: PeerId, *, held: bool) -> None:
        """A push that was admitted has been judged.

        Args:
            origin: whose it claimed to be.
            via: who brought it.
            held: whether anything of that origin is held now.
        """
        if origin == self._own or self._trusted is not None:
            return
        if held:
            self._held.add(origin)
        introduction = self._introduced.get(origin)
        if introduction is None:
            return
        introduction.judged -= 1
        if held:
            introduction.held = True
        elif introduction.judged <= 0 and not introduction.held:
            self._drop_introduction(origin)

    @property
    def until(self) -> str:
        """What would have to be so for a log that is left alone to be kept: the end of a sentence."""
        if self._trusted is not None:
            return "until the trust list of this node names it"
        if not self._members_introduce:
            return "until that node connects to this one itself, or all members have the same network key"
        limits = self._limits
        at_most = limits.introduced_origins_per_peer_max
        return f"until there is room: {limits.origins_max} logs are kept, of which one peer introduces {at_most}"

    def forget(self, origin: PeerId) -> None:
        """Free the slot of an origin whose log was forgotten; who proved himself may begin anew."""
        self._drop_introduction(origin)
        self._held.discard(origin)

    def is_unlimited(self, origin: PeerId) -> bool:
        """Whether the byte quota does not hold for this origin: it is listed by name."""
        return self._trusted is not None and origin in self._trusted

    def __len__(self) -> int:
        return len(self._proven) + len(self._introduced)

    def _drop_introduction(self, origin: PeerId) -> None:
        introduction = self._introduced.pop(origin, None)
        if introduction is not None and (via := introduction.via) is not None:
            self._introductions[via] -= 1
            if not self._introductions[via]:
                del self._introductions[via]
