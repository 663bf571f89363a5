"""Circuits whose way changes while they serve, on a network in memory: the pair moves, and nothing is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio
from trio.testing import MockClock

import p2p
from p2p.errors import Reason
from p2p.peer.connection import Connection
from p2p.transport.memory import MemoryNetwork
from tests.contract.relays import KEY, until_linked

R = p2p.PeerEndpoint("r", 1, "mem")
LATENCY_S = 0.1


@asynccontextmanager
async def a_r_b() -> AsyncIterator[tuple[p2p.Node, p2p.Node, p2p.Node]]:
    """A and B, each connected to the relay R only, with links slow enough for something to happen on the way."""
    net = MemoryNetwork(latency_s=LATENCY_S)

    def there(name: str, **options: object) -> AbstractAsyncContextManager[p2p.Node]:
        return p2p.open_node(node_id=name, network=net.network_for(name), network_key=KEY, **options)  # type: ignore[arg-type]

    with trio.fail_after(600):
        async with (
            there("r", relay=True, listen_port=1) as r,
            there("a", listen_port=None, peers=["mem://r:1"]) as a,
            there("b", listen_port=None, peers=["mem://r:1"]) as b,
        ):
            for one, other in ((a, r), (b, r), (r, a), (r, b)):
                await until_linked(one, other)
            # Of two links that begin at once the older one could be kept.
            await trio.sleep(20)
            yield a, r, b


def link_to(node: p2p.Node, other: p2p.Node) -> Connection:
    assert node._rooms is not None
    return node._rooms.roster.links[other.peer_id]


async def renew(node: p2p.Node, r: p2p.Node) -> Connection:
    """Make a node's link to the relay anew, as when both sides dialled; the old one, which gives way."""
    assert node._rooms is not None
    old = link_to(node, r)
    new = await node._rooms.dialer.dial(R, in_place_of=old)
    assert link_to(node, r) is new is not old
    return old


def sees(node: p2p.Node, other: p2p.Node) -> bool:
    return other.peer_id in {peer.peer_id for peer in node.peers()}


async def test_a_circuit_that_is_asked_to_move_before_its_link_is_kept_moves_then(autojump_clock: MockClock) -> None:
    async with a_r_b() as (a, r, b):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.connect, f"relay://r/{b.peer_id}")
            await trio.sleep(2 * LATENCY_S)
            old = await renew(b, r)
            assert not sees(a, b), "the handshake inside the circuit is under way"
        await trio.sleep(20)
        assert r.circuits.relayed_total == 2
        assert old.reason is Reason.MOVED and old.clean
        assert sees(a, b) and sees(b, a)


async def test_who_parts_from_a_peer_amid_a_move_is_not_connected_again(autojump_clock: MockClock) -> None:
    async with a_r_b() as (a, r, b):
        await a.connect(f"relay://r/{b.peer_id}")
        await trio.sleep(20)
        await renew(b, r)
        while r.circuits.relayed_total < 2:
            await trio.sleep(LATENCY_S / 10)
        assert a._rooms is not None
        assert a._rooms.supervisor._replacing
        await a.disconnect(b.peer_id)
        await trio.sleep(30)
        assert not sees(a, b) and not sees(b, a)
        assert not a._rooms.supervisor._replacing
