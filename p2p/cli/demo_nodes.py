"""The demo's stage: five `p2p` processes, and between them links that can be cut.

A node dials its neighbour through a port of ours that passes bytes on. Cutting a link ends its connections and refuses
new ones, so a partition is one for real: both sides live on, and neither hears of the other. What a node holds is read
from its data dir, beside the running process, and not from what it says.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import trio

from p2p.errors import ConfigError, StoreError
from p2p.ids import PeerId
from p2p.replication.heads import LogHead, digest
from p2p.store.keys import open_reader

LIFE_S: Final = 100
"""A node ends by itself after so long, should the demo be killed before it could end it."""
WATCHED_LIFE_S: Final = 3600
"""The same for nodes that somebody watches in a browser."""
STATS_MS: Final = 200
START_S_MAX: Final = 50.0
WRITE_ON_S: Final = 0.01


class DemoFailed(Exception):
    """The demo cannot go on, or did not come out as it must."""


class Link:
    """A cable from a dialer to a node's listening port.

    Attributes:
        bytes: passed in both directions since the beginning.
    """

    def __init__(self, dialer: str, target: DemoNode) -> None:
        self.dialer = dialer
        self.target = target
        self.bytes = 0
        self.is_up = False
        self._scopes: set[trio.CancelScope] = set()

    async def run(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started with the port to dial."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(trio.serve_listeners, self._carry, listeners))
            task_status.started(port)

    def cut(self) -> None:
        """End what runs over it and refuse what comes."""
        self.is_up = False
        for scope in self._scopes:
            scope.cancel()

    def mend(self) -> None:
        """Let connections through from now on."""
        self.is_up = True

    async def _carry(self, near: trio.SocketStream) -> None:
        port = self.target.port
        if not self.is_up or port is None:
            await trio.aclose_forcefully(near)
            return
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                far = await trio.open_tcp_stream("127.0.0.1", port)
                async with near, far, trio.open_nursery() as nursery:
                    nursery.start_soon(self._copy, near, far)
                    nursery.start_soon(self._copy, far, near)
            except* OSError:
                # The node behind it has been killed. Its dialer sees the end of the connection, as it would anyway.
                await trio.aclose_forcefully(near)
            finally:
                self._scopes.discard(scope)

    async def _copy(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            async for chunk in source:
                self.bytes += len(chunk)
                await sink.send_all(chunk)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.aclose_forcefully(sink)


@dataclass(frozen=True)
class Holdings:
    """What lies in a node's store: head per origin, and the digest of them all."""

    heads: dict[PeerId, LogHead] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The digest as hex."""
        return digest(self.heads).hex()

    @property
    def records(self) -> int:
        """How many records of all origins."""
        return sum(head.seq for head in self.heads.values())

    def of(self, node: DemoNode) -> int:
        """How many records of this node's own log."""
        return self.heads[node.peer_id].seq if node.peer_id is not None and node.peer_id in self.heads else 0


@dataclass(eq=False)
class DemoNode:
    """One `p2p` process and its data dir.

    Attributes:
        port: where it listens, None while it does not run.
        http: whether it serves its dashboard.
        url: where, once it runs.
        handshakes: completed by all its processes so far, as their stats lines said.
    """

    name: str
    data_dir: Path
    key_file: Path
    http: bool = False
    url: str | None = None
    peer_id: PeerId | None = None
    port: int | None = None
    connected: int = 0
    handshakes: int = 0
    process: trio.Process | None = None
    _handshakes_before: int = 0

    def holdings(self) -> Holdings:
        """Read the store beside the process; empty before there is one."""
        try:
            with closing(open_reader(self.data_dir)) as reader:
                return Holdings({origin: state.head for origin, state in reader.states().items()})
        except (ConfigError, StoreError):
            return Holdings()

    async def start(self, nursery: trio.Nursery, dial_ports: list[int]) -> None:
        """Start the process and wait until it says where it listens."""
        command = [sys.executable, "-m", "p2p", "--id", self.name, "--listen", "0", "--json", "--append-stdin"]
        command += ["--discovery", "off"]
        command += ["--data-dir", str(self.data_dir), "--network-key-file", str(self.key_file)]
        command += ["--host", "127.0.0.1", "--stats-every", str(STATS_MS), "--log-level", "error"]
        command += ["--run", str(WATCHED_LIFE_S if self.http else LIFE_S)]
        command += ["--http", "127.0.0.1:0"] if self.http else []
        command += [argument for port in dial_ports for argument in ("--connect", f"127.0.0.1:{port}")]
        log = await trio.open_file(f"{self.data_dir}.log", "ab")
        async with log:
            self.process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log.fileno(),
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if not name.startswith("P2P_")},
            )
        with trio.move_on_after(START_S_MAX):
            await nursery.start(self._listen_to, self.process)
        if self.port is None:
            raise DemoFailed(f"{self.name} did not start: {self.last_words()}")

    def dashboard(self) -> str:
        """Where its dashboard is, and the token that it asks for."""
        token = (self.data_dir / "control.token").read_text(encoding="ascii").strip()
        return f"{self.name} {self.url} (token {token})"

    def last_words(self) -> str:
        """The last line the process wrote to standard error."""
        try:
            lines = Path(f"{self.data_dir}.log").read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        return lines[-1].removeprefix("p2p: ") if lines else "it said nothing"

    async def _listen_to(
        self, process: trio.Process, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        assert process.stdout is not None
        self._handshakes_before = self.handshakes
        is_started = False
        buffer = b""
        async for chunk in process.stdout:
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                event = json.loads(line)
                if event["event"] == "started":
                    self.peer_id = PeerId.parse(event["peer_id"])
                    self.port = int(event["endpoints"][0].rpartition(":")[2])
                    self.url = event["http"][0] if "http" in event else None
                    is_started = True
                    task_status.started()
                elif event["event"] == "stats":
                    self.connected = event["peers_connected"]
                    self.handshakes = self._handshakes_before + event["handshakes_completed"]
        if not is_started:
            task_status.started()
        self.connected = 0

    async def write(self, count: int, title: str) -> None:
        """Have it append records: one line of its standard input each."""
        assert self.process is not None
        assert self.process.stdin is not None
        lines = "".join(f"{self.name}: {title}, number {number}\n" for number in range(1, count + 1))
        try:
            await self.process.stdin.send_all(lines.encode())
        except trio.BrokenResourceError:
            raise DemoFailed(f"{self.name} ended: {self.last_words()}") from None

    async def write_on(self, title: str) -> None:
        """Have it append records, a few at a time, until it is killed."""
        with suppress(DemoFailed):
            while True:
                await self.write(3, title)
                await trio.sleep(WRITE_ON_S)

    async def kill(self) -> None:
        """SIGKILL: no goodbye, no last commit."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM, and the exit code."""
        return await self._end(signal.SIGTERM)

    async def _end(self, how: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        code = await self.process.wait()
        self.port = None
        return code

    async def clean_up(self) -> None:
        """Make sure that no process is left."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            await self.process.wait()
