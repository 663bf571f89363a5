"""Circuits as a transport of the contract suite: three real nodes, A – R – B, and ports that exist only here.

A circuit has no ports and no listener: B serves what comes in. Here what comes in is handed to whoever "listens", so
that the suite can ask of a circuit what it asks of a socket. Everything else (links, relay, credit) is the real thing.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable

import trio

import p2p
from p2p.errors import AddressInUse, ConfigError, ConnectFailed, Reason
from p2p.ids import PeerEndpoint, PeerId
from p2p.limits import Limits
from p2p.node.circuits import Circuits
from p2p.transport.base import Network
from p2p.transport.circuit import CircuitStream
from tests.contract.relays import KEY, until_linked

HOST = "server"
Window = Callable[[str], Network]


class Relayed:
    """Both windows, `client` and `server`, of a network that consists of circuits over one relay.

    Args:
        limits: of all three nodes; those of circuits have to allow what the suite does.
        nursery: where the nodes run, from the first use on.
        window: makes the network window of a node by its name.
        address: where the relay listens, given its port.
    """

    def __init__(self, limits: Limits, nursery: trio.Nursery, window: Window, address: Callable[[int], str]) -> None:
        self._limits = limits
        self._nursery = nursery
        self._window = window
        self._address = address
        self._listeners: dict[int, _Listener] = {}
        self._next_port = 1000
        self._starting = trio.Lock()
        self._dialling = trio.Lock()
        self._taken: list[CircuitStream] = []
        self._ends: tuple[Circuits, str] | None = None

    async def _circuits(self) -> tuple[Circuits, str]:
        """A's circuits, and the endpoint that leads to B; the nodes are started with the first call."""
        async with self._starting:
            if self._ends is None:
                r = await self._start("r", relay=True, listen_port=0)
                at = self._address(r.endpoints[0].port)
                a, b = [await self._start(name, peers=[at], listen_port=None) for name in ("a", "b")]
                for node in (a, b):
                    await until_linked(node, r)
                    await until_linked(r, node)
                circuits_of(b).serve_with(self._take)
                self._ends = (circuits_of(a), f"relay://{r.peer_id}/{b.peer_id}")
        return self._ends

    async def _start(self, name: str, **options: object) -> p2p.Node:
        settings = {"network_key": KEY, "limits": self._limits, "network": self._window(name), **options}
        node = p2p.Node(p2p.NodeConfig(node_id=name, **settings))  # type: ignore[arg-type]  # fields, passed on
        await self._nursery.start(node.run)
        return node

    def _take(self, stream: CircuitStream, _source: PeerId) -> None:
        stream.end.take()
        self._taken.append(stream)

    async def listen(self, host: str | None, port: int) -> _Listener:
        await self._circuits()
        await trio.lowlevel.checkpoint()
        if host not in (None, HOST):
            raise ConfigError(f"cannot listen on {host!r}: circuits end here")
        if port == 0:
            self._next_port += 1
            port = self._next_port
        elif port in self._listeners:
            raise AddressInUse(errno.EADDRINUSE, f"port {port} is in use")
        listener = self._listeners[port] = _Listener(port, self._listeners)
        return listener

    async def resolve(self, endpoint: PeerEndpoint) -> tuple[PeerEndpoint, ...]:
        await trio.lowlevel.checkpoint()
        if endpoint.host != HOST:
            raise ConnectFailed(Reason.UNRESOLVED, f"no host {endpoint.host}")
        return (endpoint,)

    async def connect(self, endpoint: PeerEndpoint) -> CircuitStream:
        if endpoint.scheme != "mem":
            raise ConnectFailed(Reason.UNSUPPORTED, f"{endpoint.scheme} is not how circuits are named here")
        await self.resolve(endpoint)
        listener = self._listeners.get(endpoint.port)
        if listener is None:
            raise ConnectFailed(Reason.REFUSED, f"nothing listens at {endpoint}")
        circuits, there = await self._circuits()
        async with self._dialling:
            stream = await circuits.connect(PeerEndpoint.parse(there))
            # Dials that were cancelled may have left others: B had taken them before it heard.
            *stale, taken = self._taken
            self._taken.clear()
            for each in stale:
                each.abort()
            listener.offer(taken)
        return stream


class _Listener:
    def __init__(self, port: int, listeners: dict[int, _Listener]) -> None:
        self.endpoints = (PeerEndpoint(HOST, port, "mem"),)
        self._listeners = listeners
        self._waiting: deque[CircuitStream] = deque()
        self._changed = trio.lowlevel.ParkingLot()
        self._is_closed = False

    def offer(self, stream: CircuitStream) -> None:
        self._waiting.append(stream)
        self._changed.unpark_all()

    async def accept(self) -> CircuitStream:
        await trio.lowlevel.checkpoint()
        while not self._is_closed:
            if self._waiting:
                return self._waiting.popleft()
            await self._changed.park()
        raise trio.ClosedResourceError("this listener was closed")

    async def aclose(self) -> None:
        self._is_closed = True
        self._listeners.pop(self.endpoints[0].port, None)
        self._changed.unpark_all()
        await trio.lowlevel.checkpoint()


def circuits_of(node: p2p.Node) -> Circuits:
    """A running node's circuits."""
    rooms = node._rooms
    assert rooms is not None
    return rooms.circuits
