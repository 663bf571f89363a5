"""The settings of a node: what is refused, and where the store comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

import p2p
from p2p.crypto.identity import Identity
from p2p.store.memory import MemoryStore

ME = Identity.generate(lambda size: bytes(range(size)))


def test_a_store_of_ones_own_brings_its_identity() -> None:
    store = MemoryStore(ME.peer_id)
    config = p2p.NodeConfig(node_id="a", store=lambda _say: (store, ME))
    assert config.open_store(print) == (store, ME)
    assert not config.is_ephemeral


@pytest.mark.parametrize("other", [{"data_dir": Path("a")}, {"data_dir": Path("a"), "identity": ME}])
def test_a_store_of_ones_own_stands_alone(other: dict[str, object]) -> None:
    with pytest.raises(p2p.ConfigError, match="store brings its own"):
        p2p.NodeConfig(node_id="a", store=lambda _say: (MemoryStore(ME.peer_id), ME), **other)  # type: ignore[arg-type]


def test_only_what_forgets_is_ephemeral(tmp_path: Path) -> None:
    assert p2p.NodeConfig(node_id="a").is_ephemeral
    assert not p2p.NodeConfig(node_id="a", data_dir=tmp_path / "a").is_ephemeral


def test_t56_no_key_is_shown_with_the_settings() -> None:
    key = bytes(range(65, 97))
    shown = repr(p2p.NodeConfig(node_id="a", network_key=key))
    assert "node_id='a'" in shown
    assert not any(form in shown for form in (repr(key)[2:-1], key.hex(), "network_key"))


async def test_what_a_store_of_ones_own_holds_survives_its_node() -> None:
    store = MemoryStore(ME.peer_id)
    for expected in (1, 2):
        async with p2p.open_node(node_id="a", store=lambda _say: (store, ME)) as node:
            assert node.peer_id == ME.peer_id
            assert await node.wal.append(b"x") == expected


@pytest.mark.parametrize("age_s", [0, -1, float("inf"), float("nan")])
def test_an_age_that_is_none_is_refused(age_s: float) -> None:
    with pytest.raises(p2p.ConfigError, match="expire_after_s"):
        p2p.NodeConfig(node_id="a", expire_after_s=age_s)


@pytest.mark.parametrize(
    ("name", "value"),
    [("read_bytes", -1), ("read_bytes", "x"), ("max_peers", 1.5), ("dial_s_max", float("nan")), ("dial_s_max", True)],
)
def test_bounds_that_measure_nothing_are_refused(name: str, value: object) -> None:
    with pytest.raises(p2p.ConfigError, match=f"Limits.{name} is"):
        p2p.NodeConfig(node_id="a", limits=p2p.Limits(**{name: value}))  # type: ignore[arg-type]  # what is refused
    assert p2p.NodeConfig(node_id="a", limits=p2p.Limits(dial_s_max=3, recent_batches_bytes=0)).limits.dial_s_max == 3


@pytest.mark.parametrize("given", ["home.key", "ab" * 32, b"ab" * 32 + b"\n", Path("home.key")])
def test_what_is_no_network_key_is_told_how_the_file_of_one_is_read(given: object) -> None:
    with pytest.raises(p2p.ConfigError, match=r"bytes.fromhex\(Path\(FILE\).read_text\(\)\)"):
        p2p.NodeConfig(node_id="a", network_key=given)  # type: ignore[arg-type]  # what is refused
    key = bytes.fromhex("ab" * 32 + "\n")
    assert p2p.NodeConfig(node_id="a", network_key=key).network_key == key
