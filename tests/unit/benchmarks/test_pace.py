"""A quick run keeps to its time, and its rows say what that cost them."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import pytest
import trio

from benchmarks import pace, worker
from benchmarks.__main__ import NAMES, SHARES
from benchmarks.harness import in_turn, row, spread
from benchmarks.pace import QUICK_S_MAX, Budget, OutOfTime, Pace
from tests.unit.benchmarks.figures import row_of


async def one() -> float:
    return 1.0


async def test_rounds_are_all_run_while_there_is_time() -> None:
    measured = await Pace(quick=True).in_turn(7, one, one)
    assert measured == await in_turn(7, one, one)
    assert len(measured) == 7


async def test_a_share_that_is_used_up_leaves_three_rounds_and_the_row_says_so() -> None:
    late = Pace(quick=True, share_s=0.0)
    measured = await late.in_turn(5, one)
    assert len(measured) == 3
    cut = row("q", spread(each for (each,) in measured), value=1.0, unit="s", baseline="b", note="busy")
    assert late.told(cut).note == "busy; cut to 3 rounds of 5: its time was up"
    assert late.told(row_of(rounds=3)).note == "cut to 3 rounds of 5: its time was up"
    assert late.told(cut).rounds == 3


async def test_rows_of_all_rounds_or_of_none_in_turn_stay_as_they_are() -> None:
    late = Pace(quick=True, share_s=0.0)
    await late.in_turn(5, one)
    await late.in_turn(3, one)
    assert late.told(row_of(rounds=3)) == row_of(rounds=3)
    await late.in_turn(5, one)
    assert late.told(row_of()) == row_of()


def test_what_runs_when_the_time_is_up_ends() -> None:
    ended = []

    async def go_on() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    with pytest.raises(OutOfTime):
        Pace(quick=True, end_s=time.monotonic()).run(go_on)
    assert ended == [True]


def test_what_is_over_in_time_gives_its_result() -> None:
    async def add(first: int, second: int) -> int:
        return first + second

    assert Pace().run(add, 1, 2) == 3
    assert Pace(quick=True, end_s=time.monotonic() + 3600).run(add, 1, 2) == 3


def test_each_has_its_share_of_what_those_before_it_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    budget = Budget({"a": 1.0, "b": 3.0, "c": 1.0, "other": 100.0}, ("a", "b", "c"), quick=True)
    end_s = 1000.0 + QUICK_S_MAX
    assert budget.begin("a") == Pace(True, 1000.0 + QUICK_S_MAX / 5, end_s)
    # It took much longer than its share.
    clock.now_s += QUICK_S_MAX / 2
    assert budget.begin("b") == Pace(True, clock.now_s + QUICK_S_MAX / 2 * 3 / 4, end_s)
    clock.now_s = end_s
    with pytest.raises(OutOfTime):
        budget.begin("c")


def test_a_full_run_takes_what_it_takes() -> None:
    budget = Budget({"a": 1.0, "b": 3.0}, ("a", "b"), quick=False)
    assert budget.begin("a") == budget.begin("b") == Pace(False, math.inf, math.inf)


def test_two_minutes_hold_the_budget_and_the_end_of_what_is_under_way() -> None:
    assert QUICK_S_MAX + 2 * worker.END_S_MAX < 120
    assert set(SHARES) == set(NAMES)
    assert min(SHARES.values()) > 0
