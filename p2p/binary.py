"""The alphabet of the wire: fixed integers, canonical varints, byte strings and text.

Encoders are plain functions that return bytes; they refuse values that do not fit with `LocalProtocolError`, since
that is the caller's mistake. `Reader` walks over bytes from outside and refuses everything it cannot take with
`RemoteProtocolError`; no other exception leaves it, whatever the bytes are.

A varint has exactly one accepted form, the shortest. So any accepted message, when encoded again, gives the same
bytes, and two nodes can never disagree about what was hashed or signed.

Source: wire section 1.
"""

from __future__ import annotations

import struct
from typing import Final, TypeAlias

from p2p.errors import LocalProtocolError, RemoteProtocolError

Buffer: TypeAlias = bytes | bytearray | memoryview
"""What decoders take. A memoryview must be one of single bytes, as `memoryview(b"...")` is."""
Pieces: TypeAlias = tuple[memoryview, memoryview]
"""Something large in the two parts in which it came, for those who have to copy it anyway."""

U64_MAX: Final = 2**64 - 1
VARINT_BYTES_MAX: Final = 10

SHORT_VARINTS: Final = tuple(bytes((value,)) for value in range(128))
"""The varints of one byte, for those who write many: a call for each costs more than the rest."""
_CONTINUED: Final = bytes(range(128, 256))
"""The bytes of a varint behind which another one comes."""
_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")


def encode_varint(value: int) -> bytes:
    """Return the shortest LEB128 form, 1 to 10 bytes.

    Raises:
        LocalProtocolError: the value is not within 0 to 2^64 - 1.
    """
    if 0 <= value < 128:
        return SHORT_VARINTS[value]
    if not 0 <= value <= U64_MAX:
        raise LocalProtocolError(f"a varint holds 0 to 2^64 - 1, not {value}")
    if value < 16_384:
        return _U16.pack(value & 127 | 128 | value >> 7 << 8)
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: Buffer, pos: int) -> tuple[int, int]:
    """Read a varint at `pos`; return its value and the position after it.

    Raises:
        RemoteProtocolError: it is cut off, not the shortest form, or 2^64 and more.
    """
    try:
        byte = data[pos]
        if byte < 128:
            return byte, pos + 1
        value = byte & 127
        byte = data[pos + 1]
        if 0 < byte < 128:
            return value | byte << 7, pos + 2
        # Nine more bytes at most; the last one has a single bit of room.
        for shift in range(7, 70, 7):
            pos += 1
            byte = data[pos]
            if byte < 128:
                if byte == 0:
                    raise RemoteProtocolError("a varint is longer than it needs to be")
                if shift == 63 and byte > 1:
                    break
                return value | byte << shift, pos + 1
            value |= (byte & 127) << shift
    except IndexError:
        raise RemoteProtocolError("a varint is cut off") from None
    raise RemoteProtocolError("a varint is 2^64 or more")


def decode_varint(buffer: Buffer) -> tuple[int, int]:
    """Read a varint at the start of `buffer`; return its value and how many bytes it took (1 to 10).

    Example:
        >>> decode_varint(b"\\xac\\x02and more")
        (300, 2)

    Raises:
        RemoteProtocolError: it is cut off, not the shortest form, or 2^64 and more.
    """
    return read_varint(buffer, 0)


def _fixed(form: struct.Struct, name: str, value: int) -> bytes:
    try:
        return form.pack(value)
    except struct.error:
        raise LocalProtocolError(f"{value} does not fit a {name}") from None


def encode_u8(value: int) -> bytes:
    """Return 1 byte. Raises LocalProtocolError when the value does not fit."""
    if not 0 <= value < 256:
        raise LocalProtocolError(f"{value} does not fit a u8")
    return bytes((value,))


def encode_u16(value: int) -> bytes:
    """Return 2 bytes, little-endian. Raises LocalProtocolError when the value does not fit."""
    return _fixed(_U16, "u16", value)


def encode_u32(value: int) -> bytes:
    """Return 4 bytes, little-endian. Raises LocalProtocolError when the value does not fit."""
    return _fixed(_U32, "u32", value)


def encode_u64(value: int) -> bytes:
    """Return 8 bytes, little-endian. Raises LocalProtocolError when the value does not fit."""
    return _fixed(_U64, "u64", value)


def encode_bytes(value: Buffer) -> bytes:
    """Return varint length and the bytes."""
    return b"".join((encode_varint(len(value)), value))


def encode_str(value: str) -> bytes:
    """Return varint length and the UTF-8 form.

    Raises:
        LocalProtocolError: the text holds a lone surrogate, which UTF-8 cannot express.
    """
    try:
        return encode_bytes(value.encode())
    except UnicodeEncodeError:
        raise LocalProtocolError(f"{value[:80]!r} cannot be written as UTF-8") from None


class Reader:
    """A cursor over one message from outside.

    Every method takes the next field and moves on, or raises RemoteProtocolError. What is returned is copied out of
    the buffer, so nothing keeps a big buffer alive. Call `end()` last: trailing bytes are refused everywhere.
    """

    __slots__ = ("_data", "_pos")

    def __init__(self, data: Buffer) -> None:
        self._data = data
        self._pos = 0

    @property
    def remaining(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self._pos

    def raw(self, size: int) -> bytes:
        """Take exactly `size` bytes."""
        stop = self._pos + size
        if stop > len(self._data):
            raise RemoteProtocolError(f"{size} bytes are announced, {self.remaining} are there")
        value = bytes(self._data[self._pos : stop])
        self._pos = stop
        return value

    def u8(self) -> int:
        """Take one byte."""
        return self.raw(1)[0]

    def u16(self) -> int:
        """Take two bytes, little-endian."""
        return int.from_bytes(self.raw(2), "little")

    def u32(self) -> int:
        """Take four bytes, little-endian."""
        return int.from_bytes(self.raw(4), "little")

    def u64(self) -> int:
        """Take eight bytes, little-endian."""
        return int.from_bytes(self.raw(8), "little")

    def varint(self) -> int:
        """Take a canonical varint."""
        value, self._pos = read_varint(self._data, self._pos)
        return value

    def varint_as_it_is(self) -> bytes:
        """Take a canonical varint, and leave it encoded."""
        # No loop over its bytes: a random number of 64 bits has ten, and each side of a handshake takes two of them.
        pos = self._pos
        head = bytes(self._data[pos : pos + VARINT_BYTES_MAX])
        rest = head.lstrip(_CONTINUED)
        size = len(head) - len(rest) + 1
        if not rest or (size > 1 and not rest[0]) or (size == VARINT_BYTES_MAX and rest[0] > 1):
            read_varint(self._data, pos)
            raise AssertionError("it is none, and was read")
        self._pos = pos + size
        return head[:size]

    def bytes_(self) -> bytes:
        """Take a varint length and so many bytes."""
        # `raw(varint())`, written out: it stands for most of what is read in a handshake.
        size, pos = read_varint(self._data, self._pos)
        stop = self._pos = pos + size
        value = bytes(self._data[pos:stop])
        if len(value) < size:
            raise RemoteProtocolError(f"{size} bytes are announced, {len(value)} are there")
        return value

    def str_(self) -> str:
        """Take a varint length and so many bytes of valid UTF-8."""
        return read_text(self.bytes_())

    def skip(self, known: bytes) -> bool:
        """Whether exactly these bytes come next. If so they are taken, if not nothing is."""
        stop = self._pos + len(known)
        if self._data[self._pos : stop] != known:
            return False
        self._pos = stop
        return True

    def end(self) -> None:
        """Refuse whatever is left."""
        if self._pos != len(self._data):
            raise RemoteProtocolError(f"{self.remaining} trailing bytes")


def read_text(data: Buffer) -> str:
    """Read UTF-8. Overlong forms, surrogates and values beyond U+10FFFF are refused.

    Raises:
        RemoteProtocolError: the bytes are not UTF-8.
    """
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise RemoteProtocolError("a text is not valid UTF-8") from None
