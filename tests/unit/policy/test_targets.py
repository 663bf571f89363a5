"""Places that hints name: how many are kept, which are dialled, how often."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from p2p.ids import PeerEndpoint
from p2p.limits import Limits
from p2p.policy.hints import HintSource
from p2p.policy.targets import Target, Targets

LIMITS = Limits()


def target(
    host: str,
    port: int = 9001,
    *,
    came_from: str = "192.0.2.7",
    kind: HintSource = HintSource.DISCOVERY,
    now: float = 0.0,
    wait_s: float = 0.0,
    known: bool = False,
) -> Target:
    return Target(
        PeerEndpoint(host, port), (kind, came_from), "n", None, known, now + wait_s, now + LIMITS.lead_ttl_s
    )  # fmt: skip


def test_t44_one_place_is_dialled_once_in_thirty_seconds_whoever_names_it() -> None:
    targets = Targets(LIMITS)
    dials = []
    for tenth in range(1200):
        now = tenth / 10
        targets.note(target("10.0.0.1", came_from=f"192.0.2.{tenth % 250}", now=now), now, 0.5)
        if targets.take(now):
            dials.append(now)
    assert dials == [0, 30, 60, 90]


def test_t44_one_source_aims_us_at_eight_places_and_a_met_one_gives_its_slot_back() -> None:
    targets = Targets(LIMITS)
    taken = [targets.note(target("10.0.0.1", port), 0.0, 0.5) for port in range(1000, 1020)]
    assert taken.count(True) == 8
    dialled = [targets.take(0.0) for _ in range(9)]
    assert dialled.count(None) == 1
    assert not targets.note(target("10.0.0.1", 2000), 1.0, 0.5)
    for there in dialled[:3]:
        assert there is not None
        targets.proved(there)
        targets.proved(there)
    assert [targets.note(target("10.0.0.1", port), 1.0, 0.5) for port in range(2000, 2004)] == [True] * 3 + [False]
    assert targets.note(target("10.0.0.1", 3000, came_from="192.0.2.8"), 1.0, 0.5)
    assert targets.note(target("10.0.0.1", 4000, now=31.0), 31.0, 0.5), "what was dialled long ago no longer counts"


def test_a_registry_names_more_than_a_neighbour_may() -> None:
    targets = Targets(LIMITS)
    named = [targets.note(target("10.0.0.1", 1000 + n, kind=HintSource.REGISTRY), 0.0, 0.5) for n in range(1000)]
    assert named.count(True) == LIMITS.leads_per_registry_max


@given(st.lists(st.tuples(st.integers(0, 400), st.booleans(), st.floats(0, 1, exclude_max=True)), max_size=200))
def test_t46_the_table_is_bounded_and_made_up_places_push_out_no_known_peer(
    hints: list[tuple[int, bool, float]],
) -> None:
    limits = replace(LIMITS, leads_max=16)
    targets = Targets(limits)
    known: set[str] = set()
    for number, is_known, draw in hints:
        host = f"10.{int(is_known)}.{number // 250}.{number % 250}"
        # A known peer gets in unless known ones fill the table.
        if targets.note(target(host, came_from=host, known=is_known), 0.0, draw) and is_known:
            known.add(host)
        assert not is_known or host in known or len(known) == 16
        assert len(targets) <= 16
    taken = [there for _ in range(16) if (there := targets.take(0.0)) is not None]
    assert {there.endpoint.host for there in taken if there.known} == known
    assert all(there.known for there in taken[: len(known)]), "known peers come first"


def test_t46_a_real_place_among_made_up_ones_gets_its_turn() -> None:
    limits = replace(LIMITS, leads_max=16)
    entered = 0
    for tenth in range(10):
        targets = Targets(limits)
        for number in range(40):
            targets.note(target("10.0.0.1", 1000 + number, came_from=f"192.0.2.{number}"), 0.0, tenth / 10)
        entered += targets.note(target("10.9.9.9", came_from="10.9.9.9"), 0.0, tenth / 10)
    assert entered >= 8


def test_t47_what_is_not_named_again_is_not_dialled() -> None:
    targets = Targets(LIMITS)
    assert targets.note(target("10.0.0.1", wait_s=14), 0.0, 0.5)
    assert targets.take(13.9) is None
    assert targets.take(15.0) is None
    assert not len(targets)
    targets.note(target("10.0.0.2", wait_s=14), 0.0, 0.5)
    targets.note(target("10.0.0.2", now=10.0, wait_s=10), 10.0, 0.5)
    assert targets.take(13.9) is None
    assert targets.take(15.0) is not None, "named again, it keeps its first date"


def test_all_dials_together_keep_a_pace() -> None:
    targets = Targets(LIMITS)
    for number in range(200):
        targets.note(target(f"10.0.0.{number}", came_from=f"10.0.0.{number}"), 0.0, 0.5)
    assert sum(targets.take(0.0) is not None for _ in range(200)) == LIMITS.lead_dials_burst
    assert targets.due(0.0) == 1 / LIMITS.lead_dials_per_s
    assert targets.take(1 / LIMITS.lead_dials_per_s) is not None
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
    assert targets.waiting == 0
    assert targets.due_of(taken, 0.0) >= taken.due
    targets.spare(taken)
    targets.drop(taken)
    assert len(targets) == 0
    assert targets.note(target("10.0.0.1"), 0.0, 0.5), "it may be named again at once"
