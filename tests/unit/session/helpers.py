"""Two sessions joined in memory: the fixture of most tests here.

Time stands still unless a test moves it, and all randomness comes from a counter, so every run gives the same bytes.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import struct
from collections.abc import Callable

from p2p.binary import decode_varint, encode_bytes, encode_str, encode_varint
from p2p.crypto.identity import Identity
from p2p.crypto.noise import HandshakeState, NoiseStatic
from p2p.envelope import Envelope, ProtocolVersion
from p2p.limits import Limits
from p2p.msg import Data, Hello, HelloAck, HelloFinish
from p2p.session import Event, Live, PeerProven, Received, ReceivedRow, Role, Session, SessionConfig, State
from p2p.session.handshake import CLEAR_CAPABILITIES

CAPABILITIES = (("bundle", "1"), ("cipher", "aes256gcm,chacha20poly1305"))
NETWORK_KEY = bytes(range(50, 82))
WALL_MS = 1_790_000_000_000
DATA = 259


def entropy(seed: str) -> Callable[[int], bytes]:
    """A source of bytes that look random and are the same for the same seed."""
    count = 0

    def take(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{seed}/{count}".encode()).digest(size)

    return take


@functools.cache
def _plain_config(name: str) -> SessionConfig:
    source = entropy(f"node {name}")
    return SessionConfig(
        node_id=name,
        identity=Identity.generate(source),
        static=NoiseStatic.generate(source),
        network_key=None,
        network_name="",
        capabilities=CAPABILITIES,
        limits=Limits(),
    )


def config(name: str = "a", **changes: object) -> SessionConfig:
    """The configuration of a node of that name; `limits_*` changes a bound.

    Keys and bounds are made once a name: no session changes them, and they are more work than its handshake.
    """
    bounds = {key.removeprefix("limits_"): changes.pop(key) for key in list(changes) if key.startswith("limits_")}
    plain = _plain_config(name)
    if bounds:
        changes["limits"] = dataclasses.replace(plain.limits, **bounds)
    return dataclasses.replace(plain, **changes) if changes else plain


def start(
    a: SessionConfig | None = None, b: SessionConfig | None = None, *, now: float = 0.0, seed: str = ""
) -> tuple[Session, Session]:
    """An initiator and a responder that have not exchanged anything yet."""
    return (
        Session(a or config("a"), Role.INITIATOR, entropy=entropy(f"i{seed}"), now=now, wall_ms=WALL_MS),
        Session(b or config("b"), Role.RESPONDER, entropy=entropy(f"r{seed}"), now=now, wall_ms=WALL_MS),
    )


def drain(session: Session, *, accept: bool = True) -> list[Event]:
    """All events there are; whoever is proven is let in unless told otherwise."""
    events = []
    while (event := session.next_event()) is not None:
        events.append(event)
        if accept and isinstance(event, PeerProven):
            session.accept()
    return events


def bodies(events: list[Event]) -> list[bytes]:
    """Of the application messages among them."""
    found: list[bytes] = []
    for event in events:
        if isinstance(event, ReceivedRow):
            found += event.bodies
        elif isinstance(event, Received) and isinstance(event.message, Data):
            found.append(event.message.body)
    return found


def deliver(sender: Session, receiver: Session, *, now: float = 0.0, accept: bool = True) -> list[Event]:
    """Move what waits at the sender; return what the receiver makes of it."""
    data = sender.data_to_send()
    if data:
        receiver.receive_data(data, now)
    return drain(receiver, accept=accept)


def pump(a: Session, b: Session, *, now: float = 0.0) -> tuple[list[Event], list[Event]]:
    """Move bytes both ways until nothing waits; return the events of both."""
    of_a: list[Event] = drain(a)
    of_b: list[Event] = drain(b)
    while True:
        to_b, to_a = a.data_to_send(), b.data_to_send()
        if not to_b and not to_a:
            return of_a, of_b
        if to_b:
            b.receive_data(to_b, now)
        of_b += drain(b)
        if to_a:
            a.receive_data(to_a, now)
        of_a += drain(a)


def twins(*sessions: Session) -> tuple[Session, ...]:
    """The same sessions once more, past their handshake, each with all its state for itself."""
    for session in sessions:
        assert session._handshake is None, "keys have no copies"
    constant = [x for session in sessions for x in (session._config, session._limits, session.peer_capabilities)]
    return copy.deepcopy(sessions, {id(each): each for each in constant})


def live(
    a: SessionConfig | None = None, b: SessionConfig | None = None, *, now: float = 0.0
) -> tuple[Session, Session]:
    """Two sessions that are live on both sides, with nothing under way."""
    if a is b is None and not now:
        # A copy takes a sixth of what another handshake takes.
        i, r = twins(*_usual_pair())
        return i, r
    return _join(a, b, now=now)


@functools.cache
def _usual_pair() -> tuple[Session, Session]:
    return _join(None, None, now=0.0)


def _join(a: SessionConfig | None, b: SessionConfig | None, *, now: float) -> tuple[Session, Session]:
    i, r = start(a, b, now=now)
    pump(i, r, now=now)
    # The initiator learns that it is welcome by the first thing that the responder says.
    r.send(DATA, EMPTY_DATA)
    assert any(isinstance(event, Live) for event in deliver(r, i, now=now))
    assert i.state is r.state is State.LIVE
    return i, r


EMPTY_DATA = b"\x00" + bytes(9) + b"\x00"


def sealed(sender: Session, type: int, payload: bytes = b"", *, flags: int = 0, msg_id: int | None = None) -> bytes:
    """A frame that this live session would never send by itself, sealed as if it did."""
    if msg_id is None:
        msg_id = sender._take_id()
    assert sender._outbound is not None
    return sender._outbound.seal(type, msg_id, flags, payload)


class Forger:
    """An initiator that keeps to Noise and to nothing else: every field of its messages can be chosen."""

    def __init__(
        self, victim: SessionConfig, *, static: NoiseStatic | None = None, identity: Identity | None = None
    ) -> None:
        source = entropy("forger")
        self.static = static or NoiseStatic.generate(source)
        self.identity = identity or Identity.generate(source)
        self.victim = victim
        self.source = source
        self.nonce_a = 77

    def hello(self, *, prologue_hello: Hello | None = None, payload: bytes = b"", **changes: object) -> bytes:
        fields = {"nonce_a": self.nonce_a, "ts_ms": 5, "node_id": "forger", "capabilities": CLEAR_CAPABILITIES}
        envelope = {key: changes.pop(key) for key in ("type", "msg_id", "flags", "version") if key in changes}
        hello = Hello(**{**fields, **changes})
        key, name = self.victim.network_key, self.victim.network_name
        minor = envelope.get("version", (1, 0))[1]
        prologue = b"vix-p2p/noise/1" + encode_str(name) + struct.pack("<HH", 1, minor)
        prologue += (prologue_hello or hello).encode()
        self.noise = HandshakeState(
            "Noise_XX_25519_ChaChaPoly_SHA256" if key is None else "Noise_XXpsk0_25519_ChaChaPoly_SHA256",
            initiator=True,
            prologue=prologue,
            static=self.static,
            entropy=self.source,
            psk=key,
        )
        hello = Hello(hello.nonce_a, hello.ts_ms, hello.node_id, hello.capabilities, self.noise.write_message(payload))
        return plain_frame(**{"type": 1, "payload": hello.encode(), **envelope})

    def read_ack(self, frame: bytes) -> None:
        envelope = Envelope.decode(frame[varint_size(frame) :])
        ack = HelloAck.decode(envelope.payload)
        self.nonce_b = ack.nonce_b
        self.noise.read_message(ack.public_key)

    def finish(
        self,
        *,
        sealed_nonces: tuple[int, int] | None = None,
        clear_nonces: tuple[int, int] | None = None,
        node_id: str = "forger",
        capabilities: bytes = b"\x00",
        peer_id: bytes | None = None,
        role: int = 0,
        signed_static: bytes | None = None,
        signed_ephemeral: bytes | None = None,
        signature: bytes | None = None,
        tail: bytes = b"",
        **envelope: object,
    ) -> bytes:
        right = (self.nonce_a, self.nonce_b)
        a, b = sealed_nonces or right
        signed = b"vix-p2p/identity/1" + bytes((role,))
        signed += signed_static or self.static.public
        signed += signed_ephemeral or self.noise.remote_ephemeral
        proof = b"".join(
            (
                encode_varint(a),
                encode_varint(b),
                encode_str(node_id),
                capabilities,
                peer_id or self.identity.peer_id,
                signature or self.identity.sign(signed),
                tail,
            )
        )
        finish = HelloFinish(*(clear_nonces or right), self.noise.write_message(proof))
        return plain_frame(**{"type": 5, "payload": finish.encode(), "msg_id": 2, **envelope})


def plain_frame(
    type: int, payload: bytes, *, msg_id: int = 1, flags: int = 0, version: tuple[int, int] = (1, 0)
) -> bytes:
    """A framed envelope in the clear."""
    seal = {"nonce": bytes(12), "tag": bytes(16)} if flags & 1 else {}
    return encode_bytes(Envelope(ProtocolVersion(*version), type, msg_id, flags, payload, **seal).encode())


def varint_size(frame: bytes) -> int:
    """How many bytes a frame's length takes."""
    return decode_varint(frame)[1]


def frames_of(data: bytes) -> list[bytes]:
    """The frames of a stream, each with its length before it."""
    found = []
    while data:
        length, used = decode_varint(data)
        found.append(data[: used + length])
        data = data[used + length :]
    return found
