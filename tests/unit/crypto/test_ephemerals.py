"""A key made ahead of need is given out once, and never twice."""

from __future__ import annotations

from p2p.crypto.ephemerals import Ephemerals


def counting() -> tuple[Ephemerals, list[int]]:
    asked: list[int] = []

    def entropy(size: int) -> bytes:
        asked.append(size)
        return len(asked).to_bytes(size, "big")

    return Ephemerals(entropy), asked


def test_a_key_made_ahead_is_given_out_once():
    keys, asked = counting()
    keys.refill()
    keys.refill()
    assert asked == [32]
    given = [keys.take(), keys.take(), keys.take()]
    assert len({key.public for key in given}) == 3
    assert asked == [32, 32, 32]


def test_without_one_made_ahead_it_is_made_when_asked_for():
    keys, asked = counting()
    assert keys.take().public != keys.take().public
    assert asked == [32, 32]
