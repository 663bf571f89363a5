"""The network in memory: its time, its faults, and that it repeats itself."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p.errors import AddressInUse, ConfigError, ConnectFailed, Reason
from p2p.ids import PeerEndpoint
from p2p.limits import Limits
from p2p.testing.dice import Dice
from p2p.transport.memory import MemoryNetwork
from p2p.transport.memory_stream import MemoryStream, Weather

B = PeerEndpoint("b", 9001, "mem")


def at(host: str, port: int = 9001) -> PeerEndpoint:
    return PeerEndpoint(host, port, "mem")


@asynccontextmanager
async def joined(net: MemoryNetwork) -> AsyncIterator[tuple[MemoryStream, MemoryStream]]:
    """A connection from host a to host b."""
    listener = await net.network_for("b").listen(None, 9001)
    near = await net.network_for("a").connect(B)
    far = await listener.accept()
    await listener.aclose()
    try:
        yield near, far
    finally:
        near.abort()
        far.abort()


async def arrives(stream: MemoryStream, expected: bytes) -> float:
    """Receive exactly these bytes; returns when the last came."""
    received = b""
    while len(received) < len(expected):
        data = await stream.receive_some(len(expected) - len(received))
        assert data, f"ended after {received!r}"
        received += data
    assert received == expected
    return trio.current_time()


async def silent(stream: MemoryStream, seconds: float = 1000.0) -> bool:
    """Whether nothing happens on a stream for so long."""
    with trio.move_on_after(seconds) as scope:
        await stream.receive_some()
    return scope.cancelled_caught


# Time.


async def test_bytes_take_the_latency_and_a_dial_a_round_trip(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.1)
    begun = trio.current_time()
    async with joined(net) as (near, far):
        assert trio.current_time() - begun == pytest.approx(0.2)
        begun = trio.current_time()
        await near.send_all(b"hello")
        assert trio.current_time() == begun
        assert await arrives(far, b"hello") - begun == pytest.approx(0.1)


async def test_a_host_is_no_distance_from_itself(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.1)
    host = net.network_for("a")
    listener = await host.listen(None, 9001)
    begun = trio.current_time()
    near = await host.connect(at("127.0.0.1"))
    far = await listener.accept()
    await near.send_all(b"x")
    assert await arrives(far, b"x") == begun
    near.abort()
    far.abort()


async def test_links_have_their_own_latency_and_bandwidth(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.1, buffer_bytes=100_000)
    async with joined(net) as (near, far):
        net.set_link("a", "b", latency_s=1.0, bytes_per_s=1000.0)
        begun = trio.current_time()
        await near.send_all(bytes(500))
        await near.send_all(bytes(500))
        assert await arrives(far, bytes(500)) - begun == pytest.approx(1.5)
        assert await arrives(far, bytes(500)) - begun == pytest.approx(2.0)
        net.set_link("a", "b", latency_s=0.0)
        begun = trio.current_time()
        await near.send_all(bytes(5000))
        assert await arrives(far, bytes(5000)) == begun


async def test_a_way_that_became_faster_lets_nothing_overtake(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=2.0)
    async with joined(net) as (near, far):
        await near.send_all(b"first")
        net.set_link("a", "b", latency_s=0.0)
        await near.send_all(b"second")
        await arrives(far, b"firstsecond")


async def test_the_buffer_bounds_what_is_under_way(autojump_clock: MockClock) -> None:
    async with joined(MemoryNetwork(buffer_bytes=10, latency_s=1.0)) as (near, far):
        assert near.send_nowait(bytes(25)) == 10
        assert near.send_nowait(b"x") == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, bytes(15))
            await wait_all_tasks_blocked()
            await arrives(far, bytes(25))


async def test_segments_cut_every_message_at_every_byte(autojump_clock: MockClock) -> None:
    async with joined(MemoryNetwork(segment_bytes=1)) as (near, far):
        await near.send_all(b"abc")
        assert [await far.receive_some() for _ in range(3)] == [b"a", b"b", b"c"]


@pytest.mark.parametrize(
    "arguments", [{"buffer_bytes": 0}, {"latency_s": -1.0}, {"segment_bytes": 0}], ids=lambda value: next(iter(value))
)
def test_impossible_networks_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        MemoryNetwork(**arguments)  # type: ignore[arg-type]  # every value is a number


def test_impossible_links_are_refused() -> None:
    net = MemoryNetwork()
    net.network_for("a")
    net.network_for("b")
    with pytest.raises(ConfigError):
        net.set_link("a", "b", latency_s=-0.1)
    with pytest.raises(ConfigError):
        net.set_link("a", "b", bytes_per_s=0)
    for method in (net.partition, net.heal, net.reset):
        with pytest.raises(ConfigError, match="network_for"):
            method("a", "nobody")


# Who is where.


def test_a_host_is_made_once_and_may_not_be_called_loopback() -> None:
    net = MemoryNetwork()
    assert net.network_for("a") is net.network_for("a")
    assert net.network_for("a").name == "a"
    for name in ("localhost", "127.0.0.1", "::1", "no host!", ""):
        with pytest.raises(ConfigError):
            net.network_for(name)


async def test_who_listens_on_loopback_is_found_from_inside_only(autojump_clock: MockClock) -> None:
    net = MemoryNetwork()
    host, other = net.network_for("b"), net.network_for("a")
    listener = await host.listen("127.0.0.1", 9001)
    near = await host.connect(at("localhost"))
    far = await listener.accept()
    assert far.remote.host == "localhost"
    for network, endpoint in ((other, B), (host, B), (other, at("127.0.0.1"))):
        with pytest.raises(ConnectFailed) as caught:
            await network.connect(endpoint)
        assert caught.value.reason is Reason.REFUSED
    near.abort()
    far.abort()


async def test_a_taken_port_is_free_on_another_host(autojump_clock: MockClock) -> None:
    net = MemoryNetwork()
    await net.network_for("a").listen(None, 9001)
    await net.network_for("b").listen("b", 9001)
    with pytest.raises(AddressInUse, match="9001"):
        await net.network_for("a").listen("127.0.0.1", 9001)


async def test_a_refusal_takes_a_round_trip(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.5)
    net.network_for("b")
    begun = trio.current_time()
    with pytest.raises(ConnectFailed) as caught:
        await net.network_for("a").connect(B)
    assert caught.value.reason is Reason.REFUSED
    assert trio.current_time() - begun == pytest.approx(1.0)


async def test_a_full_backlog_lets_dials_wait_and_a_closed_door_resets_who_waits(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(replace(Limits(), listen_backlog=1))
    listener = await net.network_for("b").listen(None, 9001)
    dialler = net.network_for("a")
    first = await dialler.connect(B)
    streams: list[MemoryStream] = []

    async def dial() -> None:
        streams.append(await dialler.connect(B))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        await wait_all_tasks_blocked()
        assert streams == []
        accepted = await listener.accept()
    assert len(streams) == 1
    with pytest.raises(ConnectFailed) as caught:
        await dialler.connect(B)
    assert caught.value.reason is Reason.TIMEOUT
    await listener.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await streams[0].receive_some()
    for stream in (first, accepted, *streams):
        await stream.aclose()
    assert net.connections("a") == net.connections("b") == 0


# Faults.


async def test_t21_a_partition_is_silence_and_what_was_sent_arrives_after_it(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.1)
    async with joined(net) as (near, far):
        await near.send_all(b"under way ")
        net.partition("a", "b")
        await near.send_all(b"sent into nothing")
        assert await silent(far)
        assert await silent(near)
        net.heal("a", "b")
        begun = trio.current_time()
        assert await arrives(far, b"under way sent into nothing") - begun == pytest.approx(0.1)


async def test_what_has_arrived_before_a_partition_can_be_read_in_it(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.1)
    async with joined(net) as (near, far):
        await near.send_all(b"arrived")
        await trio.sleep(0.2)
        net.partition("a", "b")
        await arrives(far, b"arrived")


async def test_a_dial_into_a_partition_times_out_and_one_that_outlasts_it_succeeds(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.1)
    dialler, listener = net.network_for("a"), await net.network_for("b").listen(None, 9001)
    for one_way in (("a", "b"), ("b", "a")):
        net.partition(*one_way, one_way=True)
        begun = trio.current_time()
        with pytest.raises(ConnectFailed) as caught:
            await dialler.connect(B)
        assert caught.value.reason is Reason.TIMEOUT
        assert trio.current_time() - begun == pytest.approx(Limits().dial_s_max)
        net.heal("a", "b")
    net.partition("a", "b")

    async def heal_later() -> None:
        await trio.sleep(5)
        net.heal_all()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(heal_later)
        stream = await dialler.connect(B)
    (await listener.accept()).abort()
    stream.abort()


async def test_one_way_bytes_arrive_but_the_sender_is_not_told_and_fills_up(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(buffer_bytes=10)
    async with joined(net) as (near, far):
        net.partition("b", "a", one_way=True)
        await near.send_all(bytes(10))
        await arrives(far, bytes(10))
        assert near.send_nowait(b"x") == 0
        await far.send_all(b"lost")
        assert await silent(near)
        net.heal("b", "a")
        assert near.send_nowait(b"x") == 1
        await arrives(near, b"lost")


async def test_t21_a_power_cut_is_heard_of_when_the_way_heals(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.1)
    listener = await net.network_for("b").listen(None, 9002)
    async with joined(net) as (near, far):
        net.partition("a", "b")
        net.kill("b")
        with pytest.raises(trio.BrokenResourceError, match="killed"):
            await far.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()
        assert await silent(near)
        net.heal("a", "b")
        with pytest.raises(trio.BrokenResourceError):
            await near.receive_some()
        assert net.connections("b") == 0
    again = await net.network_for("b").listen(None, 9002)
    stream = await net.network_for("a").connect(at("b", 9002))
    stream.abort()
    await again.aclose()


async def test_t10_a_reset_breaks_both_ends_of_these_connections_and_no_others(autojump_clock: MockClock) -> None:
    net = MemoryNetwork()
    third = net.network_for("c")
    async with joined(net) as (near, far):
        listener = await net.network_for("b").listen(None, 9003)
        bystander = await third.connect(at("b", 9003))
        spared = await listener.accept()
        await far.send_all(b"never read")
        assert net.reset("a", "b") == 1
        for stream in (near, far):
            with pytest.raises(trio.BrokenResourceError, match="reset"):
                await stream.receive_some()
            with pytest.raises(trio.BrokenResourceError, match="reset"):
                await stream.send_all(b"x")
        await bystander.send_all(b"fine")
        await arrives(spared, b"fine")
        bystander.abort()
        spared.abort()


async def test_t10_a_close_with_bytes_unread_is_a_reset_as_with_tcp(autojump_clock: MockClock) -> None:
    async with joined(MemoryNetwork()) as (near, far):
        await near.send_all(b"unread")
        await far.send_all(b"goodbye")
        await far.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await near.receive_some()


async def test_an_abort_takes_the_latency_to_be_heard(autojump_clock: MockClock) -> None:
    async with joined(MemoryNetwork(latency_s=0.1)) as (near, far):
        near.abort()
        await far.send_all(b"not heard yet")
        begun = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()
        assert trio.current_time() - begun == pytest.approx(0.1)


async def test_closed_connections_leave_nothing_behind_in_the_network(autojump_clock: MockClock) -> None:
    net = MemoryNetwork()
    for end in (MemoryStream.abort, MemoryStream.aclose):
        async with joined(net) as (near, far):
            for stream in (near, far):
                ended = end(stream)
                if ended is not None:
                    await ended
    assert net.connections("a") == net.connections("b") == 0
    assert not net.way("a", "b").wires
    assert not net.way("b", "a").wires


# Repetition, and any order of events.


async def noisy_story(log: Callable[[str], None]) -> None:
    """Some traffic over links that fail; every event with its time."""
    net = MemoryNetwork(latency_s=0.03, buffer_bytes=512)
    listener = await net.network_for("b").listen(None, 9001)

    async def talk(number: int) -> None:
        await trio.sleep(number * 0.01)
        try:
            stream = await net.network_for("a").connect(B)
            async with stream:
                await stream.send_all(bytes([number]) * 1000)
                log(f"{trio.current_time():.6f} {number} sent")
                log(f"{trio.current_time():.6f} {number} got {len(await stream.receive_some())}")
        except (trio.BrokenResourceError, ConnectFailed) as error:
            log(f"{trio.current_time():.6f} {number} {error}")

    async def serve() -> None:
        async with trio.open_nursery() as handlers:
            while True:
                handlers.start_soon(answer, await listener.accept())

    async def answer(stream: MemoryStream) -> None:
        try:
            async with stream:
                while data := await stream.receive_some(300):
                    await stream.send_all(data)
        except trio.BrokenResourceError as error:
            log(f"{trio.current_time():.6f} server {error}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        for number in range(5):
            nursery.start_soon(talk, number)
        await trio.sleep(0.05)
        net.partition("a", "b")
        await trio.sleep(1)
        net.heal("a", "b")
        await trio.sleep(0.05)
        net.reset("a", "b")
        await trio.sleep(20)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(3))
def test_the_same_calls_give_the_same_trace(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """trio draws the order of tasks that are ready together; with that draw seeded nothing is left to chance."""
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)

    def run() -> list[str]:
        lines: list[str] = []
        monkeypatch.setattr(trio._core._run, "_r", random.Random(seed))
        trio.run(noisy_story, lines.append, clock=MockClock(autojump_threshold=0))
        return lines

    first = run()
    assert len(first) > 5
    assert all(run() == first for _ in range(3))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.binary(min_size=1, max_size=40)),
        st.tuples(st.just("cut"), st.booleans()),
        st.tuples(st.just("heal"), st.none()),
        st.tuples(st.just("wait"), st.floats(0, 1)),
        st.tuples(st.just("read"), st.integers(1, 30)),
        st.tuples(st.just("latency"), st.floats(0, 1)),
    ),
    max_size=40,
)


@given(steps)
def test_whatever_happens_between_bytes_arrive_once_in_order_and_bounded(story: list[tuple[str, object]]) -> None:
    async def main() -> None:
        net = MemoryNetwork(latency_s=0.1, buffer_bytes=64)
        async with joined(net) as (near, far):
            sent, received = bytearray(), bytearray()
            for verb, value in story:
                match verb, value:
                    case "send", bytes(data):
                        sent += data[: near.send_nowait(data)]
                    case "cut", bool(one_way):
                        net.partition("b", "a", one_way=one_way)
                    case "heal", _:
                        net.heal("a", "b")
                    case "wait", float(seconds):
                        await trio.sleep(seconds)
                    case "latency", float(seconds):
                        net.set_link("a", "b", latency_s=seconds)
                    case "read", int(count):
                        with trio.move_on_after(0.01):
                            received += await far.receive_some(count)
                assert len(sent) - len(received) <= 64
                assert sent.startswith(received)
            net.heal_all()
            await near.aclose()
            while data := await far.receive_some():
                received += data
            assert received == sent

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    "bad",
    [
        *({"loss": bad} for bad in (1.0, -0.1, math.nan)),
        *({"duplicates": bad} for bad in (1.5, -1.0, math.nan)),
        *({"jitter_s": bad} for bad in (-4.0, math.inf, math.nan)),
    ],
)
def test_there_is_no_such_weather(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"loss .* must be from 0 to below 1"):
        Weather(Dice(1).fraction, **bad)
