"""Circuits that are silent for a reason, and what becomes of what waited in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio
import trio.testing

import p2p
from p2p.transport.memory import MemoryNetwork
from tests.contract.relays import KEY, until_linked


def there(net: MemoryNetwork, name: str, **options: object) -> AbstractAsyncContextManager[p2p.Node]:
    """A node of that name in a network."""
    return p2p.open_node(node_id=name, network=net.network_for(name), network_key=KEY, **options)  # type: ignore[arg-type]


@asynccontextmanager
async def a_r_b() -> AsyncIterator[tuple[MemoryNetwork, p2p.Node, p2p.Node, p2p.Node]]:
    """Two nodes with a link through a relay, in a network that can be slowed down."""
    net = MemoryNetwork()
    via = ["mem://r:1"]
    with trio.fail_after(500):
        async with (
            there(net, "r", relay=True, listen_port=1) as r,
            there(net, "a", listen_port=2, via=via) as a,
            there(net, "b", listen_port=2, via=via) as b,
        ):
            await until_linked(r, a, b)
            await until_linked(a, r)
            await until_linked(b, r)
            await a.connect(f"relay://r/{b.peer_id}")
            yield net, a, r, b


async def echo(message: p2p.Message) -> bytes:
    """Answer with what was asked."""
    return message.body


def ways(node: p2p.Node) -> int:
    """How many circuits a relay joined so far."""
    return node.circuits.relayed_total


async def test_a_slow_reader_of_what_a_relay_says_kills_no_circuit_of_its_node(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with a_r_b() as (_, a, r, b), trio.open_nursery() as nursery, b.channel("slow", capacity=1) as slow:
        await nursery.start(b.serve, "echo", echo)
        for number in range(3):
            await r.send(b.peer_id, "slow", b"%d" % number)
        # The link between r and b rests now, for longer than a circuit may be silent.
        nursery.start_soon(a.send, b.peer_id, "nobody", b"awaited")
        await b.send(a.peer_id, "nobody", b"awaited, too")
        received = []
        for _ in range(3):
            await trio.sleep(8)
            received.append((await slow.receive()).body)
        assert received == [b"0", b"1", b"2"]
        assert await a.request(b.peer_id, "echo", b"now") == b"now"
        assert ways(r) == 1
        nursery.cancel_scope.cancel()


async def test_a_relay_does_not_wait_for_a_slow_reader_of_its_own_at_the_cost_of_the_circuits_of_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    net = MemoryNetwork()
    with trio.fail_after(500):
        async with (
            there(net, "r1", relay=True, listen_port=1) as r1,
            there(net, "r2", relay=True, listen_port=1, peers=["mem://r1:1"]) as r2,
            there(net, "a", listen_port=2, via=["mem://r1:1"]) as a,
            there(net, "b", listen_port=2, via=["mem://r2:1"]) as b,
            trio.open_nursery() as nursery,
            r2.channel("slow", capacity=1) as slow,
        ):
            await until_linked(r1, a, r2)
            await until_linked(r2, b, r1)
            await nursery.start(b.serve, "echo", echo)
            await trio.sleep(60)
            await a.connect(b.peer_id)
            for number in range(6):
                await r1.send(r2.peer_id, "slow", b"%d" % number)
            # Nobody reads them: one is queued, and the rest is refused after a second in all.
            asked_at = trio.current_time()
            assert await a.request(b.peer_id, "echo", b"now", timeout_s=20) == b"now"
            assert trio.current_time() - asked_at < 2
            await trio.sleep(20)
            assert ways(r1) == 1
            assert (await slow.receive()).body == b"0"
            assert slow.dropped == 5
            nursery.cancel_scope.cancel()
