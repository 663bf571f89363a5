"""A node on a host of a test's LAN: run by `lan.py`. Prints who is connected, one JSON list a line, at each change."""

from __future__ import annotations

import json
import sys
from typing import Any

import trio

import p2p


def show(node: p2p.Node) -> None:
    hosts = sorted(peer.endpoint.host for peer in node.peers() if peer.endpoint is not None)
    sys.stdout.write(json.dumps(hosts) + "\n")
    sys.stdout.flush()


async def main(settings: dict[str, Any]) -> None:
    discovery = p2p.DiscoveryConfig(**settings.pop("discovery", {}))
    if "network_key" in settings:
        settings["network_key"] = settings["network_key"].encode()
    async with p2p.open_node(discovery=discovery, **settings) as node, node.events() as events:
        show(node)
        async for event in events:
            if isinstance(event, (p2p.events.PeerConnected, p2p.events.PeerLeft)):
                show(node)


OUTER_S = 150
"""Ten seconds are what is promised; the rest is for a machine with other things to do. A node that did not get there
ends, and the test with it."""


async def run(settings: dict[str, Any]) -> None:
    with trio.move_on_after(OUTER_S):
        await main(settings)

