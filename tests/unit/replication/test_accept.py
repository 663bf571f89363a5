"""The acceptance table, row by row, in its order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.ids import PeerId
from p2p.replication.accept import Held, Judgement, Verdict, ack_value, judge
from p2p.replication.batch import Batch
from p2p.replication.heads import EMPTY_LOG, LogHead
from tests.logs import Log


class View:
    """What is held, in the simplest form there is."""

    def __init__(self, held: Sequence[Batch] = (), *, frozen_from: int | None = None, room: int = 2**40) -> None:
        self.held = list(held)
        self.frozen = frozen_from
        self.room = room
        self.damaged: set[int] = set()

    def head(self, origin: PeerId) -> LogHead:
        own = [batch for batch in self.held if batch.origin == origin]
        return LogHead(own[-1].seq_end, own[-1].hash) if own else EMPTY_LOG

    def frozen_from(self, origin: PeerId) -> int | None:
        return self.frozen

    def held_within(self, origin: PeerId, seq_begin: int, seq_end: int) -> Held | None:
        for batch in self.held:
            if batch.origin == origin and batch.seq_end >= seq_begin and batch.seq_begin <= seq_end:
                return Held(batch.seq_begin, batch.seq_end, batch.hash)
        return None

    def held_batch(self, origin: PeerId, held: Held) -> Batch | None:
        if held.seq_begin in self.damaged:
            return None
        return next(batch for batch in self.held if batch.hash == held.hash)

    def has_room(self, origin: PeerId, size: int) -> bool:
        return size <= self.room


def verdict_of(view: View, batch: Batch, *, admitted: bool = True, wal_bytes: bytes | None = None) -> Judgement:
    data = batch.wal_bytes if wal_bytes is None else wal_bytes
    return judge(view, batch.seq_begin, batch.seq_end, data, admitted=admitted)


def bad_signature(batch: Batch) -> bytes:
    return batch.wal_bytes[:-64] + bytes(64)


@pytest.fixture
def log() -> Log:
    log = Log()
    for number in range(4):
        log.add(b"%d" % number, b"x")
    return log


def test_the_next_batch_is_applied(log: Log) -> None:
    assert verdict_of(View(), log.batches[0]).verdict is Verdict.APPLIED
    assert verdict_of(View(log.batches[:2]), log.batches[2]).verdict is Verdict.APPLIED


def test_t35_what_is_held_is_a_duplicate_at_any_place(log: Log) -> None:
    view = View(log.batches)
    for batch in log.batches:
        assert verdict_of(view, batch).verdict is Verdict.DUPLICATE
        # The same hash is the same batch, whatever signature somebody put below it.
        assert verdict_of(view, batch, wal_bytes=bad_signature(batch)).verdict is Verdict.DUPLICATE


def test_t34_a_gap_is_not_stored(log: Log) -> None:
    assert verdict_of(View(), log.batches[1]).verdict is Verdict.GAP
    assert verdict_of(View(log.batches[:1]), log.batches[3]).verdict is Verdict.GAP


def test_t36_another_batch_at_a_held_place_is_a_fork(log: Log) -> None:
    for held in range(1, 5):
        for at in range(held):
            other = log.branch(at)
            contradicting = other.add(b"another")
            judgement = verdict_of(View(log.batches[:held]), contradicting)
            assert judgement.verdict is Verdict.FORK
            assert judgement.proof is not None
            assert judgement.proof.lower_seq == contradicting.seq_begin
            assert log.batches[at].hash in (judgement.proof.first.hash, judgement.proof.second.hash)


def test_t36_the_next_batch_of_another_history_is_a_fork(log: Log) -> None:
    other = log.branch(1)
    other.add(b"another", b"history")
    follows = other.add(b"goes on")
    judgement = verdict_of(View(log.batches[:2]), follows)
    assert judgement.verdict is Verdict.FORK
    assert judgement.proof is not None
    assert judgement.proof.lower_seq == log.batches[1].seq_begin


def test_t37_a_bad_signature_never_applies_and_never_proves(log: Log) -> None:
    assert verdict_of(View(), log.batches[0], wal_bytes=bad_signature(log.batches[0])).verdict is Verdict.MALFORMED
    contradicting = log.branch(1).add(b"another")
    forged = verdict_of(View(log.batches), contradicting, wal_bytes=bad_signature(contradicting))
    assert (forged.verdict, forged.proof) == (Verdict.MALFORMED, None)


def test_t37_what_we_do_not_admit_is_nobodys_fault(log: Log) -> None:
    assert verdict_of(View(), log.batches[0], admitted=False).verdict is Verdict.LEFT_ALONE
    # Nor do we look closer at it.
    forged = bad_signature(log.batches[0])
    assert verdict_of(View(), log.batches[0], admitted=False, wal_bytes=forged).verdict is Verdict.LEFT_ALONE


def test_the_range_must_be_the_batchs(log: Log) -> None:
    batch = log.batches[0]
    for begin, end in ((1, 1), (2, 2), (1, 3), (0, 2)):
        for admitted in (True, False):
            judgement = judge(View(), begin, end, batch.wal_bytes, admitted=admitted)
            assert judgement.verdict is Verdict.MALFORMED


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_malformed_and_nothing_worse(data: bytes) -> None:
    verdict = judge(View(), 1, 1, data, admitted=True).verdict
    assert verdict is (Verdict.LEFT_ALONE if len(data) >= 146 and data[0] > 1 else Verdict.MALFORMED)


def test_a_newer_version_is_left_alone(log: Log) -> None:
    judgement = verdict_of(View(), log.batches[0], wal_bytes=b"\x02" + log.batches[0].wal_bytes[1:])
    assert (judgement.verdict, judgement.origin) == (Verdict.LEFT_ALONE, log.origin)


def test_t36_frozen_accepts_only_what_ends_below_the_proof(log: Log) -> None:
    assert log.batches[2].seq_begin == 5
    for frozen_from, verdict in ((5, Verdict.LEFT_ALONE), (6, Verdict.LEFT_ALONE), (7, Verdict.APPLIED)):
        assert verdict_of(View(log.batches[:2], frozen_from=frozen_from), log.batches[2]).verdict is verdict


def test_t41_over_quota_is_left_alone_after_everything_else_was_good(log: Log) -> None:
    size = len(log.batches[0].wal_bytes)
    assert verdict_of(View(room=size), log.batches[0]).verdict is Verdict.APPLIED
    judgement = verdict_of(View(room=size - 1), log.batches[0])
    assert (judgement.verdict, judgement.over_quota) == (Verdict.LEFT_ALONE, True)
    forged = verdict_of(View(room=size - 1), log.batches[0], wal_bytes=bad_signature(log.batches[0]))
    assert forged.verdict is Verdict.MALFORMED


def test_t62_a_fork_that_the_damaged_half_would_prove_waits(log: Log) -> None:
    view = View(log.batches[:2])
    view.damaged = {log.batches[1].seq_begin}
    assert verdict_of(view, log.branch(1).add(b"another")).verdict is Verdict.NOT_STORED


def test_t62_a_batch_that_is_held_beyond_a_head_that_damage_lowered_is_stored_again(log: Log) -> None:
    class Lowered(View):
        def head(self, origin: PeerId) -> LogHead:
            return LogHead(log.batches[0].seq_end, log.batches[0].hash)

    view = Lowered(log.batches[:2])
    assert verdict_of(view, log.batches[0]).verdict is Verdict.DUPLICATE
    assert verdict_of(view, log.batches[1]).verdict is Verdict.APPLIED


@pytest.mark.parametrize("verdict", list(Verdict))
@given(head=st.integers(0, 100), begin=st.integers(1, 100), count=st.integers(1, 9))
def test_every_push_has_one_right_ack(verdict: Verdict, head: int, begin: int, count: int) -> None:
    ack = ack_value(verdict, head, begin, begin + count - 1)
    if verdict in (Verdict.APPLIED, Verdict.DUPLICATE):
        assert ack == begin + count - 1
    else:
        assert ack == min(head, begin - 1)


def test_an_ack_of_a_push_that_claims_seq_0_is_no_negative_number() -> None:
    assert ack_value(Verdict.MALFORMED, 7, 0, 0) == 0


def test_a_duplicate_and_an_applied_batch_bring_the_batch_along(log: Log) -> None:
    for view, verdict in ((View(log.batches), Verdict.DUPLICATE), (View(), Verdict.APPLIED)):
        judgement = verdict_of(view, log.batches[0])
        assert (judgement.verdict, judgement.batch, judgement.over_quota) == (verdict, log.batches[0], False)


def test_t34_a_batch_that_leaves_one_record_out_is_a_gap() -> None:
    log = Log()
    for number in range(3):
        log.add(b"%d" % number)
    assert verdict_of(View(), log.batches[1]).verdict is Verdict.GAP
    assert verdict_of(View(log.batches[:1]), log.batches[2]).verdict is Verdict.GAP
    assert verdict_of(View(log.batches[:1]), log.batches[1]).verdict is Verdict.APPLIED
