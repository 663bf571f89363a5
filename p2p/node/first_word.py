"""The first word: for whose WalHeads a node waits at its start before it signs anything.

A store that was brought back from a backup does not know it. Those who hold more of its log do, and say so with their
first WalHeads; a record that was signed before would fork the log. So each of the places that a node is to be connected
with is waited for: until whoever is there has spoken, or nobody could be reached there. What others say meanwhile, a
peer nearby that knows nothing of us or a stranger who dialled us, tells nothing of them. Where peers are looked for,
and none of the places has spoken, anybody will do who shows at least as much of our log as we hold: who shows less
tells nothing.

It refuses to know time and links: how long is waited, and what waits, is the replicator's.
"""

from __future__ import annotations

from collections.abc import Iterable

from p2p.ids import PeerId


class FirstWord:
    """Who is still to be heard.

    Args:
        expected: the places, by whatever name.
    """

    def __init__(self, expected: Iterable[object]) -> None:
        self._expected = set(expected)
        self._anybody_from: int | None = None
        self._has_a_place_spoken = False
        self._spoke: set[PeerId] = set()
        self._at: dict[PeerId, set[object]] = {}

    @property
    def is_awaited(self) -> bool:
        """Whether somebody is still to be heard."""
        return bool(self._expected) or self._anybody_from is not None

    def await_anybody(self, seq: int) -> None:
        """Unless a place speaks, wait also for the word of anybody who shows our own log up to this seq or further."""
        if not self._has_a_place_spoken:
            self._anybody_from = seq

    def reached(self, name: object, peer_id: PeerId) -> None:
        """This peer is at the expected place."""
        if name not in self._expected:
            return
        if peer_id in self._spoke:
            self._place_spoke()
            self._expected.discard(name)
        else:
            self._at.setdefault(peer_id, set()).add(name)

    def unreachable(self, name: object) -> None:
        """Nobody could be reached there when it was tried."""
        self._expected.discard(name)

    def heard(self, peer_id: PeerId, shown_seq: int) -> None:
        """A WalHeads of this peer came, which shows our own log up to there (0: not at all)."""
        if self._anybody_from is not None and shown_seq >= self._anybody_from:
            self._anybody_from = None
        if peer_id in self._at:
            self._place_spoke()
        self._spoke.add(peer_id)
        self._expected -= self._at.pop(peer_id, set())

    def _place_spoke(self) -> None:
        self._has_a_place_spoken = True
        self._anybody_from = None
