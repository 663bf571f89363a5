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
from benchmarks.pace import Budget
from benchmarks.session import Session

SHARES = {
    "codec": 2, "transport": 4, "messages": 6, "requests": 4, "relay": 11, "handshake": 2, "store": 6, "catchup": 4,
    "mesh": 4, "processes": 14, "crowd": 19, "growth": 9, "imports": 6, "registry": 5, "attack": 18,
}  # fmt: skip
"""Each is a module here with `run(pace: Pace, tell: Tell) -> None` (see harness.py and pace.py). Beside it, about how
many seconds a quick run of it takes where other work keeps the cores busy: shares of the time that there is."""
NAMES = tuple(SHARES)


def main() -> int:
    """Run what the command line names, all of it by default; 1 if a benchmark broke."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="fewer rounds and smaller amounts: less than two minutes, whatever is left out",
    )
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(NAMES)}")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(NAMES)):
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    check_out(parser, options.out)
    names = dict.fromkeys(options.names or NAMES)
    session = Session(this_machine(), options.quick, options.out)
    budget = Budget(SHARES, names, quick=options.quick)
    return session.run({name: partial(_run, name, budget) for name in names})


def _run(name: str, budget: Budget, tell: Tell) -> None:
    pace = budget.begin(name)
    # Each is imported in its turn: one that cannot be leaves the others be.
    importlib.import_module(f"benchmarks.{name}").run(pace, lambda row: tell(pace.told(row)))


if __name__ == "__main__":
    sys.exit(main())
