"""This node's own end of a circuit: bytes in order, both ways, with credit.

Responsible for the buffer of what came in, for giving credit back as it is read, and for what both directions may
still do. It refuses to know tasks (`p2p.transport.circuit` waits) and how messages are passed on.

The opener may send once the other end took the circuit, which its first credit says. CLOSE ends both directions in
order: what was sent before it is still read. REFUSED, at any time, ends both at once. A link that ends, at either side
of any relay on the way, is a REFUSED.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from p2p.binary import Buffer
from p2p.errors import Reason
from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.relay.leg import Lane, Leg, Piece, append_piece

_RETURNS_PER_WINDOW: Final = 16
"""Credit goes back for each large slice: on a slow way it is the only sign of life for the time that a slice takes."""


class CircuitEnd:
    """One end of a circuit; made by `Switch`.

    Attributes:
        far: who is said to be at the other end: named by us when we opened it, else a claim that the handshake
            inside has to prove.
        relay: the neighbour that it runs through.
        is_open: the other end took the circuit.
        is_finished: the other end closed it: what came before can still be read.
        reason: why it broke, None while it did not.
        is_opener: this node opened it.
        must_move: a link on its way gives way: another circuit should take its place.
        on_change: called when reading, sending or the state may have changed.
        on_credit: called when the other end gave credit, and told how much came together: 0 until it makes room for a
            large slice. No honest relay makes any; one that swallows what is sent can, in the name of that end.
    """

    __slots__ = (
        "_credited",
        "_first_read",
        "_inbox",
        "_is_closed",
        "_leg",
        "_unreturned",
        "_window",
        "far",
        "inbox_bytes",
        "is_finished",
        "is_open",
        "is_opener",
        "must_move",
        "on_change",
        "on_credit",
        "reason",
        "relay",
    )

    def __init__(self, leg: Leg, limits: Limits, *, relay: PeerId, far: PeerId, is_opener: bool) -> None:
        self.far = far
        self.is_opener = is_opener
        self.relay = relay
        self.is_open = False
        self.is_finished = False
        self.reason: Reason | None = None
        self.must_move = False
        self.on_change: Callable[[], object] = _nothing
        self.on_credit: Callable[[int], object] = _let_pass
        self.inbox_bytes = 0
        self._leg = leg
        self._window = limits.relay_window_bytes
        self._inbox: deque[Piece] = deque()
        self._first_read = 0
        self._unreturned = 0
        self._credited = 0
        self._is_closed = False

    # For the stream.

    @property
    def lane(self) -> Lane:
        """Where it takes its turns: that of the link it runs over."""
        return self._leg.lane

    @property
    def room(self) -> int:
        """Bytes that `send` takes now."""
        return 0 if self._is_over else self._leg.credit

    @property
    def unread_bytes(self) -> int:
        """Bytes that were sent and got no credit back. The last few may be read: it comes for many at once."""
        return self._window - self._leg.credit

    def take(self) -> None:
        """Let the other end send: on the side that was called this is the answer to the opening."""
        self._leg.grant(self._window)

    def send(self, data: Buffer) -> int:
        """Queue as many of the first bytes as there is credit for, and return how many."""
        taken = min(len(data), self.room)
        if taken:
            # A copy, unless it is bytes and goes whole: whoever sends may use his buffer again.
            self._leg.put(bytes(data[:taken]))
        return taken

    def read(self, bytes_max: int) -> bytes | None:
        """Take up to so many bytes; None if there are none yet, b"" if there will be no more."""
        inbox = self._inbox
        if not inbox:
            return b"" if self.is_finished else None
        # A slice as it came, mostly: to cut one in order to fill the read, or to join two, would copy both.
        start = self._first_read
        data = bytes(inbox[0][start : start + bytes_max])
        read = len(data)
        if start + read == len(inbox[0]):
            inbox.popleft()
            self._first_read = 0
        else:
            self._first_read = start + read
        self.inbox_bytes -= read
        self._unreturned += read
        # Not for every read: credit costs a message on each link of the way. Nor only when there is little left: three
        # nodes take their turns meanwhile.
        if self._unreturned >= self._return_bytes and not self._is_over:
            returned, self._unreturned = self._unreturned, 0
            self._leg.grant(returned)
        return data

    def show_life(self) -> None:
        """Give a byte of the credit back that is due: it is heard like a word, and waits behind none."""
        if self._unreturned and not self._is_over:
            self._unreturned -= 1
            self._leg.grant(1)

    def close(self) -> None:
        """End in order: what was sent is still delivered, what comes is passed over. Idempotent."""
        if not self._is_over:
            self._leg.close()
        self._shut()

    def abort(self, reason: Reason) -> None:
        """End at once and tell the other end why, even after `close`. Idempotent."""
        if self.reason is None and not self.is_finished:
            self._leg.refuse(reason)
        self._shut()

    # For the switch.

    def data_came(self, data: bytes) -> None:
        """A slice, within the allowance; none comes when this end is over, as its leg is then, too."""
        append_piece(self._inbox, data)
        self.inbox_bytes += len(data)
        self.on_change()

    def credit_came(self, credit: int) -> None:
        """The leg has so much more credit."""
        self.is_open = True
        self._credited += credit
        room_bytes = self._credited if self._credited >= self._return_bytes else 0
        self._credited -= room_bytes
        self.on_credit(room_bytes)
        self.on_change()

    def close_came(self) -> None:
        """The other end closed: nothing more comes or goes."""
        self.is_finished = True
        self.on_change()

    def broke(self, reason: Reason) -> None:
        """The circuit is over; what was not read is lost, as with a reset."""
        if self.reason is None and not self.is_finished:
            self.reason = reason
            self._forget_inbox()
            self.on_change()

    @property
    def _return_bytes(self) -> int:
        return self._window // _RETURNS_PER_WINDOW

    @property
    def _is_over(self) -> bool:
        return self._is_closed or self.is_finished or self.reason is not None

    def _shut(self) -> None:
        self._is_closed = True
        self._forget_inbox()
        self.on_change()

    def _forget_inbox(self) -> None:
        self._inbox.clear()
        self._first_read = self.inbox_bytes = 0


def _nothing() -> None:
    """Nobody waits yet."""


def _let_pass(_room_bytes: int) -> None:
    """Nobody counts what is credited yet."""
