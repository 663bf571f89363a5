"""Reading a Bundle: what stands in it, with application messages decoded.

Responsible for one thing beyond `envelope.iter_bundle`: messages that are alike. An application that sends much mostly
sends to one channel, and often in one size; then the bytes of one message before its body are those of the message
before, all but the id. Once two in a row have been of one size, those that follow are cut at that size all at once,
and what is around the id is compared instead of being taken apart: equal bytes mean the same thing, and were judged
already. The first that differs in any byte, or whose id does not grow, is read as the first of all was.

Such a row is given out as one `Row`, so that whoever takes it on can do per row what would cost more per message than
the message itself: reading 128 B takes 0.25 µs then, where it takes 1.2 one by one, and so does handing it on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, TypeAlias

import msgspec

from p2p.binary import Buffer
from p2p.envelope import COMPRESSED, ID_AT, ID_BYTES, MessageType, read_inner, too_many_inside
from p2p.msg import Data, decode_data

_DATA: Final = int(MessageType.DATA)


class Row(msgspec.Struct, frozen=True, gc=False):
    """Application messages that followed one another and differ in id and body alone. There is one at least.

    Attributes:
        flags, channel, reply_to, status: of each.
        ids: of the messages, growing.
        bodies: as many.
    """

    flags: int
    channel: str
    reply_to: int
    status: int
    ids: list[int]
    bodies: list[bytes]


Single: TypeAlias = tuple[int, int, int, Data | Buffer]
"""Type, id and flags of a message that came alone, and what it is."""


def read_bundle(payload: bytes, messages_max: int) -> Iterator[Single | Row]:
    """Walk over the messages of a Bundle, in order.

    One message is (type, msg_id, flags, message), with a `Data`, or with the payload of any other type and of a Data
    that says it is compressed.

    Args:
        payload: what was sealed as a Bundle.
        messages_max: how many there may be.

    Raises:
        RemoteProtocolError: see `envelope.iter_bundle` and `msg.decode_data`. What came before was given out.
    """
    end, starts_with = len(payload), payload.startswith
    pos = count = size_before = 0
    while pos < end:
        count += 1
        if count > messages_max:
            raise too_many_inside(messages_max)
        type, msg_id, flags, header, start, stop = read_inner(payload, pos, end)
        if type != _DATA or flags & COMPRESSED:
            yield type, msg_id, flags, payload[start:stop]
            pos = stop
            continue
        data = decode_data(payload[start:stop])
        yield type, msg_id, flags, data
        size = stop - pos
        if size == size_before:
            id_at = header - pos + ID_AT
            after_id = id_at + ID_BYTES
            before_id, behind_id = payload[pos : pos + id_at], payload[pos + after_id : stop - len(data.body)]
            if starts_with(before_id, stop) and starts_with(behind_id, stop + after_id):
                ids, bodies = _read_alike(payload, stop, size, before_id, behind_id, msg_id, messages_max - count)
                if ids:
                    yield Row(flags, data.channel, data.reply_to, data.status, ids, bodies)
                    count += len(ids)
                    stop += size * len(ids)
        size_before = size
        pos = stop


def _read_alike(
    payload: bytes, pos: int, size: int, before_id: bytes, behind_id: bytes, last_id: int, messages_max: int
) -> tuple[list[int], list[bytes]]:
    """Read messages of that size from `pos` for as long as they have those bytes around an id that grows."""
    ids: list[int] = []
    bodies: list[bytes] = []
    stop = pos + size * min((len(payload) - pos) // size, messages_max)
    body_bytes = size - len(before_id) - ID_BYTES - len(behind_id)
    cut = f"<{len(before_id)}sQ{len(behind_id)}s{body_bytes}s"
    for before, msg_id, behind, body in struct.iter_unpack(cut, memoryview(payload)[pos:stop]):
        if before != before_id or behind != behind_id or msg_id <= last_id:
            break
        ids.append(msg_id)
        bodies.append(body)
        last_id = msg_id
    return ids, bodies
