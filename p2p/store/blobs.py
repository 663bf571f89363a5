"""Reading batches inside a transaction that writes, from a disk that may be damaged.

A SELECT that meets a broken page takes the whole transaction with it: every later statement fails as well, also one
that only marks the batch as damaged. SQLite's blob interface fails alone.
"""

from __future__ import annotations

import sqlite3


def read_batch(connection: sqlite3.Connection, number: int) -> bytes | None:
    """Read the bytes of a batch; None if they are gone or cannot be read.

    Args:
        number: of its row in `batches`.

    Raises:
        sqlite3.Error: the file cannot be read as a whole.
    """
    try:
        with connection.blobopen("batches", "wal", number, readonly=True) as blob:
            return blob.read()
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
