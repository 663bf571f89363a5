"""Two nodes that press on each other from both sides until nothing fits: the log moves all the same (T71)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

import p2p
from p2p.testing.dice import Dice
from p2p.transport.memory import MemoryNetwork
from p2p.windows import InlineBlocking, SimulatedClock

if TYPE_CHECKING:
    from trio.testing import MockClock

RECORDS = 400
BODY = bytes(8 * 1024)


async def test_T71_with_both_outboxes_full_and_both_readers_waiting_the_logs_converge(
    autojump_clock: MockClock,
) -> None:
    net = MemoryNetwork()
    nodes = [
        p2p.Node(
            p2p.NodeConfig(
                node_id=name,
                open=True,
                network=net.network_for(host),
                clock=SimulatedClock(),
                entropy=Dice(name).entropy,
                blocking=InlineBlocking(),
            )
        )
        for name, host in (("a", "10.0.0.1"), ("b", "10.0.0.2"))
    ]
    sent = {"a": 0, "b": 0}

    async def press(node: p2p.Node, to: p2p.PeerId) -> None:
        while True:
            await node.send(to, "unread", BODY)
            sent[node.node_id] += 1

    async def append(node: p2p.Node) -> None:
        for number in range(RECORDS):
            await node.wal.append(f"{node.node_id} {number}".encode())

    a, b = nodes
    async with trio.open_nursery() as nursery:
        await nursery.start(a.run)
        await nursery.start(b.run)
        async with a.channel("unread", capacity=1) as of_a, b.channel("unread", capacity=1) as of_b:
            await a.connect(p2p.PeerEndpoint("10.0.0.2", b.endpoints[0].port, "mem"))
            async with trio.open_nursery() as pressing:
                pressing.start_soon(press, a, b.peer_id)
                pressing.start_soon(press, b, a.peer_id)
                async with a.events() as moves:
                    async with trio.open_nursery() as appending:
                        appending.start_soon(append, a)
                        appending.start_soon(append, b)
                    waiting = a.outbox.bytes_waiting()[b.peer_id]
                    with trio.fail_after(120):
                        while sum(head.seq for head in a.wal.heads().values()) < 2 * RECORDS:
                            await moves.__anext__()
                with trio.fail_after(120):
                    await a.wal.wait_replicated(RECORDS, peers=1)
                assert a.wal.digest() == b.wal.digest()
                pressing.cancel_scope.cancel()
            assert waiting > 0, "the outbox was full all the while"
            assert of_a.dropped + of_b.dropped > 0, "nobody read"
            assert min(sent.values()) > 0
        nursery.cancel_scope.cancel()
