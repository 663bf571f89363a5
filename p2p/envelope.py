"""Envelopes: what every frame carries. A fixed header, and a payload that is plain or sealed.

    offset  0  magic "VP2P"
            4  u16 major, u16 minor
            8  u16 type
           10  u64 msg_id
           18  u32 flags
           22  nonce (12), tag (16)          only with the flag Encrypted
      22 / 50  payload as varint length and bytes

This module knows how an envelope is written and which bytes are none. Whether a type, a flag or a msg_id may come at
this point of a conversation is for the session to say.

There are two ways to the same bytes. `Envelope` is a value, for tools, tests and whoever handles one at a time. The
functions are for the hot path, where a dataclass per envelope would cost more than the rest: `encode_envelope`,
`encode_framed`, `encode_sealed`, `parse_envelope`, `parse_sealed`, and `iter_bundle`, which walks over hundreds of
small messages that were sealed as one.

Source: wire sections 3 and 4 (Bundle).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum, IntFlag
from itertools import groupby
from typing import Final, NamedTuple, Self

import msgspec

from p2p.binary import U64_MAX, Buffer, Pieces, encode_varint, read_varint
from p2p.errors import LocalProtocolError, Reason, RemoteProtocolError
from p2p.limits import USUAL

MAGIC: Final = b"VP2P"
MAJOR: Final = 1
MINOR: Final = 0
HEADER_BYTES: Final = 22
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
AAD_BYTES: Final = 18
_AAD_AT: Final = HEADER_BYTES - AAD_BYTES
ID_AT: Final = 10
ID_BYTES: Final = 8
BUNDLE_MESSAGES_MAX: Final = USUAL.bundle_messages_max


class MessageType(IntEnum):
    """What the payload of an envelope is. Numbers are u16; those from 0x8000 are for others to add."""

    label: str

    HELLO = 1, "Hello"
    PING = 2, "Ping"
    PONG = 3, "Pong"
    HELLO_ACK = 4, "HelloAck"
    HELLO_FINISH = 5, "HelloFinish"
    WAL_PUSH = 10, "WalPush"
    WAL_ACK = 11, "WalAck"
    OUTBOX_PULL = 12, "OutboxPull"
    GOODBYE = 256, "Goodbye"
    WAL_HEADS = 257, "WalHeads"
    RELAY = 258, "Relay"
    DATA = 259, "Data"
    FORK_PROOF = 260, "ForkProof"
    BUNDLE = 262, "Bundle"
    ATTACHED = 0x8001, "Attached"
    REQUEST_CANCEL = 0x8002, "RequestCancel"

    def __new__(cls, number: int, label: str) -> Self:
        member = int.__new__(cls, number)
        member._value_ = number
        member.label = label
        return member


class EnvelopeFlag(IntFlag):
    """Bits of the envelope's flags. All others are refused."""

    ENCRYPTED = 1
    """The payload is sealed; nonce and tag stand before it."""
    COMPRESSED = 2
    """Carried by the codec, refused by every session: compressing before sealing tells lengths."""
    ACK_REQ = 4
    """On a Data: a request, to be answered by a Data whose reply_to is this msg_id."""


# Plain numbers for the hot path: operators on an IntFlag cost twenty times theirs.
ENCRYPTED: Final = 1
COMPRESSED: Final = 2
ACK_REQ: Final = 4
_KNOWN_FLAGS: Final = ENCRYPTED | COMPRESSED | ACK_REQ


class ProtocolVersion(NamedTuple):
    """Version of the wire. Nodes of one major understand each other; a minor adds and never changes."""

    major: int = MAJOR
    minor: int = MINOR


PROTOCOL_VERSION: Final = ProtocolVersion()

_HEADER: Final = struct.Struct("<4sHHHQI")
_AAD: Final = struct.Struct("<HHHQI")
_MAGIC_U32: Final = int.from_bytes(MAGIC, "little")

# The head of an inner envelope with both of its lengths, for lengths of two varint bytes (written as one u16 each).
_FRAMED_2_2: Final = struct.Struct("<HIHHHQIH")
_FRAMED_1_1: Final = struct.Struct("<BIHHHQIB")
# The same for a sealed one, with nonce and tag; and a sealed one's head without lengths, as it is read.
_SEALED_2_2: Final = struct.Struct("<HIHHHQI12s16sH")
_SEALED_1_1: Final = struct.Struct("<BIHHHQI12s16sB")
_SEALED_HEAD: Final = struct.Struct("<IHHHQI12s16s")
_SEALED_HEAD_BYTES: Final = HEADER_BYTES + NONCE_BYTES + TAG_BYTES
_SEALED_ONE_BYTE_MAX: Final = 127 - _SEALED_HEAD_BYTES - 1
_SEALED_TWO_BYTE_MAX: Final = 16_383 - _SEALED_HEAD_BYTES - 2
# The same with room for the tag, for lengths of three varint bytes (written as u16 and u8 each).
_SEALED_3_3: Final = struct.Struct("<HBIHHHQI12s16xHB")
_SEALED_3_3_AAD: Final = slice(3 + _AAD_AT, 3 + HEADER_BYTES)
_SEALED_3_3_TAG: Final = slice(3 + HEADER_BYTES + NONCE_BYTES, 3 + _SEALED_HEAD_BYTES)
SEALED_THREE_BYTE_MIN: Final = 16_384
SEALED_THREE_BYTE_MAX: Final = 2_097_151 - _SEALED_HEAD_BYTES - 3
_INNER_HEADER: Final = struct.Struct("<IHxxHQI")
_ONE_BYTE_MAX: Final = 127 - HEADER_BYTES - 1
_LOWEST_BYTES: Final = bytes(range(256))
_TWO_BYTE_MAX: Final = 16_383 - HEADER_BYTES - 2
_NOT_INSIDE: Final = frozenset({MessageType.HELLO, MessageType.HELLO_ACK, MessageType.HELLO_FINISH, MessageType.BUNDLE})


class ParsedEnvelope(msgspec.Struct, frozen=True):
    """An envelope as it came. `payload` is a slice of the input: a memoryview if the input was one."""

    minor: int
    type: int
    msg_id: int
    flags: int
    nonce: bytes
    tag: bytes
    payload: Buffer


def encode_envelope(type: int, msg_id: int, flags: int, payload: Buffer, nonce: bytes = b"", tag: bytes = b"") -> bytes:
    """Return the bytes of one envelope of this version.

    Args:
        type: u16.
        msg_id: u64.
        flags: u32; with Encrypted, `nonce` has 12 bytes and `tag` 16, else both are empty.
        payload: plaintext, or the ciphertext without its tag.

    Raises:
        LocalProtocolError: a number does not fit its field, or nonce and tag do not go with the flags.
    """
    _check_seal(flags, nonce, tag)
    return b"".join((_header(MAJOR, MINOR, type, msg_id, flags), nonce, tag, encode_varint(len(payload)), payload))


def encode_framed(type: int, msg_id: int, flags: int, payload: Buffer, nonce: bytes = b"", tag: bytes = b"") -> bytes:
    """Return a whole frame that carries one envelope: what goes on the wire, or into a Bundle.

    The same as framing what `encode_envelope` returns, with the payload copied once instead of twice.

    Raises:
        LocalProtocolError: a number does not fit its field, or nonce and tag do not go with the flags.
    """
    size = len(payload)
    if size <= _TWO_BYTE_MAX and not (flags & ENCRYPTED or nonce or tag):
        try:
            if size >= 128:
                frame = size + HEADER_BYTES + 2
                return (
                    _FRAMED_2_2.pack(
                        frame & 127 | 128 | frame >> 7 << 8,
                        _MAGIC_U32,
                        MAJOR,
                        MINOR,
                        type,
                        msg_id,
                        flags,
                        size & 127 | 128 | size >> 7 << 8,
                    )
                    + payload
                )
            if size <= _ONE_BYTE_MAX:
                frame = size + HEADER_BYTES + 1
                return _FRAMED_1_1.pack(frame, _MAGIC_U32, MAJOR, MINOR, type, msg_id, flags, size) + payload
        except struct.error:
            raise _unfit(type, msg_id, flags) from None
    _check_seal(flags, nonce, tag)
    length = encode_varint(size)
    return b"".join(
        (
            encode_varint(HEADER_BYTES + len(nonce) + len(tag) + len(length) + size),
            _header(MAJOR, MINOR, type, msg_id, flags),
            nonce,
            tag,
            length,
            payload,
        )
    )


def encode_row(type: int, first_id: int, payloads: Sequence[bytes], *, alike: bool = False) -> bytes:
    """Return the frames of messages without flags that follow one another, as they stand in a Bundle.

    Their ids count from `first_id`.

    Args:
        type: u16, of each.
        first_id: u64.
        payloads: one at least.
        alike: whether they are known to be of one size. Then a message of 128 B takes 0.04 µs, where it takes 0.35 by
            `encode_framed`.

    Raises:
        LocalProtocolError: a number does not fit its field.
    """
    if first_id + len(payloads) - 1 > U64_MAX:
        raise _unfit(type, first_id + len(payloads) - 1, 0)
    frames: list[Buffer] = []
    for group in [payloads] if alike else [list(group) for _, group in groupby(payloads, len)]:
        size, count = len(group[0]), len(group)
        first = encode_framed(type, first_id, 0, group[0])
        if count == 1:
            frames.append(first)
            first_id += 1
            continue
        id_at = len(first) - size - len(encode_varint(size)) - HEADER_BYTES + ID_AT
        before_id, behind_id = first[:id_at], first[id_at + ID_BYTES : len(first) - size]
        start = 0
        while start < count:
            part = group[start : start + ids_alike(first_id)]
            frames.append(frames_alike(before_id, first_id, behind_id, part))
            first_id += len(part)
            start += len(part)
    return b"".join(frames)


def ids_alike(first_id: int) -> int:
    """How many ids from this one on differ in their lowest byte alone."""
    return 256 - (first_id & 255)


def frames_alike(before_id: bytes, first_id: int, behind_id: bytes, payloads: Sequence[bytes]) -> bytearray:
    """Return messages that differ in id and payload alone, one behind the other: two operations for all of them.

    Args:
        before_id, behind_id: what stands around the id of each.
        first_id: that of the first; the others count on from there.
        payloads: of one size; one at least, `ids_alike(first_id)` at most.
    """
    head = b"".join((before_id, first_id.to_bytes(ID_BYTES, "little"), behind_id))
    frames = bytearray(head).join([b"", *payloads])
    lowest = first_id & 255
    frames[len(before_id) :: len(head) + len(payloads[0])] = _LOWEST_BYTES[lowest : lowest + len(payloads)]
    return frames


def encode_sealed(type: int, msg_id: int, flags: int, nonce: bytes, sealed: bytes) -> bytes:
    """Return a whole frame with a sealed envelope, from what an AEAD returns: the ciphertext with its tag behind it.

    The same as `encode_framed`, for small messages in a third of its time.

    Raises:
        LocalProtocolError: a number does not fit its field, or nonce and tag do not go with the flags.
    """
    size = len(sealed) - TAG_BYTES
    if size <= _SEALED_TWO_BYTE_MAX and flags & ENCRYPTED and len(nonce) == NONCE_BYTES:
        tag = sealed[size:]
        try:
            if size >= 128:
                frame, length = size + _SEALED_HEAD_BYTES + 2, size & 127 | 128 | size >> 7 << 8
                frame = frame & 127 | 128 | frame >> 7 << 8
                head = _SEALED_2_2.pack(frame, _MAGIC_U32, MAJOR, MINOR, type, msg_id, flags, nonce, tag, length)
                return head + sealed[:size]
            if 0 <= size <= _SEALED_ONE_BYTE_MAX:
                frame = size + _SEALED_HEAD_BYTES + 1
                head = _SEALED_1_1.pack(frame, _MAGIC_U32, MAJOR, MINOR, type, msg_id, flags, nonce, tag, size)
                return head + sealed[:size]
        except struct.error:
            raise _unfit(type, msg_id, flags) from None
    return encode_framed(type, msg_id, flags, memoryview(sealed)[:size], nonce, sealed[size:])


def seal_framed(
    type: int,
    msg_id: int,
    flags: int,
    nonce: bytes,
    payload: Buffer,
    seal_into: Callable[[bytes, Buffer, Buffer, memoryview], object],
) -> bytearray:
    """Return a whole frame with a large envelope that is sealed where it lies.

    The same as `encode_sealed`, without a copy of the ciphertext behind the seal: for 64 KiB that and the calls it
    spares are a sixth of what sealing takes.

    Args:
        type, msg_id, flags: of the envelope, with Encrypted.
        nonce: 12 bytes.
        payload: plaintext, from SEALED_THREE_BYTE_MIN to SEALED_THREE_BYTE_MAX bytes.
        seal_into: an AEAD's `encrypt_into`: given nonce, plaintext, AAD and room it writes ciphertext and tag.

    Raises:
        LocalProtocolError: a number does not fit its field.
    """
    size = len(payload)
    inside = size + _SEALED_HEAD_BYTES + 3
    frame = bytearray(_SEALED_3_3.size + size + TAG_BYTES)
    try:
        _SEALED_3_3.pack_into(
            frame,
            0,
            inside & 127 | (inside >> 7 & 127) << 8 | 0x8080,
            inside >> 14,
            _MAGIC_U32,
            MAJOR,
            MINOR,
            type,
            msg_id,
            flags,
            nonce,
            size & 127 | (size >> 7 & 127) << 8 | 0x8080,
            size >> 14,
        )
    except struct.error:
        raise _unfit(type, msg_id, flags) from None
    with memoryview(frame)[_SEALED_3_3.size :] as room:
        seal_into(nonce, payload, frame[_SEALED_3_3_AAD], room)
    # An AEAD leaves the tag behind the ciphertext, and the wire has it before.
    frame[_SEALED_3_3_TAG] = frame[-TAG_BYTES:]
    del frame[-TAG_BYTES:]
    return frame


def parse_sealed(data: Buffer | Pieces) -> tuple[int, int, int, bytes, bytes, bytes]:
    """Read one sealed envelope, which must fill `data`; return type, msg_id, flags, AAD, nonce and what an AEAD takes.

    That is the ciphertext with its tag behind it.

    Args:
        data: the envelope, or two pieces of it, the first of which has its head and more.

    Raises:
        RemoteProtocolError: it is none.
    """
    rest: Buffer = b""
    rest_bytes = 0
    if isinstance(data, tuple):
        data, rest = data
        rest_bytes = len(rest)
    try:
        magic, major, _, type, msg_id, flags, nonce, tag = _SEALED_HEAD.unpack_from(data)
        size = data[_SEALED_HEAD_BYTES]
    except (struct.error, IndexError):
        raise RemoteProtocolError("a sealed envelope is cut off") from None
    pos = _SEALED_HEAD_BYTES + 1
    if size >= 128:
        # As in `read_inner`: two bytes are read here, and the three of a large one.
        high = data[pos] if pos < len(data) else 0
        if 0 < high < 128:
            size += (high << 7) - 128
            pos += 1
        elif high and pos + 1 < len(data) and 0 < (top := data[pos + 1]) < 128:
            size += (high - 128 << 7) + (top << 14) - 128
            pos += 2
        else:
            size, pos = read_varint(data, _SEALED_HEAD_BYTES)
    if (
        magic != _MAGIC_U32
        or major != MAJOR
        or flags & ~_KNOWN_FLAGS
        or not flags & ENCRYPTED
        or pos + size != len(data) + rest_bytes
    ):
        raise RemoteProtocolError("a sealed envelope of this version was awaited")
    return type, msg_id, flags, bytes(data[_AAD_AT:HEADER_BYTES]), nonce, b"".join((data[pos:], rest, tag))


def parse_envelope(data: Buffer) -> ParsedEnvelope:
    """Read one envelope, which must fill `data`.

    Raises:
        RemoteProtocolError: it is none; Reason.VERSION when it is one of another major version.
    """
    size = len(data)
    if size < HEADER_BYTES:
        raise RemoteProtocolError(f"an envelope has {HEADER_BYTES} bytes and more, not {size}")
    magic, major, minor, type, msg_id, flags = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise RemoteProtocolError("an envelope does not begin with its magic")
    if major != MAJOR:
        raise RemoteProtocolError(f"the envelope's version is {major}.{minor}, ours is {MAJOR}.{MINOR}", Reason.VERSION)
    if flags & ~_KNOWN_FLAGS:
        raise RemoteProtocolError(f"unknown flag bits in {flags:#x}")
    pos = HEADER_BYTES
    nonce = tag = b""
    if flags & ENCRYPTED:
        pos += NONCE_BYTES + TAG_BYTES
        nonce = bytes(data[HEADER_BYTES : HEADER_BYTES + NONCE_BYTES])
        tag = bytes(data[HEADER_BYTES + NONCE_BYTES : pos])
    length, pos = read_varint(data, pos)
    if pos + length != size:
        raise RemoteProtocolError(f"an envelope announces {length} bytes of payload and carries {size - pos}")
    return ParsedEnvelope(minor, type, msg_id, flags, nonce, tag, data[pos:])


def aad(type: int, msg_id: int, flags: int, major: int = MAJOR, minor: int = MINOR) -> bytes:
    """Return the 18 bytes that a seal also covers: the header without its magic.

    Args:
        type, msg_id, flags: as they stand in the envelope, so Encrypted is set.
        major, minor: as received.
    """
    try:
        return _AAD.pack(major, minor, type, msg_id, flags)
    except struct.error:
        raise _unfit(type, msg_id, flags) from None


def iter_bundle(payload: Buffer) -> Iterator[tuple[int, int, int, Buffer]]:
    """Walk over the messages of a Bundle's payload: (type, msg_id, flags, payload) each, in order.

    What comes before a fault has been given out already when it is found: a session closes then, and what it has
    handled was in order until there.

    Raises:
        RemoteProtocolError: a frame or envelope is none, is sealed, or is of a type that may not be inside (a
            handshake message or another Bundle), or there are more than 4,096.
    """
    end = len(payload)
    pos = 0
    left = BUNDLE_MESSAGES_MAX
    while pos < end:
        if not left:
            raise too_many_inside(BUNDLE_MESSAGES_MAX)
        left -= 1
        type, msg_id, flags, _, start, pos = read_inner(payload, pos, end)
        yield type, msg_id, flags, payload[start:pos]


def too_many_inside(messages_max: int) -> RemoteProtocolError:
    """What a Bundle of too many messages is."""
    return RemoteProtocolError(f"a Bundle holds more than {messages_max} messages")


def read_inner(payload: Buffer, pos: int, end: int) -> tuple[int, int, int, int, int, int]:
    """Read one message of a Bundle, from `pos`; return type, msg_id, flags and where header, payload and the next are.

    Args:
        payload: the Bundle's.
        pos: where the message's frame begins.
        end: where the Bundle ends.

    Raises:
        RemoteProtocolError: see `iter_bundle`.
    """
    try:
        # One and two bytes are read here, since a call per message would cost a tenth of the whole.
        size = payload[pos]
        pos += 1
        if size >= 128:
            high = payload[pos]
            if 0 < high < 128:
                size += (high << 7) - 128
                pos += 1
            else:
                size, pos = read_varint(payload, pos - 1)
        header, stop = pos, pos + size
        if stop > end:
            raise RemoteProtocolError("an envelope in a Bundle is longer than the Bundle")
        magic, major, type, msg_id, flags = _INNER_HEADER.unpack_from(payload, pos)
        pos += HEADER_BYTES
        size = payload[pos]
        pos += 1
        if size >= 128:
            high = payload[pos]
            if 0 < high < 128:
                size += (high << 7) - 128
                pos += 1
            else:
                size, pos = read_varint(payload, pos - 1)
    except (IndexError, struct.error):
        raise RemoteProtocolError("an envelope in a Bundle is cut off") from None
    if magic != _MAGIC_U32 or major != MAJOR or flags & ~(COMPRESSED | ACK_REQ) or type in _NOT_INSIDE:
        raise _not_inside(magic, major, type, flags)
    if pos + size != stop:
        raise RemoteProtocolError("an envelope in a Bundle does not fill its frame")
    return type, msg_id, flags, header, pos, stop


def _not_inside(magic: int, major: int, type: int, flags: int) -> RemoteProtocolError:
    if magic != _MAGIC_U32:
        return RemoteProtocolError("an envelope in a Bundle does not begin with its magic")
    if major != MAJOR:
        return RemoteProtocolError(f"an envelope in a Bundle has major version {major}", Reason.VERSION)
    if type in _NOT_INSIDE:
        return RemoteProtocolError(f"type {type} may not stand in a Bundle")
    if flags & ENCRYPTED:
        return RemoteProtocolError("an envelope in a Bundle is sealed")
    return RemoteProtocolError(f"unknown flag bits in {flags:#x}")


def _header(major: int, minor: int, type: int, msg_id: int, flags: int) -> bytes:
    try:
        return _HEADER.pack(MAGIC, major, minor, type, msg_id, flags)
    except struct.error:
        raise _unfit(type, msg_id, flags) from None


def _check_seal(flags: int, nonce: bytes, tag: bytes) -> None:
    sizes = (NONCE_BYTES, TAG_BYTES) if flags & ENCRYPTED else (0, 0)
    if (len(nonce), len(tag)) != sizes:
        raise LocalProtocolError(
            f"with flags {flags:#x} nonce and tag have {sizes[0]} and {sizes[1]} bytes, not {len(nonce)} and {len(tag)}"
        )


def _unfit(type: int, msg_id: int, flags: int) -> LocalProtocolError:
    return LocalProtocolError(f"type {type} (u16), msg_id {msg_id} (u64) or flags {flags} (u32) does not fit its field")


class Envelope(msgspec.Struct, frozen=True):
    """One envelope as a value.

    `encode` writes what it is given, any version and any flags, so that tests and tools can make what nobody should
    send; only `decode` judges.

    Attributes:
        version: the wire's version.
        type: u16, a `MessageType` or a number that is none.
        msg_id: u64.
        flags: `EnvelopeFlag` bits.
        payload: plaintext, or with Encrypted ciphertext of the same length.
        nonce: 12 bytes with Encrypted, else empty.
        tag: 16 bytes with Encrypted, else empty.
    """

    version: ProtocolVersion
    type: int
    msg_id: int
    flags: int = 0
    payload: bytes = b""
    nonce: bytes = b""
    tag: bytes = b""

    def encode(self) -> bytes:
        """Return the bytes of the envelope, without a frame around them.

        Raises:
            LocalProtocolError: a number does not fit its field, or nonce and tag do not go with the flags.
        """
        _check_seal(self.flags, self.nonce, self.tag)
        header = _header(self.version[0], self.version[1], self.type, self.msg_id, self.flags)
        return b"".join((header, self.nonce, self.tag, encode_varint(len(self.payload)), self.payload))

    @classmethod
    def decode(cls, data: Buffer) -> Envelope:
        """Read one envelope, which must fill `data`.

        Raises:
            RemoteProtocolError: it is none; Reason.VERSION when it is one of another major version.
        """
        parsed = parse_envelope(data)
        return cls(
            ProtocolVersion(MAJOR, parsed.minor),
            parsed.type,
            parsed.msg_id,
            parsed.flags,
            bytes(parsed.payload),
            parsed.nonce,
            parsed.tag,
        )
