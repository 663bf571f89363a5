"""The parts of a running node, put together in one place. They exist exactly while the node runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
import trio

from p2p.crypto.identity import Identity
from p2p.crypto.noise import NoiseStatic
from p2p.errors import Reason
from p2p.ids import PeerEndpoint, PeerId, is_loopback
from p2p.node import circuits, paths
from p2p.node.acquaintances import Acquaintances
from p2p.node.away import Away
from p2p.node.circuits import CircuitNetwork, Circuits
from p2p.node.config import WAYS_OUT, NodeConfig
from p2p.node.dialer import Dialer
from p2p.node.dispatch import Dispatch
from p2p.node.doubts import Doubts
from p2p.node.events import EventFeed, NodeEvent, PeerConnected
from p2p.node.leads import Leads
from p2p.node.lines import Lines
from p2p.node.notices import Notices
from p2p.node.paths import Paths
from p2p.node.replicator import Replicator
from p2p.node.requests import Requests
from p2p.node.roster import Roster
from p2p.node.status import Counters, TableSizes
from p2p.node.supervisor import Supervisor
from p2p.node.wal import Wal
from p2p.node.writer import Writer
from p2p.peer.connection import Connection
from p2p.policy.addresses import DialRule
from p2p.policy.admission import ConnectionSlots, Scores
from p2p.policy.book import BookPlace
from p2p.policy.buckets import TokenBucket
from p2p.policy.guard import ConnectionGuard
from p2p.policy.hints import HintSource
from p2p.policy.origins import OriginAdmission
from p2p.policy.pins import Pins
from p2p.policy.places import PeerPlaces
from p2p.session.handshake import SessionConfig
from p2p.store.base import Store
from p2p.transport.base import Network
from p2p.windows import Blocking

if TYPE_CHECKING:
    # Imported where they are made: most nodes have neither.
    from p2p.node.bootstrap import HttpBootstrap
    from p2p.node.discovery import UdpDiscovery


class Remembered(msgspec.Struct, frozen=True):
    """What a node knows of its peers from earlier runs."""

    pins: Mapping[str, PeerId]
    book: Sequence[BookPlace]
    bans: Mapping[PeerId, int]


def read_remembered(store: Store) -> Remembered:
    """Read what the store kept. Blocking.

    Raises:
        StoreError: it cannot be read.
    """
    return Remembered(store.pins(), store.book(), store.bans())


class Rooms:
    """One running node's parts. Those that start tasks are made by `enter`, which gets the nursery of the links."""

    supervisor: Supervisor
    dialer: Dialer
    away: Away
    leads: Leads
    discovery: UdpDiscovery | None
    bootstrap: HttpBootstrap | None

    def __init__(
        self,
        config: NodeConfig,
        *,
        store: Store,
        identity: Identity,
        trusted: Mapping[str, PeerId] | None,
        remembered: Remembered,
        blocking: Blocking,
        dispatch: Dispatch,
        counters: Counters,
        events: EventFeed,
        log_line: Lines,
    ) -> None:
        limits = config.limits
        self.own = identity.peer_id
        self._config = config
        self._identity = identity
        self._trusted = trusted
        self._dispatch = dispatch
        self._counters = counters
        self._events = events
        self._log_line = log_line
        self.roster = Roster(self.own, limits)
        self.guard = ConnectionGuard(limits)
        self.slots: ConnectionSlots[Connection] = ConnectionSlots(limits, config.trusted_proxies)
        self.places: PeerPlaces[Connection] = PeerPlaces(limits)
        self._chosen = frozenset(endpoint.expect for endpoint in config.peers)
        self.scores = Scores(limits)
        self.pins = Pins(limits, strong=trusted or {}, weak=remembered.pins)
        self.origins = OriginAdmission(
            self.own,
            limits,
            trusted=None if trusted is None else frozenset(trusted.values()),
            members_introduce=config.network_key is not None,
        )
        self._left_alone_lines = TokenBucket(limits.refusal_lines_per_s, limits.refusal_lines_burst)
        self._notices = Notices(self.own, self.pins.label_of, log_line)
        self.writer = Writer(
            store=store,
            identity=identity,
            clock=config.clock,
            blocking=blocking,
            limits=limits,
            emit=self._emit,
            admit=self._admit,
            settle=self._settle,
            forgotten=self.origins.forget,
            is_unlimited=self.origins.is_unlimited,
            can_ask=self._can_ask,
        )
        self.acquaintances = Acquaintances(
            limits,
            remembered.book,
            config.peers,
            roster=self.roster,
            places=self.places,
            guard=self.guard,
            is_welcome=self._may_be_met,
            write=self.writer.remember_place,
            clock=config.clock,
        )
        self._restore_bans(remembered.bans)
        self.replicator = Replicator(
            own=self.own,
            writer=self.writer,
            clock=config.clock,
            limits=limits,
            penalize=self._penalize,
            expected=(*config.via, *config.peers) if config.dial and not config.is_ephemeral else (),
            is_looking=not config.is_ephemeral and (config.discovery is not None or config.bootstrap is not None),
            is_new=identity.is_new,
        )
        self.paths = Paths(self.own, config, self.roster)
        self.circuits = Circuits(
            self.own,
            limits,
            config.clock,
            self.roster,
            self.pins,
            relays=config.relay,
            takes=not config.is_closed,
            next_hop=self.paths.next_hop,
            dead_end=self.paths.dead_end,
            ttl_to=self.paths.ttl_to,
        )
        self.wal = Wal(
            self.writer,
            self.replicator,
            label_of=self._label_of,
            left_alone=lambda: frozenset(self.origins.left_alone),
            limits=limits,
            oldest_ms=self._oldest_ms,
        )

    def _label_of(self, peer_id: PeerId) -> str | None:
        return self._config.node_id if peer_id == self.own else self.pins.label_of(peer_id)

    def _emit(self, event: NodeEvent) -> None:
        if isinstance(event, PeerConnected):
            self.leads.targets.arrived(event.peer.peer_id)
        self._events.emit(event)
        self._notices.tell(event)

    def _restore_bans(self, bans: Mapping[PeerId, int]) -> None:
        now, wall_ms = self._config.clock.monotonic(), self._config.clock.wall_ms()
        for peer_id, until_ms in bans.items():
            if until_ms > wall_ms and peer_id != self.own:
                self.scores.ban(peer_id, now + (until_ms - wall_ms) / 1000, now)
            else:
                self.writer.remember_ban(peer_id, None)

    def _settle(self, origin: PeerId, via: PeerId, held: bool) -> None:
        self.origins.settle(origin, via, held=held)

    def _can_ask(self) -> bool:
        config = self._config
        listens = config.listen_port is not None or config.listen_ws_port is not None
        return config.dial or listens or bool(self.roster.links)

    def _oldest_ms(self) -> int:
        age_s = self._config.expire_after_s
        return 0 if age_s is None else self._config.clock.wall_ms() - int(age_s * 1000)

    def _admit(self, origin: PeerId, via: PeerId) -> bool:
        is_known = origin in self.origins.left_alone
        if self.origins.admit(origin, via):
            return True
        # Whoever we let in may make up origins without end: the table is bounded, and so are the lines.
        is_new = not is_known and origin in self.origins.left_alone
        if is_new and self._left_alone_lines.take(self._config.clock.monotonic()):
            link = self.roster.links.get(via)
            carrier = (link.label if link is not None else None) or via.short
            self._log_line(f"the log of {origin.short}, offered by {carrier}, is left alone {self.origins.until}")
        return False

    def _penalize(self, peer_id: PeerId, reason: Reason) -> None:
        # The replicator is made before there is a supervisor to ask, and asks only once links are up.
        self.supervisor.penalize(peer_id, reason)

    def enter(self, nursery: trio.Nursery, network: Network, endpoints: Iterable[PeerEndpoint]) -> None:
        """Make the parts that start tasks in the nursery of the links; `endpoints` is where the node listens."""
        config = self._config
        session_config = SessionConfig(
            node_id=config.node_id,
            identity=self._identity,
            static=NoiseStatic.generate(config.entropy),
            network_key=config.network_key,
            network_name=config.network_name,
            capabilities=_capabilities(config),
            limits=config.limits,
        )
        self.supervisor = Supervisor(
            own=self.own,
            limits=config.limits,
            session_config=session_config,
            roster=self.roster,
            slots=self.slots,
            places=self.places,
            guard=self.guard,
            is_named=self._is_named,
            is_chosen=self._is_chosen,
            may_come=lambda peer_id: self._is_named(peer_id) or self._has_room(),
            scores=self.scores,
            pins=self.pins,
            trusted=self._trusted,
            origins=self.origins,
            dispatch=self._dispatch,
            replicator=self.replicator,
            circuits=self.circuits,
            paths=self.paths,
            counters=self._counters,
            events=self._events,
            log_line=self._log_line,
            remember_pin=self.writer.remember_pin,
            remember_ban=self.writer.remember_ban,
            acquaintances=self.acquaintances,
            clock=config.clock,
            entropy=config.entropy,
            nursery=nursery,
        )
        self.requests = Requests(config.clock, self.supervisor.heir)
        self.circuits.serve_with(self.supervisor.serve_circuit, self.supervisor.move_circuit)
        self.dialer = Dialer(
            CircuitNetwork(network, self.circuits),
            self.roster,
            self.guard,
            self._counters,
            nursery=nursery,
            begin_link=self.supervisor.begin,
            log_line=self._log_line,
            limits=config.limits,
            clock=config.clock,
            entropy=config.entropy,
        )
        self.paths.enter(self.circuits, self.dialer, self.supervisor.heir, nursery)
        self.dialer.reach_with(self.paths.reach)
        self.doubts = Doubts(
            config.limits,
            config.clock,
            nursery,
            links=self.roster.links.values,
            is_relay=self.circuits.leads_on,
            relays_to=self.paths.relays_to,
            reach=self.paths.reach_past,
            until_relay=self.circuits.until_relay,
        )
        self.away = Away(
            (*config.via, *config.peers) if config.dial else (),
            dialer=self.dialer,
            roster=self.roster,
            guard=self.guard,
            book=self.acquaintances.book,
            label_of=self.pins.label_of,
        )
        self.leads = Leads(
            own=self.own,
            node_id=config.node_id,
            endpoints=endpoints,
            dials=config.dial,
            limits=config.limits,
            roster=self.roster,
            scores=self.scores,
            is_known=self.has_met,
            is_welcome=self._is_welcome,
            is_coming=self.slots.holds,
            has_room=self._has_room,
            dialer=self.dialer,
            rule=_rule_without_answer(config),
            acquaintances=self.acquaintances,
            counters=self._counters,
            clock=config.clock,
            entropy=config.entropy,
        )
        self.discovery = self._make_discovery(network, tuple(endpoints))
        self.bootstrap = self._make_bootstrap(network, endpoints)

    def _make_discovery(self, network: Network, endpoints: tuple[PeerEndpoint, ...]) -> UdpDiscovery | None:
        config = self._config
        port = endpoints[0].port if config.listen_port is not None else 0
        discovery = config.discovery_at(port)
        if discovery is None:
            return None
        from p2p.node.discovery import UdpDiscovery

        return UdpDiscovery(
            discovery,
            lambda hint, again: self.leads.offer(hint, HintSource.DISCOVERY, hint.host, again=again),
            identity=self._identity,
            network=network,
            clock=config.clock,
            entropy=config.entropy,
            limits=config.limits,
            is_known=self.has_met,
            say=self._log_line.warn,
        )

    def _make_bootstrap(self, network: Network, endpoints: Iterable[PeerEndpoint]) -> HttpBootstrap | None:
        config = self._config
        asked = config.bootstrap
        if asked is None:
            return None
        from p2p.node.bootstrap import HttpBootstrap
        from p2p.registry.form import SCHEMES, host_of

        if config.is_closed and not is_loopback(host_of(asked.registry_url)):
            self._log_line(f"{config.node_id} asks no registry on another machine: to meet others, {WAYS_OUT}")
            return None
        places = tuple(endpoints)
        place = next((endpoint for endpoint in places if endpoint.scheme in SCHEMES), None)
        return HttpBootstrap(
            dataclasses.replace(
                asked,
                self_node_id=asked.self_node_id or config.node_id,
                ca_file=asked.ca_file or config.tls_ca,
                self_tcp_port=asked.self_tcp_port or (place.port if place is not None else None),
            ),
            lambda announcement, came_from: self.leads.offer(announcement, HintSource.REGISTRY, came_from),
            identity=self._identity,
            scheme=place.scheme if place is not None else "tcp",
            doors=frozenset(endpoint.port for endpoint in places),
            loopback_only=config.is_closed,
            limits=config.limits,
            clock=config.clock,
            entropy=config.entropy,
            network=network,
            say=self._log_line,
            warn=self._log_line.warn,
        )

    def tables(self) -> TableSizes:
        """How full the tables are."""
        return TableSizes(
            leads=len(self.leads.targets),
            leads_waiting=self.leads.targets.waiting,
            book=len(self.acquaintances.book),
            tracked_endpoints=len(self.guard),
            banned=self.scores.banned(self._config.clock.monotonic()),
            discovered=len(self.discovery.snapshot()) if self.discovery is not None else 0,
            registered=len(self.bootstrap.snapshot()) if self.bootstrap is not None else 0,
        )

    def has_met(self, peer_id: PeerId) -> bool:
        """Whether this identity proved itself to us, now or in an earlier run, or is trusted."""
        return peer_id in self.roster.met or self.pins.label_of(peer_id) is not None

    def _is_chosen(self, peer_id: PeerId) -> bool:
        return self._is_named(peer_id) or self.leads.looks_for(peer_id)

    def _is_named(self, peer_id: PeerId) -> bool:
        """Whether the operator named this peer."""
        if self._trusted is not None or self.pins.is_strong(peer_id):
            return True
        # Mostly none is, and an identity as text has to be made.
        return bool(self._chosen) and str(peer_id) in self._chosen

    def _is_welcome(self, peer_id: PeerId) -> bool:
        return self._trusted is None or peer_id in self._trusted.values()

    def _may_be_met(self, peer_id: PeerId) -> bool:
        return self._is_welcome(peer_id) and not self.scores.is_banned(peer_id, self._config.clock.monotonic())

    def _has_room(self, under_way: int = 0) -> bool:
        # Configured peers that are away find a place when they come back; a quarter of all, or leads would never help a
        # node whose peers moved elsewhere for good.
        away = min(self.dialer.looking, self._config.limits.max_peers // 4)
        return self.places.free(chosen=True) > under_way + away


def _rule_without_answer(config: NodeConfig) -> DialRule:
    """Where a name that a registry gave may lead while none has answered."""
    if config.bootstrap is None:
        return DialRule(private=False, loopback=False)
    from p2p.node.bootstrap import rule_without_answer

    return rule_without_answer(config.bootstrap)


def _capabilities(config: NodeConfig) -> tuple[tuple[str, str], ...]:
    offered = [("bundle", "1"), ("cipher", "aes256gcm,chacha20poly1305")]
    offered.append((circuits.CAPABILITY, circuits.HOP if config.relay else circuits.END))
    if config.is_attached:
        offered.append((paths.CAPABILITY, "1"))
    if config.is_ephemeral:
        offered.append(("ephemeral", "1"))
    return tuple(offered)
