"""Bootstrap: ask a registry in the web who is there, and leave word of oneself (wire section 10).

Responsible for asking at its pace, for never being worth attacking, and for handing out hints that may be dialled. It
refuses to know what becomes of a hint (`node.leads`) and how HTTP is spoken (`transport.http`).

A registry is a stranger: it may be down, slow, or somebody else's by now. So nothing it does ends this task or a link,
and what it names is judged before anybody dials it (T49). A name is resolved once and the hint holds the address that
was judged, so that no second look-up leads elsewhere. Public addresses are let through; private ones if the registry
is in a private network itself or the configuration says so; loopback only if the registry is on this machine too;
link-local, multicast, unspecified and reserved ones never. WebSocket shows proxies and certificates the name that it
dials, so such a hint keeps the name beside the addresses, and of one address only so many names are taken.

    asking    every poll_interval, with jitter; after failures twice as long each time, up to registry_backoff_s_max
    announce  the same, but at least three times within the registry's ttl, if that is 6 s or more, after failures
              too: one that came back with an empty table learns of us anew
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import field, replace
from enum import Enum
from pathlib import Path
from typing import Final, Literal

import msgspec
import trio

from p2p.crypto.announce import sign_announcement
from p2p.crypto.identity import Identity
from p2p.errors import ConfigError, ConnectFailed, NodeClosed, RemoteProtocolError
from p2p.ids import PeerEndpoint, check_node_id, is_loopback, usual_host
from p2p.limits import Limits
from p2p.msg import DiscoveryAnnounce
from p2p.node.interrupts import uninterrupted
from p2p.node.kinds import Kinds, check_kinds, check_plain
from p2p.node.lines import tell_of_hook
from p2p.node.service import Runs
from p2p.policy.addresses import AddressClass, DialRule, classify
from p2p.policy.buckets import TokenBucket
from p2p.policy.hints import DiscoveryAnnouncement
from p2p.registry.form import SCHEMES, base_of, host_of, read_announced, read_peers, write_announce
from p2p.transport.base import Network
from p2p.transport.http import HttpAnswer, HttpClient, make_http_client
from p2p.transport.interfaces import own_hosts
from p2p.transport.tcp import TcpNetwork
from p2p.values import frozen
from p2p.windows import Clock, Entropy, SystemClock, system_entropy, uniform

_log = logging.getLogger("p2p.bootstrap")

JITTER: Final = 0.25
"""The part of a wait that chance may take away: nodes that started together do not stay together."""
ANNOUNCES_PER_TTL: Final = 3
"""So that one that is lost, and one that is late, still leave us listed."""
ANNOUNCE_S_MIN: Final = 2.0
"""However soon the registry says that it forgets: ours does after `ANNOUNCES_PER_TTL` times as long at the earliest."""
TTL_S_ASSUMED: Final = 60.0
"""Of a registry that has not taken an announcement yet: what it is unless somebody chose."""
POLLS_REMEMBERED: Final = 3
"""What a registry does not name any more for so many intervals leaves the snapshot."""
POLL_MS_MIN: Final = 100

Offer = Callable[[DiscoveryAnnouncement, str], object]
"""Takes a hint and the host of the registry it came from; never waits."""


class BootstrapMode(Enum):
    """What a node does at a registry."""

    PULL_ONLY = "pull_only"
    PULL_AND_ANNOUNCE = "pull_and_announce"


@frozen
class BootstrapConfig:
    """How to use a registry.

    Args:
        self_node_id, self_tcp_port: what to announce, and what in the answers is ourselves. Within a node they are the
            node's unless given; give the port where another one leads to it from outside.
        registry_url: `http://HOST:PORT` or `https://HOST`, with or without a trailing `/peers`.
        mode: pull only, or announce this node too.
        poll_interval_ms: milliseconds between two questions, 100 or more.
        max_peers_per_poll: 1-100.
        token: what the registry asks for, if it does.
        allow_private: whether addresses of private networks may be dialled; None says yes to a registry that is in
            one itself.
        own_ports: ports that no hint may aim us at on this machine or a local network: the doors that only the
            operator uses.
        self_scheme: what listens on that port from outside: "tcp", "ws" or "wss"; None for what the node listens with.
            Others dial the address that the registry sees, so `wss` needs a certificate for that.
        ca_file: PEM of the authorities to trust for https, instead of the system's.
        http: another HTTP client, for tests.

    Raises:
        ConfigError: a value is not usable.
    """

    self_node_id: str | None = None
    self_tcp_port: int | None = None
    registry_url: str = ""
    mode: BootstrapMode = BootstrapMode.PULL_ONLY
    poll_interval_ms: int = 15_000
    max_peers_per_poll: int = 100
    token: str | None = field(default=None, repr=False)
    allow_private: bool | None = None
    own_ports: tuple[int, ...] = ()
    ca_file: Path | None = None
    http: HttpClient | None = field(default=None, repr=False)
    self_scheme: str | None = None

    def __post_init__(self) -> None:
        check_kinds(self, _KINDS)
        if self.ca_file is not None:
            object.__setattr__(self, "ca_file", Path(self.ca_file))
        object.__setattr__(self, "own_ports", tuple(self.own_ports))
        if not all(type(port) is int and 1 <= port <= 65_535 for port in self.own_ports):
            raise ConfigError(f"own_ports {self.own_ports!r} must be ports, whole numbers from 1 to 65535")
        if not self.registry_url:
            raise ConfigError("registry_url is missing: http://HOST:PORT or https://HOST")
        base_of(self.registry_url)
        try:
            object.__setattr__(self, "mode", BootstrapMode(self.mode))
        except ValueError:
            modes = ", ".join(mode.value for mode in BootstrapMode)
            raise ConfigError(f"mode is one of {modes}, not {self.mode!r}") from None
        if self.self_node_id is not None:
            check_node_id(self.self_node_id)
        if self.self_tcp_port is not None and not 1 <= self.self_tcp_port <= 65_535:
            raise ConfigError(f"self_tcp_port {self.self_tcp_port} is not within 1-65535")
        if self.self_scheme is not None and self.self_scheme not in SCHEMES:
            raise ConfigError(f"self_scheme is one of {', '.join(SCHEMES)}, not {self.self_scheme!r}")
        if self.poll_interval_ms < POLL_MS_MIN:
            raise ConfigError(f"poll_interval_ms must be {POLL_MS_MIN} or more, not {self.poll_interval_ms}")
        if not 1 <= self.max_peers_per_poll <= Limits().registry_peers_max:
            raise ConfigError(f"max_peers_per_poll is 1-{Limits().registry_peers_max}, not {self.max_peers_per_poll}")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise ConfigError("a token is printable ASCII")


_NONE: Final = type(None)
_KINDS: Final[Kinds] = (
    ("registry_url", (str,), "text"),
    ("self_node_id self_scheme token", (str, _NONE), "text, or None"),
    ("self_tcp_port", (int, _NONE), "a port, a whole number, or None"),
    ("poll_interval_ms", (int,), "a whole number of milliseconds"),
    ("max_peers_per_poll", (int,), "a whole number"),
    ("allow_private", (bool, _NONE), "True, False, or None"),
    ("own_ports", (tuple, list, set, frozenset), "a list of ports"),
    ("ca_file", (str, Path, _NONE), "a path, as pathlib.Path or text, or None"),
)


def rule_without_answer(config: BootstrapConfig) -> DialRule:
    """Where a name that a registry gave may lead while the registry has not answered yet; see `HttpBootstrap`."""
    registry = host_of(base_of(config.registry_url))
    kind = AddressClass.LOOPBACK if is_loopback(registry) else classify(registry)
    private = config.allow_private
    if private is None:
        private = kind in (AddressClass.PRIVATE, AddressClass.LOOPBACK)
    return DialRule(private, kind is AddressClass.LOOPBACK, frozenset(config.own_ports))


class BootstrapCounters(msgspec.Struct):
    """What came of it so far."""

    polls: int = 0
    announces: int = 0
    failures: int = 0
    """Polls and announcements that failed."""
    hints: int = 0
    """Peers that were handed on."""
    hints_refused: int = 0
    """Peers that were listed with something that cannot be, or where nobody may be dialled."""
    hook_failures: int = 0


@uninterrupted
class HttpBootstrap(Runs):
    """One registry, asked for ever: a task of the node, or of its own `async with`.

    Args:
        config: how.
        offer: takes each hint.
        identity: signs announcements; None leaves them unsigned.
        scheme: what listens on the announced port: "tcp", "ws" or "wss".
        doors: ports that this node listens on, announced or not: no hint may lead back to them.
        loopback_only: hand on nodes on this machine only.
        limits: the `registry_…` bounds.
        clock, entropy, network: the windows; of the network only `resolve` is used.
        say, warn: take a line that is good to know, and one that somebody may have to mend.

    Raises:
        ConfigError: it shall announce and has no node id or port to announce, or httpx is missing.
    """

    def __init__(
        self,
        config: BootstrapConfig,
        offer: Offer,
        *,
        identity: Identity | None = None,
        scheme: str = "tcp",
        doors: frozenset[int] = frozenset(),
        loopback_only: bool = False,
        limits: Limits | None = None,
        clock: Clock | None = None,
        entropy: Entropy = system_entropy,
        network: Network | None = None,
        say: Callable[[str], None] = _log.info,
        warn: Callable[[str], None] = _log.warning,
    ) -> None:
        self.config = config
        self.counters = BootstrapCounters()
        self._offer = offer
        self._identity = identity
        self._scheme = config.self_scheme or scheme
        self._doors = doors
        self._loopback_only = loopback_only
        self._limits = limits or Limits()
        self._clock = clock or SystemClock()
        self._entropy = entropy
        self._network = network or TcpNetwork(self._limits)
        self._say = say
        self._warn = warn
        self._failing: dict[str, str] = {}
        self._outages = TokenBucket(self._limits.registry_outages_per_s, self._limits.registry_outages_burst)
        self._is_outage_told = False
        self._ttl_s = TTL_S_ASSUMED
        self._base = base_of(config.registry_url)
        self._announces = config.mode is BootstrapMode.PULL_AND_ANNOUNCE
        if self._announces and (config.self_node_id is None or config.self_tcp_port is None):
            raise ConfigError("announcing needs self_node_id and self_tcp_port: who listens, and where")
        self._http = config.http or make_http_client(token=config.token, ca_file=config.ca_file, limits=self._limits)
        self._known: dict[tuple[str, str, int], tuple[DiscoveryAnnouncement, float]] = {}
        self._scope = trio.CancelScope()
        self._ran = False

    # Running.

    async def run(self, *, task_status: trio.TaskStatus[HttpBootstrap] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask and announce until `stop` or cancellation. Whatever the registry does, this goes on.

        Raises:
            ConfigError: `ca_file` cannot be used; before `started()`.
            NodeClosed: it ran before.
        """
        if self._ran:
            raise NodeClosed("this bootstrap ran before: it runs once, make a new one")
        self._ran = True
        if self.config.token is not None and self._base.startswith("http:") and not is_loopback(host_of(self._base)):
            self._warn(f"the token for {self._base} travels in clear: use https")
        with self._scope:
            async with self._http, trio.open_nursery() as nursery:
                task_status.started(self)
                nursery.start_soon(self._repeat, "asking", self._pull, self._ask_s_max)
                if self._announces:
                    nursery.start_soon(self._repeat, "announcing at", self._announce, self._announce_s_max)

    def stop(self) -> None:
        """End `run`; returns at once. Idempotent. The registry forgets this node by itself."""
        self._scope.cancel()

    def snapshot(self) -> tuple[DiscoveryAnnouncement, ...]:
        """The peers that the registry named lately, judged; the oldest first."""
        self._forget()
        return tuple(announcement for announcement, _ in self._known.values())

    async def _repeat(self, what: str, once: Callable[[], Awaitable[float]], wait_s_max: Callable[[], float]) -> None:
        """Do one thing for ever, at the interval that it returns, and less often while it fails."""
        failures = 0
        while True:
            try:
                wait_s = await once()
            except (ConnectFailed, RemoteProtocolError) as error:
                self.counters.failures += 1
                wait_s = min(self._poll_s * 2.0 ** min(failures, 32), wait_s_max())
                failures += 1
                self._tell_failure(what, str(error))
            else:
                failures = 0
                self._tell_success(what)
            await trio.sleep(wait_s * (1 - JITTER * uniform(self._entropy)))

    def _tell_failure(self, what: str, why: str) -> None:
        """Once for an outage, and once more where what is asked for and what is announced fail in different ways; of
        a registry that comes and goes, some."""
        is_news = what not in self._failing and why not in self._failing.values()
        if is_news and self._outages.take(self._clock.monotonic()):
            self._is_outage_told = True
            self._warn(f"{what} the registry {self._base} failed, it is tried again: {why}")
        self._failing.setdefault(what, why)

    def _tell_success(self, what: str) -> None:
        if self._failing.pop(what, None) is not None and not self._failing and self._is_outage_told:
            self._is_outage_told = False
            self._say(f"the registry {self._base} works again")

    @property
    def _poll_s(self) -> float:
        return self.config.poll_interval_ms / 1000

    def _ask_s_max(self) -> float:
        return max(self._poll_s, self._limits.registry_backoff_s_max)

    def _announce_s_max(self) -> float:
        """A table that was lost in the outage fills within the ttl after it; nobody could find us before."""
        return min(self._ask_s_max(), max(ANNOUNCE_S_MIN, self._ttl_s / ANNOUNCES_PER_TTL))

    # One round.

    async def _announce(self) -> float:
        node_id, port = self.config.self_node_id, self.config.self_tcp_port
        assert node_id is not None
        assert port is not None
        announce = DiscoveryAnnounce(
            node_id,
            port,
            max(0, self._clock.wall_ms()),
            int.from_bytes(self._entropy(8), "little"),
            (("proto", "1.0"), ("transport", self._scheme)),
        )
        if self._identity is not None:
            announce = sign_announcement(announce, self._identity)
        self._ttl_s = read_announced((await self._request("POST", "/announce", write_announce(announce))).body)
        self.counters.announces += 1
        return min(self._poll_s, self._announce_s_max())

    async def _pull(self) -> float:
        answer = await self._request("GET", f"/peers?limit={self.config.max_peers_per_poll}")
        listed = read_peers(answer.body, self.config.max_peers_per_poll)
        self.counters.polls += 1
        # A machine behind address translation has one that no interface of it has.
        here = own_hosts() | {usual_host(answer.client)}
        with trio.move_on_after(self._limits.registry_s_max):
            for peer in listed:
                hint = peer.as_hint() if peer is not None else None
                if hint is None:
                    self.counters.hints_refused += 1
                elif not self._is_ourselves(hint):
                    for pinned in await self._judged(hint, answer, here):
                        self._hand_on(pinned)
        return self._poll_s

    async def _request(self, method: Literal["GET", "POST"], path: str, body: bytes | None = None) -> HttpAnswer:
        answer = await self._http.request(method, self._base + path, body)
        if answer.status in (401, 403):
            raise RemoteProtocolError(f"it answers {answer.status}: it wants a token, or another one")
        if answer.status == 421:
            mend = "on its own machine ask it by localhost, an address or the host's name"
            raise RemoteProtocolError(f"it answers 421: it does not go by that name; {mend}")
        if not 200 <= answer.status < 300:
            raise RemoteProtocolError(f"it answers {answer.status}")
        return answer

    def _is_ourselves(self, hint: DiscoveryAnnouncement) -> bool:
        if hint.peer_id is None or self._identity is None:
            return hint.node_id == self.config.self_node_id
        return hint.peer_id == self._identity.peer_id

    async def _judged(
        self, hint: DiscoveryAnnouncement, answer: HttpAnswer, here: frozenset[str | None]
    ) -> list[DiscoveryAnnouncement]:
        """The hint with addresses that may be dialled in place of a name, or beside one: at most one of each family."""
        is_name = classify(hint.host) is AddressClass.NAME
        if is_name:
            try:
                found = await self._network.resolve(PeerEndpoint(hint.host, hint.port))
            except ConnectFailed:
                found = ()
            hosts = [endpoint.host for endpoint in found]
        else:
            hosts = [hint.host]
        fit = [host for host in hosts if self._may_be_dialled(host, hint.port, answer, here)]
        first_of_family = {":" in host: host for host in reversed(fit)}
        pinned = tuple(host for host in dict.fromkeys(fit) if host in first_of_family.values())
        keeps_name = is_name and hint.scheme in ("ws", "wss")
        if not pinned or (keeps_name and self._is_crowded(hint, pinned)):
            self.counters.hints_refused += 1
            return []
        if keeps_name:
            return [replace(hint, judged=pinned)]
        return [replace(hint, host=host) for host in pinned]

    def _is_crowded(self, hint: DiscoveryAnnouncement, pinned: tuple[str, ...]) -> bool:
        """Whether so many names lead to one of the addresses already: a registry could invent any number."""
        self._forget()
        others = [
            other
            for other, _ in self._known.values()
            if other.host != hint.host and other.port == hint.port and not set(pinned).isdisjoint(other.judged)
        ]
        return len(others) >= self._limits.registry_names_per_address_max

    def _may_be_dialled(self, host: str, port: int, answer: HttpAnswer, here: frozenset[str | None]) -> bool:
        kind, registry = classify(host), classify(answer.server)
        if self._loopback_only and kind is not AddressClass.LOOPBACK:
            return False
        private = self.config.allow_private
        if private is None:
            private = registry in (AddressClass.PRIVATE, AddressClass.LOOPBACK)
        own_ports = frozenset(self.config.own_ports)
        if not DialRule(private, registry is AddressClass.LOOPBACK, own_ports).allows(host, port):
            return False
        is_here = kind is AddressClass.LOOPBACK or host in here
        return not (is_here and (port == self.config.self_tcp_port or port in own_ports | self._doors))

    def _hand_on(self, hint: DiscoveryAnnouncement) -> None:
        place = (hint.scheme, hint.host, hint.port)
        self._known.pop(place, None)
        self._known[place] = (hint, self._clock.monotonic())
        if len(self._known) > self._limits.registry_known_max:
            del self._known[next(iter(self._known))]
        self.counters.hints += 1
        try:
            self._offer(hint, host_of(self._base))
        except Exception as error:  # noqa: BLE001  # a hook is somebody else's code: it may not end the task
            self.counters.hook_failures += 1
            tell_of_hook(_log, "on_peer", self.counters.hook_failures, error)

    def _forget(self) -> None:
        heard_after = self._clock.monotonic() - POLLS_REMEMBERED * self._poll_s
        for place, (_, heard) in [*self._known.items()]:
            if heard < heard_after:
                del self._known[place]


def make_http_bootstrap(
    config: BootstrapConfig,
    on_peer: Callable[[DiscoveryAnnouncement], None],
    *,
    identity: Identity | None = None,
) -> HttpBootstrap:
    """Make a bootstrap for use without a node: `async with p2p.make_http_bootstrap(config, on_peer) as bootstrap: …`.

    Args:
        config: which registry, and how.
        on_peer: called with each peer of each answer that may be dialled, this node itself left out; what it raises is
            logged and counted.
        identity: signs the announcements.

    Raises:
        ConfigError: it shall announce and does not know whom, `on_peer` is an async function, or httpx is missing.
    """
    check_plain(on_peer, "on_peer")
    return HttpBootstrap(config, lambda announcement, _came_from: on_peer(announcement), identity=identity)
