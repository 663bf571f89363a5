"""A file that SQLite cannot read at all: what its segments hold becomes a store of its own.

Each batch in a segment says whose it is and where it belongs, and its owner has signed it; so logs can be filed without
an index, as far as segments have them. What lay in the file itself is missing, and peers have to send it: small
batches, proofs, labels, addresses. Nobody knows how far our own log was signed, so a claim is noted that it goes on
above all that is here: nothing is signed before a peer was asked, or `own_claim_s_max` is over.

The file that cannot be read is kept, with SQLite's log.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from p2p.errors import StoreCorrupt, StoreError
from p2p.ids import PeerId
from p2p.replication.batch import verify_signature
from p2p.replication.heads import ZERO_HASH
from p2p.store.base import parse_stored
from p2p.store.blobs import Connection
from p2p.store.files import DAMAGED, PART, beside, connect, make_private, translated, trust
from p2p.store.rebuild import Copy, remove_part, take_place
from p2p.store.schema import prepare
from p2p.store.segments import read_entries, segment_numbers, segment_size


def is_lost(path: Path) -> bool:
    """Whether SQLite can read nothing of a file that is ours, not one batch. One with other tables is somebody's."""
    try:
        with translated(path, "read"), closing(connect(path, "ro")) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            if "batches" in names:
                connection.execute("SELECT no FROM batches LIMIT 1").fetchone()
            return not names
    except StoreCorrupt:
        return True


def salvage(path: Path, own: PeerId) -> str | None:
    """Make a store of what lies in segments. Who calls holds the data dir's lock, and has no connection open.

    Returns:
        A line about what was saved; None if no segment holds a batch, and nothing was done.

    Raises:
        StoreError: it was not done, and the file is as it was.
    """
    ends = _ends(path)
    if not ends:
        return None
    part = beside(path, PART)
    try:
        remove_part(part)
        make_private(part)
        with (
            translated(path, "written anew"),
            closing(_empty(path, own, ends)) as source,
            closing(connect(part, "rw", path)) as target,
        ):
            said = Copy(source, target, part, path).run(own)
        take_place(path, part, keeps_log=True)
    except OSError as error:
        raise StoreError(f"the store {path} cannot be written anew: {error}") from error
    finally:
        with suppress(OSError):
            remove_part(part)
    trust(path)
    return (
        f"nothing of {path} can be read: it was made anew of what its segments hold, {said}. What was in the file "
        "alone is missing, and peers have to send it: small batches, proofs, labels, addresses. The file is kept as "
        f"{path.name}{DAMAGED}. Start the node with --connect ADDRESS of a peer that holds its log: it may have been "
        "signed further than is known here"
    )


def _ends(path: Path) -> dict[PeerId, int]:
    """Whose batches lie in segments, and up to which seq."""
    ends: dict[PeerId, int] = {}
    for no in segment_numbers(path):
        for _, wal_bytes in read_entries(path, no, 0, segment_size(path, no)):
            batch = parse_stored(wal_bytes)
            if batch is not None and verify_signature(batch):
                ends[batch.origin] = max(batch.seq_end, ends.get(batch.origin, 0))
    return ends


def _empty(path: Path, own: PeerId, ends: dict[PeerId, int]) -> sqlite3.Connection:
    """What a file would say that knows how far logs go, and has lost them."""
    connection = sqlite3.connect(":memory:", isolation_level=None, factory=Connection)
    connection.store = path
    prepare(connection, path, own)
    for origin in (own, *(origin for origin in ends if origin != own)):
        end = ends.get(origin, 0)
        connection.execute(
            "INSERT INTO origins (peer_id, seq, hash, tail_seq, size, claimed_seq) VALUES (?, ?, ?, ?, 0, ?)",
            (origin, end, ZERO_HASH, end, end + 1 if origin == own else 0),
        )
    return connection
