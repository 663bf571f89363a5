"""The desk of a registry: what it takes, whom it shows what, and how often it lets itself be asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.crypto.announce import sign_announcement
from p2p.crypto.identity import Identity
from p2p.limits import Limits
from p2p.msg import DiscoveryAnnounce
from p2p.registry.desk import Desk, Refused, Scope
from p2p.registry.form import ListedPeer, write_announce

KITCHEN = Identity.generate(lambda size: b"k" * size)
VIX = b'{"node_id":"kitchen","tcp_port":9101,"cap":{"proto":"1.0"}}'
SIGNED = write_announce(sign_announcement(DiscoveryAnnounce("kitchen", 9101, 1, 2), KITCHEN))
HOST = "8.8.4.4"


def refusal(desk: Desk, body: bytes, host: str = HOST) -> str:
    with pytest.raises(Refused) as caught:
        desk.take(body, host, 0.0)
    return caught.value.word


def test_what_vix_announces_is_taken_at_the_address_it_came_from() -> None:
    entry = Desk(Limits()).take(VIX, HOST, 0.0)
    assert entry.peer == ListedPeer(HOST, 9101, "kitchen")
    assert (entry.scope, entry.source) == (Scope.PUBLIC, "8.8.4.4/32")


def test_the_body_names_no_host() -> None:
    entry = Desk(Limits()).take(VIX[:-1] + b',"host":"192.0.2.1","peer_id":"ff"}', HOST, 0.0)
    assert (entry.peer.host, entry.peer.peer_id) == (HOST, None)


def test_a_signature_brings_the_peer_id() -> None:
    assert Desk(Limits(), require_signed=True).take(SIGNED, HOST, 0.0).peer.peer_id == str(KITCHEN.peer_id)


def test_a_wrong_signature_is_refused_and_none_only_where_it_must_be_there() -> None:
    assert refusal(Desk(Limits()), SIGNED.replace(b"9101", b"9102")) == "bad_signature"
    assert refusal(Desk(Limits(), require_signed=True), VIX) == "unsigned"


def test_the_scheme_is_that_of_cap() -> None:
    body = b'{"node_id":"kitchen","tcp_port":443,"cap":{"transport":"wss"}}'
    assert Desk(Limits()).take(body, HOST, 0.0).peer.scheme == "wss"
    assert refusal(Desk(Limits()), body.replace(b"wss", b"mem")) == "invalid_announcement"


@given(st.binary(max_size=300))
def test_t29_any_bytes_are_refused(body: bytes) -> None:
    assert refusal(Desk(Limits()), body) == "invalid_announcement"


@pytest.mark.parametrize("host", ["", "unix", "169.254.1.1", "fe80::1", "0.0.0.0", "224.0.0.1", "::"])
def test_t49_nobody_is_listed_where_he_cannot_be_reached(host: str) -> None:
    assert refusal(Desk(Limits()), VIX, host) == "not_routable"


@pytest.mark.parametrize(
    ("host", "scopes"),
    [
        ("8.8.8.8", (Scope.PUBLIC,)),
        ("2606:4700::1", (Scope.PUBLIC,)),
        ("10.0.0.1", (Scope.PUBLIC, Scope.PRIVATE)),
        ("127.0.0.1", (Scope.PUBLIC, Scope.PRIVATE, Scope.LOOPBACK)),
        ("::1", (Scope.PUBLIC, Scope.PRIVATE, Scope.LOOPBACK)),
        ("", (Scope.PUBLIC,)),
        ("fe80::1", (Scope.PUBLIC,)),
    ],
)
def test_who_comes_from_where_sees_what_is_of_use_there(host: str, scopes: tuple[Scope, ...]) -> None:
    assert Desk(Limits()).answer(None, host, 0.0) == (100, scopes)


@pytest.mark.parametrize(("limit", "count"), [(None, 100), ("1", 1), ("100", 100), ("101", 100), ("999999999", 100)])
def test_no_more_are_listed_than_a_client_reads(limit: str | None, count: int) -> None:
    assert Desk(Limits()).answer(limit, HOST, 0.0)[0] == count


@pytest.mark.parametrize("limit", ["", "0", "-1", "x", "1.5", "1e3", "٣", " 1", "9" * 10, "9" * 5000])
def test_a_limit_that_is_none_is_refused(limit: str) -> None:
    with pytest.raises(Refused) as caught:
        Desk(Limits()).answer(limit, HOST, 0.0)
    assert caught.value.word == "invalid_limit"


def test_one_source_is_served_so_often_and_others_do_not_notice() -> None:
    desk = Desk(Limits(registrar_announces_per_s=2, registrar_announces_burst=3))
    for _ in range(3):
        desk.take(VIX, HOST, 0.0)
    with pytest.raises(Refused) as caught:
        desk.take(VIX, HOST, 0.0)
    assert (caught.value.word, caught.value.retry_s) == ("too_many_requests", 1)
    desk.take(VIX, "8.8.4.5", 0.0)
    desk.answer(None, HOST, 0.0)
    desk.take(VIX, HOST, 0.5)


def test_an_ipv6_source_is_a_56() -> None:
    desk = Desk(Limits(registrar_questions_per_s=0.1, registrar_questions_burst=2))
    for host in ("2606:4700:0:1::1", "2606:4700:0:2::1"):
        desk.answer(None, host, 0.0)
    with pytest.raises(Refused):
        desk.answer(None, "2606:4700:0:3::1", 0.0)
    desk.answer(None, "2606:4700:0:100::1", 0.0)


def test_what_is_malformed_costs_its_source_too() -> None:
    desk = Desk(Limits(registrar_announces_per_s=0.1, registrar_announces_burst=1))
    assert refusal(desk, b"x") == "invalid_announcement"
    assert refusal(desk, VIX) == "too_many_requests"


@pytest.mark.parametrize("host", ["192.168.1.7", "192.0.2.1"])
def test_who_comes_from_a_private_network_or_from_nowhere_pays_too(host: str) -> None:
    desk = Desk(Limits(registrar_announces_per_s=0.1, registrar_announces_burst=1, registrar_questions_burst=1))
    assert host.startswith("192.168.") or refusal(desk, VIX, host) == "not_routable"
    if host.startswith("192.168."):
        desk.take(VIX, host, 0.0)
    assert refusal(desk, VIX, host) == "too_many_requests"


def test_the_registrys_own_machine_is_not_bounded_by_source() -> None:
    desk = Desk(Limits(registrar_announces_burst=1, registrar_questions_burst=1, registrar_entries_per_source_max=1))
    for _ in range(10):
        entry = desk.take(VIX, "127.0.0.1", 0.0)
        desk.answer(None, "::1", 0.0)
    assert desk.room.of_source(entry.scope) > 1
    assert desk.room.of_source(Scope.PRIVATE) == 1
