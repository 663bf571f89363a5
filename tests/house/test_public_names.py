"""The public names, frozen: a name comes or goes only with a change here, and a line in CHANGELOG.md."""

from __future__ import annotations

import subprocess
import sys

import p2p

FRONT_DOOR = """
    AddressInUse Channel ChannelBusy ConfigError ConnectFailed CryptoError Envelope EnvelopeFlag FrameDecodeResult Head
    Identity IdentityMismatch LengthPrefixVarint Limits LocalProtocolError MemoryRouter Message MessageType NewRecord
    Node NodeClosed NodeConfig NodeStats NotConnected NotStarted NullCrypto OwnLogForked P2PError P2PRuntime
    PayloadTooLarge Peer PeerEndpoint PeerId PeerState ProtocolError ProtocolVersion Reason Record RecordTooLarge
    RemoteProtocolError Route StandardCrypto StoreCorrupt StoreError StoreFull StoreLocked StoreReadOnly UnknownPeer
    events framing make_tcp_node msg one_line open_node pack strict_json
    BootstrapConfig BootstrapMode DiscoveryAnnouncement HttpBootstrap make_http_bootstrap registry
    CircuitStats DialRule KnownRoute PeerAway PingReply RequestFailed RequestTimeout
    DiscoveryConfig DiscoveryMode UdpDiscovery make_udp_discovery
""".split()

NODE = """
    bootstrap broadcast channel circuits config connect counters disconnect discovery endpoints events extensions
    get_peer log_to node_id outbox peer_id peers peers_away ping request routes run send serve stats stop tables wait
    wal
""".split()

WAL = """
    append append_many check_size digest follow heads is_writable lag left_alone records shown wait_replicated
""".split()


def public(value: object) -> set[str]:
    return {name for name in dir(value) if not name.startswith("_")}


def test_the_front_door() -> None:
    assert set(p2p.__all__) == set(FRONT_DOOR)
    assert len(p2p.__all__) == len(set(p2p.__all__))
    assert [name for name in p2p.__all__ if not hasattr(p2p, name)] == []


def test_a_prompt_completes_the_front_door_before_anything_was_used() -> None:
    code = "import sys, p2p; names = dir(p2p); print('trio' in sys.modules, set(p2p.__all__) <= set(names))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "True"]


def test_what_a_node_offers() -> None:
    assert public(p2p.Node(p2p.NodeConfig(node_id="a"))) == set(NODE)


def test_what_a_log_offers() -> None:
    from p2p.node.wal import Wal

    assert public(Wal) == set(WAL)


def test_every_public_name_says_what_it_is() -> None:
    silent = [name for name in p2p.__all__ if not getattr(p2p, name).__doc__]
    assert silent == []
