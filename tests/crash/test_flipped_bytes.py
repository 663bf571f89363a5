"""One bit of a node's store is another one when it starts again: that is harmless, or it is found and a peer mends it.

What SQLite itself needs may be hit, and then the node does not start, or cannot read or write, and says so, and what to
do: it is started again, which writes the file anew with all that can be read; or the file is moved away, the key stays,
and everything that a peer holds comes back.

    PROOF_FLIPS=60 python -m pytest tests/crash/test_flipped_bytes.py        3 of them by default; PROOF_SEED
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import trio

import p2p
from p2p.errors import StoreError
from p2p.store.keys import open_reader
from p2p.testing.dice import Dice

FLIPS = int(os.environ.get("PROOF_FLIPS", "3"))
SEED = int(os.environ.get("PROOF_SEED", "1"))
WAIT_S = 60.0

Logs = Mapping[p2p.PeerId, list[bytes]]
"""All payloads of each origin, in order."""


@asynccontextmanager
async def node_at(
    folder: Path, *peers: p2p.PeerEndpoint, on_log: Callable[[str], None] | None = None
) -> AsyncIterator[p2p.Node]:
    """A node on loopback with its store in a folder."""
    async with p2p.open_node(
        node_id=folder.name, data_dir=folder, network_key=bytes(32), listen_host="127.0.0.1", peers=peers, on_log=on_log
    ) as node:
        yield node


async def until_whole(node: p2p.Node, logs: Logs) -> None:
    """Wait until a node's heads are at the ends of these logs."""
    ends = {origin: len(payloads) for origin, payloads in logs.items()}
    async with node.events() as events:
        while {origin: head.seq for origin, head in node.wal.heads().items()} != ends:
            await events.__anext__()


async def read_all(node: p2p.Node, expected: Logs) -> None:
    """Read every log from its beginning: not one byte may be another one, and nothing may be missing for ever.

    Raises:
        StoreError: the store cannot be read.
    """
    read: dict[p2p.PeerId, list[bytes]] = {origin: [] for origin in expected}
    async with node.wal.follow() as records:
        while read != expected:
            record = await records.__anext__()
            read[record.origin].append(record.payload)
            assert record.payload == expected[record.origin][record.seq - 1], "something else is served"


def changed_bytes(folder: Path, whole: Path) -> str:
    """Where a store is not what it was copied from: with that store and these places a failure can be replayed."""
    changed: list[str] = []
    for file in sorted(whole.glob("log.sqlite*")):
        copy = folder / file.name
        before, now = file.read_bytes(), copy.read_bytes() if copy.exists() else b""
        if len(before) != len(now):
            changed.append(f"{file}: {len(now)} bytes, and it had {len(before)}")
            continue
        for start in range(0, len(before), 512):
            stop = min(start + 512, len(before))
            if before[start:stop] == now[start:stop]:
                continue
            for at in range(start, stop):
                if before[at] != now[at]:
                    around = before[max(at - 16, 0) : at + 16].hex(" ")
                    changed.append(f"{file}: byte {at} is {now[at]:#04x} and was {before[at]:#04x}, in {around}")
    return "\n".join(changed[:8])


def state_of(folder: Path) -> str:
    """What a store that was left holds, and what is wrong with it."""
    try:
        with closing(open_reader(folder)) as store:
            states = [f"{origin.short}: {state}" for origin, state in store.states().items()]
            return "\n".join([*states, *map(str, store.verify())])
    except StoreError as error:
        return str(error)


async def become_whole(folder: Path, source: p2p.Node, expected: Logs) -> bool:
    """Start a node and let it read everything, beside one that holds it. False if it says that its store is broken, or
    that it wants to be started again."""
    is_whole = False
    wants_restart = trio.Event()
    changed = changed_bytes(folder, folder.with_name("whole"))
    said: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        if "restart the node" in line:
            wants_restart.set()

    try:
        with trio.fail_after(WAIT_S):
            async with (
                node_at(folder, source.endpoints[0], on_log=hear) as node,
                node.events() as events,
                trio.open_nursery() as nursery,
            ):

                async def read() -> None:
                    nonlocal is_whole
                    with suppress(StoreError):
                        await read_all(node, expected)
                        await until_whole(node, expected)
                        assert node.wal.digest() == source.wal.digest()
                        is_whole = True
                    nursery.cancel_scope.cancel()

                async def give_way() -> None:
                    await wants_restart.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(read)
                nursery.start_soon(give_way)
                async for event in events:
                    if isinstance(event, p2p.events.StoreReadOnly):
                        nursery.cancel_scope.cancel()
    except StoreError:
        return False
    except Exception as error:
        for note in (changed, *said, state_of(folder)):
            error.add_note(note)
        raise
    return is_whole


async def test_t62_a_flipped_bit_of_a_store_is_mended_by_a_peer_or_harmless(tmp_path: Path) -> None:
    dice = Dice(SEED)
    whole, copy = tmp_path / "whole", tmp_path / "copy"
    became: Counter[str] = Counter()
    async with node_at(tmp_path / "source") as source:
        expected: dict[p2p.PeerId, list[bytes]] = {}
        async with node_at(whole, source.endpoints[0]) as node:
            for each in (source, node):
                # Every third call is one whose batch lies in a segment.
                expected[each.peer_id] = [
                    f"{each.config.node_id} {number} ".encode() * (20 if number // 4 % 3 else 2500)
                    for number in range(40)
                ]
                for start in range(0, 40, 4):
                    await each.wal.append_many(expected[each.peer_id][start : start + 4])
            with trio.fail_after(WAIT_S):
                await until_whole(node, expected)
                await until_whole(source, expected)
        held = source.wal.digest()
        # Most of the index are zeros that nobody reads.
        used = {file: [at for at, byte in enumerate(file.read_bytes()) if byte] for file in whole.glob("log.sqlite*")}
        assert len(used) == 3
        for _ in range(FLIPS):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(whole, copy)
            file = dice.one_of(sorted(used))
            flipped = bytearray(file.read_bytes())
            flipped[dice.one_of(used[file])] ^= 1 << dice.integer(0, 7)
            (copy / file.name).write_bytes(flipped)
            if await become_whole(copy, source, expected):
                became["whole by itself"] += 1
            elif await become_whole(copy, source, expected):
                became["whole when started again"] += 1
            else:
                for file in copy.glob("log.sqlite*"):
                    file.unlink()
                assert await become_whole(copy, source, expected)
                became["whole without its file"] += 1
            assert source.wal.digest() == held, "the damage reached another node"
    assert became.total() == FLIPS
    print(dict(became))  # noqa: T201  # figures for docs/reliability.md
