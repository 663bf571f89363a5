"""Who is known and not connected: what a node says of peers that it looks for, dials, or met earlier.

Nothing is remembered for this: it is read from the dials under way, the guard, the address book and the identities met
in this run, at the moment it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from p2p.errors import Reason
from p2p.ids import RELAY, PeerEndpoint, PeerId, is_peer_id_text
from p2p.node.dialer import Dialer
from p2p.node.roster import Roster
from p2p.peer.connection import PeerState
from p2p.policy.book import Book
from p2p.policy.guard import ConnectionGuard


class PeerAway(msgspec.Struct, frozen=True):
    """A peer, or a place where one is expected, without a link when this was asked for.

    Attributes:
        peer_id: who was there last, or is expected there; None where nobody has proven himself yet.
        node_id: its label, None if it has none.
        state: DISCONNECTED, CONNECTING while it is dialled, HANDSHAKING once something answered.
        endpoint: where it is dialled or was met; None for one that only came by itself.
        configured: whether the node keeps dialling it for ever.
        failures: dials in a row that came to nothing lately.
        failure: why the last one did, None without one.
        next_dial_s: in how many seconds a configured one is dialled again, 0 while it is dialled; else None.
    """

    peer_id: PeerId | None
    node_id: str | None
    state: PeerState
    endpoint: PeerEndpoint | None
    configured: bool
    failures: int
    failure: Reason | None
    next_dial_s: float | None


class Away:
    """Finds who is away, each once: configured ones first, then who is dialled, the book, and those only met."""

    def __init__(
        self,
        kept: Iterable[PeerEndpoint],
        *,
        dialer: Dialer,
        roster: Roster,
        guard: ConnectionGuard,
        book: Book,
        label_of: Callable[[PeerId], str | None],
    ) -> None:
        self._kept = tuple(kept)
        self._dialer = dialer
        self._roster = roster
        self._guard = guard
        self._book = book
        self._label_of = label_of

    def peers(self, now: float) -> Iterator[PeerAway]:
        """Go through them at this moment; `now` in monotonic seconds."""
        links = self._roster.links
        shown = {*links}
        addresses = {link.endpoint.address for link in links.values() if link.dialed_by_us and link.endpoint}
        under_way = self._dialer.under_way()
        places = [(place, True) for place in self._kept]
        places += [(place, False) for place in under_way]
        places += [(known.endpoint, False) for known in self._book]
        states = {place.address: state for place, state in under_way.items()}
        for place, is_kept in places:
            who = self._who_is_at(place)
            if who in shown or place.address in addresses:
                continue
            addresses.add(place.address)
            if who is not None:
                shown.add(who)
            yield self._at(place, who, states.get(place.address), now, is_kept=is_kept)
        for peer_id in reversed(self._roster.met):
            if peer_id not in shown:
                yield PeerAway(peer_id, self._label_of(peer_id), PeerState.DISCONNECTED, None, False, 0, None, None)

    def _who_is_at(self, place: PeerEndpoint) -> PeerId | None:
        if place.expect and is_peer_id_text(place.expect):
            return PeerId.parse(place.expect)
        known = self._book.find(place.address)
        if known is not None:
            return known.peer_id
        return self._roster.holder_of(place.expect) if place.expect else None

    def _at(
        self, place: PeerEndpoint, who: PeerId | None, state: PeerState | None, now: float, *, is_kept: bool
    ) -> PeerAway:
        failures = self._guard.failures(place)
        next_dial_s: float | None = None
        # A relayed place is dialled at a pace of its own, for it costs no connection.
        if is_kept and place.scheme != RELAY:
            next_dial_s = 0.0 if state is not None else self._guard.due(place, now) - now
        return PeerAway(
            peer_id=who,
            node_id=self._label_of(who) if who is not None else None,
            state=state or PeerState.DISCONNECTED,
            endpoint=place,
            configured=is_kept,
            failures=failures.in_a_row if failures is not None else 0,
            failure=failures.reason if failures is not None else None,
            next_dial_s=next_dial_s,
        )
