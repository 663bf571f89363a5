"""What waits to be sent to one peer, in three lanes, all bounded.

Responsible for order, fairness between the lanes and the bounds; knows nothing of streams, tasks or time.

- **control**: answers and bookkeeping of the protocol (WalAck, WalHeads, OutboxPull, ForkProof). Goes first and is
  never refused: what the peer may have outstanding bounds it, so the reader never has to wait to put something here.
  That is what makes a deadlock of two full outboxes impossible (wire section 6).
- **data**: application messages. Bounded in messages and bytes; whoever sends waits from the high-water mark.
- **wal**: batches for the peer. Bounded by the replication window (`unacked_bytes_max`), not here.

Data and WAL take turns by bytes, so neither a bulk catch-up nor a chatty application starves the other.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from p2p.limits import Limits


class Sealer(Protocol):
    """Where drained messages go: a live session."""

    def send(self, type: int, payload: bytes, flags: int = 0) -> int:
        """Take one message for sealing and return its message id."""
        ...


class Outbox:
    """Bounded lanes of encoded messages for one link."""

    __slots__ = ("_control", "_data", "_limits", "_wal", "_wal_turn", "data_bytes", "wal_bytes")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._control: deque[tuple[int, bytes]] = deque()
        self._data: deque[tuple[int, bytes, int]] = deque()
        self._wal: deque[tuple[int, bytes]] = deque()
        self._wal_turn = False
        self.data_bytes = 0
        self.wal_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._control or self._data or self._wal)

    @property
    def data_messages(self) -> int:
        """Application messages that wait."""
        return len(self._data)

    @property
    def has_data_room(self) -> bool:
        """Whether another message of any allowed size may be put into the data lane now."""
        limits = self._limits
        return self.data_bytes < limits.outbox_high_water_bytes and len(self._data) < limits.outbox_messages_max

    def fits(self, size: int) -> bool:
        """Whether a message of `size` bytes fits below the hard bounds; any one message fits an empty lane."""
        if not self._data:
            return True
        limits = self._limits
        return self.data_bytes + size <= limits.outbox_bytes_max and len(self._data) < limits.outbox_messages_max

    def put_control(self, type: int, payload: bytes) -> None:
        """Queue a protocol message ahead of everything else."""
        self._control.append((type, payload))

    def put_data(self, type: int, payload: bytes, flags: int) -> None:
        """Queue an application message. The caller has checked `fits`."""
        self._data.append((type, payload, flags))
        self.data_bytes += len(payload)

    def put_wal(self, type: int, payload: bytes) -> None:
        """Queue a batch. The replication window bounds how many wait."""
        self._wal.append((type, payload))
        self.wal_bytes += len(payload)

    def drain(self, session: Sealer, bytes_max: int) -> None:
        """Hand messages to the session until `bytes_max` bytes are taken (the last one may overshoot)."""
        taken = 0
        send = session.send
        control = self._control
        while control and taken < bytes_max:
            type, payload = control.popleft()
            taken += len(payload)
            send(type, payload)
        data, wal = self._data, self._wal
        while taken < bytes_max and (data or wal):
            if wal and (self._wal_turn or not data):
                type, payload = wal.popleft()
                self.wal_bytes -= len(payload)
                taken += len(payload)
                send(type, payload)
                self._wal_turn = False
                continue
            # One turn of the data lane: as much as one large batch would take, or all there is.
            turn_end = min(taken + bytes_max // 2, bytes_max)
            before = taken
            while data and taken < turn_end:
                type, payload, flags = data.popleft()
                taken += len(payload)
                send(type, payload, flags)
            self.data_bytes -= taken - before
            self._wal_turn = True

    def clear(self) -> int:
        """Drop everything and return how many application messages were lost with it."""
        lost = len(self._data)
        self._control.clear()
        self._data.clear()
        self._wal.clear()
        self.data_bytes = self.wal_bytes = 0
        return lost
