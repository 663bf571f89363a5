"""The server: bounded, contained, and gone when it is told to go."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from quart_trio import QuartTrio
from trio.testing import MockClock

from http_control import server
from http_control.limits import HttpLimits
from http_control.server import ServerOptions, serve_app
from http_control.sockets import Bind
from p2p import AddressInUse, ConfigError
from tests.clocks import as_it_goes, idle_time_skipped
from tests.http.applications import connect, descriptors, descriptors_back_to, plain_client, raw, served, small_app

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
PATIENT = HttpLimits(stop_grace_s=30, stop_s_max=60)
"""A server whose machine may be busy while it stops."""


@pytest.fixture
def clock(mock_clock: MockClock) -> Iterator[MockClock]:
    """Who is too slow is not waited for: no bound is made short, which a machine under load would not keep."""
    with idle_time_skipped(mock_clock):
        yield as_it_goes(mock_clock)


def problem(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    value = json.loads(body)
    assert value["ok"] is False
    assert b"content-type: application/json" in head
    assert value["status"] == int(head.split()[1])
    return value["status"], value["error"]


async def test_it_serves_on_a_free_port_and_says_which() -> None:
    async with served(small_app()) as (url, _), plain_client(url) as client:
        assert (await client.get("/")).json() == {"hello": True}
        assert (await client.post("/count", content=b"x" * 65_536)).json() == {"bytes": 65_536}


async def test_a_port_in_use_is_named() -> None:
    async with served(small_app()) as (url, _):
        port = int(url.rpartition(":")[2])
        with pytest.raises(AddressInUse, match=str(port)):
            await serve_app(small_app(), ServerOptions(Bind(port=port)))


async def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        await serve_app(small_app(), ServerOptions(Bind(host="192.0.2.1")))


async def test_a_unix_socket_is_private_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with served(small_app(), bind=Bind(unix=path)) as (url, _):
        assert url == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o600
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/")).json() == {"hello": True}
        with pytest.raises(AddressInUse):
            await serve_app(small_app(), ServerOptions(Bind(unix=path)))
    assert not path.exists()


async def test_a_stale_unix_socket_is_replaced_and_any_other_file_kept(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with trio.socket.socket(trio.socket.AF_UNIX) as killed:
        await killed.bind(str(path))
    async with served(small_app(), bind=Bind(unix=path)):
        pass
    path.write_text("mine")
    with pytest.raises(ConfigError, match="not a socket"):
        await serve_app(small_app(), ServerOptions(Bind(unix=path)))
    assert path.read_text() == "mine"


async def test_a_living_unix_socket_keeps_its_place_and_a_successor_its_file(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as waiting:
        busy.bind(str(path))
        busy.listen(0)
        for _ in range(3):  # until its queue is full
            knock = waiting.enter_context(socket.socket(socket.AF_UNIX))
            knock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                knock.connect(str(path))
        with pytest.raises(AddressInUse):
            await serve_app(small_app(), ServerOptions(Bind(unix=path)))
        assert path.exists()
    path.unlink()
    async with served(small_app(), bind=Bind(unix=path)):
        path.unlink()
        path.write_text("a successor's")
    assert path.read_text() == "a successor's"


async def test_a_key_with_a_passphrase_is_refused_and_asked_for_nowhere(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.BestAvailableEncryption(b"secret")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, form)
    (tmp_path / "key.pem").write_bytes(pem)
    trustme.CA().issue_cert("localhost").cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    bind = Bind(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem")
    with pytest.raises(ConfigError, match="passphrase"):
        await serve_app(small_app(), ServerOptions(bind))


async def test_a_refusal_over_tls_arrives_though_the_body_is_under_way(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    bind = Bind(tls_cert=tmp_path / "both.pem", tls_key=tmp_path / "both.pem")
    async with served(small_app(), bind=bind) as (url, _):
        for _ in range(5):
            plain = await connect(url.replace("https", "http"))
            tls = trio.SSLStream(plain, context, server_hostname="127.0.0.1", https_compatible=True)
            with trio.fail_after(30):
                # More than the kernel takes for a reader that has stopped.
                await tls.send_all(b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n")
                with contextlib.suppress(trio.BrokenResourceError):
                    await tls.send_all(bytes(400_000))
                assert b" 413 " in await tls.receive_some(1000)
            await trio.aclose_forcefully(tls)


async def test_tls(tmp_path: Path, clock: MockClock) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    leaf.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    bind = Bind(tls_cert=tmp_path / "both.pem", tls_key=tmp_path / "both.pem")
    before = descriptors()
    async with served(small_app(), bind=bind) as (url, _):
        assert url.startswith("https://")
        async with httpx.AsyncClient(base_url=url, verify=context) as client:
            assert (await client.get("/")).json() == {"hello": True}
        # No TLS at all, and nothing at all: neither is waited for long, neither is felt by the others.
        plain = url.replace("https", "http")
        assert b"200" not in await raw(plain, GET + b"\r\n")
        async with httpx.AsyncClient(base_url=url, verify=context) as client:
            assert (await client.get("/", headers={"connection": "close"})).json() == {"hello": True}
        await descriptors_back_to(before + 12)
    (tmp_path / "both.pem").write_text("none")
    with pytest.raises(ConfigError, match=r"both\.pem"):
        await serve_app(small_app(), ServerOptions(bind))


def test_half_of_tls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both"):
        Bind(tls_cert=tmp_path / "a")


@pytest.mark.parametrize("request_", [GET + b"Connection: close\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"])
async def test_a_connection_that_is_to_be_closed_is_closed(request_: bytes) -> None:
    async with served(small_app(), HttpLimits(header_s_max=600)) as (url, _):
        with trio.fail_after(60):  # before any idle timeout
            assert b'{"hello":true}' in await raw(url, request_)


@pytest.mark.parametrize(
    ("request_", "status", "error"),
    [
        (b"nonsense\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", 400, "bad_request"),
        (b"GET ?x HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
        (b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
        (b"PRI * HTTP/2.0\r\nHost: a\r\n\r\n", 505, "version_not_supported"),
        (GET + b"X: " + b"x" * 20_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (GET + b"X: " + b"x" * 200_000, 431, "headers_too_large"),
        (b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\nx", 413, "too_large"),
        (b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n12000\r\n" + b"x" * 73_728,
         413, "too_large"),
        (b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nx", 408, "timeout"),
        (b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400, "bad_request"),
        (GET + b"Host: b\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400, "bad_request"),
        (b"POST /count HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "bad_request"),
        (b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400, "bad_request"),
        (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
        (b"POST /count HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 70000\r\n\r\n", 413,
         "too_large"),
    ],
)  # fmt: skip
async def test_t54_what_is_malformed_too_large_or_too_slow(
    request_: bytes, status: int, error: str, clock: MockClock
) -> None:
    async with served(small_app()) as (url, _):
        with trio.fail_after(30):
            assert problem(await raw(url, request_)) == (status, error)


@pytest.mark.parametrize(
    "coding",
    [
        b"gzip",
        b"identity",
        b"gzip, chunked",
        b"chunked, gzip",
        b"chunked, chunked",
        b"chunked\r\nTransfer-Encoding: chunked",
    ],
)
async def test_t54_a_coding_that_is_not_spoken_ends_the_connection_unread(coding: bytes) -> None:
    """501 as RFC 9112, section 6.1, has it; and since nobody knows where such a body ends, nothing after it is read."""
    chunks = b"3\r\nabc\r\n0\r\n\r\n"
    request_ = b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: " + coding + b"\r\n\r\n" + chunks
    async with served(small_app()) as (url, _):
        with trio.fail_after(30):
            assert problem(await raw(url, request_ + GET + b"\r\n")) == (501, "not_implemented")


async def test_t54_a_length_and_chunks_at_once_smuggle_nothing() -> None:
    smuggled = b"GET /fail HTTP/1.1\r\nHost: a\r\n\r\n"
    head = b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n"
    both = head % (5 + len(smuggled)) + b"0\r\n\r\n"
    async with served(small_app()) as (url, _):
        with trio.fail_after(30):
            answer = await raw(url, both + smuggled)
        # Refused, and the connection is closed: what follows is no request.
        assert problem(answer) == (400, "bad_request")


@pytest.mark.parametrize("host", [b".1", b"127..1:18081", b"a..b", b"x" * 64, b"[::1", b"a b", b"a:b", b"\xff"])
async def test_t54_a_host_that_is_no_name_is_refused_and_is_no_bug(
    host: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(small_app()) as (url, _):
        with trio.fail_after(30):
            answer = await raw(url, b"GET / HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
        assert problem(answer) == (400, "bad_request")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("host", [b"a.b-c_d.", b"127.0.0.1:80", b"[::1]:80", b"A", b"a:"])
async def test_a_host_that_is_a_name_is_let_in(host: bytes) -> None:
    async with served(small_app()) as (url, _):
        with trio.fail_after(30):
            answer = await raw(url, b"GET / HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")


async def test_a_bug_is_logged_by_its_cause_and_not_without_end(caplog: pytest.LogCaptureFixture) -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        async def deep() -> None:
            raise RuntimeError("later") from KeyError("the cause")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(deep)

    async with served(failing, HttpLimits(bugs_told_per_min=2)) as (url, _):
        for _ in range(5):
            assert problem(await raw(url, GET + b"Connection: close\r\n\r\n")) == (500, "internal")
    told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    # A minute may end in between.
    assert 2 <= len(told) <= 4
    assert all("KeyError: 'the cause'" in line and "at GET /" in line for line in told)


async def test_t54_slow_headers_and_no_request_at_all_are_not_waited_for(clock: MockClock) -> None:
    before = descriptors()
    async with served(small_app()) as (url, _):
        with trio.fail_after(300):
            assert await raw(url, b"") == b""
            assert problem(await raw(url, GET)) == (408, "timeout")
            assert problem(await raw(url, b"G")) == (408, "timeout")
            kept = await raw(url, GET + b"\r\n" + GET)
            assert (kept.count(b"HTTP/1.1 200"), kept.count(b"HTTP/1.1 408")) == (1, 1)
            assert b"hello" in await raw(url, GET + b"\r\n")
        await descriptors_back_to(before + 6)


async def test_t54_connections_are_bounded_and_the_idle_one_gives_way() -> None:
    async with served(small_app(), HttpLimits(connections_max=4)) as (url, _):
        idle = [await connect(url) for _ in range(12)]
        with trio.fail_after(30):
            assert b"hello" in await raw(url, GET + b"Connection: close\r\n\r\n")
            assert await idle[0].receive_some(1) == b""
        for stream in idle:
            await stream.aclose()


async def test_t54_with_every_place_busy_a_new_connection_is_closed() -> None:
    async with served(small_app(), HttpLimits(connections_max=1)) as (url, _):
        async with await connect(url) as reader:
            await reader.send_all(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.receive_some(100)
            with trio.fail_after(30):
                async with await connect(url) as late:
                    with contextlib.suppress(trio.BrokenResourceError):
                        assert await late.receive_some(100) == b""


async def test_a_reader_that_stalls_is_cut_off_and_the_others_go_on() -> None:
    async with served(small_app(), HttpLimits(write_stall_s_max=1.0)) as (url, _):
        async with await connect(url) as stalled:
            await stalled.send_all(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
            with trio.fail_after(30):
                while True:  # until the server has given up, and its end is seen after what the kernel kept
                    assert b"hello" in await raw(url, b"GET / HTTP/1.0\r\n\r\n")
                    try:
                        await stalled.send_all(b"x")
                    except trio.BrokenResourceError:
                        break
                    await trio.sleep(0.02)


@pytest.mark.parametrize("stalled", [0, 20])
async def test_it_stops_in_time_whatever_the_clients_do(stalled: int) -> None:
    before = descriptors()
    streams: list[trio.SocketStream] = []
    async with served(small_app()) as (url, nursery):
        for _ in range(stalled):
            streams.append(await connect(url))
            await streams[-1].send_all(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
            await streams[-1].receive_some(100)
        async with plain_client(url) as client:
            await client.get("/")  # and kept alive
            started = trio.current_time()
            nursery.cancel_scope.cancel()
    assert trio.current_time() - started < 2 + 20  # 2 s promised, the rest for a machine under load
    for stream in streams:
        await stream.aclose()
    await descriptors_back_to(before)


async def test_what_announcing_raises_ends_the_start() -> None:
    async def announce(_: list[str]) -> None:
        raise ConfigError("the disk is full")

    with trio.fail_after(30), pytest.raises(ConfigError, match="disk is full"):
        await serve_app(small_app(), ServerOptions(), announce=announce)


async def test_what_the_caller_does_when_told_ends_the_server() -> None:
    class Failing(trio.TaskStatus[list[str]]):
        def started(self, value: list[str] | None = None) -> None:
            raise RuntimeError("meant")

    with trio.fail_after(30), pytest.raises(RuntimeError, match="meant"):
        await serve_app(small_app(), ServerOptions(), task_status=Failing())


async def test_a_request_under_way_is_answered_before_the_end() -> None:
    app = small_app()
    entered = trio.Event()

    @app.get("/slow")
    async def slow() -> dict[str, object]:
        entered.set()
        await trio.sleep(0.05)
        return {"slow": True}

    async with served(app, PATIENT) as (url, nursery), trio.open_nursery() as asking:
        answers: list[bytes] = []

        async def ask() -> None:
            with trio.CancelScope(shield=True):
                answers.append(await raw(url, b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"))

        asking.start_soon(ask)
        await entered.wait()
        nursery.cancel_scope.cancel()
    assert b'{"slow":true}' in answers[0]


async def test_an_application_that_fails_fails_one_request() -> None:
    async with served(small_app()) as (url, _), plain_client(url) as client:
        assert (await client.get("/fail")).status_code == 500
        assert (await client.get("/")).status_code == 200


async def test_an_application_that_fails_before_it_answers_is_answered_for() -> None:
    async def broken(scope: dict[str, object], receive: object, send: object) -> None:
        raise ValueError("meant")

    with trio.fail_after(30):
        async with served(broken) as (url, _):  # type: ignore[arg-type]  # one that has no lifespan either
            assert problem(await raw(url, GET + b"Connection: close\r\n\r\n")) == (500, "internal")


async def test_after_a_calm_time_a_failure_counts_as_the_first() -> None:
    # Every life is longer than that, so no pause is the second one.
    async with served(small_app(), HttpLimits(restart_s=(0.0, 1000.0), calm_s=0.0)) as (url, _):
        with trio.fail_after(30):
            for _ in range(3):
                await raw(url, b"GET /end HTTP/1.0\r\n\r\n")
                while b"hello" not in await raw(url, b"GET / HTTP/1.0\r\n\r\n"):
                    pass


async def test_a_broken_application_is_started_again_on_the_same_port() -> None:
    async with served(small_app()) as (url, _):
        with trio.fail_after(30):
            await raw(url, b"GET /end HTTP/1.0\r\n\r\n")
            while b"hello" not in await raw(url, b"GET / HTTP/1.0\r\n\r\n"):
                pass


@pytest.mark.parametrize(
    ("request_", "after"),
    [
        # Nobody reads the body, so that the connection ends with the answer: what follows must not cut it off.
        (GET + b"Content-Length: 5\r\n\r\nhello", GET + b"\r\n"),
        (GET + b"Connection: close\r\n\r\n", GET + b"\r\n"),
        (GET + b"Connection: close\r\n\r\n", b"\r\n"),
        (b"POST /count HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", b"\r\n"),
    ],
)
async def test_what_follows_a_request_does_not_change_its_answer(request_: bytes, after: bytes) -> None:
    async with served(small_app()) as (url, _):
        for _ in range(20):  # which of the two is quicker differs
            answer = await raw(url, request_ + after)
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.endswith((b'{"hello":true}\n', b'{"bytes":5}\n', b'{"hello":true}', b'{"bytes":5}'))


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"])
async def test_a_client_that_ends_its_direction_gets_the_whole_answer(more: bytes) -> None:
    async with served(small_app()) as (url, _):
        for _ in range(10):
            async with await connect(url) as stream:
                await stream.send_all(GET + more + b"\r\n")
                await stream.send_eof()
                answer = b"".join([part async for part in stream])
            assert b'{"hello":true}' in answer


async def test_a_client_that_ended_its_direction_is_not_sent_a_stream_for_ever() -> None:
    async with served(small_app(), HttpLimits(linger_s_max=0.1)) as (url, _), await connect(url) as stream:
        await stream.send_all(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        await stream.send_eof()
        with trio.fail_after(30):
            async for _ in stream:
                pass


async def test_who_asks_before_sending_a_body_is_answered_by_the_header() -> None:
    ask = b" HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 3\r\n\r\n"
    async with served(small_app(), HttpLimits(continue_after_s=60)) as (url, _):
        with trio.fail_after(30):
            assert (await raw(url, b"POST /nothing" + ask)).startswith(b"HTTP/1.1 404")
    async with served(small_app(), HttpLimits(continue_after_s=0.01)) as (url, _), await connect(url) as stream:
        await stream.send_all(b"POST /count" + ask)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 100")
        await stream.send_all(b"abc")
        assert b'{"bytes":3}' in b"".join([part async for part in stream])


async def test_a_request_that_takes_longer_than_the_stop_is_told_so() -> None:
    app, begun, answers = small_app(), trio.Event(), list[bytes]()

    @app.get("/wait")
    async def wait() -> str:
        begun.set()
        await trio.sleep_forever()
        raise AssertionError

    async def ask(url: str) -> None:
        answers.append(await raw(url, b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"))

    with trio.fail_after(30):
        async with trio.open_nursery() as clients:
            async with served(app, HttpLimits(stop_grace_s=0.01, stop_s_max=60)) as (url, _):
                clients.start_soon(ask, url)
                await begun.wait()
    assert problem(answers[0]) == (503, "stopping")


async def test_it_stops_with_requests_that_wait_behind_one_under_way() -> None:
    app = QuartTrio("slow")
    begun = trio.Event()

    @app.get("/")
    async def slow() -> dict[str, object]:
        begun.set()
        await trio.sleep(0.1)
        return {"late": True}

    async with served(app, PATIENT) as (url, _):
        stream = await connect(url)
        await stream.send_all(GET + b"\r\n" + GET + b"\r\n")
        await begun.wait()
    # The one that was under way is answered, the other one is not begun any more.
    async with stream:
        assert b"".join([part async for part in stream]).count(b"late") == 1


async def test_t04_the_last_descriptors_are_left_to_the_node_and_that_is_told_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits = HttpLimits(accept_pause_s=0.01)
    async with served(small_app(), limits=limits) as (url, _):
        with monkeypatch.context() as full:
            # Fewer than are open already.
            full.setattr(server, "descriptor_limit", lambda: 4)
            for _ in range(5):
                with contextlib.suppress(trio.BrokenResourceError):
                    assert await raw(url, b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n") == b""
        answer = await raw(url, b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert answer.split(b" ")[1] == b"200"
    assert len([one for one in caplog.records if "are not accepted" in one.getMessage()]) == 1
