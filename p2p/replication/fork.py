"""Forks: one origin, two histories.

An origin that signs two batches which cannot both belong to one log has forked it, by a copied key, a store brought
back from a backup, or on purpose. The two batches are the proof; everybody can check it alone, so it is kept, spread,
and nobody has to be believed. From a proof on the origin is frozen below `lower_seq`, the lower of the two seq_begin.

Two batches contradict each other when both signatures are good, the hashes differ, and
- their ranges intersect, or
- one begins right after the other and names another prev_hash than the other's hash.

Source: replication section 5.
"""

from __future__ import annotations

import msgspec

from p2p.errors import RemoteProtocolError
from p2p.ids import PeerId
from p2p.replication.batch import Batch, parse_batch, verify_signature


class Proof(msgspec.Struct, frozen=True):
    """Two sealed batches of one origin that contradict each other, in the order of seq_begin, then of hash."""

    first: Batch
    second: Batch

    @property
    def origin(self) -> PeerId:
        """Whose log forked."""
        return self.first.origin

    @property
    def lower_seq(self) -> int:
        """What is below this seq stays valid; at and above it nothing is accepted, served or followed."""
        return self.first.seq_begin


def contradict(one: Batch, other: Batch) -> bool:
    """Whether the two cannot both belong to one log. Signatures are not looked at."""
    if one.origin != other.origin or one.hash == other.hash:
        return False
    low, high = sorted((one, other), key=lambda batch: batch.seq_begin)
    if high.seq_begin <= low.seq_end:
        return True
    return high.seq_begin == low.seq_end + 1 and high.prev_hash != low.hash


def make_proof(one: Batch, other: Batch) -> Proof:
    """Put two contradicting batches whose signatures were found good into a proof."""
    assert contradict(one, other)
    first, second = sorted((one, other), key=lambda batch: (batch.seq_begin, batch.hash))
    return Proof(first, second)


def check_proof(first_bytes: bytes, second_bytes: bytes) -> Proof:
    """Read a proof that somebody sent, in either order, and check all of it.

    Raises:
        RemoteProtocolError: it proves nothing: a batch is malformed, they do not contradict each other, or a
            signature is bad.
        NewerBatch: a batch is of a version that this software does not know.
    """
    one, other = parse_batch(first_bytes), parse_batch(second_bytes)
    if not contradict(one, other):
        raise RemoteProtocolError("the two batches of a fork proof do not contradict each other")
    if not (verify_signature(one) and verify_signature(other)):
        raise RemoteProtocolError("a fork proof has a bad signature")
    return make_proof(one, other)
