"""What is remembered of where batches end, and what is read from a batch without parsing it."""

from __future__ import annotations

import pytest

from p2p.replication.batch import NewRecord
from p2p.replication.boundaries import BATCH_BYTES_MIN, Boundaries, hash_of, prev_hash_of, seq_begin_of
from tests.logs import Log, app, identity

ONE, OTHER = identity(1).peer_id, identity(2).peer_id


def test_the_last_few_ends_of_each_log_are_remembered() -> None:
    boundaries = Boundaries(3)
    for seq in range(1, 6):
        boundaries.add(ONE, seq, b"%d" % seq)
    boundaries.add(OTHER, 1, b"other")
    assert [boundaries.at(ONE, seq) for seq in range(7)] == [None, None, None, b"3", b"4", b"5", None]
    assert boundaries.at(OTHER, 1) == b"other"
    boundaries.forget(ONE)
    boundaries.forget(ONE)
    assert boundaries.at(ONE, 5) is None
    assert boundaries.at(OTHER, 1) == b"other"


def test_an_empty_log_ends_nowhere() -> None:
    boundaries = Boundaries(3)
    boundaries.add(ONE, 0, bytes(32))
    assert boundaries.at(ONE, 0) is None


@pytest.mark.parametrize("records", [1, 127, 128, 1024])
def test_the_fields_of_a_batch_are_read_where_they_stand(records: int) -> None:
    log = Log()
    first = log.seal(app(*[b""] * records))
    second = log.add(*[b"x"] * records)
    assert [seq_begin_of(batch.wal_bytes) for batch in (first, second)] == [1, records + 1]
    assert prev_hash_of(first.wal_bytes) == bytes(32)
    assert prev_hash_of(second.wal_bytes) == first.hash
    assert hash_of(second.wal_bytes) == second.hash


def test_no_batch_is_shorter_than_one_of_an_empty_record() -> None:
    assert len(Log().seal([NewRecord("", None, b"")]).wal_bytes) == BATCH_BYTES_MIN
