from __future__ import annotations

import base64
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.crypto.identity import Identity, verify
from p2p.ids import PeerId
from p2p.node.announce import Announced, Flaw, read_announcement, write_announcement

ME = Identity.generate(bytes)
OTHER = Identity.generate(lambda size: b"\x01" * size)


def written(identity: Identity | None = ME, **changes: object) -> bytes:
    members = json.loads(write_announcement("a", 9101, 1_700_000_000_000, 7, identity))
    for name, value in changes.items():
        place = members["cap"] if name in {"key", "sig", "transport"} else members
        if value is None:
            del place[name]
        else:
            place[name] = value
    return json.dumps(members, separators=(",", ":")).encode()


@pytest.mark.parametrize("identity", [ME, None])
def test_what_is_written_is_read(identity: Identity | None) -> None:
    peer_id = identity.peer_id if identity else None
    said = Announced("a", 9101, 1_700_000_000_000, 7, peer_id)
    assert read_announcement(written(identity), require_signed=False) == said


def test_the_bytes_are_those_of_section_8() -> None:
    data = write_announcement("a", 9101, 2, 7, ME)
    members = json.loads(data)
    assert list(members) == ["node_id", "tcp_port", "ts_ms", "nonce", "cap"]
    assert (members["cap"]["proto"], members["cap"]["transport"]) == ("1.0", "tcp")
    signed = b"vix-p2p/announce/1\x01a" + struct.pack("<HQQ", 9101, 2, 7)
    key, signature = (base64.b64decode(members["cap"][name], validate=True) for name in ("key", "sig"))
    assert key == ME.peer_id
    assert verify(key, signature, signed)


def test_the_longest_one_fits_what_vix_reads() -> None:
    assert len(write_announcement("n" * 64, 65535, 2**64 - 1, 2**64 - 1, ME)) <= 512


@pytest.mark.parametrize(
    "changes",
    [
        {"node_id": "b"}, {"tcp_port": 9102}, {"ts_ms": 1}, {"nonce": 8},
        {"key": base64.b64encode(OTHER.peer_id).decode()}, {"sig": base64.b64encode(bytes(64)).decode()},
    ],
)  # fmt: skip
@pytest.mark.parametrize("required", [True, False])
def test_t44_what_was_changed_after_it_was_signed_is_forged(changes: dict[str, object], required: bool) -> None:
    assert read_announcement(written(**changes), require_signed=required) is Flaw.FORGED


def test_unsigned_ones_count_only_where_signatures_are_not_required() -> None:
    assert read_announcement(written(None), require_signed=True) is Flaw.UNSIGNED
    assert isinstance(read_announcement(written(None), require_signed=False), Announced)


@pytest.mark.parametrize(
    "changes",
    [
        {"key": None}, {"sig": None}, {"sig": "AA=="}, {"key": "not base64"}, {"transport": "carrier-pigeon"},
        {"node_id": ""}, {"node_id": "a b"}, {"node_id": "\x1b[31m"}, {"node_id": "f" * 64}, {"node_id": 5},
        {"tcp_port": 0}, {"tcp_port": 65536}, {"tcp_port": "9101"}, {"nonce": -1},
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_malformed(changes: dict[str, object]) -> None:
    assert read_announcement(written(**changes), require_signed=False) is Flaw.MALFORMED


@given(st.binary(max_size=1300), st.booleans())
def test_any_bytes_get_a_verdict(data: bytes, required: bool) -> None:
    assert read_announcement(data, require_signed=required) is Flaw.MALFORMED


@given(st.text("abcXYZ09._-", min_size=1, max_size=64), st.integers(1, 65535), st.integers(0, 2**64 - 1))
def test_every_node_is_read_as_it_was_written(node_id: str, port: int, nonce: int) -> None:
    said = read_announcement(write_announcement(node_id, port, 5, nonce, ME), require_signed=True)
    assert said == Announced(node_id, port, 5, nonce, PeerId(ME.peer_id))
