"""A clock for tests that must see a bound of many seconds run out on real sockets.

Time goes by as it does, so that no bound needs to be made short, which a machine under load would not keep. Where idle
time is skipped, it goes on to the next deadline when nobody has had anything to do for a moment: what is sent over
loopback is there at once, so who is idle waits for time alone. That is not so of work in threads: skip none there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from trio.testing import MockClock

_IDLE_S: Final = 0.02


def as_it_goes(clock: MockClock) -> MockClock:
    """Let a test's clock go as any other one, from now on."""
    clock.rate = 1.0
    return clock


@contextmanager
def idle_time_skipped(clock: MockClock) -> Iterator[None]:
    """Let nobody wait for time alone meanwhile."""
    clock.autojump_threshold = _IDLE_S
    try:
        yield
    finally:
        clock.autojump_threshold = math.inf
