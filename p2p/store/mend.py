"""Rows that say where logs end, compared with the logs themselves: what is done once whenever a store is opened.

A row of `origins` is a summary of its chain, and everything hangs on it: what is signed next, what is served, whose log
it is. A batch carries its own hash; such a row carries none, so a flipped bit in one would pass for the truth, and the
next own record would fork the log. But all of it can be told from what the row sums up:

    whose log          from the header of the batch at the head, when its hash is good
    head               the end of the batches that follow each other from seq 1, undamaged and below a proven fork
    tail               the end of the last batch that is filed
    signed up to       as the tail, unless the chain has lost its end
    frozen from        from the proof

What the chain cannot tell is that its own end is missing. Three numbers of the row say how far it once went: head, tail
and what is known to be signed. One of them alone beyond the last batch that is filed is a flipped bit; two of them
are not. Then the tail stays where it was, and is written down twice, so that no later comparison takes it for a
flipped bit: a log that forgot that it goes on would be signed a second time from there.

The comparison costs a few small reads per origin. Only a row that disagrees has its chain walked; the batch that
becomes its head has its hash checked, and is marked as damaged, like any other, if it is not what was stored.
"""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple

from p2p.errors import RemoteProtocolError
from p2p.ids import PeerId
from p2p.replication.accept import Held
from p2p.replication.fork import check_proof
from p2p.replication.heads import ZERO_HASH
from p2p.store.base import is_what_was_stored
from p2p.store.blobs import malformed, read_batch
from p2p.store.hints import check_table

_ORIGIN_BYTES: Final = 1 + 32

_ROWS: Final = (
    "SELECT o.no, o.peer_id, o.seq, o.hash, o.tail_seq, o.lost_seq, o.frozen_from, c.hash, c.segment, c.batch,"
    " (SELECT MAX(seq_end) FROM chain WHERE origin = o.no)"
    " FROM origins AS o LEFT JOIN chain AS c ON c.origin = o.no AND c.seq_end = o.seq AND c.damaged = 0"
)


class Head(NamedTuple):
    """Where a log ends, and where its last batch is, as a row of `chain` says it (None for an empty log)."""

    seq: int
    hash: bytes
    segment: int | None
    batch: int | None


def mend_origins(connection: sqlite3.Connection) -> list[str]:
    """Put right every row of `origins` that is not what its chain says; in the transaction of the caller.

    Returns:
        One line for each row that was put right.

    Raises:
        sqlite3.Error: the store cannot be read or written.
    """
    said: list[str] = []
    if check_table(connection, "origins"):
        # If it is the index that is damaged, that is all; and if it is a row, what follows puts it right.
        connection.execute("REINDEX origins")
    for no, peer_id, seq, batch_hash, tail_seq, lost_seq, frozen_from, filed, segment, batch, end in connection.execute(
        _ROWS
    ).fetchall():
        if end is not None and end > max(seq, tail_seq, lost_seq) and not _is_good(connection, no, peer_id, end):
            # Nothing else says that the log went so far: this row of the chain is what is damaged.
            connection.execute("DELETE FROM chain WHERE origin = ? AND seq_end = ?", (no, end))
            end = connection.execute("SELECT MAX(seq_end) FROM chain WHERE origin = ?", (no,)).fetchone()[0]
        right_frozen = frozen_from_of(connection, no) or frozen_from
        if right_frozen is not None and right_frozen < 1:
            # No proof says so, nor could one.
            right_frozen = None
        head = Head(seq, batch_hash, segment, batch)
        is_right = batch_hash == (ZERO_HASH if seq == 0 else filed) and (right_frozen is None or seq < right_frozen)
        if not is_right:
            # A row that ends before it begins would stand in the way of what is fetched again.
            connection.execute("DELETE FROM chain WHERE origin = ? AND seq_end < seq_begin", (no,))
            head = walk(connection, no, right_frozen)
        right_id = owner_of(connection, no, head, peer_id)
        if not is_right or right_id != peer_id:
            head = _checked(connection, no, right_id, right_frozen)
        right_tail, right_lost = _ends(end or 0, seq, tail_seq, lost_seq)
        right = (right_id, head.seq, head.hash, right_tail, right_lost, right_frozen)
        if right != (peer_id, seq, batch_hash, tail_seq, lost_seq, frozen_from):
            connection.execute(
                "UPDATE OR IGNORE origins SET peer_id = ?, seq = ?, hash = ?, tail_seq = ?, lost_seq = ?,"
                " frozen_from = ? WHERE no = ?",
                (*right, no),
            )
            said.append(_line(right_id, head.seq, right_tail, is_cut=right_tail > (end or 0)))
    return said


def _ends(end: int, seq: int, tail_seq: int, lost_seq: int) -> tuple[int, int]:
    """Where the tail is, and up to where the log is known to be signed.

    Args:
        end: of the last batch that is filed.
        seq, tail_seq, lost_seq: what the row says.
    """
    beyond = sorted(number for number in (seq, tail_seq, lost_seq) if number > end)
    if len(beyond) >= 2:
        agreed = beyond[(len(beyond) - 1) // 2]
        return agreed, agreed
    return end, lost_seq if lost_seq <= end else 0


def _line(peer_id: bytes, seq: int, tail_seq: int, *, is_cut: bool) -> str:
    rest = f", and what follows up to seq {tail_seq} is missing" if is_cut else ""
    return f"the store's note of the log of {peer_id.hex()} was damaged: it ends at seq {seq}{rest}"


def walk(connection: sqlite3.Connection, no: int, frozen_from: int | None) -> Head:
    """Follow the chain from its beginning, without reading batches."""
    head = Head(0, ZERO_HASH, None, None)
    rows = connection.execute(
        "SELECT seq_begin, seq_end, hash, segment, batch, damaged FROM chain WHERE origin = ? ORDER BY seq_end", (no,)
    )
    for seq_begin, seq_end, batch_hash, segment, batch, damaged in rows:
        if damaged or seq_begin != head.seq + 1 or (frozen_from is not None and seq_end >= frozen_from):
            break
        head = Head(seq_end, batch_hash, segment, batch)
    rows.close()
    return head


def _checked(connection: sqlite3.Connection, no: int, peer_id: bytes, frozen_from: int | None) -> Head:
    """The end of the chain whose batch is what was stored; those above it that are not are marked."""
    while True:
        head = walk(connection, no, frozen_from)
        if head.batch is None or _is_good(connection, no, peer_id, head.seq):
            return head
        marked = connection.execute("UPDATE chain SET damaged = 1 WHERE origin = ? AND seq_end = ?", (no, head.seq))
        if marked.rowcount != 1:
            # It was met on the way, and is not found where it belongs.
            raise malformed("rows of the table chain are out of order")


def _is_good(connection: sqlite3.Connection, no: int, peer_id: bytes, seq_end: int) -> bool:
    row = connection.execute(
        "SELECT seq_begin, seq_end, hash, signature_crc, segment, batch FROM chain WHERE origin = ? AND seq_end = ?",
        (no, seq_end),
    ).fetchone()
    if row is None or len(peer_id) != 32:
        return False
    return is_what_was_stored(read_batch(connection, row[4], row[5]), PeerId(peer_id), Held(*row[:3]), row[3])


def owner_of(connection: sqlite3.Connection, no: int, head: Head, peer_id: bytes) -> bytes:
    """Whose log this is: `peer_id`, unless the batch at the head names another and its hash is good."""
    if head.batch is None:
        return peer_id
    try:
        named = (read_batch(connection, head.segment, head.batch, _ORIGIN_BYTES) or b"")[1:]
    except sqlite3.Error:
        return peer_id
    return named if named != peer_id and _is_good(connection, no, named, head.seq) else peer_id


def frozen_from_of(connection: sqlite3.Connection, no: int) -> int | None:
    """Where a good proof freezes it. (One that is damaged unfreezes nobody: then the row is believed.)"""
    row = connection.execute("SELECT first, second FROM proofs WHERE origin = ?", (no,)).fetchone()
    try:
        return None if row is None else check_proof(*row).lower_seq
    except RemoteProtocolError:
        return None
