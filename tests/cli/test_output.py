"""Lines that are safe to show and never waited for."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import os
import pty
import re
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from p2p.cli.app import run_command_line
from p2p.cli.output import LineFormatter, Output, Pictures, ReaderGone, json_line
from p2p.cli.vectors import print_vectors
from tests.cli.processes import output_without_reader


@pytest.fixture
def pipe() -> Iterator[tuple[int, io.TextIOWrapper]]:
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w")
    yield reader, stream
    os.close(reader)
    with contextlib.suppress(BrokenPipeError):
        stream.close()


def test_a_line_reaches_a_reader(pipe: tuple[int, io.TextIOWrapper]) -> None:
    reader, stream = pipe
    Output(stream).notice("hello")
    assert os.read(reader, 100) == b"hello\n"


def test_a_stalled_reader_costs_lines_and_no_time(pipe: tuple[int, io.TextIOWrapper]) -> None:
    reader, stream = pipe
    room = fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ)
    output = Output(stream)
    written = 0
    while not output.dropped:
        output.notice("x" * 1023)
        written += 1
        assert written * 1024 <= 2 * room, "the pipe took more than it holds"
    os.read(reader, room)
    dropped = output.dropped
    output.notice("again")
    assert output.dropped == dropped
    assert os.read(reader, room).endswith(b"again\n")


def test_a_reader_that_has_gone_is_told_once() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    raw = os.fdopen(writer, "wb", buffering=0)
    stream = io.TextIOWrapper(raw, write_through=True)
    with pytest.raises(ReaderGone):
        Output(stream).result("hello")
    raw.close()


def test_a_buffer_without_descriptor_is_written() -> None:
    stream = io.StringIO()
    Output(stream).notice("hello")
    assert stream.getvalue() == "hello\n"


@given(st.text())
def test_json_is_printable_ascii_whatever_is_in_it(text: str) -> None:
    line = json_line({"text": text})
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == {"text": text}


def log_record(message: str, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error is not None else None
    return logging.LogRecord("p2p.node", logging.WARNING, "f.py", 1, message, (), info)


def test_T58_a_log_record_is_one_escaped_line() -> None:
    line = LineFormatter(tracebacks=False).format(log_record("a\r\n[p2p] forged \x1b[31m \u202e \x00" + "x" * 9000))
    assert line.isprintable()
    assert len(line.encode()) <= 2048
    assert "\\x1b" in line
    assert "\\u202e" in line


def test_an_error_is_named_and_its_traceback_shown_only_for_details() -> None:
    try:
        raise ValueError("bad\nvalue")
    except ValueError as error:
        record = log_record("failed", error)
    assert LineFormatter(tracebacks=False).format(record).endswith("failed: ValueError: bad\\nvalue")
    details = LineFormatter(tracebacks=True).format(record)
    assert "Traceback" in details
    assert all(line.isprintable() for line in details.splitlines())


def test_a_disk_that_is_full_costs_notices_and_fails_results() -> None:
    with open("/dev/full", "w") as full:
        output = Output(full)
        output.notice("hello")
        assert output.dropped == 1
        with pytest.raises(OSError, match="standard output"):
            output.result("hello")


def test_a_result_waits_though_the_descriptor_does_not() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    lines = 200
    with os.fdopen(writer, "w") as stream, os.fdopen(reader, "rb") as other:
        thread = threading.Thread(target=lambda: [Output(stream).result("x" * 1023) for _ in range(lines)])
        thread.start()
        assert len(other.read(lines * 1024)) == lines * 1024
        thread.join()


async def until_stalled(output: Output) -> int:
    """Show lines until the reader takes no more; returns how many it took whole."""
    lines = 0

    async def fill() -> None:
        nonlocal lines
        while True:
            await output.show("x" * 99)
            lines += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fill)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return lines


async def test_a_line_that_is_shown_to_a_stalled_reader_waits_where_it_can_be_cancelled(
    pipe: tuple[int, io.TextIOWrapper],
) -> None:
    reader, stream = pipe
    with contextlib.closing(Output(stream)) as output:
        assert await until_stalled(output) > 0
        os.read(reader, fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.show, "y" * 300_000)
            read = b""
            while not read.endswith(b"\n"):
                await trio.lowlevel.wait_readable(reader)
                read += os.read(reader, 10_000)
        assert read == b"y" * 300_000 + b"\n"


async def test_a_line_that_is_shown_on_a_stalled_terminal_waits_where_it_can_be_cancelled() -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as stream, contextlib.closing(Output(stream)) as output:
        assert await until_stalled(output) > 0
        # What waits for whoever closes it is thrown away.
        termios.tcflush(master, termios.TCIOFLUSH)
    os.close(master)


async def test_a_line_that_is_shown_to_nobody_or_on_a_full_disk_says_so() -> None:
    with output_without_reader() as stream, pytest.raises(ReaderGone):
        await Output(stream).show("hello")
    with open("/dev/full", "w") as full, pytest.raises(OSError, match="standard output"):
        await Output(full).show("hello")


def test_whether_somebody_reads_is_seen_without_writing(pipe: tuple[int, io.TextIOWrapper]) -> None:
    reader, stream = pipe
    Output(stream).check_reader()
    Output(io.StringIO()).check_reader()
    with os.fdopen(os.dup(reader)):
        pass
    Output(stream).check_reader()
    alone, writer = os.pipe()
    os.close(alone)
    with os.fdopen(writer, "w") as nobody, pytest.raises(ReaderGone):
        Output(nobody).check_reader()


def test_pictures_are_shown_whole_or_left_out(pipe: tuple[int, io.TextIOWrapper]) -> None:
    reader, stream = pipe
    room = fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ)
    pictures = Pictures(stream)
    for number in range(200):
        pictures.write(f"<{number}")
        pictures.write("x" * 1000 + ">")
        pictures.flush()
    shown = b""
    os.set_blocking(reader, False)
    while True:
        # The rest of a picture that was begun comes before any other.
        try:
            shown += os.read(reader, room)
        except BlockingIOError:
            break
        pictures.flush()
    pictures.write("<last>")
    pictures.flush()
    shown += os.read(reader, room)
    whole = re.fullmatch(rb"((<\d+x{1000}>)+)<last>", shown)
    assert whole is not None
    assert 10 < whole[1].count(b"<") < 200


def test_pictures_tell_once_that_nobody_looks() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        pictures = Pictures(stream)
        pictures.write("hello")
        with pytest.raises(ReaderGone):
            pictures.flush()
        pictures.write("again")
        pictures.flush()


@pytest.mark.parametrize("how", ["the environment", "a file", "a flag"])
def test_what_goes_wrong_is_told_as_json_however_that_was_asked_for(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "node.toml").write_text("json = true\n" if how == "a file" else "")
    if how == "the environment":
        monkeypatch.setenv("P2P_JSON", "1")
    options = ["--id", "A", "--memory", "--config", str(tmp_path / "node.toml"), "--network-key-file", "/no/key"]
    code = run_command_line([*options, *(["--json"] if how == "a flag" else [])])
    assert code != 0
    assert json.loads(capfd.readouterr().err)["event"] == "error"


def test_examples_are_json_also_where_standard_output_has_few_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = {}
    for encoding in ("utf-8", "latin-1"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
        monkeypatch.setattr(sys, "stdout", stream)
        print_vectors()
        printed[encoding] = json.loads(stream.buffer.getvalue().decode(encoding))  # type: ignore[attr-defined]
    assert printed["latin-1"] == printed["utf-8"]
