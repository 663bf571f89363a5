"""A network in memory: hosts by name, ports, latency, bandwidth, partitions, resets. For tests and simulations.

    net = MemoryNetwork(latency_s=0.02)
    a, b = net.network_for("a"), net.network_for("b")      # each is the `network` window of one node
    listener = await b.listen(None, 9001)
    stream = await a.connect(PeerEndpoint("b", 9001, "mem"))
    net.partition("a", "b")                                # silence, as if the cable were pulled
    net.heal("a", "b")                                     # what was sent meanwhile arrives
    net.set_weather(Weather(dice.fraction, loss=0.2))        # see memory_stream.Weather

Everything happens by trio's clock and in the order of the calls: no sockets, no threads, no randomness, no tasks of its
own. Under a MockClock that jumps, an hour of partition takes no time, and the same calls give the same trace.

What it keeps of the real thing: a dial that meets no listener is refused after one round trip; one that meets silence
runs into `dial_s_max`; buffers are bounded and a sender waits; a partition loses nothing of an open connection but
delays it, and hides resets too, so that half-open connections exist; "127.0.0.1" and "localhost" are the host itself,
and who listens there is not found from outside.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator
from typing import Final

import trio

from p2p.errors import AddressInUse, ConfigError, ConnectFailed, Reason
from p2p.ids import PeerEndpoint, is_loopback
from p2p.limits import KIB, Limits
from p2p.transport.base import Neighbourhood
from p2p.transport.memory_datagrams import MemoryDatagrams
from p2p.transport.memory_stream import Joint, MemoryStream, Way, Weather, Wire

_FIRST_FREE_PORT: Final = 49152


class MemoryNetwork:
    """All hosts, and what is between them.

    Args:
        limits: `dial_s_max` and `listen_backlog` are used.
        latency_s: one way, between different hosts, until `set_link` says otherwise. Within a host it is 0.
        buffer_bytes: per direction of a connection, what may be sent and not read.
        segment_bytes: the most that one receive returns; 1 cuts every message at every byte. None: no such bound.
    """

    __slots__ = ("_changed", "_hosts", "_latency_s", "_ways", "_weather", "buffer_bytes", "limits", "segment_bytes")

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        latency_s: float = 0.0,
        buffer_bytes: int = 64 * KIB,
        segment_bytes: int | None = None,
    ) -> None:
        if buffer_bytes < 1 or latency_s < 0 or (segment_bytes is not None and segment_bytes < 1):
            raise ConfigError(
                f"buffer_bytes {buffer_bytes} and segment_bytes {segment_bytes} must be positive,"
                f" latency_s {latency_s} not negative"
            )
        self.limits = limits or Limits()
        self.buffer_bytes = buffer_bytes
        self.segment_bytes = segment_bytes
        self._latency_s = latency_s
        self._hosts: dict[str, MemoryHost] = {}
        self._ways: dict[tuple[str, str], Way] = {}
        self._weather: Weather | None = None
        self._changed = trio.lowlevel.ParkingLot()

    def network_for(self, host: str) -> MemoryHost:
        """The window of a node that lives on this host. Several nodes may share a host, on different ports.

        Args:
            host: a name or an IP address; addresses are useful where prefixes matter.
        """
        if is_loopback(host):
            raise ConfigError(f"{host!r} is every host's name for itself; give this one another")
        if host not in self._hosts:
            PeerEndpoint(host, 0, "mem")  # refuses what cannot be written as an endpoint
            self._hosts[host] = MemoryHost(self, host)
        return self._hosts[host]

    # What is between two hosts.

    def set_link(self, a: str, b: str, *, latency_s: float | None = None, bytes_per_s: float | None = None) -> None:
        """Set one-way latency and bandwidth in both directions. None leaves the latency, and takes away a bandwidth.

        For bytes that are sent from now on; none overtakes another.
        """
        if (latency_s is not None and latency_s < 0) or (bytes_per_s is not None and bytes_per_s <= 0):
            raise ConfigError(f"latency_s {latency_s} must not be negative, bytes_per_s {bytes_per_s} positive")
        for way in (self.way(a, b), self.way(b, a)):
            if latency_s is not None:
                way.latency_s = latency_s
            way.bytes_per_s = bytes_per_s

    def set_weather(self, weather: Weather | None) -> None:
        """Let packets between different hosts be lost, doubled and late, from now on; None for fair weather."""
        self._weather = weather
        for (a, b), way in self._ways.items():
            way.weather = weather if a != b else None

    def partition(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Cut the way from a to b, and the way back unless `one_way`. What is under way does not arrive."""
        self._cut(self.way(a, b))
        if not one_way:
            self._cut(self.way(b, a))

    def heal(self, a: str, b: str) -> None:
        """Undo any partition between a and b, of either direction. What was held sets out now."""
        healed = [way for way in (self.way(a, b), self.way(b, a)) if way.cut]
        for way in healed:
            way.cut = False
        for way in (self.way(a, b), self.way(b, a)) if healed else ():
            for wire in way.wires:
                wire.resume(trio.current_time())
        self._changed.unpark_all()

    def heal_all(self) -> None:
        """Undo every partition."""
        for a, b in [pair for pair, way in self._ways.items() if way.cut]:
            self.heal(a, b)

    def reset(self, a: str, b: str) -> int:
        """Break every open connection between a and b, at both ends and at once, whatever lies between.

        Returns:
            How many ends were broken on a.
        """
        there = [stream for stream in self._host(a).streams if stream.far == b]
        back = [stream for stream in self._host(b).streams if stream.far == a]
        for stream in (*there, *back):
            stream.sever("the connection was reset")
        return len(there)

    def kill(self, host: str) -> None:
        """End the process on a host: its listeners and connections are gone; the others get resets, if any get through.

        After `partition` it is a power cut: nobody hears of it before `heal`. The host can be used again at once.
        """
        self._host(host).kill()

    def connections(self, host: str) -> int:
        """Ends of connections on this host that it did not close."""
        return len(self._host(host).streams)

    # For the hosts.

    @property
    def hosts(self) -> tuple[MemoryHost, ...]:
        """All hosts, in the order in which they came."""
        return tuple(self._hosts.values())

    def way(self, a: str, b: str) -> Way:
        """The direction from a to b.

        Raises:
            ConfigError: there is no such host.
        """
        self._host(a)
        self._host(b)
        if (a, b) not in self._ways:
            self._ways[a, b] = Way(0.0 if a == b else self._latency_s)
            self._ways[a, b].weather = self._weather if a != b else None
        return self._ways[a, b]

    def find(self, host: str) -> MemoryHost | None:
        """The host of that name."""
        return self._hosts.get(host)

    async def wait_for_change(self) -> None:
        """Until a way healed, or a listener has room again or is gone."""
        await self._changed.park()

    def changed(self) -> None:
        """Wake who waits for a change."""
        self._changed.unpark_all()

    def _cut(self, way: Way) -> None:
        way.cut = True
        for wire in way.wires:
            wire.hold(trio.current_time())

    def _host(self, host: str) -> MemoryHost:
        if host not in self._hosts:
            raise ConfigError(f"no host {host!r}: call network_for({host!r}) first")
        return self._hosts[host]


class MemoryHost:
    """The `Network` of one host. Made by `MemoryNetwork.network_for`."""

    __slots__ = ("_ears", "_listeners", "_name", "_net", "_next_port", "streams")

    def __init__(self, net: MemoryNetwork, name: str) -> None:
        self._net = net
        self._name = name
        self._listeners: dict[int, MemoryListener] = {}
        self._next_port = _FIRST_FREE_PORT
        self._ears: dict[MemoryDatagrams, None] = {}
        self.streams: dict[_HostStream, None] = {}

    @property
    def name(self) -> str:
        """The host's name."""
        return self._name

    def enter(self, nursery: trio.Nursery) -> None:
        """Nothing to do: its streams need no tasks."""

    async def listen(self, host: str | None, port: int, scheme: str | None = None) -> MemoryListener:
        await trio.lowlevel.checkpoint()
        if scheme not in {None, "mem"}:
            raise ConfigError(f"cannot listen for {scheme}:// in memory")
        if host is not None and host != self._name and not is_loopback(host):
            raise ConfigError(f"cannot listen on {host!r}: this host is {self._name!r}")
        if port == 0:
            port = self._free_port()
        elif port in self._listeners:
            raise AddressInUse(errno.EADDRINUSE, f"port {port} on {self._name} is in use")
        listener = MemoryListener(self, PeerEndpoint(host or self._name, port, "mem"), self._net.limits.listen_backlog)
        self._listeners[port] = listener
        return listener

    async def resolve(self, endpoint: PeerEndpoint) -> tuple[PeerEndpoint, ...]:
        await trio.lowlevel.checkpoint()
        self._target(endpoint)
        return (endpoint,)

    async def connect(self, endpoint: PeerEndpoint) -> MemoryStream:
        await trio.lowlevel.checkpoint()
        if endpoint.scheme != "mem":
            raise ConnectFailed(Reason.UNSUPPORTED, f"{endpoint.scheme}:// is not in memory")
        target = self._target(endpoint)
        with trio.move_on_after(self._net.limits.dial_s_max):
            return await self._dial(target, endpoint)
        raise ConnectFailed(Reason.TIMEOUT, f"{endpoint} did not answer within {self._net.limits.dial_s_max:g} s")

    async def _dial(self, target: MemoryHost, endpoint: PeerEndpoint) -> MemoryStream:
        there = self._net.way(self._name, target.name)
        back = self._net.way(target.name, self._name)

        def silent() -> bool:
            return there.cut or back.cut

        while True:
            while silent():
                await self._net.wait_for_change()
            await trio.sleep(there.latency_s)
            if silent():
                continue
            listener = target.listener(endpoint)
            if listener is not None and not listener.has_room:
                await self._net.wait_for_change()
                continue
            if listener is None:
                await trio.sleep(back.latency_s)
                raise ConnectFailed(Reason.REFUSED, f"nothing listens at {endpoint}")
            stream = self._join(target, endpoint, listener)
            try:
                await trio.sleep(back.latency_s)
            except BaseException:
                stream.abort()
                raise
            return stream

    def _join(self, target: MemoryHost, endpoint: PeerEndpoint, listener: MemoryListener) -> MemoryStream:
        net = self._net
        there, back = net.way(self._name, target.name), net.way(target.name, self._name)
        joint = Joint()
        outward, inward = Wire(there, back, net.buffer_bytes, joint), Wire(back, there, net.buffer_bytes, joint)
        caller = PeerEndpoint(endpoint.host if is_loopback(endpoint.host) else self._name, self._free_port(), "mem")
        called = PeerEndpoint(endpoint.host, endpoint.port, "mem")
        listener.offer(_HostStream(target, self._name, joint, outward, inward, caller, net.segment_bytes))
        return _HostStream(self, target.name, joint, inward, outward, called, net.segment_bytes)

    async def datagrams(self, near: Neighbourhood) -> MemoryDatagrams:
        await trio.lowlevel.checkpoint()
        ear = MemoryDatagrams(self, near)
        self._ears[ear] = None
        return ear

    def ears_in_reach(self, near: Neighbourhood) -> Iterator[tuple[MemoryDatagrams, float]]:
        """Who hears what this host says, and how long it takes to get there; once per copy that arrives."""
        for host in (self,) if near.loopback_only else self._net.hosts:
            way = self._net.way(self._name, host.name)
            for ear in () if way.cut else host.ears:
                from_outside = host is not self and ear.near.loopback_only
                if (ear.near.port, ear.near.group) == (near.port, near.group) and not from_outside:
                    for late_s in way.weather.copies() if way.weather is not None else (0.0,):
                        yield ear, way.latency_s + late_s

    @property
    def ears(self) -> tuple[MemoryDatagrams, ...]:
        """The datagram ports that are open here."""
        return tuple(self._ears)

    def forget_ear(self, ear: MemoryDatagrams) -> None:
        """The ear closed."""
        self._ears.pop(ear, None)

    def kill(self) -> None:
        """See `MemoryNetwork.kill`."""
        for ear in self.ears:
            ear.close()
        for listener in list(self._listeners.values()):
            listener.close()
        for stream in list(self.streams):
            stream.die()
            del self.streams[stream]

    def listener(self, endpoint: PeerEndpoint) -> MemoryListener | None:
        """Who listens where the endpoint points, if it may be reached by the name that was used."""
        listener = self._listeners.get(endpoint.port)
        if listener is not None and is_loopback(listener.endpoints[0].host) and not is_loopback(endpoint.host):
            return None
        return listener

    def forget(self, listener: MemoryListener) -> None:
        """The listener closed."""
        for endpoint in listener.endpoints:
            if self._listeners.get(endpoint.port) is listener:
                del self._listeners[endpoint.port]
        self._net.changed()

    def has_room_again(self) -> None:
        """A listener's backlog is shorter."""
        self._net.changed()

    def _target(self, endpoint: PeerEndpoint) -> MemoryHost:
        target = self if is_loopback(endpoint.host) else self._net.find(endpoint.host)
        if target is None:
            raise ConnectFailed(Reason.UNRESOLVED, f"no host {endpoint.host!r}")
        return target

    def _free_port(self) -> int:
        for _ in range(65536 - _FIRST_FREE_PORT):
            port = self._next_port
            self._next_port = port + 1 if port < 65535 else _FIRST_FREE_PORT
            if port not in self._listeners:
                return port
        raise AddressInUse(errno.EADDRINUSE, f"no free port on {self._name}")


class _HostStream(MemoryStream):
    """A stream that its host knows of, so that the host's end is the stream's too.

    Attributes:
        far: the name of the other end's host.
    """

    __slots__ = ("_host", "far")

    def __init__(
        self,
        host: MemoryHost,
        far: str,
        joint: Joint,
        inward: Wire,
        outward: Wire,
        remote: PeerEndpoint,
        segment_bytes: int | None,
    ) -> None:
        super().__init__(joint, inward, outward, remote, segment_bytes)
        self.far = far
        self._host = host
        host.streams[self] = None

    def _close(self) -> None:
        super()._close()
        self._host.streams.pop(self, None)


class MemoryListener:
    """A port of a host. Made by `MemoryHost.listen`."""

    __slots__ = ("_backlog", "_backlog_max", "_closed", "_endpoint", "_host", "_waiting")

    def __init__(self, host: MemoryHost, endpoint: PeerEndpoint, backlog_max: int) -> None:
        self._host = host
        self._endpoint = endpoint
        self._backlog: deque[MemoryStream] = deque()
        self._backlog_max = backlog_max
        self._waiting = trio.lowlevel.ParkingLot()
        self._closed = False

    @property
    def endpoints(self) -> tuple[PeerEndpoint, ...]:
        return (self._endpoint,)

    @property
    def has_room(self) -> bool:
        """Whether another connection may wait to be accepted."""
        return len(self._backlog) < self._backlog_max

    def offer(self, stream: MemoryStream) -> None:
        """Let a new connection wait to be accepted."""
        assert self.has_room
        self._backlog.append(stream)
        self._waiting.unpark_all()

    async def accept(self) -> MemoryStream:
        await trio.lowlevel.checkpoint()
        while not self._closed:
            if self._backlog:
                stream = self._backlog.popleft()
                self._host.has_room_again()
                return stream
            await self._waiting.park()
        raise trio.ClosedResourceError("this listener was closed")

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close the door; who waited to be accepted is reset."""
        if not self._closed:
            self._closed = True
            self._host.forget(self)
            for stream in self._backlog:
                stream.abort()
            self._backlog.clear()
            self._waiting.unpark_all()
