"""The windows: clocks, lanes and draws."""

from __future__ import annotations

import signal
import threading
import time

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p.errors import StoreError
from p2p.windows import (
    Blocking,
    InlineBlocking,
    Lane,
    SimulatedClock,
    SystemBlocking,
    SystemClock,
    system_entropy,
    uniform,
)


async def test_the_system_clock_is_on_the_scale_of_trios_deadlines(autojump_clock: MockClock) -> None:
    clock = SystemClock()
    before = clock.monotonic()
    with trio.CancelScope(deadline=before + 3600):
        await trio.sleep_forever()
    assert clock.monotonic() == before + 3600


async def test_wall_time_is_unix_milliseconds() -> None:
    assert abs(SystemClock().wall_ms() - time.time() * 1000) < 5000


async def test_a_simulated_wall_clock_follows_trio_and_jumps_when_told(autojump_clock: MockClock) -> None:
    clock = SimulatedClock(wall_start_ms=1000)
    assert clock.wall_ms() == 1000
    await trio.sleep(2.5)
    assert clock.wall_ms() == 3500
    clock.skew_ms = -3600_000
    assert clock.wall_ms() == 3500 - 3600_000


async def test_t64_a_wall_clock_that_jumps_leaves_the_monotonic_one_alone(autojump_clock: MockClock) -> None:
    clock = SimulatedClock()
    before = clock.monotonic()
    clock.skew_ms = 10 * 365 * 86_400_000
    assert clock.monotonic() == before


@pytest.mark.parametrize("make", [SystemBlocking, InlineBlocking])
async def test_work_returns_what_it_returns_and_raises_what_it_raises(make: type[Blocking]) -> None:
    blocking = make()
    assert await blocking.run("write", divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await blocking.run("read", divmod, 7, 0)


@pytest.mark.parametrize("make", [SystemBlocking, InlineBlocking])
async def test_a_lane_runs_one_call_at_a_time_in_order(make: type[Blocking]) -> None:
    blocking = make()
    lock = threading.Lock()
    order: list[int] = []

    def work(number: int) -> None:
        assert lock.acquire(blocking=False), "two calls of one lane overlap"
        order.append(number)
        lock.release()

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(blocking.run, "write", work, number)
            await wait_all_tasks_blocked()
    assert order == list(range(20))


async def test_t04_work_without_a_thread_has_not_begun_and_leaves_its_lane_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocking = SystemBlocking()
    with monkeypatch.context() as full:
        full.setattr(trio.lowlevel, "start_thread_soon", no_thread)
        with pytest.raises(StoreError, match="can't start new thread"):
            await blocking.run("write", divmod, 7, 2)
    with trio.fail_after(30):
        assert await blocking.run("write", divmod, 7, 2) == (3, 1)


def no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


async def test_the_lanes_do_not_wait_for_each_other() -> None:
    blocking = SystemBlocking()
    writing, reading = threading.Event(), threading.Event()

    def meet(mine: threading.Event, other: threading.Event) -> bool:
        mine.set()
        return other.wait(30)

    met: list[bool] = []

    async def run(lane: Lane, mine: threading.Event, other: threading.Event) -> None:
        met.append(await blocking.run(lane, meet, mine, other))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, "write", writing, reading)
        nursery.start_soon(run, "read", reading, writing)
    assert met == [True, True]


async def test_work_that_has_begun_is_waited_for_although_its_caller_is_cancelled() -> None:
    blocking = SystemBlocking()
    begun, finish = threading.Event(), threading.Event()
    ended = False

    def work() -> None:
        nonlocal ended
        begun.set()
        finish.wait(30)
        ended = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(blocking.run, "write", work)
        await trio.to_thread.run_sync(begun.wait, 30)
        nursery.cancel_scope.cancel()
        finish.set()
    assert ended


async def test_what_began_before_the_cancellation_gives_its_result() -> None:
    blocking = SystemBlocking()
    begun, finish = threading.Event(), threading.Event()
    results: list[str] = []

    def work() -> str:
        begun.set()
        finish.wait(30)
        return "done"

    async def call() -> None:
        results.append(await blocking.run("write", work))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.to_thread.run_sync(begun.wait, 30)
        nursery.cancel_scope.cancel()
        finish.set()
    assert results == ["done"]


async def test_a_disk_that_hangs_is_given_up_on_and_its_lane_stays_taken() -> None:
    blocking = SystemBlocking(give_up_s=0.05)
    begun, finish = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        finish.wait(30)

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(blocking.run, "write", hang)
            await trio.to_thread.run_sync(begun.wait, 30)
            scope.cancel()
    assert scope.cancelled_caught
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(blocking.run, "write", divmod, 7, 2)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught, "it would have run beside the one that hangs"
    assert await blocking.run("read", divmod, 7, 2) == (3, 1)
    finish.set()
    assert await blocking.run("write", divmod, 7, 2) == (3, 1)


def test_work_that_outlives_its_run_disturbs_nobody() -> None:
    finish, ended = threading.Event(), threading.Event()

    def hang() -> None:
        finish.wait(30)
        ended.set()

    async def main() -> None:
        with trio.move_on_after(0.01):
            await SystemBlocking(give_up_s=0.01).run("write", hang)

    trio.run(main)
    finish.set()
    assert ended.wait(30)


def test_a_draw_is_at_least_0_and_below_1() -> None:
    assert uniform(bytes) == 0.0
    assert uniform(lambda count: b"\xff" * count) == 1 - 2**-53
    assert uniform(lambda count: (1 << 63).to_bytes(count, "little")) == 0.5
    draws = [uniform(system_entropy) for _ in range(1000)]
    assert all(0 <= draw < 1 for draw in draws)
    assert 0.4 < sum(draws) / 1000 < 0.6


def test_an_interrupt_waits_for_work_that_has_begun_and_frees_its_lane_once(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[str] = []
    start = trio.lowlevel.start_thread_soon
    may_end = threading.Event()

    def start_and_interrupt(*args: object) -> None:
        start(*args)  # type: ignore[arg-type]  # as they came
        signal.raise_signal(signal.SIGINT)

    def work() -> None:
        may_end.wait(10)
        did.append("worked")

    async def end_it_later() -> None:
        await wait_all_tasks_blocked()
        may_end.set()

    async def main() -> None:
        blocking = SystemBlocking()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_it_later)
            monkeypatch.setattr(trio.lowlevel, "start_thread_soon", start_and_interrupt)
            with pytest.raises(KeyboardInterrupt):
                await blocking.run("write", work)
            monkeypatch.undo()
            did.append("went on")
            await blocking.run("write", did.append, "worked again")

    trio.run(main)
    assert did == ["worked", "went on", "worked again"]
