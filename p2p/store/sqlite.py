"""The durable store: one SQLite file, in WAL mode with synchronous=FULL; and its segments, for big batches.

`SqliteStore` has the one connection that writes, a second that only reads (`reader`), and a third that copies SQLite's
log into the file (`checkpoints`).

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
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from p2p.errors import StoreCorrupt, StoreError, StoreReadOnly
from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.policy.book import BookPlace
from p2p.store.base import Damage, Loaded, NotBulk, OriginState, Transaction
from p2p.store.blobs import is_damage, malformed
from p2p.store.checkpoints import Checkpoints
from p2p.store.definitions import altered_tables, check_version_told
from p2p.store.disk import gone
from p2p.store.files import (
    LOG,
    beside,
    check_index_room,
    connect,
    file_id,
    lasting,
    make_private,
    size_of,
    suspect,
    translated,
)
from p2p.store.head import check_head, copy_log
from p2p.store.hints import mend_hints
from p2p.store.mend import mend_origins
from p2p.store.reader import SqliteReader
from p2p.store.rebuild import look_through
from p2p.store.replay import Beyond, Tail, TakingUp, drop_forgotten, file_beyond, segments_at_open, tails_of_open
from p2p.store.rows import read_numbers, read_states
from p2p.store.schema import PAGE_BYTES, prepare
from p2p.store.segments import Appends, Segment, drop_segment, try_room
from p2p.store.transaction import SqliteTransaction

_LIMITS: Final = Limits()
_PROBE_BYTES: Final = _LIMITS.batch_bytes_max
_COMMIT_BYTES: Final = 4 * PAGE_BYTES
"""What a commit writes beside batches, about: the pages of the file's head, of the small rows and of a log's end."""


class Closable(Protocol):
    """What a store gives back with itself: the lock on its data dir."""

    def close(self) -> None:
        """Give it back."""


class SqliteStore:
    """A `Store` in one file and its segments. Opened by `p2p.store.keys.open_store`, which looks after key and lock.

    Args:
        path: the file; made if it is absent.
        own: whose log the node writes.
        lock: given back when the store is closed.
        limits: bounds.

    Attributes:
        mended: one line for each note of a log's end, and each table of hints, that was damaged when the store was
            opened, and put right; for each segment that the index does not know and that is left; and for each that is
            not whole any more.

    Raises:
        IdentityMismatch: the file belongs to another identity.
        StoreError: it cannot be opened, is damaged, or was made by a newer version.
    """

    def __init__(self, path: Path, own: PeerId, lock: Closable | None = None, limits: Limits = _LIMITS) -> None:
        self._path = path = lasting(path)
        self._own = own
        self._lock = lock
        self._limits = limits
        self._is_failed = False
        self._is_displaced = False
        # What the commits since the last one that was synced have in segments, and whether the connection syncs none.
        # At the bound the next one is synced: what is found in SQLite's log at the start may be in memory alone.
        self._unsynced_bytes = limits.segment_tail_bytes_max
        self._is_lax = False
        # The last that were written and whose commit failed half-way.
        self._in_doubt: Appends | None = None
        # Segments that commits which failed have made.
        self._begun: set[int] = set()
        self._beyond: Beyond = {}
        self._writer: sqlite3.Connection | None = None
        try:
            with translated(path, "opened"):
                check_head(path)
                check_index_room(path)
                copy_log(path)
                check_head(path)
                make_private(path)
                self._writer = _connect_writer(path, limits)
                self._file_id = file_id(path)
                check_version_told(self._writer, path)
                prepare(self._writer, path, own)
                self.mended = _mend(self._writer)
                log_bytes = size_of(beside(path, LOG))
                self._checkpoints = Checkpoints(partial(_connect_writer, path, limits), log_bytes, limits)
                if self._is_log_copied(self._writer):
                    self._unsynced_bytes = 0
                self._states = read_states(self._writer, path)
                self._numbers = read_numbers(self._writer, path)
                owners = {no: peer_id for peer_id, no in self._numbers.items()}
                drop_forgotten(self._writer, path)
                self._segments, tails, self._next_segment = segments_at_open(self._writer, path, owners)
            self.mended += self._take_up(tails)
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
    def _write(self, is_bulk: bool) -> Iterator[SqliteTransaction]:
        connection = self._writer
        if self._is_failed or connection is None:
            raise StoreReadOnly(f"the store {self._path} failed and is not recovered yet")
        limits = self._limits
        # Until it is known that nothing is in doubt.
        self._is_failed = True
        is_committing = False
        appends = Appends(self._path, self._segments, self._next_segment, limits.segment_bytes_max)
        transaction = SqliteTransaction(connection, self._own, self._states, self._numbers, appends)
        transaction.big_bytes = 0 if is_bulk else limits.segment_batch_bytes_min
        with translated(self._path, "written"):
            try:
                if self._is_displaced:
                    raise gone(self._path)
                self._checkpoints.copy_rest(connection)
                is_synced = not is_bulk or self._unsynced_bytes >= limits.segment_tail_bytes_max
                if self._is_lax is is_synced:
                    self._be_lax(connection, not is_synced)
                connection.execute("BEGIN IMMEDIATE")
                changes = connection.total_changes
                yield transaction
                if self._beyond and self._own in transaction.changed:
                    file_beyond(transaction, self._path, self._beyond)
                transaction.save()
                changes = connection.total_changes - changes
                if self._is_lax and changes != transaction.told_changes:
                    self._unsynced_bytes = limits.segment_tail_bytes_max
                    raise NotBulk
                appends.write()
                if changes:
                    self._checkpoints.begin(transaction.row_bytes + _COMMIT_BYTES)
                is_committing = True
                connection.execute("COMMIT")
                self._checkpoints.end()
            except BaseException as error:
                appends.withdraw()
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
                    self._begun.update(part.no for part in appends.parts.values() if part.is_new)
                    # A commit that failed may come back from the disk as long as SQLite's log is not emptied.
                    if is_committing:
                        self._in_doubt = appends
                    else:
                        _take_back(connection, appends)
                raise
        self._take_over(transaction, appends)
        self._is_failed = False

    def _take_over(self, transaction: SqliteTransaction, appends: Appends) -> None:
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
        own = self._states.get(self._own)
        if self._beyond and own is not None and not own.is_lost:
            self._beyond = {}

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

    def _take_up(self, tails: list[Tail]) -> list[str]:
        """File again what segments hold and the index does not, and close them; a line for each that is left."""
        taking_up = TakingUp(partial(self._write, is_bulk=False), self._path, self._states)
        taking_up.run(tails)
        self._beyond.update(taking_up.beyond)
        return taking_up.said

    def _disown_begun(self) -> None:
        """What a commit that failed has begun counts no more, though its file could not be removed."""
        if self._begun:
            with self._write(is_bulk=False) as transaction:
                transaction.disown_segments(self._begun)
            self._begun = set()

    def current(self) -> Mapping[PeerId, OriginState]:
        """What is held as of the last commit."""
        return self._states

    def recover(self) -> None:
        """New handle, the whole log checkpointed, heads read anew, and room for a batch tried."""
        self._is_failed = True
        self._close_writer()
        with translated(self._path, "written"):
            if self._find_displaced():
                raise gone(self._path)
            connection = _connect_writer(self._path, self._limits)
            try:
                if not self._checkpoints.copy_all(connection):
                    raise StoreError(f"the store {self._path} is being read by somebody and cannot be checkpointed")
                with translated(self._path, "read"):
                    _mend(connection)
                    states = read_states(connection, self._path)
                    numbers = read_numbers(connection, self._path)
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
            self._disown_begun()
        except BaseException:
            self._segments = acknowledged
            self._is_failed = True
            raise

    def chore(self) -> Callable[[], None] | None:
        """The copying of SQLite's log into the file, when it is time."""
        return self._copy_beside if self._checkpoints.is_pass_due else None

    def _copy_beside(self) -> None:
        # Not at each commit: it would cost as much as the rest of Python's part of one that is small.
        if not self._find_displaced():
            self._checkpoints.copy_beside()

    def _find_displaced(self) -> bool:
        """Whether the file is not any more where it was opened, and whoever opens it next looks for it: what is written
        then is found by nobody, and a copy that was put in its place knows of nothing since."""
        self._is_displaced = file_id(self._path) != self._file_id
        return self._is_displaced

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


def _connect_writer(path: Path, limits: Limits) -> sqlite3.Connection:
    connection = connect(path, "rw")
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
