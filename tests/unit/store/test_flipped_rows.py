"""One bit of the small tables is another one: whatever it is, the logs are whole again after some exchanges and starts,
or the store says what to do. Nothing goes round for ever.

Here a peer is somebody who pushes what follows the head; all of it is real but the network (with which
tests/crash/test_flipped_bytes.py does the same).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from p2p.errors import StoreError
from p2p.limits import Limits
from p2p.node.commits import Committer, Group, PushJob
from p2p.replication.accept import Verdict
from p2p.replication.batch import NewRecord, encode_portion
from p2p.store.base import DamagedRange
from p2p.store.keys import open_store
from p2p.store.schema import PAGE_BYTES
from p2p.store.sqlite import SqliteStore
from p2p.testing.dice import Dice
from tests.logs import HLC, Log, identity
from tests.sampling import IS_ALL

BATCHES = 10
RECORDS = 4
END = BATCHES * RECORDS
EVERYTHING = 2**62
ROUNDS_MAX = 8
STARTS_MAX = 3
FLIPS = int(os.environ.get("PROOF_ROW_FLIPS", "120" if IS_ALL else "40"))
SEED = int(os.environ.get("PROOF_SEED", "1"))


class World:
    """A data dir with two logs, one of them the owner's."""

    def __init__(self, folder: Path, whole: Path, limits: Limits) -> None:
        self.whole = whole
        self.limits = limits
        self.folder = folder
        self.path = folder / "log.sqlite"
        self.logs = [Log(1), Log(2)]
        self.said: list[str] = []
        for log in self.logs:
            for number in range(0, END, RECORDS):
                log.add(*(b"%d" % (number + more) * 30 for more in range(RECORDS)))

    def make(self) -> None:
        self.folder = self.whole
        with closing(self.open()) as store, store.write() as transaction:
            for log in self.logs:
                for batch in log.batches:
                    transaction.append(batch)

    def refresh(self) -> None:
        """Take a new copy."""
        self.said.clear()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.whole, self.folder)

    def change(self, sql: str, *values: object) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(sql, values)

    def open(self) -> SqliteStore:
        return open_store(
            self.folder, entropy=os.urandom, say=self.said.append, identity=identity(1), limits=self.limits
        )[0]

    def mend(self) -> str:
        """Start, read everything, be sent what is missing; what came of it, and after how many starts."""
        for start in range(1, STARTS_MAX + 1):
            try:
                with closing(self.open()) as store:
                    is_whole = self.exchange(store)
                    assert is_whole or store.look_through() is not None, "nothing moves, and nobody is told"
            except StoreError as error:
                if start == STARTS_MAX:
                    assert "move log.sqlite" in str(error) or "put the right one back" in str(error), str(error)
                continue
            if is_whole:
                self.check()
                return f"whole after start {start}"
        return "refused"

    def exchange(self, store: SqliteStore) -> bool:
        """A reader, and a peer that pushes everything that follows the heads. False if they do not come to an end."""
        committer = Committer(store, identity(1), Limits())
        committer.start()
        for _ in range(ROUNDS_MAX):
            damaged = [found for log in self.logs if (found := self.read(store, log)) is not None]
            if not damaged and all(self.head(store, log) == END for log in self.logs):
                return True
            committer.commit(Group(damaged=damaged), 0)
            for log in self.logs:
                self.push(committer, store, log)
        return False

    def read(self, store: SqliteStore, log: Log) -> DamagedRange | None:
        """As the writer of a node does."""
        head, next_seq = self.head(store, log), 1
        while next_seq <= head:
            loaded = store.load(log.origin, next_seq, head, EVERYTHING)
            for stored in loaded.batches:
                sent = next(batch for batch in log.batches if batch.seq_end == stored.seq_end)
                assert stored.wal_bytes == sent.wal_bytes, "something else is served"
                next_seq = stored.seq_end + 1
            if loaded.damaged is not None:
                return loaded.damaged
            if not loaded.batches:
                return DamagedRange(log.origin, next_seq, head)
        return None

    def push(self, committer: Committer, store: SqliteStore, log: Log) -> None:
        while (head := self.head(store, log)) < END:
            batch = next((batch for batch in log.batches if batch.seq_begin == head + 1), None)
            assert batch is not None, f"the head is at seq {head}, where no batch ends"
            job = PushJob(batch.seq_begin, batch.seq_end, batch.wal_bytes, admitted=True)
            (outcome,) = committer.commit(Group(jobs=[job]), HLC >> 16).outcomes
            if outcome.verdict is not Verdict.APPLIED:
                # What is damaged here is found by this, and the peer tries again.
                assert outcome.verdict is Verdict.NOT_STORED, "a push that is taken, and the head stays where it is"
                return
            assert self.head(store, log) > head

    @staticmethod
    def head(store: SqliteStore, log: Log) -> int:
        state = store.current().get(log.origin)
        return 0 if state is None else state.seq

    def check(self) -> None:
        """The next start finds nothing to mend in the logs, and the owner goes on where its log ends."""
        with closing(self.open()) as store:
            assert [str(found) for found in store.verify() if found.what not in ("file", "hints")] == []
            committer = Committer(store, identity(1), Limits())
            committer.start()
            done = committer.commit(Group(portions=[encode_portion([NewRecord("app", None, b"next")])]), HLC >> 16)
            assert (done.unsealed, done.seq_first) == (None, END + 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory, Limits())


@pytest.fixture(scope="module")
def made_of_segments(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Half of its batches lie in segments."""
    return make_world(tmp_path_factory, replace(Limits(), segment_batch_bytes_min=400, segment_bytes_max=1500))


def make_world(tmp_path_factory: pytest.TempPathFactory, limits: Limits) -> World:
    world = World(tmp_path_factory.mktemp("copy") / "copy", tmp_path_factory.mktemp("made") / "whole", limits)
    world.make()
    world.folder = world.path.parent
    return world


@pytest.fixture
def world(made: World) -> World:
    made.refresh()
    return made


def flips(world: World, count: int) -> Iterator[tuple[int, int]]:
    """Places in the pages of the list of tables, the chain and the origins: those in use, and which bit of them."""
    data = (world.whole / "log.sqlite").read_bytes()
    with closing(sqlite3.connect(f"file:{world.whole / 'log.sqlite'}?mode=ro&immutable=1", uri=True)) as connection:
        small = "SELECT rootpage FROM sqlite_master WHERE tbl_name IN ('chain', 'origins', 'segments')"
        pages = [row[0] for row in connection.execute(small)]
    used = [
        at for page in (1, *pages) for at in range((page - 1) * PAGE_BYTES, page * PAGE_BYTES) if at >= 100 and data[at]
    ]
    dice = Dice(SEED)
    for _ in range(count):
        yield dice.one_of(used), dice.integer(0, 7)


@pytest.mark.sampled
def test_t62_a_flipped_bit_of_the_small_tables_is_mended_or_told(made: World) -> None:
    flip_all(made, FLIPS)


@pytest.mark.sampled
def test_t62_a_flipped_bit_of_the_index_of_segments_is_mended_or_told(made_of_segments: World) -> None:
    flip_all(made_of_segments, FLIPS // 2)


def flip_all(made: World, count: int) -> None:
    became: Counter[str] = Counter()
    for at, bit in flips(made, count):
        made.refresh()
        data = bytearray(made.path.read_bytes())
        data[at] ^= 1 << bit
        made.path.write_bytes(data)
        try:
            became[made.mend()] += 1
        except Exception as error:
            error.add_note(f"with bit {bit} of byte {at} flipped (page {at // PAGE_BYTES + 1})")
            raise
    assert became.total() == count
    assert became["refused"] < count / 3, became


IN_THE_MIDDLE = "origin = 2 AND seq_end = 24"
AT_THE_END = "origin = 2 AND seq_end = 40"


@pytest.mark.parametrize("where", [IN_THE_MIDDLE, AT_THE_END])
@pytest.mark.parametrize(
    "change",
    [
        # Where it begins: within another batch, before all, beyond all, behind its own end.
        *(f"seq_begin = {value}" for value in ("seq_begin - 1", "seq_begin + 1", "-99", "seq_begin + 1024", "'x'")),
        # Where it ends.
        *(f"seq_end = {value}" for value in ("seq_end - 1", "seq_end + 1", "-99", "seq_end + 64", "seq_end + 1024")),
        "hash = zeroblob(32)",
        "hash = zeroblob(31)",
        "hash = 7",
        "signature_crc = signature_crc + 1",
        "damaged = 1",
        "damaged = 2",
        *(f"batch = {value}" for value in ("batch - 1", "batch + 1", "0", "-1")),
        "origin = 1000",
        "origin = -1",
    ],
)
def test_t62_whatever_a_row_of_the_chain_says_the_logs_become_whole(world: World, where: str, change: str) -> None:
    world.change(f"UPDATE chain SET {change} WHERE {where}")
    assert world.mend().startswith("whole"), world.said


@pytest.mark.parametrize("where", [IN_THE_MIDDLE, AT_THE_END])
@pytest.mark.parametrize(
    "change",
    [
        *(f"segment = {value}" for value in ("0", "segment + 1", "-1", "1 << 40", "'x'")),
        *(f"batch = {value}" for value in ("batch - 1", "batch + 1", "0", "-1", "1 << 62", "'x'")),
        "seq_begin = seq_begin - 1",
        "seq_end = seq_end + 64",
        "origin = 1000",
    ],
)
def test_t62_whatever_a_row_says_of_a_batch_in_a_segment_the_logs_become_whole(
    made_of_segments: World, where: str, change: str
) -> None:
    made_of_segments.refresh()
    made_of_segments.change(f"UPDATE chain SET {change} WHERE {where}")
    assert made_of_segments.mend().startswith("whole"), made_of_segments.said


@pytest.mark.parametrize(
    "change", ["no = no + 100", "origin = 1", "covered = 5", "covered = 1 << 40", "is_open = 1 - is_open"]
)
def test_t62_whatever_the_list_of_segments_says_the_logs_become_whole(made_of_segments: World, change: str) -> None:
    made_of_segments.refresh()
    made_of_segments.change(f"UPDATE segments SET {change} WHERE no % 2 = 1")
    assert made_of_segments.mend().startswith("whole"), made_of_segments.said


@pytest.mark.parametrize("origin", [1, 2])
@pytest.mark.parametrize(
    "change",
    [
        *(f"seq = {value}" for value in ("39", "41", "0", "-40", "40 + 1024", "36")),
        "hash = zeroblob(32)",
        *(f"tail_seq = {value}" for value in ("39", "41", "0", "-40", "40 + 1024", "36")),
        *(f"lost_seq = {value}" for value in ("1", "40", "41", "-40", "1024")),
        "size = size + 65536",
        "frozen_from = 0",
        "peer_id = randomblob(32)",
    ],
)
def test_t62_whatever_a_row_of_the_origins_says_the_logs_become_whole(world: World, origin: int, change: str) -> None:
    world.change(f"UPDATE origins SET {change} WHERE no = ?", origin)
    assert world.mend().startswith("whole"), world.said


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("batches (no INTEGER PRIMARY KEY", "batches (no INTEGER0PRIMARY KEY"),
        ("hash BLOB NOT NULL", "hasH BLOB NOT NULL"),
        ("hash BLOB NOT NULL", "hasi BLOB NOT NULL"),
        ("CREATE TABLE chain", "CREATE TABLE chaiN"),
        ("CREATE TABLE chain", "CREATE DABLE chain"),
        ("WITHOUT ROWID", "WITHOUT ROWIE"),
        ("seq INTEGER", "seq INTEGDR"),
    ],
)
def test_t62_a_table_that_is_defined_otherwise_is_defined_as_it_was(world: World, right: str, wrong: str) -> None:
    data = world.path.read_bytes()
    assert right.encode() in data
    world.path.write_bytes(data.replace(right.encode(), wrong.encode()))
    assert world.mend().startswith("whole"), world.said
