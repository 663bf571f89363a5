"""Ways to peers that are no neighbours: the routing table, what relays tell each other and their clients, and links
made by route.

Responsible for `MemoryRouter` and for the messages that fill it (`Attached`). It refuses to know how a circuit is made
(`circuits`) and how a dial is judged (`dialer`).

Who takes part says so under the seal (capability `attach`): only such a peer is told of others, and only of such a peer
others are told. A relay tells every one of them whom it leads to: the others that are attached to it, and, one hop
further, whom other relays lead to. It never tells a neighbour what it has from that neighbour.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Final

import trio

from p2p.errors import ConfigError, ConnectFailed, NodeClosed, NotConnected, Reason, UnknownPeer
from p2p.ids import RELAY, PeerEndpoint, PeerId, how_to_name
from p2p.msg import Attached, AttachedEntry
from p2p.node.interrupts import uninterrupted
from p2p.node.kinds import check_kind, seconds_of
from p2p.node.searches import Searches
from p2p.node.status import Peer
from p2p.policy.patience import Patience, Way
from p2p.policy.routes import KnownRoute, MemoryRouter, Route
from p2p.windows import Clock

if TYPE_CHECKING:
    from p2p.node.circuits import Circuits
    from p2p.node.config import NodeConfig
    from p2p.node.dialer import Dialer
    from p2p.node.roster import Roster
    from p2p.peer.connection import Connection
    from p2p.relay.switch import DeadEnd

CAPABILITY: Final = "attach"
"""Offered under the seal by whoever wants to be told of, and told."""


class Paths:
    """Routes of one node, and what is made of them.

    Args:
        own: this node's identity.
        config: whether it takes part, and tells; and the relays behind which it looks for peers without a route.
        roster: the neighbours.
    """

    _circuits: Circuits
    _dialer: Dialer
    _heir: Callable[[PeerId], Awaitable[Connection | None]]
    _searches: Searches

    def __init__(self, own: PeerId, config: NodeConfig, roster: Roster) -> None:
        self.router = MemoryRouter(config.limits)
        self.own = own
        self._limits = config.limits
        self._clock = config.clock
        self._roster = roster
        self._listens = config.is_attached
        self._tells = config.relay
        self._via = frozenset(config.via)
        self._attached: dict[Connection, None] = {}
        self._changed = trio.Event()
        # Where circuits fell silent: how patiently the next one is watched. Where they were made anew because the relay
        # asked for it, or broke one: how long the next one waits.
        limits = config.limits
        self._silent = Patience(limits.relay_patience_max, limits.relay_patience_kept_s, limits.routes_max)
        self._renewed = Patience(limits.relay_patience_max, limits.relay_patience_kept_s, limits.routes_max)

    def enter(
        self,
        circuits: Circuits,
        dialer: Dialer,
        heir: Callable[[PeerId], Awaitable[Connection | None]],
        nursery: trio.Nursery,
    ) -> None:
        """What ways are made with, all of which need this table themselves; `heir` waits for a link that is coming."""
        self._circuits = circuits
        self._dialer = dialer
        self._heir = heir
        self._searches = Searches(nursery, self._limits, self._dial_over, self._note_failure)

    # Links by route.

    async def link_to(self, who: PeerId | str) -> Connection:
        """The live link to a peer; one made by route where there is none.

        Raises:
            UnknownPeer, NotConnected: nobody of that name is connected, and no way there is known, or none works.
        """
        try:
            return self._roster.find(who)
        except (UnknownPeer, NotConnected) as error:
            missing = error
        target = self._circuits.identity_of(who) if isinstance(who, str) else who
        if target == self.own:
            raise NotConnected(f"{target.short} is this node itself")
        if target is not None and (link := await self._heir(target)) is not None:
            return link
        if target is None or not self.relays_to(target):
            raise missing
        return await self._searches.link_to(target, self.relays_to)

    def aside(self, place: PeerEndpoint) -> AbstractContextManager[None]:
        """While somebody dials that place: what the node does by itself to reach who is there makes way."""
        target = None if place.scheme != RELAY else self._circuits.identity_of(place.expect or "")
        return nullcontext() if target is None else self._searches.aside(target)

    def give_up_on(self, target: PeerId) -> None:
        """Look for no way to a peer any more, whoever waits for one."""
        self._searches.give_up(target)

    async def _dial_over(self, target: PeerId, relay: PeerId) -> Connection:
        return await self._dialer.dial(PeerEndpoint(str(relay), 0, RELAY, str(target)))

    def _note_failure(self, target: PeerId, relay: PeerId, reason: Reason) -> None:
        now = self._clock.monotonic()
        if reason is Reason.NO_ROUTE:
            self.router.failed(target, relay, now)
        else:
            # A full table, a target that is busy, a moment without a word: the way may be as good as ever.
            self.router.broke(target, relay, now)

    async def move(self, link: Connection) -> None:
        """Make a link in a circuit anew while it serves, which gives way then. Tried again as long as it serves.

        A relay that asks for that again and again gets one after `flapping_s`, and each later one after twice as long,
        up to half of the time that an older link to a relay stays.
        """
        assert link.connected_at is not None, "it is live"
        assert link.endpoint is not None, "what was dialled has an endpoint"
        since = link.connected_at
        while link.is_live:
            await self._wait_to_renew((link.peer_id, relay_of(link)), since)
            if link.is_live:
                since = self._clock.monotonic()
                with suppress(ConnectFailed, NodeClosed):
                    await self._dialer.dial(link.endpoint, automatic=True, in_place_of=link)

    async def open_anew(self, target: PeerId, relay: PeerId, since: float, put_off: Callable[[], None]) -> None:
        """Make a link in place of one in a circuit that broke, over whichever relay leads there. Each is tried once.

        Those where something failed lately are the last: mostly there is only that one, and its own link to the target
        broke, or changed. They have to wait as those do who ask to move, so that a relay which spoils every circuit is
        asked ever more seldom.

        Args:
            relay: the way of the link that broke. It is the first where nothing is held against it.
            since: from when on they wait.
            put_off: called when it has to wait: who needs a link before that has to look for a way himself.
        """
        now = self._clock.monotonic()
        relays = {relay: None, **dict.fromkeys(self.relays_to(target))}
        for way in sorted(relays, key=lambda at: self.router.broken_until(target, at, now)):
            if self.router.broken_until(target, way, now) > now:
                put_off()
                await self._wait_to_renew((target, way), since)
            try:
                await self._dialer.dial(PeerEndpoint(str(way), 0, RELAY, str(target)), automatic=True)
            except ConnectFailed as failure:
                self._note_failure(target, way, failure.reason)
            except NodeClosed:
                return
            else:
                return

    @trio.lowlevel.enable_ki_protection
    async def reach_past(self, link: Connection, relays: Sequence[PeerId]) -> None:
        """Try one relay after the other to the peer of a direct link, as long as that is silent."""
        silent_since = link.life.moved_at
        for relay in relays:
            if not link.is_live or link.life.moved_at > silent_since:
                return
            reason, endpoint = Reason.TIMEOUT, PeerEndpoint(str(relay), 0, RELAY, str(link.peer_id))
            try:
                with trio.move_on_after(self._limits.relay_next_s):
                    await self._dialer.dial(endpoint, automatic=True, in_place_of=link)
                    return
            except ConnectFailed as failure:
                reason = failure.reason
            except NodeClosed:
                return
            self._note_failure(link.peer_id, relay, reason)

    async def _wait_to_renew(self, way: Way, since: float) -> None:
        limits, clock = self._limits, self._clock
        factor = self._renewed.factor(way, clock.monotonic())
        wait_s = min(factor * limits.flapping_s, limits.retire_s_max / 2)
        await trio.sleep(max(0.0, since + wait_s - clock.monotonic()))
        self._renewed.double(way, clock.monotonic())

    async def reach(self, who: str) -> Connection:
        """As `link_to`, for dials.

        Raises:
            ConnectFailed: NO_ROUTE.
        """
        try:
            return await self.link_to(who)
        except (UnknownPeer, NotConnected) as error:
            raise ConnectFailed(Reason.NO_ROUTE, str(error)) from None

    def identity(self, who: Peer | PeerId | str) -> PeerId:
        """Whom a name means, connected or not.

        Raises:
            UnknownPeer: a node id that nobody connected has and no identity is pinned to.
        """
        if isinstance(who, str):
            found = self._circuits.identity_of(who) or self._roster.holder_of(who)
            if found is None:
                mend = how_to_name(who, "name the peer by its peer id")
                raise UnknownPeer(f"no identity is known for the node id {who[:80]!r}: {mend}")
            return found
        if isinstance(who, PeerId):
            return who
        check_kind(who, (Peer,), "whom is meant", "a Peer, a peer id or a node id")
        return who.peer_id

    def next_hop(self, target: PeerId, asking: PeerId) -> Route | None:
        """The best route to a target over a relay that is connected, other than the one who asks."""
        for known in self.router.routes_to(target, self._clock.monotonic()):
            hop = known.route.next_hop
            if known.route.via_relay and hop != asking and self._circuits.leads_on(hop):
                return known.route
        return None

    def dead_end(self, found: DeadEnd) -> None:
        """A relay leads nowhere though it told of a way. (It may have been left fewer hops than it said that it takes.)

        Others come first for a while. Forgotten it is only where there is none: the target may be busy.
        """
        now = self._clock.monotonic()
        for known in self.router.routes_to(found.target, now):
            if known.route.next_hop == found.relay and known.hops is not None and found.ttl >= known.hops:
                self._note_failure(found.target, found.relay, found.reason)

    def ttl_to(self, target: PeerId, relay: PeerId) -> int | None:
        """How many hops the route over a relay allows, None if there is no such route."""
        routes = self.router.routes_to(target, self._clock.monotonic())
        return next((known.route.ttl for known in routes if known.route.next_hop == relay), None)

    def relays_to(self, target: PeerId) -> list[PeerId]:
        """Connected relays to ask for a way to a target, the most promising first."""
        named = [
            link.peer_id
            for link in self._roster.links.values()
            if link.dialed_by_us and link.endpoint in self._via and link.peer_id != target
        ]
        neighbours = filter(self._circuits.is_neighbour, named)
        now, told = self._clock.monotonic(), self.router.routes_to(target)
        given = {known.route.next_hop for known in told if not known.is_learnt}
        relays = dict.fromkeys((*self._routed(target), *neighbours))
        return sorted(relays, key=lambda at: -math.inf if at in given else self.router.broken_until(target, at, now))

    def _routed(self, target: PeerId) -> list[PeerId]:
        routes = self.router.routes_to(target, self._clock.monotonic())
        hops = [known.route.next_hop for known in routes if known.route.via_relay]
        return [hop for hop in hops if self._circuits.is_neighbour(hop)]

    def set_route(self, target: PeerId, route: Route, until: float) -> None:
        """Set the route to a peer."""
        self.router.upsert_route(target, route, until=until)
        self._searches.relays_changed()

    def remove_route(self, target: PeerId) -> bool:
        """Forget the routes to a peer. Whom this node told of them hears that they are gone."""
        found = self.router.remove_route(target)
        if found:
            self._changed.set()
        return found

    # What relays tell.

    def link_up(self, link: Connection) -> None:
        """A link is live and kept."""
        self._searches.found(link.peer_id, link)
        if link.direct and CAPABILITY in link.session.peer_capabilities:
            self._attached[link] = None
            self._changed.set()
        if link.direct:
            self._searches.relays_changed()

    def link_gave_way(self, link: Connection) -> None:
        """Another link to the same neighbour is kept from now on, who leads where he led before."""
        self._attached.pop(link, None)

    def link_down(self, link: Connection) -> None:
        """A link is over; unknown ones, and those that gave way, are ignored."""
        if link in self._attached:
            del self._attached[link]
            self.router.forget_relay(link.peer_id)
            self._changed.set()

    def link_broke(self, link: Connection) -> None:
        """A live link through a relay ended, and not in order: maybe by the relay's doing."""
        now = self._clock.monotonic()
        relay = relay_of(link)
        self.router.broke(link.peer_id, relay, now)
        if link.reason is Reason.DEAD and not link.life.is_relay_silent:
            # What is behind that relay may be slow. A relay that answers nobody is not.
            self._silent.double((link.peer_id, relay), now)

    def patience_with(self, link: Connection) -> int:
        """How many times as long as usual a circuit may be silent: twice what was too long there the last time."""
        return self._silent.factor((link.peer_id, relay_of(link)), self._clock.monotonic())

    def receive(self, link: Connection, message: Attached) -> None:
        """A neighbour tells whom it leads to. Nobody is listened to unless both take part, and it relays."""
        if self._listens and link in self._attached and self._circuits.leads_on(link.peer_id):
            told = [(entry.peer, entry.hops) for entry in message.entries if entry.peer != self.own]
            if self.router.learn(link.peer_id, told, self._clock.monotonic()):
                self._changed.set()
                self._searches.relays_changed()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Tell the attached ones, again and again and when something changed; until cancelled."""
        limits = self._limits
        while True:
            self._changed = trio.Event()
            self.router.expire(self._clock.monotonic())
            if self._tells:
                await self._tell()
            await trio.sleep(limits.routes_told_debounce_s)
            with trio.move_on_after(limits.routes_told_every_s):
                await self._changed.wait()

    async def _tell(self) -> None:
        """Tell every attached one. The table is made once, and the loop has its turn after each of them."""
        table = self._table()
        for link in tuple(self._attached):
            if link in self._attached:
                link.send_control(self._news_for(link, table))
            await trio.lowlevel.checkpoint()

    def _table(self) -> list[tuple[AttachedEntry, PeerId]]:
        """Whom this node leads to, the nearest first, and by whom."""
        neighbours = [(AttachedEntry(link.peer_id, 1), link.peer_id) for link in self._attached]
        told = self.router.told(self._clock.monotonic())
        return neighbours + [(AttachedEntry(target, hops), relay) for target, relay, hops in told]

    def _news_for(self, link: Connection, table: list[tuple[AttachedEntry, PeerId]]) -> Attached:
        told: dict[PeerId, AttachedEntry] = {}
        count_max = min(self._limits.routes_told_max, Attached.ENTRIES_MAX)
        for entry, by in table:
            if len(told) == count_max:
                break
            if link.peer_id not in (entry.peer, by):
                told.setdefault(entry.peer, entry)
        return Attached(tuple(told.values()))


def relay_of(link: Connection) -> PeerId:
    """The neighbour that a circuit runs through, by whatever name it was dialled."""
    assert link.stream.remote is not None, "a circuit leads somewhere"
    return PeerId.parse(link.stream.remote.host)


@uninterrupted
class Routes:
    """The routing table as an application sees it: `node.routes`. A peer is named by Peer, peer id or node id.

    Routes that are set come before those that relays tell; see `MemoryRouter`.
    """

    __slots__ = ("_clock", "_paths")

    def __init__(self, paths: Paths, clock: Clock) -> None:
        self._paths = paths
        self._clock = clock

    def list(self) -> list[KnownRoute]:
        """All routes: per target the best first."""
        return self._paths.router.list(self._clock.monotonic())

    def resolve(self, target: Peer | PeerId | str) -> Route | None:
        """The best route to a peer, None if there is none."""
        return self._paths.router.resolve(self._paths.identity(target), self._clock.monotonic())

    def upsert_route(self, target: Peer | PeerId | str, route: Route, *, expires_s: float = math.inf) -> None:
        """Set the route to a peer, in place of the one that was set before.

        Args:
            expires_s: forget it after so many seconds; infinity, unless said otherwise, for never.

        Raises:
            ConfigError: it leads to this node or over it, from the peer to itself through a relay, or its time is over.
            UnknownPeer: no identity is known for the node id.
        """
        peer_id = self._paths.identity(target)
        check_kind(route, (Route,), "route", "a Route")
        if peer_id == self._paths.own:
            raise ConfigError("this node needs no route to itself")
        if route.next_hop == self._paths.own:
            raise ConfigError(
                f"a route over this node itself leads nowhere: name the neighbour that leads to {peer_id.short}"
            )
        seconds = seconds_of(expires_s, "expires_s")
        self._paths.set_route(peer_id, route, self._clock.monotonic() + seconds)

    def remove_route(self, target: Peer | PeerId | str) -> bool:
        """Forget the routes to a peer, set and learnt; True if there were any.

        Those that were set are gone for good. A relay that still leads there tells of it again, within
        `routes_told_every_s`.
        """
        return self._paths.remove_route(self._paths.identity(target))
