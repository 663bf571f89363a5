"""A node behind relays, or a relay: run by `apart.py`. Tells what happens, one JSON object a line."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import trio

import p2p

OUTER_S = 600
"""For a machine with other things to do: a member that did not get there ends, and the test with it."""


def tell(event: str, **more: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **more}) + "\n")
    sys.stdout.flush()


async def told_to_go_on() -> None:
    await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)


async def be_relay(node: p2p.Node) -> None:
    tell("started")
    await node.wait()


async def until_linked(node: p2p.Node, other: p2p.PeerId) -> None:
    async with node.events() as events:
        while other not in {peer.peer_id for peer in node.peers()}:
            await events.__anext__()


async def until_held(node: p2p.Node, origin: p2p.PeerId, seq: int) -> None:
    async with node.events() as events:
        while (head := node.wal.heads().get(origin)) is None or head.seq < seq:
            await events.__anext__()


async def be_end(node: p2p.Node, other: p2p.PeerId, records: int, secret: str) -> None:
    """Talk with the other one, write half of the records, and when told so the rest; then tell what is held."""

    async def answer(request: p2p.Message) -> bytes:
        return request.body[::-1]

    async with trio.open_nursery() as nursery, node.channel("chat") as chat:
        await nursery.start(node.serve, "backwards", answer)
        await until_linked(node, other)
        tell("linked", endpoint=str(node.get_peer(other).endpoint), direct=node.get_peer(other).direct)
        await node.send(other, "chat", f"{secret} from {node.node_id}".encode())
        said = (await chat.receive()).body.decode()
        answered = await node.request(other, "backwards", secret.encode(), timeout_s=60)
        tell("talked", said=said, answered=answered.decode())
        half = records // 2
        for part in (half, records - half):
            await node.wal.append_many([f"{secret} {node.node_id} {number}".encode() for number in range(part)])
            tell("written")
            await told_to_go_on()
        await until_held(node, other, records)
        await until_linked(node, other)
        tell("held", sums={name: await sum_of(node, who) for name, who in ((node.node_id, node.peer_id), ("", other))})
        await told_to_go_on()
        nursery.cancel_scope.cancel()


async def sum_of(node: p2p.Node, origin: p2p.PeerId) -> str:
    """A hash over every record of one origin, byte by byte."""
    whole, seq = hashlib.sha256(), 1
    while batch := await node.wal.records(origin, seq, records_max=1000):
        for record in batch:
            whole.update(b"%d %s %b\n" % (record.seq, record.kind.encode(), record.payload))
        seq = batch[-1].seq + 1
    return whole.hexdigest()


async def main(settings: dict[str, Any]) -> None:
    other, records, secret = (settings.pop(name, None) for name in ("other", "records", "secret"))
    settings["data_dir"] = Path(settings["data_dir"])
    settings["network_key"] = bytes.fromhex(settings["network_key"])
    with trio.move_on_after(OUTER_S):
        async with p2p.open_node(**settings) as node:
            if other is None:
                await be_relay(node)
            else:
                await be_end(node, p2p.PeerId.parse(other), records, secret)

