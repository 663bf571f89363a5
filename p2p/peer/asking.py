"""Requests of ours on one link: which wait for an answer, and whose answer may still come although nobody waits.

Responsible for the bound on open requests, for finding the one that an answer belongs to, and for telling a late answer
from a forged one. It refuses to know what requests say, how they are written, and when they are too old: deadlines of
all links are kept in one place (`p2p.node.requests`).

How it moves, per request:

    queued      in the outbox; it has no message id yet
    sent        the session gave it its id, which the answer names
    over        answered, timed out, cancelled, or the link ended; whoever waited goes on

One whose link gives way before it was sent is over without an id, and may be asked elsewhere.

One that timed out or was cancelled is forgotten at once, and its place is free. If it was sent, the peer is told, which
lets go of its handler, and its id is remembered, since the answer may be on its way. The memory is bounded: beyond, the
oldest goes, and from then on no answer to an id up to there is held against the peer, who cannot know what we forgot.
All other answers that nobody waits for end the link.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio
from trio.lowlevel import current_task, wait_task_rescheduled

from p2p.errors import RemoteProtocolError
from p2p.limits import Limits
from p2p.msg import Data


class Ask:
    """One request, from its place in the outbox to its end.

    Attributes:
        deadline: when it is too old, in monotonic seconds.
        reply: the answer; None while there is none.
        is_over: whether nobody waits any more.
        is_late: whether it ended because it was too old.
        asks: all of its link, None before it was put into an outbox.
        msg_id: its id, 0 before it was sent.
        task: who waits for it.
    """

    __slots__ = ("asks", "deadline", "is_late", "is_over", "msg_id", "reply", "task")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.reply: Data | None = None
        self.is_over = False
        self.is_late = False
        self.asks: Asks | None = None
        self.msg_id = 0
        self.task: trio.lowlevel.Task | None = None

    def sent(self, msg_id: int) -> None:
        """The session gave it this id."""
        assert self.asks is not None, "it is sent from the outbox that it was put into"
        self.asks.was_sent(self, msg_id)

    def expire(self) -> None:
        """It is too old: whoever waits goes on without an answer."""
        if not self.is_over and self.asks is not None:
            self.is_late = True
            self.asks.forget(self)

    def wait(self) -> Awaitable[object]:
        """Wait until it is over, which it is not yet. Cancelled, it is forgotten at once."""
        assert not self.is_over, "nobody would wake who waits for what is over"
        self.task = current_task()
        # Not a coroutine around it: that is a frame more in every turn of whoever waits.
        return wait_task_rescheduled(self._abort)  # noqa: ASYNC105  # the caller does

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self.task = None
        assert self.asks is not None, "only a request that was put into an outbox is waited for"
        self.asks.forget(self)
        return trio.lowlevel.Abort.SUCCEEDED


class Asks:
    """All open requests of one link.

    Args:
        limits: bounds.
        give_up: tells the peer that nobody waits for the answer to a request of this id.

    Those who wait for a place get it in the order in which they came: one that becomes free belongs to the first of
    them, also before his task has run.
    """

    __slots__ = (
        "_abandoned",
        "_abandoned_max",
        "_give_up",
        "_given",
        "_is_closed",
        "_open",
        "_open_max",
        "_sent",
        "_tolerated_to",
        "_waiting",
    )

    def __init__(self, limits: Limits, give_up: Callable[[int], None]) -> None:
        self._give_up: Final = give_up
        self._open_max: Final = limits.pending_requests_max
        self._abandoned_max: Final = limits.abandoned_requests_max
        self._open: dict[Ask, None] = {}
        self._sent: dict[int, Ask] = {}
        self._abandoned: dict[int, None] = {}
        self._tolerated_to = 0
        self._waiting: trio.lowlevel.ParkingLot | None = None
        # Places of those who have not begun yet.
        self._given = 0
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._open)

    @property
    def free_places(self) -> int:
        """How many more requests may be open. None while somebody waits for a place."""
        return self._open_max - len(self._open) - self._given

    async def take_place(self) -> bool:
        """Wait for the right to begin a request; False if there will be none. Whoever got it calls `leave_place`."""
        if self.free_places > 0:
            self._given += 1
            return True
        if self._waiting is None:
            self._waiting = trio.lowlevel.ParkingLot()
        await self._waiting.park()
        return not self._is_closed

    def leave_place(self) -> None:
        """The request has begun, or will not."""
        self._given -= 1
        self._give_places()

    def _give_places(self) -> None:
        while self._waiting and self.free_places > 0:
            self._given += 1
            self._waiting.unpark()

    def dismiss(self) -> None:
        """No more requests begin here: who waits for a place goes on without."""
        self._is_closed = True
        if self._waiting is not None:
            self._waiting.unpark_all()

    def begin(self, ask: Ask, msg_id: int = 0) -> None:
        """This request is in the outbox; or went past it, and has its id already."""
        ask.asks = self
        self._open[ask] = None
        if msg_id:
            ask.msg_id = msg_id
            self._sent[msg_id] = ask

    def was_sent(self, ask: Ask, msg_id: int) -> None:
        """This request has its id now."""
        ask.msg_id = msg_id
        self._sent[msg_id] = ask

    def answer(self, data: Data) -> bool:
        """Take an answer; False if nobody waits for it any more.

        Raises:
            RemoteProtocolError: it answers no request that was made.
        """
        msg_id = data.reply_to
        ask = self._sent.pop(msg_id, None)
        if ask is not None:
            ask.reply = data
            self._end(ask)
            return True
        if msg_id in self._abandoned:
            del self._abandoned[msg_id]
        elif msg_id > self._tolerated_to:
            raise unsolicited(msg_id)
        return False

    def fail(self) -> None:
        """The link is over: nobody waits any longer."""
        for ask in tuple(self._open):
            self._end(ask)
        self._sent.clear()
        self._abandoned.clear()
        self.dismiss()

    def withdraw(self) -> None:
        """No more is sent here: those that still wait in the outbox are over."""
        for ask in [ask for ask in self._open if not ask.msg_id]:
            self._end(ask)

    def forget(self, ask: Ask) -> None:
        """Nobody waits for this one any more, though its answer may come."""
        if self._sent.pop(ask.msg_id, None) is not None:
            self._abandoned[ask.msg_id] = None
            if len(self._abandoned) > self._abandoned_max:
                oldest = next(iter(self._abandoned))
                del self._abandoned[oldest]
                self._tolerated_to = max(self._tolerated_to, oldest)
            self._give_up(ask.msg_id)
        self._end(ask)

    def _end(self, ask: Ask) -> None:
        ask.is_over = True
        self._open.pop(ask, None)
        if ask.task is not None:
            trio.lowlevel.reschedule(ask.task)
            ask.task = None
        if self._waiting is not None:
            self._give_places()


def unsolicited(msg_id: int) -> RemoteProtocolError:
    """What ends a link whose peer answers what nobody asked."""
    return RemoteProtocolError(f"an answer to message {msg_id}, which is no request that waits for one")
