"""What waited on circuits that broke."""

from __future__ import annotations

from dataclasses import replace

from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.node.carried_over import CarriedOver

PEERS = [PeerId(bytes([number]) * 32) for number in range(5)]


def test_it_is_taken_once() -> None:
    carried = CarriedOver(Limits())
    assert carried.keep(PEERS[0], (b"a", b"b"))
    assert carried.take(PEERS[1]) == ()
    assert carried.take(PEERS[0]) == (b"a", b"b")
    assert carried.take(PEERS[0]) == ()
    assert len(carried) == 0


def test_what_is_too_late_is_dropped_and_not_what_came_after_it() -> None:
    carried = CarriedOver(Limits())
    # Alike to look at, and not the same.
    early, later = (bytes(bytearray(b"same")),), (bytes(bytearray(b"same")),)
    carried.keep(PEERS[0], early)
    carried.take(PEERS[0])
    carried.keep(PEERS[0], later)
    assert not carried.drop(PEERS[0], early)
    assert carried.drop(PEERS[0], later)
    assert carried.take(PEERS[0]) == ()


def test_there_is_room_for_as_many_as_may_be_connected() -> None:
    carried = CarriedOver(replace(Limits(), max_peers=3))
    assert [carried.keep(peer, (b"x",)) for peer in PEERS] == [True, True, True, False, False]
    assert not carried.keep(PEERS[0], (b"y",))
    assert carried.take(PEERS[0]) == (b"x",)
