"""Several links between the same two nodes: which one is kept, and in which order messages are taken."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

import p2p
from p2p import msg
from p2p.errors import Reason
from p2p.node.roster import Roster
from p2p.node.service import run_around
from p2p.node.succession import Succession
from p2p.testing.dice import Dice
from p2p.transport.memory import MemoryNetwork
from tests.unit.node.nodes import kept_link, links_of, node_on, place_of, small_and_large

if TYPE_CHECKING:
    from trio.testing import MockClock

    from p2p.peer.connection import Connection


async def until_alone(node: p2p.Node) -> Connection:
    with trio.fail_after(10):
        while len(links_of(node)) != 1:
            await trio.sleep(0.01)
    return links_of(node)[0]


@pytest.mark.parametrize("who_moves", ["small", "large"])
@pytest.mark.parametrize("who_dials", ["mover", "other"])
async def test_T16_a_dead_older_link_gives_way_within_seconds_whoever_dialled_it(
    who_moves: str, who_dials: str, autojump_clock: MockClock
) -> None:
    """A machine loses its network without a word and comes back under another address."""
    net = MemoryNetwork(latency_s=0.01)
    async with small_and_large(net) as (small, large):
        await small.connect(place_of(large))
        await trio.sleep(1)
        lost, stays = (small, large) if who_moves == "small" else (large, small)
        net.partition("one", "two")
        net.kill(lost.node_id)
        moved = node_on(net, "three", Dice(0).branch(lost.node_id))
        async with run_around(moved), moved.channel("x") as here, stays.channel("x") as there, stays.events() as events:
            assert moved.peer_id == lost.peer_id
            if who_dials == "mover":
                await moved.connect(place_of(stays))
            else:
                await stays.connect(place_of(moved))
            await moved.send(stays.peer_id, "x", b"here I am")
            await trio.sleep(p2p.Limits().probe_s_max + 0.2)
            await stays.send(moved.peer_id, "x", b"there")
            with trio.fail_after(1):
                assert (await there.receive()).body == b"here I am"
                assert (await here.receive()).body == b"there"
            seq = await stays.wal.append(b"logs, too")
            with trio.fail_after(1):
                await stays.wal.wait_replicated(seq, peers=1)
            assert len(links_of(stays)) == len(links_of(moved)) == 1
            assert not any(isinstance(event, p2p.events.PeerLeft) for event in events._queue), "it was never alone"


async def test_T16_a_living_older_link_that_is_better_stays(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.05)
    async with small_and_large(net) as (small, large):
        await small.connect(place_of(large))
        await trio.sleep(1)
        first = kept_link(small, large), kept_link(large, small)
        async with small.events() as events:
            peer = await large.connect(place_of(small))
            assert peer.peer_id == small.peer_id
            await trio.sleep(1)
            assert not events._queue
        assert (links_of(small), links_of(large)) == ([first[0]], [first[1]])


@pytest.mark.parametrize("how", ["send", "request"])
async def test_what_is_sent_while_the_pair_moves_takes_the_link_that_is_about_to_be_live(
    how: str, autojump_clock: MockClock
) -> None:
    net = MemoryNetwork(latency_s=0.05)
    async with small_and_large(net) as (small, large), small.channel("x") as channel, trio.open_nursery() as nursery:
        await large.connect(place_of(small))
        await trio.sleep(1)
        first = kept_link(large, small)
        nursery.start_soon(large.connect, place_of(small, expect=str(small.peer_id)))
        with trio.fail_after(1):
            while not any(link.session.peer_id and not link.is_live for link in links_of(large)):
                await trio.sleep(0.001)
        first.abort(Reason.ABNORMAL)
        assert not first.is_live
        if how == "send":
            await large.send(small.peer_id, "x", b"at once")
            await large.send(small.peer_id, "x", b"and then")
            assert kept_link(large, small) is not first
            with trio.fail_after(1):
                assert [(await channel.receive()).body for _ in range(2)] == [b"at once", b"and then"]
        else:

            async def answer() -> None:
                await (await channel.receive()).reply(b"here")

            nursery.start_soon(answer)
            assert await large.request(small.peer_id, "x", b"where?") == b"here"


async def test_who_has_gone_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with small_and_large(MemoryNetwork(latency_s=0.05)) as (small, large):
        await large.connect(place_of(small))
        kept_link(large, small).abort(Reason.ABNORMAL)
        began = trio.current_time()
        with pytest.raises(p2p.NotConnected):
            await large.send(small.peer_id, "x", b"")
        with pytest.raises(p2p.NotConnected):
            await large.request(small.peer_id, "x", b"")
        assert trio.current_time() == began


async def test_T16_a_better_link_that_ends_while_it_is_probed_hands_over_at_once(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.05)
    async with small_and_large(net) as (small, large), large.events() as events:
        await small.connect(place_of(large))
        await trio.sleep(1)
        first = kept_link(large, small)
        await large.connect(place_of(small))
        assert len(links_of(large)) == 2
        assert kept_link(large, small) is first
        first.abort(Reason.ABNORMAL)
        kept_link(small, large).abort(Reason.ABNORMAL)
        await trio.sleep(1)
        assert kept_link(large, small).dialed_by_us
        assert await until_alone(small) is kept_link(small, large)
        assert not any(isinstance(event, p2p.events.PeerLeft) for event in events._queue)


async def test_messages_of_a_link_that_gives_way_come_before_those_of_the_next(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.01)
    async with small_and_large(net) as (small, large), large.channel("x", capacity=1) as channel:
        await small.connect(place_of(large))
        for number in range(20):
            await small.send(large.peer_id, "x", b"%d" % number)
        await trio.sleep(1)
        # A second link from the same dialer is kept at once, while the first one's messages wait for a reader.
        await small.connect(place_of(large, expect=str(large.peer_id)))
        for number in range(20, 40):
            await small.send(large.peer_id, "x", b"%d" % number)
        got = []
        for _ in range(40):
            await trio.sleep(0.1)
            got.append(int((await channel.receive()).body))
        assert got == list(range(40))


@pytest.mark.parametrize("seed", range(6))
async def test_T16_one_peers_messages_keep_their_order_however_links_come_and_go(
    seed: int, autojump_clock: MockClock
) -> None:
    dice = random.Random(seed)
    net = MemoryNetwork(latency_s=0.001)
    async with small_and_large(net, seed) as (small, large):
        await small.connect(place_of(large))
        await trio.sleep(0.1)
        got: dict[str, list[int]] = {"one": [], "two": []}

        async def read(node: p2p.Node) -> None:
            async with node.channel("x", capacity=4) as channel:
                while len(got[node.node_id]) < 400:
                    got[node.node_id].append(int((await channel.receive()).body))
                    await trio.sleep(dice.random() * 0.002)

        async def send(node: p2p.Node, peer: p2p.Node) -> None:
            for number in range(400):
                await node.send(peer.peer_id, "x", b"%d" % number)
                await trio.sleep(dice.random() * 0.002)

        async def dial(node: p2p.Node, peer: p2p.Node) -> None:
            for _ in range(8):
                await trio.sleep(dice.random() * 0.08)
                net.set_link("one", "two", latency_s=dice.random() * 0.01)
                await node.connect(place_of(peer, expect=dice.choice((None, peer.node_id, str(peer.peer_id)))))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for node, peer in ((small, large), (large, small)):
                    nursery.start_soon(read, node)
                    nursery.start_soon(send, node, peer)
                    nursery.start_soon(dial, node, peer)
        assert got == {"one": list(range(400)), "two": list(range(400))}


async def test_T15_links_of_one_peer_that_give_way_are_bounded(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.001)
    limits = replace(p2p.Limits(), retiring_links_per_peer_max=2, prefix_burst=1000)
    async with small_and_large(net, limits=limits) as (small, large), large.channel("x", capacity=1):
        for number in range(12):
            peer = place_of(large, expect=None if number % 2 else large.node_id)
            await small.connect(peer)
            # Nobody reads: each link rests with a message of its own, and cannot end in order.
            for _ in range(3):
                await small.send(large.peer_id, "x", b"unread")
            await trio.sleep(0.05)
            assert len(links_of(large)) <= 1 + limits.retiring_links_per_peer_max + 1
        await trio.sleep(limits.channel_wait_s_max + limits.drain_s_max)
        assert len(links_of(large)) == len(links_of(small)) == 1
        assert kept_link(large, small).after == ()


@pytest.mark.parametrize("who_dials", ["reader", "sender"])
async def test_what_a_slow_reader_has_not_taken_when_the_pair_moves_comes_before_the_rest(
    who_dials: str, autojump_clock: MockClock
) -> None:
    net = MemoryNetwork(latency_s=0.005)
    count = 1200
    async with small_and_large(net) as (small, large), large.channel("x", capacity=8) as channel:
        dials, other = (large, small) if who_dials == "reader" else (small, large)
        await dials.connect(place_of(other))
        first = kept_link(large, small)

        async def send() -> None:
            for number in range(count):
                await small.send(large.peer_id, "x", b"%d" % number + bytes(1000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.sleep(0.5)
            await dials.connect(place_of(other, expect=str(other.peer_id)))
            got = []
            with trio.fail_after(60):
                for _ in range(count):
                    got.append(int((await channel.receive()).body.rstrip(b"\0")))
                    if got[-1] == 400:
                        assert first.retiring and first.reason is None, "it is the old one that is being emptied"
                    await trio.sleep(0.025)
        assert got == list(range(count))
        assert large.counters.messages_dropped == small.counters.messages_unsent == 0
        await until_alone(small)


async def test_what_is_lost_where_a_link_could_not_be_emptied_is_told(autojump_clock: MockClock) -> None:
    limits = replace(p2p.Limits(), retire_s_max=12.0)
    lines: list[str] = []
    async with (
        small_and_large(MemoryNetwork(latency_s=0.005), limits=limits) as (small, large),
        large.channel("x", capacity=1) as channel,
        trio.open_nursery() as nursery,
    ):
        await small.connect(place_of(large))
        for _ in range(300):
            await small.send(large.peer_id, "x", bytes(1000))

        async def read() -> None:
            async for _ in channel:
                await trio.sleep(1)

        nursery.start_soon(read)
        await small.connect(place_of(large, expect=str(large.peer_id)))
        with small.log_to(lines.append), large.log_to(lines.append):
            await trio.sleep(limits.retire_s_max + 2 * limits.drain_s_max)
        assert len(links_of(small)) == 1
        assert [line for line in lines if "could not be emptied and was cut" in line]
        nursery.cancel_scope.cancel()


async def test_a_link_that_gives_way_answers_what_is_pending_on_it(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.01)
    async with small_and_large(net) as (small, large), trio.open_nursery() as nursery:
        served: list[str] = []

        async def slowly(message: p2p.Message) -> bytes:
            await trio.sleep(float(message.body))
            served.append(message.peer_id.short)
            return b"here"

        async def ask(node: p2p.Node, peer: p2p.Node) -> None:
            assert await node.request(peer.peer_id, "slow", b"2", timeout_s=10) == b"here"

        await nursery.start(large.serve, "slow", slowly)
        await nursery.start(small.serve, "slow", slowly)
        await small.connect(place_of(large))
        await trio.sleep(1)
        first = kept_link(large, small)
        async with trio.open_nursery() as asking:
            asking.start_soon(ask, small, large)
            asking.start_soon(ask, large, small)
            await trio.sleep(0.5)
            await small.connect(place_of(large, expect=str(large.peer_id)))
            await trio.sleep(0.5)
            assert first.retiring and first.reason is None
            # New ones go over the new link.
            assert await small.request(large.peer_id, "slow", b"0", timeout_s=6) == b"here"
        assert len(served) == 3
        await trio.sleep(0.5)
        assert first.reason is Reason.MOVED and first.clean
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("who_dials", ["small", "large"])
async def test_requests_that_are_on_their_way_when_the_pair_moves_are_answered(
    who_dials: str, autojump_clock: MockClock
) -> None:
    """Both ask without a pause, one question after the other, while one link after the other takes the place."""

    async def echo(message: p2p.Message) -> bytes:
        return message.body

    async def ask(node: p2p.Node, peer: p2p.Node) -> None:
        while True:
            assert await node.request(peer.peer_id, "echo", b"?", timeout_s=10) == b"?"

    async with small_and_large(MemoryNetwork(latency_s=0.025)) as (small, large), trio.open_nursery() as nursery:
        dials, other = (small, large) if who_dials == "small" else (large, small)
        await dials.connect(place_of(other))
        for node, peer in ((small, large), (large, small)):
            await nursery.start(node.serve, "echo", echo)
            nursery.start_soon(ask, node, peer)
        for number in range(20):
            await trio.sleep(0.5 + number * 0.007)
            before = kept_link(dials, other), kept_link(other, dials)
            # Another endpoint of the same node each time: a dial of its own.
            await dials.connect(place_of(other, expect=None if number % 2 else str(other.peer_id)))
            await trio.sleep(0.5)
            assert before[0] is not kept_link(dials, other)
            assert all(link.reason is Reason.MOVED and link.clean for link in before)
        nursery.cancel_scope.cancel()


async def test_requests_that_were_not_written_yet_move_to_the_link_that_is_kept(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.025)
    async with small_and_large(net) as (small, large), trio.open_nursery() as nursery:
        served: list[bytes] = []
        answers: list[bytes] = []

        def echo(message: p2p.Message) -> bytes:
            served.append(message.body[:2])
            return message.body[:2]

        async def ask(number: int) -> None:
            body = b"%02d" % number + bytes(100_000)
            answers.append(await large.request(small.peer_id, "echo", body, timeout_s=20))

        await nursery.start(small.serve, "echo", echo)
        await small.connect(place_of(large))
        await trio.sleep(0.5)
        async with trio.open_nursery() as asking:
            asking.start_soon(small.connect, place_of(large, expect=str(large.peer_id)))
            await trio.sleep(0.1)
            for number in range(30):
                asking.start_soon(ask, number)
        assert sorted(answers) == sorted(served) == [b"%02d" % number for number in range(30)], "each ran once"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("takes_s", [12.0, 59.0])
async def test_a_handler_that_takes_longer_than_draining_still_answers(
    takes_s: float, autojump_clock: MockClock
) -> None:
    async with small_and_large(MemoryNetwork(latency_s=0.01)) as (small, large), trio.open_nursery() as nursery:

        async def slowly(message: p2p.Message) -> bytes:
            await trio.sleep(float(message.body))
            return b"here"

        answers: list[bytes] = []

        async def ask() -> None:
            answers.append(await small.request(large.peer_id, "slow", b"%f" % takes_s, timeout_s=3600))

        await nursery.start(large.serve, "slow", slowly)
        await small.connect(place_of(large))
        nursery.start_soon(ask)
        await trio.sleep(0.5)
        await small.connect(place_of(large, expect=str(large.peer_id)))
        await trio.sleep(takes_s)
        assert answers == [b"here"]
        await trio.sleep(1)
        assert len(links_of(small)) == len(links_of(large)) == 1
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def unanswered_on_a_link_that_gives_way(small: p2p.Node, large: p2p.Node) -> AsyncIterator[None]:
    """A request that nobody answers waits on a link; a second link takes its place. The request fails in the end."""
    async with large.channel("deaf") as deaf, trio.open_nursery() as nursery:
        await small.connect(place_of(large))

        async def ask() -> None:
            with pytest.raises(p2p.NotConnected):
                await small.request(large.peer_id, "deaf", b"", timeout_s=3600)

        nursery.start_soon(ask)
        await deaf.receive()
        await small.connect(place_of(large, expect=str(large.peer_id)))
        yield


async def test_a_link_that_is_being_served_on_and_goes_silent_is_not_waited_for(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.01)
    async with small_and_large(net) as (small, large), unanswered_on_a_link_that_gives_way(small, large):
        await trio.sleep(1)
        net.partition("one", "two")
        limits = p2p.Limits()
        await trio.sleep(limits.drain_s_max + limits.probe_s_max + 0.5)
        assert small.counters.links_ended == {Reason.MOVED: 1}


async def test_who_disconnects_does_not_wait_for_handlers(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.01)
    async with small_and_large(net) as (small, large), unanswered_on_a_link_that_gives_way(small, large):
        await trio.sleep(6)
        with trio.fail_after(p2p.Limits().drain_s_max + 0.5):
            await small.disconnect(large.peer_id)


async def test_a_link_that_gives_way_waits_so_long_for_an_answer_and_no_longer(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.01)
    async with small_and_large(net) as (small, large), unanswered_on_a_link_that_gives_way(small, large):
        await trio.sleep(p2p.Limits().retire_s_max - 0.5)
        assert len(links_of(small)) == len(links_of(large)) == 2
        await trio.sleep(1)
        assert len(links_of(small)) == len(links_of(large)) == 1
        assert small.counters.links_ended == {Reason.MOVED: 1}


async def test_a_request_that_was_read_from_a_channel_is_answered_although_its_link_gives_way(
    autojump_clock: MockClock,
) -> None:
    async with small_and_large(MemoryNetwork()) as (small, large), small.channel("x") as questions:
        await large.connect(place_of(small))
        answers: list[bytes] = []

        async def ask() -> None:
            answers.append(await large.request(small.peer_id, "x", b"?", timeout_s=20))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            question = await questions.receive()
            await small.connect(place_of(large, expect=large.node_id))
            await trio.sleep(1)
            await question.reply(b"here")
        assert answers == [b"here"]


async def test_who_answers_may_ask_back_while_links_change(autojump_clock: MockClock) -> None:
    """The question over the new link does not wait for the old one, which waits for the answer to it."""
    async with small_and_large(MemoryNetwork()) as (small, large), trio.open_nursery() as nursery:
        go = trio.Event()

        async def asks_back(message: p2p.Message) -> bytes:
            await go.wait()
            return await small.request(large.peer_id, "inner", b"?", timeout_s=20)

        async def inner(_message: p2p.Message) -> bytes:
            return b"pong"

        await nursery.start(small.serve, "outer", asks_back)
        await nursery.start(large.serve, "inner", inner)
        await large.connect(place_of(small))
        answers: list[bytes] = []

        async def ask() -> None:
            answers.append(await large.request(small.peer_id, "outer", b"?", timeout_s=20))

        begun = trio.current_time()
        async with trio.open_nursery() as asking:
            asking.start_soon(ask)
            await trio.sleep(0.5)
            await small.connect(place_of(large, expect=large.node_id))
            await trio.sleep(0.5)
            go.set()
        assert answers == [b"pong"]
        assert trio.current_time() - begun < 2
        nursery.cancel_scope.cancel()


async def test_requests_that_wait_for_their_turn_move_with_the_pair(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.01)
    limits = replace(p2p.Limits(), pending_requests_max=2)
    async with small_and_large(net, limits=limits) as (small, large), trio.open_nursery() as nursery:
        await large.connect(place_of(small))

        async def slow(message: p2p.Message) -> bytes:
            await trio.sleep(0.3)
            return message.body

        await nursery.start(small.serve, "x", slow)
        answers: list[bytes] = []

        async def ask(number: int) -> None:
            answers.append(await large.request(small.peer_id, "x", b"%d" % number))

        async with trio.open_nursery() as askers:
            for number in range(6):
                askers.start_soon(ask, number)
            await trio.sleep(0.1)
            await small.connect(place_of(large))
        assert sorted(answers) == [b"%d" % number for number in range(6)]
        nursery.cancel_scope.cancel()


async def test_what_waits_when_the_other_side_says_goodbye_is_sent_before_the_answer(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0.01)
    async with small_and_large(net) as (small, large), large.channel("x") as there:
        await large.connect(place_of(small))
        await trio.sleep(1)
        payload = msg.encode_data(b"x", 0, 0, b"last words")
        # As if its writer had not had its turn yet.
        assert kept_link(small, large)._outbox.put_data(payload)
        await large.disconnect(small.peer_id)
        assert len(there) == 1
        assert small.counters.messages_unsent == 0


@pytest.mark.parametrize("first", ["small", "large"])
@pytest.mark.parametrize("apart_s", [0.0, 0.004, 0.012])
@pytest.mark.parametrize("is_linked", [False, True])
async def test_when_both_dial_at_once_nothing_is_lost_late_or_out_of_order(
    first: str, apart_s: float, is_linked: bool, autojump_clock: MockClock
) -> None:
    net = MemoryNetwork(latency_s=0.01)
    async with small_and_large(net) as (small, large), small.channel("x") as at_small, large.channel("x") as at_large:
        early, late = (small, large) if first == "small" else (large, small)
        await (small.connect(place_of(large)) if is_linked else large.connect(place_of(small)))
        await trio.sleep(1)

        async def talk(node: p2p.Node, peer: p2p.Node) -> None:
            for number in range(400):
                await node.send(peer.peer_id, "x", b"%d" % number)
                if number % 5 == 4:
                    await trio.sleep(0.001)

        async def dial(node: p2p.Node, peer: p2p.Node, after_s: float) -> None:
            await trio.sleep(0.01 + after_s)
            await node.connect(place_of(peer, expect=str(peer.peer_id)))

        async with trio.open_nursery() as nursery:
            for node, peer in ((small, large), (large, small)):
                nursery.start_soon(talk, node, peer)
            nursery.start_soon(dial, early, late, 0.0)
            nursery.start_soon(dial, late, early, apart_s)
        await trio.sleep(0.5)
        for channel in (at_small, at_large):
            assert [int(message.body) for message in channel._queue] == list(range(400))
        assert len(links_of(small)) == len(links_of(large)) == 1


class _Link:
    """As much of a connection as succession looks at, in a test without nodes."""

    def __init__(self, number: int, *, dialed_by_us: bool = True) -> None:
        self.peer_id = p2p.PeerId(b"p" * 32)
        self.session = self
        self.label = None
        self.direct = True
        self.dialed_by_us = dialed_by_us
        self.is_live = True
        self.started_at = self.connected_at = 10.0 * number
        self.after: tuple[_Link, ...] = ()
        self.reason: Reason | None = None
        self.retiring = False

    def abort(self, reason: Reason, _detail: str) -> None:
        self.reason = reason

    def retire(self, *, parts_first: bool) -> None:
        self.retiring = True

    def greet(self) -> None:
        """It is not wanted yet."""

    probe = greet


def _succession(**bounds: int) -> tuple[Succession, Roster]:
    limits = replace(p2p.Limits(), **bounds)  # type: ignore[arg-type]  # fields of Limits
    roster = Roster(p2p.PeerId(b"o" * 32), limits)  # the smaller one: what it dialled is better
    return Succession(roster, limits, on_kept=lambda _link, _old: None, on_gave_way=lambda _link: None), roster


def _goes_live(succession: Succession, link: _Link) -> None:
    succession.proven(link)  # type: ignore[arg-type]  # a stand-in
    succession.live(link)  # type: ignore[arg-type]


def test_T15_of_the_links_that_give_way_the_oldest_beyond_the_bound_are_cut_at_once() -> None:
    succession, _ = _succession(retiring_links_per_peer_max=2)
    links = [_Link(number) for number in range(6)]
    for link in links:
        _goes_live(succession, link)
    assert [link.retiring for link in links] == [True] * 5 + [False]
    assert [link.reason for link in links] == [Reason.MOVED] * 3 + [None] * 3


async def test_who_waits_whether_a_link_is_kept_hears_when_it_ends_undecided(autojump_clock: MockClock) -> None:
    succession, _ = _succession()
    kept, candidate = _Link(0), _Link(1, dialed_by_us=False)
    for link in (kept, candidate):
        _goes_live(succession, link)
    assert succession.is_candidate(candidate)  # type: ignore[arg-type]

    async def end() -> None:
        await trio.sleep(1)
        succession.ended(candidate)  # type: ignore[arg-type]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        with trio.fail_after(2):
            await succession.decision(candidate)  # type: ignore[arg-type]
        assert trio.current_time() == 1


async def test_a_link_that_came_as_expected_and_ended_is_not_waited_for_again(autojump_clock: MockClock) -> None:
    succession, roster = _succession()
    link = _Link(0)
    succession.expect(link.peer_id)
    _goes_live(succession, link)
    assert await succession.heir(link.peer_id) is link  # type: ignore[comparison-overlap]
    succession.ended(link)  # type: ignore[arg-type]
    roster.remove(link)  # type: ignore[arg-type]
    assert await succession.heir(link.peer_id) is None
    assert trio.current_time() == 0
