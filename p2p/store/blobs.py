"""Reading batches, wherever they lie, from a disk that may be damaged; also inside a transaction that writes.

A row of `chain` says where its batch is: in `segment` 0 it is the row `batch` of the table `batches`, in any other it
begins at the offset `batch` of that file.

A SELECT that meets a broken page takes the whole transaction with it: every later statement fails as well, also one
that only marks the batch as damaged. SQLite's blob interface fails alone.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from p2p.store.segments import BATCH_BYTES_MAX, read_entry

IN_TABLE: Final = 0
"""In the place of a segment's number: the batch is a row."""


class Connection(sqlite3.Connection):
    """A connection that knows beside which file its segments lie.

    Attributes:
        store: that file.
    """

    store: Path


def read_batch(
    connection: sqlite3.Connection, segment: object, number: object, size_max: int = BATCH_BYTES_MAX
) -> bytes | None:
    """Read the bytes of a batch; None if they are gone or cannot be read.

    Args:
        segment, number: where its row of `chain` says that it is.
        size_max: of a longer one so much is read.

    Raises:
        sqlite3.Error, StoreError: the file cannot be read as a whole.
    """
    if not isinstance(segment, int) or not isinstance(number, int):
        return None
    if segment != IN_TABLE:
        assert isinstance(connection, Connection)
        return read_entry(connection.store, segment, number, size_max)
    try:
        with connection.blobopen("batches", "wal", number, readonly=True) as blob:
            return blob.read(size_max)
    except sqlite3.Error as error:
        # SQLITE_ERROR: no such row, or no bytes in it.
        if is_damage(error) or getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
            return None
        raise


def malformed(what: str) -> sqlite3.DatabaseError:
    """The error for a row that SQLite reads, and that cannot be one of ours."""
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def is_damage(error: sqlite3.Error) -> bool:
    """Whether a read failed because of what lies on the disk, at one place, and not as a whole."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF == sqlite3.SQLITE_CORRUPT or code in (
        sqlite3.SQLITE_IOERR_READ,
        sqlite3.SQLITE_IOERR_SHORT_READ,
        sqlite3.SQLITE_IOERR_CORRUPTFS,
    )
