"""Noise as published, as far as it is used: the patterns XX, XXpsk0 and XXpsk3 over 25519 and ChaChaPoly.

Nothing of ours is in here: no wire, no payload format, no policy. `HandshakeState` is the specification's object of
the same name, with its two operations and Split. It knows neither streams nor time, and takes random bytes from
whoever makes it.

    XX        -> e            <- e, ee, s, es            -> s, se
    XXpsk0    -> psk, e       <- e, ee, s, es            -> s, se
    XXpsk3    -> e            <- e, ee, s, es            -> s, se, psk

One thing is stricter than the text: a shared secret of zero, which is what a public key of low order gives, is refused
(the specification allows that, section 12). After any failure the handshake is over; there is one kind of failure,
`CryptoError`, whatever the cause.

Source: https://noiseprotocol.org/noise.html, revision 34, sections 5, 7, 9 and 10.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from p2p.errors import ConfigError, CryptoError

DHLEN: Final = 32
KEYLEN: Final = 32
TAGLEN: Final = 16
MESSAGE_BYTES_MAX: Final = 65_535
_NONCE_MAX: Final = 2**64 - 1
_NONCE: Final = struct.Struct("<4xQ")

_PATTERNS: Final = {
    "XX": (("e",), ("e", "ee", "s", "es"), ("s", "se")),
    "XXpsk0": (("psk", "e"), ("e", "ee", "s", "es"), ("s", "se")),
    "XXpsk3": (("e",), ("e", "ee", "s", "es"), ("s", "se", "psk")),
}


class _Digest(Protocol):
    def digest(self) -> bytes: ...


class Hash(msgspec.Struct, frozen=True):
    """A hash function: how to begin one with the first bytes, and its sizes in bytes."""

    new: Callable[[bytes], _Digest]
    digest_bytes: int
    block_bytes: int


HASHES: Final[Mapping[str, Hash]] = MappingProxyType(
    {
        "SHA256": Hash(hashlib.sha256, 32, 64),
        "SHA512": Hash(hashlib.sha512, 64, 128),
        "BLAKE2s": Hash(hashlib.blake2s, 32, 64),
        "BLAKE2b": Hash(hashlib.blake2b, 64, 128),
    }
)
"""By Noise's name."""
_INNER_PAD: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD: Final = bytes(byte ^ 0x5C for byte in range(256))
"""What HMAC makes of each byte of a key, for its two hashes (RFC 2104)."""
_FURTHER: Final = (b"\2", b"\3")
"""The numbers of the outputs of HKDF behind the first."""

_FAILED: Final = "a handshake message is not valid"
_USED_UP: Final = "the nonces of this key are used up"


class NoiseStatic:
    """An X25519 key pair that stands for one party in its handshakes. Its repr shows no key.

    Attributes:
        public: the public key, 32 bytes.
    """

    __slots__ = ("private", "public")

    def __init__(self, private: X25519PrivateKey) -> None:
        self.private = private
        self.public = private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes]) -> NoiseStatic:
        """Make a new key from 32 bytes of `entropy`."""
        return cls(X25519PrivateKey.from_private_bytes(entropy(DHLEN)))

    def __repr__(self) -> str:
        return "<NoiseStatic>"


class CipherState:
    """A key and the count of what was sealed with it (section 5.1).

    Without a key it passes bytes through, as it does before the first Diffie-Hellman of a handshake.
    """

    __slots__ = ("_aead", "_n")

    def __init__(self, key: bytes | None = None) -> None:
        self._aead = None if key is None else ChaCha20Poly1305(key)
        self._n = 0

    @property
    def has_key(self) -> bool:
        """Whether it seals at all."""
        return self._aead is not None

    def encrypt_with_ad(self, ad: bytes, plaintext: bytes) -> bytes:
        """Seal with the next nonce; return ciphertext and tag.

        Raises:
            CryptoError: the nonces are used up.
        """
        aead, n = self._aead, self._n
        if aead is None:
            return plaintext
        if n == _NONCE_MAX:
            raise CryptoError(_USED_UP)
        self._n = n + 1
        return aead.encrypt(_NONCE.pack(n), plaintext, ad)

    def decrypt_with_ad(self, ad: bytes, ciphertext: bytes) -> bytes:
        """Open with the next nonce.

        Raises:
            CryptoError: anything was changed, or the nonces are used up.
        """
        aead, n = self._aead, self._n
        if aead is None:
            return ciphertext
        if n == _NONCE_MAX:
            raise CryptoError(_USED_UP)
        self._n = n + 1
        try:
            return aead.decrypt(_NONCE.pack(n), ciphertext, ad)
        except InvalidTag:
            raise CryptoError(_FAILED) from None

    def rekey(self) -> None:
        """Replace the key by the first 32 bytes of a sealed block of zeros; the nonce goes on (section 4.2)."""
        assert self._aead is not None, "nothing to rekey"
        self._aead = ChaCha20Poly1305(self._aead.encrypt(_NONCE.pack(_NONCE_MAX), bytes(KEYLEN), b"")[:KEYLEN])


class _Protocol(msgspec.Struct, frozen=True):
    """What a protocol's name stands for (section 8)."""

    name: str
    turns: tuple[tuple[str, ...], ...]
    has_psk: bool
    hash: Hash

    @property
    def initial_hash(self) -> bytes:
        name, size = self.name.encode(), self.hash.digest_bytes
        return name.ljust(size, b"\0") if len(name) <= size else self.hash.new(name).digest()


_PROTOCOLS: Final[Mapping[str, tuple[_Protocol, bytes]]] = MappingProxyType(
    {
        protocol.name: (protocol, protocol.initial_hash)
        for protocol in [
            _Protocol(f"Noise_{pattern}_25519_ChaChaPoly_{name}", turns, "psk" in pattern, hash)
            for pattern, turns in _PATTERNS.items()
            for name, hash in HASHES.items()
        ]
    }
)
"""Read once, by name, each with the hash that its handshakes begin with."""


class _SymmetricState:
    """Chaining key, transcript hash and the cipher between them (section 5.2)."""

    __slots__ = ("_ck", "_hash", "_new_hash", "cipher", "h")

    def __init__(self, protocol: _Protocol, initial_hash: bytes) -> None:
        self._hash = protocol.hash
        self._new_hash = protocol.hash.new
        self.h = self._ck = initial_hash
        self.cipher = CipherState()

    def mix_key(self, material: bytes) -> None:
        self._ck, key = hkdf(self._hash, self._ck, material, 2)
        self.cipher = CipherState(key[:KEYLEN])

    def mix_hash(self, data: bytes) -> None:
        self.h = self._new_hash(self.h + data).digest()

    def mix_key_and_hash(self, material: bytes) -> None:
        self._ck, mixed, key = hkdf(self._hash, self._ck, material, 3)
        self.mix_hash(mixed)
        self.cipher = CipherState(key[:KEYLEN])

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        sealed = self.cipher.encrypt_with_ad(self.h, plaintext)
        self.h = self._new_hash(self.h + sealed).digest()
        return sealed

    def decrypt_and_hash(self, sealed: bytes) -> bytes:
        plaintext = self.cipher.decrypt_with_ad(self.h, sealed)
        self.h = self._new_hash(self.h + sealed).digest()
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        to_responder, to_initiator = hkdf(self._hash, self._ck, b"", 2)
        return to_responder[:KEYLEN], to_initiator[:KEYLEN]


def hkdf(hash: Hash, chaining_key: bytes, material: bytes, outputs: int) -> list[bytes]:
    """Noise's HKDF (section 4.3): that of RFC 5869 with the chaining key as its salt and an empty info.

    Written out down to the hash: `hmac.digest` and the cryptography's HKDF look up their hash at every call, and take
    two to three times as long where the caches are cold, as they are in a handshake; and longer where they are warm.

    Args:
        chaining_key: no longer than a block of the hash.
        outputs: 1 to 3.

    Returns:
        So many outputs, each as long as the hash.
    """
    new, block_bytes = hash.new, hash.block_bytes
    block = chaining_key.ljust(block_bytes, b"\0")
    inner, outer = block.translate(_INNER_PAD), block.translate(_OUTER_PAD)
    block = new(outer + new(inner + material).digest()).digest().ljust(block_bytes, b"\0")
    inner, outer = block.translate(_INNER_PAD), block.translate(_OUTER_PAD)
    derived = [new(outer + new(inner + b"\1").digest()).digest()]
    for number in _FURTHER[: outputs - 1]:
        derived.append(new(outer + new(inner + derived[-1] + number).digest()).digest())
    return derived


class HandshakeState:
    """One party's side of a handshake (section 5.3).

    Call `write_message` and `read_message` in turns, the initiator writes first; `finished` tells when to `split`.

    Args:
        protocol_name: `Noise_XX_25519_ChaChaPoly_SHA256` or another of the patterns and hashes named above.
        initiator: whether this party writes first.
        prologue: bytes that both must have alike.
        static: this party's long-term key.
        entropy: source of random bytes for the ephemeral key; asked once, for 32.
        ephemeral: makes the ephemeral key instead, used for this handshake alone.
        psk: the pre-shared key, 32 bytes, where the pattern has one.

    Attributes:
        remote_static: the other's static public key once it was read, else None.
        remote_ephemeral: the other's ephemeral public key once it was read, else None.

    Raises:
        ConfigError: the protocol name is unknown, or a psk is missing, superfluous or of another size.
    """

    __slots__ = (
        "_e",
        "_failed",
        "_initiator",
        "_new_ephemeral",
        "_psk",
        "_remote",
        "_static",
        "_step",
        "_symmetric",
        "_turns",
        "remote_ephemeral",
        "remote_static",
    )

    def __init__(
        self,
        protocol_name: str,
        *,
        initiator: bool,
        prologue: bytes,
        static: NoiseStatic,
        entropy: Callable[[int], bytes],
        ephemeral: Callable[[], NoiseStatic] | None = None,
        psk: bytes | None = None,
    ) -> None:
        if protocol_name not in _PROTOCOLS:
            raise ConfigError(f"{protocol_name!r} is not a Noise protocol that is known here")
        protocol, initial_hash = _PROTOCOLS[protocol_name]
        self._turns = protocol.turns
        if protocol.has_psk != (psk is not None) or (psk is not None and len(psk) != KEYLEN):
            raise ConfigError(f"{protocol_name} takes {'a psk of 32 bytes' if protocol.has_psk else 'no psk'}")
        self._symmetric = _SymmetricState(protocol, initial_hash)
        self._symmetric.mix_hash(prologue)
        self._initiator = initiator
        self._static = static
        self._new_ephemeral = ephemeral or (lambda: NoiseStatic.generate(entropy))
        self._psk = psk
        self._e: NoiseStatic | None = None
        self._step = 0
        self._failed = False
        self.remote_static: bytes | None = None
        self.remote_ephemeral: bytes | None = None
        # The same by the letter of its message, once there is an exchange: the ephemeral one has two.
        self._remote: dict[str, X25519PublicKey] = {}

    @property
    def finished(self) -> bool:
        """Whether all messages were exchanged."""
        return self._step == len(self._turns) and not self._failed

    @property
    def ephemeral(self) -> bytes | None:
        """This party's ephemeral public key once it was written, else None."""
        return None if self._e is None else self._e.public

    @property
    def handshake_hash(self) -> bytes:
        """The hash over the whole transcript: unique to this session, equal on both sides (section 11.2)."""
        assert self.finished, "the transcript is not complete"
        return self._symmetric.h

    def write_message(self, payload: bytes) -> bytes:
        """Return the next message, with the payload as secret as the pattern makes it by now.

        Raises:
            CryptoError: a shared secret is refused.
        """
        assert self._is_turn(writing=True), "it is not this party's turn to write"
        symmetric = self._symmetric
        out = []
        # Set until the message is whole, so that no exception leaves a handshake that could be gone on with.
        self._failed = True
        for word in self._turns[self._step]:
            if word == "e":
                self._e = self._new_ephemeral()
                self._mix_ephemeral(self._e.public)
                out.append(self._e.public)
            elif word == "s":
                out.append(symmetric.encrypt_and_hash(self._static.public))
            elif word == "psk":
                assert self._psk is not None
                symmetric.mix_key_and_hash(self._psk)
            else:
                self._mix_exchange(word)
        out.append(symmetric.encrypt_and_hash(payload))
        message = b"".join(out)
        assert len(message) <= MESSAGE_BYTES_MAX, "a Noise message has at most 65,535 bytes"
        self._failed = False
        self._step += 1
        return message

    def read_message(self, message: bytes) -> bytes:
        """Take the other's next message and return its payload.

        Raises:
            CryptoError: the message is not valid; the handshake is over.
        """
        assert self._is_turn(writing=False), "it is not this party's turn to read"
        if len(message) > MESSAGE_BYTES_MAX:
            self._failed = True
            raise CryptoError(_FAILED)
        symmetric = self._symmetric
        self._failed = True
        pos = 0
        for word in self._turns[self._step]:
            if word == "e":
                self.remote_ephemeral = _take(message, pos, DHLEN)
                pos += DHLEN
                self._mix_ephemeral(self.remote_ephemeral)
            elif word == "s":
                size = DHLEN + TAGLEN if symmetric.cipher.has_key else DHLEN
                self.remote_static = symmetric.decrypt_and_hash(_take(message, pos, size))
                pos += size
            elif word == "psk":
                assert self._psk is not None
                symmetric.mix_key_and_hash(self._psk)
            else:
                self._mix_exchange(word)
        payload = symmetric.decrypt_and_hash(message[pos:])
        self._failed = False
        self._step += 1
        return payload

    def split(self) -> tuple[bytes, bytes]:
        """Return the two keys of 32 bytes: for initiator to responder, and for the way back."""
        assert self.finished, "the handshake is not complete"
        return self._symmetric.split()

    def _is_turn(self, *, writing: bool) -> bool:
        initiators = self._step % 2 == 0
        return not self._failed and self._step < len(self._turns) and writing == (initiators == self._initiator)

    def _mix_ephemeral(self, public: bytes) -> None:
        self._symmetric.mix_hash(public)
        if self._psk is not None:
            # With a psk the ephemeral key randomizes the cipher too (section 9.2).
            self._symmetric.mix_key(public)

    def _mix_exchange(self, word: str) -> None:
        # The first letter names the initiator's key, the second the responder's.
        mine, theirs = (word[0], word[1]) if self._initiator else (word[1], word[0])
        private = self._e if mine == "e" else self._static
        assert private is not None
        public = self._remote.get(theirs)
        if public is None:
            encoded = self.remote_ephemeral if theirs == "e" else self.remote_static
            assert encoded is not None
            public = self._remote[theirs] = X25519PublicKey.from_public_bytes(encoded)
        try:
            # Refuses a result of zero, in constant time.
            shared = private.private.exchange(public)
        except ValueError:
            raise CryptoError(_FAILED) from None
        self._symmetric.mix_key(shared)


def _take(message: bytes, pos: int, size: int) -> bytes:
    part = message[pos : pos + size]
    if len(part) != size:
        raise CryptoError(_FAILED)
    return part
