"""Labels and whose they are (wire section 5; T14, T73)."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.policy.pins import PinResult, Pins

ALICE, BOB, MALLORY = (PeerId(bytes([number]) * 32) for number in (1, 2, 3))
LIMITS = Limits()


def pins(strong: dict[str, PeerId] | None = None, weak: dict[str, PeerId] | None = None, **bounds: int) -> Pins:
    return Pins(replace(LIMITS, **bounds), strong=strong or {}, weak=weak or {})


def test_a_first_sight_is_a_weak_pin() -> None:
    table = pins()
    assert table.check("alice", ALICE) is PinResult.PINNED
    assert table.check("alice", ALICE) is PinResult.MATCHED
    assert table.holder("alice") == ALICE
    assert table.label_of(ALICE) == "alice"
    assert table.holder("bob") is None
    assert table.label_of(BOB) is None


def test_t73_a_weak_conflict_admits_the_peer_without_the_label() -> None:
    table = pins()
    table.check("alice", MALLORY)
    verdict = table.check("alice", ALICE)
    assert verdict is PinResult.WITHOUT_LABEL
    assert verdict.is_conflict
    assert not verdict.is_refused
    assert table.holder("alice") == MALLORY


def test_t73_the_real_one_takes_its_label_back_when_it_is_dialled_by_name() -> None:
    table = pins()
    table.check("alice", MALLORY)
    verdict = table.check("alice", ALICE, strong=True)
    assert verdict is PinResult.TAKEN_OVER
    assert not verdict.is_conflict
    assert table.label_of(ALICE) == "alice"
    assert table.label_of(MALLORY) is None
    assert table.check("alice", MALLORY) is PinResult.REFUSED


def test_t14_a_label_on_the_trust_list_is_nobody_elses() -> None:
    table = pins(strong={"alice": ALICE})
    for strong in (False, True):
        verdict = table.check("alice", MALLORY, strong=strong)
        assert verdict is PinResult.REFUSED
        assert verdict.is_conflict
        assert verdict.is_refused
    assert table.check("alice", ALICE) is PinResult.MATCHED


def test_t14_a_dial_to_a_configured_name_pins_strongly() -> None:
    table = pins()
    assert table.check("alice", ALICE, strong=True) is PinResult.PINNED
    assert table.check("alice", MALLORY) is PinResult.REFUSED
    assert table.check("alice", MALLORY, strong=True) is PinResult.REFUSED
    assert table.export() == {}


def test_an_ephemeral_identity_is_judged_and_never_pinned() -> None:
    table = pins(weak={"alice": ALICE})
    assert table.check("bob", BOB, ephemeral=True) is PinResult.UNPINNED
    assert table.check("bob", BOB, strong=True, ephemeral=True) is PinResult.UNPINNED
    assert table.holder("bob") is None
    assert table.check("alice", ALICE, ephemeral=True) is PinResult.MATCHED
    assert table.check("alice", BOB, ephemeral=True) is PinResult.WITHOUT_LABEL


def test_an_identity_has_one_weak_label_so_that_renaming_fills_no_table() -> None:
    table = pins(weak_pins_max=10)
    table.check("alice", ALICE)
    for number in range(100):
        assert table.check(f"mallory-{number}", MALLORY) is PinResult.PINNED
    assert table.export() == {"alice": ALICE, "mallory-99": MALLORY}


def test_beyond_the_bound_the_pin_seen_longest_ago_goes() -> None:
    table = pins(weak={"a": ALICE, "b": BOB}, weak_pins_max=2)
    table.check("a", ALICE)
    table.check("m", MALLORY)
    assert table.export() == {"a": ALICE, "m": MALLORY}
    assert table.label_of(BOB) is None


def test_strong_pins_that_are_learned_are_bounded_too() -> None:
    table = pins(strong={"alice": ALICE}, weak_pins_max=2)
    for number in range(10):
        table.check(f"n{number}", PeerId(bytes([number + 10]) * 32), strong=True)
    assert len(table) <= 1 + 2 + 2
    assert table.check("alice", MALLORY) is PinResult.REFUSED


def test_the_trust_list_wins_over_what_the_store_remembers() -> None:
    table = pins(strong={"alice": ALICE}, weak={"alice": MALLORY, "bob": BOB})
    assert table.holder("alice") == ALICE
    assert table.label_of(MALLORY) is None
    assert table.export() == {"bob": BOB}


def test_a_strong_label_is_shown_before_a_weak_one() -> None:
    table = pins(strong={"alice": ALICE})
    table.check("other-name", ALICE)
    assert table.label_of(ALICE) == "alice"


labels, people = st.sampled_from("abcdef"), st.integers(1, 6).map(lambda number: PeerId(bytes([number]) * 32))


@given(
    st.dictionaries(labels, people, max_size=2),
    st.lists(st.tuples(labels, people, st.booleans(), st.booleans()), max_size=50),
)
def test_t14_in_any_order_a_label_has_one_holder_and_a_strong_holder_keeps_it(
    strong: dict[str, PeerId], steps: list[tuple[str, PeerId, bool, bool]]
) -> None:
    table = pins(strong=strong, weak_pins_max=3)
    for node_id, peer_id, is_strong, ephemeral in steps:
        before = table.holder(node_id)
        verdict = table.check(node_id, peer_id, strong=is_strong, ephemeral=ephemeral)
        assert verdict.is_refused <= verdict.is_conflict
        if verdict.is_conflict:
            assert table.holder(node_id) == before != peer_id
        elif not ephemeral:
            assert table.holder(node_id) == peer_id
        assert all(table.holder(label) == trusted for label, trusted in strong.items())
        exported = table.export()
        assert len(exported) <= 3
        assert len(set(exported.values())) == len(exported)
    again = pins(strong=strong, weak=table.export(), weak_pins_max=3)
    assert again.export() == table.export()


def test_t73_who_holds_a_label_beyond_doubt_is_told_apart() -> None:
    table = pins(strong={"alice": ALICE})
    table.check("bob", BOB)
    assert (table.strong_holder("alice"), table.strong_holder("bob")) == (ALICE, None)
    assert (table.holder("alice"), table.holder("bob")) == (ALICE, BOB)
