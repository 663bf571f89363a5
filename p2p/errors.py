"""What can go wrong, in one tree, split by whose fault it is.

`ConfigError` and `LocalProtocolError` are the caller's, `RemoteProtocolError` is the peer's, `StoreError` the
disk's, `ConnectFailed` the network's. Whatever a pure room cannot accept from outside it refuses with exactly one
`RemoteProtocolError`; a broken invariant of our own is an `AssertionError`, never one of these.

`Reason` says why a link was not made or did not last. It is one list for every use: the code that a Goodbye
carries, the label of a metric, and the penalty that its cause earns the sender.
"""

from __future__ import annotations

from enum import IntEnum


class Reason(IntEnum):
    """Why a connection was refused, failed or ended. The value is the wire code of a Goodbye (u16)."""

    CLOSED = 1
    """The peer (or we) stopped in order."""
    MOVED = 2
    """Another link between the same two nodes was kept."""
    DEAD = 3
    """Nothing was heard for `dead_after_s`."""
    OVERLOADED = 4
    """The other side took no byte for `write_stall_s_max`, or a bound on queued work was reached."""
    TIMEOUT = 5
    """The handshake, or the dial, took too long."""
    PROTOCOL = 6
    """Bytes that the wire specification does not allow."""
    CRYPTO = 7
    """A tag, signature or key exchange failed: wrong network key, tampering, or a replay."""
    WRONG_PEER = 8
    """The identity proven is not the one that was dialled."""
    NOT_ADMITTED = 9
    """The trust list does not name this identity."""
    LABEL_CONFLICT = 10
    """The node id is pinned to another identity."""
    FULL = 11
    """`max_peers` is reached."""
    BANNED = 12
    """The identity or address misbehaved and is left alone for a while."""
    SELF = 13
    """A node dialled itself."""
    VERSION = 14
    """The other side speaks another major version."""
    FRAME_TOO_LARGE = 15
    """A frame's length is over the bound that holds."""
    ABNORMAL = 16
    """The stream ended without a Goodbye."""
    REFUSED = 17
    """Nothing listens there, or the host cannot be reached."""
    UNRESOLVED = 18
    """The host name has no address."""
    BACKOFF = 19
    """The endpoint failed lately; the next attempt is due later."""
    DISCONNECTED = 20
    """The application asked for it."""
    INTERNAL = 21
    """Our own fault: a bug met while serving this link. The node lives on."""
    UNSUPPORTED = 22
    """No transport for the endpoint's scheme, or the other side does not know circuits."""
    NO_ROUTE = 23
    """The relay is not connected, or knows no way to the target, or the hops ran out."""

    @property
    def label(self) -> str:
        """Lower-case name, as metrics and text show it."""
        return self.name.lower()

    @property
    def penalty(self) -> int:
        """Points the sender's score loses for it (100 points is a ban). Of the ends of links only PROTOCOL counts."""
        return _PENALTY.get(self, 0)


_PENALTY = {
    Reason.PROTOCOL: 25,
    Reason.OVERLOADED: 5,
}
"""Those of OVERLOADED are for floods. Nothing for what whoever sits on the way can do."""


class P2PError(Exception):
    """Everything that this package raises on purpose."""


class ConfigError(P2PError, ValueError):
    """A setting, argument, endpoint or file is not usable; the text names it, its value and the mend."""


class NotStarted(P2PError):
    """The node does not run yet (or never will): enter `async with p2p.open_node(...)` first."""


class NodeClosed(P2PError):
    """The node has stopped, or stopped while the call waited."""


class AddressInUse(P2PError, OSError):
    """Something else listens on the port already."""


class ConnectFailed(P2PError):
    """A dial ended without an authenticated session.

    Attributes:
        reason: the cause, as a `Reason`.
        detail: what was tried and what was seen, one line.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.label}: {detail}" if detail else reason.label)
        self.reason = reason
        self.detail = detail


class NotConnected(P2PError):
    """No live link to that peer."""


class UnknownPeer(P2PError, LookupError):
    """No peer of that id or label is known here."""


class RequestFailed(P2PError):
    """A request was answered, but not by a handler's answer.

    Attributes:
        status: 1 the handler failed, 2 nobody serves the channel there, 3 the peer is overloaded; others are the
            application's, or a later version's.
    """

    def __init__(self, status: int, who: str) -> None:
        meaning = {1: "the handler failed", 2: "nobody serves it there", 3: "it is overloaded: too many wait there"}
        super().__init__(f"{who}: {meaning.get(status, 'refused')} (status {status})")
        self.status = status


class ChannelBusy(P2PError):
    """The channel or follower name is in use already."""


class PayloadTooLarge(P2PError, ValueError):
    """The message does not fit a frame."""


class RecordTooLarge(P2PError, ValueError):
    """The record does not fit a batch (about 255 KiB)."""


class ProtocolError(P2PError):
    """The wire specification was not kept."""


class RemoteProtocolError(ProtocolError):
    """The other side sent what the specification does not allow.

    Attributes:
        reason: what to tell and to count, `Reason.PROTOCOL` unless said otherwise.
    """

    def __init__(self, detail: str, reason: Reason = Reason.PROTOCOL) -> None:
        super().__init__(detail)
        self.reason = reason


class LocalProtocolError(ProtocolError):
    """The caller asked for something that the protocol does not allow in this state."""


class CryptoError(P2PError):
    """A tag, signature, key or nonce is not valid. The text says no more, on purpose."""


class StoreError(P2PError):
    """The durable log could not be read or written."""


class StoreFull(StoreError):
    """The disk has no room. The node is read-only until it has."""


class StoreCorrupt(StoreError):
    """The store is damaged; the text names what and where."""


class StoreLocked(StoreError):
    """Another process holds the data dir."""


class StoreReadOnly(StoreError):
    """The store cannot be written at the moment; reading and serving go on."""


class IdentityMismatch(StoreError):
    """The store belongs to another identity than the key given, or its key file is missing."""


class OwnLogForked(StoreError):
    """There is proof that this identity signed two different histories: it can append no more.

    Make a new identity with `p2p id --new`; the old log stays readable, and what it
    holds beyond the fork with `p2p wal tail --beyond-fork`.
    """
