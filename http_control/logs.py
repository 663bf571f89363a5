"""Streams: what is kept for those who come late, and handed to those who are there (server-sent events).

A `Feed` numbers its entries, keeps the last ones, and hands each to all readers without ever waiting: what a reader has
not taken yet is bounded in bytes, and one that goes beyond is dropped, as nothing else would free it. An id is the
feed's own random mark and a number, so that a reader that comes back after a restart is told that it missed something.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple, Self

import trio

from http_control.limits import HttpLimits
from http_control.problem import Problem, encode

_ID: Final = re.compile(r"([0-9a-f]{16})-([0-9]{1,15})")
HEARTBEAT: Final = b": still here\n\n"


class Entry(NamedTuple):
    """One numbered event, ready to be sent."""

    number: int
    frame: bytes


def frame_of(event: str, value: object, id: str | None = None) -> bytes:
    """One server-sent event; JSON has no line breaks, so one data line holds it."""
    head = f"event: {event}\n" if id is None else f"id: {id}\nevent: {event}\n"
    return head.encode() + b"data: " + encode(value) + b"\n\n"


class Feed:
    """Numbered events and their readers.

    Args:
        mark: 16 hex digits that no earlier feed had.
        kept_max: entries that are kept.
        limits: bounds of readers.
    """

    def __init__(self, mark: str, kept_max: int, limits: HttpLimits) -> None:
        self._mark = mark
        self.limits = limits
        self.kept: deque[Entry] = deque(maxlen=kept_max)
        self.readers: set[Reader] = set()
        self._next = 1

    def publish(self, event: str, value: object) -> None:
        """Number an event, keep it, hand it out."""
        frame = frame_of(event, value, f"{self._mark}-{self._next}")
        self.kept.append(Entry(self._next, frame))
        self._next += 1
        self.tell(frame)

    def tell(self, frame: bytes) -> None:
        """Hand out a frame that is worth nothing later."""
        for reader in self.readers:
            reader.put(frame)

    @property
    def has_room(self) -> bool:
        """Whether there is a place for one more reader."""
        return len(self.readers) < self.limits.readers_max

    def check_room(self) -> None:
        """Return if there is a place for one more reader.

        Raises:
            Problem: there is none.
        """
        if not self.has_room:
            raise Problem(429, "too_many_readers", "all places for readers are taken", headers=(("retry-after", "5"),))

    def since(self, last_id: str | None, tail: int) -> Iterator[bytes]:
        """What a reader missed.

        Args:
            last_id: what it had last; with one that is known, it gets all since.
            tail: without one, how many of the entries that are kept it gets.
        """
        match = _ID.fullmatch(last_id) if last_id is not None else None
        if last_id is None:
            yield from (entry.frame for entry in [*self.kept][max(0, len(self.kept) - tail) :])
            return
        first = self.kept[0].number if self.kept else self._next
        if match is None or match[1] != self._mark or int(match[2]) >= self._next:
            last = first - 1
            yield self._gap(last, None)
        else:
            last = int(match[2])
            if first > last + 1:
                yield self._gap(first - 1, first - last - 1)
        yield from (entry.frame for entry in self.kept if entry.number > last)

    def _gap(self, number: int, missed: int | None) -> bytes:
        """What was missed, with the id of the last of it: so it is not told again to who comes back after that."""
        return frame_of("gap", {"missed": missed}, f"{self._mark}-{number}")


class Reader:
    """One open stream: an async iterator of bytes, which ends when it does not keep up.

    It takes its place when it is first read from, and gives it back when it is closed: an answer that is never sent
    takes none, and one that comes too late for a place ends at once. (No generator: one that is left in the middle is
    closed by the garbage collector, too late.)

    Args:
        feed: what is read.
        last_id, tail: see `Feed.since`.
        first: bytes to begin with.
    """

    def __init__(self, feed: Feed, last_id: str | None, tail: int, first: bytes) -> None:
        self._feed = feed
        self._missed = (last_id, tail)
        # A comment: whoever waits for the header to be sent sees it at once.
        self._queue = deque([b": welcome\n\n" + first])
        self._bytes = 0
        self._wake = trio.Event()
        self._has_begun = False
        self._is_dropped = False

    def put(self, frame: bytes) -> None:
        """Queue a frame, or give the reader up."""
        self._bytes += len(frame)
        if self._bytes > self._feed.limits.reader_bytes_max:
            self._is_dropped = True
            self._queue.clear()
        if not self._is_dropped:
            self._queue.append(frame)
        self._wake.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """All that has come, or a comment when nothing did for a while."""
        if not self._has_begun:
            self._has_begun = True
            if not self._feed.has_room:
                raise StopAsyncIteration
            # Not counted: what is kept is bounded by itself.
            self._queue.extend(self._feed.since(*self._missed))
            self._feed.readers.add(self)
        if not self._queue and not self._is_dropped:
            self._wake = trio.Event()
            with trio.move_on_after(self._feed.limits.heartbeat_s) as patience:
                await self._wake.wait()
            if patience.cancelled_caught:
                return HEARTBEAT
        if self._is_dropped:
            await self.aclose()
            raise StopAsyncIteration
        joined = b"".join(self._queue)
        self._queue.clear()
        self._bytes = 0
        return joined

    async def aclose(self) -> None:
        """Give the place back."""
        self._feed.readers.discard(self)
