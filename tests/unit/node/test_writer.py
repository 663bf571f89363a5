"""The writer: group commit, one critical section, nothing told before it is durable, and disks that fail."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from p2p.errors import (
    ConfigError,
    NodeClosed,
    OwnLogForked,
    RecordTooLarge,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
)
from p2p.ids import PeerEndpoint, PeerId
from p2p.limits import MIB, Limits
from p2p.msg import ForkProof, WalPush
from p2p.node import events
from p2p.node.commits import Committed, Group, PushOutcome
from p2p.policy.book import BookPlace
from p2p.replication.accept import Verdict
from p2p.replication.batch import Batch, NewRecord
from p2p.replication.heads import SEQ_MAX, LogHead
from p2p.store.base import DamagedRange, Loaded, StoredBatch, Transaction
from p2p.store.memory import MemoryStore
from p2p.store.sqlite import SqliteStore
from p2p.windows import InlineBlocking, SystemBlocking
from tests.logs import Log, app, identity
from tests.unit.node.writers import PEER, Bench, WallClock, running, settle

LIMITS = replace(Limits(), segment_batch_bytes_min=MIB)
"""Every batch is a row of the store's file, which can be made to have no room."""
OWN = identity(1).peer_id


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "log.sqlite", OWN, limits=LIMITS)
    yield store
    store.close()


def foreign(count: int = 4, number: int = 2) -> Log:
    log = Log(number)
    for index in range(count):
        log.add(b"%d" % index, b"x")
    return log


# Appending.


async def test_append_returns_when_it_is_durable() -> None:
    async with running(Bench()) as bench:
        assert await bench.append(b"a") == [1]
        assert bench.store.states()[OWN].seq == 1
        assert await bench.append(b"b", b"c") == [2, 3]
        assert [record.payload for record in bench.records()] == [b"a", b"b", b"c"]
        assert bench.writer.heads == {OWN: LogHead(3, bench.stored()[-1].hash)}
        assert list(bench.store.verify()) == []
        assert await bench.append() == []


async def test_a_hundred_appends_share_commits() -> None:
    async with running(Bench()) as bench:
        seqs: list[int] = []

        async def append(number: int) -> None:
            seqs.extend(await bench.append(b"%d" % number))

        before = bench.blocking.commits
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(append, number)
        assert sorted(seqs) == list(range(1, 101))
        assert bench.blocking.commits - before <= 2
        assert len(bench.stored()) <= 2


async def test_while_one_commit_is_under_way_the_next_gathers() -> None:
    async with running(Bench()) as bench:
        bench.blocking.shut()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.append, b"first")
            await settle()
            for _ in range(50):
                nursery.start_soon(bench.append, b"x", b"y")
            await settle()
            bench.blocking.open.set()
        assert [batch.count for batch in bench.stored()] == [1, 100]


async def test_many_records_are_cut_into_batches_in_order() -> None:
    async with running(Bench()) as bench:
        payloads = [b"%d" % number for number in range(2500)]
        assert await bench.append(*payloads) == list(range(1, 2501))
        assert [batch.count for batch in bench.stored()] == [1024, 1024, 452]
        assert [record.payload for record in bench.records()] == payloads
        big = bytes(100_000)
        assert await bench.append(*[big] * 5) == list(range(2501, 2506))
        assert [batch.count for batch in bench.stored()[3:]] == [2, 2, 1]


async def test_a_call_larger_than_a_commit_takes_several_and_stays_in_order() -> None:
    async with running(Bench(limits=replace(LIMITS, commit_bytes_max=500_000))) as bench:
        before = bench.blocking.commits
        assert await bench.append(*[bytes(100_000)] * 19, b"last") == list(range(1, 21))
        assert [batch.count for batch in bench.stored()] == [2] * 10
        assert bench.blocking.commits - before == 4
        assert bench.records()[-1].payload == b"last"


async def test_kinds_and_targets_are_kept() -> None:
    async with running(Bench()) as bench:
        await bench.writer.append_many([NewRecord("sale", PEER, b"3"), NewRecord("", None, b"")])
        assert [(r.kind, r.target, r.payload) for r in bench.records()] == [("sale", PEER, b"3"), ("", None, b"")]


async def test_a_record_that_does_not_fit_takes_nothing_with_it() -> None:
    async with running(Bench()) as bench:
        with pytest.raises(RecordTooLarge):
            await bench.append(b"fits", bytes(256 * 1024), b"fits")
        assert await bench.append(b"next") == [1]


async def test_a_cancelled_append_is_withdrawn_if_it_is_not_sealed() -> None:
    async with running(Bench()) as bench:
        bench.blocking.shut()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.append, b"under way")
            await settle()
            with trio.CancelScope() as scope:
                nursery.start_soon(bench.append, b"stays")
                async with trio.open_nursery() as inner:
                    inner.start_soon(bench.append, b"withdrawn", b"both")
                    await settle()
                    scope.cancel()
            assert scope.cancelled_caught
            bench.blocking.open.set()
        assert [record.payload for record in bench.records()] == [b"under way", b"stays"]
        assert await bench.append(b"after") == [3]


async def test_of_many_that_run_into_one_timeout_none_is_looked_for_in_the_line() -> None:
    class Line(deque[Any]):
        def remove(self, _call: object) -> None:
            raise AssertionError("it costs as much as all that wait")

    async with running(Bench()) as bench:
        bench.writer._appends = Line()
        bench.blocking.shut()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.append, b"under way")
            await settle()
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    for number in range(9):
                        inner.start_soon(bench.append, b"withdrawn")
                        if number % 3 == 0:
                            nursery.start_soon(bench.append, b"stays")
                    await settle()
                    scope.cancel()
            assert len(bench.writer._appends) <= 2 * 3
            bench.blocking.open.set()
        assert [record.payload for record in bench.records()] == [b"under way", *[b"stays"] * 3]
        assert (len(bench.writer._appends), bench.writer._records_waiting, bench.writer._dropped) == (0, 0, 0)


async def test_a_cancelled_append_that_is_under_way_becomes_durable_and_nobody_hangs() -> None:
    async with running(Bench()) as bench:
        bench.blocking.shut()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.append, b"sealed")
                await settle()
                scope.cancel()
        bench.blocking.open.set()
        assert await bench.append(b"next") == [2]
        assert [record.payload for record in bench.records()] == [b"sealed", b"next"]


async def test_a_call_cancelled_between_two_commits_leaves_no_half_batch() -> None:
    async with running(Bench(limits=replace(LIMITS, commit_bytes_max=200_000))) as bench:
        bench.blocking.shut()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.append, *[bytes(100_000)] * 5)
                await settle()
                scope.cancel()
        bench.blocking.open.set()
        assert await bench.append(b"next") == [3]
        assert [batch.count for batch in bench.stored()] == [2, 1]


async def test_appends_wait_beyond_the_bound() -> None:
    async with running(Bench(limits=replace(LIMITS, appends_waiting_max=10))) as bench:
        bench.blocking.shut()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.append, b"under way")
            await settle()
            for _ in range(3):
                nursery.start_soon(bench.append, *[b"x"] * 6)
            await settle()
            # Two were let in, one waits outside. Without the bound all would be sealed together.
            assert bench.writer._records_waiting == 12
            bench.blocking.open.set()
        assert [batch.count for batch in bench.stored()] == [1, 12, 6]


@pytest.mark.parametrize("how", ["cancelled as it waits", "refused half way"])
async def test_an_append_that_is_never_written_gives_its_room_back(
    how: str, sqlite_store: SqliteStore, autojump_clock: trio.testing.MockClock
) -> None:
    limits = replace(LIMITS, appends_waiting_max=1, commit_bytes_max=200_000)
    async with running(Bench(sqlite_store, limits=limits)) as bench:
        await bench.append(b"first")
        if how == "refused half way":
            fill_disk(sqlite_store)
            with pytest.raises(StoreFull):
                await bench.append(*[bytes(100_000)] * 5)
            await trio.sleep(2 * limits.store_retry_s)
        else:
            bench.writer.hold_appends(1.0)
            with trio.move_on_after(0.5) as scope:
                await bench.append(b"withdrawn", b"both")
            assert scope.cancelled_caught
        with trio.fail_after(10):
            assert await bench.append(b"next") == [2]


async def test_stopping_wakes_everybody_who_waits() -> None:
    ended: list[str] = []
    bench = Bench(limits=replace(LIMITS, appends_waiting_max=1))
    async with trio.open_nursery() as outer:

        async def expect_closed(name: str, fn: Callable[[], object]) -> None:
            with pytest.raises(NodeClosed):
                await fn()  # type: ignore[misc]
            ended.append(name)

        async with running(bench):
            bench.writer.hold_appends(1000)
            outer.start_soon(expect_closed, "append", lambda: bench.append(b"held"))
            await settle()
            outer.start_soon(expect_closed, "outside", lambda: bench.append(b"no room"))
            bench.blocking.shut()
            outer.start_soon(expect_closed, "forgetting", lambda: bench.writer.forget(PEER))
            outer.start_soon(expect_closed, "setting", lambda: bench.writer.set_cursors("f", {OWN: 1}))
            await settle()
            outer.start_soon(expect_closed, "behind", lambda: bench.writer.forget(PEER))
            await settle()
        await settle()
        assert sorted(ended) == ["append", "behind", "forgetting", "outside", "setting"]
        calls: list[tuple[str, Callable[[], object]]] = [
            ("later", lambda: bench.append(b"x")),
            ("cursors", lambda: bench.writer.set_cursors("f", {OWN: 1})),
            ("forget", lambda: bench.writer.forget(PEER)),
            ("read", lambda: bench.writer.cursors("f")),
            ("proof", lambda: bench.writer.proof_of(PEER)),
        ]
        for name, fn in calls:
            await expect_closed(name, fn)


class SlowStore(MemoryStore):
    """A store whose commits wait for a sign, as those on a slow disk do."""

    def __init__(self, own: PeerId) -> None:
        super().__init__(own)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def write(self, *, is_bulk: bool = False) -> AbstractContextManager[Transaction]:
        self.begun.set()
        self.go_on.wait(30)
        return super().write()


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_commit_under_way_is_finished_when_the_node_stops_unless_the_disk_hangs(hangs: bool) -> None:
    store = SlowStore(OWN)
    bench = Bench(store)
    bench.writer._blocking = SystemBlocking(give_up_s=0.05 if hangs else 30)
    seqs: list[int] = []

    async def append() -> None:
        if hangs:
            with pytest.raises(NodeClosed):
                await bench.append(b"unknown")
        else:
            seqs.extend(await bench.append(b"under way"))

    async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
        await nursery.start(bench.writer.run)
        outer.start_soon(append)
        await trio.to_thread.run_sync(store.begun.wait, 30)
        nursery.cancel_scope.cancel()
        if not hangs:
            store.go_on.set()
    store.go_on.set()
    assert seqs == ([] if hangs else [1])
    if not hangs:
        assert store.states()[OWN].seq == 1


class StoreWithChores(MemoryStore):
    """A store that always wants something done, which takes until `go_on`."""

    def __init__(self, own: PeerId) -> None:
        super().__init__(own)
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.done = 0

    def chore(self) -> Callable[[], None]:
        return self._work

    def _work(self) -> None:
        self.begun.set()
        self.go_on.wait(30)
        self.done += 1


async def test_chores_of_the_store_are_done_beside_the_commits_one_at_a_time() -> None:
    store = StoreWithChores(OWN)
    bench = Bench(store)
    bench.writer._blocking = SystemBlocking()
    async with running(bench):
        for number in range(1, 6):
            assert await bench.append(b"x") == [number]
        await trio.to_thread.run_sync(store.begun.wait, 30)
        assert store.done == 0
        store.go_on.set()
        while store.done < 3:
            await bench.append(b"x")


async def test_while_a_chore_is_under_way_no_other_waits_behind_it() -> None:
    store = StoreWithChores(OWN)
    store.go_on.set()
    bench = Bench(store)
    begun = 0
    disk = trio.Event()

    async def run(lane: Any, fn: Any, *args: Any) -> Any:
        nonlocal begun
        if lane == "chore":
            begun += 1
            await disk.wait()
        return await InlineBlocking().run(lane, fn, *args)

    bench.writer._blocking = SimpleNamespace(run=run)  # type: ignore[assignment]
    async with running(bench):
        for _ in range(5):
            await bench.append(b"x")
        assert begun == 1
        disk.set()
        await settle()
        await bench.append(b"x")
        await settle()
        assert (begun, store.done) == (2, 2)


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_chore_under_way_is_waited_for_when_the_node_stops_unless_the_disk_hangs(hangs: bool) -> None:
    store = StoreWithChores(OWN)
    bench = Bench(store)
    bench.writer._blocking = SystemBlocking(give_up_s=0.05 if hangs else 30)
    closed = trio.Event()
    bench.writer.subscribe(lambda _: None, closed.set)
    async with trio.open_nursery() as outer, trio.open_nursery() as nursery:

        async def go_on() -> None:
            # Nobody who waits for the writer waits for the chore as well.
            await closed.wait()
            if not hangs:
                store.go_on.set()

        outer.start_soon(go_on)
        await nursery.start(bench.writer.run)
        await bench.append(b"x")
        await trio.to_thread.run_sync(store.begun.wait, 30)
        nursery.cancel_scope.cancel()
    assert store.done == (0 if hangs else 1)
    store.go_on.set()


# Time.


async def test_t64_timestamps_go_on_above_the_last_ones_after_a_restart_ten_years_earlier() -> None:
    store, clock = MemoryStore(OWN), WallClock()
    async with running(Bench(store, clock=clock)) as bench:
        await bench.append(b"a", b"b")
    clock.ms -= 10 * 365 * 86_400_000
    async with running(Bench(store, clock=clock)) as bench:
        await bench.append(b"c")
        hlcs = [record.hlc for record in bench.records()]
        assert hlcs == sorted(set(hlcs))


async def test_t64_a_peers_future_does_not_become_ours() -> None:
    async with running(Bench()) as bench:
        log = Log(2)
        log.seal(app(b"a bit ahead"), base_hlc=(bench.clock.ms + 30_000) << 16)
        log.seal(app(b"far ahead"), base_hlc=(bench.clock.ms + 10**10) << 16)
        assert [outcome.verdict for outcome in await bench.push(*log.batches)] == [Verdict.APPLIED] * 2
        await bench.append(b"mine")
        assert bench.records()[0].hlc == ((bench.clock.ms + 30_000) << 16) + 1


# Pushes.


async def test_pushes_are_answered_in_order_when_they_are_durable() -> None:
    async with running(Bench()) as bench:
        log = foreign()
        seen: list[tuple[int, int]] = []

        def done(outcome: PushOutcome) -> None:
            seen.append((outcome.ack, bench.store.states()[log.origin].seq))

        for batch in log.batches:
            bench.writer.submit_push(WalPush(batch.seq_begin, batch.seq_end, batch.wal_bytes), PEER, done)
        assert seen == []
        await settle()
        assert [ack for ack, _ in seen] == [2, 4, 6, 8]
        assert all(durable == 8 for _, durable in seen)
        assert bench.writer.heads[log.origin] == LogHead(8, log.batches[-1].hash)
        assert bench.moves == [frozenset({log.origin})]
        assert bench.events_of(events.HeadsMoved) == [events.HeadsMoved(frozenset({log.origin}))]


async def test_t34_t35_gaps_and_duplicates_are_answered_and_change_nothing() -> None:
    async with running(Bench()) as bench:
        log = foreign()
        outcomes = await bench.push(log.batches[1], log.batches[0], log.batches[0], log.batches[3])
        assert [(outcome.verdict, outcome.ack) for outcome in outcomes] == [
            (Verdict.GAP, 0),
            (Verdict.APPLIED, 2),
            (Verdict.DUPLICATE, 2),
            (Verdict.GAP, 2),
        ]
        assert bench.seq(log) == 2


async def test_t37_forged_and_foreign_batches_are_told_apart() -> None:
    log, stranger = foreign(), foreign(number=3)
    async with running(Bench(admit=lambda origin, via: origin != stranger.origin and via == PEER)) as bench:
        forged = msgspec.structs.replace(log.batches[0], wal_bytes=log.batches[0].wal_bytes[:-64] + bytes(64))
        outcomes = await bench.push(forged, stranger.batches[0])
        assert [outcome.verdict for outcome in outcomes] == [Verdict.MALFORMED, Verdict.LEFT_ALONE]
        assert [outcome.origin for outcome in outcomes] == [log.origin, stranger.origin]
        assert dict(bench.writer.heads) == {}
        bench.writer.submit_push(WalPush(1, 1, b"short"), PEER, bench.outcomes.append)
        await settle()
        assert bench.outcomes[-1] == PushOutcome(Verdict.MALFORMED, None, 0, "5 bytes are no batch")


async def test_pushes_and_appends_share_a_commit() -> None:
    async with running(Bench()) as bench:
        log = foreign()
        before = bench.blocking.commits
        for batch in log.batches:
            bench.submit(batch)
        await bench.append(b"mine")
        assert bench.blocking.commits - before == 1
        assert bench.moves == [frozenset({OWN, log.origin})]


async def test_t41_a_quota_is_kept_and_told_once() -> None:
    log, listed = foreign(), foreign(number=3)
    size = len(log.batches[0].wal_bytes)
    limits = replace(LIMITS, origin_bytes_max=2 * size)
    async with running(Bench(limits=limits, is_unlimited=lambda origin: origin == listed.origin)) as bench:
        outcomes = await bench.push(*log.batches[:3], log.batches[2], *listed.batches)
        verdicts = [outcome.verdict for outcome in outcomes]
        assert verdicts == [Verdict.APPLIED] * 2 + [Verdict.LEFT_ALONE] * 2 + [Verdict.APPLIED] * 4
        assert outcomes[2].ack == 4
        await bench.push(log.batches[2])
        assert bench.events_of(events.QuotaReached) == [events.QuotaReached(log.origin)]
        await bench.append(*[bytes(size)] * 10)
        await bench.writer.forget(log.origin)
        await bench.push(*log.batches[:3])
        assert len(bench.events_of(events.QuotaReached)) == 2, "what begins anew is told of anew"


async def test_t41_what_takes_the_place_of_damage_needs_no_room_of_a_quota(sqlite_store: SqliteStore) -> None:
    log = foreign()
    limits = replace(LIMITS, origin_bytes_max=sum(len(batch.wal_bytes) for batch in log.batches[:3]))
    async with running(Bench(sqlite_store, limits=limits)) as bench:
        await bench.push(*log.batches[:3])
        damage_blob(sqlite_store, log.batches[1])
        await bench.writer.load(log.origin, 1, 2**40)
        await settle()
        assert bench.writer.heads[log.origin].seq == 2
        outcomes = await bench.push(*log.batches[1:])
        expected = [Verdict.APPLIED, Verdict.DUPLICATE, Verdict.LEFT_ALONE]
        assert [outcome.verdict for outcome in outcomes] == expected
        assert bench.writer.heads[log.origin].seq == 6


# Forks.


async def test_t36_a_fork_is_frozen_and_the_proof_kept() -> None:
    async with running(Bench()) as bench:
        log = foreign()
        other = log.branch(2, 2)
        other.add(b"another")
        await bench.push(*log.batches)
        (outcome,) = await bench.push(other.batches[2])
        assert (outcome.verdict, outcome.ack) == (Verdict.FORK, 4)
        assert bench.writer.heads[log.origin] == LogHead(4, log.batches[1].hash, frozen=True)
        assert bench.events_of(events.ForkFound) == [events.ForkFound(log.origin, 5)]
        proof = await bench.writer.proof_of(log.origin)
        assert proof is not None
        assert {proof.first, proof.second} == {log.batches[2].wal_bytes, other.batches[2].wal_bytes}
        assert [batch.seq_end for batch in await bench.writer.load(log.origin, 1, 2**40)] == [2, 4]
        assert await bench.writer.load(log.origin, 5, 2**40) == []
        again = await bench.push(log.batches[2], log.batches[1])
        assert [outcome.verdict for outcome in again] == [Verdict.LEFT_ALONE, Verdict.DUPLICATE]
        assert await bench.append(b"others go on") == [1]


async def submit_proof(bench: Bench, proof: ForkProof) -> Verdict:
    verdicts: list[Verdict] = []
    bench.writer.submit_proof(proof, PEER, verdicts.append)
    assert verdicts == []
    await settle()
    (verdict,) = verdicts
    return verdict


async def test_t36_a_proof_from_a_peer_freezes_alike() -> None:
    log = foreign()
    other = log.branch(2, 2)
    other.add(b"another")
    proof = ForkProof(log.batches[2].wal_bytes, other.batches[2].wal_bytes)
    async with running(Bench()) as bench:
        await bench.push(*log.batches)
        assert await submit_proof(bench, ForkProof(proof.first, proof.first)) is Verdict.MALFORMED
        assert await submit_proof(bench, ForkProof(b"", b"")) is Verdict.LEFT_ALONE
        assert await submit_proof(bench, proof) is Verdict.APPLIED
        assert bench.writer.heads[log.origin].frozen
        assert bench.seq(log) == 4
        assert await submit_proof(bench, proof) is Verdict.DUPLICATE
        assert bench.events_of(events.ForkFound) == [events.ForkFound(log.origin, 5)]
    async with running(Bench(admit=lambda *_: False)) as bench:
        assert await submit_proof(bench, proof) is Verdict.LEFT_ALONE
        assert await bench.writer.proof_of(log.origin) is None


async def test_t36_an_owner_that_sees_proof_against_itself_refuses_appends() -> None:
    bench = Bench()
    async with running(bench):
        await bench.append(b"mine")
        other = Log(1)
        other.add(b"another history")
        bench.blocking.shut()
        async with trio.open_nursery() as nursery:

            async def append_in_the_same_commit() -> None:
                with pytest.raises(OwnLogForked, match="id --new"):
                    await bench.append(b"sealed after the verdict")

            nursery.start_soon(append_in_the_same_commit)
            bench.submit(other.batches[0])
            await settle()
            bench.blocking.open.set()
        with pytest.raises(OwnLogForked):
            await bench.append(b"later")
        assert bench.outcomes[-1].verdict is Verdict.FORK
        assert bench.writer.heads[OWN].frozen
    async with running(Bench(bench.store)) as again:
        with pytest.raises(OwnLogForked):
            await again.append(b"after a restart")


# Our own log at others.


def lost_log() -> tuple[MemoryStore, Log]:
    """A store brought back from a backup, and what was signed since."""
    log = Log(1)
    for number in range(4):
        log.add(b"%d" % number)
    store = MemoryStore(OWN)
    with store.write() as transaction:
        transaction.append(log.batches[0])
    return store, log


async def test_t42_a_batch_of_ours_that_we_lost_stops_appends_until_all_that_its_bringer_shows_is_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, log = lost_log()
    async with running(Bench(store)) as bench:
        bench.writer.hold_appends(3.0)
        await bench.push(log.batches[1], own_shown=4)
        assert bench.events_of(events.OwnLogAhead) == [events.OwnLogAhead(4)]
        seqs: list[int] = []

        async def append() -> None:
            seqs.extend(await bench.append(b"waits"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(append)
            # The link broke: whoever held appends for a claim does so no longer.
            bench.writer.release_appends()
            await trio.sleep(100)
            await bench.push(log.batches[2], own_shown=3)
            await trio.sleep(100)
            assert seqs == []
            await bench.push(log.batches[3], own_shown=3)
            assert bench.writer.heads[OWN].seq == 4
            back_at = trio.current_time()
        assert seqs == [5]
        # Others may have been brought further: a moment of quiet is waited for.
        assert trio.current_time() == back_at + LIMITS.append_delay_on_claim_s_max
        assert list(store.verify()) == []


async def test_t42_a_call_that_is_cancelled_as_its_commit_finds_that_we_are_behind_is_withdrawn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, log = lost_log()
    async with running(Bench(store)) as bench:
        bench.writer.hold_appends(1000)
        bench.blocking.shut()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.append, b"withdrawn")
            await settle()
            bench.submit(log.batches[1], own_shown=4)
            bench.writer.release_appends()
            await settle()
            nursery.cancel_scope.cancel()
        bench.blocking.open.set()
        await bench.push(*log.batches[2:])
        assert await bench.append(b"after") == [5]
        assert [record.payload for record in bench.records()][4:] == [b"after"]


async def test_t42_calls_whose_commit_finds_that_we_are_behind_keep_their_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, log = lost_log()
    async with running(Bench(store)) as bench:
        bench.writer.hold_appends(1000)
        bench.blocking.shut()
        async with trio.open_nursery() as nursery:
            for payload in (b"first", b"second", b"third"):
                nursery.start_soon(bench.append, payload)
                await settle()
            bench.submit(log.batches[1], own_shown=4)
            bench.writer.release_appends()
            await settle()
            bench.blocking.open.set()
            await bench.push(*log.batches[2:])
        assert [record.payload for record in bench.records()][4:] == [b"first", b"second", b"third"]


async def test_t42_t64_timestamps_go_on_above_those_of_our_log_that_came_back_from_the_far_future(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(Bench()) as bench:
        log = Log()
        log.seal(app(b"the clock was wrong"), base_hlc=(bench.clock.ms + 10**10) << 16)
        await bench.push(*log.batches)
        assert await bench.append(b"and is right again") == [2]
        before, after = bench.records()
        assert after.hlc == before.hlc + 1


async def test_t42_a_restart_in_the_middle_of_fetching_our_log_back_does_not_release_appends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, log = lost_log()
    async with running(Bench(store)) as bench:
        await bench.push(log.batches[1], own_shown=4)
    async with running(Bench(store)) as bench:
        assert bench.events_of(events.OwnLogAhead) == [events.OwnLogAhead(4)]
        with trio.move_on_after(1000):
            await bench.append(b"too early")
            raise AssertionError("it was signed at a seq that was signed before")
        await bench.push(log.batches[2], log.batches[3])
        assert await bench.append(b"x") == [5]


async def test_a_call_that_fits_one_batch_is_in_one_commit(autojump_clock: trio.testing.MockClock) -> None:
    async with running(Bench()) as bench:
        writer = bench.writer
        commit = writer._committer.commit
        taken: list[int] = []

        def counting(group: Group, wall_ms: int) -> Committed:
            taken.append(sum(portion.count for portion in group.portions))
            return commit(group, wall_ms)

        writer._committer.commit = counting  # type: ignore[method-assign]
        writer.hold_appends(1)
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(bench.append, *[bytes(10_238)] * 20)
        assert sum(taken) == 600
        assert len(taken) == 2
        assert taken[0] % 20 == 0
        # A call of many batches is divided all the same.
        taken.clear()
        await bench.append(*[bytes(10_238)] * 600)
        assert len(taken) == 2


async def test_t38_a_claim_on_our_own_log_never_stops_appends_for_good(autojump_clock: trio.testing.MockClock) -> None:
    store, log = lost_log()
    async with running(Bench(store)) as bench:
        await bench.push(log.batches[1], own_shown=LIMITS.own_claim_records_max)
    async with running(Bench(store)) as bench:
        # Who claimed it never comes back.
        began = trio.current_time()
        assert await bench.append(b"x") == [3]
        assert trio.current_time() == began + LIMITS.own_claim_s_max
        assert bench.events_of(events.OwnLogClaimDropped) == [
            events.OwnLogClaimDropped(2, LIMITS.own_claim_records_max)
        ]
        assert bench.events_of(events.LogRepaired) == []
    async with running(Bench(store)) as bench:
        began = trio.current_time()
        assert await bench.append(b"y") == [4]
        assert trio.current_time() == began


async def test_t38_who_stays_and_does_not_deliver_is_believed_no_longer(autojump_clock: trio.testing.MockClock) -> None:
    store, log = lost_log()
    async with running(Bench(store)) as bench:
        await bench.push(log.batches[1], own_shown=9)
        bench.writer.doubt_claim(8)
        with trio.move_on_after(LIMITS.own_claim_stall_s + 10):
            await bench.append(b"somebody else is doubted")
            raise AssertionError("it was signed at a seq that was signed before")
        bench.writer.doubt_claim(9)
        await trio.sleep(LIMITS.own_claim_stall_s - 1)
        # A slow one: it delivers, and is believed on.
        await bench.push(log.batches[2], own_shown=9)
        bench.writer.doubt_claim(9)
        await trio.sleep(LIMITS.own_claim_stall_s - 1)
        # Its link ended.
        bench.writer.trust_claim()
        with trio.move_on_after(LIMITS.own_claim_stall_s + 10):
            await bench.append(b"too early")
            raise AssertionError("it was signed at a seq that was signed before")
        bench.writer.doubt_claim(9)
        began = trio.current_time()
        assert await bench.append(b"x") == [4]
        assert trio.current_time() == began + LIMITS.own_claim_stall_s


async def test_t38_a_claim_that_no_log_can_reach_is_not_written_down(autojump_clock: trio.testing.MockClock) -> None:
    store, log = lost_log()
    async with running(Bench(store)) as bench:
        await bench.push(log.batches[1], own_shown=SEQ_MAX)
        assert store.current()[OWN].claimed_seq == 0
        assert bench.events_of(events.OwnLogAhead) == [events.OwnLogAhead(2)]
        assert await bench.append(b"x") == [3]


async def test_t42_with_nobody_to_ask_for_what_is_lost_appends_are_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, log = lost_log()
    async with running(Bench(store)) as bench:
        await bench.push(log.batches[1], own_shown=4)
        bench.writer._can_ask = lambda: False
        with pytest.raises(StoreCorrupt, match="p2p --id NAME --connect ADDRESS"):
            await bench.append(b"x")


async def test_t42_an_owner_that_sees_proof_while_its_log_is_fetched_back_is_told_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, log = lost_log()
    async with running(Bench(store)) as bench:
        await bench.push(log.batches[1], own_shown=4)
        async with trio.open_nursery() as nursery:

            async def append() -> None:
                with pytest.raises(OwnLogForked):
                    await bench.append(b"waits")

            nursery.start_soon(append)
            await settle()
            other = log.branch(1)
            other.add(b"another history")
            await bench.push(other.batches[1])
            assert bench.writer.heads[OWN].frozen


async def test_t42_judging_and_sealing_share_one_critical_section(autojump_clock: trio.testing.MockClock) -> None:
    store, log = lost_log()
    async with running(Bench(store)) as bench:
        bench.blocking.shut()
        seqs: list[int] = []

        async def append() -> None:
            seqs.extend(await bench.append(b"queued before it came"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(append)
            bench.submit(log.batches[1])
            await settle()
            bench.submit(log.batches[2])
            bench.blocking.open.set()
            await settle()
            assert seqs == []
            assert bench.writer.heads[OWN].seq == 3
        assert seqs == [4]
        assert bench.writer.heads[OWN].frozen is False


async def test_t42_calls_whose_commit_finds_that_we_are_behind_are_written_whole_and_in_order_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, log = lost_log()
    # The second call is larger than what is left of a commit.
    calls = [[b"one"], [bytes(100_000)] * 5, [b"three"]]
    async with running(Bench(store, limits=replace(LIMITS, commit_bytes_max=300_000))) as bench:
        bench.writer.hold_appends(1000)
        bench.blocking.shut()
        seqs: list[list[int]] = []

        async def append(payloads: list[bytes]) -> None:
            seqs.append(await bench.append(*payloads))

        async with trio.open_nursery() as nursery:
            for payloads in calls[:2]:
                nursery.start_soon(append, payloads)
                await settle()
            bench.submit(log.batches[1], own_shown=4)
            bench.writer.release_appends()
            await settle()
            bench.blocking.open.set()
            await settle()
            assert (seqs, bench.writer._records_waiting) == ([], 6)
            nursery.start_soon(append, calls[2])
            await settle()
            await bench.push(*log.batches[2:])
        assert sorted(seqs) == [[5], [6, 7, 8, 9, 10], [11]]
        assert [record.payload for record in bench.records()][4:] == [body for call in calls for body in call]
        assert bench.writer._records_waiting == 0


async def test_t39_t42_a_hold_for_a_claim_ends_by_itself(autojump_clock: trio.testing.MockClock) -> None:
    async with running(Bench()) as bench:
        bench.writer.hold_appends(3.0)
        start = trio.current_time()
        assert await bench.append(b"x") == [1]
        assert trio.current_time() - start == 3.0


async def test_while_appends_are_held_everything_else_is_written() -> None:
    async with running(Bench()) as bench:
        bench.writer.hold_appends(1000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.append, b"held")
            log = foreign()
            await bench.push(*log.batches)
            assert bench.seq(log) == 8
            await bench.writer.set_cursors("f", {log.origin: 3})
            assert OWN not in bench.writer.heads
            bench.writer.release_appends()


# Damage.


async def test_t62_a_damaged_batch_is_quarantined_told_and_taken_again(sqlite_store: SqliteStore) -> None:
    async with running(Bench(sqlite_store, limits=LIMITS)) as bench:
        log = foreign()
        await bench.push(*log.batches)
        assert sqlite_store._writer is not None
        sqlite_store._writer.execute("UPDATE batches SET wal = zeroblob(300) WHERE no = 3")
        assert [batch.seq_end for batch in await bench.writer.load(log.origin, 1, 2**40)] == [2, 4]
        await settle()
        assert bench.writer.heads[log.origin] == LogHead(4, log.batches[1].hash)
        assert bench.events_of(events.BatchDamaged) == [events.BatchDamaged(log.origin, 5)]
        assert await bench.writer.load(log.origin, 5, 2**40) == []
        (outcome,) = await bench.push(log.batches[2])
        assert outcome.verdict is Verdict.APPLIED
        assert bench.writer.heads[log.origin] == LogHead(8, log.batches[3].hash)
        assert list(sqlite_store.verify()) == []
        assert bench.moves[-2:] == [frozenset({log.origin})] * 2


async def test_t62_a_read_that_the_repair_overtook_hurts_nothing(sqlite_store: SqliteStore) -> None:
    async with running(Bench(sqlite_store)) as bench:
        log = foreign()
        await bench.push(*log.batches)
        damage_blob(sqlite_store, log.batches[2])
        is_repaired = trio.Event()
        loads = 0

        async def late(fn: Callable[..., object], *args: object) -> object:
            nonlocal loads
            loads += 1
            is_first = loads == 1
            found = await bench.blocking.run("read", fn, *args)
            if is_first:
                await is_repaired.wait()
            return found

        bench.writer._read = late  # type: ignore[method-assign, assignment]
        found: list[StoredBatch] = []

        async def load() -> None:
            found.extend(await bench.writer.load(log.origin, 1, 2**40))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            await settle()
            await bench.writer.load(log.origin, 1, 2**40)
            await settle()
            await bench.push(log.batches[2])
            assert bench.seq(log) == 8
            is_repaired.set()
        assert [batch.wal_bytes for batch in found] == [batch.wal_bytes for batch in log.batches]
        await settle()
        assert bench.seq(log) == 8
        assert bench.events_of(events.BatchDamaged) == [events.BatchDamaged(log.origin, 5)]


async def test_t62_what_a_disk_that_was_away_did_not_read_is_not_damaged(sqlite_store: SqliteStore) -> None:
    log = foreign()
    async with running(Bench(sqlite_store)) as bench:
        await bench.push(*log.batches)
        damage_blob(sqlite_store, log.batches[2])
        bench.blocking.shut()
        assert len(await bench.writer.load(log.origin, 1, 2**40)) == 2
        assert sqlite_store._writer is not None
        sqlite_store._writer.execute("UPDATE batches SET wal = ? WHERE no = 3", (log.batches[2].wal_bytes,))
        bench.blocking.open.set()
        await settle()
        assert (bench.seq(log), bench.events_of(events.BatchDamaged)) == (8, [])
        assert bench.moves[-1] == frozenset({log.origin}), "who waits for what could not be read reads it again"
        assert len(await bench.writer.load(log.origin, 1, 2**40)) == 4


async def test_t62_timestamps_go_on_above_our_last_batch_when_it_is_read_at_last() -> None:
    class Away(MemoryStore):
        is_away = False

        def load(self, origin: PeerId, from_seq: int, to_seq: int, bytes_max: int) -> Loaded:
            if self.is_away:
                self.is_away = False
                return Loaded([], DamagedRange(origin, from_seq, to_seq))
            return super().load(origin, from_seq, to_seq, bytes_max)

    store, clock = Away(OWN), WallClock()
    async with running(Bench(store, clock=clock)) as bench:
        await bench.append(b"before")
    store.is_away = True
    clock.ms -= 10_000
    async with running(Bench(store, clock=clock)) as bench:
        assert await bench.append(b"after") == [2]
        first, second = bench.records()
        assert second.hlc > first.hlc


async def test_t62_our_own_last_batch_is_looked_at_before_anything_follows_it(sqlite_store: SqliteStore) -> None:
    log = Log(1)
    for number in range(3):
        log.add(b"%d" % number)
    with sqlite_store.write() as transaction:
        for batch in log.batches:
            transaction.append(batch)
    damage_blob(sqlite_store, log.batches[2])
    async with running(Bench(sqlite_store, limits=LIMITS)) as bench:
        with pytest.raises(StoreCorrupt, match="fetched back"):
            await bench.append(b"would stand on what is damaged")
        assert bench.events_of(events.BatchDamaged) == [events.BatchDamaged(OWN, 3)]
        await bench.push(log.batches[2])
        bench.writer.release_appends()
        assert bench.writer.heads[OWN].seq == 3
        assert list(sqlite_store.verify()) == []


def damage_blob(store: SqliteStore, batch: Batch) -> None:
    rotten = bytearray(batch.wal_bytes)
    rotten[-70] ^= 1
    assert store._writer is not None
    store._writer.execute("UPDATE batches SET wal = ? WHERE wal = ?", (bytes(rotten), batch.wal_bytes))


async def test_t62_nothing_is_signed_before_our_own_damaged_log_is_whole(sqlite_store: SqliteStore) -> None:
    async with running(Bench(sqlite_store, limits=LIMITS)) as bench:
        for payload in (b"a", b"b", b"c"):
            await bench.append(payload)
        batches = bench.stored()
        assert sqlite_store._writer is not None
        sqlite_store._writer.execute("UPDATE batches SET wal = zeroblob(300) WHERE no = 3")
        assert len(await bench.writer.load(OWN, 1, 2**40)) == 2
        await settle()
        assert bench.writer.heads[OWN].seq == 2
        with pytest.raises(StoreCorrupt, match="damaged after seq 2"):
            await bench.append(b"would fork the log")
    async with running(Bench(sqlite_store, limits=LIMITS)) as bench:
        with pytest.raises(StoreCorrupt):
            await bench.append(b"nor after a restart")
        await bench.push(batches[2])
        bench.writer.release_appends()
        assert await bench.append(b"whole again") == [4]


async def test_our_timestamps_rise_above_those_that_lay_beyond_a_gap(sqlite_store: SqliteStore) -> None:
    async with running(Bench(sqlite_store, limits=LIMITS)) as bench:
        for payload in (b"a", b"b", b"c"):
            bench.clock.ms += 1000
            await bench.append(payload)
        batches = bench.stored()
        damage_blob(sqlite_store, batches[1])
        await bench.writer.load(OWN, 1, 2**40)
        await settle()
    yesterday = WallClock()
    yesterday.ms -= 86_400_000
    async with running(Bench(sqlite_store, limits=LIMITS, clock=yesterday)) as bench:
        await bench.push(batches[1])
        assert bench.writer.heads[OWN].seq == 3
        bench.writer.release_appends()
        assert await bench.append(b"d") == [4]
        times = [record.hlc for record in bench.records()]
        assert times == sorted(times)


# A disk that fails.


def fill_disk(store: SqliteStore) -> None:
    """SQLite's own bound on the file: what it raises is what a full disk makes it raise."""
    assert store._writer is not None
    store._writer.execute("PRAGMA max_page_count = 1")


async def test_t61_a_full_disk_makes_it_read_only_until_there_is_room(
    sqlite_store: SqliteStore, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(Bench(sqlite_store, limits=LIMITS)) as bench:
        log = foreign()
        await bench.push(log.batches[0])
        await bench.append(b"durable")
        fill_disk(sqlite_store)
        with pytest.raises(StoreFull):
            await bench.append(bytes(200_000))
        assert bench.writer.read_only
        assert len(bench.events_of(events.StoreReadOnly)) == 1
        with pytest.raises(StoreReadOnly, match="full"):
            await bench.append(b"x")
        with pytest.raises(StoreReadOnly):
            await bench.writer.set_cursors("f", {OWN: 1})
        outcomes = await bench.push(log.batches[1])
        assert [(outcome.verdict, outcome.ack) for outcome in outcomes] == [(Verdict.NOT_STORED, 2)]
        proof = ForkProof(log.batches[2].wal_bytes, log.branch(2, 2).add(b"y").wal_bytes)
        assert await submit_proof(bench, proof) is Verdict.NOT_STORED
        # Reading and serving go on.
        assert len(await bench.writer.load(log.origin, 1, 2**40)) == 1
        bench.moves.clear()
        await trio.sleep(LIMITS.store_retry_s)
        await settle()
        assert not bench.writer.read_only
        assert len(bench.events_of(events.StoreWritable)) == 1
        # Carriers of what was refused hear of it, so that they begin again.
        assert bench.moves == [frozenset({log.origin})]
        assert await bench.append(b"room again") == [2]
        assert [record.payload for record in bench.records()] == [b"durable", b"room again"]
        assert list(sqlite_store.verify()) == []


@pytest.mark.parametrize("what", ["a pin", "a place", "a ban"])
async def test_what_is_to_be_remembered_is_written_though_nobody_writes_anything_else(what: str) -> None:
    async with running(Bench()) as bench:
        writer, store = bench.writer, bench.store
        await settle()
        place = BookPlace(PeerEndpoint("192.0.2.1", 9001), PEER, "peer", "discovery", 5, 0)
        if what == "a pin":
            writer.remember_pin("peer", PEER)
        elif what == "a place":
            writer.remember_place(place.endpoint.address, place)
        else:
            writer.remember_ban(PEER, 1000)
        await settle()
        assert [bool(store.pins()), bool(store.book()), bool(store.bans())].count(True) == 1


async def test_t61_everything_in_a_failed_commit_is_answered(
    sqlite_store: SqliteStore, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(Bench(sqlite_store, limits=LIMITS)) as bench:
        log = Log(2)
        log.add(bytes(100_000))
        bench.blocking.shut()
        failed: list[str] = []

        async def expect(name: str, fn: Callable[[], object]) -> None:
            with pytest.raises(StoreError):
                await fn()  # type: ignore[misc]
            failed.append(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.append, b"under way")
            await settle()
            fill_disk(sqlite_store)
            bench.submit(log.batches[0])
            nursery.start_soon(expect, "one", lambda: bench.append(b"1"))
            nursery.start_soon(expect, "two", lambda: bench.append(bytes(100_000)))
            nursery.start_soon(expect, "cursor", lambda: bench.writer.set_cursors("f", {OWN: 1}))
            nursery.start_soon(expect, "forget", lambda: bench.writer.forget(log.origin))
            await settle()
            bench.blocking.open.set()
        assert sorted(failed) == ["cursor", "forget", "one", "two"]
        assert [outcome.verdict for outcome in bench.outcomes] == [Verdict.NOT_STORED]
        assert list(bench.writer.heads) == [OWN]


async def test_t41_while_the_store_fails_what_peers_are_called_takes_no_more_memory_than_its_table(
    sqlite_store: SqliteStore, autojump_clock: trio.testing.MockClock
) -> None:
    limits = replace(LIMITS, weak_pins_max=2)
    async with running(Bench(sqlite_store, limits=limits)) as bench:
        fill_disk(sqlite_store)
        with pytest.raises(StoreError):
            await bench.append(bytes(100_000))
        for label in ("one", "two", "three"):
            bench.writer.remember_pin(label, PEER)
        assert list(bench.writer._pins) == ["two", "three"]


async def test_t61_pins_and_damage_marks_are_written_later(
    sqlite_store: SqliteStore, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(Bench(sqlite_store, limits=LIMITS)) as bench:
        log = foreign()
        await bench.push(*log.batches)
        assert sqlite_store._writer is not None
        sqlite_store._writer.execute("UPDATE batches SET wal = zeroblob(300) WHERE no = 3")
        fill_disk(sqlite_store)
        with pytest.raises(StoreFull):
            await bench.append(bytes(200_000))
        bench.writer.remember_pin("peer", PEER)
        await bench.writer.load(log.origin, 1, 2**40)
        assert sqlite_store.pins() == {}
        await trio.sleep(LIMITS.store_retry_s + 0.1)
        await settle()
        assert sqlite_store.pins() == {"peer": PEER}
        assert bench.seq(log) == 4


async def test_t33_t61_what_is_noted_of_peers_outlives_a_commit_that_failed_and_the_newer_word_counts(
    sqlite_store: SqliteStore, autojump_clock: trio.testing.MockClock
) -> None:
    def place(port: int) -> BookPlace:
        return BookPlace(PeerEndpoint("10.0.0.1", port), PEER, "peer", "connect", port)

    one, other, gone = place(1), place(2), place(3)
    async with running(Bench(sqlite_store, limits=LIMITS)) as bench:
        writer = bench.writer
        fill_disk(sqlite_store)
        bench.blocking.shut()

        async def fail() -> None:
            with pytest.raises(StoreFull):
                await bench.append(bytes(200_000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            for known in (one, gone):
                writer.remember_place(known.endpoint.address, known)
            writer.remember_pin("peer", PEER)
            writer.remember_pin("moved", PEER)
            writer.remember_ban(PEER, 1000)
            writer.remember_ban(OWN, 1000)
            await settle()
            writer.remember_place(other.endpoint.address, other)
            writer.remember_place(gone.endpoint.address, None)
            writer.remember_pin("moved", OWN)
            writer.remember_ban(OWN, 2000)
            bench.blocking.open.set()
        assert writer.read_only
        await trio.sleep(2 * LIMITS.store_retry_s)
        assert sqlite_store.book() == [one, other]
        assert sqlite_store.pins() == {"peer": PEER, "moved": OWN}
        assert sqlite_store.bans() == {PEER: 1000, OWN: 2000}


async def test_t61_it_tries_again_for_as_long_as_it_takes(
    sqlite_store: SqliteStore, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(Bench(sqlite_store, limits=LIMITS)) as bench:
        await bench.append(b"durable")
        # A reader in the middle of something keeps the checkpoint from succeeding.
        rows = sqlite_store._reader._connection.execute("SELECT 1 FROM batches UNION ALL SELECT 2")
        rows.fetchone()
        fill_disk(sqlite_store)
        with pytest.raises(StoreFull):
            await bench.append(bytes(200_000))
        await trio.sleep(3 * LIMITS.store_retry_s)
        assert bench.writer.read_only
        rows.close()
        await trio.sleep(2 * LIMITS.store_retry_s)
        assert await bench.append(b"at last") == [2]
        assert len(bench.events_of(events.StoreReadOnly)) == len(bench.events_of(events.StoreWritable)) == 1


async def test_each_waiting_call_gets_an_exception_of_its_own(sqlite_store: SqliteStore) -> None:
    async with running(Bench(sqlite_store, limits=LIMITS)) as bench:
        fill_disk(sqlite_store)
        bench.blocking.shut()
        errors: list[StoreError] = []

        async def append() -> None:
            try:
                await bench.append(bytes(50_000))
            except StoreError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(append)
            await settle()
            bench.blocking.open.set()
        assert len({id(error) for error in errors}) == 3


# The rest.


async def test_nothing_above_a_head_that_went_down_meanwhile_is_given_to_a_reader() -> None:
    async with running(Bench()) as bench:
        log = foreign()
        await bench.push(*log.batches)
        read = bench.writer._read

        async def late(fn: Any, *args: Any) -> Any:
            loaded = await read(fn, *args)
            await bench.writer.forget(log.origin)
            await bench.push(log.batches[0])
            return loaded

        bench.writer._read = late  # type: ignore[method-assign, assignment]
        found = await bench.writer.load(log.origin, 1, 2**40)
        assert [batch.wal_bytes for batch in found] == [log.batches[0].wal_bytes]


async def test_forgetting_an_origin() -> None:
    async with running(Bench()) as bench:
        log = foreign()
        await bench.push(*log.batches)
        await bench.writer.forget(log.origin)
        assert dict(bench.writer.heads) == {} == bench.store.states()
        assert bench.moves[-1] == frozenset({log.origin})
        with pytest.raises(ConfigError):
            await bench.writer.forget(OWN)
        assert [outcome.verdict for outcome in await bench.push(log.batches[0])] == [Verdict.APPLIED]


async def test_pins_and_cursors_are_durable() -> None:
    async with running(Bench()) as bench:
        bench.writer.remember_pin("a", PEER)
        await bench.writer.set_cursors("f", {OWN: 4, PEER: 2})
        assert await bench.writer.cursors("f") == {OWN: 4, PEER: 2}
        await settle()
        assert bench.store.pins() == {"a": PEER}


async def test_heads_are_a_view_that_cannot_be_changed() -> None:
    async with running(Bench()) as bench:
        heads = bench.writer.heads
        await bench.append(b"x")
        assert heads[OWN].seq == 1
        with pytest.raises(TypeError):
            heads[OWN] = LogHead(9, bytes(32))  # type: ignore[index]


async def test_an_unsubscribed_function_is_not_called() -> None:
    async with running(Bench()) as bench:
        moved: list[frozenset[PeerId]] = []
        unsubscribe = bench.writer.subscribe(moved.append)
        await bench.append(b"x")
        unsubscribe()
        unsubscribe()
        await bench.append(b"y")
        assert moved == [frozenset({OWN})]


async def test_with_worker_threads_it_does_the_same(sqlite_store: SqliteStore) -> None:
    bench = Bench(sqlite_store, limits=LIMITS)
    bench.writer._blocking = SystemBlocking()
    async with running(bench):
        log = foreign(20)
        done = trio.Event()
        for batch in log.batches:
            bench.submit(batch)
        bench.writer.submit_push(
            WalPush(1, 2, log.batches[0].wal_bytes),
            PEER,
            lambda outcome: (bench.outcomes.append(outcome), done.set())[0],
        )
        seqs: list[int] = []

        async def append(number: int) -> None:
            seqs.extend(await bench.append(b"%d" % number))

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(append, number)
        await done.wait()
        assert sorted(seqs) == list(range(1, 201))
        assert [outcome.verdict for outcome in bench.outcomes] == [Verdict.APPLIED] * 20 + [Verdict.DUPLICATE]
        assert list(sqlite_store.verify()) == []


def test_the_store_must_be_the_identitys() -> None:
    with pytest.raises(AssertionError):
        Bench(MemoryStore(identity(5).peer_id))


async def test_an_append_that_is_cancelled_while_the_writer_ends_is_cancelled_and_nothing_else() -> None:
    """Both happen before the call runs again: it finds an empty queue."""
    bench = Bench()
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.writer.run)
        bench.blocking.shut()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as calls:
                for payload in (b"under way", b"waiting", b"waiting too"):
                    calls.start_soon(bench.append, payload)
                    await settle()
                scope.cancel()
                bench.writer._close()
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()


async def test_t62_records_that_the_chain_does_not_name_are_fetched_again(sqlite_store: SqliteStore) -> None:
    log = foreign(3)
    async with running(Bench(sqlite_store, limits=LIMITS)) as bench:
        await bench.push(*log.batches)
        assert sqlite_store._writer is not None
        sqlite_store._writer.execute("DELETE FROM chain WHERE seq_end = 6")
        assert await bench.writer.load(log.origin, 5, 1) == []
        await settle()
        assert bench.events_of(events.BatchDamaged) == [events.BatchDamaged(log.origin, 5)]
        assert bench.writer.heads[log.origin].seq == 4
        await bench.push(log.batches[2])
        assert [batch.seq_end for batch in await bench.writer.load(log.origin, 5, 1)] == [6]


async def test_a_big_commit_that_turns_out_to_do_more_is_done_again_and_answered_once(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "log.sqlite", OWN)
    log = Log(2)
    for number in range(3):
        log.add(bytes([number]) * 100_000)
    forked = log.branch(2, 2).add(b"y" * 100_000)
    async with running(Bench(store)) as bench:
        for number in range(1, 4):
            assert await bench.append(bytes(100_000)) == [number]
            assert (store._unsynced_bytes > 0) == (number > 1), "the first one makes the segment"
        verdicts = [outcome.verdict for outcome in await bench.push(*log.batches, forked)]
        assert verdicts == [Verdict.APPLIED] * 3 + [Verdict.FORK]
        assert store._unsynced_bytes == 0
        assert store.current()[log.origin].frozen_from == 3
        assert await bench.append(b"small") == [4]
        assert [len(record.payload) for record in bench.records()] == [100_000] * 3 + [5]
        assert list(store.verify()) == []
    store.close()
