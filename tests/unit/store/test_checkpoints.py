"""SQLite's log is copied into its file beside the commits, and does not grow."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from p2p.errors import StoreFull, StoreReadOnly
from p2p.limits import KIB, MIB, Limits
from p2p.store.checkpoints import Checkpoints
from p2p.store.reader import SqliteReader
from p2p.store.sqlite import SqliteStore
from tests.logs import Log, identity

OWN = identity(1).peer_id
EVERYTHING = 2**62
LIMITS = replace(
    Limits(),
    store_pass_bytes=512 * KIB,
    store_log_bytes_max=2048 * KIB,
    commit_bytes_max=256 * KIB,
    segment_batch_bytes_min=MIB,
)
SIZE = 100_000
SLACK_BYTES = 512 * KIB
"""What is counted of a commit is about what it writes."""


class Disk:
    """Stands for a connection: notes what is asked of it, and lets something happen or fail meanwhile."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.error: sqlite3.Error | None = None
        self.is_busy = 0

    def execute(self, sql: str) -> Any:
        if "checkpoint" in sql:
            self.asked.append(sql.partition("(")[2].rstrip(")"))
            self.meanwhile()
            if self.error is not None:
                raise self.error
        return self

    def fetchone(self) -> tuple[int, int, int]:
        return self.is_busy, 9, 9

    def close(self) -> None:
        self.asked.append("closed")


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def checkpoints(disk: Disk) -> Checkpoints:
    limits = replace(Limits(), store_pass_bytes=100, store_log_bytes_max=1000)
    return Checkpoints(lambda: cast(sqlite3.Connection, disk), 0, limits)


def commit(checkpoints: Checkpoints, size: int) -> None:
    checkpoints.begin(size)
    checkpoints.end()


def copy_rest(checkpoints: Checkpoints) -> list[str]:
    disk = Disk()
    checkpoints.copy_rest(cast(sqlite3.Connection, disk))
    return disk.asked


# When a pass may begin.


def test_a_pass_is_due_whenever_so_much_was_committed(checkpoints: Checkpoints, disk: Disk) -> None:
    commit(checkpoints, 99)
    checkpoints.copy_beside()
    assert disk.asked == []
    for number in range(1, 4):
        commit(checkpoints, 100)
        assert checkpoints.is_pass_due
        checkpoints.copy_beside()
        checkpoints.copy_beside()
        assert not checkpoints.is_pass_due
        assert disk.asked == ["PASSIVE"] * number


def test_a_pass_never_begins_when_all_may_be_copied(checkpoints: Checkpoints, disk: Disk) -> None:
    """Then a commit could begin the log anew in that moment."""
    commit(checkpoints, 60)
    # What has begun and is not over yet is nothing to be copied.
    checkpoints.begin(100)
    assert not checkpoints.is_pass_due
    checkpoints.end()
    # A commit that came while a pass was under way may have been copied by it.
    disk.meanwhile = lambda: commit(checkpoints, 500)
    checkpoints.copy_beside()
    assert not checkpoints.is_pass_due
    # So may one that has begun by then, and is over later.
    disk.meanwhile = lambda: checkpoints.begin(500)
    commit(checkpoints, 100)
    checkpoints.copy_beside()
    checkpoints.end()
    assert not checkpoints.is_pass_due


def test_what_was_copied_between_two_commits_needs_no_pass(checkpoints: Checkpoints, disk: Disk) -> None:
    commit(checkpoints, 1000)
    assert checkpoints.is_pass_due
    assert copy_rest(checkpoints) == ["RESTART"]
    checkpoints.copy_beside()
    assert disk.asked == []


def test_a_pass_waits_for_the_one_who_copies(checkpoints: Checkpoints, disk: Disk) -> None:
    commit(checkpoints, 1000)
    second = threading.Thread(target=checkpoints.copy_beside)

    class Rest(Disk):
        def execute(self, sql: str) -> Any:
            if "checkpoint" in sql:
                second.start()
                second.join(0.05)
                assert disk.asked == []
            return self

    checkpoints.copy_rest(cast(sqlite3.Connection, Rest()))
    second.join(30)
    assert disk.asked == [], "by then nothing was left"


def test_a_pass_that_fails_is_tried_again_with_another_connection(checkpoints: Checkpoints, disk: Disk) -> None:
    disk.error = sqlite3.OperationalError("disk I/O error")
    commit(checkpoints, 100)
    checkpoints.copy_beside()
    assert not checkpoints.is_pass_due, "not at once"
    disk.error = None
    commit(checkpoints, 100)
    checkpoints.copy_beside()
    assert disk.asked == ["PASSIVE", "closed", "PASSIVE"]


# When the rest is copied.


def test_the_rest_is_copied_when_a_pass_left_little_and_at_the_bound_anyway(checkpoints: Checkpoints) -> None:
    for _ in range(8):
        assert copy_rest(checkpoints) == []
        commit(checkpoints, 100)
    assert copy_rest(checkpoints) == [], "much is left"
    checkpoints.copy_beside()
    assert copy_rest(checkpoints) == ["RESTART"]
    for _ in range(10):
        assert copy_rest(checkpoints) == []
        commit(checkpoints, 100)
    assert copy_rest(checkpoints) == ["RESTART"]


def test_the_rest_is_not_tried_before_every_commit_while_somebody_reads(checkpoints: Checkpoints) -> None:
    busy = Disk()
    busy.is_busy = 1
    commit(checkpoints, 1000)
    for number in range(1, 5):
        for _ in range(4):
            checkpoints.copy_beside()
            checkpoints.copy_rest(cast(sqlite3.Connection, busy))
            commit(checkpoints, 25)
        assert busy.asked == ["RESTART"] * number


def test_a_pass_that_hangs_keeps_the_store_from_being_closed(tmp_path: Path) -> None:
    lock_closed: list[bool] = []

    class Lock:
        def close(self) -> None:
            lock_closed.append(True)

    store = SqliteStore(tmp_path / "log.sqlite", OWN, Lock(), LIMITS)
    with store._checkpoints._copying:
        store.close()
        assert lock_closed == [], "the thread that hangs may go on and use the files"
    store.close()
    assert lock_closed == [True]


# With SQLite.


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "log.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path, OWN, limits=LIMITS)
    yield store
    store.close()


def fill(store: SqliteStore, log: Log, count: int, *, with_chores: bool) -> None:
    for _ in range(count):
        with store.write() as transaction:
            transaction.append(log.add(bytes([len(log.batches) % 256]) * SIZE))
        if with_chores and (chore := store.chore()) is not None:
            chore()


def log_size(path: Path) -> int:
    return path.with_name("log.sqlite-wal").stat().st_size


@pytest.mark.parametrize("with_chores", [True, False])
def test_the_log_does_not_grow_whether_or_not_anybody_copies_it_beside(
    store: SqliteStore, path: Path, with_chores: bool
) -> None:
    log = Log()
    fill(store, log, 80, with_chores=with_chores)
    assert log_size(path) <= LIMITS.store_log_bytes_max + SLACK_BYTES
    assert path.stat().st_size >= 50 * SIZE, "it is copied"
    assert list(store.verify()) == []
    # As after a kill: what is not copied is in the log.
    shutil.copytree(path.parent, copy := path.parent.with_name("copy"))
    with closing(SqliteStore(copy / path.name, OWN, limits=LIMITS)) as again:
        assert again.states()[OWN].seq == 80
        assert list(again.verify()) == []


def test_a_commit_without_batches_counts_too_and_one_without_anything_does_not(store: SqliteStore, path: Path) -> None:
    for number in range(200):
        with store.write() as transaction:
            transaction.set_cursor("name", OWN, number + 1)
    assert log_size(path) <= LIMITS.store_log_bytes_max + SLACK_BYTES
    store._checkpoints.copy_rest(store._writer)  # type: ignore[arg-type]
    before = store._checkpoints._committed
    for _ in range(100):
        with store.write() as transaction:
            transaction.set_cursor("name", OWN, 1)
    assert store._checkpoints._committed == before, "nothing was written"


def test_a_reader_of_an_old_place_lets_the_log_grow_and_it_is_cut_when_he_is_gone(
    store: SqliteStore, path: Path
) -> None:
    log = Log()
    fill(store, log, 5, with_chores=True)
    reader = SqliteReader(path)
    rows = reader._connection.execute("SELECT seq_end FROM chain")
    assert rows.fetchone() == (1,)
    fill(store, log, 40, with_chores=True)
    assert log_size(path) >= 40 * SIZE
    # He still sees what there was, everybody else all of it.
    assert [seq for (seq,) in rows] == [2, 3, 4, 5]
    rows.close()
    reader.close()
    assert store.states()[OWN].seq == 45
    fill(store, log, 25, with_chores=True)
    assert log_size(path) <= LIMITS.store_log_bytes_max + SLACK_BYTES
    assert list(store.verify()) == []


def test_t61_a_disk_that_takes_the_log_and_not_the_file_stops_commits_before_they_begin(
    store: SqliteStore, path: Path
) -> None:
    log = Log()
    fill(store, log, 2, with_chores=True)
    writer = store._writer
    assert writer is not None
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL

    class OnlyLog:
        """The connection, where there is room in the log only."""

        def execute(self, sql: str, *args: Any) -> Any:
            if "checkpoint" in sql:
                raise full
            return writer.execute(sql, *args)

        def __getattr__(self, name: str) -> Any:
            return getattr(writer, name)

    def refuse() -> sqlite3.Connection:
        raise full

    store._writer = cast(sqlite3.Connection, OnlyLog())
    connect, store._checkpoints._connect = store._checkpoints._connect, refuse
    with pytest.raises(StoreFull):
        fill(store, log, 60, with_chores=True)
    acknowledged = len(log.batches)
    assert 5 * SIZE < acknowledged * SIZE < LIMITS.store_log_bytes_max + SLACK_BYTES
    assert store.states()[OWN].seq == acknowledged, "what was said to be durable is there"
    with pytest.raises(StoreReadOnly), store.write():
        pass
    store._checkpoints._connect = connect
    store.recover()
    assert store.current()[OWN].seq == acknowledged
    assert path.stat().st_size >= acknowledged * SIZE, "all is copied"
    fill(store, log, 30, with_chores=True)
    assert store.states()[OWN].seq == acknowledged + 30
    assert list(store.verify()) == []


def test_t61_a_pass_whose_sync_fails_makes_the_store_recover_before_the_next_commit(
    checkpoints: Checkpoints, disk: Disk
) -> None:
    commit(checkpoints, 100)
    disk.error = sqlite3.OperationalError("disk I/O error")
    disk.error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    checkpoints.copy_beside()
    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError, match="disk I/O"):
            copy_rest(checkpoints)
    assert checkpoints.copy_all(cast(sqlite3.Connection, Disk()))
    assert copy_rest(checkpoints) == []
