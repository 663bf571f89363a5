"""An authenticated peer that does what it likes.

It completes the real handshake with the real session, so the victim knows who it is, and from then on sends whatever a
test wants under a good seal: any type, any flags, any message id, any payload. That is the attacker that a network key
does not keep out: a member whose machine was taken over.

    async with rogue(node) as liar:
        await liar.say(WalPush(1, 1, b"nonsense"))
        assert await liar.last_words() is Reason.PROTOCOL
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import trio

import p2p
from p2p.crypto.identity import Identity
from p2p.crypto.noise import NoiseStatic
from p2p.envelope import encode_framed
from p2p.errors import Reason
from p2p.limits import Limits
from p2p.msg import AnyMessage, Data, Pong, WalHeads
from p2p.session import Ended, Live, PeerProven, Ponged, Received, ReceivedRow, Role, Session, SessionConfig
from p2p.windows import system_entropy
from tests.hostile.attacker import dial, reset
from tests.hostile.victim import KEY, WAIT_S, where

CAPABILITIES = (("bundle", "1"), ("cipher", "aes256gcm,chacha20poly1305"))

AnyType = TypeVar("AnyType")


class Message(Protocol):
    """What has a type and can be encoded."""

    TYPE: int

    def encode(self) -> bytes:
        """The payload."""


def even_lengths(size: int) -> bytes:
    """Random bytes of which every u64 is a varint of 10 bytes, so that handshakes have the same length each time."""
    return system_entropy(size) if size != 8 else system_entropy(7) + b"\xff"


def session_config(
    *,
    identity: Identity | None = None,
    node_id: str = "rogue",
    network_key: bytes | None = KEY,
    network_name: str = "",
    capabilities: Sequence[tuple[str, str]] = CAPABILITIES,
) -> SessionConfig:
    """Who the rogue is; a fresh identity unless one is given."""
    return SessionConfig(
        node_id=node_id,
        identity=identity or Identity.generate(system_entropy),
        static=NoiseStatic.generate(system_entropy),
        network_key=network_key,
        network_name=network_name,
        capabilities=tuple(capabilities),
        limits=Limits(),
    )


class _Lenient(Session):
    """A session that does not mind what comes for Pings it knows nothing of."""

    __slots__ = ()

    def _read_pong(self, pong: Pong) -> None:
        self._events.append(Ponged(None))


class Rogue:
    """One link of a peer that keeps to the handshake and to nothing else.

    Attributes:
        ended: how the session ended, once it has.
        is_live: whether the victim let it in.
        inbox: messages read and not asked for yet.
        asked: ids of the requests read.
    """

    def __init__(self, stream: trio.SocketStream, config: SessionConfig, role: Role = Role.INITIATOR) -> None:
        self.stream = stream
        self.identity = config.identity
        self.session = _Lenient(config, role, entropy=even_lengths, now=trio.current_time(), wall_ms=0)
        self.ended: Ended | None = None
        self.inbox: list[AnyMessage] = []
        self.asked: list[int] = []
        self.is_live = False

    @property
    def peer_id(self) -> p2p.PeerId:
        """The rogue's own identity."""
        return self.identity.peer_id

    # Keeping to the rules, as far as one has to.

    async def shake_hands(self) -> None:
        """Make the handshake; live when this returns, unless the victim refused (`ended` tells)."""
        await self._flush()
        while not self.is_live and self.ended is None:
            await self._read()
            await self._flush()

    async def heads(self, *entries: p2p.msg.HeadEntry) -> None:
        """Open the exchange."""
        await self.say(WalHeads(entries))

    async def say(self, *messages: Message) -> None:
        """Send well-formed messages, each sealed alone."""
        await self.send_raw(b"".join(self.seal(int(message.TYPE), message.encode()) for message in messages))

    async def hear(self, kind: type[AnyType]) -> AnyType:
        """The next message of a kind; what comes before it is passed over."""
        with trio.fail_after(WAIT_S):
            while True:
                while self.inbox:
                    message = self.inbox.pop(0)
                    if isinstance(message, kind):
                        return message
                assert self.ended is None, f"the link ended: {self.ended}"
                await self._read()

    async def last_words(self) -> Reason | None:
        """Read to the end of the link; the reason that the victim's Goodbye gave, None if it said none."""
        with trio.fail_after(WAIT_S):
            while self.ended is None:
                await self._read()
        return self.ended.reason if self.ended.clean else None

    async def let_go(self) -> None:
        """Answer the Goodbye that was read: the session has its own one ready."""
        await self._flush()

    # Not keeping to them.

    def seal(self, type: int, payload: bytes, *, flags: int = 0, msg_id: int | None = None) -> bytes:
        """A frame under a good seal, whatever is in it."""
        if msg_id is None:
            msg_id = self.session._take_id()
        assert self.session._outbound is not None, "the session has ended"
        return self.session._outbound.seal(type, msg_id, flags, payload)

    def inner(self, type: int, payload: bytes, *, flags: int = 0, msg_id: int | None = None) -> bytes:
        """A framed plain envelope for a Bundle."""
        return encode_framed(type, self.session._take_id() if msg_id is None else msg_id, flags, payload)

    async def send_raw(self, data: bytes) -> None:
        """Send these bytes as they are. That the victim closes meanwhile is what many tests are about."""
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    def reset(self) -> None:
        """Be gone, with a RST."""
        reset(self.stream)

    # Inside.

    async def _flush(self) -> None:
        data = self.session.data_to_send()
        if data:
            await self.send_raw(data)

    async def _read(self) -> None:
        now = trio.current_time
        try:
            data = await self.stream.receive_some()
        except trio.BrokenResourceError:
            data = b""
        if data:
            self.session.receive_data(data, now())
        else:
            self.session.receive_eof(now())
        while (event := self.session.next_event()) is not None:
            if isinstance(event, PeerProven):
                self.session.accept()
            elif isinstance(event, Live):
                self.is_live = True
            elif isinstance(event, Received):
                self.inbox.append(event.message)
                if event.flags:
                    self.asked.append(event.msg_id)
            elif isinstance(event, ReceivedRow):
                self.inbox += [Data(event.channel, body=body) for body in event.bodies]
            elif isinstance(event, Ended):
                self.ended = event


@asynccontextmanager
async def rogue(node: p2p.Node, *, is_open: bool = True, **who: object) -> AsyncIterator[Rogue]:
    """A live rogue on one link to the node; with `is_open` both sides have shown their heads."""
    config = session_config(**who)  # type: ignore[arg-type]  # its arguments
    async with await dial(where(node)) as stream:
        peer = Rogue(stream, config)
        await peer.shake_hands()
        if is_open:
            await peer.heads()
            await peer.hear(WalHeads)
        yield peer
