"""Reading the durable store: one connection that only reads, on the lane "read", and in tools beside a running node.

Each call is one short read transaction: one that stayed open would keep SQLite from ever shortening its log.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from p2p.errors import ConfigError, StoreCorrupt, StoreError
from p2p.ids import PeerEndpoint, PeerId
from p2p.policy.book import BookPlace
from p2p.replication.accept import Held
from p2p.store.base import (
    MOVE_FILE,
    Damage,
    DamagedRange,
    Loaded,
    OriginState,
    StoredBatch,
    detail_of,
    is_what_was_stored,
)
from p2p.store.blobs import IN_TABLE, is_damage, read_batch
from p2p.store.check import check_chain, check_proof_kept
from p2p.store.definitions import check_version_told
from p2p.store.files import connect_to_read, is_in_use, lasting, translated
from p2p.store.hints import damaged_tables
from p2p.store.replay import end_beyond
from p2p.store.rows import held_of, is_peer_id, peer_id_of, read_states
from p2p.store.schema import ANYBODY, STEPS, check_version, read_owner
from p2p.store.segments import segment_numbers

_ROWS_PER_READ: Final = 256
_VERIFIED_AGAIN_MAX: Final = 3
"""So often a log is read in which something was found, if it changed meanwhile."""
_ALL: Final = -1
"""In the place of how many rows are wanted."""
_LOAD: Final = (
    "SELECT c.seq_begin, c.seq_end, c.hash, c.signature_crc, c.damaged, {0}, c.batch, b.wal"
    " FROM chain AS c LEFT JOIN batches AS b ON {0} = 0 AND b.no = c.batch"
    " WHERE c.origin = (SELECT no FROM origins WHERE peer_id = ?)"
    " AND c.seq_end >= ? AND c.seq_end <= ? ORDER BY c.seq_end LIMIT ?"
)
_BOOK_SINCE: Final = 4
"""The version of the schema that brought address book and bans."""
_SEGMENTS_SINCE: Final = 7
"""The version that brought segments."""
_NEXT: Final = (
    "SELECT seq_begin, seq_end FROM chain WHERE origin = (SELECT no FROM origins WHERE peer_id = ?)"
    " AND seq_end >= ? AND damaged = 0 ORDER BY seq_end LIMIT 1"
)


class SqliteReader:
    """A connection that only reads.

    Args:
        path: the store's file; it must exist.

    Raises:
        StoreError: it cannot be read, is damaged, or was made by a newer version.
    """

    def __init__(self, path: Path) -> None:
        # SQLite does not mind where it lies by now, and segments must not.
        self._path = path = lasting(path)
        # Who closes may be another thread than the one that still reads.
        self._in_use = threading.Lock()
        with translated(path, "opened"):
            self._connection = connect_to_read(path)
            try:
                check_version_told(self._connection, path)
                self._known_version = check_version(self._connection, path)
                if not self._known_version:
                    why = "the start that made it did not come to an end; start again"
                    if segment_numbers(path):
                        why = f"it lost what was in it, for segments lie beside it. Put it back, or {MOVE_FILE}"
                    raise StoreError(f"the store {path} is empty: {why}")
                with translated(path, "opened (table identity)"):
                    self._own = read_owner(self._connection, path)
            except BaseException:
                self._connection.close()
                raise

    @property
    def own(self) -> PeerId:
        """The identity this store belongs to."""
        return self._own

    @property
    def _version(self) -> int:
        """The file's schema. A node that is started may bring an older one to the newest while this is open."""
        if self._known_version < len(STEPS):
            self._known_version = check_version(self._connection, self._path)
        return self._known_version

    def states(self) -> dict[PeerId, OriginState]:
        """Everything that is held, read anew."""
        with self._in_use, translated(self._path, "read"):
            return read_states(self._connection, self._path, self._version)

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
                held = held_of(seq_begin, seq_end, batch_hash)
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
        return {PeerId(origin): seq for origin, seq in rows if is_peer_id(origin) and isinstance(seq, int)}

    def origins_for(self, target: PeerId, count_max: int) -> list[PeerId]:
        """Origins with records for a target, ascending."""
        with self._in_use, translated(self._path, "read"):
            rows = self._connection.execute(
                "SELECT DISTINCT o.peer_id FROM targets AS t JOIN origins AS o ON o.no = t.origin"
                " WHERE t.target IN (?, ?) ORDER BY o.peer_id LIMIT ?",
                (target, ANYBODY, count_max),
            ).fetchall()
        return [peer_id_of(origin, self._path) for (origin,) in rows]

    def pins(self) -> dict[str, PeerId]:
        """Weak pins of labels, the one seen longest ago first."""
        rows = self._hints("SELECT node_id, peer_id FROM pins ORDER BY seen_ms, node_id")
        return {label: PeerId(holder) for label, holder in rows if isinstance(label, str) and is_peer_id(holder)}

    def book(self) -> list[BookPlace]:
        """The places where peers were met, the one that was good longest ago first; none in a file of before there
        were any."""
        rows = self._hints(
            "SELECT scheme, host, port, peer_id, node_id, source, good_ms, failures FROM book"
            " ORDER BY good_ms, scheme, host, port",
            _BOOK_SINCE,
        )
        return [place for row in rows if (place := _place_of(*row)) is not None]

    def bans(self) -> dict[PeerId, int]:
        """Who is left alone, and until when, the one that ends first first."""
        rows = self._hints("SELECT peer_id, until_ms FROM bans ORDER BY until_ms, peer_id", _BOOK_SINCE)
        return {PeerId(banned): until for banned, until in rows if is_peer_id(banned) and isinstance(until, int)}

    def _hints(self, sql: str, since: int = 1) -> list[tuple[Any, ...]]:
        """Rows of a table that holds nothing of the logs; none if it is damaged. Who opens the store mends it.

        Args:
            since: the version of the schema that brought the table.
        """
        try:
            with self._in_use, translated(self._path, "read"):
                return self._connection.execute(sql).fetchall() if self._version >= since else []
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
            yield from self._verify_log(origin, state)
        own = states.get(self._own, OriginState())
        if (end := self.own_end()) > max(own.tail_seq, own.lost_seq, own.claimed_seq):
            detail = (
                f"segments hold it up to seq {end}, beyond what is missing after seq {own.seq}: an older log.sqlite?"
            )
            yield Damage("end", self._own, None, detail)

    def own_end(self) -> int:
        """Up to where the owner's log goes, as far as is known here: above its head, something is missing.

        Raises:
            StoreError: it cannot be read.
        """
        state = self.states().get(self._own, OriginState())
        known = state.seq if state.frozen_from is not None else max(state.tail_seq, state.lost_seq, state.claimed_seq)
        # Who has it open looked, and what he adds now is not in the index yet.
        if state.frozen_from is not None or self._version < _SEGMENTS_SINCE or is_in_use(self._path):
            return known
        with self._in_use, translated(self._path, "read"):
            return max(known, end_beyond(self._connection, self._path, self._own, state.seq))

    def _verify_log(self, origin: PeerId, state: OriginState) -> list[Damage]:
        """What is wrong with a log. Beside a running node it may be forgotten, or fetched again, while it is read: what
        is found counts if the log is then what it was."""
        found = self._check_log(origin, state)
        for _ in range(_VERIFIED_AGAIN_MAX):
            now = self.states().get(origin) if found else state
            if now == state:
                break
            if now is None:
                return []
            state = now
            found = self._check_log(origin, state)
        return found

    def _check_log(self, origin: PeerId, state: OriginState) -> list[Damage]:
        found: list[Damage] = []
        try:
            with translated(self._path, "read"):
                found += check_chain(origin, state, self._rows_of(origin))
                found += check_proof_kept(origin, state, self.proof(origin))
        except StoreError as error:
            if isinstance(error.__cause__, OSError):
                # What may not be read now, or by this user, is not known to be damaged.
                raise
            found.append(Damage("file", origin, None, detail_of(error)))
        return found

    def _rows_of(self, origin: PeerId) -> Iterator[tuple[Held, bytes | None, int, bool]]:
        after = 0
        while True:
            segment_of = "segment" if self._version >= _SEGMENTS_SINCE else str(IN_TABLE)
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


def _place_of(
    scheme: str, host: str, port: int, peer_id: bytes, node_id: str, source: str, good_ms: int, failures: int
) -> BookPlace | None:
    # A row that makes no sense is no reason not to start: what is in the book can be learnt again.
    try:
        return BookPlace(PeerEndpoint(host, port, scheme), PeerId(peer_id), node_id, source, good_ms, failures)
    except (ConfigError, TypeError):
        return None
