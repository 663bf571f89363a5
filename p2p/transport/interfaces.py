"""The machine's network interfaces, as far as a datagram to everybody needs to know them.

The standard library and four requests to the kernel are enough, so nothing has to be installed for it: which
interfaces are up, their addresses, and the broadcast address that belongs to the first. Further addresses of an
interface need no datagram of their own, for the limited broadcast 255.255.255.255 reaches everybody on the link
whatever network they count themselves to; they are there to be recognised, where one of them names the interface.

The requests are Linux's. Elsewhere there is one nameless interface: the one that the system chooses by itself.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys
from array import array
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from p2p.ids import usual_host

_IFF_UP: Final = 0x1
_IFF_BROADCAST: Final = 0x2
_IFF_LOOPBACK: Final = 0x8
_IFF_MULTICAST: Final = 0x1000
_SIOCGIFCONF: Final = 0x8912
_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFADDR: Final = 0x8915
_SIOCGIFBRDADDR: Final = 0x8919
_NAME_BYTES: Final = 16
_REQUEST: Final = struct.Struct(f"{_NAME_BYTES}s24x")

_ADDRESS_BYTES: Final = _NAME_BYTES + (24 if struct.calcsize("P") == 8 else 16)
_ADDRESSES_MAX: Final = 1024
_IPV6_ADDRESSES: Final = Path("/proc/net/if_inet6")
_LINK_LOCAL: Final = "20"
_NOT_YET: Final = 0x40 | 0x08
"""Tentative, or somebody else's: nothing can be sent from the address for now."""

LOOPBACK_BROADCAST: Final = "127.255.255.255"


class Interface(msgspec.Struct, frozen=True):
    """An interface that is up.

    Attributes:
        index: the kernel's number; 0 for the one that the system chooses.
        address: its first IPv4 address, None without one.
        broadcast: the broadcast address that belongs to it, None where there is none.
        more: its other addresses, IPv4 and IPv6; link-local ones end in `%` and the name.
        has_ipv6: whether IPv6 is switched on for it, as far as that can be learnt.
    """

    index: int
    name: str
    is_loopback: bool = False
    has_multicast: bool = True
    address: str | None = None
    broadcast: str | None = None
    more: tuple[str, ...] = ()
    has_ipv6: bool = True

    @property
    def addresses(self) -> tuple[str, ...]:
        """All that it has."""
        return self.more if self.address is None else (self.address, *self.more)


def interfaces() -> tuple[Interface, ...]:
    """The interfaces that are up now. Whatever goes away while it is looked at is left out."""
    if sys.platform != "linux":
        return (Interface(0, "default", address="0.0.0.0"),)  # noqa: S104  # no address to bind: any of the machine's
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        known, is_ipv6_known = _every_address(asking)
        for index, name in socket.if_nameindex():
            flags = _ask(asking, _SIOCGIFFLAGS, name)
            if flags is None or not (bits := struct.unpack("=H", flags[:2])[0]) & _IFF_UP:
                continue
            is_loopback = bool(bits & _IFF_LOOPBACK)
            broadcast = LOOPBACK_BROADCAST if is_loopback else None
            if bits & _IFF_BROADCAST:
                broadcast = _address(_ask(asking, _SIOCGIFBRDADDR, name))
            address = _address(_ask(asking, _SIOCGIFADDR, name))
            more = tuple(other for other in known.get(name, ()) if other != address)
            has_ipv6 = not is_ipv6_known or any(":" in other for other in more)
            has_multicast = bool(bits & _IFF_MULTICAST)
            found.append(Interface(index, name, is_loopback, has_multicast, address, broadcast, more, has_ipv6))
    return tuple(found)


def with_interface(host: str, index: int) -> str:
    """An address with the interface that the kernel names beside it: a link-local one leads nowhere without."""
    if not index or "%" in host:
        return host
    with suppress(OSError):  # it is gone by now
        named = f"{host}%{socket.if_indextoname(index)}"
        # A name may be anything but a slash or a space; a number is as good to dial.
        return named if usual_host(named) is not None else f"{host}%{index}"
    return host


def own_hosts() -> frozenset[str]:
    """The addresses of this machine, whatever they are good for; none where they cannot be learnt now."""
    with suppress(OSError):  # out of descriptors
        return frozenset(address for interface in interfaces() for address in interface.addresses)
    return frozenset()


def _every_address(asking: socket.socket) -> tuple[dict[str, list[str]], bool]:
    """The addresses of each interface by its name, and whether those of IPv6 could be learnt."""
    found: dict[str, list[str]] = {}
    is_ipv6_known = False
    with suppress(OSError):
        for name, address in _ipv4_addresses(asking):
            found.setdefault(name, []).append(address)
    with suppress(OSError, ValueError):  # IPv6 is switched off, or /proc is not there, or not the one that is known
        for line in os.fsdecode(_IPV6_ADDRESSES.read_bytes()).splitlines():
            digits, _, _, scope, flags, name = line.split(maxsplit=5)
            if int(flags, 16) & _NOT_YET:
                continue
            zone = f"%{name}" if scope == _LINK_LOCAL else ""
            found.setdefault(name, []).append(str(ipaddress.IPv6Address(bytes.fromhex(digits))) + zone)
        is_ipv6_known = True
    return found, is_ipv6_known


def _ipv4_addresses(asking: socket.socket) -> list[tuple[str, str]]:
    import fcntl  # not there on Windows

    room = array("B", bytes(_ADDRESSES_MAX * _ADDRESS_BYTES))
    answer = fcntl.ioctl(asking.fileno(), _SIOCGIFCONF, struct.pack("iP", len(room), room.buffer_info()[0]))
    filled = bytes(room[: struct.unpack("iP", answer)[0]])
    found = []
    for at in range(0, len(filled), _ADDRESS_BYTES):
        # A further address may carry a label: eth0:1 is an address of eth0.
        name = os.fsdecode(filled[at : at + _NAME_BYTES].rstrip(b"\0").split(b"\0")[0].partition(b":")[0])
        address = _address(filled[at + _NAME_BYTES : at + _ADDRESS_BYTES])
        if address is not None:
            found.append((name, address))
    return found


def _ask(asking: socket.socket, request: int, name: str) -> bytes | None:
    """What the kernel answers about an interface, without the name; None if it has nothing to say."""
    import fcntl  # not there on Windows

    try:
        answer = fcntl.ioctl(asking.fileno(), request, _REQUEST.pack(os.fsencode(name)))
    except OSError:  # no such address, or no such interface any more
        return None
    return answer[_NAME_BYTES:]


def _address(answer: bytes | None) -> str | None:
    if answer is None:
        return None
    family, address = struct.unpack("=H2x4s", answer[:8])
    return socket.inet_ntoa(address) if family == socket.AF_INET and any(address) else None
