"""`p2p peers`: whom a data dir knows."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from tests.cli.processes import p2p_fails, p2p_ok, p2p_refuses, running


async def known(data_dir: Path) -> list[dict[str, Any]]:
    said = await p2p_ok("peers", "--json", "--data-dir", data_dir)
    return [json.loads(line) for line in said.splitlines()]


async def meet(a_dir: Path, b_dir: Path) -> None:
    async with running("--id", "A", "--data-dir", a_dir, "--append-stdin") as a:
        await a.send_lines("one", "two")
        await a.records(2)
        async with running("--id", "B", "--data-dir", b_dir, "--connect", await a.endpoint()) as b:
            await b.records(2)
            (peer,) = await known(b_dir)
            assert peer["node_id"] == "A", "beside a running node"
            assert "another process has" in await p2p_fails(1, "peers", "forget", "--data-dir", b_dir, "A")
            assert await b.end(signal.SIGTERM) == 0
        assert await a.end(signal.SIGTERM) == 0


async def test_whom_a_node_met_and_where_is_listed_and_may_be_forgotten(tmp_path: Path) -> None:
    a_dir, b_dir = tmp_path / "a", tmp_path / "b"
    await meet(a_dir, b_dir)
    a_id = (await p2p_ok("id", "--data-dir", a_dir)).strip()
    (peer,) = await known(b_dir)
    (place,) = peer.pop("places")
    assert peer == {"peer_id": a_id, "node_id": "A", "records": 2, "frozen": False, "banned_until": None}
    assert place["endpoint"].startswith("tcp://127.0.0.1:")
    assert place["source"] == "configured"
    assert place["failures"] == 0
    said = (await p2p_ok("peers", "--data-dir", b_dir)).strip()
    assert said == f"A {a_id} 2 records, at {place['endpoint']} (configured, {place['last_success']})"
    assert "the label A is free, 1 place out" in await p2p_ok("peers", "forget", "--data-dir", b_dir, "A")
    (peer,) = await known(b_dir)
    assert (peer["node_id"], peer["places"]) == (None, [])
    assert "'A'" in await p2p_fails(1, "peers", "forget", "--data-dir", b_dir, "A")
    assert "ok: 2 records" in await p2p_ok("wal", "verify", "--data-dir", b_dir)


async def test_a_peer_id_names_whom_to_forget_too(tmp_path: Path) -> None:
    a_dir, b_dir = tmp_path / "a", tmp_path / "b"
    await meet(a_dir, b_dir)
    a_id = (await p2p_ok("id", "--data-dir", a_dir)).strip()
    said = json.loads(await p2p_ok("peers", "forget", "--json", "--data-dir", b_dir, a_id))
    assert (said["forgot"], said["peer_id"], len(said["places"])) == ("A", a_id, 1)


async def test_a_ban_holds_from_the_next_start_on_until_it_is_taken_back(tmp_path: Path) -> None:
    a_dir, b_dir = tmp_path / "a", tmp_path / "b"
    await meet(a_dir, b_dir)
    assert "banned until" in await p2p_ok("peers", "ban", "--hours", "2", "--data-dir", b_dir, "A")
    (peer,) = await known(b_dir)
    assert peer["banned_until"] is not None
    assert "banned until" in await p2p_ok("peers", "--data-dir", b_dir)
    async with running("--id", "B", "--data-dir", b_dir) as b:
        async with running("--id", "A", "--data-dir", a_dir, "--connect", await b.endpoint()) as a:
            await a.until(lambda event: event.get("connect_failures", 0) >= 1)
            assert await a.end(signal.SIGTERM) == 0
        assert await b.end(signal.SIGTERM) == 0
    assert "no longer" in await p2p_ok("peers", "unban", "--data-dir", b_dir, "A")
    assert (await known(b_dir))[0]["banned_until"] is None
    assert "is not banned" in await p2p_fails(1, "peers", "unban", "--data-dir", b_dir, "A")
    stranger = "ab" * 32
    said = json.loads(await p2p_ok("peers", "ban", "--json", "--data-dir", b_dir, stranger))
    assert said["banned"] == stranger
    assert "'nobody'" in await p2p_fails(1, "peers", "ban", "--data-dir", b_dir, "nobody")
    own = json.loads(await p2p_ok("id", "--data-dir", b_dir, "--json"))["peer_id"]
    assert "itself" in await p2p_fails(1, "peers", "ban", "--data-dir", b_dir, own)


async def test_nobody_is_known_at_first_and_nothing_is_made(tmp_path: Path) -> None:
    await p2p_ok("wal", "append", "--data-dir", tmp_path / "a", stdin=b"one\n")
    assert await known(tmp_path / "a") == []
    assert "--data-dir" in p2p_refuses("peers")
    await p2p_fails(1, "peers", "forget", "--data-dir", tmp_path / "none", "A")
    assert not (tmp_path / "none").exists()


async def test_a_store_whose_key_is_gone_says_what_to_put_back(tmp_path: Path) -> None:
    await p2p_ok("wal", "append", "--data-dir", tmp_path, stdin=b"one\n")
    (tmp_path / "identity.pem").unlink()
    for command in ("id", "peers"):
        assert "put identity.pem back" in await p2p_fails(1, command, "--data-dir", tmp_path)
