"""The half of a link that speaks: what waits to be sent, in which order it leaves, and by which task.

Responsible for taking messages, requests and answers from the node, for their turn where there is no room, and for
writing: now where the socket takes it, else by a task that ends when there is nothing left. It refuses to know what
comes in, and when and why a link ends: that is the part of `Connection`, the other half. This is its base, as a link is
one object: a second one would cost every message some calls, and each of thousands of idle links its memory.

How it moves:

- What is sent goes to the outbox, or past it if nothing waits (`_send_past_outbox`): a request costs one system call
  and no task switch.
- A message that fills a write is written by who sends it, if nothing waits (`write_data_nowait`).
- The **writer** is started when there is something to write and ends when there is not, a task of the nursery that the
  link runs in, which the link's own task does not outlive; a nursery for each link would cost thousands of idle ones
  a sixth of their memory. It drains the outbox into the session, which seals what waits together as one bundle, and
  writes that at once.
- While events are handled nothing is written: what comes of them is flushed right after them.
- A link that gives way says so by what it still writes: all messages, then that there are no more, then Goodbye.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import trio

from p2p import msg
from p2p.envelope import ACK_REQ
from p2p.errors import NotConnected, PayloadTooLarge, Reason
from p2p.ids import RELAY, PeerEndpoint, PeerId
from p2p.limits import Limits
from p2p.peer.asking import Ask, Asks
from p2p.peer.life import Life
from p2p.peer.line import Line
from p2p.peer.outbox import ENVELOPE_BYTES_MAX, Outbox, RelayLane
from p2p.peer.parting import Parting
from p2p.peer.vigil import Vigil
from p2p.session.session import Session
from p2p.session.states import State
from p2p.text import TRACE, one_line
from p2p.transport.base import LinkStream
from p2p.windows import Clock

if TYPE_CHECKING:
    from p2p.peer.connection import Connection

_log = logging.getLogger("p2p.peer")

_NEVER: Final = float("inf")
_DATA: Final = int(msg.MessageType.DATA)
_RELAY: Final = int(msg.MessageType.RELAY)
_REQUEST_CANCEL: Final = int(msg.MessageType.REQUEST_CANCEL)

ANSWER_FIELDS_BYTES: Final = 16
"""What an answer has beside its body: channel, reply_to, status and the body's length (wire section 4), rounded up."""

WRITES_PER_CHECKPOINT: Final = 5
"""A writer that finds room in the socket lets the other tasks run after so many writes, of 64 KiB or one message each
(192 KiB into a circuit), or when less than a whole write waits: a turn of the loop costs about as much as sealing and
writing 64 KiB. Of messages of 64 KiB they are what the outbox holds, and the one of who waits for room: so the writer
catches up with them and ends, and whoever sends the next one writes it."""


class Outgoing(ABC):
    """What a link sends.

    Attributes:
        session: seals it.
        direct: False if the stream is a circuit through a relay.
        endpoint: what was dialled, or the remote address of an accepted stream.
        peer_id: the proven identity, there from PeerProven on. No property: a handshake asks for it twenty times.
        label: the peer's node id where the node accepted it as a label, else None.
        life: signs of life, and what is made of their absence.
        after: links of the same peer whose application messages come before this one's.
        asks: requests of ours that wait for answers here; None before the first one.
        serving: requests of the peer that are with our handlers.
        unanswered: those that were taken and wait for one.
        answer_bytes_max: so large a body an answer may have.
        reason: why the link ended, None while it lasts.
        detail: more about that.
        clean: whether it ended with a Goodbye.
        unsent: application messages that waited here when it ended.
    """

    # A node keeps thousands of idle links: the fields are slots, and what only some links need is made when it is.
    __slots__ = (
        "_alone",
        "_clock",
        "_flush_follows",
        "_flush_next",
        "_last_words",
        "_last_words_by",
        "_limits",
        "_line",
        "_live",
        "_nursery",
        "_outbox",
        "_parting",
        "_rest",
        "_rest_scope",
        "_stream",
        "_traces",
        "_write_bytes",
        "_write_scope",
        "_writing",
        "_written",
        "after",
        "answer_bytes_max",
        "asks",
        "clean",
        "detail",
        "direct",
        "endpoint",
        "label",
        "life",
        "peer_id",
        "reason",
        "serving",
        "session",
        "unanswered",
        "unsent",
    )

    def __init__(
        self, stream: LinkStream, session: Session, *, clock: Clock, limits: Limits, endpoint: PeerEndpoint | None
    ) -> None:
        self.session = session
        self.peer_id: PeerId
        self.endpoint = endpoint
        self.direct = endpoint is None or endpoint.scheme != RELAY
        self.label: str | None = None
        self.life = Life(session, stream, limits, in_circuit=not self.direct)
        self.after: tuple[Connection, ...] = ()
        self.asks: Asks | None = None
        self.serving = 0
        self.unanswered = 0
        self.answer_bytes_max = limits.frame_bytes_max - ENVELOPE_BYTES_MAX - ANSWER_FIELDS_BYTES
        self.reason: Reason | None = None
        self.detail = ""
        self.clean = False
        self.unsent = 0
        self._stream = stream
        self._clock = clock
        self._limits = limits
        self._write_bytes = limits.write_bytes if self.direct else limits.relay_write_bytes
        self._outbox = Outbox(limits)
        self._line: Line | None = None
        self._live = False
        # How it ends, once it is closed or gives way.
        self._parting: Parting | None = None
        self._nursery: trio.Nursery | None = None
        # While a reader of ours lets the link rest.
        self._rest_scope: trio.CancelScope | None = None
        # What the socket did not take of the last write.
        self._rest: memoryview | None = None
        self._writing = False
        self._write_scope: trio.CancelScope | None = None
        self._written: trio.Event | None = None
        self._flush_follows = False
        # Links whose circuits have something to say of what comes on this one.
        self._flush_next: tuple[Connection, ...] = ()
        self._alone = False
        self._last_words = 0
        self._last_words_by = -_NEVER
        self._traces = _log.isEnabledFor(TRACE)
        # Who moves to another link reads this one to its end: what waits here comes before what is sent there.
        session.before_answering_goodbye(self._say_last_words)

    # What the other half knows.

    @property
    @abstractmethod
    def is_live(self) -> bool:
        """Whether messages may be sent."""

    @abstractmethod
    def abort(self, reason: Reason, detail: str = "") -> None:
        """End at once: nothing is flushed, no Goodbye is sent. Never waits."""

    @abstractmethod
    def _broke(self, error: trio.BrokenResourceError | trio.ClosedResourceError) -> None:
        """The stream is gone, and nobody knows why yet."""

    @abstractmethod
    def _owes_answers(self) -> bool:
        """Whether a link that gives way has requests of either side that wait for their answers, or circuits."""

    @abstractmethod
    def _tighten_deadline(self) -> None:
        """Something is due, maybe earlier than what was due before."""

    # Messages.

    @property
    def outbox_bytes(self) -> int:
        """Bytes of application messages that wait to be written."""
        return self._outbox.data_bytes

    def send_data_nowait(self, payload: bytes) -> bool:
        """Queue an encoded Data message if there is room for it; False if the sender has to wait (`send_data`)."""
        if self._parting is not None or not self._live or self._line or not self._outbox.put_data(payload):
            return False
        if not self._writing:
            self._start_writer()
        return True

    def write_data_nowait(self, payload: bytes) -> bool:
        """Write an encoded Data message that fills a write now, if nothing waits before it; False, with nothing done,
        if it has to take its turn.

        For 64 KiB the outbox, the writer and half of the turns of the loop are a sixth of the sender's processor time.
        """
        if (
            self._writing
            or not self._live
            or self._parting is not None
            or self._line
            or self._rest is not None
            or self._flush_follows
            or self._outbox
            or self._traces
            or self.life.vigil is not None
            or len(payload) > self._limits.frame_bytes_max - ENVELOPE_BYTES_MAX
            or (sealed := self.session.seal_alone(payload, 0)) is None
        ):
            return False
        _, frame = sealed
        sent = self._stream.send_nowait(frame)
        if sent < len(frame):
            self._rest = memoryview(frame)[sent:]
            self._start_writer()
        return True

    async def send_data(self, payload: bytes) -> None:
        """Queue an encoded Data message as soon as there is room for it and all who came before are served.

        Raises:
            NotConnected: the link is not live (any more).
            PayloadTooLarge: the message does not fit a frame.
        """
        check_fits(payload, self._limits)
        if self.send_data_nowait(payload) or (self.is_live and await self._in_line().wait(payload)):
            return
        raise self._closed()

    def _in_line(self) -> Line:
        if self._line is None:
            self._line = Line()
        return self._line

    def _put_from_line(self, payload: bytes, ask: Ask | None) -> bool:
        if not self._outbox.put_data(payload, ask):
            return False
        if ask is not None:
            assert self.asks is not None, "whoever asks has a place"
            self.asks.begin(ask)
        return True

    def _closed(self) -> NotConnected:
        proven = self.session.peer_id
        name = self.label or ("a peer that proved nothing" if proven is None else proven.short)
        return NotConnected(f"the link to {name} is closed{self.why}")

    @property
    def why(self) -> str:
        """Why it ended, to be put behind a sentence that says so; empty while it lasts."""
        return f" ({one_line(self.detail or self.reason.label)})" if self.reason is not None else ""

    # Requests and their answers.

    def ask_nowait(self, payload: bytes, ask: Ask) -> bool:
        """Send an encoded request if it may be open and there is room for it; False if it has to wait (`ask`)."""
        asks = self.asks
        if asks is None:
            asks = self.asks = Asks(self._limits, self._give_up)
        places = asks.free_places
        if self._line or places <= 0 or not self._live or self._parting is not None:
            return False
        is_first = places == self._limits.pending_requests_max
        if is_first and (msg_id := self._send_past_outbox(payload, ACK_REQ, at_once=True)):
            asks.begin(ask, msg_id)
        elif not self._outbox.put_data(payload, ask):
            return False
        else:
            asks.begin(ask)
            if not is_first:
                # Somebody waits for the peer already: what is asked at the same time leaves together.
                self.write_soon()
            elif not self._flush_follows:
                self.flush()
        return True

    def _send_past_outbox(self, payload: bytes, flags: int, *, at_once: bool) -> int:
        """Write a small message now, or soon with what is sent meanwhile, if nothing waits before it.

        The outbox is there for what cannot be written yet, and a Bundle for what goes together. A question, and an
        answer, mostly goes alone and finds both empty: without them each takes 25 calls fewer.

        Args:
            payload: encoded.
            flags: of its envelope.
            at_once: whether nothing will go together with it, so that it is written now.

        Returns:
            Its id, or 0 if it has to take its turn.
        """
        if self._writing or self._rest is not None or self._outbox or self._traces:
            return 0
        vigil, session = self.life.vigil, self.session
        if vigil is not None:
            if self._doubts(vigil):
                return 0
            self._await_answer(vigil)
        if len(payload) >= self._limits.bundle_message_bytes_max:
            return 0
        if at_once and (sealed := session.seal_alone(payload, flags)) is not None:
            msg_id, frame = sealed
            sent = self._stream.send_nowait(frame)
            if sent < len(frame):
                self._rest = memoryview(frame)[sent:]
                self._start_writer()
            return msg_id
        if session.state is not State.LIVE or session.pending_bytes >= self._limits.write_bytes:
            return 0
        msg_id = session.send(_DATA, payload, flags)
        self.write_soon()
        return msg_id

    def _doubts(self, vigil: Vigil) -> bool:
        """Whether a circuit is so silent that nothing more is sent into it for now. The next read goes on with it.

        Not while it is not read: the silence is our own, and our reader may be waiting for what is sent.
        """
        if vigil.asked_at == _NEVER or self._parting is not None or self._rest_scope is not None:
            return False
        return self.life.doubts(vigil, self._clock.monotonic())

    def _await_answer(self, vigil: Vigil) -> None:
        """In a circuit: something goes out whose arrival only the peer can tell."""
        if vigil.sent(self._clock.monotonic()):
            self._tighten_deadline()

    def _give_up(self, msg_id: int) -> None:
        if self._live and not self.session.is_ending:
            self._put_control(_REQUEST_CANCEL, msg.RequestCancel(msg_id).encode())

    async def ask(self, payload: bytes, ask: Ask) -> None:
        """Send an encoded request as soon as it may be open and there is room for it, both in the order of coming.

        Raises:
            NotConnected: the link is not live (any more).
            PayloadTooLarge: the request does not fit a frame.
        """
        check_fits(payload, self._limits)
        asks = self.asks
        if asks is None:
            asks = self.asks = Asks(self._limits, self._give_up)
        if self.is_live and await asks.take_place():
            try:
                if not self._line and self._put_from_line(payload, ask):
                    self.write_soon()
                    return
                if await self._in_line().wait(payload, ask):
                    return
            finally:
                asks.leave_place()
        raise self._closed()

    @property
    def _takes_answers(self) -> bool:
        if self._parting is None:
            return self._live
        # A link that gives way answers what came before.
        return self._live and self._parting.gives_way and not self.session.is_ending

    def send_reply_nowait(self, payload: bytes, *, at_once: bool = False) -> bool:
        """Send an encoded answer if there is room for it: now, or soon and together with what is sent meanwhile.

        Args:
            payload: encoded.
            at_once: whether nothing is to be sent meanwhile. The answer to a request that came alone leaves now anyway.
        """
        if self._line or not (self._takes_answers if self._parting is not None else self._live):
            return False
        if not self._send_past_outbox(payload, 0, at_once=at_once or self._alone):
            if not self._outbox.put_data(payload):
                return False
            self.write_soon()
        return True

    async def send_reply(self, payload: bytes) -> None:
        """Send an encoded answer as soon as there is room for it.

        Raises:
            NotConnected: the link is over.
        """
        if not (
            self.send_reply_nowait(payload)
            or (self._takes_answers and await self._in_line().wait(payload, is_answer=True))
        ):
            raise self._closed()

    def send_status(self, payload: bytes) -> None:
        """Queue an encoded answer without a body ahead of all messages. Never waits; dropped when the link is over."""
        if self._takes_answers:
            self._put_control(_DATA, payload)

    def write_soon(self) -> None:
        """Have what waits written by a task, together with what comes until it runs."""
        if not (self._writing or self._flush_follows):
            self._start_writer()

    # Replication.

    def send_control(self, message: msg.AnyMessage) -> None:
        """Queue a replication answer or notice. Never waits; dropped when the link is over."""
        if self._takes_answers and self.reason is None:
            self._put_control(message.TYPE, message.encode())

    def _put_control(self, type: int, payload: bytes) -> None:
        if not self._outbox.put_control(type, payload):
            self.abort(Reason.OVERLOADED, "it leaves more answers unread than it may ask for")
        elif not self._writing:
            self._start_writer()

    def send_wal(self, message: msg.WalPush) -> None:
        """Queue a batch. Never waits: the replication window bounds how many there are."""
        if self.is_live:
            self._outbox.put_wal(message.TYPE, message.encode())
            if not self._writing:
                self._start_writer()

    # Circuits.

    def carry(self, circuits: RelayLane | None) -> None:
        """Write what these circuits have to say, in turn with everything else; None takes them off."""
        if self.reason is None:
            self._outbox.relay = circuits

    def carries(self, circuits: RelayLane) -> bool:
        """Whether these are its circuits."""
        return self._outbox.relay is circuits

    @property
    def is_writing(self) -> bool:
        """Whether something waits to be written."""
        return self._writing

    @property
    def _carries_any(self) -> bool:
        return self._outbox.relay is not None and self._outbox.relay.legs > 0

    def flush_circuits(self) -> None:
        """The circuits that it carries have something to say: it is written as far as the socket takes it now.

        At once and not by a task: else whole windows would gather at every step of the way, and each step would wait
        for the one before. What comes up while this link handles events is flushed right after them.
        """
        if self._live and not self._flush_follows:
            self.flush()

    def flush_next(self, link: Connection) -> None:
        """Flush the circuits of another link as soon as what came here with one read is handled: what several messages
        brought for one circuit leaves as one, which costs half as much."""
        if self._flush_follows:
            self._flush_next += (link,)
        else:
            link.flush_circuits()

    # Writing.

    def _start_writer(self) -> None:
        # What is queued while events are handled is flushed right after them: a task for it would cost more than the
        # write itself.
        if self._nursery is not None and not self._flush_follows:
            self._writing = True
            self._write_scope = trio.CancelScope()
            self._nursery.start_soon(self._write, self._write_scope)

    def _next_bytes(self) -> bytes | bytearray:
        session, outbox = self.session, self._outbox
        if outbox and session.state is State.LIVE and ((vigil := self.life.vigil) is None or not self._doubts(vigil)):
            outbox.drain(session, self._write_bytes)
            if vigil is not None:
                self._await_answer(vigil)
            if self._line is not None:
                self._line.serve(self._put_from_line)
                if not self._line:
                    self._line = None
        parting = self._parting if session.state is not State.ENDED else None
        if parting is not None and not outbox and parting.may_part and not self._owes_answers():
            session.goodbye(*parting.farewell)
        elif parting is not None and parting.gives_way:
            self._say_all(parting)
        data = session.data_to_send()
        if self._traces and data:
            _log.log(TRACE, "%s: %d bytes go out", self, len(data))
        return data

    def _say_all(self, parting: Parting) -> None:
        """The next link need not wait for circuits and handlers, but only for the messages that are sent here."""
        if parting.said_all or self._outbox.data_messages or self.session.state is not State.LIVE:
            return
        if RELAY in self.session.peer_capabilities:
            parting.said_all = True
            self.session.send(_RELAY, msg.NO_MORE_DATA.encode())

    def flush(self) -> None:
        """Write what waits as far as the socket takes it now; a writer task does the rest.

        A rest that found no writer yet (before `run`, or amid events) is left to the next call: nothing overtakes it.
        """
        if self._writing:
            return
        is_quiet = False
        if self._rest is None:
            is_quiet = not self._outbox and self._parting is None and not self._traces
            data = self.session.data_to_send() if is_quiet else self._next_bytes()
            if not data:
                return
            sent = self._stream.send_nowait(data)
            if sent < len(data):
                self._rest = memoryview(data)[sent:]
        # What was empty before the write is empty behind it.
        if self._rest is not None or (not is_quiet and self._outbox):
            self._start_writer()

    @trio.lowlevel.enable_ki_protection
    async def _write(self, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await self._write_until_empty()
        finally:
            if self._write_scope is scope:
                self._write_scope = None
            if self._written is not None:
                self._written.set()

    async def _write_until_empty(self) -> None:
        stream, limits, outbox = self._stream, self._limits, self._outbox
        at_hand = WRITES_PER_CHECKPOINT
        try:
            while True:
                if self._rest is not None:
                    data, self._rest = self._rest, None
                else:
                    chunk = self._next_bytes()
                    if not chunk:
                        break
                    sent = stream.send_nowait(chunk)
                    if sent == len(chunk):
                        at_hand -= 1
                        left = outbox.data_bytes + outbox.wal_bytes
                        if sent > self._write_bytes and not outbox:
                            # What fills a write is best written by who sends it, and he has his turn next.
                            continue
                        if at_hand <= 0 or left < self._write_bytes:
                            at_hand = WRITES_PER_CHECKPOINT
                            await trio.lowlevel.checkpoint()
                            if 0 < left < self._write_bytes and outbox.data_bytes + outbox.wal_bytes == left:
                                # Whoever was woken to fill the outbox up has not had his turn yet, and what is left
                                # is less than a write.
                                await trio.lowlevel.checkpoint()
                        continue
                    data = memoryview(chunk)[sent:]
                # In slices, so that the stall rule measures progress and not the size of a message; a large message
                # with what surrounds it, a little more than `write_bytes`, is one.
                start, size = 0, len(data)
                while start < size:
                    stop = start + limits.write_bytes if size - start >= 2 * limits.write_bytes else size
                    # The peer does not read this link while one that gives way to it goes on.
                    stall_s = limits.write_stall_s_max + (limits.retire_s_max if self.after else 0.0)
                    with trio.move_on_after(stall_s) as scope:
                        await stream.send_all(data[start:stop])
                    if scope.cancelled_caught:
                        # In a circuit the relay may be silent instead.
                        is_heard = self.direct or self._clock.monotonic() < self.life.moved_at + stall_s
                        reason = Reason.OVERLOADED if is_heard else Reason.DEAD
                        self.abort(reason, f"no byte accepted for {stall_s:g} s")
                        return
                    self._note_room()
                    start = stop
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            # The reader may still find the other's Goodbye; it meets the same error or the end of the stream.
            if self.reason is None and not self.session.is_ending:
                self._broke(error)
        except Exception:  # noqa: BLE001  # our own bug: see _read_until_over
            _log.exception("link %s failed inside this node", self)
            self.abort(Reason.INTERNAL, "an internal error")
        finally:
            self._writing = False

    def _note_room(self) -> None:
        """The other side made room for a write that waited for it."""
        now = self.life.moved_at = self._clock.monotonic()
        if now < self._last_words_by and self._write_scope is not None:
            self._write_scope.deadline = min(
                self._last_words_by, now + max(self._limits.drain_s_max, self.life.probe_s)
            )

    def _say_last_words(self) -> None:
        self._last_words = self._outbox.drain_messages(self.session) if self._outbox.data_messages else 0

    async def _end_writing(self, scope: trio.CancelScope) -> None:
        self._bound_last_words(scope)
        self._written = trio.Event()
        await self._written.wait()
        if scope.cancelled_caught:
            # Some of them may have been written: what one write takes leaves together.
            self.unsent += self._last_words

    def _bound_last_words(self, scope: trio.CancelScope) -> None:
        """Give what is left, our Goodbye mostly, a bounded time of its own, within that of an end we asked for.

        A peer that said Goodbye because he moves reads on to the end of what waits here: he gets time while he reads.
        """
        now, limits, parting = self._clock.monotonic(), self._limits, self._parting
        over_by = parting.over_by if parting is not None and parting.gives_way else now + limits.retire_s_max
        if self.clean and self.reason is Reason.MOVED and now < over_by:
            self._last_words_by = over_by
            scope.deadline = min(over_by, now + max(limits.drain_s_max, self.life.probe_s))
        else:
            scope.deadline = min(_NEVER if parting is None else parting.end_by, now + limits.probe_s_max)


def check_fits(payload: bytes, limits: Limits) -> None:
    """Raise PayloadTooLarge when an encoded message does not fit a frame."""
    bytes_max = limits.frame_bytes_max - ENVELOPE_BYTES_MAX
    if len(payload) > bytes_max:
        raise PayloadTooLarge(
            f"a message of {len(payload)} bytes with its channel's name: {bytes_max} are the most that fit a frame"
        )
