"""The circuits of a node between links that a test holds in its hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from p2p.errors import ConnectFailed, Reason
from p2p.ids import RELAY, PeerEndpoint, PeerId
from p2p.limits import KIB, Limits
from p2p.msg import Relay
from p2p.node.circuits import CAPABILITY, HOP, Circuits
from p2p.node.roster import Roster
from p2p.policy.pins import Pins
from p2p.relay.leg import Lane
from p2p.windows import SimulatedClock

if TYPE_CHECKING:
    from p2p.transport.circuit import CircuitStream

OWN, RELAY_ID, TARGET = (PeerId(name * 32) for name in (b"o", b"r", b"t"))


class Link:
    """A link to a relay, as far as circuits see it."""

    def __init__(self) -> None:
        self.peer_id = RELAY_ID
        self.label = None
        self.direct = True
        self.dialed_by_us = True
        self.reason = None
        self.session = SimpleNamespace(peer_capabilities={CAPABILITY: HOP})
        self.lane: Lane | None = None
        self.flushed_next: list[Link] = []

    def carry(self, lane: Lane | None) -> None:
        self.lane = lane

    def flush_circuits(self) -> None:
        """What waits is taken by the test."""

    def flush_next(self, link: Link) -> None:
        """As if it were amid what one read brought."""
        self.flushed_next.append(link)

    def said(self) -> list[Relay]:
        """What was to be said since the last time."""
        assert self.lane is not None
        return [Relay.decode(self.lane.take()) for _ in iter(lambda: bool(self.lane), False)]


def circuits_with(
    link: Link,
    limits: Limits,
    serve: Callable[[CircuitStream], bool] = lambda _stream: False,
    *,
    relays: bool = False,
) -> Circuits:
    circuits = Circuits(
        OWN, limits, SimulatedClock(), Roster(OWN, limits), Pins(limits, strong={}, weak={}),
        relays=relays, takes=True, next_hop=lambda _target, _asking: None,
        dead_end=lambda _found: None, ttl_to=lambda _target, _relay: None,
    )  # fmt: skip
    circuits.serve_with(serve, lambda _end: None)
    circuits.link_up(link)  # type: ignore[arg-type]  # a stand-in
    return circuits


@pytest.mark.parametrize("how", ["cancelled", "too long"])
async def test_a_dial_through_a_relay_that_is_given_up_ends_its_circuit(
    how: str, autojump_clock: trio.testing.MockClock
) -> None:
    link = Link()
    circuits = circuits_with(link, Limits())

    async def dial() -> None:
        with trio.move_on_after(1 if how == "cancelled" else math.inf):
            with pytest.raises(ConnectFailed, match="not taken within"):
                await circuits.connect(PeerEndpoint(str(RELAY_ID), 0, RELAY, str(TARGET)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        while not link.lane:
            await trio.lowlevel.checkpoint()
        assert [message.kind for message in link.said()] == [Relay.OPEN, Relay.WINDOW]
    assert [message.kind for message in link.said()] == [Relay.REFUSED]
    assert circuits.stats.ends == 0


async def test_t72_what_one_relay_may_bring_is_bounded_and_what_proved_itself_makes_room(
    autojump_clock: trio.testing.MockClock,
) -> None:
    link, came = Link(), []

    def serve(stream: CircuitStream) -> bool:
        came.append(stream)
        stream.end.take()
        return True

    circuits = circuits_with(link, replace(Limits(), relay_incoming_per_s=0.5, relay_incoming_burst=4), serve)
    numbers = iter(range(1, 1000, 2))

    def bring(count: int) -> int:
        before = len(came)
        for _ in range(count):
            number = next(numbers)
            source = PeerId(number.to_bytes(32, "big"))
            circuits.receive(link, Relay(number, Relay.OPEN, str(source), str(OWN), 7))  # type: ignore[arg-type]
        return len(came) - before

    assert bring(10) == 4
    refused = [message.payload for message in link.said() if message.kind == Relay.REFUSED]
    assert refused == [Reason.OVERLOADED.to_bytes(2, "little")] * 6
    await trio.sleep(4)
    assert bring(10) == 2
    circuits.proved(SimpleNamespace(endpoint=came[0].remote))  # type: ignore[arg-type]  # as much of a link as is asked
    assert bring(10) == 1


async def test_what_one_read_brings_for_a_circuit_is_passed_on_as_one_message() -> None:
    asker, asked = Link(), Link()
    asker.peer_id, asked.peer_id = PeerId(b"a" * 32), TARGET
    circuits = circuits_with(asker, Limits(), relays=True)
    circuits.link_up(asked)  # type: ignore[arg-type]  # a stand-in

    def came(link: Link, *messages: Relay) -> None:
        for message in messages:
            circuits.receive(link, message)  # type: ignore[arg-type]

    came(asker, Relay(1, Relay.OPEN, str(asker.peer_id), str(TARGET), 8))
    (opening,) = asked.said()
    quarter = (64 * KIB).to_bytes(4, "little")
    came(asked, *[Relay(opening.circuit, Relay.WINDOW, payload=quarter)] * 4)
    (window,) = asker.said()
    assert window.payload == (256 * KIB).to_bytes(4, "little")
    came(asker, *[Relay(1, Relay.DATA, payload=bytes([number]) * KIB) for number in range(3)])
    (data,) = asked.said()
    assert data.payload == bytes(KIB) + b"\x01" * KIB + b"\x02" * KIB
    # Each lane spoke up once per read, through the link that was read.
    assert asker.flushed_next == [asked, asked]
    assert asked.flushed_next == [asker]
