"""One side of one system, in a process of its own: `SYSTEM sink`, or `SYSTEM send PORT KEY SIZE COUNT`.

Every system does the same with its own best means. The sink counts messages, answers an empty one, and sends back one
that begins with "?"; it ends when its standard input does. The sender sends so many as fast as it can and waits for the
answer to an empty one; then it asks a tenth as many times, one question at a time. Both print a JSON object.

It imports nothing but the system that it runs: that may live in another environment than this project.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any

ECHO_SHARE = 10


def say(**values: Any) -> None:
    """Tell the parent."""
    print(json.dumps(values), flush=True)


# trio-p2p


async def p2p_sink() -> None:
    import trio

    import p2p

    def answer(request: p2p.Message) -> bytes:
        return request.body

    async with (
        p2p.open_node(node_id="sink") as node,
        node.channel("bench") as channel,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(node.serve, "echo", answer)
        say(port=node.endpoints[0].port, key="")
        async for message in channel:
            if not message.body:
                await node.send(message.peer_id, "done", b"")


async def p2p_send(port: int, key: str, size: int, count: int) -> None:
    import p2p

    body = os.urandom(size)
    async with p2p.open_node(node_id="source", listen_port=None) as node, node.channel("done") as done:
        peer = await node.connect(f"127.0.0.1:{port}")

        async def one_way(times: int) -> None:
            for _ in range(times):
                await node.send(peer, "bench", body)
            await node.send(peer, "bench", b"")
            await done.receive()

        await one_way(count // 10)
        started = time.perf_counter()
        await one_way(count)
        between = time.perf_counter()
        for _ in range(count // ECHO_SHARE):
            await node.request(peer, "echo", body)
        say(one_way=between - started, echo=time.perf_counter() - between)


# asyncio streams, length-prefixed, nothing encrypted


async def asyncio_sink() -> None:
    import asyncio

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                body = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "little"))
                if not body or body[:1] == b"?":
                    writer.write(len(body).to_bytes(4, "little") + body)
                    await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    say(port=server.sockets[0].getsockname()[1], key="")
    await server.serve_forever()


async def asyncio_send(port: int, key: str, size: int, count: int) -> None:
    import asyncio

    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b"!" + os.urandom(size - 1)
    asked = len(body).to_bytes(4, "little") + b"?" + body[1:]

    async def one_way(times: int) -> None:
        for number in range(times):
            writer.write(len(body).to_bytes(4, "little") + body)
            if number % 64 == 0:
                await writer.drain()
        writer.write(bytes(4))
        await writer.drain()
        await reader.readexactly(4)

    await one_way(count // 10)
    started = time.perf_counter()
    await one_way(count)
    between = time.perf_counter()
    for _ in range(count // ECHO_SHARE):
        writer.write(asked)
        await reader.readexactly(4 + size)
    say(one_way=between - started, echo=time.perf_counter() - between)


# pyzmq, blocking calls and C threads; with CURVE encrypted


def zmq_sink(*, curve: bool) -> None:
    import zmq  # type: ignore[import-not-found]  # only where it is installed

    context = zmq.Context()
    socket = context.socket(zmq.PAIR)
    socket.set_hwm(100_000)
    public = b""
    if curve:
        public, secret = zmq.curve_keypair()
        socket.curve_server, socket.curve_secretkey = True, secret
    say(port=socket.bind_to_random_port("tcp://127.0.0.1"), key=public.decode())
    while True:
        body = socket.recv()
        if not body or body[:1] == b"?":
            socket.send(body)


def zmq_send(port: int, key: str, size: int, count: int) -> None:
    import zmq

    socket = zmq.Context().socket(zmq.PAIR)
    socket.set_hwm(100_000)
    if key:
        socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
        socket.curve_serverkey = key.encode()
    socket.connect(f"tcp://127.0.0.1:{port}")
    body = b"!" + os.urandom(size - 1)
    asked = b"?" + body[1:]

    def one_way(times: int) -> None:
        for _ in range(times):
            socket.send(body)
        socket.send(b"")
        socket.recv()

    one_way(count // 10)
    started = time.perf_counter()
    one_way(count)
    between = time.perf_counter()
    for _ in range(count // ECHO_SHARE):
        socket.send(asked)
        socket.recv()
    say(one_way=between - started, echo=time.perf_counter() - between)


# py-libp2p: TCP, its default security and muxer

PROTOCOL = "/bench/1.0.0"


async def _read(stream: Any, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.read(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


async def libp2p_sink() -> None:
    import trio
    from libp2p import new_host  # type: ignore[import-not-found]  # only where it is installed
    from multiaddr import Multiaddr  # type: ignore[import-not-found]  # only where it is installed

    host = new_host()

    async def serve(stream: Any) -> None:
        while True:
            body = await _read(stream, size) if (size := int.from_bytes(await _read(stream, 4), "little")) else b""
            if not body or body[:1] == b"?":
                await stream.write(len(body).to_bytes(4, "little") + body)

    host.set_stream_handler(PROTOCOL, serve)
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        say(port=0, key=str(host.get_addrs()[0]))
        await trio.sleep_forever()


async def libp2p_send(port: int, key: str, size: int, count: int) -> None:
    from libp2p import new_host
    from libp2p.peer.peerinfo import info_from_p2p_addr  # type: ignore[import-not-found]  # only where it is installed
    from multiaddr import Multiaddr

    host = new_host()
    body = b"!" + os.urandom(size - 1)
    head = len(body).to_bytes(4, "little")
    async with host.run([]):
        info = info_from_p2p_addr(Multiaddr(key))
        await host.connect(info)
        stream = await host.new_stream(info.peer_id, [PROTOCOL])

        async def one_way(times: int) -> None:
            for _ in range(times):
                await stream.write(head + body)
            await stream.write(bytes(4))
            await _read(stream, 4)

        await one_way(count // 10)
        started = time.perf_counter()
        await one_way(count)
        between = time.perf_counter()
        for _ in range(count // ECHO_SHARE):
            await stream.write(head + b"?" + body[1:])
            await _read(stream, 4 + size)
        say(one_way=between - started, echo=time.perf_counter() - between)


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    """Run the side that the command line names."""
    system, side, *rest = sys.argv[1:]
    if side == "sink":
        # Whatever ends the parent, and whatever loop this side runs.
        threading.Thread(target=_end_with_input, daemon=True).start()
    arguments = (int(rest[0]), rest[1], int(rest[2]), int(rest[3])) if rest else ()
    if system in {"trio-p2p", "py-libp2p"}:
        import trio

        sides: Any = {
            ("trio-p2p", "sink"): p2p_sink,
            ("trio-p2p", "send"): p2p_send,
            ("py-libp2p", "sink"): libp2p_sink,
            ("py-libp2p", "send"): libp2p_send,
        }
        trio.run(sides[system, side], *arguments)
    elif system == "asyncio":
        import asyncio

        asyncio.run(asyncio_sink() if side == "sink" else asyncio_send(*arguments))
    elif side == "sink":
        zmq_sink(curve=system == "pyzmq CURVE")
    else:
        zmq_send(*arguments)


if __name__ == "__main__":
    main()
