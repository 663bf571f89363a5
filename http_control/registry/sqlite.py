"""A registry's table in SQLite: in memory, or in a file that survives a restart.

Each entry stands at a `spot`, a random number drawn anew at every announcement. A question begins at a random spot and
takes the next entries, over the end on to the beginning: so every entry has the same chance, nobody meets the same
neighbours twice, and the cost is that of the entries taken, not of the table.

Nothing is synced to the disk. A machine that loses its power loses the entries of the last moments, which come back by
themselves; SQLite's log keeps the file whole when only the process dies.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from http_control.registry.table import Noted, TableUnavailable
from p2p import ConfigError, registry

T = TypeVar("T")

APPLICATION_ID: Final = 0x70327072
SPOTS: Final = 2**62
SWEEP_S: Final = 1.0
"""Expired entries are deleted at most this often: they are passed over before."""
BUSY_S: Final = 1.0

_VERSION: Final = 2
_SCHEMA: Final = f"""
    CREATE TABLE IF NOT EXISTS entries (
        host TEXT NOT NULL,
        port INTEGER NOT NULL,
        scheme TEXT NOT NULL,
        peer_id TEXT NOT NULL,
        label TEXT NOT NULL,
        node_id TEXT NOT NULL,
        scope INTEGER NOT NULL,
        source TEXT NOT NULL,
        spot INTEGER NOT NULL,
        expires REAL NOT NULL,
        PRIMARY KEY (host, port, scheme, peer_id, label)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS entries_by_spot ON entries (scope, spot);
    CREATE INDEX IF NOT EXISTS entries_by_source ON entries (source);
    CREATE INDEX IF NOT EXISTS entries_by_expiry ON entries (expires);
    PRAGMA application_id = {APPLICATION_ID};
    PRAGMA user_version = {_VERSION};
"""
_RENEW: Final = """
    UPDATE entries SET node_id = ?, scope = ?, spot = ?, expires = ?
    WHERE host = ? AND port = ? AND scheme = ? AND peer_id = ? AND label = ?
"""
_ADD: Final = """
    INSERT INTO entries (node_id, scope, spot, expires, host, port, scheme, peer_id, label, source)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_GIVES_WAY: Final = """
    SELECT host, port, scheme, peer_id, label FROM entries WHERE source = ? AND peer_id = '' ORDER BY expires LIMIT 1
"""
_DROP: Final = "DELETE FROM entries WHERE host = ? AND port = ? AND scheme = ? AND peer_id = ? AND label = ?"
_PICK: Final = """
    SELECT host, port, node_id, scheme, peer_id, expires FROM entries
    WHERE scope = ? AND spot >= ? AND spot < ? AND expires > ? ORDER BY spot LIMIT ?
"""
_ALIVE: Final = "SELECT count(*) FROM entries WHERE expires > ?"


class SqliteTable:
    """`Table` in SQLite; one registry per file.

    Args:
        path: a file, made if it is not there; None for memory.
        chance: where random numbers come from.
        now: Unix seconds. A wall clock, as a file outlives the machine's other clocks.

    Raises:
        ConfigError: the file cannot be opened, is something else, or another registry uses it.
    """

    calls_max = 1
    may_be_abandoned = False

    def __init__(
        self,
        path: Path | None = None,
        *,
        chance: random.Random | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._chance = chance or random.SystemRandom()
        self._now = now
        self._swept_at = 0.0
        where = str(path) if path is not None else ":memory:"
        try:
            self._db = sqlite3.connect(where, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise ConfigError(f"the registry's table {where} cannot be opened: {error}") from None
        try:
            self._prepare(where)
            self._count = int(self._db.execute("SELECT count(*) FROM entries").fetchone()[0])
        except sqlite3.Error as error:
            self.close()
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                why = "another registry uses it; several registries share a table in Redis"
            else:
                why = f"{error}. delete it if it is a registry's (nodes announce themselves again), or name another"
            raise ConfigError(f"the registry's table {where}: {why}") from None
        except ConfigError:
            self.close()
            raise

    def _prepare(self, where: str) -> None:
        db = self._db
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION_ID:
            raise ConfigError(f"{where} is a database of something else: name another file for the registry")
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = OFF")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if tables and version != _VERSION:
            db.execute("DROP TABLE IF EXISTS entries")  # of another form; nodes announce themselves again
        db.executescript(_SCHEMA)

    def note(self, entry: registry.Entry, room: registry.Room) -> Noted:
        return self._within(lambda: self._note(entry, room))

    def _note(self, entry: registry.Entry, room: registry.Room) -> Noted:
        now = self._now()
        self._sweep(now, room.ttl_s)
        peer, source = entry.peer, entry.source
        # Of an identity the label is what it says at the moment; who has none is known by it.
        label = "" if peer.peer_id else peer.node_id
        key = (peer.host, peer.tcp_port, peer.scheme, peer.peer_id or "", label)
        values = (peer.node_id, int(entry.scope), self._chance.randrange(SPOTS), now + room.ttl_s)
        if self._db.execute(_RENEW, (*values, *key)).rowcount:
            return Noted.TAKEN
        (of_source,) = self._db.execute("SELECT count(*) FROM entries WHERE source = ?", (source,)).fetchone()
        if of_source >= room.of_source(entry.scope):
            unsigned = self._db.execute(_GIVES_WAY, (source,)).fetchone() if peer.peer_id else None
            if unsigned is None:
                return Noted.SOURCE_FULL
            self._count -= self._db.execute(_DROP, unsigned).rowcount
        if self._count >= room.entries_max:
            return Noted.FULL
        self._db.execute(_ADD, (*values, *key, source))
        self._count += 1
        return Noted.TAKEN

    def _sweep(self, now: float, ttl_s: float) -> None:
        if 0 <= now - self._swept_at < SWEEP_S:
            return
        self._swept_at = now
        # One that would stay longer than an entry may was written before the clock was set back.
        self._count -= self._db.execute(
            "DELETE FROM entries WHERE expires <= ? OR expires > ?", (now, now + ttl_s)
        ).rowcount

    def pick(self, scopes: Sequence[registry.Scope], count: int) -> list[registry.ListedPeer]:
        return self._within(lambda: self._pick(scopes, count))

    def _pick(self, scopes: Sequence[registry.Scope], count: int) -> list[registry.ListedPeer]:
        now = self._now()
        found: list[registry.ListedPeer] = []
        for scope in scopes:
            begin = self._chance.randrange(SPOTS)
            rows = self._db.execute(_PICK, (int(scope), begin, SPOTS, now, count)).fetchall()
            if len(rows) < count:
                rows += self._db.execute(_PICK, (int(scope), 0, begin, now, count - len(rows))).fetchall()
            found += (
                registry.ListedPeer(host, port, node_id, scheme, peer_id or None, round(expires - now, 1))
                for host, port, node_id, scheme, peer_id, expires in rows
            )
        return found if len(found) <= count else self._chance.sample(found, count)

    def size(self) -> int:
        return self._within(lambda: int(self._db.execute(_ALIVE, (self._now(),)).fetchone()[0]))

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._db.close()

    def _within(self, work: Callable[[], T]) -> T:
        before = self._count, self._swept_at
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                result = work()
                self._db.execute("COMMIT")
            except BaseException:
                # What was counted is taken back with what was written; SQLite may have rolled back by itself.
                self._count, self._swept_at = before
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise TableUnavailable(f"the table cannot be used: {error}") from None
        return result
