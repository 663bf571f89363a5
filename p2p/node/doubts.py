"""Direct links that say nothing, at a node that is beside a relay: another way is tried long before they count as dead.

Responsible for finding out which direct links are doubtful, and for trying the relays that lead to the same peer. It
refuses to know how a way is found and dialled (`Paths` does), and which of two links is kept: a link over a relay that
comes to be is a candidate, for which the direct one is probed at both ends (`succession`). So a doubt that was wrong
costs a dial.

How it moves, per direct link whose peer a relay may lead to:

    spoken to   something was sent since the last look, and nothing came and no room was made: it is pinged, and so are
                the links to relays that may lead there
    asked       nothing is heard for `direct_doubt_s` after that: each relay that is not as silent itself is tried, and
                again every `relay_redial_s_max` as long as it stays so

A slow link is not silent: it makes room, or brings a part of a frame. Nor is one that rests here for a reader of ours.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import trio

from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.peer.connection import Connection
from p2p.windows import Clock

_NEVER: Final = float("inf")


class _Doubt:
    """What is known of one link.

    Attributes:
        bytes_out: what was sent on it by the last look.
        asked_at: when it was pinged of which nothing was heard since; infinity if it was not.
        try_at: when other ways are tried.
    """

    __slots__ = ("asked_at", "bytes_out", "try_at")

    def __init__(self, bytes_out: int) -> None:
        self.bytes_out = bytes_out
        self.asked_at = _NEVER
        self.try_at = _NEVER


class Doubts:
    """The doubts of one node.

    Args:
        limits: `direct_look_s`, `direct_doubt_s` and `relay_redial_s_max` are used.
        clock: the time.
        nursery: where ways are tried.
        links: those that are kept.
        relays_to: neighbours that may lead to a peer, the most promising first.
        reach: tries to reach the peer of a link over these relays; raises nothing.
        until_relay: waits until a neighbour passes circuits on: else nothing is looked at.
    """

    def __init__(
        self,
        limits: Limits,
        clock: Clock,
        nursery: trio.Nursery,
        *,
        links: Callable[[], Iterable[Connection]],
        relays_to: Callable[[PeerId], list[PeerId]],
        reach: Callable[[Connection, list[PeerId]], Awaitable[None]],
        until_relay: Callable[[], Awaitable[None]],
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._nursery = nursery
        self._links = links
        self._relays_to = relays_to
        self._reach = reach
        self._until_relay = until_relay
        self._doubts: dict[Connection, _Doubt] = {}
        self._looked_at = -_NEVER

    def __len__(self) -> int:
        """How many links were pinged and are silent since."""
        return sum(doubt.asked_at != _NEVER for doubt in self._doubts.values())

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self._until_relay()
            await trio.sleep(self._limits.direct_look_s)
            self.look()

    def look(self) -> None:
        """Look at every direct link once."""
        now, before = self._clock.monotonic(), self._doubts
        # Those that are over are forgotten.
        self._doubts = {}
        for link in self._links():
            if link.direct and link.is_live:
                self._doubts[link] = before.get(link) or _Doubt(link.session.bytes_out)
        for link, doubt in self._doubts.items():
            self._look_at(link, doubt, now)
        self._looked_at = now

    def _look_at(self, link: Connection, doubt: _Doubt, now: float) -> None:
        spoken_to = link.is_writing or link.session.bytes_out > doubt.bytes_out
        doubt.bytes_out = link.session.bytes_out
        moved_at = link.life.moved_at
        if link.is_resting or moved_at >= doubt.asked_at:
            doubt.asked_at = doubt.try_at = _NEVER
        elif doubt.asked_at != _NEVER:
            if now >= doubt.try_at and (relays := self._ways_past(link)):
                doubt.try_at = now + self._limits.relay_redial_s_max
                self._nursery.start_soon(self._reach, link, relays)
        elif spoken_to and moved_at < self._looked_at:
            doubt.asked_at, doubt.try_at = now, now + self._limits.direct_doubt_s
            link.greet()
            doubt.bytes_out = link.session.bytes_out
            # So that it is known by then which of those are as silent.
            relays = self._relays_to(link.peer_id)
            for other in self._doubts:
                if other.peer_id in relays:
                    other.greet()

    def _ways_past(self, link: Connection) -> list[PeerId]:
        """Relays that lead there, without those that are as silent: where all are, it is our own wire that is cut."""
        silent = {other.peer_id for other, doubt in self._doubts.items() if doubt.asked_at != _NEVER}
        return [relay for relay in self._relays_to(link.peer_id) if relay not in silent]
