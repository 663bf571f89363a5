"""Hypothesis strategies for all that goes over the wire, and for how a wire may hurt it.

Values: one strategy per message (`hellos()`, `datas()`, …), `messages()` for any of them, `envelopes()` and
`inner_envelopes()`, `announcements()`, `batches()` and whole `logs()` with good signatures. Bytes: `streams()` of
frames, `cuts(data)` into chunks. All of these are valid and within the given sizes. What is not: `malformed()` draws
bytes that must be refused, with the rule that they break; `mutations(data)` does any harm, and now and then none.

While trio-p2p is installed, Hypothesis knows the types as well: `st.from_type(p2p.Envelope)`.

Numbers favour the edges of their encodings (0, 127, 128, 2^32, 2^64 - 1), where codecs break.

Example:
    >>> from hypothesis import given
    >>> from p2p import msg
    >>> from p2p.testing import strategies as wire
    >>> @given(wire.messages())
    ... def test_round_trip(message):
    ...     assert msg.decode_payload(message.TYPE, message.encode()) == message

Needs Hypothesis: install trio-p2p[testing].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from hypothesis import strategies as st

from p2p import msg
from p2p.crypto.announce import sign_announcement
from p2p.crypto.identity import Identity
from p2p.envelope import (
    ENCRYPTED,
    NONCE_BYTES,
    TAG_BYTES,
    Envelope,
    MessageType,
    ProtocolVersion,
    encode_envelope,
)
from p2p.framing import encode_varint
from p2p.ids import PeerEndpoint, PeerId
from p2p.replication.batch import Batch, NewRecord, encode_portions, seal
from p2p.replication.clock import HLC_MAX
from p2p.replication.heads import SEQ_MAX, ZERO_HASH
from p2p.testing.malformed import FAULTS, Form, Malformed, faults_of

BODY_BYTES_MAX: Final = 300
"""Default size of byte strings: past the step from one to two varint bytes, and still quick to shrink."""

_EDGES: Final = (0, 1, 127, 128, 255, 256, 16_383, 16_384, 2**21 - 1, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)


def integers(bits: int) -> st.SearchStrategy[int]:
    """Unsigned integers of so many bits, often at an edge of their encoding."""
    top = 2**bits - 1
    return st.sampled_from([edge for edge in _EDGES if edge <= top]) | st.integers(0, top)


def bodies(size_max: int = BODY_BYTES_MAX) -> st.SearchStrategy[bytes]:
    """Byte strings of up to `size_max` bytes, often just around 128, where a length takes its second byte."""
    around = [size for size in (126, 127, 128, 129) if size <= size_max]
    plain = st.binary(max_size=size_max)
    return plain | st.sampled_from(around).map(bytes) if around else plain


def texts(size_max: int = 40) -> st.SearchStrategy[str]:
    """Any text that UTF-8 can carry, of up to `size_max` characters: the codec takes all of them."""
    return st.text(st.characters(codec="utf-8"), max_size=size_max)


def peer_ids() -> st.SearchStrategy[PeerId]:
    """32 bytes in the place of a public key; hardly ever a valid one."""
    return st.binary(min_size=32, max_size=32).map(PeerId)


def endpoints() -> st.SearchStrategy[PeerEndpoint]:
    """Places of every scheme that is dialled directly, by address or by name, with and without whom to expect there."""
    return st.builds(
        PeerEndpoint,
        host=st.ip_addresses().map(str) | st.sampled_from(["localhost", "example.org", "a-b.example.org"]),
        port=st.integers(0, 65_535),
        scheme=st.sampled_from(["tcp", "ws", "wss"]),
        expect=st.none() | peer_ids().map(str) | st.sampled_from(["a", "shop-1"]),
    )


def capabilities(size_max: int = 6) -> st.SearchStrategy[msg.Capabilities]:
    """Key and value pairs in any order, no key twice."""
    return st.lists(st.tuples(texts(10), texts(10)), max_size=size_max, unique_by=lambda pair: pair[0]).map(tuple)


def hellos() -> st.SearchStrategy[msg.Hello]:
    """Any Hello."""
    return st.builds(
        msg.Hello,
        nonce_a=integers(64),
        ts_ms=integers(64),
        node_id=texts(),
        capabilities=capabilities(),
        public_key=bodies(),
    )


def hello_acks() -> st.SearchStrategy[msg.HelloAck]:
    """Any HelloAck, with and without its public_key."""
    return st.builds(msg.HelloAck, nonce_a=integers(64), nonce_b=integers(64), public_key=st.none() | bodies())


def hello_finishes() -> st.SearchStrategy[msg.HelloFinish]:
    """Any HelloFinish."""
    return st.builds(msg.HelloFinish, nonce_a=integers(64), nonce_b=integers(64), signature=bodies())


def pings() -> st.SearchStrategy[msg.Ping]:
    """Any Ping."""
    return st.builds(msg.Ping, nonce=integers(64))


def pongs() -> st.SearchStrategy[msg.Pong]:
    """Any Pong."""
    return st.builds(msg.Pong, nonce=integers(64))


def wal_pushes(size_max: int = BODY_BYTES_MAX) -> st.SearchStrategy[msg.WalPush]:
    """Any WalPush. Its range and its bytes mean nothing; a sealed batch is replication's to make."""
    return st.builds(msg.WalPush, seq_begin=integers(64), seq_end=integers(64), wal_bytes=bodies(size_max))


def wal_acks() -> st.SearchStrategy[msg.WalAck]:
    """Any WalAck."""
    return st.builds(msg.WalAck, last_applied_seq=integers(64))


def outbox_pulls() -> st.SearchStrategy[msg.OutboxPull]:
    """Any OutboxPull."""
    return st.builds(msg.OutboxPull, target_node_id=texts(), max_items=integers(32))


def goodbyes() -> st.SearchStrategy[msg.Goodbye]:
    """Any Goodbye, also of reasons that this version does not know."""
    return st.builds(msg.Goodbye, reason=integers(16), detail=texts())


def head_entries() -> st.SearchStrategy[msg.HeadEntry]:
    """Any entry of a WalHeads."""
    return st.builds(
        msg.HeadEntry,
        origin=peer_ids(),
        seq=integers(64),
        hash=st.binary(min_size=32, max_size=32),
        want=st.booleans(),
    )


def wal_heads(size_max: int = 5) -> st.SearchStrategy[msg.WalHeads]:
    """Any WalHeads of up to `size_max` entries."""
    entries = st.lists(head_entries(), max_size=size_max, unique_by=lambda entry: entry.origin)
    return st.builds(msg.WalHeads, entries=entries.map(tuple))


def relays(size_max: int = BODY_BYTES_MAX) -> st.SearchStrategy[msg.Relay]:
    """Any Relay of a kind that exists; fields that a kind does not use may be filled all the same."""
    return st.builds(
        msg.Relay,
        circuit=integers(64),
        kind=st.integers(msg.Relay.OPEN, msg.Relay.MOVE),
        source=texts(),
        target=texts(),
        ttl=integers(8),
        payload=bodies(size_max),
    )


def datas(size_max: int = BODY_BYTES_MAX) -> st.SearchStrategy[msg.Data]:
    """Any Data with a body of up to `size_max` bytes."""
    return st.builds(msg.Data, channel=texts(), reply_to=integers(64), status=integers(8), body=bodies(size_max))


def attached_entries() -> st.SearchStrategy[msg.AttachedEntry]:
    """Any entry of an Attached."""
    return st.builds(msg.AttachedEntry, peer=peer_ids(), hops=st.integers(1, msg.Attached.HOPS_MAX))


def attached(size_max: int = 5) -> st.SearchStrategy[msg.Attached]:
    """Any Attached of up to `size_max` peers."""
    entries = st.lists(attached_entries(), max_size=size_max, unique_by=lambda entry: entry.peer)
    return st.builds(msg.Attached, entries=entries.map(tuple))


def request_cancels() -> st.SearchStrategy[msg.RequestCancel]:
    """Any RequestCancel."""
    return st.builds(msg.RequestCancel, msg_id=integers(64))


def fork_proofs(size_max: int = BODY_BYTES_MAX) -> st.SearchStrategy[msg.ForkProof]:
    """Any ForkProof in form; it proves nothing."""
    return st.builds(msg.ForkProof, first=bodies(size_max), second=bodies(size_max))


def inner_envelopes() -> st.SearchStrategy[bytes]:
    """Bytes of a plain envelope as it may stand in a Bundle; now and then of a type that nobody knows."""
    known = st.one_of(
        datas(), pings(), pongs(), wal_acks(), wal_heads(2), goodbyes(), outbox_pulls(), request_cancels()
    )
    of_message = known.map(lambda message: (int(message.TYPE), message.encode()))
    of_stranger = st.tuples(st.integers(0x9000, 0xFFFF), bodies())
    return st.builds(
        lambda typed, msg_id, flags: encode_envelope(typed[0], msg_id, flags, typed[1]),
        of_message | of_stranger,
        integers(64),
        st.sampled_from((0, 2, 4, 6)),
    )


def bundles(size_max: int = 6) -> st.SearchStrategy[msg.Bundle]:
    """Any Bundle of up to `size_max` inner envelopes."""
    return st.builds(msg.Bundle, frames=st.lists(inner_envelopes(), max_size=size_max).map(tuple))


BY_TYPE: Final[Mapping[MessageType, Callable[[], st.SearchStrategy[msg.AnyMessage]]]] = MappingProxyType(
    {
        MessageType.HELLO: hellos,
        MessageType.PING: pings,
        MessageType.PONG: pongs,
        MessageType.HELLO_ACK: hello_acks,
        MessageType.HELLO_FINISH: hello_finishes,
        MessageType.WAL_PUSH: wal_pushes,
        MessageType.WAL_ACK: wal_acks,
        MessageType.OUTBOX_PULL: outbox_pulls,
        MessageType.GOODBYE: goodbyes,
        MessageType.WAL_HEADS: wal_heads,
        MessageType.RELAY: relays,
        MessageType.DATA: datas,
        MessageType.FORK_PROOF: fork_proofs,
        MessageType.BUNDLE: bundles,
        MessageType.ATTACHED: attached,
        MessageType.REQUEST_CANCEL: request_cancels,
    }
)
"""Message type to the strategy of its messages."""


def messages() -> st.SearchStrategy[msg.AnyMessage]:
    """Any message of any type."""
    return st.one_of([strategy() for strategy in BY_TYPE.values()])


def envelopes() -> st.SearchStrategy[Envelope]:
    """Any envelope of our major version, plain or sealed; the payload is any bytes and the type any number."""

    def build(minor: int, type: int, msg_id: int, flags: int, payload: bytes, nonce: bytes, tag: bytes) -> Envelope:
        sealed = bool(flags & ENCRYPTED)
        return Envelope(
            ProtocolVersion(1, minor), type, msg_id, flags, payload, nonce if sealed else b"", tag if sealed else b""
        )

    return st.builds(
        build,
        integers(16),
        st.sampled_from([int(known) for known in MessageType]) | integers(16),
        integers(64),
        st.integers(0, 7),
        bodies(),
        st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES),
        st.binary(min_size=TAG_BYTES, max_size=TAG_BYTES),
    )


def announcements() -> st.SearchStrategy[msg.DiscoveryAnnounce]:
    """Announcements that fit a datagram of 512 bytes."""

    def fits(announcement: msg.DiscoveryAnnounce) -> bool:
        try:
            announcement.to_json()
        except ValueError:
            return False
        return True

    return st.builds(
        msg.DiscoveryAnnounce,
        node_id=texts(20),
        tcp_port=integers(16),
        ts_ms=integers(64),
        nonce=integers(64),
        capabilities=capabilities(3),
    ).filter(fits)


def identities() -> st.SearchStrategy[Identity]:
    """Identities with real keys."""
    return st.binary(min_size=32, max_size=32).map(lambda seed: Identity.generate(lambda size: seed[:size]))


@st.composite
def signed_announcements(draw: st.DrawFn) -> msg.DiscoveryAnnounce:
    """Announcements that their key signed, of nodes that listen above port 9; they fit a datagram of 512 bytes."""
    plain = msg.DiscoveryAnnounce(
        draw(st.text("abcxyz-09", min_size=1, max_size=20)),
        draw(st.integers(10, 65_535)),
        draw(integers(64)),
        draw(integers(64)),
        (("proto", "1.0"),),
    )
    return sign_announcement(plain, draw(identities()))


def new_records(size_max: int = BODY_BYTES_MAX) -> st.SearchStrategy[NewRecord]:
    """Any record to append, for everybody or for somebody."""
    return st.builds(NewRecord, kind=texts(20), target=st.none() | peer_ids(), payload=bodies(size_max))


@st.composite
def logs(draw: st.DrawFn, batches_max: int = 4, records_max: int = 5, begins: bool = True) -> list[Batch]:
    """The batches of one origin, each behind the one before it, all of them signed.

    Args:
        batches_max: how many batches at the most, at least one.
        records_max: how many records in each at the most, at least one.
        begins: whether they begin at the log's beginning; otherwise anywhere.
    """
    identity = draw(identities())
    contents = draw(
        st.lists(st.lists(new_records(), min_size=1, max_size=records_max), min_size=1, max_size=batches_max)
    )
    count = sum(map(len, contents))
    seq = 1 if begins else draw(st.integers(2, 1000) | st.integers(2, SEQ_MAX - count))
    prev_hash = ZERO_HASH if begins else draw(st.binary(min_size=32, max_size=32).filter(any))
    hlc = draw(st.integers(0, HLC_MAX - count))
    found: list[Batch] = []
    for records in contents:
        batch = seal(
            origin=identity.peer_id,
            seq_begin=seq,
            prev_hash=prev_hash,
            base_hlc=hlc,
            portions=encode_portions(records),
            sign=identity.sign,
        )
        found.append(batch)
        seq, prev_hash, hlc = batch.seq_end + 1, batch.hash, batch.last_hlc
    return found


def batches(records_max: int = 5) -> st.SearchStrategy[Batch]:
    """One signed batch, the first of its log or any other."""
    return st.booleans().flatmap(lambda begins: logs(1, records_max, begins)).map(lambda found: found[0])


def well_formed(form: Form, type: MessageType | None = None) -> st.SearchStrategy[bytes]:
    """Bytes of a form that everybody accepts; batches and announcements are signed.

    Args:
        form: what they are.
        type: of the message, for a payload.
    """
    if form is Form.PAYLOAD:
        assert type is not None, "which message's payload?"
        return BY_TYPE[type]().map(lambda message: message.encode())
    return _WELL_FORMED[form]()


@st.composite
def malformed(draw: st.DrawFn, form: Form | None = None, type: MessageType | None = None) -> Malformed:
    """Bytes that must be refused, with the rule that they break and the `Reason` that follows.

    Args:
        form: of what; any by default.
        type: payloads of this message only.
    """
    if type is not None:
        form = Form.PAYLOAD
    fault = draw(st.sampled_from(FAULTS if form is None else faults_of(form, type)))
    if fault.types and type is None:
        type = draw(st.sampled_from(sorted(fault.types)))
    data = draw(well_formed(fault.form, type))
    return fault.make(data, lambda low, high: draw(st.integers(low, high)), type)


def streams(payloads: st.SearchStrategy[bytes] | None = None) -> st.SearchStrategy[tuple[list[bytes], bytes]]:
    """Payloads, and the stream of frames that carries them.

    Args:
        payloads: what the frames carry; any bytes by default, a few of them longer than 2 KiB.
    """
    if payloads is None:
        payloads = bodies() | st.integers(2_000, 20_000).map(lambda size: bytes(range(256)) * (size // 256))
    return st.lists(payloads, max_size=8).map(
        lambda found: (found, b"".join([encode_varint(len(payload)) + payload for payload in found]))
    )


_WELL_FORMED: Final[Mapping[Form, Callable[[], st.SearchStrategy[bytes]]]] = MappingProxyType(
    {
        Form.VARINT: lambda: integers(64).map(encode_varint),
        Form.STREAM: lambda: streams().map(lambda found: found[1]),
        Form.ENVELOPE: lambda: envelopes().map(lambda envelope: envelope.encode()),
        Form.BATCH: lambda: batches().map(lambda batch: batch.wal_bytes),
        Form.ANNOUNCE: lambda: signed_announcements().map(lambda said: said.to_json().encode()),
    }
)


@st.composite
def cuts(draw: st.DrawFn, data: bytes, pieces_max: int = 20) -> list[bytes]:
    """The data in pieces, as a stream may deliver it; empty pieces and pieces of one byte among them."""
    if len(data) <= 200 and draw(st.booleans()):
        return [data[pos : pos + 1] for pos in range(len(data))]
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=pieces_max - 1)))
    return [data[start:stop] for start, stop in zip([0, *places], [*places, len(data)], strict=True)]


_POISON: Final = (
    b"\xff" * 10,
    b"\x80\x00",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\xff\xff\xff\xff\x0f",
    b"\xed\xa0\x80",
    b"VP2P",
    b"\x00",
)


@st.composite
def mutations(draw: st.DrawFn, data: bytes) -> bytes:
    """The data with one to three wounds: a byte changed, bytes cut out, doubled, moved to the end or put in, among
    them lengths that cannot be true. Now and then it is still what it was."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 12)))
        wound = draw(st.sampled_from(("change", "cut", "double", "poison", "truncate", "insert", "move")))
        head, middle, tail = data[:start], data[start:stop], data[stop:]
        if wound == "change":
            data = head + bytes(byte ^ draw(st.integers(1, 255)) for byte in middle[:1]) + middle[1:] + tail
        elif wound == "cut":
            data = head + tail
        elif wound == "double":
            data = head + middle + middle + tail
        elif wound == "poison":
            data = head + draw(st.sampled_from(_POISON)) + tail
        elif wound == "truncate":
            data = head
        elif wound == "insert":
            data = head + draw(st.binary(min_size=1, max_size=4)) + middle + tail
        else:
            data = head + tail + middle
    return data
