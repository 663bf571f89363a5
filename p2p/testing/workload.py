"""The application of a simulated world: it appends, waits, follows, sends, asks, and reports all of it to the ledger.

It meets every error that the public contract names and goes on; any other one ends its process, and with it the world.
It stops beginning new things when it is told to, so that a world can come to rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import trio

from p2p.errors import NodeClosed, NotConnected, RequestFailed, StoreError, UnknownPeer
from p2p.ids import PeerId
from p2p.node.dispatch import Message
from p2p.node.node import Node
from p2p.node.requests import RequestTimeout
from p2p.node.serving import Handler
from p2p.replication.batch import NewRecord
from p2p.testing.dice import Dice
from p2p.testing.ledger import answer_to
from p2p.testing.machine import Application, Machine

CHANNEL: Final = "talk"
FOLLOWER: Final = "app"
MAILBOX: Final = "mail"
QUESTIONS: Final = "questions"
LATE_S_MAX: Final = 0.1
"""A request that waits longer than its timeout and this hangs."""
ASK_S: Final = 60.0
"""In a network that is well each request is answered within this: what was lost or slow before still goes first."""


class Workload:
    """What all machines of a world do. A program of one's own is a subclass, whose `__call__` runs it beside that.

    Attributes:
        is_resting: nothing new is appended or sent: the world comes to rest. A program that goes on keeps it from that.
    """

    def __init__(self) -> None:
        self.is_resting = False
        self._numbers: dict[str, int] = {}

    async def __call__(self, machine: Machine, node: Node) -> None:
        """Run beside one node until it stops, and return within a second of that."""
        async with trio.open_nursery() as nursery:
            tasks = [self._append, self._append, self._follow, self._send, self._listen]
            tasks += [self._ask, self._ask, self._serve] if machine.plan.asks else []
            tasks += [self._read_mail] if machine.plan.mails else []
            for task in tasks:
                nursery.start_soon(_until_closed, task, machine, node)

    async def append(self, machine: Machine, node: Node, records: Sequence[NewRecord]) -> list[int]:
        """Append to a node's log and have it checked. (What is appended in another way would pass for a forgery.)

        Returns:
            The records' seqs.

        Raises:
            StoreError: they could not be written.
            NodeClosed: the node stopped meanwhile.
        """
        machine.ledger.attempt(machine.name, records)
        machine.trace.note(machine.name, f"appends {len(records)}")
        try:
            seqs = await node.wal.append_many(records)
        except StoreError as error:
            machine.trace.note(machine.name, f"append failed: {error}")
            raise
        machine.ledger.acknowledge(machine.name, records, seqs)
        machine.trace.note(machine.name, f"appended {seqs[0]}-{seqs[-1]}")
        return seqs

    async def _append(self, machine: Machine, node: Node) -> None:
        plan, ledger, name = machine.plan, machine.ledger, machine.name
        dice = machine.dice(f"append {self._number(name)}")
        while True:
            await _idle(node, dice.number(0, 4 * plan.append_every_s))
            if self.is_resting:
                continue
            records = [self._record(machine, dice) for _ in range(dice.one_of((1, 1, 1, 3, 20)))]
            patience_s = dice.one_of((60, 60, 60, 0.001))
            seqs: list[int] = []
            with trio.move_on_after(patience_s):
                try:
                    seqs = await self.append(machine, node, records)
                except StoreError:
                    continue
            if not seqs:
                continue
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

    async def _read_mail(self, machine: Machine, node: Node) -> None:
        ledger, name, dice = machine.ledger, machine.name, machine.dice("mail")
        while True:
            try:
                async with node.wal.follow(MAILBOX, target=node.peer_id) as records:
                    ledger.begin_mail(name)
                    async for record in records:
                        machine.trace.note(name, f"gets {ledger.names[record.origin]}:{record.seq}")
                        ledger.deliver_mail(name, record)
                        if dice.chance(0.3):
                            await records.commit(record)
                            ledger.end_mail_commit(name, record)
            except StoreError:
                # It goes on behind what was committed, in the life of the process that it is in.
                await _idle(node, dice.number(0.1, 1))

    async def _ask(self, machine: Machine, node: Node) -> None:
        plan, ledger, name = machine.plan, machine.ledger, machine.name
        dice = machine.dice(f"ask {self._number(name)}")
        while True:
            await _idle(node, dice.number(0, 4 * plan.append_every_s))
            if self.is_resting:
                continue
            # Mostly a neighbour; else anybody, whom perhaps a relay leads to.
            peers = [peer.peer_id for peer in node.peers()] if dice.chance(0.8) else []
            whom = dice.one_of(peers or [ledger.own(other) for other in plan.hosts if other != name])
            await self._ask_once(machine, node, whom, dice.one_of((0.05, 1.0, 5.0, 20.0)))

    async def _ask_once(self, machine: Machine, node: Node, whom: PeerId, timeout_s: float) -> Exception | None:
        """Why there was no answer; None if there was one."""
        name = machine.name
        request = f"{name}#{machine.lives}?{self._number(name)}".encode()
        with trio.move_on_after(timeout_s + LATE_S_MAX) as scope:
            try:
                answer = await node.request(whom, QUESTIONS, request, timeout_s=timeout_s)
            except (NotConnected, UnknownPeer, RequestFailed, RequestTimeout) as error:
                machine.trace.note(name, f"asked {whom.short} in vain: {type(error).__name__}")
                return error
            machine.trace.note(name, f"was answered by {whom.short}")
            machine.ledger.answer(name, whom, request, answer)
            return None
        late = f"a request to {whom.short} still waits when its {timeout_s:g} s are over"
        if scope.cancelled_caught:
            machine.ledger.fail(name, late)
        return RequestTimeout(late)

    async def _serve(self, machine: Machine, node: Node) -> None:
        dice = machine.dice("serve")

        def answer(question: Message) -> bytes:
            machine.ledger.handle(machine.name, question.body)
            return answer_to(question.body)

        async def answer_later(question: Message) -> bytes:
            machine.ledger.handle(machine.name, question.body)
            await trio.sleep(0 if self.is_resting else dice.one_of((0.0, 0.0, 0.1, 3.0)))
            return answer_to(question.body)

        handlers: tuple[Handler, Handler] = (answer, answer_later)
        await node.serve(QUESTIONS, dice.one_of(handlers), concurrency=dice.one_of((1, 8)))

    async def ask_everybody(self, machine: Machine) -> None:
        """Ask each honest peer of a machine once, in a network that is well: each answers."""
        node = machine.node
        assert node is not None
        async with trio.open_nursery() as nursery:
            for peer in node.peers():
                # A link of somebody hostile, who has just gone, may still be there.
                if peer.peer_id not in machine.ledger.distrusted:
                    nursery.start_soon(self._ask_well, machine, node, peer.peer_id)

    async def _ask_well(self, machine: Machine, node: Node, whom: PeerId) -> None:
        why = await self._ask_once(machine, node, whom, ASK_S)
        if isinstance(why, NotConnected):
            # A link that is silent, as what was lost on it before is sent anew so late, is left for a way over a relay:
            # what was asked there is not answered, and whoever asks again is.
            why = await self._ask_once(machine, node, whom, ASK_S)
        if why is not None:
            machine.ledger.fail(machine.name, f"{machine.ledger.names[whom]} does not answer within {ASK_S:g} s")

    def _record(self, machine: Machine, dice: Dice) -> NewRecord:
        plan, name = machine.plan, machine.name
        size = dice.integer(0, plan.record_bytes_max) if dice.chance(0.1) else 0
        is_mail = plan.mails and dice.chance(0.3)
        target = machine.ledger.own(dice.one_of(plan.hosts)) if is_mail else None
        return NewRecord("app", target, f"{name}/{self._number(name)}/".encode() + bytes(size))

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
            machine.ledger.see(machine.name, record)
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
