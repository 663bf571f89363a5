"""A process that appends to a store and takes a foreign log, and says on stdout what is durable. It is killed.

    python -m tests.crash.appender DIR FIRST LOG_KIB

Each line is `own SEQ NUMBER` or `foreign SEQ`, written only after the writer said that it is durable.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from unittest.mock import patch

import trio

from p2p.limits import KIB, Limits
from p2p.node.commits import PushOutcome
from p2p.node.writer import Writer
from p2p.replication.accept import Verdict
from p2p.replication.batch import Batch, NewRecord
from p2p.store import segments
from p2p.store.keys import open_store
from p2p.windows import SystemBlocking, SystemClock
from tests.logs import Log, identity, push_of

TASKS = 8
FOREIGN_BATCHES = 400


def payload_of(number: int) -> bytes:
    """What the record of this number holds: of all sizes, and known to the one who checks."""
    return b"%d:" % number + b"p" * (number * 37 % 5000)


FOREIGN = identity(2).peer_id


def foreign_batches() -> Iterator[Batch]:
    """The log that is pushed, always the same. Each batch is sealed when it is wanted: most lives are short."""
    log = Log(2)
    for number in range(FOREIGN_BATCHES):
        yield log.add(b"%d" % number, bytes(number * 13 % 3000))


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def limits_of(log_kib: int) -> Limits:
    """Bounds of a store whose log begins anew after so many KiB; eight times in between some of it is copied."""
    return replace(Limits(), store_log_bytes_max=log_kib * KIB, store_pass_bytes=log_kib * KIB // 8)


async def main(path: Path, first: int, log_kib: int) -> None:
    # What waits together is often so big that it lies in a segment, and is begun before it is sealed. Those are short.
    limits = replace(
        limits_of(log_kib),
        segment_batch_bytes_min=16 * KIB,
        segment_bytes_max=512 * KIB,
        segment_tail_bytes_max=256 * KIB,
    )
    store, identity = open_store(path, entropy=os.urandom, say=lambda _: None, limits=limits)
    numbers = count(first)
    writer = Writer(
        store=store,
        identity=identity,
        clock=SystemClock(),
        blocking=SystemBlocking(),
        limits=limits,
        emit=lambda _: None,
        admit=lambda _origin, _via: True,
    )

    async def append() -> None:
        while True:
            mine = [next(numbers) for _ in range(3)]
            seqs = await writer.append_many([NewRecord("app", None, payload_of(number)) for number in mine])
            for seq, number in zip(seqs, mine, strict=True):
                say(f"own {seq} {number}")

    async def push() -> None:
        for batch in foreign_batches():
            over = trio.Event()

            def done(outcome: PushOutcome, over: trio.Event = over) -> None:
                assert outcome.verdict in (Verdict.APPLIED, Verdict.DUPLICATE), outcome
                say(f"foreign {outcome.ack}")
                over.set()

            writer.submit_push(push_of(batch), FOREIGN, done)
            await over.wait()

    with patch.object(segments, "_AHEAD_BYTES_MIN", limits.segment_batch_bytes_min):
        async with trio.open_nursery() as nursery:
            await nursery.start(writer.run)
            nursery.start_soon(push)
            for _ in range(TASKS):
                nursery.start_soon(append)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
