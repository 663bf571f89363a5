"""The windows to the world: what a node needs from outside itself, each small enough to be replaced.

Clock, entropy and blocking work are here, the network is `p2p.transport.base`. A node gets all of them with its
configuration and names nothing else of the kind: so a whole cluster runs in one process under trio's MockClock, from
one seed, with the same trace every time. The pure rooms below do not see even these: they are given `now` and bytes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias, TypeVar, TypeVarTuple, Unpack

import trio

T = TypeVar("T")
Args = TypeVarTuple("Args")

Entropy: TypeAlias = Callable[[int], bytes]
"""Returns as many random bytes as it is asked for. Keys are made from them: outside tests only `system_entropy`."""

Lane: TypeAlias = Literal["write", "read"]
"""Which of the store's two connections a piece of blocking work uses."""

system_entropy: Entropy = os.urandom


class Clock(Protocol):
    """Two times: one that only goes forward, for deadlines, and one for people and for HLCs."""

    def monotonic(self) -> float:
        """Seconds that never go back, on the scale of `trio.current_time()`: fit for a cancel scope's deadline."""

    def wall_ms(self) -> int:
        """Unix milliseconds. May jump in any direction; nothing may be lost or hang when it does."""


class SystemClock:
    """The machine's time. Its monotonic half is trio's, so that it follows a MockClock and fits trio's deadlines."""

    __slots__ = ()

    def monotonic(self) -> float:
        return trio.current_time()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class SimulatedClock:
    """A wall clock that is derived from trio's: under a MockClock it moves only when the simulation does.

    Args:
        wall_start_ms: what `wall_ms` shows when the clock is made (inside trio).

    Add to `skew_ms` at any time to let the wall clock jump.
    """

    __slots__ = ("_origin_s", "_wall_start_ms", "skew_ms")

    def __init__(self, wall_start_ms: int = 1_700_000_000_000) -> None:
        self._wall_start_ms = wall_start_ms
        self._origin_s = trio.current_time()
        self.skew_ms = 0

    def monotonic(self) -> float:
        return trio.current_time()

    def wall_ms(self) -> int:
        return self._wall_start_ms + self.skew_ms + int((trio.current_time() - self._origin_s) * 1000)


class Blocking(Protocol):
    """Where work goes that would hold up the loop: the store."""

    async def run(self, lane: Lane, fn: Callable[[Unpack[Args]], T], *args: *Args) -> T:
        """Run `fn(*args)` and return what it returns, or raise what it raises.

        One call per lane runs at a time, in the order of the calls. A call that waits for its lane can be cancelled;
        one that has begun is always waited for, so that no thread uses a connection behind its owner's back.
        """


class SystemBlocking:
    """Worker threads of trio, at most one per lane."""

    __slots__ = ("_limiters",)

    def __init__(self) -> None:
        self._limiters = {"write": trio.CapacityLimiter(1), "read": trio.CapacityLimiter(1)}

    async def run(self, lane: Lane, fn: Callable[[Unpack[Args]], T], *args: *Args) -> T:
        return await trio.to_thread.run_sync(fn, *args, limiter=self._limiters[lane], abandon_on_cancel=False)


class InlineBlocking:
    """Runs the work on the loop after a checkpoint.

    For simulations: a worker thread's timing is the one thing that a seed does not repeat.
    """

    __slots__ = ()

    async def run(self, lane: Lane, fn: Callable[[Unpack[Args]], T], *args: *Args) -> T:
        await trio.lowlevel.checkpoint()
        return fn(*args)


def uniform(entropy: Entropy) -> float:
    """A number in [0, 1), evenly spread over 2^53 values; what jitter is made from."""
    return (int.from_bytes(entropy(8), "little") >> 11) / (1 << 53)
