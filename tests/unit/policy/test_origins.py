"""Which origins are admitted, and that a crowd of made-up ones leaves room for real ones."""

from __future__ import annotations

from dataclasses import replace

from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.policy.origins import OriginAdmission

OWN = PeerId(bytes(32))


def peer(number: int) -> PeerId:
    return PeerId(number.to_bytes(32, "big"))


def admission(*, trusted: frozenset[PeerId] | None = None, members: bool = False, **bounds: int) -> OriginAdmission:
    limits = replace(Limits(), **bounds)  # type: ignore[arg-type]  # every bound used here is an int
    return OriginAdmission(OWN, limits, trusted=trusted, members_introduce=members)


def test_own_log_is_always_admitted() -> None:
    assert admission(trusted=frozenset()).admit(OWN, peer(1))


def test_a_trust_list_admits_its_names_only() -> None:
    rule = admission(trusted=frozenset({peer(1)}), members=True)
    rule.prove(peer(2))
    assert rule.admit(peer(1), peer(9))
    assert not rule.admit(peer(2), peer(2))
    assert rule.is_unlimited(peer(1)) and not rule.is_unlimited(peer(2))


def test_open_nodes_keep_only_logs_of_whom_they_met() -> None:
    rule = admission()
    assert not rule.admit(peer(2), peer(1))
    rule.prove(peer(2))
    assert rule.admit(peer(2), peer(1))


def test_T41_one_member_introduces_no_more_than_its_share() -> None:
    rule = admission(members=True, introduced_origins_per_peer_max=3, origins_max=100)
    admitted = [rule.admit(peer(number), peer(1)) for number in range(10, 20)]
    assert admitted == [True] * 3 + [False] * 7
    assert rule.admit(peer(50), peer(2)), "another member still may"


def test_T41_half_of_the_slots_stay_for_those_who_proved_themselves() -> None:
    rule = admission(members=True, introduced_origins_per_peer_max=100, origins_max=10)
    assert sum(rule.admit(peer(number), peer(number % 7)) for number in range(100, 200)) == 5
    for number in range(1, 6):
        rule.prove(peer(number))
        assert rule.admit(peer(number), peer(number))
        rule.settle(peer(number), peer(number), held=True)
    rule.prove(peer(77))
    assert not rule.admit(peer(77), peer(77)), "all ten slots are taken"
    assert len(rule) == 10


def test_a_handshake_frees_the_introducers_share() -> None:
    rule = admission(members=True, introduced_origins_per_peer_max=1, origins_max=100)
    assert rule.admit(peer(5), peer(1)) and not rule.admit(peer(6), peer(1))
    rule.prove(peer(5))
    assert rule.admit(peer(6), peer(1))


def test_forgetting_frees_the_slot() -> None:
    rule = admission(members=True, introduced_origins_per_peer_max=1)
    assert rule.admit(peer(5), peer(1))
    rule.forget(peer(5))
    assert rule.admit(peer(6), peer(1)) and not rule.admit(peer(5), peer(1))


def test_what_the_store_holds_stays_admitted() -> None:
    rule = admission()
    rule.seed([peer(3), OWN], lambda _origin: False)
    assert rule.admit(peer(3), peer(9)) and len(rule) == 1


def test_what_is_left_alone_is_remembered_until_it_is_kept() -> None:
    rule = admission()
    assert not rule.admit(peer(2), peer(1)) and not rule.admit(peer(3), peer(1))
    assert rule.left_alone == {peer(2), peer(3)}
    rule.prove(peer(2))
    assert rule.left_alone == {peer(3)}
    assert "network key" in rule.until
    assert "trust list" in admission(trusted=frozenset()).until


def test_T41_made_up_origins_do_not_fill_the_memory_of_what_is_left_alone() -> None:
    rule = admission(origins_max=10)
    assert not any(rule.admit(peer(number), peer(1)) for number in range(2, 100))
    assert len(rule.left_alone) == 10


def test_a_log_that_was_left_alone_for_want_of_room_is_kept_once_there_is_some() -> None:
    rule = admission(members=True, introduced_origins_per_peer_max=1)
    assert rule.admit(peer(5), peer(1)) and not rule.admit(peer(6), peer(1))
    assert "room" in rule.until
    rule.prove(peer(5))
    assert rule.admit(peer(6), peer(1))
    assert rule.left_alone == set()


def test_T41_an_origin_that_nobody_signed_for_costs_no_slot() -> None:
    rule = admission(members=True, introduced_origins_per_peer_max=3, origins_max=100)
    for number in range(10, 50):
        assert rule.admit(peer(number), peer(1)), "forged pushes are judged one after the other"
        rule.settle(peer(number), peer(1), held=False)
    assert len(rule) == 0


def test_T41_nothing_is_counted_of_logs_that_a_trust_list_decides_nor_of_the_own_one() -> None:
    listed = admission(trusted=frozenset({peer(1)}))
    listed.settle(peer(1), peer(9), held=True)
    members = admission(members=True)
    members.settle(OWN, peer(9), held=True)
    assert len(listed) == len(members) == 0
    assert listed.admit(peer(1), peer(9)) and members.admit(OWN, peer(9))


def test_T41_pushes_that_are_still_being_judged_count() -> None:
    rule = admission(members=True, introduced_origins_per_peer_max=3, origins_max=100)
    assert [rule.admit(peer(number), peer(1)) for number in range(10, 14)] == [True] * 3 + [False]
    assert rule.admit(peer(10), peer(1))
    rule.settle(peer(10), peer(1), held=False)
    assert not rule.admit(peer(14), peer(1)), "another push of it is still being judged"
    rule.settle(peer(10), peer(1), held=True)
    rule.settle(peer(11), peer(1), held=False)
    assert rule.admit(peer(14), peer(1))
    assert rule.admit(peer(10), peer(1))
    rule.settle(peer(10), peer(1), held=False)
    assert rule.admit(peer(10), peer(2)), "what is held stays"


def test_t41_what_the_store_holds_of_whom_we_met_takes_no_introduced_slot() -> None:
    met = {peer(number) for number in range(1, 8)}
    rule = admission(members=True, origins_max=10)
    rule.seed(met, met.__contains__)
    assert rule.admit(peer(50), peer(1)), "all of them proved themselves in an earlier run"
    rule = admission(members=True, origins_max=10)
    rule.seed(met, lambda _origin: False)
    assert not rule.admit(peer(50), peer(1)), "half of the slots stay free"


def test_t41_who_proved_himself_and_wrote_nothing_gives_way() -> None:
    rule = admission(origins_max=4)
    for number in range(1, 5):
        rule.prove(peer(number))
    assert rule.admit(peer(1), peer(1))
    rule.settle(peer(1), peer(1), held=True)
    for number in range(5, 100):
        rule.prove(peer(number))
        assert rule.admit(peer(number), peer(number))
        assert len(rule) == 4
    assert rule.admit(peer(1), peer(2)), "whose log is held stays"
    assert rule.admit(peer(3), peer(3)), "who is on the link is proven, however long ago that was"
    assert not rule.admit(peer(2), peer(3))


def test_the_store_is_taken_over_again_without_effect_for_whom_we_met() -> None:
    rule = admission()
    rule.prove(peer(1))
    rule.seed([OWN, peer(1)], lambda _: False)
    assert rule.admit(peer(1), peer(9))
