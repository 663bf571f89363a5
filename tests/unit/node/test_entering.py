"""One object, one run: what is entered a second time says so, and the first run goes on and ends as it should."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

import p2p
from p2p.node.service import Runs
from p2p.transport.memory import MemoryNetwork
from tests.ports import free_port


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


async def test_an_entry_that_failed_is_none_and_a_second_one_meanwhile_takes_nothing_from_it() -> None:
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as kept:
        port = free_port("127.255.255.255", trio.socket.SOCK_DGRAM)
        await kept.bind(("127.255.255.255", port))
        discovery = p2p.make_udp_discovery(p2p.DiscoveryConfig(discovery_port=port, loopback_only=True))
        with pytest.raises(p2p.AddressInUse):
            async with discovery:
                pass
    async with discovery:
        with pytest.raises(p2p.NodeClosed, match="runs once"):
            await discovery.__aenter__()


async def test_who_enters_while_another_is_about_to_fail_takes_nothing_from_him() -> None:
    is_entering, may_fail = trio.Event(), trio.Event()

    class Fails(Runs):
        async def run(self, *, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
            is_entering.set()
            await may_fail.wait()
            raise p2p.AddressInUse(98, "kept")

        def stop(self) -> None:
            """It never runs."""

    service = Fails()

    async def enter_first() -> None:
        with pytest.raises(p2p.AddressInUse):
            await service.__aenter__()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(enter_first)
        await is_entering.wait()
        with pytest.raises(p2p.NodeClosed, match="runs once"):
            await service.__aenter__()
        may_fail.set()


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
