"""What a node remembers of who was there: bounded, and no longer than it counts."""

from __future__ import annotations

from dataclasses import replace

from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.node.roster import Roster

OWN, OTHER = PeerId(bytes(32)), PeerId(b"o" * 32)


def a_roster(**bounds: int) -> Roster:
    return Roster(OWN, replace(Limits(), **bounds))  # type: ignore[arg-type]  # fields of Limits


def test_t67_of_everybody_who_ever_proved_himself_only_so_many_are_remembered() -> None:
    roster = a_roster(weak_pins_max=8)
    for number in range(100):
        roster.remember(PeerId(number.to_bytes(32, "big")))
        roster.remember(OTHER)
    assert len(roster.met) == 8
    assert OTHER in roster.met, "who came last"
    assert roster.met_total == 101


def test_t15_changes_of_a_link_count_for_a_minute() -> None:
    roster = a_roster(clone_alternations_per_minute_max=3)
    assert not any(roster.note_change(OTHER, 21.0 * number) for number in range(50))
    assert [roster.note_change(OTHER, 2000.0 + 19 * number) for number in range(4)] == [False, False, False, True]


def test_t15_changes_are_remembered_of_so_many_peers() -> None:
    roster = a_roster(max_peers=2)
    for number in range(100):
        roster.note_change(PeerId(number.to_bytes(32, "big")), 0.0)
    assert len(roster._changes) == 8
