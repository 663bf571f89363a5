"""What is written down of places that were dialled, and which of them are looked for."""

from __future__ import annotations

from collections.abc import Iterable

import trio
from trio.testing import MockClock

from p2p.ids import PeerEndpoint, PeerId
from p2p.limits import Limits
from p2p.node.acquaintances import Acquaintances
from p2p.node.roster import Roster
from p2p.policy.book import BookPlace
from p2p.policy.guard import ConnectionGuard
from p2p.policy.hints import DiscoveryAnnouncement, HintSource
from p2p.policy.places import PeerPlaces
from p2p.windows import SystemClock

LIMITS = Limits(max_peers=8)


def peer(number: int) -> PeerId:
    return PeerId(number.to_bytes(32, "big"))


def acquaintances(known: Iterable[BookPlace] = (), *, banned: Iterable[PeerId] = ()) -> Acquaintances:
    return Acquaintances(
        LIMITS,
        known,
        (),
        roster=Roster(peer(0), LIMITS),
        places=PeerPlaces(LIMITS),
        guard=ConnectionGuard(LIMITS),
        is_welcome=lambda peer_id: peer_id not in set(banned),
        write=lambda _address, _place: None,
        clock=SystemClock(),
    )


def test_of_two_dials_of_one_place_each_comes_to_its_end() -> None:
    """The first may last so long that the place is named, and dialled, again."""
    known = acquaintances()
    at = ("tcp", "10.0.0.1", 1)
    for _ in range(2):
        known.dialling(at, HintSource.DISCOVERY)
    for _ in range(2):
        known.dialled(at, failed=True)
    assert known.book.find(at) is None


async def test_where_few_places_are_free_those_of_banned_peers_do_not_hide_the_others(
    autojump_clock: MockClock,
) -> None:
    places = [
        BookPlace(PeerEndpoint(f"10.0.1.{number}", 9001), peer(number), "n", "discovery", number)
        for number in range(1, 21)
    ]
    known = acquaintances(places, banned=[peer(number) for number in range(13, 21)])
    offered: list[str] = []

    def offer(hint: DiscoveryAnnouncement, _source: HintSource, _came_from: str) -> None:
        offered.append(hint.host)

    with trio.move_on_after(LIMITS.book_after_s + 1):
        await known.run(offer)
    assert offered == [f"10.0.1.{number}" for number in range(12, 4, -1)], "who was met last comes first"
