"""Text from outside, made safe to show.

What a peer calls itself, and what an operating system says of an error, may hold line breaks, terminal controls or
characters that turn the reading direction. One event is one line (threat T58), so whatever is shown goes through here.
"""

from __future__ import annotations

import unicodedata
from typing import Final

LINE_BYTES_MAX: Final = 2048
"""A log line, cut at a character boundary."""

TRACE: Final = 5
"""A level below `logging.DEBUG`: every message that comes and every write, by kind and size, never by content."""

_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def one_line(text: str, bytes_max: int = LINE_BYTES_MAX) -> str:
    """Escape control, format, surrogate and separator characters as `\\xNN` or `\\uNNNN`, and bound the length.

    Args:
        text: anything.
        bytes_max: UTF-8 bytes of the result at the most; what is cut shows as `…`.
    """
    # Escaping never shortens, so nothing beyond this many characters can show.
    text = text[: bytes_max + 1]
    if text.isprintable() and text.isascii() and len(text) <= bytes_max:
        return text
    if not text.isprintable():
        text = "".join(_escape(char) if unicodedata.category(char) in _UNSAFE else char for char in text)
    raw = text.encode()
    if len(raw) <= bytes_max:
        return text
    return raw[: bytes_max - 3].decode(errors="ignore") + "…"


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")
