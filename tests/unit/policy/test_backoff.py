"""The redial schedule of T33."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import Reason
from p2p.ids import PeerEndpoint
from p2p.limits import Limits
from p2p.policy.backoff import JITTER, Backoff

THERE = PeerEndpoint("192.0.2.1", 9001)
draws = st.floats(0, 1, exclude_max=True)


def waits(automatic: bool, count: int) -> list[float]:
    backoff, now, found = Backoff(Limits()), 0.0, []
    for _ in range(count):
        due = backoff.failed(THERE, now, 0.0, Reason.REFUSED, automatic=automatic)
        assert backoff.due(THERE, now) == due
        found.append(due - now)
        now = due
    return found


def test_t33_the_schedules_are_those_of_the_specification() -> None:
    assert waits(False, 10) == [2.5, 5, 10, 12, 24, 48, 96, 192, 300, 300]
    assert waits(True, 10) == [2, 4, 8, 15, 30, 60, 120, 240, 300, 300]


@given(st.booleans(), st.integers(1, 10_000))
def test_t33_a_wait_never_falls_and_never_passes_five_minutes(automatic: bool, count: int) -> None:
    backoff = Backoff(Limits())
    assert 0 < backoff.wait_s(count, automatic=automatic) <= backoff.wait_s(count + 1, automatic=automatic) <= 300


@given(st.lists(st.tuples(draws, st.booleans()), min_size=1, max_size=30))
def test_t33_chance_takes_away_a_quarter_at_most(steps: list[tuple[float, bool]]) -> None:
    backoff, now = Backoff(Limits()), 1000.0
    for number, (draw, automatic) in enumerate(steps, 1):
        wait = backoff.failed(THERE, now, draw, Reason.REFUSED, automatic=automatic) - now
        full = backoff.wait_s(number, automatic=automatic)
        assert full * (1 - JITTER) - 1e-6 <= wait <= full + 1e-6
        now += wait


def test_t65_nodes_that_lost_a_peer_together_do_not_come_back_together() -> None:
    dues = {Backoff(Limits()).failed(THERE, 0.0, number / 100, Reason.REFUSED, automatic=True) for number in range(100)}
    assert len(dues) == 100
    assert max(dues) - min(dues) > 0.24 * 2.0


def test_a_success_starts_anew() -> None:
    backoff = Backoff(Limits())
    for _ in range(5):
        backoff.failed(THERE, 0.0, 0.0, Reason.REFUSED, automatic=True)
    failures = backoff.failures(THERE)
    assert failures is not None
    assert (failures.in_a_row, failures.reason) == (5, Reason.REFUSED)
    backoff.succeeded(THERE)
    backoff.succeeded(THERE)
    assert len(backoff) == 0
    assert backoff.failures(THERE) is None
    assert backoff.due(THERE, 7.0) == 7.0
    assert backoff.failed(THERE, 7.0, 0.0, Reason.REFUSED, automatic=True) == 9.0


def test_a_manual_failure_does_not_bring_an_automatic_dial_forward() -> None:
    backoff = Backoff(Limits())
    for _ in range(4):
        due = backoff.failed(THERE, 0.0, 0.0, Reason.REFUSED, automatic=True)
    assert due == 15.0
    backoff = Backoff(replace(Limits(), backoff_manual_s=(1.0,)))
    automatic = backoff.failed(THERE, 0.0, 0.0, Reason.REFUSED, automatic=True)
    assert backoff.failed(THERE, 0.0, 0.0, Reason.REFUSED, automatic=False) >= automatic


def test_who_is_expected_makes_no_difference_and_the_port_does() -> None:
    backoff = Backoff(Limits())
    backoff.failed(replace(THERE, expect="b"), 0.0, 0.0, Reason.REFUSED, automatic=True)
    assert backoff.due(THERE, 0.0) == 2.0
    assert backoff.due(replace(THERE, port=9002), 0.0) == 0.0
    assert backoff.due(replace(THERE, scheme="ws"), 0.0) == 0.0


def test_t33_the_table_is_bounded_and_forgets_what_failed_longest_ago() -> None:
    backoff = Backoff(replace(Limits(), backoff_table_max=3))
    places = [PeerEndpoint("192.0.2.1", port) for port in range(1, 6)]
    for place in places[:3]:
        backoff.failed(place, 0.0, 0.0, Reason.REFUSED, automatic=True)
    backoff.failed(places[0], 0.0, 0.0, Reason.REFUSED, automatic=True)
    backoff.failed(places[3], 0.0, 0.0, Reason.REFUSED, automatic=True)
    assert len(backoff) == 3
    found = [backoff.failures(place) for place in places]
    assert [one.in_a_row if one is not None else 0 for one in found] == [2, 0, 1, 1, 0]


@pytest.mark.parametrize("count", [60, 1000, 10**9])
def test_a_year_of_failures_overflows_nothing(count: int) -> None:
    assert Backoff(Limits()).wait_s(count, automatic=True) == 300.0
