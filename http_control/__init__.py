"""HTTP control for a running node: status, live logs, metrics, a dashboard, and steering it.

    urls = await nursery.start(http_control.serve, runtime, http_control.P2PHttpOptions())

or, on a Quart application of your own, `http_control.register_routes(app, runtime, options)`.

How it is put together, from the outside in; it sees only p2p's front door:

    server serving sockets places      hypercorn on trio, contained: one connection's failure ends that connection
    connection intake lifespan contained
    app site                           routes on an application; what a server has once
    request_checks auth files          which requests are looked at, and from whom
    operation payload routes/ openapi  what a route is, the routes, their description
    control views logs metrics         the node behind them, and what is kept of it
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from http_control.app import make_app, register_routes, register_site, serve, set_live_log_sink, shutdown_live_logs
    from http_control.auth import AuthContext, Reply
    from http_control.files import new_token
    from http_control.lifespan import ApplicationFailed
    from http_control.limits import HttpLimits
    from http_control.options import P2PHttpOptions
    from http_control.server import ServerOptions, serve_app
    from http_control.sockets import Bind

__all__ = [
    "ApplicationFailed",
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

_HOME: Final = {
    "make_app": "app",
    "new_token": "files",
    "register_routes": "app",
    "register_site": "app",
    "serve": "app",
    "serve_app": "server",
    "set_live_log_sink": "app",
    "shutdown_live_logs": "app",
    "ApplicationFailed": "lifespan",
    "AuthContext": "auth",
    "Bind": "sockets",
    "HttpLimits": "limits",
    "P2PHttpOptions": "options",
    "Reply": "auth",
    "ServerOptions": "server",
}


def __getattr__(name: str) -> object:
    """A name of this package is imported when it is asked for: the server and the framework below it take longer than
    anything else that a client needs, which reads `control.token` and no more."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value
