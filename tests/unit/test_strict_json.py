"""JSON from outside: what is let in is what the standard library reads, and anything else is one error."""

from __future__ import annotations

import json
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import RemoteProtocolError
from p2p.strict_json import DEPTH_MAX, decode_json, parse_json, refuse_twins

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


class Peer(msgspec.Struct):
    host: str
    tcp_port: int


@given(plain)
def test_what_json_writes_is_read(value: object) -> None:
    assert parse_json(json.dumps(value), "it") == value


@given(st.text() | st.text('[]{},:"\\ntruefals0123456789.eE-'))
def test_any_text_is_json_or_one_error(text: str) -> None:
    try:
        value = parse_json(text, "it")
    except RemoteProtocolError:
        return
    assert json.loads(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "", "nul", "NaN", "-Infinity", "1e999", "[1,]", "1 2", '"\\ud800"', '"\n"', "9" * 5000,
        '{"a":1,"a":1}', '[{"b":{"a":1,"a":2}}]', "[" * 17 + "]" * 17, "[" * 100_000, '{"a":' * 100_000,
        "]" * 100 + "[",
    ],
)  # fmt: skip
def test_t29_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_json(text, "it")


@given(plain)
def test_what_has_no_twins_is_let_through(value: object) -> None:
    refuse_twins(json.dumps(value).encode(), "it")


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}', b'[{"b":{"a":1,"a":2}}]', b'{"a":1,"\\u0061":1}', b'{"a":"\xff"}', b"[" * 100_000,
        b"\xed\xa0\x80", b"no",
    ],
)  # fmt: skip
def test_t29_twins_and_what_is_no_json_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^it"):
        refuse_twins(data, "it")


def test_depth_is_counted_outside_of_texts() -> None:
    assert parse_json("[" * DEPTH_MAX + "]" * DEPTH_MAX, "it")
    assert parse_json('["[[[[[[[[[[[[[[[[[[[[\\"["]', "it")


def test_t29_a_text_without_an_end_costs_no_square() -> None:
    started = time.perf_counter()
    with pytest.raises(RemoteProtocolError):
        parse_json('"' + '\\"' * 128_000, "it")
    # Milliseconds; the square would take minutes.
    assert time.perf_counter() - started < 10


def test_a_type_is_kept_and_other_members_are_passed_over() -> None:
    assert decode_json(b'{"host":"a","tcp_port":1,"age":1.5}', Peer, "a peer") == Peer("a", 1)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"host":"a"}', "tcp_port"),
        (b'{"host":"a","tcp_port":"1"}', r"\$.tcp_port"),
        (b'{"host":"a","tcp_port":1.5}', "int"),
        (b'{"host":"a","tcp_port":true}', "int"),
        (b"[]", "a peer: "),
        (b'{"host":"\xff"}', "UTF-8"),
    ],
)
def test_t29_another_form_is_refused_and_named(data: bytes, says: str) -> None:
    with pytest.raises(RemoteProtocolError, match=says):
        decode_json(data, Peer, "a peer")
