"""The exchange of one node: all its links, the one choice of suppliers, and what concerns the node's own log.

Responsible for what the links have in common: what moves is told and offered on every link, a new supplier is told to
those whose `want` it changes, loads and deadlines of all links are taken in turn, and how far our own log is held by
whom. It refuses to know tasks, streams and the store.

Everything goes in through plain calls with `now`; after a call the owner sends `take_messages`, obeys `take_effects`,
serves `next_load`, and comes back at `next_deadline`.

Our own log. A peer that shows more of it than we hold may be right: a store can be lost, or brought back from a
backup. What it *says* only makes us pull, and holds our appends for a moment, once per start. Whoever claims and does
not deliver is scored. (What it *delivers*, a batch that we signed and do not hold, is another matter: how far such a
peer shows our log is written down with that batch, and nothing is sealed below while it is believed: as long as it may
still deliver.) A node that is to be connected with
somebody also waits for first words at its start, until its owner says that all are heard who matter: what it has ready
to append would otherwise be signed before anybody could say that there is more.

Source: replication sections 3 and 5.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from p2p.errors import Reason, RemoteProtocolError
from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.msg import AnyMessage, ForkProof, OutboxPull, WalAck, WalHeads, WalPush
from p2p.replication.accept import Verdict
from p2p.replication.boundaries import Boundaries, SealedBatch, seq_begin_of
from p2p.replication.heads import EMPTY_LOG, SEQ_MAX, LogHead
from p2p.replication.suppliers import NEVER, Suppliers
from p2p.replication.sync import LinkSync, Load, LoadKind, Shared

NO_LINK: Final = -1
"""In a `Load`: it is for the node, not for one link."""


class HoldAppends(msgspec.Struct, frozen=True):
    """Local appends wait until `ReleaseAppends`, and so many seconds at the most."""

    seconds: float


class ReleaseAppends(msgspec.Struct, frozen=True):
    """Local appends go on."""


class Penalize(msgspec.Struct, frozen=True):
    """This peer did what an honest one does not.

    Attributes:
        link: the one that was too slow, where nothing else speaks against the peer.
    """

    peer: PeerId
    reason: Reason
    link: int | None = None


class DoubtClaim(msgspec.Struct, frozen=True):
    """Who shows our own log up to `seq` is asked for it, and does not deliver."""

    seq: int


class TrustClaim(msgspec.Struct, frozen=True):
    """The link of whom we doubted ended: it could not deliver."""


Effect: TypeAlias = HoldAppends | ReleaseAppends | Penalize | DoubtClaim | TrustClaim


class Exchange:
    """The pure half of a node's replicator.

    Args:
        own: this node's own origin.
        heads: what is held durably; a live view.
        limits: bounds.
        now: monotonic seconds.
        can_store: whether the store takes writes at the moment; what it did not take is asked for again when it does.
        word_s: so long appends wait for first words, or until `all_heard`.

    Attributes:
        confirmations: counts up whenever `confirmed` changes.
        awaits_word: whether first words are still waited for.
    """

    def __init__(
        self,
        own: PeerId,
        heads: Mapping[PeerId, LogHead],
        limits: Limits,
        now: float,
        *,
        can_store: Callable[[], bool] = lambda: True,
        word_s: float = 0.0,
    ) -> None:
        self._own = own
        self._heads = heads
        self._limits = limits
        self._links: dict[int, LinkSync] = {}
        self._suppliers = Suppliers(
            own,
            stall_s=limits.supplier_stall_s,
            doubt_s_max=limits.supplier_doubt_s_max,
            is_arriving=self._is_arriving,
        )
        self._boundaries = Boundaries(limits.boundaries_per_origin)
        self._shared = Shared(own, limits, heads, self._suppliers, self._boundaries, can_store)
        self._seqs: dict[PeerId, int] = {}
        self._frozen_from: dict[PeerId, int | None] = {}
        self._proofs_wanted: deque[PeerId] = deque()
        self._touched: dict[int, None] = {}
        self._turns: deque[int] = deque()
        self._in_turn: set[int] = set()
        self._due: list[tuple[float, int]] = []
        self._due_of: dict[int, float] = {}
        self._messages: list[tuple[int, AnyMessage]] = []
        self._effects: list[Effect] = []
        self._confirmed: dict[PeerId, int] = {}
        self._confirmed_on: dict[int, int] = {}
        self.confirmations = 0
        self._scored: set[int] = set()
        self._doubted: set[int] = set()
        self._claim_spent = False
        self.awaits_word = self._is_holding = word_s > 0
        if word_s > 0:
            self._effects.append(HoldAppends(word_s))
        for origin in heads:
            self._take_head(origin, now)
        self._suppliers.take_changes()

    # Links.

    def link_up(self, key: int, peer: PeerId, now: float) -> None:
        """A link is live: tell our heads.

        Args:
            key: higher than that of any link before.
        """
        assert key not in self._links
        self._suppliers.link_up(key, peer, now)
        sync = self._links[key] = LinkSync(key, peer, self._shared)
        sync.start(now)
        self._touched[key] = None
        self._settle(now)

    def link_down(self, key: int, now: float) -> None:
        """A link ended. What was under way on it is unknown."""
        sync = self._links.pop(key, None)
        if sync is None:
            return
        self._due_of.pop(key, None)
        self._confirmed_on.pop(key, None)
        self._scored.discard(key)
        if key in self._doubted:
            self._doubted.discard(key)
            self._effects.append(TrustClaim())
        self._suppliers.link_down(key, sync.peer, now)
        self._settle(now)

    def receive(self, key: int, message: AnyMessage, now: float, *, first: Iterable[PeerId] = ()) -> bool:
        """Take a replication message of a link.

        Args:
            first: for an OutboxPull that names another peer: the origins that hold records for it.

        Returns:
            Whether the message (a WalPush or a ForkProof) is to be judged now, and answered by `judged` or
            `proof_judged`.

        Raises:
            RemoteProtocolError: the message is not allowed here; the link must be closed.
        """
        sync = self._links[key]
        submit = False
        if isinstance(message, WalPush):
            sync.receive_push(message, now)
            submit = True
        elif isinstance(message, WalAck):
            sync.receive_ack(message, now)
        elif isinstance(message, WalHeads):
            sync.receive_heads(message, now)
        elif isinstance(message, OutboxPull):
            sync.receive_pull(message, first, now)
        elif isinstance(message, ForkProof):
            submit = sync.receive_proof(message, now)
        else:
            raise RemoteProtocolError(f"{type(message).__name__} is no message of the exchange")
        self._touched[key] = None
        self._settle(now)
        return submit

    def judged(self, key: int, verdict: Verdict, ack: int, now: float, *, origin: PeerId | None = None) -> None:
        """The link's oldest unanswered push was judged, and what it brought is durable.

        Args:
            origin: whose batch it was; it counts for the other links if this one has ended.
        """
        sync = self._links.get(key)
        if sync is not None:
            origin = sync.judged(verdict, ack, now)
        if verdict is Verdict.APPLIED and origin is not None:
            for link in self._suppliers.welcome(origin):
                if (heard := self._links[link].heard_seq(origin)) is not None:
                    self._suppliers.claim(origin, link, heard[0], now, asks=heard[1])
                self._links[link].retell(origin, now)
                self._touched[link] = None
        elif verdict is Verdict.MALFORMED and sync is not None:
            self._effects.append(Penalize(sync.peer, Reason.PROTOCOL))
        self._touched[key] = None
        self._settle(now)

    def proof_judged(self, key: int, origin: PeerId, verdict: Verdict, now: float) -> None:
        """A proof of this link was checked."""
        sync = self._links.get(key)
        if sync is None:
            return
        sync.proof_judged()
        if verdict is Verdict.MALFORMED:
            self._effects.append(Penalize(sync.peer, Reason.PROTOCOL))
        elif verdict is Verdict.NOT_STORED:
            sync.retell(origin, now + self._limits.store_retry_s)
        self._touched[key] = None
        self._settle(now)

    def all_heard(self, now: float) -> None:
        """There is no first word to wait for any more."""
        self.awaits_word = False
        self._settle(now)

    # What we hold.

    def moved(self, origins: Iterable[PeerId], now: float) -> None:
        """A commit moved the heads of these origins."""
        for origin in sorted(origins):
            self._take_head(origin, now)
            for key, sync in self._links.items():
                sync.moved(origin, now)
                self._touched[key] = None
        self._settle(now)

    def known_seq(self, origin: PeerId) -> int:
        """Where the origin's head was when `moved` was told of it last."""
        return self._seqs.get(origin, 0)

    def passed(self, origin: PeerId, seq: int, batch_hash: bytes) -> None:
        """A batch that ends at `seq` with this hash is part of our log of the origin."""
        if seq <= self._heads.get(origin, EMPTY_LOG).seq:
            self._boundaries.add(origin, seq, batch_hash)

    def _take_head(self, origin: PeerId, now: float) -> None:
        head = self._heads.get(origin, EMPTY_LOG)
        if head.frozen or head.seq < self._seqs.get(origin, 0):
            self._boundaries.forget(origin)
        self._boundaries.add(origin, head.seq, head.hash)
        self._seqs[origin] = head.seq
        last = SEQ_MAX
        if head.frozen:
            if origin not in self._frozen_from:
                # Below the proof the log is still completed; where that is, only the proof says.
                self._frozen_from[origin] = None
                self._proofs_wanted.append(origin)
            frozen_from = self._frozen_from[origin]
            last = head.seq if frozen_from is None else max(head.seq, frozen_from - 1)
        self._suppliers.held(origin, head.seq, now, last=last)

    # Loads.

    def next_load(self, now: float) -> Load | None:
        """What is to be read from the store next, the links in turn; None for nothing."""
        if self._proofs_wanted:
            return Load(LoadKind.PROOF, NO_LINK, self._proofs_wanted.popleft(), 0, self._limits.proof_bytes_max)
        while self._turns:
            key = self._turns.popleft()
            sync = self._links.get(key)
            load = None if sync is None else sync.next_load(now)
            if load is not None:
                self._turns.append(key)
                return load
            self._in_turn.discard(key)
        return None

    @property
    def has_output(self) -> bool:
        """Whether anything is to be sent or done, or may be to be loaded."""
        return bool(self._messages or self._effects or self._turns or self._proofs_wanted)

    @property
    def has_load(self) -> bool:
        """Whether `next_load` may have something."""
        return bool(self._turns or self._proofs_wanted)

    def loaded(self, load: Load, batches: Sequence[SealedBatch], now: float) -> None:
        """Answer a load of batches: no gaps, the first covers `from_seq`; none if there is nothing (any more)."""
        sync = self._links.get(load.link)
        if sync is not None:
            sync.loaded(load, batches, now)
            self._touched[load.link] = None
            self._settle(now)

    def proof_loaded(self, load: Load, proof: ForkProof | None, now: float) -> None:
        """Answer a load of a proof."""
        if load.link == NO_LINK:
            if proof is not None:
                self._frozen_from[load.origin] = min(seq_begin_of(proof.first), seq_begin_of(proof.second))
                self._take_head(load.origin, now)
                self._settle(now)
            return
        sync = self._links.get(load.link)
        if sync is not None:
            sync.proof_loaded(proof)
            self._touched[load.link] = None
            self._settle(now)

    def load_failed(self, load: Load, now: float) -> None:
        """Answer a load that the store could not serve."""
        if load.link == NO_LINK:
            # Asked for again when this origin is looked at the next time.
            self._frozen_from.pop(load.origin, None)
            return
        sync = self._links.get(load.link)
        if sync is not None:
            sync.load_failed(load, now)
            self._touched[load.link] = None
            self._settle(now)

    # Our own log at others.

    def own_shown(self, key: int) -> int:
        """How far this link's peer shows our own log."""
        heard = self._links[key].heard_seq(self._own)
        return 0 if heard is None else heard[0]

    def confirmed(self) -> Mapping[PeerId, int]:
        """Up to which seq each peer said to hold our own log durably, in this run."""
        return self._confirmed

    def lag(self, origin: PeerId) -> dict[PeerId, int]:
        """Per connected peer: how many records of a log that we hold it does not hold yet, as far as we know."""
        seq = self._heads.get(origin, EMPTY_LOG).seq
        if origin == self._own:
            return {sync.peer: max(0, seq - self._confirmed.get(sync.peer, 0)) for sync in self._links.values()}
        return {sync.peer: max(0, seq - sync.shown_seq(origin)) for sync in self._links.values()}

    def shown(self) -> dict[PeerId, Mapping[PeerId, LogHead]]:
        """Per connected peer what it showed last of every origin; of two links with one peer, the newer one's."""
        return {sync.peer: sync.shown() for sync in self._links.values()}

    # Output and time.

    def take_messages(self) -> list[tuple[int, AnyMessage]]:
        """Return and forget what is to be sent: (link, message), in order."""
        messages, self._messages = self._messages, []
        return messages

    def take_effects(self) -> list[Effect]:
        """Return and forget what the owner has to do besides sending."""
        effects, self._effects = self._effects, []
        return effects

    def next_deadline(self) -> float:
        """When `handle_deadline` is due; infinity while all links are idle."""
        due = self._suppliers.next_deadline()
        return min(due, self._due[0][0]) if self._due else due

    def handle_deadline(self, now: float) -> None:
        """Do what is due."""
        self._suppliers.handle_deadline(now)
        while self._due and self._due[0][0] <= now:
            when, key = heapq.heappop(self._due)
            if self._due_of.get(key) == when:
                del self._due_of[key]
                self._touched[key] = None
        self._settle(now)

    def supplier(self, origin: PeerId) -> int | None:
        """The link from which the origin is wanted."""
        return self._suppliers.supplier(origin)

    # Inside.

    def _is_arriving(self, origin: PeerId, link: int) -> bool:
        sync = self._links.get(link)
        return sync is not None and sync.is_arriving(origin)

    def _settle(self, now: float) -> None:
        """Carry what one call changed to all whom it concerns."""
        suppliers = self._suppliers
        # Asked for where there are any: most calls of a link that begins or ends change nothing else.
        for change in suppliers.take_changes() if suppliers.changes else ():
            old, new = change.old, change.new
            keys = list(self._links) if old is None or new is None else [old, new]
            for key in keys:
                if key in self._links:
                    self._links[key].want_changed(change.origin, now)
                    self._touched[key] = None
        for stall in suppliers.take_stalls() if suppliers.stalls else ():
            origin, link = stall.origin, stall.link
            if origin != self._own or link not in self._links:
                continue
            self._doubted.add(link)
            self._effects.append(DoubtClaim(self.own_shown(link)))
            if link not in self._scored:
                self._scored.add(link)
                self._effects.append(Penalize(self._links[link].peer, Reason.PROTOCOL, link))
        self._review_own()
        touched, self._touched = self._touched, {}
        for key in touched:
            sync = self._links.get(key)
            if sync is not None:
                self._settle_link(key, sync, now)

    def _settle_link(self, key: int, sync: LinkSync, now: float) -> None:
        due = sync.next_deadline()
        if due <= now:
            sync.handle_deadline(now)
            due = sync.next_deadline()
        if due < self._due_of.get(key, NEVER):
            self._due_of[key] = due
            heapq.heappush(self._due, (due, key))
        messages = sync.messages_to_send()
        if messages:
            self._messages += [(key, message) for message in messages]
        if key not in self._in_turn and sync.has_load():
            self._in_turn.add(key)
            self._turns.append(key)
        if sync.is_open and sync.confirmed != self._confirmed_on.get(key):
            # What an earlier link knew ends with this one's first WalHeads: the peer may have lost its store.
            self._confirmed_on[key] = sync.confirmed
            if self._confirmed.pop(sync.peer, 0) or sync.confirmed:
                self._confirmed[sync.peer] = sync.confirmed
                self.confirmations += 1
            if len(self._confirmed) > self._limits.confirmed_peers_max:
                del self._confirmed[next(iter(self._confirmed))]

    def _review_own(self) -> None:
        awaited = self._suppliers.is_awaited(self._own)
        if awaited and not self._claim_spent:
            self._claim_spent = self._is_holding = True
            self._effects.append(HoldAppends(self._limits.append_delay_on_claim_s_max))
        elif self._is_holding and not (awaited or self.awaits_word):
            self._is_holding = False
            self._effects.append(ReleaseAppends())
