"""What waits to be sent to one peer, in four lanes, all bounded.

Responsible for order, fairness between the lanes and the bounds; knows nothing of streams, tasks or time.

- **control**: answers and bookkeeping of the protocol (WalAck, WalHeads, OutboxPull, ForkProof). Goes first, and the
  reader never has to wait to put something here: what an honest peer may have outstanding bounds it, and one that asks
  and never reads the answers fills it and loses its link. That is what makes a deadlock of two full outboxes impossible
  (wire section 6).
- **data**: application messages. Bounded in messages and bytes; whoever sends waits from the high-water mark, in line.
- **wal**: batches for the peer. Bounded by the replication window (`unacked_bytes_max`), not here.
- **relay**: circuits that run over this link. They wait elsewhere, bounded by the windows of the circuits, and are
  taken from there one message at a time (`RelayLane`).

Data, WAL and circuits take turns by bytes, so neither a bulk catch-up nor a chatty application starves the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Final, Protocol, TypeAlias

from p2p.envelope import ACK_REQ
from p2p.limits import Limits
from p2p.msg import Data, MessageType
from p2p.session.session import INNER_OVERHEAD_BYTES

ENVELOPE_BYTES_MAX: Final = 128
"""Room in a frame for a sealed envelope's header beside the payload (wire sections 2 and 3), rounded up."""

_DATA: Final = int(MessageType.DATA)
_RELAY: Final = int(MessageType.RELAY)
_DATA_TURN: Final = 0
_WAL_TURN: Final = 1

_Row: TypeAlias = "list[bytes] | tuple[bytes, Sent]"
"""What the data lane has for a turn: messages that ask nothing, in a row, or one request."""
_Nothing: TypeAlias = tuple[()]
"""What an empty lane is: an empty deque keeps 760 bytes, three times for each of thousands of idle links."""


class Sealer(Protocol):
    """Where drained messages go: a live session."""

    def send(self, type: int, payload: bytes, flags: int = 0) -> int:
        """Take one message for sealing and return its message id."""
        ...

    def send_row(self, payloads: list[bytes], *, alike: bool = False) -> int:
        """Take application messages that ask nothing, all of one size if alike; return how many bytes they have."""
        ...


class RelayLane(Protocol):
    """Where the circuits of this link wait."""

    @property
    def turns(self) -> Collection[object] | None:
        """Those that have something to say: read and not asked, as a link looks several times per message."""

    @property
    def legs(self) -> int:
        """How many circuits there are."""

    @property
    def passed_on(self) -> int:
        """Those of them that do not end at this node."""

    def __bool__(self) -> bool: ...

    def take(self) -> bytes:
        """The next encoded Relay message; b"" if there is none after all."""
        ...


class Sent(Protocol):
    """A request, which wants to know the message id that it gets."""

    is_over: bool
    """Whether nobody waits for it any more: then it is not sent at all."""

    def sent(self, msg_id: int) -> None:
        """It was handed to the session."""
        ...


class Outbox:
    """Bounded lanes of encoded messages for one link.

    Attributes:
        relay: the circuits that it carries.
        data_bytes, data_messages: application messages that wait.
        wal_bytes: of batches that wait.
    """

    __slots__ = (
        "_bytes_max",
        "_control",
        "_control_bytes",
        "_data",
        "_high_water",
        "_limits",
        "_messages_max",
        "_payload_max",
        "_row",
        "_row_size",
        "_turn",
        "_wal",
        "data_bytes",
        "data_messages",
        "relay",
        "wal_bytes",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._control: deque[tuple[int, bytes]] | _Nothing = ()
        self._control_bytes = 0
        self._data: deque[_Row] | _Nothing = ()
        # The last of them, if it may be added to.
        self._row: list[bytes] | None = None
        # The size of each message in it, None where they differ.
        self._row_size: int | None = None
        self._wal: deque[tuple[int, bytes]] | _Nothing = ()
        self._turn = 0
        self.relay: RelayLane | None = None
        # Read per message: four look-ups through two objects would cost more than the rest of `put_data`.
        self._high_water = limits.outbox_high_water_bytes
        self._bytes_max = limits.outbox_bytes_max
        self._messages_max = limits.outbox_messages_max
        self._payload_max = limits.frame_bytes_max - ENVELOPE_BYTES_MAX
        self.data_bytes = 0
        self.data_messages = 0
        self.wal_bytes = 0

    def __bool__(self) -> bool:
        relay = self.relay
        return bool(self._control or self._data or self._wal or (relay is not None and relay.turns))

    def put_control(self, type: int, payload: bytes) -> bool:
        """Queue a protocol message ahead of everything else.

        Returns:
            False if there were more already than an honest peer leaves unread: its link has to end.
        """
        control, limits = self._control, self._limits
        if len(control) >= limits.outbox_control_messages_max or self._control_bytes >= limits.outbox_control_bytes_max:
            return False
        if not control:
            control = self._control = deque()
        control.append((type, payload))
        self._control_bytes += len(payload)
        return True

    def put_data(self, payload: bytes, ask: Sent | None = None) -> bool:
        """Queue an encoded Data if there is room. With `ask` it is a request.

        There is below the high-water mark, as long as the message stays within the hard bounds; and an empty lane takes
        one message of any size that fits a frame.
        """
        size = len(payload)
        waiting = self.data_bytes
        data = self._data
        if data:
            if waiting >= self._high_water or waiting + size > self._bytes_max:
                return False
            if self.data_messages >= self._messages_max:
                return False
        elif size > self._payload_max:
            return False
        else:
            data = self._data = deque()
        self.data_bytes = waiting + size
        self.data_messages += 1
        if ask is not None:
            data.append((payload, ask))
            self._row = None
        elif self._row is not None:
            # A list for all of them, and not a pair for each: what is taken together costs a tenth less.
            self._row.append(payload)
            if size != self._row_size:
                self._row_size = None
        else:
            self._row = [payload]
            self._row_size = size
            data.append(self._row)
        return True

    def put_wal(self, type: int, payload: bytes) -> None:
        """Queue a batch. The replication window bounds how many wait."""
        wal = self._wal
        if not wal:
            wal = self._wal = deque()
        wal.append((type, payload))
        self.wal_bytes += len(payload)

    def drain(self, session: Sealer, bytes_max: int) -> None:
        """Hand messages to the session until `bytes_max` bytes are taken (the last one may overshoot).

        Counted as the session counts what it joins: else every write would be a full Bundle and one of the few messages
        that did not fit it.
        """
        taken = 0
        send = session.send
        control = self._control
        while control and taken < bytes_max:
            type, payload = control.popleft()
            taken += len(payload)
            send(type, payload)
        if not control:
            self._control = ()
        self._control_bytes -= taken
        while taken < bytes_max and (self._data or self._wal or self.relay):
            turn = self._turn = (self._turn + 1) % 3
            if turn == _DATA_TURN:
                # Where nothing else waits one turn is all: its messages are joined once.
                turn_bytes = bytes_max // 2 if self._wal or self.relay else bytes_max
                taken += self._drain_data(session, min(bytes_max - taken, turn_bytes))
            elif turn == _WAL_TURN:
                taken += self._drain_wal(session)
            else:
                taken += self._drain_relay(session, min(bytes_max - taken, bytes_max // 2))

    def drain_messages(self, session: Sealer) -> int:
        """Hand all application messages over but requests, whose answers could not come any more; how many they are."""
        messages = [payload for row in self._data if isinstance(row, list) for payload in row]
        self._forget_data()
        session.send_row(messages)
        return len(messages)

    def _forget_data(self) -> None:
        self._data, self._row = (), None
        self.data_bytes = self.data_messages = 0

    def _drain_data(self, session: Sealer, turn_bytes: int) -> int:
        """One turn of the data lane: as much as one large batch would take, or all there is."""
        data, taken = self._data, 0
        while data and taken < turn_bytes:
            row = data[0]
            if isinstance(row, list):
                # No row is longer than what is joined: the session would have to take it message by message.
                room = min(turn_bytes - taken, self._limits.bundle_bytes)
                fits = len(data) == 1 and self.data_bytes + len(row) * INNER_OVERHEAD_BYTES < room
                # Whether they are of one size is known by a comparison each as they come: to find out here would take a
                # tenth of what a message of 128 B costs.
                size_of_each = self._row_size if row is self._row else None
                messages = row if fits else _take_first(row, room, size_of_each)
                if fits or not row:
                    data.popleft()
                count, size = len(messages), session.send_row(messages, alike=size_of_each is not None)
            else:
                data.popleft()
                payload, ask = row
                if not ask.is_over:
                    ask.sent(session.send(_DATA, payload, ACK_REQ))
                count, size = 1, len(payload)
            taken += size + count * INNER_OVERHEAD_BYTES
            self.data_bytes -= size
            self.data_messages -= count
        if not data:
            self._data, self._row = (), None
        return taken

    def _drain_wal(self, session: Sealer) -> int:
        """One turn of the WAL: one batch."""
        wal = self._wal
        if not wal:
            return 0
        type, payload = wal.popleft()
        if not wal:
            self._wal = ()
        self.wal_bytes -= len(payload)
        session.send(type, payload)
        return len(payload)

    def _drain_relay(self, session: Sealer, turn_bytes: int) -> int:
        """One turn of the circuits."""
        relay, taken = self.relay, 0
        while relay and taken < turn_bytes:
            payload = relay.take()
            if payload:
                taken += len(payload)
                session.send(_RELAY, payload)
        return taken

    def withdraw(self) -> tuple[bytes, ...]:
        """Take back the application messages that wait, but requests and answers, which belong to this link."""
        messages: list[bytes] = []
        stay: deque[_Row] = deque()
        for row in self._data:
            if isinstance(row, list):
                answers: list[bytes] = []
                for payload in row:
                    (answers if Data.decode(payload).reply_to else messages).append(payload)
                row = answers
            if row:
                stay.append(row)
        self._data, self._row = stay or (), None
        self.data_bytes -= sum(map(len, messages))
        self.data_messages -= len(messages)
        return tuple(messages)

    def clear(self) -> int:
        """Drop everything and return how many application messages were lost with it."""
        lost = sum(len(row) if isinstance(row, list) else not row[1].is_over for row in self._data)
        self._forget_data()
        self._control = self._wal = ()
        self.relay = None
        self.wal_bytes = self._control_bytes = 0
        return lost


def _take_first(row: list[bytes], room: int, size_of_each: int | None) -> list[bytes]:
    """Take messages off a row until they fill the room; the last may be too large for it."""
    if size_of_each is not None:
        count = -(-room // (size_of_each + INNER_OVERHEAD_BYTES))
    else:
        count = taken = 0
        while taken < room and count < len(row):
            taken += len(row[count]) + INNER_OVERHEAD_BYTES
            count += 1
    first = row[:count]
    del row[:count]
    return first
