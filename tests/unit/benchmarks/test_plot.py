"""Benchmarks' figures as a picture."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from benchmarks.figures import Figures, write
from benchmarks.plot import draw, draw_curves, main
from tests.unit.benchmarks.figures import MACHINE, row_of

SVG = "{http://www.w3.org/2000/svg}"
ROWS = [
    row_of("a < b", ratio=0.6, low=0.5, high=0.7, rounds=5, goal=">= 0.3"),
    row_of("c", ratio=6.0, goal="<= 5"),
    row_of("no goal"),
    row_of("none", ratio=0.0, goal="<= 0"),
]
GROWS = row_of("e & f", unit="µs", goal="<= 2", curve=((1, 3.0), (10, 3.0), (100, 6.0)))


def texts(root: ET.Element) -> list[str | None]:
    return [text.text for text in root.iter(f"{SVG}text")]


def test_each_question_with_a_goal_has_a_bar_and_the_machine_is_named() -> None:
    root = ET.fromstring(draw(ROWS, MACHINE))
    assert [bar.get("class") for bar in root.iter(f"{SVG}rect")] == ["met", "missed", "met"]
    told = texts(root)
    assert told[0] == str(MACHINE)
    assert told.index("0.6") < told.index(">= 0.3") < told.index("a < b")
    assert "no goal" not in told


def test_the_spread_lies_across_the_end_of_its_bar_and_one_round_has_none() -> None:
    root = ET.fromstring(draw(ROWS, MACHINE))
    (spread,) = (line for line in root.iter(f"{SVG}line") if line.get("class") == "spread")
    bar = next(root.iter(f"{SVG}rect"))
    end = float(bar.get("x", "")) + float(bar.get("width", ""))
    assert float(spread.get("x1", "")) < end < float(spread.get("x2", ""))


def test_each_question_asked_at_several_sizes_has_a_panel_with_a_point_a_size() -> None:
    root = ET.fromstring(draw_curves([*ROWS, GROWS], MACHINE))
    (line,) = root.iter(f"{SVG}polyline")
    points = [tuple(map(float, point.split(","))) for point in line.get("points", "").split()]
    (x1, y1), (x2, y2), (x3, y3) = points
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 == y2 > y3
    assert {"1 (<= 2)  e & f", "1: 3 µs", "100: 6 µs"} <= set(texts(root))


def plot(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["plot", *map(str, arguments)])
    return main()


def test_both_pictures_are_drawn_of_what_a_run_wrote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(Figures(MACHINE, True, [*ROWS, GROWS]), tmp_path / "f.json")
    assert plot(monkeypatch, tmp_path / "f.json", tmp_path / "a.svg", tmp_path / "b.svg") == 0
    assert ET.parse(tmp_path / "a.svg").getroot().tag == ET.parse(tmp_path / "b.svg").getroot().tag == f"{SVG}svg"


GOOD = msgspec.to_builtins(Figures(MACHINE, True, [GROWS]))


def with_row(**others: object) -> str:
    return msgspec.json.encode({**GOOD, "rows": [{**GOOD["rows"][0], **others}]}).decode()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "truncated"),
        ("{", "truncated"),
        ("[]", "Expected `object`, got `array`"),
        ('{"machine": 1, "rows": []}', "Expected `object`, got `int` - at `$.machine`"),
        (msgspec.json.encode({**GOOD, "rows": []}).decode(), "length >= 1 - at `$.rows`"),
        (with_row(goal="about 5"), "at `$.rows[0].goal`"),
        (with_row(ratio=None), "at `$.rows[0].ratio`"),
        (with_row(ratio=-1.0), "at `$.rows[0].ratio`"),
        (with_row(ratio=2.0), "not within its spread: 1.0, 2.0, 1.0 - at `$.rows[0]`"),
        (with_row().replace('"ratio":1.0', '"ratio":NaN'), "malformed"),
        (with_row().replace('"ratio":1.0', '"ratio":1e999'), "out of range"),
        (with_row(curve=[[0, 1], [1, 2]]), "at `$.rows[0].curve[0][0]`"),
        (with_row(curve=[[1, 2, 3]]), "at `$.rows[0].curve[0]`"),
        (with_row(question=5), "at `$.rows[0].question`"),
    ],
)
def test_what_is_no_file_of_figures_is_one_line_and_nothing_is_drawn(
    text: str, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, picture = tmp_path / "figures.json", tmp_path / "a.svg"
    source.write_text(text, encoding="utf-8")
    assert plot(monkeypatch, source, picture, tmp_path / "b.svg") == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"{source} is none that --out wrote: ")
    assert why in said
    assert not picture.exists()


def test_bytes_that_are_no_text_are_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "f.json").write_bytes(b'{"machine": "\xff\xfe"}')
    assert plot(monkeypatch, tmp_path / "f.json", tmp_path / "a.svg") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("none.json", "a.svg", "none.json: No such file or directory"),
        ("f.json", "none/a.svg", "none/a.svg: No such file or directory"),
        (".", "a.svg", ": Is a directory"),
    ],
)
def test_a_file_that_cannot_be_read_or_written_is_one_line(
    source: str,
    target: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(Figures(MACHINE, True, ROWS), tmp_path / "f.json")
    assert plot(monkeypatch, tmp_path / source, tmp_path / target) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(said)
