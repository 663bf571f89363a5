"""The durable store's tables, and how an older file becomes a newer one.

The schema's version is SQLite's `user_version`. A fresh file goes through the same steps as an old one, all in one
transaction, so a crash leaves either the old schema or the new. A file of a newer version is refused: what this
software does not know it could destroy.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from p2p.errors import IdentityMismatch, StoreCorrupt, StoreError
from p2p.ids import PeerId
from p2p.store.base import TARGETS_MAX, parse_stored
from p2p.store.blobs import IN_TABLE, read_batch

APPLICATION_ID: Final = int.from_bytes(b"VP2P", "big")
PAGE_BYTES: Final = 8192
"""Of a new file; an older one keeps what it has. A commit writes three or four whole pages, and that is most of what it
writes: big batches lie elsewhere. With 16 KiB these take 7 % longer."""

INDEX_TARGET: Final = "INSERT OR IGNORE INTO targets (target, origin) VALUES (?, ?)"
"""Note that an origin (by its number) has records for a target."""
ANYBODY: Final = b""
"""In the place of a target: the origin has records for so many that they may be for anybody."""

# `chain` is small and has everything that decisions need; `batches` is a rowid table, which suits big blobs.
Step: TypeAlias = str | Callable[[sqlite3.Connection], None]


def index_targets(connection: sqlite3.Connection) -> None:
    """Make the table `targets` from the batches."""
    connection.execute(
        "CREATE TABLE targets (target BLOB NOT NULL, origin INTEGER NOT NULL, PRIMARY KEY (target, origin))"
        " WITHOUT ROWID"
    )
    found: dict[int, set[bytes]] = {}
    # The step that made this table first knew no segments.
    segment = "segment" if has_segments(connection) else str(IN_TABLE)
    places = f"SELECT origin, {segment}, batch FROM chain WHERE damaged = 0"  # noqa: S608  # names of ours
    for origin, *place in connection.execute(places):
        targets = found.setdefault(origin, set())
        if len(targets) < TARGETS_MAX:
            targets |= _targets_of(connection, *place)
    for origin, targets in found.items():
        kept = sorted(targets) if len(targets) < TARGETS_MAX else [ANYBODY]
        connection.executemany(INDEX_TARGET, [(target, origin) for target in kept])


def has_segments(connection: sqlite3.Connection) -> bool:
    """Whether the file's schema is one that knows segments."""
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'segments'").fetchone() is not None


def _targets_of(connection: sqlite3.Connection, segment: int, number: int) -> frozenset[PeerId]:
    # One that is damaged is found again, and quarantined, when it is read.
    wal_bytes = read_batch(connection, segment, number)
    batch = None if wal_bytes is None else parse_stored(wal_bytes)
    return frozenset() if batch is None else batch.targets


# Tables that can be made anew (`p2p.store.hints`): one that changes is made the new way there, too.
CURSORS: Final = (
    "CREATE TABLE cursors (name TEXT NOT NULL, origin BLOB NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (name, origin))"
    " WITHOUT ROWID"
)
PINS: Final = (
    "CREATE TABLE pins (node_id TEXT PRIMARY KEY, peer_id BLOB NOT NULL, seen_ms INTEGER NOT NULL) WITHOUT ROWID"
)
BOOK: Final = (
    "CREATE TABLE book ("
    " scheme TEXT NOT NULL, host TEXT NOT NULL, port INTEGER NOT NULL, peer_id BLOB NOT NULL, node_id TEXT NOT NULL,"
    " source TEXT NOT NULL, good_ms INTEGER NOT NULL, failures INTEGER NOT NULL, PRIMARY KEY (scheme, host, port)"
    ") WITHOUT ROWID"
)
BANS: Final = "CREATE TABLE bans (peer_id BLOB PRIMARY KEY, until_ms INTEGER NOT NULL) WITHOUT ROWID"
TARGETS_OF_ORIGIN: Final = "CREATE INDEX targets_of_origin ON targets (origin)"

STEPS: Final[tuple[Step, ...]] = (
    f"""
    CREATE TABLE identity (one INTEGER PRIMARY KEY CHECK (one = 1), peer_id BLOB NOT NULL);
    CREATE TABLE origins (
        no INTEGER PRIMARY KEY, peer_id BLOB NOT NULL UNIQUE, seq INTEGER NOT NULL, hash BLOB NOT NULL,
        tail_seq INTEGER NOT NULL, size INTEGER NOT NULL, frozen_from INTEGER
    );
    CREATE TABLE batches (no INTEGER PRIMARY KEY, wal BLOB NOT NULL);
    CREATE TABLE chain (
        origin INTEGER NOT NULL, seq_end INTEGER NOT NULL, seq_begin INTEGER NOT NULL, hash BLOB NOT NULL,
        signature_crc INTEGER NOT NULL, damaged INTEGER NOT NULL, batch INTEGER NOT NULL,
        PRIMARY KEY (origin, seq_end)
    ) WITHOUT ROWID;
    CREATE TABLE proofs (origin INTEGER PRIMARY KEY, first BLOB NOT NULL, second BLOB NOT NULL);
    {CURSORS};
    {PINS};
    """,
    "ALTER TABLE origins ADD COLUMN lost_seq INTEGER NOT NULL DEFAULT 0",
    index_targets,
    f"{BOOK}; {BANS}",
    # What was noted as lost so far was what peers had shown.
    """
    ALTER TABLE origins ADD COLUMN claimed_seq INTEGER NOT NULL DEFAULT 0;
    UPDATE origins SET claimed_seq = lost_seq, lost_seq = 0
    """,
    TARGETS_OF_ORIGIN,
    """
    ALTER TABLE chain ADD COLUMN segment INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE segments (
        no INTEGER PRIMARY KEY, origin INTEGER NOT NULL, covered INTEGER NOT NULL, is_open INTEGER NOT NULL
    )
    """,
)
"""For each version what leads to it from the one before: statements, ended by semicolons, or a function. Each changes
the list of tables: it says which version a file has whose head is damaged."""


def prepare(connection: sqlite3.Connection, path: Path, own: PeerId, steps: Sequence[Step] = STEPS) -> None:
    """Bring the file to the newest schema, and record or check whose it is.

    Raises:
        StoreError: it was made by a newer version.
        StoreCorrupt: it is some other database.
        IdentityMismatch: it belongs to another identity.
        sqlite3.Error: it could not be read or written.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = check_version(connection, path, steps)
        for step in steps[version:]:
            if callable(step):
                step(connection)
                continue
            # Not executescript: it would commit what came before.
            for statement in step.split(";"):
                connection.execute(statement)
        if version == 0:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("INSERT INTO identity (one, peer_id) VALUES (1, ?)", (own,))
        if version < len(steps):
            connection.execute(f"PRAGMA user_version = {len(steps)}")
        owner = read_owner(connection, path)
        if owner != own:
            raise IdentityMismatch(
                f"the store {path} belongs to {owner}, and the key given is that of {own}: "
                "use its own key, or another data dir; if nobody changed either, the store is damaged: "
                "see `p2p wal verify`"
            )
        connection.execute("COMMIT")
    except BaseException:
        # On a full disk SQLite may have taken it back by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def check_version(connection: sqlite3.Connection, path: Path, steps: Sequence[Step] = STEPS) -> int:
    """Return the file's schema version, 0 for a fresh one.

    Raises:
        StoreError: it is newer than this software.
        StoreCorrupt: it is some other database.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    tables = int(connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0])
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    if tables and (application != APPLICATION_ID or version < 1):
        raise StoreCorrupt(f"{path} is a database, but not a store of this software: give another data dir")
    if version > len(steps):
        raise StoreError(
            f"the store {path} has schema version {version}, and this software knows up to {len(steps)}: "
            "use the version that wrote it, or a newer one"
        )
    return version


def read_owner(connection: sqlite3.Connection, path: Path) -> PeerId:
    """Return the identity that the file belongs to.

    Raises:
        StoreCorrupt: it does not say.
    """
    row = connection.execute("SELECT peer_id FROM identity").fetchone()
    if row is None or not isinstance(row[0], bytes) or len(row[0]) != 32:
        raise StoreCorrupt(f"the store {path} does not say whose it is")
    return PeerId(row[0])
