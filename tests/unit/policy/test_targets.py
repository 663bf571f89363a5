"""Places that hints name: how many are kept, which are dialled, how often."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.ids import PeerEndpoint, PeerId
from p2p.limits import Limits
from p2p.policy.hints import DiscoveryAnnouncement, HintSource
from p2p.policy.sightings import Sightings
from p2p.policy.targets import Standing, Target, Targets

LIMITS = Limits()


def target(
    host: str,
    port: int = 9001,
    *,
    came_from: str = "192.0.2.7",
    kind: HintSource = HintSource.DISCOVERY,
    now: float = 0.0,
    wait_s: float = 0.0,
    standing: Standing = Standing.SIGNED,
) -> Target:
    due = now + wait_s
    source = (kind, came_from)
    return Target(PeerEndpoint(host, port), source, "n", None, standing, due, due, now + LIMITS.lead_ttl_s)


def dial(targets: Targets, now: float) -> Target | None:
    """Take the next place, and be done with it at once."""
    taken = targets.take(now)
    if taken is not None:
        targets.over(taken)
    return taken


def test_t44_one_place_is_dialled_once_in_thirty_seconds_whoever_names_it() -> None:
    targets = Targets(LIMITS)
    dials = []
    for tenth in range(1200):
        now = tenth / 10
        targets.note(target("10.0.0.1", came_from=f"192.0.2.{tenth % 250}", now=now), now, 0.5)
        if dial(targets, now):
            dials.append(now)
    assert dials == [0, 30, 60, 90]


def test_t44_one_source_aims_us_at_eight_places_and_a_met_one_gives_its_slot_back() -> None:
    targets = Targets(LIMITS)
    taken = [targets.note(target("10.0.0.1", port), 0.0, 0.5) for port in range(1000, 1020)]
    assert taken.count(True) == 8
    dialled = [dial(targets, 0.0) for _ in range(9)]
    assert dialled.count(None) == 1
    assert not targets.note(target("10.0.0.1", 2000), 1.0, 0.5)
    for there in dialled[:3]:
        assert there is not None
        targets.proved(there)
        targets.proved(there)
    assert [targets.note(target("10.0.0.1", port), 1.0, 0.5) for port in range(2000, 2004)] == [True] * 3 + [None]
    assert targets.note(target("10.0.0.1", 3000, came_from="192.0.2.8"), 1.0, 0.5)
    assert targets.note(target("10.0.0.1", 4000, now=31.0), 31.0, 0.5), "what was dialled long ago no longer counts"


@pytest.mark.parametrize("unsigned", [Standing.BARE, Standing.AGAIN])
def test_t44_what_nobody_signed_leaves_half_of_a_source_to_what_is_signed(unsigned: Standing) -> None:
    targets = Targets(LIMITS)
    named = [targets.note(target("10.0.0.1", port, standing=unsigned), 0.0, 0.5) for port in range(1000, 1020)]
    while dial(targets, 0.0):
        pass
    signed = [targets.note(target("10.0.0.1", port), 0.0, 0.5) for port in range(2000, 2020)]
    assert (named.count(True), signed.count(True)) == (4, 4)


def test_t44_of_one_source_what_waits_gives_way_to_what_has_more_behind_it_and_known_peers_are_apart() -> None:
    targets = Targets(LIMITS)
    first_port = 1000
    for standing, kept in zip(Standing, (4, 4, 8, 8, 8, 8), strict=True):
        ports = range(first_port, first_port + 20)
        named = [targets.note(target("10.0.0.1", port, standing=standing), 0.0, 0.5) for port in ports]
        assert (named.count(True), named.count(None)) == (kept, 20 - kept)
        first_port += 20
    assert targets.waiting == 16, "eight of strangers, of the highest standing, and eight of known peers"
    assert targets.note(target("10.0.0.1", 9000, standing=Standing.BARE), 0.0, 0.5) is None


def test_t46_no_other_standing_takes_the_places_of_one() -> None:
    targets = Targets(LIMITS)
    for standing in Standing:
        for number in range(300):
            host = f"10.{standing}.{number // 250}.{number % 250}"
            targets.note(target(host, came_from=host, standing=standing), 0.0, 0.999)
    strangers = len(Standing) - 1
    assert targets.waiting == len(targets) == strangers * LIMITS.leads_per_standing_max + LIMITS.leads_known_max


@pytest.mark.parametrize("spared", [0, 40])
def test_places_that_need_no_dial_cost_their_standing_no_turn(spared: int) -> None:
    targets, now, their_turns = Targets(LIMITS), 100.0, 0
    for number in range(LIMITS.lead_dials_burst):
        host = f"10.0.0.{number}"
        targets.note(target(host, came_from=host, now=now, standing=Standing.LISTED), now, 0.5)
        assert dial(targets, now) is not None
    for number in range(80):
        for standing in (Standing.AGAIN, Standing.LISTED, Standing.SIGNED_AGAIN):
            host = f"10.{standing}.1.{number}"
            targets.note(target(host, came_from=host, now=now, standing=standing), now, 0.5)
    for number in range(spared + 1):
        host = f"10.9.9.{number}"
        targets.note(target(host, came_from=host, now=now, wait_s=number / 1e6), now, 0.5)
    while True:
        now += 1 / LIMITS.lead_dials_per_s
        while (taken := targets.take(now)) is not None:
            if taken.standing is not Standing.SIGNED:
                their_turns += 1
                targets.over(taken)
            elif taken.endpoint.host != f"10.9.9.{spared}":
                targets.spare(taken)
            else:
                assert their_turns <= len(Standing)
                return


def test_a_registry_names_more_than_a_neighbour_may() -> None:
    targets = Targets(LIMITS)
    named = [targets.note(target("10.0.0.1", 1000 + n, kind=HintSource.REGISTRY), 0.0, 0.5) for n in range(1000)]
    assert named.count(True) == LIMITS.leads_per_registry_max


@given(st.lists(st.tuples(st.integers(0, 400), st.booleans(), st.floats(0, 1, exclude_max=True)), max_size=200))
def test_t46_the_table_is_bounded_and_made_up_places_push_out_no_known_peer(
    hints: list[tuple[int, bool, float]],
) -> None:
    targets = Targets(replace(LIMITS, leads_known_max=16, leads_per_standing_max=16))
    known: set[str] = set()
    for number, is_known, draw in hints:
        host = f"10.{int(is_known)}.{number // 250}.{number % 250}"
        standing = Standing.KNOWN if is_known else Standing.SIGNED
        if targets.note(target(host, came_from=host, standing=standing), 0.0, draw) and is_known:
            known.add(host)
        assert not is_known or host in known or len(known) >= 16
        assert len(targets) <= 32
    taken = [there for _ in range(32) if (there := dial(targets, 0.0)) is not None]
    dialled = {there.endpoint.host for there in taken if there.standing is Standing.KNOWN}
    assert dialled <= known
    assert len(dialled) == min(16, len(known))
    known = dialled
    assert all(there.standing is Standing.KNOWN for there in taken[: len(known)]), "known peers come first"


def test_t46_a_real_place_among_made_up_ones_gets_its_turn() -> None:
    limits = replace(LIMITS, leads_per_standing_max=16)
    entered = 0
    for tenth in range(10):
        targets = Targets(limits)
        for number in range(40):
            targets.note(target("10.0.0.1", 1000 + number, came_from=f"192.0.2.{number}"), 0.0, tenth / 10)
        entered += bool(targets.note(target("10.9.9.9", came_from="10.9.9.9"), 0.0, tenth / 10))
    assert entered >= 8


def test_t47_what_is_not_named_again_is_not_dialled() -> None:
    targets = Targets(LIMITS)
    assert targets.note(target("10.0.0.1", wait_s=14), 0.0, 0.5)
    assert dial(targets, 13.9) is None
    assert dial(targets, 15.0) is None
    assert not len(targets)
    targets.note(target("10.0.0.2", wait_s=14), 0.0, 0.5)
    targets.note(target("10.0.0.2", now=10.0, wait_s=10), 10.0, 0.5)
    assert dial(targets, 13.9) is None
    assert dial(targets, 15.0) is not None, "named again, it keeps its first date"


def test_all_dials_together_keep_a_pace() -> None:
    targets = Targets(LIMITS)
    for number in range(200):
        targets.note(target(f"10.0.0.{number}", came_from=f"10.0.0.{number}"), 0.0, 0.5)
    assert sum(dial(targets, 0.0) is not None for _ in range(200)) == LIMITS.lead_dials_burst
    assert targets.due(0.0) == 1 / LIMITS.lead_dials_per_s
    assert dial(targets, 1 / LIMITS.lead_dials_per_s) is not None
    spared = targets.take(1.0)
    assert spared is not None
    targets.spare(spared)
    assert targets.note(target(spared.endpoint.host), 1.0, 0.5), "it may be named again at once"


def test_an_empty_table_is_never_due() -> None:
    assert Targets(LIMITS).due(5.0) == math.inf
    assert Targets(LIMITS).take(5.0) is None


def test_a_place_that_need_not_be_dialled_gives_its_turn_back() -> None:
    targets = Targets(LIMITS)
    targets.note(target("10.0.0.1"), 0.0, 0.5)
    assert targets.waiting == 1
    taken = targets.take(0.0)
    assert taken is not None
    assert (targets.waiting, targets.under_way) == (0, 1)
    assert targets.due_of(taken, 0.0) >= taken.due
    targets.spare(taken)
    targets.drop(taken)
    assert (len(targets), targets.under_way) == (0, 0)
    assert targets.note(target("10.0.0.1"), 0.0, 0.5), "it may be named again at once"


def test_a_place_that_is_put_off_comes_again_until_it_cannot_wait_longer() -> None:
    targets = Targets(LIMITS)
    there = target("10.0.0.1", standing=Standing.BARE)
    there.due_at_last = 0.7
    targets.note(there, 0.0, 0.5)
    for now in (0.0, 0.5, 0.7):
        assert targets.due(now - 0.01) <= now
        taken = targets.take(now)
        assert taken is there
        assert targets.take(now) is None
        if now < there.due_at_last:
            targets.put_off(taken, now)
            assert (targets.waiting, targets.under_way) == (1, 0)


@pytest.mark.parametrize("peer_id", [None, PeerId(bytes(range(32)))])
def test_a_hint_is_dialled_where_it_points_and_for_whom_it_names(peer_id: PeerId | None) -> None:
    hint = DiscoveryAnnouncement("n", "node.example", 9001, peer_id, "wss", ("192.0.2.1",))
    assert hint.endpoint == PeerEndpoint("node.example", 9001, "wss", None if peer_id is None else str(peer_id))
    assert hint.endpoint.judged == ("192.0.2.1",)


def test_a_place_that_was_forgotten_since_the_last_look_may_be_named_anew() -> None:
    targets = Targets(LIMITS)
    assert targets.note(target("10.0.0.1"), 0.0, 0.5)
    assert dial(targets, 0.0) is not None
    again = LIMITS.lead_interval_s
    # Some other hint had the whole table swept a moment before this one's time was over.
    assert targets.note(target("10.0.0.2", now=again), again - 0.5, 0.5)
    assert not targets.note(target("10.0.0.1", now=again), again - 0.1, 0.5)
    assert targets.note(target("10.0.0.1", now=again), again, 0.5)
    assert len(targets) == 2


def test_who_came_by_himself_is_waited_for_no_longer() -> None:
    targets = Targets(LIMITS)
    who = PeerId(bytes(range(32)))
    for port in range(1000, 1008):
        there = target("10.0.0.1", port, wait_s=3)
        there.peer_id = who
        assert targets.note(there, 0.0, 0.5)
    assert not targets.note(target("10.0.0.1", 2000), 0.0, 0.5)
    targets.arrived(who)
    assert not len(targets)
    assert targets.note(target("10.0.0.1", 2000), 0.0, 0.5), "its slots are free"


def test_dials_of_one_standing_that_hang_leave_those_of_another_their_turn() -> None:
    targets = Targets(LIMITS)
    for standing, bound in ((Standing.BARE, LIMITS.lead_bare_dials_max), (Standing.AGAIN, LIMITS.lead_dials_max)):
        for number in range(20):
            host = f"10.{standing}.0.{number}"
            targets.note(target(host, came_from=host, standing=standing), 0.0, 0.5)
        hanging = [taken for _ in range(20) if (taken := targets.take(0.0)) is not None]
        assert len(hanging) == bound
        assert targets.due(0.0) == math.inf, "before a dial is over there is nothing to wake up for"
    assert targets.note(target("10.9.9.9"), 0.0, 0.5)
    taken = targets.take(0.0)
    assert taken is not None
    assert taken.endpoint.host == "10.9.9.9"
    targets.over(hanging[0])
    assert targets.due(0.0) == 0.0


def test_who_is_heard_again_rises_and_the_name_that_was_made_up_for_his_place_is_forgotten() -> None:
    targets = Targets(LIMITS)
    signed = PeerId(bytes(range(32)))
    targets.note(target("10.0.0.1", standing=Standing.BARE, wait_s=3), 0.0, 0.5)
    real = target("10.0.0.1", standing=Standing.SIGNED, wait_s=2)
    real.peer_id = signed
    targets.note(real, 0.0, 0.5)
    targets.note(target("10.0.0.1", standing=Standing.BARE), 0.0, 0.5)
    taken = targets.take(0.0)
    assert taken is not None
    assert (taken.standing, taken.peer_id) == (Standing.SIGNED, signed)


FLOOD_PER_S = 250
YIELD_S = 1.5 * LIMITS.lead_yield_s
TURN_S = len(Standing) / LIMITS.lead_dials_per_s
"""What passes for one turn of each standing."""


def told_and_dialled(*, signed: bool, flood_signs: bool) -> tuple[float, float]:
    """A newcomer among announcements that are made up, each from another address; every dial to those hangs for 10 s.

    Returns:
        Seconds from his first announcement to his being told of as one who speaks again, and to the dial to him.
    """
    sightings, targets = Sightings(LIMITS, ttl_s=15.0, cooldown_s=8.0), Targets(LIMITS)
    hanging: list[tuple[float, Target]] = []
    comes_at, told_at, his_next = 10.0, math.inf, 10.0
    for tick in range(40 * FLOOD_PER_S):
        now = tick / FLOOD_PER_S
        false = (f"10.{tick // 62500}.{tick // 250 % 250}.{tick % 250}", tick, flood_signs)
        true = ("192.0.2.1", -1, signed)
        is_his = now >= his_next
        his_next += 1.93 * is_his
        for host, number, signs in (true, false) if is_his else (false,):
            if not sightings.admits(host, now, signed=signs):
                continue
            peer_id = PeerId((number + 1).to_bytes(32, "big")) if signs else None
            hint = DiscoveryAnnouncement(f"n{number}", host, 9001, peer_id)
            if not sightings.note(hint, now, tick + 1):
                continue
            again = sightings.is_heard_again(hint, now)
            if host == true[0] and again:
                told_at = min(told_at, now)
            standing = (Standing.BARE, Standing.AGAIN, Standing.SIGNED, Standing.SIGNED_AGAIN)[2 * signs + again]
            draw = tick * 0.6180339887 % 1
            targets.note(target(host, came_from=host, now=now, wait_s=YIELD_S, standing=standing), now, draw)
        while hanging and hanging[0][0] <= now:
            targets.over(hanging.pop(0)[1])
        while (taken := targets.take(now)) is not None:
            if taken.endpoint.host == true[0]:
                return told_at - comes_at, now - comes_at
            hanging.append((now + 10.0, taken))
    raise AssertionError("he was not dialled")


def test_t46_who_signs_among_forged_announcements_that_nobody_signed_is_dialled_as_if_there_were_none() -> None:
    _, dialled = told_and_dialled(signed=True, flood_signs=False)
    assert dialled <= YIELD_S + TURN_S


@pytest.mark.parametrize("signs", [True, False])
def test_t46_who_speaks_again_is_dialled_at_his_second_turn_whatever_else_is_said_once(signs: bool) -> None:
    told, dialled = told_and_dialled(signed=signs, flood_signs=signs)
    assert told <= 8.0 + 3 * 2.0, "some of his first announcements may be dropped unread"
    assert dialled <= told + YIELD_S + TURN_S
