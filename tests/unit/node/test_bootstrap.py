"""The registry's client: its pace, what it hands on, and that nothing a registry does ends it.

The registry is a list of answers here, and time is mocked; over real sockets: tests/hostile/test_registry.py and
tests/contract/test_registry.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Self

import pytest
import trio
from trio.testing import MockClock

import p2p
from p2p.crypto.announce import signer_of
from p2p.crypto.identity import Identity
from p2p.errors import ConfigError, ConnectFailed, Reason, RemoteProtocolError
from p2p.ids import PeerEndpoint, usual_host
from p2p.limits import Limits
from p2p.node.bootstrap import (
    BootstrapConfig,
    BootstrapMode,
    HttpBootstrap,
    make_http_bootstrap,
    rule_without_answer,
)
from p2p.policy.addresses import DialRule
from p2p.policy.hints import DiscoveryAnnouncement
from p2p.registry.form import ListedPeer, read_announce, write_announced, write_peers
from p2p.transport.http import HttpAnswer
from p2p.transport.tcp import TcpNetwork
from p2p.windows import SimulatedClock

KITCHEN = Identity.generate(lambda size: b"k" * size)
CELLAR = ListedPeer("198.18.0.1", 9102, "cellar")
PUBLIC, PRIVATE, LOOPBACK = "8.8.8.8", "10.0.0.1", "127.0.0.1"

Failure = ConnectFailed | RemoteProtocolError


class Registry:
    """Answers as told, and notes when it was asked what."""

    def __init__(self, *peers: ListedPeer, server: str = PUBLIC, client: str = "203.0.113.9", ttl_s: int = 60) -> None:
        self.peers = peers
        self.server = server
        self.client = client
        self.ttl_s = ttl_s
        self.status = 200
        self.failure: Failure | None = None
        self.asked: list[tuple[float, str, str, bytes | None]] = []
        self._came = trio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def request(self, method: str, url: str, body: bytes | None = None) -> HttpAnswer:
        await trio.lowlevel.checkpoint()
        self.asked.append((trio.current_time(), method, url, body))
        self._came.set()
        self._came = trio.Event()
        if self.failure is not None:
            raise self.failure
        said = write_announced(self.ttl_s) if method == "POST" else write_peers(self.peers)
        return HttpAnswer(self.status, said, self.server, self.client)

    async def times(self, count: int, method: str = "GET") -> list[float]:
        while len(found := [at for at, how, _, _ in self.asked if how == method]) < count:
            await self._came.wait()
        return found


def config(registry: Registry, **more: Any) -> BootstrapConfig:
    return BootstrapConfig(**{"registry_url": "http://r.example:8080/peers", "http": registry} | more)


async def heard(registry: Registry, **more: Any) -> tuple[list[DiscoveryAnnouncement], HttpBootstrap]:
    """What one poll hands on."""
    found: list[DiscoveryAnnouncement] = []
    async with make_http_bootstrap(config(registry, **more), found.append) as bootstrap:
        await trio.testing.wait_all_tasks_blocked()
    return found, bootstrap


@pytest.fixture
def autojump(autojump_clock: MockClock) -> MockClock:
    return autojump_clock


async def test_it_asks_at_once_and_hands_on(autojump: MockClock) -> None:
    registry = Registry(ListedPeer("8.8.4.4", 9102, "cellar", "tcp", str(KITCHEN.peer_id)))
    found, bootstrap = await heard(registry, max_peers_per_poll=7)
    assert found == [DiscoveryAnnouncement("cellar", "8.8.4.4", 9102, KITCHEN.peer_id)]
    assert bootstrap.snapshot() == tuple(found)
    assert [entry[1:] for entry in registry.asked] == [("GET", "http://r.example:8080/peers?limit=7", None)]


async def test_it_asks_at_its_interval_with_jitter(autojump: MockClock) -> None:
    registry = Registry()
    async with make_http_bootstrap(config(registry, poll_interval_ms=4000), lambda _: None):
        times = await registry.times(20)
    gaps = [b - a for a, b in pairwise(times)]
    assert all(3 <= gap <= 4 for gap in gaps)
    assert len(set(gaps)) > 1


async def test_after_failures_it_asks_less_and_less_often_and_then_as_before(autojump: MockClock) -> None:
    registry = Registry()
    registry.failure = ConnectFailed(Reason.REFUSED, "nobody there")
    said, warned = list[str](), list[str]()
    every_4_s = config(registry, poll_interval_ms=4000)
    bootstrap = HttpBootstrap(every_4_s, lambda *_: None, say=said.append, warn=warned.append)
    async with bootstrap:
        times = await registry.times(14)
        gaps = [b - a for a, b in pairwise(times)]
        for number, gap in enumerate(gaps):
            whole = min(4 * 2.0**number, 120)
            assert 0.75 * whole <= gap <= whole
        registry.failure = None
        times = await registry.times(17)
        assert times[-1] - times[-2] <= 4
    assert bootstrap.counters.failures == 14
    assert len(warned) == len(said) == 1, "one line when it begins, one when it is over"
    assert "nobody there" in warned[0]
    assert "works again" in said[0]


@pytest.mark.parametrize("was_there", [True, False])
async def test_a_registry_that_was_down_is_told_of_us_within_a_third_of_its_ttl(
    autojump: MockClock, was_there: bool
) -> None:
    registry = Registry(ttl_s=45 if was_there else 60)
    mine = config(registry, self_node_id="a", self_tcp_port=1, mode=BootstrapMode.PULL_AND_ANNOUNCE)
    down = ConnectFailed(Reason.REFUSED, "nobody there")
    registry.failure = None if was_there else down
    async with make_http_bootstrap(mine, lambda _: None):
        if was_there:
            await registry.times(1, "POST")
            registry.failure = down
        announced = await registry.times(100, "POST")
        asked = await registry.times(12)
    assert max(b - a for a, b in pairwise(announced)) <= registry.ttl_s / 3
    assert asked[-1] - asked[-2] > 60, "and asked as seldom as others are"


async def test_an_outage_is_one_line_though_two_things_fail(autojump: MockClock) -> None:
    registry = Registry()
    registry.failure = ConnectFailed(Reason.REFUSED, "nobody there")
    said, warned = list[str](), list[str]()
    mode = BootstrapMode.PULL_AND_ANNOUNCE
    announcing = config(registry, poll_interval_ms=4000, mode=mode, self_node_id="a", self_tcp_port=9101)
    async with HttpBootstrap(announcing, lambda *_: None, say=said.append, warn=warned.append):
        for _ in range(2):
            await trio.sleep(600)
            registry.failure = None
            await trio.sleep(600)
            registry.failure = ConnectFailed(Reason.REFUSED, "nobody there")
    assert (len(warned), len(said)) == (2, 2)


async def test_of_a_registry_that_comes_and_goes_some_outages_are_told_and_each_of_these_ends(
    autojump: MockClock,
) -> None:
    registry = Registry()
    said, warned = list[str](), list[str]()
    clock = SimulatedClock()
    every_s = config(registry, poll_interval_ms=1000)
    async with HttpBootstrap(every_s, lambda *_: None, say=said.append, warn=warned.append, clock=clock):
        for _ in range(20):
            registry.failure = ConnectFailed(Reason.REFUSED, "nobody there")
            await trio.sleep(3)
            registry.failure = None
            await trio.sleep(10)
    assert len(warned) == len(said) == Limits().registry_outages_burst


@pytest.mark.parametrize("status", [204, 302, 400, 401, 404, 429, 500, 503])
async def test_an_answer_that_is_none_is_a_failure(autojump: MockClock, status: int) -> None:
    registry = Registry(ListedPeer("8.8.4.4", 9102, "cellar"))
    registry.status = status
    found, bootstrap = await heard(registry)
    assert (found == []) == (status != 204)
    assert bootstrap.counters.failures == (status != 204)


async def test_it_announces_a_signed_word_before_its_ttl_is_over(autojump: MockClock) -> None:
    registry = Registry(ttl_s=30)
    mine = config(
        registry,
        self_node_id="kitchen",
        self_tcp_port=9101,
        mode=BootstrapMode.PULL_AND_ANNOUNCE,
        poll_interval_ms=60_000,
    )
    async with make_http_bootstrap(mine, lambda _: None, identity=KITCHEN):
        times = await registry.times(4, "POST")
    assert all(b - a <= 10 for a, b in pairwise(times))
    _, _, url, body = next(entry for entry in registry.asked if entry[1] == "POST")
    assert url == "http://r.example:8080/announce"
    announce = read_announce(body or b"")
    assert (announce.node_id, announce.tcp_port) == ("kitchen", 9101)
    assert signer_of(announce) == KITCHEN.peer_id
    assert dict(announce.capabilities)["transport"] == "tcp"
    assert len({entry[3] for entry in registry.asked if entry[1] == "POST"}) == 4, "each with a nonce of its own"


async def test_what_leads_here_from_outside_is_announced_in_place_of_what_listens(autojump: MockClock) -> None:
    registry = Registry()
    mine = config(registry, self_node_id="a", self_tcp_port=80, self_scheme="ws", mode="pull_and_announce")
    async with make_http_bootstrap(mine, lambda _: None):
        await registry.times(1, "POST")
    [body] = [json.loads(body) for _, method, _, body in registry.asked if method == "POST" and body]
    assert (body["tcp_port"], body["cap"]["transport"]) == (80, "ws")


async def test_without_an_identity_the_word_is_unsigned(autojump: MockClock) -> None:
    registry = Registry()
    mine = config(registry, self_node_id="a", self_tcp_port=1, mode=BootstrapMode.PULL_AND_ANNOUNCE)
    await heard(registry, **{name: getattr(mine, name) for name in ("self_node_id", "self_tcp_port", "mode")})
    bodies = [json.loads(body) for _, method, _, body in registry.asked if method == "POST" and body]
    assert bodies
    assert bodies[0]["cap"] == {"proto": "1.0", "transport": "tcp"}


async def test_a_registry_that_takes_no_announcement_is_still_asked(autojump: MockClock) -> None:
    registry = Registry(ListedPeer("8.8.4.4", 9102, "cellar"))
    usual = registry.request

    async def request(method: str, url: str, body: bytes | None = None) -> HttpAnswer:
        answer = await usual(method, url, body)
        return answer._replace(status=401) if method == "POST" else answer

    registry.request = request  # type: ignore[method-assign]
    found, bootstrap = await heard(registry, self_node_id="a", self_tcp_port=1, mode=BootstrapMode.PULL_AND_ANNOUNCE)
    assert len(found) == 1
    assert bootstrap.counters.failures == 1


async def test_what_it_does_not_name_any_more_leaves_the_snapshot(autojump: MockClock) -> None:
    registry = Registry(ListedPeer("8.8.4.4", 9102, "cellar"))
    async with make_http_bootstrap(config(registry, poll_interval_ms=1000), lambda _: None) as bootstrap:
        await registry.times(1)
        await trio.testing.wait_all_tasks_blocked()
        assert len(bootstrap.snapshot()) == 1
        registry.peers = ()
        await registry.times(2)
        assert len(bootstrap.snapshot()) == 1
        await registry.times(8)
        assert bootstrap.snapshot() == ()


async def test_t48_the_snapshot_is_bounded(autojump: MockClock) -> None:
    registry = Registry()
    bootstrap = HttpBootstrap(
        config(registry, poll_interval_ms=1000, max_peers_per_poll=10),
        lambda *_: None,
        limits=Limits(registry_known_max=12),
    )
    async with bootstrap:
        for round_number in range(1, 6):
            registry.peers = tuple(ListedPeer(f"8.8.{round_number}.{n}", 9102, "x") for n in range(10))
            await registry.times(round_number + 1)
    assert len(bootstrap.snapshot()) == 12


async def test_what_a_hook_raises_is_counted_and_told_ever_more_seldom(
    autojump: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry(ListedPeer("8.8.4.4", 9102, "cellar"), ListedPeer("8.8.4.5", 9102, "attic"))

    def broken(_: DiscoveryAnnouncement) -> None:
        raise RuntimeError("mine")

    async with make_http_bootstrap(config(registry, poll_interval_ms=1000), broken) as bootstrap:
        await registry.times(5)
    assert bootstrap.counters.hook_failures >= 8
    told = [record.getMessage() for record in caplog.records if "on_peer" in record.getMessage()]
    assert told[:4] == [f"on_peer failed, {times} so far: RuntimeError: mine" for times in (1, 2, 4, 8)]
    assert not any(record.exc_info for record in caplog.records if record.levelname != "DEBUG")


async def test_it_leaves_itself_out(autojump: MockClock) -> None:
    other = Identity.generate(lambda size: b"o" * size)
    registry = Registry(
        ListedPeer("8.8.4.4", 1, "kitchen"),
        ListedPeer("8.8.4.4", 2, "kitchen", "tcp", str(KITCHEN.peer_id)),
        ListedPeer("8.8.4.4", 3, "kitchen", "tcp", str(other.peer_id)),
    )
    found: list[DiscoveryAnnouncement] = []
    async with make_http_bootstrap(config(registry, self_node_id="kitchen"), found.append, identity=KITCHEN):
        await registry.times(1)
        await trio.testing.wait_all_tasks_blocked()
    assert [hint.port for hint in found] == [3], "another identity may carry our label"


HOSTS = {
    "8.8.4.4": "public", "2606:4700::1": "public",
    "10.1.2.3": "private", "192.168.0.9": "private", "fd00::1": "private", "100.64.0.1": "private",
    "127.0.0.1": "loopback", "127.9.9.9": "loopback", "::1": "loopback", "::ffff:127.0.0.1": "loopback",
    "169.254.169.254": "never", "fe80::1": "never", "::ffff:169.254.169.254": "never", "0.0.0.0": "never",
    "::": "never", "0.1.2.3": "never", "224.0.0.1": "never", "ff02::1": "never", "255.255.255.255": "never",
    "240.0.0.1": "never",
}  # fmt: skip


@pytest.mark.parametrize(
    ("server", "allow_private", "allowed"),
    [
        (PUBLIC, None, {"public"}),
        (PUBLIC, True, {"public", "private"}),
        (PRIVATE, None, {"public", "private"}),
        (PRIVATE, False, {"public"}),
        (LOOPBACK, None, {"public", "private", "loopback"}),
        (LOOPBACK, False, {"public", "loopback"}),
        ("", None, {"public"}),
    ],
)
async def test_t49_where_a_registry_may_send_us(
    autojump: MockClock, server: str, allow_private: bool | None, allowed: set[str]
) -> None:
    registry = Registry(*(ListedPeer(host, 9102, "x") for host in HOSTS), server=server)
    found, bootstrap = await heard(registry, allow_private=allow_private)
    assert {hint.host for hint in found} == {usual_host(host) for host, kind in HOSTS.items() if kind in allowed}
    assert bootstrap.counters.hints_refused == len(HOSTS) - len(found)


async def test_t49_our_own_ports_are_left_alone(autojump: MockClock) -> None:
    registry = Registry(
        *(
            ListedPeer(host, port, "x")
            for host in (LOOPBACK, "10.0.0.7", "10.0.0.8", "8.8.4.4")
            for port in (9101, 5180, 9102)
        ),
        server=LOOPBACK,
        client="10.0.0.7",
    )
    found, _ = await heard(registry, self_tcp_port=9101, own_ports=(5180,))
    assert {(hint.host, hint.port) for hint in found} == {
        *((host, 9102) for host in (LOOPBACK, "10.0.0.7", "10.0.0.8", "8.8.4.4")),
        *((host, 9101) for host in ("10.0.0.8", "8.8.4.4")),
        ("8.8.4.4", 5180),
    }


async def test_t49_every_door_of_ours_is_left_alone_and_the_same_port_elsewhere_is_not(autojump: MockClock) -> None:
    registry = Registry(
        *(ListedPeer(host, 9080, "x", "ws") for host in (LOOPBACK, "10.0.0.7", "10.0.0.8")),
        server=LOOPBACK,
        client="10.0.0.7",
    )
    found: list[DiscoveryAnnouncement] = []
    doors = frozenset({9080})
    async with HttpBootstrap(config(registry, self_tcp_port=9101), lambda hint, _: found.append(hint), doors=doors):
        await trio.testing.wait_all_tasks_blocked()
    assert {(hint.host, hint.port) for hint in found} == {("10.0.0.8", 9080)}


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_t49_a_name_that_websocket_shows_stays_beside_the_addresses_that_were_judged(
    autojump: MockClock, scheme: str
) -> None:
    names = Names(
        good=["8.8.4.4", "8.8.4.9", "2606:4700:0::1"], mixed=["8.8.4.4", "169.254.169.254"], bad=["127.0.0.1"]
    )
    registry = Registry(*(ListedPeer(host, 443, "x", scheme) for host in ("Good", "mixed", "bad", "8.8.4.5")))
    found: list[DiscoveryAnnouncement] = []
    async with HttpBootstrap(config(registry), lambda hint, _: found.append(hint), network=names) as bootstrap:
        await trio.testing.wait_all_tasks_blocked()
    assert [(hint.host, hint.judged) for hint in found] == [
        ("good", ("8.8.4.4", "2606:4700::1")),
        ("mixed", ("8.8.4.4",)),
        ("8.8.4.5", ()),
    ]
    assert [hint.endpoint.judged for hint in found] == [hint.judged for hint in found]
    assert bootstrap.counters.hints_refused == 1
    assert names.looked_up == ["good", "mixed", "bad"]


async def test_t49_names_without_end_for_one_address_are_a_few_dials(autojump: MockClock) -> None:
    names = Names(**{f"n{number}": ["8.8.4.4"] for number in range(99)}, other=["8.8.4.5"])
    registry = Registry(*(ListedPeer(host, 443, "x", "wss") for host in names.known))
    found: list[DiscoveryAnnouncement] = []
    async with HttpBootstrap(config(registry), lambda hint, _: found.append(hint), network=names):
        await registry.times(3)
        await trio.testing.wait_all_tasks_blocked()
    assert {hint.host for hint in found} == {*(f"n{number}" for number in range(16)), "other"}


async def test_t49_our_own_doors_are_known_in_any_spelling(autojump: MockClock) -> None:
    registry = Registry(
        *(ListedPeer(host, 9101, "x") for host in ("2606:4700:0:0::7", "2606:4700:0::0007", "2606:4700::8")),
        client="2606:4700:0::7",
    )
    found, _ = await heard(registry, self_tcp_port=9101)
    assert [hint.host for hint in found] == ["2606:4700::8"]
    registry = Registry(
        *(ListedPeer(host, 9101, "x") for host in ("8.8.4.4", "::ffff:8.8.4.4", "8.8.4.5")), client="::ffff:8.8.4.4"
    )
    found, _ = await heard(registry, self_tcp_port=9101)
    assert [hint.host for hint in found] == ["8.8.4.5"]


async def test_t49_our_doors_are_left_alone_at_each_address_of_this_machine(
    autojump: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2p.node.bootstrap.own_hosts", lambda: frozenset({"2a01:4f8::1", "10.0.0.1"}))
    registry = Registry(
        *(ListedPeer(host, port, "x") for host in ("2a01:4f8::1", "2a01:4f8::2") for port in (8080, 9101, 9102)),
        client="198.51.100.9",
    )
    found, _ = await heard(registry, self_tcp_port=9101, own_ports=(8080,))
    assert [(hint.host, hint.port) for hint in found] == [
        ("2a01:4f8::1", 9102), ("2a01:4f8::2", 8080), ("2a01:4f8::2", 9101), ("2a01:4f8::2", 9102)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("url", "allow_private", "private", "loopback"),
    [
        ("https://r.example", None, False, False),
        ("https://r.example", True, True, False),
        ("http://10.0.0.1:8080", None, True, False),
        ("http://localhost:8080", None, True, True),
        ("http://[::1]:8080", False, False, True),
    ],
)
def test_t49_where_a_name_of_an_earlier_run_may_lead(
    url: str, allow_private: bool | None, private: bool, loopback: bool
) -> None:
    rule = rule_without_answer(BootstrapConfig(registry_url=url, allow_private=allow_private, own_ports=(7,)))
    assert rule == DialRule(private, loopback, frozenset({7}))


class Names(TcpNetwork):
    """A resolver that says what it is told, and counts."""

    def __init__(self, **known: list[str]) -> None:
        super().__init__()
        self.known = known
        self.looked_up: list[str] = []

    async def resolve(self, endpoint: PeerEndpoint) -> tuple[PeerEndpoint, ...]:
        await trio.lowlevel.checkpoint()
        self.looked_up.append(endpoint.host)
        if endpoint.host == "slow.example":
            await trio.sleep_forever()
        if endpoint.host not in self.known:
            raise ConnectFailed(Reason.UNRESOLVED, endpoint.host)
        return tuple(PeerEndpoint(host, endpoint.port) for host in self.known[endpoint.host])


async def test_t49_names_are_resolved_once_judged_and_pinned(autojump: MockClock) -> None:
    names = Names(
        good=["8.8.4.4", "8.8.4.5", "2606:4700::1"],
        mixed=["169.254.169.254", "127.0.0.1", "8.8.4.6"],
        bad=["169.254.169.254"],
        home=["127.0.0.1", "::1"],
    )
    listed = ["good", "mixed", "bad", "home", "2130706433", "0x7f.1", "unknown"]
    registry = Registry(*(ListedPeer(host, 9102, "x") for host in listed))
    found: list[DiscoveryAnnouncement] = []
    async with HttpBootstrap(config(registry), lambda hint, _: found.append(hint), network=names) as bootstrap:
        await trio.testing.wait_all_tasks_blocked()
    assert [hint.host for hint in found] == ["8.8.4.4", "2606:4700::1", "8.8.4.6"]
    assert names.looked_up == listed, "one look-up each; what is dialled is the address that was judged"
    assert bootstrap.counters.hints_refused == 5


async def test_t48_names_that_take_for_ever_do_not(autojump: MockClock) -> None:
    names = Names(good=["8.8.4.4"])
    registry = Registry(*(ListedPeer(host, 9102, "x") for host in ["good", *["slow.example"] * 99]))
    found: list[DiscoveryAnnouncement] = []
    mine = config(registry, poll_interval_ms=1000)
    async with HttpBootstrap(mine, lambda hint, _: found.append(hint), network=names):
        first, second = await registry.times(2)
    assert second - first <= 11
    assert found


async def test_where_it_came_from_is_the_registry(autojump: MockClock) -> None:
    came: list[str] = []
    registry = Registry(ListedPeer("8.8.4.4", 9102, "cellar"))
    async with HttpBootstrap(config(registry), lambda _, came_from: came.append(came_from)):
        await trio.testing.wait_all_tasks_blocked()
    assert came == ["r.example"]


async def test_a_token_in_clear_is_said(autojump: MockClock) -> None:
    async def lines(url: str) -> list[str]:
        said: list[str] = []
        async with HttpBootstrap(config(Registry(), registry_url=url, token="t"), lambda *_: None, warn=said.append):
            await trio.testing.wait_all_tasks_blocked()
        return said

    assert "use https" in (await lines("http://r.example"))[0]
    assert await lines("https://r.example") == []
    assert await lines("http://127.0.0.1:1") == []


async def test_stop_ends_it_and_the_body_goes_on(autojump: MockClock) -> None:
    registry = Registry()
    async with make_http_bootstrap(config(registry), lambda _: None) as bootstrap:
        await registry.times(1)
        bootstrap.stop()
        bootstrap.stop()
        await trio.sleep(1000)
    assert len(registry.asked) == 1


async def test_it_starts_in_a_nursery_and_ends_when_told(autojump: MockClock) -> None:
    registry = Registry()
    async with trio.open_nursery() as nursery:
        bootstrap = make_http_bootstrap(config(registry), lambda _: None)
        await bootstrap.start(nursery)
        await registry.times(1)
        bootstrap.stop()


async def test_it_runs_once(autojump: MockClock) -> None:
    bootstrap = make_http_bootstrap(config(Registry()), lambda _: None)
    async with bootstrap:
        pass
    with pytest.raises(p2p.NodeClosed, match="runs once"):
        async with bootstrap:
            pass


async def test_what_the_body_raises_leaves_as_itself(autojump: MockClock) -> None:
    with pytest.raises(KeyError):
        async with make_http_bootstrap(config(Registry()), lambda _: None):
            raise KeyError


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (BootstrapConfig, "registry_url is missing"),
        (lambda: BootstrapConfig(registry_url="ftp://x"), "http"),
        (lambda: BootstrapConfig("a b", 1, "http://r"), "node id"),
        (lambda: BootstrapConfig(registry_url=7), "registry_url .* text"),  # type: ignore[arg-type]
        (lambda: BootstrapConfig("a", "9", "http://r"), "self_tcp_port .* str"),  # type: ignore[arg-type]
        (lambda: BootstrapConfig(registry_url="http://r", poll_interval_ms=1e4), "poll_interval_ms"),  # type: ignore[arg-type]
        (lambda: BootstrapConfig(registry_url="http://r", token=b"t"), "token .* bytes"),  # type: ignore[arg-type]
        (lambda: BootstrapConfig(registry_url="http://r", own_ports=80), "own_ports"),  # type: ignore[arg-type]
        (lambda: BootstrapConfig(registry_url="http://r", own_ports=("80",)), "own_ports"),  # type: ignore[arg-type]
        (lambda: BootstrapConfig(registry_url="http://r", own_ports=(0,)), "own_ports .* from 1 to 65535"),
        (lambda: BootstrapConfig(registry_url="http://r", self_scheme="udp"), "tcp, ws, wss"),
        (lambda: BootstrapConfig("a", 0, "http://r"), "self_tcp_port"),
        (lambda: BootstrapConfig("a", 1, "http://r", poll_interval_ms=99), "poll_interval_ms"),
        (lambda: BootstrapConfig("a", 1, "http://r", max_peers_per_poll=101), "1-100"),
        (lambda: BootstrapConfig("a", 1, "http://r", max_peers_per_poll=0), "1-100"),
        (lambda: BootstrapConfig("a", 1, "http://r", token="a\nb"), "token"),
        (lambda: BootstrapConfig("a", 1, "http://r", "loud"), "pull_only, pull_and_announce"),  # type: ignore[arg-type]
        (
            lambda: make_http_bootstrap(
                BootstrapConfig("a", None, "http://r", BootstrapMode.PULL_AND_ANNOUNCE), lambda _: None
            ),
            "self_tcp_port",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


async def test_t48_a_registry_that_forgets_at_once_is_not_announced_to_without_pause(autojump: MockClock) -> None:
    registry = Registry(ttl_s=1)
    mine = config(registry, self_node_id="a", self_tcp_port=1, mode="pull_and_announce")
    async with make_http_bootstrap(mine, lambda _: None):
        times = await registry.times(5, "POST")
    assert all(b - a >= 1.5 for a, b in pairwise(times))


def test_vix_order_of_fields_and_a_secret_that_does_not_show() -> None:
    made = p2p.BootstrapConfig("a", 9101, "http://r:1/peers", p2p.BootstrapMode.PULL_AND_ANNOUNCE, 5000)
    assert (made.self_node_id, made.self_tcp_port, made.poll_interval_ms) == ("a", 9101, 5000)
    assert "hunter2" not in repr(BootstrapConfig(registry_url="http://r", token="hunter2"))


async def test_t64_a_clock_that_shows_a_time_before_1970_is_announced_as_its_beginning(autojump: MockClock) -> None:
    registry = Registry()
    mine = config(registry, self_node_id="a", self_tcp_port=9101, mode=BootstrapMode.PULL_AND_ANNOUNCE)
    async with HttpBootstrap(mine, lambda *_: None, clock=SimulatedClock(wall_start_ms=-86_400_000)):
        await registry.times(1, "POST")
    (body,) = [body for _, how, _, body in registry.asked if how == "POST"]
    assert body is not None
    assert read_announce(body).ts_ms == 0


async def test_a_registry_that_does_not_go_by_that_name_is_told_with_what_to_do(autojump: MockClock) -> None:
    registry, warned = Registry(), list[str]()
    registry.status = 421
    async with HttpBootstrap(config(registry), lambda *_: None, warn=warned.append):
        await registry.times(1)
        await trio.testing.wait_all_tasks_blocked()
    assert "421" in warned[0]
    assert "localhost" in warned[0]
