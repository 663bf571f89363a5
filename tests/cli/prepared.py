"""Processes that need no start: forks of one that has imported everything, which is most of what a command takes.

What is forked is a process like any other, with a number, streams, signals and an end of its own, and runs what
`python -m` runs of `p2p` or of another module. How Python starts, and what is imported when, is for tests that start it
themselves.

One process forks, as long as the tests run, and does nothing else. It is asked over a socket, which carries what the
new process is to have (module, arguments, environment, folder, and the three streams); it answers, over another one
for each, with the number and later with the exit code. Closing that one kills the process.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn, Protocol

import trio

ROOT: Final = Path(__file__).resolve().parents[2]
_REQUEST_BYTES_MAX: Final = 128 * 1024
_LATE: Final = (
    "cryptography.hazmat.backends.openssl.backend", "cryptography.hazmat.primitives.serialization", "encodings.idna",
    "httpcore", "httpx", "rich._emoji_codes", "rich.live", "rich.table", "rich.text",
)  # fmt: skip
"""What modules of ours import when it is wanted."""
_ENVIRONMENT_AT_START: Final = ("PYTHON", "LC_", "LANG", "COVERAGE_")
"""What Python reads before it runs anything."""


def can_be_forked(environment: dict[str, str]) -> bool:
    """Whether a fork shows what a new process would: not where Python itself is told something else than here, and not
    where it is counted what processes run."""
    ours = {name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT_AT_START)}
    theirs = {name: value for name, value in environment.items() if name.startswith(_ENVIRONMENT_AT_START)}
    differ = {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}
    return differ <= {"PYTHONPATH", "PYTHONWARNINGS"} and not any(name.startswith("COVERAGE_") for name in ours)


class Process(Protocol):
    """What tests use of a `trio.Process`.

    Attributes:
        pid: its number.
        stdin, stdout, stderr: the other ends of its streams; None where a test gave another thing than a pipe.
        returncode: how it ended, as far as that was asked for; the signal's number below 0 where one ended it.
    """

    pid: int
    stdin: trio.abc.SendStream
    stdout: trio.abc.ReceiveStream
    stderr: trio.abc.ReceiveStream

    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    async def wait(self) -> int: ...
    def send_signal(self, sig: signal.Signals, /) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class _Forked(Process):
    def __init__(self, ended: socket.socket, streams: Sequence[int | None]) -> None:
        self.stdin, self.stdout, self.stderr = (
            None if stream is None else trio.lowlevel.FdStream(stream) for stream in streams
        )  # type: ignore[assignment]  # see above
        self._code: int | None = None
        self._ended = ended
        self._waiting = trio.Lock()

    async def begin(self) -> None:
        """Wait for its number."""
        await trio.lowlevel.wait_readable(self._ended)
        self.pid = self._read()

    def _read(self) -> int:
        said = self._ended.recv(8)
        assert said, "the process that forks has gone"
        return int.from_bytes(said, "little", signed=True)

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        if self._code is None:
            with suppress(BlockingIOError):
                self._code = self._read()
                self._ended.close()
        return self._code

    async def wait(self) -> int:
        async with self._waiting:
            while (code := self.poll()) is None:
                await trio.lowlevel.wait_readable(self._ended)
        return code

    def send_signal(self, sig: signal.Signals, /) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


async def fork(module: str, arguments: Sequence[str], environment: dict[str, str], streams: Sequence[int]) -> Process:
    """Run a module with these arguments.

    Args:
        streams: the three, each a descriptor, `subprocess.PIPE` or `subprocess.DEVNULL`.
    """
    theirs: list[int] = []
    ours: list[int | None] = []
    for number, stream in enumerate(streams):
        if stream == subprocess.PIPE:
            pipe = os.pipe()
            theirs.append(pipe[number > 0])
            ours.append(pipe[number == 0])
        else:
            theirs.append(os.open(os.devnull, os.O_RDWR) if stream == subprocess.DEVNULL else os.dup(stream))
            ours.append(None)
    ended, tell = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ended.setblocking(False)
    request = json.dumps([module, list(arguments), environment, os.getcwd()]).encode()
    try:
        socket.send_fds(_who_forks(), [request], [*theirs, tell.fileno()])
    finally:
        tell.close()
        for descriptor in theirs:
            os.close(descriptor)
    process = _Forked(ended, ours)
    await process.begin()
    return process


@functools.cache
def _who_forks() -> socket.socket:
    """Start the process that forks, once; returns where it is asked."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cli.prepared", str(its.fileno())],
        pass_fds=[its.fileno()],
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
    )
    its.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve(control: socket.socket) -> tuple[str, list[str], dict[str, str], str] | None:
    """Fork whenever asked to. Returns in the processes that were forked, with what is asked of them; in this one when
    nobody can ask any more."""
    selector = selectors.PollSelector()  # nothing of it is shared with those that are forked
    selector.register(control, selectors.EVENT_READ)
    ends: dict[int, tuple[int, socket.socket]] = {}  # pidfd: process, whom to tell

    def is_over(pidfd: int) -> None:
        pid, tell = ends.pop(pidfd)
        _, status = os.waitpid(pid, 0)
        with suppress(BrokenPipeError):
            tell.send(os.waitstatus_to_exitcode(status).to_bytes(8, "little", signed=True))
        for fileobj in (pidfd, tell):
            with suppress(KeyError):
                selector.unregister(fileobj)
        tell.close()
        os.close(pidfd)

    while True:
        for key, _ in selector.select():
            if key.fileobj is control:
                request, streams, _, _ = socket.recv_fds(control, _REQUEST_BYTES_MAX, 4)
                if not request:
                    for pid, _ in ends.values():
                        os.kill(pid, signal.SIGKILL)
                    return None
                tell = socket.socket(fileno=streams.pop())
                pid = os.fork()
                if pid == 0:
                    for other in (control, tell, *(told for _, told in ends.values())):
                        other.close()
                    for pidfd in ends:
                        os.close(pidfd)
                    for number, stream in enumerate(streams):
                        os.dup2(stream, number)
                        os.close(stream)
                    module, arguments, environment, folder = json.loads(request)
                    return module, arguments, environment, folder
                for stream in streams:
                    os.close(stream)
                tell.send(pid.to_bytes(8, "little", signed=True))
                pidfd = os.pidfd_open(pid)
                ends[pidfd] = (pid, tell)
                selector.register(pidfd, selectors.EVENT_READ)
                selector.register(tell, selectors.EVENT_READ, pid)
            elif key.data is not None:
                # Nobody waits for its end any more.
                selector.unregister(key.fileobj)
                os.kill(key.data, signal.SIGKILL)
            elif key.fd in ends:
                is_over(key.fd)


def _import_all() -> None:
    import http_control
    import p2p

    for package in (p2p, http_control):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not module.name.endswith("__main__") and not module.name.startswith("p2p.testing"):
                importlib.import_module(module.name)
    for name in _LATE:
        importlib.import_module(name)


def _become(module: str, arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Be what `python -m` with the module would be, to its end."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # The tests themselves may run under nohup.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # as Python opens them
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        _end(end.code)


def _end(code: object) -> NoReturn:
    """End as Python does, but leave the modules as they are. To take apart what is shared with the process that forks
    means to copy it first, and took 55 of the 75 ms that a short command had to compute."""
    assert isinstance(code, int), code
    threading._shutdown()  # type: ignore[attr-defined]  # which waits for those that are no daemons
    atexit._run_exitfuncs()
    # Whatever was left open and is garbage is told of, and is an error.
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        try:
            if not stream.closed:
                stream.flush()
        except OSError:
            code = 120  # as Python has it
    os._exit(code)


def _main() -> None:
    _import_all()
    gc.collect()
    gc.freeze()
    task = None
    with suppress(KeyboardInterrupt):  # the tests were interrupted, and all that they started with them
        task = _serve(socket.socket(fileno=int(sys.argv[1])))
    if task is not None:
        _become(*task)


if __name__ == "__main__":
    _main()
