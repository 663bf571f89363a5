"""What segments hold beyond what their index knows, filed again; see `p2p.store.segments` for why there may be such.

When a store is opened, all that lies there counts. When it recovers from a failed write, only what was acknowledged
does: the process knows how far that goes. What is filed becomes rows of `batches`, and the segment is closed.

One that holds batches of our own beyond a gap is **kept**: nothing is added to it either, and each start looks at it
again, until the gap is closed, or what was signed beyond it is believed no longer (`Transaction.drop_claim`). The batch
that closes the gap, whoever brings it, is followed by them in the same commit (`file_beyond`).

What the index names and a segment does not have any more, because its file is gone or was cut off, is quarantined
before anything is signed on top of it. That takes one look at each file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from p2p.errors import StoreError
from p2p.ids import PeerId
from p2p.limits import USUAL
from p2p.replication.batch import Batch, verify_signature
from p2p.store.base import OriginState, parse_stored
from p2p.store.disk import sync
from p2p.store.segments import (
    Segment,
    drop_probe,
    drop_segment,
    is_torn,
    read_entries,
    read_entry,
    segment_numbers,
    segment_path,
    segment_size,
)
from p2p.store.transaction import KEPT, LOST, NOBODY, OPEN, SqliteTransaction

_PIECE_BYTES: Final = USUAL.segment_tail_bytes_max
"""What a power cut leaves is hardly more; an older index beside newer segments lacks any amount."""

Beyond: TypeAlias = dict[int, tuple[int, int]]
"""Batches of our own that lie beyond a gap: by the seq that each begins with, its segment and its offset there."""


class Tail(NamedTuple):
    """A part of a segment that the index does not know.

    Attributes:
        no: the segment's number.
        owner: whose log it is; None if the index does not know that, or not the segment.
        start, end: offsets. They may be equal: then the segment is to be closed, and that is all. If the end is below
            the start, something is missing that the index names.
    """

    no: int
    owner: PeerId | None
    start: int
    end: int


def drop_forgotten(connection: sqlite3.Connection, store: Path) -> None:
    """Take away what was forgotten, should the process have died, or the power gone, before it was taken away.

    Raises:
        StoreError: that cannot be made sure of.
    """
    rows = connection.execute(
        # A flipped bit in their list is no reason to drop one that is in use.
        "SELECT no FROM segments WHERE origin = ? AND no NOT IN (SELECT segment FROM chain)",
        (NOBODY,),
    ).fetchall()
    if not rows:
        return
    for (no,) in rows:
        drop_segment(store, no)
    sync(store.parent)
    # What could not be removed stays known as what nobody wants.
    left = set(segment_numbers(store))
    rows = [(no,) for (no,) in rows if no not in left]
    # No number is given twice: an older index would take the one segment for the other.
    connection.executemany("DELETE FROM segments WHERE no = ? AND no < (SELECT MAX(no) FROM segments)", rows)


def segments_at_open(
    connection: sqlite3.Connection, store: Path, owners: Mapping[int, PeerId]
) -> tuple[dict[PeerId, Segment], list[Tail], int]:
    """Compare what the index says of segments with what lies beside it.

    Args:
        owners: whose log has which number.

    Returns:
        The segments that are gone on with, what is to be taken up, and the number of the next segment.

    Raises:
        StoreError: a segment cannot be looked at. Nothing is made of it then: it may hold what was acknowledged.
    """
    rows = connection.execute("SELECT no, origin, covered, is_open FROM segments ORDER BY no").fetchall()
    current: dict[PeerId, Segment] = {}
    tails: list[Tail] = []
    for no, origin, covered, is_open in rows:
        owner = owners.get(origin)
        if owner is None:
            continue
        size = segment_size(store, no)
        if is_open == OPEN and size == covered and owner not in current:
            current[owner] = Segment(no, covered)
        elif is_open in (OPEN, KEPT) or (size < covered and is_open != LOST):
            tails.append(Tail(no, owner, covered, size))
    known = {no for no, *_ in rows}
    # A process that died while it tried the room has left it.
    drop_probe(store)
    numbers = segment_numbers(store)
    tails += [Tail(no, None, 0, segment_size(store, no)) for no in numbers if no not in known]
    return current, tails, max((*known, *numbers), default=0) + 1


def tails_of_open(
    connection: sqlite3.Connection, owners: Mapping[int, PeerId], acknowledged: Iterable[Segment]
) -> list[Tail]:
    """All segments that are not closed, with what is acknowledged of them.

    Args:
        owners: whose log has which number.
        acknowledged: how far that goes; others are known as far as they count.
    """
    ends = dict(acknowledged)
    rows = connection.execute("SELECT no, origin, covered FROM segments WHERE is_open = ? ORDER BY no", (OPEN,))
    return [Tail(no, owners[origin], covered, ends.get(no, 0)) for no, origin, covered in rows if origin in owners]


def end_beyond(connection: sqlite3.Connection, store: Path, own: PeerId, seq: int) -> int:
    """Up to where segments hold batches of our own that the index has no place for, beyond a gap after `seq`.

    Returns:
        0 if there are none. What only follows is taken up by the next start.

    Raises:
        sqlite3.Error, StoreError: it cannot be read.
    """
    covered = dict(connection.execute("SELECT no, covered FROM segments").fetchall())
    found: list[tuple[int, int]] = []
    for no in segment_numbers(store):
        start = covered.get(no, 0)
        for _, wal_bytes in read_entries(store, no, start if isinstance(start, int) else 0, segment_size(store, no)):
            batch = parse_stored(wal_bytes)
            if batch is not None and batch.origin == own and batch.seq_end > seq and verify_signature(batch):
                found.append((batch.seq_begin, batch.seq_end))
    for seq_begin, seq_end in sorted(found):
        if seq_begin > seq + 1:
            return max(end for _, end in found)
        seq = max(seq, seq_end)
    return 0


class _Filed(NamedTuple):
    """Whether a batch above the head could not be filed, and whether one is our own, beyond a gap."""

    is_missed: bool
    is_beyond: bool


class TakingUp:
    """What is done once with the tails that a start, or a recovery, has found.

    Args:
        begin: begins a transaction that is synced.
        store: the store's file.
        held: whose logs the index knows.

    Attributes:
        beyond: what of our own log was found beyond a gap.
        said: one line for each segment that is left as it is, or misses something.
    """

    def __init__(
        self, begin: Callable[[], AbstractContextManager[SqliteTransaction]], store: Path, held: Container[PeerId]
    ) -> None:
        self.beyond: Beyond = {}
        self.said: list[str] = []
        self._begin = begin
        self._store = store
        self._held = held

    def run(self, tails: Sequence[Tail]) -> None:
        """File again what they hold and the index does not.

        Raises:
            StoreError: a segment cannot be read, or the store not be written.
        """
        # First, so that nothing is filed on top of what is lost.
        known = sorted((tail for tail in tails if tail.owner is not None), key=lambda tail: tail.end >= tail.start)
        for piece in _pieces(known):
            with self._begin() as transaction:
                transaction.big_bytes = None
                for tail in piece:
                    self._take_up_known(transaction, tail)
        for tail in tails:
            if tail.owner is None:
                self._take_up_unknown(tail)

    def _take_up_known(self, transaction: SqliteTransaction, tail: Tail) -> None:
        assert tail.owner is not None
        if tail.end < tail.start:
            self._quarantine_lost(transaction, tail, tail.owner)
            return
        filed = self._file(transaction, tail, tail.owner)
        transaction.close_segment(tail.no, is_kept=filed.is_beyond)
        if filed.is_beyond:
            self.said.append(
                f"{segment_path(self._store, tail.no).name} holds batches of this node's own log above what is missing "
                "or damaged: they count once a peer has sent that"
            )

    def _take_up_unknown(self, tail: Tail) -> None:
        """One that the index does not know goes if its log has all of it, or if it was never more than begun. It may
        belong to a newer index, which will be put back."""
        entries = (parse_stored(wal_bytes) for _, wal_bytes in read_entries(self._store, tail.no, tail.start, tail.end))
        owner = next((batch.origin for batch in entries if batch is not None), None)
        with self._begin() as transaction:
            transaction.big_bytes = None
            is_missed = transaction.is_in_use(tail.no)
            if owner is not None and (owner == transaction.own or owner in self._held):
                filed = self._file(transaction, tail, owner)
                is_missed |= filed.is_missed
                if is_missed:
                    transaction.add_segment(tail.no, owner, tail.start if filed.is_beyond else tail.end)
                    transaction.close_segment(tail.no, is_kept=filed.is_beyond)
            else:
                is_missed |= owner is not None or not is_torn(self._store, tail.no)
        if is_missed:
            self.said.append(
                f"{segment_path(self._store, tail.no).name} holds batches for which the index has no place (one that "
                "was put back? a log that was not admitted yet?): it is left there"
            )
        else:
            drop_segment(self._store, tail.no)

    def _quarantine_lost(self, transaction: SqliteTransaction, tail: Tail, owner: PeerId) -> None:
        lost = transaction.missing_in(tail.no, owner)
        # From below: the head goes down once.
        for damaged in lost:
            transaction.quarantine(damaged)
        transaction.lose_segment(tail.no)
        if lost:
            what = f"ends at byte {tail.end} of {tail.start}" if tail.end else "is gone"
            self.said.append(
                f"{segment_path(self._store, tail.no).name} {what}: of the log of {owner} it held {len(lost)} batches "
                "more, which peers have to send again (if you have it: stop the node, put it there, run `p2p wal mend`)"
            )

    def _file(self, transaction: SqliteTransaction, tail: Tail, owner: PeerId) -> _Filed:
        """File what follows its log's head; one that is no batch is passed over. What of our own log lies beyond a gap
        was signed by us: that it goes so far is noted as if somebody had shown it, and nothing is signed below while
        that is believed."""
        is_missed = is_beyond = False
        for offset, wal_bytes in read_entries(self._store, tail.no, tail.start, tail.end):
            batch = parse_stored(wal_bytes)
            state = transaction.state(owner)
            if batch is None or batch.origin != owner or batch.seq_end <= state.seq:
                continue
            is_signed = verify_signature(batch)
            if is_signed and _follows(batch, state):
                transaction.append(batch)
                continue
            is_missed = True
            if is_signed and owner == transaction.own and batch.seq_begin > state.seq + 1:
                is_beyond = True
                transaction.note_claim(batch.seq_end)
                self.beyond[batch.seq_begin] = (tail.no, offset)
        return _Filed(is_missed, is_beyond)


def _pieces(tails: Sequence[Tail]) -> Iterator[list[Tail]]:
    """As many at a time as are filed in one commit, at least one: what SQLite's log takes for it is bounded."""
    piece: list[Tail] = []
    size = 0
    for tail in tails:
        size += max(0, tail.end - tail.start)
        if piece and size > _PIECE_BYTES:
            yield piece
            piece, size = [], max(0, tail.end - tail.start)
        piece.append(tail)
    if piece:
        yield piece


def file_beyond(transaction: SqliteTransaction, store: Path, beyond: Beyond) -> None:
    """File what follows our log's head by now. What cannot be read is left for peers to send."""
    own = transaction.own
    transaction.big_bytes = None
    while (place := beyond.get(transaction.head(own).seq + 1)) is not None:
        try:
            wal_bytes = read_entry(store, *place)
        except StoreError:
            return
        batch = None if wal_bytes is None else parse_stored(wal_bytes)
        if batch is None or batch.origin != own or not _follows(batch, transaction.state(own)):
            return
        if not verify_signature(batch):
            return
        transaction.append(batch)
        transaction.filed_hlc = batch.last_hlc


def _follows(batch: Batch, state: OriginState) -> bool:
    return state.is_whole and (batch.seq_begin, batch.prev_hash) == (state.seq + 1, state.hash)
