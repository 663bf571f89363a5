"""How a bug is told in the log: by its first cause, and no more often than somebody can read.

Whose it is makes a difference to who reads that: a bug of ours is reported, one of the application is looked up.

What can be provoked over the network can be provoked a thousand times a second.
"""

from __future__ import annotations

import logging
import traceback
from typing import Final

from p2p import one_line

TEXT_CHARS_MAX: Final = 400
_log = logging.getLogger("p2p.http")


def first_cause(error: BaseException) -> BaseException:
    """The exception that began it: out of the groups that nurseries wrap around it, and of those raised from it."""
    seen = {id(error)}
    while True:
        inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
        if inner is None or id(inner) in seen:
            return error
        seen.add(id(inner))
        error = inner


def told(error: BaseException) -> str:
    """One line: the kind of exception, what it says, and where it was raised."""
    cause = first_cause(error)
    frames = traceback.extract_tb(cause.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return one_line(f"{type(cause).__name__}: {cause}", TEXT_CHARS_MAX) + where


class BugLog:
    """Tells bugs, so many a minute; how many were left out is said with the next one that is told.

    Args:
        per_minute: lines.
        is_ours: whose they are; those of the application are told with the traceback.
    """

    def __init__(self, per_minute: int, *, is_ours: bool) -> None:
        self._per_minute = per_minute
        self._is_ours = is_ours
        self._minute = -1
        self._said = 0
        self._left_out = 0

    def tell(self, what: str, error: BaseException, now: float) -> None:
        """Log one with its cause.

        Args:
            what: was going on.
            now: monotonic seconds.
        """
        if int(now // 60) != self._minute:
            self._minute, self._said = int(now // 60), 0
        if self._said >= self._per_minute:
            self._left_out += 1
            return
        self._said += 1
        more = f" ({self._left_out} like it were not told)" if self._left_out else ""
        self._left_out = 0
        if self._is_ours:
            _log.error("a bug, please report it: %s: %s%s", what, told(error), more)
            _log.debug("how it came about", exc_info=error)
        else:
            _log.error("%s: %s%s", what, told(error), more, exc_info=first_cause(error))
