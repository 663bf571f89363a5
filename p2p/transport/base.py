"""What every transport is to the floors above: `LinkStream`, `Listener`, `Datagrams`, and `Network` of them all.

Closed, Broken and Busy mean what they mean in trio: `trio.ClosedResourceError` when this side closed,
`trio.BrokenResourceError` when the other side or the way to it is gone, `trio.BusyResourceError` when two tasks use
one direction at once (a bug of the caller).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from operator import index
from typing import Final, Protocol

import msgspec
import trio

from p2p.errors import Reason
from p2p.ids import PeerEndpoint
from p2p.limits import KIB

RECEIVE_BYTES: Final = 64 * KIB
"""What a read asks for unless told. A scratch buffer with recv_into was not faster: the copy costs what it saves."""


class LinkBroke(trio.BrokenResourceError):
    """The way to the other side is gone, and somebody on it said why; nothing proves that it is so.

    Attributes:
        reason: what was said.
    """

    def __init__(self, text: str, reason: Reason) -> None:
        super().__init__(text)
        self.reason = reason


class RulesBroken(trio.BrokenResourceError):
    """What carries the link came to its end because the other side broke its rules, as no node does."""


def receive_size(max_bytes: int | None) -> int:
    """What to ask for, given the argument of `receive_some`.

    Raises:
        ValueError: less than 1.
        TypeError: not an integer.
    """
    if max_bytes is None:
        return RECEIVE_BYTES
    if index(max_bytes) < 1:
        raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
    return max_bytes


class LinkStream(trio.abc.Stream):
    """A trio stream with what a link needs beyond: who is there, cheap reads, sends that never wait, an abrupt end."""

    __slots__ = ()

    @property
    @abstractmethod
    def remote(self) -> PeerEndpoint | None:
        """Where the other side is, as far as the transport can tell. For prefix limits and display; proves nothing."""

    async def receive_chunk(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As `receive_some`, but bytes that are at hand may be returned without a checkpoint.

        A checkpoint costs more than the read itself, so a reader loop calls this one. It makes a real checkpoint at
        least every few calls: a peer that sends without pause cannot keep the loop from the other tasks, and
        cancellation is never far.
        """
        return await self.receive_some(max_bytes)

    async def receive_while(self, take: Callable[[bytes | bytearray], bool], max_bytes: int | None = None) -> None:
        """Hand each chunk, and b"" at the end, to `take`, as long as that returns that it wants more.

        The loop around `receive_chunk` that a link's reader needs, on this side of the call: a stream may wait in it
        with a coroutine less to pass through, which is a hundredth of what a question and its answer take.
        """
        while take(await self.receive_chunk(max_bytes)):
            pass

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Send what fits without waiting.

        Only to be called while no `send_all` runs. On a closed or broken stream nothing is accepted: the next
        `send_all` says what happened.

        Returns:
            How many of the first bytes were accepted; 0 if none, and always for transports that cannot do it.
        """
        return 0

    @property
    def unread_bytes(self) -> int:
        """Bytes that were sent here and that the other end may not have read yet; 0 for transports that cannot tell."""
        return 0

    def close_nowait(self) -> bool:
        """As `aclose`, where a close takes no word of the other side; False, with nothing done, where it does.

        Whoever ends many links need not wait a turn of the loop for each.
        """
        return False

    @abstractmethod
    def abort(self) -> None:
        """Close at once without waiting and without flushing. The other side sees a broken connection (TCP: RST).

        Idempotent; waiting tasks of this side get `trio.ClosedResourceError`.
        """


class Listener(Protocol):
    """An open door. One task may call `accept` at a time."""

    @property
    def endpoints(self) -> tuple[PeerEndpoint, ...]:
        """Where it listens, with the real port after port 0."""

    async def accept(self) -> LinkStream:
        """Wait for the next connection.

        A connection that fails while it is accepted, and a machine that is out of descriptors or memory, is dealt
        with inside (T04): no error of one connection ends the listener.

        Raises:
            trio.ClosedResourceError: the listener was closed.
        """

    async def aclose(self) -> None:
        """Close the door. Streams that were accepted are not touched. Idempotent."""


class Transport(Protocol):
    """One way of carrying streams."""

    async def listen(self, host: str | None, port: int) -> Listener:
        """Listen on a host's addresses, all on one port; None means every interface, IPv4 and IPv6.

        Port 0 takes a free one.

        Raises:
            AddressInUse: the port is taken; the text names it.
            ConfigError: this machine has no such address, or the port needs rights that we lack.
        """

    async def resolve(self, endpoint: PeerEndpoint) -> tuple[PeerEndpoint, ...]:
        """The endpoint's addresses in the order to try them, as endpoints whose host is an address.

        Who must not dial just anywhere (T49) resolves once, judges what came out and dials exactly that.

        Raises:
            ConnectFailed: UNRESOLVED, or TIMEOUT after `dial_s_max`.
        """

    async def connect(self, endpoint: PeerEndpoint) -> LinkStream:
        """Open a stream to the endpoint, trying its addresses in a staggered race: those that were judged, if any were.

        `expect` is not looked at.

        Raises:
            ConnectFailed: UNRESOLVED (the name has no address), REFUSED (nothing listens, or no way there) or
                TIMEOUT (`dial_s_max` for all of it).
        """


class Neighbourhood(msgspec.Struct, frozen=True):
    """Everybody within reach of a datagram: who shares a link with this machine and listens on the port.

    Args:
        port: UDP port, 1-65535; programs on one machine share it.
        group: an IPv4 multicast group; None for broadcast.
        group6: the IPv6 group, which stands for broadcast, too: IPv6 has none.
        loopback_only: this machine alone, and IPv4 alone.
        interfaces: names or addresses of the interfaces to speak and to hear on; empty for all that are up. One named
            by an address speaks from that address alone.
    """

    port: int
    group: str | None = None
    group6: str = "ff02::1:9025"
    loopback_only: bool = False
    interfaces: tuple[str, ...] = ()


class Spread(msgspec.Struct, frozen=True):
    """What became of one datagram to everybody.

    Attributes:
        sent: over how many interfaces it went, IPv4 and IPv6 counted apart.
        failures: where it did not, or where nothing can be heard, and why; one line each.
    """

    sent: int
    failures: tuple[str, ...] = ()


class Datagrams(Protocol):
    """An ear and a voice in a neighbourhood. One task may call `receive` at a time."""

    def spread(self, data: bytes) -> Spread:
        """Send a datagram to everybody, over all interfaces that are there now; it never waits.

        An interface that has come, gone or failed is no error of the whole: it is tried again with the next one.

        Raises:
            trio.ClosedResourceError: this was closed.
        """

    def missing(self) -> tuple[str, ...]:
        """A line for each interface that was named and is not there now, or by which nothing can be heard."""

    async def receive(self) -> tuple[bytes, PeerEndpoint]:
        """Wait for the next datagram that comes by an interface in use, one's own among them.

        Returns:
            The first `announce_read_bytes_max` + 1 bytes of it, and where it came from, in the scheme to dial there.
            A source address is easily forged.

        Raises:
            trio.ClosedResourceError: this was closed.
        """

    async def aclose(self) -> None:
        """Let the port go. Idempotent."""


class Network(Transport, Protocol):
    """The window to other machines."""

    def enter(self, nursery: trio.Nursery) -> None:
        """Run the tasks that streams need in this nursery: the one that everything that uses them runs in.

        To be called before the first stream is accepted or dialled. No task raises anything into it.
        """

    async def listen(self, host: str | None, port: int, scheme: str | None = None) -> Listener:
        """As `Transport.listen`, in one of the network's schemes; None for its usual one.

        Raises:
            AddressInUse, ConfigError: as there; ConfigError also where the network has no such scheme.
        """

    async def datagrams(self, near: Neighbourhood) -> Datagrams:
        """Open an ear and a voice for datagrams to everybody near.

        Raises:
            AddressInUse: a program that does not share the port has it; the text names the port.
            ConfigError: this machine has no such group or interface, or the port needs rights that we lack.
        """
