"""What is written down of places that were dialled, and which of them are looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from p2p.errors import Reason
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


def acquaintances(
    known: Iterable[BookPlace] = (),
    *,
    banned: Iterable[PeerId] = (),
    write: Callable[[object, BookPlace | None], None] = lambda _address, _place: None,
    clock: Any = None,
) -> Acquaintances:
    return Acquaintances(
        LIMITS,
        known,
        (),
        roster=Roster(peer(0), LIMITS),
        places=PeerPlaces(LIMITS),
        guard=ConnectionGuard(LIMITS),
        is_welcome=lambda peer_id: peer_id not in set(banned),
        write=write,
        clock=clock or SystemClock(),
    )


def test_a_place_is_written_down_again_when_it_says_something_new_or_a_minute_has_passed() -> None:
    written: list[BookPlace | None] = []
    clock: Any = SimpleNamespace(wall_ms=lambda: clock.now_ms, monotonic=lambda: 0.0, now_ms=1_000_000)
    known = acquaintances(write=lambda _address, place: written.append(place), clock=clock)
    at = PeerEndpoint("10.0.0.1", 1)

    def met(number: int, label: str = "n", *, expect: str | None = None) -> bool:
        count = len(written)
        endpoint = PeerEndpoint(at.host, at.port, "tcp", expect)
        link: Any = SimpleNamespace(endpoint=endpoint, dialed_by_us=True, peer_id=peer(number), label=label)
        known.met(link)
        return len(written) > count

    assert met(1)
    assert not met(1)
    assert not met(1, expect="n")
    assert met(1, "another")
    assert met(2, "another")
    clock.now_ms += 59_999
    assert not met(2, "another")
    clock.now_ms += 1
    assert met(2, "another")
    known.dialled(at.address, failed=True)
    assert met(2, "another")
    clock.now_ms -= 1
    assert met(2, "another")
    known.dialling(at.address, HintSource.DISCOVERY)
    assert met(2, "another")
    assert [place.good_ms for place in written if place is not None][-1] == clock.now_ms


def test_of_two_dials_of_one_place_each_comes_to_its_end() -> None:
    """The first may last so long that the place is named, and dialled, again."""
    known = acquaintances()
    at = ("tcp", "10.0.0.1", 1)
    for _ in range(2):
        known.dialling(at, HintSource.DISCOVERY)
    for _ in range(2):
        known.dialled(at, failed=True)
    assert known.book.find(at) is None


def test_places_that_leave_the_book_are_taken_out_of_the_store() -> None:
    stored: dict[object, BookPlace | None] = {}
    known = acquaintances(write=stored.__setitem__)
    ports = range(1, LIMITS.book_places_per_peer_max + 3)
    for port in ports:
        link: Any = SimpleNamespace(
            endpoint=PeerEndpoint("10.0.0.1", port), dialed_by_us=True, peer_id=peer(1), label="n"
        )
        known.met(link)
    kept = [place.endpoint.port for place in stored.values() if place is not None]
    assert kept == [place.endpoint.port for place in reversed(list(known.book))] == list(ports)[2:]


@pytest.mark.parametrize("why", ["banned", "failed"])
async def test_where_few_places_are_free_those_that_may_not_be_dialled_do_not_hide_the_others(
    why: str, autojump_clock: MockClock
) -> None:
    places = [
        BookPlace(PeerEndpoint(f"10.0.1.{number}", 9001), peer(number), "n", "discovery", number)
        for number in range(1, 21)
    ]
    known = acquaintances(places, banned=[place.peer_id for place in places[12:]] if why == "banned" else ())
    if why == "failed":
        for place in places[12:]:
            known._guard.failed(place.endpoint, LIMITS.book_after_s, 0.5, Reason.TIMEOUT, automatic=True)
    offered: list[str] = []

    def offer(hint: DiscoveryAnnouncement, _source: HintSource, _came_from: str) -> None:
        offered.append(hint.host)

    with trio.move_on_after(LIMITS.book_after_s + 1):
        await known.run(offer)
    assert offered == [f"10.0.1.{number}" for number in range(12, 4, -1)], "who was met last comes first"
