"""The connection guard: what is held back, for how long, and how much is remembered."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import Reason
from p2p.ids import PeerEndpoint
from p2p.limits import Limits
from p2p.policy.guard import ConnectionGuard, Verdict

THERE = PeerEndpoint("192.0.2.1", 9001)


def test_t33_a_second_automatic_dial_within_the_same_second_is_the_same_dial() -> None:
    guard = ConnectionGuard(Limits())
    assert guard.ask(THERE, 5.0) is Verdict.GO
    guard.began(THERE, 5.0)
    assert guard.ask(replace(THERE, expect="somebody"), 5.89) is Verdict.DEDUPED
    assert guard.ask(PeerEndpoint("192.0.2.1", 9002), 5.1) is Verdict.GO
    assert guard.ask(THERE, 5.9) is Verdict.GO


def test_t33_what_failed_is_held_back_and_a_manual_failure_for_longer() -> None:
    guard = ConnectionGuard(Limits())
    assert guard.failed(THERE, 10.0, 0.0, Reason.REFUSED, automatic=True) == 12.0
    assert (guard.ask(THERE, 11.9), guard.ask(THERE, 12.0)) == (Verdict.BACKOFF, Verdict.GO)
    assert guard.failed(THERE, 12.0, 0.0, Reason.REFUSED, automatic=False) == 17.0
    assert len(guard) == 1


def test_t33_a_link_that_breaks_off_at_once_counts_as_a_failure_and_a_replaced_one_does_not() -> None:
    guard, now, dials = ConnectionGuard(Limits()), 0.0, []
    for _ in range(8):
        dials.append(now)
        guard.began(THERE, now)
        guard.ended(THERE, 1.0, now + 1.0, 0.0, Reason.ABNORMAL, replaced=False)
        now = guard.due(THERE, now + 1.0)
    assert [later - before for before, later in pairwise(dials)] == [3, 5, 9, 16, 31, 61, 121]
    guard.ended(THERE, 1.0, now, 0.0, Reason.ABNORMAL, replaced=True)
    assert guard.due(THERE, now) == now and len(guard) == 0
    guard.failed(THERE, now, 0.0, Reason.REFUSED, automatic=True)
    guard.ended(THERE, 5.0, now, 0.0, Reason.ABNORMAL, replaced=False)
    assert guard.ask(THERE, now) is Verdict.GO


def test_t33_attempts_at_ever_new_places_fill_no_table() -> None:
    guard = ConnectionGuard(replace(Limits(), backoff_table_max=8))
    for port in range(1, 101):
        guard.began(PeerEndpoint("192.0.2.1", port), 5.0)
    assert len(guard._begun) == 8


@given(st.lists(st.tuples(st.integers(1, 60), st.floats(0, 2), st.booleans()), max_size=120))
def test_t33_the_tables_are_bounded_and_nothing_is_held_back_that_was_forgotten(
    attempts: list[tuple[int, float, bool]],
) -> None:
    limits = replace(Limits(), backoff_table_max=8)
    guard, now = ConnectionGuard(limits), 0.0
    for port, pause, fails in attempts:
        now += pause
        there = PeerEndpoint("192.0.2.1", port)
        if guard.ask(there, now) is not Verdict.GO:
            continue
        guard.began(there, now)
        assert guard.ask(there, now) is Verdict.DEDUPED
        if fails:
            assert now < guard.failed(there, now, 0.5, Reason.REFUSED, automatic=True) <= now + limits.backoff_s_max
        assert len(guard) <= 8 and len(guard._begun) <= 8


def test_t33_the_guard_says_when_a_place_may_be_dialled_again() -> None:
    guard = ConnectionGuard(Limits())
    assert guard.due(THERE, 7.0) == 7.0
    until = guard.failed(THERE, 10.0, 0.0, Reason.REFUSED, automatic=True)
    assert guard.due(THERE, 10.0) == until > 10.0


def test_t33_how_a_place_failed_is_known() -> None:
    guard = ConnectionGuard(Limits())
    assert guard.failures(THERE) is None
    guard.failed(THERE, 10.0, 0.0, Reason.REFUSED, automatic=True)
    assert guard.failures(THERE) is not None
