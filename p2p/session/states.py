"""Where a session stands, which message may come there, and where it may go next. Tables only.

    initiator   WAIT_HELLO_ACK -> DECIDING -> CONFIRMING -> LIVE -> ENDING -> ENDED
    responder   WAIT_HELLO -> WAIT_HELLO_FINISH -> DECIDING -> LIVE -> ENDING -> ENDED

From everywhere a failure leads to ENDED. DECIDING waits for the owner and reads nothing meanwhile. CONFIRMING is the
initiator's doubt whether its last message arrived and was welcome: the first sealed envelope from the other side
settles it. ENDING means that our Goodbye is said and the other's is awaited.

Source: wire sections 5 and 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from p2p.envelope import MessageType


class Role(Enum):
    """Who dialled is the initiator, always."""

    __hash__ = object.__hash__  # as State's

    INITIATOR = 0
    RESPONDER = 1


class State(Enum):
    """Where a session stands."""

    # Looked up in the tables below at every read; Enum's own hash is a function of Python.
    __hash__ = object.__hash__

    WAIT_HELLO = "wait_hello"
    WAIT_HELLO_ACK = "wait_hello_ack"
    WAIT_HELLO_FINISH = "wait_hello_finish"
    DECIDING = "deciding"
    CONFIRMING = "confirming"
    LIVE = "live"
    ENDING = "ending"
    ENDED = "ended"


START: Final[Mapping[Role, State]] = MappingProxyType(
    {Role.INITIATOR: State.WAIT_HELLO_ACK, Role.RESPONDER: State.WAIT_HELLO}
)

NEXT: Final[Mapping[tuple[Role, State], frozenset[State]]] = MappingProxyType(
    {
        (Role.INITIATOR, State.WAIT_HELLO_ACK): frozenset({State.DECIDING, State.ENDED}),
        (Role.INITIATOR, State.DECIDING): frozenset({State.CONFIRMING, State.ENDED}),
        (Role.INITIATOR, State.CONFIRMING): frozenset({State.LIVE, State.ENDING, State.ENDED}),
        (Role.INITIATOR, State.LIVE): frozenset({State.ENDING, State.ENDED}),
        (Role.INITIATOR, State.ENDING): frozenset({State.ENDED}),
        (Role.INITIATOR, State.ENDED): frozenset(),
        (Role.RESPONDER, State.WAIT_HELLO): frozenset({State.WAIT_HELLO_FINISH, State.ENDED}),
        (Role.RESPONDER, State.WAIT_HELLO_FINISH): frozenset({State.DECIDING, State.ENDED}),
        (Role.RESPONDER, State.DECIDING): frozenset({State.LIVE, State.ENDED}),
        (Role.RESPONDER, State.LIVE): frozenset({State.ENDING, State.ENDED}),
        (Role.RESPONDER, State.ENDING): frozenset({State.ENDED}),
        (Role.RESPONDER, State.ENDED): frozenset(),
    }
)
"""What may follow what. Nothing leads back."""

AWAITED: Final[Mapping[State, MessageType]] = MappingProxyType(
    {
        State.WAIT_HELLO: MessageType.HELLO,
        State.WAIT_HELLO_ACK: MessageType.HELLO_ACK,
        State.WAIT_HELLO_FINISH: MessageType.HELLO_FINISH,
    }
)
"""The one plain message that each step of the handshake takes."""

NOTHING_VALID_YET: Final = frozenset({State.WAIT_HELLO, State.WAIT_HELLO_ACK})
"""The shorter one of the two handshake deadlines holds here."""

HANDSHAKING: Final = frozenset({*AWAITED, State.DECIDING, State.CONFIRMING})
"""The handshake's total deadline holds here."""

SEALED: Final = frozenset({State.CONFIRMING, State.LIVE, State.ENDING})
"""Only sealed envelopes may come here."""

FOR_OWNER: Final = frozenset(
    {
        MessageType.WAL_PUSH,
        MessageType.WAL_ACK,
        MessageType.OUTBOX_PULL,
        MessageType.WAL_HEADS,
        MessageType.RELAY,
        MessageType.DATA,
        MessageType.FORK_PROOF,
        MessageType.ATTACHED,
        MessageType.REQUEST_CANCEL,
    }
)
"""Messages that a session carries for its owner, either way. All others are its own or nobody's."""

UNKNOWN_IGNORED_MIN: Final = 0x8000
"""From here an unknown type is passed over and counted; below, it ends the session."""
UNKNOWN_IGNORED_MAX: Final = 0xFFFF
