"""What a server has once, whatever nodes are behind it: health, metrics, its own description, and the page."""

from __future__ import annotations

from functools import cache, partial
from importlib.resources import files
from typing import Final

import trio
from quart import Response

from http_control import shapes
from http_control.control import Control, package_version
from http_control.metrics import registry_of, render
from http_control.openapi import description
from http_control.operation import JSON, Call, Operation, json_response
from http_control.problem import Problem, problem_of
from http_control.routes import operations
from p2p import NodeClosed, NotStarted

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


class Site:
    """The routes beside those of the nodes.

    Args:
        controls: the nodes of the application, as it registers them.
    """

    def __init__(self, controls: list[Control]) -> None:
        self._controls = controls
        self._registry = registry_of(lambda: self._controls)

    def operations(self) -> tuple[Operation, ...]:
        """The routes, without a prefix."""
        anyway = partial(Operation, needs_node=False)
        public = partial(anyway, is_open=True)
        html = TYPES[".html"]
        return (
            public("GET", "/livez", "The process answers", self._livez, shapes.Answer),
            Operation("GET", "/readyz", "All nodes can do their work", self._readyz, shapes.Ready),
            anyway("GET", "/metrics", "Prometheus", self._metrics, METRICS),
            anyway("GET", "/openapi.json", "This description", self._openapi, JSON),
            public("GET", "/site.json", "Where the nodes are", self._where, shapes.Site),
            public("GET", "/", "The dashboard", self._page, html),
            public("GET", "/connect", "The dashboard", self._page, html),
            public("GET", "/assets/{name}", "A part of the dashboard", self._asset, TYPES[".js"], errors=(404,)),
        )

    async def _livez(self, _call: Call) -> shapes.Answer:
        return shapes.Answer()

    async def _readyz(self, _call: Call) -> shapes.Ready:
        checks = {control.options.prefix: _checks(control) for control in self._controls}
        is_ready = all(one.listener and one.store and one.discovery is not False for one in checks.values())
        if not is_ready:
            raise Problem(503, "not_ready", "a node cannot do its work, see the checks", checks=checks)
        return shapes.Ready(checks=checks)

    async def _metrics(self, _call: Call) -> Response:
        return Response(render(self._registry), content_type=METRICS)

    async def _openapi(self, _call: Call) -> Response:
        found = [(operation.path, operation) for operation in self.operations()]
        for control in self._controls:
            prefix = control.options.prefix
            found += [(prefix + operation.path, operation) for operation in operations(control.options)]
        return json_response(description(found, package_version()))

    async def _where(self, _call: Call) -> shapes.Site:
        return shapes.Site(prefixes=[control.options.prefix for control in self._controls])

    async def _page(self, _call: Call) -> Response:
        return await _file(PAGE)

    async def _asset(self, call: Call) -> Response:
        name = call.path["name"]
        if name == PAGE:
            raise problem_of(404)
        return await _file(name)


async def _file(name: str) -> Response:
    content = (await trio.to_thread.run_sync(_assets)).get(name)
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
