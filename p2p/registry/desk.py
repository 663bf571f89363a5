"""What a registry takes, and whom it shows what: pure, with `now`; where the entries are kept is another's business.

A registry trusts nobody, and promises little: that an entry came from the address it names, and that a peer id in it
signed the label and the port. It shows nobody what is of no use to him: an address of a private network only to those
who come from one, loopback only to this machine's own programs.

- An entry is one identity, or one unsigned label, at one address and port. So nobody can push out another one's entry:
  who says false things adds an entry of his own, at his own address.
- One source, an IPv4 address or an IPv6 /56, has at most `registrar_entries_per_source_max` entries, and buckets for
  its announcements and questions. The registry's own machine has no such bounds: there may be many nodes on it. Where
  a source has no room left, an unsigned entry of it gives way to a signed one: else whoever shares an address could
  keep all others off the list with labels that cost nothing.
- An announcement that is signed wrongly is refused; one that is not signed is taken unless signatures are required.
"""

from __future__ import annotations

import math
from enum import IntEnum

import msgspec

from p2p.crypto.announce import signer_of
from p2p.errors import RemoteProtocolError
from p2p.limits import Limits
from p2p.policy.addresses import AddressClass, classify, prefix_of
from p2p.policy.buckets import BucketTable, TokenBucket
from p2p.registry.form import SCHEMES, ListedPeer, read_announce


class Scope(IntEnum):
    """From where an address is of use; who comes from a scope sees it and those below."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2


_SCOPES = {
    AddressClass.PUBLIC: Scope.PUBLIC,
    AddressClass.PRIVATE: Scope.PRIVATE,
    AddressClass.LOOPBACK: Scope.LOOPBACK,
}


class Entry(msgspec.Struct, frozen=True):
    """An announcement that was taken.

    Attributes:
        peer: as it is listed, without its expiry.
        scope: who sees it.
        source: whose room it takes: the neighbour that its address belongs to.
    """

    peer: ListedPeer
    scope: Scope
    source: str


class Room(msgspec.Struct, frozen=True):
    """What a table of entries has room for.

    Attributes:
        ttl_s: how long an entry stays.
        entries_max: in all; a table that several registries share may count each scope for itself.
        per_source_max: of one source; see `of_source`.
    """

    ttl_s: float
    entries_max: int
    per_source_max: int

    def of_source(self, scope: Scope) -> int:
        """How many entries of a scope one source may have."""
        return self.entries_max if scope is Scope.LOOPBACK else self.per_source_max


class Refused(Exception):
    """A request that the registry does not serve.

    Args:
        word: for programs: "invalid_announcement", "bad_signature", "unsigned", "not_routable", "invalid_limit",
            "too_many_requests", "too_many_entries", "full".
        message: for people.
        retry_s: after how many seconds it is worth another try; 0 if it never is.
    """

    def __init__(self, word: str, message: str, retry_s: int = 0) -> None:
        super().__init__(message)
        self.word = word
        self.retry_s = retry_s


class Desk:
    """The judgement of one registry.

    Args:
        limits: the `registrar_…` bounds.
        require_signed: take signed announcements only; Vix's are not.

    Attributes:
        room: what the table of this registry has room for.
    """

    def __init__(self, limits: Limits, *, require_signed: bool = False) -> None:
        self.room = Room(limits.registrar_ttl_s, limits.registrar_entries_max, limits.registrar_entries_per_source_max)
        self._limits = limits
        self._require_signed = require_signed
        sources_max = limits.registrar_sources_max
        self._announcing = BucketTable(limits.registrar_announces_per_s, limits.registrar_announces_burst, sources_max)
        self._asking = BucketTable(limits.registrar_questions_per_s, limits.registrar_questions_burst, sources_max)

    def take(self, body: bytes, host: str, now: float) -> Entry:
        """Judge an announcement.

        Args:
            body: what was posted.
            host: the address it came from.
            now: monotonic seconds.

        Raises:
            Refused: it is not taken.
        """
        source = prefix_of(host)
        scope = _SCOPES.get(classify(host))
        if scope is not Scope.LOOPBACK:
            _pay(self._announcing.of(source), now)
        if scope is None:
            raise Refused("not_routable", f"nobody could reach a node at the address you come from, {host or 'none'}")
        try:
            announce = read_announce(body)
        except RemoteProtocolError as error:
            raise Refused("invalid_announcement", str(error)) from None
        scheme = dict(announce.capabilities).get("transport", "tcp")
        if scheme not in SCHEMES:
            raise Refused("invalid_announcement", f"cap.transport is one of {', '.join(SCHEMES)}")
        try:
            signer = signer_of(announce)
        except RemoteProtocolError as error:
            raise Refused("bad_signature", str(error)) from None
        if signer is None and self._require_signed:
            raise Refused("unsigned", "this registry takes signed announcements only")
        peer_id = str(signer) if signer is not None else None
        return Entry(ListedPeer(host, announce.tcp_port, announce.node_id, scheme, peer_id), scope, source)

    def answer(self, limit: str | None, host: str, now: float) -> tuple[int, tuple[Scope, ...]]:
        """Judge a question for peers: how many it gets, and of which scopes.

        Args:
            limit: as asked for; None for as many as there may be. More than that are not given.
            host: the address it came from.
            now: monotonic seconds.

        Raises:
            Refused: it is not served.
        """
        own = _SCOPES.get(classify(host), Scope.PUBLIC)
        if own is not Scope.LOOPBACK:
            _pay(self._asking.of(prefix_of(host)), now)
        peers_max = self._limits.registry_peers_max
        if limit is not None:
            if not (limit.isascii() and limit.isdigit() and 0 < len(limit) <= 9 and int(limit) > 0):
                raise Refused("invalid_limit", f"limit is a whole number from 1 to {peers_max}; more are not listed")
            peers_max = min(peers_max, int(limit))
        return peers_max, tuple(scope for scope in Scope if scope <= own)


def _pay(bucket: TokenBucket, now: float) -> None:
    if not bucket.take(now):
        wait_s = math.ceil(bucket.ready_at(now) - now)
        raise Refused("too_many_requests", f"too many requests from your address: again in {wait_s} s", wait_s)
