"""A node whose store was brought back from a backup: whatever happens to its links, it forks nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

import p2p
from p2p.limits import Limits
from p2p.msg import HeadEntry, WalHeads
from p2p.node.replicator import Replicator
from p2p.node.writer import Writer
from p2p.replication.batch import NewRecord
from p2p.store.memory import MemoryStore
from p2p.transport.memory import MemoryNetwork
from p2p.windows import InlineBlocking, SimulatedClock
from tests.logs import Log

if TYPE_CHECKING:
    from trio.testing import MockClock

A, B, C = (p2p.PeerEndpoint(host, 9000, "mem") for host in ("10.0.0.1", "10.0.0.2", "10.0.0.3"))
BATCHES = 40
LIMITS = Limits()


class Host:
    """A node's place, its key, and what its store holds."""

    def __init__(self, net: MemoryNetwork, here: p2p.PeerEndpoint, number: int) -> None:
        self.window = net.network_for(here.host)
        self.own = Log(number)
        self.store = MemoryStore(self.own.origin)

    def hold(self, log: Log, count: int) -> None:
        with self.store.write() as transaction:
            for batch in log.batches[:count]:
                transaction.append(batch)

    def node(self, *peers: p2p.PeerEndpoint) -> p2p.Node:
        return p2p.Node(
            p2p.NodeConfig(
                node_id=f"n{self.window.name[-1]}",
                listen_port=9000,
                open=True,
                peers=peers,
                store=lambda _say: (self.store, self.own.identity),
                network=self.window,
                clock=SimulatedClock(),
                blocking=InlineBlocking(),
            )
        )


@pytest.fixture
def net() -> MemoryNetwork:
    return MemoryNetwork(latency_s=0.01)


@pytest.fixture
def backup(net: MemoryNetwork) -> Host:
    """It holds one batch of its own log."""
    host = Host(net, A, 1)
    for number in range(BATCHES):
        host.own.add(bytes([number]) * 100_000)
    host.hold(host.own, 1)
    return host


@pytest.fixture
def keeper(net: MemoryNetwork, backup: Host) -> Host:
    """It holds all of that log."""
    host = Host(net, B, 2)
    host.hold(backup.own, BATCHES)
    return host


async def until_held(node: p2p.Node, seq: int) -> None:
    async with node.events() as events:
        while node.wal.heads()[node.peer_id].seq < seq:
            await events.__anext__()


async def test_t42_what_is_ready_at_the_start_waits_for_a_first_word_of_a_configured_peer(
    backup: Host, keeper: Host, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        b = await nursery.start(keeper.node().run)
        a = await nursery.start(backup.node(B).run)
        assert await a.wal.append(b"ready at the start") == BATCHES + 1
        await a.wal.wait_replicated(BATCHES + 1)
        assert not b.wal.heads()[a.peer_id].frozen
        a.stop()
        b.stop()


async def test_t42_a_peer_nearby_does_not_speak_for_one_farther_away(
    net: MemoryNetwork, backup: Host, keeper: Host, autojump_clock: MockClock
) -> None:
    net.set_link(A.host, B.host, latency_s=0.2)
    near = Host(net, C, 3)
    async with trio.open_nursery() as nursery:
        b = await nursery.start(keeper.node().run)
        # One that is configured, and one that nobody asked for: it dials.
        c = await nursery.start(near.node(A).run)
        a = await nursery.start(backup.node(B, C).run)
        assert await a.wal.append(b"ready at the start") == BATCHES + 1
        await a.wal.wait_replicated(BATCHES + 1)
        assert not b.wal.heads()[a.peer_id].frozen
        for node in (a, b, c):
            node.stop()


async def test_t42_a_stranger_does_not_speak_for_a_configured_peer(
    net: MemoryNetwork, backup: Host, keeper: Host, autojump_clock: MockClock
) -> None:
    net.set_link(A.host, B.host, latency_s=0.2)
    stranger = Host(net, C, 3)
    async with trio.open_nursery() as nursery:
        b = await nursery.start(keeper.node().run)
        a = await nursery.start(backup.node(B).run)
        c = await nursery.start(stranger.node(A).run)
        assert await a.wal.append(b"ready at the start") == BATCHES + 1
        assert not b.wal.heads()[a.peer_id].frozen
        for node in (a, b, c):
            node.stop()


@pytest.mark.parametrize("restarts", [False, True], ids=["a link breaks", "and the node restarts"])
async def test_t42_an_own_log_that_is_half_fetched_back_stays_closed(
    net: MemoryNetwork, backup: Host, keeper: Host, restarts: bool, autojump_clock: MockClock
) -> None:
    net.set_link(A.host, B.host, bytes_per_s=200_000)
    async with trio.open_nursery() as nursery:
        b = await nursery.start(keeper.node().run)
        a = await nursery.start(backup.node(B).run)
        await until_held(a, 5)
        net.partition(A.host, B.host)
        net.reset(A.host, B.host)
        if restarts:
            a.stop()
            await a.wait()
            a = await nursery.start(backup.node(B).run)
        with trio.move_on_after(60):
            await a.wal.append(b"too early")
            raise AssertionError("it signed in the middle of what it had signed before")
        assert 5 <= a.wal.heads()[a.peer_id].seq < BATCHES
        net.heal_all()
        net.set_link(A.host, B.host, bytes_per_s=1e9)
        assert await a.wal.append(b"at the end") == BATCHES + 1
        await a.wal.wait_replicated(BATCHES + 1)
        assert not b.wal.heads()[a.peer_id].frozen
        a.stop()
        b.stop()


async def test_a_start_without_anybody_in_reach_delays_no_append(
    net: MemoryNetwork, backup: Host, autojump_clock: MockClock
) -> None:
    for here in (B, C):
        net.network_for(here.host)
    async with trio.open_nursery() as nursery:
        a = await nursery.start(backup.node(B, C).run)
        started = trio.current_time()
        await a.wal.append(b"nobody listens there")
        assert trio.current_time() - started < 0.1
        a.stop()


async def test_t39_peers_that_do_not_answer_delay_appends_for_a_bounded_time(
    net: MemoryNetwork, backup: Host, keeper: Host, autojump_clock: MockClock
) -> None:
    net.partition(A.host, B.host)
    async with trio.open_nursery() as nursery:
        b = await nursery.start(keeper.node().run)
        a = await nursery.start(backup.node(B).run)
        started = trio.current_time()
        await a.wal.append(b"it cannot know")
        assert trio.current_time() - started == pytest.approx(LIMITS.append_delay_at_start_s_max, abs=0.1)
        a.stop()
        b.stop()


@pytest.mark.parametrize(
    ("held", "is_new", "shown", "waits_s"),
    [
        (1, True, None, LIMITS.append_delay_at_start_s_max),
        (1, False, 1, 0.5),
        # Who knows nothing of our log cannot say that there is no more of it.
        (1, False, 0, LIMITS.append_delay_at_start_s_max),
        # The key is older than the log that is there: what was written before may be lost.
        (0, False, None, LIMITS.append_delay_at_start_s_max),
        (0, False, 0, LIMITS.append_delay_at_start_s_max),
        (0, True, None, 0.0),
    ],
)
async def test_t42_a_node_that_only_looks_for_peers_waits_for_a_word_if_it_may_have_signed_before(
    held: int, is_new: bool, shown: int | None, waits_s: float, autojump_clock: MockClock
) -> None:
    log = Log(1)
    log.add(b"of before")
    store = MemoryStore(log.origin)
    with store.write() as transaction:
        for batch in log.batches[:held]:
            transaction.append(batch)
    clock = SimulatedClock()
    writer = Writer(
        store=store,
        identity=log.identity,
        clock=clock,
        blocking=InlineBlocking(),
        limits=LIMITS,
        emit=lambda _event: None,
        admit=lambda _origin, _via: True,
    )
    replicator = Replicator(
        own=log.origin,
        writer=writer,
        clock=clock,
        limits=LIMITS,
        penalize=lambda _peer, _reason: None,
        is_looking=True,
        is_new=is_new,
    )

    class Stranger:
        peer_id = Log(2).origin
        direct = True

        def send_control(self, message: object) -> None: ...

        def send_wal(self, message: object) -> None: ...

    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        await nursery.start(replicator.run)
        began = trio.current_time()

        async def speak() -> None:
            await trio.sleep(0.5)
            stranger = Stranger()
            heads = [HeadEntry(log.origin, shown, log.batches[0].hash, want=False)] if shown else []
            entries = tuple(heads)
            replicator.link_up(stranger)
            replicator.receive(stranger, WalHeads(entries))

        if shown is not None:
            nursery.start_soon(speak)
        assert await writer.append_many([NewRecord("app", None, b"x")]) == [held + 1]
        assert trio.current_time() - began == pytest.approx(waits_s)
        nursery.cancel_scope.cancel()
