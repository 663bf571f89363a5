"""What waited on circuits that broke."""

from __future__ import annotations

from dataclasses import replace

from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.node.carried_over import CarriedOver

PEERS = [PeerId(bytes([number]) * 32) for number in range(5)]


def test_it_is_taken_once() -> None:
    carried = CarriedOver(Limits())
    assert carried.keep(PEERS[0], (b"a", b"b")) is not None
    assert carried.take(PEERS[1]) == ()
    assert carried.take(PEERS[0]) == (b"a", b"b")
    assert carried.take(PEERS[0]) == ()
    assert len(carried) == 0


def test_who_keeps_it_is_told_when_it_is_taken_and_only_then() -> None:
    carried = CarriedOver(Limits())
    early = carried.keep(PEERS[0], (b"a",))
    assert early is not None and not early.is_set()
    carried.take(PEERS[0])
    later = carried.keep(PEERS[0], (b"b",))
    assert later is not None
    assert (early.is_set(), later.is_set()) == (True, False)


def test_there_is_room_for_as_many_as_may_be_connected() -> None:
    carried = CarriedOver(replace(Limits(), max_peers=3))
    assert [carried.keep(peer, (b"x",)) is not None for peer in PEERS] == [True, True, True, False, False]
    assert carried.keep(PEERS[0], (b"y",)) is None
    assert carried.take(PEERS[0]) == (b"x",)
