"""What a simulated network was promised, and what it has been seen to do: checked the moment it is seen.

The ledger stands outside the world. Applications tell it what they attempted, what was acknowledged, what was delivered
to them; it compares that with the promises of the public contract and with the disks. The first thing that cannot be
reconciled is a failure, and the world ends.

What is checked here, as it happens:

- acknowledged is durable: an append that returned is on its machine's disk, and so is what `wait_replicated` claimed of
  others;
- one history: a record of one origin and seq has the same content wherever and whenever it is read, and somebody did
  append it;
- followers: per-origin order, no gap, nothing twice in one life of a process; after a restart it goes on behind the
  last cursor that was committed;
- mail, records that are for one machine: none twice in one life of a process, none of a follower that asked for its own
  only is for somebody else;
- messages: none twice, none before an earlier one of the same connection;
- requests: no handler runs twice for one, wherever; the answer is its handler's, of the machine that was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from p2p.ids import PeerId
from p2p.replication.batch import NewRecord, Record, parse_batch
from p2p.testing.disk import Disk
from p2p.testing.trace import Trace


@dataclass(slots=True)
class _Cursor:
    """How far one machine's follower is with one origin: what is surely committed, what may be, what was delivered in
    this life, and in any."""

    sure: int = 0
    perhaps: int = 0
    delivered: int | None = None
    highest: int = 0


class Ledger:
    """Promises and facts of one world.

    Args:
        trace: where failures and events are noted.
        disks: of all machines by name.
        on_failure: called at the first failure.

    Attributes:
        failures: what cannot be reconciled, one line each.
        acknowledged: per origin, seq -> payload of every append that returned.
        distrusted: identities of Byzantine members.
    """

    def __init__(self, trace: Trace, disks: dict[str, Disk], on_failure: Callable[[], None]) -> None:
        self.trace = trace
        self.failures: list[str] = []
        self.acknowledged: dict[PeerId, dict[int, bytes]] = {disk.identity.peer_id: {} for disk in disks.values()}
        self.rotten: dict[str, set[tuple[PeerId, int]]] = {name: set() for name in disks}
        self.names = {disk.identity.peer_id: name for name, disk in disks.items()}
        self.distrusted: set[PeerId] = set()
        self._disks = disks
        self._on_failure = on_failure
        self._attempted: dict[PeerId, dict[bytes, PeerId | None]] = {origin: {} for origin in self.acknowledged}
        self._contents: dict[tuple[PeerId, int], bytes] = {}
        self._cursors: dict[str, dict[PeerId, _Cursor]] = {name: {} for name in disks}
        self._heard: dict[tuple[str, str], int] = {}
        self._mail_cursors: dict[str, dict[PeerId, _Cursor]] = {name: {} for name in disks}
        self._mail_sent: dict[PeerId, set[tuple[PeerId, int]]] = {origin: set() for origin in self.acknowledged}
        self._mail_read: dict[str, set[tuple[PeerId, int]]] = {name: set() for name in disks}
        self._handled: dict[bytes, str] = {}

    def fail(self, who: str, what: str) -> None:
        """Note something that must not be."""
        self.trace.note(who, f"FAILED: {what}")
        self.failures.append(f"{who} at {self.trace.now:.3f} s: {what}")
        self._on_failure()

    def distrust(self, peer_id: PeerId) -> None:
        """This identity keeps to no rule: what is in its log, and what becomes of it, proves nothing."""
        self.distrusted.add(peer_id)
        self.names[peer_id] = f"?{peer_id.short}"

    def own(self, name: str) -> PeerId:
        """The identity of a machine."""
        return self._disks[name].identity.peer_id

    # Appending.

    def attempt(self, name: str, records: Sequence[NewRecord]) -> None:
        """A machine is about to append these."""
        self._attempted[self.own(name)].update((record.payload, record.target) for record in records)

    def acknowledge(self, name: str, records: Sequence[NewRecord], seqs: Sequence[int]) -> None:
        """An append returned."""
        own = self.own(name)
        mine = self.acknowledged[own]
        if list(seqs) != sorted(set(seqs)) or len(seqs) != len(records):
            self.fail(name, f"{len(records)} records got the seqs {seqs}")
        for seq, record in zip(seqs, records, strict=True):
            if mine.setdefault(seq, record.payload) != record.payload:
                self.fail(name, f"seq {seq} was acknowledged twice, for different records")
            if record.target is not None:
                self._mail_sent[record.target].add((own, seq))
        if self._tail(name, own) < seqs[-1]:
            self.fail(name, f"seq {seqs[-1]} was acknowledged and is not on the disk")

    def replicated(self, name: str, seq: int, peers: int) -> None:
        """`wait_replicated(seq, peers)` returned. Who lies about what he holds is believed, so liars make it void."""
        if self.distrusted:
            return
        own = self.own(name)
        holders = [other for other in self._disks if other != name and self._tail(other, own) >= seq]
        if len(holders) < peers:
            self.fail(name, f"seq {seq} was said to be at {peers} others; it is at {holders}")

    # Following.

    def begin_following(self, name: str) -> None:
        """A process begins to follow, or begins again."""
        _begin(self._cursors[name])

    def deliver(self, name: str, record: Record) -> None:
        """A follower got a record."""
        origin, seq = record.origin, record.seq
        cursor = self._cursors[name].setdefault(origin, _Cursor())
        whose = f"{self.names.get(origin, origin.short)}:{seq}"
        if cursor.delivered is None:
            # It may begin behind any cursor that may have become durable.
            if not cursor.sure < seq <= cursor.perhaps + 1:
                self.fail(name, f"follows on at {whose}, with a cursor at {cursor.sure} to {cursor.perhaps}")
        elif seq != cursor.delivered + 1:
            self.fail(name, f"was delivered {whose} after {cursor.delivered}")
        cursor.delivered = seq
        cursor.highest = max(cursor.highest, seq)
        self.see(name, record)

    def begin_commit(self, name: str, record: Record) -> None:
        """A follower is about to commit its cursor."""
        cursor = self._cursors[name][record.origin]
        cursor.perhaps = max(cursor.perhaps, record.seq)

    def end_commit(self, name: str, record: Record) -> None:
        """The cursor is durable."""
        cursor = self._cursors[name][record.origin]
        cursor.sure = max(cursor.sure, record.seq)

    def undelivered(self, name: str) -> list[str]:
        """What was acknowledged anywhere and did not come out of this machine's follower in this or an earlier life."""
        missing = []
        for origin, records in self.acknowledged.items():
            reached = self._cursors[name].get(origin, _Cursor()).highest
            last = max(records, default=0)
            if reached < last:
                missing.append(f"{self.names[origin]}:{reached + 1}-{last}")
        return missing

    # Mail.

    def begin_mail(self, name: str) -> None:
        """A process begins to read its mail, or begins again."""
        _begin(self._mail_cursors[name])

    def deliver_mail(self, name: str, record: Record) -> None:
        """A follower that wants only what is for its machine got a record."""
        cursor = self._mail_cursors[name].setdefault(record.origin, _Cursor())
        whose = f"{self.names.get(record.origin, record.origin.short)}:{record.seq}"
        if record.target != self.own(name):
            self.fail(name, f"got {whose} as mail, which is for somebody else")
        before = cursor.sure if cursor.delivered is None else cursor.delivered
        if record.seq <= before:
            self.fail(name, f"got {whose} as mail after {before}")
        cursor.delivered = record.seq
        self._mail_read[name].add((record.origin, record.seq))
        self.see(name, record)

    def end_mail_commit(self, name: str, record: Record) -> None:
        """The cursor behind this record is durable."""
        cursor = self._mail_cursors[name][record.origin]
        cursor.sure = max(cursor.sure, record.seq)

    def unread(self, name: str) -> list[str]:
        """Mail that was acknowledged anywhere and that this machine's follower got in no life."""
        missing = self._mail_sent[self.own(name)] - self._mail_read[name]
        return sorted(f"the mail {self.names[origin]}:{seq}" for origin, seq in missing)

    # Requests.

    def handle(self, name: str, request: bytes) -> None:
        """A handler was called. Each request differs from all others."""
        if request in self._handled:
            self.fail(name, f"handles the request {request!r}, which {self._handled[request]} handled before")
        self._handled[request] = name

    def answer(self, name: str, asked: PeerId, request: bytes, answer: bytes) -> None:
        """A request was answered."""
        if answer != answer_to(request) or asked not in self.names or self._handled.get(request) != self.names[asked]:
            self.fail(name, f"asked {asked.short} {request!r} and got {answer[:80]!r}")

    # Messages.

    def hear(self, name: str, stream: str, number: int) -> None:
        """An application message arrived: the `number`-th of a stream, which counts from 1."""
        last = self._heard.get((name, stream), 0)
        if number <= last:
            self.fail(name, f"got message {number} of {stream} after {last}")
        self._heard[name, stream] = number

    # Disks.

    def rot(self, name: str, origin: PeerId, seq_end: int) -> None:
        """The world damaged a batch on a disk."""
        self.rotten[name].add((origin, seq_end))

    def see_disk(self, name: str) -> None:
        """Read a whole disk: every record must be what was appended and what others read."""
        for origin in self._disks[name].log.states():
            for record in records_on(self._disks[name], origin):
                self.see(name, record)

    def see(self, name: str, record: Record) -> None:
        """A record was read somewhere."""
        origin, seq, payload = record.origin, record.seq, record.payload
        if origin in self.distrusted:
            return
        whose = f"{self.names.get(origin, origin.short)}:{seq}"
        if payload not in self._attempted.get(origin, ()):
            self.fail(name, f"{whose} was never appended: {payload[:60]!r}")
        elif self._attempted[origin][payload] != record.target:
            self.fail(name, f"{whose} was appended for somebody else")
        if self._contents.setdefault((origin, seq), payload) != payload:
            self.fail(name, f"{whose} is {payload[:60]!r} here and something else elsewhere")
        if self.acknowledged[origin].get(seq, payload) != payload:
            self.fail(name, f"{whose} is not what was acknowledged")

    def _tail(self, name: str, origin: PeerId) -> int:
        state = self._disks[name].log.current().get(origin)
        return 0 if state is None else state.tail_seq


def answer_to(request: bytes) -> bytes:
    """What the handlers of a world answer."""
    return b"to " + request


def _begin(cursors: Mapping[PeerId, _Cursor]) -> None:
    for cursor in cursors.values():
        cursor.delivered = None


def records_on(disk: Disk, origin: PeerId) -> list[Record]:
    """Every record of an origin that is on a disk, read past the store's own reading."""
    found: list[Record] = []
    for _, end in disk.batches(origin):
        content = disk.content(origin, end)
        assert content is not None
        found.extend(parse_batch(content).records())
    return found
