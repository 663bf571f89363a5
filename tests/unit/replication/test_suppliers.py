"""One supplier per origin: who is chosen, when another takes its place, and what a lie costs."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.ids import PeerId
from p2p.replication.suppliers import NEVER, Change, Stall, Suppliers

OWN, LOG, OTHER = (PeerId(bytes([number]) * 32) for number in (1, 2, 3))
PEERS = [PeerId(bytes([100 + number]) * 32) for number in range(6)]


class World:
    """A `Suppliers` with links that are up, and what is being applied."""

    def __init__(self, links: int) -> None:
        self.arriving: set[tuple[PeerId, int]] = set()
        self.suppliers = Suppliers(
            OWN, stall_s=3.0, doubt_s_max=300.0, is_arriving=lambda origin, link: (origin, link) in self.arriving
        )
        for link in range(links):
            self.suppliers.link_up(link, PEERS[link], 0.0)

    def claim(self, link: int, seq: int, now: float, *, origin: PeerId = LOG, asks: bool = False) -> None:
        self.suppliers.claim(origin, link, seq, now, asks=asks)

    def wanted_from(self, origin: PeerId = LOG, links: int = 6) -> list[int]:
        return [link for link in range(links) if self.suppliers.wants(origin, link)]


def test_what_nobody_listed_is_wanted_from_everybody() -> None:
    assert World(3).wanted_from(links=3) == [0, 1, 2]


def test_our_own_log_is_wanted_from_nobody() -> None:
    world = World(3)
    world.suppliers.held(OWN, 10, 0.0)
    world.claim(1, 10, 0.0, origin=OWN)
    assert world.wanted_from(OWN) == []


def test_the_first_that_is_ahead_is_the_only_one_wanted() -> None:
    world = World(3)
    world.claim(1, 10, 0.0)
    world.claim(0, 99, 0.1)
    world.claim(2, 10, 0.2)
    assert world.wanted_from() == [1]
    assert world.suppliers.take_changes() == [Change(LOG, None, 1)]


def test_a_tentative_supplier_that_shows_nothing_gives_way_at_once() -> None:
    world = World(0)
    world.suppliers.held(LOG, 5, 0.0)
    world.suppliers.link_up(0, PEERS[0], 0.0)
    world.suppliers.link_up(1, PEERS[1], 0.0)
    assert world.wanted_from() == [0]
    world.claim(1, 6, 1.0)
    assert world.wanted_from() == [1]


def test_a_claim_that_is_taken_back_leaves_nothing_to_be_late_with() -> None:
    world = World(2)
    world.suppliers.held(LOG, 5, 0.0)
    world.claim(0, 10, 0.0)
    world.suppliers.delivered(LOG, 0)
    world.claim(0, 5, 1.0)
    world.claim(1, 6, 100.0)
    assert world.wanted_from() == [0]
    assert world.suppliers.next_deadline() == 103.0, "its time began when there was something to send again"


@pytest.mark.parametrize("is_gone", [False, True])
def test_what_only_a_declined_link_or_one_that_ended_showed_is_nothing_to_be_late_with(is_gone: bool) -> None:
    world = World(3)
    world.claim(0, 5, 0.0)
    world.suppliers.delivered(LOG, 0)
    world.suppliers.held(LOG, 5, 0.0)
    world.claim(1, 10, 1.0)
    if is_gone:
        world.suppliers.link_down(1, PEERS[1], 2.0)
    else:
        world.suppliers.decline(LOG, 1, 2.0)
    world.suppliers.handle_deadline(50.0)
    world.claim(2, 6, 100.0)
    assert world.wanted_from() == [0]
    assert world.suppliers.next_deadline() == 103.0
    world.suppliers.handle_deadline(102.9)
    assert world.wanted_from() == [0], "its three seconds began when there was something to send"


def test_a_proven_supplier_has_three_seconds() -> None:
    world = World(2)
    world.claim(0, 5, 0.0)
    world.suppliers.delivered(LOG, 0)
    world.suppliers.held(LOG, 5, 0.5)
    world.claim(1, 6, 100.0)
    assert world.wanted_from() == [0], "its own push may be on the way"
    assert world.suppliers.next_deadline() == 103.0
    world.suppliers.handle_deadline(102.9)
    assert world.wanted_from() == [0]
    world.suppliers.handle_deadline(103.0)
    assert world.wanted_from() == [1]
    assert world.suppliers.take_stalls() == [], "it did not claim what it did not deliver"


@pytest.mark.parametrize(("shown", "chosen"), [(10, [1]), (11, [0])])
def test_the_origin_itself_need_not_wait_for_a_proven_supplier_that_has_no_more(shown: int, chosen: list[int]) -> None:
    """It came back with what it wrote while it was away: that flows the other way round at once."""
    world = World(1)
    world.claim(0, 10, 0.0)
    world.suppliers.delivered(LOG, 0)
    world.suppliers.held(LOG, 10, 0.1)
    world.claim(0, shown, 0.2)
    world.suppliers.link_up(1, LOG, 1.0)
    world.claim(1, 14, 1.0)
    assert world.wanted_from() == chosen


def test_progress_begins_the_three_seconds_anew() -> None:
    world = World(2)
    world.claim(0, 50, 0.0)
    world.claim(1, 50, 0.0)
    for second in range(1, 20):
        world.suppliers.held(LOG, second, float(second))
        world.suppliers.handle_deadline(float(second))
    assert world.wanted_from() == [0]


def test_a_push_that_is_being_applied_is_progress_enough() -> None:
    world = World(2)
    world.claim(0, 50, 0.0)
    world.claim(1, 50, 0.0)
    world.arriving.add((LOG, 0))
    for second in range(1, 20):
        world.suppliers.handle_deadline(float(second))
    assert world.wanted_from() == [0], "our store is slow, not the supplier"
    world.arriving.clear()
    for second in range(20, 25):
        world.suppliers.handle_deadline(float(second))
    assert world.wanted_from() == [1]


def test_a_store_that_cannot_write_is_not_the_suppliers_fault() -> None:
    world = World(2)
    world.claim(0, 50, 0.0)
    world.claim(1, 50, 0.0)
    world.suppliers.excuse(LOG, 2.9)
    world.suppliers.handle_deadline(3.1)
    assert world.wanted_from() == [0]
    world.suppliers.handle_deadline(6.0)
    assert world.wanted_from() == [1]


def test_t39_a_claim_that_is_not_delivered_is_replaced_after_three_seconds() -> None:
    world = World(3)
    world.claim(0, 2**62, 0.0)
    world.claim(1, 5, 0.0)
    assert world.wanted_from() == [0]
    world.suppliers.handle_deadline(3.0)
    assert world.wanted_from() == [1]
    assert world.suppliers.take_stalls() == [Stall(LOG, 0)]
    world.suppliers.delivered(LOG, 1)
    world.suppliers.held(LOG, 5, 3.1)
    assert world.wanted_from() == [1], "the liar still shows more, and is not asked again yet"
    world.suppliers.handle_deadline(6.2)
    assert world.wanted_from() == [1]


def test_t39_a_liar_is_tried_again_ever_more_rarely_and_gives_way_at_once() -> None:
    world = World(2)
    now, tries = 0.0, []
    world.claim(0, 2**62, now)
    held = 0
    while now < 2000.0:
        if world.suppliers.supplier(LOG) == 0:
            tries.append(now)
            world.claim(1, held + 1, now)
            if held:
                assert world.wanted_from() == [1], "an honest link takes over from a doubted one at once"
        world.suppliers.handle_deadline(now)
        if world.suppliers.supplier(LOG) == 1:
            held += 1
            world.suppliers.delivered(LOG, 1)
            world.suppliers.held(LOG, held, now)
        now += 0.5
    trials = [later - earlier for earlier, later in pairwise(tries) if later - earlier > 1.0]
    assert trials == sorted(trials)
    assert len(trials) <= 12


def test_t39_who_did_not_deliver_is_tried_again_however_often_it_did_not() -> None:
    world = World(2)
    world.claim(0, 10, 0.0)
    world.claim(1, 10, 0.0)
    tried_at = {0: 0.0, 1: 0.0}
    pause_s = 0.0
    while (now := world.suppliers.next_deadline()) < 10_000.0:
        before = world.suppliers.supplier(LOG)
        world.suppliers.handle_deadline(now)
        link = world.suppliers.supplier(LOG)
        assert link is not None
        if link != before:
            pause_s = now - tried_at[link]
            tried_at[link] = now
    assert 300.0 <= pause_s <= 610.0, "each of the two at least every other time"


def test_t39_two_that_do_not_deliver_take_turns_each_with_twice_the_pause_of_before() -> None:
    world = World(2)
    world.claim(0, 5, 0.0)
    world.claim(1, 5, 0.0)
    # The second one is asked on until the first one's pause of 6 s is over; by then its own is 12 s, from 9.0 on.
    for now, wanted in ((3.0, 1), (6.0, 1), (9.0, 0), (12.0, 0), (21.0, 1), (24.0, 1), (45.0, 0)):
        assert world.suppliers.next_deadline() == now
        world.suppliers.handle_deadline(now)
        assert world.wanted_from() == [wanted]


def test_our_own_log_that_is_complete_up_to_its_fork_is_not_awaited() -> None:
    world = World(1)
    world.suppliers.held(OWN, 5, 0.0, last=5)
    world.claim(0, 9, 0.0, origin=OWN)
    assert not world.suppliers.is_awaited(OWN)


def test_a_link_that_was_only_slow_is_believed_again_when_it_delivers() -> None:
    world = World(2)
    world.claim(0, 9, 0.0)
    world.claim(1, 4, 0.0)
    world.suppliers.handle_deadline(3.0)
    assert world.wanted_from() == [1]
    world.suppliers.delivered(LOG, 0)
    world.suppliers.delivered(LOG, 1)
    world.suppliers.held(LOG, 4, 3.5)
    world.suppliers.handle_deadline(6.5)
    assert world.wanted_from() == [0], "it was not in doubt any more"


def test_the_last_one_ahead_is_kept_however_slow() -> None:
    world = World(2)
    world.claim(0, 9, 0.0)
    world.claim(1, 0, 0.0)
    for second in range(60):
        world.suppliers.handle_deadline(float(second))
        assert world.wanted_from() == [0]


@pytest.mark.parametrize("ends", ["declined", "down"])
def test_t38_what_was_claimed_of_a_log_that_nobody_holds_is_forgotten_with_the_link(ends: str) -> None:
    world = World(2)
    for number in range(100):
        origin = PeerId(number.to_bytes(32, "big"))
        world.claim(0, 9, 0.0, origin=origin)
        if ends == "declined":
            world.suppliers.decline(origin, 0, 0.0)
    world.claim(1, 9, 0.0)
    world.suppliers.link_down(0, PEERS[0], 1.0)
    assert world.suppliers.known() == [LOG]
    world.suppliers.link_down(1, PEERS[1], 1.0)
    assert world.suppliers.known() == []


def test_bounded_memory_links_that_come_and_go_leave_nothing_behind() -> None:
    world = World(0)
    world.suppliers.held(LOG, 5, 0.0)
    grown = []
    tracemalloc.start()
    try:
        for link in range(4000):
            if link % 2000 == 1000:
                grown.append(tracemalloc.get_traced_memory()[0])
            world.suppliers.link_up(link, PEERS[0], 0.0)
            world.claim(link, 5, 0.0, asks=True)
            if link % 2:
                world.suppliers.decline(LOG, link, 0.0)
            world.suppliers.link_down(link, PEERS[0], 0.0)
            world.suppliers.take_changes()
    finally:
        tracemalloc.stop()
    assert grown[1] - grown[0] < 4096


def test_a_link_that_ends_takes_its_claims_along() -> None:
    world = World(3)
    world.claim(0, 9, 0.0)
    world.claim(1, 3, 0.0)
    world.claim(2, 9, 0.0)
    world.suppliers.held(LOG, 5, 0.0)
    world.suppliers.link_down(0, PEERS[0], 1.0)
    assert world.wanted_from() == [2]
    world.suppliers.link_down(2, PEERS[2], 1.0)
    assert world.wanted_from() == [1]
    world.suppliers.link_down(1, PEERS[1], 1.0)
    assert world.suppliers.supplier(LOG) is None


def test_while_nobody_is_ahead_the_origin_itself_supplies() -> None:
    world = World(0)
    for link, peer in enumerate((PEERS[0], LOG)):
        world.suppliers.link_up(link, peer, 0.0)
    world.claim(0, 5, 0.0)
    world.claim(1, 5, 0.0)
    world.suppliers.delivered(LOG, 0)
    world.suppliers.held(LOG, 4, 0.1)
    assert world.wanted_from() == [0], "not in the middle of a catch-up"
    world.suppliers.held(LOG, 5, 0.2)
    assert world.wanted_from() == [1]
    world.claim(0, 6, 1.0)
    assert world.wanted_from() == [0], "until somebody else shows more"
    world.suppliers.held(LOG, 6, 1.1)
    assert world.wanted_from() == [0], "it is not tried twice"


def test_two_that_wait_for_each_other_part_as_soon_as_a_third_shows_more() -> None:
    world = World(2)
    world.claim(0, 5, 0.0)
    world.suppliers.delivered(LOG, 0)
    world.suppliers.held(LOG, 5, 0.0)
    world.claim(0, 5, 1.0, asks=True)
    world.claim(1, 6, 2.0)
    assert world.wanted_from() == [1]


def test_a_declined_link_does_not_count_until_the_origin_is_welcome() -> None:
    world = World(2)
    world.claim(0, 9, 0.0)
    world.claim(1, 9, 0.0)
    world.suppliers.decline(LOG, 0, 0.1)
    world.suppliers.decline(LOG, 1, 0.2)
    world.claim(0, 10, 0.3)
    assert world.wanted_from(links=2) == []
    assert world.suppliers.supplier(LOG) is None
    world.suppliers.handle_deadline(1000.0)
    assert world.suppliers.next_deadline() == NEVER, "nothing is tried again and again"
    assert world.suppliers.welcome(LOG) == (0, 1)
    world.claim(1, 9, 2000.0)
    assert world.wanted_from() == [1]


def test_t38_refusing_what_nobody_claimed_remembers_nothing() -> None:
    world = World(1)
    for number in range(1000):
        world.suppliers.decline(PeerId(number.to_bytes(32, "big")), 0, 0.0)
    assert world.suppliers.known() == []


def test_t36_nothing_beyond_a_fork_is_wanted() -> None:
    world = World(2)
    world.claim(0, 9, 0.0)
    world.suppliers.held(LOG, 4, 0.0, last=6)
    assert world.wanted_from() == [0]
    world.suppliers.held(LOG, 6, 0.0, last=6)
    assert world.wanted_from(links=2) == []
    world.suppliers.handle_deadline(100.0)
    assert world.suppliers.next_deadline() == NEVER


def test_damage_makes_us_want_again() -> None:
    world = World(2)
    world.claim(0, 9, 0.0)
    world.suppliers.held(LOG, 9, 0.0)
    world.suppliers.link_down(0, PEERS[0], 0.5)
    world.claim(1, 9, 1.0)
    world.suppliers.held(LOG, 3, 2.0)
    assert world.wanted_from() == [1]


def test_t42_our_own_log_is_awaited_from_one_that_shows_more_until_it_stalls() -> None:
    world = World(2)
    world.suppliers.held(OWN, 5, 0.0)
    world.claim(0, 8, 1.0, origin=OWN)
    assert world.suppliers.is_awaited(OWN)
    assert world.wanted_from(OWN) == [0]
    world.suppliers.handle_deadline(4.0)
    assert world.suppliers.take_stalls() == [Stall(OWN, 0)]
    assert not world.suppliers.is_awaited(OWN)
    world.claim(1, 8, 5.0, origin=OWN)
    assert world.suppliers.is_awaited(OWN)
    world.suppliers.held(OWN, 8, 5.5)
    assert not world.suppliers.is_awaited(OWN)
    assert world.wanted_from(OWN) == []


@pytest.mark.parametrize("claims", [1, 3])
def test_an_idle_node_has_no_deadline(claims: int) -> None:
    world = World(claims)
    for link in range(claims):
        world.claim(link, 5, 0.0)
    world.suppliers.held(LOG, 5, 0.1)
    world.suppliers.handle_deadline(10.0)
    assert world.suppliers.next_deadline() == NEVER


Step = st.one_of(
    st.tuples(st.just("claim"), st.integers(0, 4), st.integers(0, 12), st.booleans()),
    st.tuples(st.just("held"), st.integers(0, 12), st.just(0), st.booleans()),
    st.tuples(st.just("delivered"), st.integers(0, 4), st.just(0), st.booleans()),
    st.tuples(st.just("decline"), st.integers(0, 4), st.just(0), st.booleans()),
    st.tuples(st.just("welcome"), st.just(0), st.just(0), st.booleans()),
    st.tuples(st.just("down"), st.integers(0, 4), st.just(0), st.booleans()),
    st.tuples(st.just("wait"), st.integers(0, 40), st.just(0), st.booleans()),
)


@given(st.lists(Step, max_size=60))
def test_whatever_happens_there_is_one_supplier_while_somebody_is_ahead(
    steps: list[tuple[str, int, int, bool]],
) -> None:
    world = World(5)
    suppliers = world.suppliers
    claims: dict[int, int] = {}
    declined: set[int] = set()
    names = {link: link for link in range(5)}  # the number a link has now
    fresh, held, now = 5, 0, 0.0
    for name, value, seq, flag in steps:
        now += 0.01
        if name == "claim":
            link = names[value]
            suppliers.claim(LOG, link, seq, now, asks=flag)
            if link not in declined:
                claims[link] = seq
        elif name == "held":
            held = value
            suppliers.held(LOG, held, now)
        elif name == "delivered":
            suppliers.delivered(LOG, names[value])
        elif name == "decline":
            if LOG in suppliers.known():
                declined.add(names[value])
            suppliers.decline(LOG, names[value], now)
            claims.pop(names[value], None)
        elif name == "welcome":
            assert set(suppliers.welcome(LOG)) == declined
            declined.clear()
        elif name == "down":
            suppliers.link_down(names[value], PEERS[value], now)
            claims.pop(names[value], None)
            declined.discard(names[value])
            names[value] = fresh
            suppliers.link_up(fresh, PEERS[value], now)
            claims.setdefault(fresh, 0) if suppliers.supplier(LOG) == fresh else None
            fresh += 1
        else:
            now += value / 4
            suppliers.handle_deadline(now)
        supplier = suppliers.supplier(LOG)
        if any(claim > held for claim in claims.values()):
            assert supplier is not None
        wanted = [link for link in names.values() if suppliers.wants(LOG, link)]
        if supplier is not None:
            assert wanted == [supplier]
        else:
            assert set(wanted) == set(names.values()) - declined


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), min_size=1, max_size=30))
def test_somebody_honest_is_reached_however_many_lie(claims: list[tuple[int, int]]) -> None:
    """One link delivers what it shows; whatever the others claim, the log is complete in bounded time."""
    world = World(6)
    suppliers, held, now = world.suppliers, 0, 0.0
    for link, seq in claims:
        suppliers.claim(LOG, link, seq, now, asks=False)
    suppliers.claim(LOG, 5, 20, now, asks=False)
    while held < 20:
        assert now < 3.0 * 7, "at most one stall per liar"
        if suppliers.supplier(LOG) == 5:
            held += 1
            suppliers.delivered(LOG, 5)
            suppliers.held(LOG, held, now)
        now += 0.1
        suppliers.handle_deadline(now)


def test_the_end_of_an_older_link_leaves_the_newer_one_the_way_to_the_origin() -> None:
    world = World(0)
    world.suppliers.link_up(0, LOG, 0.0)
    world.suppliers.link_up(1, LOG, 0.0)
    world.suppliers.link_up(2, PEERS[2], 0.0)
    world.claim(2, 5, 0.0)
    world.suppliers.delivered(LOG, 2)
    world.suppliers.held(LOG, 5, 1.0)
    world.suppliers.link_down(0, LOG, 1.0)
    world.claim(1, 9, 1.0)
    assert world.wanted_from() == [1], "the origin itself takes the place of one that is proven"


def test_a_log_that_is_complete_up_to_its_fork_is_asked_of_nobody_not_even_the_origin() -> None:
    world = World(1)
    world.suppliers.link_up(1, LOG, 0.0)
    world.claim(0, 5, 0.0)
    world.claim(1, 3, 0.0)
    world.suppliers.held(LOG, 5, 1.0, last=5)
    assert world.wanted_from() == []
    assert world.suppliers.supplier(LOG) == 0
    world.suppliers.link_down(0, PEERS[0], 2.0)
    assert world.suppliers.supplier(LOG) is None


def test_a_log_that_is_complete_up_to_its_fork_is_asked_of_no_link_that_comes() -> None:
    world = World(0)
    world.suppliers.held(LOG, 5, 0.0, last=5)
    world.suppliers.take_changes()
    world.suppliers.link_up(0, PEERS[0], 1.0)
    assert world.suppliers.supplier(LOG) is None
    assert world.suppliers.take_changes() == []


@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1), (3, 1), (3, 2), (2, 3)])
def test_of_links_that_show_nothing_more_one_that_does_not_ask_us_comes_first(first: int, then: int) -> None:
    world = World(4)
    world.suppliers.held(LOG, 5, 0.0)
    for link in range(4):
        world.claim(link, 5, 0.0, asks=link != first)
    assert world.wanted_from() == [0]
    world.suppliers.link_down(0, PEERS[0], 1.0)
    assert world.wanted_from() == [first]
    world.claim(then, 5, 1.0, asks=False)
    world.suppliers.link_down(first, PEERS[first], 1.0)
    assert world.wanted_from() == [then]


def test_a_link_that_came_when_all_others_were_declined_gives_way_to_one_that_shows_something() -> None:
    world = World(1)
    world.claim(0, 5, 0.0)
    world.suppliers.decline(LOG, 0, 0.0)
    world.suppliers.link_up(1, PEERS[1], 1.0)
    assert world.wanted_from() == [1]
    world.suppliers.link_up(2, PEERS[2], 1.0)
    world.claim(2, 1, 1.0)
    assert world.wanted_from() == [2], "it shows more than the one that has shown nothing"


def test_who_takes_the_place_of_a_link_that_ended_is_watched_as_well() -> None:
    world = World(3)
    world.claim(0, 5, 0.0)
    world.claim(1, 5, 0.0)
    world.claim(2, 5, 0.0)
    world.suppliers.handle_deadline(2.0)
    world.suppliers.link_down(0, PEERS[0], 2.0)
    assert world.wanted_from() == [2]
    for now in (3.0, 4.9):
        world.suppliers.handle_deadline(now)
        assert world.wanted_from() == [2]
    assert world.suppliers.next_deadline() == 5.0
    world.suppliers.handle_deadline(5.0)
    assert world.wanted_from() == [1]
    assert world.suppliers.take_stalls() == [Stall(LOG, 2)]
    assert world.suppliers.next_deadline() == 8.0


def test_links_that_are_ahead_are_equal_and_others_come_by_what_they_show() -> None:
    world = World(4)
    world.claim(0, 50, 0.0)
    for link, seq in ((1, 99), (2, 10), (3, 20)):
        world.claim(link, seq, 0.0)
    world.suppliers.link_down(0, PEERS[0], 0.0)
    assert world.wanted_from() == [2]
    world.suppliers.held(LOG, 99, 1.0)
    world.suppliers.link_down(2, PEERS[2], 1.0)
    assert world.wanted_from() == [1]
    world.suppliers.held(LOG, 100, 1.0)
    world.suppliers.link_up(4, PEERS[4], 1.0)
    world.claim(4, 30, 1.0)
    world.suppliers.link_down(1, PEERS[1], 1.0)
    assert world.wanted_from() == [4]


@pytest.mark.parametrize("held", [5, 3])
def test_equal_links_share_the_logs_so_that_the_end_of_one_moves_its_share(held: int) -> None:
    world = World(6)
    logs = [PeerId(hashlib.sha256(b"%d" % number).digest()) for number in range(300)]
    for log in logs:
        world.suppliers.held(log, held, 0.0)
        for link in range(6):
            world.claim(link, 5, 0.0, origin=log)
    world.suppliers.link_down(0, PEERS[0], 1.0)
    shares = Counter(world.suppliers.supplier(log) for log in logs)
    assert sorted(shares) == [1, 2, 3, 4, 5]
    assert max(shares.values()) <= 2 * len(logs) / 5
    world.suppliers.take_changes()
    world.suppliers.link_down(1, PEERS[1], 1.0)
    assert len(world.suppliers.take_changes()) == shares[1]


def test_who_takes_the_place_of_one_that_stalled_has_as_long() -> None:
    world = World(3)
    for link in range(3):
        world.claim(link, 5, 0.0)
    for now, wanted in ((3.0, 2), (6.0, 1)):
        assert world.suppliers.next_deadline() == now
        world.suppliers.handle_deadline(now)
        assert world.wanted_from() == [wanted]
        assert world.suppliers.next_deadline() == now + 3.0
