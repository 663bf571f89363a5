"""One connection: a stream and a session held together by one task.

Responsible for reading, for the session's deadlines, for backpressure, and for an end that is counted once whatever
ended it; what is sent is the part of `Outgoing`, the base of this. It refuses to know what messages mean, who may
connect, and which other links exist: that is its owner's part (`Owner`).

How it moves: the **reader** is the connection's own task, and an idle connection has no other. One cancel scope around
the read carries the session's next deadline, and is only entered anew when it fires or must come earlier. After each
chunk read, answers are flushed without waiting if the socket takes them.

An error of the stream, a peer's violation and our own fault while serving this peer all end this connection and
nothing else.
"""

from __future__ import annotations

import logging
import math
from enum import Enum
from functools import partial
from typing import Final

import trio

from p2p import msg
from p2p.errors import Reason, RemoteProtocolError
from p2p.framing import VIEW_BYTES_MIN
from p2p.ids import PeerEndpoint
from p2p.limits import Limits
from p2p.peer.asking import unsolicited
from p2p.peer.outgoing import Outgoing
from p2p.peer.owner import Owner, Pause, Served
from p2p.peer.parting import Parting, Step
from p2p.policy.buckets import TokenBucket
from p2p.session.events import Ended, Event, Ignored, Live, PeerProven, Pinged, Ponged, Received, ReceivedRow
from p2p.session.session import Session
from p2p.session.states import State
from p2p.text import TRACE
from p2p.transport.base import LinkBroke, LinkStream, RulesBroken
from p2p.windows import Clock

_log = logging.getLogger("p2p.peer")

_NEVER: Final = float("inf")

_RATED: Final = frozenset({msg.WalHeads, msg.OutboxPull, msg.ForkProof, msg.Attached})
"""Messages that no window counts, as a Ping is; acks, batches and data are bounded by windows and backpressure. So are
the opening of a circuit and what asks for it to be moved, but nothing else of a circuit."""


class PeerState(Enum):
    """Where a link stands, in Vix's words."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    HANDSHAKING = "handshaking"
    CONNECTED = "connected"
    STALE = "stale"
    CLOSED = "closed"


class Connection(Outgoing):
    """A link to one peer, from its stream's start to its end.

    Attributes:
        dialed_by_us: whether this node is the initiator.
        cut_short: whether it gave way and was cut at the bound of that, although it lived.
        left: those of `unsent` that another link may send, as nobody can have got them. Only circuits leave any: their
            way broke, and the peer is where he was; or they gave way, maybe because the peer found out first.
        served: requests of the peer that are with a service of ours, by id; each service bounds its own.
    """

    __slots__ = (
        "_control",
        "_emptied",
        "_is_emptied",
        "_is_over",
        "_life_scope",
        "_over",
        "_owner",
        "_pause",
        "_read_scope",
        "_settled",
        "connected_at",
        "cut_short",
        "dialed_by_us",
        "floods",
        "left",
        "replicating",
        "served",
        "started_at",
    )

    def __init__(
        self,
        stream: LinkStream,
        session: Session,
        owner: Owner,
        *,
        clock: Clock,
        limits: Limits,
        dialed_by_us: bool,
        endpoint: PeerEndpoint | None,
    ) -> None:
        super().__init__(stream, session, clock=clock, limits=limits, endpoint=endpoint)
        self.dialed_by_us = dialed_by_us
        # When the session did: nothing was heard yet.
        self.started_at = session.last_seen
        self.connected_at: float | None = None
        self.replicating = False
        self.served: dict[int, Served] = {}
        self.floods = 0
        self.left: tuple[bytes, ...] = ()
        self.cut_short = False
        self._owner = owner
        self._control = TokenBucket(limits.control_per_s, limits.control_burst)
        self._read_scope: trio.CancelScope | None = None
        # What has to be waited for before the next read.
        self._pause: Pause | None = None
        self._settled: trio.Event | None = None
        self._over: trio.Event | None = None
        self._is_over = False
        self._emptied: trio.Event | None = None
        self._is_emptied = False
        self._life_scope: trio.CancelScope | None = None

    # What others ask of a link.

    @property
    def ephemeral(self) -> bool:
        """Whether the peer said that its identity lasts for this run only."""
        return "ephemeral" in self.session.peer_capabilities

    @property
    def is_live(self) -> bool:
        """Whether messages may be sent."""
        return self._live and self.reason is None and self._parting is None

    @property
    def retiring(self) -> bool:
        """Whether it gives way to another link with the same peer, or did."""
        return self._parting is not None and self._parting.gives_way

    @property
    def kept_its_time(self) -> bool:
        """Whether it gave way and is over, and lasted for half of the time that its circuits have to move."""
        if self.reason is None or self._parting is None or not self._parting.gives_way:
            return False
        return self._clock.monotonic() >= self._parting.since + self._limits.retire_s_max / 2

    @property
    def was_left(self) -> bool:
        """Whether it gave way, and the peer said so first, as this node expected him to, who dialled the other link."""
        return self.clean and self.retiring and self._parting is not None and self._parting.waits_for == _NEVER

    @property
    def is_parting(self) -> bool:
        """Whether it was told to end in order, be it for good or to give way."""
        return self._parting is not None

    @property
    def state(self) -> PeerState:
        """The link's state in Vix's words; STALE once it was silent for longer than a ping takes."""
        if self.reason is not None:
            return PeerState.CLOSED
        if not self._live:
            return PeerState.HANDSHAKING
        silent_s = self._clock.monotonic() - self.session.last_seen
        return PeerState.STALE if silent_s > 2 * self._limits.ping_after_s else PeerState.CONNECTED

    @property
    def settled(self) -> trio.Event:
        """Set when the link is live or over: what a dial waits for."""
        if self._settled is None:
            self._settled = trio.Event()
            if self._live or self.reason is not None:
                self._settled.set()
        return self._settled

    def when_settled(self, settled: trio.Event) -> None:
        """Have this event set when the link is live or over, as it is not yet and nobody has asked for (`settled`)."""
        assert self._settled is None, "one event tells that a link is settled"
        self._settled = settled

    @property
    def over(self) -> trio.Event:
        """Set when the link's task has done its work."""
        if self._over is None:
            self._over = trio.Event()
            if self._is_over:
                self._over.set()
        return self._over

    @property
    def emptied(self) -> trio.Event:
        """Set when all application messages of the peer but answers have come: he said so, or the link is over."""
        if self._emptied is None:
            self._emptied = trio.Event()
            if self._is_emptied:
                self._emptied.set()
        return self._emptied

    def _take_answer(self, data: msg.Data) -> None:
        if self.asks is None:
            raise unsolicited(data.reply_to)
        if not self.asks.answer(data):
            self._owner.on_late_answer(self)

    async def measure_rtt(self) -> float:
        """Ping now and wait for the answer; seconds. One Ping is under way: who asks meanwhile shares the next.

        Raises:
            NotConnected: the link is not live, or ended before.
        """
        await trio.lowlevel.checkpoint()
        if self.is_live:
            life, asked_at = self.life, self._clock.monotonic()
            if life.pongs is None:
                life.pongs = trio.lowlevel.ParkingLot()
            while self.is_live:
                if life.measure(self._clock.monotonic()):
                    self.write_soon()
                await life.pongs.park()
                # It may answer an earlier Ping, of a keepalive.
                rtt_s = self.session.rtt_s
                if rtt_s is not None and life.answered_since(asked_at):
                    return rtt_s
        raise self._closed()

    @property
    def stream(self) -> LinkStream:
        """What it runs over."""
        return self._stream

    @property
    def is_resting(self) -> bool:
        """Whether it is not read, as a reader of ours is slow."""
        return self._rest_scope is not None

    @property
    def rest_s_max(self) -> float:
        """How long this link may wait for a reader of ours from now on.

        Circuits that are passed on over it are not heard meanwhile, at either of their ends, which take one that is
        silent for `relay_answer_s_max` for dead. And what waits there to be read may be as much as several reads bring.
        """
        circuits = self._outbox.relay
        if circuits is None or not circuits.passed_on:
            return _NEVER
        return max(0.0, self.life.caught_up_at + self._limits.relay_answer_s_max / 3 - self._clock.monotonic())

    @property
    def deaf_s_max(self) -> float:
        """How long circuits over this link are served if it waits, and is not read, for another link with the peer."""
        circuits = self._outbox.relay
        if circuits is None or not circuits.legs:
            return _NEVER
        return self._limits.relay_answer_s_max / 3 if circuits.passed_on else self._limits.channel_wait_s_max

    def hurry_readers(self, by: float) -> None:
        """Another link, with circuits, waits for what comes on this one, which gives way: our readers have until then.
        What finds no room after that is refused."""
        if self._parting is not None and by < self._parting.readers_by:
            self._parting.readers_by = by
            self._tighten_deadline()

    def heard(self, room_bytes: int) -> None:
        """In a circuit: its far end made room, which is as good as a word.

        A little of it is what an end says that does not read for a while. A relay that swallows everything could say it
        without end: it counts for as long as a reader may be slow.

        Args:
            room_bytes: how much there is by now; 0 if it is less than whoever reads gives back at once.
        """
        self.life.made_room(self._clock.monotonic(), room_bytes)
        if self._outbox:
            self.write_soon()

    def carrier_rests(self) -> None:
        """In a circuit: this node does not read the link that it runs over. So the silence is our own, and the other
        side cannot know that."""
        if self._live and self.session.state is State.LIVE:
            self.life.moved_at = self._clock.monotonic()
            self.greet()

    def close(self, reason: Reason, detail: str = "") -> None:
        """Say Goodbye, flush what waits, read until the other's Goodbye; bounded by `drain_s_max`. Idempotent.

        A link that gives way already no longer waits for handlers, or for what moves, that take more than that.
        """
        if self.reason is not None:
            return
        now = self._clock.monotonic()
        if self._parting is not None:
            self._parting.hurry(now)
            self._tighten_deadline()
            self.flush()
            return
        if not self._live:
            self.abort(reason, detail)
            return
        self._part(Parting(self._limits, now, (reason, detail), gives_way=False))

    def _part(self, parting: Parting) -> None:
        self._parting = parting
        self._tighten_deadline()
        # No more is sent or asked here: who waits for a turn takes it elsewhere, or learns it now.
        if self.asks is not None:
            self.asks.dismiss()
        if self._line is not None:
            self._line.dismiss(answers=not parting.gives_way)
        if not self._flush_follows:
            # At once and not by a task: most links have nothing else to say at their end.
            self.flush()

    def retire(self, *, parts_first: bool = True) -> None:
        """Give way to another link with the same peer: no new sends, the rest flushed, answers given, Goodbye(Moved).

        What waits to go into a circuit is left to the other link (`left`): nothing may come through this one any more.

        The peer is probed meanwhile: if nothing comes back within `probe_s_max`, the link is dead and is cut. One that
        lives goes on as `Parting` says, and while circuits run over it. A peer whose reader is slow says that he lives
        without being asked: our Ping waits behind what he has not read. Requests that were not sent yet are over, to be
        asked on the other link.

        Nobody may say Goodbye while requests to him are on their way: they could not be answered. Who dialled the
        other link knows that its peer, to whom that was live first, sends no more here: when the Ping that he sends now
        is answered, all was read, and he parts first. His peer cannot know that of him, and waits for his Goodbye, for
        `probe_s_max`.

        Args:
            parts_first: whether the other link was dialled by us. Again with True where it is only now.
        """
        if self.reason is not None:
            return
        parting = self._parting
        if parting is not None and parting.gives_way:
            if parts_first and parting.waits_for == _NEVER:
                self._ask_for_life()
                parting.waits_for = self.life.probed_at
                self.write_soon()
            return
        if parting is not None or not self._live:
            self.close(Reason.MOVED)
            return
        self._ask_for_life()
        parting = Parting(self._limits, self.life.probed_at, (Reason.MOVED, ""), gives_way=True)
        parting.waits_for = self.life.probed_at if parts_first else _NEVER
        if self.asks is not None:
            self.asks.withdraw()
        if not self.direct:
            self._leave_messages()
        self._part(parting)
        self._show_life_soon()

    def _owes_answers(self) -> bool:
        """Whether a link that gives way has requests of either side that wait for their answers, or circuits."""
        if not self.retiring or self.reason is not None:
            return False
        circuits = self._outbox.relay
        return bool(self.serving or self.unanswered or self.asks or (circuits is not None and circuits.legs))

    def _leave_messages(self) -> None:
        self.left = self._outbox.withdraw()
        self.unsent += len(self.left)

    def _show_life_soon(self) -> None:
        if self._nursery is not None and self._life_scope is None:
            self._life_scope = trio.CancelScope()
            self._nursery.start_soon(self._show_life, self._life_scope)

    @trio.lowlevel.enable_ki_protection
    async def _show_life(self, scope: trio.CancelScope) -> None:
        """Ping while the link gives way, or rests in a circuit or amid a probe: the other side cannot know what our
        readers take.

        Nor can the far ends of the circuits over a link that rests: this node's own speak for themselves, for as long
        as one rest may take. If one follows the other without a read between them, another way is better.
        """
        deaf_s_max = self._limits.channel_wait_s_max
        with scope:
            while self.reason is None and self.session.state is State.LIVE:
                await trio.sleep(self._limits.probe_s_max / 2)
                if not (self.retiring or self._rest_scope is not None):
                    break
                self.session.ping(self._clock.monotonic())
                self.write_soon()
                if self.is_resting and self._carries_any and self._clock.monotonic() < self.life.read_at + deaf_s_max:
                    self._owner.on_rest(self)
        self._life_scope = None

    def probe(self) -> None:
        """Find out within `probe_s_max` of reading whether the peer answers here; the owner is told (`on_probed`)."""
        if self.is_live and self.life.probe_by == _NEVER:
            self._ask_for_life()
            self.flush()
            if self.is_resting:
                # The other side may probe it, too, and is not answered while we do not read.
                self._show_life_soon()

    def greet(self) -> None:
        """Send something, so that the peer knows that the link is live."""
        self.session.ping(self._clock.monotonic())
        self.flush()

    def _ask_for_life(self) -> None:
        self.life.ask(self._clock.monotonic())
        self._tighten_deadline()

    def abort(self, reason: Reason, detail: str = "") -> None:
        """End at once: nothing is flushed, no Goodbye is sent. Never waits."""
        self._end(reason, detail, clean=False)
        for scope in (self._read_scope, self._rest_scope, self._write_scope):
            if scope is not None:
                scope.cancel()

    def _broke(self, error: trio.BrokenResourceError | trio.ClosedResourceError) -> None:
        self.abort(self._reason_of(error), _cause(error))

    def _reason_of(self, error: Exception) -> Reason:
        """Why the stream is gone: what was said on the way, of a link that was live, and nothing else.

        Broken rules of what carries the link are told while nothing is proven. Later they may be anybody's on the way,
        and nobody is scored for them.
        """
        if isinstance(error, RulesBroken) and self.session.peer_id is None:
            return Reason.PROTOCOL
        return error.reason if isinstance(error, LinkBroke) and self._live else Reason.ABNORMAL

    # The connection's own tasks.

    @trio.lowlevel.enable_ki_protection
    async def run(self, nursery: trio.Nursery) -> None:
        """Serve the link until it is over. Returns normally whatever the peer or the stream did.

        Args:
            nursery: the one that this task is in, or one around it; what the link writes is a task of it at times.

        Raises:
            trio.Cancelled: the surroundings were cancelled; the stream is cut.
        """
        try:
            self._nursery = nursery
            if self.reason is None:
                self.flush()
                await self._read_until_over()
            if not self._writing and (self.session.state is not State.ENDED or self.session.pending_bytes):
                self.flush()
            # From here nothing new is started, while others still know this link.
            self._nursery = None
            if self._write_scope is not None:
                await self._end_writing(self._write_scope)
        finally:
            self._nursery = None
            if self._life_scope is not None:
                self._life_scope.cancel()
            self._end(Reason.CLOSED, "the node stopped", clean=False)
            # Else link and session hold each other, and the memory of each that ended waits for the garbage collector.
            self.session.before_answering_goodbye(None)
            if self.clean or self.session.state is State.ENDING:
                # A Goodbye is on its way: a reset would overtake it.
                if not self._stream.close_nowait():
                    # Shielded, with no time to wait: a cancellation from outside may not keep the end from being told.
                    with trio.CancelScope(shield=True, deadline=-math.inf):
                        await self._stream.aclose()
            else:
                self._stream.abort()
            self._is_over = True
            if self._over is not None:
                self._over.set()
            self._note_emptied()
            self._owner.on_ended(self)

    async def _read_until_over(self) -> None:
        # One function: whoever waits in a coroutine within it passes through each one more at every turn of the loop.
        stream = self._stream
        read_bytes = self._limits.read_bytes if self.direct else self._limits.relay_slice_bytes_max
        while self.reason is None:
            pause, self._pause = self._pause, None
            try:
                if pause is not None:
                    await self._rest_until(pause)
                else:
                    with trio.CancelScope(deadline=self._next_deadline()) as scope:
                        self._read_scope = scope
                        try:
                            await stream.receive_while(self._take_chunk, read_bytes)
                        finally:
                            self._read_scope = None
                    if scope.cancelled_caught and self.reason is None:
                        self._meet_deadline()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._end(self._reason_of(error), _cause(error), clean=False)
            except RemoteProtocolError as error:
                # A replication message that cannot be: the session could not know.
                self.session.goodbye(error.reason, "")
                self._end(error.reason, str(error), clean=False)
            except Exception:  # noqa: BLE001  # our own bug: this link pays for it, the node does not
                _log.exception("link %s failed inside this node", self)
                self._end(Reason.INTERNAL, "an internal error", clean=False)
        await self._rest_no_more()

    async def _rest_no_more(self) -> None:
        """What a rest would have waited for, and what the same read brought behind it, is taken where there is room, or
        counted: it came before the end."""
        while True:
            try:
                pause = self._pause or self._take_late_messages()
                self._pause = None
                if pause is None:
                    return
                with trio.CancelScope(deadline=-math.inf):
                    self._pause = await pause()
            except RemoteProtocolError as error:
                _log.debug("%s: after its end: %s", self, error)
            except Exception:  # noqa: BLE001  # our own bug, as above
                _log.exception("link %s failed inside this node", self)

    def _take_late_messages(self) -> Pause | None:
        """Handle the messages among the events that are left at the end. No question can be answered any more, and
        everything else was about the link."""
        while (event := self.session.next_event()) is not None:
            pause = None
            if isinstance(event, ReceivedRow):
                pause = self._owner.on_row(self, event.channel, event.bodies)
            elif isinstance(event, Received) and isinstance(message := event.message, msg.Data):
                is_message = not (event.flags or message.reply_to)
                pause = self._owner.on_data(self, event.msg_id, 0, message) if is_message else None
            if pause is not None:
                return pause
        return None

    async def _rest_until(self, pause: Pause) -> None:
        """Wait for what the link has to wait for before it reads on."""
        session, clock = self.session, self._clock
        # Outside the scope of the deadlines: they rest while we do not read. Only an end that we asked for comes.
        session.pause(clock.monotonic())
        with trio.CancelScope(deadline=self._rest_by) as scope:
            self._rest_scope = scope
            if not self.direct or self._carries_any or self.life.probe_by != _NEVER:
                self._show_life_soon()
            try:
                self._pause = await pause()
            finally:
                self._rest_scope = None
        if self.reason is not None:
            return
        now = clock.monotonic()
        if not scope.cancelled_caught:
            self.life.moved_at = now
        session.resume(now)
        self.life.resumed(now)
        # One rest after the other must not keep us from saying that we live.
        session.handle_deadline(now)
        self._go_on(now)

    def _meet_deadline(self) -> None:
        now, life = self._clock.monotonic(), self.life
        self.session.handle_deadline(now)
        if (vigil := life.vigil) is not None and self.is_live and life.keep_vigil(vigil, now):
            silent_s = now - vigil.silent_since(life.moved_at)
            self.abort(Reason.DEAD, f"nothing came through the circuit for {silent_s:.3g} s")
        self._go_on(now)

    def _go_on(self, now: float) -> None:
        """After a rest or a deadline: take what waits to be handled, do what is due, write what came of it."""
        if self._pause is None:
            self._pause = self._take_events(now)
        if self.reason is None:
            self._check_end(now)
        self.flush()

    def _take_chunk(self, data: bytes | bytearray) -> bool:
        """Handle what was read; False if nothing more is to be read, as the link is over or has to rest."""
        session, life, size = self.session, self.life, len(data)
        now = life.moved_at = life.read_at = self._clock.monotonic()
        vigil = life.vigil
        if vigil is not None:
            vigil.came(now, size)
        if size < self._limits.read_bytes:
            life.caught_up_at = now
        data = bytes(data)
        is_small = size < VIEW_BYTES_MIN
        alone = session.receive_alone(data, now) if is_small and self._live and not self._traces else None
        if alone is not None:
            message = alone.message
            assert isinstance(message, msg.Data), "only these are received alone"
            if message.reply_to:
                self._take_answer(message)
                if self._parting is None and vigil is None:
                    # Whoever is woken by it has not run yet: there is nothing to write. (In a circuit there may be:
                    # what waited while it was silent.)
                    return True
            else:
                # As in `_take_events`; and an answer that is given at once goes alone, too.
                self._flush_follows = self._alone = True
                try:
                    self._pause = self._owner.on_data(self, alone.msg_id, alone.flags, message)
                finally:
                    self._flush_follows = self._alone = False
        else:
            if data:
                session.receive_data(data, now)
            else:
                session.receive_eof(now)
            self._pause = self._take_events(now)
        # Before a rest, too: the peer may be waiting for these answers to make room.
        self.flush()
        if self._pause is not None or self.reason is not None:
            return False
        # Whoever was heard is not silent: of the deadlines that a read changes only a frame's comes nearer.
        # One that began before this read was looked at then; one that began now has `frame_s_base` at the least.
        scope = self._read_scope
        if session.is_amid_frame and scope is not None and scope.deadline > now + self._limits.frame_s_base:
            self._tighten_deadline()
        return True

    def _take_events(self, now: float) -> Pause | None:
        """Handle the session's events until there are none or one asks for a pause. The caller flushes afterwards."""
        self._flush_follows = True
        try:
            return self._handle_events(now)
        finally:
            self._flush_follows = False
            if self._flush_next:
                links, self._flush_next = self._flush_next, ()
                for link in links:
                    link.flush_circuits()

    def _handle_events(self, now: float) -> Pause | None:
        session, owner = self.session, self._owner
        while (event := session.next_event()) is not None:
            if self._traces:
                _log.log(TRACE, "%s: %s", self, _kind(event))
            if isinstance(event, ReceivedRow):
                pause = owner.on_row(self, event.channel, event.bodies)
            elif isinstance(event, Received):
                message = event.message
                if isinstance(message, msg.Data):
                    if message.reply_to:
                        self._take_answer(message)
                        continue
                    pause = owner.on_data(self, event.msg_id, event.flags, message)
                else:
                    pause = self._hand_on(message)
                    cost = self._cost(message)
                    if cost and not self._control.take(now, cost) and pause is None:
                        pause = self._rest_from_flood()
            elif isinstance(event, Pinged):
                pause = None if self._control.take(now) else self._rest_from_flood()
                if pause is None and self.session.ping_along(now) and self._read_scope is not None:
                    # Later than it was: else it would come for nothing, right after this.
                    self._read_scope.deadline = self._next_deadline()
            else:
                pause = None
                self._note(event, now)
            if pause is not None:
                return pause
        return None

    def _note(self, event: Event, now: float) -> None:
        """Take an event that brings no message."""
        if isinstance(event, Ponged):
            self._take_pong(event, now)
        elif isinstance(event, Ended):
            self._end(event.reason, event.detail, clean=event.clean)
        elif isinstance(event, Live):
            self._live = True
            self._tighten_deadline()
            self.connected_at = now
            self._owner.on_live(self)
            self._settle()
        elif isinstance(event, PeerProven):
            self._admit(event)
        elif isinstance(event, Ignored):
            self._owner.on_ignored(self)

    def _note_emptied(self) -> None:
        self._is_emptied = True
        if self._emptied is not None:
            self._emptied.set()

    def _hand_on(self, message: msg.AnyMessage) -> Pause | None:
        if message == msg.NO_MORE_DATA:
            self._note_emptied()
            return None
        if isinstance(message, (msg.Relay, msg.Attached)):
            self._owner.on_routing(self, message)
            return None
        if isinstance(message, msg.RequestCancel):
            served = self.served.get(message.msg_id)
            # One that is answered already has crossed this on the way.
            if served is not None:
                served.cancel()
            return None
        return self._owner.on_wal(self, message)

    def _take_pong(self, pong: Ponged, now: float) -> None:
        life, parting = self.life, self._parting
        life.take_pong(pong, now)
        if parting is not None and not parting.may_part and life.answered_since(parting.waits_for):
            parting.waits_for = -_NEVER
        if life.vigil is not None:
            self._tighten_deadline()
        if life.probe_by != _NEVER and not self.retiring:
            life.probe_by = _NEVER
            self._owner.on_probed(self, alive=True)

    def _admit(self, proven: PeerProven) -> None:
        self.peer_id = proven.peer_id
        refusal = self._owner.on_proven(self, proven)
        if refusal is None:
            self.session.accept()
        else:
            self.session.refuse(*refusal)

    def _cost(self, message: msg.AnyMessage) -> int:
        """For how many a message counts of those that may make us work for nothing; 0 for what is bounded otherwise."""
        if isinstance(message, msg.Relay):
            return int(message.kind in (msg.Relay.OPEN, msg.Relay.MOVE))
        if type(message) not in _RATED:
            return 0
        entries = len(message.entries) if isinstance(message, (msg.WalHeads, msg.Attached)) else 0
        return 1 + entries // self._limits.control_entries

    def _rest_from_flood(self) -> Pause:
        self._owner.on_flood(self)
        return partial(trio.sleep, self._limits.control_rest_s)

    def _check_end(self, now: float) -> None:
        is_dead, parting, life = False, self._parting, self.life
        if life.ends_probe(now):
            if parting is None or not parting.gives_way:
                if life.spoke_since_probe:
                    # It does not answer yet, but it is not silent.
                    self._ask_for_life()
                else:
                    self._owner.on_probed(self, alive=False)
                return
            # One that gives way and does live finishes in order. (Its peer may be past answering a Ping.)
            is_dead = not life.moved_since_probe
            parting.probe_failed()
        if parting is None:
            return
        step = parting.step(
            now,
            is_dead=is_dead,
            owes=self._owes_answers(),
            moved_at=life.last_move(now),
            can_speak=not self._outbox and self.session.state is State.LIVE,
            probe_s=life.probe_s,
        )
        if step is Step.ASK:
            self._ask_for_life()
        elif step is Step.SAY:
            self.session.goodbye(*parting.farewell)
        elif step is Step.CUT:
            self.cut_short = parting.gives_way and not is_dead
            self._end(*parting.farewell, clean=False)

    @property
    def _rest_by(self) -> float:
        return _NEVER if self._parting is None else self._parting.rest_by

    def _next_deadline(self) -> float:
        due = min(self.session.next_deadline(), self.life.probe_by)
        if self._parting is not None:
            return min(due, self._parting.end_by)
        return due if self.direct else min(due, self.life.next_deadline())

    def _tighten_deadline(self) -> None:
        if (scope := self._read_scope) is not None:
            due = self._next_deadline()
            if due < scope.deadline:
                scope.deadline = due
        elif (scope := self._rest_scope) is not None:
            scope.deadline = self._rest_by

    def _end(self, reason: Reason, detail: str, *, clean: bool) -> None:
        if self.reason is not None:
            return
        self.reason, self.detail, self.clean = reason, detail, clean
        self._live = False
        if not (self.direct or clean or self.is_parting):
            self._leave_messages()
        self.unsent += self._outbox.clear()
        if self.asks is not None:
            self.asks.fail()
        for served in tuple(self.served.values()):
            # Nobody can be answered here any more.
            served.cancel()
        self._settle()
        if self._line is not None:
            self._line.dismiss(answers=True)
        self.life.wake()

    def _settle(self) -> None:
        if self._settled is not None:
            self._settled.set()
            # Who asks from here on gets a set one.
            self._settled = None

    def __repr__(self) -> str:
        who = self.session.peer_id.short if self.session.peer_id is not None else "unproven"
        way = "to" if self.dialed_by_us else "from"
        return f"<link {way} {self.endpoint}, {self.label or '-'} ({who}), {self.state.value}>"


def _kind(event: Event) -> str:
    """What came, without a word of what is in it."""
    return f"{type(event.message).__name__} comes" if isinstance(event, Received) else type(event).__name__


def _cause(error: BaseException) -> str:
    return str(error.__cause__ or error) or type(error).__name__
