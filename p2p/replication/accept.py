"""What happens to a pushed batch: one decision, in one order, over a view of what is held.

    parse -> range -> version -> admitted -> not frozen -> position and hash -> signature -> room

Each step is cheaper or more telling than the next, and the signature, the dearest, is only checked where it decides
something: a batch that is held already or lies beyond our head is not worth it. Nothing is stored here; the verdict
says what the owner of the store has to do.

Only `MALFORMED` speaks against the sender. A carrier cannot know whom we admit, what we have frozen or how much room
we give, and an origin cannot be blamed for what others make of its name.

Source: replication section 2.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import msgspec

from p2p.errors import RemoteProtocolError
from p2p.ids import PeerId
from p2p.replication.batch import Batch, NewerBatch, origin_of, parse_batch, verify_signature
from p2p.replication.fork import Proof, contradict, make_proof
from p2p.replication.heads import LogHead


class Verdict(Enum):
    """What became of a push or a proof."""

    APPLIED = "applied"
    """Stored; the ack is its seq_end once the commit is durable."""
    DUPLICATE = "duplicate"
    """This very hash is held: nothing to do, and the ack is its seq_end."""
    GAP = "gap"
    """Beyond head + 1: not stored, not buffered."""
    FORK = "fork"
    """It proves that its origin forked; the proof is stored and the origin frozen."""
    LEFT_ALONE = "left_alone"
    """Not admitted, frozen, over quota, or of a newer version: nobody's fault."""
    MALFORMED = "malformed"
    """Refused; the sender is scored."""
    NOT_STORED = "not_stored"
    """The store could not be written. Nobody's fault; it may be pushed again."""


class Held(msgspec.Struct, frozen=True):
    """What the store knows of a batch without reading it."""

    seq_begin: int
    seq_end: int
    hash: bytes


class LogView(Protocol):
    """What a decision needs to know of the logs held."""

    def head(self, origin: PeerId) -> LogHead:
        """The origin's head, `EMPTY_LOG` when nothing is held."""

    def frozen_from(self, origin: PeerId) -> int | None:
        """The proof's lower seq_begin when the origin is frozen, else None."""

    def held_within(self, origin: PeerId, seq_begin: int, seq_end: int) -> Held | None:
        """The first batch held that shares a seq with the range, be it below or above the head."""

    def held_batch(self, origin: PeerId, held: Held) -> Batch | None:
        """That batch itself; None if it turns out to be damaged."""

    def has_room(self, origin: PeerId, size: int) -> bool:
        """Whether the origin's quota has room for so many bytes more."""


class Judgement(msgspec.Struct, frozen=True):
    """The decision on one push.

    Attributes:
        verdict: what to do.
        origin: whose batch it claims to be; None when the bytes do not even say that.
        detail: why, for a log line; empty where the verdict says it all.
        batch: the batch, when it could be read.
        proof: for `Verdict.FORK`.
        over_quota: it was left alone for want of room.
    """

    verdict: Verdict
    origin: PeerId | None
    detail: str = ""
    batch: Batch | None = None
    proof: Proof | None = None
    over_quota: bool = False


def judge(view: LogView, seq_begin: int, seq_end: int, wal_bytes: bytes, *, admitted: bool) -> Judgement:
    """Decide on a pushed batch.

    Args:
        view: what is held at this moment.
        seq_begin, seq_end: the range that the WalPush claims.
        wal_bytes: the batch.
        admitted: whether logs of the origin that these bytes name (`origin_of`) are kept here.
    """
    origin = origin_of(wal_bytes)
    try:
        batch = parse_batch(wal_bytes)
    except NewerBatch as error:
        return Judgement(Verdict.LEFT_ALONE, error.origin, str(error))
    except RemoteProtocolError as error:
        return Judgement(Verdict.MALFORMED, origin, str(error))
    origin = batch.origin
    if (batch.seq_begin, batch.seq_end) != (seq_begin, seq_end):
        detail = f"a push of {seq_begin}-{seq_end} holds records {batch.seq_begin}-{batch.seq_end}"
        return Judgement(Verdict.MALFORMED, origin, detail, batch)
    if not admitted:
        return Judgement(Verdict.LEFT_ALONE, origin, "the origin is not admitted", batch)
    frozen_from = view.frozen_from(origin)
    if frozen_from is not None and batch.seq_end >= frozen_from:
        return Judgement(Verdict.LEFT_ALONE, origin, f"the origin is frozen from seq {frozen_from}", batch)
    return _judge_position(view, batch)


def _judge_position(view: LogView, batch: Batch) -> Judgement:
    origin = batch.origin
    head = view.head(origin)
    held = view.held_within(origin, batch.seq_begin, batch.seq_end)
    if held == Held(batch.seq_begin, batch.seq_end, batch.hash):
        if batch.seq_begin != head.seq + 1:
            return Judgement(Verdict.DUPLICATE, origin, batch=batch)
        # Only damage leaves the head below a batch that follows it. Called a duplicate it would come for ever.
        held = None
    if held is None and batch.seq_begin > head.seq + 1:
        return Judgement(Verdict.GAP, origin, f"seq {batch.seq_begin} after head {head.seq}", batch)
    if not verify_signature(batch):
        return Judgement(Verdict.MALFORMED, origin, "a batch with a bad signature", batch)
    if held is None and batch.prev_hash != head.hash:
        held = view.held_within(origin, head.seq, head.seq)
    elif held is None:
        return _judge_room(view, batch)
    other = view.held_batch(origin, held) if held is not None else None
    if other is None or not contradict(other, batch):
        # What would prove the fork is damaged here. It is fetched again first.
        return Judgement(Verdict.NOT_STORED, origin, "the batch it contradicts is damaged here", batch)
    return Judgement(Verdict.FORK, origin, batch=batch, proof=make_proof(other, batch))


def _judge_room(view: LogView, batch: Batch) -> Judgement:
    origin = batch.origin
    if not view.has_room(origin, len(batch.wal_bytes)):
        return Judgement(Verdict.LEFT_ALONE, origin, "the origin's quota is reached", batch, over_quota=True)
    return Judgement(Verdict.APPLIED, origin, batch=batch)


def ack_value(verdict: Verdict, head_seq: int, seq_begin: int, seq_end: int) -> int:
    """Return what the WalAck of a push says: seq_end if this very batch is durably held, else "not applied".

    Args:
        head_seq: the origin's durable head after the commit.
        seq_begin, seq_end: the range that the WalPush claimed.
    """
    if verdict in (Verdict.APPLIED, Verdict.DUPLICATE):
        return seq_end
    return max(min(head_seq, seq_begin - 1), 0)
