"""What is said about where a peer may be: by a datagram, a registry, the book of earlier runs, or an operator.

A hint proves nothing and is never answered. All that may come of it is a dial, and the dial proves who is there.
"""

from __future__ import annotations

from enum import Enum

from p2p.ids import PeerEndpoint, PeerId
from p2p.values import frozen


class HintSource(Enum):
    """Who says so."""

    DISCOVERY = "discovery"
    REGISTRY = "registry"
    BOOK = "book"
    """Where this node met the peer in an earlier run."""


@frozen
class DiscoveryAnnouncement:
    """A node that is said to listen somewhere: what `on_peer` gets.

    Args:
        node_id: the label that it shows.
        host: an IP address or a host name.
        port: 1-65535.
        peer_id: the identity expected there, None where the hint names none.
        scheme: "tcp", "ws" or "wss".
        judged: where a host name leads, if that was looked up and judged: nothing else is dialled.
    """

    node_id: str
    host: str
    port: int
    peer_id: PeerId | None = None
    scheme: str = "tcp"
    judged: tuple[str, ...] = ()

    @property
    def endpoint(self) -> PeerEndpoint:
        """Where to dial, with the identity to expect.

        Raises:
            ConfigError: host, port or scheme is not usable.
        """
        who = str(self.peer_id) if self.peer_id is not None else None
        return PeerEndpoint(self.host, self.port, self.scheme, who, self.judged)
