"""One damaged page of any table: what holds nothing of the logs stops nothing, and verify names the table."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from p2p.errors import P2PError, StoreCorrupt
from p2p.ids import PeerEndpoint
from p2p.policy.book import BookPlace
from p2p.replication.batch import NewRecord
from p2p.store import files, schema
from p2p.store.base import MEND_FILE
from p2p.store.hints import HINTS
from p2p.store.reader import SqliteReader
from p2p.store.sqlite import SqliteStore
from tests.logs import Log, identity

OWN = identity(1).peer_id
TARGET = identity(50).peer_id
LOG_TABLES = ("batches", "chain", "identity", "origins", "proofs")
PLACE = BookPlace(PeerEndpoint("192.0.2.1", 7000), TARGET, "b", "dial", 5, 0)

each_way = pytest.mark.parametrize("fill", ["random", "zero"])


def note_hints(store: SqliteStore) -> None:
    with store.write() as transaction:
        transaction.set_pin("b", TARGET, 1, 10)
        transaction.set_place(PLACE)
        transaction.set_ban(TARGET, 7, 10)
        transaction.set_cursor("reader", OWN, 2)


@pytest.fixture
def log() -> Log:
    return Log(1)


@pytest.fixture
def path(tmp_path: Path, log: Log) -> Path:
    """A closed store with something in every table of hints."""
    path = tmp_path / "log.sqlite"
    with closing(SqliteStore(path, OWN)) as store:
        for _ in range(3):
            with store.write() as transaction:
                transaction.append(log.seal([NewRecord("app", TARGET, b"x" * 30_000)]))
        note_hints(store)
    return path


def root_of(path: Path, name: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0])


def break_root(path: Path, name: str, fill: str) -> None:
    break_page(path, root_of(path, name), fill)


def break_page(path: Path, page: int, fill: str) -> None:
    size = schema.PAGE_BYTES
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(random.Random(page).randbytes(size) if fill == "random" else bytes(size))


def tables_named(path: Path) -> set[tuple[str, str]]:
    with closing(SqliteReader(path)) as reader:
        return {(found.what, found.detail.split()[1].rstrip(":")) for found in reader.verify()}


@each_way
@pytest.mark.parametrize("name", [*HINTS, "targets_of_origin"])
def test_t62_a_damaged_table_of_hints_is_made_anew_and_every_log_stays(
    path: Path, log: Log, name: str, fill: str
) -> None:
    table = "targets" if name == "targets_of_origin" else name
    break_root(path, name, fill)
    assert tables_named(path) == {("hints", table)}
    with closing(SqliteReader(path)) as reader:
        reader.pins(), reader.book(), reader.bans()
        assert {found.remedy for found in reader.verify()} == {
            "start the node: it makes this table anew, and no log loses anything"
        }
    with closing(SqliteStore(path, OWN)) as store:
        (line,) = store.mended
        assert f"table {table} was damaged" in line
        kept = {
            "pins": store.pins() == {"b": TARGET},
            "book": store.book() == [PLACE],
            "bans": store.bans() == {TARGET: 7},
            "cursors": store.cursors("reader") == {OWN: 2},
        }
        assert {what for what, is_kept in kept.items() if not is_kept} == {table} - {"targets"}
        assert store.origins_for(TARGET, 10) == [OWN], "told again from the batches"
        with store.write() as transaction:
            transaction.append(log.add(b"more"))
        note_hints(store)
    with closing(SqliteStore(path, OWN)) as store:
        assert (store.mended, list(store.verify())) == ([], [])
        assert (store.current()[OWN].seq, store.pins(), store.bans()) == (4, {"b": TARGET}, {TARGET: 7})
        loaded = store.load(OWN, 1, 4, 2**62)
        assert [stored.wal_bytes for stored in loaded.batches] == [batch.wal_bytes for batch in log.batches]


@each_way
@pytest.mark.parametrize("table", ["pins", "book", "bans", "cursors", "targets"])
def test_t62_a_table_of_hints_that_is_hurt_while_the_store_is_open_fails_one_commit(
    path: Path, log: Log, table: str, fill: str
) -> None:
    root = root_of(path, table)
    with closing(SqliteStore(path, OWN)) as store:
        break_page(path, root, fill)
        assert store._writer is not None
        # What it holds in memory is good still.
        store._writer.execute("PRAGMA shrink_memory")
        with pytest.raises(StoreCorrupt), store.write() as transaction:
            transaction.append(log.seal([NewRecord("app", TARGET, b"more")]))
            transaction.set_pin("c", TARGET, 2, 10)
            transaction.set_place(PLACE)
            transaction.set_ban(TARGET, 8, 10)
            transaction.set_cursor("reader", OWN, 3)
        store.recover()
        with store.write() as transaction:
            transaction.append(log.batches[-1])
        note_hints(store)
        assert (store.current()[OWN].seq, list(store.verify())) == (4, [])
        assert (store.pins()["b"], store.book(), store.origins_for(TARGET, 10)) == (TARGET, [PLACE], [OWN])


@each_way
@pytest.mark.parametrize("name", [*LOG_TABLES, "sqlite_autoindex_origins_1"])
def test_t62_verify_names_the_damaged_table_of_the_logs(path: Path, name: str, fill: str) -> None:
    break_root(path, name, fill)
    table = "origins" if name.startswith("sqlite_") else name
    try:
        with closing(SqliteReader(path)) as reader:
            found = list(reader.verify())
    except StoreCorrupt as error:
        assert (table, "table identity" in str(error)) == ("identity", True)
    else:
        assert any(damage.what == "file" and f"table {table}:" in damage.detail for damage in found)
        assert MEND_FILE in {damage.remedy for damage in found}
        assert not any("wal verify" in damage.detail for damage in found)
    try:
        SqliteStore(path, OWN).close()
    except P2PError as error:
        assert "wal verify" in str(error)


def test_t62_a_table_of_hints_that_is_gone_is_made(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE book")
    assert SqliteReader(path).book() == []
    with closing(SqliteStore(path, OWN)) as store:
        assert len(store.mended) == 1
        note_hints(store)
        assert store.book() == [PLACE]


def test_t62_an_index_that_says_other_than_its_table_is_made_anew(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        index = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'targets_of_origin'").fetchone()[0]
        connection.execute("PRAGMA writable_schema = ON")
        # For as long as the index has another root, it misses what is written.
        connection.execute("DELETE FROM sqlite_master WHERE name = 'targets_of_origin'")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM targets")
        connection.execute("PRAGMA writable_schema = ON")
        row = ("index", "targets_of_origin", "targets", index, schema.TARGETS_OF_ORIGIN)
        connection.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", row)
    assert tables_named(path) == {("hints", "targets")}
    with closing(SqliteStore(path, OWN)) as store:
        assert len(store.mended) == 1
        assert (store.origins_for(TARGET, 10), list(store.verify())) == ([OWN], [])


def test_t62_rows_of_hints_that_make_no_sense_are_passed_over(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO pins VALUES ('c', 'text', 1)")
        connection.execute("INSERT INTO bans VALUES (x'00', 1)")
        connection.execute("UPDATE bans SET until_ms = 'never'")
        connection.execute("INSERT INTO cursors VALUES ('reader', x'00', 1)")
    with closing(SqliteStore(path, OWN)) as store:
        assert (store.pins(), store.bans(), store.cursors("reader")) == ({"b": TARGET}, {}, {OWN: 2})


def test_t62_text_that_is_none_in_a_table_of_hints_is_damage(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE pins SET node_id = CAST(x'ff' AS TEXT)")
    with closing(SqliteStore(path, OWN)) as store:
        assert len(store.mended) == 1
        assert store.pins() == {}


def test_a_table_that_an_earlier_version_wrote_on_other_lines_is_not_damaged(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        for name in ("cursors", "book"):
            (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()
            head, _, rest = sql.partition("(")
            columns, _, end = rest.strip().rpartition(")")
            older = f"{head}(\n        {columns.strip()}\n    ){end}"
            connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (older, name))
    with closing(SqliteReader(path)) as reader:
        assert list(reader.verify()) == []
    with closing(SqliteStore(path, OWN)) as store:
        assert store.mended == []
        assert (store.book(), store.cursors("reader")) == ([PLACE], {OWN: 2})


def test_t61_a_store_that_is_locked_is_not_taken_for_damaged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BUSY_MS", 20)
    with closing(sqlite3.connect(path, isolation_level=None)) as other, closing(SqliteStore(path, OWN)) as store:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(P2PError, match="locked"), store.write():
            raise AssertionError
        other.execute("ROLLBACK")
        store.recover()
        assert store.pins() == {"b": TARGET}
