"""One object, one run: what is entered a second time says so, and the first run goes on and ends as it should."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
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


async def _on_peer(_: p2p.DiscoveryAnnouncement) -> None:
    """Nobody would await it."""


def test_an_async_hook_is_refused_where_nobody_awaits_it() -> None:
    with pytest.raises(p2p.ConfigError, match="on_peer is an async function"):
        p2p.make_udp_discovery(p2p.DiscoveryConfig(), _on_peer)
    with pytest.raises(p2p.ConfigError, match="on_peer is an async function"):
        p2p.make_http_bootstrap(p2p.BootstrapConfig(registry_url="http://127.0.0.1:1"), _on_peer)  # type: ignore[arg-type]


async def test_a_node_whose_certificate_is_missing_makes_no_data_dir(tmp_path: Path) -> None:
    config = p2p.NodeConfig(node_id="a", data_dir=tmp_path / "d", listen_ws_port=0, tls_cert=tmp_path / "none.pem")
    with pytest.raises(p2p.ConfigError, match=r"none\.pem with its key in the same file: No such file"):
        async with p2p.open_node(config):
            pass
    assert not (tmp_path / "d").exists()
