"""What a world is like: drawn from its seed, fixed before anything happens.

Each world has some of everything and all of nothing: a few kinds of faults, one shape of network, one pace. A world in
which everything always goes wrong finds less, because most of what goes wrong there hides the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType
from typing import Final

from p2p.errors import ConfigError
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
    "pause",
    "slow way",
    "disconnect",
    "dial",
    "clock jump",
    "disk stall",
    "disk fails",
    "rot",
)
"""Every kind of fault that any world may have, by the name that a trace shows."""

RELAY_FAULT: Final = "relay dies"
"""Besides, where there are relays."""


VILLAINS: Final = ("10.6.6.1", "10.6.6.2")
"""Where the Byzantine members live."""

USUAL_S_MAX: Final = 36.0
"""How long faults happen at the most where nothing is said of that."""
REST_S: Final = 35.0
"""What a world takes besides its faults, when it heals at once: to be quiet, and to end."""
NODES_MIN: Final = 2

_HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Plan:
    """One world, before it runs.

    Attributes:
        seed: what all of it was drawn from.
        hosts: the machines' addresses in the simulated network.
        dials: for each machine, whom it is configured to stay connected with; over a relay where a wall is between.
        relays: machines that pass circuits on for others.
        walls: pairs that nothing gets through between, ever, the smaller name first; `relays` lead around them.
        asks: whether the machines ask each other, too: requests.
        mails: whether some records are for somebody.
        faults: the kinds that happen here.
        fault_every_s: mean time between two of them.
        safety_s: how long they happen.
        admission: "key" (a network key) or "trust" (a list of all).
        append_every_s: mean time between two appends of one machine.
        record_bytes_max: size of the largest record.
        latency_s: one way, in good weather.
        segment_bytes: the most that one receive returns, None for no such bound.
        buffer_bytes: of a connection, per direction.
        loss, duplicates, jitter_s: the weather while faults happen, as `p2p.transport.memory_stream.Weather`.
        disk_fault_rate: how many of one read or commit fail meanwhile.
        skews_ms: how wrong each machine's clock is from the beginning.
        villains: addresses of members that keep to no rule while faults happen (`byzantine`).
        discovery: whether the nodes announce themselves, and dial whom they hear.
        limits: the nodes' bounds, some of them tightened.
        drawn_with: the arguments of `python -m p2p.testing` that draw it, besides the seed.
    """

    seed: int
    hosts: tuple[str, ...]
    dials: Mapping[str, tuple[str, ...]]
    relays: tuple[str, ...]
    walls: frozenset[tuple[str, str]]
    asks: bool
    mails: bool
    faults: tuple[str, ...]
    fault_every_s: float
    safety_s: float
    admission: str
    append_every_s: float
    record_bytes_max: int
    latency_s: float
    segment_bytes: int | None
    buffer_bytes: int
    loss: float
    duplicates: float
    jitter_s: float
    disk_fault_rate: float
    skews_ms: Mapping[str, int]
    villains: tuple[str, ...]
    discovery: bool
    limits: Limits
    drawn_with: str

    @property
    def pairs(self) -> frozenset[tuple[str, str]]:
        """Who is to be connected with whom, each pair once, the smaller name first."""
        return frozenset((min(a, b), max(a, b)) for a, others in self.dials.items() for b in others)

    def is_walled(self, a: str, b: str) -> bool:
        """Whether only a relay joins the two."""
        return (min(a, b), max(a, b)) in self.walls

    def __str__(self) -> str:
        tight = ", tight limits" if self.limits != Limits() else ""
        cut = f", segments of {self.segment_bytes}" if self.segment_bytes else ""
        lost = f", {self.loss:.0%} lost" if self.loss else ""
        errs = f", disks fail at {self.disk_fault_rate:.1%}" if self.disk_fault_rate else ""
        villains = f", {len(self.villains)} Byzantine" if self.villains else ""
        more = ", discovery" if self.discovery else ""
        more += f", {len(self.relays)} relays around {len(self.walls)} walls" if self.walls else ""
        more += ", requests" if self.asks else ""
        more += ", mail" if self.mails else ""
        return (
            f"{len(self.hosts)} nodes{villains}, {len(self.pairs)} links, {self.admission}{tight}{cut}{lost}{errs}"
            f"{more}, {self.safety_s:.0f} s of {', '.join(self.faults) or 'peace'}"
        )


def draw_plan(seed: int, *, nodes: int | None = None, seconds: float | None = None) -> Plan:
    """Draw a world.

    Args:
        seed: what all of it is drawn from.
        nodes: how many, from 2 on; 5 to 7 by default.
        seconds: how long the world lasts at least, on its own clock; by default about a minute.

    Raises:
        ConfigError: there is no such world, or it would be over before anything happens in it.
    """
    if nodes is not None and nodes < NODES_MIN:
        raise ConfigError(f"a world of {nodes} nodes has no network: name {NODES_MIN} or more")
    if seconds is not None and not REST_S < seconds < math.inf:
        raise ConfigError(
            f"a world of {seconds:g} s has no time in which anything happens: healing, rest and end take {REST_S:g} s"
            " of it; name more"
        )
    dice = Dice(seed).branch("plan")
    weather = Dice(seed).branch("weather")
    latency_s = dice.one_of((0.0, 0.001, 0.02, 0.1))
    hosts = tuple(f"10.0.0.{number}" for number in range(1, (dice.integer(5, 7) if nodes is None else nodes) + 1))
    faults = tuple(sorted(dice.some(FAULTS, dice.integer(2, 7)))) if dice.chance(0.95) else ()
    dials = _draw_dials(dice.branch("dials"), hosts)
    use = Dice(seed).branch("use")
    has_walls = use.chance(0.35) and len(hosts) > NODES_MIN
    relays, walls = _draw_walls(use.branch("walls"), hosts) if has_walls else ((), frozenset())
    if relays:
        dials = _around(walls, relays, dials)
        faults += (RELAY_FAULT,) if faults and use.chance(0.5) else ()
    return Plan(
        seed=seed,
        hosts=hosts,
        dials=dials,
        relays=relays,
        walls=walls,
        asks=use.chance(0.5),
        mails=use.chance(0.5),
        faults=faults,
        fault_every_s=dice.number(0.3, 4) * (1 if seconds is None else max(1.0, seconds / 80)),
        safety_s=dice.number(12, USUAL_S_MAX) if seconds is None else seconds - REST_S,
        admission=dice.one_of(("key", "key", "trust")),
        # A long world is a slow one and not a full one: it is there for what takes time.
        append_every_s=dice.number(0.3, 3) * (1 if seconds is None else max(1.0, seconds / 40)),
        record_bytes_max=dice.one_of((100, 100, 4 * KIB, 60 * KIB)),
        latency_s=latency_s,
        segment_bytes=dice.one_of((None, None, 1460, 97)),
        # Small buffers on a long way would be a network too slow for what is said here, and no finding.
        buffer_bytes=dice.one_of((64 * KIB, MIB, 3 * KIB if latency_s < 0.01 else 64 * KIB)),
        loss=weather.one_of((0.0, 0.0, 0.02, 0.1, weather.number(0, 0.4))),
        duplicates=weather.one_of((0.0, 0.1, weather.number(0, 0.5))),
        jitter_s=weather.one_of((0.0, 0.0, 0.01, 0.2)),
        disk_fault_rate=weather.one_of((0.0, 0.0, 0.0, 0.01, weather.number(0, 0.1))),
        skews_ms=MappingProxyType({host: weather.integer(-_HOUR_MS, _HOUR_MS) for host in hosts}),
        villains=VILLAINS[: weather.one_of((0, 0, 0, 1, 2))],
        discovery=weather.chance(0.2),
        limits=_draw_limits(dice.branch("limits")),
        drawn_with=(f" --nodes {nodes}" if nodes else "") + (f" --seconds {seconds:g}" if seconds else ""),
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


def _draw_walls(dice: Dice, hosts: tuple[str, ...]) -> tuple[tuple[str, ...], frozenset[tuple[str, str]]]:
    """Two or three machines that cannot reach each other, and the relays that all of them reach; of three or more."""
    relays = min(dice.one_of((1, 1, 2)), len(hosts) - 2)
    drawn = dice.some(hosts, min(relays + dice.one_of((2, 2, 3)), len(hosts)))
    apart = sorted(drawn[relays:], key=hosts.index)
    return tuple(drawn[:relays]), frozenset(combinations(apart, 2))


def _around(
    walls: frozenset[tuple[str, str]], relays: tuple[str, ...], dials: Mapping[str, tuple[str, ...]]
) -> Mapping[str, tuple[str, ...]]:
    """Dials that are configured, and besides them from both sides of each wall to every relay, and across it."""
    more = {host: list(others) for host, others in dials.items()}
    for a, b in sorted(walls):
        ways = [(a, b)] if a not in more[b] else []
        ways += [(side, relay) for side in (a, b) for relay in relays if side not in more[relay]]
        for caller, called in ways:
            if called not in more[caller]:
                more[caller].append(called)
    return MappingProxyType({host: tuple(others) for host, others in more.items()})


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
