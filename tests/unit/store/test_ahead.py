"""A long batch of our own, of which all but the signature is written while it is sealed: it counts when it is whole."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import outcome
import pytest

from p2p.crypto.identity import Identity
from p2p.errors import StoreError, StoreFull, StoreReadOnly
from p2p.limits import KIB, Limits
from p2p.node.commits import Committer, Group
from p2p.replication.batch import Batch, encode_portions
from p2p.store import disk, segments
from p2p.store.base import NotBulk, Transaction
from p2p.store.disk import Meanwhile, begin_sync
from p2p.store.segments import Appends, Segment, read_entries, segment_path
from p2p.store.sqlite import SqliteStore
from tests.logs import HLC, Log, app, identity

OWN = identity(1).peer_id
EVERYTHING = 2**62
LONG = 200 * KIB


class AtOnce:
    """In the place of another thread: all is done before this one goes on."""

    def __init__(self, fn: Callable[[], object]) -> None:
        self._outcome = outcome.capture(fn)

    def wait(self) -> object:
        return self._outcome.unwrap()


class Begun:
    """The descriptors that were opened by what is done in another thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._opened: list[tuple[int, int]] = []
        monkeypatch.setattr(segments, "Meanwhile", self._begin)

    def _begin(self, fn: Callable[[], tuple[int, int]]) -> AtOnce:
        def noted() -> tuple[int, int]:
            descriptor, done = fn()
            self._opened.append((descriptor, os.fstat(descriptor).st_ino))
            return descriptor, done

        return AtOnce(noted)

    def are_closed(self) -> list[bool]:
        return [not self._is_open(*opened) for opened in self._opened]

    @staticmethod
    def _is_open(descriptor: int, inode: int) -> bool:
        with suppress(OSError):
            return os.fstat(descriptor).st_ino == inode
        return False


@pytest.fixture
def log(store: SqliteStore) -> Log:
    """What the store holds, with a segment that has begun."""
    log = Log()
    with store.write() as transaction:
        transaction.append(log.add(bytes(LONG)))
    return log


def held(store: SqliteStore) -> list[bytes]:
    return [batch.wal_bytes for batch in store.load(OWN, 1, EVERYTHING, EVERYTHING).batches]


def append(transaction: Transaction, batch: Batch) -> None:
    """As a commit does that seals it here."""
    transaction.foresee(len(batch.wal_bytes), (batch.wal_bytes[:100], batch.wal_bytes[100:-64]))
    transaction.append(batch)


def commit(store: SqliteStore, sign: Callable[[bytes], bytes], *sizes: int) -> list[Batch]:
    committer = Committer(store, cast("Identity", SimpleNamespace(peer_id=OWN, sign=sign)), Limits())
    committer.start()
    portions = encode_portions(app(*(os.urandom(size) for size in sizes)))
    return committer.commit(Group(portions=portions), 1).sealed


def test_what_is_done_meanwhile_is_waited_for_and_its_error_is_raised() -> None:
    assert Meanwhile(lambda: 7).wait() == 7

    def fail() -> NoReturn:
        raise OSError(errno.EIO, "planted")

    with pytest.raises(OSError, match="planted"):
        Meanwhile(fail).wait()


def test_t60_a_power_cut_while_a_batch_is_sealed_leaves_a_torn_entry(
    store: SqliteStore, log: Log, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "Meanwhile", AtOnce)
    before = segment_path(path, 1).read_bytes()
    seen: list[bytes] = []

    def sign(data: bytes) -> bytes:
        seen.append(segment_path(path, 1).read_bytes())
        if len(seen) == 1:
            shutil.copytree(path.parent, tmp_path / "cut", ignore=shutil.ignore_patterns("cut", "*-shm"))
        return identity(1).sign(data)

    long, short = commit(store, sign, LONG, 100 * KIB)
    unsigned = len(long.wal_bytes).to_bytes(4, "little") + long.wal_bytes[:-64]
    assert seen == [before + unsigned, before + unsigned], "only the first, and it without its signature"
    log.batches += [long, short]
    assert held(store) == [batch.wal_bytes for batch in log.batches]
    assert [wal for _, wal in read_entries(path, 1, 0, EVERYTHING)] == held(store)
    assert list(store.verify()) == []

    with closing(SqliteStore(tmp_path / "cut" / path.name, OWN)) as again:
        assert again.current()[OWN].seq == 1
        (other,) = commit(again, identity(1).sign, LONG)
        assert held(again) == [log.batches[0].wal_bytes, other.wal_bytes]
        assert list(again.verify()) == []


@pytest.mark.parametrize("sizes", [(LONG,), (LONG, LONG, LONG), (100 * KIB,), (LONG, 10)])
def test_what_another_thread_began_is_ended_and_in_order(store: SqliteStore, log: Log, sizes: tuple[int, ...]) -> None:
    for _ in range(3):
        log.batches += commit(store, identity(1).sign, *sizes)
    assert held(store) == [batch.wal_bytes for batch in log.batches]
    assert list(store.verify()) == []


def test_where_no_thread_can_be_had_it_is_written_when_it_is_sealed(
    store: SqliteStore, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(segments, "Meanwhile", refuse)
    log.batches += commit(store, identity(1).sign, LONG)
    assert held(store) == [batch.wal_bytes for batch in log.batches]


def test_a_segment_that_has_to_be_made_is_made_when_all_is_known(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[object] = []
    monkeypatch.setattr(segments, "Meanwhile", begun.append)
    with closing(SqliteStore(path, OWN)) as store:
        (batch,) = commit(store, identity(1).sign, LONG)
        assert held(store) == [batch.wal_bytes]
    assert begun == []


@pytest.mark.parametrize("is_cut_off", [True, False])
def test_t60_what_was_begun_in_a_transaction_that_is_done_again_is_cut_off(
    store: SqliteStore, log: Log, path: Path, monkeypatch: pytest.MonkeyPatch, is_cut_off: bool
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EIO, "planted")

    before = segment_path(path, 1).read_bytes()
    batch = log.add(bytes(LONG))
    with monkeypatch.context() as patch:
        if not is_cut_off:
            patch.setattr(segments.os, "truncate", refuse)
        with pytest.raises(NotBulk), store.write(is_bulk=True) as transaction:
            append(transaction, batch)
            transaction.set_cursor("f", OWN, 1)
    if not is_cut_off:
        assert len(segment_path(path, 1).read_bytes()) > len(before)
        with pytest.raises(StoreReadOnly), store.write():
            raise AssertionError("nothing is written before the store has recovered")
        store.recover()
    else:
        assert segment_path(path, 1).read_bytes() == before
    with store.write() as transaction:
        append(transaction, batch)
        transaction.set_cursor("f", OWN, 1)
    assert held(store) == [each.wal_bytes for each in log.batches]
    assert list(store.verify()) == []


def test_t61_somebody_s_mistake_leaves_nothing_of_what_was_begun(store: SqliteStore, log: Log, path: Path) -> None:
    before = segment_path(path, 1).read_bytes()
    with pytest.raises(ValueError, match="planted"), store.write(is_bulk=True) as transaction:
        transaction.foresee(LONG, (bytes(LONG - 64),))
        raise ValueError("planted")
    assert segment_path(path, 1).read_bytes() == before
    log.batches += commit(store, identity(1).sign, LONG)
    assert held(store) == [batch.wal_bytes for batch in log.batches]


@pytest.mark.parametrize("code", [0, errno.ENOSYS, errno.EPERM, errno.EINVAL, None])
def test_a_disk_begins_with_whole_pages_where_that_can_be_asked_of_it(
    monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    asked: list[tuple[int, ...]] = []

    def call(*args: int) -> int | None:
        asked.append(args)
        return code

    monkeypatch.setattr(disk, "_sync_file_range", lambda: None if code is None else call)
    begin_sync(7, 5000, 10_000)
    begin_sync(7, 5000, 3000)
    assert asked == ([] if code is None else [(7, 4096, 8192, 2)])


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_t61_a_disk_that_refuses_to_begin_says_so(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(disk, "_sync_file_range", lambda: lambda *_: code)
    with pytest.raises(OSError, match=os.strerror(code)):
        begin_sync(7, 0, 4096)


def test_the_system_s_own_call_is_found_and_tells_its_errors(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb+") as file:
        file.write(b"x" * 8192)
        file.flush()
        begin_sync(file.fileno(), 0, 8192)
        file.seek(0)
        assert file.read() == b"x" * 8192
    call = disk._sync_file_range()
    assert (call is not None) == (sys.platform == "linux")
    assert call is None or call(-1, 0, 4096, 2) == errno.EBADF


@pytest.mark.parametrize("at", ["open", "pwritev"])
def test_t61_a_disk_that_refuses_what_is_begun_makes_the_commit_fail(
    store: SqliteStore, log: Log, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    real = getattr(os, at)

    def refuse(*args: Any) -> Any:
        if at == "open" and not args[1] & os.O_WRONLY:
            return real(*args)
        raise OSError(errno.ENOSPC, "planted")

    with monkeypatch.context() as patch:
        patch.setattr(segments.os, at, refuse)
        with pytest.raises(StoreFull, match=r"000001\.segment cannot be written"):
            commit(store, identity(1).sign, LONG)
    with pytest.raises(StoreReadOnly):
        commit(store, identity(1).sign, LONG)
    store.recover()
    log.batches += commit(store, identity(1).sign, LONG)
    assert held(store) == [batch.wal_bytes for batch in log.batches]
    assert list(store.verify()) == []


def test_a_python_that_loads_no_library_goes_without_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("Dynamic loading not supported")

    disk._sync_file_range.cache_clear()
    monkeypatch.setattr("ctypes.CDLL", refuse)
    try:
        assert disk._sync_file_range() is None
    finally:
        disk._sync_file_range.cache_clear()


@pytest.mark.parametrize("size", [LONG, LONG - 1, LONG + 1, 100])
@pytest.mark.parametrize("is_bulk", [True, False])
def test_t60_another_batch_than_was_begun_is_written_as_it_is(
    store: SqliteStore, log: Log, path: Path, is_bulk: bool, size: int
) -> None:
    foreseen = log.branch(1).add(bytes(LONG)).wal_bytes
    with store.write(is_bulk=is_bulk) as transaction:
        transaction.foresee(len(foreseen), (foreseen[:100], foreseen[100:-64]))
        transaction.append(log.seal(app(b"x" * size), base_hlc=HLC + 1))
        transaction.append(log.add(bytes(LONG)))
    assert held(store) == [batch.wal_bytes for batch in log.batches]
    in_segment = [batch.wal_bytes for batch in log.batches if is_bulk or len(batch.wal_bytes) > 100 * KIB]
    assert [wal for _, wal in read_entries(path, 1, 0, EVERYTHING)] == in_segment
    assert segment_path(path, 1).stat().st_size == sum(4 + len(wal_bytes) for wal_bytes in in_segment)
    assert list(store.verify()) == []


def test_t60_what_was_begun_and_goes_to_another_segment_leaves_nothing_where_it_was(path: Path) -> None:
    log = Log()
    with closing(SqliteStore(path, OWN, limits=replace(Limits(), segment_bytes_max=420 * KIB))) as store:
        with store.write() as transaction:
            transaction.append(log.add(bytes(LONG)))
        before = segment_path(path, 1).read_bytes()
        with store.write() as transaction:
            transaction.foresee(LONG, (bytes(LONG - 64),))
            transaction.append(log.add(bytes(240 * KIB)))
        assert held(store) == [batch.wal_bytes for batch in log.batches]
        assert segment_path(path, 1).read_bytes() == before


@pytest.mark.parametrize("times", [1, 2])
def test_t60_what_was_begun_and_is_not_added_is_cut_off(
    store: SqliteStore, log: Log, path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    begun = Begun(monkeypatch)
    before = segment_path(path, 1).read_bytes()
    with store.write() as transaction:
        for _ in range(times):
            transaction.foresee(LONG, (bytes(LONG - 64),))
        transaction.set_cursor("f", OWN, 1)
    assert store.cursors("f") == {OWN: 1}
    assert segment_path(path, 1).read_bytes() == before
    assert begun.are_closed() == [True]
    log.batches += commit(store, identity(1).sign, LONG)
    assert held(store) == [batch.wal_bytes for batch in log.batches]


@pytest.mark.parametrize("is_added", [True, False])
def test_t60_what_was_begun_of_a_log_that_is_forgotten_is_cut_off(
    path: Path, monkeypatch: pytest.MonkeyPatch, is_added: bool
) -> None:
    begun = Begun(monkeypatch)
    segment_path(path, 1).write_bytes(b"before")
    appends = Appends(path, {OWN: Segment(1, 6)}, 2, EVERYTHING)
    appends.write_ahead(OWN, LONG, (bytes(LONG - 64),))
    if is_added:
        appends.add(OWN, bytes(LONG))
    appends.forget(OWN)
    appends.write()
    assert (appends.is_written, begun.are_closed()) == (False, [True])
    assert segment_path(path, 1).read_bytes() == b"before"


def recovers(store: SqliteStore, log: Log) -> None:
    """It is read-only until then, has nothing of the transaction that failed, and goes on."""
    with pytest.raises(StoreReadOnly):
        commit(store, identity(1).sign, LONG)
    store.recover()
    assert store.cursors("f") == {}
    log.batches += commit(store, identity(1).sign, LONG)
    assert held(store) == [batch.wal_bytes for batch in log.batches]


def test_t61_what_was_begun_is_not_added_and_cannot_be_cut_off_makes_the_commit_fail(
    store: SqliteStore, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EIO, "planted")

    with monkeypatch.context() as patch:
        patch.setattr(segments.os, "truncate", refuse)
        with pytest.raises(StoreError, match=r"000001\.segment cannot be cut off"), store.write() as transaction:
            transaction.foresee(LONG, (bytes(LONG - 64),))
            transaction.set_cursor("f", OWN, 1)
    recovers(store, log)


@pytest.mark.parametrize("error", [MemoryError, OSError])
def test_t61_an_error_of_the_other_thread_hides_none_that_is_on_its_way(
    store: SqliteStore, log: Log, path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise error

    before = segment_path(path, 1).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(segments, "begin_sync", refuse)
        with pytest.raises(ValueError, match="planted"), store.write() as transaction:
            transaction.foresee(LONG, (bytes(LONG - 64),))
            transaction.set_cursor("f", OWN, 1)
            raise ValueError("planted")
    assert segment_path(path, 1).read_bytes() == before
    recovers(store, log)


def test_t61_what_is_cut_off_of_one_batch_says_nothing_of_what_was_written_of_others(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = identity(2).peer_id
    segment_path(path, 1).write_bytes(b"before")
    appends = Appends(path, {OWN: Segment(1, 6)}, 2, EVERYTHING)
    batch = bytes(LONG)
    appends.write_ahead(OWN, LONG, (batch[:-64],))
    appends.add(other, batch)
    appends.add(OWN, batch)

    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EIO, "planted")

    monkeypatch.setattr(segments.os, "fdatasync", refuse)
    with pytest.raises(StoreError, match=r"000002\.segment cannot be written"):
        appends.write()
    appends.withdraw()
    assert appends.is_written, "the other one's was not taken back"
    assert segment_path(path, 1).read_bytes() == b"before"
