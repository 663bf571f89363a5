"""Connections as fuzzers and scanners make them: the server goes on, and nothing of them stays.

`HTTP_MUTATIONS` sets how many (300 by default), `HTTP_SEED` where they begin.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import struct

import pytest
import trio

from http_control.limits import HttpLimits
from tests.http.applications import connect, descriptors, descriptors_back_to, raw, served, small_app
from tests.http.controlled import TOKEN, one_controlled

COUNT = int(os.environ.get("HTTP_MUTATIONS", "300"))
SEED = int(os.environ.get("HTTP_SEED", "1"))
AT_ONCE = 20

VALID = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET /stream HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n",
    b'POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Type: application/json\r\n\r\n{"a"}',
    b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"POST /count HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk"
    b"\r\n\r\n"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x81\x00"),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
)  # fmt: skip
PIECES = (
    b"\r\n", b"\0", b"\xff", b":", b" ", b"\t", b"\r", b"\n\n", b"HTTP/1.1",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n", b"%", b"%00", b"?", b"#", b"../", b"\x81\xfe", b"A" * 70_000,
)  # fmt: skip


OF_A_NODE = tuple(
    request.replace(b"GET / ", b"GET /p2p/status ")
    .replace(b"/stream", b"/p2p/events")
    .replace(b"/count", b"/p2p/connect")
    .replace(b"Host: a", b"Host: localhost\r\nX-Auth-Token: " + TOKEN.encode())
    for request in VALID
)


def mutated(dice: random.Random, valid: tuple[bytes, ...]) -> bytes:
    data = bytearray(dice.choice(valid))
    for _ in range(dice.randint(0, 4)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(5):
            case 0 if at < len(data):
                data[at] = dice.randrange(256)
            case 1:
                data[at:at] = dice.choice(PIECES)
            case 2:
                del data[at : at + dice.randint(1, 20)]
            case 3:
                data += dice.choice(valid)
            case _:
                data = data[:at] or data
    return bytes(data)


async def attack_often(url: str, valid: tuple[bytes, ...]) -> None:
    """All of the connections, some at a time."""
    places = trio.CapacityLimiter(AT_ONCE)

    async def one(seed: int) -> None:
        async with places:
            await attack(url, valid, seed)

    async with trio.open_nursery() as attackers:
        for number in range(COUNT):
            attackers.start_soon(one, SEED * 1_000_000 + number)


async def attack(url: str, valid: tuple[bytes, ...], seed: int) -> None:
    """One connection: pieces of a mutated request, then one of the ways to leave."""
    dice = random.Random(seed)
    data = mutated(dice, valid)
    stream = await connect(url)
    try:
        # No answer comes to what is not whole: nothing is measured by how long it is waited for.
        with trio.move_on_after(1):
            at = 0
            while at < len(data):
                size = dice.choice([1, 7, len(data)])
                await stream.send_all(data[at : at + size])
                at += size
                if dice.random() < 0.9:
                    size = len(data)
            way = dice.randrange(4)
            if way == 0:
                await stream.send_eof()
            if way <= 1:
                await stream.receive_some(dice.choice([1, 4096]))
            if way == 3:
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except (trio.BrokenResourceError, OSError):
        pass
    finally:
        await trio.aclose_forcefully(stream)


LIMITS = HttpLimits(linger_s_max=0.2)


async def test_t54_mutated_connections_do_not_reach_a_node_and_find_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    before = descriptors()
    async with one_controlled(stats_every_ms=100, limits=LIMITS) as a:
        await a.get("/ping")
        open_and_idle = descriptors()
        await attack_often(a.url, OF_A_NODE)
        assert (await a.get("/ping"))["pong"] is True
        assert 'status="5' not in (await a.client.get("/metrics")).text.replace('status="502"', "")
        await descriptors_back_to(open_and_idle)
    await descriptors_back_to(before)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_t54_mutated_connections_end_themselves_only() -> None:
    before = descriptors()
    async with served(small_app(), LIMITS) as (url, _):
        await raw(url, VALID[1])
        open_and_idle = descriptors()
        await attack_often(url, VALID)
        with trio.fail_after(30):
            assert b"hello" in await raw(url, VALID[1])
        await descriptors_back_to(open_and_idle)
    await descriptors_back_to(before)
