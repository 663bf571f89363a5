"""Which neighbour leads to a peer: the routing table that Vix calls MemoryRouter.

Two kinds of routes. One **set** by somebody holds until it is removed or its time is over, and comes first. Those
**learnt** come from relays that tell whom they lead to: what one relay tells stands in place of what it told before,
and is forgotten when it was not told again for `routes_expire_s`, when its relay is no neighbour any more, or when it
was tried in vain. Among learnt ones the fewest hops come first, then the one that has stood longest; behind them those
that were tried in vain or over which a link broke lately, the latest last, for a relay may let a handshake pass and
nothing else, or tell again what is not so. A route that is wrong costs an attempt and nothing else: who answers at its
end has to prove who he is.

No relay crowds out another: when the table is full, each of those that tell keeps an equal share of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import msgspec

from p2p.errors import ConfigError
from p2p.ids import PeerId, how_to_name, is_peer_id_text
from p2p.limits import Limits

TTL_MAX: Final = 8
"""Hops that a relayed circuit may take (wire section 7)."""

_ALWAYS: Final = -math.inf


class Route(msgspec.Struct, frozen=True):
    """The next step towards a peer.

    Args:
        next_hop: the neighbour to hand it to; the peer itself if it is a neighbour.
        via_relay: the neighbour relays.
        ttl: hops that are allowed from here, 1 to 8.

    Raises:
        ConfigError: the ttl is out of range, or a field of another kind.
    """

    next_hop: PeerId
    via_relay: bool = False
    ttl: int = TTL_MAX

    def __post_init__(self) -> None:
        if not isinstance(self.next_hop, PeerId):
            raise ConfigError(f"a route's next_hop is a PeerId, not of the kind {type(self.next_hop).__name__}")
        if not isinstance(self.via_relay, bool):
            raise ConfigError(f"a route's via_relay is True or False, not {self.via_relay!r}")
        if type(self.ttl) is not int or not 1 <= self.ttl <= TTL_MAX:
            raise ConfigError(f"a route's ttl is 1-{TTL_MAX}, not {self.ttl}")


class KnownRoute(msgspec.Struct, frozen=True):
    """A line of the table.

    Attributes:
        target: where it leads.
        route: the next step.
        hops: links from here to the target, as far as known; None for a route that was set.
        is_learnt: a relay told it.
        until: monotonic seconds when it is forgotten; infinity for never.
    """

    target: PeerId
    route: Route
    hops: int | None
    is_learnt: bool
    until: float


_Table = list[KnownRoute]


class _Learnt(msgspec.Struct, frozen=True):
    hops: int
    since: float
    until: float


class MemoryRouter:
    """Routes by target, in memory.

    Args:
        limits: `routes_max` for the routes that are set (beyond it the one set longest ago goes) and as many learnt
            ones, `routes_told_max`, `routes_expire_s`. As many are remembered to have broken.

    Where a method takes `now`, it is monotonic seconds; without it nothing is too old. A target is a peer id, also as
    text; anything else is a ConfigError.
    """

    __slots__ = ("_broken", "_learnt", "_limits", "_set")

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._set: dict[PeerId, tuple[Route, float]] = {}
        self._learnt: dict[PeerId, dict[PeerId, _Learnt]] = {}
        # By target and relay: until when the way comes last.
        self._broken: dict[tuple[PeerId, PeerId], float] = {}

    def __len__(self) -> int:
        return len(self._set) + sum(len(told) for told in self._learnt.values())

    # Set.

    def upsert_route(self, target: PeerId | str, route: Route, *, until: float = math.inf) -> None:
        """Set the route to a peer, in place of the one there was.

        Args:
            until: monotonic seconds when it is forgotten.

        Raises:
            ConfigError: it is no route, or leads from the peer to itself through a relay.
        """
        target = _peer_id(target)
        if not isinstance(route, Route):
            raise ConfigError(f"a route is a Route, not of the kind {type(route).__name__}")
        if route.via_relay and route.next_hop == target:
            raise ConfigError(f"{target.short} cannot be reached over itself")
        self._set.pop(target, None)
        self._set[target] = (route, until)
        if len(self._set) > self._limits.routes_max:
            del self._set[next(iter(self._set))]

    def remove_route(self, target: PeerId | str) -> bool:
        """Forget the route to a peer, set or learnt.

        Returns:
            Whether there was one.
        """
        target = _peer_id(target)
        found = self._set.pop(target, None) is not None
        for told in self._learnt.values():
            found = told.pop(target, None) is not None or found
        return found

    # Learnt.

    def learn(self, relay: PeerId, told: Iterable[tuple[PeerId, int]], now: float) -> bool:
        """Take what a neighbour tells, in place of what it told before.

        Args:
            relay: the neighbour.
            told: peers and how many links they are away from it.

        Returns:
            Whether that changed whom it leads to, or how far.
        """
        before = self._learnt.pop(relay, {})
        others = sum(len(told) for told in self._learnt.values())
        share = self._limits.routes_max // (len(self._learnt) + 1)
        count_max = min(self._limits.routes_told_max, max(share, self._limits.routes_max - others))
        until = now + self._limits.routes_expire_s
        after: dict[PeerId, _Learnt] = {}
        for target, hops in told:
            if len(after) >= count_max:
                break
            if hops < TTL_MAX and target != relay:
                old = before.get(target)
                since = old.since if old is not None and old.until > now else now
                after[target] = _Learnt(hops + 1, since, until)
        if others + len(after) > self._limits.routes_max:
            self._cut_to(share)
        if after:
            self._learnt[relay] = after
        return {target: it.hops for target, it in before.items()} != {target: it.hops for target, it in after.items()}

    def _cut_to(self, share: int) -> None:
        """Leave each relay no more than a share: what it told first, which is the nearest."""
        for told in self._learnt.values():
            while len(told) > share:
                told.popitem()

    def forget_relay(self, relay: PeerId) -> bool:
        """A neighbour is gone, and with it what it told. Returns whether it had told anything."""
        return self._learnt.pop(relay, None) is not None

    def failed(self, target: PeerId, relay: PeerId, now: float) -> None:
        """A learnt route leads nowhere: it is forgotten, and when it is told again it comes last for a while."""
        told = self._learnt.get(relay)
        if told is not None:
            told.pop(target, None)
        self.broke(target, relay, now)

    def broke(self, target: PeerId, relay: PeerId, now: float) -> None:
        """A link or a dial over that relay failed: other ways come first for `routes_expire_s`."""
        self._broken.pop((target, relay), None)
        self._broken[target, relay] = now + self._limits.routes_expire_s
        if len(self._broken) > self._limits.routes_max:
            del self._broken[next(iter(self._broken))]

    def broken_until(self, target: PeerId, relay: PeerId, now: float = _ALWAYS) -> float:
        """Until when the way over that relay comes last, because it failed lately; minus infinity if it does not."""
        until = self._broken.get((target, relay), _ALWAYS)
        return until if until > now else _ALWAYS

    # Asking.

    def resolve(self, target: PeerId | str, now: float = _ALWAYS) -> Route | None:
        """The best route to a peer, None if there is none."""
        found = self.routes_to(_peer_id(target), now)
        return found[0].route if found else None

    def routes_to(self, target: PeerId, now: float = _ALWAYS) -> _Table:
        """All routes to a peer, the best first."""
        learnt = ((relay, it) for relay, told in self._learnt.items() if (it := told.get(target)) is not None)
        return self._in_order(target, learnt, now)

    def _in_order(self, target: PeerId, ways: Iterable[tuple[PeerId, _Learnt]], now: float) -> _Table:
        found: list[KnownRoute] = []
        given = self._set.get(target)
        if given is not None and given[1] > now:
            found.append(KnownRoute(target, given[0], None, False, given[1]))
        learnt = [
            (self.broken_until(target, relay, now), it.hops, it.since, relay, it.until)
            for relay, it in ways
            if it.until > now
        ]
        for _, hops, _, relay, until in sorted(learnt):
            found.append(KnownRoute(target, Route(relay, via_relay=True), hops, True, until))
        return found

    def told(self, now: float) -> Iterable[tuple[PeerId, PeerId, int]]:
        """What relays tell, to be told on: target, relay and hops; the nearest first, then what stood longest."""
        fresh = [
            (it.hops, it.since, target, relay)
            for relay, told in self._learnt.items()
            for target, it in told.items()
            if it.until > now
        ]
        return [(target, relay, hops) for hops, _, target, relay in sorted(fresh)]

    def expire(self, now: float) -> bool:
        """Drop what is too old. Returns whether a learnt route was."""
        self._set = {target: given for target, given in self._set.items() if given[1] > now}
        self._broken = {way: until for way, until in self._broken.items() if until > now}
        dropped = False
        for relay, told in list(self._learnt.items()):
            fresh = {target: it for target, it in told.items() if it.until > now}
            dropped = dropped or len(fresh) < len(told)
            if fresh:
                self._learnt[relay] = fresh
            else:
                del self._learnt[relay]
        return dropped

    def list(self, now: float = _ALWAYS) -> _Table:
        """The whole table: per target the best first, targets in the order of their ids."""
        ways: dict[PeerId, list[tuple[PeerId, _Learnt]]] = {target: [] for target in self._set}
        for relay, told in self._learnt.items():
            for target, it in told.items():
                ways.setdefault(target, []).append((relay, it))
        return [route for target in sorted(ways) for route in self._in_order(target, ways[target], now)]


def _peer_id(target: PeerId | str) -> PeerId:
    if isinstance(target, str) and is_peer_id_text(target):
        return PeerId.parse(target)
    if not isinstance(target, PeerId):
        mend = how_to_name(f"{target}", "a MemoryRouter knows peers by nothing else")
        raise ConfigError(f"{str(target)[:80]!r} is no peer id: {mend}")
    return target
