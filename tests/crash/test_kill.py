"""Real processes, killed while they append: what was acknowledged is there."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import trio

from p2p.replication.batch import parse_batch
from p2p.replication.heads import EMPTY_LOG
from p2p.store.base import Store
from p2p.store.keys import load_identity, open_store
from tests.cli.processes import start
from tests.crash.appender import FOREIGN, payload_of

EVERYTHING = 2**62


async def run_and_kill(path: Path, first: int, log_kib: int, lines_max: int) -> list[str]:
    """Let it append, kill it with SIGKILL once it said so many lines, and return all that it said."""
    said = b""
    process = await start(path, first, log_kib, module="tests.crash.appender", stderr=2)
    with trio.fail_after(120):
        async with process.stdout:
            async for chunk in process.stdout:
                said += chunk
                if said.count(b"\n") >= lines_max:
                    process.kill()
        assert await process.wait() == -9, "it was to be killed, and ended by itself"
    # A line that was cut off was not said.
    return said.decode().split("\n")[:-1]


def check(store: Store, lines: list[str], origin_seqs: dict[int, int]) -> None:
    """Everything acknowledged is there, as it was, and the whole store is sound."""
    assert list(store.verify()) == []
    own = store.states().get(store.own, EMPTY_LOG)
    records = {
        record.seq: record.payload
        for batch in store.load(store.own, 1, own.seq, EVERYTHING).batches
        for record in parse_batch(batch.wal_bytes).records()
    }
    assert sorted(records) == list(range(1, own.seq + 1))
    held = store.states().get(FOREIGN, EMPTY_LOG).seq
    for line in lines:
        kind, seq, *number = line.split()
        if kind == "own":
            assert origin_seqs.setdefault(int(seq), int(number[0])) == int(number[0]), "a seq was used twice"
        else:
            assert int(seq) <= held
    for seq, number in origin_seqs.items():
        assert records[seq] == payload_of(number)


@pytest.mark.slow
@pytest.mark.parametrize("log_kib", [80_000, 320])
async def test_t59_killed_at_any_moment_everything_acknowledged_is_there(tmp_path: Path, log_kib: int) -> None:
    path = tmp_path / "data"
    dice = random.Random(log_kib)
    acknowledged: dict[int, int] = {}
    lines: list[str] = []
    for life in range(5):
        lines += await run_and_kill(path, life * 1_000_000, log_kib, dice.randrange(1, 700))
        store, identity = open_store(path, entropy=os.urandom, say=lambda _: None)
        try:
            check(store, lines, acknowledged)
            assert identity.peer_id == load_identity(path).peer_id
        finally:
            store.close()
    assert len(acknowledged) > 100


@pytest.mark.slow
async def test_t59_t66_killed_while_a_data_dir_is_made(tmp_path: Path) -> None:
    # Whatever the moment, the next start finds a whole data dir, or makes one.
    for delay in range(12):
        path = tmp_path / str(delay)
        child = await start(path, module="tests.crash.maker", stderr=2)
        await child.stdout.receive_some()
        # The moment is what varies: up to a few milliseconds of a disk's work.
        for _ in range(delay * 2000):
            pass
        child.kill()
        with trio.fail_after(30):
            await child.wait()
        await child.stdout.aclose()
        store, identity = open_store(path, entropy=os.urandom, say=lambda _: None)
        store.close()
        assert load_identity(path).peer_id == identity.peer_id
