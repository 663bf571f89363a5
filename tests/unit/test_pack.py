"""Packing in one step. That the bytes are those of the C++ implementation is shown by tests/vectors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import msg, pack
from p2p.envelope import Envelope, EnvelopeFlag, MessageType, ProtocolVersion, aad
from p2p.errors import LocalProtocolError
from p2p.testing import strategies as wire


class Turned:
    """Turns every bit, and keeps what it was asked to seal: enough to see what packing hands over."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, bytes, bytes, bytes]] = []

    def aead_encrypt(self, key: bytes, nonce: bytes, aad: bytes, plaintext: bytes) -> tuple[bytes, bytes]:
        self.asked.append((key, nonce, aad, plaintext))
        return bytes(byte ^ 0xFF for byte in plaintext), b"T" * 16


@given(wire.messages(), wire.integers(64), st.sampled_from([0, 2, 4, 6]))
def test_make_envelope(message: msg.AnyMessage, msg_id: int, flags: int) -> None:
    made = pack.make_envelope(message.TYPE, message, msg_id=msg_id, flags=flags)
    assert made == Envelope(ProtocolVersion(1, 0), message.TYPE, msg_id, flags, message.encode())
    assert Envelope.decode(made.encode()) == made


def test_make_envelope_defaults() -> None:
    made = pack.make_envelope(MessageType.PING, msg.Ping(42))
    assert made.encode().hex() == "56503250010000000200010000000000000000000000082a00000000000000"


def test_make_envelope_refuses_a_mix_up() -> None:
    with pytest.raises(LocalProtocolError, match="Ping"):
        pack.make_envelope(MessageType.PONG, msg.Ping(1))
    with pytest.raises(LocalProtocolError, match="Encrypted"):
        pack.make_envelope(MessageType.PING, msg.Ping(1), flags=EnvelopeFlag.ENCRYPTED)


@given(wire.integers(16), wire.bodies(), wire.integers(64), wire.integers(64), st.sampled_from([0, 1, 4, 5]))
def test_make_envelope_secure_hands_over_what_the_wire_says(
    type: int, plaintext: bytes, counter: int, msg_id: int, flags: int
) -> None:
    crypto = Turned()
    key = bytes(range(32))
    made = pack.make_envelope_secure(type, plaintext, key, crypto, counter, msg_id=msg_id, flags=flags)
    nonce = counter.to_bytes(8, "little") + bytes(4)
    covered = aad(type, msg_id, flags | 1)
    assert crypto.asked == [(key, nonce, covered, plaintext)]
    assert (made.nonce, made.tag, made.flags, len(made.payload)) == (nonce, b"T" * 16, flags | 1, len(plaintext))
    assert pack.make_aad(made) == covered
    assert Envelope.decode(made.encode()) == made


def test_make_envelope_secure_defaults() -> None:
    made = pack.make_envelope_secure(5, b"x", bytes(32), Turned(), 0)
    assert (made.msg_id, made.flags) == (1, EnvelopeFlag.ENCRYPTED)


def test_make_aad_takes_the_version_as_received() -> None:
    assert pack.make_aad(Envelope(ProtocolVersion(1, 7), 2, 3, 1)) == aad(2, 3, 1, 1, 7)


@pytest.mark.parametrize("counter", [-1, 2**64])
def test_a_counter_that_does_not_fit_is_the_callers_mistake(counter: int) -> None:
    with pytest.raises(LocalProtocolError):
        pack.make_envelope_secure(2, b"", bytes(32), Turned(), counter)
