"""The node: what an application holds, and the nursery that everything of it runs in.

Responsible for putting the rooms together, for starting and ending them in order, and for the public calls. What it
refuses to know stands in the rooms: how bytes move (`peer`), who may stay (`supervisor`), which records travel
(`replicator`), what is written (`writer`), who is dialled when (`dialer`).

How it is nested, inside out in the order of stopping:

    run
    └── core        writer: the only task that writes the store; stops last, after its commit
        └── links   replicator, acceptor, dialers, scrub, one task per connection, the tasks of WebSockets

Stopping says Goodbye to everybody, gives the answers a moment, cancels `links`, lets the writer finish the commit under
way and closes the store: all of it within `shutdown_s_max`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Final, Never, TypeVar, Unpack, cast, overload

import trio

from p2p import msg
from p2p import node as room
from p2p.errors import (
    AddressInUse,
    ConfigError,
    ConnectFailed,
    NodeClosed,
    NotConnected,
    NotStarted,
    P2PError,
    UnknownPeer,
)
from p2p.ids import PeerEndpoint, PeerId, is_who
from p2p.node.away import PeerAway
from p2p.node.config import WAYS_OUT, NodeConfig, config_of
from p2p.node.dispatch import Channel, Dispatch, WhenFull
from p2p.node.events import EventFeed, EventStream
from p2p.node.interrupts import uninterrupted
from p2p.node.kinds import check_kind, utf8_of
from p2p.node.lines import Lines
from p2p.node.listener import accept_links
from p2p.node.paths import Routes
from p2p.node.requests import REQUEST_S_DEFAULT, RequestTimeout
from p2p.node.rooms import Rooms, read_remembered
from p2p.node.scrub import Scrub
from p2p.node.service import Entered, first_cause
from p2p.node.serving import Body, Handler, TypedHandler, encode_body, reader_of, typed
from p2p.node.status import Counters, NodeStats, OutboxView, Peer, PingReply, TableSizes, snapshot_of
from p2p.node.wal import Wal
from p2p.peer.connection import Connection
from p2p.peer.outgoing import check_fits
from p2p.policy.addresses import DialRule
from p2p.relay.switch import CircuitStats
from p2p.transport.base import Listener, Network
from p2p.windows import NoThread

if TYPE_CHECKING:
    from p2p.node.bootstrap import HttpBootstrap
    from p2p.node.discovery import UdpDiscovery

T = TypeVar("T")

SENDS_PER_CHECKPOINT: Final = 256
"""Whoever sends without ever having to wait still lets others run this often: 0.2 ms of messages of 128 B, which fill a
write. With 64 there were four times as many writes and turns of the loop, a quarter of what such a message cost."""
SENDS_PER_WRITE: Final = SENDS_PER_CHECKPOINT // 4
"""For how many of them a write counts that a send makes itself."""
GOODBYE_S_MAX: Final = 1.0
"""What a stopping node waits for the others' Goodbyes."""
LINKS_S_MAX: Final = 0.5
"""What it then waits for its links, one of which may read from a disk that hangs, before the writer is told too."""
CLOSE_S_MAX: Final = 0.5
"""What it waits for its turn on the disk, to close the store. With `hung_disk_s_max`: within `shutdown_s_max`."""


@uninterrupted
class Node:
    """One participant of the network: made with a `NodeConfig`, run by `open_node` or `nursery.start(node.run)`.

    A node runs once. Its calls belong to the trio run (and thread) that `run` is in.

    Attributes:
        config: as given.
        counters: what was counted since it was made.
        extensions: what packages built on it keep with it, each under its own name.
    """

    def __init__(self, config: NodeConfig) -> None:
        check_kind(config, (NodeConfig,), "config", "a NodeConfig")
        self.config = config
        self.counters = Counters()
        self.extensions: dict[str, object] = {}
        self._limits = config.limits
        self._log_line = Lines(config.node_id, config.on_log, self.counters)
        self._stop = trio.Event()
        self._over = trio.Event()
        self._ran = False
        self._rooms: Rooms | None = None
        self._events = EventFeed(self._limits.events_queue_max)
        self._dispatch = Dispatch(self._limits, self.counters)
        self._endpoints: tuple[PeerEndpoint, ...] = ()
        self._since_checkpoint = 0
        self._write_bytes = self._limits.write_bytes
        self._encoded_names: dict[str, bytes] = {}
        self._alike_channel, self._alike_bytes, self._alike_head = "", -1, b""

    def __repr__(self) -> str:
        state = "running" if self._rooms is not None else "stopped" if self._ran else "not started"
        return f"<Node {self.config.node_id} {state}>"

    # Running and stopping.

    async def run(self, *, task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the node until `stop` or cancellation; `started()` once it listens and its log is open.

        Raises:
            ConfigError, AddressInUse, StoreError: it could not start; bare, never in a group.
            NodeClosed: it ran before.
        """
        if self._ran:
            raise NodeClosed(f"{self.config.node_id} ran before: a node runs once, make a new one")
        self._ran = True
        try:
            await self._open_and_run(task_status)
        except BaseExceptionGroup as group:
            cause = first_cause(group)
            # A room that read while the store was closed under it says so: that is part of stopping, and no failure.
            if not (isinstance(cause, NodeClosed) and self._stop.is_set()):
                raise cause from None
        finally:
            self._rooms = None
            self._dispatch.close()
            self._events.close()
            self._stop.set()
            self._over.set()

    async def _open_and_run(self, task_status: trio.TaskStatus[Node]) -> None:
        config = self.config
        bind_host = config.bind_host
        network, blocking = config.windows()
        trusted = await blocking.run("read", config.load_trust)
        await blocking.run("read", config.check_tls)
        said: list[str] = []
        store, identity = await blocking.run("write", config.open_store, said.append)
        for line in said:
            self._log_line(line)
        try:
            remembered = await blocking.run("write", read_remembered, store)
            listeners: list[Listener] = []
            try:
                await self._listen(network, bind_host, listeners)
                rooms = Rooms(
                    config,
                    store=store,
                    identity=identity,
                    trusted=trusted,
                    remembered=remembered,
                    blocking=blocking,
                    dispatch=self._dispatch,
                    counters=self.counters,
                    events=self._events,
                    log_line=self._log_line,
                )
                await self._supervise(rooms, network, listeners, task_status)
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S_MAX):
                    for listener in listeners:
                        await listener.aclose()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S_MAX):
                # The commit under way is over by now, unless the disk hangs: then its thread keeps the lane, and the
                # lock on the data dir, and nobody can close what it uses.
                try:
                    await blocking.run("write", store.close)
                except NoThread:
                    # It will not wait for one: nobody else would close it.
                    store.close()

    async def _listen(self, network: Network, host: str | None, listeners: list[Listener]) -> None:
        config = self.config
        if config.listen_port is not None:
            listeners.append(await network.listen(host, config.listen_port))
        if config.listen_ws_port is not None:
            scheme = "ws" if config.tls_cert is None else "wss"
            listeners.append(await network.listen(host, config.listen_ws_port, scheme))
        self._endpoints = tuple(endpoint for listener in listeners for endpoint in listener.endpoints)
        does = [*(["listens"] if listeners else []), *(["discovers"] if config.discovery is not None else [])]
        if config.is_closed and does:
            self._log_line(f"{config.node_id} {' and '.join(does)} on loopback only: to let others in, {WAYS_OUT}")

    async def _supervise(
        self, rooms: Rooms, network: Network, listeners: list[Listener], task_status: trio.TaskStatus[Node]
    ) -> None:
        config = self.config
        async with trio.open_nursery() as core:
            await core.start(rooms.writer.run)
            rooms.origins.seed(rooms.writer.heads, rooms.has_met)
            try:
                async with trio.open_nursery() as links:
                    network.enter(links)
                    rooms.enter(links, network, self._endpoints)
                    await links.start(rooms.replicator.run)
                    links.start_soon(rooms.requests.run)
                    links.start_soon(rooms.circuits.run)
                    links.start_soon(rooms.paths.run)
                    self._rooms = rooms
                    for listener in listeners:
                        links.start_soon(
                            accept_links, listener, rooms.supervisor, rooms.slots, config.clock, self._log_line
                        )
                    links.start_soon(rooms.leads.run)
                    if config.dial:
                        links.start_soon(rooms.doubts.run)
                        links.start_soon(rooms.acquaintances.run, rooms.leads.offer)
                    await self._discover(rooms, links)
                    if rooms.bootstrap is not None:
                        await links.start(rooms.bootstrap.run)
                    for endpoint in (*config.via, *config.peers) if config.dial else ():
                        links.start_soon(
                            rooms.dialer.keep_connected,
                            endpoint,
                            rooms.replicator.reached,
                            rooms.replicator.unreachable,
                        )
                    if not config.is_ephemeral:
                        links.start_soon(Scrub(rooms.writer, config.limits, self._log_line).run)
                    task_status.started(self)
                    await self._stop.wait()
                    rooms.dialer.stop()
                    await rooms.supervisor.close_all(GOODBYE_S_MAX)
                    self._rooms = None
                    links.cancel_scope.cancel()
                    core.cancel_scope.deadline = trio.current_time() + LINKS_S_MAX
            finally:
                # However it ended: what is called from now on finds no nursery to run in.
                self._rooms = None
                self._stop.set()
            core.cancel_scope.cancel()

    async def _discover(self, rooms: Rooms, links: trio.Nursery) -> None:
        if rooms.discovery is not None:
            try:
                await links.start(rooms.discovery.run)
            except (AddressInUse, ConfigError) as error:
                # There are other ways to find and be found, and a port that somebody keeps is no reason to be down.
                self._log_line.warn(f"nodes near are not discovered, it is tried again: {error}")
                links.start_soon(self._discover_later, rooms, rooms.discovery, links)
                rooms.discovery = None

    async def _discover_later(self, rooms: Rooms, discovery: UdpDiscovery, links: trio.Nursery) -> None:
        while rooms.discovery is None:
            await trio.sleep(self.config.limits.discovery_retry_s)
            with suppress(AddressInUse, ConfigError):
                await links.start(discovery.run)
                rooms.discovery = discovery
        self._log_line("nodes near are discovered now")

    def stop(self) -> None:
        """Ask the node to stop in order; returns at once. `wait` waits for the end. Idempotent.

        What is being appended is finished; from here on nothing more is.
        """
        self._stop.set()
        if self._rooms is not None:
            self._rooms.writer.take_no_more()

    async def wait(self) -> None:
        """Wait until the node has stopped.

        Raises:
            NotStarted: it was never started, so the wait would never end.
        """
        if not self._ran:
            raise NotStarted(_HOW_TO_START.format(self.config.node_id))
        await self._over.wait()

    def _running(self) -> Rooms:
        if self._rooms is not None:
            return self._rooms
        if self._ran and self._stop.is_set():
            raise NodeClosed(f"{self.config.node_id} has stopped")
        raise NotStarted(_HOW_TO_START.format(self.config.node_id))

    # Who and where.

    @property
    def node_id(self) -> str:
        """The label this node shows."""
        return self.config.node_id

    @property
    def peer_id(self) -> PeerId:
        """This node's identity. Raises NotStarted before the node runs."""
        return self._running().own

    @property
    def endpoints(self) -> tuple[PeerEndpoint, ...]:
        """Where it listens, with the real ports; empty without a listener. Raises NotStarted before the node runs."""
        self._running()
        return self._endpoints

    @property
    def discovery(self) -> UdpDiscovery | None:
        """This node's discovery by datagrams: its `snapshot()` and `counters`; None where it is off."""
        return self._running().discovery

    @property
    def bootstrap(self) -> HttpBootstrap | None:
        """This node's registry client: its `snapshot()` and `counters`; None without a registry."""
        return self._running().bootstrap

    @property
    def tables(self) -> TableSizes:
        """How many entries the bounded tables about other nodes hold now."""
        return self._running().tables()

    @property
    def wal(self) -> Wal:
        """The replicated log: append, follow, wait_replicated, heads, digest."""
        return self._running().wal

    @property
    def outbox(self) -> OutboxView:
        """What waits to reach the peers: records not yet durable there, bytes not yet written."""
        rooms = self._running()
        return OutboxView(self.wal.lag, rooms.roster)

    def peers(self) -> tuple[Peer, ...]:
        """Snapshots of all connected peers, in the order they connected."""
        return tuple(snapshot_of(link) for link in self._running().roster.links.values())

    def peers_away(self, count_max: int | None = None) -> tuple[PeerAway, ...]:
        """Peers that are known and not connected, each once: configured ones, those that are dialled now, then
        those met earlier, the last one first.

        Args:
            count_max: no more than so many; `Limits.peers_away_max` in any case.
        """
        most = self._limits.peers_away_max
        most = most if count_max is None else min(count_max, most)
        return tuple(islice(self._running().away.peers(self.config.clock.monotonic()), most))

    def get_peer(self, who: Peer | PeerId | str) -> Peer:
        """A fresh snapshot of one connected peer, named by Peer, peer id (value or text) or node id.

        Raises:
            UnknownPeer, NotConnected: nobody of that name, or not now.
        """
        return snapshot_of(self._link_to(who))

    def stats(self) -> NodeStats:
        """Counters since the start, with Vix's names."""
        rooms = self._running()
        counters = self.counters
        return NodeStats(
            peers_total=rooms.roster.met_total,
            peers_connected=len(rooms.roster),
            handshakes_started=counters.handshakes_started,
            handshakes_completed=counters.handshakes_completed,
            handshakes_failed=counters.handshakes_failed,
            connect_attempts=counters.connect_attempts,
            connect_deduped=counters.connect_deduped,
            connect_failures=counters.connect_failures,
            backoff_skips=counters.backoff_skips,
            tracked_endpoints=len(rooms.guard),
        )

    def events(self) -> EventStream:
        """What happens from now on: `async with node.events() as events: async for event in events: …`."""
        return self._events.open()

    def log_to(self, sink: Callable[[str], None], *, from_start: bool = False) -> AbstractContextManager[None]:
        """Hand the node's log lines to a sink, beside `NodeConfig.on_log`: `with node.log_to(lines.append): …`.

        The node need not run yet; one that comes later gets the first 100 lines, too, with `from_start`. What the sink
        raises is counted and otherwise ignored.
        """
        return self._log_line.told_to(sink, from_start=from_start)

    # Links.

    async def connect(self, endpoint: PeerEndpoint | PeerId | str, *, rule: DialRule | None = None) -> Peer:
        """Make one attempt to connect and authenticate, and return the peer that is there.

        Args:
            endpoint: `"tcp://HOST:PORT"`, `"HOST:PORT"`, `"tcp://WHO@HOST:PORT"` or a `PeerEndpoint`; WHO is the peer
                id or node id that must be there. `"relay://RELAY/TARGET"` goes through a connected relay. A peer id or
                node id alone is reached by route. Use `NodeConfig.peers` for links to keep for ever.
            rule: where it may lead, when somebody else says so; what it forbids fails like a place where nothing
                listens, and a place that failed lately is left alone until it is due again.

        Raises:
            ConnectFailed: its `reason` says why.
            UnknownPeer, NotConnected: a peer was named, and no way leads there.
            ConfigError: the endpoint is malformed.
            NodeClosed: the node stopped meanwhile.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            rooms = self._running()
            if isinstance(endpoint, PeerId) or (isinstance(endpoint, str) and is_who(endpoint)):
                await trio.lowlevel.checkpoint()
                try:
                    return snapshot_of(await self._link_by_route(endpoint))
                except UnknownPeer as error:
                    raise UnknownPeer(f"{error}; a place to dial is written HOST:PORT") from None
            place = _dialable(endpoint)
        except P2PError:
            # A dial waits for the other side, which is a checkpoint; this did not come to one.
            await trio.lowlevel.checkpoint()
            raise
        try:
            with rooms.paths.aside(place):
                if rule is not None:
                    return snapshot_of(await rooms.dialer.dial_within(place, rule))
                return snapshot_of(await rooms.dialer.dial(place))
        except ConnectFailed:
            if self._stop.is_set():
                raise NodeClosed(f"{self.config.node_id} stopped while it dialled {place}") from None
            raise

    async def disconnect(self, who: Peer | PeerId | str) -> None:
        """Say Goodbye to a peer and wait for the end of the link (at most `drain_s_max`).

        A configured peer is connected again by the redial schedule.

        Raises:
            UnknownPeer, NotConnected: there is no such link. One that is made in place of a circuit that broke is given
                up.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            rooms = self._running()
            try:
                link = self._link_to(who)
            except (NotConnected, UnknownPeer):
                with suppress(UnknownPeer):
                    rooms.supervisor.give_up_on(rooms.paths.identity(who))
                raise
        except P2PError:
            # A Goodbye waits for the other side, which is a checkpoint; there is nobody to tell it.
            await trio.lowlevel.checkpoint()
            raise
        await rooms.supervisor.disconnect(link.peer_id)

    def _link_to(self, who: Peer | PeerId | str) -> Connection:
        return self._running().roster.find(who.peer_id if isinstance(who, Peer) else who)

    async def _link_by_route(self, who: Peer | PeerId | str) -> Connection:
        """The live link to a peer, made by route if there is none; no checkpoint where there is one."""
        rooms = self._running()
        try:
            return await rooms.paths.link_to(who.peer_id if isinstance(who, Peer) else who)
        except NotConnected:
            if self._stop.is_set():
                raise NodeClosed(f"{self.config.node_id} stopped while it looked for a way") from None
            raise

    @property
    def routes(self) -> Routes:
        """The ways to peers that are no neighbours: set them, see them, remove them."""
        return Routes(self._running().paths, self.config.clock)

    @property
    def circuits(self) -> CircuitStats:
        """Counters of circuits: those that end here, and those that this node passes on as a relay."""
        return self._running().circuits.stats

    async def ping(self, who: Peer | PeerId | str) -> PingReply:
        """Measure the round trip to a peer now, over whatever way leads there; a way is made by route if need be.

        Raises:
            UnknownPeer, NotConnected: there is no way, or the link ended before the answer.
            NodeClosed: the node stopped meanwhile.
        """
        await trio.lowlevel.checkpoint()
        link = await self._link_by_route(who)
        rtt_s = await link.measure_rtt()
        return PingReply(snapshot_of(link), rtt_s)

    # Application messages.

    async def send(self, peer: Peer | PeerId | str, channel: str, body: bytes) -> None:
        """Queue a message for a peer's channel; waits while that peer's outbox is full.

        A peer that is no neighbour is reached by route: a circuit is opened over the relay that leads there, and the
        message is queued once the session inside it is live. The link stays and serves what is sent later.

        Delivered at most once, in order per peer: use the log for what must arrive. While there is room it is a
        checkpoint only once in `SENDS_PER_CHECKPOINT` calls, or four writes of its own: that costs more than all the
        rest.

        Args:
            peer: Peer, peer id (value or text) or node id.
            channel: the name that the other side reads, 1-256 bytes of UTF-8.
            body: up to about 1 MiB.

        Raises:
            UnknownPeer, NotConnected: there is no live link to that peer (any more), and no way there.
            PayloadTooLarge: the message does not fit a frame.
        """
        self._since_checkpoint += 1
        if self._since_checkpoint >= SENDS_PER_CHECKPOINT:
            self._since_checkpoint = 0
            await trio.lowlevel.checkpoint()
        try:
            rooms = self._rooms
            who = peer.peer_id if isinstance(peer, Peer) else peer
            if rooms is None:
                link = None
            else:
                link = rooms.roster.links.get(who) if type(who) is PeerId else rooms.roster.labelled(who)
            if link is None:
                link = await self._link_by_route(who)
            # Many are alike: what stands before the body is that of the message before, in a third of its time.
            if type(body) is bytes and len(body) == self._alike_bytes and channel == self._alike_channel:
                payload = self._alike_head + body
            else:
                payload = self._encode_unlike(channel, body)
            if len(payload) >= self._write_bytes and link.write_data_nowait(payload):
                self._since_checkpoint += SENDS_PER_WRITE * (len(payload) // self._write_bytes) - 1
            elif not link.send_data_nowait(payload):
                await self._send_when_room(link, payload)
                # That was one.
                self._since_checkpoint = 0
        except Exception:
            # Whoever tries again at once lets others run, too.
            await trio.lowlevel.checkpoint()
            raise

    def _encode_unlike(self, channel: str, body: bytes) -> bytes:
        body = _octets(body)
        payload = msg.encode_data(self._encoded_names.get(channel) or self._encode_name(channel), 0, 0, body)
        self._alike_channel, self._alike_bytes = channel, len(body)
        self._alike_head = payload[: len(payload) - len(body)]
        return payload

    async def _send_when_room(self, link: Connection, payload: bytes) -> None:
        while True:
            try:
                await link.send_data(payload)
            except NotConnected:
                if self._stop.is_set():
                    raise NodeClosed(f"{self.config.node_id} stopped while a message waited") from None
                kept = await self._running().supervisor.heir(link.peer_id)
                if kept is None or kept is link:
                    raise
                # The link gave way to another one, or was about to.
                link = kept
            else:
                return

    def _encode_name(self, channel: str) -> bytes:
        name = utf8_of(channel, "a channel name", self._limits.channel_name_bytes_max)
        if len(self._encoded_names) >= self._limits.channels_max:
            self._encoded_names.clear()
        self._encoded_names[channel] = name
        return name

    async def broadcast(self, channel: str, body: bytes) -> int:
        """Queue a message for every connected peer that has room for it, without waiting for those that have none.

        As with `send`, delivered at most once. Peers that have no room are passed over and counted.

        Returns:
            For how many peers it was queued.
        """
        await trio.lowlevel.checkpoint()
        name = self._encoded_names.get(channel) or self._encode_name(channel)
        payload = msg.encode_data(name, 0, 0, _octets(body))
        check_fits(payload, self._limits)
        links = tuple(self._running().roster.links.values())
        queued = sum(link.send_data_nowait(payload) for link in links)
        self.counters.messages_unsent += len(links) - queued
        return queued

    @overload
    async def request(
        self, peer: Peer | PeerId | str, channel: str, body: Body, *, timeout_s: float = REQUEST_S_DEFAULT
    ) -> bytes: ...

    @overload
    async def request(
        self,
        peer: Peer | PeerId | str,
        channel: str,
        body: Body,
        *,
        timeout_s: float = REQUEST_S_DEFAULT,
        reply_type: type[T],
    ) -> T: ...

    async def request(
        self,
        peer: Peer | PeerId | str,
        channel: str,
        body: Body,
        *,
        timeout_s: float = REQUEST_S_DEFAULT,
        reply_type: type[T] | None = None,
    ) -> bytes | T:
        """Ask a peer and return the body of its answer.

        At most `pending_requests_max` requests to one peer are open; one more waits for its turn within its timeout.
        Cancelled or timed out, a request is forgotten at once, and what the peer did with it is unknown.

        Args:
            peer: Peer, peer id (value or text) or node id; one that is no neighbour is reached by route, as by `send`.
            channel: the name that the other side serves or reads, 1-256 bytes of UTF-8.
            body: bytes, or a msgspec struct that is sent as JSON.
            timeout_s: seconds from the call to the answer, above 0; finding a way to the peer is among them.
            reply_type: what the answer is read as, from JSON; None for its bytes.

        Raises:
            RequestTimeout: there was no answer in time. It is a `trio.TooSlowError`, too.
            RequestFailed: there was one, and its `status` says why it is none.
            UnknownPeer, NotConnected: there is no live link to that peer (any more), and no way there.
            PayloadTooLarge: the request does not fit a frame.
            ConfigError: an argument is not usable.
            RemoteProtocolError: the answer cannot be read as `reply_type`.
            NodeClosed: the node stopped meanwhile.
        """
        try:
            # Before anybody is asked for what could not be read.
            read = None if reply_type is None else reader_of(reply_type, "reply_type")
            rooms = self._rooms or self._running()
            name = self._encoded_names.get(channel) or self._encode_name(channel)
            payload = msg.encode_data(name, 0, 0, body if type(body) is bytes else encode_body(body))
            deadline = rooms.requests.deadline_of(timeout_s)
            who = peer.peer_id if isinstance(peer, Peer) else peer
            link = rooms.roster.links.get(who) if type(who) is PeerId else rooms.roster.labelled(who)
            if link is None:
                with trio.CancelScope(deadline=deadline):
                    link = await self._link_by_route(who)
                if link is None:
                    raise RequestTimeout(f"{channel!r}: no way to the peer was made within {timeout_s:g} s")
            reply = await rooms.requests.ask(link, channel, payload, deadline, timeout_s)
        except Exception as error:
            # Whoever tries again at once lets others run, too.
            await trio.lowlevel.checkpoint()
            if self._stop.is_set() and isinstance(error, NotConnected):
                raise NodeClosed(f"{self.config.node_id} stopped while a request waited") from None
            raise
        return reply if read is None else read(reply)

    @overload
    async def serve(
        self,
        channel: str,
        handler: Handler,
        *,
        concurrency: int = 8,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> Never: ...

    @overload
    async def serve(
        self,
        channel: str,
        handler: TypedHandler[T],
        *,
        body_type: type[T],
        concurrency: int = 8,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> Never: ...

    async def serve(
        self,
        channel: str,
        handler: Handler | TypedHandler[T],
        *,
        body_type: type[T] | None = None,
        concurrency: int = 8,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> Never:
        """Answer the requests of a channel, in this task, until cancelled.

            async def clock(request: p2p.Message) -> bytes:
                return b"noon"

            await nursery.start(node.serve, "clock", clock)

        A handler that raises answers with status 1 and is logged; everything else goes on.

        Args:
            channel: the name that others ask, 1-256 bytes of UTF-8.
            handler: called with the `Message`, returns the answer: bytes, a msgspec struct that is sent as JSON, or
                None for an empty one. May be async.
            body_type: what requests are read as, from JSON; the handler gets that as a second argument. One that cannot
                be read counts as a handler that raised.
            concurrency: how many requests are served at a time. Tasks are made as they are needed.

        Raises:
            ConfigError: an argument is not usable.
            ChannelBusy: the channel has a reader or a handler already.
            NodeClosed: the node stopped.
        """
        self._running()
        plain = cast("Handler", handler) if body_type is None else typed(cast("TypedHandler[T]", handler), body_type)
        await self._dispatch.serve(channel, plain, concurrency, task_status)

    def channel(self, name: str, *, capacity: int = 1024, when_full: WhenFull = "wait") -> Channel:
        """Open a channel for reading: `async with node.channel("chat") as chat: async for message in chat: …`.

        Args:
            name: what senders call it.
            capacity: messages that wait for the reader at the most.
            when_full: "wait" rests the sender's link for up to `channel_wait_s_max`, then refuses that message;
                "drop_oldest" makes room. Both count what is lost.

        Raises:
            ConfigError: an argument is not usable. ChannelBusy comes from entering it twice.
        """
        return self._dispatch.channel(name, capacity, when_full)


def _dialable(endpoint: object) -> PeerEndpoint:
    """Where a dial goes. Raises ConfigError when it is malformed, or no place that can be dialled."""
    place = PeerEndpoint.parse(endpoint) if isinstance(endpoint, str) else endpoint
    if type(place) is not PeerEndpoint:
        kind = type(place).__name__
        raise ConfigError(f"connect takes 'tcp://HOST:PORT', a PeerEndpoint, a peer id or a node id, not a {kind}")
    if not place.is_dialable:
        raise ConfigError(f"{place}: port 0 cannot be dialled")
    return place


def _octets(body: object) -> bytes:
    """The bytes of a body. Of a buffer of wider items the length is not its bytes'."""
    if type(body) is bytes:
        return body
    check_kind(body, (bytes, bytearray, memoryview), "a body", "bytes: of text, write text.encode()")
    return bytes(memoryview(body))  # type: ignore[arg-type]  # as was checked


_HOW_TO_START: Final = "{} does not run: use `async with p2p.open_node(...)` or `await nursery.start(node.run)`"


def open_node(
    config: NodeConfig | None = None, /, **options: Unpack[room.options.NodeOptions]
) -> AbstractAsyncContextManager[Node]:
    """Run a node around a body: `async with p2p.open_node(node_id="a", data_dir="a") as node: …`.

    Args:
        config: a finished `NodeConfig`; or its fields by name.

    Raises:
        ConfigError, AddressInUse, StoreError: the node could not start.
        NodeClosed: it was entered before; each `open_node` is one run.
        Exception: what the body raised, as itself and not in a group.
    """
    if config is not None and options:
        raise ConfigError(f"give a NodeConfig or its fields, not both (got also {', '.join(sorted(options))})")
    return Entered(Node(config if config is not None else config_of(options)))
