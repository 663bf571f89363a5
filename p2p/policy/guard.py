"""The connection guard: which dial is made now, which one is put off, and what each came to (T33).

Every dial of a node passes here, whoever wants it: a configured peer, a hint, the book, an HTTP caller, a program. Two
things are remembered of a place, each in a bounded table: how often it failed in a row and when it is due again
(`backoff`), and when the last attempt began. A dial that the node makes by itself is held back

- for `dedupe_s` after any attempt at the place began: two sources that name one peer at once want one dial;
- until the place is due: after failures, and after links that broke off within `flapping_s`.

What a program asks for by `connect` is one attempt, always; its failure counts on the slower manual schedule and holds
the automatic ones back. An attempt succeeds when a session is authenticated, not when a socket opens.
"""

from __future__ import annotations

from enum import Enum

from p2p.errors import Reason
from p2p.ids import PeerEndpoint
from p2p.limits import Limits
from p2p.policy.backoff import Backoff, Failures


class Verdict(Enum):
    """What becomes of a dial that nobody here asked for."""

    GO = "go"
    DEDUPED = "deduped"
    """An attempt at this place began just now."""
    BACKOFF = "backoff"
    """The place failed lately."""


class ConnectionGuard:
    """The places that one node dials."""

    __slots__ = ("_backoff", "_begun", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._backoff = Backoff(limits)
        self._begun: dict[tuple[str, str, int], float] = {}

    def __len__(self) -> int:
        """How many places are tracked: those whose failures are remembered."""
        return len(self._backoff)

    def ask(self, endpoint: PeerEndpoint, now: float) -> Verdict:
        """Whether an automatic dial may be made now."""
        begun = self._begun.get(endpoint.address)
        if begun is not None and now < begun + self._limits.dedupe_s:
            return Verdict.DEDUPED
        return Verdict.BACKOFF if self._backoff.due(endpoint, now) > now else Verdict.GO

    def due(self, endpoint: PeerEndpoint, now: float) -> float:
        """When the place's failures let it be dialled again; `now` if at once."""
        return self._backoff.due(endpoint, now)

    def failures(self, endpoint: PeerEndpoint) -> Failures | None:
        """How the place failed lately, None if it did not."""
        return self._backoff.failures(endpoint)

    def began(self, endpoint: PeerEndpoint, now: float) -> None:
        """An attempt begins."""
        self._begun.pop(endpoint.address, None)
        self._begun[endpoint.address] = now
        while len(self._begun) > self._limits.backoff_table_max or self._is_stale(now):
            del self._begun[next(iter(self._begun))]

    def failed(self, endpoint: PeerEndpoint, now: float, draw: float, reason: Reason, *, automatic: bool) -> float:
        """An attempt came to nothing; see `Backoff.failed`.

        Returns:
            When the next automatic dial is due.
        """
        return self._backoff.failed(endpoint, now, draw, reason, automatic=automatic)

    def ended(
        self, endpoint: PeerEndpoint, lasted_s: float, now: float, draw: float, reason: Reason, *, replaced: bool
    ) -> None:
        """A session that an attempt led to is over.

        Args:
            lasted_s: how long it was live; less than `flapping_s` counts as a failure.
            reason: why it ended.
            replaced: another link to the same peer goes on, so that nothing broke.
        """
        if replaced or lasted_s >= self._limits.flapping_s:
            self._backoff.succeeded(endpoint)
        else:
            self._backoff.failed(endpoint, now, draw, reason, automatic=True)

    def _is_stale(self, now: float) -> bool:
        # The oldest stands first: what no longer holds anything back need not be kept.
        return bool(self._begun) and next(iter(self._begun.values())) + self._limits.dedupe_s < now
