"""The windows to the world: what a node needs from outside itself, each small enough to be replaced.

Clock, entropy and blocking work are here, the network is `p2p.transport.base`. A node gets all of them with its
configuration and names nothing else of the kind: so a whole cluster runs in one process under trio's MockClock, from
one seed, with the same trace every time. The pure rooms below do not see even these: they are given `now` and bytes.

trio is loaded with the first clock or blocking work, which a command that only looks into a data dir does not need.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias, TypeVar, TypeVarTuple, Unpack, get_args

from p2p.errors import StoreError
from p2p.limits import USUAL

if TYPE_CHECKING:
    from outcome import Outcome  # part of trio's interface, and installed by it

T = TypeVar("T")
Args = TypeVarTuple("Args")

Entropy: TypeAlias = Callable[[int], bytes]
"""Returns as many random bytes as it is asked for. Keys are made from them: outside tests only `system_entropy`."""

Lane: TypeAlias = Literal["write", "read", "chore"]
"""Which of the store's connections a piece of blocking work uses."""
LANES: Final[tuple[Lane, ...]] = get_args(Lane)

system_entropy: Entropy = os.urandom


def system_wall_ms() -> int:
    """Unix milliseconds of the machine's clock."""
    return time.time_ns() // 1_000_000


class Clock(Protocol):
    """Two times: one that only goes forward, for deadlines, and one for people and for HLCs."""

    def monotonic(self) -> float:
        """Seconds that never go back, on the scale of `trio.current_time()`: fit for a cancel scope's deadline."""

    def wall_ms(self) -> int:
        """Unix milliseconds. May jump in any direction; nothing may be lost or hang when it does."""


class SystemClock:
    """The machine's time. Its monotonic half is trio's, so that it follows a MockClock and fits trio's deadlines."""

    __slots__ = ("monotonic",)

    def __init__(self) -> None:
        import trio

        # Itself and no call of it: it is read several times per message.
        self.monotonic = trio.current_time

    def __eq__(self, other: object) -> bool:
        # They are all alike: a copied config is equal to the first one.
        return True if type(self) is type(other) is SystemClock else NotImplemented

    def __hash__(self) -> int:
        return hash(SystemClock)

    def wall_ms(self) -> int:
        return system_wall_ms()


class SimulatedClock:
    """A wall clock that is derived from trio's: under a MockClock it moves only when the simulation does.

    Args:
        wall_start_ms: what `wall_ms` shows when the clock is made (inside trio).

    Add to `skew_ms` at any time to let the wall clock jump.
    """

    __slots__ = ("_origin_s", "_wall_start_ms", "monotonic", "skew_ms")

    def __init__(self, wall_start_ms: int = 1_700_000_000_000) -> None:
        import trio

        self.monotonic = trio.current_time
        self._wall_start_ms = wall_start_ms
        self._origin_s = trio.current_time()
        self.skew_ms = 0

    def wall_ms(self) -> int:
        return self._wall_start_ms + self.skew_ms + int((self.monotonic() - self._origin_s) * 1000)


class Blocking(Protocol):
    """Where work goes that would hold up the loop: the store."""

    async def run(self, lane: Lane, fn: Callable[[Unpack[Args]], T], *args: *Args) -> T:
        """Run `fn(*args)` and return what it returns, or raise what it raises.

        One call per lane runs at a time, in the order of the calls. A call that waits for its lane can be cancelled.
        One that has begun is waited for although its caller is cancelled, so that no thread uses a connection behind
        its owner's back; only a disk that hangs is given up on, and then the lane stays taken.
        """


class NoThread(StoreError):
    """No thread can be started at the moment, and what was to be done has not begun."""


class SystemBlocking:
    """Worker threads of trio, at most one per lane.

    Args:
        give_up_s: how long work that has begun is waited for after its caller was cancelled.
    """

    __slots__ = ("_give_up_s", "_limiters")

    def __init__(self, give_up_s: float = USUAL.hung_disk_s_max) -> None:
        import trio

        self._give_up_s = give_up_s
        self._limiters = {lane: trio.CapacityLimiter(1) for lane in LANES}
        # An interrupt between the start of a thread and the wait for it would free a lane that is in use.
        trio.lowlevel.enable_ki_protection(SystemBlocking.run)

    async def run(self, lane: Lane, fn: Callable[[Unpack[Args]], T], *args: *Args) -> T:
        import trio

        limiter = self._limiters[lane]
        job = object()
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            # A lane that is free needs no turn of the loop.
            limiter.acquire_on_behalf_of_nowait(job)
        except trio.WouldBlock:
            await limiter.acquire_on_behalf_of(job)
        token = trio.lowlevel.current_trio_token()
        over = trio.Event()
        outcomes: list[Outcome[T]] = []

        def finish(result: Outcome[T]) -> None:
            limiter.release_on_behalf_of(job)
            outcomes.append(result)
            over.set()

        def deliver(result: Outcome[T]) -> None:
            # Given up on, it may come back when nobody is there any more.
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(finish, result)

        try:
            # Without a name: to rename the thread, there and back, is a tenth of the way.
            trio.lowlevel.start_thread_soon(lambda: fn(*args), deliver)
        except BaseException as error:
            limiter.release_on_behalf_of(job)
            if isinstance(error, RuntimeError):
                # A limit of threads or processes is reached, which passes like a lack of memory or descriptors.
                raise NoThread(f"no worker thread for the store: {error}") from None
            raise
        try:
            await over.wait()
        except (trio.Cancelled, KeyboardInterrupt) as error:
            with trio.move_on_after(self._give_up_s, shield=True):
                await over.wait()
            if not outcomes or isinstance(error, KeyboardInterrupt):
                raise
        return outcomes[0].unwrap()


class InlineBlocking:
    """Runs the work on the loop after a checkpoint.

    For stores in memory, and for simulations: a worker thread's timing is the one thing that a seed does not repeat.
    """

    __slots__ = ()

    async def run(self, lane: Lane, fn: Callable[[Unpack[Args]], T], *args: *Args) -> T:
        import trio

        await trio.lowlevel.checkpoint()
        return fn(*args)


def uniform(entropy: Entropy) -> float:
    """A number in [0, 1), evenly spread over 2^53 values; what jitter is made from."""
    return (int.from_bytes(entropy(8), "little") >> 11) / (1 << 53)
