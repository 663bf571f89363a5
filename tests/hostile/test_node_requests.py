"""Requests and answers of peers that keep to no rule."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

import p2p
from p2p.errors import Reason
from p2p.msg import Data, Goodbye, RequestCancel
from tests.clocks import as_it_goes
from tests.hostile.rogue import Rogue, rogue
from tests.hostile.victim import limits, offence, victim

ACK_REQ = 4


async def request_of(node: p2p.Node, peer: Rogue, errors: list[p2p.P2PError]) -> None:
    try:
        await node.request(peer.peer_id, "chat", b"who are you", timeout_s=3600)
    except p2p.P2PError as error:
        errors.append(error)


@pytest.mark.parametrize("guess", [0, -1, 1, 2**63], ids=["twice", "before", "after", "far"])
async def test_T25_a_forged_answer_ends_the_link_and_answers_nobody(guess: int) -> None:
    async with victim() as node, offence(node, Reason.PROTOCOL), rogue(node) as peer:
        errors: list[p2p.P2PError] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request_of, node, peer, errors)
            await peer.hear(Data)
            (asked,) = peer.asked
            if guess == 0:
                await peer.say(Data("", asked, 0, b"me"))
            await peer.say(Data("", asked + guess, 0, b"me"))
            await peer.last_words()
        assert [type(error) for error in errors] == ([p2p.NotConnected] if guess else [])


async def test_T25_an_answer_with_the_id_of_what_was_no_request_ends_the_link() -> None:
    async with victim() as node, offence(node, Reason.PROTOCOL), rogue(node) as peer:
        await node.send(peer.peer_id, "chat", b"no question")
        await peer.hear(Data)
        await peer.say(Data("", peer.session._last_id_in, 0, b"an answer"))
        await peer.last_words()


async def ask_in_vain(node: p2p.Node, peer: Rogue, clock: MockClock) -> None:
    """A request that has arrived when its time is over."""

    async def ask() -> None:
        with pytest.raises(p2p.RequestTimeout):
            await node.request(peer.peer_id, "chat", b"", timeout_s=0.5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await peer.hear(Data)
        clock.jump(0.5)


async def test_T25_late_answers_are_forgiven_once_each(mock_clock: MockClock) -> None:
    as_it_goes(mock_clock)
    async with victim() as node, offence(node, Reason.PROTOCOL), rogue(node) as peer:
        for _ in range(5):
            await ask_in_vain(node, peer, mock_clock)
        await peer.say(*(Data("", asked) for asked in peer.asked))
        await peer.say(Data("", peer.asked[0]))
        await peer.last_words()
        assert node.counters.answers_late == 5


async def test_T25_what_is_remembered_of_requests_nobody_waits_for_is_bounded(mock_clock: MockClock) -> None:
    """Beyond the bound a late answer is forgiven as often as it comes: who sent it cannot know what was forgotten."""
    as_it_goes(mock_clock)
    async with (
        victim(limits=limits(abandoned_requests_max=8)) as node,
        offence(node, Reason.PROTOCOL),
        rogue(node) as peer,
    ):
        for _ in range(20):
            await ask_in_vain(node, peer, mock_clock)
        (link,) = node._rooms.supervisor.links  # type: ignore[union-attr]
        assert link.asks is not None
        assert len(link.asks._abandoned) == 8
        await peer.say(*(Data("", peer.asked[0]) for _ in range(50)), *(Data("", asked) for asked in peer.asked))
        await peer.say(Data("", peer.asked[-1]))
        await peer.last_words()
        assert node.counters.answers_late == 70


async def test_T25_a_flood_of_requests_is_answered_with_status_3_and_takes_bounded_room() -> None:
    async with victim() as node, offence(node, Reason.CLOSED), rogue(node) as peer, trio.open_nursery() as nursery:
        release = trio.Event()

        async def slow(_message: p2p.Message) -> bytes:
            await release.wait()
            return b"done"

        await nursery.start(node.serve, "slow", slow)
        most = node.config.limits.pending_requests_max
        question = Data("slow", body=bytes(100)).encode()
        await peer.send_raw(b"".join(peer.seal(259, question, flags=ACK_REQ) for _ in range(500)))
        statuses = [(await peer.hear(Data)).status for _ in range(500 - most)]
        assert statuses == [3] * (500 - most)
        release.set()
        assert [(await peer.hear(Data)).body for _ in range(most)] == [b"done"] * most
        await peer.say(Goodbye(1, ""))
        await peer.last_words()
        nursery.cancel_scope.cancel()


async def test_T25_large_requests_that_wait_are_bounded_in_bytes() -> None:
    async with victim() as node, offence(node, Reason.CLOSED), rogue(node) as peer, trio.open_nursery() as nursery:

        async def never(_message: p2p.Message) -> None:
            await trio.sleep_forever()

        await nursery.start(node.serve, "never", never)
        size = 500_000
        question = Data("never", body=bytes(size)).encode()
        for _ in range(20):
            await peer.send_raw(peer.seal(259, question, flags=ACK_REQ))
        taken = node.config.limits.pending_requests_bytes_max // size
        assert [(await peer.hear(Data)).status for _ in range(20 - taken)] == [3] * (20 - taken)
        (link,) = node._rooms.supervisor.links  # type: ignore[union-attr]
        assert link.serving == taken
        await peer.say(Goodbye(1, ""))
        await peer.last_words()
        nursery.cancel_scope.cancel()


async def test_T22_who_asks_and_reads_no_answers_loses_its_link() -> None:
    """Statuses go through the lane of answers, which has a bound."""
    async with (
        victim(limits=limits(outbox_control_messages_max=200)) as node,
        offence(node, Reason.OVERLOADED),
        rogue(node) as peer,
    ):
        question = Data("nobody", body=b"").encode()
        with trio.move_on_after(60):
            while True:
                await peer.send_raw(b"".join(peer.seal(259, question, flags=ACK_REQ) for _ in range(1000)))
                if not node.peers():
                    break
        peer.reset()


async def test_T25_who_asks_and_leaves_again_and_again_holds_no_handlers() -> None:
    async with victim() as node, trio.open_nursery() as nursery:
        running = 0
        asked, left = trio.open_memory_channel[None](100), trio.open_memory_channel[None](100)

        async def slow(_message: p2p.Message) -> bytes:
            nonlocal running
            running += 1
            asked[0].send_nowait(None)
            try:
                await trio.sleep_forever()
            finally:
                running -= 1
                left[0].send_nowait(None)
            raise AssertionError

        await nursery.start(node.serve, "slow", slow)
        for _ in range(3):
            async with rogue(node) as peer:
                await peer.send_raw(b"".join(peer.seal(259, Data("slow").encode(), flags=ACK_REQ) for _ in range(20)))
                for _ in range(8):
                    await asked[1].receive()
                assert running == 8
                peer.reset()
            for _ in range(8):
                await left[1].receive()
            assert running == 0, "those that waited in line are not begun"
        nursery.cancel_scope.cancel()


async def test_T25_who_gives_up_what_it_never_asked_harms_nobody() -> None:
    """Ids of another peer's requests, of none, and of those that are answered: over and over."""
    async with victim() as node, rogue(node) as honest, rogue(node) as peer, trio.open_nursery() as nursery:
        begun, ended = trio.Event(), trio.Event()

        async def slow(_message: p2p.Message) -> bytes:
            begun.set()
            try:
                await trio.sleep_forever()
            finally:
                ended.set()
            raise AssertionError

        def echo(message: p2p.Message) -> bytes:
            return message.body

        await nursery.start(node.serve, "slow", slow)
        await nursery.start(node.serve, "echo", echo)
        await honest.send_raw(honest.seal(259, Data("slow").encode(), flags=ACK_REQ))
        await begun.wait()
        (asked,) = [number for link in node._rooms.supervisor.links for number in link.served]  # type: ignore[union-attr]
        await peer.say(*(RequestCancel(number) for number in (asked, 0, 1, 2**64 - 1) for _ in range(500)))
        await peer.send_raw(peer.seal(259, Data("echo", body=b"hi").encode(), flags=ACK_REQ))
        answer = await peer.hear(Data)
        assert answer.body == b"hi"
        await peer.say(RequestCancel(answer.reply_to))
        await peer.send_raw(peer.seal(259, Data("echo", body=b"still here").encode(), flags=ACK_REQ))
        assert (await peer.hear(Data)).body == b"still here"
        assert not ended.is_set()
        await honest.say(RequestCancel(asked))
        await ended.wait()
        assert (await honest.hear(Data)).status == Data.NO_HANDLER
        nursery.cancel_scope.cancel()
