"""Nodes that know nobody find each other by datagrams, and each peer once."""

from __future__ import annotations

import hashlib
import os
import socket
from contextlib import AsyncExitStack

import pytest
import trio
from hypothesis import assume, given
from hypothesis import strategies as st
from trio.testing import MockClock

import p2p
from p2p.node.leads import goes_first
from p2p.transport.memory import MemoryNetwork
from p2p.windows import InlineBlocking, SimulatedClock
from tests.ports import free_port

NODES = int(os.environ.get("MANY_NODES", "16"))
"""Each of them dials every other one; `make proof` has 50."""


async def all_connected(nodes: list[p2p.Node]) -> None:
    while any(len(node.peers()) < len(nodes) - 1 for node in nodes):
        await trio.sleep(0.05)


def dials(nodes: list[p2p.Node]) -> int:
    return sum(node.stats().connect_attempts for node in nodes)


@pytest.mark.slow
async def test_many_nodes_find_each_other_and_dial_each_peer_about_once(autojump_clock: MockClock) -> None:
    """Everybody hears everybody at the same moment; nobody floods the others with double dials."""
    net = MemoryNetwork(latency_s=0.002)
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(
                p2p.open_node(
                    node_id=f"n{number}",
                    network=net.network_for(f"host{number}"),
                    clock=SimulatedClock(),
                    blocking=InlineBlocking(),
                    open=True,
                    discovery=p2p.DiscoveryConfig(),
                )
            )
            for number in range(NODES)
        ]
        with trio.fail_after(60):
            await all_connected(nodes)
        pairs = NODES * (NODES - 1) // 2
        assert pairs <= dials(nodes) <= pairs * 1.5
        before = dials(nodes)
        await trio.sleep(7)  # three announcements of everybody
        assert dials(nodes) == before, "who is connected is not dialled"
        for node in nodes:
            assert len({peer.peer_id for peer in node.peers()}) == len(node.peers()) == NODES - 1


async def test_closed_nodes_of_one_machine_find_each_other_on_loopback() -> None:
    """With neither network key nor trust list nor `open`, on real sockets, and one line says what that means."""
    discovery = p2p.DiscoveryConfig(discovery_port=free_port("127.255.255.255", socket.SOCK_DGRAM))
    lines: list[str] = []
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(
                p2p.open_node(node_id=f"n{number}", discovery=discovery, on_log=lines.append)
            )
            for number in range(6)
        ]
        with trio.fail_after(60):
            await all_connected(nodes)
        assert all(endpoint.host == "127.0.0.1" for node in nodes for endpoint in node.endpoints)
        found = nodes[0].discovery
        assert found is not None
        assert found.config.loopback_only
        assert {hint.host for hint in found.snapshot()} == {"127.0.0.1"}
    [line] = [line for line in lines if "loopback only" in line and line.startswith("n0 ")]
    assert line.startswith("n0 listens and discovers on loopback only")
    assert all(way in line for way in ("network key", "trust list", "open=True"))


async def test_a_node_without_discovery_has_none() -> None:
    async with p2p.open_node(node_id="a") as node:
        assert node.discovery is None


@pytest.mark.parametrize(
    ("options", "loopback_only", "interfaces"),
    [
        ({}, True, ()),
        ({"open": True}, False, ()),
        ({"network_key": bytes(32)}, False, ()),
        ({"trust": {}}, False, ()),
        ({"open": True, "listen_host": "127.0.0.1"}, True, ("127.0.0.1",)),
        ({"open": True, "listen_host": "192.0.2.7"}, False, ("192.0.2.7",)),
        ({"open": True, "listen_host": "0.0.0.0"}, False, ()),
        ({"open": True, "listen_host": "::"}, False, ()),
        ({"open": True, "listen_host": "2001:db8::7"}, False, ("2001:db8::7",)),
        ({"open": True, "listen_host": "node.example"}, False, ()),
    ],
)
def test_it_reaches_as_far_as_the_listener_does(
    options: dict[str, object], loopback_only: bool, interfaces: tuple[str, ...]
) -> None:
    config = p2p.NodeConfig(node_id="a", discovery=p2p.DiscoveryConfig(), **options)  # type: ignore[arg-type]
    at = config.discovery_at(9101)
    assert at is not None
    assert (at.self_node_id, at.self_tcp_port) == ("a", 9101)
    assert (at.loopback_only, at.interfaces) == (loopback_only, interfaces)


def test_a_node_at_the_loopback_address_of_ipv6_announces_no_other() -> None:
    config = p2p.NodeConfig(node_id="a", discovery=p2p.DiscoveryConfig(), listen_host="0:0::1")
    at = config.discovery_at(9101)
    assert at is not None
    assert (at.self_tcp_port, at.loopback_only) == (0, True)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_exactly_one_of_two_goes_first(one: bytes, other: bytes) -> None:
    assume(one != other)
    assert goes_first(p2p.PeerId(one), p2p.PeerId(other)) != goes_first(p2p.PeerId(other), p2p.PeerId(one))


def test_each_of_many_goes_first_about_half_the_time() -> None:
    """So that nobody is dialled by more strangers than he keeps places for."""
    everybody = [p2p.PeerId(hashlib.sha256(bytes([number])).digest()) for number in range(200)]
    for one in everybody:
        assert 60 < sum(goes_first(one, other) for other in everybody if other != one) < 140
