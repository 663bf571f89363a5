"""The document of `p2p vectors`: complete, the same every time, and true to a second implementation as well."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from p2p.envelope import MessageType
from p2p.testing.malformed import FAULTS, Form, judge
from p2p.testing.vectors import document
from tests.hostile import second

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    return json.loads(json.dumps(document()))


def test_the_command_prints_the_same_in_every_process(vectors: dict[str, Any]) -> None:
    for hash_seed in "12":
        done = subprocess.run(
            [sys.executable, "-m", "p2p", "vectors"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        )
        assert json.loads(done.stdout) == vectors


def test_every_type_and_every_fault_is_there(vectors: dict[str, Any]) -> None:
    assert {entry["type"] for entry in vectors["messages"]} == set(MessageType)
    shown = {(entry["form"], entry["fault"]) for entry in vectors["malformed"]}
    assert {(fault.form.value, fault.name) for fault in FAULTS} - shown == {("batch", "it is over the bound")}


def test_what_is_to_be_refused_is_refused(vectors: dict[str, Any]) -> None:
    for entry in vectors["malformed"]:
        type = None if entry["type"] is None else MessageType(entry["type"])
        reason = judge(Form(entry["form"]), bytes.fromhex(entry["bytes"]), type)
        assert reason is not None, entry
        assert reason.label == entry["reason"], entry


def test_a_second_implementation_writes_and_reads_the_envelopes(vectors: dict[str, Any]) -> None:
    for entry in vectors["envelopes"]:
        data, aad = bytes.fromhex(entry["bytes"]), bytes.fromhex(entry["aad"])
        read = second.read_envelope(data)
        assert (read.type, read.msg_id, read.flags) == (entry["type"], entry["msg_id"], entry["flags"])
        assert (read.nonce.hex(), read.tag.hex(), read.payload.hex()) == (
            entry["nonce"],
            entry["tag"],
            entry["payload"],
        )
        assert aad == struct.pack("<HHHQI", entry["major"], entry["minor"], read.type, read.msg_id, read.flags)


def test_the_batches_are_a_chain_that_their_key_signed(vectors: dict[str, Any]) -> None:
    last = bytes(32).hex()
    for entry in vectors["batches"]:
        data = bytes.fromhex(entry["bytes"])
        digest = hashlib.sha256(data[:-64]).digest()
        assert (entry["prev_hash"], entry["hash"]) == (last, digest.hex())
        public = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(entry["identity_seed"])).public_key()
        assert public.public_bytes_raw().hex() == entry["origin"]
        public.verify(bytes.fromhex(entry["signature"]), b"vix-p2p/batch/1" + digest)
        last = entry["hash"]


def test_pairs_of_batches_prove_a_fork_or_do_not(vectors: dict[str, Any]) -> None:
    """Judged by the bytes alone: who signed, which range, what stands before."""
    proven = []
    for entry in vectors["forks"]:
        (low_begin, low_end, _, low_hash), (begin, _, prev, hash) = sorted(
            _placed(bytes.fromhex(entry[side])) for side in ("first", "second")
        )
        forked = hash != low_hash and (begin <= low_end or (begin == low_end + 1 and prev != low_hash))
        assert entry["lower_seq"] == (low_begin if forked else None), entry["title"]
        proven.append(forked)
    assert proven == [True, True, True, False, False, False]


def _placed(data: bytes) -> tuple[int, int, bytes, bytes]:
    """First and last seq, prev_hash and hash of a batch of fewer than 128 records."""
    begin = int.from_bytes(data[33:41], "little")
    digest = hashlib.sha256(data[:-64]).digest()
    Ed25519PublicKey.from_public_bytes(data[1:33]).verify(data[-64:], b"vix-p2p/batch/1" + digest)
    return begin, begin + data[41] - 1, data[42:74], digest


def test_digests_are_sums_over_the_logs_in_order(vectors: dict[str, Any]) -> None:
    for entry in vectors["digests"]:
        summed = b"vix-p2p/digest/1"
        for log in sorted(entry["logs"], key=lambda log: log["origin"]):
            end = struct.pack("<Q", log["seq"]) + bytes.fromhex(log["hash"])
            if log["seq"]:
                summed += bytes.fromhex(log["origin"]) + (bytes(8) + b"\xff" * 32 if log["frozen"] else end)
        assert entry["digest"] == hashlib.sha256(summed).hexdigest()


def test_the_key_after_a_rekey_is_what_the_cipher_makes_of_zeros(vectors: dict[str, Any]) -> None:
    ciphers = {"aes256gcm": AESGCM, "chacha20poly1305": ChaCha20Poly1305}
    assert {entry["cipher"] for entry in vectors["rekeys"]} == set(ciphers)
    for entry in vectors["rekeys"]:
        sealed = ciphers[entry["cipher"]](bytes.fromhex(entry["key"])).encrypt(b"\xff" * 8 + bytes(4), bytes(32), b"")
        assert sealed[:32].hex() == entry["next_key"]


def test_what_follows_a_handshake_opens_with_its_keys(vectors: dict[str, Any]) -> None:
    """The envelopes after the handshake, by the page: counter, seal, a Bundle with a request, and its answer."""
    ciphers = {"aes256gcm": AESGCM, "chacha20poly1305": ChaCha20Poly1305}
    for case in vectors["handshakes"]:
        keys = {"initiator": case["key_to_responder"], "responder": case["key_to_initiator"]}
        counters = {"initiator": 0, "responder": 0}
        types = []
        for step in case["stream"][3:]:
            sender = step["from"]
            sealed = second.read_envelope(_only_frame(step["bytes"]))
            assert sealed.nonce == struct.pack("<QI", counters[sender], 0)
            counters[sender] += 1
            cipher = ciphers[case["cipher"]](bytes.fromhex(keys[sender]))
            aad = struct.pack("<HHHQI", 1, 0, sealed.type, sealed.msg_id, sealed.flags)
            plain = cipher.decrypt(sealed.nonce, sealed.payload + sealed.tag, aad)
            types.append((sender, sealed.type))
            if sealed.type == MessageType.BUNDLE:
                reader = second.Reader(plain)
                inner = [second.read_envelope(reader.sized()) for _ in range(2)]
                reader.end()
                assert [envelope.flags for envelope in inner] == [0, 4]
                assert [envelope.msg_id for envelope in inner] == [sealed.msg_id - 2, sealed.msg_id - 1]
                asked = inner[1].msg_id
            elif sealed.type == MessageType.DATA:
                assert plain == second.sized("") + struct.pack("<QB", asked, 0) + second.sized(b"its answer")
        assert types == [
            ("responder", MessageType.WAL_HEADS),
            ("initiator", MessageType.WAL_HEADS),
            ("initiator", MessageType.BUNDLE),
            ("responder", MessageType.DATA),
            ("initiator", MessageType.GOODBYE),
            ("responder", MessageType.GOODBYE),
        ]


@pytest.mark.parametrize("number", [0, 1])
def test_a_second_implementation_plays_both_sides_of_the_handshake(vectors: dict[str, Any], number: int) -> None:
    """With the secrets of the document, another Noise writes the same messages and ends with the same keys."""
    case = vectors["handshakes"][number]
    mine, theirs = case["secrets"]["initiator"], case["secrets"]["responder"]
    hello, ack, finish = (second.read_envelope(_only_frame(step["bytes"])) for step in case["stream"][:3])
    clear, message_1 = _split_hello(hello.payload)
    psk = bytes.fromhex(case["network_key"]) if case["network_key"] else None
    prologue = b"vix-p2p/noise/1" + second.sized(case["network_name"]) + struct.pack("<HH", 1, 0) + clear + b"\x00"
    noise = second.Noise(initiator=True, prologue=prologue, psk=psk, static=_x25519(mine["noise_static"]))
    noise.e = _x25519(mine["noise_ephemeral"])
    assert noise.message(b"", reading=False) == message_1
    reader = second.Reader(ack.payload)
    reader.varint(), reader.varint()
    proof = second.Reader(noise.message(reader.sized(), reading=True))
    reader.end()
    assert noise.rs == _x25519(theirs["noise_static"]).public_key().public_bytes_raw()
    proof.varint(), proof.varint(), proof.text(), second.read_capabilities(proof)
    peer_id, signature = proof.raw(32), proof.raw(64)
    signed = b"vix-p2p/identity/1\x01" + noise.rs + noise.e.public_key().public_bytes_raw()
    Ed25519PublicKey.from_public_bytes(peer_id).verify(signature, signed)
    reader = second.Reader(finish.payload)
    reader.varint(), reader.varint()
    sealed = reader.sized()
    responder = second.Noise(initiator=False, prologue=prologue, psk=psk, static=_x25519(theirs["noise_static"]))
    responder.e = _x25519(theirs["noise_ephemeral"])
    assert responder.message(message_1, reading=True) == b""
    reader = second.Reader(ack.payload)
    reader.varint(), reader.varint()
    expected = reader.sized()
    assert expected[:32] == responder.e.public_key().public_bytes_raw()
    assert responder.message(_responders_proof(case, noise, theirs), reading=False) == expected
    plain = responder.message(sealed, reading=True)
    assert noise.message(plain, reading=False) == sealed
    to_responder, to_initiator = second.hkdf(noise.ck, b"", 2)
    assert (to_responder.hex(), to_initiator.hex()) == (case["key_to_responder"], case["key_to_initiator"])


def _responders_proof(case: dict[str, Any], noise: second.Noise, secrets: dict[str, str]) -> bytes:
    nonce_a, nonce_b = (
        second.varint(int.from_bytes(bytes.fromhex(case["secrets"][side]["nonce"]), "little"))
        for side in ("initiator", "responder")
    )
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secrets["identity_seed"]))
    claims = second.sized("responder") + second.capabilities(case["capabilities"]["responder"])
    signed = b"vix-p2p/identity/1\x01" + noise.rs + noise.e.public_key().public_bytes_raw()
    return nonce_a + nonce_b + claims + key.public_key().public_bytes_raw() + key.sign(signed)


def _only_frame(text: str) -> bytes:
    reader = second.Reader(bytes.fromhex(text))
    frame = reader.sized()
    reader.end()
    return frame


def _split_hello(payload: bytes) -> tuple[bytes, bytes]:
    reader = second.Reader(payload)
    reader.varint(), reader.varint(), reader.text(), second.read_capabilities(reader)
    clear = payload[: reader.at]
    key = reader.sized()
    reader.end()
    return clear, key


def _x25519(text: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes.fromhex(text))
