"""Frames: how a byte stream is cut into envelopes again.

A frame is a varint length and so many bytes. `FrameDecoder` takes the stream in whatever pieces it comes and gives
out one frame at a time. It knows nothing of what is inside.

How it moves. The newest chunk is read in place, from `_pos` on. A frame that lies whole within it is cut out of it.
A frame that does not is collected in `_partial`, which grows with what has arrived and never by what a header claims.
The first part of a large one stays where it is (`_first`): if the next chunk has the rest, the two are given out as
they are, to be joined by whoever copies them anyway. So one chunk at most is kept for a part of itself.
A header that is cut in two lives on as `_value` and `_shift`. So whenever `next_frame` says None, the chunk is used
up. Chunks that are fed before that wait in `_backlog`. Every byte is looked at or moved a fixed number of times
however the stream was cut; a buffer that is joined and split again per read would cost the square.

A length is judged byte by byte: as soon as no shorter length than the bound is possible any more, the frame is
refused, and nothing of its body has been kept. The bound is read at that moment, so an owner who raises it after the
last frame of a handshake has raised it for the very next header.

Source: wire section 2.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from p2p.binary import Buffer, Pieces, decode_varint, encode_varint
from p2p.errors import PayloadTooLarge, Reason, RemoteProtocolError
from p2p.limits import KIB, USUAL

__all__ = ["FrameDecodeResult", "FrameDecoder", "LengthPrefixVarint", "decode_varint", "encode_varint"]

FRAME_BYTES_MAX: Final = USUAL.frame_bytes_max

VIEW_BYTES_MIN: Final = 2048
"""From here a frame is given as a view of the chunk: below, copying is cheaper than making the view."""
_PIECE_BYTES_MIN: Final = 16 * KIB
"""So much of a frame at the end of a chunk is not copied at once. A copy of 64 KiB costs a tenth of opening them."""


def joined(frame: Buffer | Pieces) -> Buffer:
    """A frame in one piece."""
    return b"".join(frame) if isinstance(frame, tuple) else frame


class FrameDecoder:
    """Cuts a stream into frames, in work proportional to its bytes.

    After an error the decoder is done: every further call of `next_frame` raises the same.

    Args:
        max_frame_bytes: the longest frame to accept. May be changed at any time; a header is judged by the bound
            that holds when `next_frame` reads it.
        begins_with: what every frame must begin with. A frame of which only the first bytes are there is refused
            as soon as they differ, so that a stranger who speaks another protocol is not waited for.

    Example:
        >>> decoder = FrameDecoder(4096)
        >>> decoder.feed(b"\\x02hi\\x03a")
        >>> decoder.next_frame()
        b'hi'
        >>> decoder.next_frame() is None, decoder.frame_length
        (True, 3)
    """

    __slots__ = (
        "_backlog",
        "_begins_with",
        "_chunk",
        "_error",
        "_first",
        "_length",
        "_partial",
        "_pos",
        "_shift",
        "_value",
        "max_frame_bytes",
    )

    def __init__(self, max_frame_bytes: int = FRAME_BYTES_MAX, *, begins_with: bytes = b"") -> None:
        self.max_frame_bytes = max_frame_bytes
        self._begins_with = begins_with
        self._chunk: bytes | bytearray = b""
        self._pos = 0
        self._backlog = bytearray()
        self._value = 0
        self._shift = 0
        self._length: int | None = None
        self._partial = bytearray()
        self._first: memoryview | None = None
        self._error: tuple[str, Reason] | None = None

    @property
    def buffered(self) -> int:
        """Bytes held that belong to no frame given out yet."""
        first = 0 if self._first is None else len(self._first)
        return len(self._chunk) - self._pos + len(self._backlog) + first + len(self._partial) + self._shift // 7

    @property
    def frame_length(self) -> int | None:
        """Length in bytes of the frame that is being waited for; None while no header is complete."""
        return self._length

    @property
    def is_amid_frame(self) -> bool:
        """Whether a frame has begun, be it a part of its header, when `next_frame` has returned None."""
        return self._length is not None or self._shift > 0

    def feed(self, data: bytes | bytearray) -> None:
        """Take the next bytes of the stream, which nobody changes from here on. They are judged by `next_frame`."""
        if self._pos == len(self._chunk) and not self._backlog:
            self._chunk = data
            self._pos = 0
        else:
            self._backlog += data

    def only_frame(self, data: bytes | bytearray) -> bytes | bytearray | None:
        """The frame that these bytes of the stream are, if they are one small frame and no other byte is held.

        Else None, and nothing was taken: `feed` them. As questions and answers mostly come alone, this is what `feed`
        and two times `next_frame` come to for them, in a third of the time.
        """
        size = len(data)
        if not 2 < size < VIEW_BYTES_MIN or self._pos != len(self._chunk) or self._backlog:
            return None
        length, start = data[0], 1
        if length >= 128:
            length, start = length - 128 + (data[1] << 7), 2
        if start + length != size or not data[start - 1] or length > self.max_frame_bytes:
            return None
        return data[start:] if self._length is None and not self._shift and self._error is None else None

    def next_frame(self) -> Buffer | None:
        """Return the next whole frame, or None when more bytes are needed.

        A frame may be a view of the bytes that were fed; copy what is to be kept for long.

        Raises:
            RemoteProtocolError: see `next_pieces`.
        """
        frame = self.next_pieces()
        return None if frame is None else joined(frame)

    def next_pieces(self) -> Buffer | Pieces | None:
        """As `next_frame`, but a frame of more than 16 KiB may come in two pieces, the first of which has 16 KiB.

        Raises:
            RemoteProtocolError: the length is not a canonical varint, or over the bound (Reason.FRAME_TOO_LARGE),
                or the frame does not begin as every frame must.
        """
        if self._error is not None:
            raise RemoteProtocolError(*self._error)
        if not self._shift and self._length is None and not self._backlog:
            # Nothing is begun, and the frame lies whole in the chunk, or there is no chunk: what the rest comes to for
            # most small messages, in a quarter of its time.
            chunk, pos = self._chunk, self._pos
            end = len(chunk)
            if pos == end:
                return None
            length = chunk[pos]
            pos += 1
            if length >= 128 and pos < end:
                high = chunk[pos]
                pos += 1
                # Three bytes say at least 16,384 and go on below, like a zero that should not be there.
                length = length - 128 + (high << 7) if high else VIEW_BYTES_MIN
            stop = pos + length
            if stop <= end and length < VIEW_BYTES_MIN and length <= self.max_frame_bytes:
                self._pos = stop
                return chunk[pos:stop]
            if length >= 16_384 and pos < end and 0 < (top := chunk[pos]) < 128:
                # The same for a large frame, whose length has three bytes.
                length += (top - 1) << 14
                stop = pos + 1 + length
                if stop <= end and length <= self.max_frame_bytes:
                    self._pos = stop
                    return memoryview(chunk)[pos + 1 : stop]
        while True:
            waiting = self._length is None and not self._read_header()
            frame = None if waiting else self._read_body()
            if frame is not None or not self._backlog:
                return frame
            # The chunk is used up and more was fed meanwhile.
            self._chunk = bytes(self._backlog)
            self._pos = 0
            self._backlog = bytearray()

    def _read_header(self) -> bool:
        chunk = self._chunk
        pos = self._pos
        end = len(chunk)
        value = self._value
        shift = self._shift
        bound = self.max_frame_bytes
        while pos < end:
            byte = chunk[pos]
            pos += 1
            value |= (byte & 127) << shift
            if byte < 128:
                if byte == 0 and shift:
                    self._fail("a frame's length is longer than it needs to be", Reason.PROTOCOL)
                if value > bound:
                    self._fail(f"a frame of {value} bytes is over the bound of {bound}", Reason.FRAME_TOO_LARGE)
                self._length = value
                self._value = self._shift = 0
                self._pos = pos
                return True
            shift += 7
            # A continued varint ends in a byte that is not zero, so it will be this much at least.
            if value | 1 << shift > bound:
                self._fail(f"a frame is over the bound of {bound} bytes", Reason.FRAME_TOO_LARGE)
        self._value = value
        self._shift = shift
        self._pos = pos
        return False

    def _read_body(self) -> Buffer | Pieces | None:
        length = self._length
        assert length is not None
        chunk = self._chunk
        pos = self._pos
        partial = self._partial
        first = self._first
        if first is not None:
            self._first = None
            stop = pos + length - len(first)
            if stop <= len(chunk):
                self._pos = stop
                self._length = None
                return first, memoryview(chunk)[pos:stop]
            partial += first
        have = len(partial)
        stop = pos + length - have
        if stop <= len(chunk):
            self._pos = stop
            self._length = None
            if not have:
                if length < VIEW_BYTES_MIN:
                    return chunk[pos:stop]
                return memoryview(chunk)[pos:stop]
            # The array is given away and replaced, so that the view of it stays as it is.
            partial += memoryview(chunk)[pos:stop]
            self._partial = bytearray()
            return memoryview(partial).toreadonly()
        piece = memoryview(chunk)[pos:]
        self._pos = len(chunk)
        if not have and len(piece) >= _PIECE_BYTES_MIN:
            self._first = piece
        else:
            partial += piece
        if have < len(self._begins_with):
            begins = bytes((self._first or partial)[: len(self._begins_with)])
            if not self._begins_with.startswith(begins):
                self._fail("the stream does not speak this protocol", Reason.PROTOCOL)
        return None

    def _fail(self, detail: str, reason: Reason) -> None:
        self._error = (detail, reason)
        self._chunk = b""
        self._pos = 0
        self._backlog = bytearray()
        self._partial = bytearray()
        self._first = None
        self._value = self._shift = 0
        self._length = None
        raise RemoteProtocolError(detail, reason)


class FrameDecodeResult(NamedTuple):
    """The frames found in a buffer and the bytes of the one that is not whole yet."""

    frames: list[bytes]
    remaining: bytes


class LengthPrefixVarint:
    """The frame format as two functions over whole buffers, for tools and tests. Streams use `FrameDecoder`.

    Args:
        max_frame_bytes: the longest frame to write or to accept.
    """

    __slots__ = ("max_frame_bytes",)

    def __init__(self, max_frame_bytes: int = FRAME_BYTES_MAX) -> None:
        self.max_frame_bytes = max_frame_bytes

    def encode(self, payload: Buffer) -> bytes:
        """Return varint length and the payload.

        Raises:
            PayloadTooLarge: the payload is over the bound.
        """
        if len(payload) > self.max_frame_bytes:
            raise PayloadTooLarge(f"{len(payload)} bytes do not fit a frame of {self.max_frame_bytes}")
        return b"".join((encode_varint(len(payload)), payload))

    def decode(self, buffer: Buffer) -> FrameDecodeResult:
        """Return all whole frames of the buffer, and what is left after the last of them.

        Raises:
            RemoteProtocolError: a length is not a canonical varint, or over the bound (Reason.FRAME_TOO_LARGE).
        """
        data = bytes(buffer)
        decoder = FrameDecoder(self.max_frame_bytes)
        decoder.feed(data)
        frames = []
        used = 0
        while (frame := decoder.next_frame()) is not None:
            frames.append(bytes(frame))
            used += len(encode_varint(len(frame))) + len(frame)
        return FrameDecodeResult(frames, data[used:])
