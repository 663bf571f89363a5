"""What Hypothesis is told when it is imported: how to make our types, so that `st.from_type(p2p.Envelope)` works.

Named as an entry point of the group `hypothesis` in pyproject.toml; nobody calls it by hand.
"""

from __future__ import annotations

from hypothesis import strategies as st

from p2p import msg
from p2p.crypto.identity import Identity
from p2p.envelope import Envelope
from p2p.ids import PeerEndpoint, PeerId
from p2p.replication.batch import Batch, NewRecord, Record
from p2p.testing import strategies as wire


def register() -> None:
    """Register a strategy for every message, and for the other values of the wire."""
    for type, strategy in wire.BY_TYPE.items():
        st.register_type_strategy(msg.MESSAGES[type], strategy())
    st.register_type_strategy(Envelope, wire.envelopes())
    st.register_type_strategy(PeerId, wire.peer_ids())
    st.register_type_strategy(PeerEndpoint, wire.endpoints())
    st.register_type_strategy(Identity, wire.identities())
    st.register_type_strategy(msg.DiscoveryAnnounce, wire.announcements())
    st.register_type_strategy(msg.HeadEntry, wire.head_entries())
    st.register_type_strategy(msg.AttachedEntry, wire.attached_entries())
    st.register_type_strategy(NewRecord, wire.new_records())
    st.register_type_strategy(Batch, wire.batches())
    st.register_type_strategy(Record, wire.batches().map(lambda batch: next(batch.records())))
