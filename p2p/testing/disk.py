"""A disk that outlives the processes which use it, and that can stall, fill up and rot.

Responsible for what is on the disk, for how long work on it takes, and for what a crash leaves: exactly what was
committed. It refuses to know nodes and networks.

How it moves. A process `mount`s the disk and gets the node's windows `store` and `blocking`. A commit takes time before
the moment in which it happens as a whole, and time after it: a process that dies in the first part has lost the
commit, one that dies in the second has written what nobody was told of. `Mount.cut` is the death: work under way goes
no further, not even what the node would have waited for, and nothing reaches the disk through that mount any more.

A disk may lie: from `stop_syncing` on it says of everything that it is written, and `lose_unsynced`, the cut of its
power, takes all of that back, or leaves the first batch of it torn. What a file system may do below a store that syncs
is done to real files, by the tests of the store: a node sees nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeVar, TypeVarTuple, Unpack

import trio
from msgspec.structs import replace

from p2p.crypto.identity import Identity
from p2p.errors import StoreError, StoreFull
from p2p.ids import PeerId
from p2p.policy.book import BookPlace
from p2p.replication.batch import parse_batch
from p2p.replication.heads import SEQ_MAX
from p2p.store.base import Damage, Loaded, OriginState, Transaction
from p2p.store.memory import MemoryStore
from p2p.testing.dice import Dice
from p2p.windows import LANES, Lane

T = TypeVar("T")
Args = TypeVarTuple("Args")

LATENCY_S: Final = 0.001


class ProcessKilled(BaseException):
    """What a dead process gets for its use of the disk. No error: nothing in a node may handle it."""


class Disk:
    """One machine's disk, with its owner's key on it.

    Args:
        dice: the identity, and every delay, is drawn from it.

    Attributes:
        log: what is durable.
        latency_s: the longest that a piece of work takes before, and again after, its moment.
        fails_with: what every write ends with, None on a good day.
        reads_fail: whether every read fails.
        fault_rate: how many reads and commits of one fail, 0 to 1.
        released: set while work may go on; a stalled disk clears it.
    """

    def __init__(self, dice: Dice) -> None:
        self.identity = Identity.generate(dice.branch("identity").entropy)
        self.log = MemoryStore(self.identity.peer_id)
        self.latency_s = LATENCY_S
        self.fails_with: str | None = None
        self.reads_fail = False
        self.fault_rate = 0.0
        self.dice = dice.branch("delays")
        self.faults = dice.branch("faults")
        self.released = trio.Event()
        self.released.set()
        self._synced: MemoryStore | None = None

    def stall(self) -> None:
        """All work on the disk hangs until `go_on`."""
        if self.released.is_set():
            self.released = trio.Event()

    def go_on(self) -> None:
        """The disk works again."""
        self.released.set()

    def mend(self) -> None:
        """Nothing fails any more, and what was written is. What rotted stays rotten."""
        self._synced = None
        self.fails_with = None
        self.reads_fail = False
        self.fault_rate = 0.0
        self.latency_s = LATENCY_S
        self.go_on()

    def batches(self, origin: PeerId) -> list[tuple[int, int]]:
        """First and last seq of every batch of an origin that nobody found damaged, oldest first."""
        chain = self.log.chains.get(origin)
        if chain is None:
            return []
        held = (chain.rows[end] for end in chain.ends)
        return [(row.held.seq_begin, row.held.seq_end) for row in held if not row.damaged]

    def content(self, origin: PeerId, seq_end: int) -> bytes | None:
        """The bytes on the disk of the batch that ends at this seq."""
        chain = self.log.chains.get(origin)
        row = chain.rows.get(seq_end) if chain is not None else None
        return None if row is None or row.damaged else row.wal_bytes

    def flip_bit(self, origin: PeerId, seq_end: int, position: int) -> None:
        """Let one bit of a batch be another one; nobody is told."""
        rows = self.log.chains[origin].rows
        rotten = bytearray(rows[seq_end].wal_bytes)
        rotten[position // 8 % len(rotten)] ^= 1 << position % 8
        rows[seq_end] = replace(rows[seq_end], wal_bytes=bytes(rotten))

    def tear(self, origin: PeerId, seq_end: int) -> None:
        """Let the second half of a batch never have been written; nobody is told."""
        rows = self.log.chains[origin].rows
        wal_bytes = rows[seq_end].wal_bytes
        rows[seq_end] = replace(rows[seq_end], wal_bytes=wal_bytes[: len(wal_bytes) // 2])

    def stop_syncing(self) -> None:
        """From now on the disk says that it wrote, and did not yet: the next `lose_unsynced` takes it back."""
        if self._synced is None:
            self._synced = self.log.copy()

    def lose_unsynced(self, *, torn: bool = False) -> None:
        """The power fails: nothing that was committed since `stop_syncing` is there. Cut its process off first
        (`Mount.cut`).

        Args:
            torn: of each log the first batch that is lost is listed all the same, and half of its bytes are there.
        """
        if self._synced is None:
            return
        lost, self.log, self._synced = self.log, self._synced, None
        for origin in sorted(lost.states()) if torn else ():
            kept = self.log.current().get(origin)
            follows = lost.load(origin, 1 + (kept.seq if kept is not None else 0), SEQ_MAX, 1).batches
            if follows:
                batch = parse_batch(follows[0].wal_bytes)
                with self.log.write() as transaction:
                    transaction.append(batch)
                self.tear(origin, batch.seq_end)


class Mount:
    """A process' use of a disk: its `Blocking` window, and the way to its store.

    Args:
        disk: what is used.
        nursery: of the process; work runs in it, as in threads that end with their process.
        give_up_s: as `p2p.windows.SystemBlocking`.

    Attributes:
        is_cut: the process is dead.
    """

    def __init__(self, disk: Disk, nursery: trio.Nursery, give_up_s: float) -> None:
        self.disk = disk
        self.is_cut = False
        self._nursery = nursery
        self._give_up_s = give_up_s
        self._lanes: dict[Lane, trio.Semaphore] = {lane: trio.Semaphore(1) for lane in LANES}
        self._under_way: dict[trio.Event, None] = {}

    def open(self, _say: Callable[[str], None]) -> tuple[DiskStore, Identity]:
        """The window `store` of a node."""
        return DiskStore(self), self.disk.identity

    async def run(self, lane: Lane, fn: Callable[[Unpack[Args]], T], *args: *Args) -> T:
        """Do the work at one moment of a stretch of time; as `p2p.windows.Blocking` says."""
        self._check_alive()
        await self._lanes[lane].acquire()
        over = trio.Event()
        results: list[T] = []
        errors: list[Exception] = []

        async def work() -> None:
            await trio.sleep(self.disk.dice.number(0, self.disk.latency_s))
            if not self.disk.released.is_set():
                await self.disk.released.wait()
            try:
                results.append(fn(*args))
            except Exception as error:  # noqa: BLE001  # raised where it belongs, in the caller
                errors.append(error)
            await trio.sleep(self.disk.dice.number(0, self.disk.latency_s))
            del self._under_way[over]
            self._lanes[lane].release()
            over.set()

        self._under_way[over] = None
        self._nursery.start_soon(work)
        try:
            await over.wait()
        except trio.Cancelled:
            with trio.move_on_after(self._give_up_s, shield=True):
                await over.wait()
            self._check_alive()
            if over in self._under_way:
                raise
        self._check_alive()
        if errors:
            raise errors[0]
        return results[0]

    def cut(self) -> None:
        """The process dies; its nursery is cancelled by who calls this."""
        self.is_cut = True
        for over in self._under_way:
            over.set()

    def _check_alive(self) -> None:
        if self.is_cut:
            raise ProcessKilled


class DiskStore:
    """A `Store` on a `Disk`. Made by `Mount.open`."""

    def __init__(self, mount: Mount) -> None:
        self._disk = mount.disk
        self._mount = mount
        self._log = mount.disk.log
        self._must_recover = False

    @property
    def own(self) -> PeerId:
        return self._log.own

    @contextmanager
    def write(self, *, is_bulk: bool = False) -> Iterator[Transaction]:
        assert not self._mount.is_cut, "a dead process writes"
        assert not self._must_recover, "a write after a failed one, without recovering in between"
        try:
            with self._log.write(is_bulk=is_bulk) as transaction:
                yield transaction
                self._check_writable()
        except StoreError:
            self._must_recover = True
            raise

    def current(self) -> Mapping[PeerId, OriginState]:
        return self._log.current()

    def look_through(self) -> None:
        """It has no structure that could be damaged."""

    def chore(self) -> None:
        """There is none."""

    def recover(self) -> None:
        self._check_writable()
        self._must_recover = False

    def states(self) -> dict[PeerId, OriginState]:
        return self._log.states()

    def load(self, origin: PeerId, from_seq: int, to_seq: int, bytes_max: int) -> Loaded:
        self._check_readable()
        return self._log.load(origin, from_seq, to_seq, bytes_max)

    def proof(self, origin: PeerId) -> tuple[bytes, bytes] | None:
        self._check_readable()
        return self._log.proof(origin)

    def cursors(self, name: str) -> dict[PeerId, int]:
        self._check_readable()
        return self._log.cursors(name)

    def origins_for(self, target: PeerId, count_max: int) -> list[PeerId]:
        self._check_readable()
        return self._log.origins_for(target, count_max)

    def pins(self) -> dict[str, PeerId]:
        return self._log.pins()

    def book(self) -> list[BookPlace]:
        return self._log.book()

    def bans(self) -> dict[PeerId, int]:
        return self._log.bans()

    def verify(self) -> Iterator[Damage]:
        return self._log.verify()

    def close(self) -> None:
        """Nothing to give back."""

    def _check_writable(self) -> None:
        if self._disk.fails_with == "full":
            raise StoreFull("the simulated disk is full")
        if self._disk.fails_with is not None:
            raise StoreError(f"the simulated disk: {self._disk.fails_with}")
        self._check_chance("write")

    def _check_readable(self) -> None:
        if self._disk.reads_fail:
            raise StoreError("the simulated disk cannot be read")
        self._check_chance("read")

    def _check_chance(self, what: str) -> None:
        if self._disk.fault_rate and self._disk.faults.chance(self._disk.fault_rate):
            raise StoreError(f"the simulated disk: this {what} failed")
