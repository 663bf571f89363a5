"""The keyword arguments of `open_node`, for type checkers and whoever asks for its type hints.

No node imports it when it runs, for a `TypedDict` compiles the kind of each field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict

from p2p.crypto.identity import Identity
from p2p.ids import PeerEndpoint, PeerId
from p2p.limits import Limits
from p2p.node.bootstrap import BootstrapConfig
from p2p.node.config import LogHook, OpenStore
from p2p.node.discovery import DiscoveryConfig
from p2p.transport.base import Network
from p2p.windows import Blocking, Clock, Entropy


class NodeOptions(TypedDict, total=False):
    """The fields of `NodeConfig` as keyword arguments of `open_node`, in the forms that are pleasant to write."""

    node_id: str
    listen_port: int | None
    listen_host: str | None
    data_dir: Path | str | None
    peers: Iterable[PeerEndpoint | str]
    discovery: DiscoveryConfig | None
    bootstrap: BootstrapConfig | None
    listen_ws_port: int | None
    tls_cert: Path | str | None
    tls_key: Path | str | None
    tls_ca: Path | str | None
    dial: bool
    network_key: bytes | None
    network_name: str
    trust: Mapping[str, PeerId] | Path | str | None
    open: bool
    expire_after_s: float | None
    relay: bool
    via: Iterable[PeerEndpoint | str]
    attach: bool
    max_peers: int | None
    trusted_proxies: Iterable[str]
    handshake_timeout_ms: int | None
    ping_after_s: float | None
    dead_after_s: float | None
    limits: Limits
    on_log: LogHook | None
    identity: Identity | None
    store: OpenStore | None
    clock: Clock
    entropy: Entropy
    network: Network | None
    blocking: Blocking | None
