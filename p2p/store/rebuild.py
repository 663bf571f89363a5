"""A file whose structure is damaged, written anew: what can be read is copied into a fresh one that takes its place.

A batch that is not what was stored is fetched again, and then its log is whole. The file need not be: a B-tree page
that lost its cells, or that two places point to, is met again by whatever is written next. SQLite mends no such file,
but all that matters in it can be read and checked piece by piece:

    identity, origins      copied; without them nobody knows how far a log was signed, so without them nothing is done
    chain, batches         each batch that is what its row says; a row whose batch is not is marked as damaged
    batches without a row  if they are signed and fit between the others: the list of batches can be told from them;
                           those in segments stay where they are
    proofs                 copied
    pins, book, bans, cursors   copied, or empty if they are damaged; targets: told again from the batches

Then every log ends where its chain is whole, and goes on from there as after any damage: nothing is signed anew below
what was signed, and peers send what is missing.

How the new file takes the old one's place. SQLite's log is brought into the old file first, and is empty from there on.
The new file is written beside it and synced, the old one gets a second name, and the new one is renamed to the first.
Killed at any point, one of the two is there, and whole: what the old one holds is in the new one, or nothing happened.
Who opens the data dir holds its lock, so nobody writes meanwhile.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

from p2p.errors import P2PError, StoreCorrupt, StoreError
from p2p.ids import PeerId
from p2p.replication.accept import Held
from p2p.replication.batch import RECORDS_MAX, Batch, verify_signature
from p2p.replication.heads import ZERO_HASH
from p2p.store.base import is_what_was_stored, parse_stored
from p2p.store.blobs import IN_TABLE, is_damage, read_batch
from p2p.store.definitions import put_right
from p2p.store.disk import sync
from p2p.store.files import (
    DAMAGED,
    LOG,
    PART,
    beside,
    beyond_mending,
    connect,
    free_bytes,
    make_private,
    size_of,
    translated,
    trust,
)
from p2p.store.hints import HINTS, check_table, damaged_tables
from p2p.store.mend import Head, frozen_from_of, owner_of, walk
from p2p.store.schema import PAGE_BYTES, STEPS, check_version, has_segments, prepare, read_owner
from p2p.store.segments import read_entries, segment_numbers, segment_size
from p2p.store.transaction import KEPT, NOBODY, OPEN

_NO_BATCH: Final = 0
"""In the place of a batch's number: its bytes are gone. No batch has it."""
_ROW_BYTES_MIN: Final = 40
"""No row of `chain` is smaller, nor one of `batches`. It bounds what a damaged tree can be read as."""
_BATCH: Final = (
    "INSERT OR REPLACE INTO chain (origin, seq_end, seq_begin, hash, signature_crc, damaged, segment, batch)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_STRAYS: Final = (
    "CREATE TEMP TABLE strays (origin INTEGER, seq_begin INTEGER, segment INTEGER, batch INTEGER,"
    " PRIMARY KEY (origin, seq_begin, segment, batch)) WITHOUT ROWID"
)
"""Batches that no row of the chain stands for: of a file that is lost, all. So they are found by their order."""
_PLACES: Final = "CREATE TEMP TABLE places (segment INTEGER, batch INTEGER, PRIMARY KEY (segment, batch)) WITHOUT ROWID"
"""Where in segments those lie that are filed."""
_COPIED: Final = ("pins", "book", "bans", "cursors")


def look_through(path: Path) -> str | None:
    """Whether the structure of a file is damaged; what only concerns tables of hints is mended at every open.

    Returns:
        The first thing that is wrong.

    Raises:
        StoreError: it cannot be read, or is not one that this software knows.
    """
    with translated(path, "read"), closing(connect(path, "ro")) as connection:
        # A list of tables that makes no sense is read all the same.
        connection.execute("PRAGMA writable_schema = ON")
        check_version(connection, path)
        return next((damage.detail for damage in damaged_tables(connection) if damage.what == "file"), None)


def has_come_back(path: Path) -> bool:
    """Whether a batch that was quarantined is what was stored: its segment was gone, and was put back, or its disk was
    away when it was read.

    Raises:
        StoreError: it cannot be read.
    """
    with translated(path, "read"), closing(connect(path, "ro")) as connection:
        if not has_segments(connection):
            return False
        rows = connection.execute(
            "SELECT o.peer_id, c.seq_begin, c.seq_end, c.hash, c.signature_crc, c.segment, c.batch FROM chain AS c"
            " JOIN origins AS o ON o.no = c.origin WHERE c.damaged <> 0"
        )
        return any(
            is_what_was_stored(read_batch(connection, segment, number), PeerId(peer_id), Held(*held), signature_crc)
            for peer_id, *held, signature_crc, segment, number in rows
        )


def rebuild(path: Path) -> str:
    """Write the file anew. Who calls holds the data dir's lock, and has no connection open.

    Returns:
        A line about what was saved.

    Raises:
        StoreError: it was not done, and the file is as it was.
    """
    part = beside(path, PART)
    try:
        _check_room(path)
        remove_part(part)
        with translated(path, "written anew"), closing(connect(path, "rw")) as source:
            source.execute("PRAGMA writable_schema = ON")
            if check_version(source, path) != len(STEPS):
                raise StoreError(
                    f"the store {path} is damaged, and is one of an older version, which is not written anew"
                )
            put_right(source)
            if source.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise StoreError(f"the store {path} cannot be written anew: somebody reads it")
            make_private(part)
            with closing(connect(part, "rw", path)) as target:
                said = Copy(source, target, part, path).run(read_owner(source, path))
        take_place(path, part)
    except (P2PError, OSError) as error:
        with suppress(OSError):
            remove_part(part)
        if isinstance(error, StoreCorrupt):
            raise beyond_mending(path) from error
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"the store {path} cannot be written anew: {error}") from error
    trust(path)
    return f"the damaged store {path} was written anew: {said}; the damaged file is kept as {path.name}{DAMAGED}"


def _check_room(path: Path) -> None:
    # The one that is kept from an earlier time gives way to this one, at the very end.
    need, room = size_of(path) + size_of(beside(path, LOG)), free_bytes(path)
    if room < need:
        raise StoreError(
            f"the store {path} is damaged and should be written anew, but its disk has no room for that: "
            f"{need >> 20} MiB are needed and {room >> 20} MiB free"
        )


def remove_part(part: Path) -> None:
    """Take away a new file, and what SQLite has made beside it."""
    for ending in ("", "-journal", LOG, "-shm"):
        beside(part, ending).unlink(missing_ok=True)


def take_place(path: Path, part: Path, *, keeps_log: bool = False) -> None:
    """Put the new file in the place of the old one.

    Args:
        keeps_log: whether SQLite's log is kept with the old one, which could not take it up.
    """
    if size_of(beside(path, LOG)) and not keeps_log:
        raise StoreError(f"the store {path} cannot be written anew: somebody reads it")
    sync(part)
    kept = beside(path, DAMAGED)
    if not (kept.exists() and kept.samefile(path)):
        # It is of an earlier time. Otherwise a try was cut short below, and may have moved the log already.
        beside(kept, LOG).unlink(missing_ok=True)
        kept.unlink(missing_ok=True)
        os.link(path, kept)
    if keeps_log and beside(path, LOG).exists():
        os.replace(beside(path, LOG), beside(kept, LOG))
    for ending in (LOG, "-shm"):
        # Left there, they would be taken for the new file's.
        beside(path, ending).unlink(missing_ok=True)
    os.replace(part, path)
    sync(path.parent)


class Copy:
    """The copying of one file.

    Args:
        source: the damaged file.
        target: the fresh one, empty.
        path: of the fresh one.
        store: of the damaged one, beside which the segments lie.
    """

    def __init__(self, source: sqlite3.Connection, target: sqlite3.Connection, path: Path, store: Path) -> None:
        self._source = source
        self._target = target
        self._path = path
        self._store = store
        pages, page_bytes = (source.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        self._rows_max = max(1, pages * page_bytes // _ROW_BYTES_MIN)

    def run(self, own: PeerId) -> str:
        """Copy everything that can be read.

        Raises:
            sqlite3.Error, StoreError: it cannot be done.
        """
        target = self._target
        # It counts when it is whole, and is synced then: nobody goes back to a half of it.
        for pragma in (f"page_size = {PAGE_BYTES}", "journal_mode = OFF", "synchronous = OFF"):
            target.execute(f"PRAGMA {pragma}")
        prepare(target, self._path, own)
        for table in (_STRAYS, _PLACES):
            target.execute(table)
        target.execute("BEGIN")
        owners = self._copy_origins()
        self._copy_chain(owners)
        _insert(target, "proofs", self._scan("proofs", "*", "origin {0}"))
        numbers = {peer_id: no for no, peer_id in owners.items()}
        self._find_strays(own, numbers)
        ends = self._find_strays_in_segments(numbers)
        self._take_strays(owners)
        in_use = target.execute("SELECT segment, MIN(origin) FROM chain WHERE segment <> 0 GROUP BY 1").fetchall()
        # Closed: nothing is added to them.
        _insert(target, "segments", [(no, origin, ends.get(no, 0), 0) for no, origin in in_use])
        self._settle(owners)
        forgotten = [HINTS[table].meaning for table in _COPIED if not self._copy_hints(table)]
        target.execute("DROP TABLE targets")
        for step in HINTS["targets"].steps:
            step(target) if callable(step) else target.execute(step)
        target.execute("COMMIT")
        return "; ".join([self._summary(), *forgotten])

    def _copy_origins(self) -> dict[int, PeerId]:
        # Not by the index, which may be what is damaged.
        rows = [
            (no, self._owner_of(no, peer_id, seq), seq, *rest)
            for no, peer_id, seq, *rest in self._source.execute("SELECT * FROM origins NOT INDEXED").fetchall()
        ]
        _insert(self._target, "origins", rows)
        if self._target.execute("SELECT COUNT(*) FROM origins").fetchone()[0] != len(rows):
            raise StoreCorrupt("the list of origins holds what makes no sense")
        return {row[0]: PeerId(row[1]) for row in rows}

    def _owner_of(self, no: int, peer_id: bytes, seq: int) -> bytes:
        """Whose log this is by its last batch. Where a flipped bit made a row of origins disagree with its index, the
        name that is right was taken there, and the row was not mended where it lay."""
        try:
            filed = self._source.execute(
                "SELECT hash, segment, batch FROM chain WHERE origin = ? AND seq_end = ? AND damaged = 0", (no, seq)
            ).fetchone()
            return peer_id if filed is None else owner_of(self._source, no, Head(seq, *filed), peer_id)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            return peer_id

    def _copy_chain(self, owners: dict[int, PeerId]) -> None:
        columns = "origin, seq_end, seq_begin, hash, signature_crc, damaged, segment, batch"
        for row in self._scan("chain", columns, "origin {0}, seq_end {0}"):
            if not _makes_sense(row):
                continue
            origin, seq_end, seq_begin, batch_hash, signature_crc, damaged, segment, number = row
            if origin not in owners:
                batch = self._read(segment, number)
                if batch is None or batch.origin not in owners.values():
                    raise StoreCorrupt(f"the list of origins misses one whose number is {origin}")
                # The number in this row is what is damaged: nothing stands for the batch.
                continue
            wal_bytes = None if damaged else read_batch(self._source, segment, number)
            held = Held(seq_begin, seq_end, batch_hash)
            if is_what_was_stored(wal_bytes, owners[origin], held, signature_crc):
                if segment == IN_TABLE:
                    self._target.execute("INSERT OR IGNORE INTO batches (no, wal) VALUES (?, ?)", (number, wal_bytes))
                self._target.execute(_BATCH, (*row[:5], 0, segment, number))
            else:
                self._target.execute(_BATCH.replace("REPLACE", "IGNORE"), (*row[:5], 1, IN_TABLE, _NO_BATCH))

    def _find_strays(self, own: PeerId, numbers: dict[PeerId, int]) -> None:
        """Note every batch that no row of the chain stands for."""
        for (no,) in self._scan("batches", "no", "no {0}"):
            if not isinstance(no, int) or self._target.execute("SELECT 1 FROM batches WHERE no = ?", (no,)).fetchone():
                continue
            batch = self._read(IN_TABLE, no)
            if batch is None:
                continue
            if batch.origin == own and own not in numbers:
                raise StoreCorrupt("the list of origins misses the owner of the store")
            if batch.origin in numbers:
                place = (numbers[batch.origin], batch.seq_begin, IN_TABLE, no)
                self._target.execute("INSERT OR IGNORE INTO strays VALUES (?, ?, ?, ?)", place)

    def _find_strays_in_segments(self, numbers: dict[PeerId, int]) -> dict[int, int]:
        """The same of those that lie in segments. What the index does not know of a closed one does not count.

        Returns:
            Up to where each segment was read.
        """
        execute = self._target.execute
        known = list(self._scan("segments", "no, covered, is_open", "no {0}"))
        closed = {
            no: covered for no, covered, is_open in known if is_open not in (OPEN, KEPT) and isinstance(covered, int)
        }
        numbers_there = segment_numbers(self._store)
        last = max((no for no, *_ in known if isinstance(no, int)), default=0)
        if last > max(numbers_there, default=0):
            # It was forgotten, or is gone, and its number is not given out again.
            execute("INSERT INTO segments VALUES (?, ?, 0, 0)", (last, NOBODY))
        execute("INSERT OR IGNORE INTO places SELECT segment, batch FROM chain WHERE segment <> 0")
        ends = {no: closed[no] if no in closed else segment_size(self._store, no) for no in numbers_there}
        for no, end in ends.items():
            for offset, wal_bytes in read_entries(self._store, no, 0, end):
                batch = parse_stored(wal_bytes)
                is_filed = execute("SELECT 1 FROM places WHERE segment = ? AND batch = ?", (no, offset)).fetchone()
                if batch is not None and batch.origin in numbers and not is_filed:
                    place = (numbers[batch.origin], batch.seq_begin, no, offset)
                    execute("INSERT OR IGNORE INTO strays VALUES (?, ?, ?, ?)", place)
        return ends

    def _take_strays(self, owners: dict[int, PeerId]) -> None:
        after: tuple[int, int, int, int] = (0, 0, 0, 0)
        while True:
            row = self._target.execute(
                "SELECT origin, seq_begin, segment, batch FROM strays"
                " WHERE (origin, seq_begin, segment, batch) > (?, ?, ?, ?)"
                " ORDER BY origin, seq_begin, segment, batch LIMIT 1",
                after,
            ).fetchone()
            if row is None:
                return
            after = row
            batch = _again(self._source, row[2], row[3])
            if batch is not None and batch.origin == owners[row[0]]:
                self._take(row[0], batch, row[2], row[3])

    def _take(self, origin: int, batch: Batch, segment: int, number: int) -> None:
        """File a batch that nothing names, if it is its owner's and fits between what is filed."""
        execute = self._target.execute
        beside_it = execute(
            "SELECT seq_begin, seq_end, hash, segment, batch FROM chain WHERE origin = ? AND damaged = 0"
            # A batch has no more records: what ends above does not begin here.
            " AND seq_end BETWEEN ? AND ? AND seq_begin <= ? ORDER BY seq_end",
            (origin, batch.seq_begin - 1, batch.seq_end + RECORDS_MAX, batch.seq_end + 1),
        ).fetchall()
        if batch.seq_begin == 1 and batch.prev_hash != ZERO_HASH:
            return
        for seq_begin, seq_end, batch_hash, *filed in beside_it:
            if seq_end == batch.seq_begin - 1:
                fits = batch_hash == batch.prev_hash
            else:
                follower = _again(self._target, *filed)
                fits = seq_begin == batch.seq_end + 1 and follower is not None and follower.prev_hash == batch.hash
            if not fits:
                return
        if not verify_signature(batch):
            return
        execute(
            "DELETE FROM chain WHERE origin = ? AND damaged = 1 AND seq_end >= ? AND seq_begin <= ?",
            (origin, batch.seq_begin, batch.seq_end),
        )
        if segment == IN_TABLE:
            execute("INSERT INTO batches (no, wal) VALUES (?, ?)", (number, batch.wal_bytes))
        crc = zlib.crc32(batch.signature)
        execute(_BATCH, (origin, batch.seq_end, batch.seq_begin, batch.hash, crc, 0, segment, number))

    def _read(self, segment: int, number: int) -> Batch | None:
        return _parsed(read_batch(self._source, segment, number))

    def _settle(self, owners: dict[int, PeerId]) -> None:
        """Let every log end where its chain is whole; that it went further stays known."""
        for no in owners:
            seq, batch_hash, frozen_from = self._target.execute(
                "SELECT seq, hash, frozen_from FROM origins WHERE no = ?", (no,)
            ).fetchone()
            head = walk(self._target, no, frozen_from_of(self._target, no) or frozen_from)
            if head.seq < seq:
                self._target.execute("UPDATE origins SET lost_seq = MAX(lost_seq, tail_seq) WHERE no = ?", (no,))
            if (head.seq, head.hash) != (seq, batch_hash):
                self._target.execute("UPDATE origins SET seq = ?, hash = ? WHERE no = ?", (head.seq, head.hash, no))

    def _copy_hints(self, name: str) -> bool:
        """Copy a table that holds nothing of the logs; False if it is damaged, and left empty."""
        if check_table(self._source, name):
            return False
        _insert(self._target, name, self._scan(name, "*", "1 {0}"))
        return True

    def _scan(self, table: str, columns: str, order: str) -> Iterator[tuple[Any, ...]]:
        """Read a table from both ends, up to what cannot be read; a row may come twice."""
        for direction in ("", "DESC"):
            by = order.format(direction)
            ordered = f"SELECT {columns} FROM {table} NOT INDEXED ORDER BY {by}"  # noqa: S608  # names of ours
            count = 0
            try:
                for row in self._source.execute(f"{ordered} LIMIT ?", (self._rows_max,)):
                    count += 1
                    yield row
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
            else:
                return
            # The cursor reads one row ahead, and does not return the one before the damage.
            with suppress(sqlite3.Error):
                yield from self._source.execute(f"{ordered} LIMIT 1 OFFSET ?", (count,))

    def _summary(self) -> str:
        logs, records, hurt = self._target.execute(
            "SELECT COUNT(*), TOTAL(seq), TOTAL(frozen_from IS NULL AND seq < MAX(tail_seq, lost_seq)) FROM origins"
        ).fetchone()
        missing = f", {int(hurt)} of which miss something that peers have to send" if hurt else ""
        return f"{int(records)} records of {logs} logs{missing}"


def _insert(target: sqlite3.Connection, table: str, rows: Iterator[tuple[Any, ...]] | list[tuple[Any, ...]]) -> None:
    for row in rows:
        values = ", ".join("?" * len(row))
        target.execute(f"INSERT OR IGNORE INTO {table} VALUES ({values})", row)  # noqa: S608  # names of ours


def _parsed(wal_bytes: bytes | None) -> Batch | None:
    return None if wal_bytes is None else parse_stored(wal_bytes)


def _again(connection: sqlite3.Connection, segment: int, number: int) -> Batch | None:
    """Read a batch that was one when it was read before.

    Raises:
        StoreError: it is none now, because its disk refuses: it is not the time to say what is lost.
    """
    batch = _parsed(read_batch(connection, segment, number))
    if batch is None and segment != IN_TABLE:
        raise StoreError(f"the disk refuses to read segment {segment} at {number}")
    return batch


def _makes_sense(row: tuple[Any, ...]) -> bool:
    numbers = (*row[:3], *row[4:])
    return (
        all(isinstance(number, int) for number in numbers)
        and 1 <= row[2] <= row[1]
        and isinstance(row[3], bytes)
        and len(row[3]) == 32
    )
