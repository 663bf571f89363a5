"""The replicator over real writers and stores; messages are encoded and decoded, and delivered in order."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from p2p.crypto.identity import Identity
from p2p.errors import NodeClosed, Reason, RemoteProtocolError, StoreError
from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.msg import AnyMessage, OutboxPull, WalAck, WalHeads, WalPush, decode_payload
from p2p.node.events import NodeEvent
from p2p.node.replicator import Replicator
from p2p.node.writer import Writer
from p2p.replication.accept import Verdict
from p2p.replication.batch import NewRecord
from p2p.replication.exchange import Penalize
from p2p.replication.heads import EMPTY_LOG, digest
from p2p.store.base import StoredBatch
from p2p.store.memory import MemoryStore
from p2p.windows import InlineBlocking, SystemClock, system_entropy

LIMITS = Limits()


class End:
    """One end of a link that a test holds in its hand."""

    def __init__(self, owner: Node, peer: PeerId) -> None:
        self.owner = owner
        self.peer_id = peer
        self.direct = True
        self.other: End | None = None
        self.waiting: deque[tuple[int, bytes]] = deque()
        self.some = trio.Event()
        self.sent: list[AnyMessage] = []
        self.error: RemoteProtocolError | None = None
        self.sizes: deque[int] = deque()
        self.unacked = self.unacked_max = 0

    def send_control(self, message: AnyMessage) -> None:
        assert not isinstance(message, WalPush)
        self._send(message)

    def send_wal(self, message: WalPush) -> None:
        self._send(message)

    def _send(self, message: AnyMessage) -> None:
        self.sent.append(message)
        if isinstance(message, WalPush):
            self.sizes.append(len(message.wal_bytes))
            self.unacked += len(message.wal_bytes)
            self.unacked_max = max(self.unacked_max, self.unacked)
        self.waiting.append((message.TYPE, message.encode()))
        self.some.set()

    async def deliver(self) -> None:
        """Carry what is sent here to the other end, one after the other."""
        assert self.other is not None
        while True:
            await self.some.wait()
            self.some = trio.Event()
            while self.waiting:
                message = decode_payload(*self.waiting.popleft())
                await trio.lowlevel.checkpoint()
                if isinstance(message, WalAck) and self.other.sizes:
                    self.other.unacked -= self.other.sizes.popleft()
                try:
                    self.other.owner.replicator.receive(self.other, message)
                except RemoteProtocolError as error:
                    self.error = error
                    return


class Node:
    """A writer on a memory store, and a replicator."""

    def __init__(self, identity: Identity | None = None) -> None:
        self.identity = identity or Identity.generate(system_entropy)
        self.store = MemoryStore(self.identity.peer_id)
        self.events: list[NodeEvent] = []
        self.penalized: list[tuple[PeerId, Reason]] = []
        self.writer = Writer(
            store=self.store,
            identity=self.identity,
            clock=SystemClock(),
            blocking=InlineBlocking(),
            limits=LIMITS,
            emit=self.events.append,
            admit=lambda origin, via: True,
        )
        self.replicator = Replicator(
            own=self.id,
            writer=self.writer,
            clock=SystemClock(),
            limits=LIMITS,
            penalize=lambda peer, reason: self.penalized.append((peer, reason)),
        )
        self.loads: list[PeerId] = []

    @property
    def id(self) -> PeerId:
        return self.identity.peer_id

    async def append(self, *payloads: bytes) -> list[int]:
        return await self.writer.append_many([NewRecord("app", None, payload) for payload in payloads])

    def count_loads(self) -> None:
        load = self.writer.load

        async def counted(origin: PeerId, from_seq: int, bytes_max: int) -> list[StoredBatch]:
            self.loads.append(origin)
            return await load(origin, from_seq, bytes_max)

        self.writer.load = counted  # type: ignore[method-assign]

    def held(self, origin: PeerId) -> int:
        return self.writer.heads.get(origin, EMPTY_LOG).seq


@asynccontextmanager
async def running(count: int) -> AsyncIterator[tuple[list[Node], trio.Nursery]]:
    nodes = [Node() for _ in range(count)]
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.writer.run)
            await nursery.start(node.replicator.run)
        yield nodes, nursery
        nursery.cancel_scope.cancel()


def link(nursery: trio.Nursery, one: Node, other: Node) -> tuple[End, End]:
    ends = End(one, other.id), End(other, one.id)
    ends[0].other, ends[1].other = ends[1], ends[0]
    for end in ends:
        nursery.start_soon(end.deliver)
    for end in ends:
        end.owner.replicator.link_up(end)
    return ends


async def until_equal(*nodes: Node) -> None:
    with trio.fail_after(60):
        while len({digest(node.writer.heads) for node in nodes}) > 1:
            await trio.testing.wait_all_tasks_blocked(0.001)
            await trio.sleep(0.01)


async def test_an_append_reaches_the_peer_and_is_confirmed(autojump_clock: trio.testing.MockClock) -> None:
    async with running(2) as (nodes, nursery):
        a, b = nodes
        link(nursery, a, b)
        (seq,) = await a.append(b"one")
        start = trio.current_time()
        await a.replicator.wait_replicated(seq, 1)
        assert trio.current_time() == start, "no deadline lies on the way"
        assert b.held(a.id) == seq
        assert a.replicator.lag(a.id) == {b.id: 0}
        assert b.replicator.lag(b.id) == {a.id: 0}


async def test_heads_are_sent_before_link_up_returns() -> None:
    async with running(2) as (nodes, nursery):
        ends = link(nursery, *nodes)
        assert [end.sent for end in ends] == [[WalHeads(())], [WalHeads(())]]


async def test_catching_up_keeps_the_window(autojump_clock: trio.testing.MockClock) -> None:
    async with running(2) as (nodes, nursery):
        a, b = nodes
        for _ in range(40):
            await a.append(*[bytes(1000)] * 250)
        ends = link(nursery, a, b)
        await until_equal(a, b)
        assert b.held(a.id) == 10_000
        assert LIMITS.unacked_bytes_max // 2 < ends[0].unacked_max <= LIMITS.unacked_bytes_max + LIMITS.batch_bytes_max
        assert all(end.error is None for end in ends)


async def test_what_was_received_is_passed_on_without_a_read(autojump_clock: trio.testing.MockClock) -> None:
    async with running(4) as (nodes, nursery):
        a, b, c, d = nodes
        for other in (a, c, d):
            link(nursery, b, other)
        await a.append(b"first")
        await until_equal(*nodes)
        b.count_loads()
        await a.append(b"second")
        await until_equal(*nodes)
        assert c.held(a.id) == d.held(a.id) == 2
        assert b.loads == []


async def test_what_was_appended_is_sent_without_a_read(autojump_clock: trio.testing.MockClock) -> None:
    async with running(6) as (nodes, nursery):
        for other in nodes[1:]:
            link(nursery, nodes[0], other)
        await trio.testing.wait_all_tasks_blocked()
        nodes[0].count_loads()
        await nodes[0].append(b"x")
        await until_equal(*nodes)
        assert nodes[0].loads == []


async def test_a_log_that_several_lack_is_read_once_for_all_links(autojump_clock: trio.testing.MockClock) -> None:
    async with running(6) as (nodes, nursery):
        await nodes[0].append(b"x")
        nodes[0].replicator._recent.forget(nodes[0].id)
        nodes[0].count_loads()
        for other in nodes[1:]:
            link(nursery, nodes[0], other)
        await until_equal(*nodes)
        assert nodes[0].loads == [nodes[0].id]


async def test_waiting_for_more_peers_than_there_are_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    async with running(3) as (nodes, nursery):
        a, b, c = nodes
        link(nursery, a, b)
        (seq,) = await a.append(b"x")
        with trio.move_on_after(100) as scope:
            await a.replicator.wait_replicated(seq, 2)
        assert scope.cancelled_caught
        assert a.replicator._waiters == {}
        link(nursery, a, c)
        with trio.fail_after(5):
            await a.replicator.wait_replicated(seq, 2)


async def test_of_thousands_that_confirm_one_record_a_few_are_a_reason_to_look_at_all(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    table: dict[PeerId, int] = {}

    def confirmed() -> dict[PeerId, int]:
        nonlocal looks
        looks += 1
        return table

    async with running(1) as ((node,), nursery):
        replicator = node.replicator
        monkeypatch.setattr(replicator._exchange, "confirmed", confirmed)
        done: list[int] = []

        async def wait(seq: int, peers: int) -> None:
            await replicator.wait_replicated(seq, peers)
            done.append(peers)

        for peers in (1, 1000):
            nursery.start_soon(wait, 1, peers)
        await trio.testing.wait_all_tasks_blocked()
        reached = []
        for number in range(1, 1501):
            table[PeerId(number.to_bytes(32, "big"))] = 1
            replicator._confirmations += 1
            replicator._wake_waiters()
            if number in (1, 999, 1000):
                await trio.testing.wait_all_tasks_blocked()
                reached.append(list(done))
        assert reached == [[1], [1], [1, 1000]]
        assert looks < 20


async def test_those_who_wait_when_the_node_stops_are_told(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    raised: list[NodeClosed] = []

    async def wait() -> None:
        try:
            await node.replicator.wait_replicated(1, 1)
        except NodeClosed as error:
            raised.append(error)

    async with trio.open_nursery() as outer, trio.open_nursery() as inner:
        await inner.start(node.writer.run)
        await inner.start(node.replicator.run)
        outer.start_soon(wait)
        outer.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        inner.cancel_scope.cancel()
    assert len(raised) == 2
    with pytest.raises(NodeClosed):
        await node.replicator.wait_replicated(1, 1)


async def test_a_link_that_ends_is_forgotten_and_may_still_hand_in_messages() -> None:
    async with running(2) as (nodes, nursery):
        ends = link(nursery, *nodes)
        nodes[0].replicator.link_down(ends[0])
        nodes[0].replicator.link_down(ends[0])
        nodes[0].replicator.receive(ends[0], WalAck(7))
        assert nodes[0].replicator.lag(nodes[0].id) == {}


async def test_what_may_not_be_sent_is_the_callers_to_close() -> None:
    async with running(2) as (nodes, nursery):
        ends = link(nursery, *nodes)
        with pytest.raises(RemoteProtocolError):
            nodes[0].replicator.receive(ends[0], WalAck(7))


async def test_a_store_that_cannot_be_read_is_read_again(autojump_clock: trio.testing.MockClock) -> None:
    async with running(2) as (nodes, nursery):
        a, b = nodes
        load, fail = a.writer.load, [True]

        async def failing(origin: PeerId, from_seq: int, bytes_max: int) -> list[StoredBatch]:
            if fail:
                raise StoreError("the disk is away")
            return await load(origin, from_seq, bytes_max)

        a.writer.load = failing  # type: ignore[method-assign]
        await a.append(b"x")
        a.replicator._recent.forget(a.id)
        link(nursery, a, b)
        await trio.sleep(10)
        assert b.held(a.id) == 0
        fail.clear()
        await trio.sleep(1.1)
        assert b.held(a.id) == 1


async def test_a_pull_for_another_peer_has_the_logs_with_records_for_it_sent_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(3) as (nodes, nursery):
        a, b, writer = nodes
        wanted = PeerId(bytes(32))
        filler = [NewRecord("app", None, bytes(200_000))]
        # All other logs are longer and stand before it; the window has no room until it is asked for.
        for _ in range(4):
            await a.writer.append_many(filler)
        await writer.writer.append_many([NewRecord("app", None, b"x"), NewRecord("app", wanted, b"for the wanted one")])
        link(nursery, a, writer)
        await until_equal(a, writer)
        ends = link(nursery, a, b)
        a.replicator._machine._links[a.replicator._keys[ends[0]]].pushes.window = 0
        await trio.testing.wait_all_tasks_blocked()
        assert not [message for message in ends[0].sent if isinstance(message, WalPush)]
        for target in (PeerId(b"\x01" * 32), wanted):
            a.replicator.receive(ends[0], OutboxPull(target.hex(), 5))
        await until_equal(a, b)
        pushed = [PeerId(message.wal_bytes[1:33]) for message in ends[0].sent if isinstance(message, WalPush)]
        assert pushed[0] == writer.id
        assert set(pushed) == {writer.id, a.id}


async def test_a_pull_for_another_peer_widens_the_window_even_if_nothing_can_be_looked_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(2) as (nodes, nursery):
        a, b = nodes
        ends = link(nursery, a, b)
        pushes = a.replicator._machine._links[a.replicator._keys[ends[0]]].pushes
        window = pushes.window

        def fails(*_: object) -> list[PeerId]:
            raise StoreError("the cable is out")

        a.store.origins_for = fails  # type: ignore[method-assign]
        for text in (b.id.hex(), "some-label", "", PeerId(bytes(32)).hex()):
            a.replicator.receive(ends[0], OutboxPull(text, 10))
        await trio.testing.wait_all_tasks_blocked()
        assert pushes.window == window + 40


async def test_of_pulls_that_come_at_once_each_widens_the_window(autojump_clock: trio.testing.MockClock) -> None:
    async with running(2) as (nodes, nursery):
        a, _ = nodes
        ends = link(nursery, *nodes)
        pushes = a.replicator._machine._links[a.replicator._keys[ends[0]]].pushes
        await trio.testing.wait_all_tasks_blocked()
        window = pushes.window
        for _ in range(3):
            a.replicator.receive(ends[0], OutboxPull(PeerId(bytes(32)).hex(), 10))
        await trio.testing.wait_all_tasks_blocked()
        assert pushes.window == window + 30


async def test_of_a_log_that_shrank_nothing_is_offered_from_memory(autojump_clock: trio.testing.MockClock) -> None:
    async with running(1) as ((a,), _):
        await a.append(b"one")
        await trio.testing.wait_all_tasks_blocked()
        assert a.replicator._recent.find(a.id, 1, LIMITS.frame_bytes_max)
        a.writer._heads[a.id] = EMPTY_LOG  # as where its first batch was found damaged
        a.replicator._on_moved(frozenset({a.id}))
        assert not a.replicator._recent.find(a.id, 1, LIMITS.frame_bytes_max)


async def test_pulls_without_end_do_not_keep_loads_from_their_turn(autojump_clock: trio.testing.MockClock) -> None:
    async with running(2) as (nodes, nursery):
        a, b = nodes
        for number in range(3):
            await a.append(bytes([number]) * 200_000)
        a.replicator._recent.forget(a.id)
        flooded = PeerId(bytes(32)).hex()
        ends: list[End] = []

        async def again(_target: PeerId) -> list[PeerId]:
            await trio.lowlevel.checkpoint()
            a.replicator.receive(ends[0], OutboxPull(flooded, 1))
            return []

        a.writer.origins_for = again  # type: ignore[method-assign]
        ends += link(nursery, a, b)
        a.replicator.receive(ends[0], OutboxPull(flooded, 1))
        with trio.fail_after(60):
            for _ in range(20_000):
                if b.held(a.id) == 3:
                    break
                await trio.lowlevel.checkpoint()
        assert b.held(a.id) == 3
        nursery.cancel_scope.cancel()


async def test_t37_bad_signatures_are_scored_by_sender(autojump_clock: trio.testing.MockClock) -> None:
    async with running(2) as (nodes, nursery):
        a, b = nodes
        ends = link(nursery, a, b)
        await a.append(b"x")
        await until_equal(a, b)
        push = next(message for message in ends[0].sent if isinstance(message, WalPush))
        stranger = Identity.generate(system_entropy).peer_id
        forged = push.wal_bytes[:1] + stranger + push.wal_bytes[33:]
        b.replicator.receive(ends[1], WalPush(1, 1, forged))
        await trio.testing.wait_all_tasks_blocked()
        assert b.penalized == [(a.id, Reason.PROTOCOL)]
        assert b.held(stranger) == 0


async def test_t35_the_same_batch_again_changes_nothing_and_is_counted(autojump_clock: trio.testing.MockClock) -> None:
    async with running(2) as (nodes, nursery):
        a, b = nodes
        ends = link(nursery, a, b)
        await a.append(b"x")
        await until_equal(a, b)
        push = next(message for message in ends[0].sent if isinstance(message, WalPush))
        before = digest(b.writer.heads)
        for _ in range(3):
            b.replicator.receive(ends[1], push)
        await trio.testing.wait_all_tasks_blocked()
        assert b.replicator.verdicts[Verdict.APPLIED] == 1
        assert b.replicator.verdicts[Verdict.DUPLICATE] == 3
        assert digest(b.writer.heads) == before
        assert b.penalized == []
        acks = [message.last_applied_seq for message in ends[1].sent if isinstance(message, WalAck)]
        assert acks == [1, 1, 1, 1]


async def test_t42_a_lost_log_is_fetched_back_before_appends_go_on(autojump_clock: trio.testing.MockClock) -> None:
    async with running(2) as (nodes, nursery):
        a, b = nodes
        link(nursery, a, b)
        for number in range(30):
            await a.append(bytes([number]) * 100)
        await until_equal(a, b)
        # The same identity again, with an empty store.
        again = Node(a.identity)
        await nursery.start(again.writer.run)
        await nursery.start(again.replicator.run)
        link(nursery, again, b)
        while not again.writer._held_until > trio.current_time():
            await trio.lowlevel.checkpoint()
        assert await again.append(b"new") == [31]
        await until_equal(again, b)
        assert b.held(a.id) == 31


async def test_an_idle_replicator_sleeps(autojump_clock: trio.testing.MockClock) -> None:
    async with running(3) as (nodes, nursery):
        a, b, c = nodes
        link(nursery, a, b)
        link(nursery, b, c)
        link(nursery, a, c)
        await a.append(b"x")
        await until_equal(*nodes)
        await trio.sleep(10)
        assert all(node.replicator._asleep_until == float("inf") for node in nodes)


async def test_t72_who_is_slow_behind_a_relay_loses_no_points() -> None:
    node, peer = Node(), PeerId(bytes(32))
    async with trio.open_nursery() as nursery:
        await nursery.start(node.writer.run)
        await nursery.start(node.replicator.run)
        link = End(node, peer)
        node.replicator.link_up(link)
        slow = Penalize(peer, Reason.PROTOCOL, node.replicator._keys[link])
        for direct in (False, True):
            link.direct = direct
            assert node.penalized == []
            node.replicator._machine._effects.append(slow)
            node.replicator._flush()
        assert node.penalized == [(peer, Reason.PROTOCOL)]
        nursery.cancel_scope.cancel()
