"""Whom a caller means: a peer id, or what a connected peer calls itself."""

from __future__ import annotations

from http_control.operation import Call
from http_control.problem import Problem
from p2p import ConfigError, NotConnected, Peer, PeerId, UnknownPeer


def connected(call: Call, who: str, hint: str = "see GET peers") -> Peer:
    """A connected peer.

    Raises:
        Problem: none is called so.
    """
    try:
        return call.node.get_peer(who)
    except (UnknownPeer, NotConnected):
        raise unknown(who, hint) from None


def identity(call: Call, who: str) -> PeerId:
    """Anybody by his peer id, connected or not, or a connected peer.

    Raises:
        Problem: it is neither.
    """
    try:
        return PeerId.parse(who)
    except ConfigError:
        return connected(call, who, "name it by its peer id, 64 lower-case hex digits").peer_id


def unknown(who: str, hint: str = "see GET peers") -> Problem:
    """Nobody is called so."""
    return Problem(404, "unknown_peer", f"no connected peer is called {who[:80]!r}", hint=hint)
