"""What a node tells its application while it runs: typed values, yielded by `node.events()`.

They are notices, not the record of anything: the queue of a slow reader is bounded and drops the oldest.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec
import trio

from p2p.errors import ConfigError, NodeClosed, Reason
from p2p.ids import PeerId
from p2p.node.interrupts import uninterrupted

if TYPE_CHECKING:
    from p2p.node.status import Peer


class NodeEvent(msgspec.Struct, frozen=True):
    """Base of everything that `node.events()` yields."""


class PeerConnected(NodeEvent, frozen=True):
    """The first live link to this peer is up."""

    peer: Peer


class PeerMoved(NodeEvent, frozen=True):
    """Another way leads to this peer now: the link through a relay gave way to a direct one, or to one through another
    relay, or the direct one, which broke, to one through a relay that was made already."""

    peer: Peer


class PeerLeft(NodeEvent, frozen=True):
    """The last live link to this peer is over; `clean` if it said Goodbye."""

    peer_id: PeerId
    node_id: str | None
    reason: Reason
    detail: str
    clean: bool


class HeadsMoved(NodeEvent, frozen=True):
    """The durable logs of these origins grew (or shrank, after damage)."""

    origins: frozenset[PeerId]


class ForkFound(NodeEvent, frozen=True):
    """There is proof that this origin signed two histories; it is frozen below `lower_seq`."""

    origin: PeerId
    lower_seq: int


class CloneSuspected(NodeEvent, frozen=True):
    """Links of one identity alternate quickly: its key seems to be used in two places."""

    peer_id: PeerId
    node_id: str | None


class LabelConflict(NodeEvent, frozen=True):
    """A peer shows a node id that is pinned to another identity; it is known without a label, or refused."""

    node_id: str
    peer_id: PeerId
    pinned_to: PeerId
    refused: bool


class StoreReadOnly(NodeEvent, frozen=True):
    """The store cannot be written: appends raise, pushes are answered "not applied", reading goes on."""

    detail: str


class StoreWritable(NodeEvent, frozen=True):
    """The store takes writes again."""


class BatchDamaged(NodeEvent, frozen=True):
    """A stored batch failed its hash; it is quarantined and will be fetched again from a peer."""

    origin: PeerId
    seq_begin: int


class LogRepaired(NodeEvent, frozen=True):
    """What was damaged or lost of this origin's log is back: it is whole up to `seq`."""

    origin: PeerId
    seq: int


class OwnLogAhead(NodeEvent, frozen=True):
    """A peer delivered records of this node that the own store had lost (a restored backup), and shows its log up to
    `seq`.

    They are fetched back; until then, or until `OwnLogClaimDropped`, nothing is appended.
    """

    seq: int


class OwnLogClaimDropped(NodeEvent, frozen=True):
    """Whoever showed this node's own log up to `claimed_seq` did not deliver it: appends go on after `seq`."""

    seq: int
    claimed_seq: int


class QuotaReached(NodeEvent, frozen=True):
    """An origin used up its bytes here; its further records are left alone."""

    origin: PeerId


@uninterrupted
class EventStream:
    """An async context manager and iterator over a node's events.

    Attributes:
        dropped: events that a slow reader lost.
    """

    def __init__(self, feed: EventFeed, queue_max: int) -> None:
        self._feed = feed
        self._queue: deque[NodeEvent] = deque(maxlen=queue_max)
        self._wake = trio.lowlevel.ParkingLot()
        self._is_entered = False
        self._closed = False
        self.dropped = 0

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        self._feed.streams.add(self)
        self._is_entered, self._closed = True, self._feed.is_closed
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._feed.streams.discard(self)
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> NodeEvent:
        """Return the next event.

        Raises:
            NodeClosed: the node stopped, or the stream was left, and everything queued was read.
            ConfigError: the stream was not entered yet.
        """
        await trio.lowlevel.checkpoint()
        while not self._queue:
            if self._closed or self._feed.is_closed:
                raise NodeClosed("these events were left, or their node has stopped")
            if not self._is_entered:
                raise ConfigError("enter the events first: `async with node.events() as events:`")
            await self._wake.park()
        return self._queue.popleft()

    def put(self, event: NodeEvent) -> None:
        """Queue an event; the oldest goes when the queue is full."""
        if len(self._queue) == self._queue.maxlen:
            self.dropped += 1
        self._queue.append(event)
        self._wake.unpark_all()

    def close(self) -> None:
        """Let the reader end after what is queued."""
        self._closed = True
        self._wake.unpark_all()


class EventFeed:
    """Hands every event to every open stream. Never waits, never raises."""

    def __init__(self, queue_max: int) -> None:
        self._queue_max = queue_max
        self.streams: set[EventStream] = set()
        self.is_closed = False

    def open(self) -> EventStream:
        """Make a stream; it receives from its `async with` on."""
        return EventStream(self, self._queue_max)

    def emit(self, event: NodeEvent) -> None:
        """Hand out one event."""
        for stream in self.streams:
            stream.put(event)

    def close(self) -> None:
        """No more events will come."""
        self.is_closed = True
        for stream in self.streams:
            stream.close()
