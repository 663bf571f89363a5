"""A node as its readers see it: snapshots, made from what p2p says publicly. Nothing here changes anything.

What a node keeps secret is in none of these values, and none is made by listing whatever an object holds: each field is
named (threat T56).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Protocol

from msgspec.structs import asdict

import p2p
from http_control import shapes
from http_control.payload import shown
from p2p import PeerId, Reason


class Head(Protocol):
    """How far a log is held."""

    @property
    def seq(self) -> int:
        """Last seq."""

    @property
    def hash(self) -> bytes:
        """Of the batch that ends there."""

    @property
    def frozen(self) -> bool:
        """Whether a fork is proven."""


Heads = Mapping[PeerId, Head]


class View:
    """A node at one moment: what several answers need is asked for once.

    Args:
        node: a running one.

    Raises:
        NotStarted, NodeClosed: it does not run.
    """

    def __init__(self, node: p2p.Node) -> None:
        self._node = node
        self.own = node.peer_id
        self.now = node.config.clock.monotonic()
        self.heads: Heads = node.wal.heads()
        self._shown: Mapping[PeerId, Heads] = node.wal.shown()
        self._lag = node.wal.lag()
        self._waiting = node.outbox.bytes_waiting()
        self.snapshots = node.peers()
        self._labels = {peer.peer_id: peer.node_id for peer in self.snapshots} | {self.own: node.node_id}

    @cached_property
    def _labels_away(self) -> Mapping[PeerId, str | None]:
        """What peers that are not connected are called, looked up only for who asks for one of them."""
        away = self._node.peers_away(None)
        return {peer.peer_id: peer.node_id for peer in away if peer.peer_id is not None}

    @property
    def records(self) -> int:
        """Records held of all origins."""
        return sum(head.seq for head in self.heads.values())

    @property
    def lag_records(self) -> int:
        """Own records that the peer furthest behind does not hold yet."""
        return max(self._lag.values(), default=0)

    def label_of(self, who: PeerId) -> str | None:
        """The node id of this node, or of a peer that is connected or known."""
        return self._labels[who] if who in self._labels else self._labels_away.get(who)

    def status(self, *, version: str, uptime_s: float, bytes_in: int, bytes_out: int) -> shapes.Status:
        """The node at a glance."""
        node = self._node
        own = self.heads.get(self.own)
        is_writable = node.wal.is_writable
        return shapes.Status(
            status="ok" if is_writable else "read_only",
            running=True,
            node_id=node.node_id,
            peer_id=str(self.own),
            endpoints=[str(endpoint) for endpoint in node.endpoints],
            version=version,
            now_ms=node.config.clock.wall_ms(),
            uptime_ms=int(uptime_s * 1000),
            **asdict(node.stats()),
            records=self.records,
            own_records=own.seq if own is not None else 0,
            digest=node.wal.digest().hex(),
            writable=is_writable,
            lag_records=self.lag_records,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
        )

    def peer(self, peer: p2p.Peer) -> shapes.Peer:
        """One peer."""
        behind, ahead = self._compared(peer.peer_id)
        return shapes.Peer(
            id=str(peer.peer_id),
            node_id=peer.node_id,
            state=peer.state.value,
            endpoint=str(peer.endpoint) if peer.endpoint is not None else None,
            direct=peer.direct,
            connected_ms=self._ago(peer.connected_at),
            last_seen_ms=self._ago(peer.last_seen),
            rtt_ms=round(peer.rtt_s * 1000, 3) if peer.rtt_s is not None else None,
            bytes_in=peer.bytes_in,
            bytes_out=peer.bytes_out,
            outbox_bytes=self._waiting.get(peer.peer_id, 0),
            lag_records=self._lag.get(peer.peer_id, 0),
            behind_records=behind,
            ahead_records=ahead,
        )

    def peers(self) -> list[shapes.Peer]:
        """All connected peers, in the order they connected."""
        return [self.peer(peer) for peer in self.snapshots]

    def away(self, count_max: int | None = None) -> list[shapes.Peer]:
        """Peers that are known and not connected, at most so many."""
        return [
            shapes.Peer(
                id=str(peer.peer_id) if peer.peer_id is not None else None,
                node_id=peer.node_id,
                state=peer.state.value,
                endpoint=str(peer.endpoint) if peer.endpoint is not None else None,
                direct=peer.endpoint is None or peer.endpoint.scheme != "relay",
                configured=peer.configured,
                failures=peer.failures,
                failure=peer.failure.label if peer.failure is not None else None,
                next_dial_ms=int(peer.next_dial_s * 1000) if peer.next_dial_s is not None else None,
            )
            for peer in self._node.peers_away(count_max)
        ]

    def _ago(self, then: float) -> int:
        return max(0, int((self.now - then) * 1000))

    def _compared(self, peer: PeerId) -> tuple[int, int]:
        """Records that the peer has not shown and we hold, and the other way round."""
        shown = self._shown.get(peer, {})
        behind = ahead = 0
        # Plain on purpose: there may be a thousand origins, for each of sixty peers, at every tick and question.
        for origin, ours in self.heads.items():
            theirs = shown.get(origin)
            if theirs == ours:
                continue
            if ours.frozen or (theirs is not None and theirs.frozen):
                continue
            seq = theirs.seq if theirs is not None else 0
            if origin in (self.own, peer):
                seq = self._seq_at(peer, origin)
            if seq < ours.seq:
                behind += ours.seq - seq
            else:
                ahead += seq - ours.seq
        ahead += sum(head.seq for origin, head in shown.items() if origin not in self.heads and not head.frozen)
        return behind, ahead

    def _seq_at(self, peer: PeerId, origin: PeerId) -> int:
        """How far a peer holds a log, as far as we know: it tells about ours at once, about others within a second."""
        shown = self._shown.get(peer, {}).get(origin)
        seq = shown.seq if shown is not None else 0
        if origin == self.own and origin in self.heads:
            return max(seq, self.heads[origin].seq - self._lag.get(peer, 0))
        if origin == peer and origin in self.heads:
            # Its own log: what we have of it came from there.
            return max(seq, self.heads[origin].seq)
        return seq

    def mark(self, peer: PeerId, origin: PeerId) -> shapes.HeadMark:
        """How a peer's copy of one log compares with ours."""
        ours, theirs = self.heads.get(origin), self._shown.get(peer, {}).get(origin)
        if ours is not None and ours == theirs and not ours.frozen:
            return shapes.HeadMark(seq=ours.seq, mark="equal")
        if (ours is not None and ours.frozen) or (theirs is not None and theirs.frozen):
            return shapes.HeadMark(seq=None if theirs is None else theirs.seq, mark="frozen")
        if theirs is None and origin not in (self.own, peer):
            # Not listed: it holds nothing of it, or has not said.
            return shapes.HeadMark(seq=None, mark="behind" if ours is not None and ours.seq else "unknown")
        here, there = ours.seq if ours is not None else 0, self._seq_at(peer, origin)
        if here != there:
            return shapes.HeadMark(seq=there, mark="behind" if there < here else "ahead")
        is_other = ours is not None and theirs is not None and theirs.seq == here and theirs.hash != ours.hash
        # As long and not the same: one of the two histories will be proven false.
        return shapes.HeadMark(seq=there, mark="unknown" if is_other else "equal")

    def heads_at(self, peer: PeerId) -> list[shapes.PeerHead]:
        """All logs, here and at one peer."""
        found = []
        for origin in sorted({*self.heads, *self._shown.get(peer, {})}):
            mark = self.mark(peer, origin)
            ours = self.heads.get(origin)
            found.append(
                shapes.PeerHead(
                    origin=str(origin),
                    node_id=self.label_of(origin),
                    seq=ours.seq if ours is not None else 0,
                    shown_seq=mark.seq,
                    mark=mark.mark,
                )
            )
        return found

    def origins(self) -> list[PeerId]:
        """Whose logs are held here, our own first, then by origin."""
        return sorted(self.heads, key=lambda origin: (origin != self.own, origin))

    def log_head(self, origin: PeerId, *, differing: bool) -> shapes.LogHead:
        """One of the logs held here, with the marks of all peers or of those that are not in step."""
        marks = {str(peer.peer_id): self.mark(peer.peer_id, origin) for peer in self.snapshots}
        odd = {peer: mark for peer, mark in marks.items() if mark.mark != "equal"}
        head = self.heads[origin]
        return shapes.LogHead(
            origin=str(origin),
            node_id=self.label_of(origin),
            own=origin == self.own,
            seq=head.seq,
            hash=head.hash.hex(),
            frozen=head.frozen,
            in_step=len(marks) - len(odd),
            marks=odd if differing else marks,
        )

    def lag(self) -> list[shapes.PeerLag]:
        """Own records that each peer does not hold yet."""
        return [
            shapes.PeerLag(peer=str(peer), node_id=self.label_of(peer), records=records)
            for peer, records in self._lag.items()
        ]

    def _relay_of(self, peer: shapes.Peer) -> str | None:
        """The peer id of the relay that a link runs through, if it is one of ours by now."""
        if peer.direct or peer.endpoint is None:
            return None
        relay = p2p.PeerEndpoint.parse(peer.endpoint).host
        return next((str(one.peer_id) for one in self.snapshots if relay in (str(one.peer_id), one.node_id)), None)

    def links(self) -> tuple[list[shapes.LinkNode], list[shapes.Link]]:
        """This node, its peers, and the links between them."""
        nodes = [shapes.LinkNode(id=str(self.own), node_id=self._node.node_id, is_self=True)]
        links = []
        for snapshot, peer in zip(self.snapshots, self.peers(), strict=True):
            who = str(snapshot.peer_id)
            nodes.append(shapes.LinkNode(id=who, node_id=peer.node_id, is_self=False))
            links.append(
                shapes.Link(
                    from_=str(self.own),
                    to=who,
                    state=peer.state,
                    direct=peer.direct,
                    via=self._relay_of(peer),
                    rtt_ms=peer.rtt_ms,
                    lag_records=peer.lag_records,
                    behind_records=peer.behind_records,
                    ahead_records=peer.ahead_records,
                    bytes_in=peer.bytes_in,
                    bytes_out=peer.bytes_out,
                )
            )
        return nodes, links


def record_of(record: p2p.Record, node_id: str | None) -> shapes.Record:
    """One record; `node_id` is what its origin is called."""
    text, encoded = shown(record.payload)
    return shapes.Record(
        origin=str(record.origin),
        node_id=node_id,
        seq=record.seq,
        kind=record.kind,
        target=None if record.target is None else str(record.target),
        hlc=str(record.hlc),
        time=record.time.isoformat(timespec="milliseconds"),
        payload=text,
        payload_b64=encoded,
    )


def labelled(counts: Mapping[Reason, int]) -> dict[str, int]:
    """Counts by reason, as text and metrics call them."""
    return {reason.label: count for reason, count in counts.items()}
