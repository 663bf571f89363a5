"""Services: what a flood of requests may take of the loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import trio
from trio.testing import wait_all_tasks_blocked

import p2p
from p2p.msg import Data
from p2p.node.dispatch import Message
from p2p.node.serving import REQUESTS_PER_CHECKPOINT, Asked, Service


class Link:
    """A link that has always room for answers, as far as a service sees it."""

    answer_bytes_max = 1_000_000

    def __init__(self) -> None:
        self.serving = self.unanswered = 0
        self.answers: list[bytes] = []
        self.statuses: list[bytes] = []

    def send_reply_nowait(self, payload: bytes) -> bool:
        self.answers.append(payload)
        return True

    def send_status(self, payload: bytes) -> None:
        self.statuses.append(payload)

    def write_soon(self) -> None:
        pass

    def flush(self) -> None:
        pass


def ask(service: Service, link: Link, number: int) -> None:
    asked = Asked(cast("Any", link), number)
    service.put(Message("x", b"", cast("Any", link), asked), asked)


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
        def send_reply_nowait(self, payload: bytes) -> bool:
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
