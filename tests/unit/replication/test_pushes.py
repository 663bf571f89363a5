"""What one link is sent, where a whole exchange hardly ever comes: late loads, and logs that change meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest

from p2p.ids import PeerId
from p2p.limits import KIB, Limits
from p2p.replication.batch import Batch, NewRecord, encode_portions, seal
from p2p.replication.heads import ZERO_HASH
from p2p.replication.pushes import LOAD_BYTES, Mismatch, Pushes
from p2p.replication.suppliers import NEVER

LOG, OTHER, THIRD = (PeerId(bytes([number]) * 32) for number in (3, 4, 5))
LIMITS = Limits()


def make_log(batches: int, records: int = 2, *, origin: PeerId = LOG, size: int = 10) -> list[Batch]:
    log: list[Batch] = []
    portions = encode_portions([NewRecord("app", None, bytes(size))] * records)
    for number in range(batches):
        prev_hash = log[-1].hash if log else ZERO_HASH
        begin = 1 + number * records
        sealed = seal(
            origin=origin,
            seq_begin=begin,
            prev_hash=prev_hash,
            base_hlc=1,
            portions=portions,
            sign=lambda _: bytes(64),
        )
        log.append(sealed)
    return log


class Link:
    """The outgoing half of a link, and how far each log may be sent."""

    def __init__(self, **held: int) -> None:
        self.held = {LOG: held.get("log", 0), OTHER: held.get("other", 0), THIRD: 1}
        self.pushes = Pushes(LIMITS, lambda origin: self.held[origin])

    def sent(self, now: float = 0.0) -> list[tuple[int, int]]:
        return [(push.seq_begin, push.seq_end) for push in self.pushes.take(now)]


def test_a_load_is_half_of_what_is_loaded_ahead_and_the_last_one_what_is_left() -> None:
    link = Link(log=100, other=100)
    link.pushes.offer(LOG, 0.0)
    link.pushes.offer(OTHER, 0.0)
    assert link.pushes.has_load()
    assert link.pushes.next_load() == (LOG, 1, LOAD_BYTES)
    assert link.pushes.next_load() == (OTHER, 1, LOAD_BYTES)
    assert LIMITS.load_ahead_bytes == LOAD_BYTES * 2
    assert not link.pushes.has_load()
    assert link.pushes.next_load() is None


def test_what_is_loaded_and_not_sent_leaves_less_room_for_loads() -> None:
    log = make_log(3, 1, size=200 * KIB)
    link = Link(log=3, other=9)
    link.pushes.window = 0
    link.pushes.offer(LOG, 0.0)
    assert link.pushes.next_load() == (LOG, 1, LOAD_BYTES)
    link.pushes.loaded(LOG, 1, log, 0.0)
    link.pushes.offer(OTHER, 0.0)
    left = LIMITS.load_ahead_bytes - sum(len(batch.wal_bytes) for batch in log)
    assert link.pushes.next_load() == (OTHER, 1, left)
    link.pushes.offer(THIRD, 0.0)
    assert not link.pushes.has_load(), "what is loaded and what is being loaded are all that may be"


def test_a_log_is_loaded_once_at_a_time_and_no_further_than_it_goes() -> None:
    log = make_log(2)
    link = Link(log=2)
    link.pushes.offer(LOG, 0.0)
    assert link.pushes.next_load() == (LOG, 1, LOAD_BYTES)
    link.held[LOG] = 4
    link.pushes.offer(LOG, 0.0)
    assert not link.pushes.has_load(), "it is being loaded"
    link.pushes.loaded(LOG, 1, log, 0.0)
    assert not link.pushes.has_load(), "it is loaded to its end"
    assert link.sent() == [(1, 2), (3, 4)]
    assert not link.pushes.has_load()


def test_nothing_goes_while_the_window_is_spent_and_one_batch_may_overdraw_it() -> None:
    link = Link(log=8)
    link.pushes.window = 0
    link.pushes.offer(LOG, 0.0)
    link.pushes.next_load()
    link.pushes.loaded(LOG, 1, make_log(4), 0.0)
    assert link.sent() == []
    link.pushes.credit(2)
    assert link.sent() == [(1, 2)]
    assert link.sent() == []
    link.pushes.credit(1)
    assert link.sent() == [(3, 4)]
    assert link.pushes.window == -1


def test_nothing_goes_once_as_much_is_unacknowledged_as_may_be() -> None:
    log = make_log(3)
    link = Link(log=6)
    size = len(log[0].wal_bytes)
    link.pushes = Pushes(replace(LIMITS, unacked_bytes_max=2 * size), lambda origin: link.held[origin])
    link.pushes.offer(LOG, 0.0)
    link.pushes.next_load()
    link.pushes.loaded(LOG, 1, log, 0.0)
    assert link.sent() == [(1, 2), (3, 4)]
    assert link.pushes.unacked_bytes == 2 * size


def test_a_log_that_changed_between_two_loads_is_loaded_anew() -> None:
    log = make_log(4)
    link = Link(log=8)
    link.pushes.window = 0
    link.pushes.offer(LOG, 0.0)
    link.pushes.next_load()
    link.pushes.loaded(LOG, 1, log[:2], 0.0)
    assert link.pushes.next_load() == (LOG, 5, LOAD_BYTES)
    link.pushes.loaded(LOG, 5, make_log(2, 6)[:1], 0.0)
    assert link.pushes.next_load() == (LOG, 1, LOAD_BYTES), "what was loaded before belongs to another log"
    link.pushes.loaded(LOG, 1, log, 0.0)
    link.pushes.credit(100)
    assert link.sent() == [(1, 2), (3, 4), (5, 6), (7, 8)]


def test_a_load_that_failed_is_made_again_only_if_it_is_still_wanted() -> None:
    for wanted in (True, False):
        link = Link(log=2)
        link.pushes.aim(LOG, 0, None, 0.0, wanted=True)
        link.pushes.next_load()
        link.pushes.aim(LOG, 0, None, 0.0, wanted=wanted)
        link.pushes.load_failed(LOG, 5.0)
        assert link.pushes.next_deadline() == (5.0 + LIMITS.store_retry_s if wanted else NEVER)
        link.pushes.handle_deadline(5.0 + LIMITS.store_retry_s)
        assert (link.pushes.next_load() is not None) == wanted


def test_what_came_for_a_cursor_that_moved_is_loaded_from_where_it_is() -> None:
    log = make_log(3)
    link = Link(log=6)
    link.pushes.offer(LOG, 0.0)
    link.pushes.next_load()
    link.pushes.holds(LOG, 2)
    link.pushes.loaded(LOG, 1, log, 0.0)
    assert link.sent() == []
    assert link.pushes.next_load() == (LOG, 3, LOAD_BYTES)


def test_what_comes_for_a_log_that_rests_meanwhile_is_not_kept() -> None:
    link = Link(log=6)
    link.pushes.offer(LOG, 0.0)
    link.pushes.next_load()
    link.pushes.rest(LOG)
    link.pushes.loaded(LOG, 1, make_log(3), 0.0)
    assert link.pushes._loaded_bytes == 0
    assert link.sent() == []


def test_what_the_peer_turns_out_to_hold_is_not_sent_although_it_is_loaded() -> None:
    log = make_log(4)
    link = Link(log=8)
    link.pushes.window = 0
    link.pushes.offer(LOG, 0.0)
    link.pushes.next_load()
    link.pushes.loaded(LOG, 1, log, 0.0)
    link.pushes.holds(LOG, 4)
    link.pushes.holds(LOG, 2)
    link.pushes.credit(100)
    assert link.sent() == [(5, 6), (7, 8)]
    assert link.pushes._loaded_bytes == 0


def test_a_cursor_within_a_batch_drops_what_is_loaded_and_is_a_mismatch() -> None:
    log = make_log(4)
    link = Link(log=8)
    link.pushes.window = 0
    link.pushes.offer(LOG, 0.0)
    link.pushes.next_load()
    link.pushes.loaded(LOG, 1, log, 0.0)
    link.pushes.aim(LOG, 3, None, 0.0, wanted=True)
    link.pushes.credit(100)
    assert link.sent() == []
    assert link.pushes._loaded_bytes == 0
    assert link.pushes.next_load() == (LOG, 4, LOAD_BYTES)
    link.pushes.loaded(LOG, 4, log[1:], 0.0)
    assert link.pushes.take_mismatches() == [Mismatch(LOG, 3)]
    assert link.pushes.take_mismatches() == []
    assert link.sent() == []
    link.pushes.offer(LOG, 0.0)
    assert not link.pushes.has_load(), "it rests until it is known what the peer has"


def test_a_log_that_shrank_since_it_was_loaded_is_not_sent_beyond_its_end() -> None:
    log = make_log(4)
    link = Link(log=8)
    link.pushes.offer(LOG, 0.0)
    link.pushes.next_load()
    link.pushes.loaded(LOG, 1, log, 0.0)
    link.held[LOG] = 2
    assert link.sent() == [(1, 2)]
    assert link.pushes._loaded_bytes == 0
    link.held[LOG] = 8
    link.pushes.offer(LOG, 0.0)
    assert link.sent() == []
    assert link.pushes.next_load() == (LOG, 3, LOAD_BYTES)


@pytest.mark.parametrize("value", [0, 1])
def test_an_ack_below_the_batch_drains_all_that_is_under_way_and_then_goes_back(value: int) -> None:
    log = make_log(4)
    link = Link(log=8)
    link.pushes.offer(LOG, 0.0)
    link.pushes.next_load()
    link.pushes.loaded(LOG, 1, log[:3], 0.0)
    assert link.sent() == [(1, 2), (3, 4), (5, 6)]
    assert link.pushes.acked(2, 0.0).applied
    assert not link.pushes.acked(value, 0.0).applied
    link.pushes.next_load()
    assert link.sent() == [], "one is still unanswered"
    link.pushes.acked(value, 0.0)
    assert link.pushes.next_load() == (LOG, value + 1, LOAD_BYTES)


def refused(log: list[Batch]) -> Link:
    """A link whose peer refused all batches of a log that were under way, with as many still to be sent."""
    link = Link(log=2 * len(log))
    link.pushes.offer(LOG, 0.0)
    link.pushes.next_load()
    link.pushes.loaded(LOG, 1, log, 0.0)
    link.sent()
    for _ in log:
        link.pushes.acked(0, 0.0)
    return link


def test_a_refusal_rests_however_the_rest_of_what_was_under_way_is_answered() -> None:
    link = refused(make_log(3))
    assert link.pushes.next_load() is None, "the next one in order was not taken"
    link.pushes.aim(LOG, 0, None, 0.0, wanted=True)
    assert link.pushes.next_load() == (LOG, 1, LOAD_BYTES)


def test_a_refusal_that_is_over_makes_no_later_gap_a_refusal() -> None:
    log = make_log(3)
    link = refused(log)
    link.pushes.resume(LOG, 1.0)
    link.pushes.handle_deadline(1.0)
    assert link.pushes.next_load() == (LOG, 1, LOAD_BYTES)
    link.pushes.loaded(LOG, 1, log[:2], 1.0)
    assert link.sent(1.0) == [(1, 2), (3, 4)]
    # The first is taken, and then the peer has lost it.
    link.pushes.acked(2, 1.0)
    link.pushes.acked(0, 1.0)
    assert link.pushes.next_load() == (LOG, 1, LOAD_BYTES)


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_peer_that_lost_its_last_records_is_sent_them_again_be_it_one(lost: int) -> None:
    log = make_log(3, 1)
    link = Link(log=3)
    link.pushes.aim(LOG, 0, None, 0.0, wanted=True)
    link.pushes.next_load()
    link.pushes.loaded(LOG, 1, log, 0.0)
    for seq, _ in link.sent():
        link.pushes.acked(seq, 0.0)
    link.pushes.aim(LOG, 3, None, 1.0, wanted=True)
    assert link.pushes.next_load() is None
    link.pushes.aim(LOG, 3 - lost, None, 2.0, wanted=True)
    assert link.pushes.next_load() == (LOG, 4 - lost, LOAD_BYTES)


def test_what_is_loaded_gives_its_room_back_when_it_is_not_wanted_any_more_and_only_then() -> None:
    log = make_log(4, 1, size=200 * KIB)
    for wanted in (True, False):
        link = Link(log=4, other=9)
        link.pushes.window = 0
        link.pushes.aim(LOG, 0, None, 0.0, wanted=True)
        link.pushes.next_load()
        link.pushes.loaded(LOG, 1, log, 0.0)
        link.pushes.aim(LOG, 0, None, 0.0, wanted=wanted)
        link.pushes.offer(OTHER, 0.0)
        held = sum(len(batch.wal_bytes) for batch in log) if wanted else 0
        assert link.pushes.next_load() == (OTHER, 1, min(LOAD_BYTES, LIMITS.load_ahead_bytes - held))
        link.pushes.credit(100)
        assert len(link.sent()) == (4 if wanted else 0)


def test_what_a_peer_pushes_itself_does_not_spare_the_head_that_it_showed_from_being_compared() -> None:
    log = make_log(3)
    link = Link(log=6)
    link.pushes.aim(LOG, 2, b"x" * 32, 0.0, wanted=True)
    link.pushes.holds(LOG, 2)
    assert link.pushes.next_load() == (LOG, 3, LOAD_BYTES)
    link.pushes.loaded(LOG, 3, log[1:], 0.0)
    assert link.pushes.take_mismatches() == [Mismatch(LOG, 2)]
    assert link.sent() == []


def test_half_of_the_resends_of_a_minute_may_come_at_once() -> None:
    link = Link(log=2)
    log = make_log(1)
    resent = 0
    link.pushes.aim(LOG, 0, None, 0.0, wanted=True)
    while link.pushes.next_load() is not None:
        link.pushes.loaded(LOG, 1, log, 0.0)
        link.sent()
        link.pushes.acked(2, 0.0)
        link.pushes.aim(LOG, 0, None, 0.0, wanted=True)
        resent += 1
    assert resent == 1 + LIMITS.refetch_per_minute_max // 2
    interval_s = 120 / LIMITS.refetch_per_minute_max
    assert link.pushes.next_deadline() == pytest.approx(interval_s)
    link.pushes.handle_deadline(interval_s - 0.01)
    assert link.pushes.next_load() is None
    link.pushes.handle_deadline(link.pushes.next_deadline())
    assert link.pushes.next_load() is not None


def test_a_batch_that_proves_a_fork_waits_for_the_window_like_any_other() -> None:
    log = make_log(2)
    size = len(log[1].wal_bytes)
    for window, bytes_max, goes in ((0, size, False), (1, size, True), (1, 0, False)):
        link = Link(log=4)
        link.pushes = Pushes(replace(LIMITS, unacked_bytes_max=bytes_max), lambda _: 4)
        link.pushes.window = window
        link.pushes.aim(LOG, 4, None, 0.0, wanted=True)
        link.pushes.cover(LOG, log[1])
        assert link.sent() == ([(3, 4)] if goes else [])


def test_no_more_of_what_proves_forks_goes_than_may_be_unacknowledged() -> None:
    log = make_log(2)
    link = Link(log=4)
    link.pushes = Pushes(replace(LIMITS, unacked_bytes_max=len(log[0].wal_bytes)), lambda _: 4)
    link.pushes.aim(LOG, 4, None, 0.0, wanted=True)
    link.pushes.cover(LOG, log[0])
    link.pushes.cover(LOG, log[1])
    assert link.sent() == [(1, 2)]


def test_a_batch_that_proves_a_fork_and_is_not_taken_lets_its_log_rest_again() -> None:
    log = make_log(2)
    for ack, goes_on in ((4, True), (2, False)):
        link = Link(log=4)
        link.pushes.aim(LOG, 4, None, 0.0, wanted=True)
        link.pushes.cover(LOG, log[1])
        assert link.sent() == [(3, 4)]
        link.pushes.aim(LOG, 4, None, 0.0, wanted=True)
        answer = link.pushes.acked(ack, 0.0)
        assert (answer.seq_begin, answer.seq_end, answer.applied) == (3, 4, goes_on)
        link.held[LOG] = 6
        link.pushes.offer(LOG, 0.0)
        assert (link.pushes.next_load() is not None) == goes_on


def test_to_go_back_after_a_gap_costs_a_resend_and_to_go_on_costs_none() -> None:
    link = Link(log=4)
    log = make_log(2)
    link.pushes.offer(LOG, 0.0)
    gone_back = 0
    while (load := link.pushes.next_load()) is not None:
        link.pushes.loaded(LOG, load[1], log[load[1] // 2 :], 0.0)
        assert link.sent() == [(1, 2), (3, 4)]
        # The first is taken, and then the peer has lost it.
        link.pushes.acked(2, 0.0)
        link.pushes.acked(0, 0.0)
        gone_back += 1
    assert gone_back == 1 + LIMITS.refetch_per_minute_max // 2
    link = Link(log=2)
    link.pushes.offer(LOG, 0.0)
    for number in range(2 * LIMITS.refetch_per_minute_max):
        load = link.pushes.next_load()
        assert load == (LOG, 2 * number + 1, LOAD_BYTES)
        batch = make_log(1)[0]
        link.pushes.loaded(LOG, load[1], [Moved(2 * number + 1, 2 * number + 2, batch.wal_bytes)], 0.0)
        assert len(link.sent()) == 1
        link.held[LOG] += 2
        link.pushes.acked(2 * number + 2, 0.0)


def test_a_log_that_is_taken_at_last_is_not_sent_again_and_not_counted_as_that() -> None:
    link = Link(log=4)
    link.pushes.offer(LOG, 0.0)
    batch = make_log(1)[0]
    for number in range(2 * LIMITS.refetch_per_minute_max):
        first, last = 4 * number + 1, 4 * number + 4
        assert link.pushes.next_load() == (LOG, first, LOAD_BYTES)
        moved = [Moved(first, first + 1, batch.wal_bytes), Moved(last - 1, last, batch.wal_bytes)]
        link.pushes.loaded(LOG, first, moved, 0.0)
        assert len(link.sent()) == 2
        link.held[LOG] += 4
        # The first one came too early for the peer, and the second one when somebody else had brought what was missing.
        link.pushes.acked(first - 2 if number else 2, 0.0)
        link.pushes.acked(last, 0.0)


class Moved(NamedTuple):
    """A batch somewhere in a log."""

    seq_begin: int
    seq_end: int
    wal_bytes: bytes


def test_what_is_preferred_goes_first_among_what_is_ready_and_among_what_is_to_be_loaded() -> None:
    log, other = make_log(2), make_log(2, origin=OTHER)
    link = Link(log=4, other=4)
    link.pushes.window = 0
    for origin, batches in ((LOG, log), (OTHER, other)):
        link.pushes.offer(origin, 0.0)
        link.pushes.next_load()
        link.pushes.loaded(origin, 1, batches, 0.0)
    link.pushes.prefer([OTHER])
    link.pushes.credit(100)
    origins = [push.wal_bytes[1:33] for push in link.pushes.take(0.0)]
    assert origins == [OTHER, OTHER, LOG, LOG]
    link.held.update({LOG: 8, OTHER: 8})
    link.pushes.offer(LOG, 0.0)
    link.pushes.offer(OTHER, 0.0)
    assert link.pushes.next_load() == (OTHER, 5, LOAD_BYTES)


def test_a_load_that_brought_nothing_is_made_again_when_the_log_moves() -> None:
    link = Link(log=2)
    link.pushes.offer(LOG, 0.0)
    link.pushes.next_load()
    link.pushes.loaded(LOG, 1, [], 0.0)
    assert link.pushes.next_load() is None
    link.pushes.offer(LOG, 0.0)
    assert link.pushes.next_load() == (LOG, 1, LOAD_BYTES)


def test_t40_a_pause_that_a_longer_one_came_upon_lasts_as_long_as_that() -> None:
    link = Link(log=2)
    link.pushes.offer(LOG, 0.0)
    link.pushes.next_load()
    link.pushes.loaded(LOG, 1, make_log(1), 0.0)
    link.pushes.resume(LOG, 1.0)
    link.pushes.resume(LOG, 30.0)
    link.pushes.handle_deadline(1.0)
    assert not link.pushes.has_load()
    assert link.pushes.next_deadline() == 30.0
    link.pushes.handle_deadline(30.0)
    assert link.pushes.next_load() == (LOG, 1, LOAD_BYTES)
    link.pushes.loaded(LOG, 1, make_log(1), 30.0)
    assert link.sent(30.0) == [(1, 2)]
    assert link.pushes.next_deadline() == NEVER
