"""The routing table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import ConfigError
from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.policy.routes import MemoryRouter, Route


def peer(number: int) -> PeerId:
    return PeerId(number.to_bytes(32, "big"))


def test_a_route_is_found_replaced_and_removed() -> None:
    router = MemoryRouter()
    assert router.resolve(peer(1)) is None
    router.upsert_route(peer(1), Route(peer(2)))
    assert router.resolve(peer(1)) == Route(next_hop=peer(2), via_relay=False, ttl=8)
    router.upsert_route(peer(1), Route(peer(3), via_relay=True, ttl=2))
    assert router.resolve(peer(1)) == Route(peer(3), via_relay=True, ttl=2)
    assert len(router) == 1
    assert router.remove_route(peer(1))
    assert not router.remove_route(peer(1))
    assert router.resolve(peer(1)) is None


@pytest.mark.parametrize("ttl", [-1, 0, 9, 255])
def test_t72_a_ttl_out_of_range_is_refused(ttl: int) -> None:
    with pytest.raises(ConfigError, match=str(ttl)):
        Route(peer(1), ttl=ttl)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=60))
def test_the_table_is_bounded_and_keeps_the_latest(steps: list[tuple[int, int, bool]]) -> None:
    router, expected = MemoryRouter(replace(Limits(), routes_max=4)), dict[int, int]()
    for target, hop, remove in steps:
        expected.pop(target, None)
        if remove:
            router.remove_route(peer(target))
        else:
            router.upsert_route(peer(target), Route(peer(hop)))
            expected[target] = hop
            if len(expected) > 4:
                del expected[next(iter(expected))]
        assert {t: router.resolve(peer(t)) for t in range(10)} == {
            t: Route(peer(expected[t])) if t in expected else None for t in range(10)
        }
