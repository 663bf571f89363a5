"""`p2p registry` as an operator meets it."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.cli.prepared import Process
from tests.cli.processes import p2p_fails, p2p_refuses, start
from tests.programs import needs
from tests.redis_server import redis_server
from tests.registries import ask

VIX = b'{"node_id":"kitchen","tcp_port":9101}'


@asynccontextmanager
async def serving(*arguments: str | Path) -> AsyncIterator[tuple[Process, dict[str, Any]]]:
    """A registry in a process of its own, and its first line."""
    process = await start("registry", "--json", *arguments)
    try:
        with trio.fail_after(60):
            line = b""
            while not line.endswith(b"\n"):
                chunk = await process.stdout.receive_some()
                assert chunk, (await process.stderr.receive_some()).decode()
                line += chunk
        yield process, json.loads(line)
    finally:
        if process.poll() is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()
            await process.stderr.aclose()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_serves_until_it_is_told_to_stop(number: signal.Signals) -> None:
    async with serving("--listen", "127.0.0.1:0", "--ttl", "30") as (process, started):
        assert started["event"] == "started"
        url = started["urls"][0]
        assert (await ask(url, "POST", "/announce", VIX))[2] == {"ok": True, "ttl_s": 30}
        # One that is connected and says nothing does not hold it up.
        idle = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
        process.send_signal(number)
        with trio.fail_after(30):
            assert await process.wait() == 0
            assert json.loads(await process.stdout.receive_some()) == {"event": "stopped"}
            assert await process.stderr.receive_some() == b""
        await idle.aclose()


async def test_a_store_in_a_file_survives_a_kill(tmp_path: Path) -> None:
    arguments = ("--listen", "127.0.0.1:0", "--store", tmp_path / "registry.db")
    async with serving(*arguments) as (process, started):
        await ask(started["urls"][0], "POST", "/announce", VIX)
        process.kill()
        await process.wait()
    async with serving(*arguments) as (_, started):
        assert len((await ask(started["urls"][0], "GET", "/peers"))[2]["peers"]) == 1


@needs("redis-server")
async def test_two_registries_share_a_store_in_redis(tmp_path: Path) -> None:
    with redis_server(tmp_path) as store:
        arguments = ("--listen", "127.0.0.1:0", "--store", store)
        async with serving(*arguments) as (_, first), serving(*arguments) as (_, second):
            await ask(first["urls"][0], "POST", "/announce", VIX)
            assert len((await ask(second["urls"][0], "GET", "/peers"))[2]["peers"]) == 1


async def test_a_token_file_closes_it(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("0123456789abcdef0123456789abcdef\n")
    path.chmod(0o600)
    async with serving("--listen", "127.0.0.1:0", "--token-file", path) as (_, started):
        url = started["urls"][0]
        assert (await ask(url, "GET", "/peers"))[0] == 401
        shown = "Authorization: Bearer 0123456789abcdef0123456789abcdef"
        assert (await ask(url, "GET", "/peers", b"", shown))[0] == 200


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--listen", "0.0.0.0:0"], "--token-file F .* or --open"),
        (["--listen", "8470"], "--listen '8470': .*HOST:PORT"),
        (["--listen", "127.0.0.1:0", "--ttl", "5"], "--ttl"),
        (["--listen", "127.0.0.1:0", "--proxy", "x"], "neither an address nor a network"),
        (["--listen", "127.0.0.1:0", "--tls-cert", "c.pem"], "both the certificate and the key"),
        (["--listen", "0.0.0.0:0", "--open", "--token-file", "f"], "leave one out"),
    ],
)
async def test_wrong_usage_is_one_line(arguments: list[str], says: str) -> None:
    line = p2p_refuses("registry", *arguments)
    assert re.search(says, line), line


async def test_what_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    short, shared, other = tmp_path / "short", tmp_path / "shared", tmp_path / "other"
    short.write_text("abc")
    short.chmod(0o600)
    shared.write_text("0123456789abcdef")
    shared.chmod(0o644)
    other.write_text("not a database at all " * 100)
    listen = ("registry", "--listen", "127.0.0.1:0")
    assert "holds no token" in await p2p_fails(1, *listen, "--token-file", short)
    assert "chmod 600" in await p2p_fails(1, *listen, "--token-file", shared)
    assert "cannot be read" in await p2p_fails(1, *listen, "--token-file", tmp_path / "none")
    assert "not a database" in await p2p_fails(1, *listen, "--store", other)
    assert "Redis cannot be used" in await p2p_fails(1, *listen, "--store", "redis://127.0.0.1:1/0")
    for store in ("mysql://me:secret@db/registry", "http://127.0.0.1:6379"):
        line = await p2p_fails(1, *listen, "--store", store)
        assert "redis://HOST:PORT/0" in line
        assert "secret" not in line
    async with serving("--listen", "127.0.0.1:0") as (_, started):
        place = started["urls"][0].removeprefix("http://")
        assert "in use" in await p2p_fails(1, "registry", "--listen", place)
