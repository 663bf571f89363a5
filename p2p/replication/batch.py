"""The sealed batch: the one unit of durability, hashing, signing, storage, transfer and acknowledgement.

Its bytes are made once, by the origin that signs them. Everybody else keeps and passes on those very bytes; nothing is
ever encoded again, so what was signed and what is checked cannot differ. A `Batch` is therefore its bytes plus what
was read from them, and the records are read again when somebody wants them.

    version u8 (1) | origin 32 | seq_begin u64 | count varint | prev_hash 32 | base_hlc u64
    | count x ( hlc_delta varint | kind str | target str | payload bytes ) | signature 64

The hash is SHA-256 of all before the signature; the signature is over a context and the hash.

Writing is arranged so that a record costs little, and that most of it is done before the batch's turn comes: within a
batch of ours the deltas are 0 for the first record and 1 for all others, so `encode_portion` can join as many records
as fit one batch, not knowing where they will stand, and a batch is one or more whole portions with a header.

Source: replication section 1.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain
from typing import Any, Final, NamedTuple, cast

import msgspec

from p2p.binary import encode_bytes, encode_varint, read_varint
from p2p.crypto.identity import verify
from p2p.errors import ConfigError, Reason, RecordTooLarge, RemoteProtocolError
from p2p.ids import PeerId
from p2p.limits import USUAL
from p2p.replication.clock import HLC_MAX, wall_time
from p2p.replication.heads import SEQ_MAX, ZERO_HASH

BATCH_VERSION: Final = 1
BATCH_CONTEXT: Final = b"vix-p2p/batch/1"
RECORDS_MAX: Final = USUAL.batch_records_max
BATCH_BYTES_MAX: Final = USUAL.batch_bytes_max

_SIGNATURE_BYTES: Final = 64
_START: Final = struct.Struct("<B32sQ")
_PREV: Final = struct.Struct("<32sQ")
_COUNT_BYTES_MAX: Final = 2
_FIXED_BYTES: Final = _START.size + _COUNT_BYTES_MAX + _PREV.size + _SIGNATURE_BYTES
BODY_BYTES_MAX: Final = BATCH_BYTES_MAX - _FIXED_BYTES - 1
"""What one batch holds of records, but for the first one's delta: so long kind, target and payload of one may be, with
their lengths."""

_HEX: Final = b"0123456789abcdef"
_FIRST_DELTA: Final = b"\x00"
_NEXT_DELTA: Final = b"\x01"


class NewerBatch(RemoteProtocolError):
    """The batch is of a version that this software does not know. Nothing more can be said of it.

    Attributes:
        origin: whose it claims to be.
    """

    def __init__(self, version: int, origin: PeerId) -> None:
        super().__init__(f"a batch of version {version}; this software knows {BATCH_VERSION}", Reason.VERSION)
        self.origin = origin


class NewRecord(NamedTuple):
    """What an application appends.

    Args:
        kind: says what the payload is.
        target: whom it is for; None for everybody. It hides nothing: every admitted node can read it.
        payload: the content; with kind and target about 255 KiB at the most.
    """

    kind: str
    target: PeerId | None
    payload: bytes


class Record(msgspec.Struct, frozen=True):
    """One record of a log, as read.

    Attributes:
        origin: whose log it stands in.
        node_id: the origin's label where one is known here (a running node knows its own, a data dir alone does not),
            else None.
        seq: its place in that log, from 1.
        kind, target, payload: as appended.
        hlc: the origin's hybrid logical time, 48 bits of Unix milliseconds and 16 of counter. A claim: it orders
            nothing that matters.
    """

    origin: PeerId
    node_id: str | None
    seq: int
    kind: str
    target: PeerId | None
    payload: bytes
    hlc: int

    @property
    def time(self) -> datetime:
        """The wall clock part of `hlc`, in UTC, in milliseconds."""
        return wall_time(self.hlc)


class Batch(msgspec.Struct, frozen=True):
    """A sealed batch: its bytes, and what they say.

    Attributes:
        origin, seq_begin, seq_end: whose records, the first and the last of them, both inclusive.
        prev_hash: hash of the origin's batch before; `ZERO_HASH` for the first.
        base_hlc, last_hlc: where the timestamps begin, and that of the last record.
        hash: SHA-256 of everything before the signature.
        wal_bytes: the whole batch, signature included; at most 256 KiB.
        targets: whom its records are for; those for everybody name nobody.
    """

    origin: PeerId
    seq_begin: int
    seq_end: int
    prev_hash: bytes
    base_hlc: int
    last_hlc: int
    hash: bytes
    wal_bytes: bytes
    targets: frozenset[PeerId] = frozenset()

    @property
    def count(self) -> int:
        """Number of records, 1 to 1,024."""
        return self.seq_end - self.seq_begin + 1

    @property
    def signature(self) -> bytes:
        """64 bytes; not checked by `parse_batch`."""
        return self.wal_bytes[-_SIGNATURE_BYTES:]

    def records(self, node_id: str | None = None) -> Iterator[Record]:
        """Read the records one after the other.

        Args:
            node_id: the label to show with them.
        """
        data = self.wal_bytes
        start = _START.size + len(encode_varint(self.count)) + _PREV.size
        seq = self.seq_begin
        # Kinds and targets repeat; most batches have one of each.
        texts: dict[bytes, str] = {}
        targets: dict[bytes, PeerId | None] = {b"": None}
        for hlc, kind, target, begin, end in _walk(data, start, self.count, self.base_hlc):
            if kind not in texts:
                texts[kind] = kind.decode()
            if target not in targets:
                targets[target] = PeerId.parse(target.decode())
            yield Record(self.origin, node_id, seq, texts[kind], targets[target], data[begin:end], hlc)
            seq += 1


class Portion(msgspec.Struct, frozen=True):
    """Encoded records that stand in one batch together, whichever that will be.

    Attributes:
        count: how many, at least one.
        data: the records, each with its hlc_delta but the first, which gets it from its batch.
        targets: whom they are for; those for everybody name nobody.
    """

    count: int
    data: bytes
    targets: frozenset[PeerId] = frozenset()


def encode_portion(
    records: Sequence[bytes | NewRecord], start: int = 0, kind: str = "app", target: PeerId | None = None
) -> Portion:
    """Encode records from `start` on: as many as fit one batch, and at least one.

    Args:
        records: payloads, or records that bring their own kind and target.
        kind, target: of those that are payloads.

    Raises:
        RecordTooLarge: one of them does not fit a batch, even alone.
        ConfigError: a kind cannot be written as UTF-8, or something is of another kind than it has to be.
    """
    assert start < len(records)
    chunk = records[start : start + RECORDS_MAX]
    if isinstance(chunk[0], NewRecord):
        whole = _whole(chunk, kind, target)
        return _encode_alike(whole) or _encode_each(whole)
    # Payloads alone are not looked at one by one: whether they are alike, and nothing else, shows when they are joined.
    return _join_alike(kind, target, cast("Sequence[bytes]", chunk)) or _encode_each(_whole(chunk, kind, target))


def _whole(records: Sequence[bytes | NewRecord], kind: str, target: PeerId | None) -> Sequence[NewRecord]:
    if set(map(type, records)) == {NewRecord}:
        return cast("Sequence[NewRecord]", records)
    return [record if isinstance(record, NewRecord) else NewRecord(kind, target, record) for record in records]


def _encode_alike(records: Sequence[NewRecord]) -> Portion | None:
    """Encode records that have one kind, one target and payloads of one length; None if they are others."""
    try:
        kind, target, payload = records[0]
        if len(records[-1][2]) != len(payload):
            return None
        # Not zip(*records): an iterator for each record at once would have the garbage collector run in every call.
        fields: list[Any] = list(chain.from_iterable(records))
        kinds, targets = fields[::3], fields[1::3]
        if min(kinds.count(kind), targets.count(target)) < len(records):
            return None
    except TypeError:
        return None
    return _join_alike(kind, target, fields[2::3])


def _join_alike(kind: str, target: PeerId | None, payloads: Sequence[bytes]) -> Portion | None:
    """Encode payloads of one length; None if they are of several, or one cannot be encoded.

    That is what many calls bring, and it needs no work for each record.
    """
    try:
        length, count = len(payloads[0]), len(payloads)
        head = _head(_prefix(kind, target), length)
        step = len(head) + length
        data = head[len(_NEXT_DELTA) :] + payloads[0]
        if count > 1:
            # A set of the lengths would take a third longer.
            if len(payloads[-1]) != length or [*map(len, payloads)].count(length) < count:
                return None
            count = min(count, (len(_NEXT_DELTA) + BODY_BYTES_MAX) // step)
            data = head.join([data, *payloads[1:count]])
    except (TypeError, ValueError):
        # Who reads them one by one says which one is wrong.
        return None
    if len(data) != count * step - len(_NEXT_DELTA):
        return None
    return Portion(count, data, frozenset() if target is None else frozenset((target,)))


def _encode_each(records: Sequence[NewRecord]) -> Portion:
    parts: list[bytes] = []
    add = parts.append
    targets: set[PeerId] = set()
    kind: str | None = None
    target: PeerId | None = None
    size, length, step = -len(_NEXT_DELTA), -1, 0
    prefix = head = payload = b""
    # Kinds, targets and lengths repeat: what stands before a payload is made once for each length.
    heads: dict[int, bytes] = {}
    try:
        for next_kind, next_target, payload in records:
            if next_kind != kind or next_target != target:
                kind, target = next_kind, next_target
                prefix = _prefix(kind, target)
                length = -1
                heads.clear()
            if len(payload) != length:
                length = len(payload)
                if length not in heads:
                    heads[length] = _head(prefix or _prefix(next_kind, next_target), length)
                head = heads[length]
                step = len(head) + length
            if size + step > BODY_BYTES_MAX:
                break
            if target is not None:
                targets.add(target)
            size += step
            add(head)
            add(payload)
        parts[0] = parts[0][len(_NEXT_DELTA) :]
        data = b"".join(parts)
    except TypeError:
        # Told only now: to look at every payload beforehand would cost more than all the rest.
        raise _not_bytes([*parts[1::2], payload]) from None
    if len(data) != size:
        raise _not_bytes(parts[1::2])
    return Portion(len(parts) // 2, data, frozenset(targets))


def encode_portions(records: Sequence[bytes | NewRecord]) -> list[Portion]:
    """Encode any number of records, as few portions as they fit. Raises as `encode_portion` does."""
    portions: list[Portion] = []
    start = 0
    while start < len(records):
        portions.append(encode_portion(records, start))
        start += portions[-1].count
    return portions


def _prefix(kind: str, target: PeerId | None) -> bytes:
    if not isinstance(kind, str):
        raise ConfigError(f"a kind is text, and not {type(kind).__name__}")
    if target is not None and not isinstance(target, PeerId):
        raise ConfigError(f"a target is a PeerId, and not {type(target).__name__}: PeerId.parse(text) makes one")
    try:
        kind_bytes = kind.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"the kind {kind[:80]!r} cannot be written as UTF-8") from None
    target_bytes = b"" if target is None else target.hex().encode()
    return _NEXT_DELTA + encode_bytes(kind_bytes) + encode_bytes(target_bytes)


def _head(prefix: bytes, length: int) -> bytes:
    """What stands before a payload of that length."""
    head = prefix + encode_varint(length)
    room = len(_NEXT_DELTA) + BODY_BYTES_MAX - len(head)
    if length > room:
        raise RecordTooLarge(
            f"a payload of {length} bytes does not fit a batch: "
            f"beside its kind and target it may have {max(0, room)} bytes"
        )
    return head


def _not_bytes(payloads: Iterable[object]) -> ConfigError:
    what = next((type(payload).__name__ for payload in payloads if not isinstance(payload, bytes | bytearray)), "that")
    more = ": write text.encode()" if what == "str" else ""
    return ConfigError(f"a payload is bytes, and not {what}{more}")


def take_for_one_batch(portions: Sequence[Portion], start: int = 0) -> int:
    """Return where the batch that begins with `portions[start]` must end: as many as fit, and at least one."""
    count, size = portions[start].count, len(portions[start].data)
    for stop in range(start + 1, len(portions)):
        count += portions[stop].count
        size += len(_NEXT_DELTA) + len(portions[stop].data)
        if count > RECORDS_MAX or size > BODY_BYTES_MAX:
            return stop
    return len(portions)


def seal(
    *,
    origin: PeerId,
    seq_begin: int,
    prev_hash: bytes,
    base_hlc: int,
    portions: Sequence[Portion],
    sign: Callable[[bytes], bytes],
    foresee: Callable[[int, Sequence[bytes]], None] | None = None,
) -> Batch:
    """Make a batch of 1 to 1,024 records and sign it.

    Args:
        origin: the identity that `sign` signs for.
        seq_begin: seq of the first record, one above the log's head.
        prev_hash: the head's hash.
        base_hlc: timestamp of the first record; each further record gets the next.
        portions: the records, no more than `take_for_one_batch` allows.
        sign: returns 64 bytes.
        foresee: told, before it is hashed, of how many bytes the batch will be, and what these begin with: all but the
            signature.
    """
    count = sum(portion.count for portion in portions)
    seq_end = seq_begin + count - 1
    last_hlc = base_hlc + count - 1
    assert 1 <= count <= RECORDS_MAX
    assert 1 <= seq_begin <= seq_end <= SEQ_MAX
    assert last_hlc <= HLC_MAX
    assert (prev_hash == ZERO_HASH) == (seq_begin == 1)
    header = b"".join(
        (
            _START.pack(BATCH_VERSION, origin, seq_begin),
            encode_varint(count),
            _PREV.pack(prev_hash, base_hlc),
            _FIRST_DELTA,
        )
    )
    # The records are hashed before they are joined with the rest: each copy of a whole batch shows. A join of one
    # copies nothing.
    records = _NEXT_DELTA.join([portion.data for portion in portions])
    if foresee is not None:
        foresee(len(header) + len(records) + _SIGNATURE_BYTES, (header, records))
    state = hashlib.sha256(header)
    state.update(records)
    batch_hash = state.digest()
    wal_bytes = b"".join((header, records, sign(BATCH_CONTEXT + batch_hash)))
    assert len(wal_bytes) <= BATCH_BYTES_MAX
    targets = frozenset[PeerId]().union(*(portion.targets for portion in portions))
    return Batch(origin, seq_begin, seq_end, prev_hash, base_hlc, last_hlc, batch_hash, wal_bytes, targets)


def origin_of(wal_bytes: bytes) -> PeerId | None:
    """Return whose batch these bytes claim to be, unchecked; None when they are too short to say."""
    return PeerId(wal_bytes[1:33]) if len(wal_bytes) >= _START.size else None


def parse_batch(wal_bytes: bytes) -> Batch:
    """Read a batch and check everything but the signature. Work and memory grow with the bytes, not with claims.

    Raises:
        NewerBatch: a version above ours (a RemoteProtocolError of Reason.VERSION).
        RemoteProtocolError: the bytes are anything but one canonical batch.
    """
    size = len(wal_bytes)
    if size > BATCH_BYTES_MAX:
        raise RemoteProtocolError(f"a batch of {size} bytes is over the bound of {BATCH_BYTES_MAX}")
    if size < _START.size + 1 + _PREV.size + _SIGNATURE_BYTES:
        raise RemoteProtocolError(f"{size} bytes are no batch")
    version, origin_bytes, seq_begin = _START.unpack_from(wal_bytes)
    origin = PeerId(origin_bytes)
    if version > BATCH_VERSION:
        raise NewerBatch(version, origin)
    if version != BATCH_VERSION:
        raise RemoteProtocolError(f"a batch of version {version}")
    count, pos = read_varint(wal_bytes, _START.size)
    if not 1 <= count <= RECORDS_MAX:
        raise RemoteProtocolError(f"a batch of {count} records; 1 to {RECORDS_MAX} are allowed")
    seq_end = seq_begin + count - 1
    if seq_begin < 1 or seq_end > SEQ_MAX:
        raise RemoteProtocolError(f"a batch cannot begin at seq {seq_begin}")
    if size < pos + _PREV.size + _SIGNATURE_BYTES:
        raise RemoteProtocolError("a batch is cut off")
    prev_hash, base_hlc = _PREV.unpack_from(wal_bytes, pos)
    if (prev_hash == ZERO_HASH) != (seq_begin == 1):
        raise RemoteProtocolError("only the first batch has no batch before it")
    try:
        last_hlc, targets = _check_records(wal_bytes, pos + _PREV.size, count, base_hlc)
    except IndexError:
        raise RemoteProtocolError("a batch is cut off") from None
    batch_hash = hashlib.sha256(memoryview(wal_bytes)[:-_SIGNATURE_BYTES]).digest()
    return Batch(origin, seq_begin, seq_end, prev_hash, base_hlc, last_hlc, batch_hash, wal_bytes, targets)


def verify_signature(batch: Batch) -> bool:
    """Whether the origin signed this batch. The dearest check (about 100 us), so it comes last."""
    return verify(batch.origin, batch.signature, BATCH_CONTEXT + batch.hash)


def _check_records(data: bytes, pos: int, count: int, base_hlc: int) -> tuple[int, frozenset[PeerId]]:
    """Walk over all records, check their texts, and return the last timestamp, and whom they are for."""
    stop = len(data) - _SIGNATURE_BYTES
    kinds: set[bytes] = set()
    targets = {b""}
    last_hlc, end = base_hlc, pos
    for last_hlc, kind, target, _, end in _walk(data, pos, count, base_hlc):  # noqa: B007  # the last one is returned
        if end > stop:
            raise RemoteProtocolError("a record reaches beyond its batch")
        if kind not in kinds:
            _check_kind(kind)
            kinds.add(kind)
        if target not in targets:
            if len(target) != 64 or target.strip(_HEX):
                raise RemoteProtocolError("a record's target is not a peer id")
            targets.add(target)
    if end != stop:
        raise RemoteProtocolError(f"{stop - end} trailing bytes in a batch")
    if last_hlc > HLC_MAX:
        raise RemoteProtocolError("a record's timestamp is 2^64 or more")
    targets.discard(b"")
    return last_hlc, frozenset([PeerId.parse(target.decode()) for target in targets])


def _check_kind(kind: bytes) -> None:
    try:
        kind.decode()
    except UnicodeDecodeError:
        raise RemoteProtocolError("a record's kind is not valid UTF-8") from None


def _walk(data: bytes, pos: int, count: int, hlc: int) -> Iterator[tuple[int, bytes, bytes, int, int]]:
    """Yield timestamp, kind, target, and where the payload begins and ends, for each record.

    It may read into the signature, and beyond the end of `data` it raises IndexError: the caller compares the ends.
    Delta, kind and target are mostly those of the record before: then they are compared and not read again, which makes
    it several times as fast. Varints of one byte, and lengths of two, are by far the most frequent and read in place.
    """
    head = kind = target = b""
    head_bytes = delta = 0
    for _ in range(count):
        if head_bytes and data.startswith(head, pos):
            pos += head_bytes
        else:
            start = pos
            delta = data[pos]
            pos += 1
            if delta >= 128:
                delta, pos = read_varint(data, pos - 1)
            size = data[pos]
            pos += 1
            if size >= 128:
                size, pos = read_varint(data, pos - 1)
            begin = pos + size
            kind = data[pos:begin]
            size = data[begin]
            pos = begin + 1
            if size >= 128:
                size, pos = read_varint(data, begin)
            begin = pos
            pos += size
            target = data[begin:pos]
            head, head_bytes = data[start:pos], pos - start
        hlc += delta
        size = data[pos]
        begin = pos + 1
        if size >= 128:
            high = data[begin]
            if high and high < 128:
                size = size & 127 | high << 7
                begin += 1
            else:
                size, begin = read_varint(data, pos)
        pos = begin + size
        yield hlc, kind, target, begin, pos
