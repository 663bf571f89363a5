"""Bugs put into a running world, one at a time: each must be found, or the checkers prove nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import trio
from msgspec.structs import replace as replace_struct

from p2p.crypto.identity import Identity
from p2p.errors import Reason
from p2p.limits import KIB, Limits
from p2p.msg import Data, WalPush
from p2p.node.commits import Committer
from p2p.node.follow import Follower
from p2p.node.node import Node
from p2p.node.replicator import Replicator
from p2p.node.requests import Requests
from p2p.node.serving import Service
from p2p.peer.asking import Asks
from p2p.peer.connection import Connection
from p2p.peer.outbox import Outbox, Sent
from p2p.relay.leg import Leg
from p2p.relay.switch import Switch
from p2p.replication import accept
from p2p.testing.plan import RELAY_FAULT, VILLAINS, Plan, draw_plan
from p2p.testing.world import World

Plant = Callable[[pytest.MonkeyPatch], None]


def an_ack_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    """Every seventh commit of our own records is told and then lost."""
    commit, count = Committer.commit, iter(range(10**9))

    def lossy(self: Committer, group: Any, wall_ms: int) -> Any:
        if not group.portions or next(count) % 7:
            return commit(self, group, wall_ms)
        with self._store.write() as transaction:
            done = Committer._commit(_Within(self, transaction), group, wall_ms)  # type: ignore[arg-type]
            transaction.undo()  # type: ignore[attr-defined]
            transaction.changed.clear()
        return done

    patch.setattr(Committer, "commit", lossy)


class _Within:
    """A committer whose store hands out a transaction that is open already."""

    def __init__(self, committer: Committer, transaction: Any) -> None:
        self._committer, self._transaction = committer, transaction

    def __getattr__(self, name: str) -> Any:
        return self if name == "_store" else getattr(self._committer, name)

    def write(self, *, is_bulk: bool = False) -> Any:
        return nullcontext(self._transaction)


def a_follower_that_skips(patch: pytest.MonkeyPatch) -> None:
    following, count = Follower.__anext__, iter(range(10**9))

    async def skipping(self: Follower) -> Any:
        if next(count) % 100 == 99:
            await following(self)
        return await following(self)

    patch.setattr(Follower, "__anext__", skipping)


def a_follower_that_repeats(patch: pytest.MonkeyPatch) -> None:
    following, count, last = Follower.__anext__, iter(range(1, 10**9)), [None]

    async def repeating(self: Follower) -> Any:
        if next(count) % 100 == 0 and last[0] is not None:
            return last[0]
        last[0] = await following(self)
        return last[0]

    patch.setattr(Follower, "__anext__", repeating)


def a_push_that_is_lost(patch: pytest.MonkeyPatch) -> None:
    """The outbox drops one batch in five."""
    put, count = Outbox.put_wal, iter(range(10**9))

    def dropping(self: Outbox, type: int, payload: bytes) -> None:
        if next(count) % 5 != 4:
            put(self, type, payload)

    patch.setattr(Outbox, "put_wal", dropping)


def replicated_too_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Replicator, "_held_by", lambda self, peers: 10**9)


def two_links_kept(patch: pytest.MonkeyPatch) -> None:
    """The link that loses is not told so."""
    patch.setattr(Connection, "retire", lambda self: None)


def a_bug_in_a_link(patch: pytest.MonkeyPatch) -> None:
    receive, count = Replicator.receive, iter(range(10**9))

    def failing(self: Replicator, link: Any, message: Any) -> None:
        if isinstance(message, WalPush) and next(count) == 25:
            raise KeyError("planted")
        receive(self, link, message)

    patch.setattr(Replicator, "receive", failing)


def an_innocent_peer_is_scored(patch: pytest.MonkeyPatch) -> None:
    receive = Replicator.receive

    def scoring(self: Replicator, link: Any, message: Any) -> None:
        if isinstance(message, WalPush):
            self._penalize(link.peer_id, Reason.PROTOCOL)
        receive(self, link, message)

    patch.setattr(Replicator, "receive", scoring)


def a_call_that_hangs_after_the_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Follower, "_on_close", lambda self: None)


def a_queue_without_bound(patch: pytest.MonkeyPatch) -> None:
    put_data = Outbox.put_data

    def put(self: Outbox, payload: bytes, ask: Sent | None = None) -> bool:
        self._high_water = self._bytes_max = self._messages_max = 10**9
        return put_data(self, payload, ask)

    patch.setattr(Outbox, "put_data", put)


def a_signature_nobody_checks(patch: pytest.MonkeyPatch) -> None:
    """And one that is not made: what is sealed bears no signature."""
    sign = Identity.sign

    def lazy(self: Identity, data: bytes) -> bytes:
        return bytes(64) if data.startswith(b"vix-p2p/batch/1") else sign(self, data)

    patch.setattr(accept, "verify_signature", lambda batch: True)
    patch.setattr(Identity, "sign", lazy)


def a_handler_that_runs_twice(patch: pytest.MonkeyPatch) -> None:
    call = Service._call

    def twice(self: Service, message: Any, asked: Any) -> Any:
        begun = call(self, message, asked)
        if isinstance(begun, Coroutine):
            begun.close()
        return call(self, message, asked)

    patch.setattr(Service, "_call", twice)


def a_request_without_an_end(patch: pytest.MonkeyPatch) -> None:
    """Its timeout is never looked at, and what it asks for is lost."""

    async def sleeping(self: Requests) -> None:
        await trio.sleep_forever()

    patch.setattr(Requests, "run", sleeping)
    patch.setattr(Service, "put", lambda self, message, asked: None)


def an_answer_to_somebody_else(patch: pytest.MonkeyPatch) -> None:
    answer, last = Asks.answer, [b""]

    def mixed(self: Asks, data: Data) -> bool:
        last[0], data = data.body, replace_struct(data, body=last[0] or data.body)
        return answer(self, data)

    patch.setattr(Asks, "answer", mixed)


def mail_that_is_lost(patch: pytest.MonkeyPatch) -> None:
    following, count = Follower.__anext__, iter(range(10**9))

    async def skipping(self: Follower) -> Any:
        record = await following(self)
        return await following(self) if self._target is not None and next(count) % 3 == 2 else record

    patch.setattr(Follower, "__anext__", skipping)


def mail_of_others(patch: pytest.MonkeyPatch) -> None:
    enter = Follower.__aenter__

    async def curious(self: Follower) -> Any:
        self._target = None
        return await enter(self)

    patch.setattr(Follower, "__aenter__", curious)


def a_stop_that_takes_too_long(patch: pytest.MonkeyPatch) -> None:
    run = Node._open_and_run

    async def slow(self: Node, task_status: Any) -> None:
        await run(self, task_status)
        with trio.CancelScope(shield=True):
            await trio.sleep(6)

    patch.setattr(Node, "_open_and_run", slow)


PLANTS: dict[Plant, str] = {
    an_ack_before_the_commit: "acknowledged",
    a_follower_that_skips: "was delivered",
    a_follower_that_repeats: "was delivered",
    a_push_that_is_lost: "",
    replicated_too_early: "was said to be at",
    two_links_kept: "links",
    a_bug_in_a_link: "failed inside",
    an_innocent_peer_is_scored: "banned",
    a_call_that_hangs_after_the_end: "still waits",
    a_queue_without_bound: "outbox",
    a_signature_nobody_checks: "signature",
    a_handler_that_runs_twice: "handled before",
    a_request_without_an_end: "still waits when",
    an_answer_to_somebody_else: "asked .* and got",
    mail_that_is_lost: "did not read",
    mail_of_others: "for somebody else",
    a_stop_that_takes_too_long: "to stop|still runs",
}
"""What is planted, and words of the failure that it is to be found by."""


def crowded() -> Plan:
    """Four nodes, everybody dials everybody, and outboxes are small."""
    plan = draw_plan(0, nodes=4)
    return replace(
        plan,
        dials={host: tuple(other for other in plan.hosts if other != host) for host in plan.hosts},
        limits=Limits(outbox_bytes_max=2 * KIB, outbox_high_water_bytes=KIB),
        safety_s=10,
        asks=True,
        mails=True,
    )


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    report = World(0, crowded()).run()
    assert report.failures, "nobody noticed"
    assert any(re.search(PLANTS[plant], failure) for failure in report.failures), report.failures


def test_without_a_plant_that_world_is_well() -> None:
    report = World(0, crowded()).run()
    assert not report.failures, str(report)


def around_a_wall() -> Plan:
    """Three machines in a row, of which the outer ones meet over the one between them only."""
    plan = draw_plan(0, nodes=3)
    a, relay, b = plan.hosts
    dials = {a: (relay, b), relay: (), b: (relay,)}
    return replace(
        plan, dials=dials, relays=(relay,), walls=frozenset({(a, b)}), asks=True, faults=(RELAY_FAULT,), safety_s=20
    )


def test_who_is_behind_a_wall_is_met_over_a_relay_that_dies_now_and_then() -> None:
    report = World(0, around_a_wall()).run()
    assert not report.failures, str(report)
    assert report.peaks["circuits passed on"]
    assert report.lives > 3


def test_a_relay_that_leads_nowhere_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Switch, "_pass_on", lambda *_: Reason.NO_ROUTE)
    report = World(0, around_a_wall()).run()
    assert any("has no link to" in failure for failure in report.failures), report.failures


def test_a_relay_that_keeps_more_than_a_window_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    put = Leg.put

    def hoarding(self: Leg, data: bytes) -> None:
        put(self, data)
        self.queued_bytes += self._window

    monkeypatch.setattr(Leg, "put", hoarding)
    report = World(0, around_a_wall()).run()
    assert any("bytes of a circuit" in failure for failure in report.failures), report.failures


def with_villains() -> Plan:
    """Two Byzantine members among four nodes, in good weather."""
    plan = draw_plan(5, nodes=4)
    return replace(plan, villains=VILLAINS, admission="key", faults=(), loss=0.0, disk_fault_rate=0.0, safety_s=25)


def test_a_fork_that_is_accepted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever came first with a history is believed."""
    monkeypatch.setattr(accept, "contradict", lambda one, other: False)
    report = World(5, with_villains()).run()
    assert any(re.search("does not know that .* forked|not equal", failure) for failure in report.failures), report


def test_villains_fork_and_everybody_ends_with_the_proof() -> None:
    report = World(5, with_villains()).run()
    assert not report.failures, str(report)
    given = {line.split("gave version ")[1][0] for line in report.trace if "gave version" in line}
    assert given == {"0", "1"}
    assert any("forge" in line for line in report.trace)
