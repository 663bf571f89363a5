"""Which hash stands at which seq of a log, as far as it is remembered: enough to compare heads without a store.

A peer's head is almost always the end of a batch that passed through here a moment ago. What has left this memory is
looked up in the store by loading the batch that covers the seq.

Source: replication section 3, rule 5.
"""

from __future__ import annotations

import hashlib
from typing import Final, Protocol

from p2p.ids import PeerId

_PREFIX_BYTES: Final = 1 + 32 + 8
_HASH_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64

BATCH_BYTES_MIN: Final = _PREFIX_BYTES + 1 + _HASH_BYTES + 8 + 4 + _SIGNATURE_BYTES
"""A batch of one empty record. Anything shorter is refused before it costs a place in a queue."""


class SealedBatch(Protocol):
    """A batch as the store gives it: its range and its bytes."""

    @property
    def seq_begin(self) -> int: ...

    @property
    def seq_end(self) -> int: ...

    @property
    def wal_bytes(self) -> bytes: ...


def seq_begin_of(wal_bytes: bytes) -> int:
    """Return the seq_begin field of a well-formed batch."""
    return int.from_bytes(wal_bytes[_PREFIX_BYTES - 8 : _PREFIX_BYTES], "little")


def prev_hash_of(wal_bytes: bytes) -> bytes:
    """Return the prev_hash field of a well-formed batch (32 bytes) without reading the rest."""
    start = _PREFIX_BYTES
    while wal_bytes[start] & 0x80:
        start += 1
    return wal_bytes[start + 1 : start + 1 + _HASH_BYTES]


def hash_of(wal_bytes: bytes) -> bytes:
    """Return the hash of a well-formed batch (32 bytes): SHA-256 of all before the signature."""
    return hashlib.sha256(memoryview(wal_bytes)[:-_SIGNATURE_BYTES]).digest()


class Boundaries:
    """The last few batch ends of every origin.

    Args:
        depth: how many per origin are remembered.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._ends: dict[PeerId, dict[int, bytes]] = {}

    def add(self, origin: PeerId, seq: int, batch_hash: bytes) -> None:
        """Our log of the origin has a batch that ends at `seq` with this hash."""
        if seq == 0:
            return
        ends = self._ends.setdefault(origin, {})
        ends[seq] = batch_hash
        if len(ends) > self._depth:
            del ends[next(iter(ends))]

    def at(self, origin: PeerId, seq: int) -> bytes | None:
        """The hash at `seq`, None if it is not remembered (or no batch ends there)."""
        ends = self._ends.get(origin)
        return None if ends is None else ends.get(seq)

    def forget(self, origin: PeerId) -> None:
        """Our log of the origin shrank, or froze: what was remembered may not be held any more."""
        self._ends.pop(origin, None)
