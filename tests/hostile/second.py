"""A second implementation of the protocol, written from docs/protocol.md and nothing else.

It shares no line with p2p and imports only trio and the primitives of `cryptography` (and Noise, which the page takes
as published, in the order of its sections 5 and 7). It does what a small honest node must do and no more: what it is
sent, it checks, and an assertion fails where the page and p2p do not say the same. Sections below are the page's.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

HELLO, PING, PONG, HELLO_ACK, HELLO_FINISH = 1, 2, 3, 4, 5
WAL_PUSH, WAL_ACK, OUTBOX_PULL = 10, 11, 12
GOODBYE, WAL_HEADS, DATA, BUNDLE = 256, 257, 259, 262
ENCRYPTED = 1

# 1. The alphabet.


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def sized(value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return varint(len(raw)) + raw


class Reader:
    """Takes one field after the other; `end` shows that there is nothing behind them."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def raw(self, size: int) -> bytes:
        assert self.at + size <= len(self.data), "cut off"
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str) -> int:
        return int(struct.unpack("<" + form, self.raw(struct.calcsize("<" + form)))[0])

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.raw(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                assert (byte or not shift) and value < 2**64, "not the shortest form"
                return value
            shift += 7

    def sized(self) -> bytes:
        return self.raw(self.varint())

    def text(self) -> str:
        return self.sized().decode()

    def end(self) -> None:
        assert self.at == len(self.data), "bytes after the end"


# 3. Envelopes.


class Envelope(NamedTuple):
    minor: int
    type: int
    msg_id: int
    flags: int
    nonce: bytes
    tag: bytes
    payload: bytes


def write_envelope(type: int, msg_id: int, payload: bytes, *, flags: int = 0, seal: bytes = b"") -> bytes:
    return b"VP2P" + struct.pack("<HHHQI", 1, 0, type, msg_id, flags) + seal + sized(payload)


def read_envelope(data: bytes) -> Envelope:
    reader = Reader(data)
    assert reader.raw(4) == b"VP2P"
    major, minor, type, msg_id, flags = struct.unpack("<HHHQI", reader.raw(18))
    assert major == 1
    assert flags & ~7 == 0
    nonce, tag = (reader.raw(12), reader.raw(16)) if flags & ENCRYPTED else (b"", b"")
    payload = reader.sized()
    reader.end()
    return Envelope(minor, type, msg_id, flags, nonce, tag, payload)


# 5. Handshake: Noise, revision 34, sections 5.1 to 5.3 and 7.5, for XX and XXpsk0.


def hkdf(key: bytes, material: bytes, count: int) -> list[bytes]:
    temp = hmac.digest(key, material, "sha256")
    out = [hmac.digest(temp, b"\x01", "sha256")]
    for number in range(2, count + 1):
        out.append(hmac.digest(temp, out[-1] + bytes([number]), "sha256"))
    return out


class Noise:
    PATTERN = (("e",), ("e", "ee", "s", "es"), ("s", "se"))

    def __init__(self, *, initiator: bool, prologue: bytes, psk: bytes | None, static: X25519PrivateKey) -> None:
        name = f"Noise_XX{'' if psk is None else 'psk0'}_25519_ChaChaPoly_SHA256".encode()
        self.h = self.ck = name.ljust(32, b"\0") if len(name) <= 32 else hashlib.sha256(name).digest()
        self.k, self.n = b"", 0
        self.initiator, self.psk, self.s, self.turn = initiator, psk, static, 0
        self.e = X25519PrivateKey.generate()
        self.re = self.rs = b""
        self.mix_hash(prologue)

    def mix_hash(self, data: bytes) -> None:
        self.h = hashlib.sha256(self.h + data).digest()

    def mix_key(self, material: bytes) -> None:
        self.ck, self.k = hkdf(self.ck, material, 2)
        self.n = 0

    def seal(self, data: bytes, *, opening: bool) -> bytes:
        if not self.k:
            self.mix_hash(data)
            return data
        nonce = struct.pack("<IQ", 0, self.n)
        self.n += 1
        aead = ChaCha20Poly1305(self.k)
        out = (aead.decrypt if opening else aead.encrypt)(nonce, data, self.h)
        self.mix_hash(data if opening else out)
        return out

    def agree(self, token: str) -> None:
        ours = {"e": self.e, "s": self.s}
        theirs = {"e": self.re, "s": self.rs}
        # The first letter is the initiator's key.
        mine, other = (token[0], token[1]) if self.initiator else (token[1], token[0])
        self.mix_key(ours[mine].exchange(X25519PublicKey.from_public_bytes(theirs[other])))

    def message(self, data: bytes, *, reading: bool) -> bytes:
        """Write `data` as the payload of the next message, or read the next message and return its payload."""
        reader, out = Reader(data if reading else b""), b""
        if self.psk is not None and self.turn == 0:
            self.ck, extra, self.k = hkdf(self.ck, self.psk, 3)
            self.mix_hash(extra)
            self.n = 0
        for token in self.PATTERN[self.turn]:
            if token == "e":
                public = reader.raw(32) if reading else self.e.public_key().public_bytes_raw()
                self.re = public if reading else self.re
                out += public
                self.mix_hash(public)
                if self.psk is not None:
                    self.mix_key(public)
            elif token == "s" and reading:
                self.rs = self.seal(reader.raw(48), opening=True)
            elif token == "s":
                out += self.seal(self.s.public_key().public_bytes_raw(), opening=False)
            else:
                self.agree(token)
        self.turn += 1
        if reading:
            return self.seal(data[reader.at :], opening=True)
        return out + self.seal(data, opening=False)


# 6. Sessions.


class Direction:
    def __init__(self, cipher: type[AESGCM | ChaCha20Poly1305], key: bytes) -> None:
        self.cipher, self.key, self.counter = cipher, key, 0

    def next(self) -> tuple[AESGCM | ChaCha20Poly1305, bytes]:
        if self.counter and self.counter % 65_536 == 0:
            self.key = self.cipher(self.key).encrypt(b"\xff" * 8 + bytes(4), bytes(32), b"")[:32]
        self.counter += 1
        return self.cipher(self.key), struct.pack("<QI", self.counter - 1, 0)


def capabilities(pairs: Sequence[tuple[str, str]]) -> bytes:
    return varint(len(pairs)) + b"".join(sized(key) + sized(value) for key, value in pairs)


def read_capabilities(reader: Reader) -> dict[str, str]:
    pairs = [(reader.text(), reader.text()) for _ in range(reader.varint())]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


class Link:
    """One link with a real node.

    Args:
        stream: the TCP stream.
        initiator: whether we dialled.
        key: the identity.
        psk: the network key.
        offers: capabilities offered under the seal.
    """

    def __init__(
        self,
        stream: trio.SocketStream,
        *,
        initiator: bool,
        key: Ed25519PrivateKey,
        node_id: str = "second",
        psk: bytes | None = None,
        network_name: str = "",
        offers: Sequence[tuple[str, str]] = (("bundle", "1"), ("cipher", "aes256gcm,chacha20poly1305")),
    ) -> None:
        self.stream, self.initiator, self.key, self.psk = stream, initiator, key, psk
        self.identity = key.public_key().public_bytes_raw()
        self.node_id, self.network_name, self.offers = node_id, network_name, tuple(offers)
        self.static = X25519PrivateKey.generate()
        self.buffer = bytearray()
        self.inbox: list[tuple[int, int, int, bytes]] = []
        self.last_id_in = self.last_id_out = 0
        self.peer_id, self.peer_node_id, self.peer_offers = b"", "", {}
        self.bundles_read = 0

    # Frames.

    async def read_frame(self) -> bytes:
        size = shift = 0
        for byte in await self.read_exactly_varint():
            size |= (byte & 127) << shift
            shift += 7
        assert size <= 1 << 20
        while len(self.buffer) < size:
            await self.read_more()
        frame = bytes(self.buffer[:size])
        del self.buffer[:size]
        return frame

    async def read_exactly_varint(self) -> bytes:
        at = 0
        while True:
            while at >= len(self.buffer):
                await self.read_more()
            at += 1
            if self.buffer[at - 1] < 128:
                header = bytes(self.buffer[:at])
                del self.buffer[:at]
                return header

    async def read_more(self) -> None:
        data = await self.stream.receive_some()
        if not data:
            raise EOFError
        self.buffer += data

    def next_id(self) -> int:
        self.last_id_out += 1
        return self.last_id_out

    async def say_plain(self, type: int, payload: bytes) -> None:
        await self.stream.send_all(sized(write_envelope(type, self.next_id(), payload)))

    async def hear_plain(self, type: int, msg_id: int) -> Reader:
        envelope = read_envelope(await self.read_frame())
        assert (envelope.type, envelope.flags, envelope.msg_id, envelope.minor) == (type, 0, msg_id, 0)
        self.last_id_in = msg_id
        return Reader(envelope.payload)

    # Handshake.

    async def shake_hands(self) -> None:
        await (self.shake_as_initiator() if self.initiator else self.shake_as_responder())

    def begin(self, hello_head: bytes) -> Noise:
        """Everything of the Hello up to its public key is in the prologue, with an empty key behind it."""
        prologue = b"vix-p2p/noise/1" + sized(self.network_name) + struct.pack("<HH", 1, 0) + hello_head + b"\0"
        return Noise(initiator=self.initiator, prologue=prologue, psk=self.psk, static=self.static)

    def proof(self, noise: Noise, nonces: tuple[int, int]) -> bytes:
        role = 0 if self.initiator else 1
        signed = b"vix-p2p/identity/1" + bytes([role]) + self.static.public_key().public_bytes_raw() + noise.re
        head = varint(nonces[0]) + varint(nonces[1]) + sized(self.node_id) + capabilities(self.offers)
        return head + self.identity + self.key.sign(signed)

    def check_proof(self, noise: Noise, nonces: tuple[int, int], payload: bytes) -> None:
        reader = Reader(payload)
        assert (reader.varint(), reader.varint()) == nonces
        self.peer_node_id, self.peer_offers = reader.text(), read_capabilities(reader)
        self.peer_id, signature = reader.raw(32), reader.raw(64)
        reader.end()
        role = 1 if self.initiator else 0
        signed = b"vix-p2p/identity/1" + bytes([role]) + noise.rs + noise.e.public_key().public_bytes_raw()
        Ed25519PublicKey.from_public_bytes(self.peer_id).verify(signature, signed)

    async def shake_as_initiator(self) -> None:
        nonce_a = int.from_bytes(os.urandom(8), "little")
        head = varint(nonce_a) + varint(1_700_000_000_000) + sized(self.node_id)
        head += capabilities((("hs", "noise"), ("proto", "1.0")))
        noise = self.begin(head)
        await self.say_plain(HELLO, head + sized(noise.message(b"", reading=False)))
        ack = await self.hear_plain(HELLO_ACK, 1)
        assert ack.varint() == nonce_a
        nonces = (nonce_a, ack.varint())
        payload = noise.message(ack.sized(), reading=True)
        ack.end()
        self.check_proof(noise, nonces, payload)
        finish = noise.message(self.proof(noise, nonces), reading=False)
        await self.say_plain(HELLO_FINISH, varint(nonces[0]) + varint(nonces[1]) + sized(finish))
        self.take_keys(noise)

    async def shake_as_responder(self) -> None:
        hello = await self.hear_plain(HELLO, 1)
        nonce_a, _, node_id = hello.varint(), hello.varint(), hello.text()
        assert read_capabilities(hello) == {"hs": "noise", "proto": "1.0"}
        noise = self.begin(hello.data[: hello.at])
        assert noise.message(hello.sized(), reading=True) == b""
        hello.end()
        nonces = (nonce_a, int.from_bytes(os.urandom(8), "little"))
        ack = noise.message(self.proof(noise, nonces), reading=False)
        await self.say_plain(HELLO_ACK, varint(nonces[0]) + varint(nonces[1]) + sized(ack))
        finish = await self.hear_plain(HELLO_FINISH, 2)
        assert (finish.varint(), finish.varint()) == nonces
        payload = noise.message(finish.sized(), reading=True)
        finish.end()
        self.check_proof(noise, nonces, payload)
        assert self.peer_node_id == node_id
        self.take_keys(noise)

    def take_keys(self, noise: Noise) -> None:
        lists = [offers.get("cipher", "").split(",") for offers in (dict(self.offers), self.peer_offers)]
        cipher = AESGCM if all("aes256gcm" in names for names in lists) else ChaCha20Poly1305
        # Noise's Split: the first key is for what the initiator sends.
        keys = hkdf(noise.ck, b"", 2)
        self.outbound = Direction(cipher, keys[0 if self.initiator else 1])
        self.inbound = Direction(cipher, keys[1 if self.initiator else 0])

    # Messages.

    async def say(self, type: int, payload: bytes, *, flags: int = 0) -> int:
        msg_id = self.next_id()
        await self.stream.send_all(self.sealed(type, msg_id, payload, flags))
        return msg_id

    async def say_bundle(self, *messages: tuple[int, bytes]) -> None:
        inner = b"".join(sized(write_envelope(type, self.next_id(), payload)) for type, payload in messages)
        await self.say(BUNDLE, inner)

    def sealed(self, type: int, msg_id: int, payload: bytes, flags: int = 0) -> bytes:
        aead, nonce = self.outbound.next()
        flags |= ENCRYPTED
        out = aead.encrypt(nonce, payload, struct.pack("<HHHQI", 1, 0, type, msg_id, flags))
        return sized(write_envelope(type, msg_id, out[:-16], flags=flags, seal=nonce + out[-16:]))

    async def hear(self, *types: int) -> tuple[int, int, int, Reader]:
        """The next message of these types, as (type, msg_id, flags, payload); others are passed over."""
        while True:
            while self.inbox:
                type, msg_id, flags, payload = self.inbox.pop(0)
                if type in types or not types:
                    return type, msg_id, flags, Reader(payload)
            await self.read_sealed()

    async def read_sealed(self) -> None:
        envelope = read_envelope(await self.read_frame())
        aead, nonce = self.inbound.next()
        assert envelope.flags & ENCRYPTED
        assert envelope.nonce == nonce
        aad = struct.pack("<HHHQI", 1, envelope.minor, envelope.type, envelope.msg_id, envelope.flags)
        plain = aead.decrypt(nonce, envelope.payload + envelope.tag, aad)
        if envelope.type != BUNDLE:
            self.take(envelope._replace(payload=plain, flags=envelope.flags & ~ENCRYPTED))
            return
        assert "bundle" in dict(self.offers)
        self.bundles_read += 1
        reader = Reader(plain)
        while reader.at < len(plain):
            self.take(read_envelope(reader.sized()))
        self.check_id(envelope.msg_id)

    def take(self, envelope: Envelope) -> None:
        self.check_id(envelope.msg_id)
        assert envelope.flags & ~4 == 0
        assert envelope.type not in (HELLO, HELLO_ACK, HELLO_FINISH, BUNDLE)
        self.inbox.append((envelope.type, envelope.msg_id, envelope.flags, envelope.payload))

    def check_id(self, msg_id: int) -> None:
        assert msg_id > self.last_id_in, "message ids only grow"
        self.last_id_in = msg_id


# 4. and 8. The messages of the log.


class Head(NamedTuple):
    origin: bytes
    seq: int
    hash: bytes
    want: int


def write_heads(*heads: Head) -> bytes:
    return varint(len(heads)) + b"".join(
        head.origin + varint(head.seq) + head.hash + bytes([head.want]) for head in heads
    )


def read_heads(reader: Reader) -> list[Head]:
    heads = [Head(reader.raw(32), reader.varint(), reader.raw(32), reader.number("B")) for _ in range(reader.varint())]
    reader.end()
    return heads


class Record(NamedTuple):
    hlc: int
    kind: str
    target: str
    payload: bytes


class Batch(NamedTuple):
    origin: bytes
    seq_begin: int
    seq_end: int
    prev_hash: bytes
    records: list[Record]
    hash: bytes


def seal_batch(key: Ed25519PrivateKey, seq_begin: int, prev_hash: bytes, hlc: int, *payloads: bytes) -> bytes:
    body = bytes([1]) + key.public_key().public_bytes_raw() + struct.pack("<Q", seq_begin) + varint(len(payloads))
    body += prev_hash + struct.pack("<Q", hlc)
    body += b"".join(varint(1) + sized("app") + sized("") + sized(payload) for payload in payloads)
    return body + key.sign(b"vix-p2p/batch/1" + hashlib.sha256(body).digest())


def read_batch(wal_bytes: bytes) -> Batch:
    """Read a batch and check all that can be seen of it alone."""
    assert len(wal_bytes) <= 262_144
    reader = Reader(wal_bytes)
    assert reader.number("B") == 1
    origin, seq_begin, count, prev_hash, hlc = (
        reader.raw(32),
        reader.number("Q"),
        reader.varint(),
        reader.raw(32),
        reader.number("Q"),
    )
    assert 1 <= count <= 1024
    assert (seq_begin == 1) == (prev_hash == bytes(32))
    records = []
    for _ in range(count):
        hlc += reader.varint()
        records.append(Record(hlc, reader.text(), reader.text(), reader.sized()))
    assert hlc < 2**64
    digest = hashlib.sha256(wal_bytes[: reader.at]).digest()
    Ed25519PublicKey.from_public_bytes(origin).verify(reader.raw(64), b"vix-p2p/batch/1" + digest)
    reader.end()
    return Batch(origin, seq_begin, seq_begin + count - 1, prev_hash, records, digest)


def write_push(wal_bytes: bytes) -> bytes:
    batch = read_batch(wal_bytes)
    return struct.pack("<QQ", batch.seq_begin, batch.seq_end) + sized(wal_bytes)


def read_push(reader: Reader) -> Batch:
    seqs = reader.number("Q"), reader.number("Q")
    batch = read_batch(reader.sized())
    reader.end()
    assert seqs == (batch.seq_begin, batch.seq_end)
    return batch


def digest(logs: Mapping[bytes, tuple[int, bytes]]) -> bytes:
    """The digest of logs: origin → (seq, head hash)."""
    parts = [origin + struct.pack("<Q", seq) + head for origin, (seq, head) in sorted(logs.items()) if seq]
    return hashlib.sha256(b"vix-p2p/digest/1" + b"".join(parts)).digest()


def write_data(channel: str, body: bytes, reply_to: int = 0, status: int = 0) -> bytes:
    return sized(channel) + struct.pack("<QB", reply_to, status) + sized(body)


def write_goodbye(reason: int, detail: str = "") -> bytes:
    return struct.pack("<H", reason) + sized(detail)
