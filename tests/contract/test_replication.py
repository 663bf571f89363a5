"""The log between real nodes over TCP: what contract.md promises of delivery, restarts, faults and forks."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

import p2p
from p2p.store.keys import STORE_FILE, open_reader

KEY = bytes(range(32))


@asynccontextmanager
async def member(node_id: str, data_dir: Path | None = None, **options: object) -> AsyncIterator[p2p.Node]:
    """A node of one closed network on loopback."""
    async with p2p.open_node(
        node_id=node_id,
        data_dir=data_dir,
        network_key=KEY,
        listen_host="127.0.0.1",
        **options,  # type: ignore[arg-type]  # options of open_node, passed on
    ) as node:
        yield node


async def until(node: p2p.Node, reached: Callable[[], bool]) -> None:
    """Wait, by the node's events, until something is so."""
    with trio.fail_after(30):
        async with node.events() as events:
            while not reached():
                await events.__anext__()


async def until_equal(*nodes: p2p.Node) -> None:
    """Wait until all hold the same logs."""
    for node in nodes[1:]:
        async with nodes[0].events() as one, node.events() as other:
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    wake = trio.lowlevel.ParkingLot()

                    async def listen(events: p2p.events.EventStream, lot: trio.lowlevel.ParkingLot) -> None:
                        async for _ in events:
                            lot.unpark_all()

                    nursery.start_soon(listen, one, wake)
                    nursery.start_soon(listen, other, wake)
                    while nodes[0].wal.digest() != node.wal.digest():
                        await wake.park()
                    nursery.cancel_scope.cancel()


async def test_the_embedding_example_of_the_readme(tmp_path: Path) -> None:
    async with member("a", tmp_path / "a") as a, member("b", tmp_path / "b") as b:
        peer = await a.connect(b.endpoints[0])
        seq = await a.wal.append(b"sold 3", kind="sale")
        with trio.fail_after(30):
            await a.wal.wait_replicated(seq, peers=1)
        assert a.outbox.lag() == {peer.peer_id: 0}
        async with b.wal.follow("indexer") as records:
            async for record in records:
                await records.commit(record)
                break
        assert (record.origin, record.seq, record.kind, record.payload) == (a.peer_id, 1, "sale", b"sold 3")
        assert record.node_id == "a"
        assert record.target is None
        assert record.time.tzinfo is not None
        assert a.wal.digest() == b.wal.digest()


async def test_what_is_written_offline_converges_when_the_link_is_there(tmp_path: Path) -> None:
    async with member("a", tmp_path / "a") as a, member("b", tmp_path / "b") as b:
        await a.wal.append_many([b"a%d" % number for number in range(3000)])
        await b.wal.append_many([b"b%d" % number for number in range(2000)])
        assert a.wal.digest() != b.wal.digest()
        await a.connect(b.endpoints[0])
        await until_equal(a, b)
        assert {origin: head.seq for origin, head in a.wal.heads().items()} == {a.peer_id: 3000, b.peer_id: 2000}


async def test_records_travel_over_nodes_in_between() -> None:
    async with member("a") as a, member("b") as b, member("c") as c:
        await a.connect(b.endpoints[0])
        await b.connect(c.endpoints[0])
        await a.wal.append(b"from a")
        await c.wal.append(b"from c")
        await until_equal(a, b, c)
        assert len(a.peers()) == len(c.peers()) == 1
        async with c.wal.follow() as records:
            got = {(await records.__anext__()).payload for _ in range(2)}
        assert got == {b"from a", b"from c"}


async def test_a_third_node_catches_up_with_one_who_is_gone() -> None:
    async with member("b") as b, member("c") as c:
        async with member("a") as a:
            seq = await a.wal.append(b"last words")
            await a.connect(b.endpoints[0])
            await a.wal.wait_replicated(seq)
            origin = a.peer_id
        await c.connect(b.endpoints[0])
        await until(c, lambda: origin in c.wal.heads())


async def test_open_nodes_without_a_key_keep_only_logs_of_whom_they_met() -> None:
    async with p2p.open_node(node_id="a") as a, p2p.open_node(node_id="b") as b, p2p.open_node(node_id="c") as c:
        await a.wal.append(b"from a")
        await b.wal.append(b"from b")
        await a.connect(b.endpoints[0])
        await until(b, lambda: a.peer_id in b.wal.heads())
        await b.connect(c.endpoints[0])
        await until(c, lambda: b.peer_id in c.wal.heads())
        assert a.peer_id not in c.wal.heads()
        await a.connect(c.endpoints[0])
        await until(c, lambda: a.peer_id in c.wal.heads())


async def test_after_a_restart_the_log_goes_on_and_nothing_is_sent_twice(tmp_path: Path) -> None:
    async with member("b", tmp_path / "b") as b:
        async with member("a", tmp_path / "a") as a:
            await a.connect(b.endpoints[0])
            await a.wal.append_many([b"%d" % number for number in range(1500)])
            identity = a.peer_id
            await until_equal(a, b)
        async with member("a", tmp_path / "a") as a:
            assert a.peer_id == identity
            assert await a.wal.append(b"next") == 1501
            await a.connect(b.endpoints[0])
            await until_equal(a, b)
            assert b.get_peer("a").bytes_in < 10_000


async def test_T42_a_restored_backup_fetches_its_own_log_back_before_it_writes(tmp_path: Path) -> None:
    async with member("b", tmp_path / "b") as b:
        async with member("a", tmp_path / "a") as a:
            await a.wal.append(b"one")
        shutil.copytree(tmp_path / "a", tmp_path / "backup")
        async with member("a", tmp_path / "a") as a:
            await a.connect(b.endpoints[0])
            for number in range(5):
                await a.wal.append(b"after the backup %d" % number)
            await until_equal(a, b)
        shutil.rmtree(tmp_path / "a")
        shutil.copytree(tmp_path / "backup", tmp_path / "a")
        async with member("a", tmp_path / "a") as a:
            await a.connect(b.endpoints[0])
            with trio.fail_after(30):
                assert await a.wal.append(b"after the restore") == 7
            await until_equal(a, b)
            assert not a.wal.heads()[a.peer_id].frozen


async def test_T36_a_copied_data_dir_forks_its_log_and_everybody_freezes_it_alike(tmp_path: Path) -> None:
    async with member("a", tmp_path / "a") as a:
        await a.wal.append(b"common")
        origin = a.peer_id
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    async with member("x") as x, member("y") as y:
        async with member("a", tmp_path / "a") as a:
            await a.wal.append(b"one history")
            await a.connect(x.endpoints[0])
            await until(x, lambda: origin in x.wal.heads() and x.wal.heads()[origin].seq == 2)
        async with member("a", tmp_path / "copy") as copy:
            await copy.wal.append(b"another history")
            await copy.connect(y.endpoints[0])
            await until(y, lambda: origin in y.wal.heads() and y.wal.heads()[origin].seq == 2)
        await x.wal.append(b"x goes on")
        await x.connect(y.endpoints[0])
        for node in (x, y):
            await until(node, lambda node=node: node.wal.heads()[origin].frozen)
        await until_equal(x, y)
        assert x.wal.heads()[origin].seq == y.wal.heads()[origin].seq == 1
        # The owner that sees the proof appends no more.
        async with member("a", tmp_path / "a") as a:
            await a.connect(x.endpoints[0])
            await until(a, lambda: a.wal.heads()[origin].frozen)
            with pytest.raises(p2p.OwnLogForked):
                await a.wal.append(b"too late")


async def both_hold(a: p2p.Node, b: p2p.Node, records: int) -> p2p.PeerId:
    """Connect two nodes that end with so many records of the first one; returns whose they are."""
    await a.connect(b.endpoints[0])
    for number in range(records):
        await a.wal.append(b"record %d" % number)
    await until_equal(a, b)
    return a.peer_id


async def test_T62_a_damaged_batch_is_fetched_again_and_never_served(tmp_path: Path) -> None:
    async with member("b", tmp_path / "b") as b:
        async with member("a", tmp_path / "a") as a:
            origin = await both_hold(a, b, 20)
        store = tmp_path / "a" / STORE_FILE
        with sqlite3.connect(store) as connection:
            rowid, blob = connection.execute("SELECT no, wal FROM batches ORDER BY no").fetchall()[10]
            damaged = bytearray(blob)
            damaged[len(damaged) // 2] ^= 1
            connection.execute("UPDATE batches SET wal = ? WHERE no = ?", (bytes(damaged), rowid))
        connection.close()
        reader = open_reader(tmp_path / "a")
        assert [damage.what for damage in reader.verify()]
        reader.close()
        async with member("a", tmp_path / "a") as a, member("c") as c:
            # Reading it (for c) finds the damage; b has it whole.
            await a.connect(b.endpoints[0])
            await c.connect(a.endpoints[0])
            await until(c, lambda: origin in c.wal.heads() and c.wal.heads()[origin].seq == 20)
            await until_equal(a, b, c)
            assert await a.wal.append(b"goes on") == 21
            await until_equal(a, b, c)
        reader = open_reader(tmp_path / "a")
        assert list(reader.verify()) == []
        reader.close()


async def test_a_record_that_fits_no_batch_is_refused_and_a_large_one_travels() -> None:
    async with member("a") as a, member("b") as b:
        with pytest.raises(p2p.RecordTooLarge):
            await a.wal.append(bytes(300 * 1024))
        await a.connect(b.endpoints[0])
        await a.wal.append(bytes(254 * 1024))
        await until_equal(a, b)


async def test_a_follower_picks_up_where_it_committed(tmp_path: Path) -> None:
    async with member("a", tmp_path / "a") as a:
        for number in range(10):
            await a.wal.append(b"%d" % number, kind="odd" if number % 2 else "even")
        async with a.wal.follow("one") as records:
            for _ in range(4):
                record = await records.__anext__()
            await records.commit(record)
            with pytest.raises(p2p.ConfigError, match="was not delivered"):
                await records.commit(replace(record, seq=5))
            with pytest.raises(p2p.ChannelBusy):
                async with a.wal.follow("one"):
                    pass
    async with member("a", tmp_path / "a") as a:
        async with a.wal.follow("one") as records:
            assert (await records.__anext__()).seq == 5
        async with a.wal.follow(kinds={"odd"}) as records:
            assert [(await records.__anext__()).payload for _ in range(3)] == [b"1", b"3", b"5"]
        async with a.wal.follow(start="now") as records:
            await a.wal.append(b"new")
            assert (await records.__anext__()).payload == b"new"


async def test_five_nodes_in_a_ring_with_writes_everywhere_converge() -> None:
    async with (
        member("n0") as n0,
        member("n1") as n1,
        member("n2") as n2,
        member("n3") as n3,
        member("n4") as n4,
    ):
        ring = [n0, n1, n2, n3, n4]

        async def write(node: p2p.Node) -> None:
            for number in range(40):
                await node.wal.append(b"%d" % number)

        async with trio.open_nursery() as nursery:
            for node in ring:
                nursery.start_soon(write, node)
            for node, following in zip(ring, ring[1:] + ring[:1], strict=True):
                nursery.start_soon(node.connect, following.endpoints[0])
        await until_equal(*ring)
        assert sum(head.seq for head in n0.wal.heads().values()) == 200


async def test_wait_replicated_counts_distinct_peers() -> None:
    async with member("a") as a, member("b") as b, member("c") as c:
        await a.connect(b.endpoints[0])
        seq = await a.wal.append(b"x")
        await a.wal.wait_replicated(seq, peers=1)
        with trio.move_on_after(0.2) as scope:
            await a.wal.wait_replicated(seq, peers=2)
        assert scope.cancelled_caught
        await a.connect(c.endpoints[0])
        with trio.fail_after(30):
            await a.wal.wait_replicated(seq, peers=2)


async def test_what_a_peer_showed_of_every_log_is_told() -> None:
    async with p2p.open_node(node_id="a") as a, p2p.open_node(node_id="b") as b:
        peer = await a.connect(b.endpoints[0])
        seq = await a.wal.append(b"one")
        await b.wal.append(b"two")
        assert a.wal.is_writable
        with trio.fail_after(30):
            while {origin: head.seq for origin, head in a.wal.shown()[peer.peer_id].items()} != {
                a.peer_id: seq,
                b.peer_id: 1,
            }:
                await trio.sleep(0.01)
        assert a.wal.shown()[peer.peer_id][a.peer_id] == b.wal.heads()[a.peer_id]


async def test_T62_a_mark_of_damage_that_is_itself_the_damage_stops_nobody(tmp_path: Path) -> None:
    async with member("b", tmp_path / "b") as b:
        async with member("a", tmp_path / "a") as a:
            origin = await both_hold(a, b, 9)
        with sqlite3.connect(tmp_path / "a" / STORE_FILE) as connection:
            assert connection.execute("UPDATE chain SET damaged = 1 WHERE seq_end = 4").rowcount == 1
        connection.close()
        async with member("a", tmp_path / "a") as a, member("c") as c:
            await a.connect(b.endpoints[0])
            await c.connect(a.endpoints[0])
            await until(c, lambda: origin in c.wal.heads() and c.wal.heads()[origin].seq == 9)
            assert await a.wal.append(b"goes on") == 10
            await until_equal(a, b, c)
