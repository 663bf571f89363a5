"""Examples of all that goes over the wire, with fixed keys, for other implementations to compare with.

    p2p vectors > vectors.json

Everything is derived from constants, so the document changes only when the wire does (or a section is added). Bytes
are lower-case hex, and numbers are whole ones up to 2^64 - 1.

Sections: `varints`, `streams`, `envelopes`, `messages`, `batches` (one log, with the seed of its key), `forks` (pairs
of batches, and from which seq on they prove the log forked), `digests`, `announcements`, `handshakes` (every secret
that went in, every frame that came out, and what follows sealed), `rekeys`, `malformed`: bytes that must be refused,
with the rule that they break and the reason that a Goodbye would give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import msgspec

from p2p import msg
from p2p.binary import encode_bytes, encode_u16, encode_u32, encode_varint, read_varint
from p2p.crypto.announce import sign_announcement
from p2p.crypto.identity import Identity
from p2p.crypto.noise import NoiseStatic
from p2p.envelope import (
    ACK_REQ,
    COMPRESSED,
    ENCRYPTED,
    Envelope,
    MessageType,
    ParsedEnvelope,
    ProtocolVersion,
    aad,
    encode_envelope,
    parse_envelope,
)
from p2p.errors import Reason
from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.replication.batch import Batch, NewRecord, encode_portions, seal
from p2p.replication.fork import check_proof, contradict
from p2p.replication.heads import EMPTY_LOG, ZERO_HASH, LogHead, digest
from p2p.session import Live, PeerProven, Role, Session, SessionConfig, State
from p2p.session.handshake import Handshake
from p2p.session.sealing import AES_256_GCM, CHACHA20_POLY1305, next_key
from p2p.testing.dice import Dice
from p2p.testing.malformed import FAULTS, Form, judge

Json: TypeAlias = dict[str, object]

FORMAT: Final = "trio-p2p vectors 1"
WALL_MS: Final = 1_790_000_000_000
MALFORMED_BYTES_MAX: Final = 4096
"""What is longer is left out: a batch over its bound would be most of the document."""

_ORIGIN: Final = PeerId(bytes(range(32)))
_OTHER: Final = PeerId(bytes(range(32, 64)))
_PING: Final = encode_envelope(MessageType.PING, 1, 0, msg.Ping(7).encode())

EXAMPLES: Final[tuple[msg.AnyMessage, ...]] = (
    msg.Hello(1, WALL_MS, "n", (("hs", "noise"), ("proto", "1.0")), b"\x01" * 32),
    msg.Hello(2**64 - 1, 0, "", (), b""),
    msg.HelloAck(1, 2, b"\x02" * 200),
    msg.HelloAck(1, 2),
    msg.HelloAck(1, 2, b""),
    msg.HelloFinish(1, 2**63, b"\x03" * 100),
    msg.Ping(0),
    msg.Ping(2**64 - 1),
    msg.Pong(0x0102030405060708),
    msg.WalPush(1, 3, b"a sealed batch"),
    msg.WalAck(2**63),
    msg.OutboxPull("", 128),
    msg.OutboxPull(str(_ORIGIN), 2**32 - 1),
    msg.Goodbye(int(Reason.CLOSED)),
    msg.Goodbye(65_535, "a reason of the future: ü"),
    msg.WalHeads(),
    msg.WalHeads((msg.HeadEntry(_ORIGIN, 0, bytes(32)), msg.HeadEntry(_OTHER, 2**40, b"\xff" * 32, want=False))),
    msg.Relay(1, msg.Relay.OPEN, str(_ORIGIN), str(_OTHER), 8),
    msg.Relay(2**64 - 1, msg.Relay.DATA, payload=b"slice"),
    msg.Relay(2, msg.Relay.CLOSE),
    msg.Relay(2, msg.Relay.REFUSED, payload=encode_u16(Reason.NO_ROUTE)),
    msg.Relay(2, msg.Relay.WINDOW, payload=encode_u32(2**20)),
    msg.NO_MORE_DATA,
    msg.Data("chat", body=b"hello"),
    msg.Data("größer", 9, msg.Data.NO_HANDLER, bytes(200)),
    msg.ForkProof(b"one", b"other"),
    msg.Attached((msg.AttachedEntry(_ORIGIN, 1), msg.AttachedEntry(_OTHER, msg.Attached.HOPS_MAX))),
    msg.RequestCancel(2**63 + 5),
    msg.Bundle(()),
    msg.Bundle((_PING, _PING)),
)
"""At least one message of every type, and the edges of their fields."""


def document() -> Json:
    """The whole document, to be written as JSON."""
    return {
        "format": FORMAT,
        "protocol": "1.0",
        "varints": list(_varints()),
        "streams": list(_streams()),
        "envelopes": list(_envelopes()),
        "messages": [_message(message) for message in EXAMPLES],
        "batches": [_batch(batch) for batch in _log()],
        "forks": list(_forks()),
        "digests": list(_digests()),
        "announcements": list(_announcements()),
        "handshakes": [
            _conversation("a network key, ChaCha20-Poly1305", bytes(range(50, 82)), "chacha20poly1305"),
            _conversation("no network key, AES-256-GCM", None, "aes256gcm,chacha20poly1305"),
        ],
        "rekeys": list(_rekeys()),
        "malformed": list(_malformed()),
    }


def _varints() -> Iterator[Json]:
    for value in (0, 1, 127, 128, 300, 16_383, 16_384, 2**21, 2**32 - 1, 2**32, 2**63, 2**64 - 1):
        yield {"value": value, "bytes": encode_varint(value).hex()}


def _streams() -> Iterator[Json]:
    for payloads in ((), (b"",), (b"hi", b"a"), (bytes(127), bytes(128), b"x" * 300)):
        stream = b"".join([encode_bytes(payload) for payload in payloads])
        yield {"frames": [payload.hex() for payload in payloads], "bytes": stream.hex()}


def _envelopes() -> Iterator[Json]:
    plain = Envelope(ProtocolVersion(1, 0), int(MessageType.PING), 1, 0, msg.Ping(7).encode())
    newer = Envelope(ProtocolVersion(1, 9), 0x9000, 2**64 - 1, COMPRESSED, bytes(130))
    sealed = Envelope(ProtocolVersion(1, 0), 259, 77, ENCRYPTED, b"sealed", bytes(range(12)), bytes(range(16)))
    for envelope in (plain, newer, sealed):
        major, minor = envelope.version
        yield {
            "major": major,
            "minor": minor,
            "type": envelope.type,
            "msg_id": envelope.msg_id,
            "flags": envelope.flags,
            "nonce": envelope.nonce.hex(),
            "tag": envelope.tag.hex(),
            "payload": bytes(envelope.payload).hex(),
            "aad": aad(envelope.type, envelope.msg_id, envelope.flags, major, minor).hex(),
            "bytes": envelope.encode().hex(),
        }


def _message(message: msg.AnyMessage) -> Json:
    return {
        "type": int(message.TYPE),
        "name": type(message).__name__,
        "fields": _plain(message),
        "payload": message.encode().hex(),
    }


def _plain(value: object) -> object:
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _identity(seed: bytes) -> Identity:
    return Identity.generate(lambda size: seed[:size])


def _sealed(records: list[NewRecord], last: Batch | None = None) -> Batch:
    """A batch of the log, after `last`."""
    identity = _identity(b"\x11" * 32)
    return seal(
        origin=identity.peer_id,
        seq_begin=last.seq_end + 1 if last else 1,
        prev_hash=last.hash if last else ZERO_HASH,
        base_hlc=last.last_hlc + 1 if last else WALL_MS << 16,
        portions=encode_portions(records),
        sign=identity.sign,
    )


def _log() -> tuple[Batch, Batch]:
    first = _sealed([NewRecord("app", None, b"first")])
    records = [NewRecord("", None, b""), NewRecord("größer", _OTHER, bytes(200)), NewRecord("app", None, b"last")]
    return first, _sealed(records, first)


def _batch(batch: Batch) -> Json:
    return {
        "identity_seed": "11" * 32,
        "origin": batch.origin.hex(),
        "seq_begin": batch.seq_begin,
        "seq_end": batch.seq_end,
        "prev_hash": batch.prev_hash.hex(),
        "base_hlc": batch.base_hlc,
        "records": [
            {
                "seq": record.seq,
                "kind": record.kind,
                "target": record.target.hex() if record.target is not None else None,
                "payload": record.payload.hex(),
                "hlc": record.hlc,
            }
            for record in batch.records()
        ],
        "hash": batch.hash.hex(),
        "signature": batch.signature.hex(),
        "bytes": batch.wal_bytes.hex(),
    }


def _forks() -> Iterator[Json]:
    first, second = _log()
    other = _sealed([NewRecord("app", None, b"another first")])
    long = _sealed([NewRecord("app", None, b"first"), NewRecord("app", None, b"second")])
    for title, one, two in (
        ("the same range, other bytes", first, other),
        ("one reaches into the other", second, long),
        ("one after the other, with another prev_hash", other, second),
        ("one after the other", first, second),
        ("the same batch twice", first, first),
        ("too far apart to say", first, _sealed([NewRecord("app", None, b"fifth")], second)),
    ):
        lower_seq: int | None = None
        if contradict(one, two):
            lower_seq = check_proof(one.wal_bytes, two.wal_bytes).lower_seq
        yield {"title": title, "first": one.wal_bytes.hex(), "second": two.wal_bytes.hex(), "lower_seq": lower_seq}


def _digests() -> Iterator[Json]:
    long, short = LogHead(2**40, b"\x21" * 32), LogHead(7, b"\x22" * 32)
    cases: tuple[dict[PeerId, LogHead], ...] = (
        {},
        {_OTHER: long, _ORIGIN: short},
        {_OTHER: long, _ORIGIN: LogHead(short.seq, short.hash, frozen=True), PeerId(b"\x09" * 32): EMPTY_LOG},
    )
    for heads in cases:
        logs = [
            {"origin": origin.hex(), "seq": head.seq, "hash": head.hash.hex(), "frozen": head.frozen}
            for origin, head in heads.items()
        ]
        yield {"logs": logs, "digest": digest(heads).hex()}


def _rekeys() -> Iterator[Json]:
    for cipher in (AES_256_GCM, CHACHA20_POLY1305):
        key = bytes(range(32))
        yield {"cipher": cipher, "key": key.hex(), "next_key": next_key(cipher, key).hex()}


def _announcements() -> Iterator[Json]:
    plain = msg.DiscoveryAnnounce("shop", 9000, WALL_MS, 7, (("proto", "1.0"),))
    signed = sign_announcement(plain, _identity(b"\x12" * 32))
    yield {"text": plain.to_json(), "signer": None}
    yield {"text": signed.to_json(), "identity_seed": "12" * 32, "signer": _identity(b"\x12" * 32).peer_id.hex()}


# A whole conversation. Entropy is drawn from named constants, so drawing it twice gives the same.


class _Side:
    """One end of the conversation, and every secret that it used."""

    def __init__(self, role: Role, network_key: bytes | None, cipher: str) -> None:
        self.role = role
        self.name = role.name.lower()
        self.secrets: Json = {}
        self.config = SessionConfig(
            node_id=self.name,
            identity=Identity.generate(self._drawn("identity_seed")),
            static=NoiseStatic.generate(self._drawn("noise_static")),
            network_key=network_key,
            network_name="vectors",
            capabilities=(("bundle", "1"), ("cipher", cipher)),
            limits=Limits(),
        )

    def entropy(self) -> Callable[[int], bytes]:
        """What one handshake draws: 8 bytes for its nonce, 32 for its ephemeral key."""
        names = iter(("nonce", "noise_ephemeral"))

        def draw(size: int) -> bytes:
            return self._drawn(next(names))(size)

        return draw

    def _drawn(self, name: str) -> Callable[[int], bytes]:
        def draw(size: int) -> bytes:
            drawn = Dice(f"vectors/{self.name}/{name}").entropy(size)
            self.secrets[name] = drawn.hex()
            return drawn

        return draw


def _conversation(title: str, network_key: bytes | None, cipher: str) -> Json:
    sides = [_Side(role, network_key, cipher) for role in (Role.INITIATOR, Role.RESPONDER)]
    i, r = (Session(side.config, side.role, entropy=side.entropy(), now=0.0, wall_ms=WALL_MS) for side in sides)
    frames: list[Json] = []

    def turn(sender: Session, receiver: Session) -> None:
        data = sender.data_to_send()
        frames.append({"from": sender.role.name.lower(), "bytes": data.hex()})
        receiver.receive_data(data, 0.0)
        while (event := receiver.next_event()) is not None:
            if isinstance(event, PeerProven):
                receiver.accept()
            assert isinstance(event, PeerProven | Live) or receiver.state in (State.LIVE, State.ENDED), event

    for sender, receiver in ((i, r), (r, i), (i, r)):
        turn(sender, receiver)
    r.send(MessageType.WAL_HEADS, msg.WalHeads().encode())
    turn(r, i)
    i.send(MessageType.WAL_HEADS, msg.WalHeads().encode())
    turn(i, r)
    i.send(MessageType.DATA, msg.Data("chat", body=b"one of two").encode())
    asked = i.send(MessageType.DATA, msg.Data("clock", body=b"the other, a request").encode(), ACK_REQ)
    turn(i, r)
    r.send(MessageType.DATA, msg.Data("", asked, body=b"its answer").encode())
    turn(r, i)
    i.goodbye(Reason.CLOSED, "done")
    turn(i, r)
    turn(r, i)
    to_responder, to_initiator = _keys(*sides)
    return {
        "title": title,
        "network_key": network_key.hex() if network_key is not None else None,
        "network_name": "vectors",
        "ts_ms": WALL_MS,
        "cipher": i.cipher,
        "secrets": {side.name: side.secrets for side in sides},
        "capabilities": {side.name: _plain(side.config.capabilities) for side in sides},
        "key_to_responder": to_responder.hex(),
        "key_to_initiator": to_initiator.hex(),
        "stream": frames,
    }


def _keys(initiator: _Side, responder: _Side) -> tuple[bytes, bytes]:
    """The same handshake once more, for the keys that it ends with."""
    i, r = (Handshake(side.config, side.role, side.entropy()) for side in (initiator, responder))
    r.read_hello(_opened(i.write_hello(1, WALL_MS)))
    i.read_hello_ack(_opened(r.write_hello_ack(1)))
    r.read_hello_finish(_opened(i.write_hello_finish(2)))
    assert i.keys() == r.keys()[::-1]
    return i.keys()


def _opened(frame: bytes) -> ParsedEnvelope:
    return parse_envelope(frame[read_varint(frame, 0)[1] :])


# What must be refused.


def _sound(form: Form, type: MessageType | None) -> bytes:
    """Well-formed bytes to start from: the richest example of each."""
    if form is Form.PAYLOAD:
        return max((message.encode() for message in EXAMPLES if message.TYPE is type), key=len)
    if form is Form.VARINT:
        return encode_varint(300)
    if form is Form.STREAM:
        return encode_bytes(_PING)
    if form is Form.ENVELOPE:
        return _PING
    if form is Form.BATCH:
        return _log()[1].wal_bytes
    return (
        sign_announcement(msg.DiscoveryAnnounce("shop", 9000, WALL_MS, 7), _identity(b"\x12" * 32)).to_json().encode()
    )


def _malformed() -> Iterator[Json]:
    for fault in FAULTS:
        types: list[MessageType | None] = [*sorted(fault.types)] or [None]
        for type in types:
            dice = Dice(f"vectors/{fault.form.value}/{fault.name}/{type}")
            sound = _sound(fault.form, type)
            assert judge(fault.form, sound, type) is None
            broken = fault.make(sound, dice.integer, type)
            if len(broken.data) > MALFORMED_BYTES_MAX:
                continue
            yield {
                "form": broken.form.value,
                "type": None if type is None else int(type),
                "fault": broken.fault,
                "reason": broken.refusal.label,
                "bytes": broken.data.hex(),
            }
