"""Those who wait until the outbox of a link has room.

Responsible for order: whoever came first is served first, however large what he sends, and nobody who comes later
passes him. It refuses to know how much room there is; what stands in line is put into the outbox by the link as room
comes up, so that a row of small messages costs no turn of the loop each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from p2p.peer.asking import Ask


class Line:
    """Senders in the order in which they came."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[_Sender] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def wait(self, payload: bytes, ask: Ask | None = None, *, is_answer: bool = False) -> bool:
        """Wait for one's turn; False if it does not come any more. Cancelled, one has left the line."""
        sender = _Sender(payload, ask, is_answer)
        self._waiting.append(sender)

        def leave(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._waiting.remove(sender)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)
        return sender.is_served

    def serve(self, put: Callable[[bytes, Ask | None], bool]) -> None:
        """Put what was brought, in order, until there is no room for the first."""
        waiting = self._waiting
        while waiting and put(waiting[0].payload, waiting[0].ask):
            sender = waiting.popleft()
            sender.is_served = True
            trio.lowlevel.reschedule(sender.task)

    def dismiss(self, *, answers: bool) -> None:
        """Nothing is taken here any more: all who wait go on, or all but those who bring answers."""
        before, self._waiting = self._waiting, deque()
        for sender in before:
            if sender.is_answer and not answers:
                self._waiting.append(sender)
            else:
                trio.lowlevel.reschedule(sender.task)


class _Sender:
    """One who waits, with what he brings."""

    __slots__ = ("ask", "is_answer", "is_served", "payload", "task")

    def __init__(self, payload: bytes, ask: Ask | None, is_answer: bool) -> None:
        self.payload = payload
        self.ask = ask
        self.is_answer = is_answer
        self.is_served = False
        self.task = trio.lowlevel.current_task()
