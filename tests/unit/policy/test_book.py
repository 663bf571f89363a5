"""The address book: what it keeps, and what it forgets."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from p2p.ids import PeerEndpoint, PeerId
from p2p.limits import Limits
from p2p.policy.book import Book, BookPlace

LIMITS = Limits()


def place(port: int, who: int, good_ms: int = 0) -> BookPlace:
    return BookPlace(PeerEndpoint("192.0.2.1", port), PeerId(who.to_bytes(32, "big")), "n", "discovery", good_ms)


def test_the_place_that_was_good_last_comes_first_and_a_place_has_one_peer() -> None:
    book = Book(LIMITS, [place(1, 1, 10), place(2, 2, 20)])
    assert [known.endpoint.port for known in book] == [2, 1]
    assert book.met(place(1, 3, 30)) == []
    assert [(known.endpoint.port, known.peer_id[-1]) for known in book] == [(1, 3), (2, 2)]


def test_one_peer_keeps_its_latest_places_only() -> None:
    book = Book(LIMITS)
    gone = [address for port in range(1, 10) for address in book.met(place(port, 1))]
    assert [port for _, _, port in gone] == [1, 2, 3, 4, 5]
    assert [known.endpoint.port for known in book] == [9, 8, 7, 6]


def test_a_full_book_forgets_the_place_that_was_good_longest_ago() -> None:
    book = Book(replace(LIMITS, book_places_max=2), [place(1, 1, 10), place(2, 2, 20)])
    assert book.met(place(3, 3, 30)) == [place(1, 1).endpoint.address]
    assert [known.endpoint.port for known in book] == [3, 2]


def test_what_fails_for_long_is_forgotten_and_only_some_failures_are_written_down() -> None:
    book = Book(LIMITS, [place(1, 1)])
    address = place(1, 1).endpoint.address
    written = [failed.failures for _ in range(LIMITS.book_failures_max) if (failed := book.failed(address)) is not None]
    assert written == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert len(book) == 0
    assert book.failed(address) is None


def test_a_session_forgives_the_failures() -> None:
    book = Book(LIMITS, [msgspec.structs.replace(place(1, 1), failures=200)])
    book.met(place(1, 1))
    assert [known.failures for known in book] == [0]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 30), st.integers(1, 6)), max_size=80))
def test_the_book_is_bounded_and_what_it_hands_back_keeps_a_copy_equal(moves: list[tuple[bool, int, int]]) -> None:
    limits = replace(LIMITS, book_places_max=8, book_places_per_peer_max=3, book_failures_max=4)
    book, copy = Book(limits), dict[tuple[str, str, int], BookPlace]()
    for is_met, port, who in moves:
        new = place(port, who)
        if is_met:
            for address in book.met(new):
                del copy[address]
            copy[new.endpoint.address] = new
        elif (changed := book.failed(new.endpoint.address)) is not None:
            copy[changed.endpoint.address] = changed
            if book.find(changed.endpoint.address) is None:
                del copy[changed.endpoint.address]
        assert {known.endpoint.address for known in book} == set(copy)
        assert len(book) <= 8
        assert all(sum(other.peer_id == known.peer_id for other in book) <= 3 for known in book)
