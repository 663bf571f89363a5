"""Identities, and the strictness of their signatures."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from p2p.crypto.identity import Identity, _is_canonical_point, verify
from p2p.errors import ConfigError

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P

# RFC 8032, section 7.1: secret key, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
]


def identity(seed: int = 7) -> Identity:
    return Identity.generate(lambda size: bytes((seed,)) * size)


def encode_y(y: int, sign: int = 0) -> bytes:
    return (y | sign << 255).to_bytes(32, "little")


def small_order_ys() -> set[int]:
    """The y coordinates of points whose order divides 8, found from the curve's equation."""
    found = {1, P - 1, 0}
    # Order 8: doubling gives y = 0, that is y^2 + x^2 = 0 in the doubling formula, so d y^4 + 2 y^2 - 1 = 0.
    root = pow(1 + D, (P + 3) // 8, P)
    if root * root % P != (1 + D) % P:
        root = root * pow(2, (P - 1) // 4, P) % P
    assert root * root % P == (1 + D) % P
    for square in ((-1 + root) * pow(D, P - 2, P) % P, (-1 - root) * pow(D, P - 2, P) % P):
        y = pow(square, (P + 3) // 8, P)
        if y * y % P != square:
            y = y * pow(2, (P - 1) // 4, P) % P
        if y * y % P == square:
            found |= {y, P - y}
    assert len(found) == 5
    return found


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_signatures_are_those_of_rfc_8032(secret, public, message, signature):
    me = Identity.generate(lambda _: bytes.fromhex(secret))
    assert me.peer_id.hex() == public
    assert me.sign(bytes.fromhex(message)).hex() == signature
    assert verify(me.peer_id, bytes.fromhex(signature), bytes.fromhex(message))


@given(data=st.binary(max_size=100), bit=st.integers(0, 64 * 8 - 1))
def test_any_bit_of_a_signature_counts(data, bit):
    me = identity()
    signature = bytearray(me.sign(data))
    assert verify(me.peer_id, bytes(signature), data)
    assert not verify(me.peer_id, bytes(signature), data + b"\0")
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify(me.peer_id, bytes(signature), data)


def test_the_second_form_of_a_signature_is_refused():
    me = identity()
    signature = me.sign(b"data")
    s = int.from_bytes(signature[32:], "little")
    for more in range(L, 2**256 - s, L):
        assert not verify(me.peer_id, signature[:32] + (s + more).to_bytes(32, "little"), b"data")


def test_T14_keys_of_small_order_are_refused():
    """For such a key and R of small order, S = 0 satisfies the equation on about every eighth message."""
    ys = small_order_ys()
    for y in ys:
        for sign in (0, 1):
            key = encode_y(y, sign)
            assert not _is_canonical_point(key)
            for r_y in ys:
                for message in range(16):
                    assert not verify(key, encode_y(r_y) + bytes(32), bytes((message,)))


def test_a_signature_with_r_of_small_order_is_refused_although_the_equation_holds():
    """Whoever has the key can make one: r = 0, R the neutral element, S = h * a."""
    seed = bytes(range(32))
    me = Identity.generate(lambda _: seed)
    scalar = bytearray(hashlib.sha512(seed).digest()[:32])
    scalar[0] &= 248
    scalar[31] = scalar[31] & 127 | 64
    r = encode_y(1)
    h = int.from_bytes(hashlib.sha512(r + me.peer_id + b"data").digest(), "little")
    s = h * int.from_bytes(scalar, "little") % L
    signature = r + s.to_bytes(32, "little")
    # The library alone takes it.
    me._private.public_key().verify(signature, b"data")
    assert not verify(me.peer_id, signature, b"data")


@pytest.mark.parametrize("sign", [0, 1])
def test_encodings_of_a_point_that_are_not_canonical_are_refused(sign):
    for y in range(P, 2**255):
        key = encode_y(y, sign)
        assert not _is_canonical_point(key)
        assert not verify(key, identity().sign(b"x"), b"x")
        assert not verify(identity().peer_id, key + bytes(32), b"x")


@given(key=st.binary(max_size=40), signature=st.binary(max_size=70), data=st.binary(max_size=8))
def test_verify_never_raises(key, signature, data):
    assert not verify(key, signature, data)


def test_a_key_that_is_no_point_is_refused():
    # About half of all y have no x.
    me = identity()
    assert not any(verify(encode_y(y), me.sign(b"x"), b"x") for y in range(2, 40))


def test_pem_goes_round():
    me = identity()
    again = Identity.from_pem(me.to_pem())
    assert again.peer_id == me.peer_id
    assert again.sign(b"x") == me.sign(b"x")
    assert me.to_pem().startswith(b"-----BEGIN PRIVATE KEY-----")


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"hello",
        identity().to_pem()[:60],
        b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
        load_pem_private_key(identity().to_pem(), None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        ),
        generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    ],
    ids=["empty", "text", "truncated", "no body", "encrypted", "another kind"],
)
def test_T66_a_file_that_holds_no_key_is_refused(pem):
    with pytest.raises(ConfigError):
        Identity.from_pem(pem)


def test_T56_repr_shows_no_secret():
    me = identity()
    secret = me._private.private_bytes_raw().hex()
    assert secret not in repr(me)
    assert me.peer_id.short in repr(me)
