"""Circuits by the rules of wire section 7, without streams or time."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import ConnectFailed, Reason, RemoteProtocolError
from p2p.ids import PeerId
from p2p.limits import KIB, Limits
from p2p.msg import Relay
from p2p.relay.end import CircuitEnd
from p2p.relay.leg import Lane, Leg
from p2p.relay.neighbour import Neighbour, Neighbours
from p2p.relay.switch import DeadEnd
from tests.unit.relay.chain import Network, peer, read_all, triangle, two_hops

WINDOW = Limits().relay_window_bytes
SLICE = Limits().relay_slice_bytes_max


def send(end: CircuitEnd, data: bytes) -> int:
    return end.send(memoryview(data))


# What it is for.


def test_bytes_travel_both_ways_and_a_close_ends_both_in_order() -> None:
    net = triangle()
    a, b = net.pair("A", "R", "B")
    assert (a.far, a.relay, b.far, b.relay) == (peer("B"), peer("R"), peer("A"), peer("R"))
    assert send(a, b"question") == 8
    assert send(b, b"answer") == 6
    net.settle()
    assert (read_all(b), read_all(a)) == (b"question", b"answer")
    send(a, b"last words")
    a.close()
    net.settle()
    assert not b.is_finished or b.read(100) == b"last words"
    assert b.read(100) == b""
    assert send(b, b"too late") == 0
    assert net.is_empty()


def test_nothing_can_be_sent_before_the_other_end_took_the_circuit() -> None:
    net = triangle()
    net.takes = False
    a = net.open("A", "R", "B")
    net.settle()
    assert not a.is_open
    assert send(a, b"x") == 0
    net.incoming["B"][0].take()
    net.settle()
    assert a.is_open
    assert a.room == WINDOW


def test_a_refusal_tells_its_reason() -> None:
    net = triangle()
    net.takes = False
    a = net.open("A", "R", "B")
    net.settle()
    net.incoming["B"][0].abort(Reason.FULL)
    net.settle()
    assert a.reason is Reason.FULL
    assert net.is_empty()


def test_a_chain_of_relays_up_to_the_ttl() -> None:
    names = "A" + "123456789" + "B"
    net = Network(names, relays="123456789")
    for left, right in pairwise(names):
        net.join(left, right)
    for at, hop in zip("1234567", "2345678", strict=False):
        net.routes[at, "B"] = hop
    # Eight links lead from A to the relay 8, nine to 9, ten to B.
    for at, hop in zip("12345678", "23456789", strict=False):
        net.routes[at, "9"] = hop
    a = net.open("A", "1", "8")
    net.routes |= {(at, "8"): hop for at, hop in zip("1234567", "2345678", strict=False)}
    net.settle()
    assert a.is_open
    beyond = net.open("A", "1", "9")
    net.settle()
    assert beyond.reason is Reason.NO_ROUTE
    send(a, b"far")
    net.settle()
    assert net.incoming["8"][0].read(10) == b"far"


def test_t72_wrong_routes_in_a_ring_end_by_the_ttl_and_leave_nothing() -> None:
    net = Network("A0123", relays="0123")
    for pair in ("A0", "01", "12", "23", "31"):
        net.join(*pair)
    net.routes = {("0", "B"): "1", ("1", "B"): "2", ("2", "B"): "3", ("3", "B"): "1"}
    seen: list[int] = []
    net.meddle = lambda _here, _there, message: seen.append(message.ttl) or [message]  # type: ignore[func-returns-value]
    a = net.open("A", "0", "B")
    net.settle()
    assert a.reason is Reason.NO_ROUTE
    assert [ttl for ttl in seen if ttl] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert net.is_empty()


def test_t72_a_ring_that_comes_round_to_the_askers_own_relay_is_no_way_and_only_he_is_told_so() -> None:
    net = Network("A123", relays="123")
    for pair in ("A1", "12", "23", "31"):
        net.join(*pair)
    net.routes = {("1", "B"): "2", ("2", "B"): "3", ("3", "B"): "1"}
    told: list[tuple[str, str, bytes]] = []

    def note(here: str, there: str, message: Relay) -> list[Relay]:
        if message.kind == Relay.REFUSED:
            told.append((here, there, message.payload))
        return [message]

    net.pair("A", "1", "2")
    net.meddle = note
    a = net.open("A", "1", "B")
    net.settle()
    assert a.reason is Reason.NO_ROUTE
    word, none = (int(reason).to_bytes(2, "little") for reason in (Reason.NOT_ADMITTED, Reason.NO_ROUTE))
    assert told == [("1", "3", word), ("3", "2", word), ("2", "1", word), ("1", "A", none)]
    assert [passage.came_round for passage in net.switches["1"]._passages] == [False], "the other one is left alone"


def test_a_route_that_leads_back_is_none() -> None:
    net = Network("A12", relays="12")
    net.join("A", "1")
    net.join("1", "2")
    net.routes = {("1", "B"): "2", ("2", "B"): "1"}
    a = net.open("A", "1", "B")
    net.settle()
    assert a.reason is Reason.NO_ROUTE
    assert net.is_empty()


# Windows.


def test_a_sender_stops_at_the_window_and_goes_on_as_it_is_read() -> None:
    net = triangle()
    a, b = net.pair("A", "R", "B")
    assert send(a, bytes(2 * WINDOW)) == WINDOW
    net.settle()
    assert (a.room, b.inbox_bytes) == (0, WINDOW)
    for _ in range(WINDOW // 2 // SLICE):
        assert len(b.read(WINDOW) or b"") == SLICE
    net.wait(1)
    net.settle()
    assert a.room == WINDOW // 2
    assert net.switches["R"].snapshot().relayed_bytes == WINDOW


def test_a_relay_never_keeps_more_than_a_window_of_a_direction() -> None:
    net = triangle()
    a, b = net.pair("A", "R", "B")
    sent = send(a, bytes(WINDOW))
    while net.step("A", "R"):
        pass
    assert sent == WINDOW
    # B takes nothing from its link, and so gives no credit: A has none, whatever R would take.
    assert send(a, b"x") == 0
    net.settle()
    assert b.inbox_bytes == WINDOW


@pytest.mark.parametrize("size", [0, SLICE + 1])
def test_t72_a_slice_of_no_size_ends_the_circuit_only(size: int) -> None:
    net = triangle()
    a, b = net.pair("A", "R", "B")
    other, _ = net.pair("A", "R", "B")
    net.say("A", "R", Relay(2, Relay.DATA, payload=bytes(size)))
    net.settle()
    assert (a.reason, b.reason) == (Reason.PROTOCOL, Reason.PROTOCOL)
    assert other.reason is None
    assert net.switches["R"].snapshot().relayed == 1


def test_t72_overrun_ends_the_circuit_only() -> None:
    net = triangle()
    a, b = net.pair("A", "R", "B")
    other, far = net.pair("A", "R", "B")
    send(a, bytes(WINDOW))
    net.settle()
    net.say("A", "R", Relay(2, Relay.DATA, payload=b"one more"))
    net.settle()
    assert (a.reason, b.reason) == (Reason.PROTOCOL, Reason.PROTOCOL)
    send(other, b"alive")
    net.settle()
    assert read_all(far) == b"alive"


def test_t72_a_relay_that_overruns_ends_the_circuit_at_the_end() -> None:
    net = triangle()
    a, b = net.pair("A", "R", "B")
    for _ in range(WINDOW // SLICE):
        net.say("R", "B", Relay(1, Relay.DATA, payload=bytes(SLICE)))
    assert b.inbox_bytes == WINDOW
    net.say("R", "B", Relay(1, Relay.DATA, payload=b"x"))
    assert b.reason is Reason.PROTOCOL
    net.settle()
    assert a.reason is Reason.PROTOCOL


@pytest.mark.parametrize("payload", [b"", b"\1\0\0", b"\0\0\0\0", b"\1\0\0\0", b"\xff\xff\xff\xff"])
def test_t72_too_much_credit_or_none_ends_the_circuit(payload: bytes) -> None:
    """Else two ends could make a relay keep whatever they like: the one that never reads and gives credit all the same,
    and the one that sends."""
    net = triangle()
    a, b = net.pair("A", "R", "B")
    net.say("B", "R", Relay(1, Relay.WINDOW, payload=payload))
    net.settle()
    assert (a.reason, b.reason) == (Reason.PROTOCOL, Reason.PROTOCOL)
    assert net.is_empty()


def test_t72_credit_for_what_waits_still_is_too_much() -> None:
    leg = Leg(Lane(lambda: None, lambda _leg: None), 1, Limits())
    assert leg.took_window(WINDOW)
    leg.put(bytes(WINDOW))
    assert not leg.took_window(1)
    assert (leg.credit, leg.queued_bytes) == (0, WINDOW)


def test_circuits_of_one_link_take_turns_and_none_speaks_until_it_has_nothing_to_say() -> None:
    lane = Lane(lambda: None, lambda _leg: None)
    for number in (1, 2):
        leg = Leg(lane, number, Limits())
        assert leg.took_window(WINDOW)
        leg.put(bytes(WINDOW))
    said = [Relay.decode(message).circuit for message in iter(lane.take, b"")]
    assert said == [1, 2] * (2 * WINDOW // Limits().relay_slice_bytes_max)


def test_t72_two_ends_in_league_cannot_fill_a_relay() -> None:
    net = triangle()
    a, _ = net.pair("A", "R", "B")
    for _ in range(100):
        send(a, bytes(WINDOW))
        while net.step("A", "R"):
            pass
        net.say("B", "R", Relay(1, Relay.WINDOW, payload=(WINDOW // 2).to_bytes(4, "little")))
        if a.reason is not None:
            break
        while net.step("R", "A"):
            pass
    assert a.reason is Reason.PROTOCOL
    assert net.switches["R"].snapshot().relayed_bytes == WINDOW


# Who may open what.


def test_t72_a_forged_source_ends_the_link() -> None:
    net = triangle()
    with pytest.raises(RemoteProtocolError, match="asked for by"):
        net.say("A", "R", Relay(2, Relay.OPEN, str(peer("Z")), str(peer("B")), 8))


def test_a_relay_may_pass_on_what_others_asked_for_but_not_as_the_first() -> None:
    net = Network("R2B", relays="R2")
    net.join("R", "2")
    net.join("2", "B")
    net.meddle = lambda _here, there, message: [message] if there != "R" else []  # R did not really ask
    net.say("R", "2", Relay(2, Relay.OPEN, str(peer("A")), str(peer("B")), 7))
    net.settle()
    assert net.incoming["B"][0].far == peer("A")
    with pytest.raises(RemoteProtocolError, match="asked for by"):
        net.say("R", "2", Relay(4, Relay.OPEN, str(peer("A")), str(peer("B")), 8))


@pytest.mark.parametrize(
    "message",
    [
        Relay(1, Relay.OPEN, str(peer("A")), str(peer("B")), 8),
        Relay(0, Relay.OPEN, str(peer("A")), str(peer("B")), 8),
        Relay(2, Relay.OPEN, "A", str(peer("B")), 8),
        Relay(2, Relay.OPEN, str(peer("A")), "B", 8),
        Relay(2, Relay.OPEN, str(peer("A")), str(peer("B")), 9),
        Relay(2, Relay.OPEN, str(peer("A")), str(peer("B")), 8, b"more"),
        Relay(2, Relay.DATA, payload=b"x"),
        Relay(1, Relay.DATA, payload=b"x"),
        Relay(2, Relay.CLOSE),
        Relay(2**64 - 2, Relay.WINDOW, payload=b"\1\0\0\0"),
    ],
)
def test_t72_what_no_honest_neighbour_says_ends_the_link(message: Relay) -> None:
    net = triangle()
    with pytest.raises(RemoteProtocolError):
        net.say("A", "R", message)
    assert net.is_empty()


def test_t72_a_number_is_used_once() -> None:
    net = triangle()
    a, _ = net.pair("A", "R", "B")
    a.close()
    net.settle()
    with pytest.raises(RemoteProtocolError, match="only grow"):
        net.say("A", "R", Relay(2, Relay.OPEN, str(peer("A")), str(peer("B")), 8))


def test_what_crosses_the_end_of_a_circuit_is_passed_over_and_counted() -> None:
    net = triangle()
    a, b = net.pair("A", "R", "B")
    send(b, b"on its way")
    a.abort(Reason.DISCONNECTED)
    net.settle()
    assert b.reason is Reason.DISCONNECTED
    assert net.switches["R"].snapshot().strays + net.switches["A"].snapshot().strays == 1
    assert net.is_empty()


@pytest.mark.parametrize(("target", "reason"), [("Z", Reason.NO_ROUTE), ("A", Reason.NO_ROUTE), ("R", Reason.MOVED)])
def test_no_way_and_a_circuit_to_a_neighbour_are_refused(target: str, reason: Reason) -> None:
    net = triangle()
    answers: list[Relay] = []
    net.meddle = lambda _here, _there, message: answers.append(message) or []  # type: ignore[func-returns-value]
    net.say("A", "R", Relay(2, Relay.OPEN, str(peer("A")), str(peer(target)), 8))
    net.settle()
    assert answers == [Relay(2, Relay.REFUSED, payload=int(reason).to_bytes(2, "little"))]
    assert net.switches["R"].snapshot().refused_total == 1


def test_a_node_that_does_not_relay_refuses_and_is_not_asked() -> None:
    net = Network("ANB")
    net.join("A", "N")
    net.join("B", "N")
    with pytest.raises(ConnectFailed) as caught:
        net.open("A", "N", "B")
    assert caught.value.reason is Reason.NO_ROUTE
    with pytest.raises(ConnectFailed):
        net.open("A", "X", "B")
    answers: list[Relay] = []
    net.meddle = lambda _here, _there, message: answers.append(message) or []  # type: ignore[func-returns-value]
    net.say("A", "N", Relay(2, Relay.OPEN, str(peer("A")), str(peer("B")), 8))
    net.settle()
    assert answers == [Relay(2, Relay.REFUSED, payload=int(Reason.NOT_ADMITTED).to_bytes(2, "little"))]


def test_t72_circuits_are_counted_per_pair_per_peer_and_in_all() -> None:
    limits = replace(Limits(), relay_circuits_per_pair_max=2, relay_circuits_per_peer_max=3, relay_circuits_max=4)
    net = Network("ARBCDE", relays="R", limits=limits)
    for name in "ABCDE":
        net.join(name, "R")

    def opened(source: str, target: str) -> Reason | None:
        end = net.open(source, "R", target)
        net.settle()
        return end.reason

    assert [opened("A", "B") for _ in range(3)] == [None, None, Reason.FULL]
    assert opened("A", "C") is None
    with pytest.raises(ConnectFailed, match="3 circuits"):
        net.open("A", "R", "D")
    assert opened("C", "B") is None
    assert opened("D", "E") is Reason.FULL
    net.part("A", "R")
    net.settle()
    assert opened("D", "E") is None


def test_t72_who_renews_his_link_again_and_again_has_twice_as_many_circuits_and_no_more() -> None:
    limits = replace(Limits(), relay_circuits_per_pair_max=2, relay_circuits_per_peer_max=5)
    net = Network("ARBCD", relays="R", limits=limits)
    for name in "ARBCD".replace("R", ""):
        net.join(name, "R")
    for _ in range(6):
        for _ in range(3):
            net.open("A", "R", "B")
            net.settle()
        # The older link stays, and so do its circuits.
        net.join("A", "R")
    assert net.switches["R"].snapshot().relayed == 2 * 2
    for target in "CD":
        for _ in range(6):
            for _ in range(3):
                with suppress(ConnectFailed):
                    net.open("A", "R", target)
                    net.settle()
            net.join("A", "R")
    assert net.switches["R"].snapshot().relayed == 2 * 5


def test_t72_who_renews_his_link_asks_no_more_often() -> None:
    net = triangle()
    opened = 0
    for _ in range(10):
        for _ in range(20):
            end = net.open("A", "R", "B")
            net.settle()
            opened += end.reason is None
            end.abort(Reason.DISCONNECTED)
            net.settle()
        net.part("A", "R")
        net.join("A", "R")
    assert opened == Limits().relay_openings_burst


def test_a_relay_remembers_as_many_neighbours_that_are_gone_as_may_be_there() -> None:
    neighbours, left = Neighbours(replace(Limits(), max_peers=3)), list[Neighbour]()
    for number in range(10):
        came = neighbours.link_up(PeerId(bytes([number]) * 32))
        assert neighbours.link_up(came.peer_id) is came
        neighbours.link_down(came)
        assert came.links == 1
        if number % 2:
            neighbours.link_down(came)
            left.append(came)
    # Those who are still here take no place of those who left.
    assert [neighbours.link_up(one.peer_id) is one for one in left] == [False, False, True, True, True]


def test_t72_a_flood_of_openings_leaves_nothing_behind() -> None:
    net = triangle()
    net.meddle = lambda here, _there, message: [message] if here != "R" else []  # A forgot what it asked for
    for number in range(2, 4000, 2):
        net.say("A", "R", Relay(number, Relay.OPEN, str(peer("A")), str(peer("Z")), 8))
    net.settle()
    assert net.is_empty()
    assert net.switches["R"].snapshot().refused_total == 1999


def test_t72_who_asks_and_gives_up_uses_up_nothing_of_others() -> None:
    net = Network("AXRB", relays="R")
    for name in "AXB":
        net.join(name, "R")
    asked = 0
    for _ in range(100):
        x = net.open("X", "R", "B")
        net.settle()
        asked += x.is_open
        x.abort(Reason.DISCONNECTED)
        net.settle()
    assert asked == len(net.incoming["B"]) == Limits().relay_openings_burst
    assert x.reason is Reason.OVERLOADED
    net.pair("A", "R", "B")
    net.wait(1)
    net.pair("X", "R", "B")


def test_circuits_in_which_the_target_spoke_are_opened_as_often_as_one_likes() -> None:
    net = triangle()
    for _ in range(100):
        a, b = net.pair("A", "R", "B")
        for word in (b"welcome", b"as you proved who you are"):
            send(b, word)
            net.settle()
        a.close()
        net.settle()
    assert net.is_empty()


def test_t72_a_relay_asks_for_many_and_each_of_them_is_counted() -> None:
    net = Network("R2BX", relays="R2")
    net.join("R", "2")
    net.join("2", "B")
    net.join("2", "X")
    answers: list[Reason] = []

    def overhear(here: str, there: str, message: Relay) -> list[Relay]:
        if there == "R" and message.kind == Relay.REFUSED:
            answers.append(Reason(int.from_bytes(message.payload, "little")))
        return [message] if there != "R" else []

    net.meddle = overhear
    number = 0

    def ask(source: PeerId) -> None:
        nonlocal number
        number += 2
        net.say("R", "2", Relay(number, Relay.OPEN, str(source), str(peer("B")), 7))
        net.settle()
        if net.incoming["B"]:
            net.incoming["B"].pop().abort(Reason.FULL)
            net.settle()

    # Somebody who is connected here speaks for himself.
    ask(peer("X"))
    assert answers == [Reason.NOT_ADMITTED]
    # In the name of one who is not: half of what a target grants a source over one relay.
    for _ in range(Limits().relay_openings_named_burst + 1):
        ask(peer("A"))
    assert answers[-2:] == [Reason.FULL, Reason.OVERLOADED]
    assert Limits().relay_openings_named_burst * 2 <= Limits().prefix_burst
    ask(peer("C"))
    assert answers[-1] is Reason.FULL
    # And of all whom it names together, half of what the target grants this relay.
    for each in range(Limits().relay_openings_burst):
        ask(PeerId(bytes([1, each]).ljust(32)))
    assert answers[-1] is Reason.OVERLOADED
    assert Limits().relay_openings_burst * 2 <= Limits().relay_incoming_burst


def test_t72_an_answer_to_a_first_message_does_not_show_that_an_asker_proved_himself() -> None:
    net = triangle()
    opened = 0
    for _ in range(100):
        a = net.open("A", "R", "B")
        net.settle()
        if a.is_open:
            opened += 1
            send(net.incoming["B"][-1], b"an answer to whoever asks")
            net.settle()
        a.abort(Reason.DISCONNECTED)
        net.settle()
    assert opened == Limits().relay_openings_burst


def test_circuits_stay_on_a_link_that_gives_way_and_who_opened_one_is_asked_to_move() -> None:
    net = Network("AR2B", relays="R2")
    for dialer, acceptor in (("A", "R"), ("R", "2"), ("2", "B")):
        net.join(dialer, acceptor)
    net.routes["R", "B"] = "2"
    a, b = net.pair("A", "R", "B")
    for here, there in (("A", "R"), ("R", "2"), ("2", "B")):
        for one, other in ((here, there), (there, here)):
            net.switches[one].gives_way(net._keys[one, other])
        net.settle()
        # Nobody but the opener hears of it, and he does once.
        assert net.moving == [a]
        send(a, b"still")
        send(b, b"here")
        net.settle()
        assert (read_all(b), read_all(a)) == (b"still", b"here")
        assert net.lanes[here, there].legs == 1
    a.close()
    net.settle()
    assert [lane.legs for lane in net.lanes.values()] == [0] * 6
    assert net.is_empty()


def test_t72_a_target_that_asks_to_move_without_end_does_not_make_the_relay_ask_so() -> None:
    net = triangle()
    net.pair("A", "R", "B")
    passage = next(iter(net.switches["R"]._passages))
    asked = []
    for _ in range(10):
        net.say("B", "R", Relay(passage.sides[1].leg.circuit, Relay.MOVE))
        asked.append(passage.sides[0].leg.has_message)
        net.settle()
    assert asked == [True] + 9 * [False]


def test_a_wish_to_move_a_circuit_that_is_over_on_the_other_side_is_passed_over() -> None:
    net = triangle()
    a, _ = net.pair("A", "R", "B")
    outlet = next(iter(net.switches["R"]._passages)).sides[1]
    a.close()
    assert net.step("A", "R")
    net.say("B", "R", Relay(outlet.leg.circuit, Relay.MOVE))
    assert net.switches["R"].snapshot().strays == 1
    net.settle()
    assert net.is_empty()


def test_a_sign_of_life_is_a_byte_of_the_credit_that_is_due() -> None:
    net = triangle()
    a, b = net.pair("A", "R", "B")
    a.send(b"ab")
    net.settle()
    b.show_life()
    assert not net.lanes["B", "R"], "nothing is due"
    b.read(2)
    for _ in range(3):
        b.show_life()
    message = Relay.decode(net.lanes["B", "R"].take())
    assert (message.kind, message.payload) == (Relay.WINDOW, b"\x02\0\0\0")
    assert not net.lanes["B", "R"]


def test_t72_who_was_called_cannot_be_asked_to_move() -> None:
    net = triangle()
    a, b = net.pair("A", "R", "B")
    number = next(iter(net.switches["B"]._by_peer[peer("R")].sides))
    net.say("R", "B", Relay(number, Relay.MOVE))
    net.settle()
    assert (b.reason, a.reason) == (Reason.PROTOCOL, Reason.PROTOCOL)
    a, b = net.pair("A", "R", "B")
    number = next(iter(net.switches["A"]._by_peer[peer("R")].sides))
    net.say("A", "R", Relay(number, Relay.MOVE))
    net.settle()
    assert (b.reason, a.reason) == (Reason.PROTOCOL, Reason.PROTOCOL)
    assert net.is_empty()


def test_t72_a_crowd_that_opens_and_says_nothing_leaves_room_for_others() -> None:
    net = Network("RPQSAB", relays="R", limits=replace(Limits(), relay_circuits_per_peer_max=8))
    for name in "PQSAB":
        net.join(name, "R")

    def opened(name: str) -> bool:
        end = net.open(name, "R", "B")
        net.settle()
        return end.reason is None

    assert [sum(opened(name) for _ in range(5)) for name in "PQS"] == [4, 1, 1]
    _, b = net.pair("A", "R", "B")
    assert not opened("A")
    for _ in range(2):
        b.send(b"an answer")
        net.settle()
    assert opened("A")


def test_t72_one_neighbour_that_relays_leaves_the_others_half_of_a_targets_circuits() -> None:
    net = Network("XRBA", relays="XR")
    for name in "XBA":
        net.join(name, "R")
    net.meddle = lambda _here, there, message: [message] if there != "X" else []
    for number in range(2, 66, 2):
        net.say("X", "R", Relay(number, Relay.OPEN, str(peer(chr(200 + number))), str(peer("B")), 7))
        net.settle()
    assert len(net.incoming["B"]) == Limits().relay_circuits_per_asker_max
    net.pair("A", "R", "B")


def test_two_relays_share_a_link_for_all_who_are_behind_them() -> None:
    net = Network("RS2B", relays="RS2")
    for name in "RSB":
        net.join(name, "2")
    net.routes["2", "C"] = "S"
    net.meddle = lambda _here, there, message: [message] if there not in "RS" else []
    for number in range(2, 66, 2):
        net.say("R", "2", Relay(number, Relay.OPEN, str(peer(chr(200 + number))), str(peer("C")), 7))
        net.settle()
    assert net.switches["2"].snapshot().relayed == Limits().relay_circuits_per_peer_max


def test_the_hops_that_a_route_allows_are_those_from_the_relay_that_has_it() -> None:
    net = two_hops()
    net.route_ttl = 1
    a = net.open("A", "1", "B")
    net.settle()
    assert a.reason is Reason.NO_ROUTE
    net.route_ttl = 2
    net.pair("A", "1", "B")


def test_t72_a_relay_that_leads_nowhere_is_noted_with_the_hops_that_it_had() -> None:
    net = Network("A12B", relays="12")
    for pair in ("A1", "12", "1B"):
        net.join(*pair)
    net.routes["1", "Z"] = "2"
    for ttl in (8, 2):
        a = net.open("A", "1", "Z", ttl)
        net.settle()
        assert a.reason is Reason.NO_ROUTE
    no_route = [DeadEnd(peer("Z"), peer("2"), ttl, Reason.NO_ROUTE) for ttl in (7, 1)]
    assert net.dead_ends["1"] == no_route
    # Of a target that refuses there is nothing to note, whatever it says; nor of a circuit that was taken.
    net.takes = False
    a = net.open("A", "1", "B")
    net.settle()
    net.incoming["B"][0].abort(Reason.NO_ROUTE)
    net.settle()
    assert (a.reason, len(net.dead_ends["1"])) == (Reason.NO_ROUTE, 2)


@pytest.mark.parametrize(
    ("reason", "after_s", "noted"),
    [
        (Reason.FULL, 0.0, Reason.FULL),
        (Reason.OVERLOADED, 0.0, Reason.OVERLOADED),
        (None, 0.0, None),
        (None, Limits().relay_answer_s_max, Reason.TIMEOUT),
        (None, Limits().relay_open_s_max, Reason.TIMEOUT),
    ],
    ids=["full", "overloaded", "given up at once", "given up later", "never answered"],
)
def test_t72_a_relay_at_the_second_hop_that_refuses_or_says_nothing_is_noted(
    reason: Reason | None, after_s: float, noted: Reason | None
) -> None:
    net = two_hops()
    net.takes = False
    a = net.open("A", "1", "B")
    net.settle()
    net.wait(after_s)
    if reason is not None:
        net.incoming["B"][0].abort(reason)
    elif after_s < Limits().relay_open_s_max:
        a.abort(Reason.DISCONNECTED)
    net.settle()
    expected = [] if noted is None else [DeadEnd(peer("B"), peer("2"), 7, noted)]
    assert net.dead_ends["1"] == expected
    assert not net.dead_ends["2"], "it passed the circuit on to the target itself"


def test_a_target_that_proved_itself_and_ends_the_circuit_says_nothing_of_the_way() -> None:
    net = two_hops()
    _, b = net.pair("A", "1", "B")
    for _ in range(2):
        send(b, b"of a handshake")
        net.settle()
    b.abort(Reason.OVERLOADED)
    net.settle()
    assert not net.dead_ends["1"]


@pytest.mark.parametrize(("answers", "is_noted"), [(1, True), (2, False)])
def test_t72_a_relay_at_the_second_hop_behind_which_nobody_proves_himself_is_noted(
    answers: int, is_noted: bool
) -> None:
    net = two_hops()
    a, b = net.pair("A", "1", "B")
    for _ in range(answers):
        send(b, b"of a handshake")
        net.settle()
    a.abort(Reason.ABNORMAL)
    net.settle()
    assert (net.dead_ends["1"] == [DeadEnd(peer("B"), peer("2"), 7, Reason.TIMEOUT)]) is is_noted


@pytest.mark.parametrize(
    ("silent_s", "end", "is_noted"),
    [
        (Limits().relay_answer_s_max, lambda end: end.abort(Reason.ABNORMAL), True),
        (Limits().relay_answer_s_max, lambda end: end.close(), False),
        (Limits().relay_answer_s_max / 2, lambda end: end.abort(Reason.ABNORMAL), False),
    ],
    ids=["given up", "closed", "given up amid answers"],
)
def test_t72_a_relay_at_the_second_hop_that_falls_silent_is_noted_when_the_circuit_is_given_up(
    silent_s: float, end: Callable[[CircuitEnd], None], is_noted: bool
) -> None:
    net = two_hops()
    a, b = net.pair("A", "1", "B")
    net.wait(10)
    for _ in range(3):
        send(b, b"alive")
        net.settle()
    net.wait(silent_s)
    end(a)
    net.settle()
    assert (net.dead_ends["1"] == [DeadEnd(peer("B"), peer("2"), 7, Reason.TIMEOUT)]) is is_noted


@pytest.mark.parametrize("slice_bytes", [1, 2, 16])
def test_t72_a_window_of_small_slices_takes_little_more_room_than_their_bytes(slice_bytes: int) -> None:
    net = triangle()
    a, b = net.pair("A", "R", "B")
    relay, key, circuit = net.switches["R"], net._keys["R", "A"], a._leg.circuit
    sent, size = bytearray(), 64 * 1024
    tracemalloc.start()
    try:
        for number in range(size // slice_bytes):
            payload = (number % 251).to_bytes(1, "little") * slice_bytes
            sent += payload
            relay.receive(key, Relay(circuit, Relay.DATA, payload=payload), 0.0)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 3 * size + len(sent)
    net.settle()
    assert read_all(b) == bytes(sent)


def test_a_circuit_breaks_once_however_long_its_last_word_waits() -> None:
    net = triangle()
    net.takes = False
    net.open("A", "R", "B")
    net.settle()
    for _ in range(5):
        net.wait(Limits().relay_open_s_max)
    assert net.switches["R"].snapshot().broken_total == 1
    assert sum(net.switches["R"].snapshot().broken.values()) == 1
    assert net.switches["R"].snapshot().relayed == 1
    net.settle()
    assert net.is_empty()


def test_a_circuit_that_lost_one_end_is_not_broken_as_well_while_the_other_has_not_heard_of_it() -> None:
    net = triangle()
    net.pair("A", "R", "B")
    net.part("A", "R")
    net.wait(Limits().relay_idle_s_max + 1)
    assert net.switches["R"].snapshot().broken_total == 0
    net.settle()
    assert net.is_empty()


def test_t72_what_waits_of_a_circuit_that_breaks_is_dropped_at_once_and_not_when_a_clogged_neighbour_reads() -> None:
    net = triangle()
    a, _ = net.pair("A", "R", "B")
    send(a, bytes(WINDOW))
    while net.step("A", "R"):
        pass
    (leg,) = net.lanes["R", "B"].turns or ()
    assert leg.queued_bytes == WINDOW
    net.part("A", "R")
    assert leg.queued_bytes == 0 and not leg._queue


# Ends.


@pytest.mark.parametrize("link", ["AR", "BR"])
def test_when_a_link_ends_so_do_its_circuits_and_the_others_are_told(link: str) -> None:
    net = triangle()
    a, b = net.pair("A", "R", "B")
    send(a, b"unread")
    net.settle()
    net.part(*link)
    net.settle()
    assert (a.reason, b.reason) == (Reason.ABNORMAL, Reason.ABNORMAL)
    assert net.is_empty()


def test_an_opening_that_nobody_heard_of_is_not_even_refused() -> None:
    net = triangle()
    end = net.open("A", "R", "B")
    end.abort(Reason.DISCONNECTED)
    assert not net.step("A", "R")
    assert net.is_empty()


def test_a_circuit_that_is_not_taken_in_time_ends() -> None:
    net = triangle()
    net.takes = False
    a = net.open("A", "R", "B")
    net.settle()
    net.wait(9.9)
    net.settle()
    assert a.reason is None
    assert net.switches["R"].next_deadline() == pytest.approx(10)
    net.wait(0.2)
    net.settle()
    assert a.reason is Reason.TIMEOUT
    assert net.incoming["B"][0].reason is Reason.TIMEOUT
    assert net.is_empty()
    assert net.switches["R"].next_deadline() == float("inf")


def test_t72_an_idle_circuit_ends_and_one_that_moves_does_not() -> None:
    net = triangle()
    a, b = net.pair("A", "R", "B")
    for _ in range(5):
        net.wait(100)
        send(a, b"ping")
        net.settle()
    assert a.reason is None
    net.wait(121)
    net.settle()
    assert (a.reason, b.reason) == (Reason.TIMEOUT, Reason.TIMEOUT)


def test_t72_an_idle_time_below_that_for_taking_a_circuit_is_kept() -> None:
    net = triangle(replace(Limits(), relay_idle_s_max=2.0, relay_open_s_max=10.0))
    a, b = net.pair("A", "R", "B")
    assert net.switches["R"].next_deadline() == pytest.approx(2)
    net.wait(2.1)
    net.settle()
    assert (a.reason, b.reason) == (Reason.TIMEOUT, Reason.TIMEOUT)
    assert net.is_empty()


@pytest.mark.parametrize("from_opener", [100_000, 40_000, 0])
def test_t72_a_circuit_carries_no_more_than_it_may_of_both_directions_together(from_opener: int) -> None:
    net = triangle(replace(Limits(), relay_circuit_bytes_max=100_000))
    a, b = net.pair("A", "R", "B")
    send(a, bytes(from_opener))
    send(b, bytes(100_000 - from_opener))
    net.settle()
    assert (len(read_all(b)), len(read_all(a))) == (from_opener, 100_000 - from_opener)
    send(a if from_opener else b, b"x")
    net.settle()
    assert (a.reason, b.reason) == (Reason.OVERLOADED, Reason.OVERLOADED)


@pytest.mark.parametrize("is_there", [True, False])
def test_t72_a_relay_slows_a_circuit_down_by_its_credit_there_and_back(is_there: bool) -> None:
    rate = 64 * KIB
    net = triangle(replace(Limits(), relay_bytes_per_s=rate))
    a, b = net.pair("A", "R", "B") if is_there else reversed(net.pair("A", "R", "B"))
    passed = 0
    for _ in range(400):
        passed += send(a, bytes(WINDOW))
        net.settle()
        read_all(b)
        net.settle()
        net.wait(0.1)
        net.settle()
    assert 40 * rate * 0.9 <= passed <= 40 * rate + 2 * WINDOW
    assert a.reason is None


# Everything at once.


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "read", "step", "step", "step", "close", "abort", "open", "part"]),
        st.integers(0, 7),
        st.integers(1, 200_000),
    ),
    max_size=120,
)


@given(STEPS, st.booleans())
def test_whatever_happens_bytes_keep_their_order_and_nothing_is_left(
    steps: list[tuple[str, int, int]], parts: bool
) -> None:
    net = Network("A12B", relays="12")
    for pair in ("A1", "12", "B2"):
        net.join(*pair)
    net.routes = {("1", "B"): "2", ("2", "A"): "1"}
    links = list(net.lanes)
    opened: list[CircuitEnd] = []
    sent: dict[int, bytearray] = {}
    got: dict[int, bytearray] = {}

    def ends() -> list[CircuitEnd]:
        return [*opened, *net.incoming["B"]]

    for action, which, size in steps:
        everyone = ends()
        end = everyone[which % len(everyone)] if everyone else None
        if action == "open" and len(opened) < 3:
            opened.append(net.open("A", "1", "B"))
        elif action == "step":
            net.step(*links[which % len(links)])
        elif action == "part" and parts and which == 0:
            if ("1", "2") in net.lanes:
                net.part("1", "2")
        elif end is None:
            continue
        elif action == "send":
            data = bytes([which]) * size
            sent.setdefault(id(end), bytearray()).extend(data[: send(end, data)])
        elif action == "read":
            got.setdefault(id(end), bytearray()).extend(end.read(size) or b"")
        elif action == "close" and which == 1:
            end.close()
        elif action == "abort" and which == 2:
            end.abort(Reason.DISCONNECTED)
        assert all(end.inbox_bytes <= WINDOW for end in ends())
    net.settle()
    for a, b in zip(opened, net.incoming["B"], strict=False):
        for sender, reader in ((a, b), (b, a)):
            while (data := reader.read(50_000)) and reader.reason is None:
                got.setdefault(id(reader), bytearray()).extend(data)
                net.settle()
            read = got.get(id(reader), bytearray())
            assert bytes(sent.get(id(sender), b""))[: len(read)] == read
    for end in ends():
        assert end.reason is not Reason.PROTOCOL
        end.close()
    net.settle()
    assert net.is_empty()


# What is over, and what never was.


def test_who_is_not_connected_or_is_the_target_itself_leads_nowhere() -> None:
    net = triangle()
    with pytest.raises(ConnectFailed) as failed:
        net.open("A", "B", "R")
    assert failed.value.reason is Reason.NO_ROUTE
    assert net.switches["A"].is_neighbour(peer("R"))
    assert not net.switches["A"].is_neighbour(peer("B"))


def test_a_link_that_is_gone_is_heard_no_more() -> None:
    net = triangle()
    relay = net.switches["R"]
    relay.link_down(99)
    relay.receive(99, Relay(1, Relay.CLOSE), 0.0)
    assert relay.next_event() is None
    assert net.is_empty()


def test_of_two_links_with_one_peer_the_newer_stays_when_the_older_ends() -> None:
    net = triangle()
    older = net._keys["A", "R"]
    net.join("A", "R")
    net.switches["A"].link_down(older)
    assert net.switches["A"].is_neighbour(peer("R"))


def test_circuits_over_a_link_that_gave_way_end_as_moved() -> None:
    net = triangle()
    a, b = net.pair("A", "R", "B")
    older = net._keys["A", "R"], net._keys["R", "A"]
    net.join("A", "R")
    net.switches["A"].link_down(older[0], Reason.MOVED)
    net.switches["R"].link_down(older[1], Reason.MOVED)
    net.settle()
    assert a.reason is b.reason is Reason.MOVED
    net.pair("A", "R", "B")


def test_t72_a_relay_that_says_it_moves_on_its_only_link_is_gone() -> None:
    net = triangle()
    a, _ = net.pair("A", "R", "B")
    net.switches["A"].link_down(net._keys["A", "R"], Reason.MOVED)
    assert a.reason is Reason.ABNORMAL


def test_nobody_is_called_by_his_own_name_or_by_a_neighbour() -> None:
    net = triangle()
    refused: list[Reason] = []

    def overhear(_here: str, _there: str, message: Relay) -> list[Relay]:
        assert message.kind == Relay.REFUSED
        refused.append(Reason(int.from_bytes(message.payload, "little")))
        return []

    net.meddle = overhear
    for circuit, source, ttl in ((1001, "B", 7), (1003, "R", 8), (1005, "R", 0)):
        net.say("R", "B", Relay(circuit, Relay.OPEN, str(peer(source)), str(peer("B")), ttl))
    net.settle()
    assert refused == [Reason.SELF, Reason.MOVED, Reason.NO_ROUTE]
    assert net.incoming["B"] == []


def test_who_is_called_takes_only_so_many_circuits_of_one_link() -> None:
    net = triangle(replace(Limits(), relay_circuits_per_peer_max=2))
    refused: list[Relay] = []
    net.meddle = lambda _here, _there, message: refused.append(message) or []  # type: ignore[func-returns-value]
    for circuit in (1, 3, 5):
        net.say("R", "B", Relay(circuit, Relay.OPEN, str(peer("A")), str(peer("B")), 7))
    assert len(net.incoming["B"]) == 2
    net.settle()
    assert [message.circuit for message in refused if message.kind == Relay.REFUSED] == [5]


def test_a_route_over_a_peer_that_does_not_relay_is_none() -> None:
    net = triangle()
    net.routes["R", "C"] = "B"
    a = net.open("A", "R", "C")
    net.settle()
    assert a.reason is Reason.NO_ROUTE


def test_what_crosses_the_last_word_of_a_circuit_is_passed_over_and_counted() -> None:
    net = triangle()
    a, b = net.pair("A", "R", "B")
    send(b, b"on its way")
    a.abort(Reason.DISCONNECTED)
    assert net.step("A", "R")
    last_word = Relay.decode(net.lanes["R", "B"].take())
    assert last_word.kind == Relay.REFUSED
    assert net.step("B", "R")
    assert net.switches["R"].snapshot().strays == 1
    net.say("R", "B", last_word)
    assert b.reason is Reason.DISCONNECTED
    assert net.is_empty()


def test_the_first_reason_of_an_end_stays() -> None:
    net = triangle()
    a, _ = net.pair("A", "R", "B")
    circuit = a._leg.circuit
    net.say("R", "A", Relay(circuit, Relay.DATA, payload=b""))
    assert a.reason is Reason.PROTOCOL
    net.part("A", "R")
    assert a.reason is Reason.PROTOCOL


def test_who_was_called_and_gave_up_takes_the_circuit_no_more() -> None:
    net = triangle()
    net.takes = False
    a = net.open("A", "R", "B")
    net.settle()
    [b] = net.incoming["B"]
    b.abort(Reason.FULL)
    b.take()
    assert net.lanes["B", "R"], "the refusal waits there"
    net.settle()
    assert not net.lanes["B", "R"]
    assert a.reason is Reason.FULL
    assert not a.is_open


def test_one_end_takes_only_so_many_circuits_over_one_relay() -> None:
    net = triangle(replace(Limits(), relay_circuits_per_peer_max=1))
    net.takes = False
    net.open("A", "R", "B")
    net.settle()
    with pytest.raises(ConnectFailed) as failed:
        net.open("A", "R", "B")
    assert failed.value.reason is Reason.FULL


def test_ending_again_says_nothing_more() -> None:
    net = triangle()
    a, b = net.pair("A", "R", "B")
    a.close()
    a.close()
    a.abort(Reason.DISCONNECTED)
    a.abort(Reason.FULL)
    net.settle()
    assert b.reason is Reason.DISCONNECTED
    b.abort(Reason.FULL)
    b.close()
    net.settle()
    assert net.is_empty()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [(b"\x01", Reason.PROTOCOL), (b"\xff\xff", Reason.ABNORMAL), (int(Reason.FULL).to_bytes(2, "little"), Reason.FULL)],
)
def test_a_refusal_of_another_version_is_an_abnormal_end(payload: bytes, reason: Reason) -> None:
    net = triangle()
    net.takes = False
    a = net.open("A", "R", "B")
    opening = net.lanes["A", "R"].take()
    net.say("R", "A", Relay(Relay.decode(opening).circuit, Relay.REFUSED, payload=payload))
    assert a.reason is reason


def test_what_comes_for_an_end_that_is_closed_is_passed_over() -> None:
    net = triangle()
    a, b = net.pair("A", "R", "B")
    send(b, b"on the way")
    a.close()
    net.settle()
    assert a.inbox_bytes == 0
    assert a.read(100) is None
    assert net.is_empty()
