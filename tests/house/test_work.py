"""The work for a message, a handshake, a batch and an append does not grow unseen (benchmarks/guard.py)."""

from __future__ import annotations

import json

from benchmarks import guard


def test_no_task_takes_much_more_work_than_before():
    kept = json.loads(guard.KEPT.read_text(encoding="utf-8"))
    found = guard.measure()
    assert set(found) == set(kept["work"]), "run `python -m benchmarks.guard --keep`"
    if kept["python"] != guard.PYTHON:
        # Another version of Python has other instructions; calls are what the source says.
        found = {name: guard.Work(work.calls, 0) for name, work in found.items()}
    # If it has to be so: `python -m benchmarks.guard --keep`, and say why in the commit.
    assert guard.grown(kept["work"], found) == []


def test_what_is_counted_is_calls_and_instructions():
    def one() -> int:
        return len("")

    once = guard.count(one)
    twice = guard.count(lambda: (one(), one()))
    assert once.calls >= 2
    assert twice.calls >= 2 * once.calls - 2
    assert twice.instructions > once.instructions > 0


def test_growth_is_told_beyond_what_is_allowed():
    kept = {"a": [100, 1000]}
    assert guard.grown(kept, {"a": guard.Work(114, 1000)}) == []
    (line,) = guard.grown(kept, {"a": guard.Work(100, 1200)})
    assert "1200 instructions, and 1000 before (+20%)" in line
