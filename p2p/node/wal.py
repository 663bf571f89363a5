"""The replicated log as an application sees it: `node.wal`.

A thin face: appending is the writer's, replication the replicator's, reading in order the follower's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from p2p.errors import ConfigError
from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.node.interrupts import listed, uninterrupted
from p2p.node.kinds import check_count, check_kind
from p2p.node.writer import Writer
from p2p.replication.batch import NewRecord, Record, encode_portion, parse_batch
from p2p.replication.heads import LogHead, digest

if TYPE_CHECKING:
    from p2p.node.follow import Follower, Start


class Replication(Protocol):
    """What is asked of the replicator."""

    async def wait_replicated(self, seq: int, peers: int) -> None:
        """Wait until so many peers hold our own log durably up to `seq`."""

    def lag(self, origin: PeerId) -> dict[PeerId, int]:
        """Per connected peer, how many records of a log it does not hold durably yet."""

    def shown(self) -> Mapping[PeerId, Mapping[PeerId, LogHead]]:
        """Per connected peer, how far it said to hold every origin's log."""


@uninterrupted
class Wal:
    """The log of a running node, and the copies it keeps of others'.

    Args:
        writer: writes and reads the store.
        replication: knows what the peers hold.
        label_of: the node id that an identity is known by here.
        left_alone: the origins whose logs were offered and are not kept.
        limits: bounds.
        oldest_ms: Unix milliseconds; records for somebody that were written before are not delivered any more.
    """

    def __init__(
        self,
        writer: Writer,
        replication: Replication,
        *,
        label_of: Callable[[PeerId], str | None],
        left_alone: Callable[[], frozenset[PeerId]],
        limits: Limits,
        oldest_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self._writer = writer
        self._replication = replication
        self._label_of = label_of
        self._left_alone = left_alone
        self._limits = limits
        self._oldest_ms = oldest_ms
        self._names: set[str] = set()

    async def append(self, payload: bytes, *, kind: str = "app", target: PeerId | str | None = None) -> int:
        """Append one record to this node's own log; return its seq once it is durable here.

        Appends that wait at the same time share one commit. If it is cancelled, a record that is not sealed yet is
        withdrawn; one that is may become durable all the same, so treat the outcome as unknown.

        Args:
            payload: the content, up to about 255 KiB.
            kind: says what the payload is.
            target: whom it is for, by peer id (value or text); None for everybody. Every admitted node can read it all
                the same.

        Raises:
            RecordTooLarge: it does not fit a batch.
            ConfigError: payload, kind or target is of another kind.
            StoreFull, StoreReadOnly, StoreError: the store cannot be written at the moment.
            StoreCorrupt: this node's own log is damaged and not fetched back yet.
            OwnLogForked: there is proof that this identity signed two histories.
            NodeClosed: the node stopped.
        """
        return (await self._writer.append_many((payload,), kind, _whom(target)))[0]

    async def append_many(
        self, records: Iterable[bytes | NewRecord], *, kind: str = "app", target: PeerId | str | None = None
    ) -> list[int]:
        """Append many records; return their seqs, in order, once all are durable here.

        Records that fit one batch (1,024 of them, 256 KiB) become durable together or not at all.

        Args:
            records: payloads, or `NewRecord`s that bring their own kind and target.
            kind, target: for those that are payloads.

        Raises:
            As `append`. When a later batch fails, earlier ones may be durable.
        """
        given: object = records
        if isinstance(given, bytes | str) or not isinstance(given, Iterable):
            raise ConfigError("append_many takes a list of payloads: for one, there is append")
        return await self._writer.append_many(listed(records), kind, _whom(target))

    def check_size(self, payload: bytes, *, kind: str = "app", target: PeerId | str | None = None) -> None:
        """Raise RecordTooLarge if `append` would, without appending."""
        encode_portion([payload], 0, kind, _whom(target))

    def follow(
        self,
        name: str | None = None,
        *,
        kinds: Iterable[str] | None = None,
        target: PeerId | str | None = None,
        start: Start = "oldest",
    ) -> Follower:
        """Read all logs, each in its order, what is there and what comes: at least once.

        Args:
            name: keeps a durable cursor per origin under this name; None starts over each time.
            kinds: only records of these kinds.
            target: only records for this identity (value or text). Whoever carried them here, they come in the order of
                their origins; those older than `NodeConfig.expire_after_s` are left out.
            start: where a name that is used for the first time begins, and one that is None each time. Origins that
                turn up later are read from their first record.

        Raises:
            ConfigError: an argument is of another kind.
            ChannelBusy: the name is in use, when it is entered.

        Example:
            async with node.wal.follow("indexer") as records:
                async for record in records:
                    ...
                    await records.commit(record)
        """
        from p2p.node.follow import Follower  # with the first log that is followed

        return Follower(
            self._writer,
            self._names,
            self._label_of,
            self._limits.follow_read_bytes,
            name=name,
            kinds=kinds,
            target=_whom(target),
            start=start,
            oldest_ms=self._oldest_ms,
        )

    async def wait_replicated(self, seq: int, peers: int = 1) -> None:
        """Wait until at least `peers` other nodes hold this node's own log durably up to `seq`.

        Only nodes that this one has a link with in this run can say so, directly or through a relay: behind a single
        neighbour that passes the log on, it waits for ever for a second one.

        Raises:
            ConfigError: seq or peers is no whole number from 1 on.
            NodeClosed: the node stopped before.
        """
        check_count(seq, "seq")
        check_count(peers, "peers")
        await self._replication.wait_replicated(seq, peers)

    def lag(self, origin: PeerId | None = None) -> dict[PeerId, int]:
        """Per connected peer: how many records of a log that is held here it does not hold durably yet.

        So a carrier sees whether what it carries for a peer has arrived.

        Args:
            origin: whose log; None for this node's own.

        Raises:
            ConfigError: it is no PeerId.
        """
        check_kind(origin, (PeerId, type(None)), "origin", "a PeerId, as in PeerId.parse(text), or None")
        return self._replication.lag(self._writer.own if origin is None else origin)

    def shown(self) -> Mapping[PeerId, Mapping[PeerId, LogHead]]:
        """Per connected peer: the heads that it showed last, by origin.

        It is what the peer said, up to a second ago, and proves nothing; an origin it did not list is missing.
        """
        return self._replication.shown()

    @property
    def is_writable(self) -> bool:
        """Whether appends are taken; False while the store is read-only (events tell when that changes)."""
        return not self._writer.read_only

    def heads(self) -> Mapping[PeerId, LogHead]:
        """The durable head of every origin held here, at this moment."""
        return dict(self._writer.heads)

    def left_alone(self) -> frozenset[PeerId]:
        """Origins whose logs peers offered in this run and this node does not keep; at most `Limits.origins_max`.

        Without a network key these are the nodes that never connected to this one themselves, with a trust list those
        that it does not name.
        """
        return self._left_alone()

    def digest(self) -> bytes:
        """32 bytes that two nodes share exactly when they hold the same logs."""
        return digest(self._writer.heads)

    async def records(self, origin: PeerId, from_seq: int = 1, *, records_max: int = 1024) -> list[Record]:
        """Read a piece of one log.

        Args:
            from_seq: the first seq wanted.
            records_max: how many at the most.

        Returns:
            The records, in order; none at the log's end. There may be fewer than asked for before that.

        Raises:
            StoreError: the store cannot be read.
        """
        batches = await self._writer.load(origin, from_seq, self._limits.follow_read_bytes)
        node_id = self._label_of(origin)
        found: list[Record] = []
        for stored in batches:
            for record in parse_batch(stored.wal_bytes).records(node_id):
                if len(found) == records_max:
                    return found
                if record.seq >= from_seq:
                    found.append(record)
        return found


def _whom(target: PeerId | str | None) -> PeerId | None:
    return PeerId.parse(target) if isinstance(target, str) else target
