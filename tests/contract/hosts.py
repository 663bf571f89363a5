"""Hosts on a network in memory, each with one identity and one log that outlive its nodes."""

from __future__ import annotations

import dataclasses

import p2p
from p2p.crypto.identity import Identity
from p2p.store.memory import MemoryStore
from p2p.testing.dice import Dice
from p2p.transport.memory import MemoryNetwork
from p2p.windows import InlineBlocking, SimulatedClock

PORT = 9000


class Host:
    """A host whose identity and log outlive its nodes."""

    def __init__(self, net: MemoryNetwork, number: int, **options: object) -> None:
        self.address = f"10.0.{number // 250}.{number % 250 + 1}"
        self.window = net.network_for(self.address)
        self.dice = Dice(self.address)
        self.identity = Identity.generate(self.dice.entropy)
        self.store = MemoryStore(self.identity.peer_id)
        self.node_id = f"n{number}"
        self.options = options

    @property
    def endpoint(self) -> p2p.PeerEndpoint:
        return p2p.PeerEndpoint(self.address, PORT, "mem")

    @property
    def announcement(self) -> p2p.DiscoveryAnnouncement:
        return p2p.DiscoveryAnnouncement(self.node_id, self.address, PORT, self.identity.peer_id, "mem")

    def node(self, **options: object) -> p2p.Node:
        config = p2p.NodeConfig(
            node_id=self.node_id,
            listen_port=PORT,
            open=True,
            store=lambda _say: (self.store, self.identity),
            network=self.window,
            clock=SimulatedClock(),
            entropy=self.dice.entropy,
            blocking=InlineBlocking(),
        )
        return p2p.Node(dataclasses.replace(config, **self.options, **options))  # type: ignore[arg-type]
