"""`p2p demo`, whole and interrupted."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import trio

from tests.cli.processes import environment, p2p

MODULE = "tests.cli.patient_demo"
PATIENT = [sys.executable, "-m", MODULE]


def processes_naming(path: Path) -> list[str]:
    """Command lines of living processes that name a path."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if str(path).encode() in command:
            found.append(command.decode(errors="replace"))
    return found


@pytest.mark.slow
async def test_it_converges_and_cleans_up(tmp_path: Path) -> None:
    done = await p2p("demo", "--json", "--records", "50", TMPDIR=str(tmp_path), module=MODULE)
    assert done.returncode == 0, done.stderr.decode()
    events = [json.loads(line) for line in done.stdout.splitlines()]
    summary = events[-1]
    assert summary["event"] == "summary"
    assert summary["equal"] is True
    assert summary["records"] > 5 * 100 + 50
    assert summary["bytes"] > 0
    assert summary["handshakes"] >= 5
    statuses = [event["nodes"] for event in events if event["event"] == "status"]
    assert any(len({node["digest"] for node in nodes}) > 1 for nodes in statuses), "it never was apart"
    assert {node["digest"] for node in statuses[-1]} == {summary["digest"]}
    assert {node["lag"] for node in statuses[-1]} == {0}
    parts = next(at for at, event in enumerate(events) if "links are cut" in event.get("text", ""))
    before = [event["nodes"] for event in events[:parts] if event["event"] == "status"][-1]
    assert all(node["peers_connected"] for node in before)
    assert list(tmp_path.iterdir()) == []
    assert processes_naming(tmp_path) == []


@pytest.mark.slow
async def test_with_http_it_stays_to_be_looked_at(tmp_path: Path) -> None:
    process = await trio.lowlevel.open_process(
        [*PATIENT, "demo", "--json", "--records", "20", "--http"],
        stdout=subprocess.PIPE,
        env=environment(TMPDIR=str(tmp_path)),
    )
    assert process.stdout is not None
    text = b""
    async with process.stdout, httpx.AsyncClient() as client:
        with trio.fail_after(150):
            while b"press Ctrl-C" not in text:
                part = await process.stdout.receive_some()
                assert part, text
                text += part
            found = re.findall(r"dashboard of (\w+) (http://[\d.:]+) \(token ([\w-]+)\)", text.decode())
            assert [name for name, _, _ in found] == ["ann", "bob", "cat", "dan", "eve"]
            for name, url, token in found:
                answer = await client.get(f"{url}/p2p/status", headers={"x-auth-token": token})
                assert answer.json()["node_id"] == name
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
    assert processes_naming(tmp_path) == []


async def test_interrupted_it_leaves_nothing_behind(tmp_path: Path) -> None:
    process = await trio.lowlevel.open_process(
        [*PATIENT, "demo", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(TMPDIR=str(tmp_path)),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    async with process.stdout, process.stderr:
        shown = b""
        with trio.fail_after(150):
            while b'"status"' not in shown:
                shown += await process.stdout.receive_some()
            assert processes_naming(tmp_path), "no node runs yet"
            process.send_signal(signal.SIGINT)
            while await process.stdout.receive_some():
                pass
            assert await process.wait() == 130
        assert b"Traceback" not in await process.stderr.receive_some()
    assert processes_naming(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


async def test_on_a_terminal_it_draws_a_table(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    process = await trio.lowlevel.open_process(
        [*PATIENT, "demo", "--records", "5"],
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
        env=environment(TMPDIR=str(tmp_path), TERM="xterm", COLUMNS="120", LINES="40"),
    )
    os.close(slave)
    shown = b""
    with trio.fail_after(150):
        while b"of eve" not in shown:
            await trio.lowlevel.wait_readable(master)
            shown += os.read(master, 65536)
        process.send_signal(signal.SIGTERM)
        while process.poll() is None:
            with trio.move_on_after(0.1):
                await trio.lowlevel.wait_readable(master)
                try:
                    os.read(master, 65536)
                except OSError:
                    break
        assert await process.wait() == 143
    os.close(master)
    assert processes_naming(tmp_path) == []
