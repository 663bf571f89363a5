"""What the events of the log mean to whoever runs the node: one line each, in one place.

What a line says is what happened, and what becomes of it or what is to be done. A disk that dies damages thousands of
batches: of each log only the first is told, until the log is whole again.
"""

from __future__ import annotations

from collections.abc import Callable

from p2p.ids import PeerId
from p2p.node import events
from p2p.node.lines import Lines


class Notices:
    """Turns events into lines.

    Args:
        own: this node's own origin.
        label_of: the node id that an identity is known by here.
        log_line: takes the lines.
    """

    def __init__(self, own: PeerId, label_of: Callable[[PeerId], str | None], log_line: Lines) -> None:
        self._own = own
        self._label_of = label_of
        self._log_line = log_line
        self._damaged: set[PeerId] = set()

    def tell(self, event: events.NodeEvent) -> None:
        """Say what the event means, if it is one of the log and worth a line."""
        match event:
            case events.ForkFound(origin, lower_seq):
                line = f"{self._log_of(origin)} is forked, with two histories from seq {lower_seq} on: it is frozen"
                mend = "; make a new identity with `p2p id --new`" if origin == self._own else ""
                rest = "; what is stored from there on is no part of it: `p2p wal tail --beyond-fork` shows that"
                self._log_line.warn(line + mend + rest)
            case events.BatchDamaged(origin, seq_begin):
                if origin not in self._damaged:
                    self._damaged.add(origin)
                    stopped = "nothing is appended until it is" if origin == self._own else "it is"
                    self._log_line.warn(
                        f"{self._log_of(origin)} is damaged on the disk at seq {seq_begin}: "
                        f"{stopped} fetched again from a peer that holds it{self._way_out(origin)}"
                    )
            case events.LogRepaired(origin, seq):
                self._damaged.discard(origin)
                self._log_line(f"{self._log_of(origin)} is whole again up to seq {seq}")
            case events.OwnLogAhead(seq):
                self._log_line.warn(
                    "this node's store lost a part of its own log (a restored backup?), which a peer or a segment "
                    f"shows up to seq {seq}: nothing is appended until that is fetched back from who holds it, "
                    "or fails to come"
                )
            case events.OwnLogClaimDropped(seq, claimed_seq):
                self._log_line.warn(
                    f"who showed this node's own log up to seq {claimed_seq} does not deliver it: "
                    f"what is appended follows seq {seq}"
                )
            case events.StoreReadOnly(detail):
                self._log_line.warn(f"the store cannot be written, and is read-only until it can: {detail}")
            case events.StoreWritable():
                self._log_line("the store can be written again")
            case events.QuotaReached(origin):
                self._log_line.warn(
                    f"{self._log_of(origin)} has used up its bytes here: its further records are left alone"
                )
            case _:
                pass

    def _way_out(self, origin: PeerId) -> str:
        return "; if none does, make a new identity with `p2p id --new`" if origin == self._own else ""

    def _log_of(self, origin: PeerId) -> str:
        if origin == self._own:
            return "this node's own log"
        return f"the log of {self._label_of(origin) or origin.short}"
