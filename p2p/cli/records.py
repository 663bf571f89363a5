"""Lines on their way into a log: which of them fit, and in what portions they go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from p2p.cli.output import complain
from p2p.cli.stdin import LineSplitter
from p2p.errors import RecordTooLarge
from p2p.limits import Limits

if TYPE_CHECKING:
    import p2p

_LIMITS: Final = Limits()
PORTION_BYTES: Final = _LIMITS.batch_bytes_max // 2


def line_splitter() -> LineSplitter:
    """A splitter that gives up lines that no batch could hold."""
    return LineSplitter(_LIMITS.batch_bytes_max)


def portions(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Cut lines into lists that fit one batch each, so that an append of one happens whole or not at all."""
    portion: list[bytes] = []
    size = 0
    for line in lines:
        if portion and (len(portion) == _LIMITS.batch_records_max or size + len(line) > PORTION_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(line)
        # The few bytes that a record has beside its payload count, too, where payloads are short.
        size += len(line) + 64
    if portion:
        yield portion


def fitting(node: p2p.Node, lines: Iterable[bytes], *, kind: str, target: p2p.PeerId | None = None) -> Iterator[bytes]:
    """The lines that fit a record; tells of each that does not."""
    for line in lines:
        try:
            node.wal.check_size(line, kind=kind, target=target)
        except RecordTooLarge as error:
            complain(f"a line is left out: {error}")
        else:
            yield line
