"""The token bucket: never negative, never above its burst, and the long-run rate holds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.policy.buckets import BucketTable, TokenBucket

moments = st.lists(st.floats(0, 1e6), max_size=60)


def test_a_burst_passes_at_once_and_then_the_rate_rules() -> None:
    bucket = TokenBucket(rate=2, burst=3)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(10.4)
    assert bucket.take(10.5)
    assert not bucket.take(10.5)


@given(moments, st.floats(0, 10), st.integers(1, 20))
def test_it_is_never_negative_and_never_above_its_burst(times: list[float], rate: float, burst: int) -> None:
    bucket = TokenBucket(rate, burst)
    for now in times:
        bucket.take(now)
        assert 0 <= bucket.available(now) <= burst
        bucket.give_back(0.5)
        assert bucket.available(now) <= burst


@given(moments, st.floats(0, 10), st.integers(1, 20))
def test_no_stretch_of_time_lets_more_through_than_burst_and_rate(times: list[float], rate: float, burst: int) -> None:
    bucket = TokenBucket(rate, burst)
    passed = [now for now in sorted(times) if bucket.take(now)]
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + (passed[last] - passed[first]) * rate + 1e-6


@given(st.floats(0.01, 100), st.integers(1, 20), st.floats(0, 1000))
def test_ready_at_is_when_take_succeeds(rate: float, burst: int, start: float) -> None:
    bucket = TokenBucket(rate, burst)
    while bucket.take(start):
        pass
    ready = bucket.ready_at(start)
    assert ready > start
    assert not bucket.take(start + (ready - start) * 0.99)
    assert bucket.take(ready + 1e-6 * max(1.0, ready))


def test_ready_at_is_never_for_what_can_never_be() -> None:
    assert TokenBucket(rate=1, burst=2).ready_at(0, count=3) == math.inf
    empty = TokenBucket(rate=0, burst=1)
    assert empty.ready_at(5.0) == 5.0
    assert empty.take(5.0)
    assert empty.ready_at(5.0) == math.inf


def test_a_clock_that_goes_back_gives_nothing_twice() -> None:
    bucket = TokenBucket(rate=1, burst=1)
    assert bucket.take(100.0)
    assert not bucket.take(50.0)
    assert not bucket.take(100.5)
    assert bucket.take(101.0)


def test_a_token_that_comes_back_can_be_taken_again() -> None:
    bucket = TokenBucket(rate=0, burst=1)
    assert bucket.take(0)
    assert not bucket.take(0)
    bucket.give_back()
    bucket.give_back()
    assert bucket.take(0)
    assert not bucket.take(0)


def test_a_bucket_without_room_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        TokenBucket(rate=1, burst=0)
    with pytest.raises(AssertionError):
        TokenBucket(rate=-1, burst=1)


@given(st.floats(0.01, 1000), st.lists(st.floats(0, 10), max_size=30), st.floats(0, 1e6))
def test_who_waits_until_it_is_ready_is_served(rate: float, pauses: list[float], start: float) -> None:
    bucket, now = TokenBucket(rate, 3), start
    for pause in pauses:
        now = bucket.ready_at(now)
        assert bucket.take(now)
        now += pause


def test_a_table_forgets_whoever_asked_longest_ago() -> None:
    table = BucketTable(rate=0, burst=1, sources_max=2)
    assert table.of("a").take(0)
    assert table.of("b").take(0)
    assert not table.of("a").take(0)
    assert table.of("c").take(0)
    assert len(table) == 2
    assert not table.of("a").take(0)
    assert table.of("b").take(0), "forgotten, and new again"
