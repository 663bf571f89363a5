"""The arithmetic behind the benchmarks' answers."""

from __future__ import annotations

import gc
import math
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness import Ratio, in_turn, quiet_collector, ratio, reached, row, seconds_of, spread


def side(*figures: float, note: Callable[[], object] = lambda: None) -> Callable[[], Awaitable[float]]:
    """A side that gives these figures, one a round."""
    left = iter(figures)

    async def figure() -> float:
        note()
        return next(left)

    return figure


async def test_the_ratio_is_taken_within_each_round() -> None:
    # The machine gets ten times slower half-way: medians of all figures would say nothing, ratios per round do.
    measured = await in_turn(4, side(2.0, 2.0, 20.0, 20.0), side(1.0, 1.0, 10.0, 10.0), warm_up=0)
    assert ratio(*zip(*measured, strict=True)) == Ratio(2.0, 2.0, 2.0, 4)


async def test_warm_up_is_run_and_not_counted() -> None:
    assert await in_turn(1, side(1000.0, 3.0), side(1.0, 1.0), warm_up=1) == [(3.0, 1.0)]


async def test_every_other_round_turns_the_order_and_not_the_answers() -> None:
    order: list[str] = []
    sides = [side(n, n, n, note=lambda name=name: order.append(name)) for n, name in enumerate("abc")]  # type: ignore[misc]  # a default binds the name
    assert await in_turn(2, *sides, warm_up=0) == [(0, 1, 2), (0, 1, 2)]
    assert order == ["a", "b", "c", "c", "b", "a"]


async def test_no_side_pays_for_the_garbage_of_another() -> None:
    seen = []

    async def leave_garbage() -> int:
        circle: list[object] = []
        circle.append(circle)
        seen.append(gc.get_count()[2])
        assert gc.isenabled()
        return 0

    await in_turn(3, leave_garbage, leave_garbage, warm_up=0)
    assert seen == [0] * 6


def test_the_collector_rests_in_what_is_short_and_is_back_afterwards() -> None:
    seen = []
    with quiet_collector():
        seen.append(gc.isenabled())
    assert seconds_of(lambda: seen.append(gc.isenabled()), 3) >= 0
    assert seen == [False] * 4
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("values", "answer"),
    [
        ([1.0], Ratio(1.0, 1.0, 1.0, 1)),
        ([3.0, 1.0, 2.0], Ratio(2.0, 1.5, 2.5, 3)),
        ([0.0, 0.0], Ratio(0.0, 0.0, 0.0, 2)),
        # One round beside other work moves neither end.
        ([1.0, 1.0, 1.0, 1.0, 50.0], Ratio(1.0, 1.0, 1.0, 5)),
    ],
)
def test_the_spread_is_where_half_of_the_rounds_lie(values: list[float], answer: Ratio) -> None:
    assert spread(values) == answer


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=9), st.integers(1, 9))
def test_a_median_lies_within_its_spread_to_the_last_digit(values: list[float], times: int) -> None:
    for each in (spread(values), spread(values[:1] * times)):
        assert row("q", each, value=1.0, unit="s", baseline="b").ratio == each.middle


def test_a_spread_beside_a_bound() -> None:
    assert spread([1.0, 2.0, 3.0]) / 2 == Ratio(1.0, 0.75, 1.25, 3)


def test_a_goal_is_reached_from_either_side() -> None:
    assert reached(0.6, ">= 0.3") == pytest.approx(2)
    assert reached(10, "<= 5") == pytest.approx(0.5)
    assert reached(0, "<= 0") == math.inf
    assert reached(1, "<= 0") == 0


@pytest.mark.parametrize(
    ("goal", "met"), [(">= 2", True), (">= 2.1", False), ("<= 2", True), ("<= 1.9", False), ("", None)]
)
def test_a_row_says_whether_its_goal_is_met(goal: str, met: bool | None) -> None:
    found = row("q", Ratio(2.0, 1.0, 3.0, 5), goal, value=1.0, unit="s", baseline="b")
    assert found.met is met
    assert (found.ratio, found.low, found.high, found.rounds) == (2.0, 1.0, 3.0, 5)


@pytest.mark.parametrize("middle", [math.nan, math.inf, 4.0])
def test_an_answer_that_is_none_makes_no_row(middle: float) -> None:
    with pytest.raises(ValueError, match="not within its spread"):
        row("q", Ratio(middle, 1.0, 3.0 if middle < math.inf else math.inf, 5), value=1.0, unit="s", baseline="b")


def test_a_value_that_is_no_number_makes_no_row() -> None:
    with pytest.raises(ValueError, match="no number: inf"):
        row("q", Ratio(1.0, 1.0, 1.0, 1), value=math.inf, unit="s", baseline="b")
