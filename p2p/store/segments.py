"""Segments: files beside the store's, which hold big batches as they are, one after the other.

SQLite writes everything twice, in pages that it sums up: for a row of a few bytes that is nothing, for a batch of 256
KiB it is most of the time that a commit takes. So a big batch is written once, into a file that only ever grows, and
the store's file is the index of it.

    log.sqlite.000007.segment      ( length u32 LE | batch ) …      all of one log; mode 0600

A batch says itself whose it is, where it stands, and that it is whole: hash, signature, and the hash of the one before
it. So an index that has lost its end can be told from the segments, and may be synced later than they:

    1. the entries are written and synced                       power cut before this: a torn entry, which is its end
       (a long batch of our own is written while it is hashed, and its signature after that: unsigned, it is torn)
    2. the index's commit: rows of `chain`, and up to where the segment is known (`segments.covered`)
    3. it is durable when SQLite's log is synced: by this commit if it does anything that entries do not say, else by
       one of the next, `segment_tail_bytes_max` later at the most

What is acknowledged is in a segment that was synced, whatever became of its index. No commit is left to the third rule
before all that a start has found in SQLite's log is synced: who was killed may have left it in memory alone. At the
next start what lies beyond `covered` is read, and if the disk refuses that, the store is not opened: what is whole,
signed, and follows its log's head, in a log that the index knows, is filed again (as a row of `batches`: after a failed
sync the kernel's memory shows what the disk may not have). In the same commit, which is synced, the segment is
**closed**: what else lies in it counts no more, and nothing is added to it. But what we have signed beyond a gap, which
an older index or damage has made, is noted as a claim: nothing is signed below it meanwhile, and once the gap is closed
it is filed (`replay`).

Why no seq of our own is signed twice. A batch is signed inside a transaction that has read the head. Either its
transaction came to its end, then it is found as above, or the process died, then it is found or torn, and if it is
found it is the head from then on, or the transaction failed. Then its entry is cut off again, as far as the disk lets
it be, nobody has been told of it, and before anything else is signed the segment is closed by a commit that is synced:
no later start takes it for what was signed after it. (If the index's commit had begun, its rows may come back from
SQLite's log, and name the entry: it is cut off when that log was emptied and begun anew, if they are not there.) A new
segment that is left of it is noted as out of use, by such a commit, too. One begins with a commit that is synced, so
nothing of a file that the index does not know was ever acknowledged, unless an older index was put in its place.

A descriptor whose write or sync has failed is never used again, since each is used for one write. Files are opened for
one read, too: one that was forgotten gives its room back at once, and one that took its number is not taken for it.

This module knows nothing of SQLite.

Source: replication section 4.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from p2p.errors import StoreError
from p2p.ids import PeerId
from p2p.limits import KIB, USUAL
from p2p.store.disk import Meanwhile, begin_sync, gone, refusal, sync

BATCH_BYTES_MAX: Final = USUAL.batch_bytes_max
_LENGTH: Final = struct.Struct("<I")
_NAME: Final = re.compile(r"\.([0-9]{6,18})\.segment")
_TO_WRITE: Final = os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK
_OFFSET_MAX: Final = 1 << 62
"""No place beyond it is one that a system could be asked for."""
_PIECE_BYTES: Final = 1 << 20
_PIECES_MAX: Final = 1000
"""Systems take 1,024 in one call."""
_DAMAGED: Final = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA})
"""What systems say of a place that they cannot read; a disk that is away for a moment says it as well."""
_AHEAD_BYTES_MIN: Final = 128 * KIB
"""Of a batch of our own that is shorter, nothing is written before it is sealed: another thread would gain nothing."""
_PROBE: Final = 0
"""The number of the file that is made to see whether the disk has room. No segment has it."""


class Segment(NamedTuple):
    """The segment to which a log's next big batch is added, and where."""

    no: int
    end: int


def segment_path(store: Path, no: int) -> Path:
    """Where a segment lies.

    Args:
        store: the store's file.
    """
    return Path(_path_text(store, no))


def _path_text(store: Path, no: int) -> str:
    # The same as a path would cost a hundredth of a commit, in as many microseconds as opening the file takes.
    return f"{store}.{no:06}.segment"


def segment_numbers(store: Path) -> list[int]:
    """The segments that lie beside a store, ascending.

    Raises:
        StoreError: the directory cannot be read.
    """
    try:
        names = [name.removeprefix(store.name) for name in os.listdir(store.parent) if name.startswith(store.name)]
    except OSError as error:
        raise StoreError(f"the store {store} cannot be read: {error.strerror}") from error
    return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))


def check_readable(store: Path) -> None:
    """See whether all segments beside a store can be opened.

    Raises:
        StoreError: one cannot.
    """
    for no in segment_numbers(store):
        descriptor = _open(store, no)
        if descriptor is not None:
            os.close(descriptor)


def segment_size(store: Path, no: int) -> int:
    """How long a segment is; 0 if it is gone.

    Raises:
        StoreError: that cannot be told now.
    """
    path = segment_path(store, no)
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise _unreadable(path, error) from error


def is_torn(store: Path, no: int) -> bool:
    """Whether a segment holds nothing but zeros, or the beginning of one entry, as who dies while it is made leaves it.

    Raises:
        StoreError: that cannot be told now.
    """
    path = segment_path(store, no)
    try:
        with path.open("rb") as file:
            head = file.read(_LENGTH.size)
            size = os.fstat(file.fileno()).st_size
            if len(head) < _LENGTH.size:
                return True
            (length,) = _LENGTH.unpack(head)
            if length:
                return bool(size < _LENGTH.size + length <= _LENGTH.size + BATCH_BYTES_MAX)
            return not any(any(piece) for piece in iter(lambda: file.read(_PIECE_BYTES), b""))
    except FileNotFoundError:
        return True
    except OSError as error:
        raise _unreadable(path, error) from error


def read_entry(store: Path, no: int, offset: int, size_max: int = BATCH_BYTES_MAX) -> bytes | None:
    """Read the batch that begins there; None if it is gone, cannot be one, or lies where the disk is damaged.

    Args:
        size_max: of a longer one so much is read.

    Raises:
        StoreError: the file cannot be read now.
    """
    descriptor = _open(store, no)
    if descriptor is None:
        return None
    try:
        return _entry(descriptor, offset, size_max)
    except OSError as error:
        if error.errno not in _DAMAGED:
            raise _unreadable(segment_path(store, no), error) from error
        # One batch that cannot be read is fetched again.
        return None
    finally:
        os.close(descriptor)


def read_entries(store: Path, no: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Read a segment's entries with their offsets, up to the first that is cut off or cannot be one.

    Args:
        start: the offset of the first.
        end: none is read that reaches beyond it.

    Raises:
        StoreError: the disk refuses: where the segment ends cannot be told.
    """
    descriptor = _open(store, no)
    if descriptor is None:
        return
    try:
        while (wal_bytes := _entry(descriptor, start)) is not None:
            after = start + _LENGTH.size + len(wal_bytes)
            if after > end:
                return
            yield start, wal_bytes
            start = after
    except OSError as error:
        path = segment_path(store, no)
        if error.errno in _DAMAGED:
            raise StoreError(
                f"{path} cannot be read from byte {start} on: {error.strerror}. Is its disk there? If it is, and stays "
                f"so: stop the node, copy the file with `dd bs=4096 conv=noerror,sync`, put the copy in its place, and "
                "start with --connect ADDRESS of a peer that holds this node's log"
            ) from error
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)


def _open(store: Path, no: int) -> int | None:
    try:
        # Nobody waits for the other end of a pipe.
        descriptor = os.open(segment_path(store, no), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is no file but a directory, a pipe or a device: move it away")
        except BaseException:
            os.close(descriptor)
            raise
    except FileNotFoundError:
        if not os.path.exists(store):
            # Nothing was lost: the whole data dir lies elsewhere, or its disk was taken away.
            raise gone(store) from None
        return None
    except OSError as error:
        # Not what lies there is wrong, but that it cannot be reached now: no reason to fetch it again.
        raise _unreadable(segment_path(store, no), error) from error
    return descriptor


def _unreadable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path} cannot be read: {error.strerror}")


def _entry(descriptor: int, offset: int, size_max: int = BATCH_BYTES_MAX) -> bytes | None:
    if not 0 <= offset < _OFFSET_MAX:
        return None
    head = os.pread(descriptor, _LENGTH.size, offset)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    if not 0 < length <= BATCH_BYTES_MAX:
        return None
    length = min(length, size_max)
    wal_bytes = os.pread(descriptor, length, offset + _LENGTH.size)
    return wal_bytes if len(wal_bytes) == length else None


@dataclass(slots=True)
class Part:
    """What one transaction adds to one segment.

    Attributes:
        origin: whose log it is.
        no: the segment's number.
        start: where it is added.
        entries: the batches.
        end: where the next one will be added.
        is_full: another segment follows.
        is_made: its file was made here. One that is there already is somebody else's.
    """

    origin: PeerId
    no: int
    start: int
    entries: list[bytes] = field(default_factory=list)
    end: int = 0
    is_full: bool = False
    is_made: bool = False

    @property
    def is_new(self) -> bool:
        """Whether it makes the segment."""
        return self.start == 0


class _Ahead(NamedTuple):
    """What is written of a batch before it is sealed.

    Attributes:
        at: where it will lie.
        size: how long it will be.
        header: what it begins with.
        begun: returns the descriptor, and how much of the entry was written.
    """

    at: Segment
    size: int
    header: bytes
    begun: Meanwhile[tuple[int, int]]


class Appends:
    """The big batches of one transaction: where they will lie, and how they get there.

    Args:
        store: the store's file.
        current: to which segment each log's next one goes.
        next_no: the number of the next segment that is made.
        bytes_max: a segment takes no more.

    Attributes:
        parts: by the segment's number, in the order in which the segments were begun.
        next_no: as above, after those that this transaction makes.
        is_written: whether any of it may be on the disk, besides what is written ahead and can be withdrawn.
    """

    def __init__(self, store: Path, current: Mapping[PeerId, Segment], next_no: int, bytes_max: int) -> None:
        self.parts: dict[int, Part] = {}
        self.next_no = next_no
        self.is_written = False
        self._store = store
        self._current = dict(current)
        self._bytes_max = bytes_max
        self._offsets: dict[tuple[int, int], bytes] = {}
        self._ahead: _Ahead | None = None

    def write_ahead(self, origin: PeerId, size: int, pieces: Sequence[bytes]) -> None:
        """Begin to write the batch that is added next, in another thread, while this one seals it: a tenth of the time
        of a call that appends 256 KiB. Only the first of a transaction, and only to a segment that is there.

        Args:
            size: how long it will be.
            pieces: what it begins with, the header first.
        """
        at = self._current.get(origin)
        entry_size = _LENGTH.size + size
        if self.parts or self._ahead is not None or entry_size < _AHEAD_BYTES_MIN:
            return
        if at is None or at.end + entry_size > self._bytes_max:
            return
        path = _path_text(self._store, at.no)
        data = (_LENGTH.pack(size), *pieces)

        def begin() -> tuple[int, int]:
            descriptor = os.open(path, _TO_WRITE)
            try:
                done = os.pwritev(descriptor, data, at.end)
                begin_sync(descriptor, at.end, done)
                return descriptor, done
            except BaseException:
                os.close(descriptor)
                raise

        # Where no thread can be had it is written later, with the rest.
        with suppress(RuntimeError):
            self._ahead = _Ahead(at, size, pieces[0], Meanwhile(begin))

    def withdraw(self) -> None:
        """Cut off what was written ahead and is not `write`'s yet. Never raises for a disk or for the other thread: an
        error may be on its way. If anything went wrong it counts as written."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return
        is_written, self.is_written = self.is_written, True
        with suppress(Exception):
            try:
                descriptor, _ = ahead.begun.wait()
                os.close(descriptor)
            finally:
                os.truncate(_path_text(self._store, ahead.at.no), ahead.at.end)
            self.is_written = is_written

    def add(self, origin: PeerId, wal_bytes: bytes) -> Segment:
        """Return where the batch will lie: its segment and its offset there."""
        size = _LENGTH.size + len(wal_bytes)
        current = self._current.get(origin)
        if current is None or current.end + size > self._bytes_max:
            if current is not None:
                self._part(origin, current).is_full = True
            current = Segment(self.next_no, 0)
            self.next_no += 1
        part = self._part(origin, current)
        part.entries.append(wal_bytes)
        part.end = current.end + size
        self._offsets[current] = wal_bytes
        self._current[origin] = Segment(current.no, part.end)
        return current

    def _part(self, origin: PeerId, at: Segment) -> Part:
        return self.parts.setdefault(at.no, Part(origin, at.no, at.end, end=at.end))

    @property
    def size(self) -> int:
        """How much is added."""
        return sum(part.end - part.start for part in self.parts.values())

    def find(self, no: int, offset: int) -> bytes | None:
        """A batch that was added here."""
        return self._offsets.get((no, offset))

    def forget(self, origin: PeerId) -> None:
        """Nothing of that log is to be written, and nothing is added to its segments any more."""
        self.parts = {no: part for no, part in self.parts.items() if part.origin != origin}
        self._current.pop(origin, None)

    def write(self) -> None:
        """Write and sync everything. When this returns it is durable.

        Raises:
            StoreFull, StoreError: it is not, as far as anybody knows; `take_back`.
        """
        if self._ahead is not None and not self._is_added(self._ahead):
            path = segment_path(self._store, self._ahead.at.no)
            self.withdraw()
            if self.is_written:
                raise StoreError(f"{path} cannot be cut off where another batch was begun than was added")
        for part in self.parts.values():
            if part.entries:
                self.is_written = True
                self._write(part)

    def _is_added(self, ahead: _Ahead) -> bool:
        # What lies in no part was forgotten.
        added = self.find(*ahead.at) if ahead.at.no in self.parts else None
        return added is not None and len(added) == ahead.size and added.startswith(ahead.header)

    def _write(self, part: Part) -> None:
        try:
            descriptor, done = self._open(part)
            try:
                _write_all(descriptor, part.start, part.entries, done)
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            if part.is_new:
                sync(self._store.parent)
        except OSError as error:
            raise refusal(segment_path(self._store, part.no), error) from error

    def _open(self, part: Part) -> tuple[int, int]:
        """Return a descriptor, and how much of the first entry was written ahead."""
        ahead = self._ahead
        if ahead is not None and ahead.at == (part.no, part.start):
            self._ahead = None
            return ahead.begun.wait()
        make = os.O_CREAT | os.O_EXCL if part.is_new else 0
        descriptor = os.open(_path_text(self._store, part.no), _TO_WRITE | make, 0o600)
        part.is_made = part.is_new
        return descriptor, 0

    def take_back(self, part: Part) -> None:
        """Take from the disk again what no commit has made known. Never raises for a disk: what stays is not counted
        once the segment is closed, or is found by the next start."""
        path = segment_path(self._store, part.no)
        with suppress(OSError):
            if part.is_made:
                os.unlink(path)
            elif not part.is_new:
                os.truncate(path, part.start)


def _write_all(descriptor: int, offset: int, entries: Sequence[bytes], done: int = 0) -> None:
    """Write entries one after the other, from `offset` on, where so much of them is there already."""
    # A batch is not copied for the sake of its length.
    pieces = [piece for wal_bytes in entries for piece in (_LENGTH.pack(len(wal_bytes)), wal_bytes)]
    at = 0
    while True:
        offset += done
        while at < len(pieces) and done >= len(pieces[at]):
            done -= len(pieces[at])
            at += 1
        if at == len(pieces):
            return
        if done:
            pieces[at] = pieces[at][done:]
        # What does not fit is tried again, to be told why.
        done = os.pwritev(descriptor, pieces[at : at + _PIECES_MAX], offset)


def drop_segment(store: Path, no: int) -> None:
    """Give a segment's room back. Never raises for a disk: what stays is found by the next start."""
    with suppress(OSError):
        os.unlink(segment_path(store, no))


def drop_probe(store: Path) -> None:
    """Take away what `try_room` makes. Never raises for a disk."""
    drop_segment(store, _PROBE)


def try_room(store: Path, size: int) -> None:
    """See whether the disk takes so many bytes more.

    Raises:
        StoreFull, StoreError: it does not.
    """
    path = segment_path(store, _PROBE)
    try:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
            try:
                _write_all(descriptor, 0, (bytes(size),))
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        finally:
            drop_probe(store)
    except OSError as error:
        raise refusal(path, error) from error
