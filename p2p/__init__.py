"""trio-p2p: nodes that find, authenticate and talk to each other, and replicate a durable log, on trio.

    async with p2p.open_node(node_id="a", listen_port=9101, data_dir="a") as node:
        peer = await node.connect("tcp://127.0.0.1:9102")
        seq = await node.wal.append(b"sold 3", kind="sale")
        await node.wal.wait_replicated(seq, peers=1)

The floor plan, from the ground up; a room imports only lower floors and its own folder:

    0  errors limits ids text        what may go wrong, every bound, who and where, values
       values
    1  binary framing envelope       the wire: bytes, frames, envelopes, messages, packing
       msg pack strict_json
    2  crypto policy                 Noise and identities; who may, how often, which way
    3  session replication registry  two parties talking safely; logs, batches, who supplies whom; word in the web
    4  windows store transport       the world: clock, entropy, threads; the disk; the network
    5  peer                          one connection: a stream and a session in a nursery
    6  node                          the nursery of it all
    7  runtime testing               Vix's names; what your own tests can use
    8  cli                           the command line

Floors 0 to 3 are pure: no I/O, no clock, no randomness of their own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from p2p import framing, msg, pack, registry, strict_json
    from p2p.crypto.identity import Identity
    from p2p.crypto.null import NullCrypto
    from p2p.crypto.provider import StandardCrypto
    from p2p.envelope import Envelope, EnvelopeFlag, ProtocolVersion
    from p2p.errors import (
        AddressInUse,
        ChannelBusy,
        ConfigError,
        ConnectFailed,
        CryptoError,
        IdentityMismatch,
        LocalProtocolError,
        NodeClosed,
        NotConnected,
        NotStarted,
        OwnLogForked,
        P2PError,
        PayloadTooLarge,
        ProtocolError,
        Reason,
        RecordTooLarge,
        RemoteProtocolError,
        RequestFailed,
        StoreCorrupt,
        StoreError,
        StoreFull,
        StoreLocked,
        StoreReadOnly,
        UnknownPeer,
    )
    from p2p.framing import FrameDecodeResult, LengthPrefixVarint
    from p2p.ids import PeerEndpoint, PeerId
    from p2p.limits import Limits
    from p2p.msg import MessageType
    from p2p.node import events
    from p2p.node.away import PeerAway
    from p2p.node.bootstrap import BootstrapConfig, BootstrapMode, HttpBootstrap, make_http_bootstrap
    from p2p.node.config import NodeConfig
    from p2p.node.discovery import DiscoveryConfig, DiscoveryMode, UdpDiscovery, make_udp_discovery
    from p2p.node.dispatch import Channel, Message
    from p2p.node.node import Node, open_node
    from p2p.node.requests import RequestTimeout
    from p2p.node.status import NodeStats, Peer, PingReply
    from p2p.peer.connection import PeerState
    from p2p.policy.addresses import DialRule
    from p2p.policy.hints import DiscoveryAnnouncement
    from p2p.policy.routes import KnownRoute, MemoryRouter, Route
    from p2p.relay.switch import CircuitStats
    from p2p.replication.batch import NewRecord, Record
    from p2p.replication.heads import Head
    from p2p.runtime import P2PRuntime, make_tcp_node
    from p2p.text import one_line

__all__ = [
    "AddressInUse",
    "BootstrapConfig",
    "BootstrapMode",
    "Channel",
    "ChannelBusy",
    "CircuitStats",
    "ConfigError",
    "ConnectFailed",
    "CryptoError",
    "DialRule",
    "DiscoveryAnnouncement",
    "DiscoveryConfig",
    "DiscoveryMode",
    "Envelope",
    "EnvelopeFlag",
    "FrameDecodeResult",
    "Head",
    "HttpBootstrap",
    "Identity",
    "IdentityMismatch",
    "KnownRoute",
    "LengthPrefixVarint",
    "Limits",
    "LocalProtocolError",
    "MemoryRouter",
    "Message",
    "MessageType",
    "NewRecord",
    "Node",
    "NodeClosed",
    "NodeConfig",
    "NodeStats",
    "NotConnected",
    "NotStarted",
    "NullCrypto",
    "OwnLogForked",
    "P2PError",
    "P2PRuntime",
    "PayloadTooLarge",
    "Peer",
    "PeerAway",
    "PeerEndpoint",
    "PeerId",
    "PeerState",
    "PingReply",
    "ProtocolError",
    "ProtocolVersion",
    "Reason",
    "Record",
    "RecordTooLarge",
    "RemoteProtocolError",
    "RequestFailed",
    "RequestTimeout",
    "Route",
    "StandardCrypto",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "StoreReadOnly",
    "UdpDiscovery",
    "UnknownPeer",
    "events",
    "framing",
    "make_http_bootstrap",
    "make_tcp_node",
    "make_udp_discovery",
    "msg",
    "one_line",
    "open_node",
    "pack",
    "registry",
    "strict_json",
]

_MODULES: Final = {
    "events": "p2p.node.events",
    "framing": "p2p.framing",
    "msg": "p2p.msg",
    "pack": "p2p.pack",
    "registry": "p2p.registry",
    "strict_json": "p2p.strict_json",
}

_NAMES: Final = {
    "crypto.identity": "Identity",
    "crypto.null": "NullCrypto",
    "crypto.provider": "StandardCrypto",
    "envelope": "Envelope EnvelopeFlag ProtocolVersion",
    "errors": (
        "AddressInUse ChannelBusy ConfigError ConnectFailed CryptoError IdentityMismatch LocalProtocolError "
        "NodeClosed NotConnected NotStarted OwnLogForked P2PError PayloadTooLarge ProtocolError Reason "
        "RecordTooLarge RemoteProtocolError RequestFailed StoreCorrupt StoreError StoreFull StoreLocked "
        "StoreReadOnly UnknownPeer"
    ),
    "framing": "FrameDecodeResult LengthPrefixVarint",
    "ids": "PeerEndpoint PeerId",
    "limits": "Limits",
    "msg": "MessageType",
    "node.away": "PeerAway",
    "node.bootstrap": "BootstrapConfig BootstrapMode HttpBootstrap make_http_bootstrap",
    "node.config": "NodeConfig",
    "node.discovery": "DiscoveryConfig DiscoveryMode UdpDiscovery make_udp_discovery",
    "node.dispatch": "Channel Message",
    "node.node": "Node open_node",
    "node.requests": "RequestTimeout",
    "node.status": "NodeStats Peer PingReply",
    "peer.connection": "PeerState",
    "policy.addresses": "DialRule",
    "policy.hints": "DiscoveryAnnouncement",
    "policy.routes": "KnownRoute MemoryRouter Route",
    "relay.switch": "CircuitStats",
    "replication.batch": "NewRecord Record",
    "replication.heads": "Head",
    "runtime": "P2PRuntime make_tcp_node",
    "text": "one_line",
}

_HOME: Final = {name: f"p2p.{home}" for home, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    """A public name is imported when it is first asked for: trio and the node take ten times as long as all else that
    a command needs which prints a page of help."""
    if name in _MODULES:
        value: object = import_module(_MODULES[name])
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What a prompt completes, and `help(p2p)` tells of, before it was asked for."""
    return sorted({*globals(), *__all__})
