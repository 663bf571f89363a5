"""Strangers with a raw socket before a real node: floods, silence, other protocols, broken and replayed handshakes.

None of them is answered with more than the handshake's own message 2, none keeps a place longer than the deadline, and
an honest peer gets in meanwhile. The other way round, the node dials what is no node, and is told so.
"""

from __future__ import annotations

import gc
import os
import random
import resource
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

import p2p
from p2p.binary import decode_varint
from p2p.errors import Reason
from p2p.framing import encode_varint
from p2p.limits import KIB, Limits
from p2p.msg import Ping
from tests.clocks import as_it_goes, idle_time_skipped
from tests.hostile.attacker import (
    FOREIGN,
    Direction,
    End,
    Ending,
    Fault,
    Tamper,
    Where,
    cut,
    dial,
    drip,
    read_to_end,
    reset,
    residue,
    silent_connections,
    speak,
    speak_in_pieces,
    wiretap,
)
from tests.hostile.rogue import Rogue, even_lengths, rogue, session_config
from tests.hostile.victim import (
    KEY,
    WAIT_S,
    limits,
    links,
    member,
    offence,
    resting,
    serve_an_honest_peer,
    slots,
    until_alone,
    victim,
    where,
)

IN_MORE_WAYS = bool(os.environ.get("HOSTILE_IN_MORE_WAYS"))
"""At each byte of a handshake it ends in all three ways, and each is flipped and broken in one more way. Else one thing
happens at each, in turns. `make proof` sets it; each byte of a session alone is in unit/session/test_hostile.py."""


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    """No deadline is short, and none is waited for."""
    return as_it_goes(mock_clock)


@contextmanager
def descriptors(count: int) -> Iterator[None]:
    """Let this process have so many; skip where it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"this process may have {hard} descriptors only")
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def ends(node: p2p.Node) -> dict[Reason, int]:
    return {reason: count for reason, count in node.counters.links_ended.items() if count}


async def until_full(node: p2p.Node) -> None:
    with trio.fail_after(WAIT_S):
        while len(slots(node)) < node.config.limits.unauthenticated_max:
            await trio.lowlevel.checkpoint()


# Floods and silence.


async def test_T03_a_thousand_silent_connections_leave_room_for_an_honest_peer(clock: MockClock) -> None:
    lines: list[str] = []
    bounds = limits(first_message_s_max=WAIT_S / 2, handshake_s_max=WAIT_S / 2)
    with descriptors(3000):
        async with victim(limits=bounds, on_log=lines.append) as node:
            async with silent_connections(where(node), 1000):
                await until_full(node)
                # It waits less for an answer than silence is borne.
                await serve_an_honest_peer(node)
                assert len(slots(node)) <= Limits().unauthenticated_max
                assert len(links(node)) <= Limits().unauthenticated_max + 1
                with idle_time_skipped(clock):
                    await until_alone(node)
                assert len(slots(node)) == 0
            ended = ends(node)
            assert ended[Reason.FULL] + ended[Reason.TIMEOUT] == 1000
            assert ended[Reason.TIMEOUT] <= Limits().unauthenticated_max
    # A flood of connections is no flood of lines.
    assert len(lines) < 100
    assert sum("refused" in line for line in lines) > 0


async def test_T03_an_honest_peer_gets_in_while_new_connections_keep_coming() -> None:
    async with victim() as node, trio.open_nursery() as nursery:
        held: list[trio.SocketStream] = []

        @nursery.start_soon
        async def flood() -> None:
            while True:
                held.append(await dial(where(node)))
                if len(held) > 200:
                    await held.pop(0).aclose()

        await until_full(node)
        for _ in range(3):
            await serve_an_honest_peer_amid(node)
        nursery.cancel_scope.cancel()
        for stream in held:
            stream.socket.close()


async def serve_an_honest_peer_amid(node: p2p.Node) -> None:
    async with member("late") as honest:
        with trio.fail_after(WAIT_S):
            await honest.connect(node.endpoints[0])
        with trio.fail_after(WAIT_S):
            await honest.wal.wait_replicated(await honest.wal.append(b"through the crowd"))


async def test_T10_a_flood_of_resets_leaves_nothing() -> None:
    async with victim() as node:
        hello = (await recorded(node))[:20]
        for number in range(300):
            stream = await dial(where(node))
            if number % 2:
                await stream.send_all(hello)
            reset(stream)
        await serve_an_honest_peer(node)
        await until_alone(node)
        assert set(ends(node)) <= {Reason.ABNORMAL, Reason.CLOSED, Reason.FULL}


async def test_T67_connects_of_ever_new_peers_leave_memory_and_descriptors_where_they_were() -> None:
    few = limits(weak_pins_max=4, backoff_table_max=4, max_peers=4, origins_max=4, prefix_burst=1000)
    async with victim(limits=few) as node:
        numbers = iter(range(1000))

        async def come_and_go(times: int) -> int:
            for _ in range(times):
                async with member(f"guest{next(numbers)}") as guest:
                    await guest.connect(node.endpoints[0])
            await resting(node)
            # Of trio's own, ends of time that did not come are forgotten later.
            kinds = (type(held) for held in gc.get_objects())
            return sum(kind in (dict, list, set, deque) or kind.__module__.startswith("p2p.") for kind in kinds)

        await come_and_go(8)  # until every bounded table is full
        held, before = await come_and_go(1), residue()
        assert await come_and_go(8) - held < 8, "not one object for each of them"
        assert residue() == before


async def test_T01_dripped_handshakes_end_at_the_deadline(clock: MockClock) -> None:
    async with victim() as node:
        recording = await recorded(node)
        hello, _ = frames_of(recording)
        answers = []
        with idle_time_skipped(clock):
            async with trio.open_nursery() as nursery:

                async def slow(opening: bytes, rest: bytes) -> None:
                    pieces = (opening, *(rest[at : at + 1] for at in range(len(rest))))
                    answers.append(
                        await speak_in_pieces(where(node), filter(None, pieces), Ending.STAY, interval_s=0.2)
                    )

                async with offence(node, *[Reason.TIMEOUT] * 40):
                    for _ in range(20):
                        nursery.start_soon(slow, b"", recording)
                        # The first message in time, and then nothing quick.
                        nursery.start_soon(slow, hello, recording[len(hello) :])
                    await until_full_of(node, 40)
        assert len(answers) == 40
        assert all(answer.end is not End.OPEN for answer in answers)
        assert all(answer.sent < len(recording) for answer in answers)


async def until_full_of(node: p2p.Node, count: int) -> None:
    with trio.fail_after(WAIT_S):
        while node.counters.handshakes_started < count + 1:  # and the one that was recorded
            await trio.lowlevel.checkpoint()


async def test_T01_a_byte_now_and_then_is_no_message_in_time(clock: MockClock) -> None:
    async with victim(limits=limits(handshake_s_max=WAIT_S)) as node:
        recording = await recorded(node)
        async with offence(node, Reason.TIMEOUT):
            with idle_time_skipped(clock):
                answer = await drip(where(node), recording, 0.1)
        assert answer.data == b""
        assert answer.sent < len(recording)


# Other protocols, and noise.


@pytest.mark.parametrize("protocol", FOREIGN)
async def test_T05_other_protocols_end_at_the_first_impossible_byte_without_an_answer(protocol: str) -> None:
    async with victim() as node:
        before = ends(node)
        answer = await speak(where(node), FOREIGN[protocol])
        assert answer.data == b""
        assert answer.end is not End.OPEN
        await until_alone(node)
        (reason,) = set(ends(node)) - set(before)
        # Not by the deadline: what is heard is judged as it comes.
        assert reason in (Reason.PROTOCOL, Reason.FRAME_TOO_LARGE)


async def test_T05_random_bytes_are_never_answered() -> None:
    dice = random.Random(5)
    async with victim() as node:
        for _ in range(100):
            answer = await speak(where(node), dice.randbytes(dice.randrange(24, 400)))
            assert answer.data == b""
            assert answer.end is not End.OPEN
        await until_alone(node)
        assert set(ends(node)) <= {Reason.PROTOCOL, Reason.FRAME_TOO_LARGE}


@pytest.mark.parametrize("length", [4 * KIB + 1, 64 * KIB, 2**32, 2**64 - 1])
async def test_T06_an_oversized_first_message_is_refused_from_its_header(length: int) -> None:
    async with victim() as node, offence(node, Reason.FRAME_TOO_LARGE):
        answer = await speak(where(node), encode_varint(length))
        assert (answer.data, answer.end is End.OPEN) == (b"", False)


async def test_T28_a_length_that_never_ends_is_refused_at_its_first_impossible_byte() -> None:
    async with victim() as node, offence(node, Reason.FRAME_TOO_LARGE):
        assert (await speak(where(node), b"\xff\xff\x80")).end is not End.OPEN


async def test_T06_a_first_message_at_the_bound_costs_one_buffer_and_is_no_handshake() -> None:
    async with victim() as node, offence(node, Reason.PROTOCOL):
        whole = encode_varint(4 * KIB) + b"VP2P\x01\0\0\0\x01\0" + bytes(4 * KIB - 10)
        assert (await speak(where(node), whole)).data == b""


# Handshakes: replayed, cut, changed, and with another key.


async def recorded(node: p2p.Node) -> bytes:
    """What an honest initiator says in its handshake, byte by byte."""
    async with wiretap(where(node)) as tap:
        async with await dial(tap.where) as stream:
            peer = Rogue(stream, session_config())
            await peer.shake_hands()
            await peer.say(p2p.msg.Goodbye(1, ""))
            await peer.last_words()
        up = bytes(tap.recordings[0].up)
    await until_alone(node)
    hello, finish = frames_of(up)[:2]
    return hello + finish


def frames_of(data: bytes) -> list[bytes]:
    frames = []
    while data:
        length, used = decode_varint(data)
        frames.append(data[: used + length])
        data = data[used + length :]
    return frames


async def test_T07_a_replayed_handshake_fails_at_its_last_message() -> None:
    async with victim() as node:
        hello, finish = frames_of(await recorded(node))
        for _ in range(5):
            async with offence(node, Reason.CRYPTO), await dial(where(node)) as stream:
                # Message 2 comes, since the network key in message 1 is right; and then not a byte.
                await stream.send_all(hello)
                assert len(frames_of(await stream.receive_some())) == 1
                await stream.send_all(finish)
                assert (await read_to_end(stream))[0] == b""
        assert node.stats().handshakes_completed == 1


async def test_T10_a_handshake_cut_at_every_offset_leaves_nothing() -> None:
    async with victim(limits=limits(unauthenticated_max=4096)) as node:
        recording = await recorded(node)
        async with trio.open_nursery() as nursery:
            limiter = trio.CapacityLimiter(32)

            async def leave(offset: int, ending: Ending) -> None:
                async with limiter:
                    answer = await cut(where(node), recording, offset, ending)
                    assert len(frames_of(answer.data)) <= 1

            ways = (Ending.CLOSE, Ending.RESET, Ending.HALF_CLOSE)
            for offset in range(len(recording)):
                for ending in ways if IN_MORE_WAYS else ways[offset % 3 :][:1]:
                    nursery.start_soon(leave, offset, ending)
        await serve_an_honest_peer(node)
        await until_alone(node)
        assert set(ends(node)) <= {Reason.ABNORMAL, Reason.CLOSED}
        assert node.stats().handshakes_completed == 2


def every_fault(direction: Direction, length: int) -> list[Fault]:
    """A fault at each byte: every second one flipped, and of the others each kind in turn."""
    kinds = (Tamper.DROP, Tamper.INSERT, Tamper.CLOSE, Tamper.RESET, Tamper.HALF_CLOSE)
    if IN_MORE_WAYS:
        return [
            Fault(direction, offset, kind)
            for offset in range(length)
            for kind in (Tamper.FLIP, kinds[offset % len(kinds)])
        ]
    turns = [kind for other in kinds for kind in (Tamper.FLIP, other)]
    return [Fault(direction, offset, turns[offset % len(turns)]) for offset in range(length)]


async def test_T19_a_handshake_changed_at_any_byte_on_its_way_to_us_never_completes(clock: MockClock) -> None:
    async with victim(entropy=even_lengths) as node:
        faults = every_fault(Direction.UP, len(await recorded(node)))
        todo, tried = iter(faults), 0

        async def work() -> None:
            nonlocal tried
            async with wiretap(where(node)) as tap:
                for tap.fault in todo:
                    async with await dial(tap.where) as stream:
                        peer = Rogue(stream, session_config())
                        with trio.fail_after(WAIT_S):
                            await peer.shake_hands()
                    assert not peer.is_live, tap.fault
                    tried += 1

        with idle_time_skipped(clock):
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(work)
        await until_alone(node)
        assert tried == len(faults) > 300
        assert node.stats().handshakes_completed == 1  # the recorded one
        assert set(ends(node)) <= {
            Reason.CRYPTO,
            Reason.PROTOCOL,
            Reason.VERSION,
            Reason.FRAME_TOO_LARGE,
            Reason.TIMEOUT,
            Reason.ABNORMAL,
            Reason.CLOSED,
        }


async def test_T19_an_answer_changed_at_any_byte_on_its_way_to_us_is_no_link(clock: MockClock) -> None:
    async with (
        victim(entropy=even_lengths) as node,
        member("far", listen_port=0, entropy=even_lengths) as far,
    ):
        async with wiretap(where(far)) as tap:
            await node.connect(endpoint(tap.where))
            await node.disconnect(far.peer_id)
            await until_alone(far)
            ack = frames_of(bytes(tap.recordings[0].down))[0]
        faults = every_fault(Direction.DOWN, len(ack))
        todo = iter(faults)
        reasons: dict[Reason, int] = {}

        async def work() -> None:
            async with wiretap(where(far)) as tap:
                for tap.fault in todo:
                    with pytest.raises(p2p.ConnectFailed) as caught, trio.fail_after(WAIT_S):
                        await node.connect(endpoint(tap.where))
                    reasons[caught.value.reason] = reasons.get(caught.value.reason, 0) + 1

        with idle_time_skipped(clock):
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(work)
        await until_alone(node)
        await until_alone(far)
        assert node.stats().handshakes_completed == far.stats().handshakes_completed == 1
        assert sum(reasons.values()) == len(faults) >= len(ack)
        # A byte that is changed is found out by the seal, and half of the faults are no more than that.
        assert reasons[Reason.CRYPTO] > len(ack) / 3
        assert set(reasons) <= {
            Reason.CRYPTO,
            Reason.PROTOCOL,
            Reason.VERSION,
            Reason.FRAME_TOO_LARGE,
            Reason.TIMEOUT,
            Reason.ABNORMAL,
        }


def endpoint(place: Where) -> p2p.PeerEndpoint:
    return p2p.PeerEndpoint(*place)


@pytest.mark.parametrize(
    "stranger",
    [{"network_key": bytes(32)}, {"network_key": None}, {"network_name": "another"}],
    ids=["another key", "no key", "another name"],
)
async def test_T11_strangers_to_the_network_key_are_not_answered_with_a_byte(stranger: dict[str, object]) -> None:
    async with victim() as node:
        config = session_config(**stranger)  # type: ignore[arg-type]  # its arguments
        before = ends(node)
        async with await dial(where(node)) as stream:
            peer = Rogue(stream, config)
            await peer.shake_hands()
            assert not peer.is_live
            assert peer.session.bytes_in == 0
        await until_alone(node)
        (reason,) = set(ends(node)) - set(before)
        assert reason is Reason.CRYPTO


async def test_T11_without_a_key_another_network_name_ends_the_handshake_at_message_2() -> None:
    async with victim(network_key=None) as node, offence(node, Reason.ABNORMAL):
        async with await dial(where(node)) as stream:
            peer = Rogue(stream, session_config(network_key=None, network_name="another"))
            await peer.shake_hands()
            assert not peer.is_live
            assert peer.ended is not None
            assert peer.ended.reason is Reason.CRYPTO


async def test_T14_a_label_that_is_the_peer_id_of_somebody_else_is_no_label() -> None:
    async with victim() as node, offence(node, Reason.PROTOCOL):
        async with await dial(where(node)) as stream:
            peer = Rogue(stream, session_config(node_id=str(node.peer_id)))
            await peer.shake_hands()
            assert not peer.is_live


async def test_T13_a_peer_that_does_not_wait_for_the_answer_is_not_buffered_for() -> None:
    async with victim() as node:
        recording = await recorded(node)
        async with offence(node, Reason.CRYPTO):
            answer = await speak(where(node), recording + bytes(8 * KIB * KIB))
            assert answer.end is not End.OPEN
            assert len(frames_of(answer.data)) <= 1


# The node dials what it should not trust.


Behaviour = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def server(behave: Behaviour) -> AsyncIterator[p2p.PeerEndpoint]:
    """A place to dial that is no node."""

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await behave(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        yield p2p.PeerEndpoint("127.0.0.1", listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


async def answers_http(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n")
    await trio.sleep_forever()


async def echoes(stream: trio.SocketStream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


async def says_nothing(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def hangs_up(stream: trio.SocketStream) -> None:
    reset(stream)


async def floods(stream: trio.SocketStream) -> None:
    while True:
        await stream.send_all(bytes(64 * KIB))


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        (answers_http, Reason.PROTOCOL),
        (echoes, Reason.PROTOCOL),
        (says_nothing, Reason.TIMEOUT),
        (hangs_up, Reason.ABNORMAL),
        (floods, Reason.PROTOCOL),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
async def test_T08_dialling_what_is_no_node_fails_with_its_reason(
    behave: Behaviour, reason: Reason, clock: MockClock
) -> None:
    async with victim() as node, server(behave) as place:
        for _ in range(3):
            async with offence(node, reason):
                with pytest.raises(p2p.ConnectFailed) as caught, trio.fail_after(WAIT_S), idle_time_skipped(clock):
                    await node.connect(place)
                assert caught.value.reason is reason


async def test_T08_a_node_that_dials_itself_notices() -> None:
    async with victim() as node:
        for _ in range(3):
            with pytest.raises(p2p.ConnectFailed) as caught:
                await node.connect(node.endpoints[0])
            assert caught.value.reason is Reason.SELF
        await until_alone(node)
        assert node.peers() == ()


async def test_T12_the_identity_that_answers_must_be_the_one_that_was_dialled() -> None:
    async with victim() as node, member("far", listen_port=0) as far:
        wrong = p2p.PeerEndpoint("127.0.0.1", where(far)[1], expect=str(node.peer_id))
        async with offence(node, Reason.WRONG_PEER):
            with pytest.raises(p2p.ConnectFailed) as caught:
                await node.connect(wrong)
            assert caught.value.reason is Reason.WRONG_PEER
        await until_alone(far)
        assert far.stats().handshakes_completed == 0


# Stopping.


async def test_T69_a_node_under_attack_stops_in_time_and_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    lines: list[str] = []
    options = {"node_id": "victim", "network_key": KEY, "listen_host": "127.0.0.1", "data_dir": tmp_path / "data"}
    options["on_log"] = lines.append
    with trio.fail_after(WAIT_S):
        async with p2p.open_node(**options) as node:
            async with rogue(node) as peer, silent_connections(where(node), 200), trio.open_nursery() as nursery:

                @nursery.start_soon
                async def flood() -> None:
                    for number in range(100_000):
                        await peer.say(Ping(number))

                await until_full(node)
                assert await node.wal.append(b"acknowledged") == 1
                begun = trio.current_time()
                node.stop()
                await node.wait()
                assert trio.current_time() - begun < 20
                nursery.cancel_scope.cancel()
    assert all("\n" not in line for line in lines)
    async with p2p.open_node(**options) as again:
        assert again.wal.heads()[again.peer_id].seq == 1
