"""What every store promises, and the part of it that does not depend on where the bytes lie.

A store keeps, for every origin, a chain of sealed batches; and beside them fork proofs, consumer cursors and weak pins
of labels. It is blocking code without tasks or clocks. One thread at a time writes (lane "write"), one at a time
reads (lane "read"); the two do not wait for each other.

How a chain is kept. The **head** is the end of the contiguous, undamaged part: what is served and advertised. The
**tail** is the highest seq that was ever stored. They differ only after damage: a batch that fails its hash is marked,
the head goes down to the batch before it, and what lies above stays where it is. When the damaged batch has been
fetched again, the head runs up through what is still there. So nothing is transferred twice, and the owner of a log
can tell from head < tail that it must not sign anything before its own log is whole.

A frozen origin keeps its batches too, but its head never reaches the proof's lower_seq again.

Everything is written through a `Transaction`: all of it is durable when `Store.write` ends, or none of it.

Source: replication sections 2, 4 and 5.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

import msgspec

from p2p.binary import read_varint
from p2p.errors import RemoteProtocolError, StoreError
from p2p.ids import PeerId
from p2p.limits import USUAL
from p2p.policy.book import Address, BookPlace
from p2p.replication.accept import Held
from p2p.replication.batch import Batch, parse_batch, verify_signature
from p2p.replication.fork import Proof, make_proof
from p2p.replication.heads import ZERO_HASH, LogHead

LOCK_FILE: Final = "lock"
"""Beside a store's file; locked by the process that has it open."""
TARGETS_MAX: Final = USUAL.targets_per_origin_max
"""With so many targets an origin's records may be for anybody, as far as the index of them says."""
_START: Final = struct.Struct("<B32sQ")

MOVE_FILE: Final = (
    "move log.sqlite* out of the data dir, leave identity.pem there, and start the node with --connect ADDRESS of a "
    "peer that holds the logs: they are fetched again. Until then append nothing: it would fork the own log"
)
"""What to do about a file that is damaged beyond that."""
MEND_FILE: Final = (
    "stop the node and run `p2p wal mend`: it writes the file anew with everything that can be read, and keeps the "
    "damaged one. Then start the node with a peer that holds the logs: what is missing is fetched from it"
)
"""What to do about a file whose structure is damaged."""
WHOLE_FILE: Final = f"If `p2p wal verify` finds the file damaged, run `p2p wal mend`; if that cannot, {MOVE_FILE}"
"""What to do when the store cannot be used as a whole."""
_FETCHED: Final = (
    "start the node with a peer that holds this log: what is damaged is fetched again as soon as it is read, "
    "and a running node reads everything, 1 MiB a second from its start on"
)
_MISSING: Final = "start the node with a peer that holds this log: what is missing is fetched from it"
OWNER: Final = (
    "if identity.pem was changed, put the right one back from a backup. If it was not, the store is damaged: "
    + MOVE_FILE
)
_PUT_RIGHT: Final = "start the node: it puts this right from the log itself"
_MADE_ANEW: Final = "start the node: it makes this table anew, and no log loses anything"
_FORGET: Final = "another node's log: `p2p wal forget ORIGIN`, and peers bring it back. This node's own: "


def detail_of(error: StoreError) -> str:
    """What is wrong, without the advice to run `p2p wal verify`: for what that command says itself."""
    return str(error).removesuffix(f". {WHOLE_FILE}")


class StoredBatch(msgspec.Struct, frozen=True):
    """A batch as it lies in the store; its hash was checked when it was read."""

    seq_begin: int
    seq_end: int
    wal_bytes: bytes


class OriginState(msgspec.Struct, frozen=True):
    """What is held of one origin.

    Attributes:
        seq, hash: the head.
        tail_seq: highest seq ever stored; above `seq` only while something is damaged, or after a fork.
        size: bytes of batches that were stored, damaged ones that were replaced included.
        frozen_from: the proof's lower_seq when the origin is frozen.
        lost_seq: where the tail was when something of the log was found damaged or missing: the tail, said twice.
        claimed_seq: our own log only: somebody who delivered what this store had lost showed it up to here. Nobody's
            signature says so.
    """

    seq: int = 0
    hash: bytes = ZERO_HASH
    tail_seq: int = 0
    size: int = 0
    frozen_from: int | None = None
    lost_seq: int = 0
    claimed_seq: int = 0

    @property
    def head(self) -> LogHead:
        """The head as it is shown to others."""
        return LogHead(self.seq, self.hash, self.frozen_from is not None)

    @property
    def is_whole(self) -> bool:
        """Whether nothing between the beginning and the tail is damaged, and no fork is proven."""
        return self.seq == self.tail_seq and self.frozen_from is None

    @property
    def is_lost(self) -> bool:
        """Whether somebody who is believed for a while shows more of this log, our own, than is held."""
        return self.seq < self.claimed_seq and self.frozen_from is None


class DamagedRange(msgspec.Struct, frozen=True):
    """Where a batch was found that is not what was stored."""

    origin: PeerId
    seq_begin: int
    seq_end: int


class Loaded(msgspec.Struct, frozen=True):
    """What `LogReader.load` found: whole batches in order, and the damaged one that ended the search, if any."""

    batches: list[StoredBatch]
    damaged: DamagedRange | None


class Damage(msgspec.Struct, frozen=True):
    """One finding of `verify`.

    Attributes:
        what: "file", "hints" (a table that holds nothing of the logs), "owner", "hash", "bytes", "chain", "signature",
            "head", "end" or "proof".
        origin: whose log; None for damage to the file itself, or to the key beside it.
        seq_begin: the batch it was found at, where there is one.
        detail: one line.
    """

    what: str
    origin: PeerId | None
    seq_begin: int | None
    detail: str

    @property
    def remedy(self) -> str:
        """What to do about it, in one line."""
        if self.what in ("hash", "bytes"):
            return _FETCHED
        if self.what == "end":
            return _MISSING
        if self.what == "head":
            return _PUT_RIGHT
        if self.what == "owner":
            return OWNER
        if self.what == "hints":
            return _MADE_ANEW
        return MEND_FILE if self.what == "file" else _FORGET + MOVE_FILE

    def __str__(self) -> str:
        where = "" if self.origin is None else f" in the log of {self.origin}"
        at = "" if self.seq_begin is None else f" at seq {self.seq_begin}"
        return f"{self.what}{where}{at}: {self.detail}"


class LogReader(Protocol):
    """The reading half. A tool beside a running node has only this."""

    @property
    def own(self) -> PeerId:
        """The identity this store belongs to."""

    def states(self) -> dict[PeerId, OriginState]:
        """Everything that is held, read anew."""

    def load(self, origin: PeerId, from_seq: int, to_seq: int, bytes_max: int) -> Loaded:
        """Read the batch that covers `from_seq`, and those after it, up to one that is quarantined.

        Args:
            to_seq: no batch that ends above it.
            bytes_max: no batch is added beyond so many bytes; the first one is returned whatever its size.

        Raises:
            StoreError: the store cannot be read at all.
        """

    def proof(self, origin: PeerId) -> tuple[bytes, bytes] | None:
        """The two batches that prove the origin's fork."""

    def cursors(self, name: str) -> dict[PeerId, int]:
        """How far the follower `name` has committed, per origin."""

    def origins_for(self, target: PeerId, count_max: int) -> list[PeerId]:
        """Origins with records for a target, ascending; among them may be some whose records were frozen or damaged
        since, and those with records for very many.

        Args:
            count_max: how many at the most.
        """

    def pins(self) -> dict[str, PeerId]:
        """Weak pins of labels, the one seen longest ago first."""

    def book(self) -> list[BookPlace]:
        """The places where peers were met, the one that was good longest ago first."""

    def bans(self) -> dict[PeerId, int]:
        """Who is left alone, and until when (Unix milliseconds), the one that ends first first."""

    def verify(self) -> Iterator[Damage]:
        """Check every hash, chain, signature, head and proof; yields what is wrong."""

    def close(self) -> None:
        """Give everything back. Never raises for a disk."""


class Store(LogReader, Protocol):
    """A whole store: one owner at a time."""

    def write(self, *, is_bulk: bool = False) -> AbstractContextManager[Transaction]:
        """Open a transaction. It is durable when the block ends; an exception takes all of it back.

        Args:
            is_bulk: it will do nothing, as far as can be told, but append a lot to logs.

        Raises:
            NotBulk: it did something else as well; from the block's end.
            StoreFull, StoreCorrupt, StoreError: it could not be written; from the block's end, too. Nothing may be
                written after that before `recover` succeeded.
        """

    def current(self) -> Mapping[PeerId, OriginState]:
        """What is held as of the last commit. Lane "write"; the next commit may change the mapping."""

    def chore(self) -> Callable[[], None] | None:
        """What should be done beside the commits, on the lane "chore", if there is anything now. It never raises for a
        disk, and does nothing if it was done meanwhile."""

    def look_through(self) -> str | None:
        """Check what lies between what is read. Lane "chore".

        Returns:
            What is damaged, and is put right when the store is opened next.

        Raises:
            StoreError: it cannot be read.
        """

    def recover(self) -> None:
        """Make the store fit for writing after a failure: new handle, all that was written brought to the disk again,
        heads read anew, and one write tried.

        Raises:
            StoreError: it is not fit yet.
        """


class NotBulk(Exception):
    """A transaction that was to add a lot to logs, and nothing else, did more. It was taken back, and nothing of it was
    written anywhere. It is done again: the next one may do anything."""


class Transaction(ABC):
    """One write to a store, and a `LogView` of what it holds by now.

    Attributes:
        changed: the origins whose state this transaction moved.
        damaged: what it found damaged on its way.
        quotas: how many bytes an origin may take, for those that have a bound; the writer of the store sets it.
        filed_hlc: the last timestamp of what the store had of our own log beyond a gap that is closed now; else 0.
    """

    def __init__(self, own: PeerId, base: Mapping[PeerId, OriginState]) -> None:
        self.own = own
        self.changed: dict[PeerId, OriginState | None] = {}
        self.damaged: list[DamagedRange] = []
        self.quotas: Mapping[PeerId, int] = {}
        self.filed_hlc = 0
        self._base = base

    # The view that decisions are made over.

    def state(self, origin: PeerId) -> OriginState:
        """What is held of the origin, this transaction's own writes included."""
        if origin in self.changed:
            return self.changed[origin] or _EMPTY
        return self._base.get(origin, _EMPTY)

    def head(self, origin: PeerId) -> LogHead:
        """The origin's head, `EMPTY_LOG` when nothing is held."""
        return self.state(origin).head

    def frozen_from(self, origin: PeerId) -> int | None:
        """The proof's lower_seq when the origin is frozen."""
        return self.state(origin).frozen_from

    def has_room(self, origin: PeerId, size: int) -> bool:
        """Whether the origin may grow by so many bytes. What replaces damage found its room before."""
        quota = self.quotas.get(origin)
        state = self.state(origin)
        if quota is None or (state.seq < state.tail_seq and state.frozen_from is None):
            return True
        return state.size + size <= quota

    def held_within(self, origin: PeerId, seq_begin: int, seq_end: int) -> Held | None:
        """The first undamaged batch that shares a seq with the range."""
        if seq_begin > self.state(origin).tail_seq:
            return None
        return self._find(origin, seq_begin, seq_end)

    def held_batch(self, origin: PeerId, held: Held) -> Batch | None:
        """Read that batch; if it is not what was stored, quarantine it and return None."""
        batch = self._read(origin, held)
        if batch is None:
            self.quarantine(DamagedRange(origin, held.seq_begin, held.seq_end))
        return batch

    # What can be written.

    def append(self, batch: Batch) -> None:
        """Store the batch that follows the head."""
        origin = batch.origin
        state = self.state(origin)
        assert (batch.seq_begin, batch.prev_hash) == (state.seq + 1, state.hash)
        assert state.frozen_from is None or batch.seq_end < state.frozen_from
        if batch.seq_begin <= state.tail_seq:
            self._drop_damaged(origin, batch.seq_begin, batch.seq_end)
        self._insert(batch)
        if batch.targets:
            self._index(origin, batch.targets)
        self.changed[origin] = msgspec.structs.replace(
            state,
            seq=batch.seq_end,
            hash=batch.hash,
            tail_seq=max(state.tail_seq, batch.seq_end),
            size=state.size + len(batch.wal_bytes),
        )
        if batch.seq_end < state.tail_seq:
            self._rejoin(batch)

    def freeze(self, proof: Proof) -> None:
        """Keep the proof and freeze its origin. One proof is enough: a later one changes nothing."""
        origin = proof.origin
        state = self.state(origin)
        if state.frozen_from is not None:
            return
        self._insert_proof(proof)
        frozen = msgspec.structs.replace(state, frozen_from=proof.lower_seq)
        if state.seq >= proof.lower_seq:
            below = self._below(origin, proof.lower_seq) or Held(0, 0, ZERO_HASH)
            frozen = msgspec.structs.replace(frozen, seq=below.seq_end, hash=below.hash)
        self.changed[origin] = frozen

    def quarantine(self, damaged: DamagedRange) -> None:
        """Mark a batch as damaged: it is never served again, and the head goes down to the one before it.

        If no such batch is filed, the range may be one that a damaged chain does not name any more.
        """
        origin, seq_begin, seq_end = damaged.origin, damaged.seq_begin, damaged.seq_end
        if seq_begin > self.state(origin).tail_seq:
            return
        is_filed = self._mark_damaged(origin, seq_begin, seq_end)
        if not is_filed and not self._is_missing(origin, seq_begin, seq_end):
            return
        state = self.state(origin)
        if seq_begin <= state.seq:
            # Where a batch that is filed says that it begins may be what is damaged: nothing else ends in between.
            seq, batch_hash = self._whole_below(origin, min(seq_end, state.seq + 1) if is_filed else seq_begin)
            damaged = DamagedRange(origin, seq + 1, seq_end)
            # Noted beside the tail: should the chain lose its end as well, one of the two would pass for a flipped bit.
            lost_seq = max(state.lost_seq, state.tail_seq)
            self.changed[origin] = msgspec.structs.replace(state, seq=seq, hash=batch_hash, lost_seq=lost_seq)
        self.damaged.append(damaged)

    def _whole_below(self, origin: PeerId, seq: int) -> tuple[int, bytes]:
        """End and hash of the last batch that ends below `seq` and is what was stored; (0, ZERO_HASH) if none is."""
        # One that is not need not be marked: it is found out when it is pushed anew.
        while (held := self._below(origin, seq)) is not None and self._read(origin, held) is None:
            seq = held.seq_end
        return (0, ZERO_HASH) if held is None else (held.seq_end, held.hash)

    def _is_missing(self, origin: PeerId, seq_begin: int, seq_end: int) -> bool:
        """Whether the head stands for records of the range, and no batch is filed that can have them."""
        state = self.state(origin)
        if seq_begin > state.seq:
            return False
        held = self._find(origin, seq_begin, seq_end)
        return held is None or held.seq_end > state.tail_seq

    def note_claim(self, seq: int) -> None:
        """Somebody shows our own log up to `seq`: that stays known, also over a restart, until `drop_claim`."""
        state = self.state(self.own)
        if seq > state.claimed_seq:
            self.changed[self.own] = msgspec.structs.replace(state, claimed_seq=seq)

    def drop_claim(self) -> None:
        """What was shown of our own log is not believed any more."""
        state = self.state(self.own)
        if state.claimed_seq:
            self.changed[self.own] = msgspec.structs.replace(state, claimed_seq=0)

    def forget(self, origin: PeerId) -> None:
        """Drop everything held of the origin: batches, proof and cursors."""
        assert origin != self.own
        self._erase(origin)
        self.changed[origin] = None

    @abstractmethod
    def foresee(self, size: int, pieces: Sequence[bytes]) -> None:
        """A batch of our own is appended next: of so many bytes, which begin with these. A store may begin to write it,
        and has to take that back if the transaction fails."""

    @abstractmethod
    def set_cursor(self, name: str, origin: PeerId, seq: int) -> None:
        """Note that the follower `name` is done with the origin's records up to `seq`. Never goes back."""

    @abstractmethod
    def set_pin(self, node_id: str, peer_id: PeerId, seen_ms: int, pins_max: int) -> None:
        """Remember whose label `node_id` is; of more than `pins_max`, those seen longest ago go."""

    @abstractmethod
    def drop_pin(self, node_id: str) -> None:
        """The label is free again. Nothing happens if it was."""

    @abstractmethod
    def set_place(self, place: BookPlace) -> None:
        """Write a place into the address book, in place of what it said of that address."""

    @abstractmethod
    def drop_place(self, address: Address) -> None:
        """Take a place out of the address book, if it is there."""

    @abstractmethod
    def set_ban(self, peer_id: PeerId, until_ms: int, bans_max: int) -> None:
        """Leave an identity alone until then; of more than `bans_max`, those that end first go."""

    @abstractmethod
    def drop_ban(self, peer_id: PeerId) -> None:
        """Take a ban back, if there is one."""

    # What a store has to bring along.

    @abstractmethod
    def _find(self, origin: PeerId, seq_begin: int, seq_end: int) -> Held | None:
        """The first undamaged batch in the range."""

    @abstractmethod
    def _read(self, origin: PeerId, held: Held) -> Batch | None:
        """Its content, None if that is not what was stored."""

    @abstractmethod
    def _below(self, origin: PeerId, seq: int) -> Held | None:
        """The last undamaged batch that ends below `seq`."""

    @abstractmethod
    def _insert(self, batch: Batch) -> None: ...

    @abstractmethod
    def _index(self, origin: PeerId, targets: frozenset[PeerId]) -> None:
        """Note that the origin has records for these, or, with `TARGETS_MAX` of them, for anybody."""

    @abstractmethod
    def _insert_proof(self, proof: Proof) -> None: ...

    @abstractmethod
    def _mark_damaged(self, origin: PeerId, seq_begin: int, seq_end: int) -> bool:
        """Mark it; False if there is no such batch, or it is marked already."""

    @abstractmethod
    def _drop_damaged(self, origin: PeerId, seq_begin: int, seq_end: int) -> None:
        """Remove the marked batches in the range, whose place a whole one takes."""

    @abstractmethod
    def _erase(self, origin: PeerId) -> None: ...

    def _rejoin(self, last: Batch) -> None:
        """After a damaged batch was replaced: move the head through what is still held above it."""
        origin = last.origin
        while (held := self._find(origin, last.seq_end + 1, last.seq_end + 1)) is not None:
            frozen_from = self.state(origin).frozen_from
            if held.seq_begin != last.seq_end + 1 or (frozen_from is not None and held.seq_end >= frozen_from):
                return
            batch = self.held_batch(origin, held)
            if batch is None:
                return
            if batch.prev_hash != last.hash:
                # Both were signed, and both were accepted at their time: the owner forked its log in between.
                if verify_signature(batch):
                    self.freeze(make_proof(last, batch))
                else:
                    self.quarantine(DamagedRange(origin, held.seq_begin, held.seq_end))
                return
            self.changed[origin] = msgspec.structs.replace(self.state(origin), seq=batch.seq_end, hash=batch.hash)
            if origin == self.own:
                self.filed_hlc = batch.last_hlc
            last = batch


_EMPTY: Final = OriginState()


def is_what_was_stored(wal_bytes: object, origin: PeerId, held: Held, signature_crc: int) -> bool:
    """Whether bytes read back are the batch that was stored under this range and hash.

    The hash covers all but the signature, the checksum the rest; the header is compared because the range that they
    are filed under may be what is damaged.
    """
    if not isinstance(wal_bytes, bytes) or len(wal_bytes) < _START.size + 64:
        return False
    _, stored_origin, seq_begin = _START.unpack_from(wal_bytes)
    return (
        stored_origin == origin
        and seq_begin == held.seq_begin
        and _count_of(wal_bytes) == held.seq_end - held.seq_begin + 1
        and hashlib.sha256(memoryview(wal_bytes)[:-64]).digest() == held.hash
        and zlib.crc32(wal_bytes[-64:]) == signature_crc
    )


def _count_of(wal_bytes: bytes) -> int:
    try:
        return read_varint(wal_bytes, _START.size)[0]
    except RemoteProtocolError:
        return 0


def parse_stored(wal_bytes: bytes) -> Batch | None:
    """Read a stored batch; None if it is none."""
    try:
        return parse_batch(wal_bytes)
    except RemoteProtocolError:
        return None
