"""What does the codec cost per message, beside the least that Python could do for the same bytes?

The baseline knows every length beforehand: one `struct` call with all fields of the message at fixed places, one join
or slice for the body, and no check of anything. Ours writes and reads varints, checks magic, version, type, flags and
every length, and gives out values.

Ratios are costs: ours divided by the baseline, less is better. Each figure is the median of a few runs.
"""

from __future__ import annotations

import statistics
import struct
from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from benchmarks.harness import Row, Tell, ratio, row, seconds_of
from benchmarks.pace import Pace
from p2p import envelope, framing, msg
from p2p.session import bundles

BODY_BYTES = 128
CHANNEL = b"chat"
MESSAGES = 380
"""What fills one Bundle of 64 KiB."""
TIMES = 20

_SAME_BYTES = struct.Struct(f"<HIHHHQIHB{len(CHANNEL)}sQBH{BODY_BYTES}s")
DATA = int(msg.MessageType.DATA)

Work = Callable[[], object]


def run(pace: Pace, tell: Tell) -> None:
    """Measure and tell the rows as they come."""
    pace.run(_rows, pace, tell)


async def _rows(pace: Pace, tell: Tell) -> None:
    body = bytes(BODY_BYTES)
    bundle = _encode(body)
    assert bundle == _encode_least(body), "the baseline must make the same bytes"

    aead = ChaCha20Poly1305(bytes(32))
    nonce = bytes(12)
    covered = envelope.aad(int(msg.MessageType.BUNDLE), 1, envelope.ENCRYPTED)
    sealed = aead.encrypt(nonce, bundle, covered)

    def seal() -> bytes:
        return envelope.encode_sealed(262, 1, envelope.ENCRYPTED, nonce, aead.encrypt(nonce, _encode(body), covered))

    def seal_least() -> bytes:
        return b"".join((bytes(54), aead.encrypt(nonce, _encode_least(body), covered)))

    wire_bytes = seal()

    def open_sealed() -> None:
        decoder = framing.FrameDecoder(begins_with=envelope.MAGIC)
        decoder.feed(wire_bytes)
        frame = decoder.next_frame()
        assert frame is not None
        _, _, _, header, _, sealed = envelope.parse_sealed(frame)
        _decode(aead.decrypt(nonce, sealed, header))

    for question, goal, ours, least in (
        ("encode a Data of 128 B into a Bundle", 6, lambda: _encode(body), lambda: _encode_least(body)),
        ("decode a Data of 128 B out of a Bundle", 8, lambda: _decode(bundle), lambda: _decode_least(bundle)),
        ("the same, sealed and framed (ChaCha20-Poly1305)", 4, seal, seal_least),
        ("the same, unframed and opened", 7, open_sealed, lambda: _decode_least(aead.decrypt(nonce, sealed, covered))),
    ):
        tell(await _row(question, goal, pace, ours, least, "message", MESSAGES))
    await _stream_rows(pace, tell)


async def _stream_rows(pace: Pace, tell: Tell) -> None:
    """Cutting a stream that comes in reads of 64 KiB, beside slices at known places."""
    for size, goal in ((64 * 1024, 3), (1024, 8)):
        frame = framing.LengthPrefixVarint().encode(bytes(size))
        count = 1024 * 1024 // size
        stream = frame * count
        reads = [stream[pos : pos + 65_536] for pos in range(0, len(stream), 65_536)]

        def cut(reads: list[bytes] = reads) -> int:
            decoder = framing.FrameDecoder()
            found = 0
            for read in reads:
                decoder.feed(read)
                while decoder.next_frame() is not None:
                    found += 1
            return found

        def least(stream: bytes = stream, step: int = len(frame)) -> None:
            for pos in range(0, len(stream), step):
                stream[pos : pos + step]

        assert cut() == count
        question = f"cut 1 MiB of {size // 1024} KiB frames out of reads of 64 KiB"
        tell(await _row(question, goal, pace, cut, least, "frame", count))


def _encode(body: bytes) -> bytes:
    encode_data = msg.encode_data
    return envelope.encode_row(DATA, 0, [encode_data(CHANNEL, 0, 0, body) for _ in range(MESSAGES)])


def _encode_least(body: bytes) -> bytes:
    pack = _SAME_BYTES.pack
    return b"".join(
        [
            pack(_FRAME, _MAGIC, 1, 0, DATA, msg_id, 0, _PAYLOAD, len(CHANNEL), CHANNEL, 0, 0, _BODY, body)
            for msg_id in range(MESSAGES)
        ]
    )


def _two(value: int) -> int:
    """A varint of two bytes as one u16."""
    return value & 127 | 128 | value >> 7 << 8


_BODY = _two(BODY_BYTES)
_PAYLOAD = _two(1 + len(CHANNEL) + 11 + BODY_BYTES)
_FRAME = _two(24 + 1 + len(CHANNEL) + 11 + BODY_BYTES)
_MAGIC = int.from_bytes(envelope.MAGIC, "little")


def _decode(bundle: bytes) -> None:
    for _ in bundles.read_bundle(bundle, MESSAGES):
        pass


def _decode_least(bundle: bytes) -> None:
    unpack = _SAME_BYTES.unpack_from
    for pos in range(0, len(bundle), _SAME_BYTES.size):
        unpack(bundle, pos)


async def _row(question: str, goal: int, pace: Pace, ours: Work, least: Work, what: str, per: int) -> Row:
    async def measure(work: Work) -> float:
        return seconds_of(work, TIMES)

    measured = await pace.in_turn(7 if pace.quick else 15, lambda: measure(ours), lambda: measure(least))
    ours_s, least_s = zip(*measured, strict=True)
    return row(
        question,
        ratio(ours_s, least_s),
        f"<= {goal}",
        value=statistics.median(ours_s) / per * 1e6,
        unit=f"µs per {what}",
        baseline=f"the least work for the same bytes, {statistics.median(least_s) / per * 1e6:.3f}",
    )
