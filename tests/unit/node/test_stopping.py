"""Stopping in time, whatever the disk does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

import p2p
from p2p.testing.dice import Dice
from p2p.testing.disk import Disk, Mount
from p2p.transport.memory import MemoryNetwork
from p2p.windows import SimulatedClock

if TYPE_CHECKING:
    from trio.testing import MockClock

LIMITS = p2p.Limits(recent_batches_bytes=0)


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_node_whose_disk_hangs_stops_within_its_time(is_cancelled: bool, autojump_clock: MockClock) -> None:
    """With a read and a commit under way, both of which will not come back."""
    disk, net = Disk(Dice("disk")), MemoryNetwork()
    async with trio.open_nursery() as threads:
        mount = Mount(disk, threads, LIMITS.hung_disk_s_max)
        node = p2p.Node(
            p2p.NodeConfig(
                node_id="a",
                limits=LIMITS,
                open=True,
                network=net.network_for("10.0.0.1"),
                clock=SimulatedClock(),
                entropy=Dice("node").entropy,
                store=mount.open,
                blocking=mount,
            )
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            await node.wal.append(b"one")
            reader = p2p.PeerEndpoint("10.0.0.1", node.endpoints[0].port, "mem")
            peer = p2p.Node(
                p2p.NodeConfig(
                    node_id="b",
                    open=True,
                    network=net.network_for("10.0.0.2"),
                    clock=SimulatedClock(),
                    entropy=Dice("peer").entropy,
                )
            )
            async with trio.open_nursery() as other:
                await other.start(peer.run)
                disk.stall()
                await peer.connect(reader)
                with trio.move_on_after(1):
                    await node.wal.append(b"two")
                started = trio.current_time()
                if is_cancelled:
                    nursery.cancel_scope.cancel()
                else:
                    node.stop()
                with trio.CancelScope(shield=True):
                    await node.wait()
                assert trio.current_time() - started <= LIMITS.shutdown_s_max
                other.cancel_scope.cancel()
        threads.cancel_scope.cancel()


async def test_who_is_cancelled_together_with_a_node_is_not_told_that_it_stopped() -> None:
    """At whatever moment: the node's own tasks may see the cancellation first."""
    for turns in range(60):
        with trio.CancelScope() as scope:
            async with p2p.open_node(node_id="a", listen_port=0) as node, trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_after, turns, scope)
                nursery.start_soon(_append_for_ever, node)
                nursery.start_soon(_append_for_ever, node)
        assert scope.cancelled_caught


async def test_who_is_not_cancelled_is_told_that_the_node_stopped() -> None:
    with pytest.raises(p2p.NodeClosed):
        async with p2p.open_node(node_id="a", listen_port=None) as node:
            node.stop()
            await _append_for_ever(node)


async def _cancel_after(turns: int, scope: trio.CancelScope) -> None:
    for _ in range(turns):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def _append_for_ever(node: p2p.Node) -> None:
    while True:
        await node.wal.append(b"x")
