"""What every store promises, once for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.ids import PeerEndpoint, PeerId
from p2p.limits import Limits
from p2p.policy.book import BookPlace
from p2p.replication.accept import Held
from p2p.replication.batch import Batch, NewRecord
from p2p.replication.fork import make_proof
from p2p.replication.heads import EMPTY_LOG, ZERO_HASH, LogHead
from p2p.store.base import DamagedRange, Loaded, OriginState, Store, StoredBatch
from p2p.store.memory import MemoryStore
from p2p.store.sqlite import SqliteStore
from tests.logs import Log, identity

OWN = identity(1).peer_id
EVERYTHING = 2**62


@dataclass
class Kind:
    """One kind of store, and whether it outlives its object."""

    name: str
    is_durable: bool
    open: Callable[[Path], Store]


BIG = replace(Limits(), segment_batch_bytes_min=1, segment_bytes_max=1000)
"""Every batch lies in a segment, and segments are short."""
KINDS = [
    Kind("sqlite", True, lambda path: SqliteStore(path / "log.sqlite", OWN)),
    Kind("segments", True, lambda path: SqliteStore(path / "log.sqlite", OWN, limits=BIG)),
    Kind("memory", False, lambda _: MemoryStore(OWN)),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture
def store(kind: Kind, tmp_path: Path) -> Iterator[Store]:
    store = kind.open(tmp_path)
    yield store
    store.close()


@pytest.fixture
def log() -> Log:
    log = Log()
    for number in range(5):
        log.add(b"record %d" % number, b"x" * number)
    return log


def put(store: Store, *batches: Batch) -> None:
    for batch in batches:
        with store.write() as transaction:
            transaction.append(batch)


def stored(batch: Batch) -> StoredBatch:
    return StoredBatch(batch.seq_begin, batch.seq_end, batch.wal_bytes)


def damage(store: Store, batch: Batch) -> None:
    with store.write() as transaction:
        transaction.quarantine(DamagedRange(batch.origin, batch.seq_begin, batch.seq_end))


def test_an_empty_store_holds_nothing(store: Store) -> None:
    assert store.own == OWN
    assert store.states() == {} == dict(store.current())
    assert store.load(OWN, 1, EVERYTHING, 100).batches == []
    assert (store.proof(OWN), store.cursors("x"), store.pins()) == (None, {}, {})
    assert list(store.verify()) == []


def test_what_was_written_is_read_as_it_was_written(store: Store, log: Log) -> None:
    put(store, *log.batches)
    last = log.batches[-1]
    state = store.states()[OWN]
    assert state.head == LogHead(last.seq_end, last.hash)
    assert (state.tail_seq, state.is_whole) == (last.seq_end, True)
    assert state.size == sum(len(batch.wal_bytes) for batch in log.batches)
    assert dict(store.current()) == store.states()
    assert store.load(OWN, 1, EVERYTHING, EVERYTHING) == Loaded([stored(batch) for batch in log.batches], None)
    assert list(store.verify()) == []


def test_a_load_begins_with_the_batch_that_covers_its_seq(store: Store, log: Log) -> None:
    put(store, *log.batches)
    for batch in log.batches:
        for seq in range(batch.seq_begin, batch.seq_end + 1):
            assert store.load(OWN, seq, EVERYTHING, 1).batches == [stored(batch)]
    assert store.load(OWN, log.batches[-1].seq_end + 1, EVERYTHING, 1).batches == []
    assert store.load(identity(2).peer_id, 1, EVERYTHING, 1).batches == []


def test_a_load_keeps_its_bounds(store: Store, log: Log) -> None:
    put(store, *log.batches)
    sizes = [len(batch.wal_bytes) for batch in log.batches]
    for count in range(1, 6):
        assert len(store.load(OWN, 1, EVERYTHING, sum(sizes[:count])).batches) == count
    assert len(store.load(OWN, 1, EVERYTHING, 0).batches) == 1
    assert [batch.seq_end for batch in store.load(OWN, 1, 5, EVERYTHING).batches] == [2, 4]


def test_an_exception_takes_everything_back(store: Store, log: Log) -> None:
    put(store, log.batches[0])
    other = Log(2)
    other.add(b"x")
    before = store.states()
    with pytest.raises(KeyError), store.write() as transaction:
        transaction.append(log.batches[1])
        transaction.append(other.batches[0])
        transaction.set_cursor("f", OWN, 2)
        transaction.set_pin("a", OWN, 1, 10)
        transaction.quarantine(DamagedRange(OWN, 1, 2))
        transaction.freeze(make_proof(other.batches[0], Log(2).add(b"y")))
        assert transaction.head(OWN).seq == 0
        raise KeyError
    assert store.states() == before == dict(store.current())
    assert (store.cursors("f"), store.pins(), store.proof(other.origin)) == ({}, {}, None)
    assert len(store.load(OWN, 1, EVERYTHING, EVERYTHING).batches) == 1
    assert list(store.verify()) == []
    put(store, log.batches[1], other.batches[0])
    assert list(store.verify()) == []


def test_a_transaction_sees_its_own_writes(store: Store, log: Log) -> None:
    with store.write() as transaction:
        assert transaction.head(OWN) == EMPTY_LOG
        transaction.append(log.batches[0])
        assert transaction.head(OWN) == LogHead(2, log.batches[0].hash)
        held = transaction.held_within(OWN, 2, 9)
        assert held == Held(1, 2, log.batches[0].hash)
        assert transaction.held_batch(OWN, held) == log.batches[0]
        assert transaction.held_within(OWN, 3, 9) is None
    assert store.states()[OWN].seq == 2


def test_the_first_batch_that_shares_a_seq_is_found(store: Store, log: Log) -> None:
    put(store, *log.batches)
    with store.write() as transaction:
        assert transaction.held_within(OWN, 3, 100) == Held(3, 4, log.batches[1].hash)
        assert transaction.held_within(OWN, 4, 4) == Held(3, 4, log.batches[1].hash)
        assert transaction.held_within(OWN, 10, 10) == Held(9, 10, log.batches[4].hash)
        assert transaction.held_within(OWN, 11, 99) is None


def test_t62_a_damaged_batch_lowers_the_head_and_is_not_served(store: Store, log: Log) -> None:
    put(store, *log.batches)
    damage(store, log.batches[2])
    state = store.states()[OWN]
    assert state.head == LogHead(4, log.batches[1].hash)
    assert (state.tail_seq, state.is_whole) == (10, False)
    assert [batch.seq_end for batch in store.load(OWN, 1, state.seq, EVERYTHING).batches] == [2, 4]
    assert [(found.what, found.seq_begin) for found in store.verify()] == [("hash", 5)]
    with store.write() as transaction:
        assert transaction.held_within(OWN, 5, 6) is None
        assert transaction.held_within(OWN, 5, 7) == Held(7, 8, log.batches[3].hash)


def test_t62_a_batch_that_comes_back_joins_what_is_held_above(store: Store, log: Log) -> None:
    put(store, *log.batches)
    whole = store.states()
    damage(store, log.batches[2])
    damage(store, log.batches[3])
    put(store, log.batches[2])
    assert store.states()[OWN].seq == 6
    put(store, log.batches[3])
    assert store.states()[OWN].head == whole[OWN].head
    assert store.states()[OWN].is_whole
    assert list(store.verify()) == []
    assert store.load(OWN, 1, EVERYTHING, EVERYTHING).batches == [stored(batch) for batch in log.batches]


def test_t62_damage_is_marked_once_and_only_where_it_is(store: Store, log: Log) -> None:
    put(store, *log.batches)
    with store.write() as transaction:
        transaction.quarantine(DamagedRange(OWN, 5, 6))
        transaction.quarantine(DamagedRange(OWN, 5, 6))
        transaction.quarantine(DamagedRange(OWN, 5, 7))
        transaction.quarantine(DamagedRange(identity(2).peer_id, 1, 1))
        assert transaction.damaged == [DamagedRange(OWN, 5, 6)]


def test_t62_damage_at_the_first_batch_leaves_an_empty_head(store: Store, log: Log) -> None:
    put(store, *log.batches[:2])
    damage(store, log.batches[0])
    assert store.states()[OWN].head == LogHead(0, ZERO_HASH)


def test_t36_what_is_above_a_refetched_batch_must_follow_it(store: Store, log: Log) -> None:
    # The owner forked its log while our copy of the middle was damaged: what comes back is the other history.
    put(store, *log.batches)
    damage(store, log.batches[2])
    other = log.branch(2)
    other.add(b"another", b"history")
    put(store, other.batches[2])
    state = store.states()[OWN]
    assert state.frozen_from == other.batches[2].seq_begin
    assert state.head == LogHead(4, log.batches[1].hash, frozen=True)
    assert store.proof(OWN) == (other.batches[2].wal_bytes, log.batches[3].wal_bytes)


def test_t36_freezing_keeps_the_proof_and_lowers_the_head(store: Store, log: Log) -> None:
    put(store, *log.batches)
    proof = make_proof(log.batches[3], log.branch(3).add(b"another"))
    with store.write() as transaction:
        transaction.freeze(proof)
        assert transaction.frozen_from(OWN) == 7
    state = store.states()[OWN]
    assert (state.head, state.tail_seq) == (LogHead(6, log.batches[2].hash, frozen=True), 10)
    assert store.proof(OWN) == (proof.first.wal_bytes, proof.second.wal_bytes)
    assert list(store.verify()) == []
    # The old log stays readable for those who ask for it.
    assert len(store.load(OWN, 1, state.tail_seq, EVERYTHING).batches) == 5
    # One proof suffices.
    with store.write() as transaction:
        transaction.freeze(make_proof(log.batches[0], Log().add(b"yet another")))
    assert store.proof(OWN) == (proof.first.wal_bytes, proof.second.wal_bytes)
    assert store.states()[OWN] == state


def test_t36_an_origin_can_be_frozen_before_anything_of_it_is_held(store: Store, log: Log) -> None:
    with store.write() as transaction:
        transaction.freeze(make_proof(log.batches[2], log.branch(2).add(b"another")))
    assert store.states()[OWN] == OriginState(frozen_from=5)
    put(store, *log.batches[:2])
    assert store.states()[OWN].head == LogHead(4, log.batches[1].hash, frozen=True)
    assert list(store.verify()) == []


def test_t36_a_log_that_is_mended_goes_on_up_to_its_fork_and_no_further(store: Store) -> None:
    log = Log()
    for number in range(3):
        log.add(b"%d" % number)
    put(store, *log.batches)
    with store.write() as transaction:
        transaction.freeze(make_proof(log.batches[2], log.branch(2).add(b"another")))
        transaction.quarantine(DamagedRange(OWN, 1, 1))
    assert store.states()[OWN].seq == 0
    put(store, log.batches[0])
    assert store.states()[OWN].head == LogHead(2, log.batches[1].hash, frozen=True)


def test_forgetting_leaves_nothing(store: Store) -> None:
    other, third = Log(2), Log(3)
    other.add(b"x")
    third.add(b"y")
    put(store, other.add(b"z") and other.batches[0], other.batches[1], third.batches[0])
    with store.write() as transaction:
        transaction.freeze(make_proof(other.batches[1], other.branch(1, 2).add(b"another")))
        transaction.set_cursor("f", other.origin, 1)
        transaction.set_cursor("f", third.origin, 1)
    with store.write() as transaction:
        transaction.forget(other.origin)
        assert transaction.head(other.origin) == EMPTY_LOG
    assert set(store.states()) == {third.origin} == set(store.current())
    assert (store.proof(other.origin), store.cursors("f")) == (None, {third.origin: 1})
    assert store.load(other.origin, 1, EVERYTHING, EVERYTHING).batches == []
    put(store, *other.batches)
    assert store.states()[other.origin].seq == 2
    assert list(store.verify()) == []


def test_t36_nothing_that_proved_a_forgotten_fork_counts_against_who_comes_next(store: Store) -> None:
    forked, other = Log(2), Log(3)
    forked.add(b"x")
    other.add(b"y")
    put(store, *forked.batches)
    with store.write() as transaction:
        transaction.freeze(make_proof(forked.batches[0], Log(2).add(b"another")))
    with store.write() as transaction:
        transaction.forget(forked.origin)
    put(store, *other.batches)
    assert store.proof(other.origin) is None
    assert list(store.verify()) == []
    with store.write() as transaction:
        transaction.freeze(make_proof(other.batches[0], Log(3).add(b"another")))
    assert store.proof(other.origin) is not None


def test_an_origin_that_is_forgotten_and_comes_back_in_one_transaction_is_there(
    kind: Kind, store: Store, tmp_path: Path
) -> None:
    other, third = Log(2), Log(3)
    for log in (other, third):
        log.add(b"one")
        log.add(b"two")
    put(store, *other.batches)
    with store.write() as transaction:
        transaction.forget(other.origin)
        transaction.append(third.batches[0])
        transaction.append(other.batches[0])
    for origin in (other.origin, third.origin):
        assert store.current()[origin].seq == 1
    assert store.load(other.origin, 1, EVERYTHING, EVERYTHING).batches == [stored(other.batches[0])]
    put(store, other.batches[1], third.batches[1])
    assert list(store.verify()) == []
    if kind.is_durable:
        store.close()
        store = kind.open(tmp_path)
        assert store.load(other.origin, 1, EVERYTHING, EVERYTHING).batches == list(map(stored, other.batches))
        store.close()


def test_origins_are_found_by_whom_their_records_are_for(kind: Kind, store: Store, tmp_path: Path) -> None:
    logs = sorted((Log(number) for number in (1, 2, 3)), key=lambda log: log.origin)
    b, c = identity(8).peer_id, identity(9).peer_id
    for log in logs:
        log.seal([NewRecord("app", None, b"@" + b.hex().encode()), NewRecord("app", b, b"for b")])
    logs[1].seal([NewRecord("app", c, b"for c"), NewRecord("app", b, b"for b")])
    put(store, *(batch for log in logs for batch in log.batches))
    origins = [log.origin for log in logs]
    assert store.origins_for(b, 10) == origins
    assert store.origins_for(b, 2) == origins[:2]
    assert store.origins_for(c, 10) == [origins[1]]
    assert store.origins_for(OWN, 10) == []
    # Only a target makes one: a payload may look like it.
    other = Log(4)
    other.add(b"@" + c.hex().encode())
    put(store, *other.batches)
    assert store.origins_for(c, 10) == [origins[1]]
    gone = next(log.origin for log in logs if log.origin != OWN)
    with pytest.raises(ZeroDivisionError), store.write() as transaction:
        transaction.forget(gone)
        raise ZeroDivisionError
    assert store.origins_for(b, 10) == origins
    with store.write() as transaction:
        transaction.forget(gone)
    assert gone not in store.origins_for(b, 10)
    if kind.is_durable:
        store.close()
        store = kind.open(tmp_path)
        assert len(store.origins_for(b, 10)) == 2
        store.close()


def test_cursors_never_go_back(store: Store) -> None:
    for seq in (0, 5, 3, 7, 6):
        with store.write() as transaction:
            transaction.set_cursor("f", OWN, seq)
            transaction.set_cursor("g", OWN, 1)
    assert store.cursors("f") == {OWN: 7}
    assert store.cursors("g") == {OWN: 1}
    with store.write() as transaction:
        transaction.set_cursor("new", OWN, 0)
    assert store.cursors("new") == {OWN: 0}


def test_the_book_has_one_entry_per_place_and_takes_them_out_again(store: Store) -> None:
    ids = [identity(number).peer_id for number in range(2)]
    here, there = PeerEndpoint("192.0.2.1", 9001), PeerEndpoint("::1", 9001, "wss")
    first = BookPlace(here, ids[0], "a", "discovery", 5)
    other = BookPlace(there, ids[1], "", "connect", 3, 16)
    with store.write() as transaction:
        transaction.set_place(first)
        transaction.set_place(other)
    assert store.book() == [other, first]
    moved = BookPlace(here, ids[1], "b", "registry", 1)
    with store.write() as transaction:
        transaction.set_place(moved)
        transaction.drop_place(there.address)
        transaction.drop_place(("tcp", "nowhere", 1))
    assert store.book() == [moved]


def test_bans_keep_those_that_end_last(store: Store) -> None:
    ids = [identity(number).peer_id for number in range(4)]
    for number, until_ms in enumerate((40, 20, 30, 50)):
        with store.write() as transaction:
            transaction.set_ban(ids[number], until_ms, 3)
    assert list(store.bans().items()) == [(ids[2], 30), (ids[0], 40), (ids[3], 50)]
    with store.write() as transaction:
        transaction.drop_ban(ids[0])
        transaction.drop_ban(ids[1])
        transaction.set_ban(ids[2], 60, 3)
    assert list(store.bans().items()) == [(ids[3], 50), (ids[2], 60)]


def test_a_write_that_fails_leaves_book_and_bans_as_they_were(store: Store) -> None:
    here = identity(0).peer_id
    with store.write() as transaction:
        transaction.set_place(BookPlace(PeerEndpoint("192.0.2.1", 9001), here, "a", "discovery", 5))
        transaction.set_ban(here, 5, 3)
    before = (store.book(), store.bans())
    with pytest.raises(ZeroDivisionError), store.write() as transaction:
        transaction.drop_place(("tcp", "192.0.2.1", 9001))
        transaction.drop_ban(here)
        raise ZeroDivisionError
    assert (store.book(), store.bans()) == before


def test_a_pin_that_is_seen_again_is_kept_for_longer(store: Store) -> None:
    for label, seen_ms in [("a", 10), ("b", 20), ("a", 30), ("c", 40)]:
        with store.write() as transaction:
            transaction.set_pin(label, OWN, seen_ms, 2)
    assert list(store.pins()) == ["a", "c"]


def test_pins_keep_those_seen_last(store: Store) -> None:
    ids = [identity(number).peer_id for number in range(4)]
    for seen_ms, (label, peer_id) in enumerate(zip("abca", (*ids[:3], ids[3]), strict=True)):
        with store.write() as transaction:
            transaction.set_pin(label, peer_id, seen_ms, 2)
    assert store.pins() == {"c": ids[2], "a": ids[3]}
    assert list(store.pins()) == ["c", "a"]
    with store.write() as transaction:
        transaction.drop_pin("c")
        transaction.drop_pin("never there")
    assert store.pins() == {"a": ids[3]}


def test_quotas_are_what_the_writer_says(store: Store, log: Log) -> None:
    with store.write() as transaction:
        assert transaction.has_room(OWN, EVERYTHING)
        transaction.append(log.batches[0])
        size = len(log.batches[0].wal_bytes)
        transaction.quotas = {OWN: size + 10}
        assert transaction.has_room(OWN, 10)
        assert not transaction.has_room(OWN, 11)
        assert transaction.has_room(identity(2).peer_id, EVERYTHING)


def test_recovering_a_healthy_store_changes_nothing(store: Store, log: Log) -> None:
    put(store, *log.batches)
    before = store.states()
    store.recover()
    assert dict(store.current()) == before == store.states()
    assert list(store.verify()) == []


def test_what_is_durable_is_there_after_reopening(kind: Kind, tmp_path: Path, log: Log) -> None:
    if not kind.is_durable:
        return
    store = kind.open(tmp_path)
    put(store, *log.batches)
    with store.write() as transaction:
        transaction.set_cursor("f", OWN, 3)
        transaction.set_pin("a", OWN, 1, 10)
        transaction.set_place(BookPlace(PeerEndpoint("192.0.2.1", 9001), OWN, "a", "discovery", 5, 2))
        transaction.set_ban(OWN, 7, 10)
        transaction.freeze(make_proof(log.batches[3], log.branch(3).add(b"another")))
    before = (store.states(), store.proof(OWN), store.cursors("f"), store.pins(), store.book(), store.bans())
    assert len(store.book()) == len(store.bans()) == 1
    store.close()
    store = kind.open(tmp_path)
    after = (store.states(), store.proof(OWN), store.cursors("f"), store.pins(), store.book(), store.bans())
    assert after == before
    assert dict(store.current()) == before[0]
    store.close()


# Both kinds do the same under any sequence of writes.

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "append", "damage", "refetch", "freeze", "forget", "cursor", "rollback"]),
        st.integers(2, 3),
        st.integers(0, 5),
    ),
    max_size=25,
)


def history(number: int) -> Log:
    log = Log(number)
    for batch in range(6):
        log.add(*[b"%d" % batch] * (1 + batch % 3))
    return log


HISTORIES = {number: history(number) for number in (2, 3)}
OTHER_WAYS = {number: log.branch(2, number).add(b"another") for number, log in HISTORIES.items()}


def act(store: Store, action: str, number: int, at: int) -> None:
    log = HISTORIES[number]
    origin = log.origin
    try:
        with store.write() as transaction:
            state = transaction.state(origin)
            batch = log.batches[at]
            follows = state.seq + 1 == batch.seq_begin and (state.frozen_from or EVERYTHING) > batch.seq_end
            if action == "append" and state.frozen_from is None:
                following = [batch for batch in log.batches if batch.seq_begin == state.seq + 1]
                if following and transaction.held_within(origin, following[0].seq_begin, following[0].seq_end) is None:
                    transaction.append(following[0])
            elif action == "refetch":
                if follows and transaction.held_within(origin, batch.seq_begin, batch.seq_end) is None:
                    transaction.append(batch)
            elif action == "damage":
                transaction.quarantine(DamagedRange(origin, batch.seq_begin, batch.seq_end))
            elif action == "freeze":
                transaction.freeze(make_proof(log.batches[2], OTHER_WAYS[number]))
            elif action == "forget":
                transaction.forget(origin)
            elif action == "cursor":
                transaction.set_cursor("f", origin, at)
            elif action == "rollback":
                transaction.forget(origin)
                raise KeyError
    except KeyError:
        pass


def shape_of(store: Store) -> object:
    return (
        store.states(),
        dict(store.current()),
        [
            (log.origin, store.load(log.origin, 1, EVERYTHING, EVERYTHING), store.proof(log.origin))
            for log in HISTORIES.values()
        ],
        store.cursors("f"),
        [str(found) for found in store.verify()],
    )


@given(ACTIONS)
def test_the_kinds_do_not_differ(tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int, int]]) -> None:
    stores = [kind.open(tmp_path_factory.mktemp("store")) for kind in KINDS]
    try:
        for action in actions:
            for store in stores:
                act(store, *action)
        one, *others = (shape_of(store) for store in stores)
        assert others == [one] * len(others)
        for log in HISTORIES.values():
            for store in stores:
                state = store.states().get(log.origin, OriginState())
                ends = {0: ZERO_HASH, **{batch.seq_end: batch.hash for batch in log.batches}}
                assert ends[state.seq] == state.hash
                assert state.frozen_from is None or state.seq < state.frozen_from
                served = store.load(log.origin, 1, state.seq, EVERYTHING).batches
                assert served == [stored(batch) for batch in log.batches if batch.seq_end <= state.seq]
    finally:
        for store in stores:
            store.close()


def test_the_peer_id_is_the_key_it_is_filed_under(store: Store) -> None:
    log = Log(2)
    put(store, log.add(b"x"))
    assert [type(origin) for origin in store.states()] == [PeerId]


def test_an_origin_with_records_for_very_many_takes_no_room_for_them_and_may_have_some_for_anybody(
    store: Store,
) -> None:
    a, b = Log(61), Log(62)
    somebody = identity(99).peer_id
    with store.write() as transaction:
        transaction.append(b.seal([NewRecord("app", identity(98).peer_id, b"x")]))
    with store.write() as transaction:
        for mark in (1, 2, 3):
            targets = [PeerId(bytes([mark, n % 256, n // 256]) + bytes(29)) for n in range(500)]
            transaction.append(a.seal([NewRecord("app", target, b"") for target in targets]))
    assert store.origins_for(somebody, 10) == [a.origin]
    assert store.origins_for(PeerId(bytes([1]) + bytes(31)), 10) == [a.origin]
    assert store.origins_for(identity(98).peer_id, 10) == sorted((a.origin, b.origin))
    if isinstance(store, SqliteStore):
        assert store._writer is not None
        assert store._writer.execute("SELECT COUNT(*) FROM targets").fetchone()[0] == 2
    with store.write() as transaction:
        transaction.forget(a.origin)
    assert store.origins_for(somebody, 10) == []
