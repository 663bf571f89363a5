"""Whose label is it? (wire section 5; T14, T73)

A node id is a name that anybody can claim; the peer id behind it is proven. A pin remembers which identity a label
belongs to:

- **strong**: from the trust list, or learned on a dial that named the label. A conflict refuses the connection.
- **weak**: the first identity seen with the label in any other way. A conflict admits the peer, without the label: who
  came first under a name that is not his has taken a name, and nothing else.

A strong claim takes a label away from a weak pin; nothing takes it away from a strong one. An identity has one weak
label at a time, the latest, so that one peer cannot fill the table by renaming itself. Identities that live only as
long as their process (`ephemeral`) are judged and never pinned.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from p2p.ids import PeerId
from p2p.limits import Limits


class PinResult(Enum):
    """What a label is worth when an identity shows it."""

    MATCHED = "matched"
    """It is pinned to this very identity."""
    PINNED = "pinned"
    """It was free and is this identity's from now on."""
    TAKEN_OVER = "taken over"
    """It was weakly another's; a strong claim made it this identity's."""
    UNPINNED = "unpinned"
    """It is free, and the identity is not one to remember."""
    WITHOUT_LABEL = "without label"
    """It is weakly another's: admit the peer without it, and tell."""
    REFUSED = "refused"
    """It is strongly another's: refuse the connection."""

    @property
    def is_conflict(self) -> bool:
        """Whether the label belongs to another identity."""
        return self in (PinResult.WITHOUT_LABEL, PinResult.REFUSED)

    @property
    def is_refused(self) -> bool:
        """Whether the connection has to end."""
        return self is PinResult.REFUSED


class Pins:
    """The labels of one node's peers.

    Args:
        limits: `weak_pins_max` bounds the weak pins, and the strong ones that are learned.
        strong: the trust list: node id → peer id.
        weak: what `export` gave earlier, the one seen longest ago first.
    """

    __slots__ = ("_labels", "_learned_max", "_strong", "_strong_labels", "_weak", "_weak_max")

    def __init__(self, limits: Limits, *, strong: Mapping[str, PeerId], weak: Mapping[str, PeerId]) -> None:
        self._strong = dict(strong)
        self._strong_labels: dict[PeerId, str] = {}
        for node_id, peer_id in strong.items():
            self._strong_labels.setdefault(peer_id, node_id)
        self._learned_max = len(self._strong) + limits.weak_pins_max
        self._weak_max = limits.weak_pins_max
        self._weak: dict[str, PeerId] = {}
        self._labels: dict[PeerId, str] = {}
        for node_id, peer_id in weak.items():
            if node_id not in self._strong:
                self._pin_weakly(node_id, peer_id)

    def __len__(self) -> int:
        return len(self._strong) + len(self._weak)

    def check(self, node_id: str, peer_id: PeerId, *, strong: bool = False, ephemeral: bool = False) -> PinResult:
        """Judge a label that a proven identity shows, and pin it if it is free.

        Args:
            node_id: the label.
            peer_id: the identity, proven.
            strong: we dialled and named this label as the one expected.
            ephemeral: the identity dies with its process.
        """
        holder = self._strong.get(node_id)
        if holder is not None:
            return PinResult.MATCHED if holder == peer_id else PinResult.REFUSED
        holder = self._weak.get(node_id)
        if holder is not None and holder != peer_id and not strong:
            return PinResult.WITHOUT_LABEL
        if ephemeral:
            return PinResult.MATCHED if holder == peer_id else PinResult.UNPINNED
        if strong and len(self._strong) < self._learned_max:
            self._pin_strongly(node_id, peer_id)
        else:
            self._pin_weakly(node_id, peer_id)
        if holder is None:
            return PinResult.PINNED
        return PinResult.MATCHED if holder == peer_id else PinResult.TAKEN_OVER

    def holder(self, node_id: str) -> PeerId | None:
        """Whose label it is."""
        return self._strong.get(node_id) or self._weak.get(node_id)

    def strong_holder(self, node_id: str) -> PeerId | None:
        """Whose label it is beyond doubt: by the trust list, or learned on a dial that named it."""
        return self._strong.get(node_id)

    def is_strong(self, peer_id: PeerId) -> bool:
        """Whether an operator named this identity: in the trust list, or as who is to be found at an endpoint."""
        return peer_id in self._strong_labels

    def label_of(self, peer_id: PeerId) -> str | None:
        """The label of an identity: the strong one if it has both."""
        return self._strong_labels.get(peer_id) or self._labels.get(peer_id)

    def export(self) -> dict[str, PeerId]:
        """The weak pins, the one seen longest ago first; what the store keeps."""
        return dict(self._weak)

    def _pin_strongly(self, node_id: str, peer_id: PeerId) -> None:
        self._unpin(node_id)
        self._strong[node_id] = peer_id
        self._strong_labels.setdefault(peer_id, node_id)

    def _pin_weakly(self, node_id: str, peer_id: PeerId) -> None:
        self._unpin(node_id)
        before = self._labels.get(peer_id)
        if before is not None:
            self._unpin(before)
        self._weak[node_id] = peer_id
        self._labels[peer_id] = node_id
        if len(self._weak) > self._weak_max:
            self._unpin(next(iter(self._weak)))

    def _unpin(self, node_id: str) -> None:
        peer_id = self._weak.pop(node_id, None)
        if peer_id is not None:
            del self._labels[peer_id]
