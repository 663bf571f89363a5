"""What one neighbour may have and ask for at a relay, over all links with it.

Responsible for how many circuits run over its links, with whom, and for the rates at which it may open more. It refuses
to know links and circuits one by one (`switch`): who renews his link, or has several for a while, gets no more by that.
"""

from __future__ import annotations

from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.policy.buckets import BucketTable, TokenBucket


class Neighbour:
    """One neighbour.

    Args:
        peer_id: his identity.
        limits: the `relay_openings_…` are used.

    Attributes:
        circuits: how many run over his links, whoever opened them.
        links: how many links with him there are.
    """

    __slots__ = ("_by_pair", "_by_target", "_in_all", "_own", "_passed_on", "circuits", "links", "peer_id")

    def __init__(self, peer_id: PeerId, limits: Limits) -> None:
        askers_max = limits.relay_openings_askers_max
        # In his own name; and, where he relays, for others: in all, to one target, of one source to it.
        self._own = TokenBucket(limits.relay_openings_per_s, limits.relay_openings_burst)
        self._in_all = TokenBucket(limits.relay_openings_of_relay_per_s, limits.relay_openings_of_relay_burst)
        self._by_target = BucketTable(limits.relay_openings_per_s, limits.relay_openings_burst, askers_max)
        self._by_pair = BucketTable(limits.relay_openings_named_per_s, limits.relay_openings_named_burst, askers_max)
        self._passed_on: dict[PeerId, int] = {}
        self.peer_id = peer_id
        self.circuits = 0
        self.links = 0

    def may_open(self, source: PeerId, target: PeerId, now: float) -> bool:
        """Whether he, or somebody behind him, may open one more circuit."""
        buckets = self._buckets(source, target)
        if any(bucket.available(now) < 1 for bucket in buckets):
            return False
        for bucket in buckets:
            bucket.take(now)
        return True

    def opened_well(self, source: PeerId, target: PeerId) -> None:
        """The source proved himself to the target: it does not count as one that was asked for in vain."""
        for bucket in self._buckets(source, target):
            bucket.give_back()

    def passed_on_to(self, other: PeerId) -> int:
        """How many circuits run between him and another neighbour, in either direction."""
        return self._passed_on.get(other, 0)

    def note_passed_on(self, other: PeerId, by: int) -> None:
        """There is one more, or one less, between him and another neighbour."""
        count = self._passed_on.pop(other, 0) + by
        if count:
            self._passed_on[other] = count

    def _buckets(self, source: PeerId, target: PeerId) -> tuple[TokenBucket, ...]:
        if source == self.peer_id:
            return (self._own,)
        return self._in_all, self._by_target.of(str(target)), self._by_pair.of(f"{source} {target}")


class Neighbours:
    """Those that there are, and of those that were here the latest: who comes back has what he had.

    Args:
        limits: so many as `max_peers` are remembered.
    """

    __slots__ = ("_gone", "_here", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._here: dict[PeerId, Neighbour] = {}
        # Who left first is first.
        self._gone: dict[PeerId, Neighbour] = {}

    def link_up(self, peer_id: PeerId) -> Neighbour:
        """There is one more link with a neighbour."""
        neighbour = self._here.get(peer_id)
        if neighbour is None:
            neighbour = self._gone.pop(peer_id, None) or Neighbour(peer_id, self._limits)
            self._here[peer_id] = neighbour
        neighbour.links += 1
        return neighbour

    def link_down(self, neighbour: Neighbour) -> None:
        """A link with a neighbour is over."""
        neighbour.links -= 1
        if not neighbour.links:
            self._gone[neighbour.peer_id] = self._here.pop(neighbour.peer_id)
            if len(self._gone) > self._limits.max_peers:
                del self._gone[next(iter(self._gone))]
