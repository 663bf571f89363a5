"""Where an address leads (T49), and who counts as one neighbour (T02)."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.policy.addresses import AddressClass, DialRule, classify, neighbour_of, prefix_of

CASES = {
    "8.8.8.8": AddressClass.PUBLIC,
    "2606:4700::1111": AddressClass.PUBLIC,
    "10.0.0.1": AddressClass.PRIVATE,
    "172.31.255.255": AddressClass.PRIVATE,
    "192.168.1.1": AddressClass.PRIVATE,
    "100.64.0.1": AddressClass.PRIVATE,
    "fd00::1": AddressClass.PRIVATE,
    "127.0.0.1": AddressClass.LOOPBACK,
    "127.255.255.254": AddressClass.LOOPBACK,
    "::1": AddressClass.LOOPBACK,
    "::ffff:127.0.0.1": AddressClass.LOOPBACK,
    "169.254.169.254": AddressClass.RESERVED,
    "::ffff:169.254.169.254": AddressClass.RESERVED,
    "169.254.3.4": AddressClass.LINK_LOCAL,
    "fe80::1": AddressClass.LINK_LOCAL,
    "fe80::1%eth0": AddressClass.LINK_LOCAL,
    "0.0.0.0": AddressClass.UNSPECIFIED,
    "0.1.2.3": AddressClass.UNSPECIFIED,
    "::": AddressClass.UNSPECIFIED,
    "::ffff:0.0.0.0": AddressClass.UNSPECIFIED,
    "224.0.0.1": AddressClass.MULTICAST,
    "239.255.0.1": AddressClass.MULTICAST,
    "ff02::1": AddressClass.MULTICAST,
    "255.255.255.255": AddressClass.RESERVED,
    "240.0.0.1": AddressClass.RESERVED,
    "192.0.2.1": AddressClass.RESERVED,
    "2001:db8::1": AddressClass.RESERVED,
    "100.100.100.200": AddressClass.RESERVED,
    "::ffff:100.100.100.200": AddressClass.RESERVED,
    "64:ff9b::100.100.100.200": AddressClass.RESERVED,
    "100.100.100.201": AddressClass.PRIVATE,
    "168.63.129.16": AddressClass.RESERVED,
    "fd00:ec2::254": AddressClass.RESERVED,
    "fd20:ce::254": AddressClass.RESERVED,
    "fd00:42::42": AddressClass.RESERVED,
    "localhost": AddressClass.NAME,
    "example.org": AddressClass.NAME,
    "2130706433": AddressClass.NAME,
    "0x7f.1": AddressClass.NAME,
    "127.1": AddressClass.NAME,
    "0177.0.0.1": AddressClass.NAME,
    "": AddressClass.NAME,
}


@pytest.mark.parametrize("host", CASES)
def test_t49_every_kind_of_address_is_known_for_what_it_is(host: str) -> None:
    assert classify(host) is CASES[host]


@given(st.ip_addresses(v=4))
def test_t49_an_ipv4_address_wrapped_in_ipv6_hides_nothing(address: ipaddress.IPv4Address) -> None:
    assert classify(f"::ffff:{address}") is classify(str(address))
    assert prefix_of(f"::ffff:{address}") == prefix_of(str(address))


@given(st.ip_addresses(v=6), st.integers(0, 2**72 - 1))
def test_t02_an_ipv6_subscriber_is_one_neighbour_whatever_the_last_72_bits(
    address: ipaddress.IPv6Address, low: int
) -> None:
    neighbour = ipaddress.IPv6Address(int(address) >> 72 << 72 | low)
    if address.ipv4_mapped or neighbour.ipv4_mapped:
        return
    assert prefix_of(str(address)) == prefix_of(str(neighbour))
    other = ipaddress.IPv6Address(int(address) ^ 1 << 72)
    assert other.ipv4_mapped or prefix_of(str(other)) != prefix_of(str(address))


@given(st.ip_addresses(v=4), st.ip_addresses(v=4))
def test_t02_ipv4_addresses_are_neighbours_of_nobody(one: ipaddress.IPv4Address, other: ipaddress.IPv4Address) -> None:
    assert (prefix_of(str(one)) == prefix_of(str(other))) == (one == other)


@given(st.text(max_size=30))
def test_any_text_is_answered(text: str) -> None:
    assert isinstance(classify(text), AddressClass)
    assert isinstance(prefix_of(text), str)


@pytest.mark.parametrize("host", CASES)
def test_t49_a_rule_never_allows_what_nobody_may_dial_for_another(host: str) -> None:
    kind = CASES[host]
    assert DialRule().allows(host, 1) is (kind in {AddressClass.PUBLIC, AddressClass.PRIVATE, AddressClass.LOOPBACK})
    assert DialRule(private=False, loopback=False).allows(host, 1) is (kind is AddressClass.PUBLIC)
    closed = DialRule(ports_denied=frozenset({80}))
    assert closed.allows(host, 80) is (kind is AddressClass.PUBLIC)
    assert closed.allows(host, 81) is DialRule().allows(host, 81)


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("64:ff9b::169.254.169.254", AddressClass.RESERVED),
        ("64:ff9b::127.0.0.1", AddressClass.LOOPBACK),
        ("64:ff9b:1::7f00:1", AddressClass.LOOPBACK),
        ("64:ff9b::9.9.9.9", AddressClass.PUBLIC),
        ("2002:a9fe:a9fe::1", AddressClass.RESERVED),
        ("2002:7f00:1::", AddressClass.LOOPBACK),
        ("2002:c0a8:101::1", AddressClass.PRIVATE),
        ("::169.254.169.254", AddressClass.RESERVED),
        ("::127.0.0.1", AddressClass.RESERVED),
        ("::10.0.0.1", AddressClass.RESERVED),
        ("::9.9.9.9", AddressClass.RESERVED),
        ("4000::1", AddressClass.RESERVED),
        ("::ffff:0:127.0.0.1", AddressClass.LOOPBACK),
        ("fec0::1", AddressClass.RESERVED),
        ("3fff:123::1", AddressClass.RESERVED),
        ("5f00::1", AddressClass.RESERVED),
        ("192.88.99.1", AddressClass.RESERVED),
        ("192.0.0.192", AddressClass.RESERVED),
        ("::1%lo", AddressClass.RESERVED),
        ("2606:4700::1%eth0", AddressClass.RESERVED),
        ("fe80::1%eth0", AddressClass.LINK_LOCAL),
        ("ff02::1%eth0", AddressClass.MULTICAST),
        ("::", AddressClass.UNSPECIFIED),
        ("::1", AddressClass.LOOPBACK),
        ("2001:db8::1", AddressClass.RESERVED),
        ("2a00:1450::1", AddressClass.PUBLIC),
    ],
)
def test_t49_what_is_public_by_its_look_alone_leads_where_it_does(host: str, kind: AddressClass) -> None:
    assert classify(host) is kind


def test_a_link_local_address_is_a_neighbour_of_its_own_and_any_other_counts_with_its_prefix() -> None:
    assert neighbour_of("fe80::1%eth0") != neighbour_of("fe80::2%eth0")
    assert neighbour_of("2001:db8:0:1::1") == neighbour_of("2001:db8:0:2::2") == prefix_of("2001:db8::")
    assert neighbour_of("192.0.2.1") == prefix_of("192.0.2.1")


def test_t49_who_is_on_the_same_cable_is_dialled_where_that_is_allowed_and_no_secret_of_a_cloud_is() -> None:
    near = DialRule(link_local=True)
    assert near.allows("fe80::1%eth0", 9001)
    assert near.allows("169.254.3.4", 9001)
    assert not DialRule().allows("fe80::1%eth0", 9001)
    for host in ("169.254.169.254", "169.254.170.2", "0.0.0.5", "224.0.0.9", "255.255.255.255", "fd00:ec2::254"):
        assert not near.allows(host, 80)


def test_t49_our_own_doors_are_denied_at_every_address_of_this_machine_public_ones_too() -> None:
    rule = DialRule(ports_denied=frozenset({8080}), own_hosts=frozenset({"2a01:4f8::1"}))
    assert not rule.allows("2a01:4f8::1", 8080)
    assert rule.allows("2a01:4f8::1", 8081)
    assert rule.allows("2a01:4f8::2", 8080)
