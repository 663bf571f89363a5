"""What the settings say about finding others: discovery near by, and a registry.

Discovery is on unless told otherwise, for two nodes on one network should need no word of configuration; while nothing
says who may come in, it stays on this machine as the node itself does. A registry is asked as soon as one is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from p2p.cli.registry import load_token
from p2p.cli.settings import UsageError
from p2p.errors import ConfigError
from p2p.ids import PeerEndpoint
from p2p.node.bootstrap import BootstrapConfig, BootstrapMode
from p2p.node.discovery import DiscoveryConfig, DiscoveryMode

ANNOUNCEMENTS_PER_TTL: Final = 3
"""So that one that is lost, and one that is late, still leave us seen."""


def discovery_of(said: Mapping[str, Any]) -> DiscoveryConfig | None:
    """How to discover and be discovered; None where it is off.

    Args:
        said: see `Settings.finding`.

    Raises:
        UsageError: a value is not usable.
    """
    if said.get("discovery") == "off":
        return None
    plain = DiscoveryConfig()
    interval_ms = said.get("disc_interval", plain.announce_interval_ms)
    try:
        return DiscoveryConfig(
            discovery_port=said.get("disc_port", plain.discovery_port),
            mode=DiscoveryMode(said.get("disc_mode", plain.mode)),
            announce_interval_ms=interval_ms,
            seen_ttl_ms=max(plain.seen_ttl_ms, ANNOUNCEMENTS_PER_TTL * interval_ms),
        )
    except ConfigError as error:
        raise UsageError(f"--disc-interval: {error}") from None


def bootstrap_of(said: Mapping[str, Any], own_ports: tuple[int, ...] = ()) -> BootstrapConfig | None:
    """Which registry to ask, and how; None where none is named or it is off.

    Args:
        said: see `Settings.finding`.
        own_ports: what else this process serves, where no registry may aim its node.

    Raises:
        UsageError: a value is not usable, or something is missing.
        ConfigError: the token file is not usable.
    """
    url = said.get("registry")
    if url is None and said.get("bootstrap") == "on":
        raise UsageError("--bootstrap on: which registry? name it with --registry URL")
    if url is None or said.get("bootstrap") == "off":
        return None
    announces = said.get("announce") != "off"
    token_file = said.get("registry_token_file")
    plain = BootstrapConfig(registry_url="http://127.0.0.1")
    advertised = advertised_port(said["advertise"]) if "advertise" in said else None
    token = load_token(Path(token_file)) if token_file is not None else None
    try:
        return BootstrapConfig(
            registry_url=url,
            mode=BootstrapMode.PULL_AND_ANNOUNCE if announces else BootstrapMode.PULL_ONLY,
            poll_interval_ms=said.get("boot_interval", plain.poll_interval_ms),
            self_tcp_port=advertised,
            token=token,
            own_ports=own_ports,
        )
    except ConfigError as error:
        raise UsageError(f"--registry, --boot-interval: {error}") from None


def advertised_port(text: str) -> int:
    """The port of `HOST:PORT` or `PORT`: where one leads to this node from outside.

    The host is checked and not announced: a registry takes the one that it sees, and so do those near by.

    Raises:
        UsageError: the text is neither.
    """
    try:
        port = PeerEndpoint.parse(text if ":" in text else f"localhost:{text}").port
    except ConfigError:
        port = 0
    if port == 0:
        raise UsageError(f"--advertise {text!r}: write HOST:PORT or PORT, where one gets to this node from outside")
    return port
