"""What waited on a circuit that broke, until there is another link with the same peer.

Responsible for messages that were queued and not handed to a session: nobody can have got them, so they may be sent on
the next link, before what is queued there. It refuses to know links and time: whoever has them kept says when it is
too late.

Only circuits leave something: there it mostly is the way that broke, and the peer is where he was.
"""

from __future__ import annotations

import trio

from p2p.errors import Reason
from p2p.ids import PeerId
from p2p.limits import Limits

WAY_BROKE = frozenset({Reason.ABNORMAL, Reason.DEAD, Reason.OVERLOADED, Reason.TIMEOUT, Reason.CRYPTO})
"""Ends of a circuit that may be a relay's doing, or that of a link on the way."""


class CarriedOver:
    """Encoded messages by peer, each peer's as many as its outbox took.

    Args:
        limits: for no more than `max_peers` peers something is kept.
    """

    def __init__(self, limits: Limits) -> None:
        self._peers_max = limits.max_peers
        self._left: dict[PeerId, tuple[tuple[bytes, ...], trio.Event]] = {}

    def __len__(self) -> int:
        """For how many peers something is kept."""
        return len(self._left)

    def keep(self, peer_id: PeerId, messages: tuple[bytes, ...]) -> trio.Event | None:
        """Keep what a link left; an event that is set when it is taken, None if there is no room for it."""
        if peer_id in self._left or len(self._left) >= self._peers_max:
            return None
        taken = trio.Event()
        self._left[peer_id] = messages, taken
        return taken

    def take(self, peer_id: PeerId) -> tuple[bytes, ...]:
        """What is kept for a peer; it is kept no longer."""
        if peer_id not in self._left:
            return ()
        messages, taken = self._left.pop(peer_id)
        taken.set()
        return messages
