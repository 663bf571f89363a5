"""Frames: the same ones however the stream was cut, in linear work and bounded memory."""

from __future__ import annotations

import builtins
import sys
import tracemalloc
from collections.abc import Iterable
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import framing
from p2p.errors import PayloadTooLarge, Reason, RemoteProtocolError
from p2p.framing import FrameDecoder, LengthPrefixVarint, encode_varint, joined
from p2p.testing import strategies as wire

MIB = 1024 * 1024


def frames_of(decoder: FrameDecoder, chunks: Iterable[bytes]) -> list[bytes]:
    found = []
    for chunk in chunks:
        decoder.feed(chunk)
        while (frame := decoder.next_frame()) is not None:
            found.append(bytes(frame))
    return found


@given(wire.streams(), st.data())
def test_any_cut_gives_the_same_frames(stream: tuple[list[bytes], bytes], data: st.DataObject) -> None:
    payloads, joined = stream
    decoder = FrameDecoder()
    assert frames_of(decoder, data.draw(wire.cuts(joined))) == payloads
    assert decoder.buffered == 0
    assert decoder.frame_length is None


@given(
    st.lists(st.sampled_from([0, 3, 2048, 16_383, 16_384, 33_000, 65_600, 200_000]), max_size=5),
    st.sampled_from([None, 17_000, 40_000, 70_000, 131_072]),
    st.data(),
)
def test_large_frames_in_pieces_are_the_same_frames(sizes: list[int], read: int | None, data: st.DataObject) -> None:
    payloads = [(b"VP2P%d " % number * size)[:size] for number, size in enumerate(sizes)]
    stream = b"".join(LengthPrefixVarint().encode(payload) for payload in payloads)
    chunks = [stream[at : at + read] for at in range(0, len(stream), read)] if read else data.draw(wire.cuts(stream))
    decoder, held, found = FrameDecoder(begins_with=b"VP2P"), 0, []
    for chunk in chunks:
        decoder.feed(chunk)
        held += len(chunk)
        while (frame := decoder.next_pieces()) is not None:
            if isinstance(frame, tuple):
                assert len(frame[0]) >= 16_384
            found.append(bytes(joined(frame)))
            held -= len(found[-1]) + len(encode_varint(len(found[-1])))
        header = 0 if decoder.frame_length is None else len(encode_varint(decoder.frame_length))
        assert decoder.buffered == held - header
    assert found == payloads


def test_a_frame_comes_in_pieces_where_it_lies_in_two_chunks_and_no_more() -> None:
    body = bytes(range(256)) * 256
    stream = encode_varint(len(body)) + body
    for chunks, pieces in (
        ((stream,), 1),
        ((stream[:20_000], stream[20_000:] + b"\x01a"), 2),
        ((stream[:16_386], stream[16_386:]), 1),  # the first part is small
        ((stream[:20_000], stream[20_000:40_000], stream[40_000:]), 1),
    ):
        decoder = FrameDecoder()
        for chunk in chunks[:-1]:
            decoder.feed(chunk)
            assert decoder.next_pieces() is None
        decoder.feed(chunks[-1])
        frame = decoder.next_pieces()
        assert frame is not None
        assert (len(frame) if isinstance(frame, tuple) else 1) == pieces
        assert joined(frame) == body


def test_t05_another_protocol_is_refused_by_a_large_first_piece_too() -> None:
    decoder = FrameDecoder(begins_with=b"VP2P")
    decoder.feed(encode_varint(MIB) + b"VP3P" + bytes(20_000))
    with pytest.raises(RemoteProtocolError, match="protocol"):
        decoder.next_pieces()
    assert decoder.buffered == 0


@given(wire.streams(), st.data())
def test_an_only_frame_is_what_the_long_way_gives(stream: tuple[list[bytes], bytes], data: st.DataObject) -> None:
    joined = data.draw(st.just(stream[1]) | wire.mutations(stream[1]))
    short, long = FrameDecoder(20_000), FrameDecoder(20_000)
    # Mostly as the frames lie, which is where there is a short way.
    whole = [encode_varint(len(payload)) + payload for payload in stream[0]]
    for chunk in data.draw(st.just(whole) | wire.cuts(joined)):
        frame = short.only_frame(chunk)
        assert frame is not None or whole != [chunk] or not 2 < len(chunk) < 2048
        if frame is None:
            short.feed(chunk)
        long.feed(chunk)
        assert _outcome(short, frame) == _outcome(long, None)
        assert short.is_amid_frame == long.is_amid_frame


def _outcome(decoder: FrameDecoder, frame: bytes | None) -> list[bytes | str]:
    found: list[bytes | str] = [] if frame is None else [frame]
    try:
        while (frame := decoder.next_frame()) is not None:
            found.append(bytes(frame))
    except RemoteProtocolError as error:
        found.append(str(error))
    return found


def test_there_is_no_only_frame_in_a_decoder_that_holds_something_or_has_failed() -> None:
    decoder = FrameDecoder(1000)
    decoder.feed(b"\x03ab")
    assert decoder.next_frame() is None
    assert decoder.only_frame(b"\x02hi") is None
    decoder.feed(b"c")
    assert decoder.only_frame(b"\x02hi") is None, "what was fed was not asked for"
    assert decoder.next_frame() == b"abc"
    assert decoder.only_frame(b"\x02hi") == b"hi"
    decoder.feed(b"\x82")
    assert decoder.next_frame() is None
    assert decoder.only_frame(b"\x02hi") is None, "a header has begun"
    decoder.feed(b"\x00")
    with pytest.raises(RemoteProtocolError):
        decoder.next_frame()
    assert decoder.only_frame(b"\x02hi") is None


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x01a", b"\x82\x00ab", b"\x02h", b"\x02hi\x00", b"\x80\x81\x00" + bytes(126)]
)
def test_what_is_no_whole_small_frame_is_no_only_frame(data: bytes) -> None:
    assert FrameDecoder().only_frame(data) is None
    assert FrameDecoder(1).only_frame(b"\x02hi") is None


@given(wire.streams(), st.data())
def test_what_is_fed_before_it_is_asked_for_waits_in_order(
    stream: tuple[list[bytes], bytes], data: st.DataObject
) -> None:
    """Feeding and asking interleave in any way: several chunks before a question, several questions between."""
    payloads, joined = stream
    decoder = FrameDecoder()
    found: list[bytes] = []
    for chunk in data.draw(wire.cuts(joined)):
        decoder.feed(chunk)
        for _ in range(data.draw(st.integers(0, 2))):
            frame = decoder.next_frame()
            if frame is not None:
                found.append(bytes(frame))
    assert found + frames_of(decoder, [b""]) == payloads


@given(wire.streams(), st.data())
def test_buffered_counts_what_was_fed_and_not_given_out(stream: tuple[list[bytes], bytes], data: st.DataObject) -> None:
    _, joined = stream
    decoder = FrameDecoder()
    held = 0
    for chunk in data.draw(wire.cuts(joined)):
        decoder.feed(chunk)
        held += len(chunk)
        assert decoder.buffered >= held - 10
        if data.draw(st.booleans()):
            while (frame := decoder.next_frame()) is not None:
                held -= len(frame) + len(encode_varint(len(frame)))
            # A complete header is a number, no bytes any more.
            header = 0 if decoder.frame_length is None else len(encode_varint(decoder.frame_length))
            assert decoder.buffered == held - header


def test_a_decoder_begins_with_nothing_and_at_its_first_byte() -> None:
    assert FrameDecoder().buffered == 0
    assert FrameDecoder().only_frame(b"\x02hi") == b"hi"
    decoder = FrameDecoder()
    decoder.feed(b"\x02h")
    assert decoder.buffered == 2


@given(st.binary(max_size=400), st.data())
def test_any_bytes_are_frames_or_one_error(noise: bytes, data: st.DataObject) -> None:
    """Also: what is found, and whether and why it fails, does not depend on the cut."""

    def outcome(chunks: list[bytes]) -> tuple[list[bytes], Reason | None]:
        decoder = FrameDecoder(4096)
        found = []
        try:
            for chunk in chunks:
                decoder.feed(chunk)
                while (frame := decoder.next_frame()) is not None:
                    found.append(bytes(frame))
        except RemoteProtocolError as exc:
            return found, exc.reason
        return found, None

    assert outcome(data.draw(wire.cuts(noise))) == outcome([noise])


@given(wire.streams(), st.data())
def test_wounded_streams(stream: tuple[list[bytes], bytes], data: st.DataObject) -> None:
    wounded = data.draw(wire.mutations(stream[1]))
    codec = LengthPrefixVarint(64 * 1024)
    try:
        frames, remaining = codec.decode(wounded)
    except RemoteProtocolError:
        return
    assert b"".join(codec.encode(frame) for frame in frames) + remaining == wounded


def test_frame_lengths_around_each_step() -> None:
    payloads = [bytes(size) for size in (0, 1, 127, 128, 2047, 2048, 16_383, 16_384, 65_536, MIB)]
    joined = b"".join(LengthPrefixVarint().encode(payload) for payload in payloads)
    for piece in (len(joined), 65_536, 4093, 1000):
        chunks = [joined[pos : pos + piece] for pos in range(0, len(joined), piece)]
        assert frames_of(FrameDecoder(), chunks) == payloads


def test_a_frame_that_was_given_out_stays_as_it_is() -> None:
    decoder = FrameDecoder()
    decoder.feed(encode_varint(5000) + b"a" * 4000)
    assert decoder.next_frame() is None
    decoder.feed(b"a" * 1000 + encode_varint(5000) + b"b" * 3000)
    first = decoder.next_frame()
    assert decoder.next_frame() is None
    decoder.feed(b"b" * 2000)
    second = decoder.next_frame()
    assert first == b"a" * 5000
    assert second == b"b" * 5000
    with pytest.raises(TypeError):
        first[0] = 0  # type: ignore[index]


def test_the_bound_is_the_one_that_holds_when_the_header_is_read() -> None:
    stream = LengthPrefixVarint().encode(bytes(4096)) + LengthPrefixVarint().encode(bytes(100_000))
    decoder = FrameDecoder(4096)
    decoder.feed(stream)
    assert decoder.next_frame() == bytes(4096)
    decoder.max_frame_bytes = MIB
    assert decoder.next_frame() == bytes(100_000)

    decoder = FrameDecoder(4096)
    decoder.feed(stream)
    assert decoder.next_frame() == bytes(4096)
    with pytest.raises(RemoteProtocolError) as caught:
        decoder.next_frame()
    assert caught.value.reason is Reason.FRAME_TOO_LARGE


def test_t06_t26_an_oversized_frame_is_refused_from_its_header_alone() -> None:
    """At the first byte that leaves no length within the bound, and nothing is kept."""
    for bound, header, seen in (
        (4096, encode_varint(4097), 2),
        (4096, encode_varint(2**20), 2),
        (MIB, encode_varint(MIB + 1), 3),
        (MIB, encode_varint(2**64 - 1), 3),
        (MIB, b"\xff" * 100, 3),
        (MIB, b"\x80" * 100, 3),
        (100, encode_varint(128), 1),
    ):
        for body in (b"", b"body that must not be kept"):
            decoder = FrameDecoder(bound)
            for count in range(1, seen):
                decoder.feed(header[count - 1 : count])
                assert decoder.next_frame() is None
            decoder.feed(header[seen - 1 :] + body if body else header[seen - 1 : seen])
            with pytest.raises(RemoteProtocolError) as caught:
                decoder.next_frame()
            assert caught.value.reason is Reason.FRAME_TOO_LARGE
            assert decoder.buffered == 0


@pytest.mark.parametrize("header", [b"\x80\x00", b"\x80\x80\x00", b"\xff\xff\x00"])
def test_a_length_that_is_longer_than_it_needs_to_be_is_refused_however_it_comes(header: bytes) -> None:
    for chunks in ([header + bytes(70_000)], [header[at : at + 1] for at in range(len(header))]):
        with pytest.raises(RemoteProtocolError, match="longer than it needs"):
            frames_of(FrameDecoder(), chunks)


def test_a_decoder_that_failed_stays_failed() -> None:
    decoder = FrameDecoder(10)
    decoder.feed(b"\x0b")
    for _ in range(3):
        with pytest.raises(RemoteProtocolError, match="11 bytes"):
            decoder.next_frame()
        decoder.feed(b"\x01a")


def test_t05_another_protocol_is_refused_at_its_first_impossible_byte() -> None:
    """Each of these announces, read as a frame, a length that may come; what follows it may not."""
    for hello, seen in (
        (b"GET / HTTP/1.1\r\n", 2),
        (b"\x16\x03\x01\x02\x00", 2),
        (b"SSH-2.0-x\r\n", 2),
        (b"\x40VP3P", 4),
    ):
        decoder = FrameDecoder(4096, begins_with=b"VP2P")
        for pos in range(seen - 1):
            decoder.feed(hello[pos : pos + 1])
            assert decoder.next_frame() is None
        decoder.feed(hello[seen - 1 : seen])
        with pytest.raises(RemoteProtocolError, match="protocol"):
            decoder.next_frame()


@given(wire.streams(st.binary(max_size=40).map(lambda tail: b"VP2P" + tail)), st.data())
def test_what_begins_as_it_must_is_not_refused(stream: tuple[list[bytes], bytes], data: st.DataObject) -> None:
    decoder = FrameDecoder(4096, begins_with=b"VP2P")
    assert frames_of(decoder, data.draw(wire.cuts(stream[1]))) == stream[0]


class Moved:
    """Counts the bytes that the decoder moves, by standing in for the types it moves them with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        moved = self

        class CountedArray(bytearray):
            def __iadd__(self, other):
                moved.bytes += len(other)
                return super().__iadd__(other)

        class CountedChunk(bytes):
            def __getitem__(self, key):
                value = super().__getitem__(key)
                if isinstance(key, slice):
                    moved.bytes += len(value)
                return value

        def counted_bytes(value=b""):
            moved.bytes += len(value)
            return CountedChunk(value)

        self.chunk = CountedChunk
        monkeypatch.setattr(framing, "bytearray", CountedArray, raising=False)
        monkeypatch.setattr(framing, "bytes", counted_bytes, raising=False)


class Steps:
    """Counts the lines of the decoder's module that run."""

    def __enter__(self) -> Self:
        self.count = 0
        self._before = sys.gettrace()

        def trace(frame, event, arg):
            if frame.f_code.co_filename != framing.__file__:
                return None
            if event == "line":
                self.count += 1
            return trace

        sys.settrace(trace)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.settrace(self._before)


@pytest.mark.parametrize("piece", [1, 2, 7, 100, 4096, 65_536, builtins.int(1e9)])
@pytest.mark.parametrize("drain_each", [True, False], ids=["drained", "fed first"])
@pytest.mark.parametrize("frame_bytes", [0, 3, 150, 20_000])
def test_work_is_linear_however_the_stream_is_cut(
    monkeypatch: pytest.MonkeyPatch, piece: int, drain_each: bool, frame_bytes: int
) -> None:
    moved = Moved(monkeypatch)
    payload = builtins.bytes(frame_bytes)
    count = max(1, 4_000 // (frame_bytes + 1))
    stream = (encode_varint(frame_bytes) + payload) * count
    chunks = [moved.chunk(stream[pos : pos + piece]) for pos in range(0, len(stream), piece)]
    moved.bytes = 0
    decoder = FrameDecoder()
    found = 0
    with Steps() as steps:
        for chunk in chunks:
            decoder.feed(chunk)
            while drain_each and decoder.next_frame() is not None:
                found += 1
        while decoder.next_frame() is not None:
            found += 1
    assert found == count
    # In and out of the backlog, into the frame: no byte is moved more often, whatever the sizes.
    assert moved.bytes <= 3 * len(stream)
    assert steps.count <= 60 * (len(chunks) + count)


def test_bounded_memory_a_claim_costs_nothing() -> None:
    tracemalloc.start()
    try:
        decoders = [FrameDecoder() for _ in range(100)]
        for decoder in decoders:
            decoder.feed(encode_varint(MIB) + b"VP2P")
            assert decoder.next_frame() is None
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100 * 2048


@pytest.mark.parametrize("drain_each", [True, False])
def test_bounded_memory_a_dripped_frame_costs_its_bytes_and_not_its_pieces(drain_each: bool) -> None:
    size = 64 * 1024
    tracemalloc.start()
    try:
        decoder = FrameDecoder()
        decoder.feed(encode_varint(size))
        for _ in range(size // 2 - 1):
            decoder.feed(b"ab"[:1] + b"b")
            if drain_each:
                assert decoder.next_frame() is None
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1.3 * size


@pytest.mark.parametrize("bound", [1, 127, 128, 150, 255, 256, 16_383, 16_384, 20_000])
def test_the_bound_itself_fits_and_no_byte_more_however_it_comes(bound: int) -> None:
    payload = bytes(bound)
    frame = encode_varint(bound) + payload
    assert frames_of(FrameDecoder(bound), [frame]) == [payload]
    assert frames_of(FrameDecoder(bound), [frame[:1], frame[1:2], frame[2:]]) == [payload]
    header = encode_varint(bound + 1)
    for chunks in ([header + bytes(bound + 1)], [header[at : at + 1] for at in range(len(header))]):
        with pytest.raises(RemoteProtocolError) as caught:
            frames_of(FrameDecoder(bound), chunks)
        assert caught.value.reason is Reason.FRAME_TOO_LARGE


def test_length_prefix_varint_bounds_both_ways() -> None:
    codec = LengthPrefixVarint(max_frame_bytes=3)
    assert codec.encode(b"abc") == b"\x03abc"
    with pytest.raises(PayloadTooLarge):
        codec.encode(b"abcd")
    assert codec.decode(b"\x03abc\x02a") == ([b"abc"], b"\x02a")
    with pytest.raises(RemoteProtocolError):
        codec.decode(b"\x04abcd")
