"""Counting the WebSocket frames that bring nothing, by their headers alone (RFC 6455, section 5.2).

A frame costs its reader about 15 microseconds, whatever is in it, and its sender six bytes. Frames that end a message
with something in it are paid for by what they bring. Empty ones, fragments before the last and control frames are not:
these are counted here, so that no more of them are read than an honest side sends.
"""

from __future__ import annotations

from typing import Final

_FIN: Final = 0x80
_OPCODE: Final = 0x0F
_FIRST_CONTROL: Final = 0x8
_MASKED: Final = 0x80
_MASK_BYTES: Final = 4
_LENGTH: Final = 0x7F
_EXTENDED: Final = {126: 2, 127: 8}
"""How many bytes of length follow, by what stands in place of a short one."""


class IdleFrames:
    """Takes the bytes of one direction as they come, and judges none of them.

    Attributes:
        count: frames so far that bring nothing; for who looks to set back.
    """

    __slots__ = ("_head", "_skip", "count")

    def __init__(self) -> None:
        self._head = bytearray()
        self._skip = 0
        self.count = 0

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes."""
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
            else:
                step = min(self._missing(), len(data) - at)
                self._head += data[at : at + step]
                if not self._missing():
                    self._take_head()
            at += step

    def _missing(self) -> int:
        """How many bytes there are to the end of this header, as far as it tells by now."""
        head = self._head
        if len(head) < 2:
            return 2 - len(head)
        mask = _MASK_BYTES if head[1] & _MASKED else 0
        return 2 + _EXTENDED.get(head[1] & _LENGTH, 0) + mask - len(head)

    def _take_head(self) -> None:
        head = self._head
        size = head[1] & _LENGTH
        if size in _EXTENDED:
            size = int.from_bytes(head[2 : 2 + _EXTENDED[size]], "big")
        is_message = head[0] & _FIN and head[0] & _OPCODE < _FIRST_CONTROL
        self.count += not (is_message and size)
        self._skip = size
        head.clear()
