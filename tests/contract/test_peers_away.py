"""Who is known and not connected, and what came of looking for them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import trio

import p2p
from p2p import PeerState
from p2p.errors import Reason
from p2p.transport.memory import MemoryNetwork
from tests.contract.hosts import Host

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_a_configured_peer_that_is_away_is_told_of_with_why_and_when_next(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.01)
    here, other = Host(net, 0), Host(net, 1)
    async with trio.open_nursery() as nursery:
        a = await nursery.start(here.node(peers=(other.endpoint,)).run)
        await trio.sleep(1)
        [away] = a.peers_away()
        assert (away.endpoint, away.configured, away.peer_id) == (other.endpoint, True, None)
        assert (away.state, away.failure, away.failures) == (PeerState.DISCONNECTED, Reason.REFUSED, 1)
        assert away.next_dial_s is not None and 0 < away.next_dial_s <= 2.0
        assert a.counters.dials_failed == {Reason.REFUSED: a.stats().connect_failures}

        b = await nursery.start(other.node().run)
        await trio.sleep(10)
        assert a.peers() and not a.peers_away(), "connected now: nobody stands in both lists"

        b.stop()
        await b.wait()
        await trio.sleep(1)
        [away] = a.peers_away()
        assert (away.peer_id, away.node_id) == (other.identity.peer_id, "n1"), "it is known by now who is there"
        nursery.cancel_scope.cancel()


async def test_a_dial_that_something_answered_is_handshaking(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.4)
    here, other = Host(net, 0), Host(net, 1)
    seen: list[PeerState] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(other.node().run)
        a = await nursery.start(here.node(peers=(other.endpoint,)).run)
        for _ in range(100):
            seen += [away.state for away in a.peers_away()]
            await trio.sleep(0.1)
        assert PeerState.HANDSHAKING in seen
        assert PeerState.CONNECTED not in seen
        assert a.peers()
        nursery.cancel_scope.cancel()


async def test_those_met_earlier_come_once_each_and_bounded(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.01)
    here, *others = (Host(net, number) for number in range(6))
    limits = replace(p2p.Limits(), peers_away_max=4)
    async with trio.open_nursery() as nursery:
        a = await nursery.start(here.node(limits=limits).run)
        for number, host in enumerate(others):
            node = await nursery.start(host.node(dial=False).run)
            if number == 0:
                await a.connect(host.endpoint)
            else:
                await node.connect(here.endpoint)
            node.stop()
            await node.wait()
        await trio.sleep(1)
        away = a.peers_away()
        assert [one.node_id for one in away] == ["n1", "n5", "n4", "n3"], "the last comes first"
        assert [one.endpoint for one in away] == [others[0].endpoint, None, None, None]
        assert [one.configured for one in away] == [False] * 4
        assert [one.node_id for one in a.peers_away(count_max=2)] == ["n1", "n5"]
        nursery.cancel_scope.cancel()
