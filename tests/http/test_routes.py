"""The routes of docs/http.md, each asked over real HTTP."""

from __future__ import annotations

import base64
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

import p2p
from http_control import HttpLimits, server, shapes
from http_control.control import Control
from http_control.options import P2PHttpOptions
from http_control.views import View
from tests.http.controlled import Controlled, controlled, one_controlled
from tests.ports import free_port


async def until(a: Controlled, path: str, condition: Any) -> Any:
    """Ask again and again until the answer is as wanted."""
    with trio.fail_after(30):
        while not condition(value := await a.get(path)):
            await trio.sleep(0.01)
    return value


async def test_ping_and_status() -> None:
    async with one_controlled() as a:
        assert await a.get("/ping") == {"ok": True, "module": "p2p_http", "pong": True}
        status = await a.get("/status")
        assert set(status) == set(shapes.Status.__struct_fields__)
        assert status["node_id"] == "a"
        assert status["peer_id"] == str(a.node.peer_id)
        assert status["endpoints"] == [str(a.node.endpoints[0])]
        stats = msgspec.structs.asdict(a.node.stats())
        assert {name: status[name] for name in stats} == stats
        assert status["digest"] == a.node.wal.digest().hex()
        assert (status["status"], status["writable"], status["records"]) == ("ok", True, 0)


async def test_connect_says_what_really_happened() -> None:
    async with p2p.open_node(node_id="b") as b, one_controlled() as a:
        place = {"host": "127.0.0.1", "port": b.endpoints[0].port, "scheme": "tcp"}
        answer = await a.post("/connect", place)
        assert answer["connected"] is True
        assert answer["endpoint"] == str(b.endpoints[0])
        assert answer["peer"]["id"] == str(b.peer_id)
        assert answer["peer"]["state"] == "connected"
        again = await a.post("/connect", place, 409)
        assert (again["error"], again["peer"]["node_id"]) == ("already_connected", "b")
        # And when the peer is known by another way than it is asked for.
        other = await a.post("/connect", {"endpoint": f"tcp://localhost:{b.endpoints[0].port}"}, 409)
        assert other["error"] == "already_connected"


async def test_connect_to_nobody_and_to_the_wrong_one() -> None:
    async with p2p.open_node(node_id="b") as b, one_controlled() as a:
        port = free_port()
        with_nobody = await trio.open_tcp_listeners(port, host="127.0.0.1")
        silent = await a.post("/connect", {"host": "127.0.0.1", "port": port, "wait_ms": 50}, 504)
        assert silent["error"] == "timeout"
        await with_nobody[0].aclose()
        refused = await a.post("/connect", {"host": "127.0.0.1", "port": port}, 502)
        assert (refused["error"], refused["reason"]) == ("connect_failed", "refused")
        wrong = await a.post("/connect", {"endpoint": str(b.endpoints[0]), "expect": "c"}, 502)
        assert wrong["reason"] == "wrong_peer"
        assert a.node.peers() == ()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"host": "127.0.0.1"},
        {"port": 1},
        {"host": "", "port": 1},
        {"host": "127.0.0.1", "port": 0},
        {"host": "127.0.0.1", "port": 65_536},
        {"host": "a b", "port": 1},
        {"host": "127.0.0.1", "port": 1, "scheme": "ftp"},
        {"endpoint": "nowhere"},
        {"endpoint": "tcp://127.0.0.1:1", "host": "127.0.0.1"},
        {"endpoint": "tcp://127.0.0.1:1", "expect": "a b"},
    ],
)
async def test_connect_to_what_is_no_endpoint(body: dict[str, object]) -> None:
    async with one_controlled() as a:
        answer = await a.post("/connect", body, 400)
        assert answer["error"] == "invalid_endpoint"
        assert "127.0.0.1" in answer["hint"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"host": 1, "port": 1}',
        b'{"host": "a", "port": NaN}',
        b'{"host": "a", "host": "b", "port": 1}',
        b'{"host": "a", "port": 1, "unknown": 2}',
        b'{"host": "\xff", "port": 1}',
        b'{"host": "a", "port": 1, "wait_ms": 30001}',
        b'{"a":' * 10_000,
        b"[" * 60_000,
        b'{"port": ' + b"9" * 50_000 + b"}",
    ],
    ids=lambda body: body[:20].decode(errors="replace"),
)
async def test_a_body_that_is_not_what_is_asked_for(body: bytes) -> None:
    async with one_controlled() as a:
        headers = {"content-type": "application/json"}
        assert (await a.ask("POST", "/connect", 400, content=body, headers=headers))["error"] == "invalid_json"


async def test_a_peer_id_with_a_line_feed_after_it_is_none() -> None:
    async with one_controlled() as a:
        await a.get(f"/wal/records?origin={a.node.peer_id}%0a", 400)
        await a.post("/wal", {"payload": "x", "target": f"{a.node.peer_id}\n"}, 400)


async def test_peers_are_listed_filtered_and_paged() -> None:
    async with (
        p2p.open_node(node_id="b") as b,
        p2p.open_node(node_id="c") as c,
        one_controlled() as a,
    ):
        assert (await a.get("/peers"))["peers"] == []
        for other in (b, c):
            await a.post("/connect", {"endpoint": str(other.endpoints[0])})
        everybody = await a.get("/peers")
        assert [peer["node_id"] for peer in everybody["peers"]] == ["b", "c"]
        assert everybody["total"] == 2
        assert set(everybody["peers"][0]) == set(shapes.Peer.__struct_fields__)
        second = await a.get("/peers?offset=1&limit=1")
        assert [peer["node_id"] for peer in second["peers"]] == ["c"]
        assert second["total"] == 2
        assert [peer["node_id"] for peer in (await a.get(f"/peers?q={str(b.peer_id)[:12]}"))["peers"]] == ["b"]
        assert (await a.get("/peers?state=connected&state=stale"))["total"] == 2
        assert (await a.get("/peers?state=closed", 400))["error"] == "invalid_argument", "no listed peer is ever closed"
        links = await a.get("/links")
        assert [(node["node_id"], node["self"]) for node in links["nodes"]] == [("a", True), ("b", False), ("c", False)]
        assert {link["from"] for link in links["links"]} == {str(a.node.peer_id)}
        assert [link["to"] for link in links["links"]] == [str(b.peer_id), str(c.peer_id)]


async def test_a_link_through_a_relay_says_so() -> None:
    key, host = bytes(range(32)), "127.0.0.1"
    async with (
        p2p.open_node(node_id="r", relay=True, network_key=key, listen_host=host) as relay,
        p2p.open_node(node_id="b", network_key=key, listen_host=host) as b,
        p2p.open_node(node_id="a", network_key=key, listen_host=host) as node,
        controlled(node) as a,
    ):
        await b.connect(relay.endpoints[0])
        await a.post("/connect", {"endpoint": str(relay.endpoints[0])})
        answer = await a.post("/connect", {"endpoint": f"relay://r/{b.peer_id}"})
        assert answer["peer"]["direct"] is False
        links = {link["to"]: (link["direct"], link["via"]) for link in (await a.get("/links"))["links"]}
        assert links == {str(relay.peer_id): (True, None), str(b.peer_id): (False, str(relay.peer_id))}


async def test_readiness_knows_whether_nodes_near_are_looked_for() -> None:
    config = p2p.DiscoveryConfig(loopback_only=True, discovery_port=free_port("127.255.255.255", socket.SOCK_DGRAM))
    async with p2p.open_node(node_id="d", discovery=config) as node, controlled(node) as d:
        checks = (await d.client.get("/readyz")).json()["checks"]["/p2p"]
        assert checks == {"listener": True, "store": True, "discovery": True}
        metrics = (await d.client.get("/metrics")).text
        assert 'p2p_discovery_heard_total{node="d",prefix="/p2p"}' in metrics
        assert "p2p_registry_polls_total{" not in metrics, "it asks no registry"


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "offset=-1", "state=odd", "nothing=1", "q=1&q=2"]
)
async def test_parameters_that_do_not_fit(query: str) -> None:
    async with one_controlled() as a:
        assert (await a.get(f"/peers?{query}", 400))["error"] == "invalid_argument"


async def test_one_peer_and_parting_from_it() -> None:
    async with p2p.open_node(node_id="b") as b, one_controlled() as a:
        await a.post("/connect", {"endpoint": str(b.endpoints[0])})
        await a.post("/wal", {"payload": "x"}, 201)
        shown = await until(a, "/peers/b", lambda value: value["heads"] and value["heads"][0]["mark"] == "equal")
        assert shown["heads"] == [
            {"origin": str(a.node.peer_id), "node_id": "a", "seq": 1, "shown_seq": 1, "mark": "equal"}
        ]
        assert (await a.get(f"/peers/{b.peer_id}"))["peer"]["node_id"] == "b"
        answer = await a.post("/disconnect", {"peer": "b"})
        assert (answer["disconnected"], answer["peer"]) == (True, str(b.peer_id))
        assert a.node.peers() == ()
        for who in ("b", str(b.peer_id), "nobody"):
            assert (await a.post("/disconnect", {"peer": who}, 404))["error"] == "unknown_peer"
            assert (await a.get(f"/peers/{who}", 404))["error"] == "unknown_peer"


async def test_appending_and_reading_pages() -> None:
    async with one_controlled() as a:
        one = await a.post("/wal", {"payload": "ünï", "kind": "note"}, 201)
        assert (one["seq"], one["count"], one["origin"]) == (1, 1, str(a.node.peer_id))
        raw = base64.b64encode(b"\xff\x00").decode()
        assert (await a.post("/wal", {"payload_b64": raw, "target": "ab" * 32}, 201))["seq"] == 2
        many = await a.post("/wal", {"payloads": ["3", "4", "5"]}, 201)
        assert (many["first_seq"], many["seq"], many["count"]) == (3, 5, 3)
        assert [(r.payload, r.kind) for r in await a.node.wal.records(a.node.peer_id)][:2] == [
            ("ünï".encode(), "note"),
            (b"\xff\x00", "app"),
        ]
        page = await a.get("/wal/records?limit=2")
        assert page["next_seq"] == 3
        assert page["head_seq"] == 5
        first, second = page["records"]
        assert (first["payload"], first["kind"], first["node_id"], first["target"]) == ("ünï", "note", "a", None)
        assert (second["payload_b64"], second["target"]) == (raw, "ab" * 32)
        assert "payload" not in second
        assert all(int(record["hlc"]) > 2**53 for record in page["records"]), "text: as a number it would lose bits"
        assert all(isinstance(record["hlc"], str) for record in page["records"])
        rest = await a.get(f"/wal/records?origin={a.node.peer_id}&from_seq=3")
        assert [record["payload"] for record in rest["records"]] == ["3", "4", "5"]
        assert rest["next_seq"] is None
        assert (await a.get("/wal/records?from_seq=9"))["records"] == []
        assert (await a.get(f"/wal/records?origin={'0' * 64}", 404))["error"] == "unknown_origin"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"payload": "a", "payload_b64": "YQ=="},
        {"payload_b64": "?"},
        {"payload_b64": "ü"},
    ],
)
async def test_appending_what_is_no_record(body: dict[str, object]) -> None:
    async with one_controlled() as a:
        assert (await a.post("/wal", body, 400))["error"] == "invalid_argument"
        assert (await a.get("/status"))["records"] == 0


async def test_heads_say_who_is_behind() -> None:
    async with p2p.open_node(node_id="b") as b, one_controlled() as a:
        await b.wal.append(b"theirs")
        await a.post("/wal", {"payload": "ours"}, 201)
        await a.post("/connect", {"endpoint": str(b.endpoints[0])})
        marks = {(True, "equal"), (False, "equal")}
        wal = await until(
            a, "/wal", lambda value: {(h["own"], h["marks"][str(b.peer_id)]["mark"]) for h in value["heads"]} == marks
        )
        assert [head["node_id"] for head in wal["heads"]] == ["a", "b"]
        assert wal["total"] == 2
        assert wal["digest"] == b.wal.digest().hex()
        assert wal["lag"] == [{"peer": str(b.peer_id), "node_id": "b", "records": 0}]
        assert [head["node_id"] for head in (await a.get("/wal?offset=1"))["heads"]] == ["b"]
        brief = await a.get("/wal?marks=differing")
        assert [(head["in_step"], head["marks"]) for head in brief["heads"]] == [(1, {}), (1, {})]


async def test_lines_and_samples_are_kept() -> None:
    lines: list[str] = []
    async with one_controlled(stats_every_ms=100, log_sink=lines.append) as a:
        await until(a, "/history", lambda value: len(value["samples"]) > 1)
        sample = (await a.get("/history"))["samples"][-1]
        assert set(sample) == set(shapes.Sample.__struct_fields__)
        text = await a.client.get("/p2p/logs")
        assert text.headers["content-type"] == "text/plain; charset=utf-8"
        assert "[p2p] peers_total=0 peers_connected=0 handshakes_started=0 handshakes_completed=0\n" in text.text
        assert text.text.splitlines()[: len(lines)] == lines
        assert (await a.client.get("/p2p/logs?tail=0")).text == ""


async def test_the_hook_of_the_application() -> None:
    async def hook(value: dict[str, Any]) -> object:
        match value.get("do"):
            case "raise":
                raise ValueError("secret detail")
            case "hang":
                await trio.sleep_forever()
            case "odd":
                return object()
            case "number":
                return {"it is": float(value["number"])}
        return {"got": value} if value else [1, 2]

    async with one_controlled(admin_hook=hook) as a:
        answer = await a.client.post("/p2p/admin/hook", json={"a": [1, {"b": None}]})
        assert answer.json() == {"got": {"a": [1, {"b": None}]}}
        assert answer.headers["x-vix-route-heavy"] == "1"
        assert (await a.post("/admin/hook", {}))["result"] == [1, 2]
        failed = await a.post("/admin/hook", {"do": "raise"}, 502)
        assert failed["error"] == "hook_failed"
        assert "secret" not in str(failed)
        assert (await a.post("/admin/hook", {"do": "odd"}, 502))["error"] == "invalid_hook_answer"
        for number in ("nan", "inf"):
            failed = await a.post("/admin/hook", {"do": "number", "number": number}, 502)
            assert failed["error"] == "invalid_hook_answer", "JSON has no such number, and null is another answer"
    async with one_controlled(admin_hook=hook, limits=HttpLimits(hook_s_max=0.05)) as a:
        assert (await a.post("/admin/hook", {"do": "hang"}, 504))["error"] == "timeout"


async def test_what_belongs_to_the_command_line() -> None:
    async with one_controlled() as a:
        assert (await a.post("/admin/hook", {}, 501))["error"] == "not_implemented"
        assert (await a.post("/shutdown", {}, 501))["error"] == "not_implemented"
        assert (await a.ask("PUT", "/log-level", 501, json={"level": "debug"}))["error"] == "not_implemented"
    levels: list[str] = []
    stop = trio.Event()
    async with one_controlled(on_log_level=levels.append, on_shutdown=stop.set) as a:
        assert (await a.ask("PUT", "/log-level", json={"level": "debug"}))["level"] == "debug"
        assert (await a.ask("PUT", "/log-level", 400, json={"level": "loud"}))["error"] == "invalid_json"
        assert (await a.post("/shutdown", {}, 202))["stopping"] is True
    assert levels == ["debug"]
    assert stop.is_set()


async def test_a_node_that_does_not_run_is_503_and_found_when_it_does() -> None:
    node = p2p.Node(p2p.NodeConfig(node_id="a"))
    async with controlled(node, stats_every_ms=100) as a, trio.open_nursery() as nursery:
        assert (await a.get("/status", 503))["error"] == "node_not_running"
        assert (await a.get("/ping"))["pong"] is True
        assert (await a.client.get("/readyz")).status_code == 503
        await nursery.start(node.run)
        assert (await a.get("/status"))["running"] is True
        assert (await a.client.get("/readyz")).json()["checks"] == {
            "/p2p": {"listener": True, "store": True, "discovery": None}
        }
        node.stop()
        await node.wait()
        assert (await a.get("/status", 503))["error"] == "node_not_running"
        assert (await a.get("/ping"))["pong"] is True


async def test_unknown_paths_and_methods_are_json() -> None:
    async with one_controlled() as a:
        for path in ("/", "/nothing", "/peers/a/b", "/status/", ""):
            assert (await a.get(path, 404))["error"] == "not_found"
        for method, path in (("PUT", "/status"), ("DELETE", "/wal"), ("OPTIONS", "/peers"), ("TRACE", "/ping")):
            assert (await a.ask(method, path, 405))["error"] == "method_not_allowed"
        wrong = await a.client.request("BREW", "/p2p/ping")
        assert (wrong.status_code, wrong.json()["error"]) == (405, "method_not_allowed")
        assert wrong.headers["allow"] == "GET, HEAD"
        assert (await a.client.get("/nowhere")).json()["error"] == "not_found"
        head = await a.client.head("/p2p/status")
        assert (head.status_code, head.content) == (200, b"")
        for stream in ("/p2p/events", "/p2p/logs/live"):
            head = await a.client.head(stream)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-type"] == "text/event-stream"
        allow = (await a.client.put("/p2p/wal")).headers["allow"]
        assert allow == "GET, HEAD, POST"


async def test_routes_can_be_left_out() -> None:
    left_out = {"enable_ping": False, "enable_status": False, "enable_peers": False, "enable_logs": False}
    async with one_controlled(**left_out) as a:
        for path in ("/ping", "/status", "/peers", "/links", "/connect", "/logs", "/logs/live"):
            await a.get(path, 404)
        assert (await a.get("/wal"))["total"] == 0


async def test_a_peer_is_never_behind_on_its_own_log(monkeypatch: pytest.MonkeyPatch) -> None:
    async with p2p.open_node(node_id="b") as b, one_controlled() as a:
        await b.wal.append(b"theirs")
        await a.post("/connect", {"endpoint": str(b.endpoints[0])})
        await until(a, "/status", lambda value: value["records"] == 1)
        # As long as it has shown nothing.
        monkeypatch.setattr(type(a.node.wal), "shown", lambda _: {})
        view = View(a.node)
        assert view.mark(b.peer_id, b.peer_id).mark == "equal"
        assert view.peers()[0].behind_records == 0


async def test_lines_from_before_http_are_kept() -> None:
    async with p2p.open_node(node_id="b") as node, trio.open_nursery() as nursery:
        async with p2p.open_node(node_id="c", peers=[node.endpoints[0]]) as c:
            with trio.fail_after(30):
                while not c.peers():
                    await trio.lowlevel.checkpoint()
            control = Control(p2p.P2PRuntime(node), P2PHttpOptions(stats_every_ms=100, enable_stats_line=False))
            nursery.start_soon(control.run)
            with trio.fail_after(30):
                while "connected to c" not in control.log_text(100) or not control.samples:
                    await trio.sleep(0.01)
            assert "peers_total" not in control.log_text(100)
            nursery.cancel_scope.cancel()


async def test_the_log_of_a_peer_that_is_away_has_its_name(tmp_path: Path) -> None:
    async with one_controlled() as a:
        # What a node in memory is called is not remembered.
        b_node = p2p.open_node(node_id="b", data_dir=tmp_path, peers=[a.node.endpoints[0]])
        async with b_node as b, a.node.wal.follow() as records:
            await b.wal.append(b"sold 3")
            record = await records.__anext__()
        with trio.fail_after(30):
            async with a.node.events() as happened:
                while a.node.peers():
                    await happened.__anext__()
        (head,) = (await a.get("/wal"))["heads"]
        assert (head["origin"], head["node_id"]) == (str(record.origin), "b")


async def test_who_is_away_is_listed_after_the_connected_with_what_came_of_looking_for_them() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: refused
        place = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
        async with (
            p2p.open_node(node_id="a", peers=(place,)) as node,
            controlled(node) as a,
            p2p.open_node(node_id="b") as b,
        ):
            await b.connect(a.node.endpoints[0])
            found = await until(a, "/peers", lambda value: value["total"] == 2 and value["peers"][1]["failures"])
            here, away = found["peers"]
            assert (here["node_id"], here["state"], here["failure"]) == ("b", "connected", None)
            assert (away["id"], away["state"], away["endpoint"]) == (None, "disconnected", place)
            assert (away["configured"], away["failure"], away["connected_ms"]) == (True, "refused", None)
            assert 0 <= away["next_dial_ms"] <= 300_000
            assert (await a.get("/peers?state=connected"))["total"] == 1
            assert (await a.get("/peers?state=disconnected&state=connecting&state=handshaking"))["total"] == 1
            assert (await a.get("/peers?offset=1&limit=1"))["peers"][0]["endpoint"] == place
            assert len((await a.get("/links"))["links"]) == 1, "the neighbourhood is of those who are there"
            metrics = (await a.client.get("/metrics")).text
            assert 'p2p_dials_failed_total{node="a",prefix="/p2p",reason="refused"}' in metrics


async def test_a_server_that_fails_starts_again_on_its_port_and_the_node_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accept, failures = server._Server._accept, [RuntimeError("first"), RuntimeError("second")]

    async def fail_twice(self: server._Server, *args: Any) -> None:
        if failures:
            raise failures.pop()
        await accept(self, *args)

    monkeypatch.setattr(server._Server, "_accept", fail_twice)
    limits = HttpLimits(restart_s=(0.01,))
    async with p2p.open_node(node_id="b") as b, p2p.open_node(node_id="a") as node:
        await b.connect(node.endpoints[0])
        async with controlled(node, limits=limits) as a:
            assert (await a.get("/status"))["peers_connected"] == 1
        assert not failures
        assert len(b.peers()) == 1, "the link was not touched"
