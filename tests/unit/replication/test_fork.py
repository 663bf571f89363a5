"""Forks: what contradicts what, and proofs that everybody can check."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import RemoteProtocolError
from p2p.replication.batch import Batch
from p2p.replication.fork import check_proof, contradict, make_proof
from tests.logs import Log


def two_histories(common: int) -> tuple[Log, Log]:
    """The same log up to some batch, and two ways on."""
    log = Log()
    for number in range(common):
        log.add(b"%d" % number, b"again")
    other = log.branch(common)
    log.add(b"one", b"one more")
    log.add(b"and more")
    other.add(b"two")
    other.add(b"and more", b"still")
    return log, other


def test_t36_ranges_that_intersect_contradict() -> None:
    log, other = two_histories(2)
    assert contradict(log.batches[2], other.batches[2])
    assert contradict(other.batches[3], log.batches[2])


def test_t36_a_successor_of_another_batch_contradicts() -> None:
    log, _ = two_histories(1)
    mine = log.batches[1]
    other = log.branch(1)
    other.add(b"as", b"long")
    follows = other.add(b"c")
    assert follows.seq_begin == mine.seq_end + 1
    assert contradict(mine, follows)
    assert contradict(follows, mine)
    assert not contradict(mine, log.batches[2])


def test_honest_batches_do_not_contradict() -> None:
    log, _ = two_histories(3)
    for one in log.batches:
        for other in log.batches:
            assert not contradict(one, other)
    assert not contradict(log.batches[0], Log(2).add(b"x"))


def all_pairs() -> list[tuple[Batch, Batch]]:
    log, other = two_histories(1)
    return [(log.batches[1], other.batches[1]), (log.batches[1], other.batches[2]), (log.batches[2], other.batches[2])]


@pytest.mark.parametrize("pair", all_pairs())
def test_t36_a_proof_is_the_same_in_either_order(pair: tuple[Batch, Batch]) -> None:
    one, other = pair
    proof = check_proof(one.wal_bytes, other.wal_bytes)
    assert proof == check_proof(other.wal_bytes, one.wal_bytes) == make_proof(one, other)
    assert proof.origin == one.origin
    assert proof.lower_seq == min(one.seq_begin, other.seq_begin)


def test_t37_what_proves_nothing_is_refused() -> None:
    log, other = two_histories(1)
    mine, theirs = log.batches[1], other.batches[1]
    nothing = [
        (mine, log.batches[2]),
        (mine, mine),
        (mine, Log(2).add(b"x")),
        (log.batches[0], log.batches[2]),
    ]
    for one, two in nothing:
        with pytest.raises(RemoteProtocolError, match="do not contradict"):
            check_proof(one.wal_bytes, two.wal_bytes)
    forged = theirs.wal_bytes[:-1] + bytes([theirs.wal_bytes[-1] ^ 1])
    for pair in ((mine.wal_bytes, forged), (forged, mine.wal_bytes)):
        with pytest.raises(RemoteProtocolError, match="signature"):
            check_proof(*pair)
    # A second signature over the same batch is no second history.
    with pytest.raises(RemoteProtocolError, match="do not contradict"):
        check_proof(mine.wal_bytes, mine.wal_bytes[:-64] + bytes(64))


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_arbitrary_bytes_prove_nothing(first: bytes, second: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        check_proof(first, second)
