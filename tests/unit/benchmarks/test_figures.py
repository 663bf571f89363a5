"""Figures as a table and as JSON."""

from __future__ import annotations

import argparse
import errno
import json
import os
from pathlib import Path

import msgspec
import pytest

from benchmarks.figures import WIDTH, Figures, as_table, check_out, read, this_machine, write
from benchmarks.harness import Row
from tests.unit.benchmarks.figures import MACHINE, row_of

ROWS = [
    row_of("ours ÷ theirs", ratio=0.12345, low=0.1, high=0.2, rounds=7, goal=">= 0.3", met=False, value=123456.7),
    row_of("other", benchmark="store", ratio=11.3, goal=">= 8", met=True, note="words " * 40),
    row_of("a question " * 12, benchmark="store"),
]
FIGURES = Figures(MACHINE, True, ROWS)


def test_the_table_has_the_answer_first_and_then_what_it_is_made_of() -> None:
    lines = as_table(ROWS).splitlines()
    assert lines[0].split() == ["ratio", "goal", "met", "half", "of", "rounds", "question"]
    assert lines[2:5] == [
        "codec",
        "   0.123  >= 0.3  NO   0.1 to 0.2       ours ÷ theirs",
        "          123,457 s beside b; 7 rounds",
    ]
    assert lines[6] == "store"
    assert lines[7].split()[:4] == ["11.3", ">=", "8", "yes"]


def test_no_line_is_wider_than_a_terminal_however_long_a_note_is() -> None:
    assert max(map(len, as_table(ROWS).splitlines())) <= WIDTH


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    write(FIGURES, out)
    assert read(out) == FIGURES
    write(Figures(MACHINE, False, ROWS[:1]), out)
    assert len(read(out).rows) == 1
    assert list(tmp_path.iterdir()) == [out]


def test_json_has_the_machine_the_rounds_and_the_spread_and_no_date(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    write(Figures(this_machine({"pyzmq": "26"}), True, ROWS), out)
    found = json.loads(out.read_text(encoding="utf-8"))
    assert set(found) == {"machine", "quick", "rows", "left_out"}
    assert set(found["machine"]) == {"cpu", "cores", "kernel", "packages", "python", "system"}
    assert set(found["machine"]["packages"]) == {"trio-p2p", "trio", "cryptography", "msgspec", "pyzmq"}
    first = found["rows"][0]
    assert (first["low"], first["ratio"], first["high"], first["rounds"]) == (0.1, 0.12345, 0.2, 7)


def test_json_has_all_of_every_row_also_what_is_empty(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    write(Figures(MACHINE, True, [*ROWS, row_of(curve=((1.0, 2.0), (3.0, 4.0)))]), out)
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    names = set(Row.__struct_fields__)
    assert [set(row) for row in rows] == [names] * 4
    assert names >= {"goal", "met", "note", "curve"}
    assert [(row["goal"], row["met"]) for row in rows[:3]] == [(">= 0.3", False), (">= 8", True), ("", None)]
    assert [row["note"] for row in rows] == ["", "words " * 40, "", ""]
    assert [row["curve"] for row in rows] == [[], [], [], [[1.0, 2.0], [3.0, 4.0]]]


def test_a_disk_that_is_full_leaves_the_figures_from_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    write(FIGURES, out)
    real = Path.write_bytes

    def half(path: Path, data: bytes) -> int:
        real(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        write(Figures(MACHINE, False, ROWS[:1]), out)
    assert read(out) == FIGURES
    assert list(tmp_path.iterdir()) == [out]


def test_a_link_to_the_figures_stays_one(tmp_path: Path) -> None:
    out = tmp_path / "link.json"
    (tmp_path / "figures.json").touch()
    out.symlink_to(tmp_path / "figures.json")
    write(FIGURES, out)
    assert out.is_symlink()
    assert read(tmp_path / "figures.json") == FIGURES


@pytest.mark.parametrize("cut", [0, 1, 100, -3])
def test_half_a_file_is_none(cut: int, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    write(FIGURES, out)
    out.write_bytes(out.read_bytes()[:cut])
    with pytest.raises(msgspec.DecodeError):
        read(out)


def test_looking_whether_a_place_can_be_written_leaves_it_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    check_out(argparse.ArgumentParser(), out)
    assert not out.exists()
    out.write_text("from before", encoding="utf-8")
    check_out(argparse.ArgumentParser(), out)
    assert out.read_text(encoding="utf-8") == "from before"
    check_out(argparse.ArgumentParser(), Path("/dev/null"))
    write(FIGURES, Path("/dev/null"))
    assert Path("/dev/null").is_char_device()
