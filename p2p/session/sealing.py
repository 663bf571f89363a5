"""One direction of a live session: its key, its counter, and the rekey that both sides make at the same place.

The counter lives here and nowhere else, starts at 0 and only ever grows; it is never stored. A receiver does not
take the sender's word for it: the nonce in an envelope must be the very next one, so a repeat, a gap and an envelope
out of order are all the same failure as a broken seal.

A cipher that is ready for use takes 2.5 KB, two for each of thousands of idle links, and 1.2 µs to make. So the first
few envelopes, which are all that an idle link has, make one each; it is kept from there on until the link rests.

Source: wire sections 3 and 6.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from p2p.binary import Buffer, Pieces
from p2p.envelope import (
    ENCRYPTED,
    SEALED_THREE_BYTE_MAX,
    SEALED_THREE_BYTE_MIN,
    aad,
    encode_sealed,
    parse_sealed,
    seal_framed,
)
from p2p.errors import CryptoError

AES_256_GCM: Final = "aes256gcm"
CHACHA20_POLY1305: Final = "chacha20poly1305"

_CIPHERS: Final[Mapping[str, type[AESGCM | ChaCha20Poly1305]]] = MappingProxyType(
    {AES_256_GCM: AESGCM, CHACHA20_POLY1305: ChaCha20Poly1305}
)
_NONCE: Final = struct.Struct("<QI")
_COUNTER_END: Final = 2**64 - 1
_REKEY_NONCE: Final = b"\xff" * 8 + bytes(4)

_BROKEN: Final = "the seal is broken"
_KEPT_FROM: Final = 8
"""Which envelope since the last rest keeps its cipher for the following ones."""


def next_key(cipher: str, key: bytes) -> bytes:
    """Return the key that follows `key` at a rekey.

    Args:
        cipher: `AES_256_GCM` or `CHACHA20_POLY1305`.
        key: 32 bytes.
    """
    return _CIPHERS[cipher](key).encrypt(_REKEY_NONCE, bytes(32), b"")[:32]


class Direction:
    """Seals, or opens, the envelopes of one direction.

    Args:
        cipher: `AES_256_GCM` or `CHACHA20_POLY1305`.
        key: 32 bytes, used by nobody else.
        rekey_every: envelopes per key; the same number on both sides.
    """

    __slots__ = ("_aead", "_cipher", "_counter", "_key", "_made", "_rekey_every")

    def __init__(self, cipher: str, key: bytes, rekey_every: int) -> None:
        self._cipher = cipher
        self._key = key
        self._aead: AESGCM | ChaCha20Poly1305 | None = None
        self._made = 0
        self._counter = 0
        self._rekey_every = rekey_every

    def seal(self, type: int, msg_id: int, flags: int, payload: Buffer) -> bytes | bytearray:
        """Return a whole frame with the sealed envelope.

        Raises:
            CryptoError: the counter is used up.
        """
        nonce = self._next_nonce()
        flags |= ENCRYPTED
        aead = self._aead or self._make()
        if SEALED_THREE_BYTE_MIN <= len(payload) <= SEALED_THREE_BYTE_MAX:
            return seal_framed(type, msg_id, flags, nonce, payload, aead.encrypt_into)
        return encode_sealed(type, msg_id, flags, nonce, aead.encrypt(nonce, payload, aad(type, msg_id, flags)))

    def open(self, frame: Buffer | Pieces) -> tuple[int, int, int, bytes]:
        """Read the next envelope; return its type, msg_id, flags without Encrypted, and plaintext.

        Raises:
            RemoteProtocolError: it is no sealed envelope.
            CryptoError: it is not the next one, or anything about it was changed.
        """
        type, msg_id, flags, header, nonce, sealed = parse_sealed(frame)
        if nonce != self._next_nonce():
            raise CryptoError(_BROKEN)
        aead = self._aead or self._make()
        try:
            return type, msg_id, flags & ~ENCRYPTED, aead.decrypt(nonce, sealed, header)
        except InvalidTag:
            raise CryptoError(_BROKEN) from None

    def rest(self) -> None:
        """The link says nothing at the moment: keep the key alone."""
        self._aead = None
        self._made = 0

    def _make(self) -> AESGCM | ChaCha20Poly1305:
        aead = _CIPHERS[self._cipher](self._key)
        self._made += 1
        if self._made == _KEPT_FROM:
            self._aead = aead
        return aead

    def _next_nonce(self) -> bytes:
        counter = self._counter
        if counter >= _COUNTER_END:
            raise CryptoError("the counter of this key is used up")
        if counter % self._rekey_every == 0 and counter:
            self._key = next_key(self._cipher, self._key)
            self.rest()
        self._counter = counter + 1
        return _NONCE.pack(counter, 0)
