"""A million inputs for everything that reads bytes from outside: one error, bounded work, bounded memory.

    python -m pytest tests/proof/fuzz.py        PROOF_INPUTS=1000000 and PROOF_SEED=1 by default

Inputs are well-formed bytes with one to four wounds, from a seed. Whatever they are, a reader returns or raises the one
error of hostile input. Of every five hundredth the calls that it makes and the memory that it takes are counted: both
must grow with the bytes that are there, and never with what the bytes claim.
"""

from __future__ import annotations

import copy
import os
import random
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from p2p import msg
from p2p.binary import decode_varint, encode_bytes
from p2p.crypto.announce import signer_of
from p2p.envelope import Envelope, MessageType
from p2p.errors import CryptoError, RemoteProtocolError
from p2p.framing import FrameDecoder
from p2p.registry.form import read_announce, read_announced, read_peers
from p2p.replication.batch import parse_batch, verify_signature
from p2p.replication.fork import check_proof
from p2p.session import Role, Session
from p2p.testing.vectors import EXAMPLES, document
from tests.unit.session.helpers import NETWORK_KEY, config, drain, frames_of, live, sealed, start

INPUTS = int(os.environ.get("PROOF_INPUTS", "1000000"))
SEED = int(os.environ.get("PROOF_SEED", "1"))
SAMPLE_EVERY = 500

# The constant parts leave room for a handshake, which some readers make before they read.
CALLS_MAX, CALLS_PER_BYTE = 10_000, 40
MEMORY_MAX, MEMORY_PER_BYTE = 64 * 1024, 200

DOCUMENT = document()
PIECES = (
    b"\xff" * 10, b"\x80\x00", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\xff\xff\xff\xff\x0f", b"\xed\xa0\x80",
    b"VP2P", b"\0", b"\x7f", b"[" * 200, b'{"a":' * 100, b"1e999", b"\xe2\x80\xae", bytes(300),
)  # fmt: skip


def wounded(dice: random.Random, data: bytes) -> bytes:
    """The data after one to four wounds."""
    for _ in range(dice.randrange(1, 5)):
        at = dice.randrange(len(data) + 1)
        way = dice.randrange(6)
        if way == 0:
            data = data[:at] + bytes((dice.randrange(256),)) + data[at + 1 :]
        elif way == 1:
            data = data[:at] + dice.choice(PIECES) + data[at:]
        elif way == 2:
            data = data[:at]
        elif way == 3:
            data = data[:at] + data[at + dice.randrange(1, 9) :]
        elif way == 4:
            data = data[at:] + data[:at]
        else:
            data = data[:at] + data[max(0, at - dice.randrange(1, 40)) :]
    return data


@dataclass(frozen=True)
class Target:
    """One reader.

    Args:
        share: of all inputs.
        corpus: what is wounded.
        read: takes the input; an index says which of the corpus it was made of.
    """

    name: str
    share: float
    corpus: tuple[bytes, ...]
    read: Callable[[bytes, int], object]


def _section(name: str, field: str = "bytes") -> tuple[bytes, ...]:
    entries = DOCUMENT[name]
    assert isinstance(entries, list)
    return tuple(bytes.fromhex(entry[field]) for entry in entries)


def _read_stream(data: bytes, _: int) -> None:
    decoder = FrameDecoder()
    for begin in range(0, len(data), 7):
        decoder.feed(data[begin : begin + 7])
        while (frame := decoder.next_frame()) is not None:
            Envelope.decode(bytes(frame))
        assert decoder.buffered <= len(data)


def _read_batch(data: bytes, _: int) -> None:
    batch = parse_batch(data)
    list(batch.records())
    assert batch.wal_bytes == data
    verify_signature(batch)


def _read_proof(data: bytes, _: int) -> None:
    check_proof(data, BATCHES[0])


def _read_datagram(data: bytes, _: int) -> None:
    signer_of(msg.DiscoveryAnnounce.from_json(data))


class Handshakes:
    """Sessions that wait for each of the three messages; a new one for every input, as for every stranger."""

    def __init__(self) -> None:
        self.a, self.b = config("a", network_key=NETWORK_KEY), config("b", network_key=NETWORK_KEY)
        i, r = start(self.a, self.b)
        hello = i.data_to_send()
        r.receive_data(hello, 0.0)
        ack = r.data_to_send()
        i.receive_data(ack, 0.0)
        drain(i)
        self.messages = (hello, ack, i.data_to_send())

    def read(self, data: bytes, which: int) -> None:
        i, r = start(self.a, self.b)
        if which == 1:
            i.data_to_send()
            session = i
        else:
            session = r
            if which == 2:
                r.receive_data(self.messages[0], 0.0)
                r.data_to_send()
        session.receive_data(data, 0.0)
        drain(session)
        assert len(session.data_to_send()) <= 1024


class LiveSession:
    """A live session whose peer seals whatever it likes; whenever it ended, a copy of the first.

    Nearly every input ends it, and a handshake would cost a hundred times as much as what is tried here.
    """

    def __init__(self) -> None:
        self.ends = config("a"), config("b")
        self.first = live(*self.ends)
        for session in self.first:
            for direction in (session._inbound, session._outbound):
                assert direction is not None
                direction.rest()  # ciphers cannot be copied: they are made of their keys again
        self.pair: tuple[Session, Session] | None = None
        self.uses = 0

    def _copied(self) -> tuple[Session, Session]:
        fixed = [one for end in self.ends for one in (end, end.limits)]
        fixed += [session.peer_capabilities for session in self.first]
        return copy.deepcopy(self.first, {id(one): one for one in fixed})

    def read(self, data: bytes, which: int) -> None:
        if self.pair is None or self.uses == 200:
            self.pair, self.uses = self._copied(), 0
        self.uses += 1
        i, r = self.pair
        r.receive_data(sealed(i, int(EXAMPLES[which].TYPE), data), 0.0)
        drain(r)
        if r.state.name != "LIVE":
            self.pair = None
        else:
            r.data_to_send()


BATCHES = _section("batches")
ANNOUNCEMENTS = tuple(entry["text"].encode() for entry in DOCUMENT["announcements"])  # type: ignore[attr-defined]
LISTS = (
    b'{"peers":[]}',
    b'{"peers":[{"node_id":"a","host":"203.0.113.5","port":9000}]}',
    b'[{"node_id":"a","host":"203.0.113.5","tcp_port":9000}]',
)
HANDSHAKES, LIVE = Handshakes(), LiveSession()
PAYLOADS = tuple(message.encode() for message in EXAMPLES)

TARGETS = (
    Target("varints", 0.16, _section("varints"), lambda data, _: decode_varint(data)),
    Target("streams", 0.12, tuple(encode_bytes(one) for one in _section("envelopes")), _read_stream),
    Target("envelopes", 0.16, _section("envelopes"), lambda data, _: Envelope.decode(data)),
    Target("payloads", 0.3, PAYLOADS, lambda data, which: msg.decode_payload(EXAMPLES[which].TYPE, data)),
    Target("batches", 0.1, BATCHES, _read_batch),
    Target("fork proofs", 0.02, BATCHES, _read_proof),
    Target("datagrams", 0.05, ANNOUNCEMENTS, _read_datagram),
    Target("registry: lists", 0.03, LISTS, lambda data, _: read_peers(data, 100)),
    Target("registry: answers", 0.01, (b'{"ttl":60}', b'{"ttl_s":60}', b"{}"), lambda data, _: read_announced(data)),
    Target("registry: announcements", 0.02, ANNOUNCEMENTS, lambda data, _: read_announce(data)),
    Target("handshakes", 0.02, HANDSHAKES.messages, HANDSHAKES.read),
    Target("sealed payloads", 0.01, PAYLOADS, LIVE.read),
)


def test_the_shares_are_a_whole() -> None:
    assert sum(target.share for target in TARGETS) == pytest.approx(1)
    assert {message.TYPE for message in EXAMPLES} == set(MessageType)
    assert len(frames_of(HANDSHAKES.messages[0])) == 1
    assert HANDSHAKES.a.limits == HANDSHAKES.b.limits
    assert Role.INITIATOR is not Role.RESPONDER


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_whatever_comes_is_taken_or_refused(target: Target) -> None:
    dice = random.Random(f"{SEED}/{target.name}")
    refused = 0
    count = round(INPUTS * target.share)
    for number in range(count):
        which = number % len(target.corpus)
        data = wounded(dice, target.corpus[which])
        try:
            if number % SAMPLE_EVERY:
                target.read(data, which)
            else:
                _measured(target, data, which)
        except (RemoteProtocolError, CryptoError):
            refused += 1
        except BaseException as error:
            error.add_note(f"{target.name}, seed {SEED}, input {number}: {data.hex()}")
            raise
    # Inputs that are nearly always sound, or never reach a reader's rules, would prove nothing. Sessions end instead.
    if target.name not in ("handshakes", "sealed payloads"):
        assert count // 5 <= refused, f"only {refused} of {count} were refused"


def _measured(target: Target, data: bytes, which: int) -> None:
    """Read it twice: with its calls counted, and with its memory measured."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        target.read(data, which)
    except (RemoteProtocolError, CryptoError):
        pass
    finally:
        sys.setprofile(None)
    assert calls <= CALLS_MAX + CALLS_PER_BYTE * len(data), f"{calls} calls for {len(data)} bytes: {data[:200].hex()}"
    tracemalloc.start()
    try:
        target.read(data, which)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= MEMORY_MAX + MEMORY_PER_BYTE * len(data), f"{peak} bytes for {len(data)}: {data[:200].hex()}"
