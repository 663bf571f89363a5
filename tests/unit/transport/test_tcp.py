"""Dialling over TCP: the race over a name's addresses, its bounds, and what its failures are called."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from p2p.errors import ConfigError, ConnectFailed, Reason
from p2p.ids import PeerEndpoint
from p2p.limits import Limits
from p2p.transport import tcp
from p2p.transport.tcp import TcpNetwork
from p2p.transport.tcp_listener import TcpListener

NAMED = PeerEndpoint("name.example", 9001)


def resolves_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    """Let every name have these addresses."""

    async def getaddrinfo(host: str, port: int, **_: object) -> list[object]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, at, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, at))
            for address, at in addresses
        ]

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)


@asynccontextmanager
async def listening() -> AsyncIterator[TcpListener]:
    listener = await TcpNetwork().listen("127.0.0.1", 0)
    try:
        yield listener
    finally:
        await listener.aclose()


async def refused_port() -> int:
    listener = await TcpNetwork().listen("127.0.0.1", 0)
    await listener.aclose()
    return listener.endpoints[0].port


def never_connects(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> list[str]:
    """Let dials to these hosts meet silence; returns the addresses tried, in order."""
    tried: list[str] = []
    real = tcp._connect_one

    async def connect_one(address: tuple[int, tuple[str, int]]) -> socket.socket:
        host = address[1][0]
        tried.append(host)
        if host in hosts:
            await trio.sleep_forever()
        return await real(address)

    monkeypatch.setattr(tcp, "_connect_one", connect_one)
    return tried


async def test_a_failed_address_leads_to_the_next_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as listener:
        port = listener.endpoints[0].port
        resolves_to(monkeypatch, ("127.0.0.2", await refused_port()), ("127.0.0.1", port))
        limits = replace(Limits(), dial_stagger_s=3600.0)
        stream = await TcpNetwork(limits).connect(NAMED)
        assert stream.remote == PeerEndpoint("127.0.0.1", port)
        await stream.aclose()


async def test_a_silent_address_does_not_hold_up_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as listener:
        port = listener.endpoints[0].port
        resolves_to(monkeypatch, ("192.0.2.1", port), ("127.0.0.1", port))
        tried = never_connects(monkeypatch, "192.0.2.1")
        limits = replace(Limits(), dial_stagger_s=0.001)
        stream = await TcpNetwork(limits).connect(NAMED)
        assert tried == ["192.0.2.1", "127.0.0.1"]
        await stream.aclose()


async def test_addresses_alternate_between_the_families_and_are_bounded(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    resolves_to(
        monkeypatch, *((f"2001:db8::{n}", 1) for n in range(1, 4)), *((f"192.0.2.{n}", 1) for n in range(1, 100))
    )
    tried = never_connects(monkeypatch, *(f"2001:db8::{n}" for n in range(4)), *(f"192.0.2.{n}" for n in range(100)))
    limits = replace(Limits(), dial_addresses_max=7)
    began = trio.current_time()
    with pytest.raises(ConnectFailed) as caught:
        await TcpNetwork(limits).connect(NAMED)
    assert caught.value.reason is Reason.TIMEOUT
    assert trio.current_time() - began == pytest.approx(limits.dial_s_max)
    assert tried == [
        "2001:db8::1",
        "192.0.2.1",
        "2001:db8::2",
        "192.0.2.2",
        "2001:db8::3",
        "192.0.2.3",
        "192.0.2.4",
    ]


async def test_a_name_server_that_does_not_answer_is_a_timeout(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async def getaddrinfo(*_: object, **__: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    for method in (TcpNetwork().connect, TcpNetwork().resolve):
        with pytest.raises(ConnectFailed) as caught:
            await method(NAMED)
        assert caught.value.reason is Reason.TIMEOUT
        assert "name.example" in caught.value.detail


async def test_an_address_that_says_nothing_is_a_timeout() -> None:
    with ExitStack() as closing:
        deaf = closing.enter_context(socket.socket())
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        # The one that the kernel accepts for it. What comes next is not answered.
        closing.enter_context(socket.create_connection(deaf.getsockname()))
        where = PeerEndpoint(*deaf.getsockname())
        with trio.fail_after(30), pytest.raises(ConnectFailed, match=r"did not answer within 0\.01 s") as caught:
            await TcpNetwork(replace(Limits(), dial_s_max=0.01)).connect(where)
        assert caught.value.reason is Reason.TIMEOUT


async def test_the_detail_names_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    port = await refused_port()
    resolves_to(monkeypatch, ("127.0.0.1", port), ("127.0.0.2", port))
    with pytest.raises(ConnectFailed) as caught:
        await TcpNetwork().connect(NAMED)
    assert caught.value.reason is Reason.REFUSED
    refused = os.strerror(errno.ECONNREFUSED)
    assert caught.value.detail == f"127.0.0.1: {refused}; 127.0.0.2: {refused}"
    assert caught.value.__cause__ is None


async def test_t49_resolve_gives_addresses_and_keeps_who_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    resolves_to(monkeypatch, ("169.254.169.254", 9001), ("::1", 9001), ("169.254.169.254", 9001))
    found = await TcpNetwork().resolve(replace(NAMED, expect="b"))
    assert found == (PeerEndpoint("169.254.169.254", 9001, "tcp", "b"), PeerEndpoint("::1", 9001, "tcp", "b"))


async def test_a_name_with_addresses_of_neither_family_is_unresolved(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: object, **__: object) -> list[object]:
        return [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", "/run/x")]

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(ConnectFailed) as caught:
        await TcpNetwork().connect(NAMED)
    assert caught.value.reason is Reason.UNRESOLVED


async def test_t04_a_name_is_unresolved_while_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: object, **__: object) -> list[object]:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(ConnectFailed, match="can't start new thread") as caught:
        await TcpNetwork().connect(NAMED)
    assert caught.value.reason is Reason.UNRESOLVED
    with pytest.raises(ConfigError, match="can't start new thread"):
        await TcpNetwork().listen("localhost", 0)


async def test_t08_a_socket_that_connected_to_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """On loopback TCP lets a port dial itself (simultaneous open); nobody listens there all the same."""
    port = await refused_port()

    class FromThatPort(socket.socket):
        def connect_ex(self, where: object) -> int:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.bind(("127.0.0.1", port))
            return super().connect_ex(where)  # type: ignore[arg-type]  # an address of whatever family

    monkeypatch.setattr(socket, "socket", FromThatPort)
    with pytest.raises(ConnectFailed) as caught:
        await TcpNetwork().connect(PeerEndpoint("127.0.0.1", port))
    assert caught.value.reason is Reason.REFUSED


async def test_out_of_descriptors_is_a_refusal_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with listening() as listener:
        monkeypatch.setattr(socket, "socket", refuse)
        with pytest.raises(ConnectFailed, match=os.strerror(errno.EMFILE)):
            await TcpNetwork().connect(listener.endpoints[0])
        monkeypatch.undo()


async def test_a_dial_cancelled_in_mid_race_closes_every_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []

    scope = trio.CancelScope()

    class Silent(socket.socket):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]  # passed on as they are
            made.append(self)

        def connect_ex(self, where: object) -> int:
            if len(made) == 2:
                scope.cancel()
            return errno.EINPROGRESS

    async def never(_: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(socket, "socket", Silent)
    monkeypatch.setattr(trio.lowlevel, "wait_writable", never)
    resolves_to(monkeypatch, ("127.0.0.1", 9), ("127.0.0.2", 9))
    with trio.fail_after(30), scope:
        await TcpNetwork(replace(Limits(), dial_stagger_s=0.001)).connect(NAMED)
    assert scope.cancelled_caught
    assert len(made) == 2
    assert all(sock.fileno() == -1 for sock in made)


async def test_two_that_connect_in_one_turn_leave_one_open(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as listener:
        where = ("127.0.0.1", listener.endpoints[0].port)
        made: list[socket.socket] = []
        meeting = trio.Event()

        async def connect_one(address: object) -> socket.socket:
            sock = socket.create_connection(where)
            made.append(sock)
            if len(made) == 2:
                meeting.set()
            with trio.CancelScope(shield=True):
                await meeting.wait()
            return sock

        monkeypatch.setattr(tcp, "_connect_one", connect_one)
        resolves_to(monkeypatch, ("127.0.0.1", where[1]), ("127.0.0.2", where[1]))
        stream = await TcpNetwork(replace(Limits(), dial_stagger_s=0.001)).connect(NAMED)
        assert sorted(sock.fileno() == -1 for sock in made) == [False, True]
        await stream.aclose()
