"""The bytes of the C++ implementation, all of them: what it writes we write, what it reads we read.

Where we refuse on purpose what it accepts (wire section 10), the vector is named in `REFUSED` together with the test
that owns the difference; anything else that differs is a fault of ours.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from p2p import framing, msg, pack
from p2p.crypto.null import NullCrypto
from p2p.envelope import Envelope, EnvelopeFlag, ProtocolVersion, aad
from p2p.errors import PayloadTooLarge, Reason, RemoteProtocolError

Vector = dict[str, Any]

VECTORS: Final[list[Vector]] = json.loads((Path(__file__).parent / "vix_v1.json").read_text())["vectors"]

REFUSED: Final = {
    "varint_decode: overlong zero": "test_refuses_an_over_long_varint",
    "varint_decode: overlong 127": "test_refuses_an_over_long_varint",
    "varint_decode: 10 bytes, high bits of byte 10 dropped": "test_refuses_a_varint_of_2_64_and_more",
    "frame_decode: overlong length 1": "test_refuses_an_over_long_frame_length",
    "frame_decode: 10 continuation bytes: never errors": "test_refuses_a_frame_length_that_never_ends",
    "frame_decode: huge length stays pending": "test_refuses_a_frame_over_the_bound",
    "envelope: unknown flag bits": "test_refuses_unknown_flag_bits",
    "payload_decode: hello duplicate capability keys: accepted, first value kept": (
        "test_refuses_duplicate_capability_keys"
    ),
    "discovery_parse: fraction: truncated": "test_refuses_fractions_in_json",
    "discovery_parse: not JSON at all inside braces, still accepted": "test_refuses_text_that_is_not_json",
}
"""Kind and name of each vector that C++ accepts and we refuse, and the test of tests/unit/test_refusals.py."""

READ_OTHERWISE: Final = {
    "discovery_parse: nested key found": "test_refuses_a_member_found_by_text_search",
}
"""Accepted by both, with another value: C++ searches for text where we read JSON."""


def title(vector: Vector) -> str:
    return f"{vector['kind']}: {vector.get('name', '')}"


def unhex(vector: Vector, name: str) -> bytes:
    return bytes.fromhex(vector[name + "_hex"])


def accepted(vector: Vector, decode: Callable[[], object]) -> bool:
    """Whether we take it; every refusal is the one error."""
    try:
        decode()
    except RemoteProtocolError:
        return False
    return True


def varint(vector: Vector) -> None:
    encoded = unhex(vector, "output")
    assert framing.encode_varint(vector["value"]) == encoded
    assert framing.decode_varint(encoded) == (vector["value"], len(encoded))


def varint_decode(vector: Vector) -> None:
    data = unhex(vector, "input")
    assert accepted(vector, lambda: framing.decode_varint(data)) == (
        vector["accepted"] and title(vector) not in REFUSED
    )


def frame(vector: Vector) -> None:
    payload, encoded = unhex(vector, "payload"), unhex(vector, "output")
    assert len(payload) == vector["payload_len"]
    assert payload == bytes(pos % 256 for pos in range(vector["payload_len"]))
    assert framing.LengthPrefixVarint().encode(payload) == encoded
    assert framing.LengthPrefixVarint().decode(encoded) == ([payload], b"")


def frame_decode(vector: Vector) -> None:
    data = unhex(vector, "input")
    if vector["error"] or title(vector) in REFUSED:
        assert not accepted(vector, lambda: framing.LengthPrefixVarint().decode(data))
        return
    frames = [bytes.fromhex(one) for one in vector["frames_hex"]]
    assert framing.LengthPrefixVarint().decode(data) == (frames, unhex(vector, "remaining"))


def message(vector: Vector) -> None:
    fields = {
        name.removesuffix("_hex"): bytes.fromhex(value) if name.endswith("_hex") else value
        for name, value in vector["fields"].items()
    }
    built = msg.MESSAGES[vector["type"]](**fields)
    encoded = unhex(vector, "output")
    assert built.encode() == encoded
    assert msg.decode_payload(vector["type"], encoded) == built


def envelope(vector: Vector) -> None:
    version = ProtocolVersion(vector["major"], vector["minor"])
    built = Envelope(version, vector["type"], vector["msg_id"], vector["flags"], unhex(vector, "payload"))
    encoded = unhex(vector, "output")
    assert built.encode() == encoded
    if vector["decodes"] and title(vector) not in REFUSED:
        assert Envelope.decode(encoded) == built
        return
    with pytest.raises(RemoteProtocolError) as caught:
        Envelope.decode(encoded)
    assert (caught.value.reason is Reason.VERSION) == ("version" in vector.get("error", ""))


def envelope_decode(vector: Vector) -> None:
    data = unhex(vector, "input")
    assert not vector["accepted"]
    with pytest.raises(RemoteProtocolError) as caught:
        Envelope.decode(data)
    assert (caught.value.reason is Reason.VERSION) == ("version" in vector["error"])


def envelope_encrypted(vector: Vector) -> None:
    assert vector["crypto"] == "NullCrypto"
    crypto = NullCrypto()
    key, plaintext = unhex(vector, "key"), unhex(vector, "plaintext")
    built = pack.make_envelope_secure(
        vector["type"],
        plaintext,
        key,
        crypto,
        vector["nonce_counter"],
        msg_id=vector["msg_id"],
        flags=vector["flags"] & ~EnvelopeFlag.ENCRYPTED,
    )
    assert built.flags == vector["flags"]
    assert built.nonce == unhex(vector, "nonce")
    assert pack.make_aad(built) == unhex(vector, "aad")
    assert (built.payload, built.tag) == (unhex(vector, "ciphertext"), unhex(vector, "tag"))
    assert built.encode() == unhex(vector, "output")
    read = Envelope.decode(unhex(vector, "output"))
    assert read == built
    # An empty plaintext is a plaintext, whatever the C++ receiver makes of it.
    assert crypto.aead_decrypt(key, read.nonce, pack.make_aad(read), read.payload, read.tag) == plaintext


def aad_(vector: Vector) -> None:
    made = aad(vector["type"], vector["msg_id"], vector["flags"], vector["major"], vector["minor"])
    assert made == unhex(vector, "output")


def payload_decode(vector: Vector) -> None:
    data = unhex(vector, "input")
    ours = accepted(vector, lambda: msg.decode_payload(vector["type"], data))
    assert ours == (vector["accepted"] and title(vector) not in REFUSED)


def discovery_announce(vector: Vector) -> None:
    assert vector["capabilities_in_wire_order"] == []
    node_id = unhex(vector, "node_id").decode()
    built = msg.DiscoveryAnnounce(node_id, vector["tcp_port"], vector["ts_ms"], vector["nonce"])
    if not vector["parses_back"]:
        # C++ cuts at 512 bytes and sends what nobody can read; we say so to the caller.
        with pytest.raises(PayloadTooLarge):
            built.to_json()
        return
    assert built.to_json() == vector["output_text"]
    assert built.to_json().encode() == unhex(vector, "output")
    assert len(built.to_json()) == vector["output_len"]
    assert msg.DiscoveryAnnounce.from_json(unhex(vector, "output")) == built


def discovery_parse(vector: Vector) -> None:
    text = vector["input_text"]
    if not vector["accepted"] or title(vector) in REFUSED:
        assert not accepted(vector, lambda: msg.DiscoveryAnnounce.from_json(text))
        return
    found = msg.DiscoveryAnnounce.from_json(text)
    if title(vector) in READ_OTHERWISE:
        assert found.node_id == json.loads(text)["node_id"] != vector["node_id"]
    else:
        assert found.node_id == vector["node_id"]
    assert (found.tcp_port, found.ts_ms, found.nonce) == (vector["tcp_port"], vector["ts_ms"], vector["nonce"])


def kdf32(vector: Vector) -> None:
    assert NullCrypto().kdf_32(unhex(vector, "input")) == unhex(vector, "output")


def old_transcript(vector: Vector, transport: str = "tcp") -> bytes:
    """What the C++ handshake signs. Ours signs nothing of the kind; the vectors keep NullCrypto honest."""
    name = transport.encode()
    fixed = struct.pack("<QQQHHH", vector["nonce_a"], vector["nonce_b"], vector["ts_ms"], 1, 0, len(name))
    return fixed + name


def handshake_bytes(vector: Vector) -> None:
    assert (vector["proto_major"], vector["proto_minor"]) == (1, 0)
    assert old_transcript(vector, vector["transport"]) == unhex(vector, "output")


def sign(vector: Vector) -> None:
    crypto = NullCrypto()
    signature = crypto.sign(unhex(vector, "data"), unhex(vector, "private_key"))
    assert signature == unhex(vector, "output")
    assert crypto.verify(unhex(vector, "data"), signature, bytes(32))


def session_key(vector: Vector) -> None:
    transcript = old_transcript(vector) + unhex(vector, "peer_public_key") + unhex(vector, "self_public_key")
    assert transcript == unhex(vector, "transcript")
    assert NullCrypto().kdf_32(transcript) == unhex(vector, "output")


CHECKS: Final[dict[str, Callable[[Vector], None]]] = {
    "aad": aad_,
    "discovery_announce": discovery_announce,
    "discovery_parse": discovery_parse,
    "envelope": envelope,
    "envelope_decode": envelope_decode,
    "envelope_encrypted": envelope_encrypted,
    "frame": frame,
    "frame_decode": frame_decode,
    "handshake_bytes": handshake_bytes,
    "kdf32": kdf32,
    "message": message,
    "payload_decode": payload_decode,
    "session_key": session_key,
    "sign": sign,
    "varint": varint,
    "varint_decode": varint_decode,
}


@pytest.mark.parametrize("vector", VECTORS, ids=[f"{place}-{title(vector)}" for place, vector in enumerate(VECTORS)])
def test_vector(vector: Vector) -> None:
    CHECKS[vector["kind"]](vector)


def test_every_kind_is_checked_and_every_exception_is_a_vector() -> None:
    assert {vector["kind"] for vector in VECTORS} == set(CHECKS)
    titles = {title(vector) for vector in VECTORS}
    assert set(REFUSED) | set(READ_OTHERWISE) <= titles


def test_every_exception_has_a_test_of_its_own() -> None:
    source = (Path(__file__).parents[1] / "unit" / "test_refusals.py").read_text()
    for name in {*REFUSED.values(), *READ_OTHERWISE.values()}:
        assert f"def {name}(" in source
