"""Two parties talking safely over bytes that somebody else moves."""

from p2p.session.events import Ended, Event, Ignored, Live, PeerProven, Pinged, Ponged, Received, ReceivedRow
from p2p.session.handshake import SessionConfig
from p2p.session.session import Session
from p2p.session.states import Role, State

__all__ = [
    "Ended",
    "Event",
    "Ignored",
    "Live",
    "PeerProven",
    "Pinged",
    "Ponged",
    "Received",
    "ReceivedRow",
    "Role",
    "Session",
    "SessionConfig",
    "State",
]
