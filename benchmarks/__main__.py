"""`python -m benchmarks [--quick] [--out FILE.json] [NAME …]`: run the benchmarks and print a table.

A goal that is missed shows in the table and does not fail the run; a benchmark that cannot run does. Ctrl-C, SIGTERM
and SIGHUP end the run with what was measured until then.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from functools import partial
from pathlib import Path

from benchmarks.figures import check_out, this_machine
from benchmarks.harness import Tell
from benchmarks.session import Session

NAMES = (
    "codec", "transport", "messages", "requests", "relay", "handshake", "store", "catchup", "mesh", "processes",
    "crowd", "growth", "imports", "registry", "attack",
)  # fmt: skip
"""Each is a module here with `run(quick: bool, tell: Tell) -> None` (see harness.py)."""


def main() -> int:
    """Run what the command line names, all of it by default; 1 if a benchmark broke."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller amounts: less than two minutes")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(NAMES)}")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(NAMES)):
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    check_out(parser, options.out)
    session = Session(this_machine(), options.quick, options.out)
    return session.run({name: partial(_run, name, options.quick) for name in options.names or NAMES})


def _run(name: str, quick: bool, tell: Tell) -> None:
    # Each is imported in its turn: one that cannot be leaves the others be.
    importlib.import_module(f"benchmarks.{name}").run(quick, tell)


if __name__ == "__main__":
    sys.exit(main())
