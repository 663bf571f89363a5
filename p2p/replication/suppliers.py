"""From which link a node wants which log: one supplier per origin.

Responsible for one choice per origin, made again whenever what the links claim, what we hold or which links exist
changes. It refuses to know messages, batches and stores: a link is a number that grows with every link made, a claim
is a seq, and the answer is a `want` flag.

How it moves, per origin:

    nobody known      every link may send (unlisted origins are wanted); the first claim or push makes a supplier
    tentative         chosen, but has not delivered yet. A link that shows more than we hold takes its place at once,
                      unless the tentative one shows more itself
    proven            has delivered. It keeps its place until there is no progress for `stall_s` while another link
                      shows more, or until its link ends; only the link to the origin itself, when it shows more than
                      we and the supplier hold, takes its place at once
    in doubt          showed more, and delivered nothing for `stall_s`. Others come first; after a pause that doubles
                      each time it is tried again, and then any link that is not in doubt may take over at once

So a link that lies about its heads costs one stall, then a moment at growing intervals, and a link that was only
slow is not left out for ever. While nobody is ahead the supplier is the link to the origin itself where there is one,
else one that has its own source for the log: two nodes that each wait for the other are the one circle that can
arise, and it opens as soon as somebody else shows more.

Our own log is special: nobody supplies it unless somebody is ahead of us (a store brought back from a backup).

Work per claim is O(1) but where a choice is due; a choice is O(links). Links that are equal share the logs among them,
so that the end of one is a choice for its share and not for all. An origin has a deadline only while somebody
other than its supplier shows more than we hold.

Source: replication sections 3 and 5.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

import msgspec

from p2p.ids import PeerId
from p2p.replication.heads import SEQ_MAX

NEVER: Final = float("inf")

_GOLDEN: Final = 0x9E3779B1


class Change(msgspec.Struct, frozen=True):
    """The supplier of an origin is another: what the two links (all links, if there was none) are told changes."""

    origin: PeerId
    old: int | None
    new: int | None


class Stall(msgspec.Struct, frozen=True):
    """A link showed more of an origin than we hold and did not deliver it in time."""

    origin: PeerId
    link: int


class _Doubt(msgspec.Struct):
    until: float
    pause_s: float


class _Origin(msgspec.Struct):
    seq: int = 0
    last: int = SEQ_MAX
    peak: int = 0
    supplier: int | None = None
    proven: bool = False
    since: float = 0.0
    armed: bool = False
    courted: int | None = None
    claims: dict[int, int] = msgspec.field(default_factory=dict)
    asking: set[int] = msgspec.field(default_factory=set)
    declined: set[int] = msgspec.field(default_factory=set)
    doubts: dict[int, _Doubt] = msgspec.field(default_factory=dict)

    def is_behind(self) -> bool:
        return self.peak > self.seq < self.last

    def is_ahead(self, link: int | None) -> bool:
        return link is not None and self.claims.get(link, 0) > self.seq < self.last

    def forget_claim(self, link: int) -> None:
        # Most links show the same: the first that does ends the search.
        if self.claims.pop(link, None) == self.peak and self.peak not in self.claims.values():
            self.peak = max(self.claims.values(), default=0)


class Suppliers:
    """The choice of a supplier for every origin of one node.

    Args:
        own: this node's own origin.
        stall_s: no progress for so long while another link shows more means another supplier.
        doubt_s_max: the longest pause before a link that did not deliver is tried again.
        is_arriving: whether a push of that origin from that link is being applied right now; a slow store of ours
            is not the supplier's fault.

    Attributes:
        changes, stalls: what there is to take.
    """

    def __init__(
        self, own: PeerId, *, stall_s: float, doubt_s_max: float, is_arriving: Callable[[PeerId, int], bool]
    ) -> None:
        self._own = own
        self._stall_s = stall_s
        self._doubt_s_max = doubt_s_max
        self._is_arriving = is_arriving
        self._origins: dict[PeerId, _Origin] = {}
        self._direct: dict[PeerId, int] = {}
        self._heap: list[tuple[float, PeerId]] = []
        self.changes: list[Change] = []
        self.stalls: list[Stall] = []

    # What is asked.

    def supplier(self, origin: PeerId) -> int | None:
        """The link from which the origin is wanted, None if there is none."""
        state = self._origins.get(origin)
        return None if state is None else state.supplier

    def wants(self, origin: PeerId, link: int) -> bool:
        """What a WalHeads entry for this origin says to this link."""
        state = self._origins.get(origin)
        if state is None:
            return origin != self._own
        if state.seq >= state.last or link in state.declined:
            return False
        return origin != self._own if state.supplier is None else state.supplier == link

    def is_awaited(self, origin: PeerId) -> bool:
        """Whether a supplier shows more than we hold and is not in doubt."""
        state = self._origins.get(origin)
        return state is not None and state.is_ahead(state.supplier) and state.supplier not in state.doubts

    def known(self) -> list[PeerId]:
        """Origins that we hold or that a link claims."""
        return list(self._origins)

    def take_changes(self) -> list[Change]:
        """Return and forget what changed since the last call."""
        changes, self.changes = self.changes, []
        return changes

    def take_stalls(self) -> list[Stall]:
        """Return and forget the claims that were not delivered since the last call."""
        stalls, self.stalls = self.stalls, []
        return stalls

    # What happens.

    def link_up(self, link: int, peer: PeerId, now: float) -> None:
        """A link begins: it becomes the tentative supplier of what we hold and have none for."""
        self._direct[peer] = link
        for origin, state in self._origins.items():
            if state.supplier is None and origin != self._own and state.seq < state.last:
                state.claims.setdefault(link, 0)
                self._switch(origin, state, link, now)

    def link_down(self, link: int, peer: PeerId, now: float) -> None:
        """A link ended: all it claimed is void."""
        if self._direct.get(peer) == link:
            del self._direct[peer]
        void: list[PeerId] = []
        for origin, state in self._origins.items():
            state.asking.discard(link)
            state.declined.discard(link)
            state.doubts.pop(link, None)
            state.forget_claim(link)
            if state.supplier == link:
                self._switch(origin, state, self._best(origin, state), now)
                self._arm(origin, state)
            if not (state.seq or state.claims or state.declined):
                void.append(origin)
        for origin in void:
            del self._origins[origin]

    def claim(self, origin: PeerId, link: int, seq: int, now: float, *, asks: bool) -> None:
        """A link shows that its peer holds the origin up to `seq`.

        Args:
            asks: whether the peer says that it wants this origin from us. A supplier that does has no source of its
                own any more and is only tentative.
        """
        state = self._origins.get(origin)
        if state is None:
            state = self._origins[origin] = _Origin()
        if link in state.declined:
            return
        was_behind = state.is_behind()
        old = state.claims.get(link, 0)
        state.claims[link] = seq
        if seq >= state.peak:
            state.peak = seq
        elif old == state.peak:
            state.peak = max(state.claims.values())
        if asks:
            state.asking.add(link)
            if state.supplier == link:
                state.proven = False
        else:
            state.asking.discard(link)
        if not was_behind:
            state.since = now
        supplier = state.supplier
        if state.is_ahead(link):
            # The origin itself is ahead of all: a supplier that does not show as much has another way to it, or none.
            is_source = self._direct.get(origin) == link
            weak = not ((state.proven and not is_source) or state.is_ahead(supplier)) or supplier in state.doubts
            if supplier is None or (weak and link not in state.doubts):
                self._switch(origin, state, link, now)
            self._arm(origin, state)
        elif supplier is None and origin != self._own and state.seq < state.last:
            self._switch(origin, state, link, now)

    def delivered(self, origin: PeerId, link: int) -> None:
        """A batch of the origin came over the link and was applied."""
        state = self._origins.get(origin)
        if state is not None:
            state.doubts.pop(link, None)
            if state.supplier == link:
                state.proven = True

    def held(self, origin: PeerId, seq: int, now: float, *, last: int = SEQ_MAX) -> None:
        """We hold the origin durably up to `seq` (which may be less than before, after damage).

        Args:
            last: nothing beyond is wanted (the origin is frozen there).
        """
        state = self._origins.get(origin)
        if state is None:
            state = self._origins[origin] = _Origin()
        fell = seq < state.seq
        closed = last < state.last
        state.seq, state.last, state.since = seq, last, now
        if state.is_behind():
            if (fell or state.supplier is None) and not state.is_ahead(state.supplier):
                self._switch(origin, state, self._best(origin, state), now)
            self._arm(origin, state)
        elif origin == self._own:
            self._switch(origin, state, None, now)
        else:
            self._court(origin, state, now)
        if closed:
            self.changes.append(Change(origin, None, state.supplier))

    def excuse(self, origin: PeerId, now: float) -> None:
        """No progress, and it was our own store that could not: the supplier's time begins anew."""
        state = self._origins.get(origin)
        if state is not None:
            state.since = now

    def decline(self, origin: PeerId, link: int, now: float) -> None:
        """We do not take this origin from this link: its claims mean nothing until `welcome` or the link's end."""
        state = self._origins.get(origin)
        if state is None:
            # Nobody claimed anything of it, and a refused push is no reason to remember a name.
            return
        state.declined.add(link)
        state.doubts.pop(link, None)
        state.forget_claim(link)
        if state.supplier == link:
            self._switch(origin, state, self._best(origin, state), now)
            self._arm(origin, state)

    def welcome(self, origin: PeerId) -> tuple[int, ...]:
        """The origin is taken after all. Returns the links that were declined; their claims are to be made again."""
        state = self._origins.get(origin)
        if state is None or not state.declined:
            return ()
        links = tuple(sorted(state.declined))
        state.declined.clear()
        return links

    # Time.

    def next_deadline(self) -> float:
        """When `handle_deadline` is due; infinity while nobody has to be watched."""
        return self._heap[0][0] if self._heap else NEVER

    def handle_deadline(self, now: float) -> None:
        """Replace the suppliers that did not deliver."""
        while self._heap and self._heap[0][0] <= now:
            _, origin = heapq.heappop(self._heap)
            state = self._origins.get(origin)
            if state is not None and state.armed:
                state.armed = False
                self._review(origin, state, now)

    def _review(self, origin: PeerId, state: _Origin, now: float) -> None:
        supplier = state.supplier
        others = [link for link in state.claims if link != supplier and state.is_ahead(link)]
        if not others and not (origin == self._own and state.is_ahead(supplier)):
            return
        if supplier is not None and self._is_arriving(origin, supplier):
            state.since = now
        due = state.since + self._stall_s
        if now < due:
            self._push(origin, state, due)
            return
        if supplier is not None and state.is_ahead(supplier):
            doubt = state.doubts.get(supplier)
            pause_s = min(2 * (doubt.pause_s if doubt else self._stall_s), self._doubt_s_max)
            state.doubts[supplier] = _Doubt(now + pause_s, pause_s)
            self.stalls.append(Stall(origin, supplier))
        ready = [link for link in others if link not in state.doubts or state.doubts[link].until <= now]
        if ready:
            self._switch(origin, state, self._first(origin, state, ready), now)
            self._push(origin, state, now + self._stall_s)
            return
        if origin == self._own:
            self._switch(origin, state, None, now)
        rest = [state.doubts[link].until for link in state.claims if link in state.doubts and link != state.supplier]
        # One at least: the supplier of our own log that is no supplier any more, or those that come before it.
        self._push(origin, state, max(min(rest), now + self._stall_s))

    # Choosing.

    def _best(self, origin: PeerId, state: _Origin) -> int | None:
        if state.seq >= state.last:
            return None
        links = [link for link in state.claims if origin != self._own or state.is_ahead(link)]
        return self._first(origin, state, links) if links else None

    def _first(self, origin: PeerId, state: _Origin, links: list[int]) -> int:
        """Of some that claim something, the one to ask first; a link's end asks this for many logs."""
        claims = state.claims
        ahead = [link for link in links if claims[link] > state.seq < state.last]
        links = ahead or links
        if state.doubts:
            until = {link: doubt.until if (doubt := state.doubts.get(link)) else 0.0 for link in links}
            soonest = min(until.values())
            links = [link for link in links if until[link] == soonest]
        direct = self._direct.get(origin)
        if direct in links:
            return direct
        if not ahead:
            links = [link for link in links if link not in state.asking] or links
            most = max(claims[link] for link in links)
            links = [link for link in links if claims[link] == most]
        # Links that are ahead are equal: the highest claim may be the biggest lie. Equal ones share the logs out, by
        # steps of the golden ratio from a place of each log's own.
        place = int.from_bytes(origin[:4], "big")
        return min(links, key=lambda link: (place + link * _GOLDEN) & 0xFFFFFFFF)

    def _court(self, origin: PeerId, state: _Origin, now: float) -> None:
        """Caught up: the origin itself is the shortest way for what comes next. Tried once per link."""
        direct = self._direct.get(origin)
        if direct is None or direct == state.courted or direct not in state.claims or direct in state.doubts:
            return
        state.courted = direct
        if state.seq < state.last:
            self._switch(origin, state, direct, now)

    def _switch(self, origin: PeerId, state: _Origin, link: int | None, now: float) -> None:
        if link == state.supplier:
            return
        self.changes.append(Change(origin, state.supplier, link))
        state.supplier = link
        state.proven = False
        state.since = now

    def _arm(self, origin: PeerId, state: _Origin) -> None:
        # The review finds out whether anybody but the supplier is ahead; here that would cost O(links) per claim.
        watched = len(state.claims) > 1 or origin == self._own
        if not state.armed and watched and state.is_behind():
            self._push(origin, state, state.since + self._stall_s)

    def _push(self, origin: PeerId, state: _Origin, when: float) -> None:
        state.armed = True
        heapq.heappush(self._heap, (when, origin))
