"""One object, one run: what is entered a second time says so, and the first run goes on and ends as it should."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

import p2p
from p2p.transport.memory import MemoryNetwork


def _runtime() -> p2p.P2PRuntime:
    return p2p.P2PRuntime(p2p.Node(p2p.NodeConfig(node_id="a")))


def _discovery() -> p2p.UdpDiscovery:
    return p2p.make_udp_discovery(p2p.DiscoveryConfig(), network=MemoryNetwork().network_for("a"))


def _bootstrap() -> p2p.HttpBootstrap:
    return p2p.make_http_bootstrap(p2p.BootstrapConfig(registry_url="http://127.0.0.1:1"), lambda _: None)


def _node() -> AbstractAsyncContextManager[p2p.Node]:
    return p2p.open_node(node_id="a")


@pytest.mark.parametrize("make", [_runtime, _discovery, _bootstrap, _node])
async def test_a_second_entry_is_refused_and_takes_nothing_from_the_first(
    make: Callable[[], AbstractAsyncContextManager[Any]],
) -> None:
    once = make()
    async with once:
        with pytest.raises(p2p.NodeClosed, match="runs once"):
            async with once:
                pass
    with pytest.raises(p2p.NodeClosed, match="runs once"):
        await once.__aenter__()
