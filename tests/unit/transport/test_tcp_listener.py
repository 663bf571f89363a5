"""The TCP door under shortage and failure (T04), on several addresses, and what an address is called."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p.errors import AddressInUse, ConfigError
from p2p.ids import PeerEndpoint
from p2p.limits import Limits
from p2p.transport.tcp import TcpNetwork
from p2p.transport.tcp_listener import TcpListener, descriptor_limit, endpoint_of
from p2p.transport.tcp_stream import TcpStream

needs_ipv6 = pytest.mark.skipif(
    not Path("/proc/net/if_inet6").exists() or not Path("/proc/net/if_inet6").read_text(), reason="no IPv6 here"
)


class ScriptedSocket(socket.socket):
    """A listening socket whose first calls of accept fail as told, and whose later ones are real."""

    def __init__(self, errors: list[int]) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self.errors = errors
        self.setblocking(False)
        self.bind(("127.0.0.1", 0))
        self.listen()

    def accept(self) -> tuple[socket.socket, object]:
        if self.errors:
            code = self.errors.pop(0)
            raise OSError(code, os.strerror(code))
        return super().accept()


def listener_on(
    sock: socket.socket, limits: Limits | None = None, descriptors_max: Callable[[], int | None] | None = None
) -> TcpListener:
    return TcpListener([sock], limits=limits or Limits(), entropy=bytes, descriptors_max=descriptors_max)


async def greet(listener: TcpListener) -> None:
    """A connection goes through."""
    client = await TcpNetwork().connect(listener.endpoints[0])
    server = await listener.accept()
    await client.send_all(b"hi")
    assert await server.receive_some() == b"hi"
    await client.aclose()
    await server.aclose()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EINVAL])
async def test_t04_a_shortage_rests_with_jitter_and_the_listener_lives(code: int) -> None:
    listener = listener_on(ScriptedSocket([code] * 3), replace(Limits(), accept_pause_s_max=0.002))
    before = trio.current_time()
    await greet(listener)
    assert listener.pauses == 3
    assert trio.current_time() - before >= 3 * 0.001
    await listener.aclose()


@pytest.mark.parametrize("code", [errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENETDOWN])
async def test_t04_a_connection_that_failed_before_it_was_ours_costs_no_rest(code: int) -> None:
    listener = listener_on(ScriptedSocket([code] * 3))
    await greet(listener)
    assert (listener.failures, listener.pauses) == (3, 0)
    await listener.aclose()


@pytest.mark.parametrize("draw", [b"\0", b"\xff"])
async def test_t04_a_rest_lasts_from_half_the_bound_to_the_bound(draw: bytes, mock_clock: MockClock) -> None:
    sock = ScriptedSocket([errno.EMFILE])
    listener = TcpListener([sock], limits=Limits(), entropy=lambda count: draw * count)
    expected = 0.1 if draw == b"\0" else 0.2
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.accept)
        await wait_all_tasks_blocked()
        deadline = trio.lowlevel.current_statistics().seconds_to_next_deadline
        assert deadline == pytest.approx(expected)
        nursery.cancel_scope.cancel()
    await listener.aclose()


async def test_t04_closing_ends_a_rest_at_once(mock_clock: MockClock) -> None:
    listener = listener_on(ScriptedSocket([errno.EMFILE]))

    async def accept() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        await wait_all_tasks_blocked()
        await listener.aclose()


async def test_t04_a_reserve_of_descriptors_is_kept_free() -> None:
    """With the limit just above what is open, a connection is reset instead of taking one of the last descriptors."""
    limit = 10_000
    limits = replace(Limits(), accept_pause_s_max=0.001)
    listener = listener_on(ScriptedSocket([]), limits, descriptors_max=lambda: limit)
    await greet(listener)
    taken = os.dup(0)
    os.close(taken)
    limit = taken + limits.descriptors_reserved - 1
    client = await TcpNetwork().connect(listener.endpoints[0])
    accepted: list[TcpStream] = []

    async def accept() -> None:
        accepted.append(await listener.accept())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()
        assert accepted == []
        assert listener.pauses == 1
        limit = 10_000
        second = await TcpNetwork().connect(listener.endpoints[0])
    assert len(accepted) == 1
    for stream in (client, second, *accepted):
        await stream.aclose()
    await listener.aclose()


@pytest.fixture
def few_descriptors() -> Iterator[int]:
    """A process that may open some forty descriptors more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 41, hard))
    try:
        yield highest + 41
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_t04_a_real_flood_leaves_the_reserve_and_the_door_opens_again(few_descriptors: int) -> None:
    limits = replace(Limits(), accept_pause_s_max=0.002)
    listener = await TcpNetwork(limits).listen("127.0.0.1", 0)
    where = ("127.0.0.1", listener.endpoints[0].port)
    assert descriptor_limit() == few_descriptors
    accepted = []

    async def accept_all() -> None:
        while True:
            accepted.append(await listener.accept())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept_all)
        flood: list[socket.socket] = []
        while listener.pauses < 3:
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(where)
            flood.append(sock)
            await trio.sleep(0)
            if len(flood) > 18:
                flood.pop(0).close()
        spare = [os.dup(0) for _ in range(4)]
        for descriptor in spare:
            os.close(descriptor)
        for sock in flood:
            sock.close()
        nursery.cancel_scope.cancel()
    for stream in accepted:
        stream.abort()
    client = await TcpNetwork().connect(listener.endpoints[0])
    await client.send_all(b"hello")
    while await first_bytes(await listener.accept()) != b"hello":
        pass  # what the flood left in the backlog
    await client.aclose()
    await listener.aclose()


async def first_bytes(stream: TcpStream) -> bytes:
    async with stream:
        try:
            return await stream.receive_some()
        except trio.BrokenResourceError:
            return b""


@needs_ipv6
async def test_all_interfaces_are_ipv4_and_ipv6_on_one_port_and_ipv4_peers_look_like_ipv4() -> None:
    listener = await TcpNetwork().listen(None, 0)
    port = listener.endpoints[0].port
    assert listener.endpoints == (PeerEndpoint("0.0.0.0", port), PeerEndpoint("::", port))
    for host in ("127.0.0.1", "::1"):
        client = await TcpNetwork().connect(PeerEndpoint(host, port))
        server = await listener.accept()
        assert server.remote is not None
        assert server.remote.host == host
        await client.aclose()
        await server.aclose()
    for host in (None, "127.0.0.1", "::1"):
        with pytest.raises(AddressInUse, match=str(port)):
            await TcpNetwork().listen(host, port)
    await listener.aclose()


async def test_all_interfaces_without_ipv6_are_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    listener = await TcpNetwork().listen(None, 0)
    assert listener.endpoints == (PeerEndpoint("0.0.0.0", listener.endpoints[0].port),)
    await greet_at(listener, "127.0.0.1")
    await listener.aclose()


async def greet_at(listener: TcpListener, host: str) -> None:
    client = await TcpNetwork().connect(PeerEndpoint(host, listener.endpoints[0].port))
    server = await listener.accept()
    await client.aclose()
    await server.aclose()


@needs_ipv6
async def test_a_name_with_two_addresses_is_listened_on_at_both_with_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    async def both(host: str, port: int, **_: object) -> list[object]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]

    monkeypatch.setattr(trio.socket, "getaddrinfo", both)
    listener = await TcpNetwork().listen("both.example", 0)
    monkeypatch.undo()
    port = listener.endpoints[0].port
    assert listener.endpoints == (PeerEndpoint("::1", port), PeerEndpoint("127.0.0.1", port))
    for host in ("127.0.0.1", "::1", "127.0.0.1"):
        await greet_at(listener, host)

    async def accept() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    async with trio.open_nursery() as nursery:  # waiting for two sockets at once, and closed under it
        nursery.start_soon(accept)
        await wait_all_tasks_blocked()
        await listener.aclose()


async def test_an_ipv4_address_in_the_form_of_ipv6_is_listened_on_as_what_it_is() -> None:
    listener = await TcpNetwork().listen("::ffff:127.0.0.1", 0)
    assert [at.host for at in listener.endpoints] == ["127.0.0.1"]
    await listener.aclose()


async def test_a_name_that_has_no_address_cannot_be_listened_on() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.invalid"):
        await TcpNetwork().listen("nowhere.invalid", 0)


async def test_a_port_without_the_right_to_it_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    class Refusing(socket.socket):
        bind = refuse

    monkeypatch.setattr(socket, "socket", Refusing)
    for host in ("127.0.0.1", None):
        with pytest.raises(ConfigError, match="port 80 of"):
            await TcpNetwork().listen(host, 80)


def test_addresses_become_endpoints() -> None:
    assert endpoint_of(("192.0.2.1", 9)) == PeerEndpoint("192.0.2.1", 9)
    assert endpoint_of(("::ffff:192.0.2.1", 9, 0, 0)) == PeerEndpoint("192.0.2.1", 9)
    assert endpoint_of(("2001:db8::1", 9, 0, 0)) == PeerEndpoint("2001:db8::1", 9)
    assert endpoint_of(("fe80::1%lo", 9, 0, 1)) == PeerEndpoint("fe80::1%lo", 9)
    lo = socket.if_nametoindex("lo")
    assert endpoint_of(("fe80::1", 9, 0, lo)) == PeerEndpoint("fe80::1%lo", 9), "as a datagram from there is shown"
    assert endpoint_of(("fe80::1", 9, 0, 2**31 - 1)) == PeerEndpoint("fe80::1", 9)
    assert endpoint_of("/run/socket") is None
    assert endpoint_of(()) is None


async def test_t04_a_flood_on_one_address_does_not_shut_out_another() -> None:
    socks = [ScriptedSocket([]) for _ in range(2)]
    listener = TcpListener(socks, limits=Limits(), entropy=bytes)
    flooded, other = listener.endpoints
    clients = [await TcpNetwork().connect(place) for place in (flooded, flooded, flooded, other)]
    accepted = [await listener.accept() for _ in range(2)]
    assert {stream._sock.getsockname()[1] for stream in accepted} == {flooded.port, other.port}
    for stream in (*clients, *accepted):
        await stream.aclose()
    await listener.aclose()
