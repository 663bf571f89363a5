"""One circuit on one link, and the lane in which a link's circuits take turns to be written.

Responsible for what waits to be sent of a circuit, for the credit of both directions, and for a fair order among
circuits. It refuses to know who is at the ends and whether this node is one of them or passes on.

Every leg's backlog is bounded by construction: bytes wait only against credit, so there are never more than one window
of them, in pieces that take little more room than their bytes; credit to tell is one number however often it grew;
there is one opening, one asking to move and one ending.

    credit      bytes that the other side of this link still lets us send
    allowance   bytes that we still let it send

Source: wire section 7.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

from p2p.binary import encode_u16, encode_u32, encode_varint
from p2p.errors import Reason
from p2p.limits import Limits
from p2p.msg import Relay, encode_relay_data_head

Piece: TypeAlias = bytes | bytearray | memoryview
"""Bytes of a stream that wait: a slice as it came, small ones that were joined, or what is left of one."""

PIECE_BYTES_MIN: Final = 4096
"""What comes in smaller pieces is joined to such: an object for each byte would take 350 times the room."""


def append_piece(pieces: deque[Piece], data: bytes) -> None:
    """Queue bytes of a stream: as they came where that is much, joined to the last ones where it is not."""
    if len(data) >= PIECE_BYTES_MIN:
        pieces.append(data)
        return
    last = pieces[-1] if pieces else None
    if isinstance(last, bytearray) and len(last) < PIECE_BYTES_MIN:
        last += data
    else:
        pieces.append(bytearray(data))


class Leg:
    """One circuit on one link.

    Args:
        lane: of the link.
        circuit: its number on this link.
        limits: `relay_window_bytes` and `relay_slice_bytes_…` are used.

    Attributes:
        allowance: see above.
        credit: see above.
        is_ending: CLOSE or REFUSED is said or waits: what still comes in is passed over, nothing more goes out.
        is_over: nothing will ever be said of it again.
    """

    __slots__ = (
        "_closing",
        "_data_head",
        "_grant",
        "_has_asked",
        "_is_asking",
        "_is_listed",
        "_opening",
        "_queue",
        "_refused",
        "_slice_max",
        "_slice_min",
        "_window",
        "allowance",
        "circuit",
        "credit",
        "is_ending",
        "is_over",
        "lane",
        "queued_bytes",
    )

    def __init__(self, lane: Lane, circuit: int, limits: Limits) -> None:
        self.lane = lane
        self.circuit = circuit
        self.allowance = 0
        self.credit = 0
        self.queued_bytes = 0
        self.is_ending = False
        self.is_over = False
        self._window = limits.relay_window_bytes
        self._slice_max = limits.relay_slice_bytes_max
        self._slice_min = min(limits.relay_slice_bytes_min, limits.relay_slice_bytes_max)
        self._queue: deque[Piece] = deque()
        self._data_head = encode_relay_data_head(circuit)
        self._grant = 0
        self._opening: Relay | None = None
        self._refused: Reason | None = None
        self._closing = False
        self._has_asked = False
        self._is_asking = False
        self._is_listed = False

    # What the other side did.

    def took_data(self, size: int) -> bool:
        """Note a slice that came in; False if it is not one that may come."""
        if not 0 < size <= min(self._slice_max, self.allowance):
            return False
        self.allowance -= size
        return True

    def took_window(self, credit: int) -> bool:
        """Note credit that came in; False if there would be more than a window under way."""
        if credit < 1 or self.credit + self.queued_bytes + credit > self._window:
            return False
        self.credit += credit
        return True

    # What is to be said to it.

    def open(self, source: str, target: str, ttl: int) -> None:
        """Say first that this circuit is."""
        self._opening = Relay(self.circuit, Relay.OPEN, source, target, ttl)
        self._enlist()

    def put(self, data: bytes) -> None:
        """Queue bytes of the stream, against credit; cut into slices, or joined to one, when they are taken."""
        assert len(data) <= self.credit, "bytes wait only against credit"
        self.credit -= len(data)
        self.queued_bytes += len(data)
        append_piece(self._queue, data)
        self._enlist()

    def grant(self, credit: int) -> None:
        """Let the other side send so much more."""
        if not self.is_ending:
            self.allowance += credit
            self._grant += credit
            self._enlist()

    def ask_to_move(self) -> None:
        """Ask the side that opened it to open another one and to end this one in order. Once is enough: it goes on
        trying, and nobody can make us ask without end."""
        if not (self.is_ending or self._has_asked):
            self._has_asked = self._is_asking = True
            self._enlist()

    def close(self) -> None:
        """End in order: CLOSE follows what waits."""
        if not self.is_ending:
            self.is_ending = self._closing = True
            self._is_asking = False
            self._grant = 0
            self._enlist()

    def refuse(self, reason: Reason) -> None:
        """End at once: what waits is dropped. An opening that nobody heard of yet is not even refused."""
        if self._refused is not None or self.is_over:
            return
        self.is_ending = True
        self._closing = self._is_asking = False
        self._refused = reason
        self._grant = self.queued_bytes = 0
        self._queue.clear()
        self._enlist()

    def discard(self) -> None:
        """The other side ended it, or the link did: say nothing more."""
        self.is_ending = self.is_over = True
        self._closing = self._is_asking = False
        self._opening = self._refused = None
        self._grant = self.queued_bytes = 0
        self._queue.clear()

    @property
    def has_message(self) -> bool:
        """Whether something waits to be written."""
        return bool(
            self._queue
            or self._grant
            or self._closing
            or self._is_asking
            or self._opening is not None
            or self._refused is not None
        )

    def next_message(self) -> bytes:
        """Take the next encoded Relay; b"" if all that waited cancelled itself out."""
        circuit = self.circuit
        if self._refused is not None:
            unheard, reason = self._opening is not None, self._refused
            self.discard()
            self.lane.left(self)
            return b"" if unheard else refused(circuit, reason)
        if self._opening is not None:
            opening, self._opening = self._opening, None
            return opening.encode()
        if self._grant:
            grant, self._grant = self._grant, 0
            return Relay(circuit, Relay.WINDOW, payload=encode_u32(grant)).encode()
        if self._is_asking:
            self._is_asking = False
            return Relay(circuit, Relay.MOVE).encode()
        if self._queue:
            return self._next_slice()
        assert self._closing, "asked for a message without one"
        self.discard()
        self.lane.left(self)
        return Relay(circuit, Relay.CLOSE).encode()

    def _next_slice(self) -> bytes:
        """As much as one message may carry: each costs a seal, and much else, on every link of the way.

        Where others wait for their turn it is their share of that, so that a round of many is not so long that they
        take each other for dead.
        """
        others = len(self.lane.turns or ())
        slice_bytes = max(self._slice_max // (1 + others), self._slice_min) if others else self._slice_max
        queue, room = self._queue, slice_bytes
        pieces: list[Piece] = []
        while queue and room:
            piece = queue[0]
            if len(piece) <= room:
                queue.popleft()
            else:
                whole = memoryview(piece)
                queue[0], piece = whole[room:], whole[:room]
            pieces.append(piece)
            room -= len(piece)
        size = slice_bytes - room
        self.queued_bytes -= size
        return b"".join((self._data_head, encode_varint(size), *pieces))

    def _enlist(self) -> None:
        if not self._is_listed:
            self._is_listed = True
            self.lane.enlist(self)

    def unlist(self) -> None:
        """The lane has taken it off its list."""
        self._is_listed = False


class Lane:
    """What a link's circuits have to say, one message of each in turn.

    Args:
        wake: called when there is something to take where there was nothing.
        left: called with a leg whose last message was taken.

    Attributes:
        turns: the legs that have something to say; None as long as no circuit had, as most links never carry one.
        legs: how many circuits the link carries.
        passed_on: those of them that do not end here.
    """

    __slots__ = ("_wake", "left", "legs", "passed_on", "turns")

    def __init__(self, wake: Callable[[], None], left: Callable[[Leg], None]) -> None:
        self.turns: deque[Leg] | None = None
        self.legs = 0
        self.passed_on = 0
        self._wake: Final = wake
        self.left: Final = left

    def __bool__(self) -> bool:
        return bool(self.turns)

    def take(self) -> bytes:
        """The next encoded Relay message; b"" if there is none."""
        turns = self.turns
        while turns:
            leg = turns.popleft()
            message = leg.next_message() if leg.has_message else b""
            if leg.has_message:
                turns.append(leg)
            else:
                leg.unlist()
            if message:
                return message
        return b""

    def enlist(self, leg: Leg) -> None:
        """Give a leg its turn."""
        turns = self.turns
        if turns is None:
            turns = self.turns = deque()
        turns.append(leg)
        if len(turns) == 1:
            self._wake()


def refused(circuit: int, reason: Reason) -> bytes:
    """An encoded REFUSED."""
    return Relay(circuit, Relay.REFUSED, payload=encode_u16(reason)).encode()
