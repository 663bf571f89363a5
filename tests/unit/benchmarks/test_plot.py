"""Benchmarks' figures as a picture."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.plot import draw, draw_curves, main, reached

ROWS = [
    {"question": "a < b", "ratio": 0.6, "goal": ">= 0.3"},
    {"question": "c", "ratio": 6.0, "goal": "<= 5"},
    {"question": "no goal", "ratio": 1.0, "goal": ""},
    {"question": "a goal of its own unit", "value": 2.0, "unit": "ms", "ratio": 30.0, "goal": "<= 25 ms"},
    {"question": "none", "value": 0.0, "unit": "links", "ratio": 0.0, "goal": "<= 0"},
]


def test_a_goal_is_reached_from_either_side():
    assert reached(0.6, ">= 0.3") == pytest.approx(2)
    assert reached(10, "<= 5") == pytest.approx(0.5)
    assert reached(0, "<= 0") == math.inf
    assert reached(1, "<= 0") == 0
    with pytest.raises(ValueError, match="not a ratio"):
        reached(1, "about 5")


def test_each_question_with_a_goal_has_a_bar():
    root = ET.fromstring(draw(ROWS, "a machine"))
    bars = [bar.get("class") for bar in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert bars == ["met", "missed", "met", "met"]
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a < b" in texts
    assert "a machine" in texts


def test_each_question_asked_at_several_sizes_has_a_panel_with_a_point_a_size():
    row = {"question": "e & f", "unit": "µs", "curve": [[1, 3.0], [10, 3.0], [100, 6.0]]}
    root = ET.fromstring(draw_curves([*ROWS, row], "a machine"))
    (line,) = root.iter("{http://www.w3.org/2000/svg}polyline")
    points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
    (x1, y1), (x2, y2), (x3, y3) = points
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 == y2 > y3
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"e & f", "1: 3 µs", "100: 6 µs"} <= set(texts)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"rows": [], "machine": 1}',
        '{"rows": [{"question": "q", "ratio": 1, "goal": "about 5"}], "machine": ""}',
        '{"rows": [{"question": "q", "ratio": NaN, "goal": ">= 5"}], "machine": ""}',
        '{"rows": [{"ratio": 1, "goal": ">= 5"}], "machine": ""}',
        '{"rows": [{"question": "q", "unit": "s", "curve": [[0, 1], [1, 2]]}], "machine": ""}',
        '{"rows": [{"question": "q", "unit": "s", "curve": [[1, 0], [2, 2]]}], "machine": ""}',
    ],
)
def test_what_is_no_file_of_figures_is_one_line_and_nothing_is_drawn(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, picture = tmp_path / "figures.json", tmp_path / "a.svg"
    source.write_text(text, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["plot", str(source), str(picture), str(tmp_path / "b.svg")])
    assert main() == 2
    assert capsys.readouterr().err.startswith(f"{source} is none that --out wrote: ")
    assert not picture.exists()


def test_a_file_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["plot", str(tmp_path / "none.json"), str(tmp_path / "a.svg")])
    assert main() == 2
    assert capsys.readouterr().err == f"{tmp_path / 'none.json'}: No such file or directory\n"
