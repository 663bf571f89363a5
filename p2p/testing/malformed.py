"""Bytes that every implementation refuses, each with the one rule that it breaks: for tests of decoders.

A `Fault` makes malformed bytes of well-formed ones. Whatever is chosen on the way, the result is refused, and always
for the same `Reason`: what is sometimes harmless is none of these (`strategies.mutations` has those). `judge` says what
our own decoders make of some bytes.

It needs no Hypothesis: `p2p vectors` prints some of these for other implementations, `strategies` draws them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from p2p.binary import encode_varint, read_varint
from p2p.crypto.announce import signer_of
from p2p.envelope import HEADER_BYTES, Envelope, MessageType, encode_envelope
from p2p.errors import Reason, RemoteProtocolError
from p2p.framing import FrameDecoder
from p2p.limits import Limits
from p2p.msg import Attached, DiscoveryAnnounce, Relay, decode_payload
from p2p.replication.batch import BODY_BYTES_MAX, RECORDS_MAX, parse_batch, verify_signature

Choose: TypeAlias = Callable[[int, int], int]
"""Returns an integer from the first to the second, both included."""


class Form(Enum):
    """What the bytes ought to be."""

    VARINT = "varint"
    STREAM = "stream"
    ENVELOPE = "envelope"
    PAYLOAD = "payload"
    BATCH = "batch"
    ANNOUNCE = "announce"


class Malformed(NamedTuple):
    """Bytes to be refused.

    Attributes:
        form: what they ought to be.
        type: of the message whose payload they ought to be, else None.
        fault: the rule that they break, in words.
        refusal: why a connection ends that brings them.
        data: the bytes.
    """

    form: Form
    type: MessageType | None
    fault: str
    refusal: Reason
    data: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to break one rule.

    Attributes:
        form: of what.
        name: the rule, in words.
        wound: makes malformed bytes of well-formed ones.
        types: of which messages' payloads; empty for other forms.
        refusal: what follows.
    """

    form: Form
    name: str
    wound: Callable[[bytes, Choose], bytes]
    types: frozenset[MessageType] = frozenset()
    refusal: Reason = Reason.PROTOCOL

    def make(self, data: bytes, choose: Choose, type: MessageType | None = None) -> Malformed:
        """Break the rule.

        Args:
            data: well-formed bytes of this form.
            choose: decides where and how.
            type: of the message, for a payload.
        """
        assert (type in self.types) == (self.form is Form.PAYLOAD)
        return Malformed(self.form, type, self.name, self.refusal, self.wound(data, choose))


def judge(form: Form, data: bytes, type: MessageType | None = None) -> Reason | None:
    """Why our decoders refuse these bytes; None if they take them. A batch and an announcement must be signed, too.

    A stream may end in the middle of a frame: what is missing may still come.
    """
    try:
        if form is Form.VARINT:
            _, end = read_varint(data, 0)
            return None if end == len(data) else Reason.PROTOCOL
        if form is Form.STREAM:
            decoder = FrameDecoder()
            decoder.feed(data)
            while decoder.next_frame() is not None:
                pass
        elif form is Form.ENVELOPE:
            Envelope.decode(data)
        elif form is Form.PAYLOAD:
            assert type is not None, "a payload is judged by its message's type"
            decode_payload(type, data)
        elif form is Form.BATCH:
            return None if verify_signature(parse_batch(data)) else Reason.CRYPTO
        else:
            return None if signer_of(DiscoveryAnnounce.from_json(data)) is not None else Reason.PROTOCOL
    except RemoteProtocolError as refusal:
        return refusal.reason
    return None


# Wounds that fit several forms.


def _cut(data: bytes, choose: Choose) -> bytes:
    return data[: choose(0, len(data) - 1)]


def _add(data: bytes, choose: Choose) -> bytes:
    return data + b"\xff"


def _over_long(varint: bytes) -> bytes:
    return varint[:-1] + bytes((varint[-1] | 128, 0))


def _first_over_long(data: bytes, choose: Choose) -> bytes:
    _, end = read_varint(data, 0)
    return _over_long(data[:end]) + data[end:]


def _first_is(replacement: Callable[[Choose], bytes]) -> Callable[[bytes, Choose], bytes]:
    """Replaces the varint that stands first."""

    def wound(data: bytes, choose: Choose) -> bytes:
        return replacement(choose) + data[read_varint(data, 0)[1] :]

    return wound


def _too_great(choose: Choose) -> bytes:
    return b"\xff" * 9 + bytes((choose(2, 127),))


def _beyond(choose: Choose) -> bytes:
    return encode_varint(choose(2**20, 2**64 - 1))


def _wraps(size: int, choose: Choose) -> bytes:
    """A length that is right for who reads no more than its lowest bits."""
    return encode_varint(size + (1 << choose(32, 63)))


def _bad_text(choose: Choose) -> bytes:
    bad = (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\x80", b"\xf5\x80\x80\x80", b"a\xe2\x82")[choose(0, 5)]
    return encode_varint(len(bad)) + bad


def _text_at(offset: Callable[[bytes], int]) -> Callable[[bytes, Choose], bytes]:
    """Replaces the text that begins there by one that is not UTF-8."""

    def wound(data: bytes, choose: Choose) -> bytes:
        start = offset(data)
        size, begin = read_varint(data, start)
        return data[:start] + _bad_text(choose) + data[begin + size :]

    return wound


def _after_varints(data: bytes, count: int) -> int:
    pos = 0
    for _ in range(count):
        _, pos = read_varint(data, pos)
    return pos


# Frames and envelopes.

_FRAME_BYTES_MAX: Final = Limits().frame_bytes_max


def _behind_frames(header: Callable[[Choose], bytes]) -> Callable[[bytes, Choose], bytes]:
    def wound(data: bytes, choose: Choose) -> bytes:
        return data + header(choose)

    return wound


def _field(offset: int, size: int, low: int, high: int) -> Callable[[bytes, Choose], bytes]:
    """Puts a number from `low` to `high` into a fixed field."""

    def wound(data: bytes, choose: Choose) -> bytes:
        return data[:offset] + choose(low, high).to_bytes(size, "little") + data[offset + size :]

    return wound


def _other_magic(data: bytes, choose: Choose) -> bytes:
    place = choose(0, 3)
    return data[:place] + bytes((data[place] ^ choose(1, 255),)) + data[place + 1 :]


def _other_major(data: bytes, choose: Choose) -> bytes:
    return data[:4] + (0 if choose(0, 1) else choose(2, 2**16 - 1)).to_bytes(2, "little") + data[6:]


def _unknown_flag(data: bytes, choose: Choose) -> bytes:
    flags = int.from_bytes(data[18:22], "little") | 1 << choose(3, 31)
    return data[:18] + flags.to_bytes(4, "little") + data[22:]


def _length_at(data: bytes) -> int:
    sealed = data[18] & 1
    return HEADER_BYTES + (28 if sealed else 0)


def _length_over_long(data: bytes, choose: Choose) -> bytes:
    start = _length_at(data)
    _, end = read_varint(data, start)
    return data[:start] + _over_long(data[start:end]) + data[end:]


def _length_wrong(data: bytes, choose: Choose) -> bytes:
    start = _length_at(data)
    size, end = read_varint(data, start)
    return data[:start] + encode_varint(choose(size + 1, 2**64 - 1)) + data[end:]


def _length_wraps(data: bytes, choose: Choose) -> bytes:
    start = _length_at(data)
    size, end = read_varint(data, start)
    return data[:start] + _wraps(size, choose) + data[end:]


# Payloads.

_FIRST_A_VARINT: Final = frozenset({
    MessageType.HELLO, MessageType.HELLO_ACK, MessageType.HELLO_FINISH, MessageType.OUTBOX_PULL, MessageType.WAL_HEADS,
    MessageType.DATA, MessageType.FORK_PROOF, MessageType.ATTACHED,
})  # fmt: skip
_FIRST_A_LENGTH: Final = frozenset({MessageType.OUTBOX_PULL, MessageType.DATA, MessageType.FORK_PROOF})
_ALL: Final = frozenset(MessageType) - {MessageType.BUNDLE}
_BUNDLE: Final = frozenset({MessageType.BUNDLE})
_HEADS: Final = frozenset({MessageType.WAL_HEADS})
_ATTACHED: Final = frozenset({MessageType.ATTACHED})


def _cut_hello_ack(data: bytes, choose: Choose) -> bytes:
    """Without its key it would be a HelloAck that has none."""
    whole = _after_varints(data, 2)
    place = choose(0, len(data) - 1)
    return data[: place if place != whole else place - 1]


def _capability_twice(data: bytes, choose: Choose) -> bytes:
    size, begin = read_varint(data, _after_varints(data, 2))
    label_end = begin + size
    count, first = read_varint(data, label_end)
    return data[:label_end] + encode_varint(count + 2) + b"\x01?\x00" * 2 + data[first:]


def _first_wraps(data: bytes, choose: Choose) -> bytes:
    size, end = read_varint(data, 0)
    return _wraps(size, choose) + data[end:]


def _more_entries(*entries: Callable[[Choose], bytes]) -> Callable[[bytes, Choose], bytes]:
    """Puts entries before those that are counted at the start."""

    def wound(data: bytes, choose: Choose) -> bytes:
        count, end = read_varint(data, 0)
        return encode_varint(count + len(entries)) + b"".join([entry(choose) for entry in entries]) + data[end:]

    return wound


_SOMEBODY: Final = b"\xa5" * 32


def _head(want: Callable[[Choose], int]) -> Callable[[Choose], bytes]:
    return lambda choose: _SOMEBODY + b"\x07" + bytes(32) + bytes((want(choose),))


def _attached(hops: Callable[[Choose], int]) -> Callable[[Choose], bytes]:
    return lambda choose: _SOMEBODY + bytes((hops(choose),))


def _no_hops(choose: Choose) -> int:
    return 0 if choose(0, 1) else choose(Attached.HOPS_MAX + 1, 255)


def _inside(make: Callable[[Choose], bytes]) -> Callable[[bytes, Choose], bytes]:
    """Puts one more frame into a Bundle, where it may not be."""

    def wound(data: bytes, choose: Choose) -> bytes:
        frame = make(choose)
        return data + encode_varint(len(frame)) + frame

    return wound


_PING: Final = encode_envelope(MessageType.PING, 1, 0, bytes(8))
_OUTSIDE: Final = (
    MessageType.HELLO,
    MessageType.HELLO_ACK,
    MessageType.HELLO_FINISH,
    MessageType.BUNDLE,
)


# Batches: version 1 | origin 32 | seq_begin 8 | count | prev_hash 32 | base_hlc 8 | records | signature 64.

_COUNT_AT: Final = 41
_EMPTY_BODY: Final = b"\x00\x00\x00"


def _batch_count(replacement: Callable[[Choose], bytes]) -> Callable[[bytes, Choose], bytes]:
    def wound(data: bytes, choose: Choose) -> bytes:
        _, end = read_varint(data, _COUNT_AT)
        return data[:_COUNT_AT] + replacement(choose) + data[end:]

    return wound


def _prev_hash(data: bytes, choose: Choose) -> bytes:
    _, prev = read_varint(data, _COUNT_AT)
    is_first = int.from_bytes(data[33:41], "little") == 1
    return data[:prev] + (b"\x01" if is_first else b"\x00") * 32 + data[prev + 32 :]


def _record(make: Callable[[Choose], bytes], *, base_hlc: int | None = None) -> Callable[[bytes, Choose], bytes]:
    """A batch that holds this record alone."""

    def wound(data: bytes, choose: Choose) -> bytes:
        _, prev = read_varint(data, _COUNT_AT)
        hlc = data[prev + 32 : prev + 40] if base_hlc is None else base_hlc.to_bytes(8, "little")
        return data[:_COUNT_AT] + b"\x01" + data[prev : prev + 32] + hlc + make(choose) + data[-64:]

    return wound


def _bad_target(choose: Choose) -> bytes:
    target = (b"x", b"A" * 64, b"0" * 63, b"0" * 65, b"g" * 64)[choose(0, 4)]
    return b"\x00\x00" + encode_varint(len(target)) + target + b"\x00"


def _flip(low: Callable[[bytes], int], high: Callable[[bytes], int]) -> Callable[[bytes, Choose], bytes]:
    """Turns one bit over, in the bytes from `low` to before `high`."""

    def wound(data: bytes, choose: Choose) -> bytes:
        place = choose(low(data), high(data) - 1)
        return data[:place] + bytes((data[place] ^ 1 << choose(0, 7),)) + data[place + 1 :]

    return wound


# Announcements.


def _member(name: str, value: Callable[[Choose], str]) -> Callable[[bytes, Choose], bytes]:
    """Puts another value under a name that stands first in the object, and no second time."""

    def wound(data: bytes, choose: Choose) -> bytes:
        key = f'"{name}":'.encode()
        start = data.index(key) + len(key)
        end = min(place for stop in (b",", b"}") if (place := data.find(stop, start)) >= 0)
        return data[:start] + value(choose).encode() + data[end:]

    return wound


def _twice(data: bytes, choose: Choose) -> bytes:
    return b'{"nonce":1,' + data[1:]


def _unsigned_half(data: bytes, choose: Choose) -> bytes:
    return data.replace((b'"key":', b'"sig":')[choose(0, 1)], b'"was":')


FAULTS: Final = (
    Fault(Form.VARINT, "longer than it needs to be", _first_over_long),
    Fault(Form.VARINT, "2^64 or more", _first_is(_too_great)),
    Fault(Form.VARINT, "cut off", lambda data, choose: bytes(byte | 128 for byte in data)),
    Fault(
        Form.STREAM,
        "a frame's length is longer than it needs to be",
        _behind_frames(lambda choose: bytes((choose(128, 255), 0))),
    ),
    Fault(
        Form.STREAM,
        "a frame is over the bound",
        _behind_frames(lambda choose: encode_varint(choose(_FRAME_BYTES_MAX + 1, 2**64 - 1))),
        refusal=Reason.FRAME_TOO_LARGE,
    ),
    Fault(
        Form.STREAM,
        "a frame's length is right in its lowest bits only",
        _behind_frames(lambda choose: _wraps(len(_PING), choose) + _PING),
        refusal=Reason.FRAME_TOO_LARGE,
    ),
    Fault(
        Form.STREAM,
        "a frame's length never ends",
        _behind_frames(lambda choose: bytes((choose(128, 255),)) * choose(4, 40)),
        refusal=Reason.FRAME_TOO_LARGE,
    ),
    Fault(Form.ENVELOPE, "cut off", _cut),
    Fault(Form.ENVELOPE, "bytes after the end", _add),
    Fault(Form.ENVELOPE, "another magic", _other_magic),
    Fault(Form.ENVELOPE, "another major version", _other_major, refusal=Reason.VERSION),
    Fault(Form.ENVELOPE, "an unknown flag", _unknown_flag),
    Fault(Form.ENVELOPE, "the payload's length is longer than it needs to be", _length_over_long),
    Fault(Form.ENVELOPE, "the payload is announced longer than it is", _length_wrong),
    Fault(Form.ENVELOPE, "the payload's length is right in its lowest bits only", _length_wraps),
    Fault(Form.PAYLOAD, "cut off", _cut, _ALL - {MessageType.HELLO_ACK}),
    Fault(Form.PAYLOAD, "cut off", _cut_hello_ack, frozenset({MessageType.HELLO_ACK})),
    Fault(Form.PAYLOAD, "bytes after the end", _add, _ALL | _BUNDLE),
    Fault(Form.PAYLOAD, "a varint is longer than it needs to be", _first_over_long, _FIRST_A_VARINT),
    Fault(Form.PAYLOAD, "a varint is 2^64 or more", _first_is(_too_great), _FIRST_A_VARINT),
    Fault(Form.PAYLOAD, "a length reaches beyond the end", _first_is(_beyond), _FIRST_A_LENGTH),
    Fault(Form.PAYLOAD, "a length is right in its lowest bits only", _first_wraps, _FIRST_A_LENGTH),
    Fault(Form.PAYLOAD, "a count that cannot be true", _first_is(_beyond), _HEADS | _ATTACHED),
    Fault(
        Form.PAYLOAD,
        "text that is not UTF-8",
        _text_at(lambda data: 0),
        frozenset({MessageType.OUTBOX_PULL, MessageType.DATA}),
    ),
    Fault(Form.PAYLOAD, "text that is not UTF-8", _text_at(lambda data: 2), frozenset({MessageType.GOODBYE})),
    Fault(Form.PAYLOAD, "text that is not UTF-8", _text_at(lambda data: 9), frozenset({MessageType.RELAY})),
    Fault(
        Form.PAYLOAD,
        "text that is not UTF-8",
        _text_at(lambda data: _after_varints(data, 2)),
        frozenset({MessageType.HELLO}),
    ),
    Fault(Form.PAYLOAD, "a capability stands twice", _capability_twice, frozenset({MessageType.HELLO})),
    Fault(Form.PAYLOAD, "a log stands twice", _more_entries(_head(lambda choose: 0), _head(lambda choose: 1)), _HEADS),
    Fault(Form.PAYLOAD, "want is neither 0 nor 1", _more_entries(_head(lambda choose: choose(2, 255))), _HEADS),
    Fault(
        Form.PAYLOAD,
        "a peer stands twice",
        _more_entries(_attached(lambda choose: 1), _attached(lambda choose: 8)),
        _ATTACHED,
    ),
    Fault(Form.PAYLOAD, "a distance that none has", _more_entries(_attached(_no_hops)), _ATTACHED),
    Fault(
        Form.PAYLOAD, "a kind that does not exist", _field(8, 1, Relay.MOVE + 1, 255), frozenset({MessageType.RELAY})
    ),
    Fault(
        Form.PAYLOAD, "the last frame is cut off", lambda data, choose: data + b"\x16" + _PING[: choose(0, 21)], _BUNDLE
    ),
    Fault(
        Form.PAYLOAD,
        "a frame's length is longer than it needs to be",
        lambda data, choose: data + _over_long(bytes((len(_PING),))) + _PING,
        _BUNDLE,
    ),
    Fault(Form.PAYLOAD, "a frame that is no envelope", _inside(lambda choose: _other_magic(_PING, choose)), _BUNDLE),
    Fault(
        Form.PAYLOAD,
        "a sealed envelope inside",
        _inside(lambda choose: encode_envelope(MessageType.PING, 1, 1, bytes(8), bytes(12), bytes(16))),
        _BUNDLE,
    ),
    Fault(
        Form.PAYLOAD,
        "a type that may not be inside",
        _inside(lambda choose: encode_envelope(_OUTSIDE[choose(0, len(_OUTSIDE) - 1)], 1, 0, b"")),
        _BUNDLE,
    ),
    Fault(Form.PAYLOAD, "an unknown flag inside", _inside(lambda choose: _unknown_flag(_PING, choose)), _BUNDLE),
    Fault(
        Form.PAYLOAD,
        "another major version inside",
        _inside(lambda choose: _other_major(_PING, choose)),
        _BUNDLE,
        Reason.VERSION,
    ),
    Fault(Form.BATCH, "cut off", _cut),
    Fault(Form.BATCH, "bytes after the end", _add),
    Fault(Form.BATCH, "version 0", _field(0, 1, 0, 0)),
    Fault(Form.BATCH, "a newer version", _field(0, 1, 2, 255), refusal=Reason.VERSION),
    Fault(Form.BATCH, "it begins at 0", _field(33, 8, 0, 0)),
    Fault(Form.BATCH, "it ends at 2^63 or later", _field(33, 8, 2**63, 2**64 - 1)),
    Fault(Form.BATCH, "no records", _batch_count(lambda choose: b"\x00")),
    Fault(
        Form.BATCH, "too many records", _batch_count(lambda choose: encode_varint(choose(RECORDS_MAX + 1, 2**64 - 1)))
    ),
    Fault(Form.BATCH, "the count is longer than it needs to be", _batch_count(lambda choose: b"\x81\x00")),
    Fault(Form.BATCH, "it has one before it and is the first, or the other way round", _prev_hash),
    Fault(Form.BATCH, "a kind that is not UTF-8", _record(lambda choose: b"\x00" + _bad_text(choose) + b"\x00\x00")),
    Fault(Form.BATCH, "a target that is no peer id", _record(_bad_target)),
    Fault(
        Form.BATCH,
        "a time of 2^64 or more",
        _record(lambda choose: encode_varint(choose(1, 2**64 - 1)) + _EMPTY_BODY, base_hlc=2**64 - 1),
    ),
    Fault(
        Form.BATCH,
        "a record reaches into the signature",
        _record(lambda choose: b"\x00\x00\x00" + bytes((choose(1, 64),))),
    ),
    Fault(
        Form.BATCH,
        "it is over the bound",
        _record(
            lambda choose: b"\x00\x00\x00" + encode_varint(BODY_BYTES_MAX) + bytes(BODY_BYTES_MAX + choose(100, 200))
        ),
    ),
    Fault(Form.BATCH, "another signature", _flip(lambda data: len(data) - 64, len), refusal=Reason.CRYPTO),
    Fault(Form.BATCH, "it was signed by somebody else", _flip(lambda data: 1, lambda data: 33), refusal=Reason.CRYPTO),
    Fault(Form.ANNOUNCE, "cut off", _cut),
    Fault(Form.ANNOUNCE, "bytes after the end", _add),
    Fault(Form.ANNOUNCE, "a member stands twice", _twice),
    Fault(Form.ANNOUNCE, "a port beyond 65535", _member("tcp_port", lambda choose: str(choose(65_536, 2**70)))),
    Fault(Form.ANNOUNCE, "a number with a fraction", _member("ts_ms", lambda choose: f"{choose(0, 9)}.5")),
    Fault(Form.ANNOUNCE, "a number in quotes", _member("ts_ms", lambda choose: f'"{choose(0, 99)}"')),
    Fault(Form.ANNOUNCE, "it is too long", lambda data, choose: data[:-1] + b" " * choose(1200, 2000) + b"}"),
    Fault(Form.ANNOUNCE, "key without sig, or sig without key", _unsigned_half),
    Fault(Form.ANNOUNCE, "another port than was signed", _member("tcp_port", lambda choose: str(choose(1, 9)))),
)
"""Every fault. The announcements are signed ones whose port is above 9."""


def faults_of(form: Form, type: MessageType | None = None) -> list[Fault]:
    """The faults of a form; with a type, those of the payloads of that message."""
    return [fault for fault in FAULTS if fault.form is form and (type is None or type in fault.types)]
