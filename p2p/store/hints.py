"""Tables that hold nothing of the logs, made anew when they are damaged: no store whose logs are whole fails for one.

Who was met where, who is banned, which label was whose and how far a follower came is learnt or done again; for whom an
origin has records can be told from its batches. So such a table is looked through whenever the store is opened and
whenever it recovers from a failed write, and one that is damaged is taken for empty.

Its old pages are never touched again. DROP TABLE would follow what a damaged page says, to the pages of a log as well
as to its own, and put them on the list of free ones. Only the table's rows in the schema are deleted; the pages are
lost to the file, which SQLite tells of as "never used", and `check_table` does not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final, NamedTuple

from p2p.store.base import Damage
from p2p.store.blobs import is_damage
from p2p.store.definitions import altered_tables
from p2p.store.schema import BANS, BOOK, CURSORS, PINS, TARGETS_OF_ORIGIN, Step, index_targets

_ROWS_PER_READ: Final = 256
_NONSENSE: Final = (
    "SELECT 1 FROM chain WHERE typeof(seq_begin) <> 'integer' OR typeof(seq_end) <> 'integer' OR seq_end < 1"
    " OR typeof(hash) <> 'blob' OR length(hash) <> 32 LIMIT 1"
)
"""SQLite's own check takes values of any kind in any column."""
_CHECK_LINES_MAX: Final = 10_000
"""Many lines may be about pages that are merely lost, and none of them should keep SQLite from finding the others."""


class _Hint(NamedTuple):
    """A table: what makes it anew, what that means for the user, and what reads its texts.

    (SQLite's own check does not look whether they are text.)
    """

    steps: tuple[Step, ...]
    meaning: str
    texts: str | None = None


HINTS: Final = {
    "pins": _Hint((PINS,), "which label was whose is forgotten", "SELECT node_id FROM pins"),
    "book": _Hint(
        (BOOK,),
        "the addresses of peers are forgotten, and learnt again when they are met",
        "SELECT scheme, host, node_id, source FROM book",
    ),
    "bans": _Hint((BANS,), "bans are forgotten"),
    "cursors": _Hint((CURSORS,), "followers with a name begin where new ones do", "SELECT name FROM cursors"),
    "targets": _Hint((index_targets, TARGETS_OF_ORIGIN), "it is told again from the batches"),
}
"""By the table's name."""


def mend_hints(connection: sqlite3.Connection) -> list[str]:
    """Make every such table anew that is damaged or missing; outside of any transaction.

    Returns:
        One line for each of them.

    Raises:
        sqlite3.Error: the store cannot be read or written.
    """
    altered = altered_tables(connection)
    hurt = [table for table, hint in HINTS.items() if table in altered or not _is_whole(connection, table, hint)]
    if not hurt:
        return []
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute("PRAGMA writable_schema = ON")
        connection.executemany("DELETE FROM sqlite_master WHERE tbl_name = ?", [(table,) for table in hurt])
        # Without this SQLite would go by the schema that it has read.
        connection.execute("PRAGMA writable_schema = RESET")
        for table in hurt:
            for step in HINTS[table].steps:
                step(connection) if callable(step) else connection.execute(step)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("PRAGMA writable_schema = RESET")
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return [
        f"the store's table {table} was damaged and is made anew: {HINTS[table].meaning}; no log lost anything"
        for table in hurt
    ]


def check_table(connection: sqlite3.Connection, of: str) -> list[str]:
    """Run SQLite's own check.

    Args:
        of: the name of a table, or how many lines there may be about the whole file.

    Returns:
        What is wrong, line by line; pages that are merely lost are not.

    Raises:
        sqlite3.Error: the check failed for another reason than damage.
    """
    lines: list[str] = []
    try:
        for (text,) in connection.execute(f'PRAGMA integrity_check("{of}")'):
            lines += str(text).splitlines()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if not _tells_of_damage(error):
            raise
        lines.append(str(error))
    return [line for line in lines if not (line == "ok" or line.startswith("*** in ") or line.endswith("never used"))]


def damaged_tables(connection: sqlite3.Connection) -> Iterator[Damage]:
    """Look through the whole file, and name the tables where something is wrong.

    Raises:
        sqlite3.Error: the check failed for another reason than damage.
    """
    is_named = False
    for name in altered_tables(connection):
        is_named = is_named or name not in HINTS
        what = "hints" if name in HINTS else "file"
        yield Damage(what, None, None, f"table {name}: it is not defined as it should be")
    if is_named:
        return
    if _holds_nonsense(connection):
        yield Damage("file", None, None, "table chain: a row makes no sense")
    lines = check_table(connection, str(_CHECK_LINES_MAX))
    if not lines:
        return
    names = connection.execute("SELECT DISTINCT tbl_name FROM sqlite_master").fetchall()
    # The schema's own table, with which SQLite looks at the list of free pages.
    for name in ("sqlite_schema", *(name for (name,) in names)):
        for line in check_table(connection, name):
            is_named = True
            yield Damage("hints" if name in HINTS else "file", None, None, f"table {name}: {line}")
    if not is_named:
        yield from (Damage("file", None, None, line) for line in lines)


def _holds_nonsense(connection: sqlite3.Connection) -> bool:
    try:
        return connection.execute(_NONSENSE).fetchone() is not None
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        # The check itself says more.
        return False


def _is_whole(connection: sqlite3.Connection, table: str, hint: _Hint) -> bool:
    if check_table(connection, table):
        return False
    if hint.texts is None:
        return True
    try:
        rows = connection.execute(hint.texts)
        while rows.fetchmany(_ROWS_PER_READ):
            pass
    except sqlite3.Error as error:
        if not _tells_of_damage(error):
            raise
        return False
    return True


def _tells_of_damage(error: Exception) -> bool:
    # Text that is none has no code of SQLite's. SQLITE_ERROR: there is no such table, and there should be.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code == sqlite3.SQLITE_ERROR or (isinstance(error, sqlite3.Error) and is_damage(error))
