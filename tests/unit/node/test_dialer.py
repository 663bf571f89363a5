"""Configured links on a network in memory, under a clock that jumps."""

from __future__ import annotations

import dataclasses
import gc
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import p2p
from p2p.crypto.identity import Identity
from p2p.node.events import PeerConnected
from p2p.node.service import run_around
from p2p.peer.connection import Connection
from p2p.store.memory import MemoryStore
from p2p.testing.dice import Dice
from p2p.transport.memory import MemoryNetwork
from p2p.windows import InlineBlocking, SimulatedClock

if TYPE_CHECKING:
    from trio.testing import MockClock

A, B = (p2p.PeerEndpoint(host, 9000, "mem") for host in ("10.0.0.1", "10.0.0.2"))


class Host:
    """A host whose identity and log outlive its nodes."""

    def __init__(self, net: MemoryNetwork, here: p2p.PeerEndpoint, *peers: p2p.PeerEndpoint) -> None:
        self.window = net.network_for(here.host)
        self.peers = peers
        self.dice = Dice(here.host)
        self.identity = Identity.generate(self.dice.entropy)
        self.store = MemoryStore(self.identity.peer_id)

    def node(self) -> p2p.Node:
        return p2p.Node(
            p2p.NodeConfig(
                node_id=f"n{self.window.name[-1]}",
                listen_port=9000,
                open=True,
                peers=self.peers,
                store=lambda _say: (self.store, self.identity),
                network=self.window,
                clock=SimulatedClock(),
                entropy=self.dice.entropy,
                blocking=InlineBlocking(),
            )
        )


async def until_connected(node: p2p.Node) -> None:
    async with node.events() as events:
        while not node.peers():
            await events.__anext__()


async def test_a_peer_that_came_by_itself_is_not_dialled_when_its_backoff_ends(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.01)
    one, other = Host(net, A, B), Host(net, B, A)
    async with trio.open_nursery() as nursery:
        b = await nursery.start(other.node().run)
        a = await nursery.start(one.node().run)
        await a.connect(B)
        b.stop()
        # The backoff grows far beyond the moment in which the other comes back and dials.
        await trio.sleep(60)
        assert not a.peers()
        b = await nursery.start(other.node().run)
        await until_connected(a)
        attempts = a.counters.connect_attempts
        await trio.sleep(600)
        assert a.peers()
        assert a.counters.connect_attempts == attempts
        a.stop()
        b.stop()


async def test_a_session_that_is_over_at_once_is_told_and_is_no_failed_dial(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.01)
    one, other = Host(net, A), Host(net, B)

    async def part_at_once(node: p2p.Node) -> None:
        async with node.events() as events:
            async for event in events:
                if isinstance(event, PeerConnected):
                    await node.disconnect(event.peer)

    async with trio.open_nursery() as nursery:
        b = await nursery.start(other.node().run)
        a = await nursery.start(one.node().run)
        nursery.start_soon(part_at_once, b)
        await wait_all_tasks_blocked()
        with pytest.raises(p2p.ConnectFailed, match="connected, and over at once") as caught:
            await a.connect(B)
        assert caught.value.reason is p2p.Reason.DISCONNECTED
        assert (a.stats().connect_failures, a.stats().handshakes_completed) == (0, 1)
        nursery.cancel_scope.cancel()


async def test_a_link_that_is_over_does_not_wait_for_the_garbage_collector(autojump_clock: MockClock) -> None:
    net = MemoryNetwork()
    async with trio.open_nursery() as nursery:
        await nursery.start(Host(net, B).node().run)
        a = await nursery.start(Host(net, A).node().run)
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                await a.disconnect(await a.connect(B))
            await wait_all_tasks_blocked()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            assert [kept for kept in gc.garbage if isinstance(kept, Connection)] == []
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        nursery.cancel_scope.cancel()


async def test_a_call_into_a_node_that_is_being_cancelled_says_that_it_is_closed(autojump_clock: MockClock) -> None:
    """Between the end of the links and the end of the store there is no nursery for a dial."""
    net = MemoryNetwork()
    host, held = Host(net, A), trio.Event()

    class SlowDisk(InlineBlocking):
        async def run(self, lane, fn, *args):  # type: ignore[no-untyped-def]
            if fn == host.store.close:
                held.set()
                await trio.sleep(0.5)
            return await super().run(lane, fn, *args)

    node = p2p.Node(dataclasses.replace(host.node().config, blocking=SlowDisk()))
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await held.wait()
            with pytest.raises(p2p.NodeClosed):
                await node.connect(B)


async def test_a_configured_peer_that_cannot_be_reached_is_told_once_and_then_every_ten_minutes(
    autojump_clock: MockClock,
) -> None:
    net = MemoryNetwork(latency_s=0.01)
    one, other = Host(net, A, B), Host(net, B)
    lines: list[str] = []

    def told() -> int:
        return sum("cannot connect to mem://10.0.0.2:9000: refused" in line for line in lines)

    node = p2p.Node(dataclasses.replace(one.node().config, on_log=lines.append))
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        await trio.sleep(300)
        assert node.counters.connect_failures > 5
        assert told() == 1
        assert "next try in " in lines[-1]
        await trio.sleep(2 * 600)
        assert told() == 3
        # Once it was there, its next absence is news again.
        b = await nursery.start(other.node().run)
        await until_connected(node)
        await trio.sleep(10)
        b.stop()
        await b.wait()
        await trio.sleep(60)
        assert told() == 4
        node.stop()


async def test_a_node_whose_own_place_is_on_its_list_says_so_once(autojump_clock: MockClock) -> None:
    net = MemoryNetwork()
    node, lines = Host(net, A, A, B).node(), list[str]()
    with node.log_to(lines.append):
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            await trio.sleep(7200)
            nursery.cancel_scope.cancel()
    assert len([line for line in lines if line.startswith("cannot connect") and "dialled itself" in line]) == 1
    assert len([line for line in lines if line.startswith("cannot connect") and str(B) in line]) > 5


async def test_t64_a_node_whose_clock_shows_a_time_before_1970_dials(autojump_clock: MockClock) -> None:
    net, clock = MemoryNetwork(), SimulatedClock(-(10**12))
    early = p2p.Node(dataclasses.replace(Host(net, A).node().config, clock=clock))
    async with trio.open_nursery() as nursery:
        other = await nursery.start(Host(net, B).node().run)
        await nursery.start(early.run)
        peer = await early.connect(B)
        seq = await early.wal.append(b"x")
        with trio.fail_after(60):
            await early.wal.wait_replicated(seq, peers=1)
        assert early.get_peer(peer).state is p2p.PeerState.CONNECTED
        assert other.get_peer("n1").node_id == "n1"
        nursery.cancel_scope.cancel()


async def test_t65_nodes_that_failed_at_the_same_moment_do_not_try_again_at_the_same_moment(
    autojump_clock: MockClock,
) -> None:
    net = MemoryNetwork()
    due = []
    for number in range(3, 7):
        async with run_around(Host(net, p2p.PeerEndpoint(f"10.0.0.{number}", 9000, "mem"), B).node()) as node:
            assert node._rooms is not None
            await wait_all_tasks_blocked()
            due.append(node._rooms.dialer._guard.due(B, trio.current_time()) - trio.current_time())
    assert len(set(due)) == len(due)
    assert min(due) > 0


async def test_a_dial_whose_turn_comes_after_the_nodes_end_is_told_that_it_stopped() -> None:
    async with trio.open_nursery() as over:
        pass
    async with p2p.open_node(node_id="a", listen_port=None) as node:
        assert node._rooms is not None
        node._rooms.dialer._nursery = over
        for _ in range(2):
            with pytest.raises(p2p.NodeClosed, match="stopped before it dialled"):
                await node.connect("127.0.0.1:1")
