from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode

from p2p.transport.ws_frames import IdleFrames

Frames = list[tuple[Opcode, bytes, bool]]

PARTS = st.tuples(
    st.sampled_from([Opcode.BINARY, Opcode.CONTINUATION, Opcode.PING, Opcode.PONG]),
    st.one_of(st.binary(max_size=3), st.sampled_from([bytes(size) for size in (125, 126, 127, 65_535, 65_536)])),
    st.booleans(),
)


def written(opcode: Opcode, payload: bytes, fin: bool, *, is_client: bool) -> bytes:
    control = opcode.iscontrol()
    return FrameProtocol(client=is_client, extensions=[])._serialize_frame(
        opcode, payload[:125] if control else payload, fin or control
    )


@given(st.lists(PARTS, max_size=8), st.booleans(), st.data())
def test_what_brings_nothing_is_counted_however_it_is_cut(parts: Frames, is_client: bool, data: st.DataObject) -> None:
    sent = b"".join(written(*part, is_client=is_client) for part in parts)
    frames, left = IdleFrames(), sent
    while left:
        size = data.draw(st.integers(1, min(len(left), 70_000)))
        frames.feed(left[:size])
        left = left[size:]
    assert frames.count == sum(1 for opcode, payload, fin in parts if opcode.iscontrol() or not fin or not payload)


@given(st.lists(st.binary(max_size=40)))
def test_any_bytes_are_counted_somehow(chunks: list[bytes]) -> None:
    frames = IdleFrames()
    for chunk in chunks:
        frames.feed(chunk)
    assert 0 <= frames.count <= sum(map(len, chunks))
