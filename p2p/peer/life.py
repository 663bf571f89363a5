"""Signs of life on one link: when the other side was heard, what it was asked, and what its silence says.

Responsible for probes, for round trips, and, in a circuit, for what the `Vigil` cannot know: whether the relay next to
us is silent, too, and whether a word may be on its way here all the same. It refuses to know tasks, messages, and what
follows from a silence: the connection asks, and does it.

What counts as a sign depends on who asks:

    bytes that came, room that was made     the other side lives, or the network up to it: the link may go on
    a frame, of whatever kind               the other side speaks on this link, and not only on a newer one
    a Pong                                  it has read all that was sent before the Ping

A circuit is heard a slice at a time, which may come for seconds over the link that carries it (the carrier): while one
does, whatever was asked waits behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from p2p.limits import Limits
from p2p.peer.vigil import Vigil
from p2p.session.events import Ponged
from p2p.session.session import Session
from p2p.transport.base import LinkStream

if TYPE_CHECKING:
    from p2p.peer.connection import Connection

_NEVER: Final = float("inf")
_TICK_S: Final = 1e-6
"""Two readings of the clock that differ by less are the same moment, computed in two ways."""

_LATE_S: Final = 0.1
"""A deadline that is met so late says that this node stood still: what came meanwhile is not read yet."""


class Life:
    """What one link knows of the other side's life. All times are monotonic seconds.

    Args:
        session: pinged here, and asked for its round trips.
        stream: asked for what is not read.
        limits: `probe_s_max`, `channel_wait_s_max`, and those of `Vigil` are used.
        in_circuit: it runs through a relay.

    Attributes:
        carrier: the link that it runs over, of one in a circuit.
        caught_up_at: when a read brought all that had come last.
        is_relay_silent: of a dead circuit, whether nothing came from its relay either, though it was asked.
        moved_at: when bytes came last, the other side made room for a write that waited for it, or a rest of our own
            was over.
        pongs: who waits for a round trip; None as long as nobody did.
        probe_by: when the answer to a probe is due; infinity without one.
        probed_at: when the last probe began.
        read_at: when bytes came last.
        vigil: of one in a circuit.
    """

    # One for each of thousands of idle links.
    __slots__ = (
        "_limits",
        "_made_room_at",
        "_measured_at",
        "_ponged_at",
        "_session",
        "_stream",
        "carrier",
        "caught_up_at",
        "is_relay_silent",
        "moved_at",
        "pongs",
        "probe_by",
        "probed_at",
        "read_at",
        "vigil",
    )

    def __init__(self, session: Session, stream: LinkStream, limits: Limits, *, in_circuit: bool) -> None:
        self.carrier: Connection | None = None
        self.is_relay_silent = False
        self.moved_at = -_NEVER
        self.pongs: trio.lowlevel.ParkingLot | None = None
        self.probe_by = _NEVER
        self.probed_at = _NEVER
        self.read_at = self.caught_up_at = -_NEVER
        self.vigil = Vigil(limits) if in_circuit else None
        self._limits = limits
        self._made_room_at = -_NEVER
        self._measured_at = _NEVER
        self._ponged_at = 0.0
        self._session = session
        self._stream = stream

    def bear(self, factor: int) -> None:
        """In a circuit: wait so many times as long before it counts as dead."""
        if self.vigil is not None:
            self.vigil.factor = factor

    # Round trips.

    def measure(self, now: float) -> bool:
        """Ping unless a Ping of this kind is under way already; whether one is sent."""
        if self._measured_at != _NEVER:
            return False
        self._measured_at = now
        self._session.ping(now)
        return True

    def answered_since(self, moment: float) -> bool:
        """Whether the Pong that came last answers a Ping of that moment or later: they come in order."""
        rtt_s = self._session.rtt_s
        return rtt_s is not None and self._ponged_at - rtt_s >= moment - _TICK_S

    def take_pong(self, pong: Ponged, now: float) -> None:
        """Note what a Pong says, and wake those who measure."""
        if pong.rtt_s is not None:
            self._ponged_at = now
            if self.vigil is not None:
                self.vigil.answered(now - pong.rtt_s, now, self._session.bytes_out)
        if self._measured_at != _NEVER and self.answered_since(self._measured_at):
            self._measured_at = _NEVER
        self.wake()

    def wake(self) -> None:
        """Have those who measure look again."""
        if self.pongs is not None:
            self.pongs.unpark_all()

    # Probes.

    def ask(self, now: float) -> None:
        """Ping, and note until when the answer has to come, or something else that shows that the link lives."""
        self.probed_at = now
        self._session.ping(now)
        if self.vigil is not None:
            self.vigil.sent(now)
            self._note_asked(self.vigil, now)
        self.probe_by = self._answer_due(now)

    def resumed(self, now: float) -> None:
        """The link is read again: the answer may be among what was not read."""
        if self.vigil is not None:
            self.vigil.resumed(now)
        if self.probe_by != _NEVER:
            self.probe_by = self._answer_due(now)

    def _answer_due(self, now: float) -> float:
        """When the answer to a Ping is due that is under way: in a circuit when the vigil says so.

        A silence of before counts there as far as the peer was asked: else over a slow link a burst is still coming.
        """
        due = now + self._limits.probe_s_max
        if self.vigil is None:
            return due
        return max(due, self.vigil.next_deadline(self.moved_at, self.relay_heard_at))

    @property
    def probe_s(self) -> float:
        """How long the answer to a Ping may take, and nothing may move: in a circuit as long as the vigil says."""
        probe_s = self._limits.probe_s_max
        return probe_s if self.vigil is None else max(probe_s, self.vigil.patience_s)

    def ends_probe(self, now: float) -> bool:
        """Whether the time of a probe is over now, and with it the probe."""
        if now < self.probe_by or self._may_be_answered(now):
            return False
        self.probe_by = _NEVER
        return True

    def _may_be_answered(self, now: float) -> bool:
        """In a circuit: whether a probe has more time after all. Nothing came, but the relay lives, or could not be
        heard."""
        vigil = self.vigil
        if vigil is None or vigil.asked_at == _NEVER or self.moved_at > self.probed_at:
            return False
        if self._is_dead(vigil, now):
            return False
        self.probe_by = vigil.next_deadline(self.moved_at, self.relay_heard_at)
        return True

    @property
    def spoke_since_probe(self) -> bool:
        """Whether the other side said something here since it was probed, or is about to; or, on a direct link, took
        something, as a slow one does."""
        heard_at = self._session.last_seen if self.vigil is not None else max(self._session.last_seen, self.moved_at)
        return heard_at > self.probed_at or self._is_brought(self.probed_at)

    @property
    def moved_since_probe(self) -> bool:
        """Whether anything moved since the probe. A frame that has begun comes slowly, or is found out in its time."""
        return self.moved_at > self.probed_at or self._session.is_amid_frame or self._is_brought(self.probed_at)

    def last_move(self, now: float) -> float:
        """When something moved last: now, while a slice is coming."""
        return now if self._is_brought(self.moved_at) else self.moved_at

    # Circuits.

    def made_room(self, now: float, room_bytes: int) -> None:
        """The far end of the circuit made room. See `Connection.heard`."""
        if room_bytes:
            self._made_room_at = now
            if self.vigil is not None:
                self.vigil.made_room(now, room_bytes)
        if room_bytes or now < max(self.read_at, self._made_room_at) + self._limits.channel_wait_s_max:
            self.moved_at = now

    def doubts(self, vigil: Vigil, now: float) -> bool:
        """Whether the circuit is so silent that nothing more should be sent into it for now."""
        return vigil.is_doubtful(now, self.moved_at, self.relay_heard_at)

    def keep_vigil(self, vigil: Vigil, now: float) -> bool:
        """See to it that what is awaited does come; whether the circuit is dead."""
        if self._session.pending_bytes:
            # The session itself asked for a sign of life. It is awaited, too.
            vigil.sent(now)
        if vigil.must_ask(now, self.moved_at):
            self._session.ping(now)
            self._note_asked(vigil, now)
            return False
        if not self._is_dead(vigil, now):
            return False
        self.is_relay_silent = self.relay_heard_at < vigil.silent_since(self.moved_at)
        return True

    def next_deadline(self) -> float:
        """When a circuit that nobody probes has to be looked at."""
        return _NEVER if self.vigil is None else self.vigil.next_deadline(self.moved_at, self.relay_heard_at)

    @property
    def relay_heard_at(self) -> float:
        """When the relay was heard last. Infinity where its silence says nothing: it is not asked, we do not listen, or
        what we say goes out slowly."""
        vigil, carrier = self.vigil, self.carrier
        if vigil is None or carrier is None or not carrier.is_live or carrier.is_resting:
            return _NEVER
        return carrier.life.read_at if vigil.is_quick or not carrier.is_writing else _NEVER

    def _note_asked(self, vigil: Vigil, now: float) -> None:
        pending_bytes = self._session.pending_bytes
        unread_bytes = self._stream.unread_bytes + pending_bytes
        vigil.asked(now, self._session.bytes_out + pending_bytes, unread_bytes, self.moved_at)
        if self.carrier is not None and self.carrier.is_live:
            # So that it is known whether the relay is silent, or what is behind it.
            self.carrier.greet()

    def _is_dead(self, vigil: Vigil, now: float) -> bool:
        return vigil.is_dead(now, self.moved_at, self.relay_heard_at) and not self._is_owed_time(vigil, now)

    def _is_owed_time(self, vigil: Vigil, now: float) -> bool:
        """Whether a word may be there that was not heard: something else comes in, or we stood still."""
        heard_at, carrier = self.moved_at, self.carrier
        since = vigil.silent_since(heard_at)
        if self._is_brought(since) or (carrier is not None and carrier.is_resting):
            vigil.resumed(now)
            return True
        comes = carrier is not None and carrier.session.is_amid_frame and carrier.life.read_at > since
        is_late = now > vigil.next_deadline(heard_at, self.relay_heard_at) + _LATE_S
        return (is_late or comes) and vigil.spare(now, heard_at)

    def _is_brought(self, since: float) -> bool:
        """Whether one slice, of whichever circuit, is coming in over the carrier since then."""
        carrier = self.carrier
        if carrier is None or not carrier.session.is_amid_frame:
            return False
        return carrier.life.read_at > since >= carrier.session.last_seen
