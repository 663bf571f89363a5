"""What a node tells people while it runs: one line for each notable event, to `logging` and to the config's `on_log`.

Lines are few: whoever lets others decide how many there are bounds them first (`PacedLines`). What happens all the time
goes to the loggers of the modules instead, at debug and trace, where it costs nothing unless somebody looks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from p2p.node.status import Counters
from p2p.policy.buckets import TokenBucket
from p2p.text import one_line
from p2p.windows import Clock

_log = logging.getLogger("p2p.node")

FIRST_MAX: Final = 100
"""Lines that are kept for a hook that comes after the start."""


class Lines:
    """Tells lines; calling it tells one that is good to know. Never raises, whatever the hook does.

    Args:
        node_id: whose lines these are.
        on_log: the application's hook, see `NodeConfig`.
        counters: take note of a hook that fails.
    """

    def __init__(self, node_id: str, on_log: Callable[[str], None] | None, counters: Counters) -> None:
        self._node_id = node_id
        self._on_log = on_log
        self._counters = counters
        self._sinks: list[Callable[[str], None]] = []
        self._first: list[str] = []

    @contextmanager
    def told_to(self, sink: Callable[[str], None], *, from_start: bool = False) -> Iterator[None]:
        """Tell a further hook, too, as long as the context lasts; first, if asked for, what was told at the start."""
        for line in self._first if from_start else ():
            self._hand(sink, line)
        self._sinks.append(sink)
        try:
            yield
        finally:
            self._sinks.remove(sink)

    def __call__(self, line: str) -> None:
        """Tell what is good to know."""
        self._tell(logging.INFO, line)

    def warn(self, line: str) -> None:
        """Tell what somebody may have to mend."""
        self._tell(logging.WARNING, line)

    @property
    def is_heard(self) -> bool:
        """Whether a line that is good to know would come to anybody: else it need not be made."""
        return self._comes_to_anybody(logging.INFO)

    def _comes_to_anybody(self, level: int) -> bool:
        is_kept = len(self._first) < FIRST_MAX
        return is_kept or bool(self._sinks) or self._on_log is not None or _log.isEnabledFor(level)

    def _tell(self, level: int, line: str) -> None:
        if not self._comes_to_anybody(level):
            return
        line = one_line(line)
        _log.log(level, "%s: %s", self._node_id, line)
        if len(self._first) < FIRST_MAX:
            self._first.append(line)
        for hook in [*self._sinks] if self._on_log is None else [self._on_log, *self._sinks]:
            self._hand(hook, line)

    def _hand(self, hook: Callable[[str], None], line: str) -> None:
        try:
            hook(line)
        except Exception as error:  # noqa: BLE001  # a hook is somebody else's code: it may not end the node
            self._tell_of(error)

    def _tell_of(self, error: Exception) -> None:
        self._counters.hook_failures = times = self._counters.hook_failures + 1
        tell_of_hook(_log, f"{self._node_id}: a log hook", times, error)


class Pace:
    """Of what others decide how often it happens: what may be told, and how much was left out before it."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._bucket = TokenBucket(per_s, burst)
        self._untold = 0

    def take(self, now: float) -> int | None:
        """How many were left out since the last one that was told; None if this one is left out, too."""
        if not self._bucket.take(now):
            self._untold += 1
            return None
        untold, self._untold = self._untold, 0
        return untold


class PacedLines:
    """Tells lines of which others decide how many there are: so many, and with the next one how many were left out.

    Args:
        log_line: takes them.
        per_s, burst: how many there may be.
    """

    def __init__(self, log_line: Callable[[str], None], clock: Clock, per_s: float, burst: int) -> None:
        self._log_line = log_line
        self._clock = clock
        self._pace = Pace(per_s, burst)

    def __call__(self, line: str) -> None:
        """Tell it, or count it."""
        untold = self._pace.take(self._clock.monotonic())
        if untold is not None:
            self._log_line(f"{line} (and {untold} more before)" if untold else line)


def tell_of_hook(log: logging.Logger, hook: str, times: int, error: Exception) -> None:
    """Tell of a hook that failed, its first time being 1. It tends to fail at each call, and others decide how many
    there are: it is told at the 1st, 2nd, 4th, 8th … time."""
    if times & (times - 1) == 0:
        what = one_line(f"{type(error).__name__}: {error}")
        log.warning("%s failed, %d so far: %s", hook, times, what)
        log.debug("%s: where it failed:", hook, exc_info=error)
