"""Which of the places that hints name are dialled, and when (T44, T46).

Anybody on the network may say that a node listens somewhere, and aim us at a stranger by it. So what is said costs no
more than this:

- a place is dialled at most once in `lead_interval_s`, however often and by whomever it is named;
- one source has at most so many places in here that nobody proved himself at yet. A place where somebody did gives its
  slot back, so that a machine with fifty nodes on it is met whole, and one that we are aimed at gets eight dials;
- all together are at most `leads_max` places and, beyond a first burst, `lead_dials_per_s`;
- what is not dialled `lead_ttl_s` after it was last named is forgotten (T47).

Places of peers that this node knows (it met them, or an operator named them) come before those of strangers and are
never pushed out by them: a flood of made-up places does not keep acquaintances apart. Among strangers a full table
lets chance decide who goes, so that a real one among the made-up ones has its part.

    named ──▶ waiting ── due, a token ──▶ dialled ── lead_interval_s ──▶ forgotten
"""

from __future__ import annotations

import math

import msgspec

from p2p.ids import PeerEndpoint, PeerId
from p2p.limits import Limits
from p2p.policy.buckets import TokenBucket
from p2p.policy.hints import HintSource

_Address = tuple[str, str, int]
_Source = tuple[HintSource, str]


class Target(msgspec.Struct):
    """A place that a hint named.

    Attributes:
        endpoint: where it is, without the identity that the hint named: who is there proves who it is.
        source: who names it, and from which neighbour.
        node_id, peer_id: as named, unproven; for leaving out what is connected already.
        known: whether this node knows the peer.
        due: when to dial it.
        forgotten_at: when it leaves the table; a waiting one is kept longer by being named again.
        dialled: whether it was.
        proven: whether somebody proved himself there.
    """

    endpoint: PeerEndpoint
    source: _Source
    node_id: str
    peer_id: PeerId | None
    known: bool
    due: float
    forgotten_at: float
    dialled: bool = False
    proven: bool = False


class Targets:
    """The places of one node, waiting or dialled lately."""

    __slots__ = ("_counts", "_dials", "_limits", "_swept_at", "_table", "_waiting")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._table: dict[_Address, Target] = {}
        self._waiting: dict[_Address, Target] = {}
        self._counts: dict[_Source, int] = {}
        self._dials = TokenBucket(limits.lead_dials_per_s, limits.lead_dials_burst)
        self._swept_at = -math.inf

    def __len__(self) -> int:
        return len(self._table)

    @property
    def waiting(self) -> int:
        """How many wait to be dialled."""
        return len(self._waiting)

    def note(self, target: Target, now: float, draw: float) -> bool:
        """Take a place in, or hear once more of one.

        Args:
            target: new, not dialled.
            now: monotonic seconds.
            draw: an even draw from [0, 1).

        Returns:
            Whether it waits to be dialled by this.
        """
        self._sweep(now)
        held = self._find(target.endpoint.address, now)
        if held is not None:
            if not held.dialled:
                held.forgotten_at = max(held.forgotten_at, target.forgotten_at)
                held.known |= target.known
                held.due = min(held.due, target.due)
            return not held.dialled
        if self._counts.get(target.source, 0) >= self._source_max(target.source[0]):
            return False
        if len(self._table) >= self._limits.leads_max and not self._make_room(target, draw):
            return False
        self._table[target.endpoint.address] = self._waiting[target.endpoint.address] = target
        self._counts[target.source] = self._counts.get(target.source, 0) + 1
        return True

    def names(self, peer_id: PeerId, now: float) -> bool:
        """Whether a place that waits to be dialled, or was dialled lately, is said to be this peer's."""
        return any(target.peer_id == peer_id and target.forgotten_at > now for target in self._table.values())

    def take(self, now: float) -> Target | None:
        """The next place to dial, None if none is due. It counts as dialled, unless `spare` takes it out."""
        best: Target | None = None
        for target in [*self._waiting.values()]:
            if target.forgotten_at <= now:
                self.drop(target)
            elif target.due <= now and (best is None or (target.known, -target.due) > (best.known, -best.due)):
                best = target
        if best is None or not self._dials.take(now):
            return None
        del self._waiting[best.endpoint.address]
        best.dialled = True
        best.forgotten_at = now + self._limits.lead_interval_s
        return best

    def due(self, now: float) -> float:
        """When `take` may give one, infinity if none waits."""
        return max(min((target.due for target in self._waiting.values()), default=math.inf), self._dials.ready_at(now))

    def due_of(self, target: Target, now: float) -> float:
        """When `take` may give this one, if no other comes before it."""
        return max(target.due, self._dials.ready_at(now))

    def spare(self, target: Target) -> None:
        """The place that was taken need not be dialled after all."""
        self.drop(target)
        self._dials.give_back()

    def proved(self, target: Target) -> None:
        """Somebody proved himself at a place: it no longer counts against who named it."""
        if not target.proven and self._table.get(target.endpoint.address) is target:
            target.proven = True
            self._uncount(target)

    def drop(self, target: Target) -> None:
        """Forget a place that need not, or must not, be dialled; it may be named again at once."""
        if self._table.get(target.endpoint.address) is target:
            del self._table[target.endpoint.address]
            self._waiting.pop(target.endpoint.address, None)
            if not target.proven:
                self._uncount(target)

    def _find(self, address: _Address, now: float) -> Target | None:
        held = self._table.get(address)
        if held is not None and held.forgotten_at <= now:
            self.drop(held)
            return None
        return held

    def _sweep(self, now: float) -> None:
        # Not at every hint: a flood of them would make each pay for the whole table.
        if now - self._swept_at < 1.0:
            return
        self._swept_at = now
        for target in [target for target in self._table.values() if target.forgotten_at <= now]:
            self.drop(target)

    def _make_room(self, target: Target, draw: float) -> bool:
        strangers = [other for other in self._waiting.values() if not other.known]
        if not strangers:
            return False
        if target.known:
            self.drop(strangers[0])
            return True
        # One of those that wait or the new one itself, each with the same chance.
        chosen = int(draw * (len(strangers) + 1))
        if chosen == len(strangers):
            return False
        self.drop(strangers[chosen])
        return True

    def _source_max(self, kind: HintSource) -> int:
        limits = self._limits
        if kind is HintSource.DISCOVERY:
            return limits.leads_per_source_max
        return limits.leads_per_registry_max if kind is HintSource.REGISTRY else limits.leads_max

    def _uncount(self, target: Target) -> None:
        self._counts[target.source] -= 1
        if not self._counts[target.source]:
            del self._counts[target.source]
