"""Damage that nobody reads is found and repaired, and what happens to logs is told in lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import trio
from msgspec.structs import replace

from p2p.errors import StoreError
from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.node import events
from p2p.node.lines import Lines
from p2p.node.notices import Notices
from p2p.node.scrub import Scrub
from p2p.node.status import Counters
from p2p.store.base import StoredBatch
from p2p.store.memory import MemoryStore
from tests.logs import Log, identity
from tests.unit.node.writers import Bench, running

if TYPE_CHECKING:
    from trio.testing import MockClock

LIMITS = Limits()
OWN, OTHER = identity(1).peer_id, identity(2).peer_id


def lines_to(told: list[str]) -> Lines:
    return Lines("n", told.append, Counters())


def rot(store: MemoryStore, log: Log, number: int) -> None:
    rows = store.chains[log.origin].rows
    batch = log.batches[number]
    rotten = bytearray(batch.wal_bytes)
    rotten[-70] ^= 1
    rows[batch.seq_end] = replace(rows[batch.seq_end], wal_bytes=bytes(rotten))


async def test_t62_a_file_whose_structure_is_damaged_is_told_of(autojump_clock: MockClock) -> None:
    class Malformed(MemoryStore):
        def look_through(self) -> str | None:  # type: ignore[override]
            return "page 53"

    class Unreadable(MemoryStore):
        def look_through(self) -> str | None:  # type: ignore[override]
            raise StoreError("no disk")

    for store, part in ((Malformed(OWN), "restart"), (Unreadable(OWN), "no disk")):
        told: list[str] = []
        async with running(Bench(store)) as bench, trio.open_nursery() as nursery:
            nursery.start_soon(Scrub(bench.writer, LIMITS, lines_to(told)).run)
            await trio.sleep(LIMITS.scrub_after_s + 1)
            assert [part in line for line in told] == [True]
            nursery.cancel_scope.cancel()


async def test_t62_damage_that_nobody_reads_is_found_by_the_node_itself(autojump_clock: MockClock) -> None:
    logs = [Log(1), Log(2)]
    store = MemoryStore(OWN)
    with store.write() as transaction:
        for log in logs:
            for number in range(5):
                transaction.append(log.add(b"%d" % number * 1000))
    async with running(Bench(store)) as bench, trio.open_nursery() as nursery:
        for log in logs:
            rot(store, log, 3)
        nursery.start_soon(Scrub(bench.writer, LIMITS, lines_to([])).run)
        await trio.sleep(LIMITS.scrub_after_s + 60)
        assert bench.events_of(events.BatchDamaged) == [
            events.BatchDamaged(log.origin, 4) for log in sorted(logs, key=lambda log: log.origin)
        ]
        for log in logs:
            await bench.push(log.batches[3])
        assert {event.origin for event in bench.events_of(events.LogRepaired)} == {OWN, OTHER}  # type: ignore[attr-defined]
        rot(store, logs[1], 1)
        await trio.sleep(LIMITS.scrub_every_s + 120)
        assert bench.events_of(events.BatchDamaged)[2:] == [events.BatchDamaged(OTHER, 2)]
        nursery.cancel_scope.cancel()


async def test_it_reads_no_faster_than_it_may(autojump_clock: MockClock) -> None:
    store, log = MemoryStore(OWN), Log(1)
    with store.write() as transaction:
        for _ in range(40):
            transaction.append(log.add(bytes(200_000)))
    async with running(Bench(store)) as bench, trio.open_nursery() as nursery:
        reads: list[float] = []
        load = bench.writer.load

        async def counted(*args):  # type: ignore[no-untyped-def]
            batches = await load(*args)
            reads.append(trio.current_time())
            assert sum(len(batch.wal_bytes) for batch in batches) <= LIMITS.scrub_bytes
            return batches

        bench.writer.load = counted  # type: ignore[method-assign]
        nursery.start_soon(Scrub(bench.writer, LIMITS, lines_to([])).run)
        await trio.sleep(LIMITS.scrub_after_s + 3600)
        assert len(reads) == 41
        assert reads[-1] - reads[0] >= 40 * LIMITS.scrub_rest_s
        nursery.cancel_scope.cancel()


async def test_t62_a_log_that_cannot_be_read_keeps_no_other_from_being_checked(autojump_clock: MockClock) -> None:
    store, logs, told = MemoryStore(OWN), [Log(number) for number in (1, 2, 3)], list[str]()
    with store.write() as transaction:
        for log in logs:
            transaction.append(log.add(b"x"))
    first, *rest = sorted(log.origin for log in logs)
    async with running(Bench(store)) as bench, trio.open_nursery() as nursery:
        load = bench.writer.load
        read: set[PeerId] = set()

        async def failing(origin: PeerId, from_seq: int, bytes_max: int) -> list[StoredBatch]:
            if origin == first:
                raise StoreError("an index page cannot be read")
            read.add(origin)
            return await load(origin, from_seq, bytes_max)

        bench.writer.load = failing  # type: ignore[method-assign]
        nursery.start_soon(Scrub(bench.writer, LIMITS, lines_to(told)).run)
        await trio.sleep(LIMITS.scrub_after_s + 60)
        assert read == set(rest)
        assert told == ["the stored logs could not all be checked: an index page cannot be read"]
        nursery.cancel_scope.cancel()


async def test_a_store_that_cannot_be_read_ends_a_pass_and_not_the_node(autojump_clock: MockClock) -> None:
    store, log, told = MemoryStore(OWN), Log(1), list[str]()
    with store.write() as transaction:
        transaction.append(log.add(b"x"))
    async with running(Bench(store)) as bench, trio.open_nursery() as nursery:

        async def failing(*_):  # type: ignore[no-untyped-def]
            raise StoreError("the cable is out")

        bench.writer.load = failing  # type: ignore[method-assign]
        nursery.start_soon(Scrub(bench.writer, LIMITS, lines_to(told)).run)
        await trio.sleep(LIMITS.scrub_after_s + LIMITS.scrub_every_s + 60)
        assert told == ["the stored logs could not all be checked: the cable is out"] * 2
        nursery.cancel_scope.cancel()


def test_each_event_of_the_log_is_one_line_that_says_what_it_means() -> None:
    told: list[str] = []
    notices = Notices(OWN, {OTHER: "shop-2"}.get, lines_to(told))
    happened = [
        (events.ForkFound(OTHER, 7), "shop-2 is forked"),
        (events.ForkFound(OWN, 7), "p2p id --new"),
        (events.BatchDamaged(OTHER, 4), "shop-2 is damaged on the disk at seq 4"),
        (events.BatchDamaged(OWN, 4), "nothing is appended until it is fetched again"),
        (events.LogRepaired(OTHER, 9), "whole again up to seq 9"),
        (events.OwnLogAhead(30), "shows up to seq 30"),
        (events.OwnLogClaimDropped(12, 30), "what is appended follows seq 12"),
        (events.StoreReadOnly("disk full"), "disk full"),
        (events.StoreWritable(), "can be written again"),
        (events.QuotaReached(OTHER), "used up its bytes"),
    ]
    for number, (event, part) in enumerate(happened, 1):
        notices.tell(event)
        assert len(told) == number
        assert part in told[-1]
    # A dying disk does not fill the log: of each log the first damage is told until it is repaired.
    notices.tell(events.BatchDamaged(OWN, 5))
    notices.tell(events.HeadsMoved(frozenset({OWN})))
    assert len(told) == len(happened)
    notices.tell(events.BatchDamaged(OTHER, 5))
    assert len(told) == len(happened) + 1


async def test_a_nodes_own_lines_tell_of_damage(tmp_path: Path) -> None:
    import sqlite3

    import p2p
    from p2p.store.keys import STORE_FILE

    told: list[str] = []
    async with p2p.open_node(node_id="a", data_dir=tmp_path / "a", listen_port=None) as node:
        await node.wal.append(b"one")
    connection = sqlite3.connect(tmp_path / "a" / STORE_FILE)
    with connection:
        connection.execute("UPDATE batches SET wal = zeroblob(length(wal))")
    connection.close()
    async with p2p.open_node(node_id="a", data_dir=tmp_path / "a", listen_port=None, on_log=told.append) as node:
        async with node.events() as feed:
            while node.wal.heads()[node.peer_id].seq:
                await feed.__anext__()
    assert any("damaged on the disk at seq 1" in line for line in told)
