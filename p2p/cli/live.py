"""`--tui on`: the node's peers as a table that redraws itself."""

from __future__ import annotations

import sys
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Final, TextIO, cast

import trio

from p2p.cli.output import Pictures
from p2p.errors import NodeClosed
from p2p.text import one_line

if TYPE_CHECKING:
    from rich.table import Table

    import p2p
    from p2p.ids import PeerId

LAST_PICTURE_MS: Final = 300
"""What a stalled terminal may delay the end of a node that shows a table."""


class Rates:
    """Bytes per second of each link, from one look to the next."""

    def __init__(self) -> None:
        self._seen: dict[PeerId, tuple[float, int, int]] = {}

    def of(self, peer: p2p.Peer, now: float) -> tuple[float, float]:
        """Rates (in, out) since the last look at this peer, 0 at the first."""
        before, bytes_in, bytes_out = self._seen.get(peer.peer_id, (now, peer.bytes_in, peer.bytes_out))
        self._seen[peer.peer_id] = (now, peer.bytes_in, peer.bytes_out)
        seconds = now - before
        if seconds <= 0 or peer.bytes_in < bytes_in or peer.bytes_out < bytes_out:
            return 0.0, 0.0
        return (peer.bytes_in - bytes_in) / seconds, (peer.bytes_out - bytes_out) / seconds


def peers_table(node: p2p.Node, rates: Rates, now: float) -> Table:
    """Draw one picture of the node."""
    from rich.table import Table
    from rich.text import Text

    heads = node.wal.heads()
    lag = node.outbox.lag()
    stats = node.stats()
    title = f"{node.node_id} {node.peer_id.short} · {sum(head.seq for head in heads.values())} records of {len(heads)}"
    caption = (
        f"digest {node.wal.digest().hex()[:16]} · {stats.peers_connected} of {stats.peers_total} peers connected · "
        f"{stats.handshakes_completed} handshakes"
    )
    if left_alone := len(node.wal.left_alone()):
        caption += f" · {left_alone} logs left alone"
    table = Table(title=title, caption=caption, expand=False)
    table.add_column("peer")
    table.add_column("id")
    table.add_column("state")
    table.add_column("endpoint")
    for column in ("lag", "rtt ms", "in/s", "out/s"):
        table.add_column(column, justify="right")
    for peer in node.peers():
        rate_in, rate_out = rates.of(peer, now)
        table.add_row(
            Text(one_line(peer.node_id or "?")),
            peer.peer_id.short,
            peer.state.name.lower(),
            Text(str(peer.endpoint or "")),
            str(lag.get(peer.peer_id, 0)),
            "" if peer.rtt_s is None else f"{peer.rtt_s * 1000:.1f}",
            size(rate_in),
            size(rate_out),
        )
    return table


def size(count: float) -> str:
    """A number of bytes in at most seven characters."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


async def live_table(node: p2p.Node, interval_s: float) -> None:
    """Redraw until cancelled or the node stops. Away from a terminal each picture is printed below the last.

    A terminal that has stalled loses pictures and holds nobody up.

    Raises:
        ReaderGone: nobody looks any more.
    """
    from rich.console import Console
    from rich.live import Live

    pictures = Pictures(sys.stdout)
    console = Console(file=cast("TextIO", pictures))
    rates = Rates()
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    with closing(pictures), live or nullcontext():
        try:
            while True:
                try:
                    picture = peers_table(node, rates, trio.current_time())
                except NodeClosed:
                    return
                if live is not None:
                    live.update(picture, refresh=True)
                else:
                    console.print(picture)
                await trio.sleep(interval_s)
        finally:
            # What comes now makes the cursor visible again.
            pictures.patience_ms = LAST_PICTURE_MS
