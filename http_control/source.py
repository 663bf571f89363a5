"""Whom a request counts for: the nearest address on its way that is not a trusted proxy's."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from p2p import ConfigError

Networks: TypeAlias = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]


def networks_of(texts: Iterable[str]) -> Networks:
    """Read addresses and networks: `10.0.0.1`, `10.0.0.0/8`.

    Raises:
        ConfigError: one is neither.
    """
    networks = []
    for text in texts:
        try:
            networks.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            raise ConfigError(f"{text[:80]!r} is neither an address nor a network: 10.0.0.1, 10.0.0.0/8") from None
    return tuple(networks)


def source_of(client: str, forwarded: Sequence[str], is_proxy: Callable[[str], bool]) -> str:
    """The address that a request comes from.

    Args:
        client: the address of the connection, or whatever else says where it comes from.
        forwarded: the values of all `X-Forwarded-For` headers, in order. Each proxy adds the address it was reached
            from at the end, so they are read from there, and only as far as those who say so are trusted.
        is_proxy: whether an address, or `client`, is one whose word is taken.

    Returns:
        An IP address in its usual form, an IPv4 one where it came wrapped in IPv6; or `client` if that is none.
    """
    source = _plain(client) or client
    hops = [hop.strip() for hop in ",".join(forwarded).split(",")]
    while hops and is_proxy(source):
        hop = _plain(hops.pop())
        if not hop:
            break
        source = hop
    return source


def is_in(address: str, networks: Networks) -> bool:
    """Whether one of the networks holds the address; none holds what is no address."""
    return bool(_plain(address)) and any(ipaddress.ip_address(address) in network for network in networks)


def _plain(text: str) -> str:
    # Some proxies write the port that they were reached from, too, and then brackets around an IPv6 address.
    if text.startswith("[") or text.count(":") == 1:
        text = text.removeprefix("[").partition("]" if text.startswith("[") else ":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
