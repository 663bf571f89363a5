"""The places for proven peers: `max_peers` of them, and not all for whoever comes first (T50).

A peer takes one place from the moment it is admitted, before its link is live, until its last link has ended. Those
that come by themselves and that nobody here chose have at most half of the places. The other half is for peers that
this node dialled or is about to dial, and for those that an operator named: on the trust list, or as a peer to connect
to. So strangers who make up identities can surround a node only as far as it lets itself be found; whom it looks for
finds room, whichever of the two dials: else two nodes whose halves are taken would refuse each other for ever.

A peer that was dialled keeps a chosen one's place while it has any link, although the one that is kept of two may be
its own.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from p2p.ids import PeerId
from p2p.limits import Limits

Link = TypeVar("Link", bound=Hashable)


class _Place:
    __slots__ = ("chosen", "links")

    def __init__(self, *, chosen: bool) -> None:
        self.chosen = chosen
        self.links = 0


class PeerPlaces(Generic[Link]):
    """Who has a place.

    Args:
        limits: `max_peers`. Of a single place nothing can be kept free: there it is anybody's.

    Attributes:
        strangers: how many came by themselves and are nobody's choice.
    """

    __slots__ = ("_holders", "_max", "_peers", "_strangers_max", "strangers")

    def __init__(self, limits: Limits) -> None:
        self._max = limits.max_peers
        self._strangers_max = max(1, limits.max_peers // 2)
        self._peers: dict[PeerId, _Place] = {}
        self._holders: dict[Link, PeerId] = {}
        self.strangers = 0

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, peer_id: PeerId) -> bool:
        return peer_id in self._peers

    def free(self, *, chosen: bool) -> int:
        """How many more peers of this kind find a place."""
        free = max(0, self._max - len(self._peers))
        return free if chosen else min(free, max(0, self._strangers_max - self.strangers))

    def enter(self, link: Link, peer_id: PeerId, *, chosen: bool) -> bool:
        """Give the peer a place, or another link to the place that it has.

        Args:
            link: proven to lead to that peer.
            peer_id: the identity.
            chosen: this node dialled it or looks for it, or an operator named it.

        Returns:
            False if there is no place.
        """
        assert link not in self._holders, "a link enters once"
        place = self._peers.get(peer_id)
        if place is None:
            if not self.free(chosen=chosen):
                return False
            place = self._peers[peer_id] = _Place(chosen=chosen)
            self.strangers += not chosen
        elif chosen and not place.chosen:
            place.chosen = True
            self.strangers -= 1
        place.links += 1
        self._holders[link] = peer_id
        return True

    def leave(self, link: Link) -> None:
        """The link ended. Nothing happens if it never entered."""
        peer_id = self._holders.pop(link, None)
        if peer_id is None:
            return
        place = self._peers[peer_id]
        place.links -= 1
        if not place.links:
            del self._peers[peer_id]
            self.strangers -= not place.chosen
