"""The machine of one link, seen from its wire: what goes out for what came in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import msgspec
import pytest

from p2p.errors import Reason, RemoteProtocolError
from p2p.ids import PeerId
from p2p.limits import KIB, MIB, Limits
from p2p.msg import AnyMessage, Data, ForkProof, HeadEntry, OutboxPull, WalAck, WalHeads, WalPush
from p2p.replication.accept import Verdict
from p2p.replication.batch import Batch, NewRecord, encode_portions, seal
from p2p.replication.exchange import NO_LINK, DoubtClaim, Exchange, HoldAppends, Penalize, ReleaseAppends, TrustClaim
from p2p.replication.heads import EMPTY_LOG, FROZEN_MARK, SEQ_MAX, ZERO_HASH, LogHead
from p2p.replication.suppliers import NEVER
from p2p.replication.sync import Load, LoadKind

OWN, PEER, LOG, THIRD = (PeerId(bytes([number]) * 32) for number in (1, 2, 3, 4))
LIMITS = Limits()


def make_log(origin: PeerId, batches: int, records: int = 1, size: int = 10, mark: bytes = b"") -> list[Batch]:
    log: list[Batch] = []
    portions = encode_portions([NewRecord("app", None, mark + bytes(size))] * records)
    for number in range(batches):
        log.append(
            seal(
                origin=origin,
                seq_begin=1 + number * records,
                prev_hash=log[-1].hash if log else ZERO_HASH,
                base_hlc=1,
                portions=portions,
                sign=lambda _: bytes(64),
            )
        )
    return log


class Side:
    """One node's exchange, the logs it holds, and links that the test plays the other end of."""

    def __init__(self, *logs: list[Batch], links: int = 1, limits: Limits = LIMITS) -> None:
        self.now = 100.0
        self.logs = {log[0].origin: list(log) for log in logs if log}
        self.heads = {origin: LogHead(log[-1].seq_end, log[-1].hash) for origin, log in self.logs.items()}
        self.stores = True
        self.fails: set[LoadKind] = set()
        self.exchange = Exchange(OWN, self.heads, limits, self.now, can_store=lambda: self.stores)
        self.sent: dict[int, list[AnyMessage]] = {}
        self.loads = 0
        self.proof: ForkProof | None = None
        for link in range(links):
            self.exchange.link_up(link, PEER if link == 0 else PeerId(bytes([50 + link]) * 32), self.now)
        self.first = {link: self.take(link) for link in range(links)}

    def take(self, link: int = 0) -> list[AnyMessage]:
        """Serve all loads, then return and forget what was sent on the link."""
        while (load := self.exchange.next_load(self.now)) is not None:
            self.loads += 1
            if load.kind in self.fails:
                self.exchange.load_failed(load, self.now)
                continue
            log = self.logs.get(load.origin, [])
            found, size = [], 0
            for batch in log:
                if batch.seq_end >= load.from_seq and (not found or size + len(batch.wal_bytes) <= load.bytes_max):
                    found.append(batch)
                    size += len(batch.wal_bytes)
                elif found:
                    break
            if load.kind is LoadKind.PROOF:
                proof = self.proof or ForkProof(log[0].wal_bytes, log[-1].wal_bytes)
                self.exchange.proof_loaded(load, proof, self.now)
            else:
                self.exchange.loaded(load, found, self.now)
        for key, message in self.exchange.take_messages():
            self.sent.setdefault(key, []).append(message)
        return self.sent.pop(link, [])

    def hear(self, *entries: HeadEntry, link: int = 0) -> list[AnyMessage]:
        self.exchange.receive(link, WalHeads(entries), self.now)
        return self.take(link)

    def push(self, batch: Batch, link: int = 0) -> bool:
        return self.exchange.receive(link, WalPush(batch.seq_begin, batch.seq_end, batch.wal_bytes), self.now)

    def apply(self, batch: Batch, link: int = 0) -> None:
        self.logs.setdefault(batch.origin, []).append(batch)
        self.heads[batch.origin] = LogHead(batch.seq_end, batch.hash)
        self.exchange.judged(link, Verdict.APPLIED, batch.seq_end, self.now)
        self.exchange.moved({batch.origin}, self.now)

    def append(self, batch: Batch) -> None:
        self.logs.setdefault(batch.origin, []).append(batch)
        self.heads[batch.origin] = LogHead(batch.seq_end, batch.hash)
        self.exchange.moved({batch.origin}, self.now)

    def ack(self, value: int, link: int = 0) -> list[AnyMessage]:
        self.exchange.receive(link, WalAck(value), self.now)
        return self.take(link)

    def wait(self, seconds: float, link: int = 0) -> list[AnyMessage]:
        end = self.now + seconds
        while (due := self.exchange.next_deadline()) <= end:
            self.now = max(self.now, due)
            self.exchange.handle_deadline(self.now)
            for key, message in self.exchange.take_messages():
                self.sent.setdefault(key, []).append(message)
            # As a replicator does: what is wanted from the store is read before it sleeps again.
            self.sent[link] = self.take(link)
        self.now = end
        return self.take(link)


def entry(log: list[Batch], held: int, *, want: bool = True) -> HeadEntry:
    """What a peer shows that holds the first `held` batches."""
    last = log[held - 1] if held else None
    origin = log[0].origin
    return HeadEntry(origin, last.seq_end if last else 0, last.hash if last else ZERO_HASH, want)


def pushed(messages: Iterable[AnyMessage]) -> list[tuple[int, int]]:
    return [(message.seq_begin, message.seq_end) for message in messages if isinstance(message, WalPush)]


def heads(messages: Iterable[AnyMessage]) -> list[HeadEntry]:
    return [entry for message in messages if isinstance(message, WalHeads) for entry in message.entries]


# WalHeads.


def test_heads_are_the_first_message_even_when_there_are_none() -> None:
    assert Side().first[0] == [WalHeads(())]


def test_the_first_heads_list_every_log_the_peers_own_first() -> None:
    logs = [make_log(origin, 2) for origin in (OWN, LOG, PEER)]
    side = Side(*logs)
    (message,) = side.first[0]
    assert isinstance(message, WalHeads)
    assert [(entry.origin, entry.seq, entry.hash) for entry in message.entries] == [
        (PEER, 2, logs[2][-1].hash),
        (OWN, 2, logs[0][-1].hash),
        (LOG, 2, logs[1][-1].hash),
    ]
    assert {entry.origin: entry.want for entry in message.entries} == {PEER: True, OWN: False, LOG: True}


def test_a_peer_that_comes_back_is_told_all_heads_again() -> None:
    log = make_log(OWN, 3)
    side = Side(log, make_log(LOG, 2))
    side.hear(entry(log, 3))
    side.exchange.link_down(0, side.now)
    side.exchange.link_up(1, PEER, side.now)
    assert [(entry.origin, entry.seq) for entry in heads(side.take(1))] == [(OWN, 3), (LOG, 2)]


def test_many_logs_are_told_in_several_messages() -> None:
    logs = [make_log(PeerId(number.to_bytes(32, "big")), 1) for number in range(1000, 1010)]
    side = Side(*logs, limits=Limits(heads_per_message_max=4))
    assert [len(message.entries) for message in side.first[0] if isinstance(message, WalHeads)] == [4, 4, 2]


def test_what_the_second_message_of_a_greeting_names_is_not_pushed_after_the_first() -> None:
    first, second, third, unnamed = (make_log(PeerId(bytes([number]) * 32), 1) for number in (11, 12, 13, 14))
    side = Side(first, second, third, unnamed, limits=Limits(heads_per_message_max=2))
    assert pushed(side.hear(entry(first, 1), entry(second, 1))) == []
    assert pushed(side.hear(entry(third, 1))) == [(1, 1)]
    assert pushed(side.wait(5)) == []


def test_after_a_full_greeting_that_nothing_follows_the_rest_is_pushed() -> None:
    first, second, unnamed = (make_log(PeerId(bytes([number]) * 32), 1) for number in (11, 12, 14))
    side = Side(first, second, unnamed, limits=Limits(heads_per_message_max=2))
    assert pushed(side.hear(entry(first, 1), entry(second, 1))) == []
    assert pushed(side.wait(0.9)) == []
    assert pushed(side.wait(0.2)) == [(1, 1)]


def test_a_full_message_later_on_holds_nothing_back() -> None:
    first, second, unnamed = (make_log(PeerId(bytes([number]) * 32), 1) for number in (11, 12, 14))
    side = Side(first, second, unnamed, limits=Limits(heads_per_message_max=2))
    assert pushed(side.hear()) == [(1, 1)] * 3
    side.hear(entry(first, 1), entry(second, 1))
    assert pushed(side.wait(5)) == []


def test_a_second_link_is_told_that_the_first_supplies() -> None:
    side = Side(make_log(LOG, 2), links=2)
    assert [entry.want for entry in heads(side.first[0])] == [True]
    assert [entry.want for entry in heads(side.first[1])] == [False]


def test_an_empty_node_tells_the_others_what_it_fetches_already() -> None:
    log = make_log(LOG, 3)
    side = Side(links=2)
    assert side.hear(entry(log, 3)) == []
    not_wanted = [HeadEntry(LOG, 0, ZERO_HASH, want=False)]
    assert heads(side.take(1)) == not_wanted
    side.exchange.link_up(2, THIRD, side.now)
    assert heads(side.take(2)) == not_wanted, "also whoever comes later"


def test_changes_on_a_wanted_link_are_told_within_50_ms_and_together() -> None:
    log = make_log(LOG, 4)
    side = Side(log[:1])
    side.hear(entry(log, 1))
    for batch in log[1:]:
        side.append(batch)
    assert heads(side.wait(0.049)) == []
    assert [(entry.seq, entry.hash) for entry in heads(side.wait(0.002))] == [(4, log[3].hash)]


def test_changes_on_other_links_are_told_within_a_second() -> None:
    log = make_log(LOG, 3)
    side = Side(log[:1], links=2)
    side.hear(entry(log, 1))
    side.hear(entry(log, 1, want=False), link=1)
    side.append(log[1])
    assert heads(side.wait(0.9, link=1)) == []
    side.append(log[2])
    assert [entry.seq for entry in heads(side.wait(0.11, link=1))] == [3]


def test_an_idle_link_has_no_deadline() -> None:
    log = make_log(LOG, 2)
    side = Side(log, links=3)
    for link in range(3):
        side.hear(entry(log, 2), link=link)
    side.wait(10.0)
    assert side.exchange.next_deadline() == NEVER


def test_t38_a_seq_that_no_log_can_reach_ends_the_link() -> None:
    side = Side()
    side.hear(HeadEntry(LOG, SEQ_MAX, b"\x01" * 32, want=True))
    with pytest.raises(RemoteProtocolError):
        side.hear(HeadEntry(LOG, SEQ_MAX + 1, b"\x01" * 32, want=True))


@pytest.mark.parametrize("shown", [0, 2])
def test_what_an_earlier_link_confirmed_does_not_outlive_the_peers_store(shown: int) -> None:
    log = make_log(OWN, 5)
    side = Side(log)
    side.hear(entry(log, 5))
    assert side.exchange.confirmed() == {PEER: 5}
    before = side.exchange.confirmations
    side.exchange.link_down(0, side.now)
    side.exchange.link_up(1, PEER, side.now)
    side.exchange.receive(1, WalHeads((entry(log, shown),) if shown else ()), side.now)
    assert side.exchange.confirmed()[PEER] <= shown
    assert side.exchange.confirmations > before


def test_t38_who_shows_more_of_our_log_and_does_not_deliver_is_doubted_until_its_link_ends() -> None:
    side = Side(make_log(OWN, 1), links=2)
    side.hear(HeadEntry(OWN, 9, b"\x01" * 32, want=False))
    side.exchange.take_effects()
    side.now += LIMITS.supplier_stall_s
    side.exchange.handle_deadline(side.now)
    assert DoubtClaim(9) in side.exchange.take_effects()
    side.exchange.link_down(1, side.now)
    assert TrustClaim() not in side.exchange.take_effects()
    side.exchange.link_down(0, side.now)
    assert TrustClaim() in side.exchange.take_effects()


def test_t38_claims_of_unknown_logs_take_bounded_memory() -> None:
    side = Side(limits=Limits(origins_max=50))
    for start in range(0, 5000, 500):
        origins = [PeerId(number.to_bytes(32, "big")) for number in range(start, start + 500)]
        side.hear(*(HeadEntry(origin, 7, b"\x01" * 32, want=True) for origin in origins))
    assert len(side.exchange._links[0]._heard) == 50
    assert len(side.exchange._suppliers.known()) == 50


# What is pushed.


def test_nothing_is_pushed_before_the_peers_first_heads() -> None:
    log = make_log(LOG, 2)
    side = Side(log)
    side.append(make_log(OWN, 1)[0])
    assert pushed(side.wait(10.0)) == []
    assert pushed(side.hear()) == [(1, 1), (2, 2), (1, 1)]


def test_what_the_peer_lacks_is_pushed_from_where_it_stands() -> None:
    log = make_log(LOG, 5, records=3)
    assert pushed(Side(log).hear(entry(log, 2))) == [(7, 9), (10, 12), (13, 15)]


def test_nothing_is_pushed_that_is_not_wanted() -> None:
    log = make_log(LOG, 5)
    side = Side(log)
    assert pushed(side.hear(entry(log, 2, want=False))) == []
    assert pushed(side.hear(entry(log, 2))) == [(3, 3), (4, 4), (5, 5)]


def test_a_commit_is_pushed_at_once() -> None:
    log = make_log(OWN, 3)
    side = Side(log[:1])
    side.hear(entry(log, 1))
    side.append(log[1])
    assert pushed(side.take()) == [(2, 2)]


def test_what_a_peer_pushed_is_not_pushed_back() -> None:
    log = make_log(LOG, 2)
    side = Side(links=2)
    side.hear()
    side.hear(link=1)
    assert side.push(log[0])
    side.apply(log[0])
    assert pushed(side.take(0)) == []
    assert pushed(side.take(1)) == [(1, 1)]
    side.append(log[1])
    assert pushed(side.take(0)) == [(2, 2)]


def test_what_a_listed_peer_pushed_is_not_pushed_back() -> None:
    log = make_log(LOG, 3)
    side = Side(log[:1])
    side.hear(entry(log, 1))
    assert side.push(log[1])
    side.apply(log[1])
    assert pushed(side.take()) == []
    side.append(log[2])
    assert pushed(side.take()) == [(3, 3)]


def test_origins_take_turns() -> None:
    logs = [make_log(origin, 30, records=1000, size=0) for origin in (LOG, THIRD)]
    side = Side(*logs)
    side.hear(*(entry(log, 0) for log in logs))
    origins = []
    for seq in (1000, 2000, 3000, 4000, 5000):  # what was under way before the second log was read
        messages = side.ack(seq)
        origins += [message.wal_bytes[1] for message in messages if isinstance(message, WalPush)]
    assert origins in ([LOG[0], THIRD[0], LOG[0], THIRD[0], LOG[0]], [THIRD[0], LOG[0], THIRD[0], LOG[0], THIRD[0]])


def test_links_take_turns_at_the_store_however_often_one_of_them_speaks() -> None:
    logs = [make_log(origin, 3) for origin in (LOG, THIRD)]
    side = Side(*logs, links=2)
    for link in (0, 0, 0, 1):
        side.exchange.receive(link, WalHeads(tuple(entry(log, 0) for log in logs)), side.now)
    loads = [side.exchange.next_load(side.now) for _ in range(5)]
    assert [load.link if load else None for load in loads] == [0, 1, 0, 1, None]


def test_pushes_stop_when_a_mebibyte_is_unacknowledged() -> None:
    log = make_log(LOG, 12, records=1, size=200 * KIB)
    side = Side(log)
    sent = pushed(side.hear(entry(log, 0)))
    assert len(sent) == 6, "the sixth begins below 1 MiB and ends above"
    assert len(pushed(side.ack(1))) == 1
    assert pushed(side.ack(2)) == [(8, 8)]


def test_pushes_stop_when_the_window_is_used_up_and_it_may_overdraw_once() -> None:
    log = make_log(LOG, 8, records=1000, size=0)
    side = Side(log)
    assert len(pushed(side.hear(entry(log, 0)))) == 5, "5,000 records into a window of 4,096"
    assert pushed(side.ack(1000)) == [(5001, 6000)]
    side.exchange.receive(0, OutboxPull(PEER.hex(), 1), side.now)
    assert pushed(side.take()) == []
    side.exchange.receive(0, OutboxPull(PEER.hex(), 2000), side.now)
    assert pushed(side.take()) == [(6001, 7000), (7001, 8000)]


def test_the_window_saturates() -> None:
    log = make_log(LOG, 80, records=1000, size=0)
    side = Side(log, limits=Limits(unacked_bytes_max=100 * MIB, load_ahead_bytes=100 * MIB))
    side.hear(entry(log, 0, want=False))
    for _ in range(100):
        side.exchange.receive(0, OutboxPull(PEER.hex(), 2**32 - 1), side.now)
    assert len(pushed(side.hear(entry(log, 0)))) == 66, "65,536 records, overdrawn once"


@pytest.mark.parametrize("value", [1000, 0])
def test_every_ack_gives_its_records_back_whatever_its_value(value: int) -> None:
    log = make_log(LOG, 9, records=1000, size=0)
    side = Side(log)
    side.hear(entry(log, 0))
    window = side.exchange._links[0].pushes
    assert window.window == 4096 - 5000
    side.exchange.receive(0, WalAck(value), side.now)
    under_way = len(window._under_way)
    assert window.window == 4096 - 1000 * under_way
    assert window.unacked_bytes == under_way * len(log[0].wal_bytes)


def test_pull_for_another_peer_sends_the_logs_it_needs_first() -> None:
    logs = [make_log(origin, 3, records=1000, size=0) for origin in (LOG, THIRD)]
    side = Side(*logs)
    side.hear(*(entry(log, 0, want=False) for log in logs))
    side.exchange.receive(0, OutboxPull(bytes(32).hex(), 1), side.now, first=[THIRD])
    messages = side.hear(*(entry(log, 0) for log in logs))
    origins = [message.wal_bytes[1] for message in messages if isinstance(message, WalPush)]
    assert origins[:4] == [THIRD[0]] * 3 + [LOG[0]], "whole chains, in order"


def test_loads_are_bounded_ahead_of_the_window() -> None:
    log = make_log(LOG, 100, records=1, size=200 * KIB)
    side = Side(log)
    side.hear(entry(log, 0))
    assert side.exchange._links[0].pushes._loaded_bytes <= LIMITS.load_ahead_bytes + LIMITS.batch_bytes_max
    assert side.loads < 10


# What acks mean.


@pytest.mark.parametrize("value", [4, 5, 7, 2**63, 2**64 - 1])
def test_an_ack_that_is_neither_the_end_nor_below_the_begin_ends_the_link(value: int) -> None:
    log = make_log(LOG, 2, records=3)
    side = Side(log)
    side.hear(entry(log, 1))
    with pytest.raises(RemoteProtocolError):
        side.ack(value)


@pytest.mark.parametrize("value", [0, 2, 3, 6])
def test_an_ack_may_be_the_end_or_anything_below_the_begin(value: int) -> None:
    log = make_log(LOG, 2, records=3)
    side = Side(log)
    side.hear(entry(log, 1))
    side.ack(value)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_an_ack_more_than_pushes_ends_the_link(count: int) -> None:
    log = make_log(LOG, 2)
    side = Side(log[:count] if count else [])
    side.hear()
    for seq in range(1, count + 1):
        side.ack(seq)
    with pytest.raises(RemoteProtocolError):
        side.ack(count)


def test_t34_after_a_gap_pushing_goes_on_from_what_the_last_ack_said() -> None:
    log = make_log(LOG, 6)
    side = Side(log)
    assert pushed(side.hear(entry(log, 3))) == [(4, 4), (5, 5), (6, 6)]
    assert pushed(side.ack(1)) == []
    assert pushed(side.ack(1)) == [], "nothing until all that is under way is answered"
    assert pushed(side.ack(2)) == [(3, 3), (4, 4), (5, 5), (6, 6)]


def test_a_lower_entry_is_ignored_while_pushes_are_under_way() -> None:
    log = make_log(LOG, 4)
    side = Side(log)
    side.hear(entry(log, 2))
    assert pushed(side.hear(entry(log, 0))) == []
    assert pushed(side.ack(3)) == []
    assert pushed(side.ack(4)) == []


def test_a_lower_entry_with_nothing_under_way_sends_the_log_again_from_there() -> None:
    log = make_log(LOG, 4)
    side = Side(log)
    side.hear(entry(log, 4))
    assert pushed(side.hear(entry(log, 1))) == [(2, 2), (3, 3), (4, 4)]


def test_what_was_left_alone_rests_until_the_peers_next_entry_for_it() -> None:
    log, other = make_log(LOG, 3), make_log(THIRD, 2)
    side = Side(log, other[:1])
    side.hear(entry(log, 1), entry(other, 1))
    side.ack(1)
    side.ack(1)
    assert pushed(side.wait(60.0)) == []
    side.append(other[1])
    assert pushed(side.take()) == [(2, 2)], "other logs go on"
    side.ack(2)
    side.append(make_log(LOG, 4)[3])
    assert pushed(side.take()) == []
    assert pushed(side.hear(entry(log, 1))) == [(2, 2), (3, 3), (4, 4)]


def test_t40_the_same_log_is_not_sent_again_without_end() -> None:
    log = make_log(LOG, 3)
    side = Side(log)
    side.hear(entry(log, 3))
    sent = 0
    for _ in range(600):  # a minute, ten times a second
        got = pushed(side.hear(entry(log, 0)))
        sent += bool(got)
        for _, end in got:
            side.ack(end)
        got = pushed(side.wait(0.1))
        sent += bool(got)
        for _, end in got:
            side.ack(end)
    assert 10 <= sent <= LIMITS.refetch_per_minute_max


# What the peer pushes.


def test_every_push_is_answered_once_in_order() -> None:
    log = make_log(LOG, 3)
    side = Side()
    side.hear()
    for batch in log:
        assert side.push(batch)
    side.take()
    side.apply(log[0])
    side.exchange.judged(0, Verdict.GAP, 1, side.now)
    side.exchange.judged(0, Verdict.DUPLICATE, 3, side.now)
    assert [m.last_applied_seq for m in side.take() if isinstance(m, WalAck)] == [1, 1, 3]


def test_a_push_before_the_peers_heads_ends_the_link() -> None:
    with pytest.raises(RemoteProtocolError):
        Side().push(make_log(LOG, 1)[0])


@pytest.mark.parametrize(
    ("begin", "end", "size"),
    [
        (0, 0, 500),
        (2, 1, 500),
        (1, 1025, 500),
        (SEQ_MAX, SEQ_MAX + 1, 500),
        (1, 1, 0),
        (1, 1, 100),
        (1, 1, 256 * KIB + 1),
    ],
)
def test_t38_a_push_that_cannot_be_a_batch_ends_the_link(begin: int, end: int, size: int) -> None:
    side = Side()
    side.hear()
    with pytest.raises(RemoteProtocolError):
        side.exchange.receive(0, WalPush(begin, end, bytes(size)), side.now)


def test_more_unanswered_than_the_window_allows_ends_the_link() -> None:
    log = make_log(LOG, 8, records=1, size=200 * KIB)
    side = Side()
    side.hear()
    for batch in log[:6]:
        side.push(batch)
    with pytest.raises(RemoteProtocolError) as caught:
        side.push(log[6])
    assert caught.value.reason is Reason.OVERLOADED


@pytest.mark.parametrize("verdict", [Verdict.DUPLICATE, Verdict.LEFT_ALONE, Verdict.NOT_STORED, Verdict.GAP])
def test_whatever_becomes_of_a_push_it_counts_until_it_is_answered_and_no_longer(verdict: Verdict) -> None:
    (batch,) = make_log(LOG, 1, records=1, size=200 * KIB)
    side = Side()
    side.hear()
    for _ in range(20):
        assert side.push(batch)
        side.exchange.judged(0, verdict, 1 if verdict is Verdict.DUPLICATE else 0, side.now)


def test_the_first_push_is_answered_with_a_wider_window() -> None:
    log = make_log(LOG, 2)
    side = Side()
    side.hear()
    side.push(log[0])
    side.push(log[1])
    pulls = [message for message in side.take() if isinstance(message, OutboxPull)]
    assert pulls == [OutboxPull(OWN.hex(), 65_536 - 4_096)]


def test_t37_a_malformed_push_is_scored_and_a_foreign_one_is_not() -> None:
    log = make_log(LOG, 2)
    side = Side()
    side.hear()
    side.push(log[0])
    side.exchange.judged(0, Verdict.LEFT_ALONE, 0, side.now)
    assert side.exchange.take_effects() == []
    side.push(log[0])
    side.exchange.judged(0, Verdict.MALFORMED, 0, side.now)
    assert side.exchange.take_effects() == [Penalize(PEER, Reason.PROTOCOL)]


def test_what_was_left_alone_is_asked_for_again_once_it_is_taken_from_somebody() -> None:
    log = make_log(LOG, 3)
    side = Side(links=2)
    side.hear(entry(log, 3))
    side.push(log[0])
    side.exchange.judged(0, Verdict.LEFT_ALONE, 0, side.now)
    assert heads(side.wait(2.0))[-1].want is False
    side.hear(entry(log, 1), link=1)
    side.push(log[0], link=1)
    side.apply(log[0], link=1)
    told = heads(side.wait(3.1))
    assert told
    assert told[-1] == HeadEntry(LOG, 1, log[0].hash, want=True), "its claim counts again: the other is not ahead"


def test_what_is_taken_after_all_is_wanted_from_others_even_if_its_bringers_link_has_ended() -> None:
    log = make_log(LOG, 2)
    side = Side(links=2)
    for link in (0, 1):
        side.exchange.receive(link, WalHeads((entry(log, 2),)), side.now)
    side.push(log[0])
    side.exchange.judged(0, Verdict.LEFT_ALONE, 0, side.now)
    assert not side.exchange._suppliers.wants(LOG, 0)
    side.exchange.link_down(1, side.now)
    side.exchange.judged(1, Verdict.APPLIED, 1, side.now, origin=LOG)
    assert side.exchange._suppliers.wants(LOG, 0)


def test_a_supplier_whose_push_we_could_not_store_keeps_its_place() -> None:
    log = make_log(LOG, 1)
    side = Side(links=2)
    side.hear(entry(log, 1))
    side.hear(entry(log, 1), link=1)
    side.wait(2.5)
    side.push(log[0])
    side.exchange.judged(0, Verdict.NOT_STORED, 0, side.now)
    side.wait(1.5)
    assert side.exchange.supplier(LOG) == 0
    side.wait(3.0)
    assert side.exchange.supplier(LOG) == 1


@pytest.mark.parametrize(("number", "supplier"), [(0, 0), (1, 1)])
def test_t39_only_what_continues_our_log_keeps_a_supplier_its_place_while_we_are_slow(
    number: int, supplier: int
) -> None:
    log = make_log(LOG, 2)
    side = Side(links=2)
    for link in (0, 1):
        side.hear(entry(log, 2), link=link)
    assert side.exchange.supplier(LOG) == 0
    side.push(log[number])
    side.wait(LIMITS.supplier_stall_s + 1.0)
    assert side.exchange.supplier(LOG) == supplier


def test_pushes_are_arriving_until_each_is_answered() -> None:
    log = make_log(LOG, 2)
    side = Side()
    side.hear(entry(log, 2))
    sync = side.exchange._links[0]
    for batch in log:
        assert side.push(batch)
    for batch in log:
        assert sync.is_arriving(LOG)
        side.apply(batch)
    assert not sync.is_arriving(LOG)


def test_what_the_store_could_not_take_is_asked_for_again_when_it_can() -> None:
    log = make_log(LOG, 1)
    side = Side()
    side.hear(entry(log, 1))
    side.push(log[0])
    side.stores = False
    side.exchange.judged(0, Verdict.NOT_STORED, 0, side.now)
    side.take()
    assert heads(side.wait(30.0)) == []
    side.stores = True
    assert heads(side.wait(1.1)) == [HeadEntry(LOG, 0, ZERO_HASH, want=True)]
    assert heads(side.wait(30.0)) == []


# Forks.


def test_t36_equal_seq_with_another_hash_makes_both_push_what_covers_it_once() -> None:
    ours, theirs = make_log(LOG, 3), make_log(LOG, 3, mark=b"x")
    side = Side(ours)
    assert pushed(side.hear(entry(theirs, 3))) == [(3, 3)]
    side.ack(2)
    assert side.loads == 1
    loads = side.loads
    assert pushed(side.hear(entry(theirs, 3))) == []
    assert side.loads == loads, "nor looked up again"


def test_t36_a_log_that_is_frozen_before_it_was_compared_is_not_pushed_any_more() -> None:
    ours, theirs = make_log(LOG, 3), make_log(LOG, 3, mark=b"x")
    side = Side(ours)
    side.fails = {LoadKind.COVER}
    assert pushed(side.hear(entry(theirs, 3))) == []
    side.heads[LOG] = LogHead(3, ours[2].hash, frozen=True)
    side.exchange.moved({LOG}, side.now)
    side.fails = set()
    messages = side.wait(60.0)
    assert pushed(messages) == []
    assert [type(message) for message in messages if not isinstance(message, WalHeads)] == [ForkProof], "it says why"


@pytest.mark.parametrize("want", [True, False])
def test_t36_a_lower_head_that_is_not_ours_is_answered_with_the_batch_there(want: bool) -> None:
    ours, theirs = make_log(LOG, 40), make_log(LOG, 2, mark=b"x")
    assert pushed(Side(ours).hear(entry(theirs, 2, want=want))) == [(2, 2)]


def test_t36_what_is_being_compared_is_not_loaded_to_be_pushed() -> None:
    ours, theirs = make_log(LOG, 40), make_log(LOG, 2, mark=b"x")
    side = Side(ours)
    side.exchange.passed(LOG, 2, ours[1].hash)
    assert pushed(side.hear(entry(theirs, 2))) == [(2, 2)]
    assert side.loads == 1, "the batch that is shown, and none of what would follow"


@pytest.mark.parametrize("want", [True, False])
def test_t36_a_head_where_we_have_no_boundary_is_answered_with_the_batch_that_covers_it(want: bool) -> None:
    ours, theirs = make_log(LOG, 5, records=4), make_log(LOG, 3, records=2)
    assert pushed(Side(ours).hear(entry(theirs, 3, want=want))) == [(5, 8)]


def test_t36_who_was_shown_where_his_log_is_not_ours_is_shown_nothing_more_of_it() -> None:
    ours, theirs = make_log(LOG, 3), make_log(LOG, 3, mark=b"x")
    side = Side(ours)
    assert pushed(side.hear(entry(theirs, 3, want=False))) == [(3, 3)]
    side.ack(2)
    for held in (1, 2):
        assert pushed(side.hear(entry(theirs, held, want=False)) + side.wait(60)) == []


def test_t36_a_head_seen_before_we_got_there_is_compared_when_we_do() -> None:
    ours, theirs = make_log(LOG, 3), make_log(LOG, 2, mark=b"x")
    side = Side(ours[:1], links=2)
    side.hear(entry(theirs, 2))
    side.append(ours[1])
    assert pushed(side.take()) == [(2, 2)]


def test_a_head_seen_before_we_got_there_is_compared_once() -> None:
    log = make_log(LOG, 40)
    side = Side(log[:2])
    side.hear(entry(log, 3, want=False))
    for batch in log[2:]:
        side.append(batch)
        side.wait(10.0)
    assert side.loads == 0


def test_t36_a_store_that_cannot_be_read_only_delays_the_comparison() -> None:
    ours, theirs = make_log(LOG, 3), make_log(LOG, 3, mark=b"x")
    side = Side(ours)
    side.fails = {LoadKind.COVER}
    assert pushed(side.hear(entry(theirs, 3))) == []
    assert pushed(side.wait(5.0)) == []
    side.fails.clear()
    assert pushed(side.wait(1.1)) == [(3, 3)]


def test_a_proof_that_cannot_be_read_is_sent_when_it_can() -> None:
    log = make_log(LOG, 3)
    side = Side(log)
    side.hear(entry(log, 3))
    side.fails = {LoadKind.PROOF}
    side.heads[LOG] = LogHead(2, log[1].hash, frozen=True)
    side.exchange.moved({LOG}, side.now)
    assert not any(isinstance(message, ForkProof) for message in side.take() + side.wait(5.0))
    assert side.loads <= 7, "it is tried once a second"
    side.fails.clear()
    assert sum(isinstance(message, ForkProof) for message in side.wait(5.0)) == 1


def test_a_suspicion_that_does_not_hold_lets_pushes_go_on() -> None:
    """Between the comparison in memory and that in the store, our log became what the peer shows."""
    ours, theirs = make_log(LOG, 3, mark=b"x"), make_log(LOG, 5)
    side = Side(ours)
    side.exchange.receive(0, WalHeads((entry(theirs, 3),)), side.now)
    side.logs[LOG] = list(theirs[:4])
    side.heads[LOG] = LogHead(4, theirs[3].hash)
    assert pushed(side.take()) == []
    assert pushed(side.wait(1.1)) == [(4, 4)], "and not only at the peer's next entry"
    side.append(theirs[4])
    assert pushed(side.take()) == [(5, 5)]


def test_a_log_that_shrank_before_it_was_compared_is_pushed_when_it_grows() -> None:
    ours, theirs = make_log(LOG, 3, mark=b"x"), make_log(LOG, 4)
    side = Side(ours)
    side.exchange.receive(0, WalHeads((entry(theirs, 2),)), side.now)
    side.logs[LOG] = list(theirs[:1])
    side.heads[LOG] = LogHead(1, theirs[0].hash)
    side.exchange.moved({LOG}, side.now)
    assert pushed(side.take()) == []
    side.wait(2.0)
    assert side.exchange.next_deadline() == NEVER, "nothing to wait for but the log"
    side.append(theirs[1])
    side.append(theirs[2])
    assert pushed(side.take() + side.wait(1.1)) == [(3, 3)]


def test_a_log_whose_batch_is_missing_is_looked_at_again() -> None:
    ours, theirs = make_log(LOG, 3), make_log(LOG, 3, mark=b"x")
    side = Side(ours)
    side.logs[LOG] = ours[:2]
    assert pushed(side.hear(entry(theirs, 3))) == []
    loads = side.loads
    assert pushed(side.wait(10.0)) == []
    assert side.loads <= loads + 10, "at a pace"
    side.logs[LOG] = ours
    assert pushed(side.wait(1.1)) == [(3, 3)]


def test_an_honest_lower_head_is_left_in_peace() -> None:
    log = make_log(LOG, 60)
    side = Side(log)
    assert pushed(side.hear(entry(log, 2, want=False))) == []
    assert side.loads == 1, "looked up once"
    assert pushed(side.hear(entry(log, 58))) == [(59, 59), (60, 60)]


def freeze(side: Side, lower: int) -> None:
    log = side.logs[LOG]
    held = log[lower - 2] if lower > 1 else None
    side.heads[LOG] = LogHead(held.seq_end if held else 0, held.hash if held else ZERO_HASH, frozen=True)
    side.exchange.moved({LOG}, side.now)


def test_t36_the_proof_goes_to_every_peer_that_does_not_show_the_mark() -> None:
    log = make_log(LOG, 3)
    side = Side(log, links=3)
    side.hear(HeadEntry(LOG, 1, FROZEN_MARK, want=False))
    side.hear(entry(log, 3), link=1)
    side.hear(link=2)
    side.take(2)
    freeze(side, 3)
    sent = {link: side.wait(0.2 if link == 0 else 0.0, link=link) for link in range(3)}
    proofs = {link: sum(isinstance(message, ForkProof) for message in sent[link]) for link in sent}
    assert proofs == {0: 0, 1: 1, 2: 1}
    assert heads(sent[1])[-1].hash == FROZEN_MARK
    later = side.hear(HeadEntry(LOG, 2, FROZEN_MARK, want=False), link=1)
    assert not any(isinstance(message, ForkProof) for message in later)


def test_t36_nothing_at_or_above_the_proof_is_served() -> None:
    log = make_log(LOG, 6)
    side = Side(log)
    freeze(side, 4)
    side.take()
    assert pushed(side.hear(HeadEntry(LOG, 0, FROZEN_MARK, want=True))) == [(1, 1), (2, 2), (3, 3)]


def test_t36_a_log_is_completed_up_to_the_proof_and_no_further() -> None:
    log, other = make_log(LOG, 5), make_log(LOG, 5, mark=b"x")
    side = Side(log[:1])
    side.hear(entry(log, 1))
    side.proof = ForkProof(log[3].wal_bytes, other[3].wal_bytes)
    side.heads[LOG] = LogHead(1, log[0].hash, frozen=True)
    side.exchange.moved({LOG}, side.now)
    side.hear(HeadEntry(LOG, 3, FROZEN_MARK, want=False))
    assert heads(side.wait(0.1))[-1] == HeadEntry(LOG, 1, FROZEN_MARK, want=True)
    side.heads[LOG] = LogHead(3, log[2].hash, frozen=True)
    side.exchange.moved({LOG}, side.now)
    assert heads(side.wait(0.1))[-1] == HeadEntry(LOG, 3, FROZEN_MARK, want=False)


def test_proofs_are_paced() -> None:
    side = Side(*(make_log(PeerId(number.to_bytes(32, "big")), 1) for number in range(900, 920)))
    for origin in list(side.heads):
        side.heads[origin] = LogHead(0, ZERO_HASH, frozen=True)
    side.exchange.moved(set(side.heads), side.now)
    side.take()
    first = [message for message in side.hear() if isinstance(message, ForkProof)]
    assert len(first) == 1
    count = 0
    for _ in range(30):
        count += sum(isinstance(message, ForkProof) for message in side.wait(0.05))
    assert count == 19


def test_t24_proofs_beyond_the_bound_are_not_checked_and_asked_for_again() -> None:
    log = make_log(LOG, 2)
    side = Side()
    side.hear(entry(log, 2))
    proof = ForkProof(log[0].wal_bytes, log[1].wal_bytes)
    assert [side.exchange.receive(0, proof, side.now) for _ in range(6)] == [True] * 4 + [False] * 2
    for _ in range(4):
        side.exchange.proof_judged(0, LOG, Verdict.DUPLICATE, side.now)
    assert heads(side.wait(1.1)) == [HeadEntry(LOG, 0, ZERO_HASH, want=True)]
    assert [side.exchange.receive(0, proof, side.now) for _ in range(6)] == [True] * 4 + [False] * 2


def test_t24_a_proof_over_the_bound_and_one_of_no_batch_are_refused() -> None:
    log = make_log(LOG, 2)
    side = Side()
    side.hear(entry(log, 2))
    size = LIMITS.proof_bytes_max - len(log[0].wal_bytes)
    assert side.exchange.receive(0, ForkProof(log[0].wal_bytes, bytes(size)), side.now)
    for first, second in ((log[0].wal_bytes, bytes(size + 1)), (b"", log[0].wal_bytes)):
        with pytest.raises(RemoteProtocolError, match="no two batches"):
            side.exchange.receive(0, ForkProof(first, second), side.now)


# Bounds.


def test_t40_pauses_of_a_log_take_one_place_however_often_it_is_paused() -> None:
    log = make_log(LOG, 3)
    side = Side(log)
    for _ in range(500):
        for _, end in pushed(side.hear(entry(log, 3)) + side.hear(entry(log, 0))):
            side.ack(end)
    sync = side.exchange._links[0]
    assert len(sync.pushes._paused) <= 1
    side.wait(2000.0)
    assert sync.pushes.next_deadline() == NEVER


def test_t38_pushes_and_proofs_of_unlisted_logs_leave_nothing_to_be_told() -> None:
    limits = replace(LIMITS, origins_max=16)
    side = Side(limits=limits)
    side.hear()
    side.stores = False
    for number in range(300):
        batch = make_log(PeerId((10_000 + number).to_bytes(32)), 1)[0]
        side.push(batch)
        side.exchange.judged(0, Verdict.NOT_STORED, 0, side.now)
        proof = ForkProof(batch.wal_bytes, batch.wal_bytes)
        if side.exchange.receive(0, proof, side.now):
            side.exchange.proof_judged(0, batch.origin, Verdict.NOT_STORED, side.now)
    sync = side.exchange._links[0]
    assert len(sync._retell) == limits.origins_max


def test_t38_what_other_peers_claim_is_told_and_remembered_within_bounds() -> None:
    limits = replace(LIMITS, origins_max=8)
    side = Side(links=2, limits=limits)
    side.hear(link=1)
    told = side.exchange._links[1]._told
    for life in range(20):
        key, names = 10 + life, [PeerId((100 * life + number + 1_000).to_bytes(32)) for number in range(20)]
        side.exchange.link_up(key, PeerId(bytes([60 + life]) * 32), side.now)
        side.hear(*(HeadEntry(name, 5, b"h" * 32, want=False) for name in names), link=key)
        side.wait(2.0, link=1)
        assert len(told) <= limits.origins_max
        side.exchange.link_down(key, side.now)
        side.wait(2.0, link=1)
    assert not told, "what nobody claims any more is as if it had never been listed"


# Whose log is where.


def test_confirmed_follows_acks_and_heads() -> None:
    log = make_log(OWN, 4)
    side = Side(log, links=2)
    side.hear(entry(log, 1))
    assert side.exchange.confirmed()[PEER] == 1
    side.ack(2)
    assert side.exchange.confirmed()[PEER] == 2
    assert side.exchange.lag(OWN) == {PEER: 2, PeerId(bytes([51]) * 32): 4}
    side.exchange.link_down(0, side.now)
    assert side.exchange.confirmed()[PEER] == 2, "it holds it still"
    assert side.exchange.lag(OWN) == {PeerId(bytes([51]) * 32): 4}


def test_another_history_of_our_log_confirms_nothing() -> None:
    ours, theirs = make_log(OWN, 2), make_log(OWN, 2, mark=b"x")
    side = Side(ours)
    side.hear(entry(theirs, 2, want=False))
    assert side.exchange.confirmed().get(PEER, 0) == 0


@pytest.mark.parametrize("want", [True, False])
@pytest.mark.parametrize("held", [1, 3, 30])
def test_t39_a_head_of_our_log_that_is_not_ours_confirms_nothing(held: int, want: bool) -> None:
    log, theirs = make_log(OWN, 40), make_log(OWN, 50, mark=b"x")
    side = Side(log)
    for shown in (held, 39, 40, 41, 50):
        side.hear(entry(theirs, shown, want=want))
        side.wait(2.0)
        assert side.exchange.confirmed().get(PEER, 0) == 0


@pytest.mark.parametrize("want", [True, False])
@pytest.mark.parametrize("held", [1, 39, 40])
def test_a_head_that_is_ours_confirms_however_old_it_is(held: int, want: bool) -> None:
    log = make_log(OWN, 40)
    side = Side(log)
    side.hear(entry(log, held, want=want))
    assert side.exchange.confirmed()[PEER] == held


def test_heads_in_quick_succession_are_all_compared_in_the_end() -> None:
    log = make_log(OWN, 40)
    side = Side(log)
    for held in range(1, 9):
        side.hear(entry(log, held, want=False))
    assert side.loads <= 2, "at a pace"
    side.wait(2.0)
    assert side.exchange.confirmed()[PEER] == 8


def test_a_head_of_our_log_that_acks_confirmed_already_is_not_looked_up() -> None:
    log = make_log(OWN, 40)
    side = Side(log)
    side.hear(entry(log, 10))
    for held in (11, 12):
        side.ack(held)
    assert side.exchange.confirmed()[PEER] == 12
    loads = side.loads
    side.hear(entry(log, 12))
    side.wait(60.0)
    assert side.loads == loads


def test_a_peer_that_lost_our_log_confirms_it_no_more() -> None:
    log = make_log(OWN, 4)
    side = Side(log)
    side.hear(entry(log, 4))
    side.hear(entry(log, 2))
    assert side.exchange.confirmed()[PEER] == 2
    side.hear(HeadEntry(OWN, 0, ZERO_HASH, want=True))
    assert side.exchange.confirmed()[PEER] == 0


def test_t39_heads_beyond_our_own_log_confirm_nothing_until_they_are_ours() -> None:
    log = make_log(OWN, 4)
    side = Side(log[:2])
    side.hear(entry(log, 4))
    assert side.exchange.confirmed().get(PEER, 0) == 0
    side.append(log[2])
    side.append(log[3])
    assert side.exchange.confirmed()[PEER] == 4


def test_t42_a_log_that_is_ahead_is_pulled_before_ours_is_pushed() -> None:
    log = make_log(OWN, 5)
    side = Side(log[:2])
    assert pushed(side.hear(entry(log, 5))) == []
    assert heads(side.wait(0.06))[-1] == HeadEntry(OWN, 2, log[1].hash, want=True)


def test_the_head_of_a_forgotten_log_is_told_as_empty() -> None:
    log = make_log(LOG, 2)
    side = Side(log)
    side.hear(entry(log, 2))
    del side.heads[LOG]
    side.logs.clear()
    side.exchange.moved({LOG}, side.now)
    assert heads(side.wait(0.06)) == [HeadEntry(LOG, EMPTY_LOG.seq, ZERO_HASH, want=True)]


# Answers that come late, or never.


def test_an_end_that_is_told_twice_is_one() -> None:
    side = Side(make_log(LOG, 1), links=2)
    for _ in range(2):
        side.exchange.link_down(0, side.now)
    assert side.exchange.lag(OWN) == {PeerId(bytes([51]) * 32): 0}


def test_a_message_that_is_none_of_the_exchange_ends_the_link() -> None:
    with pytest.raises(RemoteProtocolError, match="Data is no message of the exchange"):
        Side().exchange.receive(0, Data("chat"), 100.0)


def test_what_was_loaded_or_judged_for_a_link_that_ended_meanwhile_is_passed_over() -> None:
    log, theirs = make_log(LOG, 3), make_log(LOG, 3, mark=b"x")
    side = Side(log)
    side.exchange.receive(0, WalHeads((entry(theirs, 3),)), side.now)
    cover = side.exchange.next_load(side.now)
    assert cover is not None
    assert cover.kind is LoadKind.COVER
    side.push(theirs[0])
    side.exchange.receive(0, ForkProof(log[0].wal_bytes, theirs[0].wal_bytes), side.now)
    side.exchange.link_down(0, side.now)
    side.take()
    side.exchange.loaded(cover, [], side.now)
    side.exchange.load_failed(cover, side.now)
    side.exchange.proof_loaded(msgspec.structs.replace(cover, kind=LoadKind.PROOF), None, side.now)
    side.exchange.judged(0, Verdict.MALFORMED, 0, side.now)
    side.exchange.proof_judged(0, LOG, Verdict.MALFORMED, side.now)
    assert side.exchange.take_messages() == []
    assert side.exchange.take_effects() == []
    side.wait(1.0)
    assert side.exchange.next_deadline() == NEVER


def test_t36_a_proof_that_is_none_is_scored() -> None:
    log = make_log(LOG, 2)
    side = Side()
    side.hear(entry(log, 2))
    side.exchange.receive(0, ForkProof(log[0].wal_bytes, log[1].wal_bytes), side.now)
    side.exchange.proof_judged(0, LOG, Verdict.MALFORMED, side.now)
    assert side.exchange.take_effects() == [Penalize(PEER, Reason.PROTOCOL)]


def test_a_proof_that_could_not_be_stored_is_asked_for_again() -> None:
    log = make_log(LOG, 2)
    side = Side()
    side.hear(entry(log, 2))
    side.exchange.receive(0, ForkProof(log[0].wal_bytes, log[1].wal_bytes), side.now)
    side.exchange.proof_judged(0, LOG, Verdict.NOT_STORED, side.now)
    assert side.exchange.take_effects() == []
    assert heads(side.wait(0.9)) == []
    assert heads(side.wait(0.2)) == [HeadEntry(LOG, 0, ZERO_HASH, want=True)]


def test_a_proof_that_the_store_does_not_have_is_not_sent_and_bounds_nothing() -> None:
    log = make_log(LOG, 4)
    side = Side(log[:1])
    side.hear(entry(log, 4))
    side.heads[LOG] = LogHead(1, log[0].hash, frozen=True)
    side.exchange.moved({LOG}, side.now)
    loads = []
    while (load := side.exchange.next_load(side.now)) is not None:
        loads.append(load)
        side.exchange.proof_loaded(load, None, side.now)
    assert loads == [Load(LoadKind.PROOF, link, LOG, 0, LIMITS.proof_bytes_max) for link in (NO_LINK, 0)]
    assert not any(isinstance(message, ForkProof) for _, message in side.exchange.take_messages())
    assert heads(side.wait(0.1))[-1] == HeadEntry(LOG, 1, FROZEN_MARK, want=False)


def test_the_proof_of_an_origin_is_read_again_when_the_store_could_not() -> None:
    log = make_log(LOG, 3)
    side = Side(log)
    side.fails = {LoadKind.PROOF}
    freeze(side, 2)
    side.take()
    loads = side.loads
    side.exchange.moved({LOG}, side.now)
    side.take()
    assert side.loads > loads
    side.fails.clear()
    side.exchange.moved({LOG}, side.now)
    side.take()
    loads = side.loads
    side.exchange.moved({LOG}, side.now)
    side.take()
    assert side.loads == loads, "once it is known it is not read again"


def test_where_a_log_was_when_it_moved_last_is_known() -> None:
    log = make_log(LOG, 2)
    side = Side(log[:1])
    assert (side.exchange.known_seq(LOG), side.exchange.known_seq(THIRD)) == (1, 0)
    assert side.exchange.own_shown(0) == 0
    side.append(log[1])
    assert side.exchange.known_seq(LOG) == 2


def test_a_batch_beyond_our_head_is_remembered_nowhere() -> None:
    ours, theirs = make_log(LOG, 3), make_log(LOG, 3, mark=b"x")
    side = Side(ours[:1])
    side.exchange.passed(LOG, 2, theirs[1].hash)
    side.hear(entry(ours, 2, want=False))
    side.append(ours[1])
    assert pushed(side.take()) == []
    assert pushed(side.hear(entry(theirs, 2, want=False))) == [(2, 2)]


def test_a_log_that_is_taken_after_all_is_told_to_a_link_that_never_listed_it() -> None:
    log = make_log(LOG, 3)
    side = Side(log[:1], links=2)
    side.hear()
    side.push(log[1])
    side.exchange.judged(0, Verdict.LEFT_ALONE, 1, side.now)
    assert heads(side.wait(0.1))[-1].want is False
    side.hear(entry(log, 2), link=1)
    side.push(log[1], link=1)
    side.exchange.judged(1, Verdict.APPLIED, 2, side.now)
    assert [entry.origin for entry in heads(side.take())] == [LOG], "at once, and not only when the log has moved"


def test_a_load_that_comes_back_for_another_head_than_the_peer_shows_now_is_made_again() -> None:
    ours, theirs = make_log(LOG, 3), make_log(LOG, 3, mark=b"x")
    side = Side(ours)
    side.exchange.receive(0, WalHeads((entry(theirs, 2, want=False),)), side.now)
    load = side.exchange.next_load(side.now)
    assert load is not None
    side.exchange.receive(0, WalHeads((entry(theirs, 3, want=False),)), side.now)
    side.exchange.loaded(load, [ours[1]], side.now)
    assert pushed(side.take()) == []
    assert pushed(side.wait(LIMITS.store_retry_s)) == [(3, 3)]


def test_t36_a_log_that_froze_before_it_was_compared_is_shown_by_its_proof() -> None:
    ours, theirs = make_log(LOG, 3), make_log(LOG, 3, mark=b"x")
    side = Side(ours)
    side.exchange.receive(0, WalHeads((entry(theirs, 3),)), side.now)
    load = side.exchange.next_load(side.now)
    assert load is not None
    freeze(side, 3)
    side.exchange.loaded(load, [ours[2]], side.now)
    sent = side.take() + side.wait(1.0)
    assert pushed(sent) == []
    assert sum(isinstance(message, ForkProof) for message in sent) == 1


def test_an_ack_within_a_batch_of_a_log_that_the_peer_never_listed_sends_nothing_more_of_it() -> None:
    log = make_log(LOG, 3, records=2)
    side = Side(log)
    assert pushed(side.hear()) == [(1, 2), (3, 4), (5, 6)]
    side.ack(2)
    side.ack(1)
    assert pushed(side.ack(1)) == []
    assert pushed(side.wait(200.0)) == []


def test_t38_what_peers_confirmed_is_remembered_of_so_many() -> None:
    log = make_log(OWN, 1)
    side = Side(log, limits=replace(LIMITS, confirmed_peers_max=2))
    side.hear(entry(log, 1))
    for key in (1, 2):
        side.exchange.link_up(key, PeerId(bytes([60 + key]) * 32), side.now)
        side.hear(entry(log, 1), link=key)
    assert side.exchange.confirmed() == {PeerId(bytes([61]) * 32): 1, PeerId(bytes([62]) * 32): 1}


def test_a_store_that_cannot_be_read_only_delays_what_is_pushed() -> None:
    log = make_log(LOG, 2)
    side = Side(log)
    side.fails = {LoadKind.STREAM}
    assert pushed(side.hear()) == []
    loads = side.loads
    assert pushed(side.wait(5.0)) == []
    assert 3 <= side.loads - loads <= 6
    side.fails.clear()
    assert pushed(side.wait(1.0)) == [(1, 1), (2, 2)]


# A head that falls.


def test_t62_a_head_that_falls_back_to_what_was_told_last_is_told_again() -> None:
    log = make_log(LOG, 3)
    side = Side(log[:1])
    side.hear(entry(log, 3))
    for batch in log[1:]:
        side.push(batch)
        side.apply(batch)
    # Before what was applied is told: damage, and the head is where the peer was told last that it is.
    side.heads[LOG] = LogHead(1, log[0].hash)
    side.exchange.moved({LOG}, side.now)
    told = heads(side.wait(LIMITS.heads_debounce_s))
    assert [(each.seq, each.hash, each.want) for each in told] == [(1, log[0].hash, True)]


def test_t62_an_empty_log_that_was_held_a_moment_ago_is_told() -> None:
    log = make_log(LOG, 2)
    side = Side()
    side.hear(entry(log, 2))
    side.take()
    for batch in log:
        side.push(batch)
        side.apply(batch)
    side.heads[LOG] = EMPTY_LOG
    side.exchange.moved({LOG}, side.now)
    assert [each.seq for each in heads(side.wait(LIMITS.heads_debounce_s))] == [0]


def test_t62_who_is_told_that_we_hold_a_batch_above_the_damaged_one_is_told_of_the_damage_after_it() -> None:
    log = make_log(LOG, 3)
    side = Side(log)
    side.hear(entry(log, 3))
    side.heads[LOG] = LogHead(1, log[0].hash)
    side.exchange.moved({LOG}, side.now)
    assert [each.seq for each in heads(side.wait(LIMITS.heads_debounce_s))] == [1]
    # What was under way when that was said is a duplicate, and makes the peer believe that nothing is missing.
    side.push(log[2])
    side.exchange.judged(0, Verdict.DUPLICATE, 3, side.now)
    assert [each.seq for each in heads(side.wait(LIMITS.heads_debounce_s))] == [1]
    assert heads(side.wait(60)) == []


def test_t38_what_several_peers_claim_is_told_within_one_bound() -> None:
    side = Side(links=4, limits=replace(LIMITS, origins_max=8))
    side.hear(link=3)
    for link in range(3):
        names = [PeerId((1_000 * link + number + 1_000).to_bytes(32)) for number in range(20)]
        side.hear(*(HeadEntry(name, 5, b"h" * 32, want=False) for name in names), link=link)
    side.wait(2.0, link=3)
    assert len(side.exchange._links[3]._told) == 8
    assert len(heads(side.take(3))) <= 8


def test_a_log_is_looked_up_for_one_peer_so_often_a_minute() -> None:
    log = make_log(OWN, 40)
    side = Side(log)
    side.hear(entry(log, 1, want=False))
    assert (side.loads, side.exchange.confirmed()[PEER]) == (1, 1)
    side.hear(entry(log, 2, want=False))
    pace_s = 60 / LIMITS.refetch_per_minute_max
    side.wait(pace_s - 0.01)
    assert (side.loads, side.exchange.confirmed()[PEER]) == (1, 1)
    side.wait(0.01)
    assert (side.loads, side.exchange.confirmed()[PEER]) == (2, 2)


def test_what_was_looked_up_once_is_remembered() -> None:
    log = make_log(OWN, 40)
    side = Side(log)
    for _ in range(3):
        side.hear(entry(log, 1, want=False))
        side.wait(60.0)
        assert (side.loads, side.exchange.confirmed()[PEER]) == (1, 1)


def test_a_proof_goes_to_one_peer_so_often_a_minute() -> None:
    log = make_log(LOG, 3)
    side = Side(log)
    side.hear(entry(log, 3))
    freeze(side, 3)
    proofs = sum(isinstance(message, ForkProof) for message in side.take())
    assert proofs == 1
    pace_s = 60 / LIMITS.refetch_per_minute_max
    for wait_s, more in ((pace_s - 0.01, 0), (0.01, 1), (pace_s - 0.01, 0)):
        sent = side.wait(wait_s) + side.hear(entry(log, 3))
        assert sum(isinstance(message, ForkProof) for message in sent) == more


@pytest.mark.parametrize("is_stored", [True, False])
def test_a_proof_goes_again_to_who_spoke_soon_after_it_and_shows_no_mark_yet(is_stored: bool) -> None:
    """What the peer said then may be the last that it says of that log, and the proof may be lost with its store."""
    log = make_log(LOG, 3)
    side = Side(log)
    side.hear(entry(log, 2))
    freeze(side, 3)
    assert sum(isinstance(message, ForkProof) for message in side.take()) == 1
    pace_s = 60 / LIMITS.refetch_per_minute_max
    sent = side.wait(pace_s / 2) + side.hear(entry(log, 3))
    if is_stored:
        sent += side.hear(HeadEntry(LOG, 2, FROZEN_MARK, want=False))
    assert not any(isinstance(message, ForkProof) for message in sent)
    later = side.wait(pace_s / 2)
    assert sum(isinstance(message, ForkProof) for message in later) == (0 if is_stored else 1)
    assert not any(isinstance(message, ForkProof) for message in side.wait(10 * pace_s)), "once"
    assert side.exchange.next_deadline() == float("inf")


def test_what_a_peer_shows_is_told_with_the_logs_that_are_frozen_there() -> None:
    log = make_log(LOG, 3)
    side = Side(log)
    side.hear(entry(log, 2), HeadEntry(THIRD, 7, FROZEN_MARK, want=False))
    assert side.exchange.shown() == {
        PEER: {LOG: LogHead(2, log[1].hash), THIRD: LogHead(7, FROZEN_MARK, frozen=True)},
    }
    assert side.exchange.lag(LOG) == {PEER: 1}
    assert side.exchange.lag(THIRD) == {PEER: 0}, "nothing of it is held here"
    before = side.exchange.shown()[PEER]
    assert (len(before), LOG in before, OWN in before) == (2, True, False)
    assert repr(before) == repr(dict(before))
    side.hear(entry(log, 3))
    assert before[LOG].seq == 2, "it is what was shown up to then"


def test_t42_appends_wait_for_first_words_until_all_who_matter_are_heard() -> None:
    exchange = Exchange(OWN, {}, LIMITS, 0.0, word_s=5.0)
    assert exchange.take_effects() == [HoldAppends(5.0)]
    assert exchange.awaits_word
    exchange.all_heard(1.0)
    assert exchange.take_effects() == [ReleaseAppends()]
    exchange.all_heard(2.0)
    assert exchange.take_effects() == []


def test_t42_appends_wait_once_for_who_claims_more_of_our_log() -> None:
    side = Side(make_log(OWN, 1))
    assert side.exchange.confirmations == 0
    side.hear(HeadEntry(OWN, 9, b"\x01" * 32, want=False))
    assert side.exchange.take_effects() == [HoldAppends(LIMITS.append_delay_on_claim_s_max)]
    side.wait(2 * LIMITS.supplier_stall_s)
    assert [effect for effect in side.exchange.take_effects() if isinstance(effect, HoldAppends | ReleaseAppends)] == [
        ReleaseAppends()
    ]
    side.hear(HeadEntry(OWN, 12, b"\x02" * 32, want=False))
    assert not any(isinstance(effect, HoldAppends) for effect in side.exchange.take_effects())


def test_t39_who_claims_more_of_anothers_log_and_is_slow_is_not_scored() -> None:
    log = make_log(LOG, 3)
    side = Side(links=2)
    for link in range(2):
        side.hear(entry(log, 3), link=link)
    side.wait(10 * LIMITS.supplier_stall_s)
    assert side.exchange.take_effects() == []


def test_t38_who_claims_more_of_our_log_is_scored_once_a_link() -> None:
    side = Side(make_log(OWN, 1))
    side.hear(HeadEntry(OWN, 9, b"\x01" * 32, want=False))
    side.wait(10 * LIMITS.supplier_stall_s)
    side.hear(HeadEntry(OWN, 12, b"\x02" * 32, want=False))
    side.wait(100 * LIMITS.supplier_stall_s)
    assert sum(isinstance(effect, Penalize) for effect in side.exchange.take_effects()) == 1


def test_a_log_that_shrank_while_it_was_loaded_to_be_compared_is_compared_when_it_gets_there() -> None:
    ours, theirs = make_log(LOG, 3), make_log(LOG, 3, mark=b"x")
    side = Side(ours)
    side.exchange.receive(0, WalHeads((entry(theirs, 3, want=False),)), side.now)
    load = side.exchange.next_load(side.now)
    assert load is not None
    assert load.kind is LoadKind.COVER
    side.heads[LOG] = LogHead(2, ours[1].hash)
    side.logs[LOG] = ours[:2]
    side.exchange.loaded(load, [], side.now)
    assert pushed(side.take()) == []
    side.append(ours[2])
    assert pushed(side.take() + side.wait(1.1)) == [(3, 3)]


def test_what_passed_here_is_compared_without_a_look_into_the_store() -> None:
    log = make_log(LOG, 3)
    side = Side(log)
    side.exchange.passed(LOG, 1, log[0].hash)
    side.exchange.passed(LOG, 2, log[1].hash)
    side.exchange.moved({LOG}, side.now)
    for held in (1, 2, 3):
        side.hear(entry(log, held, want=False))
    assert side.loads == 0


def test_what_is_said_to_have_passed_beyond_our_log_is_not_compared_with() -> None:
    log = make_log(LOG, 4)
    side = Side(log[:2])
    side.exchange.passed(LOG, 3, b"\x01" * 32)
    side.logs[LOG], side.heads[LOG] = log, LogHead(4, log[3].hash)
    side.exchange.moved({LOG}, side.now)
    assert pushed(side.hear(entry(log, 3))) == [(4, 4)]


def test_what_passed_at_our_head_is_compared_without_a_look_into_the_store_when_more_follows() -> None:
    log = make_log(LOG, 6)
    side = Side(log[:2])
    for held in (4, 6):
        side.logs[LOG], side.heads[LOG] = log[:held], LogHead(held, log[held - 1].hash)
        side.exchange.passed(LOG, held, log[held - 1].hash)
    side.exchange.moved({LOG}, side.now)
    side.hear(entry(log, 4, want=False))
    assert side.loads == 0


def test_a_peer_that_shows_another_history_of_our_log_confirms_it_no_more() -> None:
    log, theirs = make_log(OWN, 3), make_log(OWN, 3, mark=b"x")
    side = Side(log)
    side.hear(entry(log, 3, want=False))
    assert side.exchange.confirmed()[PEER] == 3
    side.hear(entry(theirs, 3, want=False))
    assert side.exchange.confirmed().get(PEER, 0) == 0
