"""Followers: reading all logs, oldest first per origin, for ever.

Responsible for where a follower stands, for reading ahead in bounded pieces, for fairness between origins, and for
durable cursors. It refuses to poll: with nothing new it sleeps until the writer says that heads moved.

How it moves. Per origin there is a position: the next seq to deliver. Origins with something new stand in a line; the
first is read, one piece of `follow_read_bytes`, delivered record by record, and goes to the end of the line if there is
more. So one long log does not keep the others waiting, memory stays at one piece, and per-origin order holds, which is
all the order that there is.

A cursor moves only when the application says so: what was delivered and not committed comes again after a restart, so
every record is delivered at least once. The first time a name is used, where it starts is written down at once:
otherwise a crash before its first commit would make "now" mean a later moment.

A record for somebody that is older than the node delivers is passed over. It stays in its log: what follows it there
could not be checked without it.

Source: contract "Delivery".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Final, Literal, Self

import trio

from p2p.errors import ChannelBusy, ConfigError, NodeClosed
from p2p.ids import PeerId
from p2p.node.interrupts import uninterrupted
from p2p.node.kinds import check_kind, utf8_of
from p2p.node.writer import Writer
from p2p.replication.batch import BODY_BYTES_MAX, Record, parse_batch
from p2p.replication.clock import wall_ms_of
from p2p.replication.heads import EMPTY_LOG
from p2p.store.base import StoredBatch

Start = Literal["oldest", "now"]
NAME_BYTES_MAX: Final = 1024
"""Longer a follower's name may not be."""

_RECORDS_PER_CHECKPOINT: Final = 64
"""A checkpoint for each record would cost more than delivering it; cancellation is noticed at every one all the
same."""


@uninterrupted
class Follower:
    """An async context manager and iterator of records; made by `Wal.follow`.

    Leaving the block gives the name back. A follower belongs to one task.
    """

    def __init__(
        self,
        writer: Writer,
        names: set[str],
        label_of: Callable[[PeerId], str | None],
        read_bytes: int,
        *,
        name: str | None,
        kinds: Iterable[str] | None,
        target: PeerId | None,
        start: Start,
        oldest_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        if start not in ("oldest", "now"):
            raise ConfigError(f'start is "oldest" or "now", not {start!r}')
        if target is not None and not isinstance(target, PeerId):
            raise ConfigError(f"target is a PeerId, as in PeerId.parse(text), not {type(target).__name__} {target!r}")
        if name is not None and not name:
            raise ConfigError("a follower's name is not empty; leave it out for one without a durable cursor")
        if name is not None:
            utf8_of(name, "a follower's name", NAME_BYTES_MAX)
        self._writer = writer
        self._names = names
        self._label_of = label_of
        self._read_bytes = read_bytes
        self._name = name
        self._kinds = None if kinds is None else frozenset((kinds,) if isinstance(kinds, str) else kinds)
        for kind in self._kinds or ():
            utf8_of(kind, "a kind", BODY_BYTES_MAX, bytes_min=0)
        self._target = target
        self._start = start
        self._oldest_ms = oldest_ms
        self._positions: dict[PeerId, int] = {}
        self._line: OrderedDict[PeerId, None] = OrderedDict()
        self._piece: Iterator[Record | None] = iter(())
        self._wake = trio.Event()
        self._unsubscribe: Callable[[], None] | None = None
        self._is_left = False
        self._since_checkpoint = 0

    async def __aenter__(self) -> Self:
        """Take up the name where it was left.

        Raises:
            ChannelBusy: the name is in use.
            NodeClosed: the node has stopped.
            StoreError: its cursors cannot be read, or its start cannot be written.
        """
        if self._unsubscribe is not None:
            raise ChannelBusy("a follower is entered once; make another")
        if self._writer.is_closed:
            raise NodeClosed("the node has stopped")
        name = self._name
        if name is not None:
            if name in self._names:
                raise ChannelBusy(f"another follower is named {name!r}")
            self._names.add(name)
        self._unsubscribe = self._writer.subscribe(self._on_moved, self._on_close)
        try:
            cursors = {} if name is None else await self._writer.cursors(name)
            if not cursors:
                cursors = {self._writer.own: 0}
                if self._start == "now":
                    cursors.update((origin, head.seq) for origin, head in self._writer.heads.items())
                if name is not None:
                    await self._writer.set_cursors(name, cursors)
            self._positions = {origin: seq + 1 for origin, seq in cursors.items()}
            self._on_moved(self._writer.heads)
            if name is None:
                await trio.lowlevel.checkpoint()
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        """Return the next record; waits while there is none.

        Raises:
            NodeClosed: the node stopped, or the follower was left.
            ConfigError: the follower was not entered yet.
            StoreError: the store cannot be read.
        """
        if self._is_left or (self._unsubscribe is None and self._writer.is_closed):
            await trio.lowlevel.checkpoint_if_cancelled()
            raise NodeClosed("this follower was left, or its node has stopped")
        if self._unsubscribe is None:
            raise ConfigError("enter the follower first: `async with node.wal.follow(...) as records:`")
        self._since_checkpoint += 1
        if self._since_checkpoint >= _RECORDS_PER_CHECKPOINT:
            self._since_checkpoint = 0
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            for record in self._piece:
                if record is not None:
                    return record
                await trio.lowlevel.checkpoint()
            await self._next_piece()

    async def commit(self, record: Record) -> None:
        """Note that this record, and all before it of its origin, are done; durable when it returns.

        A follower without a name has no cursor: then this does nothing.

        Raises:
            ConfigError: this follower has not delivered the record.
            StoreError: the store cannot be written; the record will come again after a restart.
            NodeClosed: the node stopped.
        """
        check_kind(record, (Record,), "what is committed", "a Record that this follower delivered")
        if record.seq >= self._positions.get(record.origin, 1):
            raise ConfigError(f"seq {record.seq} of {record.origin.short} was not delivered by this follower")
        if self._name is None:
            await trio.lowlevel.checkpoint()
        else:
            await self._writer.set_cursors(self._name, {record.origin: record.seq})

    def _on_moved(self, origins: Iterable[PeerId]) -> None:
        for origin in sorted(origins):
            if self._has_more(origin):
                self._line[origin] = None
        self._wake.set()

    def _on_close(self) -> None:
        self._wake.set()

    def _leave(self) -> None:
        if self._name is not None and self._unsubscribe is not None:
            self._names.discard(self._name)
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._is_left = True
        # Whoever reads in another task is told.
        self._wake.set()

    def _has_more(self, origin: PeerId) -> bool:
        return self._positions.get(origin, 1) <= self._writer.heads.get(origin, EMPTY_LOG).seq

    async def _next_piece(self) -> None:
        """Read the next piece of the first origin in line; with nobody in line, wait."""
        if self._writer.is_closed or self._is_left:
            await trio.lowlevel.checkpoint_if_cancelled()
            raise NodeClosed("this follower was left, or its node has stopped")
        if not self._line:
            self._wake = trio.Event()
            await self._wake.wait()
            return
        origin, _ = self._line.popitem(last=False)
        try:
            batches = await self._writer.load(origin, self._positions.get(origin, 1), self._read_bytes)
        except BaseException:
            # Whoever catches it and goes on finds the origin in its place.
            self._line[origin] = None
            self._line.move_to_end(origin, last=False)
            raise
        self._piece = self._deliver(origin, batches)

    def _deliver(self, origin: PeerId, batches: list[StoredBatch]) -> Iterator[Record | None]:
        """The records that are wanted; None after each batch, so that others run while much is passed over."""
        node_id = self._label_of(origin)
        for stored in batches:
            if stored.seq_end > self._writer.heads.get(origin, EMPTY_LOG).seq:
                # Frozen, damaged or forgotten since it was read.
                return
            position = self._positions.get(origin, 1)
            for record in parse_batch(stored.wal_bytes).records(node_id):
                if record.seq < position:
                    continue
                self._positions[origin] = record.seq + 1
                if self._kinds is not None and record.kind not in self._kinds:
                    continue
                if record.target is not None and wall_ms_of(record.hlc) < self._oldest_ms():
                    continue
                if self._target is None or record.target == self._target:
                    yield record
            yield None
        if self._has_more(origin) and batches:
            self._line[origin] = None
