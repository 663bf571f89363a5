"""How a link that ends in order comes to its end: times alone."""

from __future__ import annotations

from dataclasses import replace

from p2p.errors import Reason
from p2p.limits import Limits
from p2p.peer.parting import NEVER, Parting, Step

LIMITS = replace(Limits(), retire_s_max=2.5 * Limits().drain_s_max)
DRAIN, RETIRE, PROBE = LIMITS.drain_s_max, LIMITS.retire_s_max, LIMITS.probe_s_max
BYE = (Reason.CLOSED, "")


def step(
    parting: Parting, now: float, *, owes: bool = False, moved_at: float = -NEVER, can_speak: bool = False
) -> Step:
    return parting.step(now, is_dead=False, owes=owes, moved_at=moved_at, can_speak=can_speak, probe_s=PROBE)


def test_a_link_that_is_closed_is_cut_when_it_has_drained_whatever_moves_and_is_owed() -> None:
    parting = Parting(LIMITS, 100.0, BYE, gives_way=False)
    assert step(parting, 100.0 + DRAIN - 0.01, owes=True, moved_at=100.0) is Step.WAIT
    assert step(parting, 100.0 + DRAIN, owes=True, moved_at=100.0 + DRAIN, can_speak=True) is Step.CUT


def test_one_that_gives_way_waits_for_what_is_owed_and_never_longer_than_it_may() -> None:
    parting = Parting(LIMITS, 0.0, BYE, gives_way=True)
    now = parting.end_by
    while now < RETIRE:
        assert step(parting, now, owes=True, can_speak=True) is Step.ASK
        assert now < parting.end_by <= parting.over_by == RETIRE
        now = parting.end_by
    assert step(parting, now, owes=True, can_speak=True) is Step.SAY
    assert parting.end_by == now + PROBE
    assert step(parting, now + PROBE, owes=True) is Step.CUT


def test_one_that_gives_way_goes_on_while_it_moves_and_owes_nothing() -> None:
    parting = Parting(LIMITS, 0.0, BYE, gives_way=True)
    assert step(parting, DRAIN, moved_at=1.0, can_speak=True) is Step.WAIT
    assert step(parting, 2 * DRAIN, moved_at=DRAIN, can_speak=True) is Step.SAY


def test_in_a_hurry_it_takes_as_long_as_any_other_link_from_then_on() -> None:
    parting = Parting(LIMITS, 0.0, BYE, gives_way=True)
    parting.waits_for = NEVER
    assert step(parting, DRAIN, owes=True) is Step.ASK
    parting.hurry(DRAIN + 1.0)
    assert parting.may_part
    assert parting.rest_by == parting.end_by == DRAIN + 1.0 + DRAIN
    parting.hurry(DRAIN + 2.0)
    assert parting.end_by == DRAIN + 1.0 + DRAIN, "to be told twice is no reason to wait longer"
    assert step(parting, parting.end_by, owes=True, moved_at=parting.end_by) is Step.CUT


def test_a_reader_of_one_that_gives_way_is_hurried_by_another_link() -> None:
    parting = Parting(LIMITS, 0.0, BYE, gives_way=True)
    assert parting.rest_by == RETIRE
    parting.readers_by = 1.0
    assert parting.rest_by == 1.0


def test_a_dead_peer_is_waited_for_no_longer() -> None:
    parting = Parting(LIMITS, 0.0, BYE, gives_way=True)
    assert parting.step(0.0, is_dead=True, owes=True, moved_at=0.0, can_speak=True, probe_s=PROBE) is Step.CUT


def test_a_probe_that_failed_lets_a_side_part_that_would_have_waited_for_the_other() -> None:
    parting = Parting(LIMITS, 0.0, BYE, gives_way=True)
    parting.waits_for = 3.0
    parting.probe_failed()
    assert not parting.may_part
    parting.waits_for = NEVER
    parting.probe_failed()
    assert parting.may_part
