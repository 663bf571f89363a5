"""The set of operations that the Vix wire calls "crypto", and the one implementation of it to trust.

A provider seals single envelopes for `p2p.pack`. Sessions do not use one: their keys come out of Noise and their
ciphers are fixed by the wire, so there is nothing to plug in and nothing to plug in wrongly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from p2p.crypto.identity import verify
from p2p.errors import CryptoError

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
_KDF_INFO: Final = b"vix-p2p/kdf32/1"


class KeyPair(NamedTuple):
    """A signing key: two times 32 bytes."""

    public_key: bytes
    private_key: bytes


class Crypto(Protocol):
    """What `p2p.pack` and tools ask of a provider. All byte strings are plain `bytes`."""

    def generate_keypair(self) -> KeyPair:
        """Make a new signing key."""

    def sign(self, data: bytes, private_key: bytes) -> bytes:
        """Sign `data`. Raises CryptoError when the key is none."""

    def verify(self, data: bytes, signature: bytes, public_key: bytes) -> bool:
        """Whether `signature` is the key's over `data`. Never raises."""

    def kdf_32(self, transcript: bytes) -> bytes:
        """Derive 32 bytes from a transcript."""

    def aead_encrypt(self, key: bytes, nonce: bytes, aad: bytes, plaintext: bytes) -> tuple[bytes, bytes]:
        """Seal; return the ciphertext (as long as the plaintext) and the tag (16 bytes)."""

    def aead_decrypt(self, key: bytes, nonce: bytes, aad: bytes, ciphertext: bytes, tag: bytes) -> bytes:
        """Open. Raises CryptoError when anything was changed; an empty plaintext is a plaintext."""


class StandardCrypto:
    """Ed25519 (verified strictly), HKDF-SHA256 and ChaCha20-Poly1305.

    Args:
        entropy: source of random bytes for new keys; None asks the operating system.
    """

    __slots__ = ("_entropy",)

    def __init__(self, entropy: Callable[[int], bytes] | None = None) -> None:
        self._entropy = entropy

    def generate_keypair(self) -> KeyPair:
        """Make a new Ed25519 key; the private half is its seed."""
        if self._entropy is None:
            private = Ed25519PrivateKey.generate()
        else:
            private = Ed25519PrivateKey.from_private_bytes(self._entropy(KEY_BYTES))
        return KeyPair(private.public_key().public_bytes_raw(), private.private_bytes_raw())

    def sign(self, data: bytes, private_key: bytes) -> bytes:
        """Return the Ed25519 signature, 64 bytes.

        Raises:
            CryptoError: the private key has not 32 bytes.
        """
        try:
            return Ed25519PrivateKey.from_private_bytes(private_key).sign(data)
        except ValueError:
            raise CryptoError("a private key has 32 bytes") from None

    def verify(self, data: bytes, signature: bytes, public_key: bytes) -> bool:
        """Whether the signature is good, by the strict rules of `p2p.crypto.identity.verify`."""
        return verify(public_key, signature, data)

    def kdf_32(self, transcript: bytes) -> bytes:
        """Return HKDF-SHA256 of the transcript, 32 bytes."""
        return HKDF(SHA256(), KEY_BYTES, None, _KDF_INFO).derive(transcript)

    def aead_encrypt(self, key: bytes, nonce: bytes, aad: bytes, plaintext: bytes) -> tuple[bytes, bytes]:
        """Seal with ChaCha20-Poly1305: key 32 bytes, nonce 12.

        Raises:
            CryptoError: key or nonce has another size.
        """
        sealed = _chacha(key, nonce).encrypt(nonce, plaintext, aad)
        return sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]

    def aead_decrypt(self, key: bytes, nonce: bytes, aad: bytes, ciphertext: bytes, tag: bytes) -> bytes:
        """Open with ChaCha20-Poly1305.

        Raises:
            CryptoError: a size is wrong, or anything was changed.
        """
        if len(tag) != TAG_BYTES:
            raise CryptoError("a tag has 16 bytes")
        try:
            return _chacha(key, nonce).decrypt(nonce, ciphertext + tag, aad)
        except InvalidTag:
            raise CryptoError("the seal is broken") from None


def _chacha(key: bytes, nonce: bytes) -> ChaCha20Poly1305:
    if len(key) != KEY_BYTES or len(nonce) != NONCE_BYTES:
        raise CryptoError("a key has 32 bytes and a nonce 12")
    return ChaCha20Poly1305(key)
