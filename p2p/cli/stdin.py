"""Lines of standard input without a thread: pipes and terminals are waited for, files are simply read."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterator
from typing import Final

import trio

READ_BYTES: Final = 64 * 1024


class LineSplitter:
    """Cuts bytes into lines and bounds what a line without an end may cost.

    Args:
        line_bytes_max: a longer line is given up: its bytes are dropped and `too_long` counts it.
    """

    def __init__(self, line_bytes_max: int) -> None:
        self._max = line_bytes_max
        self._parts: list[bytes] = []
        self._size = 0
        self._skipping = False
        self.too_long = 0

    @property
    def pending(self) -> int:
        """Bytes kept of a line that has not ended yet."""
        return self._size

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that end within the data, without their newline."""
        *ended, rest = data.split(b"\n")
        for piece in ended:
            self._keep(piece)
            line = self._take()
            if line is not None:
                yield line
        self._keep(rest)

    def end(self) -> bytes | None:
        """The last line if it had no newline."""
        return self._take() if self._size or self._skipping else None

    def _keep(self, piece: bytes) -> None:
        if self._skipping or not piece:
            return
        if self._size + len(piece) > self._max:
            self._skipping = True
            self._parts.clear()
            self._size = 0
            return
        self._parts.append(piece)
        self._size += len(piece)

    def _take(self) -> bytes | None:
        if self._skipping:
            self._skipping = False
            self.too_long += 1
            return None
        line = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return line


async def stdin_lines(splitter: LineSplitter, descriptor: int = 0) -> AsyncGenerator[list[bytes], None]:
    """Yield the lines of each read together, until the end of input."""
    while data := await _read(descriptor):
        if lines := list(splitter.feed(data)):
            yield lines
    last = splitter.end()
    if last is not None:
        yield [last]


async def _read(descriptor: int) -> bytes:
    try:
        await trio.lowlevel.wait_readable(descriptor)
    except PermissionError:
        # A regular file: epoll refuses it because it never makes anybody wait.
        await trio.lowlevel.checkpoint()
    try:
        return os.read(descriptor, READ_BYTES)
    except OSError:
        # A terminal that has gone is the end of its input.
        return b""
