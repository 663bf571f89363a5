"""A member of a simulated network that keeps to no rule: it forges, replays, forks, lies and floods.

Responsible for what comes from one hostile host while faults happen. It has what a member whose machine was taken over
has: an identity that is admitted, and in a network with a key as many more as it likes. It visits honest nodes, one
link at a time, and on each visit does one bad thing; when the faults end it is gone, and what it left must have harmed
nobody: the checks of a world are about the honest nodes only.

Its log is the exception: it spreads like any other, so it is written honestly at first, in two versions. Who was given
which is noted; where both were taken, every honest node must end with the proof.

What it claims to hold is believed where the contract says so: `wait_replicated` counts peers that say they have it. So
that one promise is not checked in a world with liars.
"""

# ruff: noqa: SLF001  # it keeps to no rule of a session either

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import trio

from p2p import msg
from p2p.crypto.identity import Identity
from p2p.crypto.noise import NoiseStatic
from p2p.envelope import MessageType
from p2p.errors import ConnectFailed
from p2p.ids import PeerEndpoint, PeerId
from p2p.limits import Limits
from p2p.replication.batch import Batch, NewRecord, encode_portions, seal
from p2p.replication.heads import FROZEN_MARK, SEQ_MAX, ZERO_HASH
from p2p.session import Ended, Live, PeerProven, Received, Role, Session, SessionConfig
from p2p.testing.dice import Dice
from p2p.testing.ledger import Ledger
from p2p.testing.plan import USUAL_S_MAX, Plan
from p2p.testing.trace import Trace
from p2p.transport.memory import MemoryNetwork
from p2p.transport.memory_stream import MemoryStream

VISIT_S_MAX: Final = 15.0
HEARD_MAX: Final = 200
FLOOD: Final = 450
STRANGERS: Final = 8
_HLC: Final = 1_700_000_000_000 << 16


class _Over(Exception):
    """The link has ended."""


class Villain:
    """One hostile host.

    Args:
        name: its address.
        targets: where the honest nodes listen, by host.

    Attributes:
        identity: the one that is in every trust list, and that writes the forked log.
        holders: for each of the two versions of its log, the hosts that acknowledged it.
    """

    def __init__(
        self,
        plan: Plan,
        name: str,
        targets: Mapping[str, PeerEndpoint],
        *,
        network: MemoryNetwork,
        ledger: Ledger,
        trace: Trace,
    ) -> None:
        self.name = name
        self.identity = identity_of(plan, name)
        self.holders: tuple[set[str], set[str]] = (set(), set())
        self._plan = plan
        self._targets = targets
        self._network = network.network_for(name)
        self._ledger = ledger
        self._trace = trace
        self._dice = Dice(plan.seed).branch(f"villain {name}")
        self._trunk = _batch(self.identity, None, b"common")
        self._branches = tuple(_batch(self.identity, self._trunk, body) for body in (b"paid", b"never paid"))
        self._heard: list[msg.WalPush] = []
        # A long world is a slow one and not a full one, as in `plan`.
        self._leisure = max(1.0, plan.safety_s / USUAL_S_MAX)
        ledger.distrust(self.identity.peer_id)

    @property
    def has_forked(self) -> bool:
        """Whether both versions of its log were taken by honest nodes."""
        return all(self.holders)

    async def run(self) -> None:
        """Do harm until cancelled."""
        while True:
            await trio.sleep(self._dice.number(0.5, 6) * self._leisure)
            host = self._dice.one_of(sorted(self._targets))
            # In its own name it behaves until the fork is made: who is banned gives nothing to anybody.
            habit = Villain._fork if not self.has_forked and self._dice.chance(0.5) else self._dice.one_of(_HABITS)
            self._trace.note(self.name, f"visits {host}: {habit.__name__.strip('_')}")
            with trio.move_on_after(VISIT_S_MAX):
                try:
                    stream = await self._network.connect(self._targets[host])
                    async with stream:
                        await habit(self, stream, host)
                except (_Over, ConnectFailed, trio.BrokenResourceError, trio.ClosedResourceError):
                    continue

    # One bad thing each.

    async def _fork(self, stream: MemoryStream, host: str) -> None:
        """Give this host one version of its log, and another host the other one, before either can tell anybody."""
        hosts = [host, self._dice.one_of([other for other in sorted(self._targets) if other != host])]
        async with await self._network.connect(self._targets[hosts[1]]) as second:
            links = [await self._link(one, self.identity) for one in (stream, second)]
            for link in links:
                await link.say(msg.WalHeads(), _push(self._trunk))
            for link in links:
                await link.until_acks(1)
            for link, branch in zip(links, self._branches, strict=True):
                await link.say(_push(branch))
            for version, link in enumerate(links):
                await link.until_acks(2)
                if link.acks[1] == self._branches[version].seq_end:
                    self._trace.note(self.name, f"gave version {version} to {hosts[version]}")
                    self.holders[version].add(hosts[version])

    async def _spy(self, stream: MemoryStream, host: str) -> None:
        """Be sent logs, to have something to replay."""
        link = await self._link(stream, self._anybody())
        await link.say(msg.WalHeads())
        heads = await link.until_heads()
        wanted = tuple(msg.HeadEntry(entry.origin, 0, ZERO_HASH) for entry in heads.entries[:20])
        await link.say(msg.WalHeads(wanted))
        await link.listen()

    async def _replay(self, stream: MemoryStream, host: str) -> None:
        """Push what was heard, in any order and twice: duplicates, gaps, what everybody holds."""
        link = await self._link(stream, self._anybody())
        await link.say(msg.WalHeads())
        for push in self._dice.some(self._heard, min(len(self._heard), 10)):
            await link.say(push, push)
        await link.until_acks(1)

    async def _forge(self, stream: MemoryStream, host: str) -> None:
        """Push in the names of others what they never wrote, or wrote otherwise."""
        link = await self._link(stream, self._anybody())
        await link.say(msg.WalHeads())
        for push in self._dice.some(self._heard, min(len(self._heard), 3)):
            data = bytearray(push.wal_bytes)
            data[self._dice.integer(0, len(data) - 1)] ^= 1 << self._dice.integer(0, 7)
            await link.say(msg.WalPush(push.seq_begin, push.seq_end, bytes(data)))
        await link.until_acks(1)

    async def _lie(self, stream: MemoryStream, host: str) -> None:
        """Claim to be far ahead in everybody's log, or that it is frozen, and deliver nothing."""
        link = await self._link(stream, self._anybody())
        await link.say(msg.WalHeads())
        heads = await link.until_heads()
        claims = [
            msg.HeadEntry(
                entry.origin,
                self._dice.one_of((entry.seq + 1, entry.seq + 1000, SEQ_MAX)),
                self._dice.one_of((FROZEN_MARK, self._dice.entropy(32))),
                self._dice.chance(0.5),
            )
            for entry in heads.entries
        ]
        await link.say(msg.WalHeads(tuple(claims)))
        await link.listen()

    async def _flood(self, stream: MemoryStream, host: str) -> None:
        """Say more than anybody may."""
        link = await self._link(stream, self._anybody())
        await link.say(msg.WalHeads())
        kind = self._dice.integer(0, 3)
        # Logs of strangers are remembered, within bounds, and told to everybody: a few per visit go a long way.
        for number in range(STRANGERS if kind == 2 else FLOOD):
            if kind == 0:
                await link.say(msg.Ping(number))
            elif kind == 1:
                await link.say(msg.Data("noise", body=bytes(100)))
            elif kind == 2:
                await link.say(msg.WalHeads((msg.HeadEntry(PeerId(self._dice.entropy(32)), 7, bytes(32)),)))
            else:
                await link.say(msg.OutboxPull(str(self.identity.peer_id), 1))

    async def _stall(self, stream: MemoryStream, host: str) -> None:
        """Want everything, and read nothing of it."""
        link = await self._link(stream, self._anybody())
        await link.say(msg.WalHeads())
        await trio.sleep_forever()

    async def _knock(self, stream: MemoryStream, host: str) -> None:
        """Say something that is no handshake, or half of one, and stay."""
        config = self._config(self._anybody())
        hello = Session(config, Role.INITIATOR, entropy=self._dice.entropy, now=0.0, wall_ms=0).data_to_send()
        said = self._dice.one_of((b"GET / HTTP/1.1\r\n", self._dice.entropy(50), hello, hello[: len(hello) // 2]))
        await stream.send_all(said)
        while await stream.receive_some():
            pass

    async def _babble(self, stream: MemoryStream, host: str) -> None:
        """Say under a good seal what no message is."""
        link = await self._link(stream, self._anybody())
        type = self._dice.one_of([*MessageType])
        await link.say_raw(type, self._dice.entropy(self._dice.integer(0, 40)))
        await link.listen()

    # Inside.

    def _anybody(self) -> Identity:
        """Whom to be this time: with a network key, somebody new."""
        if self._plan.admission != "key":
            return self.identity
        identity = Identity.generate(self._dice.entropy)
        self._ledger.distrust(identity.peer_id)
        return identity

    def _config(self, identity: Identity) -> SessionConfig:
        plan = self._plan
        return SessionConfig(
            node_id=str(identity.peer_id),
            identity=identity,
            static=NoiseStatic.generate(self._dice.entropy),
            network_key=Dice(plan.seed).branch("network key").entropy(32) if plan.admission == "key" else None,
            network_name="",
            capabilities=(("bundle", "1"), ("cipher", "chacha20poly1305")),
            limits=Limits(),
        )

    async def _link(self, stream: MemoryStream, identity: Identity) -> _Link:
        link = _Link(stream, self._config(identity), self._dice.entropy, self._hear)
        await link.shake_hands()
        return link

    def _hear(self, push: msg.WalPush) -> None:
        if len(self._heard) < HEARD_MAX:
            self._heard.append(push)


_HABITS: Final[tuple[Callable[[Villain, MemoryStream, str], Awaitable[None]], ...]] = (
    Villain._spy,
    Villain._replay,
    Villain._forge,
    Villain._lie,
    Villain._flood,
    Villain._stall,
    Villain._knock,
    Villain._babble,
)


def identity_of(plan: Plan, name: str) -> Identity:
    """Who a villain is, for the trust lists of a world."""
    return Identity.generate(Dice(plan.seed).branch(f"villain {name}/identity").entropy)


class _Link:
    """A link of somebody who knows the handshake and means no good."""

    def __init__(
        self,
        stream: MemoryStream,
        config: SessionConfig,
        entropy: Callable[[int], bytes],
        hear: Callable[[msg.WalPush], None],
    ) -> None:
        self.session = Session(config, Role.INITIATOR, entropy=entropy, now=trio.current_time(), wall_ms=0)
        self.acks: list[int] = []
        self._heads: msg.WalHeads | None = None
        self._stream = stream
        self._hear = hear
        self._is_live = False

    async def shake_hands(self) -> None:
        """Until the other side has let us in."""
        await self.flush()
        while not self._is_live:
            await self._read()
            await self.flush()

    async def say(self, *messages: msg.AnyMessage) -> None:
        """Send messages."""
        for message in messages:
            await self.say_raw(message.TYPE, message.encode())

    async def say_raw(self, type: int, payload: bytes) -> None:
        """Send anything under a good seal, past the rules of the session."""
        session = self.session
        if session._outbound is None:
            raise _Over
        await self.flush()
        await self._stream.send_all(session._outbound.seal(type, session._take_id(), 0, payload))

    async def flush(self) -> None:
        """Send what the session has ready."""
        data = self.session.data_to_send()
        if data:
            await self._stream.send_all(data)

    async def until_acks(self, count: int) -> None:
        """Read until so many pushes were answered."""
        while len(self.acks) < count:
            await self._read()

    async def until_heads(self) -> msg.WalHeads:
        """Read until the other side has shown its heads."""
        while self._heads is None:
            await self._read()
        return self._heads

    async def listen(self) -> None:
        """Read to the end."""
        while True:
            await self._read()

    async def _read(self) -> None:
        data = await self._stream.receive_some()
        if not data:
            raise _Over
        self.session.receive_data(data, trio.current_time())
        while (event := self.session.next_event()) is not None:
            if isinstance(event, PeerProven):
                self.session.accept()
            elif isinstance(event, Live):
                self._is_live = True
            elif isinstance(event, Ended):
                raise _Over
            elif isinstance(event, Received):
                self._take(event.message)

    def _take(self, message: msg.AnyMessage) -> None:
        if isinstance(message, msg.WalPush):
            self._hear(message)
        elif isinstance(message, msg.WalAck):
            self.acks.append(message.last_applied_seq)
        elif isinstance(message, msg.WalHeads):
            self._heads = message


def _batch(identity: Identity, last: Batch | None, body: bytes) -> Batch:
    return seal(
        origin=identity.peer_id,
        seq_begin=last.seq_end + 1 if last else 1,
        prev_hash=last.hash if last else ZERO_HASH,
        base_hlc=_HLC,
        portions=encode_portions([NewRecord("app", None, body)]),
        sign=identity.sign,
    )


def _push(batch: Batch) -> msg.WalPush:
    return msg.WalPush(batch.seq_begin, batch.seq_end, batch.wal_bytes)
