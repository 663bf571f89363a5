"""A run of the benchmarks that is broken off, or cannot write its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as program
from benchmarks import rivals, worker

ROW = {"question": "measured", "ratio": 1.0}


def run(monkeypatch: pytest.MonkeyPatch, error: BaseException, *arguments: str) -> int:
    def measure(quick: bool) -> list[object]:
        if quick:
            raise error
        return [ROW]

    modules = iter([lambda _: measure(quick=False), lambda _: measure(quick=True)])
    monkeypatch.setattr(
        program, "importlib", SimpleNamespace(import_module=lambda _: SimpleNamespace(run=next(modules)))
    )
    monkeypatch.setattr(program, "end_as_by_ctrl_c", lambda: None)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "codec", "store", *arguments])
    return program.main()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (BaseExceptionGroup("", [KeyboardInterrupt(), RuntimeError("the worker ended early")]), 130),
        (RuntimeError("broken"), 1),
    ],
)
def test_what_was_measured_before_the_end_is_kept(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    assert run(monkeypatch, error, "--out", str(out)) == code
    assert json.loads(out.read_text(encoding="utf-8"))["rows"] == [ROW]
    said = capsys.readouterr()
    assert "measured" in said.out
    assert ("Traceback" in said.err) is (code == 1)


def test_another_end_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GeneratorExit):
        run(monkeypatch, GeneratorExit())


@pytest.mark.parametrize("main", [program.main, rivals.main])
def test_a_place_that_cannot_be_written_is_told_before_anything_runs(
    main: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "codec", "--out", str(tmp_path)])
    assert callable(main)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"--out {tmp_path}: Is a directory" in capsys.readouterr().err


def test_a_row_that_came_before_the_failure_of_its_benchmark_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(quick: bool) -> Iterator[object]:
        yield ROW
        raise RuntimeError("broken")

    monkeypatch.setattr(program, "importlib", SimpleNamespace(import_module=lambda _: SimpleNamespace(run=measure)))
    monkeypatch.setattr(program, "end_as_by_ctrl_c", lambda: None)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "codec"])
    assert program.main() == 1
    assert "measured" in capsys.readouterr().out


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
