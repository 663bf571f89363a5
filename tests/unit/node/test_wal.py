"""`node.wal`: appending, and followers that miss nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

from p2p.errors import ChannelBusy, ConfigError, NodeClosed, RecordTooLarge, StoreError
from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.node.follow import Follower
from p2p.node.wal import Wal
from p2p.replication.batch import BODY_BYTES_MAX, NewRecord, Record
from p2p.replication.heads import LogHead, digest
from p2p.store.base import DamagedRange, Loaded
from p2p.store.memory import MemoryStore
from tests.logs import Log, identity
from tests.unit.node.writers import PEER, Bench, running, settle

LIMITS = Limits()
OWN, OTHER = identity(1).peer_id, identity(2).peer_id


class NoPeers:
    """Replication of a node that is alone."""

    async def wait_replicated(self, seq: int, peers: int) -> None:
        raise NodeClosed(f"{seq} at {peers}")

    def shown(self) -> dict[PeerId, dict[PeerId, LogHead]]:
        return {PEER: {OTHER: LogHead(1, bytes(32), frozen=False)}}

    def lag(self, origin: PeerId) -> dict[PeerId, int]:
        return {PEER: 3 if origin == OWN else 2}


@asynccontextmanager
async def open_wal(store: MemoryStore | None = None, **limits: Any) -> AsyncIterator[tuple[Wal, Bench]]:
    bench = Bench(store, limits=replace(LIMITS, **limits))
    labels = {OWN: "me"}
    async with running(bench):
        wal = Wal(bench.writer, NoPeers(), label_of=labels.get, left_alone=frozenset, limits=replace(LIMITS, **limits))
        yield wal, bench


def named(record: Record) -> tuple[PeerId, int, bytes]:
    return record.origin, record.seq, record.payload


async def take(records: Follower, count: int) -> list[Record]:
    with trio.fail_after(30):
        return [await anext(records) for _ in range(count)]


async def nothing_comes(records: Follower) -> bool:
    """Whether the follower waits once everybody else has done what there was to do."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def stop_when_idle() -> None:
                await settle()
                scope.cancel()

            nursery.start_soon(stop_when_idle)
            await anext(records)
            nursery.cancel_scope.cancel()
    return scope.cancelled_caught


# Appending.


async def test_append_and_append_many() -> None:
    async with open_wal() as (wal, bench):
        assert await wal.append(b"a") == 1
        assert await wal.append(b"b", kind="sale", target=PEER) == 2
        assert await wal.append_many([b"c", NewRecord("own", None, b"d"), b"e"], kind="k") == [3, 4, 5]
        assert await wal.append_many([]) == []
        assert await wal.append_many(b"%d" % number for number in range(3)) == [6, 7, 8]
        assert [(r.kind, r.target) for r in bench.records()[:5]] == [
            ("app", None),
            ("sale", PEER),
            ("k", None),
            ("own", None),
            ("k", None),
        ]


async def test_what_does_not_fit_can_be_known_before() -> None:
    async with open_wal() as (wal, _):
        fits = bytes(BODY_BYTES_MAX - 4 - 1 - 3)
        wal.check_size(fits)
        assert await wal.append(fits) == 1
        for kind, payload in (("app", fits + b"x"), ("apps", fits)):
            with pytest.raises(RecordTooLarge):
                wal.check_size(payload, kind=kind)
            with pytest.raises(RecordTooLarge):
                await wal.append(payload, kind=kind)


async def test_heads_and_digest() -> None:
    async with open_wal() as (wal, bench):
        assert wal.heads() == {}
        await wal.append(b"x")
        log = Log(2)
        await bench.push(log.add(b"y"))
        assert {origin: head.seq for origin, head in wal.heads().items()} == {OWN: 1, log.origin: 1}
        assert wal.digest() == digest(bench.writer.heads)


async def test_replication_is_asked_of_the_replicator() -> None:
    async with open_wal() as (wal, _):
        with pytest.raises(NodeClosed, match="7 at 1"):
            await wal.wait_replicated(7)
        assert wal.lag() == wal.lag(OWN) == {PEER: 3}
        assert wal.lag(OTHER) == {PEER: 2}


async def test_records_reads_a_piece() -> None:
    async with open_wal() as (wal, _):
        await wal.append_many([b"%d" % number for number in range(10)])
        assert [r.seq for r in await wal.records(OWN)] == list(range(1, 11))
        assert [r.seq for r in await wal.records(OWN, 4, records_max=3)] == [4, 5, 6]
        assert await wal.records(OWN, 11) == []
        assert await wal.records(PEER) == []
        assert (await wal.records(OWN))[0].node_id == "me"


# Following.


async def test_what_is_there_and_what_comes_is_delivered_in_order() -> None:
    async with open_wal() as (wal, bench):
        await wal.append_many([b"a", b"b"])
        log = Log(2)
        await bench.push(log.add(b"x", b"y"))
        async with wal.follow() as records:
            first = await take(records, 4)
            assert {r.node_id for r in first if r.origin == OWN} == {"me"}
            assert {r.node_id for r in first if r.origin == log.origin} == {None}
            await wal.append(b"c")
            await bench.push(log.add(b"z"))
            seen = [*first, *await take(records, 2)]
            for origin, payloads in ((OWN, [b"a", b"b", b"c"]), (log.origin, [b"x", b"y", b"z"])):
                mine = [r for r in seen if r.origin == origin]
                assert [r.payload for r in mine] == payloads
                assert [r.seq for r in mine] == [1, 2, 3]
            assert await nothing_comes(records)


async def test_a_follower_that_waits_is_woken_without_polling(autojump_clock: trio.testing.MockClock) -> None:
    async with open_wal() as (wal, _), wal.follow() as records:
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            got: list[bytes] = []

            async def read() -> None:
                got.append((await anext(records)).payload)

            nursery.start_soon(read)
            await trio.sleep(3600)
            assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
            await wal.append(b"after an hour")
        assert got == [b"after an hour"]
        assert trio.current_time() - start == 3600


async def test_committed_is_not_delivered_again_and_everything_else_is() -> None:
    store = MemoryStore(OWN)
    async with open_wal(store) as (wal, bench):
        await wal.append_many([b"%d" % number for number in range(5)])
        log = Log(2)
        await bench.push(log.add(b"x", b"y"))
        async with wal.follow("indexer") as records:
            seen = await take(records, 7)
            await records.commit(next(r for r in seen if (r.origin, r.seq) == (OWN, 3)))
    async with open_wal(store) as (wal, _), wal.follow("indexer") as records:
        again = await take(records, 4)
        assert sorted(named(r) for r in again) == sorted(
            [(OWN, 4, b"3"), (OWN, 5, b"4"), (log.origin, 1, b"x"), (log.origin, 2, b"y")]
        )
        assert await nothing_comes(records)
        # A commit covers all before it, and an older one takes nothing back.
        await records.commit(next(r for r in again if (r.origin, r.seq) == (OWN, 5)))
        await records.commit(next(r for r in again if (r.origin, r.seq) == (OWN, 4)))
        await records.commit(next(r for r in again if (r.origin, r.seq) == (log.origin, 2)))
    async with open_wal(store) as (wal, _), wal.follow("indexer") as records:
        assert await nothing_comes(records)


async def test_t43_a_record_that_the_application_cannot_take_is_passed_by_a_commit() -> None:
    store = MemoryStore(OWN)
    log = Log(2)
    poison = NewRecord("\x1b[2J\u202e\x00", PEER, b"\xff\x00{[" * 1000)
    async with open_wal(store) as (_, bench):
        await bench.push(log.add(b"before"), log.seal([poison], base_hlc=2**64 - 1), log.add(b"after"))
    seen: list[int] = []
    for _ in range(2):
        # Whatever stands in it, it is delivered; what is not committed comes again.
        with pytest.raises(ExceptionGroup) as failure:
            async with open_wal(store) as (wal, _), wal.follow("f") as records:
                async for record in records:
                    seen.append(record.seq)
                    if record.payload == poison.payload:
                        assert record.time.year == 9999
                        raise ZeroDivisionError
                    await records.commit(record)
        assert failure.group_contains(ZeroDivisionError)
    assert seen == [1, 2, 2]
    async with open_wal(store) as (wal, _), wal.follow("f") as records:
        (bad,) = await take(records, 1)
        await records.commit(bad)
        assert (await take(records, 1))[0].payload == b"after"


async def test_a_follower_without_a_name_starts_over_and_commits_nothing() -> None:
    async with open_wal() as (wal, bench):
        await wal.append_many([b"a", b"b"])
        for _ in range(2):
            async with wal.follow() as records:
                for record in await take(records, 2):
                    await records.commit(record)
        assert bench.store.follower_cursors == {}


async def test_a_name_in_use_raises_until_it_is_given_back() -> None:
    async with open_wal() as (wal, _):
        async with wal.follow("one"), wal.follow("two"), wal.follow(), wal.follow():
            with pytest.raises(ChannelBusy, match="'one'"):
                async with wal.follow("one"):
                    pass
            with pytest.raises(ChannelBusy):
                await wal.follow("two").__aenter__()
        async with wal.follow("one"):
            pass
        with trio.CancelScope() as scope:
            scope.cancel()
            async with wal.follow("one"):
                pass
        assert scope.cancelled_caught
        async with wal.follow("one"):
            pass


async def test_now_skips_what_is_there_and_nothing_of_what_comes() -> None:
    store = MemoryStore(OWN)
    old, new = Log(2), Log(3)
    async with open_wal(store) as (wal, bench):
        await wal.append(b"old")
        await bench.push(old.add(b"old"))
        async with wal.follow("late", start="now") as records, wal.follow(start="now") as unnamed:
            assert await nothing_comes(records)
            await wal.append(b"new")
            await bench.push(old.add(b"new"), new.add(b"new origin"))
            seen = await take(records, 3)
            assert sorted(r.payload for r in seen) == [b"new", b"new", b"new origin"]
            assert sorted(map(named, await take(unnamed, 3))) == sorted(map(named, seen))
    async with open_wal(store) as (wal, _):
        # Nothing was committed: the name's first moment counts, not the moment of the restart.
        async with wal.follow("late", start="now") as records:
            assert sorted(map(named, await take(records, 3))) == sorted(map(named, seen))
        # Nor does another start move a name that has one.
        async with wal.follow("late", start="oldest") as records:
            assert sorted(map(named, await take(records, 3))) == sorted(map(named, seen))


async def test_now_on_an_empty_store_is_remembered_as_well() -> None:
    store = MemoryStore(OWN)
    log = Log(2)
    async with open_wal(store) as (wal, bench), wal.follow("late", start="now"):
        await bench.push(log.add(b"came before any commit"))
    async with open_wal(store) as (wal, _), wal.follow("late", start="now") as records:
        assert [r.payload for r in await take(records, 1)] == [b"came before any commit"]


async def test_records_for_somebody_expire_and_their_log_goes_on() -> None:
    async with open_wal() as (wal, bench):
        for target, payload in ((None, b"old, for all"), (PEER, b"old, for one")):
            await wal.append(payload, target=target)
        bench.clock.ms += 10_000
        await wal.append(b"new, for one", target=PEER)
        wal._oldest_ms = lambda: bench.clock.ms - 5_000
        async with wal.follow("all") as records:
            seen = await take(records, 2)
            assert [r.payload for r in seen] == [b"old, for all", b"new, for one"]
            await records.commit(seen[-1])
        assert [r.payload for r in await wal.records(OWN)] == [b"old, for all", b"old, for one", b"new, for one"]


async def test_kinds_and_target_choose() -> None:
    async with open_wal() as (wal, _):
        for kind, target in (("sale", None), ("sale", PEER), ("stock", PEER), ("other", None)):
            await wal.append(kind.encode(), kind=kind, target=target)
        cases: list[tuple[dict[str, Any], list[int]]] = [
            ({}, [1, 2, 3, 4]),
            ({"kinds": ["sale", "stock"]}, [1, 2, 3]),
            ({"kinds": "other"}, [4]),
            ({"target": PEER}, [2, 3]),
            ({"kinds": ("sale",), "target": PEER}, [2]),
            ({"kinds": ()}, []),
        ]
        for choice, seqs in cases:
            async with wal.follow(**choice) as records:
                assert [r.seq for r in await take(records, len(seqs))] == seqs
                assert await nothing_comes(records)


async def test_a_commit_covers_what_was_not_chosen() -> None:
    store = MemoryStore(OWN)
    async with open_wal(store) as (wal, _):
        for kind in ("a", "b", "a"):
            await wal.append(kind.encode(), kind=kind)
        async with wal.follow("f", kinds="a") as records:
            await records.commit((await take(records, 2))[1])
    async with open_wal(store) as (wal, _), wal.follow("f") as records:
        assert await nothing_comes(records)


async def test_only_what_was_delivered_can_be_committed() -> None:
    async with open_wal() as (wal, _):
        await wal.append_many([b"a", b"b"])
        async with wal.follow() as other, wal.follow("f") as records:
            record = (await take(other, 2))[1]
            with pytest.raises(ConfigError, match="not delivered"):
                await records.commit(record)
            await take(records, 2)
            await records.commit(record)


async def test_a_long_log_does_not_keep_the_others_waiting() -> None:
    async with open_wal(follow_read_bytes=2000) as (wal, bench):
        long, short = Log(2), Log(3)
        for _ in range(50):
            await bench.push(long.add(bytes(500)))
        await bench.push(short.add(b"short"))
        await wal.append(b"mine")
        async with wal.follow() as records:
            first = await take(records, 12)
            assert {r.origin for r in first} == {OWN, long.origin, short.origin}
            rest = await take(records, 40)
            assert [r.seq for r in [*first, *rest] if r.origin == long.origin] == list(range(1, 51))


async def test_memory_stays_at_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_wal(follow_read_bytes=2000) as (wal, bench):
        for _ in range(100):
            await wal.append(bytes(500))
        asked: list[int] = []
        load = bench.writer.load

        async def counting(origin: PeerId, from_seq: int, bytes_max: int) -> Any:
            batches = await load(origin, from_seq, bytes_max)
            asked.append(sum(len(batch.wal_bytes) for batch in batches))
            return batches

        monkeypatch.setattr(bench.writer, "load", counting)
        async with wal.follow() as records:
            await take(records, 1)
            assert len(asked) == 1
            await take(records, 99)
        assert max(asked) <= 2000


async def test_t36_a_follower_stops_where_a_fork_begins() -> None:
    async with open_wal() as (wal, bench):
        log = Log(2)
        await bench.push(log.add(b"good"), log.add(b"good, too"))
        other = log.branch(2, 2)
        other.add(b"another history")
        log.add(b"one history")
        async with wal.follow() as records:
            assert len(await take(records, 2)) == 2
            await bench.push(log.batches[2], other.batches[2])
            assert bench.writer.heads[log.origin].frozen
            assert await nothing_comes(records)
            await wal.append(b"others go on")
            assert [r.payload for r in await take(records, 1)] == [b"others go on"]


async def test_t36_what_was_read_ahead_of_a_fork_is_not_delivered() -> None:
    async with open_wal() as (wal, bench):
        log = Log(2)
        for number in range(4):
            log.add(b"%d" % number)
        await bench.push(*log.batches)
        async with wal.follow() as records:
            assert [r.seq for r in await take(records, 1)] == [1]
            await bench.push(log.branch(2, 2).add(b"another"))
            assert [r.seq for r in await take(records, 1)] == [2]
            assert await nothing_comes(records)


class Rotten(MemoryStore):
    """Batches from seq 3 on cannot be read, for as long as that is so."""

    is_rotten = False

    def load(self, origin: PeerId, from_seq: int, to_seq: int, bytes_max: int) -> Loaded:
        if not self.is_rotten or to_seq < 3:
            return super().load(origin, from_seq, to_seq, bytes_max)
        damaged = DamagedRange(origin, 3, 3)
        batches = super().load(origin, from_seq, 2, bytes_max).batches if from_seq < 3 else []
        return Loaded(batches, damaged)


async def test_t62_a_follower_waits_for_a_damaged_batch_and_goes_on() -> None:
    store = Rotten(OWN)
    async with open_wal(store) as (wal, bench):
        log = Log(2)
        for number in range(4):
            log.add(b"%d" % number)
        await bench.push(*log.batches)
        async with wal.follow() as records:
            assert [r.seq for r in await take(records, 1)] == [1]
            store.is_rotten = True
            assert await bench.writer.load(log.origin, 3, 2**40) == []
            await settle()
            assert [r.seq for r in await take(records, 1)] == [2]
            assert await nothing_comes(records)
            store.is_rotten = False
            await bench.push(log.batches[2])
            assert [r.seq for r in await take(records, 2)] == [3, 4]


async def test_waiting_followers_end_with_the_node() -> None:
    ended = False
    async with trio.open_nursery() as outer:
        async with open_wal() as (wal, _):

            async def read() -> None:
                nonlocal ended
                async with wal.follow("f") as records:
                    with pytest.raises(NodeClosed):
                        await anext(records)
                    with pytest.raises(NodeClosed):
                        await anext(records)
                    ended = True

            outer.start_soon(read)
            await settle()
        await settle()
        assert ended
        with pytest.raises(NodeClosed):
            await wal.follow().__aenter__()


async def test_misuse_is_named() -> None:
    async with open_wal() as (wal, _):
        with pytest.raises(ConfigError, match="start"):
            wal.follow(start="newest")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="empty"):
            wal.follow("")
        for wrong in ("\ud800", "n" * 1025, 7):
            with pytest.raises(ConfigError, match="a follower's name"):
                wal.follow(wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="half a character"):
            wal.follow(kinds=["app", "\ud800"])
        with pytest.raises(ConfigError, match="enter the follower"):
            await anext(wal.follow())
        follower = wal.follow()
        async with follower:
            with pytest.raises(ChannelBusy):
                await follower.__aenter__()


async def test_cancellation_is_noticed_at_every_record_and_others_run() -> None:
    async with open_wal() as (wal, _):
        await wal.append_many([b"x"] * 1000)
        async with wal.follow() as records:
            ran = 0
            stop = False

            async def others() -> None:
                nonlocal ran
                while not stop:
                    ran += 1
                    await trio.lowlevel.checkpoint()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(others)
                await take(records, 900)
                stop = True
            assert ran >= 10
            with trio.CancelScope() as scope:
                scope.cancel()
                await anext(records)
            assert scope.cancelled_caught
            assert (await take(records, 1))[0].seq == 901


async def test_others_run_while_a_follower_passes_over_what_nobody_wants() -> None:
    async with open_wal() as (wal, _):
        await wal.append_many([b""] * 20_000)
        await wal.append(b"", kind="wanted")
        batches = -(-20_000 // Limits().batch_records_max)
        async with wal.follow(kinds="wanted") as records, trio.open_nursery() as nursery:
            turns = 0

            @nursery.start_soon
            async def others() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await trio.lowlevel.checkpoint()

            assert (await anext(records)).kind == "wanted"
            assert turns >= batches
            nursery.cancel_scope.cancel()


class FailingStore(MemoryStore):
    """Cannot be read while `fails` is true."""

    fails = False

    def load(self, origin: PeerId, from_seq: int, to_seq: int, bytes_max: int) -> Loaded:
        if self.fails:
            raise StoreError("it cannot be read")
        return super().load(origin, from_seq, to_seq, bytes_max)


async def test_a_follower_that_could_not_read_goes_on_where_it_was() -> None:
    store = FailingStore(OWN)
    async with open_wal(store) as (wal, _), wal.follow() as records:
        await wal.append(b"one")
        store.fails = True
        with pytest.raises(StoreError):
            await anext(records)
        store.fails = False
        assert [record.payload for record in await take(records, 1)] == [b"one"]
