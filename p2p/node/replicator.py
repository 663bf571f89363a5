"""The replicator: the exchange of all links carried out over real ones and a real store.

Responsible for everything around the pure `Exchange` that takes time or touches others: messages go to the links,
pushes to the writer, loads come from it, deadlines are waited for, and those who wait for replication are woken. It
refuses to decide anything about replication; `p2p.replication.exchange` does.

How it moves: every entry (a message, a commit, a verdict, a link that comes or goes) runs to its end on the loop
without waiting: the machine is told, what it wants sent is queued on the links, and what it wants loaded is served at
once if it is among the recent batches. What must be read from the store is left to the one task, which reads for all
links in turn and otherwise sleeps until the next deadline. So nothing of trio is spent per message, a slow link costs
the others nothing, and with all links idle nothing runs at all.

Source: replication section 3; contract "Delivery".
"""

from __future__ import annotations

import heapq
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import count
from typing import Final, Protocol

import trio

from p2p.errors import NodeClosed, Reason, StoreError
from p2p.ids import PeerId, is_peer_id_text
from p2p.limits import Limits
from p2p.msg import AnyMessage, ForkProof, OutboxPull, WalHeads, WalPush
from p2p.node.first_word import FirstWord
from p2p.node.waiters import Waiters
from p2p.node.writer import PushOutcome, Writer
from p2p.replication.accept import Verdict
from p2p.replication.boundaries import SealedBatch, prev_hash_of
from p2p.replication.exchange import DoubtClaim, Exchange, HoldAppends, Penalize, TrustClaim
from p2p.replication.heads import EMPTY_LOG, LogHead
from p2p.replication.recent import RecentBatches
from p2p.replication.sync import Load, LoadKind
from p2p.store.base import StoredBatch
from p2p.windows import Clock

_log = logging.getLogger("p2p.sync")

RECENT_LOAD_BYTES_MAX: Final = 512 * 1024
"""A load that reaches the head and is no larger is kept for the other links: they are about to ask for the same."""


class Link(Protocol):
    """What the replicator asks of a connection."""

    @property
    def peer_id(self) -> PeerId:
        """Whose link it is."""

    @property
    def direct(self) -> bool:
        """Whether no relay is between the two."""

    def send_control(self, message: AnyMessage) -> None:
        """Queue a WalAck, WalHeads, OutboxPull or ForkProof. Never waits."""

    def send_wal(self, message: WalPush) -> None:
        """Queue a batch. Never waits; the window bounds how many there are."""


class _Replicated(Waiters):
    """Who waits for so many peers to hold a record.

    Attributes:
        look_at: with fewer confirmations than this, counted since the start, too few peers can hold it: of thousands
            that confirm one record, only a few are a reason to look at all of them.
    """

    __slots__ = ("look_at",)

    def __init__(self) -> None:
        super().__init__()
        self.look_at = 0


class Replicator:
    """Replication with all connected peers.

    Args:
        own: this node's own origin.
        writer: the log.
        clock: the time.
        limits: bounds.
        penalize: takes note that a peer did what an honest one does not.
        expected: the places that this node is to be connected with, by whatever name: at the start appends wait for
            the first word of each that can be reached.
        is_looking: whether peers are looked for otherwise: a node that may have signed something before waits for a
            word of anybody who holds all of the log that it holds itself.
        is_new: whether the node's key is new: it waits for nobody while it has no log.

    Attributes:
        verdicts: how many pushes got which verdict since the start; a duplicate is a copy too many.
    """

    def __init__(
        self,
        *,
        own: PeerId,
        writer: Writer,
        clock: Clock,
        limits: Limits,
        penalize: Callable[[PeerId, Reason], None],
        expected: Iterable[object] = (),
        is_looking: bool = False,
        is_new: bool = True,
    ) -> None:
        self._own = own
        self._writer = writer
        self._clock = clock
        self._limits = limits
        self._penalize = penalize
        self._word = FirstWord(expected)
        self._is_looking = is_looking
        self._is_new = is_new
        self._word_until = -math.inf
        self._exchange: Exchange | None = None
        self._is_closed = False
        self._links: dict[int, Link] = {}
        self._keys: dict[Link, int] = {}
        self._next_key = count()
        self._recent = RecentBatches(limits.recent_batches_bytes)
        self._backlog: deque[Load] = deque()
        self._pulls: dict[int, OutboxPull] = {}
        self._wake = trio.Event()
        self._asleep_until = -math.inf
        self._waiters: dict[int, _Replicated] = {}
        self._confirmations = 0
        self._told_suppliers: dict[PeerId, int] | None = {} if _log.isEnabledFor(logging.DEBUG) else None
        self.verdicts: dict[Verdict, int] = dict.fromkeys(Verdict, 0)

    @trio.lowlevel.enable_ki_protection
    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read for the links and keep the deadlines, until cancelled. The writer must have started before."""
        writer = self._writer
        own_seq = writer.heads.get(self._own, EMPTY_LOG).seq
        if self._is_looking and (own_seq or not self._is_new):
            # Nobody who holds less, or nothing of it, can tell that there is more.
            self._word.await_anybody(max(own_seq, 1))
        word_s = self._limits.append_delay_at_start_s_max if self._word.is_awaited else 0.0
        self._word_until = self._clock.monotonic() + word_s
        self._exchange = Exchange(
            self._own,
            writer.heads,
            self._limits,
            self._clock.monotonic(),
            can_store=lambda: not writer.read_only,
            word_s=word_s,
        )
        unsubscribe = writer.subscribe(self._on_moved)
        try:
            task_status.started()
            pulled = False
            while True:
                self._flush()
                # The two take turns: a peer may send pulls without end.
                if self._pulls and not (pulled and self._backlog):
                    pulled = True
                    await self._serve_pull()
                elif self._backlog:
                    pulled = False
                    await self._serve(self._backlog.popleft())
                else:
                    await self._sleep()
                self._keep_deadline()
        finally:
            unsubscribe()
            self._is_closed = True
            for waiters in self._waiters.values():
                waiters.wake(math.inf)

    # Links.

    def link_up(self, link: Link) -> None:
        """A link is live: our heads go out at once."""
        key = self._keys[link] = next(self._next_key)
        self._links[key] = link
        self._machine.link_up(key, link.peer_id, self._clock.monotonic())
        self._flush()

    def link_down(self, link: Link) -> None:
        """A link is over (or gave way to another). Unknown links are ignored."""
        key = self._keys.pop(link, None)
        if key is not None:
            del self._links[key]
            self._pulls.pop(key, None)
            self._machine.link_down(key, self._clock.monotonic())
            self._flush()

    def reached(self, name: object, peer_id: PeerId) -> None:
        """This peer is at one of the places expected."""
        self._word.reached(name, peer_id)
        self._review_word()

    def unreachable(self, name: object) -> None:
        """Nobody could be reached at one of the places expected when it was tried."""
        self._word.unreachable(name)
        self._review_word()

    def _review_word(self) -> None:
        if not self._word.is_awaited and self._exchange is not None and self._exchange.awaits_word:
            self._exchange.all_heard(self._clock.monotonic())
            self._flush()

    def receive(self, link: Link, message: AnyMessage) -> None:
        """Take a replication message of a link. Never waits.

        Raises:
            RemoteProtocolError: it is not allowed here; the caller closes the link.
        """
        key = self._keys.get(link)
        if key is None:
            return
        if isinstance(message, OutboxPull) and _names_another(message, link.peer_id):
            # It waits for a look into the store. Of several the last says who is wanted, and all widen the window.
            before = self._pulls.get(key)
            more = 0 if before is None else before.max_items
            items = min(message.max_items + more, self._limits.window_records_max)
            self._pulls[key] = OutboxPull(message.target_node_id, items)
            self._wake.set()
            return
        now = self._clock.monotonic()
        if self._machine.receive(key, message, now):
            if isinstance(message, WalPush):
                self._writer.submit_push(
                    message,
                    link.peer_id,
                    partial(self._on_judged, key, message),
                    own_shown=self._machine.own_shown(key),
                )
            else:
                assert isinstance(message, ForkProof)
                self._writer.submit_proof(message, link.peer_id, partial(self._on_proof_judged, key, message))
        elif isinstance(message, WalHeads) and now < self._word_until:
            shown = max((entry.seq for entry in message.entries if entry.origin == self._own), default=0)
            self._word.heard(link.peer_id, shown)
            self._review_word()
        self._flush()

    # Our own log at others.

    async def wait_replicated(self, seq: int, peers: int) -> None:
        """Wait until so many peers said, in this run, that they hold our own log durably up to `seq`.

        Raises:
            NodeClosed: the node stopped before.
        """
        await trio.lowlevel.checkpoint()
        if not self._is_closed and self._held_by(peers) < seq:
            waiters = self._waiters.setdefault(peers, _Replicated())
            waiters.look_at = 0
            try:
                await waiters.wait(seq)
            finally:
                if not waiters and self._waiters.get(peers) is waiters:
                    del self._waiters[peers]
        if self._is_closed and self._held_by(peers) < seq:
            raise NodeClosed("the node stopped before the record was replicated")

    def lag(self, origin: PeerId) -> dict[PeerId, int]:
        """Per connected peer: how many records of that log it does not hold durably yet, as far as it told."""
        return self._machine.lag(origin) if self._exchange is not None else {}

    def shown(self) -> dict[PeerId, Mapping[PeerId, LogHead]]:
        """Per connected peer: how far it said to hold every origin's log."""
        return self._machine.shown() if self._exchange is not None else {}

    def _held_by(self, peers: int) -> float:
        """Up to which seq at least so many peers hold our own log."""
        if peers <= 0:
            return math.inf
        if self._exchange is None:
            return 0
        largest = heapq.nlargest(peers, self._exchange.confirmed().values())
        return largest[-1] if len(largest) == peers else 0

    def _wake_waiters(self) -> None:
        for peers, waiters in list(self._waiters.items()):
            if self._confirmations < waiters.look_at:
                continue
            waiters.wake(self._held_by(peers))
            if waiters and self._exchange is not None:
                confirming = sum(seq >= waiters.lowest for seq in self._exchange.confirmed().values())
                waiters.look_at = self._confirmations + max(1, peers - confirming)

    # What the writer reports.

    def _on_moved(self, origins: frozenset[PeerId]) -> None:
        for origin in origins:
            head = self._writer.heads.get(origin, EMPTY_LOG)
            if head.frozen or head.seq < self._machine.known_seq(origin):
                self._recent.forget(origin)
        for batch in self._writer.just_sealed:
            # What the links are about to be offered need not be read back from the store.
            self._recent.put(self._own, StoredBatch(batch.seq_begin, batch.seq_end, batch.wal_bytes))
        self._machine.moved(origins, self._clock.monotonic())
        self._flush()

    def _on_judged(self, key: int, push: WalPush, outcome: PushOutcome) -> None:
        self.verdicts[outcome.verdict] += 1
        if outcome.verdict is Verdict.APPLIED and outcome.origin is not None:
            # These very bytes were verified and are durable now. (Of a duplicate only the hash was compared.)
            origin = outcome.origin
            self._recent.put(origin, StoredBatch(push.seq_begin, push.seq_end, push.wal_bytes))
            if self._told_suppliers is not None:
                self._tell_supplier(self._told_suppliers, key, origin)
            self._machine.passed(origin, push.seq_begin - 1, prev_hash_of(push.wal_bytes))
        self._machine.judged(key, outcome.verdict, outcome.ack, self._clock.monotonic(), origin=outcome.origin)
        self._flush()

    def _tell_supplier(self, told: dict[PeerId, int], key: int, origin: PeerId) -> None:
        link = self._links.get(key)
        if link is not None and told.get(origin) != key:
            told[origin] = key
            _log.debug("the log of %s comes from %s", origin.short, link)

    def _on_proof_judged(self, key: int, proof: ForkProof, verdict: Verdict) -> None:
        self._machine.proof_judged(key, PeerId(proof.first[1:33]), verdict, self._clock.monotonic())
        self._flush()

    # Inside.

    @property
    def _machine(self) -> Exchange:
        assert self._exchange is not None, "links and commits come only while the replicator runs"
        return self._exchange

    def _flush(self) -> None:
        """Carry out what the machine asks for; leave to the task what has to be waited for."""
        exchange = self._machine
        if exchange.has_output:
            self._carry_out(exchange)
        if exchange.confirmations != self._confirmations:
            self._confirmations = exchange.confirmations
            if self._waiters:
                self._wake_waiters()
        if self._backlog or exchange.next_deadline() < self._asleep_until:
            self._wake.set()

    def _carry_out(self, exchange: Exchange) -> None:
        if exchange.has_load:
            self._serve_recent(exchange)
        links = self._links
        for key, message in exchange.take_messages():
            link = links.get(key)
            if link is None:
                continue
            if type(message) is WalPush:
                link.send_wal(message)
            else:
                link.send_control(message)
        for effect in exchange.take_effects():
            if isinstance(effect, Penalize):
                slow = links.get(effect.link) if effect.link is not None else None
                # Inside a circuit the relay decides how fast anything comes.
                if slow is None or slow.direct:
                    self._penalize(effect.peer, effect.reason)
            elif isinstance(effect, HoldAppends):
                self._writer.hold_appends(effect.seconds)
            elif isinstance(effect, DoubtClaim):
                self._writer.doubt_claim(effect.seq)
            elif isinstance(effect, TrustClaim):
                self._writer.trust_claim()
            else:
                self._writer.release_appends()

    def _serve_recent(self, exchange: Exchange) -> None:
        now = self._clock.monotonic()
        while (load := exchange.next_load(now)) is not None:
            batches = self._recent.find(load.origin, load.from_seq, load.bytes_max) if _is_stream(load) else []
            if batches:
                exchange.loaded(load, batches, now)
            else:
                self._backlog.append(load)

    async def _serve_pull(self) -> None:
        """Find out which logs a link wants first, and widen its window."""
        key = next(iter(self._pulls))
        pull = self._pulls.pop(key)
        try:
            first = await self._writer.origins_for(PeerId.parse(pull.target_node_id))
        except StoreError:
            # The order is a favour; the window is not.
            first = []
        if key in self._links:
            self._machine.receive(key, pull, self._clock.monotonic(), first=first)

    async def _serve(self, load: Load) -> None:
        """Read what one link wants from the store."""
        exchange, writer = self._machine, self._writer
        try:
            if load.kind is LoadKind.PROOF:
                proof = await writer.proof_of(load.origin)
                exchange.proof_loaded(load, proof, self._clock.monotonic())
                return
            batches = self._recent.find(load.origin, load.from_seq, load.bytes_max) if _is_stream(load) else []
            if not batches:
                batches = [*await writer.load(load.origin, load.from_seq, load.bytes_max)]
                self._keep_recent(load, batches)
            else:
                # Another link had the same read a moment ago.
                await trio.lowlevel.checkpoint()
            exchange.loaded(load, batches, self._clock.monotonic())
        except StoreError:
            # The writer has said so already; it is read again later.
            exchange.load_failed(load, self._clock.monotonic())

    def _keep_recent(self, load: Load, batches: list[SealedBatch]) -> None:
        if not _is_stream(load) or not batches:
            return
        head = self._writer.heads.get(load.origin, EMPTY_LOG)
        size = sum(len(batch.wal_bytes) for batch in batches)
        if batches[-1].seq_end == head.seq and size <= RECENT_LOAD_BYTES_MAX:
            for batch in batches:
                self._recent.put(load.origin, batch)

    async def _sleep(self) -> None:
        """Wait for the next deadline, or for something to load."""
        self._wake = trio.Event()
        deadline = self._asleep_until = self._machine.next_deadline()
        with trio.CancelScope(deadline=deadline):
            await self._wake.wait()
        self._asleep_until = -math.inf

    def _keep_deadline(self) -> None:
        exchange, now = self._machine, self._clock.monotonic()
        if exchange.next_deadline() <= now:
            exchange.handle_deadline(now)


def _names_another(pull: OutboxPull, peer_id: PeerId) -> bool:
    # A text that is no peer id is a label: it widens the window like any other and names nobody.
    return is_peer_id_text(pull.target_node_id) and pull.target_node_id != str(peer_id)


def _is_stream(load: Load) -> bool:
    return load.kind is LoadKind.STREAM
