"""`p2p doctor`: a verdict for each thing that may stand in a node's way, on this very machine."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from p2p.cli.app import run_command_line
from p2p.registry.form import base_of
from p2p.store.keys import STORE_FILE, open_store
from tests.cli.processes import output_without_reader, p2p, p2p_ok, p2p_refuses, running
from tests.logs import Log, app, identity
from tests.ports import free_port
from tests.registries import registry


async def doctor(*arguments: str | Path, code: int = 0, **more: str) -> dict[str, list[tuple[str, str]]]:
    """Its verdicts by check, and that the exit code and the summary say the same."""
    done = await p2p("doctor", "--json", *arguments, **more)
    *checks, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == code, (done.stderr, checks)
    assert summary["fit"] == (code == 0)
    found: dict[str, list[tuple[str, str]]] = {}
    for check in checks:
        assert check["event"] == "check"
        found.setdefault(check["check"], []).append((check["verdict"], check["detail"]))
    for level in ("ok", "note", "bad"):
        assert summary[level] == sum(verdict == level for verdicts in found.values() for verdict, _ in verdicts)
    return found


async def test_every_check_has_a_line_and_text_says_what_json_says() -> None:
    found = await doctor()
    assert set(found) == {"python", "extras", "clock", "port", "interfaces", "discovery"}
    assert not any(level == "bad" for verdicts in found.values() for level, _ in verdicts)
    assert any("127.0.0.1" in what for _, what in found["interfaces"])
    lines = (await p2p_ok("doctor")).splitlines()
    assert {line.split()[1] for line in lines} == set(found)
    assert {line.split()[0] for line in lines} <= {"ok", "note"}


async def test_a_port_in_use_is_bad_and_the_exit_code_is_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found = await doctor("--listen", port, code=1)
    ((level, what),) = found["port"]
    assert level == "bad"
    assert port in what


def test_what_is_bad_makes_the_exit_code_1_though_nobody_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, output_without_reader() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert run_command_line(["doctor", "--listen", str(taken.getsockname()[1])]) == 1


async def test_a_data_dir_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    found = await doctor("--id", "A", XDG_STATE_HOME=str(tmp_path))
    assert found["store"][-1][0] == "note"
    assert str(tmp_path / "p2p" / "A") in found["store"][-1][1]
    assert list(tmp_path.iterdir()) == []


async def test_the_store_of_a_running_node_is_looked_at_beside_it(tmp_path: Path) -> None:
    async with running("--id", "A", "--data-dir", tmp_path, "--append-stdin") as node:
        await node.send_lines("one", "two")
        await node.records(2)
        found = await doctor("--data-dir", tmp_path)
    levels = [level for level, _ in found["store"]]
    assert levels == ["ok", "ok", "note"]
    assert "2 records of 1 origin;" in found["store"][1][1]
    assert "a node runs on it" in found["store"][2][1]


async def test_a_key_that_others_may_read_is_bad(tmp_path: Path) -> None:
    await p2p_ok("wal", "append", "--data-dir", tmp_path, stdin=b"one\n")
    (tmp_path / "identity.pem").chmod(0o644)
    found = await doctor("--data-dir", tmp_path, code=1)
    assert any(level == "bad" and "chmod 600" in what for level, what in found["store"])


async def test_a_log_from_the_future_says_that_the_clock_went_back(tmp_path: Path) -> None:
    store, owner = open_store(tmp_path, entropy=os.urandom, say=lambda _: None)
    log = Log()
    log.identity, log.origin = owner, owner.peer_id
    with store.write() as transaction:
        transaction.append(log.seal(app(b"x"), base_hlc=int((time.time() + 3600) * 1000) << 16))
    store.close()
    found = await doctor("--data-dir", tmp_path, code=1)
    assert found["clock"][1][0] == "bad"
    assert "clock set back" in found["clock"][1][1]


async def test_a_part_of_the_own_log_that_is_missing_is_bad(tmp_path: Path) -> None:
    store, _ = open_store(tmp_path, entropy=os.urandom, say=lambda _: None)
    with closing(store), store.write() as transaction:
        transaction.note_claim(6)
    found = await doctor("--data-dir", tmp_path, code=1)
    assert any(level == "bad" and "up to seq 6" in what and "--connect" in what for level, what in found["store"])


async def test_a_damaged_store_is_no_fault_of_the_clock(tmp_path: Path) -> None:
    await p2p_ok("wal", "append", "--data-dir", tmp_path, stdin=b"one\n")
    (tmp_path / STORE_FILE).write_bytes(bytes(8192))
    found = await doctor("--data-dir", tmp_path, code=1)
    assert [level for level, _ in found["clock"]] == ["ok"]
    assert "bad" in [level for level, _ in found["store"]]


async def test_secrets_are_read_as_a_node_reads_them(tmp_path: Path) -> None:
    key, trust = tmp_path / "net.key", tmp_path / "trust"
    await p2p_ok("id", "--new-network-key", key)
    trust.write_text(f"A {identity(1).peer_id}\n")
    found = await doctor("--network-key-file", key, "--trust", trust)
    assert [level for level, _ in found["secrets"]] == ["ok", "ok"]
    trust.write_text("A nonsense\n")
    found = await doctor("--trust", trust, code=1)
    assert "line 1" in found["secrets"][0][1]


@pytest.mark.parametrize(
    ("answer", "level", "part"),
    [
        (b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"peers":[]}', "ok", "answered within"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "bad", ""),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "bad", "is it the URL of a registry?"),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "note", "token"),
    ],
)
async def test_a_registry_is_asked(answer: bytes, level: str, part: str) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            request = b""
            while b"\r\n\r\n" not in request:
                request += await stream.receive_some()
            assert request.startswith(b"GET /peers?limit=1 ")
            await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        listeners: list[Any] = await nursery.start(trio.serve_tcp, serve, 0)
        port = listeners[0].socket.getsockname()[1]
        found = await doctor("--registry", base_of(f"http://127.0.0.1:{port}/peers"), code=int(level == "bad"))
        nursery.cancel_scope.cancel()
    ((said, what),) = found["registry"]
    assert said == level
    assert part in what


@pytest.mark.parametrize(("in_file", "level", "part"), [("right", "ok", "answered"), ("wrong", "bad", "another token")])
async def test_a_registry_is_shown_the_token_in_the_file(tmp_path: Path, in_file: str, level: str, part: str) -> None:
    file = tmp_path / "token"
    file.write_text(in_file * 8)
    file.chmod(0o600)
    async with registry(token="right" * 8) as url:
        found = await doctor("--registry", url, "--registry-token-file", file, code=int(level == "bad"))
    ((said, what),) = found["registry"]
    assert said == level
    assert part in what


async def test_a_registry_that_is_not_there_is_bad() -> None:
    found = await doctor("--registry", f"http://127.0.0.1:{free_port()}", code=1)
    assert found["registry"][0][0] == "bad"
    assert "refused" in found["registry"][0][1]


async def test_a_discovery_port_that_somebody_keeps_for_himself_is_bad() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as alone:
        alone.bind(("127.255.255.255" if sys.platform == "linux" else "", 0))
        found = await doctor("--disc-port", str(alone.getsockname()[1]), code=1)
    assert found["discovery"][0][0] == "bad"


async def test_wrong_options_are_usage() -> None:
    assert "--listen" in p2p_refuses("doctor", "--listen", "70000")
    assert "--id" in p2p_refuses("doctor", "--id", "..")
    assert "--id '../x': a node id is" in p2p_refuses("doctor", "--id", "../x")
    assert "--registry URL" in p2p_refuses("doctor", "--registry-token-file", "x")
