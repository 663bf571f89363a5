"""The durable store: one SQLite file, in WAL mode with synchronous=FULL; and its segments, for big batches.

`SqliteReader` is one connection that only reads, used on the lane "read" and by tools beside a running node. Each
call is one short read transaction: one that stayed open would keep SQLite from ever shortening its log.
`SqliteStore` adds the one connection that writes, and a third that copies the log into the file (`checkpoints`).

After a failed write this file trusts nothing it has in memory or in the kernel's cache: a failed fsync may have dropped
dirty pages and marked them clean, so that the next fsync "succeeds". Therefore `recover` takes a new handle, makes
SQLite copy its log into the file and sync it (`wal_checkpoint(TRUNCATE)`), and reads the heads again, before anything
more may be written, and so before anything more is signed.

A commit that only adds batches to segments is not synced (`synchronous=NORMAL`): they are, and say all that it does
(`segments`). That it does nothing else is told from SQLite's own count of changes, so that whatever is written in any
other way is synced, and with it, since SQLite's log is one file, everything before. How a commit is to be made has to
be said when it begins: one that turns out to do more is taken back, and done again by who began it.

Nothing else in the process may open and close the file: POSIX would drop SQLite's locks with it.

Source: replication section 4.
"""

from __future__ import annotations

import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from p2p.errors import ConfigError, StoreCorrupt, StoreError, StoreReadOnly
from p2p.ids import PeerEndpoint, PeerId
from p2p.limits import Limits
from p2p.policy.book import Address, BookPlace
from p2p.replication.accept import Held
from p2p.replication.batch import Batch
from p2p.replication.fork import Proof
from p2p.replication.heads import ZERO_HASH
from p2p.store.base import (
    TARGETS_MAX,
    WHOLE_FILE,
    Damage,
    DamagedRange,
    Loaded,
    NotBulk,
    OriginState,
    StoredBatch,
    Transaction,
    detail_of,
    is_what_was_stored,
    parse_stored,
)
from p2p.store.blobs import IN_TABLE, is_damage, malformed, read_batch
from p2p.store.check import check_chain, check_proof_kept
from p2p.store.checkpoints import Checkpoints
from p2p.store.definitions import altered_tables
from p2p.store.files import (
    LOG,
    beside,
    check_index_room,
    connect,
    connect_to_read,
    make_private,
    size_of,
    suspect,
    translated,
)
from p2p.store.hints import damaged_tables, mend_hints
from p2p.store.mend import mend_origins
from p2p.store.rebuild import look_through
from p2p.store.replay import FORGOTTEN, Tail, drop_forgotten, file_again, segments_at_open, tails_of_open
from p2p.store.schema import (
    ANYBODY,
    INDEX_TARGET,
    PAGE_BYTES,
    STEPS,
    check_version,
    prepare,
    read_owner,
)
from p2p.store.segments import Appends, Segment, drop_segment, read_entries, segment_path, try_room

_LIMITS: Final = Limits()
_PROBE_BYTES: Final = _LIMITS.batch_bytes_max
_COMMIT_BYTES: Final = 4 * PAGE_BYTES
"""What a commit writes beside batches, about: the pages of the file's head, of the small rows and of a log's end."""
_ROWS_PER_READ: Final = 256

_ALL: Final = -1
"""In the place of how many rows are wanted."""
_LOAD: Final = (
    "SELECT c.seq_begin, c.seq_end, c.hash, c.signature_crc, c.damaged, {0}, c.batch, b.wal"
    " FROM chain AS c LEFT JOIN batches AS b ON {0} = 0 AND b.no = c.batch"
    " WHERE c.origin = (SELECT no FROM origins WHERE peer_id = ?)"
    " AND c.seq_end >= ? AND c.seq_end <= ? ORDER BY c.seq_end LIMIT ?"
)
_STATES: Final = "SELECT peer_id, seq, hash, tail_seq, size, frozen_from, {}, {} FROM origins"
_LOST_SINCE: Final = 2
_CLAIMED_SINCE: Final = 5
"""The versions of the schema that brought these columns. A tool that only reads looks at older files as they are."""
_BOOK_SINCE: Final = 4
"""The version of the schema that brought address book and bans."""
_SEGMENTS_SINCE: Final = 7
"""The version that brought segments."""
_IS_FOR_ANYBODY: Final = "SELECT 1 FROM targets WHERE target = ? AND origin = ?"
_NEXT: Final = (
    "SELECT seq_begin, seq_end FROM chain WHERE origin = (SELECT no FROM origins WHERE peer_id = ?)"
    " AND seq_end >= ? AND damaged = 0 ORDER BY seq_end LIMIT 1"
)


class Closable(Protocol):
    """What a store gives back with itself: the lock on its data dir."""

    def close(self) -> None:
        """Give it back."""


class SqliteReader:
    """A connection that only reads.

    Args:
        path: the store's file; it must exist.

    Raises:
        StoreError: it cannot be read, is damaged, or was made by a newer version.
    """

    def __init__(self, path: Path) -> None:
        # Where the process works may change: SQLite does not mind, and segments must not.
        self._path = path = path.absolute()
        # Who closes may be another thread than the one that still reads.
        self._in_use = threading.Lock()
        with translated(path, "opened"):
            self._connection = connect_to_read(path)
            try:
                self._version = check_version(self._connection, path)
                if not self._version:
                    raise StoreError(
                        f"the store {path} is empty: the start that made it did not come to an end; start again"
                    )
                with translated(path, "opened (table identity)"):
                    self._own = read_owner(self._connection, path)
            except BaseException:
                self._connection.close()
                raise

    @property
    def own(self) -> PeerId:
        """The identity this store belongs to."""
        return self._own

    def states(self) -> dict[PeerId, OriginState]:
        """Everything that is held, read anew."""
        with self._in_use, translated(self._path, "read"):
            return _read_states(self._connection, self._path, self._version)

    def load(self, origin: PeerId, from_seq: int, to_seq: int, bytes_max: int) -> Loaded:
        """Read the batch that covers `from_seq`, and those after it, up to `to_seq` and `bytes_max`."""
        with self._in_use, translated(self._path, "read"):
            try:
                loaded = self._load(origin, from_seq, to_seq, bytes_max, _ALL)
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
            else:
                if loaded.damaged is None:
                    return loaded
                # Beside a running node, its log may have been forgotten meanwhile, and its segments with it.
                return self._load(origin, from_seq, to_seq, bytes_max, _ALL)
            # The cursor reads one row ahead: it may be the second one that cannot be read.
            try:
                return self._load(origin, from_seq, to_seq, bytes_max, 1)
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                # The page that holds the batch cannot be read. The small row that names it often can.
                row = self._connection.execute(_NEXT, (origin, from_seq)).fetchone()
                if row is None or not all(isinstance(number, int) for number in row):
                    raise
                return Loaded([], DamagedRange(origin, row[0], row[1]))

    def _load(self, origin: PeerId, from_seq: int, to_seq: int, bytes_max: int, rows_max: int) -> Loaded:
        batches: list[StoredBatch] = []
        size = 0
        next_seq = max(from_seq, 1)
        rows = self._connection.cursor()
        try:
            # The first row is read here already.
            segment_of = "c.segment" if self._version >= _SEGMENTS_SINCE else str(IN_TABLE)
            rows.execute(_LOAD.format(segment_of), (origin, from_seq, to_seq, rows_max))
            for seq_begin, seq_end, batch_hash, signature_crc, damaged, segment, number, wal_bytes in rows:
                held = _held(seq_begin, seq_end, batch_hash)
                if damaged:
                    # Where this is known the head is below; if it is not, the mark itself is the damage.
                    return Loaded(batches, DamagedRange(origin, seq_begin, seq_end))
                if seq_begin > next_seq:
                    # A row of the chain is gone, or stands elsewhere under another seq.
                    return Loaded(batches, DamagedRange(origin, next_seq, seq_begin - 1))
                if segment != IN_TABLE:
                    wal_bytes = read_batch(self._connection, segment, number)
                if not is_what_was_stored(wal_bytes, origin, held, signature_crc):
                    return Loaded(batches, DamagedRange(origin, seq_begin, seq_end))
                size += len(wal_bytes)
                if batches and size > bytes_max:
                    break
                batches.append(StoredBatch(seq_begin, seq_end, wal_bytes))
                next_seq = seq_end + 1
                if size >= bytes_max:
                    break
        except sqlite3.Error as error:
            # What cannot be read is told to who asks for it.
            if not batches or not is_damage(error):
                raise
        finally:
            rows.close()
        return Loaded(batches, None)

    def proof(self, origin: PeerId) -> tuple[bytes, bytes] | None:
        """The two batches that prove the origin's fork."""
        with self._in_use, translated(self._path, "read"):
            row = self._connection.execute(
                "SELECT first, second FROM proofs WHERE origin = (SELECT no FROM origins WHERE peer_id = ?)", (origin,)
            ).fetchone()
        return None if row is None else (bytes(row[0]), bytes(row[1]))

    def cursors(self, name: str) -> dict[PeerId, int]:
        """How far the follower has committed, per origin."""
        # A follower that is told "none" begins anew, and passes over records if it begins "now": that is for who opens
        # the store, and says so, to decide.
        with self._in_use, translated(self._path, "read"):
            rows = self._connection.execute("SELECT origin, seq FROM cursors WHERE name = ?", (name,)).fetchall()
        return {PeerId(origin): seq for origin, seq in rows if _is_peer_id(origin) and isinstance(seq, int)}

    def origins_for(self, target: PeerId, count_max: int) -> list[PeerId]:
        """Origins with records for a target, ascending."""
        with self._in_use, translated(self._path, "read"):
            rows = self._connection.execute(
                "SELECT DISTINCT o.peer_id FROM targets AS t JOIN origins AS o ON o.no = t.origin"
                " WHERE t.target IN (?, ?) ORDER BY o.peer_id LIMIT ?",
                (target, ANYBODY, count_max),
            ).fetchall()
        return [_peer_id(origin, self._path) for (origin,) in rows]

    def pins(self) -> dict[str, PeerId]:
        """Weak pins of labels, the one seen longest ago first."""
        rows = self._hints("SELECT node_id, peer_id FROM pins ORDER BY seen_ms, node_id")
        return {label: PeerId(holder) for label, holder in rows if isinstance(label, str) and _is_peer_id(holder)}

    def book(self) -> list[BookPlace]:
        """The places where peers were met, the one that was good longest ago first; none in a file of before there
        were any."""
        if self._version < _BOOK_SINCE:
            return []
        rows = self._hints(
            "SELECT scheme, host, port, peer_id, node_id, source, good_ms, failures FROM book"
            " ORDER BY good_ms, scheme, host, port"
        )
        return [place for row in rows if (place := _place_of(*row)) is not None]

    def bans(self) -> dict[PeerId, int]:
        """Who is left alone, and until when, the one that ends first first."""
        if self._version < _BOOK_SINCE:
            return {}
        rows = self._hints("SELECT peer_id, until_ms FROM bans ORDER BY until_ms, peer_id")
        return {PeerId(banned): until for banned, until in rows if _is_peer_id(banned) and isinstance(until, int)}

    def _hints(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a table that holds nothing of the logs; none if it is damaged. Who opens the store mends it."""
        try:
            with self._in_use, translated(self._path, "read"):
                return self._connection.execute(sql).fetchall()
        except StoreError as error:
            cause = error.__cause__
            if isinstance(error, StoreCorrupt) or (isinstance(cause, sqlite3.Error) and is_damage(cause)):
                return []
            raise

    def verify(self) -> Iterator[Damage]:
        """Check the file, and every hash, chain, signature, head and proof; yields what is wrong.

        Raises:
            StoreError: a segment cannot be reached, so that nothing can be told about it.
        """
        try:
            with translated(self._path, "read"):
                yield from damaged_tables(self._connection)
            states = self.states()
        except StoreError as error:
            yield Damage("file", None, None, detail_of(error))
            return
        for origin, state in sorted(states.items()):
            try:
                with translated(self._path, "read"):
                    yield from check_chain(origin, state, self._rows_of(origin))
                    yield from check_proof_kept(origin, state, self.proof(origin))
            except StoreError as error:
                if isinstance(error.__cause__, OSError):
                    # What may not be read now, or by this user, is not known to be damaged.
                    raise
                yield Damage("file", origin, None, detail_of(error))

    def _rows_of(self, origin: PeerId) -> Iterator[tuple[Held, bytes | None, int, bool]]:
        after = 0
        segment_of = "segment" if self._version >= _SEGMENTS_SINCE else str(IN_TABLE)
        while True:
            rows = self._connection.execute(
                f"SELECT seq_begin, seq_end, hash, signature_crc, damaged, {segment_of}, batch FROM chain"  # noqa: S608  # names of ours
                " WHERE origin = (SELECT no FROM origins WHERE peer_id = ?) AND seq_end > ? ORDER BY seq_end LIMIT ?",
                (origin, after, _ROWS_PER_READ),
            ).fetchall()
            for seq_begin, seq_end, batch_hash, signature_crc, damaged, *place in rows:
                wal_bytes = read_batch(self._connection, *place)
                yield Held(seq_begin, seq_end, batch_hash), wal_bytes, signature_crc, bool(damaged)
            # In a damaged file rows may stand out of order: that was seen, and to go on would be to go round for ever.
            if not rows or not isinstance(rows[-1][1], int) or rows[-1][1] <= after:
                return
            after = rows[-1][1]

    def close(self) -> None:
        """Close the connection, after the read that is under way."""
        with self._in_use, suppress(sqlite3.Error):
            self._connection.close()


class SqliteStore:
    """A `Store` in one file and its segments. Opened by `p2p.store.keys.open_store`, which looks after key and lock.

    Args:
        path: the file; made if it is absent.
        own: whose log the node writes.
        lock: given back when the store is closed.
        limits: bounds.

    Attributes:
        mended: one line for each note of a log's end, and each table of hints, that was damaged when the store was
            opened, and put right; and for each segment that the index does not know and that is left.

    Raises:
        IdentityMismatch: the file belongs to another identity.
        StoreError: it cannot be opened, is damaged, or was made by a newer version.
    """

    def __init__(self, path: Path, own: PeerId, lock: Closable | None = None, limits: Limits = _LIMITS) -> None:
        self._path = path = path.absolute()
        self._own = own
        self._lock = lock
        self._limits = limits
        self._is_failed = False
        # What the commits since the last one that was synced have in segments, and whether the connection syncs none.
        # At the bound the next one is synced: what is found in SQLite's log at the start may be in memory alone.
        self._unsynced_bytes = limits.segment_tail_bytes_max
        self._is_lax = False
        # The last that were written and whose commit failed half-way.
        self._in_doubt: Appends | None = None
        self._writer: sqlite3.Connection | None = None
        try:
            with translated(path, "opened"):
                check_index_room(path)
                make_private(path)
                self._writer = _connect_writer(path, limits)
                prepare(self._writer, path, own)
                self.mended = _mend(self._writer)
                log_bytes = size_of(beside(path, LOG))
                self._checkpoints = Checkpoints(partial(_connect_writer, path, limits), log_bytes, limits)
                if self._is_log_copied(self._writer):
                    self._unsynced_bytes = 0
                self._states = _read_states(self._writer, path)
                self._numbers = _read_numbers(self._writer, path)
                owners = {no: peer_id for peer_id, no in self._numbers.items()}
                drop_forgotten(self._writer, path)
                self._segments, tails, self._next_segment = segments_at_open(self._writer, path, owners)
            self._take_up(tails)
            self._reader = SqliteReader(path)
        except BaseException:
            self._close_writer()
            raise

    @property
    def own(self) -> PeerId:
        """The identity this store belongs to."""
        return self._own

    def write(self, *, is_bulk: bool = False) -> AbstractContextManager[Transaction]:
        """Open a transaction; durable when the block ends, an exception takes all of it back."""
        return self._write(is_bulk)

    @contextmanager
    def _write(self, is_bulk: bool) -> Iterator[_SqliteTransaction]:
        connection = self._writer
        if self._is_failed or connection is None:
            raise StoreReadOnly(f"the store {self._path} failed and is not recovered yet")
        limits = self._limits
        # Until it is known that nothing is in doubt.
        self._is_failed = True
        is_committing = False
        appends = Appends(self._path, self._segments, self._next_segment, limits.segment_bytes_max)
        transaction = _SqliteTransaction(connection, self._own, self._states, self._numbers, appends)
        transaction.big_bytes = 0 if is_bulk else limits.segment_batch_bytes_min
        with translated(self._path, "written"):
            try:
                self._checkpoints.copy_rest(connection)
                is_synced = not is_bulk or self._unsynced_bytes >= limits.segment_tail_bytes_max
                if self._is_lax is is_synced:
                    self._be_lax(connection, not is_synced)
                connection.execute("BEGIN IMMEDIATE")
                changes = connection.total_changes
                yield transaction
                transaction.save()
                changes = connection.total_changes - changes
                if self._is_lax and changes != transaction.told_changes:
                    self._unsynced_bytes = limits.segment_tail_bytes_max
                    raise NotBulk
                if appends.parts:
                    appends.write()
                if changes:
                    self._checkpoints.begin(transaction.row_bytes + _COMMIT_BYTES)
                is_committing = True
                connection.execute("COMMIT")
                self._checkpoints.end()
            except BaseException as error:
                # Somebody's mistake, before anything was written.
                is_mistake = isinstance(error, Exception) and not isinstance(error, (sqlite3.Error, StoreError))
                self._is_failed = not is_mistake or appends.is_written or is_committing
                if isinstance(error, sqlite3.Error) and is_damage(error):
                    suspect(self._path)
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                if appends.is_written:
                    # What is left of a file that could not be removed is not written to again.
                    self._next_segment = appends.next_no
                    # A commit that failed may come back from the disk as long as SQLite's log is not emptied.
                    if is_committing:
                        self._in_doubt = appends
                    else:
                        _take_back(connection, appends)
                raise
        self._take_over(transaction, appends)
        self._is_failed = False

    def _take_over(self, transaction: _SqliteTransaction, appends: Appends) -> None:
        """What was committed is what is held."""
        if self._is_lax:
            self._unsynced_bytes += appends.size
        elif transaction.changed:
            # One that changes nothing, or rows to what they are, syncs nothing.
            self._unsynced_bytes = 0
        self._next_segment = appends.next_no
        for origin in transaction.erased:
            self._segments.pop(origin, None)
        for part in appends.parts.values():
            self._segments[part.origin] = Segment(part.no, part.end)
        for no in transaction.dropped:
            drop_segment(self._path, no)
        if transaction.damaged:
            # One piece that is not what was stored is often not the only one.
            suspect(self._path)
        self._numbers.update(transaction.new_numbers)
        for origin, state in transaction.changed.items():
            if state is None:
                self._states.pop(origin, None)
                self._numbers.pop(origin, None)
            else:
                self._states[origin] = state

    def _is_log_copied(self, connection: sqlite3.Connection) -> bool:
        """Bring what a process that died has left in SQLite's log into the file, and sync it; False if that cannot be
        now, because somebody reads from an old place, or the disk is full."""
        try:
            return self._checkpoints.copy_all(connection)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF != sqlite3.SQLITE_FULL:
                raise
            return False

    def _be_lax(self, connection: sqlite3.Connection, is_lax: bool) -> None:
        """Have the next commits synced, or not."""
        connection.execute(f"PRAGMA synchronous = {'NORMAL' if is_lax else 'FULL'}")
        self._is_lax = is_lax

    def _take_up(self, tails: list[Tail]) -> None:
        """File again what segments hold and the index does not, and close them."""
        known = [tail for tail in tails if tail.owner is not None]
        if known:
            with self._write(is_bulk=False) as transaction:
                transaction.big_bytes = None
                for tail in known:
                    self._file_again(transaction, tail, tail.owner)
                    transaction.close_segment(tail.no)
        for tail in tails:
            if tail.owner is None:
                self._take_up_unknown(tail)

    def _take_up_unknown(self, tail: Tail) -> None:
        """One that the index does not know goes if its log has all of it, or nothing in it is a batch. It may belong to
        a newer index, which will be put back."""
        entries = (parse_stored(wal_bytes) for _, wal_bytes in read_entries(self._path, tail.no, tail.start, tail.end))
        owner = next((batch.origin for batch in entries if batch is not None), None)
        with self._write(is_bulk=False) as transaction:
            transaction.big_bytes = None
            is_missed = transaction.is_in_use(tail.no)
            if owner is not None and (owner == self._own or owner in self._states):
                is_missed |= self._file_again(transaction, tail, owner)
                if is_missed:
                    transaction.add_segment(tail.no, owner, tail.end)
            else:
                is_missed |= owner is not None
        if is_missed:
            self.mended.append(
                f"{segment_path(self._path, tail.no).name} holds batches for which the index has no place (one that "
                "was put back? a log that was not admitted yet?): it is left there"
            )
        else:
            drop_segment(self._path, tail.no)

    def _file_again(self, transaction: Transaction, tail: Tail, owner: PeerId | None) -> bool:
        entries = read_entries(self._path, tail.no, tail.start, tail.end)
        return owner is not None and file_again(transaction, owner, (wal_bytes for _, wal_bytes in entries))

    def current(self) -> Mapping[PeerId, OriginState]:
        """What is held as of the last commit."""
        return self._states

    def recover(self) -> None:
        """New handle, the whole log checkpointed, heads read anew, and room for a batch tried."""
        self._is_failed = True
        self._close_writer()
        with translated(self._path, "written"):
            connection = _connect_writer(self._path, self._limits)
            try:
                if not self._checkpoints.copy_all(connection):
                    raise StoreError(f"the store {self._path} is being read by somebody and cannot be checkpointed")
                with translated(self._path, "read"):
                    _mend(connection)
                    states = _read_states(connection, self._path)
                    numbers = _read_numbers(connection, self._path)
                # A full disk often has room for a page. One batch must fit, or the next append would fail again. An
                # earlier try may have had room for the probe and none for taking it out again.
                connection.execute("INSERT OR REPLACE INTO batches (no, wal) VALUES (-1, zeroblob(?))", (_PROBE_BYTES,))
                connection.execute("DELETE FROM batches WHERE no = -1")
                try_room(self._path, _PROBE_BYTES)
                # These were synced, as the beginning of a new log: nothing comes back from the old one any more.
                if self._in_doubt is not None:
                    _take_back(connection, self._in_doubt)
                    self._in_doubt = None
                owners = {no: peer_id for peer_id, no in numbers.items()}
                tails = tails_of_open(connection, owners, self._segments.values())
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.close()
                raise
        self._writer = connection
        self._is_lax = False
        self._states = states
        self._numbers = numbers
        self._is_failed = False
        # Should this fail, so have the writes that it consists of, and what is acknowledged is still known.
        acknowledged, self._segments = self._segments, {}
        try:
            self._take_up(tails)
        except BaseException:
            self._segments = acknowledged
            self._is_failed = True
            raise

    def chore(self) -> Callable[[], None] | None:
        """The copying of SQLite's log into the file, when it is time."""
        return self._checkpoints.copy_beside if self._checkpoints.is_pass_due else None

    def look_through(self) -> str | None:
        """Check the file's structure, unless it is a very big one. If it is damaged, the next start writes it anew."""
        if size_of(self._path) > self._limits.scrub_file_bytes_max:
            return None
        found = look_through(self._path)
        if found is not None:
            suspect(self._path)
        return found

    def change_owner(self, own: PeerId) -> None:
        """Hand the store to a new identity; the log of the old one stays, as that of any other origin."""
        assert self._writer is not None
        with translated(self._path, "written"):
            self._be_lax(self._writer, False)
            self._writer.execute("UPDATE identity SET peer_id = ?", (own,))
        self._own = own

    def states(self) -> dict[PeerId, OriginState]:
        """Everything that is held, read anew."""
        return self._reader.states()

    def load(self, origin: PeerId, from_seq: int, to_seq: int, bytes_max: int) -> Loaded:
        """Read the batch that covers `from_seq`, and those after it, up to `to_seq` and `bytes_max`."""
        try:
            return self._reader.load(origin, from_seq, to_seq, bytes_max)
        except StoreCorrupt:
            suspect(self._path)
            raise

    def proof(self, origin: PeerId) -> tuple[bytes, bytes] | None:
        """The two batches that prove the origin's fork."""
        return self._reader.proof(origin)

    def cursors(self, name: str) -> dict[PeerId, int]:
        """How far the follower has committed, per origin."""
        return self._reader.cursors(name)

    def origins_for(self, target: PeerId, count_max: int) -> list[PeerId]:
        """Origins with records for a target, ascending."""
        return self._reader.origins_for(target, count_max)

    def pins(self) -> dict[str, PeerId]:
        """Weak pins of labels, the one seen longest ago first."""
        return self._reader.pins()

    def book(self) -> list[BookPlace]:
        """The places where peers were met, the one that was good longest ago first."""
        return self._reader.book()

    def bans(self) -> dict[PeerId, int]:
        """Who is left alone, and until when, the one that ends first first."""
        return self._reader.bans()

    def verify(self) -> Iterator[Damage]:
        """Check the file, and every hash, chain, signature, head and proof; yields what is wrong."""
        return self._reader.verify()

    def close(self) -> None:
        """Bring SQLite's log into the file, close it, and give up the lock. Never raises for a disk."""
        self._reader.close()
        if not self._checkpoints.close():
            # A disk that hangs may go on: what is in use stays open, and the lock stays taken.
            return
        if self._writer is not None and not self._is_failed:
            with suppress(sqlite3.Error):
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._close_writer()
        if self._lock is not None:
            self._lock.close()

    def _close_writer(self) -> None:
        if self._writer is not None:
            with suppress(sqlite3.Error):
                self._writer.close()
            self._writer = None


class _SqliteTransaction(Transaction):
    """One SQLite transaction.

    Attributes:
        new_numbers: of origins that the file did not know.
        big_bytes: batches of so many bytes go to segments; None: none does.
        row_bytes: of batches that are rows.
        told_changes: how many rows were changed to what the entries in segments say themselves.
        dropped: segments that are out of use once this is durable.
        erased: origins that were forgotten, at first.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        own: PeerId,
        base: Mapping[PeerId, OriginState],
        numbers: Mapping[PeerId, int],
        appends: Appends,
    ) -> None:
        super().__init__(own, base)
        self.new_numbers: dict[PeerId, int] = {}
        self.big_bytes: int | None = None
        self.row_bytes = 0
        self.told_changes = 0
        self.dropped: list[int] = []
        self._appends = appends
        self._told: dict[PeerId, OriginState] = {}
        self._numbers = numbers
        self.erased: set[PeerId] = set()
        self._for_anybody: set[int] = set()
        self._connection = connection

    def save(self) -> None:
        """Write the states that this transaction moved, and how far segments are known."""
        for origin, state in self.changed.items():
            if state is not None:
                self._connection.execute(
                    "UPDATE origins SET seq = ?, hash = ?, tail_seq = ?, size = ?, frozen_from = ?, lost_seq = ?,"
                    " claimed_seq = ? WHERE no = ?",
                    (*msgspec.structs.astuple(state), self._number(origin)),
                )
                self.told_changes += state == self._told.get(origin)
        for part in self._appends.parts.values():
            if part.is_new:
                self.add_segment(part.no, part.origin, part.end)
            self._connection.execute(
                "UPDATE segments SET covered = ?, is_open = ? WHERE no = ?", (part.end, not part.is_full, part.no)
            )
            self.told_changes += not part.is_full

    def add_segment(self, no: int, origin: PeerId, covered: int) -> None:
        """Let the index know a segment up to there, as one that is closed."""
        self._connection.execute("INSERT INTO segments VALUES (?, ?, ?, 0)", (no, self._number(origin), covered))

    def close_segment(self, no: int) -> None:
        """Nothing beyond what is known of a segment counts, and nothing is added to it."""
        self._connection.execute("UPDATE segments SET is_open = 0 WHERE no = ?", (no,))

    def is_in_use(self, no: int) -> bool:
        """Whether a batch is filed that lies in this segment."""
        return self._connection.execute("SELECT 1 FROM chain WHERE segment = ? LIMIT 1", (no,)).fetchone() is not None

    def set_cursor(self, name: str, origin: PeerId, seq: int) -> None:
        self._connection.execute(
            "INSERT INTO cursors (name, origin, seq) VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET seq = excluded.seq WHERE excluded.seq > seq",
            (name, origin, seq),
        )

    def set_pin(self, node_id: str, peer_id: PeerId, seen_ms: int, pins_max: int) -> None:
        execute = self._connection.execute
        execute(
            "INSERT INTO pins (node_id, peer_id, seen_ms) VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET peer_id = excluded.peer_id, seen_ms = excluded.seen_ms",
            (node_id, peer_id, seen_ms),
        )
        surplus = execute("SELECT COUNT(*) FROM pins").fetchone()[0] - pins_max
        if surplus > 0:
            execute(
                "DELETE FROM pins WHERE node_id IN (SELECT node_id FROM pins ORDER BY seen_ms, node_id LIMIT ?)",
                (surplus,),
            )

    def drop_pin(self, node_id: str) -> None:
        """The label is free again. Nothing happens if it was."""
        self._connection.execute("DELETE FROM pins WHERE node_id = ?", (node_id,))

    def set_place(self, place: BookPlace) -> None:
        at = place.endpoint
        self._connection.execute(
            "INSERT OR REPLACE INTO book (scheme, host, port, peer_id, node_id, source, good_ms, failures)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (at.scheme, at.host, at.port, place.peer_id, place.node_id, place.source, place.good_ms, place.failures),
        )

    def drop_place(self, address: Address) -> None:
        self._connection.execute("DELETE FROM book WHERE scheme = ? AND host = ? AND port = ?", address)

    def set_ban(self, peer_id: PeerId, until_ms: int, bans_max: int) -> None:
        execute = self._connection.execute
        execute("INSERT OR REPLACE INTO bans (peer_id, until_ms) VALUES (?, ?)", (peer_id, until_ms))
        surplus = execute("SELECT COUNT(*) FROM bans").fetchone()[0] - bans_max
        if surplus > 0:
            execute(
                "DELETE FROM bans WHERE peer_id IN (SELECT peer_id FROM bans ORDER BY until_ms, peer_id LIMIT ?)",
                (surplus,),
            )

    def drop_ban(self, peer_id: PeerId) -> None:
        self._connection.execute("DELETE FROM bans WHERE peer_id = ?", (peer_id,))

    def _number(self, origin: PeerId) -> int:
        number = self.new_numbers.get(origin)
        if number is None and origin not in self.erased:
            number = self._numbers.get(origin)
        if number is None:
            cursor = self._connection.execute(
                "INSERT INTO origins (peer_id, seq, hash, tail_seq, size) VALUES (?, 0, ?, 0, 0)", (origin, ZERO_HASH)
            )
            assert cursor.lastrowid is not None
            number = self.new_numbers[origin] = cursor.lastrowid
        return number

    def _find(self, origin: PeerId, seq_begin: int, seq_end: int) -> Held | None:
        row = self._connection.execute(
            "SELECT seq_begin, seq_end, hash FROM chain WHERE origin = ? AND seq_end >= ? AND damaged = 0"
            " ORDER BY seq_end LIMIT 1",
            (self._number(origin), seq_begin),
        ).fetchone()
        held = None if row is None else _held(*row)
        return held if held is not None and held.seq_begin <= seq_end else None

    def _read(self, origin: PeerId, held: Held) -> Batch | None:
        row = self._connection.execute(
            "SELECT segment, batch, signature_crc FROM chain WHERE origin = ? AND seq_end = ?",
            (self._number(origin), held.seq_end),
        ).fetchone()
        if row is None:
            return None
        wal_bytes = self._appends.find(row[0], row[1]) or read_batch(self._connection, row[0], row[1])
        if wal_bytes is None or not is_what_was_stored(wal_bytes, origin, held, row[2]):
            return None
        return parse_stored(wal_bytes)

    def _below(self, origin: PeerId, seq: int) -> Held | None:
        row = self._connection.execute(
            "SELECT seq_begin, seq_end, hash FROM chain WHERE origin = ? AND seq_end < ? AND damaged = 0"
            " ORDER BY seq_end DESC LIMIT 1",
            (self._number(origin), seq),
        ).fetchone()
        return None if row is None else _held(*row)

    def _insert(self, batch: Batch) -> None:
        segment, place = self._put(batch)
        self._connection.execute(
            # What is there already is no batch that was found in this range: its row is damaged.
            "INSERT OR REPLACE INTO chain (origin, seq_end, seq_begin, hash, signature_crc, damaged, segment, batch)"
            " VALUES (?, ?, ?, ?, ?, 0, ?, ?)",
            (
                self._number(batch.origin),
                batch.seq_end,
                batch.seq_begin,
                batch.hash,
                zlib.crc32(batch.signature),
                segment,
                place,
            ),
        )

    def _put(self, batch: Batch) -> tuple[int, int | None]:
        """Put the bytes where they will lie; return what its row says of that."""
        size = len(batch.wal_bytes)
        if self.big_bytes is None or size < self.big_bytes:
            self.row_bytes += size
            row = self._connection.execute("INSERT INTO batches (wal) VALUES (?)", (batch.wal_bytes,))
            return IN_TABLE, row.lastrowid
        state = self.state(batch.origin)
        if state.is_whole and state == self._told.get(batch.origin, self._base.get(batch.origin)):
            # What `file_again` would come to.
            self._told[batch.origin] = msgspec.structs.replace(
                state, seq=batch.seq_end, hash=batch.hash, tail_seq=batch.seq_end, size=state.size + size
            )
            self.told_changes += 1
        return self._appends.add(batch.origin, batch.wal_bytes)

    def _index(self, origin: PeerId, targets: frozenset[PeerId]) -> None:
        changes = self._connection.total_changes
        self._add_targets(origin, targets)
        if origin in self._told:
            self.told_changes += self._connection.total_changes - changes

    def _add_targets(self, origin: PeerId, targets: frozenset[PeerId]) -> None:
        execute, number = self._connection.execute, self._number(origin)
        if number in self._for_anybody or execute(_IS_FOR_ANYBODY, (ANYBODY, number)).fetchone():
            self._for_anybody.add(number)
            return
        self._connection.executemany(INDEX_TARGET, [(target, number) for target in targets])
        if execute("SELECT COUNT(*) FROM targets WHERE origin = ?", (number,)).fetchone()[0] >= TARGETS_MAX:
            execute("DELETE FROM targets WHERE origin = ?", (number,))
            execute(INDEX_TARGET, (ANYBODY, number))

    def _insert_proof(self, proof: Proof) -> None:
        self._connection.execute(
            "INSERT INTO proofs (origin, first, second) VALUES (?, ?, ?)",
            (self._number(proof.origin), proof.first.wal_bytes, proof.second.wal_bytes),
        )

    def _mark_damaged(self, origin: PeerId, seq_begin: int, seq_end: int) -> bool:
        # Only the small row is touched: to rewrite the blob's own row, SQLite would have to follow its broken pages.
        changed = self._connection.execute(
            "UPDATE chain SET damaged = 1 WHERE origin = ? AND seq_end = ? AND seq_begin = ? AND damaged = 0",
            (self._number(origin), seq_end, seq_begin),
        ).rowcount
        return changed == 1

    def _drop_damaged(self, origin: PeerId, seq_begin: int, seq_end: int) -> None:
        # The blob stays where it is, out of use: freeing its pages could fail on them, and damage is rare.
        self._connection.execute(
            "DELETE FROM chain WHERE origin = ? AND seq_end >= ? AND seq_begin <= ? AND damaged <> 0",
            (self._number(origin), seq_begin, seq_end),
        )

    def _erase(self, origin: PeerId) -> None:
        execute = self._connection.execute
        number = self._number(origin)
        execute("DELETE FROM batches WHERE no IN (SELECT batch FROM chain WHERE origin = ? AND segment = 0)", (number,))
        execute("DELETE FROM chain WHERE origin = ?", (number,))
        self._drop_segments(origin, number)
        execute("DELETE FROM proofs WHERE origin = ?", (number,))
        execute("DELETE FROM targets WHERE origin = ?", (number,))
        self._for_anybody.discard(number)
        execute("DELETE FROM cursors WHERE origin = ?", (origin,))
        execute("DELETE FROM origins WHERE no = ?", (number,))
        self.erased.add(origin)
        self.new_numbers.pop(origin, None)

    def _drop_segments(self, origin: PeerId, number: int) -> None:
        execute = self._connection.execute
        self._appends.forget(origin)
        # A flipped bit in their list is no reason to drop those of another log.
        in_use = {no for (no,) in execute("SELECT DISTINCT segment FROM chain")}
        named = execute("SELECT no FROM segments WHERE origin = ?", (number,)).fetchall()
        dropped = [no for (no,) in named if no not in in_use]
        execute("DELETE FROM segments WHERE origin = ?", (number,))
        # Should the process die before they are gone, the next start knows that nobody wants them.
        self._connection.executemany(FORGOTTEN, [(no,) for no in dropped])
        self.dropped += dropped


def _connect_writer(path: Path, limits: Limits) -> sqlite3.Connection:
    connection = connect(path, "rwc")
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StoreError(f"the file system of {path} cannot hold a store: SQLite's WAL mode is refused ({mode})")
        connection.execute("PRAGMA synchronous = FULL")
        # `checkpoints` says when. The log's file keeps its blocks, unless somebody who read for long made it grow.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA journal_size_limit = {limits.store_log_bytes_max + 2 * limits.commit_bytes_max}")
    except BaseException:
        connection.close()
        raise
    return connection


def _take_back(connection: sqlite3.Connection, appends: Appends) -> None:
    """After a transaction that failed: cut off what it has added to segments, unless it was committed all the same."""
    with suppress(sqlite3.Error):
        for part in appends.parts.values():
            row = connection.execute("SELECT covered FROM segments WHERE no = ?", (part.no,)).fetchone()
            if row == (None if part.is_new else (part.start,)):
                appends.take_back(part)


def _mend(connection: sqlite3.Connection) -> list[str]:
    of_hints = mend_hints(connection)
    if altered := altered_tables(connection):
        raise malformed(f"the tables {', '.join(altered)} are not defined as they should be")
    connection.execute("BEGIN IMMEDIATE")
    try:
        said = mend_origins(connection)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    return of_hints + said


def _place_of(
    scheme: str, host: str, port: int, peer_id: bytes, node_id: str, source: str, good_ms: int, failures: int
) -> BookPlace | None:
    # A row that makes no sense is no reason not to start: what is in the book can be learnt again.
    try:
        return BookPlace(PeerEndpoint(host, port, scheme), PeerId(peer_id), node_id, source, good_ms, failures)
    except (ConfigError, TypeError):
        return None


def _read_states(connection: sqlite3.Connection, path: Path, version: int = len(STEPS)) -> dict[PeerId, OriginState]:
    states: dict[PeerId, OriginState] = {}
    lost = "lost_seq" if version >= _CLAIMED_SINCE else "0"
    claimed = "claimed_seq" if version >= _CLAIMED_SINCE else "lost_seq" if version >= _LOST_SINCE else "0"
    rows = connection.execute(_STATES.format(lost, claimed))
    for peer_id, seq, batch_hash, tail_seq, size, frozen_from, lost_seq, claimed_seq in rows.fetchall():
        if not (
            isinstance(batch_hash, bytes)
            and len(batch_hash) == 32
            and all(isinstance(number, int) for number in (seq, tail_seq, size, lost_seq, claimed_seq))
            and isinstance(frozen_from, int | None)
        ):
            raise StoreCorrupt(f"the store {path} has a damaged list of origins. {WHOLE_FILE}")
        state = OriginState(seq, batch_hash, tail_seq, size, frozen_from, lost_seq, claimed_seq)
        states[_peer_id(peer_id, path)] = state
    return states


def _held(seq_begin: object, seq_end: object, batch_hash: object) -> Held:
    """What a row of the chain says.

    Raises:
        sqlite3.DatabaseError: it is none: the page that it lies on is damaged.
    """
    # Where a batch begins need not make sense: such a row is found out, and another one takes its place.
    if not (isinstance(seq_begin, int) and isinstance(seq_end, int) and isinstance(batch_hash, bytes)):
        raise malformed("a row of the table chain holds what makes no sense")
    if seq_end < 1 or len(batch_hash) != 32:
        raise malformed(f"a row of the table chain makes no sense: a batch that ends at seq {seq_end}")
    return Held(seq_begin, seq_end, batch_hash)


def _is_peer_id(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == 32


def _peer_id(value: object, path: Path) -> PeerId:
    if not isinstance(value, bytes) or len(value) != 32:
        raise StoreCorrupt(f"the store {path} names somebody by what is no peer id. {WHOLE_FILE}")
    return PeerId(value)


def _read_numbers(connection: sqlite3.Connection, path: Path) -> dict[PeerId, int]:
    rows = connection.execute("SELECT no, peer_id FROM origins").fetchall()
    return {_peer_id(peer_id, path): no for no, peer_id in rows}
