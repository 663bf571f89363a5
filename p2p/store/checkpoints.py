"""How SQLite's log is copied into its file: most of it beside the commits, the rest between two of them.

SQLite writes everything twice. A commit appends pages to the log and syncs it, and is durable by that; a checkpoint
copies them into the file and syncs that. When all is copied and nobody reads from the log, the next commit begins it
anew, over blocks that the file system has given out already: such a sync takes half as long as one that lets the log
grow, so the log is kept short.

    lane "write"   commit commit commit commit commit commit … [ rest ] commit
    lane "chore"            └── pass ──┘      └── pass ──┘              └ begins the log anew

A pass copies what was committed before it began, while commits go on; so it never copies all, and the log goes on
growing. The rest is copied on the lane "write", where it is small by then. If passes fail, or fall behind, or somebody
reads for long from an old place, the rest is large: that bounds the log, as far as readers let it be bounded.

A pass that fails is no failure of a commit: everything is in the log, and nothing that was not synced counts as copied.
The rest that fails makes the commit fail that would come next, before it began. Otherwise a disk that is full, or
refuses the file and not the log, would let the log grow for ever. So does a pass whose sync fails: it may be the first
sync of commits that were made without one, and another sync of the same file would pass.

One thing must not be: that a pass begins in the moment in which a commit begins the log anew. SQLite up to 3.51.2 may
then take what is new for copied, and lose it ("WAL reset bug"). The log begins anew only when all of it is copied, and
only our own two lanes commit and copy. Therefore a pass begins only when a commit began after the end of all copying so
far, and is over: what it wrote nobody can have copied yet.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from p2p.errors import StoreError
from p2p.limits import Limits

_READERS_MS: Final = 100
"""So long the rest waits for those who read from the log. What our own lane reads at once takes some milliseconds."""


class Checkpoints:
    """Keeps the log of one open store short.

    Args:
        connect: opens a connection of its own for the passes.
        log_bytes: how long the log is when the store is opened.
        limits: bounds.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], log_bytes: int, limits: Limits) -> None:
        self._connect = connect
        self._pass_bytes = limits.store_pass_bytes
        # So long before the bound, a moment will do in which a pass has left little.
        self._spare_bytes = 2 * limits.store_pass_bytes
        self._log_bytes = limits.store_log_bytes_max - self._spare_bytes
        self._connection: sqlite3.Connection | None = None
        self._failed_sync: sqlite3.Error | None = None
        # Held by whoever copies.
        self._copying = threading.Lock()
        # All count bytes that were ever written to the log. The first three are the lane "write"'s.
        self._begun = self._committed = log_bytes
        self._rest_at = self._log_bytes
        self._copied = log_bytes

    def begin(self, size: int) -> None:
        """A commit of about so many bytes begins. Lane "write"."""
        self._begun += size

    def end(self) -> None:
        """It is over, and durable. Lane "write"."""
        self._committed = self._begun

    @property
    def is_pass_due(self) -> bool:
        """Whether there is enough to copy."""
        return self._committed - self._copied >= self._pass_bytes

    def copy_beside(self) -> None:
        """Make a pass, if one is due. Lane "chore". Never raises for a disk: what is not copied is tried again."""
        with self._copying:
            if not self.is_pass_due:
                return
            try:
                if self._connection is None:
                    self._connection = self._connect()
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            except (sqlite3.Error, StoreError) as error:
                if isinstance(error, sqlite3.Error) and _is_of_sync(error):
                    self._failed_sync = error
                self._close_connection()
            # Not what had begun before: the pass may have copied commits that came while it began.
            self._copied = self._begun

    def copy_rest(self, connection: sqlite3.Connection) -> None:
        """Before a commit: if the log is long, copy all that is left, so that the commit begins it anew. Lane "write".

        Raises:
            sqlite3.Error: the disk refuses, or refused to sync a pass; until `copy_all` succeeded.
        """
        if self._failed_sync is not None:
            raise self._failed_sync
        beyond = self._committed - self._rest_at
        is_little_left = self._committed - self._copied < self._pass_bytes // 4
        if beyond < 0 or (beyond < self._spare_bytes and not is_little_left):
            return
        with self._copying:
            timeout = connection.execute("PRAGMA busy_timeout").fetchone()[0]
            connection.execute(f"PRAGMA busy_timeout = {_READERS_MS}")
            try:
                is_busy, _, _ = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            finally:
                connection.execute(f"PRAGMA busy_timeout = {timeout}")
            self._copied = self._begun
        # While somebody reads from an old place, there is no sense in trying before every commit.
        self._rest_at = self._committed + (self._pass_bytes if is_busy else self._log_bytes)

    def copy_all(self, connection: sqlite3.Connection) -> bool:
        """Copy all, sync it, and empty the log, with nothing that was opened before. Lane "write".

        Returns:
            Whether that was possible: not while somebody reads from an old place.

        Raises:
            sqlite3.Error: the disk refuses.
        """
        with self._copying:
            self._close_connection()
            if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                return False
            self._copied = self._committed = self._begun
            self._failed_sync = None
        self._rest_at = self._committed + self._log_bytes
        return True

    def close(self) -> bool:
        """Make no pass any more.

        Returns:
            False if one is under way: its disk hangs, since who stops waits for it.
        """
        if not self._copying.acquire(blocking=False):
            return False
        self._close_connection()
        return True

    def _close_connection(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _is_of_sync(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) == sqlite3.SQLITE_IOERR_FSYNC
