"""The places for proven peers."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.policy.places import PeerPlaces


def peer(number: int) -> PeerId:
    return PeerId(number.to_bytes(32, "big"))


def places(count: int) -> PeerPlaces[int]:
    return PeerPlaces(replace(Limits(), max_peers=count))


def test_t50_strangers_leave_half_of_the_places_free() -> None:
    table = places(64)
    assert sum(table.enter(n, peer(n), chosen=False) for n in range(100)) == 32
    assert (table.free(chosen=False), table.free(chosen=True)) == (0, 32)
    assert sum(table.enter(n, peer(n), chosen=True) for n in range(100, 200)) == 32
    assert len(table) == 64


def test_whom_we_chose_may_have_every_place() -> None:
    table = places(8)
    assert all(table.enter(n, peer(n), chosen=True) for n in range(8))
    assert not table.enter(9, peer(9), chosen=True) and not table.enter(9, peer(9), chosen=False)


def test_a_single_place_is_anybodys() -> None:
    assert places(1).enter(1, peer(1), chosen=False)
    assert places(1).enter(1, peer(1), chosen=True)


def test_two_links_to_one_peer_are_one_place_and_its_kind_lasts() -> None:
    table = places(2)
    assert table.enter(1, peer(1), chosen=True) and table.enter(2, peer(1), chosen=False)
    table.leave(1)
    assert (len(table), table.strangers) == (1, 0)
    assert table.enter(3, peer(3), chosen=False)
    table.leave(2)
    table.leave(2)
    assert (len(table), table.strangers) == (1, 1)


@given(st.integers(1, 9), st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.booleans()), max_size=60))
def test_t50_the_bounds_hold_whoever_comes_and_goes(
    max_peers: int, moves: list[tuple[bool, int, bool]]
) -> None:  # fmt: skip
    table, inside = places(max_peers), dict[int, PeerId]()
    for comes, number, chosen in moves:
        link = number
        if comes and link not in inside:
            if table.enter(link, peer(number % 7), chosen=chosen):
                inside[link] = peer(number % 7)
        elif not comes:
            table.leave(link)
            inside.pop(link, None)
        assert len(table) == len(set(inside.values())) <= max_peers
        assert table.strangers <= max(1, max_peers // 2)
