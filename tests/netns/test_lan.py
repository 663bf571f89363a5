"""Nodes on several hosts of one LAN, that know nobody: no address, no name, no registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.netns.inside import Inside
from tests.netns.lan import Lan, lan

pytestmark = pytest.mark.slow


@pytest.fixture
def net() -> Iterator[Lan]:
    with lan() as made:
        yield made


def wait_for(process: Inside, count: int) -> list[str]:
    """The hosts of the peers, as soon as there are as many."""
    for line in process.stdout:
        peers: list[str] = json.loads(line)
        if len(peers) == count:
            return peers
    raise AssertionError("the node ended")


def run_hosts(net: Lan, stack: ExitStack, hosts: str, **settings: Any) -> list[Inside]:
    given = {"open": True} | settings
    return [stack.enter_context(net.participant(host, node_id=host, **given)) for host in hosts]


@pytest.mark.parametrize("mode", ["broadcast", "multicast"])
def test_three_hosts_find_each_other(net: Lan, mode: str) -> None:
    for host in "abc":
        net.host(host)
    with ExitStack() as stack:
        for process in run_hosts(net, stack, "abc", discovery={"mode": mode}):
            assert len(wait_for(process, 2)) == 2


def test_hosts_without_ipv4_find_each_other_by_ipv6(net: Lan) -> None:
    """And dial the link-local address that they hear, with its interface."""
    for host in "abc":
        net.host(host, ipv4=False)
    with ExitStack() as stack:
        for process in run_hosts(net, stack, "abc"):
            assert all(host.startswith("fe80::") for host in wait_for(process, 2))


def test_a_network_key_serves_as_well_and_one_without_it_stays_alone(net: Lan) -> None:
    for host in "abc":
        net.host(host)
    with ExitStack() as stack:
        stranger = run_hosts(net, stack, "c")
        members = run_hosts(net, stack, "ab", open=False, network_key="k" * 32)
        for process in members:
            wait_for(process, 1)
        assert wait_for(stranger[0], 0) == []


def test_a_node_that_lets_nobody_in_says_nothing_to_others(net: Lan) -> None:
    for host in "abc":
        net.host(host)
    with ExitStack() as stack:
        closed = run_hosts(net, stack, "c", open=False)
        for process in run_hosts(net, stack, "ab"):
            wait_for(process, 1)
        assert wait_for(closed[0], 0) == []


@pytest.mark.parametrize("mode", ["broadcast", "multicast"])
def test_a_node_that_uses_another_interface_does_not_hear_this_one(net: Lan, mode: str) -> None:
    for host in "abc":
        net.host(host)
    with ExitStack() as stack:
        deaf = run_hosts(net, stack, "c", discovery={"mode": mode, "interfaces": ["lo"]})
        for process in run_hosts(net, stack, "ab", discovery={"mode": mode}):
            wait_for(process, 1)
        assert wait_for(deaf[0], 0) == []


def test_a_host_with_more_interfaces_than_a_socket_may_join_hears_by_the_last_one(net: Lan) -> None:
    # By IPv4 alone, which has the bound: where both families are spoken, either may be heard first.
    net.host("a", ipv6=False)
    net.host("b", elsewhere=12)
    with ExitStack() as stack:
        multicast = {"mode": "multicast"}
        run_hosts(net, stack, "a", discovery=multicast, dial=False)
        assert wait_for(run_hosts(net, stack, "b", discovery=multicast)[0], 1) == ["10.77.0.1"]


@pytest.mark.parametrize("address", ["10.77.0.101", "fd77::101"])
def test_a_node_that_listens_at_a_further_address_is_found_there(net: Lan, address: str) -> None:
    for number, host in enumerate("ab"):
        net.host(host)
        net.add_address(host, f"fd77::{number + 1}/64")
    net.add_address("a", f"{address}/{64 if ':' in address else 24}")
    with ExitStack() as stack:
        run_hosts(net, stack, "a", listen_host=address, dial=False)
        assert wait_for(run_hosts(net, stack, "b")[0], 1) == [address]


def test_a_cable_that_is_plugged_in_later_is_used(net: Lan) -> None:
    net.host("a")
    net.host("b", is_up=False)
    with ExitStack() as stack:
        first, second = run_hosts(net, stack, "ab")
        wait_for(second, 0)
        net.set_link("b", "up")
        assert wait_for(first, 1)
        assert wait_for(second, 1)
