"""Whether a circuit still carries anything: watched from one end of it, by the session inside.

Responsible for finding out within seconds that a relay, or a link on the way, has fallen silent. A direct link is given
`dead_after_s`, since there is nothing else; of relays there may be another one, and its own end tells a node nothing of
the links behind it. It refuses to know messages and tasks: times and counts go in, a step comes out.

How it moves:

    quiet     nothing is awaited: no Ping is sent, however long nothing is heard
    waiting   something was sent; when nothing was heard for `relay_ask_after_s`, the peer is pinged
    asked     the Ping is not answered; when nothing at all was heard for a third of what it may take, what is to be
              sent waits (it can go another way then), and after the whole of it the circuit is dead

How long it may take: `relay_answer_s_max`, and on top of it the time for what was written before the Ping and is not
read, as far as answers and credit tell: it waits behind that, at `relay_pace_bytes_per_s`. One slice of it is reckoned
with: the other end gives credit for each that it reads, which is heard like a word. What comes before the answer may be
as much as came the last time. A peer that rests its link pings meanwhile (`Connection`). A way that was quick until it
fell silent is reckoned with as such: half of a window within `relay_answer_s_max`.

What comes first comes from the relay next to us, and is heard as it comes. So where that one is as silent as the
circuit, though it was asked, too, it is only given the time for what was written (`relay_patience_s`): it is frozen,
and not busy with what it got from a slow link behind it.

A word may be there and not be heard: this node itself stood still, or something else comes in over the last link. Then
the wait begins anew, once (`spare`); and as often as that is one and the same slice.

A link on the way may be slower than all that, and how much comes the other way, before the answer, is not known here.
So whoever was silent for too long is given twice as long the next time (`factor`), unless the relay itself was silent
and what is under way cannot have been too much for the link to it.
"""

from __future__ import annotations

from typing import Final

from p2p.limits import Limits

_NEVER: Final = float("inf")
_TICK_S: Final = 1e-6
_DOUBT_SHARE: Final = 3


class _Pace:
    """Whether one direction is quick: so many bytes moved within so many seconds."""

    __slots__ = ("_bytes", "_enough_bytes", "_since", "_within_s", "quick_at")

    def __init__(self, enough_bytes: int, within_s: float) -> None:
        self.quick_at = -_NEVER
        self._enough_bytes = enough_bytes
        self._within_s = within_s
        self._since = -_NEVER
        self._bytes = 0

    def moved(self, now: float, size: int) -> None:
        """So many bytes more moved, since the last time: how long the first ones took is not known."""
        if now >= self._since + self._within_s:
            self._since, self._bytes = now, 0
            return
        self._bytes += size
        if self._bytes >= self._enough_bytes:
            self.quick_at = now

    def was_quick(self, until: float) -> bool:
        """Whether it was shortly before that moment."""
        return self.quick_at > until - self._within_s


class Vigil:
    """What one end of a circuit is waiting for. All times are monotonic seconds.

    Args:
        limits: `relay_ask_after_s`, `relay_answer_s_max`, `relay_slice_bytes_max`, `relay_pace_bytes_per_s` are used.

    Attributes:
        asked_at: when the Ping went out that is not answered; infinity without one.
        factor: how many times as long as usual an answer may take.
    """

    __slots__ = (
        "_answered_bytes",
        "_asked_bytes",
        "_behind_bytes",
        "_came_bytes",
        "_in",
        "_is_quick_in",
        "_is_quick_out",
        "_limits",
        "_out",
        "_resumed_at",
        "_sent_at",
        "_since",
        "_spared_at",
        "asked_at",
        "factor",
    )

    def __init__(self, limits: Limits) -> None:
        self.asked_at = _NEVER
        self.factor = 1
        self._limits = limits
        self._since = _NEVER
        self._sent_at = -_NEVER
        self._asked_bytes = 0
        self._behind_bytes = 0
        self._came_bytes = 0
        self._answered_bytes = 0
        self._in = _Pace(limits.relay_window_bytes // 2, limits.relay_answer_s_max)
        self._out = _Pace(limits.relay_window_bytes // 2, limits.relay_answer_s_max)
        self._is_quick_in = False
        self._is_quick_out = False
        self._resumed_at = -_NEVER
        self._spared_at = -_NEVER

    def sent(self, now: float) -> bool:
        """Something goes out that the peer has to get; whether that begins a wait."""
        self._sent_at = now
        if self._since != _NEVER:
            return False
        self._since = now
        return True

    @property
    def is_quick(self) -> bool:
        """Whether half of a window, which is all that may be under way, was read within `relay_answer_s_max` once."""
        return self._out.quick_at != -_NEVER

    def came(self, now: float, size: int) -> None:
        """So many bytes came at once: the next ones may be as many, and take as long."""
        self._came_bytes = size
        self._in.moved(now, size)

    def made_room(self, now: float, size: int) -> None:
        """The other end read so many bytes more."""
        self._out.moved(now, size)

    def resumed(self, now: float) -> None:
        """The link is read again: what came meanwhile is heard only now."""
        self._resumed_at = now

    def spare(self, now: float, heard_at: float) -> bool:
        """Wait once more for as long, where a word may be on its way to this moment; False if that was done already."""
        if self._spared_at > heard_at:
            return False
        self._spared_at = self._resumed_at = now
        return True

    def next_deadline(self, heard_at: float, relay_heard_at: float = _NEVER) -> float:
        """When there is something to do.

        Args:
            heard_at: when the circuit was heard last; nothing is heard after that.
            relay_heard_at: when the relay was; infinity where its silence would say nothing.
        """
        if self._since == _NEVER:
            return _NEVER
        if self.asked_at == _NEVER:
            return max(self._since, heard_at, self._resumed_at) + self._limits.relay_ask_after_s
        since = self.silent_since(heard_at)
        return since + (self.patience_s if relay_heard_at >= since else self.relay_patience_s)

    def silent_since(self, heard_at: float) -> float:
        """Since when nothing is heard though the peer was asked."""
        return max(self.asked_at, heard_at, self._resumed_at)

    @property
    def patience_s(self) -> float:
        """How long nothing may be heard once the peer was asked."""
        came_s = self._came_bytes / self._bytes_per_s(quick=self._is_quick_in)
        return self.factor * (self._limits.relay_answer_s_max + max(self._behind_s, came_s))

    @property
    def relay_patience_s(self) -> float:
        """How long it may be if nothing is heard from the relay either."""
        return self._limits.relay_answer_s_max + self.factor * self._behind_s

    @property
    def _behind_s(self) -> float:
        return self._behind_bytes / self._bytes_per_s(quick=self._is_quick_out)

    def _bytes_per_s(self, *, quick: bool) -> float:
        limits = self._limits
        return limits.relay_window_bytes / 2 / limits.relay_answer_s_max if quick else limits.relay_pace_bytes_per_s

    def must_ask(self, now: float, heard_at: float) -> bool:
        """Whether it is time for a Ping."""
        return self.asked_at == _NEVER and now >= self.next_deadline(heard_at)

    def asked(self, now: float, bytes_out: int, unread_bytes: int, heard_at: float = _NEVER) -> None:
        """A Ping goes out, behind so many bytes in all, of which so many may not be read. Without effect while another
        one is not answered."""
        if self.asked_at != _NEVER:
            return
        self.asked_at = now
        self._is_quick_in, self._is_quick_out = self._in.was_quick(heard_at), self._out.was_quick(heard_at)
        # Those before the last answer were read. Those since, too, where credit came back for them.
        self._behind_bytes = min(bytes_out - self._answered_bytes, unread_bytes, self._limits.relay_slice_bytes_max)
        self._asked_bytes = bytes_out

    def is_dead(self, now: float, heard_at: float, relay_heard_at: float = _NEVER) -> bool:
        """Whether nothing was heard for too long."""
        return self.asked_at != _NEVER and now >= self.next_deadline(heard_at, relay_heard_at)

    def is_doubtful(self, now: float, heard_at: float, relay_heard_at: float = _NEVER) -> bool:
        """Whether nothing was heard for so long that what is not sent yet had better wait."""
        if self.asked_at == _NEVER:
            return False
        since = self.silent_since(heard_at)
        return now >= since + (self.next_deadline(heard_at, relay_heard_at) - since) / _DOUBT_SHARE

    def answered(self, sent_at: float, now: float, bytes_out: int) -> None:
        """A Pong came, to a Ping of that moment: the one asked for, or a keepalive with which the wait began. So many
        bytes went out by now."""
        is_asked = self.asked_at != _NEVER
        if sent_at < (self.asked_at if is_asked else self._since) - _TICK_S:
            return
        if is_asked:
            self._answered_bytes = self._asked_bytes
            self.asked_at = _NEVER
        if self._sent_at > sent_at:
            self._since = now
        else:
            self._since, self._answered_bytes = _NEVER, bytes_out
