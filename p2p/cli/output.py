"""Lines to standard output and standard error, made safe and never waited for.

A running node's output is notices: where the reader of a pipe has stalled, a line is dropped and counted instead of
stopping the event loop; where the reader has gone, `ReaderGone` says so once. What a tool prints as its result
(`p2p wal tail`) waits for its reader like any other program.
"""

from __future__ import annotations

import json
import logging
import os
import select
import sys
from collections.abc import Mapping
from typing import TextIO

from p2p.peer.connection import TRACE
from p2p.text import one_line


class ReaderGone(Exception):
    """Whoever read our standard output has closed it."""


def json_line(value: Mapping[str, object]) -> str:
    """One JSON object as one line of ASCII, so that no character of a peer's can act on a terminal."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("\x7f", "\\u007f")


class Output:
    """Standard output of one command.

    Attributes:
        dropped: lines that a stalled reader lost.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stdout
        self.dropped = 0

    def result(self, line: str) -> None:
        """Print a line, however long its reader takes.

        Raises:
            ReaderGone: nobody reads any more.
        """
        self._write(line)

    def notice(self, line: str) -> None:
        """Print a line now, or drop it if that would wait.

        Raises:
            ReaderGone: nobody reads any more.
        """
        if self._would_wait():
            self.dropped += 1
            return
        self._write(line)

    def _write(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except BrokenPipeError:
            discard_output()
            raise ReaderGone from None

    def _would_wait(self) -> bool:
        try:
            descriptor = self._stream.fileno()
        except (OSError, ValueError):
            return False
        # A pipe counts as writable while a line of ours (below PIPE_BUF, 4,096 bytes) fits as a whole.
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        return not poll.poll(0)


def discard_output() -> None:
    """Send what is still buffered for standard output nowhere, so that the interpreter's last flush cannot fail."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        # Not a real descriptor (a test's buffer): nothing will be flushed into a pipe.
        return


def complain(text: str) -> None:
    """One line on standard error."""
    try:
        sys.stderr.write(f"p2p: {one_line(text)}\n")
        sys.stderr.flush()
    except OSError:
        # Standard error is closed, too: there is nobody left to tell.
        return


class LineFormatter(logging.Formatter):
    """One event, one line; a traceback only where somebody asked for details."""

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__()
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        """Render a record with whatever its arguments hold escaped."""
        line = f"[p2p] {record.levelname.lower()}: {record.getMessage()}"
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            line += f": {type(error).__name__}: {error}"
        line = one_line(line)
        if error is not None and record.exc_info and self._tracebacks:
            trace = self.formatException(record.exc_info).splitlines()
            line += "".join(f"\n    {one_line(part)}" for part in trace)
        return line


def log_to_stderr(level: int) -> None:
    """Send the package's log lines of this level and above to standard error."""
    logging.addLevelName(TRACE, "TRACE")
    logging.addLevelName(logging.WARNING, "WARN")
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(tracebacks=level <= logging.DEBUG))
    log = logging.getLogger("p2p")
    for old in log.handlers[:]:
        log.removeHandler(old)
    log.addHandler(handler)
    log.setLevel(level)
    log.propagate = False


def table_of(fields: Mapping[str, object]) -> str:
    """`name=value` pairs in one line."""
    return " ".join(f"{name}={value}" for name, value in fields.items())
