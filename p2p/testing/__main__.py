"""`python -m p2p.testing --seed N`: run a simulated world, or many, and show the last events of one that failed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial

from p2p.errors import ConfigError
from p2p.testing.plan import draw_plan
from p2p.testing.world import World


def main(arguments: Sequence[str] | None = None) -> int:
    """Run worlds; returns 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m p2p.testing", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the world, or the first of many (default 0)")
    parser.add_argument("--worlds", type=_count, default=1, help="how many, with consecutive seeds (default 1)")
    parser.add_argument("--trace", action="store_true", help="print every event")
    parser.add_argument("--nodes", type=int, metavar="N", help="how many nodes, from 2 on; 5 to 7 by default")
    parser.add_argument("--seconds", type=float, metavar="S", help="virtual seconds that a world lasts; about 60")
    parser.add_argument("--jobs", type=_count, default=1, metavar="N", help="processes that run worlds (default 1)")
    parser.add_argument("--quiet", action="store_true", help="print nothing of worlds that are well")
    options = parser.parse_args(arguments)
    try:
        draw_plan(options.seed, nodes=options.nodes, seconds=options.seconds)
    except ConfigError as error:
        parser.error(str(error))
    seeds = range(options.seed, options.seed + options.worlds)
    run = partial(_run, nodes=options.nodes, seconds=options.seconds, with_trace=options.trace)
    failed: list[int] = []
    with ProcessPoolExecutor(options.jobs) if options.jobs > 1 else nullcontext() as pool:
        outcomes = pool.map(run, seeds) if pool is not None else map(run, seeds)
        for seed, (is_well, text) in zip(seeds, outcomes, strict=True):
            if not (is_well and options.quiet):
                sys.stdout.write(text)
                sys.stdout.flush()
            if not is_well:
                failed.append(seed)
    if options.worlds > 1:
        sys.stdout.write(f"{options.worlds - len(failed)} of {options.worlds} worlds are well\n")
    if failed:
        sys.stdout.write(f"seeds that failed: {', '.join(map(str, failed))}\n")
    return 1 if failed else 0


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is none: 1 or more")
    return number


def _run(seed: int, *, nodes: int | None, seconds: float | None, with_trace: bool) -> tuple[bool, str]:
    """Run one world; whether it was well, and what to print of it."""
    report = World(seed, draw_plan(seed, nodes=nodes, seconds=seconds)).run()
    trace = "".join(f"{line}\n" for line in report.trace) if with_trace else ""
    return not report.failures, f"{trace}{report}\n  trace {report.digest}\n"


if __name__ == "__main__":
    sys.exit(main())
