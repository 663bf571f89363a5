"""How many of a source may be wrong while an application's rule thinks about others of it: threat T53."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from http_control import HttpLimits
from http_control.pace import Pace
from http_control.problem import Problem


async def is_let_in(pace: Pace, source: str, rule_s: float, *, says: bool, asked: list[float] | None = None) -> bool:
    """Ask a rule of so many seconds; whether it was asked and said yes."""
    try:
        async with pace.guess(source) as guess:
            if asked is not None:
                asked.append(trio.current_time())
            await trio.sleep(rule_s)
            guess.is_right = says
    except Problem as problem:
        assert problem.status == 429
        return False
    return says


@pytest.mark.parametrize("rule_s", [0.0, 0.05, 0.9, 1.1, 3.0])
async def test_t53_guesses_are_no_more_than_five_a_second_however_long_the_rule_takes(
    rule_s: float, autojump_clock: MockClock
) -> None:
    pace = Pace(HttpLimits())
    asked: list[float] = []

    async def guesser() -> None:
        while trio.current_time() < began + 6:
            await is_let_in(pace, "192.0.2.1", rule_s, says=False, asked=asked)
            await trio.sleep(0.05)

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(guesser)
    # What is found out is found out at its end.
    assert max(Counter(int(at + rule_s) for at in asked).values()) <= 5
    assert len(asked) > 6 / max(1.0, rule_s)
    assert len(pace) == 1


async def test_who_waits_is_told_as_soon_as_those_before_were_too_many(autojump_clock: MockClock) -> None:
    pace = Pace(HttpLimits())
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(lambda: is_let_in(pace, "a", 3.5, says=False))
        await wait_all_tasks_blocked()
        assert not await is_let_in(pace, "a", 0, says=True)
        assert trio.current_time() - began < 4
        assert await is_let_in(pace, "b", 0, says=True)


async def test_who_waits_is_asked_about_in_the_next_second_while_one_before_takes_longer(
    autojump_clock: MockClock,
) -> None:
    pace = Pace(HttpLimits())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: is_let_in(pace, "a", 9, says=True))
        await wait_all_tasks_blocked()
        began = trio.current_time()
        for _ in range(4):
            await is_let_in(pace, "a", 0, says=False)
        assert await is_let_in(pace, "a", 0, says=True)
        assert trio.current_time() - began <= 1


async def test_who_waits_for_a_rule_that_hangs_does_so_for_a_bounded_time(autojump_clock: MockClock) -> None:
    pace = Pace(HttpLimits(hook_s_max=10))
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(lambda: is_let_in(pace, "a", 1000, says=True))
        await wait_all_tasks_blocked()
        with trio.fail_after(11):
            assert not await is_let_in(pace, "a", 0, says=True)
        nursery.cancel_scope.cancel()
    # Whoever asked and did not stay for the answer has guessed all the same.
    assert not await is_let_in(pace, "a", 0, says=True)
    await trio.sleep(1)
    assert await is_let_in(pace, "a", 0, says=True)
    assert len(pace) == 1
