"""Small applications to serve, and raw connections to them."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import trio
from quart import Response, request
from quart_trio import QuartTrio

from http_control.limits import HttpLimits
from http_control.server import ServerOptions, serve_app
from http_control.sockets import Bind

_NO_AUTHORITIES: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def plain_client(url: str, **options: Any) -> httpx.AsyncClient:
    """A client of plain HTTP. One that may speak TLS reads all authorities of the web first: 30 to 60 ms each."""
    return httpx.AsyncClient(base_url=url, verify=_NO_AUTHORITIES, **options)


def small_app() -> QuartTrio:
    """Answers, counts a body, fails, streams for ever, and has a task that can be made to fail."""
    app = QuartTrio("small")

    @app.get("/")
    async def hello() -> dict[str, object]:
        return {"hello": True}

    @app.post("/count")
    async def count() -> dict[str, object]:
        return {"bytes": len(await request.get_data())}

    @app.get("/fail")
    async def fail() -> dict[str, object]:
        raise ValueError("meant")

    @app.get("/end")
    async def end() -> dict[str, object]:
        async def break_down() -> None:
            raise RuntimeError("a task of the application")

        app.nursery.start_soon(break_down)
        return {"ended": True}

    @app.get("/stream")
    async def stream() -> Response:
        async def bytes_for_ever() -> AsyncIterator[bytes]:
            while True:
                yield b"data: " + b"x" * 60_000 + b"\n\n"
                await trio.lowlevel.checkpoint()

        response = Response(bytes_for_ever(), mimetype="text/event-stream")
        response.timeout = None
        return response

    return app


@asynccontextmanager
async def served(
    app: Any, limits: HttpLimits | None = None, bind: Bind | None = None
) -> AsyncIterator[tuple[str, trio.Nursery]]:
    """Serve an application around a body: its URL, and the nursery it runs in."""
    options = ServerOptions(bind or Bind(), limits or HttpLimits())
    async with trio.open_nursery() as nursery:
        urls = await nursery.start(serve_app, app, options)
        yield urls[0], nursery
        nursery.cancel_scope.cancel()


async def raw(url: str, data: bytes) -> bytes:
    """Send bytes on a connection of their own and return all that comes until the other side closes it."""
    stream = await connect(url)
    async with stream:
        await stream.send_all(data)
        return b"".join([part async for part in stream])


async def connect(url: str) -> trio.SocketStream:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return await trio.open_tcp_stream(host.strip("[]"), int(port))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def descriptors_back_to(count: int) -> None:
    """Wait until no more descriptors are open than before."""
    with trio.fail_after(30):
        while descriptors() > count:
            await trio.sleep(0.01)
