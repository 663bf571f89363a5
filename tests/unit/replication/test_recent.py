"""The batches of a moment ago: what is found, and how much is kept."""

from __future__ import annotations

import pytest

from p2p.replication.recent import RecentBatches
from tests.logs import Log


@pytest.fixture
def log() -> Log:
    log = Log()
    for number in range(5):
        log.add(b"%d" % number, b"x")
    return log


def test_batches_that_follow_each_other_are_found_up_to_a_size_but_at_least_one(log: Log) -> None:
    recent = RecentBatches(10_000)
    for batch in log.batches[:3]:
        recent.put(log.origin, batch)
    size = len(log.batches[0].wal_bytes)
    found = [recent.find(log.origin, 1, bytes_max) for bytes_max in (1, size, 2 * size - 1, 2 * size, 10 * size)]
    assert [len(batches) for batches in found] == [1, 1, 1, 2, 3]
    assert found[-1] == log.batches[:3]
    assert recent.find(log.origin, 3, 10_000) == log.batches[1:3]
    assert recent.find(log.origin, 2, 10_000) == [], "no batch begins there"
    assert recent.find(log.origin, 7, 10_000) == []
    assert recent.find(Log(2).origin, 1, 10_000) == []


def test_the_oldest_goes_first_when_there_are_too_many_bytes(log: Log) -> None:
    size = len(log.batches[0].wal_bytes)
    recent = RecentBatches(3 * size)
    for batch in log.batches[:3]:
        recent.put(log.origin, batch)
    assert len(recent.find(log.origin, 1, 10_000)) == 3
    recent.put(log.origin, log.batches[0])
    assert len(recent.find(log.origin, 1, 10_000)) == 3, "the same one is kept once"
    recent.put(log.origin, log.batches[3])
    assert recent.find(log.origin, 3, 10_000) == [], "it was put in longest ago"
    assert recent.find(log.origin, 5, 10_000) == log.batches[2:4]
    assert recent.find(log.origin, 1, 10_000) == log.batches[:1]


def test_what_is_forgotten_of_one_log_makes_room_and_leaves_the_others(log: Log) -> None:
    other = Log(2)
    other.add(b"0", b"x")
    size = len(log.batches[0].wal_bytes)
    recent = RecentBatches(3 * size)
    recent.put(other.origin, other.batches[0])
    for batch in log.batches[:2]:
        recent.put(log.origin, batch)
    recent.forget(log.origin)
    assert recent.find(log.origin, 1, 10_000) == []
    for batch in log.batches[2:4]:
        recent.put(log.origin, batch)
    assert recent.find(other.origin, 1, 10_000) == other.batches
