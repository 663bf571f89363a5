"""Nodes that talk by WebSocket: plain, with TLS, and through a real nginx."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

import p2p
from tests.certificates import certificates
from tests.ports import free_port
from tests.programs import find_program, needs

FILES = certificates("127.0.0.1", "localhost")


@asynccontextmanager
async def pair(scheme: str, **server: Any) -> AsyncIterator[tuple[p2p.Node, p2p.Node]]:
    """A node with a WebSocket door, and one that dials."""
    tls = {"tls_cert": FILES.cert, "tls_key": FILES.key} if scheme == "wss" else {}
    async with (
        p2p.open_node(node_id="door", listen_ws_port=0, **tls, **server) as door,
        p2p.open_node(node_id="caller", listen_port=None, tls_ca=FILES.ca) as caller,
    ):
        yield door, caller


def door_of(node: p2p.Node) -> p2p.PeerEndpoint:
    return next(endpoint for endpoint in node.endpoints if endpoint.scheme.startswith("ws"))


async def exchange(caller: p2p.Node, door: p2p.Node, place: p2p.PeerEndpoint) -> None:
    """Connect, replicate both ways, and send a large message."""
    with trio.fail_after(60):
        peer = await caller.connect(place)
        assert peer.peer_id == door.peer_id
        for node in (caller, door):
            for number in range(50):
                seq = await node.wal.append(b"%d" % number * 100)
            await node.wal.wait_replicated(seq, peers=1)
        async with door.channel("chat") as chat:
            await caller.send(peer, "chat", b"x" * 500_000)
            assert (await anext(chat)).body == b"x" * 500_000
        assert caller.wal.digest() == door.wal.digest()


async def test_authorities_that_cannot_be_read_are_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "nothing.pem"):
        with pytest.raises(p2p.ConfigError, match=name):
            async with p2p.open_node(node_id="a", listen_port=None, tls_ca=tmp_path / name):
                pass


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_two_nodes_replicate_over_it(scheme: str) -> None:
    async with pair(scheme) as (door, caller):
        assert [endpoint.scheme for endpoint in door.endpoints] == ["tcp", scheme]
        await exchange(caller, door, door_of(door))
        assert door.peers()[0].endpoint is not None
        assert door.peers()[0].endpoint.scheme == scheme
        with pytest.raises(p2p.ConnectFailed):
            await caller.connect(replace(door_of(door), port=door.endpoints[0].port))


async def test_it_can_be_the_only_door() -> None:
    async with pair("ws", listen_port=None) as (door, caller):
        assert [endpoint.scheme for endpoint in door.endpoints] == ["ws"]
        await exchange(caller, door, door_of(door))


async def test_a_configured_peer_is_kept_connected_over_it() -> None:
    async with p2p.open_node(node_id="door", listen_ws_port=0) as door:
        async with p2p.open_node(node_id="b", listen_port=None, peers=[str(door_of(door))]) as caller:
            with trio.fail_after(30):
                while not caller.peers():
                    await trio.sleep(0.02)


async def test_t03_silent_connections_share_the_slots_of_tcp_and_give_way() -> None:
    limits = replace(p2p.Limits(), unauthenticated_max=4, first_message_s_max=30, handshake_s_max=60)
    async with pair("ws", limits=limits) as (door, caller):
        silent = [await trio.open_tcp_stream("127.0.0.1", door_of(door).port) for _ in range(12)]
        try:
            await exchange(caller, door, door_of(door))
            assert len(door._rooms.slots) <= 4  # type: ignore[union-attr]
        finally:
            for stream in silent:
                await trio.aclose_forcefully(stream)


async def test_t01_who_never_finishes_the_http_handshake_is_cut_off() -> None:
    limits = replace(p2p.Limits(), first_message_s_max=0.3)
    async with pair("ws", limits=limits) as (door, _):
        async with await trio.open_tcp_stream("127.0.0.1", door_of(door).port) as slow:
            await slow.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n")
            with trio.fail_after(30):
                with suppress(trio.BrokenResourceError):
                    assert await slow.receive_some() == b""


async def test_hostile_connections_end_themselves_alone() -> None:
    async with pair("ws") as (door, caller):
        for sent in (b"\x00" * 500, b"GET / HTTP/1.1\r\n\r\n", b"GET \xff HTTP/1.1\r\nHost: \xff\r\n\r\n"):
            async with await trio.open_tcp_stream("127.0.0.1", door_of(door).port) as stranger:
                await stranger.send_all(sent)
                await stranger.send_eof()
        await exchange(caller, door, door_of(door))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"listen_ws_port": 65536}, "listen_ws_port"),
        ({"tls_cert": "cert.pem"}, "listen_ws_port"),
        ({"listen_ws_port": 0, "tls_key": "key.pem"}, "tls_cert"),
    ],
)
def test_what_does_not_go_together_is_said(options: dict[str, Any], says: str) -> None:
    with pytest.raises(p2p.ConfigError, match=says):
        p2p.NodeConfig(node_id="a", **options)


NGINX = """
daemon off;
error_log {place}/error.log;
pid {place}/nginx.pid;
worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {place}; proxy_temp_path {place}; fastcgi_temp_path {place};
    uwsgi_temp_path {place}; scgi_temp_path {place};
    server {{
        listen 127.0.0.1:{outside} ssl;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        location / {{
            proxy_pass http://127.0.0.1:{inside};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_set_header Host $host;
            proxy_read_timeout 120s;
        }}
    }}
}}
"""


@asynccontextmanager
async def nginx(inside: int) -> AsyncIterator[int]:
    """An nginx that takes wss:// and passes it on to a port here; yields its own port."""
    outside, program = free_port(), find_program("nginx")
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="p2p-nginx-") as place:
        config = Path(place, "nginx.conf")
        config.write_text(NGINX.format(place=place, inside=inside, outside=outside, cert=FILES.cert, key=FILES.key))
        process = subprocess.Popen([program, "-p", place, "-c", str(config)], stderr=subprocess.PIPE)
        try:
            with trio.fail_after(30):
                while process.poll() is None:
                    try:
                        await trio.aclose_forcefully(await trio.open_tcp_stream("127.0.0.1", outside))
                        break
                    except OSError:
                        await trio.sleep(0.05)
            assert process.poll() is None, "nginx ended"
            yield outside
        finally:
            process.terminate()
            process.communicate()


@needs("nginx")
async def test_a_node_behind_nginx_is_reached_by_wss() -> None:
    async with pair("ws") as (door, caller), nginx(door_of(door).port) as port:
        await exchange(caller, door, p2p.PeerEndpoint("127.0.0.1", port, "wss"))
        with trio.fail_after(30):
            await caller.disconnect("door")
            while door.peers():
                await trio.sleep(0.02)


@needs("nginx")
async def test_a_node_that_is_down_behind_nginx_is_told_as_what_nginx_answers() -> None:
    async with nginx(free_port()) as port, p2p.open_node(node_id="caller", tls_ca=FILES.ca) as caller:
        with pytest.raises(p2p.ConnectFailed, match="HTTP 502"):
            await caller.connect(p2p.PeerEndpoint("127.0.0.1", port, "wss"))
