"""For whom a start waits."""

from __future__ import annotations

import pytest

from p2p.ids import PeerId
from p2p.node.first_word import FirstWord

A, B, STRANGER = (PeerId(bytes([number]) * 32) for number in (1, 2, 3))


def test_nobody_is_awaited_where_nobody_is_expected() -> None:
    assert not FirstWord(()).is_awaited


def test_each_place_is_waited_for_until_whoever_is_there_spoke() -> None:
    word = FirstWord(("a", "b"))
    word.heard(STRANGER, 0)
    word.reached("a", A)
    word.heard(A, 0)
    assert word.is_awaited
    # It spoke before it was known where it is: it had dialled us.
    word.heard(B, 0)
    assert word.is_awaited
    word.reached("b", B)
    assert not word.is_awaited


def test_a_place_where_nobody_is_reached_is_not_waited_for() -> None:
    word = FirstWord(("a", "b"))
    word.unreachable("a")
    assert word.is_awaited
    word.unreachable("b")
    word.unreachable("b")
    word.reached("b", B)
    assert not word.is_awaited


def test_two_places_of_one_peer_need_one_word() -> None:
    word = FirstWord(("a", "also a"))
    word.reached("a", A)
    word.reached("also a", A)
    word.heard(A, 0)
    assert not word.is_awaited


def test_where_peers_are_looked_for_anybody_may_speak_who_holds_as_much_of_our_log() -> None:
    word = FirstWord(())
    word.await_anybody(3)
    assert word.is_awaited
    word.heard(STRANGER, 0)
    word.heard(A, 2)
    assert word.is_awaited
    word.heard(B, 3)
    assert not word.is_awaited


def test_a_place_where_nobody_is_leaves_those_who_are_looked_for() -> None:
    word = FirstWord(("a", "b"))
    word.unreachable("a")
    word.await_anybody(3)
    word.unreachable("b")
    assert word.is_awaited
    word.heard(STRANGER, 3)
    assert not word.is_awaited


@pytest.mark.parametrize("is_reached_first", [False, True])
def test_a_place_that_speaks_is_enough_however_little_it_shows(is_reached_first: bool) -> None:
    word = FirstWord(("a",))
    word.await_anybody(3)
    if is_reached_first:
        word.reached("a", A)
    word.heard(A, 0)
    if not is_reached_first:
        word.reached("a", A)
    assert not word.is_awaited
