"""The network window over TCP: resolving, dialling and listening.

Dialling is a staggered race over a name's addresses in the manner of RFC 8305: the next one starts when the one before
failed or `dial_stagger_s` have passed; the first to connect wins, the others are closed. Everything the race can meet
comes out as one `ConnectFailed`, never as a group.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Final

import trio

from p2p.errors import AddressInUse, ConfigError, ConnectFailed, Reason
from p2p.ids import PeerEndpoint, is_ipv4, usual_host
from p2p.limits import Limits
from p2p.transport.tcp_listener import EVERY_IPV4, TcpListener, endpoint_of
from p2p.transport.tcp_stream import TcpStream
from p2p.windows import Entropy, system_entropy

_PORT_ATTEMPTS: Final = 16
"""A port that is free on the first address may be taken on the second: with port 0 another one is tried."""


class TcpNetwork:
    """`Network` over the machine's TCP.

    Args:
        limits: the `dial_…`, `listen_backlog`, `descriptors_reserved` and `accept_pause_s_max` of the node.
        entropy: jitter of pauses; not security-relevant.
    """

    __slots__ = ("_entropy", "_limits")

    def __init__(self, limits: Limits | None = None, entropy: Entropy = system_entropy) -> None:
        self._limits = limits or Limits()
        self._entropy = entropy

    # Listening.

    async def listen(self, host: str | None, port: int) -> TcpListener:
        if host is None:
            await trio.lowlevel.checkpoint()
            with ExitStack() as closing:
                socks = [_bind_all_interfaces(port)]
                closing.callback(socks[0].close)
                return self._listener(socks, closing)
        addresses = await _addresses_to_listen_on(host, port)
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            with ExitStack() as closing:
                try:
                    socks = _bind_each(addresses, port, closing)
                except OSError as error:
                    if error.errno == errno.EADDRINUSE and port == 0 and attempt < _PORT_ATTEMPTS:
                        continue
                    raise _not_listening(error, host, port) from None
                return self._listener(socks, closing)
        raise AssertionError("the last attempt returns or raises")

    def _listener(self, socks: Sequence[socket.socket], closing: ExitStack) -> TcpListener:
        host, port = socks[0].getsockname()[:2]
        try:
            for sock in socks:
                sock.listen(self._limits.listen_backlog)
        except OSError as error:  # Linux lets two sockets bind with SO_REUSEADDR and refuses the second's listen
            raise _not_listening(error, host, port) from None
        closing.pop_all()
        return TcpListener(socks, limits=self._limits, entropy=self._entropy)

    # Dialling.

    async def resolve(self, endpoint: PeerEndpoint) -> tuple[PeerEndpoint, ...]:
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(self._limits.dial_s_max):
            found = [endpoint_of(address) for _, address in await self._lookup(endpoint)]
            return tuple(
                PeerEndpoint(at.host, at.port, endpoint.scheme, endpoint.expect) for at in found if at is not None
            )
        raise ConnectFailed(Reason.TIMEOUT, f"{endpoint.host} was not resolved within {self._limits.dial_s_max:g} s")

    async def connect(self, endpoint: PeerEndpoint) -> TcpStream:
        if endpoint.scheme != "tcp":
            raise ConnectFailed(Reason.UNSUPPORTED, f"{endpoint.scheme}:// is not TCP")
        within_s = self._limits.dial_s_max
        try:
            if is_ipv4(endpoint.host):
                # There is nothing to resolve and nothing to race, and within a machine nothing to wait for.
                sock = await _only((socket.AF_INET, (endpoint.host, endpoint.port)), within_s)
                remote = endpoint if endpoint.expect is None else PeerEndpoint(endpoint.host, endpoint.port)
                return TcpStream(sock, remote, speaks_first=True)
            with trio.fail_after(within_s):
                addresses = await self._lookup(endpoint)
                # A race costs more than a connect.
                race = _race(addresses, self._limits.dial_stagger_s) if len(addresses) > 1 else _only(addresses[0])
                sock = await race
                return TcpStream(sock, _peer_of(sock) or endpoint, speaks_first=True)
        except trio.TooSlowError:
            raise ConnectFailed(Reason.TIMEOUT, f"{endpoint} did not answer within {within_s:g} s") from None

    async def _lookup(self, endpoint: PeerEndpoint) -> list[_Address]:
        if is_ipv4(endpoint.host):
            return [(socket.AF_INET, (endpoint.host, endpoint.port))]
        if endpoint.judged:
            judged = [(socket.AF_INET6 if ":" in host else socket.AF_INET, host) for host in endpoint.judged]
            return _alternating((family, (host, endpoint.port)) for family, host in judged)
        try:
            found = await trio.socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, RuntimeError) as error:  # RuntimeError: no thread can be started for it
            raise ConnectFailed(Reason.UNRESOLVED, f"{endpoint.host}: {_text(error)}") from None
        addresses = _alternating(dict.fromkeys((family, address) for family, _, _, _, address in found))
        if not addresses:
            raise ConnectFailed(Reason.UNRESOLVED, f"{endpoint.host} has no IPv4 or IPv6 address")
        return addresses[: self._limits.dial_addresses_max]


_UNDER_WAY: Final = frozenset(
    {errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", errno.EWOULDBLOCK)}
)
"""What a connect that does not wait says; on Linux also one within the machine, which is there by then."""

_Address = tuple[int, Any]
"""A socket family, and an address of that family as the socket module takes it."""


def _alternating(addresses: Iterable[_Address]) -> list[_Address]:
    """Take the families in turn, beginning with that of the first: if one of them leads nowhere, the other is next."""
    queues: dict[int, list[_Address]] = {}
    for address in addresses:
        if address[0] in (socket.AF_INET, socket.AF_INET6):
            queues.setdefault(address[0], []).append(address)
    ordered: list[_Address] = []
    while any(queues.values()):
        ordered.extend(queue.pop(0) for queue in queues.values() if queue)
    return ordered


async def _race(addresses: Sequence[_Address], stagger_s: float) -> socket.socket:
    """Connect to the first address that lets us.

    Raises:
        ConnectFailed: none did.
    """
    winners: list[socket.socket] = []
    failures: list[str] = []

    @trio.lowlevel.enable_ki_protection
    async def attempt(address: _Address, failed: trio.Event) -> None:
        try:
            sock = await _connect_one(address)
        except OSError as error:
            failures.append(f"{address[1][0]}: {_text(error)}")
            failed.set()
        else:
            winners.append(sock)
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(stagger_s):
                    await failed.wait()
    except BaseException:
        for sock in winners:
            sock.close()
        raise
    if not winners:
        raise ConnectFailed(Reason.REFUSED, "; ".join(failures[:4]))
    for late in winners[1:]:  # two may connect in one turn of the loop
        late.close()
    return winners[0]


async def _only(address: _Address, within_s: float = math.inf) -> socket.socket:
    try:
        return await _connect_one(address, within_s)
    except OSError as error:
        raise ConnectFailed(Reason.REFUSED, f"{address[1][0]}: {_text(error)}") from None


async def _connect_one(address: _Address, within_s: float = math.inf) -> socket.socket:
    """Connect to one address.

    Raises:
        OSError: it does not let us.
        trio.TooSlowError: it said nothing for so long.
    """
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(where)
        if code in _UNDER_WAY and not _is_connected(sock):
            with trio.fail_after(within_s):
                await trio.lowlevel.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        else:
            await trio.lowlevel.checkpoint()
        if code and code not in _UNDER_WAY:
            raise OSError(code, os.strerror(code))
        own = sock.getsockname()
        if own[1] == where[1] and own == sock.getpeername():
            # Nobody listens, and the kernel gave us the very port that we dial: TCP then connects to itself.
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    except BaseException:
        sock.close()
        raise
    return sock


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:  # not yet, or it was refused: whoever waits for it is told
        return False
    return True


def _peer_of(sock: socket.socket) -> PeerEndpoint | None:
    try:
        return endpoint_of(sock.getpeername())
    except OSError:  # reset already: reading will tell
        return None


async def _addresses_to_listen_on(host: str, port: int) -> list[_Address]:
    usual = usual_host(host) or host  # an IPv4 address wrapped in IPv6 is bound as what it is
    try:
        found = await trio.socket.getaddrinfo(usual, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except RuntimeError as error:  # no thread can be started for it
        raise ConfigError(f"cannot listen on {host!r}: {error}") from None
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot listen on {host!r}: {_text(error)}; {_OWN_ADDRESS}") from None
    return _alternating(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bind_all_interfaces(port: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            try:
                return _bind(socket.AF_INET6, ("::", port), dual_stack=True)
            except OSError as error:
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):  # IPv6 is compiled in and switched off
                    raise
        return _bind(socket.AF_INET, (EVERY_IPV4, port))
    except OSError as error:
        raise _not_listening(error, "all interfaces", port) from None


def _bind_each(addresses: Sequence[_Address], port: int, closing: ExitStack) -> list[socket.socket]:
    """Bind every address to one port; with port 0 the first one's free port is the others' too."""
    socks: list[socket.socket] = []
    missing: OSError | None = None
    for family, address in addresses:
        shared = port or (socks[0].getsockname()[1] if socks else 0)
        try:
            sock = _bind(family, (address[0], shared, *address[2:]))
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            missing = error  # "localhost" also names ::1 where IPv6 is switched off: one address is enough
        else:
            closing.callback(sock.close)
            socks.append(sock)
    if not socks:
        raise missing or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    return socks


def _bind(family: int, address: Any, *, dual_stack: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if sys.platform == "win32":
            # There SO_REUSEADDR means that somebody else may take the port away from us.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            # A restarted node gets its port back although old connections are still in TIME_WAIT.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual_stack else 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _not_listening(error: OSError, host: str, port: int) -> Exception:
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(
            errno.EADDRINUSE, f"port {port} on {host} is in use: stop what listens there, or choose another"
        )
    if error.errno == errno.EACCES:
        return ConfigError(
            f"no right to listen on port {port} of {host}: ports below 1024 usually need it; choose another"
        )
    mend = f"; {_OWN_ADDRESS}" if error.errno == errno.EADDRNOTAVAIL else ""
    return ConfigError(f"cannot listen on port {port} of {host}: {_text(error)}{mend}")


_OWN_ADDRESS: Final = "give an address of this machine"


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
