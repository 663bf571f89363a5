"""Who was announced where, and until when that counts: the book of discovery, and what it takes from one source.

It knows hints and times, not datagrams and signatures. Every bound is one that a stranger on the LAN runs into:

- pace: a bucket per source and one for all, so that a flood costs little (T46);
- room: so many places per source, per identity and in all. When the book is full the place not heard of for longest
  goes: who is really there speaks every two seconds and stays, however many names are invented;
- age: a place expires `ttl_s` after it was last heard, by our own clock; what the datagram says of time counts for
  nothing (T47);
- use: an identity is told of once per `cooldown_s`, of its places the one told of least recently. So a false place for
  a true name delays the true one, and does not replace it. Where nobody signs, a label and its port stand for it.

This machine's own programs have no bound per source: there may be many nodes on it, and they could do worse anyway.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, TypeAlias

import msgspec

from p2p.ids import PeerId, is_loopback
from p2p.limits import Limits
from p2p.policy.buckets import TokenBucket
from p2p.policy.hints import DiscoveryAnnouncement

_Who: TypeAlias = PeerId | tuple[str, int]
"""Who is announced: the identity, or else a label and a port, which anybody may claim. Not the place: a node with two
interfaces is heard from two, and is one node."""
_Place: TypeAlias = tuple[_Who, str, int]

_LONG_AGO: Final = float("-inf")


class _Sighting(msgspec.Struct):
    hint: DiscoveryAnnouncement
    heard_at: float
    told_at: float = _LONG_AGO


class Sightings:
    """The places announced lately.

    Args:
        limits: the `announce_…` and `discovered_…` bounds.
        ttl_s: how long a place counts after it was heard.
        cooldown_s: how long an identity that was told of is not told of again.
    """

    __slots__ = ("_checks", "_cooldown_s", "_limits", "_of", "_paces", "_per_source", "_seen", "_ttl_s")

    def __init__(self, limits: Limits, *, ttl_s: float, cooldown_s: float) -> None:
        self._limits = limits
        self._ttl_s = ttl_s
        self._cooldown_s = cooldown_s
        # In the order in which they were last heard, so that the first one expires first.
        self._seen: dict[_Place, _Sighting] = {}
        self._of: dict[_Who, set[_Place]] = {}
        self._per_source: Counter[str] = Counter()
        self._paces: dict[str, TokenBucket] = {}
        self._checks = TokenBucket(limits.announce_checks_per_s, limits.announce_checks_burst)

    def __len__(self) -> int:
        return len(self._seen)

    def admits(self, source: str, now: float) -> bool:
        """Whether an announcement from this address may be looked at now. Asked before it is read."""
        return (is_loopback(source) or self._pace(source).take(now)) and self._checks.take(now)

    def note(self, hint: DiscoveryAnnouncement, now: float) -> bool | None:
        """Enter what was announced from `hint.host`.

        Returns:
            Whether to tell of it now; None if there was no room for it.
        """
        self._expire(now)
        who: _Who = hint.peer_id if hint.peer_id is not None else (hint.node_id, hint.port)
        place = (who, hint.host, hint.port)
        sighting = self._seen.pop(place, None)
        if sighting is None:
            if not self._make_room(who, hint.host):
                return None
            sighting = _Sighting(hint, now)
            self._of.setdefault(who, set()).add(place)
            self._per_source[hint.host] += 1
        sighting.hint = hint
        sighting.heard_at = now
        self._seen[place] = sighting
        return self._tell(who, sighting, now)

    def snapshot(self, now: float) -> tuple[DiscoveryAnnouncement, ...]:
        """Every place that counts now, the one heard last at the end."""
        self._expire(now)
        return tuple(sighting.hint for sighting in self._seen.values())

    def _tell(self, who: _Who, sighting: _Sighting, now: float) -> bool:
        others = [self._seen[place].told_at for place in self._of[who]]
        if now - max(others) < self._cooldown_s or sighting.told_at > min(others):
            return False
        sighting.told_at = now
        return True

    def _make_room(self, who: _Who, source: str) -> bool:
        limits = self._limits
        if self._per_source[source] >= limits.discovered_per_source_max and not is_loopback(source):
            return False
        if len(self._of.get(who, ())) >= limits.discovered_per_peer_max:
            self._forget(min(self._of[who], key=lambda place: self._seen[place].heard_at))
        elif len(self._seen) >= limits.discovered_max:
            self._forget(next(iter(self._seen)))
        return True

    def _expire(self, now: float) -> None:
        while self._seen:
            place, sighting = next(iter(self._seen.items()))
            if now - sighting.heard_at < self._ttl_s:
                return
            self._forget(place)

    def _forget(self, place: _Place) -> None:
        who, source, _ = place
        del self._seen[place]
        self._of[who].discard(place)
        if not self._of[who]:
            del self._of[who]
        self._per_source[source] -= 1
        if not self._per_source[source]:
            del self._per_source[source]

    def _pace(self, source: str) -> TokenBucket:
        pace = self._paces.pop(source, None)
        if pace is None:
            if len(self._paces) >= self._limits.announce_sources_max:
                del self._paces[next(iter(self._paces))]
            pace = TokenBucket(self._limits.announce_source_per_s, self._limits.announce_source_burst)
        self._paces[source] = pace
        return pace
