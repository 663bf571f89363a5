"""Rows for the tests."""

from __future__ import annotations

from benchmarks.figures import Machine
from benchmarks.harness import Row

MACHINE = Machine("a processor", 2, "Linux on x", "6.1", "CPython 3.11", {"trio": "1 <2>"})


def row_of(question: str = "measured", **others: object) -> Row:
    """A row; what is not named is something."""
    ratio = others.get("ratio", 1.0)
    values = {"benchmark": "codec", "low": ratio, "high": ratio, "value": 1.0, "unit": "s", "baseline": "b"}
    return Row(question=question, **(values | {"ratio": ratio} | others))  # type: ignore[arg-type]  # any of its fields
