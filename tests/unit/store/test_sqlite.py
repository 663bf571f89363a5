"""The durable store against its disk: damage, full disks, lost tails, schemas, and readers beside it."""

from __future__ import annotations

import shutil
import sqlite3
import stat
import zlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.errors import ConfigError, IdentityMismatch, StoreCorrupt, StoreError, StoreFull, StoreReadOnly
from p2p.ids import PeerEndpoint
from p2p.limits import MIB, Limits
from p2p.policy.book import BookPlace
from p2p.replication.batch import NewRecord
from p2p.replication.heads import LogHead
from p2p.store import files, schema
from p2p.store.base import DamagedRange
from p2p.store.reader import SqliteReader
from p2p.store.sqlite import SqliteStore
from tests.logs import Log, identity
from tests.sampling import IS_ALL

OWN = identity(1).peer_id
ROWS = replace(Limits(), segment_batch_bytes_min=MIB)
"""Every batch is a row, however big."""
TARGET = identity(50).peer_id
EVERYTHING = 2**62


def fill(store: SqliteStore, log: Log, count: int, size: int = 1000) -> None:
    for number in range(count):
        with store.write() as transaction:
            transaction.append(log.add(bytes([number % 256]) * size))


def test_the_file_is_a_wal_database_that_syncs_every_commit(store: SqliteStore, path: Path) -> None:
    connection = store._writer
    assert connection is not None
    for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("page_size", schema.PAGE_BYTES)):
        assert connection.execute(f"PRAGMA {pragma}").fetchone()[0] == value


class _SmallBlocks:
    """A disk of 1 KiB blocks with room for less than the index of SQLite's log."""

    f_frsize, f_bavail = 1024, 20


def test_where_blocks_are_small_a_full_disk_is_told_before_sqlite_dies_of_it(
    path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(1)
    fill(store, log, 3)
    store.close()
    monkeypatch.setattr("os.statvfs", lambda _: _SmallBlocks)
    with pytest.raises(StoreFull, match="make room"):
        SqliteStore(path, OWN)
    # Nothing is in SQLite's log: the file can be read as it is.
    with closing(SqliteReader(path)) as reader:
        assert reader.states()[log.origin].seq == 3
    path.with_name("log.sqlite-wal").write_bytes(b"more")
    with pytest.raises(StoreError, match="copy"):
        SqliteReader(path)
    monkeypatch.undo()
    path.with_name("log.sqlite-wal").unlink()
    SqliteStore(path, OWN).close()


# Damage at rest.


def test_t62_a_flipped_byte_of_a_batch_is_found_and_what_precedes_it_served(path: Path) -> None:
    log = Log()
    store = SqliteStore(path, OWN)
    fill(store, log, 3, 50_000)
    store.close()
    data = path.read_bytes()
    at = data.index(log.batches[1].wal_bytes[2000:2100])
    path.write_bytes(data[:at] + b"\xff" + data[at + 1 :])
    store = SqliteStore(path, OWN)
    loaded = store.load(OWN, 1, EVERYTHING, EVERYTHING)
    assert [batch.seq_end for batch in loaded.batches] == [1]
    assert loaded.damaged == DamagedRange(OWN, 2, 2)
    assert [(found.what, found.seq_begin) for found in store.verify()] == [("hash", 2)]
    with store.write() as transaction:
        held = transaction.held_within(OWN, 2, 2)
        assert held is not None
        assert transaction.held_batch(OWN, held) is None
        assert transaction.damaged == [DamagedRange(OWN, 2, 2)]
    assert store.states()[OWN].head == LogHead(1, log.batches[0].hash)
    with store.write() as transaction:
        transaction.append(log.batches[1])
    assert store.states()[OWN].head == LogHead(3, log.batches[2].hash)
    assert list(store.verify()) == []
    store.close()


def test_t62_only_the_batch_whose_pages_cannot_be_read_counts_as_damaged(path: Path) -> None:
    log = Log()
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, log, 4, 50_000)
    whole = path.read_bytes()
    with closing(sqlite3.connect(path)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'batches'").fetchone()[0]
    # The number of the first overflow page is no page of the file any more.
    at = whole.index(log.batches[2].wal_bytes[:200], (root - 1) * schema.PAGE_BYTES)
    end = next(at + size for size in range(200, 16384) if whole[at : at + size] != log.batches[2].wal_bytes[:size]) - 1
    path.write_bytes(whole[:end] + b"\xff" * 4 + whole[end + 4 :])
    with closing(SqliteStore(path, OWN)) as store:
        seqs, damaged = [], None
        while damaged is None:
            loaded = store.load(OWN, len(seqs) + 1, EVERYTHING, EVERYTHING)
            seqs += [batch.seq_end for batch in loaded.batches]
            damaged = loaded.damaged
        assert (seqs, damaged) == ([1, 2], DamagedRange(OWN, 3, 3))
        assert [(found.what, found.seq_begin) for found in store.verify() if found.what != "file"] == [("hash", 3)]


def test_t62_a_flipped_bit_of_the_signature_is_found(store: SqliteStore, path: Path) -> None:
    log = Log()
    fill(store, log, 1)
    changed = bytearray(log.batches[0].wal_bytes)
    changed[-1] ^= 1
    assert store._writer is not None
    store._writer.execute("UPDATE batches SET wal = ?", (bytes(changed),))
    assert store.load(OWN, 1, 1, 1).damaged == DamagedRange(OWN, 1, 1)
    assert [found.what for found in store.verify()] == ["hash"]


@pytest.mark.parametrize("seq", [1, 2, 3])
@pytest.mark.parametrize("change", ["DELETE FROM chain", "UPDATE chain SET seq_end = 259"])
def test_t62_a_batch_that_the_chain_does_not_name_is_damaged_and_can_be_fetched_again(
    store: SqliteStore, change: str, seq: int
) -> None:
    log = Log(2)
    fill(store, log, 4)
    assert store._writer is not None
    store._writer.execute(f"{change} WHERE seq_end = {seq}")
    loaded = store.load(log.origin, 1, 4, EVERYTHING)
    assert [batch.seq_end for batch in loaded.batches] == list(range(1, seq))
    assert loaded.damaged == DamagedRange(log.origin, seq, seq)
    with store.write() as transaction:
        transaction.quarantine(loaded.damaged)
    assert store.states()[log.origin].seq == seq - 1
    for batch in log.batches[seq - 1 :]:
        with store.write() as transaction:
            if batch.seq_begin > transaction.head(log.origin).seq:
                transaction.append(batch)
    assert [batch.seq_end for batch in store.load(log.origin, 1, 4, EVERYTHING).batches] == [1, 2, 3, 4]


def test_t62_a_chain_row_that_ends_elsewhere_is_damage(store: SqliteStore) -> None:
    fill(store, Log(), 2)
    assert store._writer is not None
    store._writer.execute("UPDATE chain SET seq_end = 3 WHERE seq_end = 2")
    loaded = store.load(OWN, 1, EVERYTHING, EVERYTHING)
    assert [batch.seq_end for batch in loaded.batches] == [1]
    assert loaded.damaged == DamagedRange(OWN, 2, 3)
    with store.write() as transaction:
        transaction.quarantine(loaded.damaged)
    assert store.states()[OWN].seq == 1


def test_a_range_that_is_held_is_not_taken_for_missing(store: SqliteStore) -> None:
    fill(store, Log(), 3)
    with store.write() as transaction:
        for begin, end in ((1, 2), (2, 3), (4, 9)):
            transaction.quarantine(DamagedRange(OWN, begin, end))
    assert store.states()[OWN].seq == 3


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("DELETE FROM batches", "hash"),
        ("UPDATE batches SET wal = 'text'", "hash"),
        ("UPDATE batches SET wal = zeroblob(length(wal))", "hash"),
        ("UPDATE chain SET seq_begin = seq_begin - 1 WHERE seq_end > 1", "hash"),
        ("UPDATE chain SET hash = zeroblob(32)", "hash"),
        ("UPDATE chain SET signature_crc = 1", "hash"),
        ("DELETE FROM chain WHERE seq_end = 2", "chain"),
        ("UPDATE origins SET seq = 2", "head"),
        ("UPDATE origins SET hash = zeroblob(32)", "head"),
        ("UPDATE origins SET frozen_from = 2", "head"),
        ("UPDATE origins SET tail_seq = 9", "end"),
        ("UPDATE origins SET lost_seq = 9", "end"),
        ("UPDATE origins SET claimed_seq = 9", "end"),
        ("UPDATE origins SET frozen_from = 9", "proof"),
        ("INSERT INTO proofs SELECT no, x'00', x'00' FROM origins", "proof"),
        ("UPDATE origins SET peer_id = 'text'", "file"),
    ],
)
def test_t62_verify_names_what_is_wrong(store: SqliteStore, sql: str, what: str) -> None:
    fill(store, Log(), 3)
    assert list(store.verify()) == []
    assert store._writer is not None
    store._writer.execute(sql)
    assert what in [found.what for found in store.verify()]


NOTES = {
    "the head's seq": "seq = seq + 64",
    "the head's seq, towards an earlier batch": "seq = seq - 2",
    "the head's hash": "hash = randomblob(32)",
    "the tail": "tail_seq = tail_seq + 64",
    "the tail, towards less": "tail_seq = tail_seq - 2",
    "what is signed": "lost_seq = lost_seq + (1 << 62)",
    "whose log it is": "peer_id = randomblob(32)",
    "that nothing is held": "seq = 0",
}


@pytest.mark.parametrize("change", NOTES.values(), ids=NOTES)
def test_t62_a_damaged_note_of_a_head_is_put_right_from_the_log_itself(path: Path, change: str) -> None:
    own, other = Log(1), Log(2)
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, own, 5)
        fill(store, other, 5)
        right = dict(store.current())
    for no in (1, 2):
        rewrite(path, f"UPDATE origins SET {change} WHERE no = {no}")
    with closing(SqliteStore(path, OWN)) as store:
        assert store.current() == store.states() == right
        assert len(store.mended) == 2
        assert list(store.verify()) == []
        own.add(b"goes on")
        with store.write() as transaction:
            transaction.append(own.batches[-1])
    with closing(SqliteStore(path, OWN)) as store:
        assert store.mended == []
        assert list(store.verify()) == []


@pytest.mark.parametrize(
    "column", ["hash = randomblob(32)", "signature_crc = 7", "batch = 99", "seq_begin = seq_begin - 1"]
)
def test_t62_a_damaged_chain_row_at_the_head_never_moves_the_head_to_what_it_says(path: Path, column: str) -> None:
    own = Log(1)
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, own, 5)
    rewrite(path, f"UPDATE chain SET {column} WHERE seq_end = {own.batches[-1].seq_end}")
    with closing(SqliteStore(path, OWN)) as store:
        state = store.current()[OWN]
        loaded = store.load(OWN, state.seq, state.seq, 0)
        assert state.hash == own.batches[-2].hash or loaded.damaged is not None
        assert state.tail_seq == own.batches[-1].seq_end


def test_t62_a_chain_that_lost_its_end_keeps_its_owner_from_signing(path: Path) -> None:
    own = Log(1)
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, own, 5)
    rewrite(path, f"DELETE FROM chain WHERE seq_end > {own.batches[2].seq_end}")
    with closing(SqliteStore(path, OWN)) as store:
        state = store.current()[OWN]
        assert (state.seq, state.hash) == (own.batches[2].seq_end, own.batches[2].hash)
        assert not state.is_whole
        with store.write() as transaction:
            for batch in own.batches[3:]:
                transaction.append(batch)
        assert store.current()[OWN].is_whole


CUTS = {
    "the last batch's row is gone": "DELETE FROM chain WHERE seq_end = 5",
    "the last batch's row says less": "UPDATE chain SET seq_end = 4 WHERE seq_end = 5",
}


@pytest.mark.parametrize("is_quarantined", [False, True])
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_t62_that_a_log_lost_its_end_is_known_at_every_later_open(path: Path, cut: str, is_quarantined: bool) -> None:
    own = Log(1)
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, own, 5)
        if is_quarantined:
            with store.write() as transaction:
                transaction.quarantine(DamagedRange(OWN, 5, 5))
    rewrite(path, "DELETE FROM chain WHERE seq_end = 4")
    rewrite(path, cut)
    for _ in range(3):
        with closing(SqliteStore(path, OWN)) as store:
            assert (store.current()[OWN].seq, store.current()[OWN].tail_seq) == (3, 5)
            assert not store.current()[OWN].is_whole
            assert "end" in [found.what for found in store.verify()]
            store.recover()
            assert not store.current()[OWN].is_whole
    with closing(SqliteStore(path, OWN)) as store:
        with store.write() as transaction:
            for batch in own.batches[3:]:
                transaction.append(batch)
        assert store.current()[OWN].is_whole
        assert list(store.verify()) == []
    with closing(SqliteStore(path, OWN)) as store:
        assert (store.mended, store.current()[OWN].is_whole) == ([], True)


def test_t62_notes_are_put_right_when_the_store_recovers(store: SqliteStore, path: Path) -> None:
    fill(store, Log(1), 3)
    right = dict(store.current())
    rewrite(path, "UPDATE origins SET seq = 7")
    store.recover()
    assert store.current() == right


def rewrite(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(sql)
    connection.close()


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A closed store with one batch."""
    path = tmp_path_factory.mktemp("small") / "log.sqlite"
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, Log(1), 1)
    return path.read_bytes()


@pytest.mark.sampled
@given(st.integers(0, 100) | st.integers(0, schema.PAGE_BYTES - 1), st.integers(0, 255))
@settings(max_examples=300 if IS_ALL else 100)
def test_t62_a_damaged_first_page_is_refused_in_clear_words_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, small_file: bytes, at: int, value: int
) -> None:
    content = bytearray(small_file)
    content[at] = value
    here = tmp_path_factory.mktemp("damaged") / "log.sqlite"
    here.write_bytes(content)
    for open_it in (lambda: SqliteReader(here), lambda: SqliteStore(here, OWN)):
        try:
            opened = open_it()
        except StoreError as error:
            assert str(here) in str(error)
        else:
            opened.pins()
            opened.close()


def test_t62_a_name_in_the_schema_that_is_no_text_is_damage(path: Path) -> None:
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, Log(1), 2)
    content = bytearray(path.read_bytes())
    content[content.index(b"sqlite_autoindex_origins") + 7] = 0xFF
    path.write_bytes(content)
    for open_it in (lambda: SqliteReader(path), lambda: SqliteStore(path, OWN)):
        with pytest.raises(StoreCorrupt, match="fetched again"):
            open_it()


def test_t62_a_piece_that_is_gone_is_told_as_damage_whatever_lay_there(path: Path) -> None:
    store = SqliteStore(path, OWN)
    fill(store, Log(), 3)
    fill(store, Log(2), 2)
    with store.write() as transaction:
        transaction.set_pin("b", TARGET, 1, 10)
        transaction.set_cursor("reader", OWN, 2)
        transaction.set_ban(TARGET, 7, 10)
    store.close()
    whole = path.read_bytes()
    refused = 0
    for at in range(schema.PAGE_BYTES, len(whole), 1024):
        if not any(whole[at : at + 1024]):
            continue
        path.write_bytes(whole[:at] + bytes(1024) + whole[at + 1024 :])
        try:
            with closing(SqliteReader(path)) as reader:
                list(reader.verify())
            with closing(SqliteStore(path, OWN)) as store:
                read_all(store)
        except (StoreError, IdentityMismatch):
            refused += 1
        path.with_name(path.name + "-wal").unlink(missing_ok=True)
        path.with_name(path.name + "-shm").unlink(missing_ok=True)
    assert refused


def read_all(store: SqliteStore) -> None:
    for origin in store.states():
        store.load(origin, 1, EVERYTHING, EVERYTHING)
        store.proof(origin)
    store.pins(), store.book(), store.bans(), store.cursors("reader"), store.origins_for(TARGET, 10)


def test_t62_an_origin_without_a_name_is_damage(path: Path) -> None:
    store = SqliteStore(path, OWN)
    store.close()
    rewrite(path, "DROP TABLE origins")
    rewrite(
        path,
        "CREATE TABLE origins (no INTEGER PRIMARY KEY, peer_id, seq, hash, tail_seq, size, frozen_from, lost_seq,"
        " claimed_seq)",
    )
    rewrite(path, "INSERT INTO origins (no) VALUES (0)")
    with pytest.raises(StoreCorrupt, match="the tables origins are not defined"):
        SqliteStore(path, OWN)
    with pytest.raises(StoreCorrupt, match="damaged list of origins"):
        _ = SqliteReader(path).states()


def test_only_its_owner_reads_the_file_and_what_lies_beside_it(store: SqliteStore, path: Path) -> None:
    fill(store, Log(), 1)
    files = [path, *path.parent.glob("log.sqlite-*")]
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_t62_a_batch_that_nobody_signed_is_found(store: SqliteStore) -> None:
    import hashlib
    import zlib

    log = Log()
    batch = log.add(b"x" * 100)
    forged = batch.wal_bytes[:-64] + bytes(64)
    with store.write() as transaction:
        transaction.append(batch)
    assert store._writer is not None
    store._writer.execute("UPDATE batches SET wal = ?", (forged,))
    store._writer.execute("UPDATE chain SET signature_crc = ?", (zlib.crc32(bytes(64)),))
    assert hashlib.sha256(forged[:-64]).digest() == batch.hash
    assert [found.what for found in store.verify()] == ["signature"]


@settings(max_examples=40)
@given(st.data())
def test_t60_t62_any_torn_page_is_found_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("torn") / "log.sqlite"
    log = Log()
    store = SqliteStore(path, OWN)
    fill(store, log, 6, 9000)
    store.close()
    whole = path.read_bytes()
    pages = len(whole) // schema.PAGE_BYTES
    start = data.draw(st.integers(0, pages - 1)) * schema.PAGE_BYTES + data.draw(st.sampled_from([0, 100, 4096, 8000]))
    end = min(start + data.draw(st.sampled_from([1, 100, 4096])), len(whole))
    torn = whole[:start] + bytes(byte ^ 0x5A for byte in whole[start:end]) + whole[end:]
    path.write_bytes(torn)
    good = {batch.seq_end: batch.wal_bytes for batch in log.batches}
    try:
        store = SqliteStore(path, OWN)
    except StoreError:
        return
    try:
        found = list(store.verify())
        loaded = store.load(OWN, 1, store.current()[OWN].seq, EVERYTHING) if OWN in store.current() else None
        # Whatever is served is what was stored.
        for batch in loaded.batches if loaded is not None else ():
            assert good[batch.seq_end] == batch.wal_bytes
        if not found:
            assert loaded is not None
            assert len(loaded.batches) == 6
    except StoreError:
        pass
    finally:
        store.close()


# Power cuts.


def test_t60_a_lost_or_torn_tail_loses_nothing_that_was_synced(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    wal = path.with_name("log.sqlite-wal")
    log = Log()
    synced: list[int] = []
    for number in range(4):
        fill(store, log, 1, 3000 * (number + 1))
        synced.append(wal.stat().st_size)
    data = wal.read_bytes()
    cuts = {0, *synced, *(size + more for size in synced for more in (1, 24, 1000)), *range(0, len(data), 4096)}
    for number, cut in enumerate(sorted(cut for cut in cuts if cut <= len(data))):
        for tail in (b"", b"\xa5" * 5000):
            copy = tmp_path / f"{number}-{len(tail)}"
            copy.mkdir()
            shutil.copy(path, copy)
            (copy / wal.name).write_bytes(data[:cut] + tail)
            acknowledged = sum(size <= cut for size in synced)
            again = SqliteStore(copy / path.name, OWN)
            state = again.current().get(OWN)
            assert (state.seq if state else 0) >= acknowledged
            assert list(again.verify()) == []
            again.close()
            shutil.rmtree(copy)


# A disk that does not write.


def test_t61_a_full_disk_raises_and_nothing_of_it_counts(store: SqliteStore) -> None:
    log = Log()
    fill(store, log, 1)
    connection = store._writer
    assert connection is not None
    connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0] + 1}")
    lost = Log(2).add(b"x" * 60_000)
    with pytest.raises(StoreFull, match="cannot be written"), store.write() as transaction:
        transaction.append(lost)
    assert list(store.current()) == [OWN] == list(store.states())
    # Nothing may be written before it recovered, room or not.
    with pytest.raises(StoreReadOnly), store.write():
        raise AssertionError("never entered")
    store.recover()
    with store.write() as transaction:
        transaction.append(lost)
    assert set(store.current()) == {OWN, lost.origin} == set(store.states())


def test_t61_a_reader_in_the_middle_delays_recovery_and_does_not_break_it(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BUSY_MS", 20)
    fill(store, Log(), 2)
    reader = SqliteReader(path)
    rows = reader._connection.execute("SELECT wal FROM batches")
    rows.fetchone()
    with pytest.raises(StoreError, match="being read"):
        store.recover()
    rows.close()
    store.recover()
    assert store.current()[OWN].seq == 2
    reader.close()


def test_t61_recover_reads_the_heads_again(store: SqliteStore) -> None:
    log = Log()
    fill(store, log, 2)
    # What memory believes is not asked.
    store._states = {}
    store.recover()
    assert store.current()[OWN].head == LogHead(2, log.batches[1].hash)


def test_recovering_leaves_no_trace(store: SqliteStore) -> None:
    fill(store, Log(), 2)
    store.recover()
    store.recover()
    assert store._writer is not None
    assert store._writer.execute("SELECT COUNT(*) FROM batches").fetchone()[0] == 2
    assert list(store.verify()) == []


# Whose file it is, and which version.


def test_another_key_is_refused(store: SqliteStore, path: Path) -> None:
    with pytest.raises(IdentityMismatch, match=str(OWN)):
        SqliteStore(path, identity(2).peer_id)


def test_a_newer_schema_is_refused(store: SqliteStore, path: Path) -> None:
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for open_it in (lambda: SqliteStore(path, OWN), lambda: SqliteReader(path)):
        with pytest.raises(StoreError, match="schema version 99"):
            open_it()


def test_an_older_schema_is_migrated_in_one_transaction(store: SqliteStore, path: Path) -> None:
    fill(store, Log(), 2)
    store.close()
    connection = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError):
        schema.prepare(connection, path, OWN, (*schema.STEPS, "CREATE TABLE more (a); CREATE TABLE more (b)"))
    assert schema.check_version(connection, path) == len(schema.STEPS)
    schema.prepare(connection, path, OWN, (*schema.STEPS, "CREATE TABLE more (a); CREATE TABLE and_more (b)"))
    assert connection.execute("SELECT COUNT(*) FROM more, and_more").fetchone() == (0,)
    assert connection.execute("SELECT COUNT(*) FROM batches").fetchone() == (2,)
    with pytest.raises(StoreError, match=f"schema version {len(schema.STEPS) + 1}"):
        schema.check_version(connection, path)
    connection.close()


def old_file(path: Path, version: int, count: int = 3) -> Log:
    """Write a store as the software of that schema version left it."""
    log = Log(1)
    for number in range(count):
        log.seal([NewRecord("app", TARGET if number == 1 else None, b"record %d" % number)])
    connection = sqlite3.connect(path, isolation_level=None)
    schema.prepare(connection, path, OWN, schema.STEPS[:version])
    connection.execute(
        "INSERT INTO origins (no, peer_id, seq, hash, tail_seq, size) VALUES (1, ?, ?, ?, ?, 1)",
        (log.origin, log.batches[-1].seq_end, log.batches[-1].hash, log.batches[-1].seq_end),
    )
    for number, batch in enumerate(log.batches):
        connection.execute("INSERT INTO batches (no, wal) VALUES (?, ?)", (number, batch.wal_bytes))
        connection.execute(
            "INSERT INTO chain VALUES (1, ?, ?, ?, ?, 0, ?)",
            (batch.seq_end, batch.seq_begin, batch.hash, zlib.crc32(batch.signature), number),
        )
    if version >= 3:
        connection.execute(schema.INDEX_TARGET, (TARGET, 1))
    connection.close()
    return log


@pytest.mark.parametrize("version", range(1, len(schema.STEPS)))
def test_who_reads_a_file_of_an_older_version_goes_on_when_a_node_brings_it_to_the_newest(
    path: Path, version: int
) -> None:
    log = old_file(path, version)
    place = BookPlace(PeerEndpoint("127.0.0.1", 1, "tcp"), TARGET, "b", "config", 1, 0)
    with closing(SqliteReader(path)) as reader, closing(SqliteStore(path, OWN)) as store:
        with store.write() as transaction:
            transaction.append(log.add(bytes(Limits().segment_batch_bytes_min)))
            transaction.set_place(place)
            transaction.set_ban(TARGET, 1, 1)
        assert len(reader.load(log.origin, 1, 99, MIB).batches) == len(log.batches)
        assert reader.states() == store.states()
        assert (reader.book(), reader.bans()) == ([place], {TARGET: 1})
        assert list(reader.verify()) == []


@pytest.mark.parametrize("version", range(1, len(schema.STEPS)))
def test_a_file_of_every_older_version_is_read_as_it_is_and_migrated_when_opened(path: Path, version: int) -> None:
    log = old_file(path, version)
    with closing(SqliteReader(path)) as reader:
        assert reader.states()[log.origin].seq == log.batches[-1].seq_end
        assert list(reader.verify()) == []
        assert (reader.book(), reader.bans()) == ([], {})
    with closing(SqliteStore(path, OWN)) as store:
        assert store.states() == store.current()
        assert (store.book(), store.bans()) == ([], {})
        assert store.origins_for(TARGET, 9) == [log.origin]
        log.add(b"one more")
        with store.write() as transaction:
            transaction.append(log.batches[-1])
        assert list(store.verify()) == []
        with store.write() as transaction:
            transaction.note_claim(9)
    with closing(SqliteStore(path, OWN)) as store:
        assert store.current()[log.origin].seq == log.batches[-1].seq_end
        assert store.current()[OWN].claimed_seq == 9


def test_t62_a_damaged_batch_keeps_no_older_file_from_being_migrated(path: Path) -> None:
    log = Log(1)
    for number in range(5):
        log.seal([NewRecord("app", TARGET if number == 4 else None, bytes([number]) * 200_000)])
    with closing(SqliteStore(path, OWN, limits=ROWS)) as store, store.write() as transaction:
        for batch in log.batches:
            transaction.append(batch)
    connection = sqlite3.connect(path)
    connection.executescript(
        "DROP TABLE segments; ALTER TABLE chain DROP COLUMN segment;"
        " DROP INDEX targets_of_origin; DROP TABLE targets; DROP TABLE book; DROP TABLE bans;"
        " ALTER TABLE origins DROP COLUMN claimed_seq; PRAGMA user_version = 2"
    )
    connection.close()
    break_a_page_of(path, 2)
    with closing(SqliteStore(path, OWN)) as store:
        assert store.current()[OWN].seq == 5
        assert store.origins_for(TARGET, 9) == [OWN]
        assert store.load(OWN, 3, 3, EVERYTHING).damaged == DamagedRange(OWN, 3, 3)


def test_t62_a_batch_whose_pages_are_broken_is_quarantined_while_something_is_written(path: Path) -> None:
    log, other = Log(1), Log(2)
    with closing(SqliteStore(path, OWN, limits=ROWS)) as store:
        fill(store, log, 3, 200_000)
    break_a_page_of(path, 1)
    with closing(SqliteStore(path, OWN)) as store:
        with store.write() as transaction:
            held = transaction.held_within(OWN, 2, 2)
            assert held is not None
            assert transaction.held_batch(OWN, held) is None
            transaction.append(other.add(b"x"))
        assert (store.current()[OWN].seq, store.current()[other.origin].seq) == (1, 1)


def test_t62_broken_pages_at_the_end_of_a_log_whose_note_is_damaged_are_no_reason_not_to_open(path: Path) -> None:
    log = Log(1)
    with closing(SqliteStore(path, OWN, limits=ROWS)) as store:
        fill(store, log, 3, 200_000)
    break_a_page_of(path, 2)
    rewrite(path, "UPDATE origins SET seq = 1")
    with closing(SqliteStore(path, OWN)) as store:
        assert (store.current()[OWN].seq, store.current()[OWN].tail_seq) == (2, 3)


def break_a_page_of(path: Path, byte: int) -> None:
    """Have an overflow page of the batch that is full of that byte name as the next one a page that is not there."""
    data = bytearray(path.read_bytes())
    pages = range(0, len(data), schema.PAGE_BYTES)
    at = next(at for at in pages if set(data[at + 100 : at + schema.PAGE_BYTES - 100]) == {byte})
    data[at : at + 4] = b"\x7f\xff\xff\xff"
    path.write_bytes(data)


def test_some_other_file_is_refused(path: Path) -> None:
    path.write_bytes(b"this is not a database, though it is long enough to look at" * 100)
    with pytest.raises(StoreCorrupt):
        SqliteStore(path, OWN)
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE mine (a)")
    connection.close()
    with pytest.raises(StoreCorrupt, match="not a store"):
        SqliteStore(path, OWN)
    with pytest.raises(StoreCorrupt, match="not a store"):
        SqliteReader(path)


def test_the_owner_can_change_and_the_old_log_stays(store: SqliteStore, path: Path) -> None:
    fill(store, Log(), 2)
    new = identity(7).peer_id
    store.change_owner(new)
    store.close()
    again = SqliteStore(path, new)
    assert (again.own, again.current()[OWN].seq) == (new, 2)
    again.close()


# Readers beside it.


def test_a_reader_beside_a_writer_sees_each_commit_and_stops_no_checkpoint(store: SqliteStore, path: Path) -> None:
    log = Log()
    reader = SqliteReader(path)
    assert reader.states() == {}
    for number in range(1, 4):
        fill(store, log, 1)
        assert reader.states()[OWN].seq == number
        assert len(reader.load(OWN, 1, EVERYTHING, EVERYTHING).batches) == number
        assert list(reader.verify()) == []
    assert store._writer is not None
    assert store._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    assert path.with_name("log.sqlite-wal").stat().st_size == 0
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._connection.execute("DELETE FROM chain")
    reader.close()


def test_a_reader_without_a_writer(path: Path) -> None:
    store = SqliteStore(path, OWN)
    fill(store, Log(), 3)
    store.close()
    reader = SqliteReader(path)
    assert reader.own == OWN
    assert reader.states()[OWN].seq == 3
    reader.close()


def test_text_that_cannot_be_written_is_no_damage(store: SqliteStore) -> None:
    with pytest.raises(ConfigError, match="half a character"):
        store.cursors("\ud800")
    with pytest.raises(ConfigError, match="half a character"), store.write() as transaction:
        transaction.set_pin("\ud800", OWN, 1, 10)
    with store.write() as transaction:
        transaction.set_pin("b", OWN, 1, 10)


def test_there_must_be_something_to_read(path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        SqliteReader(path)
    path.touch()
    with pytest.raises(StoreError, match="empty"):
        SqliteReader(path)


def test_closing_leaves_one_file(store: SqliteStore, path: Path) -> None:
    fill(store, Log(), 3)
    store.close()
    store.close()
    assert [file.name for file in path.parent.iterdir()] == ["log.sqlite"]


def test_closing_waits_for_the_read_that_is_under_way_and_ends_those_after_it(store: SqliteStore) -> None:
    import threading

    fill(store, Log(), 300, 10_000)
    began = threading.Event()
    ended: list[str] = []

    def read() -> None:
        try:
            while True:
                assert len(store.load(OWN, 1, EVERYTHING, EVERYTHING).batches) == 300
                began.set()
        except StoreError as error:
            ended.append(str(error))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert began.wait(30)
    store.close()
    for thread in threads:
        thread.join(30)
    assert len(ended) == 2
    assert all("closed database" in text for text in ended)


def test_many_batches_are_verified_in_pieces(store: SqliteStore) -> None:
    log = Log()
    with store.write() as transaction:
        for _ in range(600):
            transaction.append(log.add(b"x"))
    assert list(store.verify()) == []
    with store.write() as transaction:
        transaction.quarantine(DamagedRange(OWN, 511, 511))
    assert [found.seq_begin for found in store.verify()] == [511]
