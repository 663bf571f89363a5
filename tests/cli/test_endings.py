"""How commands end when what surrounds them goes away: readers, terminals, standard streams, patience."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import closing, suppress
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from p2p.cli import appending
from p2p.errors import ConfigError, StoreError
from p2p.store.keys import open_reader
from tests.cli.prepared import Process
from tests.cli.processes import COMMAND, environment, output_without_reader, p2p, p2p_ok, running, start, unread

MEMORY = ["--id", "A", "--memory"]


async def end_of(process: Process | trio.Process) -> tuple[int, str]:
    """Its exit code, and what it left on standard error."""
    said = b""
    with trio.fail_after(60):
        if process.stderr is not None:
            async for chunk in process.stderr:
                said += chunk
        return await process.wait(), said.decode()


async def shell(line: str, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run the command as a shell does whose line holds "$@" for it."""
    command = ["sh", "-c", line, "sh", *COMMAND, *map(str, arguments)]
    with trio.fail_after(60):
        return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, env=environment())


@pytest.mark.parametrize("follow", ["tail", "digest", "heads"])
async def test_following_ends_when_nobody_reads_any_more_though_nothing_new_comes(follow: str, tmp_path: Path) -> None:
    await p2p_ok("wal", "append", "--data-dir", tmp_path, stdin=b"one\n")
    process = await start("wal", follow, "--data-dir", tmp_path, "--follow")
    assert process.stdout is not None
    assert await process.stdout.receive_some()
    await process.stdout.aclose()
    assert await end_of(process) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_following_ends_by_a_signal_though_its_reader_has_stalled(number: signal.Signals, tmp_path: Path) -> None:
    await p2p_ok("wal", "append", "--data-dir", tmp_path, stdin=b"a line\n" * 3000)
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    process = await start("wal", "tail", "--data-dir", tmp_path, "--follow", stdout=writer)
    os.close(writer)
    with trio.fail_after(60):
        while not unread(reader):
            await trio.sleep(0.01)
    process.send_signal(number)
    assert await end_of(process) == (0, "")
    os.close(reader)


async def test_a_line_left_out_makes_the_exit_code_1_though_nobody_reads_the_result(tmp_path: Path) -> None:
    with output_without_reader() as stream:
        process = await start("wal", "append", "--data-dir", tmp_path, stdin=subprocess.PIPE, stdout=stream.fileno())
        assert process.stdin is not None
        await process.stdin.send_all(b"x" * 2**21 + b"\none\n")
        await process.stdin.aclose()
        code, said = await end_of(process)
    assert (code, held(tmp_path)) == (1, 1)
    assert "left out" in said


async def test_a_table_whose_reader_goes_away_ends_in_order() -> None:
    process = await start(*MEMORY, "--tui", "on", "--stats-every", "20")
    assert process.stdout is not None
    assert await process.stdout.receive_some()
    await process.stdout.aclose()
    assert await end_of(process) == (0, "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
async def test_a_node_lives_without_standard_streams(closed: str, tmp_path: Path) -> None:
    options = ["--id", "A", "--data-dir", tmp_path, "--run", "0.3", "--append-stdin", "--log-level", "warn"]
    done = await shell(f'"$@" {closed}', *options)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "ok: 0 records" in await p2p_ok("wal", "verify", "--data-dir", tmp_path)


async def test_closed_streams_leave_their_numbers_to_nobody_else(tmp_path: Path) -> None:
    """A store that is opened as descriptor 1 would get whatever is printed into it."""
    await p2p_ok("wal", "append", "--data-dir", tmp_path, stdin=b"one\n")
    assert (await shell('"$@" >&-', "wal", "tail", "--data-dir", tmp_path)).stderr == b""
    assert "ok: 1 record of" in await p2p_ok("wal", "verify", "--data-dir", tmp_path)


async def test_a_full_disk_behind_standard_output_costs_a_node_its_lines_and_a_tool_its_success(tmp_path: Path) -> None:
    await p2p_ok("wal", "append", "--data-dir", tmp_path, stdin=b"one\n")
    full = os.open("/dev/full", os.O_WRONLY)
    node = await start(*MEMORY, "--run", "0.2", "--log-level", "warn", stdout=full)
    assert (await end_of(node))[0] == 0
    tool = await start("wal", "tail", "--data-dir", tmp_path, stdout=full)
    assert await end_of(tool) == (1, "p2p: standard output: No space left on device\n")
    os.close(full)


async def test_a_closed_terminal_ends_a_node_in_order() -> None:
    # The tests themselves may run under nohup, and what a process ignores its children do, too.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    async with running(*MEMORY) as node:
        signal.signal(signal.SIGHUP, before)
        await node.started()
        assert await node.end(signal.SIGHUP) == 0
        await node.until(lambda event: event["event"] == "stopped")


async def test_under_nohup_a_closed_terminal_means_nothing() -> None:
    process = await trio.lowlevel.open_process(
        [*COMMAND, *MEMORY, "--json", "--stats-every", "20"],
        stdout=subprocess.PIPE,
        env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert process.stdout is not None
    with trio.fail_after(30):
        assert await process.stdout.receive_some()
        process.send_signal(signal.SIGHUP)
        # More lines than one that ends would still say.
        lines = 0
        while lines < 10:
            said = bytes(await process.stdout.receive_some())
            assert said, "it ended"
            lines += said.count(b"\n")
        process.send_signal(signal.SIGTERM)
        assert b"stopped" in b"".join([chunk async for chunk in process.stdout])
        assert await process.wait() == 0


@pytest.mark.parametrize("imported", ["trio", "click", "rich"])
async def test_an_interrupt_among_the_imports_shows_no_traceback(imported: str, tmp_path: Path) -> None:
    (tmp_path / f"{imported}.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    path = f"{tmp_path}{os.pathsep}{environment()['PYTHONPATH']}"
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "p2p_command", *MEMORY, "--tui", "on"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(PYTHONPATH=path),
    )
    assert process.stdout is not None
    said = b""
    with trio.fail_after(30):
        while b"importing\n" not in said:
            said += await process.stdout.receive_some()
    process.send_signal(signal.SIGINT)
    assert await end_of(process) == (-signal.SIGINT, "")


async def test_a_stalled_reader_of_standard_error_does_not_stop_a_node() -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    while True:
        try:
            os.write(writer, b"x")
        except BlockingIOError:
            break
    os.set_blocking(writer, True)
    options = ["--run", "0.5", "--log-level", "trace", "--connect", "127.0.0.1:1"]
    process = await start(*MEMORY, *options, stderr=writer, stdout=subprocess.DEVNULL)
    os.close(writer)
    with trio.fail_after(30):
        assert await process.wait() == 0
    os.close(reader)


async def test_a_stalled_terminal_does_not_stop_a_node() -> None:
    master, slave = pty.openpty()
    process = await start(
        *MEMORY, "--run", "0.7", "--tui", "on", "--stats-every", "5", stdout=slave, stderr=subprocess.PIPE
    )
    os.close(slave)
    assert await end_of(process) == (0, "")
    os.close(master)


async def test_a_plain_locale_breaks_nothing() -> None:
    plain = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = await p2p(*MEMORY, "--run", "0.3", "--tui", "on", **plain)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert b"0 records of 0" in done.stdout


async def test_lines_that_are_no_utf8_are_records_as_they_are(tmp_path: Path) -> None:
    plain = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    await p2p_ok("wal", "append", "--data-dir", tmp_path, stdin=b"h\xe9\xff\n\xc3\xa9\n", **plain)
    told = await p2p_ok("wal", "tail", "--data-dir", tmp_path, **plain)
    assert told.startswith("(own) 1 app ")
    assert [line.rsplit(" ", 1)[1] for line in told.splitlines()] == ["h\\xe9\\xff", "\\xe9"]
    assert '"payload_base64":"aOn/"' in await p2p_ok("wal", "tail", "--data-dir", tmp_path, "--json", **plain)


@pytest.mark.parametrize("how", ["a signal", "--run"])
async def test_lines_that_were_read_are_appended_before_the_end_though_the_log_still_waits(
    how: str, tmp_path: Path
) -> None:
    await p2p_ok("wal", "append", "--data-dir", tmp_path, stdin=b"one\n")
    # Somebody configured who accepts and says nothing: the own log waits for a first word of it.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = ["--id", "A", "--data-dir", tmp_path, "--connect", f"127.0.0.1:{silent.getsockname()[1]}"]
        options += ["--append-stdin", *(["--run", "2"] if how == "--run" else [])]
        process = await start(*options, "--quiet", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert isinstance(process.stdin, trio.lowlevel.FdStream)
        await process.stdin.send_all(b"two\nthree\n")
        if how == "a signal":
            with trio.fail_after(30):
                while unread(process.stdin.fileno()):
                    await trio.sleep(0.01)
            process.send_signal(signal.SIGINT)
        code, said = await end_of(process)
        assert (code, [line for line in said.splitlines() if "append" in line]) == (0, [])
        await process.stdin.aclose()
    assert "ok: 3 records" in await p2p_ok("wal", "verify", "--data-dir", tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_command_that_is_stopped_before_its_answer_came_says_so_by_its_exit_code(
    number: signal.Signals,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = await start("request", "--url", url, "--wait", "20000", "B", "clock", "now?")
        silent.setblocking(False)
        asked = b""
        with trio.fail_after(30):
            await trio.lowlevel.wait_readable(silent)
            connection, _ = silent.accept()
            # What httpx has half sent it leaves to the garbage collector, which says so here.
            while not asked.endswith(b"}"):
                await trio.lowlevel.wait_readable(connection)
                asked += connection.recv(65536)
        with connection:
            process.send_signal(number)
            assert await end_of(process) == (128 + number, "")


@pytest.mark.parametrize("as_json", [False, True])
async def test_an_append_that_is_stopped_names_the_line_that_had_not_ended(as_json: bool, tmp_path: Path) -> None:
    options = ["--data-dir", tmp_path, *(["--json"] if as_json else [])]
    process = await start("wal", "append", *options, stdin=subprocess.PIPE)
    assert isinstance(process.stdin, trio.lowlevel.FdStream)
    assert process.stdout is not None
    await process.stdin.send_all(b"one\ntwo\nthree")
    with trio.fail_after(60):
        while unread(process.stdin.fileno()):
            await trio.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    code, said = await end_of(process)
    assert code == 128 + signal.SIGTERM
    told = [line for line in said.splitlines() if line.startswith("p2p: ")][-2:]
    assert told == [
        "p2p: stopped after 2 lines of standard input: what comes behind is not appended",
        "p2p: the last line had not ended: its 5 bytes are not appended",
    ]
    result = b"".join([part async for part in process.stdout]).decode()
    if as_json:
        assert json.loads(result) == {"appended": 2, "first_seq": 1, "last_seq": 2, "left_out": None}
    else:
        assert result == "appended 2 records, seq 1-2, before it was stopped\n"
    await process.stdin.aclose()


async def test_an_append_that_is_stopped_amid_its_input_counts_all_that_is_durable(tmp_path: Path) -> None:
    process = await start("wal", "append", "--data-dir", tmp_path, "--json", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    async with trio.open_nursery() as nursery:

        async def feed() -> None:
            assert process.stdin is not None
            with suppress(trio.BrokenResourceError):
                while True:
                    await process.stdin.send_all(b"a line\n" * 1000)

        nursery.start_soon(feed)
        with trio.fail_after(60):
            while held(tmp_path) < 2000:
                await trio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        code, said = await end_of(process)
        result = json.loads(b"".join([part async for part in process.stdout]))
    seq = held(tmp_path)
    assert code == 128 + signal.SIGINT
    assert result == {"appended": seq, "first_seq": 1, "last_seq": seq, "left_out": None}
    assert f"stopped after {seq} lines" in said
    await process.stdin.aclose()


def held(data_dir: Path) -> int:
    """Records that are durable in a data dir, of whomever."""
    try:
        with closing(open_reader(data_dir)) as reader:
            return sum(state.seq for state in reader.states().values())
    except (ConfigError, StoreError):  # it is being made
        return 0


async def test_t61_an_append_that_is_stopped_while_the_disk_hangs_ends_and_says_what_is_in_doubt(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lines(_splitter: object) -> AsyncGenerator[list[bytes], None]:
        yield [b"one"]
        yield [b"two", b"three"]
        raise AssertionError("it reads on")

    class Slow:
        """Takes the first, and hangs at what comes then."""

        done = appending.Appended()

        async def append(self, lines: Iterable[bytes]) -> None:
            if self.done.count:
                await trio.sleep_forever()
            self.done.add(1, 1, 1)

    async def signals() -> AsyncIterator[int]:
        await trio.sleep(1)
        yield signal.SIGTERM
        await trio.sleep_forever()

    monkeypatch.setattr(appending, "stdin_lines", lines)
    with trio.fail_after(10):
        taken = await appending._append_all(signals(), Slow())
    assert taken == appending.Taken(lines=3, in_doubt=2, stopped_by=signal.SIGTERM)
