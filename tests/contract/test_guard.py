"""Who finds a place, and how often a place is dialled, on a network in memory under a clock that jumps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

import p2p
from p2p.errors import Reason
from p2p.policy.hints import HintSource
from p2p.transport.memory import MemoryHost, MemoryNetwork
from tests.contract.hosts import Host

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_t50_strangers_that_connect_leave_half_of_the_places_to_those_we_look_for(
    autojump_clock: MockClock,
) -> None:
    net = MemoryNetwork()
    here, *others = (Host(net, number) for number in range(12))
    friend = others[-1]
    named = p2p.PeerEndpoint(friend.address, 1, "mem", str(friend.identity.peer_id))
    async with trio.open_nursery() as nursery:
        a = await nursery.start(here.node(max_peers=8, peers=(named,)).run)
        nodes = [await nursery.start(host.node().run) for host in others]
        refused = 0
        for node in nodes[:8]:
            try:
                await node.connect(here.endpoint)
            except p2p.ConnectFailed as failure:
                assert failure.reason is Reason.FULL
                refused += 1
        assert (len(a.peers()), refused) == (4, 4)
        # Who is named in the configuration gets in by itself, and whom we dial gets in.
        await nodes[-1].connect(here.endpoint)
        for host in others[4:7]:
            await a.connect(host.endpoint)
        assert len(a.peers()) == 8
        with pytest.raises(p2p.ConnectFailed, match="full"):
            await a.connect(others[8].endpoint)
        nursery.cancel_scope.cancel()


async def test_t50_two_nodes_that_strangers_fill_up_to_the_half_still_find_each_other(
    autojump_clock: MockClock,
) -> None:
    """Who is announced would be dialled in any case, and has one of the places for that when he dials himself."""
    net = MemoryNetwork()
    one, other, *others = (Host(net, number) for number in range(6))
    async with trio.open_nursery() as nursery:
        a = await nursery.start(one.node(max_peers=4).run)
        b = await nursery.start(other.node(max_peers=4).run)
        for number, host in enumerate(others):
            stranger = await nursery.start(host.node().run)
            await stranger.connect((one if number % 2 else other).endpoint)
        for _ in range(5):
            for node, heard in ((a, other), (b, one)):
                node._running().leads.offer(heard.announcement, HintSource.DISCOVERY, heard.address)
            await trio.sleep(2)
        assert b.peer_id in {peer.peer_id for peer in a.peers()}
        nursery.cancel_scope.cancel()


async def test_t50_who_has_himself_announced_takes_no_place_of_a_configured_peer_that_is_away(
    autojump_clock: MockClock,
) -> None:
    net = MemoryNetwork()
    here, *away = (Host(net, number) for number in range(3))
    announced = [Host(net, number) for number in range(3, 11)]
    async with trio.open_nursery() as nursery:
        a = await nursery.start(here.node(max_peers=8, peers=tuple(host.endpoint for host in away)).run)
        for host in announced:
            node = await nursery.start(host.node().run)
            a._running().leads.offer(host.announcement, HintSource.DISCOVERY, host.address)
            try:
                await node.connect(here.endpoint)
            except p2p.ConnectFailed as failure:
                assert failure.reason is Reason.FULL
        await trio.sleep(5)
        assert len(a.peers()) == 6
        for host in away:
            await nursery.start(host.node().run)
            await a.connect(host.endpoint)
        assert len(a.peers()) == 8
        nursery.cancel_scope.cancel()


async def test_t50_with_a_trust_list_everybody_on_it_is_looked_for(autojump_clock: MockClock) -> None:
    net = MemoryNetwork()
    here, *others = (Host(net, number) for number in range(5))
    trust = {host.node_id: host.identity.peer_id for host in others}
    async with trio.open_nursery() as nursery:
        a = await nursery.start(here.node(max_peers=4, trust=trust).run)
        for host in others:
            await (await nursery.start(host.node().run)).connect(here.endpoint)
        assert len(a.peers()) == 4
        nursery.cancel_scope.cancel()


async def test_a_place_is_free_again_when_its_peer_has_left(autojump_clock: MockClock) -> None:
    net = MemoryNetwork()
    here, *others = (Host(net, number) for number in range(4))
    async with trio.open_nursery() as nursery:
        a = await nursery.start(here.node(max_peers=2).run)
        for host in others:
            node = await nursery.start(host.node().run)
            await node.connect(here.endpoint)
            node.stop()
            await node.wait()
            await trio.sleep(1)
        assert not a.peers() and not len(a._running().places)
        nursery.cancel_scope.cancel()


async def dials_of(one: Host, other: Host, seconds: float) -> tuple[int, p2p.NodeStats]:
    """How often a configured peer is dialled that ends every link at once."""
    async with trio.open_nursery() as nursery:
        b = await nursery.start(other.node().run)
        a = await nursery.start(one.node(peers=(other.endpoint,)).run)

        async def drop() -> None:
            async with b.events() as events:
                async for event in events:
                    if isinstance(event, p2p.events.PeerConnected):
                        await b.disconnect(event.peer.peer_id)

        nursery.start_soon(drop)
        await trio.sleep(seconds)
        stats = a.stats()
        nursery.cancel_scope.cancel()
    return stats.connect_attempts, stats


async def test_t33_a_peer_that_ends_every_link_is_dialled_on_the_schedule(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.01)
    attempts, stats = await dials_of(Host(net, 0), Host(net, 1), 3600)
    # 2, 4, 8, 15, 30, 60, 120, 240 and then every 300 s, each up to a quarter shorter.
    assert 18 <= attempts <= 26
    assert stats.connect_failures == 0, "each attempt led to a session"
    assert stats.tracked_endpoints == 1
    assert stats.backoff_skips >= attempts - 1


async def test_t33_a_peer_that_refuses_us_is_dialled_on_the_schedule(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.01)
    other = Host(net, 1, trust={"n9": p2p.PeerId(bytes(32))})
    attempts, stats = await dials_of(Host(net, 0), other, 3600)
    assert 18 <= attempts <= 26
    assert stats.connect_failures == attempts, "a socket that opens is no session"


async def test_t33_for_others_a_place_that_failed_waits_and_a_program_may_try_at_once(
    autojump_clock: MockClock,
) -> None:
    net = MemoryNetwork()
    here, there = Host(net, 0), Host(net, 1)
    rules = p2p.DialRule()
    async with trio.open_nursery() as nursery:
        a = await nursery.start(here.node().run)
        for reason in (Reason.REFUSED, Reason.BACKOFF, Reason.BACKOFF):
            with pytest.raises(p2p.ConnectFailed) as caught:
                await a.connect(there.endpoint, rule=rules)
            assert caught.value.reason is reason
        with pytest.raises(p2p.ConnectFailed, match="refused"):
            await a.connect(there.endpoint)
        assert (a.stats().connect_attempts, a.stats().backoff_skips) == (2, 2)
        await trio.sleep(5)
        await nursery.start(there.node().run)
        assert (await a.connect(there.endpoint, rule=rules)).node_id == "n1"
        nursery.cancel_scope.cancel()


class Names(MemoryHost):
    """A network with a name server that anybody may have written to; it counts what is asked and what is dialled."""

    answers: dict[str, list[tuple[str, ...]]]
    dialled: list[str]

    async def resolve(self, endpoint: p2p.PeerEndpoint) -> tuple[p2p.PeerEndpoint, ...]:
        await trio.lowlevel.checkpoint()
        found = self.answers[endpoint.host].pop(0) if endpoint.host in self.answers else (endpoint.host,)
        return tuple(p2p.PeerEndpoint(host, endpoint.port, "mem", endpoint.expect) for host in found)

    async def connect(self, endpoint: p2p.PeerEndpoint):  # type: ignore[no-untyped-def]
        self.dialled.append(endpoint.host)
        return await super().connect(endpoint)


async def test_t49_a_name_is_resolved_once_judged_and_dialled_as_judged(autojump_clock: MockClock) -> None:
    net = MemoryNetwork()
    here, there = Host(net, 0), Host(net, 1)
    window = Names(net, here.address)
    window.dialled = []
    window.answers = {
        "rebound": [(there.address,), ("127.0.0.1",)],
        "mixed": [("169.254.169.254", there.address)],
        "inside": [("127.0.0.1",)],
    }
    async with trio.open_nursery() as nursery:
        a = await nursery.start(here.node(network=window).run)
        await nursery.start(there.node().run)
        for name in ("rebound", "mixed"):
            await a.connect(p2p.PeerEndpoint(name, there.endpoint.port, "mem"), rule=p2p.DialRule())
        assert set(window.dialled) == {there.address}
        with pytest.raises(p2p.ConnectFailed) as caught:
            await a.connect(p2p.PeerEndpoint("inside", 1, "mem"), rule=p2p.DialRule())
        with pytest.raises(p2p.ConnectFailed) as empty:
            await a.connect(p2p.PeerEndpoint(there.address, 1, "mem"), rule=p2p.DialRule())
        assert caught.value.reason is empty.value.reason, "nothing is told of what is there"
        nursery.cancel_scope.cancel()
