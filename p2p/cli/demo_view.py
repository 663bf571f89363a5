"""How the demo shows itself: a live table on a terminal, plain lines elsewhere, JSON objects if asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from p2p.cli.demo_nodes import DemoNode, Holdings
from p2p.cli.output import Output, json_line


class Row:
    """What is shown of one node at one moment."""

    def __init__(self, node: DemoNode, holdings: Holdings, everybody: Sequence[DemoNode]) -> None:
        self.name = node.name
        self.state = "up" if node.port is not None else "down"
        self.connected = node.connected
        self.heads = {
            other.name: holdings.heads[other.peer_id].seq if other.peer_id in holdings.heads else 0
            for other in everybody
            if other.peer_id is not None
        }
        self.digest = holdings.digest
        self.lag = 0


def rows_of(nodes: Sequence[DemoNode], held: Sequence[Holdings]) -> list[Row]:
    """One row a node; lag counts the records that somebody has and this node has not."""
    rows = [Row(node, holdings, nodes) for node, holdings in zip(nodes, held, strict=True)]
    existing = sum(max(row.heads.get(node.name, 0) for row in rows) for node in nodes)
    for row in rows:
        row.lag = existing - sum(row.heads.values())
    return rows


class View(Protocol):
    """Where the demo is shown."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""

    def phase(self, text: str) -> None:
        """Tell what happens from here on."""

    def show(self, rows: Sequence[Row]) -> None:
        """Show where everybody stands."""

    def summary(self, fields: dict[str, object]) -> None:
        """Tell how it ended."""


def choose_view(*, as_json: bool) -> View:
    """The view that fits standard output."""
    if as_json:
        return JsonView()
    return TableView() if sys.stdout.isatty() else PlainView()


class PlainView:
    """One line a node, whenever it has changed."""

    def __init__(self) -> None:
        self._output = Output()
        self._shown: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def phase(self, text: str) -> None:
        """One line."""
        self._output.result(f"== {text}")

    def show(self, rows: Sequence[Row]) -> None:
        """The rows that differ from what was shown last."""
        for row in rows:
            heads = " ".join(f"{name}={seq}" for name, seq in row.heads.items())
            line = (
                f"{row.name} {row.state:<4} peers={row.connected} heads: {heads} lag={row.lag} digest={row.digest[:12]}"
            )
            if self._shown.get(row.name) != line:
                self._output.result(line)
                self._shown[row.name] = line

    def summary(self, fields: dict[str, object]) -> None:
        """One line of `name=value`."""
        self._output.result("== summary: " + " ".join(f"{name}={value}" for name, value in fields.items()))


class JsonView(PlainView):
    """One object a line."""

    def phase(self, text: str) -> None:
        """An object with the text."""
        self._output.result(json_line({"event": "phase", "text": text}))

    def show(self, rows: Sequence[Row]) -> None:
        """An object with all rows, if any differs from the last."""
        nodes = [
            {"node_id": row.name, "state": row.state, "peers_connected": row.connected, "heads": row.heads,
             "lag": row.lag, "digest": row.digest}
            for row in rows
        ]  # fmt: skip
        line = json_line({"event": "status", "nodes": nodes})
        if self._shown.get("") != line:
            self._output.result(line)
            self._shown[""] = line

    def summary(self, fields: dict[str, object]) -> None:
        """The last object."""
        self._output.result(json_line({"event": "summary", **fields}))


class TableView:
    """A table that redraws itself, with the phases above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False)
        self._text = ""

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, value, trace)

    def phase(self, text: str) -> None:
        """A line above the table, and its title."""
        self._live.console.print(f"[bold]{text}[/bold]", highlight=False)
        self._text = text

    def show(self, rows: Sequence[Row]) -> None:
        """Draw the table anew."""
        from rich.table import Table

        table = Table(caption="heads: records held of each node's log; lag: records others hold and this one does not")
        table.add_column("node")
        table.add_column("state")
        table.add_column("peers", justify="right")
        for row in rows:
            table.add_column(f"of {row.name}", justify="right")
        table.add_column("lag", justify="right")
        table.add_column("digest")
        for row in rows:
            state = f"[green]{row.state}[/green]" if row.state == "up" else f"[red]{row.state}[/red]"
            lag = f"[green]{row.lag}[/green]" if not row.lag else f"[yellow]{row.lag}[/yellow]"
            heads = [str(row.heads.get(other.name, 0)) for other in rows]
            table.add_row(row.name, state, str(row.connected), *heads, lag, row.digest[:12])
        self._live.update(table, refresh=True)

    def summary(self, fields: dict[str, object]) -> None:
        """One line a figure, below the last table."""
        self._live.stop()
        for name, value in fields.items():
            self._live.console.print(f"  {name.replace('_', ' ')}: [bold]{value}[/bold]", highlight=False)
