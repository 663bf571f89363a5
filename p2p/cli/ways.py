"""`p2p send`, `request`, `ping`, `routes`: what goes over a running node's links and routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from p2p.cli.client import ControlFailed
from p2p.cli.output import PAYLOAD_BYTES_MAX, json_line
from p2p.cli.settings import UsageError
from p2p.text import one_line

if TYPE_CHECKING:
    from p2p.cli.client import Control
    from p2p.cli.output import Output

ROUTES_PER_PAGE: Final = 1000


async def send(
    control: Control, output: Output, *, as_json: bool, who: str, channel: str, text: str, wait_ms: int
) -> int:
    """Have the node queue a message."""
    answer = await _post_text(control, "/send", who, channel, text, wait_ms)
    await output.show(json_line(answer) if as_json else one_line(f"sent to {answer['peer'][:8]}, {_way(answer)}"))
    return 0


async def request(
    control: Control, output: Output, *, as_json: bool, who: str, channel: str, text: str, wait_ms: int
) -> int:
    """Have the node ask a peer."""
    answer = await _post_text(control, "/request", who, channel, text, wait_ms)
    said = answer["body"] if "body" in answer else f"base64:{answer['body_b64']}"
    await output.show(json_line(answer) if as_json else one_line(said, PAYLOAD_BYTES_MAX))
    return 0


async def _post_text(control: Control, path: str, who: str, channel: str, text: str, wait_ms: int) -> dict[str, Any]:
    body = {"peer": who, "channel": channel, "body": text, "wait_ms": wait_ms}
    try:
        return await control.post(path, body, wait_ms=wait_ms)
    except ControlFailed as failure:
        bytes_max = failure.answer.get("bytes_max")
        if bytes_max is None:
            raise
        raise UsageError(
            f"TEXT has {len(text.encode())} bytes: one command takes {bytes_max}, counted as JSON with its other "
            "arguments; what is longer is sent from Python or appended to the log"
        ) from None


async def ping(control: Control, output: Output, *, as_json: bool, who: str, wait_ms: int) -> int:
    """Have the node measure the round trip to a peer."""
    answer = await control.post(f"/peers/{quote(who, safe='')}/ping", {"wait_ms": wait_ms}, wait_ms=wait_ms)
    peer = answer["peer"]
    text = f"{peer['node_id'] or '?'} ({peer['id'][:8]}) answered in {answer['rtt_ms']:.1f} ms, {_way(peer)}"
    await output.show(json_line(answer) if as_json else one_line(text))
    return 0


def _way(answer: dict[str, Any]) -> str:
    way = "directly" if answer["direct"] else "through a relay"
    return f"{way}: {answer['endpoint']}" if answer["endpoint"] else way


async def list_routes(control: Control, output: Output, *, as_json: bool) -> int:
    """The node's routing table, a route a line, and at last its circuits."""
    offset = 0
    while True:
        page = await control.get(f"/routes?limit={ROUTES_PER_PAGE}&offset={offset}")
        for route in page["routes"]:
            await output.show(json_line(route) if as_json else one_line(_route(route)))
        offset += len(page["routes"])
        if not page["routes"] or offset >= page["total"]:
            break
    circuits = page["circuits"]
    await output.show(
        json_line({"circuits": circuits}) if as_json else one_line(f"circuits: {circuits_text(circuits)}")
    )
    return 0


def circuits_text(circuits: dict[str, Any]) -> str:
    """Circuits of a node: those that end there, those that it passes on, and what it refused or ended, and why."""
    now = f"{circuits['ends']} end here, {circuits['relayed']} passed on"
    ever = f"{circuits['relayed_total']} since the start, with {circuits['relayed_bytes']} bytes"
    told = (f"{circuits[f'{what}_total']} {word}{_reasons(circuits[what])}" for what, word in _ENDS.items())
    return f"{now} ({ever}); {', '.join(told)}"


_ENDS: Final = {"refused": "refused", "broken": "ended by a limit or a fault"}


def _reasons(counts: dict[str, int]) -> str:
    """(full 2, no_route 1), the most frequent first."""
    most = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return f" ({', '.join(f'{reason} {count}' for reason, count in most)})" if most else ""


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
    await output.show(json_line(answer) if as_json else f"{answer['target']} is reached over {answer['next_hop']}")
    return 0


async def remove_route(control: Control, output: Output, *, as_json: bool, target: str) -> int:
    """Forget the routes to a peer."""
    answer = await control.delete(f"/routes?target={quote(target, safe='')}")
    again = ", until relays that lead there tell so again" if answer.get("learnt") else ""
    await output.show(json_line(answer) if as_json else f"no route to {answer['target']} any more{again}")
    return 0
