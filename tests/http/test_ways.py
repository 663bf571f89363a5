"""Routes, messages and pings of docs/http.md, over real HTTP and a real relay."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

import p2p
from p2p.limits import Limits
from tests.clocks import as_it_goes
from tests.contract.relays import client_of, relay_node
from tests.http.controlled import controlled, one_controlled

NOBODY = "00" * 32


async def test_a_peer_behind_a_relay_is_reached_by_a_route_that_was_put() -> None:
    with trio.fail_after(60):
        async with relay_node() as r, client_of(r, node_id="b") as b, b.channel("chat") as chat:
            async with client_of(r, node_id="a") as node, controlled(node) as a:
                message = {"peer": str(b.peer_id), "channel": "chat", "body": "hi"}
                assert (await a.post("/send", message, 502))["error"] == "not_connected"
                put = await a.ask("PUT", "/routes", json={"target": str(b.peer_id), "next_hop": "r"})
                assert (put["target"], put["next_hop"]) == (str(b.peer_id), str(r.peer_id))
                table = await a.get("/routes")
                assert table["total"] == 1
                (route,) = table["routes"]
                assert (route["next_hop_node_id"], route["via_relay"], route["learnt"]) == ("r", True, False)
                assert route["expires_ms"] is None
                for_a_while = {"target": NOBODY, "next_hop": "r", "expires_ms": 60_000}
                await a.ask("PUT", "/routes", json=for_a_while)
                assert 0 < (await a.get("/routes"))["routes"][0]["expires_ms"] <= 60_000
                await a.ask("DELETE", f"/routes?target={NOBODY}")
                sent = await a.post("/send", message, 202)
                assert (sent["peer"], sent["direct"]) == (str(b.peer_id), False)
                assert sent["endpoint"].startswith("relay://")
                assert (await chat.receive()).body == b"hi"
                raw = {"peer": "b", "channel": "chat", "body_b64": base64.b64encode(b"\xff").decode()}
                await a.post("/send", raw, 202)
                assert (await chat.receive()).body == b"\xff"
                pinged = await a.post("/peers/b/ping", {})
                assert pinged["rtt_ms"] > 0
                assert (pinged["peer"]["id"], pinged["peer"]["direct"]) == (str(b.peer_id), False)
                circuits = (await a.get("/routes"))["circuits"]
                assert (circuits["ends"], circuits["refused"], circuits["broken"]) == (1, {}, {})
                metrics = (await a.client.get("/metrics")).text
                assert 'p2p_circuits_ends{node="a",prefix="/p2p"} 1.0' in metrics
                for name in (
                    "leads", "leads_waiting", "book", "banned", "tracked_endpoints", "discovered", "registered",
                ):  # fmt: skip
                    assert f'p2p_{name}{{node="a",prefix="/p2p"}} ' in metrics
                removed = await a.ask("DELETE", f"/routes?target={b.peer_id}")
                assert removed["removed"] is True
                assert (await a.ask("DELETE", f"/routes?target={b.peer_id}", 404))["error"] == "unknown_route"


async def test_what_a_relay_refused_and_ended_is_shown_by_reason(mock_clock: MockClock) -> None:
    as_it_goes(mock_clock)
    limits = replace(Limits(), relay_idle_s_max=10.0, relay_circuits_per_pair_max=1)
    with trio.fail_after(60):
        async with relay_node(limits=limits) as node, client_of(node, node_id="b") as b, controlled(node) as r:
            async with client_of(node, node_id="a") as a:
                with pytest.raises(p2p.NotConnected):
                    a.routes.upsert_route(NOBODY, p2p.Route(node.peer_id, via_relay=True))
                    await a.connect(NOBODY)
                await a.connect(f"relay://r/{b.peer_id}")
                while not node.circuits.broken:
                    mock_clock.jump(0.5)
                    await trio.sleep(0.01)
                circuits = (await r.get("/routes"))["circuits"]
                assert circuits["refused"]["no_route"] == circuits["refused_total"] == 1
                assert circuits["broken"]["timeout"] == circuits["broken_total"]
                metrics = (await r.client.get("/metrics")).text
                assert 'p2p_relay_refusals_total{node="r",prefix="/p2p",reason="no_route"} 1.0' in metrics
                assert 'p2p_relay_circuits_broken_total{node="r",prefix="/p2p",reason="timeout"} ' in metrics


async def test_what_cannot_be_is_told() -> None:
    async with p2p.open_node(node_id="b") as b, one_controlled() as a:
        await a.node.connect(b.endpoints[0])
        assert (await a.post("/send", {"peer": "nobody", "channel": "c", "body": ""}, 404))["error"] == "unknown_peer"
        assert (await a.post("/peers/nobody/ping", {}, 404))["error"] == "unknown_peer"
        assert (await a.post(f"/peers/{NOBODY}/ping", {}, 502))["error"] == "not_connected"
        for wrong in (
            {"peer": "b", "channel": "c"},
            {"peer": "b", "channel": "c", "body": "", "body_b64": ""},
            {"peer": "b", "channel": "c", "body_b64": "*"},
            {"peer": "b", "channel": "é" * 200, "body": ""},
        ):
            assert (await a.post("/send", wrong, 400))["error"] == "invalid_argument"
        capitals = await a.ask("PUT", "/routes", 404, json={"target": "AB" * 32, "next_hop": "b"})
        assert "64 lower-case hex digits" in capitals["hint"]
        itself = {"target": NOBODY, "next_hop": str(a.node.peer_id)}
        assert "over this node itself" in (await a.ask("PUT", "/routes", 400, json=itself))["message"]
        same = {"target": "b", "next_hop": "b"}
        assert (await a.ask("PUT", "/routes", 400, json=same))["error"] == "invalid_argument"
        unknown = {"target": NOBODY, "next_hop": "nobody"}
        assert (await a.ask("PUT", "/routes", 404, json=unknown))["error"] == "unknown_peer"
        assert (await a.ask("PUT", "/routes", 400, json={**same, "ttl": 9}))["error"] == "invalid_json"
        assert (await a.ask("DELETE", "/routes", 400))["error"] == "invalid_argument"
        assert (await a.get("/routes"))["routes"] == []


async def test_a_question_is_answered_or_why_not_is_told() -> None:
    async def answer(request: p2p.Message) -> bytes:
        if request.body == b"fail":
            raise ValueError("on purpose")
        return request.body if request.body != b"bytes" else bytes((255,))

    async with p2p.open_node(node_id="b") as b, one_controlled() as a, trio.open_nursery() as nursery:
        await nursery.start(b.serve, "echo", answer)
        await a.node.connect(b.endpoints[0])
        question = {"peer": "b", "channel": "echo", "body": "hi"}
        answered = await a.post("/request", question)
        assert (answered["body"], answered["peer"], answered["direct"]) == ("hi", str(b.peer_id), True)
        assert (await a.post("/request", {**question, "body": "bytes"}))["body_b64"] == "/w=="
        failed = await a.post("/request", {**question, "body": "fail"}, 502)
        assert (failed["error"], failed["request_status"]) == ("request_failed", 1)
        await nursery.start(b.serve, "slow", lambda _: trio.sleep_forever())
        late = await a.post("/request", {**question, "channel": "slow", "wait_ms": 30}, 504)
        assert late["message"] == "nothing came of it within 30 ms"
        unserved = await a.post("/request", {**question, "channel": "nobody-serves-this"}, 502)
        assert unserved["request_status"] == 2
        assert (await a.post("/request", {**question, "peer": "nobody"}, 404))["error"] == "unknown_peer"
        nursery.cancel_scope.cancel()


async def test_what_was_done_is_told_also_when_the_link_has_ended_since(monkeypatch: pytest.MonkeyPatch) -> None:
    async with p2p.open_node(node_id="b") as b, b.channel("chat"), one_controlled() as a:
        await a.node.connect(b.endpoints[0])
        as_it_was = a.node.send

        async def send(*args: object) -> None:
            await as_it_was(*args)  # type: ignore[arg-type]  # passed on
            await a.node.disconnect(b.peer_id)

        monkeypatch.setattr(a.node, "send", send)
        sent = await a.post("/send", {"peer": "b", "channel": "chat", "body": "hi"}, 202)
        assert (sent["peer"], sent["direct"]) == (str(b.peer_id), True)
