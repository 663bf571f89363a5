"""The address book: where this node met its peers, over restarts.

Only places that were dialled with success are in it, each with the identity that proved itself there last: an inbound
peer's listening port is unknown, and what others say of a place is a hint until it was dialled. When a peer is not
connected and nothing else brings it back, its places are leads.

It is bounded thrice: `book_places_max` in all, those that were good longest ago go; `book_places_per_peer_max` for one
identity, so that one that moves about does not fill it; and a place that failed `book_failures_max` times in a row is
forgotten. Failures are counted and not dated: a clock that jumps by years makes nobody forget anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from p2p.ids import PeerEndpoint, PeerId
from p2p.limits import Limits

Address = tuple[str, str, int]


class BookPlace(msgspec.Struct, frozen=True):
    """A place where a peer was met.

    Attributes:
        endpoint: what was dialled; nobody is expected there by it.
        peer_id: who proved himself there last.
        node_id: the label that it had, "" for none.
        source: how this node came to dial it: "configured", "connect", "discovery", "registry", or "book" alone.
        good_ms: when the last session there began, Unix milliseconds.
        failures: dials in a row that came to nothing since.
    """

    endpoint: PeerEndpoint
    peer_id: PeerId
    node_id: str
    source: str
    good_ms: int
    failures: int = 0


class Book:
    """The places of one node. What changes is handed back, for whoever writes it down.

    Args:
        limits: the `book_…` bounds.
        places: what was written down in an earlier run, the one that was good longest ago first.
    """

    __slots__ = ("_limits", "_places")

    def __init__(self, limits: Limits, places: Iterable[BookPlace] = ()) -> None:
        self._limits = limits
        self._places: dict[Address, BookPlace] = {}
        for place in places:
            self._keep(place)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[BookPlace]:
        """The one that was good last comes first."""
        return reversed(self._places.values())

    def find(self, address: Address) -> BookPlace | None:
        """What is known of a place."""
        return self._places.get(address)

    def met(self, place: BookPlace) -> list[Address]:
        """A session began there.

        Returns:
            The places that are forgotten for it.
        """
        return self._keep(msgspec.structs.replace(place, failures=0))

    def failed(self, address: Address) -> BookPlace | None:
        """A dial there came to nothing.

        Returns:
            The place as it is now, for writing down; None if there is nothing to write: it is not in the book, or it
            is not worth a write yet (the 1st, 2nd, 4th, 8th … failure is). Forgotten ones are no longer in the book.
        """
        place = self._places.get(address)
        if place is None:
            return None
        place = msgspec.structs.replace(place, failures=place.failures + 1)
        if place.failures >= self._limits.book_failures_max:
            del self._places[address]
            return place
        self._places[address] = place
        return place if place.failures & (place.failures - 1) == 0 else None

    def _keep(self, place: BookPlace) -> list[Address]:
        self._places.pop(place.endpoint.address, None)
        self._places[place.endpoint.address] = place
        theirs = [address for address, other in self._places.items() if other.peer_id == place.peer_id]
        gone = theirs[: max(0, len(theirs) - self._limits.book_places_per_peer_max)]
        if len(self._places) - len(gone) > self._limits.book_places_max:
            gone.append(next(address for address in self._places if address not in gone))
        for address in gone:
            del self._places[address]
        return gone
