"""A contained HTTP server for any ASGI application, as a task of a nursery.

Responsible for accepting within bounds, for the application's lifespan, for starting again what failed, and for
stopping in time. It refuses to know what the application does, and what happens on a connection (`connection`,
`intake`).

    serve_app                      cancelled from outside: tells the shielded half, which then has `stop_s_max`
    └── supervisor (shielded)      starts again what fails; the sockets stay open meanwhile
        └── one life               the application's lifespan, one task per socket that accepts, one per connection

What fails below `serve_app` is contained once the application has started: whoever holds the nursery (a node's program)
does not end because of a client, or of the server. Three things do raise out of it: that the application cannot be
started, at first or as often as `starts_max` says afterwards; and what ends a program, Ctrl-C and `sys.exit`, wherever
in it that was raised.
"""

from __future__ import annotations

import errno
import logging
import math
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.utils import wrap_app

from http_control.bugs import told
from http_control.connection import Connection, Stream
from http_control.contained import contained, first_of
from http_control.intake import Intake
from http_control.kinds import check_fields, check_kind
from http_control.lifespan import Lifespan
from http_control.limits import HttpLimits
from http_control.places import Places
from http_control.sockets import Bind, descriptor_limit, listening, urls_of
from http_control.source import is_in, networks_of
from p2p import ConfigError, registry

if TYPE_CHECKING:
    from hypercorn.typing import ASGIFramework, LifespanState

_log = logging.getLogger("p2p.http")

_LOOPBACK: Final = networks_of(("127.0.0.0/8", "::1"))
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How to serve: where, and within which bounds.

    Raises:
        ConfigError: it is another kind of thing than it must be.
    """

    bind: Bind = field(default=Bind())
    limits: HttpLimits = field(default=HttpLimits())

    def __post_init__(self) -> None:
        check_fields(self, "bind", Bind, "a Bind")
        check_fields(self, "limits", HttpLimits, "HttpLimits")


async def serve_app(
    app: ASGIFramework,
    options: ServerOptions,
    *,
    announce: Callable[[list[str]], Awaitable[None]] | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an application until cancelled; `started(urls)` with the real ports, once the application has started.

    An application that breaks down later is started again on the same sockets. One whose startup can run only once
    (Quart's `while_serving` is such) cannot be: write `before_serving` and `after_serving` instead.

    Args:
        app: the application.
        options: where, and within which bounds.
        announce: told the URLs before the application is started; what it raises ends the start.

    Raises:
        AddressInUse, ConfigError: it cannot listen as asked; the certificate or key is not usable.
        ApplicationFailed: the application cannot be started, or could not be started again, `starts_max` times in
            a row.
    """
    check_kind(options, ServerOptions, "options", "ServerOptions")
    bind, limits = options.bind, options.limits
    tls = await trio.to_thread.run_sync(_tls_context, bind) if bind.is_tls else None
    async with listening(bind, limits.backlog) as listeners:
        urls = urls_of(listeners, bind)
        if announce is not None:
            await announce(urls)
        # Whoever connects from now on waits in the sockets' queue until the application has started.
        server = _Server(app, limits, listeners, tls)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.supervise)
                try:
                    await server.is_up.wait()
                    task_status.started(urls)
                    await trio.sleep_forever()
                finally:
                    server.stop()
        except BaseExceptionGroup as group:
            cause = first_of(contained(group))
            raise cause from cause.__cause__


def _tls_context(bind: Bind) -> ssl.SSLContext:
    assert bind.tls_cert is not None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(bind.tls_cert, bind.tls_key, password=_no_passphrase)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"TLS with {bind.tls_cert} and {bind.tls_key}: {error}") from None
    return context


def _no_passphrase() -> str:
    """Asked for by a key that has one. Without this OpenSSL would ask the terminal, and wait."""
    raise ConfigError("the key of the certificate has a passphrase: give one without, in a file of mode 0600")


def _config(limits: HttpLimits) -> Config:
    config = Config()
    config.include_server_header = False
    config.h11_max_incomplete_size = limits.header_bytes_max
    config.keep_alive_max_requests = limits.requests_per_connection_max
    config.errorlog = _log
    return config


class _Server:
    """The sockets, and the lives of what serves them.

    Attributes:
        is_up: set once the application has started for the first time.
    """

    def __init__(
        self,
        app: ASGIFramework,
        limits: HttpLimits,
        listeners: list[trio.SocketListener],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._config = _config(limits)
        self._intake = Intake(app, limits)
        self._app = wrap_app(cast("ASGIFramework", self._intake), limits.body_bytes_max, "asgi")
        self._limits = limits
        self._listeners = listeners
        self._tls = tls
        self.is_up = trio.Event()
        self._starts_failed = 0
        self._stopping = trio.Event()
        self._scope = trio.CancelScope(shield=True)
        self._places: Places[Connection] = Places(limits)
        self._told_again_at = -math.inf

    def stop(self) -> None:
        """Begin to stop; `supervise` returns within `stop_s_max`."""
        self._stopping.set()
        self._scope.deadline = trio.current_time() + self._limits.stop_s_max

    async def supervise(self) -> None:
        """Serve, and serve again after a failure, until told to stop.

        Raises:
            ApplicationFailed: there is nothing to serve.
        """
        pauses = self._limits.restart_s
        failures = 0
        with self._scope:
            while not self._stopping.is_set():
                began = trio.current_time()
                failure: BaseException | None = None
                try:
                    await self._live()
                except* Exception as group:  # noqa: BLE001  # the boundary: what serves may fail, what is served goes on
                    failure = first_of(group)
                if failure is None or self._stopping.is_set():
                    continue
                if self._starts_failed >= (self._limits.starts_max if self.is_up.is_set() else 1):
                    raise failure
                _log.error("the HTTP server failed and starts again: %s", told(failure))
                _log.debug("how it failed", exc_info=failure)
                failures = 1 if trio.current_time() - began > self._limits.calm_s else failures + 1
                with trio.move_on_after(pauses[min(failures, len(pauses)) - 1]):
                    await self._stopping.wait()

    async def _live(self) -> None:
        """One life: from the application's startup to its shutdown."""
        context = WorkerContext(None)
        lifespan = Lifespan(cast("ASGIFramework", self._intake), self._limits)
        self._starts_failed += 1
        async with trio.open_nursery() as nursery:
            await lifespan.start(nursery)
            self._starts_failed = 0
            self.is_up.set()
            async with trio.open_nursery() as connections, trio.open_nursery() as accepting:
                for listener in self._listeners:
                    accepting.start_soon(self._accept, listener, connections, context, lifespan.state)
                await self._stopping.wait()
                accepting.cancel_scope.cancel()
                await context.terminated.set()
                self._intake.stop()
                connections.cancel_scope.deadline = trio.current_time() + self._limits.stop_grace_s
            await lifespan.end()
            nursery.cancel_scope.cancel()

    def _is_of_the_reserve(self, descriptor: int) -> bool:
        """Whether a descriptor is one of the last, which links and the store need. The kernel gives the lowest one."""
        most = descriptor_limit()
        return most is not None and descriptor >= most - min(self._limits.descriptors_reserved, most // 4)

    async def _rest(self, why: str) -> None:
        now = trio.current_time()
        if now >= self._told_again_at:
            self._told_again_at = now + self._limits.shortage_told_s
            _log.warning("HTTP connections are not accepted for now: %s", why)
        await trio.sleep(self._limits.accept_pause_s)

    async def _accept(
        self, listener: trio.SocketListener, nursery: trio.Nursery, context: WorkerContext, state: LifespanState
    ) -> None:
        while True:
            try:
                stream: Stream = await listener.accept()
            except OSError as error:
                if error.errno in _SHORT:
                    await self._rest(error.strerror or str(error))
                # Anything else is about the one connection, which the kernel has forgotten.
                continue
            if self._is_of_the_reserve(cast("trio.SocketStream", stream).socket.fileno()):
                await trio.aclose_forcefully(stream)
                await self._rest("the descriptors that are left are the node's")
                continue
            source = _source_of(cast("trio.SocketStream", stream))
            may_come, in_the_way = self._places.in_the_way(source, trio.current_time())
            if not may_come:
                await trio.aclose_forcefully(stream)
                continue
            if in_the_way is not None:
                in_the_way.abort()
                self._places.leave(in_the_way)
            if self._tls is not None:
                plain = cast("trio.SocketStream", stream)
                stream = trio.SSLStream(plain, self._tls, server_side=True, https_compatible=True)
            connection = Connection(self._app, self._config, context, state, stream, self._limits)
            self._places.take(connection, source)
            nursery.start_soon(self._serve, connection)

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            self._places.leave(connection)


def _source_of(stream: trio.SocketStream) -> str | None:
    """Whose share of the places a connection counts for; None for this machine's own."""
    if stream.socket.family == trio.socket.AF_UNIX:
        return None
    try:
        host = stream.socket.getpeername()[0]
    except OSError:
        # Gone already, which its first read will show.
        return None
    return None if is_in(host, _LOOPBACK) else registry.prefix_of(host)
