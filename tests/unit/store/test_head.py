"""One flipped bit in the head of the store's file: nothing that can be read is lost, and everybody says the same."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest

from p2p.errors import ConfigError, StoreCorrupt, StoreError, StoreLocked
from p2p.store.base import MEND_FILE, WHOLE_FILE, Damage, detail_of
from p2p.store.definitions import version_and_tables
from p2p.store.files import is_suspect
from p2p.store.head import check_head
from p2p.store.keys import KEY_FILE, STORE_FILE, mend_store, open_reader, open_store
from p2p.store.schema import STEPS, prepare
from p2p.store.sqlite import SqliteStore
from tests.logs import Log, identity
from tests.sampling import some

HEAD_BYTES = 100
EVERYTHING = 2**62
IN_A_SEGMENT = 70_000
UNCHECKED = {*range(24, 28), *range(40, 44), *range(92, 100)}
"""Counters, and the version of SQLite that wrote: anything may stand there."""


class Dir:
    """A data dir whose store has small batches, big ones, and free pages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = Log(1)
        self.said: list[str] = []

    @property
    def file(self) -> Path:
        return self.path / STORE_FILE

    def make(self, sizes: Sequence[int] = (10, 3000, IN_A_SEGMENT, 20, 3000, IN_A_SEGMENT, 30)) -> None:
        self.path.mkdir(mode=0o700)
        (self.path / KEY_FILE).write_bytes(identity(1).to_pem())
        (self.path / KEY_FILE).chmod(0o600)
        with closing(self.open()) as store:
            for size in sizes:
                with store.write() as transaction:
                    transaction.append(self.log.add(b"." * size))
            store.recover()

    def copy(self, path: Path) -> Dir:
        """The same in a fresh place."""
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.path, path)
        copied = Dir(path)
        copied.log.batches = list(self.log.batches)
        return copied

    def put(self, at: int, what: bytes) -> None:
        with self.file.open("r+b") as file:
            file.seek(at)
            file.write(what)

    def flip(self, at: int, bit: int) -> None:
        self.put(at, bytes([self.file.read_bytes()[at] ^ 1 << bit]))

    def open(self) -> SqliteStore:
        return open_store(self.path, entropy=os.urandom, say=self.said.append)[0]

    def verify(self) -> list[Damage]:
        try:
            with closing(open_reader(self.path)) as reader:
                return list(reader.verify())
        except StoreCorrupt as error:
            assert WHOLE_FILE in str(error)
            return [Damage("file", None, None, detail_of(error))]

    def check(self) -> None:
        """Everything is there, and it can be gone on."""
        assert self.verify() == []
        self.said.clear()
        with closing(self.open()) as store:
            assert self.said == []
            with store.write() as transaction:
                transaction.append(self.log.add(b"more"))
            loaded = store.load(self.log.origin, 1, EVERYTHING, EVERYTHING)
            assert [stored.wal_bytes for stored in loaded.batches] == [batch.wal_bytes for batch in self.log.batches]
        assert self.verify() == []


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dir:
    made = Dir(tmp_path_factory.mktemp("made") / "data")
    made.make()
    return made


@pytest.fixture
def dir(made: Dir, tmp_path: Path) -> Dir:
    """A copy, to be damaged."""
    return made.copy(tmp_path / "data")


@pytest.mark.sampled
@pytest.mark.parametrize("tens", range(0, HEAD_BYTES, 10))
def test_wherever_a_bit_is_flipped_verify_mend_and_start_say_the_same(made: Dir, tmp_path: Path, tens: int) -> None:
    for at in some(range(tens, tens + 10), 2, tens // 10):
        bit = (at * 5 + 3) % 8
        dir = made.copy(tmp_path / "mended")
        dir.flip(at, bit)
        other = dir.copy(tmp_path / "started")
        found = dir.verify()
        assert all(damage.remedy == MEND_FILE for damage in found)
        assert bool(found) is (at not in UNCHECKED), (at, bit)
        line = mend_store(dir.path)
        assert (line is not None) is bool(found), (at, bit)
        dir.check()
        with closing(other.open()) as store:
            assert bool(other.said) is bool(found), (at, bit)
            with store.write() as transaction:
                transaction.append(other.log.add(b"another"))
        other.check()


@pytest.mark.sampled
@pytest.mark.parametrize("at", range(28, 40))
def test_a_wrong_number_of_pages_is_found_also_where_a_process_was_killed(made: Dir, tmp_path: Path, at: int) -> None:
    """Then SQLite's log has what is not in the file yet, and not always the first page."""
    killed = made.copy(tmp_path / "running")
    with closing(killed.open()) as store:
        with store.write() as transaction:
            transaction.append(killed.log.add(b"small"))
        dir = killed.copy(tmp_path / "killed")
    assert dir.file.with_name("log.sqlite-wal").stat().st_size
    for bit in some(range(8), 3, at):
        hurt = dir.copy(tmp_path / "hurt")
        hurt.flip(at, bit)
        other = hurt.copy(tmp_path / "other")
        mend_store(hurt.path)
        hurt.check()
        with closing(other.open()) as store, store.write() as transaction:
            transaction.append(other.log.add(b"another"))
        other.check()


def test_a_head_of_noise_is_put_right(made: Dir, tmp_path: Path) -> None:
    for seed in range(5):
        dir = made.copy(tmp_path / "data")
        dir.put(0, random.Random(seed).randbytes(HEAD_BYTES))
        assert dir.verify()
        with closing(dir.open()):
            assert "head of its file (byte 0, 1" in dir.said[0]
        dir.check()


def test_what_was_written_by_a_damaged_head_is_read_all_the_same(dir: Dir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages seem to end earlier than they do, and what is written then does."""
    dir.flip(20, 0)
    with monkeypatch.context() as patch:
        patch.setattr("p2p.store.sqlite.check_head", lambda path: None)
        with closing(dir.open()) as store, store.write() as transaction:
            transaction.append(dir.log.add(b"acknowledged"))
    line = mend_store(dir.path)
    assert line is not None
    assert "byte 20" in line
    dir.check()


@pytest.mark.parametrize("version", range(1, len(STEPS) + 1))
def test_the_tables_say_which_version_a_file_has(tmp_path: Path, version: int) -> None:
    """So each step changes them."""
    path = tmp_path / "log.sqlite"
    own = identity(1).peer_id
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        prepare(connection, path, own, STEPS[:version])
        assert version_and_tables(connection) == (version, version)
        for wrong in {version - 1, version ^ 1, version + 16, len(STEPS)} - {version}:
            connection.execute(f"PRAGMA user_version = {wrong}")
            before = path.read_bytes()
            with pytest.raises(StoreCorrupt):
                SqliteStore(path, own)
            assert path.read_bytes()[HEAD_BYTES:] == before[HEAD_BYTES:]


@pytest.mark.parametrize("wrong", [2, 5, 7, 22])
def test_an_older_file_with_another_number_is_brought_to_this_version(tmp_path: Path, wrong: int) -> None:
    dir = Dir(tmp_path / "data")
    dir.path.mkdir(mode=0o700)
    (dir.path / KEY_FILE).write_bytes(identity(1).to_pem())
    (dir.path / KEY_FILE).chmod(0o600)
    with closing(sqlite3.connect(dir.file, isolation_level=None)) as connection:
        prepare(connection, dir.file, identity(1).peer_id, STEPS[:6])
        connection.execute(f"PRAGMA user_version = {wrong}")
    assert {damage.what for damage in dir.verify()} == {"file"}
    with closing(dir.open()):
        assert "byte 63" in dir.said[0]
    dir.check()


def test_a_file_of_a_newer_version_is_refused_and_left_alone(dir: Dir) -> None:
    with closing(sqlite3.connect(dir.file, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE more (one INTEGER)")
        connection.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    before = dir.file.read_bytes()
    with pytest.raises(StoreError, match="use the version that wrote it"):
        dir.open()
    with pytest.raises(StoreError, match="use the version that wrote it"):
        mend_store(dir.path)
    with pytest.raises(StoreError, match="use the version that wrote it"):
        open_reader(dir.path)
    assert dir.file.read_bytes() == before


def test_another_database_is_left_alone(dir: Dir) -> None:
    dir.file.unlink()
    with closing(sqlite3.connect(dir.file, isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum = FULL")
        connection.execute("CREATE TABLE somebodys (one INTEGER)")
    before = dir.file.read_bytes()
    check_head(dir.file)
    with pytest.raises(StoreCorrupt, match="not a store of this software"):
        open_reader(dir.path)
    with pytest.raises(StoreCorrupt, match="move log"):
        mend_store(dir.path)
    assert dir.file.read_bytes() == before
    with pytest.raises(StoreCorrupt, match="not a store of this software"):
        dir.open()
    assert not is_suspect(dir.file)


def test_where_the_first_page_is_lost_the_start_sends_to_mend_which_makes_a_store_of_segments(dir: Dir) -> None:
    with closing(dir.open()) as store, store.write() as transaction:
        transaction.append(Log(2).add(b"." * IN_A_SEGMENT))
    dir.put(0, bytes(8192))
    before = dir.file.read_bytes()
    assert [damage.what for damage in dir.verify()] == ["file"]
    with pytest.raises(StoreCorrupt, match="run `p2p wal mend`; if that cannot, move log"):
        dir.open()
    assert dir.file.read_bytes() == before
    line = mend_store(dir.path)
    assert line is not None
    assert "1 records of 2 logs, 1 of which miss something" in line
    assert "kept as log.sqlite.damaged" in line
    assert dir.file.with_name("log.sqlite.damaged").read_bytes() == before
    with closing(dir.open()) as store:
        own = store.current()[dir.log.origin]
        # The third and the sixth batch are there; nothing is signed below what they show, nor just above it.
        assert (own.seq, own.tail_seq, own.lost_seq, own.claimed_seq) == (0, 6, 6, 7)
        assert not own.is_whole
        assert store.current()[Log(2).origin].seq == 1
        with store.write() as transaction:
            for batch in dir.log.batches:
                if batch.seq_begin not in (3, 6):
                    transaction.append(batch)
        assert store.current()[dir.log.origin].is_whole
        loaded = store.load(dir.log.origin, 1, EVERYTHING, EVERYTHING)
        assert [stored.wal_bytes for stored in loaded.batches] == [batch.wal_bytes for batch in dir.log.batches]
    assert dir.verify() == []


def test_where_the_list_of_tables_is_lost_a_store_is_made_of_segments(dir: Dir) -> None:
    """As in a first page that has an empty one's shape."""
    dir.put(HEAD_BYTES, bytes((13, 0, 0, 0, 0, 0x20, 0, 0)) + bytes(8192 - HEAD_BYTES - 8))
    assert dir.verify()
    line = mend_store(dir.path)
    assert line is not None
    assert "made anew of what its segments hold" in line
    with closing(dir.open()) as store:
        assert store.current()[dir.log.origin].tail_seq == 6


def test_sqlites_log_is_kept_with_a_file_that_cannot_take_it_up(dir: Dir) -> None:
    killed = dir.copy(dir.path.with_name("killed"))
    with closing(dir.open()) as store, store.write() as transaction:
        transaction.append(dir.log.add(b"small"))
        shutil.copy(dir.file.with_name("log.sqlite-wal"), killed.path)
    before = killed.file.with_name("log.sqlite-wal").read_bytes()
    killed.put(0, bytes(8192))
    assert mend_store(killed.path)
    assert killed.file.with_name("log.sqlite.damaged-wal").read_bytes() == before
    with closing(killed.open()) as store:
        assert store.current()[killed.log.origin].tail_seq == 6


@pytest.mark.parametrize("name", ["link", "replace", "fsync"])
@pytest.mark.parametrize("when", [1, 2, 3])
def test_t60_killed_as_a_store_is_made_of_segments_the_file_and_its_log_are_kept_by_the_next_try(
    dir: Dir, name: str, when: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    killed = dir.copy(dir.path.with_name("killed"))
    with closing(dir.open()) as store, store.write() as transaction:
        transaction.append(dir.log.add(b"small"))
        shutil.copy(dir.file.with_name("log.sqlite-wal"), killed.path)
    killed.put(0, bytes(8192))
    before = [killed.file.with_name(name).read_bytes() for name in ("log.sqlite", "log.sqlite-wal")]
    real, done = getattr(os, name), 0

    def die(*args: object, **more: object) -> object:
        nonlocal done
        done += 1
        result = real(*args, **more)
        if done == when:
            raise Killed
        return result

    with monkeypatch.context() as patched:
        patched.setattr(os, name, die)
        with suppress(Killed):
            mend_store(killed.path)
    with suppress(ConfigError, StoreCorrupt):
        mend_store(killed.path)
    kept = [killed.file.with_name(name).read_bytes() for name in ("log.sqlite.damaged", "log.sqlite.damaged-wal")]
    assert kept == before
    with closing(killed.open()) as store:
        assert store.current()[killed.log.origin].tail_seq == 6


def test_where_no_segment_holds_anything_the_file_is_left_and_the_way_out_is_told(dir: Dir) -> None:
    for segment in dir.path.glob("*.segment"):
        segment.unlink()
    dir.put(0, bytes(8192))
    before = dir.file.read_bytes()
    with pytest.raises(StoreCorrupt, match="cannot be written anew: move log"):
        mend_store(dir.path)
    assert dir.file.read_bytes() == before


def test_an_own_log_of_big_batches_alone_is_not_signed_on_before_somebody_was_asked(tmp_path: Path) -> None:
    dir = Dir(tmp_path / "data")
    dir.make([IN_A_SEGMENT, IN_A_SEGMENT])
    dir.put(0, bytes(8192))
    assert mend_store(dir.path)
    with closing(dir.open()) as store:
        own = store.current()[dir.log.origin]
        assert (own.seq, own.claimed_seq, own.is_lost) == (2, 3, True)


# What lies beside the file.


def test_an_older_file_beside_newer_segments_is_told(made: Dir, tmp_path: Path) -> None:
    dir = made.copy(tmp_path / "data")
    older = dir.file.read_bytes()
    with closing(dir.open()) as store:
        for size in (10, IN_A_SEGMENT, IN_A_SEGMENT):
            with store.write() as transaction:
                transaction.append(dir.log.add(b"." * size))
    dir.file.write_bytes(older)
    (found,) = dir.verify()
    assert found.what == "end"
    assert "up to seq 10, beyond what is missing after seq 7" in found.detail
    assert "--connect" in found.remedy or "peer" in found.remedy
    with closing(open_reader(dir.path)) as reader:
        assert reader.own_end() == 10
    # What only follows is no damage: the next start takes it up.
    other = made.copy(tmp_path / "other")
    with closing(other.open()) as store, store.write() as transaction:
        transaction.append(other.log.add(b"." * IN_A_SEGMENT))
    other.file.write_bytes(older)
    assert other.verify() == []


def test_an_emptied_file_beside_segments_is_no_start_that_was_cut_short(dir: Dir) -> None:
    dir.file.write_bytes(b"")
    with pytest.raises(StoreError, match="it lost what was in it"):
        open_reader(dir.path)


def test_the_lock_says_whether_it_is_this_process_that_has_it(dir: Dir) -> None:
    with closing(dir.open()), pytest.raises(StoreLocked, match=r"^this process has "):
        dir.open()
