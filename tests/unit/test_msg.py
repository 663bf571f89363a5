"""Messages: one value, one encoding; and one error for whatever is none."""

from __future__ import annotations

import contextlib
import json
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import binary, envelope, msg
from p2p.binary import encode_bytes, encode_varint
from p2p.errors import LocalProtocolError, PayloadTooLarge, RemoteProtocolError
from p2p.ids import PeerId
from p2p.testing import strategies as wire
from p2p.testing.vectors import EXAMPLES

EVERY_TYPE = sorted(msg.MESSAGES)


@given(wire.messages())
def test_round_trip(message: msg.AnyMessage) -> None:
    payload = message.encode()
    for buffer in (payload, bytearray(payload), memoryview(payload)):
        assert msg.decode_payload(message.TYPE, buffer) == message
    assert type(message).decode(payload) == message


@given(wire.messages(), st.data())
def test_what_is_accepted_is_what_we_would_write(message: msg.AnyMessage, data: st.DataObject) -> None:
    wounded = data.draw(wire.mutations(message.encode()))
    try:
        found = msg.decode_payload(message.TYPE, wounded)
    except RemoteProtocolError:
        return
    assert found.encode() == wounded


@given(st.sampled_from(EVERY_TYPE), st.binary(max_size=120))
def test_any_bytes_are_a_message_or_one_error(type: int, noise: bytes) -> None:
    try:
        found = msg.decode_payload(type, noise)
    except RemoteProtocolError:
        return
    assert found.encode() == noise


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_byte_too_many_is_refused(message: msg.AnyMessage) -> None:
    if isinstance(message, msg.HelloAck) and message.public_key is None:
        return  # the byte would be its optional part
    with pytest.raises(RemoteProtocolError):
        msg.decode_payload(message.TYPE, message.encode() + b"\0")


def test_a_slice_is_the_same_bytes_by_its_short_way() -> None:
    for circuit in (0, 1, 2**63, 2**64 - 1):
        relay = msg.Relay(circuit, msg.Relay.DATA, payload=b"abc")
        assert msg.encode_relay_data_head(circuit) + encode_bytes(b"abc") == relay.encode()


@given(wire.messages())
def test_every_cut_is_refused_or_a_message_of_its_own(message: msg.AnyMessage) -> None:
    """Of the messages that end in an optional or repeated part a prefix may be whole; of no other."""
    payload = message.encode()
    for size in range(len(payload)):
        try:
            found = msg.decode_payload(message.TYPE, payload[:size])
        except RemoteProtocolError:
            continue
        assert isinstance(found, msg.HelloAck | msg.Bundle)
        assert found != message


@given(wire.messages(), st.binary(min_size=1, max_size=3))
def test_trailing_bytes_are_refused(message: msg.AnyMessage, tail: bytes) -> None:
    if isinstance(message, msg.HelloAck) and message.public_key is None:
        message = msg.HelloAck(message.nonce_a, message.nonce_b, b"")
    with pytest.raises(RemoteProtocolError):
        msg.decode_payload(message.TYPE, message.encode() + tail)


def test_every_type_has_its_struct_and_its_strategy() -> None:
    assert set(msg.MESSAGES) == set(msg.MessageType) == set(wire.BY_TYPE)
    for number, message in msg.MESSAGES.items():
        assert number == message.TYPE
        assert message.__name__ == message.TYPE.label


@pytest.mark.parametrize("type", [0, 6, 7, 8, 9, 13, 255, 261, 263, 999, 0x8000, 0xFFFF, -1, 2**40])
def test_unknown_types_are_refused(type: int) -> None:
    with pytest.raises(RemoteProtocolError, match="unknown"):
        msg.decode_payload(type, b"")


@pytest.mark.parametrize(
    "message",
    [
        msg.Ping(2**64),
        msg.Pong(-1),
        msg.Hello(2**64, 0, ""),
        msg.Hello(0, 0, "\ud800"),
        msg.Hello(0, 0, "", (("a", "1"), ("a", "2"))),
        msg.HelloAck(0, -1),
        msg.HelloFinish(-1, 0),
        msg.WalPush(0, 2**64),
        msg.WalAck(-1),
        msg.OutboxPull("", 2**32),
        msg.Goodbye(65_536),
        msg.WalHeads((msg.HeadEntry(bytes(31), 0, bytes(32)),)),  # type: ignore[arg-type]
        msg.WalHeads((msg.HeadEntry(bytes(32), 0, bytes(33)),)),  # type: ignore[arg-type]
        msg.Relay(0, 6),
        msg.Relay(0, -1),
        msg.Relay(0, 0, ttl=256),
        msg.Data("", 2**64),
        msg.Data("", 0, 256),
        msg.Data("\udfff"),
        msg.Bundle((b"",)),
        msg.Bundle((envelope.encode_envelope(1, 1, 0, b""),)),
    ],
    ids=repr,
)
def test_what_does_not_fit_is_the_callers_mistake(message: msg.AnyMessage) -> None:
    with pytest.raises(LocalProtocolError):
        message.encode()


def test_messages_are_frozen_and_compare_by_value() -> None:
    assert msg.Ping(1) == msg.Ping(1) != msg.Ping(2)
    assert msg.Ping(1) != msg.Pong(1)
    assert hash(msg.WalAck(3)) == hash(msg.WalAck(3))
    with pytest.raises(AttributeError):
        msg.Ping(1).nonce = 2  # type: ignore[misc]


def test_hello_ack_tells_absent_from_empty() -> None:
    absent, empty = msg.HelloAck(1, 2), msg.HelloAck(1, 2, b"")
    assert absent.encode() == b"\x01\x02"
    assert empty.encode() == b"\x01\x02\x00"
    assert msg.HelloAck.decode(b"\x01\x02").public_key is None
    assert msg.HelloAck.decode(b"\x01\x02\x00").public_key == b""


def test_capabilities_keep_their_order() -> None:
    for order in ((("b", "1"), ("a", "2")), (("a", "2"), ("b", "1"))):
        assert msg.Hello.decode(msg.Hello(0, 0, "", order).encode()).capabilities == order


def test_capabilities_may_be_given_as_a_mapping_or_a_list() -> None:
    pairs = (("proto", "1.0"), ("hs", "noise"))
    assert msg.Hello(0, 0, "", dict(pairs)).capabilities == pairs  # type: ignore[arg-type]
    assert msg.Hello(0, 0, "", [list(pair) for pair in pairs]).capabilities == pairs  # type: ignore[arg-type]
    assert msg.DiscoveryAnnounce("a", 1, 2, 3, dict(pairs)).capabilities == pairs  # type: ignore[arg-type]


def test_wal_heads_bytes() -> None:
    heads = msg.WalHeads((msg.HeadEntry(wire.PeerId(b"\x01" * 32), 300, b"\x02" * 32, want=False),))
    assert heads.encode() == b"\x01" + b"\x01" * 32 + b"\xac\x02" + b"\x02" * 32 + b"\x00"


def test_wal_heads_want_is_0_or_1() -> None:
    good = msg.WalHeads((msg.HeadEntry(wire.PeerId(bytes(32)), 0, bytes(32)),)).encode()
    for want in range(2, 256):
        with pytest.raises(RemoteProtocolError):
            msg.WalHeads.decode(good[:-1] + bytes((want,)))


def test_wal_heads_names_no_log_twice() -> None:
    entry = msg.HeadEntry(wire.PeerId(bytes(32)), 0, bytes(32))
    other = msg.HeadEntry(wire.PeerId(b"\x01" * 32), 0, bytes(32))
    with pytest.raises(LocalProtocolError, match="twice"):
        msg.WalHeads((entry, other, entry)).encode()
    one, two = msg.WalHeads((entry,)).encode()[1:], msg.WalHeads((other,)).encode()[1:]
    with pytest.raises(RemoteProtocolError, match="twice"):
        msg.WalHeads.decode(b"\x03" + one + two + one)
    assert msg.WalHeads.decode(b"\x02" + one + two).entries == (entry, other)


def test_relay_bytes_and_kinds() -> None:
    opened = msg.Relay(2, msg.Relay.OPEN, "s", "tt", 8, b"p")
    assert opened.encode().hex() == "0200000000000000" + "00" + "0173" + "027474" + "08" + "0170"
    kinds = (msg.Relay.OPEN, msg.Relay.DATA, msg.Relay.CLOSE, msg.Relay.REFUSED, msg.Relay.WINDOW, msg.Relay.MOVE)
    assert kinds == (0, 1, 2, 3, 4, 5)
    for kind in range(6):
        assert msg.Relay.decode(msg.Relay(1, kind).encode()).kind == kind
    for kind in range(6, 256):
        with pytest.raises(RemoteProtocolError):
            msg.Relay.decode(opened.encode()[:8] + bytes((kind,)) + opened.encode()[9:])


def test_a_relay_that_looks_like_a_slice_one_byte_on_is_none() -> None:
    for relay in (msg.Relay(7, msg.Relay.OPEN, "\0", "", 0, b"x"), msg.Relay(1 << 56, msg.Relay.OPEN, "", "", 0, b"")):
        assert msg.Relay.decode(relay.encode()) == relay


def test_data_bytes() -> None:
    data = msg.Data("chat", 5, 1, b"hi")
    assert data.encode().hex() == "0463686174" + "0500000000000000" + "01" + "026869"
    assert msg.encode_data(b"chat", 5, 1, memoryview(b"hi")) == data.encode()


@pytest.mark.parametrize("body", [0, 127, 128, 16_383, 16_384, 300_000, 2_097_151, 2_097_152])
@pytest.mark.parametrize("channel", [0, 127, 128, 5000])
def test_data_at_each_step_of_its_lengths(channel: int, body: int) -> None:
    data = msg.Data("c" * channel, 1, 0, bytes(body))
    expected = encode_varint(channel) + b"c" * channel + b"\x01" + bytes(8) + encode_bytes(bytes(body))
    assert data.encode() == expected
    assert msg.decode_data(expected) == data


def test_t28_over_long_lengths_in_a_data() -> None:
    whole = msg.Data("c" * 127, 0, 0, bytes(127)).encode()
    assert (whole[0], whole[137]) == (127, 127)
    long = b"\xff\x00", b"\xff\x80\x00"
    for wrong in (*(length + whole[1:] for length in long), *(whole[:137] + length + whole[138:] for length in long)):
        with pytest.raises(RemoteProtocolError, match="longer than it needs"):
            msg.decode_data(wrong)


@pytest.mark.parametrize("length", [b"\x80", b"\x80\x80", b"\xff\xff"])
def test_t28_a_data_that_ends_within_a_length_is_refused(length: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="cut off"):
        msg.decode_data(b"\x01c" + bytes(9) + length)


@pytest.mark.parametrize("claimed", [1, 100, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
def test_t28_lengths_that_cannot_be_true(claimed: int) -> None:
    length = encode_varint(claimed)
    for type, payload in (
        (259, length + bytes(9)),
        (259, b"\x00" + bytes(9) + length),
        (1, b"\x00\x00" + length),
        (1, b"\x00\x00\x00" + length),
        (1, b"\x00\x00\x00\x00" + length),
        (4, b"\x00\x00" + length),
        (5, b"\x00\x00" + length),
        (10, bytes(16) + length),
        (12, length),
        (256, bytes(2) + length),
        (257, length),
        (258, bytes(9) + length),
        (258, bytes(12) + length),
        (260, length),
        (260, b"\x00" + length),
        (262, length),
    ):
        with pytest.raises(RemoteProtocolError):
            msg.decode_payload(type, payload)


def test_t28_counts_are_compared_with_what_is_there_before_anything_is_read() -> None:
    for type, payload in ((1, b"\x00\x00\x00\x02\x00\x00\x00"), (257, b"\x02" + bytes(131))):
        with pytest.raises(RemoteProtocolError, match=r"2 .* are announced"):
            msg.decode_payload(type, payload)


def test_outbox_pull_defaults() -> None:
    assert msg.OutboxPull() == msg.OutboxPull("", 128)


def test_what_is_not_said_of_a_message_is_nothing() -> None:
    assert msg.Data("c") == msg.Data("c", 0, msg.Data.OK, b"")
    assert msg.Relay(2, msg.Relay.CLOSE) == msg.Relay(2, 2, "", "", 0, b"")
    assert msg.Hello(1, 2, "a") == msg.Hello(1, 2, "a", (), b"")
    assert msg.Goodbye(0) == msg.Goodbye(0, "")
    assert msg.HeadEntry(PeerId(bytes(32)), 0, bytes(32)).want is True
    assert envelope.Envelope(envelope.PROTOCOL_VERSION, 2, 1).flags == 0


def test_that_no_more_data_comes_is_said_of_the_link_itself() -> None:
    assert msg.NO_MORE_DATA.encode().hex() == "0000000000000000" + "05" + "00" * 4


@pytest.mark.parametrize("type", EVERY_TYPE)
def test_t31_bounded_memory_a_count_or_length_costs_nothing(type: int) -> None:
    """Whatever is announced, what is allocated follows the bytes that are there."""
    claims = [encode_varint(value) for value in (2**20, 2**32, 2**63, 2**64 - 1)]
    payloads = [bytes(lead) + claim + bytes(100) for lead in (0, 1, 2, 3, 4, 9, 10, 11, 12, 16) for claim in claims]
    tracemalloc.start()
    try:
        for payload in payloads:
            with contextlib.suppress(RemoteProtocolError):
                msg.decode_payload(type, payload)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024


def steps_of(type: int, payload: bytes) -> int:
    """Lines of the codec that run while a payload is decoded."""
    files = {module.__file__ for module in (binary, envelope, msg)}
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        if frame.f_code.co_filename not in files:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        msg.decode_payload(type, payload)
    finally:
        sys.settrace(before)
    return count


PING = envelope.encode_envelope(2, 1, 0, bytes(8))


@pytest.mark.parametrize(
    "build",
    [
        lambda n: msg.Hello(0, 0, "x", tuple((f"{i}", "v") for i in range(n))),
        lambda n: msg.Hello(0, 0, "x" * n),
        lambda n: msg.WalHeads(tuple(msg.HeadEntry(wire.PeerId(i.to_bytes(32)), i, bytes(32)) for i in range(n))),
        lambda n: msg.Bundle((PING,) * n),
        lambda n: msg.Data("c" * n, 0, 0, bytes(n)),
        lambda n: msg.WalPush(1, 2, bytes(n)),
        lambda n: msg.ForkProof(bytes(n), bytes(n)),
        lambda n: msg.Relay(0, 1, payload=bytes(n)),
    ],
    ids=["capabilities", "label", "heads", "bundle", "data", "push", "proof", "relay"],
)
def test_work_is_linear(build) -> None:
    few, many = build(200), build(1600)
    assert steps_of(many.TYPE, many.encode()) <= 8.5 * steps_of(few.TYPE, few.encode())


ANNOUNCE = msg.DiscoveryAnnounce("node-a", 9001, 1_710_000_000_000, 7)


@given(wire.announcements())
def test_announcement_round_trip(announcement: msg.DiscoveryAnnounce) -> None:
    text = announcement.to_json()
    assert msg.DiscoveryAnnounce.from_json(text) == announcement
    assert msg.DiscoveryAnnounce.from_json(text.encode()) == announcement
    assert len(text.encode()) <= 512
    assert json.loads(text)["node_id"] == announcement.node_id


@given(wire.announcements(), st.data())
def test_wounded_announcements(announcement: msg.DiscoveryAnnounce, data: st.DataObject) -> None:
    wounded = data.draw(wire.mutations(announcement.to_json().encode()))
    try:
        found = msg.DiscoveryAnnounce.from_json(wounded)
    except RemoteProtocolError:
        return
    # The standard library reads the same: nothing is found that a JSON parser would not find.
    members = json.loads(wounded)
    assert (found.node_id, found.tcp_port, found.ts_ms, found.nonce) == (
        members["node_id"],
        members["tcp_port"],
        members["ts_ms"],
        members["nonce"],
    )
    assert dict(found.capabilities) == members.get("cap", {})


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_any_text_is_an_announcement_or_one_error(noise: bytes | str) -> None:
    for around in (("{", "}"), ("", ""), ('{"node_id":"', '"}')):
        before, after = around
        text = before + noise + after if isinstance(noise, str) else before.encode() + noise + after.encode()
        with pytest.raises(RemoteProtocolError):
            msg.DiscoveryAnnounce.from_json(text)


def with_member(name: str, value: str) -> str:
    """An announcement of which one member is written as given."""
    members = {"node_id": '"a"', "tcp_port": "1", "ts_ms": "2", "nonce": "3"} | {name: value}
    return "{" + ",".join(f'"{key}":{text}' for key, text in members.items()) + "}"


def test_announcement_cap_stands_only_where_there_are_capabilities() -> None:
    assert ANNOUNCE.to_json() == '{"node_id":"node-a","tcp_port":9001,"ts_ms":1710000000000,"nonce":7}'
    with_cap = msg.DiscoveryAnnounce("a", 1, 2, 3, (("proto", "1.0"), ("transport", "tcp")))
    assert with_cap.to_json() == (
        '{"node_id":"a","tcp_port":1,"ts_ms":2,"nonce":3,"cap":{"proto":"1.0","transport":"tcp"}}'
    )
    assert msg.DiscoveryAnnounce.from_json(with_member("cap", "{}")).capabilities == ()


def test_announcement_unknown_entries_of_cap_are_kept_and_unknown_members_passed_over() -> None:
    text = '{"node_id":"a","tcp_port":1,"ts_ms":2,"nonce":3,"cap":{"z":"9","sig":"x"},"later":[1,{"a":null}]}'
    assert msg.DiscoveryAnnounce.from_json(text).capabilities == (("z", "9"), ("sig", "x"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("tcp_port", "ts_ms", "nonce") for value in
          ("-1", "1.0", "1e3", "true", "null", '"1"', "[1]", "{}", "NaN", "Infinity", "-Infinity", "01", "0x1", "")],
        ("tcp_port", "65536"),
        ("ts_ms", str(2**64)),
        ("nonce", "9" * 400),
        *[("node_id", value) for value in ("1", "null", "[]", '"a', '"\\ud800"', '"\\x41"', '"\n"')],
        *[("cap", value) for value in ("null", "[]", '"x"', '{"a":1}', '{"a":null}', '{"a":{}}', '{"\\udc00":"x"}')],
        *[("later", value) for value in ("1.5", "NaN", '"\\ud800"', '{"a":1,"a":2}')],
        ("later", "[" * 16 + "]" * 16),
        ("later", "[" * 550 + "]" * 550),
        ("later", '{"a":' * 150 + "1" + "}" * 150),
    ],
)  # fmt: skip
def test_t29_announcements_with_a_wrong_member(name: str, value: str) -> None:
    with pytest.raises(RemoteProtocolError):
        msg.DiscoveryAnnounce.from_json(with_member(name, value))


@pytest.mark.parametrize("space", [" ", "\n", "\t", "\r"])
def test_t29_an_announcement_with_space_around_it_is_refused_on_either_side(space: str) -> None:
    text = ANNOUNCE.to_json()
    for wrong in (space + text, text + space):
        for form in (wrong, wrong.encode()):
            with pytest.raises(RemoteProtocolError, match="nothing else"):
                msg.DiscoveryAnnounce.from_json(form)


def test_announcement_depth_of_16_is_read_and_brackets_in_a_text_do_not_count() -> None:
    assert msg.DiscoveryAnnounce.from_json(with_member("later", "[" * 15 + "]" * 15)).node_id == "a"
    assert (
        msg.DiscoveryAnnounce.from_json(with_member("node_id", '"' + "[{" * 100 + '\\""')).node_id == "[{" * 100 + '"'
    )


@pytest.mark.parametrize("missing", ["node_id", "tcp_port", "ts_ms", "nonce"])
def test_announcement_without_a_member(missing: str) -> None:
    members = {"node_id": "a", "tcp_port": 1, "ts_ms": 2, "nonce": 3}
    del members[missing]
    with pytest.raises(RemoteProtocolError, match=missing):
        msg.DiscoveryAnnounce.from_json(json.dumps(members))


def test_announcement_sizes() -> None:
    room = 512 - len(msg.DiscoveryAnnounce("", 9001, 1, 1).to_json())
    fits = msg.DiscoveryAnnounce("n" * room, 9001, 1, 1)
    assert len(fits.to_json()) == 512
    with pytest.raises(PayloadTooLarge, match="513"):
        msg.DiscoveryAnnounce("n" * (room + 1), 9001, 1, 1).to_json()
    with pytest.raises(PayloadTooLarge):
        msg.DiscoveryAnnounce("ø" * (room // 2 + 1), 9001, 1, 1).to_json()
    padding = 1200 - len(with_member("node_id", '""'))
    assert msg.DiscoveryAnnounce.from_json(with_member("node_id", '"' + "n" * padding + '"')).tcp_port == 1
    for unit, count in (("n", padding + 1), ("ø", padding // 2 + 1)):
        with pytest.raises(RemoteProtocolError, match="1200"):
            msg.DiscoveryAnnounce.from_json(with_member("node_id", '"' + unit * count + '"'))


@pytest.mark.parametrize(
    "announcement",
    [
        msg.DiscoveryAnnounce("a", 65_536, 0, 0),
        msg.DiscoveryAnnounce("a", -1, 0, 0),
        msg.DiscoveryAnnounce("a", 1, 2**64, 0),
        msg.DiscoveryAnnounce("a", 1, 0, -1),
        msg.DiscoveryAnnounce("\ud800", 1, 0, 0),
        msg.DiscoveryAnnounce("a", 1, 0, 0, (("k", "1"), ("k", "2"))),
    ],
)
def test_an_announcement_that_cannot_be_written_is_the_callers_mistake(announcement: msg.DiscoveryAnnounce) -> None:
    with pytest.raises(LocalProtocolError):
        announcement.to_json()


def test_the_statuses_of_an_answer_are_those_of_the_protocol() -> None:
    assert (msg.Data.OK, msg.Data.HANDLER_FAILED, msg.Data.NO_HANDLER, msg.Data.OVERLOADED) == (0, 1, 2, 3)


def test_attached_that_cannot_be_read_cannot_be_written() -> None:
    one = msg.AttachedEntry(bytes(32), 1)
    for entries in ((one, one), (msg.AttachedEntry(bytes(32), 0),), (msg.AttachedEntry(bytes(32), 9),)):
        with pytest.raises(LocalProtocolError):
            msg.Attached(entries).encode()


@pytest.mark.parametrize(("hops", "says"), [((0,), "1 to 8 hops"), ((9,), "1 to 8 hops"), ((1, 2), "stands twice")])
def test_attached_that_cannot_be_written_cannot_be_read(hops: tuple[int, ...], says: str) -> None:
    payload = encode_varint(len(hops)) + b"".join(bytes(32) + bytes([distance]) for distance in hops)
    with pytest.raises(RemoteProtocolError, match=says):
        msg.Attached.decode(payload)


def test_t72_no_relay_tells_of_more_than_the_wire_allows() -> None:
    most = msg.Attached(tuple(msg.AttachedEntry(PeerId(bytes([2, *divmod(i, 256)]).ljust(32)), 1) for i in range(1024)))
    assert msg.Attached.decode(most.encode()) == most
    one_more = (*most.entries, msg.AttachedEntry(PeerId(bytes(32)), 1))
    with pytest.raises(LocalProtocolError, match="1024"):
        msg.Attached(one_more).encode()
    with pytest.raises(RemoteProtocolError, match="1024"):
        msg.Attached.decode(encode_varint(1025) + b"".join(it.peer + b"\x01" for it in one_more))


def test_t29_an_announcement_of_half_a_surrogate_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="UTF-8"):
        msg.DiscoveryAnnounce.from_json('{"node_id":"\ud800"}')
