"""`p2p wal …` and `p2p id`, beside a running node and without one."""

from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest
import trio

from p2p.cli import wal
from p2p.cli.app import run_command_line
from p2p.cli.wal import verify_store
from p2p.errors import ConfigError
from p2p.replication.fork import make_proof
from p2p.store.keys import open_store
from p2p.store.schema import PAGE_BYTES
from tests.cli.processes import (
    output_without_reader,
    p2p,
    p2p_fails,
    p2p_ok,
    p2p_refuses,
    running,
    start,
)
from tests.logs import Log


@pytest.fixture
async def data_dir(tmp_path: Path) -> Path:
    """A log of three records."""
    path = tmp_path / "a"
    await p2p_ok("wal", "append", "--data-dir", path, stdin=b"one\ntwo\nthree")
    return path


async def test_append_initialises_an_empty_dir_and_says_so(tmp_path: Path) -> None:
    done = await p2p("wal", "append", "--json", "--data-dir", tmp_path / "a", stdin=b"one\n\nthree\n")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"appended": 3, "first_seq": 1, "last_seq": 3, "left_out": 0}
    assert "initialised" in done.stderr.decode()
    more = await p2p("wal", "append", "--data-dir", tmp_path / "a", "--kind", "sale", stdin=b"four")
    assert more.stdout.decode() == "appended 1 record, seq 4-4\n"
    assert b"initialised" not in more.stderr
    lines = (await p2p_ok("wal", "tail", "--json", "--data-dir", tmp_path / "a")).splitlines()
    assert [(r["seq"], r["kind"], r["payload"]) for r in map(json.loads, lines)] == [
        (1, "app", "one"), (2, "app", ""), (3, "app", "three"), (4, "sale", "four"),
    ]  # fmt: skip


async def test_records_for_somebody_are_appended_and_shown(tmp_path: Path) -> None:
    whom = "ab" * 32
    await p2p_ok("wal", "append", "--data-dir", tmp_path / "a", "--target", whom, stdin=b"for you\n")
    await p2p_ok("wal", "append", "--data-dir", tmp_path / "a", stdin=b"for all\n")
    lines = (await p2p_ok("wal", "tail", "--data-dir", tmp_path / "a")).splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["1 app to abababab for you", "2 app for all"]
    objects = map(json.loads, (await p2p_ok("wal", "tail", "--json", "--data-dir", tmp_path / "a")).splitlines())
    assert [record["target"] for record in objects] == [whom, None]
    for wrong in ("B", ""):
        told = await p2p_fails(2, "wal", "append", "--data-dir", tmp_path / "a", "--target", wrong, stdin=b"x\n")
        assert "peer id" in told
    async with running("--id", "A", "--data-dir", tmp_path / "a", "--http", "127.0.0.1:0") as node:
        await node.records(2)
        await p2p_ok("wal", "append", "--data-dir", tmp_path / "a", "--target", whom, stdin=b"through the node\n")
    lines = (await p2p_ok("wal", "tail", "--data-dir", tmp_path / "a")).splitlines()
    assert lines[2].endswith(" 3 app to abababab through the node")


async def test_nothing_to_append(tmp_path: Path) -> None:
    assert await p2p_ok("wal", "append", "--data-dir", tmp_path / "a") == "appended nothing\n"


async def test_append_is_refused_while_a_node_holds_the_store_and_reading_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a"
    async with running("--id", "A", "--data-dir", path, "--append-stdin") as node:
        await node.send_lines("one")
        stats = await node.records(1)
        for command in (["append"], ["forget", "0" * 64]):
            assert str(path) in await p2p_fails(1, "wal", command[0], "--data-dir", path, *command[1:], stdin=b"two\n")
        digest = json.loads(await p2p_ok("wal", "digest", "--json", "--data-dir", path))
        assert digest == {"digest": stats["digest"], "records": 1}
        assert (await p2p_ok("wal", "tail", "--data-dir", path)).endswith(" 1 app one\n")
        assert "ok: 1 record of 1 origin" in await p2p_ok("wal", "verify", "--data-dir", path)


async def test_digest_and_heads_as_text_and_as_objects(data_dir: Path) -> None:
    digest = json.loads(await p2p_ok("wal", "digest", "--json", "--data-dir", data_dir))
    assert digest["records"] == 3
    assert await p2p_ok("wal", "digest", "--data-dir", data_dir) == f"{digest['digest']} 3 records\n"
    head = json.loads(await p2p_ok("wal", "heads", "--json", "--data-dir", data_dir))
    assert (head["seq"], head["frozen"], len(head["hash"])) == (3, False, 64)
    assert head["origin"] == (await p2p_ok("id", "--data-dir", data_dir)).strip()
    assert await p2p_ok("wal", "heads", "--data-dir", data_dir) == f"{head['origin']} 3 {head['hash']}\n"


def damage(data_dir: Path) -> None:
    """Change a byte of the first batch."""
    with closing(sqlite3.connect(data_dir / "log.sqlite")) as connection, connection:
        (wal,) = connection.execute("SELECT wal FROM batches ORDER BY no LIMIT 1").fetchone()
        connection.execute("UPDATE batches SET wal = ?", (wal[:-70] + bytes([wal[-70] ^ 1]) + wal[-69:],))


async def test_T62_verify_names_what_is_damaged(data_dir: Path) -> None:
    damage(data_dir)
    done = await p2p("wal", "verify", "--data-dir", data_dir)
    assert done.returncode == 1
    assert "damaged" in done.stdout.decode()
    assert (await p2p_ok("id", "--data-dir", data_dir)).strip() in done.stdout.decode()
    found = await p2p("wal", "verify", "--json", "--data-dir", data_dir)
    assert found.returncode == 1
    *damages, summary = map(json.loads, found.stdout.splitlines())
    assert damages[0]["seq"] == 1
    assert "fetched again" in damages[0]["remedy"]
    assert b"what to do: start the node" in done.stderr
    assert summary["ok"] is False
    # What reads records stops at the damage and says where.
    tail = await p2p("wal", "tail", "--data-dir", data_dir)
    assert (tail.returncode, tail.stdout) == (1, b"")
    assert b"seq 1" in tail.stderr


async def test_T62_what_follows_a_damaged_log_tells_of_it_once(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    damage(data_dir)
    monkeypatch.setattr(wal, "_watch", lambda look, *, follow: [list(look()) for _ in range(4)])
    assert wal.print_records(data_dir, as_json=False, follow=True) == 1
    assert len(capfd.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("as_json", [False, True])
async def test_T62_a_verdict_stands_though_its_reader_has_gone(
    as_json: bool, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(data_dir)
    with output_without_reader() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert run_command_line(["wal", "verify", "--data-dir", str(data_dir), *(["--json"] if as_json else [])]) == 1


async def test_T62_a_damaged_table_of_hints_is_told_and_mended_and_that_of_the_owner_told(data_dir: Path) -> None:
    def break_table(name: str) -> None:
        path = data_dir / "log.sqlite"
        with closing(sqlite3.connect(path)) as connection:
            sql = "SELECT rootpage FROM sqlite_master WHERE name = ?"
            (root,) = connection.execute(sql, (name,)).fetchone()
            (size,) = connection.execute("PRAGMA page_size").fetchone()
        with path.open("r+b") as file:
            file.seek((root - 1) * size)
            file.write(bytes(size))

    break_table("book")
    done = await p2p("wal", "verify", "--data-dir", data_dir)
    assert (done.returncode, b"hints: table book" in done.stdout) == (1, True)
    assert (b"start the node" in done.stderr, b"move log.sqlite" in done.stderr) == (True, False)
    done = await p2p("wal", "append", "--data-dir", data_dir, stdin=b"more\n")
    assert (done.returncode, b"table book was damaged" in done.stderr) == (0, True)
    assert "ok: " in await p2p_ok("wal", "verify", "--data-dir", data_dir)

    break_table("identity")
    done = await p2p("wal", "verify", "--data-dir", data_dir)
    assert (done.returncode, b"table identity" in done.stdout, b"wal verify" in done.stdout) == (1, True, False)
    assert b"p2p wal mend" in done.stderr


async def test_T62_a_file_whose_structure_is_damaged_is_written_anew(tmp_path: Path) -> None:
    data_dir = tmp_path / "a"
    lines = b"".join(b"%d %s\n" % (number, b"x" * 200) for number in range(3000))
    await p2p_ok("wal", "append", "--data-dir", data_dir, stdin=lines)
    assert b"nothing to mend" in (await p2p("wal", "mend", "--data-dir", data_dir)).stdout
    digest = await p2p_ok("wal", "digest", "--data-dir", data_dir)
    with closing(sqlite3.connect(data_dir / "log.sqlite")) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'chain'").fetchone()[0]
    with (data_dir / "log.sqlite").open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(bytes(4096))
    found = await p2p("wal", "verify", "--data-dir", data_dir)
    assert (found.returncode, found.stderr.count(b"what to do"), b"p2p wal mend" in found.stderr) == (1, 1, True)
    mended = json.loads(await p2p_ok("wal", "mend", "--json", "--data-dir", data_dir))
    assert mended["mended"]
    assert "3000 records of 1 logs" in mended["detail"]
    await p2p_ok("wal", "verify", "--data-dir", data_dir)
    assert await p2p_ok("wal", "digest", "--data-dir", data_dir) == digest


async def test_what_a_fork_cut_off_is_shown_to_who_asks_for_it(data_dir: Path) -> None:
    log = Log(2)
    store, _ = open_store(data_dir, entropy=os.urandom, say=print)
    with closing(store), store.write() as transaction:
        for batch in (log.add(b"one"), log.add(b"two", b"three"), log.add(b"four")):
            transaction.append(batch)
        transaction.freeze(make_proof(log.batches[1], log.branch(1, 2).add(b"another history")))
    short = str(log.origin)[:8]
    assert (await p2p_ok("wal", "tail", "--data-dir", data_dir)).count(short) == 1
    lines = (await p2p_ok("wal", "tail", "--beyond-fork", "--data-dir", data_dir)).splitlines()
    assert lines == [
        f"(beyond the fork) {short} {seq} app {text}" for seq, text in ((2, "two"), (3, "three"), (4, "four"))
    ]
    found = (await p2p_ok("wal", "tail", "--beyond-fork", "--json", "--data-dir", data_dir)).splitlines()
    assert [(record["seq"], record["beyond_fork"]) for record in map(json.loads, found)] == [
        (2, True), (3, True), (4, True),
    ]  # fmt: skip


async def test_T62_verify_compares_the_owner_with_the_key(data_dir: Path) -> None:
    connection = sqlite3.connect(data_dir / "log.sqlite")
    connection.execute("UPDATE identity SET peer_id = zeroblob(32)")
    connection.commit()
    connection.close()
    done = await p2p("wal", "verify", "--data-dir", data_dir)
    assert done.returncode == 1
    assert done.stdout.startswith(b"damaged: owner")
    assert b"if identity.pem was changed" in done.stderr
    assert "the store is damaged: see `p2p wal verify`" in await p2p_fails(1, "wal", "append", "--data-dir", data_dir)


def test_verify_does_not_call_a_store_damaged_for_its_keys_rights(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store, _ = open_store(tmp_path / "a", entropy=os.urandom, say=lambda _: None)
    store.close()
    (tmp_path / "a" / "identity.pem").chmod(0o644)
    with pytest.raises(ConfigError, match=r"^0 records of 0 origins are whole, but the key file .* run `chmod 600"):
        verify_store(tmp_path / "a", as_json=False)
    told = capfd.readouterr()
    assert "damaged" not in told.out
    assert "move log" not in told.err


async def append_where_no_file_grows_beyond(
    bytes_max: int, data: bytes, *options: str | Path
) -> subprocess.CompletedProcess[bytes]:
    process = await start("wal", "append", *options, stdin=subprocess.PIPE)
    # It waits for its input.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (bytes_max, bytes_max))
    with trio.fail_after(60):
        async with process.stdin:
            with suppress(trio.BrokenResourceError):  # it read no more
                await process.stdin.send_all(data)
        said, told = [b"".join([part async for part in stream]) for stream in (process.stdout, process.stderr)]
        return subprocess.CompletedProcess(options, await process.wait(), said, told)


async def test_T61_a_disk_that_takes_no_more_is_one_line(data_dir: Path) -> None:
    done = await append_where_no_file_grows_beyond(150_000, b"x" * 200_000, "--data-dir", data_dir)
    assert done.returncode == 1
    assert done.stdout == b""
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("as_json", [False, True])
async def test_T61_append_that_fails_half_way_says_how_far_it_came(tmp_path: Path, as_json: bool) -> None:
    options = ["--data-dir", tmp_path / "a", *(["--json"] if as_json else [])]
    done = await append_where_no_file_grows_beyond(1_500_000, (b"x" * 999 + b"\n") * 5_000, *options)
    assert done.returncode == 1, done.stderr
    heads = (await p2p_ok("wal", "heads", "--data-dir", tmp_path / "a", "--json")).splitlines()
    seq = json.loads(heads[0])["seq"]
    assert 0 < seq < 5_000
    if as_json:
        assert json.loads(done.stdout) == {"appended": seq, "first_seq": 1, "last_seq": seq, "left_out": None}
    else:
        assert done.stdout.decode() == f"appended {seq} records, seq 1-{seq}, before it failed\n"


async def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.sqlite").write_bytes(os.urandom(4096))
    done = await p2p("wal", "verify", "--data-dir", tmp_path)
    assert done.returncode == 1
    assert b"log.sqlite" in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["tail", "digest", "heads", "verify"])
async def test_reading_makes_nothing(tmp_path: Path, command: str) -> None:
    line = await p2p_fails(1, "wal", command, "--data-dir", tmp_path / "absent")
    assert "absent" in line
    assert not (tmp_path / "absent").exists()


async def test_forget_refuses_what_it_cannot_do(data_dir: Path, tmp_path: Path) -> None:
    own = (await p2p_ok("id", "--data-dir", data_dir)).strip()
    assert "own identity" in await p2p_fails(1, "wal", "forget", "--data-dir", data_dir, own)
    assert "nothing" in await p2p_fails(1, "wal", "forget", "--data-dir", data_dir, "0" * 64)
    assert "peer id" in await p2p_fails(2, "wal", "forget", "--data-dir", data_dir, "ann")
    await p2p_fails(1, "wal", "forget", "--data-dir", tmp_path / "absent", "0" * 64)
    assert not (tmp_path / "absent").exists()


async def test_follow_goes_on_until_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "a"
    async with running("--id", "A", "--data-dir", path, "--append-stdin") as node:
        await node.send_lines("one")
        await node.records(1)
        process = await start("wal", "tail", "--follow", "--data-dir", path)
        async with process.stdout:
            shown = b""
            with trio.fail_after(60):
                while b"one\n" not in shown:
                    shown += await process.stdout.receive_some()
                await node.send_lines("two", "three")
                while b"three\n" not in shown:
                    shown += await process.stdout.receive_some()
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 0
    assert [line.split()[1:] for line in shown.decode().splitlines()] == [
        ["1", "app", "one"], ["2", "app", "two"], ["3", "app", "three"],
    ]  # fmt: skip


async def test_a_reader_that_goes_away_is_no_failure(tmp_path: Path) -> None:
    await p2p_ok("wal", "append", "--data-dir", tmp_path / "a", stdin=b"a line of some length\n" * 20_000)
    process = await start("wal", "tail", "--data-dir", tmp_path / "a")
    async with process.stderr:
        await process.stdout.receive_some(100)
        await process.stdout.aclose()
        with trio.fail_after(60):
            assert await process.wait() == 0
        assert await process.stderr.receive_some(1000) == b""


async def test_T58_what_records_hold_is_shown_escaped(tmp_path: Path) -> None:
    evil = "\x1b[2J\u202egnp.exe\x07\u2028 \x9b".encode() + b"\xff"
    await p2p_ok("wal", "append", "--data-dir", tmp_path / "a", "--kind", "\x1b[31mkind", stdin=evil + b"\n")
    text = await p2p_ok("wal", "tail", "--data-dir", tmp_path / "a")
    assert text.removesuffix("\n").isprintable()
    as_json = await p2p_ok("wal", "tail", "--json", "--data-dir", tmp_path / "a")
    assert as_json.removesuffix("\n").isprintable()
    assert as_json.isascii()
    assert "payload_base64" in json.loads(as_json)


async def test_too_long_a_line_is_left_out_and_makes_exit_1(tmp_path: Path) -> None:
    done = await p2p("wal", "append", "--json", "--data-dir", tmp_path / "a", stdin=b"a\n" + b"x" * 300_000 + b"\nb\n")
    assert done.returncode == 1
    assert json.loads(done.stdout)["appended"] == 2
    assert json.loads(done.stdout)["left_out"] == 1


async def test_id_new_makes_prints_and_renews(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert "p2p id --new" in await p2p_fails(1, "id", "--data-dir", path)
    first = (await p2p_ok("id", "--data-dir", path, "--new")).strip()
    assert len(first) == 64
    assert stat.S_IMODE((path / "identity.pem").stat().st_mode) == 0o600
    assert (await p2p_ok("id", "--data-dir", path)).strip() == first
    await p2p_ok("wal", "append", "--data-dir", path, stdin=b"old\n")
    second = json.loads(await p2p_ok("id", "--data-dir", path, "--new", "--json"))["peer_id"]
    assert second != first
    await p2p_ok("wal", "append", "--data-dir", path, stdin=b"new\n")
    heads = [json.loads(line) for line in (await p2p_ok("wal", "heads", "--json", "--data-dir", path)).splitlines()]
    assert {head["origin"]: head["seq"] for head in heads} == {first: 1, second: 1}


async def test_a_network_key_is_random_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "home.key"
    out = await p2p_ok("id", "--new-network-key", path)
    text = path.read_text()
    assert len(bytes.fromhex(text)) == 32
    assert text.strip() not in out
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "exists" in await p2p_fails(1, "id", "--new-network-key", path)
    assert path.read_text() == text
    assert "stands alone" in p2p_refuses("id", "--new-network-key", path, "--data-dir", tmp_path)
    another = tmp_path / "another.key"
    told = json.loads(await p2p_ok("id", "--json", "--new-network-key", another))
    assert told == {"network_key_file": str(another)}
    async with running("--id", "A", "--memory", "--host", "127.0.0.1", "--network-key-file", path) as first:
        where = await first.endpoint()
        async with running("--id", "B", "--memory", "--connect", where, P2P_NETWORK_KEY_FILE=str(path)) as second:
            await second.until(lambda event: event.get("peers_connected") == 1)


async def test_t42_append_says_what_to_do_when_a_part_of_the_own_log_is_lost(data_dir: Path) -> None:
    connection = sqlite3.connect(data_dir / "log.sqlite")
    with connection:
        connection.execute("UPDATE origins SET claimed_seq = 9")
    connection.close()
    with trio.fail_after(60):
        done = await p2p("wal", "append", "--data-dir", data_dir, stdin=b"four\n")
    assert done.returncode == 1
    told = done.stderr.decode()
    assert "up to seq 9" in told
    assert "p2p --id NAME --connect ADDRESS" in told
    assert "ResourceWarning" not in told
    assert b"up to seq 9" in (await p2p("wal", "verify", "--data-dir", data_dir)).stdout
