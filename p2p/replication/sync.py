"""The machine of one link: what each side holds, what it wants, what it is sent, and what was answered.

Responsible for WalHeads in both directions, for accounting what the peer pushed and we have not answered yet, for the
comparison of heads that finds forks, and for spreading proofs; what we push is kept by `Pushes`. It refuses to know
tasks, stores and other links: batches come in through `loaded`, verdicts through `judged`, messages go out through
`messages_to_send`, and what must be read from the store is named by `next_load`.

How it moves:

    state      | we may send                     | we may be sent
    -----------+---------------------------------+------------------------------------------------
    started    | WalHeads (all of ours, at once) | WalHeads, ForkProof, OutboxPull
    open       | WalHeads (changes), WalPush,    | the same, WalPush, and WalAck as long as a push
               | WalAck, OutboxPull, ForkProof   | of ours is unanswered
    (the peer's first WalHeads opens it)

An entry waits until it is due, and what changed meanwhile is told with it: at once when what we want changed (but not
more often than every `heads_debounce_s`), within that time when the peer wants the origin from us or we want it from
the peer, within `heads_debounce_quiet_s` otherwise. With nothing to tell, nothing is due: an idle link costs no timer.

Nothing is kept because it was claimed: what a peer lists of origins that we hold nothing of is bounded, and what goes
beyond is not remembered (an origin that is not listed counts as wanted, so nothing is lost by it).

Source: replication sections 2, 3 and 5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Final

import msgspec

from p2p.errors import Reason, RemoteProtocolError
from p2p.ids import PeerId
from p2p.limits import KIB, Limits
from p2p.msg import AnyMessage, ForkProof, HeadEntry, OutboxPull, WalAck, WalHeads, WalPush
from p2p.replication.accept import Verdict
from p2p.replication.batch import origin_of
from p2p.replication.boundaries import BATCH_BYTES_MIN, Boundaries, SealedBatch, hash_of
from p2p.replication.heads import EMPTY_LOG, FROZEN_MARK, SEQ_MAX, ZERO_HASH, LogHead
from p2p.replication.pushes import Pushes
from p2p.replication.suppliers import NEVER, Suppliers

OWED_BYTES_SLACK: Final = 256 * KIB
"""The batch that may begin while less than `unacked_bytes_max` is unanswered (wire)."""


_ACKED: Final = b""
"""In the place of a hash that was told: the peer knows the seq from an ack, and no hash."""


class LoadKind(Enum):
    """What a load is for."""

    STREAM = "stream"
    """Batches from a seq on, to be pushed."""
    COVER = "cover"
    """The one batch that covers a seq, to be compared with what the peer shows there."""
    PROOF = "proof"
    """The proof that an origin forked."""


class Load(msgspec.Struct, frozen=True):
    """Something to be read from the store for a link."""

    kind: LoadKind
    link: int
    origin: PeerId
    from_seq: int
    bytes_max: int


class Shared(msgspec.Struct, frozen=True):
    """What the machines of all links of a node look at together.

    Attributes:
        own: this node's own origin.
        limits: bounds.
        heads: what we hold durably; a live view, read at every use.
        suppliers: from which link we want which origin.
        boundaries: batch ends of our logs, as far as remembered.
        can_store: whether the store takes writes at the moment.
    """

    own: PeerId
    limits: Limits
    heads: Mapping[PeerId, LogHead]
    suppliers: Suppliers
    boundaries: Boundaries
    can_store: Callable[[], bool]

    def servable(self, origin: PeerId) -> int:
        """Up to which seq we may send the origin's log."""
        return self.heads.get(origin, EMPTY_LOG).seq


class _Check(msgspec.Struct, frozen=True):
    """A head of the peer's that is to be compared with the batch of ours that covers it.

    Attributes:
        seq, hash: what the peer shows, and where.
        rests: whether the origin is not pushed until this is done.
    """

    seq: int
    hash: bytes
    rests: bool


class _Owed(msgspec.Struct):
    """A push that we have not answered yet."""

    origin: PeerId | None
    seq_begin: int
    seq_end: int
    size: int
    is_next: bool


class _Shown(Mapping[PeerId, LogHead]):
    """What a peer showed up to now. Hundreds of peers show a thousand logs each, and who asks looks at few."""

    __slots__ = ("_heard",)

    def __init__(self, heard: Mapping[PeerId, HeadEntry]) -> None:
        self._heard = dict(heard)

    def __getitem__(self, origin: PeerId) -> LogHead:
        entry = self._heard[origin]
        return LogHead(entry.seq, entry.hash, frozen=entry.hash == FROZEN_MARK)

    def __iter__(self) -> Iterator[PeerId]:
        return iter(self._heard)

    def __len__(self) -> int:
        return len(self._heard)

    def __contains__(self, origin: object) -> bool:
        return origin in self._heard

    def __repr__(self) -> str:
        return repr(dict(self))


class LinkSync:
    """The exchange on one link.

    Args:
        key: the link's number; later links have higher ones.
        peer: whose link it is.
        shared: the node's logs and choices.

    Attributes:
        confirmed: up to which seq the peer is known to hold our own log: it said so in acks of our batches, or it
            showed a head that is ours.
    """

    __slots__ = (
        "_arriving",
        "_checked_at",
        "_checks",
        "_checks_at",
        "_checks_due",
        "_checks_later",
        "_covered",
        "_foreign",
        "_granted",
        "_heard",
        "_is_open",
        "_later",
        "_later_at",
        "_limits",
        "_outgoing",
        "_owed",
        "_owed_bytes",
        "_proof_at",
        "_proof_free_at",
        "_proof_is_due",
        "_proof_sent_at",
        "_proofs",
        "_proofs_again",
        "_proofs_again_at",
        "_proofs_pending",
        "_retell",
        "_retell_at",
        "_shared",
        "_soon",
        "_soon_at",
        "_spoke_at",
        "_told",
        "_uncompared",
        "_unheard_at",
        "confirmed",
        "key",
        "peer",
        "pushes",
    )

    def __init__(self, key: int, peer: PeerId, shared: Shared) -> None:
        self.key = key
        self.peer = peer
        self.confirmed = 0
        self.pushes = Pushes(shared.limits, shared.servable)
        self._shared = shared
        self._limits = shared.limits
        self._outgoing: list[AnyMessage] = []
        # Heads: what the peer showed, what we told, what is to be told.
        self._is_open = False
        self._heard: dict[PeerId, HeadEntry] = {}
        self._foreign = 0
        self._unheard_at = NEVER
        self._told: dict[PeerId, HeadEntry] = {}
        # Dicts, not sets: what is told has the same order in every run.
        self._soon: dict[PeerId, None] = {}
        self._later: dict[PeerId, None] = {}
        self._soon_at = NEVER
        self._later_at = NEVER
        self._spoke_at = -NEVER
        # Comparing.
        self._uncompared: dict[PeerId, None] = {}
        self._checks: dict[PeerId, _Check] = {}
        self._checks_due: list[PeerId] = []
        self._checks_later: dict[PeerId, float] = {}
        self._checks_at = NEVER
        self._checked_at: dict[PeerId, float] = {}
        self._covered: dict[PeerId, None] = {}
        # Proofs to be sent, and those of the peer that are being checked.
        self._proofs: list[PeerId] = []
        self._proof_at = NEVER
        self._proof_is_due = False
        self._proof_free_at = -NEVER
        self._proof_sent_at: dict[PeerId, float] = {}
        self._proofs_again: dict[PeerId, None] = {}
        self._proofs_again_at = NEVER
        self._proofs_pending = 0
        # Pushes of the peer.
        self._owed: deque[_Owed] | None = None
        self._owed_bytes = 0
        self._arriving: dict[PeerId, tuple[int, int]] = {}
        self._granted = False
        self._retell: dict[PeerId, float] = {}
        self._retell_at = NEVER

    # Our heads to the peer.

    def start(self, now: float) -> None:
        """Say first of all what we hold, even if it is nothing."""
        shared = self._shared
        entries: list[HeadEntry] = []
        origins = dict.fromkeys(shared.heads)
        origins.update(dict.fromkeys(shared.suppliers.known()))
        # The peer compares its own log before it pushes it: that entry must be in the first message.
        for origin in sorted(origins, key=lambda origin: origin != self.peer):
            entry = self._entry(origin)
            if (entry.seq or not entry.want) and self._may_tell(origin):
                entries.append(entry)
                self._told[origin] = entry
        self._say(entries, now)
        if not entries:
            self._outgoing.append(WalHeads(()))

    def moved(self, origin: PeerId, now: float) -> None:
        """What we hold of the origin changed."""
        heard = self._heard.get(origin)
        if self._is_open:
            self.pushes.offer(origin, now)
            if origin in self._uncompared:
                assert heard is not None
                self._compare(heard, now)
            self._spread(origin, now)
        asked = heard is None or heard.want
        if asked or self._shared.suppliers.supplier(origin) == self.key:
            self._mark_soon(origin, now + self._limits.heads_debounce_s)
        else:
            self._later[origin] = None
            self._later_at = min(self._later_at, now + self._limits.heads_debounce_quiet_s)
        self._collect(now)

    def want_changed(self, origin: PeerId, now: float) -> None:
        """From whom we want the origin changed: tell it at once, but not in a torrent."""
        self._mark_soon(origin, max(now, self._spoke_at + self._limits.heads_debounce_s))

    def retell(self, origin: PeerId, when: float) -> None:
        """Tell this entry again at `when`, changed or not: it makes the peer try again what we did not take.

        Only for an origin that the peer listed or that we hold: a push or a proof may name any.
        """
        if origin in self._heard or origin in self._shared.heads:
            self._retell_at = min(self._retell_at, self._retell.setdefault(origin, when))

    def heard_seq(self, origin: PeerId) -> tuple[int, bool] | None:
        """What the peer showed of an origin: its seq and whether it wants it; None if it was not listed."""
        heard = self._heard.get(origin)
        return None if heard is None else (heard.seq, heard.want)

    @property
    def is_open(self) -> bool:
        """Whether the peer's first WalHeads came."""
        return self._is_open

    def shown_seq(self, origin: PeerId) -> int:
        """How far the peer holds an origin, by what it showed last."""
        heard = self._heard.get(origin)
        return 0 if heard is None else heard.seq

    def shown(self) -> Mapping[PeerId, LogHead]:
        """What the peer showed last of every origin that it listed. A frozen one has no hash to show."""
        return _Shown(self._heard)

    def _entry(self, origin: PeerId) -> HeadEntry:
        head = self._shared.heads.get(origin, EMPTY_LOG)
        return HeadEntry(origin, head.seq, head.shown_hash, self._shared.suppliers.wants(origin, self.key))

    def _mark_soon(self, origin: PeerId, due: float) -> None:
        self._soon[origin] = None
        self._soon_at = min(self._soon_at, due)

    def _tell(self, origins: Iterable[PeerId], now: float, *, again: bool = False) -> None:
        entries: list[HeadEntry] = []
        for origin in origins:
            entry = self._entry(origin)
            # What was never listed counts as this.
            unlisted = HeadEntry(origin, 0, ZERO_HASH, want=True)
            if (entry != self._told.get(origin, unlisted) or again) and self._may_tell(origin):
                entries.append(entry)
                if entry == unlisted:
                    self._told.pop(origin, None)
                else:
                    self._told[origin] = entry
        self._say(entries, now)

    def _may_tell(self, origin: PeerId) -> bool:
        """Whether there is room to remember what was told: other peers name as many logs as they like.

        One that we hold nothing of and that is not told counts as wanted: a batch of it may come twice.
        """
        heads = self._shared.heads
        return origin in heads or origin in self._told or len(self._told) < len(heads) + self._limits.origins_max

    def _say(self, entries: Sequence[HeadEntry], now: float) -> None:
        size = self._limits.heads_per_message_max
        for start in range(0, len(entries), size):
            self._outgoing.append(WalHeads(tuple(entries[start : start + size])))
            self._spoke_at = now

    # The peer's heads.

    def receive_heads(self, message: WalHeads, now: float) -> None:
        """Take what the peer holds and wants.

        Raises:
            RemoteProtocolError: a seq that no log can reach.
        """
        shared, pushes = self._shared, self.pushes
        was_open, self._is_open = self._is_open, True
        for entry in message.entries:
            if entry.seq > SEQ_MAX:
                raise RemoteProtocolError(f"a head at seq {entry.seq}: no log is that long")
            origin = entry.origin
            if origin not in self._heard and origin not in shared.heads:
                if self._foreign >= self._limits.origins_max:
                    continue
                self._foreign += 1
            self._heard[origin] = entry
            shared.suppliers.claim(origin, self.key, entry.seq, now, asks=entry.want)
            plain = entry.seq > 0 and entry.hash != FROZEN_MARK
            pushes.aim(origin, entry.seq, entry.hash if plain else None, now, wanted=entry.want)
            if origin == shared.own:
                # More only when the hash was compared.
                self.confirmed = min(self.confirmed, entry.seq) if plain else 0
            if plain:
                self._compare(entry, now)
            self._spread(origin, now)
        # So full a message is not the last of those that a link begins with: what the next one names is not pushed to
        # who has it. Where none follows, it was the last.
        goes_on = len(message.entries) >= self._limits.heads_per_message_max
        if not was_open or self._unheard_at < NEVER:
            self._unheard_at = now + self._limits.heads_debounce_quiet_s if goes_on else now
            self._offer_unheard(now)
        self._collect(now)

    def _offer_unheard(self, now: float) -> None:
        """Push the logs that the peer has not named, once it has named all that it holds."""
        if self._unheard_at <= now:
            self._unheard_at = NEVER
            for origin in self._shared.heads:
                if origin not in self._heard:
                    self.pushes.offer(origin, now)
                    self._spread(origin, now)

    # Comparing heads (rule 5) and proofs.

    def _compare(self, entry: HeadEntry, now: float) -> None:
        origin, seq = entry.origin, entry.seq
        head = self._shared.heads.get(origin)
        self._uncompared.pop(origin, None)
        if head is None or head.frozen or entry.hash == FROZEN_MARK or seq == 0:
            return
        if seq > head.seq:
            self._uncompared[origin] = None
            return
        ours = head.hash if seq == head.seq else self._shared.boundaries.at(origin, seq)
        if ours is not None:
            if ours != entry.hash:
                self._suspect(origin, seq, entry.hash, now)
            elif origin == self._shared.own:
                self.confirmed = max(self.confirmed, seq)
        elif not entry.want or (origin == self._shared.own and seq > self.confirmed):
            # Where the peer wants the origin, the batch that follows is compared when it is loaded; of our own log
            # somebody may be waiting to know.
            pace_s = 60 / self._limits.refetch_per_minute_max
            when = max(now, self._checked_at.get(origin, -NEVER) + pace_s)
            self._check(origin, seq, entry.hash, when, rests=False)

    def _suspect(self, origin: PeerId, seq: int, peer_hash: bytes, now: float) -> None:
        """The peer's log is not ours: show it our batch, once, and push no more of the origin meanwhile."""
        if origin == self._shared.own:
            self.confirmed = 0
        self.pushes.rest(origin)
        if origin not in self._covered:
            self._check(origin, seq, peer_hash, now, rests=True)

    def _check(self, origin: PeerId, seq: int, peer_hash: bytes, when: float, *, rests: bool) -> None:
        """Load the batch that covers `seq` at `when`. What the peer shows later takes the place of what it showed."""
        before = self._checks.get(origin)
        if before is None:
            self._check_at(origin, when)
        else:
            rests = rests or before.rests
            if origin in self._checks_later:
                self._check_at(origin, min(when, self._checks_later[origin]))
        self._checks[origin] = _Check(seq, peer_hash, rests)

    def _check_at(self, origin: PeerId, when: float) -> None:
        self._checks_later[origin] = when
        self._checks_at = min(self._checks_at, when)

    def _line_up_checks(self, now: float) -> None:
        if self._checks_at > now:
            return
        due = [origin for origin, when in self._checks_later.items() if when <= now]
        for origin in due:
            del self._checks_later[origin]
        self._checks_at = min(self._checks_later.values(), default=NEVER)
        self._checks_due += due

    def _spread(self, origin: PeerId, now: float) -> None:
        """Line up the proof against a frozen origin whose mark the peer does not show."""
        head = self._shared.heads.get(origin)
        if head is None or not head.frozen:
            return
        heard = self._heard.get(origin)
        if heard is not None and heard.hash == FROZEN_MARK:
            return
        again_at = self._proof_sent_at.get(origin, -NEVER) + 60 / self._limits.refetch_per_minute_max
        if now < again_at:
            # Perhaps it is still under way, and perhaps the peer could not store it and says nothing more of that log.
            self._proofs_again[origin] = None
            self._proofs_again_at = min(self._proofs_again_at, again_at)
            return
        self._proof_sent_at[origin] = now
        self._proofs.append(origin)
        self._time_proof(now)

    def _time_proof(self, now: float) -> None:
        if self._proofs and not self._proof_is_due:
            self._proof_at = min(self._proof_at, max(now, self._proof_free_at))

    # Our pushes.

    def receive_ack(self, message: WalAck, now: float) -> None:
        """Account for an ack.

        Raises:
            RemoteProtocolError: it answers nothing, or not with one of the two values it may have.
        """
        answer = self.pushes.acked(message.last_applied_seq, now)
        if answer.applied and answer.origin == self._shared.own:
            self.confirmed = max(self.confirmed, answer.seq_end)
        self._collect(now)

    def receive_pull(self, message: OutboxPull, first: Iterable[PeerId], now: float) -> None:
        """Widen the window.

        Args:
            first: origins to send before others (those that hold records for the pull's target, if that is not the
                peer itself).
        """
        self.pushes.credit(message.max_items)
        if preferred := tuple(first):
            self.pushes.prefer(preferred)
        self._collect(now)

    # The peer's pushes.

    def receive_push(self, push: WalPush, now: float) -> None:
        """Account for a push; it is then judged elsewhere, and `judged` answers it.

        Raises:
            RemoteProtocolError: it may not be sent now, breaks a bound, or cannot be a batch.
        """
        if not self._is_open:
            raise RemoteProtocolError("a push before the first WalHeads")
        limits = self._limits
        size, begin, end = len(push.wal_bytes), push.seq_begin, push.seq_end
        if not BATCH_BYTES_MIN <= size <= limits.batch_bytes_max:
            raise RemoteProtocolError(f"{size} bytes are no batch")
        if not (1 <= begin <= end <= SEQ_MAX and end - begin < limits.batch_records_max):
            raise RemoteProtocolError(f"a push of {begin}-{end} is no range of a batch")
        self._owed_bytes += size
        if self._owed_bytes > limits.unacked_bytes_max + OWED_BYTES_SLACK:
            raise RemoteProtocolError("more pushed and unanswered than the window allows", Reason.OVERLOADED)
        if not self._granted:
            # The bytes bound us; the records need not.
            self._granted = True
            widen = limits.window_records_max - limits.window_records_start
            self._outgoing.append(OutboxPull(self._shared.own.hex(), widen))
        origin = origin_of(push.wal_bytes)
        assert origin is not None, "BATCH_BYTES_MIN is more than an origin needs"
        is_next = self._arrive(origin, begin, end)
        if self._owed is None:
            self._owed = deque()
        self._owed.append(_Owed(origin, begin, end, size, is_next))
        # Who pushes a batch holds it: it is not sent back, and the claim may choose the supplier.
        heard = self._heard.get(origin)
        if heard is None and origin not in self._shared.heads:
            if self._foreign >= limits.origins_max:
                return
            self._foreign += 1
            self._heard[origin] = HeadEntry(origin, 0, ZERO_HASH, want=True)
        self.pushes.holds(origin, end)
        if heard is None or heard.seq < end:
            asks = heard is not None and heard.want
            self._shared.suppliers.claim(origin, self.key, end, now, asks=asks)

    def judged(self, verdict: Verdict, ack: int, now: float) -> PeerId:
        """Answer the oldest unanswered push, and return its origin.

        Args:
            verdict: what became of it.
            ack: the WalAck's value.
        """
        assert self._owed, "a verdict without a push"
        owed = self._owed.popleft()
        assert ack == owed.seq_end or 0 <= ack < owed.seq_begin, f"ack {ack} for {owed.seq_begin}-{owed.seq_end}"
        self._owed_bytes -= owed.size
        self._outgoing.append(WalAck(ack))
        origin = owed.origin
        assert origin is not None
        if owed.is_next:
            expected, count = self._arriving[origin]
            if count == 1:
                del self._arriving[origin]
            else:
                self._arriving[origin] = (expected, count - 1)
        if ack == owed.seq_end:
            self._note_acked(origin, ack, now)
        suppliers = self._shared.suppliers
        if verdict is Verdict.APPLIED:
            suppliers.delivered(origin, self.key)
        elif verdict in (Verdict.LEFT_ALONE, Verdict.MALFORMED, Verdict.FORK):
            suppliers.decline(origin, self.key, now)
        elif verdict is Verdict.NOT_STORED:
            suppliers.excuse(origin, now)
            self.retell(origin, now + self._limits.store_retry_s)
        return origin

    def _note_acked(self, origin: PeerId, seq: int, now: float) -> None:
        """The peer takes it from our ack that we hold the origin up to there, whatever we told it before.

        If our head falls back to what it was told last, that is news to it.
        """
        told = self._told.get(origin)
        if told is None or told.seq < seq:
            self._told[origin] = HeadEntry(origin, seq, _ACKED, told is None or told.want)
        if seq > self._shared.servable(origin):
            # A batch above the one that is damaged here. To be told, once more, where our head is, it must be over.
            self._mark_soon(origin, now + self._limits.heads_debounce_s)

    def is_arriving(self, origin: PeerId) -> bool:
        """Whether a push that continues our log of the origin is being applied."""
        return origin in self._arriving

    def _arrive(self, origin: PeerId, begin: int, end: int) -> bool:
        expected, count = self._arriving.get(origin, (self._shared.servable(origin) + 1, 0))
        if begin != expected:
            return False
        self._arriving[origin] = (end + 1, count + 1)
        return True

    # Proofs of the peer.

    def receive_proof(self, proof: ForkProof, now: float) -> bool:
        """Return whether the proof is to be checked: not when its origin is frozen here, nor beyond the bound.

        Raises:
            RemoteProtocolError: it is too large, or too small for two batches.
        """
        origin = origin_of(proof.first)
        if origin is None or len(proof.first) + len(proof.second) > self._limits.proof_bytes_max:
            raise RemoteProtocolError("a fork proof of no two batches")
        if self._shared.heads.get(origin, EMPTY_LOG).frozen:
            return False
        if self._proofs_pending >= self._limits.proofs_pending_max:
            self.retell(origin, now + self._limits.store_retry_s)
            return False
        self._proofs_pending += 1
        return True

    def proof_judged(self) -> None:
        """A proof of the peer was checked."""
        self._proofs_pending -= 1

    # Loads.

    def next_load(self, now: float) -> Load | None:
        """What is to be read from the store next, None for nothing. Every load is answered by `loaded` or its kin."""
        if self._proof_is_due:
            self._proof_is_due = False
            self._proof_free_at = now + self._limits.proof_interval_s
            origin = self._proofs.pop(0)
            self._time_proof(now)
            return Load(LoadKind.PROOF, self.key, origin, 0, self._limits.proof_bytes_max)
        if self._checks_due:
            origin = self._checks_due.pop(0)
            self._checked_at[origin] = now
            return Load(LoadKind.COVER, self.key, origin, self._checks[origin].seq, 1)
        wanted = self.pushes.next_load()
        return None if wanted is None else Load(LoadKind.STREAM, self.key, *wanted)

    def has_load(self) -> bool:
        """Whether `next_load` may have something."""
        return self._proof_is_due or bool(self._checks_due) or self.pushes.has_load()

    def loaded(self, load: Load, batches: Sequence[SealedBatch], now: float) -> None:
        """Take the batches that a load brought."""
        if load.kind is LoadKind.STREAM:
            self.pushes.loaded(load.origin, load.from_seq, batches, now)
        else:
            self._covering(load, batches, now)
        self._collect(now)

    def load_failed(self, load: Load, now: float) -> None:
        """The store could not be read."""
        if load.kind is LoadKind.STREAM:
            self.pushes.load_failed(load.origin, now)
        elif load.kind is LoadKind.COVER:
            self._check_at(load.origin, now + self._limits.store_retry_s)
        else:
            self._proofs.append(load.origin)
            self._proof_free_at = now + self._limits.store_retry_s
            self._time_proof(now)

    def proof_loaded(self, proof: ForkProof | None) -> None:
        """Send the proof that was asked for."""
        if proof is not None:
            self._outgoing.append(proof)

    def _covering(self, load: Load, batches: Sequence[SealedBatch], now: float) -> None:
        """Compare what the peer showed with our batch there. The origin rests on, or goes on, as the verdict is."""
        origin = load.origin
        check = self._checks[origin]
        head = self._shared.heads.get(origin, EMPTY_LOG)
        # What is never forgotten while the link lasts, and what the check came of.
        heard = self._heard[origin]
        seq = check.seq
        if origin in self._covered or head.frozen:
            # The peer was shown what there is to show: its next entry says what follows.
            del self._checks[origin]
        elif seq > head.seq:
            # Our log is shorter than it was. It is compared when it gets there.
            self._clear(origin, now)
            self._compare(heard, now)
        elif load.from_seq != seq or not batches or not batches[0].seq_begin <= seq <= batches[0].seq_end:
            # The peer showed another head meanwhile, or the batch was found damaged and is fetched again.
            self._check_at(origin, now + self._limits.store_retry_s)
        else:
            batch, ours = batches[0], hash_of(batches[0].wal_bytes)
            self._shared.boundaries.add(origin, batch.seq_end, ours)
            if batch.seq_end != seq or ours != check.hash:
                del self._checks[origin]
                self._covered[origin] = None
                self.pushes.cover(origin, batch)
                return
            self._clear(origin, now)
            if origin == self._shared.own and (heard.seq, heard.hash) == (seq, ours):
                self.confirmed = max(self.confirmed, seq)

    def _clear(self, origin: PeerId, now: float) -> None:
        """The suspicion did not hold: push on, not at once, so that nothing can go round in circles."""
        if self._checks.pop(origin).rests:
            self.pushes.resume(origin, now + self._limits.store_retry_s)

    # Output and time.

    def messages_to_send(self) -> list[AnyMessage]:
        """Return and forget what is to be sent, in order."""
        messages, self._outgoing = self._outgoing, []
        return messages

    def next_deadline(self) -> float:
        """When `handle_deadline` is due; infinity for an idle link."""
        told = min(self._soon_at, self._later_at, self._retell_at, self._proofs_again_at)
        return min(told, self._checks_at, self._unheard_at, self._proof_at, self.pushes.next_deadline())

    def handle_deadline(self, now: float) -> None:
        """Tell what is due, let go what was paused."""
        if self._later_at <= now:
            self._soon.update(self._later)
            self._later.clear()
            self._later_at, self._soon_at = NEVER, now
        if self._soon_at <= now:
            soon, self._soon = self._soon, {}
            self._soon_at = NEVER
            self._tell(soon, now)
        if self._retell_at <= now:
            again = [origin for origin, when in self._retell.items() if when <= now]
            can_store = self._shared.can_store()
            for origin in again:
                if can_store:
                    del self._retell[origin]
                else:
                    # To be told is to be sent it once more, a whole window of it.
                    self._retell[origin] = now + self._limits.store_retry_s
            self._retell_at = min(self._retell.values(), default=NEVER)
            if can_store:
                self._tell(again, now, again=True)
        if self._proofs_again_at <= now:
            unmarked, self._proofs_again = self._proofs_again, {}
            self._proofs_again_at = NEVER
            for origin in unmarked:
                self._spread(origin, now)
        if self._proof_at <= now:
            # From here on it is a load like any other, and no deadline.
            self._proof_at = NEVER
            self._proof_is_due = True
        self._offer_unheard(now)
        self._line_up_checks(now)
        self.pushes.handle_deadline(now)
        self._collect(now)

    def _collect(self, now: float) -> None:
        self._outgoing += self.pushes.take(now)
        for mismatch in self.pushes.take_mismatches():
            heard = self._heard.get(mismatch.origin)
            if heard is not None:
                self._suspect(mismatch.origin, mismatch.seq, heard.hash, now)
