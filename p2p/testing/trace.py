"""What happened in a simulated world, line by line, with virtual times: equal for equal seeds, in any process."""

from __future__ import annotations

import hashlib

import trio


class Trace:
    """The events of one run, in order.

    Attributes:
        lines: one event each, without line ends.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._started = trio.current_time()

    @property
    def now(self) -> float:
        """Virtual seconds since the world began."""
        return trio.current_time() - self._started

    def note(self, who: str, what: str) -> None:
        """Add an event."""
        self.lines.append(f"{self.now:9.3f} {who:<8} {what}")

    def digest(self) -> str:
        """64 hex digits that two runs share exactly when the same happened in the same order at the same times."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()
