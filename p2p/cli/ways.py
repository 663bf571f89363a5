"""`p2p send`, `request`, `ping`, `routes`: what goes over a running node's links and routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from p2p.cli.output import json_line
from p2p.text import one_line

if TYPE_CHECKING:
    from p2p.cli.client import Control
    from p2p.cli.output import Output

ROUTES_PER_PAGE: Final = 1000


async def send(
    control: Control, output: Output, *, as_json: bool, who: str, channel: str, text: str, wait_ms: int
) -> int:
    """Have the node queue a message."""
    body = {"peer": who, "channel": channel, "body": text, "wait_ms": wait_ms}
    answer = await control.post("/send", body, wait_ms=wait_ms)
    output.result(json_line(answer) if as_json else one_line(f"sent to {answer['peer'][:8]}, {_way(answer)}"))
    return 0


async def request(
    control: Control, output: Output, *, as_json: bool, who: str, channel: str, text: str, wait_ms: int
) -> int:
    """Have the node ask a peer."""
    body = {"peer": who, "channel": channel, "body": text, "wait_ms": wait_ms}
    answer = await control.post("/request", body, wait_ms=wait_ms)
    said = answer["body"] if "body" in answer else f"base64:{answer['body_b64']}"
    output.result(json_line(answer) if as_json else one_line(said))
    return 0


async def ping(control: Control, output: Output, *, as_json: bool, who: str, wait_ms: int) -> int:
    """Have the node measure the round trip to a peer."""
    answer = await control.post(f"/peers/{quote(who, safe='')}/ping", {"wait_ms": wait_ms}, wait_ms=wait_ms)
    peer = answer["peer"]
    text = f"{peer['node_id'] or '?'} ({peer['id'][:8]}) answered in {answer['rtt_ms']:.1f} ms, {_way(peer)}"
    output.result(json_line(answer) if as_json else one_line(text))
    return 0


def _way(answer: dict[str, Any]) -> str:
    way = "directly" if answer["direct"] else "through a relay"
    return f"{way}: {answer['endpoint']}" if answer["endpoint"] else way


async def list_routes(control: Control, output: Output, *, as_json: bool) -> int:
    """The node's routing table, a route a line."""
    offset = 0
    while True:
        page = await control.get(f"/routes?limit={ROUTES_PER_PAGE}&offset={offset}")
        for route in page["routes"]:
            output.result(json_line(route) if as_json else one_line(_route(route)))
        offset += len(page["routes"])
        if not page["routes"] or offset >= page["total"]:
            return 0


def _route(route: dict[str, Any]) -> str:
    target = f"{route['target']}  {route['node_id'] or '?':<12}"
    over = f"over {route['next_hop_node_id'] or '?'} ({route['next_hop'][:8]})" if route["via_relay"] else "neighbour"
    origin = f"told, {route['hops']} hops" if route["learnt"] else f"set, ttl {route['ttl']}"
    until = "" if route["expires_ms"] is None else f", {route['expires_ms'] / 1000:.0f} s more"
    return f"{target}  {over}  {origin}{until}"


async def add_route(
    control: Control, output: Output, *, as_json: bool, target: str, relay: str, ttl: int, expires_ms: int | None
) -> int:
    """Set a route over a relay."""
    body = {"target": target, "next_hop": relay, "via_relay": True, "ttl": ttl, "expires_ms": expires_ms}
    answer = await control.put("/routes", body)
    output.result(json_line(answer) if as_json else f"{answer['target']} is reached over {answer['next_hop']}")
    return 0


async def remove_route(control: Control, output: Output, *, as_json: bool, target: str) -> int:
    """Forget the routes to a peer."""
    answer = await control.delete(f"/routes?target={quote(target, safe='')}")
    again = ", until relays that lead there tell so again" if answer.get("learnt") else ""
    output.result(json_line(answer) if as_json else f"no route to {answer['target']} any more{again}")
    return 0
