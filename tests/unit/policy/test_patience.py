"""How long something with a peer over a relay is waited for."""

from __future__ import annotations

from p2p.ids import PeerId
from p2p.policy.patience import Patience

PEER, *RELAYS = (PeerId(bytes([number]) * 32) for number in range(4))
A, B, C = ((PEER, relay) for relay in RELAYS)


def test_each_time_is_twice_as_long_up_to_a_bound_and_for_that_way_alone() -> None:
    patience = Patience(8, 100.0, 10)
    factors = []
    for now in range(5):
        factors.append(patience.factor(A, now))
        patience.double(A, now)
    assert factors == [1, 2, 4, 8, 8]
    assert patience.factor(B, 5.0) == 1


def test_it_is_forgotten_after_a_while() -> None:
    patience = Patience(8, 100.0, 10)
    patience.double(A, 0.0)
    patience.double(A, 50.0)
    assert (patience.factor(A, 149.0), patience.factor(A, 150.0)) == (4, 1)
    patience.double(A, 150.0)
    assert patience.factor(A, 151.0) == 2


def test_of_too_many_ways_the_one_that_was_quiet_longest_is_forgotten() -> None:
    patience = Patience(8, 100.0, 2)
    for now, way in enumerate((A, B, A, C)):
        patience.double(way, now)
    assert [patience.factor(way, 4.0) for way in (A, B, C)] == [4, 1, 2]
