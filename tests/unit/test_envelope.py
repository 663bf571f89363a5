"""Envelopes and Bundles: exact bytes, exact refusals."""

from __future__ import annotations

import builtins

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from p2p import envelope
from p2p.envelope import Envelope, EnvelopeFlag, MessageType, ProtocolVersion
from p2p.errors import LocalProtocolError, Reason, RemoteProtocolError
from p2p.framing import LengthPrefixVarint, encode_varint
from p2p.testing import strategies as wire

PING = bytes.fromhex("56503250010000000200010000000000000000000000082a00000000000000")


@given(wire.envelopes())
def test_round_trip(value: Envelope) -> None:
    encoded = value.encode()
    assert Envelope.decode(encoded) == value
    assert Envelope.decode(memoryview(encoded)) == value
    assert Envelope.decode(encoded).encode() == encoded


@given(wire.envelopes())
def test_the_fast_way_writes_the_same_bytes(value: Envelope) -> None:
    ours = Envelope(ProtocolVersion(), value.type, value.msg_id, value.flags, value.payload, value.nonce, value.tag)
    parts = (value.type, value.msg_id, value.flags, value.payload, value.nonce, value.tag)
    assert envelope.encode_envelope(*parts) == ours.encode()
    assert envelope.encode_framed(*parts) == LengthPrefixVarint().encode(ours.encode())
    assert envelope.encode_framed(*parts[:3], memoryview(value.payload), *parts[4:]) == envelope.encode_framed(*parts)


@pytest.mark.parametrize("size", [0, 103, 104, 105, 127, 128, 129, 16_358, 16_359, 16_360, 16_383, 16_384, 70_000])
def test_framed_at_each_step_of_its_two_lengths(size: int) -> None:
    framed = envelope.encode_framed(259, 7, 4, bytes(size))
    assert framed == LengthPrefixVarint().encode(envelope.encode_envelope(259, 7, 4, bytes(size)))


@given(wire.envelopes(), st.data())
def test_wounded_envelopes(value: Envelope, data: st.DataObject) -> None:
    wounded = data.draw(wire.mutations(value.encode()))
    try:
        found = Envelope.decode(wounded)
    except RemoteProtocolError:
        return
    assert found.encode() == wounded


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 16_331, 16_332, 16_333, 16_383, 16_384, 70_000])
def test_a_sealed_frame_is_as_the_plain_ways_write_and_read_it(size: int) -> None:
    nonce, sealed = bytes(range(12)), bytes(size) + bytes(range(16))
    frame = envelope.encode_sealed(259, 7, 5, nonce, sealed)
    assert frame == envelope.encode_framed(259, 7, 5, sealed[:-16], nonce, sealed[-16:])
    inner = LengthPrefixVarint().decode(frame).frames[0]
    in_two = [
        (memoryview(inner)[:at], memoryview(inner)[at:]) for at in (60, size - 5, size + 50) if 60 <= at < len(inner)
    ]
    for data in (inner, memoryview(inner), *in_two):
        assert envelope.parse_sealed(data) == (259, 7, 5, envelope.aad(259, 7, 5), nonce, sealed)


@pytest.mark.parametrize("cipher", [AESGCM, ChaCha20Poly1305])
@pytest.mark.parametrize("size", [16_384, 16_385, 65_535, 65_536, 1_048_000, 2_097_098])
def test_a_large_envelope_sealed_where_it_lies_is_the_same_frame(
    cipher: builtins.type[AESGCM | ChaCha20Poly1305], size: int
) -> None:
    aead, nonce, payload = cipher(bytes(32)), bytes(range(12)), (b"payload" * (size // 7 + 1))[:size]
    sealed = envelope.encode_sealed(259, 7, 5, nonce, aead.encrypt(nonce, payload, envelope.aad(259, 7, 5)))
    assert envelope.seal_framed(259, 7, 5, nonce, payload, aead.encrypt_into) == sealed
    assert envelope.seal_framed(259, 7, 5, nonce, memoryview(payload), aead.encrypt_into) == sealed


def test_t28_a_sealed_envelope_in_pieces_fills_them() -> None:
    inner = LengthPrefixVarint().decode(envelope.encode_sealed(259, 7, 5, bytes(12), bytes(70_000))).frames[0]
    for first, rest in ((inner[:40_000], inner[40_000:] + b"x"), (inner[:40_000], inner[40_000:-1]), (inner, b"x")):
        with pytest.raises(RemoteProtocolError):
            envelope.parse_sealed((memoryview(first), memoryview(rest)))


def test_t28_a_sealed_envelope_with_an_over_long_length_is_refused() -> None:
    sealed = envelope.encode_envelope(259, 7, 5, bytes(8), bytes(12), bytes(16))
    assert sealed[50:51] == b"\x08"
    for length in (b"\x88\x00", b"\x88\x80\x00", b"\x88\x80\x80\x00", b"\x88\x80", b"\x88"):
        with pytest.raises(RemoteProtocolError):
            envelope.parse_sealed(sealed[:50] + length + sealed[51:])


@given(wire.envelopes(), st.data())
def test_a_sealed_envelope_is_read_where_the_plain_way_reads_one(value: Envelope, data: st.DataObject) -> None:
    wounded = data.draw(st.just(value.encode()) | wire.mutations(value.encode()))
    try:
        plain = envelope.parse_envelope(wounded)
    except RemoteProtocolError:
        plain = None
    try:
        found = envelope.parse_sealed(wounded)
    except RemoteProtocolError:
        assert plain is None or not plain.flags & EnvelopeFlag.ENCRYPTED
        return
    assert plain is not None
    covered = envelope.aad(plain.type, plain.msg_id, plain.flags, minor=plain.minor)
    assert found == (plain.type, plain.msg_id, plain.flags, covered, plain.nonce, bytes(plain.payload) + plain.tag)


@given(st.binary(max_size=80))
def test_any_bytes(noise: bytes) -> None:
    for data in (noise, b"VP2P\x01\x00" + noise):
        try:
            found = envelope.parse_envelope(data)
        except RemoteProtocolError:
            continue
        assert len(found.payload) <= len(data)


def test_every_cut_is_refused() -> None:
    sealed = envelope.encode_envelope(2, 1, 1, b"12345678", bytes(12), bytes(16))
    for whole in (PING, sealed):
        for size in range(len(whole)):
            with pytest.raises(RemoteProtocolError):
                envelope.parse_envelope(whole[:size])
        with pytest.raises(RemoteProtocolError):
            envelope.parse_envelope(whole + b"\x00")


@pytest.mark.parametrize(("major", "minor"), [(0, 9), (2, 0), (0xFFFF, 0)])
def test_another_major_is_refused_as_such(major: int, minor: int) -> None:
    other = Envelope(ProtocolVersion(major, minor), 2, 1, 0, bytes(8)).encode()
    with pytest.raises(RemoteProtocolError) as caught:
        envelope.parse_envelope(other)
    assert caught.value.reason is Reason.VERSION


def test_any_minor_is_read_and_kept() -> None:
    for minor in (0, 5, 0xFFFF):
        assert envelope.parse_envelope(Envelope(ProtocolVersion(1, minor), 2, 1).encode()).minor == minor


def test_compressed_is_carried_by_the_codec() -> None:
    """Refusing it is the session's part."""
    assert envelope.parse_envelope(envelope.encode_envelope(2, 1, 2, b"x")).flags == EnvelopeFlag.COMPRESSED


def test_payload_is_a_slice_of_what_was_given() -> None:
    view = memoryview(PING)
    payload = envelope.parse_envelope(view).payload
    assert isinstance(payload, memoryview)
    assert payload.obj is PING


@pytest.mark.parametrize(
    ("flags", "nonce", "tag"),
    [
        (0, bytes(12), bytes(16)),
        (1, b"", b""),
        (1, bytes(11), bytes(16)),
        (1, bytes(12), bytes(15)),
        (4, b"", bytes(16)),
    ],
)
def test_nonce_and_tag_go_with_the_flag(flags: int, nonce: bytes, tag: bytes) -> None:
    for encode in (envelope.encode_envelope, envelope.encode_framed):
        with pytest.raises(LocalProtocolError):
            encode(2, 1, flags, bytes(8), nonce, tag)


@pytest.mark.parametrize("size", [0, 8, 150, 20_000])
def test_what_is_sealed_goes_with_the_flag_and_a_nonce_of_12_bytes(size: int) -> None:
    sealed = bytes(size + 16)
    for flags, nonce in ((4, bytes(12)), (0, bytes(12)), (5, b""), (5, bytes(11)), (5, bytes(13))):
        with pytest.raises(LocalProtocolError):
            envelope.encode_sealed(259, 7, flags, nonce, sealed)
    for short in (b"", bytes(15)):
        with pytest.raises(LocalProtocolError):
            envelope.encode_sealed(259, 7, 5, bytes(12), short)


@pytest.mark.parametrize("size", [8, 150, 20_000])
@pytest.mark.parametrize(
    ("type", "msg_id", "flags"), [(-1, 1, 0), (65_536, 1, 0), (2, 2**64, 0), (2, -1, 0), (2, 1, 2**32)]
)
def test_numbers_that_do_not_fit_are_the_callers_mistake(type: int, msg_id: int, flags: int, size: int) -> None:
    for encode in (envelope.encode_envelope, envelope.encode_framed):
        with pytest.raises(LocalProtocolError):
            encode(type, msg_id, flags, bytes(size))
    flags |= EnvelopeFlag.ENCRYPTED
    with pytest.raises(LocalProtocolError):
        envelope.encode_sealed(type, msg_id, flags, bytes(12), bytes(size + 16))
    with pytest.raises(LocalProtocolError):
        envelope.seal_framed(type, msg_id, flags, bytes(12), bytes(16_384 + size), AESGCM(bytes(32)).encrypt_into)
    with pytest.raises(LocalProtocolError):
        envelope.aad(type, msg_id, flags)


def test_aad_is_the_header_without_its_magic() -> None:
    covered = envelope.aad(2, 1, 0)
    assert len(covered) == envelope.AAD_BYTES
    assert covered == PING[4:22]
    assert envelope.aad(2, 1, 0, minor=3)[2:4] == b"\x03\x00"


def test_message_types_have_wire_numbers_and_names() -> None:
    assert {int(type): type.label for type in MessageType} == {
        1: "Hello", 2: "Ping", 3: "Pong", 4: "HelloAck", 5: "HelloFinish", 10: "WalPush", 11: "WalAck",
        12: "OutboxPull", 256: "Goodbye", 257: "WalHeads", 258: "Relay", 259: "Data", 260: "ForkProof", 262: "Bundle",
        0x8001: "Attached", 0x8002: "RequestCancel",
    }  # fmt: skip
    assert MessageType(1) is MessageType.HELLO


def bundle_of(*inner: bytes) -> bytes:
    return b"".join(encode_varint(len(one)) + one for one in inner)


def test_iter_bundle_reads_messages_of_any_length() -> None:
    for size in (*range(90, 140), 16_360, 16_383, 16_384, 20_000):
        inner = envelope.encode_envelope(0x8000, 2, 0, bytes(size))
        assert next(iter(envelope.iter_bundle(bundle_of(inner, PING)))) == (0x8000, 2, 0, bytes(size))


@given(st.lists(wire.inner_envelopes(), max_size=8))
def test_iter_bundle_gives_what_parse_envelope_would(inner: list[bytes]) -> None:
    parsed = [envelope.parse_envelope(one) for one in inner]
    expected = [(one.type, one.msg_id, one.flags, one.payload) for one in parsed]
    payload = bundle_of(*inner)
    assert list(envelope.iter_bundle(payload)) == expected
    assert list(envelope.iter_bundle(memoryview(payload))) == expected


@given(st.lists(wire.inner_envelopes(), max_size=5), st.data())
def test_wounded_bundles(inner: list[bytes], data: st.DataObject) -> None:
    """Accepted or refused exactly as frame by frame and envelope by envelope."""
    wounded = data.draw(wire.mutations(bundle_of(*inner)))
    try:
        found = list(envelope.iter_bundle(wounded))
    except RemoteProtocolError:
        with pytest.raises(RemoteProtocolError):
            slowly(wounded)
        return
    assert slowly(wounded) == found


def slowly(payload: bytes) -> list[tuple[int, int, int, bytes]]:
    frames, remaining = LengthPrefixVarint().decode(payload)
    if remaining:
        raise RemoteProtocolError("a frame is cut off")
    parsed = [envelope.parse_envelope(frame) for frame in frames]
    for one in parsed:
        if one.type in {1, 4, 5, 262} or one.flags & EnvelopeFlag.ENCRYPTED:
            raise RemoteProtocolError("not inside")
    return [(one.type, one.msg_id, one.flags, bytes(one.payload)) for one in parsed]


@pytest.mark.parametrize("type", [1, 4, 5, 262])
def test_t30_no_handshake_message_and_no_bundle_inside(type: int) -> None:
    with pytest.raises(RemoteProtocolError, match="may not stand"):
        list(envelope.iter_bundle(bundle_of(PING, envelope.encode_envelope(type, 2, 0, b""))))


def test_t30_nothing_sealed_inside() -> None:
    with pytest.raises(RemoteProtocolError, match="sealed"):
        list(envelope.iter_bundle(bundle_of(envelope.encode_envelope(2, 2, 1, bytes(8), bytes(12), bytes(16)))))


def test_t30_at_most_4096_inside() -> None:
    assert sum(1 for _ in envelope.iter_bundle(bundle_of(PING) * 4096)) == 4096
    with pytest.raises(RemoteProtocolError, match="4096"):
        list(envelope.iter_bundle(bundle_of(PING) * 4097))


def test_t27_inner_lengths_end_where_the_outer_ones_do() -> None:
    for wrong in (
        b"\x00",
        b"\x05VP2P\x01",
        bundle_of(PING)[:-1],
        bundle_of(PING[:-1]) + b"\x00",
        bundle_of(PING + b"\x00"),
        bundle_of(PING[:22] + b"\x09" + PING[23:]) + bundle_of(PING),
        encode_varint(2**64 - 1) + PING,
        bundle_of(PING[:22] + encode_varint(2**64 - 1) + PING[23:]),
        bundle_of(PING[:22]),
        b"\x9f\x00" + PING,
        bundle_of(PING[:22] + b"\x88\x00" + PING[23:]),
    ):
        with pytest.raises(RemoteProtocolError):
            list(envelope.iter_bundle(wrong))


def test_another_major_inside_is_refused_as_such() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        list(envelope.iter_bundle(bundle_of(PING[:4] + b"\x02" + PING[5:])))
    assert caught.value.reason is Reason.VERSION


@given(
    st.integers(0, 2**64 - 64),
    st.lists(st.tuples(st.sampled_from([0, 1, 104, 105, 128, 16_359, 16_360]), st.integers(1, 4)), max_size=6),
)
def test_a_row_is_its_messages_framed_one_by_one(first_id: int, sizes: list[tuple[int, int]]) -> None:
    payloads = [bytes((number,)) * size for size, times in sizes for number in range(times)]
    framed = [envelope.encode_framed(259, first_id + place, 0, payload) for place, payload in enumerate(payloads)]
    assert envelope.encode_row(259, first_id, payloads) == b"".join(framed)


def test_ids_of_a_row_fit_their_field() -> None:
    assert envelope.encode_row(259, 2**64 - 3, [b"x"] * 3)
    with pytest.raises(LocalProtocolError, match="msg_id"):
        envelope.encode_row(259, 2**64 - 3, [b"x"] * 4)
