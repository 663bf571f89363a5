"""What is asked of a disk besides reads and writes, and what its refusals mean."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO

from p2p.errors import StoreError, StoreFull


def open_to_read(path: Path) -> BinaryIO:
    """Open a file; nobody waits for the other end of a pipe.

    Raises:
        OSError: it cannot be opened.
    """
    return open(path, "rb", opener=_open_without_waiting)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def sync(path: Path) -> None:
    """Make a file durable; or, of a directory, what was made, renamed and removed there.

    Raises:
        StoreFull, StoreError: it is not.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise refusal(path, error) from error


def gone(path: Path) -> StoreError:
    """The error for a store whose file is not where it was opened."""
    return StoreError(
        f"the store {path} is not there any more, or another file is in its place: put it back, or stop the node and "
        "start it where the store lies now"
    )


def refusal(path: Path, error: OSError) -> StoreError:
    """The error for what a disk did not write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"{path} cannot be written, for its disk is full ({error.strerror}): make room there")
    return StoreError(f"{path} cannot be written: {error.strerror}")
