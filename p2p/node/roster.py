"""Which links there are, and which one of two between the same nodes is kept.

Responsible for the table of proven links by identity and by label, for the double-link rule, and for noticing that
one identity seems to live in two places. It refuses to know tasks, sockets and messages.

The rule (wire section 5), alike on both sides without a word exchanged:

    direct before relayed; then the link dialed by the smaller peer id; of two from one dialer the newer

What becomes of the other one, and when, is `succession`'s part.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from p2p.errors import ConfigError, NotConnected, UnknownPeer
from p2p.ids import PeerId, how_to_name, is_peer_id_text
from p2p.limits import Limits

if TYPE_CHECKING:
    from p2p.peer.connection import Connection


class Roster:
    """Live links of one node, one kept per peer.

    Attributes:
        links: the kept link of each connected peer.
        met: how many distinct identities completed a handshake in this run (bounded memory: see `remember`).
    """

    def __init__(self, own: PeerId, limits: Limits) -> None:
        self._own = own
        self._limits = limits
        self.links: dict[PeerId, Connection] = {}
        self.met: dict[PeerId, None] = {}
        self.met_total = 0
        self._by_label: dict[str, Connection] = {}
        self._changes: dict[PeerId, deque[float]] = {}

    def __len__(self) -> int:
        return len(self.links)

    def remember(self, peer_id: PeerId) -> None:
        """Note that this identity proved itself; the oldest is forgotten beyond `weak_pins_max`."""
        if peer_id not in self.met:
            self.met_total += 1
            if len(self.met) >= self._limits.weak_pins_max:
                del self.met[next(iter(self.met))]
        else:
            del self.met[peer_id]
        self.met[peer_id] = None

    def is_better(self, new: Connection, old: Connection) -> bool:
        """Whether the newer of two links with one peer is the one to keep."""
        if new.direct != old.direct:
            return new.direct
        if new.dialed_by_us == old.dialed_by_us:
            return True
        smaller_is_us = self._own < new.peer_id
        return new.dialed_by_us == smaller_is_us

    def place(self, link: Connection) -> Connection | None:
        """Enter the link that is kept; return the one whose place it took."""
        peer_id = link.peer_id
        old = self.links.get(peer_id)
        if old is not None:
            self._drop_label(old)
        self.links[peer_id] = link
        if link.label is not None:
            holder = self._by_label.get(link.label)
            if holder is not None:
                # It came under the label before its owner did.
                holder.label = None
            self._by_label[link.label] = link
        return old

    def holder_of(self, label: str) -> PeerId | None:
        """Which connected peer goes by this label."""
        link = self._by_label.get(label)
        return link.peer_id if link is not None else None

    def _drop_label(self, link: Connection) -> None:
        if link.label is not None and self._by_label.get(link.label) is link:
            del self._by_label[link.label]

    def note_change(self, peer_id: PeerId, now: float) -> bool:
        """Note that a peer dialled a link in place of one that he dialled, too, and did not leave; True if that happens
        suspiciously often."""
        if peer_id not in self._changes and len(self._changes) >= self._limits.max_peers * 4:
            del self._changes[next(iter(self._changes))]
        times = self._changes.setdefault(peer_id, deque())
        times.append(now)
        while times and times[0] < now - 60:
            times.popleft()
        if len(times) > self._limits.clone_alternations_per_minute_max:
            times.clear()
            return True
        return False

    def remove(self, link: Connection) -> bool:
        """Take an ended link out; True if its peer has no kept link left."""
        peer_id = link.session.peer_id
        if peer_id is None or self.links.get(peer_id) is not link:
            return False
        del self.links[peer_id]
        self._drop_label(link)
        return True

    def labelled(self, who: PeerId | str) -> Connection | None:
        """The live link to whom has that label, if it is one; what else it may be is for `find` to see."""
        return self._by_label.get(who) if isinstance(who, str) else None

    def find(self, who: PeerId | str) -> Connection:
        """The live link to a peer id (value or text) or to a label.

        Raises:
            UnknownPeer: the text is not a peer id, and nobody connected has that label.
            NotConnected: nobody of that peer id is connected.
        """
        if isinstance(who, str) and is_peer_id_text(who):
            who = PeerId.parse(who)
        if isinstance(who, str):
            link = self._by_label.get(who)
            if link is None:
                mend = how_to_name(who, "one behind a relay is named by its peer id")
                raise UnknownPeer(f"no connected peer has the node id {who[:80]!r}: {mend}")
            return link
        if not isinstance(who, bytes):
            raise ConfigError(f"a peer is named by a Peer, a PeerId or a node id, not by {type(who).__name__}")
        link = self.links.get(PeerId(who))
        if link is None:
            raise NotConnected(f"{PeerId(who).short} is not connected")
        return link
