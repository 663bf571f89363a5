"""A simulated machine: a host on the simulated network, a disk, a clock, and one process after the other on them.

Responsible for the lives of the process: starting it, ending it in order, killing it. It refuses to know what runs
beside the node (an `Application`) and when what goes wrong (`faults`).

A kill is a kill: before any code of the dying process runs again its connections are dead, its disk takes nothing more,
and everything it waits for is cancelled. What the node's `finally` blocks do then reaches nobody.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Final

import trio

from p2p.errors import P2PError, Reason
from p2p.ids import ANY_RELAY, RELAY, PeerEndpoint, PeerId
from p2p.node.config import NodeConfig
from p2p.node.discovery import DiscoveryConfig
from p2p.node.node import Node
from p2p.testing.dice import Dice
from p2p.testing.disk import Disk, Mount, ProcessKilled
from p2p.testing.ledger import Ledger
from p2p.testing.plan import Plan
from p2p.testing.trace import Trace
from p2p.transport.memory import MemoryNetwork
from p2p.windows import SimulatedClock

PORT: Final = 9000

Application = Callable[["Machine", Node], Awaitable[None]]
"""What runs beside the node in each life of a process. Ends when the node does, or is killed with it."""

MACHINE_NAME: Final[ContextVar[str]] = ContextVar("MACHINE_NAME")
"""In every task of a machine: the machine's name."""

ALLOWED_ENDS: Final = frozenset({
    Reason.CLOSED, Reason.MOVED, Reason.ABNORMAL, Reason.TIMEOUT, Reason.DISCONNECTED, Reason.OVERLOADED,
    Reason.FULL, Reason.DEAD,
})  # fmt: skip
"""How links between honest nodes may end. Any other reason is somebody's fault, and there is nobody."""


class Machine:
    """One host of a world.

    Attributes:
        name: its address in the simulated network.
        disk: what survives.
        clock: its wall clock.
        node: the running node, None between two lives.
        lives: how many processes there were.
        links_ended: how the links of all lives ended.
    """

    def __init__(
        self,
        plan: Plan,
        name: str,
        disk: Disk,
        *,
        network: MemoryNetwork,
        trusted: Mapping[str, PeerId] | None,
        application: Application,
        ledger: Ledger,
        trace: Trace,
    ) -> None:
        self.name = name
        self.disk = disk
        self.clock = SimulatedClock()
        self.clock.skew_ms = plan.skews_ms[name]
        self.node: Node | None = None
        self.lives = 0
        self.links_ended: dict[Reason, int] = {}
        self.ledger = ledger
        self.trace = trace
        self.plan = plan
        self._network = network
        self._trusted = trusted
        self._application = application
        self._dice = Dice(plan.seed).branch(name)
        self._is_on = True
        self._switched = trio.Event()
        self._mount: Mount | None = None
        self._scope = trio.CancelScope()
        self._stopped_at = math.inf
        self._has_started = False

    @property
    def peer_id(self) -> PeerId:
        """Its identity, in all lives."""
        return self.disk.identity.peer_id

    @property
    def endpoint(self) -> PeerEndpoint:
        """Where it listens."""
        return PeerEndpoint(self.name, PORT, "mem")

    def endpoint_of(self, other: str) -> PeerEndpoint:
        """Where it dials another machine: behind a relay where a wall is between the two."""
        plan = self.plan
        if not plan.is_walled(self.name, other):
            return PeerEndpoint(other, PORT, "mem")
        relay = str(self.ledger.own(plan.relays[0])) if len(plan.relays) == 1 else ANY_RELAY
        return PeerEndpoint(relay, 0, RELAY, str(self.ledger.own(other)))

    def dice(self, purpose: str) -> Dice:
        """Chance for this life of the process."""
        return self._dice.branch(f"{self.lives}/{purpose}")

    # The switch.

    def start(self) -> None:
        """Start a process if none runs."""
        if not self._is_on:
            self._is_on = True
            self._switched.set()

    def stop(self) -> None:
        """Ask the process to end in order."""
        if self._is_on:
            self._is_on = False
            self.trace.note(self.name, "stops")
            if self.node is not None:
                self._stopped_at = self.trace.now
                self.node.stop()

    def kill(self) -> None:
        """End the process between two of its steps."""
        if self._mount is not None:
            self._is_on = False
            self.trace.note(self.name, "is killed")
            self._network.kill(self.name)
            self._mount.cut()
            self._scope.cancel()
            self.node = None

    # Lives.

    async def run(self) -> None:
        """Run one process after the other, for ever."""
        MACHINE_NAME.set(self.name)
        while True:
            if not self._is_on:
                self._switched = trio.Event()
                await self._switched.wait()
            await self._live()

    async def _live(self) -> None:
        self.lives += 1
        self._stopped_at = math.inf
        self._has_started = False
        self._scope = trio.CancelScope()
        node: Node | None = None
        self.trace.note(self.name, "starts")
        with self._scope:
            try:
                async with trio.open_nursery() as process:
                    self._mount = Mount(self.disk, process, self.plan.limits.hung_disk_s_max)
                    node = Node(self._config(self._mount))
                    await self._run_process(node)
                    process.cancel_scope.cancel()
            except* ProcessKilled:
                self._scope.cancel()
            except* P2PError as error:
                # Without its disk a node does not start; it tries again, as any service manager would.
                self.trace.note(self.name, f"ended: {_leaf(error)}")
                if self._has_started:
                    self.ledger.fail(self.name, f"its node ended by itself: {_leaf(error)!r}")
                await trio.sleep(1)
            except* Exception as error:  # noqa: BLE001  # whatever gets out of a node is what we are looking for
                self.ledger.fail(self.name, f"its process failed: {_leaf(error)!r}")
        self.node = None
        self._mount = None
        self.trace.note(self.name, "is down")
        if self.trace.now - self._stopped_at > self.plan.limits.shutdown_s_max:
            self.ledger.fail(self.name, f"took {self.trace.now - self._stopped_at:.1f} s to stop")
        if node is not None:
            self._judge(node)

    async def _run_process(self, node: Node) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            self.node = node
            self._has_started = True
            if not self._is_on:
                self._stopped_at = self.trace.now
                node.stop()
            over = trio.Event()
            nursery.start_soon(self._run_application, node, over)
            await node.wait()
            self.node = None
            with trio.move_on_after(1):
                await over.wait()
            if not over.is_set():
                what = "its application goes on a second after the node has stopped"
                self.ledger.fail(self.name, f"{what}: a call of the node still waits, or it sleeps for longer itself")
            nursery.cancel_scope.cancel()

    async def _run_application(self, node: Node, over: trio.Event) -> None:
        await self._application(self, node)
        over.set()

    def _judge(self, node: Node) -> None:
        counters = node.counters
        for reason, count in counters.links_ended.items():
            self.links_ended[reason] = self.links_ended.get(reason, 0) + count
            # A Byzantine peer's links end for any reason.
            if reason not in ALLOWED_ENDS and not self.ledger.distrusted:
                self.ledger.fail(self.name, f"{count} links among honest nodes ended with {reason.label}")
        if counters.hook_failures:
            self.ledger.fail(self.name, "a hook raised")
        if left := self._network.connections(self.name):
            self.ledger.fail(self.name, f"{left} connections are open and its process is gone")

    def _config(self, mount: Mount) -> NodeConfig:
        plan = self.plan
        dice = self.dice("node")
        return NodeConfig(
            node_id=f"n{self.name.rpartition('.')[2]}",
            listen_port=PORT,
            peers=tuple(self.endpoint_of(other) for other in plan.dials[self.name]),
            relay=self.name in plan.relays,
            attach=bool(plan.relays),
            network_key=Dice(plan.seed).branch("network key").entropy(32) if plan.admission == "key" else None,
            trust=self._trusted,
            limits=plan.limits,
            discovery=DiscoveryConfig(require_signed=True) if plan.discovery else None,
            on_log=self._log,
            store=mount.open,
            clock=self.clock,
            entropy=dice.entropy,
            network=self._network.network_for(self.name),
            blocking=mount,
        )

    def _log(self, line: str) -> None:
        self.trace.note(self.name, line)
        if "banned" in line and not any(villain.short in line for villain in self.ledger.distrusted):
            self.ledger.fail(self.name, f"an honest node is banned: {line}")


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
