"""The node under attack, and how one sees that it took no harm.

Every test goes the same way: a real node on loopback TCP, an attack, and then the same node must still serve an honest
peer, must hold no link, task or descriptor more than before, and must have counted the offender under the right reason.
Nothing waits for time to pass: links are waited for by their own ends, everything else by the node's events.

    async with victim() as node:
        async with offence(node, Reason.PROTOCOL):
            ...                                     # the attack
    # leaving `victim` shows the rest
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

import p2p
from p2p.errors import Reason
from p2p.limits import Limits
from p2p.peer.connection import Connection
from p2p.policy.admission import ConnectionSlots
from tests.hostile.attacker import Residue, Where, residue

KEY = bytes(range(100, 132))
"""The network key of these tests. `network_key=None` makes a node that knows no rule, on loopback."""

WAIT_S = 60.0
"""How long a test waits for what must come; nothing is measured by it."""


def limits(**changes: float) -> Limits:
    """The node's bounds, with some of them small enough to be waited for."""
    return dataclasses.replace(Limits(), **changes)  # type: ignore[arg-type]  # names of bounds


@asynccontextmanager
async def victim(**options: object) -> AsyncIterator[p2p.Node]:
    """A node to attack. On leaving it is shown to serve an honest peer still, and to keep nothing of the attack."""
    chosen = {"node_id": "victim", "network_key": KEY, "listen_host": "127.0.0.1", **options}
    async with p2p.open_node(**chosen) as node:  # type: ignore[arg-type]  # options of open_node
        # Its log is not empty, so that there is something to push, and its threads have begun.
        await node.wal.append(b"before the attack")
        before = await resting(node)
        yield node
        await serve_an_honest_peer(node)
        after = await resting(node)
        assert after == before, "the attack left something behind"


async def resting(node: p2p.Node) -> Residue:
    """What the process holds once the node has no link any more."""
    await until_alone(node)
    # The tasks of the last link end a turn of the loop after it.
    await trio.testing.wait_all_tasks_blocked()
    assert len(slots(node)) == 0
    return residue()


def where(node: p2p.Node) -> Where:
    """Where to attack."""
    endpoint = node.endpoints[0]
    return endpoint.host, endpoint.port


def links(node: p2p.Node) -> dict[Connection, None]:
    """All connections of the node, proven or not."""
    rooms = node._rooms
    assert rooms is not None, "the node has stopped"
    return rooms.supervisor.links


def slots(node: p2p.Node) -> ConnectionSlots[Connection]:
    """The connections that have proven nothing yet."""
    rooms = node._rooms
    assert rooms is not None, "the node has stopped"
    return rooms.slots


def points(node: p2p.Node, peer_id: p2p.PeerId) -> float:
    """What stands against an identity; it fades by one a minute."""
    rooms = node._rooms
    assert rooms is not None, "the node has stopped"
    return rooms.scores.points(peer_id, node.config.clock.monotonic())


async def until_alone(node: p2p.Node) -> None:
    """Wait until no link of the node is left."""
    with trio.fail_after(WAIT_S):
        while links(node):
            await next(iter(links(node))).over.wait()


async def until_head(node: p2p.Node, origin: p2p.PeerId, seq: int) -> None:
    """Wait until the node holds an origin's log up to `seq`."""
    with trio.fail_after(WAIT_S):
        async with node.events() as events:
            while origin not in node.wal.heads() or node.wal.heads()[origin].seq < seq:
                await events.__anext__()


async def until_event(events: p2p.events.EventStream, kind: type[p2p.events.NodeEvent]) -> p2p.events.NodeEvent:
    """The next event of a kind."""
    with trio.fail_after(WAIT_S):
        async for event in events:
            if isinstance(event, kind):
                return event
    raise AssertionError("the events ended")


@asynccontextmanager
async def member(node_id: str, **options: object) -> AsyncIterator[p2p.Node]:
    """An honest node of the victim's network, without a listener unless told otherwise."""
    chosen = {"node_id": node_id, "network_key": KEY, "listen_port": None, "listen_host": "127.0.0.1", **options}
    async with p2p.open_node(**chosen) as node:  # type: ignore[arg-type]  # options of open_node
        yield node


async def serve_an_honest_peer(node: p2p.Node) -> None:
    """Show that a peer who keeps to the rules is served: link, messages, records in both directions."""
    rules = {"network_key": node.config.network_key, "network_name": node.config.network_name}
    async with member("honest", **rules) as honest, node.channel("honest") as channel:
        with trio.fail_after(WAIT_S):
            peer = await honest.connect(node.endpoints[0])
            await honest.send(peer, "honest", b"hello")
            assert (await channel.receive()).body == b"hello"
            seq = await honest.wal.append(b"from the honest peer")
            await honest.wal.wait_replicated(seq, peers=1)
            seq = await node.wal.append(b"from the node")
            await until_head(honest, node.peer_id, seq)


@asynccontextmanager
async def offence(node: p2p.Node, *reasons: Reason) -> AsyncIterator[None]:
    """What is done inside ends exactly these links, for exactly these reasons, as the node counts them."""
    await until_alone(node)
    before = dict(node.counters.links_ended)
    yield
    await until_alone(node)
    ended = [
        reason
        for reason, count in sorted(node.counters.links_ended.items())
        for _ in range(count - before.get(reason, 0))
    ]
    assert ended == sorted(reasons)
