"""Application messages: which channel a Data message belongs to, and who reads it.

Responsible for channels, their bounds and their policies when full, and for handing requests to services. It refuses to
know links beyond "who sent this". A message for a channel that nobody reads is dropped and counted: whoever needs more
uses the log. A request that is lost here is answered with a status instead, so that its asker need not wait.
"""

from __future__ import annotations

import math
from collections import deque
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Never, Self

import msgspec
import trio

from p2p.errors import ChannelBusy, ConfigError, LocalProtocolError, NodeClosed, PayloadTooLarge
from p2p.limits import Limits
from p2p.msg import Data
from p2p.node.interrupts import uninterrupted
from p2p.node.kinds import check_count, utf8_of
from p2p.node.service import first_cause
from p2p.node.serving import Asked, Body, Handler, Service, check_handler, encode_body
from p2p.node.status import Counters, Peer, snapshot_of
from p2p.peer.connection import Connection
from p2p.peer.owner import Pause

if TYPE_CHECKING:
    from p2p.ids import PeerId

WhenFull = Literal["wait", "drop_oldest"]

MESSAGES_PER_CHECKPOINT: Final = 64
"""A reader that never has to wait still lets others run this often."""

REST_LOOK_S: Final = 1.0
"""How often a link that waits for a reader looks if it still may: circuits over it may begin meanwhile."""


@uninterrupted
class Message(msgspec.Struct, frozen=True, gc=False, repr_omit_defaults=True):
    """One application message as it arrived.

    Attributes:
        channel: the channel's name.
        body: the bytes that were sent.
    """

    # A struct outside the garbage collector: it is made per message, refers to nothing that refers back, and costs a
    # third of a plain object.
    channel: str
    body: bytes
    _link: Connection
    _asked: Asked | None = None

    @property
    def peer_id(self) -> PeerId:
        """The identity that sent it, proven by the session."""
        return self._link.peer_id

    @property
    def node_id(self) -> str | None:
        """The sender's label, where it has one here."""
        return self._link.label

    @property
    def peer(self) -> Peer:
        """A snapshot of the sender, made when asked for."""
        return snapshot_of(self._link)

    @property
    def is_request(self) -> bool:
        """Whether the sender waits for an answer."""
        return self._asked is not None

    async def reply(self, body: Body | None = None) -> None:
        """Answer a request that was read from a channel; waits while the asker's outbox is full.

        In a service the handler returns the answer. One that replies, or refuses, itself has given the only one: what
        it returns or raises after that reaches nobody.

        Args:
            body: bytes, or a msgspec struct that is sent as JSON.

        Raises:
            ConfigError: it is neither bytes nor a struct.
            NotConnected: the asker has gone.
            PayloadTooLarge: the answer does not fit a frame.
            LocalProtocolError: it is no request, or was answered before.
        """
        # Before all else: of two that answer at the same time the second is to find that it was answered.
        await trio.lowlevel.checkpoint()
        asked = self._asked
        if asked is None or asked.is_answered:
            raise LocalProtocolError(f"{self!r} {'is no request' if asked is None else 'was answered already'}")
        encoded = encode_body(body)
        if len(encoded) > self._link.answer_bytes_max:
            raise PayloadTooLarge(f"an answer of {len(encoded)} bytes; {self._link.answer_bytes_max} fit a frame")
        link = self._link
        # A link that gives way waits for what is answered but has no room yet.
        link.serving += 1
        payload = asked.encode(Data.OK, encoded)
        try:
            if not link.send_reply_nowait(payload, at_once=True):
                await link.send_reply(payload)
        except (trio.Cancelled, KeyboardInterrupt):
            # It had no room yet; whoever reads the request may answer it again.
            asked.reopen()
            raise
        finally:
            link.serving -= 1
            link.flush()

    def refuse(self, status: int = Data.OVERLOADED) -> None:
        """Answer a request with a status and no body, so that its asker need not wait. Never waits.

        Without effect on what is no request, or was answered before.

        Args:
            status: 1 failed, 2 nobody serves it, 3 overloaded; others up to 255 are between you and your askers.

        Raises:
            ConfigError: it is no such status.
        """
        if type(status) is not int or not 1 <= status <= 255:
            raise ConfigError(f"a status that refuses is 1 failed, 2 not served, 3 overloaded … 255, not {status!r}")
        if self._asked is not None:
            self._asked.refuse(status)

    def __repr__(self) -> str:
        return f"<Message {self.channel!r} from {self.node_id or self.peer_id.short}, {len(self.body)} bytes>"


@uninterrupted
class Channel:
    """A named, bounded queue of application messages: `async with` opens it, `async for` reads it.

    While it is full with `when_full="wait"`, the link that brings one message more rests until there is room. If there
    is none within `channel_wait_s_max`, that message is refused, and then every other one at once until the reader
    takes something: a reader that has gone away costs its peers one rest and not one per message.

    A link over which a relay passes circuits on rests for `relay_answer_s_max / 3` at the most, and then until all is
    read that waits there: others are at their ends. What finds no room meanwhile is queued beyond the capacity, up to
    `channel_overdue_messages_max`, if the reader takes something at all.

    What one peer fills rests the others no more than it must: who has less than his part of a full one in it, which is
    the capacity divided by the peers that have something there, is still taken, up to twice the capacity in all.

    Attributes:
        dropped: messages lost because the reader was slower than the senders.
    """

    def __init__(self, dispatch: Dispatch, name: str, capacity: int, when_full: WhenFull) -> None:
        self.name = name
        self.capacity = capacity
        self.when_full = when_full
        self.dropped = 0
        self._dispatch = dispatch
        self._queue: deque[Message] = deque()
        self._bytes = 0
        # Whether it was full, and less than half of it was read since.
        self._was_full = False
        # Messages and bytes of each peer, counted only meanwhile, and if there is more than one link in it.
        self._shares: dict[PeerId, tuple[int, int]] | None = None
        # The link that brought everything that is queued, if it was one.
        self._source: Connection | None = None
        self._readers = trio.lowlevel.ParkingLot()
        self._writers = trio.lowlevel.ParkingLot()
        # How many were queued beyond the capacity since it was full.
        self._overdue = 0
        self._is_entered = False
        self._closed = False
        # Since when nobody takes anything while somebody waits; None where nobody waited since the last was taken.
        self._full_since: float | None = None
        self._since_checkpoint = 0

    async def __aenter__(self) -> Self:
        """Open it.

        Raises:
            ChannelBusy: the name is in use, this one was left already, or there are `channels_max`.
        """
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise ChannelBusy(f"channel {self.name!r} was left: a channel is entered once; make another")
        self._dispatch.add(self)
        self._is_entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dispatch.remove(self)
        self.close()
        for message in self._queue:
            message.refuse(Data.NO_HANDLER)

    def __aiter__(self) -> Self:
        return self

    async def receive(self) -> Message:
        """Wait for the next message.

        While messages are at hand it is a checkpoint only once in `MESSAGES_PER_CHECKPOINT` calls: that costs more than
        all the rest.

        Raises:
            NodeClosed: the node stopped, or the channel was left, and everything queued was read.
            ConfigError: the channel was not entered yet.
        """
        self._since_checkpoint += 1
        if self._since_checkpoint >= MESSAGES_PER_CHECKPOINT or not self._queue:
            self._since_checkpoint = 0
            await trio.lowlevel.checkpoint()
        while not self._queue:
            if self._closed or self._dispatch.is_closed:
                raise NodeClosed(f"channel {self.name!r} was left, or its node has stopped")
            if not self._is_entered:
                raise ConfigError("enter the channel first: `async with node.channel(...) as messages:`")
            # A link that ends is not kept for what it brought.
            self._source = None
            await self._readers.park()
        # `_take`, written out: this and `put` run per message.
        message = self._queue.popleft()
        self._bytes -= len(message.body)
        self._full_since = None
        if self._was_full:
            if self._shares is not None:
                self._count(message, -1)
            if len(self._queue) <= self.capacity // 2 and self._bytes <= self._dispatch.bytes_max // 2:
                self._was_full = False
                self._shares = None
                self._overdue = 0
                self._writers.unpark_all()
        return message

    __anext__ = receive

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, message: Message) -> Pause | None:
        """Queue a message; a pause for its link if the policy is to wait for room."""
        queue, waiting = self._queue, self._bytes + len(message.body)
        if len(queue) < self.capacity and waiting <= self._dispatch.bytes_max:
            # `_append`, written out for a message that finds room: three calls fewer, a tenth of what a small one costs
            # its receiver.
            if self._source is not message._link:  # noqa: SLF001  # of this module
                self._note_source(message)
            queue.append(message)
            self._bytes = waiting
            if self._shares is not None:
                self._count(message, 1)
            if self._readers:
                self._readers.unpark()
            return None
        while not self._has_room(message):
            if self.when_full == "wait":
                if message._link.rest_s_max <= 0 and self._takes_overdue(message):  # noqa: SLF001  # of this module
                    break
                if not self._is_stuck():
                    return partial(self._put_when_room, message)
                self._dispatch.drop(self, message)
                return None
            self._dispatch.drop(self, self._take())
        self._append(message)
        return None

    def put_row(self, messages: list[Message]) -> Pause | None:
        """Queue messages of one link, in order; a pause for it if the policy is to wait for room.

        What finds room costs its receiver half of what it would one by one.
        """
        if self._closed:
            for message in messages:
                self._dispatch.drop(self, message)
            return None
        rest = messages[self._put_first(messages) :] if self._shares is None else messages
        for place, message in enumerate(rest, 1):
            pause = self.put(message)
            if pause is not None:
                return partial(self._put_rest_after, pause, rest[place:])
        return None

    def _put_first(self, messages: list[Message]) -> int:
        """Queue as many as there is room for, at once; how many."""
        queue = self._queue
        room = self.capacity - len(queue)
        some = messages[:room] if 0 < room < len(messages) else messages
        waiting = self._bytes + sum([len(message.body) for message in some])
        if room <= 0 or not some or waiting > self._dispatch.bytes_max:
            return 0
        if self._source is not some[0]._link:  # noqa: SLF001  # of this module
            self._note_source(some[0])
        queue.extend(some)
        self._bytes = waiting
        if self._readers:
            self._readers.unpark(count=len(some))
        return len(some)

    def _note_source(self, message: Message) -> None:
        """A message comes by another link than those before it."""
        self._source = None if self._queue else message._link  # noqa: SLF001  # of this module

    async def _put_rest_after(self, pause: Pause, messages: list[Message]) -> Pause | None:
        waited = False
        try:
            await pause()
            waited = True
        finally:
            if not waited:
                # The link may not wait any more.
                for message in messages:
                    self._put_or_drop(message)
        return self.put_row(messages)

    def _is_stuck(self) -> bool:
        """Whether nobody took anything for as long as a link may wait, be it one link that did, or several in turn."""
        return self._full_since is not None and trio.current_time() >= self._full_since + self._dispatch.wait_s_max

    def _has_room(self, message: Message) -> bool:
        """A message that is larger than the bound of bytes is taken by an empty queue: none is refused for its size."""
        queue = self._queue
        if len(queue) < self.capacity and (not queue or self._bytes + len(message.body) <= self._dispatch.bytes_max):
            return True
        return self.when_full == "wait" and self._is_within_share(message)

    def _is_within_share(self, message: Message) -> bool:
        """Whether the sender has so little of what fills the channel that it need not wait for the others."""
        self._was_full = True
        if self._source is message._link:  # noqa: SLF001  # of this module
            # It is all his: nothing has to be counted, three times for each message as long as it stays full.
            return False
        if self._shares is None:
            self._shares = {}
            for queued in self._queue:
                self._count(queued, 1)
        shares, size = self._shares, len(message.body)
        messages, bytes_ = shares.get(message.peer_id, (0, 0))
        peers = len(shares) + (messages == 0)
        capacity, bytes_max = self.capacity, self._dispatch.bytes_max
        return (
            peers > 1
            and len(self._queue) < 2 * capacity + self._overdue
            and self._bytes + size <= 2 * bytes_max
            and messages < max(1, capacity // peers)
            and bytes_ + size <= bytes_max // peers
        )

    def _put_or_drop(self, message: Message) -> None:
        """Queue a message whose link may not wait any more: beyond the capacity if need be, and within bounds."""
        if not self._closed and (self._has_room(message) or self._takes_overdue(message)):
            self._append(message)
        else:
            self._dispatch.drop(self, message)

    def _takes_overdue(self, message: Message) -> bool:
        """Whether there is room for it beyond the capacity. Counts it."""
        takes = (
            not self._is_stuck()
            and self._overdue < self._dispatch.overdue_max
            and self._bytes + len(message.body) <= self._dispatch.bytes_max
        )
        self._overdue += takes
        return takes

    def _count(self, message: Message, by: int) -> None:
        shares = self._shares
        assert shares is not None, "shares are counted while it is full"
        messages, bytes_ = shares.get(message.peer_id, (0, 0))
        if messages + by:
            shares[message.peer_id] = (messages + by, bytes_ + by * len(message.body))
        else:
            del shares[message.peer_id]

    def _append(self, message: Message) -> None:
        if self._source is not message._link:  # noqa: SLF001  # of this module
            self._note_source(message)
        self._queue.append(message)
        self._bytes += len(message.body)
        if self._shares is not None:
            self._count(message, 1)
        if self._readers:
            self._readers.unpark()

    def _take(self) -> Message:
        message = self._queue.popleft()
        self._bytes -= len(message.body)
        return message

    async def _put_when_room(self, message: Message) -> None:
        if self._full_since is None:
            self._full_since = trio.current_time()
        is_cut_short = False
        try:
            over_by, left_s = trio.current_time() + self._dispatch.wait_s_max, math.inf
            while left_s > REST_LOOK_S and not self._has_room(message) and not self._closed:
                rest_s, patience_s = message._link.rest_s_max, over_by - trio.current_time()  # noqa: SLF001  # of this module
                left_s, is_cut_short = min(rest_s, patience_s), rest_s < patience_s
                with trio.move_on_after(min(left_s, REST_LOOK_S)):
                    while not self._has_room(message) and not self._closed:
                        await self._writers.park()
        except BaseException:
            # The link ends while it waits, or another one waits for it.
            self._put_or_drop(message)
            raise
        if is_cut_short or self._has_room(message):
            self._put_or_drop(message)
        else:
            self._dispatch.drop(self, message)

    def close(self) -> None:
        """No more messages will come; readers end after what is queued."""
        self._closed = True
        self._readers.unpark_all()
        self._writers.unpark_all()


class Dispatch:
    """The channels of one node.

    Attributes:
        is_closed: whether the node stops, or has: nothing comes any more.
    """

    def __init__(self, limits: Limits, counters: Counters) -> None:
        self.wait_s_max = limits.channel_wait_s_max
        self.bytes_max = limits.channel_bytes_max
        self.overdue_max = limits.channel_overdue_messages_max
        self._limits = limits
        self._counters = counters
        self._channels: dict[str, Channel | Service] = {}
        self.is_closed = False

    def channel(self, name: str, capacity: int, when_full: WhenFull) -> Channel:
        """Make a channel; it takes messages from its `async with` on.

        Raises:
            ConfigError: name, capacity or policy is not usable.
        """
        self._check_name(name)
        check_count(capacity, "capacity")
        if when_full not in ("wait", "drop_oldest"):
            raise ConfigError(f'when_full is "wait" or "drop_oldest", not {when_full!r}')
        return Channel(self, name, capacity, when_full)

    async def serve(self, name: str, handler: Handler, concurrency: int, task_status: trio.TaskStatus[None]) -> Never:
        """Answer the requests of a channel until cancelled.

        Raises:
            ConfigError: an argument is not usable.
            ChannelBusy: the channel has a reader or a handler already.
            NodeClosed: the node stopped.
        """
        self._check_name(name)
        check_count(concurrency, "concurrency")
        check_handler(handler)
        service = Service(name, handler, self._limits)
        self.add(service)
        try:
            await service.run(concurrency, task_status)
        except BaseExceptionGroup as group:
            # What a handler raises is answered; this is a cancellation, or an interrupt.
            raise first_cause(group) from None
        finally:
            self.remove(service)
            service.close()
        raise NodeClosed("the node has stopped")

    def add(self, channel: Channel | Service) -> None:
        """Open a channel.

        Raises:
            ChannelBusy: the name is in use, or there are `channels_max` already.
        """
        if channel.name in self._channels:
            raise ChannelBusy(f"channel {channel.name!r} has a reader already")
        if len(self._channels) >= self._limits.channels_max:
            raise ChannelBusy(f"{self._limits.channels_max} channels are open already")
        if self.is_closed:
            channel.close()
        self._channels[channel.name] = channel

    def _check_name(self, name: str) -> None:
        utf8_of(name, "a channel name", self._limits.channel_name_bytes_max)

    def remove(self, channel: Channel | Service) -> None:
        """Close a channel's name for new messages."""
        if self._channels.get(channel.name) is channel:
            del self._channels[channel.name]

    def deliver(self, link: Connection, message_id: int, flags: int, data: Data) -> Pause | None:
        """Give a message to its channel; a pause if the link must rest meanwhile."""
        channel = self._channels.get(data.channel)
        asked = Asked(link, message_id) if flags else None
        if type(channel) is Channel:
            return channel.put(Message(data.channel, data.body, link, asked))
        if type(channel) is Service and asked is not None:
            channel.put(Message(data.channel, data.body, link, asked), asked)
            return None
        # Nobody reads it, or a service does, which has no use for what is not asked.
        self._counters.messages_dropped += 1
        if asked is not None:
            asked.refuse(Data.NO_HANDLER)
        return None

    def deliver_row(self, link: Connection, name: str, bodies: list[bytes]) -> Pause | None:
        """Give messages that ask nothing to their channel; a pause if the link must rest meanwhile."""
        channel = self._channels.get(name)
        if type(channel) is Channel:
            return channel.put_row([Message(name, body, link) for body in bodies])
        self._counters.messages_dropped += len(bodies)
        return None

    def drop(self, channel: Channel, message: Message) -> None:
        """Count a message that its channel lost, and tell its sender if it asked."""
        channel.dropped += 1
        self._counters.messages_dropped += 1
        message.refuse(Data.OVERLOADED)

    def close(self) -> None:
        """Let every reader end: the node stops."""
        self.is_closed = True
        for channel in self._channels.values():
            channel.close()
