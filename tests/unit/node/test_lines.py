"""Lines that a node tells: whether anybody hears one, which is asked before one is made."""

from __future__ import annotations

import logging

import pytest

from p2p.node.lines import FIRST_MAX, Lines
from p2p.node.status import Counters


@pytest.fixture
def crowded() -> Lines:
    """Nobody listens, and as many lines are kept for a hook to come as are kept at all."""
    lines = Lines("n", None, Counters())
    for number in range(FIRST_MAX):
        assert lines.is_heard, "it is kept for whoever asks for the first lines"
        lines(f"line {number}")
    return lines


def test_a_line_that_comes_to_nobody_is_not_heard(crowded: Lines) -> None:
    assert not crowded.is_heard


def test_a_line_is_heard_while_a_sink_takes_it(crowded: Lines) -> None:
    told: list[str] = []
    with crowded.told_to(told.append):
        assert crowded.is_heard
        crowded("now")
    assert told == ["now"]
    assert not crowded.is_heard


def test_a_line_is_heard_by_the_hook_of_the_config() -> None:
    told: list[str] = []
    lines = Lines("n", told.append, Counters())
    for number in range(FIRST_MAX + 1):
        assert lines.is_heard
        lines(f"line {number}")
    assert told[-1] == f"line {FIRST_MAX}"


def test_a_line_is_heard_by_logging_at_its_level(crowded: Lines, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="p2p.node"):
        assert crowded.is_heard
        crowded("now")
    assert "n: now" in caplog.text
    assert not crowded.is_heard
