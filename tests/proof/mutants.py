"""Would the tests notice? A copy of the code is changed in one place at a time, and the tests that ought to notice run.

    python -m tests.proof.mutants --sample 200 --seed 0        of session/, replication/ and the codecs of the wire
    python -m tests.proof.mutants --planted                    whole bugs, as somebody could write them
    python -m tests.proof.mutants --planted slot ack           those whose name or file has one of the words

What survives is printed with its place: it is a gap in the tests, or a change that means nothing. A mutant that makes
the tests take several times as long as without it counts as noticed.
"""

from __future__ import annotations

import argparse
import ast
import math
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
COPIED: Final = ("p2p", "http_control", "benchmarks", "tests", "pyproject.toml", "p2p_command.py")

_WIRE_TESTS: Final = (
    "tests/unit/test_binary.py", "tests/unit/test_envelope.py", "tests/unit/test_framing.py", "tests/unit/test_msg.py",
    "tests/unit/test_pack.py", "tests/unit/session",
)  # fmt: skip
ROOMS: Final = {
    "wire": (
        ("p2p/binary.py", "p2p/envelope.py", "p2p/framing.py", "p2p/msg.py", "p2p/pack.py"),
        _WIRE_TESTS,
    ),
    "session": (("p2p/session",), ("tests/unit/session",)),
    "replication": (("p2p/replication",), ("tests/unit/replication", "tests/sim/test_exchange.py")),
}
"""Per room what is changed, and the tests that are to notice."""

TIMES_SLOWER: Final = 4.0
SLACK_S: Final = 20.0
SLACK_CPU_S: Final = 3.0

_COMPARISONS: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ARITHMETIC: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


class Mutant(NamedTuple):
    """One change of a file.

    Attributes:
        path: of the file, from the root of the tree.
        line: where, from 1.
        start, stop: the bytes that are replaced.
        text: what they become.
    """

    path: str
    line: int
    start: int
    stop: int
    text: str


class Planted(NamedTuple):
    """A whole bug.

    Attributes:
        name: what it does.
        path: of the file.
        old: a text that the file has once.
        new: what it becomes.
        tests: those that are to notice.
    """

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


PLANTED: Final = (
    Planted(
        "an append is acknowledged, and its transaction was never committed",
        "p2p/store/sqlite.py",
        'is_committing = True\n                connection.execute("COMMIT")',
        'is_committing = True\n                connection.execute("ROLLBACK")',
        ("tests/unit/store", "tests/crash"),
    ),
    Planted(
        "the counter of a direction repeats",
        "p2p/session/sealing.py",
        "self._counter = counter + 1",
        "self._counter = counter + (counter != 1000)",
        ("tests/unit/session",),
    ),
    Planted(
        "places that were not heard again are not pruned",
        "p2p/policy/sightings.py",
        "            self._forget(place)\n\n    def _forget",
        "            pass\n\n    def _forget",
        ("tests/unit/policy",),
    ),
    Planted(
        "routes that were not told again are not pruned",
        "p2p/node/paths.py",
        "self.router.expire(self._clock.monotonic())",
        "pass",
        ("tests/unit/node/test_paths.py",),
    ),
    Planted(
        "a batch may have one record more than the bound",
        "p2p/replication/batch.py",
        "if count > RECORDS_MAX or size > BODY_BYTES_MAX:",
        "if count > RECORDS_MAX + 1 or size > BODY_BYTES_MAX:",
        ("tests/unit/replication",),
    ),
    Planted(
        "a batch of one record more than the bound is read",
        "p2p/replication/batch.py",
        "if not 1 <= count <= RECORDS_MAX:",
        "if not 1 <= count <= RECORDS_MAX + 1:",
        ("tests/unit/replication",),
    ),
    Planted(
        "a batch of one byte more than the bound is read",
        "p2p/replication/batch.py",
        "if size > BATCH_BYTES_MAX:",
        "if size > BATCH_BYTES_MAX + 1:",
        ("tests/unit/replication",),
    ),
    Planted(
        "a fork is accepted",
        "p2p/replication/accept.py",
        "if other is None or not contradict(other, batch):",
        "if True:",
        ("tests/unit/replication",),
    ),
    Planted(
        "a key is used on and never renewed",
        "p2p/session/sealing.py",
        "if counter % self._rekey_every == 0 and counter:",
        "if False:",
        ("tests/unit/session",),
    ),
    Planted(
        "a push may be one record longer than the bound",
        "p2p/replication/sync.py",
        "end - begin < limits.batch_records_max",
        "end - begin <= limits.batch_records_max",
        ("tests/unit/replication", "tests/sim/test_exchange.py"),
    ),
    Planted(
        "a cursor goes one record too far",
        "p2p/node/commits.py",
        "transaction.set_cursor(name, origin, seq)",
        "transaction.set_cursor(name, origin, seq + 1)",
        ("tests/unit/node/test_wal.py", "tests/contract/test_store.py", "tests/contract/test_replication.py"),
    ),
    Planted(
        "records are sealed on top of a log that others know more of",
        "p2p/node/commits.py",
        "return Unsealed.AHEAD if done.own_ahead or own.is_lost else None",
        "return None",
        ("tests/unit/node/test_own_log.py", "tests/unit/node/test_writer.py"),
    ),
    Planted(
        "a cursor may go back",
        "p2p/store/transaction.py",
        ' WHERE excluded.seq > seq",\n            (name, origin, seq)',
        ' WHERE excluded.seq != seq",\n            (name, origin, seq)',
        ("tests/contract/test_store.py",),
    ),
    Planted(
        "the head stays on a damaged batch of one record",
        "p2p/store/base.py",
        "if seq_begin <= state.seq:\n            # Where",
        "if seq_begin < state.seq:\n            # Where",
        ("tests/unit/store", "tests/contract/test_store.py"),
    ),
    Planted(
        "a commit does not wait for the disk",
        "p2p/store/sqlite.py",
        '"PRAGMA synchronous = FULL"',
        '"PRAGMA synchronous = NORMAL"',
        (
            "tests/unit/store",
            "tests/contract/test_store.py",
        ),
    ),
    Planted(
        "what was not applied is acknowledged",
        "p2p/replication/accept.py",
        "return max(min(head_seq, seq_begin - 1), 0)",
        "return max(min(head_seq, seq_begin), 0)",
        ("tests/unit/replication",),
    ),
    Planted(
        "a batch that follows another history is appended",
        "p2p/replication/accept.py",
        "if held is None and batch.prev_hash != head.hash:",
        "if held is None and batch.seq_begin <= head.seq:",
        ("tests/unit/replication",),
    ),
    Planted(
        "an ack gives less room back than its push took",
        "p2p/replication/pushes.py",
        "self.credit(push.seq_end - push.seq_begin + 1)",
        "self.credit(push.seq_end - push.seq_begin)",
        (
            "tests/unit/replication",
            "tests/sim/test_exchange.py",
        ),
    ),
    Planted(
        "bytes without acks have no bound",
        "p2p/replication/pushes.py",
        "while ready and self.window > 0 and self.unacked_bytes < bytes_max:",
        "while ready and self.window > 0:",
        (
            "tests/unit/replication",
            "tests/sim/test_exchange.py",
        ),
    ),
    Planted(
        "an envelope may be opened again",
        "p2p/session/sealing.py",
        "if nonce != self._next_nonce():",
        "if nonce > self._next_nonce():",
        ("tests/unit/session",),
    ),
    Planted(
        "the nonces of a handshake need not be those that were said",
        "p2p/session/handshake.py",
        "if not reader.skip(self._nonces):",
        "if reader.varint_as_it_is() != self._nonce_a or reader.varint() < 0:",
        ("tests/unit/session",),
    ),
    Planted(
        "a proof may be of this side's own role",
        "p2p/session/handshake.py",
        "theirs = Role.RESPONDER if self._role is Role.INITIATOR else Role.INITIATOR",
        "theirs = Role.INITIATOR",
        ("tests/unit/session",),
    ),
    Planted(
        "a label that is strongly another's is taken over",
        "p2p/policy/pins.py",
        "return PinResult.MATCHED if holder == peer_id else PinResult.REFUSED",
        "return PinResult.MATCHED if holder == peer_id or strong else PinResult.REFUSED",
        ("tests/unit/policy/test_pins.py",),
    ),
    Planted(
        "whoever answers is as good as who was dialled",
        "p2p/node/supervisor.py",
        "if expected is not None and expected not in (str(peer_id), proven.node_id):",
        'if expected is not None and expected in (str(peer_id), proven.node_id, "") and False:',
        (
            "tests/contract/test_node.py",
            "tests/hostile/test_node_rogues.py",
        ),
    ),
    Planted(
        "a slice of a circuit costs no allowance",
        "p2p/relay/leg.py",
        "self.allowance -= size",
        "self.allowance -= 0",
        ("tests/unit/relay",),
    ),
    Planted(
        "credit for what waits is given twice",
        "p2p/relay/leg.py",
        "self.credit + self.queued_bytes + credit > self._window",
        "self.credit + credit > self._window",
        ("tests/unit/relay",),
    ),
    Planted(
        "a circuit that is over keeps its place",
        "p2p/relay/switch.py",
        "            self._passages.pop(passage, None)\n",
        "            pass\n",
        ("tests/unit/relay",),
    ),
    Planted(
        "a rate of circuits is held for one direction only",
        "p2p/relay/switch.py",
        "            for side in passage.sides:\n                if side.held:",
        "            for side in passage.sides[:1]:\n                if side.held:",
        ("tests/unit/relay",),
    ),
    Planted(
        "a manual dial brings an automatic one forward",
        "p2p/policy/backoff.py",
        "due = max(due, before.due)",
        "due = min(due, before.due)",
        (
            "tests/unit/policy/test_backoff.py",
            "tests/unit/policy/test_guard.py",
        ),
    ),
    Planted(
        "a link that gave way counts as a failure",
        "p2p/policy/guard.py",
        "if replaced or lasted_s >= self._limits.flapping_s:",
        "if lasted_s >= self._limits.flapping_s:",
        ("tests/unit/policy/test_guard.py",),
    ),
    Planted(
        "an entry of the registry is listed after its time",
        "http_control/registry/sqlite.py",
        "AND spot < ? AND expires > ? ORDER",
        "AND spot < ? AND expires > ? - 1 ORDER",
        ("tests/contract/test_registry_table.py",),
    ),
    Planted(
        "a follower that could not read forgets what it wanted",
        "p2p/node/follow.py",
        "            self._line[origin] = None\n            self._line.move_to_end(origin, last=False)\n",
        "",
        (
            "tests/unit/node/test_wal.py",
            "tests/contract/test_replication.py",
        ),
    ),
    Planted(
        "what is for everybody expires, too",
        "p2p/node/follow.py",
        "if record.target is not None and wall_ms_of(record.hlc) < self._oldest_ms():",
        "if wall_ms_of(record.hlc) < self._oldest_ms():",
        (
            "tests/unit/node/test_wal.py",
            "tests/contract/test_store_and_forward.py",
        ),
    ),
    Planted(
        "a place is dialled when its hint has expired",
        "p2p/policy/targets.py",
        "if earliest.forgotten_at > now:",
        "if earliest:",
        ("tests/unit/policy/test_targets.py",),
    ),
    Planted(
        "one message too many waits",
        "p2p/peer/outbox.py",
        "if self.data_messages >= self._messages_max:",
        "if self.data_messages > self._messages_max:",
        ("tests/unit/peer",),
    ),
    Planted(
        "answers wait without a bound of bytes",
        "p2p/peer/outbox.py",
        "len(control) >= limits.outbox_control_messages_max or self._control_bytes >= limits.outbox_control_bytes_max",
        "len(control) >= limits.outbox_control_messages_max",
        ("tests/unit/peer",),
    ),
    Planted(
        "a request that was given up keeps its place",
        "p2p/peer/asking.py",
        "        self._open.pop(ask, None)\n",
        "        self._open.pop(ask, None) if ask.reply else None\n",
        (
            "tests/contract/test_requests.py",
            "tests/unit/peer",
        ),
    ),
    Planted(
        "an answer that comes twice is taken twice",
        "p2p/peer/asking.py",
        "            del self._abandoned[msg_id]\n        elif",
        "            pass\n        elif",
        (
            "tests/contract/test_requests.py",
            "tests/unit/peer",
            "tests/hostile/test_node_requests.py",
        ),
    ),
    Planted(
        "an unproven connection keeps its slot",
        "p2p/node/supervisor.py",
        "self._slots.leave(link, authenticated=False)",
        "None",
        (
            "tests/contract/test_node.py",
            "tests/hostile/test_node_strangers.py",
        ),
    ),
    Planted(
        "records that this node itself holds count as replicated",
        "p2p/node/replicator.py",
        "return largest[-1] if len(largest) == peers else 0",
        "return largest[-1] if len(largest) >= peers - 1 and largest else 0",
        (
            "tests/unit/node/test_replicator.py",
            "tests/contract/test_replication.py",
        ),
    ),
    Planted(
        "what relays told is kept when they are gone",
        "p2p/node/paths.py",
        "            self.router.forget_relay(link.peer_id)\n",
        "",
        (
            "tests/unit/node/test_paths.py",
            "tests/contract/test_relay.py",
        ),
    ),
    Planted(
        "a request that was given up is sent all the same",
        "p2p/peer/outbox.py",
        "                if not ask.is_over:\n",
        "                if True:\n",
        ("tests/unit/peer/test_outbox.py",),
    ),
    Planted(
        "a link that gives way lasts longer than it may",
        "p2p/peer/parting.py",
        "self.end_by = min(now + quiet_s, self.over_by)",
        "self.end_by = now + quiet_s",
        ("tests/unit/peer/test_parting.py",),
    ),
    Planted(
        "a circuit speaks until it has nothing more to say",
        "p2p/relay/leg.py",
        "                turns.append(leg)\n            else:",
        "                turns.appendleft(leg)\n            else:",
        ("tests/unit/relay",),
    ),
    Planted(
        "whatever a supplier pushes keeps it its place",
        "p2p/replication/sync.py",
        "        if begin != expected:\n            return False\n        self._arr",
        "        self._arr",
        ("tests/unit/replication/test_sync.py",),
    ),
    Planted(
        "an entry of a segment is not synced",
        "p2p/store/segments.py",
        "_all(descriptor, part.start, part.entries, done)\n                os.fdatasync(descriptor)\n",
        "_all(descriptor, part.start, part.entries, done)\n",
        ("tests/unit/store/test_segments.py",),
    ),
    Planted(
        "whatever an application's rule returns is a yes unless it is false",
        "http_control/auth.py",
        "guess.is_right = said is True",
        "guess.is_right = bool(said)",
        ("tests/http/test_who_may.py",),
    ),
    Planted(
        "whom an application's rule thinks about counts as no guess before it has said no",
        "http_control/pace.py",
        " + asking.under_way >= ",
        " >= ",
        ("tests/http/test_pace.py", "tests/http/test_who_may.py"),
    ),
    Planted(
        "an append that is cancelled as it waits keeps its room",
        "p2p/node/writer.py",
        "            self._release_room(_count(call.portions[call.taken :]))\n",
        "",
        ("tests/unit/node/test_writer.py",),
    ),
    Planted(
        "who waits for an answer to his ping is not told of the end of the link",
        "p2p/peer/connection.py",
        "        self.life.wake()\n\n    def _settle",
        "\n    def _settle",
        ("tests/unit/peer/test_connection.py",),
    ),
    Planted(
        "the number of a segment that is left for a newer index is given again",
        "p2p/store/replay.py",
        "max((*known, *numbers), default=0) + 1",
        "max(known, default=0) + 1",
        ("tests/unit/store/test_segments.py",),
    ),
    Planted(
        "who comes through a relay is pinned on first sight",
        "p2p/node/supervisor.py",
        '"ephemeral" in proven.capabilities or not link.direct',
        '"ephemeral" in proven.capabilities',
        ("tests/contract/test_relay.py",),
    ),
    Planted(
        "a ban is a thousand times shorter after a restart",
        "p2p/node/supervisor.py",
        "int(ban_s * 1000)",
        "int(ban_s)",
        ("tests/contract/test_book.py",),
    ),
    Planted(
        "the settings show the key of the network",
        "p2p/node/config.py",
        "network_key: bytes | None = field(default=None, repr=False)",
        "network_key: bytes | None = field(default=None)",
        ("tests/unit/node/test_config.py",),
    ),
    Planted(
        "bytes of requests that were answered stay counted",
        "p2p/node/serving.py",
        "        share.bytes -= len(call.message.body)\n",
        "",
        ("tests/unit/node/test_serving.py",),
    ),
    Planted(
        "what was claimed of logs that nobody holds is never forgotten",
        "p2p/replication/suppliers.py",
        "            del self._origins[origin]",
        "            pass",
        ("tests/unit/replication/test_suppliers.py",),
    ),
    Planted(
        "a row of messages counts with its first id, and not with its last",
        "p2p/session/session.py",
        "item.first_id + len(item.bodies) - 1",
        "item.first_id",
        ("tests/unit/session/test_live.py",),
    ),
    Planted(
        "small messages are taken for alike by a look at the last of them",
        "p2p/session/bundles.py",
        "some) == part",
        'some) != b""',
        ("tests/unit/session/test_bundles.py",),
    ),
    Planted(
        "messages of 2 KiB and more are taken for alike by a look at the last of them",
        "p2p/session/bundles.py",
        '== b"".join(heads)',
        '!= b""',
        ("tests/unit/session/test_bundles.py",),
    ),
    Planted(
        "a row makes one message too many of a bundle",
        "p2p/session/session.py",
        "self._group_messages + count <= self._bundle_max",
        "self._group_messages + count <= self._bundle_max + 1",
        ("tests/unit/session/test_live.py",),
    ),
    Planted(
        "a handshake that goes on slowly has no end",
        "p2p/session/session.py",
        "        if state in HANDSHAKING:\n            return self._started + limits.handshake_s_max\n",
        "        if state in HANDSHAKING:\n            return self._liveness.last_seen + limits.handshake_s_max\n",
        ("tests/unit/session",),
    ),
    Planted(
        "who says one name in the clear and another one in his proof comes in",
        "p2p/session/handshake.py",
        "if proven.node_id != self._peer_label:",
        "if False:",
        ("tests/unit/session",),
    ),
    Planted(
        "the version may change within a handshake",
        "p2p/session/handshake.py",
        '            raise RemoteProtocolError("the handshake changes its version", Reason.VERSION)',
        "            pass",
        ("tests/unit/session",),
    ),
    Planted(
        "what waits is sent to who broke the rules",
        "p2p/session/session.py",
        "        self._out = []\n        self._out_bytes = 0\n        self._end(",
        "        self._end(",
        ("tests/unit/session",),
    ),
    Planted(
        "a peer that held our log before is not told our heads when it comes back",
        "p2p/replication/exchange.py",
        "        sync.start(now)\n",
        "        if peer not in self._confirmed:\n            sync.start(now)\n",
        ("tests/unit/replication",),
    ),
    Planted(
        "only the first batch of a log has its signature checked",
        "p2p/replication/accept.py",
        "    if not verify_signature(batch):",
        "    if head.seq == 0 and not verify_signature(batch):",
        ("tests/unit/replication",),
    ),
    Planted(
        "only one of the two signatures of a proof is checked",
        "p2p/replication/fork.py",
        "if not (verify_signature(one) and verify_signature(other)):",
        "if not verify_signature(one):",
        ("tests/unit/replication",),
    ),
    Planted(
        "what is pushed need not continue the log that the peer showed",
        "p2p/replication/pushes.py",
        "                queue.peer_hash is not None and prev_hash_of(first.wal_bytes) != queue.peer_hash\n",
        "                False\n",
        ("tests/unit/replication", "tests/sim/test_exchange.py"),
    ),
    Planted(
        "a batch goes although the window is used up",
        "p2p/replication/pushes.py",
        "        while ready and self.window > 0",
        "        while ready and self.window >= 0",
        ("tests/unit/replication",),
    ),
    Planted(
        "what changed on a link that is not concerned is never told",
        "p2p/replication/sync.py",
        "            self._later_at, self._soon_at = NEVER, now",
        "            self._later_at = NEVER",
        ("tests/unit/replication", "tests/sim/test_exchange.py"),
    ),
    Planted(
        "what a link claimed outlives it",
        "p2p/replication/suppliers.py",
        "            state.doubts.pop(link, None)\n            state.forget_claim(link)\n            if",
        "            state.doubts.pop(link, None)\n            if",
        ("tests/unit/replication",),
    ),
    Planted(
        "what an earlier link confirmed outlives the peer's store",
        "p2p/replication/exchange.py",
        "if self._confirmed.pop(sync.peer, 0) or sync.confirmed:",
        "if sync.confirmed:",
        ("tests/unit/replication",),
    ),
    Planted(
        "what was begun of a batch stays when its transaction fails",
        "p2p/store/sqlite.py",
        "                appends.withdraw()\n",
        "",
        ("tests/unit/store/test_ahead.py",),
    ),
    Planted(
        "another batch is taken for the one that was begun",
        "p2p/store/segments.py",
        " and added.startswith(ahead.header)",
        "",
        ("tests/unit/store/test_ahead.py",),
    ),
    Planted(
        "what was begun and is not added stays",
        "p2p/store/sqlite.py",
        "                appends.write()\n",
        "                if appends.parts:\n                    appends.write()\n",
        ("tests/unit/store/test_ahead.py",),
    ),
    Planted(
        "a transaction that was taken back and is done again finds the store failed",
        "p2p/store/segments.py",
        "            self.is_written = is_written\n\n    def add",
        "\n    def add",
        ("tests/unit/store/test_ahead.py",),
    ),
    Planted(
        "the directory is not synced after a segment was made",
        "p2p/store/segments.py",
        "            if part.is_new:\n                sync(self._store.parent)\n",
        "",
        ("tests/unit/store", "tests/crash"),
    ),
    Planted(
        "an error as a segment is written is lost",
        "p2p/store/sqlite.py",
        "appends)\n                raise\n",
        "appends)\n                if not appends.is_written or is_committing:\n                    raise\n",
        ("tests/unit/store", "tests/contract/test_store.py"),
    ),
    Planted(
        "commits are not synced",
        "p2p/store/sqlite.py",
        'connection.execute("PRAGMA synchronous = FULL")',
        'connection.execute("PRAGMA synchronous = NORMAL")',
        ("tests/unit/store", "tests/crash"),
    ),
    Planted(
        "the proof of a forgotten fork counts against who comes next",
        "p2p/store/transaction.py",
        '        execute("DELETE FROM proofs WHERE origin = ?", (number,))\n',
        "",
        ("tests/contract/test_store.py",),
    ),
    Planted(
        "a log that is mended goes on beyond its fork",
        "p2p/store/base.py",
        "(frozen_from is not None and held.seq_end >= frozen_from)",
        "(frozen_from is not None and held.seq_end > frozen_from)",
        ("tests/contract/test_store.py",),
    ),
    Planted(
        "a signature that rots is not found",
        "p2p/store/base.py",
        "        and zlib.crc32(wal_bytes[-64:]) == signature_crc\n",
        "",
        ("tests/unit/store", "tests/contract/test_store.py"),
    ),
    Planted(
        "a link is not told that a circuit has something to say",
        "p2p/relay/leg.py",
        "        if len(turns) == 1:\n            self._wake()",
        "        if len(turns) == 0:\n            self._wake()",
        ("tests/unit/relay",),
    ),
    Planted(
        "a circuit may be opened twice with one number",
        "p2p/relay/switch.py",
        "circuit <= link.seen_max:\n            raise",
        "circuit < link.seen_max:\n            raise",
        ("tests/unit/relay",),
    ),
    Planted(
        "whoever relays may open a circuit in anybody's name, fresh",
        "p2p/relay/switch.py",
        "if source != link.peer_id and not (link.is_relay and message.ttl < TTL_MAX):",
        "if source != link.peer_id and not link.is_relay:",
        ("tests/unit/relay",),
    ),
    Planted(
        "a circuit is passed on with all the hops that it had",
        "p2p/relay/switch.py",
        "self._way_to(target, link, ttl - 1)",
        "self._way_to(target, link, ttl)",
        ("tests/unit/relay",),
    ),
    Planted(
        "a circuit that is closed loses what waits",
        "p2p/relay/leg.py",
        "            self._grant = 0\n            self._enlist()\n\n    def refuse",
        "            self._grant = 0\n            self._queue.clear()\n            self._enlist()\n\n    def refuse",
        ("tests/unit/relay",),
    ),
    Planted(
        "appends that were held are not woken when the hold is over",
        "p2p/node/writer.py",
        "        self._held_until = -math.inf\n        self._wake.set()\n",
        "        self._held_until = -math.inf\n",
        ("tests/unit/node/test_writer.py", "tests/unit/node/test_own_log.py"),
    ),
    Planted(
        "an append whose commit failed is told that it is durable",
        "p2p/node/writer.py",
        "        self._refuse(shares, error)\n        for each in queued:",
        "        for share in shares:\n            share.call.finish()\n        for each in queued:",
        ("tests/unit/node/test_writer.py",),
    ),
    Planted(
        "timestamps repeat after a restart",
        "p2p/node/commits.py",
        "            self._go_on_above(parse_batch(loaded.batches[0].wal_bytes))\n        return Taken",
        "            pass\n        return Taken",
        ("tests/unit/node",),
    ),
    Planted(
        "records that wait for our log's return change their order",
        "p2p/node/writer.py",
        "in reversed(shares):",
        "in shares:",
        ("tests/unit/node",),
    ),
)


def mutants_of(path: str, source: str) -> Iterator[Mutant]:
    """Every change of a file that is known here."""
    tree = ast.parse(source)
    lines = [0]
    for line in source.encode().splitlines(keepends=True):
        lines.append(lines[-1] + len(line))

    def change(node: ast.expr | ast.stmt, text: str) -> Mutant:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start, stop = lines[node.lineno - 1] + node.col_offset, lines[node.end_lineno - 1] + node.end_col_offset
        return Mutant(path, node.lineno, start, stop, text)

    for node in _nodes(tree):
        if isinstance(node, ast.Compare):
            for index, operator in enumerate(node.ops):
                if other := _COMPARISONS.get(type(operator)):
                    ops = [*node.ops[:index], other(), *node.ops[index + 1 :]]
                    yield change(node, f"({ast.unparse(ast.Compare(node.left, ops, node.comparators))})")
        elif isinstance(node, ast.BoolOp):
            other_bool = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield change(node, f"({ast.unparse(ast.BoolOp(other_bool, node.values))})")
        elif isinstance(node, ast.BinOp) and (other_op := _ARITHMETIC.get(type(node.op))):
            yield change(node, f"({ast.unparse(ast.BinOp(node.left, other_op(), node.right))})")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield change(node, f"({ast.unparse(node.operand)})")
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            yield change(node, f"({node.value + 1})")
        elif isinstance(node, ast.Constant) and type(node.value) is bool:
            yield change(node, str(not node.value))
        elif isinstance(node, ast.If | ast.While | ast.IfExp):
            yield change(node.test, f"(not ({ast.unparse(node.test)}))")
        elif isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
            yield change(node, "return None")
        if isinstance(node, ast.AugAssign | ast.Raise) or _is_effect(node):
            assert isinstance(node, ast.stmt)
            yield change(node, "pass")


def _is_effect(node: ast.AST) -> bool:
    """A statement that does something without naming a variable: one that is missed only for what it does."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call | ast.Await)
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute | ast.Subscript)


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that are only words: annotations, messages, assertions, what prints itself."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Assert | ast.JoinedStr):
            continue
        if isinstance(node, ast.FunctionDef) and node.name in {"__repr__", "__str__"}:
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        skipped = {"annotation", "returns", "decorator_list"}
        skipped |= {"slice"} if _is_type(node) else set()
        skipped |= {"keywords"} if isinstance(node, ast.ClassDef) else set()
        for field, value in ast.iter_fields(node):
            if field not in skipped and not (isinstance(node, ast.Raise) and field == "exc"):
                todo += [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, ast.AST)]


def _is_type(node: ast.AST) -> bool:
    return isinstance(node, ast.Subscript) and ast.unparse(node.value).split(".")[-1][:1].isupper()


class _Times(NamedTuple):
    """How long a run of tests may take at the most, by the clock and of a processor."""

    wall_s: float
    cpu_s: float


class Bench:
    """A copy of the tree in which one file at a time is another one.

    Args:
        folder: an empty one, to copy to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bounds: dict[tuple[str, ...], _Times] = {}
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / name, folder / name)

    def read(self, path: str) -> bytes:
        """A file as it is without any change."""
        return (ROOT / path).read_bytes()

    def notices(self, path: str, content: bytes, tests: tuple[str, ...]) -> bool:
        """Whether the tests fail, or hang, with this content of a file. Those that have its name run first."""
        place = self._folder / path
        named = [str(test.relative_to(ROOT)) for test in sorted(ROOT.glob(f"tests/unit/**/test_{place.stem}.py"))]
        first = tuple(test for test in named if any(Path(test).is_relative_to(wanted) for wanted in tests))
        parts = [part for part in (first, tests) if part]
        bounds = [self._bounds_of(part) for part in parts]
        before, times = place.read_bytes(), place.stat()
        try:
            # A later time than the original's, whose compiled form is not taken for this one's then.
            place.write_bytes(content)
            return any(self._fails(part, most) for part, most in zip(parts, bounds, strict=True))
        finally:
            place.write_bytes(before)
            os.utime(place, ns=(times.st_atime_ns, times.st_mtime_ns))

    def _bounds_of(self, tests: tuple[str, ...]) -> _Times:
        if tests not in self._bounds:
            started, cpu_before = time.monotonic(), _cpu_of_children_s()
            if self._fails(tests, None):
                raise SystemExit(f"without any change these fail: {' '.join(tests)}")
            wall_s, cpu_s = time.monotonic() - started, _cpu_of_children_s() - cpu_before
            self._bounds[tests] = _Times(TIMES_SLOWER * wall_s + SLACK_S, TIMES_SLOWER * cpu_s + SLACK_CPU_S)
        return self._bounds[tests]

    def _fails(self, tests: tuple[str, ...], most: _Times | None) -> bool:
        # Only the first run, without a change, keeps what it compiles. To make an example small that fails would cost
        # four times what it takes to find one, and nobody reads it.
        environ = {
            **os.environ,
            "PYTHONPATH": str(self._folder),
            "PYTHONDONTWRITEBYTECODE": "1" if most else "",
            "HYPOTHESIS_PROFILE": "quick",
        }
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider", *tests]
        if most:
            # What turns in a circle is found by its own time, whoever else is busy on this machine.
            command = ["/bin/sh", "-c", f'ulimit -t {math.ceil(most.cpu_s)} && exec "$@"', "sh", *command]
        try:
            done = subprocess.run(
                command,
                cwd=self._folder,
                env=environ,
                capture_output=True,
                timeout=most.wall_s if most else None,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return True
        if done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED:
            raise SystemExit(f"there are no tests in {' '.join(tests)}")
        return done.returncode != 0


def _cpu_of_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _files(patterns: Sequence[str]) -> Iterator[str]:
    for pattern in patterns:
        place = ROOT / pattern
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            yield str(file.relative_to(ROOT))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def try_mutants(bench: Bench, rooms: Sequence[str], sample: int, seed: int) -> bool:
    """Try a sample of each room; says of each how many were noticed. Whether at least 90 % were, everywhere."""
    is_good = True
    for room in rooms:
        patterns, tests = ROOMS[room]
        every = [m for path in _files(patterns) for m in mutants_of(path, bench.read(path).decode())]
        chosen = random.Random(f"{seed}/{room}").sample(every, min(sample, len(every)))
        noticed = 0
        for mutant in chosen:
            source = bench.read(mutant.path)
            changed = source[: mutant.start] + mutant.text.encode() + source[mutant.stop :]
            if bench.notices(mutant.path, changed, tests):
                noticed += 1
            else:
                was = " ".join(source[mutant.start : mutant.stop].decode().split())
                _say(f"  survived: {mutant.path}:{mutant.line}: {was[:90]}  ->  {mutant.text[:90]}")
        _say(f"{room}: {noticed} of {len(chosen)} noticed ({noticed / len(chosen):.0%}), of {len(every)}")
        is_good &= noticed >= 0.9 * len(chosen)
    return is_good


def try_planted(bench: Bench, words: Sequence[str]) -> bool:
    """Try the whole bugs whose name or file has one of the words, all without words. Whether all were noticed."""
    is_good = True
    for bug in PLANTED:
        if words and not any(word in f"{bug.name} {bug.path}" for word in words):
            continue
        source = bench.read(bug.path).decode()
        if source.count(bug.old) != 1:
            raise SystemExit(f"{bug.path} does not have this once any more: {bug.old!r}")
        is_noticed = bench.notices(bug.path, source.replace(bug.old, bug.new).encode(), bug.tests)
        _say(f"{'noticed' if is_noticed else 'SURVIVED'}: {bug.name}")
        is_good &= is_noticed
    return is_good


def main() -> int:
    """0 if enough is noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.mutants", description=__doc__)
    parser.add_argument("--sample", type=int, default=200, help="mutants of all rooms together (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default 0)")
    parser.add_argument("--room", choices=sorted(ROOMS), help="only of this room")
    parser.add_argument("--planted", nargs="*", metavar="WORD", help="try the whole bugs instead")
    options = parser.parse_args()
    rooms = [options.room] if options.room else list(ROOMS)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        bench = Bench(Path(folder))
        if options.planted is not None:
            return 0 if try_planted(bench, options.planted) else 1
        return 0 if try_mutants(bench, rooms, max(1, options.sample // len(rooms)), options.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
