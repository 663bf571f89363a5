"""The list of tables that a file has, compared with the one that this software makes.

SQLite reads what a table is from a line of text in the file. A flipped bit there need be no error: "INTEGER0PRIMARY
KEY" is a type that SQLite takes, and the column is no key any more; what is written then is not found again, however
often a peer sends it. But the text is known, so such a line can be told and put right.

Each version of the schema has another list. So it also says which version a file has, should the number in its head be
another.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from p2p.errors import StoreCorrupt
from p2p.store.base import WHOLE_FILE
from p2p.store.schema import STEPS

_LINES: Final = "SELECT type, name, tbl_name, sql FROM sqlite_master"
_PUT_RIGHT: Final = (
    "UPDATE sqlite_master SET type = :kind, name = :name, tbl_name = :table, sql = :sql"
    " WHERE name = :name OR sql = :sql OR (:sql IS NULL AND sql IS NULL AND tbl_name = :table)"
)
"""One of them is damaged, and the others say which line it is."""


_BESIDE: Final = re.compile(" ?([(),]) ?")
"""What needs no blank beside it."""


class _Line(NamedTuple):
    kind: str
    name: str
    table: str
    sql: str | None


def altered_tables(connection: sqlite3.Connection) -> list[str]:
    """The tables of a file, those with their indexes, that are not defined as they should be.

    Raises:
        sqlite3.Error: the list cannot be read.
    """
    found = set(connection.execute(_LINES))
    # As a rule all are there to the letter. To make them plain took a quarter of the time of opening a store.
    missed = [line for line in _lines_of(_version(connection)) if line not in found]
    if not missed:
        return []
    plain = {_plain(_Line(*row)) for row in found}
    return sorted({line.table for line in missed if _plain(line) not in plain})


def check_version_told(connection: sqlite3.Connection, path: Path) -> None:
    """See that the version that the file's head names is that of its tables.

    Raises:
        StoreCorrupt: it is not.
        sqlite3.Error: it cannot be read.
    """
    if _version(connection) == len(STEPS):
        # Those that are altered are put right.
        return
    version, of_tables = version_and_tables(connection)
    if of_tables is not None and version != of_tables:
        raise StoreCorrupt(
            f"the store {path} cannot be opened: its head names schema version {version}, and its tables are those of "
            f"version {of_tables}. {WHOLE_FILE}"
        )


def version_and_tables(connection: sqlite3.Connection) -> tuple[int, int | None]:
    """The version that the head names, and the one that has these tables; None if that is none.

    Raises:
        sqlite3.Error: the list cannot be read.
    """
    version = _version(connection)
    found = {_plain(_Line(*row)) for row in connection.execute(_LINES)}
    if not found:
        return version, None
    known = range(1, len(STEPS) + 1)
    return version, next((of for of in known if found == _plain_lines_of(of)), None)


def put_right(connection: sqlite3.Connection) -> None:
    """Write every line that is altered as it should be; outside of any transaction.

    A list of which SQLite can make no sense at all is put right, too, if nothing was read over this connection before.

    Raises:
        sqlite3.Error: the store cannot be read or written.
    """
    connection.execute("PRAGMA writable_schema = ON")
    try:
        connection.execute("BEGIN IMMEDIATE")
        altered = altered_tables(connection)
        for line in _lines_of(_version(connection)):
            if line.table in altered:
                connection.execute(_PUT_RIGHT, line._asdict())
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        # Without this SQLite would go by the list that it has read.
        connection.execute("PRAGMA writable_schema = RESET")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


@cache
def _lines_of(version: int) -> tuple[_Line, ...]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        for step in STEPS[:version]:
            if callable(step):
                step(model)
            else:
                model.executescript(step)
        return tuple(_Line(*row) for row in model.execute(_LINES))


@cache
def _plain_lines_of(version: int) -> frozenset[_Line]:
    return frozenset(map(_plain, _lines_of(version)))


def _plain(line: _Line) -> _Line:
    # What was only indented otherwise is the same: earlier versions began a line behind some brackets.
    return line._replace(sql=_BESIDE.sub(r"\1", " ".join(line.sql.split())) if isinstance(line.sql, str) else None)
