"""How long does the import of all that a node needs take, beside the import of what it is built on?

Each import happens in a fresh interpreter with compiled modules at hand, as after the first run of any program. What
counts is processor time from the first statement on, without the interpreter's own start.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from benchmarks.harness import Paired, Row, paired

OURS = "import p2p; p2p.open_node"
BASELINE = "import trio, cryptography.hazmat.primitives.ciphers.aead"
GOAL = 1.5
BUILT_ON = "import trio, msgspec, cryptography.hazmat.primitives.ciphers.aead"


def _seconds(statement: str, cache: str) -> float:
    code = f"import time\nstarted = time.process_time()\n{statement}\nprint(time.process_time() - started)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = cache
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


def run(quick: bool) -> list[Row]:
    """Measure and return the rows."""
    rounds = 5 if quick else 15
    with tempfile.TemporaryDirectory() as cache:
        least = paired(lambda: _seconds(OURS, cache), lambda: _seconds(BASELINE, cache), rounds)
        built_on = paired(lambda: _seconds(OURS, cache), lambda: _seconds(BUILT_ON, cache), rounds)
    return [
        _row("import of a node ÷ import of trio and cryptography's AEAD", least)
        | {"goal": f"<= {GOAL}", "met": least.ratio <= GOAL},
        _row("import of a node ÷ import of trio, msgspec and cryptography's AEAD", built_on),
    ]


def _row(question: str, result: Paired) -> dict[str, object]:
    return {
        "question": question,
        "value": result.first * 1e3,
        "unit": "ms",
        "baseline": f"the same without p2p, {result.second * 1e3:.0f} ms",
        "ratio": result.ratio,
        "note": f"± {result.spread:.0%}",
    }
