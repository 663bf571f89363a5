"""A node's identity: an Ed25519 key. Its public half is the peer id.

Verification is strict. RFC 8032 leaves room in which two implementations may disagree about one signature, and a log
that is replicated by hash cannot live with that: what one honest node accepts, every honest node must accept. So

- S must be below the group order (else every signature has a second form),
- the public key and R must be canonical encodings,
- neither may be a point of small order (such a key accepts signatures on anything).

Where the key is kept is the store's business; here it is a value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from p2p.errors import ConfigError
from p2p.ids import PeerId

SIGNATURE_BYTES: Final = 64

_FIELD: Final = 2**255 - 19
_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
_SIGN_BIT: Final = 1 << 255
# The y coordinates of the eight points of small order; a point and its negative share theirs.
_SMALL_ORDER_Y: Final = frozenset({
    0,
    1,
    _FIELD - 1,
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
})  # fmt: skip


class Identity:
    """An Ed25519 private key and its peer id. Its repr shows the public half only.

    Attributes:
        peer_id: the public key.
        is_new: it was made in this process, so no earlier one can have signed anything with it.

    Example:
        >>> me = Identity.generate(lambda size: bytes(size))
        >>> verify(me.peer_id, me.sign(b"hello"), b"hello")
        True
    """

    __slots__ = ("_private", "is_new", "peer_id")

    def __init__(self, private: Ed25519PrivateKey, *, is_new: bool = False) -> None:
        self._private = private
        self.is_new = is_new
        self.peer_id = PeerId(private.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes]) -> Self:
        """Make a new identity from 32 bytes of `entropy`."""
        return cls(Ed25519PrivateKey.from_private_bytes(entropy(32)), is_new=True)

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Read a private key as `to_pem` writes it.

        Raises:
            ConfigError: it is not an unencrypted Ed25519 private key in PEM. The text does not quote the content.
        """
        # Imported here: most of it is about other kinds of keys, and takes 4 ms.
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            private = load_pem_private_key(pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ConfigError("not a private key in PEM, damaged, or protected by a password") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise ConfigError("the private key is not an Ed25519 key; make one with `p2p id --new`")
        return cls(private)

    def to_pem(self) -> bytes:
        """Return the private key as PKCS #8 in PEM, unencrypted: keep it in a file of mode 0600."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, data: bytes) -> bytes:
        """Return the signature over `data`, 64 bytes."""
        return self._private.sign(data)

    def __repr__(self) -> str:
        return f"<Identity {self.peer_id.short}>"


def verify(peer_id: bytes, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is that identity's over `data`. Never raises on any bytes.

    Args:
        peer_id: Ed25519 public key, 32 bytes.
        signature: 64 bytes.
        data: what was signed.
    """
    if len(peer_id) != 32 or len(signature) != SIGNATURE_BYTES:
        return False
    if int.from_bytes(signature[32:], "little") >= _ORDER:
        return False
    if not _is_canonical_point(peer_id) or not _is_canonical_point(signature[:32]):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(peer_id).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def _is_canonical_point(encoded: bytes) -> bool:
    y = int.from_bytes(encoded, "little") & ~_SIGN_BIT
    return y < _FIELD and y not in _SMALL_ORDER_Y
