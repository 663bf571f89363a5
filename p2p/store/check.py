"""Checking what a store holds, batch by batch: shared by every store's `verify`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from p2p.errors import RemoteProtocolError
from p2p.ids import PeerId
from p2p.replication.accept import Held
from p2p.replication.batch import verify_signature
from p2p.replication.fork import check_proof
from p2p.replication.heads import ZERO_HASH
from p2p.store.base import Damage, OriginState, is_what_was_stored, parse_stored


def check_chain(
    origin: PeerId, state: OriginState, rows: Iterable[tuple[Held, bytes | None, int, bool]]
) -> Iterator[Damage]:
    """Check one origin's batches in order: content, order, links, signatures, and the head that they lead to.

    Args:
        rows: for each batch in ascending order: range and hash, bytes (None if they are gone), the checksum of its
            signature, and whether it is marked as damaged already.
    """
    seq, batch_hash = 0, ZERO_HASH
    head_seen = state.seq == 0
    for held, wal_bytes, signature_crc, marked in rows:
        if marked:
            yield Damage("hash", origin, held.seq_begin, f"quarantined up to seq {held.seq_end}; to be fetched again")
        else:
            what = _fault_of(origin, held, wal_bytes, signature_crc, seq, batch_hash)
            if what is not None:
                yield Damage(what[0], origin, held.seq_begin, what[1])
        seq, batch_hash = held.seq_end, held.hash
        head_seen = head_seen or ((seq, batch_hash) == (state.seq, state.hash) and not marked)
    signed_seq = max(state.tail_seq, state.lost_seq)
    if seq < signed_seq:
        yield Damage(
            "end", origin, None, f"it was signed up to seq {signed_seq}, and what follows seq {seq} is missing"
        )
    elif seq < state.claimed_seq:
        yield Damage(
            "end", origin, None, f"it goes up to seq {state.claimed_seq}, as was shown, and it is held up to {seq}"
        )
    if not head_seen:
        yield Damage("head", origin, None, f"the head names seq {state.seq}, where no such batch ends")
    elif state.frozen_from is not None and state.seq >= state.frozen_from:
        yield Damage("head", origin, None, f"the head is at seq {state.seq}, though frozen from {state.frozen_from}")


def _fault_of(
    origin: PeerId, held: Held, wal_bytes: bytes | None, signature_crc: int, seq: int, prev_hash: bytes
) -> tuple[str, str] | None:
    if not is_what_was_stored(wal_bytes, origin, held, signature_crc):
        return "hash", "its bytes are not those that were stored"
    batch = parse_stored(wal_bytes) if wal_bytes is not None else None
    if batch is None or batch.seq_end != held.seq_end:
        return "bytes", "it is no batch of that range"
    if batch.seq_begin != seq + 1:
        return "chain", f"it does not follow seq {seq}"
    if batch.prev_hash != prev_hash:
        return "chain", "its prev_hash is not the hash of the batch before it"
    if not verify_signature(batch):
        return "signature", "its origin did not sign it"
    return None


def check_proof_kept(origin: PeerId, state: OriginState, proof: tuple[bytes, bytes] | None) -> Iterator[Damage]:
    """Check that a frozen origin has a proof that says so, and that nobody else has one."""
    if proof is None:
        if state.frozen_from is not None:
            yield Damage("proof", origin, None, "the origin is frozen without a proof")
        return
    try:
        found = check_proof(*proof)
    except RemoteProtocolError as error:
        yield Damage("proof", origin, None, str(error))
        return
    if found.origin != origin or found.lower_seq != state.frozen_from:
        yield Damage("proof", origin, None, "the proof kept is not that of this origin's freeze")
