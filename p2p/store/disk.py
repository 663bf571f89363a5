"""What is asked of a disk besides reads and writes, and what its refusals mean."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Generic, TypeVar

from p2p.errors import StoreError, StoreFull

if TYPE_CHECKING:
    from outcome import Outcome

T = TypeVar("T")

_PAGE_BYTES: Final = 4096
_SYNC_FILE_RANGE_WRITE: Final = 2
_CANNOT: Final = frozenset({errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.ESPIPE, errno.EOPNOTSUPP})
"""What systems, sandboxes and file systems say that do not do this."""


class Meanwhile(Generic[T]):
    """Something is asked of a disk while this thread does something else. It has to be waited for.

    Args:
        fn: what is done, in another thread.

    Raises:
        RuntimeError: no thread can be started; nothing is done.
    """

    def __init__(self, fn: Callable[[], T]) -> None:
        # Here, since a command that only looks into a data dir does without. The threads are kept for the next time.
        import trio

        self._is_over = threading.Lock()
        self._is_over.acquire()
        self._outcome: Outcome[T] | None = None
        trio.lowlevel.start_thread_soon(fn, self._finish)

    def _finish(self, outcome: Outcome[T]) -> None:
        self._outcome = outcome
        self._is_over.release()

    def wait(self) -> T:
        """Wait for it, once; return what it returned, or raise what it raised."""
        self._is_over.acquire()
        assert self._outcome is not None
        return self._outcome.unwrap()


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


def begin_sync(descriptor: int, offset: int, size: int) -> None:
    """Have the disk begin with whole pages that were written, without waiting for it. Nothing is durable by that, and a
    sync that comes later takes less time; where the system has no such call nothing happens.

    Raises:
        OSError: the disk refuses.
    """
    begin_to_write = _sync_file_range()
    begin, end = (place // _PAGE_BYTES * _PAGE_BYTES for place in (offset, offset + size))
    if begin_to_write is None or end <= begin:
        return
    code = begin_to_write(descriptor, begin, end - begin, _SYNC_FILE_RANGE_WRITE)
    if code and code not in _CANNOT:
        raise OSError(code, os.strerror(code))


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """The system's call of that name, which Python does not have, as a function that returns the error's number."""
    if sys.platform == "linux":
        # A Python that is linked statically loads nothing.
        with suppress(ImportError, AttributeError, OSError):
            # Needed with the first long batch, and not before.
            import ctypes

            call = ctypes.CDLL(None, use_errno=True).sync_file_range
            call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
            return lambda *args: ctypes.get_errno() if call(*args) else 0
    return None


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
