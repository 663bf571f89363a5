"""Signed announcements: "this identity shows that label and listens on that port", in a datagram or at a registry.

The signature covers no address, since the sender does not know the one that others see; and nothing keeps a copy from
being sent again. So it proves who wrote the announcement, never who sent it: a dial still has to meet that identity.

Source: wire sections 9 and 10.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from p2p.binary import encode_str, encode_u16, encode_u64
from p2p.crypto.identity import SIGNATURE_BYTES, Identity, verify
from p2p.errors import RemoteProtocolError
from p2p.ids import PeerId
from p2p.msg import DiscoveryAnnounce

KEY: Final = "key"
SIG: Final = "sig"

_DOMAIN: Final = b"vix-p2p/announce/1"


def sign_announcement(announce: DiscoveryAnnounce, identity: Identity) -> DiscoveryAnnounce:
    """Return the announcement with `key` and `sig` after its other capabilities, in place of any it had.

    Raises:
        LocalProtocolError: a field does not fit the wire.
    """
    others = tuple((name, value) for name, value in announce.capabilities if name not in (KEY, SIG))
    signature = identity.sign(_signed_bytes(announce))
    return DiscoveryAnnounce(
        announce.node_id,
        announce.tcp_port,
        announce.ts_ms,
        announce.nonce,
        (*others, (KEY, _to_text(identity.peer_id)), (SIG, _to_text(signature))),
    )


def signer_of(announce: DiscoveryAnnounce) -> PeerId | None:
    """Say who signed an announcement; None if it carries neither `key` nor `sig`.

    Raises:
        RemoteProtocolError: one of the two is missing or malformed, or the signature is not that key's.
    """
    capabilities = dict(announce.capabilities)
    key_text, signature_text = capabilities.get(KEY), capabilities.get(SIG)
    if key_text is None and signature_text is None:
        return None
    if key_text is None or signature_text is None:
        raise RemoteProtocolError("an announcement has both key and sig, or neither")
    key = _from_text(KEY, key_text, 32)
    signature = _from_text(SIG, signature_text, SIGNATURE_BYTES)
    if not verify(key, signature, _signed_bytes(announce)):
        raise RemoteProtocolError("the signature of an announcement is not its key's")
    return PeerId(key)


def _signed_bytes(announce: DiscoveryAnnounce) -> bytes:
    return b"".join(
        (
            _DOMAIN,
            encode_str(announce.node_id),
            encode_u16(announce.tcp_port),
            encode_u64(announce.ts_ms),
            encode_u64(announce.nonce),
        )
    )


def _to_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _from_text(name: str, text: str, size: int) -> bytes:
    """Read base64 in its one canonical form, so that no copy with other padding bits looks like another one."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != size or _to_text(data) != text:
        raise RemoteProtocolError(f"{name} of an announcement is {size} bytes in base64")
    return data
