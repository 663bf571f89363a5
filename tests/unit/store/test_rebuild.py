"""A file whose structure is damaged is written anew: everything that can be read is in it, and nothing else."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from p2p.errors import StoreCorrupt, StoreError
from p2p.ids import PeerEndpoint
from p2p.policy.book import BookPlace
from p2p.replication.fork import make_proof
from p2p.store import files as files_of_a_store
from p2p.store import rebuild as rebuilding
from p2p.store import salvage as salvaging
from p2p.store.base import DamagedRange, NotBulk
from p2p.store.files import is_suspect, suspect
from p2p.store.keys import DirLock, mend_store, open_store
from p2p.store.reader import SqliteReader
from p2p.store.rebuild import look_through, rebuild
from p2p.store.schema import PAGE_BYTES
from p2p.store.sqlite import SqliteStore
from tests.logs import Log, identity
from tests.sampling import some

OWN = identity(1).peer_id
FRIEND = identity(9).peer_id
PLACE = BookPlace(PeerEndpoint("192.0.2.1", 7), FRIEND, "b", "manual", 5, 0)
EVERYTHING = 2**62
BATCHES = 60


class World:
    """A store of three logs, the third of which is forked, with everything else that a store holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logs = [Log(1), Log(2), Log(3)]
        with closing(SqliteStore(path, OWN)) as store:
            for number in range(BATCHES):
                with store.write() as transaction:
                    for log in self.logs[:2]:
                        transaction.append(log.add(b"%d" % number * 700))
            forked = self.logs[2]
            other = forked.branch(0, 3)
            with store.write() as transaction:
                transaction.append(forked.add(b"one"))
                transaction.append(forked.add(b"two"))
                other.add(b"one")
                other.batches[0] = forked.batches[0]
                transaction.freeze(make_proof(forked.batches[1], other.add(b"another")))
                transaction.set_pin("b", FRIEND, 1, 10)
                transaction.set_place(PLACE)
                transaction.set_ban(FRIEND, 7, 10)
                transaction.set_cursor("reader", OWN, 20)
                transaction.note_claim(BATCHES)
            self.states = store.states()
        self.whole = path.read_bytes()

    def zero(self, at: int, size: int = 4096) -> None:
        """As a disk does that lost what was there."""
        self.path.write_bytes(self.whole[:at] + bytes(size) + self.whole[at + size :])

    def root(self, name: str) -> int:
        with closing(sqlite3.connect(self.path)) as connection:
            page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0]
        return (int(page) - 1) * PAGE_BYTES

    def check_whole(self) -> None:
        """Everything is there, and `verify` finds nothing."""
        with closing(SqliteStore(self.path, OWN)) as store:
            # What lies above a fork is no part of its log, and nobody sends it.
            assert [found for found in store.verify() if found.origin != self.logs[2].origin] == []
            assert store.mended == []
            for log in self.logs[:2]:
                assert store.states()[log.origin].head == self.states[log.origin].head
            assert store.states()[OWN].claimed_seq == BATCHES
            for log in self.logs[:2]:
                loaded = store.load(log.origin, 1, EVERYTHING, EVERYTHING)
                assert [stored.wal_bytes for stored in loaded.batches] == [batch.wal_bytes for batch in log.batches]
            # Also if its proof is what was lost.
            assert store.states()[self.logs[2].origin].frozen_from == 2

    def fetch(self) -> None:
        """What peers do for a log that is not whole."""
        with closing(SqliteStore(self.path, OWN)) as store:
            for log in self.logs[:2]:
                while (loaded := store.load(log.origin, 1, store.current()[log.origin].seq, EVERYTHING)).damaged:
                    with store.write() as transaction:
                        transaction.quarantine(loaded.damaged)
                while not (state := store.current()[log.origin]).is_whole:
                    (batch,) = (batch for batch in log.batches if batch.seq_begin == state.seq + 1)
                    with store.write() as transaction:
                        transaction.append(batch)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("made") / "log.sqlite")


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    """A copy, to be damaged."""
    world = copy(made)
    world.path = tmp_path / "log.sqlite"
    world.path.write_bytes(world.whole)
    world.path.chmod(0o600)
    world.logs = [copy(log) for log in made.logs]
    for log in world.logs:
        log.batches = list(log.batches)
    return world


def files(path: Path) -> set[str]:
    return {entry.name for entry in path.parent.iterdir()}


def test_t62_a_whole_file_that_is_written_anew_holds_the_same(world: World) -> None:
    said = rebuild(world.path)
    assert f"{2 * BATCHES + 1} records of 3 logs" in said
    assert "miss" not in said
    world.check_whole()
    assert files(world.path) == {"log.sqlite", "log.sqlite.damaged"}
    assert world.path.with_name("log.sqlite.damaged").read_bytes() == world.whole
    assert world.path.stat().st_mode & 0o777 == 0o600
    with closing(SqliteStore(world.path, OWN)) as store:
        assert (store.pins(), store.book(), store.bans()) == ({"b": FRIEND}, [PLACE], {FRIEND: 7})
        assert store.proof(world.logs[2].origin) is not None
        assert (store.cursors("reader"), store.states()) == ({OWN: 20}, world.states)
        # It is used as any other, and written anew again.
        with store.write() as transaction:
            transaction.append(world.logs[0].add(b"more"))
    rebuild(world.path)
    with closing(SqliteReader(world.path)) as reader:
        assert (reader.states()[OWN].seq, list(reader.verify())) == (BATCHES + 1, [])


@pytest.mark.sampled
def test_t62_any_piece_that_a_disk_lost_leaves_a_file_that_verifies_once_peers_sent_what_is_missing(
    world: World,
) -> None:
    # The first page has the list of tables, without which nothing can be read.
    refused = []
    rebuilt = 0
    tables = {world.root("identity"), world.root("origins")}
    pieces = range(PAGE_BYTES, len(world.whole), PAGE_BYTES // 2)
    for at in some([at for at in pieces if any(world.whole[at : at + 4096])], 3):
        world.zero(at)
        if look_through(world.path) is None:
            continue
        try:
            rebuild(world.path)
        except StoreCorrupt as error:
            assert "move log.sqlite" in str(error)
            refused.append(at // PAGE_BYTES * PAGE_BYTES)
            assert world.path.read_bytes() == world.whole[:at] + bytes(4096) + world.whole[at + 4096 :]
            continue
        rebuilt += 1
        assert look_through(world.path) is None
        world.fetch()
        world.check_whole()
    assert rebuilt > 10
    assert set(refused) <= tables


@pytest.mark.parametrize("table", ["chain", "sqlite_autoindex_origins_1"])
def test_t62_a_store_that_could_not_be_opened_is_written_anew_and_lost_nothing(world: World, table: str) -> None:
    world.zero(world.root(table), PAGE_BYTES)
    with pytest.raises(StoreCorrupt):
        SqliteStore(world.path, OWN)
    said = opened(world.path)
    assert any("was written anew" in line for line in said)
    world.check_whole()


@pytest.mark.parametrize("peer", [1, 2])
def test_t62_a_flipped_bit_in_the_name_of_a_log_makes_no_log_of_nobody(world: World, peer: int) -> None:
    data = bytearray(world.whole)
    # The name stands in a batch, in its row and in the index of the rows: here in the row alone.
    row = world.root("origins")
    at = data.index(identity(peer).peer_id, row, row + PAGE_BYTES)
    data[at + 20] ^= 4
    world.path.write_bytes(data)
    assert look_through(world.path) is not None
    rebuild(world.path)
    world.check_whole()


def test_t62_own_batches_that_no_row_names_are_filed_only_if_their_owner_signed_them(world: World) -> None:
    log = world.logs[0]
    with closing(sqlite3.connect(world.path)) as connection, connection:
        connection.execute("DELETE FROM chain WHERE origin = 1 AND seq_end IN (3, 4, 9)")
        signature = bytearray(log.batches[8].wal_bytes)
        signature[-1] ^= 1
        connection.execute("UPDATE batches SET wal = ? WHERE wal = ?", (bytes(signature), log.batches[8].wal_bytes))
    rebuild(world.path)
    with closing(SqliteStore(world.path, OWN)) as store:
        state = store.states()[OWN]
        assert (state.seq, state.tail_seq, state.is_whole) == (8, BATCHES, False)
    world.fetch()
    world.check_whole()


def test_t62_what_can_be_read_from_the_other_end_is_copied_up_to_the_damage(world: World) -> None:
    with closing(sqlite3.connect(world.path)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        copying = rebuilding.Copy(connection, connection, world.path, world.path)
        assert [row[0] for row in copying._scan("batches", "no", "no {0}")] == list(range(1, 2 * BATCHES + 3))
    world.zero(broken_batches(world), PAGE_BYTES)
    with closing(sqlite3.connect(world.path)) as connection:
        copying = rebuilding.Copy(connection, connection, world.path, world.path)
        numbers = {row[0] for row in copying._scan("batches", "no", "no {0}")}
        gone = set(range(1, 2 * BATCHES + 3)) - numbers
        assert gone
        assert gone == set(range(min(gone), max(gone) + 1))
        for beside in (min(gone), max(gone)):
            with pytest.raises(sqlite3.DatabaseError):
                connection.execute("SELECT length(wal) FROM batches WHERE no = ?", (beside,)).fetchone()


def test_t62_a_batch_of_another_history_is_not_filed_beside_this_one(world: World) -> None:
    log, other = world.logs[1], world.logs[1].branch(5, 2)
    stray = other.add(b"another")
    with closing(sqlite3.connect(world.path)) as connection, connection:
        connection.execute("DELETE FROM chain WHERE origin = 2 AND seq_end = 6")
        connection.execute("UPDATE batches SET wal = ? WHERE wal = ?", (stray.wal_bytes, log.batches[5].wal_bytes))
    rebuild(world.path)
    with closing(SqliteReader(world.path)) as reader:
        assert reader.states()[log.origin].seq == 5
    world.fetch()
    world.check_whole()


def opened(path: Path) -> list[str]:
    said: list[str] = []
    lock = DirLock(path.parent)
    lock.close()
    (path.parent / "identity.pem").unlink(missing_ok=True)
    (path.parent / "identity.pem").touch(0o600)
    (path.parent / "identity.pem").write_bytes(identity(1).to_pem())
    open_store(path.parent, entropy=os.urandom, say=said.append)[0].close()
    return said


def test_t62_what_is_quarantined_makes_the_next_start_look_through_the_file(world: World) -> None:
    with closing(SqliteStore(world.path, OWN)) as store, store.write() as transaction:
        transaction.quarantine(DamagedRange(world.logs[1].origin, 3, 3))
    assert is_suspect(world.path)
    # A bit that flipped in a batch damages nothing else.
    assert opened(world.path) == []
    assert not is_suspect(world.path)
    world.fetch()


def test_t62_a_commit_that_meets_a_damaged_page_makes_the_next_start_write_the_file_anew(world: World) -> None:
    root = world.root("chain")
    with closing(SqliteStore(world.path, OWN)) as store:
        world.zero(root, PAGE_BYTES)
        assert store._writer is not None
        store._writer.execute("PRAGMA shrink_memory")
        with pytest.raises(StoreCorrupt), store.write() as transaction:
            transaction.append(world.logs[0].add(b"more"))
    assert is_suspect(world.path)
    (line,) = opened(world.path)
    assert "was written anew" in line
    world.logs[0].batches.pop()
    world.check_whole()


def test_t62_a_file_that_is_suspected_rightly_is_written_anew_at_the_start(world: World) -> None:
    world.zero(broken_batches(world))
    suspect(world.path)
    (line,) = opened(world.path)
    assert "was written anew" in line
    assert not is_suspect(world.path)
    world.fetch()
    world.check_whole()


def broken_batches(world: World) -> int:
    """Where to break a page of the table of batches."""
    for at in range(PAGE_BYTES, len(world.whole), PAGE_BYTES):
        world.zero(at)
        if (
            look_through(world.path) is not None
            and world.whole[at] == 13
            and b"7" * 600 in world.whole[at:][:PAGE_BYTES]
        ):
            return at
    raise AssertionError


def test_t61_without_room_the_file_is_used_as_it_is_and_a_line_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.zero(broken_batches(world))
    damaged = world.path.read_bytes()
    monkeypatch.setattr(rebuilding, "free_bytes", lambda path: 1000)
    suspect(world.path)
    assert any("no room" in line for line in opened(world.path))
    assert is_suspect(world.path)
    with pytest.raises(StoreError, match="no room"):
        mend_store(world.path.parent)
    assert len(damaged) == len(world.path.read_bytes())
    assert look_through(world.path) is not None


def test_t60_killed_at_any_step_the_file_is_the_old_one_or_the_new_one(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    world.zero(broken_batches(world))
    damaged = world.path.read_bytes()
    steps = [(os, "fsync"), (os, "link"), (os, "replace"), (Path, "unlink"), (rebuilding, "read_batch")]
    for module, name in steps:
        real = getattr(module, name)
        for when in ("before", "after"):
            for entry in tmp_path.iterdir():
                entry.unlink()
            world.path.write_bytes(damaged)
            suspect(world.path)

            def die(*args: object, **more: object) -> object:
                if when == "after":  # noqa: B023
                    real(*args, **more)  # noqa: B023
                raise Killed

            with monkeypatch.context() as patched:
                patched.setattr(module, name, die)
                try:
                    rebuild(world.path)
                except Killed:
                    pass
                else:
                    raise AssertionError
            opened(world.path)
            assert files(world.path) <= {"log.sqlite", "log.sqlite.damaged", "identity.pem", "lock"}
            assert look_through(world.path) is None
            world.fetch()
            world.check_whole()


@pytest.mark.parametrize("is_lost", [False, True])
def test_t62_what_a_file_takes_to_be_written_anew_grows_with_its_batches_and_no_faster(
    tmp_path: Path, is_lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    def counted(*args: Any) -> sqlite3.Connection:
        connection = files_of_a_store.connect(*args)
        connection.set_progress_handler(step, 100)
        return connection

    for module in (rebuilding, salvaging):
        monkeypatch.setattr(module, "connect", counted)
    taken = []
    for count in (100, 400):
        path = tmp_path / str(count) / "log.sqlite"
        path.parent.mkdir()
        log = Log()
        batches = [log.add(b"x") for _ in range(count + 1)]
        with closing(SqliteStore(path, OWN)) as store:
            # The first begins a segment, which no commit of this kind does.
            for together in (batches[:1], batches[:1], batches[1:]):
                with suppress(NotBulk), store.write(is_bulk=True) as transaction:
                    for batch in together:
                        transaction.append(batch)
        if is_lost:
            path.write_bytes(bytes(PAGE_BYTES))
        steps = 0
        said = salvaging.salvage(path, OWN) if is_lost else rebuild(path)
        assert said is not None
        assert f"{count + 1} records of 1 logs" in said
        taken.append(steps)
    assert taken[1] < 6 * taken[0]


def test_t62_somebody_who_reads_puts_it_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_of_a_store, "BUSY_MS", 20)
    with closing(SqliteReader(world.path)) as reader:
        reader._connection.execute("BEGIN")
        reader._connection.execute("SELECT * FROM origins").fetchall()
        with closing(SqliteStore(world.path, OWN)) as store, store.write() as transaction:
            transaction.set_ban(FRIEND, 8, 10)
        with pytest.raises(StoreError, match="somebody reads it"):
            rebuild(world.path)
    rebuild(world.path)
    world.check_whole()
