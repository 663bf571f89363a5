"""What must hold in a simulated network: at every step, when it has come to rest, and on its disks at the end.

This file looks inside nodes on purpose, past their public face: a bound that nobody outside can see is kept too.
"""

# ruff: noqa: SLF001  # see the last sentence above

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Generic, NamedTuple, TypeVar

import trio

from p2p.errors import NodeClosed
from p2p.ids import PeerId
from p2p.limits import KIB, Limits
from p2p.node.rooms import Rooms
from p2p.peer.connection import Connection
from p2p.relay.switch import Switch
from p2p.replication.heads import EMPTY_LOG, FROZEN_MARK, LogHead
from p2p.replication.sync import LinkSync
from p2p.testing.dice import Dice
from p2p.testing.ledger import Ledger
from p2p.testing.machine import MACHINE_NAME, Machine
from p2p.testing.plan import Plan
from p2p.transport.memory import MemoryNetwork

T = TypeVar("T")


class Panel(NamedTuple, Generic[T]):
    """Gauges of one kind of thing: what must not grow without bound.

    All are read by one call, because that is done some hundred thousand times in a world.
    """

    read: Callable[[T], tuple[float, ...]]
    bounds: Mapping[str, Callable[[Limits], float]]
    """What the limits allow, by the gauge's name, in the order of what `read` returns."""


def _window(limits: Limits) -> int:
    return limits.unacked_bytes_max + limits.batch_bytes_max


def _read_node(rooms: Rooms) -> tuple[float, ...]:
    return (
        len(rooms.supervisor.links),
        len(rooms.slots),
        len(rooms.roster),
        len(rooms.roster._by_label),
        len(rooms.guard),
        len(rooms.scores),
        rooms.writer._records_waiting,
        len(rooms.writer._jobs),
        rooms.replicator._recent._bytes,
        len(rooms.replicator._waiters),
    )


OF_NODE: Final = Panel(
    _read_node,
    {
        "connections": lambda n: 2 * n.max_peers + n.unauthenticated_max,
        "unproven connections": lambda n: n.unauthenticated_max,
        "peers": lambda n: n.max_peers,
        "labels": lambda n: n.max_peers,
        "backoff table": lambda n: n.backoff_table_max,
        "scores": lambda n: n.scores_max,
        "records waiting": lambda n: n.appends_waiting_max,
        "jobs waiting": lambda n: n.max_peers * n.window_records_max,
        "recent batches": lambda n: n.recent_batches_bytes,
        "waits for replication": lambda n: n.max_peers,
    },
)


def _read_link(link: Connection) -> tuple[float, ...]:
    outbox, session = link._outbox, link.session
    messages = outbox.data_messages
    return (
        messages,
        outbox.data_bytes if messages > 1 else 0,
        len(outbox._control),
        outbox.wal_bytes,
        session._decoder.buffered,
        session.pending_bytes,
        session._pongs_pending,
    )


OF_LINK: Final = Panel(
    _read_link,
    {
        "outbox messages": lambda n: n.outbox_messages_max,
        "outbox bytes": lambda n: n.outbox_bytes_max,
        "outbox control messages": lambda n: n.window_records_max,
        "outbox batches": lambda n: _window(n) + 64 * KIB,
        "received and not read": lambda n: n.frame_bytes_max + n.read_bytes + 16,
        "sealed and not sent": lambda n: 2 * n.frame_bytes_max,
        "pongs pending": lambda n: n.pongs_pending_max,
    },
)


def _read_exchange(sync: LinkSync) -> tuple[float, ...]:
    return sync.pushes.unacked_bytes, sync.pushes._loaded_bytes, sync._owed_bytes, len(sync._heard)


OF_EXCHANGE: Final = Panel(
    _read_exchange,
    {
        "bytes unacknowledged": _window,
        "bytes loaded ahead": lambda n: n.load_ahead_bytes + 3 * n.batch_bytes_max,
        "bytes owed an ack": _window,
        "heads remembered": lambda n: 2 * n.origins_max,
    },
)


def _read_switch(switch: Switch) -> tuple[float, ...]:
    legs = [side.leg for link in switch._links.values() for side in link.sides.values()]
    return (
        len(switch._passages),
        max(len(link.sides) for link in switch._links.values()),
        max((leg.queued_bytes for leg in legs), default=0),
        max((leg.allowance for leg in legs), default=0),
    )


OF_SWITCH: Final = Panel(
    _read_switch,
    {
        "circuits passed on": lambda n: n.relay_circuits_max,
        "circuits of one link": lambda n: n.relay_circuits_per_peer_max,
        "bytes of a circuit": lambda n: n.relay_window_bytes,
        "bytes allowed on a circuit": lambda n: n.relay_window_bytes,
    },
)

READINGS_MAX: Final = 100_000
"""Of each panel, remembered."""

OnExcess = Callable[[Machine, str], None]


class _Readings(Generic[T]):
    """A panel with the bounds of one world.

    Most readings are equal to an earlier one, so these are remembered whole, and only a new one is compared.
    """

    def __init__(self, panel: Panel[T], limits: Limits, on_excess: OnExcess, peaks: dict[str, float]) -> None:
        self._read = panel.read
        self._bounds = tuple((name, bound(limits)) for name, bound in panel.bounds.items())
        self._on_excess = on_excess
        self._peaks = peaks
        self._seen: set[tuple[float, ...]] = set()
        peaks.update((name, 0) for name in panel.bounds)

    def take(self, machine: Machine, things: Iterable[T]) -> None:
        read, seen = self._read, self._seen
        for thing in things:
            values = read(thing)
            if values not in seen:
                self._compare(machine, values)

    def _compare(self, machine: Machine, values: tuple[float, ...]) -> None:
        if len(self._seen) < READINGS_MAX:
            self._seen.add(values)
        peaks = self._peaks
        for (name, bound), value in zip(self._bounds, values, strict=True):
            if value > peaks[name]:
                peaks[name] = value
                if value > bound:
                    self._on_excess(machine, f"{name}: {value:g}, and the bound is {bound:g}")


class Watch(trio.abc.Instrument):
    """Compares the gauges of every node with their bounds, each time that its tasks have done something.

    Args:
        machines: whom to watch.
        limits: of all their nodes.
        on_excess: called with the machine and what was found.

    Attributes:
        peaks: the highest value of each gauge so far.
    """

    def __init__(self, machines: Iterable[Machine], limits: Limits, on_excess: OnExcess) -> None:
        self.peaks: dict[str, float] = {}
        self._machines = {machine.name: machine for machine in machines}
        self._busy: dict[str, None] = {}
        self._node = _Readings(OF_NODE, limits, on_excess, self.peaks)
        self._link = _Readings(OF_LINK, limits, on_excess, self.peaks)
        self._sync = _Readings(OF_EXCHANGE, limits, on_excess, self.peaks)
        self._switch = _Readings(OF_SWITCH, limits, on_excess, self.peaks)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """A task is about to run: it may be of a machine's process."""
        name = task.context.get(MACHINE_NAME)
        if name is not None:
            self._busy[name] = None

    def before_io_wait(self, timeout: float) -> None:
        """All tasks that could run have run."""
        for name in self._busy:
            machine = self._machines[name]
            rooms = machine.node._rooms if machine.node is not None else None
            if rooms is None:
                continue
            if machine.plan.relays and rooms.circuits._switch._links:
                self._switch.take(machine, (rooms.circuits._switch,))
            self._node.take(machine, (rooms,))
            self._link.take(machine, rooms.supervisor.links)
            if rooms.replicator._exchange is not None:
                self._sync.take(machine, rooms.replicator._exchange._links.values())
        self._busy.clear()


class ErrorLog(logging.Handler):
    """Takes note of what p2p logs as an error: its own bugs, contained."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(logging.ERROR)
        self._ledger = ledger

    def emit(self, record: logging.LogRecord) -> None:
        """One record."""
        cause = record.exc_info[1] if record.exc_info else None
        self._ledger.fail("log", f"{record.getMessage()}: {cause!r}")


# A network that has come to rest.


def missing_links(machines: dict[str, Machine], pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Pairs that are to be connected, and are not, both ways and live."""
    missing = []
    for a, b in sorted(pairs):
        for one, other in ((machines[a], machines[b]), (machines[b], machines[a])):
            if one.node is None or other.node is None or not _sees(one, other):
                missing.append(f"{one.name} has no link to {other.name}")
    return missing


def _sees(one: Machine, other: Machine) -> bool:
    assert one.node is not None
    try:
        return any(peer.peer_id == other.peer_id for peer in one.node.peers())
    except NodeClosed:  # it is stopping: it sees nobody any more
        return False


def differing_logs(machines: dict[str, Machine]) -> list[str]:
    """Nodes that do not hold what the others hold: per origin the heads, when they differ."""
    nodes = {name: machine.node for name, machine in machines.items()}
    down = [name for name, node in nodes.items() if node is None]
    running = {name: node for name, node in nodes.items() if node is not None}
    if down or len({node.wal.digest() for node in running.values()}) <= 1:
        return [f"{name} is down" for name in down]
    differing = []
    names = {machine.peer_id: machine.name for machine in machines.values()}
    held = {name: node.wal.heads() for name, node in running.items()}
    for origin in sorted({origin for heads in held.values() for origin in heads}):
        heads = {name: held[name].get(origin) for name in held}
        # Where it is frozen does not matter, as long as it is.
        if len({(0, FROZEN_MARK) if head and head.frozen else head for head in heads.values()}) > 1:
            seqs = ", ".join(f"{name} {_shown(head)}" for name, head in heads.items())
            differing.append(f"the log of {names.get(origin, origin.short)}: {seqs}")
    return differing


def _shown(head: LogHead | None) -> str:
    if head is None:
        return "-"
    return f"frozen at {head.seq}" if head.frozen else str(head.seq)


def unfrozen(machines: dict[str, Machine], origin: PeerId) -> list[str]:
    """Nodes that do not know of a fork that was proven."""
    return [
        f"{name} does not know that {origin.short} forked its log"
        for name, machine in machines.items()
        if machine.node is None or not machine.node.wal.heads().get(origin, EMPTY_LOG).frozen
    ]


def surviving_tasks(machines: dict[str, Machine]) -> list[str]:
    """Tasks of processes that have ended; the one that waits for the next start is the machine's own."""
    counts = dict.fromkeys(machines, 0)
    waiting = [trio.lowlevel.current_root_task()]
    while waiting:
        task = waiting.pop()
        assert task is not None
        name = task.context.get(MACHINE_NAME)
        if name is not None:
            counts[name] += 1
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return [f"{name}: {count - 1} tasks outlive its node" for name, count in counts.items() if count > 1]


def secrets_told(plan: Plan, lines: Iterable[str]) -> list[str]:
    """Keys that stand in what was logged, in any usual notation."""
    text = "\n".join(lines)
    secrets = {"the network key": Dice(plan.seed).branch("network key").entropy(32)} | {
        f"the key of {host}": Dice(plan.seed).branch(f"{host}/disk/identity").entropy(32) for host in plan.hosts
    }
    return [
        f"{name} was logged"
        for name, secret in secrets.items()
        for shown in (secret.hex(), base64.b64encode(secret).decode(), repr(secret)[2:-1])
        if shown in text or shown[:24] in text
    ]


def surplus_links(machines: dict[str, Machine], network: MemoryNetwork) -> list[str]:
    """Where there is not exactly one connection between two nodes that are connected."""
    wrong = []
    for machine in machines.values():
        node = machine.node
        assert node is not None
        assert node._rooms is not None
        links = list(node._rooms.supervisor.links)
        peers = [link.session.peer_id for link in links]
        if len(set(peers)) != len(peers) or len(links) != len(node.peers()):
            wrong.append(
                f"{machine.name} has {len(links)} links to {len(set(peers))} peers: {sorted(map(repr, links))}"
            )
        if network.connections(machine.name) != sum(link.direct for link in links):
            wrong.append(f"{machine.name} has {network.connections(machine.name)} connections for {len(links)} links")
        for link in links:
            other = next((other for other in machines.values() if other.peer_id == link.session.peer_id), None)
            assert other is not None
            assert other.node is not None
            back = other.node._rooms.roster.links.get(machine.peer_id) if other.node._rooms is not None else None
            if back is None or back.dialed_by_us == link.dialed_by_us:
                wrong.append(f"{machine.name} and {other.name} keep different links")
    return wrong


# The disks, when every process has ended.


def check_disks(machines: dict[str, Machine], ledger: Ledger) -> None:
    """Every disk holds every acknowledged record, whole chains, good signatures, and nothing that was not appended."""
    first, *others = machines.values()
    # The chains are equal byte by byte (or that is the failure), so the costly check is made once.
    for damage in first.disk.log.verify():
        ledger.fail(first.name, f"its store is damaged: {damage}")
    for origin in sorted(first.disk.log.states()):
        contents = _contents(first, origin)
        if origin in ledger.distrusted:
            # Its versions differ; that everybody knows so was checked before.
            continue
        for machine in others:
            if _contents(machine, origin) != contents:
                ledger.fail(machine.name, f"its log of {ledger.names[origin]} differs from that of {first.name}")
    ledger.see_disk(first.name)
    for origin, records in ledger.acknowledged.items():
        state = first.disk.log.states().get(origin)
        if max(records, default=0) > (state.seq if state else 0):
            ledger.fail(ledger.names[origin], f"seq {max(records)} was acknowledged and is lost")


def _contents(machine: Machine, origin: PeerId) -> list[bytes | None]:
    disk = machine.disk
    return [disk.content(origin, end) for _, end in disk.batches(origin)]
