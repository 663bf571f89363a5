"""What ends the program does, whoever raised it; what is a failure and no more does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import trio
from quart import Response
from quart_trio import QuartTrio

import http_control
import p2p
from http_control import ApplicationFailed, HttpLimits, P2PHttpOptions
from http_control.contained import contained, first_of
from http_control.server import ServerOptions, serve_app
from tests.http.applications import raw, served, small_app
from tests.http.controlled import TOKEN, one_controlled

GET = b"GET /raise HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
ENDS = [KeyboardInterrupt, SystemExit]


class Odd(BaseException):
    """No Exception, and no end either."""


def leaves(error: BaseException) -> list[type[BaseException]]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [type(error)]


def raising(kind: type[BaseException], how: str) -> QuartTrio:
    app = small_app()
    http_control.register_routes(app, p2p.P2PRuntime(p2p.Node(p2p.NodeConfig(node_id="a"))))

    async def fail() -> None:
        raise kind("meant")

    async def parts() -> AsyncIterator[bytes]:
        yield b"begun"
        await fail()

    @app.get("/raise")
    async def handler() -> Response | str:
        if how == "plain":
            await fail()
        elif how == "nursery":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
        elif how == "task":
            app.nursery.start_soon(fail)
        else:
            return Response(parts(), mimetype="text/plain")
        return "x"

    return app


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize("how", ["plain", "nursery", "task", "stream"])
async def test_what_ends_the_program_leaves_the_server(kind: type[BaseException], how: str) -> None:
    answers: list[bytes] = []

    async def ask(url: str) -> None:
        with trio.CancelScope(shield=True):
            answers.append(await raw(url, GET))

    with trio.fail_after(30), pytest.raises(BaseExceptionGroup) as caught:
        # Time enough to be told so on a busy machine.
        async with served(raising(kind, how), HttpLimits(stop_grace_s=30, stop_s_max=60)) as (url, nursery):
            nursery.start_soon(ask, url)
            await trio.sleep_forever()
    assert leaves(caught.value) == [kind]
    if how in {"plain", "nursery"}:
        # Whoever asked is told, and has not to guess from an empty answer.
        assert answers[0].startswith(b"HTTP/1.1 503 ")
        assert b'"error":"stopping"' in answers[0]


@pytest.mark.parametrize("kind", [ValueError, Odd, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("how", ["plain", "nursery", "stream"])
async def test_anything_else_is_one_request_that_failed(
    kind: type[BaseException], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    with trio.fail_after(30):
        async with served(raising(kind, how)) as (url, _):
            answer = await raw(url, GET)
            assert b"HTTP/1.1 " in answer
            assert (b"begun" in answer) if how == "stream" else (b'"error":"internal"' in answer or b" 500 " in answer)
            # A stream that failed has no last chunk.
            assert not answer.endswith(b"0\r\n\r\n")
            assert b"hello" in await raw(url, b"GET / HTTP/1.0\r\n\r\n")
    assert "report it" not in caplog.text


def rules(kind: type[BaseException]) -> list[dict[str, Any]]:
    async def later(*_: object) -> bool:
        raise kind("meant")

    def now(*_: object) -> bool:
        raise kind("meant")

    return [{"auth_ctx": later}, {"auth_legacy": now}, {"admin_hook": later}, {"on_shutdown": now}]


@pytest.mark.parametrize("kind", [Odd, GeneratorExit])
@pytest.mark.parametrize("which", range(4))
async def test_a_rule_or_hook_that_raises_anything_is_answered_with_json_and_told_as_the_applications(
    which: int, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    options = rules(kind)[which]
    async with one_controlled(**options) as a:
        if "admin_hook" in options:
            assert (await a.post("/admin/hook", {}, status=502))["error"] == "hook_failed"
        elif "on_shutdown" in options:
            assert (await a.post("/shutdown", {}, status=502))["error"] == "hook_failed"
        else:
            await a.get("/status", status=401)
    (told,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "application" in told.getMessage()
    assert f"{kind.__name__}: meant" in told.getMessage()
    assert "report it" not in told.getMessage()
    assert told.exc_info is not None


@pytest.mark.parametrize("which", range(4))
async def test_a_rule_or_hook_that_ends_the_program_ends_it(which: int) -> None:
    options = rules(SystemExit)[which]
    path, method = ("/p2p/admin/hook", "POST") if "admin_hook" in options else ("/p2p/status", "GET")
    if "on_shutdown" in options:
        path, method = "/p2p/shutdown", "POST"
    with trio.fail_after(30), pytest.raises(BaseExceptionGroup) as caught:
        async with one_controlled(**options) as a:
            body = {} if method == "GET" else {"json": {}}
            with pytest.raises((httpx.HTTPError, trio.Cancelled)):
                (await a.client.request(method, path, **body)).raise_for_status()
            await trio.sleep_forever()
    assert leaves(caught.value) == [SystemExit]


async def test_a_sink_that_raises_anything_costs_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def sink(_: str) -> None:
        raise Odd("meant")

    async with one_controlled(log_sink=sink) as a:
        await a.get("/status")
    told = [record.getMessage() for record in caplog.records if "log sink" in record.getMessage()]
    assert 0 < len(told) <= 20
    assert "Odd: meant" in told[0]


def test_what_is_contained() -> None:
    with pytest.raises(GeneratorExit):
        # Outside of any task, where Python closes what nobody runs any more.
        contained(GeneratorExit())
    for error in (ValueError("x"), Odd("x"), ExceptionGroup("g", [ValueError("x"), KeyError("y")])):
        assert contained(error) is error
    with pytest.raises(KeyboardInterrupt):
        contained(BaseExceptionGroup("g", [ValueError("x"), BaseExceptionGroup("h", [KeyboardInterrupt()])]))
    inner = ValueError("x")
    assert first_of(ExceptionGroup("g", [ExceptionGroup("h", [inner])])) is inner


async def test_an_application_that_cannot_start_says_so_to_who_starts_it() -> None:
    app = QuartTrio("broken")

    @app.before_serving
    async def connect() -> None:
        raise OSError("no database")

    async with trio.open_nursery() as nursery:
        with trio.fail_after(30), pytest.raises(ApplicationFailed, match="no database"):
            await nursery.start(serve_app, app, ServerOptions())
        patient = small_app()
        patient.before_serving(trio.sleep_forever)
        with trio.fail_after(30), pytest.raises(ApplicationFailed, match="startup_s_max"):
            await nursery.start(serve_app, patient, ServerOptions(limits=HttpLimits(startup_s_max=0.01)))


async def test_an_application_that_cannot_be_started_again_is_given_up_after_so_many_tries() -> None:
    app = small_app()
    started: list[int] = []

    @app.while_serving
    async def once() -> AsyncIterator[None]:
        started.append(1)
        yield

    with trio.fail_after(30), pytest.raises(ExceptionGroup) as caught:
        async with served(app, HttpLimits(restart_s=(0.001,), starts_max=3)) as (url, _):
            await raw(url, b"GET /end HTTP/1.0\r\n\r\n")
            await trio.sleep_forever()
    assert leaves(caught.value) == [ApplicationFailed]
    assert started == [1]


async def test_a_database_that_comes_back_in_time_is_waited_for() -> None:
    app = small_app()
    starts: list[int] = []

    @app.before_serving
    async def connect() -> None:
        starts.append(1)
        if len(starts) in (2, 3):
            raise OSError("no database")

    with trio.fail_after(30):
        async with served(app, HttpLimits(restart_s=(0.001,), starts_max=3)) as (url, _):
            for _ in range(2):
                await raw(url, b"GET /end HTTP/1.0\r\n\r\n")
                while b"hello" not in await raw(url, b"GET / HTTP/1.0\r\n\r\n"):
                    pass


async def test_an_application_without_a_lifespan_is_served() -> None:
    async def returns(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    with trio.fail_after(30):
        async with served(returns) as (url, _):
            assert b" 204 " in await raw(url, GET)


async def test_ctrl_c_in_a_task_of_ours_ends_the_program() -> None:
    def sink(_: str) -> None:
        raise KeyboardInterrupt

    with trio.fail_after(30), pytest.raises(BaseExceptionGroup) as caught:
        async with p2p.open_node(node_id="a") as node, trio.open_nursery() as nursery:
            options = P2PHttpOptions(token=TOKEN, log_sink=sink)
            await nursery.start(http_control.serve, p2p.P2PRuntime(node), options)
            await trio.sleep_forever()
    assert set(leaves(caught.value)) == {KeyboardInterrupt}
