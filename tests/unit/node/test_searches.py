"""Searches for a way: shared, paced, and independent of who asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import cast

import pytest
import trio
import trio.testing

from p2p.errors import ConnectFailed, NodeClosed, NotConnected, Reason
from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.node.searches import Searches
from p2p.peer.connection import Connection

TARGET, SILENT, HONEST, LIAR = (PeerId(bytes([number]) * 32) for number in range(4))
LINK = cast("Connection", object())


def at(relays: list[PeerId]) -> Callable[[PeerId], list[PeerId]]:
    """What leads to whoever it is."""
    return lambda target: relays


class Ways:
    """Relays of three kinds, and who was asked when."""

    def __init__(self, nursery: trio.Nursery, slow_s: float = 1.0) -> None:
        self.slow_s = slow_s
        self.asked: list[tuple[PeerId, float]] = []
        self.failed: list[tuple[PeerId, Reason]] = []
        self.searches = Searches(nursery, Limits(), self.dial, lambda _, relay, why: self.failed.append((relay, why)))

    async def dial(self, target: PeerId, relay: PeerId) -> Connection:
        self.asked.append((relay, trio.current_time()))
        if relay == SILENT:
            await trio.sleep(Limits().dial_s_max)
            raise ConnectFailed(Reason.TIMEOUT, "")
        if relay == LIAR:
            raise ConnectFailed(Reason.NO_ROUTE, "")
        await trio.sleep(self.slow_s)
        return LINK


async def test_a_silent_relay_costs_a_moment_and_not_the_patience_of_a_dial(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        ways, begun = Ways(nursery), trio.current_time()
        assert await ways.searches.link_to(TARGET, at([LIAR, SILENT, HONEST])) is LINK
        assert trio.current_time() - begun == pytest.approx(Limits().relay_next_s + 1)
        assert ways.failed == [(LIAR, Reason.NO_ROUTE), (SILENT, Reason.TIMEOUT)]
        assert not ways.searches


async def test_the_last_relay_has_all_the_time_that_a_dial_may_take(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        ways = Ways(nursery, slow_s=9)
        assert await ways.searches.link_to(TARGET, at([SILENT, HONEST])) is LINK


async def test_why_no_relay_led_there_is_told(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(NotConnected, match=rf"over {LIAR.short} \(no_route\), {SILENT.short} \(timeout\)"):
            await Ways(nursery).searches.link_to(TARGET, at([LIAR, SILENT]))


async def test_who_asks_at_the_same_time_shares_a_search(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        ways = Ways(nursery)
        async with trio.open_nursery() as asking:
            for _ in range(5):
                asking.start_soon(ways.searches.link_to, TARGET, at([SILENT, HONEST]))
        assert [relay for relay, _ in ways.asked] == [SILENT, HONEST]


async def test_a_search_goes_on_when_whoever_asked_has_gone(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        ways = Ways(nursery, slow_s=2.5)
        for _ in range(4):
            with trio.move_on_after(1) as impatient:
                await ways.searches.link_to(TARGET, at([HONEST]))
            if not impatient.cancelled_caught:
                break
        assert [relay for relay, _ in ways.asked] == [HONEST]
        assert trio.current_time() - ways.asked[0][1] == 2.5


async def test_many_that_nobody_waits_for_are_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        ways, most = Ways(nursery, slow_s=60), Limits().searches_unasked_max
        async with trio.open_nursery() as asking:
            for number in range(most + 10):
                asking.start_soon(ways.searches.link_to, PeerId(bytes([9, number]) * 16), at([HONEST]))
            await trio.testing.wait_all_tasks_blocked()
            asking.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert len(ways.searches) == most
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("leaves_at", [1, 3, None])
async def test_who_dials_over_a_relay_that_he_names_waits_for_no_search_that_nobody_waits_for(
    leaves_at: float | None, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        ways = Ways(nursery)

        @nursery.start_soon
        async def ask() -> None:
            with trio.move_on_at(leaves_at if leaves_at is not None else float("inf")), suppress(NotConnected):
                await ways.searches.link_to(TARGET, at([SILENT]))

        await trio.sleep(2)
        with ways.searches.aside(TARGET), ways.searches.aside(LIAR):
            assert bool(ways.searches) is (leaves_at != 1)
            await trio.sleep(1.5)
            assert bool(ways.searches) is (leaves_at is None)
        # Afterwards one goes on again when whoever asked has gone.
        with trio.move_on_after(1):
            await ways.searches.link_to(HONEST, at([SILENT]))
        assert len(ways.searches) == 1 + (leaves_at is None)


async def test_who_waits_has_the_link_that_came_by_another_way(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        ways, begun, relays = Ways(nursery), trio.current_time(), [SILENT]

        @nursery.start_soon
        async def other_side_dials() -> None:
            await trio.sleep(1)
            ways.searches.found(TARGET, LINK)
            ways.searches.found(TARGET, LINK)

        assert await ways.searches.link_to(TARGET, at(relays)) is LINK
        relays.append(HONEST)
        assert trio.current_time() - begun == 1
        assert not ways.searches
    # The other side may keep what was being dialled: that had a moment more, and nobody else was asked.
    assert trio.current_time() - begun == 1 + Limits().probe_s_max
    assert [relay for relay, _ in ways.asked] == [SILENT]
    assert ways.failed == []


async def test_who_is_parted_from_is_not_dialled_on_though_he_was_found(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        ways, begun = Ways(nursery), trio.current_time()
        nursery.start_soon(ways.searches.link_to, TARGET, at([SILENT]))
        await trio.testing.wait_all_tasks_blocked()
        ways.searches.found(TARGET, LINK)
        ways.searches.give_up(HONEST)
        ways.searches.give_up(TARGET)
    assert trio.current_time() == begun


@pytest.mark.parametrize("turns_up_s", [1.0, 6.0])
async def test_a_relay_that_turns_up_meanwhile_is_asked_too(
    turns_up_s: float, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        ways, relays, begun = Ways(nursery), [SILENT], trio.current_time()

        @nursery.start_soon
        async def turn_up() -> None:
            await trio.sleep(turns_up_s)
            relays.extend((LIAR, HONEST))
            ways.searches.relays_changed()

        assert await ways.searches.link_to(TARGET, at(relays)) is LINK
        assert [relay for relay, _ in ways.asked] == [SILENT, LIAR, HONEST]
        assert trio.current_time() - begun == max(turns_up_s, Limits().relay_next_s) + 1


async def test_a_search_ends_where_nobody_is_to_be_connected(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        ways = Ways(nursery)
        nursery.start_soon(refused, ways.searches, "given up")
        await trio.testing.wait_all_tasks_blocked()
        ways.searches.give_up(TARGET)
        ways.searches.give_up(SILENT)


async def test_a_node_that_stops_ends_its_searches(autojump_clock: trio.testing.MockClock) -> None:
    async def dial(target: PeerId, relay: PeerId) -> Connection:
        raise NodeClosed

    async with trio.open_nursery() as nursery:
        dial_: Callable[[PeerId, PeerId], Awaitable[Connection]] = dial
        await refused(Searches(nursery, Limits(), dial_, lambda *_: None), "has stopped")


async def refused(searches: Searches, why: str) -> None:
    with pytest.raises(NotConnected, match=why):
        await searches.link_to(TARGET, at([HONEST]))
