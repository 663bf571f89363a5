"""How a node is set up: one frozen value, checked when it is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from p2p.crypto.identity import Identity
from p2p.errors import ConfigError
from p2p.ids import RELAY, PeerEndpoint, PeerId, check_node_id, is_loopback, usual_host
from p2p.limits import USUAL, Limits
from p2p.node.kinds import Kinds, check_kind, check_kinds, check_limits, utf8_of
from p2p.policy.addresses import AddressClass, classify
from p2p.policy.admission import ConnectionSlots
from p2p.transport.system import SystemNetwork
from p2p.transport.tls import TlsFiles
from p2p.values import frozen
from p2p.windows import Blocking, Clock, Entropy, InlineBlocking, SystemBlocking, SystemClock, system_entropy

if TYPE_CHECKING:
    # Imported where it is used: what no node needs by itself takes 8 ms to import.
    from p2p.node.bootstrap import BootstrapConfig
    from p2p.node.discovery import DiscoveryConfig
    from p2p.node.options import NodeOptions
    from p2p.store.base import Store
    from p2p.transport.base import Network

LogHook = Callable[[str], None]
OpenStore = Callable[[LogHook], "tuple[Store, Identity]"]
"""Opens a node's store and says whose it is; the hook takes a line for the log. Blocking."""

WAYS_OUT = "give it a network key, a trust list, or open=True (--network-key-file, --trust, --open)"


@frozen
class NodeConfig:
    """Everything a node needs to know before it starts.

    Args:
        node_id: the label that people read, 1-64 of `A-Z a-z 0-9 . _ -`.
        listen_port: TCP port, 0 for any free one, None for no listener.
        listen_host: an IP address to bind; None for loopback, or for all interfaces once `network_key`, `trust` or
            `open` says who may come in.
        data_dir: where identity and log live; None keeps both in memory for this run.
        peers: endpoints (or their text) to keep connected for ever, whether or not they are up yet.
        discovery: how to find nodes near by datagrams, and be found; None leaves it out. The label and the port to
            announce are this node's own, and it reaches no further than the listener does.
        bootstrap: a registry to ask for peers, and to announce this node at.
        listen_ws_port: a second door, for WebSocket: a port, 0 for any free one, None for none. `wss://` if there is a
            certificate.
        tls_cert, tls_key: PEM files of the certificate that the WebSocket door shows, and of its key.
        tls_ca: PEM file of who may have signed the certificates of `wss://` endpoints and, unless its `ca_file` says
            otherwise, of the registry; None for the system's choice.
        dial: False makes no dial but those of `connect`: no configured peer, nobody that a hint names.
        network_key: exactly 32 random bytes that every member has; strangers fail before they are answered. Of a file
            that `p2p id --new-network-key FILE` made they are `bytes.fromhex(Path(FILE).read_text())`.
        network_name: keeps networks apart that share neither key nor purpose.
        trust: the identities that may connect: a mapping of node id to peer id, or the path of a trust file.
        open: accept anybody on all interfaces, knowingly.
        expire_after_s: `wal.follow` does not deliver records for somebody (with a `target`) that are older; None for
            any age. They stay in the log and travel on.
        relay: pass circuits on between peers that cannot reach each other, within the `relay_…` of `Limits`. What runs
            inside is sealed from end to end.
        via: endpoints (or their text) of relays, kept connected like `peers`. Peers that no other route leads to are
            looked for behind them; a peer `relay://*/WHO` is kept connected over whichever of them leads there.
        attach: let the relays that this node is connected to tell their other clients of it, and be told of them. A
            relay takes part in any case, and so does who names relays in `via`.
        max_peers: live peers at the most.
        trusted_proxies: addresses or networks (`10.1.0.0/16`) of proxies that many peers come through: the bounds per
            address do not hold for them. Loopback is exempt anyway.
        handshake_timeout_ms, ping_after_s, dead_after_s: see `Limits`; given here they win.
        limits: all other bounds.
        on_log: called with one line for each notable event; what it raises is counted, and told by `logging`, ever more
            seldom.
        identity: a key to use instead of the one in data_dir.
        store: opens the store instead of data_dir, for stores of one's own. It keeps what a known identity signed.
        clock, entropy, network, blocking: the windows to the world; simulations hand in their own.

    Raises:
        ConfigError: a value is not usable; the text names it and the mend.
    """

    node_id: str
    listen_port: int | None = 0
    listen_host: str | None = None
    data_dir: Path | None = None
    peers: tuple[PeerEndpoint, ...] = ()
    discovery: DiscoveryConfig | None = None
    bootstrap: BootstrapConfig | None = None
    listen_ws_port: int | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    dial: bool = True
    network_key: bytes | None = field(default=None, repr=False)
    network_name: str = ""
    trust: Mapping[str, PeerId] | Path | None = None
    open: bool = False
    expire_after_s: float | None = None
    relay: bool = False
    via: tuple[PeerEndpoint, ...] = ()
    attach: bool = False
    max_peers: int | None = None
    trusted_proxies: tuple[str, ...] = ()
    handshake_timeout_ms: int | None = None
    ping_after_s: float | None = None
    dead_after_s: float | None = None
    limits: Limits = field(default=USUAL, repr=False)
    on_log: LogHook | None = None
    identity: Identity | None = field(default=None, repr=False)
    store: OpenStore | None = field(default=None, repr=False)
    clock: Clock = field(default_factory=SystemClock, repr=False)
    entropy: Entropy = field(default=system_entropy, repr=False)
    network: Network | None = field(default=None, repr=False)
    blocking: Blocking | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._check_kinds()
        check_node_id(self.node_id)
        if self.listen_port is not None and not 0 <= self.listen_port <= 65535:
            raise ConfigError(f"listen_port {self.listen_port} is not within 0-65535")
        if self.listen_ws_port is not None and not 0 <= self.listen_ws_port <= 65535:
            raise ConfigError(f"listen_ws_port {self.listen_ws_port} is not within 0-65535")
        if self.listen_port and self.listen_port == self.listen_ws_port:
            raise ConfigError(
                f"listen_port and listen_ws_port are both {self.listen_port}: TCP and WebSocket need a port each"
            )
        if self.tls_cert is not None and self.listen_ws_port is None:
            raise ConfigError("tls_cert is for the WebSocket door: give listen_ws_port, too")
        if self.tls_key is not None and self.tls_cert is None:
            raise ConfigError("tls_key without tls_cert: a key alone proves nothing")
        if self.expire_after_s is not None and not 0 < self.expire_after_s < math.inf:
            raise ConfigError(f"expire_after_s must be above 0, not {self.expire_after_s}; None keeps all ages")
        if self.network_key is not None and len(self.network_key) != 32:
            raise ConfigError(
                f"network_key has {len(self.network_key)} bytes: it must be 32 random ones; {_KEY_OF_FILE}"
            )
        if self.store is not None and (self.data_dir is not None or self.identity is not None):
            raise ConfigError("store brings its own place and identity: leave data_dir and identity out")
        if self.identity is not None and self.data_dir is None:
            raise ConfigError(
                "identity needs a data_dir: a log in memory is forgotten, and the key would then sign another history"
            )
        utf8_of(self.network_name, "network_name", self.limits.label_bytes_max, bytes_min=0)
        for name in ("data_dir", "trust", "tls_cert", "tls_key", "tls_ca"):
            given: object = getattr(self, name)
            if isinstance(given, str | Path):
                object.__setattr__(self, name, _path(given, name))
        if isinstance(self.trust, Mapping):
            object.__setattr__(self, "trust", _trusted(self.trust))
        object.__setattr__(self, "peers", tuple(_endpoints(self.peers)))
        object.__setattr__(self, "via", tuple(_relays(self.via)))
        proxies: object = self.trusted_proxies
        if isinstance(proxies, str):
            object.__setattr__(self, "trusted_proxies", (proxies,))
        for proxy in self.trusted_proxies:
            check_kind(proxy, (str,), "one of trusted_proxies", "an address or network as text")
        ConnectionSlots[None](self.limits, self.trusted_proxies)  # refuses what is no address and no network
        object.__setattr__(self, "limits", self._effective_limits())

    def _check_kinds(self) -> None:
        check_kinds(self, _KINDS)
        check_limits(self.limits)
        if self.discovery is not None:
            from p2p.node.discovery import DiscoveryConfig

            check_kind(self.discovery, (DiscoveryConfig,), "discovery", "a DiscoveryConfig, or None")
        if self.bootstrap is not None:
            from p2p.node.bootstrap import BootstrapConfig

            check_kind(self.bootstrap, (BootstrapConfig,), "bootstrap", "a BootstrapConfig, or None")
        for name in ("on_log", "store"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise ConfigError(f"{name} is of the kind {type(value).__name__}: it must be a function, or None")

    def _effective_limits(self) -> Limits:
        changes: dict[str, float | int] = {}
        for name in ("max_peers", "handshake_timeout_ms", "ping_after_s", "dead_after_s"):
            value = getattr(self, name)
            if value is None:
                continue
            if not value > 0:
                raise ConfigError(f"{name} must be above 0, not {value}")
            if name == "handshake_timeout_ms":
                changes["handshake_s_max"] = value / 1000
            else:
                changes[name] = value
        limits = dataclasses.replace(self.limits, **changes)  # type: ignore[arg-type]  # names and types match, see above
        if limits.dead_after_s <= limits.ping_after_s:
            raise ConfigError(f"dead_after_s {limits.dead_after_s} must be above ping_after_s {limits.ping_after_s}")
        return limits

    @property
    def is_closed(self) -> bool:
        """Whether nothing says who may come in, so that the node stays on loopback."""
        return self.network_key is None and self.trust is None and not self.open

    @property
    def is_ephemeral(self) -> bool:
        """Whether the identity and the log are forgotten when the node stops."""
        return self.data_dir is None and self.store is None

    @property
    def is_attached(self) -> bool:
        """Whether relays may tell of this node, and tell it of others."""
        return self.attach or self.relay or bool(self.via)

    @property
    def bind_host(self) -> str | None:
        """The address to listen on, None for all interfaces.

        Raises:
            ConfigError: another address than loopback is asked for, and nothing says who may come in.
        """
        if not self.is_closed:
            return self.listen_host
        if self.listen_host is None:
            return "127.0.0.1"
        if not is_loopback(self.listen_host):
            if classify(self.listen_host) is AddressClass.NAME:
                raise ConfigError(f"listen_host {self.listen_host[:80]!r} is no IP address")
            raise ConfigError(f"{self.node_id} would listen on {self.listen_host} for anybody: {WAYS_OUT}")
        return self.listen_host

    def discovery_at(self, port: int) -> DiscoveryConfig | None:
        """What is to be discovered by whom, once the node listens at a TCP port; 0 if it does not.

        It reaches as far as the listener does: loopback, one address, or everything. On loopback it is IPv4 alone, so a
        node that listens at ::1 hears others there, and announces nothing.
        """
        config, host = self.discovery, self.listen_host
        if config is None:
            return None
        interfaces = config.interfaces
        is_here = config.loopback_only or self.is_closed or (host is not None and is_loopback(host))
        is_one = host is not None and classify(host) not in (AddressClass.UNSPECIFIED, AddressClass.NAME)
        if not interfaces and host is not None and is_one:
            interfaces = (host,)
        return dataclasses.replace(
            config,
            self_node_id=self.node_id,
            self_tcp_port=0 if is_here and ":" in (usual_host(host or "") or "") else port,
            loopback_only=is_here,
            interfaces=interfaces,
        )

    def load_trust(self) -> Mapping[str, PeerId] | None:
        """The trust list, read from its file if it is one. Blocking.

        Raises:
            ConfigError: the file cannot be read or has another form.
        """
        if not isinstance(self.trust, Path):
            return self.trust
        from p2p.store.keys import load_trust

        return load_trust(self.trust)

    def check_tls(self) -> None:
        """Read the certificate of the WebSocket door, and what dials to `wss://` are checked with if it is a file: at
        the start, and before a data dir is made. Blocking.

        Raises:
            ConfigError: it cannot be used.
        """
        if self.tls_cert is not None:
            TlsFiles(self.tls_cert, self.tls_key).for_listening()
        if self.tls_ca is not None:
            TlsFiles(ca=self.tls_ca).for_dialling()

    def open_store(self, say: LogHook) -> tuple[Store, Identity]:
        """Open the data dir or the store that was handed in, or else make one in memory. Blocking.

        Raises:
            ConfigError, StoreError: see `p2p.store.keys.open_store`.
        """
        if self.store is not None:
            return self.store(say)
        if self.data_dir is None:
            from p2p.store.memory import open_memory_store

            return open_memory_store(self.entropy)
        from p2p.store.keys import open_store

        return open_store(self.data_dir, entropy=self.entropy, say=say, identity=self.identity, limits=self.limits)

    def windows(self) -> tuple[Network, Blocking]:
        """The network and the worker lanes to use, real ones unless others were handed in.

        A store in memory has nothing to wait for: a thread's round trip would take longer than most of its commits.
        """
        tls = TlsFiles(self.tls_cert, self.tls_key, self.tls_ca)
        network = self.network or SystemNetwork(self.limits, tls=tls)
        in_memory = self.store is None and self.data_dir is None
        default = InlineBlocking() if in_memory else SystemBlocking(self.limits.hung_disk_s_max)
        return network, self.blocking or default


_NONE: Final = type(None)
_KEY_OF_FILE: Final = "those in a file of `p2p id --new-network-key FILE` are bytes.fromhex(Path(FILE).read_text())"
_KINDS: Final[Kinds] = (
    ("node_id network_name", (str,), "text"),
    ("listen_host", (str, _NONE), "an IP address as text, or None"),
    ("listen_port listen_ws_port", (int, _NONE), "a port, a whole number from 0 to 65535, or None"),
    ("data_dir tls_cert tls_key tls_ca", (str, Path, _NONE), "a path, as pathlib.Path or text, or None"),
    ("network_key", (bytes, _NONE), f"32 bytes, or None; {_KEY_OF_FILE}"),
    ("trust", (Mapping, str, Path, _NONE), "a mapping of node ids to peer ids, the path of a trust file, or None"),
    ("peers via", (Iterable,), "a list of endpoints, such as ['10.0.0.2:9001']"),
    ("trusted_proxies", (Iterable,), "a list of addresses or networks, such as ['10.1.0.0/16']"),
    ("limits", (Limits,), "a Limits"),
    ("identity", (Identity, _NONE), "an Identity, or None"),
    ("max_peers handshake_timeout_ms", (int, _NONE), "a whole number, or None"),
    ("expire_after_s ping_after_s dead_after_s", (int, float, _NONE), "a number of seconds, or None"),
    ("dial open relay attach", (bool,), "True or False"),
)


def _path(given: str | Path, name: str) -> Path:
    text = str(given)
    if not text or "\0" in text:
        raise ConfigError(f"{name} {text[:80]!r} is no path")
    return Path(given)


def _trusted(trust: Mapping[str, PeerId | str | bytes]) -> dict[str, PeerId]:
    """Check a trust list given as a mapping; peer ids may be written as text."""
    for node_id, peer_id in trust.items():
        check_kind(node_id, (str,), "a node id of trust", "text")
        check_kind(peer_id, (str, bytes), "a peer id of trust", "a PeerId, or its text")
    return {
        check_node_id(node_id): PeerId.parse(peer_id) if isinstance(peer_id, str) else PeerId(peer_id)
        for node_id, peer_id in trust.items()
    }


def _endpoints(peers: Iterable[PeerEndpoint | str]) -> Iterable[PeerEndpoint]:
    for peer in (peers,) if isinstance(peers, str) else peers:
        endpoint = PeerEndpoint.parse(peer) if isinstance(peer, str) else peer
        if not isinstance(endpoint, PeerEndpoint):
            raise ConfigError(f"a peer is an endpoint, such as '10.0.0.2:9001', and not a {type(peer).__name__}")
        if not endpoint.is_dialable:
            raise ConfigError(f"peer {endpoint}: port 0 cannot be dialled")
        yield endpoint


def _relays(via: Iterable[PeerEndpoint | str]) -> Iterable[PeerEndpoint]:
    for endpoint in _endpoints(via):
        if endpoint.scheme == RELAY:
            raise ConfigError(f"via {endpoint}: name where the relay itself listens, such as 'tcp://HOST:PORT'")
        yield endpoint


def config_of(options: NodeOptions) -> NodeConfig:
    """Make a config of keyword arguments.

    Raises:
        ConfigError: a name is not a field, node_id is missing, or a value is not usable.
    """
    names = {item.name for item in dataclasses.fields(NodeConfig)}
    unknown = sorted(set(options) - names)
    if unknown:
        raise ConfigError(f"NodeConfig has no field {', '.join(unknown)}; it has {', '.join(sorted(names))}")
    if "node_id" not in options:
        raise ConfigError('node_id is missing: open_node(node_id="shop-1", ...)')
    return NodeConfig(**options)  # type: ignore[arg-type]  # __post_init__ turns the pleasant forms into the exact ones
