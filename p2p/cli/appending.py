"""Two ways for lines into a data dir's log: as a node of our own, or through the node that holds it.

Both take lines, leave out what is too long and tell of it, and say which seqs they became.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from p2p.cli.output import complain
from p2p.cli.records import fitting, portions

if TYPE_CHECKING:
    import p2p
    from p2p.cli.client import Control

BODY_BYTES: Final = 48 * 1024
"""What one request takes of lines, as JSON; a body may have 64 KiB."""
LINES_PER_REQUEST: Final = 1024


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


class Appender(Protocol):
    """Where lines go."""

    done: Appended

    async def append(self, lines: Iterable[bytes]) -> None:
        """Make them records, durable when it returns."""


class ThroughStore:
    """As a node of our own, which holds the data dir."""

    def __init__(self, node: p2p.Node, kind: str, target: p2p.PeerId | None) -> None:
        self._node = node
        self._kind = kind
        self._target = target
        self.done = Appended()

    async def append(self, lines: Iterable[bytes]) -> None:
        """Make lines records: a portion becomes durable as a whole."""
        for portion in portions(fitting(self._node, lines, kind=self._kind, target=self._target)):
            seqs = await self._node.wal.append_many(portion, kind=self._kind, target=self._target)
            self.done.add(seqs[0], seqs[-1], len(seqs))


class ThroughControl:
    """Through the HTTP control of the node that holds the data dir."""

    def __init__(self, control: Control, kind: str, target: p2p.PeerId | None) -> None:
        self._control = control
        self._kept = {"kind": kind, "target": None if target is None else str(target)}
        self.done = Appended()

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
