"""Logs to test with: real identities, real signatures, batches that follow each other."""

from __future__ import annotations

from collections.abc import Sequence

from p2p.crypto.identity import Identity
from p2p.msg import WalPush
from p2p.replication.batch import Batch, NewRecord, encode_portions, seal
from p2p.replication.heads import ZERO_HASH

HLC = 1_700_000_000_000 << 16


def identity(number: int) -> Identity:
    """The same identity for the same number, always."""
    return Identity.generate(lambda size: bytes([number % 256, number // 256]).ljust(size, b"k"))


def app(*payloads: bytes) -> list[NewRecord]:
    """Records for everybody."""
    return [NewRecord("app", None, payload) for payload in payloads]


class Log:
    """One origin's log, written here."""

    def __init__(self, number: int = 1, *, after: Sequence[Batch] = ()) -> None:
        self.identity = identity(number)
        self.origin = self.identity.peer_id
        self.batches: list[Batch] = list(after)

    def seal(self, records: Sequence[NewRecord], *, base_hlc: int = HLC) -> Batch:
        """Add a batch of these records."""
        last = self.batches[-1] if self.batches else None
        batch = seal(
            origin=self.origin,
            seq_begin=last.seq_end + 1 if last else 1,
            prev_hash=last.hash if last else ZERO_HASH,
            base_hlc=base_hlc,
            portions=encode_portions(records),
            sign=self.identity.sign,
        )
        self.batches.append(batch)
        return batch

    def add(self, *payloads: bytes) -> Batch:
        """Add a batch of records with these payloads."""
        return self.seal(app(*payloads))

    def branch(self, at: int, number: int = 1) -> Log:
        """The same owner's other history: the first `at` batches are the same."""
        return Log(number, after=self.batches[:at])


def push_of(batch: Batch) -> WalPush:
    """The message that carries a batch."""
    return WalPush(batch.seq_begin, batch.seq_end, batch.wal_bytes)
