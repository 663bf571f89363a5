"""Segments and their index: whatever fails, and whenever the power goes, what was acknowledged is there once."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from p2p.errors import StoreError, StoreFull, StoreReadOnly
from p2p.ids import PeerId
from p2p.limits import KIB, Limits
from p2p.node.commits import Committer, Group, PushJob, PushOutcome, Unsealed
from p2p.replication.accept import Verdict
from p2p.replication.batch import Batch, NewRecord, encode_portions, parse_batch
from p2p.store import disk, files, segments
from p2p.store.base import DamagedRange, NotBulk, Transaction
from p2p.store.files import beside
from p2p.store.keys import STORE_FILE, mend_store, open_store
from p2p.store.reader import SqliteReader
from p2p.store.rebuild import rebuild
from p2p.store.segments import Appends, Segment, read_entries, read_entry, segment_numbers, segment_path
from p2p.store.sqlite import SqliteStore
from p2p.store.transaction import SqliteTransaction
from tests.logs import Log, app, identity
from tests.sampling import some

OWN = identity(1).peer_id
OTHER = identity(2).peer_id
EVERYTHING = 2**62


def put(store: SqliteStore, *batches: Batch, is_bulk: bool = True) -> None:
    """Append each as a commit of its own; with `is_bulk` all of them go to segments."""
    for batch in batches:
        write(store, partial(append, batch), is_bulk=is_bulk)


def append(batch: Batch, transaction: Transaction) -> None:
    transaction.append(batch)


def write(store: SqliteStore, do: Callable[[Transaction], object], *, is_bulk: bool = True) -> None:
    """A commit, made as a node does."""
    for _ in range(2):
        with suppress(NotBulk):
            with store.write(is_bulk=is_bulk) as transaction:
                do(transaction)
            return
    raise AssertionError("it was done again, and again taken back")


def fill(store: SqliteStore, log: Log, count: int, size: int = 300) -> None:
    put(store, *(log.add(bytes([number % 256]) * size) for number in range(count)))


def held(store: SqliteStore, origin: PeerId) -> list[bytes]:
    return [batch.wal_bytes for batch in store.load(origin, 1, EVERYTHING, EVERYTHING).batches]


def rewrite(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql)


# The files themselves.


def test_what_is_written_is_read_and_only_its_owner_may(path: Path) -> None:
    appends = Appends(path, {}, 7, 1000)
    places = [
        appends.add(OWN, b"x" * 400),
        appends.add(OTHER, b"y"),
        appends.add(OWN, b"z" * 500),
        appends.add(OWN, b"w" * 90),
    ]
    assert places == [Segment(7, 0), Segment(8, 0), Segment(7, 404), Segment(9, 0)]
    assert [(part.no, part.is_new, part.is_full) for part in appends.parts.values()] == [
        (7, True, True), (8, True, False), (9, True, False),
    ]  # fmt: skip
    assert appends.find(7, 404) == b"z" * 500
    assert appends.next_no == 10
    appends.write()
    assert segment_numbers(path) == [7, 8, 9]
    assert stat.S_IMODE(segment_path(path, 7).stat().st_mode) == 0o600
    assert read_entry(path, 7, 404) == b"z" * 500
    assert read_entry(path, 7, 404, 33) == b"z" * 33
    assert list(read_entries(path, 7, 0, EVERYTHING)) == [(0, b"x" * 400), (404, b"z" * 500)]
    assert list(read_entries(path, 7, 0, 907)) == [(0, b"x" * 400)]


@pytest.mark.parametrize("at", [-1, 3, 404, 2**70])
def test_t62_no_place_in_a_segment_makes_a_reader_fail_or_read_much(path: Path, at: int) -> None:
    path.touch()
    appends = Appends(path, {}, 1, 1000)
    appends.add(OWN, b"\xff" * 400)
    appends.write()
    assert read_entry(path, 1, at) is None
    assert read_entry(path, 2, 0) is None
    assert list(read_entries(path, 2, 0, 99)) == []


def test_a_segment_that_cannot_be_reached_is_no_damage(path: Path) -> None:
    segment_path(path, 1).symlink_to(segment_path(path, 1))
    with pytest.raises(StoreError, match="cannot be read"):
        read_entry(path, 1, 0)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOMEM])
def test_t62_a_system_that_cannot_read_now_is_no_damage(path: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(code, "refused")

    appends = Appends(path, {}, 1, 1000)
    appends.add(OWN, b"x")
    appends.write()
    monkeypatch.setattr(segments.os, "pread", refuse)
    if code == errno.EIO:
        assert read_entry(path, 1, 0) is None
    else:
        with pytest.raises(StoreError, match="cannot be read: refused"):
            read_entry(path, 1, 0)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_and_nobody_waits_for_it(path: Path, make: Callable[[Path], None]) -> None:
    SqliteStore(path, OWN).close()
    make(segment_path(path, 7))
    with pytest.raises(StoreError, match=r"000007\.segment cannot be read: it is no file"):
        SqliteStore(path, OWN)
    assert segment_numbers(path) == [7]


def test_a_segment_that_may_not_be_read_is_told_as_that_and_not_as_damage(path: Path) -> None:
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, Log(1), 2)
    aside = segment_path(path, 1).rename(path.with_name("aside"))
    segment_path(path, 1).symlink_to(segment_path(path, 1))
    with closing(SqliteReader(path)) as reader:
        with pytest.raises(StoreError, match=r"000001\.segment cannot be read"):
            list(reader.verify())
        aside.rename(segment_path(path, 1))
        assert list(reader.verify()) == []


# Which batches go where.


def test_big_batches_lie_in_segments_and_small_ones_do_not(store: SqliteStore, path: Path) -> None:
    log = Log()
    size = Limits().segment_batch_bytes_min
    put(store, log.add(b"x" * (size - 1000)), is_bulk=False)
    assert segment_numbers(path) == []
    before = beside(path, "-wal").stat().st_size
    put(store, log.add(b"x" * size), log.add(b"y" * size), is_bulk=False)
    assert [len(wal) for _, wal in read_entries(path, 1, 0, EVERYTHING)] == [
        len(batch.wal_bytes) for batch in log.batches[1:]
    ]
    assert held(store, OWN) == [batch.wal_bytes for batch in log.batches]
    assert beside(path, "-wal").stat().st_size - before <= 2 * 5 * 17 * KIB, "only small rows are in the index"
    assert list(store.verify()) == []


def test_a_segment_is_gone_on_with_after_a_restart_and_followed_by_another_when_it_is_full(path: Path) -> None:
    limits = replace(Limits(), segment_bytes_max=2000)
    log = Log()
    for _ in range(6):
        with closing(SqliteStore(path, OWN, limits=limits)) as store:
            fill(store, log, 1, 500)
            fill(store, log, 1, 500)
    assert segment_numbers(path) == [1, 2, 3, 4]
    with closing(SqliteReader(path)) as reader:
        assert [batch.wal_bytes for batch in reader.load(OWN, 1, 99, EVERYTHING).batches] == [
            batch.wal_bytes for batch in log.batches
        ]
        assert list(reader.verify()) == []


def test_one_transaction_may_begin_several_segments_and_reads_what_it_has_added(path: Path) -> None:
    limits = replace(Limits(), segment_bytes_max=2000)
    own, other = Log(), Log(2)
    with closing(SqliteStore(path, OWN, limits=limits)) as store:
        for number in range(8):
            own.add(bytes([number]) * 600)
            other.add(bytes([number]) * 600)

        def append_all(transaction: Transaction) -> None:
            for number in range(8):
                transaction.append(own.batches[number])
                transaction.append(other.batches[number])
            found = transaction.held_within(OWN, 5, 5)
            assert found is not None
            assert transaction.held_batch(OWN, found) == own.batches[4]

        write(store, append_all)
        assert held(store, OWN) == [batch.wal_bytes for batch in own.batches]
        assert held(store, OTHER) == [batch.wal_bytes for batch in other.batches]
        assert list(store.verify()) == []


# What is synced.


def statements(store: SqliteStore) -> list[str]:
    said: list[str] = []
    assert store._writer is not None
    store._writer.set_trace_callback(said.append)
    return said


IMPURE: dict[str, Callable[[Any, Log], object]] = {
    "a cursor": lambda transaction, log: transaction.set_cursor("f", OWN, 1),
    "a label": lambda transaction, log: transaction.set_pin("b", OTHER, 1, 10),
    "a ban": lambda transaction, log: transaction.set_ban(OTHER, 1, 10),
    "a claim": lambda transaction, log: transaction.note_claim(99),
    "damage": lambda transaction, log: transaction.quarantine(DamagedRange(OWN, 2, 2)),
    "another log": lambda transaction, log: transaction.append(Log(3).add(b"x")),
    "forgetting": lambda transaction, log: transaction.forget(OTHER),
}


@pytest.mark.parametrize("is_read", [False, True])
def test_t60_what_a_process_that_was_killed_left_unsynced_is_synced_before_anything_stands_on_it(
    path: Path, tmp_path: Path, is_read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BUSY_MS", 20)
    log = Log()
    with closing(SqliteStore(path, OWN)) as store:
        put(store, log.add(b"small"), is_bulk=False)
        fill(store, log, 1)
        put(store, log.add(b"small"), is_bulk=False)
        synced = beside(path, "-wal").stat().st_size
        put(store, log.add(b"killed while this was synced"), is_bulk=False)
        copy = cut_copy(path, tmp_path / "copy", EVERYTHING)
    with closing(sqlite3.connect(copy, isolation_level=None)) as reader:
        if is_read:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM chain").fetchall()
            # What is read is not what was written last.
            with closing(sqlite3.connect(copy)) as connection, connection:
                connection.execute("PRAGMA user_version = 7")
        with closing(SqliteStore(copy, OWN)) as store:
            synced = min(synced, beside(copy, "-wal").stat().st_size)
            said = statements(store)
            fill(store, log, 1)
            assert (store._unsynced_bytes == 0, "PRAGMA synchronous = NORMAL" not in said) == (is_read, is_read)
            if is_read:
                synced = beside(copy, "-wal").stat().st_size
            after = cut_copy(copy, tmp_path / "after", synced)
    with closing(SqliteStore(after, OWN)) as store:
        assert held(store, OWN) == [batch.wal_bytes for batch in log.batches]
        assert list(store.verify()) == []


def test_t60_a_new_owner_is_synced_whatever_was_written_before(store: SqliteStore) -> None:
    fill(store, Log(), 2)
    said = statements(store)
    store.change_owner(OTHER)
    assert said[0] == "PRAGMA synchronous = FULL"


def cut_copy(path: Path, to: Path, log_bytes: int) -> Path:
    """The data dir as it lies on the disk when so much of SQLite's log was brought there."""
    shutil.copytree(path.parent, to, ignore=shutil.ignore_patterns("*-shm", "copy", "after"))
    log = beside(to / path.name, "-wal")
    if log.exists() and log.stat().st_size > log_bytes:
        os.truncate(log, log_bytes)
    return to / path.name


def test_a_commit_that_changes_nothing_counts_as_none_that_was_synced(store: SqliteStore) -> None:
    log = Log()
    with store.write() as transaction:
        transaction.set_ban(OTHER, 1, 10)
    fill(store, log, 2)
    before = store._unsynced_bytes
    assert before > 0
    with store.write():
        pass
    with store.write() as transaction:
        transaction.set_ban(OTHER, 1, 10)
    assert store._unsynced_bytes == before
    put(store, log.add(b"small"), is_bulk=False)
    assert store._unsynced_bytes == 0


@pytest.mark.parametrize("what", IMPURE)
def test_t60_a_commit_that_does_anything_that_its_entries_do_not_say_is_synced(
    store: SqliteStore, path: Path, what: str
) -> None:
    log, other = Log(), Log(2)
    fill(store, log, 2)
    fill(store, other, 1)
    said = statements(store)
    fill(store, log, 1)
    assert (said[0], store._unsynced_bytes > 0) == ("PRAGMA synchronous = NORMAL", True)
    assert "PRAGMA synchronous = FULL" not in said
    said.clear()
    log.add(b"more" * 50)
    before = segment_path(path, 1).read_bytes()
    with pytest.raises(NotBulk), store.write(is_bulk=True) as transaction:
        transaction.append(log.batches[-1])
        IMPURE[what](transaction, log)
    assert "COMMIT" not in said
    assert segment_path(path, 1).read_bytes() == before
    with store.write(is_bulk=True) as transaction:
        transaction.append(log.batches[-1])
        IMPURE[what](transaction, log)
    assert said.index("PRAGMA synchronous = FULL") < said.index("COMMIT")
    assert store._unsynced_bytes == 0
    said.clear()
    with store.write() as transaction:
        transaction.set_cursor("f", OWN, 2)
    assert "PRAGMA synchronous = NORMAL" not in said


def test_small_batches_have_their_index_synced_unless_they_come_with_much_of_their_log(store: SqliteStore) -> None:
    one, other = Log(2), Log(3)
    fill(store, one, 1)
    fill(store, other, 1)
    committer = Committer(store, identity(1), Limits())
    committer.start()
    said = statements(store)

    def is_synced(*batches: Batch) -> bool:
        said.clear()
        jobs = [PushJob(batch.seq_begin, batch.seq_end, batch.wal_bytes, admitted=True) for batch in batches]
        done = committer.commit(Group(jobs=[*jobs]), 1)
        assert {outcome.verdict for outcome in done.outcomes if isinstance(outcome, PushOutcome)} == {Verdict.APPLIED}
        return store._unsynced_bytes == 0

    assert is_synced(one.add(b"small"))
    assert not is_synced(one.add(bytes(100 * KIB)), one.add(b"small"))
    assert not is_synced(one.add(b"small"), one.add(bytes(60 * KIB)), one.add(bytes(60 * KIB)))
    assert is_synced(one.add(bytes(100 * KIB)), other.add(b"small"))
    assert not is_synced(one.add(bytes(100 * KIB)), other.add(b"small"), other.add(bytes(100 * KIB)))
    assert is_synced(one.add(bytes(100 * KIB)), Log(4).add(bytes(100 * KIB)))
    for log in (one, other):
        assert held(store, log.origin) == [batch.wal_bytes for batch in log.batches]


def test_so_much_may_an_index_be_behind_and_no_more(path: Path) -> None:
    limits = replace(Limits(), segment_tail_bytes_max=2000)
    with closing(SqliteStore(path, OWN, limits=limits)) as store:
        log = Log()
        behind = []
        for _ in range(12):
            fill(store, log, 1, 600)
            behind.append(store._unsynced_bytes)
        assert max(behind) < 3000
        assert behind.count(0) >= 3


# Power cuts.


@dataclass
class Snapshot:
    """What lay on the disk after a commit, and what was acknowledged by then."""

    log_bytes: int
    synced_bytes: int
    segments: dict[int, bytes]
    heads: dict[PeerId, int]


def steps(own: Log, other: Log) -> Iterator[Callable[[SqliteStore], None]]:
    def small(log: Log) -> Callable[[SqliteStore], None]:
        return lambda store: put(store, log.add(b"small"), is_bulk=False)

    def big(log: Log) -> Callable[[SqliteStore], None]:
        return lambda store: fill(store, log, 1)

    def both(store: SqliteStore) -> None:
        batches = [log.add(b"one of three" * 20) for log in (own, other, own)]
        write(store, lambda transaction: [transaction.append(batch) for batch in batches])

    def cursor(store: SqliteStore) -> None:
        with store.write() as transaction:
            transaction.set_cursor("f", OWN, 1)

    yield from (big(own), big(own), small(own), big(own), big(other), big(other), big(own), both, both, small(other))
    yield from (big(own), both, big(other), cursor, big(own), big(own), big(other))


def test_t60_a_power_cut_takes_nothing_that_was_acknowledged_however_much_of_the_index_is_lost(
    path: Path, tmp_path: Path
) -> None:
    logs = [Log(), Log(2)]
    limits = replace(Limits(), segment_bytes_max=2500)
    store = SqliteStore(path, OWN, limits=limits)
    snapshots: list[Snapshot] = []
    synced = beside(path, "-wal").stat().st_size
    for step in steps(*logs):
        step(store)
        size = beside(path, "-wal").stat().st_size
        synced = synced if store._unsynced_bytes else size
        content = {no: segment_path(path, no).read_bytes() for no in segment_numbers(path)}
        heads = {origin: state.seq for origin, state in store.current().items()}
        snapshots.append(Snapshot(size, synced, content, heads))
    index, log_of_index = path.read_bytes(), beside(path, "-wal").read_bytes()
    store.close()
    assert len(snapshots[-1].segments) > 4
    behind = 0
    for number, now in enumerate(snapshots):
        later = snapshots[min(number + 1, len(snapshots) - 1)]
        ends = {
            now.synced_bytes,
            now.log_bytes,
            *(s.log_bytes for s in snapshots[:number] if s.log_bytes > now.synced_bytes),
        }
        for end in sorted(ends):
            copy = tmp_path / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            copy.mkdir()
            (copy / path.name).write_bytes(index)
            beside(copy / path.name, "-wal").write_bytes(log_of_index[:end] + b"\xa5" * 3000)
            for no, content in later.segments.items():
                # What comes next was being written when the power went.
                done = len(now.segments.get(no, b""))
                segment_path(copy / path.name, no).write_bytes(content[: (done + len(content)) // 2])
            behind += recovered(copy / path.name, logs, now.heads, limits)
    assert behind > 10


def recovered(path: Path, logs: list[Log], heads: dict[PeerId, int], limits: Limits) -> bool:
    """Everything acknowledged is there, twice in a row, and goes on. Returns whether anything had to be filed again."""
    with closing(SqliteReader(path)) as reader:
        before = {origin: state.seq for origin, state in reader.states().items()}
    for _ in range(2):
        with closing(SqliteStore(path, OWN, limits=limits)) as store:
            assert list(store.verify()) == []
            for log in logs:
                head = store.current().get(log.origin)
                assert (head.seq if head else 0) >= heads.get(log.origin, 0)
                assert held(store, log.origin) == [batch.wal_bytes for batch in log.batches[: head.seq if head else 0]]
    with closing(SqliteStore(path, OWN, limits=limits)) as store:
        after = {origin: state.seq for origin, state in store.current().items()}
        if OWN in after:
            branch = logs[0].branch(after[OWN])
            put(store, branch.add(b"another history, if anything of this one was lost"))
            assert held(store, OWN)[-1] == branch.batches[-1].wal_bytes
        assert list(store.verify()) == []
    return after != before


# Faults and deaths.


class Killed(BaseException):
    """The process dies here."""


@dataclass
class FaultyOs:
    """`os` as the module sees it: the n-th write, sync, open, cut or removal fails, or is the last thing that happens.

    Attributes:
        how: what becomes of it: "EIO", "ENOSPC", "short" (half of a write is done, then there is no room), "late" (it
            fails after it was done), "killed before", "killed after".
        asked: how many there were.
        names: what each of them was.
    """

    n: int
    how: str
    asked: int = 0
    hit: str = ""
    names: list[str] = field(default_factory=list)
    watched: frozenset[str] = field(
        default_factory=lambda: frozenset({"open", "pwritev", "pwrite", "fdatasync", "fsync", "truncate", "unlink"})
    )

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return (lambda *args: self._do(name, real, *args)) if name in self.watched else real

    def _do(self, name: str, real: Callable[..., Any], *args: Any) -> Any:
        if name == "open" and not args[1] & (os.O_WRONLY | os.O_CREAT) and not os.path.isdir(args[0]):
            return real(*args)
        self.asked += 1
        self.names.append(name)
        if self.hit and self.how.startswith("killed"):
            raise Killed
        if self.asked != self.n:
            return real(*args)
        self.hit = name
        match self.how:
            case "killed before":
                raise Killed
            case "killed after" | "late":
                result = real(*args)
                if name == "open":
                    os.close(result)
                raise Killed if self.how != "late" else OSError(errno.EIO, "planted")
            case "short" if name == "pwritev":
                data = b"".join(args[1])
                return os.pwrite(args[0], data[: len(data) // 2], args[2])
        raise OSError(errno.EIO if self.how == "EIO" else errno.ENOSPC, "planted")


class World:
    """A workload that goes on after failures as a node does, and a ledger of what was seen to be held."""

    def __init__(self, path: Path, *, foresees: bool) -> None:
        self.path = path
        self.foresees = foresees
        self.limits = replace(Limits(), segment_bytes_max=2500)
        self.own, self.other = Log(), Log(2)
        self.ledger: dict[tuple[PeerId, int], bytes] = {}
        self.acknowledged: dict[PeerId, int] = {}
        self.failures = 0
        self.signed = 0

    def open(self) -> SqliteStore:
        return SqliteStore(self.path, OWN, limits=self.limits)

    def look(self, store: SqliteStore) -> None:
        """No seq is ever seen with another content, and nothing acknowledged is missing."""
        for log in (self.own, self.other):
            seen = store.load(log.origin, 1, EVERYTHING, EVERYTHING)
            assert seen.damaged is None
            for stored in seen.batches:
                batch = parse_batch(stored.wal_bytes)
                assert self.ledger.setdefault((log.origin, batch.seq_end), batch.hash) == batch.hash, "signed twice"
            assert len(seen.batches) >= self.acknowledged.get(log.origin, 0)
            log.batches[:] = [parse_batch(stored.wal_bytes) for stored in seen.batches]
        assert list(store.verify()) == []

    @staticmethod
    def head(store: SqliteStore, log: Log) -> int:
        state = store.current().get(log.origin)
        return state.seq if state else 0

    def attempt(self, store: SqliteStore, logs: list[Log], *, is_bulk: bool, with_cursor: bool) -> None:
        for _ in range(6):
            for log in (self.own, self.other):
                # Nothing of what failed counts.
                assert self.head(store, log) == self.acknowledged.get(log.origin, self.head(store, log))
                del log.batches[self.head(store, log) :]
            try:
                with store.write(is_bulk=is_bulk) as transaction:
                    for log in logs:
                        self.signed += 1
                        batch = log.add(b"%d " % self.signed * 60)
                        if self.foresees and log is self.own:
                            transaction.foresee(len(batch.wal_bytes), (batch.wal_bytes[:-64],))
                        transaction.append(batch)
                    if with_cursor:
                        transaction.set_cursor("f", OWN, self.signed)
            except NotBulk:
                continue
            except StoreError:
                self.failures += 1
                with suppress(StoreError):
                    store.recover()
                    self.look(store)
                    continue
                # It is still not fit: nothing is signed meanwhile.
                store.recover()
                self.look(store)
            else:
                for log in logs:
                    self.acknowledged[log.origin] = len(log.batches)
                    self.ledger[log.origin, log.batches[-1].seq_end] = log.batches[-1].hash
                return
        raise AssertionError("it never recovered")

    def live(self, store: SqliteStore, faulty: FaultyOs) -> None:
        own, other = self.own, self.other
        since = 0
        for logs, is_bulk, with_cursor in (
            ([own], True, False), ([own, own], True, False), ([own], False, False), ([other], True, False),
            ([own, other], True, True), ([own], True, False), ([other, own, other], True, False), ([own], True, False),
        ):  # fmt: skip
            if since < 3:
                self.attempt(store, logs, is_bulk=is_bulk, with_cursor=with_cursor)
            # What a failure left shows in the next steps, and when a log is forgotten.
            since += bool(faulty.hit)
        self.acknowledged[OTHER] = 0
        with store.write() as transaction:
            transaction.forget(OTHER)
        self.other = Log(2)
        self.ledger = {key: value for key, value in self.ledger.items() if key[0] == OWN}
        self.attempt(store, [self.other, own], is_bulk=True, with_cursor=False)


HOW = ["EIO", "short", "late", "killed before", "killed after"]


@pytest.mark.sampled
@pytest.mark.parametrize("foresees", [False, True])
@pytest.mark.parametrize("how", HOW)
def test_t59_t61_the_nth_failure_at_a_segment_is_survived_and_nothing_is_signed_twice(
    tmp_path: Path, how: str, foresees: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "_AHEAD_BYTES_MIN", 0)

    def live(n: int) -> tuple[World, FaultyOs, SqliteStore]:
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        (tmp_path / "data").mkdir()
        world = World(tmp_path / "data" / "log.sqlite", foresees=foresees)
        faulty = FaultyOs(n, how)
        with monkeypatch.context() as patch:
            store = world.open()
            patch.setattr(segments, "os", faulty)
            patch.setattr(disk, "os", faulty)
            with suppress(Killed):
                world.live(store, faulty)
        return world, faulty, store

    world, faulty, store = live(0)
    store.close()
    assert (faulty.asked > 25, faulty.hit, world.failures) == (True, "", 0)
    # One of each kind in any case.
    numbers = {1 + faulty.names.index(name) for name in faulty.names}
    numbers.update(some(range(1, faulty.asked + 1), 4, HOW.index(how) + 2 * foresees))
    hits: set[str] = set()
    for n in sorted(numbers):
        world, faulty, store = live(n)
        hits.add(faulty.hit)
        if how.startswith("killed"):
            # What it leaves: the kernel has all that was written. (What closes it here is not the process.)
            there = tmp_path / "after"
            shutil.rmtree(there, ignore_errors=True)
            shutil.copytree(world.path.parent, there, ignore=shutil.ignore_patterns("*-shm"))
            with suppress(Exception):
                store.close()
            world.path = there / "log.sqlite"
        else:
            store.close()
        for _ in range(1 + how.startswith("killed")):
            with closing(world.open()) as store:
                world.look(store)
                # Who died may have written what nobody was told of.
                world.acknowledged = {log.origin: world.head(store, log) for log in (world.own, world.other)}
                world.attempt(store, [world.own], is_bulk=True, with_cursor=False)
    assert hits >= {"open", "pwritev", "fdatasync", "fsync", "unlink"}


class Wrapped:
    """A connection at whose COMMIT something happens."""

    def __init__(self, connection: Any, before: Callable[[], None], after: Callable[[], None]) -> None:
        self._connection, self._before, self._after = connection, before, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *args: Any) -> Any:
        if sql != "COMMIT":
            return self._connection.execute(sql, *args)
        self._before()
        done = self._connection.execute(sql, *args)
        self._after()
        return done


def fail() -> None:
    raise sqlite3.OperationalError("planted")


def interrupt() -> None:
    raise KeyboardInterrupt


def nothing() -> None:
    """It goes well."""


@pytest.mark.parametrize("asked", ["pread", "stat"])
@pytest.mark.parametrize("opens", [lambda path: SqliteStore(path, OWN).close(), rebuild])
def test_t61_a_disk_that_refuses_to_read_a_segment_at_the_start_makes_nothing_of_it(
    path: Path, tmp_path: Path, asked: str, opens: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, log, 2)
        put(store, log.add(b"small"), is_bulk=False)
        synced = beside(path, "-wal").stat().st_size
        fill(store, log, 2)
        cut_copy(path, tmp_path / "copy", synced)
    refused = 0
    for n in range(1, 30):
        here = cut_copy(tmp_path / "copy" / path.name, tmp_path / str(n), EVERYTHING)
        with monkeypatch.context() as patch, suppress(StoreError):
            faulty = FaultyOs(n, "EIO", watched=frozenset({asked}))
            patch.setattr(segments, "os", faulty)
            opens(here)
            refused -= 1
        refused += 1
        with closing(SqliteStore(here, OWN)) as store:
            assert held(store, OWN) == [batch.wal_bytes for batch in log.batches]
        if not faulty.hit:
            break
    assert refused > 0


@pytest.mark.parametrize("is_first", [True, False])
def test_t61_an_index_that_comes_back_after_its_commit_failed_finds_what_it_names(
    path: Path, tmp_path: Path, is_first: bool
) -> None:
    log = Log()
    (tmp_path / "twin").mkdir()
    twin = tmp_path / "twin" / path.name
    with closing(SqliteStore(path, OWN)) as store, closing(SqliteStore(twin, OWN)) as other:
        for each in (store, other):
            log.batches.clear()
            put(each, log.add(b"small"), is_bulk=False)
            if not is_first:
                fill(each, log, 2)
            if each is store:
                store._writer = Wrapped(store._writer, fail, nothing)  # type: ignore[assignment]
                with pytest.raises(StoreError):
                    fill(store, log, 1)
            else:
                fill(other, log, 1)
        left = {no: segment_path(path, no).read_bytes() for no in segment_numbers(path)}
    for no, content in left.items():
        segment_path(twin, no).write_bytes(content)
    with closing(SqliteStore(twin, OWN)) as again:
        assert held(again, OWN) == [batch.wal_bytes for batch in log.batches]
        assert list(again.verify()) == []


@pytest.mark.parametrize("where", ["the file", "the commit", "what is held"])
def test_t61_whatever_ends_a_commit_half_way_nothing_is_written_before_the_store_recovered(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def give_up(*_: object) -> None:
        raise MemoryError

    log = Log()
    fill(store, log, 1)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        match where:
            case "the file":
                patch.setattr(segments, "_write_all", give_up)
            case "the commit":
                store._writer = Wrapped(store._writer, give_up, nothing)  # type: ignore[assignment]
            case _:
                patch.setattr(store, "_take_over", give_up)
        fill(store, log, 1)
    with pytest.raises(StoreReadOnly):
        put(store, log.batches[-1])
    store.recover()
    assert (held(store, OWN)[-1] == log.batches[-1].wal_bytes) == (where == "what is held")
    del log.batches[store.current()[OWN].seq :]
    fill(store, log, 1)
    assert held(store, OWN) == [batch.wal_bytes for batch in log.batches]
    assert list(store.verify()) == []


def test_t61_a_file_that_is_there_already_is_not_taken_away(store: SqliteStore, path: Path) -> None:
    segment_path(path, 1).write_bytes(b"somebody's")
    with pytest.raises(StoreError, match="cannot be written"):
        fill(store, Log(), 1)
    assert segment_path(path, 1).read_bytes() == b"somebody's"
    store.recover()
    fill(store, Log(), 1)
    assert segment_path(path, 1).read_bytes() == b"somebody's"


def test_what_was_made_to_try_the_room_is_taken_away_by_the_next_start(path: Path) -> None:
    for _ in range(2):
        with closing(SqliteStore(path, OWN)) as store:
            assert segment_numbers(path) == []
            put(store, Log().add(b"small"), is_bulk=False) if not store.current() else None
        segment_path(path, 0).write_bytes(bytes(1000))


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(
    ("before", "after", "is_held"), [(fail, nothing, False), (interrupt, nothing, False), (nothing, interrupt, True)]
)
def test_t61_a_commit_of_the_index_that_fails_leaves_nothing_and_one_that_was_cut_short_is_looked_at(
    store: SqliteStore, path: Path, before: Callable[[], None], after: Callable[[], None], is_held: bool, is_first: bool
) -> None:
    log = Log()
    put(store, log.add(b"small"), is_bulk=False)
    if not is_first:
        fill(store, log, 2)
    sizes = [segment_path(path, no).stat().st_size for no in segment_numbers(path)]
    store._writer = Wrapped(store._writer, before, after)  # type: ignore[assignment]
    with pytest.raises((StoreError, KeyboardInterrupt)):
        fill(store, log, 1)
    # Until SQLite's log is emptied the commit might come back from it.
    assert [segment_path(path, no).stat().st_size for no in segment_numbers(path)] != sizes
    store.recover()
    assert ([segment_path(path, no).stat().st_size for no in segment_numbers(path)] == sizes) is not is_held
    if not is_held:
        log.batches.pop()
    assert held(store, OWN) == [batch.wal_bytes for batch in log.batches]
    # Nothing is added any more to what a failure was at.
    fill(store, log, 1)
    assert store._segments[OWN].no == 2
    store.close()
    with closing(SqliteStore(path, OWN)) as again:
        assert held(again, OWN) == [batch.wal_bytes for batch in log.batches]
        assert list(again.verify()) == []


def test_t61_what_is_left_of_a_failed_write_does_not_count_once_the_store_has_recovered(
    store: SqliteStore, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    fill(store, log, 2)
    failed = log.branch(2).add(b"never acknowledged" * 20)
    monkeypatch.setattr(Appends, "take_back", lambda *_: None)
    store._writer = Wrapped(store._writer, fail, nothing)  # type: ignore[assignment]
    with pytest.raises(StoreError):
        put(store, failed)
    store.recover()
    assert store.current()[OWN].seq == 2
    end = segment_path(path, 1).stat().st_size
    assert list(read_entries(path, 1, 0, end))[-1][1] == failed.wal_bytes
    # The index of what comes next is lost with the power, as far as it can be: that, and not what failed, counts.
    put(store, log.add(b"another" * 20))
    assert store._unsynced_bytes == 0
    synced = beside(path, "-wal").stat().st_size
    put(store, log.add(b"one more" * 20))
    assert store._unsynced_bytes
    copy = tmp_path / "copy"
    shutil.copytree(path.parent, copy, ignore=shutil.ignore_patterns("copy", "*-shm"))
    os.truncate(beside(copy / path.name, "-wal"), synced)
    for _ in range(2):
        with closing(SqliteStore(copy / path.name, OWN)) as again:
            assert held(again, OWN) == [batch.wal_bytes for batch in log.batches]
            assert list(again.verify()) == []


def test_t61_a_new_segment_that_a_failed_write_left_is_not_taken_for_what_was_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise StoreError("planted")

    log = Log()
    with closing(SqliteStore(path, OWN)) as store:
        put(store, log.add(b"small"), is_bulk=False)
        with monkeypatch.context() as patch:
            patch.setattr(segments, "sync", refuse)
            patch.setattr(Appends, "take_back", lambda *_: None)
            batches = [log.add(b"never acknowledged %d" % number) for number in range(3)]
            with pytest.raises(StoreError, match="planted"):
                write(store, lambda transaction: [transaction.append(batch) for batch in batches])
        del log.batches[1:]
        store.recover()
        assert segment_numbers(path) == [1]
        put(store, log.add(b"another"), is_bulk=False)
    with closing(SqliteStore(path, OWN)) as store:
        assert (store.current()[OWN].seq, store.current()[OWN].is_lost, store.mended) == (2, False, [])
        assert segment_numbers(path) == []


def test_t61_a_disk_without_room_for_a_segment_is_not_fit(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    fill(store, log, 1)
    faulty = FaultyOs(1, "ENOSPC")
    monkeypatch.setattr(segments, "os", faulty)
    with pytest.raises(StoreFull, match="make room"):
        fill(store, log, 1)
    faulty.asked = -100
    faulty.n = -99 + 1
    with pytest.raises(StoreFull, match="make room"):
        store.recover()
    store.recover()
    assert store.current()[OWN].seq == 1


# Forgetting, and files that nobody knows.


def test_what_is_forgotten_gives_its_room_back_and_can_come_again(store: SqliteStore, path: Path) -> None:
    own, other = Log(), Log(2)
    fill(store, own, 2)
    fill(store, other, 3)
    assert segment_numbers(path) == [1, 2]
    with store.write() as transaction:
        transaction.forget(OTHER)
    assert segment_numbers(path) == [1]
    put(store, *other.batches)
    assert segment_numbers(path) == [1, 3]
    other.add(b"dropped before it was written")

    def begin_anew(transaction: Transaction) -> None:
        transaction.append(other.batches[-1])
        transaction.forget(OTHER)
        for batch in other.batches[:2]:
            transaction.append(batch)

    write(store, begin_anew)
    assert held(store, OTHER) == [batch.wal_bytes for batch in other.batches[:2]]
    assert len(segment_numbers(path)) == 2
    assert list(store.verify()) == []
    assert held(store, OWN) == [batch.wal_bytes for batch in own.batches]


def test_what_begins_anew_in_the_commit_that_forgot_it_gets_a_new_segment(store: SqliteStore) -> None:
    other = Log(2)
    fill(store, other, 1)
    other.batches.clear()
    with store.write() as transaction:
        transaction.forget(OTHER)
        transaction.append(other.add(b"small"))
    fill(store, other, 1)
    assert held(store, OTHER) == [batch.wal_bytes for batch in other.batches]
    assert list(store.verify()) == []


@pytest.mark.parametrize("what", ["older index", "no index", "flipped bit"])
def test_t60_what_was_signed_and_cannot_be_filed_stays_known(path: Path, what: str) -> None:
    log = Log()
    with closing(SqliteStore(path, OWN)) as store:
        put(store, log.add(b"small"), is_bulk=False)
        fill(store, log, 1)
    older = path.read_bytes()
    with closing(SqliteStore(path, OWN)) as store:
        if what != "flipped bit":
            put(store, log.add(b"small"), is_bulk=False)
        fill(store, log, 3)
    path.write_bytes(older)
    if what == "no index":
        path.unlink()
    if what == "flipped bit":
        content = bytearray(segment_path(path, 1).read_bytes())
        content[content.index(log.batches[2].wal_bytes) + 150] ^= 1
        segment_path(path, 1).write_bytes(content)
    for _ in range(2):
        with closing(SqliteStore(path, OWN)) as store:
            own = store.current()[OWN]
            assert (own.seq, own.claimed_seq) == (0 if what == "no index" else 2, len(log.batches))
            assert own.is_lost
            assert segment_numbers(path) == [1]
    missing = [log.batches[0], log.batches[2]] if what == "no index" else [log.batches[2]]
    with closing(SqliteStore(path, OWN)) as store:
        # Whoever has what is missing, the store has the rest.
        put(store, *missing)
        assert held(store, OWN) == [batch.wal_bytes for batch in log.batches]
        assert (store.current()[OWN].is_lost, store._beyond) == (False, {})
        put(store, log.add(b"goes on"))
    with closing(SqliteStore(path, OWN)) as store:
        assert list(store.verify()) == []
        assert is_open(path)[:1] == [0]


def is_open(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT is_open FROM segments ORDER BY no")]


@pytest.fixture
def gap(path: Path) -> Log:
    """Our log in an older index: one small batch is missing, and what lies above it is in segments."""
    log = Log()
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, log, 1)
    older = path.read_bytes()
    with closing(SqliteStore(path, OWN)) as store:
        put(store, log.add(b"small"), is_bulk=False)
        fill(store, log, 2)
        put(store, log.seal(app(b"later" * 60), base_hlc=log.batches[-1].last_hlc + 10**9))
    path.write_bytes(older)
    return log


@pytest.mark.parametrize("what", ["a flipped bit", "gone", "out of reach"])
def test_t60_what_lies_beyond_a_gap_is_filed_as_far_as_it_can_be_read(path: Path, gap: Log, what: str) -> None:
    is_gone = what != "a flipped bit"
    with closing(SqliteStore(path, OWN)) as store:
        content = bytearray(segment_path(path, 1).read_bytes())
        content[content.index(gap.batches[3].wal_bytes) + 150] ^= 1
        segment_path(path, 1).write_bytes(content)
        if is_gone:
            segment_path(path, 1).unlink()
        if what == "out of reach":
            segment_path(path, 1).symlink_to(segment_path(path, 1))
        put(store, gap.batches[1])
        assert store.current()[OWN].seq == (2 if is_gone else 3)
        assert store.current()[OWN].is_lost
        put(store, *gap.batches[store.current()[OWN].seq : 4])
        assert store.current()[OWN].seq == (4 if is_gone else 5)


def test_t60_what_lies_beyond_a_gap_counts_no_more_once_it_is_not_believed(path: Path, gap: Log) -> None:
    with closing(SqliteStore(path, OWN)) as store:
        assert is_open(path) == [2]
        with store.write() as transaction:
            transaction.drop_claim()
        other = gap.branch(1)
        put(store, other.add(b"another"))
    for _ in range(2):
        with closing(SqliteStore(path, OWN)) as store:
            assert (store.current()[OWN].seq, store.current()[OWN].is_lost) == (2, False)
            assert list(store.verify()) == []


def test_t60_what_is_signed_after_a_gap_was_closed_follows_what_lay_beyond_it(path: Path, gap: Log) -> None:
    with closing(SqliteStore(path, OWN)) as store:
        committer = Committer(store, identity(1), Limits())
        committer.start()
        (batch,) = gap.batches[1:2]
        push = PushJob(batch.seq_begin, batch.seq_end, batch.wal_bytes, admitted=True)
        done = committer.commit(Group(jobs=[push], portions=encode_portions([NewRecord("app", None, b"x")])), 1)
        assert (done.unsealed, done.states[OWN]) == (Unsealed.AHEAD, store.current()[OWN])
        assert store.current()[OWN].seq == len(gap.batches)
        done = committer.commit(Group(portions=encode_portions([NewRecord("app", None, b"x")])), 1)
        assert done.sealed[0].prev_hash == gap.batches[-1].hash
        assert done.sealed[0].base_hlc > gap.batches[-1].last_hlc


def test_t61_a_commit_that_fails_as_it_closes_a_gap_closes_it_when_it_is_done_again(path: Path, gap: Log) -> None:
    with closing(SqliteStore(path, OWN)) as store:
        store._writer = Wrapped(store._writer, fail, nothing)  # type: ignore[assignment]
        with pytest.raises(StoreError):
            put(store, gap.batches[1])
        store.recover()
        assert (store.current()[OWN].seq, is_open(path)[0]) == (1, 2)
        put(store, gap.batches[1])
        assert held(store, OWN) == [batch.wal_bytes for batch in gap.batches]


@pytest.mark.parametrize("is_known", [True, False])
def test_t60_no_number_is_given_twice_so_an_older_index_finds_what_is_ours(path: Path, is_known: bool) -> None:
    log = Log()
    with closing(SqliteStore(path, OWN)) as store:
        put(store, log.add(b"small"), is_bulk=False)
        fill(store, Log(2), 1)
    if not is_known:
        with closing(SqliteStore(path, OWN)) as store, store.write() as transaction:
            transaction.forget(OTHER)
    older = path.read_bytes()
    if is_known:
        with closing(SqliteStore(path, OWN)) as store, store.write() as transaction:
            transaction.forget(OTHER)
    for _ in range(2):
        SqliteStore(path, OWN).close()
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, log, 3)
        assert segment_numbers(path) == [2]
    path.write_bytes(older)
    with closing(SqliteStore(path, OWN)) as store:
        assert held(store, OWN) == [batch.wal_bytes for batch in log.batches]


@pytest.mark.parametrize(
    "left", [b"", b"\x01", b"\x10\0\0\0begun", bytes(70_000), b"\xff" * 99, b"\x04\0\0\0none", bytes(9) + b"x"]
)
def test_t62_a_segment_that_the_index_does_not_know_goes_only_if_it_was_never_more_than_begun(
    path: Path, left: bytes
) -> None:
    SqliteStore(path, OWN).close()
    segment_path(path, 3).write_bytes(left)
    with closing(SqliteStore(path, OWN)) as store:
        is_begun = left in (b"", b"\x01", b"\x10\0\0\0begun", bytes(70_000))
        assert (segment_numbers(path), len(store.mended)) == (([], 0) if is_begun else ([3], 1))


def test_t61_what_a_disk_refused_to_read_for_a_while_is_not_quarantined(store: SqliteStore) -> None:
    log = Log()
    fill(store, log, 3)
    put(store, log.add(b"small"), is_bulk=False)
    committer = Committer(store, identity(1), Limits())
    committer.start()
    found = [DamagedRange(OWN, 2, 2), DamagedRange(OWN, 4, 4)]
    assert (committer.commit(Group(damaged=found), 1).damaged, store.current()[OWN].seq) == ([], 4)


def test_where_the_process_works_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with closing(SqliteStore(Path("log.sqlite"), OWN)) as store, closing(SqliteReader(Path("log.sqlite"))) as reader:
        fill(store, log, 1)
        monkeypatch.chdir(tmp_path / "elsewhere")
        fill(store, log, 1)
        fill(store, Log(2), 1)
        assert held(store, OWN) == [batch.wal_bytes for batch in log.batches]
        assert list(reader.verify()) == []
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_link_to_the_data_dir_that_is_turned_while_it_is_open_does_not_matter(tmp_path: Path) -> None:
    log = Log()
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    link = tmp_path / "current"
    link.symlink_to("old")
    with closing(SqliteStore(link / "log.sqlite", OWN)) as store, closing(SqliteReader(link / "log.sqlite")) as reader:
        fill(store, log, 1)
        link.unlink()
        link.symlink_to("new")
        fill(store, log, 1)
        fill(store, Log(2), 1)
        assert held(store, OWN) == [batch.wal_bytes for batch in log.batches]
        assert list(reader.verify()) == []
    assert os.listdir(tmp_path / "new") == []


@pytest.mark.parametrize("is_made_anew", [False, True])
def test_t61_a_data_dir_that_is_moved_while_it_is_open_loses_nothing(tmp_path: Path, is_made_anew: bool) -> None:
    log, here, there = Log(), tmp_path / "data", tmp_path / "moved"
    here.mkdir()
    with closing(SqliteStore(here / "log.sqlite", OWN)) as store:
        fill(store, log, 2)
        here.rename(there)
        if is_made_anew:
            here.mkdir()
        with pytest.raises(StoreError, match="not there any more"):
            held(store, OWN)
        with pytest.raises(StoreError, match="cannot be written: No such file"):
            put(store, log.branch(2).add(bytes(300)))
        with pytest.raises(StoreError, match="not there any more"):
            store.recover()
        if is_made_anew:
            assert os.listdir(here) == []
            here.rmdir()
        there.rename(here)
        store.recover()
        fill(store, log, 1)
        assert held(store, OWN) == [batch.wal_bytes for batch in log.batches]


@pytest.mark.parametrize("is_replaced", [False, True])
def test_t61_a_file_that_was_removed_takes_no_more_than_until_the_next_pass(path: Path, is_replaced: bool) -> None:
    log = Log()
    with closing(SqliteStore(path, OWN, limits=replace(Limits(), store_pass_bytes=1))) as store:
        put(store, log.add(b"small"), is_bulk=False)
        if is_replaced:
            shutil.copy(path, beside(path, ".backup"))
            beside(path, ".backup").replace(path)
        else:
            path.unlink()
        copy = store.chore()
        assert copy is not None
        copy()
        for write_or_recover in (partial(put, store, log.add(b"more"), is_bulk=False), store.recover):
            with pytest.raises(StoreError, match="another file is in its place"):
                write_or_recover()


def test_what_could_not_be_removed_is_removed_by_the_next_start_and_comes_not_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(SqliteStore(path, OWN)) as store, monkeypatch.context() as patch:
        fill(store, Log(2), 3)
        patch.setattr("p2p.store.sqlite.drop_segment", lambda *_: None)
        with store.write() as transaction:
            transaction.forget(OTHER)
        assert segment_numbers(path) == [1]
    for _ in range(2):
        with closing(SqliteStore(path, OWN)) as store:
            assert (store.current(), store.mended) == ({}, [])
            assert segment_numbers(path) == []
    # That its number was given stays known, until a higher one is.
    assert is_open(path) == [0]
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, Log(2), 1)
    with closing(SqliteStore(path, OWN)) as store:
        assert segment_numbers(path) == [2]
    assert is_open(path) == [1]


@pytest.mark.parametrize("is_forgotten_there", [True, False])
def test_t60_no_number_is_given_out_twice_so_an_older_index_takes_nothing_for_what_it_was(
    path: Path, is_forgotten_there: bool
) -> None:
    def forget(transaction: Transaction) -> None:
        transaction.forget(OTHER)

    own = Log()
    with closing(SqliteStore(path, OWN)) as store:
        put(store, own.add(b"small"), is_bulk=False)
        fill(store, Log(2), 1)
        if is_forgotten_there:
            write(store, forget)
    older = path.read_bytes()
    for _ in range(2):
        with closing(SqliteStore(path, OWN)) as store:
            write(store, forget)
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, own, 3)
        assert segment_numbers(path) == [2]
    path.write_bytes(older)
    with closing(SqliteStore(path, OWN)) as store:
        assert held(store, OWN) == [batch.wal_bytes for batch in own.batches]


def test_t60_what_was_removed_stays_known_until_the_disk_knows_that_it_is_gone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(SqliteStore(path, OWN)) as store, monkeypatch.context() as patch:
        fill(store, Log(2), 1)
        patch.setattr("p2p.store.sqlite.drop_segment", lambda *_: None)
        write(store, lambda transaction: transaction.forget(OTHER))
        fill(store, Log(3), 1)
    seen: list[tuple[list[int], list[int]]] = []
    sync = disk.sync
    with monkeypatch.context() as patch:

        def look(directory: Path) -> None:
            seen.append((segment_numbers(path), is_open(path)))
            sync(directory)

        patch.setattr("p2p.store.replay.sync", look)
        SqliteStore(path, OWN).close()
    assert [(numbers, len(known)) for numbers, known in seen] == [([2], 2)]
    assert len(is_open(path)) == 1


def test_what_can_still_not_be_removed_stays_known_as_what_nobody_wants(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        for where in ("sqlite", "replay"):
            patch.setattr(f"p2p.store.{where}.drop_segment", lambda *_: None)
        with closing(SqliteStore(path, OWN)) as store:
            fill(store, Log(2), 1)
            write(store, lambda transaction: transaction.forget(OTHER))
            fill(store, Log(3), 1)
        for _ in range(2):
            with closing(SqliteStore(path, OWN)) as store:
                assert (segment_numbers(path), store.mended) == ([1, 2], [])
    with closing(SqliteStore(path, OWN)) as store:
        assert (segment_numbers(path), store.mended) == ([2], [])


def test_a_start_that_a_damaged_disk_prevents_says_where_and_what_to_do(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, log, 1)
    older = path.read_bytes()
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, log, 4)
    path.write_bytes(older)
    segment = segment_path(path, 1)
    data = segment.read_bytes()
    at = data.index(log.batches[2].wal_bytes)
    pread = os.pread

    def refuse(descriptor: int, size: int, offset: int) -> bytes:
        if offset <= at + 90 < offset + size:
            raise OSError(errno.EIO, "planted")
        return pread(descriptor, size, offset)

    with monkeypatch.context() as patch:
        patch.setattr(segments.os, "pread", refuse)
        with pytest.raises(StoreError, match=rf"000001\.segment cannot be read from byte {at - 4} on.*conv=noerror"):
            SqliteStore(path, OWN)
    # Who does as it says keeps what is whole.
    segment.write_bytes(data[: at + 50] + bytes(100) + data[at + 150 :])
    with closing(SqliteStore(path, OWN)) as store:
        assert (store.current()[OWN].seq, store.current()[OWN].claimed_seq) == (2, 5)
        put(store, log.batches[2])
        assert held(store, OWN) == [batch.wal_bytes for batch in log.batches]


def test_an_index_that_is_put_back_finds_the_segments_of_logs_that_the_older_one_did_not_know(path: Path) -> None:
    other = Log(2)
    with closing(SqliteStore(path, OWN)) as store:
        put(store, Log().add(b"small"), is_bulk=False)
    older = path.read_bytes()
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, other, 3)
    newer = path.read_bytes()
    path.write_bytes(older)
    for _ in range(2):
        with closing(SqliteStore(path, OWN)) as store:
            assert "log.sqlite.000001.segment" in store.mended[0]
    path.write_bytes(newer)
    with closing(SqliteStore(path, OWN)) as store:
        assert held(store, OTHER) == [batch.wal_bytes for batch in other.batches]


def test_t62_what_is_written_beside_a_segment_that_is_left_for_a_newer_index_leaves_it_alone(path: Path) -> None:
    own, other = Log(), Log(2)
    with closing(SqliteStore(path, OWN)) as store:
        put(store, own.add(b"small"), is_bulk=False)
    older = path.read_bytes()
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, other, 3)
    left = segment_path(path, 1).read_bytes()
    path.write_bytes(older)
    for _ in range(2):
        with closing(SqliteStore(path, OWN)) as store:
            fill(store, own, 2)
    assert (segment_numbers(path), segment_path(path, 1).read_bytes()) == ([1, 2], left)


@pytest.mark.parametrize("change", ["no = 77", "origin = 2", "covered = 3", "is_open = 0", "covered = 99999"])
def test_t62_no_flipped_bit_in_the_list_of_segments_drops_a_batch(path: Path, change: str) -> None:
    own, other = Log(), Log(2)
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, own, 3)
        fill(store, other, 3)
    rewrite(path, f"UPDATE segments SET {change} WHERE no = 1")
    for _ in range(2):
        with closing(SqliteStore(path, OWN)) as store:
            assert held(store, OWN) == [batch.wal_bytes for batch in own.batches]
            if OTHER in store.current():
                with store.write() as transaction:
                    transaction.forget(OTHER)
            fill(store, own, 1)
            assert held(store, OWN) == [batch.wal_bytes for batch in own.batches]
            assert list(store.verify()) == []


def test_an_older_index_beside_newer_segments_takes_up_what_follows_its_heads(path: Path, tmp_path: Path) -> None:
    own, other = Log(), Log(2)
    limits = replace(Limits(), segment_bytes_max=2000)
    with closing(SqliteStore(path, OWN, limits=limits)) as store:
        fill(store, own, 4)
        put(store, other.add(b"small"), is_bulk=False)
    older = path.read_bytes()
    with closing(SqliteStore(path, OWN, limits=limits)) as store:
        fill(store, own, 9)
        fill(store, other, 3)
        fill(store, Log(3), 2)
    path.write_bytes(older)
    with closing(SqliteStore(path, OWN, limits=limits)) as store:
        assert held(store, OWN) == [batch.wal_bytes for batch in own.batches]
        assert held(store, OTHER) == [batch.wal_bytes for batch in other.batches]
        # The third log is one that this index never admitted.
        assert set(store.current()) == {OWN, OTHER}
        (line,) = store.mended
        (left,) = (no for no in segment_numbers(path) if segment_path(path, no).name in line)
        assert [len(wal_bytes) > 1 for _, wal_bytes in read_entries(path, left, 0, EVERYTHING)] == [True] * 2
        assert list(store.verify()) == []
        fill(store, own, 2)


def test_what_many_segments_hold_beyond_an_older_index_is_filed_piece_by_piece(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filed: list[int] = []
    save = SqliteTransaction.save

    def noted(transaction: SqliteTransaction) -> None:
        filed.append(transaction.row_bytes)
        save(transaction)

    logs = [Log(number) for number in range(1, 6)]
    with closing(SqliteStore(path, OWN)) as store:
        for log in logs:
            fill(store, log, 1)
    older = path.read_bytes()
    with closing(SqliteStore(path, OWN)) as store:
        for log in logs:
            fill(store, log, 4, 500)
    path.write_bytes(older)
    monkeypatch.setattr("p2p.store.replay._PIECE_BYTES", 6000)
    monkeypatch.setattr(SqliteTransaction, "save", noted)
    with closing(SqliteStore(path, OWN)) as store:
        assert all(held(store, log.origin) == [batch.wal_bytes for batch in log.batches] for log in logs)
    assert [0 < size <= 6000 for size in filed] == [True] * 3


def test_t60_whole_batches_above_a_hurt_one_count_again_once_that_is_back(path: Path) -> None:
    own = Log()
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, own, 1)
    older = path.read_bytes()
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, own, 4)
    path.write_bytes(older)
    segment = segment_path(path, 1)
    data = bytearray(segment.read_bytes())
    data[data.index(own.batches[2].wal_bytes) + 90] ^= 1
    segment.write_bytes(data)
    with closing(SqliteStore(path, OWN)) as store:
        assert (store.current()[OWN].seq, store.current()[OWN].claimed_seq) == (2, 5)
        (line,) = store.mended
        assert "000001.segment holds batches of this node's own log above what is missing or damaged" in line
        put(store, own.batches[2])
        assert held(store, OWN) == [batch.wal_bytes for batch in own.batches]


def test_what_does_not_follow_is_kept_aside_and_nothing_is_made_of_it(path: Path) -> None:
    own = Log()
    with closing(SqliteStore(path, OWN)) as store:
        put(store, own.add(b"one"), is_bulk=False)
        older_end = len(own.batches)
    older = path.read_bytes()
    with closing(SqliteStore(path, OWN)) as store:
        put(store, own.add(b"a small one, which is in the index alone"), is_bulk=False)
        fill(store, own, 3)
    path.write_bytes(older)
    for _ in range(2):
        with closing(SqliteStore(path, OWN)) as store:
            assert store.current()[OWN].seq == older_end
            assert segment_numbers(path) == [1]
            assert [found.what for found in store.verify()] == ["end"]
    # Once what is between them was fetched, they follow it.
    with closing(SqliteStore(path, OWN)) as store:
        put(store, own.batches[1], is_bulk=False)
        assert held(store, OWN) == [batch.wal_bytes for batch in own.batches]


def test_a_newer_index_beside_older_segments_misses_what_peers_send_again(path: Path) -> None:
    own = Log()
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, own, 2)
        older = segment_path(path, 1).read_bytes()
        fill(store, own, 2)
    segment_path(path, 1).write_bytes(older)
    for number in range(2):
        with closing(SqliteStore(path, OWN)) as store:
            own_state = store.current()[OWN]
            assert (own_state.seq, own_state.tail_seq, own_state.is_whole) == (2, 4, False)
            said = [f"log.sqlite.000001.segment ends at byte {len(older)} of {2 * len(older)}: of the log of {OWN} it"]
            assert [line.partition(" held")[0] for line in store.mended] == (said if number == 0 else [])
    with closing(SqliteStore(path, OWN)) as store:
        put(store, *own.batches[2:])
        assert segment_numbers(path) == [1, 2]
        assert held(store, OWN) == [batch.wal_bytes for batch in own.batches]
        assert list(store.verify()) == []


# Damage.


@pytest.mark.parametrize("what", ["byte", "length", "gone"])
def test_t62_a_batch_that_a_segment_does_not_have_any_more_is_damage_and_is_mended(path: Path, what: str) -> None:
    log = Log()
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, log, 3)
    segment = segment_path(path, 1)
    data = bytearray(segment.read_bytes())
    at = data.index(log.batches[1].wal_bytes)
    if what == "gone":
        segment.unlink()
    else:
        data[at + 90 if what == "byte" else at - 4] ^= 1
        segment.write_bytes(data)
    lost = [1, 2, 3] if what == "gone" else [2]
    with closing(SqliteReader(path)) as reader:
        assert [(found.what, found.seq_begin) for found in reader.verify()] == [("hash", seq) for seq in lost]
    with closing(SqliteStore(path, OWN)) as store:
        assert store.current()[OWN].is_whole == (what != "gone"), "that a file is gone is seen at once"
        for seq in reversed(lost):
            assert store.load(OWN, seq, seq, EVERYTHING).damaged == DamagedRange(OWN, seq, seq)
            with store.write() as transaction:
                transaction.quarantine(DamagedRange(OWN, seq, seq))
        for seq in lost:
            put(store, log.batches[seq - 1])
        assert store.current()[OWN].is_whole
        assert held(store, OWN) == [batch.wal_bytes for batch in log.batches]
        assert list(store.verify()) == []


@pytest.mark.parametrize("left", [0, 500])
def test_t62_a_segment_that_is_put_back_is_whole_again_once_the_store_is_mended(tmp_path: Path, left: int) -> None:
    store, key = open_store(tmp_path, entropy=os.urandom, say=lambda _: None)
    log = Log()
    log.identity, log.origin = key, key.peer_id
    with closing(store):
        assert isinstance(store, SqliteStore)
        fill(store, log, 3)
    assert mend_store(tmp_path) is None
    path = segment_path(tmp_path / STORE_FILE, 1)
    content = path.read_bytes()
    path.unlink()
    if left:
        path.write_bytes(content[:left])
    said: list[str] = []
    for _ in range(2):
        store, _ = open_store(tmp_path, entropy=os.urandom, say=said.append)
        with closing(store):
            own = store.current()[key.peer_id]
            assert (own.seq, own.tail_seq) == (1 if left else 0, 3)
    (line,) = said
    assert ("ends at byte 500 of" if left else "is gone") in line
    assert mend_store(tmp_path) is None
    path.write_bytes(content)
    assert "3 records of 1 logs" in str(mend_store(tmp_path))
    store, _ = open_store(tmp_path, entropy=os.urandom, say=said.append)
    with closing(store):
        assert isinstance(store, SqliteStore)
        assert (held(store, key.peer_id), said[1:]) == ([batch.wal_bytes for batch in log.batches], [])
        assert list(store.verify()) == []
        fill(store, log, 1)
    assert mend_store(tmp_path) is None
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(StoreError, match=r"000001\.segment cannot be read"):
        mend_store(tmp_path)


@pytest.mark.parametrize("is_bulk", [True, False])
def test_t62_what_was_marked_and_is_whole_is_whole_again_once_the_store_is_mended(
    tmp_path: Path, is_bulk: bool
) -> None:
    store, key = open_store(tmp_path, entropy=os.urandom, say=lambda _: None)
    log = Log()
    log.identity, log.origin = key, key.peer_id
    with closing(store):
        assert isinstance(store, SqliteStore)
        put(store, *(log.add(b"%d" % number * 300) for number in range(3)), is_bulk=is_bulk)
        write(store, lambda transaction: transaction.quarantine(DamagedRange(key.peer_id, 2, 2)))
    assert "3 records of 1 logs" in str(mend_store(tmp_path))
    store, _ = open_store(tmp_path, entropy=os.urandom, say=lambda _: None)
    with closing(store):
        assert isinstance(store, SqliteStore)
        assert (store.current()[key.peer_id].is_whole, list(store.verify())) == (True, [])


@pytest.mark.parametrize("what", ["forgotten", "fetched again", "damaged"])
def test_what_changes_while_it_is_verified_is_looked_at_again(
    store: SqliteStore, path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Log(2)
    fill(store, other, 3)
    fill(store, Log(), 1)

    def meanwhile() -> None:
        if what == "damaged":
            segment_path(path, 1).unlink()
        else:
            with store.write() as transaction:
                transaction.forget(OTHER)
        if what == "fetched again":
            put(store, *other.batches, other.add(b"one more"))

    with closing(SqliteReader(path)) as reader:
        rows_of, looked = reader._rows_of, list[PeerId]()

        def look(origin: PeerId) -> Any:
            # Between a log's state and its rows.
            if origin == OTHER and not looked:
                looked.append(origin)
                meanwhile()
            return rows_of(origin)

        monkeypatch.setattr(reader, "_rows_of", look)
        assert [found.what for found in reader.verify()] == (["hash"] * 3 if what == "damaged" else [])


def test_t62_a_damaged_note_of_a_head_is_put_right_from_a_segment(path: Path) -> None:
    log = Log()
    with closing(SqliteStore(path, OWN)) as store:
        fill(store, log, 3)
        right = dict(store.current())
    for change in ("seq = seq + 64", "peer_id = randomblob(32)", "hash = randomblob(32)"):
        rewrite(path, f"UPDATE origins SET {change}")
        with closing(SqliteStore(path, OWN)) as store:
            assert store.current() == right
            assert list(store.verify()) == []


def test_t62_a_file_that_is_written_anew_keeps_what_is_whole_in_segments_and_finds_what_no_row_names(
    path: Path,
) -> None:
    own, other = Log(), Log(2)
    limits = replace(Limits(), segment_bytes_max=2000)
    with closing(SqliteStore(path, OWN, limits=limits)) as store:
        for _ in range(6):
            fill(store, own, 1)
            put(store, own.add(b"small"), is_bulk=False)
            fill(store, other, 1)
        states = store.states()
    rewrite(path, "DELETE FROM chain WHERE seq_end IN (3, 4)")
    rewrite(path, "DELETE FROM segments WHERE no = 2")
    files = {no: segment_path(path, no).read_bytes() for no in segment_numbers(path)}
    for _ in range(2):
        said = rebuild(path)
        assert "miss" not in said
        assert {no: segment_path(path, no).read_bytes() for no in segment_numbers(path)} == files
    with closing(SqliteStore(path, OWN, limits=limits)) as store:
        assert store.states() == states
        for log in (own, other):
            assert held(store, log.origin) == [batch.wal_bytes for batch in log.batches]
        fill(store, own, 2)
        assert list(store.verify()) == []


def test_a_reader_beside_a_node_copes_with_what_is_forgotten_meanwhile(store: SqliteStore, path: Path) -> None:
    other = Log(2)
    fill(store, other, 3)
    with closing(SqliteReader(path)) as reader:
        assert len(reader.load(OTHER, 1, EVERYTHING, EVERYTHING).batches) == 3
        with store.write() as transaction:
            transaction.forget(OTHER)
        loaded = reader.load(OTHER, 1, EVERYTHING, EVERYTHING)
        assert (loaded.batches, loaded.damaged) == ([], None)
        fill(store, Log(), 2)
        assert len(reader.load(OWN, 1, EVERYTHING, EVERYTHING).batches) == 2
