"""Circuits that are silent for a reason, and what becomes of what waited in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import pytest
import trio
import trio.testing

import p2p
from p2p.errors import Reason
from p2p.limits import MIB
from p2p.transport.memory import MemoryNetwork
from tests.contract.relays import KEY, until_linked
from tests.contract.test_relay import two_ways


def there(net: MemoryNetwork, name: str, **options: object) -> AbstractAsyncContextManager[p2p.Node]:
    """A node of that name in a network."""
    return p2p.open_node(node_id=name, network=net.network_for(name), network_key=KEY, **options)  # type: ignore[arg-type]


@asynccontextmanager
async def a_r_b(
    net: MemoryNetwork | None = None, **options: object
) -> AsyncIterator[tuple[MemoryNetwork, p2p.Node, p2p.Node, p2p.Node]]:
    """Two nodes with a link through a relay, in a network that can be slowed down; with options for the second one."""
    net = net or MemoryNetwork()
    via = ["mem://r:1"]
    with trio.fail_after(500):
        async with (
            there(net, "r", relay=True, listen_port=1) as r,
            there(net, "a", listen_port=2, via=via) as a,
            there(net, "b", listen_port=2, via=via, **options) as b,
        ):
            await until_linked(r, a, b)
            await until_linked(a, r)
            await until_linked(b, r)
            await a.connect(f"relay://r/{b.peer_id}")
            yield net, a, r, b


@asynccontextmanager
async def a_r1_r2_b() -> AsyncIterator[tuple[p2p.Node, p2p.Node, p2p.Node, p2p.Node]]:
    """Two nodes with a link through two relays in a row."""
    net = MemoryNetwork()
    with trio.fail_after(500):
        async with (
            there(net, "r1", relay=True, listen_port=1) as r1,
            there(net, "r2", relay=True, listen_port=1, peers=["mem://r1:1"]) as r2,
            there(net, "a", listen_port=2, via=["mem://r1:1"]) as a,
            there(net, "b", listen_port=2, via=["mem://r2:1"]) as b,
        ):
            await until_linked(r1, a, r2)
            await until_linked(r2, b, r1)
            await trio.sleep(60)
            await a.connect(b.peer_id)
            yield a, r1, r2, b


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
            await trio.sleep(p2p.Limits().channel_wait_s_max / 2 - 0.5)
            received.append((await slow.receive()).body)
        assert received == [b"0", b"1", b"2"]
        assert await a.request(b.peer_id, "echo", b"now") == b"now"
        assert ways(r) == 1
        nursery.cancel_scope.cancel()


async def test_who_sends_without_a_pause_while_he_does_not_read_says_that_he_lives_all_the_same(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with (
        a_r_b() as (_, a, r, b),
        trio.open_nursery() as nursery,
        b.channel("slow", capacity=1) as slow,
        a.channel("bulk") as bulk,
    ):
        # More than there is credit for, which comes over the link that rests.
        sizes = iter(range(200))

        async def send_much() -> None:
            for number in sizes:
                await b.send(a.peer_id, "bulk", b"%d." % number + bytes(20_000))

        async def read_all() -> None:
            async for _ in bulk:
                pass

        for number in range(3):
            await r.send(b.peer_id, "slow", b"%d" % number)
        nursery.start_soon(send_much)
        nursery.start_soon(read_all)
        await a.send(b.peer_id, "nobody", b"awaited")
        for _ in range(3):
            await trio.sleep(p2p.Limits().channel_wait_s_max / 2 - 0.5)
            await slow.receive()
        await trio.sleep(5)
        assert next(sizes, None) is None
        assert ways(r) == 1
        nursery.cancel_scope.cancel()


async def test_t72_a_relay_that_swallows_everything_and_gives_a_little_credit_is_not_believed_for_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_ways() as (_, a, b, r1), trio.open_nursery() as nursery:
        assert a._rooms is not None
        assert r1._rooms is not None
        await a.connect(f"relay://{r1.node_id}/{b.peer_id}")
        switch = r1._rooms.circuits._switch
        # It takes what is sent, as an honest one would, and passes nothing on.
        switch._receive_data = lambda side, data, _now: side.leg.took_data(len(data))  # type: ignore[method-assign]
        passage = next(iter(switch._passages))

        async def drip() -> None:
            while not passage.is_broken:
                for side in passage.sides:
                    side.leg.grant(1)
                await trio.sleep(0.5)

        nursery.start_soon(drip)
        begun = trio.current_time()
        nursery.start_soon(a.send, b.peer_id, "nobody", b"awaited")
        with trio.fail_after(30):
            while not passage.is_broken:
                await trio.sleep(0.1)
        limits = p2p.Limits()
        within_s = limits.channel_wait_s_max + limits.relay_ask_after_s + limits.relay_answer_s_max
        now = trio.current_time()
        assert limits.channel_wait_s_max < now - begun <= within_s + 0.5
        assert a._rooms.paths.router.broken_until(b.peer_id, r1.peer_id, now) > now, "its label names it, too"
        nursery.cancel_scope.cancel()


async def test_a_row_of_slow_reads_of_what_a_relay_says_is_left_for_another_relay_and_held_against_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_ways() as (_, a, b, r1), trio.open_nursery() as nursery, b.channel("slow", capacity=1) as slow:
        assert b._rooms is not None
        await nursery.start(b.serve, "echo", echo)
        for number in range(20):
            await r1.send(b.peer_id, "slow", b"%d" % number)

        async def read_slowly() -> None:
            async for _ in slow:
                await trio.sleep(8)

        nursery.start_soon(read_slowly)
        with suppress(p2p.P2PError):
            await a.request(b.peer_id, "echo", b"over the one that is not read", timeout_s=15)
        assert await a.request(b.peer_id, "echo", b"over the other one", timeout_s=5) == b"over the other one"
        assert a.get_peer(b.peer_id).endpoint.host != str(r1.peer_id)
        await trio.sleep(20 * 8)
        # Who did not read does not hold that against the relay.
        now = trio.current_time()
        assert b._rooms.paths.router.broken_until(a.peer_id, r1.peer_id, now) < now
        nursery.cancel_scope.cancel()


async def test_a_channel_without_a_reader_at_a_relay_does_not_slow_down_the_circuits_of_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with a_r1_r2_b() as (a, r1, r2, b), trio.open_nursery() as nursery, r2.channel("unread", capacity=1):
        await nursery.start(b.serve, "echo", echo)

        async def speak() -> None:
            while True:
                await r1.send(r2.peer_id, "unread", b"")
                await trio.sleep(0.05)

        nursery.start_soon(speak)
        await trio.sleep(2 * p2p.Limits().channel_wait_s_max)
        begun = trio.current_time()
        for _ in range(10):
            await a.request(b.peer_id, "echo", b"now")
        assert trio.current_time() - begun < 1
        nursery.cancel_scope.cancel()


async def test_a_relay_does_not_wait_for_a_slow_reader_of_its_own_at_the_cost_of_the_circuits_of_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with a_r1_r2_b() as (a, r1, r2, b), trio.open_nursery() as nursery, r2.channel("slow", capacity=1) as slow:
        await nursery.start(b.serve, "echo", echo)
        for number in range(6):
            await r1.send(r2.peer_id, "slow", b"%d" % number)
        # Nobody reads them: one is queued, and the rest beyond the capacity, after a second in all.
        asked_at = trio.current_time()
        assert await a.request(b.peer_id, "echo", b"now", timeout_s=20) == b"now"
        assert trio.current_time() - asked_at < 2
        await trio.sleep(20)
        assert ways(r1) == 1
        assert [(await slow.receive()).body for _ in range(6)] == [b"%d" % number for number in range(6)]
        assert (len(slow), slow.dropped) == (0, 0)
        nursery.cancel_scope.cancel()


async def test_a_relay_that_reads_slowly_itself_loses_nothing_and_keeps_the_circuits_of_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    # As much may be under way as a kernel takes, which is what several reads bring.
    net = MemoryNetwork(buffer_bytes=4 * MIB)
    async with a_r_b(net) as (_, a, r, b), trio.open_nursery() as nursery, r.channel("slow", capacity=50) as slow:
        received: list[int] = []

        async def read_slowly() -> None:
            async for message in slow:
                received.append(int(message.body[:6]))
                await trio.sleep(0.01)

        async def say_much() -> None:
            for number in range(1500):
                await a.send(r.peer_id, "slow", b"%06d" % number + bytes(1000))

        nursery.start_soon(read_slowly)
        nursery.start_soon(say_much)
        while len(received) < 1500:
            await b.ping(a.peer_id)
            await trio.sleep(0.5)
        assert received == list(range(1500))
        assert (slow.dropped, ways(r)) == (0, 1)
        nursery.cancel_scope.cancel()


async def test_a_relay_that_waits_for_a_slow_reader_of_its_own_stops_when_a_circuit_begins(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with a_r_b() as (_, a, r, b), r.channel("slow", capacity=1) as slow:
        await a.disconnect(b.peer_id)
        for number in range(2):
            await b.send(r.peer_id, "slow", b"%d" % number)
        await trio.sleep(1.5)
        assert len(slow) == 1, "nobody else waits yet"
        opened_at = trio.current_time()
        await a.connect(f"relay://r/{b.peer_id}")
        assert trio.current_time() - opened_at < 2
        assert (len(slow), slow.dropped) == (2, 0)


async def test_what_waited_goes_on_where_the_peer_noticed_first_that_the_relay_is_frozen(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_ways() as (net, b, a, r1), b.channel("count") as count:
        # Who is called `a` opened the circuit: the one who sends is the other.
        assert (a.node_id, b.node_id) == ("b", "a")
        for node in (a, b):
            net.partition(r1.node_id, node.node_id)
        await b.send(a.peer_id, "nobody", b"awaited")
        await trio.sleep(1)
        await a.send(b.peer_id, "count", b"under way, and lost as on any link")
        await trio.sleep(2.5)
        for number in range(20):
            await a.send(b.peer_id, "count", b"%d" % number)
        assert a.get_peer(b.peer_id).endpoint.host == str(r1.peer_id), "the peer did not notice yet"
        with trio.fail_after(10):
            received = [(await count.receive()).body for _ in range(20)]
        assert received == [b"%d" % number for number in range(20)]
        await trio.sleep(20)
        assert a.counters.messages_unsent == 0


async def test_t72_a_silent_relay_makes_nobody_more_patient_with_another_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_ways() as (net, a, b, r1):
        assert a._rooms is not None
        paths, first = a._rooms.paths, a._rooms.roster.links[b.peer_id]
        for node in (a, b):
            net.partition(r1.node_id, node.node_id)
        await a.send(b.peer_id, "nobody", b"awaited")
        await first.over.wait()
        await until_linked(a, b)
        second = a._rooms.roster.links[b.peer_id]
        assert second.endpoint != first.endpoint
        # Nor with this one: it is not slow, as it answers nobody.
        assert (paths.patience_with(first), paths.patience_with(second)) == (1, 1)


@pytest.mark.parametrize("was_quick", [True, False])
async def test_a_relay_that_freezes_amid_a_burst_makes_nobody_more_patient_unless_the_way_may_be_slow(
    was_quick: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with two_ways() as (net, a, b, r1), b.channel("bulk", capacity=100_000) as bulk:
        assert a._rooms is not None
        paths, first = a._rooms.paths, a._rooms.roster.links[b.peer_id]
        body = bytes(p2p.Limits().relay_window_bytes // 20)
        for _ in range(40 if was_quick else 0):
            await a.send(b.peer_id, "bulk", body)
            await bulk.receive()
            await trio.sleep(0.01)
        for node in (a, b):
            net.partition(r1.node_id, node.node_id)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(a.send, b.peer_id, "bulk", body)
            await first.over.wait()
            assert first.reason is Reason.DEAD
            assert paths.patience_with(first) == (1 if was_quick else 2)
            nursery.cancel_scope.cancel()


async def test_a_way_that_is_silent_behind_its_relay_is_given_more_time_there_and_nowhere_else(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_ways() as (net, a, b, r1):
        assert a._rooms is not None
        paths, first = a._rooms.paths, a._rooms.roster.links[b.peer_id]
        net.partition(r1.node_id, b.node_id)
        await a.send(b.peer_id, "nobody", b"awaited")
        await first.over.wait()
        await until_linked(a, b)
        second = a._rooms.roster.links[b.peer_id]
        assert second.endpoint != first.endpoint
        assert (paths.patience_with(first), paths.patience_with(second)) == (2, 1)


async def test_a_relay_at_the_second_hop_that_freezes_is_left_for_another_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    net = MemoryNetwork()
    with trio.fail_after(500):
        async with (
            there(net, "p", relay=True, listen_port=1) as p,
            there(net, "u", relay=True, listen_port=1, peers=["mem://p:1"]) as u,
            there(net, "v", relay=True, listen_port=1, peers=["mem://p:1"]) as v,
            there(net, "a", listen_port=2, via=["mem://p:1"]) as a,
            there(net, "b", listen_port=2, via=["mem://u:1", "mem://v:1"]) as b,
            trio.open_nursery() as nursery,
        ):
            await until_linked(p, a, u, v)
            await until_linked(b, u, v)
            await nursery.start(b.serve, "echo", echo)
            await trio.sleep(60)
            assert await a.request(b.peer_id, "echo", b"1") == b"1"
            used = u if u.circuits.relayed else v
            for other in (p, b):
                net.partition(used.node_id, other.node_id)
            frozen_at = trio.current_time()
            while True:
                with suppress(p2p.P2PError):
                    await a.request(b.peer_id, "echo", b"2", timeout_s=2)
                    break
            assert trio.current_time() - frozen_at < 15
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def a_dial_that_hangs() -> AsyncIterator[tuple[MemoryNetwork, p2p.Node, p2p.Node, p2p.Node]]:
    """Two nodes whose circuit broke, and whose next one is dialled over a relay that says nothing; the other relay."""
    async with two_ways() as (net, a, b, r1):
        assert a._rooms is not None
        net.partition("r2", b.node_id)
        a._rooms.roster.links[b.peer_id].abort(Reason.ABNORMAL, "as if the first relay had failed")
        await trio.sleep(0.5)
        assert [endpoint.host for endpoint in a._rooms.dialer.under_way()] != [str(r1.peer_id)]
        yield net, a, b, r1


async def test_a_dial_that_was_asked_for_does_not_wait_for_one_that_hangs_at_another_relay(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with a_dial_that_hangs() as (_, a, b, r1):
        begun = trio.current_time()
        peer = await a.connect(f"relay://{r1.peer_id}/{b.peer_id}")
        assert trio.current_time() - begun < 1
        assert peer.endpoint.host == str(r1.peer_id)
        # The one that stood aside is content with that link.
        await trio.sleep(15)
        assert a._rooms is not None
        assert not a._rooms.supervisor._replacing
        assert a.get_peer(b.peer_id).endpoint.host == str(r1.peer_id)
        assert ways(r1) == 2


async def test_a_dial_that_stood_aside_for_one_that_failed_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    async with a_dial_that_hangs() as (net, a, b, r1):
        assert r1._rooms is not None
        net.partition(r1.node_id, b.node_id)
        with trio.move_on_after(1):
            await a.connect(f"relay://{r1.peer_id}/{b.peer_id}")
        net.heal_all()
        await until_linked(a, b)
        assert a.get_peer(b.peer_id).endpoint.host != str(r1.peer_id)


async def test_an_idle_circuit_is_pinged_once_each_time_and_not_twice(autojump_clock: trio.testing.MockClock) -> None:
    async with a_r_b() as (_, a, _, b):
        assert a._rooms is not None
        await trio.sleep(20)
        liveness = a._rooms.roster.links[b.peer_id].session._liveness
        before = liveness._pings_sent
        await trio.sleep(10 * p2p.Limits().ping_after_s)
        assert liveness._pings_sent - before <= 10


async def test_what_was_sent_on_a_link_that_is_being_closed_comes_before_what_is_sent_on_the_next(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_ways() as (net, a, b, r1), a.channel("count") as count, trio.open_nursery() as nursery:
        r2 = next(peer.peer_id for peer in a.peers() if peer.peer_id != b.peer_id and peer.node_id == "r2")
        net.partition(a.node_id, r1.node_id)
        for number in range(5):
            await b.send(a.peer_id, "count", b"%d" % number)
        nursery.start_soon(a.disconnect, b.peer_id)
        await trio.sleep(0.5)
        await a.connect(f"relay://{r2}/{b.peer_id}")
        for number in range(5, 10):
            await b.send(a.peer_id, "count", b"%d" % number)
        await trio.sleep(2)
        net.heal_all()
        assert [int((await count.receive()).body) for _ in range(10)] == list(range(10))


async def test_an_answer_that_waited_in_a_circuit_is_not_sent_on_another_link(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_ways() as (_, a, b, _), b.channel("asked") as asked, a.channel("said") as said:
        assert a._rooms is not None
        assert b._rooms is not None
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with trio.CancelScope(), suppress(p2p.P2PError):
                    await a.request(b.peer_id, "asked", b"?", timeout_s=5)

            nursery.start_soon(ask)
            question = await asked.receive()
            here, there_ = b._rooms.roster.links[a.peer_id], a._rooms.roster.links[b.peer_id]
            # Nothing more goes into the circuit until it breaks.
            here._rest = memoryview(b"not yet")
            await b.send(a.peer_id, "said", b"carried over")
            await question.reply(b"!")
            here.abort(Reason.DEAD, "as if the relay were frozen")
            there_.abort(Reason.DEAD, "as if the relay were frozen")
            assert (await said.receive()).body == b"carried over"
            connected_at = a._rooms.roster.links[b.peer_id].connected_at
        await trio.sleep(10)
        assert a._rooms.roster.links[b.peer_id].connected_at == connected_at
        assert b.peer_id in {peer.peer_id for peer in a.peers()}


async def test_who_parts_from_a_peer_while_the_relay_breaks_is_not_connected_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_ways() as (net, a, b, r1), trio.open_nursery() as nursery:
        net.partition(r1.node_id, b.node_id)

        async def breaks() -> None:
            await trio.sleep(1)
            assert r1._rooms is not None
            r1._rooms.roster.links[b.peer_id].abort(Reason.ABNORMAL, "before the other's Goodbye")

        nursery.start_soon(breaks)
        await a.disconnect(b.peer_id)
        await trio.sleep(30)
        assert b.peer_id not in {peer.peer_id for peer in a.peers()}


async def test_a_silent_circuit_leaves_time_for_the_goodbyes_of_direct_links(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_ways() as (net, a, b, r1):
        assert a._rooms is not None
        r2 = next(peer.peer_id for peer in a.peers() if peer.node_id == "r2")
        link = a._rooms.roster.links[r2]
        net.partition(r1.node_id, b.node_id)
        attempts = a.counters.connect_attempts
        a.stop()
        await a.wait()
        assert link.clean
        assert a.counters.connect_attempts == attempts, "whose link is over meanwhile is not dialled again"


@pytest.mark.parametrize("messages", [12, 20, 45])
@pytest.mark.parametrize("slow", [("a", "r"), ("r", "b")])
async def test_a_burst_over_a_slow_link_costs_no_circuit(
    slow: tuple[str, str], messages: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with a_r_b() as (net, a, r, b), b.channel("count") as count:
        await trio.sleep(20)
        net.set_link(*slow, bytes_per_s=p2p.Limits().relay_pace_bytes_per_s)
        for number in range(messages):
            await a.send(b.peer_id, "count", b"%d" % number + b"." + bytes(20 * 1024))
        received = [int((await count.receive()).body.split(b".")[0]) for _ in range(messages)]
        assert received == list(range(messages))
        await trio.sleep(20)
        assert ways(r) == 1
        assert b.peer_id in {peer.peer_id for peer in a.peers()}


async def test_a_node_that_stood_still_looks_at_what_came_meanwhile_before_it_gives_a_circuit_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with a_r_b() as (net, a, r, b):
        for name in ("a", "b"):
            net.set_link("r", name, latency_s=0.05)
        await trio.sleep(20)
        await a.send(b.peer_id, "nobody", b"awaited")
        # Asked by now; the answer arrives while nothing runs here.
        await trio.sleep(p2p.Limits().relay_ask_after_s + 0.17)
        autojump_clock.jump(p2p.Limits().relay_answer_s_max + 0.2)
        await trio.sleep(10)
        assert ways(r) == 1
        assert b.peer_id in {peer.peer_id for peer in a.peers()}


async def test_t72_a_relay_that_takes_an_opening_and_says_nothing_does_not_hide_the_one_beside_it(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = MemoryNetwork()
    via = ["mem://r1:1", "mem://r2:1"]
    with trio.fail_after(500):
        async with (
            there(net, "r1", relay=True, listen_port=1) as r1,
            there(net, "r2", relay=True, listen_port=1) as r2,
            there(net, "a", listen_port=2, via=via) as a,
            there(net, "b", listen_port=2, via=via) as b,
            trio.open_nursery() as nursery,
        ):
            await until_linked(a, r1, r2)
            await until_linked(b, r1, r2)
            await nursery.start(b.serve, "echo", echo)
            while len(a.routes.list()) < 2:
                await trio.sleep(0.1)
            first = a.routes.resolve(b.peer_id)
            assert first is not None
            silent = r1 if first.next_hop == r1.peer_id else r2
            monkeypatch.setattr(silent._rooms.circuits._switch, "receive", lambda *_: None)  # type: ignore[union-attr]
            assert await a.request(b.peer_id, "echo", b"all the same") == b"all the same"
            nursery.cancel_scope.cancel()


async def test_what_a_broken_circuit_left_is_told_as_lost_when_there_is_no_other_way_in_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limits = p2p.Limits()
    async with a_r_b() as (net, a, r, b), b.channel("x") as inbox:
        for node in (a, b):
            net.partition(r.node_id, node.node_id)
        await a.send(b.peer_id, "x", b"on its way")
        await trio.sleep(limits.relay_ask_after_s + limits.relay_answer_s_max / 2)
        await a.send(b.peer_id, "x", b"waits")
        while b.peer_id in {peer.peer_id for peer in a.peers()}:
            await trio.sleep(0.1)
        assert a.counters.messages_unsent == 0
        await trio.sleep(limits.relay_carry_s_max + 1)
        assert a.counters.messages_unsent == 1
        for node in (a, b):
            net.heal(r.node_id, node.node_id)
        await until_linked(a, b)
        with trio.move_on_after(30):
            raise AssertionError(f"it came all the same: {await inbox.receive()}")


async def test_t03_circuits_that_prove_nothing_end_when_their_slot_is_taken(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with a_r_b(limits=p2p.Limits(unauthenticated_max=2)) as (_, a, r, b):
        assert a._rooms is not None
        circuits = a._rooms.circuits
        ends = []
        for _ in range(4):
            ends.append(circuits._switch.open(r.peer_id, b.peer_id))
            await trio.sleep(0.1)
        # The one that says nothing for longest goes first, and long before the time for a handshake is over.
        assert [end.reason is None for end in ends] == [False, False, True, True]
