"""Several links to one peer: which one is kept, how the others end, and in which order their messages are taken.

Responsible for the double-link rule as it moves through time: probing, giving way, and the order of one peer's messages
across its links. It refuses to know what being kept means for a node (its owner is told), and how two links compare
(`roster`).

How it moves, per peer:

    the new link is better       it is kept at once; the older one gives way: it flushes and says Goodbye(Moved), first
                                 on the side that dialled the link that is kept
    both are of one time,        the new one gives way at once: nobody came back, both dialled
    and the older is better
    the older link is better     the new one is a candidate while the older one is probed, whoever dialled it: a peer
                                 that comes back does so because its old link is dead, and it may be the only one to
                                 know that yet
      it answers                 the candidate gives way
      it ends, or is silent      it is cut, and the candidate is kept
      for `probe_s_max`

A candidate is not read while nothing is decided. What its peer says first belongs to a link that is kept: heads, then
batches.

One peer's messages keep their order across its links. The sender's half is that a link which gives way is flushed
before its Goodbye. The receiver's is that it takes the application messages of a link only when every other link of
that peer that gives way, or is closed, is over, or its last message has come, which is said there (handlers and
circuits may keep it), and every one whose handshake is under way has settled: `retire_s_max` later at most. While
circuits wait with it, readers of the older links have less time than else (`Connection.deaf_s_max`).

Source: wire section 5, "Double links".
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import trio

from p2p.errors import Reason
from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.node.roster import Roster
from p2p.peer.connection import Connection


class _Candidate(msgspec.Struct, frozen=True):
    """A live link that is kept if the one that is better by rule turns out to be dead."""

    link: Connection
    decided: trio.Event = msgspec.field(default_factory=trio.Event)


class Succession:
    """The proven links of every peer of one node.

    Args:
        roster: where the kept links stand.
        limits: bounds.
        on_kept: a link is the one of its peer now; told with the link whose place it took.
        on_gave_way: a link is it no longer, or will never be, and ends by itself.
    """

    def __init__(
        self,
        roster: Roster,
        limits: Limits,
        *,
        on_kept: Callable[[Connection, Connection | None], None],
        on_gave_way: Callable[[Connection], None],
    ) -> None:
        self._roster = roster
        self._limits = limits
        self._on_kept = on_kept
        self._on_gave_way = on_gave_way
        self._links: dict[PeerId, list[Connection]] = {}
        self._candidates: dict[PeerId, _Candidate] = {}
        self._expected: dict[PeerId, trio.Event] = {}

    def of_peer(self, peer_id: PeerId) -> tuple[Connection, ...]:
        """All links of a peer that are proven and not over, the oldest first."""
        return tuple(self._links.get(peer_id, ()))

    def is_candidate(self, link: Connection) -> bool:
        """Whether it is not decided yet if the link is kept."""
        candidate = self._candidates.get(link.peer_id)
        return candidate is not None and candidate.link is link

    # What happens to links.

    def proven(self, link: Connection) -> None:
        """A link's identity was proven and is welcome."""
        kept = self._roster.links.get(link.peer_id)
        if kept is not None and not self._roster.is_better(link, kept):
            # To the peer the new link may be live already, and be the one that it sends on first.
            kept.after = (*kept.after, link)
        self._links.setdefault(link.peer_id, []).append(link)

    def live(self, link: Connection) -> None:
        """A proven link is live: keep it, or find out whether the one there is does live."""
        old = self._roster.links.get(link.peer_id)
        if old is None or not old.is_live or self._roster.is_better(link, old):
            self._keep(link)
        elif _are_of_one_time(link, old):
            # The peer, to whom this one may have been live first, decides alike: what it sent here comes before.
            link.after = tuple(other for other in self._others(link) if other is not old)
            self._give_way(link)
        else:
            self._try(link, old)

    def probed(self, link: Connection, *, alive: bool) -> None:
        """A link was probed; without effect unless somebody waits for its place."""
        candidate = self._candidates.get(link.peer_id)
        if candidate is None or self._roster.links.get(link.peer_id) is not link:
            return
        if alive:
            # The peer, who has the older one too, sends nothing on a candidate: nothing of it comes before.
            link.after = tuple(other for other in link.after if other is not candidate.link)
            self._dismiss(candidate)
        elif candidate.link.is_live:
            link.abort(Reason.MOVED, "a newer link of the same peer answers, and this one does not")
            self._keep(candidate.link)

    def ended(self, link: Connection) -> None:
        """A proven link is over. A candidate takes its place, so that its peer has not left."""
        peer_id = link.peer_id
        links = self._links.get(peer_id, [])
        if link in links:
            links.remove(link)
        if not links:
            self._links.pop(peer_id, None)
        # Nobody waits for it any more, and a row of ended links that hold one another is not kept.
        for other in (link, *links):
            other.after = tuple(before for before in other.after if before is not link and other is not link)
        candidate = self._candidates.get(peer_id)
        if candidate is None:
            return
        if candidate.link is link:
            del self._candidates[peer_id]
            candidate.decided.set()
        elif self._roster.links.get(peer_id) is link and candidate.link.is_live:
            self._keep(candidate.link)

    async def decision(self, link: Connection) -> None:
        """Wait until it is decided whether the link is kept."""
        candidate = self._candidates.get(link.peer_id)
        if candidate is not None and candidate.link is link:
            await candidate.decided.wait()

    async def heir(self, peer_id: PeerId) -> Connection | None:
        """The link that is kept of a peer; waits for one that is about to be.

        In the moment in which the pair moves, the old link may be over where the new one, proven, is not live yet. That
        takes one more message of the peer, for which nobody waits longer than `probe_s_max`. As long he waits for one
        that is dialled at once in place of one that broke (`expect`).
        """
        with trio.move_on_after(self._limits.probe_s_max):
            while True:
                kept = self._roster.links.get(peer_id)
                if kept is not None and kept.is_live:
                    return kept
                candidate = self._candidates.get(peer_id)
                coming = next((link for link in self.of_peer(peer_id) if _is_coming(link)), None)
                if candidate is not None:
                    await candidate.decided.wait()
                elif coming is not None:
                    await coming.settled.wait()
                elif kept is not None and kept.reason is not None:
                    # What becomes of it is decided when its task is over.
                    await kept.over.wait()
                elif peer_id in self._expected:
                    await self._expected[peer_id].wait()
                else:
                    return None
        return None

    def expect(self, peer_id: PeerId) -> None:
        """A link is being made in place of one that broke: whoever wants one (`heir`) waits for it."""
        self._expected.setdefault(peer_id, trio.Event())

    def expect_no_more(self, peer_id: PeerId) -> None:
        """It is there, or there will be none."""
        expected = self._expected.pop(peer_id, None)
        if expected is not None:
            expected.set()

    def has_turn(self, link: Connection) -> bool:
        """Whether the messages of its peer's other links were taken."""
        return not self.is_candidate(link) and all(other.emptied.is_set() for other in link.after)

    async def turn(self, link: Connection) -> None:
        """Wait until the messages of its peer's other links were taken."""
        over_by = trio.current_time() + self._limits.retire_s_max
        while (now := trio.current_time()) < over_by:
            # The peer hears meanwhile that this link lives: it is not read, and answers nothing.
            with trio.CancelScope(deadline=min(over_by, now + self._limits.ping_after_s)):
                await self._others_emptied(link)
                return
            link.greet()
        link.after = ()

    async def _others_emptied(self, link: Connection) -> None:
        await self.decision(link)
        while (other := next((other for other in link.after if not other.emptied.is_set()), None)) is not None:
            await other.settled.wait()
            if other.is_parting and other in link.after:
                other.hurry_readers(trio.current_time() + link.deaf_s_max)
                await other.emptied.wait()
            else:
                link.after = tuple(later for later in link.after if later is not other)

    # Inside.

    def _keep(self, link: Connection) -> None:
        peer_id = link.peer_id
        candidate = self._candidates.pop(peer_id, None)
        old = self._roster.place(link)
        link.after = self._others(link)
        if old is not None:
            self._give_way(old)
        if candidate is not None and candidate.link is not link:
            self._give_way(candidate.link)
        if link.dialed_by_us:
            # Where several links come at once, one that gave way to another may now be parted from.
            for other in link.after:
                if other.retiring:
                    other.retire(parts_first=True)
        self._on_kept(link, old)
        if candidate is not None:
            candidate.decided.set()
        self.expect_no_more(peer_id)

    def _try(self, link: Connection, old: Connection) -> None:
        before = self._candidates.get(link.peer_id)
        if before is not None and not self._roster.is_better(link, before.link):
            self._give_way(link)
            return
        if before is not None:
            self._dismiss(before)
        self._candidates[link.peer_id] = _Candidate(link)
        link.after = self._others(link)
        link.greet()
        old.probe()

    def _dismiss(self, candidate: _Candidate) -> None:
        del self._candidates[candidate.link.peer_id]
        self._give_way(candidate.link)
        candidate.decided.set()

    def _give_way(self, link: Connection) -> None:
        self._on_gave_way(link)
        kept = self._roster.links.get(link.peer_id)
        link.retire(parts_first=kept is None or kept.dialed_by_us)
        retiring = [other for other in self._links.get(link.peer_id, ()) if other.retiring]
        for other in retiring[: -self._limits.retiring_links_per_peer_max]:
            other.abort(Reason.MOVED, "too many links of this peer are ending")

    def _others(self, link: Connection) -> tuple[Connection, ...]:
        return tuple(other for other in self._links.get(link.peer_id, ()) if other is not link)


def _is_coming(link: Connection) -> bool:
    """Whether a proven link may still become live."""
    return link.connected_at is None and link.reason is None


def _are_of_one_time(new: Connection, old: Connection) -> bool:
    """Whether the handshake of the newer link began before the older one was live: to one of the two nodes, at least.

    They see the same moments up to a way of the network apart, which is less than a handshake takes.
    """
    assert new.connected_at is not None, "it is live"
    assert old.connected_at is not None, "it is live"
    took_s = new.connected_at - new.started_at
    return new.started_at - took_s <= old.connected_at
