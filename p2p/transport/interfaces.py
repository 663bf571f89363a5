"""The machine's network interfaces, as far as a datagram to everybody needs to know them.

The standard library and three requests to the kernel are enough, so nothing has to be installed for it: which
interfaces are up, the first IPv4 address of each, and its broadcast address. Further addresses of an interface need no
datagram of their own, for the limited broadcast 255.255.255.255 reaches everybody on the link whatever network they
count themselves to; IPv6 needs the interface's number alone.

The requests are Linux's. Elsewhere there is one nameless interface: the one that the system chooses by itself.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import Final

import msgspec

_IFF_UP: Final = 0x1
_IFF_BROADCAST: Final = 0x2
_IFF_LOOPBACK: Final = 0x8
_IFF_MULTICAST: Final = 0x1000
_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFADDR: Final = 0x8915
_SIOCGIFBRDADDR: Final = 0x8919
_NAME_BYTES: Final = 16
_REQUEST: Final = struct.Struct(f"{_NAME_BYTES}s24x")

LOOPBACK_BROADCAST: Final = "127.255.255.255"


class Interface(msgspec.Struct, frozen=True):
    """An interface that is up.

    Attributes:
        index: the kernel's number; 0 for the one that the system chooses.
        address: its first IPv4 address, None without one.
        broadcast: the broadcast address that belongs to it, None where there is none.
    """

    index: int
    name: str
    is_loopback: bool = False
    has_multicast: bool = True
    address: str | None = None
    broadcast: str | None = None


def interfaces() -> tuple[Interface, ...]:
    """The interfaces that are up now. Whatever goes away while it is looked at is left out."""
    if sys.platform != "linux":
        return (Interface(0, "default", address="0.0.0.0"),)  # noqa: S104  # no address to bind: any of the machine's
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for index, name in socket.if_nameindex():
            flags = _ask(asking, _SIOCGIFFLAGS, name)
            if flags is None or not (bits := struct.unpack("=H", flags[:2])[0]) & _IFF_UP:
                continue
            is_loopback = bool(bits & _IFF_LOOPBACK)
            broadcast = LOOPBACK_BROADCAST if is_loopback else None
            if bits & _IFF_BROADCAST:
                broadcast = _address(_ask(asking, _SIOCGIFBRDADDR, name))
            address = _address(_ask(asking, _SIOCGIFADDR, name))
            found.append(Interface(index, name, is_loopback, bool(bits & _IFF_MULTICAST), address, broadcast))
    return tuple(found)


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
