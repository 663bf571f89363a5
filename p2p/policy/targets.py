"""Which of the places that hints name are dialled, and when (T44, T46).

Anybody on the network may say that a node listens somewhere, and aim us at a stranger by it. So what is said costs no
more than this:

- a place is dialled at most once in `lead_interval_s`, however often and by whomever it is named;
- one source has at most so many places in here that nobody proved himself at yet, half of them without a signature,
  and as many again of peers that this node knows; of strangers that wait, one with less behind it gives way. A place
  where somebody proved himself gives its slot back, so that a machine with fifty nodes on it is met whole, and one that
  we are aimed at gets eight dials;
- all together get, beyond a first burst, `lead_dials_per_s`;
- what is not dialled `lead_ttl_s` after it was last named is forgotten (T47).

Places of peers that this node knows (it met them, or an operator named them) come before those of strangers. Strangers
stand apart by what it costs to make one up (`Standing`). Each standing has places, dials under way and turns of its
own, one turn of each after the other, and within it the one that is due first. So whoever can do what a flood does not,
signs or speaks again, is dialled once what is under way leaves a slot of his standing, and at most a turn of each other
one has passed: within a second of being due. Where a flood does the same as he, his places are full, and chance decides
who goes.

The table is bounded by this: places that wait have their standing's number, and of those that were dialled there are as
many as the pace of dials allows in `lead_interval_s`.

    named ──▶ waiting ── due, a token ──▶ dialled ── lead_interval_s ──▶ forgotten
"""

from __future__ import annotations

import math
from collections import Counter
from enum import IntEnum
from typing import Final

import msgspec

from p2p.ids import PeerEndpoint, PeerId
from p2p.limits import Limits
from p2p.policy.buckets import TokenBucket
from p2p.policy.hints import HintSource

_Address = tuple[str, str, int]
_Source = tuple[HintSource, str]


class Standing(IntEnum):
    """What stands behind a hint; the more, the higher."""

    BARE = 0
    """A datagram that nobody signed, from a place that was not heard of before: one costs nothing to make up."""
    AGAIN = 1
    """Unsigned, and heard for a while from the same place."""
    LISTED = 2
    """Named by a registry or by the book, which an operator chose."""
    SIGNED = 3
    """An identity says so itself; any number of identities can be made, at some cost."""
    SIGNED_AGAIN = 4
    KNOWN = 5
    """The identity is one that this node met, or that an operator named. These come before all others."""


_UNSIGNED: Final = frozenset({Standing.BARE, Standing.AGAIN})
_IN_TURN: Final = (Standing.SIGNED_AGAIN, Standing.SIGNED, Standing.LISTED, Standing.AGAIN, Standing.BARE)


class Target(msgspec.Struct):
    """A place that a hint named.

    Attributes:
        endpoint: where it is, without the identity that the hint named: who is there proves who it is.
        source: who names it, and from which neighbour.
        node_id, peer_id: as named, unproven; for leaving out what is connected already.
        standing: what stands behind it.
        due: when to dial it.
        due_at_last: until when it may be put off.
        forgotten_at: when it leaves the table; a waiting one is kept longer by being named again.
        dialled: whether it was.
        proven: whether somebody proved himself there.
    """

    endpoint: PeerEndpoint
    source: _Source
    node_id: str
    peer_id: PeerId | None
    standing: Standing
    due: float
    due_at_last: float
    forgotten_at: float
    dialled: bool = False
    proven: bool = False


class Targets:
    """The places of one node, waiting or dialled lately."""

    __slots__ = (
        "_bare_dials", "_dials", "_limits", "_named_by", "_next_turn", "_swept_at", "_table", "_under_way", "_waiting"
    )  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._table: dict[_Address, Target] = {}
        self._waiting: dict[Standing, dict[_Address, Target]] = {standing: {} for standing in Standing}
        self._under_way: Counter[Standing] = Counter()
        # Those that count against who named them.
        self._named_by: dict[_Source, dict[_Address, Target]] = {}
        self._dials = TokenBucket(limits.lead_dials_per_s, limits.lead_dials_burst)
        self._bare_dials = TokenBucket(limits.lead_bare_dials_per_s, limits.lead_bare_dials_burst)
        self._next_turn = 0
        self._swept_at = -math.inf

    def __len__(self) -> int:
        return len(self._table)

    @property
    def waiting(self) -> int:
        """How many wait to be dialled."""
        return sum(map(len, self._waiting.values()))

    @property
    def under_way(self) -> int:
        """How many were taken and are not `over`."""
        return self._under_way.total()

    def note(self, target: Target, now: float, draw: float) -> bool | None:
        """Take a place in, or hear once more of one.

        Args:
            target: new, not dialled.
            now: monotonic seconds.
            draw: an even draw from [0, 1).

        Returns:
            Whether it waits to be dialled by this; None if there was no room for it.
        """
        self._sweep(now)
        address = target.endpoint.address
        held = self._find(address, now)
        if held is not None:
            if not held.dialled:
                self._hear_again(held, target)
            return not held.dialled
        if not self._make_room_at_source(target) or not self._make_room(target, draw):
            return None
        self._table[address] = self._waiting[target.standing][address] = target
        self._named_by.setdefault(target.source, {})[address] = target
        return True

    def names(self, peer_id: PeerId, now: float) -> bool:
        """Whether a place that waits to be dialled, or was dialled lately, is said to be this peer's."""
        return any(target.peer_id == peer_id and target.forgotten_at > now for target in self._table.values())

    def take(self, now: float) -> Target | None:
        """The next place to dial, None if none is due. It is dialled and under way: `over` or `spare` follows."""
        best = self._next_due(now)
        if best is None or not self._dials.take(now):
            return None
        if best.standing is Standing.BARE:
            self._bare_dials.take(now)
        if best.standing is not Standing.KNOWN:
            self._next_turn = _IN_TURN.index(best.standing) + 1
        del self._waiting[best.standing][best.endpoint.address]
        self._under_way[best.standing] += 1
        best.dialled = True
        best.forgotten_at = now + self._limits.lead_interval_s
        return best

    def due(self, now: float) -> float:
        """When `take` may give one, infinity if none waits, or before some dial is over."""
        ready = [
            max(min(target.due for target in waiting.values()), self._ready_at(standing, now))
            for standing, waiting in self._waiting.items()
            if waiting
        ]
        return min(ready, default=math.inf)

    def due_of(self, target: Target, now: float) -> float:
        """When `take` may give this one, if no other comes before it."""
        return max(target.due, self._ready_at(target.standing, now))

    def over(self, target: Target) -> None:
        """The dial of a place that was taken came to its end."""
        self._under_way[target.standing] -= 1

    def spare(self, target: Target) -> None:
        """The place that was taken need not be dialled after all."""
        self._give_back(target)
        self.drop(target)

    def put_off(self, target: Target, now: float) -> None:
        """The place that was taken may soon need no dial: it waits a little longer."""
        self._give_back(target)
        target.dialled = False
        target.due = min(now + self._limits.lead_yield_again_s, target.due_at_last)
        target.forgotten_at = now + self._limits.lead_ttl_s
        self._waiting[target.standing][target.endpoint.address] = target

    def arrived(self, peer_id: PeerId) -> None:
        """A peer is connected: the places that wait to be dialled for its sake need not be."""
        for waiting in self._waiting.values():
            for target in [target for target in waiting.values() if target.peer_id == peer_id]:
                self.drop(target)

    def proved(self, target: Target) -> None:
        """Somebody proved himself at a place: it no longer counts against who named it."""
        if not target.proven and self._table.get(target.endpoint.address) is target:
            target.proven = True
            self._uncount(target)

    def drop(self, target: Target) -> None:
        """Forget a place that need not, or must not, be dialled; it may be named again at once."""
        if self._table.get(target.endpoint.address) is target:
            del self._table[target.endpoint.address]
            self._waiting[target.standing].pop(target.endpoint.address, None)
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

    def _give_back(self, target: Target) -> None:
        self.over(target)
        self._dials.give_back()
        if target.standing is Standing.BARE:
            self._bare_dials.give_back()
        if target.standing is not Standing.KNOWN:
            self._next_turn = _IN_TURN.index(target.standing)

    def _hear_again(self, held: Target, target: Target) -> None:
        held.forgotten_at = max(held.forgotten_at, target.forgotten_at)
        held.due = min(held.due, target.due)
        held.due_at_last = min(held.due_at_last, target.due_at_last)
        if target.standing < held.standing:
            return
        # Who is named last, with as much behind it: the first one may have been made up to have the dial left out.
        held.node_id, held.peer_id = target.node_id, target.peer_id
        if target.standing > held.standing and self._has_places(target.standing):
            address = held.endpoint.address
            self._waiting[target.standing][address] = self._waiting[held.standing].pop(address)
            held.standing = target.standing

    def _next_due(self, now: float) -> Target | None:
        first = self._next_turn
        for standing in (Standing.KNOWN, *_IN_TURN[first:], *_IN_TURN[:first]):
            if self._ready_at(standing, now) > now:
                continue
            while waiting := self._waiting[standing]:
                earliest = min(waiting.values(), key=_due_of)
                if earliest.forgotten_at > now:
                    if earliest.due <= now:
                        return earliest
                    break
                self.drop(earliest)
        return None

    def _ready_at(self, standing: Standing, now: float) -> float:
        """When one of this standing may be dialled; infinity before some dial is over."""
        limits, ready = self._limits, self._dials.ready_at(now)
        if standing is not Standing.BARE:
            return ready if self._under_way[standing] < limits.lead_dials_max else math.inf
        ready = max(ready, self._bare_dials.ready_at(now))
        return ready if self._under_way[standing] < limits.lead_bare_dials_max else math.inf

    def _has_places(self, standing: Standing) -> bool:
        limits = self._limits
        places = limits.leads_known_max if standing is Standing.KNOWN else limits.leads_per_standing_max
        return len(self._waiting[standing]) < places

    def _make_room(self, target: Target, draw: float) -> bool:
        if self._has_places(target.standing):
            return True
        # One of those that wait or the new one itself, each with the same chance.
        others = [*self._waiting[target.standing].values()]
        chosen = int(draw * (len(others) + 1))
        if chosen == len(others):
            return False
        self.drop(others[chosen])
        return True

    def _make_room_at_source(self, target: Target) -> bool:
        kind = target.source[0]
        if kind is HintSource.BOOK:
            return True
        limits, standing = self._limits, target.standing
        places = limits.leads_per_registry_max if kind is HintSource.REGISTRY else limits.leads_per_source_max
        named = self._named_by.get(target.source, {}).values()
        rivals = [one for one in named if (one.standing is Standing.KNOWN) == (standing is Standing.KNOWN)]
        if standing in _UNSIGNED:
            unsigned = [one for one in rivals if one.standing in _UNSIGNED]
            if len(unsigned) >= places // 2:
                # What can be made up for nothing leaves half to what cannot.
                rivals, places = unsigned, places // 2
        if len(rivals) < places:
            return True
        least = min((one for one in rivals if not one.dialled), key=_standing_of, default=None)
        if least is None or least.standing >= standing:
            return False
        self.drop(least)
        return True

    def _uncount(self, target: Target) -> None:
        named = self._named_by[target.source]
        del named[target.endpoint.address]
        if not named:
            del self._named_by[target.source]


def _due_of(target: Target) -> float:
    return target.due


def _standing_of(target: Target) -> Standing:
    return target.standing
