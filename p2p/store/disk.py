"""What is asked of a disk besides reads and writes, and what its refusals mean."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from p2p.errors import StoreError, StoreFull


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


def refusal(path: Path, error: OSError) -> StoreError:
    """The error for what a disk did not write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"{path} cannot be written, for its disk is full ({error.strerror}): make room there")
    return StoreError(f"{path} cannot be written: {error.strerror}")
