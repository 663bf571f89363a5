"""The four lanes: order, fairness, bounds."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import msg
from p2p.limits import KIB, Limits
from p2p.peer.outbox import Outbox
from p2p.session.session import INNER_OVERHEAD_BYTES, Session
from tests.unit.session.helpers import bodies, drain, live


class Drained:
    """Takes what an outbox hands over, as a session would."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, bytes, int]] = []

    def send(self, type: int, payload: bytes, flags: int = 0) -> int:
        self.taken.append((type, payload, flags))
        return len(self.taken)

    def send_row(self, payloads: list[bytes], *, alike: bool = False) -> int:
        assert not alike or len(set(map(len, payloads))) == 1
        self.taken += [(259, payload, 0) for payload in payloads]
        return sum(map(len, payloads))


def test_control_goes_before_everything_that_waited_longer() -> None:
    outbox, drained = Outbox(Limits()), Drained()
    outbox.put_data(b"data")
    outbox.put_wal(10, b"wal")
    outbox.put_control(11, b"ack")
    outbox.drain(drained, KIB)
    assert drained.taken[0] == (11, b"ack", 0)
    assert sorted(drained.taken[1:]) == [(10, b"wal", 0), (259, b"data", 0)]
    assert not outbox and outbox.data_bytes == outbox.wal_bytes == 0


def test_bulk_wal_and_chatty_data_take_turns() -> None:
    outbox, drained = Outbox(Limits()), Drained()
    for _number in range(8):
        outbox.put_wal(10, bytes(32 * KIB))
        for _ in range(64):
            outbox.put_data(bytes(KIB))
    for _ in range(8):
        outbox.drain(drained, 64 * KIB)
    data_bytes = sum(len(payload) for type, payload, _ in drained.taken if type == 259)
    wal_bytes = sum(len(payload) for type, payload, _ in drained.taken if type == 10)
    assert 0.5 <= data_bytes / wal_bytes <= 2, "neither lane starves"


def test_each_lane_keeps_its_order() -> None:
    outbox, drained = Outbox(Limits()), Drained()
    for number in range(50):
        outbox.put_data(b"d%03d" % number)
        outbox.put_wal(10, b"w%03d" % number)
    while outbox:
        outbox.drain(drained, 16)
    for type in (259, 10):
        lane = [payload for kind, payload, _ in drained.taken if kind == type]
        assert lane == sorted(lane) and len(lane) == 50


def test_an_empty_lane_takes_one_message_of_any_size_that_fits_a_frame() -> None:
    outbox = Outbox(Limits())
    assert not outbox.put_data(bytes(Limits().frame_bytes_max))
    assert outbox.put_data(bytes(900 * KIB))
    assert not outbox.put_data(b"x")


@given(st.lists(st.integers(min_value=0, max_value=3000), max_size=200))
def test_T22_the_bounds_hold_whatever_is_put(sizes: list[int]) -> None:
    limits = replace(Limits(), outbox_bytes_max=20_000, outbox_messages_max=30, outbox_high_water_bytes=10_000)
    outbox = Outbox(limits)
    taken = [size for size in sizes if outbox.put_data(bytes(size))]
    assert outbox.data_messages == len(taken) <= 30
    assert outbox.data_bytes == sum(taken) <= 20_000
    if len(taken) < len(sizes):
        assert len(taken) == 30 or sum(taken) >= 10_000, "nothing is refused below the high-water mark"
    assert outbox.clear() == len(taken)
    assert not outbox
    assert outbox.data_bytes == 0


def test_T22_as_many_messages_as_the_bound_says_wait_and_no_other_however_small() -> None:
    outbox = Outbox(replace(Limits(), outbox_messages_max=30))
    assert [outbox.put_data(b"") for _ in range(32)] == [True] * 30 + [False] * 2


def test_T22_answers_that_nobody_takes_are_bounded_in_number_and_bytes() -> None:
    limits = replace(Limits(), outbox_control_messages_max=3, outbox_control_bytes_max=1000)
    outbox, drained = Outbox(limits), Drained()
    assert [outbox.put_control(11, b"ack") for _ in range(5)] == [True, True, True, False, False]
    outbox.drain(drained, KIB)
    assert [outbox.put_control(260, bytes(600)) for _ in range(3)] == [True, True, False]
    outbox.drain(drained, 600)
    assert outbox.put_control(260, bytes(600))
    assert not outbox.put_control(260, b"")
    outbox.clear()
    assert outbox.put_control(260, b"")
    assert len(drained.taken) == 4


def test_clearing_counts_lost_application_messages_only() -> None:
    outbox = Outbox(Limits())
    outbox.put_control(11, b"x")
    outbox.put_wal(10, b"y")
    outbox.put_data(b"z")
    assert outbox.clear() == 1


class Ask:
    """A request; whoever asked may have given it up."""

    def __init__(self, *, is_over: bool = False) -> None:
        self.is_over = is_over
        self.ids: list[int] = []

    def sent(self, msg_id: int) -> None:
        self.ids.append(msg_id)


def test_a_request_that_nobody_waits_for_any_more_is_not_sent_and_gives_its_room_back() -> None:
    outbox, drained = Outbox(Limits()), Drained()
    given_up, open_ = Ask(is_over=True), Ask()
    outbox.put_data(b"given up", given_up)
    outbox.put_data(b"open", open_)
    outbox.drain(drained, KIB)
    assert [payload for _, payload, _ in drained.taken] == [b"open"]
    assert (given_up.ids, open_.ids) == ([], [1])
    assert not outbox and outbox.data_bytes == 0


def test_a_request_that_nobody_waits_for_any_more_is_not_lost_with_its_link() -> None:
    outbox = Outbox(Limits())
    outbox.put_data(b"message")
    outbox.put_data(b"open", Ask())
    outbox.put_data(b"given up", Ask(is_over=True))
    assert outbox.clear() == 2


class Circuits:
    """A relay lane with so many messages of a size."""

    def __init__(self, count: int, size: int) -> None:
        self.turns = [bytes([n % 256]) * size for n in range(count)]

    def __bool__(self) -> bool:
        return bool(self.turns)

    def take(self) -> bytes:
        return self.turns.pop(0)


def test_circuits_data_and_batches_take_turns_and_nobody_starves() -> None:
    outbox, drained = Outbox(Limits()), Drained()
    outbox.relay = Circuits(20, 32 * KIB)
    for _ in range(20):
        outbox.put_wal(10, bytes(32 * KIB))
    for _ in range(7):
        outbox.put_data(bytes(32 * KIB))
    while outbox:
        outbox.drain(drained, 64 * KIB)
    seen = [type for type, _, _ in drained.taken]
    assert (seen.count(258), seen.count(10), seen.count(259)) == (20, 20, 7)
    for start in range(0, 18, 6):
        assert set(seen[start : start + 6]) == {258, 10, 259}


def test_a_relay_lane_that_has_nothing_after_all_ends_its_turn() -> None:
    class Empty(Circuits):
        def take(self) -> bytes:
            self.turns.clear()
            return b""

    outbox, drained = Outbox(Limits()), Drained()
    outbox.relay = Empty(3, 10)
    outbox.drain(drained, 64 * KIB)
    assert drained.taken == []
    assert not outbox


def test_a_write_of_several_bundles_is_joined_in_rows_and_not_message_by_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outbox, (sender, receiver) = Outbox(Limits()), live()
    payloads = [msg.encode_data(b"c", 0, 0, b"%03d" % number * 300) for number in range(260)]
    assert all(outbox.put_data(payload) for payload in payloads)
    monkeypatch.setattr(Session, "send", None)
    for _ in range(2):
        outbox.drain(sender, Limits().relay_write_bytes)
        receiver.receive_data(sender.data_to_send(), 0.0)
    assert not outbox
    assert bodies(drain(receiver)) == [msg.decode_data(payload).body for payload in payloads]


@given(
    steps=st.lists(
        st.tuples(st.just("put"), st.integers(0, 300))
        | st.tuples(st.sampled_from(["ask", "drain", "withdraw"]), st.integers(1, 700)),
        max_size=40,
    )
)
def test_what_is_put_is_drained_in_order_and_counted_however_it_is_cut(steps: list[tuple[str, int]]) -> None:
    outbox, drained, waiting = Outbox(Limits()), Drained(), deque[tuple[bytes, bool]]()
    number = 0
    for what, size in steps:
        if what == "drain":
            before = len(drained.taken)
            outbox.drain(drained, size)
            taken, room = drained.taken[before:], size
            for payload in (payload for _, payload, _ in taken):
                assert room > 0, "it was full"
                assert payload == waiting.popleft()[0]
                room -= len(payload) + INNER_OVERHEAD_BYTES
            assert room <= 0 or not waiting, "more would have fitted"
        elif what == "withdraw":
            assert list(outbox.withdraw()) == [payload for payload, is_asked in waiting if not is_asked]
            waiting = deque(each for each in waiting if each[1])
        else:
            number += 1
            payload = msg.encode_data(b"c", 0, 0, b"%06d" % number + bytes(size))
            assert outbox.put_data(payload, Ask() if what == "ask" else None)
            waiting.append((payload, what == "ask"))
        assert outbox.data_messages == len(waiting)
        assert outbox.data_bytes == sum(len(payload) for payload, _ in waiting)
        assert bool(outbox) == bool(waiting)
    assert outbox.clear() == len(waiting)
