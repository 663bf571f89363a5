"""`python -m benchmarks [--quick] [--out FILE.json] [NAME …]`: run the benchmarks and print a table.

A goal that is missed shows in the table and does not fail the run; a benchmark that cannot run does. Ctrl-C and
SIGTERM end the run with what was measured until then.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from pathlib import Path

from benchmarks.harness import Row, as_table, check_out, end_as_by_ctrl_c, is_interrupt, write

NAMES = (
    "codec", "transport", "messages", "requests", "relay", "handshake", "store", "catchup", "mesh", "processes",
    "crowd", "growth", "imports", "registry", "attack",
)  # fmt: skip
"""Each is a module here with `run(quick: bool) -> Iterable[Row]` (see harness.py)."""


def main() -> int:
    """Run what the command line names, all of it by default; 1 if a benchmark broke."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller amounts")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(NAMES)}")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(NAMES)):
        parser.error(f"no benchmark is called {', '.join(unknown)}")
    check_out(parser, options.out)
    end_as_by_ctrl_c()
    rows: list[Row] = []
    broken = []
    interrupted = False
    for name in options.names or NAMES:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            for row in importlib.import_module(f"benchmarks.{name}").run(options.quick):
                rows.append(row)  # noqa: PERF402  # those before a failure count
        except Exception:  # noqa: BLE001  # one broken benchmark must not take the others' figures with it
            traceback.print_exc()
            broken.append(name)
        except BaseException as error:
            if not is_interrupt(error):
                raise
            print(f"{name} was interrupted; until then:", file=sys.stderr)
            interrupted = True
            break
        write(rows, options.out)
    print(as_table(rows))
    if broken:
        print(f"could not be measured: {', '.join(broken)}", file=sys.stderr)
    if interrupted:
        return 130
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
