"""The log as text, and the two streams."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from quart import Response

from http_control import shapes
from http_control.logs import Feed, Reader
from http_control.operation import EVENTS, TEXT, Call, Operation
from p2p import NodeClosed, NotStarted

HEADERS: Final = {
    # nginx would keep events until a buffer is full.
    "x-accel-buffering": "no",
}


async def logs(call: Call) -> Response:
    """The last lines."""
    lines = call.control.log_text(call.query.tail)
    return Response(lines, content_type=TEXT)


async def live_logs(call: Call) -> Response:
    """Lines as they come."""
    return _stream(call.control.lines, call.request.headers.get("last-event-id"), call.query.tail, b"")


async def events(call: Call) -> Response:
    """Events as they come, and the state at every tick."""
    now = b""
    with suppress(NotStarted, NodeClosed):
        view = call.control.view()
        now = call.control.state_frames(view, call.control.status(view))
    return _stream(call.control.happenings, call.request.headers.get("last-event-id"), 0, now)


def _stream(feed: Feed, last_id: str | None, tail: int, first: bytes) -> Response:
    feed.check_room()
    response = Response(Reader(feed, last_id, tail, first), content_type=EVENTS, headers=HEADERS)
    response.timeout = None
    return response


OPERATIONS: Final = (
    Operation("GET", "/logs", "The last lines", logs, TEXT, query=shapes.TailQuery),
    Operation("GET", "/logs/live", "Lines as they come", live_logs, EVENTS, query=shapes.TailQuery),
    Operation("GET", "/events", "What happens, and the state at every tick", events, EVENTS),
)
