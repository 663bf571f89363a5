"""Text from outside is shown on one line, bounded, without anything a terminal would obey."""

from __future__ import annotations

import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from p2p.text import one_line


def test_T58_line_breaks_and_controls_are_escaped() -> None:
    assert one_line("a\nb\r\x1b[2J\x00") == "a\\nb\\r\\x1b[2J\\x00"


def test_T58_bidi_and_separators_are_escaped() -> None:
    assert one_line("x\u202eevil\u2028y") == "x\\u202eevil\\u2028y"


def test_plain_text_stays_as_it_is() -> None:
    assert one_line("Büro 3 – 12 °C") == "Büro 3 – 12 °C"


@given(st.text(), st.integers(min_value=8, max_value=64))
@example("\ud800", 8)
@example("é" * 100, 9)
@example("\ue000 is drawn as its owner likes", 64)
def test_T32_whatever_comes_in_one_safe_bounded_line_goes_out(text: str, bytes_max: int) -> None:
    line = one_line(text, bytes_max)
    assert len(line.encode()) <= bytes_max
    assert not any(unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} for char in line)
    assert one_line(line, bytes_max) == line
