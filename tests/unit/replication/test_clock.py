"""The hybrid logical clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2p.replication.clock import HLC_MAX, HybridClock

NOW = 1_700_000_000_000
TEN_YEARS_MS = 10 * 365 * 86_400_000
walls = st.integers(-(2**70), 2**70)


def test_it_follows_the_wall_clock() -> None:
    clock = HybridClock()
    assert clock.tick(NOW) == NOW << 16
    assert clock.tick(NOW + 5) == (NOW + 5) << 16


def test_a_clock_that_nothing_came_before_begins_with_the_first_tick_there_is() -> None:
    assert HybridClock().last == 0
    assert HybridClock().tick(0) == 1


def test_ticks_of_one_moment_count_up() -> None:
    clock = HybridClock()
    first = clock.tick(NOW, 1024)
    assert clock.tick(NOW) == first + 1024


@given(st.lists(st.tuples(walls, st.integers(1, 1024)), max_size=30))
def test_t64_it_never_goes_back_whatever_the_wall_clock_does(moments: list[tuple[int, int]]) -> None:
    clock = HybridClock()
    last = 0
    for wall_ms, count in moments:
        first = clock.tick(wall_ms, count)
        assert last < first <= HLC_MAX - count
        last = first + count - 1
        assert clock.last == last


def test_t64_no_wall_clock_is_believed_beyond_half_of_all_ticks() -> None:
    latest = 2**63 - 2**16
    assert HybridClock().tick(2**47 - 1) == HybridClock().tick(2**47) == HybridClock().tick(2**70) == latest
    assert HybridClock().tick(2**47 - 2) == latest - 2**16


def test_t64_ten_years_back_and_forth() -> None:
    clock = HybridClock()
    ahead = clock.tick(NOW + TEN_YEARS_MS)
    assert clock.tick(NOW) == ahead + 1
    assert clock.tick(NOW - TEN_YEARS_MS) == ahead + 2
    assert clock.tick(NOW + TEN_YEARS_MS + 1) == (NOW + TEN_YEARS_MS + 1) << 16


def test_what_others_said_is_exceeded() -> None:
    clock = HybridClock()
    clock.observe((NOW + 59_000) << 16, NOW)
    assert clock.tick(NOW) == ((NOW + 59_000) << 16) + 1


def test_t64_a_time_beyond_60_s_is_not_adopted() -> None:
    clock = HybridClock()
    clock.observe((NOW + 60_000) << 16, NOW)
    clock.observe(HLC_MAX, NOW)
    assert clock.tick(NOW) == NOW << 16


def test_the_own_log_is_exceeded_however_far_ahead_it_is() -> None:
    last = (NOW + TEN_YEARS_MS) << 16
    assert HybridClock(last).tick(NOW) == last + 1
