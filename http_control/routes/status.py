"""The node at a glance, and over the last minutes."""

from __future__ import annotations

from typing import Final

from http_control import shapes
from http_control.operation import Call, Operation


async def ping(_call: Call) -> shapes.Ping:
    """Say that the routes are there."""
    return shapes.Ping()


async def status(call: Call) -> shapes.Status:
    """Show the node."""
    return call.control.status(call.control.view())


async def history(call: Call) -> shapes.History:
    """Show the samples that are kept."""
    return shapes.History(every_ms=call.control.options.stats_every_ms, samples=list(call.control.samples))


OPERATIONS: Final = (
    Operation("GET", "/ping", "The routes are there", ping, shapes.Ping, is_open=True),
    Operation("GET", "/status", "The node at a glance", status, shapes.Status),
    Operation("GET", "/history", "Samples for charts", history, shapes.History),
)
