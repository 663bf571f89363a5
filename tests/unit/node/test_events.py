"""Streams of events: what a slow reader loses, and what comes when no more will."""

from __future__ import annotations

import pytest
import trio

from p2p.errors import NodeClosed
from p2p.ids import PeerId
from p2p.node.events import EventFeed, OwnLogAhead, QuotaReached


async def test_a_slow_reader_loses_the_oldest_and_can_see_how_many() -> None:
    feed = EventFeed(queue_max=2)
    async with feed.open() as slow:
        for seq in range(5):
            feed.emit(OwnLogAhead(seq))
        assert slow.dropped == 3
        assert [await anext(slow), await anext(slow)] == [OwnLogAhead(3), OwnLogAhead(4)]
        feed.emit(OwnLogAhead(5))
        assert slow.dropped == 3


async def test_who_opens_a_stream_after_the_stop_is_told_and_does_not_wait() -> None:
    feed = EventFeed(queue_max=2)
    early = feed.open()
    async with early:
        feed.emit(QuotaReached(PeerId(bytes(32))))
        feed.close()
        assert await anext(early) == QuotaReached(PeerId(bytes(32)))
    late = feed.open()
    with trio.fail_after(30):
        for stream in (early, late):
            async with stream:
                with pytest.raises(NodeClosed):
                    await anext(stream)
