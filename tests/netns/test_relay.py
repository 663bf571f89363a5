"""Two hosts that reach nothing but relays: talk, questions and logs both ways, and not a word of it in the clear."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

import p2p
from tests.netns.apart import Member, Wires, why_not

pytestmark = pytest.mark.slow

KEY = "5e" * 32
SECRET = "attack-at-dawn"
RECORDS = int(os.environ.get("RELAY_TEST_RECORDS", "8000"))
"""Of each of the two. 100,000 is what the proof is made with."""


@pytest.fixture
def wires() -> Iterator[Wires]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    made = Wires(f"p2pr{os.getpid()}")
    try:
        yield made
    finally:
        made.remove()


def identity(data_dir: Path) -> str:
    """The peer id of a data dir, made with it."""

    async def run() -> str:
        async with p2p.open_node(node_id="x", data_dir=data_dir, listen_port=None) as node:
            return str(node.peer_id)

    return trio.run(run)


def lay(wires: Wires, relays: tuple[str, ...]) -> dict[str, list[str]]:
    """Hosts a and b, each with a wire to each relay; where each of them finds the relays."""
    for host in ("a", "b", *relays):
        wires.host(host)
    return {host: [wires.wire(host, relay) for relay in relays] for host in ("a", "b")}


def run_ends(wires: Wires, stack: ExitStack, tmp_path: Path, ways: dict[str, list[str]]) -> tuple[Member, Member]:
    ids = {host: identity(tmp_path / host) for host in ("a", "b")}
    members = []
    for host, other in (("a", "b"), ("b", "a")):
        settings: dict[str, Any] = {
            "node_id": host, "data_dir": str(tmp_path / host), "network_key": KEY, "listen_port": None,
            "via": [f"{address}:9001" for address in ways[host]], "peers": [f"relay://*/{ids[other]}"],
            "other": ids[other], "records": RECORDS, "secret": SECRET,
        }  # fmt: skip
        members.append(stack.enter_context(wires.member(host, **settings)))
    return members[0], members[1]


def run_relay(wires: Wires, stack: ExitStack, tmp_path: Path, relay: str) -> Member:
    settings = {"node_id": relay, "data_dir": str(tmp_path / relay), "network_key": KEY, "listen_port": 9001}
    member = stack.enter_context(wires.member(relay, relay=True, **settings))
    member.until("started")
    return member


def check_talk(*ends: Member) -> list[str]:
    """Both say what came; returns over what they are linked."""
    ways = []
    for end in ends:
        linked = end.until("linked")
        assert linked["direct"] is False
        ways.append(linked["endpoint"])
    for end in ends:
        talked = end.until("talked")
        assert talked["said"].startswith(f"{SECRET} from ")
        assert talked["answered"] == SECRET[::-1]
    return ways


def check_logs(first: Member, second: Member) -> None:
    """Both hold the same bytes of both logs."""
    held = [sorted(end.until("held")["sums"].values()) for end in (first, second)]
    assert held[0] == held[1]
    assert len(set(held[0])) == 2


def test_t72_two_hosts_behind_a_relay_that_sees_nothing(wires: Wires, tmp_path: Path) -> None:
    ways = lay(wires, ("r",))
    assert not wires.reaches("a", "10.78.2.1")
    assert not wires.reaches("b", "10.78.1.1")
    with ExitStack() as stack:
        stack.enter_context(wires.capture("r", tmp_path / "frames"))
        run_relay(wires, stack, tmp_path, "r")
        a, b = run_ends(wires, stack, tmp_path, ways)
        check_talk(a, b)
        for _ in range(2):
            for end in (a, b):
                end.until("written")
                end.go_on()
        check_logs(a, b)
    frames = (tmp_path / "frames").read_bytes()
    assert len(frames) > 2 * RECORDS * len(SECRET)
    assert SECRET.encode() not in frames
    assert SECRET[::-1].encode() not in frames
    assert b"backwards" not in frames
    # What the capture can see at all: the begin of a handshake is in the clear.
    assert b"VP2P" in frames


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_a_relay_is_gone_in_the_middle_and_another_takes_over(how: str, wires: Wires, tmp_path: Path) -> None:
    ways = lay(wires, ("r1", "r2"))
    with ExitStack() as stack:
        ids = {name: identity(tmp_path / name) for name in ("r1", "r2")}
        relays = {name: run_relay(wires, stack, tmp_path, name) for name in ids}
        a, b = run_ends(wires, stack, tmp_path, ways)
        used = check_talk(a, b)[0]
        for end in (a, b):
            end.until("written")
        getattr(relays[next(name for name in ids if ids[name] in used)], how)()
        for end in (a, b):
            end.go_on()
            end.until("written")
            end.go_on()
        check_logs(a, b)
