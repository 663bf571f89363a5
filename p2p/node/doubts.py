"""Direct links that say nothing, at a node that is beside a relay: another way is tried long before they count as dead.

Responsible for finding out which direct links are doubtful, and for trying the relays that lead to the same peer. It
refuses to know how a way is found and dialled (`Paths` does), and which of two links is kept: a link over a relay that
comes to be is a candidate, for which the direct one is probed at both ends (`succession`). So a doubt that was wrong
costs a dial.

How it moves, per direct link whose peer a relay may lead to:

    spoken to   something was sent since the last look, and nothing came and no room was made: it is pinged, and so is
                each relay that was not heard since then
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

ASKED_PER_LOOK: Final = 64
TRIED_PER_LOOK: Final = 16
"""Links that are pinged, and for which other ways are tried, at once: the others have their turn at the next looks. A
node that tells many something, and hears nothing in return, pings each of them every few seconds."""


class _Doubt:
    """What is known of one link.

    Attributes:
        bytes_out: what was sent on it by the last look.
        asked_at: when it was pinged of which nothing was heard since; infinity if it was not.
        is_trying: other ways are being tried.
        try_at: when other ways are tried.
    """

    __slots__ = ("asked_at", "bytes_out", "is_trying", "try_at")

    def __init__(self, bytes_out: int) -> None:
        self.bytes_out = bytes_out
        self.asked_at = _NEVER
        self.is_trying = False
        self.try_at = _NEVER


class Doubts:
    """The doubts of one node.

    Args:
        limits: `direct_look_s`, `direct_doubt_s` and `relay_redial_s_max` are used.
        clock: the time.
        nursery: where ways are tried.
        links: those that are kept.
        is_relay: whether a neighbour passes circuits on.
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
        is_relay: Callable[[PeerId], bool],
        relays_to: Callable[[PeerId], list[PeerId]],
        reach: Callable[[Connection, list[PeerId]], Awaitable[None]],
        until_relay: Callable[[], Awaitable[None]],
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._nursery = nursery
        self._links = links
        self._is_relay = is_relay
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
        due = [link for link, doubt in self._doubts.items() if self._is_to_be_asked(link, doubt)]
        asked, later = due[:ASKED_PER_LOOK], frozenset(due[ASKED_PER_LOOK:])
        if asked:
            # The relays, too, so that it is known by then which of those are as silent.
            relays = [
                link
                for link, doubt in self._doubts.items()
                if doubt.asked_at == _NEVER and link.life.moved_at < self._looked_at and self._is_relay(link.peer_id)
            ]
            for link in dict.fromkeys((*asked, *relays)):
                link.greet()
                doubt = self._doubts[link]
                doubt.asked_at, doubt.try_at = now, now + self._limits.direct_doubt_s
        for link, doubt in self._doubts.items():
            if link not in later:
                doubt.bytes_out = link.session.bytes_out
        self._looked_at = now
        self._try_others(now)

    def _is_to_be_asked(self, link: Connection, doubt: _Doubt) -> bool:
        moved_at = link.life.moved_at
        if link.is_resting or moved_at >= doubt.asked_at:
            doubt.asked_at = doubt.try_at = _NEVER
            return False
        spoken_to = link.is_writing or link.session.bytes_out > doubt.bytes_out
        return doubt.asked_at == _NEVER and spoken_to and moved_at < self._looked_at

    def _try_others(self, now: float) -> None:
        due = [(link, doubt) for link, doubt in self._doubts.items() if doubt.try_at <= now and not doubt.is_trying]
        if not due:
            return
        silent = {link.peer_id for link, doubt in self._doubts.items() if doubt.asked_at != _NEVER}
        if all(link.peer_id in silent for link in self._doubts if self._is_relay(link.peer_id)):
            # It is our own wire that is cut.
            return
        for link, doubt in due[:TRIED_PER_LOOK]:
            doubt.try_at = now + self._limits.relay_redial_s_max
            if relays := [relay for relay in self._relays_to(link.peer_id) if relay not in silent]:
                doubt.is_trying = True
                self._nursery.start_soon(self._try, link, doubt, relays)

    @trio.lowlevel.enable_ki_protection
    async def _try(self, link: Connection, doubt: _Doubt, relays: list[PeerId]) -> None:
        try:
            await self._reach(link, relays)
        finally:
            doubt.is_trying = False
