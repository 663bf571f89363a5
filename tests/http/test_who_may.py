"""Who is let in, what a browser can be made to do, and what nobody is told: threats T51 to T53 and T55 to T58."""

from __future__ import annotations

import base64
import functools
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from quart import Request
from quart_trio import QuartTrio
from trio.testing import MockClock

import http_control
import p2p
from http_control import AuthContext, Reply
from http_control.files import read_control
from p2p import ConfigError
from tests.clocks import as_it_goes
from tests.http.applications import connect, plain_client, raw
from tests.http.controlled import TOKEN, Stream, controlled, one_controlled

OPEN = ("/p2p/ping", "/livez", "/site.json", "/", "/connect")
CLOSED = (
    ("GET", "/p2p/status"), ("GET", "/p2p/peers"), ("GET", "/p2p/peers/b"), ("GET", "/p2p/links"), ("GET", "/p2p/wal"),
    ("GET", "/p2p/wal/records"), ("GET", "/p2p/history"), ("GET", "/p2p/logs"), ("GET", "/p2p/logs/live"),
    ("GET", "/p2p/events"), ("POST", "/p2p/connect"), ("POST", "/p2p/disconnect"), ("POST", "/p2p/wal"),
    ("POST", "/p2p/peers/b/ping"), ("POST", "/p2p/send"), ("POST", "/p2p/request"), ("GET", "/p2p/routes"),
    ("PUT", "/p2p/routes"), ("DELETE", "/p2p/routes"),
    ("POST", "/p2p/admin/hook"), ("PUT", "/p2p/log-level"), ("POST", "/p2p/shutdown"), ("GET", "/readyz"),
    ("GET", "/metrics"), ("GET", "/openapi.json"),
)  # fmt: skip


async def test_everything_is_closed_but_what_is_open() -> None:
    async with one_controlled(admin_hook=None) as a, plain_client(a.url) as stranger:
        for path in OPEN:
            assert (await stranger.get(path)).status_code == 200, path
        description = (await a.client.get("/openapi.json")).json()
        closed = {
            (method.upper(), path)
            for path, methods in description["paths"].items()
            for method, operation in methods.items()
            if operation["security"]
        }
        assert {(method, path.replace("/b", "/{who}")) for method, path in CLOSED} == closed
        for method, path in CLOSED:
            refused = await stranger.request(method, path, json={} if method != "GET" else None)
            assert refused.status_code == 401, path
            assert refused.headers["www-authenticate"] == "Bearer"
            value = refused.json()
            assert value == value | {"ok": False, "error": "unauthorized", "message": "this needs authorization"}


async def test_t54_who_may_not_is_told_so_before_the_body_has_come() -> None:
    async with one_controlled(limits=http_control.HttpLimits(body_s_max=60)) as a:
        for length in (b"Content-Length: 60000", b"Transfer-Encoding: chunked"):
            with trio.fail_after(30):
                async with await connect(a.url) as stream:
                    await stream.send_all(
                        b"POST /p2p/wal HTTP/1.1\r\nHost: localhost\r\nX-Auth-Token: " + b"x" * 43 + b"\r\n"
                        b"Content-Type: application/json\r\n" + length + b"\r\n\r\n"
                    )
                    answer = b"".join([part async for part in stream])
            assert answer.startswith(b"HTTP/1.1 401"), answer
            assert b"\r\nconnection: close\r\n" in answer.lower()
            assert b'"unauthorized"' in answer


@pytest.mark.parametrize(
    "headers",
    [{"authorization": f"Bearer {TOKEN}"}, {"authorization": f"bearer  {TOKEN}"}, {"x-auth-token": TOKEN},
     {"authorization": "Basic of-a-proxy", "x-auth-token": TOKEN},
     {"authorization": "Bearer of-a-proxy-of-theirs", "x-auth-token": TOKEN},
     {"authorization": f"Bearer {TOKEN}", "x-auth-token": ""}],
)  # fmt: skip
async def test_two_headers_carry_the_token(headers: dict[str, str]) -> None:
    async with one_controlled() as a, plain_client(a.url, headers=headers) as client:
        assert (await client.get("/p2p/status")).status_code == 200


@pytest.mark.parametrize("shown", ["", "Bearer", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer ü"])
async def test_what_is_not_quite_the_token(shown: str) -> None:
    async with one_controlled() as a, plain_client(a.url) as client:
        answer = await client.get("/p2p/status", headers={"authorization": shown.encode()})
        assert answer.status_code == 401
        # Nor in a place that ends up in histories and logs.
        assert (await client.get(f"/p2p/status?token={TOKEN}")).status_code in {400, 401}


async def test_of_two_tokens_the_one_in_our_own_header_counts_and_one_that_stands_twice_is_none() -> None:
    both = f"Authorization: Bearer {TOKEN}\r\nX-Auth-Token: another-token-than-that\r\n"
    twice = f"X-Auth-Token: {TOKEN}\r\n" * 2
    async with one_controlled() as a:
        for headers in (both, twice):
            request = f"GET /p2p/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"
            assert b" 401 " in await raw(a.url, request.encode())


async def test_the_token_is_made_once_and_private(tmp_path: Path) -> None:
    tokens = []
    for _ in range(2):
        async with p2p.open_node(node_id="a", data_dir=tmp_path / "a") as node, controlled(node, token=None) as a:
            path = tmp_path / "a" / "control.token"
            assert path.stat().st_mode & 0o777 == 0o600
            tokens.append(path.read_text().strip())
            assert (await a.client.get("/p2p/status")).status_code == 401
            headers = {"authorization": f"Bearer {tokens[-1]}"}
            assert (await a.client.get("/p2p/status", headers=headers)).status_code == 200
            assert (tmp_path / "a" / "control.json").exists()
        assert not (tmp_path / "a" / "control.json").exists()
    assert tokens[0] == tokens[1]
    assert len(tokens[0]) == 43


@pytest.mark.parametrize("trouble", ["mode", "empty", "directory", "letters", "dangling", "pipe"])
async def test_a_token_that_is_not_usable_stops_the_start(tmp_path: Path, trouble: str) -> None:
    path = tmp_path / "control.token"
    async with p2p.open_node(node_id="a", data_dir=tmp_path) as node:
        if trouble == "directory":
            path.mkdir()
        elif trouble == "dangling":
            path.symlink_to("nowhere")
        elif trouble == "pipe":
            os.mkfifo(path, 0o600)
        else:
            path.touch(0o600)
            path.write_text({"empty": "", "letters": "é" * 43}.get(trouble, TOKEN))
            path.chmod(0o644 if trouble == "mode" else 0o600)
        with pytest.raises(ConfigError, match=r"control\.token"):
            await http_control.serve(p2p.P2PRuntime(node))


async def test_where_a_server_listens_is_read_from_a_file_of_some_size_and_from_nothing_else(tmp_path: Path) -> None:
    async with p2p.open_node(node_id="a", data_dir=tmp_path) as node, controlled(node, token=None):
        path = tmp_path / "control.json"
        assert read_control(tmp_path) is not None
        path.write_bytes(b" " * 100_000 + b"{}")
        with pytest.raises(ConfigError, match=r"control\.json"):
            read_control(tmp_path)
        for make in (lambda: path.symlink_to("/dev/zero"), lambda: os.mkfifo(path)):
            path.unlink()
            make()
            with pytest.raises(ConfigError, match="no regular file"):
                read_control(tmp_path)


async def test_t51_a_page_of_another_site_can_do_nothing() -> None:
    async with p2p.open_node(node_id="b") as b, one_controlled() as a:
        body = f'{{"host": "127.0.0.1", "port": {b.endpoints[0].port}}}'
        foreign = ("http://evil.example", "null", "http://127.0.0.1:1", f"ftp{a.url[4:]}", a.url + ".example")
        for origin in foreign:
            for method, path in (("POST", "/p2p/connect"), ("GET", "/p2p/status"), ("GET", "/p2p/ping"), ("GET", "/")):
                headers = {"origin": origin, "content-type": "application/json"}
                content = body if method == "POST" else None
                answer = await a.client.request(method, path, headers=headers, content=content)
                assert (answer.status_code, answer.json()["error"]) == (403, "forbidden_origin")
        answer = await a.client.get("/p2p/status", headers={"sec-fetch-site": "cross-site"})
        assert answer.status_code == 403
        # What a form or a beacon can send without asking is not JSON.
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx", ""):
            answer = await a.client.post("/p2p/connect", content=body, headers={"content-type": kind})
            assert (answer.status_code, answer.json()["error"]) == (415, "unsupported_media_type")
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        assert (await a.client.post("/p2p/connect", content=body, headers=headers)).status_code == 415
        # And no answer lets another site's page read it.
        for answer in (await a.client.get("/p2p/status"), await a.client.options("/p2p/connect")):
            assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert a.node.peers() == ()
        same = {"origin": a.url, "sec-fetch-site": "same-origin"}
        assert (await a.client.get("/p2p/status", headers=same)).status_code == 200
    async with one_controlled(allowed_origins=("https://node.example",)) as a:
        assert (await a.client.get("/p2p/status", headers={"origin": "https://node.example"})).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.example", "10.0.0.1", "[::2]", ""],
)
async def test_t52_a_name_that_is_not_ours_is_refused(host: str) -> None:
    async with one_controlled() as a:
        for path in ("/p2p/status", "/p2p/ping", "/", "/nowhere"):
            answer = await a.client.get(path, headers={"host": host})
            assert (answer.status_code, answer.json()["error"]) == (421, "unknown_host"), path


@pytest.mark.parametrize("host", ["127.0.0.1:", "localhost.", "[::ffff:127.0.0.1]:1", "[::1]:", "LOCALHOST.:80"])
async def test_this_machine_has_names_that_are_spelt_in_many_ways(host: str) -> None:
    async with one_controlled() as a:
        assert (await a.client.get("/p2p/status", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["localhost:1:1", "a b", ".1", "127..1:18081"])
async def test_t52_what_is_no_name_at_all_is_refused(host: str) -> None:
    async with one_controlled() as a:
        for path in ("/p2p/status", "/p2p/ping", "/", "/nowhere"):
            answer = await a.client.get(path, headers={"host": host})
            assert (answer.status_code, answer.json()["error"]) == (400, "bad_request"), path


async def test_t52_our_own_names_are_known() -> None:
    async with one_controlled(allowed_hosts=("node.example",)) as a:
        for host in ("localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:8080", "[::1]:9", "node.example:443"):
            assert (await a.client.get("/p2p/status", headers={"host": host})).status_code == 200, host


async def test_t52_a_name_is_known_however_it_is_spelt() -> None:
    names = ("Node.Example", "[2001:DB8:0::1]")
    async with one_controlled(allowed_hosts=names, allowed_origins=("https://Node.Example",)) as a:
        for host in ("node.example", "NODE.example:80", "[2001:db8::1]", "[2001:DB8:0:0::1]:8080"):
            answer = await a.client.get("/p2p/status", headers={"host": host})
            assert answer.status_code == 200, host
        answer = await a.client.get("/p2p/status", headers={"host": "localhost", "origin": "https://node.example"})
        assert answer.status_code == 200


async def test_a_link_on_another_site_leads_to_the_page() -> None:
    async with one_controlled() as a:

        def sent(mode: str, dest: str) -> dict[str, str]:
            return {"sec-fetch-site": "cross-site", "sec-fetch-mode": mode, "sec-fetch-dest": dest}

        assert (await a.client.get("/", headers=sent("navigate", "document"))).status_code == 200
        for mode, dest in (("navigate", "iframe"), ("no-cors", "script"), ("no-cors", "image"), ("cors", "empty")):
            assert (await a.client.get("/", headers=sent(mode, dest))).status_code == 403, dest
        answer = await a.client.post("/p2p/wal", json={"payload": "x"}, headers=sent("navigate", "document"))
        assert answer.status_code == 403


async def test_more_slashes_are_another_path() -> None:
    async with one_controlled() as a:
        for path in ("//p2p/status", "///p2p/ping", "//", "/p2p//status", "/p2p/", "/p2p", "/p2p/status/"):
            request = f"GET {path} HTTP/1.0\r\nHost: localhost\r\nX-Auth-Token: {TOKEN}\r\n\r\n"
            answer = await raw(a.url, request.encode())
            assert answer.split(b" ")[1] == b"404", path


async def test_t53_guessing_is_slow_and_learns_nothing(mock_clock: MockClock) -> None:
    # The clock stands still: so many guesses come within one second, be the machine as slow as it may.
    async with one_controlled(trusted_proxies=("127.0.0.1",)) as a:

        def as_from(source: str, token: str) -> dict[str, str]:
            return {"authorization": f"Bearer {token}", "x-forwarded-for": source}

        answers = [await a.client.get("/p2p/status", headers=as_from("192.0.2.1", f"guess-{n}")) for n in range(40)]
        refused = [answer for answer in answers if answer.status_code == 401]
        limited = [answer for answer in answers if answer.status_code == 429]
        assert (len(refused), len(limited)) == (5, 35)
        assert len({answer.content for answer in refused}) == 1
        assert {answer.headers["retry-after"] for answer in limited} == {"1"}
        # Somebody else is not in its way, and nobody else's place can be taken by naming him.
        assert (await a.client.get("/p2p/status", headers=as_from("192.0.2.2", TOKEN))).status_code == 200
        assert (await a.client.get("/p2p/status", headers=as_from("192.0.2.1", TOKEN))).status_code == 429
        mock_clock.jump(1)
        assert (await a.client.get("/p2p/status", headers=as_from("192.0.2.1", TOKEN))).status_code == 200
        as_it_goes(mock_clock)


def test_t53_five_a_second_and_a_bounded_table() -> None:
    from werkzeug.datastructures import Headers

    from http_control.auth import Door
    from http_control.problem import Problem

    limits = http_control.HttpLimits(failure_sources_max=10)
    door = Door(http_control.P2PHttpOptions(limits=limits), TOKEN)

    def ask(source: str, token: str, second: int) -> int:
        try:
            door._check_token(Headers({"x-auth-token": token}), source, second)
        except Problem as problem:
            return problem.status
        return 200

    assert [ask("a", "wrong", 1) for _ in range(7)] == [401] * 5 + [429] * 2
    # Whoever has one address of an IPv6 network has them all.
    assert [ask(f"2001:db8:0:1::{n}", "wrong", 1) for n in range(7)] == [401] * 5 + [429] * 2
    assert ask("2001:db8:0:100::1", TOKEN, 1) == 200
    assert ask("a", TOKEN, 1) == 429
    assert ask("b", TOKEN, 1) == 200
    assert ask("a", TOKEN, 2) == 200
    for number in range(100):
        ask(str(number), "wrong", 3)
    assert len(door._pace) <= 10
    # Who guesses all the time is not the one that is forgotten.
    for number in range(5):
        assert ask("a", "wrong", 4) == 401
        ask("only once", "wrong", 4)
        for other in range(8):
            ask(f"{number}.{other}", "wrong", 4)
    assert ask("a", "wrong", 4) == 429


@pytest.mark.parametrize(
    ("client", "proxies", "forwarded", "source"),
    [
        (("127.0.0.1", 1), (), "192.0.2.1", "127.0.0.1"),
        (("127.0.0.1", 1), ("127.0.0.1",), "192.0.2.1", "192.0.2.1"),
        (("127.0.0.1", 1), ("127.0.0.0/8",), "6.6.6.6, 192.0.2.1", "192.0.2.1"),
        (("127.0.0.1", 1), ("127.0.0.1", "10.0.0.0/8"), "192.0.2.1, 10.1.1.1", "192.0.2.1"),
        (("127.0.0.1", 1), ("127.0.0.1",), "nonsense", "127.0.0.1"),
        (("127.0.0.1", 1), ("127.0.0.1",), "192.0.2.1:5678", "192.0.2.1"),
        (("127.0.0.1", 1), ("127.0.0.1",), "[2001:db8::1]", "2001:db8::1"),
        (("127.0.0.1", 1), ("127.0.0.1",), "[2001:db8::1]:5678", "2001:db8::1"),
        (("127.0.0.1", 1), ("127.0.0.1",), "[", "127.0.0.1"),
        (("127.0.0.1", 1), ("127.0.0.1",), "", "127.0.0.1"),
        (("fe80::1%eth0", 1), ("127.0.0.1",), "192.0.2.1", "fe80::1"),
        (None, ("127.0.0.1",), "192.0.2.1", "unix"),
        (None, ("unix",), "192.0.2.1", "192.0.2.1"),
    ],
)
def test_only_listed_proxies_are_believed(client: Any, proxies: tuple[str, ...], forwarded: str, source: str) -> None:
    from types import SimpleNamespace

    from werkzeug.datastructures import Headers

    from http_control.auth import Door

    request = SimpleNamespace(scope={"client": client}, headers=Headers({"x-forwarded-for": forwarded}))
    door = Door(http_control.P2PHttpOptions(trusted_proxies=proxies), TOKEN)
    assert door.source_of(request) == source  # type: ignore[arg-type]


async def test_t55_it_does_not_start_for_everybody_by_mistake() -> None:
    node = p2p.Node(p2p.NodeConfig(node_id="a"))
    for host in ("0.0.0.0", "::", "192.0.2.1", "node.example"):
        bind = http_control.Bind(host=host)
        with pytest.raises(ConfigError, match="http_open"):
            await http_control.serve(p2p.P2PRuntime(node), http_control.P2PHttpOptions(bind=bind, token=TOKEN))
    async with controlled(node, bind=http_control.Bind(host="0.0.0.0"), http_open=True) as a:
        port = int(a.url.rpartition(":")[2])
        async with plain_client(f"http://127.0.0.1:{port}") as client:
            assert (await client.get("/p2p/ping")).status_code == 200
            assert (await client.get("/p2p/logs")).status_code == 401


async def test_t56_no_answer_log_or_repr_holds_a_secret(tmp_path: Path) -> None:
    key = bytes(range(100, 132))
    async with (
        p2p.open_node(node_id="a", data_dir=tmp_path, network_key=key, listen_host="127.0.0.1") as node,
        p2p.open_node(node_id="b", network_key=key, listen_host="127.0.0.1") as b,
        controlled(node, token=None, stats_every_ms=100) as a,
    ):
        token = (tmp_path / "control.token").read_text().strip()
        a.client.headers["authorization"] = f"Bearer {token}"
        await a.post("/connect", {"endpoint": str(b.endpoints[0])})
        await a.post("/wal", {"payload": "x"}, 201)
        said = [repr(node), repr(node.config), repr(http_control.P2PHttpOptions(token=token))]
        for method, path in CLOSED:
            if path.endswith(("/live", "/events")):
                async with Stream(a, path, token=token) as stream:
                    said.append(str(await stream.next()))
            else:
                answer = await a.client.request(method, path, json={"x": 1} if method != "GET" else None)
                said.append(f"{answer.headers} {answer.text}")
        pem = (tmp_path / "identity.pem").read_text()
        body = base64.b64decode("".join(line for line in pem.splitlines() if not line.startswith("-")))
        forms = [(raw.hex(), base64.b64encode(raw).decode()[:42]) for raw in (key, body[-32:])]
        secrets = [token, *forms[0], *forms[1]]
        assert [secret for secret in secrets for text in said if secret in text] == []
        assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []


async def test_t57_the_page_is_held_by_a_strict_policy_and_nothing_is_taken_for_markup() -> None:
    async with one_controlled() as a:
        page = await a.client.get("/")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        for inline in ("<script>", "onclick=", "onload=", "style=", "javascript:"):
            assert inline not in page.text
        script = await a.client.get("/assets/main.js")
        assert script.headers["content-type"].startswith("text/javascript")
        for path in ("/", "/assets/main.js", "/p2p/status", "/p2p/logs", "/nowhere"):
            answer = await a.client.get(path)
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert "no-" in answer.headers["cache-control"]
        for name in ("..%2f__init__.py", "index.html", "nothing.js", "%2e%2e", ".js"):
            assert (await a.client.get(f"/assets/{name}")).status_code == 404


async def test_t58_one_event_is_one_line_whatever_it_says() -> None:
    hostile = "name\r\n[p2p] forged\x1b[31m\u202egnp\u2028\0 event: x\n\ndata: y"
    async with one_controlled(enable_live_logs=True) as a:
        async with Stream(a, "/p2p/logs/live") as stream:
            # The lines from the start, then the stats line: the node's lines are followed from here on.
            while not (await stream.next()).data["line"].startswith("[p2p] peers_total="):
                pass
            a.node._log_line(hostile)
            a.node._log_line("x" * 100_000)
            text = (await a.client.get("/p2p/logs")).text
            forged = [line for line in text.split("\n") if "forged" in line]
            assert len(forged) == 1
            assert forged[0].isprintable()
            assert forged[0].startswith("name\\r\\n")
            assert max(len(line.encode()) for line in text.split("\n")) <= 2048
            event = await stream.next()
            assert event.event == "log"
            assert event.data["line"] == forged[0]


async def test_the_application_brings_its_own_rule() -> None:
    asked: list[str] = []

    async def rule(ctx: AuthContext) -> bool:
        asked.append(ctx.source)
        if ctx.req.headers.get("x-user") == "root":
            return True
        if ctx.req.headers.get("x-user") == "boom":
            raise ValueError("a bug of the application")
        if ctx.req.headers.get("x-user"):
            ctx.res.status(403).header("x-why", "not root").json({"ok": False, "who": "you"})
        return False

    async with one_controlled(auth_ctx=rule) as a:
        assert (await a.client.get("/p2p/status")).status_code == 401  # the token is not asked for any more
        assert (await a.client.get("/p2p/status", headers={"x-user": "root"})).status_code == 200
        refused = await a.client.get("/p2p/status", headers={"x-user": "me"})
        assert (refused.status_code, refused.headers["x-why"]) == (403, "not root")
        assert refused.json() == {"ok": False, "who": "you"}
        assert (await a.client.get("/p2p/status", headers={"x-user": "boom"})).status_code == 401
        assert (await a.client.get("/p2p/ping")).status_code == 200
    assert asked == ["127.0.0.1"] * 4

    def legacy(request: Request, response: Reply) -> bool:
        if request.headers.get("x-user") is None:
            response.status(407).text("who?")
        return request.headers.get("x-user") == "root"

    async with one_controlled(auth_legacy=legacy) as a:
        assert (await a.client.get("/p2p/status", headers={"x-user": "root"})).status_code == 200
        assert (await a.client.get("/p2p/status", headers={"x-user": "me"})).status_code == 401
        answer = await a.client.get("/p2p/status")
        assert (answer.status_code, answer.text) == (407, "who?")


@pytest.mark.parametrize("guess", [TOKEN[0], TOKEN[:-1], TOKEN + "x", TOKEN.upper(), TOKEN[1:]])
async def test_t53_a_part_of_the_token_is_no_token(guess: str) -> None:
    async with one_controlled() as a:
        for headers in ({"x-auth-token": guess}, {"x-auth-token": "", "authorization": f"Bearer {guess}"}):
            assert (await a.client.get("/p2p/status", headers=headers)).status_code == 401


@pytest.mark.parametrize("said", [1, "yes", object()])
async def test_t53_only_true_is_a_yes_of_the_applications_rule(said: Any) -> None:
    async def rule(ctx: AuthContext) -> bool:
        return said  # type: ignore[no-any-return]  # what an application must not do

    async with one_controlled(auth_ctx=rule) as a:
        assert (await a.client.get("/p2p/status")).status_code == 401


async def test_t53_a_rule_is_asked_no_more_often_than_a_token_could_be_guessed(
    caplog: pytest.LogCaptureFixture, mock_clock: MockClock
) -> None:
    asked = 0

    async def rule(ctx: AuthContext) -> bool:
        nonlocal asked
        asked += 1
        raise ValueError("a bug of the application")

    limits = http_control.HttpLimits(bugs_told_per_min=3)
    async with one_controlled(auth_ctx=rule, limits=limits) as a:
        answers = [(await a.client.get("/p2p/status")).status_code for _ in range(30)]
        assert asked == answers.count(401) == 5
        assert answers.count(429) == 25
        as_it_goes(mock_clock)
    assert len([record for record in caplog.records if "a bug of the application" in record.getMessage()]) <= 6


async def test_t53_a_slow_rule_is_asked_no_more_often_by_clients_that_come_at_once() -> None:
    asked = 0

    async def rule(ctx: AuthContext) -> bool:
        nonlocal asked
        asked += 1
        await trio.sleep(0.2)
        return False

    answers: list[int] = []
    async with one_controlled(auth_ctx=rule) as a:

        async def ask() -> None:
            answers.append((await a.client.get("/p2p/status")).status_code)

        began = int(trio.current_time())
        async with trio.open_nursery() as clients:
            for _ in range(40):
                clients.start_soon(ask)
        seconds = int(trio.current_time()) - began + 1
    assert asked == answers.count(401) <= 5 * seconds
    assert asked + answers.count(429) == 40


async def test_clients_that_come_at_once_are_let_in_by_a_slow_rule_that_says_yes() -> None:
    now = most = 0
    are_several = trio.Event()

    async def rule(ctx: AuthContext) -> bool:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now > 1:
            are_several.set()
        await are_several.wait()
        await trio.sleep(0.01)
        now -= 1
        return True

    async with one_controlled(auth_ctx=rule) as a:

        async def ask() -> None:
            assert (await a.client.get("/p2p/status")).status_code == 200

        async with trio.open_nursery() as clients:
            for _ in range(20):
                clients.start_soon(ask)
    assert 1 < most <= 5


@pytest.mark.parametrize("ending", ["none", "late", "an error"])
async def test_a_rule_that_comes_to_no_good_end_refuses_and_what_it_wrote_is_not_used(ending: str) -> None:
    async def rule(ctx: AuthContext) -> bool:
        ctx.res.status(200).json({"ok": True, "secret": "of whoever was let in"})
        if ending == "an error":
            raise LookupError
        try:
            await trio.sleep_forever()
        finally:
            if ending == "late":
                ctx.res.status(403)
                return True  # noqa: B012  # as somebody's rule may

    async with one_controlled(auth_ctx=rule, limits=http_control.HttpLimits(hook_s_max=0.05)) as a:
        with trio.fail_after(30):
            answer = await a.client.get("/p2p/status")
        assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")
        assert "secret" not in answer.text


async def test_what_a_rule_writes_is_what_is_answered() -> None:
    def rule(request: Request, response: Reply) -> bool:
        match request.headers["x-case"]:
            case "status alone":
                response.status(403)
            case "two of a name":
                response.status(401).header("set-cookie", "a=1").header("Set-Cookie", "b=2").text("log in")
            case "elsewhere":
                response.status(302).header("location", "/login")
            case "no status":
                response.status(99)
            case "in between":
                response.status(101)
            case "two lines":
                response.header("x-why", "a\r\nx-forged: b")
            case "no text":
                response.header("x-why", "\ud800")
            case "length":
                response.header("Content-Length", "5").text("longer than it says")
        return False

    async with one_controlled(auth_legacy=rule, limits=http_control.HttpLimits(failures_per_s=100)) as a:

        async def ask(case: str) -> httpx.Response:
            return await a.client.get("/p2p/status", headers={"x-case": case})

        alone = await ask("status alone")
        assert (alone.status_code, alone.json()["error"]) == (403, "forbidden")
        assert (await ask("two of a name")).headers.get_list("set-cookie") == ["a=1", "b=2"]
        away = await ask("elsewhere")
        assert (away.status_code, away.headers["location"], away.content) == (302, "/login", b"")
        for case in ("no status", "in between", "two lines", "no text", "length"):
            assert (await ask(case)).json()["error"] == "unauthorized", case


@pytest.mark.parametrize(
    "bounds",
    [
        {"restart_s": ()}, {"restart_s": (1.0, -1.0)}, {"body_bytes_max": -1}, {"body_bytes_max": "x"},
        {"body_s_max": float("nan")}, {"body_s_max": (1.0,)}, {"restart_s": 1.0}, {"readers_max": 1.5},
        {"readers_max": True}, {"connections_max": 0}, {"write_bytes": 0}, {"samples_max": 0}, {"header_s_max": 0.0},
    ],
)  # fmt: skip
def test_bounds_that_are_none(bounds: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bounds))):
        http_control.HttpLimits(**bounds)


def test_a_bound_of_nothing_is_said_to_be_one_and_nan_to_be_no_number() -> None:
    with pytest.raises(ConfigError, match="nothing could be served"):
        http_control.HttpLimits(connections_max=0)
    with pytest.raises(ConfigError, match="NaN is no number"):
        http_control.HttpLimits(body_s_max=float("nan"))
    assert http_control.HttpLimits(readers_max=0, restart_s=(0.0,)).readers_max == 0


async def _rule(ctx: AuthContext) -> bool:
    return True


class _Rule:
    async def __call__(self, ctx: AuthContext) -> bool:
        return True

    async def ask(self, ctx: AuthContext) -> bool:
        return True


@functools.wraps(_rule)
def _wrapped(ctx: AuthContext) -> Awaitable[bool]:
    return _rule(ctx)


@pytest.mark.parametrize("rule", [_rule, _Rule(), _Rule().ask, functools.partial(_rule), _wrapped])
def test_what_is_async_in_any_way_is_taken_for_it(rule: Any) -> None:
    assert http_control.P2PHttpOptions(auth_ctx=rule, admin_hook=rule).auth_ctx is rule
    with pytest.raises(ConfigError, match="auth_legacy is an async function, and must be a plain one: give"):
        http_control.P2PHttpOptions(auth_legacy=rule)


@pytest.mark.parametrize("name", ["auth_ctx", "admin_hook"])
def test_a_plain_function_where_an_async_one_is_called_for_is_refused_at_once(name: str) -> None:
    for plain in (print, lambda value: True, functools.partial(print, 1)):
        with pytest.raises(ConfigError, match=f"{name} is a plain function, and must be an async one: "):
            http_control.P2PHttpOptions(**{name: plain})


@pytest.mark.parametrize(
    "options",
    [
        {"prefix": "p 2p"}, {"prefix": "/a/<x>"}, {"stats_every_ms": 0}, {"token": "short"},
        {"token": "with a space in it, long enough"}, {"allowed_hosts": ("a:80",)},
        {"allowed_origins": ("node.example",)}, {"trusted_proxies": ("localhost",)},
        {"auth_ctx": trio.sleep, "auth_legacy": print}, {"prefix": None}, {"stats_every_ms": "x"},
        {"stats_every_ms": True},
        {"token": 5}, {"token": b"x" * 20}, {"limits": None}, {"bind": "127.0.0.1:80"}, {"allowed_hosts": "abc"},
        {"allowed_hosts": None}, {"allowed_hosts": (5,)}, {"trusted_proxies": "10.0.0.1"}, {"auth_ctx": 5},
        {"auth_legacy": trio.sleep}, {"log_sink": "x"}, {"on_shutdown": trio.sleep},
        {"admin_hook": 1}, {"enable_logs": "no"}, {"http_open": 1},
    ],
)  # fmt: skip
def test_options_that_are_not_usable(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        http_control.P2PHttpOptions(**options)


@pytest.mark.parametrize(
    "bind", [{"port": "x"}, {"port": True}, {"port": 65_536}, {"host": None}, {"host": ""}, {"unix": 5}, {"unix": ""},
             {"unix": "x", "port": 1},
             {"tls_cert": 5, "tls_key": "x"}],
)  # fmt: skip
def test_a_bind_that_is_none(bind: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bind))):
        http_control.Bind(**bind)


def test_what_is_meant_as_another_kind_is_taken_as_that() -> None:
    assert http_control.Bind(unix="text").unix == Path("text")  # type: ignore[arg-type]  # meant
    assert http_control.P2PHttpOptions(allowed_hosts=["A.example"]).allowed_hosts == ("a.example",)  # type: ignore[arg-type]  # meant


async def test_what_is_handed_to_the_server_is_looked_at_first() -> None:
    node = p2p.Node(p2p.NodeConfig(node_id="a"))
    wrong: Any
    for wrong, options in ((node, None), (p2p.P2PRuntime(node), "x"), (p2p.P2PRuntime(node), http_control.Bind())):
        with trio.fail_after(30), pytest.raises(ConfigError, match="must be"):
            await http_control.serve(wrong, options)  # type: ignore[arg-type]  # meant
        with pytest.raises(ConfigError, match="must be"):
            http_control.register_routes(QuartTrio("x"), wrong, options)  # type: ignore[arg-type]  # meant
    with trio.fail_after(30), pytest.raises(ConfigError, match="limits"):
        http_control.ServerOptions(limits=None)  # type: ignore[arg-type]  # meant
