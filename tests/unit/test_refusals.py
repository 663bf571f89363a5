"""What we refuse although the C++ implementation accepts it (wire section 10), one named test each.

`REFUSALS` is the list for machines: the documentation names every entry's test, and a test below holds it to that.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

from p2p import envelope, framing, msg
from p2p.envelope import Envelope, ProtocolVersion
from p2p.errors import Reason, RemoteProtocolError
from p2p.session.session import Ended, Received
from tests.unit.session import helpers

ROOT = Path(__file__).parents[2]


class Refusal(NamedTuple):
    """One difference.

    Attributes:
        what: the bytes that C++ takes and we do not.
        test: path and name of the test that shows it.
    """

    what: str
    test: str


HERE = "tests/unit/test_refusals.py::"

REFUSALS = (
    Refusal("an over-long varint", HERE + "test_refuses_an_over_long_varint"),
    Refusal("a varint of 2^64 and more, whose high bits C++ drops", HERE + "test_refuses_a_varint_of_2_64_and_more"),
    Refusal("an over-long frame length", HERE + "test_refuses_an_over_long_frame_length"),
    Refusal("a frame over the bound, which C++ waits for", HERE + "test_refuses_a_frame_over_the_bound"),
    Refusal("a frame length that never ends", HERE + "test_refuses_a_frame_length_that_never_ends"),
    Refusal("text that is not UTF-8", HERE + "test_refuses_text_that_is_not_utf8"),
    Refusal("a capability key that stands twice", HERE + "test_refuses_duplicate_capability_keys"),
    Refusal("unknown flag bits", HERE + "test_refuses_unknown_flag_bits"),
    Refusal("a counter that comes twice", HERE + "test_refuses_a_counter_twice"),
    Refusal("plaintext on a session", HERE + "test_refuses_plaintext_on_a_session"),
    Refusal("an announcement whose numbers have fractions or exponents", HERE + "test_refuses_fractions_in_json"),
    Refusal("an announcement that is no JSON", HERE + "test_refuses_text_that_is_not_json"),
    Refusal("an announcement with a member that stands twice", HERE + "test_refuses_a_json_member_twice"),
    Refusal("a member found inside another by text search", HERE + "test_refuses_a_member_found_by_text_search"),
)


def test_refuses_an_over_long_varint() -> None:
    for hexed in ("8000", "ff00", "808000"):
        with pytest.raises(RemoteProtocolError, match="longer than it needs"):
            framing.decode_varint(bytes.fromhex(hexed))


def test_refuses_a_varint_of_2_64_and_more() -> None:
    with pytest.raises(RemoteProtocolError):
        framing.decode_varint(bytes.fromhex("ffffffffffffffffff7f"))


def test_refuses_an_over_long_frame_length() -> None:
    with pytest.raises(RemoteProtocolError, match="longer than it needs"):
        framing.LengthPrefixVarint().decode(bytes.fromhex("810041"))


def test_refuses_a_frame_over_the_bound() -> None:
    for hexed in ("ffffffff0f41", "ffffffffffffffffff01"):
        with pytest.raises(RemoteProtocolError) as caught:
            framing.LengthPrefixVarint().decode(bytes.fromhex(hexed))
        assert caught.value.reason is Reason.FRAME_TOO_LARGE


def test_refuses_a_frame_length_that_never_ends() -> None:
    with pytest.raises(RemoteProtocolError):
        framing.LengthPrefixVarint().decode(b"\xff" * 10)
    with pytest.raises(RemoteProtocolError):
        framing.LengthPrefixVarint(max_frame_bytes=2**64 - 1).decode(b"\x80" * 10)


def test_refuses_text_that_is_not_utf8() -> None:
    for text in (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80"):
        with pytest.raises(RemoteProtocolError, match="UTF-8"):
            msg.Hello.decode(b"\x00\x00" + bytes((len(text),)) + text + b"\x00\x00")
        with pytest.raises(RemoteProtocolError, match="UTF-8"):
            msg.Data.decode(bytes((len(text),)) + text + bytes(10))


def test_refuses_duplicate_capability_keys() -> None:
    with pytest.raises(RemoteProtocolError, match="stands twice"):
        msg.Hello.decode(bytes.fromhex("00000002016101310161013200"))


def test_refuses_unknown_flag_bits() -> None:
    for bit in range(3, 32):
        with pytest.raises(RemoteProtocolError, match="flag"):
            Envelope.decode(Envelope(ProtocolVersion(), 2, 1, 1 << bit, bytes(8)).encode())
    inner = envelope.encode_framed(2, 1, 8, bytes(8))
    with pytest.raises(RemoteProtocolError, match="flag"):
        list(envelope.iter_bundle(inner))


def test_refuses_a_counter_twice() -> None:
    sender, receiver = helpers.live()
    sender.send(msg.MessageType.DATA, helpers.EMPTY_DATA)
    sealed = sender.data_to_send()
    receiver.receive_data(sealed, 0.0)
    assert [type(event) for event in helpers.drain(receiver)] == [Received]
    receiver.receive_data(sealed, 0.0)
    (ended,) = helpers.drain(receiver)
    assert isinstance(ended, Ended)
    assert (ended.reason, ended.clean, receiver.data_to_send()) == (Reason.CRYPTO, False, b"")


def test_refuses_plaintext_on_a_session() -> None:
    for plain in (
        envelope.encode_framed(msg.MessageType.DATA, 1000, 0, helpers.EMPTY_DATA),
        envelope.encode_framed(msg.MessageType.PING, 1000, 0, bytes(8)),
        envelope.encode_framed(msg.MessageType.GOODBYE, 1000, 0, msg.Goodbye(1).encode()),
    ):
        for session in helpers.live():
            session.receive_data(plain, 0.0)
            (ended,) = helpers.drain(session)
            assert isinstance(ended, Ended)
            assert (ended.reason, ended.clean, session.data_to_send()) == (Reason.CRYPTO, False, b"")


def test_refuses_fractions_in_json() -> None:
    for number in ("9.0", "9.9", "9e0"):
        with pytest.raises(RemoteProtocolError, match="whole number"):
            msg.DiscoveryAnnounce.from_json('{"node_id":"q","tcp_port":' + number + ',"ts_ms":3,"nonce":1}')


def test_refuses_text_that_is_not_json() -> None:
    with pytest.raises(RemoteProtocolError, match="JSON"):
        msg.DiscoveryAnnounce.from_json('{"node_id":"q" xx "tcp_port": 5 "ts_ms":3 "nonce":1}')


def test_refuses_a_json_member_twice() -> None:
    for text in (
        '{"node_id":"q","node_id":"r","tcp_port":1,"ts_ms":3,"nonce":1}',
        '{"node_id":"q","tcp_port":1,"ts_ms":3,"nonce":1,"cap":{"a":"1","a":"2"}}',
    ):
        with pytest.raises(RemoteProtocolError, match="stands twice"):
            msg.DiscoveryAnnounce.from_json(text)


def test_refuses_a_member_found_by_text_search() -> None:
    """C++ finds the node id inside `cap`. Where there is no other we find none; where there is, we take that one."""
    with pytest.raises(RemoteProtocolError, match="node_id"):
        msg.DiscoveryAnnounce.from_json('{"cap":{"node_id":"evil"},"tcp_port":1,"ts_ms":3,"nonce":1}')
    found = msg.DiscoveryAnnounce.from_json('{"cap":{"node_id":"evil"},"node_id":"q","tcp_port":1,"ts_ms":3,"nonce":1}')
    assert found.node_id == "q"


def test_every_refusal_has_its_test_and_its_line_in_the_specification() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text()
    for refusal in REFUSALS:
        path, _, name = refusal.test.partition("::")
        functions = [
            node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.FunctionDef)
        ]
        assert name in functions, f"{refusal.what}: no test {refusal.test}"
        assert name in page, f"{refusal.what}: docs/protocol.md does not name {name}"
