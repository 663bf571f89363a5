"""The circuits of a running node: the pure switch between its links and its streams.

Responsible for carrying `Relay` messages between links and the switch, for dialling through a relay, for handing
circuits that come in to whoever serves links, and for the switch's deadlines. It refuses to know what runs inside a
circuit, and how ways are found (`paths` does).

Only direct links carry circuits, and only where the other side said that it knows them (capability `relay`).

Source: wire section 7.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final

import trio

from p2p.errors import ConnectFailed, Reason, RemoteProtocolError
from p2p.ids import RELAY, PeerEndpoint, PeerId, is_peer_id_text
from p2p.limits import Limits
from p2p.msg import Relay
from p2p.policy.buckets import BucketTable
from p2p.policy.pins import Pins
from p2p.policy.routes import TTL_MAX
from p2p.relay.end import CircuitEnd
from p2p.relay.switch import Answer, CircuitStats, DeadEnd, Incoming, Moving, NextHop, Switch
from p2p.transport.circuit import CircuitStream
from p2p.windows import Clock

if TYPE_CHECKING:
    from p2p.node.roster import Roster
    from p2p.peer.connection import Connection
    from p2p.transport.base import LinkStream, Listener, Network

CAPABILITY: Final = "relay"
"""Offered under the seal by whoever knows circuits."""
HOP: Final = "hop"
"""Its value where the node passes circuits on for others."""
END: Final = "end"
"""Its value where the node only is at their ends."""

Serve = Callable[["CircuitStream"], bool]
"""Serves a circuit that came in and says so, or leaves it alone: too many from where it comes prove nothing."""


class Circuits:
    """Circuits of one node.

    Args:
        own: this node's identity.
        limits: the `relay_…` are used.
        clock: the time.
        roster: to find a relay by its label.
        pins: to find an identity by a label that is strongly pinned.
        relays: whether circuits are passed on for others.
        takes: whether circuits to this node are taken.
        next_hop: finds a way, see `Switch`.
        dead_end: told what was found to be none.
        ttl_to: how many hops a circuit may take that is opened over a relay to a target.
    """

    def __init__(
        self,
        own: PeerId,
        limits: Limits,
        clock: Clock,
        roster: Roster,
        pins: Pins,
        *,
        relays: bool,
        takes: bool,
        next_hop: NextHop,
        dead_end: Callable[[DeadEnd], None],
        ttl_to: Callable[[PeerId, PeerId], int | None],
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._roster = roster
        self._pins = pins
        self._takes = takes
        self._dead_end = dead_end
        self._ttl_to = ttl_to
        self._switch = Switch(own, limits, relays=relays, next_hop=next_hop)
        self._links: dict[int, Connection] = {}
        self._keys: dict[Connection, int] = {}
        self._next_key = count()
        # The link that something came on, while the switch takes it.
        self._taken_from: Connection | None = None
        self._incoming = BucketTable(
            limits.relay_incoming_per_s, limits.relay_incoming_burst, limits.relay_openings_askers_max
        )
        self._serve: Serve = _refuse
        self._move: Callable[[CircuitEnd], object] = _stay
        self._arrived = trio.lowlevel.ParkingLot()
        # Who waits for a relay is not woken by each of thousands of links with others.
        self._to_relays: set[int] = set()
        self._relay_arrived = trio.lowlevel.ParkingLot()
        self._wake = trio.Event()
        self._asleep_until = -math.inf

    def serve_with(self, serve: Serve, move: Callable[[CircuitEnd], object]) -> None:
        """Say who serves circuits that come in, and who opens another one in place of one of ours whose way changes.
        Until then the first are refused, and the second stay."""
        self._serve = serve
        self._move = move

    @property
    def stats(self) -> CircuitStats:
        """Counters, and how many circuits there are."""
        return self._switch.snapshot()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Keep the deadlines of the circuits that are passed on, until cancelled."""
        while True:
            self._wake = trio.Event()
            self._asleep_until = self._switch.next_deadline()
            with trio.CancelScope(deadline=self._asleep_until):
                await self._wake.wait()
            self._asleep_until = -math.inf
            now = self._clock.monotonic()
            if self._switch.next_deadline() <= now:
                self._switch.handle_deadline(now)
                self._after()

    # Links.

    def link_up(self, link: Connection) -> None:
        """A link is live and kept. Circuits run over it if it is direct and the peer knows them."""
        said = link.session.peer_capabilities.get(CAPABILITY)
        if not link.direct or said is None:
            return
        key = self._keys[link] = next(self._next_key)
        self._links[key] = link
        lane = self._switch.link_up(
            key, link.peer_id, dialed_by_us=link.dialed_by_us, is_relay=said == HOP, wake=partial(self._speaks, link)
        )
        link.carry(lane)
        if said == HOP:
            self._to_relays.add(key)
            self._relay_arrived.unpark_all()
        if self._arrived:
            self._arrived.unpark_all()

    def gives_way(self, link: Connection) -> None:
        """A link gives way to another one: it stays while there are circuits over it. Unknown links are ignored."""
        key = self._keys.get(link)
        if key is not None:
            self._switch.gives_way(key)
            self._after()

    def link_down(self, link: Connection) -> None:
        """A link is over: so are the circuits over it. Unknown links are ignored."""
        key = self._keys.pop(link, None)
        if key is not None:
            link.carry(None)
            del self._links[key]
            self._to_relays.discard(key)
            self._switch.link_down(key, Reason.MOVED if link.reason is Reason.MOVED else Reason.ABNORMAL)
            self._after()

    def receive(self, link: Connection, message: Relay) -> None:
        """Take a step of a circuit.

        Raises:
            RemoteProtocolError: no honest peer sends it; the caller closes the link.
        """
        if not link.direct:
            raise RemoteProtocolError("a circuit inside a circuit")
        if CAPABILITY not in link.session.peer_capabilities:
            raise RemoteProtocolError("a circuit from a peer that did not say that it knows any")
        key = self._keys.get(link)
        if key is not None:
            self._taken_from = link
            try:
                self._switch.receive(key, message, self._clock.monotonic())
            finally:
                self._taken_from = None
            self._after()

    def _speaks(self, link: Connection) -> None:
        """The circuits over a link have something to say."""
        if self._taken_from is None:
            link.flush_circuits()
        else:
            self._taken_from.flush_next(link)

    def is_neighbour(self, peer_id: PeerId) -> bool:
        """Whether there is a direct link to that peer, who knows circuits."""
        return self._switch.is_neighbour(peer_id)

    def leads_on(self, peer_id: PeerId) -> bool:
        """Whether there is a direct link to that peer, who passes circuits on."""
        return self._switch.leads_on(peer_id)

    async def until_relay(self) -> None:
        """Wait until there is a neighbour who passes circuits on."""
        while not self._to_relays:
            await self._relay_arrived.park()

    def _after(self) -> None:
        switch = self._switch
        while (event := switch.next_event()) is not None:
            if isinstance(event, Answer):
                link = self._links.get(event.key)
                if link is not None:
                    link.send_control(event.message)
            elif isinstance(event, DeadEnd):
                self._dead_end(event)
            elif isinstance(event, Moving):
                self._move(event.end)
            else:
                self._take(event)
        if switch.next_deadline() < self._asleep_until:
            self._wake.set()

    def _take(self, incoming: Incoming) -> None:
        end = incoming.end
        if not self._takes:
            # Whoever listens on loopback only does so because nothing says who may come in, over a relay or not.
            self._turn_away(end, Reason.NOT_ADMITTED)
            return
        now, relay = self._clock.monotonic(), self._incoming.of(str(end.relay))
        # Those of one source first: what it has too many of is not taken from the others behind that relay.
        if relay.available(now) < 1 or not self._serve(CircuitStream(end)):
            self._turn_away(end, Reason.OVERLOADED)
        else:
            relay.take(now)

    def _turn_away(self, end: CircuitEnd, reason: Reason) -> None:
        self._switch.stats.count_refused(reason)
        end.abort(reason)

    def proved(self, link: Connection) -> None:
        """A circuit that came in proved who is in it: its relay may bring another in its place."""
        assert link.endpoint is not None, "who is behind a relay has an endpoint that names it"
        self._incoming.of(link.endpoint.host).give_back()

    # Dialling.

    async def connect(self, endpoint: PeerEndpoint) -> CircuitStream:
        """Open a circuit to `relay://RELAY/TARGET`. A relay that is not connected yet is waited for a moment.

        Raises:
            ConnectFailed: NO_ROUTE, TIMEOUT, UNRESOLVED (no identity is known for the target's label), or what the
                relay or the target answered.
        """
        assert endpoint.scheme == RELAY, "only circuits are dialled here"
        await trio.lowlevel.checkpoint()
        target = self.identity_of(endpoint.expect or "")
        if target is None:
            raise ConnectFailed(
                Reason.UNRESOLVED,
                f"{endpoint}: nobody is trusted on first use through a relay: name the target by its peer id, or put it"
                " on the trust list",
            )
        with trio.move_on_after(self._limits.dial_s_max):
            relay = await self._relay(endpoint)
            stream = CircuitStream(self._switch.open(relay, target, self._ttl_to(target, relay) or TTL_MAX))
            try:
                refusal = await stream.wait_taken()
            except BaseException:
                stream.refuse(Reason.DISCONNECTED)
                raise
            if refusal is None:
                return stream
            raise ConnectFailed(refusal, f"{endpoint}: refused over the relay: {refusal.label}")
        raise ConnectFailed(Reason.TIMEOUT, f"{endpoint} was not taken within {self._limits.dial_s_max:g} s")

    async def _relay(self, endpoint: PeerEndpoint) -> PeerId:
        with trio.move_on_after(self._limits.relay_wait_s_max):
            while True:
                for link in self._links.values():
                    # One that gives way stands for its neighbour only as long as there is another one.
                    if endpoint.host in (str(link.peer_id), link.label) and self.is_neighbour(link.peer_id):
                        return link.peer_id
                await self._arrived.park()
        raise ConnectFailed(Reason.NO_ROUTE, f"{endpoint}: the relay is not connected, or knows no circuits")

    def identity_of(self, who: str) -> PeerId | None:
        """The peer id that a text is, or that a label is strongly pinned to."""
        return PeerId.parse(who) if is_peer_id_text(who) else self._pins.strong_holder(who)


class CircuitNetwork:
    """The node's network window, to which circuits are one more scheme."""

    __slots__ = ("_circuits", "_network")

    def __init__(self, network: Network, circuits: Circuits) -> None:
        self._network = network
        self._circuits = circuits

    async def listen(self, host: str | None, port: int) -> Listener:
        return await self._network.listen(host, port)

    async def resolve(self, endpoint: PeerEndpoint) -> tuple[PeerEndpoint, ...]:
        if endpoint.scheme != RELAY:
            return await self._network.resolve(endpoint)
        await trio.lowlevel.checkpoint()
        return (endpoint,)

    async def connect(self, endpoint: PeerEndpoint) -> LinkStream:
        if endpoint.scheme != RELAY:
            return await self._network.connect(endpoint)
        return await self._circuits.connect(endpoint)


def _refuse(_stream: CircuitStream) -> bool:
    return False


def _stay(_end: CircuitEnd) -> None:
    """Nobody opens another one."""
