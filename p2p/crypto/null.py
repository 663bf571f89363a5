"""The stand-in crypto of Vix P2P 1.0, byte for byte. **It protects nothing.**

It exists so that envelopes of the C++ implementation can be written and read by tools and tests. Its "seal" is a hash
chain that anybody can undo with the key and forge without effort, its "signature" is accepted whenever it is not
empty. No session can be made to use it, and a test keeps every module that touches a stream from naming it.

All arithmetic is on unsigned 64-bit numbers that wrap around.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from p2p.crypto.provider import KEY_BYTES, TAG_BYTES, KeyPair
from p2p.errors import CryptoError

_MASK: Final = 2**64 - 1
_FNV_START: Final = 1469598103934665603
_FNV_PRIME: Final = 1099511628211
_MIX: Final = 0xFF51AFD7ED558CCD


class NullCrypto:
    """Vix's NullCrypto, for vectors and tools only.

    Args:
        entropy: source of random bytes for new keys; None asks the operating system.
    """

    __slots__ = ("_entropy",)

    def __init__(self, entropy: Callable[[int], bytes] | None = None) -> None:
        self._entropy = entropy

    def generate_keypair(self) -> KeyPair:
        """Return two unrelated random values."""
        if self._entropy is None:
            return KeyPair(ChaCha20Poly1305.generate_key(), ChaCha20Poly1305.generate_key())
        return KeyPair(self._entropy(KEY_BYTES), self._entropy(KEY_BYTES))

    def sign(self, data: bytes, private_key: bytes) -> bytes:
        """Return a hash of both, 32 bytes."""
        return self.kdf_32(data + private_key)

    def verify(self, data: bytes, signature: bytes, public_key: bytes) -> bool:
        """Whether there is a signature at all: this is what Vix 1.0 checks."""
        return signature != b""

    def kdf_32(self, transcript: bytes) -> bytes:
        """Return 32 bytes mixed from the transcript's FNV hash."""
        x = _fnv(transcript)
        out = bytearray()
        for i in range(32):
            x = _mix(x)
            out.append(x >> i % 8 * 8 & 255)
        return bytes(out)

    def aead_encrypt(self, key: bytes, nonce: bytes, aad: bytes, plaintext: bytes) -> tuple[bytes, bytes]:
        """Return the masked plaintext and a hash as tag (16 bytes)."""
        prefix = key + nonce + aad
        ciphertext = _mask(prefix, plaintext)
        return ciphertext, self.kdf_32(prefix + ciphertext)[:TAG_BYTES]

    def aead_decrypt(self, key: bytes, nonce: bytes, aad: bytes, ciphertext: bytes, tag: bytes) -> bytes:
        """Return the plaintext.

        Raises:
            CryptoError: the tag is another one.
        """
        prefix = key + nonce + aad
        if not hmac.compare_digest(self.kdf_32(prefix + ciphertext)[:TAG_BYTES], tag):
            raise CryptoError("the seal is broken")
        return _mask(prefix, ciphertext)


def _fnv(data: bytes) -> int:
    x = _FNV_START
    for byte in data:
        x = (x ^ byte) * _FNV_PRIME & _MASK
    return x


def _mix(x: int) -> int:
    return (x ^ x >> 33) * _MIX & _MASK


def _mask(prefix: bytes, data: bytes) -> bytes:
    x = _fnv(prefix)
    out = bytearray()
    for byte in data:
        x = _mix(x)
        out.append(byte ^ x & 255)
    return bytes(out)
