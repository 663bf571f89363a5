"""A process that meets a disk without room, and says what it sees.

    python -m tests.crash.fuller DIR tmpfs|fsize RECORD_BYTES [LOG_KIB]

With `tmpfs`, DIR is on a file system of 8 MiB that a filler file has made small, and removing the filler is the cure.
With `fsize`, no file may grow beyond 500 KiB, and raising that limit is the cure. With LOG_KIB, SQLite's log is kept
so short that it is the file which meets the end of the room. With records so big that each is in a segment, it is that.
"""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from p2p.errors import StoreError, StoreReadOnly
from p2p.limits import Limits
from p2p.node import events
from p2p.node.writer import Writer
from p2p.replication.batch import NewRecord
from p2p.store.keys import open_store
from p2p.windows import SystemBlocking, SystemClock
from tests.crash.appender import limits_of, say


class CountingBlocking(SystemBlocking):
    """Lanes that can be waited for."""

    __slots__ = ("awaited", "writes")

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.awaited: tuple[int, trio.Event] | None = None

    async def run(self, lane: Any, fn: Any, *args: Any) -> Any:
        try:
            return await super().run(lane, fn, *args)
        finally:
            self.writes += lane == "write"
            if self.awaited is not None and self.writes >= self.awaited[0]:
                self.awaited[1].set()

    async def wait_writes(self, more: int) -> None:
        """Wait until so many more pieces of work were done on the lane "write", in vain or not."""
        event = trio.Event()
        self.awaited = (self.writes + more, event)
        await event.wait()


async def main(path: Path, how: str, record_bytes: int, limits: Limits) -> None:
    limits = replace(limits, store_retry_s=0.02)
    filler = path / "filler"
    store, identity = open_store(path / "data", entropy=os.urandom, say=lambda _: None, limits=limits)
    if how == "tmpfs":
        filler.write_bytes(bytes(5 * 1024 * 1024))
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500 * 1024, resource.RLIM_INFINITY))
    seen: list[events.NodeEvent] = []
    writable = trio.Event()

    def emit(event: events.NodeEvent) -> None:
        seen.append(event)
        if isinstance(event, events.StoreWritable):
            writable.set()

    blocking = CountingBlocking()
    writer = Writer(
        store=store,
        identity=identity,
        clock=SystemClock(),
        blocking=blocking,
        limits=limits,
        emit=emit,
        admit=lambda _origin, _via: True,
    )
    acknowledged: list[int] = []

    async def append(size: int) -> None:
        acknowledged.extend(await writer.append_many([NewRecord("app", None, bytes(size))]))

    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        try:
            while len(acknowledged) < 100:
                await append(record_bytes)
        except StoreError as error:
            say(f"failed {type(error).__name__}")
        try:
            await append(1)
        except StoreReadOnly:
            say("read-only")
        # It tries again all the while, and must not succeed: nothing has changed.
        await blocking.wait_writes(4)
        assert writer.read_only, "there is still no room"
        assert acknowledged
        first = [event for event in seen if not isinstance(event, events.HeadsMoved)]
        assert [type(event) for event in first] == [events.StoreReadOnly], first
        held = await writer.load(writer.own, 1, 2**60)
        assert held[-1].seq_end == acknowledged[-1], "reading goes on"
        if how == "tmpfs":
            filler.unlink()
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        with trio.fail_after(60):
            await writable.wait()
        await append(record_bytes)
        assert acknowledged == list(range(1, len(acknowledged) + 1)), "no seq is lost or used twice"
        assert writer.heads[writer.own].seq == acknowledged[-1]
        nursery.cancel_scope.cancel()
    assert list(store.verify()) == []
    store.close()
    store, _ = open_store(path / "data", entropy=os.urandom, say=lambda _: None, limits=limits)
    assert store.states()[store.own].seq == acknowledged[-1]
    store.close()
    say("recovered")


if __name__ == "__main__":
    limits = limits_of(int(sys.argv[4])) if sys.argv[4:] else Limits()
    trio.run(main, Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), limits)
