"""What the settings say about finding others: discovery near by, and a registry.

Discovery is on unless told otherwise, for two nodes on one network should need no word of configuration; while nothing
says who may come in, it stays on this machine as the node itself does. A registry is asked as soon as one is named.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from p2p.cli.registry import load_token
from p2p.cli.settings import UsageError
from p2p.errors import ConfigError
from p2p.ids import PeerEndpoint, is_loopback
from p2p.node.bootstrap import BootstrapConfig, BootstrapMode
from p2p.node.discovery import DiscoveryConfig, DiscoveryMode
from p2p.policy.addresses import AddressClass, classify
from p2p.registry.form import SCHEMES

_log = logging.getLogger("p2p.cli")

_OF_A_REGISTRY: Final = ("advertise", "registry_token_file", "boot_interval", "announce")

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
        _say_idle([key for key in said if key.startswith("disc_")], "--discovery off")
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


def bootstrap_of(
    said: Mapping[str, Any], own_ports: tuple[int, ...] = (), ca_file: Path | None = None
) -> BootstrapConfig | None:
    """Which registry to ask, and how; None where none is named or it is off.

    Args:
        said: see `Settings.finding`.
        own_ports: what else this process serves, where no registry may aim its node.
        ca_file: who may have signed the certificate of a registry; None for the system's choice.

    Raises:
        UsageError: a value is not usable, or something is missing.
        ConfigError: the token file is not usable.
    """
    url = said.get("registry")
    if url is None and said.get("bootstrap") == "on":
        raise UsageError("--bootstrap on: which registry? name it with --registry URL")
    if url is None and (lost := next((key for key in _OF_A_REGISTRY if key in said), None)) is not None:
        flag = "--" + lost.replace("_", "-")
        raise UsageError(f"{flag} says how to use a registry, and there is none: name it with --registry URL")
    if url is None or said.get("bootstrap") == "off":
        return None
    announces = said.get("announce") != "off"
    if not announces:
        _say_idle([key for key in said if key == "advertise"], "--announce off")
    scheme, advertised = advertised_door(said["advertise"]) if announces and "advertise" in said else (None, None)
    token_file = said.get("registry_token_file")
    plain = BootstrapConfig(registry_url="http://127.0.0.1")
    token = load_token(Path(token_file)) if token_file is not None else None
    try:
        return BootstrapConfig(
            registry_url=url,
            mode=BootstrapMode.PULL_AND_ANNOUNCE if announces else BootstrapMode.PULL_ONLY,
            poll_interval_ms=said.get("boot_interval", plain.poll_interval_ms),
            self_tcp_port=advertised,
            self_scheme=scheme,
            token=token,
            own_ports=own_ports,
            ca_file=ca_file,
        )
    except ConfigError as error:
        raise UsageError(f"--registry: {error}") from None


def _say_idle(keys: list[str], switch: str) -> None:
    """Told and not refused: a file may say how, and a flag that it is not to be this time."""
    if keys:
        flags = ", ".join("--" + key.replace("_", "-") for key in keys)
        _log.warning("%s: without effect, for %s is given, too", flags, switch)


def advertised_door(text: str) -> tuple[str | None, int]:
    """The scheme, if one is named, and the port of `[SCHEME://]HOST:PORT` or `PORT`: what leads here from outside.

    The host is checked and not announced, which one line says: a registry takes the one that it sees. So TLS, which
    checks a name, leads here only by a certificate for that address; and there is no room for a path.

    Raises:
        UsageError: the text is something else, or it cannot be listed.
    """
    scheme, mark, rest = text.rpartition("://")
    how = f"--advertise {text!r}: write HOST:PORT or PORT, or tcp://, ws:// or wss://HOST:PORT, what leads here"
    if mark and scheme not in SCHEMES:
        raise UsageError(how)
    place, _, path = rest.partition("/")
    if path:
        raise UsageError(f"--advertise {text!r}: a registry lists no path: have {place} lead here, without /{path}")
    try:
        endpoint = PeerEndpoint.parse(place if ":" in place else f"localhost:{place}")
    except ConfigError:
        raise UsageError(how) from None
    if endpoint.port == 0 or endpoint.expect is not None:
        raise UsageError(how)
    if scheme == "wss" and ":" in place and classify(endpoint.host) is AddressClass.NAME:
        raise UsageError(
            f"--advertise {text!r}: a registry lists the address that it sees, and no certificate for the name "
            f"{endpoint.host} proves that: advertise wss://ADDRESS:PORT with a certificate for the address, or have "
            f"the others --connect {scheme}://{place}"
        )
    if ":" in place and not is_loopback(endpoint.host):
        _log.warning(
            "--advertise %s: port %d is announced; for the host a registry lists the address that this node's requests"
            " come from. Where that is not %s, have the others --connect %s",
            text, endpoint.port, endpoint.host, text,
        )  # fmt: skip
    return scheme or None, endpoint.port
