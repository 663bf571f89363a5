"""Dials: one attempt at a time per endpoint, and configured peers kept connected for ever.

Responsible for joining dials to one place, for the pace of automatic redials, and for what a dial's caller is told. It
refuses to know what a link does once it is live. An attempt runs in the node's nursery, not in its caller's: others
may have joined it; it is cancelled when the last one who waits for it has gone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, Protocol

import trio

from p2p.errors import ConnectFailed, NodeClosed, Reason
from p2p.ids import ANY_RELAY, RELAY, PeerEndpoint, PeerId
from p2p.limits import Limits
from p2p.node.lines import Lines
from p2p.node.roster import Roster
from p2p.node.status import Counters
from p2p.peer.connection import Connection, PeerState
from p2p.policy.addresses import DialRule
from p2p.policy.guard import ConnectionGuard, Verdict
from p2p.text import one_line
from p2p.transport.base import LinkStream, Transport
from p2p.transport.interfaces import own_hosts
from p2p.windows import Clock, Entropy, uniform

_log = logging.getLogger("p2p.dial")


class BeginLink(Protocol):
    """How the node turns an outgoing stream into a connection, for the dialer to run."""

    def __call__(self, stream: LinkStream, *, dialed: PeerEndpoint) -> Connection: ...


class _Attempt:
    """One dial under way, and everybody who waits for it: until it has failed, or its link is live or over.

    Attributes:
        automatic: a failure counts on the automatic schedule.
        is_over: it has come to its end.
        askers: how many of those who wait asked for it; the others are the node itself.
        stood_aside: it made way for one that was asked for: whoever waits for it dials again.
    """

    __slots__ = (
        "_over",
        "askers",
        "automatic",
        "failure",
        "is_over",
        "link",
        "scope",
        "settled",
        "stood_aside",
        "waiting",
    )

    def __init__(self, *, automatic: bool) -> None:
        self.automatic = automatic
        self.askers = 0
        self.stood_aside = False
        self.scope = trio.CancelScope()
        self.settled = trio.Event()
        self.is_over = False
        self._over: trio.Event | None = None
        self.waiting = 0
        self.link: Connection | None = None
        self.failure: ConnectFailed | None = None

    def end(self) -> None:
        """It has come to its end."""
        self.is_over = True
        if self._over is not None:
            self._over.set()

    async def until_over(self) -> None:
        """Wait for its end."""
        if self._over is None:
            self._over = trio.Event()
            if self.is_over:
                self._over.set()
        await self._over.wait()


class _Told:
    """What was said of an endpoint that cannot be reached: a first failure, another cause, a reminder at times."""

    __slots__ = ("_again_at", "_reason")

    def __init__(self) -> None:
        self._reason: Reason | None = None
        self._again_at = 0.0

    def is_news(self, reason: Reason, now: float) -> bool:
        # Who gives each of his nodes the same list need not hear of it again.
        if reason is self._reason and (now < self._again_at or reason is Reason.SELF):
            return False
        self._reason, self._again_at = reason, now + TELL_AGAIN_S
        return True


class Dialer:
    """Outgoing attempts of one node."""

    def __init__(
        self,
        network: Transport,
        roster: Roster,
        guard: ConnectionGuard,
        counters: Counters,
        *,
        nursery: trio.Nursery,
        begin_link: BeginLink,
        log_line: Lines,
        limits: Limits,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._limits = limits
        self._network = network
        self._roster = roster
        self._guard = guard
        self._counters = counters
        self._nursery = nursery
        self._begin_link = begin_link
        self._log_line = log_line
        self._clock = clock
        self._entropy = entropy
        self._attempts: dict[PeerEndpoint, _Attempt] = {}
        self._reach: Callable[[str], Awaitable[Connection]] = _nowhere
        self._stopping = False
        self.looking = 0
        """Configured endpoints without a link, for which a place has to stay free."""

    def reach_with(self, reach: Callable[[str], Awaitable[Connection]]) -> None:
        """Say how a link to a peer is made that some relay leads to."""
        self._reach = reach

    def stop(self) -> None:
        """The node says Goodbye: nobody is kept connected any more."""
        self._stopping = True

    async def dial(
        self, endpoint: PeerEndpoint, *, automatic: bool = False, in_place_of: Connection | None = None
    ) -> Connection:
        """Make one attempt, or join the one under way, and return the kept link to whoever is there.

        Args:
            automatic: nobody asked for it: a failure counts on the automatic schedule.
            in_place_of: a link that does not do, though it leads there.

        Raises:
            ConnectFailed: no authenticated session came of it, or one that is over by now.
            NodeClosed: the node stopped meanwhile.
        """
        link = await self._session_at(endpoint, automatic=automatic, in_place_of=in_place_of)
        if link.reason is not None:
            raise ConnectFailed(link.reason, f"{endpoint}: connected, and over at once{link.why}")
        return link

    async def _session_at(
        self, endpoint: PeerEndpoint, *, automatic: bool, in_place_of: Connection | None = None
    ) -> Connection:
        """As `dial`; the link may be over: a session came of it, whose end is judged by who sees it."""
        if endpoint.host == ANY_RELAY and endpoint.scheme == RELAY:
            # There may be a link already, which nobody would wait for.
            await trio.lowlevel.checkpoint()
            return await self._reach(endpoint.expect or "")
        while (link := await self._dial(endpoint, automatic=automatic, in_place_of=in_place_of)) is None:
            _log.debug("dialling %s again: another dial to that peer came first", endpoint)
        return link

    async def _dial(
        self, endpoint: PeerEndpoint, *, automatic: bool, in_place_of: Connection | None
    ) -> Connection | None:
        """As `_session_at`; None if the attempt made way for another one to the same peer."""
        if endpoint.scheme == RELAY:
            await self._let_others_finish(endpoint, automatic=automatic)
        for link in self._roster.links.values():
            # From what is cheapest to see: there may be thousands of links, and most were not dialled by us.
            leads_there = (link.dialed_by_us and link.endpoint == endpoint) or _is_behind(link, endpoint)
            if leads_there and link is not in_place_of and link.is_live:
                self._counters.connect_deduped += 1
                await trio.lowlevel.checkpoint()
                return link
        attempt = self._attempts.get(endpoint)
        if attempt is None:
            attempt = _Attempt(automatic=automatic)
            try:
                self._nursery.start_soon(self._run_attempt, endpoint, attempt)
            except RuntimeError:
                # The nursery has ended while this dial waited for another one, or for addresses.
                raise NodeClosed(f"the node stopped before it dialled {endpoint}") from None
            self._attempts[endpoint] = attempt
        else:
            self._counters.connect_deduped += 1
        attempt.waiting += 1
        attempt.askers += not automatic
        try:
            await attempt.settled.wait()
            self._finish(endpoint, attempt)
        finally:
            attempt.waiting -= 1
            attempt.askers -= not automatic
            if not attempt.waiting:
                self._give_up(endpoint, attempt)
        if attempt.stood_aside:
            return None
        if attempt.failure is not None:
            raise ConnectFailed(attempt.failure.reason, attempt.failure.detail)
        if attempt.link is None:
            raise NodeClosed(f"the node stopped while it dialled {endpoint}")
        return self._roster.links.get(attempt.link.peer_id, attempt.link)

    async def _let_others_finish(self, endpoint: PeerEndpoint, *, automatic: bool) -> None:
        """Wait for dials to the same peer over other relays: of two links that begin at once, the two sides could each
        take another one for the newer, and be left with none.

        One that nobody asked for stands aside for one that somebody did, unless there is a link already: its relay may
        say nothing for `dial_s_max`.
        """
        while True:
            others = [
                (other, attempt)
                for other, attempt in self._attempts.items()
                if other.scheme == RELAY and other.expect == endpoint.expect and other != endpoint
            ]
            if not others:
                return
            other, attempt = others[0]
            if automatic or attempt.askers or attempt.link is not None:
                await attempt.until_over()
            else:
                attempt.stood_aside = True
                self._give_up(other, attempt)

    async def dial_unasked(self, endpoint: PeerEndpoint) -> Connection | None:
        """As `dial`, for what the node wants by itself; None if the guard holds it back.

        Raises:
            ConnectFailed, NodeClosed: see `dial`.
        """
        verdict = self._guard.ask(endpoint, self._clock.monotonic())
        if verdict is Verdict.GO:
            return await self.dial(endpoint, automatic=True)
        await trio.lowlevel.checkpoint()
        if verdict is Verdict.BACKOFF:
            self._counters.backoff_skips += 1
        else:
            self._counters.connect_deduped += 1
        return None

    def holds_back(self, endpoint: PeerEndpoint) -> bool:
        """Whether a place failed lately and is not due, so that `dial_unasked` would come to nothing; it is counted."""
        if self._guard.ask(endpoint, self._clock.monotonic()) is not Verdict.BACKOFF:
            return False
        self._counters.backoff_skips += 1
        return True

    async def dial_within(self, endpoint: PeerEndpoint, rule: DialRule, *, automatic: bool = False) -> Connection:
        """As `dial`, for somebody else: to addresses that the rule allows, resolved once, judged, and dialled as judged
        (T49), and not before a place that failed lately is due again (T33).

        What the rule forbids cannot be told from a place where nothing listens. A way through a relay is no dial of
        ours. WebSocket shows the name that it dials, to proxies and for certificates: it keeps it, and dials the
        addresses that were judged.

        Args:
            rule: where it may lead; its `own_hosts` are filled in here.
            automatic: see `dial`.
        """
        if endpoint.scheme == RELAY:
            return await self.dial(endpoint, automatic=automatic)
        now = self._clock.monotonic()
        due = self._guard.due(endpoint, now)
        if due > now:
            self._counters.backoff_skips += 1
            await trio.lowlevel.checkpoint()
            raise ConnectFailed(Reason.BACKOFF, f"{endpoint} failed lately: try again in {due - now:.1f} s")
        rule = replace(rule, own_hosts=own_hosts())
        places = [place for place in await self._network.resolve(endpoint) if rule.allows(place.host, place.port)]
        if places and endpoint.scheme in ("ws", "wss"):
            named = replace(endpoint, judged=tuple(place.host for place in places[:PLACES_MAX]))
            return await self.dial(named, automatic=automatic)
        failure = ConnectFailed(Reason.REFUSED, f"nothing listens on {endpoint}")
        for place in places[:PLACES_MAX]:
            try:
                return await self.dial(place, automatic=automatic)
            except ConnectFailed as error:
                failure = error
        if endpoint not in places:
            self._note_failure(endpoint, failure.reason, automatic=automatic)
        raise failure

    def under_way(self) -> dict[PeerEndpoint, PeerState]:
        """Where is being dialled now: HANDSHAKING where something answered, CONNECTING elsewhere."""
        return {
            endpoint: PeerState.CONNECTING if attempt.link is None else PeerState.HANDSHAKING
            for endpoint, attempt in self._attempts.items()
        }

    def _note_failure(self, endpoint: PeerEndpoint, reason: Reason, *, automatic: bool) -> None:
        self._guard.failed(endpoint, self._clock.monotonic(), uniform(self._entropy), reason, automatic=automatic)

    @trio.lowlevel.enable_ki_protection
    async def _run_attempt(self, endpoint: PeerEndpoint, attempt: _Attempt) -> None:
        self._counters.connect_attempts += 1
        self._guard.began(endpoint, self._clock.monotonic())
        _log.debug("dialling %s", endpoint)
        try:
            with attempt.scope:
                stream = await self._network.connect(endpoint)
                if attempt.waiting and not attempt.stood_aside:
                    attempt.link = self._begin_link(stream, dialed=endpoint)
                    attempt.link.when_settled(attempt.settled)
                else:
                    stream.abort()
        except ConnectFailed as failure:
            attempt.failure = failure
        finally:
            if attempt.link is None:
                attempt.settled.set()
        if attempt.link is not None:
            # This task is the link's from here on: another one would cost a handshake a turn of the loop.
            await attempt.link.run(self._nursery)

    def _finish(self, endpoint: PeerEndpoint, attempt: _Attempt) -> None:
        """Judge an attempt that has come to its end, once for all who wait for it; the next dial is a new one."""
        if attempt.is_over:
            return
        del self._attempts[endpoint]
        attempt.end()
        link = attempt.link
        if link is not None and link.reason is not None and link.connected_at is None and not self._gave_way(link):
            # Whose trust list it is, say, has to be told: a dial is refused by either side, in the same words.
            said = " says" if link.clean else ""
            detail = f"{endpoint}{said}: {link.detail}" if link.detail else str(endpoint)
            if link.reason is Reason.ABNORMAL and link.session.peer_id is None:
                # Who cannot read a stranger's first message says nothing, and closes.
                detail += " (closed at the first message: another network key or network name, or no node is there)"
            elif link.reason is Reason.CRYPTO and link.session.peer_id is None:
                detail += " (another network key or network name, or somebody in between)"
            attempt.failure = ConnectFailed(link.reason, detail)
        if attempt.failure is not None:
            reason = attempt.failure.reason
            self._counters.count_failed_dial(reason)
            self._note_failure(endpoint, reason, automatic=attempt.automatic)
            _log.debug("dialling %s failed: %s", endpoint, one_line(str(attempt.failure)))

    def _gave_way(self, link: Connection) -> bool:
        """Whether a link ended for another one with the same peer. One that was refused did not."""
        return link.reason is Reason.MOVED and link.session.peer_id in self._roster.links

    def _give_up(self, endpoint: PeerEndpoint, attempt: _Attempt) -> None:
        """Cancel an attempt that nobody waits for any more. Without effect on one that has come to its end."""
        if attempt.is_over:
            return
        del self._attempts[endpoint]
        attempt.end()
        attempt.scope.cancel()
        if attempt.link is not None and not attempt.link.settled.is_set():
            attempt.link.abort(Reason.DISCONNECTED, "the dial was cancelled")

    @trio.lowlevel.enable_ki_protection
    async def keep_connected(
        self,
        endpoint: PeerEndpoint,
        on_link: Callable[[PeerEndpoint, PeerId], None],
        on_failure: Callable[[PeerEndpoint], None],
    ) -> None:
        """Keep a link to whoever is at the endpoint, until `stop`: redial after every end and every failure.

        The end of a link that a dial led to is judged by who sees it (`Supervisor.on_ended`): one that did not last
        counts as a failure, so that flapping slows down (T33).

        Args:
            on_link: told after each attempt who is there.
            on_failure: called after each attempt that came to nothing.
        """
        peer_id: PeerId | None = None
        told = _Told()
        try_again_at = math.inf
        self.looking += 1
        while True:
            while peer_id is not None and (link := self._roster.links.get(peer_id)) is not None:
                if not link.direct and endpoint.scheme != RELAY:
                    # A direct link would be better: it is tried at the pace of the redials.
                    break
                # Whoever dialled it: one link to that peer is enough.
                await self._until_over(link)
            now = self._clock.monotonic()
            due = min(self._guard.due(endpoint, now), try_again_at)
            if due > now:
                self._counters.backoff_skips += 1
                await trio.sleep_until(due)
                # Meanwhile the peer may have dialled us: a second link would only replace one that works.
                continue
            if self._stopping:
                return
            try:
                link = await self._session_at(endpoint, automatic=True)
            except ConnectFailed as failure:
                now = self._clock.monotonic()
                if self._guard.due(endpoint, now) <= now:
                    # It failed before there was anything to attempt, as a dial behind no relay in sight does.
                    self._note_failure(endpoint, failure.reason, automatic=True)
                due = self._guard.due(endpoint, now)
                if endpoint.scheme == RELAY:
                    # It costs no connection, and whoever is waited for may attach to the relay at any time.
                    try_again_at = now + self._limits.relay_redial_s_max
                    due = min(due, try_again_at)
                # An end in order, of either side, amid a handshake says nothing of the place; the next try does.
                if failure.reason is not Reason.CLOSED and told.is_news(failure.reason, now):
                    self._log_line.warn(f"cannot connect to {endpoint}: {failure}; next try in {due - now:.1f} s")
                on_failure(endpoint)
                continue
            told, try_again_at = _Told(), math.inf
            peer_id = link.peer_id
            on_link(endpoint, peer_id)
            started = self._clock.monotonic()
            await self._until_over(link)
            if not link.dialed_by_us:
                # Of two links that one was kept. Its end tells as much of the place as that of our own would.
                now = self._clock.monotonic()
                replaced = peer_id in self._roster.links
                lasted_s, reason = now - started, link.reason or Reason.ABNORMAL
                self._guard.ended(endpoint, lasted_s, now, uniform(self._entropy), reason, replaced=replaced)

    async def _until_over(self, link: Connection) -> None:
        self.looking -= 1
        try:
            await link.over.wait()
        finally:
            self.looking += 1


TELL_AGAIN_S: Final = 600.0
"""How often one says again that an endpoint cannot be reached for the same reason as before."""


def _is_behind(link: Connection, endpoint: PeerEndpoint) -> bool:
    """Whether a link, of whatever kind, leads to the target of a relayed endpoint."""
    return endpoint.scheme == RELAY and endpoint.expect in (str(link.peer_id), link.label)


async def _nowhere(who: str) -> Connection:
    raise ConnectFailed(Reason.NO_ROUTE, f"no way to {who} is known")


PLACES_MAX: Final = 4
"""Addresses of one name that are dialled one after the other, where each is judged."""
