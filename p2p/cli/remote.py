"""`p2p status`, `top`, `connect`, `disconnect`, `log`: a running node, seen and steered through its HTTP control."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Never, TextIO, cast

import trio

from p2p.cli.client import Control, ControlFailed, NodeStopped, Target, open_control
from p2p.cli.live import LAST_PICTURE_MS
from p2p.cli.output import Output, Pictures, complain, json_line
from p2p.cli.settings import UsageError
from p2p.cli.signals import on_signal, stop_signals
from p2p.cli.ways import circuits_text
from p2p.errors import ConfigError
from p2p.ids import PeerEndpoint
from p2p.text import one_line

if TYPE_CHECKING:
    from rich.table import Table

NAMES_MAX: Final = 1000
READER_S: Final = 0.25


def run_remote(target: Target, act: Callable[[Control, Output], Awaitable[int]], *, only_shows: bool = False) -> int:
    """Run one command against a node; a signal ends it in order.

    Args:
        target: the node.
        act: the command.
        only_shows: whether it changes nothing, and ends as soon as nobody reads what it shows.
    """
    return trio.run(partial(_run, target, act, only_shows=only_shows))


async def _run(target: Target, act: Callable[[Control, Output], Awaitable[int]], *, only_shows: bool) -> int:
    code = 0

    def stop(number: int) -> None:
        nonlocal code
        # What only shows was stopped as it is meant to be; what was asked for has not come.
        code = 0 if only_shows else 128 + number
        nursery.cancel_scope.cancel()

    with closing(Output()) as output, stop_signals() as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(on_signal, signals, stop)
            if only_shows:
                nursery.start_soon(_watch_reader, output)
            async with open_control(target) as control:
                try:
                    code = await act(control, output)
                except NodeStopped as stopped:
                    # What was watched came to its end: that is no failure.
                    complain(str(stopped))
            nursery.cancel_scope.cancel()
    return code


async def _watch_reader(output: Output) -> None:
    """Raise `ReaderGone` once nobody reads any more: the next line may be an hour away."""
    while True:
        output.check_reader()
        await trio.sleep(READER_S)


async def show_status(control: Control, output: Output, *, as_json: bool) -> int:
    """The node and its peers."""
    status, peers = await control.get("/status"), await control.get(f"/peers?limit={NAMES_MAX}")
    circuits = (await control.get("/routes?limit=1"))["circuits"]
    if as_json:
        await output.show(json_line(status | {"peers": peers["peers"], "circuits": circuits}))
        return 0
    for name, value in (
        ("node", f"{status['node_id']} {status['peer_id']}"),
        ("state", f"{status['status']}, up for {_duration(status['uptime_ms'])}"),
        ("listens on", ", ".join(status["endpoints"]) or "nothing"),
        ("peers", f"{status['peers_connected']} connected, {status['peers_total']} met"),
        ("records", f"{status['records']} held, {status['own_records']} own, {status['lag_records']} to go"),
        ("digest", status["digest"]),
        ("circuits", circuits_text(circuits)),
    ):
        await output.show(one_line(f"{name:<12}{value}"))
    for peer in peers["peers"]:
        await output.show(one_line("  ".join(_row(peer))))
    if peers["total"] > len(peers["peers"]):
        await output.show(f"and {peers['total'] - len(peers['peers'])} more")
    return 0


def _row(peer: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{peer['node_id'] or '?':<12}",
        f"{_short(peer):<8}",
        f"{peer['state']:<12}",
        f"lag {peer['lag_records']:<6}" if _is_linked(peer) else f"{_looked_for(peer):<10}",
        f"{_rtt(peer):>9}",
        peer["endpoint"] or "",
    )


def _is_linked(peer: dict[str, Any]) -> bool:
    return peer["connected_ms"] is not None


def _short(peer: dict[str, Any]) -> str:
    return (peer["id"] or "-")[:8]


def _rtt(peer: dict[str, Any]) -> str:
    return "-" if peer["rtt_ms"] is None else f"{peer['rtt_ms']:.1f} ms"


def _looked_for(peer: dict[str, Any]) -> str:
    """Why the last dial came to nothing, and when the next one is due."""
    parts = [peer["failure"]] if peer["failure"] else []
    if peer["next_dial_ms"]:
        parts.append(f"again in {peer['next_dial_ms'] / 1000:.0f} s")
    return ", ".join(parts) or "-"


def _duration(ms: int) -> str:
    seconds = ms // 1000
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


async def show_top(control: Control, output: Output, *, as_json: bool, every_s: float) -> int:
    """The node and its peers again and again: a table on a terminal, else lines."""
    try:
        await (_every_line(control, output, every_s) if as_json else _every_table(control, every_s))
    except ControlFailed as failure:
        is_node_gone = failure.answer.get("error") in {"node_not_running", "stopping"}
        if is_node_gone or (failure.status is None and await control.is_over()):
            raise NodeStopped from None
        if failure.status is None and control.has_answered:
            text = f"the node does not answer any more: it stopped, or is out of reach ({failure})"
            raise ControlFailed(text) from None
        raise


async def _every_line(control: Control, output: Output, every_s: float) -> Never:
    while True:
        await show_status(control, output, as_json=True)
        await trio.sleep(every_s)


async def _every_table(control: Control, every_s: float) -> Never:
    from rich.console import Console
    from rich.live import Live

    pictures = Pictures(sys.stdout)
    console = Console(file=cast("TextIO", pictures))
    with closing(pictures), Live(console=console, auto_refresh=False, screen=False) as live:
        try:
            while True:
                status, peers = await control.get("/status"), await control.get(f"/peers?limit={NAMES_MAX}")
                live.update(_table(status, peers["peers"]), refresh=True)
                await trio.sleep(every_s)
        finally:
            # What comes now makes the cursor visible again.
            pictures.patience_ms = LAST_PICTURE_MS


def _table(status: dict[str, Any], peers: list[dict[str, Any]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = f"{status['node_id']} {status['peer_id'][:8]} · {status['records']} records · {status['status']}"
    caption = f"digest {status['digest'][:16]} · {status['peers_connected']} of {status['peers_total']} peers connected"
    table = Table(title=title, caption=caption, expand=False)
    for name in ("peer", "id", "state", "endpoint", "lag", "rtt", "in", "out"):
        table.add_column(name, justify="right" if name in {"lag", "rtt", "in", "out"} else "left")
    for peer in peers:
        table.add_row(
            Text(one_line(peer["node_id"] or "?")),
            _short(peer),
            peer["state"] if _is_linked(peer) else f"{peer['state']} ({_looked_for(peer)})",
            Text(one_line(peer["endpoint"] or "")),
            str(peer["lag_records"]) if _is_linked(peer) else "",
            _rtt(peer),
            str(peer["bytes_in"]),
            str(peer["bytes_out"]),
        )
    return table


async def connect(control: Control, output: Output, *, as_json: bool, endpoint: str, wait_ms: int) -> int:
    """Have the node dial once."""
    try:
        is_dialable = PeerEndpoint.parse(endpoint).is_dialable
    except ConfigError:
        is_dialable = False
    if not is_dialable:
        raise UsageError(f"{endpoint[:200]!r} is no place to dial: write HOST:PORT, such as 127.0.0.1:9002")
    try:
        answer = await control.post("/connect", {"endpoint": endpoint, "wait_ms": wait_ms}, wait_ms=wait_ms)
        word = "connected"
    except ControlFailed as failure:
        if failure.answer.get("error") != "already_connected":
            raise
        # What was wanted is so.
        answer = {"peer": failure.answer["peer"], "endpoint": endpoint, "already_connected": True}
        word = "already connected"
    peer = answer["peer"]
    text = f"{word} to {peer['node_id'] or '?'} ({_short(peer)}) at {answer['endpoint']}"
    await output.show(json_line(answer) if as_json else one_line(text))
    return 0


async def disconnect(control: Control, output: Output, *, as_json: bool, who: str) -> int:
    """Have the node part from a peer."""
    answer = await control.post("/disconnect", {"peer": who})
    await output.show(json_line(answer) if as_json else f"disconnected from {answer['peer'][:8]}")
    return 0


async def show_log(control: Control, output: Output, *, as_json: bool, follow: bool, lines: int) -> int:
    """The last lines of the node's log; with follow, what comes, too."""

    async def show(line: str, **more: object) -> None:
        line = one_line(line)
        await output.show(json_line({**more, "line": line}) if as_json else line)

    if not follow:
        for line in (await control.text(f"/logs?tail={lines}")).splitlines():
            await show(line)
        return 0
    async for event in control.events(f"/logs/live?tail={lines}"):
        if "line" in event:
            await show(event["line"], time_ms=event["time_ms"])
    return 0
