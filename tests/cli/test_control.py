"""`--http` and the thin clients, over real processes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trustme
from trio.testing import MockClock

import http_control
import p2p as p2p_package
from p2p.cli import client, remote
from p2p.cli.client import ControlFailed, NotServed, Target, open_control
from p2p.cli.output import Output, ReaderGone
from p2p.cli.settings import UsageError
from p2p.cli.ways import circuits_text, request
from p2p.errors import ConfigError
from tests.cli.processes import p2p, p2p_fails, p2p_ok, p2p_refuses, running, start
from tests.clocks import as_it_goes, idle_time_skipped
from tests.http.applications import served, small_app
from tests.http.controlled import TOKEN, one_controlled
from tests.ports import free_port


async def test_a_node_is_served_shown_steered_and_stopped(tmp_path: Path) -> None:
    a_dir, b_dir = tmp_path / "a", tmp_path / "b"
    async with (
        running("--id", "A", "--data-dir", a_dir, "--http", "127.0.0.1:0") as a,
        running("--id", "B", "--data-dir", b_dir, "--http-unix", tmp_path / "b.sock") as b,
    ):
        started = await a.until(lambda event: event["event"] == "started")
        other = await b.until(lambda event: event["event"] == "started")
        url = started["http"][0]
        assert "http_token" not in started
        assert other["http"] == [f"unix:{tmp_path / 'b.sock'}"]
        shown = json.loads(await p2p_ok("status", "--data-dir", a_dir, "--json"))
        assert shown["peer_id"] == started["peer_id"]
        endpoint = other["endpoints"][0]
        assert "connected to B" in await p2p_ok("connect", "--data-dir", a_dir, endpoint)
        assert "already connected to B" in await p2p_ok("connect", "--data-dir", a_dir, endpoint)
        again = json.loads(await p2p_ok("connect", "--json", "--data-dir", a_dir, endpoint))
        assert (again["peer"]["node_id"], again["already_connected"]) == ("B", True)
        assert "refused" in await p2p_fails(1, "connect", "--data-dir", a_dir, "127.0.0.1:1")
        text = await p2p_ok("status", "--url", url, "--token-file", a_dir / "control.token")
        assert "1 connected" in text
        assert "B" in text
        told = await p2p_ok("log", "--data-dir", b_dir)
        assert "initialised" in told
        assert "connected to A" in told
        line = json.loads((await p2p_ok("log", "--data-dir", b_dir, "--lines", "1", "--json")).splitlines()[0])
        assert set(line) == {"line"}
        # The log is held by the node: lines go through it, text and bytes alike.
        done = json.loads(await p2p_ok("wal", "append", "--data-dir", a_dir, "--json", stdin=b"one\n\xff\nthree\n"))
        assert done == {"appended": 3, "first_seq": 1, "last_seq": 3, "left_out": 0}
        assert "disconnected from" in await p2p_ok("disconnect", "--data-dir", b_dir, "A")
        unknown = await p2p_fails(1, "disconnect", "--data-dir", b_dir, "nobody")
        assert "nobody" in unknown
        assert "GET" not in unknown
        assert "whom?" in await p2p_fails(2, "ping", "--data-dir", b_dir, "")
        assert "wants a token" in await p2p_fails(1, "status", "--url", url)
        wrong = tmp_path / "wrong"
        wrong.write_text("x" * 43)
        assert "does not take this token" in await p2p_fails(1, "status", "--url", url, "--token-file", wrong)
        wrong.write_text("")
        assert "holds no token" in await p2p_fails(1, "status", "--url", url, "--token-file", wrong)
        failure = await p2p("disconnect", "--data-dir", b_dir, "--json", "nobody")
        assert failure.stdout == b""
        assert json.loads(failure.stderr)["event"] == "error"
        assert "write HOST:PORT" in await p2p_fails(2, "connect", "--data-dir", a_dir, "nowhere")
        port = url.rpartition(":")[2]
        taken = await p2p_fails(1, "--id", "C", "--memory", "--http", f"127.0.0.1:{port}")
        assert f"port {port} of 127.0.0.1 is in use" in taken
        assert "Errno" not in taken
        token = (a_dir / "control.token").read_text().strip()
        async with httpx.AsyncClient(base_url=url, headers={"x-auth-token": token}) as client:
            assert (await client.put("/p2p/log-level", json={"level": "debug"})).json()["level"] == "debug"
            assert (await client.post("/p2p/shutdown", json={})).json()["stopping"] is True
        await a.until(lambda event: event["event"] == "stopped")
        with trio.fail_after(30):
            assert await a.process.wait() == 0
    assert not (a_dir / "control.json").exists()
    lines = (await p2p_ok("wal", "tail", "--data-dir", a_dir, "--json")).splitlines()
    assert [json.loads(line).get("payload") for line in lines] == ["one", None, "three"]
    assert "--http" in await p2p_fails(1, "status", "--data-dir", a_dir)


async def test_a_node_in_memory_tells_its_token() -> None:
    async with running("--id", "A", "--memory", "--http", "127.0.0.1:0") as a:
        started = await a.until(lambda event: event["event"] == "started")
        headers = {"authorization": f"Bearer {started['http_token']}"}
        async with httpx.AsyncClient(base_url=started["http"][0], headers=headers) as client:
            assert (await client.get("/p2p/status")).json()["node_id"] == "A"


async def test_a_log_that_is_held_by_a_node_without_http(tmp_path: Path) -> None:
    async with running("--id", "A", "--data-dir", tmp_path) as a:
        await a.until(lambda event: event["event"] == "started")
        assert "without HTTP" in await p2p_fails(1, "wal", "append", "--data-dir", tmp_path, stdin=b"x\n")


async def test_no_package_is_missed_where_no_node_serves_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(NotServed, match="--http"):
        async with open_control(Target(None, tmp_path, None)):
            pass
    with pytest.raises(ConfigError, match="trio-p2p"):
        async with open_control(Target("http://127.0.0.1:1", None, None)):
            pass


async def test_t56_the_token_is_shown_to_nobody_who_took_the_place_of_a_killed_node(tmp_path: Path) -> None:
    file = tmp_path / "control.json"
    for is_held in (False, True):
        port = free_port()
        async with running("--id", "A", "--data-dir", tmp_path, "--http", f"127.0.0.1:{port}") as a:
            await a.until(lambda event: event["event"] == "started")
            left_behind = file.read_bytes()
            a.process.kill()
            await a.process.wait()
        came: list[bytes] = []

        async def stranger(stream: trio.SocketStream, came: list[bytes] = came) -> None:
            came.append(await stream.receive_some())

        async with trio.open_nursery() as nursery:
            await nursery.start(partial(trio.serve_tcp, stranger, port, host="127.0.0.1"))
            assert file.exists()
            if is_held:
                async with running("--id", "A", "--data-dir", tmp_path) as again:
                    await again.until(lambda event: event["event"] == "started")
                    assert not file.exists()
                    file.write_bytes(left_behind)
                    text = await p2p_fails(1, "wal", "append", "--data-dir", tmp_path, stdin=b"x\n")
                    assert "without HTTP" in text
            else:
                assert "is gone" in await p2p_fails(1, "status", "--data-dir", tmp_path)
                # Whose next start overwrites or removes it: a look changes nothing.
                assert file.read_bytes() == left_behind
                url = f"http://127.0.0.1:{port}"
                text = await p2p_fails(1, "status", "--data-dir", tmp_path, "--url", url)
                assert "is gone" in text
            nursery.cancel_scope.cancel()
        assert came == []


async def test_a_certificate_of_ones_own_is_believed_when_named(tmp_path: Path) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    cert, key, ca = tmp_path / "cert", tmp_path / "key", tmp_path / "ca"
    leaf.cert_chain_pems[0].write_to_path(cert)
    leaf.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    tls = ("--http-tls-cert", cert, "--http-tls-key", key)
    async with running("--id", "A", "--data-dir", tmp_path / "a", "--http", "127.0.0.1:0", *tls) as a:
        url = (await a.until(lambda event: event["event"] == "started"))["http"][0]
        shown = ("status", "--url", url, "--token-file", tmp_path / "a" / "control.token")
        assert "A" in await p2p_ok(*shown, "--ca", ca)
        assert "certificate" in await p2p_fails(1, *shown)
        assert str(key) in await p2p_fails(1, *shown, "--ca", key)


async def test_http_that_is_not_safe_or_not_usable_is_wrong_usage(tmp_path: Path) -> None:
    for arguments, word in (
        (("--http", "0.0.0.0:0"), "--http-open"),
        (("--http", "nonsense"), "HOST:PORT"),
        (("--http", "127.0.0.1:99999"), "HOST:PORT"),
        (("--http", "127.0.0.1:0", "--http-tls-cert", "x"), "both"),
        (("--http", "127.0.0.1:0", "--http-unix", "x"), "exclude"),
        (("--http-open",), "--http HOST:PORT"),
        (("--http", "127.0.0.1:0", "--http-proxy", "x"), "trusted_proxies"),
    ):
        assert word in await p2p_fails(2, "--id", "A", "--memory", *arguments)
    assert "which node" in await p2p_fails(2, "status")
    assert "http://HOST:PORT" in await p2p_fails(2, "status", "--url", "ftp://x")
    assert "cannot be reached" in await p2p_fails(1, "status", "--url", "http://127.0.0.1:1")
    assert (await p2p("status", "--help")).returncode == 0


async def test_who_watches_a_node_is_told_that_it_stopped_and_ends_well(tmp_path: Path) -> None:
    watching = (("log", "--follow"), ("top",))
    ended: dict[str, tuple[int, bytes]] = {}

    async def watch(started: trio.Event, command: tuple[str, ...]) -> None:
        async with trio.open_nursery() as nursery:
            process = await start(*command, "--data-dir", tmp_path, "--json")
            assert json.loads(bytes(await process.stdout.receive_some()).splitlines()[0])
            started.set()
            nursery.start_soon(_drained, process.stdout)
            said = b"".join([part async for part in process.stderr])
            ended[command[0]] = (await process.wait(), said)

    with trio.fail_after(120):
        async with (
            trio.open_nursery() as watchers,
            running("--id", "A", "--data-dir", tmp_path, "--http", "127.0.0.1:0") as a,
        ):
            await a.until(lambda event: event["event"] == "started")
            for command in watching:
                started = trio.Event()
                watchers.start_soon(watch, started, command)
                await started.wait()
            a.process.terminate()
            assert await a.process.wait() == 0
    for command in watching:
        assert ended[command[0]] == (0, b"p2p: the node stopped\n"), command


async def _drained(stream: trio.abc.ReceiveStream) -> None:
    async for _ in stream:
        pass


async def test_a_log_is_followed_until_somebody_stops_it(tmp_path: Path) -> None:
    async with running("--id", "A", "--data-dir", tmp_path, "--http", "127.0.0.1:0") as a:
        await a.until(lambda event: event["event"] == "started")
        process = await start("log", "--data-dir", tmp_path, "--follow", "--json")
        with trio.fail_after(30):
            line = json.loads(bytes(await process.stdout.receive_some()).splitlines()[0])
            assert line["time_ms"] > 0
            process.terminate()
            assert await process.wait() == 0


async def test_a_peer_behind_a_relay_is_found_pinged_and_written_to(tmp_path: Path) -> None:
    key = tmp_path / "key"
    await p2p_ok("id", "--new-network-key", key)
    shared = ("--network-key-file", key, "--host", "127.0.0.1", "--discovery", "off")
    a_dir = tmp_path / "a"
    async with running("--id", "R", "--data-dir", tmp_path / "r", "--relay", "on", *shared) as r:
        relay = (await r.until(lambda event: event["event"] == "started"))["endpoints"][0]
        async with (
            running("--id", "B", "--data-dir", tmp_path / "b", "--via", relay, *shared) as b,
            running("--id", "A", "--data-dir", a_dir, "--via", relay, "--http", "127.0.0.1:0", *shared) as a,
        ):
            target = (await b.until(lambda event: event["event"] == "started"))["peer_id"]
            await a.until(lambda event: event.get("peers_connected") == 1)
            await b.until(lambda event: event.get("peers_connected") == 1)
            of_a = ("--data-dir", a_dir)
            answered = await p2p_ok("ping", *of_a, target)
            assert "through a relay: relay://" in answered
            assert "sent to" in await p2p_ok("send", *of_a, "B", "chat", "hi")
            await b.until(lambda event: event.get("peers_connected") == 2)
            assert f"{target} is reached over" in await p2p_ok("routes", "add", *of_a, target, "R")
            listed = (await p2p_ok("routes", "list", *of_a)).splitlines()
            assert listed[-1].startswith("circuits: 1 end here, 0 passed on (0 since the start, with 0 bytes); 0 ref")
            status = json.loads(await p2p_ok("status", "--json", *of_a))
            assert status["circuits"]["ends"] == 1
            long = await p2p_fails(2, "send", *of_a, "B", "chat", "x" * 100_000)
            assert "TEXT has 100000 bytes: one command takes 65536" in long
            assert f"{target}  B" in listed[0]
            assert "over R" in listed[0]
            await p2p_ok("routes", "remove", *of_a, target)
            assert "no route" in await p2p_fails(1, "routes", "remove", *of_a, "00" * 32)
            assert "nobody" in await p2p_fails(1, "ping", *of_a, "nobody")


def test_whom_and_where_to_is_checked_before_the_node_is_asked(tmp_path: Path) -> None:
    of_a = ("--data-dir", tmp_path)
    for command in ("send", "request"):
        for channel, size in (("", 0), ("é" * 129, 258)):
            refusal = p2p_refuses(command, *of_a, "B", channel, "hi")
            assert f"CHANNEL has 1-256 bytes of UTF-8, and not {size}" in refusal
    for command in (("routes", "add"), ("routes", "remove"), ("ping",), ("disconnect",)):
        last = ("R",) if command[-1] == "add" else ()
        assert f"in lower case: {'ab' * 32}" in p2p_refuses(*command, *of_a, "AB" * 32, *last)
        assert "no peer is called '../x?y#z'" in p2p_refuses(*command, *of_a, "../x?y#z", *last)


async def test_an_answer_is_printed_whole_and_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    class Answering:
        async def post(self, _path: str, body: dict[str, Any], *, wait_ms: int) -> dict[str, Any]:
            return {"body": "\x1b\n" + body["body"]}

    asked = "y" * 1024 * 1024
    assert await request(Answering(), Output(), as_json=False, who="B", channel="big", text=asked, wait_ms=1) == 0  # type: ignore[arg-type]
    assert capsys.readouterr().out == f"\\x1b\\n{asked}\n"


def test_circuits_are_told_with_the_reasons_of_their_ends() -> None:
    counts = {"ends": 2, "relayed": 1, "relayed_total": 9, "relayed_bytes": 12, "refused_total": 5, "broken_total": 1}
    text = circuits_text({**counts, "refused": {"no_route": 1, "full": 4}, "broken": {"timeout": 1}})
    assert text == (
        "2 end here, 1 passed on (9 since the start, with 12 bytes); 5 refused (full 4, no_route 1), "
        "1 ended by a limit or a fault (timeout 1)"
    )


async def test_a_scheme_that_is_not_spoken_there_is_named() -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.receive_some()

    async def why(url: str) -> str:
        with pytest.raises(ControlFailed) as failed:
            async with open_control(Target(url, None, None)) as control:
                await control.get("/status")
        return str(failed.value)

    async with served(small_app()) as (url, nursery):
        assert "http://" in await why(url.replace("http://", "https://"))
        (listener,) = await nursery.start(partial(trio.serve_tcp, hang_up, 0, host="127.0.0.1"))
        assert "https://" in await why(f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
    with pytest.raises(UsageError, match="99999"):
        await why("http://127.0.0.1:99999")


async def test_t56_the_token_of_a_data_dir_is_shown_at_no_other_place(tmp_path: Path) -> None:
    came: list[bytes] = []

    async def stranger(stream: trio.SocketStream) -> None:
        came.append(await stream.receive_some())

    async def status(url: str, **more: Any) -> dict[str, Any]:
        async with open_control(Target(url, tmp_path, more.get("token_file"))) as control:
            return await control.get("/status")

    async with p2p_package.open_node(node_id="a", data_dir=tmp_path) as node, trio.open_nursery() as nursery:
        (url,) = await nursery.start(http_control.serve, p2p_package.P2PRuntime(node))
        (listener,) = await nursery.start(partial(trio.serve_tcp, stranger, 0, host="127.0.0.1"))
        elsewhere = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        for place in (elsewhere, url.replace("http://", "https://"), url.replace("127.0.0.1", "[::1]")):
            with pytest.raises(ConfigError, match="--token-file"):
                await status(place)
        assert came == []
        for place in (url, url.replace("127.0.0.1", "localhost")):
            assert (await status(place))["node_id"] == "a"
        with pytest.raises(ControlFailed):
            await status(elsewhere, token_file=tmp_path / "control.token")
        assert len(came) == 1
        nursery.cancel_scope.cancel()


async def test_who_takes_a_question_and_says_nothing_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(_: trio.SocketStream) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(client, "LOOK_S_MAX", 0.1)
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, silent, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        async with open_control(Target(url, None, None)) as control:
            with trio.fail_after(30):
                with pytest.raises(ControlFailed, match="does not answer"):
                    await control.get("/status")
                with pytest.raises(ControlFailed, match="does not answer"):
                    await anext(control.events("/events"))
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def stranger_that_says(*parts: bytes, for_ever: bytes = b"", every_s: float = 0) -> AsyncIterator[client.Control]:
    """A client of something that is no node."""

    async def say(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        with suppress(trio.BrokenResourceError):
            for part in parts:
                await stream.send_all(part)
            while for_ever:
                await stream.send_all(for_ever)
                await trio.sleep(every_s)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, say, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        async with open_control(Target(url, None, None)) as control:
            with trio.fail_after(60):
                yield control
        nursery.cancel_scope.cancel()


OK = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n\r\n"


async def test_an_answer_without_an_end_is_read_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_BYTES_MAX", 1_000_000)
    monkeypatch.setattr(client, "EVENT_BYTES_MAX", 1_000_000)
    spaces = b" " * 65_536
    for head in (OK % b"application/json", (OK % b"text/html").replace(b"200", b"500")):
        async with stranger_that_says(head, for_ever=spaces) as control:
            with pytest.raises(ControlFailed, match="more than any node"):
                await control.get("/status")
    async with stranger_that_says(OK % b"text/event-stream", b'data: {"n": 1}\n\ndata: ', for_ever=spaces) as control:
        events = control.events("/events")
        assert await anext(events) == {"n": 1}
        with pytest.raises(ControlFailed, match="without an end"):
            await anext(events)


async def test_an_answer_that_comes_a_byte_at_a_time_is_not_waited_for_long(mock_clock: MockClock) -> None:
    as_it_goes(mock_clock)
    async with stranger_that_says(OK % b"application/json", for_ever=b" ", every_s=2) as control:
        with idle_time_skipped(mock_clock), pytest.raises(ControlFailed, match=r"the end of its answer within 30 s"):
            await control.get("/status")


async def test_what_may_take_so_long_is_waited_for_so_long_and_little_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LOOK_S_MAX", 0.1)
    async with stranger_that_says(OK[:20], for_ever=b"X-A: b\r\n", every_s=60) as control:
        with pytest.raises(ControlFailed, match="does not answer"):
            await remote.connect(control, Output(), as_json=True, endpoint="127.0.0.1:1", wait_ms=100)


async def test_a_prefix_that_is_missing_from_the_url_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    async with one_controlled(prefix="/api") as a:
        async with open_control(Target(a.url, None, tmp_path / "token")) as control:
            with pytest.raises(ControlFailed, match=r"under /p2p: .* behind the --url"):
                await control.get("/status")
        async with open_control(Target(f"{a.url}/api", None, tmp_path / "token")) as control:
            assert (await control.get("/status"))["node_id"] == "a"


async def test_a_log_that_is_followed_ends_with_its_reader_and_not_with_the_next_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(remote, "Output", lambda: Output(stream))
        act = partial(remote.show_log, as_json=False, follow=True, lines=1)
        ended: list[BaseException] = []

        async def follow(target: Target) -> None:
            try:
                await remote._run(target, act, only_shows=True)
            except BaseExceptionGroup as group:
                ended.append(group.exceptions[0])

        async with one_controlled(enable_stats_line=False) as a:
            a.node._log_line("the only one")
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(follow, Target(a.url, None, tmp_path / "token"))
                    await trio.lowlevel.wait_readable(reading)
                    assert os.read(reading, 100) == b"the only one\n"
                    os.close(reading)
        assert isinstance(ended[0], ReaderGone)


@pytest.mark.parametrize("said", [OK % b"text/html" + b"<b>hi", OK % b"application/json" + b"{}"])
async def test_to_follow_what_is_no_node_is_no_orderly_end(said: bytes) -> None:
    async with stranger_that_says(said) as control:
        with pytest.raises(ControlFailed, match="like a node") as failed:
            await remote.show_log(control, Output(), as_json=True, follow=True, lines=1)
    assert not isinstance(failed.value, client.NodeStopped)


@pytest.mark.parametrize("said", [OK % b"text/html" + b"<b>hi", OK % b"application/json" + b"[1]"])
async def test_the_lines_of_what_is_no_node_are_not_shown(said: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    async with stranger_that_says(said) as control:
        with pytest.raises(ControlFailed, match="like a node"):
            await remote.show_log(control, Output(), as_json=False, follow=False, lines=1)
    assert capsys.readouterr().out == ""


async def test_what_is_no_http_is_told_in_few_words() -> None:
    async with stranger_that_says(bytes(range(128, 256)) * 40 + b"\r\n\r\n") as control:
        with pytest.raises(ControlFailed, match="is no HTTP") as failed:
            await control.get("/status")
    assert len(str(failed.value)) < 200


async def test_what_never_answered_like_a_node_does_not_answer_any_less_now() -> None:
    async with stranger_that_says(OK % b"text/html" + b"<b>hi") as control:
        with pytest.raises(ControlFailed, match="like a node") as failed:
            await remote.show_top(control, Output(), as_json=True, every_s=0.0)
    assert "any more" not in str(failed.value)


@pytest.mark.parametrize("body", [b"[" * 100_000, b"[]", b"{", b"\xff", b"{}", b'{"ok": true, "module": "health"}'])
async def test_what_is_no_json_object_of_a_node_is_no_answer_of_one(body: bytes) -> None:
    async with stranger_that_says(OK % b"application/json" + body) as control:
        with pytest.raises(ControlFailed, match="like a node"):
            await control.get("/status")


async def test_a_host_that_is_not_there_is_waited_for_a_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(*_: object, **__: object) -> trio.SocketStream:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(client, "CONNECT_S_MAX", 0.1)
    monkeypatch.setattr(trio, "open_tcp_stream", nobody)
    async with open_control(Target("http://192.0.2.1:80", None, None)) as control:
        with trio.fail_after(30), pytest.raises(ControlFailed, match="is the host on"):
            await control.get("/status")


async def test_who_looks_again_and_again_from_elsewhere_is_told_that_nobody_answers_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token_file = tmp_path / "control.token"
    async with p2p_package.open_node(node_id="a", data_dir=tmp_path) as node, trio.open_nursery() as nursery:
        (url,) = await nursery.start(http_control.serve, p2p_package.P2PRuntime(node))

        async def look(control: client.Control, output: Output, *, as_json: bool) -> int:
            await control.get("/status")
            nursery.cancel_scope.cancel()
            return 0

        monkeypatch.setattr(remote, "show_status", look)
        with trio.CancelScope(shield=True), trio.fail_after(30):
            async with open_control(Target(url, None, token_file)) as control:
                # Asked while it stops it may still say so.
                with pytest.raises(ControlFailed, match=r"does not answer any more|the node stopped"):
                    await remote.show_top(control, Output(), as_json=True, every_s=0.0)
