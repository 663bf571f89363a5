"""Circuits that take turns on one link."""

from __future__ import annotations

import pytest

from p2p.limits import Limits
from p2p.msg import Relay
from p2p.relay.leg import Lane, Leg

LIMITS = Limits()


def legs(count: int, lane: Lane) -> list[Leg]:
    """Circuits with a window of bytes to send each."""
    made = [Leg(lane, number, LIMITS) for number in range(1, count + 1)]
    for leg in made:
        assert leg.took_window(LIMITS.relay_window_bytes)
        leg.put(bytes([leg.circuit]) * LIMITS.relay_window_bytes)
    return made


def round_of(lane: Lane, count: int) -> list[Relay]:
    return [Relay.decode(lane.take()) for _ in range(count)]


def test_a_lane_wakes_whoever_takes_from_it_once_there_is_something_and_again_when_it_was_empty() -> None:
    woken: list[int] = []
    lane = Lane(lambda: woken.append(len(lane.turns or ())), lambda leg: None)
    first, second = Leg(lane, 1, LIMITS), Leg(lane, 2, LIMITS)
    first.grant(1)
    second.grant(1)
    first.grant(2)
    assert woken == [1]
    assert [Relay.decode(lane.take()).circuit for _ in range(2)] == [1, 2]
    assert not lane
    second.grant(1)
    assert woken == [1, 1]


@pytest.mark.parametrize("count", [1, 2, 5, 16, 32])
def test_a_round_of_all_circuits_is_short_however_many_there_are(count: int) -> None:
    lane = Lane(lambda: None, lambda leg: None)
    legs(count, lane)
    slices = round_of(lane, count)
    assert [message.circuit for message in slices] == list(range(1, count + 1))
    together = sum(len(message.payload) for message in slices)
    assert together <= max(LIMITS.relay_slice_bytes_max, count * LIMITS.relay_slice_bytes_min)
    assert all(len(message.payload) >= LIMITS.relay_slice_bytes_min for message in slices)


def test_who_is_alone_again_has_whole_slices_and_no_byte_is_lost() -> None:
    lane = Lane(lambda: None, lambda leg: None)
    legs(3, lane)
    said: dict[int, bytes] = {1: b"", 2: b"", 3: b""}
    sizes = []
    while lane:
        message = Relay.decode(lane.take())
        said[message.circuit] += message.payload
        sizes.append(len(message.payload))
    assert said == {number: bytes([number]) * LIMITS.relay_window_bytes for number in said}
    assert sizes[0] == LIMITS.relay_slice_bytes_max // 3
