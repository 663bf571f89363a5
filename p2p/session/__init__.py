"""Two parties talking safely over bytes that somebody else moves."""

from p2p.session.session import (
    Ended,
    Event,
    Ignored,
    Live,
    PeerProven,
    Pinged,
    Ponged,
    Received,
    Role,
    Session,
    SessionConfig,
    State,
)

__all__ = [
    "Ended",
    "Event",
    "Ignored",
    "Live",
    "PeerProven",
    "Pinged",
    "Ponged",
    "Received",
    "Role",
    "Session",
    "SessionConfig",
    "State",
]
