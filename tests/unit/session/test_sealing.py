"""One direction: the same bytes go out whether its cipher is kept, made anew, or let go of in between."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import CryptoError
from p2p.framing import FrameDecoder
from p2p.session.sealing import AES_256_GCM, CHACHA20_POLY1305, Direction


def frame_in(data: bytes | bytearray, frame_bytes_max: int = 2**20) -> bytes:
    decoder = FrameDecoder(frame_bytes_max)
    decoder.feed(data)
    frame = decoder.next_frame()
    assert frame is not None
    return bytes(frame)


@pytest.mark.parametrize("cipher", [AES_256_GCM, CHACHA20_POLY1305])
@given(rests=st.lists(st.booleans(), min_size=30, max_size=60), rekey_every=st.integers(1, 20))
def test_a_rest_changes_nothing_on_the_wire(cipher: str, rests: list[bool], rekey_every: int) -> None:
    restless, resting, opening = (Direction(cipher, bytes(range(32)), rekey_every) for _ in range(3))
    for number, rests_now in enumerate(rests, 1):
        if rests_now:
            resting.rest()
        else:
            opening.rest()
        sealed = resting.seal(259, number, 0, b"%d" % number)
        assert sealed == restless.seal(259, number, 0, b"%d" % number)
        assert opening.open(frame_in(sealed)) == (259, number, 0, b"%d" % number)


def test_a_cipher_is_made_for_each_of_the_first_eight_envelopes_and_kept_from_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []

    def make(key: bytes) -> AESGCM:
        made.append(key)
        return AESGCM(key)

    monkeypatch.setattr("p2p.session.sealing._CIPHERS", {AES_256_GCM: make})
    direction = Direction(AES_256_GCM, bytes(32), 65_536)
    for _ in range(2):
        for number in range(20):
            direction.seal(259, 1, 0, b"")
            assert len(made) == min(number + 1, 8)
        direction.rest()
        made.clear()


@pytest.mark.parametrize("cipher", [AES_256_GCM, CHACHA20_POLY1305])
@pytest.mark.parametrize("size", [16_383, 16_384, 65_560, 1_048_000, 2_097_098, 2_097_099])
def test_large_envelopes_are_opened_whole_or_in_pieces_and_no_byte_of_them_may_change(cipher: str, size: int) -> None:
    sealing, opening, third = (Direction(cipher, bytes(32), 65_536) for _ in range(3))
    payload = (b"payload" * (size // 7 + 1))[:size]
    frame = frame_in(sealing.seal(259, 1, 0, payload), frame_bytes_max=3 * 2**20)
    assert opening.open(frame) == (259, 1, 0, payload)
    view = memoryview(frame_in(sealing.seal(259, 2, 4, payload), frame_bytes_max=3 * 2**20))
    assert opening.open((view[:9_000], view[9_000:])) == (259, 2, 4, payload)
    for at in (8, 30, 40, 60, size + 40):
        wounded = bytearray(frame)
        wounded[at] ^= 1
        with pytest.raises(CryptoError):
            third.open((memoryview(wounded)[:9_000], memoryview(wounded)[9_000:]))
        third = Direction(cipher, bytes(32), 65_536)
