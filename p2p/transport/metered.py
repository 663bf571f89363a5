"""What trio-websocket reads from and writes to: a stream that bounds how much may come without getting anywhere.

trio-websocket bounds the length of a message and nothing else: fragments without a byte in them, pings without end and
the headers of a handshake are taken as long as they come. Here a message has to be finished every so many bytes, and
every so many frames that bring nothing (`ws_frames`), and the handshake within its own bound. It also keeps what a
failed handshake is told by, and says when the stream is over: who waits for a handshake would not hear of it otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import trio

from p2p.transport.ws_frames import IdleFrames

_HEAD_END: Final = re.compile(rb"\n\r?\n")
REQUEST: Final = b"GET "
"""What a handshake begins with that asks for a WebSocket."""
_BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TLS_RECORDS: Final = frozenset({b"\x15\x03", b"\x16\x03"})
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})")


class Flood(Exception):
    """More came than is allowed without a handshake or a message coming of it."""


class Metered(trio.abc.Stream):
    """A stream whose other side has to get somewhere.

    Args:
        below: TCP, or TLS over it. Closing this closes it.
        head_bytes_max: the HTTP request or answer, up to its empty line.
        idle_bytes_max: what may come from then on between two calls of `progress`.
        idle_frames_max: frames that bring nothing, likewise.
        begins_with: what the head has to begin with; who sends something else is told in HTTP that it is spoken here,
            for he may wait for an answer in another protocol.
        on_end: called when nothing more will be received, whatever the reason; possibly several times.

    Attributes:
        failure: why nothing more comes; None for an end in order.
        on_sent: called when something was sent.
    """

    __slots__ = (
        "_begins_with",
        "_below",
        "_frames",
        "_head",
        "_idle_bytes_max",
        "_idle_frames_max",
        "_is_head",
        "_left",
        "_on_end",
        "_sending",
        "failure",
        "on_sent",
    )

    def __init__(
        self,
        below: trio.abc.Stream,
        *,
        head_bytes_max: int,
        idle_bytes_max: int,
        idle_frames_max: int,
        begins_with: bytes = b"",
        on_end: Callable[[], object],
    ) -> None:
        self._below = below
        self._begins_with = begins_with
        self._head = b""
        self._is_head = True
        self._left = head_bytes_max
        self._idle_bytes_max = idle_bytes_max
        self._idle_frames_max = idle_frames_max
        self._frames = IdleFrames()
        self._on_end = on_end
        # Answers to pings come from another task than messages, and while somebody waits for room.
        self._sending = trio.Lock()
        self.failure: Exception | None = None
        self.on_sent: Callable[[], object] | None = None

    @property
    def status(self) -> int | None:
        """The HTTP status that was answered; None if it was no HTTP."""
        found = _STATUS.match(self._head)
        return None if found is None else int(found[1])

    @property
    def is_tls(self) -> bool:
        """Whether the head begins as a record of TLS does, such as the alert that HTTP is answered with."""
        return self._head[:2] in _TLS_RECORDS

    @property
    def has_heard(self) -> bool:
        """Whether there was any answer, or request."""
        return bool(self._head)

    @property
    def is_sending(self) -> bool:
        """Whether something is on its way out that waits for room."""
        return self._sending.locked()

    def progress(self) -> None:
        """A message was finished."""
        if not self._is_head:
            self._left = self._idle_bytes_max
            self._frames.count = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            if self._left <= 0:
                what = "handshake" if self._is_head else "frames without a message"
                raise trio.BrokenResourceError from Flood(f"too many bytes of {what}")
            data = await self._below.receive_some(self._left if max_bytes is None else min(max_bytes, self._left))
            self._left -= len(data)
            self._look_at(data)
            if self._is_head and not self._is_asked_for():
                await self._below.send_all(_BAD_REQUEST)
                raise trio.BrokenResourceError from Flood("what came asks for no WebSocket")
        except trio.BrokenResourceError as error:
            self.failure = error.__cause__ if isinstance(error.__cause__, Exception) else error
            self._on_end()
            raise
        except trio.ClosedResourceError:
            self._on_end()
            raise
        if not data:
            self._on_end()
        return data

    def _look_at(self, data: bytes | bytearray) -> None:
        """Read the end of the head, and the frames that come after it."""
        if not self._is_head:
            self._frames.feed(data)
        else:
            self._head += data
            end = _HEAD_END.search(self._head)
            if end is None:
                return
            self._is_head = False
            self._left = self._idle_bytes_max
            self._frames.feed(self._head[end.end() :])
        if self._frames.count > self._idle_frames_max:
            raise trio.BrokenResourceError from Flood("too many frames without a message")

    def _is_asked_for(self) -> bool:
        seen = min(len(self._head), len(self._begins_with))
        return self._head[:seen] == self._begins_with[:seen]

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        async with self._sending:
            await self._below.send_all(data)
        if self.on_sent is not None:
            self.on_sent()

    async def wait_send_all_might_not_block(self) -> None:
        async with self._sending:
            await self._below.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        self._on_end()
        await self._below.aclose()
