"""Lines of standard input: every cut gives the same lines, and a line without an end costs nothing."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from p2p.cli.stdin import LineSplitter, stdin_lines


def split(chunks: list[bytes], line_bytes_max: int = 1000) -> tuple[list[bytes], int]:
    splitter = LineSplitter(line_bytes_max)
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    last = splitter.end()
    return lines + ([] if last is None else [last]), splitter.too_long


@given(st.binary(max_size=60).map(lambda data: data.replace(b"a", b"\n")), st.lists(st.integers(0, 60), max_size=6))
def test_however_it_is_cut_the_lines_are_the_same(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[a:b] for a, b in itertools.pairwise(edges)]
    expected = data.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert split(chunks) == (expected, 0)


@given(st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=8), st.integers(1, 5))
def test_lines_that_are_too_long_are_left_out_and_counted(lines: list[bytes], cut: int) -> None:
    data = b"".join(line + b"\n" for line in lines)
    chunks = [data[i : i + cut] for i in range(0, len(data), cut)]
    kept, too_long = split(chunks, line_bytes_max=6)
    assert kept == [line for line in lines if len(line) <= 6]
    assert too_long == len(lines) - len(kept)


def test_a_line_without_an_end_keeps_no_memory() -> None:
    splitter = LineSplitter(1000)
    for _ in range(10_000):
        assert list(splitter.feed(b"x" * 1000)) == []
        assert splitter.pending <= 1000
    assert list(splitter.feed(b"\nnext\n")) == [b"next"]
    assert splitter.too_long == 1


def test_empty_lines_are_lines() -> None:
    assert split([b"\n\na\n"]) == ([b"", b"", b"a"], 0)


async def test_a_pipe_is_waited_for_and_ends() -> None:
    reader, writer = os.pipe()
    got: list[bytes] = []

    async def read() -> None:
        async for lines in stdin_lines(LineSplitter(100), reader):
            got.extend(lines)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        os.write(writer, b"one\ntw")
        await trio.testing.wait_all_tasks_blocked()
        assert got == [b"one"]
        os.write(writer, b"o\nlast")
        os.close(writer)
    assert got == [b"one", b"two", b"last"]
    os.close(reader)


async def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"line\n" * 50_000)
    descriptor = os.open(path, os.O_RDONLY)
    count = 0
    async for lines in stdin_lines(LineSplitter(100), descriptor):
        count += len(lines)
    os.close(descriptor)
    assert count == 50_000
