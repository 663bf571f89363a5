"""What does replication cost a mesh of real processes, and how soon does it mend when some of them are lost?

16 processes over TCP, in a full mesh or on a random graph of degree 6. Records are appended by all, and counted: how
often a process receives a batch, and how many bytes arrive at it in all, sealed, beside the records themselves.

Then three of them are lost, one after the other, and everybody else appends. Killed (SIGKILL), their links end at once,
and whoever had chosen it as the supplier of a log takes another. Hung (SIGSTOP), its links stay open and deliver
nothing: only another peer that shows more tells, and `supplier_stall_s` decides.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import trio

from benchmarks.harness import Row, at_most
from benchmarks.worker import Worker, start
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


async def run_mesh(
    dials: list[set[int]], records: int, losses: Sequence[signal.Signals]
) -> tuple[float, float, list[float]]:
    """Copies of a batch per process; bytes received per byte of records; seconds to be equal after each loss."""
    processes = len(dials)
    async with AsyncExitStack() as stack:
        members = [await stack.enter_async_context(start("member")) for _ in dials]
        ports = [(await member.result())["port"] for member in members]
        for number, member in enumerate(members):
            await member.ask(connect=[ports[other] for other in sorted(dials[number])])
        held = processes
        await _all(members, append=1, size=RECORD_BYTES, until=held)
        await trio.sleep(2 * LIMITS.heads_debounce_quiet_s)  # until quiet links have told their heads too

        before = await _all(members)
        held += records * processes
        after = await _all(members, append=records, size=RECORD_BYTES, until=held)
        assert len({answer["digest"] for answer in after}) == 1
        applied = _total(after, "pushes_applied") - _total(before, "pushes_applied")
        pushes = sum(_total(after, key) - _total(before, key) for key in after[0] if key.startswith("pushes_"))
        received = _total(after, "received") - _total(before, "received")
        due = records * processes * (processes - 1) * RECORD_BYTES

        mended = []
        for loss in losses:
            os.kill(members.pop(0).pid, loss)
            held += len(members)
            began = time.monotonic()
            ended = await _all(members, append=1, size=RECORD_BYTES, until=held)
            mended.append(max(answer["at"] for answer in ended) - began)
        return pushes / applied, received / due, mended


def _shape(shape: str, dials: list[set[int]], records: int, losses: Sequence[signal.Signals]) -> list[Row]:
    copies, wire, mended = trio.run(run_mesh, dials, records, losses)
    where = f"{PROCESSES} processes over TCP"
    copied = f"copies of a batch received per process, {shape}"
    received = f"bytes received per byte of records of 1 KiB, {shape}"
    rows = [
        at_most(copied, copies, "copies", "1: each batch once", copies, 1.1, where),
        at_most(received, wire, "bytes", "1: the records alone", wire, 1.5, where),
    ]
    for loss, seconds in zip(losses, mended, strict=True):
        most = KILLED_S_MAX if loss is signal.SIGKILL else HUNG_S_MAX
        what = "is killed" if loss is signal.SIGKILL else "hangs"
        question = f"a process {what}, {shape}: all others are equal again ÷ {most:g} s"
        rows.append(at_most(question, seconds, "s", f"{most:g} s", seconds / most, 1, where))
    return rows


def run(quick: bool) -> Iterator[Row]:
    """Measure and return the rows as they come."""
    rng, records = random.Random(7), 20 if quick else 200
    yield from _shape("full mesh", full_mesh(PROCESSES), records, ())
    yield from _shape("degree 6", _random_graph(rng), records, (signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP))
