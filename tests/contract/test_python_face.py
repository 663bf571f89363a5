"""What the Python interface says to a newcomer: arguments of another kind, a stop half-way, hooks that fail, labels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import p2p

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def node() -> AsyncIterator[p2p.Node]:
    async with p2p.open_node(node_id="a", listen_port=None) as node:
        yield node


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("node_id", 5), ("listen_port", "9"), ("listen_host", 7), ("data_dir", 5), ("on_log", 5), ("peers", 5),
        ("peers", [None]), ("network_key", "0" * 64), ("network_name", b"x"), ("trust", 5), ("open", "yes"),
        ("network_name", "\ud800"), ("data_dir", "a\0b"), ("data_dir", ""), ("listen_host", "256.1.1.1"),
        ("trusted_proxies", (1,)), ("trust", {3: 3}), ("handshake_timeout_ms", 0),
        ("limits", None), ("max_peers", "many"), ("dead_after_s", "45"), ("discovery", True), ("store", "x"),
    ],
)  # fmt: skip
def test_a_field_of_another_kind_is_named_without_its_value(field: str, value: Any) -> None:
    with pytest.raises(p2p.ConfigError) as caught:
        _ = p2p.NodeConfig(**{"node_id": "a", field: value}).bind_host
    assert field.rstrip("s") in str(caught.value)
    if not isinstance(value, list | tuple | dict) and value not in ("\ud800", "a\0b", "", "256.1.1.1", 0):
        assert type(value).__name__ in str(caught.value)
    assert "0" * 64 not in str(caught.value)


async def test_arguments_of_another_kind_are_told_in_a_sentence(node: p2p.Node) -> None:
    call: Any = node
    with pytest.raises(p2p.ConfigError, match="connect takes"):
        await call.connect(None)
    with pytest.raises(p2p.ConfigError, match=r"bytes, and not str: write text\.encode"):
        await call.wal.append("text")
    with pytest.raises(p2p.ConfigError, match="takes a list of payloads"):
        await call.wal.append_many(b"abc")
    with pytest.raises(p2p.ConfigError, match="bytes, and not str"):
        await call.wal.append_many(["abc"])
    with pytest.raises(p2p.ConfigError, match="bytes, and not int"):
        await call.wal.append_many([1])
    with pytest.raises(p2p.ConfigError, match="a peer id is 64 lower-case hex digits, not 'me'"):
        await call.wal.append(b"x", target="me")
    for kind in (5, None):
        with pytest.raises(p2p.ConfigError, match="a kind is text, and not"):
            await call.wal.append(b"x", kind=kind)
    for body in (3, "text"):
        with pytest.raises(p2p.ConfigError, match="a body is of the kind"):
            await call.broadcast("x", body)
    for name in (3, "", "x" * 257, "\ud800"):
        with pytest.raises(p2p.ConfigError, match="a channel name"):
            await call.broadcast(name, b"")
        with pytest.raises(p2p.ConfigError, match="a channel name"):
            call.channel(name)
        with pytest.raises(p2p.ConfigError, match="a channel name"):
            await call.request(node.peer_id, name, b"")
    for capacity in (0, 1.5, True):
        with pytest.raises(p2p.ConfigError, match="capacity"):
            call.channel("x", capacity=capacity)
    with pytest.raises(p2p.ConfigError, match="a handler is a function, async or plain"):
        await call.serve("x", 3)
    with pytest.raises(p2p.ConfigError, match="takes a list of payloads"):
        await call.wal.append_many(None)
    for seq, peers in ((0, 1), (1, -1), (1.5, 1)):
        with pytest.raises(p2p.ConfigError, match=r"seq|peers"):
            await call.wal.wait_replicated(seq, peers)
    with pytest.raises(p2p.ConfigError, match="origin is of the kind str"):
        call.wal.lag("me")
    with pytest.raises(p2p.ConfigError, match="a Record"):
        await call.wal.follow().commit(3)
    with pytest.raises(p2p.ConfigError, match="of the kind int: it must be a Peer"):
        call.routes.resolve(3)
    with pytest.raises(p2p.ConfigError, match="route is of the kind int"):
        call.routes.upsert_route(p2p.PeerId(bytes(32)), 3)
    assert not node.wal.heads()


@pytest.mark.parametrize("given", [("x", True), ("x", "1"), (3, 1), ("x", 1, 5), ("x", 1, "tcp", b"y")])
def test_an_endpoint_of_other_kinds_is_refused(given: Any) -> None:
    with pytest.raises(p2p.ConfigError):
        p2p.PeerEndpoint(*given)


def test_what_is_no_text_and_no_config_is_refused() -> None:
    anything: Any = 3
    for make in (p2p.Node, p2p.make_tcp_node, p2p.P2PRuntime, p2p.PeerEndpoint.parse):
        with pytest.raises(p2p.ConfigError, match="int"):
            make(anything)


async def test_nothing_is_appended_once_a_node_is_told_to_stop_and_what_was_is_finished(tmp_path: Path) -> None:
    seqs: list[int] = []

    async def append(wal: p2p.Wal) -> None:
        seqs.append(await wal.append(b"before"))

    async with p2p.open_node(node_id="a", listen_port=None, data_dir=tmp_path) as node, trio.open_nursery() as nursery:
        wal = node.wal
        nursery.start_soon(append, wal)
        await trio.testing.wait_all_tasks_blocked()
        node.stop()
        with pytest.raises(p2p.NodeClosed):
            await wal.append(b"after")
    assert seqs == [1]


async def test_a_node_knows_its_own_label(node: p2p.Node) -> None:
    await node.wal.append(b"x")
    assert [record.node_id for record in await node.wal.records(node.peer_id)] == ["a"]
    async with node.wal.follow() as records:
        assert (await anext(aiter(records))).node_id == "a"


async def test_a_hook_that_fails_is_told_in_a_line_and_ever_more_seldom(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_line: str) -> None:
        raise ValueError("no room")

    async with p2p.open_node(node_id="a", listen_port=None, on_log=fail) as node:
        failed = node.counters.hook_failures
        for _ in range(100):
            node._log_line("something")
        assert node.counters.hook_failures == failed + 100
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert 5 <= len(warned) <= 8
    assert "ValueError: no room" in warned[0].getMessage()
    assert not any(record.exc_info for record in warned)


async def test_a_dial_that_ends_at_the_first_message_speaks_of_the_network_key(node: p2p.Node) -> None:
    async with p2p.open_node(node_id="b", network_key=bytes(32)) as other:
        with pytest.raises(p2p.ConnectFailed, match="another network key or network name"):
            await node.connect(str(other.endpoints[0]))
