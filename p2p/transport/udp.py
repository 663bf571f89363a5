"""Datagrams to everybody near, over the machine's UDP: broadcast or multicast on IPv4, multicast on IPv6.

One socket per family serves all interfaces: the control message IP_PKTINFO says which one a datagram leaves by, and
with which address, or by which one it came, so that interfaces may come and go without a socket of their own. What came
by one that is not used is dropped. Programs on one machine share the
port (SO_REUSEADDR, SO_REUSEPORT): each of them gets every broadcast and multicast, and the sender hears itself. Where
loopback alone is wanted, the sockets are bound to the very address that such datagrams go to, and nothing from outside
reaches them.

Linux lets one socket join an IPv4 group on 20 interfaces (net.ipv4.igmp_max_memberships). For more of them there are
further sockets, which join and do nothing else: what comes for the group is heard by every socket bound to it.

An interface that is used because one of its addresses was named speaks from that address alone: whoever hears it dials
the address that it came from, and the node may listen at no other.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import Any, Final

import trio

from p2p.errors import AddressInUse, ConfigError
from p2p.ids import PeerEndpoint, usual_host
from p2p.limits import Limits
from p2p.policy.buckets import TokenBucket
from p2p.transport.base import Neighbourhood, Spread
from p2p.transport.interfaces import LOOPBACK_BROADCAST, Interface, interfaces, with_interface
from p2p.transport.readiness import wait_any_readable
from p2p.windows import Entropy, system_entropy, uniform

_EVERYBODY: Final = "255.255.255.255"
_ANY_IPV6: Final = "::"
_EVERY_IPV4: Final = "0.0.0.0"  # noqa: S104 - whether others may hear and be heard is the caller's decision
_IP_PKTINFO: Final = 8
"""Linux; the socket module of Python 3.11 does not name it."""
_CONTROL_BYTES: Final = 128
JOINING_MAX: Final = 64
"""Sockets that join IPv4 groups: for 1,280 interfaces, at Linux's usual 20 each."""
WAKE_S: Final = 0.02
"""Between two times that the ear wakes: of a flood it hears at once what came meanwhile, for a third of the work."""
LOOK_S: Final = 5.0
"""Who only listens looks so often for interfaces that came; who speaks looks each time."""


class _Short(ConfigError):
    """The machine has it, and is short of something now."""


_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


class UdpDatagrams:
    """`Datagrams` over UDP. Made by `open_datagrams`.

    Attributes:
        failures: reads that failed; each is followed by a rest, and never ends the ear.
        unwanted: datagrams that came by interfaces that are not used.
    """

    def __init__(self, near: Neighbourhood, ipv4: socket.socket, *, limits: Limits, entropy: Entropy) -> None:
        self._near = near
        self._ipv4 = ipv4
        self._ipv6: socket.socket | None = None
        self._socks = [ipv4]
        self._limits = limits
        self._entropy = entropy
        self._named = {_plain(name) for name in near.interfaces}
        self._joining = [ipv4]
        self._joined: dict[tuple[int, int], socket.socket] = {}
        self._deaf: dict[tuple[int, int], str] = {}
        self._short_of: tuple[str, ...] = ()
        self._used: frozenset[int] = frozenset()
        self._look_at = 0.0
        self._woken_at = 0.0
        self._unwanted_pace = TokenBucket(limits.announce_reads_per_s, limits.announce_reads_burst)
        self._closed = trio.Event()
        self.failures = 0
        self.unwanted = 0

    # Speaking.

    def spread(self, data: bytes) -> Spread:
        self._check_open()
        sent = 0
        used = self.join()
        failures = [*self._short_of, *self._deaf.values()]
        for interface in used:
            for name, attempt in self._ways(data, interface):
                try:
                    attempt()
                except OSError as error:
                    failures.append(f"{name}: {error.strerror or error}")
                else:
                    sent += 1
        return Spread(sent, tuple(failures))

    def _ways(self, data: bytes, interface: Interface) -> Iterator[tuple[str, Any]]:
        for address in self._spoken_from(interface):
            if ":" not in address:
                yield f"{interface.name} IPv4", lambda address=address: self._send_ipv4(data, interface, address)
            elif self._speaks_ipv6(interface):
                yield f"{interface.name} IPv6", lambda address=address: self._send_ipv6(data, interface, address)

    def _speaks_ipv6(self, interface: Interface) -> bool:
        is_able = interface.has_multicast and interface.has_ipv6 and not interface.is_loopback
        return is_able and self._ipv6 is not None

    def _spoken_from(self, interface: Interface) -> list[str]:
        """The addresses that an announcement leaves by; :: for the one that the kernel takes."""
        if not self._near.loopback_only and self._named and interface.name not in self._named:
            return [address for address in interface.addresses if address in self._named]
        return [_ANY_IPV6] if interface.address is None else [interface.address, _ANY_IPV6]

    def _send_ipv4(self, data: bytes, interface: Interface, address: str) -> None:
        near, control = self._near, []
        if interface.index:
            info = struct.pack("=i4s4x", interface.index, socket.inet_aton(address))
            control.append((socket.IPPROTO_IP, _IP_PKTINFO, info))
        if near.group is not None:
            targets = [near.group]
        elif interface.is_loopback:
            targets = [LOOPBACK_BROADCAST]
        else:
            targets = [_EVERYBODY, *([interface.broadcast] if interface.broadcast else [])]
        while True:
            try:
                self._ipv4.sendmsg([data], control, 0, (targets.pop(0), near.port))
            except OSError:  # a firewall may let one form of broadcast through and not the other
                if not targets:
                    raise
            else:
                return

    def _send_ipv6(self, data: bytes, interface: Interface, address: str) -> None:
        assert self._ipv6 is not None
        source = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
        control = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source + struct.pack("=i", interface.index))]
        self._ipv6.sendmsg([data], control, 0, (self._near.group6, self._near.port, 0, interface.index))

    def join(self) -> list[Interface]:
        """Join the groups on interfaces that are new, and return all that are used now."""
        self._look_at = trio.current_time() + LOOK_S
        if self._short_of:
            try:
                self.open_ipv6()
            except AddressInUse as error:
                # Whoever took it meanwhile may go: IPv4 is heard all the same.
                self._short_of = (f"IPv6: {error.strerror}",)
        try:
            used = [interface for interface in interfaces() if self._is_used(interface)]
        except OSError:  # out of descriptors: the next interval looks again
            self.failures += 1
            return []
        self._used = frozenset(interface.index for interface in used)
        wanted: dict[tuple[int, int], str] = {}
        for interface in used:
            if self._near.group is not None:
                wanted[socket.AF_INET, interface.index] = f"{interface.name} IPv4"
            if self._speaks_ipv6(interface):
                wanted[socket.AF_INET6, interface.index] = f"{interface.name} IPv6"
        # The numbers of interfaces never come back, but what they leave behind counts against the socket.
        for gone in [key for key in self._joined if key not in wanted]:
            with suppress(OSError):
                self._change_membership(self._joined.pop(gone), *gone, join=False)
        self._deaf.clear()
        for key, name in wanted.items():
            if key in self._joined:
                continue
            try:
                self._joined[key] = self._join(*key)
            except OSError as error:  # tried again at the next look
                self._deaf[key] = f"{name}: its group cannot be joined: {error.strerror or error}"
        return used

    def open_ipv6(self) -> None:
        """Open the socket of IPv6 if the machine has that; one that is short of something is asked again at each look.

        Raises:
            AddressInUse: its port is held.
        """
        try:
            self._ipv6 = _bind(socket.AF_INET6, "::", self._near.port)
        except _Short as error:
            self._short_of = (f"IPv6: {error}",)
        except ConfigError:  # compiled in and switched off: IPv4 alone then
            self._short_of = ()
        else:
            self._socks.append(self._ipv6)
            self._short_of = ()

    def _is_used(self, interface: Interface) -> bool:
        near = self._near
        if near.loopback_only:
            return interface.is_loopback or interface.index == 0
        return not self._named or interface.name in self._named or not self._named.isdisjoint(interface.addresses)

    def missing(self) -> tuple[str, ...]:
        deaf = tuple(f"{line}: it is tried again" for line in (*self._short_of, *self._deaf.values()))
        near = self._near
        if near.loopback_only or not near.interfaces:
            return deaf
        try:
            there = interfaces()
        except OSError:  # out of descriptors: nothing is known
            return deaf
        names = {interface.name for interface in there}.union(*(interface.addresses for interface in there))
        known = ", ".join(f"{one.name} ({one.address})" if one.address else one.name for one in there) or "none"
        absent = [name for name in near.interfaces if _plain(name) not in names]
        not_there = "no interface {} is up; there are {}: it is used as soon as it comes"
        return (*(not_there.format(name, known) for name in absent), *deaf)

    def _join(self, family: int, index: int) -> socket.socket:
        """Join the family's group on an interface; the socket that is a member now.

        Raises:
            OSError: no socket can.
        """
        if family == socket.AF_INET6:
            assert self._ipv6 is not None
            return self._change_membership(self._ipv6, family, index, join=True)
        for sock in self._joining:
            try:
                return self._change_membership(sock, family, index, join=True)
            except OSError as error:
                if error.errno != errno.ENOBUFS or (sock is self._joining[-1] and len(self._joining) >= JOINING_MAX):
                    raise
        more = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._change_membership(more, family, index, join=True)
        except BaseException:
            more.close()
            raise
        self._joining.append(more)
        return more

    def _change_membership(self, sock: socket.socket, family: int, index: int, *, join: bool) -> socket.socket:
        try:
            if family == socket.AF_INET:
                assert self._near.group is not None
                option = socket.IP_ADD_MEMBERSHIP if join else socket.IP_DROP_MEMBERSHIP
                request = struct.pack("=4s4xi", socket.inet_aton(self._near.group), index)
                sock.setsockopt(socket.IPPROTO_IP, option, request)
            else:
                option = socket.IPV6_JOIN_GROUP if join else socket.IPV6_LEAVE_GROUP
                group = socket.inet_pton(socket.AF_INET6, self._near.group6)
                sock.setsockopt(socket.IPPROTO_IPV6, option, group + struct.pack("=i", index))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:  # a member already
                raise
        return sock

    # Hearing.

    async def receive(self) -> tuple[bytes, PeerEndpoint]:
        await trio.lowlevel.checkpoint()
        while True:
            self._check_open()
            if trio.current_time() >= self._look_at:
                self.join()
            try:
                heard = self._receive_now()
            except OSError:
                # Not of one datagram, for those come whole or not at all: the machine is short of something.
                self.failures += 1
                pause_s = self._limits.accept_pause_s_max * (0.5 + uniform(self._entropy) / 2)
                await self._rest_until(trio.current_time() + pause_s)
                continue
            if heard is None:
                await self._rest_until(self._woken_at + WAKE_S)
                self._check_open()
                with trio.move_on_at(self._look_at):
                    await wait_any_readable(self._socks)
                self._woken_at = trio.current_time()
                continue
            data, source, index = heard
            if self._is_wanted(index):
                return data, source
            self.unwanted += 1
            now = trio.current_time()
            if not self._unwanted_pace.take(now):
                await self._rest_until(self._unwanted_pace.ready_at(now, self._limits.announce_reads_burst))

    def _is_wanted(self, index: int) -> bool:
        everything = not self._near.loopback_only and not self._near.interfaces
        return everything or not index or index in self._used

    async def _rest_until(self, when: float) -> None:
        with trio.move_on_at(when):
            await self._closed.wait()

    def _receive_now(self) -> tuple[bytes, PeerEndpoint, int] | None:
        """A datagram, where it came from and the number of the interface that it came by; 0 where nobody tells."""
        self._socks.append(self._socks.pop(0))
        for sock in self._socks:
            try:
                data, control, _, address = sock.recvmsg(self._limits.announce_read_bytes_max + 1, _CONTROL_BYTES)
            except (BlockingIOError, InterruptedError):
                continue
            return data, _source(address), _index_of(control)
        return None

    # Ending.

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close at once. Idempotent."""
        if self._closed.is_set():
            return
        self._closed.set()
        for sock in self._socks:
            trio.lowlevel.notify_closing(sock)
            sock.close()
        for sock in self._joining[1:]:
            sock.close()

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise trio.ClosedResourceError("these datagrams were closed")


async def open_datagrams(near: Neighbourhood, *, limits: Limits, entropy: Entropy = system_entropy) -> UdpDatagrams:
    """Bind the sockets of a neighbourhood and join its groups.

    Raises:
        AddressInUse, ConfigError: see `Network.datagrams`.
    """
    await trio.lowlevel.checkpoint()
    _check(near)
    with ExitStack() as closing:
        ipv4 = _bind(socket.AF_INET, _address_to_hear(near), near.port)
        closing.callback(ipv4.close)
        ipv4.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        opened = UdpDatagrams(near, ipv4, limits=limits, entropy=entropy)
        closing.callback(opened.close)
        if not near.loopback_only and socket.has_ipv6 and sys.platform == "linux":
            opened.open_ipv6()
        opened.join()
        closing.pop_all()
    return opened


def _check(near: Neighbourhood) -> None:
    if not 1 <= near.port <= 65535:
        raise ConfigError(f"discovery port {near.port} is not within 1-65535")
    if near.group is not None:
        try:
            is_group = ipaddress.IPv4Address(near.group).is_multicast
        except ValueError:
            is_group = False
        if not is_group:
            raise ConfigError(f"{near.group!r} is no IPv4 multicast group: those are 224.0.0.0 to 239.255.255.255")


def _address_to_hear(near: Neighbourhood) -> str:
    if near.group is not None:
        return near.group
    return LOOPBACK_BROADCAST if near.loopback_only else _EVERY_IPV4


def _bind(family: int, host: str, port: int) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM)
    except OSError as error:
        kind = _Short if error.errno in _SHORTAGES else ConfigError
        raise kind(f"no datagrams of this family: {error.strerror or error}") from None
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            with suppress(OSError):  # named, and not known to this kernel
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        elif sys.platform == "linux":
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                errno.EADDRINUSE,
                f"discovery port {port} (UDP) is held by a program that does not share it: stop that, or choose "
                "another port in every node",
            ) from None
        if error.errno == errno.EACCES:
            raise ConfigError(f"no right to use discovery port {port}: choose one from 1024 on") from None
        raise ConfigError(f"cannot use discovery port {port} of {host}: {error.strerror or error}") from None
    except BaseException:
        sock.close()
        raise
    return sock


def _plain(name: str) -> str:
    """The name of an interface as it is, an address in its usual form."""
    return (usual_host(name) or name) if ":" in name else name


def _index_of(control: Iterable[tuple[int, int, bytes]]) -> int:
    for level, kind, data in control:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            return int.from_bytes(data[:4], sys.byteorder)
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            return int.from_bytes(data[16:20], sys.byteorder)
    return 0


def _source(address: Any) -> PeerEndpoint:
    host = with_interface(address[0], address[3]) if len(address) == 4 else address[0]
    return PeerEndpoint(host, address[1])
