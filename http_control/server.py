"""A contained HTTP server for any ASGI application, as a task of a nursery.

Responsible for accepting within bounds, for the application's lifespan, for starting again what failed, and for
stopping in time. It refuses to know what the application does, and what happens on a connection (`connection`,
`intake`).

    serve_app                      cancelled from outside: tells the shielded half, which then has `stop_s_max`
    └── supervisor (shielded)      starts again what fails; the sockets stay open meanwhile
        └── one life               the application's lifespan, one task per socket that accepts, one per connection

Nothing that happens below `serve_app` raises out of it once it has started. So whoever holds the nursery (a node's
program) never ends because of a client, of the application or of the server.
"""

from __future__ import annotations

import errno
import logging
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

import trio
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.utils import wrap_app

from http_control.connection import Connection, Stream
from http_control.intake import Intake
from http_control.limits import HttpLimits
from http_control.sockets import Bind, close_listeners, open_listeners, urls_of
from p2p import ConfigError

if TYPE_CHECKING:
    from hypercorn.typing import ASGIFramework, LifespanState

_log = logging.getLogger("p2p.http")

_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How to serve: where, and within which bounds."""

    bind: Bind = field(default=Bind())
    limits: HttpLimits = field(default=HttpLimits())


class ApplicationEnded(Exception):
    """The application's lifespan ended by itself: a task on its own nursery failed."""


async def serve_app(
    app: ASGIFramework,
    options: ServerOptions,
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an application until cancelled; `started(urls)` with the real ports.

    Raises:
        AddressInUse, ConfigError: it cannot listen as asked; the certificate or key is not usable.
    """
    bind, limits = options.bind, options.limits
    tls = await trio.to_thread.run_sync(_tls_context, bind) if bind.is_tls else None
    listeners = await open_listeners(bind, limits.backlog)
    try:
        server = _Server(app, limits, listeners, tls)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervise)
            task_status.started(urls_of(listeners, bind))
            try:
                await trio.sleep_forever()
            finally:
                server.stop()
    finally:
        with trio.CancelScope(shield=True):
            await close_listeners(listeners, bind)


def _tls_context(bind: Bind) -> ssl.SSLContext:
    assert bind.tls_cert is not None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(bind.tls_cert, bind.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"TLS with {bind.tls_cert} and {bind.tls_key}: {error}") from None
    return context


def _config(limits: HttpLimits) -> Config:
    config = Config()
    config.include_server_header = False
    config.h11_max_incomplete_size = limits.header_bytes_max
    config.keep_alive_max_requests = limits.requests_per_connection_max
    config.startup_timeout = limits.startup_s_max
    config.shutdown_timeout = limits.stop_grace_s
    config.errorlog = _log
    return config


class _Server:
    """The sockets, and the lives of what serves them."""

    def __init__(
        self,
        app: ASGIFramework,
        limits: HttpLimits,
        listeners: list[trio.SocketListener],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._config = _config(limits)
        self._app = wrap_app(Intake(app, limits), limits.body_bytes_max, "asgi")
        self._limits = limits
        self._listeners = listeners
        self._tls = tls
        self._stopping = trio.Event()
        self._scope = trio.CancelScope(shield=True)
        self._connections: dict[Connection, None] = {}

    def stop(self) -> None:
        """Begin to stop; `supervise` returns within `stop_s_max`."""
        self._stopping.set()
        self._scope.deadline = trio.current_time() + self._limits.stop_s_max

    async def supervise(self) -> None:
        """Serve, and serve again after a failure, until told to stop."""
        pauses = iter(self._limits.restart_s)
        pause = next(pauses)
        with self._scope:
            while not self._stopping.is_set():
                try:
                    await self._live()
                except* Exception as group:  # noqa: BLE001  # the boundary: what serves may fail, what is served goes on
                    _log.error("the HTTP server failed and starts again: %r", group.exceptions[0])
                    _log.debug("how it failed", exc_info=group)
                else:
                    continue
                with trio.move_on_after(pause):
                    await self._stopping.wait()
                pause = next(pauses, pause)

    async def _live(self) -> None:
        """One life: from the application's startup to its shutdown."""
        state: LifespanState = {}
        context = WorkerContext(None)
        lifespan = Lifespan(self._app, self._config, state)
        async with trio.open_nursery() as nursery:
            await nursery.start(lifespan.handle_lifespan)
            await lifespan.wait_for_startup()
            if lifespan.supported:
                nursery.start_soon(self._watch, lifespan)
            async with trio.open_nursery() as connections, trio.open_nursery() as accepting:
                for listener in self._listeners:
                    accepting.start_soon(self._accept, listener, connections, context, state)
                await self._stopping.wait()
                accepting.cancel_scope.cancel()
                await context.terminated.set()
                connections.cancel_scope.deadline = trio.current_time() + self._limits.stop_grace_s
            await lifespan.wait_for_shutdown()
            nursery.cancel_scope.cancel()

    async def _watch(self, lifespan: Lifespan) -> None:
        await lifespan.shutdown.wait()
        if not self._stopping.is_set():
            raise ApplicationEnded("a task of the application failed, and its lifespan with it")

    async def _accept(
        self, listener: trio.SocketListener, nursery: trio.Nursery, context: WorkerContext, state: LifespanState
    ) -> None:
        while True:
            try:
                stream: Stream = await listener.accept()
            except OSError as error:
                if error.errno in _SHORT:
                    _log.warning("cannot accept HTTP connections: %s", error.strerror)
                    await trio.sleep(self._limits.accept_pause_s)
                # Anything else is about the one connection, which the kernel has forgotten.
                continue
            if not self._make_room():
                await trio.aclose_forcefully(stream)
                continue
            if self._tls is not None:
                plain = cast("trio.SocketStream", stream)
                stream = trio.SSLStream(plain, self._tls, server_side=True, https_compatible=True)
            connection = Connection(self._app, self._config, context, state, stream, self._limits)
            self._connections[connection] = None
            nursery.start_soon(self._serve, connection)

    def _make_room(self) -> bool:
        """Whether there is room for one more: with all places taken, the longest idle one gives way."""
        if len(self._connections) < self._limits.connections_max:
            return True
        idle = [(since, one) for one in self._connections if (since := one.idle_since) is not None]
        if not idle:
            return False
        oldest = min(idle, key=lambda pair: pair[0])[1]
        oldest.abort()
        self._connections.pop(oldest)
        return True

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            self._connections.pop(connection, None)
