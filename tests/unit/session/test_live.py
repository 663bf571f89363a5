"""A live session: order, bundles, rekeying, keepalive, the end, and what a hostile peer cannot do."""

from __future__ import annotations

import struct

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from p2p import msg
from p2p.binary import encode_bytes, encode_varint
from p2p.envelope import ACK_REQ, Envelope, ParsedEnvelope, ProtocolVersion, aad, parse_envelope
from p2p.errors import CryptoError, LocalProtocolError, PayloadTooLarge, Reason
from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.session import Ended, Ignored, Pinged, Ponged, Received, Session, State
from p2p.session.sealing import AES_256_GCM, CHACHA20_POLY1305, Direction
from p2p.session.session import FRAME_OVERHEAD_BYTES
from p2p.testing import strategies as wire
from tests.unit.session.helpers import (
    DATA,
    EMPTY_DATA,
    bodies,
    config,
    deliver,
    drain,
    frames_of,
    live,
    plain_frame,
    pump,
    sealed,
    start,
    varint_size,
)

BUNDLE, PING, PONG, GOODBYE = 262, 2, 3, 256


def data(body: bytes, channel: bytes = b"c") -> bytes:
    return msg.encode_data(channel, 0, 0, body)


def envelopes(stream: bytes) -> list[ParsedEnvelope]:
    return [parse_envelope(frame[varint_size(frame) :]) for frame in frames_of(stream)]


def types(stream: bytes) -> list[int]:
    return [envelope.type for envelope in envelopes(stream)]


def end_of(events: list[object]) -> Ended:
    assert isinstance(events[-1], Ended), events
    return events[-1]


def fails(receiver: Session, stream: bytes, reason: Reason) -> list[object]:
    """Feed it; the session ends for that reason, without a byte; return the events before the end."""
    receiver.receive_data(stream, 0.0)
    events = drain(receiver)
    ended = end_of(events)
    assert (ended.reason, ended.clean) == (reason, False), ended
    assert receiver.data_to_send() == b""
    assert receiver.state is State.ENDED
    assert drain(receiver) == []
    return events[:-1]


# What goes through.


MESSAGES = [
    msg.WalPush(1, 2, b"batch"),
    msg.WalAck(7),
    msg.OutboxPull("x", 5),
    msg.WalHeads((msg.HeadEntry(PeerId(bytes(range(32))), 3, bytes(32), True),)),
    msg.Relay(1, msg.Relay.DATA, payload=b"slice"),
    msg.Data("chat", 4, 1, b"body"),
    msg.ForkProof(b"one", b"two"),
]


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("direction", [0, 1])
def test_every_message_arrives_as_it_was(alone, direction):
    pair = live()
    sender, receiver = pair[direction], pair[1 - direction]
    got = []
    ids = []
    for message in MESSAGES:
        ids.append(sender.send(message.TYPE, message.encode()))
        if alone:
            got += deliver(sender, receiver)
    got += deliver(sender, receiver)
    assert got == [Received(msg_id, 0, message) for msg_id, message in zip(ids, MESSAGES, strict=True)]
    assert ids == sorted(set(ids))


@given(st.data())
def test_what_comes_alone_is_read_as_on_the_long_way(draws: st.DataObject) -> None:
    """Whatever comes: good messages, other ones, several at once, pieces, and what was changed on the way."""
    (i, short), (_, long) = live(), live()
    for _ in range(draws.draw(st.integers(1, 4))):
        kind = draws.draw(st.sampled_from(("alone", "alone", "two", "empty", "large", "ping", "compressed", "no data")))
        if kind == "compressed":
            stream = sealed(i, DATA, EMPTY_DATA, flags=2)
        elif kind == "no data":
            stream = sealed(i, DATA, b"\xff")
        else:
            if kind == "ping":
                i.ping(0.0)
            for _ in range(2 if kind == "two" else kind != "ping"):
                i.send(DATA, EMPTY_DATA if kind == "empty" else data(bytes(128 if kind != "large" else 3000)), 4)
            stream = i.data_to_send()
        for chunk in draws.draw(
            st.just([stream]) | wire.cuts(stream, 3) | wire.mutations(stream).map(lambda wounded: [wounded])
        ):
            alone = short.receive_alone(chunk, 1.0)
            if alone is None:
                short.receive_data(chunk, 1.0)
            long.receive_data(chunk, 1.0)
            assert ([] if alone is None else [alone]) + drain(short) == drain(long)
            assert short.data_to_send() == long.data_to_send()
            for what in ("state", "bytes_in", "is_amid_frame", "last_seen", "_last_id_in"):
                assert getattr(short, what) == getattr(long, what)


@pytest.mark.parametrize("size", [0, 40, 64, 128, 1024])
def test_a_small_message_that_comes_alone_goes_the_short_way(size):
    i, r = live()
    msg_id = i.send(DATA, data(bytes(size)), 4)
    assert r.receive_alone(i.data_to_send(), 0.0) == Received(msg_id, 4, msg.Data("c", 0, 0, bytes(size)))
    assert r.next_event() is None
    assert r.bytes_in == i.bytes_out


@pytest.mark.parametrize("size", [0, 40, 128, 16_000])
def test_a_small_message_that_is_sealed_alone_is_what_send_makes_of_it(size):
    (i, _), (j, _) = live(), live()
    for _ in range(3):
        payload = data(bytes(size))
        assert i.seal_alone(payload, 4) == (j.send(DATA, payload, 4), j.data_to_send())
    assert i.bytes_out == j.bytes_out
    assert i.send(DATA, EMPTY_DATA) == j.send(DATA, EMPTY_DATA)
    assert i.data_to_send() == j.data_to_send()


def test_nothing_is_sealed_alone_that_has_to_wait():
    i, r = start()
    assert i.seal_alone(EMPTY_DATA, 0) is None, "it is not live"
    i, r = live()
    i.send(DATA, data(b"one"))
    assert i.seal_alone(data(b"two"), 0) is None, "one waits"
    i.send(DATA, data(bytes(20_000)))
    assert i.seal_alone(data(b"two"), 0) is None, "two wait"
    assert bodies(deliver(i, r)) == [b"one", bytes(20_000)]
    assert i.seal_alone(bytes(Limits().frame_bytes_max - FRAME_OVERHEAD_BYTES + 1), 0) is None, "it fits no frame"
    for size in (20_000, Limits().frame_bytes_max - FRAME_OVERHEAD_BYTES - len(data(b"")) - 2):
        before = i.bytes_out
        alone = i.seal_alone(data(bytes(size)), 0)
        assert alone is not None
        assert i.bytes_out == before + len(alone[1])
        r.receive_data(alone[1], 0.0)
        assert bodies(drain(r)) == [bytes(size)]
    i._outbound._counter = 2**64 - 1
    assert i.seal_alone(data(b"two"), 0) is None
    assert end_of(drain(i)).reason is Reason.CRYPTO
    assert i.seal_alone(data(b"two"), 0) is None


def test_T19_what_comes_alone_with_a_broken_seal_ends_the_session():
    i, r = live()
    i.send(DATA, data(b"one"))
    frame = bytearray(i.data_to_send())
    frame[-1] ^= 1
    assert r.receive_alone(bytes(frame), 0.0) is None
    assert end_of(drain(r)).reason is Reason.CRYPTO


def test_an_id_that_does_not_grow_ends_the_session_also_where_it_comes_alone():
    i, r = live()
    deliver(i, r)
    again = r._last_id_in
    assert r.receive_alone(sealed(i, DATA, EMPTY_DATA, msg_id=again), 0.0) is None
    assert end_of(drain(r)).reason is Reason.PROTOCOL


def test_nothing_is_received_alone_before_it_has_its_turn():
    i, r = start()
    i_hello = i.data_to_send()
    assert r.receive_alone(i_hello, 0.0) is None
    assert r.bytes_in == 0
    i, r = live()
    i.send(DATA, data(b"one"))
    i.send(DATA, data(b"two"))
    r.receive_data(i.data_to_send(), 0.0)
    assert bodies([r.next_event()]) == [b"one"]
    i.send(DATA, data(b"three"))
    three = i.data_to_send()
    assert r.receive_alone(three, 0.0) is None
    r.receive_data(three, 0.0)
    assert bodies(drain(r)) == [b"two", b"three"]


def test_a_request_keeps_its_flag_and_its_id():
    i, r = live()
    for more in range(2):
        ids = [i.send(DATA, data(b"?"), flags=4) for _ in range(1 + more)]
        events = deliver(i, r)
        assert [(event.msg_id, event.flags) for event in events] == [(msg_id, 4) for msg_id in ids]


@pytest.mark.parametrize("type", [0, 1, 2, 3, 4, 5, 6, 256, 261, 262, 263, 0x7FFF, 0x10000, -1])
def test_an_owner_cannot_send_what_is_not_its_own(type):
    i, _ = live()
    with pytest.raises(LocalProtocolError):
        i.send(type, b"")
    assert i.data_to_send() == b""


@pytest.mark.parametrize("flags", [1, 2, 3, 8, 5])
def test_an_owner_sets_no_other_flag_than_ack_req(flags):
    i, _ = live()
    with pytest.raises(LocalProtocolError):
        i.send(DATA, EMPTY_DATA, flags)


def test_nothing_to_say_is_no_bytes():
    i, r = live()
    assert i.pending_bytes == 0
    assert start()[1].pending_bytes == 0
    assert i.data_to_send() == b""
    i.send(DATA, EMPTY_DATA)
    assert i.pending_bytes > 0
    assert i.data_to_send() != b""
    assert i.pending_bytes == 0
    assert r.next_event() is None


def test_bytes_are_counted_on_both_sides():
    i, r = live()
    before = i.bytes_out
    i.send(DATA, data(bytes(1000)))
    deliver(i, r)
    assert i.bytes_out == r.bytes_in
    assert i.bytes_out - before > 1000
    assert r.bytes_out == i.bytes_in


# Bundles.


def test_a_lone_message_goes_without_a_bundle_and_two_go_as_one():
    i, r = live()
    i.send(DATA, data(b"1"))
    stream = i.data_to_send()
    assert types(stream) == [DATA]
    r.receive_data(stream, 0.0)
    i.send(DATA, data(b"2"))
    i.send(DATA, data(b"3"))
    stream = i.data_to_send()
    assert types(stream) == [BUNDLE]
    r.receive_data(stream, 0.0)
    assert bodies(drain(r)) == [b"1", b"2", b"3"]


def test_large_messages_travel_alone_and_the_order_stays():
    i, r = live()
    sizes = [10, 20, 16 * 1024, 30, 40, 100_000, 20_000, 50, 5]
    sent = [bytes((n,)) * size for n, size in enumerate(sizes)]
    for body in sent:
        i.send(DATA, data(body))
    stream = i.data_to_send()
    assert types(stream) == [BUNDLE, DATA, BUNDLE, DATA, DATA, BUNDLE]
    r.receive_data(stream, 0.0)
    assert bodies(drain(r)) == sent


def test_a_message_just_below_16_kib_is_bundled():
    for size, expected in ((16 * 1024 - 1, [BUNDLE]), (16 * 1024, [DATA, DATA])):
        i, _ = live()
        payload = data(bytes(size - 13), b"c")
        assert len(payload) == size
        i.send(DATA, payload)
        i.send(DATA, payload)
        assert types(i.data_to_send()) == expected


def test_a_bundle_is_no_larger_than_its_bound_and_ids_only_grow():
    i, r = live()
    sent = [b"%d" % n * 100 for n in range(2000)]
    ids = [i.send(DATA, data(body)) for body in sent]
    stream = i.data_to_send()
    outer = envelopes(stream)
    assert len(outer) > 1
    assert {envelope.type for envelope in outer} == {BUNDLE}
    assert all(len(envelope.payload) <= 64 * 1024 for envelope in outer)
    assert all(len(envelope.payload) > 48 * 1024 for envelope in outer[:-1])
    # Each outer id stands after the ids inside, and before those of the next Bundle.
    outer_ids = [envelope.msg_id for envelope in outer]
    assert sorted(ids + outer_ids) == list(range(ids[0], outer_ids[-1] + 1))
    r.receive_data(stream, 0.0)
    assert bodies(drain(r)) == sent


def test_the_number_of_messages_in_a_bundle_is_bounded():
    limits = {"limits_bundle_messages_max": 3}
    i, r = live(config("a", **limits), config("b", **limits))
    for n in range(8):
        i.send(DATA, data(bytes((n,))))
    stream = i.data_to_send()
    assert types(stream) == [BUNDLE, BUNDLE, BUNDLE]
    r.receive_data(stream, 0.0)
    assert len(bodies(drain(r))) == 8


@pytest.mark.parametrize("who", ["a", "b"])
def test_without_an_agreement_nothing_is_bundled(who):
    alone = {"capabilities": (("cipher", "aes256gcm"),)}
    i, r = live(config("a", **(alone if who == "a" else {})), config("b", **(alone if who == "b" else {})))
    for n in range(3):
        i.send(DATA, data(bytes((n,))))
        r.send(DATA, data(bytes((n,))))
    stream = i.data_to_send()
    assert types(stream) == [DATA, DATA, DATA]
    r.receive_data(stream, 0.0)
    assert len(bodies(drain(r))) == 3
    inner = encode_bytes(Envelope(ProtocolVersion(), DATA, 100, 0, EMPTY_DATA).encode())
    fails(r, sealed(i, BUNDLE, inner, msg_id=101), Reason.PROTOCOL)


def test_a_message_that_fits_no_frame_is_refused_and_leaves_no_trace():
    i, r = live()
    i.send(DATA, data(b"before"))
    with pytest.raises(PayloadTooLarge):
        i.send(DATA, bytes(1024 * 1024 - 63))
    payload = data(bytes(1024 * 1024 - 64 - 14), b"c")
    assert len(payload) <= 1024 * 1024 - 64
    i.send(DATA, payload)
    assert [len(body) for body in bodies(deliver(i, r))] == [6, 1024 * 1024 - 78]


def inner(type: int = DATA, msg_id: int = 1000, flags: int = 0, payload: bytes = EMPTY_DATA, **seal: bytes) -> bytes:
    return encode_bytes(Envelope(ProtocolVersion(), type, msg_id, flags, payload, **seal).encode())


@pytest.mark.parametrize(
    "bundle",
    [
        inner(BUNDLE, payload=inner()),
        inner(1),
        inner(4),
        inner(5),
        inner(flags=1, nonce=bytes(12), tag=bytes(16)),
        inner(flags=2),
        inner(PING, flags=2, payload=bytes(8)),
        inner(flags=8),
        inner(7),
        inner(0x7FFF),
        inner(payload=b""),
        inner(PONG, payload=bytes(8)),
        inner()[:-1],
        inner() + b"\x05",
        inner(msg_id=0),
        inner(msg_id=2000) + inner(msg_id=2000),
        inner(msg_id=2000) + inner(msg_id=1999),
        b"".join(inner(msg_id=msg_id) for msg_id in range(2000, 2006)) + inner(0x8000, 2004),
        inner(msg_id=9000),
        inner(msg_id=2**64 - 1),
        b"\xff" * 20,
        b"".join(inner(0x8000, 1000 + n, payload=b"") for n in range(4097)),
    ],
    ids=[
        "nested",
        "Hello",
        "HelloAck",
        "HelloFinish",
        "sealed",
        "compressed",
        "compressed ping",
        "unknown flag",
        "unknown type",
        "last unknown type",
        "no Data",
        "Pong unasked",
        "cut off",
        "tail",
        "id 0",
        "id twice",
        "id back",
        "id within a row",
        "id of the outer",
        "id beyond the outer",
        "no frame",
        "overfull",
    ],
)
def test_T30_a_bundle_that_breaks_its_rules_ends_the_session(bundle):
    i, r = live()
    fails(r, sealed(i, BUNDLE, bundle, msg_id=9000), Reason.PROTOCOL)


def test_T30_what_came_before_the_fault_was_in_order():
    i, r = live()
    bundle = inner(msg_id=1000, payload=data(b"good")) + inner(7, 1001)
    before = fails(r, sealed(i, BUNDLE, bundle, msg_id=9000), Reason.PROTOCOL)
    assert bodies(before) == [b"good"]


def test_T31_a_full_bundle_is_fine_and_its_events_are_bounded():
    i, r = live()
    bundle = b"".join(inner(0x8000, 1000 + n, payload=b"") for n in range(4096))
    r.receive_data(sealed(i, BUNDLE, bundle, msg_id=9000), 0.0)
    assert drain(r) == [Ignored(0x8000)] * 4096


def test_an_empty_bundle_is_life_and_nothing_else():
    i, r = live()
    r.receive_data(sealed(i, BUNDLE, b""), 5.0)
    assert drain(r) == []
    assert r.last_seen == 5.0


# What only a hostile peer, or somebody on the path, sends.


@pytest.mark.parametrize("flags", [2, 6])
def test_T30_a_compressed_message_is_refused(flags):
    i, r = live()
    fails(r, sealed(i, DATA, EMPTY_DATA, flags=flags), Reason.PROTOCOL)


@pytest.mark.parametrize("type", [0, 1, 4, 5, 6, 13, 261, 263, 0x7FFF])
def test_T25_an_unknown_or_misplaced_type_ends_the_session(type):
    i, r = live()
    fails(r, sealed(i, type, b""), Reason.PROTOCOL)


@pytest.mark.parametrize("type", [0x8000, 0x9ABC, 0xFFFF])
def test_T25_types_from_0x8000_are_passed_over_and_counted(type):
    i, r = live()
    i.send(type, b"who knows")
    i.send(DATA, data(b"next"))
    events = deliver(i, r)
    assert events[0] == Ignored(type)
    assert bodies(events) == [b"next"]


@pytest.mark.parametrize("nonce", [0, 1, 2, 2**64 - 1])
def test_T25_a_pong_that_nobody_asked_for_ends_the_session(nonce):
    i, r = live()
    fails(r, sealed(i, PONG, struct.pack("<Q", nonce)), Reason.PROTOCOL)


def test_T25_a_pong_answers_once():
    i, r = live()
    i.ping(0.0)
    assert deliver(i, r) == [Pinged()]
    stream = r.data_to_send()
    i.receive_data(stream, 0.0)
    assert drain(i) == [Ponged(0.0)]
    fails(i, sealed(r, PONG, struct.pack("<Q", 1)), Reason.PROTOCOL)


@pytest.mark.parametrize("message", [msg.WalAck(1), msg.Data("x", body=b"y"), msg.WalHeads(), msg.ForkProof(b"", b"")])
@pytest.mark.parametrize("change", ["tail", "cut"])
def test_T27_a_message_that_does_not_fill_its_payload_is_refused(message, change):
    i, r = live()
    payload = message.encode()
    fails(r, sealed(i, message.TYPE, payload + b"\0" if change == "tail" else payload[:-1]), Reason.PROTOCOL)


def test_T29_text_that_is_no_utf_8_is_refused():
    i, r = live()
    fails(r, sealed(i, DATA, b"\x02\xff\xfe" + bytes(9) + b"\0"), Reason.PROTOCOL)


@pytest.mark.parametrize("msg_id", [0, 1, "last"])
def test_T18_a_message_id_that_does_not_grow_ends_the_session(msg_id):
    i, r = live()
    last = i.send(DATA, EMPTY_DATA)
    deliver(i, r)
    fails(r, sealed(i, DATA, EMPTY_DATA, msg_id=last if msg_id == "last" else msg_id), Reason.PROTOCOL)


@pytest.mark.parametrize("last", [4, 5, 6])
def test_T18_after_messages_that_are_alike_ids_grow_from_the_last_of_them(last):
    i, r = live()
    start = i.send(DATA, EMPTY_DATA)
    deliver(i, r)
    alike = b"".join(inner(msg_id=start + n, payload=data(b"x")) for n in range(1, 6))
    other = inner(msg_id=start + last, payload=data(b"another"))
    stream = sealed(i, BUNDLE, alike + other, msg_id=9000)
    if last == 6:
        r.receive_data(stream, 0.0)
        assert bodies(drain(r)) == [b"x"] * 5 + [b"another"]
    else:
        fails(r, stream, Reason.PROTOCOL)


def test_a_message_id_may_jump():
    i, r = live()
    r.receive_data(sealed(i, DATA, EMPTY_DATA, msg_id=2**64 - 1), 0.0)
    assert drain(r)[0].msg_id == 2**64 - 1


def test_T18_a_frame_played_back_ends_the_session():
    i, r = live()
    i.send(DATA, data(b"pay 1"))
    frame = i.data_to_send()
    r.receive_data(frame + frame, 0.0)
    events = drain(r)
    assert bodies(events) == [b"pay 1"]
    assert end_of(events).reason is Reason.CRYPTO
    assert r.data_to_send() == b""


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (0, 2), (1, 2), (2,)])
def test_T18_frames_out_of_order_or_left_out_end_the_session(order):
    i, r = live()
    frames = []
    for n in range(3):
        i.send(DATA, data(bytes((n,))))
        frames.append(i.data_to_send())
    r.receive_data(b"".join(frames[n] for n in order), 0.0)
    events = drain(r)
    good = 0
    while good < len(order) and order[good] == good:
        good += 1
    assert bodies(events) == [bytes((n,)) for n in range(good)]
    assert end_of(events).reason is Reason.CRYPTO


def test_T18_a_frame_of_another_session_ends_this_one():
    _, r = live()
    other = live(config("c"), config("b"))[0]
    other.send(DATA, EMPTY_DATA)
    fails(r, other.data_to_send(), Reason.CRYPTO)


@pytest.mark.parametrize("type", [1, 2, 4, 5, 11, 256, 257, 259, 262, 0x9000])
@pytest.mark.parametrize("side", [0, 1])
def test_T18_plaintext_on_a_live_session_ends_it(type, side):
    receiver = live()[side]
    fails(receiver, plain_frame(type, EMPTY_DATA if type == DATA else bytes(8), msg_id=50), Reason.CRYPTO)


@pytest.mark.parametrize("flags", [1, 5, 3])
def test_T18_a_seal_of_zeros_ends_the_session(flags):
    _, r = live()
    fails(r, plain_frame(DATA, EMPTY_DATA, msg_id=50, flags=flags), Reason.CRYPTO)


def test_T26_an_oversized_frame_is_refused_from_its_header():
    _, r = live()
    r.receive_data(encode_varint(1024 * 1024), 0.0)
    assert drain(r) == []
    _, r = live()
    fails(r, encode_varint(1024 * 1024 + 1), Reason.FRAME_TOO_LARGE)
    assert r._decoder.buffered == 0


@pytest.mark.parametrize(
    "header",
    [b"\x80\x00", b"\xff" * 10, b"\x80" * 3, encode_varint(2**64 - 1), b"\x00", b"\x01V", b"\x16" + bytes(22)],
    ids=["over-long", "overflow", "endless", "2^64-1", "empty frame", "short frame", "no magic"],
)
def test_T28_a_length_that_cannot_be_ends_the_session(header):
    _, r = live()
    r.receive_data(header, 0.0)
    ended = end_of(drain(r))
    assert ended.reason in {Reason.CRYPTO, Reason.FRAME_TOO_LARGE}
    assert r.data_to_send() == b""


def test_T19_what_waited_is_dropped_and_nothing_is_answered():
    i, r = live()
    r.send(DATA, data(b"waiting"))
    r.send(DATA, data(bytes(50_000)))
    i.send(DATA, EMPTY_DATA)
    frame = bytearray(i.data_to_send())
    frame[-1] ^= 1
    fails(r, bytes(frame), Reason.CRYPTO)
    assert r.pending_bytes == 0
    with pytest.raises(LocalProtocolError):
        r.send(DATA, EMPTY_DATA)
    # Nothing moves it any more.
    r.receive_data(bytes(100), 1.0)
    r.receive_eof(1.0)
    r.handle_deadline(1e9)
    r.ping(1.0)
    r.goodbye(Reason.CLOSED)
    assert drain(r) == []
    assert r.data_to_send() == b""


# Keys.


@pytest.mark.parametrize(("cipher", "aead"), [(AES_256_GCM, AESGCM), (CHACHA20_POLY1305, ChaCha20Poly1305)])
def test_T17_rekeying_follows_the_wire(cipher, aead):
    """Each envelope opens with the key that the formula gives, and with no other."""
    key = bytes(range(32))
    sending, receiving = Direction(cipher, key, 4), Direction(cipher, key, 4)
    keys = [key]
    for counter in range(11):
        if counter and counter % 4 == 0:
            keys.append(aead(keys[-1]).encrypt(b"\xff" * 8 + bytes(4), bytes(32), b"")[:32])
        frame = sending.seal(DATA, counter + 1, 4, b"text %d" % counter)
        envelope = parse_envelope(frame[varint_size(frame) :])
        assert envelope.nonce == struct.pack("<QI", counter, 0)
        assert envelope.flags == 5
        sealed_text = bytes(envelope.payload) + envelope.tag
        header = aad(DATA, counter + 1, 5)
        assert aead(keys[-1]).decrypt(envelope.nonce, sealed_text, header) == b"text %d" % counter
        for old in keys[:-1]:
            with pytest.raises(InvalidTag):
                aead(old).decrypt(envelope.nonce, sealed_text, header)
        assert receiving.open(frame[varint_size(frame) :]) == (DATA, counter + 1, 4, b"text %d" % counter)
    assert len(keys) == 3


def test_T17_the_default_is_every_65536_envelopes():
    key = bytes(32)
    sending = Direction(AES_256_GCM, key, config().limits.rekey_every)
    for _ in range(65_536):
        frame = sending.seal(2, 1, 0, b"")
    AESGCM(key).decrypt(*_parts(frame))
    frame = sending.seal(2, 1, 0, b"")
    with pytest.raises(InvalidTag):
        AESGCM(key).decrypt(*_parts(frame))
    rekeyed = AESGCM(key).encrypt(b"\xff" * 8 + bytes(4), bytes(32), b"")[:32]
    assert AESGCM(rekeyed).decrypt(*_parts(frame)) == b""


def _parts(frame: bytes) -> tuple[bytes, bytes, bytes]:
    envelope = parse_envelope(frame[varint_size(frame) :])
    return envelope.nonce, bytes(envelope.payload) + envelope.tag, aad(envelope.type, envelope.msg_id, envelope.flags)


@pytest.mark.parametrize("cipher", ["aes256gcm", "chacha20poly1305"])
def test_T17_sessions_rekey_together_both_ways(cipher):
    bounds = {"limits_rekey_every": 3, "capabilities": (("bundle", "1"), ("cipher", cipher))}
    i, r = live(config("a", **bounds), config("b", **bounds))
    for n in range(20):
        for sender, receiver in ((i, r), (r, i)):
            for part in range(1 + n % 3):
                sender.send(DATA, data(b"%d %d" % (n, part)))
            assert bodies(deliver(sender, receiver)) == [b"%d %d" % (n, part) for part in range(1 + n % 3)]


def test_T17_two_sides_that_do_not_rekey_alike_part():
    i, r = live(config("a", limits_rekey_every=2), config("b", limits_rekey_every=3))
    i.send(DATA, EMPTY_DATA)
    deliver(i, r)
    i.send(DATA, EMPTY_DATA)
    deliver(i, r)
    i.send(DATA, EMPTY_DATA)
    fails(r, i.data_to_send(), Reason.CRYPTO)


def test_T17_at_the_end_of_the_counter_the_session_closes():
    for last in (2**64 - 2, 2**64 - 1):
        direction = Direction(AES_256_GCM, bytes(32), 65_536)
        direction._counter = last
        if last == 2**64 - 2:
            direction.seal(DATA, 1, 0, b"")
        with pytest.raises(CryptoError):
            direction.seal(DATA, 1, 0, b"")
    i, _ = live()
    i._outbound._counter = 2**64 - 1
    i.send(DATA, EMPTY_DATA)
    assert i.data_to_send() == b""
    assert end_of(drain(i)).reason is Reason.CRYPTO


def test_the_two_directions_have_two_keys():
    i, r = live()
    i.send(DATA, data(b"same text"))
    r.send(DATA, data(b"same text"))
    i._outbound._counter = r._outbound._counter = 7
    one, two = envelopes(i.data_to_send())[0], envelopes(r.data_to_send())[0]
    assert one.nonce == two.nonce
    assert bytes(one.payload) != bytes(two.payload)


def test_no_text_is_seen_on_the_wire():
    i, _ = live()
    i.send(DATA, data(b"attack at dawn", b"secret channel"))
    i.send(DATA, data(b"attack at dawn", b"secret channel"))
    stream = i.data_to_send()
    assert b"dawn" not in stream
    assert b"secret" not in stream


# Time.


def test_T21_silence_is_asked_about_after_15_seconds_and_is_death_after_45():
    i, r = live(now=100.0)
    assert i.next_deadline() == 115.0
    i.handle_deadline(114.9)
    assert i.data_to_send() == b""
    for when in (115.0, 130.0):
        assert i.next_deadline() == when
        i.handle_deadline(when)
        assert types(i.data_to_send()) == [PING]
    assert i.next_deadline() == 145.0
    i.handle_deadline(144.9)
    assert drain(i) == []
    i.handle_deadline(145.0)
    ended = end_of(drain(i))
    assert (ended.reason, ended.clean) == (Reason.DEAD, False)
    assert i.data_to_send() == b""
    assert i.next_deadline() == float("inf")
    assert r.state is State.LIVE


def test_T21_any_frame_is_life():
    i, r = live(now=0.0)
    for when in range(10, 200, 10):
        i.send(DATA, EMPTY_DATA)
        deliver(i, r, now=float(when))
        assert r.last_seen == when
        r.handle_deadline(when)
        assert r.state is State.LIVE
        assert when < r.next_deadline() <= when + 15.0
    # Bytes that make no frame are not.
    r.receive_data(b"\x40", 195.0)
    assert drain(r) == []
    assert r.last_seen == 190.0


def test_a_ping_is_answered_and_timed():
    i, r = live(now=0.0)
    i.handle_deadline(15.0)
    assert i.rtt_s is None
    r.receive_data(i.data_to_send(), 15.1)
    assert drain(r) == [Pinged()]
    i.receive_data(r.data_to_send(), 15.25)
    assert drain(i) == [Ponged(0.25)]
    assert (i.rtt_s, i.last_seen) == (0.25, 15.25)


def test_a_ping_that_is_due_soon_goes_along_with_a_pong_and_the_other_side_leads_from_then_on() -> None:
    i, r = live(now=0.0)
    for turn in range(1, 4):
        now = 15.0 * turn
        assert i.next_deadline() == now
        # Who answered last waits an eighth longer.
        assert r.next_deadline() == now + 15.0 / 8
        i.handle_deadline(now)
        assert deliver(i, r, now=now) == [Pinged()]
        assert r.ping_along(now)
        r.handle_deadline(now)
        assert deliver(r, i, now=now) == [Ponged(0.0), Pinged()]
        # Its own has just gone out.
        assert not i.ping_along(now)
        assert deliver(i, r, now=now) == [Ponged(0.0)]
    assert (i._liveness._pings_sent, r._liveness._pings_sent) == (3, 3)


def test_who_follows_pings_by_itself_when_the_other_one_does_not_any_more() -> None:
    i, r = live(now=0.0)
    r.handle_deadline(16.874)
    assert r.data_to_send() == b""
    r.handle_deadline(16.875)
    assert deliver(r, i, now=16.875) == [Pinged()]
    assert r.next_deadline() == 31.875


def test_a_ping_that_is_not_due_soon_or_too_late_goes_along_with_nothing() -> None:
    i, r = live(now=0.0)
    assert not i.ping_along(9.3)
    assert not r.ping_along(11.2)
    assert i.ping_along(9.375)
    r.goodbye(Reason.CLOSED)
    assert not r.ping_along(16.0)


def test_a_link_that_is_never_idle_is_timed_too() -> None:
    i, r = live(now=0.0)
    for when in range(1, 31):
        r.send(DATA, EMPTY_DATA)
        deliver(r, i, now=float(when))
        i.handle_deadline(float(when))
        deliver(i, r, now=when + 0.1)
        deliver(r, i, now=when + 0.2)
    assert i.rtt_s == pytest.approx(0.2)
    assert i._liveness._pings_sent == 2


def test_a_skipped_pong_is_forgiven_and_its_time_forgotten():
    i, r = live(now=0.0)
    for n in range(40):
        i.ping(float(n))
    assert len(i._liveness._pings) <= 16
    pings = drain_pings(i, r)
    assert pings == 40
    pongs = [struct.pack("<Q", nonce) for nonce in (3, 39, 40)]
    for payload in pongs:
        i.receive_data(sealed(r, PONG, payload), 50.0)
    assert drain(i) == [Ponged(None), Ponged(12.0), Ponged(11.0)]
    assert i.rtt_s == 11.0


def drain_pings(sender: Session, receiver: Session) -> int:
    return sum(event == Pinged() for event in deliver(sender, receiver))


def test_T24_pongs_that_wait_are_bounded():
    i, r = live()
    for n in range(1, 1001):
        r.receive_data(sealed(i, PING, struct.pack("<Q", n)), 0.0)
    assert sum(event == Pinged() for event in drain(r)) == 1000
    waiting = r.pending_bytes
    assert waiting < 64 * 64
    i._liveness._pings_sent = 2000
    answered = [event for event in deliver(r, i) if isinstance(event, Ponged)]
    assert len(answered) == 64
    # Once they are written there is room again.
    r.receive_data(sealed(i, PING, struct.pack("<Q", 1001)), 0.0)
    drain(r)
    assert deliver(r, i) == [Ponged(None)]


def test_T21_while_we_do_not_read_the_peer_does_not_die():
    i, r = live(now=0.0)
    i.handle_deadline(15.0)
    i.data_to_send()
    i.pause(20.0)
    assert i.next_deadline() == 30.0
    for when in range(30, 600, 15):
        # Our Pings go on: they are what keeps the peer from giving us up.
        i.handle_deadline(float(when))
        assert drain(i) == []
        assert types(i.data_to_send()) == [PING]
    i.resume(600.0)
    # 20 seconds of silence were counted before, so 25 are left.
    i.handle_deadline(624.9)
    assert i.state is State.LIVE
    i.handle_deadline(625.0)
    assert end_of(drain(i)).reason is Reason.DEAD
    assert r.state is State.LIVE


def test_pausing_twice_and_resuming_twice_counts_once():
    i, _ = live(now=0.0)
    i.pause(10.0)
    i.pause(20.0)
    i.resume(50.0)
    i.resume(60.0)
    i.handle_deadline(84.9)
    assert i.state is State.LIVE
    i.handle_deadline(85.0)
    assert i.state is State.ENDED


def test_what_is_handled_during_a_pause_buys_no_extra_time():
    i, r = live(now=0.0)
    i.send(DATA, EMPTY_DATA)
    r.pause(10.0)
    deliver(i, r, now=40.0)
    r.resume(50.0)
    assert r.next_deadline() <= 95.0
    r.handle_deadline(95.0)
    assert r.state is State.ENDED


@pytest.mark.parametrize("handled", ["during", "after"])
def test_what_came_before_a_pause_is_heard_when_it_is_handled(handled):
    i, r = live(now=0.0)
    i.send(DATA, EMPTY_DATA)
    r.receive_data(i.data_to_send(), 5.0)
    r.pause(10.0)
    if handled == "during":
        assert len(drain(r)) == 1
    r.resume(50.0)
    if handled == "after":
        assert len(drain(r)) == 1
    r.handle_deadline(94.9)
    assert r.state is State.LIVE
    r.handle_deadline(95.0)
    assert r.state is State.ENDED


def test_what_is_read_when_the_stream_has_ended_was_heard_then():
    i, r = live(now=0.0)
    i.send(DATA, EMPTY_DATA)
    r.receive_data(i.data_to_send(), 5.0)
    r.receive_eof(9.0)
    assert len(drain(r)) == 2
    assert r.last_seen == 9.0


@pytest.mark.parametrize("size", [10, 20_000, 200_000])
def test_whoever_sends_is_told_the_id_that_the_message_comes_with(size):
    i, r = live()
    ids = [i.send(DATA, data(bytes(size)), ACK_REQ) for _ in range(3)]
    assert [event.msg_id for event in deliver(i, r)] == ids


def test_a_pause_before_anything_was_heard_changes_nothing():
    for session in start(now=7.0):
        due = session.next_deadline()
        session.pause(8.0)
        session.resume(9.0)
        assert session.next_deadline() == due


def test_T23_a_frame_that_is_dripped_is_given_up():
    i, r = live(now=0.0)
    i.send(DATA, data(bytes(160 * 1024)))
    frame = i.data_to_send()
    length = len(frame) - varint_size(frame)
    r.receive_data(frame[:1], 1.0)
    assert drain(r) == []
    # Keepalive is not what ends it here: life is kept up by nothing else than this frame.
    due = 1.0 + 20.0
    for when in range(2, 15):
        r.receive_data(frame[when - 1 : when], float(when))
        assert drain(r) == []
    r.handle_deadline(due + length / (16 * 1024) - 0.01)
    assert r.state is State.LIVE
    r.handle_deadline(due + length / (16 * 1024))
    assert end_of(drain(r)).reason is Reason.TIMEOUT


def test_T23_the_clock_of_a_frame_starts_with_its_first_byte():
    i, r = live(now=0.0)
    for n in range(30):
        # Two frames in five pieces, each begun 14 s after the last: none takes long.
        i.send(DATA, data(bytes(1000)))
        frame = i.data_to_send()
        when = n * 14.0
        r.receive_data(frame[:500], when)
        assert drain(r) == []
        r.handle_deadline(when + 13.0)
        assert r.state is State.LIVE
        r.receive_data(frame[500:], when + 13.0)
        assert len(drain(r)) == 1
        assert when + 13.0 < r.next_deadline() <= when + 13.0 + 15.0


def test_T23_a_header_that_never_ends_is_given_up_as_well():
    _, r = live(now=0.0)
    r.receive_data(b"\x80", 10.0)
    assert drain(r) == []
    r.ping(29.0)
    r.handle_deadline(29.9)
    assert r.state is State.LIVE
    r.handle_deadline(30.0)
    assert end_of(drain(r)).reason is Reason.TIMEOUT


def test_T23_the_drip_rule_rests_while_we_do_not_read():
    i, r = live(now=0.0)
    i.send(DATA, data(b"x" * 100))
    frame = i.data_to_send()
    r.receive_data(frame[:50], 0.0)
    drain(r)
    r.pause(10.0)
    r.handle_deadline(25.0)
    r.resume(40.0)
    r.handle_deadline(45.0)
    assert r.state is State.LIVE
    r.receive_data(frame[50:], 46.0)
    assert len(drain(r)) == 1


def test_T65_after_a_long_sleep_everything_due_is_one_end():
    i, r = live(now=0.0)
    for session in (i, r):
        session.handle_deadline(8 * 3600.0)
        assert [type(event) for event in drain(session)] == [Ended]
        assert session.data_to_send() == b""


# The end.


@pytest.mark.parametrize("side", [0, 1])
def test_a_goodbye_is_answered_and_both_ends_are_clean(side):
    pair = live()
    one, other = pair[side], pair[1 - side]
    one.send(DATA, data(b"last words"))
    other.send(DATA, data(b"still on the way"))
    one.goodbye(Reason.MOVED, "elsewhere")
    assert one.is_ending
    assert not other.is_ending
    one.goodbye(Reason.CLOSED, "again")
    with pytest.raises(LocalProtocolError):
        one.send(DATA, EMPTY_DATA)
    events = deliver(one, other)
    assert bodies(events) == [b"last words"]
    assert end_of(events) == Ended(Reason.MOVED, "elsewhere", clean=True)
    with pytest.raises(LocalProtocolError):
        other.send(DATA, EMPTY_DATA)
    events = deliver(other, one)
    assert bodies(events) == [b"still on the way"]
    assert end_of(events) == Ended(Reason.MOVED, "elsewhere", clean=True)
    assert (one.state, other.state) == (State.ENDED, State.ENDED)
    assert one.data_to_send() == other.data_to_send() == b""


def test_goodbyes_that_cross_end_both():
    i, r = live()
    i.goodbye(Reason.CLOSED, "mine")
    r.goodbye(Reason.MOVED, "yours")
    of_i, of_r = pump(i, r)
    assert of_i == [Ended(Reason.CLOSED, "mine", clean=True)]
    assert of_r == [Ended(Reason.MOVED, "yours", clean=True)]


def test_after_our_goodbye_we_read_on_and_answer_nothing():
    i, r = live(now=0.0)
    i.goodbye(Reason.CLOSED)
    i.data_to_send()
    r.send(DATA, data(b"late"))
    r.ping(0.0)
    assert bodies(deliver(r, i)) == [b"late"]
    assert i.data_to_send() == b""
    # It is not pinged any more, but it is not waited for without end either.
    assert i.next_deadline() == 45.0
    i.handle_deadline(45.0)
    assert end_of(drain(i)).reason is Reason.DEAD


def test_what_follows_a_goodbye_is_not_looked_at():
    i, r = live()
    bundle = inner(GOODBYE, 1000, payload=msg.Goodbye(1, "").encode()) + inner(DATA, 1001) + inner(7, 1002)
    r.receive_data(sealed(i, BUNDLE, bundle, msg_id=5) + b"\xff" * 50, 0.0)
    assert drain(r) == [Ended(Reason.CLOSED, "", clean=True)]


@pytest.mark.parametrize("ending", [False, True])
def test_T20_an_end_of_the_stream_without_a_goodbye_is_abnormal(ending):
    i, r = live()
    if ending:
        r.goodbye(Reason.CLOSED)
    i.send(DATA, data(b"whole"))
    stream = i.data_to_send()
    i.send(DATA, data(b"never whole"))
    r.receive_data(stream + i.data_to_send()[:-1], 0.0)
    r.receive_eof(0.0)
    events = drain(r)
    assert bodies(events) == [b"whole"]
    ended = end_of(events)
    assert (ended.reason, ended.clean) == (Reason.ABNORMAL, False)
    assert r.data_to_send() == b""


def test_T20_an_end_of_the_stream_behind_a_goodbye_is_clean():
    i, r = live()
    i.goodbye(Reason.CLOSED)
    r.receive_data(i.data_to_send(), 0.0)
    r.receive_eof(0.0)
    assert drain(r) == [Ended(Reason.CLOSED, "", clean=True)]


def test_T58_the_detail_of_a_goodbye_is_one_safe_line_of_bounded_size():
    i, r = live()
    i.goodbye(Reason.CLOSED, "a\nb\x1b[31m\u202e" + "x" * 1000)
    ended = end_of(deliver(i, r))
    assert len(ended.detail.encode()) <= 256
    assert ended.detail.startswith(r"a\nb\x1b[31m\u202e")
    i, r = live()
    hostile = msg.Goodbye(6, "a\r\nb\x00" + "é" * 100_000).encode()
    r.receive_data(sealed(i, GOODBYE, hostile), 0.0)
    ended = end_of(drain(r))
    assert ended.reason is Reason.PROTOCOL
    assert ended.clean
    assert len(ended.detail.encode()) <= 2048
    assert ended.detail.isprintable()


@pytest.mark.parametrize("code", [0, 24, 999, 65535])
def test_a_reason_of_a_later_version_is_an_end_in_order(code):
    i, r = live()
    r.receive_data(sealed(i, GOODBYE, msg.Goodbye(code, "why").encode()), 0.0)
    assert drain(r) == [Ended(Reason.CLOSED, f"reason {code}: why", clean=True)]


def test_every_reason_can_be_said():
    for reason in Reason:
        i, r = live()
        i.goodbye(reason)
        assert deliver(i, r) == [Ended(reason, "", clean=True)]


def test_a_session_that_is_over_holds_no_keys():
    i, r = live()
    i.goodbye(Reason.CLOSED)
    pump(i, r)
    for session in (i, r):
        assert session._inbound is None
        assert session._outbound is None
        assert session._handshake is None


def test_the_ephemeral_key_is_gone_once_the_session_keys_are_there():
    i, r = live()
    assert i._handshake is None
    assert r._handshake is None


def test_ended_is_frozen():
    ended = Ended(Reason.CLOSED, "", clean=True)
    with pytest.raises(AttributeError):
        ended.reason = Reason.DEAD


def test_who_answers_in_a_handshake_was_heard_then() -> None:
    i, r = start()
    r.receive_data(i.data_to_send(), 2.5)
    drain(r)
    assert r.last_seen == 2.5


def test_T23_a_frame_has_as_long_as_its_length_says() -> None:
    patient = config("b", limits_ping_after_s=1000.0, limits_dead_after_s=3000.0)
    _, r = live(config("a"), patient)
    r.receive_data(encode_varint(160 * 1024), 10.0)
    drain(r)
    limits = patient.limits
    assert r.next_deadline() == 10.0 + limits.frame_s_base + 160 * 1024 / limits.frame_bytes_per_s_min


def test_a_bundle_is_closed_when_its_bytes_reach_the_bound() -> None:
    # Each message counts with 30 bytes of overhead: three of 20 bytes are 150.
    for bound, expected in ((149, [BUNDLE, DATA]), (150, [BUNDLE, DATA]), (151, [BUNDLE])):
        bounds = {"limits_bundle_bytes": bound}
        i, _ = live(config("a", **bounds), config("b", **bounds))
        for _ in range(4):
            i.send(DATA, data(bytes(8)))
        assert types(i.data_to_send()) == expected


@pytest.mark.parametrize("bound", [100, 101])
def test_what_a_session_asks_itself_is_bundled_by_the_same_bound(bound: int) -> None:
    bounds = {"limits_bundle_bytes": bound}
    i, _ = live(config("a", **bounds), config("b", **bounds))
    for _ in range(2):
        i.send(DATA, data(bytes(8)))
    i.ping(0.0)
    i.ping(0.0)
    assert types(i.data_to_send()) == ([BUNDLE, BUNDLE] if bound == 100 else [BUNDLE, PING])


def test_who_is_let_in_may_send_no_more_than_a_frame_before_the_answer() -> None:
    for more, state in ((0, State.DECIDING), (1, State.ENDED)):
        i, r = start()
        i.receive_data(_answer(i, r), 0.0)
        drain(i)
        r.receive_data(i.data_to_send(), 0.0)
        drain(r, accept=False)
        assert r.state is State.DECIDING
        r.receive_data(bytes(config().limits.frame_bytes_max), 0.0)
        r.receive_data(bytes(more), 0.0)
        assert r.state is state


def _answer(i: Session, r: Session) -> bytes:
    r.receive_data(i.data_to_send(), 0.0)
    drain(r)
    return r.data_to_send()


def test_a_session_that_heard_nothing_is_amid_no_frame() -> None:
    for session in start():
        assert not session.is_amid_frame


def test_a_busy_direction_keeps_its_cipher_until_the_link_says_nothing() -> None:
    i, r = live()
    for _ in range(20):
        for sender, receiver in ((i, r), (r, i)):
            sender.send(DATA, EMPTY_DATA)
            deliver(sender, receiver)
    directions = [i._inbound, i._outbound, r._inbound, r._outbound]
    assert all(direction._aead is not None for direction in directions)
    i.ping(0.0)
    deliver(i, r)
    deliver(r, i)
    assert all(direction._aead is None for direction in directions)


def test_a_ping_that_cannot_be_answered_any_more_is_told_before_the_end() -> None:
    alone = {"capabilities": (("cipher", "aes256gcm"),)}
    i, r = live(config("a", **alone), config("b", **alone))
    r._outbound._counter = 2**64 - 1
    i.ping(0.0)
    events = deliver(i, r)
    assert events[0] == Pinged()
    assert end_of(events).reason is Reason.CRYPTO
    assert len(events) == 2


def test_a_session_begins_without_a_cipher_and_is_as_old_as_its_begin() -> None:
    for session in start(now=7.0):
        assert (session.cipher, session.last_seen, session.rtt_s) == ("", 7.0, None)


def test_last_words_go_out_before_a_goodbye_is_answered_and_only_on_a_live_session() -> None:
    i, r = live()
    r.before_answering_goodbye(lambda: r.send(DATA, data(b"last words")))
    i.goodbye(Reason.CLOSED)
    assert end_of(deliver(i, r)).clean
    events = deliver(r, i)
    assert bodies(events) == [b"last words"]
    assert end_of(events) == Ended(Reason.CLOSED, "", clean=True)

    said = []
    i, r = live()
    r.before_answering_goodbye(lambda: said.append("live"))
    r.goodbye(Reason.CLOSED)
    i.goodbye(Reason.CLOSED)
    deliver(i, r)
    assert said == []
    i, r = start()
    i.before_answering_goodbye(lambda: said.append("not yet live"))
    i.receive_data(_answer(i, r), 0.0)
    drain(i)
    r.receive_data(i.data_to_send(), 0.0)
    drain(r)
    r.goodbye(Reason.CLOSED)
    assert end_of(deliver(r, i)).clean
    assert said == []


@pytest.mark.parametrize("limits", [{}, {"limits_bundle_messages_max": 3}, {"limits_bundle_bytes": 1000}])
@given(rows=st.lists(st.lists(st.sampled_from([0, 1, 100, 100, 100, 900, 20_000]), max_size=9), min_size=1, max_size=5))
def test_a_row_is_as_good_as_its_messages_one_by_one(limits, rows):
    together, one_by_one = live(config("a", **limits)), live(config("a", **limits))
    sent = []
    for row in rows:
        payloads = [data(bytes((number,)) * size) for number, size in enumerate(row)]
        together[0].send_row(payloads)
        for payload in payloads:
            one_by_one[0].send(DATA, payload)
        sent += [msg.decode_data(payload).body for payload in payloads]
    assert bodies(deliver(*together)) == bodies(deliver(*one_by_one)) == sent


def test_a_row_fills_a_bundle_and_no_more():
    i, r = live()
    for _ in range(7):
        i.send_row([data(bytes(1000))] * 16)
    stream = i.data_to_send()
    assert types(stream) == [BUNDLE] * 2
    assert all(len(envelope.payload) <= 64 * 1024 for envelope in envelopes(stream))
    r.receive_data(stream, 0.0)
    assert len(bodies(drain(r))) == 112


def test_a_row_does_not_make_more_messages_of_a_bundle_than_it_may_have():
    i, _ = live(config("a", limits_bundle_messages_max=6), config("b"))
    for _ in range(3):
        i.send_row([data(b"x")] * 3)
    i.send_row([data(b"x")] * 4)
    assert types(i.data_to_send()) == [BUNDLE, BUNDLE, int(DATA)], "six, six and one"


def test_a_session_that_has_ended_takes_no_row():
    i, _ = live()
    i.goodbye(Reason.CLOSED)
    i.send_row([])
    with pytest.raises(LocalProtocolError, match="takes no messages"):
        i.send_row([data(b"x")] * 2)
