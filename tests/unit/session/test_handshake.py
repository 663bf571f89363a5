"""The handshake: who gets through, and everything that does not."""

from __future__ import annotations

import pytest

from p2p.binary import encode_varint
from p2p.crypto.identity import Identity
from p2p.crypto.noise import HandshakeState, NoiseStatic
from p2p.errors import LocalProtocolError, Reason
from p2p.msg import Hello, HelloAck, encode_capabilities
from p2p.session import Ended, Live, PeerProven, Role, Session, State
from p2p.session.handshake import CLEAR_CAPABILITIES, choose_cipher
from p2p.session.states import NEXT
from tests.unit.session.helpers import (
    CAPABILITIES,
    DATA,
    EMPTY_DATA,
    NETWORK_KEY,
    WALL_MS,
    Forger,
    config,
    deliver,
    drain,
    entropy,
    frames_of,
    live,
    plain_frame,
    pump,
    start,
    varint_size,
)

BOTH_WAYS = pytest.mark.parametrize("key", [None, NETWORK_KEY], ids=["XX", "XXpsk0"])


def only_end(events: list[object]) -> Ended:
    """The one event there is: an end."""
    assert len(events) == 1, events
    assert isinstance(events[0], Ended)
    return events[0]


def silent(session: Session) -> bool:
    return session.data_to_send() == b"" and session.state is State.ENDED


@BOTH_WAYS
def test_two_strangers_become_proven_peers(key):
    a, b = config("a", network_key=key), config("b", network_key=key)
    i, r = start(a, b)
    assert (i.state, r.state) == (State.WAIT_HELLO_ACK, State.WAIT_HELLO)
    assert deliver(i, r) == []
    assert r.state is State.WAIT_HELLO_FINISH
    events = deliver(r, i, accept=False)
    assert events == [PeerProven(b.identity.peer_id, "b", dict(CAPABILITIES))]
    assert (i.peer_id, i.node_id) == (b.identity.peer_id, "b")
    assert i.state is State.DECIDING
    assert i.data_to_send() == b""
    i.accept()
    assert i.state is State.CONFIRMING
    events = deliver(i, r, accept=False)
    assert events == [PeerProven(a.identity.peer_id, "a", dict(CAPABILITIES))]
    assert drain(r) == []
    r.accept()
    assert drain(r) == [Live()]
    assert r.state is State.LIVE
    # The responder says nothing by itself; what its owner says first makes the initiator live.
    assert r.data_to_send() == b""
    assert i.state is State.CONFIRMING
    r.send(DATA, EMPTY_DATA)
    events = deliver(r, i)
    assert events[0] == Live()
    assert i.state is State.LIVE
    assert i.cipher == r.cipher == "aes256gcm"


def test_every_transition_of_the_tables_happens_and_no_other(monkeypatch):
    seen = set()
    move = Session._move

    def recorded(session: Session, state: State) -> None:
        seen.add((session.role, session.state, state))
        move(session, state)

    monkeypatch.setattr(Session, "_move", recorded)
    late = 1e9
    for stop in range(6):
        for side in range(2):
            # Go some steps, then time is up for one side.
            pair = start()
            steps = [
                lambda p: deliver(p[0], p[1]),
                lambda p: deliver(p[1], p[0], accept=False),
                lambda p: p[0].accept(),
                lambda p: deliver(p[0], p[1], accept=False),
                lambda p: p[1].accept(),
                lambda p: (p[1].send(DATA, EMPTY_DATA), deliver(p[1], p[0])),
            ]
            for step in steps[:stop]:
                step(pair)
            pair[side].handle_deadline(late)
            assert pair[side].state is State.ENDED
    for side in range(2):
        # Not a copy of a pair that became live before this test began.
        pair = live(config("a"), config("b"))
        pair[side].handle_deadline(late)
        pair = live()
        pair[side].goodbye(Reason.CLOSED)
        pair[side].handle_deadline(late)
    i, r = start()
    deliver(i, r)
    deliver(r, i)
    i.goodbye(Reason.CLOSED)
    assert seen == {(role, old, new) for (role, old), following in NEXT.items() for new in following}


@pytest.mark.parametrize("side", [0, 1])
def test_nothing_can_be_sent_before_the_session_is_live(side):
    i, r = start()
    session = (i, r)[side]
    steps = [
        lambda: None,
        lambda: deliver(i, r),
        lambda: deliver(r, i, accept=False),
        i.accept,
        lambda: deliver(i, r, accept=False),
    ]
    for step in steps:
        step()
        with pytest.raises(LocalProtocolError):
            session.send(DATA, EMPTY_DATA)
    assert pump(i, r)[1] == []


def test_accept_and_refuse_answer_a_question_only():
    i, r = start()
    for session in (i, r):
        for answer in (session.accept, lambda s=session: s.refuse(Reason.FULL)):
            with pytest.raises(LocalProtocolError):
                answer()
    i, r = live()
    with pytest.raises(LocalProtocolError):
        i.accept()
    # A decision that comes after the time was up does nothing.
    i, r = start()
    deliver(i, r)
    deliver(r, i, accept=False)
    i.handle_deadline(100.0)
    i.accept()
    i.refuse(Reason.FULL)
    assert only_end(drain(i)).reason is Reason.TIMEOUT
    assert silent(i)


def test_the_first_envelope_may_be_a_bundle_or_of_an_unknown_type():
    for first in ("bundle", "unknown", "ping"):
        i, r = start()
        deliver(i, r)
        deliver(r, i)
        deliver(i, r)
        if first == "bundle":
            r.send(DATA, EMPTY_DATA)
            r.send(DATA, EMPTY_DATA)
        elif first == "unknown":
            r.send(0x9000, b"?")
        else:
            r.ping(0.0)
        events = deliver(r, i)
        assert events[0] == Live()
        assert len(events) == (3 if first == "bundle" else 2)


@pytest.mark.parametrize("reason", [Reason.NOT_ADMITTED, Reason.FULL, Reason.LABEL_CONFLICT])
def test_a_responder_refuses_under_the_seal(reason):
    i, r = start()
    deliver(i, r)
    deliver(r, i)
    assert isinstance(deliver(i, r, accept=False)[0], PeerProven)
    r.refuse(reason, "no room\x1b[2J\nfor you")
    told = only_end(drain(r))
    assert (told.reason, told.clean) == (reason, True)
    data = r.data_to_send()
    assert len(frames_of(data)) == 1
    assert b"no room" not in data
    i.receive_data(data, 0.0)
    told = only_end(drain(i))
    assert told == Ended(reason, r"no room\x1b[2J\nfor you", clean=True)
    assert r.state is State.ENDED


def test_T12_an_initiator_refuses_whom_it_did_not_dial_without_a_word():
    i, r = start()
    deliver(i, r)
    proven = deliver(r, i, accept=False)[0]
    assert proven.peer_id != config("c").identity.peer_id
    i.refuse(Reason.WRONG_PEER, "not the one")
    assert only_end(drain(i)).reason is Reason.WRONG_PEER
    assert silent(i)
    r.receive_eof(0.0)
    assert only_end(drain(r)).reason is Reason.ABNORMAL


# Downgrades and mismatches.


@pytest.mark.parametrize(
    ("of_i", "of_r"),
    [
        ({"network_key": NETWORK_KEY}, {"network_key": bytes(32)}),
        ({"network_key": None}, {"network_key": NETWORK_KEY}),
        ({"network_key": NETWORK_KEY}, {"network_key": None}),
        ({"network_key": NETWORK_KEY, "network_name": "x"}, {"network_key": NETWORK_KEY, "network_name": "y"}),
    ],
    ids=["other key", "no key", "needless key", "other name under a key"],
)
def test_T11_a_stranger_to_the_network_fails_at_the_first_message(of_i, of_r):
    i, r = start(config("a", **of_i), config("b", **of_r))
    assert only_end(deliver(i, r)).reason is Reason.CRYPTO
    assert silent(r)


def test_T11_another_network_name_fails_at_the_second_message():
    i, r = start(config("a", network_name="one"), config("b", network_name="two"))
    assert deliver(i, r) == []
    assert only_end(deliver(r, i)).reason is Reason.CRYPTO
    assert silent(i)


def test_network_names_that_agree_go_through():
    i, r = start(config("a", network_name="one"), config("b", network_name="one"))
    pump(i, r)
    assert r.state is State.LIVE


def deliver_with(i, r, message, at, value):
    """Go through the messages of a handshake until this one, and change a byte of its envelope; returns who got it."""
    sides = [i, r, i, r]
    for number in range(message):
        deliver(sides[number], sides[number + 1])
    frame = bytearray(sides[message].data_to_send())
    frame[varint_size(frame) + at] = value
    sides[message + 1].receive_data(bytes(frame), 0.0)
    return sides[message + 1]


@pytest.mark.parametrize("message", [0, 1, 2])
def test_T11_another_major_version_is_refused(message):
    receiver = deliver_with(*start(), message, at=4, value=2)
    assert only_end(drain(receiver)).reason is Reason.VERSION
    assert silent(receiver)


@pytest.mark.parametrize("message", [0, 1, 2])
def test_T11_a_minor_version_changed_on_the_way_ends_it(message):
    i, r = start()
    deliver_with(i, r, message, at=6, value=1)
    of_i, of_r = pump(i, r)
    assert any(isinstance(event, Ended) for event in of_i + of_r)
    assert not any(isinstance(event, Live | PeerProven) for event in of_i + of_r)


def test_a_hello_of_a_later_minor_is_answered_in_it():
    victim = config("b")
    forger, r = Forger(victim), start(b=victim)[1]
    r.receive_data(forger.hello(version=(1, 7)), 0.0)
    assert drain(r) == []
    ack = r.data_to_send()
    assert ack[varint_size(ack) + 6] == 7
    forger.read_ack(ack)
    r.receive_data(forger.finish(version=(1, 7)), 0.0)
    assert isinstance(drain(r)[0], PeerProven)


def test_the_clear_hello_offers_the_handshake_and_nothing_else():
    i, _ = start(config("a", capabilities=(("bundle", "1"), ("secret", "x"))))
    frame = i.data_to_send()
    hello = Hello.decode(frame[varint_size(frame) + 24 :])
    assert hello.capabilities == (("hs", "noise"), ("proto", "1.0")) == CLEAR_CAPABILITIES
    assert (hello.node_id, hello.ts_ms) == ("a", WALL_MS)
    assert len(hello.public_key) == 32


# A peer that keeps to Noise and lies elsewhere.


def forged(victim=None, **finish):
    """What a responder makes of a handshake with one thing wrong in its last message."""
    victim = victim or config("b")
    forger, r = Forger(victim), start(b=victim)[1]
    r.receive_data(forger.hello(), 0.0)
    assert drain(r) == []
    forger.read_ack(r.data_to_send())
    finish = {key: value(forger) if callable(value) else value for key, value in finish.items()}
    r.receive_data(forger.finish(**finish), 0.0)
    events = drain(r, accept=False)
    if isinstance(events[0], Ended):
        assert silent(r)
    return events[0]


@BOTH_WAYS
def test_the_forger_itself_gets_through_when_it_does_not_lie(key):
    assert isinstance(forged(config("b", network_key=key)), PeerProven)


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ({"sealed_nonces": lambda f: (f.nonce_a + 1, f.nonce_b)}, Reason.CRYPTO),
        ({"sealed_nonces": lambda f: (f.nonce_a, f.nonce_b ^ 1)}, Reason.CRYPTO),
        ({"clear_nonces": lambda f: (f.nonce_a + 1, f.nonce_b)}, Reason.CRYPTO),
        ({"clear_nonces": lambda f: (f.nonce_a, f.nonce_b ^ 1)}, Reason.CRYPTO),
        ({"node_id": "another"}, Reason.CRYPTO),
        ({"signature": bytes(64)}, Reason.CRYPTO),
        ({"role": 1}, Reason.CRYPTO),
        ({"peer_id": config("c").identity.peer_id}, Reason.CRYPTO),
        ({"peer_id": b"\x01" + bytes(31)}, Reason.CRYPTO),
        ({"signed_static": bytes(32)}, Reason.CRYPTO),
        ({"signed_ephemeral": bytes(32)}, Reason.CRYPTO),
        ({"tail": b"\0"}, Reason.PROTOCOL),
        ({"capabilities": b"\x05"}, Reason.PROTOCOL),
        ({"capabilities": b"\x02\x01k\x01v\x01k\x01v"}, Reason.PROTOCOL),
        ({"capabilities": encode_capabilities(tuple((f"k{n}", "") for n in range(65)))}, Reason.PROTOCOL),
        ({"type": 4}, Reason.PROTOCOL),
        ({"flags": 4}, Reason.PROTOCOL),
        ({"flags": 2}, Reason.PROTOCOL),
        ({"flags": 1}, Reason.PROTOCOL),
        ({"msg_id": 1}, Reason.PROTOCOL),
        ({"msg_id": 3}, Reason.PROTOCOL),
        ({"version": (1, 1)}, Reason.VERSION),
        ({"version": (2, 0)}, Reason.VERSION),
    ],
    ids=lambda value: value.label if isinstance(value, Reason) else "+".join(value),
)
def test_T14_a_lie_in_the_last_message_is_found(lie, reason):
    told = forged(**lie)
    assert (told.reason, told.clean) == (reason, False)


def test_T12_a_proof_cannot_be_carried_to_another_session():
    """Unknown key share: M shows B the signature that A made for M."""
    m, b = config("m"), config("b")
    i, at_m = start(config("a"), m)
    deliver(i, at_m)
    deliver(at_m, i)
    signed = []
    read = at_m._handshake._noise.read_message

    class Spy:
        def __getattr__(self, name):
            return getattr(at_m_noise, name)

        def read_message(self, message):
            signed.append(read(message))
            return signed[-1]

    at_m_noise = at_m._handshake._noise
    at_m._handshake._noise = Spy()
    assert isinstance(deliver(i, at_m, accept=False)[0], PeerProven)
    signature, peer_id = signed[0][-64:], signed[0][-96:-64]
    assert peer_id == config("a").identity.peer_id
    for static in (None, m.static):
        forger, r = Forger(b, static=static), start(b=b)[1]
        r.receive_data(forger.hello(), 0.0)
        drain(r)
        forger.read_ack(r.data_to_send())
        r.receive_data(forger.finish(peer_id=peer_id, signature=signature), 0.0)
        assert only_end(drain(r)).reason is Reason.CRYPTO


def test_T12_a_man_in_the_middle_shows_his_own_identity_or_fails():
    a, b, m = config("a"), config("b"), config("m")
    # He answers himself: the identity proven is his.
    i, at_m = start(a, m)
    deliver(i, at_m)
    proven = deliver(at_m, i, accept=False)[0]
    assert proven.peer_id == m.identity.peer_id != b.identity.peer_id
    # He passes B's answer to his own Hello on to A: A's transcript is another.
    i, _ = start(a, b)
    to_b, r = start(m, b, seed="m")
    r.receive_data(to_b.data_to_send(), 0.0)
    assert drain(r) == []
    i.receive_data(r.data_to_send(), 0.0)
    assert only_end(drain(i)).reason is Reason.CRYPTO


def test_T14_a_label_that_looks_like_another_peer_id_is_refused():
    me = Forger(config("b")).identity.peer_id
    other = config("c").identity.peer_id
    for label, fine in ((str(me), True), (str(other), False)):
        victim = config("b")
        forger, r = Forger(victim), start(b=victim)[1]
        r.receive_data(forger.hello(node_id=label), 0.0)
        assert drain(r) == []
        forger.read_ack(r.data_to_send())
        r.receive_data(forger.finish(node_id=label), 0.0)
        event = drain(r, accept=False)[0]
        assert isinstance(event, PeerProven if fine else Ended)
        if not fine:
            assert event.reason is Reason.PROTOCOL


@pytest.mark.parametrize("label", ["", "x" * 65, "a b", "a\n", "é", "a/b", str(config("c").identity.peer_id).upper()])
def test_T14_a_responder_with_a_bad_label_is_refused(label):
    i, r = start(b=config("b", node_id=label))
    deliver(i, r)
    assert only_end(deliver(r, i)).reason is Reason.PROTOCOL


def test_T07_a_recorded_handshake_does_not_work_twice():
    recorded = []
    i, r = start()
    for sender, receiver in ((i, r), (r, i), (i, r)):
        recorded.append(sender.data_to_send())
        receiver.receive_data(recorded[-1], 0.0)
        drain(receiver)
    assert r.state is State.LIVE
    again = start(seed="fresh")[1]
    again.receive_data(recorded[0], 0.0)
    assert drain(again) == []
    assert again.data_to_send() != recorded[1]
    again.receive_data(recorded[2], 0.0)
    assert only_end(drain(again)).reason is Reason.CRYPTO
    assert silent(again)
    # The responder's part played back to another Hello.
    once_more = start(seed="fresh")[0]
    once_more.receive_data(recorded[1], 0.0)
    assert only_end(drain(once_more)).reason is Reason.CRYPTO


def test_T08_what_we_said_coming_back_is_refused():
    i, _ = start()
    i.receive_data(i.data_to_send(), 0.0)
    assert only_end(drain(i)).reason is Reason.PROTOCOL
    i, r = live()
    r.send(DATA, EMPTY_DATA)
    r.receive_data(r.data_to_send(), 0.0)
    assert only_end(drain(r)).reason is Reason.CRYPTO


def test_T08_a_node_that_dials_itself_notices():
    me = config("a")
    i, r = start(me, me)
    deliver(i, r)
    assert only_end(deliver(r, i)).reason is Reason.SELF
    assert silent(i)
    # The accepting side notices as well, if the dialling side would not.
    forger, r = Forger(me, static=me.static), start(b=me)[1]
    r.receive_data(forger.hello(), 0.0)
    drain(r)
    forger.read_ack(r.data_to_send())
    r.receive_data(forger.finish(), 0.0)
    assert only_end(drain(r)).reason is Reason.SELF


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ({"capabilities": ()}, Reason.PROTOCOL),
        ({"capabilities": (("hs", "null"), ("proto", "1.0"))}, Reason.PROTOCOL),
        ({"capabilities": (("hs", "noise"),)}, Reason.VERSION),
        ({"capabilities": (("hs", "noise"), ("proto", "2.0"))}, Reason.VERSION),
        ({"node_id": ""}, Reason.PROTOCOL),
        ({"node_id": "x" * 65}, Reason.PROTOCOL),
        ({"node_id": "a\r\nb"}, Reason.PROTOCOL),
        ({"payload": b"early"}, Reason.CRYPTO),
        ({"flags": 4}, Reason.PROTOCOL),
        ({"flags": 8}, Reason.PROTOCOL),
        ({"type": 2}, Reason.PROTOCOL),
        ({"type": 4}, Reason.PROTOCOL),
        ({"type": 259}, Reason.PROTOCOL),
        ({"type": 0x9000}, Reason.PROTOCOL),
        ({"msg_id": 0}, Reason.PROTOCOL),
        ({"msg_id": 2}, Reason.PROTOCOL),
        ({"msg_id": 2**64 - 1}, Reason.PROTOCOL),
    ],
    ids=str,
)
@BOTH_WAYS
def test_T05_a_hello_that_is_none_is_refused_without_an_answer(lie, reason, key):
    victim = config("b", network_key=key)
    r = start(b=victim)[1]
    r.receive_data(Forger(victim).hello(**lie), 0.0)
    assert only_end(drain(r)).reason is reason
    assert silent(r)


def test_T11_a_hello_changed_under_its_prologue_is_found():
    victim = config("b", network_key=NETWORK_KEY)
    r = start(b=victim)[1]
    signed = Hello(77, 5, "forger", (("hs", "noise"), ("proto", "1.0"), ("more", "x")))
    r.receive_data(Forger(victim).hello(prologue_hello=signed), 0.0)
    assert only_end(drain(r)).reason is Reason.CRYPTO


@pytest.mark.parametrize("public_key", [None, b"", bytes(31), bytes(32), bytes(96), bytes(300)])
def test_T09_a_hello_ack_without_a_key_exchange_is_refused(public_key):
    i, _ = start()
    frame = i.data_to_send()
    nonce_a = Hello.decode(frame[varint_size(frame) + 24 :]).nonce_a
    i.receive_data(plain_frame(4, HelloAck(nonce_a, 9, public_key).encode()), 0.0)
    assert only_end(drain(i)).reason is (Reason.PROTOCOL if public_key is None else Reason.CRYPTO)
    assert silent(i)


def test_a_hello_ack_for_another_hello_is_refused():
    i, r = start()
    deliver(i, r)
    frame = r.data_to_send()
    ack = HelloAck.decode(frame[varint_size(frame) + 24 :])
    changed = HelloAck(ack.nonce_a ^ 1, ack.nonce_b, ack.public_key)
    i.receive_data(plain_frame(4, changed.encode()), 0.0)
    assert only_end(drain(i)).reason is Reason.CRYPTO
    i, r = start()
    deliver(i, r)
    r.data_to_send()
    changed = HelloAck(ack.nonce_a, ack.nonce_b ^ 1, ack.public_key)
    i.receive_data(plain_frame(4, changed.encode()), 0.0)
    assert only_end(drain(i)).reason is Reason.CRYPTO


@pytest.mark.parametrize(
    "stranger", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01", b"SSH-2.0-x\r\n", b"\n\nhello there"]
)
@pytest.mark.parametrize("side", [0, 1])
def test_T05_another_protocol_is_refused_at_its_first_impossible_byte(stranger, side):
    session = start()[side]
    session.data_to_send()
    for position in range(len(stranger)):
        session.receive_data(stranger[position : position + 1], 0.0)
        events = drain(session)
        if events:
            break
    assert only_end(events).reason in {Reason.PROTOCOL, Reason.FRAME_TOO_LARGE}
    assert position <= 2
    assert silent(session)


@pytest.mark.parametrize("side", [0, 1])
def test_T06_a_frame_over_4_kib_is_refused_from_its_header(side):
    session = start()[side]
    session.data_to_send()
    session.receive_data(encode_varint(4096), 0.0)
    assert drain(session) == []
    session = start()[side]
    session.data_to_send()
    session.receive_data(encode_varint(4097), 0.0)
    assert only_end(drain(session)).reason is Reason.FRAME_TOO_LARGE
    assert silent(session)


def test_T06_the_bound_grows_only_after_the_last_message_of_the_handshake():
    """The header behind it, though it came in one read with it, is judged by the bound of a live session."""
    i, r = start()
    deliver(i, r)
    deliver(r, i)
    last = i.data_to_send()
    r.receive_data(last + encode_varint(1024 * 1024), 0.0)
    assert drain(r)[-1] == Live()
    # And before the owner has decided, nothing behind it is judged at all.
    i, r = start()
    deliver(i, r)
    deliver(r, i)
    r.receive_data(i.data_to_send() + encode_varint(1024 * 1024 + 1), 0.0)
    assert isinstance(drain(r, accept=False)[0], PeerProven)
    r.accept()
    events = drain(r)
    assert events[0] == Live()
    assert events[1].reason is Reason.FRAME_TOO_LARGE


def test_a_peer_that_does_not_wait_for_a_decision_is_bounded():
    i, r = start()
    deliver(i, r)
    deliver(r, i)
    r.receive_data(i.data_to_send(), 0.0)
    assert isinstance(r.next_event(), PeerProven)
    fed = 0
    while r.state is State.DECIDING:
        r.receive_data(bytes(65536), 0.0)
        fed += 65536
    assert fed <= r._limits.frame_bytes_max + 65536
    assert only_end(drain(r)).reason is Reason.PROTOCOL
    assert r._decoder.buffered == 0


# What is agreed on.


@pytest.mark.parametrize(
    ("ours", "theirs", "cipher"),
    [
        ("aes256gcm,chacha20poly1305", "aes256gcm,chacha20poly1305", "aes256gcm"),
        ("aes256gcm,chacha20poly1305", "chacha20poly1305,aes256gcm", "aes256gcm"),
        ("aes256gcm", "aes256gcm", "aes256gcm"),
        ("aes256gcm,chacha20poly1305", "chacha20poly1305", "chacha20poly1305"),
        ("aes256gcm", None, "chacha20poly1305"),
        (None, None, "chacha20poly1305"),
        ("", "aes256gcm", "chacha20poly1305"),
        ("rot13,aes256gcm", "aes256gcm", "aes256gcm"),
        ("xaes256gcm", "aes256gcm", "chacha20poly1305"),
    ],
)
def test_T11_the_cipher_is_the_one_that_both_list(ours, theirs, cipher):
    def capabilities(listed):
        return (("bundle", "1"),) if listed is None else (("bundle", "1"), ("cipher", listed))

    assert choose_cipher(dict(capabilities(ours)), dict(capabilities(theirs))) == cipher
    assert choose_cipher(dict(capabilities(theirs)), dict(capabilities(ours))) == cipher
    i, r = live(config("a", capabilities=capabilities(ours)), config("b", capabilities=capabilities(theirs)))
    assert i.cipher == r.cipher == cipher
    i.send(DATA, EMPTY_DATA)
    assert len(deliver(i, r)) == 1


def test_capabilities_keep_their_order_and_reach_the_owner():
    offered = (("z", "1"), ("a", "2"), ("ephemeral", "1"))
    i, r = live(config("a", capabilities=offered))
    assert tuple(r.peer_capabilities.items()) == offered
    assert "ephemeral" in r.peer_capabilities
    assert "ephemeral" not in i.peer_capabilities


def test_T01_the_first_message_has_3_seconds_and_everything_5():
    for side in range(2):
        session = start(now=100.0)[side]
        assert session.next_deadline() == 103.0
        session.handle_deadline(102.999)
        assert drain(session) == []
        session.receive_data(b"", 102.999)
        session.handle_deadline(103.0)
        assert only_end(drain(session)).reason is Reason.TIMEOUT
        assert silent(session)
        assert session.next_deadline() == float("inf")
    # One byte a second does not buy more time.
    i, r = start(now=0.0)
    hello = i.data_to_send()
    for second in range(3):
        r.receive_data(hello[second : second + 1], float(second))
        assert drain(r) == []
        r.handle_deadline(float(second))
    r.handle_deadline(3.0)
    assert only_end(drain(r)).reason is Reason.TIMEOUT


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_T01_every_later_step_is_under_the_total(steps):
    i, r = start(now=0.0)
    deliver(i, r, now=2.9)
    late = r
    if steps >= 2:
        deliver(r, i, now=2.9, accept=False)
        late = i
    if steps >= 3:
        i.accept()
    if steps >= 4:
        deliver(i, r, now=2.9, accept=False)
        late = r
    assert late.next_deadline() == 5.0
    late.handle_deadline(4.99)
    assert drain(late) == []
    late.handle_deadline(5.0)
    assert only_end(drain(late)).reason is Reason.TIMEOUT
    assert silent(late)


def test_T56_nothing_secret_shows():
    made = config("a", network_key=NETWORK_KEY)
    assert repr(made) == f"SessionConfig(node_id='a', network_name='', capabilities={made.capabilities!r})"


def test_a_goodbye_before_there_are_keys_just_ends():
    for side in range(2):
        session = start()[side]
        session.goodbye(Reason.CLOSED, "stopping")
        assert only_end(drain(session)) == Ended(Reason.CLOSED, "stopping", clean=False)
        assert silent(session)


def test_a_goodbye_of_an_initiator_that_is_not_confirmed_yet_is_sealed():
    i, r = start()
    deliver(i, r)
    deliver(r, i)
    i.goodbye(Reason.MOVED)
    assert i.state is State.ENDING
    events = deliver(i, r)
    assert [type(event) for event in events] == [PeerProven, Live, Ended]
    assert events[-1] == Ended(Reason.MOVED, "", clean=True)
    assert only_end(deliver(r, i)) == Ended(Reason.MOVED, "", clean=True)


def test_random_bytes_are_asked_for_nonce_and_ephemeral_key_only():
    asked = []

    def counted(size: int) -> bytes:
        asked.append(size)
        return entropy("x")(size)

    i = Session(config("a"), Role.INITIATOR, entropy=counted, now=0.0, wall_ms=0)
    r = Session(config("b"), Role.RESPONDER, entropy=counted, now=0.0, wall_ms=0)
    pump(i, r)
    assert asked == [8, 32, 8, 32]


def test_T13_a_stranger_with_another_key_costs_no_key_exchange(monkeypatch):
    victim = config("b", network_key=NETWORK_KEY)
    r = start(b=victim)[1]
    stranger = config("a", network_key=bytes(32))
    hello = start(stranger)[0].data_to_send()
    monkeypatch.setattr(HandshakeState, "_mix_exchange", None)
    monkeypatch.setattr(Identity, "sign", None)
    monkeypatch.setattr(NoiseStatic, "generate", None)
    r.receive_data(hello, 0.0)
    assert only_end(drain(r)).reason is Reason.CRYPTO


@pytest.mark.parametrize("offered", [4, 5])
def test_T14_as_many_capabilities_as_the_bound_says_are_taken(offered):
    i, r = start(
        config("a", capabilities=tuple((f"k{n}", "") for n in range(offered))), config("b", limits_capabilities_max=4)
    )
    deliver(i, r)
    deliver(r, i)
    events = deliver(i, r, accept=False)
    assert isinstance(events[0], PeerProven if offered == 4 else Ended)
