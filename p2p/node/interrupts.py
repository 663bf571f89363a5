"""Ctrl-C: where it does not come.

trio raises KeyboardInterrupt in whatever the main thread happens to run, between any two lines. Amid ours it could
leave a queue and its count apart, or a lane that is in use free. So our tasks, and what a program calls of ours, let it
pass: it comes as a cancellation does, where the program's main task waits next, or in the program's own code.

It costs nothing when no interrupt comes: trio looks at the code of the frames that it would interrupt.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import FunctionType
from typing import TypeVar

from trio.lowlevel import disable_ki_protection, enable_ki_protection

ClassT = TypeVar("ClassT", bound=type)
ItemT = TypeVar("ItemT")


def uninterrupted(cls: ClassT) -> ClassT:
    """Let no interrupt come within the methods of a class, and what they call: a decorator.

    What a subclass has of its own is not meant, nor what runs while a generator or a context manager is suspended.
    """
    for member in vars(cls).values():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if isinstance(function, FunctionType):
            enable_ki_protection(function)
    return cls


@disable_ki_protection
def listed(items: Iterable[ItemT]) -> list[ItemT]:
    """What a program hands over to be gone through, which may be code of its own: an interrupt comes there."""
    return list(items)
