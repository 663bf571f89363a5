"""Services: what a flood of requests may take of the loop."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import p2p
from p2p.msg import Data, decode_data
from p2p.node.dispatch import Message
from p2p.node.serving import REQUESTS_PER_CHECKPOINT, Asked, Service


class Link:
    """A link that has always room for answers, as far as a service sees it."""

    answer_bytes_max = 1_000_000
    label = "asker"
    is_parting = False

    def __init__(self) -> None:
        self.serving = self.unanswered = 0
        self.served: dict[int, Any] = {}
        self.answers: list[bytes] = []
        self.statuses: list[bytes] = []

    def send_reply_nowait(self, payload: bytes, *, at_once: bool = False) -> bool:
        self.answers.append(payload)
        return True

    def send_status(self, payload: bytes) -> None:
        self.statuses.append(payload)

    def write_soon(self) -> None:
        pass

    def flush(self) -> None:
        pass


def ask(service: Service, link: Link, number: int, body: bytes = b"") -> None:
    asked = Asked(cast("Any", link), number)
    service.put(Message("x", body, cast("Any", link), asked), asked)


async def test_T24_a_plain_handler_leaves_the_loop_its_turns() -> None:
    calls = 0

    def plain(_message: Message) -> bytes:
        nonlocal calls
        calls += 1
        return b"ok"

    limits = replace(p2p.Limits(), pending_requests_max=10)
    service, link = Service("x", plain, limits), Link()
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run, 1)
        await wait_all_tasks_blocked()
        for number in range(1000):
            ask(service, link, number + 1)
        assert calls == REQUESTS_PER_CHECKPOINT, "what comes in one turn of the loop"
        assert link.serving == 10
        assert service.refused == len(link.statuses) == 1000 - REQUESTS_PER_CHECKPOINT - 10
        await wait_all_tasks_blocked()
        assert (link.serving, link.unanswered) == (0, 0)
        assert len(link.answers) == REQUESTS_PER_CHECKPOINT + 10
        ask(service, link, 1001)
        assert calls == REQUESTS_PER_CHECKPOINT + 11, "the next turn answers at once again"
        service.close()


async def test_T24_a_handler_that_never_waits_leaves_the_loop_its_turns() -> None:
    calls = 0

    async def handler(_message: Message) -> bytes:
        nonlocal calls
        calls += 1
        return b"ok"

    count = 5 * REQUESTS_PER_CHECKPOINT
    limits = replace(p2p.Limits(), pending_requests_max=count)
    service, link = Service("x", handler, limits), Link()
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run, 1)
        for number in range(count):
            ask(service, link, number + 1)
        seen = [0]
        while calls < count:
            await trio.lowlevel.checkpoint()
            seen.append(calls)
        # What is served between two turns of somebody else, whichever of the two comes first in one.
        assert max(later - earlier for earlier, later in pairwise(seen)) <= 2 * REQUESTS_PER_CHECKPOINT
        service.close()


async def test_a_link_that_parts_is_told_when_the_last_of_its_requests_is_over() -> None:
    class Parting(Link):
        is_parting = True

        def __init__(self) -> None:
            super().__init__()
            self.flushed: list[int] = []

        def flush(self) -> None:
            self.flushed.append(self.serving)

    go_on = trio.Event()

    async def handler(message: Message) -> bytes:
        await go_on.wait()
        message.refuse()
        return b"too late"

    service, link = Service("x", handler, p2p.Limits()), Parting()
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run, 1)
        ask(service, link, 1)
        await wait_all_tasks_blocked()
        assert link.flushed == []
        go_on.set()
        await wait_all_tasks_blocked()
        assert link.flushed == [0]
        service.close()


async def test_tasks_are_made_as_requests_need_them_and_no_more_than_may_be() -> None:
    async def wait(message: Message) -> bytes:
        if message.body:
            await trio.sleep_forever()
        return b""

    service, link = Service("x", wait, p2p.Limits()), Link()
    async with trio.open_nursery() as nursery:
        ask(service, link, 1, b"it came before the service ran")
        await nursery.start(service.run, 10**9)
        ask(service, link, 2, b"wait")
        await wait_all_tasks_blocked()
        living = trio.lowlevel.current_statistics().tasks_living
        for number in range(3, 50):
            ask(service, link, number)
            await wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == living + 1, "one after the other needs one"
        for number in range(50, 53):
            ask(service, link, number, b"wait")
        await wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == living + 3
        service.close()


async def test_T25_what_was_answered_takes_no_room_from_a_peer_that_always_asks() -> None:
    gates = [trio.Event() for _ in range(6)]

    async def wait(message: Message) -> bytes:
        await gates[message.body[0]].wait()
        return b""

    limits = replace(p2p.Limits(), pending_requests_bytes_max=100)
    service, link = Service("x", wait, limits), Link()
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run, 4)
        for number in range(6):
            # With the one before it, which is not answered yet, it takes exactly what a peer may.
            ask(service, link, number + 1, bytes([number]) * 50)
            if number:
                gates[number - 1].set()
            await wait_all_tasks_blocked()
        assert (service.refused, len(link.answers)) == (0, 5)
        ask(service, link, 7, bytes(51))
        assert service.refused == 1
        service.close()


async def test_T58_what_was_not_told_of_failing_handlers_is_told_once(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    def fail(_message: Message) -> bytes:
        raise ValueError

    limits = replace(p2p.Limits(), refusal_lines_burst=1)
    service, link = Service("x", fail, limits), Link()
    for count in (1, 2, 1, 1):
        for _ in range(count):
            ask(service, link, link.unanswered + 1)
        await trio.sleep(10 / limits.refusal_lines_per_s)
    lines = [record.getMessage().partition("> ")[2] or record.getMessage() for record in caplog.records]
    assert [line.rpartition("(and ")[2] for line in lines if "times before" in line] == ["1 times before)"]
    assert len(lines) == 4


@pytest.mark.parametrize("in_a_nursery", [False, True])
async def test_T68_a_handler_that_raises_GeneratorExit_has_failed_and_harms_nobody_else(
    in_a_nursery: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def leave() -> None:
        raise GeneratorExit

    async def handler(message: Message) -> bytes:
        if message.body and in_a_nursery:
            async with trio.open_nursery() as inner:
                inner.start_soon(leave)
        elif message.body:
            await leave()
        return b"ok"

    def plain(_message: Message) -> bytes:
        raise GeneratorExit

    for service, expected in (
        (Service("x", handler, p2p.Limits()), [Data.HANDLER_FAILED, Data.OK]),
        (Service("y", plain, p2p.Limits()), [Data.HANDLER_FAILED] * 2),
    ):
        link = Link()
        async with trio.open_nursery() as nursery:
            await nursery.start(service.run, 1)
            ask(service, link, 1, b"leave")
            await wait_all_tasks_blocked()
            ask(service, link, 2)
            await wait_all_tasks_blocked()
            service.close()
        assert [Data.decode(answer).status for answer in link.answers] == expected
    assert "GeneratorExit" in caplog.text


async def test_a_task_that_is_thrown_away_does_not_go_on_as_if_a_handler_had_failed() -> None:
    service, link = Service("x", lambda message: message.body, p2p.Limits()), Link()
    asked = Asked(cast("Any", link), 1)
    coroutine = service._finish(Message("x", b"", cast("Any", link)), asked, trio.sleep_forever())

    async def begin() -> None:
        coroutine.send(None)
        coroutine.close()

    await begin()
    assert not asked.is_answered


async def test_a_service_that_is_closed_ends_its_handlers_and_answers_who_waits() -> None:
    begun = trio.Event()

    async def slow(_message: Message) -> bytes:
        begun.set()
        await trio.sleep_forever()
        raise AssertionError

    service, link = Service("x", slow, p2p.Limits()), Link()
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run, 1)
        ask(service, link, 1)
        ask(service, link, 2)
        await begun.wait()
        service.close()
    assert [Data.decode(status).status for status in link.statuses] == [Data.NO_HANDLER] * 2
    assert link.unanswered == 0


async def test_an_answer_that_waits_for_room_when_its_service_is_closed_becomes_a_status() -> None:
    waits = trio.Event()

    class Full(Link):
        def send_reply_nowait(self, payload: bytes, *, at_once: bool = False) -> bool:
            return False

        async def send_reply(self, payload: bytes) -> None:
            waits.set()
            await trio.sleep_forever()

    async def quick(_message: Message) -> bytes:
        await trio.lowlevel.checkpoint()
        return b"done"

    service, link = Service("x", quick, p2p.Limits()), Full()
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run, 1)
        ask(service, link, 1)
        await waits.wait()
        service.close()
    assert [Data.decode(status).status for status in link.statuses] == [Data.NO_HANDLER]
    assert link.unanswered == 0


async def test_a_request_that_is_given_up_cancels_its_handler_and_no_other() -> None:
    seen: list[bytes] = []
    begun: list[bytes] = []

    async def slow(message: Message) -> bytes:
        begun.append(message.body)
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            seen.append(message.body)
            raise
        raise AssertionError

    service, link = Service("x", slow, p2p.Limits()), Link()
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run, 2)
        for number in (1, 2, 3, 4):
            ask(service, link, number, b"%d" % number)
        await wait_all_tasks_blocked()
        assert sorted(begun) == [b"1", b"2"]
        link.served[3].cancel()
        assert [Data.decode(status).reply_to for status in link.statuses] == [3], "it has left the line"
        link.served[1].cancel()
        link.served[1].cancel()
        await wait_all_tasks_blocked()
        assert (seen, begun[2:]) == ([b"1"], [b"4"]), "its task serves the next one"
        assert sorted(link.served) == [2, 4]
        assert [Data.decode(status).reply_to for status in link.statuses] == [3, 1]
        assert (link.serving, link.unanswered) == (2, 2)
        service.close()
    assert (link.serving, link.unanswered, link.served) == (0, 0, {})


async def test_a_request_that_is_given_up_as_its_handler_returns_leaves_the_next_one_alone() -> None:
    link = Link()

    async def quick(message: Message) -> bytes:
        await trio.lowlevel.checkpoint()
        if message.body:
            # It comes between the handler's last checkpoint and its return.
            link.served[1].cancel()
        return b"done"

    service = Service("x", quick, p2p.Limits())
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run, 1)
        ask(service, link, 1, b"given up")
        ask(service, link, 2)
        await wait_all_tasks_blocked()
        assert [Data.decode(answer).reply_to for answer in link.answers] == [1, 2]
        assert link.statuses == []
        service.close()


async def test_a_handler_that_fails_while_it_is_cancelled_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async def fail_late() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("while it cleans up")

    async def with_a_nursery(message: Message) -> bytes:
        if message.body:
            async with trio.open_nursery() as inner:
                inner.start_soon(fail_late)
                inner.start_soon(trio.sleep_forever)
        return b"ok"

    service, link = Service("x", with_a_nursery, p2p.Limits()), Link()
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run, 1)
        ask(service, link, 1, b"wait")
        await wait_all_tasks_blocked()
        link.served[1].cancel()
        ask(service, link, 2)
        await wait_all_tasks_blocked()
        assert [Data.decode(answer).reply_to for answer in link.answers][-1:] == [2]
        service.close()
    assert "while it cleans up" in caplog.text


async def test_what_a_plain_handler_began_is_closed_when_its_asker_gives_up() -> None:
    async def rest() -> bytes:
        raise AssertionError("it is never awaited")

    def plain(message: Message) -> object:
        return trio.sleep_forever() if message.body else rest()

    service, link = Service("x", cast("Any", plain), p2p.Limits()), Link()
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run, 1)
        ask(service, link, 1, b"wait")
        await wait_all_tasks_blocked()
        ask(service, link, 2)
        link.served[2].cancel()
        assert sorted(link.served) == [1]
        service.close()
    assert link.serving == 0


async def test_an_answer_without_room_is_a_status_when_its_service_closes() -> None:
    class Full(Link):
        def send_reply_nowait(self, payload: bytes, *, at_once: bool = False) -> bool:
            return False

    service, link = Service("x", lambda message: message.body, p2p.Limits()), Full()
    ask(service, link, 1, b"an answer for which there is no room")
    assert link.serving == 1
    service.close()
    assert [decode_data(payload).status for payload in link.statuses] == [Data.NO_HANDLER]
    assert (link.serving, link.unanswered) == (0, 0)
