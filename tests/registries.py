"""A registry of ours for tests: the real server on loopback, and HTTP written by hand."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from http_control.registry.app import RegistryOptions
from http_control.registry.serving import serve_registry
from http_control.registry.sqlite import SqliteTable
from http_control.registry.table import Table
from http_control.server import ServerOptions
from http_control.sockets import Bind
from http_control.source import Networks
from p2p import Limits
from p2p.registry import Desk

OUTER_S = 60


@asynccontextmanager
async def registry(
    *,
    table: Table | None = None,
    limits: Limits | None = None,
    require_signed: bool = False,
    token: str | None = None,
    proxies: Networks = (),
    bind: Bind | None = None,
) -> AsyncIterator[str]:
    """Serve one; yields its URL."""
    desk = Desk(limits or Limits(), require_signed=require_signed)
    options = RegistryOptions(desk, table or SqliteTable(), token, proxies)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(OUTER_S):
            urls: list[str] = await nursery.start(serve_registry, options, ServerOptions(bind or Bind()))
        yield urls[0]
        nursery.cancel_scope.cancel()


async def raw(url: str, request: bytes) -> bytes:
    """Send bytes, and return all that comes."""
    port = int(url.rpartition(":")[2])
    with trio.fail_after(OUTER_S):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(request)
            received = b""
            async for chunk in stream:
                received += chunk
            return received


async def ask(url: str, method: str, path: str, body: bytes = b"", *headers: str) -> tuple[int, dict[str, str], Any]:
    """One request; the status, the headers by their lower-case names, and the JSON (or the text) of the answer."""
    head = [
        f"{method} {path} HTTP/1.1",
        "Host: r",
        "Connection: close",
        f"Content-Length: {len(body)}",
        *headers,
        "",
        "",
    ]
    answer = await raw(url, "\r\n".join(head).encode("utf-8", "surrogateescape") + body)
    top, _, content = answer.partition(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")
    named = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    is_json = named.get("content-type") == "application/json"
    return int(first.split()[1]), named, json.loads(content) if is_json else content.decode()
