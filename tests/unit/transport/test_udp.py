"""Datagrams on real sockets, on loopback; what leaves a machine is tried in tests/netns."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from p2p.errors import AddressInUse, ConfigError
from p2p.limits import Limits
from p2p.transport import udp
from p2p.transport.base import Neighbourhood
from p2p.transport.interfaces import Interface
from p2p.transport.system import SystemNetwork
from p2p.transport.udp import UdpDatagrams, open_datagrams
from tests import ports

LIMITS = Limits()


def free_port() -> int:
    return ports.free_port("127.0.0.1", socket.SOCK_DGRAM)


def near(port: int, **changes: Any) -> Neighbourhood:
    return Neighbourhood(port, **({"loopback_only": True} | changes))


@asynccontextmanager
async def opened(where: Neighbourhood) -> AsyncIterator[UdpDatagrams]:
    datagrams = await open_datagrams(where, limits=LIMITS)
    try:
        yield datagrams
    finally:
        await datagrams.aclose()


async def hear(datagrams: UdpDatagrams) -> tuple[bytes, str]:
    with trio.fail_after(30):
        data, source = await datagrams.receive()
    assert source.scheme == "tcp"
    return data, source.host


@pytest.mark.parametrize("group", [None, "239.255.0.1"])
async def test_all_who_share_the_port_hear_it_the_speaker_among_them(group: str | None) -> None:
    where = near(free_port(), group=group)
    async with opened(where) as first, opened(where) as second, opened(where) as third:
        spread = first.spread(b"hello")
        assert (spread.sent, spread.failures) == (1, ())
        for one in (first, second, third):
            assert await hear(one) == (b"hello", "127.0.0.1")


async def test_a_plain_listener_on_all_interfaces_hears_it_too() -> None:
    """As Vix's: bound to the port on every address, with SO_REUSEADDR."""
    port = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        plain.bind(("", port))
        plain.settimeout(10)
        async with opened(near(port)) as ours:
            ours.spread(b"hello")
            data, source = plain.recvfrom(1500)
            assert (data, source[0]) == (b"hello", "127.0.0.1")


async def test_who_may_speak_to_others_is_heard_on_loopback_too() -> None:
    port = free_port()
    async with opened(near(port)) as shy, opened(near(port, loopback_only=False, interfaces=("lo",))) as bold:
        assert bold.spread(b"to all").sent == 1
        assert await hear(shy) == (b"to all", "127.0.0.1")
        shy.spread(b"to some")
        assert await hear(bold) == (b"to all", "127.0.0.1")
        assert await hear(bold) == (b"to some", "127.0.0.1")


async def test_interfaces_are_chosen_by_name_or_address() -> None:
    port = free_port()
    for name in ("lo", "127.0.0.1"):
        async with opened(near(port, loopback_only=False, interfaces=(name,))) as one:
            assert one.spread(b"x").sent == 1
    async with opened(near(port, loopback_only=False, interfaces=("nothing0",))) as one:
        assert one.spread(b"x").sent == 0


@pytest.mark.parametrize("group", [None, "239.255.0.1"])
async def test_what_comes_by_another_interface_is_not_heard(group: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    where = near(free_port(), group=group, loopback_only=False, interfaces=("lan0",))
    [loopback] = [one for one in udp.interfaces() if one.is_loopback]
    async with opened(near(where.port, group=group)) as neighbour, opened(where) as one:

        async def hear_the_wanted() -> None:
            assert await hear(one) == (b"wanted", "127.0.0.1")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear_the_wanted)
            neighbour.spread(b"unwanted")
            with trio.fail_after(30):
                while not one.unwanted:
                    await trio.lowlevel.checkpoint()
            monkeypatch.setattr(udp, "interfaces", lambda: (replace(loopback, name="lan0"),))
            one.join()
            neighbour.spread(b"wanted")


async def test_an_ear_alone_uses_an_interface_that_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "LOOK_S", 0.05)
    everything = udp.interfaces
    monkeypatch.setattr(udp, "interfaces", lambda: ())
    where = near(free_port(), group="239.255.0.1")
    async with opened(where) as ear, trio.open_nursery() as nursery:

        async def listen() -> None:
            assert await hear(ear) == (b"x", "127.0.0.1")
            nursery.cancel_scope.cancel()

        nursery.start_soon(listen)
        await wait_all_tasks_blocked()
        monkeypatch.setattr(udp, "interfaces", everything)
        async with opened(where) as neighbour:
            while True:
                neighbour.spread(b"x")
                await trio.sleep(0.01)


@pytest.mark.parametrize("count", [1, 2])
async def test_an_interface_that_is_not_there_is_named_with_those_that_are(count: int) -> None:
    names = ("lo", "eht0", "10.9.8.7")[: count + 1]
    async with opened(near(free_port(), loopback_only=False, interfaces=names)) as one:
        missing = one.missing()
        assert len(missing) == count
        assert missing[0].startswith("no interface eht0 is up; there are ")
        assert "lo (127.0.0.1)" in missing[0]
    for where in (near(free_port(), interfaces=names), near(free_port(), loopback_only=False)):
        async with opened(where) as one:
            assert one.missing() == ()


async def test_a_machine_that_cannot_tell_its_interfaces_misses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, "not now")

    async with opened(near(free_port(), loopback_only=False, interfaces=("eht0",))) as one:
        monkeypatch.setattr(udp, "interfaces", refuse)
        assert one.missing() == ()


async def test_a_port_that_is_not_shared_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as selfish:
        selfish.bind(("", 0))
        port = selfish.getsockname()[1]
        with pytest.raises(AddressInUse, match=str(port)) as caught:
            await open_datagrams(near(port), limits=LIMITS)
        assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize(
    ("where", "says"), [(near(0), "port 0"), (near(9, group="10.0.0.1"), "10.0.0.1"), (near(9, group="all"), "'all'")]
)
async def test_what_cannot_be_is_refused_in_words(where: Neighbourhood, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        await open_datagrams(where, limits=LIMITS)


async def test_too_long_a_datagram_is_cut_one_byte_after_the_bound() -> None:
    port = free_port()
    async with opened(near(port)) as one:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sender.sendto(bytes(5000), ("127.255.255.255", port))
        data, _ = await hear(one)
        assert len(data) == LIMITS.announce_read_bytes_max + 1


async def test_interfaces_that_come_go_and_fail_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interface that is no more refuses; the others are served, and all are tried again next time."""
    real = udp.interfaces()
    [loopback] = [one for one in real if one.is_loopback]
    gone = Interface(9999, "gone0", is_loopback=True, address="127.0.0.1", broadcast="127.255.255.255")
    port = free_port()
    async with opened(near(port)) as one:
        monkeypatch.setattr(udp, "interfaces", lambda: (gone, loopback))
        for _ in range(3):
            spread = one.spread(b"x")
            assert spread.sent == 1
            assert len(spread.failures) == 1
            assert spread.failures[0].startswith("gone0 IPv4: ")
            assert await hear(one) == (b"x", "127.0.0.1")
        monkeypatch.setattr(udp, "interfaces", lambda: ())
        assert one.spread(b"x").sent == 0
        monkeypatch.undo()
        assert one.spread(b"y").sent == 1


async def test_a_group_is_joined_where_an_interface_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    where = near(free_port(), group="239.255.0.1")
    everything = udp.interfaces
    monkeypatch.setattr(udp, "interfaces", lambda: ())
    async with opened(where) as one:
        monkeypatch.setattr(udp, "interfaces", everything)
        for data in (b"1", b"2"):
            one.spread(data)
            assert await hear(one) == (data, "127.0.0.1")


async def test_a_group_that_cannot_be_joined_is_told_and_joined_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "JOINING_MAX", 2)
    where = near(free_port(), group="239.255.0.1")
    everything = udp.interfaces
    monkeypatch.setattr(udp, "interfaces", lambda: ())
    async with opened(where) as one:
        monkeypatch.setattr(udp, "interfaces", everything)
        with monkeypatch.context() as full:

            def refuse(*args: Any, **kwargs: Any) -> Any:
                raise OSError(errno.ENOBUFS, "No room")

            full.setattr(one, "_change_membership", refuse)
            assert "lo IPv4: its group cannot be joined: No room" in one.spread(b"1").failures
            assert one.missing() == ("lo IPv4: its group cannot be joined: No room: it is tried again",)
        assert one.spread(b"2").failures == ()
        while (await hear(one))[0] != b"2":
            pass


async def test_a_machine_that_is_short_of_descriptors_is_told_of_and_speaks_ipv6_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = socket.socket

    def refuse(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EMFILE, "Too many open files")
        return made(family, kind)

    says = "IPv6: no datagrams of this family: Too many open files"
    with monkeypatch.context() as full:
        full.setattr(socket, "socket", refuse)
        one = await udp.open_datagrams(Neighbourhood(port=free_port()), limits=Limits())
        assert one.missing() == (f"{says}: it is tried again",)
        assert says in one.spread(b"1").failures
    try:
        assert says not in one.spread(b"2").failures
        assert one.missing() == ()
        assert {sock.family for sock in one._socks} == {socket.AF_INET, socket.AF_INET6}
    finally:
        await one.aclose()


async def test_t04_a_port_that_was_taken_while_the_machine_was_short_is_told_of_and_had_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, bind = socket.socket, udp._bind

    def short(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EMFILE, "Too many open files")
        return made(family, kind)

    def taken(family: int, host: str, port: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise AddressInUse(errno.EADDRINUSE, "it is held")
        return bind(family, host, port)

    with monkeypatch.context() as full:
        full.setattr(socket, "socket", short)
        one = await udp.open_datagrams(Neighbourhood(port=free_port()), limits=Limits())
    try:
        with monkeypatch.context() as held:
            held.setattr(udp, "_bind", taken)
            assert "IPv6: it is held" in one.spread(b"1").failures
            one._look_at = 0

            async def hear_on() -> None:
                while True:
                    await one.receive()

            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(hear_on)
                    while one.missing() != ("IPv6: it is held: it is tried again",):
                        await trio.sleep(0.001)
                    nursery.cancel_scope.cancel()
        one.spread(b"2")
        assert one.missing() == ()
        assert {sock.family for sock in one._socks} == {socket.AF_INET, socket.AF_INET6}
    finally:
        await one.aclose()


async def test_an_interface_that_went_is_left_and_joined_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    where = near(free_port(), group="239.255.0.1")
    async with opened(where) as one:
        with monkeypatch.context() as gone:
            gone.setattr(udp, "interfaces", lambda: ())
            assert one.spread(b"1").sent == 0
        assert one.spread(b"2").sent == 1
        assert await hear(one) == (b"2", "127.0.0.1")


@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.ENETUNREACH, errno.EPERM, errno.EAGAIN])
async def test_a_voice_that_fails_is_told_and_comes_back(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(code, "not now")

    async with opened(near(free_port())) as one:
        monkeypatch.setattr(one, "_send_ipv4", refuse)
        assert one.spread(b"x").failures == ("lo IPv4: not now",)
        monkeypatch.undo()
        assert one.spread(b"x").sent == 1


async def test_an_ear_that_fails_rests_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(near(free_port())) as one:
        real, failures = one._receive_now, [errno.ENOMEM, errno.ENETDOWN]

        def receive() -> Any:
            if failures:
                raise OSError(failures.pop(), "not now")
            return real()

        monkeypatch.setattr(one, "_receive_now", receive)
        one.spread(b"x")
        assert await hear(one) == (b"x", "127.0.0.1")
        assert one.failures == 2


async def test_closing_wakes_who_listens_and_closed_stays_closed() -> None:
    for where in (near(free_port()), near(free_port(), loopback_only=False, interfaces=("lo",))):
        async with opened(where) as one:

            async def listen(one: UdpDatagrams = one) -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await one.receive()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen)
                await wait_all_tasks_blocked()
                await one.aclose()
            with assert_checkpoints(), pytest.raises(trio.ClosedResourceError):
                await one.receive()
            with pytest.raises(trio.ClosedResourceError):
                one.spread(b"x")
            with assert_checkpoints():
                await one.aclose()


async def test_t46_an_ear_wakes_so_often_at_the_most_and_then_hears_all_that_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(udp, "WAKE_S", 0.5)
    woken = 0
    wait = udp.wait_any_readable

    async def count(socks: Any) -> None:
        nonlocal woken
        await wait(socks)
        woken += 1

    monkeypatch.setattr(udp, "wait_any_readable", count)
    async with opened(near(free_port())) as one, trio.open_nursery() as nursery:

        async def speak() -> None:
            for number in range(20):
                one.spread(bytes([number]))
                await trio.sleep(0.01)

        began = trio.current_time()
        nursery.start_soon(speak)
        for number in range(20):
            assert await hear(one) == (bytes([number]), "127.0.0.1")
        assert woken <= 2 + (trio.current_time() - began) / 0.5


async def test_an_ear_that_rests_is_woken_by_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "WAKE_S", 3600.0)
    async with opened(near(free_port())) as one:
        one.spread(b"x")
        await hear(one)

        async def listen() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await one.receive()

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen)
                await wait_all_tasks_blocked()
                await one.aclose()


async def test_the_system_network_opens_it() -> None:
    datagrams = await SystemNetwork().datagrams(near(free_port()))
    assert datagrams.spread(b"x").sent == 1
    await datagrams.aclose()


@pytest.mark.parametrize(("name", "zone"), [("eth0", "eth0"), ("büro0", "7"), ("eth%0", "7")])
def test_an_interface_may_have_any_name(monkeypatch: pytest.MonkeyPatch, name: str, zone: str) -> None:
    """A link-local sender is named with a number where the name of the interface is none that an address may have."""
    monkeypatch.setattr(socket, "if_indextoname", lambda _: name)
    assert udp._source(("fe80::1", 9, 0, 7)).host == f"fe80::1%{zone}"
