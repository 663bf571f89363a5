"""How the store's file is opened, what SQLite's errors mean, and the mark on a file that is to be looked through.

Where nothing can be written (a backup that is mounted read-only, a full disk) SQLite in WAL mode cannot even read: it
wants its two files beside the store. If there is no log of SQLite's that would be missed, and nobody writes, the file
itself is all there is, and is read as one that cannot change.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from p2p.errors import ConfigError, P2PError, StoreCorrupt, StoreError, StoreFull
from p2p.store.base import LOCK_FILE, MOVE_FILE, WHOLE_FILE
from p2p.store.blobs import Connection

BUSY_MS: Final = 2000
PART: Final = ".part"
"""Ends the name of a file that is written anew and not whole yet."""
DAMAGED: Final = ".damaged"
"""Ends the name of the file that was in use before; there is at most one."""
_SUSPECT: Final = ".suspect"
LOG: Final = "-wal"
"""Ends the name of SQLite's log."""
_FREE_BYTES_MIN: Final = 256 * 1024
"""With less than this a disk counts as full: SQLite's index of its log takes 32 KiB, its log a few pages of 16."""
_INDEX_PAGE_BYTES: Final = 4096
_INDEX_ROOM_BYTES: Final = 64 * 1024
"""What must be free where the index of the log is made: 32 KiB, and as much again for whoever writes meanwhile."""


def beside(path: Path, ending: str) -> Path:
    """The file of that ending beside the store's."""
    return path.with_name(path.name + ending)


def lasting(path: Path) -> Path:
    """The same file by a name that stays right when the process goes elsewhere, or a link on the way is turned."""
    return path.parent.resolve() / path.name


def file_id(path: Path) -> tuple[int, int] | None:
    """Which file is there; None for none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def connect(path: Path, mode: str, store: Path | None = None) -> sqlite3.Connection:
    """Open the file.

    Args:
        mode: SQLite's: "ro" or "rw".
        store: the file beside which its segments lie, if it is another one.
    """
    # Each connection belongs to one lane, and a lane is one thread at a time, though not always the same one.
    place = quote(os.fsencode(path.absolute()))
    connection = sqlite3.connect(
        f"file:{place}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False, factory=Connection
    )
    connection.store = path if store is None else store
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    return connection


def check_index_room(path: Path) -> None:
    """Before the first connection to a store: see that its disk takes the index of SQLite's log.

    SQLite makes room for it by a byte in each page, and maps it into memory. Where blocks are smaller than a page that
    is no room, and on a full disk whoever touches the rest of the page dies of SIGBUS.

    Raises:
        StoreFull: there is no room.
    """
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return
    if disk.f_frsize < _INDEX_PAGE_BYTES and disk.f_bavail * disk.f_frsize < _INDEX_ROOM_BYTES:
        raise StoreFull(f"the store {path} cannot be opened, for its disk is full: make room there")


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open the file for reading beside a writer, or where nothing can be written.

    Raises:
        sqlite3.Error: it cannot be opened.
        StoreError: it could be, were it in a place where SQLite may write.
    """
    connection: sqlite3.Connection | None = None
    try:
        if not is_in_use(path):
            check_index_room(path)
        connection = connect(path, "ro")
        connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except (sqlite3.Error, StoreFull) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error) and not _wants_to_write(path, error):
            raise
        log = beside(path, LOG)
        if size_of(log):
            raise StoreError(
                f"the store {path} cannot be read where it lies, because nothing can be written there ({error}), and "
                f"{log.name} beside it holds what is not in it yet: copy {path.name}* to a place where you may write"
            ) from error
        if is_in_use(path):
            raise
        return connect(path, "ro&immutable=1")
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    return connection


def _wants_to_write(path: Path, error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL):
        return False
    return os.access(path, os.R_OK) and (not os.access(path.parent, os.W_OK) or is_full(path))


def size_of(path: Path) -> int:
    """Its size in bytes; 0 where there is none. Only looked at: to open and close it would drop SQLite's locks."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def is_in_use(path: Path) -> bool:
    """Whether a process has the data dir open; what cannot be asked is not."""
    # Somebody may have removed the lock file.
    return any(_is_locked(place) for place in (path.with_name(LOCK_FILE), path.parent))


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def is_full(path: Path) -> bool:
    """Whether the disk that the file lies on has no room for what SQLite must write to open it."""
    return free_bytes(path) < _FREE_BYTES_MIN


def free_bytes(path: Path) -> int:
    """How much room the disk has that the file lies on; very much where it does not say."""
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return 1 << 62
    return disk.f_bavail * disk.f_frsize


def suspect(path: Path) -> None:
    """Leave a mark: the file is to be looked through when it is opened next."""
    # Where no mark can be made the damage is told all the same, and `p2p wal mend` needs none.
    with suppress(OSError):
        os.close(os.open(beside(path, _SUSPECT), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def is_suspect(path: Path) -> bool:
    """Whether there is that mark."""
    return beside(path, _SUSPECT).exists()


def trust(path: Path) -> None:
    """Take the mark away."""
    with suppress(OSError):
        beside(path, _SUSPECT).unlink(missing_ok=True)


def make_private(path: Path) -> None:
    """Make the file, if there is none, so that only its owner reads it; SQLite's -wal and -shm take its mode over."""
    # Whatever is the matter with the place, SQLite says it.
    with suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def beyond_mending(path: Path) -> StoreCorrupt:
    """The error for a file that cannot be written anew."""
    return StoreCorrupt(f"the store {path} is damaged where it cannot be written anew: {MOVE_FILE}")


@contextmanager
def translated(path: Path, done: str) -> Iterator[None]:
    """Turn SQLite's errors into ours, once, here.

    Args:
        path: the store's file.
        done: what was tried: "opened", "read" or "written".
    """
    try:
        yield
    except UnicodeDecodeError as error:
        # A name in the schema, or SQLite's message about it, that is no text any more.
        raise StoreCorrupt(f"the store {path} cannot be {done}: it holds text that is none. {WHOLE_FILE}") from error
    except UnicodeEncodeError as error:
        raise ConfigError(f"{error.object[:80]!r} holds half a character, which UTF-8 cannot write") from error
    except (P2PError, MemoryError):
        raise
    except sqlite3.Error as error:
        raise _translation(path, done, error) from error
    except Exception as error:
        if done == "written":
            # What is written may be somebody's mistake.
            raise
        # A row of a damaged page holds anything at all, or nothing where something must be.
        raise StoreCorrupt(f"the store {path} cannot be {done}: it holds what makes no sense. {WHOLE_FILE}") from error


def _translation(path: Path, done: str, error: sqlite3.Error) -> StoreError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    text = f"the store {path} cannot be {done}: {error}"
    if code == sqlite3.SQLITE_CANTOPEN and path.exists() and not os.access(path, os.R_OK | os.W_OK):
        return StoreError(f"the store {path} cannot be {done}: this user may not read or write it")
    if code == sqlite3.SQLITE_FULL or (code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR) and is_full(path)):
        return StoreFull(f"the store {path} cannot be {done}, for its disk is full ({error}): make room there")
    # Our statements are right, and the schema's version is ours: what SQLite cannot make sense of is damage.
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH):
        return StoreCorrupt(f"{text}. {WHOLE_FILE}")
    return StoreError(text)
