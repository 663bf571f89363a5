"""What happens to a node's logs is told on standard error, in one line that says what to do."""

from __future__ import annotations

import re
import resource
import shutil
import signal
import sqlite3
import subprocess
from contextlib import closing, suppress
from pathlib import Path

import trio

from tests.cli.prepared import Process
from tests.cli.processes import p2p_ok, running, start
from tests.ports import free_port


class Spoken:
    """A node whose lines on standard error are read until one says what is waited for."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.said = ""

    async def until(self, part: str) -> str:
        """Wait for a line with this part, and return the line."""
        with trio.fail_after(60):
            while (line := next((line for line in self.said.splitlines(True) if part in line), "")) == "":
                chunk = await self.process.stderr.receive_some()
                assert chunk, f"it ended and never said {part!r}: {self.said}"
                self.said += chunk.decode()
            return line.strip()

    async def end(self) -> None:
        """Kill it and collect it."""
        self.process.kill()
        await self.process.wait()
        await self.process.stderr.aclose()


async def speaking(*arguments: str | Path) -> Spoken:
    """Start a node."""
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    return Spoken(await start("--stats-every", "0", *arguments, **streams))


async def test_a_fork_is_told_by_whoever_finds_it(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    await p2p_ok("wal", "append", "--data-dir", one, stdin=b"the same\n")
    shutil.copytree(one, other)
    await p2p_ok("wal", "append", "--data-dir", one, stdin=b"here\n")
    await p2p_ok("wal", "append", "--data-dir", other, stdin=b"there\n")
    port = str(free_port())
    async with (
        running("--id", "A", "--data-dir", one, "--listen", port) as a,
        running("--id", "B", "--data-dir", tmp_path / "b", "--connect", f"127.0.0.1:{port}") as b,
    ):
        await b.records(2)
        assert await a.end(signal.SIGTERM) == 0
        async with running("--id", "A", "--data-dir", other, "--listen", port):
            line = await Spoken(b.process).until("is forked")
    assert "the log of A is forked" in line
    assert line.startswith("[p2p] warn: B: ")


async def test_a_node_whose_own_log_forked_carries_on_those_of_others(tmp_path: Path) -> None:
    one, other, third = tmp_path / "one", tmp_path / "other", tmp_path / "b"
    await p2p_ok("wal", "append", "--data-dir", one, stdin=b"the same\n")
    shutil.copytree(one, other)
    await p2p_ok("wal", "append", "--data-dir", one, stdin=b"here\n")
    await p2p_ok("wal", "append", "--data-dir", other, stdin=b"there\n")
    async with running("--id", "B", "--data-dir", third, "--append-stdin") as b:
        async with running("--id", "A", "--data-dir", one, "--connect", await b.endpoint()) as a:
            await b.records(2)
            assert await a.end(signal.SIGTERM) == 0
        async with running("--id", "A", "--data-dir", other, "--connect", await b.endpoint(), "--append-stdin") as a:
            spoken = Spoken(a.process)
            await spoken.until("is forked")
            await a.send_lines("no more")
            assert "two histories" in await spoken.until("standard input is not taken any more")
            # Its own log counts up to the fork now.
            count = len(a.events)
            await a.until(lambda event: event.get("records") == 1, after=count)
            await b.send_lines("of another")
            await a.until(lambda event: event.get("records") == 2, after=count)
            assert await a.end(signal.SIGTERM) == 1
        # Idle input has no line that is refused; its writer is to know all the same.
        async with running("--id", "A", "--data-dir", one, "--connect", await b.endpoint(), "--append-stdin") as a:
            # Nor has one that is over.
            assert a.process.stdin is not None
            await a.process.stdin.aclose()
            await Spoken(a.process).until("is forked")
            assert await a.end(signal.SIGTERM) == 1


async def test_a_store_that_cannot_be_written_is_told_and_so_is_its_return(tmp_path: Path) -> None:
    node = await speaking("--id", "A", "--data-dir", tmp_path, "--append-stdin")
    # A file may not grow beyond 256 KiB: SQLite's log reaches that soon.
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (256 * 1024, 256 * 1024))
    try:
        line = "x" * 1000 + "\n"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(offer, node.process.stdin, (line * 2000).encode())
            told = await node.until("read-only")
            waits = await node.until("standard input waits")
            node.process.send_signal(signal.SIGINT)
            lost = await node.until("not appended")
            with trio.fail_after(30):
                assert await node.process.wait() == 1
            nursery.cancel_scope.cancel()
    finally:
        await node.end()
    assert told.startswith("[p2p] warn: A: the store cannot be written")
    assert waits.startswith("p2p: standard input waits: ")
    assert re.fullmatch(r"p2p: read from standard input and not appended: [0-9]+ lines", lost)


async def offer(stdin: trio.abc.SendStream, data: bytes) -> None:
    """Send as much as it takes before it ends."""
    with suppress(trio.BrokenResourceError):
        await stdin.send_all(data)


async def test_damage_and_its_repair_are_told(tmp_path: Path) -> None:
    key, copy = tmp_path / "net.key", tmp_path / "b"
    await p2p_ok("id", "--new-network-key", key)
    options = ["--network-key-file", key, "--host", "127.0.0.1"]
    async with running("--id", "A", "--data-dir", tmp_path / "a", "--append-stdin", *options) as a:
        await a.send_lines(*(f"line {number}" for number in range(50)))
        await a.records(50)
        async with running("--id", "B", "--data-dir", copy, "--connect", await a.endpoint(), *options) as b:
            await b.records(50)
            assert await b.end(signal.SIGTERM) == 0
        with closing(sqlite3.connect(copy / "log.sqlite")) as store, store:
            store.execute("UPDATE batches SET wal = zeroblob(length(wal))")
        # Whoever asks B for A's log has B read it.
        async with running("--id", "C", "--memory", *options) as c:
            connects = ["--connect", await a.endpoint(), "--connect", await c.endpoint()]
            node = await speaking("--id", "B", "--data-dir", copy, *connects, *options)
            try:
                damaged = await node.until("is damaged on the disk")
                whole = await node.until("is whole again")
            finally:
                await node.end()
    assert damaged.startswith("[p2p] warn: B: the log of A ")
    assert whole.startswith("[p2p] info: B: the log of A ")
    assert "ok: 50 records" in await p2p_ok("wal", "verify", "--data-dir", copy)
