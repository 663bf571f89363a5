"""Messages: what a payload means. One frozen struct per type, and the way between struct and bytes.

The codec knows the form of a message and no more: which texts are good node ids, whether a reply was asked for or a
range of the log makes sense is judged by those who act on it. What the form allows is one value and one encoding:
for all accepted bytes b, `decode(b).encode() == b`.

`Data` is the message that comes in hundreds of thousands per second, so it has functions of its own, without a
`Reader` and without a part per field; the rest is written for being read.

Source: wire section 4; `DiscoveryAnnounce`: section 9.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import ClassVar, Final, TypeAlias

import msgspec

from p2p.binary import (
    SHORT_VARINTS,
    U64_MAX,
    Buffer,
    Reader,
    encode_bytes,
    encode_str,
    encode_u8,
    encode_u16,
    encode_u32,
    encode_u64,
    encode_varint,
    read_text,
    read_varint,
)
from p2p.envelope import MessageType, iter_bundle
from p2p.errors import LocalProtocolError, PayloadTooLarge, RemoteProtocolError
from p2p.ids import PeerId
from p2p.limits import USUAL

__all__ = [
    "AnyMessage",
    "Attached",
    "AttachedEntry",
    "Bundle",
    "Capabilities",
    "Data",
    "DiscoveryAnnounce",
    "ForkProof",
    "Goodbye",
    "HeadEntry",
    "Hello",
    "HelloAck",
    "HelloFinish",
    "MessageType",
    "OutboxPull",
    "Ping",
    "Pong",
    "Relay",
    "RequestCancel",
    "WalAck",
    "WalHeads",
    "WalPush",
    "decode_capabilities",
    "decode_data",
    "decode_payload",
    "encode_capabilities",
    "encode_data",
]

Capabilities: TypeAlias = tuple[tuple[str, str], ...]
"""Key and value pairs in wire order, no key twice."""

_REPLY_STATUS: Final = struct.Struct("<QB")
_REPLY_STATUS_SIZE: Final = struct.Struct("<QBH")


def _pairs(capabilities: Mapping[str, str] | Iterable[Iterable[str]]) -> Capabilities:
    """Pairs of whatever holds them, so that a dict or a list from JSON may be given to a constructor."""
    if type(capabilities) is not tuple and isinstance(capabilities, Mapping):
        capabilities = capabilities.items()
    return tuple([(key, value) for key, value in capabilities])


def _refuse_twice(capabilities: Capabilities) -> None:
    if len(dict(capabilities)) != len(capabilities):
        raise LocalProtocolError("a capability key stands twice")


def encode_capabilities(capabilities: Capabilities) -> bytes:
    """Return varint count, then key and value of each, in the order given.

    Raises:
        LocalProtocolError: a key stands twice.
    """
    _refuse_twice(capabilities)
    parts = [encode_varint(len(capabilities))]
    for key, value in capabilities:
        parts.append(encode_str(key))
        parts.append(encode_str(value))
    return b"".join(parts)


def decode_capabilities(reader: Reader) -> Capabilities:
    """Take capabilities from a reader.

    Raises:
        RemoteProtocolError: they are cut off, no UTF-8, or a key stands twice.
    """
    count = reader.varint()
    # Two empty texts take two bytes: a count that cannot be true costs nothing.
    if count > reader.remaining // 2:
        raise RemoteProtocolError(f"{count} capabilities are announced, {reader.remaining} bytes are there")
    found: dict[str, str] = {}
    for _ in range(count):
        key = reader.str_()
        if key in found:
            raise RemoteProtocolError(f"capability {key[:80]!r} stands twice")
        found[key] = reader.str_()
    return tuple(found.items())


class Hello(msgspec.Struct, frozen=True):
    """First message of the initiator; its public_key field carries Noise message 1.

    Attributes:
        nonce_a: u64, the initiator's.
        ts_ms: Unix milliseconds, u64.
        node_id: label, not trusted.
        capabilities: what is offered in the clear; pairs in wire order, made of whatever mapping or pairs are given.
        public_key: Noise message 1.
    """

    TYPE: ClassVar[MessageType] = MessageType.HELLO

    nonce_a: int
    ts_ms: int
    node_id: str
    capabilities: Capabilities = ()
    public_key: bytes = b""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "capabilities", _pairs(self.capabilities))

    def encode(self) -> bytes:
        """Return the payload. Raises LocalProtocolError when a field does not fit."""
        return b"".join(
            (
                encode_varint(self.nonce_a),
                encode_varint(self.ts_ms),
                encode_str(self.node_id),
                encode_capabilities(self.capabilities),
                encode_bytes(self.public_key),
            )
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Hello:
        """Read a payload. Raises RemoteProtocolError when it is none."""
        reader = Reader(payload)
        message = cls(reader.varint(), reader.varint(), reader.str_(), decode_capabilities(reader), reader.bytes_())
        reader.end()
        return message


class Ping(msgspec.Struct, frozen=True):
    """Are you there? Answered with a Pong of the same nonce (u64)."""

    TYPE: ClassVar[MessageType] = MessageType.PING

    nonce: int

    def encode(self) -> bytes:
        """Return the payload, 8 bytes. Raises LocalProtocolError when the nonce does not fit."""
        return encode_u64(self.nonce)

    @classmethod
    def decode(cls, payload: Buffer) -> Ping:
        """Read a payload. Raises RemoteProtocolError when it is none."""
        reader = Reader(payload)
        message = cls(reader.u64())
        reader.end()
        return message


class Pong(msgspec.Struct, frozen=True):
    """The answer to the Ping of the same nonce (u64)."""

    TYPE: ClassVar[MessageType] = MessageType.PONG

    nonce: int

    def encode(self) -> bytes:
        """Return the payload, 8 bytes. Raises LocalProtocolError when the nonce does not fit."""
        return encode_u64(self.nonce)

    @classmethod
    def decode(cls, payload: Buffer) -> Pong:
        """Read a payload. Raises RemoteProtocolError when it is none."""
        reader = Reader(payload)
        message = cls(reader.u64())
        reader.end()
        return message


class HelloAck(msgspec.Struct, frozen=True):
    """Second message, the responder's; its public_key field carries Noise message 2.

    Attributes:
        nonce_a: the one of the Hello.
        nonce_b: u64, the responder's.
        public_key: Noise message 2. None: the field is absent, which is not the same as empty.
    """

    TYPE: ClassVar[MessageType] = MessageType.HELLO_ACK

    nonce_a: int
    nonce_b: int
    public_key: bytes | None = None

    def encode(self) -> bytes:
        """Return the payload. Raises LocalProtocolError when a field does not fit."""
        nonces = encode_varint(self.nonce_a) + encode_varint(self.nonce_b)
        return nonces if self.public_key is None else nonces + encode_bytes(self.public_key)

    @classmethod
    def decode(cls, payload: Buffer) -> HelloAck:
        """Read a payload. Raises RemoteProtocolError when it is none."""
        reader = Reader(payload)
        message = cls(reader.varint(), reader.varint(), reader.bytes_() if reader.remaining else None)
        reader.end()
        return message


class HelloFinish(msgspec.Struct, frozen=True):
    """Third message, the initiator's; its signature field carries Noise message 3."""

    TYPE: ClassVar[MessageType] = MessageType.HELLO_FINISH

    nonce_a: int
    nonce_b: int
    signature: bytes = b""

    def encode(self) -> bytes:
        """Return the payload. Raises LocalProtocolError when a field does not fit."""
        return encode_varint(self.nonce_a) + encode_varint(self.nonce_b) + encode_bytes(self.signature)

    @classmethod
    def decode(cls, payload: Buffer) -> HelloFinish:
        """Read a payload. Raises RemoteProtocolError when it is none."""
        reader = Reader(payload)
        message = cls(reader.varint(), reader.varint(), reader.bytes_())
        reader.end()
        return message


class WalPush(msgspec.Struct, frozen=True):
    """One sealed batch of an origin's log, as it lies in the store.

    Attributes:
        seq_begin: u64, first record inside.
        seq_end: u64, last record inside (inclusive).
        wal_bytes: the batch; its form is replication's.
    """

    TYPE: ClassVar[MessageType] = MessageType.WAL_PUSH

    seq_begin: int
    seq_end: int
    wal_bytes: bytes = b""

    def encode(self) -> bytes:
        """Return the payload. Raises LocalProtocolError when a field does not fit."""
        return b"".join(
            (encode_u64(self.seq_begin), encode_u64(self.seq_end), encode_varint(len(self.wal_bytes)), self.wal_bytes)
        )

    @classmethod
    def decode(cls, payload: Buffer) -> WalPush:
        """Read a payload. Raises RemoteProtocolError when it is none."""
        reader = Reader(payload)
        message = cls(reader.u64(), reader.u64(), reader.bytes_())
        reader.end()
        return message


class WalAck(msgspec.Struct, frozen=True):
    """The answer to one WalPush, in the order of the pushes: up to where that origin's log is durable here (u64)."""

    TYPE: ClassVar[MessageType] = MessageType.WAL_ACK

    last_applied_seq: int

    def encode(self) -> bytes:
        """Return the payload, 8 bytes. Raises LocalProtocolError when the number does not fit."""
        return encode_u64(self.last_applied_seq)

    @classmethod
    def decode(cls, payload: Buffer) -> WalAck:
        """Read a payload. Raises RemoteProtocolError when it is none."""
        reader = Reader(payload)
        message = cls(reader.u64())
        reader.end()
        return message


class OutboxPull(msgspec.Struct, frozen=True):
    """Leave to push so many records more, and for whom first.

    Attributes:
        target_node_id: a peer id in text, as the codec sees it any text.
        max_items: u32.
    """

    TYPE: ClassVar[MessageType] = MessageType.OUTBOX_PULL

    target_node_id: str = ""
    max_items: int = 128

    def encode(self) -> bytes:
        """Return the payload. Raises LocalProtocolError when a field does not fit."""
        return encode_str(self.target_node_id) + encode_u32(self.max_items)

    @classmethod
    def decode(cls, payload: Buffer) -> OutboxPull:
        """Read a payload. Raises RemoteProtocolError when it is none."""
        reader = Reader(payload)
        message = cls(reader.str_(), reader.u32())
        reader.end()
        return message


class Goodbye(msgspec.Struct, frozen=True):
    """Last message of a direction.

    Attributes:
        reason: u16, a `Reason` or the number of one that this version does not know.
        detail: one line for people.
    """

    TYPE: ClassVar[MessageType] = MessageType.GOODBYE

    reason: int
    detail: str = ""

    def encode(self) -> bytes:
        """Return the payload. Raises LocalProtocolError when a field does not fit."""
        return encode_u16(self.reason) + encode_str(self.detail)

    @classmethod
    def decode(cls, payload: Buffer) -> Goodbye:
        """Read a payload. Raises RemoteProtocolError when it is none."""
        reader = Reader(payload)
        message = cls(reader.u16(), reader.str_())
        reader.end()
        return message


class HeadEntry(msgspec.Struct, frozen=True):
    """How much of one origin's log the sender holds.

    Attributes:
        origin: whose log.
        seq: last record of the durable, verified, gapless prefix; u64.
        hash: 32 bytes, of the batch that ends there; 32 times FF when the origin is frozen.
        want: whether the receiver is asked to push this log.
    """

    origin: PeerId
    seq: int
    hash: bytes
    want: bool = True


_HEAD_ENTRY_BYTES_MIN: Final = 32 + 1 + 32 + 1
_ATTACHED_ENTRY_BYTES: Final = 32 + 1


class WalHeads(msgspec.Struct, frozen=True):
    """What the sender holds of each log, none twice: all of them at first, later those that changed."""

    TYPE: ClassVar[MessageType] = MessageType.WAL_HEADS

    entries: tuple[HeadEntry, ...] = ()

    def encode(self) -> bytes:
        """Return the payload. Raises LocalProtocolError when a field does not fit."""
        if len({entry.origin for entry in self.entries}) < len(self.entries):
            raise LocalProtocolError("a log stands twice among the heads")
        parts = [encode_varint(len(self.entries))]
        for entry in self.entries:
            if len(entry.origin) != 32 or len(entry.hash) != 32:
                raise LocalProtocolError("origin and head hash have 32 bytes each")
            parts += (entry.origin, encode_varint(entry.seq), entry.hash, b"\x01" if entry.want else b"\x00")
        return b"".join(parts)

    @classmethod
    def decode(cls, payload: Buffer) -> WalHeads:
        """Read a payload. Raises RemoteProtocolError when it is none."""
        reader = Reader(payload)
        count = reader.varint()
        if count > reader.remaining // _HEAD_ENTRY_BYTES_MIN:
            raise RemoteProtocolError(f"{count} heads are announced, {reader.remaining} bytes are there")
        entries = []
        for _ in range(count):
            origin, seq, head, want = PeerId(reader.raw(32)), reader.varint(), reader.raw(32), reader.u8()
            if want > 1:
                raise RemoteProtocolError(f"want is 0 or 1, not {want}")
            entries.append(HeadEntry(origin, seq, head, want == 1))
        reader.end()
        if len({entry.origin for entry in entries}) < count:
            raise RemoteProtocolError("a log stands twice among the heads")
        return cls(tuple(entries))


class Relay(msgspec.Struct, frozen=True):
    """One step of a circuit through a third node. The field kind is one of OPEN, DATA, CLOSE, REFUSED, WINDOW,
    MOVE.

    Attributes:
        circuit: u64, known on this link only.
        kind: what the payload is; see wire section 7.
        source: peer id in text, in OPEN.
        target: peer id in text, in OPEN.
        ttl: u8, in OPEN.
        payload: a slice of the stream, a reason (u16) or a credit (u32).
    """

    TYPE: ClassVar[MessageType] = MessageType.RELAY
    OPEN: ClassVar[int] = 0
    DATA: ClassVar[int] = 1
    CLOSE: ClassVar[int] = 2
    REFUSED: ClassVar[int] = 3
    WINDOW: ClassVar[int] = 4
    MOVE: ClassVar[int] = 5

    circuit: int
    kind: int
    source: str = ""
    target: str = ""
    ttl: int = 0
    payload: bytes = b""

    def encode(self) -> bytes:
        """Return the payload. Raises LocalProtocolError when a field does not fit."""
        if not Relay.OPEN <= self.kind <= Relay.MOVE:
            raise LocalProtocolError(f"a Relay's kind is 0 to 5, not {self.kind}")
        return b"".join(
            (
                encode_u64(self.circuit),
                encode_u8(self.kind),
                encode_str(self.source),
                encode_str(self.target),
                encode_u8(self.ttl),
                encode_bytes(self.payload),
            )
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Relay:
        """Read a payload. Raises RemoteProtocolError when it is none."""
        if payload[_CIRCUIT_BYTES : _CIRCUIT_BYTES + len(_RELAY_DATA)] == _RELAY_DATA:
            # What nearly all of them are; the long way costs several times as much.
            size, start = read_varint(payload, _CIRCUIT_BYTES + len(_RELAY_DATA))
            if start + size == len(payload):
                circuit = int.from_bytes(payload[:_CIRCUIT_BYTES], "little")
                return cls(circuit, Relay.DATA, payload=bytes(payload[start:]))
        reader = Reader(payload)
        message = cls(reader.u64(), reader.u8(), reader.str_(), reader.str_(), reader.u8(), reader.bytes_())
        reader.end()
        if message.kind > Relay.MOVE:
            raise RemoteProtocolError(f"a Relay's kind is 0 to 5, not {message.kind}")
        return message


NO_MORE_DATA: Final = Relay(0, Relay.MOVE)
"""Said of a link itself, which is no circuit, where it gives way and its circuits run on: the last Data, answers aside,
has gone out on it."""
_CIRCUIT_BYTES: Final = 8
_RELAY_DATA: Final = bytes((Relay.DATA, 0, 0, 0))


def encode_relay_data_head(circuit: int) -> bytes:
    """The begin of a Relay's payload that carries a slice; the slice as `bytes` follows."""
    return encode_u64(circuit) + _RELAY_DATA


class Data(msgspec.Struct, frozen=True, gc=False):
    """A message of the application.

    Attributes:
        channel: where it goes.
        reply_to: msg_id of the request that this answers (u64); 0 for none.
        status: u8 of an answer: 0 ok, 1 the handler failed, 2 no handler, 3 overloaded; any other is a failure too.
        body: the application's bytes.
    """

    TYPE: ClassVar[MessageType] = MessageType.DATA
    OK: ClassVar[int] = 0
    HANDLER_FAILED: ClassVar[int] = 1
    NO_HANDLER: ClassVar[int] = 2
    OVERLOADED: ClassVar[int] = 3

    channel: str
    reply_to: int = 0
    status: int = 0
    body: bytes = b""

    def encode(self) -> bytes:
        """Return the payload. Raises LocalProtocolError when a field does not fit."""
        try:
            channel = self.channel.encode()
        except UnicodeEncodeError:
            raise LocalProtocolError(f"channel {self.channel[:80]!r} cannot be written as UTF-8") from None
        return encode_data(channel, self.reply_to, self.status, self.body)

    @classmethod
    def decode(cls, payload: Buffer) -> Data:
        """Read a payload. Raises RemoteProtocolError when it is none."""
        return decode_data(payload)


def encode_data(channel_utf8: bytes, reply_to: int, status: int, body: Buffer) -> bytes:
    """Return the payload of a `Data`, from parts. A sender keeps the channel's UTF-8 form and saves its encoding.

    Raises:
        LocalProtocolError: reply_to does not fit a u64 or status a u8.
    """
    size = len(body)
    try:
        if 127 < size < 16_384:
            # The length's two varint bytes, written as one u16.
            fixed = _REPLY_STATUS_SIZE.pack(reply_to, status, size & 127 | 128 | size >> 7 << 8)
        else:
            fixed = _REPLY_STATUS.pack(reply_to, status) + encode_varint(size)
    except struct.error:
        raise LocalProtocolError(f"reply_to {reply_to} (u64) or status {status} (u8) does not fit its field") from None
    length = len(channel_utf8)
    return b"".join((SHORT_VARINTS[length] if length < 128 else encode_varint(length), channel_utf8, fixed, body))


def decode_data(payload: Buffer) -> Data:
    """Read the payload of a `Data`.

    Raises:
        RemoteProtocolError: it is none.
    """
    data = payload if isinstance(payload, bytes) else bytes(payload)
    try:
        size = data[0]
        pos = 1
        if size >= 128:
            size, pos = read_varint(data, 0)
        stop = pos + size
        # A channel that is cut off leaves nothing for the fixed part, so unpack_from tells (OverflowError from 2^63).
        channel = data[pos:stop].decode()
        reply_to, status = _REPLY_STATUS.unpack_from(data, stop)
        pos = stop + 9
        size = data[pos]
        pos += 1
        if size >= 128:
            # As in envelope.iter_bundle: two bytes are read here, since the call would cost a quarter of the whole; and
            # the three of a large body.
            high = data[pos]
            if 0 < high < 128:
                size += (high << 7) - 128
                pos += 1
            elif high and 0 < (top := data[pos + 1]) < 128:
                size += (high - 128 << 7) + (top << 14) - 128
                pos += 2
            else:
                size, pos = read_varint(data, pos - 1)
    except (IndexError, OverflowError, struct.error):
        raise RemoteProtocolError("a Data is cut off") from None
    except UnicodeDecodeError:
        raise RemoteProtocolError("a channel name is not valid UTF-8") from None
    if pos + size != len(data):
        raise RemoteProtocolError(f"a Data announces a body of {size} bytes and carries {len(data) - pos}")
    return Data(channel, reply_to, status, data[pos:])


class AttachedEntry(msgspec.Struct, frozen=True):
    """A peer that can be reached over the relay that says so.

    Attributes:
        peer: who.
        hops: links from the relay to it, 1 to 8.
    """

    peer: PeerId
    hops: int


class Attached(msgspec.Struct, frozen=True):
    """Whom a relay leads to, none twice: all of them, in place of what it told before."""

    TYPE: ClassVar[MessageType] = MessageType.ATTACHED
    HOPS_MAX: ClassVar[int] = 8
    ENTRIES_MAX: ClassVar[int] = 1024

    entries: tuple[AttachedEntry, ...] = ()

    def encode(self) -> bytes:
        """Return the payload. Raises LocalProtocolError when a field does not fit."""
        if len(self.entries) > Attached.ENTRIES_MAX:
            raise LocalProtocolError(f"{len(self.entries)} attached peers: {Attached.ENTRIES_MAX} are the most")
        if len({entry.peer for entry in self.entries}) < len(self.entries):
            raise LocalProtocolError("a peer stands twice among the attached")
        parts = [encode_varint(len(self.entries))]
        for entry in self.entries:
            if len(entry.peer) != 32 or not 1 <= entry.hops <= Attached.HOPS_MAX:
                raise LocalProtocolError(f"a peer has 32 bytes and is 1 to {Attached.HOPS_MAX} hops away")
            parts += (entry.peer, encode_u8(entry.hops))
        return b"".join(parts)

    @classmethod
    def decode(cls, payload: Buffer) -> Attached:
        """Read a payload. Raises RemoteProtocolError when it is none."""
        reader = Reader(payload)
        count = reader.varint()
        if count > reader.remaining // _ATTACHED_ENTRY_BYTES:
            raise RemoteProtocolError(f"{count} attached peers are announced, {reader.remaining} bytes are there")
        if count > Attached.ENTRIES_MAX:
            raise RemoteProtocolError(f"{count} attached peers: {Attached.ENTRIES_MAX} are the most")
        entries = tuple(AttachedEntry(PeerId(reader.raw(32)), reader.u8()) for _ in range(count))
        reader.end()
        if any(not 1 <= entry.hops <= Attached.HOPS_MAX for entry in entries):
            raise RemoteProtocolError(f"an attached peer is 1 to {Attached.HOPS_MAX} hops away")
        if len({entry.peer for entry in entries}) < count:
            raise RemoteProtocolError("a peer stands twice among the attached")
        return cls(entries)


class RequestCancel(msgspec.Struct, frozen=True):
    """Nobody waits for the answer to a request any more.

    Attributes:
        msg_id: u64, of the request.
    """

    TYPE: ClassVar[MessageType] = MessageType.REQUEST_CANCEL

    msg_id: int

    def encode(self) -> bytes:
        """Return the payload. Raises LocalProtocolError when the id is no u64."""
        return encode_u64(self.msg_id)

    @classmethod
    def decode(cls, payload: Buffer) -> RequestCancel:
        """Read a payload. Raises RemoteProtocolError when it is none."""
        reader = Reader(payload)
        message = cls(reader.u64())
        reader.end()
        return message


class ForkProof(msgspec.Struct, frozen=True):
    """Two sealed batches of one origin that contradict each other."""

    TYPE: ClassVar[MessageType] = MessageType.FORK_PROOF

    first: bytes
    second: bytes

    def encode(self) -> bytes:
        """Return the payload."""
        return encode_bytes(self.first) + encode_bytes(self.second)

    @classmethod
    def decode(cls, payload: Buffer) -> ForkProof:
        """Read a payload. Raises RemoteProtocolError when it is none."""
        reader = Reader(payload)
        message = cls(reader.bytes_(), reader.bytes_())
        reader.end()
        return message


class Bundle(msgspec.Struct, frozen=True):
    """Small messages that were sealed as one.

    Sessions never make one of these: they write frames with `envelope.encode_framed` and read them with
    `envelope.iter_bundle`, which holds the rules.

    Attributes:
        frames: plain inner envelopes, at most 4,096.
    """

    TYPE: ClassVar[MessageType] = MessageType.BUNDLE

    frames: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """Return the payload. Raises LocalProtocolError when it is one that `decode` would refuse."""
        payload = b"".join([encode_bytes(frame) for frame in self.frames])
        try:
            for _ in iter_bundle(payload):
                pass
        except RemoteProtocolError as exc:
            raise LocalProtocolError(str(exc)) from None
        return payload

    @classmethod
    def decode(cls, payload: Buffer) -> Bundle:
        """Read a payload. Raises RemoteProtocolError when it is none."""
        for _ in iter_bundle(payload):
            pass
        reader = Reader(payload)
        frames = []
        while reader.remaining:
            frames.append(reader.bytes_())
        return cls(tuple(frames))


AnyMessage: TypeAlias = (
    Hello
    | Ping
    | Pong
    | HelloAck
    | HelloFinish
    | WalPush
    | WalAck
    | OutboxPull
    | Goodbye
    | WalHeads
    | Relay
    | Data
    | ForkProof
    | Attached
    | RequestCancel
    | Bundle
)

MESSAGES: Final[Mapping[int, type[AnyMessage]]] = MappingProxyType(
    {
        int(message.TYPE): message
        for message in (
            Hello,
            Ping,
            Pong,
            HelloAck,
            HelloFinish,
            WalPush,
            WalAck,
            OutboxPull,
            Goodbye,
            WalHeads,
            Relay,
            Data,
            ForkProof,
            Attached,
            RequestCancel,
            Bundle,
        )
    }
)
"""Type number to struct."""

_DATA: Final = int(MessageType.DATA)


def decode_payload(type: int, payload: Buffer) -> AnyMessage:
    """Read the payload of an envelope.

    Args:
        type: the envelope's.
        payload: its plaintext.

    Raises:
        RemoteProtocolError: the type is unknown, or the payload is none of that type.
    """
    if type == _DATA:
        return decode_data(payload)
    message = MESSAGES.get(type)
    if message is None:
        raise RemoteProtocolError(f"unknown message type {type}")
    return message.decode(payload)


_SENT_BYTES_MAX: Final = USUAL.announce_sent_bytes_max
_READ_BYTES_MAX: Final = USUAL.announce_read_bytes_max


class DiscoveryAnnounce(msgspec.Struct, frozen=True):
    """The discovery datagram, "here is a node": one JSON object. A hint, never a proof.

    Attributes:
        node_id: label.
        tcp_port: 0-65535, where it listens.
        ts_ms: Unix milliseconds, u64.
        nonce: u64.
        capabilities: what stands under `cap`, in order; made of whatever mapping or pairs are given. Ours hold `key`
            and `sig` among others.
    """

    node_id: str
    tcp_port: int
    ts_ms: int
    nonce: int
    capabilities: Capabilities = ()

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "capabilities", _pairs(self.capabilities))

    def to_json(self) -> str:
        """Return the datagram as text; sent as UTF-8.

        Raises:
            PayloadTooLarge: it is longer than 512 bytes, which others drop.
            LocalProtocolError: a field does not fit.
        """
        for name, value, top in (
            ("tcp_port", self.tcp_port, 65_535),
            ("ts_ms", self.ts_ms, U64_MAX),
            ("nonce", self.nonce, U64_MAX),
        ):
            if not 0 <= value <= top:
                raise LocalProtocolError(f"{name} is 0 to {top}, not {value}")
        content: dict[str, object] = {
            "node_id": self.node_id,
            "tcp_port": self.tcp_port,
            "ts_ms": self.ts_ms,
            "nonce": self.nonce,
        }
        # Imported where it is used, here and below: a node on its own reads and writes no JSON.
        import json

        _refuse_twice(self.capabilities)
        if self.capabilities:
            content["cap"] = dict(self.capabilities)
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise LocalProtocolError("an announcement cannot be written as UTF-8") from None
        if size > _SENT_BYTES_MAX:
            raise PayloadTooLarge(f"an announcement of {size} bytes; {_SENT_BYTES_MAX} are the most others read")
        return text

    @classmethod
    def from_json(cls, text: str | bytes) -> DiscoveryAnnounce:
        """Read a datagram.

        Members that nobody knows are passed over; unknown entries of `cap` are kept.

        Args:
            text: at most 1,200 bytes of UTF-8.

        Raises:
            RemoteProtocolError: it is too long, not UTF-8 or JSON, has space around it, lacks a member or holds one
                twice, or a member is of another type or out of range.
        """
        try:
            data = text.encode() if isinstance(text, str) else text
        except UnicodeEncodeError:
            raise RemoteProtocolError("an announcement is not valid UTF-8") from None
        if len(data) > _READ_BYTES_MAX:
            raise RemoteProtocolError(f"an announcement of more than {_READ_BYTES_MAX} bytes")
        members = _parse_object(read_text(data))
        node_id = members.get("node_id")
        if not isinstance(node_id, str):
            raise RemoteProtocolError("node_id is a text")
        cap = members.get("cap", {})
        if not isinstance(cap, dict) or not all(isinstance(value, str) for value in cap.values()):
            raise RemoteProtocolError("cap is an object of texts")
        return cls(
            node_id,
            _number(members, "tcp_port", 65_535),
            _number(members, "ts_ms", U64_MAX),
            _number(members, "nonce", U64_MAX),
            tuple(cap.items()),
        )


def _number(members: Mapping[str, object], name: str, top: int) -> int:
    value = members.get(name)
    # True is an int to Python and a boolean to JSON.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= top:
        raise RemoteProtocolError(f"{name} is a whole number within 0 and {top}")
    return value


def _parse_object(text: str) -> dict[str, object]:
    """Read one JSON object: nothing around it, and whole numbers only."""
    if not (text.startswith("{") and text.endswith("}")):
        raise RemoteProtocolError("an announcement is one JSON object and nothing else")
    from p2p.strict_json import parse_json

    members = parse_json(text, "an announcement", fractions=False)
    assert isinstance(members, dict)
    return members
