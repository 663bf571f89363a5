from __future__ import annotations

import ipaddress
import socket
import sys
from pathlib import Path

import pytest

from p2p.ids import usual_host
from p2p.transport import interfaces as room
from p2p.transport.interfaces import interfaces


@pytest.mark.skipif(sys.platform != "linux", reason="the requests to the kernel are Linux's")
def test_loopback_is_there_with_its_broadcast() -> None:
    [loopback] = [one for one in interfaces() if one.is_loopback]
    assert loopback.address == "127.0.0.1"
    assert loopback.broadcast == "127.255.255.255"
    assert loopback.index == socket.if_nametoindex(loopback.name)


@pytest.mark.skipif(sys.platform != "linux", reason="the requests to the kernel are Linux's")
def test_addresses_are_each_there_once_and_on_one_interface() -> None:
    found = [address for one in interfaces() for address in one.addresses]
    assert "127.0.0.1" in found
    assert len(found) == len(set(found))
    assert all(usual_host(address) == address for address in found)


def test_what_cannot_be_learnt_of_addresses_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(asking: socket.socket) -> list[tuple[str, str]]:
        raise OSError("not now")

    monkeypatch.setattr(room, "_ipv4_addresses", refuse)
    monkeypatch.setattr(room, "_IPV6_ADDRESSES", tmp_path / "none")
    assert "127.0.0.1" in [one.address for one in interfaces()]


def test_every_address_is_one() -> None:
    for one in interfaces():
        for text in (one.address, one.broadcast):
            assert text is None or ipaddress.IPv4Address(text)


def test_an_interface_that_goes_while_it_is_looked_at_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room.socket, "if_nameindex", lambda: [(1, "lo"), (99, "gone0")])
    assert [one.name for one in interfaces()] == ["lo"]


@pytest.mark.skipif(sys.platform != "linux", reason="the requests to the kernel are Linux's")
def test_an_interface_without_ipv6_is_known_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lists = tmp_path / "if_inet6"
    monkeypatch.setattr(room, "_IPV6_ADDRESSES", lists)
    assert all(one.has_ipv6 for one in interfaces()), "nobody knows"
    lists.write_text("00000000000000000000000000000001 01 80 10 80       lo\n")
    [loopback] = [one for one in interfaces() if one.is_loopback]
    assert loopback.has_ipv6
    assert loopback.more == ("::1",)
    lists.write_text("fe80000000000000000000000000000a 02 40 20 80 a b\n")
    [loopback] = [one for one in interfaces() if one.is_loopback]
    assert not loopback.has_ipv6
    lists.write_text("00000000000000000000000000000001 01 80 10 c0       lo\n")
    [loopback] = [one for one in interfaces() if one.is_loopback]
    assert not loopback.has_ipv6, "nothing can be sent from an address that is tentative"
