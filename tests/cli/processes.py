"""Real `p2p` processes for tests: started, listened to, signalled, and never left behind."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import signal
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any, TextIO
from unittest.mock import patch

import trio

from p2p.cli.app import run_command_line
from tests.cli.prepared import Process, can_be_forked, fork

COMMAND = [sys.executable, "-m", "p2p"]
ROOT = Path(__file__).resolve().parents[2]
STARTED: list[Process] = []
"""Those of `start`: what a test that fails has started ends with it."""


def environment(**more: str) -> dict[str, str]:
    """The environment without settings of ours, so that a developer's own do not reach the tests.

    Discovery is off: tests that run at the same time would find each other.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("P2P_")}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "P2P_DISCOVERY": "off"} | more


async def p2p(
    *arguments: str | Path, stdin: bytes = b"", until: bytes = b"", **more: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end; or interrupt it as soon as its standard error has this pattern."""
    with trio.fail_after(120):
        process = await _start(*arguments, stdin=subprocess.PIPE, **more)
        said: dict[str, bytes] = {}

        async def read(name: str, stream: trio.abc.ReceiveStream) -> None:
            said[name] = b""
            is_awaited = bool(until) and name == "stderr"
            async with stream:
                async for part in stream:
                    said[name] += part
                    if is_awaited and re.search(until, said[name]):
                        process.send_signal(signal.SIGINT)
                        is_awaited = False

        try:
            async with trio.open_nursery() as nursery, process.stdin:
                nursery.start_soon(read, "stdout", process.stdout)
                nursery.start_soon(read, "stderr", process.stderr)
                with suppress(trio.BrokenResourceError):  # it read no more
                    await process.stdin.send_all(stdin)
            return subprocess.CompletedProcess(arguments, await process.wait(), said["stdout"], said["stderr"])
        finally:
            process.kill()


async def start(*arguments: str | Path, **options: Any) -> Process:
    """Start a command whose end the test waits for itself.

    Args:
        options: `stdin`, `stdout`, `stderr` (a descriptor, `subprocess.PIPE` or `subprocess.DEVNULL`), and environment;
            `module`, if it is another one than `p2p`.
    """
    process = await _start(*arguments, **options)
    STARTED.append(process)
    return process


async def _start(
    *arguments: str | Path,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    module: str = "p2p",
    **more: str,
) -> Process:
    command, settings = list(map(str, arguments)), environment(**more)
    if can_be_forked(settings):
        return await fork(module, command, settings, (stdin, stdout, stderr))
    return await trio.lowlevel.open_process(
        [sys.executable, "-m", module, *command], stdin=stdin, stdout=stdout, stderr=stderr, env=settings
    )  # type: ignore[return-value]  # as much of its streams is there as of a fork's


async def p2p_ok(*arguments: str | Path, stdin: bytes = b"", **more: str) -> str:
    """Run a command that must succeed; returns its standard output."""
    done = await p2p(*arguments, stdin=stdin, **more)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


async def p2p_fails(code: int, *arguments: str | Path, stdin: bytes = b"", **more: str) -> str:
    """Run a command that must fail with one line; returns that line."""
    done = await p2p(*arguments, stdin=stdin, **more)
    error = done.stderr.decode()
    assert done.returncode == code, (done.returncode, error, done.stdout)
    *notices, line = error.splitlines()
    assert line.startswith("p2p: "), error
    assert all(notice.startswith(("p2p: ", "[p2p] ")) for notice in notices), error
    return line


def p2p_refuses(*arguments: str | Path) -> str:
    """Give arguments that are wrong usage; returns the one line that says so.

    For what is refused before anything begins, so no process has to: its start is most of the time of such a test.
    """
    said = io.StringIO()
    with patch.dict(os.environ, environment(), clear=True), redirect_stderr(said):
        code = run_command_line([str(argument) for argument in arguments])
    (line,) = said.getvalue().splitlines()
    assert code == 2, line
    assert line.startswith("p2p: ")
    return line


def unread(pipe: int) -> int:
    """Bytes in a pipe that nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@contextmanager
def output_without_reader() -> Iterator[TextIO]:
    """A pipe whose reader has gone, to stand for standard output."""
    reader, writer = os.pipe()
    os.close(reader)
    # Nothing is kept back that closing would write.
    with io.TextIOWrapper(io.FileIO(writer, "w"), write_through=True) as stream:  # type: ignore[arg-type]
        yield stream


class Running:
    """A node in a process of its own, run with --json."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self._came = trio.Condition()

    async def read(self) -> None:
        """Collect its output until it ends."""
        assert self.process.stdout is not None
        buffer = b""
        async for chunk in self.process.stdout:
            *lines, buffer = (buffer + chunk).split(b"\n")
            async with self._came:
                self.events += [json.loads(line) for line in lines]
                self._came.notify_all()
        assert buffer == b""

    async def until(self, fits: Callable[[dict[str, Any]], bool], *, after: int = 0) -> dict[str, Any]:
        """Wait for an event that fits, and return it."""
        with trio.fail_after(60):
            async with self._came:
                while True:
                    for event in self.events[after:]:
                        if fits(event):
                            return event
                    await self._came.wait()

    async def started(self) -> dict[str, Any]:
        """The first event."""
        return await self.until(lambda event: event["event"] == "started")

    async def endpoint(self) -> str:
        """Where it listens, as HOST:PORT."""
        return str((await self.started())["endpoints"][0]).removeprefix("tcp://")

    async def records(self, count: int) -> dict[str, Any]:
        """Wait until it holds so many records."""
        return await self.until(lambda event: event.get("records", -1) >= count)

    async def send_lines(self, *lines: str) -> None:
        """Write to its standard input."""
        assert self.process.stdin is not None
        await self.process.stdin.send_all("".join(line + "\n" for line in lines).encode())

    async def end(self, number: signal.Signals) -> int:
        """Signal it and wait for its end, at most the 5 s that it promises (and some for a slow machine)."""
        self.process.send_signal(number)
        with trio.fail_after(60):
            return await self.process.wait()


@asynccontextmanager
async def running(*arguments: str | Path, **more: str) -> AsyncIterator[Running]:
    """A node for the time of the block; killed at its end if it is still there."""
    process = await _start("--json", "--stats-every", "50", *arguments, stdin=subprocess.PIPE, **more)
    node = Running(process)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.read)
        try:
            yield node
        finally:
            if process.poll() is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                for pipe in (process.stdin, process.stderr):
                    assert pipe is not None
                    await pipe.aclose()
        nursery.cancel_scope.deadline = trio.current_time() + 5
