"""The arithmetic behind the benchmarks' answers."""

from __future__ import annotations

import gc
import json

import pytest

from benchmarks.harness import as_json, as_table, machine, paired, spread_of


def test_the_ratio_is_taken_within_each_round() -> None:
    # The machine gets ten times slower half-way: medians of all figures would say nothing, ratios per round do.
    first = iter([2.0, 2.0, 20.0, 20.0])
    second = iter([1.0, 1.0, 10.0, 10.0])
    result = paired(lambda: next(first), lambda: next(second), 4, warm_up=0)
    assert result.ratio == 2.0
    assert result.spread == 0.0


def test_warm_up_is_run_and_not_counted() -> None:
    first = iter([1000.0, 3.0])
    second = iter([1.0, 1.0])
    assert paired(lambda: next(first), lambda: next(second), 1, warm_up=1).ratio == 3.0


def test_every_other_round_turns_the_order() -> None:
    order: list[str] = []

    def note(name: str) -> float:
        order.append(name)
        return 1.0

    paired(lambda: note("a"), lambda: note("b"), 2, warm_up=0)
    assert order == ["a", "b", "b", "a"]


def test_the_collector_rests_while_measuring_and_is_back_afterwards() -> None:
    seen = []
    paired(lambda: float(seen.append(gc.isenabled()) or 1), lambda: 1.0, 1, warm_up=0)
    assert seen == [False]
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("values", "spread"), [([1.0], 0.0), ([1.0, 1.0, 1.0], 0.0), ([1.0, 2.0, 3.0], 0.25), ([0.0, 0.0], 0.0)]
)
def test_spread(values: list[float], spread: float) -> None:
    assert spread_of(values) == spread


ROW = {"question": "ours ÷ theirs", "value": 123456.7, "unit": "1/s", "ratio": 0.12345, "goal": ">= 0.3", "met": False}


def test_the_table_is_aligned_and_shows_a_missed_goal() -> None:
    head, first, second = as_table([ROW, {**ROW, "question": "q", "met": True}]).splitlines()
    assert first.index("123,457") == second.index("123,457") == head.index("value")
    assert "NO" in first
    assert "yes" in second
    assert "0.123" in first


def test_json_keeps_every_key() -> None:
    assert json.loads(json.dumps(as_json([ROW]))) == {"machine": machine(), "rows": [ROW]}
