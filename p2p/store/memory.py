"""A store that lives as long as the process: for nodes that keep nothing, and for simulated worlds.

It behaves as the durable one in everything but surviving: a transaction that fails is taken back step by step.

Whoever uses it needs an identity made for this run. A known identity with an empty log would sign seq 1 a second time,
and that is a fork; so `open_memory_store` makes both together.
"""

from __future__ import annotations

import threading
import zlib
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import msgspec

from p2p.crypto.identity import Identity
from p2p.ids import PeerId
from p2p.policy.book import Address, BookPlace
from p2p.replication.accept import Held
from p2p.replication.batch import Batch
from p2p.replication.fork import Proof
from p2p.store.base import (
    TARGETS_MAX,
    Damage,
    DamagedRange,
    Loaded,
    OriginState,
    StoredBatch,
    Transaction,
    is_what_was_stored,
    parse_stored,
)
from p2p.store.check import check_chain, check_proof_kept
from p2p.windows import Entropy


class _Row(msgspec.Struct, frozen=True):
    """A batch and what is known of it without reading it."""

    held: Held
    signature_crc: int
    wal_bytes: bytes
    damaged: bool = False


class _Chain(msgspec.Struct):
    """One origin's batches by the seq they end at."""

    ends: list[int] = msgspec.field(default_factory=list)
    rows: dict[int, _Row] = msgspec.field(default_factory=dict)


class MemoryStore:
    """A `Store` in memory.

    Args:
        own: the identity it belongs to, made for this run.
    """

    def __init__(self, own: PeerId) -> None:
        self._own = own
        self._states: dict[PeerId, OriginState] = {}
        self.chains: dict[PeerId, _Chain] = {}
        self.proofs: dict[PeerId, tuple[bytes, bytes]] = {}
        self.follower_cursors: dict[tuple[str, PeerId], int] = {}
        self.label_pins: dict[str, tuple[PeerId, int]] = {}
        self.places: dict[Address, BookPlace] = {}
        self.peers_banned: dict[PeerId, int] = {}
        self.targets: dict[PeerId, frozenset[PeerId] | None] = {}
        """By origin; None for more than it has room for."""
        # The two lanes are two threads: a reader must not see half a transaction.
        self._lock = threading.Lock()

    @property
    def own(self) -> PeerId:
        """The identity this store belongs to."""
        return self._own

    def copy(self) -> MemoryStore:
        """Another store with the same content, which goes its own way from here."""
        other = MemoryStore(self._own)
        with self._lock:
            other._states = self._states
            other.chains = {origin: _Chain([*it.ends], {**it.rows}) for origin, it in self.chains.items()}
            for table in ("proofs", "follower_cursors", "label_pins", "places", "peers_banned", "targets"):
                setattr(other, table, {**getattr(self, table)})
        return other

    @contextmanager
    def write(self, *, is_bulk: bool = False) -> Iterator[Transaction]:
        """Open a transaction; an exception in the block takes all of it back."""
        with self._lock:
            transaction = _MemoryTransaction(self, self._states)
            try:
                yield transaction
            except BaseException:
                transaction.undo()
                raise
            self._states = _merged(self._states, transaction.changed)

    def current(self) -> Mapping[PeerId, OriginState]:
        """What is held as of the last transaction."""
        return self._states

    def look_through(self) -> None:
        """There is nothing else."""

    def chore(self) -> None:
        """There is none."""

    def recover(self) -> None:
        """Nothing to do: memory does not fail."""

    def states(self) -> dict[PeerId, OriginState]:
        """What is held."""
        return dict(self._states)

    def load(self, origin: PeerId, from_seq: int, to_seq: int, bytes_max: int) -> Loaded:
        """Read the batch that covers `from_seq`, and those after it, up to `to_seq` and `bytes_max`."""
        batches: list[StoredBatch] = []
        size = 0
        next_seq = max(from_seq, 1)
        with self._lock:
            chain = self.chains.get(origin, _Chain())
            for end in chain.ends[bisect_left(chain.ends, from_seq) :]:
                row = chain.rows[end]
                begin = row.held.seq_begin
                if end > to_seq:
                    break
                if not row.damaged and begin > next_seq:
                    return Loaded(batches, DamagedRange(origin, next_seq, begin - 1))
                if row.damaged or not is_what_was_stored(row.wal_bytes, origin, row.held, row.signature_crc):
                    return Loaded(batches, DamagedRange(origin, begin, end))
                size += len(row.wal_bytes)
                if batches and size > bytes_max:
                    break
                batches.append(StoredBatch(begin, end, row.wal_bytes))
                next_seq = end + 1
        return Loaded(batches, None)

    def proof(self, origin: PeerId) -> tuple[bytes, bytes] | None:
        """The two batches that prove the origin's fork."""
        return self.proofs.get(origin)

    def cursors(self, name: str) -> dict[PeerId, int]:
        """How far the follower has committed, per origin."""
        with self._lock:
            return {origin: seq for (follower, origin), seq in self.follower_cursors.items() if follower == name}

    def origins_for(self, target: PeerId, count_max: int) -> list[PeerId]:
        """Origins with records for a target, ascending."""
        with self._lock:
            found = (origin for origin, targets in self.targets.items() if targets is None or target in targets)
            return sorted(found)[:count_max]

    def pins(self) -> dict[str, PeerId]:
        """Weak pins of labels, the one seen longest ago first."""
        with self._lock:
            oldest_first = sorted(self.label_pins.items(), key=lambda item: (item[1][1], item[0]))
            return {node_id: peer_id for node_id, (peer_id, _) in oldest_first}

    def book(self) -> list[BookPlace]:
        """The places where peers were met, the one that was good longest ago first."""
        with self._lock:
            return sorted(self.places.values(), key=lambda place: (place.good_ms, place.endpoint.address))

    def bans(self) -> dict[PeerId, int]:
        """Who is left alone, and until when, the one that ends first first."""
        with self._lock:
            return dict(sorted(self.peers_banned.items(), key=lambda item: (item[1], item[0])))

    def verify(self) -> Iterator[Damage]:
        """Check everything; yields what is wrong."""
        for origin, state in sorted(self._states.items()):
            chain = self.chains.get(origin, _Chain())
            filed = sorted(chain.rows.values(), key=lambda row: (row.held.seq_begin, row.held.seq_end, row.held.hash))
            rows = ((row.held, row.wal_bytes, row.signature_crc, row.damaged) for row in filed)
            yield from check_chain(origin, state, rows)
            yield from check_proof_kept(origin, state, self.proofs.get(origin))

    def close(self) -> None:
        """Nothing to do. What was stored stays until the object goes."""


class _MemoryTransaction(Transaction):
    """Writes at once and remembers how to take it back."""

    def __init__(self, store: MemoryStore, base: Mapping[PeerId, OriginState]) -> None:
        super().__init__(store.own, base)
        self._store = store
        self._undo: list[Callable[[], object]] = []

    def undo(self) -> None:
        """Take everything back, the last first."""
        while self._undo:
            self._undo.pop()()

    def foresee(self, size: int, pieces: Sequence[bytes]) -> None:
        """It is written when it is whole."""

    def set_cursor(self, name: str, origin: PeerId, seq: int) -> None:
        cursors = self._store.follower_cursors
        before = cursors.get((name, origin))
        if before is None:
            self._undo.append(lambda: cursors.pop((name, origin)))
            cursors[name, origin] = seq
        elif seq > before:
            self._undo.append(lambda: cursors.__setitem__((name, origin), before))
            cursors[name, origin] = seq

    def set_pin(self, node_id: str, peer_id: PeerId, seen_ms: int, pins_max: int) -> None:
        before = dict(self._store.label_pins)
        self._undo.append(lambda: setattr(self._store, "label_pins", before))
        pins = self._store.label_pins
        pins[node_id] = (peer_id, seen_ms)
        while len(pins) > pins_max:
            del pins[min(pins, key=lambda label: (pins[label][1], label))]

    def drop_pin(self, node_id: str) -> None:
        """The label is free again. Nothing happens if it was."""
        before = dict(self._store.label_pins)
        self._undo.append(lambda: setattr(self._store, "label_pins", before))
        self._store.label_pins.pop(node_id, None)

    def set_place(self, place: BookPlace) -> None:
        self._remember("places")
        self._store.places[place.endpoint.address] = place

    def drop_place(self, address: Address) -> None:
        self._remember("places")
        self._store.places.pop(address, None)

    def set_ban(self, peer_id: PeerId, until_ms: int, bans_max: int) -> None:
        self._remember("peers_banned")
        bans = self._store.peers_banned
        bans[peer_id] = until_ms
        while len(bans) > bans_max:
            del bans[min(bans, key=lambda who: (bans[who], who))]

    def drop_ban(self, peer_id: PeerId) -> None:
        self._remember("peers_banned")
        self._store.peers_banned.pop(peer_id, None)

    def _remember(self, table: str) -> None:
        """Keep a small table as it is now, for `undo`."""
        before = dict(getattr(self._store, table))
        self._undo.append(lambda: setattr(self._store, table, before))

    def _chain(self, origin: PeerId) -> _Chain:
        return self._store.chains.setdefault(origin, _Chain())

    def _find(self, origin: PeerId, seq_begin: int, seq_end: int) -> Held | None:
        chain = self._chain(origin)
        for end in chain.ends[bisect_left(chain.ends, seq_begin) :]:
            row = chain.rows[end]
            if row.held.seq_begin > seq_end:
                return None
            if not row.damaged:
                return row.held
        return None

    def _read(self, origin: PeerId, held: Held) -> Batch | None:
        row = self._chain(origin).rows[held.seq_end]
        if not is_what_was_stored(row.wal_bytes, origin, held, row.signature_crc):
            return None
        return parse_stored(row.wal_bytes)

    def _below(self, origin: PeerId, seq: int) -> Held | None:
        chain = self._chain(origin)
        for end in reversed(chain.ends[: bisect_left(chain.ends, seq)]):
            if not chain.rows[end].damaged:
                return chain.rows[end].held
        return None

    def _insert(self, batch: Batch) -> None:
        chain = self._chain(batch.origin)
        held = Held(batch.seq_begin, batch.seq_end, batch.hash)
        chain.rows[batch.seq_end] = _Row(held, zlib.crc32(batch.signature), batch.wal_bytes)
        insort(chain.ends, batch.seq_end)
        self._undo.append(lambda: self._remove(chain, batch.seq_end))

    def _index(self, origin: PeerId, targets: frozenset[PeerId]) -> None:
        index = self._store.targets
        before = index.get(origin, frozenset())
        if before is None or targets <= before:
            return
        self._undo.append(partial(index.__setitem__, origin, before))
        after = before | targets
        index[origin] = after if len(after) < TARGETS_MAX else None

    def _insert_proof(self, proof: Proof) -> None:
        self._store.proofs[proof.origin] = (proof.first.wal_bytes, proof.second.wal_bytes)
        self._undo.append(lambda: self._store.proofs.pop(proof.origin))

    def _mark_damaged(self, origin: PeerId, seq_begin: int, seq_end: int) -> bool:
        rows = self._chain(origin).rows
        row = rows.get(seq_end)
        if row is None or row.damaged or row.held.seq_begin != seq_begin:
            return False
        rows[seq_end] = msgspec.structs.replace(row, damaged=True)
        self._undo.append(lambda: rows.__setitem__(seq_end, row))
        return True

    def _drop_damaged(self, origin: PeerId, seq_begin: int, seq_end: int) -> None:
        chain = self._chain(origin)
        for end in chain.ends[bisect_left(chain.ends, seq_begin) :]:
            row = chain.rows[end]
            if row.held.seq_begin > seq_end:
                break
            # One below the head that is damaged, too, and not marked: this very batch takes its place.
            is_itself = (row.held.seq_begin, end) == (seq_begin, seq_end)
            assert row.damaged or is_itself, "a whole batch in the range is a duplicate or a fork"
            self._remove(chain, end)
            self._undo.append(partial(self._restore, chain, end, row))

    def _erase(self, origin: PeerId) -> None:
        store = self._store
        chain = store.chains.pop(origin, None)
        proof = store.proofs.pop(origin, None)
        cursors = {key: seq for key, seq in store.follower_cursors.items() if key[1] == origin}
        for key in cursors:
            del store.follower_cursors[key]
        targets = store.targets.pop(origin, frozenset())

        def restore() -> None:
            if chain is not None:
                store.chains[origin] = chain
            if proof is not None:
                store.proofs[origin] = proof
            store.follower_cursors.update(cursors)
            store.targets[origin] = targets

        self._undo.append(restore)

    @staticmethod
    def _remove(chain: _Chain, end: int) -> None:
        del chain.rows[end]
        chain.ends.remove(end)

    @staticmethod
    def _restore(chain: _Chain, end: int, row: _Row) -> None:
        chain.rows[end] = row
        insort(chain.ends, end)


def _merged(
    states: Mapping[PeerId, OriginState], changed: Mapping[PeerId, OriginState | None]
) -> dict[PeerId, OriginState]:
    merged = {**states, **{origin: state for origin, state in changed.items() if state is not None}}
    for origin, state in changed.items():
        if state is None:
            merged.pop(origin, None)
    return merged


def open_memory_store(entropy: Entropy) -> tuple[MemoryStore, Identity]:
    """Make an identity for this run, and a store for it."""
    identity = Identity.generate(entropy)
    return MemoryStore(identity.peer_id), identity
