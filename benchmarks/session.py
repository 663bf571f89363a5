"""One run of benchmarks: figures are kept as they come, and nothing is left behind however it ends.

All files of a run, those of its worker processes too, lie in one directory that goes with it. Ctrl-C, SIGTERM and
SIGHUP end a run with what was measured until then; a disk that is full or a place that cannot be written costs the
JSON and not the table.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.figures import Figures, Machine, as_table, write
from benchmarks.harness import Row, Tell
from benchmarks.pace import OutOfTime
from p2p.errors import StoreError

INTERRUPTED: Final = 130
_ENDS: Final = (signal.SIGTERM, signal.SIGHUP)


@dataclass
class Session:
    """What was measured so far.

    Attributes:
        machine: what it is measured on.
        quick: whether it is a short run.
        out: where figures are written as JSON, after each benchmark.
        rows: all that is known.
        broken: what could not be measured to its end, or not be written.
        left_out: for what no time was left in a quick run, or not enough to end it.
    """

    machine: Machine
    quick: bool
    out: Path | None
    rows: list[Row] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def run(self, benchmarks: Mapping[str, Callable[[Tell], None]]) -> int:
        """Measure all of them and print the table.

        Returns:
            The exit code: 1 if something broke, 130 if somebody broke it off. A goal that is missed is neither.
        """
        interrupted = False
        with own_directory(), ended_as_by_ctrl_c():
            try:
                for name, run in benchmarks.items():
                    self._measure(name, run)
            except BaseException as error:
                if not is_interrupt(error):
                    raise
                interrupted = True
        print(as_table(self.rows) if self.rows else "nothing was measured", flush=True)
        if self.broken:
            print(f"could not be measured: {', '.join(self.broken)}", file=sys.stderr)
        if self.left_out:
            print(f"left out in part or whole, as time was up: {', '.join(self.left_out)}", file=sys.stderr)
        if interrupted:
            print("interrupted: these are the figures until then", file=sys.stderr)
            return INTERRUPTED
        return 1 if self.broken else 0

    def _measure(self, name: str, run: Callable[[Tell], None]) -> None:
        print(f"{name} …", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            run(lambda row: self.rows.append(msgspec.structs.replace(row, benchmark=name)))
        except OutOfTime:
            self.left_out.append(name)
            print(f"{name}: the time of a quick run is up", file=sys.stderr)
        except Exception as error:  # noqa: BLE001  # one that breaks must not take the others' figures with it
            _explain(name, error)
            self.broken.append(name)
        finally:
            self._write()
        print(f"{name} took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    def _write(self) -> None:
        if self.out is None or not self.rows:
            return
        try:
            write(Figures(self.machine, self.quick, self.rows, tuple(self.left_out)), self.out)
        except OSError as error:
            print(f"--out {self.out}: {error.strerror}", file=sys.stderr)
            self.broken.append(f"JSON for {self.out}")
            self.out = None


def _explain(name: str, error: Exception) -> None:
    """One line for what the machine refused; all that there is to know for what is ours."""
    refused = list(_leaves(error))
    if all(isinstance(each, OSError | StoreError) for each in refused):
        print(f"{name}: {'; '.join(map(str, refused))}", file=sys.stderr)
    else:
        traceback.print_exception(error)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def is_interrupt(error: BaseException) -> bool:
    """Whether somebody pressed Ctrl-C, by itself or in a group of what came of it."""
    return any(isinstance(each, KeyboardInterrupt) for each in _leaves(error))


@contextmanager
def ended_as_by_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and SIGHUP be a KeyboardInterrupt, so that processes and files are cleared away. One that whoever
    started us has us ignore, as nohup does, stays ignored; but for SIGINT, which the others become: a job in the
    background has it ignored, and is to end well, too."""
    heard = [number for number in _ENDS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT)) for number in heard}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def own_directory() -> Iterator[Path]:
    """Have everything temporary in a directory of its own meanwhile, and remove that whatever comes."""
    folder = tempfile.mkdtemp(prefix="p2p-bench-")
    before, environment = tempfile.tempdir, os.environ.get("TMPDIR")
    tempfile.tempdir = os.environ["TMPDIR"] = folder
    try:
        yield Path(folder)
    finally:
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *_ENDS)}
        shutil.rmtree(folder, ignore_errors=True)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        tempfile.tempdir = before
        if environment is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = environment
