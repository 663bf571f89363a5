"""Signed announcements: what was signed is what is read, and anything else is nobody's."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.crypto.announce import sign_announcement, signer_of
from p2p.crypto.identity import Identity
from p2p.errors import LocalProtocolError, RemoteProtocolError
from p2p.msg import DiscoveryAnnounce
from p2p.testing import strategies as wire

KITCHEN = Identity.generate(lambda size: b"k" * size)
ANNOUNCE = DiscoveryAnnounce("kitchen", 9101, 1_710_000_000_000, 7, (("proto", "1.0"),))
SIGNED = sign_announcement(ANNOUNCE, KITCHEN)


def with_cap(**changes: str) -> DiscoveryAnnounce:
    capabilities = dict(SIGNED.capabilities) | changes
    return DiscoveryAnnounce(SIGNED.node_id, SIGNED.tcp_port, SIGNED.ts_ms, SIGNED.nonce, capabilities)


def test_what_is_signed_fits_a_datagram_and_survives_it() -> None:
    read = DiscoveryAnnounce.from_json(SIGNED.to_json())
    assert read == SIGNED
    assert signer_of(read) == KITCHEN.peer_id
    assert [name for name, _ in read.capabilities] == ["proto", "key", "sig"]


def test_the_signed_bytes_are_those_of_the_page() -> None:
    signed = (
        b"vix-p2p/announce/1" + b"\x07kitchen" + (9101).to_bytes(2, "little")
        + (1_710_000_000_000).to_bytes(8, "little") + (7).to_bytes(8, "little")
    )  # fmt: skip
    assert dict(SIGNED.capabilities)["sig"] == base64.b64encode(KITCHEN.sign(signed)).decode()


def test_without_key_and_sig_it_is_nobodys() -> None:
    assert signer_of(ANNOUNCE) is None


def test_signing_again_replaces_the_signature() -> None:
    cellar = Identity.generate(lambda size: b"c" * size)
    assert signer_of(sign_announcement(SIGNED, cellar)) == cellar.peer_id


@pytest.mark.parametrize(
    "changed",
    [
        DiscoveryAnnounce("cellar", SIGNED.tcp_port, SIGNED.ts_ms, SIGNED.nonce, SIGNED.capabilities),
        DiscoveryAnnounce(SIGNED.node_id, 22, SIGNED.ts_ms, SIGNED.nonce, SIGNED.capabilities),
        DiscoveryAnnounce(SIGNED.node_id, SIGNED.tcp_port, SIGNED.ts_ms + 1, SIGNED.nonce, SIGNED.capabilities),
        DiscoveryAnnounce(SIGNED.node_id, SIGNED.tcp_port, SIGNED.ts_ms, SIGNED.nonce + 1, SIGNED.capabilities),
        with_cap(key=base64.b64encode(Identity.generate(lambda size: b"x" * size).peer_id).decode()),
        with_cap(key=""),
        with_cap(sig=""),
        with_cap(sig="A" * 88),
        with_cap(sig=dict(SIGNED.capabilities)["sig"] + "\n"),
        with_cap(key=dict(SIGNED.capabilities)["key"].rstrip("=")),
        with_cap(key="ä" * 44),
        DiscoveryAnnounce("kitchen", 9101, 1, 1, (("key", dict(SIGNED.capabilities)["key"]),)),
        DiscoveryAnnounce("kitchen", 9101, 1, 1, (("sig", dict(SIGNED.capabilities)["sig"]),)),
    ],
)
def test_what_was_changed_is_refused(changed: DiscoveryAnnounce) -> None:
    with pytest.raises(RemoteProtocolError):
        signer_of(changed)


@given(wire.announcements(), st.binary(max_size=70), st.binary(max_size=70))
def test_no_noise_is_a_signature(announce: DiscoveryAnnounce, key: bytes, sig: bytes) -> None:
    texts = {"key": base64.b64encode(key).decode(), "sig": base64.b64encode(sig).decode()}
    forged = DiscoveryAnnounce(announce.node_id, announce.tcp_port, announce.ts_ms, announce.nonce, texts)
    with pytest.raises(RemoteProtocolError):
        signer_of(forged)


def test_a_port_that_does_not_fit_is_the_callers_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        sign_announcement(DiscoveryAnnounce("a", 70_000, 0, 0), KITCHEN)
