"""All circuits of one node: those that end here, and those that it passes on as a relay.

Responsible for numbers of circuits, for joining two legs, for the limits of a relay and for
a clean end of a circuit whichever of the three disappears, and for telling who opened one that its way changes. It
refuses to know connections (it is given keys), streams, and how a way to a target is found (it asks, once per opening).

How it moves: `receive` runs to its end at once. A slice of a joined circuit is checked against the allowance of the leg
it came on, and waits on the other leg for its turn there. Credit goes the other way, as fast as `relay_bytes_per_s`
lets it: so a relay slows a circuit down by giving less credit, and never by keeping bytes. What an honest neighbour
does not do on purpose ends its link (RemoteProtocolError); what one end of a circuit can make another node pass on
(overrun, too much credit, a slice too long) ends that circuit only.

A link that gives way to another one with the same neighbour keeps its circuits until they end; new ones are opened over
the other. Who opened one of them is asked, from the place on the way where that happened, to open another and to end
this one in order (MOVE): only at the ends is it known what is still under way.

A message for a circuit that is over may have crossed its end on the way: it is passed over and counted. One for a
circuit that never was is a fault.

Source: wire section 7; threat T72.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

import msgspec

from p2p.errors import ConnectFailed, Reason, RemoteProtocolError
from p2p.ids import PeerId, is_peer_id_text
from p2p.limits import Limits
from p2p.msg import Relay
from p2p.policy.buckets import TokenBucket
from p2p.policy.routes import TTL_MAX, Route
from p2p.relay.end import CircuitEnd
from p2p.relay.leg import Lane, Leg
from p2p.relay.neighbour import Neighbour, Neighbours

_PAUSE_S_MIN: Final = 0.001
"""Between two looks at credit that is held back."""
_PROVEN_ANSWERS: Final = 2
"""Slices of a target that show that whoever opened the circuit proved himself there: it answers his first message, and
says nothing more until he did."""

_WHILE_LINKS_CHANGE: Final = 2
"""So many times what one link may carry there may be over all links with a neighbour: one may give way to another."""

NextHop = Callable[[PeerId, PeerId], Route | None]
"""Given a target and the neighbour who asks: the route over the relay to ask next, None if no way is known."""


class Incoming(msgspec.Struct, frozen=True):
    """Somebody opened a circuit to this node. Not taken yet: `end.take()` does, `end.abort(reason)` refuses."""

    end: CircuitEnd


class Answer(msgspec.Struct, frozen=True):
    """A refusal to be sent on a link at once: no circuit came of what it answers."""

    key: int
    message: Relay


class DeadEnd(msgspec.Struct, frozen=True):
    """A relay that was asked to pass a circuit on led nowhere, though it was left `ttl` hops for it: it refused for
    that reason, or nobody proved himself to whoever asked (TIMEOUT)."""

    target: PeerId
    relay: PeerId
    ttl: int
    reason: Reason


class Moving(msgspec.Struct, frozen=True):
    """A link on the way of a circuit that this node opened gives way: another circuit should take its place."""

    end: CircuitEnd


Happening: TypeAlias = Incoming | Answer | DeadEnd | Moving
"""What a switch tells its owner."""


class CircuitStats(msgspec.Struct):
    """What a switch counted since its start, and how many circuits there are."""

    ends: int = 0
    """Circuits that end here, now."""
    relayed: int = 0
    """Circuits that this node passes on, now."""
    relayed_total: int = 0
    relayed_bytes: int = 0
    refused_total: int = 0
    """Openings that this node refused."""
    broken_total: int = 0
    """Circuits that this node ended as a relay: overrun, idleness, a limit."""
    strays: int = 0
    """Messages for circuits that were over."""
    refused: dict[Reason, int] = msgspec.field(default_factory=dict)
    """Those of `refused_total` by what they were told."""
    broken: dict[Reason, int] = msgspec.field(default_factory=dict)
    """Those of `broken_total` by what their ends were told."""

    def count_refused(self, reason: Reason) -> None:
        """One more opening was refused."""
        self.refused_total += 1
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def count_broken(self, reason: Reason) -> None:
        """One more circuit was ended."""
        self.broken_total += 1
        self.broken[reason] = self.broken.get(reason, 0) + 1


class _Side:
    """A leg, and what it belongs to: an end of ours, or a passage."""

    __slots__ = ("bucket", "end", "held", "leg", "link", "other", "passage")

    def __init__(self, link: _Link, leg: Leg) -> None:
        self.link = link
        self.leg = leg
        self.end: CircuitEnd | None = None
        self.passage: _Passage | None = None
        self.other: _Side | None = None
        self.bucket: TokenBucket | None = None
        self.held = 0

    def joined(self) -> tuple[_Passage, _Side]:
        """What it belongs to where it is no end of ours, and the side it is joined to."""
        assert self.passage is not None, "a side is an end's or a passage's"
        assert self.other is not None, "a passage has two sides"
        return self.passage, self.other


class _Passage:
    """Two sides that this node joins."""

    __slots__ = (
        "answered_at",
        "answers",
        "bytes_passed",
        "came_round",
        "is_broken",
        "is_open",
        "opened_at",
        "sides",
        "source",
        "target",
        "touched_at",
        "ttl",
    )

    def __init__(self, inlet: _Side, outlet: _Side, source: PeerId, target: PeerId, ttl: int, now: float) -> None:
        self.sides = (inlet, outlet)
        self.source = source
        self.target = target
        # What the next relay was left.
        self.ttl = ttl
        self.is_broken = False
        # Its opening came back here, from the other side: what leads on from here is a ring.
        self.came_round = False
        self.answers = 0
        # When something came last from the side of the target, or it was asked.
        self.answered_at = now
        self.opened_at = self.touched_at = now
        self.is_open = False
        self.bytes_passed = 0


class _Link:
    """A link with a neighbour, and its circuits by number."""

    __slots__ = ("_next", "is_relay", "key", "lane", "neighbour", "peer_id", "seen_max", "sides", "theirs_parity")

    def __init__(self, key: int, neighbour: Neighbour, lane: Lane, *, dialed_by_us: bool, is_relay: bool) -> None:
        self.key = key
        self.neighbour = neighbour
        self.peer_id = neighbour.peer_id
        self.is_relay = is_relay
        self.sides: dict[int, _Side] = {}
        self.lane = lane
        self.theirs_parity = 1 if dialed_by_us else 0
        self.seen_max = 0
        self._next = 2 if dialed_by_us else 1

    def take_number(self) -> int:
        """A fresh number: even from the link's dialer, odd from its acceptor."""
        number = self._next
        self._next += 2
        return number

    def was_ever(self, circuit: int) -> bool:
        """Whether a circuit of this number was opened on this link, by either side."""
        if circuit % 2 == self.theirs_parity:
            return 0 < circuit <= self.seen_max
        return 0 < circuit < self._next


class Switch:
    """The circuits of one node.

    Args:
        own: this node's identity.
        limits: the `relay_…` are used.
        relays: whether it passes circuits on for others.
        next_hop: asked for a way to a target that is no neighbour.

    Attributes:
        stats: counters; `snapshot` completes them.
    """

    def __init__(self, own: PeerId, limits: Limits, *, relays: bool, next_hop: NextHop) -> None:
        self._own = own
        self._limits = limits
        self._relays = relays
        self._next_hop = next_hop
        self._links: dict[int, _Link] = {}
        self._by_peer: dict[PeerId, _Link] = {}
        self._neighbours = Neighbours(limits)
        self._passages: dict[_Passage, None] = {}
        self._events: deque[Happening] = deque()
        self._due = math.inf
        self.stats = CircuitStats()

    # Links.

    def link_up(
        self, key: int, peer_id: PeerId, *, dialed_by_us: bool, is_relay: bool, wake: Callable[[], None]
    ) -> Lane:
        """A direct link to a neighbour that knows circuits is live.

        Args:
            key: names the link from here on.
            peer_id: the neighbour.
            dialed_by_us: decides whose circuits have even numbers.
            is_relay: the neighbour passes circuits on.
            wake: called when there is something to take from the lane.

        Returns:
            Where the link takes from what it has to write.
        """
        lane = Lane(wake, partial(self._leg_left, key))
        neighbour = self._neighbours.link_up(peer_id)
        link = _Link(key, neighbour, lane, dialed_by_us=dialed_by_us, is_relay=is_relay)
        self._links[key] = self._by_peer[peer_id] = link
        return link.lane

    def gives_way(self, key: int) -> None:
        """A link lets go as soon as its circuits are over. Unknown keys are ignored."""
        link = self._links.get(key)
        for side in link.sides.values() if link is not None else ():
            self._ask_to_move(side)

    def link_down(self, key: int, reason: Reason = Reason.ABNORMAL) -> None:
        """A link is over, and with it every circuit on it. Unknown keys are ignored.

        Args:
            reason: why; MOVED, which only counts where another link to the same neighbour has its place.
        """
        link = self._links.get(key)
        if link is None:
            return
        if self._by_peer.get(link.peer_id) is link:
            del self._by_peer[link.peer_id]
            if reason is Reason.MOVED:
                # Its own word, or a pair of links that both went: there is nowhere to move.
                reason = Reason.ABNORMAL
        for side in tuple(link.sides.values()):
            self._end_side(side, reason)
        del self._links[key]
        self._neighbours.link_down(link.neighbour)

    def is_neighbour(self, peer_id: PeerId) -> bool:
        """Whether there is a link to that peer, who knows circuits."""
        return peer_id in self._by_peer

    def leads_on(self, peer_id: PeerId) -> bool:
        """Whether there is a link to that peer, who passes circuits on."""
        link = self._by_peer.get(peer_id)
        return link is not None and link.is_relay

    # Circuits of our own.

    def open(self, via: PeerId, target: PeerId, ttl: int = TTL_MAX) -> CircuitEnd:
        """Open a circuit. It may be used once its `is_open`.

        Raises:
            ConnectFailed: NO_ROUTE (the relay is no neighbour that relays), FULL.
        """
        link = self._by_peer.get(via)
        if link is None:
            raise ConnectFailed(Reason.NO_ROUTE, f"the relay {via.short} is not connected, or knows no circuits")
        if not link.is_relay or via == target:
            raise ConnectFailed(Reason.NO_ROUTE, f"{via.short} does not relay")
        if self._is_full(link):
            raise ConnectFailed(Reason.FULL, f"{len(link.sides)} circuits run over {via.short} already")
        side = self._new_side(link, link.take_number())
        side.end = CircuitEnd(side.leg, self._limits, relay=via, far=target, is_opener=True)
        side.leg.open(str(self._own), str(target), ttl)
        side.end.take()
        return side.end

    # What comes in.

    def receive(self, key: int, message: Relay, now: float) -> None:
        """Take a Relay message of a link.

        Raises:
            RemoteProtocolError: no honest neighbour sends it.
        """
        link = self._links.get(key)
        if link is None:
            return
        if message.kind == Relay.OPEN:
            self._receive_open(link, message, now)
            return
        side = link.sides.get(message.circuit)
        if side is None:
            if not link.was_ever(message.circuit):
                raise RemoteProtocolError(f"circuit {message.circuit} was never opened")
            self.stats.strays += 1
        elif message.kind == Relay.DATA:
            self._receive_data(side, message.payload, now)
        elif message.kind == Relay.WINDOW:
            self._receive_window(side, message.payload, now)
        elif message.kind == Relay.CLOSE:
            self._note_dead_end(side, Reason.CLOSED, now)
            self._receive_close(side)
        elif message.kind == Relay.MOVE:
            self._receive_move(side)
        else:
            reason = _reason_of(message.payload)
            passage = side.passage
            self._note_dead_end(side, reason, now)
            if reason is Reason.NOT_ADMITTED and passage is not None and passage.came_round:
                # Our own word, and no more than that of a ring. Only he who asked here is told so: a relay that heard
                # it would take its way over us for none, which anybody could bring about who asks in two places.
                reason = Reason.NO_ROUTE
            self._end_side(side, reason)

    def next_event(self) -> Happening | None:
        """What happened that the owner has to act on."""
        return self._events.popleft() if self._events else None

    # Time.

    def next_deadline(self) -> float:
        """Not later than `handle_deadline` has something to do; infinity without circuits to pass on."""
        return self._due

    def handle_deadline(self, now: float) -> None:
        """End what is idle or was not taken in time, and give credit that was held back."""
        self._due = math.inf
        limits = self._limits
        for passage in tuple(self._passages):
            if passage.is_broken:
                # Its last words wait to be taken.
                continue
            if not passage.is_open:
                end_at = passage.opened_at + limits.relay_open_s_max
            else:
                end_at = passage.touched_at + limits.relay_idle_s_max
            if now >= end_at:
                if not passage.is_open:
                    self._note_dead_end(passage.sides[0], Reason.TIMEOUT, now)
                self._break(passage, Reason.TIMEOUT)
                continue
            self._due = min(self._due, end_at)
            for side in passage.sides:
                if side.held:
                    self._release(side, now)

    def snapshot(self) -> CircuitStats:
        """The counters, with the circuits there are now."""
        sides = (side for link in self._links.values() for side in link.sides.values())
        return msgspec.structs.replace(
            self.stats,
            relayed=len(self._passages),
            ends=sum(1 for side in sides if side.end is not None),
            refused=dict(self.stats.refused),
            broken=dict(self.stats.broken),
        )

    # Inside.

    def _receive_open(self, link: _Link, message: Relay, now: float) -> None:
        circuit = message.circuit
        if circuit % 2 != link.theirs_parity or circuit <= link.seen_max:
            raise RemoteProtocolError(f"circuit {circuit} cannot be opened: numbers of one side only grow")
        link.seen_max = circuit
        if not (is_peer_id_text(message.source) and is_peer_id_text(message.target)) or message.payload:
            raise RemoteProtocolError("a circuit is opened from a peer id to a peer id, with nothing else")
        source, target = PeerId.parse(message.source), PeerId.parse(message.target)
        if message.ttl > TTL_MAX:
            raise RemoteProtocolError(f"a ttl of {message.ttl}: {TTL_MAX} is the most")
        if source != link.peer_id and not (link.is_relay and message.ttl < TTL_MAX):
            raise RemoteProtocolError(f"a circuit from {source.short}, asked for by {link.peer_id.short}")
        if message.ttl == 0:
            refusal: Reason | None = Reason.NO_ROUTE
        elif target == self._own:
            refusal = self._take_incoming(link, circuit, source)
        else:
            refusal = self._pass_on(link, circuit, source, target, message.ttl, now)
        if refusal is not None:
            self.stats.count_refused(refusal)
            self._events.append(
                Answer(link.key, Relay(circuit, Relay.REFUSED, payload=int(refusal).to_bytes(2, "little")))
            )

    def _take_incoming(self, link: _Link, circuit: int, source: PeerId) -> Reason | None:
        if source == self._own:
            return Reason.SELF
        if source == link.peer_id:
            # The link that it came over is there, and direct.
            return Reason.MOVED
        if self._is_full(link):
            return Reason.FULL
        side = self._new_side(link, circuit)
        side.end = CircuitEnd(side.leg, self._limits, relay=link.peer_id, far=source, is_opener=False)
        self._events.append(Incoming(side.end))
        return None

    def _pass_on(
        self, link: _Link, circuit: int, source: PeerId, target: PeerId, ttl: int, now: float
    ) -> Reason | None:
        if not self._relays:
            return Reason.NOT_ADMITTED
        if source != link.peer_id and (his := self._by_peer.get(source)) is not None:
            # A neighbour asks for himself: nobody else uses up, in his name, what a target grants him.
            for passage in {side.passage for side in his.sides.values() if side.passage is not None}:
                if (passage.source, passage.target) == (source, target) and not passage.is_open:
                    passage.came_round = True
            return Reason.NOT_ADMITTED
        out, ttl = self._way_to(target, link, ttl - 1)
        if out is None or ttl < 1:
            return Reason.NO_ROUTE
        limits = self._limits
        # Between two relays runs what many nodes have to say to each other: nobody is to blame there. Else one of the
        # two shares a link with everybody whom the other leads to.
        if source == link.peer_id and target == out.peer_id:
            share = limits.relay_circuits_per_pair_max
        elif link.is_relay and out.is_relay:
            share = limits.relay_circuits_per_peer_max
        else:
            share = limits.relay_circuits_per_asker_max
        pair = sum(1 for side in link.sides.values() if side.other is not None and side.other.link is out)
        if (
            len(self._passages) >= limits.relay_circuits_max
            or self._is_full(link)
            or self._is_full(out)
            or pair >= share
            or link.neighbour.passed_on_to(out.peer_id) >= _WHILE_LINKS_CHANGE * share
            or (not (link.is_relay and out.is_relay) and self._is_crowded(link, out))
        ):
            return Reason.FULL
        if not link.neighbour.may_open(source, target, now):
            return Reason.OVERLOADED
        inlet, outlet = self._new_side(link, circuit), self._new_side(out, out.take_number())
        inlet.other, outlet.other = outlet, inlet
        passage = inlet.passage = outlet.passage = _Passage(inlet, outlet, source, target, ttl, now)
        for side in passage.sides:
            side.bucket = TokenBucket(limits.relay_bytes_per_s, limits.relay_window_bytes)
            side.link.lane.passed_on += 1
        link.neighbour.note_passed_on(out.peer_id, 1)
        out.neighbour.note_passed_on(link.peer_id, 1)
        self._passages[passage] = None
        self.stats.relayed_total += 1
        self._due = min(self._due, now + limits.relay_open_s_max)
        outlet.leg.open(str(source), str(target), ttl)
        return None

    def _way_to(self, target: PeerId, asking: _Link, ttl: int) -> tuple[_Link | None, int]:
        """The link to pass an opening on to, and how many hops it may take from there."""
        out = self._by_peer.get(target)
        if out is None:
            route = self._next_hop(target, asking.peer_id)
            out = self._by_peer.get(route.next_hop) if route is not None else None
            if route is None or out is None or not out.is_relay:
                return None, ttl
            ttl = min(ttl, route.ttl)
        return (None if out is asking else out), ttl

    def _note_dead_end(self, side: _Side, reason: Reason, now: float) -> None:
        """A circuit is over, as one side says: note it where it was passed on to a relay and came to nothing.

        The relay that was asked next may have refused it, swallowed it, given an answer that was none, or fallen silent
        since. Whoever asked and gave it up at once, or in order, says nothing of the way.
        """
        passage = side.passage
        if passage is None:
            return
        outlet, is_proven = passage.sides[1], passage.answers >= _PROVEN_ANSWERS
        if side is not outlet:
            is_silent = now >= passage.answered_at + self._limits.relay_answer_s_max
            if not (is_silent or passage.answers == 1) or (is_proven and reason is Reason.CLOSED):
                return
            reason = Reason.TIMEOUT
        elif is_proven:
            return
        if passage.target != outlet.link.peer_id:
            self._events.append(DeadEnd(passage.target, outlet.link.peer_id, passage.ttl, reason))

    def _receive_data(self, side: _Side, data: bytes, now: float) -> None:
        leg = side.leg
        if leg.is_ending:
            self.stats.strays += 1
            return
        if not leg.took_data(len(data)):
            self._violated(side)
            return
        if side.end is not None:
            side.end.data_came(data)
            return
        passage, other = side.joined()
        passage.touched_at = now
        if side is passage.sides[1]:
            passage.answered_at = now
        passage.bytes_passed += len(data)
        self.stats.relayed_bytes += len(data)
        if passage.answers < _PROVEN_ANSWERS and side is passage.sides[1]:
            passage.answers += 1
            if passage.answers == _PROVEN_ANSWERS:
                other.link.neighbour.opened_well(passage.source, passage.target)
        if passage.bytes_passed > self._limits.relay_circuit_bytes_max:
            self._break(passage, Reason.OVERLOADED)
        else:
            other.leg.put(data)

    def _receive_window(self, side: _Side, payload: bytes, now: float) -> None:
        leg = side.leg
        if leg.is_ending:
            self.stats.strays += 1
            return
        credit = int.from_bytes(payload, "little") if len(payload) == 4 else 0
        if not leg.took_window(credit):
            self._violated(side)
            return
        if side.end is not None:
            side.end.credit_came(credit)
            return
        passage, other = side.joined()
        passage.touched_at = now
        if side is passage.sides[1]:
            passage.answered_at = now
        if not passage.is_open and side is passage.sides[1]:
            # The first credit of the called end is its answer: from here on it may be idle for so long.
            passage.is_open = True
            self._due = min(self._due, now + self._limits.relay_idle_s_max)
        other.held += credit
        self._release(other, now)

    def _release(self, side: _Side, now: float) -> None:
        """Pass on credit that waits, as much as the rate allows."""
        assert side.bucket is not None, "only a passage holds credit back"
        share = min(side.held, self._limits.relay_window_bytes // 8)
        if side.bucket.available(now) >= share:
            given = min(side.held, int(side.bucket.available(now)))
            side.bucket.take(now, given)
            side.held -= given
            side.leg.grant(given)
        if side.held:
            share = min(side.held, self._limits.relay_window_bytes // 8)
            self._due = min(self._due, max(side.bucket.ready_at(now, share), now + _PAUSE_S_MIN))

    def _receive_move(self, side: _Side) -> None:
        if side.leg.is_ending:
            self.stats.strays += 1
        elif not self._ask_to_move(side):
            self._violated(side)

    def _ask_to_move(self, side: _Side) -> bool:
        """Tell who opened a circuit that a link changes on this side of him; False if that is not his side."""
        if side.end is not None:
            if side.end.is_opener and not side.end.must_move:
                side.end.must_move = True
                self._events.append(Moving(side.end))
            return side.end.is_opener
        passage, other = side.joined()
        if side is passage.sides[0]:
            return False
        other.leg.ask_to_move()
        return True

    def _receive_close(self, side: _Side) -> None:
        self._drop(side)
        if side.end is not None:
            side.end.close_came()
        else:
            _, other = side.joined()
            other.held = 0
            other.leg.close()

    def _end_side(self, side: _Side, reason: Reason) -> None:
        """One side is over and cannot be told anything any more; the other one is told."""
        self._drop(side)
        if side.end is not None:
            side.end.broke(reason)
        else:
            passage, other = side.joined()
            passage.is_broken = True
            other.held = 0
            other.leg.refuse(reason)

    def _violated(self, side: _Side) -> None:
        """What came on this side breaks the rules of a circuit: it is over, and nothing else is."""
        if side.end is not None:
            side.leg.refuse(Reason.PROTOCOL)
            side.end.broke(Reason.PROTOCOL)
        else:
            self._break(side.joined()[0], Reason.PROTOCOL)

    def _break(self, passage: _Passage, reason: Reason) -> None:
        self.stats.count_broken(reason)
        passage.is_broken = True
        for side in passage.sides:
            side.held = 0
            side.leg.refuse(reason)

    def _new_side(self, link: _Link, circuit: int) -> _Side:
        side = link.sides[circuit] = _Side(link, Leg(link.lane, circuit, self._limits))
        link.lane.legs += 1
        link.neighbour.circuits += 1
        return side

    def _is_crowded(self, link: _Link, out: _Link) -> bool:
        """Whether half of what `out` may carry are circuits that prove nothing, and one of them is this neighbour's: he
        waits for it, so that a few who open and say nothing leave room for others."""
        unproven = [
            side.passage
            for side in out.sides.values()
            if side.passage is not None and side.passage.answers < _PROVEN_ANSWERS
        ]
        return len(unproven) * 2 >= self._limits.relay_circuits_per_peer_max and any(
            passage.sides[0].link is link for passage in unproven
        )

    def _is_full(self, link: _Link) -> bool:
        """Whether no circuit more may run over a link: while it takes the place of another one, over both of them."""
        circuits_max = self._limits.relay_circuits_per_peer_max
        return len(link.sides) >= circuits_max or link.neighbour.circuits >= _WHILE_LINKS_CHANGE * circuits_max

    def _leg_left(self, key: int, leg: Leg) -> None:
        # It is there: a side is taken off its link by `_drop` alone, after which its leg says nothing.
        self._drop(self._links[key].sides[leg.circuit])

    def _drop(self, side: _Side) -> None:
        """Take a side off its link, where it is until then; its number is free to be passed over."""
        del side.link.sides[side.leg.circuit]
        side.link.lane.legs -= 1
        side.link.neighbour.circuits -= 1
        if side.passage is not None:
            side.link.lane.passed_on -= 1
            side.link.neighbour.note_passed_on(side.joined()[1].link.peer_id, -1)
        side.leg.discard()
        passage = side.passage
        if passage is not None and all(each.leg.is_over for each in passage.sides):
            self._passages.pop(passage, None)


def _reason_of(payload: bytes) -> Reason:
    """What a REFUSED says; a reason that this version does not know is an abnormal end."""
    try:
        return Reason(int.from_bytes(payload, "little")) if len(payload) == 2 else Reason.PROTOCOL
    except ValueError:
        return Reason.ABNORMAL
