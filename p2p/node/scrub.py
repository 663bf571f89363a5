"""The scrub: reads everything that the store holds, slowly and again and again, so that damage is found while others
still have what is damaged.

A disk tells nobody when it forgets. A batch that nobody reads for a year would be missed on the day when the last other
copy is gone. Reading it here is all that is needed: the writer checks every hash, quarantines what is not what was
stored, and the exchange fetches it again.

How it moves: a while after the start, then a pass over all logs, then a long rest, and so on. In a pass it reads
`scrub_bytes` at a time and rests `scrub_rest_s` in between, which bounds what it takes of the disk. At its end it has
the store check the structure of its file, which is done at one go.
"""

from __future__ import annotations

import trio

from p2p.errors import StoreError
from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.node.lines import Lines
from p2p.node.writer import Writer


class Scrub:
    """The scrub of one node.

    Args:
        writer: reads the store, and deals with what is damaged.
        limits: how much at once, how often.
        log_line: told when a pass could not be finished.
    """

    def __init__(self, writer: Writer, limits: Limits, log_line: Lines) -> None:
        self._writer = writer
        self._limits = limits
        self._log_line = log_line

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Read until cancelled."""
        await trio.sleep(self._limits.scrub_after_s)
        while True:
            failure: StoreError | None = None
            for origin in sorted(self._writer.heads):
                try:
                    await self._read(origin)
                except StoreError as error:
                    failure = error
            await self._look_through()
            if failure is not None:
                self._log_line.warn(f"the stored logs could not all be checked: {failure}")
            await trio.sleep(self._limits.scrub_every_s)

    async def _look_through(self) -> None:
        """Check the file that the logs lie in: where a page is damaged, all that is read may be whole."""
        try:
            found = await self._writer.look_through()
        except StoreError as error:
            self._log_line.warn(f"the structure of the store's file could not be checked: {error}")
            return
        if found is not None:
            self._log_line.warn(
                f"the store's file is damaged ({found}): it is written anew at the next start, so restart the node soon"
            )

    async def _read(self, origin: PeerId) -> None:
        """Read a log up to its end, or to the first damaged batch: what lies above it is checked when it is back."""
        next_seq = 1
        while batches := await self._writer.load(origin, next_seq, self._limits.scrub_bytes):
            next_seq = batches[-1].seq_end + 1
            await trio.sleep(self._limits.scrub_rest_s)
