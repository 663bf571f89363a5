"""Nodes with HTTP control, and clients that hold the token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import trio

import http_control
import p2p

TOKEN = "a-token-of-the-tests"


@dataclass
class Controlled:
    """A node in memory, served on a free port."""

    node: p2p.Node
    url: str
    client: httpx.AsyncClient
    nursery: trio.Nursery

    async def get(self, path: str, status: int = 200, **more: Any) -> Any:
        """GET a path under the prefix and return its JSON."""
        return await self.ask("GET", path, status, **more)

    async def post(self, path: str, body: object, status: int = 200, **more: Any) -> Any:
        return await self.ask("POST", path, status, json=body, **more)

    async def ask(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        answer = await self.client.request(method, path if path.startswith("//") else f"/p2p{path}", **more)
        assert answer.status_code == status, answer.text
        value = answer.json()
        assert value["ok"] is (status < 400)
        assert value["module"] == "p2p_http"
        if status >= 400:
            assert value["status"] == status
            assert value["message"]
        return value


@asynccontextmanager
async def controlled(node: p2p.Node, **options: Any) -> AsyncIterator[Controlled]:
    """Serve a node that runs (or will)."""
    options.setdefault("token", TOKEN)
    async with trio.open_nursery() as nursery:
        given = http_control.P2PHttpOptions(**options)
        urls = await nursery.start(http_control.serve, p2p.P2PRuntime(node), given)
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(base_url=urls[0], headers=headers, timeout=30) as client:
            yield Controlled(node, urls[0], client, nursery)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def one_controlled(**options: Any) -> AsyncIterator[Controlled]:
    async with p2p.open_node(node_id="a") as node, controlled(node, **options) as a:
        yield a
