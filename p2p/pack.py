"""Packing: a message and its envelope in one step, plain or sealed.

For tools, tests and the vectors of the C++ implementation. Sessions count, seal and bundle by themselves.

Source: wire section 3.
"""

from __future__ import annotations

from typing import Protocol

from p2p.binary import U64_MAX, Buffer
from p2p.envelope import ENCRYPTED, PROTOCOL_VERSION, Envelope, aad
from p2p.errors import LocalProtocolError
from p2p.msg import AnyMessage


class Sealer(Protocol):
    """The one thing that packing needs of a crypto provider."""

    def aead_encrypt(self, key: bytes, nonce: bytes, aad: bytes, plaintext: bytes) -> tuple[bytes, bytes]:
        """Return the ciphertext, as long as the plaintext, and the tag of 16 bytes."""


def make_envelope(type: int, message: AnyMessage, *, msg_id: int = 1, flags: int = 0) -> Envelope:
    """Return the plain envelope of a message.

    Args:
        type: the message's type, said once more so that a mix-up is found here.
        message: what the payload is made of.
        msg_id: u64.
        flags: without Encrypted.

    Raises:
        LocalProtocolError: the type is not the message's, Encrypted is set, or a field does not fit.
    """
    if type != message.TYPE:
        raise LocalProtocolError(f"a {message.TYPE.label} has type {int(message.TYPE)}, not {type}")
    if flags & ENCRYPTED:
        raise LocalProtocolError("a plain envelope cannot carry the flag Encrypted: use make_envelope_secure")
    return Envelope(PROTOCOL_VERSION, type, msg_id, flags, message.encode())


def make_envelope_secure(
    type: int,
    plaintext: Buffer,
    session_key: bytes,
    crypto: Sealer,
    counter: int,
    *,
    msg_id: int = 1,
    flags: int = 0,
) -> Envelope:
    """Return a sealed envelope.

    Args:
        type: u16, of the plaintext.
        plaintext: the payload; an empty one is one.
        session_key: 32 bytes.
        crypto: what seals.
        counter: u64, never used twice with one key; the nonce is made of it.
        msg_id: u64.
        flags: more flags; Encrypted is added.

    Raises:
        LocalProtocolError: a number does not fit its field.
    """
    if not 0 <= counter <= U64_MAX:
        raise LocalProtocolError(f"a counter is 0 to 2^64 - 1, not {counter}")
    flags |= ENCRYPTED
    nonce = counter.to_bytes(8, "little") + bytes(4)
    ciphertext, tag = crypto.aead_encrypt(session_key, nonce, aad(type, msg_id, flags), bytes(plaintext))
    return Envelope(PROTOCOL_VERSION, type, msg_id, flags, ciphertext, nonce, tag)


def make_aad(envelope: Envelope) -> bytes:
    """Return the 18 bytes that the seal of this envelope also covers."""
    major, minor = envelope.version
    return aad(envelope.type, envelope.msg_id, envelope.flags, major, minor)
