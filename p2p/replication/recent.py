"""The batches that came in or were written a moment ago, for all links that pass them on.

A commit is offered to every peer at once. Without this memory each of them would cost a read of the store; with it
one does, and a batch that was received is passed on from where it already lies.

Only batches that are durably held may be put in, and who takes one out still has to look at the head: a log can shrink.
"""

from __future__ import annotations

from p2p.ids import PeerId
from p2p.replication.boundaries import SealedBatch


class RecentBatches:
    """A bounded memory of batches, the oldest goes first.

    Args:
        bytes_max: batches are kept up to this size together.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._batches: dict[tuple[PeerId, int], SealedBatch] = {}

    def put(self, origin: PeerId, batch: SealedBatch) -> None:
        """Keep a durable batch."""
        place = (origin, batch.seq_begin)
        old = self._batches.pop(place, None)
        if old is not None:
            self._bytes -= len(old.wal_bytes)
        self._batches[place] = batch
        self._bytes += len(batch.wal_bytes)
        while self._bytes > self._bytes_max:
            oldest = next(iter(self._batches))
            self._bytes -= len(self._batches.pop(oldest).wal_bytes)

    def find(self, origin: PeerId, from_seq: int, bytes_max: int) -> list[SealedBatch]:
        """Return the batches that begin at `from_seq` and follow each other, up to a size but at least one; or none."""
        found: list[SealedBatch] = []
        while (batch := self._batches.get((origin, from_seq))) is not None:
            bytes_max -= len(batch.wal_bytes)
            if found and bytes_max < 0:
                break
            found.append(batch)
            from_seq = batch.seq_end + 1
        return found

    def forget(self, origin: PeerId) -> None:
        """The origin's log shrank or froze: what was kept may be another history."""
        for place in [place for place in self._batches if place[0] == origin]:
            self._bytes -= len(self._batches.pop(place).wal_bytes)
