"""The n-th fault, for every n: each send, accept, read, commit and open fails once, and each write and sync of a file.

What goes through our windows fails in virtual time, in two nodes that must end with equal logs. What SQLite does below
is made to fail by strace, in a process of its own whose store is read afterwards.

    python -m pytest tests/proof/faults.py
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import trio

import p2p
from p2p.errors import StoreError
from p2p.limits import Limits
from p2p.store.base import NotBulk
from p2p.store.keys import open_store
from p2p.testing.dice import Dice
from p2p.testing.disk import Disk, Mount
from p2p.testing.scheduler import run_seeded
from p2p.transport.memory import MemoryListener, MemoryNetwork
from p2p.transport.memory_stream import MemoryStream
from p2p.windows import SimulatedClock
from tests.crash.appender import FOREIGN, foreign_batches, limits_of, say
from tests.logs import Log

APPENDS = 12


class Nth:
    """Says yes once, at the n-th question.

    Attributes:
        asked: how many questions there were.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked == self.n

    def chance(self, _probability: float) -> bool:
        """In the place of a disk's dice."""
        return self()


def failing_send(nth: Nth, patch: pytest.MonkeyPatch, disks: list[Disk]) -> None:
    send_all, send_nowait = MemoryStream.send_all, MemoryStream.send_nowait

    async def send(self: MemoryStream, data: bytes) -> None:
        if nth():
            self.sever("planted")
            raise trio.BrokenResourceError("planted")
        await send_all(self, data)

    def send_now(self: MemoryStream, data: bytes) -> int:
        if nth():
            self.sever("planted")
            return 0
        return send_nowait(self, data)

    patch.setattr(MemoryStream, "send_all", send)
    patch.setattr(MemoryStream, "send_nowait", send_now)


def failing_receive(nth: Nth, patch: pytest.MonkeyPatch, disks: list[Disk]) -> None:
    receive_some = MemoryStream.receive_some

    async def receive(self: MemoryStream, max_bytes: int | None = None) -> bytes:
        if nth():
            self.sever("planted")
        return await receive_some(self, max_bytes)

    patch.setattr(MemoryStream, "receive_some", receive)


def failing_accept(nth: Nth, patch: pytest.MonkeyPatch, disks: list[Disk]) -> None:
    accept_one = MemoryListener.accept

    async def accept(self: MemoryListener) -> MemoryStream:
        # A listener answers for what `accept` itself may fail with (T04); what it gives may be dead already.
        stream = await accept_one(self)
        if nth():
            stream.sever("planted")
        return stream

    patch.setattr(MemoryListener, "accept", accept)


def failing_disk(nth: Nth, patch: pytest.MonkeyPatch, disks: list[Disk]) -> None:
    for disk in disks:
        disk.fault_rate = 1.0
        disk.faults = nth  # type: ignore[assignment]


KINDS: dict[str, tuple[Callable[[Nth, pytest.MonkeyPatch, list[Disk]], None], int]] = {
    "send": (failing_send, 40),
    "receive": (failing_receive, 40),
    "accept": (failing_accept, 1),
    "disk": (failing_disk, 25),
}
"""What fails, and how often it happens at least in a run that nothing disturbs."""


async def two_nodes(disks: list[Disk]) -> None:
    """Both append, and end with equal logs, whatever failed."""
    net = MemoryNetwork(latency_s=0.01)

    async def node_of(index: int, *, task_status: trio.TaskStatus[p2p.Node]) -> None:
        peers = (p2p.PeerEndpoint("10.0.0.1", 9000, "mem"),) if index else ()
        async with trio.open_nursery() as process:
            config = p2p.NodeConfig(
                node_id=f"n{index}",
                listen_port=9000,
                peers=peers,
                network_key=bytes(32),
                store=(mount := Mount(disks[index], process, 2.5)).open,
                blocking=mount,
                clock=SimulatedClock(),
                entropy=Dice(index).entropy,
                network=net.network_for(f"10.0.0.{index + 1}"),
            )
            try:
                async with p2p.open_node(config) as node:
                    task_status.started(node)
                    await trio.sleep_forever()
            except* StoreError:
                # Its store could not be opened: as any service manager would, try again.
                async with p2p.open_node(config) as node:
                    task_status.started(node)
                    await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nodes = [await nursery.start(node_of, index) for index in range(2)]
        acknowledged = [0, 0]
        for number in range(APPENDS):
            for index, node in enumerate(nodes):
                try:
                    acknowledged[index] = await node.wal.append(b"%d of %d" % (number, index))
                except StoreError:
                    continue
            await trio.sleep(0.5)
        with trio.fail_after(60):
            while not (
                nodes[0].wal.digest() == nodes[1].wal.digest()
                and all(
                    nodes[0].wal.heads()[node.peer_id].seq >= seq for node, seq in zip(nodes, acknowledged, strict=True)
                )
            ):
                await trio.sleep(0.1)
        assert min(acknowledged) >= APPENDS - 4
        nursery.cancel_scope.cancel()
    for disk in disks:
        assert list(disk.log.verify()) == []


def run_with(kind: str, n: int) -> int:
    """Let the n-th of a kind fail; returns how many there were."""
    disks = [Disk(Dice(f"faults/{index}")) for index in range(2)]
    nth = Nth(n)
    with pytest.MonkeyPatch.context() as patch:
        KINDS[kind][0](nth, patch, disks)
        run_seeded(1, two_nodes, disks)
    return nth.asked


@pytest.mark.parametrize("kind", KINDS)
def test_t61_t68_the_nth_failure_of_each_kind_is_survived(kind: str) -> None:
    count = run_with(kind, 0)
    assert count >= KINDS[kind][1]
    for n in range(1, count + 1):
        try:
            run_with(kind, n)
        except BaseException as error:
            error.add_note(f"{kind} number {n} of {count} failed")
            raise


# What SQLite does to its files.

BATCHES = 12
PR_SET_PTRACER = 0x59616D61


def store_batches(path: Path) -> None:
    """Append to a store, again where it failed, and say what is durable and how often something failed."""
    limits = replace(limits_of(400), segment_bytes_max=9000)
    store, _ = open_store(path, entropy=os.urandom, say=lambda _: None, limits=limits)
    failures = 0
    log = Log(2)
    for number in range(BATCHES):
        log.add(bytes(2000 if number % 4 else 100))
    for number, batch in enumerate(log.batches):
        for _ in range(30):
            try:
                with store.write(is_bulk=number % 4 != 0) as transaction:
                    transaction.append(batch)
                break
            except NotBulk:
                pass
            except StoreError:
                failures += 1
                with suppress(StoreError):
                    store.recover()
        else:
            raise AssertionError("it never recovered")
        say(f"{batch.seq_end} {failures}")
        if (chore := store.chore()) is not None:
            chore()
    store.close()


def run_traced(run: Callable[[], None], *traced: str) -> tuple[int, str, str]:
    """Run something in a fork that strace follows; what it ended with, and said on its two streams.

    It has everything imported: a start of Python would be most of the time.
    """
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as told:
        wait, go = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                os.close(go)
                os.dup2(said.fileno(), 1)
                os.dup2(told.fileno(), 2)
                # Where a system lets only a parent trace: strace is no relative.
                ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
                os.read(wait, 1)
                run()
                code = 0
            except BaseException:  # noqa: BLE001  # the parent looks at what is shown
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(code)
        os.close(wait)
        command = ["strace", "-f", "-o", "/dev/null", "-p", str(pid), *traced]
        try:
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
                try:
                    assert tracer.stderr is not None
                    assert "attached" in (line := tracer.stderr.readline()), line
                    os.write(go, b".")
                    tracer.wait(120)
                finally:
                    os.kill(pid, signal.SIGKILL)
        finally:
            os.close(go)
            _, status = os.waitpid(pid, 0)
        for stream in (said, told):
            stream.seek(0)
        return os.waitstatus_to_exitcode(status), said.read(), told.read()


SYSCALLS = {"pwrite64": 30, "pwritev,pwritev2": 9, "fdatasync,fsync": 20, "openat,open": 12}
SEGMENTS = [f"log.sqlite.{number:06}.segment" for number in range(8)]
"""What fails, and up to which n."""


def can_trace() -> bool:
    """Whether this user may trace his own processes, with a strace that injects errors."""
    probe = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=chdir:error=EIO", "true"]
    try:
        return subprocess.run(probe, capture_output=True, timeout=30, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not can_trace(), reason="needs strace, and the right to trace")
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("syscall", SYSCALLS)
def test_t61_the_nth_failure_below_sqlite_is_survived(tmp_path: Path, syscall: str, error: str) -> None:
    hits = 0
    for n in range(1, SYSCALLS[syscall] + 1):
        path = tmp_path / "data"
        shutil.rmtree(path, ignore_errors=True)
        store, _ = open_store(path, entropy=os.urandom, say=lambda _: None)
        store.close()
        files = [f"--trace-path={path / name}" for name in ("log.sqlite", "log.sqlite-wal", *SEGMENTS)]
        inject = f"inject={syscall}:error={error}:when={n}"
        traced = [*files, "-e", f"trace={syscall}", "-e", inject]
        code, shown, told = run_traced(partial(store_batches, path), *traced)
        lines = [tuple(map(int, line.split())) for line in shown.splitlines()]
        said = [seq for seq, _ in lines]
        hits += bool(code) or any(failures for _, failures in lines)
        if code:
            # It may refuse to open, in its own words; nothing else may end it.
            assert re.search(r"StoreError|StoreFull|StoreCorrupt|StoreReadOnly", told), (n, told)
            assert not said, (n, told)
        else:
            assert len(said) == BATCHES
        store, _ = open_store(path, entropy=os.urandom, say=lambda _: None)
        assert list(store.verify()) == []
        held = [state.seq for state in store.states().values()]
        assert max(held, default=0) >= max(said, default=0), f"{syscall} {n}: {said} was said, {held} is held"
        store.close()
    assert hits, "nothing failed: this proves nothing"


# A byte of a store's file.

SAMPLES = int(os.environ.get("PROOF_BYTES", "400"))


def test_t62_any_flipped_byte_is_found_or_harmless(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    # About half of them lie in a segment.
    limits = replace(Limits(), segment_batch_bytes_min=350)
    store, _ = open_store(whole, entropy=os.urandom, say=lambda _: None, limits=limits)
    batches = list(islice(foreign_batches(), 25))
    with store.write() as transaction:
        for batch in batches:
            transaction.append(batch)
    store.close()
    contents = [batch.wal_bytes for batch in batches]
    # Most of the index are zeros that nobody reads.
    used = {file: [at for at, byte in enumerate(file.read_bytes()) if byte] for file in whole.glob("log.sqlite*")}
    assert len(used) == 2
    dice = Dice("bytes")
    found = 0
    for _ in range(SAMPLES):
        file = dice.one_of(sorted(used))
        at = dice.one_of(used[file])
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        flipped = bytearray(file.read_bytes())
        flipped[at] ^= 1 << dice.integer(0, 7)
        (copy / file.name).write_bytes(flipped)
        found += _is_found(copy, FOREIGN, contents, at)
    assert found > SAMPLES // 4, "hardly any flip was found: they did not hit"


def _is_found(path: Path, origin: p2p.PeerId, contents: list[bytes], at: int) -> bool:
    """Whether the damage was noticed. If not, everything must be as it was; and what is served must be in any case."""
    try:
        store, _ = open_store(path, entropy=os.urandom, say=lambda _: None)
    except StoreError:
        return True
    try:
        damages = list(store.verify())
        loaded = store.load(origin, 1, 2**62, 2**62)
        served = [batch.wal_bytes for batch in loaded.batches]
        # Batches may be missing, and then somebody must know; none may be another one.
        assert served == [data for data in contents if data in served], f"byte {at}: something else is served"
        if len(served) == len(contents):
            return bool(damages)
        state = store.states().get(origin)
        assert damages or loaded.damaged or state is None or state.lost_seq, f"byte {at}: lost, and nobody knows"
        return True
    except StoreError:
        return True
    finally:
        store.close()
