"""Other protocols, known by the first bytes of an answer: a port was dialled in the wrong way, and a line says how.

Nothing depends on it but the words of an error.
"""

from __future__ import annotations

from typing import Final

FIRST_BYTES: Final = 8
"""As many tell protocols apart."""

_HINTS: Final = (
    (b"HTTP/", "HTTP is spoken there: a WebSocket door is dialled with ws://, or wss://"),
    (b"\x15\x03", "TLS is spoken there: a WebSocket door with a certificate is dialled with wss://"),
    (b"SSH-", "SSH is spoken there"),
)


def foreign_answer(first: bytes) -> str | None:
    """What an answer that begins so speaks, and what to do about it; None if that is not known."""
    return next((hint for mark, hint in _HINTS if first.startswith(mark)), None)
