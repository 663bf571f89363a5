"""`p2p --id …` as a real process."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import socket
import sys
from pathlib import Path

import pytest
import trio

import p2p as library
from tests.cli.processes import environment, p2p, p2p_fails, p2p_ok, p2p_refuses, running, start, unread
from tests.ports import free_port


async def test_the_first_line_is_started_and_then_come_stats(tmp_path: Path) -> None:
    async with running("--id", "A", "--data-dir", tmp_path / "a") as node:
        started = await node.started()
        assert node.events[0] == started
        assert started["node_id"] == "A"
        assert started["endpoints"][0].startswith("tcp://127.0.0.1:")
        assert not started["endpoints"][0].endswith(":0")
        stats = await node.until(lambda event: event["event"] == "stats")
        assert set(library.NodeStats.__struct_fields__) <= set(stats)
        assert started["peer_id"] == (await p2p_ok("id", "--data-dir", tmp_path / "a")).strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    async with running("--id", "A", "--data-dir", tmp_path / "a", "--append-stdin") as node:
        await node.send_lines("one", "two")
        await node.records(2)
        assert await node.end(number) == 0
        await node.until(lambda event: event["event"] == "stopped")
    assert json.loads(await p2p_ok("wal", "digest", "--json", "--data-dir", tmp_path / "a"))["records"] == 2


async def test_T69_two_signals_end_it_at_once_and_lose_nothing_durable(tmp_path: Path) -> None:
    async with running("--id", "A", "--data-dir", tmp_path / "a", "--append-stdin") as node:
        await node.send_lines("one")
        await node.records(1)
        node.process.send_signal(signal.SIGTERM)
        assert await node.end(signal.SIGTERM) in (0, 128 + signal.SIGTERM)
    assert "ok: 1 record of" in await p2p_ok("wal", "verify", "--data-dir", tmp_path / "a")


async def test_run_ends_by_itself() -> None:
    done = await p2p("--id", "A", "--memory", "--run", "0.2", "--stats-every", "50")
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert "listens on tcp://127.0.0.1:" in lines[0]
    assert lines[1].startswith("[p2p] peers_total=0 peers_connected=0 handshakes_started=0 handshakes_completed=0 ")
    assert lines[-1] == "[p2p] A stopped"


async def test_quiet_says_nothing() -> None:
    done = await p2p("--id", "A", "--memory", "--run", "0.2", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


async def test_quiet_json_says_where_it_listens_and_no_more() -> None:
    done = await p2p("--id", "A", "--memory", "--run", "0.2", "--stats-every", "20", "--quiet", "--json")
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["started", "stopped"]


async def test_a_reader_that_stalls_does_not_stop_the_node() -> None:
    reader, writer = os.pipe()
    room = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 16384)
    process = await start("--id", "A", "--memory", "--stats-every", "1", stdout=writer)
    os.close(writer)
    with trio.fail_after(60):
        while unread(reader) <= room // 2:
            await trio.sleep(0.01)
        await trio.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
    held = b""
    while data := os.read(reader, room):
        held += data
    os.close(reader)
    # It had more to say than the pipe holds, and every line that is there is whole.
    assert len(held) > room // 2
    assert held.endswith(b"\n")


async def test_two_nodes_converge_through_kill_9_and_restart(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    port = str(free_port())
    async with running("--id", "A", "--data-dir", a, "--append-stdin", "--listen", port) as first:
        await first.send_lines(*(f"a{number}" for number in range(100)))
        async with running("--id", "B", "--data-dir", b, "--append-stdin", "--connect", f"127.0.0.1:{port}") as second:
            await second.send_lines("b0", "b1")
            await second.records(102)
            await first.records(102)
            await first.end(signal.SIGKILL)
            await second.send_lines("written alone")
            await second.records(103)
            async with running("--id", "A", "--data-dir", a, "--listen", port, "--append-stdin") as again:
                await again.send_lines("back")
                await again.records(104)
                await second.records(104)
                assert await again.end(signal.SIGINT) == 0
            assert await second.end(signal.SIGTERM) == 0
    one = await p2p_ok("wal", "digest", "--data-dir", a)
    assert one == await p2p_ok("wal", "digest", "--data-dir", b)
    for data_dir in (a, b):
        assert "ok: 104 records of 2 origins" in await p2p_ok("wal", "verify", "--data-dir", data_dir)
    tail = await p2p_ok("wal", "tail", "--json", "--data-dir", b)
    payloads = [json.loads(line)["payload"] for line in tail.splitlines()]
    assert sorted(payloads) == sorted([*(f"a{number}" for number in range(100)), "b0", "b1", "written alone", "back"])
    origin = (await p2p_ok("id", "--data-dir", a)).strip()
    assert "forgot 101 records" in await p2p_ok("wal", "forget", "--data-dir", b, origin)
    assert origin not in await p2p_ok("wal", "heads", "--data-dir", b)


async def test_no_connect_stops_every_dial(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text("connect = ['127.0.0.1:9']\nmemory = true\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        arguments = ["--no-connect", "--connect", f"127.0.0.1:{port}", "--config", str(config)]
        for delay in ([], ["--connect-delay", "1"]):
            done = await p2p("--id", "A", "--json", "--run", "0.5", "--stats-every", "50", *arguments, *delay)
            stats = [json.loads(line) for line in done.stdout.splitlines()]
            assert stats[-2]["event"] == "stats"
            assert stats[-2]["connect_attempts"] == 0
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


async def test_a_delayed_connect_comes_later_and_is_kept() -> None:
    async with running("--id", "A", "--memory") as first:
        port = (await first.endpoint()).rpartition(":")[2]
        arguments = ("--id", "B", "--memory", "--connect", f"127.0.0.1:{port}", "--connect-delay", "1500")
        async with running(*arguments) as second:
            await second.until(lambda event: event["event"] == "stats" and event["connect_attempts"] == 0)
            await second.until(lambda event: event.get("peers_connected") == 1)
            await first.until(lambda event: event.get("peers_connected") == 1)


async def test_a_taken_port_is_one_line_and_exit_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        line = await p2p_fails(1, "--id", "A", "--memory", "--listen", str(port))
    assert str(port) in line


async def test_a_data_dir_in_use_is_one_line_and_exit_1(tmp_path: Path) -> None:
    async with running("--id", "A", "--data-dir", tmp_path / "a") as node:
        await node.started()
        line = await p2p_fails(1, "--id", "A", "--data-dir", tmp_path / "a")
    assert str(tmp_path / "a") in line


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--id", "A", "--listen", "x"], "--listen"),
        (["--id", "A", "--listen", "70000"], "--listen"),
        (["--id", "A", "--nonsense"], "--nonsense"),
        (["--id", "A", "nonsense"], "nonsense"),
        (["--id", "a b"], "node id"),
        (["--listen", "9001"], "--id"),
        (["--id", "A", "--memory", "--host", "0.0.0.0"], "network key"),
        (["--id", "A", "--memory", "--host", "no such host!"], "no such host!"),
        (["--id", "A", "--memory", "--data-dir", "x"], "exclude"),
        (["--id", "A", "wal", "digest", "--data-dir", "x"], "--id"),
        (["wal", "digest"], "--data-dir"),
        (["id"], "--data-dir"),
        (["--id", "A", "--listen", "70000"], "--listen 70000: it takes a port"),
        (["--id", "A", "--run", "0"], "--run 0.0: it takes seconds, a number above 0"),
        (["--id", "A", "--stats-every", "-1"], "--stats-every -1: it takes milliseconds"),
        (["--id", "A", "--data-dir", ""], "--data-dir '': it is empty"),
        (["--id", "A", "--connect", ":9001"], "':9001'"),
        (["--id", "A", "--connect", "foo"], "'foo' is not an endpoint: write HOST:PORT"),
        (["--id", "A", "--connect", "wss://foo"], "write wss://HOST:PORT; behind a proxy PORT is usually 443"),
        (["--id", "A", "--connect", "ws://foo:80/p2p"], "write ws://HOST:PORT, without a path"),
        (["--id", "A", "--connect", "h:99999"], "'h:99999': port 99999"),
        (["--id", "A", "--connect", "mem://h:1"], "mem://h:1: this version dials tcp"),
        (["--id", "A", "--network", "x" * 65], "--network xxx"),
        (["--id", "A", "--memory", "--host", "0.0.0.0"], "--network-key-file, --trust, --open"),
        (["demo", "--records", "x"], "'x' is not a valid whole number"),
    ],
)
async def test_wrong_usage_is_one_line_and_exit_2(arguments: list[str], part: str) -> None:
    assert part in p2p_refuses(*arguments)


async def test_wrong_usage_that_is_found_later_is_one_line_and_exit_2() -> None:
    assert "--keep /dev/null: no directory" in await p2p_fails(2, "demo", "--keep", "/dev/null")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--id", "A", "--memory", "--host", "192.0.2.1", "--open"], "give an address of this machine"),
        (["--id", "A", "--data-dir", "/dev/null"], "it is a file; give a directory"),
        (["--id", "A", "--memory", "--network-key-file", "/no/key"], "p2p id --new-network-key FILE"),
        (["wal", "tail", "--data-dir", "/no/dir"], "there is no /no/dir: give the data dir of a node"),
        (["wal", "tail", "--data-dir", "/dev"], "holds no store (log.sqlite): give the data dir of a node"),
        (["id", "--new-network-key", "/dev/null"], "give another name"),
    ],
)
async def test_what_fails_says_how_it_is_mended(arguments: list[str], part: str) -> None:
    assert part in await p2p_fails(1, *arguments)


async def test_nothing_at_all_shows_the_help_and_exits_2() -> None:
    done = await p2p()
    assert done.returncode == 2
    assert b"--listen" in done.stderr
    assert (await p2p("--help")).returncode == 0


async def test_a_missing_key_or_trust_file_is_a_failure_in_one_line(tmp_path: Path) -> None:
    for flag in ("--network-key-file", "--trust"):
        line = await p2p_fails(1, "--id", "A", "--memory", flag, tmp_path / "absent")
        assert "absent" in line


async def test_the_environment_alone_runs_a_node(tmp_path: Path) -> None:
    done = await p2p(P2P_ID="E", P2P_RUN="0.1", P2P_JSON="1", XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["node_id"] == "E"
    assert (tmp_path / "p2p" / "E" / "identity.pem").is_file()


async def test_a_reader_that_goes_away_ends_it_in_order(tmp_path: Path) -> None:
    process = await start("--id", "A", "--data-dir", tmp_path / "a", "--stats-every", "20")
    async with process.stdout, process.stderr:
        assert await process.stdout.receive_some(1)
        await process.stdout.aclose()
        with trio.fail_after(30):
            assert await process.wait() == 0
        assert b"Traceback" not in await process.stderr.receive_some(65536)


async def test_a_line_too_long_for_a_record_is_left_out(tmp_path: Path) -> None:
    async with running("--id", "A", "--data-dir", tmp_path / "a", "--append-stdin") as node:
        await node.send_lines("before", "x" * 300_000, "y" * 262_100, "after")
        await node.records(2)
        assert await node.end(signal.SIGTERM) == 0
    assert [line.split()[-1] for line in (await p2p_ok("wal", "tail", "--data-dir", tmp_path / "a")).splitlines()] == [
        "before",
        "after",
    ]


async def test_nothing_in_the_place_of_something_is_refused_in_words_of_the_command_line(tmp_path: Path) -> None:
    assert "give a path" in p2p_refuses("wal", "tail", "--data-dir", "")
    assert "it is empty; leave it out" in p2p_refuses("--id", "A", "--data-dir", "")
    name = p2p_refuses("--id", "")
    assert "give the node a name" in name
    assert "leave it out" not in name
    assert "p2p id --new" in await p2p_fails(1, "id", "--data-dir", tmp_path / "none")
    assert "--tls-key without --tls-cert" in p2p_refuses("--id", "A", "--tls-key", "k")
    assert "give --listen-ws" in p2p_refuses("--id", "A", "--tls-cert", "c")


async def test_without_the_extra_it_is_one_line_and_exit_1() -> None:
    code = "import sys; sys.modules['click'] = None; import p2p.cli; p2p.cli.main()"
    done = await trio.run_process(
        [sys.executable, "-c", code], capture_stdout=True, capture_stderr=True, check=False, env=environment()
    )
    assert done.returncode == 1
    needs = "p2p: the command line needs click: pip install 'trio-p2p[cli]', or '.[cli]' in a clone"
    assert done.stderr.decode().splitlines() == [needs]


async def test_importing_the_command_line_imports_neither_click_nor_rich() -> None:
    code = "import sys, p2p.cli; sys.exit(any(name in sys.modules for name in ('click', 'rich')))"
    done = await trio.run_process([sys.executable, "-c", code], check=False, env=environment())
    assert done.returncode == 0


async def test_the_table_on_a_terminal(tmp_path: Path) -> None:
    async with running("--id", "other", "--memory") as other:
        master, slave = pty.openpty()
        terminal = {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
        node = ("--id", "A", "--memory", "--tui", "on", "--connect", await other.endpoint())
        process = await start(*node, stdout=slave, stderr=slave, **terminal)
        os.close(slave)
        shown = b""
        with trio.fail_after(60):
            while b"other" not in shown or b"connected" not in shown:
                await trio.lowlevel.wait_readable(master)
                shown += os.read(master, 65536)
        process.send_signal(signal.SIGINT)
        with trio.fail_after(30):
            while process.poll() is None:
                with trio.move_on_after(0.1):
                    await trio.lowlevel.wait_readable(master)
                    try:
                        shown += os.read(master, 65536)
                    except OSError:
                        break
            assert await process.wait() == 0
        os.close(master)
    assert "─".encode() in shown
    assert b"Traceback" not in shown


async def test_a_connect_that_fails_is_told_with_the_reason_even_when_quiet() -> None:
    port = free_port()
    options = ["--memory", "--quiet", "--connect", f"127.0.0.1:{port}"]
    done = await p2p("--id", "A", *options, until=rb"cannot connect.*\n")
    lines = done.stderr.decode().splitlines()
    assert [line for line in lines if "cannot connect" in line] == lines[:1]
    assert lines[0].startswith(f"[p2p] warn: A: cannot connect to tcp://127.0.0.1:{port}: refused: ")


async def test_debug_tells_of_dials_and_links_and_trace_of_messages_too() -> None:
    async with running("--id", "A", "--memory") as a:
        arguments = ["--id", "B", "--memory", "--connect", await a.endpoint()]
        said = {}
        for level, last in (("info", rb"connected to A"), ("debug", rb"live: <"), ("trace", rb"WalHeads comes")):
            done = await p2p(*arguments, "--log-level", level, until=last)
            assert done.returncode == 0
            said[level] = done.stderr.decode()
    assert "debug:" not in said["info"]
    for told in (
        "dialling tcp://",
        "handshake begins: <link to tcp://",
        "live: <link to tcp://",
        "over: <link to tcp://",
    ):
        assert told in said["debug"]
    assert "trace:" not in said["debug"]
    assert "WalHeads comes" in said["trace"]
    assert "bytes go out" in said["trace"]


async def test_stats_count_the_logs_that_are_left_alone() -> None:
    async with running("--id", "B", "--memory") as b:
        async with running("--id", "A", "--memory", "--connect", await b.endpoint()) as a:
            async with running("--id", "C", "--memory", "--connect", await b.endpoint(), "--append-stdin") as c:
                await c.send_lines("one")
                await b.records(1)
                await a.until(lambda event: event.get("logs_left_alone") == 1)


async def test_a_delayed_connect_that_fails_is_told_once() -> None:
    port = free_port()
    options = ["--connect", f"127.0.0.1:{port}", "--connect-delay", "1", "--log-level", "debug"]
    done = await p2p("--id", "A", "--memory", *options, until=rb"debug: .*cannot connect to.*\n")
    lines = [line for line in done.stderr.decode().splitlines() if "cannot connect to" in line]
    assert lines[0].startswith(f"[p2p] warn: A: cannot connect to tcp://127.0.0.1:{port}: refused: ")
    assert len(lines) > 1
    assert all(line.startswith("[p2p] debug: ") for line in lines[1:])


async def test_the_websocket_door_is_one_of_the_endpoints_and_can_be_dialled() -> None:
    async with running("--id", "A", "--memory", "--listen-ws", "0") as door:
        started = await door.started()
        [place] = [endpoint for endpoint in started["endpoints"] if endpoint.startswith("ws://127.0.0.1:")]
        async with running("--id", "B", "--memory", "--connect", place) as caller:
            await caller.until(lambda event: event.get("peers_connected") == 1)
