"""Benchmarks' figures as a picture."""

from __future__ import annotations

import math
from xml.etree import ElementTree as ET

import pytest

from benchmarks.plot import draw, draw_curves, reached

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
