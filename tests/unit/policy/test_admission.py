"""Slots for who has proven nothing (T02, T03), scores and bans (T33)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from p2p.errors import ConfigError
from p2p.limits import Limits
from p2p.policy.addresses import prefix_of
from p2p.policy.admission import ConnectionSlots, Scores

LIMITS = Limits()


def fill(slots: ConnectionSlots[str], host: str, count: int, now: float = 0.0) -> list[str]:
    """Let `count` connections of a host knock; returns those that entered."""
    entered = []
    for number in range(count):
        if slots.admits(host, now):
            link = f"{host}#{number}"
            slots.enter(link, host)
            entered.append(link)
    return entered


@pytest.mark.parametrize("host", ["203.0.113.7", "2001:db8::1", "", "somewhere"])
def test_t02_at_most_eight_from_one_prefix_at_a_time(host: str) -> None:
    slots: ConnectionSlots[str] = ConnectionSlots(LIMITS)
    assert len(fill(slots, host, 50)) == 8
    assert slots.admits("198.51.100.1", 0.0)


def test_t02_the_neighbours_in_a_56_share_their_slots() -> None:
    slots: ConnectionSlots[str] = ConnectionSlots(LIMITS)
    for number in range(8):
        assert fill(slots, f"2001:db8:0:{number:x}::1", 1)
    assert not slots.admits("2001:db8:0:ff::1", 0.0)
    assert slots.admits("2001:db8:0:100::1", 0.0)


def test_t02_neighbours_on_one_cable_each_have_their_own_slots() -> None:
    slots: ConnectionSlots[str] = ConnectionSlots(LIMITS)
    assert len(fill(slots, "fe80::bad%eth0", 50)) == 8
    assert not slots.holds("fe80::1%eth0")
    assert slots.admits("fe80::1%eth0", 0.0)


def test_t02_a_prefix_that_fails_and_comes_again_meets_the_bucket() -> None:
    slots: ConnectionSlots[str] = ConnectionSlots(LIMITS)
    entered = 0
    for number in range(100):
        if slots.admits("203.0.113.7", 0.0):
            entered += 1
            slots.enter(str(number), "203.0.113.7")
            slots.leave(str(number), authenticated=False)
    assert entered == 16
    assert not slots.admits("203.0.113.7", 4.9)
    assert slots.admits("203.0.113.7", 5.1)
    assert not slots.admits("203.0.113.7", 5.2)


def test_t02_a_token_comes_back_on_success() -> None:
    slots: ConnectionSlots[str] = ConnectionSlots(LIMITS)
    for number in range(1000):
        assert slots.admits("203.0.113.7", 0.0)
        slots.enter(str(number), "203.0.113.7")
        slots.leave(str(number), authenticated=True)
        slots.leave(str(number), authenticated=False)


def test_t02_a_connection_that_ends_twice_or_was_dialled_gives_nothing_back() -> None:
    slots: ConnectionSlots[str] = ConnectionSlots(replace(LIMITS, prefix_burst=1, prefix_per_s=0.0))
    assert fill(slots, "203.0.113.7", 1)
    slots.leave("203.0.113.7#0", authenticated=False)
    slots.leave("203.0.113.7#0", authenticated=True)
    slots.leave("never entered", authenticated=True)
    assert not slots.admits("203.0.113.7", 0.0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.1.2.3", "198.51.100.9"])
def test_t02_loopback_and_listed_proxies_are_exempt_from_prefix_limits(host: str) -> None:
    slots: ConnectionSlots[str] = ConnectionSlots(LIMITS, exempt=["10.1.0.0/16", "198.51.100.9"])
    assert len(fill(slots, host, 60)) == 60
    assert len(fill(slots, "10.2.0.1", 60)) == 8


def test_t02_an_exempt_network_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"proxy\.example"):
        ConnectionSlots(LIMITS, exempt=["proxy.example"])


def test_t02_the_table_of_prefixes_is_bounded() -> None:
    slots: ConnectionSlots[str] = ConnectionSlots(replace(LIMITS, prefix_table_max=4))
    for number in range(1000):
        slots.admits(f"203.0.{number // 250}.{number % 250}", 0.0)
    assert len(slots._buckets) == 4


def test_t03_when_full_the_oldest_of_the_most_represented_prefix_goes() -> None:
    slots: ConnectionSlots[str] = ConnectionSlots(replace(LIMITS, unauthenticated_max=5))
    assert slots.enter("honest", "192.0.2.1") is None
    for number in range(3):
        assert slots.enter(f"flood {number}", "203.0.113.7") is None
    assert slots.enter("other", "192.0.2.2") is None
    assert slots.enter("newcomer", "192.0.2.3") == "flood 0"
    assert slots.enter("newcomer 2", "192.0.2.4") == "flood 1"
    assert len(slots) == 5
    slots.leave("flood 0", authenticated=False)
    assert len(slots) == 5


def test_t03_among_equals_the_oldest_goes() -> None:
    slots: ConnectionSlots[str] = ConnectionSlots(replace(LIMITS, unauthenticated_max=3))
    for number in range(3):
        slots.enter(str(number), f"192.0.2.{number}")
    assert slots.enter("3", "192.0.2.3") == "0"


def test_t03_a_flood_from_many_prefixes_leaves_an_honest_handshake_time() -> None:
    """Sixty-four newcomers have to come before an honest connection that entered among singles is the oldest."""
    slots: ConnectionSlots[str] = ConnectionSlots(LIMITS)
    for number in range(64):
        slots.enter(f"flood {number}", f"203.0.113.{number}")
    evicted = slots.enter("honest", "192.0.2.1")
    survived = 0
    while evicted != "honest":
        evicted = slots.enter(f"later {survived}", f"198.51.100.{survived}")
        survived += 1
    assert survived == 64


class SlotsMachine(RuleBasedStateMachine):
    """Whatever the order of knocking, entering and leaving: the bounds hold and nobody is lost or counted twice."""

    @initialize()
    def begin(self) -> None:
        self.limits = replace(LIMITS, unauthenticated_max=6, prefix_unauthenticated_max=3, prefix_burst=4)
        self.slots: ConnectionSlots[int] = ConnectionSlots(self.limits)
        self.inside: dict[int, str] = {}
        self.now = 0.0
        self.next = 0

    @rule(host=st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "127.0.0.1", ""]))
    def knock(self, host: str) -> None:
        if self.slots.admits(host, self.now):
            evicted = self.slots.enter(self.next, host)
            if evicted is not None:
                assert evicted != self.next
                del self.inside[evicted]
            self.inside[self.next] = prefix_of(host)
            self.next += 1

    @rule(proven=st.booleans(), which=st.integers(0, 10))
    def leave(self, proven: bool, which: int) -> None:
        link = list(self.inside)[which] if which < len(self.inside) else -1
        self.inside.pop(link, None)
        self.slots.leave(link, authenticated=proven)

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def bounds_hold(self) -> None:
        assert len(self.slots) == len(self.inside) <= 6
        for prefix in set(self.inside.values()) - {prefix_of("127.0.0.1")}:
            assert list(self.inside.values()).count(prefix) <= 3


test_t02_and_t03_in_any_order = SlotsMachine.TestCase


def test_t33_a_hundred_points_are_a_ban_of_ten_minutes_and_the_next_is_twice_as_long() -> None:
    scores, now = Scores(LIMITS), 1000.0
    for length in (600, 1200, 2400, 4800, 9600, 19200, 38400, 76800, 86400, 86400):
        assert not scores.penalize("mallory", 99, now)
        assert not scores.is_banned("mallory", now)
        assert scores.penalize("mallory", 1, now)
        assert scores.is_banned("mallory", now)
        assert not scores.penalize("mallory", 100, now), "a ban under way does not begin again"
        assert scores.banned_until("mallory", now) == now + length
        assert scores.is_banned("mallory", now + length - 0.1)
        now += length
        assert not scores.is_banned("mallory", now)
        assert scores.banned_until("mallory", now) == now


def test_t33_points_fade_and_a_day_without_a_ban_shortens_the_next() -> None:
    scores = Scores(LIMITS)
    scores.penalize("clumsy", 60, 0.0)
    assert scores.points("clumsy", 30 * 60.0) == pytest.approx(30)
    assert not scores.penalize("clumsy", 60, 30 * 60.0)
    scores.penalize("clumsy", 100, 30 * 60.0)
    assert scores.banned_until("clumsy", 30 * 60.0) == 30 * 60.0 + 600
    later = 30 * 60.0 + 600 + 86_401
    assert scores.penalize("clumsy", 100, later)
    assert scores.banned_until("clumsy", later) == later + 600


def test_t33_four_quarters_of_a_ban_within_a_minute_are_one() -> None:
    scores = Scores(LIMITS)
    assert [scores.penalize("hasty", 25, second) for second in (0.0, 0.1, 20.0, 59.0)] == [False, False, False, True]
    assert [scores.penalize("slow", 25, second) for second in (0.0, 0.1, 20.0, 61.0)] == [False] * 4
    assert scores.points("slow", 61.0) == 99
    assert scores.points("slow", 119.0) == 99
    assert scores.points("slow", 120.0) == 98


def test_no_points_are_no_entry() -> None:
    scores = Scores(LIMITS)
    assert not scores.penalize("anybody", 0, 0.0)
    assert len(scores) == 0
    assert scores.points("anybody", 0.0) == 0
    with pytest.raises(AssertionError):
        scores.penalize("anybody", -1, 0.0)


def test_a_pardon_forgets_everything() -> None:
    scores = Scores(LIMITS)
    scores.penalize("x", 100, 0.0)
    scores.pardon("x")
    scores.pardon("x")
    assert not scores.is_banned("x", 0.0)


def test_t33_made_up_identities_buy_nobody_out_of_a_ban() -> None:
    scores = Scores(replace(LIMITS, scores_max=10))
    scores.penalize("mallory", 100, 0.0)
    for number in range(1000):
        scores.penalize(number, 50, 1.0)
    assert scores.is_banned("mallory", 1.0)
    assert len(scores) == 10
    for number in range(1000):
        scores.penalize(number, 100, 2.0)
    assert len(scores) == 10


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 120), st.floats(0, 5000)), max_size=60))
def test_t33_points_are_never_negative_and_the_table_is_bounded(steps: list[tuple[int, int, float]]) -> None:
    scores, now = Scores(replace(LIMITS, scores_max=5)), 0.0
    for who, points, wait in steps:
        now += wait
        began = scores.penalize(who, points, now)
        assert not began or scores.is_banned(who, now)
        assert 0 <= scores.points(who, now) < LIMITS.ban_points
        assert scores.banned_until(who, now) <= now + LIMITS.ban_s_max
        assert len(scores) <= 5


def test_who_is_named_by_no_address_is_not_exempt() -> None:
    slots: ConnectionSlots[str] = ConnectionSlots(LIMITS, ["203.0.113.0/24"])
    assert len(fill(slots, "somewhere", 50)) == 8
    assert len(fill(slots, "203.0.113.7", 20)) == 20


def test_a_ban_of_an_earlier_run_holds_until_its_end() -> None:
    scores = Scores(LIMITS)
    scores.ban("a", 100.0, 0.0)
    scores.ban("a", 50.0, 0.0)
    assert scores.is_banned("a", 99.0)
    assert not scores.is_banned("a", 101.0)


def test_t33_the_banned_are_counted_while_they_are() -> None:
    scores = Scores(LIMITS)
    scores.ban("a", 10.0, 0.0)
    scores.ban("b", 20.0, 0.0)
    assert [scores.banned(now) for now in (0.0, 10.0, 20.0)] == [2, 1, 0]
    assert [scores.banned_until("a", now) for now in (0.0, 15.0)] == [10.0, 15.0]


def test_who_is_about_to_prove_himself_holds_the_place_of_his_neighbours_until_he_leaves() -> None:
    slots: ConnectionSlots[str] = ConnectionSlots(LIMITS)
    assert not slots.holds("2001:db8::1")
    slots.enter("one", "2001:db8::1")
    assert slots.holds("2001:db8::2")
    assert not slots.holds("192.0.2.1")
    slots.leave("one", authenticated=True)
    assert not slots.holds("2001:db8::1")
