"""Benchmarks' figures as a picture."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from benchmarks.plot import draw, reached

ROWS = [
    {"question": "a < b", "ratio": 0.6, "goal": ">= 0.3"},
    {"question": "c", "ratio": 6.0, "goal": "<= 5"},
    {"question": "no goal", "ratio": 1.0, "goal": ""},
]


def test_a_goal_is_reached_from_either_side():
    assert reached(0.6, ">= 0.3") == pytest.approx(2)
    assert reached(10, "<= 5") == pytest.approx(0.5)
    with pytest.raises(ValueError, match="not a ratio"):
        reached(1, "about 5")


def test_each_question_with_a_goal_has_a_bar():
    root = ET.fromstring(draw(ROWS, "a machine"))
    bars = [bar.get("class") for bar in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert bars == ["met", "missed"]
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a < b" in texts
    assert "a machine" in texts
