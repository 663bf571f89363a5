"""Behind a real nginx with a path prefix, over a unix socket and over TCP."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

import http_control
import p2p
from http_control import AuthContext
from tests.http.controlled import Controlled, Stream, controlled
from tests.ports import free_port
from tests.programs import find_program, needs

CONFIG = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location /nodes/a/ {{
            proxy_pass {upstream}/;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Connection "";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
}}
"""


@asynccontextmanager
async def nginx(folder: Path, upstream: str) -> AsyncIterator[str]:
    """nginx in front of an upstream; yields the URL that stands for the node behind it."""
    port = free_port()
    config = folder / "nginx.conf"
    # Its workers would be somebody else, who may not enter a test's folder.
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(CONFIG.format(folder=folder, port=port, upstream=upstream, user=user))
    program = find_program("nginx")
    assert program is not None
    command = [str(program), "-c", str(config), "-p", str(folder), "-e", str(folder / "error.log")]
    async with trio.open_nursery() as nursery:
        start = partial(trio.run_process, command, check=False, stderr=subprocess.DEVNULL)
        process: trio.Process = await nursery.start(start)
        try:
            with trio.fail_after(30):
                while True:
                    assert process.poll() is None, (folder / "error.log").read_text()
                    try:
                        await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                        break
                    except OSError:
                        await trio.sleep(0.02)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            with trio.CancelScope(shield=True):
                await process.wait()


@needs("nginx")
@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_a_path_of_a_proxy_leads_to_the_node(tmp_path: Path, kind: str) -> None:
    sources: list[str] = []

    async def rule(ctx: AuthContext) -> bool:
        sources.append(ctx.source)
        return True

    more: dict[str, Any] = {"auth_ctx": rule, "stats_every_ms": 100}
    path = tmp_path / "control.sock"
    if kind == "unix":
        more |= {"bind": http_control.Bind(unix=path), "trusted_proxies": ("unix",)}
    else:
        more |= {"trusted_proxies": ("127.0.0.1/32",)}
    async with p2p.open_node(node_id="b") as b, p2p.open_node(node_id="a") as node, controlled(node, **more) as a:
        async with nginx(tmp_path, f"http://unix:{path}:" if kind == "unix" else a.url) as url:
            # From another address than the proxy's own, which is believed whatever it says.
            transport = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
            async with httpx.AsyncClient(base_url=f"{url}/nodes/a/", timeout=30, transport=transport) as client:
                assert (await client.get("p2p/ping")).json()["pong"] is True
                status = await client.get("p2p/status", headers={"x-forwarded-for": "6.6.6.6"})
                assert status.json()["node_id"] == "a"
                body = {"endpoint": str(b.endpoints[0])}
                assert (await client.post("p2p/connect", json=body)).json()["connected"] is True
                # The page finds its parts and its interface below the same path.
                page = (await client.get("")).text
                assert 'src="assets/main.js"' in page
                assert (await client.get("assets/main.js")).status_code == 200
                assert (await client.get("site.json")).json()["prefixes"] == ["/p2p"]
                big = await client.post("p2p/wal", json={"payload": "x" * 70_000})
                assert (big.status_code, big.json()["error"]) == (413, "too_large")
                # Pages are on the proxy's origin, which is the name it was asked for.
                assert (await client.get("p2p/status", headers={"origin": url})).status_code == 200
                assert (await client.get("p2p/status", headers={"origin": "http://evil.example"})).status_code == 403
                assert (await client.get("p2p/status", headers={"host": "evil.example"})).status_code == 421
            # The last hop is nginx's client, whatever that one claims about others.
            assert set(sources) == {"127.0.0.2"}
            behind = Controlled(node, url, a.client, a.nursery)
            # Each event comes when it happens: nothing waits until a buffer of the proxy's is full.
            async with Stream(behind, "/nodes/a/p2p/events") as stream:
                assert (await stream.next("status")).data["node_id"] == "a"
                for _ in range(3):
                    await stream.next("sample")
                await node.disconnect("b")
                assert (await stream.next("peer_left")).data["node_id"] == "b"


@needs("nginx")
async def test_a_client_that_leaves_a_stream_behind_a_proxy_gives_its_place_back(tmp_path: Path) -> None:
    async with p2p.open_node(node_id="a") as node, controlled(node, stats_every_ms=100) as a:
        async with nginx(tmp_path, a.url) as url:
            behind = Controlled(node, url, a.client, a.nursery)
            async with Stream(behind, "/nodes/a/p2p/events") as stream:
                await stream.next("status")
                assert "p2p_http_readers" in (await a.client.get("/metrics")).text
                assert 'p2p_http_readers{node="a",prefix="/p2p"} 1.0' in (await a.client.get("/metrics")).text
            with trio.fail_after(30):
                while 'p2p_http_readers{node="a",prefix="/p2p"} 0.0' not in (await a.client.get("/metrics")).text:
                    await trio.sleep(0.05)
