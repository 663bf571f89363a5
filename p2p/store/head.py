"""The head of the store's file, compared with what it always is, before SQLite goes by it.

The first 100 bytes say how all others are to be read, and nothing checks them. With one flipped bit in the size of a
page's unused end every page seems damaged, and what is written then is; with another the file is none, or can only be
read. But almost all of them are the same in every file of this software, or can be told from the rest:

    the same             the magic, the shape of pages, no auto-vacuum, UTF-8, whose application it is, the zeros
    size of a page       a power of two. If it is none: the first cell of the first page lies at its end
    how it is written    with a log, or, when it was written anew and not opened since, without; twice the same
    pages of the file    what the file's size says, if SQLite's log is empty and the number is one that counts
    list of free pages   as long as the number beside it says; if not, there is none, and those pages are merely lost
    schema version       each has other tables, so these say which it is (`p2p.store.definitions`)
    all others           may be anything: counters, and who wrote it

So a head that is damaged is put right where it lies, before anything is written. A file that does not hold the text of
our first table in its first page is left alone: it is somebody else's, or that page is lost with its head.

Nothing here is for a file that this process has open: POSIX would drop SQLite's locks.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import struct
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO, Final

from p2p.errors import StoreCorrupt, StoreError
from p2p.store.base import WHOLE_FILE
from p2p.store.definitions import version_and_tables
from p2p.store.disk import open_to_read, refusal
from p2p.store.files import LOG, beside, connect, size_of, suspect, translated
from p2p.store.schema import APPLICATION_ID

_HEAD_BYTES: Final = 100
_PAGE_BYTES_MAX: Final = 65_536
_PAGE_SIZES: Final = frozenset(1 << power for power in range(9, 16)) | {1}
"""As the head writes them: 1 is 65,536."""
_OURS: Final = b"CREATE TABLE identity (one INTEGER PRIMARY KEY CHECK (one = 1)"
_ALWAYS: Final = {
    0: b"SQLite format 3\0",
    20: bytes((0, 64, 32, 32)),
    44: (4).to_bytes(4, "big") + bytes(8) + (1).to_bytes(4, "big"),
    64: bytes(4) + APPLICATION_ID.to_bytes(4, "big") + bytes(20),
}
"""What begins at which byte."""
_WRITTEN: Final = (b"\2\2", b"\1\1")
_VERSION_AT: Final = 60


def check_head(path: Path) -> None:
    """See that the head is what it always is; of the schema's version SQLite has to be asked.

    Raises:
        StoreCorrupt: it is not.
        StoreError: it cannot be read.
    """
    is_, right = _heads(path)
    if is_ != right:
        raise StoreCorrupt(f"the store {path} cannot be opened: {_what(is_, right)} is damaged. {WHOLE_FILE}")


def copy_log(path: Path) -> None:
    """Have SQLite copy its log into the file, whose head has to be right for all of it then; if that can be now."""
    if size_of(beside(path, LOG)):
        with suppress(sqlite3.Error), closing(connect(path, "rw")) as connection:
            connection.execute("PRAGMA busy_timeout = 0")
            # A number of pages that is wrong is no reason not to.
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def put_head_right(path: Path) -> str | None:
    """Put the head right. Who calls holds the data dir's lock, and has no connection open.

    Returns:
        A line about it; None if nothing was wrong.

    Raises:
        StoreError: the file cannot be read or written, or SQLite can make nothing of it.
    """
    before, right = _heads(path)
    if before == right:
        copy_log(path)
        before, right = _heads(path)
    if before != right:
        # Killed before all is looked through, the next start does it.
        suspect(path)
        _write(path, right)
        # It may have had numbers of pages, and they did not count until now.
        copy_log(path)
        _, right = _heads(path)
        _write(path, right)
    with translated(path, "read"), closing(connect(path, "ro")) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        version, of_tables = version_and_tables(connection)
    if of_tables is not None and version != of_tables and len(right) == _HEAD_BYTES:
        suspect(path)
        right = right[:_VERSION_AT] + of_tables.to_bytes(4, "big") + right[_VERSION_AT + 4 :]
        _write(path, right)
    return None if before == right else f"the store {path}: {_what(before, right)} was damaged, and is put right"


def _what(is_: bytes, right: bytes) -> str:
    at = [str(place) for place in range(len(right)) if is_[place] != right[place]]
    return f"the head of its file (byte {', '.join(at[:8])}{', …' if len(at) > 8 else ''})"


def _heads(path: Path) -> tuple[bytes, bytes]:
    """The head as it is, and as it should be."""
    try:
        with open_to_read(path) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise StoreError(f"the store {path} cannot be opened: it is a pipe or a device: move it away")
            page = file.read(_PAGE_BYTES_MAX)
            head = page[:_HEAD_BYTES]
            return head, _right(page, file, is_all=not size_of(beside(path, LOG))) if _OURS in page else head
    except OSError:
        # SQLite says what is the matter.
        return b"", b""


def _right(page: bytes, file: BinaryIO, *, is_all: bool) -> bytes:
    """The head as it should be.

    Args:
        page: what the file begins with.
        is_all: whether nothing is in SQLite's log. If something is, it has the numbers of pages.
    """
    head = bytearray(page[:_HEAD_BYTES])
    for at, what in _ALWAYS.items():
        head[at : at + len(what)] = what
    page_bytes = int.from_bytes(head[16:18], "big")
    if page_bytes not in _PAGE_SIZES:
        page_bytes = _page_bytes_by_cells(page)
        head[16:18] = (page_bytes if page_bytes < _PAGE_BYTES_MAX else 1).to_bytes(2, "big")
    page_bytes = page_bytes if page_bytes > 1 else _PAGE_BYTES_MAX
    if bytes(head[18:20]) not in _WRITTEN:
        head[18:20] = _WRITTEN[0]
    if is_all:
        pages = -(-file.seek(0, os.SEEK_END) // page_bytes)
        if head[24:28] == head[92:96]:
            head[28:32] = pages.to_bytes(4, "big")
        if not _are_free(file, page_bytes, pages, *struct.unpack(">II", head[32:40])):
            head[32:40] = bytes(8)
    return bytes(head)


def _are_free(file: BinaryIO, page_bytes: int, pages: int, page: int, count: int) -> bool:
    """Whether a list of free pages that begins here has so many: each page of it names the next, and others."""
    while page and count > 0:
        if page > pages:
            return False
        file.seek((page - 1) * page_bytes)
        entry = file.read(8)
        if len(entry) < 8:
            return False
        page, named = struct.unpack(">II", entry)
        count -= 1 + named
    return page == count == 0


def _page_bytes_by_cells(page: bytes) -> int:
    """The size of a page by the places of the first page's cells: the one that was made first lies at its end."""
    begin = _HEAD_BYTES + (12 if page[_HEAD_BYTES] == 5 else 8)
    cells = int.from_bytes(page[103:105], "big")
    last = max((int.from_bytes(page[at : at + 2], "big") for at in range(begin, begin + 2 * cells, 2)), default=0)
    return 1 << max(9, last.bit_length())


def _write(path: Path, head: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, head, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise refusal(path, error) from error
