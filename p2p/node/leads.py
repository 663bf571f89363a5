"""Leads: from what is said about where a peer may be, to a dial.

Responsible for which hints are worth a dial (not ourselves, not who is connected, not who is banned, not more than
there are slots), for letting one of two nodes that hear of each other dial, and for the dials of it, a few at a time.
How many places are kept, and how often one is dialled, is `policy.targets`. It refuses to know datagrams and HTTP.

A hint proves nothing. Whoever answers at the place proves who he is, and is admitted or refused like anybody else; the
identity that the hint names only tells whether the dial can be left out. So a forged hint costs a dial, and a wrong
name in it keeps nobody away.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import trio

from p2p.errors import ConfigError, ConnectFailed, NodeClosed, Reason
from p2p.ids import PeerEndpoint, PeerId
from p2p.limits import Limits
from p2p.node.acquaintances import Acquaintances
from p2p.node.dialer import Dialer
from p2p.node.roster import Roster
from p2p.node.status import Counters
from p2p.policy.addresses import AddressClass, DialRule, classify, neighbour_of
from p2p.policy.admission import Scores
from p2p.policy.book import Address
from p2p.policy.hints import DiscoveryAnnouncement, HintSource
from p2p.policy.targets import Standing, Target, Targets
from p2p.windows import Clock, Entropy, uniform

OWN_PLACES_MAX: Final = 64
"""Places that are this node's, where it listens and where it met itself: its addresses times its names for them. One
where it met itself is so until `backoff_s_max` later: an address goes from machine to machine, and who sits on the way
to a peer can lead a dial back to where it came from."""


class Leads:
    """Takes hints, and dials what is worth it.

    Args:
        own: this node's identity.
        node_id: its label.
        endpoints: where it listens.
        dials: False takes every hint and dials none.
        roster, scores: who is connected, who is banned.
        is_known: whether this node knows an identity; of such the dials come first.
        is_welcome: whether an identity would be admitted.
        is_coming: whether somebody from an address is about to prove who he is.
        has_room: whether there is a slot for so many dials under way.
        dialer: makes the dials.
        rule: where a name out of the book may lead that a registry gave.
        acquaintances: told what came of them.
    """

    def __init__(
        self,
        *,
        own: PeerId,
        node_id: str,
        endpoints: Iterable[PeerEndpoint],
        dials: bool,
        limits: Limits,
        roster: Roster,
        scores: Scores,
        is_known: Callable[[PeerId], bool],
        is_welcome: Callable[[PeerId], bool],
        is_coming: Callable[[str], bool],
        has_room: Callable[[int], bool],
        dialer: Dialer,
        rule: DialRule,
        acquaintances: Acquaintances,
        counters: Counters,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self.targets = Targets(limits)
        self._own = own
        self._node_id = node_id
        self._own_places = dict.fromkeys((endpoint.address for endpoint in endpoints), math.inf)
        self._dials = dials
        self._limits = limits
        self._roster = roster
        self._scores = scores
        self._is_known = is_known
        self._is_welcome = is_welcome
        self._is_coming = is_coming
        self._has_room = has_room
        self._dialer = dialer
        self._rule = rule
        self._acquaintances = acquaintances
        self._counters = counters
        self._clock = clock
        self._entropy = entropy
        self._wake = trio.Event()
        self._wakes_at = math.inf

    def offer(
        self, announcement: DiscoveryAnnouncement, source: HintSource, came_from: str, *, again: bool = False
    ) -> bool:
        """Take a hint. Never waits, never raises; mostly nothing comes of it.

        Args:
            announcement: who is said to be where.
            source: by what it came.
            came_from: the address of who says so, or the registry's; for the bounds per source.
            again: whether it was announced for a while from the same place.

        Returns:
            False if it is worth another word soon: there was no room for it, or its place is not due.
        """
        if source is not HintSource.BOOK:
            self._counters.hints += 1
        if not self._dials:
            return True
        try:
            named = announcement.endpoint
        except ConfigError:
            named = None
        if named is None or named.port == 0:
            self._counters.hints_unusable += 1
            return True
        endpoint = PeerEndpoint(named.host, named.port, named.scheme, judged=named.judged)
        peer_id = announcement.peer_id
        now = self._clock.monotonic()
        yield_s = self._yield_s(peer_id)
        target = Target(
            endpoint,
            (source, neighbour_of(came_from)),
            announcement.node_id,
            peer_id,
            self._standing(peer_id, source, again=again),
            due=now + yield_s,
            due_at_last=now + yield_s + (self._limits.handshake_s_max if yield_s else 0.0),
            forgotten_at=now + self._limits.lead_ttl_s,
        )
        if not self._is_wanted(target, now):
            return True
        if self._dialer.holds_back(endpoint):
            return False
        waits = self.targets.note(target, now, uniform(self._entropy))
        if waits and self.targets.due_of(target, now) < self._wakes_at:
            self._wake.set()
        return waits is not None

    def looks_for(self, peer_id: PeerId) -> bool:
        """Whether hints lately led to a dial to this peer, or will: whoever he is, he could have had it."""
        return self.targets.names(peer_id, self._clock.monotonic())

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Dial what is due, for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                now = self._clock.monotonic()
                if self._has_room(self.targets.under_way):
                    target = self.targets.take(now)
                    if target is not None:
                        if not self._is_wanted(target, now) or self._dialer.holds_back(target.endpoint):
                            self.targets.spare(target)
                        elif now < target.due_at_last and self._is_coming(target.endpoint.host):
                            self.targets.put_off(target, now)
                        else:
                            nursery.start_soon(self._dial, target)
                        await trio.lowlevel.checkpoint()
                        continue
                    self._wakes_at = self.targets.due(now)
                else:
                    # The end of a dial wakes; and without a slot, the next hint looks again.
                    self._wakes_at = now + self._limits.lead_ttl_s
                with trio.move_on_at(self._wakes_at):
                    await self._wake.wait()

    @trio.lowlevel.enable_ki_protection
    async def _dial(self, target: Target) -> None:
        address = target.endpoint.address
        failed = False
        self._acquaintances.dialling(address, target.source[0])
        try:
            if self._is_unjudged(target):
                dial: Awaitable[object | None] = self._dialer.dial_within(target.endpoint, self._rule, automatic=True)
            else:
                dial = self._dialer.dial_unasked(target.endpoint)
            link = await dial
        except ConnectFailed as failure:
            failed = failure.reason is not Reason.BACKOFF
            if failure.reason is Reason.SELF:
                self._note_own(address)
        except NodeClosed:
            pass  # the nursery that this runs in is about to be cancelled
        else:
            if link is not None:
                self.targets.proved(target)
        finally:
            self._acquaintances.dialled(address, failed=failed)
            self.targets.over(target)
            self._wake.set()

    def _standing(self, peer_id: PeerId | None, source: HintSource, *, again: bool) -> Standing:
        if peer_id is not None and self._is_known(peer_id):
            return Standing.KNOWN
        if source is not HintSource.DISCOVERY:
            return Standing.LISTED
        if peer_id is not None:
            return Standing.SIGNED_AGAIN if again else Standing.SIGNED
        return Standing.AGAIN if again else Standing.BARE

    def _is_unjudged(self, target: Target) -> bool:
        """Whether it is a name that a registry gave in an earlier run: it may lead elsewhere by now."""
        endpoint = target.endpoint
        if endpoint.judged or classify(endpoint.host) is not AddressClass.NAME:
            return False
        return self._acquaintances.is_hearsay(endpoint.address)

    def _is_wanted(self, target: Target, now: float) -> bool:
        """Whether a dial to it could bring what is not there yet."""
        address = target.endpoint.address
        peer_id = target.peer_id
        if peer_id == self._own or self._own_places.get(address, now) > now:
            return False
        if peer_id is None:
            return not self._seems_connected(target)
        return (
            not self._has_direct_link(peer_id)
            and not self._scores.is_banned(peer_id, now)
            and self._is_welcome(peer_id)
            and not self._is_connected_to(address)
        )

    def _note_own(self, address: Address) -> None:
        now = self._clock.monotonic()
        self._own_places = {place: until for place, until in self._own_places.items() if until > now}
        if len(self._own_places) < OWN_PLACES_MAX:
            self._own_places[address] = now + self._limits.backoff_s_max

    def _has_direct_link(self, peer_id: PeerId) -> bool:
        """Whether a dial could bring nothing better: a link through a relay gives way to a direct one."""
        link = self._roster.links.get(peer_id)
        return link is not None and link.direct

    def _is_connected_to(self, address: tuple[str, str, int]) -> bool:
        return any(
            link.dialed_by_us and link.endpoint is not None and link.endpoint.address == address
            for link in self._roster.links.values()
        )

    def _seems_connected(self, target: Target) -> bool:
        """A hint without an identity: somebody of that label is connected, from that very host."""
        if self._is_connected_to(target.endpoint.address):
            return True
        holder = self._roster.holder_of(target.node_id)
        if holder is None or not self._has_direct_link(holder):
            return False
        there = self._roster.links[holder].endpoint
        return there is not None and there.host in (target.endpoint.host, *target.endpoint.judged)

    def _yield_s(self, peer_id: PeerId | None) -> float:
        """How long to wait for the other's dial. It heard of us about when we heard of it, and either link will do."""
        if peer_id is not None and goes_first(self._own, peer_id):
            return 0.0
        return self._limits.lead_yield_s * (1 + uniform(self._entropy) / 2)


def goes_first(own: PeerId, other: PeerId) -> bool:
    """Which of two nodes dials, when each hears of the other: both come to the same answer, and each way is as likely.

    Were it always the one with the smaller id, the largest of many would be dialled by all and dial nobody; but only
    half of its places are for who comes by himself (T50).
    """
    return (own < other) == bool((own[-1] ^ other[-1]) & 1)
