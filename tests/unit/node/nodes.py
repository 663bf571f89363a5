"""Nodes on a network in memory, for tests under a clock that jumps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import p2p
from p2p.crypto.identity import Identity
from p2p.node.service import run_around
from p2p.peer.connection import Connection
from p2p.store.memory import MemoryStore
from p2p.testing.dice import Dice
from p2p.transport.memory import MemoryNetwork
from p2p.windows import InlineBlocking, SimulatedClock

PORT = 9000


def node_on(net: MemoryNetwork, host: str, dice: Dice, limits: p2p.Limits | None = None) -> p2p.Node:
    """A node that is called as its host is, listening on `PORT`, its key drawn from the dice."""
    identity = Identity.generate(dice.entropy)
    return p2p.Node(
        p2p.NodeConfig(
            node_id=host,
            listen_port=PORT,
            open=True,
            limits=limits or p2p.Limits(),
            store=lambda _say: (MemoryStore(identity.peer_id), identity),
            network=net.network_for(host),
            clock=SimulatedClock(),
            entropy=dice.entropy,
            blocking=InlineBlocking(),
        )
    )


@asynccontextmanager
async def small_and_large(
    net: MemoryNetwork, seed: int = 0, limits: p2p.Limits | None = None
) -> AsyncIterator[tuple[p2p.Node, p2p.Node]]:
    """Two running nodes that do not know each other, the one with the smaller peer id first."""
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(run_around(node_on(net, host, Dice(seed).branch(host), limits)))
            for host in ("one", "two")
        ]
        small, large = sorted(nodes, key=lambda node: node.peer_id)
        yield small, large


def place_of(node: p2p.Node, expect: str | None = None) -> p2p.PeerEndpoint:
    """Where a node listens. With `expect` it is another endpoint of the same node, and a dial of its own."""
    return p2p.PeerEndpoint(node.node_id, PORT, "mem", expect=expect)


def links_of(node: p2p.Node) -> list[Connection]:
    """All links of a node, whatever their state, in the order of their making."""
    assert node._rooms is not None
    return sorted(node._rooms.supervisor.links, key=lambda link: link.connected_at or 0.0)


def kept_link(node: p2p.Node, peer: p2p.Node) -> Connection:
    """The link that a node keeps to a peer."""
    assert node._rooms is not None
    return node._rooms.roster.links[peer.peer_id]
