"""Lines and pictures to standard output and standard error, made safe and never waited for.

A running node's output is notices: where the reader of a pipe or a terminal has stalled, what is new is dropped and
counted instead of stopping the event loop; where the reader has gone, `ReaderGone` says so. What a tool prints as its
result (`p2p wal tail`) waits for its reader like any other program; where that may go on until a signal comes, it waits
in the event loop, for a write that waits in the kernel begins again after each signal.

Everything is written to the descriptor, without a buffer between: what could not be written is not tried again later.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import select
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, TextIO

from p2p.text import TRACE, one_line

_GONE: Final = frozenset({errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO})
"""A pipe nobody reads, a terminal that was closed, a descriptor that is none."""

PAYLOAD_BYTES_MAX: Final = 4 * 1024 * 1024
"""More than any payload is, of a record or of an answer, after escaping: a result is never cut."""
CHUNK_BYTES: Final = select.PIPE_BUF
"""What a pipe takes at once where it takes anything at all."""
LINES_PER_TURN: Final = 64
"""Lines that are shown before others have a turn, though the reader keeps up."""


class ReaderGone(Exception):
    """Whoever read our standard output has closed it."""


def counted(count: int, noun: str) -> str:
    """ "1 record", "2 records"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def json_line(value: Mapping[str, object]) -> str:
    """One JSON object as one line of ASCII, so that no character of a peer's can act on a terminal."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("\x7f", "\\u007f")


class Output:
    """Standard output of one command.

    Attributes:
        dropped: lines that a stalled reader, or a full disk, lost.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stdout
        self._terminal: int | None = None
        self._has_looked = False
        self._shown = 0
        self.dropped = 0

    def close(self) -> None:
        """Give the terminal back, if `show` took it."""
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None

    def result(self, line: str) -> None:
        """Print a line, however long its reader takes.

        Raises:
            ReaderGone: nobody reads any more.
            OSError: it cannot be written.
        """
        self._write(line)

    def verdict(self, line: str) -> None:
        """Print a line of what the exit code says, too, which stands also where nobody reads any more.

        Raises:
            OSError: it cannot be written.
        """
        with suppress(ReaderGone):
            self._write(line)

    async def show(self, line: str) -> None:
        """Print a line, however long its reader takes; what else runs goes on, such as what a signal ends.

        Raises:
            ReaderGone, OSError: as for `result`.
        """
        import trio

        self._shown += 1
        if self._shown % LINES_PER_TURN == 0:
            await trio.lowlevel.checkpoint()
        try:
            descriptor = self._stream.fileno()
        except (OSError, ValueError):
            self._write(line)
            return
        if not self._has_looked:
            self._has_looked = True
            self._terminal = own_terminal(self._stream)
        descriptor = descriptor if self._terminal is None else self._terminal
        data = encoded(line + "\n", self._stream)
        while data:
            if would_wait(self._stream):
                await trio.lowlevel.wait_writable(descriptor)
            try:
                data = data[_write_some(descriptor, data[:CHUNK_BYTES]) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(descriptor)

    def notice(self, line: str) -> None:
        """Print a line now, or drop it if that would wait or fail.

        Raises:
            ReaderGone: nobody reads any more.
        """
        if would_wait(self._stream):
            self.dropped += 1
            return
        try:
            self._write(line)
        except OSError:
            self.dropped += 1

    def check_reader(self) -> None:
        """See whether somebody still reads, without writing.

        Raises:
            ReaderGone: nobody does.
        """
        poll = select.poll()
        try:
            poll.register(self._stream.fileno(), 0)
        except (OSError, ValueError):
            return
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
            raise ReaderGone

    def _write(self, line: str) -> None:
        data = encoded(line + "\n", self._stream)
        try:
            descriptor = self._stream.fileno()
        except (OSError, ValueError):
            # Not a real descriptor (a test's buffer).
            self._stream.write(line + "\n")
            return
        while data:
            try:
                data = data[_write_some(descriptor, data) :]
            except BlockingIOError:
                # Whoever shares the descriptor with us made it so; a result waits all the same.
                select.select([], [descriptor], [])


def _write_some(descriptor: int, data: bytes) -> int:
    try:
        return os.write(descriptor, data)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in _GONE:
            raise ReaderGone from None
        raise OSError(error.errno, error.strerror, "standard output") from None


class Pictures(io.TextIOBase):
    """Where rich draws to: as standard output, but what would wait is left out, a whole picture at a time.

    Attributes:
        patience_ms: how long a picture may wait for a stalled terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn: list[str] = []
        self._rest = b""
        self._is_gone = False
        self._terminal = own_terminal(stream)
        self.patience_ms = 0

    def close(self) -> None:
        """Give the terminal back; what is written from now on is lost."""
        self._is_gone = True
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None
        super().close()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed: a plain attribute
        """How text becomes bytes."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor, which rich asks for the terminal's size."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Add to the picture that the next flush shows."""
        self._drawn.append(text)
        return len(text)

    def flush(self) -> None:
        """Show what was drawn, or leave it out while an earlier picture is not all taken.

        Raises:
            ReaderGone: nobody looks any more; told once.
        """
        picture = encoded("".join(self._drawn), self._stream)
        self._drawn.clear()
        if self._is_gone:
            return
        try:
            self._push()
            if not self._rest:
                self._rest = picture
                self._push()
        except OSError:
            self._is_gone = True
            raise ReaderGone from None

    def _push(self) -> None:
        descriptor = self._terminal if self._terminal is not None else self.fileno()
        while self._rest and not would_wait(self._stream, self.patience_ms):
            try:
                self._rest = self._rest[os.write(descriptor, self._rest[:CHUNK_BYTES]) :]
            except BlockingIOError:
                return


def own_terminal(stream: TextIO) -> int | None:
    """Open the stream's terminal once more, for writes that never wait; None if it is no terminal.

    A terminal says that it takes something and then waits in the middle. To be told instead is a property of the open
    file, which we share with the shell that started us: so it must be a file of our own.
    """
    try:
        return os.open(os.ttyname(stream.fileno()), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None


def encoded(text: str, stream: TextIO) -> bytes:
    """Text as the stream's encoding has it; what that lacks is escaped."""
    return text.encode(stream.encoding or "ascii", "backslashreplace")


def would_wait(stream: TextIO, patience_ms: int = 0) -> bool:
    """Whether a line written now would have to wait for its reader, longer than our patience lasts."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return False
    # A pipe counts as writable while a line of ours (below PIPE_BUF, 4,096 bytes) fits as a whole.
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return not poll.poll(patience_ms)


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
    """One line on standard error, or none if its reader has stalled or gone: there is nobody left to tell."""
    _to_stderr(f"p2p: {one_line(text)}")


def complain_as_json(text: str) -> None:
    """The same as one JSON object."""
    _to_stderr(json_line({"event": "error", "message": one_line(text)}))


def _to_stderr(line: str) -> None:
    try:
        Output(sys.stderr).notice(line)
    except ReaderGone:
        return


class LineFormatter(logging.Formatter):
    """One event, one line; a traceback only where somebody asked for details."""

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__()
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        """Render a record with whatever its arguments hold escaped."""
        level = "warn" if record.levelno == logging.WARNING else record.levelname.lower()
        line = f"[p2p] {level}: {record.getMessage()}"
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            line += f": {type(error).__name__}: {error}"
        line = one_line(line)
        if error is not None and record.exc_info and self._tracebacks:
            trace = self.formatException(record.exc_info).splitlines()
            line += "".join(f"\n    {one_line(part)}" for part in trace)
        return line


class StderrHandler(logging.Handler):
    """Writes log lines to standard error. A reader that has stalled loses lines and stops nobody."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        _to_stderr(self.format(record))


def log_to_stderr(level: int) -> None:
    """Send the package's log lines of this level and above to standard error."""
    logging.addLevelName(TRACE, "TRACE")
    handler = StderrHandler()
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
