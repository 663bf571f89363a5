"""Two connections over an in-memory network: bytes, backpressure, deadlines, ends. No node, no real time."""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from p2p import msg
from p2p.crypto.identity import Identity
from p2p.crypto.noise import NoiseStatic
from p2p.errors import NotConnected, PayloadTooLarge, Reason, RemoteProtocolError
from p2p.ids import PeerEndpoint
from p2p.limits import KIB, Limits
from p2p.peer.asking import Ask
from p2p.peer.connection import Connection, PeerState
from p2p.peer.owner import Pause, Routing
from p2p.session.events import PeerProven
from p2p.session.handshake import SessionConfig
from p2p.session.session import Session
from p2p.session.states import Role
from p2p.transport.base import LinkStream
from p2p.transport.memory import MemoryNetwork
from p2p.transport.memory_stream import MemoryStream
from p2p.windows import SystemClock


class Owner:
    """Keeps what it is told; admits everybody unless told otherwise."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.wal: list[msg.AnyMessage] = []
        self.routing: list[Routing] = []
        self.refusal: tuple[Reason, str] | None = None
        self.gate: trio.Event | None = None
        self.broken: Exception | None = None
        self.ended = 0
        self.probed: list[bool] = []
        self.floods = 0
        self.answers = False
        self.late = 0
        self.rests = 0
        self.flushes_when_live = False
        self.live = trio.Event()
        self.arrived = trio.lowlevel.ParkingLot()

    def on_proven(self, link: Connection, proven: PeerProven) -> tuple[Reason, str] | None:
        link.label = proven.node_id
        return self.refusal

    def on_live(self, link: Connection) -> None:
        link.send_control(msg.WalHeads(()))
        if self.flushes_when_live:
            link.flush()
        self.live.set()

    def on_late_answer(self, link: Connection) -> None:
        self.late += 1

    def on_data(self, link: Connection, message_id: int, flags: int, data: msg.Data) -> Pause | None:
        self.data.append(data.body)
        self.arrived.unpark_all()
        if flags and self.answers:
            assert link.send_reply_nowait(msg.encode_data(b"", message_id, 0, data.body[::-1]))
        return self.gate.wait if self.gate is not None else None

    def on_row(self, link: Connection, channel: str, bodies: list[bytes]) -> Pause | None:
        self.data += bodies
        self.arrived.unpark_all()
        return self.gate.wait if self.gate is not None else None

    def on_wal(self, link: Connection, message: msg.AnyMessage) -> None:
        if self.broken is not None and not isinstance(message, msg.WalHeads):
            raise self.broken
        self.wal.append(message)

    def on_routing(self, link: Connection, message: Routing) -> None:
        self.routing.append(message)

    def on_probed(self, link: Connection, *, alive: bool) -> None:
        self.probed.append(alive)

    def on_ignored(self, link: Connection) -> None:
        raise AssertionError("nobody sends unknown types here")

    def on_flood(self, link: Connection) -> None:
        self.floods += 1

    def on_rest(self, link: Connection) -> None:
        self.rests += 1

    def on_ended(self, link: Connection) -> None:
        self.ended += 1

    async def until_arrived(self, count: int) -> None:
        while len(self.data) < count:
            await self.arrived.park()


class Side:
    def __init__(self, link: Connection, owner: Owner, stream: LinkStream, network: MemoryNetwork) -> None:
        self.network = network
        self.link = link
        self.owner = owner
        self.stream = stream


@asynccontextmanager
async def joined(
    limits: Limits | None = None,
    *,
    wait_live: bool = True,
    refusal: tuple[Reason, str] | None = None,
    flush_early: bool = False,
    latency_s: float = 0.0,
    bytes_per_s: float | None = None,
    over_relay: bool = False,
) -> AsyncIterator[tuple[Side, Side]]:
    limits = limits or Limits()
    network = MemoryNetwork(latency_s=latency_s)
    listener = await network.network_for("b").listen(None, 1)
    dialed = await network.network_for("a").connect(PeerEndpoint("b", 1, "mem"))
    accepted = await listener.accept()
    network.set_link("a", "b", bytes_per_s=bytes_per_s)
    clock = SystemClock()
    sides = []
    for name, role, stream in (("a", Role.INITIATOR, dialed), ("b", Role.RESPONDER, accepted)):
        config = SessionConfig(
            node_id=name,
            identity=Identity.generate(os.urandom),
            static=NoiseStatic.generate(os.urandom),
            network_key=None,
            network_name="",
            capabilities=(("bundle", "1"),),
            limits=limits,
        )
        session = Session(config, role, entropy=os.urandom, now=clock.monotonic(), wall_ms=0)
        owner = Owner()
        if name == "b":
            owner.refusal = refusal
        owner.flushes_when_live = flush_early
        endpoint = PeerEndpoint("r", 0, "relay", "x") if over_relay else stream.remote
        link = Connection(
            stream, session, owner, clock=clock, limits=limits, dialed_by_us=name == "a", endpoint=endpoint
        )
        sides.append(Side(link, owner, stream, network))
    a, b = sides
    if flush_early:
        a.link.flush()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.link.run, nursery)
        nursery.start_soon(b.link.run, nursery)
        if wait_live:
            await a.link.settled.wait()
            await b.link.settled.wait()
        yield a, b
        nursery.cancel_scope.cancel()


def data(body: bytes) -> bytes:
    return msg.encode_data(b"chat", 0, 0, body)


async def test_both_sides_go_live_and_talk(autojump_clock: trio.testing.MockClock) -> None:
    async with joined() as (a, b):
        assert a.link.state is b.link.state is PeerState.CONNECTED
        assert a.link.label == "b"
        await a.link.send_data(data(b"hi"))
        await b.link.send_data(data(b"ho"))
        await b.owner.until_arrived(1)
        await a.owner.until_arrived(1)
        assert (b.owner.data, a.owner.data) == ([b"hi"], [b"ho"])


async def test_what_a_flush_leaves_over_is_written_next_and_in_order(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the link's task runs, and amid events, a flush may send a part and has no writer to leave the rest to."""
    whole = MemoryStream.send_nowait
    monkeypatch.setattr(MemoryStream, "send_nowait", lambda stream, data: whole(stream, data[:7]))
    async with joined(flush_early=True) as (a, b):
        await a.link.send_data(data(b"hi"))
        await b.link.send_data(data(b"ho"))
        await b.owner.until_arrived(1)
        await a.owner.until_arrived(1)
        assert (b.owner.data, a.owner.data) == ([b"hi"], [b"ho"])


async def answer_to(link: Connection, body: bytes) -> bytes:
    ask = Ask(math.inf)
    assert link.ask_nowait(data(body), ask)
    if not ask.is_over:
        await ask.wait()
    assert ask.reply is not None
    return ask.reply.body


@pytest.mark.parametrize("over_relay", [False, True])
async def test_a_question_and_its_answer_are_one_write_each_and_many_share_theirs(
    over_relay: bool, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with joined(over_relay=over_relay) as (a, b):
        b.owner.answers = True
        await trio.testing.wait_all_tasks_blocked()
        writes: list[MemoryStream] = []
        send_nowait = MemoryStream.send_nowait

        def counted(stream: MemoryStream, chunk: bytes) -> int:
            writes.append(stream)
            return send_nowait(stream, chunk)

        monkeypatch.setattr(MemoryStream, "send_nowait", counted)
        for number in range(3):
            assert await answer_to(a.link, b"number %d" % number) == (b"number %d" % number)[::-1]
        assert writes == [a.stream, b.stream] * 3
        writes.clear()
        answers: list[bytes] = []

        async def ask(number: int) -> None:
            answers.append(await answer_to(a.link, b"%02d" % number))

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(ask, number)
        assert sorted(answers) == sorted((b"%02d" % number)[::-1] for number in range(20))
        # The first of them leaves at once and is answered, the others leave together.
        assert writes.count(a.stream) == 2
        assert 1 <= writes.count(b.stream) <= 2


async def test_what_a_question_or_an_answer_leaves_over_is_written_next_and_in_order(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with joined() as (a, b):
        a.owner.answers = b.owner.answers = True
        whole = MemoryStream.send_nowait
        monkeypatch.setattr(MemoryStream, "send_nowait", lambda stream, chunk: whole(stream, chunk[:7]))
        with trio.fail_after(10):
            assert await answer_to(a.link, b"what") == b"tahw"
            assert await answer_to(b.link, b"who") == b"ohw"
            ask = Ask(math.inf)
            assert a.link.ask_nowait(data(b"why"), ask)
            await a.link.send_data(data(b"behind it"))
            await ask.wait()
            await b.owner.until_arrived(3)
        assert b.owner.data == [b"what", b"why", b"behind it"]


async def test_an_answer_that_nobody_waits_for_any_more_is_told_and_a_forged_one_ends_the_link(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with joined() as (a, b):
        b.owner.answers = True
        ask = Ask(math.inf)
        assert a.link.ask_nowait(data(b"hi"), ask)
        ask.expire()
        await b.owner.until_arrived(1)
        await trio.testing.wait_all_tasks_blocked()
        assert a.owner.late == 1
        assert ask.reply is None
        assert b.link.send_reply_nowait(msg.encode_data(b"", 4711, 0, b""))
        b.link.flush()
        await a.link.over.wait()
        assert a.link.reason is Reason.PROTOCOL


async def test_a_link_that_gives_way_parts_when_the_last_answer_has_come(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with joined() as (a, b):
        b.owner.answers = True
        b.owner.gate = trio.Event()
        ask = Ask(math.inf)
        assert a.link.ask_nowait(data(b"hi"), ask)
        a.link.retire()
        b.owner.gate.set()
        await ask.wait()
        assert ask.reply is not None
        await a.link.over.wait()
        assert a.link.clean


async def test_goodbye_ends_both_sides_clean_after_what_was_queued(autojump_clock: trio.testing.MockClock) -> None:
    async with joined() as (a, b):
        for number in range(100):
            await a.link.send_data(data(b"%d" % number))
        a.link.close(Reason.DISCONNECTED, "enough")
        with pytest.raises(NotConnected):
            await a.link.send_data(data(b"late"))
        await a.link.over.wait()
        await b.link.over.wait()
        assert len(b.owner.data) == 100
        assert a.link.clean
        assert b.link.clean
        assert b.link.reason is Reason.DISCONNECTED
        assert b.link.detail == "enough"
        assert a.owner.ended == b.owner.ended == 1
        assert a.link.unsent == 0


async def test_a_refusal_reaches_the_dialer_with_its_reason(autojump_clock: trio.testing.MockClock) -> None:
    async with joined(refusal=(Reason.NOT_ADMITTED, "not on the list")) as (a, b):
        await a.link.over.wait()
        await b.link.over.wait()
        assert a.link.reason is Reason.NOT_ADMITTED
        assert "not on the list" in a.link.detail
        assert not a.link.is_live
        assert not a.owner.live.is_set()


async def test_T21_a_silent_peer_is_pinged_and_then_dead(autojump_clock: trio.testing.MockClock) -> None:
    async with joined() as (a, b):
        start = trio.current_time()
        gate = trio.Event()
        b.owner.gate = gate
        await a.link.send_data(data(b"stuck"))
        await b.owner.until_arrived(1)
        # b rests on its channel for ever: it neither reads nor answers.
        await a.link.over.wait()
        assert a.link.reason is Reason.DEAD
        assert 45 <= trio.current_time() - start <= 46


async def test_idle_links_stay_up_by_pings(autojump_clock: trio.testing.MockClock) -> None:
    async with joined() as (a, b):
        await trio.sleep(600)
        assert a.link.is_live
        assert b.link.is_live
        assert a.link.session.rtt_s is not None or b.link.session.rtt_s is not None


async def test_an_idle_link_takes_three_writes_and_one_deadline_for_a_ping_of_each_side(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines = 0
    meet = Connection._meet_deadline

    def counted(link: Connection) -> None:
        nonlocal deadlines
        deadlines += 1
        meet(link)

    monkeypatch.setattr(Connection, "_meet_deadline", counted)
    async with joined() as (a, b):
        # The first deadlines are those of the handshake.
        await trio.sleep(20)
        deadlines = 0
        sessions = [a.link.session, b.link.session]
        before = [(each._liveness._pings_sent, each._outbound._counter) for each in sessions]
        await trio.sleep(40 * 15)
        after = [(each._liveness._pings_sent, each._outbound._counter) for each in sessions]
    pings = sum(now[0] - then[0] for now, then in zip(after, before, strict=True))
    writes = sum(now[1] - then[1] for now, then in zip(after, before, strict=True))
    assert (pings, writes, deadlines) == (80, 120, 40)


async def test_T22_a_peer_that_does_not_read_ends_as_overloaded(autojump_clock: trio.testing.MockClock) -> None:
    limits = replace(Limits(), dead_after_s=500)
    async with joined(limits) as (a, b):
        b.owner.gate = trio.Event()
        start = trio.current_time()
        while a.link.is_live:
            with suppress(NotConnected):
                await a.link.send_data(data(bytes(60 * KIB)))
            assert a.link.outbox_bytes <= limits.outbox_bytes_max
        assert a.link.reason is Reason.OVERLOADED
        assert trio.current_time() - start < 40
        assert a.link.unsent > 0


async def test_backpressure_then_everything_arrives_in_order(autojump_clock: trio.testing.MockClock) -> None:
    async with joined() as (a, b):
        gate = b.owner.gate = trio.Event()
        bodies = [b"%05d" % number + bytes(number % 7 * KIB) for number in range(2000)]
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def open_later() -> None:
                await trio.sleep(5)
                gate.set()

            for body in bodies:
                await a.link.send_data(data(body))
        await b.owner.until_arrived(len(bodies))
        assert b.owner.data == bodies


async def test_a_cut_stream_is_abnormal_on_both_sides(autojump_clock: trio.testing.MockClock) -> None:
    async with joined() as (a, b):
        a.stream.abort()
        await b.link.over.wait()
        await a.link.over.wait()
        assert b.link.reason is Reason.ABNORMAL
        assert not b.link.clean
        assert a.link.reason is Reason.ABNORMAL


async def test_T01_a_silent_dialer_is_dropped_in_time(autojump_clock: trio.testing.MockClock) -> None:
    network = MemoryNetwork()
    listener = await network.network_for("b").listen(None, 1)
    await network.network_for("a").connect(PeerEndpoint("b", 1, "mem"))
    stream = await listener.accept()
    clock = SystemClock()
    config = SessionConfig("b", Identity.generate(os.urandom), NoiseStatic.generate(os.urandom), None, "", (), Limits())
    session = Session(config, Role.RESPONDER, entropy=os.urandom, now=clock.monotonic(), wall_ms=0)
    owner = Owner()
    link = Connection(stream, session, owner, clock=clock, limits=Limits(), dialed_by_us=False, endpoint=None)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        await link.run(nursery)
    assert link.reason is Reason.TIMEOUT
    assert trio.current_time() - start <= Limits().handshake_s_max
    assert owner.ended == 1


async def test_a_violation_above_the_session_ends_the_link_and_tells_the_peer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with joined() as (a, b):
        b.owner.broken = RemoteProtocolError("an ack of nothing")
        a.link.send_control(msg.WalAck(7))
        await b.link.over.wait()
        await a.link.over.wait()
        assert b.link.reason is Reason.PROTOCOL
        assert not b.link.clean
        assert a.link.reason is Reason.PROTOCOL


async def test_T68_a_bug_of_ours_ends_one_link_only(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with joined() as (a, b):
        b.owner.broken = ZeroDivisionError()
        a.link.send_control(msg.WalAck(7))
        await b.link.over.wait()
        assert b.link.reason is Reason.INTERNAL
        assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    "notice",
    [msg.WalHeads(()), msg.Relay(2, msg.Relay.OPEN, "source", "target", 1), msg.Relay(2, msg.Relay.MOVE)],
    ids=["heads", "open", "move"],
)
async def test_T24_a_link_with_too_much_to_say_for_nothing_is_read_more_slowly(
    notice: msg.AnyMessage, autojump_clock: trio.testing.MockClock
) -> None:
    async with joined(replace(Limits(), control_per_s=10, control_burst=20, control_rest_s=2.0)) as (a, b):
        begun = trio.current_time()
        for _ in range(100):
            a.link.send_control(notice)
        await a.link.send_data(data(b"after them"))
        await b.owner.until_arrived(1)
        # 20 at once (one of them at the start), then 20 for each rest.
        assert b.owner.floods == 4
        assert trio.current_time() - begun == pytest.approx(8, abs=0.1)
        assert b.link.is_live


async def test_T24_a_link_that_rests_again_and_again_says_that_it_lives(autojump_clock: trio.testing.MockClock) -> None:
    limits = replace(Limits(), control_per_s=1, control_burst=1, control_rest_s=1.5)
    async with joined(limits) as (a, b):
        for _ in range(100):
            a.link.send_control(msg.WalHeads(()))
        # b is not read for a moment between two rests: what it has to say is said after each.
        await trio.sleep(limits.dead_after_s + 10)
        assert b.owner.floods > 20
        assert a.link.is_live and b.link.is_live
        assert trio.current_time() - a.link.life.read_at < limits.ping_after_s + 2


async def test_T22_a_link_that_leaves_its_answers_unread_ends(autojump_clock: trio.testing.MockClock) -> None:
    async with joined(replace(Limits(), outbox_control_messages_max=100)) as (_, b):
        for number in range(101):
            assert b.link.is_live
            b.link.send_control(msg.WalAck(number))
        assert b.link.reason is Reason.OVERLOADED


async def test_T24_a_rest_that_comes_too_late_is_not_complained_about(autojump_clock: trio.testing.MockClock) -> None:
    async with joined(replace(Limits(), control_burst=1)) as (a, b):
        flooded = b.owner.on_flood

        def end(link: Connection) -> None:
            flooded(link)
            link.abort(Reason.BANNED)

        b.owner.on_flood = end  # type: ignore[method-assign]  # this owner has had enough at once
        for _ in range(3):
            a.link.send_control(msg.WalHeads(()))
        await b.link.over.wait()
        assert b.link.reason is Reason.BANNED


async def test_the_link_that_gives_way_flushes_and_says_moved(autojump_clock: trio.testing.MockClock) -> None:
    async with joined() as (a, b):
        for number in range(50):
            await a.link.send_data(data(b"%d" % number))
        a.link.retire()
        a.link.retire()
        await b.link.over.wait()
        await a.link.over.wait()
        assert len(b.owner.data) == 50
        assert a.link.reason is b.link.reason is Reason.MOVED
        assert a.link.clean


async def test_circuits_of_another_link_are_flushed_when_all_that_a_read_brought_is_handled() -> None:
    async with joined() as (a, b):
        flushed: list[int] = []
        other = SimpleNamespace(flush_circuits=lambda: flushed.append(len(b.owner.data)))
        take = b.owner.on_data

        def pass_on(link: Connection, message_id: int, flags: int, data: msg.Data) -> Pause | None:
            link.flush_next(other)  # type: ignore[arg-type]  # as much of a link as is asked
            return take(link, message_id, flags, data)

        b.owner.on_data = pass_on  # type: ignore[method-assign]
        # Two that differ in their channels are no row.
        for channel in ("one", "other"):
            assert a.link.send_data_nowait(msg.encode_data(channel.encode(), 0, 0, b"x"))
        await trio.testing.wait_all_tasks_blocked()
        assert flushed == [2, 2]
        b.link.flush_next(other)  # type: ignore[arg-type]
        assert flushed == [2, 2, 2]


@asynccontextmanager
async def slowly_read(count: int, each_s: float) -> AsyncIterator[tuple[Side, Side]]:
    """Messages of a are under way, and b's reader takes so long for each."""
    async with joined() as (a, b):
        take, take_row = b.owner.on_data, b.owner.on_row

        def rest(link: Connection, message_id: int, flags: int, data: msg.Data) -> Pause:
            take(link, message_id, flags, data)
            return partial(trio.sleep, each_s)

        def rest_for_each(link: Connection, channel: str, bodies: list[bytes]) -> Pause:
            take_row(link, channel, bodies[:1])

            async def sleep_and_go_on() -> Pause | None:
                await trio.sleep(each_s)
                return rest_for_each(link, channel, bodies[1:]) if bodies[1:] else None

            return sleep_and_go_on

        # This reader is slow.
        b.owner.on_data = rest  # type: ignore[method-assign]
        b.owner.on_row = rest_for_each  # type: ignore[method-assign]
        for number in range(count):
            await a.link.send_data(data(b"%d" % number + bytes(1000)))
        await b.owner.until_arrived(2)
        yield a, b


async def test_the_rest_of_what_came_before_an_end_is_taken_where_there_is_room(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[bytes] = []
    async with joined() as (a, b):

        def take(link: Connection, message_id: int, flags: int, data: msg.Data) -> Pause:
            async def end_meanwhile() -> Pause:
                link.abort(Reason.ABNORMAL)
                return take_one

            async def take_one() -> Pause:
                taken.append(data.body)
                return break_a_rule

            async def break_a_rule() -> Pause | None:
                raise RemoteProtocolError("and nobody is there to be told")

            return end_meanwhile

        b.owner.on_data = take  # type: ignore[method-assign]
        await a.link.send_data(data(b"came"))
        await b.link.over.wait()
    assert taken == [b"came"]
    assert "failed inside" not in caplog.text


@pytest.mark.parametrize("who_parts_first", ["a", "b", "only a", "only b"])
async def test_a_link_that_gives_way_to_another_goes_on_while_a_slow_reader_takes_what_was_sent(
    who_parts_first: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with slowly_read(300, 0.1) as (a, b):
        if who_parts_first != "only b":
            a.link.retire(parts_first="a" in who_parts_first)
        if who_parts_first != "only a":
            b.link.retire(parts_first="b" in who_parts_first)
        with trio.fail_after(40):
            await b.link.over.wait()
            await a.link.over.wait()
        if who_parts_first != "only a":
            assert len(b.owner.data) == 300
            assert (a.link.reason, a.link.clean, a.link.unsent) == (Reason.MOVED, True, 0)
            assert not (a.link.cut_short or b.link.cut_short)


@pytest.mark.parametrize("who_parts_first", ["a", "b"])
async def test_a_link_that_gives_way_goes_on_while_a_slow_network_carries_what_was_sent(
    who_parts_first: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with joined(bytes_per_s=40_000) as (a, b):
        for number in range(320):
            await a.link.send_data(data(b"%d" % number + bytes(1000)))
        a.link.retire(parts_first=who_parts_first == "a")
        b.link.retire(parts_first=who_parts_first == "b")
        with trio.fail_after(40):
            await b.link.over.wait()
            await a.link.over.wait()
        assert len(b.owner.data) == 320
        assert a.link.reason is Reason.MOVED
        assert a.link.clean and b.link.clean


async def test_a_link_that_gives_way_is_cut_at_its_bound_whatever_moves_on_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with slowly_read(400, 0.2) as (a, b):
        start = trio.current_time()
        a.link.retire(parts_first=True)
        b.link.retire(parts_first=False)
        await b.link.over.wait()
        await a.link.over.wait()
        limits = Limits()
        assert limits.retire_s_max <= trio.current_time() - start < limits.retire_s_max + 2 * limits.drain_s_max
        assert a.link.cut_short or b.link.cut_short


@pytest.mark.parametrize("who_closes", ["a", "b"])
async def test_who_closes_a_link_that_gives_way_waits_no_longer_than_draining(
    who_closes: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with slowly_read(300, 0.5) as (a, b):
        a.link.retire(parts_first=True)
        b.link.retire(parts_first=False)
        await trio.sleep(12)
        closing = a.link if who_closes == "a" else b.link
        assert closing.reason is None
        closing.close(Reason.DISCONNECTED)
        with trio.fail_after(Limits().drain_s_max + Limits().probe_s_max + 0.5):
            await closing.over.wait()


async def test_a_link_that_gives_way_and_rests_is_cut_when_its_peer_falls_silent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with slowly_read(300, 0.1) as (a, b):
        a.link.retire(parts_first=True)
        b.link.retire(parts_first=False)
        await trio.sleep(8)
        assert a.link.reason is None
        b.link.abort(Reason.ABNORMAL)
        with trio.fail_after(Limits().drain_s_max):
            await a.link.over.wait()


async def test_a_dead_link_that_gives_way_is_cut_after_its_probe(autojump_clock: trio.testing.MockClock) -> None:
    async with joined() as (a, b):
        b.owner.gate = trio.Event()
        await a.link.send_data(data(b"stuck"))
        await b.owner.until_arrived(1)
        start = trio.current_time()
        a.link.retire()
        await a.link.over.wait()
        assert trio.current_time() - start == pytest.approx(Limits().probe_s_max)
        assert a.link.reason is Reason.MOVED
        assert not a.link.clean


async def test_what_fits_no_frame_is_refused_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with joined() as (a, b):
        with pytest.raises(PayloadTooLarge):
            await a.link.send_data(bytes(Limits().frame_bytes_max))
        await a.link.send_data(data(bytes(Limits().frame_bytes_max - 256)))
        await b.owner.until_arrived(1)


async def test_cancelling_a_link_from_outside_cuts_it(autojump_clock: trio.testing.MockClock) -> None:
    async with joined() as (a, b):
        pass
    assert a.owner.ended == b.owner.ended == 1
    assert a.link.over.is_set()


async def test_a_link_that_is_cancelled_takes_messages_of_others_and_tells_its_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with joined() as (a, b):
        # The other link's end makes its owner send here, while this link's own nursery is closed already.
        b.owner.on_ended = lambda _: a.link.send_control(msg.WalHeads(()))  # type: ignore[method-assign]
        a.owner.on_ended = lambda _: b.link.send_control(msg.WalHeads(()))  # type: ignore[method-assign]
        a.link.close(Reason.CLOSED)
    assert a.link.over.is_set()
    assert b.link.over.is_set()


async def test_senders_are_served_in_the_order_in_which_they_came_whatever_the_size(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with joined() as (a, b):
        b.owner.gate = trio.Event()
        small = 0

        async def chatter() -> None:
            nonlocal small
            while True:
                await a.link.send_data(data(bytes(1000)))
                small += 1

        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(chatter)
            await trio.testing.wait_all_tasks_blocked()
            large = data(bytes(900_000))
            sent = trio.Event()

            async def send_large() -> None:
                await a.link.send_data(large)
                sent.set()

            nursery.start_soon(send_large)
            await trio.testing.wait_all_tasks_blocked()
            assert not a.link.send_data_nowait(data(b"who does not wait passes nobody"))
            before = small
            b.owner.gate.set()
            b.owner.gate = None
            with trio.fail_after(10):
                await sent.wait()
            assert small - before <= Limits().outbox_high_water_bytes // 1000 + 2 * 16, "what stood there before it"
            nursery.cancel_scope.cancel()


async def test_a_frame_that_stops_halfway_ends_the_link_in_time_be_it_before_or_after_the_next_ping(
    autojump_clock: trio.testing.MockClock,
) -> None:
    for base_s in (1.0, 20.0):
        async with joined(replace(Limits(), frame_s_base=base_s, dead_after_s=120.0)) as (a, b):
            await trio.testing.wait_all_tasks_blocked()
            a.link.session.send(int(msg.MessageType.DATA), data(bytes(64 * KIB)))
            frame = a.link.session.data_to_send()
            began = trio.current_time()
            assert a.stream.send_nowait(frame[:20_000]) == 20_000
            await b.link.over.wait()
            assert b.link.reason is Reason.TIMEOUT
            assert trio.current_time() - began == pytest.approx(base_s + 64 * KIB / (16 * KIB), abs=0.1)


async def test_a_message_that_fills_a_write_leaves_at_once_where_nothing_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with joined(replace(Limits(), write_bytes=20 * KIB)) as (a, b):
        first, last = bytes(20 * KIB), bytes(30 * KIB)
        await trio.testing.wait_all_tasks_blocked()
        assert a.link.write_data_nowait(data(first))
        assert (a.link.outbox_bytes, a.link.is_writing) == (0, False)
        assert a.link.send_data_nowait(data(b"small"))
        assert not a.link.write_data_nowait(data(last)), "it passes nobody"
        assert a.link.send_data_nowait(data(last))
        assert a.link.is_writing
        await b.owner.until_arrived(3)
        assert b.owner.data == [first, b"small", last]
        ask = Ask(trio.current_time() + 60)
        assert a.link.ask_nowait(data(first), ask)
        await b.owner.until_arrived(4)


async def test_messages_that_fill_a_write_wait_within_the_same_bounds_and_in_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limits = Limits()
    async with joined() as (a, b):
        b.owner.gate = trio.Event()
        sent = 0
        while a.link.write_data_nowait(payload := data(b"%d " % sent + bytes(100 * KIB))) or a.link.send_data_nowait(
            payload
        ):
            assert a.link.outbox_bytes < limits.outbox_bytes_max
            sent += 1
            await trio.testing.wait_all_tasks_blocked()
        assert a.link.outbox_bytes >= limits.outbox_high_water_bytes
        assert a.link.is_writing
        b.owner.gate.set()
        b.owner.gate = None
        await a.link.send_data(data(b"last"))
        await b.owner.until_arrived(sent + 1)
        assert [body.split()[0] for body in b.owner.data[:-1]] == [b"%d" % number for number in range(sent)]


async def test_a_message_that_fills_a_write_is_not_written_past_an_end_or_a_frame(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with joined() as (a, b):
        for send in (a.link.write_data_nowait, a.link.send_data_nowait):
            assert not send(bytes(Limits().frame_bytes_max - 100))
        a.link.close(Reason.CLOSED)
        for send in (a.link.write_data_nowait, a.link.send_data_nowait):
            assert not send(data(bytes(64 * KIB)))
        await a.link.over.wait()
        for send in (a.link.write_data_nowait, a.link.send_data_nowait):
            assert not send(data(bytes(64 * KIB)))
        assert b.owner.data == []


async def test_who_leaves_the_line_makes_room_for_the_next_and_all_leave_with_the_link(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with joined() as (a, b):
        b.owner.gate = trio.Event()
        while a.link.send_data_nowait(data(bytes(10_000))):
            await trio.testing.wait_all_tasks_blocked()
        told: list[str] = []

        async def send(name: str, scope: trio.CancelScope) -> None:
            with scope:
                try:
                    await a.link.send_data(data(name.encode()))
                except NotConnected:
                    told.append(f"{name}: link over")
                else:
                    told.append(name)
                return
            told.append(f"{name}: cancelled")

        async with trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in range(3)]
            for number, scope in enumerate(scopes[:2]):
                nursery.start_soon(send, str(number), scope)
                await trio.testing.wait_all_tasks_blocked()
            scopes[0].cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert told == ["0: cancelled"]
            b.owner.gate.set()
            b.owner.gate = None
            await trio.testing.wait_all_tasks_blocked()
            assert told == ["0: cancelled", "1"]
            b.owner.gate = trio.Event()
            while a.link.send_data_nowait(data(bytes(10_000))):
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(send, "2", scopes[2])
            await trio.testing.wait_all_tasks_blocked()
            a.link.abort(Reason.ABNORMAL)
            b.owner.gate.set()
        assert told == ["0: cancelled", "1", "2: link over"]


async def test_a_place_that_becomes_free_is_of_who_waits_for_it_longest(autojump_clock: trio.testing.MockClock) -> None:
    async with joined(replace(Limits(), pending_requests_max=1)) as (a, _b):

        def question() -> tuple[bytes, Ask]:
            return data(b"?"), Ask(10.0)

        first = question()
        assert a.link.ask_nowait(*first)
        async with trio.open_nursery() as nursery:
            second = question()
            nursery.start_soon(a.link.ask, *second)
            await trio.testing.wait_all_tasks_blocked()
            first[1].expire()
            # The one who waited has not run yet.
            assert not a.link.ask_nowait(*question()), "a newcomer does not take his place"
            await trio.testing.wait_all_tasks_blocked()
            assert second[1].msg_id and not second[1].is_over
            second[1].expire()
        assert a.link.ask_nowait(*question())


async def test_T24_however_many_measure_the_way_one_ping_is_under_way(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with joined(latency_s=0.05) as (a, b):
        pings = 0
        ping = Session.ping

        def count(session: Session, now: float) -> None:
            nonlocal pings
            pings += session is a.link.session
            ping(session, now)

        measured: list[float] = []

        async def measure(after_s: float) -> None:
            await trio.sleep(after_s)
            measured.append(await a.link.measure_rtt())

        monkeypatch.setattr(Session, "ping", count)
        async with trio.open_nursery() as nursery:
            for number in range(1000):
                # The first all at once, the others while the Ping of the first is under way.
                nursery.start_soon(measure, 0.0 if number < 500 else 0.02)
        assert measured == pytest.approx([0.1] * 1000)
        assert pings == 2
        assert b.owner.floods == 0
        with trio.move_on_after(0.01):
            await a.link.measure_rtt()
        assert await a.link.measure_rtt() == pytest.approx(0.1), "one who gave up keeps nobody from measuring"
        assert pings == 4


async def test_whoever_measures_the_way_or_serves_a_request_hears_of_the_end_of_the_link(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with joined() as (a, b), trio.open_nursery() as nursery:
        given_up: list[int] = []
        a.link.served[1] = SimpleNamespace(cancel=lambda: given_up.append(1))
        b.owner.gate = trio.Event()
        await a.link.send_data(data(b"it rests, and answers no Ping"))
        await b.owner.until_arrived(1)

        async def measure() -> None:
            with pytest.raises(NotConnected):
                await a.link.measure_rtt()

        nursery.start_soon(measure)
        await trio.testing.wait_all_tasks_blocked()
        b.link.abort(Reason.ABNORMAL)
        with trio.fail_after(1):
            await a.link.over.wait()
        assert given_up == [1]
        nursery.cancel_scope.deadline = trio.current_time() + 1
    assert not nursery.cancel_scope.cancelled_caught


async def test_t72_a_circuit_that_falls_silent_while_something_is_awaited_is_found_out_in_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limits = Limits()
    async with joined(over_relay=True) as (a, b):
        await trio.sleep(3600)
        assert a.link.is_live and b.link.is_live
        await a.link.send_data(data(b"heard"))
        await b.owner.until_arrived(1)
        a.network.partition("a", "b")
        start = trio.current_time()
        await a.link.send_data(data(b"lost"))
        await a.link.over.wait()
        assert a.link.reason is Reason.DEAD
        assert trio.current_time() - start <= limits.relay_ask_after_s + limits.relay_answer_s_max + 0.1
        # The other one awaits nothing until its own next Ping.
        await b.link.over.wait()
        assert trio.current_time() - start <= limits.ping_after_s + limits.relay_ask_after_s + limits.relay_answer_s_max


async def test_a_direct_link_is_given_its_time(autojump_clock: trio.testing.MockClock) -> None:
    async with joined() as (a, _b):
        a.network.partition("a", "b")
        start = trio.current_time()
        await a.link.send_data(data(b"lost"))
        await a.link.over.wait()
        assert trio.current_time() - start >= Limits().dead_after_s


@pytest.mark.parametrize("bytes_per_s", [100_000, 1_000_000, None])
async def test_a_circuit_that_is_slow_or_whose_reader_rests_is_not_dead(
    bytes_per_s: float | None, autojump_clock: trio.testing.MockClock
) -> None:
    async with joined(over_relay=True, bytes_per_s=bytes_per_s) as (a, b):
        with trio.fail_after(3600):
            for number in range(600):
                await a.link.send_data(data(b"%d" % number + bytes(2000)))
            await b.owner.until_arrived(600)
            b.owner.gate = trio.Event()
            await a.link.send_data(data(b"it rests"))
            await b.owner.until_arrived(601)
            for _ in range(20):
                await a.link.send_data(data(b"and waits"))
                await trio.sleep(2)
            b.owner.gate.set()
            await b.owner.until_arrived(621)
        assert a.link.is_live and b.link.is_live


async def test_what_only_waited_on_a_circuit_that_broke_is_left_and_what_was_sent_is_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with joined(over_relay=True) as (a, b):
        b.owner.gate = trio.Event()
        sent = [data(b"%d" % number + bytes(5000)) for number in range(1000)]
        queued = 0
        while a.link.send_data_nowait(sent[queued]):
            queued += 1
            await trio.sleep(0)
        a.link.abort(Reason.ABNORMAL, "the circuit broke")
        assert 0 < len(a.link.left) == a.link.unsent < queued
        assert list(a.link.left) == sent[queued - len(a.link.left) : queued]


async def test_who_waits_on_a_link_that_ends_is_told_why(autojump_clock: trio.testing.MockClock) -> None:
    async with joined(over_relay=True) as (a, b), trio.open_nursery() as nursery:
        b.owner.gate = trio.Event()
        while a.link.send_data_nowait(data(bytes(5000))):
            await trio.sleep(0)

        async def wait() -> None:
            with pytest.raises(NotConnected, match=r"is closed \(no more bytes"):
                await a.link.send_data(data(bytes(5000)))

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        a.link.abort(Reason.OVERLOADED, "no more bytes \x1b")


async def test_nothing_more_is_sent_into_a_circuit_that_is_silent_for_long_and_all_of_it_when_it_is_heard_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with joined(over_relay=True) as (a, b):
        a.network.partition("a", "b")
        for number in range(25):
            await a.link.send_data(data(b"%d" % number))
            await trio.sleep(0.1)
        assert 0 < a.link.outbox_bytes < 10 * len(data(b"10"))
        a.network.heal("a", "b")
        await b.owner.until_arrived(25)
        assert b.owner.data == [b"%d" % number for number in range(25)]
        assert a.link.is_live
        a.network.partition("a", "b")
        ask = Ask(trio.current_time() + 60)
        for number in range(25):
            await a.link.send_data(data(b"%d" % number))
            await trio.sleep(0.1)
        # A question that was not sent can be asked elsewhere.
        assert a.link.ask_nowait(data(b"?"), ask)
        await a.link.over.wait()
        assert a.link.left[-1] == data(b"24")
        assert ask.is_over and not ask.msg_id


async def test_whoever_rests_in_a_circuit_goes_on_sending(autojump_clock: trio.testing.MockClock) -> None:
    async with joined(over_relay=True, latency_s=0.6) as (a, b):
        a.owner.gate = trio.Event()
        await a.link.send_data(data(b"0"))
        await trio.sleep(1.2)
        # It comes between the Ping that asks for an answer and the Pong, which is not read then.
        await b.link.send_data(data(b"now rest"))
        await a.owner.until_arrived(1)
        with trio.fail_after(200):
            for number in range(1, 100):
                await a.link.send_data(data(b"%d" % number))
                await b.owner.until_arrived(number + 1)
        a.owner.gate.set()
        await trio.sleep(60)
        assert a.link.is_live and b.link.is_live
