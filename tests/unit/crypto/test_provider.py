"""StandardCrypto as the contract says, and NullCrypto byte for byte as the C++ implementation prints it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.crypto.null import NullCrypto
from p2p.crypto.provider import StandardCrypto
from p2p.errors import CryptoError

ROOT = Path(__file__).parents[3]
VECTORS = json.loads((ROOT / "tests/vectors/vix_v1.json").read_text())["vectors"]


def vectors(kind: str) -> list[dict[str, object]]:
    found = [vector for vector in VECTORS if vector["kind"] == kind]
    assert found
    return found


def hexed(vector: dict[str, object], name: str) -> bytes:
    return bytes.fromhex(str(vector[name]))


@pytest.mark.parametrize("vector", vectors("kdf32"))
def test_null_kdf_is_the_one_of_cpp(vector):
    assert NullCrypto().kdf_32(hexed(vector, "input_hex")) == hexed(vector, "output_hex")


@pytest.mark.parametrize("vector", vectors("session_key"))
def test_null_session_key_is_the_one_of_cpp(vector):
    assert NullCrypto().kdf_32(hexed(vector, "transcript_hex")) == hexed(vector, "output_hex")


@pytest.mark.parametrize("vector", vectors("sign"))
def test_null_sign_is_the_one_of_cpp(vector):
    assert NullCrypto().sign(hexed(vector, "data_hex"), hexed(vector, "private_key_hex")) == hexed(vector, "output_hex")


@pytest.mark.parametrize("vector", vectors("envelope_encrypted"), ids=lambda v: v["name"])
def test_null_seal_is_the_one_of_cpp(vector):
    key, nonce, aad = hexed(vector, "key_hex"), hexed(vector, "nonce_hex"), hexed(vector, "aad_hex")
    plain, cipher, tag = hexed(vector, "plaintext_hex"), hexed(vector, "ciphertext_hex"), hexed(vector, "tag_hex")
    assert NullCrypto().aead_encrypt(key, nonce, aad, plain) == (cipher, tag)
    assert NullCrypto().aead_decrypt(key, nonce, aad, cipher, tag) == plain


@pytest.mark.parametrize("crypto", [NullCrypto(), StandardCrypto()], ids=["null", "standard"])
@given(plain=st.binary(max_size=200), aad=st.binary(max_size=40), bit=st.integers(min_value=0))
def test_what_is_sealed_opens_and_any_change_does_not(crypto, plain, aad, bit):
    key, nonce = bytes(range(32)), bytes(12)
    cipher, tag = crypto.aead_encrypt(key, nonce, aad, plain)
    assert len(cipher) == len(plain)
    assert len(tag) == 16
    assert crypto.aead_decrypt(key, nonce, aad, cipher, tag) == plain
    sealed = bytearray(cipher + tag)
    bit %= len(sealed) * 8
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CryptoError):
        crypto.aead_decrypt(key, nonce, aad, bytes(sealed[:-16]), bytes(sealed[-16:]))
    with pytest.raises(CryptoError):
        crypto.aead_decrypt(key, nonce, aad + b"x", cipher, tag)


def test_standard_seal_is_rfc_8439():
    # RFC 8439, section 2.8.2.
    key = bytes(range(0x80, 0xA0))
    nonce = bytes.fromhex("070000004041424344454647")
    aad = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    plain = (
        b"Ladies and Gentlemen of the class of '99: "
        b"If I could offer you only one tip for the future, sunscreen would be it."
    )
    cipher, tag = StandardCrypto().aead_encrypt(key, nonce, aad, plain)
    assert cipher[:16].hex() == "d31a8d34648e60db7b86afbc53ef7ec2"
    assert tag.hex() == "1ae10b594f09e26a7e902ecbd0600691"


@pytest.mark.parametrize(("key", "nonce"), [(31, 12), (33, 12), (32, 11), (32, 13), (0, 0)])
def test_standard_refuses_keys_and_nonces_of_other_sizes(key, nonce):
    with pytest.raises(CryptoError):
        StandardCrypto().aead_encrypt(bytes(key), bytes(nonce), b"", b"x")
    with pytest.raises(CryptoError):
        StandardCrypto().aead_decrypt(bytes(key), bytes(nonce), b"", b"x", bytes(16))


@pytest.mark.parametrize("size", [0, 15, 17])
def test_standard_refuses_tags_of_other_sizes(size):
    cipher, tag = StandardCrypto().aead_encrypt(bytes(32), bytes(12), b"", b"some text here")
    whole = cipher + tag
    with pytest.raises(CryptoError):
        StandardCrypto().aead_decrypt(bytes(32), bytes(12), b"", whole[: len(whole) - size], whole[len(whole) - size :])


def test_standard_signs_and_verifies():
    crypto = StandardCrypto()
    pair = crypto.generate_keypair()
    signature = crypto.sign(b"data", pair.private_key)
    assert crypto.verify(b"data", signature, pair.public_key)
    assert not crypto.verify(b"date", signature, pair.public_key)
    assert not crypto.verify(b"data", signature, crypto.generate_keypair().public_key)
    with pytest.raises(CryptoError):
        crypto.sign(b"data", bytes(31))


@pytest.mark.parametrize("kind", [StandardCrypto, NullCrypto])
def test_keys_come_from_the_entropy_given(kind):
    def fixed(size):
        return bytes(range(size))

    assert kind(entropy=fixed).generate_keypair() == kind(entropy=fixed).generate_keypair()
    assert kind().generate_keypair() != kind().generate_keypair()
    assert [len(part) for part in kind().generate_keypair()] == [32, 32]


def test_standard_kdf_is_fixed():
    # Changing this changes keys that others derived.
    assert StandardCrypto().kdf_32(b"") != StandardCrypto().kdf_32(b"\0")
    assert StandardCrypto().kdf_32(b"transcript").hex() == KDF_OF_TRANSCRIPT


KDF_OF_TRANSCRIPT = "43c9436ce0b7fb2a46b6604e3ac331f7b677c0b1c4aa0d476c48f392741a6dd7"


def test_null_verify_accepts_whatever_is_not_empty():
    assert NullCrypto().verify(b"data", b"x", bytes(32))
    assert not NullCrypto().verify(b"data", b"", bytes(32))


def test_null_crypto_is_named_by_nothing_that_could_reach_a_socket():
    """Only its own module and the front door may say its name: no session, connection or node can be given it."""
    allowed = {"p2p/crypto/null.py", "p2p/__init__.py"}
    named = set()
    for path in (ROOT / "p2p").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                names.append(node.module or "")
            if isinstance(node, ast.Name):
                names.append(node.id)
            if isinstance(node, ast.Attribute):
                names.append(node.attr)
            if any(name == "NullCrypto" or name.endswith("crypto.null") for name in names):
                named.add(path.relative_to(ROOT).as_posix())
    assert named - allowed == set()
    assert "p2p/__init__.py" in named
