"""One connection of the in-memory network: two streams joined by two wires.

A `Wire` is one direction. It keeps what was sent in order, each piece with the moment of its arrival; nothing moves it:
a reader looks at the clock and takes what has arrived, or sleeps until the next arrival. So there are no tasks, no
threads and no order that depends on anything but the calls and trio's clock.

The sender's room is what the buffer has left after everything that the other side has not read, as with TCP. News that
overtakes data (a reset, "nobody reads here any more") are notices, with an arrival time of their own. Both obey the
`Way` between the two hosts: while it is cut nothing arrives, when it heals all that was held sets out again, as TCP's
retransmissions do. Room is given back over the way in the other direction: if that one is cut, a sender fills its
buffer and stops, although its bytes still arrive.

A reset discards what has arrived and was not read. Linux is kinder; other systems are not, and simulations should
meet the worse case. For the same reason closing with bytes unread resets, as TCP does.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

import trio

from p2p.errors import ConfigError
from p2p.ids import PeerEndpoint
from p2p.transport.base import LinkStream, receive_size

END: Final = b""
"""The piece after the last one: the sender will send no more."""


class Notice(Enum):
    """News for the other side that does not wait behind data."""

    RESET = 1
    NOT_READING = 2


RETRANSMIT_S: Final = 0.2
"""What a piece that was lost is late by; twice that if it is lost again, and so on, as with TCP."""
RETRANSMIT_S_MAX: Final = 3.2
LOSSES_MAX: Final = 8
"""More in a row are not drawn: that would be a partition, and those are made on purpose."""


@dataclass(frozen=True, slots=True)
class Weather:
    """How badly packets fare, the same for all ways.

    A stream loses nothing: what is lost is sent again, and all that follows waits for it, so loss is delay. Duplicates
    do not reach a stream's reader at all. Datagrams are really lost, doubled and reordered.

    Args:
        chance: returns a number from 0 to below 1; all that happens is drawn from it.
        loss: how many packets of one are lost, 0 to below 1.
        duplicates: how many datagrams of one arrive twice.
        jitter_s: the most that a packet is late by, besides.

    Raises:
        ConfigError: there is no such weather.
    """

    chance: Callable[[], float]
    loss: float = 0.0
    duplicates: float = 0.0
    jitter_s: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.loss < 1 and 0 <= self.duplicates <= 1 and 0 <= self.jitter_s < math.inf):
            raise ConfigError(
                f"loss {self.loss} must be from 0 to below 1 (a partition lets nothing through), duplicates"
                f" {self.duplicates} from 0 to 1, jitter_s {self.jitter_s} not negative"
            )

    def delay_s(self) -> float:
        """How late the next piece of a stream is."""
        late_s, again_s = self.jitter_s * self.chance() if self.jitter_s else 0.0, RETRANSMIT_S
        for _ in range(LOSSES_MAX if self.loss else 0):
            if self.chance() >= self.loss:
                break
            late_s += again_s
            again_s = min(2 * again_s, RETRANSMIT_S_MAX)
        return late_s

    def copies(self) -> Iterator[float]:
        """How late each copy of a datagram is that arrives: none, one or two."""
        for _ in range(1 + (self.chance() < self.duplicates)):
            if self.chance() >= self.loss:
                yield self.jitter_s * self.chance()


class Way:
    """One direction between two hosts, shared by all their connections.

    Attributes:
        latency_s: from sending to arrival.
        bytes_per_s: bandwidth, None for no bound.
        weather: what is added to that, None in fair weather.
        cut: nothing gets through.
        wires: the directions of open connections that run over it, oldest first.
    """

    __slots__ = ("_busy_until", "bytes_per_s", "cut", "latency_s", "weather", "wires")

    def __init__(self, latency_s: float) -> None:
        self.latency_s = latency_s
        self.bytes_per_s: float | None = None
        self.weather: Weather | None = None
        self.cut = False
        self.wires: dict[Wire, None] = {}
        self._busy_until = -math.inf

    def arrival(self, size: int, now: float) -> float:
        """When something of `size` bytes that is sent now arrives; infinity while the way is cut."""
        if self.cut:
            return math.inf
        late_s = self.weather.delay_s() if self.weather is not None else 0.0
        if self.bytes_per_s is None:
            return now + self.latency_s + late_s
        self._busy_until = max(now, self._busy_until) + size / self.bytes_per_s
        return self._busy_until + self.latency_s + late_s


class Joint:
    """What the two ends of a connection share: where their senders wait for room, and the count of ends still open."""

    __slots__ = ("_open_ends", "_waiting", "_wires")

    def __init__(self) -> None:
        self._waiting = trio.lowlevel.ParkingLot()
        self._wires: list[Wire] = []
        self._open_ends = 2

    def add(self, wire: Wire) -> None:
        """Take a wire out of service when both ends are closed."""
        self._wires.append(wire)

    def wake(self) -> None:
        """Let every waiting task of both ends look again; there are four at most."""
        self.wake_senders()
        for wire in self._wires:
            wire.wake_reader()

    def wake_senders(self) -> None:
        """There may be room again."""
        self._waiting.unpark_all()

    async def wait_for_room(self, news: float) -> None:
        """Sleep until there may be room, or news arrive."""
        with trio.CancelScope(deadline=news):
            await self._waiting.park()

    def end_closed(self) -> None:
        """One end was closed."""
        self.wake()
        self._open_ends -= 1
        if self._open_ends == 0:
            for wire in self._wires:
                wire.unplug()


class Wire:
    """One direction of one connection.

    Args:
        way: from the sender's host to the reader's.
        way_back: the other direction, over which room is given back.
        capacity: bytes that may be sent and not read.
        joint: of the connection.
    """

    __slots__ = (
        "_alarm",
        "_capacity",
        "_joint",
        "_last_arrival",
        "_notices",
        "_owed",
        "_pieces",
        "_unread",
        "_way",
        "_way_back",
    )

    def __init__(self, way: Way, way_back: Way, capacity: int, joint: Joint) -> None:
        self._way = way
        self._way_back = way_back
        self._capacity = capacity
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._notices: deque[tuple[float, Notice]] = deque()
        self._unread = 0
        self._owed = 0
        self._last_arrival = -math.inf
        self._alarm: trio.CancelScope | None = None
        self._joint = joint
        joint.add(self)
        way.wires[self] = None

    @property
    def room(self) -> int:
        """Bytes that can be put now."""
        return self._capacity - self._unread

    def put(self, data: bytes, now: float) -> None:
        """Send a piece that fits into `room`, or END."""
        assert len(data) <= self.room
        self._unread += len(data)
        self._pieces.append((self._stamp(len(data), now), data))
        # The reader is woken when it arrives, and not now only to wait for that.
        if self._alarm is not None:
            self._alarm.deadline = self._next_arrival()

    def notify(self, notice: Notice, now: float) -> None:
        """Send news that overtakes data."""
        self._notices.append((self._way.arrival(0, now), notice))
        self._joint.wake()

    def take(self, max_bytes: int, now: float) -> bytes | None:
        """Up to `max_bytes` of what has arrived; END for ever once all was taken; None if nothing is there."""
        taken: list[bytes] = []
        wanted = max_bytes
        while wanted and self._pieces and self._pieces[0][0] <= now and self._pieces[0][1] != END:
            arrival, piece = self._pieces.popleft()
            if len(piece) > wanted:
                self._pieces.appendleft((arrival, piece[wanted:]))
                piece = piece[:wanted]
            taken.append(piece)
            wanted -= len(piece)
        if taken:
            self._give_back(max_bytes - wanted)
            return b"".join(taken)
        if self._pieces and self._pieces[0][0] <= now:
            return END
        return None

    def notices(self, now: float) -> list[Notice]:
        """Take the news that have arrived."""
        arrived: list[Notice] = []
        while self._notices and self._notices[0][0] <= now:
            arrived.append(self._notices.popleft()[1])
        return arrived

    def has_unread(self, now: float) -> bool:
        """Whether bytes have arrived that nobody took."""
        return bool(self._pieces) and self._pieces[0][0] <= now and self._pieces[0][1] != END

    async def wait_for_arrival(self) -> None:
        """Sleep until the first piece or news that was not taken is there, or something else has changed."""
        with trio.CancelScope(deadline=self._next_arrival()) as self._alarm:
            try:
                await trio.sleep_forever()
            finally:
                self._alarm = None

    def wake_reader(self) -> None:
        """Let the task that waits for an arrival look again."""
        if self._alarm is not None:
            self._alarm.cancel()

    def next_notice(self) -> float:
        """When the next news arrive."""
        return self._notices[0][0] if self._notices else math.inf

    def hold(self, now: float) -> None:
        """The way was cut: what is under way does not arrive."""
        self._pieces = deque((at if at <= now else math.inf, piece) for at, piece in self._pieces)
        self._notices = deque((at if at <= now else math.inf, notice) for at, notice in self._notices)

    def resume(self, now: float) -> None:
        """The way, or the way back, healed: what was held sets out again."""
        if not self._way.cut:
            held, self._pieces = self._pieces, deque()
            self._last_arrival = -math.inf
            for at, piece in held:
                self._pieces.append((at if at < math.inf else self._stamp(len(piece), now), piece))
                self._last_arrival = self._pieces[-1][0]
            self._notices = deque((min(at, self._way.arrival(0, now)), notice) for at, notice in self._notices)
        self._give_back(0)
        self._joint.wake()

    def discard(self) -> None:
        """Forget what was not taken: the connection is over for its reader."""
        unread = sum(len(piece) for _, piece in self._pieces)
        self._pieces.clear()
        self._give_back(unread)

    def unplug(self) -> None:
        """Both ends are closed."""
        self._way.wires.pop(self, None)

    def _next_arrival(self) -> float:
        return min(self._pieces[0][0] if self._pieces else math.inf, self.next_notice())

    def _stamp(self, size: int, now: float) -> float:
        # A way that became faster does not let a later piece overtake an earlier one.
        self._last_arrival = max(self._last_arrival, self._way.arrival(size, now))
        return self._last_arrival

    def _give_back(self, count: int) -> None:
        self._owed += count
        if not self._way_back.cut and self._owed:
            self._unread -= self._owed
            self._owed = 0
            self._joint.wake_senders()


class MemoryStream(LinkStream, trio.abc.HalfCloseableStream):
    """One end of a connection; made by `MemoryNetwork` only."""

    __slots__ = (
        "_broken",
        "_closed",
        "_inward",
        "_joint",
        "_outward",
        "_reading",
        "_remote",
        "_segment_bytes",
        "_sending",
        "_sent_eof",
        "_unheard",
    )

    def __init__(
        self, joint: Joint, inward: Wire, outward: Wire, remote: PeerEndpoint, segment_bytes: int | None
    ) -> None:
        self._joint = joint
        self._inward = inward
        self._outward = outward
        self._remote = remote
        self._segment_bytes = segment_bytes
        self._closed = False
        self._broken: str | None = None
        self._unheard = False
        self._sent_eof = False
        self._sending = False
        self._reading = False

    @property
    def remote(self) -> PeerEndpoint:
        return self._remote

    @property
    def closed(self) -> bool:
        """Whether this side closed it."""
        return self._closed

    def __repr__(self) -> str:
        return f"<MemoryStream to {self._remote}{' closed' if self._closed else ''}>"

    # Receiving.

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size = receive_size(max_bytes)
        if self._segment_bytes is not None:
            size = min(size, self._segment_bytes)
        if self._reading:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._reading = True
        try:
            await trio.lowlevel.checkpoint()
            while True:
                now = self._look_up()
                self._check_connected()
                data = self._inward.take(size, now)
                if data is not None:
                    return data
                await self._inward.wait_for_arrival()
        finally:
            self._reading = False

    # Sending.

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        assert not self._sending, "send_nowait while a send_all runs would mix their bytes"
        now = self._look_up()
        if self._closed or self._sent_eof or self._unheard or self._broken is not None:
            return 0
        piece = bytes(memoryview(data)[: self._outward.room])
        if piece:
            self._outward.put(piece, now)
        return len(piece)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            with memoryview(data) as view:
                sent = 0
                while True:
                    now = self._look_up()
                    self._check_sendable()
                    piece = bytes(view[sent : sent + self._outward.room])
                    if piece:
                        self._outward.put(piece, now)
                        sent += len(piece)
                    if sent == view.nbytes:
                        return
                    await self._joint.wait_for_room(self._inward.next_notice())
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            while True:
                self._look_up()
                self._check_sendable()
                if self._outward.room:
                    return
                await self._joint.wait_for_room(self._inward.next_notice())
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            now = self._look_up()
            self._check_connected()
            if not self._sent_eof:
                self._sent_eof = True
                self._outward.put(END, now)
        finally:
            self._sending = False

    # Ending.

    def abort(self) -> None:
        if not self._closed:
            self._outward.notify(Notice.RESET, trio.current_time())
            self._close()

    async def aclose(self) -> None:
        self.close_nowait()
        await trio.lowlevel.checkpoint()

    def close_nowait(self) -> bool:
        if not self._closed:
            now = self._look_up()
            if self._inward.has_unread(now):
                self._outward.notify(Notice.RESET, now)
            else:
                if not self._sent_eof:
                    self._outward.put(END, now)
                self._outward.notify(Notice.NOT_READING, now)
            self._close()
        return True

    def sever(self, why: str) -> None:
        """Break this end where it is, now. The other end hears nothing of it by this."""
        if self._broken is None:
            self._broken = why
            self._inward.discard()
            self._joint.wake()

    def die(self) -> None:
        """The host's end is this end's, and the other one gets a reset."""
        self._outward.notify(Notice.RESET, trio.current_time())
        self.sever("this host was killed")

    def _close(self) -> None:
        self._closed = True
        self._inward.discard()
        self._joint.end_closed()

    def _look_up(self) -> float:
        """Take the news that have arrived; returns the time they were judged by."""
        now = trio.current_time()
        for notice in self._inward.notices(now):
            if notice is Notice.RESET:
                self.sever("the other side reset the connection")
            else:
                self._unheard = True
        return now

    def _begin_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True

    def _check_connected(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._broken is not None:
            raise trio.BrokenResourceError(self._broken)

    def _check_sendable(self) -> None:
        if self._sent_eof:
            raise trio.ClosedResourceError("nothing can be sent after send_eof")
        self._check_connected()
        if self._unheard:
            raise trio.BrokenResourceError("the other side has closed")
