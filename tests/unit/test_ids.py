"""Who and where, as text and as values."""

from __future__ import annotations

import pytest

from p2p.errors import ConfigError
from p2p.ids import PeerEndpoint, PeerId, check_node_id, is_address, is_loopback, usual_host

NAME = "5a" * 32


def test_a_peer_id_is_32_bytes_or_64_digits_and_shows_what_it_is() -> None:
    peer_id = PeerId.parse(NAME)
    assert (str(peer_id), peer_id.short, repr(peer_id)) == (NAME, "5a5a5a5a", f"PeerId({NAME})")
    for text in (NAME.upper(), NAME[:-1], ""):
        with pytest.raises(ConfigError, match="64 lower-case hex digits"):
            PeerId.parse(text)
    with pytest.raises(ConfigError, match="32 bytes, not 31"):
        PeerId(bytes(31))


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("10.0.0.1:9001", PeerEndpoint("10.0.0.1", 9001)),
        (" tcp://[::1]:9001 ", PeerEndpoint("::1", 9001)),
        ("ws://a@example.org:80", PeerEndpoint("example.org", 80, "ws", "a")),
        (f"wss://{NAME}@example.org:443", PeerEndpoint("example.org", 443, "wss", NAME)),
    ],
)
def test_an_endpoint_is_read_and_shown_alike(text: str, endpoint: PeerEndpoint) -> None:
    assert PeerEndpoint.parse(text) == endpoint
    assert PeerEndpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("2606:4700:0000:0000:0000:0000:0000:0001", "2606:4700::1"),
        ("2606:4700:0:0::1", "2606:4700::1"),
        ("2001:DB8::A", "2001:db8::a"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:201", "192.0.2.1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("FE80::1%eth0", "fe80::1%eth0"),
        ("Node.Example", "node.example"),
        ("192.0.2.1", "192.0.2.1"),
    ],
)
def test_t49_one_place_has_one_spelling(text: str, host: str) -> None:
    endpoint = PeerEndpoint(text, 9)
    assert endpoint == PeerEndpoint(host, 9) == PeerEndpoint.parse(str(endpoint))
    assert (endpoint.host, endpoint.address) == (host, ("tcp", host, 9))
    assert usual_host(text) == usual_host(host) == host


def test_text_of_a_peer_id_says_how_it_is_read() -> None:
    with pytest.raises(ConfigError, match=r"PeerId\.parse"):
        PeerId("ab" * 32)  # type: ignore[arg-type]  # what is refused


def test_what_is_no_host_has_no_usual_form() -> None:
    assert [usual_host(text) for text in ("", "a b", "[::1]", "1:2", "a/b", "::1%")] == [None] * 6


def test_what_needs_no_resolver_is_an_address() -> None:
    assert [is_address(text) for text in ("192.0.2.1", "2001:db8::1", "FE80::1%eth0")] == [True] * 3
    assert [is_address(text) for text in ("", "192.0.2.256", "node.example", "1:2")] == [False] * 4


@pytest.mark.parametrize("text", ["", "a b", "a" * 65, NAME, NAME.upper(), "é"])
def test_what_is_no_node_id_is_refused_with_the_rule(text: str) -> None:
    assert check_node_id("Node-1_a.b") == "Node-1_a.b"
    with pytest.raises(ConfigError, match="does not look like a peer id"):
        check_node_id(text)


def test_this_machine_is_known_in_any_spelling() -> None:
    assert all(is_loopback(text) for text in ("127.9.9.9", "::1", "0:0::1", "::ffff:127.0.0.1", "LocalHost"))
    assert not any(is_loopback(text) for text in ("", "192.0.2.1", "::", "::ffff:192.0.2.1", "localhost.example"))


def test_addresses_that_were_judged_are_no_part_of_what_an_endpoint_is() -> None:
    judged = PeerEndpoint("a.example", 9, "wss", judged=("192.0.2.1",))
    assert judged == PeerEndpoint("a.example", 9, "wss")
    assert hash(judged) == hash(PeerEndpoint("a.example", 9, "wss"))
    assert str(judged) == "wss://a.example:9"
    for wrong in (("192.0.2.1", "b.example"), (1,), "192.0.2.1"):
        with pytest.raises(ConfigError, match="judged is for addresses"):
            PeerEndpoint("a.example", 9, "wss", judged=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10.0.0.1", "is not an endpoint"),
        ("[::1]9001", "is not an endpoint"),
        ("[::1", "is not an endpoint"),
        ("::1:9001", "is not an endpoint"),
        ("a:9oo1", "is not an endpoint"),
        ("a:١", "is not an endpoint"),
        ("a:123456", "is not an endpoint"),
        ("relay://a", "write relay://RELAY/TARGET"),
        ("ftp://a:1", "unknown scheme 'ftp'"),
        ("a:65536", "port 65536 is not within 0-65535"),
        ("a b:1", "neither an IP address nor a host name"),
        ("a b@c:1", "neither a peer id nor a node id"),
    ],
)
def test_what_is_no_endpoint_is_refused_in_words(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        PeerEndpoint.parse(text)


def test_the_scope_of_an_address_holds_no_half_character() -> None:
    assert PeerEndpoint("fe80::1%eth0", 1).host == "fe80::1%eth0"
    with pytest.raises(ConfigError, match="neither"):
        PeerEndpoint("fe80::1%\ud800", 1)


@pytest.mark.parametrize(
    "parts", [(b"10.0.0.1", 1), ("10.0.0.1", "1"), ("10.0.0.1", True), ("h", 1, None), ("h", 1, "tcp", 5)]
)
def test_an_endpoint_of_anything_else_is_the_callers_mistake(parts: tuple[object, ...]) -> None:
    with pytest.raises(ConfigError, match="host is text, its port a whole number"):
        PeerEndpoint(*parts)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="from text, and not from int"):
        PeerEndpoint.parse(9001)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ws://example.org", "write ws://HOST:PORT; behind a proxy PORT is usually 80"),
        ("wss://example.org:443/path", "write wss://HOST:PORT, without a path; behind a proxy PORT is usually 443"),
        ("example.org", "write HOST:PORT, tcp://HOST:PORT or"),
    ],
)
def test_an_endpoint_of_another_form_is_refused_with_the_right_one(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PeerEndpoint.parse(text)
