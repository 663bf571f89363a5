"""A session: bytes and the time go in, events and bytes come out.

Responsible for the handshake, for sealing and opening, for the order of messages, for keepalive, deadlines and an
orderly end. It refuses to know sockets, tasks, who is welcome (it asks, once) and what messages mean.

How it moves. `receive_data` only buffers. `next_event` takes one frame after the other until one of them makes an
event, and judges a frame's header only when the frame before it is dealt with, by the bound that then holds. Messages
given to `send` wait in a group; `data_to_send`, or a full group, seals the group as one Bundle if both sides offered
it, and a group of one as it is. A message id is given when a message is sent, and the outer id of a Bundle when its
group is closed, so ids grow in the order of the wire.

How it ends. Whatever comes from outside and cannot be is one `Ended`, never an exception; what waited to be sent is
dropped then and not a byte is answered. Before a seal is broken open nothing tells a peer's fault from a stranger's
on the path, so on a sealed session every outer failure is the same `Reason.CRYPTO` (a frame over the bound alone keeps
its own reason: it is refused before there is anything to open). What stands inside a good seal is the peer's, and
judged as `Reason.PROTOCOL`. An end in order is a Goodbye each way.

Source: wire sections 5 and 6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from p2p.binary import Buffer, Pieces
from p2p.crypto.noise import NoiseStatic
from p2p.envelope import (
    ACK_REQ,
    BUNDLE_MESSAGES_MAX,
    COMPRESSED,
    MAGIC,
    MessageType,
    aad,
    encode_framed,
    encode_row,
    parse_envelope,
)
from p2p.errors import CryptoError, LocalProtocolError, PayloadTooLarge, Reason, RemoteProtocolError
from p2p.framing import FrameDecoder, joined
from p2p.ids import PeerId
from p2p.msg import Data, Goodbye, Ping, Pong, decode_data, decode_payload
from p2p.session.bundles import Row, read_bundle
from p2p.session.events import Ended, Event, Ignored, Live, PeerProven, Pinged, Ponged, Received, ReceivedRow
from p2p.session.foreign import FIRST_BYTES, foreign_answer
from p2p.session.handshake import Handshake, Proven, SessionConfig, choose_cipher
from p2p.session.liveness import Due, Liveness
from p2p.session.sealing import Direction
from p2p.session.states import (
    AWAITED,
    FOR_OWNER,
    HANDSHAKING,
    NEXT,
    NOTHING_VALID_YET,
    SEALED,
    START,
    UNKNOWN_IGNORED_MAX,
    UNKNOWN_IGNORED_MIN,
    Role,
    State,
)
from p2p.text import one_line

FRAME_OVERHEAD_BYTES: Final = 64
"""Room that a sealed envelope takes beside its payload, rounded up."""

INNER_OVERHEAD_BYTES: Final = 30
"""Room that a message takes in a Bundle beside its payload, rounded up."""
_NOTHING_OFFERED: Final[Mapping[str, str]] = MappingProxyType({})
_TAMPERED: Final = "the stream was changed on the way, or the keys are not the same"

# Plain numbers: an IntEnum is slower to compare, and these are compared per message.
_DATA: Final = int(MessageType.DATA)
_BUNDLE: Final = int(MessageType.BUNDLE)
_PING: Final = int(MessageType.PING)
_PONG: Final = int(MessageType.PONG)
_GOODBYE: Final = int(MessageType.GOODBYE)
_LIVE: Final = State.LIVE
_DATA_HEAD: Final = MAGIC + aad(_DATA, 0, 0)[:6]
"""How an envelope of this version begins that carries an application message."""
_FOR_OWNER: Final = frozenset(int(type) for type in FOR_OWNER)


class Session:
    """One side of one link, from its first byte to its last.

    Call `next_event` until it returns None after each `receive_data`, `receive_eof`, `handle_deadline`, `accept` and
    `refuse`, then write what `data_to_send` returns.

    Args:
        config: the node's.
        role: the initiator dialled.
        entropy: source of random bytes.
        now: monotonic seconds; the handshake's deadlines count from here.
        wall_ms: Unix milliseconds, told to the other side and used for nothing.
        ephemeral: makes the handshake's ephemeral key, which is used once; from `entropy` without it.

    Attributes:
        state: where it stands.
        peer_id: the proven identity, None before PeerProven.
        node_id: the label that the peer claims, None before PeerProven.
        peer_capabilities: what the peer offered under the seal.
        cipher: name of the session's cipher, "" before the keys are there.
        is_amid_frame: whether a frame had begun to come and was not whole when `next_event` last returned None.
        bytes_in, bytes_out: what went through, with all overhead.

    Example:
        What an owner does with what it has read:

            session.receive_data(data, clock.monotonic())
            while (event := session.next_event()) is not None:
                handle(event)
            await stream.send_all(session.data_to_send())
    """

    __slots__ = (
        "_bundle_bytes",
        "_bundle_max",
        "_bundling",
        "_config",
        "_decoder",
        "_eof",
        "_events",
        "_first",
        "_goodbye_said",
        "_group",
        "_group_bytes",
        "_group_messages",
        "_handshake",
        "_inbound",
        "_last_id_in",
        "_last_words",
        "_limits",
        "_liveness",
        "_next_id",
        "_now",
        "_out",
        "_out_bytes",
        "_outbound",
        "_pongs_pending",
        "_ready",
        "_small_max",
        "_started",
        "bytes_in",
        "bytes_out",
        "cipher",
        "is_amid_frame",
        "node_id",
        "peer_capabilities",
        "peer_id",
        "role",
        "state",
    )

    def __init__(
        self,
        config: SessionConfig,
        role: Role,
        *,
        entropy: Callable[[int], bytes],
        now: float,
        wall_ms: int,
        ephemeral: Callable[[], NoiseStatic] | None = None,
    ) -> None:
        self._config = config
        self._limits = config.limits
        self.role = role
        self.state = START[role]
        self.peer_id: PeerId | None = None
        self.node_id: str | None = None
        self.peer_capabilities: Mapping[str, str] = _NOTHING_OFFERED
        self.cipher = ""
        self.is_amid_frame = False
        self.bytes_in = 0
        self.bytes_out = 0

        # What happened, in order; and the rest of what is being told, in reverse. Two lists, because an empty deque
        # keeps 760 bytes for each of thousands of idle links.
        self._events: list[Event] = []
        self._ready: list[Event] = []
        self._decoder = FrameDecoder(config.limits.handshake_frame_bytes_max, begins_with=MAGIC)
        self._first = b""
        self._eof = False
        self._last_id_in = 0
        self._inbound: Direction | None = None

        self._next_id = 1
        self._outbound: Direction | None = None
        self._bundling = False
        self._group: list[tuple[int, int, int, bytes]] = []
        self._group_bytes = 0
        self._group_messages = 0
        # Read per message.
        self._small_max = config.limits.bundle_message_bytes_max
        self._bundle_bytes = config.limits.bundle_bytes
        self._bundle_max = config.limits.bundle_messages_max
        self._out: list[bytes | bytearray] = []
        self._out_bytes = 0
        self._goodbye_said: Goodbye | None = None
        self._last_words: Callable[[], None] | None = None

        self._started = self._now = now
        self._liveness = Liveness(config.limits, now, follows=role is Role.RESPONDER)
        self._pongs_pending = 0

        self._handshake: Handshake | None = Handshake(config, role, entropy, ephemeral)
        if role is Role.INITIATOR:
            self._put_out(self._handshake.write_hello(self._take_id(), wall_ms))

    @property
    def last_seen(self) -> float:
        """Monotonic seconds of the last valid frame; of the session's begin before there was one."""
        return self._liveness.last_seen

    @property
    def rtt_s(self) -> float | None:
        """Seconds that the last answered Ping took, None before."""
        return self._liveness.rtt_s

    # In.

    def receive_data(self, data: bytes | bytearray, now: float) -> None:
        """Take bytes from the stream, which nobody changes from here on. They are judged by `next_event`."""
        if self.bytes_in < FIRST_BYTES:
            self._first += data[:FIRST_BYTES]
        self.bytes_in += len(data)
        self._now = now
        if self.state is State.ENDED:
            return
        self._decoder.feed(data)
        if self.state is State.DECIDING and self._decoder.buffered > self._limits.frame_bytes_max:
            self._fail(Reason.PROTOCOL, "the peer does not wait for the answer to its handshake")

    def receive_alone(self, data: bytes | bytearray, now: float) -> Received | None:
        """Take bytes that are one small application message and nothing else, and return its event.

        Else None, and the long way is to be gone: `receive_data` and `next_event`, which also tells of a session that
        is over by these bytes. This is the short way for questions and answers, which mostly come alone.
        """
        if self.state is not _LIVE or self._events or self._ready:
            return None
        frame = self._decoder.only_frame(data)
        if frame is None or not frame.startswith(_DATA_HEAD):
            return None
        self._now = now
        opened = self._open(frame)
        if opened is None:
            return None
        _, msg_id, flags, payload = opened
        try:
            if msg_id <= self._last_id_in:
                raise _not_increasing(msg_id, self._last_id_in)
            self._last_id_in = msg_id
            if flags & COMPRESSED:
                raise RemoteProtocolError("a compressed message")
            message = decode_data(payload)
        except RemoteProtocolError as error:
            self._fail(error.reason, str(error))
            return None
        self.bytes_in += len(data)
        return Received(msg_id, flags, message)

    def receive_eof(self, now: float) -> None:
        """The stream has ended. What was received before still gives its events."""
        self._now = now
        self._eof = True

    def next_event(self) -> Event | None:
        """Return the next event, or None when more bytes (or a decision) are needed. Never raises for what came in."""
        ready = self._ready
        if ready:
            return ready.pop()
        events = self._events
        while not events:
            state = self.state
            if state is State.ENDED or state is State.DECIDING:
                return None
            try:
                frame = self._decoder.next_pieces()
            except RemoteProtocolError as error:
                if state in SEALED and error.reason is not Reason.FRAME_TOO_LARGE:
                    self._fail(Reason.CRYPTO, _TAMPERED)
                else:
                    self._fail(error.reason, str(error))
                continue
            if frame is None:
                if not self._eof:
                    # A header alone is a begun frame too, though nothing of it is kept. A whole one was heard.
                    self.is_amid_frame = self._decoder.is_amid_frame
                    if self.is_amid_frame:
                        self._liveness.frame_begun(self._now)
                    return None
                self._fail(Reason.ABNORMAL, "the stream ended without a Goodbye")
            elif state in SEALED:
                self._read_sealed(frame)
            else:
                self._read_handshake(joined(frame), AWAITED[state])
        if len(events) > 1:
            events.reverse()
            self._events, self._ready = ready, events
        return events.pop()

    # Decisions of the owner.

    def accept(self) -> None:
        """The identity of PeerProven is welcome: the handshake goes on.

        Without effect when the session has ended meanwhile.

        Raises:
            LocalProtocolError: nothing was asked.
        """
        if not self._is_asking("accept"):
            return
        handshake = self._handshake
        assert handshake is not None
        if self.role is Role.INITIATOR:
            # Cannot fail: an ephemeral key of low order was refused with message 2 already.
            self._put_out(handshake.write_hello_finish(self._take_id()))
        self._take_keys(handshake)
        if self.role is Role.INITIATOR:
            self._move(State.CONFIRMING)
        else:
            self._move(State.LIVE)
            self._events.append(Live())

    def refuse(self, reason: Reason, detail: str = "") -> None:
        """The identity of PeerProven is not welcome. A responder says so under the seal, an initiator just ends.

        Without effect when the session has ended meanwhile.

        Args:
            reason: told to the peer.
            detail: one line, told to the peer.

        Raises:
            LocalProtocolError: nothing was asked.
        """
        if not self._is_asking("refuse"):
            return
        handshake = self._handshake
        assert handshake is not None
        if self.role is Role.RESPONDER:
            self._take_keys(handshake)
            self._say_goodbye(reason, detail)
        self._end(Ended(reason, one_line(detail), clean=self.role is Role.RESPONDER))

    # Out.

    @property
    def is_ending(self) -> bool:
        """Whether our Goodbye is said, or all is over: nothing more can be sent."""
        return self.state is State.ENDING or self.state is State.ENDED

    @property
    def pending_bytes(self) -> int:
        """About how many bytes `data_to_send` would return."""
        return self._out_bytes + self._group_bytes

    def send(self, type: int, payload: bytes, flags: int = 0) -> int:
        """Queue a message and return its id.

        Args:
            type: one of the owner's message types, or 0x8000 to 0xFFFF.
            payload: encoded message; it is not copied before it is sealed.
            flags: 0, or AckReq.

        Raises:
            LocalProtocolError: the session is not live, or the type or a flag is not the owner's to send.
            PayloadTooLarge: the message does not fit a frame.
        """
        length = len(payload)
        group = self._group
        if (
            length < self._small_max
            and self._group_bytes < self._bundle_bytes
            and self._group_messages < self._bundle_max
            and type == _DATA
            and (not flags or flags == ACK_REQ)
            and self._bundling
            and self.state is _LIVE
        ):
            # What follows for a small application message that needs no new group, written out: this runs per message.
            msg_id = self._next_id
            self._next_id = msg_id + 1
            group.append((type, msg_id, flags, payload))
            self._group_bytes += length + INNER_OVERHEAD_BYTES
            self._group_messages += 1
            return msg_id
        if self.state is not State.LIVE:
            raise LocalProtocolError(f"a session that is {self.state.value} takes no messages")
        if (type not in _FOR_OWNER and not UNKNOWN_IGNORED_MIN <= type <= UNKNOWN_IGNORED_MAX) or flags & ~ACK_REQ:
            raise LocalProtocolError(f"type {type} with flags {flags:#x} is not for the owner of a session to send")
        return self._queue(type, payload, flags)

    def seal_alone(self, payload: bytes, flags: int) -> tuple[int, bytes | bytearray] | None:
        """Give an application message its id and return that with the bytes to write, past all that could wait.

        Else None, and nothing was done: `send` it, and see what `data_to_send` returns. This is the short way for
        questions and answers, which mostly go alone, and for what is too large to go together with anything.

        Args:
            payload: encoded message.
            flags: 0, or AckReq.
        """
        if self.state is not _LIVE or self._group or self._out:
            return None
        if len(payload) > self._limits.frame_bytes_max - FRAME_OVERHEAD_BYTES:
            return None
        assert self._outbound is not None, "a live session has keys"
        msg_id = self._next_id
        try:
            frame = self._outbound.seal(_DATA, msg_id, flags, payload)
        except CryptoError as error:
            self._fail(Reason.CRYPTO, str(error))
            return None
        self._next_id = msg_id + 1
        self.bytes_out += len(frame)
        return msg_id, frame

    def send_row(self, payloads: list[bytes], *, alike: bool = False) -> int:
        """Queue application messages without flags, in order: as `send` for each, in a third of its time.

        Args:
            payloads: encoded Data messages, any number.
            alike: whether they are known to be of one size, and one at least. Who knows saves a third of the rest.

        Returns:
            How many bytes they have together.

        Raises:
            LocalProtocolError, PayloadTooLarge: see `send`. What came before is queued.
        """
        count = len(payloads)
        size = count * len(payloads[0]) if alike else sum(map(len, payloads))
        if (
            count > 1
            and self._bundling
            and self.state is _LIVE
            and (len(payloads[0]) if alike else max(map(len, payloads))) < self._small_max
        ):
            if self._group_bytes >= self._bundle_bytes:
                self._close_group()
            joined = size + count * INNER_OVERHEAD_BYTES
            if (
                self._group_messages + count <= self._bundle_max
                and self._group_bytes + joined - len(payloads[-1]) - INNER_OVERHEAD_BYTES < self._bundle_bytes
            ):
                first_id = self._next_id
                self._next_id = first_id + count
                self._group.append((_BUNDLE, 0, 0, encode_row(_DATA, first_id, payloads, alike=alike)))
                self._group_bytes += joined
                self._group_messages += count
                return size
        for payload in payloads:
            self.send(_DATA, payload)
        return size

    def ping(self, now: float, *, follows: bool = False) -> None:
        """Ask for a sign of life now. Without effect unless live.

        Args:
            now: monotonic seconds.
            follows: whether the other side's Pings set the pace: the next of ours may come an eighth later.
        """
        self._now = now
        if self.state is not State.LIVE:
            return
        self._queue(_PING, Ping(self._liveness.ping_sent(now, follows=follows)).encode(), 0)

    def ping_along(self, now: float) -> bool:
        """Ping now if a Ping is due soon, as a Pong leaves anyhow; return whether it was."""
        if self.state is not State.LIVE or not self._liveness.is_ping_due_soon(now):
            return False
        self.ping(now, follows=True)
        return True

    def before_answering_goodbye(self, last_words: Callable[[], None] | None) -> None:
        """Have this called before the other's Goodbye is answered: what it sends is still read. None takes it back."""
        self._last_words = last_words

    def goodbye(self, reason: Reason, detail: str = "") -> None:
        """Say the last message. Nothing can be sent afterwards; events go on until the other's Goodbye or the end.

        Before there are keys to say it with, the session just ends. Without effect when it was said already.

        Args:
            reason: told to the peer.
            detail: one line, told to the peer.
        """
        if self.state in {State.CONFIRMING, State.LIVE}:
            self._say_goodbye(reason, detail)
            self._move(State.ENDING)
        elif self.state in HANDSHAKING:
            self._fail(reason, detail)

    def data_to_send(self) -> bytes | bytearray:
        """Return all bytes that wait, sealed; b"" when there are none."""
        if self._group:
            self._close_group()
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        self._out = []
        self._out_bytes = 0
        self._pongs_pending = 0
        self.bytes_out += len(data)
        return data

    # Time.

    def next_deadline(self) -> float:
        """Return when `handle_deadline` is due, in monotonic seconds; infinity when there is nothing to wait for."""
        state, limits = self.state, self._limits
        if state is State.ENDED:
            return float("inf")
        if state in NOTHING_VALID_YET:
            return self._started + min(limits.first_message_s_max, limits.handshake_s_max)
        if state in HANDSHAKING:
            return self._started + limits.handshake_s_max
        return self._liveness.next_deadline(self._decoder.frame_length or 0, pinging=state is State.LIVE)

    def handle_deadline(self, now: float) -> None:
        """Do what is due: ask for a sign of life, or end. Harmless when nothing is."""
        self._now = now
        state, limits = self.state, self._limits
        if state is State.ENDED:
            return
        if state in HANDSHAKING:
            if now >= self.next_deadline():
                self._fail(Reason.TIMEOUT, f"the handshake stood at {state.value} for too long")
            return
        due = self._liveness.due(now, self._decoder.frame_length or 0, pinging=state is State.LIVE)
        if due is Due.PEER_DEAD:
            self._fail(Reason.DEAD, f"nothing was heard for {limits.dead_after_s:g} s")
        elif due is Due.FRAME_LATE:
            self._fail(Reason.TIMEOUT, "a frame took too long to come")
        elif due is Due.PING:
            self.ping(now)

    def pause(self, now: float) -> None:
        """The owner stops reading: how long the peer was silent, or drips a frame, is not counted from now on."""
        self._now = now
        self._liveness.pause(now)

    def resume(self, now: float) -> None:
        """The owner reads again."""
        self._now = now
        self._liveness.resume(now)

    # Handshake.

    def _read_handshake(self, frame: Buffer, awaited: MessageType) -> None:
        handshake = self._handshake
        assert handshake is not None
        proven: Proven | None = None
        try:
            envelope = parse_envelope(frame)
            if envelope.type != awaited or envelope.flags:
                raise RemoteProtocolError(f"type {envelope.type}, flags {envelope.flags:#x} instead of {awaited.label}")
            if envelope.msg_id != self._last_id_in + 1:
                # No seal covers the ids of the handshake, so nothing about them may vary.
                raise RemoteProtocolError(f"the handshake's message ids count from 1; {envelope.msg_id} is out of turn")
            self._last_id_in = envelope.msg_id
            if awaited is MessageType.HELLO:
                handshake.read_hello(envelope)
                answer = handshake.write_hello_ack(self._take_id())
                self._move(State.WAIT_HELLO_FINISH)
                self._put_out(answer)
            elif awaited is MessageType.HELLO_ACK:
                proven = handshake.read_hello_ack(envelope)
            else:
                proven = handshake.read_hello_finish(envelope)
        except RemoteProtocolError as error:
            self._fail(error.reason, str(error))
            return
        except CryptoError as error:
            self._fail(Reason.CRYPTO, str(error))
            return
        self._liveness.heard(self._now)
        if proven is not None:
            self.peer_id, self.node_id = proven.peer_id, proven.node_id
            self.peer_capabilities = proven.capabilities
            self._move(State.DECIDING)
            self._events.append(PeerProven(proven.peer_id, proven.node_id, proven.capabilities))

    def _is_asking(self, answer: str) -> bool:
        if self.state is not State.DECIDING and self.state is not State.ENDED:
            raise LocalProtocolError(f"there is nothing to {answer}: the session is {self.state.value}")
        return self.state is State.DECIDING

    def _take_keys(self, handshake: Handshake) -> None:
        ours, theirs = self._config.offered, self.peer_capabilities
        self.cipher = choose_cipher(ours, theirs)
        send_key, receive_key = handshake.keys()
        self._outbound = Direction(self.cipher, send_key, self._limits.rekey_every)
        self._inbound = Direction(self.cipher, receive_key, self._limits.rekey_every)
        self._bundling = "bundle" in ours and "bundle" in theirs
        self._decoder.max_frame_bytes = self._limits.frame_bytes_max
        # The ephemeral key goes with it, so that nobody who takes this process later can open what was recorded.
        self._handshake = None

    # Reading sealed frames.

    def _open(self, frame: Buffer | Pieces) -> tuple[int, int, int, bytes] | None:
        """Break the seal of an envelope; None if it is not whole, and the session over."""
        assert self._inbound is not None, "there are no keys yet"
        try:
            opened = self._inbound.open(frame)
        except (RemoteProtocolError, CryptoError):
            self._fail(Reason.CRYPTO, _TAMPERED)
            return None
        self._liveness.heard(self._now)
        return opened

    def _read_sealed(self, frame: Buffer | Pieces) -> None:
        opened = self._open(frame)
        if opened is None:
            return
        type, msg_id, flags, payload = opened
        if self.state is State.CONFIRMING and type != _GOODBYE:
            self._move(State.LIVE)
            self._events.append(Live())
        try:
            if type == _BUNDLE:
                self._read_bundle(payload)
            if msg_id <= self._last_id_in:
                raise _not_increasing(msg_id, self._last_id_in)
            self._last_id_in = msg_id
            if type == _DATA and not flags & COMPRESSED:
                self._events.append(Received(msg_id, flags, decode_data(payload)))
            elif type != _BUNDLE:
                self._read_message(type, msg_id, flags, payload)
        except RemoteProtocolError as error:
            self._fail(error.reason, str(error))

    def _read_bundle(self, payload: bytes) -> None:
        if not self._bundling:
            raise RemoteProtocolError("a Bundle although it was not agreed on")
        last_id = self._last_id_in
        append = self._events.append
        for item in read_bundle(payload, BUNDLE_MESSAGES_MAX):
            if isinstance(item, Row):
                # Its ids count on from the message before it.
                self._last_id_in = last_id = item.first_id + len(item.bodies) - 1
                self._take_row(item)
                continue
            type, msg_id, flags, message = item
            if msg_id <= last_id:
                raise _not_increasing(msg_id, last_id)
            self._last_id_in = last_id = msg_id
            if isinstance(message, Data):
                append(Received(msg_id, flags, message))
            else:
                self._read_message(type, msg_id, flags, message)
                if self.state is State.ENDED:
                    return

    def _take_row(self, row: Row) -> None:
        if not (row.flags or row.reply_to or row.status):
            self._events.append(ReceivedRow(row.channel, row.bodies))
            return
        for msg_id, body in enumerate(row.bodies, row.first_id):
            self._events.append(Received(msg_id, row.flags, Data(row.channel, row.reply_to, row.status, body)))

    def _read_message(self, type: int, msg_id: int, flags: int, payload: Buffer) -> None:
        if flags & COMPRESSED:
            raise RemoteProtocolError("a compressed message")
        if type in _FOR_OWNER:
            self._events.append(Received(msg_id, flags, decode_payload(type, payload)))
        elif type == _PING:
            self._read_ping(Ping.decode(payload))
        elif type == _PONG:
            self._read_pong(Pong.decode(payload))
        elif type == _GOODBYE:
            self._read_goodbye(Goodbye.decode(payload))
        elif type >= UNKNOWN_IGNORED_MIN:
            self._events.append(Ignored(type))
        else:
            raise RemoteProtocolError(f"type {type} has no place in a live session")

    def _read_ping(self, ping: Ping) -> None:
        self._events.append(Pinged())
        self._rest()
        if self.state is State.LIVE and self._pongs_pending < self._limits.pongs_pending_max:
            self._pongs_pending += 1
            self._queue(_PONG, Pong(ping.nonce).encode(), 0)

    def _read_pong(self, pong: Pong) -> None:
        self._events.append(Ponged(self._liveness.pong_came(pong.nonce, self._now)))
        self._rest()

    def _rest(self) -> None:
        """A Ping tells that one side heard nothing for a while: what only a busy link needs is let go."""
        assert self._inbound is not None
        assert self._outbound is not None
        self._inbound.rest()
        self._outbound.rest()

    def _read_goodbye(self, goodbye: Goodbye) -> None:
        said = self._goodbye_said
        if said is None:
            if self._last_words is not None and self.state is State.LIVE:
                self._last_words()
            self._say_goodbye(Reason.CLOSED, "")
            said = goodbye
        self._end(Ended(*_told(said), clean=True))

    # Writing.

    def _take_id(self) -> int:
        msg_id = self._next_id
        self._next_id = msg_id + 1
        return msg_id

    def _queue(self, type: int, payload: bytes, flags: int) -> int:
        limits = self._limits
        if len(payload) < limits.bundle_message_bytes_max and self._bundling:
            group = self._group
            size = len(payload) + INNER_OVERHEAD_BYTES
            if self._group_bytes >= self._bundle_bytes or self._group_messages >= self._bundle_max:
                self._close_group()
            msg_id = self._next_id
            self._next_id = msg_id + 1
            group.append((type, msg_id, flags, payload))
            self._group_bytes += size
            self._group_messages += 1
            return msg_id
        if len(payload) > limits.frame_bytes_max - FRAME_OVERHEAD_BYTES:
            bytes_max = limits.frame_bytes_max - FRAME_OVERHEAD_BYTES
            raise PayloadTooLarge(f"a message of {len(payload)} bytes: {bytes_max} are the most that fit a frame")
        self._close_group()
        msg_id = self._take_id()
        self._seal(type, msg_id, flags, payload)
        return msg_id

    def _close_group(self) -> None:
        group = self._group
        if not group:
            return
        if self._group_messages == 1:
            self._seal(*group[0])
        else:
            # A row stands in its frames already.
            frames = [
                payload if type == _BUNDLE else encode_framed(type, msg_id, flags, payload)
                for type, msg_id, flags, payload in group
            ]
            self._seal(_BUNDLE, self._take_id(), 0, frames[0] if len(frames) == 1 else b"".join(frames))
        group.clear()
        self._group_bytes = self._group_messages = 0

    def _seal(self, type: int, msg_id: int, flags: int, payload: Buffer) -> None:
        assert self._outbound is not None, "there are no keys yet"
        try:
            self._put_out(self._outbound.seal(type, msg_id, flags, payload))
        except CryptoError as error:
            self._fail(Reason.CRYPTO, str(error))

    def _put_out(self, frame: bytes | bytearray) -> None:
        self._out.append(frame)
        self._out_bytes += len(frame)

    def _say_goodbye(self, reason: int, detail: str) -> None:
        self._goodbye_said = Goodbye(reason, one_line(detail, self._limits.goodbye_detail_bytes_max))
        self._queue(_GOODBYE, self._goodbye_said.encode(), 0)

    # Ending.

    def _move(self, state: State) -> None:
        assert state in NEXT[self.role, self.state], f"{self.state} does not lead to {state}"
        self.state = state

    def _fail(self, reason: Reason, detail: str) -> None:
        if self.state is State.ENDED:
            return
        if self.state is State.WAIT_HELLO_ACK:
            detail = foreign_answer(self._first) or detail
        # Not a byte is answered to what cannot be: neither what waited nor a word about it.
        self._group.clear()
        self._group_bytes = self._group_messages = 0
        self._out = []
        self._out_bytes = 0
        self._end(Ended(reason, one_line(detail), clean=False))

    def _end(self, ended: Ended) -> None:
        self._move(State.ENDED)
        self._events.append(ended)
        self._close_group()
        self._decoder = FrameDecoder(0)
        self._inbound = self._outbound = self._handshake = None


def _not_increasing(msg_id: int, last_id: int) -> RemoteProtocolError:
    return RemoteProtocolError(f"message id {msg_id} after {last_id}: ids only grow")


def _told(goodbye: Goodbye) -> tuple[Reason, str]:
    """What a Goodbye says, in our words: a reason that this version does not know counts as an end in order."""
    try:
        return Reason(goodbye.reason), one_line(goodbye.detail)
    except ValueError:
        return Reason.CLOSED, one_line(f"reason {goodbye.reason}: {goodbye.detail}")
