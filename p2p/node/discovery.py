"""Discovery by datagrams: says where this node is, hears where others say they are, and tells of them.

Responsible for the pace of announcements and for one socket task; it refuses to know what anybody does with a hint. It
never answers a datagram: whatever a stranger sends, not one byte comes back (T45). What it believes is decided by
`announce` (is it well formed, and signed as it says) and `policy.sightings` (is there room, is it time).

How it moves: the speaker spreads one announcement at once and then one per interval, with jitter, over the interfaces
that are there at that moment; the ear reads at a bounded pace, so that a flood is dropped by the kernel and not by us.
Trouble with an interface is counted and met again at the next interval; it never ends either.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final, TypeAlias

import msgspec
import trio

from p2p.crypto.identity import Identity
from p2p.errors import AddressInUse, ConfigError, NodeClosed
from p2p.ids import PeerId, check_node_id
from p2p.limits import Limits
from p2p.node.announce import SIGNATURE_MARK, Flaw, read_announcement, write_announcement
from p2p.node.interrupts import uninterrupted
from p2p.node.kinds import Kinds, check_kinds, check_plain
from p2p.node.lines import tell_of_hook
from p2p.node.service import Runs
from p2p.policy.addresses import AddressClass, DialRule, classify
from p2p.policy.buckets import TokenBucket
from p2p.policy.hints import DiscoveryAnnouncement
from p2p.policy.sightings import Sightings
from p2p.transport.base import Datagrams, Neighbourhood, Network
from p2p.transport.system import SystemNetwork
from p2p.values import frozen
from p2p.windows import Clock, Entropy, SystemClock, system_entropy, uniform

_log = logging.getLogger("p2p.discovery")

Offer: TypeAlias = Callable[[DiscoveryAnnouncement, bool], bool]
"""Takes a hint, and whether its place has been announced for a while; never waits. False asks for the next word."""

NEAR: Final = DialRule(link_local=True)
"""Where a datagram may come from. A hint leads there, and a source can be made up (T49)."""
OWN_NONCES: Final = 16
"""An unsigned node knows its own datagrams by these; none takes so long around."""
JITTER: Final = 0.1
"""Of the interval, so that nodes which were switched on together do not go on speaking together."""


class DiscoveryMode(Enum):
    """How a datagram gets to everybody on IPv4; on IPv6 it is multicast in any case."""

    BROADCAST = "broadcast"
    MULTICAST = "multicast"


@frozen
class DiscoveryConfig:
    """How to discover and be discovered.

    Args:
        self_node_id: the label to announce. Inside a node it is the node's.
        self_tcp_port: where it listens; 0 to hear and not to announce. Inside a node it is the node's.
        discovery_port: UDP port, the same in every node; programs on one machine share it.
        mode: broadcast, or multicast to `multicast_group`.
        announce_interval_ms: between two announcements, 100 at least.
        seen_ttl_ms: how long a node counts after it was heard.
        connect_cooldown_ms: how long `on_peer` is not called again for a node.
        multicast_group: an IPv4 group, the same in every node.
        require_signed: drop announcements that no identity signed; Vix's are such.
        loopback_only: this machine only. A node that nothing protects sets it for itself.
        interfaces: names or addresses of the interfaces to speak and to hear on; empty for all that are up. One named
            by an address speaks from that address alone. One that is not there is told once, and used as soon as it
            comes.

    Raises:
        ConfigError: a value is not usable.
    """

    self_node_id: str = ""
    self_tcp_port: int = 0
    discovery_port: int = 37020
    mode: DiscoveryMode = DiscoveryMode.BROADCAST
    announce_interval_ms: int = 2000
    seen_ttl_ms: int = 15_000
    connect_cooldown_ms: int = 8000
    multicast_group: str = "239.255.0.1"
    require_signed: bool = False
    loopback_only: bool = False
    interfaces: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_kinds(self, _KINDS)
        if self.self_node_id:
            check_node_id(self.self_node_id)
        if not 0 <= self.self_tcp_port <= 65535:
            raise ConfigError(f"self_tcp_port {self.self_tcp_port} is not within 0-65535")
        if not 1 <= self.discovery_port <= 65535:
            raise ConfigError(f"discovery_port {self.discovery_port} is not within 1-65535")
        if self.announce_interval_ms < 100:
            raise ConfigError(f"announce_interval_ms {self.announce_interval_ms} is under 100: it would be a flood")
        if self.seen_ttl_ms <= self.announce_interval_ms:
            raise ConfigError(
                f"seen_ttl_ms {self.seen_ttl_ms} must be above announce_interval_ms {self.announce_interval_ms}:"
                " else nodes would expire between two announcements"
            )
        if self.connect_cooldown_ms < 0:
            raise ConfigError(f"connect_cooldown_ms {self.connect_cooldown_ms} must not be negative")
        if classify(self.multicast_group) is not AddressClass.MULTICAST or ":" in self.multicast_group:
            raise ConfigError(
                f"multicast_group {self.multicast_group!r} is no IPv4 group: those are 224.0.0.0 to 239.255.255.255"
            )
        try:
            object.__setattr__(self, "mode", DiscoveryMode(self.mode))
        except ValueError:
            raise ConfigError(f"mode {self.mode!r}: it is broadcast or multicast") from None
        if not all(isinstance(name, str) for name in self.interfaces):
            raise ConfigError(f"interfaces {self.interfaces!r} must be names or addresses as text, such as ['eth0']")
        object.__setattr__(self, "interfaces", tuple(self.interfaces))

    @property
    def neighbourhood(self) -> Neighbourhood:
        """Whom the datagrams are for."""
        return Neighbourhood(
            port=self.discovery_port,
            group=self.multicast_group if self.mode is DiscoveryMode.MULTICAST else None,
            loopback_only=self.loopback_only,
            interfaces=self.interfaces,
        )


_KINDS: Final[Kinds] = (
    ("self_node_id multicast_group", (str,), "text"),
    ("self_tcp_port discovery_port", (int,), "a port, a whole number"),
    ("announce_interval_ms seen_ttl_ms connect_cooldown_ms", (int,), "a whole number of milliseconds"),
    ("require_signed loopback_only", (bool,), "True or False"),
    ("interfaces", (tuple, list, set, frozenset), "a list of names or addresses, such as ['eth0']"),
)


class DiscoveryCounters(msgspec.Struct):
    """What happened since the start.

    Attributes:
        announced: announcements that went out over one interface at least.
        sent: datagrams, over all interfaces.
        send_failures: interfaces that did not take one, or by which none can be heard.
        heard: datagrams read.
        own: of these, this node's.
        too_fast: dropped unread, for their source or all of them sent too many.
        flaws: dropped for what they were.
        crowded: believed, and no room for one more of that source.
        told: times that somebody was told of a node.
        hook_failures: exceptions of `on_peer`.
    """

    announced: int = 0
    sent: int = 0
    send_failures: int = 0
    heard: int = 0
    own: int = 0
    too_fast: int = 0
    crowded: int = 0
    told: int = 0
    hook_failures: int = 0
    flaws: dict[Flaw, int] = msgspec.field(default_factory=lambda: dict.fromkeys(Flaw, 0))

    @property
    def not_believed(self) -> int:
        """Datagrams dropped for what they were: forged, malformed, unsigned where a signature is asked for."""
        return sum(self.flaws.values())


@uninterrupted
class UdpDiscovery(Runs):
    """Announces one node, and knows who was announced lately. It runs once.

        async with p2p.make_udp_discovery(config, on_peer) as discovery:
            ...
            print(discovery.snapshot())

    Attributes:
        counters: what happened so far.
        trouble: why the last announcement did not get out over some interface; empty if it did.
    """

    def __init__(
        self,
        config: DiscoveryConfig,
        offer: Offer,
        *,
        identity: Identity | None = None,
        network: Network | None = None,
        clock: Clock | None = None,
        entropy: Entropy = system_entropy,
        limits: Limits | None = None,
        is_known: Callable[[PeerId], bool] = lambda _: False,
        say: Callable[[str], None] = _log.warning,
    ) -> None:
        if config.self_tcp_port:
            check_node_id(config.self_node_id)
        self.config = config
        self.counters = DiscoveryCounters()
        self.trouble: tuple[str, ...] = ()
        self._offer = offer
        self._identity = identity
        self._limits = limits or Limits()
        self._network = network or SystemNetwork(self._limits, entropy)
        self._clock = clock or SystemClock()
        self._entropy = entropy
        self._is_known = is_known
        self._say = say
        self._nonces: deque[int] = deque(maxlen=OWN_NONCES)
        self._sightings = Sightings(
            self._limits, ttl_s=config.seen_ttl_ms / 1000, cooldown_s=config.connect_cooldown_ms / 1000
        )
        self._stop = trio.Event()
        self._ran = False

    # Running.

    async def run(self, *, task_status: trio.TaskStatus[UdpDiscovery] = trio.TASK_STATUS_IGNORED) -> None:
        """Discover until `stop` or cancellation; `started()` once the port is open.

        Raises:
            AddressInUse, ConfigError: the port cannot be had; it has not run, and may later.
            NodeClosed: it ran before.
        """
        if self._ran:
            raise NodeClosed("this discovery ran before: it runs once, make a new one")
        self._ran = True
        try:
            datagrams = await self._network.datagrams(self.config.neighbourhood)
        except (AddressInUse, ConfigError):
            self._ran = False
            raise
        try:
            for line in datagrams.missing():
                self._say(f"discovery: {line}")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, datagrams)
                if self.config.self_tcp_port:
                    nursery.start_soon(self._speak, datagrams)
                task_status.started(self)
                await self._stop.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._stop.set()
            with trio.CancelScope(shield=True):  # it waits for nothing
                await datagrams.aclose()

    def stop(self) -> None:
        """Ask it to stop; returns at once. Idempotent."""
        self._stop.set()

    def snapshot(self) -> tuple[DiscoveryAnnouncement, ...]:
        """Where nodes are said to be now: what was heard in the last `seen_ttl_ms`."""
        return self._sightings.snapshot(self._clock.monotonic())

    # Speaking.

    async def _speak(self, datagrams: Datagrams) -> None:
        interval_s = self.config.announce_interval_ms / 1000
        while True:
            self._announce(datagrams)
            await trio.sleep(interval_s * (1 - JITTER + 2 * JITTER * uniform(self._entropy)))

    def _announce(self, datagrams: Datagrams) -> None:
        config, counters = self.config, self.counters
        nonce = int.from_bytes(self._entropy(8), "little")
        self._nonces.append(nonce)
        now_ms = max(0, self._clock.wall_ms())
        data = write_announcement(config.self_node_id, config.self_tcp_port, now_ms, nonce, self._identity)
        spread = datagrams.spread(data)
        counters.announced += bool(spread.sent)
        counters.sent += spread.sent
        counters.send_failures += len(spread.failures)
        for line in spread.failures:
            if line not in self.trouble:
                _log.info("%s: discovery has trouble with %s", config.self_node_id, line)
        self.trouble = spread.failures

    # Hearing.

    async def _listen(self, datagrams: Datagrams) -> None:
        pace = TokenBucket(self._limits.announce_reads_per_s, self._limits.announce_reads_burst)
        while True:
            data, source = await datagrams.receive()
            self.counters.heard += 1
            self._hear(data, source.host, source.scheme)
            now = self._clock.monotonic()
            if not pace.take(now):
                # A rest long enough to be worth it: it ends with a quarter of a second's reading at hand.
                await trio.sleep_until(pace.ready_at(now, self._limits.announce_reads_burst))

    def _hear(self, data: bytes, host: str, scheme: str) -> None:
        counters, now = self.counters, self._clock.monotonic()
        if not self._sightings.admits(host, now, signed=SIGNATURE_MARK in data):
            counters.too_fast += 1
            return
        if not _may_be_near(host):
            counters.flaws[Flaw.NO_PLACE] += 1
            return
        said = read_announcement(data, require_signed=self.config.require_signed)
        if isinstance(said, Flaw):
            counters.flaws[said] += 1
            return
        if said.nonce in self._nonces or (self._identity is not None and said.peer_id == self._identity.peer_id):
            counters.own += 1
            return
        hint = DiscoveryAnnouncement(said.node_id, host, said.tcp_port, said.peer_id, scheme)
        is_known = said.peer_id is not None and self._is_known(said.peer_id)
        is_due = self._sightings.note(hint, now, said.ts_ms, is_known=is_known)
        if is_due is None:
            counters.crowded += 1
        elif is_due:
            counters.told += 1
            self._tell(hint, again=self._sightings.is_heard_again(hint, now))

    def _tell(self, hint: DiscoveryAnnouncement, *, again: bool) -> None:
        try:
            if not self._offer(hint, again):
                self._sightings.take_back(hint)
        except Exception as error:  # noqa: BLE001  # a hook is somebody else's code: it may not end discovery
            self.counters.hook_failures += 1
            tell_of_hook(_log, "on_peer", self.counters.hook_failures, error)


def _may_be_near(host: str) -> bool:
    # No socket gives a name: the hosts of a network in memory have them.
    return classify(host) is AddressClass.NAME or NEAR.allows(host, 0)


def make_udp_discovery(
    config: DiscoveryConfig,
    on_peer: Callable[[DiscoveryAnnouncement], object] | None = None,
    *,
    identity: Identity | None = None,
    network: Network | None = None,
    clock: Clock | None = None,
    entropy: Entropy = system_entropy,
) -> UdpDiscovery:
    """Make a discovery without a node around it: `async with p2p.make_udp_discovery(config, print) as discovery: …`.

    A node has its own, see `NodeConfig.discovery`.

    Args:
        config: whom to announce and where; `self_node_id` and `self_tcp_port` among it.
        on_peer: called with each node that is heard, again after `connect_cooldown_ms` while it is there. It must not
            wait, and what it raises is counted and logged.
        identity: signs the announcements; None sends unsigned ones, as Vix does.
        network, clock, entropy: the windows to the world.

    Raises:
        ConfigError: `self_tcp_port` is given and `self_node_id` is no node id, or `on_peer` is an async function.
    """

    if on_peer is not None:
        check_plain(on_peer, "on_peer")

    def offer(hint: DiscoveryAnnouncement, _again: bool) -> bool:
        if on_peer is not None:
            on_peer(hint)
        return True

    return UdpDiscovery(config, offer, identity=identity, network=network, clock=clock, entropy=entropy)
