"""Switches joined by links that move one message when told to: a network of relays without streams or time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count

from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.msg import Relay
from p2p.policy.routes import Route
from p2p.relay.end import CircuitEnd
from p2p.relay.leg import Lane
from p2p.relay.switch import Answer, DeadEnd, Incoming, Moving, Switch


def peer(name: str) -> PeerId:
    return PeerId(name.encode().ljust(32, b"."))


class Network:
    """Named switches, links between them, and routes by hand.

    Attributes:
        routes: (where, target) → next hop.
        route_ttl: of all routes.
        dead_ends: by name, the routes that led nowhere.
        incoming: by name, the circuits that came in and were taken.
        takes: whether circuits that come in are taken at once.
        meddle: called with (from, to, message); what it returns is delivered instead.
        wake: called when a lane has something to say where there was nothing.
    """

    def __init__(self, names: str, *, relays: str = "", limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.now = 0.0
        self.relays = relays
        self.routes: dict[tuple[str, str], str] = {}
        self.incoming: dict[str, list[CircuitEnd]] = {name: [] for name in names}
        self.route_ttl = 8
        self.dead_ends: dict[str, list[DeadEnd]] = {name: [] for name in names}
        self.moving: list[CircuitEnd] = []
        self.takes = True
        self.meddle: Callable[[str, str, Relay], list[Relay]] = lambda _from, _to, message: [message]
        self.wake: Callable[[], None] = lambda: None
        self.switches = {
            name: Switch(peer(name), self.limits, relays=name in relays, next_hop=partial(self._next_hop, name))
            for name in names
        }
        self._keys: dict[tuple[str, str], int] = {}
        self._next_key = count()
        self.lanes: dict[tuple[str, str], Lane] = {}
        self._answers: dict[tuple[str, str], deque[Relay]] = {}

    def _next_hop(self, here: str, target: PeerId, _asking: PeerId) -> Route | None:
        hop = self.routes.get((here, chr(target[0])))
        return Route(peer(hop), via_relay=True, ttl=self.route_ttl) if hop is not None else None

    def join(self, dialer: str, acceptor: str) -> None:
        for here, there in ((dialer, acceptor), (acceptor, dialer)):
            key = self._keys[here, there] = next(self._next_key)
            self._answers[here, there] = deque()
            self.lanes[here, there] = self.switches[here].link_up(
                key, peer(there), dialed_by_us=here == dialer, is_relay=there in self.relays, wake=self._woken
            )

    def _woken(self) -> None:
        self.wake()

    def part(self, a: str, b: str) -> None:
        for here, there in ((a, b), (b, a)):
            self.switches[here].link_down(self._keys.pop((here, there)))
            del self.lanes[here, there]
            self._answers[here, there].clear()

    def say(self, here: str, there: str, message: Relay) -> None:
        """Let `there` receive a message on its link with `here`."""
        self.switches[there].receive(self._keys[there, here], message, self.now)
        while (event := self.switches[there].next_event()) is not None:
            if isinstance(event, Incoming):
                self.incoming[there].append(event.end)
                if self.takes:
                    event.end.take()
            elif isinstance(event, DeadEnd):
                self.dead_ends[there].append(event)
            elif isinstance(event, Moving):
                self.moving.append(event.end)
            else:
                assert isinstance(event, Answer)
                self._answers[there, here].append(event.message)

    def step(self, here: str, there: str) -> bool:
        """Carry one message over a link; False if nothing waits there."""
        if (here, there) not in self.lanes:
            return False
        answers, lane = self._answers[here, there], self.lanes[here, there]
        if answers:
            message = answers.popleft()
        elif payload := lane.take():
            message = Relay.decode(payload)
        else:
            return False
        for each in self.meddle(here, there, message):
            self.say(here, there, each)
        return True

    def settle(self) -> None:
        """Carry messages until nothing waits anywhere."""
        moved = True
        while moved:
            moved = False
            for switch in self.switches.values():
                while isinstance(event := switch.next_event(), Moving):
                    self.moving.append(event.end)
                assert event is None, "what a message brings is taken with it"
            for ends in list(self.lanes):
                moved = self.step(*ends) or moved

    def open(self, source: str, via: str, target: str, ttl: int = 8) -> CircuitEnd:
        return self.switches[source].open(peer(via), peer(target), ttl)

    def pair(self, source: str, via: str, target: str) -> tuple[CircuitEnd, CircuitEnd]:
        """A circuit that stands, and both its ends."""
        end = self.open(source, via, target)
        self.settle()
        assert end.is_open, end.reason
        return end, self.incoming[target][-1]

    def wait(self, seconds: float) -> None:
        self.now += seconds
        for switch in self.switches.values():
            switch.handle_deadline(self.now)
        for name, switch in self.switches.items():
            while isinstance(event := switch.next_event(), DeadEnd):
                self.dead_ends[name].append(event)
            assert event is None, "time brings nothing else"

    def is_empty(self) -> bool:
        """Whether no circuit is left in any table."""
        stats = [switch.snapshot() for switch in self.switches.values()]
        return all(each.ends == each.relayed == 0 for each in stats)


def two_hops() -> Network:
    """A and B behind two relays in a row, of which the first knows the way."""
    net = Network("A12B", relays="12")
    for pair in ("A1", "12", "2B"):
        net.join(*pair)
    net.routes["1", "B"] = "2"
    return net


def triangle(limits: Limits | None = None) -> Network:
    """A and B, both connected to the relay R only."""
    net = Network("ARB", relays="R", limits=limits)
    net.join("A", "R")
    net.join("B", "R")
    return net


def read_all(end: CircuitEnd) -> bytes:
    read = bytearray()
    while data := end.read(100_000):
        read += data
    return bytes(read)
