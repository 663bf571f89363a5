"""A member of the network that misbehaves: it is proven, and still nothing of it is believed.

What cannot be ends the link, under the reason that fits, with points against the identity that sent it. What can be but
is not so (a gap, a forged record, a lie about heads) is answered as the page says, and changes nothing here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

import pytest
import trio
from trio.testing import MockClock

import p2p
from p2p.binary import encode_varint
from p2p.envelope import ACK_REQ, MessageType
from p2p.errors import Reason
from p2p.framing import encode_varint as frame_length
from p2p.limits import KIB, MIB
from p2p.msg import (
    Data,
    ForkProof,
    Goodbye,
    HeadEntry,
    OutboxPull,
    Ping,
    Pong,
    Relay,
    RequestCancel,
    WalAck,
    WalHeads,
    WalPush,
)
from p2p.replication.batch import Batch
from p2p.replication.heads import FROZEN_MARK, SEQ_MAX
from p2p.windows import Blocking, SystemBlocking
from tests.clocks import as_it_goes, idle_time_skipped
from tests.hostile.attacker import End, read_to_end
from tests.hostile.rogue import Rogue, rogue
from tests.hostile.victim import (
    WAIT_S,
    limits,
    links,
    member,
    offence,
    points,
    serve_an_honest_peer,
    until_alone,
    until_event,
    until_head,
    victim,
)
from tests.logs import Log, push_of

Arguments = TypeVarTuple("Arguments")

NEWER = 0x9000
"""A message type that a later version may add."""

LATER = 300
"""A message type that no version may add without being asked for it."""


# What cannot be, and how it ends.


Attack = Callable[[Rogue], Awaitable[None]]


def bundle(peer: Rogue, *inner: bytes) -> bytes:
    return peer.seal(262, b"".join(inner))


async def replay(peer: Rogue) -> None:
    frame = peer.seal(2, Ping(1).encode())
    await peer.send_raw(frame + frame)


async def gap_in_the_counter(peer: Rogue) -> None:
    peer.seal(2, Ping(1).encode())
    await peer.send_raw(peer.seal(2, Ping(2).encode()))


async def plain(peer: Rogue) -> None:
    await peer.send_raw(peer.inner(2, Ping(1).encode()))


async def flipped(peer: Rogue) -> None:
    frame = bytearray(peer.seal(2, Ping(1).encode()))
    frame[-1] ^= 1
    await peer.send_raw(bytes(frame))


async def oversized(peer: Rogue) -> None:
    await peer.send_raw(frame_length(MIB + 1))


async def repeated_id(peer: Rogue) -> None:
    await peer.send_raw(peer.seal(2, Ping(1).encode(), msg_id=50) + peer.seal(2, Ping(2).encode(), msg_id=50))


async def huge_id_and_then_none_left(peer: Rogue) -> None:
    await peer.send_raw(peer.seal(NEWER, b"", msg_id=2**64 - 1) + peer.seal(NEWER, b"", msg_id=0))


async def compressed(peer: Rogue) -> None:
    await peer.send_raw(peer.seal(259, Data("chat").encode(), flags=2))


async def compressed_in_a_bundle(peer: Rogue) -> None:
    await peer.send_raw(bundle(peer, peer.inner(259, Data("chat").encode(), flags=2)))


async def nested_bundle(peer: Rogue) -> None:
    await peer.send_raw(bundle(peer, peer.inner(262, peer.inner(NEWER, b""))))


async def hello_in_a_bundle(peer: Rogue) -> None:
    await peer.send_raw(bundle(peer, peer.inner(1, b"")))


async def overfull_bundle(peer: Rogue) -> None:
    await peer.send_raw(bundle(peer, *(peer.inner(NEWER, b"") for _ in range(4097))))


async def cut_bundle(peer: Rogue) -> None:
    await peer.send_raw(bundle(peer, peer.inner(NEWER, b"payload")[:-3]))


async def bundle_that_promises_more(peer: Rogue) -> None:
    await peer.send_raw(bundle(peer, encode_varint(2**63)))


def sends(type: int, payload: bytes) -> Attack:
    async def attack(peer: Rogue) -> None:
        await peer.send_raw(peer.seal(type, payload))

    return attack


def says(*messages: p2p.msg.AnyMessage) -> Attack:
    async def attack(peer: Rogue) -> None:
        await peer.say(*messages)

    return attack


def pushes(seq_begin: int, seq_end: int, size: int = 300) -> Attack:
    return says(WalPush(seq_begin, seq_end, bytes(size)))


def head(seq: int, *, origin: bytes = bytes(range(32)), hash: bytes = b"h" * 32) -> HeadEntry:
    return HeadEntry(p2p.PeerId(origin), seq, hash, want=True)


CANNOT_BE = {
    # A stranger on the path could have done these, so nothing is told and the reason is the seal.
    "T18 replayed frame": (replay, Reason.CRYPTO),
    "T18 gap in the counter": (gap_in_the_counter, Reason.CRYPTO),
    "T18 plaintext on a sealed link": (plain, Reason.CRYPTO),
    "T19 flipped bit": (flipped, Reason.CRYPTO),
    # What stands under a good seal is the peer's own.
    "T18 repeated message id": (repeated_id, Reason.PROTOCOL),
    "T28 message id beyond which there is none": (huge_id_and_then_none_left, Reason.PROTOCOL),
    "T30 compressed": (compressed, Reason.PROTOCOL),
    "T30 compressed in a Bundle": (compressed_in_a_bundle, Reason.PROTOCOL),
    "T30 Bundle in a Bundle": (nested_bundle, Reason.PROTOCOL),
    "T30 handshake in a Bundle": (hello_in_a_bundle, Reason.PROTOCOL),
    "T30 overfull Bundle": (overfull_bundle, Reason.PROTOCOL),
    "T30 cut Bundle": (cut_bundle, Reason.PROTOCOL),
    "T28 length of 2^63 in a Bundle": (bundle_that_promises_more, Reason.PROTOCOL),
    "T25 unknown type below 0x8000": (sends(LATER, b""), Reason.PROTOCOL),
    "T25 type 0": (sends(0, b""), Reason.PROTOCOL),
    "T25 Hello on a live link": (sends(1, b""), Reason.PROTOCOL),
    "T25 HelloFinish on a live link": (sends(5, b"\0\0\0"), Reason.PROTOCOL),
    "T25 Pong that nobody asked for": (says(Pong(7)), Reason.PROTOCOL),
    "T25 answer that nobody waits for": (says(Data("chat", reply_to=99)), Reason.PROTOCOL),
    "T25 circuit that was never opened": (says(Relay(2, Relay.DATA, payload=b"x")), Reason.PROTOCOL),
    "T25 more acks than pushes": (says(*[WalAck(0)] * 50), Reason.PROTOCOL),
    "T27 message with bytes after its end": (sends(2, Ping(1).encode() + b"\0"), Reason.PROTOCOL),
    "T27 empty Ping": (sends(2, b""), Reason.PROTOCOL),
    "T28 over-long varint in WalHeads": (sends(257, b"\x80\x00"), Reason.PROTOCOL),
    "T28 count of 2^63 in WalHeads": (sends(257, encode_varint(2**63)), Reason.PROTOCOL),
    "T29 channel that is not UTF-8": (sends(259, b"\x02\xc3\x28" + bytes(10)), Reason.PROTOCOL),
    "T38 head at 2^63": (says(WalHeads((head(SEQ_MAX + 1),))), Reason.PROTOCOL),
    "T38 want of 2": (sends(257, b"\x01" + bytes(32) + b"\x01" + bytes(32) + b"\x02"), Reason.PROTOCOL),
    "T34 push of nothing": (pushes(5, 4), Reason.PROTOCOL),
    "T34 push from 0": (pushes(0, 1), Reason.PROTOCOL),
    "T34 push of more than a batch": (pushes(1, 1025), Reason.PROTOCOL),
    "T34 push to the end of numbers": (pushes(2**64 - 1, 2**64 - 1), Reason.PROTOCOL),
    "T34 push too small for a batch": (pushes(1, 1, 20), Reason.PROTOCOL),
    "T34 push too large for a batch": (pushes(1, 1, 256 * KIB + 1), Reason.PROTOCOL),
    "T36 fork proof of nothing": (says(ForkProof(b"", b"")), Reason.PROTOCOL),
    "T36 fork proof too large": (says(ForkProof(bytes(256 * KIB + 1), bytes(256 * KIB))), Reason.PROTOCOL),
}


@pytest.mark.parametrize("name", CANNOT_BE)
async def test_what_cannot_be_ends_the_link_and_counts_against_its_sender(name: str) -> None:
    attack, reason = CANNOT_BE[name]
    async with victim() as node:
        async with offence(node, reason), rogue(node) as peer:
            async with node.events() as events:
                await attack(peer)
                left = await until_event(events, p2p.events.PeerLeft)
            # A broken seal is not answered with a byte; the reason of a fault under the seal may be told.
            assert await peer.last_words() in ({None} if reason is Reason.CRYPTO else {None, reason})
        assert (left.peer_id, left.reason, left.clean) == (peer.peer_id, reason, False)
        assert points(node, peer.peer_id) == pytest.approx(reason.penalty, abs=1)


async def test_T34_a_push_before_the_first_heads_ends_the_link() -> None:
    async with victim() as node, offence(node, Reason.PROTOCOL), rogue(node, is_open=False) as peer:
        await peer.say(push_of(Log(1).add(b"too early")))
        await peer.last_words()


async def test_T30_a_bundle_that_was_not_agreed_on_ends_the_link() -> None:
    async with victim() as node, offence(node, Reason.PROTOCOL):
        async with rogue(node, capabilities=(("cipher", "chacha20poly1305"),)) as peer:
            assert peer.session.cipher == "chacha20poly1305"
            await peer.send_raw(bundle(peer, peer.inner(NEWER, b"")))
            await peer.last_words()


async def test_T26_an_oversized_frame_is_refused_from_its_header_alone() -> None:
    async with victim() as node, offence(node, Reason.FRAME_TOO_LARGE), rogue(node) as peer:
        await peer.send_raw(frame_length(MIB + 1))
        await peer.last_words()


async def test_T26_a_frame_at_the_bound_is_carried() -> None:
    async with victim() as node, rogue(node) as peer:
        # 22 bytes of header, 28 of seal, 3 of length.
        await peer.send_raw(peer.seal(NEWER, bytes(MIB - 53)))
        await peer.say(Ping(1))
        await peer.say(Goodbye(1, ""))
        assert await peer.last_words() is Reason.CLOSED
        assert node.counters.ignored_messages == 1


async def test_T25_types_of_later_versions_are_passed_over_and_counted() -> None:
    async with victim() as node, offence(node, Reason.CLOSED), rogue(node) as peer:
        await peer.send_raw(b"".join(peer.seal(type, b"what?") for type in (0x8000, NEWER, 0xFFFF)))
        await peer.send_raw(bundle(peer, peer.inner(NEWER, b""), peer.inner(0xFFFF, b"")))
        await peer.say(Goodbye(1, ""))
        assert await peer.last_words() is Reason.CLOSED
        assert node.counters.ignored_messages == 5


@pytest.mark.parametrize("change", [flipped, replay, oversized])
async def test_T19_T33_who_sits_on_the_way_has_nobody_banned(change: Attack) -> None:
    identity = Log(77).identity
    async with victim() as node:
        for _ in range(11):
            async with rogue(node, identity=identity, is_open=False) as peer:
                await change(peer)
                await peer.last_words()
            await until_alone(node)
        assert points(node, identity.peer_id) == 0


async def test_T33_who_misbehaves_again_and_again_is_left_alone_for_a_while() -> None:
    identity = Log(77).identity
    async with victim() as node:
        for _ in range(4):
            async with rogue(node, identity=identity) as peer:
                await peer.say(Pong(7))
                await peer.last_words()
            await until_alone(node)
        async with offence(node, Reason.BANNED), rogue(node, identity=identity, is_open=False) as peer:
            assert await peer.last_words() is Reason.BANNED


# How a link can end rudely, and how slowly it can be used.


@pytest.mark.parametrize("cut", [0, 1, 10, 40])
async def test_T20_a_link_cut_within_a_frame_ends_abnormally_and_nothing_of_the_frame_happened(cut: int) -> None:
    batch = Log(1).add(b"never whole")
    async with victim() as node:
        for is_reset in (False, True):
            async with offence(node, Reason.ABNORMAL), rogue(node) as peer:
                push = push_of(batch)
                await peer.send_raw(peer.seal(10, push.encode())[: cut or -1])
                if is_reset:
                    peer.reset()
                else:
                    await peer.stream.send_eof()
                    await peer.last_words()
        assert batch.origin not in node.wal.heads()


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    """A test may make it hurry: so no bound of the node's is made short, which a machine under load would not keep."""
    return as_it_goes(mock_clock)


async def hurry(clock: MockClock) -> None:
    """Let time go by a hundred times as fast, in steps that leave everybody his turn."""
    while True:
        clock.jump(0.5)
        await trio.sleep(0.005)


async def test_T21_a_silent_peer_is_asked_and_then_given_up(clock: MockClock) -> None:
    async with victim() as node, offence(node, Reason.DEAD), rogue(node) as peer, trio.open_nursery() as nursery:
        nursery.start_soon(hurry, clock)
        asked, end = await read_to_end(peer.stream, 2 * node.config.limits.dead_after_s)
        nursery.cancel_scope.cancel()
        assert asked
        assert end is not End.OPEN


async def test_T23_a_frame_that_is_dripped_ends_the_link(clock: MockClock) -> None:
    async with victim() as node, offence(node, Reason.TIMEOUT), rogue(node) as peer:
        frame = peer.seal(259, Data("chat", body=bytes(2000)).encode())
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def drip() -> None:
                for at in range(len(frame)):
                    await peer.send_raw(frame[at : at + 1])
                    clock.jump(0.1)
                    await trio.sleep(0.005)

            while peer.ended is None:
                await peer._read()
            assert not peer.ended.clean
            nursery.cancel_scope.cancel()
        await until_alone(node)
        assert points(node, peer.peer_id) == 0


async def test_T22_a_peer_that_never_reads_is_given_up_and_holds_up_nobody(clock: MockClock) -> None:
    async with victim() as node, offence(node, Reason.OVERLOADED, Reason.CLOSED):
        async with rogue(node) as peer:
            with pytest.raises(p2p.NotConnected), trio.fail_after(WAIT_S), idle_time_skipped(clock):
                while True:
                    await node.send(peer.peer_id, "bulk", bytes(64 * KIB))
            # The way may be at fault, as one that lets small packets through and no large ones.
            assert points(node, peer.peer_id) == 0
            await serve_an_honest_peer(node)


async def test_T22_answers_to_a_peer_that_never_reads_are_bounded() -> None:
    batch = Log(1).add(b"again and again")
    bounds = limits(write_stall_s_max=WAIT_S, outbox_control_messages_max=2048)
    async with victim(limits=bounds) as node, offence(node, Reason.OVERLOADED):
        async with rogue(node) as peer:
            push = push_of(batch).encode()
            # Each push is answered, and no ack is ever read. An honest peer cannot have so many unanswered.
            with trio.fail_after(WAIT_S):
                while links(node):
                    await peer.send_raw(b"".join(peer.seal(10, push) for _ in range(200)))
            assert node.counters.links_ended[Reason.OVERLOADED] == 1


async def test_T24_a_flood_of_pings_makes_its_own_link_rest_and_then_costs_points() -> None:
    # A rate would be made up for by a peer that a busy machine lets send slowly.
    bounds = limits(control_per_s=0, control_burst=50, control_rest_s=0.02, drain_s_max=1.0)
    async with victim(limits=bounds) as node, offence(node, Reason.BANNED):
        async with rogue(node) as peer:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def flood() -> None:
                    for number in range(5000):
                        if peer.session.is_ending:
                            return
                        await peer.say(Ping(number))

                assert await peer.last_words() is Reason.BANNED
                nursery.cancel_scope.cancel()
            assert node.counters.links_rested >= 20
            assert peer.session.bytes_in < 64 * KIB


async def test_T24_heads_and_pulls_count_as_pings_do_and_records_do_not() -> None:
    log = Log(1)
    batches = [log.add(b"%d" % number) for number in range(300)]
    bounds = limits(control_per_s=0, control_burst=20, control_rest_s=0.01)
    async with victim(limits=bounds) as node, offence(node, Reason.CLOSED), rogue(node, identity=log.identity) as peer:
        await peer.say(*(push_of(batch) for batch in batches))
        await peer.say(*(Data("chat", body=b"x") for _ in range(300)))
        await until_head(node, log.origin, 300)
        assert node.counters.links_rested == 0
        await peer.say(*(WalHeads(()) for _ in range(10)), *(OutboxPull(str(node.peer_id), 1) for _ in range(15)))
        await peer.say(Goodbye(1, ""))
        assert await peer.last_words() is Reason.CLOSED
        assert 0 < node.counters.links_rested < 20


async def test_T24_heads_count_by_what_they_list() -> None:
    bounds = limits(control_per_s=0, control_burst=21, control_rest_s=0.01, control_entries=10)
    listed = WalHeads(tuple(head(1, origin=bytes([number]) * 32) for number in range(40)))
    async with victim(limits=bounds) as node, offence(node, Reason.CLOSED), rogue(node) as peer:
        await peer.say(*(listed for _ in range(6)), Goodbye(1, ""))
        assert await peer.last_words() is Reason.CLOSED
        assert node.counters.links_rested == 2  # of six that count for five each, after a first one without entries


async def test_what_means_nothing_by_the_protocol_changes_nothing() -> None:
    """Flags where they say nothing, fields that are not looked at, and what names nobody: the link goes on."""
    async with victim() as node, offence(node, Reason.CLOSED), rogue(node) as peer:
        await peer.send_raw(peer.seal(MessageType.PING, Ping(1).encode(), flags=ACK_REQ))
        await peer.send_raw(peer.seal(MessageType.BUNDLE, b""))
        inside = peer.inner(MessageType.PING, Ping(2).encode())
        await peer.send_raw(peer.seal(MessageType.BUNDLE, inside, flags=ACK_REQ))
        await peer.say(OutboxPull("kitchen sink", 0), WalHeads((head(0),)), RequestCancel(2**63))
        await peer.say(Data("", status=9), Data("c" * 300))
        await peer.send_raw(peer.seal(MessageType.DATA, Data("c" * 300).encode(), flags=ACK_REQ))
        assert (await peer.hear(Data)).status == Data.NO_HANDLER
        await peer.say(Goodbye(1, ""))
        assert await peer.last_words() is Reason.CLOSED


async def test_T69_a_peer_that_does_not_let_go_is_let_go(clock: MockClock) -> None:
    async with victim() as node, offence(node, Reason.DISCONNECTED):
        async with rogue(node) as peer, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def talk_on() -> None:
                while peer.ended is None:
                    await peer.say(Data("chat", body=b"and another thing"))
                    clock.jump(0.1)
                    await trio.sleep(0.01)

            with trio.fail_after(WAIT_S):
                await node.disconnect(peer.peer_id)
            nursery.cancel_scope.cancel()


async def test_T33_peers_that_say_goodbye_at_once_in_a_loop_leave_nothing() -> None:
    identity = Log(5).identity
    async with victim() as node, offence(node, *[Reason.CLOSED] * 40):
        for number in range(40):
            who = {"identity": identity} if number % 2 else {}
            async with rogue(node, is_open=False, **who) as peer:
                await peer.say(Goodbye(1, ""))
                assert await peer.last_words() is Reason.CLOSED
        await until_alone(node)
        # One identity for 20 links, 20 for one each.
        assert node.stats().peers_total == 21


@pytest.mark.parametrize("code", [0, 99, 65535])
async def test_T58_last_words_are_shown_as_one_harmless_line(code: int) -> None:
    lines: list[str] = []
    evil = "\r\n2026-01-01 victim: all is well\x1b[2J\u202e\0" + "x" * 5000
    async with victim(on_log=lines.append) as node, offence(node, Reason.CLOSED), rogue(node) as peer:
        await peer.say(Goodbye(code, evil))
        await peer.last_words()
    (line,) = [line for line in lines if "all is well" in line]
    assert len(line.encode()) <= 2048
    assert not set("\r\n\x1b\u202e\0") & set(line)
    assert line.isprintable()


# What can be and is not so: logs.


async def ack_of(peer: Rogue, push: WalPush) -> int:
    await peer.say(push)
    return (await peer.hear(WalAck)).last_applied_seq


def forged(batch: Batch, *, origin: bytes | None = None) -> WalPush:
    """The batch under another origin, or with a signature that is none."""
    wal_bytes = bytearray(batch.wal_bytes)
    if origin is not None:
        wal_bytes[1:33] = origin
    else:
        wal_bytes[-1] ^= 1
        wal_bytes[-40] ^= 1
    return WalPush(batch.seq_begin, batch.seq_end, bytes(wal_bytes))


async def test_T34_T35_gaps_and_duplicates_are_answered_and_change_nothing() -> None:
    log = Log(1)
    one, two, three = log.add(b"1"), log.add(b"2", b"3"), log.add(b"4")
    async with victim() as node, offence(node, Reason.CLOSED), rogue(node, identity=log.identity) as peer:
        assert await ack_of(peer, push_of(three)) == 0
        assert await ack_of(peer, push_of(one)) == 1
        assert await ack_of(peer, push_of(three)) == 1
        assert await ack_of(peer, push_of(one)) == 1
        assert await ack_of(peer, push_of(two)) == 3
        assert await ack_of(peer, push_of(one)) == 1
        assert await ack_of(peer, push_of(three)) == 4
        assert node.wal.heads()[log.origin].seq == 4
        assert not node.wal.heads()[log.origin].frozen
        assert points(node, log.origin) == 0
        await peer.say(Goodbye(1, ""))


async def test_T37_forged_records_are_refused_and_held_against_who_sent_them() -> None:
    log, own = Log(1), Log(2)
    batch = log.add(b"the real one")
    async with victim() as node, rogue(node, identity=own.identity) as peer:
        mine = own.add(b"under another name")
        before = node.wal.digest()
        # A bad signature, somebody else's name, and the name of the node itself.
        assert await ack_of(peer, forged(batch)) == 0
        assert await ack_of(peer, forged(mine, origin=log.origin)) == 0
        head = node.wal.heads()[node.peer_id].seq
        own_next = own.branch(0, 2)
        for _ in range(head + 1):
            mine = own_next.add(b"in the node's name")
        assert await ack_of(peer, forged(mine, origin=node.peer_id)) == head
        assert node.wal.digest() == before
        assert points(node, own.origin) == pytest.approx(3 * Reason.PROTOCOL.penalty, abs=1)
        assert points(node, log.origin) == 0
        # Whose name was used is not harmed: its record is taken from an honest peer, and the node writes on.
        async with rogue(node, identity=log.identity, node_id="honest-too") as honest:
            assert await ack_of(honest, push_of(batch)) == 1
        await node.wal.append(b"not impressed")


async def test_T36_both_halves_of_a_fork_freeze_the_origin_and_nothing_else() -> None:
    log = Log(1)
    log.add(b"common")
    other = log.branch(1)
    one, two = log.add(b"paid"), other.add(b"never paid")
    async with victim() as node, offence(node, Reason.CLOSED), rogue(node, identity=log.identity) as peer:
        async with node.events() as events:
            assert await ack_of(peer, push_of(log.batches[0])) == 1
            assert await ack_of(peer, push_of(one)) == 2
            assert await ack_of(peer, push_of(two)) == 1
            found = await until_event(events, p2p.events.ForkFound)
        assert (found.origin, found.lower_seq) == (log.origin, 2)
        assert node.wal.heads()[log.origin].frozen
        assert node.wal.heads()[log.origin].seq == 1
        # It is frozen for good: neither half goes on.
        assert await ack_of(peer, push_of(log.add(b"more"))) in (1, 2)
        assert node.wal.heads()[log.origin].seq == 1
        # Other nodes learn of it, with the proof.
        async with member("witness") as witness:
            await witness.connect(node.endpoints[0])
            async with witness.events() as events:
                while not (log.origin in witness.wal.heads() and witness.wal.heads()[log.origin].frozen):
                    with trio.fail_after(WAIT_S):
                        await events.__anext__()
            assert await witness.wal.append(b"the witness writes on") == 1
        await peer.say(Goodbye(1, ""))
        await peer.last_words()
        node.counters.links_ended[Reason.CLOSED] -= 1  # the witness's


async def test_T36_a_proof_that_proves_nothing_freezes_nobody() -> None:
    log = Log(1)
    one, two = log.add(b"1"), log.add(b"2")
    other = log.branch(1).add(b"another 2")
    bad = forged(other).wal_bytes
    async with victim() as node, offence(node, Reason.CLOSED), rogue(node) as peer:
        for proof in (ForkProof(one.wal_bytes, two.wal_bytes), ForkProof(two.wal_bytes, bad)):
            await peer.say(proof)
        # The pushes are judged after the proofs.
        assert await ack_of(peer, push_of(one)) == 1
        assert await ack_of(peer, push_of(two)) == 2
        assert not node.wal.heads()[log.origin].frozen
        assert points(node, peer.peer_id) == pytest.approx(2 * Reason.PROTOCOL.penalty, abs=1)
        await peer.say(Goodbye(1, ""))


async def test_T36_a_true_proof_from_a_rogue_is_as_good_as_any() -> None:
    log = Log(1)
    one, two = log.add(b"1"), log.branch(0).add(b"another 1")
    async with victim() as node, rogue(node) as peer:
        async with node.events() as events:
            await peer.say(ForkProof(two.wal_bytes, one.wal_bytes))
            assert (await until_event(events, p2p.events.ForkFound)).lower_seq == 1
        assert points(node, peer.peer_id) == 0


async def test_T39_who_claims_and_does_not_deliver_is_passed_over() -> None:
    log = Log(1)
    batches = [log.add(b"%d" % number) for number in range(20)]
    last = batches[-1]
    async with victim(limits=limits(supplier_stall_s=0.2)) as node:
        async with rogue(node) as liar, rogue(node) as honest:
            await liar.heads(head(1_000_000, origin=log.origin))
            # It is asked, since it claims the most, and never answers.
            await honest.heads(HeadEntry(log.origin, last.seq_end, last.hash, want=False))
            with trio.fail_after(WAIT_S):
                while not any(entry.want for entry in await asked_for(honest, log.origin)):
                    pass
            for batch in batches:
                assert await ack_of(honest, push_of(batch)) == batch.seq_end
            assert node.wal.heads()[log.origin].seq == 20


async def asked_for(peer: Rogue, origin: bytes) -> list[HeadEntry]:
    return [entry for entry in (await peer.hear(WalHeads)).entries if entry.origin == origin]


async def test_T39_a_claim_to_know_more_of_our_own_log_stops_our_writing_for_a_moment_only() -> None:
    bounds = limits(append_delay_on_claim_s_max=0.2, supplier_stall_s=0.2)
    async with victim(limits=bounds) as node, rogue(node) as peer:
        await peer.heads(head(1_000_000, origin=node.peer_id))
        with trio.fail_after(WAIT_S):
            seq = await node.wal.append(b"our own log is ours")
            assert node.wal.heads()[node.peer_id].seq == seq
            while points(node, peer.peer_id) == 0:
                await trio.sleep(0.02)
        assert points(node, peer.peer_id) == pytest.approx(Reason.PROTOCOL.penalty, abs=1)


async def test_T38_claims_cost_no_memory() -> None:
    bounds = limits(origins_max=64)
    async with victim(limits=bounds) as node, offence(node, Reason.CLOSED), rogue(node) as peer:
        for round in range(40):
            await peer.heads(*(head(SEQ_MAX, origin=bytes((round, number)) * 16) for number in range(100)))
        await peer.heads(*(head(3, origin=bytes((200, number)) * 16, hash=FROZEN_MARK) for number in range(100)))
        await peer.say(Ping(1), Goodbye(1, ""))
        assert await peer.last_words() is Reason.CLOSED
        assert set(node.wal.heads()) == {node.peer_id}
        exchange = node._rooms.replicator._machine  # type: ignore[union-attr]
        assert len(exchange._suppliers.known()) <= 64 + len(node.wal.heads())


async def test_T41_a_member_can_introduce_so_many_origins_and_no_more() -> None:
    bounds = limits(introduced_origins_per_peer_max=10)
    async with victim(limits=bounds) as node, offence(node, Reason.CLOSED, Reason.CLOSED):
        async with rogue(node) as peer:
            answers = [await ack_of(peer, push_of(Log(1000 + number).add(b"sybil"))) for number in range(25)]
            assert answers == [1] * 10 + [0] * 15
            assert points(node, peer.peer_id) == 0
            await peer.say(Goodbye(1, ""))
            await peer.last_words()
        # Another member's introductions are its own.
        async with rogue(node) as peer:
            assert await ack_of(peer, push_of(Log(2000).add(b"a friend"))) == 1
            await peer.say(Goodbye(1, ""))
            await peer.last_words()


class Gate:
    """The store's write lane, which a test can close: a slow disk."""

    def __init__(self, inside: Blocking) -> None:
        self._inside = inside
        self.open = trio.Event()
        self.open.set()

    async def run(self, lane: str, fn: Callable[[*Arguments], object], *args: *Arguments) -> object:
        if lane == "write":
            await self.open.wait()
        return await self._inside.run(lane, fn, *args)  # type: ignore[arg-type]  # a Literal


async def test_T40_pushing_beyond_the_window_ends_the_link() -> None:
    log = Log(1)
    big = [log.add(bytes(250 * KIB)) for _ in range(6)]
    gate = Gate(SystemBlocking(5.0))
    async with victim(blocking=gate) as node, offence(node, Reason.OVERLOADED):
        async with rogue(node, identity=log.identity) as peer:
            gate.open = trio.Event()
            await peer.say(*(push_of(batch) for batch in big))
            assert await peer.last_words() in (None, Reason.OVERLOADED)
            assert log.origin not in node.wal.heads()
            gate.open.set()


@pytest.mark.parametrize("answer", [1, 2, 2**63, 2**64 - 1])
async def test_T25_an_ack_that_cannot_be_ends_the_link(answer: int) -> None:
    """The node pushes 3 records as one batch after 2 that the peer holds; 2 and below, or 5, are answers."""
    async with victim() as node:
        seq = node.wal.heads()[node.peer_id].seq
        async with offence(node, Reason.PROTOCOL), rogue(node) as peer:
            push = await peer.hear(WalPush)
            assert push.seq_begin <= seq
            await peer.say(WalAck(push.seq_end + answer if answer < 2**62 else answer))
            await peer.last_words()


async def test_T25_not_applied_is_believed_without_end_and_without_a_torrent() -> None:
    async with victim() as node, offence(node, Reason.CLOSED), rogue(node) as peer:
        first = await peer.hear(WalPush)
        assert first.seq_begin == 1
        pushed = 1
        # "My log ends before that", although nothing is before it: not the next one, so the origin rests.
        await peer.say(WalAck(0))
        for _ in range(100):
            await peer.heads(HeadEntry(node.peer_id, 0, bytes(32), want=True))
        await peer.say(Ping(1), Goodbye(1, ""))
        assert await peer.last_words() is Reason.CLOSED
        pushed += sum(isinstance(message, WalPush) for message in peer.inbox)
        # 60 a minute at most, half of them at once.
        assert pushed <= 1 + 31 * first.seq_end
