"""`P2PRuntime` and `make_tcp_node`: Vix's names for a node. No logic of their own."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import trio

from p2p.ids import PeerEndpoint
from p2p.node.config import NodeConfig
from p2p.node.node import Node
from p2p.node.service import run_around
from p2p.node.status import NodeStats, Peer


class P2PRuntime:
    """A Vix-named context over a node: `async with P2PRuntime(node) as runtime: …` runs it in a nursery of its own.

    Attributes:
        node: the node; whatever is not here is there.
    """

    def __init__(self, node: Node) -> None:
        self.node = node

    async def __aenter__(self) -> Self:
        self._context = run_around(self.node)
        await self._context.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._context.__aexit__(kind, value, trace)

    async def start(self, nursery: trio.Nursery) -> None:
        """Start the node as a task of a nursery of yours; returns once it listens."""
        await nursery.start(self.node.run)

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
