"""Which direct links are doubtful, by looks at links that only say what they are told to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import cast

import pytest
import trio
import trio.testing

from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.node.doubts import ASKED_PER_LOOK, TRIED_PER_LOOK, Doubts
from p2p.peer.connection import Connection
from p2p.windows import Clock

LIMITS = Limits()
TARGET, RELAY, OTHER = (PeerId(bytes([number]) * 32) for number in range(3))


class Link:
    """A direct link of which nothing is heard unless `hear` says so."""

    direct = is_live = True
    is_resting = is_writing = False

    def __init__(self, peer_id: PeerId) -> None:
        self.peer_id = peer_id
        self.session = SimpleNamespace(bytes_out=0)
        self.life = SimpleNamespace(moved_at=0.0)
        self.greeted = 0

    def greet(self) -> None:
        self.greeted += 1
        self.session.bytes_out += 30

    def send(self) -> None:
        self.session.bytes_out += 100

    def hear(self) -> None:
        self.life.moved_at = trio.current_time()


class Node:
    """Direct links, one of them to a relay, looked at as long as the nursery is open."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.link, self.relay, self.other = Link(TARGET), Link(RELAY), Link(PeerId(b"o" * 32))
        self.tried: list[tuple[float, list[PeerId]]] = []
        self.has_relay = trio.Event()
        self.doubts = Doubts(
            LIMITS,
            cast("Clock", SimpleNamespace(monotonic=trio.current_time)),
            nursery,
            links=lambda: cast("list[Connection]", [self.link, self.relay, self.other]),
            is_relay=lambda peer_id: peer_id in (RELAY, OTHER),
            relays_to=lambda target: [RELAY, OTHER] if target == TARGET else [],
            reach=self.reach,
            until_relay=self.has_relay.wait,
        )
        nursery.start_soon(self.doubts.run)

    async def reach(self, link: Connection, relays: list[PeerId]) -> None:
        assert cast("Link", link) is self.link
        self.tried.append((trio.current_time(), relays))
        await trio.lowlevel.checkpoint()

    async def pass_time(self, seconds: float, *heard: Link) -> None:
        over_by = trio.current_time() + seconds
        while trio.current_time() < over_by:
            for link in heard:
                link.hear()
            await trio.sleep(0.3)


@asynccontextmanager
async def beside_relay() -> AsyncIterator[Node]:
    """A node that has looked at its links already."""
    async with trio.open_nursery() as nursery:
        node = Node(nursery)
        node.has_relay.set()
        await node.pass_time(5)
        yield node
        nursery.cancel_scope.cancel()


async def test_a_link_on_which_something_was_sent_and_nothing_came_is_asked_and_then_gone_past(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with beside_relay() as node:
        await node.pass_time(100)
        assert (node.link.greeted, node.tried) == (0, []), "nothing was sent there"
        node.link.send()
        sent_at = trio.current_time()
        await node.pass_time(LIMITS.direct_look_s)
        assert node.link.greeted == 1
        await node.pass_time(LIMITS.direct_doubt_s + 2 * LIMITS.direct_look_s, node.relay)
        ((tried_at, relays),) = node.tried
        assert relays == [RELAY, OTHER]
        assert tried_at - sent_at <= LIMITS.direct_doubt_s + 2 * LIMITS.direct_look_s
        # It goes on, at the pace of other dials behind relays.
        await node.pass_time(2 * LIMITS.relay_redial_s_max, node.relay)
        assert len(node.tried) == 3
        assert node.link.greeted == 1
        assert len(node.doubts) == 1
        node.link.hear()
        await node.pass_time(100)
        assert len(node.doubts) == 0
        assert len(node.tried) == 3


async def test_a_relay_that_is_as_silent_is_not_tried(autojump_clock: trio.testing.MockClock) -> None:
    async with beside_relay() as node:
        node.link.send()
        await node.pass_time(LIMITS.direct_doubt_s + 3 * LIMITS.direct_look_s)
        assert node.tried == [], "it is our own wire"
        assert node.relay.greeted == 1
        node.other.peer_id = OTHER
        await node.pass_time(3 * LIMITS.direct_look_s, node.other)
        assert [relays for _, relays in node.tried] == [[OTHER]]


@pytest.mark.parametrize("why", ["it makes room", "it rests", "it ends", "it is a circuit"])
async def test_what_is_silent_for_a_reason_is_not_doubted(why: str, autojump_clock: trio.testing.MockClock) -> None:
    async with beside_relay() as node:
        node.link.is_writing = True
        node.link.is_resting = why == "it rests"
        node.link.is_live = why != "it ends"
        node.link.direct = why != "it is a circuit"
        for _ in range(20):
            # Less often than a look.
            if why == "it makes room":
                node.link.hear()
            await node.pass_time(4, node.relay)
        assert node.tried == []
        node.link.is_live = node.link.direct = True
        node.link.is_resting = False
        await node.pass_time(20, node.relay)
        assert len(node.tried) >= 1


async def test_a_node_without_a_relay_looks_at_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        node = Node(nursery)
        node.link.is_writing = True
        await node.pass_time(100)
        assert node.link.greeted == 0
        nursery.cancel_scope.cancel()


async def test_many_links_that_are_silent_at_once_cost_a_relay_one_ping_and_are_gone_past_a_few_at_a_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with beside_relay() as node:
        many = [Link(PeerId(b"%032d" % number)) for number in range(ASKED_PER_LOOK + TRIED_PER_LOOK)]
        tried: list[float] = []

        async def reach(_link: Connection, _relays: list[PeerId]) -> None:
            tried.append(trio.current_time())
            # For longer than until they are tried again.
            await trio.sleep(10 * LIMITS.relay_redial_s_max)

        node.doubts._links = lambda: cast("list[Connection]", [node.relay, *many])
        node.doubts._relays_to = lambda _: [RELAY]
        node.doubts._reach = reach
        await node.pass_time(3 * LIMITS.direct_look_s, node.relay)
        for link in many:
            link.send()
        await node.pass_time(LIMITS.direct_look_s)
        assert [link.greeted for link in many] == [1] * ASKED_PER_LOOK + [0] * (len(many) - ASKED_PER_LOOK)
        assert node.relay.greeted <= 1
        await node.pass_time(LIMITS.direct_doubt_s + 7 * LIMITS.direct_look_s, node.relay)
        assert {link.greeted for link in many} == {1}
        assert node.relay.greeted <= 1
        assert [tried.count(at) for at in sorted(set(tried))] == [TRIED_PER_LOOK] * 5
        await node.pass_time(3 * LIMITS.relay_redial_s_max, node.relay)
        assert len(tried) == len(many), "one at a time for each"
