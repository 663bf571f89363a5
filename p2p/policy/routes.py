"""Which neighbour leads to a peer: the routing table that Vix calls MemoryRouter.

Two kinds of routes. One **set** by somebody holds until it is removed or its time is over, and comes first. Those
**learnt** come from relays that tell whom they lead to: what one relay tells stands in place of what it told before,
and is forgotten when it was not told again for `routes_expire_s`, when its relay is no neighbour any more, or when it
was tried in vain. Among learnt ones the fewest hops come first, then the one that has stood longest; behind them those
over which a link broke lately, for a relay may let a handshake pass and nothing else. A route that is wrong costs an
attempt and nothing else: who answers at its end has to prove who he is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import msgspec

from p2p.errors import ConfigError
from p2p.ids import PeerId
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
        ConfigError: the ttl is out of range.
    """

    next_hop: PeerId
    via_relay: bool = False
    ttl: int = TTL_MAX

    def __post_init__(self) -> None:
        if not 1 <= self.ttl <= TTL_MAX:
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


class _Learnt(msgspec.Struct, frozen=True):
    hops: int
    since: float
    until: float


class MemoryRouter:
    """Routes by target, in memory.

    Args:
        limits: `routes_max` for the routes that are set (beyond it the one set longest ago goes) and as many learnt
            ones (beyond it no more are taken), `routes_told_max`, `routes_expire_s`. As many are remembered to have
            broken.

    Where a method takes `now`, it is monotonic seconds; without it nothing is too old.
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

    def upsert_route(self, target: PeerId, route: Route, *, until: float = math.inf) -> None:
        """Set the route to a peer, in place of the one there was.

        Args:
            until: monotonic seconds when it is forgotten.
        """
        self._set.pop(target, None)
        self._set[target] = (route, until)
        if len(self._set) > self._limits.routes_max:
            del self._set[next(iter(self._set))]

    def remove_route(self, target: PeerId) -> bool:
        """Forget the route to a peer, set or learnt.

        Returns:
            Whether there was one.
        """
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
        room = max(0, self._limits.routes_max - sum(len(others) for others in self._learnt.values()))
        until = now + self._limits.routes_expire_s
        after: dict[PeerId, _Learnt] = {}
        for target, hops in told:
            if len(after) >= min(self._limits.routes_told_max, room):
                break
            if hops < TTL_MAX and target != relay:
                old = before.get(target)
                since = old.since if old is not None and old.until > now else now
                after[target] = _Learnt(hops + 1, since, until)
        if after:
            self._learnt[relay] = after
        return {target: it.hops for target, it in before.items()} != {target: it.hops for target, it in after.items()}

    def forget_relay(self, relay: PeerId) -> bool:
        """A neighbour is gone, and with it what it told. Returns whether it had told anything."""
        return self._learnt.pop(relay, None) is not None

    def failed(self, target: PeerId, relay: PeerId) -> None:
        """A learnt route was tried in vain: it is forgotten until it is told again."""
        told = self._learnt.get(relay)
        if told is not None:
            told.pop(target, None)

    def broke(self, target: PeerId, relay: PeerId, now: float) -> None:
        """A link over that relay broke: other ways come first for `routes_expire_s`."""
        self._broken.pop((target, relay), None)
        self._broken[target, relay] = now + self._limits.routes_expire_s
        if len(self._broken) > self._limits.routes_max:
            del self._broken[next(iter(self._broken))]

    def has_broken(self, target: PeerId, relay: PeerId, now: float = _ALWAYS) -> bool:
        """Whether a link over that relay broke lately."""
        return self._broken.get((target, relay), _ALWAYS) > now

    # Asking.

    def resolve(self, target: PeerId, now: float = _ALWAYS) -> Route | None:
        """The best route to a peer, None if there is none."""
        found = self.routes_to(target, now)
        return found[0].route if found else None

    def routes_to(self, target: PeerId, now: float = _ALWAYS) -> list[KnownRoute]:
        """All routes to a peer, the best first."""
        found: list[KnownRoute] = []
        given = self._set.get(target)
        if given is not None and given[1] > now:
            found.append(KnownRoute(target, given[0], None, False, given[1]))
        learnt = [
            (self.has_broken(target, relay, now), it.hops, it.since, relay, it.until)
            for relay, told in self._learnt.items()
            if (it := told.get(target)) is not None and it.until > now
        ]
        for _, hops, _, relay, until in sorted(learnt):
            found.append(KnownRoute(target, Route(relay, via_relay=True), hops, True, until))
        return found

    def routes(self, now: float = _ALWAYS) -> list[KnownRoute]:
        """The whole table: per target the best first, targets in the order of their ids."""
        targets = {*self._set, *(target for told in self._learnt.values() for target in told)}
        return [route for target in sorted(targets) for route in self.routes_to(target, now)]

    def told(self, now: float) -> list[tuple[PeerId, PeerId, int]]:
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
