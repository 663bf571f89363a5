"""One write to the durable store, as statements of SQLite's: what `Transaction` leaves open, and what segments need."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from p2p.ids import PeerId
from p2p.policy.book import Address, BookPlace
from p2p.replication.accept import Held
from p2p.replication.batch import Batch
from p2p.replication.fork import Proof
from p2p.replication.heads import ZERO_HASH
from p2p.store.base import TARGETS_MAX, DamagedRange, OriginState, Transaction, is_what_was_stored, parse_stored
from p2p.store.blobs import IN_TABLE, read_batch
from p2p.store.rows import held_of
from p2p.store.schema import ANYBODY, INDEX_TARGET
from p2p.store.segments import Appends

NOBODY: Final = 0
"""In the place of a log's number: the segment is out of use, and its file may still be there. No log has it."""
_CLOSED: Final = 0
OPEN: Final = 1
"""The segment to which its log's next big batch is added."""
KEPT: Final = 2
"""What it holds beyond what is known of it may be filed later."""
LOST: Final = 3
"""It is closed, and has not all that is known of it."""
_FORGOTTEN: Final = f"INSERT INTO segments VALUES (?, {NOBODY}, 0, 0)"  # noqa: S608  # a number of ours
_IS_FOR_ANYBODY: Final = "SELECT 1 FROM targets WHERE target = ? AND origin = ?"


class SqliteTransaction(Transaction):
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

    def foresee(self, size: int, pieces: Sequence[bytes]) -> None:
        if self.big_bytes is not None and size >= self.big_bytes:
            self._appends.write_ahead(self.own, size, pieces)

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
                "UPDATE segments SET covered = ?, is_open = ? WHERE no = ?",
                (part.end, _CLOSED if part.is_full else OPEN, part.no),
            )
            self.told_changes += not part.is_full

    def add_segment(self, no: int, origin: PeerId, covered: int) -> None:
        """Let the index know a segment up to there, as one that is closed."""
        self._connection.execute("INSERT INTO segments VALUES (?, ?, ?, 0)", (no, self._number(origin), covered))

    def disown_segments(self, numbers: Iterable[int]) -> None:
        """Those of them that the index does not know are out of use; their files go with the next start."""
        self._connection.executemany(_FORGOTTEN.replace("INSERT", "INSERT OR IGNORE"), [(no,) for no in numbers])

    def close_segment(self, no: int, *, is_kept: bool) -> None:
        """Nothing is added to a segment any more; nor does anything beyond what is known of it count, unless it is
        kept."""
        self._connection.execute("UPDATE segments SET is_open = ? WHERE no = ?", (KEPT if is_kept else _CLOSED, no))

    def lose_segment(self, no: int) -> None:
        """Its file is gone, or cut off, and that is known."""
        self._connection.execute("UPDATE segments SET is_open = ? WHERE no = ?", (LOST, no))

    def missing_in(self, no: int, origin: PeerId) -> list[DamagedRange]:
        """The batches of a log that are filed as lying in a segment and cannot be read there, ascending."""
        rows = self._connection.execute(
            "SELECT seq_begin, seq_end, batch FROM chain WHERE origin = ? AND segment = ? AND damaged = 0"
            " ORDER BY seq_end",
            (self._number(origin), no),
        ).fetchall()
        return [
            DamagedRange(origin, seq_begin, seq_end)
            for seq_begin, seq_end, place in rows
            if isinstance(seq_begin, int) and read_batch(self._connection, no, place) is None
        ]

    def drop_claim(self) -> None:
        super().drop_claim()
        # Nor is what lies beyond the gap, which other records will take the place of.
        self._connection.execute("UPDATE segments SET is_open = ? WHERE is_open = ?", (_CLOSED, KEPT))

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
        held = None if row is None else held_of(*row)
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
        return None if row is None else held_of(*row)

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
        self._connection.executemany(_FORGOTTEN, [(no,) for no in dropped])
        self.dropped += dropped
