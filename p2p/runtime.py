"""`P2PRuntime` and `make_tcp_node`: Vix's names for a node. No logic of their own."""

from __future__ import annotations

import trio

from p2p.ids import PeerEndpoint
from p2p.node.config import NodeConfig
from p2p.node.interrupts import uninterrupted
from p2p.node.kinds import check_kind
from p2p.node.node import Node
from p2p.node.service import Runs
from p2p.node.status import NodeStats, Peer


@uninterrupted
class P2PRuntime(Runs):
    """A Vix-named context over a node: `async with P2PRuntime(node) as runtime: …` runs it in a nursery of its own.

    Attributes:
        node: the node; whatever is not here is there.
    """

    def __init__(self, node: Node) -> None:
        check_kind(node, (Node,), "node", "a Node")
        self.node = node

    async def run(self, *, task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED) -> None:
        """`node.run`."""
        await self.node.run(task_status=task_status)

    async def connect(self, endpoint: PeerEndpoint | str) -> Peer:
        """`node.connect`."""
        return await self.node.connect(endpoint)

    def stats(self) -> NodeStats:
        """`node.stats`."""
        return self.node.stats()

    def stop(self) -> None:
        """`node.stop`."""
        self.node.stop()

    async def wait(self) -> None:
        """`node.wait`."""
        await self.node.wait()


def make_tcp_node(config: NodeConfig) -> Node:
    """Make an unstarted node that speaks TCP (Vix's name for `Node(config)`)."""
    return Node(config)
