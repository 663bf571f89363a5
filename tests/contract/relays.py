"""Nodes that can reach each other only through relays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

import p2p

KEY = bytes(range(32))


async def until(condition: object, *nodes: p2p.Node) -> None:
    """Wait until a condition holds, looking again whenever something happens at one of the nodes."""
    assert callable(condition)
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:

        async def watch(events: object) -> None:
            async for _ in events:  # type: ignore[attr-defined]  # an EventStream
                if condition():
                    nursery.cancel_scope.cancel()

        for node in nodes:
            nursery.start_soon(watch, await stack.enter_async_context(node.events()))
        if condition():
            nursery.cancel_scope.cancel()


async def until_linked(node: p2p.Node, *peers: p2p.Node, direct: bool | None = None) -> None:
    """Wait until a node has links to others, of the kind that is asked for."""
    wanted = {peer.peer_id for peer in peers}

    def has_them() -> bool:
        return wanted <= {it.peer_id for it in node.peers() if direct is None or it.direct is direct}

    await until(has_them, node)


def at(node: p2p.Node) -> str:
    """Where a node listens."""
    return f"tcp://127.0.0.1:{node.endpoints[0].port}"


@asynccontextmanager
async def relay_node(node_id: str = "r", **options: object) -> AsyncIterator[p2p.Node]:
    """A relay on loopback."""
    settings = {"listen_host": "127.0.0.1", "network_key": KEY, "relay": True, **options}
    async with p2p.open_node(node_id=node_id, **settings) as node:  # type: ignore[arg-type]  # options, passed on
        yield node


@asynccontextmanager
async def client_of(*relays: p2p.Node, node_id: str, **options: object) -> AsyncIterator[p2p.Node]:
    """A node that nobody can dial, with links to relays."""
    settings = {"listen_port": None, "network_key": KEY, "peers": [at(relay) for relay in relays], **options}
    async with p2p.open_node(node_id=node_id, **settings) as node:  # type: ignore[arg-type]  # options, passed on
        await until_linked(node, *relays)
        for relay in relays:
            await until_linked(relay, node)
        yield node
