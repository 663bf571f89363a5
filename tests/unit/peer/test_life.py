"""Signs of life on one link: what a silence says, with a session and a carrier that only say what they are told to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest
import trio

from p2p.limits import Limits
from p2p.peer.connection import Connection
from p2p.peer.life import Life
from p2p.session.events import Ponged
from p2p.session.session import Session
from p2p.transport.base import LinkStream

LIMITS = Limits()
ASK, ANSWER, PROBE = LIMITS.relay_ask_after_s, LIMITS.relay_answer_s_max, LIMITS.probe_s_max
SLICE_S = LIMITS.relay_slice_bytes_max / LIMITS.relay_pace_bytes_per_s
NEVER = float("inf")


@dataclass
class Spoken:
    """A session, as far as it is asked here."""

    rtt_s: float | None = None
    last_seen: float = 0.0
    is_amid_frame: bool = False
    pending_bytes: int = 0
    bytes_out: int = 0
    pings: list[float] = field(default_factory=list)

    def ping(self, now: float) -> None:
        self.pings.append(now)


@dataclass
class Unread:
    """A stream, of which so many bytes are not read."""

    unread_bytes: int = 0


class Carrier:
    """The link to the relay."""

    def __init__(self) -> None:
        self.session = Spoken()
        self.life = life_of(self.session)
        self.is_live = True
        self.is_resting = self.is_writing = False
        self.greeted = 0

    def greet(self) -> None:
        self.greeted += 1

    def comes(self, now: float, *, whole: bool = True) -> None:
        """Bytes of a frame come, the last of them or not."""
        self.life.read_at = now
        self.session.is_amid_frame = not whole
        if whole:
            self.session.last_seen = now


def life_of(session: Spoken, *, in_circuit: bool = False, unread_bytes: int = 0) -> Life:
    stream = cast("LinkStream", Unread(unread_bytes))
    return Life(cast("Session", session), stream, LIMITS, in_circuit=in_circuit)


def circuit(**options: int) -> tuple[Life, Spoken, Carrier]:
    """One that was asked at 10, and where the relay was heard last at 9."""
    session, carrier = Spoken(), Carrier()
    life = life_of(session, in_circuit=True, **options)
    life.carrier = cast("Connection", carrier)
    carrier.comes(9.0)
    life.moved_at = life.read_at = 9.0
    life.ask(10.0)
    assert session.pings == [10.0]
    assert carrier.greeted == 1, "so that it is known whether it is silent"
    return life, session, carrier


def pong(life: Life, session: Spoken, now: float, rtt_s: float) -> None:
    session.rtt_s = rtt_s
    life.take_pong(Ponged(rtt_s), now)


def test_a_probe_of_a_direct_link_is_over_in_its_time_whatever_comes() -> None:
    session = Spoken()
    life = life_of(session)
    assert life.next_deadline() == life.probe_by == NEVER
    life.ask(10.0)
    assert not life.ends_probe(10.0 + PROBE - 0.1)
    session.last_seen = 11.0
    assert life.ends_probe(10.0 + PROBE)
    assert life.spoke_since_probe
    assert life.probe_by == NEVER
    assert not life.moved_since_probe
    life.moved_at = 11.0
    assert life.moved_since_probe


def test_an_answer_that_may_be_among_what_was_not_read_has_its_whole_time() -> None:
    life = life_of(Spoken())
    life.resumed(5.0)
    assert life.probe_by == NEVER, "nobody asked"
    life.ask(10.0)
    life.resumed(20.0)
    assert life.probe_by == 20.0 + PROBE


def test_round_trips_are_measured_one_at_a_time_and_an_answer_to_an_earlier_ping_is_none() -> None:
    session = Spoken()
    life = life_of(session)
    life.pongs = trio.lowlevel.ParkingLot()
    assert life.measure(10.0)
    assert not life.measure(10.5)
    pong(life, session, 11.0, 2.0)
    assert not life.measure(11.0)
    assert not life.answered_since(10.0)
    pong(life, session, 11.5, 1.5)
    assert life.answered_since(10.0)
    assert not life.answered_since(10.1)
    assert life.measure(12.0)


def test_a_probe_in_a_circuit_has_time_for_a_slice_while_the_relay_speaks_and_none_while_it_is_silent() -> None:
    for speaks in False, True:
        life, _, carrier = circuit()
        assert life.vigil is not None
        life.vigil.came(0.0, LIMITS.relay_slice_bytes_max)
        if speaks:
            carrier.comes(11.0)
        assert not life.ends_probe(10.0 + ANSWER - 0.01)
        assert life.ends_probe(10.0 + ANSWER) is not speaks
        if speaks:
            assert life.probe_by == 10.0 + ANSWER + SLICE_S
            assert life.ends_probe(life.probe_by)
        assert not life.spoke_since_probe
        assert not life.moved_since_probe


@pytest.mark.parametrize("why", ["it rests", "it ends", "we write slowly", "nobody carries"])
def test_the_silence_of_a_relay_that_may_not_be_its_own_says_nothing(why: str) -> None:
    life, _, carrier = circuit()
    assert life.relay_heard_at == 9.0
    if why == "nobody carries":
        life.carrier = None
    carrier.is_resting = why == "it rests"
    carrier.is_live = why != "it ends"
    carrier.is_writing = why == "we write slowly"
    assert life.relay_heard_at == NEVER
    assert life.vigil is not None
    life.vigil.made_room(8.0, 1)
    life.vigil.made_room(8.5, LIMITS.relay_window_bytes // 2)
    assert (life.relay_heard_at == 9.0) is (why == "we write slowly")


def test_what_was_written_is_given_its_time_also_where_the_relay_is_silent() -> None:
    session = Spoken(bytes_out=10**6)
    life = life_of(session, in_circuit=True, unread_bytes=LIMITS.relay_slice_bytes_max)
    life.ask(10.0)
    assert life.probe_by == 10.0 + ANSWER + SLICE_S == 10.0 + life.probe_s


def test_a_circuit_waits_while_a_slice_comes_in_over_its_carrier() -> None:
    life, _, carrier = circuit()
    assert life.vigil is not None
    carrier.comes(11.0, whole=False)
    assert not life.keep_vigil(life.vigil, 10.0 + ANSWER), "it began after the Ping"
    assert life.moved_since_probe
    assert life.last_move(20.0) == 20.0
    carrier.comes(20.0)
    assert life.last_move(20.0) == 9.0
    assert not life.keep_vigil(life.vigil, 10.0 + 2 * ANSWER - 0.1)
    assert life.keep_vigil(life.vigil, 10.0 + 2 * ANSWER)
    assert not life.is_relay_silent


def test_a_node_that_stood_still_waits_once_more() -> None:
    life, _, _ = circuit()
    assert life.vigil is not None
    assert not life.keep_vigil(life.vigil, 60.0)
    assert life.next_deadline() == 60.0 + ANSWER
    assert life.keep_vigil(life.vigil, 60.0 + ANSWER)
    assert life.is_relay_silent


def test_what_the_session_itself_asks_for_is_awaited_and_asked_for_in_its_time() -> None:
    session = Spoken()
    life = life_of(session, in_circuit=True)
    assert life.vigil is not None
    assert not life.keep_vigil(life.vigil, 10.0)
    assert life.next_deadline() == NEVER
    session.pending_bytes = 50
    assert not life.keep_vigil(life.vigil, 10.0)
    assert life.next_deadline() == 10.0 + ASK
    assert not life.keep_vigil(life.vigil, 10.0 + ASK)
    assert session.pings == [10.0 + ASK]
    assert not life.doubts(life.vigil, 10.0 + ASK)
    assert life.doubts(life.vigil, 10.0 + ASK + ANSWER / 3 + 0.1)
    session.pending_bytes = 0
    pong(life, session, 12.0, 1.0)
    assert life.next_deadline() == NEVER


def test_room_counts_as_life_while_it_comes_to_something_or_a_reader_may_be_slow() -> None:
    life, slow_s = life_of(Spoken(), in_circuit=True), LIMITS.channel_wait_s_max
    life.read_at = life.moved_at = 10.0
    life.made_room(10.0 + slow_s - 0.1, 0)
    assert life.moved_at == 10.0 + slow_s - 0.1
    life.made_room(10.0 + slow_s, 0)
    assert life.moved_at == 10.0 + slow_s - 0.1
    life.made_room(30.0, 65_536)
    life.made_room(30.0 + slow_s - 0.1, 0)
    assert life.moved_at == 30.0 + slow_s - 0.1
