"""The wire's alphabet: one encoding per value, one error for everything else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import binary
from p2p.errors import LocalProtocolError, RemoteProtocolError
from p2p.testing import strategies as wire


@given(wire.integers(64))
def test_varint_round_trip(value: int) -> None:
    encoded = binary.encode_varint(value)
    assert binary.decode_varint(encoded + b"tail") == (value, len(encoded))
    assert binary.decode_varint(memoryview(encoded)) == (value, len(encoded))
    assert 1 <= len(encoded) <= binary.VARINT_BYTES_MAX


@given(st.binary(max_size=12))
def test_an_accepted_varint_is_the_one_that_we_write(data: bytes) -> None:
    try:
        value, used = binary.decode_varint(data)
    except RemoteProtocolError:
        return
    assert binary.encode_varint(value) == data[:used]


@pytest.mark.parametrize(
    "hexed",
    [
        "",
        "80",
        "ff" * 9,
        "8000",
        "ff00",
        "808000",
        "80" * 9 + "00",
        "ff" * 9 + "02",
        "ff" * 9 + "7f",
        "ff" * 9 + "81",
        "ff" * 10,
        "ff" * 10 + "01",
        "80" * 1000,
    ],
)
def test_t28_varints_that_are_none(hexed: str) -> None:
    with pytest.raises(RemoteProtocolError):
        binary.decode_varint(bytes.fromhex(hexed))


@pytest.mark.parametrize("value", [-1, 2**64, 2**200])
def test_a_varint_that_does_not_fit_is_the_callers_mistake(value: int) -> None:
    with pytest.raises(LocalProtocolError):
        binary.encode_varint(value)


@pytest.mark.parametrize(
    ("encode", "bits"),
    [(binary.encode_u8, 8), (binary.encode_u16, 16), (binary.encode_u32, 32), (binary.encode_u64, 64)],
)
def test_fixed_integers(encode, bits: int) -> None:
    top = 2**bits - 1
    assert encode(top) == b"\xff" * (bits // 8)
    assert encode(1) == b"\x01" + bytes(bits // 8 - 1)
    for value in (-1, top + 1):
        with pytest.raises(LocalProtocolError):
            encode(value)


@given(wire.integers(8), wire.integers(16), wire.integers(32), wire.integers(64), wire.bodies(), wire.texts())
def test_reader_takes_what_encoders_write(a: int, b: int, c: int, d: int, body: bytes, text: str) -> None:
    data = b"".join(
        (
            binary.encode_u8(a),
            binary.encode_u16(b),
            binary.encode_u32(c),
            binary.encode_u64(d),
            binary.encode_bytes(body),
            binary.encode_str(text),
        )
    )
    for buffer in (data, bytearray(data), memoryview(data)):
        reader = binary.Reader(buffer)
        taken = (reader.u8(), reader.u16(), reader.u32(), reader.u64(), reader.bytes_(), reader.str_())
        assert taken == (a, b, c, d, body, text)
        assert reader.remaining == 0
        reader.end()


@pytest.mark.parametrize("method", ["u8", "u16", "u32", "u64", "varint", "bytes_", "str_"])
def test_reader_refuses_an_empty_buffer(method: str) -> None:
    with pytest.raises(RemoteProtocolError):
        getattr(binary.Reader(b""), method)()


def test_reader_refuses_a_length_beyond_its_buffer() -> None:
    for claimed in (2, 2**31, 2**63, 2**64 - 1):
        with pytest.raises(RemoteProtocolError):
            binary.Reader(binary.encode_varint(claimed) + b"x").bytes_()


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_what_is_known_is_stepped_over_where_it_stands_and_nowhere_else(form) -> None:
    reader = binary.Reader(form(b"\x03abcd"))
    assert not reader.skip(b"abc")
    assert not reader.skip(b"\x03abcde")
    assert reader.skip(b"\x03ab")
    assert reader.remaining == 2
    assert reader.skip(b"cd")
    assert not reader.skip(b"x")
    reader.end()


@given(st.one_of(st.binary(max_size=12), wire.integers(64).map(binary.encode_varint)), st.binary(max_size=3))
def test_a_varint_left_as_it_is_is_taken_or_refused_as_one_that_is_read(data: bytes, before: bytes) -> None:
    """Both from bytes and from a view, at whatever position."""

    def outcome(take: Callable[[], object]) -> object:
        try:
            return take()
        except RemoteProtocolError as error:
            return str(error)

    for whole in (before + data, memoryview(before + data)):
        reader = binary.Reader(whole)
        reader.raw(len(before))
        expected = outcome(lambda: data[: binary.read_varint(data, 0)[1]])
        assert outcome(reader.varint_as_it_is) == expected
        if isinstance(expected, bytes):
            assert reader.remaining == len(data) - len(expected)


def test_reader_refuses_trailing_bytes() -> None:
    reader = binary.Reader(b"\x01\x02")
    reader.u8()
    with pytest.raises(RemoteProtocolError, match="1 trailing"):
        reader.end()


def test_what_a_reader_gives_does_not_keep_the_buffer() -> None:
    buffer = bytearray(b"\x03abc")
    taken = binary.Reader(memoryview(buffer)).bytes_()
    buffer[1:] = b"xyz"
    assert taken == b"abc"
    assert type(taken) is bytes


@pytest.mark.parametrize("hexed", ["ff", "c0af", "eda080", "f4908080", "e282", "80"])
def test_text_that_is_no_utf8(hexed: str) -> None:
    with pytest.raises(RemoteProtocolError):
        binary.read_text(bytes.fromhex(hexed))


def test_a_lone_surrogate_cannot_be_written() -> None:
    with pytest.raises(LocalProtocolError):
        binary.encode_str("\ud800")
