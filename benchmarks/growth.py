"""What does a node cost as it grows: with the records that it holds, the logs that it follows, the gaps in them,
the peers it knows?

A curve each, from one to many, with everything else as it is, all sizes in turn; the row tells the largest beside the
smallest. What must
not depend on the size at all (a start, a digest, an append to a long log) is a ratio near 1; what is done once per log
is told per log.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

import p2p
from benchmarks import worker
from benchmarks.figures import number
from benchmarks.harness import Row, Tell, in_turn, quiet_collector, ratio, row, seconds_of, spread
from benchmarks.pace import Pace
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
STARTED: Final = "store, heads and clock taken up"
STARTS: Final = 3
APPENDS: Final = 20
TIMES: Final = 5
REQUESTS: Final = 100

Series = list[tuple[int, tuple[float, ...]]]
"""Sizes, and for each its figures, one a round."""


async def _at_sizes(sizes: Sequence[int], measure: Callable[[int], Callable[[], float]], pace: Pace) -> Series:
    """What each size gives, in turn."""

    def side(size: int) -> Callable[[], Awaitable[float]]:
        work = measure(size)

        async def figure() -> float:
            return work()

        return figure

    measured = await pace.in_turn(5 if pace.quick else 9, *(side(size) for size in sizes))
    return list(zip(sizes, zip(*measured, strict=True), strict=True))


def _row(question: str, series: Series, unit: str, scale: float, goal: float, note: str = "") -> Row:
    """The last size beside the first, and the curve through all of them."""
    (_, first), (_, last) = series[0], series[-1]
    return row(
        question,
        ratio(last, first),
        f"<= {goal:g}",
        value=statistics.median(last) * scale,
        unit=unit,
        baseline=f"{number(statistics.median(first) * scale)}",
        note=note,
        curve=tuple((size, statistics.median(seconds) * scale) for size, seconds in series),
    )


async def _records(sizes: Sequence[int], pace: Pace, tell: Tell) -> None:
    """Logs of each size: how long a start takes, and an append to what is there."""
    first, last = sizes[0], sizes[-1]
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            _fill(Path(folder) / str(size), size)

        def starting(size: int) -> Callable[[], float]:
            return partial(seconds_of, partial(_start, Path(folder) / str(size)), STARTS)

        starts = await _at_sizes(sizes, starting, pace)
        tell(_row(f"start with {last:,} records ÷ start with {first:,}", starts, "ms", 1e3, 2.0, STARTED))
        start_s = spread(starts[-1][1])
        tell(
            row(
                f"start with {last:,} records ÷ {START_S_MAX:g} s",
                start_s / START_S_MAX,
                "<= 1",
                value=start_s.middle,
                unit="s",
                baseline=f"{START_S_MAX:g} s",
                note="a bound",
            )
        )
        with ExitStack() as stack:
            logs = {size: stack.enter_context(_opened(Path(folder) / str(size))) for size in sizes}
            single = encode_portions([NewRecord("app", None, bytes(RECORD_BYTES))])
            wall_ms = int(time.time() * 1000)

            def appending(size: int) -> Callable[[], float]:
                return partial(seconds_of, partial(logs[size].commit, Group(portions=single), wall_ms), APPENDS)

            appends = await _at_sizes(sizes, appending, pace)
        question = f"durable append to a log of {last:,} records ÷ of {first:,}"
        tell(_row(question, appends, "ms", 1e3, 1.5, "medians; the disk's own pace is in it"))


@contextmanager
def _opened(data_dir: Path) -> Iterator[Committer]:
    store, identity = open_store(data_dir, entropy=os.urandom, say=_hush)
    try:
        committer = Committer(store, identity, Limits())
        committer.start()
        yield committer
    finally:
        store.close()


def _fill(data_dir: Path, size: int) -> None:
    portions = encode_portions([NewRecord("app", None, bytes(RECORD_BYTES))] * PER_BATCH)
    wall_ms = int(time.time() * 1000)
    with _opened(data_dir) as committer:
        for _ in range(size // PER_BATCH):
            committer.commit(Group(portions=portions), wall_ms)


def _start(data_dir: Path) -> None:
    with _opened(data_dir):
        pass


def _hush(line: str) -> None:
    """What a store says when it is made is nothing here."""


def _heads(count: int, seq: int) -> dict[PeerId, LogHead]:
    def name(number: int) -> bytes:
        return hashlib.sha256(b"%d" % number).digest()

    return {PeerId(name(number)): LogHead(seq, name(number), frozen=False) for number in range(count)}


async def _origins(sizes: Sequence[int], pace: Pace, tell: Tell) -> None:
    """More and more logs: what is done once per log, and what must not depend on their number at all."""
    first, last = sizes[0], sizes[-1]
    digests = await _at_sizes(sizes, _digesting, pace)
    tell(_row(f"digest of {last:,} logs, per log ÷ of {first}", digests, "µs a log", 1e6, 2.0))
    links = await _at_sizes(sizes, _linking, pace)
    tell(
        _row(
            f"telling {last:,} logs to a new link, per log ÷ {first}",
            links, "µs a log", 1e6, 2.0, "without the bytes on the wire",
        )
    )  # fmt: skip
    moves = await _at_sizes(sizes, _moving, pace)
    tell(_row(f"a log that moves on among {last:,} ÷ among {first}", moves, "µs", 1e6, 2.0, "one link"))
    lengths = await _at_sizes((10, 10**9), _digesting_logs_of, pace)
    tell(_row("digest of logs of 10^9 records ÷ of 10", lengths, "µs", 1e6, 1.2, "64 logs"))
    gaps = await _at_sizes(sizes, _hearing_of_gaps, pace)
    tell(
        _row(
            f"hearing of {last:,} gaps and asking for them, per gap ÷ of {first}",
            gaps, "µs a gap", 1e6, 2.0, "one link",
        )
    )  # fmt: skip


def _digesting(count: int) -> Callable[[], float]:
    heads = _heads(count, 5)
    return lambda: seconds_of(lambda: digest(heads), TIMES) / count


def _digesting_logs_of(seq: int) -> Callable[[], float]:
    heads = _heads(64, seq)
    return lambda: seconds_of(lambda: digest(heads), TIMES)


def _linking(count: int) -> Callable[[], float]:
    exchange, peer = Exchange(_peer(1), _heads(count, 5), Limits(), 0.0), _peer(2)

    def link() -> None:
        exchange.link_up(1, peer, 1.0)
        exchange.take_messages()
        exchange.link_down(1, 1.0)

    return lambda: seconds_of(link, TIMES) / count


def _moving(count: int) -> Callable[[], float]:
    heads = _heads(count, 5)
    exchange = Exchange(_peer(1), heads, Limits(), 0.0)
    exchange.link_up(2, _peer(2), 1.0)
    exchange.take_messages()
    moving = next(iter(heads))

    def move() -> None:
        heads[moving] = LogHead(heads[moving].seq + 1, heads[moving].hash, frozen=False)
        exchange.moved({moving}, 1.0)
        exchange.take_messages()

    return lambda: seconds_of(move, TIMES)


def _hearing_of_gaps(count: int) -> Callable[[], float]:
    """A link is taken up whose peer is ahead in so many logs: a supplier is chosen for each, and the log asked for."""
    ahead = Exchange(_peer(2), _heads(count, 6), Limits(), 0.0)
    ahead.link_up(1, _peer(1), 1.0)
    told = [message for _, message in ahead.take_messages()]
    behind = Exchange(_peer(1), _heads(count, 5), Limits(), 0.0)

    def hear_and_ask() -> None:
        behind.link_up(1, _peer(2), 1.0)
        for message in told:
            behind.receive(1, message, 1.0)
        assert behind.take_messages(), "nothing was asked for"
        behind.link_down(1, 1.0)

    return lambda: seconds_of(hear_and_ask, TIMES) / count


def _peer(number: int) -> PeerId:
    return PeerId(bytes([number]) * 32)


async def _peers(sizes: Sequence[int], pace: Pace, tell: Tell) -> None:
    """A request to one peer while more and more others are connected and say nothing."""
    series: Series = []
    rounds = 5 if pace.quick else 9
    async with (
        p2p.open_node(node_id="hub", max_peers=4096) as node,
        worker.start("node_echo") as echo,
        worker.start("crowd", sizes[-1]) as crowd,
    ):
        await crowd.result()
        peer = await node.connect(f"127.0.0.1:{(await echo.result())['port']}")

        async def ask() -> float:
            taken = []
            with quiet_collector():
                for _ in range(REQUESTS):
                    started = time.process_time()
                    await node.request(peer, "echo", b"x")
                    taken.append(time.process_time() - started)
            return statistics.median(taken)

        for size in sizes:
            await crowd.ask(task="connect", port=node.endpoints[0].port, count=size)
            await trio.sleep(0.5)
            # All sizes have as many rounds.
            series.append((size, tuple(each for (each,) in await in_turn(rounds, ask))))
    tell(
        _row(
            f"a request beside {sizes[-1]:,} idle peers ÷ beside {sizes[0]}, processor time",
            series, "µs", 1e6, 1.5, "this node's side; peers only come, so the sizes follow each other",
        )
    )  # fmt: skip


async def _rows(pace: Pace, tell: Tell) -> None:
    await _records((1000, 10_000, 100_000, *(() if pace.quick else (1_000_000, 10_000_000))), pace, tell)
    await _origins((1, 32, 1024), pace, tell)
    await _peers((1, 64) if pace.quick else (1, 16, 256, 2000), pace, tell)


def run(pace: Pace, tell: Tell) -> None:
    """Measure and tell the rows as they come."""
    pace.run(_rows, pace, tell)
