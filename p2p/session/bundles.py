"""Reading a Bundle: what stands in it, with application messages decoded.

Responsible for one thing beyond `envelope.iter_bundle`: messages that are alike. An application that sends much mostly
sends to one channel, and often in one size; then the bytes of one message before its body are those of the message
before, all but the id. Once two in a row have been of one size, those that follow are cut at that size all at once,
and what is around their bodies is compared instead of being taken apart: equal bytes mean the same thing, and were
judged already. The first that differs in any byte, or whose id is not the next one, is read as the first of all was.

Such a row is given out as one `Row`, so that whoever takes it on can do per row what would cost more per message than
the message itself: reading 128 B takes 0.12 µs then, where it takes 1.2 one by one, and so does handing it on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

import msgspec

from p2p.binary import U64_MAX, Buffer
from p2p.envelope import (
    COMPRESSED,
    ID_AT,
    ID_BYTES,
    MessageType,
    frames_alike,
    ids_alike,
    read_inner,
    too_many_inside,
)
from p2p.msg import Data, decode_data

_DATA: Final = int(MessageType.DATA)
_FIRST_LOOK: Final = 8
"""So many messages are read one by one before others are at once, which takes 0.12 µs each and some µs to begin."""
_SMALL_BYTES: Final = 2048
"""Up to here it is quicker to make a whole message anew and compare it than to cut off what precedes its body."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """Application messages that followed one another and differ in id and body alone. There is one at least.

    Attributes:
        flags, channel, reply_to, status: of each.
        first_id: of the first; those of the others count on from there.
        bodies: one for each.
    """

    flags: int
    channel: str
    reply_to: int
    status: int
    first_id: int
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
                bodies = _read_alike(payload, stop, size, before_id, behind_id, msg_id + 1, messages_max - count)
                if bodies:
                    yield Row(flags, data.channel, data.reply_to, data.status, msg_id + 1, bodies)
                    count += len(bodies)
                    stop += size * len(bodies)
        size_before = size
        pos = stop


def _read_alike(
    payload: bytes, pos: int, size: int, before_id: bytes, behind_id: bytes, first_id: int, messages_max: int
) -> list[bytes]:
    """Read messages of that size from `pos` for as long as they have those bytes around ids that count on; the bodies.

    The first few one by one: many are alike, or soon another one comes. Then as many at once as a look at the last of
    them suggests, but four times as many as before at most, so that a Bundle that is made to mislead costs little more
    than others.
    """
    starts_with, view = payload.startswith, memoryview(payload)
    after_id = len(before_id) + ID_BYTES
    head = after_id + len(behind_id)
    room = min((len(payload) - pos) // size, messages_max, U64_MAX + 1 - first_id)
    look = min(room, _FIRST_LOOK)
    bodies = _read_one_by_one(view[pos : pos + look * size], size, before_id, behind_id, first_id)
    if len(bodies) < _FIRST_LOOK:
        return bodies
    some: Sequence[bytes] = bodies
    is_small = size <= _SMALL_BYTES
    cut = struct.Struct(f"<{head}{'x' if is_small else 's'}{size - head}s").iter_unpack
    while True:
        pos += len(some) * size
        first_id += len(some)
        room -= len(some)
        look = min(look * 4, room, ids_alike(first_id))
        if not look:
            return bodies
        last_at, part = pos + (look - 1) * size, view[pos : pos + look * size]
        is_alike = starts_with(before_id, last_at) and starts_with(behind_id, last_at + after_id)
        if is_alike and is_small:
            some = [body for (body,) in cut(part)]
            is_alike = frames_alike(before_id, first_id, behind_id, some) == part
        elif is_alike:
            # To copy and compare the bodies, too, would cost more than a second object for each message.
            heads, some = zip(*cut(part), strict=True)
            is_alike = frames_alike(before_id, first_id, behind_id, [b""] * look) == b"".join(heads)
        if not is_alike:
            return bodies + _read_one_by_one(part, size, before_id, behind_id, first_id)
        bodies += some


def _read_one_by_one(part: memoryview, size: int, before_id: bytes, behind_id: bytes, first_id: int) -> list[bytes]:
    """The bodies of those that are alike, up to the first that is not: 0.25 µs each."""
    bodies: list[bytes] = []
    cut = f"<{len(before_id)}sQ{len(behind_id)}s{size - len(before_id) - ID_BYTES - len(behind_id)}s"
    for msg_id, (before, found_id, behind, body) in enumerate(struct.iter_unpack(cut, part), first_id):
        if before != before_id or behind != behind_id or found_id != msg_id:
            break
        bodies.append(body)
    return bodies
