"""Where a registry's entries are kept: the contract of every table. Blocking code, called from worker threads.

An entry is a promise of seconds: whoever is still there announces himself again before it is over. So a table may lose
its last moments, and all of it: within a minute it has filled by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from p2p import registry


class TableUnavailable(Exception):
    """The table cannot be used now; the text says why. The next call may find it well again."""


class Noted(Enum):
    """What became of an entry."""

    TAKEN = "taken"
    SOURCE_FULL = "source_full"
    """Its source has as many entries as it may have, and none that gives way to this one."""
    FULL = "full"


class Table(Protocol):
    """A table of entries that expire.

    Attributes:
        calls_max: how many calls may run at a time, each in a thread of its own.
        may_be_abandoned: whether the table may be closed while a call still runs, as when a server stops that waits for
            another machine.
    """

    calls_max: int
    may_be_abandoned: bool

    def note(self, entry: registry.Entry, room: registry.Room) -> Noted:
        """Keep an entry for `room.ttl_s` from now; one that is there already is renewed, whatever room there is.

        Where its source is full, the unsigned entry of it that would expire first gives way to a signed one.

        Raises:
            TableUnavailable: the table cannot be used now.
        """

    def pick(self, scopes: Sequence[registry.Scope], count: int) -> list[registry.ListedPeer]:
        """At most so many entries of the scopes that have not expired, other ones for each call, in any order.

        Raises:
            TableUnavailable: the table cannot be used now.
        """

    def size(self) -> int:
        """How many entries there are that have not expired.

        Raises:
            TableUnavailable: the table cannot be used now.
        """

    def close(self) -> None:
        """Let go of it. Never raises. Idempotent."""
