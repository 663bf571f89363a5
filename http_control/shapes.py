"""Every JSON value that goes in or out, as types: what is decoded, what is encoded, and what /openapi.json describes.

The names are docs/http.md's. Requests refuse unknown fields, so that a misspelled one is told and not ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

# Bounds that are part of the interface: what a caller may ask for.
CONNECT_MS: Final = 5_000
CONNECT_MS_MAX: Final = 30_000
"""How long POST connect waits for what comes of a dial, unless it is told, and at the most."""
PAGE_MAX: Final = 1_000
"""Peers, origins or records on one page."""
APPEND_MAX: Final = 1_024
"""Records in one POST wal."""
TAIL_MAX: Final = 800
"""Lines of GET logs."""

Hex = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", min_length=64, max_length=64)]
"""With its length, for `$` is also before a line feed that ends a text."""
State = Literal["disconnected", "connecting", "handshaking", "connected", "stale", "closed"]
Shown = Literal["disconnected", "connecting", "handshaking", "connected", "stale"]
"""States that a listed peer can be in: a link that is closed is listed no more."""
Mark = Literal["equal", "behind", "ahead", "frozen", "unknown"]
Who = Annotated[str, Meta(min_length=1, max_length=64)]
LEVELS = Literal["trace", "debug", "info", "warning", "error", "critical", "off"]
INT64 = 2**63 - 1
Offset = Annotated[int, Meta(ge=0, le=INT64)]
Limit = Annotated[int, Meta(ge=1, le=PAGE_MAX)]
WaitMs = Annotated[int, Meta(ge=1, le=CONNECT_MS_MAX)]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What every answer has."""

    ok: bool = True
    module: str = "p2p_http"


class Error(msgspec.Struct, frozen=True, kw_only=True):
    """What every error has; some have more."""

    ok: Literal[False]
    module: str
    status: int
    error: str
    message: str
    hint: str | msgspec.UnsetType = msgspec.UNSET


class Page(Answer, frozen=True, kw_only=True):
    """What every page of a list has: how many there are in all, and which of them these are."""

    total: int
    offset: int
    limit: int


class Ping(Answer, frozen=True, kw_only=True):
    """The routes are there."""

    pong: bool = True


class Status(Answer, frozen=True, kw_only=True):
    """A node at a glance."""

    status: Literal["ok", "read_only"]
    running: bool
    node_id: str
    peer_id: Hex
    endpoints: list[str]
    version: str
    now_ms: int
    uptime_ms: int
    peers_total: int
    peers_connected: int
    handshakes_started: int
    handshakes_completed: int
    handshakes_failed: int
    connect_attempts: int
    connect_deduped: int
    connect_failures: int
    backoff_skips: int
    tracked_endpoints: int
    records: int
    own_records: int
    digest: Hex
    writable: bool
    lag_records: int
    bytes_in: int
    bytes_out: int


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """A peer, connected or not; what only a link has is null or 0 without one."""

    id: Hex | None
    node_id: str | None
    state: State
    endpoint: str | None
    secure: bool = True
    direct: bool
    connected_ms: int | None = None
    last_seen_ms: int | None = None
    rtt_ms: float | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    outbox_bytes: int = 0
    lag_records: int = 0
    behind_records: int = 0
    ahead_records: int = 0
    configured: bool = False
    failures: int = 0
    failure: str | None = None
    next_dial_ms: int | None = None


class Peers(Page, frozen=True, kw_only=True):
    """A page of peers."""

    peers: list[Peer]


class PeerHead(msgspec.Struct, frozen=True, kw_only=True):
    """How far one origin's log is held here and there."""

    origin: Hex
    node_id: str | None
    seq: int
    shown_seq: int | None
    mark: Mark


class OnePeer(Answer, frozen=True, kw_only=True):
    """One peer in detail."""

    peer: Peer
    heads: list[PeerHead]


class LinkNode(msgspec.Struct, frozen=True, kw_only=True, rename={"is_self": "self"}):
    """Somebody in the neighbourhood."""

    id: Hex
    node_id: str | None
    is_self: bool


class Link(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Two of them, linked."""

    from_: Hex
    to: Hex
    state: State
    direct: bool
    via: Hex | None
    rtt_ms: float | None
    lag_records: int
    behind_records: int
    ahead_records: int
    bytes_in: int
    bytes_out: int


class Links(Answer, frozen=True, kw_only=True):
    """The neighbourhood."""

    nodes: list[LinkNode]
    links: list[Link]


class Connected(Answer, frozen=True, kw_only=True):
    """A dial that succeeded."""

    connected: bool = True
    endpoint: str
    peer: Peer


class Disconnected(Answer, frozen=True, kw_only=True):
    """A link that was ended."""

    disconnected: bool = True
    peer: Hex


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the routing table."""

    target: Hex
    node_id: str | None
    next_hop: Hex
    next_hop_node_id: str | None
    via_relay: bool
    ttl: int
    hops: int | None
    learnt: bool
    expires_ms: int | None


class Circuits(msgspec.Struct, frozen=True, kw_only=True):
    """Circuits through relays: those that end here, and those that this node passes on."""

    ends: int
    relayed: int
    relayed_total: int
    relayed_bytes: int
    refused_total: int
    broken_total: int
    strays: int
    refused: dict[str, int]
    broken: dict[str, int]


class Routes(Page, frozen=True, kw_only=True):
    """A page of the routing table."""

    routes: list[Route]
    circuits: Circuits


class RouteSet(Answer, frozen=True, kw_only=True):
    """A route that was set."""

    target: Hex
    next_hop: Hex


class RouteRemoved(Answer, frozen=True, kw_only=True):
    """Routes that were forgotten."""

    removed: bool = True
    target: Hex
    learnt: int
    """How many of them relays had told, who may tell them again."""


class Sent(Answer, frozen=True, kw_only=True):
    """A message that was queued."""

    sent: bool = True
    peer: Hex
    direct: bool
    endpoint: str | None


class Answered(Answer, frozen=True, kw_only=True):
    """What a peer answered: as text where it is UTF-8."""

    peer: Hex
    direct: bool
    body: str | msgspec.UnsetType = msgspec.UNSET
    body_b64: str | msgspec.UnsetType = msgspec.UNSET


class Pinged(Answer, frozen=True, kw_only=True):
    """A round trip."""

    peer: Peer
    rtt_ms: float


class HeadMark(msgspec.Struct, frozen=True, kw_only=True):
    """What one peer showed of one origin, compared with ours."""

    seq: int | None
    mark: Mark


class LogHead(msgspec.Struct, frozen=True, kw_only=True):
    """How far one origin's log is held, here and at the peers."""

    origin: Hex
    node_id: str | None
    own: bool
    seq: int
    hash: Hex
    frozen: bool
    in_step: int
    marks: dict[str, HeadMark]


class PeerLag(msgspec.Struct, frozen=True, kw_only=True):
    """How many of our own records a peer does not hold yet."""

    peer: Hex
    node_id: str | None
    records: int


class Wal(Page, frozen=True, kw_only=True):
    """The logs held here."""

    digest: Hex
    records: int
    writable: bool
    heads: list[LogHead]
    lag: list[PeerLag]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One record; the payload as text where it is UTF-8, else in base64.

    `hlc` is text, for it has 64 bits: JavaScript keeps 53 of a number.
    """

    origin: Hex
    node_id: str | None
    seq: int
    kind: str
    target: Hex | None
    hlc: Annotated[str, Meta(pattern="^[0-9]{1,20}$")]
    time: str
    payload: str | msgspec.UnsetType = msgspec.UNSET
    payload_b64: str | msgspec.UnsetType = msgspec.UNSET


class Records(Answer, frozen=True, kw_only=True):
    """A page of one origin's log."""

    origin: Hex
    head_seq: int
    from_seq: int
    next_seq: int | None
    records: list[Record]


class Appended(Answer, frozen=True, kw_only=True):
    """Records that are durable here."""

    origin: Hex
    first_seq: int
    seq: int
    count: int


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The node at one moment, for charts."""

    time_ms: int
    peers_connected: int
    records: int
    records_per_s: float
    bytes_in_per_s: float
    bytes_out_per_s: float
    lag_records: int


class History(Answer, frozen=True, kw_only=True):
    """The last moments."""

    every_ms: int
    samples: list[Sample]


class LevelSet(Answer, frozen=True, kw_only=True):
    """The log level that holds now."""

    level: LEVELS


class Stopping(Answer, frozen=True, kw_only=True):
    """The process is going to end."""

    stopping: bool = True


class HookResult(Answer, frozen=True, kw_only=True):
    """What the application's hook returned, if that was no object."""

    result: Any


class Checks(msgspec.Struct, frozen=True, kw_only=True):
    """What readiness consists of; null where there is no such thing."""

    listener: bool
    store: bool
    discovery: bool | None


class Ready(Answer, frozen=True, kw_only=True):
    """All nodes here can do their work; what was looked at, by prefix."""

    checks: dict[str, Checks]


class Site(Answer, frozen=True, kw_only=True):
    """Where the nodes of this server are."""

    prefixes: list[str]


# Requests.


class Query(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """No parameters."""


class PageQuery(Query, frozen=True, kw_only=True):
    """Which of a list."""

    offset: Offset = 0
    limit: Limit = 100


class PeersQuery(PageQuery, frozen=True, kw_only=True):
    """Which peers."""

    state: list[Shown] = []
    q: Annotated[str, Meta(max_length=256)] = ""


class RouteQuery(Query, frozen=True, kw_only=True):
    """Which target: a peer id or a node id."""

    target: Who


class WalQuery(PageQuery, frozen=True, kw_only=True):
    """Which origins, and whether all peers' marks or those that differ."""

    marks: Literal["all", "differing"] = "all"


class RecordsQuery(Query, frozen=True, kw_only=True):
    """Which records."""

    origin: Hex | None = None
    from_seq: Annotated[int, Meta(ge=1, le=INT64)] = 1
    limit: Limit = 100


class TailQuery(Query, frozen=True, kw_only=True):
    """How many of the lines that are kept."""

    tail: Annotated[int, Meta(ge=0, le=TAIL_MAX)] = TAIL_MAX


def _described(**schema: object) -> Meta:
    """What /openapi.json says beyond the type; the route looks at it, and says in its own words what is wrong."""
    return Meta(extra_json_schema=schema)


Base64 = Annotated[
    str,
    _described(contentEncoding="base64", pattern="^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"),
]
Spoken = Annotated[str, _described(minLength=1)]


class Way(NamedTuple):
    """One of the ways to say something: fields that it needs, and those that may come with it."""

    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing: `{}`, or no body at all.

    Attributes:
        ONE_OF: ways of which exactly one is taken; the fields of the others are null, or left out.
    """

    ONE_OF: ClassVar[tuple[Way, ...]] = ()


class Connect(Body, frozen=True, kw_only=True):
    """Where to connect: an endpoint, or a host and a port."""

    ONE_OF: ClassVar[tuple[Way, ...]] = (Way(("endpoint",)), Way(("host", "port"), ("scheme",)))
    host: Spoken | None = None
    port: Annotated[int, _described(minimum=1, maximum=65_535)] | None = None
    scheme: Spoken | None = None
    endpoint: Spoken | None = None
    expect: Annotated[str, _described(pattern="^[A-Za-z0-9._-]{1,64}$")] | None = None
    wait_ms: WaitMs = CONNECT_MS


class Disconnect(Body, frozen=True, kw_only=True):
    """Whom to part from: a peer id or a node id."""

    peer: Who


class SetRoute(Body, frozen=True, kw_only=True):
    """The next step towards a peer; both are named by peer id or node id."""

    target: Who
    next_hop: Who
    via_relay: bool = True
    ttl: Annotated[int, Meta(ge=1, le=8)] = 8
    expires_ms: Annotated[int, Meta(ge=1, le=INT64)] | None = None


class Send(Body, frozen=True, kw_only=True):
    """A message: exactly one of the two bodies."""

    ONE_OF: ClassVar[tuple[Way, ...]] = (Way(("body",)), Way(("body_b64",)))
    peer: Who
    channel: Annotated[str, Meta(min_length=1, max_length=256)]
    body: str | None = None
    body_b64: Base64 | None = None
    wait_ms: WaitMs = CONNECT_MS


class Ask(Send, frozen=True, kw_only=True):
    """A question: exactly one of the two bodies."""


class PingPeer(Body, frozen=True, kw_only=True):
    """How long to wait for the answer."""

    wait_ms: WaitMs = CONNECT_MS


class Append(Body, frozen=True, kw_only=True):
    """What to append: exactly one of the three."""

    ONE_OF: ClassVar[tuple[Way, ...]] = (Way(("payload",)), Way(("payload_b64",)), Way(("payloads",)))
    payload: str | None = None
    payload_b64: Base64 | None = None
    payloads: Annotated[list[str], Meta(min_length=1, max_length=APPEND_MAX)] | None = None
    kind: Annotated[str, Meta(min_length=1)] = "app"
    target: Hex | None = None


class LogLevel(Body, frozen=True, kw_only=True):
    """Which level."""

    level: LEVELS
