"""Peers: who is there, and asking for a link or ending one."""

from __future__ import annotations

from typing import Final

import trio

from http_control import shapes
from http_control.operation import Call, Operation
from http_control.problem import Problem
from http_control.routes.who import connected, unknown
from http_control.serving import Serving
from http_control.views import View
from p2p import ConfigError, ConnectFailed, DialRule, NotConnected, Peer, PeerEndpoint, UnknownPeer

ENDPOINT_HINT: Final = 'write {"host": "127.0.0.1", "port": 9002} or {"endpoint": "tcp://127.0.0.1:9002"}'


async def peers(call: Call) -> shapes.Peers:
    """List peers."""
    query: shapes.PeersQuery = call.query
    wanted = query.q.lower()
    view = call.control.view()
    found = [
        peer
        for peer in view.peers() + view.away()
        if (not query.state or peer.state in query.state)
        and (not wanted or any(wanted in (text or "").lower() for text in (peer.id, peer.node_id, peer.endpoint)))
    ]
    page = found[query.offset : query.offset + query.limit]
    return shapes.Peers(total=len(found), offset=query.offset, limit=query.limit, peers=page)


async def one_peer(call: Call) -> shapes.OnePeer:
    """Show one peer."""
    view = call.control.view()
    peer = connected(call, call.path["who"])
    return shapes.OnePeer(peer=view.peer(peer), heads=view.heads_at(peer.peer_id))


async def links(call: Call) -> shapes.Links:
    """Show the neighbourhood."""
    nodes, edges = call.control.view().links()
    return shapes.Links(nodes=nodes, links=edges)


async def connect(call: Call) -> shapes.Connected:
    """Dial once, and say what came of it."""
    body: shapes.Connect = call.body
    endpoint = _endpoint(body)
    before = {known.peer_id: known for known in call.node.peers()}
    for known in before.values():
        if _is_meant(known, endpoint):
            raise _already(call.control.view(), known)
    peer: Peer | None = None
    with trio.move_on_after(body.wait_ms / 1000):
        try:
            peer = await call.node.connect(endpoint, rule=_rule(call))
        except ConnectFailed as failure:
            raise Problem(
                502,
                "connect_failed",
                f"no session with {endpoint}: {failure.reason.label}",
                reason=failure.reason.label,
                endpoint=str(endpoint),
            ) from None
        except ConfigError as error:
            raise Problem(400, "invalid_endpoint", str(error), hint=ENDPOINT_HINT) from None
    if peer is None:
        raise Problem(
            504,
            "timeout",
            f"nothing was decided about {endpoint} within {body.wait_ms} ms; the attempt was given up",
            endpoint=str(endpoint),
        )
    view = call.control.view()
    if peer.peer_id in before:
        raise _already(view, peer)
    return shapes.Connected(endpoint=str(endpoint), peer=view.peer(peer))


def _is_meant(known: Peer, endpoint: PeerEndpoint) -> bool:
    """Whether a link leads to whom a dial would. A node id alone finds nobody: anybody may use it."""
    if endpoint.expect == str(known.peer_id):
        return True
    is_there = known.endpoint is not None and known.endpoint.address == endpoint.address
    return is_there and endpoint.expect in {None, known.node_id}


def _rule(call: Call) -> DialRule:
    """Where the dial of a caller may lead: not to places for ourselves, nor to doors like that it came by (T49)."""
    server = call.request.scope.get("server")
    options = call.control.options
    own = Serving.of(call.node).ports | ({server[1]} if server and server[1] else set())
    return DialRule(private=options.dial_private, loopback=options.dial_loopback, ports_denied=own)


def _already(view: View, peer: Peer) -> Problem:
    return Problem(409, "already_connected", f"{peer.node_id or peer.peer_id} is connected", peer=view.peer(peer))


def _endpoint(body: shapes.Connect) -> PeerEndpoint:
    try:
        if body.endpoint is not None:
            if body.host is not None or body.port is not None or body.scheme is not None:
                raise ConfigError("an endpoint says host, port and scheme itself")
            endpoint = PeerEndpoint.parse(body.endpoint)
            if body.expect is not None:
                endpoint = PeerEndpoint(endpoint.host, endpoint.port, endpoint.scheme, body.expect)
        else:
            if not body.host:
                raise ConfigError("host is missing")
            if body.port is None:
                raise ConfigError("port is missing")
            endpoint = PeerEndpoint(body.host, body.port, body.scheme or "tcp", body.expect)
        if not endpoint.is_dialable:
            raise ConfigError("port 0 cannot be dialled")
    except ConfigError as error:
        raise Problem(400, "invalid_endpoint", str(error), hint=ENDPOINT_HINT) from None
    return endpoint


async def disconnect(call: Call) -> shapes.Disconnected:
    """Say Goodbye to a peer."""
    peer = connected(call, call.body.peer)
    try:
        await call.node.disconnect(peer)
    except (UnknownPeer, NotConnected):
        raise unknown(call.body.peer) from None
    return shapes.Disconnected(peer=str(peer.peer_id))


OPERATIONS: Final = (
    Operation("GET", "/peers", "Peers, the connected ones first", peers, shapes.Peers, query=shapes.PeersQuery),
    Operation("GET", "/peers/{who}", "One peer, with heads", one_peer, shapes.OnePeer, errors=(404,)),
    Operation("GET", "/links", "The neighbourhood", links, shapes.Links),
    Operation(
        "POST",
        "/connect",
        "Dial once and say what came of it",
        connect,
        shapes.Connected,
        errors=(409, 502, 504),
        body=shapes.Connect,
    ),
    Operation(
        "POST",
        "/disconnect",
        "End the link to a peer",
        disconnect,
        shapes.Disconnected,
        errors=(404,),
        body=shapes.Disconnect,
    ),
)
