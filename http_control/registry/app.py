"""The routes of a registry: HTTP around `Desk` and `Table`, and every answer JSON.

    GET  /peers?limit=N   who is there
    POST /announce        I am here; the host is the address that the connection comes from
    GET  /livez           200 while requests are served, whatever the table does
    GET  /readyz          200 while the table answers too
    GET  /metrics         counters, as Prometheus reads them

The table is blocking code and is called in worker threads: a file on a slow disk and a Redis across the network may
take their time without holding up the loop. For a table in memory the way to the thread and back costs about as much
as the call itself. Calls that wait for a thread are bounded, in number and in time: beyond that the answer is 503.
After one that took too long the next ones are not begun for a moment, so that a Redis that hangs costs nobody's time.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import math
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeVar

import trio
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from http_control.problem import Problem, problem_of
from http_control.registry.metrics import CONTENT_TYPE, RegistryMetrics
from http_control.registry.table import Noted, Table, TableUnavailable
from http_control.request_checks import name_of
from http_control.source import Networks, is_in, networks_of, source_of
from p2p import registry

_log = logging.getLogger("p2p.registry")

T = TypeVar("T")

JSON: Final = "application/json"
BODY_BYTES_MAX: Final = 4096
"""An announcement has a few hundred bytes."""
CALLS_WAITING_MAX: Final = 256
"""Calls of the table that wait for a thread."""
TABLE_S_MAX: Final = 1.5
"""For a thread, and for the table's answer in it."""
REST_S: Final = 1.0
"""After a call that took longer: so long none is begun."""
TOLD_MAX: Final = 5
TOLD_S: Final = 60.0
"""Of a table that comes and goes so many outages are told in so long."""
SIZE_FRESH_S: Final = 1.0
"""Anybody may ask whether the table answers, as often as they like; it is asked so seldom."""

_LOOPBACK: Final = networks_of(["127.0.0.0/8", "::1"])

_STATUS: Final = {
    "invalid_announcement": 400,
    "invalid_limit": 400,
    "not_routable": 400,
    "bad_signature": 403,
    "unsigned": 403,
    "too_many_requests": 429,
    "too_many_entries": 429,
    "full": 503,
}


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """How a registry serves.

    Args:
        desk: what it takes and shows.
        table: where it keeps it.
        token: what callers must show as `Authorization: Bearer …`; None lets anybody in.
        proxies: networks whose `X-Forwarded-For` is believed.
    """

    desk: registry.Desk
    table: Table
    token: str | None = None
    proxies: Networks = ()


def make_registry(options: RegistryOptions) -> QuartTrio:
    """Make the application of a registry."""
    routes = _Routes(options)
    app = QuartTrio("http_control.registry")
    app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES_MAX
    for path, method, handler in (
        ("/peers", "GET", routes.counted("peers", routes.peers)),
        ("/announce", "POST", routes.counted("announce", routes.announce)),
        ("/livez", "GET", routes.livez),
        ("/readyz", "GET", routes.readyz),
        ("/metrics", "GET", routes.show_metrics),
    ):
        # Quart's own answer to OPTIONS is a page of HTML.
        app.add_url_rule(path, path[1:], handler, methods=[method], provide_automatic_options=False)
    app.register_error_handler(Problem, _answer)
    app.register_error_handler(HTTPException, _answer_http)
    app.register_error_handler(Exception, _answer_bug)
    return app


class _Routes:
    """The handlers of one registry, and their counters."""

    def __init__(self, options: RegistryOptions) -> None:
        self._options = options
        self._desk = options.desk
        self._table = options.table
        self._lane = trio.CapacityLimiter(options.table.calls_max)
        self._rests_until = -math.inf
        self._is_told = False
        self._told_at = deque[float](maxlen=TOLD_MAX)
        self._counting = trio.Lock()
        self._counted = (-math.inf, 0)
        self.metrics = RegistryMetrics()

    def counted(self, route: str, handler: Callable[[str], Awaitable[bytes]]) -> Callable[[], Awaitable[Response]]:
        """A handler behind the token, given the caller's address; what became of each request is counted."""

        async def serve() -> Response:
            outcome = "failed"
            try:
                self._check_host()
                self._check_token()
                body = await handler(self._source())
                outcome = "ok"
            except registry.Refused as refused:
                outcome = refused.word
                raise _problem(refused) from None
            except TableUnavailable:
                outcome = "unavailable"
                raise _unavailable() from None
            except Problem as problem:
                outcome = problem.error
                raise
            except HTTPException as error:
                outcome = problem_of(error.code or 500).error
                raise
            finally:
                self.metrics.count(route, outcome)
            return Response(body, content_type=JSON, headers={"cache-control": "no-store"})

        return serve

    async def peers(self, source: str) -> bytes:
        """GET /peers."""
        limits = request.args.getlist("limit")
        if len(limits) > 1:
            raise registry.Refused("invalid_limit", f"limit is given {len(limits)} times: give it once")
        count, scopes = self._desk.answer(limits[0] if limits else None, source, trio.current_time())
        return registry.write_peers(await self._in_thread(lambda: self._table.pick(scopes, count)))

    async def announce(self, source: str) -> bytes:
        """POST /announce."""
        if "origin" in request.headers:
            # Only browsers send it: a page that its reader's machine, at its address, shall announce something for.
            raise Problem(403, "forbidden_origin", "a web page may not announce a node")
        room = self._desk.room
        entry = self._desk.take(await request.body, source, trio.current_time())
        noted = await self._in_thread(lambda: self._table.note(entry, room))
        if noted is Noted.SOURCE_FULL:
            message = f"your address has {room.of_source(entry.scope)} entries already"
            raise registry.Refused("too_many_entries", message, int(room.ttl_s))
        if noted is Noted.FULL:
            raise registry.Refused("full", "this registry has no room for another entry", int(room.ttl_s))
        return registry.write_announced(int(room.ttl_s))

    async def livez(self) -> Response:
        """GET /livez: requests are served."""
        return Response(b'{"ok":true}', content_type=JSON)

    async def readyz(self) -> Response:
        """GET /readyz: whether the table answers, so that announcements and questions can be served."""
        try:
            await self._size()
        except TableUnavailable as error:
            raise _unavailable() from error
        return Response(b'{"ok":true}', content_type=JSON)

    async def show_metrics(self) -> Response:
        """GET /metrics."""
        self._check_host()
        self._check_token()
        try:
            size: int | None = await self._size()
        except TableUnavailable:
            size = None
        return Response(self.metrics.exposition(size), content_type=CONTENT_TYPE)

    async def _size(self) -> int:
        """How many entries the table has, or had a moment ago. One call of the table serves all who wait for it."""
        async with self._counting:
            counted_at, size = self._counted
            if trio.current_time() - counted_at >= SIZE_FRESH_S:
                size = await self._in_thread(self._table.size)
                self._counted = (trio.current_time(), size)
            return size

    def _source(self) -> str:
        client = request.scope.get("client")
        forwarded = request.headers.getlist("x-forwarded-for")
        return source_of(client[0] if client else "", forwarded, lambda host: is_in(host, self._options.proxies))

    def _check_host(self) -> None:
        """Return unless this machine asks by the name of somebody else: a page whose name was rebound to us (threat
        T52), which would see what is for this machine's own programs alone.

        Addresses and names without a dot are nobody's to rebind. Other machines may know a registry by any name.
        """
        client = request.scope.get("client")
        if not client or is_in(client[0], self._options.proxies) or not is_in(client[0], _LOOPBACK):
            return
        name = name_of(request.headers.get("host", ""))
        if "." in name and not _is_address(name) and name not in _own_names():
            known_by = "localhost, an address, or the host's name"
            raise Problem(421, "unknown_host", f"asked from its own machine a registry is known by {known_by}")

    def _check_token(self) -> None:
        token = self._options.token
        if token is None:
            return
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(
            shown.strip().encode("utf-8", "surrogateescape"), token.encode()
        ):
            raise problem_of(401)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            result = await self._within_bounds(work)
        except TableUnavailable as error:
            self._tell_failure(error)
            raise
        if self._is_told:
            self._is_told = False
            _log.warning("the registry's table can be used again")
        return result

    def _tell_failure(self, error: TableUnavailable) -> None:
        now = trio.current_time()
        if not self._is_told and (len(self._told_at) < TOLD_MAX or now - self._told_at[0] >= TOLD_S):
            self._is_told = True
            self._told_at.append(now)
            _log.warning("the registry's table cannot be used: %.200s", error)

    async def _within_bounds(self, work: Callable[[], T]) -> T:
        if self._lane.statistics().tasks_waiting >= CALLS_WAITING_MAX:
            raise TableUnavailable("too many calls wait for the table")
        if trio.current_time() < self._rests_until:
            raise TableUnavailable("the table took too long just now")
        with trio.move_on_after(TABLE_S_MAX):
            try:
                return await trio.to_thread.run_sync(
                    work, limiter=self._lane, abandon_on_cancel=self._table.may_be_abandoned
                )
            except RuntimeError as error:  # no thread can be started for it
                raise TableUnavailable(str(error)) from error
        self._rests_until = trio.current_time() + REST_S
        raise TableUnavailable("the table takes too long")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


@cache
def _own_names() -> frozenset[str]:
    name = socket.gethostname().lower()
    return frozenset({name, name.partition(".")[0]})


def _problem(refused: registry.Refused) -> Problem:
    headers = (("retry-after", str(refused.retry_s)),) if refused.retry_s else ()
    return Problem(_STATUS[refused.word], refused.word, str(refused), headers=headers)


def _unavailable() -> Problem:
    return Problem(503, "unavailable", "the registry's table cannot be used now", headers=(("retry-after", "5"),))


async def _answer(problem: Problem) -> Response:
    return _response(problem, problem.headers)


async def _answer_http(error: HTTPException) -> Response:
    problem = problem_of(error.code or 500)
    keep = [(name, value) for name, value in error.get_headers() if name.lower() == "allow"]
    return _response(problem, keep)


async def _answer_bug(error: Exception) -> Response:
    _log.error("a request failed: this is a bug, please report it", exc_info=error)
    return _response(problem_of(500), ())


def _response(problem: Problem, headers: Iterable[tuple[str, str]]) -> Response:
    response = Response(problem.body(), problem.status, content_type=JSON)
    for name, value in headers:
        response.headers[name] = value
    return response
