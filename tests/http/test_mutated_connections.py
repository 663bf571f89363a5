"""Connections as fuzzers and scanners make them: the server goes on, and nothing of them stays.

`HTTP_MUTATIONS` sets how many (300 by default), `HTTP_SEED` where they begin.
"""

from __future__ import annotations

import os
import random
import socket
import struct

import trio

from http_control.limits import HttpLimits
from tests.http.applications import connect, descriptors, descriptors_back_to, raw, served, small_app

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


def mutated(dice: random.Random) -> bytes:
    data = bytearray(dice.choice(VALID))
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
                data += dice.choice(VALID)
            case _:
                data = data[:at] or data
    return bytes(data)


async def attack(url: str, seed: int) -> None:
    """One connection: pieces of a mutated request, then one of the ways to leave."""
    dice = random.Random(seed)
    data = mutated(dice)
    stream = await connect(url)
    try:
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


async def test_t54_mutated_connections_end_themselves_only() -> None:
    limits = HttpLimits(header_s_max=2, body_s_max=2, write_stall_s_max=2, linger_s_max=0.2)
    before = descriptors()
    async with served(small_app(), limits) as (url, _):
        await raw(url, VALID[1])
        open_and_idle = descriptors()
        places = trio.CapacityLimiter(AT_ONCE)

        async def one(seed: int) -> None:
            async with places:
                await attack(url, seed)

        async with trio.open_nursery() as attackers:
            for number in range(COUNT):
                attackers.start_soon(one, SEED * 1_000_000 + number)
        with trio.fail_after(30):
            assert b"hello" in await raw(url, VALID[1])
        await descriptors_back_to(open_and_idle)
    await descriptors_back_to(before)
