"""One schedule of tasks per seed: which of the tasks that are ready runs first is drawn, and drawn alike in every run.

trio shuffles the tasks that are ready, so that nobody relies on their order. For tests it can do so from a generator of
its own that may be seeded. It has no public way to ask for that, so this file reaches for two private names of trio's:
the only place in this project that does. `check_trio` says at once, and in words, when a trio has changed them.

With trio's MockClock, with work that runs inline and with one source of chance, a run is repeated exactly, task switch
by task switch, in any process. Another seed is another order of the same tasks: that is how races are found.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import TypeVar, TypeVarTuple, Unpack

import trio
import trio.testing
from trio._core import _run as trio_run

T = TypeVar("T")
Args = TypeVarTuple("Args")

_FLAG = "_ALLOW_DETERMINISTIC_SCHEDULING"
_GENERATOR = "_r"


class SchedulerUnavailable(RuntimeError):
    """This trio schedules in another way than the ones that are known here."""


def check_trio(internals: ModuleType = trio_run) -> random.Random:
    """Return the generator that trio shuffles with.

    Args:
        internals: trio's module of the run loop.

    Raises:
        SchedulerUnavailable: it has no such generator, or no switch to make its schedule repeat.
    """
    generator = getattr(internals, _GENERATOR, None)
    if not isinstance(generator, random.Random) or not isinstance(getattr(internals, _FLAG, None), bool):
        raise SchedulerUnavailable(
            f"trio {trio.__version__} has no {_FLAG} and {_GENERATOR} in {internals.__name__}: see how it orders tasks "
            "that are ready now, and teach p2p/testing/scheduler.py to seed that"
        )
    return generator


def run_seeded(
    seed: int,
    async_fn: Callable[[Unpack[Args]], Awaitable[T]],
    *args: *Args,
    instruments: tuple[trio.abc.Instrument, ...] = (),
) -> T:
    """Like `trio.run`, with the task schedule of this seed and a clock that jumps whenever everybody sleeps.

    Not for threads and real sockets: the clock would jump while they work. One such run at a time in a process.

    Raises:
        SchedulerUnavailable: see `check_trio`.
    """
    generator = check_trio()
    state, flag = generator.getstate(), getattr(trio_run, _FLAG)
    clock = trio.testing.MockClock(autojump_threshold=0)
    generator.seed(seed)
    setattr(trio_run, _FLAG, True)
    try:
        return trio.run(async_fn, *args, clock=clock, instruments=instruments)
    finally:
        setattr(trio_run, _FLAG, flag)
        generator.setstate(state)
