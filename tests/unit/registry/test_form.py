"""The JSON of section 10: what is written is read, a wrong form is refused, an impossible peer is left out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.crypto.announce import sign_announcement, signer_of
from p2p.crypto.identity import Identity
from p2p.errors import ConfigError, RemoteProtocolError
from p2p.msg import DiscoveryAnnounce
from p2p.policy.hints import DiscoveryAnnouncement
from p2p.registry.form import (
    ListedPeer,
    base_of,
    read_announce,
    read_announced,
    read_peers,
    write_announce,
    write_announced,
    write_peers,
)

KITCHEN = Identity.generate(lambda size: b"k" * size)
PEER = ListedPeer("192.0.2.7", 9101, "kitchen")
OURS = ListedPeer("2001:db8::7", 9101, "kitchen", "wss", str(KITCHEN.peer_id), 41.5)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://r:8080", "http://r:8080"),
        ("http://r:8080/", "http://r:8080"),
        ("http://r:8080/peers", "http://r:8080"),
        ("https://r/peers/", "https://r"),
        ("https://r/a/b/peers", "https://r/a/b"),
        ("https://r/a/mypeers", "https://r/a/mypeers"),
        ("http://[::1]:1/x/", "http://[::1]:1/x"),
    ],
)
def test_a_url_with_or_without_peers_means_its_base(url: str, base: str) -> None:
    assert base_of(url) == base
    assert base_of(base) == base


@pytest.mark.parametrize(
    "url",
    [
        "",
        "r:8080",
        "ftp://r",
        "file:///etc/passwd",
        "http://",
        "http://:80",
        "http://r:0",
        "http://r:99999",
        "http://r:x",
        "http://[::1",
        "http://a..b",
        "http://r r",
        "http://" + "a" * 64 + ".example",
        "http://u:p@r",
        "http://r?limit=3",
        "http://r/#x",
        "http://r/\n",
        "http://r/ä",
        "http://r/" + "a" * 3000,
    ],
)
def test_t49_no_other_url_is_asked(url: str) -> None:
    with pytest.raises(ConfigError):
        base_of(url)


def test_what_vix_lists_is_read() -> None:
    body = b'{"peers":[{"host":"192.0.2.7","tcp_port":9101,"node_id":"kitchen","age":3}],"count":1}'
    assert read_peers(body, 100) == (PEER,)
    assert PEER.as_hint() == DiscoveryAnnouncement("kitchen", "192.0.2.7", 9101)


def test_what_ours_lists_is_read_and_vix_members_come_first() -> None:
    body = write_peers([PEER, OURS])
    assert read_peers(body, 100) == (PEER, OURS)
    assert list(json.loads(body)["peers"][1]) == ["host", "tcp_port", "node_id", "scheme", "peer_id", "expires_s"]
    assert OURS.as_hint() == DiscoveryAnnouncement("kitchen", "2001:db8::7", 9101, KITCHEN.peer_id, "wss")


def test_t48_no_more_peers_are_read_than_asked_for() -> None:
    assert len(read_peers(write_peers([PEER] * 500), 100)) == 100


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "{}",
        '{"peers":{}}',
        '{"peers":[],"peers":[]}',
        '{"peers":[{"host":"a","host":"b","tcp_port":1,"node_id":"a"}]}',
        '{"peers":[],"x":NaN}',
        '{"peers":' + "[" * 200_000,
        '{"peers":[],"x":' + "9" * 10_000 + "}",
        '{"peers":[]}x',
    ],
)
def test_t29_another_form_is_no_list(body: str) -> None:
    with pytest.raises(RemoteProtocolError):
        read_peers(body.encode(), 100)


@pytest.mark.parametrize(
    "entry",
    [
        "1",
        "null",
        '{"host":"a","tcp_port":1}',
        '{"host":"a","tcp_port":1,"node_id":"a","scheme":null}',
        '{"host":"a","tcp_port":"1","node_id":"a"}',
        '{"host":1,"tcp_port":1,"node_id":"a"}',
        '{"host":"a","tcp_port":1.5,"node_id":"a"}',
        '{"host":"a","tcp_port":1,"node_id":"a","peer_id":7}',
    ],
)
def test_an_entry_of_another_form_hides_none_of_the_others(entry: str) -> None:
    listed = write_peers([PEER])[: -len(b"]}")] + f",{entry}]}}".encode()
    assert read_peers(listed, 100) == (PEER, None)


@given(st.binary(max_size=200))
def test_t29_any_bytes_are_a_list_or_one_error(body: bytes) -> None:
    for read in (lambda: read_peers(body, 100), lambda: read_announced(body), lambda: read_announce(body)):
        with pytest.raises(RemoteProtocolError):
            read()


@pytest.mark.parametrize(
    "peer",
    [
        ListedPeer("192.0.2.7", 0, "a"),
        ListedPeer("192.0.2.7", 65_536, "a"),
        ListedPeer("192.0.2.7", -1, "a"),
        ListedPeer("192.0.2.7", 1, ""),
        ListedPeer("192.0.2.7", 1, "a b"),
        ListedPeer("192.0.2.7", 1, "a" * 65),
        ListedPeer("192.0.2.7", 1, str(KITCHEN.peer_id)),
        ListedPeer("", 1, "a"),
        ListedPeer("a b", 1, "a"),
        ListedPeer("http://x", 1, "a"),
        ListedPeer("192.0.2.7", 1, "a", "http"),
        ListedPeer("192.0.2.7", 1, "a", "mem"),
        ListedPeer("192.0.2.7", 1, "a", "tcp", "ff"),
    ],
)
def test_a_peer_that_cannot_be_is_no_hint(peer: ListedPeer) -> None:
    assert peer.as_hint() is None


def test_the_answer_to_an_announcement() -> None:
    assert write_announced(60) == b'{"ok":true,"ttl_s":60}'
    assert read_announced(b'{"ok":true,"ttl_s":60,"more":1}') == 60


@pytest.mark.parametrize(
    "body",
    [
        '{"ok":false,"ttl_s":60}',
        '{"ok":true}',
        '{"ok":1,"ttl_s":60}',
        '{"ok":true,"ttl_s":0}',
        '{"ok":true,"ttl_s":1e9}',
    ],
)
def test_t48_an_answer_that_holds_for_no_or_for_ever_is_none(body: str) -> None:
    with pytest.raises(RemoteProtocolError):
        read_announced(body.encode())


def test_a_vix_announcement_is_read() -> None:
    body = b'{"node_id":"kitchen","tcp_port":9101,"cap":{"proto":"1.0"}}'
    assert read_announce(body) == DiscoveryAnnounce("kitchen", 9101, 0, 0, (("proto", "1.0"),))
    assert signer_of(read_announce(b'{"node_id":"kitchen","tcp_port":9101}')) is None


def test_a_signed_announcement_survives() -> None:
    signed = sign_announcement(DiscoveryAnnounce("kitchen", 9101, 1, 2**64 - 1, (("transport", "tcp"),)), KITCHEN)
    assert read_announce(write_announce(signed)) == signed
    assert signer_of(read_announce(write_announce(signed))) == KITCHEN.peer_id


@pytest.mark.parametrize(
    "body",
    [
        '{"node_id":"a"}',
        '{"node_id":"a","tcp_port":0}',
        '{"node_id":"a","tcp_port":65536}',
        '{"node_id":"","tcp_port":1}',
        '{"node_id":"a b","tcp_port":1}',
        '{"node_id":"a","tcp_port":true}',
        '{"node_id":"a","tcp_port":1,"cap":{"a":1}}',
        '{"node_id":"a","tcp_port":1,"cap":null}',
        '{"node_id":"a","tcp_port":1,"nonce":-1}',
        '{"node_id":"a","tcp_port":1,"nonce":18446744073709551616}',
        '{"node_id":"a","tcp_port":1,"tcp_port":2}',
    ],
)
def test_t29_another_form_is_no_announcement(body: str) -> None:
    with pytest.raises(RemoteProtocolError):
        read_announce(body.encode())
