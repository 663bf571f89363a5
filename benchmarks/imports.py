"""How long does the import of all that a node needs take, beside the import of what it is built on?

Each import happens in a fresh interpreter with compiled modules at hand, as after the first run of any program. What
counts is processor time from the first statement on, without the interpreter's own start.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from benchmarks.harness import Row, paired

OURS = "import p2p; p2p.open_node"
BASELINE = "import trio, msgspec, cryptography.hazmat.primitives.ciphers.aead"


def _seconds(statement: str, cache: str) -> float:
    code = f"import time\nstarted = time.process_time()\n{statement}\nprint(time.process_time() - started)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = cache
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


def run(quick: bool) -> list[Row]:
    """Measure and return the rows."""
    with tempfile.TemporaryDirectory() as cache:
        result = paired(lambda: _seconds(OURS, cache), lambda: _seconds(BASELINE, cache), 5 if quick else 15)
    return [
        {
            "question": "import of a node ÷ import of trio, msgspec and cryptography's AEAD",
            "value": result.first * 1e3,
            "unit": "ms",
            "baseline": f"the same without p2p, {result.second * 1e3:.0f} ms",
            "ratio": result.ratio,
            "goal": "<= 1.5",
            "met": result.ratio <= 1.5,
            "note": f"± {result.spread:.0%}",
        }
    ]
