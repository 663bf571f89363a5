"""HTTP control for a running node: status, live logs, metrics, a dashboard, and steering it.

    urls = await nursery.start(http_control.serve, runtime, http_control.P2PHttpOptions())

or, on a Quart application of your own, `http_control.register_routes(app, runtime, options)`.

How it is put together, from the outside in; it sees only p2p's front door:

    server sockets connection intake   hypercorn on trio, contained: one connection's failure ends that connection
    app site                           routes on an application; what a server has once
    request_checks auth files          which requests are looked at, and from whom
    operation routes/ openapi          what a route is, the routes, their description
    control views logs metrics         the node behind them, and what is kept of it
"""

from __future__ import annotations

from http_control.app import make_app, register_routes, register_site, serve, set_live_log_sink, shutdown_live_logs
from http_control.auth import AuthContext, Reply
from http_control.files import new_token
from http_control.limits import HttpLimits
from http_control.options import P2PHttpOptions
from http_control.server import ServerOptions, serve_app
from http_control.sockets import Bind

__all__ = [
    "AuthContext",
    "Bind",
    "HttpLimits",
    "P2PHttpOptions",
    "Reply",
    "ServerOptions",
    "make_app",
    "new_token",
    "register_routes",
    "register_site",
    "serve",
    "serve_app",
    "set_live_log_sink",
    "shutdown_live_logs",
]
