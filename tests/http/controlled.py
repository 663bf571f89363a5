"""Nodes with HTTP control, and clients that hold the token."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import httpx
import trio

import http_control
import p2p
from tests.http.applications import connect, plain_client

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


class Event(NamedTuple):
    """One server-sent event."""

    id: str | None
    event: str
    data: Any


class Stream:
    """An open stream of events, read from a connection of its own (as HTTP/1.0: without chunks)."""

    def __init__(self, a: Controlled, path: str, *, token: str = TOKEN, last_id: str | None = None) -> None:
        self._url = a.url
        last = "" if last_id is None else f"Last-Event-ID: {last_id}\r\n"
        self._request = f"GET {path} HTTP/1.0\r\nHost: localhost\r\nX-Auth-Token: {token}\r\n{last}\r\n"
        self._buffer = b""

    async def __aenter__(self) -> Self:
        self.socket = await connect(self._url)
        await self.socket.send_all(self._request.encode())
        self.head = (await self._until(b"\r\n\r\n")).decode()
        return self

    async def __aexit__(self, *_: object) -> None:
        await trio.aclose_forcefully(self.socket)

    async def _until(self, end: bytes) -> bytes:
        with trio.fail_after(30):
            while end not in self._buffer:
                part = await self.socket.receive_some()
                if not part:
                    raise EOFError(self._buffer)
                self._buffer += part
        found, _, self._buffer = self._buffer.partition(end)
        return found

    async def next(self, *names: str) -> Event:
        """The next event (of one of these names); comments are passed over."""
        while True:
            lines = (await self._until(b"\n\n")).decode().split("\n")
            fields = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
            if fields and (not names or fields["event"] in names):
                return Event(fields.get("id"), fields["event"], json.loads(fields["data"]))


@asynccontextmanager
async def controlled(node: p2p.Node, **options: Any) -> AsyncIterator[Controlled]:
    """Serve a node that runs (or will)."""
    options.setdefault("token", TOKEN)
    async with trio.open_nursery() as nursery:
        given = http_control.P2PHttpOptions(**options)
        urls = await nursery.start(http_control.serve, p2p.P2PRuntime(node), given)
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with plain_client(urls[0], headers=headers, timeout=30) as client:
            yield Controlled(node, urls[0], client, nursery)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def one_controlled(**options: Any) -> AsyncIterator[Controlled]:
    async with p2p.open_node(node_id="a") as node, controlled(node, **options) as a:
        yield a
