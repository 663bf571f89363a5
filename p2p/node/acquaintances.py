"""Acquaintances: where this node met its peers, kept over restarts, and looked for again when nothing else brings them.

Responsible for what goes into the address book (`policy.book`), for having it written down, and for making leads of
the places whose peers are not connected. It refuses to know how a lead is dialled (`leads`) and how the book lies on
the disk (the writer's).

Configured peers are left to the dialer, which never gives up on them. What a program connected to by itself, or
disconnected, in this run is its own business: the book looks for that after a restart only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from p2p.ids import RELAY, PeerEndpoint, PeerId
from p2p.limits import Limits
from p2p.node.roster import Roster
from p2p.peer.connection import Connection
from p2p.policy.book import Address, Book, BookPlace
from p2p.policy.guard import ConnectionGuard
from p2p.policy.hints import DiscoveryAnnouncement, HintSource
from p2p.policy.places import PeerPlaces
from p2p.windows import Clock


class Acquaintances:
    """The address book of a running node.

    Args:
        known: what was written down in an earlier run, the one that was good longest ago first.
        configured: endpoints that are kept connected anyway.
        is_welcome: whether an identity would be admitted: places of others are passed over.
        write: has a place written down, or (None) taken out. Never waits.
    """

    def __init__(
        self,
        limits: Limits,
        known: Iterable[BookPlace],
        configured: Iterable[PeerEndpoint],
        *,
        roster: Roster,
        places: PeerPlaces[Connection],
        guard: ConnectionGuard,
        is_welcome: Callable[[PeerId], bool],
        write: Callable[[Address, BookPlace | None], None],
        clock: Clock,
    ) -> None:
        self.book = Book(limits, known)
        self._limits = limits
        self._configured = {endpoint.address for endpoint in configured}
        self._roster = roster
        self._places = places
        self._guard = guard
        self._is_welcome = is_welcome
        self._write = write
        self._clock = clock
        self._led_by: dict[Address, HintSource] = {}
        self._own_business: dict[PeerId, None] = {}

    # Told by who dials, and by who sees a dial succeed.

    def dialling(self, address: Address, source: HintSource) -> None:
        """A lead is dialled now; `dialled` follows."""
        self._led_by[address] = source

    def dialled(self, address: Address, *, failed: bool) -> None:
        """The dial of a lead is over."""
        # One that took very long may have been overtaken by another to the same place.
        self._led_by.pop(address, None)
        if not failed:
            return
        place = self.book.failed(address)
        if place is not None:
            self._write(address, place if self.book.find(address) is not None else None)

    def met(self, link: Connection) -> None:
        """A session that we dialled is live."""
        endpoint = link.endpoint
        if endpoint is None or endpoint.scheme == RELAY or not link.dialed_by_us:
            return
        address = endpoint.address
        source = self._source_of(address)
        self._own_business.pop(link.peer_id, None)
        if source == "connect":
            self._leave_alone(link.peer_id)
        now_ms = self._clock.wall_ms()
        known = self.book.find(address)
        if known is not None and self._says_it_all(known, link, source, now_ms):
            return
        bare = PeerEndpoint(endpoint.host, endpoint.port, endpoint.scheme, judged=endpoint.judged)
        place = BookPlace(bare, link.peer_id, link.label or "", source, now_ms)
        for gone in self.book.met(place):
            self._write(gone, None)
        self._write(address, place)

    def _says_it_all(self, known: BookPlace, link: Connection, source: str, now_ms: int) -> bool:
        """Whether what stands in the book is what a session tells that has just begun: no commit for every redial."""
        return (
            known.peer_id == link.peer_id
            and known.node_id == (link.label or "")
            and known.source == source
            and known.failures == 0
            and 0 <= now_ms - known.good_ms < self._limits.book_again_s * 1000
            and link.endpoint is not None
            and known.endpoint.judged == link.endpoint.judged
        )

    def left(self, peer_id: PeerId) -> None:
        """The application ended the links to a peer: it is not looked for in this run any more."""
        self._leave_alone(peer_id)

    def is_hearsay(self, address: Address) -> bool:
        """Whether a registry led to a place in the book, and nobody here named it."""
        place = self.book.find(address)
        return place is not None and place.source == HintSource.REGISTRY.value

    # Looking for those who are away.

    @trio.lowlevel.enable_ki_protection
    async def run(self, offer: Callable[[DiscoveryAnnouncement, HintSource, str], object]) -> None:
        """Offer the places of peers that are away as leads, for ever.

        Args:
            offer: takes a hint, as `Leads.offer` does.
        """
        while True:
            # Others come first: they say where a peer is now, the book only where it was.
            await trio.sleep(self._limits.book_after_s)
            for place in self._due():
                at = place.endpoint
                hint = DiscoveryAnnouncement(place.node_id, at.host, at.port, place.peer_id, at.scheme, at.judged)
                offer(hint, HintSource.BOOK, "")

    def _due(self) -> list[BookPlace]:
        now, due = self._clock.monotonic(), list[BookPlace]()
        room = self._places.free(chosen=True)
        for place in self.book:
            if len(due) >= room:
                break
            if (
                place.peer_id not in self._roster.links
                and place.peer_id not in self._own_business
                and place.endpoint.address not in self._configured
                and self._guard.due(place.endpoint, now) <= now
                and self._is_welcome(place.peer_id)
            ):
                due.append(place)
        return due

    def _source_of(self, address: Address) -> str:
        if address in self._configured:
            return "configured"
        led_by = self._led_by.get(address)
        if led_by is HintSource.BOOK:
            known = self.book.find(address)
            return known.source if known is not None and known.source != "connect" else HintSource.BOOK.value
        return led_by.value if led_by is not None else "connect"

    def _leave_alone(self, peer_id: PeerId) -> None:
        self._own_business[peer_id] = None
        if len(self._own_business) > self._limits.book_places_max:
            del self._own_business[next(iter(self._own_business))]
