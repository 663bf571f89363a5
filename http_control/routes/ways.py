"""Ways to peers: the routing table, and what goes over it. A message, a question, a ping."""

from __future__ import annotations

import math
from collections.abc import Awaitable
from typing import Final, TypeVar

import trio
from msgspec.structs import asdict

from http_control import shapes
from http_control.operation import Call, Operation
from http_control.payload import bytes_of, shown
from http_control.problem import Problem
from http_control.routes.who import identity
from http_control.views import labelled
from p2p import ConfigError, NotConnected, PayloadTooLarge, Peer, RequestFailed, Route, UnknownPeer

T = TypeVar("T")


async def routes(call: Call) -> shapes.Routes:
    """Show the routing table."""
    query: shapes.PageQuery = call.query
    known, now = call.node.routes.list(), call.node.config.clock.monotonic()
    labels = {peer.peer_id: peer.node_id for peer in call.node.peers()}
    page = [
        shapes.Route(
            target=str(one.target),
            node_id=labels.get(one.target),
            next_hop=str(one.route.next_hop),
            next_hop_node_id=labels.get(one.route.next_hop),
            via_relay=one.route.via_relay,
            ttl=one.route.ttl,
            hops=one.hops,
            learnt=one.is_learnt,
            expires_ms=None if math.isinf(one.until) else max(0, round((one.until - now) * 1000)),
        )
        for one in known[query.offset : query.offset + query.limit]
    ]
    stats = call.node.circuits
    by_reason = {"refused": labelled(stats.refused), "broken": labelled(stats.broken)}
    circuits = shapes.Circuits(**asdict(stats) | by_reason)
    return shapes.Routes(total=len(known), offset=query.offset, limit=query.limit, routes=page, circuits=circuits)


async def set_route(call: Call) -> shapes.RouteSet:
    """Set the route to a peer."""
    body: shapes.SetRoute = call.body
    target, next_hop = identity(call, body.target), identity(call, body.next_hop)
    more = {} if body.expires_ms is None else {"expires_s": body.expires_ms / 1000}
    try:
        call.node.routes.upsert_route(target, Route(next_hop, body.via_relay, body.ttl), **more)
    except ConfigError as error:
        raise Problem(400, "invalid_argument", str(error)) from None
    return shapes.RouteSet(target=str(target), next_hop=str(next_hop))


async def remove_route(call: Call) -> shapes.RouteRemoved:
    """Forget the routes to a peer."""
    target = identity(call, call.query.target)
    learnt = sum(known.is_learnt for known in call.node.routes.list() if known.target == target)
    if not call.node.routes.remove_route(target):
        raise Problem(404, "unknown_route", f"there is no route to {target}", hint="see GET routes")
    return shapes.RouteRemoved(target=str(target), learnt=learnt)


async def send(call: Call) -> shapes.Sent:
    """Queue a message for a peer's channel."""
    body: shapes.Send = call.body
    data = bytes_of(body.body, body.body_b64, "body")
    before = _peer(call, body.peer)
    await _within(call.node.send(body.peer, body.channel, data), body.peer, body.wait_ms)
    peer_id, direct, place = _way(call, body.peer, before)
    return shapes.Sent(peer=peer_id, direct=direct, endpoint=place)


async def request(call: Call) -> shapes.Answered:
    """Ask a peer, and wait for its answer."""
    body: shapes.Ask = call.body
    question = bytes_of(body.body, body.body_b64, "body")
    before = _peer(call, body.peer)
    # Finding a way there is among that, too.
    asked = call.node.request(body.peer, body.channel, question, timeout_s=body.wait_ms / 1000)
    answer = await _within(asked, body.peer, body.wait_ms)
    peer_id, direct, _ = _way(call, body.peer, before)
    text, encoded = shown(answer)
    return shapes.Answered(peer=peer_id, direct=direct, body=text, body_b64=encoded)


async def ping(call: Call) -> shapes.Pinged:
    """Measure the round trip to a peer."""
    who = call.path["who"]
    reply = await _within(call.node.ping(who), who, call.body.wait_ms)
    return shapes.Pinged(peer=call.control.view().peer(reply.peer), rtt_ms=reply.rtt_s * 1000)


def _peer(call: Call, who: str) -> Peer | None:
    try:
        return call.node.get_peer(who)
    except (UnknownPeer, NotConnected):
        return None


def _way(call: Call, who: str, before: Peer | None) -> tuple[str, bool, str | None]:
    """Who it was, whether directly, and where: also when that link has ended, for what was asked for is done."""
    peer = _peer(call, who) or before
    if peer is None:
        # It was reached by route, which no direct link is.
        return str(identity(call, who)), False, None
    return str(peer.peer_id), peer.direct, None if peer.endpoint is None else str(peer.endpoint)


async def _within(work: Awaitable[T], who: str, wait_ms: int) -> T:
    try:
        with trio.fail_after(wait_ms / 1000):
            return await work
    except RequestFailed as error:
        raise Problem(502, "request_failed", str(error), request_status=error.status) from None
    except trio.TooSlowError:
        raise Problem(504, "timeout", f"nothing came of it within {wait_ms} ms") from None
    except UnknownPeer as error:
        raise Problem(404, "unknown_peer", str(error), hint="name it by its peer id, or see GET peers") from None
    except NotConnected as error:
        raise Problem(502, "not_connected", str(error)) from None
    except PayloadTooLarge as error:
        raise Problem(413, "payload_too_large", str(error)) from None
    except ConfigError as error:
        raise Problem(400, "invalid_argument", str(error)) from None


OPERATIONS: Final = (
    Operation("GET", "/routes", "The routing table", routes, shapes.Routes, query=shapes.PageQuery),
    Operation(
        "PUT",
        "/routes",
        "Set the route to a peer",
        set_route,
        shapes.RouteSet,
        errors=(404,),
        body=shapes.SetRoute,
    ),
    Operation(
        "DELETE",
        "/routes",
        "Forget the routes to a peer",
        remove_route,
        shapes.RouteRemoved,
        errors=(404,),
        query=shapes.RouteQuery,
    ),
    Operation(
        "POST",
        "/send",
        "Queue a message for a peer's channel",
        send,
        shapes.Sent,
        status=202,
        errors=(404, 502, 504),
        body=shapes.Send,
    ),
    Operation(
        "POST",
        "/request",
        "Ask a peer, and wait for its answer",
        request,
        shapes.Answered,
        errors=(404, 502, 504),
        body=shapes.Ask,
    ),
    Operation(
        "POST",
        "/peers/{who}/ping",
        "Measure the round trip to a peer",
        ping,
        shapes.Pinged,
        errors=(404, 502, 504),
        body=shapes.PingPeer,
    ),
)
