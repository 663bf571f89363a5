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


def test_a_table_that_is_full_forgets_the_route_that_was_set_longest_ago() -> None:
    router = MemoryRouter(replace(Limits(), routes_max=2))
    for number in (1, 2, 1, 3):
        router.upsert_route(peer(number), Route(peer(9)))
    assert [router.resolve(peer(number)) is not None for number in (1, 2, 3)] == [True, False, True]


# Learnt routes, and time.


def test_what_a_relay_tells_replaces_what_it_told_and_is_forgotten_with_it() -> None:
    router = MemoryRouter()
    assert router.learn(peer(9), [(peer(1), 1), (peer(2), 2)], 0.0)
    assert not router.learn(peer(9), [(peer(1), 1), (peer(2), 2)], 30.0)
    assert router.resolve(peer(2), 100.0) == Route(peer(9), via_relay=True)
    assert router.learn(peer(9), [(peer(1), 1)], 31.0)
    assert router.resolve(peer(2)) is None
    assert router.resolve(peer(1), 31.0 + 89.9) is not None
    assert router.resolve(peer(1), 31.0 + 90.0) is None
    assert router.expire(31.0 + 90.0)
    assert len(router) == 0
    router.learn(peer(9), [(peer(1), 1)], 200.0)
    assert router.forget_relay(peer(9))
    assert not router.forget_relay(peer(9))
    assert router.resolve(peer(1)) is None


def test_the_set_one_comes_first_then_fewer_hops_then_the_one_that_stood_longest() -> None:
    router = MemoryRouter()
    router.learn(peer(7), [(peer(1), 2)], 0.0)
    router.learn(peer(8), [(peer(1), 1)], 2.0)
    router.learn(peer(9), [(peer(1), 1)], 1.0)
    # Told again, it does not become younger.
    router.learn(peer(9), [(peer(1), 1)], 3.0)
    router.upsert_route(peer(1), Route(peer(6), via_relay=True), until=50.0)
    found = router.routes_to(peer(1), 4.0)
    assert [(known.route.next_hop, known.hops, known.is_learnt) for known in found] == [
        (peer(6), None, False),
        (peer(9), 2, True),
        (peer(8), 2, True),
        (peer(7), 3, True),
    ]
    assert router.list(4.0) == found
    assert [known.route.next_hop for known in router.routes_to(peer(1), 50.0)] == [peer(9), peer(8), peer(7)]


def test_a_learnt_route_that_was_tried_in_vain_is_forgotten_until_it_is_told_again() -> None:
    router = MemoryRouter()
    router.learn(peer(9), [(peer(1), 1)], 0.0)
    router.failed(peer(1), peer(9), 1.0)
    router.failed(peer(1), peer(8), 1.0)
    assert router.resolve(peer(1)) is None
    router.learn(peer(9), [(peer(1), 1)], 30.0)
    assert router.resolve(peer(1)) is not None


def test_t72_what_led_nowhere_and_is_told_again_comes_last() -> None:
    router = MemoryRouter()
    router.learn(peer(8), [(peer(1), 4)], 0.0)
    for now in (0.0, 30.0, 60.0):
        router.learn(peer(9), [(peer(1), 1)], now)
        found = router.resolve(peer(1), now)
        assert found is not None
        assert found.next_hop == (peer(9) if now == 0.0 else peer(8))
        router.failed(peer(1), peer(9), now)


def test_t72_each_relay_that_tells_keeps_its_share_of_a_full_table() -> None:
    router = MemoryRouter(replace(Limits(), routes_told_max=8, routes_max=16))
    flood = [(peer(1000 + n), 1) for n in range(50)]
    router.learn(peer(100), flood, 0.0)
    router.learn(peer(101), flood, 0.0)
    assert len(router) == 16
    router.learn(peer(102), [(peer(n), 1) for n in range(50)], 0.0)
    router.learn(peer(101), flood, 0.0)
    assert {relay: len(told) for relay, told in router._learnt.items()} == {peer(100): 5, peer(102): 5, peer(101): 6}
    assert router.resolve(peer(0)) is not None


def test_what_is_no_route_is_refused_when_it_is_set() -> None:
    router = MemoryRouter()
    for wrong in ("x", None, bytes(32), 1):
        with pytest.raises(ConfigError, match="PeerId"):
            Route(wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="peer id"):
            router.upsert_route(wrong, Route(peer(2)))  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="Route"):
            router.upsert_route(peer(1), wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"1\.5"):
        Route(peer(1), ttl=1.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="True or False"):
        Route(peer(1), via_relay="no")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="over itself"):
        router.upsert_route(peer(1), Route(peer(1), via_relay=True))
    assert router.list() == []
    router.upsert_route(str(peer(1)), Route(peer(2)))
    assert router.resolve(str(peer(1))) == router.resolve(peer(1)) == Route(peer(2))
    assert router.remove_route(str(peer(1)))


def test_t72_a_way_that_broke_comes_last_for_a_while() -> None:
    router = MemoryRouter(replace(Limits(), routes_max=3))
    router.learn(peer(8), [(peer(1), 1)], 0.0)
    router.learn(peer(9), [(peer(1), 2)], 1.0)

    def best(now: float) -> PeerId:
        found = router.resolve(peer(1), now)
        assert found is not None
        return found.next_hop

    assert best(2.0) == peer(8)
    router.broke(peer(1), peer(8), 2.0)
    assert best(3.0) == peer(9)
    router.broke(peer(1), peer(9), 3.0)
    assert best(4.0) == peer(8), "both did: as before"
    router.learn(peer(8), [(peer(1), 1)], 60.0)
    router.learn(peer(9), [(peer(1), 2)], 60.0)
    router.broke(peer(1), peer(8), 60.0)
    assert best(94.0) == peer(9)
    router.upsert_route(peer(1), Route(peer(8), via_relay=True))
    assert best(94.0) == peer(8), "the one that was set stays first"
    router.expire(151.0)
    assert router.broken_until(peer(1), peer(8), 0.0) < 0
    for number in range(50):
        router.broke(peer(number), peer(8), 200.0)
    assert sum(router.broken_until(peer(number), peer(8), 201.0) > 201.0 for number in range(50)) == 3


def test_t72_what_relays_tell_is_bounded_and_never_too_far() -> None:
    router = MemoryRouter(replace(Limits(), routes_told_max=3, routes_max=5))
    router.learn(peer(100), [(peer(n), 1) for n in range(50)], 0.0)
    router.learn(peer(101), [(peer(n), 1) for n in range(50)], 0.0)
    router.learn(peer(102), [(peer(n), 1) for n in range(50)], 0.0)
    assert 3 <= len(router) <= 5
    router = MemoryRouter()
    router.learn(peer(100), [(peer(1), 7), (peer(2), 8), (peer(100), 1)], 0.0)
    assert [(known.target, known.hops) for known in router.list()] == [(peer(1), 8)]


def test_to_remove_a_route_forgets_what_every_relay_told_of_it() -> None:
    router = MemoryRouter()
    router.learn(peer(2), [(peer(1), 1)], 0.0)
    router.learn(peer(3), [(peer(1), 2), (peer(4), 1)], 0.0)
    assert router.remove_route(peer(1))
    assert router.resolve(peer(1)) is None
    assert router.resolve(peer(4)) is not None
    assert not router.remove_route(peer(1))


def test_the_whole_table_is_what_asking_for_each_target_finds() -> None:
    router = MemoryRouter()
    router.upsert_route(peer(1), Route(peer(9)))
    router.upsert_route(peer(5), Route(peer(9)), until=1.0)
    for relay in range(100, 110):
        router.learn(peer(relay), [(peer(target), relay % 3) for target in range(1 + relay % 4, 8)], float(relay))
    router.broke(peer(6), peer(103), 110.0)
    now = 140.0
    asked = [route for target in range(1, 9) for route in router.routes_to(peer(target), now)]
    assert router.list(now) == asked
    assert len(asked) > 40
