"""A run of the benchmarks that is broken off, or cannot write its figures."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from benchmarks import __main__ as program
from benchmarks import rivals, session, worker
from benchmarks.harness import Tell
from benchmarks.pace import OutOfTime
from benchmarks.session import Session
from p2p.errors import StoreFull
from tests.unit.benchmarks.figures import MACHINE, row_of


def measure(tell: Tell, *, error: BaseException | None = None) -> None:
    """A benchmark of two rows, the second of which may break."""
    tell(row_of())
    if error is not None:
        raise error
    tell(row_of("the second"))


def questions(path: Path) -> list[str]:
    return [row["question"] for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]


@pytest.mark.parametrize(
    ("error", "code", "measured"),
    [
        (None, 0, 4),
        (KeyboardInterrupt(), 130, 3),
        (BaseExceptionGroup("", [KeyboardInterrupt(), RuntimeError("the worker ended early")]), 130, 3),
        (RuntimeError("broken"), 1, 5),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/a"), 1, 5),
        (ExceptionGroup("", [OSError(errno.ENOSPC, "No space left on device", "/tmp/a")]), 1, 5),
        (StoreFull("[Errno 28] No space left on device: '/tmp/a'"), 1, 5),
    ],
)
def test_what_was_measured_is_kept_however_the_run_ends(
    error: BaseException | None, code: int, measured: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    benchmarks = {"codec": measure, "store": partial(measure, error=error)}
    if code == 1:
        benchmarks["mesh"] = measure
    assert Session(MACHINE, True, out).run(benchmarks) == code
    assert len(questions(out)) == measured
    said = capsys.readouterr()
    assert said.out.count("measured") + said.out.count("the second") == measured
    assert ("Traceback" in said.err) is isinstance(error, RuntimeError)
    assert ("could not be measured: store" in said.err) is (code == 1)
    if isinstance(error, OSError | ExceptionGroup | StoreFull):
        assert "store: [Errno 28] No space left on device: '/tmp/a'" in said.err


def test_what_no_time_is_left_for_is_told_and_breaks_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    benchmarks = {"codec": measure, "store": partial(measure, error=OutOfTime()), "mesh": measure}
    assert Session(MACHINE, True, out).run(benchmarks) == 0
    assert len(questions(out)) == 5
    assert json.loads(out.read_text(encoding="utf-8"))["left_out"] == ["store"]
    said = capsys.readouterr()
    assert "left out in part or whole, as time was up: store\n" in said.err
    assert "Traceback" not in said.err


def test_another_end_is_none_of_ours() -> None:
    with pytest.raises(GeneratorExit):
        Session(MACHINE, True, None).run({"codec": partial(measure, error=GeneratorExit())})


def test_a_place_that_cannot_be_written_any_more_costs_the_json_and_not_the_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = []

    def write(*_: object) -> None:
        tried.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(session, "write", write)
    assert Session(MACHINE, True, tmp_path / "f.json").run({"codec": measure, "store": measure}) == 1
    said = capsys.readouterr()
    assert said.out.count("measured") == 2
    assert f"--out {tmp_path / 'f.json'}: No space left on device" in said.err
    assert len(tried) == 1


def test_a_run_without_a_figure_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert Session(MACHINE, True, None).run({"codec": lambda _: None}) == 0
    assert capsys.readouterr().out == "nothing was measured\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_no_process_and_no_file_is_left_whatever_signal_ends_a_run(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    pids = []

    async def break_off(tell: Tell) -> None:
        async with worker.start("raw_echo") as side:
            await side.result()
            pids.append(side.pid)
            tempfile.mkdtemp()
            assert list(tmp_path.rglob("*"))
            tell(row_of())
            os.kill(os.getpid(), number)
            await trio.sleep_forever()

    # Where the tests run under nohup it is ignored, and what is ignored ends nothing.
    before = signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    try:
        assert Session(MACHINE, True, None).run({"codec": partial(trio.run, break_off)}) == 130
    finally:
        signal.signal(number, before)
    assert "measured" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert os.environ["TMPDIR"] == str(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_job_in_the_background_has_sigint_ignored_and_ends_at_sigterm() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:

        async def end(tell: Tell) -> None:
            tell(row_of())
            os.kill(os.getpid(), signal.SIGTERM)
            await trio.sleep_forever()

        assert Session(MACHINE, True, None).run({"codec": partial(trio.run, end)}) == 130
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_that_outlives_its_terminal_goes_on() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:

        def hang_up(tell: Tell) -> None:
            os.kill(os.getpid(), signal.SIGHUP)
            measure(tell)

        assert Session(MACHINE, True, None).run({"codec": hang_up}) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("main", [program.main, rivals.main])
def test_a_place_that_cannot_be_written_is_told_before_anything_runs(
    main: Callable[[], int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "codec", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"--out {tmp_path}: Is a directory" in capsys.readouterr().err


def test_a_benchmark_that_is_none_is_told_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "speed"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2
    assert "no benchmark is called speed; there are codec, transport" in capsys.readouterr().err


@pytest.mark.parametrize("name", program.NAMES)
def test_each_benchmark_takes_what_it_is_called_with(name: str) -> None:
    source = Path(program.__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    assert "\ndef run(pace: Pace, tell: Tell) -> None:\n" in source


def test_each_benchmark_is_told_on_the_page() -> None:
    page = (Path(program.__file__).parents[1] / "docs" / "performance.md").read_text(encoding="utf-8")
    table = page.partition("| benchmark |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(program.NAMES)


def test_what_broke_another_system_is_told(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ModuleNotFoundError: no zmq' >&2\nexit 3\n", encoding="utf-8")
    python.chmod(0o700)
    with pytest.raises(RuntimeError, match="its sink ended before it was ready"):
        rivals._run("pyzmq", str(python), 10)


def test_an_interpreter_that_is_none_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rivals", "/nowhere/python"])
    with pytest.raises(SystemExit) as ended:
        rivals.main()
    assert ended.value.code == 2
    assert "no interpreter that runs: /nowhere/python: No such file or directory" in capsys.readouterr().err


def test_the_sink_of_another_system_ends_with_its_parent() -> None:
    command = [sys.executable, "-m", "benchmarks.rival", "asyncio", "sink"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert json.loads(process.stdout.readline())["port"]
        process.stdin.close()
        assert process.wait(60) == 0


async def test_a_worker_clears_its_files_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    async with worker.start("follower", 1, 1) as follower:
        await follower.result()
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


async def test_workers_that_are_alike_end_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    all_told = trio.Event()
    end = worker._end

    async def end_with_the_others(process: trio.Process) -> None:
        told.append(process.pid)
        if len(told) == 3:
            all_told.set()
        with trio.move_on_after(30):
            # One after the other, the first would wait for a word that comes when it has ended.
            await all_told.wait()
            told.append(0)
        await end(process)

    monkeypatch.setattr(worker, "_end", end_with_the_others)
    async with worker.start_alike(3, "raw_echo") as workers:
        pids = {each.pid for each in workers}
    assert {*told[:3]} == pids
    assert told[3:] == [0] * 3
