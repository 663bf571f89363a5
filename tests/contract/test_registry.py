"""The registry as its callers see it: our client, a Vix client by hand, operators; over real sockets."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from trio.testing import MockClock

import p2p
from http_control.registry.redis_table import RedisTable
from http_control.registry.sqlite import SqliteTable
from http_control.registry.table import TableUnavailable
from http_control.sockets import Bind
from http_control.source import networks_of
from p2p.crypto.announce import sign_announcement
from p2p.registry import ListedPeer
from p2p.registry.form import write_announce
from tests.clocks import as_it_goes
from tests.programs import needs
from tests.redis_server import redis_server
from tests.registries import OUTER_S, ask, raw, registry

VIX = b'{"node_id":"kitchen","tcp_port":9101,"cap":{"proto":"1.0","transport":"tcp"}}'
KITCHEN = p2p.Identity.generate(lambda size: b"k" * size)
CELLAR = p2p.Identity.generate(lambda size: b"c" * size)


def bootstrap_config(url: str, **more: object) -> p2p.BootstrapConfig:
    return p2p.BootstrapConfig(registry_url=url, poll_interval_ms=100, **more)  # type: ignore[arg-type]


class Heard:
    """What `on_peer` got."""

    def __init__(self) -> None:
        self.hints: list[p2p.DiscoveryAnnouncement] = []
        self._came = trio.Event()

    def __call__(self, hint: p2p.DiscoveryAnnouncement) -> None:
        self.hints.append(hint)
        self._came.set()
        self._came = trio.Event()

    async def until(self, node_id: str) -> p2p.DiscoveryAnnouncement:
        with trio.fail_after(OUTER_S):
            while True:
                for hint in self.hints:
                    if hint.node_id == node_id:
                        return hint
                await self._came.wait()


async def test_two_nodes_learn_of_each_other() -> None:
    announcing = p2p.BootstrapMode.PULL_AND_ANNOUNCE
    async with registry() as url:
        heard_a, heard_b = Heard(), Heard()
        a = bootstrap_config(url, self_node_id="kitchen", self_tcp_port=9101, mode=announcing)
        b = bootstrap_config(url + "/peers", self_node_id="cellar", self_tcp_port=9102, mode=announcing)
        async with (
            p2p.make_http_bootstrap(a, heard_a, identity=KITCHEN),
            p2p.make_http_bootstrap(b, heard_b) as second,
        ):
            assert await heard_a.until("cellar") == p2p.DiscoveryAnnouncement("cellar", "127.0.0.1", 9102)
            kitchen = await heard_b.until("kitchen")
            assert second.snapshot() == (kitchen,)
    assert kitchen == p2p.DiscoveryAnnouncement("kitchen", "127.0.0.1", 9101, KITCHEN.peer_id)
    assert {hint.node_id for hint in heard_a.hints} == {"cellar"}, "nobody hears of himself"


async def test_a_vix_client_is_served() -> None:
    async with registry() as url:
        status, headers, answer = await ask(url, "POST", "/announce", VIX, "Content-Type: application/json")
        assert (status, answer) == (200, {"ok": True, "ttl_s": 60})
        assert headers["content-type"] == "application/json"
        status, _, answer = await ask(url, "GET", "/peers?limit=10")
    assert status == 200
    (peer,) = answer["peers"]
    assert {name: peer[name] for name in ("host", "tcp_port", "node_id", "scheme", "peer_id")} == {
        "host": "127.0.0.1", "tcp_port": 9101, "node_id": "kitchen", "scheme": "tcp", "peer_id": None,
    }  # fmt: skip


async def test_signatures_are_verified() -> None:
    signed = write_announce(sign_announcement(p2p.msg.DiscoveryAnnounce("kitchen", 9101, 1, 2), KITCHEN))
    async with registry(require_signed=True) as url:
        assert (await ask(url, "POST", "/announce", signed))[0] == 200
        assert (await ask(url, "POST", "/announce", signed.replace(b"9101", b"9102")))[2]["error"] == "bad_signature"
        assert (await ask(url, "POST", "/announce", VIX))[2]["error"] == "unsigned"
        peers = (await ask(url, "GET", "/peers"))[2]["peers"]
    assert [(peer["tcp_port"], peer["peer_id"]) for peer in peers] == [(9101, str(KITCHEN.peer_id))]


async def test_a_registry_that_is_killed_and_comes_back_is_told_again() -> None:
    """With an empty table, at the same port: the node goes on, and announces itself anew."""
    mine = {"self_node_id": "kitchen", "self_tcp_port": 9101, "mode": p2p.BootstrapMode.PULL_AND_ANNOUNCE}
    async with registry() as url:
        pass
    port = int(url.rpartition(":")[2])
    with trio.fail_after(OUTER_S):
        async with p2p.make_http_bootstrap(bootstrap_config(url, **mine), lambda _: None) as bootstrap:
            for _ in range(2):
                while not bootstrap.counters.failures:
                    await trio.sleep(0.01)
                bootstrap.counters.failures = 0
                async with registry(bind=Bind(port=port)):
                    while not (await ask(url, "GET", "/peers"))[2]["peers"]:
                        await trio.sleep(0.01)


async def test_our_client_shows_its_token_and_others_stay_outside() -> None:
    token = "a-token-of-some-length"
    async with registry(token=token) as url:
        for method, path, body in (("GET", "/peers", b""), ("POST", "/announce", VIX), ("GET", "/metrics", b"")):
            status, _, answer = await ask(url, method, path, body)
            assert (status, answer["error"]) == (401, "unauthorized")
            for wrong in (
                "Bearer a-token-of-some-lengt",
                "Basic a-token-of-some-length",
                "Bearer",
                "Bearer \u00ff\udcff",
            ):
                assert (await ask(url, method, path, body, f"Authorization: {wrong}"))[0] == 401
            assert (await ask(url, method, path, body, f"Authorization: Bearer {token}"))[0] == 200
        assert (await ask(url, "GET", "/livez"))[0] == 200
        heard = Heard()
        async with p2p.make_http_bootstrap(bootstrap_config(url, token=token), heard):
            await heard.until("kitchen")


async def test_over_https(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    leaf = authority.issue_cert("127.0.0.1")
    leaf.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    bind = Bind(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem")
    async with registry(bind=bind) as url:
        assert url.startswith("https://")
        heard = Heard()
        first = bootstrap_config(
            url,
            ca_file=tmp_path / "ca.pem",
            self_node_id="a",
            self_tcp_port=1,
            mode=p2p.BootstrapMode.PULL_AND_ANNOUNCE,
        )
        async with p2p.make_http_bootstrap(first, lambda _: None):
            async with p2p.make_http_bootstrap(bootstrap_config(url, ca_file=tmp_path / "ca.pem"), heard):
                await heard.until("a")


async def test_behind_a_proxy_the_host_is_the_clients() -> None:
    async with registry(proxies=networks_of(["127.0.0.1"])) as url:
        await ask(url, "POST", "/announce", VIX, "X-Forwarded-For: 10.9.9.9, 8.8.4.4")
        seen = (await ask(url, "GET", "/peers", b"", "X-Forwarded-For: 8.8.8.8"))[2]["peers"]
        assert [peer["host"] for peer in seen] == ["8.8.4.4"], "the last one is the proxy's word, the first anybody's"
    async with registry() as url:
        await ask(url, "POST", "/announce", VIX, "X-Forwarded-For: 8.8.4.4")
        assert [peer["host"] for peer in (await ask(url, "GET", "/peers"))[2]["peers"]] == ["127.0.0.1"]


async def test_who_comes_from_elsewhere_is_not_shown_what_only_we_can_reach() -> None:
    async with registry(proxies=networks_of(["127.0.0.1"])) as url:
        for source in ("127.0.0.1", "10.0.0.1", "8.8.4.4"):
            await ask(url, "POST", "/announce", VIX, f"X-Forwarded-For: {source}")

        async def hosts(source: str) -> set[str]:
            answer = await ask(url, "GET", "/peers", b"", f"X-Forwarded-For: {source}")
            return {peer["host"] for peer in answer[2]["peers"]}

        assert await hosts("8.8.8.8") == {"8.8.4.4"}
        assert await hosts("192.168.0.1") == {"8.8.4.4", "10.0.0.1"}
        assert await hosts("127.0.0.1") == {"8.8.4.4", "10.0.0.1", "127.0.0.1"}


async def test_a_web_page_cannot_announce_for_its_reader() -> None:
    async with registry() as url:
        status, headers, _ = await ask(
            url, "POST", "/announce", VIX, "Origin: https://evil.example", "Content-Type: text/plain"
        )
        assert status == 403
        assert "access-control-allow-origin" not in headers
        assert (await ask(url, "GET", "/peers"))[2]["peers"] == []


async def test_too_much_from_one_source_waits_and_is_told_how_long() -> None:
    limits = p2p.Limits(registrar_announces_per_s=0.01, registrar_announces_burst=3, registrar_entries_per_source_max=2)
    async with registry(limits=limits, proxies=networks_of(["127.0.0.1"])) as url:

        async def announce(port: int, source: str) -> tuple[int, dict[str, str], Any]:
            return await ask(url, "POST", "/announce", VIX.replace(b"9101", b"%d" % port), f"X-Forwarded-For: {source}")

        answers = [await announce(port, "8.8.4.4") for port in range(9000, 9004)]
        assert (await announce(9000, "8.8.4.5"))[0] == 200
    assert [answer[0] for answer in answers] == [200, 200, 429, 429]
    assert [answer[2]["error"] for answer in answers[2:]] == ["too_many_entries", "too_many_requests"]
    assert all(int(answer[1]["retry-after"]) > 0 for answer in answers[2:])


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("GET", "/", b"", 404, "not_found"),
        ("GET", "/peers?limit=1&limit=2", b"", 400, "invalid_limit"),
        ("GET", "/peers/x", b"", 404, "not_found"),
        ("PUT", "/announce", VIX, 405, "method_not_allowed"),
        ("GET", "/announce", b"", 405, "method_not_allowed"),
        ("OPTIONS", "/peers", b"", 405, "method_not_allowed"),
        ("OPTIONS", "/livez", b"", 405, "method_not_allowed"),
        ("POST", "/peers", b"{}", 405, "method_not_allowed"),
        ("GET", "/peers?limit=0", b"", 400, "invalid_limit"),
        ("GET", "/peers?limit=%00", b"", 400, "invalid_limit"),
        ("GET", "/peers?limit=%ff%fe", b"", 400, "invalid_limit"),
        ("POST", "/announce", b"", 400, "invalid_announcement"),
        ("POST", "/announce", b"\xff", 400, "invalid_announcement"),
        ("POST", "/announce", b"[" * 4000, 400, "invalid_announcement"),
        ("POST", "/announce", b'{"node_id":"a","node_id":"b","tcp_port":1}', 400, "invalid_announcement"),
        ("POST", "/announce", b'{"node_id":"a","tcp_port":NaN}', 400, "invalid_announcement"),
        ("POST", "/announce", b'{"node_id":"a","tcp_port":' + b"9" * 3000 + b"}", 400, "invalid_announcement"),
        ("POST", "/announce", b" " * 5000, 413, "too_large"),
    ],
)
async def test_every_error_is_json_and_none_is_ours(
    method: str, path: str, body: bytes, status: int, error: str
) -> None:
    async with registry() as url:
        got, headers, answer = await ask(url, method, path, body)
    assert (got, answer["error"], answer["ok"]) == (status, error, False)
    assert headers["content-type"] == "application/json"
    assert answer["message"]


async def test_compressed_bodies_are_not_unpacked() -> None:
    import gzip

    async with registry() as url:
        status, _, answer = await ask(url, "POST", "/announce", gzip.compress(VIX), "Content-Encoding: gzip")
    assert (status, answer["error"]) == (400, "invalid_announcement")


class Broken(SqliteTable):
    """A table that can be switched off."""

    off = False

    def pick(self, scopes: object, count: int) -> list[ListedPeer]:
        if self.off:
            raise TableUnavailable("it is off")
        return []

    def size(self) -> int:
        if self.off:
            raise TableUnavailable("it is off")
        return 0


async def test_a_table_that_fails_is_said_and_the_registry_lives_on(caplog: pytest.LogCaptureFixture) -> None:
    table = Broken()
    async with registry(table=table) as url:
        table.off = True
        status, headers, answer = await ask(url, "GET", "/peers")
        assert (status, answer["error"], headers["retry-after"]) == (503, "unavailable", "5")
        assert (await ask(url, "GET", "/readyz"))[0] == 503
        assert (await ask(url, "GET", "/livez"))[0] == 200
        assert "p2p_registry_table_up 0.0" in (await ask(url, "GET", "/metrics"))[2]
        table.off = False
        assert (await ask(url, "GET", "/peers"))[0] == 200
        assert (await ask(url, "GET", "/readyz"))[0] == 200
        for _ in range(10):
            table.off = True
            await ask(url, "GET", "/peers")
            await ask(url, "GET", "/peers")
            table.off = False
            await ask(url, "GET", "/peers")
    told = [record.getMessage() for record in caplog.records if record.name == "p2p.registry"]
    outage = ["the registry's table cannot be used: it is off", "the registry's table can be used again"]
    assert told == outage * 5, "each outage once, until there are too many in a minute"


async def test_however_many_ask_whether_it_is_ready_the_table_is_asked_once(mock_clock: MockClock) -> None:
    # Once a second: the clock stands still.
    class Counting(SqliteTable):
        asked = 0

        def size(self) -> int:
            self.asked += 1
            return super().size()

    table = Counting()
    async with registry(table=table) as url:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask, url, "GET", "/readyz")
        as_it_goes(mock_clock)
    assert table.asked == 1


@needs("redis-server")
async def test_a_redis_that_hangs_costs_nobodys_time(tmp_path: Path) -> None:
    with redis_server(tmp_path) as where:
        table = RedisTable(where)
        pid = table._redis.info("server")["process_id"]
        async with registry(table=table) as url:
            assert (await ask(url, "GET", "/readyz"))[0] == 200
            os.kill(pid, signal.SIGSTOP)
            try:
                answers: list[tuple[int, str]] = []

                async def question() -> None:
                    status, headers, answer = await ask(url, "GET", "/peers")
                    answers.append((status, headers["retry-after"]))
                    assert answer["error"] == "unavailable"

                with trio.fail_after(20):  # one after the other, 64 hung calls in 8 threads would take longer
                    async with trio.open_nursery() as nursery:
                        for _ in range(64):
                            nursery.start_soon(question)
                    assert answers == [(503, "5")] * 64
                    assert (await ask(url, "GET", "/readyz"))[0] == 503
                    assert (await ask(url, "GET", "/livez"))[0] == 200
            finally:
                os.kill(pid, signal.SIGCONT)
            with trio.fail_after(30):
                while (await ask(url, "GET", "/readyz"))[0] != 200:
                    await trio.sleep(0.1)


async def test_metrics_count_what_became_of_requests() -> None:
    async with registry() as url:
        await ask(url, "POST", "/announce", VIX)
        await ask(url, "POST", "/announce", b"x")
        await ask(url, "POST", "/announce", b" " * 5000)
        await ask(url, "GET", "/peers")
        status, headers, text = await ask(url, "GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in (
        'p2p_registry_requests_total{outcome="ok",route="announce"} 1.0',
        'p2p_registry_requests_total{outcome="invalid_announcement",route="announce"} 1.0',
        'p2p_registry_requests_total{outcome="too_large",route="announce"} 1.0',
        'p2p_registry_requests_total{outcome="ok",route="peers"} 1.0',
        "p2p_registry_entries 1.0",
    ):
        assert line in text


async def test_the_largest_answer_is_one_that_a_client_reads() -> None:
    table = SqliteTable()
    async with registry(table=table) as url:
        for number in range(150):
            name = f"n{number}".ljust(64, "x")
            entry = p2p.registry.Entry(
                ListedPeer(f"2606:4700:4700:1111:2222:3333:4444:{number:x}", 65_535, name, "wss", "ab" * 32),
                p2p.registry.Scope.PUBLIC,
                f"source {number}",
            )
            table.note(entry, p2p.registry.Room(60.0, 1000, 64))
        status, _, answer = await ask(url, "GET", "/peers?limit=500")
    assert status == 200
    assert len(answer["peers"]) == 100
    assert len(json.dumps(answer)) < p2p.Limits().registry_answer_bytes_max / 4


async def test_t29_whatever_comes_is_never_an_error_of_ours() -> None:
    chance = random.Random(29)
    signed = write_announce(sign_announcement(p2p.msg.DiscoveryAnnounce("kitchen", 9101, 1, 2), KITCHEN))
    limits = p2p.Limits(registrar_announces_burst=10_000, registrar_questions_burst=10_000)
    async with registry(limits=limits) as url:
        for _ in range(150):
            wounded = bytearray(signed)
            for _ in range(chance.randint(1, 8)):
                wounded[chance.randrange(len(wounded))] = chance.randrange(256)
            status, _, answer = await ask(url, "POST", "/announce", bytes(wounded))
            assert status in {200, 400, 403}, (bytes(wounded), answer)
            query = "".join(chance.choice("limit=&%0123456789aé;+\\[") for _ in range(12)).encode().hex("%")
            status, _, answer = await ask(url, "GET", f"/peers?limit=%{query}")
            assert status in {200, 400}, (query, answer)


class Hanging(SqliteTable):
    """A table that answers when it is let go, as a Redis that is stopped."""

    may_be_abandoned = True

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()
        self.let_go = threading.Event()

    def pick(self, scopes: object, count: int) -> list[ListedPeer]:
        self.asked.set()
        self.let_go.wait(OUTER_S * 2)
        return []


async def test_a_table_that_hangs_does_not_hold_up_a_stop() -> None:
    table = Hanging()
    try:
        with trio.fail_after(OUTER_S):
            async with registry(table=table) as url, trio.open_nursery() as nursery:
                nursery.start_soon(ask_and_be_dropped, url)
                await trio.to_thread.run_sync(table.asked.wait, OUTER_S)
                nursery.cancel_scope.cancel()
    finally:
        table.let_go.set()


async def ask_and_be_dropped(url: str) -> None:
    await raw(url, b"GET /peers HTTP/1.1\r\nHost: r\r\n\r\n")


async def test_more_questions_than_may_wait_are_told_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("http_control.registry.app.CALLS_WAITING_MAX", 2)
    table = Hanging()
    statuses: list[int] = []
    refused = trio.Event()

    async def one(url: str) -> None:
        statuses.append((await ask(url, "GET", "/peers"))[0])
        refused.set()

    with trio.fail_after(OUTER_S):
        async with registry(table=table) as url, trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(one, url)
            # One is in the thread, two wait for it; the fourth is answered while they hang.
            await refused.wait()
            assert statuses == [503]
            table.let_go.set()
    assert sorted(statuses) == [200, 200, 200, 503]


@pytest.mark.parametrize(
    ("host", "is_let_in"),
    [
        ("localhost:8470", True), ("127.0.0.1:8470", True), ("[::1]:8470", True), ("registry", True),
        ("evil.example", False), ("evil.example.:8470", False), ("127.0.0.1.evil.example", False),
        ("[::ffff:127.0.0.1]", True), ("127.0.0.1.", True),
    ],
)  # fmt: skip
async def test_t52_a_page_that_was_rebound_to_a_registry_sees_nothing(host: str, is_let_in: bool) -> None:
    async with registry() as url:
        for path in ("/peers", "/metrics"):
            answer = await raw(url, f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            assert answer.split(b" ")[1] == (b"200" if is_let_in else b"421"), answer
    # Behind a proxy it is known by the name that the proxy has.
    async with registry(proxies=networks_of(["127.0.0.1"])) as url:
        answer = await raw(url, f"GET /peers HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert answer.split(b" ")[1] == b"200"


async def test_t04_without_a_thread_for_its_table_a_registry_is_unavailable_for_the_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def no_thread(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    async with registry() as url:
        with monkeypatch.context() as full:
            full.setattr(trio.to_thread, "run_sync", no_thread)
            status, _, said = await ask(url, "GET", "/peers")
            assert (status, said["error"]) == (503, "unavailable")
        assert (await ask(url, "GET", "/peers"))[0] == 200
