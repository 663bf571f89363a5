"""A node and a registry: who knows nobody finds its network, and a registry that dies takes nothing with it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio

import p2p
from http_control.sockets import Bind
from http_control.source import networks_of
from tests.registries import OUTER_S, ask, registry

ANNOUNCING = p2p.BootstrapMode.PULL_AND_ANNOUNCE


def options(name: str, url: str, **more: Any) -> dict[str, Any]:
    bootstrap = p2p.BootstrapConfig(registry_url=url, mode=ANNOUNCING, poll_interval_ms=200)
    return {"node_id": name, "listen_host": "127.0.0.1", "open": True, "bootstrap": bootstrap} | more


async def meet(*nodes: p2p.Node) -> None:
    """Wait until each is connected with every other, once."""
    with trio.fail_after(OUTER_S):
        while any(len(node.peers()) < len(nodes) - 1 for node in nodes):
            await trio.sleep(0.02)
    for node in nodes:
        assert sorted(peer.node_id or "" for peer in node.peers()) == sorted(
            other.node_id for other in nodes if other is not node
        )


async def test_nodes_that_know_only_a_registry_meet() -> None:
    async with registry() as url:
        async with (
            p2p.open_node(**options("a", url)) as a,
            p2p.open_node(**options("b", url)) as b,
            p2p.open_node(**options("c", url + "/peers")) as c,
        ):
            await meet(a, b, c)
            listed = (await ask(url, "GET", "/peers"))[2]["peers"]
            assert {peer["peer_id"] for peer in listed} == {str(node.peer_id) for node in (a, b, c)}


async def test_a_closed_node_meets_those_on_its_machine() -> None:
    async with registry() as url:
        async with (
            p2p.open_node(**options("a", url, open=False)) as a,
            p2p.open_node(**options("b", url, open=False)) as b,
        ):
            await meet(a, b)


async def test_a_closed_node_asks_no_registry_elsewhere() -> None:
    lines: list[str] = []
    async with p2p.open_node(**options("a", "https://registry.example", open=False, on_log=lines.append)):
        pass
    assert any("asks no registry on another machine" in line and "network key" in line for line in lines)


async def test_a_registry_dies_and_comes_back_and_the_node_goes_on() -> None:
    lines: list[str] = []
    async with registry() as url:
        pass
    port = int(url.rpartition(":")[2])
    async with p2p.open_node(**options("a", url, on_log=lines.append)) as a:
        for _ in range(2):
            async with registry(bind=Bind(port=port)):
                async with p2p.open_node(**options("b", url)) as b:
                    # A table that is new and empty: they meet only if both say again where they are.
                    await meet(a, b)
            with trio.fail_after(OUTER_S):
                while a.peers():
                    await trio.sleep(0.02)
        assert await a.wal.append(b"still here") == 1
    assert any("failed, it is tried again" in line for line in lines)
    assert any("works again" in line for line in lines)


async def test_a_node_that_may_not_dial_announces_itself_and_is_found() -> None:
    async with registry() as url:
        async with p2p.open_node(**options("a", url, dial=False)) as a, p2p.open_node(**options("b", url)) as b:
            await meet(a, b)
            assert a.stats().connect_attempts == 0


@pytest.mark.parametrize("host", ["169.254.169.254", "0.0.0.0", "10.1.2.3", "8.8.4.4"])
async def test_t49_what_a_registry_names_elsewhere_is_not_dialled_by_a_closed_node(host: str) -> None:
    async with registry(proxies=networks_of(["127.0.0.1"])) as url:
        body = b'{"node_id":"victim","tcp_port":80}'
        await ask(url, "POST", "/announce", body, f"X-Forwarded-For: {host}")
        async with (
            p2p.open_node(**options("a", url, open=False)) as a,
            p2p.open_node(**options("b", url, open=False)) as b,
        ):
            await meet(a, b)
            assert a.stats().connect_attempts + b.stats().connect_attempts <= 2


async def test_a_node_without_a_listener_has_nothing_to_announce() -> None:
    with pytest.raises(p2p.ConfigError, match="self_tcp_port"):
        async with p2p.open_node(**options("a", "http://127.0.0.1:1", listen_port=None)):
            await trio.sleep_forever()


async def test_a_registry_that_never_answers_does_not_hold_up_a_stop() -> None:
    asked = trio.Event()

    async def silent(stream: trio.SocketStream) -> None:
        asked.set()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, silent, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        with trio.fail_after(OUTER_S):
            async with p2p.open_node(**options("a", url, limits=p2p.Limits(registry_s_max=10 * OUTER_S))):
                await asked.wait()
        nursery.cancel_scope.cancel()
