"""Nodes that find each other by hints alone, on a network in memory under a clock that jumps."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

import pytest
import trio

import p2p
from p2p.limits import Limits
from p2p.policy.hints import DiscoveryAnnouncement, HintSource
from p2p.testing.dice import Dice
from p2p.transport.memory import MemoryNetwork
from tests.contract.hosts import PORT, Host

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio.testing import MockClock

ANNOUNCE_S = 2.0
NODES = int(os.environ.get("MANY_NODES", "16"))
"""Each of them dials every other one; `make proof` has 50."""


def offer(node: p2p.Node, announcement: DiscoveryAnnouncement, *, again: bool = False) -> None:
    """What discovery does with a datagram."""
    node._running().leads.offer(announcement, HintSource.DISCOVERY, announcement.host, again=again)


async def announce(here: Host, nodes: Iterable[p2p.Node], *, anonymous: bool = False) -> None:
    """Tell everybody, as a broadcast does, itself included; for ever."""
    said = here.announcement
    if anonymous:
        said = dataclasses.replace(said, peer_id=None)
    while True:
        for node in nodes:
            offer(node, said)
        await trio.sleep(here.dice.number(0.9, 1.1) * ANNOUNCE_S)


async def met_by_hints(count: int, *, anonymous: bool = False) -> list[p2p.Node]:
    """Start so many nodes within two seconds, let them announce for ten; return them as they were then, stopped."""
    net = MemoryNetwork(latency_s=0.01)
    hosts = [Host(net, number, limits=Limits(max_peers=2 * count)) for number in range(count)]
    nodes: list[p2p.Node] = []
    async with trio.open_nursery() as nursery:
        for here in hosts:
            nodes.append(await nursery.start(here.node().run))
            nursery.start_soon(lambda here=here: announce(here, nodes, anonymous=anonymous))
            await trio.sleep(2 / count)
        await trio.sleep(10)
        everybody = {node.peer_id for node in nodes}
        for node in nodes:
            met = {peer.peer_id for peer in node.peers()}
            assert len(node.peers()) == len(met), "each peer once"
            assert met == everybody - {node.peer_id}
        nursery.cancel_scope.cancel()
    return nodes


@pytest.mark.slow
async def test_many_nodes_that_only_get_hints_are_all_connected_and_dial_each_pair_about_once(
    autojump_clock: MockClock,
) -> None:
    nodes = await met_by_hints(NODES)
    pairs = NODES * (NODES - 1) // 2
    dials = sum(node.counters.connect_attempts for node in nodes)
    assert pairs <= dials <= pairs * 1.1
    assert sum(node.counters.connect_failures for node in nodes) == 0


async def test_hints_without_identities_connect_too_and_each_side_dials_once_at_most(autojump_clock: MockClock) -> None:
    nodes = await met_by_hints(8, anonymous=True)
    assert sum(node.counters.connect_attempts for node in nodes) <= 8 * 7 + 8


async def test_a_node_dials_neither_itself_nor_who_is_connected_nor_who_is_not_on_its_list(
    autojump_clock: MockClock,
) -> None:
    net = MemoryNetwork()
    one, other, third = (Host(net, number) for number in range(3))
    one.options["trust"] = {"n1": other.identity.peer_id}
    async with trio.open_nursery() as nursery:
        a, b, _ = [await nursery.start(host.node().run) for host in (one, other, third)]
        await b.connect(one.endpoint)
        for _ in range(30):
            for host in (one, other, third):
                offer(a, host.announcement)
            await trio.sleep(ANNOUNCE_S)
        assert a.counters.connect_attempts == 0
        assert a.counters.hints == 90
        nursery.cancel_scope.cancel()


async def test_an_unsigned_hint_by_name_dials_nobody_who_is_connected_from_where_the_name_leads(
    autojump_clock: MockClock,
) -> None:
    net = MemoryNetwork()
    one, other = Host(net, 0), Host(net, 1)
    named = DiscoveryAnnouncement("n1", "other.example", PORT, None, "mem", judged=(other.address,))
    async with trio.open_nursery() as nursery:
        a, b = [await nursery.start(host.node().run) for host in (one, other)]
        await b.connect(one.endpoint)
        for _ in range(30):
            offer(a, named)
            await trio.sleep(ANNOUNCE_S)
        assert a.counters.connect_attempts == 0
        nursery.cancel_scope.cancel()


async def test_a_place_that_turns_out_to_be_this_node_itself_is_dialled_again_when_it_may_be_anothers(
    autojump_clock: MockClock,
) -> None:
    net = MemoryNetwork()
    here = Host(net, 0)
    async with trio.open_nursery() as nursery:
        node = await nursery.start(here.node(listen_host="127.0.0.1").run)
        for attempts in (1, 2):
            for _ in range(100):
                # It listens on loopback, and this is another of its addresses, named by one who knows no identity.
                offer(node, DiscoveryAnnouncement("n0", "localhost", PORT, None, "mem"))
                await trio.sleep(ANNOUNCE_S)
            assert node.counters.connect_attempts == attempts
        nursery.cancel_scope.cancel()


async def test_dial_false_stops_every_dial_but_connect(autojump_clock: MockClock) -> None:
    net = MemoryNetwork()
    one, other = Host(net, 0), Host(net, 1)
    there = other.endpoint
    async with trio.open_nursery() as nursery:
        b = await nursery.start(other.node().run)
        a = await nursery.start(one.node(dial=False, peers=(there,)).run)
        for _ in range(30):
            offer(a, other.announcement)
            await trio.sleep(ANNOUNCE_S)
        assert a.counters.connect_attempts == 0
        assert (await a.connect(there)).peer_id == b.peer_id
        nursery.cancel_scope.cancel()


async def test_t44_a_flood_of_forged_hints_costs_few_dials_and_keeps_no_acquaintance_away(
    autojump_clock: MockClock,
) -> None:
    net = MemoryNetwork(latency_s=0.01)
    one, other, newcomer = (Host(net, number) for number in range(3))
    forger = Dice("forger")
    async with trio.open_nursery() as nursery:
        a = await nursery.start(one.node().run)
        b = await nursery.start(other.node().run)
        await a.connect(other.endpoint)
        b.stop()
        await b.wait()

        async def forge() -> None:
            while True:
                for _ in range(25):
                    forged = f"10.{forger.integer(8, 99)}.{forger.integer(0, 255)}.{forger.integer(1, 254)}"
                    identity = p2p.PeerId(forger.entropy(32))
                    offer(a, DiscoveryAnnouncement("x", forged, forger.integer(1, 65535), identity, "mem"))
                    # And one victim, named with every port.
                    offer(a, DiscoveryAnnouncement("x", "10.7.7.7", forger.integer(1, 65535), identity, "mem"))
                await trio.sleep(0.1)

        nursery.start_soon(forge)
        await trio.sleep(30)
        dials = a.counters.connect_attempts
        limits = a.config.limits
        assert 50 < dials <= 1 + limits.lead_dials_burst + 30 * limits.lead_dials_per_s
        dialled_max = limits.lead_dials_burst + limits.lead_interval_s * limits.lead_dials_per_s
        assert len(a._running().leads.targets) <= limits.leads_per_standing_max + dialled_max + 1
        b = await nursery.start(other.node().run)
        async with a.events() as events:
            offer(a, other.announcement)
            with trio.fail_after(5):
                while not a.peers():
                    await events.__anext__()
        c = await nursery.start(newcomer.node(dial=False).run)
        async with a.events() as events:
            offer(a, newcomer.announcement, again=True)
            with trio.fail_after(5):
                while c.peer_id not in {peer.peer_id for peer in a.peers()}:
                    await events.__anext__()
        nursery.cancel_scope.cancel()


async def test_who_is_shaking_hands_is_not_dialled_too(autojump_clock: MockClock) -> None:
    """Each message takes so long that the other side would lose its patience in the middle of the handshake."""
    net = MemoryNetwork(latency_s=1.2)
    hosts = [Host(net, number) for number in range(2)]
    async with trio.open_nursery() as nursery:
        nodes = [await nursery.start(host.node().run) for host in hosts]
        for host in hosts:
            nursery.start_soon(lambda host=host: announce(host, nodes))
        await trio.sleep(12)
        assert [len(node.peers()) for node in nodes] == [1, 1]
        assert sum(node.counters.connect_attempts for node in nodes) == 1
        nursery.cancel_scope.cancel()


async def test_a_node_with_all_slots_taken_dials_no_hint(autojump_clock: MockClock) -> None:
    net = MemoryNetwork()
    hosts = [Host(net, number) for number in range(4)]
    async with trio.open_nursery() as nursery:
        a = await nursery.start(hosts[0].node(max_peers=2).run)
        for host in hosts[1:]:
            await nursery.start(host.node().run)
        for _ in range(10):
            for host in hosts[1:]:
                offer(a, host.announcement)
            await trio.sleep(ANNOUNCE_S)
        assert len(a.peers()) == 2
        assert a.counters.connect_attempts == 2
        nursery.cancel_scope.cancel()


async def test_the_end_of_a_dial_that_took_the_last_slot_lets_the_next_hint_be_dialled_at_once(
    autojump_clock: MockClock,
) -> None:
    net = MemoryNetwork(latency_s=0.5)
    one, other = Host(net, 0), Host(net, 1)
    async with trio.open_nursery() as nursery:
        a = await nursery.start(one.node(limits=Limits(lead_yield_s=0.0), max_peers=1).run)
        b = await nursery.start(other.node().run)
        nobody = p2p.PeerId(bytes(32))
        net.network_for("10.9.9.9")  # there, and listening nowhere
        offer(a, dataclasses.replace(other.announcement, host="10.9.9.9", peer_id=nobody))
        await trio.sleep(0.1)
        offer(a, other.announcement)
        await trio.sleep(0.1)
        assert a.counters.connect_attempts == 1
        await trio.sleep(5)
        assert [peer.peer_id for peer in a.peers()] == [b.peer_id]
        nursery.cancel_scope.cancel()


async def test_configured_peers_that_are_away_leave_room_for_hints(autojump_clock: MockClock) -> None:
    net = MemoryNetwork()
    one, other = Host(net, 0), Host(net, 1)
    away = tuple(p2p.PeerEndpoint(f"10.9.9.{number}", PORT, "mem") for number in (1, 2))
    async with trio.open_nursery() as nursery:
        a = await nursery.start(one.node(max_peers=2, peers=away).run)
        b = await nursery.start(other.node().run)
        offer(a, other.announcement)
        await trio.sleep(10)
        assert [peer.peer_id for peer in a.peers()] == [b.peer_id]
        nursery.cancel_scope.cancel()


async def test_who_leaves_the_first_dial_to_others_does_not_dial_them_all_at_the_same_moment(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        a = await nursery.start(Host(MemoryNetwork(), 0).node().run)
        waits = [a._running().leads._yield_s(None) for _ in range(10)]
        longest = a.config.limits.lead_yield_s
        assert all(longest <= wait_s <= 1.5 * longest for wait_s in waits)
        assert len(set(waits)) == 10
        nursery.cancel_scope.cancel()
