"""One commit: everything that waits, judged and sealed and written in one transaction.

This is the half of the writer that runs on the lane "write", without trio. Deciding about a push of our own origin and
sealing our own records happen here, in one transaction and one thread: nothing of our log that we did not know can
slip in between. And how far the peer that brought such a batch shows our log is written down in the same transaction,
unless that is absurd: while that claim stands, also in the next process, nothing is sealed below it. It is a claim, and
no signature: the writer says when it is believed no longer.

What is pushed is handled first, then what is appended. If a push brings a batch of our own log that this store does
not hold, or the store's own log is not whole, nothing is sealed: a signature at a seq that we may have used before
would fork the log.

Source: replication sections 2, 4 and 5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final

import msgspec

from p2p.crypto.identity import Identity
from p2p.errors import Reason, RemoteProtocolError, StoreCorrupt
from p2p.ids import PeerId
from p2p.limits import MIB, Limits
from p2p.policy.book import Address, BookPlace
from p2p.replication.accept import Judgement, Verdict, ack_value, judge
from p2p.replication.batch import Batch, Portion, origin_of, parse_batch, seal, take_for_one_batch
from p2p.replication.clock import HybridClock
from p2p.replication.fork import Proof, check_proof
from p2p.store.base import DamagedRange, NotBulk, OriginState, Store, Transaction

_WARM_BYTES: Final = 4 * MIB


class PushJob(msgspec.Struct, frozen=True):
    """A WalPush to judge.

    Attributes:
        admitted: whether its origin's log is kept here; decided when it came.
        own_shown: how far the peer that sent it shows our own log.
    """

    seq_begin: int
    seq_end: int
    wal_bytes: bytes
    admitted: bool
    own_shown: int = 0


class ProofJob(msgspec.Struct, frozen=True):
    """A ForkProof to check."""

    first: bytes
    second: bytes
    admitted: bool


class ForgetJob(msgspec.Struct, frozen=True):
    """An origin to drop."""

    origin: PeerId


Job = PushJob | ProofJob | ForgetJob


class PushOutcome(msgspec.Struct, frozen=True):
    """What became of a push.

    Attributes:
        verdict: the decision.
        origin: whose batch it claims to be; None when the bytes do not even say that.
        ack: the value of its WalAck.
        detail: why, for a log line.
    """

    verdict: Verdict
    origin: PeerId | None
    ack: int
    detail: str = ""


class Group(msgspec.Struct):
    """What one commit takes on.

    Attributes:
        jobs: pushes, proofs and forgets, in the order they came.
        portions: encoded records of our own, to be sealed in this order.
        cursors: follower name and origin -> seq.
        pins: label -> whose it is, and when it was seen (Unix milliseconds).
        places: address -> what the address book says of it; None takes it out.
        bans: identity -> until when it is left alone (Unix milliseconds); None takes the ban back.
        damaged: batches that failed their hash when they were read. They are read once more before they are marked.
        quotas: bytes that the origins of the pushes may take, where there is a bound.
        drop_claim: what somebody showed of our own log is not believed any more.
    """

    jobs: list[Job] = msgspec.field(default_factory=list)
    portions: Sequence[Portion] = ()
    cursors: Mapping[tuple[str, PeerId], int] = msgspec.field(default_factory=dict)
    pins: Mapping[str, tuple[PeerId, int]] = msgspec.field(default_factory=dict)
    places: Mapping[Address, BookPlace | None] = msgspec.field(default_factory=dict)
    bans: Mapping[PeerId, int | None] = msgspec.field(default_factory=dict)
    damaged: Sequence[DamagedRange] = ()
    quotas: Mapping[PeerId, int] = msgspec.field(default_factory=dict)
    drop_claim: bool = False


class Unsealed(Enum):
    """Why a group's own records were not sealed."""

    AHEAD = "a peer holds more of our log than we do"
    DAMAGED = "our own log is damaged"
    FORKED = "our own log is forked"


class Committed(msgspec.Struct):
    """What a durable commit did.

    Attributes:
        outcomes: one per job; a PushOutcome, a Verdict for a proof, None for a forget.
        seq_first: seq of the group's first own record; the others follow without a gap. None if none was sealed.
        sealed: the batches that they make.
        unsealed: why not, if there were any.
        states: the origins that moved, None for a forgotten one.
        frozen: proofs that were new.
        damaged: batches that were quarantined.
        readable: origins of batches that a reader could not read, and that are what was stored.
        own_ahead: if batches of our own log came from outside, how far they reach or whoever brought them shows it;
            else 0.
        over_quota: origins that found no room.
    """

    outcomes: list[PushOutcome | Verdict | None] = msgspec.field(default_factory=list)
    seq_first: int | None = None
    sealed: list[Batch] = msgspec.field(default_factory=list)
    unsealed: Unsealed | None = None
    states: dict[PeerId, OriginState | None] = msgspec.field(default_factory=dict)
    frozen: list[Proof] = msgspec.field(default_factory=list)
    damaged: list[DamagedRange] = msgspec.field(default_factory=list)
    readable: set[PeerId] = msgspec.field(default_factory=set)
    own_ahead: int = 0
    over_quota: list[PeerId] = msgspec.field(default_factory=list)


class Taken(msgspec.Struct, frozen=True):
    """What a store holds when it is taken up, and our own last batch if that is not what was stored."""

    states: dict[PeerId, OriginState]
    damaged: DamagedRange | None


class Committer:
    """Carries out groups on a store. Lane "write" only.

    Args:
        store: the store; it must be the identity's.
        identity: signs our own batches.
        limits: bounds.
    """

    def __init__(self, store: Store, identity: Identity, limits: Limits) -> None:
        assert store.own == identity.peer_id
        self._store = store
        self._identity = identity
        self._own = identity.peer_id
        self._limits = limits
        self._clock = HybridClock(0, limits.hlc_future_s_max)

    def start(self) -> Taken:
        """Take up the log where it ends: our timestamps go on above those already given out.

        Raises:
            StoreError: the store cannot be read.
        """
        # glibc gives big blocks back to the system at once, and every new one is paid for page by page: half a
        # millisecond per full batch. Once a larger block was freed, it keeps those of a batch's size for reuse.
        bytes(_WARM_BYTES)
        return self._take_up()

    def recover(self) -> Taken:
        """Make the store fit for writing again and read what it holds.

        Raises:
            StoreError: it is not fit yet.
        """
        self._store.recover()
        return self._take_up()

    def _take_up(self) -> Taken:
        states = dict(self._store.current())
        own = states.get(self._own)
        if own is None or not own.seq:
            return Taken(states, None)
        loaded = self._store.load(self._own, own.seq, own.seq, 0)
        if loaded.batches:
            self._go_on_above(parse_batch(loaded.batches[0].wal_bytes))
        return Taken(states, loaded.damaged)

    def _go_on_above(self, batch: Batch) -> None:
        """Timestamps of our own are never given out twice, however far ahead they are."""
        self._clock = HybridClock(max(self._clock.last, batch.last_hlc), self._limits.hlc_future_s_max)

    def commit(self, group: Group, wall_ms: int) -> Committed:
        """Judge, seal and write a group. When this returns, all of it is durable.

        Raises:
            StoreError: nothing of it is; `recover` must succeed before the next one.
        """
        try:
            return self._commit(group, wall_ms)
        except NotBulk:
            # What was sealed is nowhere but here, and is sealed again.
            return self._commit(group, wall_ms)

    def _commit(self, group: Group, wall_ms: int) -> Committed:
        hurt = [damaged for damaged in group.damaged if not self._is_readable(damaged)]
        done = Committed(readable={damaged.origin for damaged in group.damaged if damaged not in hurt})
        with self._store.write(is_bulk=self._is_bulk(group)) as transaction:
            transaction.quotas = group.quotas
            if group.drop_claim:
                transaction.drop_claim()
            for damaged in hurt:
                transaction.quarantine(damaged)
            for job in group.jobs:
                done.outcomes.append(self._do(transaction, job, done, wall_ms))
            if group.portions:
                done.unsealed = self._reason_not_to_seal(transaction, done)
                if done.unsealed is None:
                    done.sealed = self._seal(transaction, group.portions, wall_ms)
                    done.seq_first = done.sealed[0].seq_begin
            for (name, origin), seq in group.cursors.items():
                transaction.set_cursor(name, origin, seq)
            for node_id, (peer_id, seen_ms) in group.pins.items():
                transaction.set_pin(node_id, peer_id, seen_ms, self._limits.weak_pins_max)
            self._note_acquaintances(transaction, group)
        done.states = transaction.changed
        done.damaged = transaction.damaged
        if transaction.filed_hlc > self._clock.last:
            self._clock = HybridClock(transaction.filed_hlc, self._limits.hlc_future_s_max)
        return done

    def _is_readable(self, damaged: DamagedRange) -> bool:
        """Whether a batch that could not be read can be by now: a disk that was away for a moment has damaged nothing,
        and a mark stays."""
        origin, seq_begin, seq_end = damaged.origin, damaged.seq_begin, damaged.seq_end
        try:
            batches = self._store.load(origin, seq_begin, seq_end, 0).batches
        except StoreCorrupt:
            return False
        if not batches or (batches[0].seq_begin, batches[0].seq_end) != (seq_begin, seq_end):
            return False
        if origin == self._own:
            self._go_on_above(parse_batch(batches[0].wal_bytes))
        return True

    def _is_bulk(self, group: Group) -> bool:
        """Whether it brings much of each of some logs that are held and, as far as can be told, nothing else. A small
        batch beside a big one of its log is a part of that: so are the last records of a call."""
        if group.cursors or group.pins or group.places or group.bans or group.damaged or group.drop_claim:
            return False
        sizes: Counter[PeerId] = Counter()
        for job in group.jobs:
            if not isinstance(job, PushJob) or (origin := origin_of(job.wal_bytes)) is None:
                return False
            sizes[origin] += len(job.wal_bytes)
        if group.portions:
            sizes[self._own] += sum(len(portion.data) for portion in group.portions)
        return (
            bool(sizes)
            and sizes.keys() <= self._store.current().keys()
            and min(sizes.values()) >= self._limits.segment_batch_bytes_min
        )

    def _note_acquaintances(self, transaction: Transaction, group: Group) -> None:
        for address, place in group.places.items():
            if place is None:
                transaction.drop_place(address)
            else:
                transaction.set_place(place)
        for peer_id, until_ms in group.bans.items():
            if until_ms is None:
                transaction.drop_ban(peer_id)
            else:
                transaction.set_ban(peer_id, until_ms, self._limits.bans_kept_max)

    def _reason_not_to_seal(self, transaction: Transaction, done: Committed) -> Unsealed | None:
        own = transaction.state(self._own)
        if own.frozen_from is not None:
            return Unsealed.FORKED
        if not own.is_whole:
            return Unsealed.DAMAGED
        return Unsealed.AHEAD if done.own_ahead or own.is_lost else None

    def _seal(self, transaction: Transaction, portions: Sequence[Portion], wall_ms: int) -> list[Batch]:
        own = transaction.state(self._own)
        sealed: list[Batch] = []
        seq, prev_hash = own.seq, own.hash
        start = 0
        while start < len(portions):
            stop = take_for_one_batch(portions, start)
            together = portions[start:stop]
            batch = seal(
                origin=self._own,
                seq_begin=seq + 1,
                prev_hash=prev_hash,
                base_hlc=self._clock.tick(wall_ms, sum(portion.count for portion in together)),
                portions=together,
                sign=self._identity.sign,
                foresee=transaction.foresee,
            )
            transaction.append(batch)
            sealed.append(batch)
            seq, prev_hash = batch.seq_end, batch.hash
            start = stop
        return sealed

    def _do(self, transaction: Transaction, job: Job, done: Committed, wall_ms: int) -> PushOutcome | Verdict | None:
        match job:
            case PushJob():
                judgement = judge(transaction, job.seq_begin, job.seq_end, job.wal_bytes, admitted=job.admitted)
                self._carry_out(transaction, judgement, job.own_shown, done, wall_ms)
                origin = judgement.origin
                head_seq = transaction.head(origin).seq if origin is not None else 0
                ack = ack_value(judgement.verdict, head_seq, job.seq_begin, job.seq_end)
                return PushOutcome(judgement.verdict, origin, ack, judgement.detail)
            case ProofJob():
                return self._take_proof(transaction, job, done)
            case ForgetJob():
                transaction.forget(job.origin)
                return None

    def _carry_out(
        self, transaction: Transaction, judgement: Judgement, own_shown: int, done: Committed, wall_ms: int
    ) -> None:
        batch = judgement.batch
        if judgement.verdict is Verdict.APPLIED:
            assert batch is not None
            transaction.append(batch)
            self._clock.observe(batch.last_hlc, wall_ms)
            if batch.origin == self._own:
                self._go_on_above(batch)
                # Who delivers a part of what we lost is believed about the rest, if there can be so much.
                if own_shown <= batch.seq_end + self._limits.own_claim_records_max:
                    transaction.note_claim(own_shown)
                done.own_ahead = max(batch.seq_end, transaction.state(self._own).claimed_seq)
        elif judgement.verdict is Verdict.FORK:
            assert judgement.proof is not None
            transaction.freeze(judgement.proof)
            done.frozen.append(judgement.proof)
        elif judgement.over_quota and judgement.origin is not None:
            done.over_quota.append(judgement.origin)

    def _take_proof(self, transaction: Transaction, job: ProofJob, done: Committed) -> Verdict:
        if not job.admitted:
            return Verdict.LEFT_ALONE
        try:
            proof = check_proof(job.first, job.second)
        except RemoteProtocolError as error:
            return Verdict.LEFT_ALONE if error.reason is Reason.VERSION else Verdict.MALFORMED
        if transaction.frozen_from(proof.origin) is not None:
            return Verdict.DUPLICATE
        transaction.freeze(proof)
        done.frozen.append(proof)
        return Verdict.APPLIED
