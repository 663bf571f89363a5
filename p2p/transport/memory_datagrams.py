"""Datagrams in memory: what one host says to everybody, the others hear after the way's latency, if the way is open.

As the real thing: nothing is promised. A partition loses what is sent into it, an ear that is full drops what comes,
and a speaker hears itself. Every pair of hosts counts as near.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from p2p.ids import PeerEndpoint
from p2p.transport.base import Neighbourhood, Spread

if TYPE_CHECKING:
    from p2p.transport.memory import MemoryHost

EAR_DATAGRAMS_MAX: Final = 256
"""What waits in one ear; a kernel's buffer holds about as many."""


class MemoryDatagrams:
    """`Datagrams` of one host. Made by `MemoryHost.datagrams`.

    Attributes:
        dropped: datagrams that found the ear full.
    """

    __slots__ = ("_changed", "_closed", "_heard", "_host", "dropped", "near")

    def __init__(self, host: MemoryHost, near: Neighbourhood) -> None:
        self.near = near
        self.dropped = 0
        self._host = host
        self._heard: deque[tuple[float, bytes, PeerEndpoint]] = deque()
        self._changed = trio.lowlevel.ParkingLot()
        self._closed = False

    def spread(self, data: bytes) -> Spread:
        self._check_open()
        for ear, latency_s in self._host.ears_in_reach(self.near):
            source = "127.0.0.1" if self.near.loopback_only else self._host.name
            ear.hear(trio.current_time() + latency_s, data, PeerEndpoint(source, self.near.port, "mem"))
        return Spread(1)

    def missing(self) -> tuple[str, ...]:
        return ()

    def hear(self, at: float, data: bytes, source: PeerEndpoint) -> None:
        """Take a datagram that arrives at that time."""
        if len(self._heard) >= EAR_DATAGRAMS_MAX:
            self.dropped += 1
            return
        self._heard.append((at, data, source))
        self._changed.unpark_all()

    async def receive(self) -> tuple[bytes, PeerEndpoint]:
        await trio.lowlevel.checkpoint()
        while True:
            self._check_open()
            if not self._heard:
                await self._changed.park()
                continue
            # By arrival and not by order: a near host is not behind a far one.
            first = min(self._heard, key=lambda heard: heard[0])
            if first[0] <= trio.current_time():
                self._heard.remove(first)
                return first[1], first[2]
            with trio.move_on_at(first[0]):
                await self._changed.park()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Let the port go."""
        if not self._closed:
            self._closed = True
            self._host.forget_ear(self)
            self._heard.clear()
            self._changed.unpark_all()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("these datagrams were closed")
