"""A Bundle whose messages are alike is read as one whose messages are not."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2p.envelope import COMPRESSED, encode_framed, frames_alike, iter_bundle
from p2p.errors import RemoteProtocolError
from p2p.msg import Data, decode_data
from p2p.session.bundles import Row, read_bundle
from p2p.testing import strategies as wire

DATA, PING = 259, 2
MESSAGES = st.tuples(
    st.sampled_from([DATA, DATA, DATA, PING]),
    st.integers(0, 3) | st.integers(0, 2**64 - 1),
    st.sampled_from([0, 0, 0, 4, COMPRESSED]),
    st.builds(
        Data,
        st.sampled_from(["chat", "news"]),
        st.sampled_from([0, 0, 7]),
        st.sampled_from([0, 0, 1]),
        st.sampled_from([b"", b"x", b"y", bytes(104), bytes(128), bytes(range(128)), bytes(16_000)]),
    ),
)


def bundle_of(messages: list[tuple[int, int, int, Data]]) -> bytes:
    return b"".join(encode_framed(type, msg_id, flags, data.encode()) for type, msg_id, flags, data in messages)


def one_by_one(payload: bytes) -> tuple[list[object], str]:
    """What stands in it, message by message, until a fault."""
    found: list[object] = []
    try:
        for type, msg_id, flags, inner in iter_bundle(payload):
            is_plain = type == DATA and not flags & COMPRESSED
            found.append((type, msg_id, flags, decode_data(inner) if is_plain else inner))
    except RemoteProtocolError as error:
        return found, str(error)
    return found, ""


def read(payload: bytes) -> tuple[list[object], str]:
    found: list[object] = []
    try:
        for item in read_bundle(payload, 4096):
            found += apart(item)
    except RemoteProtocolError as error:
        return found, str(error)
    return found, ""


def apart(item: object) -> list[object]:
    """The messages of a row, or the one."""
    if not isinstance(item, Row):
        return [item]
    assert item.bodies
    return [
        (DATA, msg_id, item.flags, Data(item.channel, item.reply_to, item.status, body))
        for msg_id, body in enumerate(item.bodies, item.first_id)
    ]


@given(st.lists(st.lists(MESSAGES, max_size=3).flatmap(lambda some: st.integers(1, 4).map(lambda n: some * n))))
def test_messages_in_any_order_are_those_that_were_put_in(groups: list[list[tuple[int, int, int, Data]]]) -> None:
    payload = bundle_of([message for group in groups for message in group])
    found, fault = read(payload)
    assert (found, fault) == one_by_one(payload)
    assert not fault


@given(st.lists(MESSAGES, min_size=1, max_size=2), st.integers(2, 5), st.data())
def test_a_wounded_bundle_of_alike_messages_fails_where_it_would_anyway(
    some: list[tuple[int, int, int, Data]], times: int, data: st.DataObject
) -> None:
    wounded = data.draw(wire.mutations(bundle_of(some * times)))
    assert read(wounded) == one_by_one(wounded)


@given(st.integers(1, 149))
@example(148)
def test_the_last_of_many_may_be_cut_off(missing: int) -> None:
    payload = bundle_of([(DATA, number, 0, Data("chat", body=bytes(110))) for number in range(4)])
    assert read(payload[:-missing]) == one_by_one(payload[:-missing])


def test_alike_messages_are_counted_like_others() -> None:
    payload = bundle_of([(DATA, number, 0, Data("chat")) for number in range(9)])
    assert sum(len(apart(item)) for item in read_bundle(payload, 9)) == 9
    found = []
    with pytest.raises(RemoteProtocolError, match="more than 8 messages"):
        for item in read_bundle(payload, 8):
            found += apart(item)
    assert len(found) == 8


@pytest.mark.parametrize("other", [4, 6, 2**64 - 1])
def test_an_id_that_is_not_the_next_one_ends_a_row(other: int) -> None:
    """It grows, or not: that is for the session to judge."""
    payload = bundle_of([(DATA, msg_id, 0, Data("chat")) for msg_id in (1, 2, 3, 4, other, 5)])
    row, single = list(read_bundle(payload, 9))[2:4]
    assert isinstance(row, Row)
    assert (row.first_id, len(row.bodies)) == (3, 2)
    assert single == (DATA, other, 0, Data("chat"))


@pytest.mark.parametrize("size", [40, 3000])
@given(st.integers(1, 2**64 - 400) | st.just(2**64 - 300), st.integers(2, 299), st.integers(0, 79))
def test_in_a_long_row_any_other_byte_is_found(size: int, first_id: int, place: int, at: int) -> None:
    bodies = [b"%04d" % number * (size // 4) for number in range(300)]
    messages = [(DATA, msg_id, 0, Data("chat", body=body)) for msg_id, body in enumerate(bodies, first_id)]
    frames = [bundle_of([message]) for message in messages]
    payload = b"".join(frames)
    items = list(read_bundle(payload, 300))
    assert len(items) == 3
    assert [each for item in items for each in apart(item)] == one_by_one(payload)[0]
    wounded = bytearray(payload)
    wounded[place * len(frames[0]) + at] ^= 1
    assert read(bytes(wounded)) == one_by_one(bytes(wounded))


def test_a_bundle_that_is_made_to_mislead_is_not_read_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are alike, and so are those that are looked at next, but not those between."""
    looked_at = []

    def frames(before_id: bytes, first_id: int, behind_id: bytes, payloads: list[bytes]) -> bytearray:
        looked_at.append(len(payloads))
        return frames_alike(before_id, first_id, behind_id, payloads)

    monkeypatch.setattr("p2p.session.bundles.frames_alike", frames)
    for every in (2, 3, 4, 17, 18, 19):
        looked_at.clear()
        # Of one size, but now and then to another channel.
        payload = bundle_of(
            [(DATA, number, 0, Data("chat" if number % every else "news")) for number in range(1, 4001)]
        )
        assert read(payload) == one_by_one(payload)
        assert sum(looked_at) <= 4 * 4000, every


@pytest.mark.parametrize("size", [0, 1, 110, 128, 300])
def test_of_messages_that_are_alike_only_two_are_taken_apart(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken_apart = []

    def decode(payload: bytes) -> Data:
        taken_apart.append(payload)
        return decode_data(payload)

    monkeypatch.setattr("p2p.session.bundles.decode_data", decode)
    payload = bundle_of([(DATA, number, 0, Data("chat", body=bytes(size))) for number in range(9)])
    items = list(read_bundle(b"".join((bundle_of([(PING, 1, 0, Data("x"))]), payload)), 10))
    assert sum(len(apart(item)) for item in items) == 10
    assert len(taken_apart) == 2
