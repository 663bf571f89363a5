"""A whole network in one process, from one seed: real nodes on a simulated network, with simulated disks and clocks.

    report = World(17).run()
    assert not report.failures, report

How it moves, in virtual time:

    safety    everybody appends, follows and sends, while the faults of the plan happen
    healing   all faults end; nobody begins anything new
    liveness  every configured link comes up, over a relay where a wall is between; then all logs become equal and every
              follower gets to their ends; every log is read from its beginning, so that rot is found, and is repaired;
              every peer answers
    quiet     exactly one link per pair, and next to nothing on it
    end       every node stops in order; then the disks are read

What is promised at every moment is checked at every moment (`ledger`, `checkers.Watch`), the rest where it is due. The
first failure ends the world.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

import trio

from p2p.errors import Reason
from p2p.testing.byzantine import Villain, identity_of
from p2p.testing.checkers import (
    ErrorLog,
    Watch,
    check_disks,
    differing_logs,
    missing_links,
    secrets_told,
    surplus_links,
    surviving_tasks,
    unfrozen,
)
from p2p.testing.dice import Dice
from p2p.testing.disk import Disk
from p2p.testing.faults import Nemesis
from p2p.testing.ledger import Ledger
from p2p.testing.machine import Machine
from p2p.testing.plan import Plan, draw_plan
from p2p.testing.scheduler import run_seeded
from p2p.testing.trace import Trace
from p2p.testing.workload import Workload, read_logs
from p2p.transport.memory import MemoryNetwork

LINKED_S_MAX: Final = 120.0
"""From healing to the last configured link: a dead link is noticed after 45 s, and redialled when its backoff ends."""
CONVERGED_S_MAX: Final = 10.0
"""From the last configured link to equal logs, of few nodes."""
FEW: Final = 7
CONVERGED_MANY_S_MAX: Final = 30.0
"""The same for more of them."""
TURN_S_MAX: Final = 4.0
"""Where a log rotted it flows back to where it came from: each node on the way waits for its supplier to stall (3 s),
and tells its heads to those who do not expect them (1 s)."""
QUIET_S: Final = 20.0
QUIET_BYTES_MAX: Final = 4000
"""What one link may carry in so long a time when there is nothing to say: pings, and a line of what was just said."""
HEAD_BYTES: Final = 100
"""And all heads, if it was just made: so much for each log."""
TRACE_TAIL: Final = 50


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a world.

    Attributes:
        plan: what it was like.
        failures: what must not have been; empty if all is well.
        trace: every event, one line each.
        digest: of the trace; equal for equal seeds.
        linked_s: from healing to the last configured link.
        converged_s: from there to equal logs.
        virtual_s: how long the world lasted, on its own clock.
        records: how many were acknowledged.
        lives: processes that ran.
        links_ended: how the links of all nodes ended, apart from those of the last lives.
        peaks: the highest value of each gauge.
    """

    plan: Plan
    failures: tuple[str, ...]
    trace: tuple[str, ...]
    digest: str
    linked_s: float
    converged_s: float
    virtual_s: float
    records: int
    lives: int
    links_ended: dict[Reason, int]
    peaks: dict[str, float]

    def __str__(self) -> str:
        head = f"world {self.plan.seed}: {self.plan}"
        if not self.failures:
            return (
                f"{head}\n  well after {self.virtual_s:.0f} s: {self.records} records, {self.lives} lives,"
                f" linked in {self.linked_s:.1f} s, equal {self.converged_s:.1f} s later"
            )
        events = "\n".join(f"    {line[:300]}" for line in self.trace[-TRACE_TAIL:])
        wrong = "\n".join(f"  {failure}" for failure in self.failures)
        return (
            f"{head}\n{wrong}\n  the last of {len(self.trace)} events:\n{events}\n"
            f"  replay: python -m p2p.testing --seed {self.plan.seed}{self.plan.drawn_with} --trace"
        )


class World:
    """One simulated network.

    Args:
        seed: decides everything: the plan, every delay, every fault, every key and the order of all tasks.
        plan: instead of the one that is drawn from the seed.
        workload: what runs beside each node, instead of `Workload`; one object for one world.
    """

    def __init__(self, seed: int, plan: Plan | None = None, *, workload: Workload | None = None) -> None:
        self.seed = seed
        self._workload = workload if workload is not None else Workload()
        self.plan = plan if plan is not None else draw_plan(seed)
        self._linked_s = self._converged_s = 0.0
        self._converged_s_max = CONVERGED_S_MAX if len(self.plan.hosts) <= FEW else CONVERGED_MANY_S_MAX
        if "rot" in self.plan.faults:
            self._converged_s_max += TURN_S_MAX * len(self.plan.hosts)

    def run(self) -> Report:
        """Run it from beginning to end. Not inside trio: it is a run of its own."""
        return run_seeded(self.seed, self._run)

    async def _run(self) -> Report:
        plan = self.plan
        trace = Trace()
        network = MemoryNetwork(
            plan.limits, latency_s=plan.latency_s, buffer_bytes=plan.buffer_bytes, segment_bytes=plan.segment_bytes
        )
        for host in plan.hosts:
            network.network_for(host)
        disks = {host: Disk(Dice(self.seed).branch(f"{host}/disk")) for host in plan.hosts}
        trusted = {f"n{index}": disk.identity.peer_id for index, disk in enumerate(disks.values(), 1)}
        trusted |= {f"v{index}": identity_of(plan, name).peer_id for index, name in enumerate(plan.villains, 1)}
        ended = trio.CancelScope()
        machines: dict[str, Machine] = {}

        def end() -> None:
            for machine in machines.values():
                machine.kill()
            ended.cancel()

        ledger = Ledger(trace, disks, end)
        workload = self._workload
        machines |= {
            host: Machine(
                plan,
                host,
                disks[host],
                network=network,
                trusted=trusted if plan.admission == "trust" else None,
                application=workload,
                ledger=ledger,
                trace=trace,
            )
            for host in plan.hosts
        }
        endpoints = {host: machine.endpoint for host, machine in machines.items()}
        villains = [
            Villain(plan, name, endpoints, network=network, ledger=ledger, trace=trace) for name in plan.villains
        ]
        nemesis = Nemesis(plan, machines, network, ledger, trace)
        watch = Watch(machines.values(), plan.limits, lambda machine, what: ledger.fail(machine.name, what))
        errors = ErrorLog(ledger)
        logger = logging.getLogger("p2p")
        logger.addHandler(errors)
        trio.lowlevel.add_instrument(watch)
        try:
            with ended:
                async with trio.open_nursery() as nursery:
                    for machine in machines.values():
                        nursery.start_soon(machine.run)
                    with trio.move_on_after(plan.safety_s):
                        async with trio.open_nursery() as harm:
                            for villain in villains:
                                harm.start_soon(villain.run)
                            await nemesis.run()
                    for villain in villains:
                        network.kill(villain.name)
                    workload.is_resting = True
                    nemesis.heal()
                    await self._come_to_rest(machines, ledger, trace)
                    self._judge_forks(villains, machines, ledger)
                    await self._read_all(machines, ledger, trace)
                    if plan.asks:
                        async with trio.open_nursery() as asking:
                            for machine in machines.values():
                                asking.start_soon(workload.ask_everybody, machine)
                    await self._be_quiet(machines, network, ledger)
                    await self._end(machines, network, ledger)
                    nursery.cancel_scope.cancel()
                check_disks(machines, ledger)
                for what in secrets_told(plan, trace.lines):
                    ledger.fail("world", what)
        finally:
            logger.removeHandler(errors)
            trio.lowlevel.remove_instrument(watch)
        links_ended: dict[Reason, int] = {}
        for machine in machines.values():
            for reason, count in machine.links_ended.items():
                links_ended[reason] = links_ended.get(reason, 0) + count
        return Report(
            plan=plan,
            failures=tuple(ledger.failures),
            trace=tuple(trace.lines),
            digest=trace.digest(),
            linked_s=self._linked_s,
            converged_s=self._converged_s,
            virtual_s=trace.now,
            records=sum(map(len, ledger.acknowledged.values())),
            lives=sum(machine.lives for machine in machines.values()),
            links_ended=links_ended,
            peaks=dict(sorted(watch.peaks.items())),
        )

    async def _come_to_rest(self, machines: dict[str, Machine], ledger: Ledger, trace: Trace) -> None:
        healed_at = linked_at = trace.now
        is_linked = False
        while True:
            await trio.sleep(0.1)
            missing = missing_links(machines, self.plan.pairs)
            if missing:
                if trace.now > healed_at + LINKED_S_MAX:
                    ledger.fail("world", f"not linked {LINKED_S_MAX:g} s after healing: {'; '.join(missing)}")
                continue
            if not is_linked:
                is_linked = True
                linked_at = trace.now
                self._linked_s = linked_at - healed_at
                trace.note("world", "is linked")
            wrong = differing_logs(machines)
            wrong += [
                f"{name} did not read {', '.join(left)}"
                for name in machines
                if (left := ledger.undelivered(name) + ledger.unread(name))
            ]
            if not wrong:
                self._converged_s = trace.now - linked_at
                trace.note("world", "is equal")
                return
            if trace.now > linked_at + self._converged_s_max:
                ledger.fail("world", f"not equal {self._converged_s_max:g} s after it was linked: {'; '.join(wrong)}")

    def _judge_forks(self, villains: list[Villain], machines: dict[str, Machine], ledger: Ledger) -> None:
        for villain in villains:
            for what in unfrozen(machines, villain.identity.peer_id) if villain.has_forked else ():
                ledger.fail("world", what)

    async def _read_all(self, machines: dict[str, Machine], ledger: Ledger, trace: Trace) -> None:
        """Every node reads every log from its beginning: what rotted is found by that, and fetched again."""
        heads = {origin: max(records) for origin, records in ledger.acknowledged.items() if records}
        with trio.move_on_after(self._converged_s_max) as scope:
            async with trio.open_nursery() as nursery:
                for machine in machines.values():
                    nursery.start_soon(read_logs, machine, heads)
            while differing_logs(machines):  # noqa: ASYNC110  # no one event says that seven nodes agree
                await trio.sleep(0.1)
            trace.note("world", "has read everything")
        if scope.cancelled_caught:
            wrong = differing_logs(machines) or ["a follower got no further"]
            ledger.fail("world", f"not all is readable after {self._converged_s_max:g} s: {'; '.join(wrong)}")

    async def _be_quiet(self, machines: dict[str, Machine], network: MemoryNetwork, ledger: Ledger) -> None:
        # What gave way has time to say Goodbye.
        await trio.sleep(self.plan.limits.drain_s_max + self.plan.limits.probe_s_max + 1)
        before = _bytes_out(machines)
        await trio.sleep(QUIET_S)
        said = {link: size - before.get(link, 0) for link, size in _bytes_out(machines).items()}
        wrong = [
            f"{one} said {size} bytes to {other} within {QUIET_S:g} s"
            for (one, other), size in said.items()
            # A relay's link carries what is said over it.
            if size > QUIET_BYTES_MAX * (1 + 2 * len(self.plan.walls)) + HEAD_BYTES * _origins(machines[one])
        ]
        for what in (*wrong, *surplus_links(machines, network), *differing_logs(machines)):
            ledger.fail("world", f"at rest: {what}")
        # A failure cancels, which is noticed here.
        await trio.lowlevel.checkpoint()

    async def _end(self, machines: dict[str, Machine], network: MemoryNetwork, ledger: Ledger) -> None:
        for machine in machines.values():
            machine.stop()
        await trio.sleep(self.plan.limits.shutdown_s_max + 1)
        for machine in machines.values():
            if machine.node is not None or network.connections(machine.name):
                ledger.fail(machine.name, "still runs after it was stopped")
        for what in surviving_tasks(machines):
            ledger.fail("world", what)
        await trio.lowlevel.checkpoint()


def _origins(machine: Machine) -> int:
    return len(machine.node.wal.heads()) if machine.node is not None else 0


def _bytes_out(machines: dict[str, Machine]) -> dict[tuple[str, str], int]:
    names = {machine.peer_id: machine.name for machine in machines.values()}
    return {
        (machine.name, names[peer.peer_id]): peer.bytes_out
        for machine in machines.values()
        if machine.node is not None
        for peer in machine.node.peers()
    }
