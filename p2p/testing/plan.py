"""What a world is like: drawn from its seed, fixed before anything happens.

Each world has some of everything and all of nothing: a few kinds of faults, one shape of network, one pace. A world in
which everything always goes wrong finds less, because most of what goes wrong there hides the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from p2p.limits import KIB, MIB, Limits
from p2p.testing.dice import Dice

FAULTS: Final = (
    "crash",
    "power cut",
    "restart",
    "reset",
    "cut one way",
    "cut",
    "split",
    "swizzle",
    "isolate",
    "slow way",
    "disconnect",
    "dial",
    "clock jump",
    "disk stall",
    "disk fails",
    "rot",
)
"""Every kind of fault, by the name that a trace shows."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One world, before it runs.

    Attributes:
        seed: what all of it was drawn from.
        hosts: the machines' addresses in the simulated network.
        dials: for each machine, whom it is configured to stay connected with.
        faults: the kinds that happen here.
        fault_every_s: mean time between two of them.
        safety_s: how long they happen.
        admission: "key" (a network key) or "trust" (a list of all).
        append_every_s: mean time between two appends of one machine.
        record_bytes_max: size of the largest record.
        latency_s: one way, in good weather.
        segment_bytes: the most that one receive returns, None for no such bound.
        buffer_bytes: of a connection, per direction.
        limits: the nodes' bounds, some of them tightened.
    """

    seed: int
    hosts: tuple[str, ...]
    dials: Mapping[str, tuple[str, ...]]
    faults: tuple[str, ...]
    fault_every_s: float
    safety_s: float
    admission: str
    append_every_s: float
    record_bytes_max: int
    latency_s: float
    segment_bytes: int | None
    buffer_bytes: int
    limits: Limits

    @property
    def pairs(self) -> frozenset[tuple[str, str]]:
        """Who is to be connected with whom, each pair once, the smaller name first."""
        return frozenset((min(a, b), max(a, b)) for a, others in self.dials.items() for b in others)

    def __str__(self) -> str:
        tight = ", tight limits" if self.limits != Limits() else ""
        cut = f", segments of {self.segment_bytes}" if self.segment_bytes else ""
        return (
            f"{len(self.hosts)} nodes, {len(self.pairs)} links, {self.admission}{tight}{cut},"
            f" {self.safety_s:.0f} s of {', '.join(self.faults) or 'peace'}"
        )


def draw_plan(seed: int) -> Plan:
    """Draw a world of 5 to 7 nodes."""
    dice = Dice(seed).branch("plan")
    latency_s = dice.one_of((0.0, 0.001, 0.02, 0.1))
    hosts = tuple(f"10.0.0.{number}" for number in range(1, dice.integer(5, 7) + 1))
    faults = tuple(sorted(dice.some(FAULTS, dice.integer(2, 7)))) if dice.chance(0.95) else ()
    return Plan(
        seed=seed,
        hosts=hosts,
        dials=_draw_dials(dice.branch("dials"), hosts),
        faults=faults,
        fault_every_s=dice.number(0.3, 4),
        safety_s=dice.number(12, 36),
        admission=dice.one_of(("key", "key", "trust")),
        append_every_s=dice.number(0.3, 3),
        record_bytes_max=dice.one_of((100, 100, 4 * KIB, 60 * KIB)),
        latency_s=latency_s,
        segment_bytes=dice.one_of((None, None, 1460, 97)),
        # Small buffers on a long way would be a network too slow for what is said here, and no finding.
        buffer_bytes=dice.one_of((64 * KIB, MIB, 3 * KIB if latency_s < 0.01 else 64 * KIB)),
        limits=_draw_limits(dice.branch("limits")),
    )


def _draw_dials(dice: Dice, hosts: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
    """A connected network: a tree and some more, or everybody with everybody; some pairs dial each other."""
    density = dice.one_of((0.0, 0.2, 0.5, 1.0))
    both = dice.one_of((0.0, 0.3, 1.0))
    dials: dict[str, list[str]] = {host: [] for host in hosts}
    for index, host in enumerate(hosts):
        if index == 0:
            continue
        parent = dice.integer(0, index - 1)
        for other in range(index):
            if other == parent or dice.chance(density):
                pair = [host, hosts[other]] if dice.chance(0.5) else [hosts[other], host]
                dials[pair[0]].append(pair[1])
                if dice.chance(both):
                    dials[pair[1]].append(pair[0])
    return MappingProxyType({host: tuple(others) for host, others in dials.items()})


def _draw_limits(dice: Dice) -> Limits:
    if dice.chance(0.5):
        return Limits()
    return Limits(
        recent_batches_bytes=dice.one_of((0, 16 * KIB, 4 * MIB)),
        boundaries_per_origin=dice.one_of((1, 2, 16)),
        load_ahead_bytes=dice.one_of((4 * KIB, 64 * KIB, MIB)),
        follow_read_bytes=dice.one_of((1, 8 * KIB, MIB)),
        commit_bytes_max=dice.one_of((2 * KIB, 16 * KIB, 4 * MIB)),
        heads_per_message_max=dice.one_of((8, 4096)),
        bundle_bytes=dice.one_of((256, 64 * KIB)),
        write_bytes=dice.one_of((512, 64 * KIB)),
        outbox_bytes_max=dice.one_of((2 * KIB, 512 * KIB)),
        outbox_high_water_bytes=dice.one_of((KIB, 2 * KIB)),
        events_queue_max=dice.one_of((4, 1024)),
    )
