"""Nodes that discover each other by datagrams, on this machine's loopback."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import trio

import p2p
from tests import ports

OUTER_S = 30.0


def free_port() -> int:
    return ports.free_port("127.255.255.255", socket.SOCK_DGRAM)


@pytest.fixture
def discovery() -> p2p.DiscoveryConfig:
    """A port of this test's own, so that nobody else is heard on it."""
    return p2p.DiscoveryConfig(discovery_port=free_port(), announce_interval_ms=100, loopback_only=True)


async def meet(*nodes: p2p.Node) -> None:
    """Wait until each is connected with every other, once."""
    with trio.fail_after(OUTER_S):
        while any(len(node.peers()) < len(nodes) - 1 for node in nodes):
            await trio.sleep(0.02)
    for node in nodes:
        assert sorted(peer.node_id or "" for peer in node.peers()) == sorted(
            other.node_id for other in nodes if other is not node
        )


@pytest.mark.parametrize("rule", [{}, {"open": True, "listen_host": "127.0.0.1"}, {"network_key": bytes(32)}])
async def test_nodes_that_know_nobody_meet(discovery: p2p.DiscoveryConfig, rule: dict[str, Any]) -> None:
    rule = {"discovery": discovery, **rule}
    async with (
        p2p.open_node(node_id="a", **rule) as a,
        p2p.open_node(node_id="b", **rule) as b,
        p2p.open_node(node_id="c", **rule) as c,
    ):
        await meet(a, b, c)


async def test_a_closed_node_speaks_on_loopback_only() -> None:
    node = p2p.Node(p2p.NodeConfig(node_id="a", discovery=p2p.DiscoveryConfig(discovery_port=free_port())))
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        assert node._rooms is not None
        assert node._rooms.discovery is not None
        assert node._rooms.discovery.config.loopback_only
        node.stop()


async def test_who_dials_nobody_is_found_all_the_same(discovery: p2p.DiscoveryConfig) -> None:
    async with (
        p2p.open_node(node_id="a", discovery=discovery, dial=False) as a,
        p2p.open_node(node_id="b", discovery=discovery) as b,
    ):
        await meet(a, b)
        assert a.counters.connect_attempts == 0


async def test_a_port_that_cannot_be_had_is_told_and_the_node_runs_and_has_it_later(
    discovery: p2p.DiscoveryConfig,
) -> None:
    lines: list[str] = []
    often = p2p.Limits(discovery_retry_s=0.05)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as alone:
        alone.bind(("127.255.255.255", discovery.discovery_port))
        async with p2p.open_node(node_id="a", discovery=discovery, on_log=lines.append, limits=often) as node:
            assert node.endpoints
            assert node.discovery is None
            await trio.sleep(0.2)
            alone.close()
            async with p2p.open_node(node_id="b", discovery=discovery) as other:
                await meet(node, other)
            assert node.discovery is not None
    (line,) = [line for line in lines if "nodes near are not discovered" in line]
    assert str(discovery.discovery_port) in line
    assert sum("nodes near are discovered now" in line for line in lines) == 1
