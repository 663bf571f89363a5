"""Requests of this node: asked, answered or given up.

Responsible for the deadlines of all open requests, and for turning what came of one into what its caller gets. It
refuses to know who is asked (the caller brings a link), how many may be open (`peer.asking`), and who answers
(`serving`).

Nothing of trio is made per request. One task sleeps until the earliest deadline there is; a request that is due earlier
moves that moment, which a later one never does, so with equal timeouts it is moved once per timeout and not once per
request. When it comes, what is too old goes, and the next moment is found by looking at all that are open.

Source: wire section 4 (Data).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from p2p.errors import NotConnected, P2PError, RequestFailed
from p2p.ids import PeerId
from p2p.msg import Data
from p2p.node.kinds import seconds_of
from p2p.peer.asking import Ask
from p2p.peer.connection import Connection
from p2p.windows import Clock

REQUEST_S_DEFAULT: Final = 5.0
"""A request that says nothing else is answered within this, or it times out."""


class RequestTimeout(P2PError, trio.TooSlowError):
    """A request was not answered in time. Whether it was carried out is unknown."""


class Requests:
    """All open requests of one node.

    Args:
        clock: what deadlines are read from.
        heir: the link of a peer that takes the place of one that is over, waited for if it is about to; or None.
    """

    def __init__(self, clock: Clock, heir: Callable[[PeerId], Awaitable[Connection | None]]) -> None:
        self._heir = heir
        self._clock = clock
        self._open: dict[Ask, None] = {}
        self._due = math.inf
        self._scope: trio.CancelScope | None = None

    def __len__(self) -> int:
        return len(self._open)

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Keep the deadlines, until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._due) as self._scope:
                await trio.sleep_forever()
            now = self._clock.monotonic()
            for ask in [ask for ask in self._open if ask.deadline <= now]:
                ask.expire()
            self._due = min((ask.deadline for ask in self._open if not ask.is_over), default=math.inf)

    def deadline_of(self, timeout_s: object) -> float:
        """When a request that is made now is too old, in monotonic seconds.

        Raises:
            ConfigError: the timeout is no number above 0.
        """
        return self._clock.monotonic() + seconds_of(timeout_s, "timeout_s")

    async def ask(self, link: Connection, channel: str, payload: bytes, deadline: float, timeout_s: float) -> bytes:
        """Send an encoded request and return the body of its answer. Channel and timeout are told where it fails.

        One that waits for its turn, or was not written yet, when its link gives way to another of the same peer is
        asked there.

        Raises:
            RequestTimeout, RequestFailed: there was none in time, or one that says that there will be none.
            NotConnected: the link ended before.
            PayloadTooLarge: the request does not fit a frame.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        ask = Ask(deadline)
        # Not while others wait for their turn: they go first.
        if not link.ask_nowait(payload, ask):
            with trio.CancelScope(deadline=deadline) as scope:
                link = await self._ask_in_turn(link, payload, ask)
            if scope.cancelled_caught:
                raise RequestTimeout(f"{_place(link, channel)}: no room for the request within {timeout_s:g} s")
        if deadline < self._due:
            self._due = deadline
            if self._scope is not None:
                self._scope.deadline = deadline
        self._open[ask] = None
        try:
            if not ask.is_over:
                await ask.wait()
        finally:
            del self._open[ask]
        if not ask.msg_id and not ask.is_late:
            # It never left, so that it can be asked once more.
            kept = None
            with trio.CancelScope(deadline=deadline):
                kept = await self._heir(link.peer_id)
            if kept is not None and kept is not link:
                return await self.ask(kept, channel, payload, deadline, timeout_s)
        reply = ask.reply
        if reply is not None and reply.status == Data.OK:
            return reply.body
        raise _failure(ask, link, channel, timeout_s)

    async def _ask_in_turn(self, link: Connection, payload: bytes, ask: Ask) -> Connection:
        while True:
            try:
                await link.ask(payload, ask)
            except NotConnected:
                kept = await self._heir(link.peer_id)
                if kept is None or kept is link:
                    raise
                link = kept
            else:
                return link


def _place(link: Connection, channel: str) -> str:
    return f"{channel!r} at {link.label or link.peer_id.short}"


def _failure(ask: Ask, link: Connection, channel: str, timeout_s: float) -> P2PError:
    if ask.reply is not None:
        return RequestFailed(ask.reply.status, _place(link, channel))
    if ask.is_late:
        return RequestTimeout(f"{_place(link, channel)}: no answer within {timeout_s:g} s")
    return NotConnected(f"{_place(link, channel)}: the link ended before the answer came{link.why}")
