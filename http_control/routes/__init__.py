"""All routes under a prefix, by what they are about. A further module adds its `OPERATIONS` here."""

from __future__ import annotations

from http_control.operation import Operation
from http_control.options import P2PHttpOptions
from http_control.routes import admin, peers, status, streams, wal, ways


def operations(options: P2PHttpOptions) -> tuple[Operation, ...]:
    """The routes that the options leave in."""
    enabled = {
        "/ping": options.enable_ping,
        "/status": options.enable_status,
        "/peers": options.enable_peers,
        "/peers/{who}": options.enable_peers,
        "/links": options.enable_peers,
        "/connect": options.enable_peers,
        "/disconnect": options.enable_peers,
        "/peers/{who}/ping": options.enable_peers,
        "/logs": options.enable_logs,
        "/logs/live": options.enable_logs and options.enable_live_logs,
    }
    modules = (status, peers, ways, wal, streams, admin)
    every = (operation for module in modules for operation in module.OPERATIONS)
    return tuple(operation for operation in every if enabled.get(operation.path, True))
