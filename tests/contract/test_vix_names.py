"""docs/vix.md: every line of code that stands beside a Vix name runs, and every name of the list is there."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from quart_trio import QuartTrio

import http_control
import p2p
from p2p import envelope, framing, msg, pack

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "vix.md").read_text(encoding="utf-8")
NOT_YET: set[str] = set()
NAMES = {
    "NodeConfig", "make_tcp_node", "Node::start", "Node::wait", "Node::stop", "Node::stats", "P2PRuntime",
    "P2PRuntime::start", "P2PRuntime::connect", "P2PRuntime::stats", "P2PRuntime::stop", "PeerEndpoint", "peers_total",
    "peers_connected", "handshakes_started", "handshakes_completed", "connect_attempts", "connect_failures",
    "backoff_skips", "DiscoveryAnnounce::to_json", "DiscoveryAnnounce::from_json", "MemoryRouter", "upsert_route",
    "resolve", "remove_route", "Route", "Envelope::encode", "Envelope::decode_or_throw", "to_string", "has_flag",
    "LengthPrefixVarint::encode", "LengthPrefixVarint::decode", "Frame", "FrameDecodeResult",
    "decode_payload_or_throw", "AnyMessage", "Hello", "HelloAck", "HelloFinish", "Ping", "Pong", "WalPush", "WalAck",
    "OutboxPull", "make_envelope", "make_envelope_secure", "make_aad", "NullCrypto", "aead_decrypt",
    "DiscoveryConfig", "make_udp_discovery", "UdpDiscovery::start", "UdpDiscovery::snapshot", "UdpDiscovery::stop",
    "DiscoveryAnnouncement", "BootstrapConfig", "make_http_bootstrap",
    "P2PHttpOptions", "registerRoutes", "set_live_log_sink", "shutdown_live_logs",
}  # fmt: skip


def rows() -> Iterator[tuple[str, list[str]]]:
    """Vix's name of each row, and its other cells."""
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| `") and len(cells) >= 2:
            name = re.match(r"\| ?`([\w:]+)", line)
            assert name is not None, line
            yield name[1], cells[1:]


LINES = [
    pytest.param(code[0], id=name)
    for name, cells in rows()
    if len(cells) == 2 and (code := re.findall(r"^`(.+)`$", cells[1].rstrip(" |")))
]


def test_every_name_of_the_list_has_a_line_that_runs() -> None:
    assert {param.id for param in LINES} == NAMES


def test_what_is_not_yet_is_said_to_be_so_and_is_not_there() -> None:
    said = {name for name, cells in rows() if cells[-1].rstrip(" |") == "not yet"}
    assert said == NOT_YET
    assert [name for name in NOT_YET if hasattr(p2p, name)] == []


@pytest.mark.parametrize("code", LINES)
async def test_the_line_runs(code: str) -> None:
    compiled = compile(code, "docs/vix.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    async with (
        p2p.open_node(node_id="node") as node,
        p2p.open_node(node_id="other") as other,
    ):
        await node.connect(other.endpoints[0])
        names: dict[str, Any] = {
            "p2p": p2p, "trio": trio, "framing": framing, "msg": msg, "pack": pack, "envelope": envelope,
            "node": node, "other": other, "config": p2p.NodeConfig(node_id="c"),
            "http_control": http_control, "app": QuartTrio("app"),
        }  # fmt: skip
        with trio.fail_after(60):
            result = eval(compiled, names)
            if inspect.iscoroutine(result):
                await result
