"""Channels that are full, and what they cost the links that fill them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.testing

import p2p
from p2p.errors import Reason
from p2p.msg import Data, decode_data
from p2p.node.dispatch import Channel, Dispatch
from p2p.node.service import run_around
from p2p.node.status import Counters
from p2p.peer.connection import Connection
from p2p.peer.owner import Pause
from p2p.testing.dice import Dice
from p2p.transport.memory import MemoryNetwork
from tests.unit.node.nodes import kept_link, node_on, place_of, small_and_large

if TYPE_CHECKING:
    from trio.testing import MockClock

WAIT_S = p2p.Limits().channel_wait_s_max


class Link:
    """A link as far as a channel sees one: whose it is, how long it may rest, and what it was answered."""

    answer_bytes_max = 1_000_000

    def __init__(self, number: int, *, rest_s_max: float = math.inf) -> None:
        self.peer_id = p2p.PeerId(bytes([number]) * 32)
        self.label = f"n{number}"
        self.rest_s_max = rest_s_max
        self.serving = self.unanswered = 0
        self.has_room = True
        self.answers: list[Data] = []

    def send_reply_nowait(self, payload: bytes, *, at_once: bool = False) -> bool:
        if self.has_room:
            self.answers.append(decode_data(payload))
        return self.has_room

    async def send_reply(self, payload: bytes) -> None:
        await trio.sleep_forever()

    def send_status(self, payload: bytes) -> None:
        self.answers.append(decode_data(payload))

    def flush(self) -> None:
        pass


def made(**limits: Any) -> Dispatch:
    return Dispatch(replace(p2p.Limits(), **limits), Counters())


def bring(dispatch: Dispatch, link: Link, count: int = 1, *, asks: int = 0) -> Pause | None:
    """Messages of one link, one after the other, until it has to wait."""
    for _ in range(count):
        pause = dispatch.deliver(cast("Any", link), asks, 1 if asks else 0, Data("chat", body=b"x"))
        if pause is not None:
            return pause
    return None


async def test_a_request_in_a_channel_that_is_left_is_told_that_nobody_serves_it() -> None:
    dispatch, link = made(), Link(1)
    async with dispatch.channel("chat", 8, "wait") as chat:
        for number in range(1, 4):
            assert bring(dispatch, link, asks=number) is None
        await (await chat.receive()).reply(b"answered")
    assert [(answer.reply_to, answer.status) for answer in link.answers] == [(1, Data.OK), (2, 2), (3, 2)]
    assert link.unanswered == 0


async def test_T22_who_fills_a_channel_that_was_full_of_another_ones_is_counted_with_what_he_put_in_meanwhile() -> None:
    dispatch, flooder, other = made(), Link(1), Link(2)
    async with dispatch.channel("chat", 8, "wait") as chat:
        assert bring(dispatch, flooder, 8) is None
        assert bring(dispatch, other) is None, "he has next to nothing in it"
        for _ in range(4):
            await chat.receive()
        assert bring(dispatch, other, 3) is None
        assert bring(dispatch, other) is not None, "he has his half of what may be in it"


async def test_a_row_that_does_not_fit_is_queued_as_far_as_there_is_room_and_then_in_its_order() -> None:
    dispatch, link, other = made(), Link(1), Link(2)
    bodies = [b"%d" % number for number in range(30)]
    async with dispatch.channel("chat", 8, "wait") as chat, trio.open_nursery() as nursery:
        assert dispatch.deliver_row(cast("Any", link), "chat", bodies[:5]) is None
        pause: Pause | None = dispatch.deliver_row(cast("Any", link), "chat", bodies[5:])
        assert len(chat) == 8
        assert bring(dispatch, other) is None, "one link's row takes nobody else's share"

        async def rest() -> None:
            nonlocal pause
            while pause is not None:
                pause = await pause()

        nursery.start_soon(rest)
        read = [await chat.receive() for _ in range(31)]
        assert [message.body for message in read if message.peer_id == link.peer_id] == bodies
        assert [message.body for message in read if message.peer_id == other.peer_id] == [b"x"]
    assert chat.dropped == 0


async def test_what_one_link_fills_is_not_counted_for_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Channel, "_count", None)
    dispatch, link = made(), Link(1)
    async with dispatch.channel("chat", 8, "wait") as chat, trio.open_nursery() as nursery:
        for _ in range(3):
            assert bring(dispatch, link, 8 - len(chat)) is None
            pause = bring(dispatch, link)
            assert pause is not None
            nursery.start_soon(pause)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(3):
                await chat.receive()
            await trio.testing.wait_all_tasks_blocked()
            assert len(chat) == 5, "less than half was read"
            await chat.receive()
            await trio.testing.wait_all_tasks_blocked()
            assert len(chat) == 5, "half was read, and what waited came"


async def test_T22_a_link_that_may_rest_for_a_moment_only_ends_no_other_ones_wait(autojump_clock: MockClock) -> None:
    dispatch, brief, other = made(), Link(1, rest_s_max=1.0), Link(1)
    async with dispatch.channel("chat", 1, "wait") as chat:
        bring(dispatch, brief)
        pause = bring(dispatch, brief)
        assert pause is not None
        await pause()
        assert (len(chat), chat.dropped) == (2, 0), "it waits beyond the capacity"
        pause = bring(dispatch, other)
        assert pause is not None, "its reader may be back any moment"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pause)
            await trio.testing.wait_all_tasks_blocked()
            await chat.receive()
            await chat.receive()
        assert (len(chat), chat.dropped) == (1, 0)


async def test_T22_what_a_link_brings_that_may_not_rest_is_queued_beyond_the_capacity_while_somebody_reads(
    autojump_clock: MockClock,
) -> None:
    dispatch, hurried, patient = made(channel_overdue_messages_max=3), Link(1, rest_s_max=0.0), Link(2)
    async with dispatch.channel("chat", 4, "wait") as chat:
        assert bring(dispatch, hurried, 7) is None
        assert bring(dispatch, patient, 2) is None, "he has his part all the same"
        pause = bring(dispatch, hurried)
        assert pause is not None
        await pause()
        assert (len(chat), chat.dropped) == (9, 1)
        for _ in range(7):
            await chat.receive()
        assert bring(dispatch, hurried, 5) is None, "half of it was read, so that it counts anew"
        # Nobody reads for as long as a link may wait.
        pause = bring(dispatch, patient, 4)
        assert pause is not None
        await pause()
        assert chat.dropped == 2
        assert bring(dispatch, hurried) is None
        assert chat.dropped == 3, "it does not wait, and finds no room"


async def test_T22_who_waited_as_long_as_a_link_may_is_refused_also_where_somebody_reads_now_and_then(
    autojump_clock: MockClock,
) -> None:
    dispatch, first, second = made(), Link(1), Link(2)
    async with dispatch.channel("chat", 1, "wait") as chat, trio.open_nursery() as nursery:
        assert bring(dispatch, first) is None
        for link in (first, second):
            pause = bring(dispatch, link, 3)
            assert pause is not None
            nursery.start_soon(pause)
        await trio.sleep(WAIT_S / 2)
        await chat.receive()
        await trio.sleep(WAIT_S)
        assert len(chat) <= 2
        assert chat.dropped >= 1


async def test_an_answer_that_is_cancelled_as_it_waits_for_room_can_be_given_again(autojump_clock: MockClock) -> None:
    dispatch, link = made(), Link(1)
    async with dispatch.channel("chat", 8, "wait") as chat:
        bring(dispatch, link, asks=1)
        message = await chat.receive()
        link.has_room = False
        with trio.move_on_after(1):
            await message.reply(b"no room")
        assert (link.unanswered, link.serving) == (1, 0)
        link.has_room = True
        await message.reply(b"room")
        with pytest.raises(p2p.LocalProtocolError, match="answered already"):
            await message.reply(b"twice")
    assert [(answer.status, answer.body) for answer in link.answers] == [(Data.OK, b"room")]


async def test_so_many_channels_are_open_and_one_that_was_left_makes_room() -> None:
    dispatch = made(channels_max=2)
    async with dispatch.channel("one", 8, "wait"):
        async with dispatch.channel("two", 8, "wait"):
            with pytest.raises(p2p.ChannelBusy, match="2 channels are open already"):
                await dispatch.channel("three", 8, "wait").__aenter__()
        async with dispatch.channel("three", 8, "wait"):
            with pytest.raises(p2p.ChannelBusy, match="has a reader already"):
                await dispatch.channel("one", 8, "wait").__aenter__()


@pytest.mark.parametrize("name", ["", "x" * (p2p.Limits().channel_name_bytes_max + 1), "\ud800", 7])
async def test_a_name_that_no_message_can_carry_is_refused_for_channels_and_services(
    name: Any, autojump_clock: MockClock
) -> None:
    dispatch = made()
    with pytest.raises(p2p.ConfigError):
        dispatch.channel(name, 8, "wait")
    with pytest.raises(p2p.ConfigError), trio.fail_after(1):
        await dispatch.serve(name, lambda message: message.body, 1, trio.TASK_STATUS_IGNORED)


async def test_a_link_that_rests_goes_on_when_its_channel_is_left(autojump_clock: MockClock) -> None:
    dispatch, link = made(), Link(1)
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        async with dispatch.channel("chat", 1, "wait") as chat:
            bring(dispatch, link)
            pause = bring(dispatch, link, asks=1)
            assert pause is not None
            nursery.start_soon(pause)
            await trio.testing.wait_all_tasks_blocked()
    assert trio.current_time() == begun
    assert (chat.dropped, [answer.status for answer in link.answers]) == (1, [Data.OVERLOADED])


async def test_of_messages_that_came_together_those_behind_a_rest_that_is_cut_short_are_kept_where_they_fit(
    autojump_clock: MockClock,
) -> None:
    dispatch, link = made(channel_bytes_max=100), Link(1)
    async with dispatch.channel("chat", 8, "wait") as chat:
        sizes = [60, 60, 30, 30]
        pause = dispatch.deliver_row(cast("Any", link), "chat", [bytes(size) for size in sizes])
        assert pause is not None
        with trio.move_on_after(0):
            await pause()
        assert [len((await chat.receive()).body) for _ in range(len(chat))] == [60, 30]
        assert chat.dropped == 2


async def test_what_is_opened_after_the_stop_ends_at_once(autojump_clock: MockClock) -> None:
    dispatch = made()
    dispatch.close()
    with trio.fail_after(1):
        async with dispatch.channel("chat", 8, "wait") as chat:
            with pytest.raises(p2p.NodeClosed):
                await chat.receive()
        with pytest.raises(p2p.NodeClosed):
            await dispatch.serve("echo", lambda message: message.body, 1, trio.TASK_STATUS_IGNORED)


async def test_T22_a_full_channel_that_nobody_reads_rests_its_link_once(autojump_clock: MockClock) -> None:
    async with (
        small_and_large(MemoryNetwork()) as (a, b),
        b.channel("stuck", capacity=1) as stuck,
        b.channel("live") as live,
    ):
        await a.connect(place_of(b))
        begun = trio.current_time()
        for number in range(20):
            await a.send(b.peer_id, "stuck", b"%d" % number)
        await a.send(b.peer_id, "live", b"after them")
        await live.receive()
        assert trio.current_time() - begun == pytest.approx(WAIT_S, abs=0.5)
        assert stuck.dropped == 19
        seq = await a.wal.append(b"its answer comes at once")
        with trio.fail_after(1):
            await a.wal.wait_replicated(seq, peers=1)
        # Its reader is back: there is room, and from the next overflow on it is waited for again.
        assert (await stuck.receive()).body == b"0"
        for number in range(20, 23):
            await a.send(b.peer_id, "stuck", b"%d" % number)
        await trio.sleep(WAIT_S / 2)
        assert stuck.dropped == 19
        for number in range(20, 23):
            assert (await stuck.receive()).body == b"%d" % number


async def test_T22_every_link_waits_once_for_a_reader_that_has_gone(autojump_clock: MockClock) -> None:
    async with (
        small_and_large(MemoryNetwork()) as (a, b),
        b.channel("stuck", capacity=1) as stuck,
        b.channel("live") as live,
    ):
        await b.connect(place_of(a))
        await a.send(b.peer_id, "stuck", b"fills it")
        await a.send(b.peer_id, "stuck", b"waits")
        await trio.sleep(WAIT_S + 1)
        begun = trio.current_time()
        for _ in range(5):
            await a.send(b.peer_id, "stuck", b"refused at once")
        await a.send(b.peer_id, "live", b"")
        await live.receive()
        assert trio.current_time() - begun < 1
        assert stuck.dropped == 6


async def test_disconnecting_a_link_that_rests_takes_no_longer_than_draining(autojump_clock: MockClock) -> None:
    limits = replace(p2p.Limits(), drain_s_max=2.0)
    async with small_and_large(MemoryNetwork(), limits=limits) as (a, b), b.channel("stuck", capacity=1) as stuck:
        await a.connect(place_of(b))
        for _ in range(3):
            await a.send(b.peer_id, "stuck", b"")
        await trio.sleep(1)
        begun = trio.current_time()
        await b.disconnect(a.peer_id)
        assert trio.current_time() - begun <= limits.drain_s_max
        assert (len(stuck), stuck.dropped) == (3, 0), "who waited for room, and the one behind"


async def test_a_link_that_ends_as_it_is_to_rest_leaves_nothing_behind(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rest that never begins is no coroutine that nobody awaits: pytest makes an error of those."""
    async with small_and_large(MemoryNetwork()) as (a, b), b.channel("stuck", capacity=1) as stuck:
        await a.connect(place_of(b))
        await trio.sleep(1)
        link = kept_link(b, a)
        flush = Connection.flush

        def end_instead(flushed: Connection) -> None:
            flush(flushed)
            if flushed is link and len(stuck) == 1:
                link.abort(Reason.ABNORMAL)

        # Between the message and the rest that it asks for.
        monkeypatch.setattr(Connection, "flush", end_instead)
        for _ in range(3):
            await a.send(b.peer_id, "stuck", b"")
        await link.over.wait()
        await trio.sleep(1)
        assert len(stuck) == 3


async def test_what_came_with_one_read_is_taken_or_counted_though_its_link_ends_while_it_rests(
    autojump_clock: MockClock,
) -> None:
    async with (
        small_and_large(MemoryNetwork()) as (a, b),
        b.channel("stuck", capacity=1) as stuck,
        b.channel("full", capacity=1) as full,
        b.channel("free") as free,
        trio.open_nursery() as nursery,
    ):
        await a.connect(place_of(b))
        await a.send(b.peer_id, "full", b"")
        await trio.sleep(1)

        async def ask() -> None:
            with pytest.raises(p2p.NotConnected):
                await a.request(b.peer_id, "free", b"")

        # All in one write, and in one read.
        for name, number in (("stuck", 4), ("free", 5), ("full", 3), ("nobody", 2), ("free", 1)):
            for _ in range(number):
                await a.send(b.peer_id, name, b"%d" % number)
        nursery.start_soon(ask)
        await trio.sleep(1)
        link = kept_link(b, a)
        assert link.is_resting
        assert not free._queue
        link.abort(Reason.ABNORMAL)
        await link.over.wait()
        assert [message.body for message in free._queue] == [b"5"] * 5 + [b"1"], "in order, and no question"
        assert (len(stuck) + stuck.dropped, len(full) + full.dropped) == (4, 1 + 3)
        assert b.counters.messages_dropped == stuck.dropped + full.dropped + 2


async def test_T22_a_channel_is_bounded_in_bytes_too(autojump_clock: MockClock) -> None:
    limits = replace(p2p.Limits(), channel_bytes_max=100_000)
    async with (
        small_and_large(MemoryNetwork(), limits=limits) as (a, b),
        b.channel("newest", when_full="drop_oldest") as newest,
        b.channel("stuck") as stuck,
    ):
        await a.connect(place_of(b))
        for number in range(20):
            await a.send(b.peer_id, "newest", bytes([number]) * 30_000)
        await trio.sleep(1)
        assert (len(newest), newest.dropped) == (3, 17)
        assert [(await newest.receive()).body[0] for _ in range(3)] == [17, 18, 19]
        await a.send(b.peer_id, "stuck", bytes(200_000))
        await trio.sleep(1)
        assert len(stuck) == 1, "larger than the bound, but the queue was empty"
        await a.send(b.peer_id, "stuck", b"one more")
        await trio.sleep(WAIT_S / 2)
        assert len(stuck) == 1
        await stuck.receive()
        assert (await stuck.receive()).body == b"one more"


async def test_nobody_hangs_who_reads_what_was_not_entered_or_was_left_or_whose_node_is_over() -> None:
    async with p2p.open_node(node_id="a", listen_port=None) as node:
        await node.wal.append(b"one")
        makes = (node.events, lambda: node.channel("chat"), node.wal.follow)
        made = [make() for make in makes]
        left = [make() for make in makes]
        with trio.fail_after(30):
            for stream in made:
                with pytest.raises(p2p.ConfigError, match="enter the"):
                    await anext(stream)
            for stream in left:
                async with stream:
                    pass
                with pytest.raises(p2p.NodeClosed, match="left"):
                    await anext(stream)
    with trio.fail_after(30):
        for stream in (*made, *left):
            with pytest.raises(p2p.NodeClosed):
                await anext(stream)


async def test_who_reads_in_another_task_is_told_that_it_was_left() -> None:
    async with p2p.open_node(node_id="a", listen_port=None) as node:
        for stream in (node.events(), node.channel("chat"), node.wal.follow()):
            async with trio.open_nursery() as nursery:

                async def read(stream: AsyncIterator[object] = stream) -> None:
                    with pytest.raises(p2p.NodeClosed, match="left"):
                        await anext(stream)

                async with stream:
                    nursery.start_soon(read)
                    await trio.testing.wait_all_tasks_blocked()


async def test_a_channel_that_was_left_is_not_entered_again() -> None:
    async with p2p.open_node(node_id="a", listen_port=None) as node:
        channel = node.channel("chat")
        async with channel:
            pass
        with pytest.raises(p2p.ChannelBusy, match="entered once"):
            await channel.__aenter__()


async def test_T22_a_flood_of_one_peer_does_not_rest_the_link_of_another(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.001)
    async with small_and_large(net) as (flooder, host), run_around(node_on(net, "three", Dice(3))) as other:
        async with host.channel("chat", capacity=20) as chat, trio.open_nursery() as nursery:
            await nursery.start(host.serve, "echo", lambda message: message.body)
            await flooder.connect(place_of(host))
            await other.connect(place_of(host))

            async def flood(node: p2p.Node) -> None:
                while True:
                    await node.send(host.peer_id, "chat", node.node_id.encode())

            async def read() -> None:
                async for _ in chat:
                    await trio.sleep(0.2)

            nursery.start_soon(flood, flooder)
            await trio.sleep(1)
            assert len(chat) == chat.capacity
            for _ in range(5):
                begun = trio.current_time()
                await other.send(host.peer_id, "chat", b"a word")
                assert await other.request(host.peer_id, "echo", b"?", timeout_s=20) == b"?"
                assert trio.current_time() - begun < 0.1
            assert len(chat) == chat.capacity + 5
            # Who floods as well rests as well.
            nursery.start_soon(read)
            nursery.start_soon(flood, other)
            for _ in range(50):
                await trio.sleep(0.2)
                assert len(chat) <= 2 * chat.capacity
            assert chat.dropped == 0
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("capacity", [1, 7, 100])
async def test_messages_that_came_together_are_all_read_in_order_by_a_slow_reader(
    capacity: int, autojump_clock: MockClock
) -> None:
    sent = [b"%03d" % number for number in range(100)]
    async with small_and_large(MemoryNetwork()) as (a, b), b.channel("row", capacity=capacity) as row:
        await a.connect(place_of(b))
        for body in sent:
            await a.send(b.peer_id, "row", body)
        read = []
        for _ in sent:
            await trio.sleep(0.1)
            read.append((await row.receive()).body)
        assert read == sent
        assert row.dropped == 0


async def test_of_messages_that_came_together_the_newest_are_kept_where_that_is_wanted() -> None:
    async with (
        small_and_large(MemoryNetwork()) as (a, b),
        b.channel("row", capacity=7, when_full="drop_oldest") as row,
        b.channel("last") as last,
    ):
        await a.connect(place_of(b))
        for number in range(100):
            await a.send(b.peer_id, "row", b"%03d" % number)
        await a.send(b.peer_id, "last", b"")
        await last.receive()
        assert [(await row.receive()).body for _ in range(len(row))] == [b"%03d" % number for number in range(93, 100)]
        assert row.dropped == 93


async def test_messages_that_came_together_wake_every_reader() -> None:
    async with small_and_large(MemoryNetwork()) as (a, b), b.channel("row") as row:
        await a.connect(place_of(b))
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(row.receive)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(60):
                for number in range(20):
                    await a.send(b.peer_id, "row", b"%03d" % number)
                while len(row) or nursery.child_tasks:
                    await trio.sleep(0)


async def test_messages_that_nobody_reads_are_counted_when_they_come_together() -> None:
    async with small_and_large(MemoryNetwork()) as (a, b), b.channel("last") as last:
        await a.connect(place_of(b))
        for _ in range(50):
            await a.send(b.peer_id, "nobody", b"")
        await a.send(b.peer_id, "last", b"")
        await last.receive()
        assert b.counters.messages_dropped == 50
