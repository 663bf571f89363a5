"""Which neighbour leads to a peer: the routing table that Vix calls MemoryRouter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from p2p.errors import ConfigError
from p2p.ids import PeerId
from p2p.limits import Limits

TTL_MAX: Final = 8
"""Hops that a relayed circuit may take (wire section 7)."""


@dataclass(frozen=True, slots=True)
class Route:
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


class MemoryRouter:
    """Routes by target, one each, in memory.

    Args:
        limits: `routes_max`; beyond it the route that was set longest ago goes.
    """

    __slots__ = ("_limits", "_routes")

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._routes: dict[PeerId, Route] = {}

    def __len__(self) -> int:
        return len(self._routes)

    def upsert_route(self, target: PeerId, route: Route) -> None:
        """Set the route to a peer, in place of the one there was."""
        self._routes.pop(target, None)
        self._routes[target] = route
        if len(self._routes) > self._limits.routes_max:
            del self._routes[next(iter(self._routes))]

    def resolve(self, target: PeerId) -> Route | None:
        """The route to a peer, None if there is none."""
        return self._routes.get(target)

    def remove_route(self, target: PeerId) -> bool:
        """Forget the route to a peer.

        Returns:
            Whether there was one.
        """
        return self._routes.pop(target, None) is not None
