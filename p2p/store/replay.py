"""What segments hold beyond what their index knows, filed again; see `p2p.store.segments` for why there may be such.

When a store is opened, all that lies there counts. When it recovers from a failed write, only what was acknowledged
does: the process knows how far that goes. What is filed becomes rows of `batches`, and the segment is closed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from p2p.ids import PeerId
from p2p.replication.batch import verify_signature
from p2p.store.base import Transaction, parse_stored
from p2p.store.disk import sync
from p2p.store.segments import Segment, drop_probe, drop_segment, segment_numbers, segment_size
from p2p.store.transaction import NOBODY


class Tail(NamedTuple):
    """A part of a segment that the index does not know.

    Attributes:
        no: the segment's number.
        owner: whose log it is; None if the index does not know that, or not the segment.
        start, end: offsets. They may be equal: then the segment is to be closed, and that is all.
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
    connection.executemany("DELETE FROM segments WHERE no = ?", rows)


def segments_at_open(
    connection: sqlite3.Connection, store: Path, owners: Mapping[int, PeerId]
) -> tuple[dict[PeerId, Segment], list[Tail], int]:
    """Compare what the index says of segments with what lies beside it.

    Args:
        owners: whose log has which number.

    Returns:
        The segments that are gone on with, what is to be filed again, and the number of the next segment.

    Raises:
        StoreError: a segment cannot be looked at. Nothing is made of it then: it may hold what was acknowledged.
    """
    rows = connection.execute("SELECT no, origin, covered, is_open FROM segments ORDER BY no").fetchall()
    current: dict[PeerId, Segment] = {}
    tails: list[Tail] = []
    for no, origin, covered, is_open in rows:
        owner = owners.get(origin)
        if not is_open or owner is None:
            continue
        size = segment_size(store, no)
        if size == covered and owner not in current:
            current[owner] = Segment(no, covered)
        else:
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
    rows = connection.execute("SELECT no, origin, covered FROM segments WHERE is_open ORDER BY no").fetchall()
    return [Tail(no, owners[origin], covered, ends.get(no, 0)) for no, origin, covered in rows if origin in owners]


def file_again(transaction: Transaction, owner: PeerId, entries: Iterable[bytes]) -> bool:
    """File what follows its log's head. What of our own log lies beyond a gap was signed by us: that it goes so far is
    noted as if somebody had shown it, and nothing is signed below while that is believed.

    Args:
        owner: whose batches they have to be.
        entries: in their order; one that is no batch is passed over.

    Returns:
        Whether there is a batch above the head that could not be filed.
    """
    is_missed = False
    for wal_bytes in entries:
        batch = parse_stored(wal_bytes)
        state = transaction.state(owner)
        if batch is None or batch.origin != owner or batch.seq_end <= state.seq:
            continue
        is_signed = verify_signature(batch)
        if is_signed and state.is_whole and (batch.seq_begin, batch.prev_hash) == (state.seq + 1, state.hash):
            transaction.append(batch)
            continue
        is_missed = True
        if is_signed and owner == transaction.own and batch.seq_begin > state.seq + 1:
            transaction.note_claim(batch.seq_end)
    return is_missed
