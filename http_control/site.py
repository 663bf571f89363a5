"""What a server has once, whatever nodes are behind it: health, metrics, its own description, and the page.

Each node has a door of its own. Whoever opens some of them is shown these nodes, and nothing of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from importlib.resources import files
from typing import Final

import trio
from quart import Request, Response

from http_control import shapes
from http_control.auth import Door, Refused
from http_control.control import Control, package_version
from http_control.metrics import render
from http_control.openapi import description
from http_control.operation import JSON, Call, Operation, json_response
from http_control.problem import Problem, problem_of
from http_control.routes import operations
from p2p import ConfigError, NodeClosed, NotStarted

PAGE: Final = "index.html"
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"
CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def who_lets_in(controls: Sequence[Control], asked: Request) -> list[Control]:
    """The nodes whose doors a request opens: of the others it sees nothing.

    A token that fits some doors is shown to no other one, where it would be counted as a guess.

    Raises:
        ConfigError: there is no token that could be shown.
        Problem, Refused: it opens none.
    """
    doors: list[tuple[Control, Door]] = []
    missing: ConfigError | None = None
    for control in controls:
        try:
            doors.append((control, await control.door()))
        except ConfigError as error:
            missing = error
    doors = [(control, door) for control, door in doors if door.fits(asked)] or doors
    found: list[Control] = []
    refusal: Problem | Refused | None = None
    for control, door in doors:
        try:
            await door.check(asked)
        except (Problem, Refused) as error:
            refusal = refusal or error
        else:
            found.append(control)
    if not found:
        raise refusal or missing or problem_of(401)
    return found


async def _livez(_call: Call) -> shapes.Answer:
    return shapes.Answer()


async def _readyz(call: Call) -> shapes.Ready:
    checks = {control.options.prefix: _checks(control) for control in call.seen}
    is_ready = all(one.listener and one.store and one.discovery is not False for one in checks.values())
    if not is_ready:
        raise Problem(503, "not_ready", "a node cannot do its work, see the checks", checks=checks)
    return shapes.Ready(checks=checks)


async def _metrics(call: Call) -> Response:
    return Response(render(call.seen), content_type=METRICS)


async def _openapi(call: Call) -> Response:
    found = [(operation.path, operation) for operation in OPERATIONS]
    for control in call.seen:
        prefix = control.options.prefix
        found += [(prefix + operation.path, operation) for operation in operations(control.options)]
    return json_response(description(found, package_version()))


async def _where(call: Call) -> shapes.Site:
    return shapes.Site(prefixes=[control.options.prefix for control in call.seen])


async def _page(_call: Call) -> Response:
    return await _file(PAGE)


async def _asset(call: Call) -> Response:
    name = call.path["name"]
    if name == PAGE:
        raise problem_of(404)
    return await _file(name)


async def _file(name: str) -> Response:
    # Once read they are at hand, also while every thread waits for something else.
    found = _assets() if _assets.cache_info().currsize else await trio.to_thread.run_sync(_assets)
    content = found.get(name)
    if content is None:
        raise problem_of(404)
    response = Response(content, content_type=TYPES[name[name.rindex(".") :]])
    response.headers["content-security-policy"] = CONTENT_POLICY
    # Asked again each time, so that a page and its parts are of one version.
    response.headers["cache-control"] = "no-cache"
    return response


@cache
def _assets() -> dict[str, bytes]:
    """The files of the dashboard by name: what is not listed does not exist, so no name can lead out of its place."""
    folder = files("http_control") / "dashboard"
    return {
        entry.name: entry.read_bytes()
        for entry in (folder.iterdir() if folder.is_dir() else ())
        if "." in entry.name and entry.name[entry.name.rindex(".") :] in TYPES
    }


def _checks(control: Control) -> shapes.Checks:
    try:
        listens = bool(control.node.endpoints) or control.node.config.listen_port is None
        writes = control.node.wal.is_writable
        asked = control.node.config.discovery is not None
        discovers = control.node.discovery is not None if asked else None
    except (NotStarted, NodeClosed):
        return shapes.Checks(listener=False, store=False, discovery=None)
    return shapes.Checks(listener=listens, store=writes, discovery=discovers)


_public = partial(Operation, is_open=True)

OPERATIONS: Final = (
    _public("GET", "/livez", "The process answers", _livez, shapes.Answer),
    Operation("GET", "/readyz", "The nodes that the caller may see can do their work", _readyz, shapes.Ready),
    Operation("GET", "/metrics", "Prometheus", _metrics, METRICS),
    Operation("GET", "/openapi.json", "This description", _openapi, JSON),
    _public("GET", "/site.json", "Where the nodes are", _where, shapes.Site),
    _public("GET", "/", "The dashboard", _page, TYPES[".html"]),
    _public("GET", "/connect", "The dashboard", _page, TYPES[".html"]),
    _public("GET", "/assets/{name}", "A part of the dashboard", _asset, TYPES[".js"], errors=(404,)),
)
