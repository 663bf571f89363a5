from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.policy.hints import DiscoveryAnnouncement
from p2p.policy.sightings import Sightings

LIMITS = Limits()


def sightings(limits: Limits = LIMITS) -> Sightings:
    return Sightings(limits, ttl_s=15.0, cooldown_s=8.0)


def hint(number: int = 1, host: str = "192.0.2.1", *, signed: bool = True) -> DiscoveryAnnouncement:
    peer_id = PeerId(number.to_bytes(32, "big")) if signed else None
    return DiscoveryAnnouncement(f"node-{number}", host, 9000 + number % 1000, peer_id)


def test_who_is_new_is_told_of_at_once_and_again_after_the_cooldown() -> None:
    book = sightings()
    told = [now for now in range(20) if book.note(hint(), float(now))]
    assert told == [0, 8, 16]


@pytest.mark.parametrize("signed", [True, False])
def test_t47_an_announcement_expires_15_seconds_after_it_was_heard(signed: bool) -> None:
    book = sightings()
    book.note(hint(signed=signed), 0.0)
    assert book.snapshot(14.9) == (hint(signed=signed),)
    assert book.snapshot(15.0) == ()
    assert len(book) == 0


def test_t47_who_is_heard_again_stays_and_who_came_later_does_not_keep_him() -> None:
    book = sightings()
    book.note(hint(1), 0.0)
    book.note(hint(2), 1.0)
    book.note(hint(1), 10.0)
    assert book.snapshot(10.0) == (hint(2), hint(1)), "the one heard last at the end"
    assert book.snapshot(16.0) == (hint(1),)


def test_t46_one_source_names_forty_places_at_most() -> None:
    book = sightings()
    results = [book.note(hint(number), 0.0) for number in range(60)]
    assert results == [True] * 40 + [None] * 20
    assert book.note(hint(99, "192.0.2.2"), 0.0) is True
    assert book.note(hint(60), 15.0) is True, "there is room again when the first have expired"


def test_t46_places_that_nobody_signed_give_way_to_signed_ones_of_the_same_source() -> None:
    book = sightings()
    for number in range(60):
        book.note(hint(number, signed=False), 0.0)
    signed = [hint(number) for number in range(100, 160)]
    assert [book.note(one, 1.0) for one in signed] == [True] * 40 + [None] * 20
    assert book.snapshot(1.0) == tuple(signed[:40])
    assert book.note(hint(1, signed=False), 1.0) is None


def test_t46_a_known_peer_finds_room_among_signed_places_of_his_own_address_and_takes_none_of_a_known_one() -> None:
    book = sightings()
    for number in range(40):
        book.note(hint(number), number / 100, is_known=number >= 2)
    known = [hint(number) for number in range(100, 103)]
    assert [book.note(one, 1.0, is_known=True) for one in known] == [True, True, None]
    assert book.note(hint(200), 1.0) is None
    assert len(book) == 40


def test_who_becomes_known_where_he_has_too_many_places_gives_up_one_of_his_own() -> None:
    book = sightings()
    for port in range(8):
        book.note(replace(hint(1), port=1000 + port), 0.0, 1)
    for number in range(100, 132):
        book.note(hint(number), 0.1, is_known=True)
    for port in range(8, 30):
        book.note(replace(hint(1), port=1000 + port), 1.0, port, is_known=True)
        assert len(book) <= 40


def test_as_many_nodes_on_one_host_as_its_pace_lets_speak_are_all_heard() -> None:
    book = sightings()
    for step in range(20 * 60):
        now, number = step / 20, step % 40
        assert book.admits("192.0.2.1", now, signed=True)
        book.note(hint(number), now)
    assert len(book.snapshot(60.0)) == 40


def test_this_machine_may_have_any_number_of_nodes() -> None:
    book = sightings()
    assert all(book.note(hint(number, "127.0.0.1"), 0.0) for number in range(100))


def test_t46_the_book_is_bounded_and_who_speaks_stays_in_it() -> None:
    book = sightings()
    honest = hint(7_000_000, "192.0.2.200")
    book.note(honest, 0.0)
    for number in range(5000):
        now = number / 200
        if number % 400 == 0:
            book.note(honest, now)
        book.note(hint(number, f"198.51.{number // 250 % 250}.{number % 250}"), now)
        assert len(book) <= LIMITS.discovered_max
        if number % 20 == 0:
            assert honest in book.snapshot(now)


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("signed", [True, False])
def test_t46_at_the_most_that_is_looked_at_who_speaks_every_two_seconds_stays(signed: bool, repeats: int) -> None:
    """Five hundred places a second, each said once, or again after a second so that it counts as heard again."""
    book = sightings()
    honest, heard = hint(7_000_000, "192.0.2.200", signed=signed), 0
    for number in range(500 * 20):
        now = number / 500
        if number % 1100 == 600:
            heard += 1
            book.note(honest, now, heard)
            assert book.is_heard_again(honest, now) == (heard > 1)
        of = number - (number // 500 % repeats) * 500
        book.note(hint(of, f"198.51.{of // 250 % 250}.{of % 250}", signed=bool(of % 2)), now, 1)
        assert len(book) <= LIMITS.discovered_max
    assert honest in book.snapshot(20.0)


def test_what_nobody_had_room_for_is_told_at_the_next_word_and_each_place_has_its_turn() -> None:
    book = sightings()
    one, other = hint(1, "192.0.2.1"), hint(1, "192.0.2.2")
    book.take_back(one)
    assert book.note(one, 0.0) is True
    book.take_back(other)
    assert book.note(one, 1.0) is False, "of another place nobody was told"
    book.take_back(one)
    assert book.note(other, 1.0) is True
    book.take_back(other)
    assert [book.note(other, 2.0), book.note(one, 2.0)] == [False, True]
    assert [book.note(other, 3.0), book.note(one, 3.0)] == [False, False]


def test_t46_twenty_a_second_from_one_source() -> None:
    book = sightings()
    admitted = sum(book.admits("192.0.2.1", now / 1000, signed=True) for now in range(10_000))
    assert admitted <= LIMITS.announce_source_burst + 10 * LIMITS.announce_source_per_s
    assert book.admits("192.0.2.2", 10.0, signed=True)


@pytest.mark.parametrize("was_heard", [True, False])
def test_t46_unsigned_words_under_the_addresses_of_who_signs_take_nothing_from_them(was_heard: bool) -> None:
    book = sightings()
    hosts = [f"192.0.2.{number}" for number in range(20)]
    for number, host in enumerate(hosts if was_heard else ()):
        book.note(hint(number, host), 0.0)
    for milliseconds in range(10_000):
        now = milliseconds / 1000
        book.admits(hosts[milliseconds % 20], now, signed=False)
        if milliseconds % 100 == 0:
            host = hosts[milliseconds // 100 % 20]
            assert book.admits(host, now, signed=True), "each of them speaks every two seconds"


def test_t46_a_flood_from_ever_new_sources_is_bounded_too() -> None:
    book = sightings()
    sources = [f"198.{n // 62500 % 250}.{n // 250 % 250}.{n % 250}" for n in range(50_000)]
    book.note(hint(host="192.0.2.1"), 0.0)
    signed = sum(book.admits(source, n / 5000, signed=True) for n, source in enumerate(sources))
    assert signed <= LIMITS.announce_signed_checks_burst + 10 * LIMITS.announce_signed_checks_per_s
    bare = sum(book.admits(source, 10 + n / 5000, signed=False) for n, source in enumerate(sources))
    assert bare <= LIMITS.announce_bare_checks_burst + 10 * LIMITS.announce_bare_checks_per_s
    assert book.admits("192.0.2.99", 20.0, signed=True), "who signs is heard among those who do not"
    assert book.admits("192.0.2.1", 20.0, signed=False), "and who was heard before among all of them"
    assert len(book._paces) <= LIMITS.announce_sources_max


def test_a_place_that_is_heard_for_a_while_announces_itself_again() -> None:
    book = sightings()
    book.note(hint(), 0.0)
    assert not book.is_heard_again(hint(), 0.9)
    assert book.is_heard_again(hint(), 1.0)
    assert not book.is_heard_again(hint(host="192.0.2.2"), 1.0)


def test_a_true_name_at_a_false_place_does_not_hide_the_true_place() -> None:
    book = sightings()
    true, false = hint(1, "192.0.2.1"), hint(1, "192.0.2.66")
    told = []
    for tenth in range(400):
        for one in (false, true):
            if book.note(one, tenth / 10):
                told.append(one.host)
    assert told == ["192.0.2.66", "192.0.2.1"] * 2 + ["192.0.2.66"]


def test_an_identity_has_a_few_places_at_most() -> None:
    book = sightings()
    for number in range(100):
        book.note(hint(1, f"192.0.2.{number}"), float(number) / 100)
    assert len(book) == LIMITS.discovered_per_peer_max
    assert book.snapshot(1.0)[-1].host == "192.0.2.99"


@pytest.mark.parametrize("places", [1, 7, 8, 9, 20, 200])
def test_t47_one_announcement_repeated_from_many_places_costs_its_owner_every_second_turn(places: int) -> None:
    book = sightings()
    told: list[tuple[float, str]] = []

    def hear(host: str, now: float, said_ms: int) -> None:
        if book.note(hint(1, host), now, said_ms):
            told.append((now, host))

    for step in range(40 * 120):
        now = step / 40
        if step % 80 == 7:
            hear("192.0.2.1", now, 1_000_000 + step)
        hear(f"198.51.100.{step % places}", now, 1_000_000 - 1)
    times = [now for now, _ in told]
    assert all(later - earlier >= 8 for earlier, later in pairwise(times))
    true = [now for now, host in told if host == "192.0.2.1"]
    assert true[0] < 11
    assert all(later - earlier < 22 for earlier, later in pairwise(true))
    assert len(true) >= 5


def test_t47_who_repeats_an_announcement_at_once_is_not_the_first_to_bring_it() -> None:
    book = sightings()
    told: list[str] = []
    for number in range(60):
        now = 2.0 * number
        for host in ("192.0.2.1", *(f"198.51.100.{number}{digit}" for digit in range(10))):
            if book.note(hint(1, host), now, 1 + number):
                told.append(host)
        assert "192.0.2.1" in {one.host for one in book.snapshot(now)}
    assert told.count("192.0.2.1") >= len(told) // 2 >= 6


def test_t47_a_place_that_only_repeats_does_not_push_out_one_that_brought_news() -> None:
    limits = replace(LIMITS, discovered_per_peer_max=1)
    book = sightings(limits)
    assert book.note(hint(1, "192.0.2.1"), 0.0, 5) is True
    assert book.note(hint(1, "192.0.2.66"), 1.0, 5) is None
    assert book.note(hint(1, "192.0.2.2"), 2.0, 6) is False, "it has moved, and was told of lately"
    assert [one.host for one in book.snapshot(2.0)] == ["192.0.2.2"]
    assert book.note(hint(1, "192.0.2.2"), 8.0, 7) is True


def test_t47_where_nobody_signs_a_place_that_is_heard_on_keeps_its_turns_among_any_number_of_others() -> None:
    book = sightings()
    true = hint(1, "192.0.2.1", signed=False)
    told = []
    for step in range(40 * 300):
        now = step / 40
        if step % 80 == 0 and book.note(true, now):
            told.append(now)
        book.note(hint(1, f"198.51.100.{step % 200}", signed=False), now)
    assert len(told) >= 4
    assert all(later - earlier <= 8 * 8 + 2 * 8 for earlier, later in pairwise(told))


def test_the_time_that_nobody_signed_counts_for_nothing() -> None:
    book = sightings()
    false, true = hint(1, "192.0.2.66", signed=False), hint(1, "192.0.2.1", signed=False)
    told = []
    for second in range(0, 40, 2):
        for one, said_ms in ((false, 2**64 - 1), (true, second)):
            if book.note(one, float(second), said_ms):
                told.append(one.host)
    assert told == ["192.0.2.66", "192.0.2.1"] * 2 + ["192.0.2.66"]


@pytest.mark.parametrize("signed", [True, False])
def test_a_node_that_is_heard_over_two_interfaces_is_told_of_once(signed: bool) -> None:
    book = sightings()
    wired, wireless = hint(1, "192.0.2.1", signed=signed), hint(1, "198.51.100.1", signed=signed)
    told = [(now, one.host) for now in range(0, 18, 2) for one in (wired, wireless) if book.note(one, float(now))]
    assert told == [(0, "192.0.2.1"), (8, "198.51.100.1"), (16, "192.0.2.1")]
    assert {one.host for one in book.snapshot(17.0)} == {"192.0.2.1", "198.51.100.1"}


def test_labels_that_nobody_signs_are_other_nodes_at_other_ports() -> None:
    book = sightings()
    assert book.note(hint(1, signed=False), 0.0)
    assert book.note(replace(hint(1, signed=False), port=7), 0.0)


def test_a_new_label_takes_the_place_of_the_old_one() -> None:
    book = sightings()
    book.note(hint(), 0.0)
    book.note(replace(hint(), node_id="renamed"), 1.0)
    assert [one.node_id for one in book.snapshot(1.0)] == ["renamed"]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans(), st.floats(0, 9)), max_size=80))
def test_the_bounds_hold_whatever_comes(steps: list[tuple[int, int, bool, float]]) -> None:
    limits = replace(LIMITS, discovered_max=6, discovered_per_source_max=3, discovered_per_peer_max=2)
    book, now = sightings(limits), 0.0
    heard: dict[DiscoveryAnnouncement, float] = {}
    for number, host, signed, wait in steps:
        now += wait
        one = hint(number, f"192.0.2.{host}", signed=signed)
        if book.note(one, now) is not None:
            heard[one] = now
        seen = book.snapshot(now)
        assert len(seen) <= 6
        assert all(now - heard[other] < 15 for other in seen)
        for name in {other.host for other in seen}:
            assert sum(other.host == name for other in seen) <= 3
        for peer_id in {other.peer_id for other in seen if other.peer_id}:
            assert sum(other.peer_id == peer_id for other in seen) <= 2
