"""The routing table of a node keeps nothing that is too old, whether or not anybody asks for it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import p2p
from p2p.limits import Limits
from p2p.msg import Attached
from p2p.policy.routes import MemoryRouter
from p2p.relay.switch import DeadEnd
from p2p.transport.memory import MemoryNetwork


async def test_routes_whose_time_is_over_are_dropped_unasked(autojump_clock: trio.testing.MockClock) -> None:
    network = MemoryNetwork(Limits())
    relay, target = p2p.PeerId(bytes([1]) * 32), p2p.PeerId(bytes([2]) * 32)
    async with p2p.open_node(
        node_id="a", network_key=bytes(32), network=network.network_for("10.0.0.1"), relay=True
    ) as node:
        node.routes.upsert_route(target, p2p.Route(relay, via_relay=True), expires_s=5)
        assert node.routes.resolve(target) is not None
        await trio.sleep(6 + Limits().routes_told_every_s)
        assert node._rooms is not None
        # As it is kept, and not as it is told now.
        assert node._rooms.paths.router.list() == []


class _Attached:
    """A neighbour that takes part; keeps what it is told."""

    def __init__(self, number: int) -> None:
        self.peer_id = p2p.PeerId(bytes([number]) * 32)
        self.told: list[Attached] = []

    def send_control(self, message: Attached) -> None:
        self.told.append(message)


async def test_a_route_over_oneself_or_for_no_number_of_seconds_is_refused() -> None:
    async with p2p.open_node(node_id="a", listen_port=None) as node:
        target, hop = p2p.PeerId(bytes(32)), p2p.PeerId(b"h" * 32)
        with pytest.raises(p2p.ConfigError, match="over this node itself leads nowhere"):
            node.routes.upsert_route(target, p2p.Route(node.peer_id, via_relay=True))
        for expires_s in ("1", True, None):
            with pytest.raises(p2p.ConfigError, match="expires_s is a number of seconds above 0"):
                node.routes.upsert_route(target, p2p.Route(hop), expires_s=expires_s)  # type: ignore[arg-type]
        for too_short in (0, -1, float("nan"), -(10**400)):
            with pytest.raises(p2p.ConfigError, match="expires_s is a number of seconds above 0"):
                node.routes.upsert_route(target, p2p.Route(hop), expires_s=too_short)
        assert node.routes.list() == []
        node.routes.upsert_route(target, p2p.Route(hop, via_relay=True), expires_s=10**400)
        assert len(node.routes.list()) == 1


async def test_t72_a_telling_looks_through_the_table_once_and_lets_others_run_between(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = MemoryNetwork(Limits())
    neighbours = [_Attached(number) for number in (1, 2, 3)]
    looks: list[int] = []
    as_it_was = MemoryRouter.told

    def look(router: MemoryRouter, now: float) -> list[tuple[p2p.PeerId, p2p.PeerId, int]]:
        looks.append(0)
        return as_it_was(router, now)

    monkeypatch.setattr(MemoryRouter, "told", look)
    async with p2p.open_node(
        node_id="a", network_key=bytes(32), network=network.network_for("10.0.0.1"), relay=True
    ) as node:
        assert node._rooms is not None
        paths = node._rooms.paths
        await trio.sleep(1.5)
        far = p2p.PeerId(bytes([9]) * 32)
        paths.router.learn(neighbours[0].peer_id, [(neighbours[1].peer_id, 1), (far, 3)], trio.current_time())
        paths.router.learn(neighbours[1].peer_id, [(far, 2)], trio.current_time())
        paths._attached.update(dict.fromkeys(neighbours))  # type: ignore[arg-type]  # stand-ins
        looks.clear()
        paths._changed.set()
        others_ran = 0
        while not neighbours[-1].told:
            await trio.lowlevel.checkpoint()
            others_ran += 1
        assert len(looks) == 1
        assert others_ran >= len(neighbours)
        # Each hears of the others, and of the far one by the nearest that is not itself.
        told = [[(it.peer, it.hops) for it in one.told[0].entries] for one in neighbours]
        one, two, three = (neighbour.peer_id for neighbour in neighbours)
        assert told == [
            [(two, 1), (three, 1), (far, 3)],
            [(one, 1), (three, 1), (far, 4)],
            [(one, 1), (two, 1), (far, 3)],
        ]
        paths._attached.clear()


async def test_t72_a_dead_end_with_fewer_hops_left_than_the_way_takes_says_nothing_about_the_way() -> None:
    async with p2p.open_node(node_id="a", listen_port=None) as node:
        assert node._rooms is not None
        paths = node._rooms.paths
        relay, target = p2p.PeerId(bytes([1]) * 32), p2p.PeerId(bytes([2]) * 32)
        paths.router.learn(relay, [(target, 3)], node.config.clock.monotonic())
        (known,) = paths.router.list()
        assert known.hops is not None
        paths.dead_end(DeadEnd(target, relay, known.hops - 1, p2p.Reason.NO_ROUTE))
        assert paths.router.list() == [known]
        paths.dead_end(DeadEnd(target, relay, known.hops, p2p.Reason.NO_ROUTE))
        assert paths.router.list() == []
