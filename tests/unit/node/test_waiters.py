"""Waiting for a number: woken in order, and cheap to give up."""

from __future__ import annotations

import math

import trio
from trio.testing import wait_all_tasks_blocked

from p2p.node.waiters import Waiters


async def test_those_wake_who_waited_for_so_much_or_less() -> None:
    waiters, woken = Waiters(), []

    async def wait(number: int) -> None:
        await waiters.wait(number)
        woken.append(number)

    async with trio.open_nursery() as nursery:
        for number in (5, 1, 3, 3):
            nursery.start_soon(wait, number)
        await wait_all_tasks_blocked()
        waiters.wake(3)
        await wait_all_tasks_blocked()
        assert sorted(woken) == [1, 3, 3]
        assert len(waiters) == 1
        waiters.wake(math.inf)
    assert sorted(woken) == [1, 3, 3, 5]
    assert not waiters


async def test_who_gave_up_is_forgotten_and_wakes_nobody_else_late() -> None:
    waiters = Waiters()
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as leaving:
                for number in range(10):
                    leaving.start_soon(waiters.wait, number)
                nursery.start_soon(waiters.wait, 4)
                await wait_all_tasks_blocked()
                scope.cancel()
        assert len(waiters) == 1
        waiters.wake(4)
    assert not waiters


async def test_ten_thousand_that_give_up_at_once_do_little_work_each(monkeypatch: object) -> None:
    """Counted, not timed: what is put in order again and again stays in proportion to how many there were."""
    from p2p.node import waiters as module

    touched = 0
    heapify = module.heapq.heapify

    def counting(heap: list[object]) -> None:
        nonlocal touched
        touched += len(heap)
        heapify(heap)

    monkeypatch.setattr(module.heapq, "heapify", counting)  # type: ignore[attr-defined]
    waiters, many = Waiters(), 10_000
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            for number in range(many):
                nursery.start_soon(waiters.wait, number)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert not waiters
    assert touched <= 2 * many
