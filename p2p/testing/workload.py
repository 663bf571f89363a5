"""The application of a simulated world: it appends, waits, follows and sends, and reports all of it to the ledger.

It meets every error that the public contract names and goes on; any other one ends its process, and with it the world.
It stops beginning new things when it is told to, so that a world can come to rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import trio

from p2p.errors import NodeClosed, NotConnected, StoreError, UnknownPeer
from p2p.ids import PeerId
from p2p.node.node import Node
from p2p.testing.dice import Dice
from p2p.testing.machine import Application, Machine

CHANNEL: Final = "talk"
FOLLOWER: Final = "app"


class Workload:
    """What all machines of a world do.

    Attributes:
        is_resting: nothing new is appended or sent.
    """

    def __init__(self) -> None:
        self.is_resting = False
        self._numbers: dict[str, int] = {}

    async def __call__(self, machine: Machine, node: Node) -> None:
        """Run beside one node until it stops."""
        async with trio.open_nursery() as nursery:
            for task in (self._append, self._append, self._follow, self._send, self._listen):
                nursery.start_soon(_until_closed, task, machine, node)

    async def _append(self, machine: Machine, node: Node) -> None:
        plan, ledger, name = machine.plan, machine.ledger, machine.name
        dice = machine.dice(f"append {self._number(name)}")
        while True:
            await _idle(node, dice.number(0, 4 * plan.append_every_s))
            if self.is_resting:
                continue
            payloads = [self._payload(name, dice, plan.record_bytes_max) for _ in range(dice.one_of((1, 1, 1, 3, 20)))]
            ledger.attempt(name, payloads)
            machine.trace.note(name, f"appends {len(payloads)}")
            patience_s = dice.one_of((60, 60, 60, 0.001))
            seqs: list[int] = []
            with trio.move_on_after(patience_s):
                try:
                    seqs = await node.wal.append_many(payloads)
                except StoreError as error:
                    machine.trace.note(name, f"append failed: {error}")
                    continue
            if not seqs:
                continue
            ledger.acknowledge(name, payloads, seqs)
            machine.trace.note(name, f"appended {seqs[0]}-{seqs[-1]}")
            if dice.chance(0.3):
                peers = dice.integer(1, 3)
                with trio.move_on_after(dice.number(0, 10)) as scope:
                    await node.wal.wait_replicated(seqs[-1], peers)
                if not scope.cancelled_caught:
                    ledger.replicated(name, seqs[-1], peers)

    async def _follow(self, machine: Machine, node: Node) -> None:
        ledger, name, dice = machine.ledger, machine.name, machine.dice("follow")
        while True:
            try:
                async with node.wal.follow(FOLLOWER) as records:
                    ledger.begin_following(name)
                    while True:
                        try:
                            record = await records.__anext__()
                        except StoreError:
                            await _idle(node, dice.number(0.1, 1))
                            continue
                        machine.trace.note(name, f"reads {ledger.names[record.origin]}:{record.seq}")
                        ledger.deliver(name, record)
                        if dice.chance(0.2):
                            ledger.begin_commit(name, record)
                            try:
                                await records.commit(record)
                            except StoreError:
                                continue
                            ledger.end_commit(name, record)
            except StoreError:
                # It could not be entered.
                await _idle(node, dice.number(0.1, 1))

    async def _send(self, machine: Machine, node: Node) -> None:
        plan, name, dice = machine.plan, machine.name, machine.dice("send")
        sent: dict[str, int] = {}
        while True:
            await _idle(node, dice.number(0, 4 * plan.append_every_s))
            peers = node.peers()
            if self.is_resting or not peers:
                continue
            peer = dice.one_of(peers)
            stream = f"{name}#{machine.lives}"
            for _ in range(dice.one_of((1, 1, 5, 40))):
                number = sent[str(peer.peer_id)] = sent.get(str(peer.peer_id), 0) + 1
                body = f"{stream} {number} ".encode() + bytes(dice.one_of((0, 50, 3000)))
                with trio.move_on_after(5):
                    try:
                        await node.send(peer, CHANNEL, body)
                    except (NotConnected, UnknownPeer):
                        break

    async def _listen(self, machine: Machine, node: Node) -> None:
        async with node.channel(CHANNEL, capacity=16) as messages:
            async for message in messages:
                stream, number, _ = message.body.split(b" ", 2)
                machine.trace.note(machine.name, f"hears {stream.decode()} {number.decode()}")
                machine.ledger.hear(machine.name, stream.decode(), int(number))

    def _payload(self, name: str, dice: Dice, size_max: int) -> bytes:
        size = dice.integer(0, size_max) if dice.chance(0.1) else 0
        return f"{name}/{self._number(name)}/".encode() + bytes(size)

    def _number(self, name: str) -> int:
        self._numbers[name] = self._numbers.get(name, 0) + 1
        return self._numbers[name]


async def read_logs(machine: Machine, heads: Mapping[PeerId, int]) -> None:
    """Read every log of a machine's node, from its beginning to these seqs at least."""
    node, left = machine.node, dict(heads)
    assert node is not None
    async with node.wal.follow() as records:
        while left:
            record = await records.__anext__()
            machine.ledger.see(machine.name, record.origin, record.seq, record.payload)
            if record.seq >= left.get(record.origin, 2**64):
                del left[record.origin]


async def _idle(node: Node, seconds: float) -> None:
    """Do nothing for a while, and no longer than the node runs."""
    with trio.move_on_after(seconds):
        await node.wait()
        raise NodeClosed("the node has stopped")


async def _until_closed(task: Application, machine: Machine, node: Node) -> None:
    try:
        await task(machine, node)
    except NodeClosed:
        await trio.lowlevel.checkpoint()
