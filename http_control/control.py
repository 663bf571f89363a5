"""What stands behind the routes of one node: the lines and events that are kept, the samples, the door.

It lives as long as its application, over restarts of the server. Its one task follows the node, whether that runs
already or not yet: it takes lines and events into the feeds, and at every tick a sample, a stats line if something
changed, and for those who read `/events` the state as it is.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import trio

import p2p
from http_control import shapes
from http_control.auth import Door
from http_control.bugs import BugLog
from http_control.contained import contained
from http_control.files import load_or_make_token, new_token
from http_control.logs import Feed, frame_of
from http_control.options import P2PHttpOptions
from http_control.views import View
from p2p import ConfigError, NodeClosed, NotStarted, PeerId, events, one_line

_log = logging.getLogger("p2p.http")

_WORD: Final = re.compile(r"(?<!^)(?=[A-Z])")
RESTART_S: Final = 1.0


class Control:
    """One node under one prefix.

    Args:
        runtime: the node to show and steer; it may start later.
        options: how.

    Attributes:
        lines: the log.
        happenings: the events.
        samples: for charts.
        requests: answers by status, for metrics.
        bugs: tells what must not happen.
        hook_bugs: tells what the application's hooks raise.
    """

    def __init__(self, runtime: p2p.P2PRuntime, options: P2PHttpOptions) -> None:
        limits = options.limits
        self.node = runtime.node
        self.options = options
        self._entropy = self.node.config.entropy
        self._clock = self.node.config.clock
        self.lines = Feed(self._entropy(8).hex(), limits.log_lines_max, limits)
        self.happenings = Feed(self._entropy(8).hex(), limits.events_max, limits)
        self.samples: deque[shapes.Sample] = deque(maxlen=limits.samples_max)
        self.requests: dict[int, int] = {}
        self.sink = options.log_sink
        self.bugs = BugLog(limits.bugs_told_per_min, is_ours=True)
        self.hook_bugs = BugLog(limits.bugs_told_per_min, is_ours=False)
        self._door: Door | None = None
        self._opening = trio.Lock()
        self._started_at: float | None = None
        self._text: deque[str] = deque(maxlen=limits.log_lines_max)
        self._said = ""
        self._has_followed = False
        self._traffic = Traffic()
        self._moved: set[PeerId] = set()
        self._version = package_version()

    async def door(self) -> Door:
        """Who may. The token is read, or made, at the first use: the data dir is there once the node has started.

        Raises:
            ConfigError: the token cannot be read or made.
        """
        async with self._opening:
            if self._door is None:
                token = self.options.token
                if token is None and self.node.config.data_dir is not None:
                    make = load_or_make_token
                    token = await trio.to_thread.run_sync(make, self.node.config.data_dir, self._entropy)
                self._door = Door(self.options, token if token is not None else new_token(self._entropy))
            return self._door

    @property
    def failures(self) -> int:
        """Requests that the door refused."""
        return 0 if self._door is None else self._door.failures

    # What is shown.

    def view(self) -> View:
        """The node now.

        Raises:
            NotStarted, NodeClosed: it does not run.
        """
        return View(self.node)

    def status(self, view: View) -> shapes.Status:
        """The node at a glance."""
        started = self._started_at if self._started_at is not None else view.now
        self._traffic.take(view)
        return view.status(
            version=self._version,
            uptime_s=view.now - started,
            bytes_in=self._traffic.bytes_in,
            bytes_out=self._traffic.bytes_out,
        )

    def log_text(self, tail: int) -> str:
        """The last lines."""
        return "".join(line + "\n" for line in [*self._text][max(0, len(self._text) - tail) :])

    def say(self, line: str) -> None:
        """Put a line into the log. Never raises."""
        line = one_line(line)
        self._text.append(line)
        self.lines.publish("log", {"time_ms": self._clock.wall_ms(), "line": line})
        if self.sink is not None:
            try:
                self.sink(line)
            except BaseException as error:  # noqa: BLE001  # a hook is somebody else's code
                self.hook_bugs.tell("the application's log sink failed", contained(error), self._clock.monotonic())

    # What is followed.

    async def run(self) -> None:
        """Follow the node until it has stopped, or until cancelled. Never raises but Cancelled."""
        while True:
            try:
                async with trio.open_nursery() as nursery:
                    is_first, self._has_followed = not self._has_followed, True
                    with self.node.log_to(self.say, from_start=is_first):
                        nursery.start_soon(self._follow)
                        nursery.start_soon(self._tick)
                        await trio.sleep_forever()
            except* NodeClosed:
                # It runs only once: what is kept stays to be read, and nothing new comes.
                _log.debug("%s stopped: its HTTP control shows what is kept", self.node.node_id)
            except* Exception as group:  # noqa: BLE001  # a bug of ours costs a second of events, not the application
                _log.error("following %s failed: %r", self.node.node_id, group.exceptions[0])
            if self._is_over():
                return
            await trio.sleep(RESTART_S)

    def _is_over(self) -> bool:
        try:
            self.node.stats()
        except NodeClosed:
            return True
        except NotStarted:
            return False
        return False

    async def _follow(self) -> None:
        async with self.node.events() as stream, trio.open_nursery() as nursery:
            wake = trio.Event()

            async def tell_heads() -> None:
                nonlocal wake
                while True:
                    await wake.wait()
                    wake = trio.Event()
                    self._tell_heads()
                    await trio.sleep(self.options.limits.heads_every_s)

            nursery.start_soon(tell_heads)
            async for event in stream:
                if isinstance(event, events.HeadsMoved):
                    self._moved |= event.origins
                    wake.set()
                else:
                    self.happenings.publish(*self._told(event))

    def _told(self, event: events.NodeEvent) -> tuple[str, dict[str, object]]:
        name = _WORD.sub("_", type(event).__name__).lower()
        fields: dict[str, object] = {"time_ms": self._clock.wall_ms()}
        if isinstance(event, (events.PeerConnected, events.PeerMoved)):
            return name, fields | {"peer": self.view().peer(event.peer)}
        for field in type(event).__struct_fields__:
            fields[field] = _plain(getattr(event, field))
        return name, fields

    def _tell_heads(self) -> None:
        moved, self._moved = self._moved, set()
        heads_max = self.options.limits.heads_per_event_max
        with suppress(NotStarted, NodeClosed):
            view = self.view()
            heads = [
                {
                    "origin": str(origin),
                    "node_id": view.label_of(origin),
                    "seq": head.seq,
                    "hash": head.hash.hex(),
                    "frozen": head.frozen,
                }
                for origin in sorted(moved)[:heads_max]
                if (head := view.heads.get(origin)) is not None
            ]
            more = max(0, len(moved) - heads_max)
            value = {"digest": self.node.wal.digest().hex(), "records": view.records, "heads": heads, "more": more}
            self.happenings.publish("heads_moved", {"time_ms": self._clock.wall_ms()} | value)

    async def _tick(self) -> None:
        every = self.options.stats_every_ms / 1000
        before: tuple[float, int, int, int] | None = None
        while True:
            try:
                view = self.view()
            except NotStarted:
                await trio.sleep(every)
                continue
            if self._started_at is None:
                self._started_at = view.now
                await self._make_token()
            status = self.status(view)
            before = self._sample(status, view.now, before)
            self._stats_line(status)
            if self.happenings.readers:
                self.happenings.tell(self.state_frames(view, status) + frame_of("sample", self.samples[-1]))
            await trio.sleep(every)

    async def _make_token(self) -> None:
        """Not at the first request: who reads the token in the data dir need not have been turned away once."""
        try:
            await self.door()
        except ConfigError as error:
            _log.warning("%s has no token to be asked for: %s", self.node.node_id, error)

    def state_frames(self, view: View, status: shapes.Status) -> bytes:
        """The state as two events: `status` and `peers`."""
        away = view.away(self.options.limits.away_per_tick_max)
        return frame_of("status", status) + frame_of("peers", {"peers": view.peers() + away})

    def _sample(
        self, status: shapes.Status, now: float, before: tuple[float, int, int, int] | None
    ) -> tuple[float, int, int, int]:
        current = (now, status.records, status.bytes_in, status.bytes_out)
        then, *was = before if before is not None else current
        took = max(now - then, 1e-3)
        records, came, went = (round(max(0, new - old) / took, 1) for new, old in zip(current[1:], was, strict=True))
        self.samples.append(
            shapes.Sample(
                time_ms=status.now_ms,
                peers_connected=status.peers_connected,
                records=status.records,
                records_per_s=records,
                bytes_in_per_s=came,
                bytes_out_per_s=went,
                lag_records=status.lag_records,
            )
        )
        return current

    def _stats_line(self, status: shapes.Status) -> None:
        if not (self.options.enable_live_logs and self.options.enable_stats_line):
            return
        names = ("peers_total", "peers_connected", "handshakes_started", "handshakes_completed")
        line = "[p2p] " + " ".join(f"{name}={getattr(status, name)}" for name in names)
        if line != self._said:
            self._said = line
            self.say(line)


class Traffic:
    """Bytes of all links together: a link's own count begins at 0 and goes with it, this one never goes back."""

    def __init__(self) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self._links: dict[tuple[PeerId, float], tuple[int, int]] = {}

    def take(self, view: View) -> None:
        """Add what came and went since the last time."""
        links = {}
        for peer in view.snapshots:
            key = (peer.peer_id, peer.connected_at)
            came, went = self._links.get(key, (0, 0))
            self.bytes_in += max(0, peer.bytes_in - came)
            self.bytes_out += max(0, peer.bytes_out - went)
            links[key] = (peer.bytes_in, peer.bytes_out)
        self._links = links


def _plain(value: object) -> object:
    """An event's field as JSON knows it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, p2p.Reason):
        return value.label
    if isinstance(value, str):
        # What a peer said of itself may turn the reading direction, or a terminal's colours.
        return one_line(value)
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    if isinstance(value, (set, frozenset, list, tuple)):
        return sorted(str(_plain(item)) for item in value)
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    return one_line(str(value))


def package_version() -> str:
    """Of the package that is installed."""
    try:
        return version("trio-p2p")
    except PackageNotFoundError:
        return "0"
