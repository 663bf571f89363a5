"""Requests over real TCP: docs/contract.md, the sentences about request, serve and broadcast."""

from __future__ import annotations

import logging

import msgspec
import pytest
import trio
import trio.testing
from trio.testing import MockClock

import p2p
from p2p.limits import KIB
from tests.clocks import as_it_goes
from tests.contract.test_node import two_nodes


async def echo(message: p2p.Message) -> bytes:
    return message.body


class Ask(msgspec.Struct):
    zone: str


class Numbers(msgspec.Struct):
    first: int


class Time(msgspec.Struct):
    zone: str
    hour: int


async def test_a_request_is_answered_by_who_serves_its_channel() -> None:
    async with two_nodes() as (a, b, peer), trio.open_nursery() as nursery:

        async def clock(message: p2p.Message) -> bytes:
            assert message.is_request
            assert message.peer_id == a.peer_id
            return b"noon, " + message.body

        await nursery.start(b.serve, "clock", clock)
        for who in (peer, peer.peer_id, "b"):
            assert await a.request(who, "clock", b"please", timeout_s=5) == b"noon, please"
        nursery.cancel_scope.cancel()


async def test_both_sides_may_serve_and_ask_at_once() -> None:
    async with two_nodes() as (a, b, _), trio.open_nursery() as nursery:
        answers: list[bytes] = []

        async def ask(node: p2p.Node, peer: p2p.Node, number: int) -> None:
            body = b"%s %d" % (node.node_id.encode(), number)
            assert await node.request(peer.peer_id, "echo", body) == body
            answers.append(body)

        for node in (a, b):
            await nursery.start(node.serve, "echo", echo)
        async with trio.open_nursery() as askers:
            for number in range(200):
                askers.start_soon(ask, a, b, number)
                askers.start_soon(ask, b, a, number)
        assert len(set(answers)) == 400
        nursery.cancel_scope.cancel()


async def test_bodies_may_be_structs() -> None:
    async with two_nodes() as (a, b, peer), trio.open_nursery() as nursery:

        async def clock(_message: p2p.Message, ask: Ask) -> Time:
            return Time(ask.zone, 12)

        await nursery.start(lambda task_status: b.serve("clock", clock, body_type=Ask, task_status=task_status))
        assert await a.request(peer, "clock", Ask("utc"), reply_type=Time) == Time("utc", 12)
        assert await a.request(peer, "clock", Ask("utc")) == b'{"zone":"utc","hour":12}'
        with pytest.raises(p2p.RequestFailed) as failed:
            await a.request(peer, "clock", b"what time is it")
        assert failed.value.status == 1
        with pytest.raises(p2p.RemoteProtocolError, match="Numbers"):
            await a.request(peer, "clock", Ask("utc"), reply_type=Numbers)
        nursery.cancel_scope.cancel()


async def test_t29_a_name_that_stands_twice_in_a_body_is_read_by_neither_side() -> None:
    twins = b'{"first":1,"more":[{"a":1,"\\u0061":2}]}'
    async with two_nodes() as (a, b, peer), trio.open_nursery() as nursery:
        called: list[Numbers] = []

        async def take(_message: p2p.Message, numbers: Numbers) -> bytes:
            called.append(numbers)
            return b"taken"

        await nursery.start(lambda task_status: b.serve("n", take, body_type=Numbers, task_status=task_status))
        await nursery.start(b.serve, "echo", echo)
        for body in (b'{"first":1,"first":2}', twins):
            with pytest.raises(p2p.RequestFailed) as failed:
                await a.request(peer, "n", body)
            assert failed.value.status == 1
            with pytest.raises(p2p.RemoteProtocolError, match=r"Numbers: .* stands twice"):
                await a.request(peer, "echo", body, reply_type=Numbers)
        assert called == []
        assert await a.request(peer, "n", b'{"first":1,"more":[{"a":1},{"a":2}]}') == b"taken"
        nursery.cancel_scope.cancel()


async def test_what_is_no_body_and_no_type_is_refused_before_anybody_is_asked() -> None:
    async with two_nodes() as (a, b, peer), trio.open_nursery() as nursery:
        asked: list[p2p.Message] = []
        await nursery.start(b.serve, "x", asked.append)
        with pytest.raises(p2p.ConfigError, match="a body is of the kind str"):
            await a.request(peer, "x", "text")  # type: ignore[call-overload]  # what it is about
        with pytest.raises(p2p.ConfigError, match="reply_type must be a type"):
            await a.request(peer, "x", b"", reply_type=5)  # type: ignore[call-overload]  # what it is about
        with pytest.raises(p2p.ConfigError, match="body_type must be a type"):
            await b.serve("y", echo, body_type=5)  # type: ignore[call-overload]  # what it is about
        assert asked == []
        nursery.cancel_scope.cancel()


async def test_T68_a_handler_that_raises_answers_status_1_is_logged_and_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with two_nodes() as (a, b, peer), trio.open_nursery() as nursery:

        async def divide(message: p2p.Message) -> bytes:
            return b"%d" % (10 // int(message.body))

        await nursery.start(b.serve, "divide", divide)
        with caplog.at_level(logging.ERROR, "p2p.serve"):
            for body in (b"0", b"none"):
                with pytest.raises(p2p.RequestFailed, match="handler failed") as failed:
                    await a.request(peer, "divide", body)
                assert failed.value.status == 1
        assert "ZeroDivisionError" in caplog.text
        assert "ValueError" in caplog.text
        assert await a.request(peer, "divide", b"5") == b"2"
        nursery.cancel_scope.cancel()


async def test_T68_a_peer_that_makes_a_handler_fail_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with two_nodes() as (a, b, peer), trio.open_nursery() as nursery:

        def fail(_message: p2p.Message) -> bytes:
            raise RuntimeError("no")

        await nursery.start(b.serve, "fail", fail)
        with caplog.at_level(logging.ERROR, "p2p.serve"):
            for _ in range(200):
                with pytest.raises(p2p.RequestFailed):
                    await a.request(peer, "fail", b"")
        assert 0 < len(caplog.records) < 100
        nursery.cancel_scope.cancel()


async def test_an_answer_that_is_none_or_too_large_is_a_failure() -> None:
    async with two_nodes() as (a, b, peer), trio.open_nursery() as nursery:
        await nursery.start(b.serve, "large", lambda message: bytes(int(message.body)))
        await nursery.start(b.serve, "odd", lambda _: 17)  # type: ignore[arg-type, return-value]
        assert len(await a.request(peer, "large", b"%d" % (1024 * KIB - 200))) == 1024 * KIB - 200
        for channel, body in (("large", b"%d" % (1024 * KIB)), ("odd", b"")):
            with pytest.raises(p2p.RequestFailed) as failed:
                await a.request(peer, channel, body)
            assert failed.value.status == 1
        with pytest.raises(p2p.PayloadTooLarge):
            await a.request(peer, "large", bytes(1024 * KIB))
        nursery.cancel_scope.cancel()


async def test_what_nobody_serves_fails_with_status_2_and_at_once() -> None:
    async with two_nodes() as (a, b, peer):
        with pytest.raises(p2p.RequestFailed, match="'clock' at b: nobody serves") as failed:
            await a.request(peer, "clock", b"", timeout_s=3600)
        assert failed.value.status == 2
        # The handler's task ends while it is asked: those that wait are told.
        async with trio.open_nursery() as nursery:
            begun = trio.Event()

            async def never(_message: p2p.Message) -> bytes:
                begun.set()
                await trio.sleep_forever()
                return b""

            async def ask() -> None:
                with pytest.raises(p2p.RequestFailed) as failed:
                    await a.request(peer, "never", b"", timeout_s=3600)
                assert failed.value.status == 2

            server = trio.CancelScope()

            async def serve(task_status: trio.TaskStatus[None]) -> None:
                with server:
                    await b.serve("never", never, concurrency=1, task_status=task_status)

            await nursery.start(serve)
            for _ in range(3):
                nursery.start_soon(ask)
            await begun.wait()
            await trio.testing.wait_all_tasks_blocked()
            server.cancel()


async def test_a_request_may_be_read_from_a_channel_and_answered_later() -> None:
    async with two_nodes() as (a, b, peer), b.channel("mail", capacity=2) as mail, trio.open_nursery() as nursery:
        answers: list[bytes] = []

        async def ask(body: bytes) -> None:
            answers.append(await a.request(peer, "mail", body))

        nursery.start_soon(ask, b"first")
        first = await mail.receive()
        assert first.is_request
        await a.send(peer, "mail", b"no request")
        other = await mail.receive()
        assert not other.is_request
        with pytest.raises(p2p.LocalProtocolError, match="no request"):
            await other.reply(b"")
        assert answers == []
        await first.reply(b"yes")
        with pytest.raises(p2p.LocalProtocolError, match="already"):
            await first.reply(b"and no")
        while not answers:
            await trio.sleep(0)
        assert answers == [b"yes"]


async def test_a_refusal_says_its_status_and_takes_no_other() -> None:
    async with two_nodes() as (a, b, peer), b.channel("door") as door, trio.open_nursery() as nursery:

        async def refuse() -> None:
            for status in (1, 2, 3, 77):
                message = await door.receive()
                for wrong in (0, 256, -1, True, "busy", None):
                    with pytest.raises(p2p.ConfigError, match="status that refuses"):
                        message.refuse(wrong)  # type: ignore[arg-type]  # what is refused
                message.refuse(status)
                message.refuse()

        nursery.start_soon(refuse)
        for status, told in ((1, "the handler failed"), (2, "nobody serves"), (3, "overloaded"), (77, "refused")):
            with pytest.raises(p2p.RequestFailed, match=rf"{told}.*\(status {status}\)") as caught:
                await a.request(peer, "door", b"")
            assert caught.value.status == status


async def test_a_handler_that_answers_or_refuses_by_itself_gives_the_only_answer() -> None:
    async def refuses(message: p2p.Message) -> bytes:
        message.refuse(77)
        return b"what it returns after that"

    async def refuses_and_raises(message: p2p.Message) -> bytes:
        message.refuse(77)
        raise ValueError("what it raises after that")

    def plain(message: p2p.Message) -> None:
        message.refuse(77)

    async def replies(message: p2p.Message) -> bytes:
        await message.reply(b"the answer")
        return b"what it returns after that"

    async with two_nodes() as (a, b, peer), trio.open_nursery() as nursery:
        for name, handler in {"returns": refuses, "raises": refuses_and_raises, "plain": plain}.items():
            await nursery.start(b.serve, name, handler)
            with pytest.raises(p2p.RequestFailed, match="status 77"):
                await a.request(peer, name, b"")
        await nursery.start(b.serve, "replies", replies)
        await nursery.start(b.serve, "echo", echo)
        link = a.get_peer(peer).connected_at
        assert await a.request(peer, "replies", b"") == b"the answer"
        assert await a.request(peer, "echo", b"the link lives") == b"the link lives"
        assert a.get_peer(peer).connected_at == link, "a second answer would have ended it"
        nursery.cancel_scope.cancel()


async def test_a_request_that_a_full_channel_loses_fails_with_status_3() -> None:
    async with two_nodes() as (a, b, peer), b.channel("x", capacity=1, when_full="drop_oldest"):
        async with trio.open_nursery() as nursery:
            statuses: list[int] = []

            async def ask() -> None:
                try:
                    await a.request(peer, "x", b"")
                except p2p.RequestFailed as error:
                    statuses.append(error.status)

            for _ in range(5):
                nursery.start_soon(ask)
            while len(statuses) < 4:
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        assert statuses == [3] * 4


async def test_a_request_times_out_and_is_a_TooSlowError(mock_clock: MockClock) -> None:
    as_it_goes(mock_clock)
    async with two_nodes() as (a, b, peer), b.channel("slow") as slow:
        late: list[BaseException] = []

        async def ask() -> None:
            with pytest.raises(p2p.RequestTimeout) as caught:
                await a.request(peer, "slow", b"", timeout_s=10)
            late.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            asked = await slow.receive()
            mock_clock.jump(10)
        assert isinstance(late[0], trio.TooSlowError)
        assert isinstance(late[0], p2p.P2PError)
        # Its answer comes late, and is no fault of the peer's.
        await asked.reply(b"sorry")
        await a.send(peer, "slow", b"the link lives")
        assert (await slow.receive()).body == b"the link lives"
        assert a.counters.answers_late == 1
        for wrong in (0, -1, float("nan")):
            with pytest.raises(p2p.ConfigError, match="timeout_s"):
                await a.request(peer, "slow", b"", timeout_s=wrong)


async def test_a_cancelled_request_frees_its_place_at_once() -> None:
    async with two_nodes() as (a, b, peer), b.channel("slow") as slow:
        for _ in range(3 * p2p.Limits().pending_requests_max):
            with trio.CancelScope() as scope:
                scope.cancel()
                await a.request(peer, "slow", b"")
        link = a._rooms.roster.links[peer.peer_id]  # type: ignore[union-attr]
        for _ in range(3 * p2p.Limits().pending_requests_max):
            with trio.move_on_after(0) as scope:
                await a.request(peer, "slow", b"")
            assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(a.request, peer, "slow", b"real")
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert len(link.asks) == 10
            nursery.cancel_scope.cancel()
        assert len(link.asks) == len(a._rooms.requests) == 0  # type: ignore[union-attr]
        while slow._queue:
            await (await slow.receive()).reply(b"late")
        await trio.sleep(0.05)
        assert a.peers(), "late answers are forgiven"


async def test_who_gives_up_a_request_cancels_its_handler(mock_clock: MockClock) -> None:
    """Cancelled or too late, a request that is served or waits in line is let go of by its peer."""
    as_it_goes(mock_clock)
    begun, ended = trio.open_memory_channel[bytes](10), trio.open_memory_channel[bytes](10)

    async def slow(message: p2p.Message) -> bytes:
        begun[0].send_nowait(message.body)
        try:
            await trio.sleep_forever()
        finally:
            ended[0].send_nowait(message.body)
        raise AssertionError

    async with two_nodes() as (a, b, peer), trio.open_nursery() as nursery:

        async def ask_too_late() -> None:
            with pytest.raises(p2p.RequestTimeout):
                await a.request(peer, "slow", b"late", timeout_s=10)

        await nursery.start(lambda task_status: b.serve("slow", slow, concurrency=1, task_status=task_status))
        async with trio.open_nursery() as asking:
            asking.start_soon(a.request, peer, "slow", b"cancelled")
            assert await begun[1].receive() == b"cancelled"
            asking.cancel_scope.cancel()
        assert await ended[1].receive() == b"cancelled"
        async with trio.open_nursery() as asking:
            asking.start_soon(ask_too_late)
            assert await begun[1].receive() == b"late"
            mock_clock.jump(10)
        assert await ended[1].receive() == b"late"
        while any(link.serving or link.served for link in b._rooms.roster.links.values()):  # type: ignore[union-attr]
            await trio.sleep(0.001)
        nursery.cancel_scope.cancel()


async def test_T25_requests_whose_handlers_do_not_let_go_fill_their_own_service_and_no_other() -> None:
    limit = p2p.Limits().pending_requests_max
    release = trio.Event()

    async def stubborn(_: p2p.Message) -> bytes:
        with trio.CancelScope(shield=True):
            await release.wait()
        return b"done"

    async with two_nodes() as (a, b, peer), trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: b.serve("slow", stubborn, concurrency=limit, task_status=task_status))
        await nursery.start(b.serve, "quick", echo)
        async with trio.open_nursery() as asking:
            for _ in range(limit):
                asking.start_soon(a.request, peer, "slow", b"")
            while sum(link.serving for link in b._rooms.roster.links.values()) < limit:  # type: ignore[union-attr]
                await trio.sleep(0.001)
            asking.cancel_scope.cancel()
        with pytest.raises(p2p.RequestFailed, match="overloaded") as caught:
            await a.request(peer, "slow", b"one more")
        assert caught.value.status == 3
        assert await a.request(peer, "quick", b"hi") == b"hi"
        release.set()
        nursery.cancel_scope.cancel()


async def test_T25_one_more_request_than_may_be_open_waits_for_its_turn() -> None:
    limit = p2p.Limits().pending_requests_max
    async with two_nodes() as (a, b, peer), b.channel("slow") as slow, trio.open_nursery() as nursery:
        answers: list[bytes] = []

        async def ask(number: int) -> None:
            answers.append(await a.request(peer, "slow", b"%d" % number, timeout_s=3600))

        for number in range(limit):
            nursery.start_soon(ask, number)
        got = [await slow.receive() for _ in range(limit)]
        for number in range(limit, limit + 3):
            nursery.start_soon(ask, number)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(slow) == 0
        with pytest.raises(p2p.RequestTimeout, match="no room"):
            await a.request(peer, "slow", b"", timeout_s=0.01)
        for message in got:
            await message.reply(message.body)
        for _ in range(3):
            message = await slow.receive()
            await message.reply(message.body)
        while len(answers) < limit + 3:
            await trio.sleep(0.001)
        assert sorted(map(int, answers)) == list(range(limit + 3))


async def test_concurrency_bounds_the_handlers_that_run() -> None:
    async with two_nodes() as (a, b, peer), trio.open_nursery() as nursery:
        running = most = 0

        async def count(_message: p2p.Message) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await trio.sleep(0.001)
            running -= 1

        await nursery.start(lambda task_status: b.serve("n", count, concurrency=3, task_status=task_status))
        async with trio.open_nursery() as askers:
            for _ in range(30):
                askers.start_soon(a.request, peer, "n", b"")
        assert most == 3
        nursery.cancel_scope.cancel()


async def test_requests_end_with_their_link_and_with_the_node() -> None:
    async with two_nodes() as (a, b, peer), b.channel("slow") as slow:
        ended: list[type[BaseException]] = []

        async def ask() -> None:
            try:
                await a.request("b", "slow", b"", timeout_s=3600)
            except p2p.P2PError as error:
                ended.append(type(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await slow.receive()
            await b.disconnect(a.peer_id)
        assert ended == [p2p.NotConnected]
        await a.connect(b.endpoints[0])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            message = await slow.receive()
            a.stop()
        assert ended[1:] == [p2p.NodeClosed]
        await a.wait()
        with pytest.raises(p2p.NodeClosed):
            await a.request(peer, "slow", b"")
        with trio.fail_after(30):
            while b.peers():
                await trio.sleep(0.001)
        with pytest.raises(p2p.NotConnected):
            await message.reply(b"too late")


async def test_serve_ends_with_the_node_and_a_name_has_one_server() -> None:
    ended: list[str] = []
    async with p2p.open_node(node_id="a") as node:
        async with trio.open_nursery() as nursery:

            async def serve(task_status: trio.TaskStatus[None]) -> None:
                with pytest.raises(p2p.NodeClosed):
                    await node.serve("x", echo, task_status=task_status)
                ended.append("x")

            await nursery.start(serve)
            with pytest.raises(p2p.ChannelBusy):
                await node.serve("x", echo)
            with pytest.raises(p2p.ChannelBusy):
                async with node.channel("x"):
                    pass
            for name, concurrency in (("", 1), ("y", 0)):
                with pytest.raises(p2p.ConfigError):
                    await node.serve(name, echo, concurrency=concurrency)
            node.stop()
    assert ended == ["x"]
    with pytest.raises(p2p.NodeClosed):
        await node.serve("x", echo)


async def test_serve_ends_with_the_node_whatever_its_handlers_do() -> None:
    async def slow(_message: p2p.Message) -> bytes:
        begun.set()
        await trio.sleep_forever()
        raise AssertionError

    begun = trio.Event()
    async with two_nodes() as (a, b, peer), trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[None]) -> None:
            with pytest.raises(p2p.NodeClosed):
                await b.serve("slow", slow, task_status=task_status)

        async def ask() -> None:
            with pytest.raises(p2p.NotConnected):
                await a.request(peer, "slow", b"", timeout_s=60)

        await nursery.start(serve)
        nursery.start_soon(ask)
        await begun.wait()
        b.stop()
        with trio.fail_after(20):
            await b.wait()


async def test_a_broadcast_reaches_everybody_connected() -> None:
    async with (
        p2p.open_node(node_id="hub") as hub,
        p2p.open_node(node_id="a") as a,
        p2p.open_node(node_id="b") as b,
        a.channel("news") as at_a,
        b.channel("news") as at_b,
    ):
        assert await hub.broadcast("news", b"nobody there") == 0
        await hub.connect(a.endpoints[0])
        await hub.connect(b.endpoints[0])
        assert await hub.broadcast("news", b"hello") == 2
        assert (await at_a.receive()).body == (await at_b.receive()).body == b"hello"
        with pytest.raises(p2p.PayloadTooLarge):
            await hub.broadcast("news", bytes(1024 * KIB))


CALLS_THAT_FAIL = {
    "request": lambda node: node.request("nobody", "x", b""),
    "request, too large": lambda node: node.request("b", "x", bytes(3_000_000)),
    "request, no channel": lambda node: node.request("b", "", b""),
    "send": lambda node: node.send("nobody", "x", b""),
    "send, no channel": lambda node: node.send("b", "", b""),
    "ping": lambda node: node.ping("nobody"),
    "connect": lambda node: node.connect("ab" * 32),
    "disconnect": lambda node: node.disconnect("nobody"),
}


@pytest.mark.parametrize("name", CALLS_THAT_FAIL)
async def test_who_tries_again_at_once_lets_others_run(name: str) -> None:
    """A call that fails is a checkpoint, too: else a loop around it would stop the whole process."""
    async with two_nodes() as (a, _, _peer):
        for _ in range(3):
            with trio.testing.assert_checkpoints(), pytest.raises(p2p.P2PError):
                await CALLS_THAT_FAIL[name](a)


async def test_a_peer_that_is_not_connected_is_told_of_at_once_and_not_waited_for() -> None:
    async with (
        p2p.open_node(node_id="b") as b,
        p2p.open_node(node_id="a", peers=["127.0.0.1:1"]) as a,
        a.events() as events,
    ):
        with trio.fail_after(30):
            known = (b.peer_id, str(b.peer_id))
            for who, error in (*((who, p2p.NotConnected) for who in known), ("b", p2p.UnknownPeer)):
                with pytest.raises(error):
                    await a.request(who, "clock", b"", timeout_s=3600)
                with pytest.raises(error):
                    await a.send(who, "clock", b"")
            async with trio.open_nursery() as nursery:
                await nursery.start(b.serve, "clock", echo)
                nursery.start_soon(a.connect, b.endpoints[0])
                while not a.peers():
                    await events.__anext__()
                assert await a.request(b.peer_id, "clock", b"now") == b"now"
                nursery.cancel_scope.cancel()


async def test_making_a_way_counts_into_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_nodes() as (a, _, _peer):
        assert a._rooms is not None

        async def hang(_who: object) -> None:
            await trio.sleep_forever()

        monkeypatch.setattr(a._rooms.paths, "link_to", hang)
        with trio.fail_after(30), pytest.raises(p2p.RequestTimeout, match=r"'x': no way to the peer .* 0.01 s"):
            await a.request("far", "x", b"", timeout_s=0.01)


@pytest.mark.parametrize("timeout_s", [None, "5", 0, -1, True, float("nan")])
async def test_a_timeout_that_is_no_number_of_seconds_is_refused(timeout_s: object) -> None:
    async with two_nodes() as (a, _, peer):
        with pytest.raises(p2p.ConfigError, match="timeout_s is a number of seconds above 0"):
            await a.request(peer, "x", b"", timeout_s=timeout_s)  # type: ignore[arg-type]  # what it is about


async def test_of_two_that_answer_a_request_at_the_same_time_one_is_told_that_it_was() -> None:
    async with two_nodes() as (a, b, peer), b.channel("q") as channel, trio.open_nursery() as nursery:
        refused = []

        async def answer(message: p2p.Message, body: bytes) -> None:
            try:
                await message.reply(body)
            except p2p.LocalProtocolError as error:
                refused.append(str(error))

        @nursery.start_soon
        async def twice() -> None:
            message = await channel.receive()
            async with trio.open_nursery() as answering:
                answering.start_soon(answer, message, b"one")
                answering.start_soon(answer, message, b"two")

        with trio.fail_after(30):
            first = await a.request(peer, "q", b"")
        assert first in {b"one", b"two"}
        assert len(refused) == 1
        assert "answered already" in refused[0]
        # And the link lives: a second answer would have ended it.
        nursery.start_soon(trio.lowlevel.checkpoint)
        assert a.peers()


async def test_asking_for_any_way_to_a_neighbour_lets_others_run() -> None:
    async with two_nodes() as (a, _, peer):
        ran = False

        async def others() -> None:
            nonlocal ran
            ran = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            for _ in range(3):
                await a.connect(f"relay://*/{peer.peer_id}")
            assert ran
