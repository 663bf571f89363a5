"""What goes wrong in a simulated world: one kind of fault per function, and the task that draws them.

Every fault ends by itself after a time that is drawn with it; `heal` ends all of them at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final

import trio

from p2p.errors import ConnectFailed, NodeClosed, NotConnected, UnknownPeer
from p2p.testing.dice import Dice
from p2p.testing.disk import LATENCY_S
from p2p.testing.ledger import Ledger
from p2p.testing.machine import Machine
from p2p.testing.plan import RELAY_FAULT, Plan
from p2p.testing.trace import Trace
from p2p.transport.memory import MemoryNetwork
from p2p.transport.memory_stream import Weather

_YEAR_MS: Final = 365 * 86_400_000


class Nemesis:
    """Lets go wrong what a plan allows.

    Args:
        machines: all of them, by name.
    """

    def __init__(
        self, plan: Plan, machines: Mapping[str, Machine], network: MemoryNetwork, ledger: Ledger, trace: Trace
    ) -> None:
        self._plan = plan
        self._machines = machines
        self._network = network
        self._ledger = ledger
        self._trace = trace
        self._dice = Dice(plan.seed).branch("faults")
        self._hosts = plan.hosts

    async def run(self) -> None:
        """Let things go wrong until cancelled; then call `heal`."""
        plan = self._plan
        if plan.loss or plan.duplicates or plan.jitter_s:
            chance = Dice(plan.seed).branch("packets").fraction
            self._network.set_weather(Weather(chance, plan.loss, plan.duplicates, plan.jitter_s))
        for machine in self._machines.values():
            machine.disk.fault_rate = plan.disk_fault_rate
        for a, b in plan.walls:
            self._network.partition(a, b)
        if not self._plan.faults:
            await trio.sleep_forever()
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self._dice.number(0, 2 * self._plan.fault_every_s))
                fault = self._dice.one_of(self._plan.faults)
                nursery.start_soon(_FAULTS[fault], self)

    def heal(self) -> None:
        """End everything that goes wrong, and let every machine run."""
        self._trace.note("world", "heals")
        self._network.set_weather(None)
        for a in self._hosts:
            for b in self._hosts:
                if a < b:
                    if not self._plan.is_walled(a, b):
                        self._network.heal(a, b)
                    self._network.set_link(a, b, latency_s=self._plan.latency_s)
        for machine in self._machines.values():
            machine.disk.mend()
            machine.start()

    def _note(self, what: str) -> None:
        self._trace.note("world", what)

    def _machine(self) -> Machine:
        return self._machines[self._dice.one_of(self._hosts)]

    def _pair(self) -> tuple[str, str]:
        a, b = self._dice.some(self._hosts, 2)
        return a, b

    # Processes.

    async def crash(self) -> None:
        """A process is killed and started again; the others hear of it at once."""
        machine = self._machine()
        machine.kill()
        await trio.sleep(self._dice.one_of((0.0, 0.1, 5.0, 20.0)))
        machine.start()

    async def relay_dies(self) -> None:
        """A relay is gone for a while, and with it every circuit over it."""
        machine = self._machines[self._dice.one_of(self._plan.relays)]
        machine.kill()
        await trio.sleep(self._dice.number(0, 15))
        machine.start()

    async def power_cut(self) -> None:
        """A machine is gone, and nobody hears of it while it is."""
        machine = self._machine()
        others = [host for host in self._hosts if host != machine.name]
        for other in others:
            self._network.partition(machine.name, other)
        machine.kill()
        await trio.sleep(self._dice.number(0, 60 if self._dice.chance(0.2) else 10))
        for other in others:
            self._heal_pair(machine.name, other)
        machine.start()

    async def restart(self) -> None:
        """A process is stopped in order, and started again."""
        machine = self._machine()
        machine.stop()
        await trio.sleep(self._dice.one_of((0.0, 0.5, 10.0)))
        machine.start()

    # The network.

    async def reset(self) -> None:
        """Every connection between two hosts breaks."""
        a, b = self._pair()
        self._note(f"resets {a} and {b}")
        self._network.reset(a, b)

    async def cut_one_way(self) -> None:
        """Nothing gets from one host to another; the way back works."""
        a, b = self._pair()
        self._note(f"cuts the way from {a} to {b}")
        self._network.partition(a, b, one_way=True)
        await self._pause()
        self._heal_pair(a, b)

    async def cut(self) -> None:
        """Nothing gets through between two hosts."""
        a, b = self._pair()
        self._note(f"cuts {a} from {b}")
        self._network.partition(a, b)
        await self._pause()
        self._heal_pair(a, b)

    async def split(self) -> None:
        """The network falls apart in two."""
        one = self._dice.some(self._hosts, self._dice.integer(1, len(self._hosts) - 1))
        self._note(f"splits off {', '.join(one)}")
        ways = [(a, b) for a in one for b in self._hosts if b not in one]
        for a, b in ways:
            self._network.partition(a, b)
        await self._pause()
        for a, b in ways:
            self._heal_pair(a, b)

    async def swizzle(self) -> None:
        """Host after host is cut off, and they come back in another order."""
        hosts = self._dice.some(self._hosts, self._dice.integer(2, len(self._hosts)))
        for host in hosts:
            self._isolate(host)
            await trio.sleep(self._dice.number(0, 2))
        for host in self._dice.some(hosts, len(hosts)):
            for other in self._hosts:
                if other != host:
                    self._heal_pair(host, other)
            await trio.sleep(self._dice.number(0, 2))

    async def isolate(self) -> None:
        """One host is alone for a while, and lives on; as a laptop that was closed does for the others."""
        host = self._dice.one_of(self._hosts)
        self._isolate(host)
        await self._pause()
        for other in self._hosts:
            if other != host:
                self._heal_pair(host, other)

    async def pause(self) -> None:
        """A machine's network and disk stand still, and go on with all that waited. Its timers run on meanwhile."""
        machine = self._machine()
        self._isolate(machine.name)
        machine.disk.stall()
        await trio.sleep(self._dice.one_of((1.0, 5.0, self._dice.number(1, 60))))
        machine.disk.go_on()
        for other in self._hosts:
            if other != machine.name:
                self._heal_pair(machine.name, other)

    async def slow_way(self) -> None:
        """Latency and bandwidth between two hosts change."""
        a, b = self._pair()
        latency_s = self._dice.one_of((0.0, 0.05, 0.5, 2.0))
        bytes_per_s = self._dice.one_of((None, 1_000_000.0, 20_000.0))
        self._note(f"slows {a} and {b}: {latency_s} s, {bytes_per_s} B/s")
        self._network.set_link(a, b, latency_s=latency_s, bytes_per_s=bytes_per_s)
        await self._pause()
        self._network.set_link(a, b, latency_s=self._plan.latency_s)

    def _isolate(self, host: str) -> None:
        self._note(f"isolates {host}")
        for other in self._hosts:
            if other != host:
                self._network.partition(host, other)

    def _heal_pair(self, a: str, b: str) -> None:
        if not self._plan.is_walled(a, b):
            self._note(f"joins {a} and {b}")
            self._network.heal(a, b)

    async def _pause(self) -> None:
        await trio.sleep(self._dice.one_of((0.2, 2.0, 8.0, self._dice.number(8, 60))))

    # What applications do.

    async def disconnect(self) -> None:
        """An application ends a link in order."""
        machine = self._machine()
        if machine.node is None:
            return
        try:
            peers = machine.node.peers()
            if peers:
                peer = self._dice.one_of(peers)
                self._trace.note(machine.name, f"disconnects {peer.peer_id.short}")
                await machine.node.disconnect(peer)
        except (NotConnected, UnknownPeer, NodeClosed):
            return

    async def dial(self) -> None:
        """An application dials somebody, known or not."""
        machine = self._machine()
        other = self._dice.one_of([host for host in self._hosts if host != machine.name])
        if machine.node is None:
            return
        self._trace.note(machine.name, f"dials {other}")
        try:
            await machine.node.connect(self._machines[other].endpoint)
        except (ConnectFailed, NodeClosed) as failure:
            self._trace.note(machine.name, f"dialled {other} in vain: {failure}")

    # Clock and disk.

    async def clock_jump(self) -> None:
        """A wall clock jumps."""
        machine = self._machine()
        jump = self._dice.one_of((-10 * _YEAR_MS, -3_600_000, -500, 500, 59_000, 3_600_000, 10 * _YEAR_MS))
        self._trace.note(machine.name, f"clock jumps by {jump} ms")
        machine.clock.skew_ms += jump

    async def disk_stall(self) -> None:
        """A disk hangs, or is slow."""
        machine = self._machine()
        disk = machine.disk
        if self._dice.chance(0.5):
            self._trace.note(machine.name, "disk hangs")
            disk.stall()
            await trio.sleep(self._dice.one_of((0.5, 3.0, 9.0)))
            disk.go_on()
        else:
            self._trace.note(machine.name, "disk is slow")
            disk.latency_s = self._dice.one_of((0.0, 0.05, 0.5))
            await trio.sleep(10)
            disk.latency_s = LATENCY_S

    async def disk_fails(self) -> None:
        """A disk is full, or returns errors."""
        machine = self._machine()
        disk = machine.disk
        how = self._dice.one_of(("full", "no write succeeds", "no read succeeds"))
        self._trace.note(machine.name, f"disk: {how}")
        if how == "no read succeeds":
            disk.reads_fail = True
        else:
            disk.fails_with = how
        await trio.sleep(self._dice.one_of((0.1, 3.0, 15.0)))
        disk.fails_with = None
        disk.reads_fail = False

    async def rot(self) -> None:
        """A bit flips in a batch of which another machine holds an undamaged copy."""
        machine = self._machine()
        # What is frozen is not fetched again, so a forked log may stay damaged.
        origins = sorted(set(machine.disk.log.states()) - self._ledger.distrusted)
        if not origins:
            return
        origin = self._dice.one_of(origins)
        batches = machine.disk.batches(origin)
        if not batches:
            return
        _, seq_end = self._dice.one_of(batches)
        content = machine.disk.content(origin, seq_end)
        others = [other.disk for other in self._machines.values() if other is not machine]
        if content is None or not any(disk.content(origin, seq_end) == content for disk in others):
            return
        self._trace.note(machine.name, f"disk rots: {self._ledger.names[origin]} up to {seq_end}")
        machine.disk.flip_bit(origin, seq_end, self._dice.integer(0, len(content) * 8 - 1))


_FAULTS: Final[Mapping[str, Callable[[Nemesis], Awaitable[None]]]] = MappingProxyType(
    {
        "crash": Nemesis.crash,
        RELAY_FAULT: Nemesis.relay_dies,
        "power cut": Nemesis.power_cut,
        "restart": Nemesis.restart,
        "reset": Nemesis.reset,
        "cut one way": Nemesis.cut_one_way,
        "cut": Nemesis.cut,
        "split": Nemesis.split,
        "swizzle": Nemesis.swizzle,
        "isolate": Nemesis.isolate,
        "pause": Nemesis.pause,
        "slow way": Nemesis.slow_way,
        "disconnect": Nemesis.disconnect,
        "dial": Nemesis.dial,
        "clock jump": Nemesis.clock_jump,
        "disk stall": Nemesis.disk_stall,
        "disk fails": Nemesis.disk_fails,
        "rot": Nemesis.rot,
    }
)
