"""What of a failure ends only what raised it, and what ends the program.

An application's handler, rule or hook may raise anything. A failure is answered for and goes no further. What ends the
program does: trio raises Ctrl-C in whatever task runs, and whoever calls `sys.exit` means all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import trio

_ENDS: Final = (KeyboardInterrupt, SystemExit)


def contained(error: BaseException) -> BaseException:
    """Give back an error that is a failure and no more.

    Raises:
        KeyboardInterrupt, SystemExit: the error is one, or holds one; bare, since whoever runs an ASGI application
            (hypercorn, Quart) takes a group for a failure whatever is in it.
        GeneratorExit: Python closes a coroutine that nobody runs any more, which must not go on.
        Cancelled, BaseExceptionGroup: it is one of trio's cancellations, or holds one: as it is.
    """
    if isinstance(error, GeneratorExit) and not trio.lowlevel.in_trio_task():
        raise error
    found = list(_leaves(error))
    for one in found:
        if isinstance(one, _ENDS):
            raise one from None
    if any(isinstance(one, trio.Cancelled) for one in found):
        raise error
    return error


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def first_of(error: BaseException) -> BaseException:
    """The first of the errors in a group, in groups within it; any other is its own first."""
    return next(_leaves(error))
