"""How far a log reaches, and one value that says whether two nodes hold the same logs.

Source: replication sections 3 and 6.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import msgspec

from p2p.ids import PeerId

ZERO_HASH: Final = bytes(32)
"""Stands where there is no batch before: in the first batch's prev_hash and in the head of an empty log."""

FROZEN_MARK: Final = b"\xff" * 32
"""In a WalHeads entry: this origin is frozen here, I hold the proof."""

SEQ_MAX: Final = 2**63 - 1
"""The last seq there can be. A million records a second reach it in 290,000 years; a claim beyond is a lie."""

_DIGEST_CONTEXT: Final = b"vix-p2p/digest/1"


class Head(msgspec.Struct, frozen=True):
    """The end of a log: its last seq (0 for an empty one) and the hash of the batch that ends there."""

    seq: int
    hash: bytes


class LogHead(msgspec.Struct, frozen=True):
    """How far one origin's log is held here: contiguous, verified and durable.

    Attributes:
        seq: last seq held and served; 0 for none. Always the end of a batch.
        hash: hash of the batch that ends at `seq`; `ZERO_HASH` when seq is 0.
        frozen: a fork is proven; nothing at or above the proof's lower seq_begin is accepted or served, so `seq`
            stays below it.
    """

    seq: int
    hash: bytes
    frozen: bool = False

    @property
    def shown_hash(self) -> bytes:
        """The hash that a WalHeads entry shows: `FROZEN_MARK` for a frozen origin."""
        return FROZEN_MARK if self.frozen else self.hash


EMPTY_LOG: Final = LogHead(0, ZERO_HASH)


def digest(heads: Mapping[PeerId, LogHead]) -> bytes:
    """Return 32 bytes that two nodes share exactly when they hold the same logs.

    SHA-256 over the context, then for every origin in ascending order: origin, seq u64, head hash. A frozen origin
    counts as seq 0 and `FROZEN_MARK` however far its log was held, since nodes may freeze it at different places.
    Empty logs are left out.
    """
    state = hashlib.sha256(_DIGEST_CONTEXT)
    for origin in sorted(heads):
        head = heads[origin]
        if head.frozen:
            state.update(origin + bytes(8) + FROZEN_MARK)
        elif head.seq:
            state.update(origin + head.seq.to_bytes(8, "little") + head.hash)
    return state.digest()
