"""Routes on a Quart application, and the application that `serve` makes.

A request passes the same way everywhere: its envelope is checked, its caller let in, its parameters and its body read
into types, and only then a handler sees it. Whatever happens on the way becomes one JSON answer.
"""

from __future__ import annotations

import logging
from typing import Final

import trio
from quart import Request, Response, got_request_exception, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from http_control import site
from http_control.auth import Refused, Reply
from http_control.contained import contained
from http_control.control import Control
from http_control.files import ControlFile
from http_control.kinds import check_kind
from http_control.operation import EVENTS, JSON, Call, Operation, decode_body, decode_query, json_response
from http_control.options import LogSink, P2PHttpOptions
from http_control.problem import Problem, problem_of, too_large
from http_control.request_checks import check_form, check_site
from http_control.routes import operations
from http_control.server import ServerOptions, serve_app
from http_control.serving import Serving
from p2p import ConfigError, NodeClosed, NotStarted, P2PRuntime, one_line

_log = logging.getLogger("p2p.http")

EXTENSION: Final = "p2p_http"
SITE: Final = "p2p_http_site"


def register_routes(app: QuartTrio, runtime: P2PRuntime, options: P2PHttpOptions | None = None) -> None:
    """Put a node's routes on an application of yours, under the options' prefix.

    Several runtimes, or several prefixes, may be on one application. The node may run already or start later; it
    belongs to your nursery and not to the application's.

    Raises:
        ValueError: the prefix is taken.
        ConfigError: it is another kind of thing than it must be.
    """
    options = options if options is not None else P2PHttpOptions()
    _check_given(runtime, options)
    check_kind(app, QuartTrio, "app", "a QuartTrio application")
    controls = controls_of(app)
    if any(control.options.prefix == options.prefix for control in controls):
        raise ValueError(f"the prefix {options.prefix} is taken on this application")
    control = Control(runtime, options)
    controls.append(control)
    got_request_exception.connect(_let_ends_through, app)
    _mount(app, options.prefix, operations(options), [control])

    @app.before_serving
    async def follow() -> None:
        app.nursery.start_soon(control.run)


def _check_given(runtime: P2PRuntime, options: P2PHttpOptions) -> None:
    check_kind(runtime, P2PRuntime, "runtime", "a P2PRuntime: write P2PRuntime(node)")
    check_kind(options, P2PHttpOptions, "options", "P2PHttpOptions, or None")


async def _let_ends_through(_app: QuartTrio, exception: BaseException) -> None:
    """Quart-Trio makes a 500 of any group that leaves a handler, also of one with Ctrl-C in it."""
    contained(exception)


def register_site(app: QuartTrio) -> None:
    """Put health, metrics, the description and the dashboard on an application that has a node's routes.

    Whoever may use some of the nodes' routes sees these nodes there, and nothing of the others. Names and origins that
    it is called by, and limits, are those of the node that was registered first.

    Raises:
        ValueError: no routes are registered yet, or the site is there already.
        ConfigError: it is no such application.
    """
    check_kind(app, QuartTrio, "app", "a QuartTrio application")
    controls = controls_of(app)
    if not controls:
        raise ValueError("register_routes first: the site is about nodes")
    if SITE in app.extensions:
        raise ValueError("the site is on this application already: once is for all its nodes")
    app.extensions[SITE] = True
    _mount(app, "", site.OPERATIONS, controls)


def set_live_log_sink(app: QuartTrio, sink: LogSink | None) -> None:
    """Hand every log line of the nodes on this application to a sink, too (Vix's name); None takes it away."""
    for control in controls_of(app):
        control.sink = sink


def shutdown_live_logs(app: QuartTrio | None = None) -> None:
    """Take the sinks away (Vix's name). There is nothing else to shut down, and forgetting this does no harm."""
    if app is not None:
        set_live_log_sink(app, None)


def controls_of(app: QuartTrio) -> list[Control]:
    """The nodes that are registered on an application."""
    found: list[Control] = app.extensions.setdefault(EXTENSION, [])
    return found


def make_app(runtime: P2PRuntime, options: P2PHttpOptions) -> QuartTrio:
    """An application of its own for one node: its routes, the site, and JSON for every error."""
    app = QuartTrio("http_control", static_folder=None)
    # A slash more is another path, and no redirect that takes its target from the request.
    app.url_map.merge_slashes = False
    register_routes(app, runtime, options)
    register_site(app)
    control = controls_of(app)[0]

    @app.errorhandler(HTTPException)
    async def other(error: HTTPException) -> Response:
        try:
            check_site(request, options)
        except Problem as problem:
            return _finished(control, _problem_response(problem))
        status = error.code if error.code is not None and error.code >= 400 else 404
        return _finished(control, _problem_response(problem_of(status)))

    return app


async def serve(
    runtime: P2PRuntime,
    options: P2PHttpOptions | None = None,
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a node over HTTP until cancelled: `urls = await nursery.start(http_control.serve, runtime, options)`.

    The node may run already or start later; with a data dir, that must be there. Several may serve one node: the thin
    clients find the one that started last of those that serve.

    Raises:
        ConfigError: the options are not safe or not usable; the token cannot be read or made.
        AddressInUse: something else listens there.
        KeyboardInterrupt, SystemExit: raised by a hook or a rule of the application, or in whatever task of ours Ctrl-C
            came in; anything else that those raise is answered and told in the log.
    """
    options = options if options is not None else P2PHttpOptions()
    _check_given(runtime, options)
    options.check_exposure()
    app = make_app(runtime, options)
    # Now and not at the first request: whoever starts it is told what is wrong with the token.
    await controls_of(app)[0].door()
    serving = Serving.of(runtime.node)
    place: ControlFile | None = None

    async def announce(urls: list[str]) -> None:
        nonlocal place
        place = await serving.add(urls, options.bind, options.prefix)

    try:
        await serve_app(app, ServerOptions(options.bind, options.limits), announce=announce, task_status=task_status)
    finally:
        if place is not None:
            await serving.remove(place, options.limits.stop_s_max)


# The way of a request.


def _mount(app: QuartTrio, prefix: str, found: tuple[Operation, ...], controls: list[Control]) -> None:
    """Put operations on an application. Their nodes may become more; the first one's options say what is asked of a
    request before anybody is let in."""
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in found:
        by_path.setdefault(operation.path, {})[operation.method] = operation
    for path, methods in by_path.items():
        _add(app, prefix + path.replace("{", "<").replace("}", ">"), controls, methods)
    if prefix:
        for rule in (prefix, f"{prefix}/", f"{prefix}/<path:rest>"):
            _add(app, rule, controls, {})


def _add(app: QuartTrio, rule: str, controls: list[Control], methods: dict[str, Operation]) -> None:
    async def view(**path: str) -> Response:
        return await _dispatch(controls, methods, request, path)

    # Not by `add_url_rule`, which wants all methods named: also one that nobody ever heard of gets its 405 from here.
    endpoint = f"{EXTENSION} {rule}"
    route = app.url_rule_class(rule, endpoint=endpoint, methods=None, strict_slashes=True)
    route.provide_automatic_options = False
    app.url_map.add(route)
    app.view_functions[endpoint] = view


async def _dispatch(
    controls: list[Control], methods: dict[str, Operation], asked: Request, path: dict[str, str]
) -> Response:
    control = controls[0]
    try:
        response = await _answer(controls, methods, asked, path)
    except Problem as problem:
        response = _problem_response(problem)
    except Refused as refusal:
        response = _written(refusal.reply)
    except (NotStarted, NodeClosed) as error:
        response = _problem_response(Problem(503, "node_not_running", str(error)))
    except BaseException as error:  # noqa: BLE001  # the boundary: a bug of ours is an answer and a line in the log
        control.bugs.tell(f"{asked.method} {one_line(asked.path, 200)}", contained(error), trio.current_time())
        response = _problem_response(problem_of(500))
    return _finished(control, response)


async def _answer(
    controls: list[Control], methods: dict[str, Operation], asked: Request, path: dict[str, str]
) -> Response:
    control = controls[0]
    check_site(asked, control.options)
    # More slashes than one are another path to whoever stands before us; the framework takes them for one.
    if not methods or asked.scope["path"].startswith("//"):
        raise problem_of(404)
    operation = methods.get("GET" if asked.method == "HEAD" else asked.method)
    if operation is None:
        allowed = ", ".join(sorted({*methods, *(["HEAD"] if "GET" in methods else [])}))
        problem = problem_of(405)
        raise Problem(405, problem.error, str(problem), headers=(("allow", allowed),))
    check_form(asked)
    seen = controls
    if not operation.is_open:
        try:
            seen = await site.who_lets_in(controls, asked)
        except ConfigError as error:
            # Where it lies is for the operator to know, who reads the log.
            _log.error("nobody can be let in: %s", error)
            raise Problem(503, "node_not_running", "the token of this node is not there; the log says why") from None
    query = decode_query(list(asked.args.items(multi=True)), operation.query)
    body = None
    if operation.body is not None:
        body = decode_body(await _read(asked, control), operation.body)
    if asked.method == "HEAD" and operation.answer == EVENTS:
        return Response(b"", content_type=EVENTS)
    result = await operation.handler(Call(control, asked, query, body, path, seen))
    return result if isinstance(result, Response) else json_response(result, operation.status)


async def _read(asked: Request, control: Control) -> bytes:
    """The body, bounded also where another server than ours runs the application."""
    limits = control.options.limits
    if asked.content_length is not None and asked.content_length > limits.body_bytes_max:
        raise too_large(limits.body_bytes_max)
    parts = bytearray()
    try:
        with trio.fail_after(limits.body_s_max):
            async for part in asked.body:
                parts += part
                if len(parts) > limits.body_bytes_max:
                    raise too_large(limits.body_bytes_max)
    except trio.TooSlowError:
        raise problem_of(408) from None
    return bytes(parts)


def _written(reply: Reply) -> Response:
    """What an application's rule wrote; a status of an error that it left without words gets the usual ones."""
    if reply.body is None and reply.status_code >= 400:
        response = _problem_response(problem_of(reply.status_code))
    else:
        response = Response(reply.body or b"", status=reply.status_code)
        del response.headers["content-type"]
    for name, value in reply.headers:
        if name == "content-type":
            response.headers.set(name, value)
        else:
            response.headers.add(name, value)
    return response


def _problem_response(problem: Problem) -> Response:
    response = Response(problem.body(), status=problem.status, content_type=JSON)
    if problem.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    for name, value in problem.headers:
        response.headers[name] = value
    return response


def _finished(control: Control, response: Response) -> Response:
    """What every answer has, and its place in the statistics."""
    control.requests[response.status_code] = control.requests.get(response.status_code, 0) + 1
    response.headers.setdefault("cache-control", "no-store")
    response.headers["x-content-type-options"] = "nosniff"
    response.headers["referrer-policy"] = "no-referrer"
    return response
