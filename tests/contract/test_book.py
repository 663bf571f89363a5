"""What a node knows of its peers over a restart: where they were, and whom it leaves alone."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
import trio

import p2p
from p2p.errors import Reason
from p2p.policy.book import BookPlace
from p2p.policy.hints import HintSource
from p2p.transport.memory import MemoryNetwork
from p2p.windows import SimulatedClock
from tests.contract.hosts import Host

if TYPE_CHECKING:
    from trio.testing import MockClock

    from p2p.transport.memory import MemoryHost


async def stopped(node: p2p.Node) -> None:
    node.stop()
    await node.wait()


def offer(node: p2p.Node, hint: p2p.DiscoveryAnnouncement) -> None:
    node._running().leads.offer(hint, HintSource.DISCOVERY, hint.host)


async def test_a_restarted_node_looks_where_it_met_its_peers(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.01)
    here, *others = (Host(net, number) for number in range(4))
    async with trio.open_nursery() as nursery:
        a = await nursery.start(here.node().run)
        nodes = [await nursery.start(host.node().run) for host in others]
        await a.connect(others[0].endpoint)
        offer(a, others[1].announcement)
        await nodes[2].connect(here.endpoint)
        await trio.sleep(10)
        await stopped(a)
        kept = {place.endpoint.host: (place.peer_id, place.node_id, place.source) for place in here.store.book()}
        assert kept == {
            others[0].address: (nodes[0].peer_id, "n1", "connect"),
            others[1].address: (nodes[1].peer_id, "n2", "discovery"),
        }, "where an inbound peer listens is not known"
        a = await nursery.start(here.node().run)
        await trio.sleep(15)
        assert {peer.node_id for peer in a.peers()} == {"n1", "n2"}
        nursery.cancel_scope.cancel()


async def test_without_dial_the_book_is_left_closed(autojump_clock: MockClock) -> None:
    net = MemoryNetwork()
    here, other = Host(net, 0), Host(net, 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(other.node().run)
        a = await nursery.start(here.node().run)
        await a.connect(other.endpoint)
        await stopped(a)
        a = await nursery.start(here.node(dial=False).run)
        await trio.sleep(60)
        assert a.counters.connect_attempts == 0
        nursery.cancel_scope.cancel()


async def test_what_the_application_disconnected_is_not_looked_for_in_this_run(autojump_clock: MockClock) -> None:
    net = MemoryNetwork()
    here, other, third = (Host(net, number) for number in range(3))
    async with trio.open_nursery() as nursery:
        a = await nursery.start(here.node().run)
        b = await nursery.start(other.node(dial=False).run)
        c = await nursery.start(third.node(dial=False).run)
        offer(a, other.announcement)
        offer(a, third.announcement)
        await trio.sleep(10)
        await a.disconnect(b.peer_id)
        await c.disconnect(a.peer_id)
        await trio.sleep(120)
        assert [peer.peer_id for peer in a.peers()] == [c.peer_id], "who left by himself is looked for"
        nursery.cancel_scope.cancel()


async def test_peers_that_come_back_at_new_ports_are_found_again_and_the_old_ones_are_forgotten(
    autojump_clock: MockClock,
) -> None:
    net = MemoryNetwork(latency_s=0.01)
    here, *others = (Host(net, number) for number in range(4))
    limits = dataclasses.replace(p2p.Limits(), book_failures_max=4)
    async with trio.open_nursery() as nursery:
        a = await nursery.start(here.node(limits=limits).run)
        nodes = [await nursery.start(host.node(dial=False).run) for host in others]
        for host in others:
            offer(a, host.announcement)
        await trio.sleep(10)
        assert len(a.peers()) == 3
        await stopped(a)
        for node in nodes:
            await stopped(node)
        nodes = [await nursery.start(host.node(dial=False, listen_port=9100).run) for host in others[:2]]
        a = await nursery.start(here.node(limits=limits).run)
        await trio.sleep(30)
        assert not a.peers()
        assert 0 < a.counters.connect_attempts <= 6, "each old place about once in thirty seconds"
        for host in others[:2]:
            offer(a, dataclasses.replace(host.announcement, port=9100))
        await trio.sleep(5)
        assert {peer.peer_id for peer in a.peers()} == {node.peer_id for node in nodes}
        await trio.sleep(600)
        await stopped(a)
        ports = sorted((place.node_id, place.endpoint.port) for place in here.store.book())
        # The old places of those that are connected are not tried; that of the third failed four times.
        assert ports == [("n1", 9000), ("n1", 9100), ("n2", 9000), ("n2", 9100)]
        nursery.cancel_scope.cancel()


async def test_a_full_book_of_the_dead_costs_few_dials(autojump_clock: MockClock) -> None:
    net = MemoryNetwork()
    here = Host(net, 0)
    for number in range(1, 301):
        host = Host(net, number)
        with here.store.write() as transaction:
            transaction.set_place(BookPlace(host.endpoint, host.identity.peer_id, "", "discovery", number))
    async with trio.open_nursery() as nursery:
        a = await nursery.start(here.node().run)
        await trio.sleep(60)
        first = a.counters.connect_attempts
        await trio.sleep(1800)
        assert 0 < first <= 64 + 60 * 8
        # Each place at the longest pause of its schedule, which is six times, and as often before it came to that.
        assert a.counters.connect_attempts <= 300 * 14
        assert len(a._running().leads.targets) <= 300
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("source", "dialled"), [("registry", 0), ("configured", 1)])
async def test_t49_a_name_that_a_registry_gave_is_judged_anew_after_a_restart(
    autojump_clock: MockClock, source: str, dialled: int
) -> None:
    class Rebound:
        """A network where the name leads to this machine by now."""

        def __init__(self, window: MemoryHost) -> None:
            self.window = window
            self.dialled: list[p2p.PeerEndpoint] = []

        def __getattr__(self, name: str) -> Any:
            return getattr(self.window, name)

        async def resolve(self, endpoint: p2p.PeerEndpoint) -> tuple[p2p.PeerEndpoint, ...]:
            await trio.lowlevel.checkpoint()
            return (p2p.PeerEndpoint("127.0.0.1", endpoint.port, endpoint.scheme),)

        async def connect(self, endpoint: p2p.PeerEndpoint) -> Any:
            await trio.lowlevel.checkpoint()
            self.dialled.append(endpoint)
            raise p2p.ConnectFailed(Reason.REFUSED, "nothing there")

    here = Host(MemoryNetwork(), 0)
    with here.store.write() as transaction:
        place = p2p.PeerEndpoint("evil.example", 443, "wss")
        transaction.set_place(BookPlace(place, Host(MemoryNetwork(), 1).identity.peer_id, "x", source, 1))
    network = Rebound(here.window)
    async with trio.open_nursery() as nursery:
        await nursery.start(here.node(network=network).run)
        await trio.sleep(8)
        assert len(network.dialled) == dialled
        nursery.cancel_scope.cancel()


async def test_t33_a_ban_lasts_over_a_restart_and_ends(autojump_clock: MockClock) -> None:
    net = MemoryNetwork()
    here, other = Host(net, 0), Host(net, 1)
    async with trio.open_nursery() as nursery:
        b = await nursery.start(other.node().run)
        clock = SimulatedClock()
        a = await nursery.start(here.node(clock=clock).run)
        await b.connect(here.endpoint)
        for _ in range(4):
            a._running().supervisor.penalize(b.peer_id, Reason.PROTOCOL)
            a._running().supervisor.penalize(a.peer_id, Reason.PROTOCOL)
        await trio.sleep(1)
        assert not a.peers()
        await stopped(a)
        assert list(here.store.bans()) == [b.peer_id]
        a = await nursery.start(here.node(clock=clock).run)
        ban_s = a.config.limits.ban_s_min
        for _ in range(2):
            with pytest.raises(p2p.ConnectFailed, match="banned"):
                await b.connect(here.endpoint)
            await trio.sleep(0.45 * ban_s)
        with pytest.raises(p2p.ConnectFailed, match="banned"):
            await b.connect(here.endpoint)
        await trio.sleep(0.1 * ban_s)
        await b.connect(here.endpoint)
        await stopped(a)
        clock.skew_ms = 3_600_000
        a = await nursery.start(here.node(clock=clock).run)
        await trio.sleep(1)
        assert here.store.bans() == {}, "one that is over is taken out"
        nursery.cancel_scope.cancel()


async def test_a_ban_that_an_operator_wrote_holds_from_the_next_start(autojump_clock: MockClock) -> None:
    net = MemoryNetwork()
    here, other = Host(net, 0), Host(net, 1)
    with here.store.write() as transaction:
        transaction.set_ban(other.identity.peer_id, 4_000_000_000_000, 10)
        transaction.set_ban(here.identity.peer_id, 4_000_000_000_000, 10)
    async with trio.open_nursery() as nursery:
        a = await nursery.start(here.node().run)
        b = await nursery.start(other.node().run)
        with pytest.raises(p2p.ConnectFailed, match="banned"):
            await b.connect(here.endpoint)
        offer(a, other.announcement)
        await trio.sleep(60)
        assert a.counters.connect_attempts == 0
        assert list(here.store.bans()) == [b.peer_id], "nobody is banned by himself"
        nursery.cancel_scope.cancel()
