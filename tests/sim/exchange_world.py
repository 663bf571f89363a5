"""A world of pure `Exchange` machines: no task, no socket, no store, one virtual clock, one seed.

Nodes keep honest logs in memory, apply pushes in groups after a delay (a commit), answer loads after a delay (a read)
and are joined by links whose two directions keep their order and nothing else: messages of different links overtake
each other freely. Links break, and lose what is on the way; nodes restart with what was durable.

Batches are real but for their signature, which nobody here checks.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import count, pairwise
from typing import Protocol

from p2p.errors import RemoteProtocolError
from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.msg import AnyMessage, ForkProof, HeadEntry, WalAck, WalHeads, WalPush
from p2p.replication.accept import Verdict, ack_value
from p2p.replication.batch import Batch, NewRecord, encode_portions, parse_batch, seal
from p2p.replication.exchange import DoubtClaim, Exchange, HoldAppends, Penalize, ReleaseAppends, TrustClaim
from p2p.replication.heads import EMPTY_LOG, ZERO_HASH, LogHead
from p2p.replication.sync import Load, LoadKind


def peer_id(number: int) -> PeerId:
    """A name that is no key; nothing is signed here."""
    return PeerId(number.to_bytes(2, "big") * 16)


def make_batch(origin: PeerId, log: list[Batch], records: int, size: int, mark: bytes = b"") -> Batch:
    """Seal the batch that follows the log."""
    portions = encode_portions([NewRecord("app", None, mark + bytes(size))] * records)
    begin, prev_hash = (log[-1].seq_end + 1, log[-1].hash) if log else (1, ZERO_HASH)
    return seal(
        origin=origin, seq_begin=begin, prev_hash=prev_hash, base_hlc=1, portions=portions, sign=lambda _: bytes(64)
    )


class Log:
    """What one node holds, durably."""

    def __init__(self) -> None:
        self.batches: dict[PeerId, list[Batch]] = {}
        self.heads: dict[PeerId, LogHead] = {}
        self.proofs: dict[PeerId, ForkProof] = {}

    def add(self, batch: Batch) -> None:
        self.batches.setdefault(batch.origin, []).append(batch)
        self.heads[batch.origin] = LogHead(batch.seq_end, batch.hash, batch.origin in self.proofs)

    def cut(self, origin: PeerId, keep: int) -> None:
        """Damage or a backup brought back: only the first `keep` batches are left."""
        del self.batches[origin][keep:]
        last = self.batches[origin][-1] if keep else None
        seq, last_hash = (last.seq_end, last.hash) if last else (0, ZERO_HASH)
        self.heads[origin] = LogHead(seq, last_hash, origin in self.proofs)

    def covering(self, origin: PeerId, seq: int) -> int | None:
        """Index of the batch that holds `seq`."""
        for index, batch in enumerate(self.batches.get(origin, ())):
            if batch.seq_begin <= seq <= batch.seq_end:
                return index
        return None

    def load(self, origin: PeerId, from_seq: int, bytes_max: int) -> list[Batch]:
        index = self.covering(origin, from_seq)
        found: list[Batch] = []
        if index is not None:
            for batch in self.batches[origin][index:]:
                if found and bytes_max < len(batch.wal_bytes):
                    break
                found.append(batch)
                bytes_max -= len(batch.wal_bytes)
        return found

    def freeze(self, proof: ForkProof) -> PeerId:
        first, second = parse_batch(proof.first), parse_batch(proof.second)
        origin = first.origin
        if origin not in self.proofs:
            self.proofs[origin] = proof
            lower = min(first.seq_begin, second.seq_begin)
            held = self.batches.setdefault(origin, [])
            while held and held[-1].seq_end >= lower:
                held.pop()
            self.cut(origin, len(held))
        return origin

    def judge(self, push: WalPush, admitted: bool) -> tuple[Verdict, Batch]:
        batch = parse_batch(push.wal_bytes)
        origin = batch.origin
        if not admitted:
            return Verdict.LEFT_ALONE, batch
        if origin in self.proofs:
            proof = self.proofs[origin]
            if batch.seq_end >= min(parse_batch(proof.first).seq_begin, parse_batch(proof.second).seq_begin):
                return Verdict.LEFT_ALONE, batch
        head = self.heads.get(origin, EMPTY_LOG)
        if batch.seq_begin == head.seq + 1 and batch.prev_hash == head.hash:
            self.add(batch)
            return Verdict.APPLIED, batch
        if batch.seq_begin > head.seq + 1:
            return Verdict.GAP, batch
        index = self.covering(origin, max(batch.seq_begin - (batch.seq_begin == head.seq + 1), 1))
        assert index is not None
        held = self.batches[origin][index]
        if held.hash == batch.hash:
            return Verdict.DUPLICATE, batch
        self.freeze(ForkProof(held.wal_bytes, batch.wal_bytes))
        return Verdict.FORK, batch


class Party(Protocol):
    """One end of links."""

    id: PeerId

    def link_up(self, key: int, peer: PeerId) -> None: ...

    def link_down(self, key: int) -> None: ...

    def receive(self, key: int, message: AnyMessage) -> None: ...


class Node:
    """An honest node.

    Attributes:
        received: pushes that came in, per (origin, seq_begin).
        penalized: whom it scored.
        held_for: what its appends wait for at the moment, as the last effect said; 0 for nothing.
    """

    def __init__(self, world: World, number: int, *, apply_s: float, load_s: float, limits: Limits) -> None:
        self.world = world
        self.id = peer_id(number)
        self.log = Log()
        self.apply_s, self.load_s, self.limits = apply_s, load_s, limits
        self.admits: Callable[[PeerId, PeerId], bool] = lambda origin, via: True
        self.stores = True
        self.received: Counter[tuple[PeerId, int]] = Counter()
        self.penalized: list[PeerId] = []
        self.held_for: float | None = 0
        self.holds: list[float | None] = []
        self.peers: dict[int, PeerId] = {}
        self.messages_out = 0
        self._life = 0
        self._queue: list[tuple[int, WalPush]] = []
        self._applying = False
        self._loading = False
        self._wake_at = float("inf")
        self.exchange = self._new_exchange()

    @property
    def digest(self) -> dict[PeerId, LogHead | str]:
        return {
            origin: "frozen" if head.frozen else head
            for origin, head in self.log.heads.items()
            if head.seq or head.frozen
        }

    def _new_exchange(self) -> Exchange:
        return Exchange(self.id, self.log.heads, self.limits, self.world.now, can_store=lambda: self.stores)

    def append(self, records: int, size: int, mark: bytes = b"") -> Batch:
        batch = make_batch(self.id, self.log.batches.get(self.id, []), records, size, mark)
        self.log.add(batch)
        self.exchange.moved({self.id}, self.world.now)
        self.pump()
        return batch

    def restart(self) -> None:
        """All that was not durable is gone; the links must be gone already."""
        self._life += 1
        self._queue.clear()
        self._applying = self._loading = False
        self._wake_at = float("inf")
        self.exchange = self._new_exchange()

    def link_up(self, key: int, peer: PeerId) -> None:
        self.peers[key] = peer
        self.exchange.link_up(key, peer, self.world.now)
        self.pump()

    def link_down(self, key: int) -> None:
        self.peers.pop(key, None)
        self.exchange.link_down(key, self.world.now)
        self.pump()

    def receive(self, key: int, message: AnyMessage) -> None:
        now = self.world.now
        try:
            submit = self.exchange.receive(key, message, now)
        except RemoteProtocolError as error:
            self.world.violations.append((self.id, self.peers[key], str(error)))
            self.world.cut(key)
            return
        if isinstance(message, WalPush):
            self.received[PeerId(message.wal_bytes[1:33]), message.seq_begin] += 1
        if submit and isinstance(message, WalPush):
            self._queue.append((key, message))
            self._start_applying()
        elif submit and isinstance(message, ForkProof):
            origin = self.log.freeze(message)
            self.exchange.moved({origin}, now)
            self.exchange.proof_judged(key, origin, Verdict.APPLIED, now)
        self.pump()

    def _start_applying(self) -> None:
        if not self._applying and self._queue:
            self._applying = True
            life, group = self._life, len(self._queue)
            self.world.after(self.apply_s, lambda: self._apply(group) if self._life == life else None)

    def _apply(self, group: int) -> None:
        now, random_ = self.world.now, self.world.random
        moved: set[PeerId] = set()
        answers: list[tuple[int, Verdict, int]] = []
        pushes, self._queue = self._queue[:group], self._queue[group:]
        for key, push in pushes:
            origin = PeerId(push.wal_bytes[1:33])
            verdict = Verdict.NOT_STORED
            if self.stores:
                admitted = self.admits(origin, self.peers.get(key, self.id))
                verdict, _ = self.log.judge(push, admitted)
            if verdict in (Verdict.APPLIED, Verdict.FORK):
                moved.add(origin)
            answers.append((key, verdict, self.log.heads.get(origin, EMPTY_LOG).seq))
        # The commit is durable: heads and answers may come to the exchange in either order.
        first_heads = random_.random() < 0.5
        if first_heads:
            self.exchange.moved(moved, now)
        for (key, push), (_, verdict, _) in zip(pushes, answers, strict=True):
            head = self.log.heads.get(PeerId(push.wal_bytes[1:33]), EMPTY_LOG).seq
            ack = ack_value(verdict, head, push.seq_begin, push.seq_end)
            self.exchange.judged(key, verdict, ack, now)
        if not first_heads:
            self.exchange.moved(moved, now)
        self._applying = False
        self._start_applying()
        self.pump()

    def pump(self) -> None:
        """Carry out what the machine asks for."""
        exchange, world = self.exchange, self.world
        for key, message in exchange.take_messages():
            self.messages_out += 1
            world.send(key, self.id, message)
        for effect in exchange.take_effects():
            if isinstance(effect, Penalize):
                self.penalized.append(effect.peer)
            elif isinstance(effect, HoldAppends):
                self.held_for = effect.seconds
                self.holds.append(effect.seconds)
            elif isinstance(effect, DoubtClaim | TrustClaim):
                # Of claims that were written down; nothing is, in this world.
                pass
            else:
                assert isinstance(effect, ReleaseAppends)
                self.held_for = 0
        if not self._loading:
            load = exchange.next_load(world.now) if exchange.has_load else None
            if load is not None:
                self._loading = True
                life = self._life
                world.after(self.load_s, lambda: self._load(load) if self._life == life else None)
        due = exchange.next_deadline()
        if due < self._wake_at:
            self._wake_at = due
            life = self._life
            world.at(due, lambda: self._wake(due) if self._life == life else None)

    def _load(self, load: Load) -> None:
        self._loading = False
        now = self.world.now
        if load.kind is LoadKind.PROOF:
            self.exchange.proof_loaded(load, self.log.proofs.get(load.origin), now)
        else:
            self.exchange.loaded(load, self.log.load(load.origin, load.from_seq, load.bytes_max), now)
        self.pump()

    def _wake(self, due: float) -> None:
        if self._wake_at == due:
            self._wake_at = float("inf")
            self.exchange.handle_deadline(self.world.now)
            self.pump()


class Liar:
    """A peer that shows more of every log than there is and delivers nothing.

    Args:
        ahead: by how much.
        about: the origins it lies about.
    """

    def __init__(self, world: World, number: int, about: Iterable[PeerId], ahead: int = 1_000_000) -> None:
        self.world = world
        self.id = peer_id(number)
        self._entries = dict.fromkeys(about, ahead)

    def link_up(self, key: int, peer: PeerId) -> None:
        entries = tuple(HeadEntry(origin, seq, b"\x11" * 32, want=True) for origin, seq in self._entries.items())
        self.world.send(key, self.id, WalHeads(entries))

    def link_down(self, key: int) -> None:
        pass

    def receive(self, key: int, message: AnyMessage) -> None:
        if isinstance(message, WalPush):
            self.world.send(key, self.id, WalAck(message.seq_end))


class World:
    """All nodes and links, and what happens when.

    Attributes:
        violations: links closed for what came over them; stays empty among honest nodes.
    """

    def __init__(self, seed: int, limits: Limits | None = None) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.limits = limits or Limits()
        self.now = 1000.0
        self.parties: list[Party] = []
        self.nodes: list[Node] = []
        self.violations: list[tuple[PeerId, PeerId, str]] = []
        self.ends: dict[int, tuple[Party, Party]] = {}
        self._numbers = count()
        self._keys = count(1)
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._ticks = count()
        self._latency: dict[tuple[int, PeerId], float] = {}
        self._busy_until: dict[tuple[int, PeerId], float] = {}
        self.steps = 0

    # Building.

    def node(self, *, apply_s: float | None = None, load_s: float = 0.0002) -> Node:
        if apply_s is None:
            apply_s = self.random.uniform(0.001, 0.01)
        node = Node(self, next(self._numbers) + 1, apply_s=apply_s, load_s=load_s, limits=self.limits)
        self.nodes.append(node)
        return node

    def liar(self, about: Iterable[PeerId]) -> Liar:
        return Liar(self, next(self._numbers) + 1, about)

    def link(self, one: Party, other: Party) -> int:
        """Join two parties; both ends come up at once."""
        key = next(self._keys)
        self.ends[key] = (one, other)
        for party in (one, other):
            self._latency[key, party.id] = self.random.uniform(0.0005, 0.02)
        one.link_up(key, other.id)
        if key in self.ends:
            other.link_up(key, one.id)
        return key

    def cut(self, key: int) -> None:
        """Break a link: what is on the way is lost."""
        ends = self.ends.pop(key, None)
        if ends is not None:
            for party in ends:
                party.link_down(key)

    def links_of(self, party: Party) -> list[int]:
        return [key for key, ends in self.ends.items() if party in ends]

    def line(self, nodes: list[Node]) -> None:
        for one, other in pairwise(nodes):
            self.link(one, other)

    def ring(self, nodes: list[Node]) -> None:
        self.line(nodes)
        self.link(nodes[-1], nodes[0])

    def mesh(self, nodes: list[Node]) -> None:
        pairs = [(one, other) for index, one in enumerate(nodes) for other in nodes[index + 1 :]]
        self.random.shuffle(pairs)
        for one, other in pairs:
            self.link(one, other)

    def random_graph(self, nodes: list[Node], degree: int) -> None:
        """A connected graph of about that degree: a ring, and random chords."""
        pairs = {frozenset((index, (index + 1) % len(nodes))) for index in range(len(nodes))}
        while len(pairs) < min(len(nodes) * degree // 2, len(nodes) * (len(nodes) - 1) // 2):
            one, other = self.random.sample(range(len(nodes)), 2)
            pairs.add(frozenset((one, other)))
        ordered = sorted(tuple(sorted(pair)) for pair in pairs)
        self.random.shuffle(ordered)
        for one, other in ordered:
            self.link(nodes[one], nodes[other])

    # Time.

    def at(self, when: float, what: Callable[[], object]) -> None:
        heapq.heappush(self._events, (when, next(self._ticks), what))

    def after(self, seconds: float, what: Callable[[], object]) -> None:
        self.at(self.now + seconds, what)

    def send(self, key: int, sender: PeerId, message: AnyMessage) -> None:
        if key not in self.ends:
            return
        # One direction keeps its order; a big message holds up those behind it.
        size = len(message.wal_bytes) if isinstance(message, WalPush) else 100
        way = (key, sender)
        start = max(self.now, self._busy_until.get(way, 0.0))
        self._busy_until[way] = start + size / 100e6
        self.at(start + size / 100e6 + self._latency[way], lambda: self._deliver(key, sender, message))

    def flooded(self, source: Node) -> dict[PeerId, float]:
        """Seconds until a small batch would be durable at each node if every link passed everything on at once."""
        found: dict[PeerId, float] = {}
        open_: list[tuple[float, int, Party]] = [(0.0, 0, source)]
        while open_:
            after_s, _, party = heapq.heappop(open_)
            if party.id in found:
                continue
            found[party.id] = after_s
            for key in self.links_of(party):
                other = next(end for end in self.ends[key] if end is not party)
                if isinstance(other, Node) and other.id not in found:
                    step_s = other.load_s + self._latency[key, party.id] + other.apply_s
                    heapq.heappush(open_, (after_s + step_s, next(self._ticks), other))
        return found

    def step(self) -> None:
        """Let the next thing happen."""
        self.run(max(0.0, self._events[0][0] - self.now))

    def _deliver(self, key: int, sender: PeerId, message: AnyMessage) -> None:
        ends = self.ends.get(key)
        if ends is not None:
            receiver = ends[1] if ends[0].id == sender else ends[0]
            receiver.receive(key, message)

    def run(self, seconds: float, *, check_every: int = 0) -> None:
        """Let so much virtual time pass."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, what = heapq.heappop(self._events)
            what()
            self.steps += 1
            if check_every and self.steps % check_every == 0:
                self.check_suppliers()
        self.now = end

    def run_until(self, done: Callable[[], bool], seconds: float, *, check_every: int = 0) -> float:
        """Run until `done`; returns the seconds it took, fails after `seconds`."""
        start = self.now
        while not done():
            assert self.now < start + seconds, f"seed {self.seed}: not done after {seconds} s\n{self.report()}"
            self.run(0.05, check_every=check_every)
        return self.now - start

    # Judging.

    def is_converged(self) -> bool:
        first = self.nodes[0].digest
        return all(node.digest == first for node in self.nodes)

    def check_suppliers(self) -> None:
        """No origin is without a supplier while a neighbour shows more."""
        for node in self.nodes:
            exchange = node.exchange
            for key, sync in exchange._links.items():
                for origin, heard in sync._heard.items():
                    held = node.log.heads.get(origin, EMPTY_LOG)
                    if heard.seq > held.seq and not held.frozen and node.admits(origin, sync.peer):
                        supplier = exchange.supplier(origin)
                        assert supplier is not None or origin == node.id, (
                            f"seed {self.seed}: {node.id.short} has no supplier for {origin.short} at {held.seq}, "
                            f"link {key} shows {heard.seq}"
                        )

    def report(self) -> str:
        lines = []
        for node in self.nodes:
            state = " ".join(
                f"{origin.short}:{head.seq}{'F' if head.frozen else ''}"
                for origin, head in sorted(node.log.heads.items())
            )
            lines.append(f"{node.id.short} {state} links {self.links_of(node)}")
        return "\n".join(lines)
