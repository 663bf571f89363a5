"""What does a node cost as it grows: with the records that it holds, the logs that it follows, the gaps in them,
the peers it knows?

A curve each, from one to many, with everything else as it is; the row tells the largest beside the smallest. What must
not depend on the size at all (a start, a digest, an append to a long log) is a ratio near 1; what is done once per log
is told per log.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

import p2p
from benchmarks import worker
from benchmarks.harness import Row, at_most, quiet_collector
from p2p.ids import PeerId
from p2p.limits import Limits
from p2p.node.commits import Committer, Group
from p2p.replication.batch import NewRecord, encode_portions
from p2p.replication.exchange import Exchange
from p2p.replication.heads import LogHead, digest
from p2p.store.keys import open_store

RECORD_BYTES: Final = 16
"""Small, so that millions of them fit a disk: a start looks at rows and not at what is in them."""
PER_BATCH: Final = 1000
START_S_MAX: Final = 2.0

Curve = list[tuple[int, float]]


def _row(question: str, curve: Curve, unit: str, scale: float, goal: float, baseline: str, note: str) -> Row:
    """The last point of a curve beside its first."""
    first, last = curve[0][1], curve[-1][1]
    row = at_most(question, last * scale, unit, baseline, last / first, goal, note)
    return {**row, "curve": [[size, seconds * scale] for size, seconds in curve]}


def _seconds(work: Callable[[], object], times: int) -> float:
    """The median of so many runs."""
    taken = []
    with quiet_collector():
        for _ in range(times):
            started = time.perf_counter()
            work()
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _records(sizes: Sequence[int]) -> list[Row]:
    """One log that grows: how long a start takes, and an append to what is there."""
    starts: Curve = []
    appends: Curve = []
    portions = encode_portions([NewRecord("app", None, bytes(RECORD_BYTES))] * PER_BATCH)
    single = encode_portions([NewRecord("app", None, bytes(RECORD_BYTES))])
    with tempfile.TemporaryDirectory() as folder:
        data_dir, held, wall_ms = Path(folder) / "data", 0, int(time.time() * 1000)
        for size in sizes:
            store, identity = open_store(data_dir, entropy=os.urandom, say=_hush)
            committer = Committer(store, identity, Limits())
            committer.start()
            while held < size:
                committer.commit(Group(portions=portions), wall_ms)
                held += PER_BATCH
            # The first ones write back what the filling left in SQLite's own log.
            append = partial(committer.commit, Group(portions=single), wall_ms)
            _seconds(append, 20)
            appends.append((size, _seconds(append, 30)))
            store.close()
            starts.append((size, _seconds(partial(_start, data_dir), 5)))
    first, last = sizes[0], sizes[-1]
    rows = [
        _row(
            f"start with {last:,} records ÷ start with {first:,}",
            starts, "ms", 1e3, 2.0, f"{starts[0][1] * 1e3:.1f} ms", "store, heads and clock taken up",
        ),
        _row(
            f"durable append to a log of {last:,} records ÷ of {first:,}",
            appends, "ms", 1e3, 1.5, f"{appends[0][1] * 1e3:.2f} ms", "medians; the disk's own pace is in it",
        ),
    ]  # fmt: skip
    start_s, limit = starts[-1][1], f"{START_S_MAX:g} s"
    rows.append(at_most(f"start with {last:,} records ÷ {limit}", start_s, "s", limit, start_s / START_S_MAX, 1))
    return rows


def _start(data_dir: Path) -> None:
    store, identity = open_store(data_dir, entropy=os.urandom, say=_hush)
    Committer(store, identity, Limits()).start()
    store.close()


def _hush(line: str) -> None:
    """What a store says when it is made is nothing here."""


def _heads(count: int, seq: int) -> dict[PeerId, LogHead]:
    def name(number: int) -> bytes:
        return hashlib.sha256(b"%d" % number).digest()

    return {PeerId(name(number)): LogHead(seq, name(number), frozen=False) for number in range(count)}


def _origins(sizes: Sequence[int]) -> list[Row]:
    """More and more logs: a digest of all, a link that tells them, one of them that moves on."""
    points = [(size, _with_logs(size)) for size in sizes]
    digests, links, moves = ([(size, seconds[which]) for size, seconds in points] for which in range(3))
    few, many = _heads(64, 10), _heads(64, 10**9)
    short, long = _seconds(lambda: digest(few), 50), _seconds(lambda: digest(many), 50)
    first, last = sizes[0], sizes[-1]
    return [
        _row(
            f"digest of {last:,} logs, per log ÷ of {first}",
            digests, "µs a log", 1e6, 2.0, f"{digests[0][1] * 1e6:.1f} µs", "",
        ),
        _row(
            f"telling {last:,} logs to a new link, per log ÷ {first}",
            links, "µs a log", 1e6, 2.0, f"{links[0][1] * 1e6:.1f} µs", "without the bytes on the wire",
        ),
        _row(
            f"a log that moves on among {last:,} ÷ among {first}",
            moves, "µs", 1e6, 2.0, f"{moves[0][1] * 1e6:.1f} µs", "one link",
        ),
        _row(
            "digest of logs of 10^9 records ÷ of 10",
            [(10, short), (10**9, long)], "µs", 1e6, 1.2, f"{short * 1e6:.1f} µs", "64 logs",
        ),
    ]  # fmt: skip


def _with_logs(count: int) -> tuple[float, float, float]:
    """Seconds of a digest and of a new link, per log; and of one log that moves on."""
    heads = _heads(count, 5)
    own, peer = (PeerId(bytes([byte]) * 32) for byte in (1, 2))
    exchange = Exchange(own, heads, Limits(), 0.0)

    def link() -> None:
        exchange.link_up(1, peer, 1.0)
        exchange.take_messages()
        exchange.link_down(1, 1.0)

    digest_s, link_s = _seconds(lambda: digest(heads), 50), _seconds(link, 10)
    exchange.link_up(2, peer, 1.0)
    exchange.take_messages()
    moving = next(iter(heads))

    def move() -> None:
        heads[moving] = LogHead(heads[moving].seq + 1, heads[moving].hash, frozen=False)
        exchange.moved({moving}, 1.0)
        exchange.take_messages()

    return digest_s / count, link_s / count, _seconds(move, 50)


def _gaps(sizes: Sequence[int]) -> Row:
    """A peer that holds more of more and more logs: each gap is heard of, a supplier chosen, and the log asked for."""
    curve = [(size, _with_gaps(size) / size) for size in sizes]
    return _row(
        f"hearing of {sizes[-1]:,} gaps and asking for them, per gap ÷ of {sizes[0]}",
        curve, "µs a gap", 1e6, 2.0, f"{curve[0][1] * 1e6:.1f} µs", "one link",
    )  # fmt: skip


def _with_gaps(count: int) -> float:
    """Seconds to take up a link whose peer is ahead in so many logs, and to ask for all of them."""
    own, peer = (PeerId(bytes([byte]) * 32) for byte in (1, 2))
    ahead = Exchange(peer, _heads(count, 6), Limits(), 0.0)
    ahead.link_up(1, own, 1.0)
    told = [message for _, message in ahead.take_messages()]
    behind = Exchange(own, _heads(count, 5), Limits(), 0.0)

    def hear_and_ask() -> None:
        behind.link_up(1, peer, 1.0)
        for message in told:
            behind.receive(1, message, 1.0)
        assert behind.take_messages(), "nothing was asked for"
        behind.link_down(1, 1.0)

    return _seconds(hear_and_ask, 10)


async def _peers(sizes: Sequence[int]) -> Row:
    """A request to one peer while more and more others are connected and say nothing."""
    curve: Curve = []
    async with (
        p2p.open_node(node_id="hub", max_peers=4096) as node,
        worker.start("node_echo") as echo,
        worker.start("crowd", sizes[-1]) as crowd,
    ):
        await crowd.result()
        peer = (await node.connect(f"127.0.0.1:{(await echo.result())['port']}")).peer_id
        for size in sizes:
            await crowd.ask(task="connect", port=node.endpoints[0].port, count=size)
            await trio.sleep(0.5)
            taken = []
            with quiet_collector():
                for _ in range(300):
                    started = time.process_time()
                    await node.request(peer, "echo", b"x")
                    taken.append(time.process_time() - started)
            curve.append((size, statistics.median(taken)))
    return _row(
        f"a request beside {sizes[-1]:,} idle peers ÷ beside {sizes[0]}, processor time",
        curve, "µs", 1e6, 1.5, f"{curve[0][1] * 1e6:.0f} µs", "this node's side",
    )  # fmt: skip


def run(quick: bool) -> list[Row]:
    """Measure and return the rows."""
    return [
        *_records((1000, 10_000, 100_000) if quick else (1000, 10_000, 100_000, 1_000_000, 10_000_000)),
        *_origins((1, 32, 1024)),
        _gaps((1, 32, 1024)),
        trio.run(_peers, (1, 16, 256) if quick else (1, 16, 256, 2000)),
    ]
