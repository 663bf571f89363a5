"""What a new link costs a node that has many."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from pathlib import Path
from types import FrameType

from trio.testing import MockClock

import p2p
from p2p.transport.memory import MemoryNetwork

OURS = str(Path(p2p.__file__).parent)


async def calls_of_a_link(beside: int) -> int:
    """How many calls and turns of generators of ours a link takes, from dial to end, at a node with so many others.

    The least of a few links: tasks that are ready at the same time run in any order.
    """
    calls = 0

    def on_call(frame: FrameType, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(OURS)

    net = MemoryNetwork()
    async with AsyncExitStack() as stack:

        async def there(name: str, port: int | None = None) -> p2p.Node:
            opened = p2p.open_node(
                node_id=name, network=net.network_for(name), listen_port=port, open=True, max_peers=256
            )
            return await stack.enter_async_context(opened)

        hub = await there("hub", 1)
        for number in range(beside):
            await (await there(f"n{number}")).connect("mem://hub:1")
        last = await there("last")
        counted = []
        for _ in range(6):
            calls, before = 0, sys.getprofile()
            sys.setprofile(on_call)
            try:
                await last.disconnect(await last.connect("mem://hub:1"))
            finally:
                sys.setprofile(before)
            counted.append(calls)
        assert len(hub.peers()) == beside
    return min(counted)


async def test_a_new_link_asks_nothing_of_each_that_is_there(autojump_clock: MockClock) -> None:
    few, many = await calls_of_a_link(3), await calls_of_a_link(63)
    assert few > 100
    # A look at each of the 60 more would be a call at the least.
    assert many < few + 60
