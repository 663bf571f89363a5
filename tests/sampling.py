"""How many of very many like cases are tried: all of them by `make proof` (PROOF_ALL=1), a sample of them else.

A test of which that is so is marked `sampled`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, TypeVar

T = TypeVar("T")

IS_ALL: Final = bool(os.environ.get("PROOF_ALL"))


def some(cases: Sequence[T], each: int, first: int = 0) -> Sequence[T]:
    """All of them, or one of each so many: of many tests the whole, where `first` differs among them."""
    return cases if IS_ALL else cases[first % each :: each]
