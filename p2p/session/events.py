"""What a session tells its owner. Frozen values; `Ended` is the last one ever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from p2p.errors import Reason
from p2p.ids import PeerId
from p2p.msg import AnyMessage


class PeerProven(msgspec.Struct, frozen=True):
    """The other side has proven an identity. Nothing goes on until `Session.accept` or `Session.refuse`.

    Attributes:
        peer_id: the identity.
        node_id: the label it goes by; a claim, not a proof.
        capabilities: what it offers under the seal.
    """

    peer_id: PeerId
    node_id: str
    capabilities: Mapping[str, str]


class Live(msgspec.Struct, frozen=True):
    """Both sides have proven themselves and know it: messages may be sent."""


class Received(msgspec.Struct, frozen=True, gc=False):
    """A message for the owner.

    Attributes:
        msg_id: what a reply refers to.
        flags: the envelope's, without Encrypted.
        message: decoded, but not judged beyond its form.
    """

    msg_id: int
    flags: int
    message: AnyMessage


class ReceivedRow(msgspec.Struct, frozen=True, gc=False):
    """Application messages for one channel that came one after another, neither questions nor answers.

    Attributes:
        channel: its name.
        bodies: one at least, in order.
    """

    channel: str
    bodies: list[bytes]


class Pinged(msgspec.Struct, frozen=True):
    """A Ping came, and is answered already. An owner counts these to rate its peer."""


class Ponged(msgspec.Struct, frozen=True):
    """The answer to a Ping of ours.

    Attributes:
        rtt_s: seconds from the Ping being queued to this; None for one so old that its time is forgotten.
    """

    rtt_s: float | None


class Ignored(msgspec.Struct, frozen=True):
    """A message of an unknown type that the wire says to pass over.

    Attributes:
        type: 0x8000 to 0xFFFF.
    """

    type: int


class Ended(msgspec.Struct, frozen=True):
    """The session is over. `Session.data_to_send` may still hold the last bytes.

    Attributes:
        reason: why. With `clean` it may be the other side's own word, so no penalty follows from it.
        detail: one line for a log, safe to print.
        clean: whether a Goodbye was said by the other side, or by us to one that we refused.
    """

    reason: Reason
    detail: str
    clean: bool


Event: TypeAlias = PeerProven | Live | Received | ReceivedRow | Pinged | Ponged | Ignored | Ended
