"""kill -9, hundreds of times: of a process that appends to a store, and of whole nodes that replicate.

    python -m pytest tests/proof/kills.py       PROOF_STORE_KILLS=500, PROOF_NODE_KILLS=30, PROOF_SEED=1

The victims are forks of this process, which has everything imported, so a life costs its own work and nothing else. The
moment of death is drawn; what a victim said before it is what was acknowledged.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import trio

import p2p
from p2p.replication.batch import parse_batch
from p2p.store.keys import open_store
from tests.crash import appender
from tests.crash.test_kill import check
from tests.proof.forks import Child

STORE_KILLS = int(os.environ.get("PROOF_STORE_KILLS", "500"))
NODE_KILLS = int(os.environ.get("PROOF_NODE_KILLS", "30"))
SEED = int(os.environ.get("PROOF_SEED", "1"))
LIVES_PER_STORE = 10
RESTART_S_MAX = 10.0
"""A restart takes a few hundredths of a second. This bound is for machines that do ten other things."""
KEY = bytes(range(32))


def test_t59_a_store_survives_every_kill(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    acknowledged = 0
    path, log_kib = tmp_path / "data", 0
    lines: list[str] = []
    seqs: dict[int, int] = {}
    for life in range(STORE_KILLS):
        if life % LIVES_PER_STORE == 0:
            # A fresh store, and now and then one that copies its log into the file all the time.
            shutil.rmtree(path, ignore_errors=True)
            lines, seqs = [], {}
            log_kib = dice.choice((320, 80_000))
        child = Child(lambda path=path, life=life, kib=log_kib: trio.run(appender.main, path, life * 1_000_000, kib))
        # Some die while they open the store, most of them in the midst of commits.
        lines += child.lines_until(dice.choice((0, 1, dice.randrange(1, 60))), dice.uniform(0, 0.02))
        lines += child.kill()
        store, _ = open_store(path, entropy=os.urandom, say=lambda _: None)
        try:
            check(store, lines, seqs)
        finally:
            store.close()
        acknowledged = acknowledged + len(seqs) if life % LIVES_PER_STORE == LIVES_PER_STORE - 1 else acknowledged
    assert acknowledged > STORE_KILLS, "they died too early to prove anything"


def node_life(data_dir: Path, name: str, peers: list[str], begin: int) -> Callable[[], None]:
    """A node that appends for ever and says what is durable, and what others hold."""

    async def live() -> None:
        begun = time.perf_counter()
        async with p2p.open_node(
            node_id=name,
            data_dir=data_dir,
            listen_host="127.0.0.1",
            listen_port=0,
            network_key=KEY,
            peers=tuple(p2p.PeerEndpoint.parse(peer) for peer in peers),
        ) as node:
            appender.say(f"ready {time.perf_counter() - begun:.4f} {node.endpoints[0]} {node.peer_id}")
            number = begin
            async with trio.open_nursery() as nursery:
                while begin >= 0:
                    payload = appender.payload_of(number)
                    seq = await node.wal.append(payload)
                    appender.say(f"own {seq} {number}")
                    if number % 7 == 0 and peers:

                        async def wait(seq: int = seq) -> None:
                            await node.wal.wait_replicated(seq)
                            appender.say(f"replicated {seq}")

                        nursery.start_soon(wait)
                    number += 1
                await node.wait()

    return lambda: trio.run(live)


def test_t59_nodes_survive_every_kill_and_lose_nothing(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    steady = Child(node_life(tmp_path / "steady", "steady", [], -1))
    _, _, endpoint, _ = steady.lines_until(1, 0)[0].split()
    restarts: list[float] = []
    own: dict[int, int] = {}
    replicated, origin = 0, ""
    for life in range(NODE_KILLS + 1):
        child = Child(node_life(tmp_path / "victim", "victim", [endpoint], life * 100_000))
        said = child.lines_until(1, 0) + child.lines_until(dice.randrange(0, 200), dice.uniform(0, 0.05))
        if life == NODE_KILLS:
            # The last life goes on until the other node holds something of it: then it holds all that was before.
            while not any(line.startswith("replicated") for line in said):
                said += child.lines_until(1, 0)
        said += child.kill()
        for line in said:
            kind, *words = line.split()
            if kind == "ready":
                restarts.append(float(words[0]))
                assert origin in ("", words[2]), "another identity"
                origin = words[2]
            elif kind == "own":
                seq, number = map(int, words)
                assert own.setdefault(seq, number) == number, "a seq was used twice"
            else:
                replicated = max(replicated, int(words[0]))
    steady.kill()
    assert replicated > 0
    for name, at_least in (("victim", max(own)), ("steady", replicated)):
        store, _ = open_store(tmp_path / name, entropy=os.urandom, say=lambda _: None)
        peer_id = p2p.PeerId.parse(origin)
        assert list(store.verify()) == []
        head = store.states()[peer_id].seq
        assert head >= at_least, f"{name} holds {head} of {at_least}"
        records = {
            record.seq: record.payload
            for batch in store.load(peer_id, 1, head, 2**62).batches
            for record in parse_batch(batch.wal_bytes).records()
        }
        assert sorted(records) == list(range(1, head + 1))
        assert all(records[seq] == appender.payload_of(number) for seq, number in own.items() if seq <= head)
        store.close()
    print(  # noqa: T201  # figures for docs/reliability.md
        f"{len(restarts)} starts: {statistics.median(restarts):.3f} s at the median, {max(restarts):.3f} s at the most;"
        f" {len(own)} records acknowledged"
    )
    assert max(restarts) < RESTART_S_MAX
