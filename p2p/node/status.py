"""What a node says of itself and of its peers: frozen snapshots, and the counters behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from p2p.errors import Reason
from p2p.ids import PeerEndpoint, PeerId
from p2p.peer.connection import PeerState

if TYPE_CHECKING:
    from p2p.node.roster import Roster
    from p2p.peer.connection import Connection


class Peer(msgspec.Struct, frozen=True):
    """A connected peer as it was when this was asked for.

    Attributes:
        peer_id: its identity, the only address that is trusted.
        node_id: its label where it could be accepted, else None.
        endpoint: what was dialled, or where an accepted connection came from.
        direct: False when the link runs through a relay.
        connected_at, last_seen: seconds on the node's monotonic clock.
        rtt_s: the newest round trip measured by a ping, None before the first.
        bytes_in, bytes_out: of this link, sealed, since it began.
    """

    peer_id: PeerId
    node_id: str | None
    state: PeerState
    endpoint: PeerEndpoint | None
    direct: bool
    connected_at: float
    last_seen: float
    rtt_s: float | None
    bytes_in: int
    bytes_out: int


class PingReply(msgspec.Struct, frozen=True):
    """What `node.ping` found.

    Attributes:
        peer: who answered; `peer.endpoint` tells the way, `relay://RELAY/PEER` where it leads through a relay.
        rtt_s: seconds from the question to the answer.
    """

    peer: Peer
    rtt_s: float


class NodeStats(msgspec.Struct, frozen=True):
    """Counters since the node started, with Vix's names."""

    peers_total: int = 0
    """Distinct peers met in this run, now connected or not."""
    peers_connected: int = 0
    handshakes_started: int = 0
    handshakes_completed: int = 0
    handshakes_failed: int = 0
    connect_attempts: int = 0
    connect_deduped: int = 0
    """Dials that joined one under way, or found the peer connected."""
    connect_failures: int = 0
    backoff_skips: int = 0
    """Times that a dial was put off because the endpoint failed lately."""
    tracked_endpoints: int = 0
    """Endpoints whose failures are remembered."""


class TableSizes(msgspec.Struct, frozen=True):
    """What a node remembers of others at this moment; each table has its bound in `Limits`.

    Attributes:
        leads: places that hints named, waiting or dialled lately.
        leads_waiting: of these, those that wait to be dialled.
        book: places where peers were met.
        tracked_endpoints: endpoints whose failures are remembered.
        banned: identities that are left alone now.
        discovered: places that discovery heard of lately.
        registered: places that a registry named lately.
    """

    leads: int = 0
    leads_waiting: int = 0
    book: int = 0
    tracked_endpoints: int = 0
    banned: int = 0
    discovered: int = 0
    registered: int = 0


class Counters(msgspec.Struct):
    """The live numbers behind `NodeStats`, and those that metrics add."""

    handshakes_started: int = 0
    handshakes_completed: int = 0
    handshakes_failed: int = 0
    connect_attempts: int = 0
    connect_deduped: int = 0
    connect_failures: int = 0
    backoff_skips: int = 0
    hints: int = 0
    """What was said about where a peer may be, whoever said it."""
    hints_unusable: int = 0
    messages_dropped: int = 0
    """Application messages that found no reader, or waited too long for one."""
    answers_late: int = 0
    """Answers to requests that had timed out or were cancelled."""
    messages_unsent: int = 0
    """Queued messages that were lost with their link."""
    hook_failures: int = 0
    ignored_messages: int = 0
    links_rested: int = 0
    """Times that a link was not read for a moment, since its peer sent more control messages than it may."""
    links_ended: dict[Reason, int] = msgspec.field(default_factory=dict)
    dials_failed: dict[Reason, int] = msgspec.field(default_factory=dict)
    """What `connect_failures` consists of."""

    def count_end(self, reason: Reason) -> None:
        """Count the end of a link under its reason."""
        self.links_ended[reason] = self.links_ended.get(reason, 0) + 1

    def count_failed_dial(self, reason: Reason) -> None:
        """Count a dial that came to nothing under its reason."""
        self.connect_failures += 1
        self.dials_failed[reason] = self.dials_failed.get(reason, 0) + 1


def snapshot_of(link: Connection) -> Peer:
    """Describe a link whose peer is proven."""
    session = link.session
    return Peer(
        peer_id=link.peer_id,
        node_id=link.label,
        state=link.state,
        endpoint=link.endpoint,
        direct=link.direct,
        connected_at=link.connected_at if link.connected_at is not None else session.last_seen,
        last_seen=session.last_seen,
        rtt_s=session.rtt_s,
        bytes_in=session.bytes_in,
        bytes_out=session.bytes_out,
    )


class OutboxView:
    """What waits to reach the peers: `node.outbox`."""

    def __init__(self, lag: Callable[[], dict[PeerId, int]], roster: Roster) -> None:
        self._lag = lag
        self._roster = roster

    def lag(self) -> dict[PeerId, int]:
        """Own records that each connected peer has not yet acknowledged as durable."""
        return self._lag()

    def bytes_waiting(self) -> dict[PeerId, int]:
        """Bytes of application messages per connected peer that the socket has not yet taken."""
        return {peer_id: link.outbox_bytes for peer_id, link in self._roster.links.items()}
