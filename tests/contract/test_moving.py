"""Circuits whose way changes while they serve, on a network in memory: the pair moves, and nothing is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
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


@pytest.mark.parametrize("who_speaks", ["r", "b"])
async def test_what_a_relay_and_its_client_say_on_their_new_link_keeps_no_circuit_on_the_old_one(
    who_speaks: str, autojump_clock: MockClock
) -> None:
    async with a_r_b() as (a, r, b), b.channel("count", capacity=1000) as count:
        await a.connect(f"relay://r/{b.peer_id}")
        await trio.sleep(20)
        begun = trio.current_time()
        speaker, hearer = (r, b) if who_speaks == "r" else (b, r)
        async with hearer.channel("order") as heard:
            for number in range(5):
                # Some of them are on their way over the old link when the new one is taken.
                await speaker.send(hearer.peer_id, "order", b"%d" % number)
            old = await renew(b, r)
            await speaker.send(hearer.peer_id, "order", b"5")
            for number in range(100):
                await a.send(b.peer_id, "count", b"%d" % number)
                await trio.sleep(LATENCY_S)
            assert [int((await heard.receive()).body) for _ in range(6)] == list(range(6))
        assert [int((await count.receive()).body) for _ in range(100)] == list(range(100))
        assert trio.current_time() - begun < p2p.Limits().retire_s_max / 2
        assert r.circuits.relayed_total == 2
        assert old.reason is Reason.MOVED and old.clean
        assert a.counters.messages_unsent == 0


async def test_a_move_that_fails_is_tried_again_while_the_old_link_is_there(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_r_b() as (a, r, b):
        await a.connect(f"relay://r/{b.peer_id}")
        await trio.sleep(20)
        assert a._rooms is not None
        dial, failures = a._rooms.dialer.dial, [Reason.FULL, Reason.TIMEOUT]

        async def fail_twice(endpoint: p2p.PeerEndpoint, **how: Any) -> Connection:
            if failures:
                raise p2p.ConnectFailed(failures.pop(), "as if the relay was busy")
            return await dial(endpoint, **how)

        monkeypatch.setattr(a._rooms.dialer, "dial", fail_twice)
        old = await renew(b, r)
        await trio.sleep(p2p.Limits().retire_s_max)
        assert not failures and r.circuits.relayed_total == 2
        assert old.reason is Reason.MOVED and old.clean
        assert sees(a, b) and sees(b, a)


@pytest.mark.parametrize("who_speaks", ["r", "b"])
async def test_a_handler_that_keeps_the_old_link_to_a_relay_keeps_nobody_from_the_new_one(
    who_speaks: str, autojump_clock: MockClock
) -> None:
    async with a_r_b() as (a, r, b), trio.open_nursery() as nursery:
        may_answer = trio.Event()

        async def slow(message: p2p.Message) -> bytes:
            await may_answer.wait()
            return message.body

        async def echo(message: p2p.Message) -> bytes:
            return message.body

        answers: list[bytes] = []

        async def ask() -> None:
            answers.append(await b.request(r.peer_id, "slow", b"asked on the old link", timeout_s=50))

        await nursery.start(r.serve, "slow", slow)
        await nursery.start(b.serve, "echo", echo)
        nursery.start_soon(ask)
        await trio.sleep(1)
        old = await renew(b, r)
        await a.connect(f"relay://r/{b.peer_id}")
        speaker, hearer = (r, b) if who_speaks == "r" else (b, r)
        async with hearer.channel("said") as heard:
            await speaker.send(hearer.peer_id, "said", b"on the new link")
            with trio.fail_after(10 * LATENCY_S):
                assert (await heard.receive()).body == b"on the new link"
        await trio.sleep(20)
        assert await a.request(b.peer_id, "echo", b"!", timeout_s=2) == b"!"
        assert r.circuits.relayed_total == 1
        assert old.reason is None, "its handler is at it still"
        may_answer.set()
        await old.over.wait()
        # Whoever asked may have his turn only after this task.
        await trio.testing.wait_all_tasks_blocked()
        assert old.clean and answers == [b"asked on the old link"]
        nursery.cancel_scope.cancel()


async def test_a_handler_that_keeps_a_circuit_keeps_nobody_from_the_direct_link_that_takes_its_place(
    autojump_clock: MockClock,
) -> None:
    net = MemoryNetwork(latency_s=LATENCY_S)

    def there(name: str, **options: object) -> AbstractAsyncContextManager[p2p.Node]:
        return p2p.open_node(node_id=name, network=net.network_for(name), network_key=KEY, **options)  # type: ignore[arg-type]

    async def slow(message: p2p.Message) -> None:
        await trio.sleep_forever()

    with trio.fail_after(600):
        async with (
            there("r", relay=True, listen_port=1) as r,
            there("a", listen_port=None, peers=["mem://r:1"]) as a,
            there("b", listen_port=2, peers=["mem://r:1"]) as b,
            b.channel("said") as heard,
            trio.open_nursery() as nursery,
        ):
            await until_linked(a, r)
            await until_linked(r, a, b)
            await nursery.start(b.serve, "slow", slow)
            await a.connect(f"relay://r/{b.peer_id}")
            await trio.sleep(20)
            circuit = link_to(a, b)
            nursery.start_soon(partial(a.request, b.peer_id, "slow", b"", timeout_s=50))
            await trio.sleep(1)
            assert (await a.connect("mem://b:2")).direct
            await a.send(b.peer_id, "said", b"on the direct link")
            with trio.fail_after(10 * LATENCY_S):
                assert (await heard.receive()).body == b"on the direct link"
            assert circuit.reason is None, "its handler is at it still"
            nursery.cancel_scope.cancel()


async def test_circuits_do_not_wait_for_a_relays_own_slow_reader_of_an_older_link(autojump_clock: MockClock) -> None:
    async with (
        a_r_b() as (a, r, b),
        r.channel("slow", capacity=1, when_full="wait") as slow,
        trio.open_nursery() as nursery,
    ):

        async def echo(message: p2p.Message) -> bytes:
            return message.body

        await nursery.start(b.serve, "echo", echo)
        for number in range(6):
            await b.send(r.peer_id, "slow", b"%d" % number)
        old = await renew(b, r)
        await a.connect(f"relay://r/{b.peer_id}")
        await b.send(r.peer_id, "slow", b"on the new link, behind them")
        await trio.sleep(LATENCY_S)
        with trio.fail_after(p2p.Limits().relay_answer_s_max):
            assert await a.request(b.peer_id, "echo", b"!") == b"!"
        await trio.sleep(20)
        assert r.circuits.relayed_total == 1
        assert old.clean
        assert [int((await slow.receive()).body) for _ in range(6)] == list(range(6))
        assert (await slow.receive()).body == b"on the new link, behind them"
        assert slow.dropped == 0
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kib_per_s", [32, 100])
@pytest.mark.parametrize("way", ["moves", "becomes direct"])
async def test_a_pair_that_leaves_a_circuit_amid_a_burst_over_a_slow_link_loses_nothing(
    way: str, kib_per_s: int, autojump_clock: MockClock
) -> None:
    net = MemoryNetwork()

    def there(name: str, **options: object) -> AbstractAsyncContextManager[p2p.Node]:
        return p2p.open_node(node_id=name, network=net.network_for(name), network_key=KEY, **options)  # type: ignore[arg-type]

    with trio.fail_after(600):
        async with (
            there("r", relay=True, listen_port=1) as r,
            there("a", listen_port=None, peers=["mem://r:1"]) as a,
            there("b", listen_port=2, peers=["mem://r:1"]) as b,
            b.channel("count", capacity=1000) as count,
        ):
            await until_linked(a, r)
            await until_linked(b, r)
            await until_linked(r, a, b)
            await a.connect(f"relay://r/{b.peer_id}")
            await trio.sleep(20)
            net.set_link("r", "b", bytes_per_s=kib_per_s * 1024)
            for number in range(45):
                await a.send(b.peer_id, "count", b"%d" % number + b"." + bytes(20 * 1024))
            if way == "moves":
                await renew(b, r)
            else:
                await a.connect("mem://b:2")
            await a.send(b.peer_id, "count", b"45.")
            received = [int((await count.receive()).body.split(b".")[0]) for _ in range(46)]
            assert received == list(range(46))


async def test_messages_whose_turn_did_not_come_before_their_link_was_over_are_counted(
    autojump_clock: MockClock,
) -> None:
    async with a_r_b() as (_, r, b), r.channel("count"):
        assert r._rooms is not None
        supervisor = r._rooms.supervisor
        supervisor._succession.turn = lambda _: trio.sleep_forever()  # type: ignore[method-assign]
        here = link_to(r, b)
        here.after = (link_to(b, r),)
        row = supervisor.on_row(here, "count", [b"", b"", b""])
        assert row is not None
        with trio.move_on_after(1):
            await row()
        assert r.counters.messages_dropped == 3
        await b.send(r.peer_id, "count", b"")
        await trio.sleep(1)
        here.abort(Reason.ABNORMAL)
        await here.over.wait()
        assert r.counters.messages_dropped == 4


async def test_a_circuit_that_was_cut_with_the_old_link_of_its_far_end_is_opened_anew_over_the_only_relay(
    autojump_clock: MockClock,
) -> None:
    async with a_r_b() as (a, r, b):
        await a.connect(f"relay://r/{b.peer_id}")
        await trio.sleep(20)
        # Who opened the circuit does not move it.
        assert a._rooms is not None
        a._rooms.supervisor._replacing[b.peer_id] = trio.CancelScope()
        old = await renew(b, r)
        await old.over.wait()
        await trio.sleep(20 * LATENCY_S)
        assert sees(a, b) and sees(b, a)
        assert r.circuits.relayed_total == 2


async def test_a_circuit_whose_far_link_broke_for_a_moment_is_opened_anew_over_the_only_relay(
    autojump_clock: MockClock,
) -> None:
    async with a_r_b() as (a, r, b):
        await a.connect(f"relay://r/{b.peer_id}")
        await trio.sleep(20)
        link_to(r, b).abort(Reason.ABNORMAL, "as if a router had failed")
        await trio.sleep(p2p.Limits().flapping_s + 5)
        assert sees(r, b), "who dialled comes back"
        assert sees(a, b) and sees(b, a)


async def test_a_link_that_gives_way_is_no_way_to_a_relay_and_the_next_one_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    async with a_r_b() as (a, r, b):
        assert a._rooms is not None
        circuits = a._rooms.circuits
        await a.connect(f"relay://r/{b.peer_id}")
        # The circuit keeps the older link until the end of its time.
        circuits._move = lambda _end: None
        old = await renew(a, r)
        link_to(a, r).abort(Reason.ABNORMAL)
        await link_to(a, r).over.wait()
        assert old.reason is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a._rooms.dialer.dial, R)
            stream = await circuits.connect(p2p.PeerEndpoint("r", 0, "relay", str(b.peer_id)))
        assert stream.remote.host == str(r.peer_id)
        stream.abort()


async def test_t72_a_relay_that_renews_its_links_and_leaves_the_old_ones_at_once_gets_no_handshake_for_each(
    autojump_clock: MockClock,
) -> None:
    async with a_r_b() as (a, r, b):
        await a.connect(f"relay://r/{b.peer_id}")
        for _ in range(100):
            # As the relay would do it, if it could dial.
            (await renew(a, r)).abort(Reason.MOVED)
            await trio.sleep(3)
        assert 1 < r.circuits.relayed_total < 20


async def test_t72_a_relay_that_spoils_every_circuit_is_asked_ever_more_seldom(autojump_clock: MockClock) -> None:
    async with a_r_b() as (a, r, b):
        await a.connect(f"relay://r/{b.peer_id}")
        assert r._rooms is not None
        began = trio.current_time()
        while trio.current_time() < began + 300:
            if sees(a, b) and sees(b, a):
                for passage in tuple(r._rooms.circuits._switch._passages):
                    r._rooms.circuits._switch._break(passage, Reason.MOVED)
            await trio.sleep(1)
        assert 8 < r.circuits.relayed_total < 15


async def test_what_a_link_that_carries_circuits_has_to_deliver_comes_before_what_is_sent_on_the_next(
    autojump_clock: MockClock,
) -> None:
    async with a_r_b() as (a, r, b), b.channel("order", capacity=1, when_full="wait") as heard:
        await a.connect(f"relay://r/{b.peer_id}")
        await trio.sleep(20)
        # Who opened the circuit does not move it.
        assert a._rooms is not None
        a._rooms.supervisor._replacing[b.peer_id] = trio.CancelScope()
        received: list[int] = []

        async def read_slowly() -> None:
            while len(received) < 20:
                received.append(int((await heard.receive()).body.rstrip(b"\0")))
                await trio.sleep(LATENCY_S)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_slowly)
            for number in range(10):
                await r.send(b.peer_id, "order", b"%d" % number + bytes(20_000))
            old = await renew(b, r)
            assert len(received) < 10, "some of it is not read yet"
            for number in range(10, 20):
                await r.send(b.peer_id, "order", b"%d" % number)
        assert received == list(range(20))
        assert old.reason is None, "its circuit runs on"
        assert sees(a, b)


async def test_t72_a_relay_that_asks_for_moves_without_end_gets_one_each_half_a_minute(
    autojump_clock: MockClock,
) -> None:
    async with a_r_b() as (a, r, b), b.channel("count", capacity=1000) as count, b.events() as events:
        await a.connect(f"relay://r/{b.peer_id}")
        await trio.sleep(20)
        assert r._rooms is not None
        for number in range(250):
            for passage in r._rooms.circuits._switch._passages:
                passage.sides[0].leg.ask_to_move()
            await a.send(b.peer_id, "count", b"%d" % number)
            await trio.sleep(1)
        assert 1 < r.circuits.relayed_total < 15
        # Who leaves each of his links for the next one is in one place.
        assert not any(isinstance(event, p2p.events.CloneSuspected) for event in events._queue)
        assert [int((await count.receive()).body) for _ in range(250)] == list(range(250))
