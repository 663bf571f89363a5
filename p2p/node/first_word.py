"""The first word: for whose WalHeads a node waits at its start before it signs anything.

A store that was brought back from a backup does not know it. Those who hold more of its log do, and say so with their
first WalHeads; a record that was signed before would fork the log. So each of the places that a node is to be connected
with is waited for: until whoever is there has spoken, or nobody could be reached there. What others say meanwhile, a
peer nearby that knows nothing of us or a stranger who dialled us, tells nothing of them. Where no place is expected,
but peers are looked for, the first word of anybody is all that can be waited for.

It refuses to know time and links: how long is waited, and what waits, is the replicator's.
"""

from __future__ import annotations

from collections.abc import Iterable

from p2p.ids import PeerId


class FirstWord:
    """Who is still to be heard.

    Args:
        expected: the places, by whatever name.
        anybody: with no places, wait for the word of anybody.
    """

    def __init__(self, expected: Iterable[object], *, anybody: bool = False) -> None:
        self._expected = set(expected)
        self._anybody = anybody and not self._expected
        self._is_heard = False
        self._spoke: set[PeerId] = set()
        self._at: dict[PeerId, set[object]] = {}

    @property
    def is_awaited(self) -> bool:
        """Whether somebody is still to be heard."""
        return bool(self._expected) or (self._anybody and not self._is_heard)

    def reached(self, name: object, peer_id: PeerId) -> None:
        """This peer is at the expected place."""
        if name not in self._expected:
            return
        if peer_id in self._spoke:
            self._expected.discard(name)
        else:
            self._at.setdefault(peer_id, set()).add(name)

    def unreachable(self, name: object) -> None:
        """Nobody could be reached there when it was tried."""
        self._expected.discard(name)

    def heard(self, peer_id: PeerId) -> None:
        """A WalHeads of this peer came."""
        self._is_heard = True
        self._spoke.add(peer_id)
        self._expected -= self._at.pop(peer_id, set())
