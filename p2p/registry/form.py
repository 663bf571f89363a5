"""What client and registry say to each other, as JSON, read with the same strictness on both sides (T29, T48).

    GET  {base}/peers?limit=N   ->  {"peers":[{"host","tcp_port","node_id","scheme","peer_id","expires_s"}, …]}
    POST {base}/announce        {"node_id","tcp_port","ts_ms","nonce","cap":{…}}  ->  {"ok":true,"ttl_s":N}

The body of an announcement is that of the discovery datagram. Vix sends it without `ts_ms` and `nonce`, which only a
signature needs, and lists peers without the last three members.

An answer has to be a list, and each entry is judged for itself: one with a member missing or of a wrong type, or with a
port or a label that cannot be, is left out and hides none of the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from p2p.binary import U64_MAX
from p2p.errors import ConfigError, RemoteProtocolError
from p2p.ids import PeerEndpoint, PeerId, is_node_id, is_peer_id_text
from p2p.msg import DiscoveryAnnounce
from p2p.policy.hints import DiscoveryAnnouncement
from p2p.strict_json import decode_json

SCHEMES: Final = ("tcp", "ws", "wss")
"""What a listed peer may be dialled by; `cap.transport` names it in an announcement."""

TTL_S_MAX: Final = 86_400.0
URL_BYTES_MAX: Final = 2048


class ListedPeer(msgspec.Struct, frozen=True):
    """A peer as a registry lists it.

    Attributes:
        host: an IP address; registries of others may name hosts.
        tcp_port: where it listens, whatever the scheme.
        node_id: the label it gave.
        scheme: "tcp", "ws" or "wss".
        peer_id: 64 hex digits, if it proved to hold that identity when it announced itself.
        expires_s: when the registry forgets it, unless it announces itself again.
    """

    host: str
    tcp_port: int
    node_id: str
    scheme: str = "tcp"
    peer_id: str | None = None
    expires_s: float | None = None

    def as_hint(self) -> DiscoveryAnnouncement | None:
        """The hint that this is; None if a value cannot be."""
        if not 1 <= self.tcp_port <= 65_535 or self.scheme not in SCHEMES or not is_node_id(self.node_id):
            return None
        if self.peer_id is not None and not is_peer_id_text(self.peer_id):
            return None
        try:
            host = PeerEndpoint(self.host, self.tcp_port).host
        except ConfigError:
            return None
        peer_id = PeerId.parse(self.peer_id) if self.peer_id is not None else None
        return DiscoveryAnnouncement(self.node_id, host, self.tcp_port, peer_id, self.scheme)


class _Peers(msgspec.Struct):
    peers: list[object]


class _Announced(msgspec.Struct):
    ok: bool
    ttl_s: Annotated[float, msgspec.Meta(ge=1, le=TTL_S_MAX)]


_U64 = Annotated[int, msgspec.Meta(ge=0)]


class _Announce(msgspec.Struct):
    node_id: str
    tcp_port: Annotated[int, msgspec.Meta(ge=1, le=65_535)]
    ts_ms: _U64 = 0
    nonce: _U64 = 0
    cap: dict[str, str] = {}


def base_of(url: str) -> str:
    """The base of a registry's URL: without a trailing `/peers`, without a slash at its end.

    Raises:
        ConfigError: it is no http or https URL, or holds more than a place.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        PeerEndpoint(parts.hostname or "", port or 1)
    except (ValueError, ConfigError):
        raise ConfigError(f"{url[:120]!r} is not a URL: write http://HOST:PORT or https://HOST") from None
    if parts.scheme not in ("http", "https") or port == 0:
        raise ConfigError(f"{url[:120]!r} is no place of a registry: write http://HOST:PORT or https://HOST")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("a registry URL holds no user or password: what it asks for is given as a token")
    if parts.query or parts.fragment or len(url) > URL_BYTES_MAX or not url.isascii() or not url.isprintable():
        raise ConfigError(f"{url[:120]!r}: a registry URL is scheme, host, port and path in ASCII, and no more")
    path = parts.path.rstrip("/").removesuffix("/peers").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def host_of(base: str) -> str:
    """The host of a registry's URL, which `base_of` took."""
    return urlsplit(base).hostname or ""


def read_peers(body: bytes, peers_max: int) -> tuple[ListedPeer | None, ...]:
    """Read the answer to a question for peers; of more than `peers_max` the first. An entry that is none is None.

    Raises:
        RemoteProtocolError: it is no answer.
    """
    return tuple(_listed(entry) for entry in decode_json(body, _Peers, "the registry's list").peers[:peers_max])


def _listed(entry: object) -> ListedPeer | None:
    try:
        return msgspec.convert(entry, ListedPeer)
    except msgspec.ValidationError:
        return None


def read_announced(body: bytes) -> float:
    """Read the answer to an announcement: for how many seconds it holds.

    Raises:
        RemoteProtocolError: it is none, or it is a refusal.
    """
    answer = decode_json(body, _Announced, "the registry's answer")
    if not answer.ok:
        raise RemoteProtocolError("the registry did not take the announcement")
    return answer.ttl_s


def read_announce(body: bytes) -> DiscoveryAnnounce:
    """Read an announcement as a registry gets it, its signature unjudged.

    Raises:
        RemoteProtocolError: it is none.
    """
    given = decode_json(body, _Announce, "the announcement")
    if not is_node_id(given.node_id):
        raise RemoteProtocolError("the announcement: node_id is 1-64 of A-Z a-z 0-9 . _ - and not like a peer id")
    if given.ts_ms > U64_MAX or given.nonce > U64_MAX:
        raise RemoteProtocolError("the announcement: ts_ms and nonce are below 2^64")
    return DiscoveryAnnounce(given.node_id, given.tcp_port, given.ts_ms, given.nonce, tuple(given.cap.items()))


def write_announce(announce: DiscoveryAnnounce) -> bytes:
    """The body of an announcement."""
    return announce.to_json().encode()


def write_peers(peers: Iterable[ListedPeer]) -> bytes:
    """The answer to a question for peers."""
    return msgspec.json.encode({"peers": list(peers)})


def write_announced(ttl_s: int) -> bytes:
    """The answer to an announcement that was taken."""
    return msgspec.json.encode({"ok": True, "ttl_s": ttl_s})
