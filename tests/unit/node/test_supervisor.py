"""What a supervisor does with what links leave, between two nodes in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import trio

import p2p
from p2p.msg import encode_data
from p2p.transport.memory import MemoryNetwork
from tests.unit.node.nodes import place_of, small_and_large

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_what_was_kept_for_a_peer_and_finds_no_room_on_its_next_link_is_told_as_lost(
    autojump_clock: MockClock,
) -> None:
    async with (
        small_and_large(MemoryNetwork(), limits=replace(p2p.Limits(), outbox_messages_max=4)) as (small, large),
        large.channel("x") as inbox,
    ):
        assert small._rooms is not None
        kept = tuple(encode_data(b"x", 0, 0, b"%d" % number) for number in range(10))
        assert small._rooms.supervisor._carried_over.keep(large.peer_id, kept) is not None
        await small.connect(place_of(large))
        received = 0
        with trio.move_on_after(5):
            while True:
                assert (await inbox.receive()).body == b"%d" % received
                received += 1
        assert received == 4
        assert small.counters.messages_unsent == 10 - received
