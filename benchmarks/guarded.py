"""The tasks whose work is counted (see guard.py): each is made ready, and does the same on every machine.

All of them run without a wait, and without a turn of the loop. Those of whole nodes are in guarded_nodes.py.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import trio

import p2p
from p2p.crypto.identity import Identity
from p2p.crypto.noise import NoiseStatic
from p2p.envelope import ACK_REQ
from p2p.framing import FrameDecoder
from p2p.ids import PeerId
from p2p.limits import KIB, Limits
from p2p.msg import Data, Relay, encode_data
from p2p.node.commits import Committer, Group, PushJob
from p2p.peer.outbox import Outbox
from p2p.relay.end import CircuitEnd
from p2p.relay.leg import Lane
from p2p.relay.switch import Incoming, Switch
from p2p.replication.batch import encode_portion, parse_batch, verify_signature
from p2p.session.events import PeerProven
from p2p.session.handshake import SessionConfig
from p2p.session.sealing import AES_256_GCM, Direction
from p2p.session.session import Session
from p2p.session.states import Role
from p2p.store.memory import MemoryStore
from p2p.store.sqlite import SqliteStore
from p2p.transport.memory import MemoryNetwork

MESSAGES: Final = 200
FEW_MESSAGES: Final = 50
SLICES: Final = 16
WALL_MS: Final = 1_800_000_000_000
_DATA: Final = int(Data.TYPE)

Counting = AbstractContextManager[object]
"""Counts what is done in its block, which is entered once."""


class Guarded(NamedTuple):
    """A task by name.

    Attributes:
        name: what is done, for one unit.
        units: how many there are of them in a run.
        run: makes all ready, and has the task counted.
    """

    name: str
    units: int
    run: Callable[[Counting], None]


def _handshake(counting: Counting) -> None:
    a, b = _sessions()
    with counting:
        _shake_hands(a, b)


def _messages(size: int, count: int) -> Callable[[Counting], None]:
    def run(counting: Counting) -> None:
        a, b = _sessions()
        _shake_hands(a, b)
        outbox, body = Outbox(Limits()), bytes(size)

        def send_and_receive() -> None:
            for _ in range(count):
                while not outbox.put_data(Data("chat", body=body).encode()):
                    outbox.drain(a, 64 * KIB)
                    _move(a, b)
            while outbox:
                outbox.drain(a, 64 * KIB)
                _move(a, b)

        with counting:
            send_and_receive()

    return run


def _sends(counting: Counting) -> None:
    """A node's own `send`, as often as it may before it lets others run."""

    async def run() -> None:
        net, key = MemoryNetwork(), bytes(32)
        async with (
            p2p.open_node(node_id="a", network_key=key, listen_port=None, network=net.network_for("a")) as a,
            p2p.open_node(node_id="b", network_key=key, listen_port=9000, network=net.network_for("b")) as b,
        ):
            await a.connect("mem://b:9000")
            body = bytes(128)

            def send() -> None:
                for _ in range(MESSAGES):
                    _at_once(a.send(b.peer_id, "chat", body))

            with counting:
                send()

    trio.run(run)


def _at_once(call: Coroutine[Any, Any, None]) -> None:
    """Carry out a call that has nothing to wait for."""
    try:
        call.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits: what others do meanwhile would be counted, too")


def _questions(counting: Counting) -> None:
    a, b = _sessions()
    _shake_hands(a, b)
    body = bytes(128)

    def ask_and_answer() -> None:
        for _ in range(FEW_MESSAGES):
            asked = a.seal_alone(encode_data(b"chat", 0, 0, body), ACK_REQ)
            assert asked is not None
            question = b.receive_alone(asked[1], 0.0)
            assert question is not None
            answered = b.seal_alone(encode_data(b"", question.msg_id, Data.OK, body), 0)
            assert answered is not None
            assert a.receive_alone(answered[1], 0.0) is not None

    with counting:
        ask_and_answer()


def _seals(counting: Counting) -> None:
    sealing, opening = (Direction(AES_256_GCM, bytes(32), 65_536) for _ in range(2))
    payload = bytes(KIB)

    def seal_and_open() -> None:
        decoder = FrameDecoder()
        for msg_id in range(FEW_MESSAGES):
            decoder.feed(sealing.seal(_DATA, msg_id, 0, payload))
            frame = decoder.next_pieces()
            assert frame is not None
            opening.open(frame)

    with counting:
        seal_and_open()


def _slices(counting: Counting) -> None:
    way = _Way()
    sender, receiver = way.circuit()
    data = bytes(64 * KIB)

    def carry() -> None:
        for _ in range(SLICES):
            assert sender.send(data) == len(data)
            way.settle()
            assert receiver.read(len(data)) == data

    with counting:
        carry()


def _verify(counting: Counting) -> None:
    wal_bytes = _batch_bytes()
    with counting:
        verify_signature(parse_batch(wal_bytes))


def _append(payloads: list[bytes]) -> Callable[[Counting], None]:
    def run(counting: Counting) -> None:
        with _sqlite() as committer, counting:
            committer.commit(Group(portions=[encode_portion(payloads)]), WALL_MS)

    return run


def _take_in(counting: Counting) -> None:
    wal_bytes = _batch_bytes()
    batch = parse_batch(wal_bytes)
    push = PushJob(batch.seq_begin, batch.seq_end, wal_bytes, admitted=True)
    with _sqlite() as committer, counting:
        committer.commit(Group(jobs=[push]), WALL_MS)


_PAYLOADS: Final = [bytes(256)] * 900
_VARIED: Final = [bytes(200 + number % 100) for number in range(900)]

ALL: Final = (
    Guarded("handshake, both sides", 1, _handshake),
    Guarded("a node's send of 128 B, until it is queued", MESSAGES, _sends),
    Guarded("message of 128 B, outbox to event", MESSAGES, _messages(128, MESSAGES)),
    Guarded("message of 20 KiB, outbox to event", FEW_MESSAGES, _messages(20 * KIB, FEW_MESSAGES)),
    Guarded("question and answer of 128 B, both sessions", FEW_MESSAGES, _questions),
    Guarded("seal, frame, cut and open 1 KiB", FEW_MESSAGES, _seals),
    Guarded("64 KiB through a circuit, both ends and the relay", SLICES, _slices),
    Guarded("parse and verify a batch, 100 records", 9, _verify),
    Guarded("append to SQLite, 100 records", 9, _append(_PAYLOADS)),
    Guarded("the same, of many lengths", 9, _append(_VARIED)),
    Guarded("append one record of 256 B to SQLite", 1, _append(_PAYLOADS[:1])),
    Guarded("take in a push to SQLite, 100 records", 9, _take_in),
)


# What they are done with.


def entropy_of(seed: str) -> Callable[[int], bytes]:
    """A source of bytes that gives the same ones in every run."""
    number = 0

    def read(size: int) -> bytes:
        nonlocal number
        number += 1
        return hashlib.shake_256(f"{seed} {number}".encode()).digest(size)

    return read


def _sessions() -> tuple[Session, Session]:
    def side(name: str, role: Role) -> Session:
        source = entropy_of(name)
        config = SessionConfig(
            node_id=name,
            identity=Identity.generate(source),
            static=NoiseStatic.generate(source),
            network_key=bytes(32),
            network_name="",
            capabilities=(("bundle", "1"), ("cipher", "aes256gcm,chacha20poly1305")),
            limits=Limits(),
        )
        return Session(config, role, entropy=source, now=0.0, wall_ms=WALL_MS)

    return side("a", Role.INITIATOR), side("b", Role.RESPONDER)


def _move(sender: Session, receiver: Session) -> None:
    receiver.receive_data(sender.data_to_send(), 0.0)
    while (event := receiver.next_event()) is not None:
        if isinstance(event, PeerProven):
            receiver.accept()


def _shake_hands(a: Session, b: Session) -> None:
    _move(a, b)
    _move(b, a)
    _move(a, b)
    b.send(_DATA, Data("hello").encode())
    _move(b, a)


class _Way:
    """A source, a relay and a sink, and links between them that carry what waits when they are told to."""

    def __init__(self) -> None:
        names = ("source", "relay", "sink")
        self._ids = {name: PeerId(name.encode().ljust(32, b".")) for name in names}
        self._switches = {
            name: Switch(self._ids[name], Limits(), relays=name == "relay", next_hop=lambda _target, _asking: None)
            for name in names
        }
        self._links: list[tuple[Lane, str, int]] = []
        self._incoming: deque[CircuitEnd] = deque()
        for one, key_there, other, key_here in (("source", 0, "relay", 1), ("sink", 0, "relay", 2)):
            self._join(one, other, key_there, key_here, dialed=True)
            self._join(other, one, key_here, key_there, dialed=False)

    def _join(self, here: str, there: str, key_here: int, key_there: int, *, dialed: bool) -> None:
        lane = self._switches[here].link_up(
            key_here, self._ids[there], dialed_by_us=dialed, is_relay=there == "relay", wake=lambda: None
        )
        self._links.append((lane, there, key_there))

    def circuit(self) -> tuple[CircuitEnd, CircuitEnd]:
        """Both ends of a circuit from source to sink."""
        end = self._switches["source"].open(self._ids["relay"], self._ids["sink"])
        self.settle()
        assert end.is_open
        return end, self._incoming.popleft()

    def settle(self) -> None:
        """Carry messages until nothing waits."""
        moved = True
        while moved:
            moved = False
            for lane, there, key in self._links:
                while payload := lane.take():
                    moved = True
                    switch = self._switches[there]
                    switch.receive(key, Relay.decode(payload), 0.0)
                    while (event := switch.next_event()) is not None:
                        if isinstance(event, Incoming):
                            event.end.take()
                            self._incoming.append(event.end)


def _batch_bytes() -> bytes:
    identity = Identity.generate(entropy_of("origin"))
    committer = Committer(MemoryStore(identity.peer_id), identity, Limits())
    committer.start()
    return committer.commit(Group(portions=[encode_portion(_PAYLOADS)]), WALL_MS).sealed[0].wal_bytes


@contextmanager
def _sqlite() -> Iterator[Committer]:
    identity = Identity.generate(entropy_of("own"))
    with tempfile.TemporaryDirectory() as folder, closing(SqliteStore(Path(folder) / "log", identity.peer_id)) as store:
        committer = Committer(store, identity, Limits())
        committer.start()
        yield committer
