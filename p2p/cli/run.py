"""`p2p --id A --listen 9001`: one node until somebody stops it.

Responsible for what a process adds to a node: signals, stats lines, records from standard input, a delayed dial. How it
ends: the first SIGINT, SIGTERM or SIGHUP, `--run`, or a reader of our output that has gone leave the `async with` in
order, so that the node says Goodbye and finishes its commit; a second signal ends the process where it stands, which
the log is made to survive.
"""

from __future__ import annotations

import logging
import os
from contextlib import aclosing
from typing import Final

import msgspec
import trio

import p2p
from p2p.cli.control import ControlServer, Served, forget_control
from p2p.cli.finding import bootstrap_of, discovery_of
from p2p.cli.output import Output, ReaderGone, complain, counted, json_line, log_to_stderr, table_of
from p2p.cli.records import fitting, line_splitter, portions
from p2p.cli.settings import Settings, UsageError
from p2p.cli.signals import on_signal, stop_signals
from p2p.cli.stdin import LineSplitter, stdin_lines
from p2p.errors import ConfigError, ConnectFailed, NodeClosed, OwnLogForked, Reason, StoreError
from p2p.ids import PeerEndpoint
from p2p.limits import Limits
from p2p.store.keys import load_network_key

_log = logging.getLogger("p2p.cli")

REDIAL_S: Final = 2.0
"""How often a delayed --connect is tried; the node's own backoff keeps the real pace."""
APPEND_S_MAX: Final = Limits().append_delay_at_start_s_max + 1.0
"""What was read from standard input when the command is told to stop has so long to become durable: the log may still
be waiting for a first word of others."""


def node_config(settings: Settings) -> p2p.NodeConfig:
    """What the settings mean for a node.

    Raises:
        UsageError: a value is not usable, or the address needs a rule who may come in.
        ConfigError: the network key file is not usable.
    """
    network_key = load_network_key(settings.network_key_file) if settings.network_key_file else None
    try:
        config = p2p.NodeConfig(
            node_id=settings.id,
            listen_port=settings.listen,
            listen_host=settings.host,
            data_dir=settings.data_dir,
            peers=() if settings.connect_delay else settings.connect,
            dial=not settings.no_connect,
            network_key=network_key,
            network_name=settings.network,
            trust=settings.trust,
            open=settings.open,
            discovery=discovery_of(settings.finding),
            bootstrap=bootstrap_of(settings.finding, _own_ports(settings), settings.tls_ca),
            relay=settings.relay,
            via=settings.via,
            expire_after_s=settings.expire_after,
            limits=Limits(**settings.limits),  # type: ignore[arg-type]  # checked as they were read
            listen_ws_port=settings.listen_ws,
            tls_cert=settings.tls_cert,
            tls_key=settings.tls_key,
            tls_ca=settings.tls_ca,
        )
        # Looked at here, so that an address nobody may be let in on is wrong usage and not a failed start.
        _ = config.bind_host
    except ConfigError as error:
        raise UsageError(str(error)) from None
    return config


def _own_ports(settings: Settings) -> tuple[int, ...]:
    """The port of HTTP control, where it is known before it is bound."""
    port = settings.http.at.rpartition(":")[2] if settings.http is not None and settings.http.at is not None else ""
    return (int(port),) if port.isascii() and port.isdigit() and 0 < int(port) <= 65535 else ()


def run_node(settings: Settings) -> int:
    """Run a node as the settings say; returns the exit code."""
    log_to_stderr(settings.log_level)
    return trio.run(_run, settings, node_config(settings))


async def _run(settings: Settings, config: p2p.NodeConfig) -> int:
    run = _Run(settings, config)
    with stop_signals() as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(on_signal, signals, run.obey)
            with run.starting:
                await run.until_stopped()
            nursery.cancel_scope.cancel()
    return run.exit_code


class _Run:
    """One run of one node: the settings, where lines go, and how it is told to stop."""

    def __init__(self, settings: Settings, config: p2p.NodeConfig) -> None:
        self.settings = settings
        self.config = config
        self.output = Output()
        self.stop = trio.Event()
        self.starting = trio.CancelScope()
        self.exit_code = 0
        self._is_up = False
        self._reading = trio.CancelScope()
        self._too_long_said = 0
        self.control = ControlServer(settings, config, self.stop.set) if settings.http is not None else None

    def obey(self, number: int) -> None:
        """The first signal stops in order, the second at once."""
        if self.stop.is_set():
            os._exit(128 + number)
        self.stop.set()
        if not self._is_up:
            self.starting.cancel()

    async def until_stopped(self) -> None:
        """Hold the node open, with everything beside it, until something says stop."""
        settings = self.settings
        async with p2p.open_node(self.config) as node:
            self._is_up = True
            appended = trio.Event()
            async with trio.open_nursery() as tasks:
                try:
                    served = None
                    if self.control is not None:
                        served = await tasks.start(self.control.serve, node)
                    elif self.config.data_dir is not None:
                        forget_control(self.config.data_dir)
                    self._say_started(node, served)
                    if settings.connect_delay and not settings.no_connect:
                        for endpoint in settings.connect:
                            tasks.start_soon(self._connect_later, node, endpoint)
                    if settings.append_stdin:
                        tasks.start_soon(self._append_lines, node, appended)
                    else:
                        appended.set()
                    if settings.run is not None:
                        tasks.start_soon(self._stop_after, settings.run)
                    tasks.start_soon(self._show, node)
                    await self.stop.wait()
                except ReaderGone:
                    self.stop.set()
                    appended.set()
                self._reading.cancel()
                with trio.move_on_after(APPEND_S_MAX):
                    await appended.wait()
                # Input that is idle, or over, has nothing refused; its writer is to know all the same.
                own = node.wal.heads().get(node.peer_id)
                if settings.append_stdin and own is not None and own.frozen:
                    self.exit_code = 1
                tasks.cancel_scope.cancel()
        # The node is closed: whoever reads this line may open its data dir.
        self._say_stopped()

    def _say_started(self, node: p2p.Node, served: Served | None) -> None:
        if self.settings.json:
            fields: dict[str, object] = {
                "event": "started",
                "node_id": node.node_id,
                "peer_id": str(node.peer_id),
                "endpoints": [str(endpoint) for endpoint in node.endpoints],
            }
            if served is not None:
                fields["http"] = served.urls
                if served.token is not None:
                    fields["http_token"] = served.token
            self.output.notice(json_line(fields))
        elif not self.settings.quiet and not self.settings.tui:
            where = ", ".join(map(str, node.endpoints)) or "nowhere"
            self.output.notice(f"[p2p] {node.node_id} is {node.peer_id}, listens on {where}")
            if served is not None:
                self.output.notice(f"[p2p] control and dashboard: {', '.join(served.urls)} with {served.how}")

    def _say_stopped(self) -> None:
        try:
            if self.settings.json:
                self.output.notice(json_line({"event": "stopped", "node_id": self.settings.id}))
            elif not self.settings.quiet:
                self.output.notice(f"[p2p] {self.settings.id} stopped")
        except ReaderGone:
            # It is the last line in any case.
            return

    async def _stop_after(self, seconds: float) -> None:
        await trio.sleep(seconds)
        self.stop.set()

    async def _show(self, node: p2p.Node) -> None:
        settings = self.settings
        interval = settings.stats_every / 1000
        if not settings.tui and (not interval or settings.quiet):
            return
        try:
            if settings.tui:
                from p2p.cli.live import live_table

                await live_table(node, interval or 1.0)
                return
            while True:
                self._stats_line(node)
                await trio.sleep(interval)
        except ReaderGone:
            self.stop.set()
        except NodeClosed:
            return

    def _stats_line(self, node: p2p.Node) -> None:
        stats = msgspec.structs.asdict(node.stats())
        if not self.settings.json:
            self.output.notice(f"[p2p] {table_of(stats)}")
            return
        heads = node.wal.heads()
        more = {
            "records": sum(head.seq for head in heads.values()),
            "digest": node.wal.digest().hex(),
            "logs_left_alone": len(node.wal.left_alone()),
            "dropped_lines": self.output.dropped,
        }
        self.output.notice(json_line({"event": "stats", **stats, **more}))

    async def _connect_later(self, node: p2p.Node, endpoint: PeerEndpoint) -> None:
        """Keep an endpoint connected, from `--connect-delay` on."""
        await trio.sleep(self.settings.connect_delay / 1000)
        told: Reason | None = None
        while True:
            try:
                peer = await node.connect(endpoint)
                told = None
                await _until_left(node, peer)
            except ConnectFailed as failure:
                # A failure is told once; that the node waits between two of them is none.
                is_news = failure.reason not in (told, Reason.BACKOFF)
                level = logging.WARNING if is_news else logging.DEBUG
                _log.log(level, "%s: cannot connect to %s: %s; it is tried again", node.node_id, endpoint, failure)
                told = failure.reason if is_news else told
            except NodeClosed:
                return
            await trio.sleep(REDIAL_S)

    async def _append_lines(self, node: p2p.Node, finished: trio.Event) -> None:
        """Append what comes until it ends, or until the command is stopped; then what was read already."""
        splitter = line_splitter()
        came = done = 0
        try:
            async with aclosing(stdin_lines(splitter)) as pieces:
                while not self.stop.is_set():
                    lines: list[bytes] | None = None
                    with trio.CancelScope() as self._reading:
                        lines = await anext(pieces, None)
                    if lines is None:
                        break
                    came += len(lines)
                    fit = list(fitting(node, lines, kind="app"))
                    done += len(lines) - len(fit)
                    for portion in portions(fit):
                        await self._append(node, portion)
                        done += len(portion)
                    self._say_too_long(splitter)
        except NodeClosed:
            return
        except OwnLogForked as error:
            # What comes is left where it is, and its writer waits: others' logs are carried on all the same.
            complain(f"standard input is not taken any more: {error}")
        finally:
            self._say_too_long(splitter)
            if done < came:
                complain(f"read from standard input and not appended: {counted(came - done, 'line')}")
                self.exit_code = 1
            if self.stop.is_set() and splitter.pending:
                complain("the last line of standard input had not ended: it is not appended")
                self.exit_code = 1
            finished.set()

    def _say_too_long(self, splitter: LineSplitter) -> None:
        if splitter.too_long > self._too_long_said:
            complain(f"too long for a record, left out: {counted(splitter.too_long - self._too_long_said, 'line')}")
            self._too_long_said = splitter.too_long

    async def _append(self, node: p2p.Node, portion: list[bytes]) -> None:
        """Append lines that fit one batch, however long the disk takes to come back."""
        told = False
        while True:
            try:
                await node.wal.append_many(portion)
            except OwnLogForked:
                raise
            except StoreError as error:
                if not told:
                    complain(f"standard input waits: {error}")
                    told = True
                await trio.sleep(node.config.limits.store_retry_s)
            else:
                return


async def _until_left(node: p2p.Node, peer: p2p.Peer) -> None:
    async with node.events() as events:
        try:
            node.get_peer(peer)
        except (p2p.UnknownPeer, p2p.NotConnected):
            return
        async for event in events:
            if isinstance(event, p2p.events.PeerLeft) and event.peer_id == peer.peer_id:
                return
