"""What does a question for peers cost a registry that holds 10,000 entries?

Both servers run in this process on the same HTTP stack, and so does the one client that asks, one question at a time on
a connection kept open. The baseline answers the same bytes from a constant: what is left is the judgement of the
question, the way to the table's thread, the choice of 100 entries among 10,000, and their JSON.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from functools import partial

import trio
from quart import Response
from quart_trio import QuartTrio

import p2p
from benchmarks.harness import Tell, ratio, row, spread
from benchmarks.pace import Pace
from http_control.registry.app import RegistryOptions, make_registry
from http_control.registry.sqlite import SqliteTable
from http_control.server import ServerOptions, serve_app
from p2p import registry

ENTRIES = 10_000
ASK = b"GET /peers?limit=100 HTTP/1.1\r\nHost: r\r\n\r\n"
P99_S_MAX = 0.025


def _table() -> SqliteTable:
    table = SqliteTable()
    room = registry.Room(ttl_s=3600.0, entries_max=ENTRIES, per_source_max=1)
    for number in range(ENTRIES):
        host = f"8.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        peer = registry.ListedPeer(host, 9101, f"node-{number}", "tcp", f"{number:064x}")
        table.note(registry.Entry(peer, registry.Scope.PUBLIC, host), room)
    return table


class _Client:
    """Asks over one connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def ask(self) -> tuple[float, bytes]:
        started = time.perf_counter()
        await self._stream.send_all(ASK)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await self._stream.receive_some()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        size = int(head.lower().partition(b"content-length:")[2].split()[0])
        while len(body) < size:
            body += await self._stream.receive_some()
        return time.perf_counter() - started, body


def _constant(body: bytes) -> QuartTrio:
    app = QuartTrio(__name__)

    async def peers() -> Response:
        return Response(body, content_type="application/json", headers={"cache-control": "no-store"})

    app.add_url_rule("/peers", "peers", peers)
    return app


async def _times(port: int, count: int) -> list[float]:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        client = _Client(stream)
        for _ in range(10):
            await client.ask()
        return [(await client.ask())[0] for _ in range(count)]


async def _rows(pace: Pace, tell: Tell) -> None:
    rounds, count = (3, 100) if pace.quick else (9, 500)
    desk = registry.Desk(p2p.Limits(registrar_questions_burst=10**9))
    async with trio.open_nursery() as nursery:

        async def serve(app: QuartTrio) -> int:
            urls: list[str] = await nursery.start(partial(serve_app, app, ServerOptions()))
            return int(urls[0].rpartition(":")[2])

        ours_port = await serve(make_registry(RegistryOptions(desk, _table())))
        stream = await trio.open_tcp_stream("127.0.0.1", ours_port)
        async with stream:
            _, body = await _Client(stream).ask()
        constant_port = await serve(_constant(body))
        measured = await pace.in_turn(
            rounds, lambda: _times(constant_port, count), lambda: _times(ours_port, count)
        )  # fmt: skip
        nursery.cancel_scope.cancel()
    constant, ours = zip(*measured, strict=True)
    note = f"{count} a round, {len(body)} bytes each"
    p99_s = spread(map(_p99, ours))
    tell(
        row(
            f"GET /peers of {ENTRIES:,} entries, p99 ÷ {P99_S_MAX * 1e3:g} ms",
            p99_s / P99_S_MAX,
            "<= 1",
            value=p99_s.middle * 1e3,
            unit="ms",
            baseline=f"{P99_S_MAX * 1e3:g} ms; the same bytes from a constant"
            f" take {spread(map(_p99, constant)).middle * 1e3:.2f}",
            note=note,
        )
    )
    ours_s, constant_s = ([statistics.median(times) for times in side] for side in (ours, constant))
    tell(
        row(
            f"GET /peers of {ENTRIES:,} entries ÷ the same bytes from a constant, medians",
            ratio(ours_s, constant_s),
            "<= 3",
            value=statistics.median(ours_s) * 1e3,
            unit="ms",
            baseline=f"{statistics.median(constant_s) * 1e3:.2f}",
            note=note,
        )
    )


def _p99(times: Sequence[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


def run(pace: Pace, tell: Tell) -> None:
    """Measure and tell the rows."""
    pace.run(_rows, pace, tell)
