"""How a link that ends in order comes to its end: what it waits for, for how long, and when it is cut.

Responsible for the times of a Goodbye, and of giving way to another link with the same peer. It refuses to know bytes,
tasks and messages: the connection says what moved, asks what is next, and does it.

How it moves:

- A link that is **closed** says Goodbye when it is flushed and has read until the other's `drain_s_max` later.
- One that **gives way** goes on for up to `retire_s_max` while somebody is owed something, here or there, or while it
  moves: the peer is heard or makes room, or a reader of ours that lets the link rest takes something. It parts when
  nothing is owed and, on the side that parts first, a Ping that was sent since is answered.
- **In a hurry**, as when the node stops, it waits no longer than any other link.

Source: wire section 5, "Double links".
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from p2p.errors import Reason
from p2p.limits import Limits

NEVER: Final = float("inf")


class Step(Enum):
    """What a link that is ending does now."""

    WAIT = "wait"
    ASK = "ask for a sign of life, and wait"
    SAY = "say Goodbye although something is left open"
    CUT = "end without another word"


class Parting:
    """The end to come of one link. All times are monotonic seconds.

    Args:
        limits: `drain_s_max`, `retire_s_max` and `probe_s_max` are used.
        now: when it begins.
        farewell: what the Goodbye says.
        gives_way: another link with the same peer takes its place.

    Attributes:
        farewell: see above.
        gives_way: see above.
        end_by: it is looked at again by then, and over unless there is a reason to wait.
        over_by: it is over by then, whatever moves on it.
        readers_by: a rest for a reader of ours ends then, as another link waits for it; infinity where none does.
        since: when it began.
        said_all: the other side knows that no application messages but answers follow.
        waits_for: Goodbye is said once a Ping of this moment or later is answered; infinity where the other side parts
            first, minus infinity when nothing of the kind is waited for.
    """

    __slots__ = (
        "_limits",
        "end_by",
        "farewell",
        "gives_way",
        "over_by",
        "readers_by",
        "said_all",
        "since",
        "waits_for",
    )

    def __init__(self, limits: Limits, now: float, farewell: tuple[Reason, str], *, gives_way: bool) -> None:
        self._limits = limits
        self.farewell = farewell
        self.gives_way = gives_way
        self.end_by = now + limits.drain_s_max
        self.over_by = now + limits.retire_s_max if gives_way else now
        self.since = now
        self.readers_by = NEVER
        self.said_all = False
        self.waits_for = -NEVER

    @property
    def may_part(self) -> bool:
        """Whether Goodbye may be said as far as Pings go."""
        return self.waits_for == -NEVER

    @property
    def rest_by(self) -> float:
        """When a rest is cut short: its message is lost then. On a link that gives way it is progress to come."""
        return min(self.readers_by, max(self.end_by, self.over_by)) if self.gives_way else self.end_by

    def hurry(self, now: float) -> None:
        """Do not wait longer than any other link that is closed."""
        if now < self.over_by:
            self.over_by = now
            self.end_by = now + self._limits.drain_s_max
        self.waits_for = -NEVER

    def probe_failed(self) -> None:
        """The Ping was not answered in time, or the other side did not part.

        A peer that lives and does not part may be another place of one identity, and not know why it should.
        """
        if self.waits_for == NEVER:
            self.waits_for = -NEVER

    def step(self, now: float, *, is_dead: bool, owes: bool, moved_at: float, can_speak: bool, probe_s: float) -> Step:
        """What to do now.

        Args:
            is_dead: nothing came in answer to a probe.
            owes: an answer of either side is open, or a circuit runs on.
            moved_at: when something came or went last.
            can_speak: all that waited is written, and Goodbye is not said.
            probe_s: how long an answer may take: as long nothing may move, where that is more than `drain_s_max`.
        """
        if is_dead:
            return Step.CUT
        if now < self.end_by:
            return Step.WAIT
        quiet_s = max(self._limits.drain_s_max, probe_s)
        if now < self.over_by and (owes or moved_at > self.end_by - quiet_s):
            self.end_by = min(now + quiet_s, self.over_by)
            return Step.ASK if owes else Step.WAIT
        if self.gives_way and can_speak:
            # The Ping is not answered, or one of us owes an answer for too long: all that can be said is.
            self.end_by = now + probe_s
            return Step.SAY
        return Step.CUT
