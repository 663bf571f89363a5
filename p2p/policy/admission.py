"""Who may take our time: connections that have proven nothing yet, and identities that misbehaved.

`ConnectionSlots` judges a connection by where it comes from, before anything is allocated for it (T02, T03):

- from one prefix (/32, /56; a link-local address for itself) at most `prefix_unauthenticated_max` at a time, and a
  token bucket of new ones; the token comes back when the connection proves itself, so the bucket bounds failures and
  not honest peers behind one NAT;
- at most `unauthenticated_max` in all. When they are full, a new one is let in and the oldest of the prefix with the
  most goes: a flood from many prefixes evicts mostly itself, and an honest handshake needs a fraction of a second.

Loopback and the listed proxies are exempt from the prefix limits, for behind them are many; the total holds for all.

`Scores` judges an identity (or an address) by what came from it: penalty points that fade, a ban when they reach
`ban_points`, twice as long each time (T33).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

import msgspec

from p2p.errors import ConfigError
from p2p.ids import is_loopback
from p2p.limits import Limits
from p2p.policy.addresses import neighbour_of
from p2p.policy.buckets import TokenBucket

Link = TypeVar("Link", bound=Hashable)


class ConnectionSlots(Generic[Link]):
    """The connections that have proven nothing yet.

    Args:
        limits: the `prefix_…` bounds and `unauthenticated_max`.
        exempt: addresses or networks (`10.1.0.0/16`) of proxies that many peers come through.

    Raises:
        ConfigError: an exempt network is not one.
    """

    __slots__ = ("_buckets", "_exempt", "_limits", "_places")

    def __init__(self, limits: Limits, exempt: Iterable[str] = ()) -> None:
        self._limits = limits
        self._exempt = tuple(_network(text) for text in exempt)
        self._places: dict[Link, str] = {}
        self._buckets: dict[str, TokenBucket] = {}

    def __len__(self) -> int:
        return len(self._places)

    def holds(self, host: str) -> bool:
        """Whether somebody from there, or from beside him, is about to prove who he is."""
        return neighbour_of(host) in self._places.values()

    def admits(self, host: str, now: float) -> bool:
        """Whether a connection from this host may enter now; if so a token is taken, and `enter` must follow.

        Args:
            host: the address it comes from; "" if the transport cannot tell (such ones count as one prefix).
            now: monotonic seconds.
        """
        if self._is_exempt(host):
            return True
        prefix = neighbour_of(host)
        if sum(1 for other in self._places.values() if other == prefix) >= self._limits.prefix_unauthenticated_max:
            return False
        return self._bucket(prefix).take(now)

    def enter(self, link: Link, host: str) -> Link | None:
        """Give a connection a slot.

        Returns:
            The connection that lost its slot for it, to be closed by the caller; None mostly.
        """
        assert link not in self._places, "a connection enters once"
        evicted = self._evict() if len(self._places) >= self._limits.unauthenticated_max else None
        self._places[link] = neighbour_of(host)
        return evicted

    def leave(self, link: Link, *, authenticated: bool) -> None:
        """The connection proved itself, or ended. Nothing happens if it has no slot (it was dialled, or evicted)."""
        prefix = self._places.pop(link, None)
        if authenticated and prefix in self._buckets:
            self._buckets[prefix].give_back()

    def _evict(self) -> Link:
        counts: dict[str, int] = {}
        for prefix in self._places.values():
            counts[prefix] = counts.get(prefix, 0) + 1
        # max() takes the first of equals, and the first is the prefix with the oldest connection.
        fullest = max(counts, key=lambda prefix: counts[prefix])
        oldest = next(link for link, prefix in self._places.items() if prefix == fullest)
        del self._places[oldest]
        return oldest

    def _bucket(self, prefix: str) -> TokenBucket:
        bucket = self._buckets.pop(prefix, None)
        if bucket is None:
            bucket = TokenBucket(self._limits.prefix_per_s, self._limits.prefix_burst)
            if len(self._buckets) >= self._limits.prefix_table_max:
                del self._buckets[next(iter(self._buckets))]
        self._buckets[prefix] = bucket
        return bucket

    def _is_exempt(self, host: str) -> bool:
        if is_loopback(host):
            return True
        if not self._exempt:
            return False
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._exempt)


class _Record(msgspec.Struct):
    points: float
    since: float
    bans: int = 0
    banned_until: float = float("-inf")


class Scores:
    """Penalty points and bans; at most `scores_max` entries.

    When the table is full, what is forgotten first is the entry that matters least: nobody's ban while there is an
    entry without one, and then the ban that ends first. Making up identities does not buy anybody out of a ban.
    """

    __slots__ = ("_limits", "_records")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._records: dict[Hashable, _Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def penalize(self, who: Hashable, points: float, now: float) -> bool:
        """Add penalty points.

        Args:
            who: a peer id, or an address.
            points: `Reason.penalty`; 0 does nothing.
            now: monotonic seconds.

        Returns:
            True if a ban begins by it.
        """
        assert points >= 0, "good behaviour is not counted, only time forgives"
        if points == 0:
            return False
        record = self._records.pop(who, None)
        if record is None:
            self._make_room(now)
            record = _Record(0.0, now)
        self._records[who] = record
        if record.banned_until > now:
            return False
        self._forgive(record, now)
        record.points += points
        if record.points < self._limits.ban_points:
            return False
        record.points = 0.0
        record.bans += 1
        record.banned_until = now + self._ban_s(record.bans)
        return True

    def ban(self, who: Hashable, until: float, now: float) -> None:
        """Leave `who` alone until then: a ban of an earlier run, or an operator's."""
        record = self._records.pop(who, None)
        if record is None:
            self._make_room(now)
            record = _Record(0.0, now)
        record.bans = max(1, record.bans)
        record.banned_until = max(record.banned_until, until)
        self._records[who] = record

    def is_banned(self, who: Hashable, now: float) -> bool:
        """Whether `who` is to be left alone."""
        record = self._records.get(who)
        return record is not None and record.banned_until > now

    def banned(self, now: float) -> int:
        """How many are banned now."""
        return sum(1 for record in self._records.values() if record.banned_until > now)

    def banned_until(self, who: Hashable, now: float) -> float:
        """When the ban ends; `now` if there is none."""
        record = self._records.get(who)
        return now if record is None else max(now, record.banned_until)

    def points(self, who: Hashable, now: float) -> float:
        """The points that stand against `who`."""
        record = self._records.get(who)
        if record is None:
            return 0.0
        self._forgive(record, now)
        return record.points

    def pardon(self, who: Hashable) -> None:
        """Forget everything about `who`; for an operator."""
        self._records.pop(who, None)

    def _ban_s(self, bans: int) -> float:
        limits = self._limits
        return min(limits.ban_s_min * 2.0 ** min(bans - 1, 64), limits.ban_s_max)

    def _forgive(self, record: _Record, now: float) -> None:
        limits = self._limits
        # In whole points: else four faults of a quarter of a ban each would never make one, whatever their haste.
        forgiven = int((now - record.since) * limits.score_forgiven_per_s)
        if forgiven > 0:
            record.points = max(0.0, record.points - forgiven)
            record.since += forgiven / limits.score_forgiven_per_s
        if record.bans and now - record.banned_until > limits.ban_s_max:
            record.bans = 0  # a whole day since the last ban ended: the next one is short again

    def _make_room(self, now: float) -> None:
        if len(self._records) < self._limits.scores_max:
            return
        for who, record in self._records.items():
            if record.banned_until <= now:
                del self._records[who]
                return
        del self._records[min(self._records, key=lambda who: self._records[who].banned_until)]


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ConfigError(f"{text!r} is neither an IP address nor a network like 10.1.0.0/16") from None
