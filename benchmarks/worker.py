"""The other side of a benchmark, in a process of its own: `python -m benchmarks.worker ROLE [ARGS]`.

It prints one JSON object with its address once it is ready, and one for every result; it ends when its standard input
does. Two processes, because in one the two sides would share an interpreter and measure each other.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import trio

import p2p

LENGTH_BYTES = 4
END_S_MAX = 3.0
DIALS_MAX = 3


def say(**values: object) -> None:
    """Tell the parent."""
    print(json.dumps(values), flush=True)


async def raw_sink() -> None:
    """Take length-prefixed messages as a plain trio server does, and confirm each batch that ends with an empty one."""

    async def serve(stream: trio.SocketStream) -> None:
        rest = b""
        count = 0
        number = int.from_bytes
        async for chunk in stream:
            data = rest + chunk if rest else bytes(chunk)
            start, size = 0, len(data)
            while (body_at := start + LENGTH_BYTES) <= size:
                stop = body_at + number(data[start:body_at], "little")
                if stop > size:
                    break
                body = data[body_at:stop]
                start = stop
                if body:
                    count += 1
                else:
                    await stream.send_all(count.to_bytes(8, "little"))
            rest = data[start:]

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    say(port=listeners[0].socket.getsockname()[1])
    await trio.serve_listeners(serve, listeners)


async def node_sink() -> None:
    """Take messages with a node's public API, and confirm each batch that ends with an empty one."""
    async with (
        p2p.open_node(node_id="sink", listen_ws_port=0) as node,
        node.channel("bench") as channel,
    ):
        port, ws_port = (endpoint.port for endpoint in node.endpoints)
        say(port=port, ws_port=ws_port)
        await _confirm(node, channel)


async def _confirm(node: p2p.Node, channel: p2p.Channel) -> None:
    count = 0
    async for message in channel:
        if message.body:
            count += 1
        else:
            await node.send(message.peer_id, "done", count.to_bytes(8, "little"))


async def relay() -> None:
    """Pass circuits on, and keep nobody's records: who catches up could have them from here."""
    limits = replace(p2p.Limits(), origins_max=0)
    async with p2p.open_node(
        node_id="relay", network_key=bytes(32), listen_host="127.0.0.1", relay=True, limits=limits
    ) as node:
        say(port=node.endpoints[0].port)
        await node.wait()


async def behind(port: int) -> None:
    """As `node_sink`, and also behind a relay."""
    options = {"network_key": bytes(32), "listen_host": "127.0.0.1", "via": [f"127.0.0.1:{port}"]}
    async with p2p.open_node(node_id="sink", **options) as node, node.channel("bench") as channel:  # type: ignore[arg-type]  # options, passed on
        async with node.events() as events:
            while not node.peers():
                await events.__anext__()
        say(port=node.endpoints[0].port, peer_id=str(node.peer_id))
        await _confirm(node, channel)


async def raw_echo() -> None:
    """Send back what comes, as a plain trio server does."""

    async def serve(stream: trio.SocketStream) -> None:
        async for chunk in stream:
            await stream.send_all(chunk)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    say(port=listeners[0].socket.getsockname()[1])
    await trio.serve_listeners(serve, listeners)


async def node_echo() -> None:
    """Answer requests with what they bring, by a node's public API."""

    def echo(request: p2p.Message) -> bytes:
        return request.body

    async with p2p.open_node(node_id="echo") as node, trio.open_nursery() as nursery:
        await nursery.start(node.serve, "echo", echo)
        say(port=node.endpoints[0].port)


async def accept_only() -> None:
    """A TCP server that does nothing, and a node, side by side: what a connect is measured against."""

    async def hold(stream: trio.SocketStream) -> None:
        await stream.receive_some()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with p2p.open_node(node_id="sink", max_peers=4096) as node, trio.open_nursery() as nursery:
        say(raw_port=listeners[0].socket.getsockname()[1], port=node.endpoints[0].port)
        nursery.start_soon(trio.serve_listeners, hold, listeners)


async def hub(ping_after_s: float, inbox: Inbox) -> None:
    """A node for a crowd. Asked, it tells what it takes: memory and processor time."""
    async with p2p.open_node(node_id="hub", max_peers=4096, ping_after_s=ping_after_s) as node:
        say(port=node.endpoints[0].port)
        while True:
            await inbox.line()
            # What a look at the memory takes is the node's no more than the question itself.
            until_s = time.process_time()
            bytes_now = resident()
            say(peers=len(node.peers()), resident=bytes_now, until_s=until_s, from_s=time.process_time())


async def raw_hub(inbox: Inbox) -> None:
    """Plain connections for a raw crowd, each of which sends back what comes. Asked, it tells what it takes."""
    connected = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal connected
        connected += 1
        async for chunk in stream:
            await stream.send_all(chunk)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        say(port=listeners[0].socket.getsockname()[1])
        while True:
            await inbox.line()
            say(peers=connected, until_s=time.process_time(), from_s=time.process_time())


async def raw_crowd(every_s: float, inbox: Inbox) -> None:
    """Plain connections that exchange a byte each way in so many seconds, spread evenly over them."""

    async def ping(stream: trio.SocketStream, after_s: float) -> None:
        await trio.sleep(after_s)
        while True:
            await stream.send_all(b"\0")
            await stream.receive_some()
            await trio.sleep(every_s)

    async with trio.open_nursery() as nursery:
        while True:
            task = await inbox.task()
            for number in range(task["count"]):
                stream = await trio.open_tcp_stream("127.0.0.1", task["port"])
                nursery.start_soon(ping, stream, every_s * number / task["count"])
            say(connected=task["count"])


def resident() -> int:
    """Bytes of memory that this process has now, after a collection."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def member(inbox: Inbox) -> None:
    """One of many nodes that replicate. It does what it is asked, and tells what it holds and what it received."""
    async with p2p.open_node(node_id=f"m{os.getpid()}", network_key=bytes(32), max_peers=64) as node:
        say(port=node.endpoints[0].port)
        while True:
            task = json.loads(await inbox.line())
            if task.get("disconnect"):
                for peer in node.peers():
                    # The other end may be faster.
                    with suppress(p2p.NotConnected, p2p.UnknownPeer):
                        await node.disconnect(peer)
            for port in task.get("connect", ()):
                await node.connect(f"127.0.0.1:{port}")
            for _ in range(task.get("append", 0)):
                await node.wal.append(bytes(task["size"]))
            held = task.get("until", 0)
            async with node.events() as events:
                while sum(head.seq for head in node.wal.heads().values()) < held:
                    await events.__anext__()
            say(
                at=time.monotonic(),
                records=sum(head.seq for head in node.wal.heads().values()),
                received=sum(peer.bytes_in for peer in node.peers()),
                digest=node.wal.digest().hex(),
                **{f"pushes_{verdict}": count for verdict, count in verdicts(node).items()},
            )


def verdicts(node: p2p.Node) -> dict[str, int]:
    """How many pushes a node received, by what became of them."""
    rooms = node._rooms  # noqa: SLF001  # a figure for benchmarks only; no application needs it
    assert rooms is not None
    return {verdict.value: count for verdict, count in rooms.replicator.verdicts.items()}


async def follower(port: int, records: int, inbox: Inbox, peer: str = "") -> None:
    """Catch up with a node from an empty store, and tell when everything is durable here. With a peer that is the node,
    and the port its relay's."""
    with tempfile.TemporaryDirectory() as folder:
        async with p2p.open_node(node_id="follower", data_dir=folder, network_key=bytes(32)) as node:
            holder = f"127.0.0.1:{port}"
            if peer:
                await node.connect(holder)
                holder = f"relay://relay/{peer}"
            say(ready=True)
            await inbox.line()
            started = trio.current_time()
            async with node.events() as events:
                peer_id = (await node.connect(holder)).peer_id
                while sum(head.seq for head in node.wal.heads().values()) < records:
                    await events.__anext__()
            seconds = trio.current_time() - started
            say(seconds=seconds, direct=[each.direct for each in node.peers() if each.peer_id == peer_id])


class Inbox:
    """What the parent sends: a line that says "go", or JSON objects, one a line."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._wake = trio.lowlevel.ParkingLot()

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._lines.extend(lines)
        self._wake.unpark_all()

    async def line(self) -> bytes:
        """Wait for the next line."""
        while not self._lines:
            await self._wake.park()
        return self._lines.popleft()

    async def task(self) -> dict[str, Any]:
        """Wait for the next object."""
        task: dict[str, Any] = json.loads(await self.line())
        return task


async def crowd(size: int, ping_after_s: float | None, inbox: Inbox) -> None:
    """Many nodes that only dial: handshakes at a time, or links that stay and say nothing."""

    async def handshakes(node: p2p.Node, port: int, count: int) -> None:
        for _ in range(count):
            await node.disconnect(await dial(node, port))

    async def dial(node: p2p.Node, port: int) -> p2p.Peer:
        for _ in range(DIALS_MAX - 1):
            # Of thousands beside other work one may come too late.
            with suppress(p2p.ConnectFailed):
                return await node.connect(f"127.0.0.1:{port}")
        return await node.connect(f"127.0.0.1:{port}")

    async with trio.open_nursery() as nursery:
        nodes = [
            p2p.Node(p2p.NodeConfig(node_id=f"c{number}", listen_port=None, ping_after_s=ping_after_s))
            for number in range(size)
        ]
        for node in nodes:
            await nursery.start(node.run)
        say(ready=True)
        connected = 0
        while True:
            task = json.loads(await inbox.line())
            started = time.perf_counter()
            if task["task"] == "handshakes":
                async with trio.open_nursery() as dialling:
                    for node in nodes:
                        dialling.start_soon(handshakes, node, task["port"], task["count"] // size)
            else:
                while connected < task["count"]:
                    await dial(nodes[connected], task["port"])
                    connected += 1
            say(seconds=time.perf_counter() - started)


Role = Callable[[list[str], Inbox], Awaitable[None]]

ROLES: dict[str, Role] = {
    "raw_sink": lambda args, inbox: raw_sink(),
    "node_sink": lambda args, inbox: node_sink(),
    "relay": lambda args, inbox: relay(),
    "behind": lambda args, inbox: behind(int(args[0])),
    "raw_echo": lambda args, inbox: raw_echo(),
    "node_echo": lambda args, inbox: node_echo(),
    "accept_only": lambda args, inbox: accept_only(),
    "hub": lambda args, inbox: hub(float(args[0]), inbox),
    "raw_hub": lambda args, inbox: raw_hub(inbox),
    "raw_crowd": lambda args, inbox: raw_crowd(float(args[0]), inbox),
    "member": lambda args, inbox: member(inbox),
    "follower": lambda args, inbox: follower(int(args[0]), int(args[1]), inbox, *args[2:]),
    "crowd": lambda args, inbox: crowd(int(args[0]), float(args[1]) if args[1:] else None, inbox),
}


async def main(*arguments: str) -> None:
    """Play a role until standard input ends or the role is over."""
    role, *args = arguments
    inbox = Inbox()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def watch_input() -> None:
            async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as source:
                while data := await source.receive_some():
                    inbox.feed(bytes(data))
            nursery.cancel_scope.cancel()

        # Those of the attack are a file of their own.
        roles = ROLES if role in ROLES else importlib.import_module("benchmarks.attackers").ROLES
        await roles[role](args, inbox)
        nursery.cancel_scope.cancel()


class Worker:
    """A worker process as its parent sees it."""

    def __init__(self, process: trio.Process) -> None:
        self.pid = process.pid
        self._process = process
        self._buffer = bytearray()

    async def result(self) -> dict[str, Any]:
        """Wait for the next object that it prints."""
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            chunk = await self._process.stdout.receive_some()
            if not chunk:
                raise RuntimeError("the worker ended early")
            self._buffer += chunk
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = rest
        result: dict[str, Any] = json.loads(line)
        return result

    def processor_s(self) -> float:
        """Processor time that it has taken so far: what other work on the machine changes least."""
        return int(Path(f"/proc/{self._process.pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9

    async def go(self) -> None:
        """Let a waiting worker begin."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(b"\n")

    async def ask(self, **values: object) -> dict[str, Any]:
        """Send an object and wait for the answer."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps(values).encode() + b"\n")
        return await self.result()


@dataclass(frozen=True, slots=True)
class Effort:
    """What it took to do something.

    Attributes:
        seconds: by the clock.
        work_s: processor time of each process that took part, ours first: what other work on the machine changes least.
    """

    seconds: float
    work_s: tuple[float, ...]

    @property
    def busiest(self) -> float:
        """Processor time of the process that took most: with a core for each, the others wait for it."""
        return max(self.work_s)

    @property
    def together(self) -> float:
        """Processor time of all of them."""
        return sum(self.work_s)

    def and_then(self, seconds: float) -> Effort:
        """With so much computing at each process after it."""
        return Effort(self.seconds + seconds, tuple(each + seconds for each in self.work_s))


async def effort(doing: Awaitable[float], *others: Worker) -> Effort:
    """What it takes to do something that tells its seconds, here and in other processes."""

    def spent() -> tuple[float, ...]:
        return (time.process_time(), *(other.processor_s() for other in others))

    before = spent()
    seconds = await doing
    return Effort(seconds, tuple(now - then for now, then in zip(spent(), before, strict=True)))


@asynccontextmanager
async def start(role: str, *args: object) -> AsyncIterator[Worker]:
    """Run a worker process around a body."""
    async with start_alike(1, role, *args) as (worker,):
        yield worker


@asynccontextmanager
async def start_alike(count: int, role: str, *args: object) -> AsyncIterator[list[Worker]]:
    """Run so many worker processes around a body. However it ends, they end at the same time, within `END_S_MAX`."""
    run = partial(
        trio.run_process,
        [sys.executable, "-m", "benchmarks.worker", role, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        check=False,
        # Ctrl-C is for the parent, who ends its workers.
        start_new_session=True,
        deliver_cancel=_end,
    )
    async with trio.open_nursery() as nursery:
        yield [Worker(await nursery.start(run)) for _ in range(count)]
        nursery.cancel_scope.cancel()


async def _end(process: trio.Process) -> None:
    """Let a worker end by itself, so that it leaves no files behind; one that cannot is killed."""
    assert process.stdin is not None
    # One that was stopped could not.
    process.send_signal(signal.SIGCONT)
    await process.stdin.aclose()
    with trio.move_on_after(END_S_MAX):
        await process.wait()
        return
    process.kill()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
