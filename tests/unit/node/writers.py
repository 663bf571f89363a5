"""A running writer to test with: a real store, and a window that can hold commits up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from p2p.crypto.identity import Identity
from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.node.events import NodeEvent
from p2p.node.writer import PushOutcome, Writer
from p2p.replication.batch import Batch, Record, parse_batch
from p2p.store.base import Store
from p2p.store.memory import MemoryStore
from p2p.windows import InlineBlocking
from tests.logs import Log, app, identity, push_of

PEER = identity(99).peer_id


class GatedBlocking(InlineBlocking):
    """Runs everything inline; work on the lane "write" waits while the gate is shut."""

    def __init__(self) -> None:
        self.open = trio.Event()
        self.open.set()
        self.waiting = 0
        self.commits = 0

    def shut(self) -> None:
        self.open = trio.Event()

    async def run(self, lane: Any, fn: Any, *args: Any) -> Any:
        if lane == "write":
            self.waiting += 1
            await self.open.wait()
            self.waiting -= 1
            self.commits += 1
        return await super().run(lane, fn, *args)


class WallClock:
    """trio's time, and a wall clock that tests set."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def monotonic(self) -> float:
        return trio.current_time()

    def wall_ms(self) -> int:
        return self.ms


class Bench:
    """A writer and everything around it."""

    def __init__(
        self,
        store: Store | None = None,
        own: Identity | None = None,
        *,
        limits: Limits | None = None,
        clock: WallClock | None = None,
        admit: Callable[[PeerId, PeerId], bool] = lambda _origin, _via: True,
        is_unlimited: Callable[[PeerId], bool] = lambda _origin: False,
    ) -> None:
        self.identity = own or identity(1)
        self.own = self.identity.peer_id
        self.store = store or MemoryStore(self.own)
        self.blocking = GatedBlocking()
        self.clock = clock or WallClock()
        self.events: list[NodeEvent] = []
        self.outcomes: list[PushOutcome] = []
        self.moves: list[frozenset[PeerId]] = []
        self.writer = Writer(
            store=self.store,
            identity=self.identity,
            clock=self.clock,
            blocking=self.blocking,
            limits=limits or Limits(),
            emit=self.events.append,
            admit=admit,
            is_unlimited=is_unlimited,
        )
        self.writer.subscribe(self.moves.append)

    async def append(self, *payloads: bytes) -> list[int]:
        return await self.writer.append_many(app(*payloads))

    async def push(self, *batches: Batch, own_shown: int = 0) -> list[PushOutcome]:
        """Push batches and wait for all outcomes."""
        first = len(self.outcomes)
        for batch in batches:
            self.submit(batch, own_shown=own_shown)
        await settle()
        return self.outcomes[first:]

    def submit(self, batch: Batch, *, own_shown: int = 0) -> None:
        self.writer.submit_push(push_of(batch), PEER, self.outcomes.append, own_shown=own_shown)

    def seq(self, log: Log) -> int:
        return self.writer.heads[log.origin].seq

    def stored(self, origin: PeerId | None = None) -> list[Batch]:
        origin = origin or self.own
        loaded = self.store.load(origin, 1, self.store.current()[origin].seq, 2**60)
        return [parse_batch(batch.wal_bytes) for batch in loaded.batches]

    def records(self, origin: PeerId | None = None) -> list[Record]:
        return [record for batch in self.stored(origin) for record in batch.records()]

    def events_of(self, kind: type[NodeEvent]) -> list[NodeEvent]:
        return [event for event in self.events if isinstance(event, kind)]


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Bench]:
    """Run the writer around a body."""
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.writer.run)
        yield bench
        nursery.cancel_scope.cancel()


async def settle() -> None:
    """Until everybody has done what there was to do."""
    await trio.testing.wait_all_tasks_blocked()
