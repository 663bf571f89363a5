"""Heads and the digest that two nodes compare."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from p2p.ids import PeerId
from p2p.replication.heads import FROZEN_MARK, SEQ_MAX, ZERO_HASH, LogHead, digest

ids = st.binary(min_size=32, max_size=32).map(PeerId)
heads = st.builds(LogHead, st.integers(1, 2**63 - 1), st.binary(min_size=32, max_size=32))


def test_the_digest_is_that_of_the_specification() -> None:
    low, high = PeerId(b"a" * 32), PeerId(b"b" * 32)
    expected = hashlib.sha256(
        b"vix-p2p/digest/1" + low + (7).to_bytes(8, "little") + b"h" * 32 + high + (1).to_bytes(8, "little") + b"g" * 32
    ).digest()
    assert digest({high: LogHead(1, b"g" * 32), low: LogHead(7, b"h" * 32)}) == expected
    assert digest({}) == hashlib.sha256(b"vix-p2p/digest/1").digest()
    frozen = hashlib.sha256(b"vix-p2p/digest/1" + low + bytes(8) + b"\xff" * 32).digest()
    assert digest({low: LogHead(7, b"h" * 32, frozen=True)}) == frozen


def test_the_last_seq_is_that_of_the_specification() -> None:
    assert SEQ_MAX == 2**63 - 1


@given(st.dictionaries(ids, heads, max_size=6), ids)
def test_empty_logs_do_not_count(held: dict[PeerId, LogHead], other: PeerId) -> None:
    assert digest({other: LogHead(0, ZERO_HASH), **held}) == digest(held)


@given(st.dictionaries(ids, heads, min_size=1, max_size=6), st.data())
def test_every_difference_shows(held: dict[PeerId, LogHead], data: st.DataObject) -> None:
    origin = data.draw(st.sampled_from(sorted(held)))
    head = held[origin]
    for other in (
        LogHead(head.seq - 1 or 2**62, head.hash),
        LogHead(head.seq, bytes([head.hash[0] ^ 1]) + head.hash[1:]),
    ):
        assert digest({**held, origin: other}) != digest(held)
    assert digest({**held, origin: LogHead(head.seq, head.hash, frozen=True)}) != digest(held)
    assert digest({key: value for key, value in held.items() if key != origin}) != digest(held)


@given(ids, heads, heads)
def test_t36_a_frozen_origin_counts_alike_wherever_it_was_frozen(origin: PeerId, one: LogHead, other: LogHead) -> None:
    assert digest({origin: LogHead(one.seq, one.hash, True)}) == digest({origin: LogHead(other.seq, other.hash, True)})
    assert digest({origin: LogHead(0, ZERO_HASH, True)}) == digest({origin: LogHead(one.seq, one.hash, True)})


def test_a_frozen_head_is_shown_with_the_mark() -> None:
    assert LogHead(3, b"h" * 32).shown_hash == b"h" * 32
    assert LogHead(3, b"h" * 32, frozen=True).shown_hash == FROZEN_MARK == b"\xff" * 32
