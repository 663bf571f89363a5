"""The public contract of a node over real TCP on loopback: docs/contract.md, sentence by sentence."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

import p2p
from p2p.errors import Reason
from p2p.limits import KIB
from p2p.windows import SystemClock
from tests.contract.relays import client_of, relay_node

KEY = bytes(range(32))


@asynccontextmanager
async def two_nodes(**options: object) -> AsyncIterator[tuple[p2p.Node, p2p.Node, p2p.Peer]]:
    """Two connected nodes in memory; the peer is b as a sees it."""
    async with (
        p2p.open_node(node_id="a", **options) as a,  # type: ignore[arg-type]  # options of open_node, passed on
        p2p.open_node(node_id="b", **options) as b,  # type: ignore[arg-type]
    ):
        yield a, b, await a.connect(b.endpoints[0])


async def until_connected(node: p2p.Node, count: int = 1) -> None:
    """Wait (by events, not by time) until a node has so many peers."""
    async with node.events() as events:
        while len(node.peers()) < count:
            await events.__anext__()


# Running


async def test_open_node_gives_a_running_node_with_its_real_port() -> None:
    async with p2p.open_node(node_id="a") as node:
        assert [endpoint.host for endpoint in node.endpoints] == ["127.0.0.1"]
        assert node.endpoints[0].port > 0
        assert node.node_id == "a"
        assert len(node.peer_id) == 32


async def test_log_to_hands_lines_to_a_further_sink_for_a_while() -> None:
    first: list[str] = []
    second: list[str] = []

    def broken(line: str) -> None:
        raise ValueError(line)

    node = p2p.Node(p2p.NodeConfig(node_id="a", on_log=first.append))
    with node.log_to(broken), node.log_to(second.append):
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            assert first == second != []
            assert node.counters.hook_failures == len(first)
            node.stop()
    count = len(second)
    node._log_line("later")
    assert first[-1] == "later"
    assert len(second) == count


async def test_the_primitive_is_nursery_start_of_run() -> None:
    async with trio.open_nursery() as nursery:
        node = await nursery.start(p2p.Node(p2p.NodeConfig(node_id="a")).run)
        assert node.endpoints
        node.stop()
        await node.wait()


async def test_a_node_that_does_not_run_says_how_to_start_it() -> None:
    node = p2p.make_tcp_node(p2p.NodeConfig(node_id="a"))
    for use in (node.peers, node.stats, lambda: node.wal, lambda: node.endpoints, lambda: node.peer_id):
        with pytest.raises(p2p.NotStarted, match="open_node"):
            use()
    with pytest.raises(p2p.NotStarted, match="open_node"):
        await node.connect("127.0.0.1:9")
    with pytest.raises(p2p.NotStarted):
        await node.wait()


async def test_a_node_runs_once_and_stop_is_idempotent() -> None:
    async with p2p.open_node(node_id="a") as node:
        node.stop()
        node.stop()
        await node.wait()
        with pytest.raises(p2p.NodeClosed):
            node.peers()
    with pytest.raises(p2p.NodeClosed, match="runs once"):
        await node.run()


async def test_the_runtime_is_the_node_under_vix_names() -> None:
    async with p2p.open_node(node_id="b") as b:
        async with p2p.P2PRuntime(p2p.make_tcp_node(p2p.NodeConfig(node_id="a"))) as runtime:
            peer = await runtime.connect(b.endpoints[0])
            assert peer.node_id == "b"
            assert runtime.stats() == runtime.node.stats()
            runtime.stop()
            await runtime.wait()


# Exceptions


async def test_an_exception_of_the_body_leaves_as_itself() -> None:
    with pytest.raises(ZeroDivisionError):
        async with p2p.open_node(node_id="a"):
            raise ZeroDivisionError


async def test_a_start_failure_is_bare_and_names_the_port() -> None:
    async with p2p.open_node(node_id="a") as node:
        port = node.endpoints[0].port
        with pytest.raises(p2p.AddressInUse, match=str(port)) as caught:
            async with p2p.open_node(node_id="b", listen_port=port):
                raise AssertionError("it must not start")
        assert isinstance(caught.value, OSError)
        assert isinstance(caught.value, p2p.P2PError)


async def test_cancelling_from_outside_ends_the_node_and_nothing_else() -> None:
    with trio.move_on_after(0.2) as scope:
        async with p2p.open_node(node_id="a"):
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_group_of_the_users_own_nursery_stays_a_group() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with p2p.open_node(node_id="a"), trio.open_nursery():
            raise KeyError("mine")
    assert caught.group_contains(KeyError)


async def test_bad_options_are_named() -> None:
    with pytest.raises(p2p.ConfigError, match="prot"):
        async with p2p.open_node(node_id="a", prot=1):  # type: ignore[call-arg]  # what a typo looks like
            pass
    with pytest.raises(p2p.ConfigError, match="node_id"):
        async with p2p.open_node():
            pass
    with pytest.raises(p2p.ConfigError, match="32 random"):
        p2p.NodeConfig(node_id="a", network_key=b"secret")
    with pytest.raises(p2p.ConfigError, match="node id"):
        p2p.NodeConfig(node_id="a b")


def test_the_keyword_options_are_the_fields_of_the_config() -> None:
    from p2p.node.options import NodeOptions

    assert set(NodeOptions.__annotations__) == {field.name for field in dataclasses.fields(p2p.NodeConfig)}


# Links


async def test_connect_returns_the_peer_that_proved_itself() -> None:
    async with two_nodes() as (a, b, peer):
        assert peer.peer_id == b.peer_id
        assert peer.node_id == "b"
        assert peer.state is p2p.PeerState.CONNECTED
        assert peer.direct
        assert a.get_peer("b").peer_id == a.get_peer(b.peer_id).peer_id == a.get_peer(str(b.peer_id)).peer_id
        await until_connected(b)
        stats = b.stats()
        assert (stats.peers_total, stats.peers_connected, stats.handshakes_completed) == (1, 1, 1)
        assert a.stats().connect_attempts == 1


async def test_connect_makes_one_attempt_and_says_why_it_failed() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with p2p.open_node(node_id="a", listen_port=None) as node:
            with pytest.raises(p2p.ConnectFailed) as caught:
                await node.connect(f"127.0.0.1:{port}")
            assert caught.value.reason is Reason.REFUSED
            assert node.stats().connect_failures == 1


async def test_dialling_oneself_is_refused() -> None:
    async with p2p.open_node(node_id="a") as node:
        with pytest.raises(p2p.ConnectFailed) as caught:
            await node.connect(node.endpoints[0])
        assert caught.value.reason is Reason.SELF


async def test_another_than_the_expected_peer_is_refused() -> None:
    async with p2p.open_node(node_id="a") as a, p2p.open_node(node_id="b") as b:
        endpoint = b.endpoints[0]
        for expect in ("c", "0" * 64):
            with pytest.raises(p2p.ConnectFailed) as caught:
                await a.connect(dataclasses.replace(endpoint, expect=expect))
            assert caught.value.reason is Reason.WRONG_PEER
        assert (await a.connect(dataclasses.replace(endpoint, expect="b"))).node_id == "b"


async def test_wrong_network_keys_do_not_meet() -> None:
    async with (
        p2p.open_node(node_id="a", network_key=KEY, listen_host="127.0.0.1") as a,
        p2p.open_node(node_id="b", network_key=bytes(32), listen_host="127.0.0.1") as b,
        p2p.open_node(node_id="c") as c,
    ):
        for one, other in ((a, b), (c, a), (a, c)):
            with pytest.raises(p2p.ConnectFailed):
                await one.connect(other.endpoints[0])
        assert a.peers() == b.peers() == c.peers() == ()


async def test_a_wrong_network_name_is_told_to_who_dials() -> None:
    async with (
        p2p.open_node(node_id="a", network_name="one", open=True) as a,
        p2p.open_node(node_id="b", network_name="two", open=True) as b,
    ):
        with pytest.raises(p2p.ConnectFailed, match="another network key or network name"):
            await a.connect(b.endpoints[0])


async def test_connecting_twice_finds_the_same_link() -> None:
    async with two_nodes() as (a, b, peer):
        assert (await a.connect(b.endpoints[0])).peer_id == peer.peer_id
        assert a.stats().connect_deduped == 1
        assert a.stats().handshakes_started == 1


async def test_dials_at_the_same_time_are_one() -> None:
    async with p2p.open_node(node_id="a") as a, p2p.open_node(node_id="b") as b:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(a.connect, b.endpoints[0])
        assert a.stats().connect_attempts == 1
        assert a.stats().connect_deduped == 9


async def test_T16_simultaneous_open_leaves_one_link_and_both_keep_the_same() -> None:
    async with p2p.open_node(node_id="a") as a, p2p.open_node(node_id="b") as b:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.connect, b.endpoints[0])
            nursery.start_soon(b.connect, a.endpoints[0])
        # Quiet: the loser says Goodbye and is gone on both sides.
        while len(a._rooms.supervisor.links) > 1 or len(b._rooms.supervisor.links) > 1:  # type: ignore[union-attr]
            await trio.sleep(0)
        (at_a,) = a._rooms.supervisor.links  # type: ignore[union-attr]
        (at_b,) = b._rooms.supervisor.links  # type: ignore[union-attr]
        smaller_dialed = a.peer_id < b.peer_id
        assert at_a.dialed_by_us is smaller_dialed
        assert at_b.dialed_by_us is not smaller_dialed
        await a.send("b", "chat", b"still there")


async def test_disconnect_says_goodbye_and_the_other_side_knows_why() -> None:
    async with two_nodes() as (a, b, peer):
        await until_connected(b)
        async with b.events() as events:
            await a.disconnect(peer)
            async for event in events:
                if isinstance(event, p2p.events.PeerLeft):
                    break
        assert event.node_id == "a"
        assert event.reason is Reason.DISCONNECTED
        assert event.clean
        assert a.peers() == b.peers() == ()
        with pytest.raises(p2p.NotConnected):
            await a.send(peer, "chat", b"")


async def test_configured_peers_are_connected_once_they_are_up(free_port: int) -> None:
    async with p2p.open_node(node_id="a", peers=[f"127.0.0.1:{free_port}"]) as a:
        async with p2p.open_node(node_id="b", listen_port=free_port):
            with trio.fail_after(30):
                await until_connected(a)
        async with a.events() as events:
            while a.peers():
                await events.__anext__()
        async with p2p.open_node(node_id="b", listen_port=free_port):
            with trio.fail_after(30):
                await until_connected(a)


async def test_ten_nodes_in_one_process_do_not_disturb_each_other() -> None:
    async with trio.open_nursery() as nursery:
        nodes = [await nursery.start(p2p.Node(p2p.NodeConfig(node_id=f"n{number}")).run) for number in range(10)]
        for node in nodes[1:]:
            await node.connect(nodes[0].endpoints[0])
        await until_connected(nodes[0], 9)
        nodes[5].stop()
        await nodes[5].wait()
        assert all(len(node.peers()) == 1 for node in nodes[1:] if node is not nodes[5])
        nursery.cancel_scope.cancel()


# Closed by default


async def test_a_node_that_knows_no_rule_listens_on_loopback_and_says_so() -> None:
    lines: list[str] = []
    async with p2p.open_node(node_id="a", on_log=lines.append) as node:
        assert node.endpoints[0].host == "127.0.0.1"
    (line,) = [line for line in lines if "loopback" in line]
    assert "network key" in line
    assert "trust list" in line
    assert "open=True" in line


async def test_a_closed_node_does_not_bind_other_addresses() -> None:
    with pytest.raises(p2p.ConfigError, match="network key"):
        async with p2p.open_node(node_id="a", listen_host="0.0.0.0"):
            pass


@pytest.mark.parametrize("way", [{"open": True}, {"network_key": KEY}, {"trust": {}}])
async def test_each_way_out_listens_on_all_interfaces(way: dict[str, object]) -> None:
    async with p2p.open_node(node_id="a", **way) as node:  # type: ignore[arg-type]  # options of open_node
        assert {endpoint.host for endpoint in node.endpoints} <= {"0.0.0.0", "::"}
        assert len({endpoint.port for endpoint in node.endpoints}) == 1


async def test_a_trust_list_lets_in_its_names_only(tmp_path: Path) -> None:
    friend, stranger, other = (p2p.Identity.generate(os.urandom) for _ in range(3))
    trust = {"friend": friend.peer_id}
    lines: list[str] = []
    async with (
        p2p.open_node(node_id="a", trust=trust, listen_host="127.0.0.1", on_log=lines.append) as a,
        p2p.open_node(node_id="friend", identity=friend, data_dir=tmp_path / "f") as f,
        p2p.open_node(node_id="stranger", identity=stranger, data_dir=tmp_path / "s") as s,
        p2p.open_node(node_id="friend", identity=other, data_dir=tmp_path / "l") as liar,
    ):
        assert (await f.connect(a.endpoints[0])).node_id == "a"
        for node in (s, liar):
            with pytest.raises(p2p.ConnectFailed) as caught:
                await node.connect(a.endpoints[0])
            assert caught.value.reason in (Reason.NOT_ADMITTED, Reason.LABEL_CONFLICT)
            assert f"{a.endpoints[0]} says: not on the trust list" in str(caught.value), "whose list it is"
        with pytest.raises(p2p.ConnectFailed):
            await s.connect(a.endpoints[0])
    told = [line for line in lines if line.startswith("refused")]
    assert [line.partition(" at ")[0] for line in told] == [
        f"refused {name} ({who.peer_id.short})" for name, who in (("stranger", stranger), ("friend", other))
    ], "each of them once, though one came twice"
    assert all(line.endswith(": not_admitted: not on the trust list") for line in told)


# Messages


async def test_send_reaches_the_channel_of_the_peer() -> None:
    async with two_nodes() as (a, b, peer):
        async with b.channel("chat") as chat:
            await a.send(peer, "chat", b"hi")
            await a.send(b.peer_id, "chat", b"ho")
            await a.send("b", "chat", b"")
            got = [await chat.receive() for _ in range(3)]
        assert [message.body for message in got] == [b"hi", b"ho", b""]
        assert got[0].peer_id == a.peer_id
        assert got[0].node_id == "a"
        assert got[0].peer.node_id == "a"


async def test_order_per_peer_is_kept_under_load_and_large_messages_pass() -> None:
    bodies = [b"%06d" % number + bytes(number % 5 * 700) for number in range(3000)] + [bytes(900 * KIB), b"last"]
    async with two_nodes() as (a, b, peer), b.channel("bulk", capacity=16) as bulk:
        got: list[bytes] = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send_all() -> None:
                for body in bodies:
                    await a.send(peer, "bulk", body)

            async for message in bulk:
                got.append(message.body)
                if message.body == b"last":
                    break
        assert got == bodies


@pytest.mark.parametrize(("size", "in_a_row"), [(64 * KIB, 9), (900 * KIB, 3)])
async def test_who_sends_large_messages_without_pause_lets_others_run(size: int, in_a_row: int) -> None:
    async with two_nodes() as (a, b, peer), b.channel("chat") as channel:
        sent, most, is_over = 0, 0, False

        async def watch() -> None:
            nonlocal most
            seen = sent
            while not is_over:
                await trio.lowlevel.checkpoint()
                most, seen = max(most, sent - seen), sent

        async def read() -> None:
            for _ in range(100):
                await channel.receive()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            nursery.start_soon(read)
            for _ in range(100):
                await a.send(peer.peer_id, "chat", bytes(size))
                sent += 1
            is_over = True
        # Four writes by who sends them, or one message that is larger, and what has room in the outbox.
        assert 0 < most <= in_a_row


async def test_a_message_that_fits_no_frame_is_refused() -> None:
    async with two_nodes() as (a, _, peer):
        with pytest.raises(p2p.PayloadTooLarge):
            await a.send(peer, "chat", bytes(1024 * KIB))
        with pytest.raises(p2p.ConfigError, match="channel name"):
            await a.send(peer, "", b"")


async def test_a_dial_that_this_node_refuses_itself_is_not_told_as_the_others_word() -> None:
    async with (
        p2p.open_node(node_id="a") as a,
        p2p.open_node(node_id="b", trust={"a": "ab" * 32}, listen_host="127.0.0.1") as b,
    ):
        with pytest.raises(p2p.ConnectFailed, match=f"{a.endpoints[0]}: not on the trust list") as caught:
            await b.connect(a.endpoints[0])
        assert caught.value.reason is Reason.NOT_ADMITTED


async def test_a_place_without_its_port_says_how_a_place_is_written() -> None:
    async with p2p.open_node(node_id="a") as a:
        for place in ("127.0.0.1", "shop.example"):
            with pytest.raises(p2p.UnknownPeer, match="HOST:PORT"):
                await a.connect(place)


async def test_sending_to_nobody_raises() -> None:
    async with p2p.open_node(node_id="a") as a:
        with pytest.raises(p2p.UnknownPeer):
            await a.send("b", "chat", b"")
        with pytest.raises(p2p.NotConnected):
            await a.send(p2p.PeerId(bytes(32)), "chat", b"")


async def test_a_channel_without_a_reader_drops_and_counts() -> None:
    async with two_nodes() as (a, b, peer), b.channel("known") as known:
        await a.send(peer, "nobody", b"1")
        await a.send(peer, "known", b"2")
        assert (await known.receive()).body == b"2"
        assert b.counters.messages_dropped == 1


async def test_drop_oldest_keeps_the_newest() -> None:
    async with two_nodes() as (a, b, peer), b.channel("x", capacity=2, when_full="drop_oldest") as x:
        async with b.channel("end") as end:
            for number in range(10):
                await a.send(peer, "x", b"%d" % number)
            await a.send(peer, "end", b"")
            await end.receive()
        assert [(await x.receive()).body for _ in range(2)] == [b"8", b"9"]
        assert x.dropped == 8


async def test_a_channel_name_has_one_reader() -> None:
    async with p2p.open_node(node_id="a") as a, a.channel("x"):
        with pytest.raises(p2p.ChannelBusy):
            async with a.channel("x"):
                pass


# What is left alone


async def test_without_a_network_key_a_log_of_whom_one_never_met_is_left_alone_and_told() -> None:
    lines: list[str] = []
    async with (
        p2p.open_node(node_id="a", on_log=lines.append) as a,
        p2p.open_node(node_id="b") as b,
        p2p.open_node(node_id="c") as c,
    ):
        await a.connect(b.endpoints[0])
        await c.connect(b.endpoints[0])
        for _ in range(5):
            await c.wal.append(b"x")
            await c.wal.wait_replicated(c.wal.heads()[c.peer_id].seq, peers=1)
        while not a.wal.left_alone():
            await trio.sleep(0.01)
        assert a.wal.left_alone() == {c.peer_id}
        assert a.wal.digest() != c.wal.digest()
        (line,) = [line for line in lines if "left alone" in line]
        assert c.peer_id.short in line
        assert "offered by b" in line
        assert "network key" in line
        await a.connect(c.endpoints[0])
        while a.wal.digest() != c.wal.digest():
            await trio.sleep(0.01)
        assert a.wal.left_alone() == frozenset()


# Hooks and stopping


async def test_what_a_hook_raises_is_counted_and_harms_nothing() -> None:
    def broken(line: str) -> None:
        raise ValueError(line)

    async with two_nodes(on_log=broken) as (a, _, _):
        assert a.counters.hook_failures > 0


async def test_waiters_in_other_nurseries_end_with_node_closed() -> None:
    async with trio.open_nursery() as nursery:
        node = await nursery.start(p2p.Node(p2p.NodeConfig(node_id="a")).run)
        ended: list[str] = []

        async def wait_for(name: str, wait: object) -> None:
            with pytest.raises(p2p.NodeClosed):
                await wait()  # type: ignore[operator]  # one of the calls below
            ended.append(name)

        async def follow() -> None:
            async with node.wal.follow() as records:
                async for _ in records:
                    pass

        async def read_channel() -> None:
            async with node.channel("x") as channel:
                await channel.receive()

        async def read_events() -> None:
            async with node.events() as events:
                while True:
                    await events.__anext__()

        async def replicated() -> None:
            await node.wal.wait_replicated(await node.wal.append(b"x"))

        async def dial() -> None:
            # The kernel accepts for a listener that never reads: the handshake waits.
            with socket.create_server(("127.0.0.1", 0)) as silent:
                await node.connect(f"127.0.0.1:{silent.getsockname()[1]}")

        for wait in (follow, read_channel, read_events, replicated, dial):
            nursery.start_soon(wait_for, wait.__name__, wait)
        await trio.testing.wait_all_tasks_blocked(0.05)
        node.stop()
    assert sorted(ended) == ["dial", "follow", "read_channel", "read_events", "replicated"]


async def test_an_interrupt_comes_neither_in_a_task_of_a_node_nor_in_a_call_of_it(tmp_path: Path) -> None:
    bare: set[str] = set()

    class Watched(SystemClock):
        """Asked within every task of a node, and most calls."""

        def __init__(self) -> None:
            super().__init__()
            now = self.monotonic

            def monotonic() -> float:
                if not trio.lowlevel.currently_ki_protected():
                    bare.add(trio.lowlevel.current_task().name)
                return now()

            self.monotonic = monotonic  # type: ignore[method-assign]

    with trio.fail_after(30):
        async with (
            relay_node(clock=Watched(), data_dir=tmp_path / "r") as r,
            client_of(r, node_id="a", clock=Watched(), data_dir=tmp_path / "a") as a,
            client_of(r, node_id="b", clock=Watched()) as b,
        ):
            await a.connect(f"relay://r/{b.peer_id}")
            await a.wal.wait_replicated(await a.wal.append(b"x"), peers=2)
            async with b.channel("chat") as chat, b.wal.follow("reader") as records:
                await a.send(b.peer_id, "chat", b"x")
                await chat.receive()
                await records.commit(await anext(records))
            await a.ping(b.peer_id)
            await a.disconnect(b.peer_id)
    assert bare == set()


async def test_T69_stopping_takes_bounded_time_with_a_peer_that_never_reads(tmp_path: Path) -> None:
    async with two_nodes(data_dir=None) as (a, b, peer), b.channel("stuck", capacity=1):
        with trio.move_on_after(1):
            while True:
                await a.send(peer, "stuck", bytes(64 * KIB))
        start = trio.current_time()
        a.stop()
        await a.wait()
        assert trio.current_time() - start < 20


# What a review found


async def test_T12_a_refused_peer_is_not_returned_because_it_is_connected_already() -> None:
    async with two_nodes() as (a, b, _):
        for expect in ("carol", "ab" * 32):
            with pytest.raises(p2p.ConnectFailed) as caught:
                await a.connect(dataclasses.replace(b.endpoints[0], expect=expect))
            assert caught.value.reason is Reason.WRONG_PEER


async def test_T14_a_label_belongs_to_who_is_connected_under_it() -> None:
    async with (
        p2p.open_node(node_id="a") as a,
        p2p.open_node(node_id="bob") as bob,
        p2p.open_node(node_id="bob") as other,
        a.events() as events,
    ):
        await a.connect(bob.endpoints[0])
        assert (await a.connect(other.endpoints[0])).node_id is None
        async for event in events:
            if isinstance(event, p2p.events.LabelConflict):
                break
        assert event.peer_id == other.peer_id
        assert event.pinned_to == bob.peer_id
        assert a.get_peer("bob").peer_id == bob.peer_id
        await a.disconnect(other.peer_id)
        assert a.get_peer("bob").peer_id == bob.peer_id


async def test_sending_to_a_peer_that_ends_raises_what_is_documented() -> None:
    for _ in range(5):
        async with p2p.open_node(node_id="a") as a, p2p.open_node(node_id="b") as b:
            await a.connect(b.endpoints[0])

            async def send_until_refused(a: p2p.Node = a) -> None:
                with pytest.raises((p2p.NotConnected, p2p.UnknownPeer)):
                    while True:
                        await a.send("b", "chat", bytes(1000))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_until_refused)
                for _ in range(20):
                    await trio.lowlevel.checkpoint()
                b.stop()


def test_a_trust_list_is_checked_when_it_is_given() -> None:
    config = p2p.NodeConfig(node_id="a", trust={"b": "ab" * 32})  # type: ignore[dict-item]  # text is taken as well
    assert config.trust == {"b": p2p.PeerId(b"\xab" * 32)}
    for wrong in ({"b": "secret"}, {"not a label": "ab" * 32}, {"b": b"short"}):
        with pytest.raises(p2p.ConfigError):
            p2p.NodeConfig(node_id="a", trust=wrong)
