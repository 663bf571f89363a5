"""Who was announced where, and until when that counts: the book of discovery, and what it takes from one source.

It knows hints and times, not datagrams and signatures. Every bound is one that a stranger on the LAN runs into:

- pace: two buckets per source, so that a flood costs little (T46): one for what is signed, one for what is not, which
  anybody can send in a neighbour's name. And four for all: of sources that were heard lately and of others, what is
  signed and what is not;
- room: so many places per source, per identity and in all. Of a source what nobody signed gives way to what is signed,
  and strangers to peers that this node knows. When the book is full the place not heard of for longest goes, of those
  that are most: signed or not, heard once or for a while. Who is really there speaks every two seconds and stays,
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

_Kind: TypeAlias = tuple[bool, bool]
"""Whether it was heard for a while, whether it is signed."""

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
    kind: _Kind = (False, False)
    is_known: bool = False


class _Named(msgspec.Struct, eq=False):
    """An identity, for as long as it has a place."""

    places: dict[_Place, _Sighting] = msgspec.field(default_factory=dict)
    newest_ms: int = 0
    told: _Sighting | None = None
    """The place that was told of last."""
    told_at: float = _LONG_AGO
    rests: bool = False
    """Whether it is not told of again before the cooldown is over."""


class Sightings:
    """The places announced lately.

    Args:
        limits: the `announce_…` and `discovered_…` bounds.
        ttl_s: how long a place counts after it was heard.
        cooldown_s: how long an identity that was told of is not told of again.
    """

    __slots__ = (
        "_by_source", "_checks", "_cooldown_s", "_limits", "_named", "_paces", "_seen", "_ttl_s",
    )  # fmt: skip

    def __init__(self, limits: Limits, *, ttl_s: float, cooldown_s: float) -> None:
        self._limits = limits
        self._ttl_s = ttl_s
        self._cooldown_s = cooldown_s
        # In the order in which they were last heard, so that the first one expires first; what goes first stands first.
        self._seen: dict[_Kind, dict[_Place, _Sighting]] = {
            (heard_again, signed): {} for heard_again in (False, True) for signed in (False, True)
        }
        self._named: dict[_Who, _Named] = {}
        self._by_source: dict[str, dict[_Place, _Sighting]] = {}
        self._paces: dict[tuple[str, bool], TokenBucket] = {}
        # By whether it is from a source that was heard lately, and whether it looks signed.
        self._checks = {
            (True, True): TokenBucket(limits.announce_checks_per_s, limits.announce_checks_burst),
            (True, False): TokenBucket(limits.announce_checks_per_s, limits.announce_checks_burst),
            (False, True): TokenBucket(limits.announce_signed_checks_per_s, limits.announce_signed_checks_burst),
            (False, False): TokenBucket(limits.announce_bare_checks_per_s, limits.announce_bare_checks_burst),
        }

    def __len__(self) -> int:
        return sum(map(len, self._seen.values()))

    def admits(self, source: str, now: float, *, signed: bool) -> bool:
        """Whether an announcement from this address may be looked at now. Asked before it is read.

        Args:
            signed: whether it looks as if it were.
        """
        checks = self._checks[source in self._by_source, signed]
        return (is_loopback(source) or self._pace(source, signed).take(now)) and checks.take(now)

    def note(self, hint: DiscoveryAnnouncement, now: float, said_ms: int = 0, *, is_known: bool = False) -> bool | None:
        """Enter what was announced from `hint.host`.

        Args:
            hint: who is where.
            now: monotonic seconds.
            said_ms: when he says that he said so; without a signature it counts for nothing.
            is_known: whether the identity is one that this node met, or that an operator named.

        Returns:
            Whether to tell of it now; None if there was no room for it.
        """
        self._expire(now)
        place = _place_of(hint)
        who = place[0]
        named = self._named.get(who) or _Named()
        is_news = hint.peer_id is not None and said_ms > named.newest_ms
        sighting = named.places.get(place)
        if sighting is None:
            if not self._make_room(named, hint, is_news=is_news, is_known=is_known):
                return None
            sighting = _Sighting(hint, now, now, told_at=named.told_at - _JUST_BEFORE_S)
            self._named[who] = named
            named.places[place] = sighting
        else:
            del self._seen[sighting.kind][place], self._by_source[hint.host][place]
        if is_news:
            named.newest_ms = sighting.word_ms = said_ms
        sighting.hint = hint
        sighting.heard_at = now
        sighting.is_known = is_known
        sighting.kind = (now - sighting.heard_from >= self._limits.announce_again_s, hint.peer_id is not None)
        self._seen[sighting.kind][place] = self._by_source.setdefault(hint.host, {})[place] = sighting
        return self._tell(named, sighting, now)

    def is_heard_again(self, hint: DiscoveryAnnouncement, now: float) -> bool:
        """Whether a place has been announced for a while."""
        sighting = self._find(hint)
        return sighting is not None and now - sighting.heard_from >= self._limits.announce_again_s

    def take_back(self, hint: DiscoveryAnnouncement) -> None:
        """Nobody had room for what was told of: the next word is told, of whichever place has its turn then."""
        sighting = self._find(hint)
        if sighting is not None:
            self._named[_place_of(hint)[0]].rests = False

    def snapshot(self, now: float) -> tuple[DiscoveryAnnouncement, ...]:
        """Every place that counts now, the one heard last at the end."""
        self._expire(now)
        seen = sorted((one for of_kind in self._seen.values() for one in of_kind.values()), key=_heard_at)
        return tuple(sighting.hint for sighting in seen)

    def _find(self, hint: DiscoveryAnnouncement) -> _Sighting | None:
        place = _place_of(hint)
        named = self._named.get(place[0])
        return named.places.get(place) if named is not None else None

    def _tell(self, named: _Named, sighting: _Sighting, now: float) -> bool:
        if named.rests and now - named.told_at < self._cooldown_s:
            return False
        due = list(named.places.values())
        newest = max(due, key=_word_of)
        if newest.word_ms and len(due) > 1:
            is_turn_of_news = named.told is not newest
            due = [one for one in due if (one is newest) == is_turn_of_news]
        if sighting not in due or sighting.told_at > min(one.told_at for one in due):
            return False
        sighting.told_at = named.told_at = now
        named.rests = True
        named.told = sighting
        return True

    def _make_room(self, named: _Named, hint: DiscoveryAnnouncement, *, is_news: bool, is_known: bool) -> bool:
        limits, source = self._limits, hint.host
        less: _Place | None = None
        of_source = self._by_source.get(source, {})
        if len(of_source) >= limits.discovered_per_source_max and not is_loopback(source):
            less = None if hint.peer_id is None else _least(of_source, is_known=is_known)
            if less is None:
                return False
        if len(named.places) >= limits.discovered_per_peer_max:
            # min() takes the first of equals: the one that came last.
            place = min(reversed(named.places), key=lambda place: named.places[place].word_ms)
            if named.places[place].word_ms and not is_news:
                return False
            self._forget(place)
        elif less is None and len(self) >= limits.discovered_max:
            most = max(self._seen, key=lambda kind: len(self._seen[kind]))
            self._forget(next(iter(self._seen[most])))
        if less is not None and less in of_source:  # it may have gone just now, as one of his own too many places
            self._forget(less)
        return True

    def _expire(self, now: float) -> None:
        for of_kind in self._seen.values():
            while of_kind:
                place, sighting = next(iter(of_kind.items()))
                if now - sighting.heard_at < self._ttl_s:
                    break
                self._forget(place)

    def _forget(self, place: _Place) -> None:
        who, source, _ = place
        named, of_source = self._named[who], self._by_source[source]
        del of_source[place], self._seen[named.places.pop(place).kind][place]
        if not named.places:
            del self._named[who]
        if not of_source:
            del self._by_source[source]

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


def _heard_at(sighting: _Sighting) -> float:
    return sighting.heard_at


def _least(places: dict[_Place, _Sighting], *, is_known: bool) -> _Place | None:
    """What gives way to a signed one: what nobody signed, or to a known peer's, what is none's; the longest silent."""
    bare = next((place for place, one in places.items() if one.hint.peer_id is None), None)
    if bare is not None or not is_known:
        return bare
    return next((place for place, one in places.items() if not one.is_known), None)
