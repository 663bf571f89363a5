"""Searches for a way to a peer: one at a time per peer, over one relay after another.

Responsible for sharing a search among all who ask at the same time, for its pace, and for its end. It refuses to know
which relays lead somewhere, and how a dial is made and judged: the caller brings both.

A search outlives who asked for it, unless there are many such: a relay that says nothing takes longer than most are
ready to wait, and if they took the search with them, the next one would begin with that relay again and never come to
the one behind it. So would a way that is slower than anybody's patience.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import trio

from p2p.errors import ConnectFailed, NodeClosed, NotConnected, Reason
from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.peer.connection import Connection

Dial: TypeAlias = Callable[[PeerId, PeerId], Awaitable[Connection]]
"""Make a link to a target (first) over a relay."""
Relays: TypeAlias = Callable[[PeerId], Sequence[PeerId]]
"""Those that may lead to a target now, the most promising first."""


class _Search:
    """One search, how many wait for it, and the dial that it has come to."""

    __slots__ = ("_relays", "_target", "_tried", "_until", "dialling", "link", "over", "scope", "waiting", "why")

    def __init__(self, target: PeerId, relays: Relays) -> None:
        self._target = target
        self._relays = relays
        self._tried: set[PeerId] = set()
        self._until = 0.0
        self.scope = trio.CancelScope()
        self.dialling = trio.CancelScope()
        self.over = trio.Event()
        self.waiting = 0
        self.link: Connection | None = None
        self.why = "it was given up"

    def next_relay(self, until: float) -> PeerId | None:
        """The one to ask now, until that moment if there is another one by then; None if all were asked."""
        relay = next(self._left(), None)
        if relay is not None:
            self._tried.add(relay)
            self._until = until
            self.dialling = trio.CancelScope()
            self.pace()
        return relay

    def pace(self) -> None:
        """Bound the dial under way if there is another relay to ask. The last one has all the time of a dial."""
        if self.dialling.deadline == math.inf and next(self._left(), None) is not None:
            self.dialling.deadline = self._until

    def _left(self) -> Iterator[PeerId]:
        return (relay for relay in self._relays(self._target) if relay not in self._tried)


class Searches:
    """The searches of one node.

    Args:
        nursery: where they run.
        limits: `relay_next_s`, `searches_unasked_max`, `probe_s_max`.
        dial: raises ConnectFailed or NodeClosed.
        note_failure: told which relay (second) did not lead to a target (first), and why.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        limits: Limits,
        dial: Dial,
        note_failure: Callable[[PeerId, PeerId, Reason], None],
    ) -> None:
        self._nursery = nursery
        self._limits = limits
        self._dial = dial
        self._note_failure = note_failure
        self._searches: dict[PeerId, _Search] = {}
        self._dialled: Counter[PeerId] = Counter()
        # Those that nobody waits for, as there is a link, whose dial is not over.
        self._found: dict[_Search, PeerId] = {}

    def __len__(self) -> int:
        return len(self._searches)

    async def link_to(self, target: PeerId, relays: Relays) -> Connection:
        """Join the search for a peer, or begin one over these relays, and over those that turn up meanwhile.

        Raises:
            NotConnected: none of them led there.
        """
        search = self._searches.get(target)
        if search is None:
            search = self._searches[target] = _Search(target, relays)
            self._nursery.start_soon(self._run, search, target)
        search.waiting += 1
        try:
            await search.over.wait()
        finally:
            search.waiting -= 1
            if len(self._searches) > self._limits.searches_unasked_max or target in self._dialled:
                self._end_unasked(target)
        if search.link is None:
            raise NotConnected(f"{target.short} cannot be reached: {search.why}")
        return search.link

    @contextmanager
    def aside(self, target: PeerId) -> Iterator[None]:
        """While somebody dials a peer over a relay that he names, no search that nobody waits for makes him wait."""
        self._dialled[target] += 1
        self._end_unasked(target)
        try:
            yield
        finally:
            self._dialled -= Counter((target,))

    def relays_changed(self) -> None:
        """One that may lead to somebody turned up: a search that waits for its last one waits no longer than else."""
        for search in self._searches.values():
            search.pace()

    def found(self, target: PeerId, link: Connection) -> None:
        """There is a link to a peer, by whatever way: nobody need wait for one any more."""
        search = self._searches.pop(target, None)
        if search is not None:
            search.link = link
            search.over.set()
            # The dial under way goes on for a moment: the other side, which dialled as well, may be about to keep that
            # link and to let this one go. If both gave theirs up, there would be none.
            moment = trio.current_time() + self._limits.probe_s_max
            search.dialling.deadline = min(search.dialling.deadline, moment)
            self._found[search] = target

    def give_up(self, target: PeerId) -> None:
        """End the search for a peer: nobody is to be connected with him."""
        if (search := self._searches.get(target)) is not None:
            self._end(target, search)
        for search in [search for search, found in self._found.items() if found == target]:
            search.scope.cancel()

    def _end_unasked(self, target: PeerId) -> None:
        search = self._searches.get(target)
        if search is not None and not search.waiting:
            self._end(target, search)

    def _end(self, target: PeerId, search: _Search) -> None:
        if self._searches.get(target) is search:
            del self._searches[target]
            search.scope.cancel()

    @trio.lowlevel.enable_ki_protection
    async def _run(self, search: _Search, target: PeerId) -> None:
        failures: list[str] = []
        try:
            with search.scope:
                while search.link is None and (relay := search.next_relay(self._next_at())) is not None:
                    reason = Reason.TIMEOUT
                    try:
                        with search.dialling:
                            search.link = await self._dial(target, relay)
                            return
                    except ConnectFailed as failure:
                        reason = failure.reason
                    if search.over.is_set():
                        return
                    self._note_failure(target, relay, reason)
                    failures.append(f"{relay.short} ({reason.label})")
                    search.why = f"over {', '.join(failures)}"
        except NodeClosed:
            search.why = "the node has stopped"
        finally:
            if self._searches.get(target) is search:
                del self._searches[target]
            self._found.pop(search, None)
            search.over.set()

    def _next_at(self) -> float:
        return trio.current_time() + self._limits.relay_next_s
