"""The registry: a place in the web where nodes leave word and learn of each other (wire section 10).

What is said over HTTP is here as values and bytes, for both sides, and pure: `form` holds the JSON, `desk` decides what
a registry takes and shows. The node's client is `p2p.node.bootstrap`, the server `http_control.registry`.
"""

from __future__ import annotations

from p2p.policy.addresses import prefix_of
from p2p.registry.desk import Desk, Entry, Refused, Room, Scope
from p2p.registry.form import ListedPeer, write_announced, write_peers

__all__ = ["Desk", "Entry", "ListedPeer", "Refused", "Room", "Scope", "prefix_of", "write_announced", "write_peers"]
