"""A direct link beside a relay, on a network in memory: how it is left when it falls silent, and when it is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio
import trio.testing

import p2p
from p2p.transport.memory import MemoryNetwork
from tests.contract.relays import KEY, until_linked


@asynccontextmanager
async def beside_relay(**options: object) -> AsyncIterator[tuple[MemoryNetwork, p2p.Node, p2p.Node, p2p.Node]]:
    """A, who dials B, and the relay that both are attached to; options for A."""
    net = MemoryNetwork()

    def there(name: str, **options: object) -> AbstractAsyncContextManager[p2p.Node]:
        return p2p.open_node(node_id=name, network=net.network_for(name), network_key=KEY, **options)  # type: ignore[arg-type]

    with trio.fail_after(1000):
        async with (
            there("r", relay=True, listen_port=1) as r,
            there("b", listen_port=2, via=["mem://r:1"]) as b,
            there("a", listen_port=3, **{"via": ["mem://r:1"], "peers": ["mem://b:2"], **options}) as a,
        ):
            await until_linked(a, r, b)
            await until_linked(b, r, a)
            await trio.sleep(20)
            yield net, a, b, r


async def echo(message: p2p.Message) -> bytes:
    """Answer with what was asked."""
    return message.body


async def ask_until_answered(a: p2p.Node, b: p2p.Node) -> float:
    """Ask again and again; how long it took until there was an answer."""
    asked_at = trio.current_time()
    while True:
        try:
            await a.request(b.peer_id, "echo", b"", timeout_s=1)
        except (p2p.RequestTimeout, p2p.NotConnected):
            await trio.sleep(0.1)
            continue
        return trio.current_time() - asked_at


async def test_a_direct_wire_that_falls_silent_is_left_for_a_relay_within_seconds_and_taken_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with beside_relay() as (net, a, b, _), trio.open_nursery() as nursery:
        await nursery.start(b.serve, "echo", echo)
        net.partition("a", "b")
        limits = p2p.Limits()
        took_s = await ask_until_answered(a, b)
        assert took_s <= 2 * limits.direct_look_s + limits.direct_doubt_s + limits.probe_s_max + 1
        assert not a.get_peer(b.peer_id).direct
        net.heal("a", "b")
        while not a.get_peer(b.peer_id).direct:
            await trio.sleep(1)
        nursery.cancel_scope.cancel()


async def test_a_wire_that_is_cut_to_all_sides_is_no_reason_to_dial(autojump_clock: trio.testing.MockClock) -> None:
    async with beside_relay() as (net, a, b, r), trio.open_nursery() as nursery:
        await nursery.start(b.serve, "echo", echo)
        for other in b, r:
            net.partition("a", other.node_id)
        with trio.move_on_after(p2p.Limits().dead_after_s - p2p.Limits().ping_after_s - 1):
            await ask_until_answered(a, b)
        assert a.counters.connect_attempts == 2, "those of the beginning"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("why", ["the wire is slow", "a reader is slow"])
async def test_a_direct_link_that_is_only_slow_stays_and_loses_nothing(
    why: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with (
        beside_relay() as (net, a, b, _),
        b.channel("count", capacity=1) as count,
        trio.open_nursery() as nursery,
    ):
        messages, size, each_s = (60, 20_000, 0.0) if why == "the wire is slow" else (8, 100, 9.0)
        if why == "the wire is slow":
            net.set_link("a", "b", bytes_per_s=p2p.Limits().frame_bytes_per_s_min)

        @nursery.start_soon
        async def send() -> None:
            for number in range(messages):
                await a.send(b.peer_id, "count", b"%06d" % number + bytes(size))

        for number in range(messages):
            await trio.sleep(each_s)
            assert (await count.receive()).body[:6] == b"%06d" % number
            assert {peer.direct for peer in a.peers()} == {peer.direct for peer in b.peers()} == {True}
