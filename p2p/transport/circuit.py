"""One circuit through a relay as a `LinkStream`.

The pure `CircuitEnd` keeps bytes and credit; this waits for them. It refuses to know links, relays and messages.

As with TCP, closing delivers what was sent; unlike TCP it cannot close one direction alone, as the wire has no word for
it. Sending never waits for a link, only for credit: what has credit is queued, and bounded by it.
"""

from __future__ import annotations

from typing import Final

import trio

from p2p.errors import Reason
from p2p.ids import RELAY, PeerEndpoint
from p2p.relay.end import CircuitEnd
from p2p.transport.base import LinkBroke, LinkStream, receive_size

_OF_A_LIMIT: Final = {
    Reason.OVERLOADED: "a relay on the way lets no more bytes through in one circuit",
    Reason.TIMEOUT: "nothing moved on it for as long as a relay on the way allows",
}
"""What a circuit that was taken ends with when a relay's limit for one is reached."""

CHUNKS_PER_CHECKPOINT: Final = 4
"""`receive_chunk` may leave out a checkpoint so many times less one, as with TCP."""


class CircuitStream(LinkStream):
    """This node's end of a circuit as a trio stream.

    Args:
        end: the pure end; the stream owns it from here on.
    """

    __slots__ = ("_at_hand", "_changed", "_end", "_is_closed", "_receiving", "_remote", "_sending")

    def __init__(self, end: CircuitEnd) -> None:
        self._end = end
        self._remote = PeerEndpoint(str(end.relay), 0, RELAY, str(end.far))
        self._changed = trio.lowlevel.ParkingLot()
        self._is_closed = False
        self._receiving = _OneTask("receiving")
        self._sending = _OneTask("sending")
        self._at_hand = CHUNKS_PER_CHECKPOINT - 1
        end.on_change = self._changed.unpark_all

    @property
    def remote(self) -> PeerEndpoint:
        """The relay, and who is said to be behind it."""
        return self._remote

    @property
    def end(self) -> CircuitEnd:
        """The pure end."""
        return self._end

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open" if self._end.is_open else "not taken yet"
        return f"<CircuitStream {self._remote} {state}>"

    async def wait_taken(self) -> Reason | None:
        """Wait until the other end took the circuit; the reason if it, or a relay on the way, refused."""
        await trio.lowlevel.checkpoint()
        end = self._end
        while not (end.is_open or end.is_finished or end.reason is not None):
            await self._changed.park()
        return Reason.REFUSED if end.is_finished else end.reason

    # Receiving.

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size = receive_size(max_bytes)
        with self._receiving:
            await trio.lowlevel.checkpoint()
            return await self._receive(size)

    async def receive_chunk(self, max_bytes: int | None = None) -> bytes:
        size = receive_size(max_bytes)
        if self._at_hand > 0:
            data = self._receive_now(size)
            if data is not None:
                self._at_hand -= 1
                return data
        self._at_hand = CHUNKS_PER_CHECKPOINT - 1
        return await self.receive_some(size)

    async def _receive(self, size: int) -> bytes:
        while (data := self._receive_now(size)) is None:
            await self._changed.park()
        return data

    def _receive_now(self, size: int) -> bytes | None:
        self._check_connected()
        return self._end.read(size)

    # Sending.

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        assert not self._sending.is_taken, "send_nowait while a send_all runs would mix their bytes"
        if self._is_closed or self._is_over:
            return 0
        return self._end.send(data)

    @property
    def unread_bytes(self) -> int:
        return self._end.unread_bytes

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._sending, memoryview(data) as view:
            await trio.lowlevel.checkpoint()
            sent = 0
            while True:
                self._check_sendable()
                with view[sent:] as rest:
                    sent += self._end.send(rest)
                if sent == view.nbytes:
                    return
                await self._changed.park()

    async def wait_send_all_might_not_block(self) -> None:
        with self._sending:
            await trio.lowlevel.checkpoint()
            while True:
                self._check_sendable()
                if self._end.room:
                    return
                await self._changed.park()

    # Ending.

    def abort(self) -> None:
        if not self._is_closed:
            self.refuse(Reason.ABNORMAL)

    def refuse(self, reason: Reason) -> None:
        """End it as `abort` does, and tell the other end why."""
        self._is_closed = True
        self._end.abort(reason)
        self._changed.unpark_all()

    async def aclose(self) -> None:
        self.close_nowait()
        await trio.lowlevel.checkpoint()

    def close_nowait(self) -> bool:
        if not self._is_closed:
            self._is_closed = True
            self._end.close()
            self._changed.unpark_all()
        return True

    @property
    def _is_over(self) -> bool:
        return self._end.is_finished or self._end.reason is not None

    def _check_connected(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("this stream was closed")
        reason = self._end.reason
        if reason in _OF_A_LIMIT:
            raise LinkBroke(f"the circuit broke: {_OF_A_LIMIT[reason]}", reason)
        if reason is Reason.ABNORMAL:
            raise LinkBroke("the circuit broke: a link on the way is gone, or the other end gave it up", reason)
        if reason is not None:
            raise LinkBroke(f"the circuit broke: {reason.label}", Reason.ABNORMAL)

    def _check_sendable(self) -> None:
        self._check_connected()
        if self._end.is_finished:
            raise trio.BrokenResourceError("the other side has closed")


class _OneTask:
    """Lets one task at a time use a direction of a stream."""

    __slots__ = ("_doing", "is_taken")

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self.is_taken = False

    def __enter__(self) -> None:
        if self.is_taken:
            raise trio.BusyResourceError(f"another task is {self._doing} on this stream")
        self.is_taken = True

    def __exit__(self, *_: object) -> None:
        self.is_taken = False
