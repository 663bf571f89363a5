"""The three messages that make strangers into proven peers: Hello, HelloAck, HelloFinish.

Noise XX (with the network key as psk0 where there is one) runs inside them and proves who holds which Noise key; the
sealed payloads of messages 2 and 3 tie that key to an Ed25519 identity. This is the part that knows what is in the
messages. When they come, how long that may take and whether the proven identity is welcome is the session's and its
owner's part.

What is in the clear is under the prologue, or repeated under the seal, so nothing of it can be changed on the way
unnoticed. Two kinds of errors leave this module: `RemoteProtocolError` for bytes that the form does not allow, and
`CryptoError` for everything that a forger or a man in the middle could cause; the second says nothing more.

Source: wire section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Final

import msgspec

from p2p.binary import Reader, encode_bytes, encode_str, encode_u16, encode_varint
from p2p.crypto.identity import SIGNATURE_BYTES, Identity, verify
from p2p.crypto.noise import HandshakeState, NoiseStatic
from p2p.envelope import MAJOR, MINOR, Envelope, MessageType, ParsedEnvelope, ProtocolVersion, encode_framed
from p2p.errors import CryptoError, Reason, RemoteProtocolError
from p2p.ids import PeerId, is_node_id, is_peer_id_text
from p2p.limits import Limits
from p2p.msg import Capabilities, decode_capabilities, encode_capabilities
from p2p.session.sealing import AES_256_GCM, CHACHA20_POLY1305
from p2p.session.states import Role
from p2p.values import frozen

PROTOCOL_NAME: Final = "Noise_XX_25519_ChaChaPoly_SHA256"
PROTOCOL_NAME_PSK: Final = "Noise_XXpsk0_25519_ChaChaPoly_SHA256"
CLEAR_CAPABILITIES: Final[Capabilities] = (("hs", "noise"), ("proto", f"{MAJOR}.{MINOR}"))

_PROLOGUE: Final = b"vix-p2p/noise/1"
_CLEAR: Final = encode_capabilities(CLEAR_CAPABILITIES)
_SIGNED: Final = MappingProxyType({role: b"vix-p2p/identity/1" + bytes((role.value,)) for role in Role})
"""What the signature of each role begins with."""
_NO_KEY: Final = encode_bytes(b"")
_REFUSED: Final = "the handshake did not verify"


@frozen
class SessionConfig:
    """What all sessions of one node and run share.

    Args:
        node_id: our label.
        identity: our Ed25519 key.
        static: our Noise key, made at this start.
        network_key: 32 random bytes that every member has, or None.
        network_name: keeps networks apart; empty by default.
        capabilities: what we offer under the seal, in order: `bundle`, `cipher`, `ephemeral`, ...
        limits: all bounds.

    Attributes:
        prologue: what the transcript of each handshake begins with, up to the Hello's minor version.
        claims: node id, capabilities and peer id as every proof of ours holds them.
        hello: what is in the clear of every Hello of ours, behind its nonce and time.
        offer: the capabilities as they are encoded.
        offered: the capabilities by name.
    """

    node_id: str
    identity: Identity = field(repr=False)
    static: NoiseStatic = field(repr=False)
    network_key: bytes | None = field(repr=False)
    network_name: str
    capabilities: Capabilities
    limits: Limits = field(repr=False)
    prologue: bytes = field(init=False, repr=False)
    claims: bytes = field(init=False, repr=False)
    hello: bytes = field(init=False, repr=False)
    offer: bytes = field(init=False, repr=False)
    offered: Mapping[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        node_id, offer = encode_str(self.node_id), encode_capabilities(self.capabilities)
        prologue = b"".join((_PROLOGUE, encode_str(self.network_name), encode_u16(MAJOR)))
        object.__setattr__(self, "prologue", prologue)
        object.__setattr__(self, "claims", b"".join((node_id, offer, self.identity.peer_id)))
        object.__setattr__(self, "hello", node_id + _CLEAR)
        object.__setattr__(self, "offer", offer)
        object.__setattr__(self, "offered", MappingProxyType(dict(self.capabilities)))


class Proven(msgspec.Struct, frozen=True):
    """Who the other side is."""

    peer_id: PeerId
    node_id: str
    capabilities: Mapping[str, str]


class Handshake:
    """One side's three messages. Methods are called once each, in the order that the role gives.

    Args:
        config: the node's.
        role: which side this is.
        entropy: source of random bytes: 8 for the nonce, then 32 for the ephemeral key.
        ephemeral: makes the ephemeral key instead.
    """

    __slots__ = (
        "_config",
        "_entropy",
        "_ephemeral",
        "_minor",
        "_noise",
        "_nonce_a",
        "_nonces",
        "_peer_label",
        "_role",
    )

    def __init__(
        self,
        config: SessionConfig,
        role: Role,
        entropy: Callable[[int], bytes],
        ephemeral: Callable[[], NoiseStatic] | None = None,
    ) -> None:
        self._config = config
        self._role = role
        self._entropy = entropy
        self._ephemeral = ephemeral
        self._noise: HandshakeState | None = None
        self._minor = MINOR

    # The initiator's side.

    def write_hello(self, msg_id: int, wall_ms: int) -> bytes:
        """Return the framed Hello.

        Args:
            msg_id: of its envelope.
            wall_ms: Unix milliseconds, for the other side's log.
        """
        assert self._role is Role.INITIATOR
        self._nonce_a = self._new_nonce()
        # A Hello as `msg.Hello` has it. All but the nonce and the time is the same in each of ours.
        clear = b"".join((self._nonce_a, encode_varint(wall_ms), self._config.hello))
        self._noise = self._start_noise(clear + _NO_KEY)
        return self._frame(MessageType.HELLO, msg_id, clear + encode_bytes(self._noise.write_message(b"")))

    def read_hello_ack(self, envelope: ParsedEnvelope) -> Proven:
        """Take message 2 and return who proved to be there.

        Raises:
            RemoteProtocolError: it is malformed; Reason.SELF when it is ourselves.
            CryptoError: it does not verify.
        """
        if envelope.minor != self._minor:
            raise RemoteProtocolError("the answer has another version than the Hello", Reason.VERSION)
        # As `msg.HelloAck` reads it. The nonces are compared and kept as they are encoded.
        reader = Reader(envelope.payload)
        nonce_a, nonce_b = reader.varint_as_it_is(), reader.varint_as_it_is()
        if not reader.remaining:
            raise RemoteProtocolError("a HelloAck without a key exchange")
        public_key = reader.bytes_()
        reader.end()
        if nonce_a != self._nonce_a:
            raise CryptoError(_REFUSED)
        self._nonces = nonce_a + nonce_b
        return self._read_proof(public_key)

    def write_hello_finish(self, msg_id: int) -> bytes:
        """Return the framed message 3, which ends the exchange."""
        noise = self._running()
        proof = noise.write_message(self._proof(noise))
        # A HelloFinish as `msg.HelloFinish` has it, the nonces encoded once for the clear and for the proof.
        return self._frame(MessageType.HELLO_FINISH, msg_id, self._nonces + encode_bytes(proof))

    # The responder's side.

    def read_hello(self, envelope: ParsedEnvelope) -> None:
        """Take message 1. With a network key, strangers fail here, before any Diffie-Hellman.

        Raises:
            RemoteProtocolError: it is malformed.
            CryptoError: the network key is another one.
        """
        assert self._role is Role.RESPONDER
        self._minor = envelope.minor
        # As `msg.Hello` reads it, but for capabilities like ours: most are, and nothing of them is decoded.
        reader = Reader(envelope.payload)
        nonce_a, _, node_id = reader.varint_as_it_is(), reader.varint_as_it_is(), reader.str_()
        offered = CLEAR_CAPABILITIES if reader.skip(_CLEAR) else decode_capabilities(reader)
        public_key = reader.bytes_()
        reader.end()
        if offered is not CLEAR_CAPABILITIES:
            _check_clear(dict(offered))
        if not (is_node_id(node_id) or is_peer_id_text(node_id)):
            raise RemoteProtocolError("the Hello's node id is none")
        self._nonce_a = nonce_a
        self._peer_label = node_id
        self._noise = self._start_noise(_before_last(envelope, public_key) + _NO_KEY)
        if self._noise.read_message(public_key):
            raise CryptoError(_REFUSED)

    def write_hello_ack(self, msg_id: int) -> bytes:
        """Return the framed message 2.

        Raises:
            CryptoError: a shared secret is refused.
        """
        noise = self._running()
        self._nonces = self._nonce_a + self._new_nonce()
        # As `msg.HelloAck` has it.
        proof = noise.write_message(self._proof(noise))
        return self._frame(MessageType.HELLO_ACK, msg_id, self._nonces + encode_bytes(proof))

    def read_hello_finish(self, envelope: ParsedEnvelope) -> Proven:
        """Take message 3 and return who proved to be there.

        Raises:
            RemoteProtocolError: it is malformed; Reason.SELF when it is ourselves.
            CryptoError: it does not verify.
        """
        if envelope.minor != self._minor:
            raise RemoteProtocolError("the handshake changes its version", Reason.VERSION)
        # As `msg.HelloFinish` reads it.
        reader = Reader(envelope.payload)
        are_ours = reader.skip(self._nonces)
        if not are_ours:
            # Theirs are none at all, or others.
            reader.varint()
            reader.varint()
        signature = reader.bytes_()
        reader.end()
        if not are_ours:
            raise CryptoError(_REFUSED)
        proven = self._read_proof(signature)
        if proven.node_id != self._peer_label:
            raise CryptoError(_REFUSED)
        return proven

    # Both sides.

    def keys(self) -> tuple[bytes, bytes]:
        """Return the keys, 32 bytes each: to send with, and to receive with. Only after message 3."""
        to_responder, to_initiator = self._running().split()
        return (to_responder, to_initiator) if self._role is Role.INITIATOR else (to_initiator, to_responder)

    def _new_nonce(self) -> bytes:
        return encode_varint(int.from_bytes(self._entropy(8), "little"))

    def _start_noise(self, hello_without_key: bytes) -> HandshakeState:
        config = self._config
        return HandshakeState(
            PROTOCOL_NAME if config.network_key is None else PROTOCOL_NAME_PSK,
            initiator=self._role is Role.INITIATOR,
            prologue=b"".join((config.prologue, self._minor.to_bytes(2, "little"), hello_without_key)),
            static=config.static,
            entropy=self._entropy,
            ephemeral=self._ephemeral,
            psk=config.network_key,
        )

    def _running(self) -> HandshakeState:
        assert self._noise is not None, "the handshake has not begun"
        return self._noise

    def _frame(self, type: MessageType, msg_id: int, payload: bytes) -> bytes:
        # All three messages carry the version of the Hello, whose minor may be another than ours.
        if self._minor == MINOR:
            return encode_framed(type, msg_id, 0, payload)
        envelope = Envelope(ProtocolVersion(MAJOR, self._minor), type, msg_id, 0, payload).encode()
        return encode_varint(len(envelope)) + envelope

    def _proof(self, noise: HandshakeState) -> bytes:
        config = self._config
        assert noise.remote_ephemeral is not None
        signed = _signed_bytes(self._role, config.static.public, noise.remote_ephemeral)
        return b"".join((self._nonces, config.claims, config.identity.sign(signed)))

    def _read_proof(self, noise_message: bytes) -> Proven:
        noise = self._running()
        reader = Reader(noise.read_message(noise_message))
        our_ephemeral = noise.ephemeral
        assert noise.remote_static is not None
        assert our_ephemeral is not None
        if noise.remote_static == self._config.static.public:
            raise RemoteProtocolError("this node dialled itself", Reason.SELF)
        if not reader.skip(self._nonces):
            raise CryptoError(_REFUSED)
        node_id = reader.str_()
        if reader.skip(self._config.offer):
            # Most peers offer what we do: nothing is decoded, and thousands of them share one mapping.
            offered = self._config.offered
        else:
            offered = MappingProxyType(dict(decode_capabilities(reader)))
        peer_id, signature = PeerId(reader.raw(32)), reader.raw(SIGNATURE_BYTES)
        reader.end()
        theirs = Role.RESPONDER if self._role is Role.INITIATOR else Role.INITIATOR
        if not verify(peer_id, signature, _signed_bytes(theirs, noise.remote_static, our_ephemeral)):
            raise CryptoError(_REFUSED)
        if len(offered) > self._config.limits.capabilities_max:
            raise RemoteProtocolError(f"more than {self._config.limits.capabilities_max} capabilities")
        if not (is_node_id(node_id) or node_id == str(peer_id)):
            raise RemoteProtocolError("a node id that is none, or looks like another peer's id")
        return Proven(peer_id, node_id, offered)


def _check_clear(offered: Mapping[str, str]) -> None:
    if offered.get("hs") != "noise":
        raise RemoteProtocolError("the Hello does not offer hs=noise")
    if offered.get("proto", "").partition(".")[0] != str(MAJOR):
        raise RemoteProtocolError(f"the Hello does not offer proto={MAJOR}.{MINOR}", Reason.VERSION)


def choose_cipher(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """Return the session's cipher: AES-256-GCM where both list it, ChaCha20-Poly1305 otherwise.

    Args:
        ours, theirs: the capabilities of both sides, in either order.
    """
    for side in (ours, theirs):
        if AES_256_GCM not in side.get("cipher", "").split(","):
            return CHACHA20_POLY1305
    return AES_256_GCM


def _before_last(envelope: ParsedEnvelope, last: bytes) -> bytes:
    """What stands before the last field: one value has one encoding, so it is what encoding it again would give."""
    return bytes(envelope.payload[: -len(encode_varint(len(last))) - len(last)])


def _signed_bytes(role: Role, sender_static: bytes, receiver_ephemeral: bytes) -> bytes:
    return b"".join((_SIGNED[role], sender_static, receiver_ephemeral))
