"""A writer lets others run, also where all it has to write is what a relay passes on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import trio

from p2p.limits import Limits
from p2p.peer.outbox import Outbox
from p2p.peer.outgoing import Outgoing
from p2p.session.states import State

WRITES = 40


class Lane:
    """Circuits with that many slices to pass on."""

    turns = 5 * WRITES
    legs = 1

    def __bool__(self) -> bool:
        return self.turns > 0

    def take(self) -> bytes:
        self.turns -= 1
        return bytes(16_000)


async def test_what_a_relay_passes_on_does_not_keep_others_from_running() -> None:
    limits, out, writes = Limits(), [], []

    def data_to_send() -> bytes:
        data = b"".join(out)
        out.clear()
        return data

    def send_nowait(data: bytes) -> int:
        writes.append(len(data))
        return len(data)

    link: Any = SimpleNamespace(
        _stream=SimpleNamespace(send_nowait=send_nowait),
        _limits=limits,
        _outbox=Outbox(limits),
        session=SimpleNamespace(
            state=State.LIVE, send=lambda kind, payload, flags=0: out.append(payload), data_to_send=data_to_send
        ),
        life=SimpleNamespace(vigil=None),
        _write_bytes=limits.write_bytes,
        _rest=None,
        _line=None,
        _parting=None,
        _traces=False,
    )
    link._next_bytes = lambda: Outgoing._next_bytes(link)
    link._outbox.relay = Lane()
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await Outgoing._write_until_empty(link)
        nursery.cancel_scope.cancel()
    assert len(writes) == WRITES
    assert turns >= WRITES // 2
