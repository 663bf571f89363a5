"""The routing table of a node keeps nothing that is too old, whether or not anybody asks for it."""

from __future__ import annotations

import trio
import trio.testing

import p2p
from p2p.limits import Limits
from p2p.transport.memory import MemoryNetwork


async def test_routes_whose_time_is_over_are_dropped_unasked(autojump_clock: trio.testing.MockClock) -> None:
    network = MemoryNetwork(Limits())
    relay, target = p2p.PeerId(bytes([1]) * 32), p2p.PeerId(bytes([2]) * 32)
    async with p2p.open_node(
        node_id="a", network_key=bytes(32), network=network.network_for("10.0.0.1"), relay=True
    ) as node:
        node.routes.upsert_route(target, p2p.Route(relay, via_relay=True), expires_s=5)
        assert node.routes.resolve(target) is not None
        await trio.sleep(6 + Limits().routes_told_every_s)
        assert node._rooms is not None
        # As it is kept, and not as it is told now.
        assert node._rooms.paths.router.routes() == []
