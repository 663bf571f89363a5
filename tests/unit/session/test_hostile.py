"""Streams that were cut, changed, ended early, or made of nothing but malice."""

from __future__ import annotations

import functools
import itertools
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2p import msg
from p2p.binary import encode_bytes, encode_varint
from p2p.envelope import Envelope, ProtocolVersion
from p2p.errors import Reason
from p2p.session import Ended, Event, Live, PeerProven, ReceivedRow, Session, State
from tests.unit.session.helpers import (
    DATA,
    EMPTY_DATA,
    NETWORK_KEY,
    bodies,
    config,
    deliver,
    drain,
    frames_of,
    live,
    pump,
    sealed,
    start,
    twins,
    varint_size,
)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "ws://"),
        (b"HTTP/1.1 400 Bad Request\r\n" + b"x-more: 1\r\n" * 1000, "ws://"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "wss://"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "SSH"),
    ],
)
def test_an_answer_in_another_protocol_is_named(answer: bytes, says: str) -> None:
    session, _ = start(config("a"), config("b"))
    session.data_to_send()
    session.receive_data(answer[:3], 0.0)
    session.receive_data(answer[3:], 0.0)
    session.receive_eof(0.0)
    [ended] = drain(session)
    assert isinstance(ended, Ended)
    assert says in ended.detail


KEYS = pytest.mark.parametrize("key", [None, NETWORK_KEY], ids=["XX", "XXpsk0"])


@functools.cache
def conversation(key: bytes | None = None) -> tuple[list[bytes], list[bytes]]:
    """What both sides write in one whole conversation: chunks of the initiator, chunks of the responder."""
    i, r = start(config("a", network_key=key), config("b", network_key=key))
    of_i, of_r = [], []

    def turn(sender: Session, receiver: Session, chunks: list[bytes]) -> None:
        chunks.append(sender.data_to_send())
        receiver.receive_data(chunks[-1], 0.0)
        drain(receiver)

    turn(i, r, of_i)
    turn(r, i, of_r)
    turn(i, r, of_i)
    r.send(257, msg.WalHeads().encode())
    turn(r, i, of_r)
    for n in range(5):
        i.send(DATA, msg.encode_data(b"chat", 0, 0, bytes((n,)) * 40))
    turn(i, r, of_i)
    i.send(DATA, msg.encode_data(b"bulk", 0, 0, bytes(3000)))
    i.ping(0.0)
    turn(i, r, of_i)
    turn(r, i, of_r)
    r.send(DATA, EMPTY_DATA)
    i.goodbye(Reason.CLOSED, "done")
    turn(i, r, of_i)
    turn(r, i, of_r)
    assert i.state is r.state is State.ENDED
    return of_i, of_r


def listener(side: int, key: bytes | None) -> Session:
    """The session on one side of the recording, before it heard anything."""
    session = start(config("a", network_key=key), config("b", network_key=key))[side]
    # The Pong in the recording answers a Ping that this side does not get to send here.
    session._liveness._pings_sent = 1 - side
    return session


def replay_to(side: int, key: bytes | None, cuts: list[int] | None = None, *, until: int | None = None) -> list[Event]:
    """Events of one side when the other's recorded bytes come in, cut elsewhere; ends with EOF when they are cut short.

    Both sides draw from fixed entropy, so this side says the same as in the recording and the recording fits.
    """
    chunks = conversation(key)
    heard = b"".join(chunks[1 - side])
    session = listener(side, key)
    events: list[Event] = []
    end = len(heard) if until is None else until
    bounds = sorted({0, end, *(cut % (end + 1) for cut in cuts or [])})
    for begin, stop in itertools.pairwise(bounds):
        session.receive_data(heard[begin:stop], 0.0)
        events += drain(session)
    if until is not None:
        session.receive_eof(0.0)
        events += drain(session)
    return events


@KEYS
@pytest.mark.parametrize("side", [0, 1])
def test_one_byte_at_a_time_gives_the_same_events(key, side):
    heard = sum(len(chunk) for chunk in conversation(key)[1 - side])
    single = replay_to(side, key, list(range(heard)))
    assert single == replay_to(side, key)
    assert [type(event) for event in single[:2]] == [PeerProven, Live]
    assert single[-1] == Ended(Reason.CLOSED, "done" if side else "", clean=True)


@given(cuts=st.lists(st.integers(0, 10_000), max_size=30))
@example(cuts=[])
def test_any_cut_of_the_stream_gives_the_same_events(cuts):
    events = replay_to(1, None, cuts)
    assert events == EXPECTED_AT_RESPONDER


EXPECTED_AT_RESPONDER = replay_to(1, None, list(range(6000)))


def test_the_expectation_holds_everything():
    assert len(bodies(EXPECTED_AT_RESPONDER)) == 6
    assert any(isinstance(event, ReceivedRow) for event in EXPECTED_AT_RESPONDER)
    assert EXPECTED_AT_RESPONDER[-1] == Ended(Reason.CLOSED, "done", clean=True)


@KEYS
@pytest.mark.parametrize("side", [0, 1])
def test_T10_the_stream_may_end_at_every_byte(key, side):
    heard = b"".join(conversation(key)[1 - side])
    # The handshake is heard once for all that end behind it.
    welcome, begin = listener(side, key), 0
    while welcome.state is not State.LIVE:
        welcome.receive_data(heard[begin : begin + 1], 0.0)
        drain(welcome)
        begin += 1
    # Every run looks at each place of the shorter half; of the longer one, and with a key, at every few of them.
    step = 7 if key is not None else 3 if side else 1
    for until in range(0, len(heard), step):
        if until < begin:
            events = replay_to(side, key, until=until)
        else:
            (session,) = twins(welcome)
            session.receive_data(heard[begin:until], 0.0)
            session.receive_eof(0.0)
            events = drain(session)
        ends = [event for event in events if isinstance(event, Ended)]
        assert ends == [Ended(Reason.ABNORMAL, "the stream ended without a Goodbye", clean=False)]
        assert events[-1] is ends[0]


# Bits.


def assert_outer_end(session: Session, events: list[Event]) -> None:
    """A failure that nobody outside can tell from any other: one end, no byte, nothing given out."""
    assert [type(event) for event in events] == [Ended]
    assert events[0].reason in {Reason.CRYPTO, Reason.FRAME_TOO_LARGE}
    assert not events[0].clean
    assert session.data_to_send() == b""
    assert session.state is State.ENDED


@pytest.mark.parametrize("kind", ["lone", "bundle", "goodbye"])
def test_T19_any_bit_of_a_sealed_frame_is_one_indistinguishable_end(kind):
    def prepared() -> tuple[Session, bytes]:
        i, r = live()
        for n in range({"lone": 1, "bundle": 3, "goodbye": 0}[kind]):
            i.send(DATA, msg.encode_data(b"chat", 0, 0, bytes((n,)) * 20))
        if kind == "goodbye":
            i.goodbye(Reason.CLOSED, "bye")
        return r, i.data_to_send()

    _, frame = prepared()
    header = varint_size(frame)
    details = set()
    # Every bit of a short frame; of longer ones one bit of each byte, another one from byte to byte.
    bits = range(len(frame) * 8) if kind == "lone" else [8 * n + n % 8 for n in range(len(frame))]
    for bit in bits:
        r, frame = prepared()
        changed = bytearray(frame)
        changed[bit // 8] ^= 1 << bit % 8
        # Enough follows for a frame that claims to be longer than it is; what follows is what a sender would send.
        r.receive_data(bytes(changed), 0.0)
        events = drain(r)
        if not events:
            assert bit // 8 < header
            r.receive_data(bytes(600_000), 0.0)
            events = drain(r)
            if not events:
                r.receive_data(bytes(600_000), 0.0)
                events = drain(r)
        assert_outer_end(r, events)
        if events[0].reason is Reason.CRYPTO:
            details.add(events[0].detail)
    assert len(details) == 1


@KEYS
def test_T19_any_bit_of_the_handshake_ends_it_in_silence(key):
    a, b = config("a", network_key=key), config("b", network_key=key)

    def prepared(number: int) -> tuple[Session, Session, bytes]:
        i, r = start(a, b)
        sides = [(i, r), (r, i), (i, r)]
        for sender, receiver in sides[:number]:
            deliver(sender, receiver)
        return *sides[number], sides[number][0].data_to_send()

    rng = random.Random(19)
    for number in range(3):
        size = len(prepared(number)[2])
        for position in range(size):
            sender, receiver, frame = prepared(number)
            changed = bytearray(frame)
            changed[position] ^= 1 << rng.randrange(8)
            receiver.receive_data(bytes(changed), 0.0)
            of_receiver = drain(receiver)
            if of_receiver:
                assert [type(event) for event in of_receiver] == [Ended]
                assert receiver.data_to_send() == b""
                continue
            # A length that grew waits for more; a Hello without a key is found out by the answer to it.
            assert number == 0 or position < varint_size(frame)
            of_receiver, of_sender = pump(receiver, sender)
            assert not any(isinstance(event, Live | PeerProven) for event in of_receiver + of_sender)
            for session in (sender, receiver):
                session.handle_deadline(10.0)
                ended = drain(session)
                assert session.state is State.ENDED
                assert all(isinstance(event, Ended) for event in ended)


# Arbitrary bytes.


def stage(number: int) -> Session:
    """A session in each of the states that read."""
    i, r = start()
    if number == 0:
        return r
    if number == 1:
        i.data_to_send()
        return i
    deliver(i, r)
    if number == 2:
        r.data_to_send()
        return r
    deliver(r, i)
    if number == 3:
        i.data_to_send()
        assert i.state is State.CONFIRMING
        return i
    i, r = live()
    if number == 4:
        return i
    r.goodbye(Reason.CLOSED)
    r.data_to_send()
    assert r.state is State.ENDING
    return r


def envelope_like() -> st.SearchStrategy[bytes]:
    """Frames that are nearly right."""
    return st.builds(
        lambda number, msg_id, flags, payload, minor: encode_bytes(
            Envelope(
                ProtocolVersion(1, minor),
                number,
                msg_id,
                flags,
                payload,
                *((bytes(12), bytes(16)) if flags & 1 else (b"", b"")),
            ).encode()
        ),
        st.sampled_from([1, 2, 3, 4, 5, 10, 11, 12, 256, 257, 258, 259, 260, 262, 0x8000]),
        st.integers(0, 2**64 - 1),
        st.sampled_from([0, 0, 1, 2, 4, 5, 7]),
        st.binary(max_size=200),
        st.sampled_from([0, 0, 1, 65535]),
    )


HOSTILE = st.lists(
    st.one_of(
        st.binary(max_size=60),
        envelope_like(),
        st.builds(lambda size, body: encode_varint(size) + body, st.integers(0, 2**64 - 1), st.binary(max_size=40)),
    ),
    max_size=6,
)


@given(number=st.integers(0, 5), chunks=HOSTILE, eof=st.booleans())
def test_arbitrary_bytes_never_raise_and_never_get_through(number, chunks, eof):
    session = stage(number)
    events: list[Event] = []
    for chunk in chunks:
        session.receive_data(chunk, 1.0)
        events += drain(session)
    if eof:
        session.receive_eof(1.0)
        events += drain(session)
    assert all(isinstance(event, Ended) for event in events)
    assert len(events) <= 1
    assert events or not eof
    if events:
        assert not events[0].clean
        assert session.data_to_send() == b""
    assert session.next_deadline() > 1.0


@given(
    inside=st.lists(
        st.tuples(
            st.sampled_from([0, 1, 2, 3, 4, 5, 10, 11, 12, 256, 257, 258, 259, 260, 261, 262, 0x8000, 0xFFFF]),
            st.sampled_from([0, 0, 0, 2, 4, 6]),
            st.one_of(st.binary(max_size=80), st.just(EMPTY_DATA), envelope_like()),
            st.integers(-2, 3),
        ),
        max_size=8,
    ),
    confirming=st.booleans(),
)
def test_an_authenticated_peer_that_sends_anything_never_makes_it_raise(inside, confirming):
    if confirming:
        i, r = start()
        deliver(i, r)
        deliver(r, i)
        deliver(i, r)
        sender, receiver = r, i
    else:
        sender, receiver = live()
    events: list[Event] = []
    for type, flags, payload, step in inside:
        sender._next_id = max(0, sender._next_id + step)
        receiver.receive_data(sealed(sender, type, payload, flags=flags, msg_id=sender._next_id), 0.0)
        events += drain(receiver)
        assert receiver.pending_bytes < 10_000
    assert sum(isinstance(event, Ended) for event in events) <= 1
    if receiver.state is State.ENDED:
        assert isinstance(events[-1], Ended)


def test_T31_memory_is_bounded_by_what_was_fed_not_by_what_is_claimed():
    for number in range(6):
        session = stage(number)
        bound = 4096 if number < 3 else 1024 * 1024
        session.receive_data(encode_varint(bound) + b"VP2P", 0.0)
        assert drain(session) == []
        assert session._decoder.buffered == 4
        fed = 4
        while session.state is not State.ENDED and fed < 4 * bound:
            session.receive_data(bytes(1000), 0.0)
            drain(session)
            fed += 1000
            assert session._decoder.buffered <= bound + 1000
        assert session.state is State.ENDED
        assert session._decoder.buffered == 0


def test_after_the_end_nothing_is_kept():
    i, r = live()
    r.receive_data(b"garbage", 0.0)
    drain(r)
    for _ in range(100):
        r.receive_data(bytes(65_536), 0.0)
        r.receive_eof(0.0)
    assert r._decoder.buffered == 0
    assert drain(r) == []
    assert i.state is State.LIVE


@given(
    plan=st.lists(
        st.tuples(st.booleans(), st.one_of(st.integers(0, 300), st.sampled_from([16_383, 16_384, 70_000]))), max_size=40
    ),
    breaks=st.sets(st.integers(0, 40)),
    rekey_every=st.sampled_from([1, 2, 5, 65_536]),
)
def test_whatever_is_sent_arrives_once_and_in_order(plan, breaks, rekey_every):
    i, r = live(config("a", limits_rekey_every=rekey_every), config("b", limits_rekey_every=rekey_every))
    sent: dict[bool, list[bytes]] = {True: [], False: []}
    got: dict[bool, list[bytes]] = {True: [], False: []}

    def move() -> None:
        for to_r, events in ((False, deliver(r, i)), (True, deliver(i, r))):
            got[to_r] += bodies(events)

    for n, (to_r, size) in enumerate(plan):
        body = n.to_bytes(4, "little") + bytes(size)
        (i if to_r else r).send(DATA, msg.encode_data(b"c", 0, 0, body))
        sent[to_r].append(body)
        if n in breaks:
            move()
    move()
    assert got == sent


def test_frames_of_helper_splits_where_frames_end():
    i, _ = live()
    i.send(DATA, EMPTY_DATA)
    one = i.data_to_send()
    i.send(DATA, msg.encode_data(b"c", 0, 0, bytes(20_000)))
    two = i.data_to_send()
    assert frames_of(one + two) == [one, two]
