"""One TCP connection as a `LinkStream`.

It owns a non-blocking standard-library socket and asks trio only to wait for it. trio.SocketStream does the same work
through three coroutines, a context manager and a full checkpoint per call; most of what a link reads and writes is
there or fits at once, and then all of that is price without purpose. `benchmarks/transport.py` measures both in one
run (Python 3.11, loopback, 128 B), in parts of SocketStream's time: a read of bytes at hand 0.30 as `receive_chunk`
and 0.70 as `receive_some`, a send that fits 0.25 as `send_nowait` and 0.75 as `send_all`, a round trip with a wait on
each side 0.54; writes of 64 KiB, sent and received, 0.75 to 0.9.

How it moves: every operation tries the system call first. Only when the kernel says "not now" does it wait, and waiting
is a checkpoint. `receive_some` and `send_all` that never waited make one anyway, as trio's streams promise.
`receive_chunk` may leave it out CHUNKS_PER_CHECKPOINT - 1 times in a row; the count is kept here and not by the
caller, so no caller can let a flooding peer starve the other tasks.

What it refuses to know: names, dialling, accepting, and what the bytes mean.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled, wait_readable, wait_writable

from p2p.ids import PeerEndpoint
from p2p.transport.base import LinkStream, receive_size

CHUNKS_PER_CHECKPOINT: Final = 4
"""At 128 KiB a read these are at most 512 KiB of work between two turns of the loop."""

ALONE_BYTES_MAX: Final = 2048
"""A read of less, after a wait, is taken for a message that came alone: the next one waits before it looks."""

UNSENT_BYTES: Final = 128 * 1024
"""TCP_NOTSENT_LOWAT: the kernel calls the socket writable only below this. More would sit there beyond recall, behind
which a Goodbye or an ack waits; two writes' worth keep the pipe full while the loop turns."""

_NOT_NOW: Final = (BlockingIOError, InterruptedError)
_LINGER_NOT: Final = struct.pack("hh" if hasattr(socket, "WSAENOTSOCK") else "ii", 1, 0)
_CLOSED_HERE: Final = frozenset({errno.EBADF, getattr(errno, "WSAENOTSOCK", errno.EBADF)})


class TcpStream(LinkStream, trio.abc.HalfCloseableStream):
    """A connected TCP socket as a trio stream.

    Args:
        sock: a connected stream socket; the stream owns it from here on.
        remote: where the other side is, if known.
        speaks_first: this side says the first word, so that there is nothing to be read at once.
    """

    __slots__ = ("_at_hand", "_broken", "_fd", "_remote", "_sending", "_sent_eof", "_sock", "_was_all")

    def __init__(self, sock: socket.socket, remote: PeerEndpoint | None = None, *, speaks_first: bool = False) -> None:
        if sock.gettimeout() != 0:
            sock.setblocking(False)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        except OSError:  # a connection that was reset already, or a socket that is not TCP (tests)
            pass
        self._sock = sock
        self._fd = sock.fileno()
        self._remote = remote
        self._sending = False
        self._sent_eof = False
        # Whoever has just made the stream had to wait for it.
        self._at_hand = CHUNKS_PER_CHECKPOINT - 1
        self._was_all = speaks_first
        self._broken: OSError | None = None

    @property
    def remote(self) -> PeerEndpoint | None:
        return self._remote

    def __repr__(self) -> str:
        state = "closed" if self._fd < 0 else f"fd {self._fd}"
        return f"<TcpStream {self._remote} {state}>"

    # Receiving. Two tasks at once are caught by trio itself: it lets one task wait for a descriptor.

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size = receive_size(max_bytes)
        await checkpoint_if_cancelled()
        try:
            data = self._receive_now(size)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await cancel_shielded_checkpoint()
            raise
        if data is None:
            return await self._receive_later(size)
        await cancel_shielded_checkpoint()
        return data

    async def receive_chunk(self, max_bytes: int | None = None) -> bytes:
        size = max_bytes or receive_size(max_bytes)
        if self._at_hand == 0:
            self._at_hand = CHUNKS_PER_CHECKPOINT - 1
            return await self.receive_some(size)
        data = None if self._was_all else self._receive_now(size)
        if data is None:
            self._at_hand = CHUNKS_PER_CHECKPOINT - 1
            while data is None:
                await wait_readable(self._fd)
                data = self._receive_now(size)
            # What was waited for and leaves room was all there was; and if it is small nothing follows mostly, as after
            # a question or an answer. To look in vain takes a system call and an error, to wait for what is there a
            # turn of the loop.
            self._was_all = 0 < len(data) < min(size, ALONE_BYTES_MAX)
            return data
        self._at_hand -= 1
        return data

    async def receive_while(self, take: Callable[[bytes | bytearray], bool], max_bytes: int | None = None) -> None:
        size = receive_size(max_bytes)
        wants_more = True
        while wants_more:
            if self._was_all:
                # As in `receive_chunk`, without a call for what comes alone.
                await wait_readable(self._fd)
                data = self._receive_now(size)
                if data is None:
                    continue
                self._at_hand = CHUNKS_PER_CHECKPOINT - 1
                self._was_all = 0 < len(data) < min(size, ALONE_BYTES_MAX)
            else:
                data = await self.receive_chunk(size)
            wants_more = take(data)

    def _receive_now(self, size: int) -> bytes | None:
        try:
            data = self._sock.recv(size)
        except _NOT_NOW:
            return None
        except OSError as error:
            raise self._translated(error) from error
        if not data and self._broken is not None:
            raise self._translated(self._broken) from self._broken
        return data

    async def _receive_later(self, size: int) -> bytes:
        while True:
            await wait_readable(self._fd)
            data = self._receive_now(size)
            if data is not None:
                return data

    # Sending.

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        assert not self._sending, "send_nowait while a send_all runs would mix their bytes"
        if self._sent_eof:
            return 0
        try:
            return self._sock.send(data)
        except _NOT_NOW:
            return 0
        except OSError as error:  # broken or closed: send_all tells them apart
            self._translated(error)
            return 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._begin_sending()
        waited = False
        try:
            await checkpoint_if_cancelled()
            try:
                self._check_sendable()
                with memoryview(data) as view:
                    sent = self._send_now(view)
                    while sent < view.nbytes:
                        waited = True
                        await wait_writable(self._fd)
                        with view[sent:] as rest:
                            sent += self._send_now(rest)
            finally:
                if not waited:
                    await cancel_shielded_checkpoint()
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        self._begin_sending()
        try:
            if self._fd < 0 or self._sent_eof:
                await trio.lowlevel.checkpoint()
                self._check_sendable()
            await wait_writable(self._fd)
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            self._check_open()
            if not self._sent_eof:
                self._sent_eof = True
                try:
                    self._sock.shutdown(socket.SHUT_WR)
                except OSError as error:
                    raise self._translated(error) from error
        finally:
            self._sending = False

    def _begin_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True

    def _check_open(self) -> None:
        if self._fd < 0:
            raise trio.ClosedResourceError("this stream was closed")

    def _check_sendable(self) -> None:
        self._check_open()
        if self._sent_eof:
            raise trio.ClosedResourceError("nothing can be sent after send_eof")

    def _send_now(self, view: memoryview) -> int:
        if not view.nbytes:
            return 0
        try:
            return self._sock.send(view)
        except _NOT_NOW:
            return 0
        except OSError as error:
            raise self._translated(error) from error

    # Ending.

    def abort(self) -> None:
        if self._fd >= 0:
            with suppress(OSError):  # only the way of ending: the close below is what counts
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            self._close_now()

    async def aclose(self) -> None:
        """Close this side; what was sent is still delivered, unless bytes from the other side were left unread."""
        self._close_now()
        await trio.lowlevel.checkpoint()

    def close_nowait(self) -> bool:
        self._close_now()
        return True

    def _close_now(self) -> None:
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)
            self._fd = -1
            # The next read is to find that, and not to wait for it.
            self._was_all = False
            self._sock.close()

    def _translated(self, error: OSError) -> Exception:
        """What trio's streams raise for it.

        A kernel reports a reset once, to whichever call comes first, and shows a clean end ever after. So it is kept
        here: a reader must not take a cut connection for a finished one because a writer heard of it first. EPIPE is
        no such news: it says that the other side had finished before.
        """
        if error.errno in _CLOSED_HERE:
            return trio.ClosedResourceError("this stream was closed")
        if error.errno != errno.EPIPE:
            self._broken = error
        return trio.BrokenResourceError(f"the connection broke: {error.strerror or error}")
