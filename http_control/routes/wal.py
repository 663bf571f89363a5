"""The log: how far it is held, what is in it, and appending to it."""

from __future__ import annotations

from typing import Final

import trio

from http_control import shapes
from http_control.operation import Call, Operation
from http_control.payload import bytes_of
from http_control.problem import Problem
from http_control.views import record_of
from p2p import ConfigError, OwnLogForked, PeerId, RecordTooLarge, StoreError, StoreFull


async def wal(call: Call) -> shapes.Wal:
    """Show heads, digest and lag."""
    query: shapes.WalQuery = call.query
    view = call.control.view()
    heads = []
    for origin in view.origins()[query.offset : query.offset + query.limit]:
        heads.append(view.log_head(origin, differing=query.marks == "differing"))
        # A thousand logs with sixty marks each take longer than others should wait.
        await trio.lowlevel.checkpoint()
    return shapes.Wal(
        digest=call.node.wal.digest().hex(),
        records=view.records,
        writable=call.node.wal.is_writable,
        total=len(view.heads),
        offset=query.offset,
        limit=query.limit,
        heads=heads,
        lag=view.lag(),
    )


async def records(call: Call) -> shapes.Records:
    """Show a page of one log."""
    query: shapes.RecordsQuery = call.query
    heads = call.node.wal.heads()
    origin = call.node.peer_id if query.origin is None else PeerId.parse(query.origin)
    if origin not in heads and origin != call.node.peer_id:
        raise Problem(404, "unknown_origin", f"nothing is held of {origin}", hint="see GET wal")
    head_seq = heads[origin].seq if origin in heads else 0
    try:
        found = await call.node.wal.records(origin, query.from_seq, records_max=query.limit)
    except StoreError as error:
        raise Problem(503, "store_unavailable", str(error)) from None
    node_id = call.node.node_id if origin == call.node.peer_id else None
    next_seq = found[-1].seq + 1 if found else query.from_seq
    return shapes.Records(
        origin=str(origin),
        head_seq=head_seq,
        from_seq=query.from_seq,
        next_seq=next_seq if next_seq <= head_seq and found else None,
        records=[record_of(record, node_id or record.node_id) for record in found],
    )


async def append(call: Call) -> shapes.Appended:
    """Append, and answer when it is durable."""
    body: shapes.Append = call.body
    payloads = _payloads(body)
    target = None if body.target is None else PeerId.parse(body.target)
    try:
        seqs = await call.node.wal.append_many(payloads, kind=body.kind, target=target)
    except RecordTooLarge as error:
        raise Problem(413, "record_too_large", str(error)) from None
    except OwnLogForked as error:
        raise Problem(409, "own_log_forked", str(error), hint="make a new identity with `p2p id --new`") from None
    except StoreFull as error:
        raise Problem(507, "store_full", str(error)) from None
    except StoreError as error:
        raise Problem(503, "store_unavailable", str(error)) from None
    except ConfigError as error:
        raise Problem(400, "invalid_argument", str(error)) from None
    return shapes.Appended(origin=str(call.node.peer_id), first_seq=seqs[0], seq=seqs[-1], count=len(seqs))


def _payloads(body: shapes.Append) -> list[bytes]:
    if body.payloads is None:
        return [bytes_of(body.payload, body.payload_b64, "payload")]
    if body.payload is not None or body.payload_b64 is not None:
        raise Problem(400, "invalid_argument", "give payloads, or exactly one of payload and payload_b64")
    return [payload.encode() for payload in body.payloads]


OPERATIONS: Final = (
    Operation("GET", "/wal", "Heads, digest and lag", wal, shapes.Wal, query=shapes.WalQuery),
    Operation(
        "GET", "/wal/records", "A page of records", records, shapes.Records, errors=(404,), query=shapes.RecordsQuery
    ),
    Operation(
        "POST",
        "/wal",
        "Append, durable when it answers",
        append,
        shapes.Appended,
        status=201,
        errors=(409, 507),
        body=shapes.Append,
    ),
)
