"""Who was announced where, and until when that counts: the book of discovery, and what it takes from one source.

It knows hints and times, not datagrams and signatures. Every bound is one that a stranger on the LAN runs into:

- pace: two buckets per source, so that a flood costs little (T46): one for what is signed, one for what is not, which
  anybody can send in a neighbour's name. And four for all: of sources that were heard lately and of others, what is
  signed and what is not;
- room: so many places per source, per identity and in all. Of a source what nobody signed gives way to what is signed.
  When the book is full the place not heard of for longest goes: who is really there speaks every two seconds and stays,
  however many names are invented;
- age: a place expires `ttl_s` after it was last heard, by our own clock; what the datagram says of time counts for
  nothing (T47);
- use: an identity is told of once per `cooldown_s`, whatever its places come and go. Every second turn is of the place
  that brought its newest word, the turns between of the others, the one told of least recently first.

Who copies an announcement can send it from any number of addresses, but what its owner says next is newer, and comes
from him first. So of an identity with too many places one that only repeated goes, the one that came last, and a new
one waits its turn behind those that are there: false places for a true name delay the true one and never replace it.
The owner's time is compared with itself alone: what our clock says is nothing to it. Where nobody signs, a label and
its port stand for the identity, and no word is newer than another.

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
_JUST_BEFORE_S: Final = 1e-6
"""A new place has its turn after all others but the one that was told of last."""


class _Sighting(msgspec.Struct, eq=False):
    hint: DiscoveryAnnouncement
    heard_at: float
    heard_from: float
    word_ms: int = 0
    """The newest word that came from here before it came from elsewhere."""
    told_at: float = _LONG_AGO


class _Named(msgspec.Struct, eq=False):
    """An identity, for as long as it has a place."""

    places: dict[_Place, _Sighting] = msgspec.field(default_factory=dict)
    newest_ms: int = 0
    told: _Sighting | None = None
    """The place that was told of last."""
    told_at: float = _LONG_AGO


class Sightings:
    """The places announced lately.

    Args:
        limits: the `announce_…` and `discovered_…` bounds.
        ttl_s: how long a place counts after it was heard.
        cooldown_s: how long an identity that was told of is not told of again.
    """

    __slots__ = (
        "_checks", "_cooldown_s", "_limits", "_named", "_paces", "_per_source", "_seen", "_ttl_s",
    )  # fmt: skip

    def __init__(self, limits: Limits, *, ttl_s: float, cooldown_s: float) -> None:
        self._limits = limits
        self._ttl_s = ttl_s
        self._cooldown_s = cooldown_s
        # In the order in which they were last heard, so that the first one expires first.
        self._seen: dict[_Place, _Sighting] = {}
        self._named: dict[_Who, _Named] = {}
        self._per_source: Counter[str] = Counter()
        self._paces: dict[tuple[str, bool], TokenBucket] = {}
        # By whether it is from a source that was heard lately, and whether it looks signed.
        self._checks = {
            (True, True): TokenBucket(limits.announce_checks_per_s, limits.announce_checks_burst),
            (True, False): TokenBucket(limits.announce_checks_per_s, limits.announce_checks_burst),
            (False, True): TokenBucket(limits.announce_signed_checks_per_s, limits.announce_signed_checks_burst),
            (False, False): TokenBucket(limits.announce_bare_checks_per_s, limits.announce_bare_checks_burst),
        }

    def __len__(self) -> int:
        return len(self._seen)

    def admits(self, source: str, now: float, *, signed: bool) -> bool:
        """Whether an announcement from this address may be looked at now. Asked before it is read.

        Args:
            signed: whether it looks as if it were.
        """
        checks = self._checks[source in self._per_source, signed]
        return (is_loopback(source) or self._pace(source, signed).take(now)) and checks.take(now)

    def note(self, hint: DiscoveryAnnouncement, now: float, said_ms: int = 0) -> bool | None:
        """Enter what was announced from `hint.host`.

        Args:
            hint: who is where.
            now: monotonic seconds.
            said_ms: when he says that he said so; without a signature it counts for nothing.

        Returns:
            Whether to tell of it now; None if there was no room for it.
        """
        self._expire(now)
        place = _place_of(hint)
        who = place[0]
        named = self._named.get(who) or _Named()
        is_news = hint.peer_id is not None and said_ms > named.newest_ms
        sighting = self._seen.pop(place, None)
        if sighting is None:
            if not self._make_room(named, hint, is_news=is_news):
                return None
            sighting = _Sighting(hint, now, now, told_at=named.told_at - _JUST_BEFORE_S)
            self._named[who] = named
            named.places[place] = sighting
            self._per_source[hint.host] += 1
        if is_news:
            named.newest_ms = sighting.word_ms = said_ms
        sighting.hint = hint
        sighting.heard_at = now
        self._seen[place] = sighting
        return self._tell(named, sighting, now)

    def is_heard_again(self, hint: DiscoveryAnnouncement, now: float) -> bool:
        """Whether a place has been announced for a while."""
        sighting = self._seen.get(_place_of(hint))
        return sighting is not None and now - sighting.heard_from >= self._limits.announce_again_s

    def snapshot(self, now: float) -> tuple[DiscoveryAnnouncement, ...]:
        """Every place that counts now, the one heard last at the end."""
        self._expire(now)
        return tuple(sighting.hint for sighting in self._seen.values())

    def _tell(self, named: _Named, sighting: _Sighting, now: float) -> bool:
        if now - named.told_at < self._cooldown_s:
            return False
        due = list(named.places.values())
        newest = max(due, key=_word_of)
        if newest.word_ms and len(due) > 1:
            is_turn_of_news = named.told is not newest
            due = [one for one in due if (one is newest) == is_turn_of_news]
        if sighting not in due or sighting.told_at > min(one.told_at for one in due):
            return False
        sighting.told_at = named.told_at = now
        named.told = sighting
        return True

    def _make_room(self, named: _Named, hint: DiscoveryAnnouncement, *, is_news: bool) -> bool:
        limits, source = self._limits, hint.host
        bare: _Place | None = None
        if self._per_source[source] >= limits.discovered_per_source_max and not is_loopback(source):
            bare = None if hint.peer_id is None else self._bare_place_of(source)
            if bare is None:
                return False
        if len(named.places) >= limits.discovered_per_peer_max:
            # min() takes the first of equals: the one that came last.
            place = min(reversed(named.places), key=lambda place: named.places[place].word_ms)
            if named.places[place].word_ms and not is_news:
                return False
            self._forget(place)
        elif bare is None and len(self._seen) >= limits.discovered_max:
            self._forget(next(iter(self._seen)))
        if bare is not None:
            self._forget(bare)
        return True

    def _bare_place_of(self, source: str) -> _Place | None:
        """The one that nobody signed and that was silent for longest, of those that this source named."""
        places = (place for place, one in self._seen.items() if place[1] == source and one.hint.peer_id is None)
        return next(places, None)

    def _expire(self, now: float) -> None:
        while self._seen:
            place, sighting = next(iter(self._seen.items()))
            if now - sighting.heard_at < self._ttl_s:
                return
            self._forget(place)

    def _forget(self, place: _Place) -> None:
        who, source, _ = place
        del self._seen[place]
        del self._named[who].places[place]
        if not self._named[who].places:
            del self._named[who]
        self._per_source[source] -= 1
        if not self._per_source[source]:
            del self._per_source[source]

    def _pace(self, source: str, signed: bool) -> TokenBucket:
        pace = self._paces.pop((source, signed), None)
        if pace is None:
            if len(self._paces) >= self._limits.announce_sources_max:
                del self._paces[next(iter(self._paces))]
            pace = TokenBucket(self._limits.announce_source_per_s, self._limits.announce_source_burst)
        self._paces[source, signed] = pace
        return pace


def _place_of(hint: DiscoveryAnnouncement) -> _Place:
    who: _Who = hint.peer_id if hint.peer_id is not None else (hint.node_id, hint.port)
    return (who, hint.host, hint.port)


def _word_of(sighting: _Sighting) -> int:
    return sighting.word_ms
