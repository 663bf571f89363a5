"""How long does the import of all that a node needs take, beside the import of what it is built on?

Each import happens in a fresh interpreter with compiled modules at hand, as after the first run of any program. What
counts is processor time from the first statement on, without the interpreter's own start.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial

from benchmarks.harness import Row, Tell, ratio, row
from benchmarks.pace import Pace

OURS = "import p2p; p2p.open_node"
BASELINE = "import trio, cryptography.hazmat.primitives.ciphers.aead"
BUILT_ON = "import trio, msgspec, cryptography.hazmat.primitives.ciphers.aead"


def _seconds(statement: str, cache: str) -> float:
    code = f"import time\nstarted = time.process_time()\n{statement}\nprint(time.process_time() - started)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = cache
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


async def _rows(pace: Pace, tell: Tell) -> None:
    with tempfile.TemporaryDirectory() as cache:

        async def importing(statement: str) -> float:
            return _seconds(statement, cache)

        measured = await pace.in_turn(
            3 if pace.quick else 15, *(partial(importing, statement) for statement in (OURS, BASELINE, BUILT_ON))
        )
    ours, baseline, built_on = zip(*measured, strict=True)
    tell(_row("import of a node ÷ import of trio and cryptography's AEAD", "<= 1.5", ours, baseline))
    tell(_row("import of a node ÷ import of trio, msgspec and cryptography's AEAD", "", ours, built_on))


def _row(question: str, goal: str, ours: Sequence[float], theirs: Sequence[float]) -> Row:
    return row(
        question,
        ratio(ours, theirs),
        goal,
        value=statistics.median(ours) * 1e3,
        unit="ms",
        baseline=f"the same without p2p, {statistics.median(theirs) * 1e3:.0f}",
    )


def run(pace: Pace, tell: Tell) -> None:
    """Measure and tell the rows."""
    pace.run(_rows, pace, tell)
