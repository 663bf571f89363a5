"""POST connect leads nowhere that only this machine can reach (threat T49)."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import trio
from trio.abc import HostnameResolver

import p2p
from tests.http.controlled import controlled, one_controlled


class Names(HostnameResolver):
    """A name server of the attacker's, which answers with another address each time."""

    def __init__(self, answers: list[list[str]]) -> None:
        self.answers = answers
        self.asked = 0

    async def getaddrinfo(self, host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        await trio.lowlevel.checkpoint()
        found = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, int(port))) for address in found]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise OSError("nobody asks")


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "0.0.0.0", "::", "::ffff:169.254.169.254", "fe80::1", "224.0.0.1", "255.255.255.255"],
)
async def test_t49_addresses_that_lead_nowhere_good_look_like_places_where_nothing_listens(host: str) -> None:
    async with one_controlled() as a:
        refused = await a.post("/connect", {"host": host, "port": 80}, 502)
        nothing = await a.post("/connect", {"host": "127.0.0.1", "port": 1}, 502)
        assert refused["error"] == nothing["error"] == "connect_failed"
        assert refused["reason"] == nothing["reason"] == "refused"
        assert set(refused) == set(nothing)


@pytest.mark.parametrize("host", ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "127.1", "0x7f000001"])
async def test_t49_addresses_in_disguise_are_judged_by_where_they_lead(host: str) -> None:
    async with one_controlled(dial_loopback=False) as a:
        answer = await a.client.post("/p2p/connect", json={"host": host, "port": a.node.endpoints[0].port})
        assert answer.status_code in {400, 502}
        assert answer.json().get("reason", "refused") in {"refused", "unresolved"}
        assert a.node.stats().handshakes_started == 0


async def test_t49_the_door_it_came_in_by_is_not_dialled() -> None:
    async with one_controlled() as a:
        port = int(a.url.rpartition(":")[2])
        for host, reason in (("127.0.0.1", "refused"), ("localhost", "refused"), ("::ffff:127.0.0.1", "backoff")):
            answer = await a.post("/connect", {"host": host, "port": port}, 502)
            assert answer["reason"] == reason, "the last is the first in another spelling"
        assert a.node.stats().connect_attempts == 0


async def test_t49_no_other_door_of_the_node_is_dialled_either() -> None:
    async with one_controlled() as a, controlled(a.node, prefix="/other") as other:
        for door in (a.url, other.url):
            answer = await a.post("/connect", {"host": "127.0.0.1", "port": int(door.rpartition(":")[2])}, 502)
            assert answer["reason"] == "refused"
        assert a.node.stats().connect_attempts == 0


async def test_t49_loopback_only_if_it_may_be() -> None:
    async with p2p.open_node(node_id="b") as b:
        async with one_controlled(dial_loopback=False) as a:
            assert (await a.post("/connect", {"endpoint": str(b.endpoints[0])}, 502))["reason"] == "refused"
        async with one_controlled() as a:
            assert (await a.post("/connect", {"endpoint": str(b.endpoints[0])}))["connected"]


async def test_t49_a_name_is_resolved_once_and_dialled_as_judged() -> None:
    async with p2p.open_node(node_id="b") as b, one_controlled() as a:
        # The second answer would lead elsewhere: nobody may ask for it.
        names = Names([["127.0.0.1"], ["169.254.169.254"]])
        trio.socket.set_custom_hostname_resolver(names)
        try:
            answer = await a.post("/connect", {"host": "rebound.example", "port": b.endpoints[0].port})
            assert names.asked == 1
            assert answer["endpoint"] == f"tcp://rebound.example:{b.endpoints[0].port}"
            assert answer["peer"]["endpoint"] == str(b.endpoints[0])
            names = Names([["169.254.169.254", "224.0.0.1"]])
            trio.socket.set_custom_hostname_resolver(names)
            refused = await a.post("/connect", {"host": "metadata.example", "port": 80}, 502)
            assert refused["reason"] == "refused"
            assert "169.254" not in str(refused)
            assert names.asked == 1
        finally:
            trio.socket.set_custom_hostname_resolver(None)


async def test_t49_websocket_shows_the_name_and_dials_what_was_judged() -> None:
    async with p2p.open_node(node_id="b", listen_ws_port=0) as b, one_controlled() as a:
        port = next(place.port for place in b.endpoints if place.scheme == "ws")
        names = Names([["169.254.169.254", "127.0.0.1"], ["169.254.169.254"]])
        trio.socket.set_custom_hostname_resolver(names)
        try:
            answer = await a.post("/connect", {"endpoint": f"ws://rebound.example:{port}"})
        finally:
            trio.socket.set_custom_hostname_resolver(None)
        assert names.asked == 1
        assert answer["peer"]["endpoint"] == f"ws://rebound.example:{port}"


async def test_t49_what_listens_there_is_told_nothing_and_tells_nothing() -> None:
    heard: list[bytes] = []
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]

    async def inside(stream: trio.SocketStream) -> None:
        async with stream:
            heard.append(bytes(await stream.receive_some(4096)))
            await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\nthe inside's secret")

    async with trio.open_nursery() as nursery, one_controlled() as a:
        nursery.start_soon(trio.serve_listeners, inside, listeners)
        answer = await a.client.post("/p2p/connect", json={"host": "127.0.0.1", "port": port})
        assert answer.status_code == 502
        assert "secret" not in answer.text
        assert heard
        assert b"HTTP" not in heard[0]
        assert b"127.0.0.1" not in heard[0]
        nursery.cancel_scope.cancel()


async def test_a_label_does_not_stand_for_whom_is_expected() -> None:
    async with (
        one_controlled() as a,
        p2p.open_node(node_id="bob") as other,
        p2p.open_node(node_id="bob") as bob,
    ):
        await a.post("/connect", {"endpoint": str(other.endpoints[0])})
        # Somebody who calls himself bob is connected; another bob is meant, and dialled.
        answer = await a.post("/connect", {"endpoint": str(bob.endpoints[0]), "expect": "bob"})
        assert answer["peer"]["id"] == str(bob.peer_id)
        again = await a.post("/connect", {"endpoint": "tcp://127.0.0.1:1", "expect": str(other.peer_id)}, 409)
        assert again["error"] == "already_connected"
