"""The writer: the one task that writes the store, and what everybody else sees of it.

Responsible for group commit, for the order of what comes in, for being read-only while the disk is not fit, and for
telling when something is durable. What a commit consists of is `commits`; how bytes lie on the disk is the store's.

How it moves. Everything that is to be written waits in a queue: appends, pushes, proofs, cursors, pins. The task takes
all of it (up to a bound), has it committed in one transaction on the lane "write", and then, in this order: the heads
move, every push gets its outcome, every append wakes, subscribers hear what moved. So ten appends that wait together
cost one fsync, and nothing is said of a batch before it is durable.

    writable ── a commit fails ──▶ read-only: appends raise, pushes are answered "not applied"
        ▲                              │ every store_retry_s
        └── recover succeeds ──────────┘ (new handle, checkpoint, heads read anew)

A commit under way is waited for although the node is stopping, and what it did is told: `Blocking` sees to that, and
gives up on a disk that hangs after `hung_disk_s_max`.

Our own records wait (they do not fail) while a peer may know more of our log than we do: for a moment because one says
so (`hold_appends`, by the replicator); and when a commit brings a batch of our own log that the store did not hold,
until the log is fetched back up to the seq which its bringer shows, and then until nothing more of it came for a
moment, since others may have been brought further. What its bringer shows is a claim and no signature: who stays and
does not deliver is believed no longer, and nobody for ever.

Source: replication sections 2, 4 and 5; contract "Cancellation".
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Final, TypeVar, TypeVarTuple, Unpack

import msgspec
import trio

from p2p.crypto.identity import Identity
from p2p.errors import ConfigError, NodeClosed, OwnLogForked, P2PError, StoreCorrupt, StoreError, StoreReadOnly
from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.msg import ForkProof, WalPush
from p2p.node import events
from p2p.node.commits import (
    Committed,
    Committer,
    ForgetJob,
    Group,
    Job,
    ProofJob,
    PushJob,
    PushOutcome,
    Taken,
    Unsealed,
)
from p2p.policy.book import Address, BookPlace
from p2p.replication.accept import Verdict, ack_value
from p2p.replication.batch import Batch, NewRecord, Portion, encode_portion, origin_of
from p2p.replication.heads import EMPTY_LOG, LogHead
from p2p.store.base import DamagedRange, OriginState, Store, StoredBatch
from p2p.windows import Blocking, Clock, NoThread

__all__ = ["PushOutcome", "Writer"]

_PORTIONS_PER_CHECKPOINT: Final = 4
_CLOSED: Final = "the node has stopped"
_LOST: Final = (
    "this node's store lost a part of its own log (a restored backup?): it goes up to seq {}, and it is held "
    "up to seq {}. Nothing is appended here: start the node with a peer that holds the rest "
    "(`p2p --id NAME --connect ADDRESS`); if it has not come there after {:g} min, appends go on without it"
)

Outcome = PushOutcome | Verdict | None
T = TypeVar("T")
Args = TypeVarTuple("Args")


def _is_hurt(state: OriginState | None) -> bool:
    """Whether a part of a log is missing that was signed and is still wanted."""
    return state is not None and state.frozen_from is None and (state.is_lost or not state.is_whole)


def _count(portions: Sequence[Portion]) -> int:
    return portions[0].count if len(portions) == 1 else sum(portion.count for portion in portions)


def _repair(origin: PeerId, before: OriginState, after: OriginState) -> events.NodeEvent:
    if before.is_lost and not after.claimed_seq:
        return events.OwnLogClaimDropped(before.seq, before.claimed_seq)
    return events.LogRepaired(origin, after.seq)


def _ignore() -> None:
    """Default of subscribers who need not know that the writer ended."""


class _Waiting:
    """A call that waits for a commit."""

    __slots__ = ("error", "over")

    def __init__(self) -> None:
        self.over = trio.Event()
        self.error: P2PError | None = None

    def finish(self, error: P2PError | None = None) -> None:
        """Wake the call. Many may fail of one cause: each raises an exception of its own."""
        if error is not None:
            self.error = type(error)(str(error))
            self.error.__cause__ = error.__cause__
        self.over.set()

    async def wait(self) -> None:
        await self.over.wait()
        if self.error is not None:
            raise self.error


class _Append(_Waiting):
    """One call of `append_many`: its records, how many portions of them a commit has taken, and the seqs they got."""

    __slots__ = ("is_dropped", "is_withdrawn", "portions", "seqs", "taken")

    def __init__(self, portions: list[Portion]) -> None:
        super().__init__()
        self.portions = portions
        self.taken = 0
        self.seqs: list[int] = []
        self.is_withdrawn = False
        self.is_dropped = False


class _Share(msgspec.Struct, frozen=True):
    """What one commit takes of one call."""

    call: _Append
    portions: list[Portion]


class _Queued(msgspec.Struct, frozen=True):
    """A job and who is to hear of it."""

    job: Job
    finish: Callable[[Outcome], None]


class _Subscriber(msgspec.Struct, frozen=True):
    on_moved: Callable[[frozenset[PeerId]], None]
    on_close: Callable[[], None]


class Writer:
    """The log of one node: the only way into its store.

    Args:
        store: opened for the identity.
        identity: signs our own records.
        clock, blocking: windows.
        limits: bounds.
        emit: takes typed events.
        admit: whether logs of an origin are kept, carried by the peer `via`.
        settle: told what came of what was admitted: origin, via, and whether anything of that origin is held now.
        forgotten: told of an origin that was dropped.
        is_unlimited: whether an origin has no byte quota; by default only our own has none.
        can_ask: whether there can be anybody who has what our own log lacks.
    """

    def __init__(
        self,
        *,
        store: Store,
        identity: Identity,
        clock: Clock,
        blocking: Blocking,
        limits: Limits,
        emit: Callable[[events.NodeEvent], None],
        admit: Callable[[PeerId, PeerId], bool],
        settle: Callable[[PeerId, PeerId, bool], None] = lambda _origin, _via, _held: None,
        forgotten: Callable[[PeerId], None] = lambda _origin: None,
        is_unlimited: Callable[[PeerId], bool] = lambda _origin: False,
        can_ask: Callable[[], bool] = lambda: True,
    ) -> None:
        self.own = identity.peer_id
        self.just_sealed: Sequence[Batch] = ()
        """Our own batches that the last commit made durable; for subscribers, while they are told of it."""
        self._store = store
        self._committer = Committer(store, identity, limits)
        self._clock = clock
        self._blocking = blocking
        self._limits = limits
        self._emit = emit
        self._admit = admit
        self._settle = settle
        self._forgotten = forgotten
        self._is_unlimited = is_unlimited
        self._can_ask = can_ask
        self._states: dict[PeerId, OriginState] = {}
        self._heads: dict[PeerId, LogHead] = {}
        self._subscribers: dict[object, _Subscriber] = {}
        self._wake = trio.Event()
        self._appends: deque[_Append] = deque()
        self._dropped = 0
        self._records_waiting = 0
        self._room = trio.lowlevel.ParkingLot()
        self._jobs: deque[_Queued] = deque()
        self._cursors: dict[tuple[str, PeerId], int] = {}
        self._cursor_waiters: list[_Waiting] = []
        self._under_way: list[_Waiting] = []
        self._forgetting: dict[_Waiting, None] = {}
        self._pins: dict[str, tuple[PeerId, int]] = {}
        self._places: dict[Address, BookPlace | None] = {}
        self._bans: dict[PeerId, int | None] = {}
        self._damaged: dict[DamagedRange, None] = {}
        self._quarantined: Counter[PeerId] = Counter()
        self._failure: StoreError | None = None
        self._retry_at = math.inf
        self._refused: set[PeerId] = set()
        self._over_quota: set[PeerId] = set()
        self._held_until = -math.inf
        self._quiet_until = -math.inf
        self._claim_until = self._claim_until_max = -math.inf
        self._is_closed = False
        self._takes_no_more = False

    # What is durable.

    @property
    def heads(self) -> Mapping[PeerId, LogHead]:
        """The durable heads of all origins, as of the last commit: a live, read-only view."""
        return MappingProxyType(self._heads)

    @property
    def read_only(self) -> bool:
        """Whether the store failed and is not fit for writing yet."""
        return self._failure is not None

    @property
    def is_closed(self) -> bool:
        """Whether the task has ended: nothing will be written any more."""
        return self._is_closed

    def subscribe(
        self, on_moved: Callable[[frozenset[PeerId]], None], on_close: Callable[[], None] = _ignore
    ) -> Callable[[], None]:
        """Call `on_moved` after every commit that moved heads, or found that what could not be read can be, with the
        origins; and `on_close` when the writer ends.

        Returns:
            A function that ends the subscription.
        """
        key = object()
        self._subscribers[key] = _Subscriber(on_moved, on_close)

        def unsubscribe() -> None:
            self._subscribers.pop(key, None)

        return unsubscribe

    async def load(self, origin: PeerId, from_seq: int, bytes_max: int) -> list[StoredBatch]:
        """Read the batch that covers `from_seq` and those after it, up to the head and `bytes_max`; at least one.

        A batch that is not what was stored is not returned, nor what follows it. Unless it is when the next commit
        reads it once more, it is quarantined, the head goes down, and it will be fetched again.

        Returns:
            The batches; none at the log's end.

        Raises:
            StoreError: the store cannot be read.
            NodeClosed: the node stopped.
        """
        while True:
            head = self._heads.get(origin, EMPTY_LOG)
            if from_seq > head.seq:
                await trio.lowlevel.checkpoint()
                return []
            quarantined = self._quarantined.get(origin, 0)
            loaded = await self._read(self._store.load, origin, from_seq, head.seq, bytes_max)
            if loaded.damaged is None or quarantined == self._quarantined.get(origin, 0):
                break
            # Somebody else found it, too, and it may have been fetched again since this was read.
        # The head may have gone down, or the origin been frozen, while this was read.
        seq = self._heads.get(origin, EMPTY_LOG).seq
        damaged = loaded.damaged
        if damaged is None and not loaded.batches and seq >= from_seq:
            # The head stands for records that the chain does not name.
            damaged = DamagedRange(origin, from_seq, seq)
        if damaged is not None and not self._is_closed:
            self._damaged[damaged] = None
            self._wake.set()
        return [batch for batch in loaded.batches if batch.seq_end <= seq]

    async def look_through(self) -> str | None:
        """Check the store's file, beside its logs; say what is damaged, and put right at the next start.

        Raises:
            StoreError: the store cannot be read.
            NodeClosed: the node stopped.
        """
        self._check_open()
        return await self._blocking.run("chore", self._store.look_through)

    async def proof_of(self, origin: PeerId) -> ForkProof | None:
        """The proof that froze the origin, as it is sent to others; None if it is not frozen.

        Raises:
            StoreError: the store cannot be read.
        """
        proof = await self._read(self._store.proof, origin)
        return None if proof is None else ForkProof(*proof)

    async def cursors(self, name: str) -> dict[PeerId, int]:
        """How far the follower `name` has committed.

        Raises:
            StoreError: the store cannot be read.
        """
        return await self._read(self._store.cursors, name)

    async def origins_for(self, target: PeerId) -> list[PeerId]:
        """Origins that hold records for a target: `origins_max` at the most, ascending.

        Raises:
            StoreError: the store cannot be read.
        """
        return await self._read(self._store.origins_for, target, self._limits.origins_max)

    async def _read(self, fn: Callable[[Unpack[Args]], T], *args: *Args) -> T:
        self._check_open()
        try:
            return await self._blocking.run("read", fn, *args)
        except StoreError:
            # A node that stops closes the store under those who read.
            self._check_open()
            raise

    # What is to be written.

    async def append_many(
        self, records: Sequence[bytes | NewRecord], kind: str = "app", target: PeerId | None = None
    ) -> list[int]:
        """Append records to our own log; return their seqs, in order, when all are durable.

        Records that fit one batch become durable together. When cancelled, what is not sealed yet is withdrawn; what
        is may become durable all the same.

        Args:
            records: payloads, or records that bring their own kind and target.
            kind, target: of those that are payloads.

        Raises:
            RecordTooLarge: one does not fit a batch; nothing was appended.
            StoreReadOnly, StoreFull, StoreError: the store cannot be written.
            StoreCorrupt: our own log is damaged and not fetched back yet, or a part of it is lost and there is nobody
                to ask for it.
            OwnLogForked: there is proof against our own log.
            NodeClosed: the node stopped meanwhile.
        """
        if self._takes_no_more or self._is_closed:
            # Whoever is cancelled together with the node is not told that it stopped.
            await trio.lowlevel.checkpoint_if_cancelled()
            raise NodeClosed(_CLOSED)
        portions: list[Portion] = []
        start = 0
        while start < len(records):
            if portions and len(portions) % _PORTIONS_PER_CHECKPOINT == 0:
                await trio.lowlevel.checkpoint()
            portions.append(encode_portion(records, start, kind, target))
            start += portions[-1].count
        while self._records_waiting >= self._limits.appends_waiting_max and not self._is_closed:
            await self._room.park()
        self._check_writable()
        if not portions:
            await trio.lowlevel.checkpoint()
            return []
        call = _Append(portions)
        self._appends.append(call)
        self._records_waiting += _count(portions)
        self._wake.set()
        try:
            await call.wait()
        except (trio.Cancelled, KeyboardInterrupt):
            call.is_withdrawn = True
            self._drop_rest(call)
            raise
        return call.seqs

    def take_no_more(self) -> None:
        """Refuse appends from here on; those that wait already are finished."""
        self._takes_no_more = True

    def submit_push(
        self, push: WalPush, via: PeerId, done: Callable[[PushOutcome], None], *, own_shown: int = 0
    ) -> None:
        """Have a batch judged and stored. Never waits.

        Args:
            via: the peer that sent it.
            own_shown: how far that peer shows our own log.

        `done` is called on the loop once the decision is durable, in the order of submission; never from inside this
        call, and not at all once the node stops.
        """
        origin = origin_of(push.wal_bytes)
        admitted = origin is not None and self._admit(origin, via)
        job = PushJob(push.seq_begin, push.seq_end, push.wal_bytes, admitted, own_shown)

        def finish(outcome: Outcome) -> None:
            assert isinstance(outcome, PushOutcome)
            if admitted and origin is not None:
                self._settle(origin, via, origin in self._states)
            done(outcome)

        self._jobs.append(_Queued(job, finish))
        self._wake.set()

    def submit_proof(self, proof: ForkProof, via: PeerId, done: Callable[[Verdict], None]) -> None:
        """Have a fork proof checked and kept: APPLIED, DUPLICATE, LEFT_ALONE, MALFORMED or NOT_STORED. Never waits."""
        origin = origin_of(proof.first)
        admitted = origin is not None and self._admit(origin, via)

        def finish(outcome: Outcome) -> None:
            assert isinstance(outcome, Verdict)
            if admitted and origin is not None:
                self._settle(origin, via, origin in self._states)
            done(outcome)

        self._jobs.append(_Queued(ProofJob(proof.first, proof.second, admitted), finish))
        self._wake.set()

    async def forget(self, origin: PeerId) -> None:
        """Drop everything held of an origin. If it is still admitted, peers bring it back.

        Raises:
            ConfigError: it is our own.
            StoreError: the store cannot be written.
            NodeClosed: the node stopped meanwhile.
        """
        if origin == self.own:
            raise ConfigError("a node cannot forget its own log")
        self._check_open()
        waiting = _Waiting()

        def finish(outcome: Outcome) -> None:
            if outcome is None:
                self._forgotten(origin)
            waiting.finish(None if outcome is None else self._reason_not_stored())

        self._jobs.append(_Queued(ForgetJob(origin), finish))
        self._wake.set()
        self._forgetting[waiting] = None
        try:
            await waiting.wait()
        finally:
            del self._forgetting[waiting]

    async def set_cursors(self, name: str, cursors: Mapping[PeerId, int]) -> None:
        """Note how far a follower is done; returns when it is durable.

        Raises:
            StoreError: the store cannot be written.
            NodeClosed: the node stopped meanwhile.
        """
        self._check_open()
        if self._failure is not None:
            raise self._reason_not_stored()
        for origin, seq in cursors.items():
            self._cursors[name, origin] = max(seq, self._cursors.get((name, origin), 0))
        waiting = _Waiting()
        self._cursor_waiters.append(waiting)
        self._wake.set()
        await waiting.wait()

    def remember_pin(self, node_id: str, peer_id: PeerId) -> None:
        """Note whose label `node_id` is; it is written with the next commit. Never waits."""
        self._pins[node_id] = (peer_id, self._clock.wall_ms())
        while len(self._pins) > self._limits.weak_pins_max:
            # Only while the store fails; the table keeps no more either.
            del self._pins[next(iter(self._pins))]
        self._wake.set()

    def remember_place(self, address: Address, place: BookPlace | None) -> None:
        """Note a place of the address book, or (None) take it out; written with the next commit. Never waits."""
        self._places[address] = place
        while len(self._places) > 2 * self._limits.book_places_max:
            # Only while the store fails; what is lost can be learnt again.
            del self._places[next(iter(self._places))]
        self._wake.set()

    def remember_ban(self, peer_id: PeerId, until_ms: int | None) -> None:
        """Note until when an identity is left alone (None: no longer); written with the next commit. Never waits."""
        self._bans[peer_id] = until_ms
        while len(self._bans) > self._limits.scores_max:
            del self._bans[next(iter(self._bans))]
        self._wake.set()

    def hold_appends(self, seconds: float) -> None:
        """Let our own records wait for so long at the most, because a peer may know more of our log than we do."""
        self._held_until = max(self._held_until, self._clock.monotonic() + seconds)
        self._wake.set()

    def release_appends(self) -> None:
        """Nobody may, as far as that hold is concerned."""
        self._held_until = -math.inf
        self._wake.set()

    def doubt_claim(self, seq: int) -> None:
        """Who shows our own log up to `seq` was asked, is connected, and does not deliver: believe it no longer, unless
        something comes soon."""
        own = self._states.get(self.own)
        if own is not None and own.is_lost and own.claimed_seq <= seq:
            self._claim_until = min(self._claim_until, self._clock.monotonic() + self._limits.own_claim_stall_s)
            self._wake.set()

    def trust_claim(self) -> None:
        """Who was doubted is gone: that it did not deliver tells nothing."""
        self._claim_until = self._claim_until_max

    def _renew_claim(self) -> None:
        self._claim_until = self._claim_until_max = self._clock.monotonic() + self._limits.own_claim_s_max

    def _is_claim_void(self) -> bool:
        own = self._states.get(self.own)
        return own is not None and own.is_lost and self._clock.monotonic() >= self._claim_until

    def _appends_wait_until(self) -> float:
        own = self._states.get(self.own)
        if own is None:
            return self._held_until
        if not own.is_whole:
            # They are refused, at once.
            return -math.inf
        hold = max(self._held_until, self._quiet_until)
        return max(hold, self._claim_until) if own.is_lost else hold

    # The task.

    @trio.lowlevel.enable_ki_protection
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled; `started()` once the heads are loaded. A failing disk does not end it.

        Raises:
            StoreError: the store cannot be read at the start.
        """
        try:
            self._take_over(await self._blocking.run("write", self._committer.start))
            self._renew_claim()
            own = self._states.get(self.own)
            if own is not None and own.is_lost:
                self._emit(events.OwnLogAhead(own.claimed_seq))
            async with trio.open_nursery() as beside:
                task_status.started()
                try:
                    while True:
                        await self._wait_for_work()
                        if self._failure is not None:
                            await self._endure()
                        else:
                            await self._commit()
                            self._start_chore(beside)
                finally:
                    # A chore under way may take a moment, or hang with its disk: nobody has to wait for that.
                    self._close()
        finally:
            self._close()

    async def _wait_for_work(self) -> None:
        while True:
            self._wake = trio.Event()
            now = self._clock.monotonic()
            if self._failure is not None:
                deadline = self._retry_at
                ready = now >= deadline or self._has_work(holding=False)
            else:
                held_until = self._appends_wait_until()
                holding = now < held_until
                deadline = held_until if holding else math.inf
                ready = self._has_work(holding=holding)
            if ready:
                return
            if deadline == math.inf:
                await self._wake.wait()
                continue
            with trio.CancelScope(deadline=deadline):
                await self._wake.wait()

    def _has_work(self, *, holding: bool) -> bool:
        if self._jobs or self._cursors or self._cursor_waiters or (self._appends and not holding):
            return True
        # Nobody waits for these: while the store fails they may wait.
        return self._failure is None and (
            bool(self._pins or self._places or self._bans or self._damaged) or self._is_claim_void()
        )

    async def _commit(self) -> None:
        group, queued, shares = self._take_group()
        waiters, self._cursor_waiters = self._cursor_waiters, []
        self._under_way = [*waiters, *(share.call for share in shares)]
        try:
            done = await self._blocking.run("write", self._committer.commit, group, self._clock.wall_ms())
        except StoreError as error:
            # What nobody waits for is tried again; what somebody waits for is answered.
            self._pins = {**group.pins, **self._pins}
            self._places = {**group.places, **self._places}
            self._bans = {**group.bans, **self._bans}
            self._damaged = {**dict.fromkeys(group.damaged), **self._damaged}
            self._fail(error, queued, waiters, shares)
        else:
            self._tell(done, queued, waiters, shares)
        self._under_way = []
        await trio.lowlevel.checkpoint_if_cancelled()

    def _start_chore(self, beside: trio.Nursery) -> None:
        chore = self._store.chore()
        if chore is not None and not beside.child_tasks:
            beside.start_soon(self._run_chore, chore)

    @trio.lowlevel.enable_ki_protection
    async def _run_chore(self, chore: Callable[[], None]) -> None:
        with suppress(NoThread):  # the store names it again after the next commit
            await self._blocking.run("chore", chore)

    def _take_group(self) -> tuple[Group, list[_Queued], list[_Share]]:
        group = Group(
            cursors=self._cursors,
            pins=self._pins,
            places=self._places,
            bans=self._bans,
            damaged=tuple(self._damaged),
            drop_claim=self._is_claim_void(),
        )
        self._cursors, self._pins, self._places, self._bans, self._damaged = {}, {}, {}, {}, {}
        queued: list[_Queued] = []
        quotas: dict[PeerId, int] = {}
        room = self._limits.commit_bytes_max
        while self._jobs and room > 0:
            queued.append(self._jobs.popleft())
            job = queued[-1].job
            if isinstance(job, PushJob):
                room -= len(job.wal_bytes)
                origin = origin_of(job.wal_bytes)
                if origin is not None and origin != self.own and not self._is_unlimited(origin):
                    quotas[origin] = self._limits.origin_bytes_max
        group.jobs = [each.job for each in queued]
        group.quotas = quotas
        shares: list[_Share] = []
        if self._clock.monotonic() >= self._appends_wait_until():
            shares = list(self._take_shares(self._limits.commit_bytes_max))
            group.portions = [portion for share in shares for portion in share.portions]
        return group, queued, shares

    def _take_shares(self, room: float) -> Iterator[_Share]:
        """Take whole calls while they fit, and of a call that does not, as much as fits; a portion is not divided."""
        is_begun = False
        while self._appends and room > 0:
            call = self._appends[0]
            if call.is_dropped:
                self._appends.popleft()
                self._dropped -= 1
                continue
            start = stop = call.taken
            if start == 0 and (size := sum(len(portion.data) for portion in call.portions)) <= room:
                stop = len(call.portions)
                room -= size
            elif start == 0 and is_begun and len(call.portions) == 1:
                # It is durable as a whole or not at all.
                return
            else:
                while stop < len(call.portions) and room > 0:
                    room -= len(call.portions[stop].data)
                    stop += 1
            call.taken = stop
            is_begun = True
            if stop == len(call.portions):
                self._appends.popleft()
            share = _Share(call, call.portions[start:stop])
            self._release_room(_count(share.portions))
            yield share

    def _tell(
        self,
        done: Committed,
        queued: Sequence[_Queued],
        waiters: Sequence[_Waiting],
        shares: Sequence[_Share],
    ) -> None:
        """A commit is durable: tell everybody, in the order that the opening comment promises."""
        repaired = [
            _repair(origin, self._states[origin], state)
            for origin, state in done.states.items()
            if state is not None and _is_hurt(self._states.get(origin)) and not _is_hurt(state)
        ]
        moved = self._move(done.states)
        if done.own_ahead:
            self._renew_claim()
            now = self._clock.monotonic()
            if now >= self._quiet_until:
                self._emit(events.OwnLogAhead(done.own_ahead))
            self._quiet_until = now + self._limits.append_delay_on_claim_s_max
        for each, outcome in zip(queued, done.outcomes, strict=True):
            each.finish(outcome)
        for waiting in waiters:
            waiting.finish()
        self._finish_shares(done, shares)
        for damaged in done.damaged:
            self._quarantined[damaged.origin] += 1
            self._emit(events.BatchDamaged(damaged.origin, damaged.seq_begin))
        for event in repaired:
            self._emit(event)
        for proof in done.frozen:
            self._emit(events.ForkFound(proof.origin, proof.lower_seq))
        for origin in done.over_quota:
            if origin not in self._over_quota:
                self._over_quota.add(origin)
                self._emit(events.QuotaReached(origin))
        self.just_sealed = done.sealed
        self._announce(moved)
        self.just_sealed = ()
        self._wake_readers(frozenset(done.readable) - moved)

    def _finish_shares(self, done: Committed, shares: Sequence[_Share]) -> None:
        if done.unsealed is Unsealed.AHEAD:
            self._put_back(shares)
        elif done.unsealed is not None:
            error = self._reason_not_sealed()
            assert error is not None
            self._refuse(shares, error)
        elif shares:
            assert done.seq_first is not None
            seq = done.seq_first
            for share in shares:
                call, end = share.call, seq + _count(share.portions)
                call.seqs.extend(range(seq, end))
                seq = end
                if call.taken == len(call.portions):
                    call.finish()

    def _put_back(self, shares: Sequence[_Share]) -> None:
        """Our log turned out to be longer than we knew: these records wait until it is fetched back."""
        for share in reversed(shares):
            call, portions = share.call, share.portions
            if call.is_withdrawn:
                continue
            if call.taken == len(call.portions):
                self._appends.appendleft(call)
            call.taken -= len(portions)
            self._records_waiting += _count(portions)

    def _refuse(self, shares: Sequence[_Share], error: P2PError) -> None:
        for share in shares:
            self._drop_rest(share.call)
            share.call.finish(error)

    def _drop_rest(self, call: _Append) -> None:
        """Whatever no commit has taken of this call never will be."""
        if call.taken < len(call.portions):
            self._release_room(_count(call.portions[call.taken :]))
            call.taken = len(call.portions)
            call.is_dropped = True
            # Tens of thousands may run into one timeout: they stay in line, and go when they are the half of it.
            self._dropped += 1
            if self._dropped * 2 > len(self._appends):
                self._appends = deque(waiting for waiting in self._appends if not waiting.is_dropped)
                self._dropped = 0

    def _release_room(self, records: int) -> None:
        self._records_waiting -= records
        if self._records_waiting < self._limits.appends_waiting_max:
            self._room.unpark_all()

    def _move(self, states: Mapping[PeerId, OriginState | None]) -> frozenset[PeerId]:
        moved = set()
        for origin, state in states.items():
            if state is None:
                self._states.pop(origin, None)
                self._over_quota.discard(origin)
                if self._heads.pop(origin, None) is not None:
                    moved.add(origin)
            else:
                self._states[origin] = state
                if self._heads.get(origin) != state.head:
                    self._heads[origin] = state.head
                    moved.add(origin)
        return frozenset(moved)

    def _announce(self, moved: frozenset[PeerId]) -> None:
        if moved:
            self._emit(events.HeadsMoved(moved))
            self._wake_readers(moved)

    def _wake_readers(self, origins: frozenset[PeerId]) -> None:
        if origins:
            for subscriber in tuple(self._subscribers.values()):
                subscriber.on_moved(origins)

    def _take_over(self, taken: Taken) -> frozenset[PeerId]:
        """Put what the store says in the place of what we had."""
        if taken.damaged is not None:
            # The next commit begins with it, and so seals nothing.
            self._damaged[taken.damaged] = None
        gone = dict.fromkeys(self._states.keys() - taken.states.keys())
        return self._move({**gone, **taken.states})

    # Failing, and getting well.

    def _fail(
        self,
        error: StoreError,
        queued: Sequence[_Queued],
        waiters: Sequence[_Waiting],
        shares: Sequence[_Share],
    ) -> None:
        """A commit failed: nothing of it counts, and the store is read-only until it recovers."""
        self._failure = error
        self._retry_at = self._clock.monotonic() + self._limits.store_retry_s
        self._emit(events.StoreReadOnly(str(error)))
        for waiting in waiters:
            waiting.finish(error)
        self._refuse(shares, error)
        for each in queued:
            each.finish(self._not_stored(each.job))

    async def _endure(self) -> None:
        """Answer what waits while the store is read-only, and try whether it is well again."""
        error = self._reason_not_stored()
        self._cursors = {}
        waiters, self._cursor_waiters = self._cursor_waiters, []
        for waiting in waiters:
            waiting.finish(error)
        self._refuse(list(self._take_shares(math.inf)), error)
        while self._jobs:
            queued = self._jobs.popleft()
            queued.finish(self._not_stored(queued.job))
        if self._clock.monotonic() < self._retry_at:
            return
        self._retry_at = math.inf
        try:
            taken = await self._blocking.run("write", self._committer.recover)
        except StoreError as failure:
            self._failure = failure
            self._retry_at = self._clock.monotonic() + self._limits.store_retry_s
        else:
            self._failure = None
            moved = self._take_over(taken) | self._refused
            self._refused = set()
            self._emit(events.StoreWritable())
            # Origins whose pushes were refused are announced as well, so that their carriers begin again.
            self._announce(moved)
        await trio.lowlevel.checkpoint_if_cancelled()

    def _not_stored(self, job: Job) -> Outcome:
        if not isinstance(job, PushJob):
            return Verdict.NOT_STORED
        origin = origin_of(job.wal_bytes)
        seq = 0
        if origin is not None:
            seq = self._heads.get(origin, EMPTY_LOG).seq
            if job.admitted:
                self._refused.add(origin)
        ack = ack_value(Verdict.NOT_STORED, seq, job.seq_begin, job.seq_end)
        return PushOutcome(Verdict.NOT_STORED, origin, ack, str(self._failure))

    def _close(self) -> None:
        """Nothing will be written any more: let nobody wait for it."""
        self._is_closed = True
        error = NodeClosed(_CLOSED)
        for waiting in (*self._under_way, *self._cursor_waiters, *self._forgetting, *self._appends):
            if not waiting.over.is_set():
                waiting.finish(error)
        # One that is cancelled at this very moment must not look for itself in the queue.
        for call in tuple(self._appends):
            self._drop_rest(call)
        self._cursor_waiters.clear()
        self._jobs.clear()
        self._room.unpark_all()
        for subscriber in tuple(self._subscribers.values()):
            subscriber.on_close()

    # Reasons.

    def _check_open(self) -> None:
        if self._is_closed:
            raise NodeClosed(_CLOSED)

    def _check_writable(self) -> None:
        self._check_open()
        if self._failure is not None:
            raise self._reason_not_stored()
        error = self._reason_not_sealed()
        if error is not None:
            raise error

    def _reason_not_stored(self) -> P2PError:
        return NodeClosed(_CLOSED) if self._is_closed else StoreReadOnly(f"the store is read-only: {self._failure}")

    def _reason_not_sealed(self) -> P2PError | None:
        own = self._states.get(self.own)
        if own is None or (own.is_whole and not own.is_lost):
            return None
        if own.is_whole:
            if self._can_ask():
                return None
            return StoreCorrupt(_LOST.format(own.claimed_seq, own.seq, self._limits.own_claim_s_max / 60))
        if own.frozen_from is not None:
            return OwnLogForked(
                f"there is proof that this identity signed two histories, from seq {own.frozen_from} on: "
                "make a new identity with `p2p id --new` (the old log stays readable up to there, and with "
                "`p2p wal tail --beyond-fork` what it held from there on)"
            )
        return StoreCorrupt(
            f"this node's own log is damaged after seq {own.seq}: nothing can be appended until it is fetched back "
            "from a peer that holds it (see `p2p wal verify`); if none does, make a new identity with `p2p id --new`"
        )
