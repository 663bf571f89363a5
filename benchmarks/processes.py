"""What does replication cost a mesh of real processes, and how soon does it mend when some of them are lost?

16 processes over TCP, in a full mesh (not in a short run) or on a random graph of degree 6. Records are appended by
all, and counted: how often a process receives a batch, and how many bytes arrive at it in all, sealed, beside the
records themselves.

Then three of them are lost, one after the other, and everybody else appends. Killed (SIGKILL), their links end at once,
and whoever had chosen it as the supplier of a log takes another. Hung (SIGSTOP), its links stay open and deliver
nothing: only another peer that shows more tells, and `supplier_stall_s` decides.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from benchmarks.harness import Row, Tell, row, spread
from benchmarks.pace import Pace
from benchmarks.worker import Worker, start_alike
from p2p.limits import Limits

PROCESSES = 16
DEGREE = 6
RECORD_BYTES = 1024
WAIT_S_MAX = 120.0
LIMITS = Limits()
KILLED_S_MAX = LIMITS.supplier_stall_s
HUNG_S_MAX = 2 * (LIMITS.supplier_stall_s + 2 * LIMITS.heads_debounce_quiet_s)
"""A node behind one that waits hears of more only when that one has changed its supplier: two timers in a row."""


def full_mesh(processes: int) -> list[set[int]]:
    """For each process those that it dials."""
    return [set(range(number)) for number in range(processes)]


def _random_graph(rng: random.Random) -> list[set[int]]:
    """A ring, so that it hangs together, and random links until each has about `DEGREE`."""
    dials: list[set[int]] = [{(number + 1) % PROCESSES} for number in range(PROCESSES)]
    while sum(map(len, dials)) < PROCESSES * DEGREE // 2:
        one, other = rng.sample(range(PROCESSES), 2)
        if one not in dials[other]:
            dials[one].add(other)
    return dials


async def _all(members: list[Worker], **task: object) -> list[dict[str, Any]]:
    """Ask all at once, and wait for all."""
    answers: list[dict[str, Any]] = [{} for _ in members]

    async def ask(number: int) -> None:
        answers[number] = await members[number].ask(**task)

    with trio.fail_after(WAIT_S_MAX):
        async with trio.open_nursery() as nursery:
            for number in range(len(members)):
                nursery.start_soon(ask, number)
    return answers


def _total(answers: list[dict[str, Any]], key: str) -> int:
    return sum(answer.get(key, 0) for answer in answers)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a shape of links gave.

    Attributes:
        copies: of a batch, received per process.
        wire: bytes received per byte of records.
        mended_s: until all are equal again, after each loss.
    """

    copies: float
    wire: float
    mended_s: list[float]


class Mesh:
    """Processes that replicate, over links that can be laid anew."""

    def __init__(self, members: list[Worker]) -> None:
        self._members = members
        self._ports: list[int] = []
        self._held = 0

    async def link(self, dials: list[set[int]]) -> None:
        """End all links, and make these."""
        if not self._ports:
            self._ports = [(await member.result())["port"] for member in self._members]
        await _all(self._members, disconnect=True)
        for number, member in enumerate(self._members):
            await member.ask(connect=[self._ports[other] for other in sorted(dials[number])])

    async def measure(self, records: int, losses: Sequence[signal.Signals]) -> Measured:
        """All append so many; then some of them are lost, one after the other, and all others append one."""
        processes = len(self._members)
        self._held += processes
        await _all(self._members, append=1, size=RECORD_BYTES, until=self._held)
        await trio.sleep(2 * LIMITS.heads_debounce_quiet_s)  # until quiet links have told their heads too

        before = await _all(self._members)
        self._held += records * processes
        after = await _all(self._members, append=records, size=RECORD_BYTES, until=self._held)
        assert len({answer["digest"] for answer in after}) == 1
        applied = _total(after, "pushes_applied") - _total(before, "pushes_applied")
        pushes = sum(_total(after, key) - _total(before, key) for key in after[0] if key.startswith("pushes_"))
        received = _total(after, "received") - _total(before, "received")
        due = records * processes * (processes - 1) * RECORD_BYTES
        return Measured(pushes / applied, received / due, [await self._lose(loss) for loss in losses])

    async def _lose(self, loss: signal.Signals) -> float:
        os.kill(self._members.pop(0).pid, loss)
        self._held += len(self._members)
        began = time.monotonic()
        ended = await _all(self._members, append=1, size=RECORD_BYTES, until=self._held)
        return float(max(answer["at"] for answer in ended)) - began


def _shape(shape: str, measured: Measured, losses: Sequence[signal.Signals]) -> Iterator[Row]:
    """The rows of a shape. Counts and times beside a bound have no baseline to run in turn with."""
    note = f"{PROCESSES} processes over TCP; a count"
    yield row(
        f"copies of a batch received per process, {shape}", spread([measured.copies]), "<= 1.1",
        value=measured.copies, unit="copies", baseline="1: each batch once", note=note,
    )  # fmt: skip
    yield row(
        f"bytes received per byte of records of 1 KiB, {shape}", spread([measured.wire]), "<= 1.5",
        value=measured.wire, unit="bytes", baseline="1: the records alone", note=note,
    )  # fmt: skip
    for loss, what, most_s in ((signal.SIGKILL, "is killed", KILLED_S_MAX), (signal.SIGSTOP, "hangs", HUNG_S_MAX)):
        if mended := [seconds for lost, seconds in zip(losses, measured.mended_s, strict=True) if lost is loss]:
            yield row(
                f"a process {what}, {shape}: all others are equal again ÷ {most_s:g} s",
                spread(mended) / most_s, "<= 1",
                value=statistics.median(mended), unit="s", baseline=f"{most_s:g} s",
                note=f"{PROCESSES} processes over TCP; a bound, nothing to measure in turn",
            )  # fmt: skip


async def _rows(pace: Pace, tell: Tell) -> None:
    losses = (signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP)
    shapes = [("full mesh", full_mesh(PROCESSES), ()), ("degree 6", _random_graph(random.Random(7)), losses)]
    records = 20 if pace.quick else 200
    async with start_alike(PROCESSES, "member") as started:
        mesh = Mesh(started)
        for shape, dials, lost in shapes[1:] if pace.quick else shapes:
            await mesh.link(dials)
            for each in _shape(shape, await mesh.measure(records, lost), lost):
                tell(each)


def run(pace: Pace, tell: Tell) -> None:
    """Measure and tell the rows as they come."""
    pace.run(_rows, pace, tell)
