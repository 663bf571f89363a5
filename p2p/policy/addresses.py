"""What an IP address says about where it leads (T49), and which addresses count as one neighbour (T02).

Everything works on text and resolves nothing: names are resolved first, then judged, then dialled as judged. An IPv4
address wrapped in IPv6 (`::ffff:a.b.c.d`) is that IPv4 address in every respect.
"""

from __future__ import annotations

import ipaddress
from enum import Enum
from typing import Final

from p2p.ids import is_ipv4
from p2p.values import frozen

_IPV4_PREFIX: Final = 32
_IPV6_PREFIX: Final = 56
"""What one subscriber usually gets: counting single IPv6 addresses would let him be 2^72 strangers."""

_THIS_NETWORK: Final = ipaddress.IPv4Network("0.0.0.0/8")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class AddressClass(Enum):
    """Where an address leads."""

    PUBLIC = "public"
    PRIVATE = "private"
    """A local network: RFC 1918, unique local IPv6, carrier-grade NAT."""
    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    UNSPECIFIED = "unspecified"
    """0.0.0.0/8 and ::, which many systems take for the machine itself."""
    MULTICAST = "multicast"
    RESERVED = "reserved"
    """Leads to no peer: not in use, for examples, or where a cloud answers its own machines alone."""
    NAME = "name"
    """Not an address at all: unjudged until it is resolved."""


def classify(host: str) -> AddressClass:
    """Say where a host leads. A host name, and whatever is no address in its usual form, is NAME.

    An IPv6 address that is carried to an IPv4 one (NAT64, 6to4) leads where that one does; the old compatible form is
    RESERVED. So is any but a link-local one that names an interface: it would be another spelling of a place.
    """
    address = _parse(host)
    if address is None:
        return AddressClass.NAME
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None and not (address.is_link_local or address.is_multicast):
            return AddressClass.RESERVED
        carried = _carried(address)
        if carried is not None:
            return classify(str(carried))
    if any(address in network for network in _NO_PEERS):
        return AddressClass.RESERVED
    if address.is_unspecified or (address.version == 4 and address in _THIS_NETWORK):
        return AddressClass.UNSPECIFIED
    if address.is_loopback:
        return AddressClass.LOOPBACK
    if address.is_link_local:
        return AddressClass.LINK_LOCAL
    if address.is_multicast:
        return AddressClass.MULTICAST
    if address.is_global and not address.is_reserved:
        return AddressClass.PUBLIC
    if _is_local_network(address):
        return AddressClass.PRIVATE
    return AddressClass.RESERVED


@frozen
class DialRule:
    """Where a dial may lead that somebody else asked for (T49). Public addresses always are.

    Args:
        private: local networks may be.
        loopback: this machine may be.
        ports_denied: never on this machine or a local network: the doors that only the operator uses.
        own_hosts: addresses of this machine, public ones among them; who dials knows them.
        link_local: the machines on the same cable may be.
    """

    private: bool = True
    loopback: bool = True
    ports_denied: frozenset[int] = frozenset()
    own_hosts: frozenset[str] = frozenset()
    link_local: bool = False

    def allows(self, host: str, port: int) -> bool:
        """Whether a place may be dialled; a name may not, it is resolved first."""
        kind = classify(host)
        if port in self.ports_denied and (kind is not AddressClass.PUBLIC or host in self.own_hosts):
            return False
        return (
            kind is AddressClass.PUBLIC
            or (kind is AddressClass.PRIVATE and self.private)
            or (kind is AddressClass.LOOPBACK and self.loopback)
            or (kind is AddressClass.LINK_LOCAL and self.link_local)
        )


def prefix_of(host: str) -> str:
    """The neighbour that an address belongs to: itself for IPv4, its /56 for IPv6. A name stands for itself."""
    if is_ipv4(host):
        return f"{host}/{_IPV4_PREFIX}"
    address = _parse(host)
    if address is None:
        return host
    if address.version == 4:
        return f"{address}/{_IPV4_PREFIX}"
    return str(ipaddress.IPv6Network((int(address), _IPV6_PREFIX), strict=False))


def neighbour_of(host: str) -> str:
    """Who counts as one on the network: a prefix, and of a link-local one each address, for there all share it."""
    if is_ipv4(host):
        # Each address is a neighbour of its own. Every connection is asked for this, and to parse it takes 30 µs.
        return f"{host}/{_IPV4_PREFIX}"
    return host if classify(host) is AddressClass.LINK_LOCAL else prefix_of(host)


_LOCAL_NETWORKS: Final = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)


_NO_PEERS: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "3fff::/20",  # for examples
        "5f00::/16",  # segment routing
        "192.0.0.0/24",  # protocols, and what Oracle Cloud answers at 192.0.0.192
        "192.88.99.0/24",  # 6to4 relays: given up
        "fec0::/10",  # site-local: given up, and taken for public by the standard library
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure
        "169.254.169.0/24",  # link-local, and what nearly every cloud answers there
        "169.254.170.0/24",  # Amazon ECS and EKS
        "fd00:ec2::/32",  # Amazon EC2
        "fd20:ce::254",  # Google Cloud
        "fd00:42::42",  # Scaleway
    )
)
"""Networks that `classify` would take for others. Clouds keep their secrets at these (T49)."""

_CARRYING: Final = (
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),
    (ipaddress.IPv6Network("64:ff9b:1::/48"), 0),
    (ipaddress.IPv6Network("2002::/16"), 80),
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), 0),
)
"""Networks whose addresses hold an IPv4 address, and how many bits stand behind it."""


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    for network, behind in _CARRYING:
        if address in network:
            return ipaddress.IPv4Address(int(address) >> behind & 0xFFFF_FFFF)
    return None


def _is_local_network(address: _Address) -> bool:
    return any(address in network for network in _LOCAL_NETWORKS)


def _parse(host: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address
    return address
