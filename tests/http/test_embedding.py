"""Routes on somebody's own application: several nodes, other prefixes, another server, a node that starts later."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections import Counter
from pathlib import Path

import httpx
import pytest
import trio
import trustme
from quart_trio import QuartTrio
from trio.testing import MockClock

import http_control
import p2p
from http_control import Bind, P2PHttpOptions, register_routes, register_site, serving
from tests.clocks import as_it_goes
from tests.http.applications import plain_client, served
from tests.http.controlled import TOKEN, controlled, one_controlled

OTHER_TOKEN = "another-token-of-the-tests"


async def test_several_nodes_on_one_application_do_not_notice_each_other() -> None:
    app = QuartTrio("shop")

    @app.get("/")
    async def shop() -> str:
        return "the shop"

    async with p2p.open_node(node_id="a") as a, p2p.open_node(node_id="b") as b:
        lines: dict[str, list[str]] = {"a": [], "b": []}
        for node, token in ((a, TOKEN), (b, OTHER_TOKEN)):
            sink = lines[node.node_id].append
            options = P2PHttpOptions(prefix=f"/api/{node.node_id}", token=token, log_sink=sink, stats_every_ms=100)
            register_routes(app, p2p.P2PRuntime(node), options)
        with pytest.raises(ValueError, match="/api/a"):
            register_routes(app, p2p.P2PRuntime(a), P2PHttpOptions(prefix="api/a/"))
        async with served(app) as (url, _), plain_client(url) as client:
            assert (await client.get("/")).text == "the shop"
            for name, token, other in (("a", TOKEN, OTHER_TOKEN), ("b", OTHER_TOKEN, TOKEN)):
                headers = {"x-auth-token": token}
                assert (await client.get(f"/api/{name}/status", headers=headers)).json()["node_id"] == name
                refused = await client.get(f"/api/{name}/status", headers={"x-auth-token": other})
                assert refused.status_code == 401
            # What is not ours is the application's own affair.
            assert "text/html" in (await client.get("/nowhere")).headers["content-type"]
            assert (await client.get("/metrics")).status_code == 404
            a._log_line("for a alone")
            with trio.fail_after(30):
                while not all(any("peers_total" in line for line in some) for some in lines.values()):
                    await trio.sleep(0.01)
                a._log_line("for a alone")
        assert "for a alone" in lines["a"]
        assert "for a alone" not in lines["b"]


async def test_the_token_of_an_embedded_node_is_there_before_anybody_asks(tmp_path: Path) -> None:
    app = QuartTrio("shop")
    node = p2p.Node(p2p.NodeConfig(node_id="a", data_dir=tmp_path / "a"))
    register_routes(app, p2p.P2PRuntime(node), P2PHttpOptions(stats_every_ms=100))
    async with served(app) as (url, _), trio.open_nursery() as nursery:
        await nursery.start(node.run)
        with trio.fail_after(30):
            while not (tmp_path / "a" / "control.token").exists():
                await trio.sleep(0.01)
        token = (tmp_path / "a" / "control.token").read_text().strip()
        async with plain_client(url, headers={"x-auth-token": token}) as client:
            assert (await client.get("/p2p/status")).json()["node_id"] == "a"
        node.stop()


async def test_the_site_of_an_application_shows_all_its_nodes() -> None:
    app = QuartTrio("shop", static_folder=None)
    with pytest.raises(ValueError, match="register_routes first"):
        register_site(app)
    async with p2p.open_node(node_id="a") as a:
        later = p2p.Node(p2p.NodeConfig(node_id="b"))
        register_routes(app, p2p.P2PRuntime(a), P2PHttpOptions(prefix="/a", token=TOKEN))
        register_routes(app, p2p.P2PRuntime(later), P2PHttpOptions(prefix="/b", token=TOKEN))
        register_site(app)
        headers = {"x-auth-token": TOKEN}
        async with served(app) as (url, _), plain_client(url, headers=headers) as client:
            assert (await client.get("/site.json")).json()["prefixes"] == ["/a", "/b"]
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["ok"]) == (503, False)
            assert ready.json()["checks"]["/a"]["store"] is True
            assert ready.json()["checks"]["/b"]["store"] is False
            metrics = (await client.get("/metrics")).text
            assert 'p2p_up{node="a",prefix="/a"} 1.0' in metrics
            assert 'p2p_up{node="b",prefix="/b"} 0.0' in metrics
            series = (
                " ".join(line.split()[:3]) if line[0] == "#" else line.rpartition(" ")[0]
                for line in metrics.splitlines()
            )
            assert [line for line, count in Counter(series).items() if count > 1] == [], "each stands there once"
            paths = (await client.get("/openapi.json")).json()["paths"]
            assert {"/a/status", "/b/status", "/livez"} <= set(paths)


async def test_t53_the_site_shows_whoever_comes_what_his_doors_lead_to_and_no_more() -> None:
    app = QuartTrio("shop", static_folder=None)

    async def staff_only(ctx: http_control.AuthContext) -> bool:
        return ctx.req.headers.get("x-staff") == "yes"

    async with p2p.open_node(node_id="a") as a, p2p.open_node(node_id="b") as b, p2p.open_node(node_id="c") as c:
        register_routes(app, p2p.P2PRuntime(a), P2PHttpOptions(prefix="/a", token=TOKEN))
        register_site(app)
        with pytest.raises(ValueError, match="already"):
            register_site(app)
        register_routes(app, p2p.P2PRuntime(b), P2PHttpOptions(prefix="/b", token=OTHER_TOKEN))
        register_routes(app, p2p.P2PRuntime(c), P2PHttpOptions(prefix="/c", auth_ctx=staff_only))
        async with served(app) as (url, _), plain_client(url) as client:
            for token, staff, seen in (
                (TOKEN, "no", ["/a"]), (OTHER_TOKEN, "no", ["/b"]), (OTHER_TOKEN, "yes", ["/b"]),
                ("wrong", "yes", ["/c"]),
            ):  # fmt: skip
                headers = {"x-auth-token": token, "x-staff": staff}
                assert list((await client.get("/readyz", headers=headers)).json()["checks"]) == seen
                lines = (await client.get("/metrics", headers=headers)).text.splitlines()
                named = [line.partition('prefix="')[2].partition('"')[0] for line in lines if line.startswith("p2p_up")]
                assert named == seen
                paths = (await client.get("/openapi.json", headers=headers)).json()["paths"]
                assert [path for path in paths if path.endswith("/wal")] == [f"{prefix}/wal" for prefix in seen]
            refused = await client.get("/readyz", headers={"x-auth-token": "wrong"})
            assert (refused.status_code, refused.json()["error"]) == (401, "unauthorized")


async def test_t53_the_right_token_of_one_node_is_no_guess_at_the_others(mock_clock: MockClock) -> None:
    # The clock stands still: so many guesses come within one second, be the machine as slow as it may.
    app = QuartTrio("shop", static_folder=None)
    async with p2p.open_node(node_id="a") as a, p2p.open_node(node_id="b") as b:
        for node, token in ((a, TOKEN), (b, OTHER_TOKEN)):
            register_routes(app, p2p.P2PRuntime(node), P2PHttpOptions(prefix=f"/{node.node_id}", token=token))
        register_site(app)
        async with served(app) as (url, _), plain_client(url) as client:
            for _ in range(12):
                assert (await client.get("/readyz", headers={"x-auth-token": OTHER_TOKEN})).status_code == 200
            assert (await client.get("/a/status", headers={"x-auth-token": TOKEN})).status_code == 200
            text = (await client.get("/metrics", headers={"x-auth-token": TOKEN})).text
            assert 'p2p_http_auth_failures_total{node="a",prefix="/a"} 0.0' in text
            # A wrong one is a guess at both.
            answers = [await client.get("/readyz", headers={"x-auth-token": "wrong"}) for _ in range(30)]
            assert {answer.status_code for answer in answers} == {401, 429}
            mock_clock.jump(1)
            for prefix, token in (("/a", TOKEN), ("/b", OTHER_TOKEN)):
                found = await client.get("/metrics", headers={"x-auth-token": token})
                assert found.status_code == 200
                assert f'prefix="{prefix}"}} 0.0' not in [
                    line.partition('node="')[2] for line in found.text.splitlines() if "auth_failures_total" in line
                ]
        as_it_goes(mock_clock)


async def test_routes_work_under_quarts_own_test_client() -> None:
    app = QuartTrio("shop")
    async with p2p.open_node(node_id="a") as a:
        register_routes(app, p2p.P2PRuntime(a), P2PHttpOptions(token=TOKEN))
        client = app.test_client()
        answer = await client.get("/p2p/status", headers={"x-auth-token": TOKEN})
        assert (await answer.get_json())["node_id"] == "a"
        headers = {"x-auth-token": TOKEN, "content-type": "application/json"}
        big = await client.post("/p2p/wal", headers=headers, data=b" " * 70_000)
        assert (big.status_code, (await big.get_json())["error"]) == (413, "too_large")


async def test_a_node_without_its_token_lets_nobody_in_and_says_so_to_the_operator(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = QuartTrio("shop")
    node = p2p.Node(p2p.NodeConfig(node_id="a", data_dir=tmp_path / "not-yet"))
    register_routes(app, p2p.P2PRuntime(node), P2PHttpOptions())
    async with served(app) as (url, _), plain_client(url) as client:
        early = await client.get("/p2p/logs")
        assert (early.status_code, early.json()["error"]) == (503, "node_not_running")
        assert "not-yet" not in early.text
        assert "control.token" in caplog.text
        async with p2p.P2PRuntime(node):
            token = {"x-auth-token": "wrong"}
            assert (await client.get("/p2p/logs", headers=token)).status_code == 401
            token = {"x-auth-token": (tmp_path / "not-yet" / "control.token").read_text().strip()}
            assert (await client.get("/p2p/status", headers=token)).status_code == 200


async def test_metrics_count_by_reason_and_bound_what_is_per_peer() -> None:
    limits = http_control.HttpLimits(metrics_peers_max=1)
    async with (
        p2p.open_node(node_id="b") as b,
        p2p.open_node(node_id="c") as c,
        p2p.open_node(node_id="a") as node,
        controlled(node, limits=limits) as a,
    ):
        for other in (b, c):
            await a.post("/connect", {"endpoint": str(other.endpoints[0])})
        text = (await a.client.get("/metrics")).text
        assert text.count("\np2p_lag_records{") == 1
        assert 'p2p_peers_connected{node="a",prefix="/p2p"} 2.0' in text
        await node.disconnect("b")
        text = (await a.client.get("/metrics")).text
        assert 'p2p_links_ended_total{node="a",prefix="/p2p",reason="disconnected"} 1.0' in text
        assert 'p2p_http_requests_total{node="a",prefix="/p2p",status="200"}' in text


async def test_https_with_the_token(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    bind = Bind(tls_cert=tmp_path / "both.pem", tls_key=tmp_path / "both.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with p2p.open_node(node_id="a") as node, controlled(node, bind=bind) as a:
        async with httpx.AsyncClient(base_url=a.url, headers={"x-auth-token": TOKEN}, verify=context) as client:
            assert (await client.get("/p2p/status", headers={"origin": a.url})).json()["node_id"] == "a"


async def test_the_server_may_fail_and_the_node_goes_on() -> None:
    app = QuartTrio("shop")

    @app.get("/end")
    async def end() -> str:
        async def break_down() -> None:
            raise RuntimeError("a task of the application")

        app.nursery.start_soon(break_down)
        return "ended"

    async with p2p.open_node(node_id="a") as a:
        register_routes(app, p2p.P2PRuntime(a), P2PHttpOptions(token=TOKEN, stats_every_ms=100))
        headers = {"x-auth-token": TOKEN}
        async with served(app) as (url, _), plain_client(url, headers=headers) as client:
            with trio.fail_after(30):
                with trio.move_on_after(30):
                    with contextlib.suppress(httpx.HTTPError):
                        await client.get("/end")
                while True:
                    try:
                        if (await client.get("/p2p/status")).status_code == 200:
                            break
                    except httpx.HTTPError:
                        await trio.sleep(0.01)
                # The node is followed again, by the next life of the application.
                before = len((await client.get("/p2p/history")).json()["samples"])
                while len((await client.get("/p2p/history")).json()["samples"]) <= before:
                    await trio.sleep(0.01)
        await a.wal.append(b"and the node lives")


@pytest.mark.parametrize(
    ("written", "prefix"), [("p2p", "/p2p"), ("/p2p/", "/p2p"), ("api/v1.0", "/api/v1.0"), ("/~a_b-c", "/~a_b-c")]
)
def test_a_prefix_may_be_written_without_slashes(written: str, prefix: str) -> None:
    assert P2PHttpOptions(prefix=written).prefix == prefix


@pytest.mark.parametrize("prefix", ["", "/", "//", "//p2p", "/a//b", "/a b", "/{x}", "/<x>", "/..", "/a/./b", "/a?b"])
def test_an_odd_prefix_is_refused_and_says_how_to_write_it(prefix: str) -> None:
    with pytest.raises(p2p.ConfigError, match="write it like /p2p"):
        P2PHttpOptions(prefix=prefix)


async def test_a_server_that_cannot_say_where_it_listens_does_not_start(tmp_path: Path) -> None:
    async with p2p.open_node(node_id="a", data_dir=tmp_path / "a") as node:
        (tmp_path / "a" / "control.json").mkdir()
        with trio.fail_after(30), pytest.raises(p2p.ConfigError, match=r"control\.json"):
            await http_control.serve(p2p.P2PRuntime(node), P2PHttpOptions(token=TOKEN))
        assert [path.name for path in (tmp_path / "a").iterdir() if path.name.startswith(".control")] == []


async def test_served_first_the_node_still_starts(tmp_path: Path) -> None:
    runtime = p2p.P2PRuntime(p2p.Node(p2p.NodeConfig(node_id="a", data_dir=tmp_path)))
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(http_control.serve, runtime)
        headers = {"x-auth-token": (tmp_path / "control.token").read_text().strip()}
        async with plain_client(url, headers=headers) as client:
            assert (await client.get("/p2p/status")).status_code == 503
            await nursery.start(runtime.run)
            assert (await client.get("/p2p/status")).json()["node_id"] == "a"
        nursery.cancel_scope.cancel()


async def test_a_second_server_that_fails_takes_nothing_from_the_first(tmp_path: Path) -> None:
    async with p2p.open_node(node_id="a", data_dir=tmp_path) as node, trio.open_nursery() as nursery:
        (url,) = await nursery.start(http_control.serve, p2p.P2PRuntime(node))
        port = int(url.rpartition(":")[2])
        with pytest.raises(p2p.AddressInUse):
            await http_control.serve(p2p.P2PRuntime(node), P2PHttpOptions(bind=Bind(port=port)))
        assert (tmp_path / "control.json").exists()
        nursery.cancel_scope.cancel()
    assert not (tmp_path / "control.json").exists()


async def test_of_several_servers_on_one_node_the_clients_find_the_newest_that_serves(tmp_path: Path) -> None:
    file = tmp_path / "control.json"

    def named() -> str:
        (url,) = json.loads(file.read_text())["urls"]
        return str(url)

    async def serving(nursery: trio.Nursery, prefix: str) -> tuple[str, trio.CancelScope, trio.Event]:
        scope, is_over = trio.CancelScope(), trio.Event()

        async def run(*, task_status: trio.TaskStatus[list[str]]) -> None:
            with scope:
                await http_control.serve(p2p.P2PRuntime(node), P2PHttpOptions(prefix=prefix), task_status=task_status)
            is_over.set()

        (url,) = await nursery.start(run)
        return url, scope, is_over

    async with p2p.open_node(node_id="a", data_dir=tmp_path) as node, trio.open_nursery() as nursery:
        first, first_scope, first_over = await serving(nursery, "/a")
        second, second_scope, second_over = await serving(nursery, "/b")
        third, third_scope, third_over = await serving(nursery, "/c")
        assert named() == third
        for scope, is_over, left in (
            (third_scope, third_over, second), (first_scope, first_over, second),
        ):  # fmt: skip
            scope.cancel()
            await is_over.wait()
            assert named() == left
        assert json.loads(file.read_text())["prefix"] == "/b"
        # Another process took the data dir over: what it wrote stays.
        file.write_text(json.dumps({"urls": [], "unix": "x", "prefix": "/p2p", "pid": 1}))
        second_scope.cancel()
        await second_over.wait()
        assert json.loads(file.read_text())["unix"] == "x"
        assert first != second


async def test_t61_a_disk_that_hangs_holds_up_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(serving, "remove_control", lambda *_: goes_on.wait(60))
    try:
        async with p2p.open_node(node_id="a", listen_port=None, data_dir=tmp_path) as node:
            with trio.fail_after(30):
                async with controlled(node, limits=http_control.HttpLimits(stop_s_max=0.1)):
                    pass
    finally:
        goes_on.set()


async def test_t04_an_end_without_a_thread_is_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_thread(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    async with p2p.open_node(node_id="a", listen_port=None, data_dir=tmp_path) as node:
        async with controlled(node):
            monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)
        monkeypatch.undo()


async def test_the_dashboard_needs_no_thread_once_its_files_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async with one_controlled() as a:
        assert (await a.client.get("/")).status_code == 200

        async def busy(*_: object, **__: object) -> None:
            await trio.sleep_forever()

        with monkeypatch.context() as full, trio.fail_after(30):
            full.setattr(trio.to_thread, "run_sync", busy)
            assert (await a.client.get("/")).status_code == 200
