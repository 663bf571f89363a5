"""The discovery datagram, written and judged: bytes in, bytes out, no socket and no clock.

Ours is signed: `cap` holds the sender's key and a signature over who listens where, and when that was said. It proves
that the identity once said so, and nothing of where the datagram came from: a copy can be sent from anywhere, and what
is dialled for it has to prove itself as everybody does.

Source: wire section 9.
"""

from __future__ import annotations

import base64
import binascii
from enum import Enum
from typing import Final

import msgspec

from p2p.binary import encode_str, encode_u16, encode_u64
from p2p.crypto.identity import SIGNATURE_BYTES, Identity, verify
from p2p.errors import RemoteProtocolError
from p2p.ids import PeerId, is_node_id
from p2p.msg import DiscoveryAnnounce

ANNOUNCE_CONTEXT: Final = b"vix-p2p/announce/1"
SIGNATURE_MARK: Final = b'"sig"'
"""A signed announcement holds these bytes. All that follows from them is at which pace such are looked at."""


class Flaw(Enum):
    """Why an announcement is not believed."""

    MALFORMED = "malformed"
    """Not the JSON of section 9, or it says what cannot be dialled."""
    FORGED = "forged"
    """Its signature is not that of its key."""
    UNSIGNED = "unsigned"
    """It names no key, and only signed ones count here."""
    NO_PLACE = "no_place"
    """It comes from an address where no neighbour can be: nobody's, everybody's, or one of a cloud's own."""


class Announced(msgspec.Struct, frozen=True):
    """What an announcement says.

    Attributes:
        ts_ms: when it was said, by the clock of who said it.
        peer_id: the identity that signed it, None for an unsigned one.
    """

    node_id: str
    tcp_port: int
    ts_ms: int
    nonce: int
    peer_id: PeerId | None


def write_announcement(node_id: str, tcp_port: int, ts_ms: int, nonce: int, identity: Identity | None) -> bytes:
    """Return the datagram of a node, signed if there is an identity.

    Args:
        node_id: its label.
        tcp_port: where it listens, 1-65535.
        ts_ms: Unix milliseconds now.
        nonce: 64 random bits.

    Raises:
        PayloadTooLarge, LocalProtocolError: a value does not fit.
    """
    cap = [("proto", "1.0"), ("transport", "tcp")]
    if identity is not None:
        signature = identity.sign(_signed(node_id, tcp_port, ts_ms, nonce))
        cap.append(("key", base64.b64encode(identity.peer_id).decode()))
        cap.append(("sig", base64.b64encode(signature).decode()))
    return DiscoveryAnnounce(node_id, tcp_port, ts_ms, nonce, tuple(cap)).to_json().encode()


def read_announcement(data: bytes, *, require_signed: bool) -> Announced | Flaw:
    """Judge a datagram, whatever it holds. A signature that is there must be right, required or not."""
    try:
        said = DiscoveryAnnounce.from_json(data)
    except RemoteProtocolError:
        return Flaw.MALFORMED
    cap = dict(said.capabilities)
    if not is_node_id(said.node_id) or said.tcp_port == 0 or cap.get("transport", "tcp") != "tcp":
        return Flaw.MALFORMED
    if "key" not in cap and "sig" not in cap:
        return Flaw.UNSIGNED if require_signed else Announced(said.node_id, said.tcp_port, said.ts_ms, said.nonce, None)
    key, signature = _from_base64(cap.get("key", ""), 32), _from_base64(cap.get("sig", ""), SIGNATURE_BYTES)
    if key is None or signature is None:
        return Flaw.MALFORMED
    if not verify(key, signature, _signed(said.node_id, said.tcp_port, said.ts_ms, said.nonce)):
        return Flaw.FORGED
    return Announced(said.node_id, said.tcp_port, said.ts_ms, said.nonce, PeerId(key))


def _signed(node_id: str, tcp_port: int, ts_ms: int, nonce: int) -> bytes:
    where_and_when = encode_u16(tcp_port) + encode_u64(ts_ms) + encode_u64(nonce)
    return ANNOUNCE_CONTEXT + encode_str(node_id) + where_and_when


def _from_base64(text: str, size: int) -> bytes | None:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if len(data) == size else None
