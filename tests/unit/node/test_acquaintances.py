"""What is written down of places that were dialled."""

from __future__ import annotations

from typing import Any

from p2p.limits import Limits
from p2p.node.acquaintances import Acquaintances
from p2p.policy.hints import HintSource
from p2p.windows import SystemClock


def test_of_two_dials_of_one_place_each_comes_to_its_end() -> None:
    """The first may last so long that the place is named, and dialled, again."""
    nobody: Any = None
    known = Acquaintances(
        Limits(),
        (),
        (),
        roster=nobody,
        places=nobody,
        guard=nobody,
        write=lambda _address, _place: None,
        clock=SystemClock(),
    )
    at = ("tcp", "10.0.0.1", 1)
    for _ in range(2):
        known.dialling(at, HintSource.DISCOVERY)
    for _ in range(2):
        known.dialled(at, failed=True)
    assert known.book.find(at) is None
