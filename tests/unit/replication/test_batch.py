"""Sealed batches: exact bytes, one canonical form, and nothing but RemoteProtocolError for anything else."""

from __future__ import annotations

import hashlib
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2p.binary import encode_bytes, encode_str, encode_varint
from p2p.crypto.identity import Identity, verify
from p2p.errors import ConfigError, Reason, RecordTooLarge, RemoteProtocolError
from p2p.ids import PeerId
from p2p.replication import batch as batch_module
from p2p.replication.batch import (
    BATCH_BYTES_MAX,
    BODY_BYTES_MAX,
    RECORDS_MAX,
    Batch,
    NewerBatch,
    NewRecord,
    encode_portion,
    encode_portions,
    origin_of,
    parse_batch,
    seal,
    take_for_one_batch,
    verify_signature,
)
from p2p.replication.heads import SEQ_MAX, ZERO_HASH
from tests.logs import HLC, Log, app, identity

ME = identity(1)
peer_ids = st.binary(min_size=32, max_size=32).map(PeerId)
new_records = st.builds(
    NewRecord, st.text(max_size=300), st.none() | peer_ids, st.binary(max_size=300) | st.integers(0, 999).map(bytes)
)


def by_hand(
    records: list[tuple[int, str, str, bytes]],
    *,
    version: int = 1,
    seq_begin: int = 1,
    prev_hash: bytes = ZERO_HASH,
    base_hlc: int = HLC,
    count: int | None = None,
    key: Identity = ME,
) -> bytes:
    """A batch written as the specification reads: delta, kind, target, payload for each record."""
    signed = struct.pack("<B", version) + key.peer_id + struct.pack("<Q", seq_begin)
    signed += encode_varint(len(records) if count is None else count) + prev_hash + struct.pack("<Q", base_hlc)
    for delta, kind, target, payload in records:
        signed += encode_varint(delta) + encode_str(kind) + encode_str(target) + encode_bytes(payload)
    return signed + key.sign(b"vix-p2p/batch/1" + hashlib.sha256(signed).digest())


def test_the_bytes_are_those_of_the_specification() -> None:
    target = identity(2).peer_id
    batch = Log().seal([NewRecord("sale", None, b"sold 3"), NewRecord("sale", target, b"")])
    assert batch.wal_bytes == by_hand([(0, "sale", "", b"sold 3"), (1, "sale", str(target), b"")])
    assert batch.hash == hashlib.sha256(batch.wal_bytes[:-64]).digest()
    assert verify(ME.peer_id, batch.wal_bytes[-64:], b"vix-p2p/batch/1" + batch.hash)


@given(st.lists(new_records, min_size=1, max_size=40), st.integers(1, SEQ_MAX - 40), st.integers(0, 2**63))
def test_round_trip(records: list[NewRecord], seq_begin: int, base_hlc: int) -> None:
    prev_hash = ZERO_HASH if seq_begin == 1 else b"p" * 32
    batch = seal(
        origin=ME.peer_id,
        seq_begin=seq_begin,
        prev_hash=prev_hash,
        base_hlc=base_hlc,
        portions=encode_portions(records),
        sign=ME.sign,
    )
    again = parse_batch(batch.wal_bytes)
    assert again == batch
    assert verify_signature(again)
    read = list(again.records("label"))
    assert [(r.kind, r.target, r.payload) for r in read] == [tuple(r) for r in records]
    assert [r.seq for r in read] == list(range(seq_begin, seq_begin + len(records)))
    assert [r.hlc for r in read] == [base_hlc + i for i in range(len(records))]
    assert {(r.origin, r.node_id) for r in read} == {(ME.peer_id, "label")}


@given(
    st.lists(st.tuples(st.integers(0, 2**40), st.text(max_size=9), st.just(""), st.binary(max_size=200)), min_size=1)
)
def test_whatever_others_write_is_read_as_it_stands(records: list[tuple[int, str, str, bytes]]) -> None:
    batch = parse_batch(by_hand(records))
    hlc = HLC
    for read, (delta, kind, _, payload) in zip(batch.records(), records, strict=True):
        hlc += delta
        assert (read.hlc, read.kind, read.target, read.payload) == (hlc, kind, None, payload)
    assert batch.last_hlc == hlc


@given(st.lists(new_records, max_size=30))
def test_the_portion_of_many_is_what_those_of_each_make(records: list[NewRecord]) -> None:
    alone = [encode_portion([record]) for record in records]
    together = encode_portions(records)
    assert [portion.count for portion in together] == ([len(records)] if records else [])
    assert b"\1".join(portion.data for portion in together) == b"\1".join(portion.data for portion in alone)
    assert [portion.targets for portion in together] == [
        frozenset(record.target for record in records if record.target is not None) for _ in together
    ]


@given(
    st.lists(st.binary(max_size=200), min_size=1) | st.integers(1, 200).map(lambda count: [bytes(count)] * count),
    st.text(max_size=9),
    st.none() | st.binary(min_size=32, max_size=32).map(PeerId),
    st.integers(0, 3),
)
def test_payloads_are_encoded_as_the_records_that_they_stand_for(
    payloads: list[bytes], kind: str, target: PeerId | None, start: int
) -> None:
    start = min(start, len(payloads) - 1)
    records = [NewRecord(kind, target, payload) for payload in payloads]
    assert encode_portion(payloads, start, kind, target) == encode_portion(records, start)


@pytest.mark.parametrize("payload", [7, "text", None])
def test_a_payload_of_another_kind_is_refused_wherever_it_stands(payload: Any) -> None:
    for records in ([b"x", payload], [NewRecord("k", None, b"x"), NewRecord("k", None, payload)]):
        with pytest.raises(ConfigError, match="a payload is bytes"):
            encode_portion(records)


@given(st.lists(new_records | st.binary(max_size=9), min_size=1, max_size=30))
def test_payloads_among_records_get_the_kind_and_target_that_are_given(mixed: list[NewRecord | bytes]) -> None:
    records = [each if isinstance(each, NewRecord) else NewRecord("k", ME.peer_id, each) for each in mixed]
    assert encode_portion(mixed, 0, "k", ME.peer_id) == encode_portion(records)


@given(st.lists(new_records, min_size=1, max_size=30), st.lists(st.integers(1, 29), max_size=5))
def test_a_batch_is_the_same_however_its_records_were_portioned(records: list[NewRecord], cuts: list[int]) -> None:
    ends = sorted({cut for cut in cuts if cut < len(records)})
    portions = [
        encode_portions(records[start:end]) for start, end in zip([0, *ends], [*ends, len(records)], strict=True)
    ]
    sealed = seal(
        origin=ME.peer_id,
        seq_begin=1,
        prev_hash=ZERO_HASH,
        base_hlc=HLC,
        portions=[portion for part in portions for portion in part],
        sign=ME.sign,
    )
    assert sealed == Log().seal(records)


@given(st.binary(max_size=400))
@example(b"")
@example(b"\x01" + bytes(200))
def test_arbitrary_bytes_are_refused_with_one_error(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_batch(data)


WHOLE = Log().seal([NewRecord("a", None, b"x" * 200), NewRecord("b" * 130, identity(2).peer_id, b"y")]).wal_bytes


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_t37_a_changed_byte_is_refused_or_does_not_verify(at: int, value: int) -> None:
    changed = WHOLE[:at] + bytes([value]) + WHOLE[at + 1 :]
    try:
        batch = parse_batch(changed)
    except RemoteProtocolError:
        assert changed != WHOLE
        return
    assert verify_signature(batch) == (changed == WHOLE)
    assert len(list(batch.records())) == batch.count


@given(st.integers(0, len(WHOLE) - 1))
def test_every_cut_is_refused(size: int) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_batch(WHOLE[:size])


@given(st.binary(min_size=1, max_size=80))
def test_trailing_bytes_are_refused(more: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_batch(WHOLE + more)


@given(st.integers(0, len(WHOLE) - 1), st.binary(max_size=12), st.integers(0, 12))
def test_every_wound_is_refused_or_parses_to_what_it_says(at: int, put: bytes, drop: int) -> None:
    data = WHOLE[:at] + put + WHOLE[at + drop :]
    try:
        batch = parse_batch(data)
    except RemoteProtocolError:
        return
    assert batch.wal_bytes == data
    assert len(list(batch.records())) == batch.count


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("version 0", by_hand([(0, "a", "", b"")], version=0)),
        ("no records", by_hand([])),
        ("fewer records than counted", by_hand([(0, "a", "", b"")], count=2)),
        ("more records than counted", by_hand([(0, "a", "", b""), (0, "a", "", b"")], count=1)),
        ("too many records", by_hand([(0, "", "", b"")] * 1025)),
        ("seq 0", by_hand([(0, "a", "", b"")], seq_begin=0)),
        ("the first with a batch before it", by_hand([(0, "a", "", b"")], prev_hash=b"x" * 32)),
        ("a later one without", by_hand([(0, "a", "", b"")], seq_begin=2)),
        ("a target that is no peer id", by_hand([(0, "a", "somebody", b"")])),
        ("a target in capitals", by_hand([(0, "a", "AB" * 32, b"")])),
        ("time beyond 2^64", by_hand([(2**64 - 1, "a", "", b"")], base_hlc=1)),
        ("time beyond 2^64 in the end", by_hand([(1, "a", "", b"")] * 9, base_hlc=2**64 - 9)),
        ("a kind that is not UTF-8", by_hand([(0, "abc", "", b"")]).replace(b"abc", b"\xed\xa0\x80")),
    ],
)
def test_refused_by_name(what: str, data: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as refusal:
        parse_batch(data)
    assert refusal.value.reason is Reason.PROTOCOL


def test_a_varint_that_is_longer_than_it_needs_to_be_is_refused() -> None:
    data = by_hand([(0, "a", "", b"")])
    at = len(data) - 64 - 5
    assert data[at : at + 2] == b"\x00\x01"
    for form in (b"\x80\x00\x01", b"\x00\x81\x00"):
        with pytest.raises(RemoteProtocolError, match="longer than it needs"):
            parse_batch(data[:at] + form + data[at + 2 :])


def test_a_newer_version_is_told_apart_with_its_origin() -> None:
    data = by_hand([(0, "a", "", b"")], version=2)
    with pytest.raises(NewerBatch) as newer:
        parse_batch(data)
    assert (newer.value.reason, newer.value.origin) == (Reason.VERSION, ME.peer_id)


def test_t38_a_seq_near_2_to_the_63_is_implausible() -> None:
    assert parse_batch(by_hand([(0, "a", "", b"")], seq_begin=SEQ_MAX, prev_hash=b"p" * 32)).seq_end == SEQ_MAX
    for seq_begin in (SEQ_MAX + 1, 2**64 - 1):
        with pytest.raises(RemoteProtocolError):
            parse_batch(by_hand([(0, "a", "", b"")], seq_begin=seq_begin, prev_hash=b"p" * 32))
    with pytest.raises(RemoteProtocolError):
        parse_batch(by_hand([(0, "a", "", b"")] * 2, seq_begin=SEQ_MAX, prev_hash=b"p" * 32))


def test_t38_claims_cost_no_memory() -> None:
    huge = encode_varint(2**63)
    head = WHOLE[:41] + encode_varint(1024) + WHOLE[42:82]
    hostile = [head + b"\x00" + huge + bytes(200), head + b"\x00\x00\x00" + huge + bytes(200), head + bytes(4000)]
    tracemalloc.start()
    try:
        for data in hostile:
            with pytest.raises(RemoteProtocolError):
                parse_batch(data)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_work_grows_with_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    # A kind in each record that none before had, so that nothing repeats: the texts that are looked at are all the
    # bytes there are, once.
    seen = 0

    def counting(kind: bytes) -> None:
        nonlocal seen
        seen += len(kind)

    monkeypatch.setattr("p2p.replication.batch._check_kind", counting)
    data = by_hand([(0, f"{i:0>200}", "", b"") for i in range(RECORDS_MAX)])
    parse_batch(data)
    assert seen == 200 * RECORDS_MAX
    same = by_hand([(0, "k" * 200, "", b"")] * RECORDS_MAX)
    seen = 0
    parse_batch(same)
    assert seen == 200


def test_the_bound_on_bytes_and_the_largest_record() -> None:
    largest = NewRecord("app", None, bytes(BODY_BYTES_MAX - 4 - 1 - 3))
    batch = Log().seal([largest])
    assert len(encode_portion([largest]).data) == BODY_BYTES_MAX
    assert len(batch.wal_bytes) <= BATCH_BYTES_MAX
    assert next(parse_batch(batch.wal_bytes).records()).payload == largest.payload
    with pytest.raises(RecordTooLarge, match=f"may have {len(largest.payload)} bytes"):
        encode_portion([largest._replace(payload=largest.payload + b"x")])
    with pytest.raises(RecordTooLarge):
        encode_portions(app(b"small", bytes(BATCH_BYTES_MAX)))
    with pytest.raises(RemoteProtocolError, match="over the bound"):
        parse_batch(batch.wal_bytes + bytes(BATCH_BYTES_MAX - len(batch.wal_bytes) + 1))
    fixed = len(by_hand([(0, "app", "", bytes(200_000))])) - 200_000
    assert len(parse_batch(by_hand([(0, "app", "", bytes(BATCH_BYTES_MAX - fixed))])).wal_bytes) == BATCH_BYTES_MAX
    with pytest.raises(RemoteProtocolError, match="over the bound"):
        parse_batch(by_hand([(0, "app", "", bytes(BATCH_BYTES_MAX - fixed + 1))]))


def test_what_is_no_record_is_not_encoded_as_something_else() -> None:
    record = NewRecord("k", None, b"x")
    for more in ((*record, 1), record[:2], ("k", None, b"y", 1), ("k", None, b"y")):
        for records in ([record, more], [more, record], [more], [b"x", more], [record, b"x", more]):
            with pytest.raises(ConfigError, match="a payload is bytes, and not tuple"):
                encode_portion(records)  # type: ignore[arg-type]


def test_a_kind_that_cannot_be_written_is_the_callers_mistake() -> None:
    with pytest.raises(ConfigError, match="UTF-8"):
        encode_portion([NewRecord("\ud800", None, b"")])


@pytest.mark.parametrize("payload", ["text", 7, None, ["a"], memoryview(b"abcdefgh").cast("I")])
def test_a_payload_that_is_not_bytes_is_the_callers_mistake(payload: object) -> None:
    with pytest.raises(ConfigError, match=f"and not {type(payload).__name__}"):
        encode_portions([*app(b"first"), NewRecord("app", None, payload), *app(b"last")])  # type: ignore[arg-type]
    for payloads in ([b"first", payload, b"last"], [payload]):
        with pytest.raises(ConfigError, match=f"and not {type(payload).__name__}"):
            encode_portion(payloads, 0, "app", None)  # type: ignore[arg-type]


def test_of_many_payloads_a_portion_takes_as_many_as_fit() -> None:
    payloads = [bytes(256)] * 2500
    counts, start = [], 0
    while start < len(payloads):
        counts.append(encode_portion(payloads, start, "app", None).count)
        start += counts[-1]
    assert counts == [992, 992, 516]
    assert encode_portion([b""] * 2500, 1000, "app", None).count == 1024
    with pytest.raises(RecordTooLarge):
        encode_portion([bytes(BATCH_BYTES_MAX)], 0, "app", None)


@given(st.lists(st.integers(0, 120_000) | st.integers(0, 50), min_size=1, max_size=60))
def test_a_batch_takes_as_many_as_fit_and_no_more(sizes: list[int]) -> None:
    start = 0
    for portion in encode_portions(app(*(bytes(size) for size in sizes))):
        stop = start + portion.count
        batch = Log().seal(app(*(bytes(size) for size in sizes[start:stop])))
        assert len(batch.wal_bytes) <= BATCH_BYTES_MAX
        if stop < len(sizes):
            one_more = len(batch.wal_bytes) + 1 + len(encode_portion(app(bytes(sizes[stop]))).data)
            assert one_more > BATCH_BYTES_MAX - 2
        start = stop
    assert start == len(sizes)


@given(st.lists(st.integers(0, 120_000) | st.integers(0, 50), min_size=1, max_size=60))
def test_a_batch_takes_as_many_portions_as_fit_and_no_more(sizes: list[int]) -> None:
    portions = [encode_portion(app(bytes(size))) for size in sizes]
    start = 0
    while start < len(portions):
        stop = take_for_one_batch(portions, start)
        together = portions[start:stop]
        batch = seal(origin=ME.peer_id, seq_begin=1, prev_hash=ZERO_HASH, base_hlc=HLC, portions=together, sign=ME.sign)
        assert batch == Log().seal(app(*(bytes(size) for size in sizes[start:stop])))
        if stop < len(portions):
            assert len(batch.wal_bytes) + 1 + len(portions[stop].data) > BATCH_BYTES_MAX - 2
        start = stop


def test_a_batch_takes_at_most_1024_records() -> None:
    assert [portion.count for portion in encode_portions(app(*[b""] * 2500))] == [1024, 1024, 452]
    one, many = encode_portion(app(b"")), encode_portion(app(*[b""] * 1023))
    assert [take_for_one_batch(portions) for portions in ([one, many, one], [many, one, one], [one, one, many])] == [
        2,
        2,
        2,
    ]


def test_origin_of_reads_no_more_than_it_must() -> None:
    assert origin_of(WHOLE) == ME.peer_id
    assert origin_of(WHOLE[:41]) == ME.peer_id
    assert origin_of(WHOLE[:40]) is None


def test_times_are_shown_in_utc_and_never_raise() -> None:
    record = next(Log().add(b"x").records())
    assert record.time.isoformat() == "2023-11-14T22:13:20+00:00"
    last = parse_batch(by_hand([(0, "a", "", b"")], base_hlc=2**64 - 1))
    assert next(last.records()).time.year == 9999


def test_batches_are_values() -> None:
    batch = Log().add(b"x")
    assert isinstance(batch, Batch)
    with pytest.raises(AttributeError):
        batch.seq_end = 9  # type: ignore[misc]


@pytest.mark.parametrize("size", [127, 128, 255, 256, 16_383, 16_384, 16_511, 16_512, 32_768, 65_536])
def test_payloads_at_each_step_of_their_length(size: int) -> None:
    for payload in (bytes(size), b"\x01" * size):
        data = by_hand([(0, "a", "", payload), (1, "a", "", b"next")])
        assert [record.payload for record in parse_batch(data).records()] == [payload, b"next"]


@pytest.mark.parametrize("length", [b"\x80\x00", b"\x81\x00", b"\x80\x80\x00"])
def test_a_payload_length_that_is_longer_than_it_needs_to_be_is_refused(length: bytes) -> None:
    payload = bytes(length[0] & 127)
    data = by_hand([(0, "a", "", payload)])
    at = len(data) - 64 - len(payload) - 1
    with pytest.raises(RemoteProtocolError, match="longer than it needs"):
        parse_batch(data[:at] + length + data[at + 1 :])


@pytest.mark.parametrize("size", [1, 127, 128, 300])
def test_deltas_kinds_and_targets_at_each_step_of_their_length(size: int) -> None:
    target = str(identity(2).peer_id)
    records = [(size, "k" * size, target, b"x"), (2 * size, "l" * size, "", b"y")]
    batch = parse_batch(by_hand(records))
    assert [(r.kind, str(r.target or ""), r.payload) for r in batch.records()] == [r[1:] for r in records]
    assert [record.hlc for record in batch.records()] == [HLC + size, HLC + 3 * size]
    assert batch.targets == {identity(2).peer_id}
    with pytest.raises(RemoteProtocolError, match="not a peer id"):
        parse_batch(by_hand([(0, "a", "x" * size, b"")]))


def test_a_batch_that_ends_within_its_header_is_cut_off() -> None:
    # Two bytes of count, and as much as a batch with one byte of count has at least.
    start = WHOLE[:41] + encode_varint(1024)
    for size, words in ((145, "no batch"), (146, "cut off")):
        with pytest.raises(RemoteProtocolError, match=words):
            parse_batch((start + b"p" * 200)[:size])


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (NewRecord(7, None, b""), "a kind is text, and not int"),  # type: ignore[arg-type]
        (NewRecord("a", "5e" * 32, b""), "a target is a PeerId, and not str"),  # type: ignore[arg-type]
        (NewRecord("a", None, memoryview(b"abcdefgh").cast("I")), "a payload is bytes, and not memoryview"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_record_is_refused_in_words_alone_and_among_its_like(record: NewRecord, words: str) -> None:
    for records in ([record], [record] * 2, [*app(b"first"), record]):
        with pytest.raises(ConfigError, match=words):
            encode_portions(records)


@pytest.mark.parametrize("target", [None, identity(2).peer_id])
@pytest.mark.parametrize("size", [0, 5, 300])
def test_records_that_are_alike_are_not_looked_at_one_by_one(
    target: PeerId | None, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [NewRecord("app", target, bytes([n]) * size) for n in range(5)]
    looked_at = []
    each = batch_module._encode_each
    monkeypatch.setattr(batch_module, "_encode_each", lambda records: looked_at.append(records) or each(records))
    portions = encode_portions(records)
    assert not looked_at
    assert [portion.count for portion in portions] == [5]
    for other in (records[0]._replace(kind="b"), records[0]._replace(target=identity(3).peer_id)):
        assert encode_portions([*records, other, *records])[0].count == 11
    assert len(looked_at) == 2


@pytest.mark.parametrize("last", [0, 1])
def test_records_that_are_alike_fill_a_batch_to_the_last_byte(last: int) -> None:
    # Kind, target and two lengths are 4 + 1 + 3 bytes, and the delta is one, but for the first record.
    size = (BODY_BYTES_MAX + 1) // 4 - 9
    portions = encode_portions(app(*[bytes(size + last)] * 8))
    assert [portion.count for portion in portions] == ([4, 4] if not last else [3, 3, 2])
    assert all(len(portion.data) == portion.count * (size + last + 9) - 1 for portion in portions)


def test_two_portions_that_do_not_fit_together_are_two_batches() -> None:
    half = encode_portion(app(bytes(BODY_BYTES_MAX // 2)))
    small = encode_portion(app(b""))
    assert [take_for_one_batch(p) for p in ([half, half], [small, half, half], [half, small, small])] == [1, 2, 3]
    fits = encode_portion(app(bytes(BODY_BYTES_MAX - len(half.data) - 1 - 8)))
    assert len(half.data) + 1 + len(fits.data) == BODY_BYTES_MAX
    assert take_for_one_batch([half, fits]) == 2
    assert take_for_one_batch([half, encode_portion(app(bytes(BODY_BYTES_MAX - len(half.data) - 8)))]) == 1


def test_records_of_several_kinds_fill_one_portion_after_the_other() -> None:
    records = [NewRecord(kind, None, bytes(BODY_BYTES_MAX // 2)) for kind in "abc"]
    assert [portion.count for portion in encode_portions(records)] == [1, 1, 1]
    small = [NewRecord(kind, None, bytes(BODY_BYTES_MAX // 3)) for kind in "abc"]
    assert [portion.count for portion in encode_portions(small)] == [2, 1]
