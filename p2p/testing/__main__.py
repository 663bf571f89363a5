"""`python -m p2p.testing --seed N`: run a simulated world, or many, and show the last events of one that failed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from p2p.testing.world import World


def main(arguments: Sequence[str] | None = None) -> int:
    """Run worlds; returns 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m p2p.testing", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the world, or the first of many (default 0)")
    parser.add_argument("--worlds", type=int, default=1, help="how many, with consecutive seeds (default 1)")
    parser.add_argument("--trace", action="store_true", help="print every event")
    options = parser.parse_args(arguments)
    failed = 0
    for seed in range(options.seed, options.seed + options.worlds):
        report = World(seed).run()
        if options.trace:
            sys.stdout.write("".join(f"{line}\n" for line in report.trace))
        sys.stdout.write(f"{report}\n  trace {report.digest}\n")
        sys.stdout.flush()
        failed += bool(report.failures)
    if options.worlds > 1:
        sys.stdout.write(f"{options.worlds - failed} of {options.worlds} worlds are well\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
