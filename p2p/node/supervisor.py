"""Supervises connections: starts them, admits or refuses who they prove to be, keeps one per peer, counts their ends.

It is the `Owner` that every connection reports to, and the only place that sees roster, pins, admission of origins,
channels and replicator together. It refuses to know bytes and sockets (`peer.connection`), when to dial (`dialer`)
and how connections come in (`listener`).

A link's life, as seen from here:

    start ──▶ on_proven ──▶ on_live ──▶ on_data / on_wal … ──▶ on_ended
                  └─ refused ───────────────────────────────────┘
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

import trio

from p2p import msg
from p2p.crypto.ephemerals import Ephemerals
from p2p.errors import Reason
from p2p.ids import PeerEndpoint, PeerId, is_node_id
from p2p.limits import Limits
from p2p.node.acquaintances import Acquaintances
from p2p.node.carried_over import WAY_BROKE, CarriedOver
from p2p.node.circuits import Circuits
from p2p.node.dispatch import Dispatch
from p2p.node.events import CloneSuspected, EventFeed, LabelConflict, PeerConnected, PeerLeft, PeerMoved
from p2p.node.lines import Lines, PacedLines
from p2p.node.paths import Paths, relay_of
from p2p.node.replicator import Replicator
from p2p.node.roster import Roster
from p2p.node.status import Counters, snapshot_of
from p2p.node.succession import Succession
from p2p.peer.connection import Connection
from p2p.peer.owner import Pause, Routing
from p2p.policy.admission import ConnectionSlots, Scores
from p2p.policy.buckets import BucketTable
from p2p.policy.guard import ConnectionGuard
from p2p.policy.origins import OriginAdmission
from p2p.policy.pins import Pins
from p2p.policy.places import PeerPlaces
from p2p.relay.end import CircuitEnd
from p2p.session.events import PeerProven
from p2p.session.handshake import SessionConfig
from p2p.session.session import Session
from p2p.session.states import Role
from p2p.text import one_line
from p2p.transport.base import LinkStream
from p2p.transport.circuit import CircuitStream
from p2p.windows import Clock, Entropy, uniform

_log = logging.getLogger("p2p.link")


class Supervisor:
    """The links of one node, from stream to end."""

    def __init__(
        self,
        *,
        own: PeerId,
        limits: Limits,
        session_config: SessionConfig,
        roster: Roster,
        slots: ConnectionSlots[Connection],
        places: PeerPlaces[Connection],
        guard: ConnectionGuard,
        is_named: Callable[[PeerId], bool],
        is_chosen: Callable[[PeerId], bool],
        may_come: Callable[[PeerId], bool],
        scores: Scores,
        pins: Pins,
        trusted: Mapping[str, PeerId] | None,
        origins: OriginAdmission,
        dispatch: Dispatch,
        replicator: Replicator,
        circuits: Circuits,
        paths: Paths,
        counters: Counters,
        events: EventFeed,
        log_line: Lines,
        remember_pin: Callable[[str, PeerId], None],
        remember_ban: Callable[[PeerId, int], None],
        acquaintances: Acquaintances,
        clock: Clock,
        entropy: Entropy,
        nursery: trio.Nursery,
    ) -> None:
        # In the order in which they came: a set has another order in every process, and a stop goes through it.
        self.links: dict[Connection, None] = {}
        self._own = own
        self._limits = limits
        self._session_config = session_config
        self._roster = roster
        self._succession = Succession(roster, limits, on_kept=self._on_kept, on_gave_way=self._on_gave_way)
        self._carried_over = CarriedOver(limits)
        self._replacing: dict[PeerId, trio.CancelScope] = {}
        self._slots = slots
        self._places = places
        self._guard = guard
        self._is_chosen = is_chosen
        self._may_come = may_come
        self._scores = scores
        self._pins = pins
        self._trusted = None if trusted is None else frozenset(trusted.values())
        self._origins = origins
        self._dispatch = dispatch
        self._replicator = replicator
        self._circuits = circuits
        self._paths = paths
        self._counters = counters
        self._events = events
        self._remember_pin = remember_pin
        self._remember_ban = remember_ban
        self._acquaintances = acquaintances
        self._clock = clock
        self._entropy = entropy
        self._ephemerals = Ephemerals(entropy)
        self._nursery = nursery
        self._stopping = False
        self._is_named = is_named
        self._log_line = log_line
        self._lines_of_named, self._lines_of_others = (
            PacedLines(log_line, clock, limits.peer_lines_per_s, limits.peer_lines_burst) for _ in range(2)
        )
        self._tell_of_refusal = PacedLines(log_line, clock, limits.refusal_lines_per_s, limits.refusal_lines_burst)
        self._refused_lines = BucketTable(1 / limits.refused_again_s, 1, limits.refused_told_max)

    def start(self, stream: LinkStream) -> Connection:
        """Serve a stream that was accepted, in a task of its own."""
        link = self._make_link(stream, dialed=None)
        self._nursery.start_soon(link.run, self._nursery)
        return link

    def begin(self, stream: LinkStream, *, dialed: PeerEndpoint) -> Connection:
        """Make a link of a stream that was dialled, and say Hello. The caller runs it, in this node's nursery."""
        link = self._make_link(stream, dialed=dialed)
        # A Hello leaves now: the other side works on it while the link's task begins.
        link.flush()
        # What follows needs the other side's answer first: there is time for the next one's key.
        self._ephemerals.refill()
        return link

    def _make_link(self, stream: LinkStream, *, dialed: PeerEndpoint | None) -> Connection:
        self._counters.handshakes_started += 1
        role = Role.RESPONDER if dialed is None else Role.INITIATOR
        now = self._clock.monotonic()
        session = Session(
            self._session_config,
            role,
            entropy=self._entropy,
            now=now,
            # A Hello alone tells it.
            wall_ms=0 if dialed is None else max(0, self._clock.wall_ms()),
            ephemeral=self._ephemerals.take,
        )
        link = Connection(
            stream,
            session,
            self,
            clock=self._clock,
            limits=self._limits,
            dialed_by_us=dialed is not None,
            endpoint=dialed if dialed is not None else stream.remote,
        )
        self.links[link] = None
        if not link.direct and isinstance(stream, CircuitStream):
            stream.end.on_credit = link.heard
            link.life.carrier = next((other for other in self.links if other.carries(stream.end.lane)), None)
        _log.debug("handshake begins: %s", link)
        return link

    async def disconnect(self, peer_id: PeerId) -> None:
        """Say Goodbye to a peer, on every link it has, and wait for their ends (at most `drain_s_max`)."""
        self._acquaintances.left(peer_id)
        self.give_up_on(peer_id)
        links = self._succession.of_peer(peer_id)
        for link in links:
            link.close(Reason.DISCONNECTED)
        for link in links:
            await link.over.wait()

    def give_up_on(self, peer_id: PeerId) -> None:
        """Make no link in place of one that broke or moves, and forget what waits for it."""
        self._paths.give_up_on(peer_id)
        replacing = self._replacing.get(peer_id)
        if replacing is not None:
            replacing.cancel()
        self._counters.messages_unsent += len(self._carried_over.take(peer_id))

    async def heir(self, peer_id: PeerId) -> Connection | None:
        """The live link that is kept of a peer, or is about to be; None if there is none."""
        return await self._succession.heir(peer_id)

    async def close_all(self, within_s: float) -> None:
        """Say Goodbye on every link and wait for their ends, at most so long."""
        self._stopping = True
        with trio.move_on_after(within_s):
            # The Goodbyes inside circuits travel over the direct links, which have to be there still; and a circuit
            # that is silent leaves half of the time to them.
            with trio.move_on_after(within_s / 2):
                await self._close([link for link in self.links if not link.direct])
            await self._close([link for link in self.links if link.direct])

    async def _close(self, ending: list[Connection]) -> None:
        for link in ending:
            link.close(Reason.CLOSED)
        for link in ending:
            await link.over.wait()

    # Owner

    def on_proven(self, link: Connection, proven: PeerProven) -> tuple[Reason, str] | None:
        """Admit an identity, or say why not."""
        refusal = self._judge(link, proven)
        if refusal is None:
            self._succession.proven(link)
        else:
            self._tell_refused(link, proven, *refusal)
        return refusal

    def _judge(self, link: Connection, proven: PeerProven) -> tuple[Reason, str] | None:
        # From the cheapest certainty to the policy.
        peer_id = proven.peer_id
        if self._stopping:
            return Reason.CLOSED, "stopping"
        if peer_id == self._own:
            return Reason.SELF, "the other side has this node's own identity"
        # Who opened a circuit is said by the relay, and has to be proven like a peer that was dialled.
        is_named = link.dialed_by_us or not link.direct
        expected = link.endpoint.expect if is_named and link.endpoint is not None else None
        if expected is not None and expected not in (str(peer_id), proven.node_id):
            return Reason.WRONG_PEER, f"{proven.node_id} ({peer_id.short}) answered where {expected} was expected"
        # The proof was read then.
        if self._scores.is_banned(peer_id, link.life.read_at):
            return Reason.BANNED, "banned for a while"
        if self._trusted is not None and peer_id not in self._trusted:
            return Reason.NOT_ADMITTED, "not on the trust list"
        chosen = link.dialed_by_us or self._is_chosen(peer_id)
        if not (link.dialed_by_us or peer_id in self._places or self._may_come(peer_id)):
            return Reason.FULL, "the places that are left are kept for configured peers"
        if not self._places.enter(link, peer_id, chosen=chosen):
            return Reason.FULL, _full(self._places, self._limits)
        return self._label(link, proven, is_configured=expected is not None and expected == proven.node_id)

    def _label(self, link: Connection, proven: PeerProven, *, is_configured: bool) -> tuple[Reason, str] | None:
        node_id, peer_id = proven.node_id, proven.peer_id
        if not is_node_id(node_id):
            # The session refused all but a real label or the peer's own id; the latter adds nothing.
            return None
        # Nobody is pinned on first sight through a relay, as an identity of one run is not.
        ephemeral = "ephemeral" in proven.capabilities or not link.direct
        pinned_to = self._pins.holder(node_id)
        verdict = self._pins.check(node_id, peer_id, strong=is_configured, ephemeral=ephemeral)
        if verdict.is_conflict:
            assert pinned_to is not None, "a conflict has somebody to conflict with"
            self._events.emit(LabelConflict(node_id, peer_id, pinned_to, refused=verdict.is_refused))
            mend = (
                "it is refused"
                if verdict.is_refused
                else "it goes by its peer id; if that machine was set up anew, `p2p peers forget` frees the label "
                "while this node is stopped"
            )
            what = f"label conflict: {peer_id.short} shows {node_id}, which belongs to {pinned_to.short}"
            self._tell_of_peer(peer_id, f"{what}: {mend}")
            if verdict.is_refused:
                return Reason.LABEL_CONFLICT, f"{node_id} is pinned to another identity"
            return None
        holder = self._roster.holder_of(node_id)
        if ephemeral and holder is not None and holder != peer_id:
            # Nobody pins an identity of one run, so who is connected under the label keeps it.
            self._events.emit(LabelConflict(node_id, peer_id, holder, refused=False))
            self._tell_of_peer(
                peer_id, f"label conflict: {peer_id.short} shows {node_id}, which {holder.short} goes by"
            )
            return None
        link.label = node_id
        if not ephemeral:
            self._remember_pin(node_id, peer_id)
        return None

    def on_live(self, link: Connection) -> None:
        """Enter the link; where there are two to one peer, let one go."""
        peer_id = link.peer_id
        self._counters.handshakes_completed += 1
        self._slots.leave(link, authenticated=True)
        if not (link.direct or link.dialed_by_us):
            self._circuits.proved(link)
        self._origins.prove(peer_id)
        self._roster.remember(peer_id)
        self._acquaintances.met(link)
        if not link.direct:
            link.life.bear(self._paths.patience_with(link))
        _log.debug("live: %s", link)
        self._succession.live(link)
        if not link.dialed_by_us:
            # Its first word is out, and nobody waits for more: the next one that comes finds a key ready.
            self._ephemerals.refill()

    def on_probed(self, link: Connection, *, alive: bool) -> None:
        """Decide between an older link and a newer one."""
        self._succession.probed(link, alive=alive)

    def _on_kept(self, link: Connection, old: Connection | None) -> None:
        link.replicating = True
        self._replicator.link_up(link)
        # The other side waits for these heads to know that it is live; what follows here it need not wait for.
        link.flush()
        self._circuits.link_up(link)
        self._paths.link_up(link)
        self._move_if_asked(link)
        for message in (*self._carried_over.take(link.peer_id), *self._left_by(old)):
            if not link.send_data_nowait(message):
                self._counters.messages_unsent += 1
        if old is None:
            if self._events.streams:
                self._events.emit(PeerConnected(snapshot_of(link)))
            # Mostly nobody listens: the lines of a link that comes and goes were a twentieth of its calls.
            if self._log_line.is_heard:
                self._tell_of_link(link, f"connected to {_name(link)} at {link.endpoint}")
        elif _way_of(link) != _way_of(old):
            if self._events.streams:
                self._events.emit(PeerMoved(snapshot_of(link)))
            how = "directly" if link.direct else "another way"
            self._tell_of_link(link, f"{_name(link)} is reached {how} now: {link.endpoint}")

    def _left_by(self, old: Connection | None) -> tuple[bytes, ...]:
        """What waited on the link whose place another one takes, and is not lost."""
        if old is None:
            return ()
        left, old.left = old.left, ()
        if old in self.links:
            old.unsent -= len(left)
        else:
            # It is over, and was counted.
            self._counters.messages_unsent -= len(left)
        return left

    def _on_gave_way(self, link: Connection) -> None:
        """Another link with the same peer takes the place of this one, or has it. Its circuits may end in order."""
        self._paths.link_gave_way(link)
        self._let_go(link)
        self._circuits.gives_way(link)

    def _let_go(self, link: Connection) -> None:
        """A link is over, or gives way to another: nothing new runs over it any more."""
        if link.replicating:
            link.replicating = False
            self._replicator.link_down(link)
            self._paths.link_down(link)

    def _note_change(self, link: Connection) -> None:
        """A link is over that gave way: see whether its peer knew that he had made another one."""
        kept = self._roster.links.get(link.peer_id)
        if kept is None or kept.dialed_by_us or link.dialed_by_us or kept.direct != link.direct:
            return
        if self._roster.note_change(link.peer_id, self._clock.monotonic()):
            self._events.emit(CloneSuspected(link.peer_id, link.label))
            self._tell_of_link(
                link, f"the identity of {_name(link)} seems to be used in two places: its links alternate"
            )

    def on_data(self, link: Connection, message_id: int, flags: int, data: msg.Data) -> Pause | None:
        """Hand an application message to its channel, after those that came before it."""
        # Order is promised to `send`. A question does not wait: its asker may owe an answer on the very link that ends.
        if link.after and not flags and not self._succession.has_turn(link):
            return partial(self._take_in_turn, link, 1, partial(self._dispatch.deliver, link, message_id, flags, data))
        return self._dispatch.deliver(link, message_id, flags, data)

    def on_late_answer(self, link: Connection) -> None:
        """Count an answer that came too late."""
        self._counters.answers_late += 1

    def on_row(self, link: Connection, channel: str, bodies: list[bytes]) -> Pause | None:
        """Hand application messages that ask nothing to their channel, after those that came before them."""
        if link.after and not self._succession.has_turn(link):
            deliver = partial(self._dispatch.deliver_row, link, channel, bodies)
            return partial(self._take_in_turn, link, len(bodies), deliver)
        return self._dispatch.deliver_row(link, channel, bodies)

    async def _take_in_turn(self, link: Connection, count: int, deliver: Callable[[], Pause | None]) -> Pause | None:
        is_lost = True
        try:
            await self._succession.turn(link)
            is_lost = False
        finally:
            if is_lost:
                # The link is over, or may not rest any more.
                self._counters.messages_dropped += count
        return deliver()

    def on_wal(self, link: Connection, message: msg.AnyMessage) -> Pause | None:
        """Hand a replication message on; a link that gave way no longer replicates."""
        if link.replicating:
            self._replicator.receive(link, message)
        elif self._succession.is_candidate(link):
            return partial(self._take_if_kept, link, message)
        return None

    async def _take_if_kept(self, link: Connection, message: msg.AnyMessage) -> None:
        await self._succession.decision(link)
        if link.replicating:
            self._replicator.receive(link, message)

    def on_routing(self, link: Connection, message: Routing) -> None:
        """Hand on a step of a circuit, or what a relay tells."""
        if isinstance(message, msg.Relay):
            self._circuits.receive(link, message)
        else:
            self._paths.receive(link, message)

    def serve_circuit(self, stream: CircuitStream) -> bool:
        """Serve a circuit that came in, as the acceptor serves a connection: within the bounds of unproven ones.

        Returns:
            Whether it is served; else nothing was done with it.
        """
        # Who is said to have opened it is the relay's word, so it counts for what comes over that relay alone.
        place = f"{stream.end.relay} {stream.end.far}"
        if not self._slots.admits(place, self._clock.monotonic()):
            self._tell_of_refusal(f"refused {stream.remote}: {Reason.OVERLOADED.label}")
            return False
        stream.end.take()
        link = self.start(stream)
        evicted = self._slots.enter(link, place)
        if evicted is not None:
            evicted.abort(Reason.FULL, "too many connections that prove nothing")
        return True

    def move_circuit(self, end: CircuitEnd) -> None:
        """Open another circuit for the link in this one. One that is not kept yet is moved as soon as it is."""
        link = self._roster.links.get(end.far)
        if link is not None:
            self._move_if_asked(link)

    def _move_if_asked(self, link: Connection) -> None:
        stream = link.stream
        is_asked = not link.direct and isinstance(stream, CircuitStream) and stream.end.must_move
        if is_asked and link.is_live and link.peer_id not in self._replacing:
            self._make_another(link.peer_id, partial(self._paths.move, link))

    def on_ignored(self, link: Connection) -> None:
        """Count a message of a type that a later version may know."""
        self._counters.ignored_messages += 1

    def on_flood(self, link: Connection) -> None:
        """Count a rest of the link; the first one may be bad luck, the others cost points.

        Inside a circuit none does: a relay can hold back what was sent over a minute, and pass it on at once.
        """
        self._counters.links_rested += 1
        link.floods += 1
        if link.floods > 1 and link.direct:
            self.penalize(link.peer_id, Reason.OVERLOADED)

    def on_rest(self, link: Connection) -> None:
        """Let our ends of the circuits over a link that rests tell that they live."""
        for circuit in tuple(self.links):
            if circuit.life.carrier is link:
                circuit.carrier_rests()
                if isinstance(circuit.stream, CircuitStream):
                    # Its own word may wait for credit, which is not read.
                    circuit.stream.end.show_life()

    def on_ended(self, link: Connection) -> None:
        """Take the link out of every table and count how it ended."""
        reason = link.reason
        assert reason is not None, "an ended link has a reason"
        self.links.pop(link, None)
        self._counters.count_end(reason)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("over: %s: %s", link, one_line(_end_of(link)))
        self._counters.messages_unsent += link.unsent
        if (link.retiring or reason is Reason.MOVED) and (link.unsent or link.cut_short) and not self._stopping:
            self._tell_of_link(
                link,
                f"an older link with {_name(link)} could not be emptied and was cut: {link.unsent} messages that "
                "waited on it are lost, and what was under way",
            )
        if link.connected_at is None:
            self._counters.handshakes_failed += 1
            self._slots.leave(link, authenticated=False)
        self._places.leave(link)
        self._let_go(link)
        self._circuits.link_down(link)
        peer_id = link.session.peer_id
        if peer_id is not None:
            self._succession.ended(link)
            if link.retiring and link.clean and not link.was_left and not self._stopping:
                self._note_change(link)
        # Only what stands under a good seal is certainly the peer's. Whoever is on the way, as a relay is, can break
        # seals, change lengths and hold back bytes, and would choose who is left alone. So would a way that is bad.
        if reason is Reason.PROTOCOL and peer_id is not None and not link.clean:
            self.penalize(peer_id, reason)
        if peer_id is None:
            if not link.dialed_by_us:
                self._tell_of_refusal(f"refused {link.endpoint}: {_end_of(link)}")
        elif self._roster.remove(link):
            if link.left and not self._stopping and reason in WAY_BROKE:
                self._carry_over(link)
            if self._events.streams:
                self._events.emit(PeerLeft(peer_id, link.label, reason, link.detail, link.clean))
            if self._log_line.is_heard:
                self._tell_of_link(link, f"lost {_name(link)}: {_end_of(link)}")
        if not link.direct and link.connected_at is not None and not link.clean:
            self._note_circuit_end(link)
        if link.dialed_by_us and link.endpoint is not None and link.connected_at is not None:
            self._note_dialed_end(link, link.endpoint, link.connected_at)

    def _note_circuit_end(self, link: Connection) -> None:
        carrier, stream = link.life.carrier, link.stream
        assert isinstance(stream, CircuitStream), "it is not direct"
        assert link.connected_at is not None, "it was live"
        # Our own link to the relay is not read, or made place for another one and was there for long enough to move.
        is_blameless = carrier is not None and (carrier.is_resting or carrier.kept_its_time)
        if link.reason is Reason.OVERLOADED and stream.end.reason is not Reason.OVERLOADED:
            # The peer does not read what we send, and lives.
            is_blameless = True
        # Nor is it held against a relay that our own Goodbye is not answered, or that one which lives is cut.
        if not (is_blameless or link.cut_short or (link.is_parting and not link.retiring)):
            self._paths.link_broke(link)
        if link.reason in WAY_BROKE and link.dialed_by_us and not self._stopping and not link.is_parting:
            # The way of a link that we dialled broke: whoever needs another one waits for it.
            self._succession.expect(link.peer_id)
            # A relay whose link to the peer made place for another one has that one now.
            since = link.connected_at if stream.end.reason is Reason.MOVED else self._clock.monotonic()
            put_off = partial(self._succession.expect_no_more, link.peer_id)
            make = partial(self._paths.open_anew, link.peer_id, relay_of(link), since, put_off)
            self._make_another(link.peer_id, make)

    def _make_another(self, peer_id: PeerId, make: Callable[[], Awaitable[None]]) -> None:
        """Make a link in place of one that broke or moves: one at a time, and until somebody parts from the peer."""
        before = self._replacing.get(peer_id)
        if before is not None:
            before.cancel()
        if not self._stopping:
            scope = self._replacing[peer_id] = trio.CancelScope()
            self._nursery.start_soon(self._replace, peer_id, make, scope)

    @trio.lowlevel.enable_ki_protection
    async def _replace(self, peer_id: PeerId, make: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        with scope:
            await make()
        if self._replacing.get(peer_id) is scope:
            del self._replacing[peer_id]
            self._succession.expect_no_more(peer_id)
            kept = self._roster.links.get(peer_id)
            if kept is not None:
                self._move_if_asked(kept)

    def _carry_over(self, link: Connection) -> None:
        """What waited on a circuit that broke, and nobody can have got, waits for the next link with the same peer."""
        taken = self._carried_over.keep(link.peer_id, link.left)
        if taken is not None:
            self._counters.messages_unsent -= len(link.left)
            link.left = ()
            self._nursery.start_soon(self._drop_unless, taken, link.peer_id)

    @trio.lowlevel.enable_ki_protection
    async def _drop_unless(self, taken: trio.Event, peer_id: PeerId) -> None:
        """Drop what is kept for a peer when it was not taken in time, or the node stops."""
        try:
            with trio.move_on_after(self._limits.relay_carry_s_max):
                await taken.wait()
        finally:
            if not taken.is_set():
                lost = len(self._carried_over.take(peer_id))
                self._counters.messages_unsent += lost
                messages = f"{lost} message{'' if lost == 1 else 's'} for {peer_id.short}"
                self._tell_of_peer(peer_id, f"{messages} lost: no other way was found in time")

    def _note_dialed_end(self, link: Connection, endpoint: PeerEndpoint, connected_at: float) -> None:
        now = self._clock.monotonic()
        replaced = link.peer_id in self._roster.links
        lasted_s, reason = now - connected_at, link.reason or Reason.ABNORMAL
        self._guard.ended(endpoint, lasted_s, now, uniform(self._entropy), reason, replaced=replaced)

    def _tell_of_link(self, link: Connection, line: str) -> None:
        self._tell_of_peer(link.peer_id, line, is_ours=link.dialed_by_us)

    def _tell_of_peer(self, peer_id: PeerId, line: str, *, is_ours: bool = False) -> None:
        # Strangers who come and go without end do not hide what becomes of those whom somebody here wants.
        (self._lines_of_named if is_ours or self._is_named(peer_id) else self._lines_of_others)(line)

    def _tell_refused(self, link: Connection, proven: PeerProven, reason: Reason, detail: str) -> None:
        # It comes again and again, and may be a member that somebody forgot to put on a list: the first time is told.
        if reason in _REFUSALS_TOLD_ELSEWHERE:
            return
        if self._refused_lines.of(f"{reason.label} {proven.peer_id}").take(self._clock.monotonic()):
            short = proven.peer_id.short
            who = f"{proven.node_id} ({short})" if is_node_id(proven.node_id) else short
            self._tell_of_refusal(f"refused {who} at {link.endpoint}: {reason.label}: {detail}")

    def penalize(self, peer_id: PeerId, reason: Reason) -> None:
        """Take points from an identity; at 0 its links end and it is left alone for a while. Never this node's own."""
        if peer_id == self._own:
            return
        now = self._clock.monotonic()
        if self._scores.penalize(peer_id, reason.penalty, now):
            ban_s = self._scores.banned_until(peer_id, now) - now
            self._remember_ban(peer_id, self._clock.wall_ms() + int(ban_s * 1000))
            self._tell_of_peer(peer_id, f"{peer_id.short} is banned for a while: {reason.label}")
            for link in self._succession.of_peer(peer_id):
                link.close(Reason.BANNED)


_REFUSALS_TOLD_ELSEWHERE: Final = (Reason.CLOSED, Reason.LABEL_CONFLICT)
"""A node that stops says so; a conflict has a line and an event of its own."""


def _end_of(link: Connection) -> str:
    assert link.reason is not None, "an ended link has a reason"
    return f"{link.reason.label}: {link.detail}" if link.detail else link.reason.label


def _way_of(link: Connection) -> PeerId | None:
    """The relay next to us on its way; None of a direct link."""
    return None if link.direct else relay_of(link)


def _name(link: Connection) -> str:
    return f"{link.label} ({link.peer_id.short})" if link.label else link.peer_id.short


def _full(places: PeerPlaces[Connection], limits: Limits) -> str:
    if len(places) >= limits.max_peers:
        return f"{limits.max_peers} peers are connected"
    return f"{places.strangers} peers came by themselves; the other places are for those that this node looks for"
