"""The simulated disk: what it loses and what it tears, and what a node makes of that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

import p2p
from p2p.node.service import run_around
from p2p.testing.dice import Dice
from p2p.testing.disk import Disk, Mount, ProcessKilled
from p2p.transport.memory import MemoryNetwork
from p2p.windows import SimulatedClock

if TYPE_CHECKING:
    from trio.testing import MockClock


@asynccontextmanager
async def process(net: MemoryNetwork, disk: Disk, host: str) -> AsyncIterator[tuple[p2p.Node, Mount]]:
    """A node with its log on a disk. Where the body cuts the mount off, the process is killed."""
    async with trio.open_nursery() as threads:
        mount = Mount(disk, threads, give_up_s=5.0)
        config = p2p.NodeConfig(
            node_id=host,
            listen_port=9000,
            open=True,
            network=net.network_for(host),
            clock=SimulatedClock(),
            entropy=Dice(f"{host} {trio.current_time()}").entropy,
            store=mount.open,
            blocking=mount,
        )
        async with run_around(p2p.Node(config)) as node:
            yield node, mount


async def killed_after(net: MemoryNetwork, disk: Disk, host: str, appends: int, *, lies_after: int, peer: str) -> None:
    """Run a process that appends, with a disk that lies after so many records, until its power is cut."""
    try:
        async with process(net, disk, host) as (node, mount):
            await node.connect(p2p.PeerEndpoint(peer, 9000, "mem"))
            for number in range(appends):
                if number == lies_after:
                    disk.stop_syncing()
                seq = await node.wal.append(b"sold %d" % number)
            await node.wal.wait_replicated(seq)
            net.kill(host)
            mount.cut()
            raise ProcessKilled
    except* ProcessKilled:
        await trio.lowlevel.checkpoint()


async def appended(node: p2p.Node, payload: bytes) -> int:
    """Append as soon as the node's own log is whole again."""
    while True:
        try:
            return await node.wal.append(payload)
        except p2p.StoreCorrupt:
            await trio.sleep(0.1)


@pytest.mark.parametrize("torn", [False, True])
async def test_a_node_whose_disk_lied_gets_the_lost_tail_of_its_log_back_from_a_peer(
    torn: bool, autojump_clock: MockClock
) -> None:
    net, disk, other = MemoryNetwork(latency_s=0.01), Disk(Dice("a")), Disk(Dice("b"))
    own = disk.identity.peer_id
    async with process(net, other, "b") as (b, _):
        await killed_after(net, disk, "a", 5, lies_after=3, peer="b")
        disk.lose_unsynced(torn=torn)
        assert disk.log.states()[own].seq == (4 if torn else 3)
        assert bool(list(disk.log.verify())) is torn
        async with process(net, disk, "a") as (a, _):
            await a.connect(p2p.PeerEndpoint("b", 9000, "mem"))
            with trio.fail_after(60):
                assert await appended(a, b"goes on") == 6
                await a.wal.wait_replicated(6)
            found: list[bytes] = []
            async with b.wal.follow() as records:
                while len(found) < 6:
                    found.append((await records.__anext__()).payload)
            assert found == [*(b"sold %d" % number for number in range(5)), b"goes on"]
            assert not list(disk.log.verify())


async def test_t62_two_damaged_neighbours_are_both_replaced_by_a_peer_though_only_one_was_read(
    autojump_clock: MockClock,
) -> None:
    net, disk, other = MemoryNetwork(latency_s=0.01), Disk(Dice("a")), Disk(Dice("b"))
    async with process(net, other, "two") as (two, _), process(net, disk, "one") as (one, _):
        await one.connect(p2p.PeerEndpoint("two", 9000, "mem"))
        for number in range(4):
            await two.wal.append(b"sold %d" % number)
        while one.wal.digest() != two.wal.digest():
            await trio.sleep(1)
        for seq in (2, 3):
            disk.flip_bit(two.peer_id, seq, 800)
        assert await one.wal.records(two.peer_id, 3) == []
        with trio.fail_after(60):
            while list(disk.log.verify()):
                await trio.sleep(1)
        assert one.wal.digest() == two.wal.digest()


async def test_what_was_synced_stays_and_what_was_mended_is_synced(autojump_clock: MockClock) -> None:
    net, disk, other = MemoryNetwork(), Disk(Dice("a")), Disk(Dice("b"))
    own = disk.identity.peer_id
    async with process(net, other, "b"):
        await killed_after(net, disk, "a", 4, lies_after=2, peer="b")
        disk.mend()
        disk.lose_unsynced()
        assert disk.log.states()[own].seq == 4
        disk.stop_syncing()
        disk.lose_unsynced(torn=True)
        assert disk.log.states()[own].seq == 4
        assert not list(disk.log.verify())
