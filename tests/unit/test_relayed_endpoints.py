"""`relay://RELAY/TARGET`: a peer behind another one, as text and as a value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import ConfigError
from p2p.ids import PeerEndpoint

ID = "5e" * 32

WHO = st.from_regex(r"[A-Za-z0-9._-]{1,30}", fullmatch=True) | st.binary(min_size=32, max_size=32).map(bytes.hex)


@given(WHO, WHO)
def test_text_and_value_are_the_same(relay: str, target: str) -> None:
    if relay == target:
        return
    endpoint = PeerEndpoint.parse(f"relay://{relay}/{target}")
    assert (endpoint.scheme, endpoint.host, endpoint.port, endpoint.expect) == ("relay", relay, 0, target)
    assert str(endpoint) == f"relay://{relay}/{target}"
    assert PeerEndpoint.parse(str(endpoint)) == endpoint
    assert endpoint.is_dialable


@pytest.mark.parametrize(
    "text",
    ["relay://r", "relay://", "relay:///b", "relay://r/", "relay://r/b/c", f"relay://{ID}/{ID}", "relay://r@x/b",
     "relay://r:9001/b", "relay://r r/b", "relay://r/b\n\x1b[2J"],
)  # fmt: skip
def test_anything_else_is_refused_in_words(text: str) -> None:
    with pytest.raises(ConfigError, match="relay://RELAY/TARGET"):
        PeerEndpoint.parse(text)


def test_a_relayed_peer_has_no_port_and_needs_a_target() -> None:
    with pytest.raises(ConfigError, match="no port"):
        PeerEndpoint("r", 9001, "relay", "b")
    with pytest.raises(ConfigError, match="target"):
        PeerEndpoint("r", 0, "relay")
    assert not PeerEndpoint("localhost", 0).is_dialable


def test_two_targets_behind_one_relay_are_two_places() -> None:
    b, c = PeerEndpoint.parse("relay://r/b"), PeerEndpoint.parse("relay://r/c")
    assert b.address != c.address
