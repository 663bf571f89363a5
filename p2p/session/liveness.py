"""Whether the other side still lives: when it was heard, when to ask, when to give up.

Responsible for four clocks of a session past its handshake: the time until the next Ping is due, silence until the peer
counts as dead, how long the frame under way has been coming, and the Pings that wait for their Pong. It refuses to know
what follows from them.

While the owner does not read, the peer cannot be heard, so silence and the frame under way rest. The Ping does not:
it is then the sign of life that the peer gets from us. Nor does it wait for silence: on a link that is never idle it is
what measures the round trip.

A Ping that is due soon goes along with the Pong of the other side's, in one write, and the next one may come a little
later: so one side of a link leads and the other follows, which is the responder at first. That is a write and a wake
less of four, with thousands of idle links a third of what they cost.

Nonces of Pings are their numbers, so all between the last answered and the last sent are outstanding, and only the
times have to be remembered, of the newest few.

Source: wire section 6.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from p2p.errors import RemoteProtocolError
from p2p.limits import Limits

_PINGS_REMEMBERED_MAX: Final = 16

_FOLLOWS: Final = 9 / 8
"""After how many `ping_after_s` a side pings that follows the other one's Pings, if none comes."""

_SOON: Final = 3 / 8
"""A Ping that is due within this many `ping_after_s` goes along with a Pong."""


class Due(Enum):
    """What the time asks for."""

    PEER_DEAD = "nothing was heard for too long"
    FRAME_LATE = "a frame took too long to come"
    PING = "a sign of life is asked for"


class Liveness:
    """The clocks of one session. All times are monotonic seconds.

    Args:
        limits: `ping_after_s`, `dead_after_s` and the bounds of a slow frame are used.
        now: when the session began.
        follows: whether the other side is the one to ping first.

    Attributes:
        last_seen: when the last valid frame came; at first when the session began.
        rtt_s: how long the last answered Ping took, None before.
    """

    __slots__ = (
        "_frame_since",
        "_limits",
        "_paused_at",
        "_ping_due",
        "_pings",
        "_pings_answered",
        "_pings_sent",
        "_silent_since",
        "last_seen",
        "rtt_s",
    )

    def __init__(self, limits: Limits, now: float, *, follows: bool) -> None:
        self._limits = limits
        self.last_seen = now
        self.rtt_s: float | None = None
        self._silent_since = now
        self._ping_due = self._next_ping(now, follows=follows)
        self._frame_since: float | None = None
        self._paused_at: float | None = None
        self._pings: dict[int, float] = {}
        self._pings_sent = 0
        self._pings_answered = 0

    def heard(self, now: float) -> None:
        """A whole valid frame came."""
        self.last_seen = self._silent_since = now
        self._frame_since = None

    def frame_begun(self, now: float) -> None:
        """A part of a frame is there, and maybe was before."""
        if self._frame_since is None:
            self._frame_since = now

    def pause(self, now: float) -> None:
        """Reading stops. Again without effect until `resume`."""
        if self._paused_at is None:
            self._paused_at = now

    def resume(self, now: float) -> None:
        """Reading goes on."""
        if self._paused_at is None:
            return
        rested_s = now - self._paused_at
        self._paused_at = None
        # A frame that was handled during the pause began its silence later than the pause: no time is made of that.
        self._silent_since = min(self._silent_since + rested_s, now)
        if self._frame_since is not None:
            self._frame_since = min(self._frame_since + rested_s, now)

    def _next_ping(self, now: float, *, follows: bool) -> float:
        return now + self._limits.ping_after_s * (_FOLLOWS if follows else 1)

    def is_ping_due_soon(self, now: float) -> bool:
        """Whether a Ping may as well go out now, with something else."""
        return now >= self._ping_due - self._limits.ping_after_s * _SOON

    def ping_sent(self, now: float, *, follows: bool) -> int:
        """A Ping goes out, along with a Pong or by itself; return its nonce."""
        self._pings_sent += 1
        if len(self._pings) == _PINGS_REMEMBERED_MAX:
            del self._pings[next(iter(self._pings))]
        self._pings[self._pings_sent] = now
        self._ping_due = self._next_ping(now, follows=follows)
        return self._pings_sent

    def pong_came(self, nonce: int, now: float) -> float | None:
        """A Pong came; return how long it took in seconds, None when that is forgotten.

        Raises:
            RemoteProtocolError: no such Ping is outstanding.
        """
        if not self._pings_answered < nonce <= self._pings_sent:
            raise RemoteProtocolError("a Pong that nobody asked for")
        self._pings_answered = nonce
        sent = self._pings.pop(nonce, None)
        if sent is None:
            return None
        self.rtt_s = now - sent
        return self.rtt_s

    def next_deadline(self, frame_bytes: int, *, pinging: bool) -> float:
        """Return when something is due next.

        Args:
            frame_bytes: length of the frame under way, as far as its header is known.
            pinging: whether Pings are sent (not after our Goodbye).
        """
        limits = self._limits
        if self._paused_at is not None:
            due = float("inf")
        else:
            due = self._silent_since + limits.dead_after_s
            if self._frame_since is not None:
                due = min(due, self._frame_deadline(self._frame_since, frame_bytes))
        return min(due, self._ping_due) if pinging else due

    def due(self, now: float, frame_bytes: int, *, pinging: bool) -> Due | None:
        """Return what is due now, the gravest first; arguments as for `next_deadline`."""
        limits = self._limits
        if self._paused_at is None:
            if now >= self._silent_since + limits.dead_after_s:
                return Due.PEER_DEAD
            if self._frame_since is not None and now >= self._frame_deadline(self._frame_since, frame_bytes):
                return Due.FRAME_LATE
        if pinging and now >= self._ping_due:
            return Due.PING
        return None

    def _frame_deadline(self, since: float, frame_bytes: int) -> float:
        return since + self._limits.frame_s_base + frame_bytes / self._limits.frame_bytes_per_s_min
