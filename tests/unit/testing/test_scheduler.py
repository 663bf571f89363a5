"""The schedule of a seed. These tests fail when trio orders tasks in another way than this project knows."""

from __future__ import annotations

from types import ModuleType

import pytest
import trio

from p2p.testing.scheduler import SchedulerUnavailable, check_trio, run_seeded


async def order_of_tasks() -> list[int]:
    order: list[int] = []

    async def note(number: int) -> None:
        for _ in range(5):
            order.append(number)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(note, number)
    return order


def test_trio_has_what_the_scheduler_reaches_for() -> None:
    check_trio()


def test_one_seed_is_one_order() -> None:
    for seed in range(20):
        assert run_seeded(seed, order_of_tasks) == run_seeded(seed, order_of_tasks)


def test_seeds_are_different_orders() -> None:
    """Were the schedule not drawn from the seed, these would be one or two."""
    assert len({tuple(run_seeded(seed, order_of_tasks)) for seed in range(50)}) == 50


def test_nothing_is_left_changed() -> None:
    generator, before = check_trio(), check_trio().getstate()
    from trio._core import _run

    switch = _run._ALLOW_DETERMINISTIC_SCHEDULING
    with pytest.raises(ZeroDivisionError):
        run_seeded(1, fail)
    assert generator.getstate() == before
    assert _run._ALLOW_DETERMINISTIC_SCHEDULING is switch


async def fail() -> None:
    raise ZeroDivisionError


def test_time_passes_only_when_everybody_sleeps() -> None:
    async def sleep() -> float:
        start = trio.current_time()
        await trio.sleep(86_400)
        return trio.current_time() - start

    assert run_seeded(0, sleep) == 86_400


@pytest.mark.parametrize("missing", ["_r", "_ALLOW_DETERMINISTIC_SCHEDULING"])
def test_another_trio_is_noticed_in_words(missing: str) -> None:
    from trio._core import _run

    other = ModuleType("another_trio")
    for name in ("_r", "_ALLOW_DETERMINISTIC_SCHEDULING"):
        if name != missing:
            setattr(other, name, getattr(_run, name))
    with pytest.raises(SchedulerUnavailable, match=r"p2p/testing/scheduler\.py"):
        check_trio(other)
