"""Circuits and routes between real nodes over TCP on loopback: what docs/paths.md promises."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing

import p2p
from p2p.errors import Reason
from p2p.limits import KIB, Limits
from p2p.msg import Relay
from p2p.peer.connection import Connection
from p2p.policy.routes import TTL_MAX
from p2p.relay.end import CircuitEnd
from p2p.relay.switch import DeadEnd, Switch
from p2p.transport.memory import MemoryNetwork
from tests.clocks import as_it_goes
from tests.contract.hosts import Host
from tests.contract.relays import KEY, at, client_of, relay_node, until, until_linked


@asynccontextmanager
async def a_r_b(**options: object) -> AsyncIterator[tuple[p2p.Node, p2p.Node, p2p.Node]]:
    """A and B, each connected to the relay R only."""
    with trio.fail_after(60):
        async with (
            relay_node() as r,
            client_of(r, node_id="a", **options) as a,
            client_of(r, node_id="b", **options) as b,
        ):
            yield a, r, b


@asynccontextmanager
async def a_r_b_in_memory() -> AsyncIterator[tuple[p2p.Node, p2p.Node, p2p.Node]]:
    """The same on a simulated network, for tests that wait until the time of something is over."""
    net, mem = MemoryNetwork(), "mem://r:1"

    def there(name: str, **options: object) -> AbstractAsyncContextManager[p2p.Node]:
        return p2p.open_node(node_id=name, network=net.network_for(name), network_key=KEY, **options)  # type: ignore[arg-type]

    with trio.fail_after(600):
        async with (
            there("r", relay=True, listen_port=1) as r,
            there("a", listen_port=None, peers=[mem]) as a,
            there("b", listen_port=None, peers=[mem]) as b,
        ):
            for one, other in ((a, r), (b, r), (r, a), (r, b)):
                await until_linked(one, other)
            yield a, r, b


async def until_route(node: p2p.Node, target: p2p.Node) -> None:
    while node.routes.resolve(target.peer_id) is None:
        await trio.sleep(0.01)


async def test_a_peer_behind_a_relay_is_reached_and_answers() -> None:
    async with a_r_b() as (a, r, b), b.channel("chat") as at_b, a.channel("chat") as at_a:
        peer = await a.connect(f"relay://r/{b.peer_id}")
        assert (peer.peer_id, peer.node_id, peer.direct) == (b.peer_id, "b", False)
        assert str(peer.endpoint) == f"relay://r/{b.peer_id}"
        await a.send(peer, "chat", b"hi")
        message = await at_b.receive()
        assert (message.body, message.peer_id, message.peer.direct) == (b"hi", a.peer_id, False)
        await b.send(message.peer_id, "chat", b"there")
        assert (await at_a.receive()).body == b"there"
        assert (r.circuits.relayed, a.circuits.ends, b.circuits.ends) == (1, 1, 1)
        reply = await a.ping(b.peer_id)
        assert reply.peer.peer_id == b.peer_id
        assert 0 < reply.rtt_s < 60
        again = await a.connect(f"relay://r/{b.peer_id}")
        assert again.connected_at == peer.connected_at
        await a.disconnect(b.peer_id)
        assert a.circuits.ends == 0
        while r.circuits.relayed:
            await trio.sleep(0.01)


async def test_what_is_sent_in_a_row_leaves_in_whole_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of two tasks that are ready has its turn first, sender or writer: a slice costs each node."""
    async with relay_node() as r, client_of(r, node_id="b") as b, client_of(r, node_id="a") as a:
        async with b.channel("x", capacity=4096) as there:
            await a.connect(f"relay://r/{b.peer_id}")
            link, next_bytes, writes = a._rooms.roster.links[b.peer_id], Connection._next_bytes, list[int]()

            def noted(writer: Connection) -> bytes:
                chunk = next_bytes(writer)
                if writer is link and chunk:
                    writes.append(len(chunk))
                return chunk

            monkeypatch.setattr(Connection, "_next_bytes", noted)
            for number in range(4000):
                await a.send(b.peer_id, "x", b"%04d" % number + bytes(KIB))
            for number in range(4000):
                assert (await there.receive()).body[:4] == b"%04d" % number
        assert sum(size < 0.9 * Limits().relay_write_bytes for size in writes) <= len(writes) // 5, writes


async def test_what_a_peer_behind_a_relay_appends_is_confirmed_by_the_peer_itself() -> None:
    async with a_r_b() as (a, _, b):
        await a.connect(f"relay://r/{b.peer_id}")
        seq = (await a.wal.append_many([b"%d" % n for n in range(1000)]))[-1]
        await b.wal.append(b"from b")
        # R is one of the two peers. The other one can only be B, over the circuit.
        await a.wal.wait_replicated(seq, peers=2)
        assert b.wal.heads()[a.peer_id] == a.wal.heads()[a.peer_id]


async def test_a_route_that_is_set_leads_there_until_it_is_removed() -> None:
    async with a_r_b() as (a, r, b), b.channel("chat") as chat:
        with pytest.raises(p2p.NotConnected):
            await a.send(b.peer_id, "chat", b"no way yet")
        a.routes.upsert_route(b.peer_id, p2p.Route(r.peer_id, via_relay=True))
        await a.send(b.peer_id, "chat", b"by route")
        assert (await chat.receive()).body == b"by route"
        assert (await a.connect(str(b.peer_id))).direct is False
        assert [known.route for known in a.routes.list()] == [p2p.Route(r.peer_id, via_relay=True)]
        await a.disconnect(b.peer_id)
        assert a.routes.remove_route(b.peer_id)
        assert not a.routes.remove_route(b.peer_id)
        with pytest.raises(p2p.NotConnected):
            await a.send(b.peer_id, "chat", b"gone")
        with pytest.raises(p2p.ConfigError, match="over itself"):
            a.routes.upsert_route(b.peer_id, p2p.Route(b.peer_id, via_relay=True))
        with pytest.raises(p2p.ConfigError, match="itself"):
            a.routes.upsert_route(a.peer_id, p2p.Route(r.peer_id, via_relay=True))
        with pytest.raises(p2p.UnknownPeer):
            a.routes.resolve("nobody")


async def test_a_wrong_route_is_told_and_leaves_nothing() -> None:
    async with a_r_b() as (a, r, b):
        nobody = p2p.PeerId(bytes(32))
        a.routes.upsert_route(nobody, p2p.Route(r.peer_id, via_relay=True))
        with pytest.raises(p2p.NotConnected, match="no_route"):
            await a.send(nobody, "chat", b"hello?")
        a.routes.upsert_route(b.peer_id, p2p.Route(nobody, via_relay=True))
        with pytest.raises(p2p.NotConnected):
            await a.send(b.peer_id, "chat", b"hello?")
        assert (a.circuits.ends, r.circuits.relayed) == (0, 0)


async def test_clients_that_attach_are_told_of_each_other_and_others_are_not() -> None:
    async with a_r_b(attach=True) as (a, r, b), client_of(r, node_id="c") as c:
        await until_route(a, b)
        await until_route(b, a)
        (known,) = a.routes.list()
        assert (known.target, known.route.next_hop, known.hops, known.is_learnt) == (b.peer_id, r.peer_id, 2, True)
        assert c.routes.list() == []
        async with b.channel("chat") as chat:
            await a.send(b.peer_id, "chat", b"by what R told")
            assert (await chat.receive()).body == b"by what R told"


async def test_two_relays_between_two_nodes() -> None:
    with trio.fail_after(60):
        async with (
            relay_node("r1") as r1,
            relay_node("r2", peers=[at(r1)]) as r2,
            client_of(r1, node_id="a", attach=True) as a,
            client_of(r2, node_id="b", attach=True) as b,
            b.channel("chat") as chat,
        ):
            await until_route(a, b)
            assert a.routes.list()[-1].hops in (2, 3)
            await a.send(b.peer_id, "chat", b"through two")
            message = await chat.receive()
            assert (message.body, message.peer_id) == (b"through two", a.peer_id)
            assert (r1.circuits.relayed, r2.circuits.relayed) == (1, 1)


async def test_a_peer_is_looked_for_behind_the_relays_that_are_named() -> None:
    with trio.fail_after(60):
        async with (
            relay_node() as r,
            client_of(r, node_id="b") as b,
            client_of(node_id="a", via=[at(r)]) as a,
            client_of(node_id="c", via=[at(r)], peers=[f"relay://*/{b.peer_id}"]) as c,
            b.channel("chat") as chat,
        ):
            # B did not ask to be told of: no route leads to it, but the relay knows it.
            await until_linked(a, r)
            await a.send(b.peer_id, "chat", b"found")
            assert (await chat.receive()).body == b"found"
            assert a.routes.resolve(b.peer_id) is None
            await until_linked(c, b, direct=False)


# Trust.


async def test_nobody_is_trusted_on_first_use_through_a_relay() -> None:
    async with a_r_b() as (a, _, b):
        with pytest.raises(p2p.ConnectFailed) as caught:
            await a.connect("relay://r/b")
        assert caught.value.reason is Reason.UNRESOLVED
        assert "peer id" in caught.value.detail
        await a.connect(f"relay://r/{b.peer_id}")
        await a.disconnect(b.peer_id)
        # Having met it does not make its label a strong one.
        with pytest.raises(p2p.ConnectFailed):
            await a.connect("relay://r/b")


async def test_t14_t73_a_label_that_somebody_shows_through_a_relay_is_free_for_its_owner(
    autojump_clock: trio.testing.MockClock,
) -> None:
    net = MemoryNetwork()
    relay, here = Host(net, 0, relay=True), Host(net, 1)
    stranger, owner = Host(net, 2, node_id="till", listen_port=None), Host(net, 3, node_id="till")
    async with trio.open_nursery() as nursery:
        r, a, s = [await nursery.start(host.node().run) for host in (relay, here, stranger)]
        for node in (a, s):
            await node.connect(relay.endpoint)
        met = await a.connect(f"relay://{r.peer_id}/{s.peer_id}")
        assert (met.node_id, met.direct) == ("till", False)
        await a.disconnect(s.peer_id)
        assert "till" not in here.store.pins()
        async with a.events() as events:
            o = await nursery.start(owner.node().run)
            await o.connect(here.endpoint)
            await until_linked(a, o)
            assert [peer.peer_id for peer in a.peers() if peer.node_id == "till"] == [o.peer_id]
            assert here.store.pins()["till"] == o.peer_id
            nursery.cancel_scope.cancel()
            assert not [event async for event in events if isinstance(event, p2p.LabelConflict)]


async def test_a_trust_list_names_who_is_behind_a_relay() -> None:
    with trio.fail_after(60):
        async with relay_node() as r, client_of(r, node_id="b") as b:
            trust = {"b": b.peer_id, "r": r.peer_id}
            async with client_of(r, node_id="a", trust=trust) as a:
                peer = await a.connect("relay://r/b")
                assert peer.peer_id == b.peer_id


async def test_a_node_that_nobody_may_dial_takes_no_circuits() -> None:
    with trio.fail_after(60):
        async with (
            p2p.open_node(node_id="r", listen_host="127.0.0.1", open=True, relay=True) as r,
            p2p.open_node(node_id="closed", peers=[at(r)]) as closed,
            p2p.open_node(node_id="a", peers=[at(r)]) as a,
        ):
            await until_linked(r, a, closed)
            await until_linked(a, r)
            with pytest.raises(p2p.ConnectFailed) as caught:
                await a.connect(f"relay://r/{closed.peer_id}")
            assert caught.value.reason is Reason.NOT_ADMITTED


async def test_a_node_relays_only_when_it_is_told_to() -> None:
    with trio.fail_after(60):
        async with (
            relay_node(relay=False) as r,
            client_of(r, node_id="a", limits=replace(Limits(), relay_wait_s_max=0.05)) as a,
            client_of(r, node_id="b") as b,
        ):
            for relay in ("r", "elsewhere"):
                with pytest.raises(p2p.ConnectFailed) as caught:
                    await a.connect(f"relay://{relay}/{b.peer_id}")
                assert caught.value.reason is Reason.NO_ROUTE


# The graph changes.


async def test_when_the_relay_stops_both_ends_hear_of_it_and_live_on() -> None:
    with trio.fail_after(60):
        async with relay_node() as r:
            async with client_of(r, node_id="a") as a, client_of(r, node_id="b") as b:
                await a.connect(f"relay://r/{b.peer_id}")
                await until_linked(b, a)
                r.stop()
                await r.wait()
                await until(lambda: not a.peers() and not b.peers(), a, b)
                assert (a.circuits.ends, b.circuits.ends) == (0, 0)


async def test_a_second_relay_takes_over() -> None:
    with trio.fail_after(60):
        async with relay_node("r1") as r1, relay_node("r2") as r2, client_of(r1, r2, node_id="b") as b:
            over = [f"relay://r1/{b.peer_id}", f"relay://r2/{b.peer_id}"]
            async with client_of(r1, r2, node_id="a", peers=[at(r1), at(r2), *over]) as a, b.channel("chat") as chat:
                await until_linked(a, b)
                first = r1 if "r1" in str(a.get_peer(b.peer_id).endpoint) else r2
                first.stop()
                await first.wait()
                other = "r2" if first is r1 else "r1"
                await until(lambda: any(other in str(it.endpoint) and not it.direct for it in a.peers()), a)
                await a.send(b.peer_id, "chat", b"still here")
                while (await chat.receive()).body != b"still here":
                    pass
                seq = await a.wal.append(b"x")
                await a.wal.wait_replicated(seq, peers=2)


async def test_learnt_routes_follow_the_relays_that_are_there() -> None:
    with trio.fail_after(60):
        async with (
            relay_node("r1") as r1,
            relay_node("r2") as r2,
            client_of(r1, r2, node_id="a", attach=True) as a,
            client_of(r1, r2, node_id="b", attach=True) as b,
            b.channel("chat") as chat,
        ):
            while len(a.routes.list()) < 2:
                await trio.sleep(0.01)
            await a.send(b.peer_id, "chat", b"one")
            await chat.receive()
            first = r1 if r1.circuits.relayed else r2
            first.stop()
            await first.wait()
            await until(lambda: b.peer_id not in {it.peer_id for it in a.peers()}, a)
            await a.send(b.peer_id, "chat", b"two")
            assert (await chat.receive()).body == b"two"
            other = r2 if first is r1 else r1
            assert other.circuits.relayed_total >= 1
            assert {known.route.next_hop for known in a.routes.list()} == {other.peer_id}


async def test_a_direct_link_takes_over_and_nothing_is_lost_or_out_of_order() -> None:
    with trio.fail_after(60):
        async with (
            relay_node() as r,
            client_of(r, node_id="b", listen_port=0, listen_host="127.0.0.1") as b,
            client_of(r, node_id="a") as a,
            b.channel("count", capacity=100_000) as count,
        ):
            await a.connect(f"relay://r/{b.peer_id}")
            total = 3000

            async def send_all() -> None:
                for number in range(total):
                    await a.send(b.peer_id, "count", b"%d" % number)
                    if number % 10 == 0:
                        await trio.sleep(0)

            async def echo(message: p2p.Message) -> bytes:
                return message.body

            asked = {"a": 0, "b": 0}

            async def ask(node: p2p.Node, peer: p2p.Node) -> None:
                while True:
                    body = b"%d" % asked[node.node_id]
                    assert await node.request(peer.peer_id, "echo", body, timeout_s=30) == body
                    asked[node.node_id] += 1

            async with trio.open_nursery() as nursery:
                for node, peer in ((a, b), (b, a)):
                    await nursery.start(node.serve, "echo", echo)
                    nursery.start_soon(ask, node, peer)
                nursery.start_soon(send_all)
                received = [int((await count.receive()).body) for _ in range(500)]
                before = dict(asked)
                async with a.events() as events:
                    assert (await a.connect(at(b))).direct
                    async for event in events:
                        if isinstance(event, p2p.events.PeerMoved):
                            assert (event.peer.peer_id, event.peer.direct) == (b.peer_id, True)
                            break
                received += [int((await count.receive()).body) for _ in range(total - 500)]
                assert received == list(range(total))
                await until(lambda: a.get_peer(b.peer_id).direct and b.get_peer(a.peer_id).direct, a, b)
                # No question was lost either, and both go on asking over the link that was kept.
                moved = dict(asked)
                while not all(before[name] <= moved[name] < asked[name] for name in asked):
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()
            while r.circuits.relayed:
                await trio.sleep(0.01)


async def test_a_configured_direct_peer_is_still_dialled_while_a_relay_serves() -> None:
    with trio.fail_after(60):
        async with relay_node() as r, client_of(r, node_id="b", listen_port=0, listen_host="127.0.0.1") as b:
            limits = replace(Limits(), backoff_automatic_s=(0.05,), backoff_manual_s=(0.05,), backoff_s_max=0.1)
            place = b.endpoints[0]
            async with client_of(
                r, node_id="a", limits=limits, peers=[at(r), f"{b.peer_id}@127.0.0.1:{place.port}"]
            ) as a:
                await until_linked(a, b, direct=True)


async def test_a_stopping_node_says_goodbye_through_the_relay() -> None:
    with trio.fail_after(60):
        async with relay_node() as r, client_of(r, node_id="b") as b:
            async with b.events() as events:
                async with client_of(r, node_id="a") as a:
                    await a.connect(f"relay://r/{b.peer_id}")
                    await until_linked(b, a)
                async for event in events:
                    if isinstance(event, p2p.events.PeerLeft):
                        assert (event.reason, event.clean) == (Reason.CLOSED, True)
                        break


@pytest.mark.parametrize(
    ("limits", "who", "reason", "why"),
    [
        (replace(Limits(), relay_circuit_bytes_max=200_000), "a", Reason.OVERLOADED, "no more bytes"),
        (replace(Limits(), relay_circuit_bytes_max=200_000), "b", Reason.OVERLOADED, "no more bytes"),
        (replace(Limits(), relay_idle_s_max=10.0), "nobody", Reason.TIMEOUT, "nothing moved"),
    ],
)
async def test_t72_both_ends_of_a_circuit_learn_that_a_relays_limit_ended_it(
    limits: Limits, who: str, reason: Reason, why: str, mock_clock: trio.testing.MockClock
) -> None:
    as_it_goes(mock_clock)
    with trio.fail_after(60):
        async with relay_node(limits=limits) as r, client_of(r, node_id="b") as b, client_of(r, node_id="a") as a:
            async with a.events() as at_a, b.events() as at_b:
                await a.connect(f"relay://r/{b.peer_id}")
                await until_linked(b, a)
                for sender, receiver in {"a": [(a, b)], "b": [(b, a)]}.get(who, []):
                    for _ in range(5):
                        await sender.send(receiver.peer_id, "nobody-reads", bytes(50_000))
                while not r.circuits.broken:
                    if who == "nobody":
                        mock_clock.jump(0.5)
                    await trio.sleep(0.01)
                for events in (at_a, at_b):
                    async for event in events:
                        if isinstance(event, p2p.events.PeerLeft):
                            assert (event.reason, event.clean) == (reason, False)
                            assert why in event.detail
                            break


# What a relay can and cannot do. The relay is ours, with a switch that is not honest.


Meddle = Callable[[Relay], list[Relay]]


def corrupt(relay: p2p.Node, meddle: Meddle, monkeypatch: pytest.MonkeyPatch) -> list[Relay]:
    """Let a relay change the slices that pass through it; returns what it saw."""
    honest, seen = Switch.receive, list[Relay]()

    def receive(switch: Switch, key: int, message: Relay, now: float) -> None:
        if switch is not switch_of(relay):
            honest(switch, key, message, now)
            return
        seen.append(message)
        for each in meddle(message) if message.kind == Relay.DATA else [message]:
            honest(switch, key, each, now)

    monkeypatch.setattr(Switch, "receive", receive)
    return seen


def switch_of(node: p2p.Node) -> Switch:
    rooms = node._rooms
    assert rooms is not None
    return rooms.circuits._switch


def flips(message: Relay) -> list[Relay]:
    changed = bytearray(message.payload)
    changed[-1] ^= 1
    return [Relay(message.circuit, Relay.DATA, payload=bytes(changed))]


def doubles(message: Relay) -> list[Relay]:
    return [message, message]


def drops(message: Relay) -> list[Relay]:
    return []


def forges(message: Relay) -> list[Relay]:
    return [message, Relay(message.circuit, Relay.DATA, payload=message.payload[::-1])]


def cuts(message: Relay) -> list[Relay]:
    return [Relay(message.circuit, Relay.DATA, payload=message.payload[:-1])]


def reorders() -> Meddle:
    kept: list[Relay] = []

    def meddle(message: Relay) -> list[Relay]:
        kept.append(message)
        if len(kept) % 2:
            return []
        return [message, kept[-2]]

    return meddle


@pytest.mark.parametrize("meddle", [flips, doubles, drops, forges, cuts, reorders()], ids=lambda it: it.__name__)
async def test_t72_a_relay_that_changes_what_passes_loses_the_session_and_changes_nothing(
    meddle: Meddle, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with a_r_b_in_memory() as (a, r, b), b.channel("chat", capacity=10_000) as chat:
        await a.connect(f"relay://r/{b.peer_id}")
        await until_linked(b, a)
        await a.send(b.peer_id, "chat", b"before")
        assert (await chat.receive()).body == b"before"
        corrupt(r, meddle, monkeypatch)
        for number in range(10):
            try:
                await a.send(b.peer_id, "chat", b"honest %d" % number)
            except p2p.NotConnected:
                break
            await trio.sleep(0)
        await until(lambda: b.peer_id not in {it.peer_id for it in a.peers()}, a)
        await until(lambda: a.peer_id not in {it.peer_id for it in b.peers()}, b)
        bodies = [(await chat.receive()).body for _ in range(len(chat))]
        assert bodies == [b"honest %d" % number for number in range(len(bodies))]
        assert [it.node_id for it in a.peers()] == [it.node_id for it in b.peers()] == ["r"]


async def test_t72_a_relay_that_lets_handshakes_pass_and_nothing_else_is_left_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with trio.fail_after(60):
        async with relay_node("r1") as r1, relay_node("r2") as r2:
            via = {"peers": [], "via": [at(r1), at(r2)]}
            async with (
                client_of(r1, r2, node_id="b", **via) as b,
                client_of(r1, r2, node_id="a", **via) as a,
                b.channel("chat") as chat,
            ):
                await a.send(b.peer_id, "chat", b"over either")
                await chat.receive()
                wrong, right = (r1, r2) if str(r1.peer_id) in str(a.get_peer(b.peer_id).endpoint) else (r2, r1)
                corrupt(wrong, lambda it: flips(it) if len(it.payload) > 1000 else [it], monkeypatch)
                await a.send(b.peer_id, "chat", bytes(2000))
                await until(lambda: b.peer_id not in {it.peer_id for it in a.peers()}, a)
                await until(lambda: a.peer_id not in {it.peer_id for it in b.peers()}, b)
                await a.send(b.peer_id, "chat", bytes(3000))
                assert len((await chat.receive()).body) == 3000
                assert str(right.peer_id) in str(a.get_peer(b.peer_id).endpoint)


async def test_t72_a_relay_cannot_get_one_client_banned_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_r_b() as (a, r, b), b.channel("chat") as chat:
        with monkeypatch.context() as patch:
            for _ in range(12):
                await a.connect(f"relay://r/{b.peer_id}")
                await until_linked(b, a)
                corrupt(r, flips, patch)
                await a.send(b.peer_id, "chat", b"changed on the way")
                await until(lambda: b.peer_id not in {it.peer_id for it in a.peers()}, a)
                await until(lambda: a.peer_id not in {it.peer_id for it in b.peers()}, b)
                patch.undo()
        await a.connect(f"relay://r/{b.peer_id}")
        await a.send(b.peer_id, "chat", b"honest")
        assert (await chat.receive()).body == b"honest"


async def test_t72_a_ring_of_relays_with_a_wrong_route() -> None:
    with trio.fail_after(60):
        async with (
            relay_node("r1") as r1,
            relay_node("r2", peers=[at(r1)]) as r2,
            relay_node("r3", peers=[at(r1), at(r2)]) as r3,
            client_of(r1, node_id="a") as a,
            client_of(r3, node_id="b") as b,
        ):
            await until_linked(r3, r1, r2)
            await until_linked(r1, r2, r3)
            await until_linked(r2, r1)
            nobody = p2p.PeerId(bytes(32))
            for relay, following in ((r1, r2), (r2, r3), (r3, r1)):
                relay.routes.upsert_route(nobody, p2p.Route(following.peer_id, via_relay=True))
            a.routes.upsert_route(nobody, p2p.Route(r1.peer_id, via_relay=True))
            with pytest.raises(p2p.NotConnected, match="no_route"):
                await a.send(nobody, "chat", b"round and round")
            # Where it comes round the first relay knows whose neighbour it is that asks.
            assert [relay.circuits.relayed_total for relay in (r1, r2, r3)] == [1, 1, 1]
            while any(relay.circuits.relayed for relay in (r1, r2, r3)):
                await trio.sleep(0.01)
            # The ring still serves who can be reached through it.
            r1.routes.upsert_route(b.peer_id, p2p.Route(r3.peer_id, via_relay=True))
            assert (await a.connect(f"relay://r1/{b.peer_id}")).peer_id == b.peer_id


async def test_t72_a_relay_sees_ciphertext_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_r_b() as (a, r, b), b.channel("secret-channel") as chat:
        seen = corrupt(r, lambda message: [message], monkeypatch)
        await a.connect(f"relay://r/{b.peer_id}")
        await a.send(b.peer_id, "secret-channel", b"attack at dawn" * 100)
        assert (await chat.receive()).body == b"attack at dawn" * 100
        passed = b"".join(message.payload for message in seen)
        assert len(passed) > 1400
        assert b"attack at dawn" not in passed
        assert b"secret-channel" not in passed
        assert bytes(b.peer_id) not in passed


async def test_t72_a_relay_cannot_let_another_one_pose_as_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_r_b() as (a, r, b), client_of(r, node_id="c") as c:
        real = Switch.receive

        def receive(self: Switch, key: int, message: Relay, now: float) -> None:
            if message.kind == Relay.OPEN and self is switch_of(r):
                message = Relay(message.circuit, Relay.OPEN, message.source, str(c.peer_id), message.ttl)
            real(self, key, message, now)

        monkeypatch.setattr(Switch, "receive", receive)
        with pytest.raises(p2p.ConnectFailed) as caught:
            await a.connect(f"relay://r/{b.peer_id}")
        assert caught.value.reason is Reason.WRONG_PEER
        assert [it.node_id for it in a.peers()] == [it.node_id for it in c.peers()] == ["r"]


async def test_t72_a_relay_cannot_pass_one_client_off_as_another(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_r_b() as (a, r, b), client_of(r, node_id="c") as c:
        real = Switch.receive

        def receive(self: Switch, key: int, message: Relay, now: float) -> None:
            if message.kind == Relay.OPEN and self is switch_of(b):
                message = Relay(message.circuit, Relay.OPEN, str(c.peer_id), message.target, message.ttl - 1)
            real(self, key, message, now)

        monkeypatch.setattr(Switch, "receive", receive)
        with pytest.raises(p2p.ConnectFailed) as caught:
            await a.connect(f"relay://r/{b.peer_id}")
        assert caught.value.reason is Reason.WRONG_PEER
        assert [it.node_id for it in b.peers()] == ["r"]


async def test_t72_a_relay_that_lies_about_routes_costs_an_attempt() -> None:
    with trio.fail_after(60):
        async with (
            relay_node("liar") as liar,
            relay_node("honest") as honest,
            client_of(honest, node_id="b", attach=True) as b,
            client_of(liar, honest, node_id="a", attach=True) as a,
            b.channel("chat") as chat,
        ):
            await until_route(a, b)
            entry = p2p.msg.Attached((p2p.msg.AttachedEntry(b.peer_id, 1),))
            liar._rooms.roster.links[a.peer_id].send_control(entry)  # type: ignore[union-attr]
            while len(a.routes.list()) < 2:
                await trio.sleep(0.01)
            await a.send(b.peer_id, "chat", b"all the same")
            assert (await chat.receive()).body == b"all the same"


async def test_t72_relay_messages_inside_a_circuit_end_it() -> None:
    async with a_r_b() as (a, _, b):
        await a.connect(f"relay://r/{b.peer_id}")
        link = a._rooms.roster.links[b.peer_id]  # type: ignore[union-attr]
        link.send_control(Relay(2, Relay.OPEN, str(a.peer_id), str(b.peer_id), 8))
        await until(lambda: b.peer_id not in {it.peer_id for it in a.peers()}, a)
        assert link.reason is Reason.PROTOCOL or not link.is_live


async def test_one_may_connect_ask_and_leave_as_often_as_one_likes() -> None:
    with trio.fail_after(60):
        async with relay_node() as r, client_of(r, node_id="a") as a, client_of(r, node_id="b") as b:
            for _ in range(p2p.Limits().relay_incoming_burst + 8):
                await a.connect(f"relay://r/{b.peer_id}")
                await a.disconnect(b.peer_id)


async def test_t72_who_asks_and_gives_up_keeps_nobody_else_out() -> None:
    with trio.fail_after(60):
        async with (
            relay_node() as r,
            client_of(r, node_id="x") as x,
            client_of(r, node_id="a") as a,
            client_of(r, node_id="b") as b,
        ):
            assert x._rooms is not None
            for _ in range(100):
                seen = r.circuits.relayed_total + r.circuits.refused_total
                given_up = x._rooms.circuits._switch.open(r.peer_id, b.peer_id)
                while r.circuits.relayed_total + r.circuits.refused_total == seen:
                    # Of one that is given up before the relay has read it the target never hears.
                    await trio.sleep(0.001)
                given_up.abort(Reason.DISCONNECTED)
                end = x._rooms.circuits._switch.open(r.peer_id, b.peer_id)
                while not end.is_open and end.reason is None:
                    await trio.sleep(0.001)
                end.abort(Reason.DISCONNECTED)
            assert end.reason is Reason.OVERLOADED
            assert b.circuits.refused_total > 0
            for _ in range(5):
                await a.connect(f"relay://r/{b.peer_id}")
                await a.disconnect(b.peer_id)


async def test_t72_a_relay_that_asks_in_the_name_of_another_keeps_him_out_at_no_other_relay() -> None:
    with trio.fail_after(60):
        async with relay_node("x") as x, relay_node("r") as r, client_of(r, node_id="a") as a:
            async with client_of(x, r, node_id="b") as b:
                assert x._rooms is not None
                switch = x._rooms.circuits._switch
                link = switch._by_peer[b.peer_id]
                for _ in range(p2p.Limits().prefix_burst + 4):
                    side = switch._new_side(link, link.take_number())
                    side.end = CircuitEnd(side.leg, p2p.Limits(), relay=b.peer_id, far=b.peer_id, is_opener=True)
                    side.leg.open(str(a.peer_id), str(b.peer_id), 7)
                    side.end.take()
                while b.circuits.refused_total < 4:
                    await trio.sleep(0.01)
                assert (await a.connect(f"relay://r/{b.peer_id}")).peer_id == b.peer_id


async def test_t72_who_does_not_relay_is_not_listened_to_and_one_that_lies_is_asked_last() -> None:
    with trio.fail_after(60):
        async with (
            relay_node("r2") as r2,
            relay_node("r1", peers=[at(r2)]) as r1,
            relay_node("liar", peers=[at(r1)]) as liar,
            client_of(r1, node_id="x", attach=True) as x,
            client_of(r1, node_id="a", attach=True) as a,
        ):
            b_id = p2p.PeerId(bytes([7]) * 32)
            lie = p2p.msg.Attached((p2p.msg.AttachedEntry(b_id, 1),))
            assert r1._rooms is not None
            router = r1._rooms.paths.router
            for teller in (x, liar):
                assert teller._rooms is not None
                teller._rooms.roster.links[r1.peer_id].send_control(lie)
                await teller.ping(r1.peer_id)
            assert [known.route.next_hop for known in router.routes_to(b_id)] == [liar.peer_id]
            with pytest.raises(p2p.ConnectFailed) as caught:
                await a.connect(f"relay://r1/{b_id}")
            assert caught.value.reason is Reason.NO_ROUTE
            # It may tell it again: who tells of the same comes first from here on.
            assert router.routes_to(b_id) == []
            router.learn(r2.peer_id, [(b_id, 4)], trio.current_time())
            router.learn(liar.peer_id, [(b_id, 1)], trio.current_time())
            assert [known.route.next_hop for known in router.routes_to(b_id)] == [r2.peer_id, liar.peer_id]


async def test_a_way_is_forgotten_where_there_is_none_and_not_where_it_is_busy() -> None:
    with trio.fail_after(60):
        async with relay_node() as r, client_of(r, node_id="a", attach=True) as a:
            assert a._rooms is not None
            paths = a._rooms.paths
            there = p2p.PeerId(bytes([7]) * 32)
            paths.router.learn(r.peer_id, [(there, 1)], trio.current_time())
            now = trio.current_time()
            for reason in (Reason.FULL, Reason.TIMEOUT):
                # As when others asked to be passed on.
                paths.dead_end(DeadEnd(there, r.peer_id, TTL_MAX, reason))
                assert paths.router.resolve(there) is not None
                assert paths.router.broken_until(there, r.peer_id, now) > now
            with pytest.raises(p2p.NotConnected, match="no_route"):
                await a.send(there, "chat", b"nobody")
            assert paths.router.resolve(there) is None


@pytest.mark.parametrize("who", ["a", "b"])
async def test_a_pair_in_a_circuit_moves_with_a_link_to_the_relay_and_nothing_is_lost(who: str) -> None:
    limits = replace(p2p.Limits(), flapping_s=0.0)
    with trio.fail_after(60):
        async with (
            relay_node() as r,
            client_of(r, node_id="a", limits=limits) as a,
            client_of(r, node_id="b") as b,
            b.channel("count", capacity=100_000) as count,
        ):
            await a.connect(f"relay://r/{b.peer_id}")
            received: list[int] = []
            served = trio.Event()

            async def slow(_message: p2p.Message) -> bytes:
                served.set()
                await moved.wait()
                return b"answered"

            async def send_all() -> None:
                number = 0
                while not moved.is_set() or number < 500:
                    await a.send(b.peer_id, "count", b"%d" % number)
                    number += 1
                    await trio.sleep(0)
                await a.send(b.peer_id, "count", b"-1")

            moved = trio.Event()
            async with trio.open_nursery() as nursery:
                await nursery.start(b.serve, "slow", slow)

                async def ask() -> None:
                    assert await a.request(b.peer_id, "slow", b"", timeout_s=3600) == b"answered"

                nursery.start_soon(ask)
                await served.wait()
                nursery.start_soon(send_all)
                # Another link to the relay takes the place of the one that the circuit runs over.
                await {"a": a, "b": b}[who].connect(f"tcp://localhost:{r.endpoints[0].port}")
                while r.circuits.relayed_total < 2:
                    await trio.sleep(0.01)
                moved.set()
                while (number := int((await count.receive()).body)) >= 0:
                    received.append(number)
                assert received == list(range(len(received)))
                nursery.cancel_scope.cancel()
            assert a.counters.messages_unsent == b.counters.messages_unsent == 0
            assert a._rooms is not None
            assert a._rooms.paths.router.broken_until(b.peer_id, r.peer_id) < 0


async def test_t72_a_flood_that_a_relay_may_have_made_costs_the_peer_nothing() -> None:
    with trio.fail_after(60):
        async with relay_node() as r, client_of(r, node_id="a") as a, client_of(r, node_id="b") as b:
            await a.connect(f"relay://r/{b.peer_id}")
            assert a._rooms is not None
            supervisor, now = a._rooms.supervisor, a.config.clock.monotonic()
            for peer, points in ((b, 0), (r, Reason.OVERLOADED.penalty)):
                link = a._rooms.roster.links[peer.peer_id]
                for _ in range(2):
                    supervisor.on_flood(link)
                assert a._rooms.scores.points(peer.peer_id, now) == points


async def test_a_node_is_no_way_to_itself_and_says_so() -> None:
    async with relay_node() as r, client_of(r, node_id="a", attach=True) as a:
        with pytest.raises(p2p.NotConnected, match="this node itself"):
            await a.ping(a.peer_id)
    with pytest.raises(p2p.ConfigError, match="where the relay itself listens"):
        p2p.NodeConfig("a", via=("relay://r/b",))


@asynccontextmanager
async def two_ways(latency_s: float = 0.0) -> AsyncIterator[tuple[MemoryNetwork, p2p.Node, p2p.Node, p2p.Node]]:
    """Two nodes in a network that can be cut, behind two relays, with a link over the one that is returned."""
    net = MemoryNetwork(latency_s=latency_s)

    def there(name: str, **options: object) -> AbstractAsyncContextManager[p2p.Node]:
        return p2p.open_node(node_id=name, network=net.network_for(name), network_key=KEY, **options)  # type: ignore[arg-type]

    with trio.fail_after(500):
        async with there("r1", relay=True, listen_port=1) as r1, there("r2", relay=True, listen_port=1) as r2:
            via = ["mem://r1:1", "mem://r2:1"]
            async with there("b", listen_port=None, via=via) as b, there("a", listen_port=None, via=via) as a:
                for node in (a, b):
                    await until_linked(node, r1, r2)
                for node in (r1, r2):
                    await until_linked(node, a, b)
                await a.connect(f"relay://{r1.peer_id}/{b.peer_id}")
                yield net, a, b, r1


async def test_a_frozen_relay_is_left_within_seconds_and_what_only_waited_is_not_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_ways() as (net, a, b, r1), b.channel("count", capacity=100_000) as count:
        number = 0

        async def say(size: int) -> None:
            nonlocal number
            await a.send(b.peer_id, "count", b"%06d" % number + bytes(size))
            number += 1

        for _ in range(10):
            await say(100)
        received = [int((await count.receive()).body[:6]) for _ in range(10)]
        for node in (a, b):
            net.partition(r1.node_id, node.node_id)
        frozen_at = trio.current_time()
        # More than is ever under way, so that some of it only waits.
        assert a._rooms is not None
        link = a._rooms.roster.links[b.peer_id]
        while link.outbox_bytes < 100_000:
            await say(20_000)
            await trio.testing.wait_all_tasks_blocked()
        first_kept = number - 5
        for _ in range(20):
            await say(20_000)
        while not received or received[-1] < number - 1:
            received.append(int((await count.receive()).body[:6]))
        assert trio.current_time() - frozen_at < 15
        assert a.get_peer(b.peer_id).endpoint.host != str(r1.peer_id)
        assert received == sorted(set(received))
        assert set(range(first_kept, number)) <= set(received)
        assert a.counters.messages_unsent == 0


async def test_a_relay_that_freezes_amid_bulk_was_quick_and_is_left_as_soon_as_one_that_idled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_ways() as (net, a, b, r1), b.channel("bulk", capacity=1000) as bulk, trio.open_nursery() as nursery:
        came_at: list[float] = []

        @nursery.start_soon
        async def send() -> None:
            while True:
                await a.send(b.peer_id, "bulk", bytes(50_000))
                await trio.sleep(0.02)

        @nursery.start_soon
        async def receive() -> None:
            async for _ in bulk:
                came_at.append(trio.current_time())

        await trio.sleep(5)
        net.partition(r1.node_id, "a")
        frozen_at = trio.current_time()
        await trio.sleep(30)
        # Found out at one end, and then at the other, which waits for what may be in the circuit.
        assert next(at for at in came_at if at > frozen_at) - frozen_at < 10
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("latency_s", [0.0, 0.02])
async def test_two_that_begin_to_talk_at_the_same_time_lose_nothing(
    latency_s: float, autojump_clock: trio.testing.MockClock
) -> None:
    async with two_ways(latency_s) as (_, a, b, _), a.channel("count") as at_a, b.channel("count") as at_b:
        await a.disconnect(b.peer_id)
        await trio.sleep(5)

        async def echo(message: p2p.Message) -> bytes:
            return message.body

        async def talk(one: p2p.Node, other: p2p.Node) -> None:
            for number in range(5):
                await one.send(other.peer_id, "count", b"%d" % number)
                await one.request(other.peer_id, "echo", b"")

        async with trio.open_nursery() as serving:
            for node in (a, b):
                await serving.start(node.serve, "echo", echo)
            async with trio.open_nursery() as talking:
                talking.start_soon(talk, a, b)
                talking.start_soon(talk, b, a)
            for channel in (at_a, at_b):
                assert [(await channel.receive()).body for _ in range(5)] == [b"%d" % number for number in range(5)]
            serving.cancel_scope.cancel()


async def test_what_is_sent_after_a_frozen_relay_was_left_does_not_wait_long_for_what_may_be_in_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_ways() as (net, a, b, r1), b.channel("count", capacity=100) as count:
        # After a burst as large may follow; and after circuits that were slow, too.
        await trio.sleep(20)
        assert b._rooms is not None
        b._rooms.roster.links[a.peer_id].life.bear(p2p.Limits().relay_patience_max)
        for _ in range(40):
            await a.send(b.peer_id, "count", bytes(60_000))
        for _ in range(40):
            await count.receive()
        for node in (a, b):
            net.partition(r1.node_id, node.node_id)
        await a.send(b.peer_id, "count", b"is lost")
        await until(lambda: b.peer_id in {it.peer_id for it in a.peers() if it.endpoint.host != str(r1.peer_id)}, a)
        await a.send(b.peer_id, "count", b"over the other one")
        with trio.fail_after(p2p.Limits().relay_answer_s_max + 1):
            assert (await count.receive()).body == b"over the other one"


async def test_a_question_that_was_not_sent_when_a_relay_froze_is_asked_over_another_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_ways() as (net, a, b, r1):
        net.partition(r1.node_id, "a")
        net.partition(r1.node_id, "b")

        async def echo(message: p2p.Message) -> bytes:
            return message.body

        async with trio.open_nursery() as nursery:
            await nursery.start(b.serve, "echo", echo)
            await a.send(b.peer_id, "nobody", b"awaited from here on")
            await trio.sleep(p2p.Limits().relay_ask_after_s + p2p.Limits().relay_answer_s_max / 2)
            # The circuit is silent by now, and not dead yet.
            assert a.get_peer(b.peer_id).endpoint.host == str(r1.peer_id)
            assert await a.request(b.peer_id, "echo", b"now", timeout_s=10) == b"now"
            nursery.cancel_scope.cancel()
        assert a.get_peer(b.peer_id).endpoint.host != str(r1.peer_id)


async def test_t72_a_relay_that_says_that_it_moves_and_does_not_is_left_for_another_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_ways() as (_, a, b, r1):
        assert r1._rooms is not None
        r1._rooms.roster.links[a.peer_id].close(Reason.MOVED)
        await trio.sleep(1)
        assert a.get_peer(b.peer_id).endpoint.host != str(r1.peer_id)


async def test_a_pair_whose_relay_is_not_there_any_more_to_move_to_takes_another_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_ways() as (net, a, b, r1):
        assert a._rooms is not None
        link = a._rooms.roster.links[b.peer_id]
        net.partition(r1.node_id, "a")
        a._rooms.roster.links[r1.peer_id].abort(Reason.ABNORMAL)
        await link.over.wait()
        a._rooms.supervisor.give_up_on(b.peer_id)
        a._rooms.paths.router._broken.clear()
        await a._rooms.paths.open_anew(b.peer_id, r1.peer_id, trio.current_time(), lambda: None)
        assert a.get_peer(b.peer_id).endpoint.host != str(r1.peer_id)


async def test_who_asks_while_another_circuit_is_put_off_need_not_wait_for_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    net, rare = MemoryNetwork(), replace(Limits(), relay_idle_s_max=3.0)

    def there(name: str, **options: object) -> AbstractAsyncContextManager[p2p.Node]:
        return p2p.open_node(node_id=name, network=net.network_for(name), network_key=KEY, **options)  # type: ignore[arg-type]

    with trio.fail_after(500):
        async with there("r", relay=True, listen_port=1, limits=rare) as r, trio.open_nursery() as nursery:
            via = {"listen_port": None, "via": ["mem://r:1"]}
            async with there("a", **via) as a, there("b", **via) as b:
                await until_linked(r, a, b)
                await nursery.start(b.serve, "echo", lambda asked: asked.body)
                assert a._rooms is not None
                for _ in range(5):
                    assert await a.request(b.peer_id, "echo", b"x", timeout_s=1) == b"x"
                    # Each time that it ends the next one is put off for longer.
                    await a._rooms.roster.links[b.peer_id].over.wait()
                    await trio.sleep(0.1)
                nursery.cancel_scope.cancel()


async def test_who_parts_from_a_peer_whose_relay_broke_is_not_connected_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_ways() as (net, a, b, r1):
        assert a._rooms is not None
        link = a._rooms.roster.links[b.peer_id]
        net.partition(r1.node_id, "b")
        net.partition("r2", "b")
        link.abort(Reason.ABNORMAL, "as if the relay had said so")
        await link.over.wait()
        assert a._rooms.supervisor._replacing
        with pytest.raises(p2p.NotConnected):
            await a.disconnect(b.peer_id)
        net.heal_all()
        await trio.sleep(60)
        assert b.peer_id not in {peer.peer_id for peer in a.peers()}
        assert not a._rooms.supervisor._replacing
