"""What one link's peer is sent: which batch next, how much at once, and what its acks mean.

Responsible for the outgoing half of a link: a cursor per origin, the window, the order of the origins, go-back-N, and
loading ahead. It refuses to know heads, suppliers and messages other than WalPush, and it never reads a store: it
says what it wants loaded and is handed batches.

How it moves, per origin:

    idle       nothing to send: the peer holds what we hold, or does not want it
    loading    the batch at the cursor is wanted from the store (`next_load` ... `loaded`)
    ready      the next batch is here and waits for the window and for its turn
    draining   a push was answered "not applied": nothing more goes until all that is under way is answered; then the
               cursor goes back to the last answer (go-back-N)
    resting    the peer left the origin alone where it stood: nothing goes until its next entry for the origin

The k-th ack answers the k-th push. Its value may be seq_end ("durably held") or anything below seq_begin ("not
applied; my head is there, or just before this batch"): the peer's head may have moved either way since it last told
us, so no tighter bound can be held against it. All other values, and an ack without a push, end the link.

"Not applied" at exactly seq_begin - 1 means that the batch was the very next one and was not taken: a frozen, foreign
or over-full origin, or a store that does not write. To send it again would only be answered alike, so it rests.
Below that, the peer's log is shorter than we thought, and the cursor goes back.

Going back costs a token per link and origin: a peer cannot have the same log sent again and again.

Source: replication sections 2 and 3.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from p2p.errors import RemoteProtocolError
from p2p.ids import PeerId
from p2p.limits import KIB, Limits
from p2p.msg import WalPush
from p2p.replication.boundaries import SealedBatch, prev_hash_of
from p2p.replication.suppliers import NEVER

LOAD_BYTES: Final = 512 * KIB
"""One load: two of them fill `load_ahead_bytes`, so the store reads one while the other is sent."""


class Answer(msgspec.Struct, frozen=True):
    """What an ack said: the push it answers, and whether the peer holds it durably."""

    origin: PeerId
    seq_begin: int
    seq_end: int
    applied: bool


class Mismatch(msgspec.Struct, frozen=True):
    """The batch after `seq` does not continue the log that the peer showed up to `seq`."""

    origin: PeerId
    seq: int


class _Under(msgspec.Struct):
    """A push under way."""

    queue: _Queue
    seq_begin: int
    seq_end: int
    size: int
    is_cover: bool


class _Queue(msgspec.Struct):
    """One origin on this link."""

    origin: PeerId
    next_seq: int
    wanted: bool
    peer_hash: bytes | None = None
    under_way: int = 0
    last_answer: int = 0
    draining: bool = False
    refused: bool = False
    resting: bool = False
    loading: bool = False
    not_before: float = 0.0
    resend_at: float = 0.0
    batches: deque[SealedBatch] | None = None

    def load_seq(self) -> int:
        return self.batches[-1].seq_end + 1 if self.batches else self.next_seq


class Pushes:
    """The outgoing half of one link.

    Args:
        limits: windows and bounds.
        servable: up to which seq an origin may be sent (0: not at all).
    """

    # A node keeps thousands of idle links: the fields are slots, and the queues are such that cost little while empty.
    __slots__ = (
        "_covers",
        "_limits",
        "_loaded_bytes",
        "_loading",
        "_loading_bytes",
        "_loads",
        "_mismatches",
        "_paused",
        "_preferred",
        "_queues",
        "_ready",
        "_servable",
        "_under_way",
        "unacked_bytes",
        "window",
    )

    def __init__(self, limits: Limits, servable: Callable[[PeerId], int]) -> None:
        self._limits = limits
        self._servable = servable
        self._queues: dict[PeerId, _Queue] = {}
        self._ready: OrderedDict[PeerId, _Queue] = OrderedDict()
        self._loads: OrderedDict[PeerId, _Queue] = OrderedDict()
        self._covers: list[tuple[_Queue, SealedBatch]] = []
        self._preferred: frozenset[PeerId] = frozenset()
        self._under_way: deque[_Under] | None = None
        self._paused: list[tuple[float, PeerId]] = []
        self._mismatches: list[Mismatch] = []
        self._loaded_bytes = 0
        self._loading: dict[PeerId, int] = {}
        self._loading_bytes = 0
        self.window = limits.window_records_start
        self.unacked_bytes = 0

    # What the peer says.

    def aim(self, origin: PeerId, seq: int, peer_hash: bytes | None, now: float, *, wanted: bool) -> None:
        """The peer holds the origin up to `seq` and wants more of it, or not.

        A lower seq than before is taken at its word only while nothing of the origin is under way.

        Args:
            peer_hash: what it shows at `seq`, to be compared with the batch that follows; None to compare nothing.
        """
        queue = self._queues.get(origin)
        if queue is None:
            queue = self._queues[origin] = _Queue(origin, seq + 1, wanted, peer_hash)
        else:
            queue.wanted = wanted
            queue.resting = queue.refused = False
            if seq + 1 > queue.next_seq or (seq + 1 < queue.next_seq and not queue.under_way):
                if seq + 1 < queue.next_seq:
                    self._charge_resend(queue, now)
                self._move(queue, seq + 1, peer_hash)
        if not wanted:
            self._drop(queue)
        self._schedule(queue, now)

    def holds(self, origin: PeerId, seq: int) -> None:
        """The peer pushed this origin up to `seq` itself: nothing up to there is sent back."""
        queue = self._queues.get(origin)
        if queue is None:
            self._queues[origin] = _Queue(origin, seq + 1, wanted=True)
        elif seq + 1 > queue.next_seq:
            self._move(queue, seq + 1, None)

    def credit(self, records: int) -> None:
        """The peer makes the window wider."""
        self.window = min(self._limits.window_records_max, self.window + records)

    def prefer(self, origins: Iterable[PeerId]) -> None:
        """Send these origins before all others, until another call names others."""
        self._preferred = frozenset(origins)
        for line in (self._ready, self._loads):
            for origin in [origin for origin in line if origin in self._preferred]:
                line.move_to_end(origin, last=False)

    def acked(self, value: int, now: float) -> Answer:
        """Account for the next ack.

        Raises:
            RemoteProtocolError: no push waits for one, or the value answers nothing.
        """
        if not self._under_way:
            raise RemoteProtocolError("an ack without a push")
        push = self._under_way.popleft()
        queue = push.queue
        applied = value == push.seq_end
        if not applied and value >= push.seq_begin:
            raise RemoteProtocolError(f"ack {value} for a push of {push.seq_begin}-{push.seq_end}")
        queue.under_way -= 1
        self.unacked_bytes -= push.size
        self.credit(push.seq_end - push.seq_begin + 1)
        if push.is_cover:
            queue.resting = queue.resting or not applied
        else:
            queue.last_answer = value
            if not applied:
                if not queue.draining:
                    queue.draining = True
                    self._drop(queue)
                queue.refused = queue.refused or value == push.seq_begin - 1
        if queue.draining and not queue.under_way:
            queue.draining = False
            queue.resting = queue.resting or queue.refused
            queue.refused = False
            if not queue.resting and queue.last_answer + 1 < queue.next_seq:
                self._charge_resend(queue, now)
            self._move(queue, queue.last_answer + 1, None)
        self._schedule(queue, now)
        return Answer(queue.origin, push.seq_begin, push.seq_end, applied)

    # What happens here.

    def offer(self, origin: PeerId, now: float) -> None:
        """Our log of the origin moved. One that the peer never listed is wanted from its start."""
        queue = self._queues.get(origin)
        if queue is None:
            queue = self._queues[origin] = _Queue(origin, 1, wanted=True)
        self._schedule(queue, now)

    def cover(self, origin: PeerId, batch: SealedBatch) -> None:
        """Push this batch, wanted or not, to prove a fork; then the origin rests until the peer's next entry."""
        self.rest(origin)
        self._covers.append((self._queues[origin], batch))

    def rest(self, origin: PeerId) -> None:
        """Send nothing of the origin, of which the peer listed or pushed something, until its next entry for it."""
        queue = self._queues[origin]
        queue.resting = True
        self._drop(queue)

    def resume(self, origin: PeerId, when: float) -> None:
        """What made the origin rest was nothing: it goes on at `when`."""
        queue = self._queues[origin]
        queue.resting = False
        self._pause(queue, when)

    # Loading.

    def next_load(self) -> tuple[PeerId, int, int] | None:
        """Return (origin, first seq, most bytes) of a load to be made now, None if none is wanted.

        Every load returned must be answered by one call of `loaded`.
        """
        room = self._limits.load_ahead_bytes - self._loaded_bytes - self._loading_bytes
        while self._loads and room > 0:
            _, queue = self._loads.popitem(last=False)
            if queue.loading or not self._may_go(queue) or queue.load_seq() > self._servable(queue.origin):
                continue
            queue.loading = True
            size = self._loading[queue.origin] = min(LOAD_BYTES, room)
            self._loading_bytes += size
            return queue.origin, queue.load_seq(), size
        return None

    def has_load(self) -> bool:
        """Whether `next_load` may have something."""
        return bool(self._loads) and self._loaded_bytes + self._loading_bytes < self._limits.load_ahead_bytes

    def loaded(self, origin: PeerId, from_seq: int, batches: Sequence[SealedBatch], now: float) -> None:
        """Take what a load brought: batches without a gap, the first of which covers `from_seq`; none at the end."""
        queue = self._end_load(origin)
        if not batches:
            return
        if not self._may_go(queue) or queue.load_seq() != from_seq:
            self._schedule(queue, now)
            return
        first = batches[0]
        if queue.next_seq == from_seq:
            broken = first.seq_begin != from_seq or (
                queue.peer_hash is not None and prev_hash_of(first.wal_bytes) != queue.peer_hash
            )
            if broken:
                queue.resting = True
                self._mismatches.append(Mismatch(origin, from_seq - 1))
                return
            queue.peer_hash = None
        elif first.seq_begin != from_seq:
            # Our own log changed between two loads: what is here does not belong together.
            self._drop(queue)
            self._schedule(queue, now)
            return
        if queue.batches is None:
            queue.batches = deque()
        for batch in batches:
            queue.batches.append(batch)
            self._loaded_bytes += len(batch.wal_bytes)
        self._schedule(queue, now)

    def load_failed(self, origin: PeerId, now: float) -> None:
        """The store could not be read: this load is made again a little later."""
        queue = self._end_load(origin)
        if self._may_go(queue):
            self._pause(queue, now + self._limits.store_retry_s)

    def take_mismatches(self) -> list[Mismatch]:
        """Return and forget the places where the peer's log is not ours."""
        found, self._mismatches = self._mismatches, []
        return found

    # Sending.

    def take(self, now: float) -> list[WalPush]:
        """Return what the window lets go now, oldest first, the origins in turn."""
        pushes: list[WalPush] = []
        bytes_max = self._limits.unacked_bytes_max
        while self._covers and self.window > 0 and self.unacked_bytes < bytes_max:
            queue, batch = self._covers.pop(0)
            pushes.append(self._push(queue, batch, is_cover=True))
        ready = self._ready
        while ready and self.window > 0 and self.unacked_bytes < bytes_max:
            _, queue = ready.popitem(last=False)
            if not queue.batches or not self._may_go(queue):
                continue
            batch = queue.batches.popleft()
            self._loaded_bytes -= len(batch.wal_bytes)
            if batch.seq_begin != queue.next_seq or batch.seq_end > self._servable(queue.origin):
                # Our own log shrank or froze since this was loaded.
                self._drop(queue)
            else:
                pushes.append(self._push(queue, batch, is_cover=False))
                queue.next_seq = batch.seq_end + 1
            self._schedule(queue, now)
        return pushes

    def _push(self, queue: _Queue, batch: SealedBatch, *, is_cover: bool) -> WalPush:
        size = len(batch.wal_bytes)
        if self._under_way is None:
            self._under_way = deque()
        self._under_way.append(_Under(queue, batch.seq_begin, batch.seq_end, size, is_cover))
        queue.under_way += 1
        self.window -= batch.seq_end - batch.seq_begin + 1
        self.unacked_bytes += size
        return WalPush(batch.seq_begin, batch.seq_end, batch.wal_bytes)

    # Time.

    def next_deadline(self) -> float:
        """When `handle_deadline` is due; infinity unless a log was sent again too often or could not be read."""
        return self._paused[0][0] if self._paused else NEVER

    def handle_deadline(self, now: float) -> None:
        """Let origins go on whose pause is over."""
        while self._paused and self._paused[0][0] <= now:
            _, origin = heapq.heappop(self._paused)
            queue = self._queues[origin]
            if queue.not_before > now:
                heapq.heappush(self._paused, (queue.not_before, origin))
            else:
                queue.not_before = 0.0
                self._schedule(queue, now)

    # Inside.

    def _may_go(self, queue: _Queue) -> bool:
        return queue.wanted and not (queue.resting or queue.draining or queue.not_before)

    def _schedule(self, queue: _Queue, now: float) -> None:
        if not self._may_go(queue):
            return
        if queue.batches:
            self._line_up(self._ready, queue)
        if not queue.loading and queue.load_seq() <= self._servable(queue.origin):
            self._line_up(self._loads, queue)

    def _end_load(self, origin: PeerId) -> _Queue:
        queue = self._queues[origin]
        queue.loading = False
        self._loading_bytes -= self._loading.pop(origin)
        return queue

    def _line_up(self, line: OrderedDict[PeerId, _Queue], queue: _Queue) -> None:
        if queue.origin not in line:
            line[queue.origin] = queue
            if queue.origin in self._preferred:
                line.move_to_end(queue.origin, last=False)

    def _move(self, queue: _Queue, next_seq: int, peer_hash: bytes | None) -> None:
        queue.next_seq = next_seq
        queue.peer_hash = peer_hash
        batches = queue.batches
        while batches and batches[0].seq_begin < next_seq:
            self._loaded_bytes -= len(batches.popleft().wal_bytes)
        if batches and batches[0].seq_begin != next_seq:
            self._drop(queue)

    def _drop(self, queue: _Queue) -> None:
        if queue.batches:
            self._loaded_bytes -= sum(len(batch.wal_bytes) for batch in queue.batches)
            queue.batches = None

    def _charge_resend(self, queue: _Queue, now: float) -> None:
        """One more resend of this origin. Half of the allowance may be used at once, so that no minute sees more."""
        interval_s = 2 * 60.0 / self._limits.refetch_per_minute_max
        burst_s = interval_s * (self._limits.refetch_per_minute_max // 2 - 1)
        queue.resend_at = max(queue.resend_at, now) + interval_s
        pause_until = queue.resend_at - interval_s - burst_s
        if pause_until > now:
            self._pause(queue, pause_until)

    def _pause(self, queue: _Queue, until: float) -> None:
        self._drop(queue)
        if not queue.not_before:
            # One place in the heap per origin, however often it is paused.
            heapq.heappush(self._paused, (until, queue.origin))
        queue.not_before = max(queue.not_before, until)
