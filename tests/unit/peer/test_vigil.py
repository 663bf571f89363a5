"""Whether a circuit still carries anything: times and counts alone."""

from __future__ import annotations

import pytest

from p2p.limits import Limits
from p2p.peer.vigil import Vigil

LIMITS = Limits()
ASK, ANSWER = LIMITS.relay_ask_after_s, LIMITS.relay_answer_s_max
NEVER = float("inf")
OUT = 100


def test_nothing_is_due_while_nothing_is_awaited() -> None:
    vigil = Vigil(LIMITS)
    assert vigil.next_deadline(0.0) == NEVER
    assert vigil.sent(1.0)
    vigil.asked(2.0, 100, 100)
    vigil.answered(2.0, 2.1, OUT)
    assert vigil.next_deadline(2.1) == NEVER


def test_what_is_sent_and_not_heard_of_is_asked_for_and_then_given_up() -> None:
    vigil = Vigil(LIMITS)
    assert vigil.sent(1.0)
    assert not vigil.sent(1.5)
    assert not vigil.must_ask(1.0 + ASK - 0.01, 0.0)
    assert vigil.must_ask(1.0 + ASK, 0.0)
    vigil.asked(2.0, 0, 0)
    assert not vigil.must_ask(100.0, 0.0)
    assert not vigil.is_dead(2.0 + ANSWER - 0.01, 0.0)
    assert vigil.is_dead(2.0 + ANSWER, 0.0)
    assert not vigil.is_doubtful(2.0 + ANSWER / 3 - 0.01, 0.0)
    assert vigil.is_doubtful(2.0 + ANSWER / 3 + 0.01, 0.0)
    vigil.factor = 4
    assert not vigil.is_dead(2.0 + 4 * ANSWER - 0.01, 0.0)
    vigil.factor = 1
    # Whatever is heard is life, and so is what could be heard only when the link was read again.
    assert not vigil.is_dead(2.0 + ANSWER, 3.0)
    vigil.resumed(4.0)
    assert vigil.next_deadline(3.0) == 4.0 + ANSWER
    assert not vigil.is_doubtful(4.0 + ANSWER / 3 - 0.01, 3.0)
    assert vigil.is_doubtful(4.0 + ANSWER / 3 + 0.01, 3.0)


def test_what_is_sent_after_the_ping_is_awaited_when_the_ping_is_answered() -> None:
    vigil = Vigil(LIMITS)
    vigil.sent(1.0)
    vigil.asked(2.0, 0, 0)
    vigil.sent(2.5)
    # A Ping of before, of a keepalive, answers nothing.
    vigil.answered(1.5, 2.6, OUT)
    assert vigil.next_deadline(0.0) == 2.0 + ANSWER
    vigil.answered(2.0, 3.0, OUT)
    assert vigil.next_deadline(3.0) == 3.0 + ASK


def test_an_answer_to_a_ping_that_went_out_with_what_is_awaited_ends_the_wait() -> None:
    vigil = Vigil(LIMITS)
    vigil.sent(1.0)
    vigil.answered(0.5, 1.1, OUT)
    assert vigil.next_deadline(1.1) == 1.1 + ASK
    vigil.answered(1.0, 1.2, OUT)
    assert vigil.next_deadline(1.2) == NEVER
    # All that went out by then is there, and is not reckoned with at the next Ping.
    vigil.sent(2.0)
    vigil.asked(3.0, OUT, OUT)
    assert vigil.patience_s == ANSWER
    vigil.answered(3.0, 3.1, OUT)
    vigil.sent(4.0)
    vigil.sent(4.5)
    vigil.answered(4.0, 5.0, OUT)
    assert vigil.next_deadline(0.0) == 5.0 + ASK


def test_what_was_written_before_the_ping_is_given_time_until_credit_has_to_come() -> None:
    vigil = Vigil(LIMITS)
    behind = 100 * 1024
    vigil.sent(0.0)
    vigil.asked(1.0, behind, behind)
    assert vigil.patience_s == ANSWER + behind / LIMITS.relay_pace_bytes_per_s
    vigil.answered(1.0, 1.5, behind)
    vigil.sent(2.0)
    vigil.asked(3.0, 3 * behind, 3 * behind)
    assert vigil.patience_s == ANSWER + 2 * behind / LIMITS.relay_pace_bytes_per_s
    vigil.answered(3.0, 3.5, 3 * behind)
    vigil.sent(4.0)
    vigil.asked(5.0, 100 * LIMITS.relay_window_bytes, 100 * LIMITS.relay_window_bytes)
    assert vigil.patience_s == ANSWER + LIMITS.relay_slice_bytes_max / LIMITS.relay_pace_bytes_per_s


def test_what_comes_before_the_answer_is_given_as_much_time_as_the_last_slice_may_take() -> None:
    vigil = Vigil(LIMITS)
    vigil.came(0.0, LIMITS.relay_slice_bytes_max)
    vigil.sent(0.0)
    vigil.asked(1.0, 0, 0)
    slow_s = ANSWER + LIMITS.relay_slice_bytes_max / LIMITS.relay_pace_bytes_per_s
    assert not vigil.is_dead(1.0 + slow_s - 0.1, 0.0)
    assert vigil.is_dead(1.0 + slow_s, 0.0)
    vigil.came(0.0, 10)
    assert vigil.is_dead(1.0 + ANSWER + 0.1, 0.0)


def test_what_may_come_from_behind_it_gives_a_relay_no_time_that_is_silent_itself() -> None:
    vigil, behind = Vigil(LIMITS), LIMITS.relay_slice_bytes_max // 4
    vigil.factor = 4
    vigil.came(0.0, LIMITS.relay_slice_bytes_max)
    vigil.sent(0.0)
    assert vigil.next_deadline(0.0, 0.0) == ASK, "nothing is asked of it yet"
    vigil.asked(1.0, behind, behind)
    # What was written may still be on its way to it, slowly.
    silent_s = ANSWER + 4 * behind / LIMITS.relay_pace_bytes_per_s
    assert vigil.next_deadline(0.0, 0.9) == 1.0 + silent_s
    assert vigil.next_deadline(0.0, 1.0) == 1.0 + vigil.patience_s > 1.0 + silent_s
    assert not vigil.is_dead(1.0 + silent_s - 0.1, 0.0, 0.9)
    assert vigil.is_dead(1.0 + silent_s, 0.0, 0.9)
    assert not vigil.is_dead(1.0 + silent_s, 0.0)
    assert vigil.is_doubtful(1.1 + silent_s / 3, 0.0, 0.9)
    assert not vigil.is_doubtful(1.1 + silent_s / 3, 0.0)


def test_who_may_be_there_and_not_be_heard_yet_is_spared_once() -> None:
    vigil = Vigil(LIMITS)
    vigil.sent(1.0)
    vigil.asked(2.0, 0, 0)
    assert vigil.spare(2.0 + ANSWER, 0.0)
    assert not vigil.is_dead(2.0 + ANSWER, 0.0)
    assert vigil.is_dead(2.0 + 2 * ANSWER, 0.0)
    assert not vigil.spare(2.0 + 2 * ANSWER, 0.0)
    # Whoever was heard since may be spared again.
    assert vigil.spare(20.0, 19.0)


def test_a_way_is_quick_once_half_a_window_was_read_within_the_time_of_an_answer() -> None:
    vigil, window_bytes = Vigil(LIMITS), LIMITS.relay_window_bytes
    for number in range(10):
        # As much as can be, joined where it waited, after a time that may have been long.
        vigil.made_room(number * (ANSWER + 0.1), window_bytes)
    assert not vigil.is_quick
    vigil.made_room(100.0, window_bytes)
    vigil.made_room(101.0, window_bytes // 2 - 1)
    vigil.made_room(100.0 + ANSWER, window_bytes)
    assert not vigil.is_quick
    vigil.made_room(100.0 + ANSWER + 0.1, window_bytes // 4)
    vigil.made_room(100.0 + ANSWER + 0.2, window_bytes // 4)
    assert vigil.is_quick


@pytest.mark.parametrize("direction", ["out", "in"])
def test_a_way_that_was_quick_until_it_fell_silent_is_given_as_much_less_time(direction: str) -> None:
    slice_bytes, half_bytes = LIMITS.relay_slice_bytes_max, LIMITS.relay_window_bytes // 2
    for quiet_s in 0.0, ANSWER + 0.1:
        vigil = Vigil(LIMITS)
        for now in 9.0, 9.5, 10.0:
            if direction == "out":
                vigil.made_room(now, half_bytes)
            else:
                vigil.came(now, slice_bytes)
        # A word that comes later may have been on its way for as long.
        heard_at = 10.0 + quiet_s
        vigil.sent(heard_at)
        behind = slice_bytes if direction == "out" else 0
        vigil.asked(heard_at + 1, behind, behind, heard_at)
        pace = LIMITS.relay_pace_bytes_per_s if quiet_s else half_bytes / ANSWER
        assert vigil.patience_s == ANSWER + slice_bytes / pace
        assert vigil.relay_patience_s == ANSWER + behind / pace
        assert vigil.is_quick is (direction == "out")


def test_what_was_read_by_then_as_credit_shows_is_given_no_time() -> None:
    vigil, unread = Vigil(LIMITS), LIMITS.relay_window_bytes // 16
    vigil.sent(0.0)
    # Both sides spoke all the time, so that nobody had to ask, and no Pong tells what was read.
    vigil.asked(1000.0, 100 * LIMITS.relay_window_bytes, unread)
    assert vigil.patience_s == ANSWER + unread / LIMITS.relay_pace_bytes_per_s
