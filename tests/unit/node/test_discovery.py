"""Discovery on the in-memory network: virtual time, several hosts, strangers with any bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from p2p.crypto.identity import Identity
from p2p.errors import ConfigError, NodeClosed
from p2p.ids import PeerEndpoint
from p2p.limits import Limits
from p2p.node.announce import Flaw, write_announcement
from p2p.node.discovery import DiscoveryConfig, DiscoveryMode, UdpDiscovery, make_udp_discovery
from p2p.policy.hints import DiscoveryAnnouncement
from p2p.transport.base import Datagrams, Neighbourhood, Spread
from p2p.transport.memory import MemoryHost, MemoryNetwork

A = Identity.generate(lambda size: b"a" * size)
B = Identity.generate(lambda size: b"b" * size)
NEAR = DiscoveryConfig().neighbourhood


@pytest.fixture
def net() -> MemoryNetwork:
    return MemoryNetwork(latency_s=0.01)


def discovery(host: MemoryHost, told: list[DiscoveryAnnouncement] | None = None, **changes: Any) -> UdpDiscovery:
    identity = changes.pop("identity", None)
    given: dict[str, Any] = {"self_node_id": host.name, "self_tcp_port": 9101} | changes
    on_peer = told.append if told is not None else None
    return make_udp_discovery(DiscoveryConfig(**given), on_peer, identity=identity, network=host)


@asynccontextmanager
async def stranger_on(host: MemoryHost) -> AsyncIterator[Datagrams]:
    datagrams = await host.datagrams(NEAR)
    try:
        yield datagrams
    finally:
        await datagrams.aclose()


def said(identity: Identity | None = B, *, node_id: str = "b", port: int = 9102, nonce: int = 1) -> bytes:
    return write_announcement(node_id, port, 0, nonce, identity)


async def test_two_nodes_hear_of_each_other_at_once(net: MemoryNetwork, autojump_clock: MockClock) -> None:
    told_a: list[DiscoveryAnnouncement] = []
    told_b: list[DiscoveryAnnouncement] = []
    async with (
        discovery(net.network_for("a"), told_a, identity=A) as at_a,
        discovery(net.network_for("b"), told_b, identity=B) as at_b,
    ):
        await trio.sleep(2.5)
        assert told_a == [DiscoveryAnnouncement("b", "b", 9101, B.peer_id, "mem")]
        assert told_b == [DiscoveryAnnouncement("a", "a", 9101, A.peer_id, "mem")]
        assert at_a.snapshot() == tuple(told_a)
        assert at_b.snapshot() == tuple(told_b)
        assert told_a[0].endpoint == PeerEndpoint("b", 9101, "mem", str(B.peer_id))
        assert at_a.counters.own == at_a.counters.announced


async def test_the_first_announcement_leaves_at_once_then_one_per_interval(
    net: MemoryNetwork, autojump_clock: MockClock
) -> None:
    times = []
    async with stranger_on(net.network_for("ear")) as ear, discovery(net.network_for("a")):
        start = trio.current_time()
        while len(times) < 6:
            await ear.receive()
            times.append(trio.current_time() - start - 0.01)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert times[0] == pytest.approx(0, abs=1e-6)
    assert all(1.8 <= gap <= 2.2 for gap in gaps)
    assert len({round(gap, 6) for gap in gaps}) > 1, "there is jitter"


async def test_t47_who_falls_silent_is_forgotten_after_15_seconds(
    net: MemoryNetwork, autojump_clock: MockClock
) -> None:
    async with discovery(net.network_for("a")) as at_a:
        async with discovery(net.network_for("b"), identity=B):
            await trio.sleep(3)
            assert [hint.node_id for hint in at_a.snapshot()] == ["b"]
        await trio.sleep(12.5)
        assert [hint.node_id for hint in at_a.snapshot()] == ["b"]
        await trio.sleep(2.6)
        assert at_a.snapshot() == ()


async def test_t47_a_recorded_announcement_means_nothing_but_a_place(
    net: MemoryNetwork, autojump_clock: MockClock
) -> None:
    """Replayed from elsewhere a year later it is a hint like any other, and names who has to answer."""
    told: list[DiscoveryAnnouncement] = []
    async with discovery(net.network_for("a"), told), stranger_on(net.network_for("thief")) as thief:
        thief.spread(said(B))
        await trio.sleep(1)
        assert [(hint.host, hint.peer_id) for hint in told] == [("thief", B.peer_id)]


async def test_t45_nothing_is_ever_answered(net: MemoryNetwork, autojump_clock: MockClock) -> None:
    """Whatever a stranger sends, not one datagram more leaves than without him."""
    payloads = [said(), said(None), b"", b"{}", b"x" * 1300, said()[:-1], b'{"node_id":"a"}', b"\xff" * 100]
    async with (
        stranger_on(net.network_for("stranger")) as stranger,
        discovery(net.network_for("a"), announce_interval_ms=10_000) as at_a,
    ):
        await trio.sleep(0.1)
        assert await stranger.receive(), "its first announcement"
        for number in range(500):
            stranger.spread(payloads[number % len(payloads)])
            await trio.sleep(0.01)
        assert at_a.counters.sent == 1
        heard = 0
        with trio.move_on_after(0.5):
            while True:
                _, source = await stranger.receive()
                assert source.host == "stranger"
                heard += 1
        assert heard


async def test_t46_a_flood_of_invented_names_is_bounded_and_cheap(
    net: MemoryNetwork, autojump_clock: MockClock
) -> None:
    told: list[DiscoveryAnnouncement] = []
    async with (
        discovery(net.network_for("a"), told) as at_a,
        discovery(net.network_for("honest"), identity=B),
        stranger_on(net.network_for("flood")) as flood,
    ):
        for number in range(8_000):
            flood.spread(said(None, node_id=f"n{number}", port=1 + number, nonce=number))
            if number % 50 == 0:
                await trio.sleep(0.02)
        seconds = trio.current_time()
        of_flood = [hint for hint in at_a.snapshot() if hint.host == "flood"]
        assert len(of_flood) <= Limits().discovered_per_source_max
        assert "honest" in {hint.node_id for hint in at_a.snapshot()}
        assert at_a.counters.heard - at_a.counters.too_fast <= 40 + 20 * seconds + 3 * seconds
        assert at_a.counters.heard <= 250 + 1000 * seconds + 250, "the rest is left in the socket"
        assert at_a.counters.crowded > 0


async def test_t44_a_forged_announcement_tells_of_nobody(net: MemoryNetwork, autojump_clock: MockClock) -> None:
    told: list[DiscoveryAnnouncement] = []
    forged = json.loads(said(B))
    forged["tcp_port"] = 80
    async with discovery(net.network_for("a"), told) as at_a, stranger_on(net.network_for("x")) as stranger:
        stranger.spread(json.dumps(forged, separators=(",", ":")).encode())
        await trio.sleep(1)
        assert (told, at_a.snapshot()) == ([], ())
        assert at_a.counters.flaws[Flaw.FORGED] == 1


@pytest.mark.parametrize("source", ["169.254.169.254", "0.0.0.5", "224.0.0.9", "255.255.255.255", "fd00:ec2::254"])
async def test_t49_nobody_is_told_of_a_place_where_no_neighbour_can_be(
    net: MemoryNetwork, autojump_clock: MockClock, source: str
) -> None:
    told: list[DiscoveryAnnouncement] = []
    async with discovery(net.network_for("a"), told) as at_a, stranger_on(net.network_for(source)) as stranger:
        stranger.spread(said(B))
        await trio.sleep(1)
        assert (told, at_a.snapshot()) == ([], ())
        assert at_a.counters.flaws[Flaw.NO_PLACE] == 1


async def test_what_nobody_has_room_for_is_told_again_with_the_next_word(
    net: MemoryNetwork, autojump_clock: MockClock
) -> None:
    times: list[float] = []

    def offer(_hint: DiscoveryAnnouncement, _again: bool) -> bool:
        times.append(trio.current_time())
        return len(times) > 2

    config = DiscoveryConfig(self_node_id="a", self_tcp_port=9101)
    async with UdpDiscovery(config, offer, network=net.network_for("a")), discovery(net.network_for("b"), identity=B):
        await trio.sleep(7.5)
    assert len(times) == 3
    assert times[-1] - times[0] < 5, "two intervals, and not two cooldowns"


@pytest.mark.parametrize("required", [True, False])
async def test_unsigned_announcements_count_unless_signatures_are_required(
    net: MemoryNetwork, autojump_clock: MockClock, required: bool
) -> None:
    told: list[DiscoveryAnnouncement] = []
    async with (
        discovery(net.network_for("a"), told, identity=A, require_signed=required) as at_a,
        discovery(net.network_for("vix")),
        discovery(net.network_for("ours"), identity=B),
    ):
        await trio.sleep(1)
        assert {hint.node_id for hint in told} == ({"ours"} if required else {"ours", "vix"})
        assert at_a.counters.flaws[Flaw.UNSIGNED] == (1 if required else 0)


async def test_on_peer_is_called_again_after_the_cooldown(net: MemoryNetwork, autojump_clock: MockClock) -> None:
    told: list[DiscoveryAnnouncement] = []
    async with discovery(net.network_for("a"), told), discovery(net.network_for("b"), identity=B):
        await trio.sleep(7.5)
        assert len(told) == 1
        await trio.sleep(3)
        assert len(told) == 2


async def test_an_on_peer_that_raises_ends_nothing(net: MemoryNetwork, autojump_clock: MockClock) -> None:
    def on_peer(hint: DiscoveryAnnouncement) -> None:
        raise RuntimeError("a bug of somebody's")

    config = DiscoveryConfig("a", 9101)
    async with (
        make_udp_discovery(config, on_peer, network=net.network_for("a")) as at_a,
        discovery(net.network_for("b"), identity=B),
    ):
        await trio.sleep(12)
        assert at_a.counters.hook_failures == 2
        assert len(at_a.snapshot()) == 1


async def test_who_has_no_port_hears_and_says_nothing(net: MemoryNetwork, autojump_clock: MockClock) -> None:
    async with discovery(net.network_for("a"), self_tcp_port=0) as at_a, discovery(net.network_for("b")) as at_b:
        await trio.sleep(5)
        assert [hint.node_id for hint in at_a.snapshot()] == ["b"]
        assert at_b.snapshot() == ()
        assert at_a.counters.announced == 0


async def test_loopback_only_neither_hears_the_others_nor_is_heard(
    net: MemoryNetwork, autojump_clock: MockClock
) -> None:
    a = net.network_for("a")
    async with (
        discovery(a, loopback_only=True) as shy,
        discovery(a, self_node_id="a2", self_tcp_port=9102, loopback_only=True) as shy_too,
        discovery(net.network_for("b")) as at_b,
    ):
        await trio.sleep(3)
        assert [(hint.node_id, hint.host) for hint in shy.snapshot()] == [("a2", "127.0.0.1")]
        assert [(hint.node_id, hint.host) for hint in shy_too.snapshot()] == [("a", "127.0.0.1")]
        assert at_b.snapshot() == ()


async def test_modes_do_not_hear_each_other(net: MemoryNetwork, autojump_clock: MockClock) -> None:
    async with (
        discovery(net.network_for("a"), mode=DiscoveryMode.MULTICAST) as at_a,
        discovery(net.network_for("b"), mode="multicast") as at_b,
        discovery(net.network_for("c")) as at_c,
    ):
        await trio.sleep(3)
        assert [hint.node_id for hint in at_a.snapshot()] == ["b"]
        assert [hint.node_id for hint in at_b.snapshot()] == ["a"]
        assert at_c.snapshot() == ()


async def test_a_partition_is_silence_and_heals(net: MemoryNetwork, autojump_clock: MockClock) -> None:
    async with discovery(net.network_for("a")) as at_a, discovery(net.network_for("b")):
        await trio.sleep(1)
        net.partition("a", "b")
        await trio.sleep(20)
        assert at_a.snapshot() == ()
        net.heal("a", "b")
        await trio.sleep(3)
        assert [hint.node_id for hint in at_a.snapshot()] == ["b"]


class Troubled:
    """A network whose voice fails in whatever way is set, and whose ear is silent."""

    def __init__(self) -> None:
        self.spreads: list[Spread] = []
        self.closed = trio.Event()

    async def datagrams(self, near: Neighbourhood) -> Troubled:
        return self

    def spread(self, data: bytes) -> Spread:
        number = len(self.spreads)
        self.spreads.append(Spread(1) if number % 2 else Spread(0, ("eth0 IPv4: Network is unreachable",)))
        return self.spreads[-1]

    def missing(self) -> tuple[str, ...]:
        return ("no interface eht0 is up; there are lo",)

    async def receive(self) -> Any:
        await trio.sleep_forever()

    async def aclose(self) -> None:
        self.closed.set()


async def test_an_interface_that_fails_is_counted_and_tried_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    network = Troubled()
    config = DiscoveryConfig("a", 9101)
    async with make_udp_discovery(config, network=network) as at_a:  # type: ignore[arg-type]
        assert [line.message for line in caplog.records if line.levelname == "WARNING"] == [
            "discovery: no interface eht0 is up; there are lo"
        ]
        assert at_a.trouble in ((), ("eth0 IPv4: Network is unreachable",))
        await trio.sleep(10)
    assert len(network.spreads) >= 5
    assert at_a.counters.send_failures == sum(not spread.sent for spread in network.spreads)
    assert at_a.counters.announced == sum(bool(spread.sent) for spread in network.spreads)
    assert network.closed.is_set()


async def test_it_starts_in_a_nursery_stops_when_told_and_runs_once(net: MemoryNetwork) -> None:
    at_a = discovery(net.network_for("a"))
    async with trio.open_nursery() as nursery:
        await at_a.start(nursery)
        at_a.stop()
        at_a.stop()
    assert net.network_for("a").ears == ()
    with pytest.raises(NodeClosed):
        await at_a.run()


async def test_what_the_body_raises_comes_out_as_itself(net: MemoryNetwork) -> None:
    with pytest.raises(KeyError):
        async with discovery(net.network_for("a")):
            raise KeyError("mine")
    assert net.network_for("a").ears == ()


async def test_cancelling_ends_it_and_lets_the_port_go(net: MemoryNetwork) -> None:
    with trio.CancelScope() as scope:
        async with discovery(net.network_for("a")):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert net.network_for("a").ears == ()


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"self_tcp_port": 65536}, "self_tcp_port"),
        ({"discovery_port": 0}, "discovery_port"),
        ({"self_node_id": "a b"}, "a b"),
        ({"announce_interval_ms": 99}, "announce_interval_ms"),
        ({"seen_ttl_ms": 2000}, "seen_ttl_ms"),
        ({"connect_cooldown_ms": -1}, "connect_cooldown_ms"),
        ({"mode": "shouting"}, "mode"),
        ({"multicast_group": "10.0.0.1"}, "multicast_group"),
        ({"multicast_group": "ff02::1"}, "multicast_group"),
        ({"self_node_id": 7}, "self_node_id .* text"),
        ({"discovery_port": "37020"}, "discovery_port .* str"),
        ({"announce_interval_ms": 2000.0}, "announce_interval_ms .* float"),
        ({"require_signed": "no"}, "require_signed .* True or False"),
        ({"interfaces": "eth0"}, "interfaces .* list"),
        ({"interfaces": 7}, "interfaces"),
        ({"interfaces": (7,)}, "interfaces"),
    ],
)
def test_a_value_that_cannot_be_is_named(changes: dict[str, Any], names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        replace(DiscoveryConfig(), **changes)


def test_who_announces_needs_a_name() -> None:
    with pytest.raises(ConfigError, match="node id"):
        make_udp_discovery(DiscoveryConfig(self_tcp_port=9101), None)


def test_the_fields_are_those_of_vix() -> None:
    config = DiscoveryConfig(
        self_node_id="a", self_tcp_port=9101, discovery_port=37020, mode=DiscoveryMode.BROADCAST,
        announce_interval_ms=2000, seen_ttl_ms=15_000, connect_cooldown_ms=8000, multicast_group="239.255.0.1",
    )  # fmt: skip
    assert config == DiscoveryConfig("a", 9101)
    assert Limits().announce_sent_bytes_max == 512
