"""`p2p wal append`: two ways for lines into a data dir's log, as a node of our own, or through the node that holds it.

The first is a node without a listener and without peers: it takes the same lock, the same checks and the same group
commit as any other. Where a node holds the data dir already, it goes through that node's HTTP control.
Both take lines, leave out what is too long and tell of it, and say which seqs they became; also when they fail
half-way, so that who tries again can go on from there. A signal ends the reading and not the appending: what is on its
way into a log becomes durable whether anybody waits for it or not, so it is waited for and counted.
"""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import trio

import p2p
from p2p.cli.client import Control, ControlFailed, NotServed, Target, open_control
from p2p.cli.output import Output, complain, counted, json_line
from p2p.cli.records import fitting, line_splitter, portions
from p2p.cli.settings import UsageError
from p2p.cli.signals import on_signal, stop_signals
from p2p.cli.stdin import stdin_lines
from p2p.errors import ConfigError, StoreLocked
from p2p.ids import PeerId, is_peer_id_text
from p2p.limits import Limits

BODY_BYTES: Final = 48 * 1024
"""What one request takes of lines, as JSON; a body may have 64 KiB."""
LINES_PER_REQUEST: Final = 1024
APPEND_S_MAX: Final = Limits().append_delay_at_start_s_max + 1.0
"""What is under way as a signal comes has so long to become durable; a second signal ends that, too."""


@dataclass(slots=True)
class Appended:
    """What came of it so far.

    Attributes:
        count: records that are durable.
        first, last: their seqs, None without any; others may have appended in between.
    """

    count: int = 0
    first: int | None = None
    last: int | None = None

    def add(self, first: int, last: int, count: int) -> None:
        """Count records that have become durable."""
        self.first = first if self.first is None else self.first
        self.last = last
        self.count += count


@dataclass(slots=True)
class Taken:
    """What of standard input was taken.

    Attributes:
        lines: whole ones that were read, with those that are left out.
        in_doubt: of these, the last ones of which nobody knows whether they are durable.
        begun: bytes of a line that had not ended as a signal came.
        stopped_by: that signal; None if the input came to its end.
    """

    lines: int = 0
    in_doubt: int = 0
    begun: int = 0
    stopped_by: int | None = None


class Appender(Protocol):
    """Where lines go."""

    done: Appended

    async def append(self, lines: Iterable[bytes]) -> None:
        """Make them records, durable when it returns."""


class ThroughStore:
    """As a node of our own, which holds the data dir."""

    def __init__(self, node: p2p.Node, kind: str, target: PeerId | None, done: Appended) -> None:
        self._node = node
        self._kind = kind
        self._target = target
        self.done = done

    async def append(self, lines: Iterable[bytes]) -> None:
        """Make lines records: a portion becomes durable as a whole."""
        for portion in portions(fitting(self._node, lines, kind=self._kind, target=self._target)):
            seqs = await self._node.wal.append_many(portion, kind=self._kind, target=self._target)
            self.done.add(seqs[0], seqs[-1], len(seqs))


class ThroughControl:
    """Through the HTTP control of the node that holds the data dir."""

    def __init__(self, control: Control, kind: str, target: PeerId | None, done: Appended) -> None:
        self._control = control
        self._kept = {"kind": kind, "target": None if target is None else str(target)}
        self.done = done

    async def append(self, lines: Iterable[bytes]) -> None:
        """Make lines records, as many in one request as fit it."""
        for body in bodies(lines):
            answer = await self._control.post("/wal", body | self._kept)
            self.done.add(answer["first_seq"], answer["seq"], answer["count"])


def bodies(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Requests that hold lines, in order; tells of each line that fits none."""
    texts: list[str] = []
    size = 0
    for line in lines:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text = None
        encoded = len(json.dumps(text)) if text is not None else (len(line) + 2) // 3 * 4
        if encoded > BODY_BYTES:
            complain(f"a line is left out: {len(line)} bytes are more than the node takes over HTTP")
            continue
        if texts and (text is None or size + encoded > BODY_BYTES or len(texts) == LINES_PER_REQUEST):
            yield {"payloads": texts}
            texts, size = [], 0
        if text is None:
            yield {"payload_b64": base64.b64encode(line).decode()}
        else:
            texts.append(text)
            size += encoded + 1
    if texts:
        yield {"payloads": texts}


def append_lines(data_dir: Path, *, as_json: bool, kind: str, target: str | None = None) -> int:
    """Append every line of standard input; returns the exit code.

    Raises:
        UsageError: the target is no peer id.
    """
    if target is not None and not is_peer_id_text(target):
        raise UsageError(f"--target {target[:80]!r}: records are for a peer id, 64 lowercase hex digits (`p2p id`)")
    return trio.run(_append_lines, data_dir, as_json, kind, None if target is None else PeerId.parse(target))


async def _append_lines(data_dir: Path, as_json: bool, kind: str, target: PeerId | None) -> int:
    done = Appended()
    try:
        taken = await _append_somehow(data_dir, kind, target, done)
    except Exception:
        if done.count:
            # What ended it is what the command ends with, wherever this can be written or not.
            with suppress(OSError):
                Output().verdict(_result(done, None, "it failed", as_json=as_json))
        raise
    if taken.stopped_by is not None:
        _tell_of_stop(taken)
        Output().verdict(_result(done, None, "it was stopped", as_json=as_json))
        return 128 + taken.stopped_by
    left_out = taken.lines - done.count
    Output().verdict(_result(done, left_out, as_json=as_json))
    return 1 if left_out else 0


def _tell_of_stop(taken: Taken) -> None:
    """Say what of standard input is not in the log, as far as it is known."""
    complain(f"stopped after {counted(taken.lines, 'line')} of standard input: what comes behind is not appended")
    if taken.begun:
        complain(f"the last line had not ended: its {counted(taken.begun, 'byte')} are not appended")
    if taken.in_doubt:
        complain(f"of these lines up to {taken.in_doubt} may be appended or not: `p2p wal tail` shows it")


def _result(done: Appended, left_out: int | None, why: str = "", *, as_json: bool) -> str:
    """What came of it; `left_out` is None if it ended half-way: then nobody knows how many lines there are."""
    if as_json:
        fields = {"appended": done.count, "first_seq": done.first, "last_seq": done.last, "left_out": left_out}
        return json_line(fields)
    if not done.count:
        return "appended nothing"
    some = f"appended {counted(done.count, 'record')}, seq {done.first}-{done.last}"
    return some if left_out is not None else f"{some}, before {why}"


async def _append_somehow(data_dir: Path, kind: str, target: PeerId | None, done: Appended) -> Taken:
    """Append every line of standard input, in one of the two ways."""
    is_up = False

    def say(line: str) -> None:
        # Once it is up, whatever keeps it from appending is the error that the command ends with.
        if not is_up:
            complain(line)

    config = p2p.NodeConfig(node_id="wal-append", listen_port=None, dial=False, data_dir=data_dir, on_log=say)
    logging.getLogger("p2p").addHandler(logging.NullHandler())
    with stop_signals() as signals:
        try:
            async with p2p.open_node(config) as node:
                is_up = True
                return await _append_all(signals, ThroughStore(node, kind, target, done))
        except StoreLocked as locked:
            try:
                async with open_control(Target(None, data_dir, None)) as control:
                    return await _append_all(signals, ThroughControl(control, kind, target, done))
            except NotServed:
                raise StoreLocked(
                    f"a node without HTTP control holds {data_dir}: lines go through one that runs with --http "
                    "127.0.0.1:0, or into the log of one that is stopped"
                ) from None
            except (ConfigError, ControlFailed) as error:
                raise StoreLocked(f"{locked}; and not through its HTTP control: {error}") from None


async def _append_all(signals: AsyncIterator[int], appender: Appender) -> Taken:
    """Append every line of standard input, or what came of it until a signal."""
    splitter = line_splitter()
    taken = Taken()
    reading, appending = trio.CancelScope(), trio.CancelScope()

    def stop(number: int) -> None:
        # A second one ends the process where it stands, which the log is made to survive.
        if taken.stopped_by is not None:
            os._exit(128 + number)
        taken.stopped_by = number
        reading.cancel()
        appending.deadline = trio.current_time() + APPEND_S_MAX

    async with aclosing(stdin_lines(splitter)) as pieces, trio.open_nursery() as tasks:
        tasks.start_soon(on_signal, signals, stop)
        with appending:
            while taken.stopped_by is None:
                lines: list[bytes] | None = None
                with trio.CancelScope() as reading:
                    lines = await anext(pieces, None)
                if lines is None:
                    break
                taken.lines += len(lines)
                taken.in_doubt = len(lines)
                await appender.append(lines)
                taken.in_doubt = 0
        tasks.cancel_scope.cancel()
    if splitter.too_long:
        complain(f"too long for a record, left out: {counted(splitter.too_long, 'line')}")
    taken.lines += splitter.too_long
    taken.begun = splitter.pending
    return taken
