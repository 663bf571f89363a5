"""The processes of `attack`: the node, an honest peer, and those who attack. Roles of `worker`."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import trio

import p2p
from benchmarks.worker import Inbox, Role, resident, say

KEY: Final = bytes(32)


def _stay_on(*, attacks: bool) -> None:
    """Have attackers keep to one processor, and the node and its honest peer to the others, where there are several."""
    if hasattr(os, "sched_setaffinity"):
        *others, last = sorted(os.sched_getaffinity(0))
        if others:
            os.sched_setaffinity(0, {last} if attacks else others)


FLOOD_MESSAGES: Final = 4
FLOOD_EVERY_S: Final = 0.00125
"""One flooder's pace: 3,200 messages a second, a few at a time, as from a network."""
DATAGRAM_EVERY_S: Final = 0.001
ARRIVAL_S: Final = 1.0
"""Within so long the strangers come, one after the other."""
REQUEST_EVERY_S: Final = 0.01
DIAL_EVERY_S: Final = 0.1


async def be_target(discovery_port: int, inbox: Inbox) -> None:
    """The node under attack. It appends and sends to everybody all the time, slowly, quiet or not."""
    _stay_on(attacks=False)
    near = p2p.DiscoveryConfig(discovery_port=discovery_port, loopback_only=True)

    async def work(node: p2p.Node) -> None:
        while True:
            await node.wal.append(os.urandom(16_384))
            for peer in node.peers():
                with trio.move_on_after(0.01), suppress(p2p.NotConnected):
                    await node.send(peer, "noise", bytes(4096))
            await trio.sleep(0.05)

    async with (
        p2p.open_node(node_id="target", network_key=KEY, listen_host="127.0.0.1", discovery=near) as node,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(node.serve, "echo", lambda request: request.body)
        nursery.start_soon(work, node)
        say(port=node.endpoints[0].port)
        while True:
            await inbox.task()
            ended = node.counters.links_ended
            proven = {p2p.Reason.CLOSED, p2p.Reason.MOVED}
            say(
                resident=resident(),
                cpu_s=time.process_time(),
                refused=sum(n for why, n in ended.items() if why not in proven),
            )


async def be_honest(inbox: Inbox) -> None:
    """A peer that is connected and asks in a steady stream, and a second node that connects anew when it is told to;
    never both at once. Tells how long it took, and which links of the first were lost."""

    _stay_on(attacks=False)

    async def ask(node: p2p.Node, peer: p2p.Peer, requests: int) -> list[float]:
        took: list[float] = []
        due = trio.current_time()
        for _ in range(requests):
            due += REQUEST_EVERY_S
            await trio.sleep_until(due)
            started = time.perf_counter()
            await node.request(peer, "echo", bytes(128), timeout_s=30)
            took.append(time.perf_counter() - started)
        return took

    async def dial(fresh: p2p.Node, port: int) -> float | None:
        started = time.perf_counter()
        try:
            peer = await fresh.connect(f"127.0.0.1:{port}")
        except p2p.P2PError:
            return None
        seconds = time.perf_counter() - started
        await fresh.disconnect(peer)
        return seconds

    async with (
        p2p.open_node(node_id="honest", network_key=KEY, listen_port=None) as node,
        p2p.open_node(node_id="newcomer", network_key=KEY, listen_port=None) as fresh,
        node.events() as events,
        trio.open_nursery() as nursery,
    ):
        lost = 0

        @nursery.start_soon
        async def count_losses() -> None:
            nonlocal lost
            async for event in events:
                lost += isinstance(event, p2p.events.PeerLeft)

        say(ready=True)
        while True:
            task = await inbox.task()
            peer = next(iter(node.peers()), None) or await node.connect(f"127.0.0.1:{task['port']}")
            took = await ask(node, peer, task.get("requests", 0))
            dialled = []
            for _ in range(task.get("dials", 0)):
                dialled.append(await dial(fresh, task["port"]))
                await trio.sleep(DIAL_EVERY_S)
            say(took=took, dialled=dialled, links_lost=lost)


async def be_strangers(inbox: Inbox) -> None:
    """Many connections that prove nothing, and datagrams that lie; at a pace that a small machine bears."""
    _stay_on(attacks=True)
    connections = datagrams = 0

    async def connect(port: int, number: int, speak: Callable[[trio.SocketStream], Awaitable[None]]) -> None:
        nonlocal connections
        while True:
            connections += 1
            try:
                # From many addresses, as behind many doors.
                here = f"127.0.{number % 200}.{2 + number // 200}"
                async with await trio.open_tcp_stream("127.0.0.1", port, local_address=here) as stream:
                    await speak(stream)
            except (OSError, trio.BrokenResourceError):
                pass
            await trio.sleep(2 + number % 100 / 50)

    async def drip(stream: trio.SocketStream) -> None:
        first = b"\0\0\0\x40" + bytes(60)
        for byte in first:
            await stream.send_all(bytes([byte]))
            await trio.sleep(1)

    async def babble(stream: trio.SocketStream) -> None:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n" + os.urandom(1000))
        await stream.receive_some()

    async def announce(port: int) -> None:
        nonlocal datagrams
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            await sock.bind(("127.0.0.1", 0))
            sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_BROADCAST, 1)
            template = (
                '{{"node_id":"n{0}","tcp_port":{1},"ts_ms":{2},"nonce":{0},"capabilities":'
                '[["proto","1.0"],["transport","tcp"],["key","{3}"],["sig","{4}"]]}}'
            )
            for number in itertools.count():
                key = "A" * 43 + "="
                data = template.format(number, 1 + number % 65535, number, key, "B" * 86 + "==").encode()
                try:
                    await sock.sendto(data if number % 3 else os.urandom(200), ("127.255.255.255", port))
                    datagrams += 1
                except OSError:
                    pass
                await trio.sleep(DATAGRAM_EVERY_S)

    async with trio.open_nursery() as nursery:
        say(ready=True)
        while True:
            task = await inbox.task()
            if "port" in task:
                nursery.start_soon(announce, task["discovery_port"])
                for number in range(task["connections"]):
                    nursery.start_soon(connect, task["port"], number, babble if number % 10 == 0 else drip)
                    await trio.sleep(ARRIVAL_S / task["connections"])
            say(connections=connections, datagrams=datagrams)


async def be_flooders(count: int, inbox: Inbox) -> None:
    """Members that send without an end, to a channel that nobody reads."""
    sent = 0

    async def flood(node: p2p.Node, peer: p2p.Peer) -> None:
        nonlocal sent
        while True:
            with trio.move_on_after(5):
                for _ in range(FLOOD_MESSAGES):
                    try:
                        await node.send(peer, "flood", bytes(512))
                        sent += 1
                    except p2p.P2PError:
                        return
            await trio.sleep(FLOOD_EVERY_S)

    await _be_members(count, inbox, flood, lambda: sent)


async def be_stalled(count: int, inbox: Inbox) -> None:
    """Members that are connected, and then this whole process is stopped."""

    async def nothing(node: p2p.Node, peer: p2p.Peer) -> None:
        await trio.sleep_forever()

    await _be_members(count, inbox, nothing)


async def _be_members(
    count: int,
    inbox: Inbox,
    behave: Callable[[p2p.Node, p2p.Peer], Awaitable[None]],
    sent: Callable[[], int] = lambda: 0,
) -> None:
    _stay_on(attacks=True)
    async with trio.open_nursery() as nursery:
        nodes = [
            p2p.Node(p2p.NodeConfig(node_id=f"m{os.getpid()}-{number}", network_key=KEY, listen_port=None))
            for number in range(count)
        ]
        for node in nodes:
            await nursery.start(node.run)
        say(ready=True)
        while True:
            task = await inbox.task()
            if "port" in task:
                for node in nodes:
                    nursery.start_soon(behave, node, await node.connect(f"127.0.0.1:{task['port']}"))
            say(connected=count, sent=sent())


ROLES: Final[dict[str, Role]] = {
    "target": lambda args, inbox: be_target(int(args[0]), inbox),
    "honest": lambda args, inbox: be_honest(inbox),
    "strangers": lambda args, inbox: be_strangers(inbox),
    "flooders": lambda args, inbox: be_flooders(int(args[0]), inbox),
    "stalled": lambda args, inbox: be_stalled(int(args[0]), inbox),
}
