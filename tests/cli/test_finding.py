"""What the flags say about finding others, and that nodes do find each other by them."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from p2p.cli.finding import bootstrap_of, discovery_of
from p2p.cli.settings import UsageError, from_environment, from_flags, settle
from p2p.errors import ConfigError
from p2p.node.bootstrap import BootstrapMode
from p2p.node.discovery import DiscoveryMode
from tests.cli.processes import Running, p2p_refuses, running
from tests.ports import free_port
from tests.registries import registry


def said(**flags: Any) -> dict[str, Any]:
    """What reaches the rooms of what was given as flags."""
    settings = settle(from_flags({"id": "A", **flags}), from_environment({}), from_flags({}), {"HOME": "/home/a"})
    return dict(settings.finding)


def test_discovery_is_on_unless_told_otherwise() -> None:
    plain = discovery_of(said())
    assert plain is not None
    assert (plain.discovery_port, plain.mode, plain.announce_interval_ms) == (37020, DiscoveryMode.BROADCAST, 2000)
    assert discovery_of(said(discovery="off", disc_port=4000)) is None
    other = discovery_of(said(disc_port=4000, disc_mode="multicast", disc_interval=10_000))
    assert other is not None
    assert (other.discovery_port, other.mode, other.announce_interval_ms) == (4000, DiscoveryMode.MULTICAST, 10_000)
    assert other.seen_ttl_ms == 30_000, "who is heard every ten seconds does not expire in between"


def test_a_registry_is_asked_as_soon_as_one_is_named() -> None:
    assert bootstrap_of(said()) is None
    config = bootstrap_of(said(registry="http://127.0.0.1:8470"))
    assert config is not None
    assert (config.mode, config.poll_interval_ms) == (BootstrapMode.PULL_AND_ANNOUNCE, 15_000)
    assert config.self_tcp_port is None, "the port that the node listens on"
    assert bootstrap_of(said(registry="http://127.0.0.1:8470", bootstrap="off")) is None
    served = bootstrap_of(said(registry="http://127.0.0.1:8470"), own_ports=(8080,))
    assert served is not None
    assert served.own_ports == (8080,), "no registry aims a node at its own control"
    quiet = bootstrap_of(said(registry="http://127.0.0.1:8470", announce="off", boot_interval=500))
    assert quiet is not None
    assert (quiet.mode, quiet.poll_interval_ms) == (BootstrapMode.PULL_ONLY, 500)


@pytest.mark.parametrize("text", ["shop.example:4000", "[2001:db8::1]:4000", "4000", "192.0.2.1:4000"])
def test_the_advertised_port_is_announced(text: str) -> None:
    config = bootstrap_of(said(registry="https://registry.example", advertise=text))
    assert config is not None
    assert config.self_tcp_port == 4000


@pytest.mark.parametrize(
    ("text", "scheme"),
    [("shop.example:443", None), ("tcp://shop.example:443", "tcp"), ("ws://shop.example:443/", "ws"),
     ("wss://192.0.2.1:443", "wss"), ("wss://443", "wss"), ("wss://[2001:db8::1]:443", "wss")],
)  # fmt: skip
def test_the_advertised_scheme_is_announced(text: str, scheme: str | None) -> None:
    config = bootstrap_of(said(registry="https://registry.example", advertise=text))
    assert config is not None
    assert (config.self_scheme, config.self_tcp_port) == (scheme, 443)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("wss://shop.example:443", "no certificate for the name shop.example"),
        ("ws://shop.example:80/p2p", "lists no path"),
        ("http://shop.example:80", "tcp://, ws:// or wss://"),
        ("relay://a/b", "tcp://, ws:// or wss://"),
        ("ws://me@shop.example:80", "HOST:PORT"),
    ],
)
def test_what_no_registry_can_list_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        bootstrap_of(said(registry="https://registry.example", advertise=text))


@pytest.mark.parametrize(
    "words", [{"advertise": "4000"}, {"registry_token_file": "f"}, {"boot_interval": 500}, {"announce": "off"}]
)
def test_how_to_use_a_registry_means_nothing_without_one(words: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="name it with --registry URL"):
        bootstrap_of(said(**words))


@pytest.mark.parametrize(
    ("words", "idle", "switch"),
    [
        ({"discovery": "off", "disc_port": 4000}, "--disc-port", "--discovery off"),
        ({"registry": "http://h", "announce": "off", "advertise": "h:1"}, "--advertise", "--announce off"),
    ],
)
def test_what_another_word_leaves_without_effect_is_told(
    words: dict[str, Any], idle: str, switch: str, caplog: pytest.LogCaptureFixture
) -> None:
    discovery_of(said(**words))
    bootstrap_of(said(**words))
    assert caplog.messages == [f"{idle}: without effect, for {switch} is given, too"]


def test_what_is_refused_is_not_warned_of_first(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UsageError):
        bootstrap_of(said(advertise="shop.example:443"))
    assert caplog.messages == []


@pytest.mark.parametrize(("text", "lines"), [("shop.example:443", 1), ("ws://192.0.2.1:80", 1), ("443", 0)])
def test_that_a_host_is_not_announced_is_told(text: str, lines: int, caplog: pytest.LogCaptureFixture) -> None:
    bootstrap_of(said(registry="https://registry.example", advertise=text))
    assert len(caplog.messages) == lines
    assert all("the address that this node's requests come from" in line for line in caplog.messages)


def test_an_authority_named_for_others_is_that_of_the_registry_too() -> None:
    config = bootstrap_of(said(registry="https://registry.example"), ca_file=Path("ca.pem"))
    assert config is not None
    assert config.ca_file == Path("ca.pem")


@pytest.mark.parametrize("text", ["shop.example", "0", "h:0", "h:x", "h:70000", "a b:4000"])
def test_what_cannot_be_advertised_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--advertise"):
        bootstrap_of(said(registry="https://registry.example", advertise=text))


def test_a_token_comes_from_a_file_that_others_cannot_read(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("0123456789abcdef\n")
    file.chmod(0o600)
    config = bootstrap_of(said(registry="https://registry.example", registry_token_file=str(file)))
    assert config is not None
    assert config.token == "0123456789abcdef"
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        bootstrap_of(said(registry="https://registry.example", registry_token_file=str(file)))


INTERVAL = "it takes milliseconds, a whole number from 100 to 86400000"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--bootstrap", "on"], "--registry URL"),
        (["--registry", "ftp://x"], "--registry"),
        (["--registry", "http://127.0.0.1:1", "--registry", "http://127.0.0.1:2"], "--registry is given 2 times"),
        (["--registry", "nonsense"], "p2p: --registry: "),
        (["--registry", "http://127.0.0.1:1", "--boot-interval", "0"], f"--boot-interval 0: {INTERVAL}"),
        (["--registry", "http://127.0.0.1:1", "--boot-interval", "-5"], f"--boot-interval -5: {INTERVAL}"),
        (["--discovery", "on", "--disc-interval", "1"], f"--disc-interval 1: {INTERVAL}"),
        (["--disc-port", "0"], "--disc-port 0: it takes a port"),
        (["--disc-mode", "shouting"], "--disc-mode"),
        (["--registry", "http://127.0.0.1:1", "--advertise", "x"], "--advertise 'x'"),
    ],
)
async def test_wrong_values_are_usage(arguments: list[str], part: str) -> None:
    assert part in p2p_refuses("--id", "A", "--memory", *arguments)


async def connected(*nodes: Running) -> None:
    for node in nodes:
        await node.until(lambda event: event.get("peers_connected", 0) >= len(nodes) - 1)


async def test_nodes_that_know_nobody_find_each_other() -> None:
    port = str(free_port("127.255.255.255", socket.SOCK_DGRAM))
    options = ["--memory", "--discovery", "on", "--disc-port", port, "--disc-interval", "100"]
    async with running("--id", "A", *options) as a, running("--id", "B", *options) as b:
        await connected(a, b)
        # Who dials nobody is found, and finds nobody: two such do not meet.
        async with running("--id", "C", *options, "--no-connect") as c:
            await connected(a, b, c)
            stats = await c.until(lambda event: event.get("peers_connected") == 2)
            assert stats["connect_attempts"] == 0


async def test_nodes_that_know_only_a_registry_find_each_other() -> None:
    async with registry() as url:
        options = ["--memory", "--registry", url, "--boot-interval", "200"]
        async with running("--id", "A", *options) as a, running("--id", "B", *options) as b:
            await connected(a, b)
