"""The TCP door: one or several listening sockets behind one `accept`.

What can go wrong while accepting is of two kinds, and neither may end the listener (T04):

- the one connection failed before we had it (aborted, refused by a firewall, reset): the kernel has forgotten it, and
  the next one is looked at;
- the machine is short of something (descriptors, memory, buffers), or the error is one that we have never seen: nothing
  is gained by asking again at once, so accepting rests for a moment, with jitter so that several listeners do not wake
  together. The connections wait in the kernel's backlog.

A reserve of descriptors is kept before the limit is reached: the kernel hands out the lowest free number, so a new
connection whose number lies within the reserve says that fewer than that are left. It is reset, and accepting rests.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final

import trio

from p2p.ids import PeerEndpoint
from p2p.limits import Limits
from p2p.transport.interfaces import with_interface
from p2p.transport.readiness import wait_any_readable
from p2p.transport.tcp_stream import TcpStream
from p2p.windows import Entropy, uniform

_CONNECTION_FAILED: Final = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNABORTED",
        "ECONNRESET",
        "EPERM",  # Linux: a firewall rule
        "EPROTO",
        # Linux reports an error of the connection as an error of accept():
        "ENETDOWN",
        "ENOPROTOOPT",
        "EHOSTDOWN",
        "ENONET",
        "EHOSTUNREACH",
        "ENETUNREACH",
        "ETIMEDOUT",
    )
    if hasattr(errno, name)
)


EVERY_IPV4: Final = "0.0.0.0"  # noqa: S104 - whether to listen on it is the caller's decision (listen_host)


class _Short(Enum):
    """Why there is no stream."""

    OF_CONNECTIONS = 1
    OF_LUCK = 2
    OF_SOMETHING = 3


class TcpListener:
    """Listening sockets that share a port.

    Args:
        socks: bound, listening, non-blocking; the listener owns them from here on.
        limits: `descriptors_reserved` and `accept_pause_s_max` are used.
        entropy: jitter of the pauses.
        descriptors_max: how many descriptors the process may have; None where the system does not say.

    Attributes:
        pauses: how often accepting rested.
        failures: connections that failed before they were accepted.
    """

    __slots__ = ("_closed", "_descriptors_max", "_endpoints", "_entropy", "_limits", "_socks", "failures", "pauses")

    def __init__(
        self,
        socks: Sequence[socket.socket],
        *,
        limits: Limits,
        entropy: Entropy,
        descriptors_max: Callable[[], int | None] | None = None,
    ) -> None:
        assert socks
        self._socks = list(socks)
        self._endpoints = tuple(endpoint for sock in socks for endpoint in _listening_at(sock))
        self._limits = limits
        self._entropy = entropy
        self._descriptors_max = descriptors_max or descriptor_limit
        self._closed = trio.Event()
        self.pauses = 0
        self.failures = 0

    @property
    def endpoints(self) -> tuple[PeerEndpoint, ...]:
        return self._endpoints

    async def accept(self) -> TcpStream:
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            accepted = self._accept_now()
            if not isinstance(accepted, _Short):
                if not waited:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return accepted
            if self._closed.is_set():
                await trio.lowlevel.checkpoint()
                raise trio.ClosedResourceError("this listener was closed")
            if accepted is _Short.OF_SOMETHING:
                await self._rest()
            elif accepted is _Short.OF_CONNECTIONS:
                await wait_any_readable(self._socks)
            else:
                await trio.lowlevel.checkpoint()  # a flood of failing connections must not keep the loop
            waited = True

    async def aclose(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            for sock in self._socks:
                trio.lowlevel.notify_closing(sock)
                sock.close()
        await trio.lowlevel.checkpoint()

    def _accept_now(self) -> TcpStream | _Short:
        # The sockets take turns at being first, so that a flood on IPv4 does not shut out IPv6.
        self._socks.append(self._socks.pop(0))
        for sock in self._socks:
            try:
                connection, address = sock.accept()
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as error:
                if error.errno in _CONNECTION_FAILED:
                    self.failures += 1
                    return _Short.OF_LUCK
                return _Short.OF_SOMETHING
            stream = TcpStream(connection, endpoint_of(address))
            descriptors = self._descriptors_max()
            if descriptors is not None and connection.fileno() >= descriptors - self._limits.descriptors_reserved:
                stream.abort()
                return _Short.OF_SOMETHING
            return stream
        return _Short.OF_CONNECTIONS

    async def _rest(self) -> None:
        self.pauses += 1
        longest = self._limits.accept_pause_s_max
        with trio.move_on_after(longest * (0.5 + uniform(self._entropy) / 2)):
            await self._closed.wait()


def descriptor_limit() -> int | None:
    """How many file descriptors this process may have open; None where the system sets or tells no limit."""
    if sys.platform == "win32":
        return None
    import resource  # not there on Windows

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def endpoint_of(address: Any) -> PeerEndpoint | None:
    """The endpoint for a socket address as the socket module gives it; None for anything but IPv4 and IPv6.

    An IPv4 address that a dual-stack socket shows as `::ffff:a.b.c.d` becomes the IPv4 address that it is, and a
    link-local one has its interface.
    """
    if not isinstance(address, tuple) or len(address) < 2:
        return None
    host = with_interface(address[0], address[3]) if len(address) == 4 else address[0]
    return PeerEndpoint(host, address[1])


def _listening_at(sock: socket.socket) -> tuple[PeerEndpoint, ...]:
    endpoint = endpoint_of(sock.getsockname())
    if endpoint is None:
        return ()
    if (
        sock.family == socket.AF_INET6
        and endpoint.host == "::"
        and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    ):
        return (PeerEndpoint(EVERY_IPV4, endpoint.port), endpoint)
    return (endpoint,)
