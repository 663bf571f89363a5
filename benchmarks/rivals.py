"""`python -m benchmarks.rivals PYTHON [--quick] [--out FILE.json]`: this library beside others, each at its own best.

PYTHON is an interpreter that has pyzmq and libp2p, as `make bench-peers` makes it; what it does not have is left out
and said. Round by round ours runs and then the other, sender and receiver in two processes each (see rival.py), and
the ratio is ours to theirs within the round. They are not the same thing: asyncio and plain pyzmq seal nothing, and of
all only py-libp2p knows whom it talks to as we do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import Row, as_table, check_out, end_as_by_ctrl_c, write
from benchmarks.rival import ECHO_SHARE

OURS: Final = "trio-p2p"
BODY_BYTES: Final = 128
GOALS: Final = {"pyzmq CURVE": 1.0}
"""One way. Of the others none seals and is as fast, or is in reach."""
SECONDS_MAX: Final = 120.0

RIVALS: Final = {
    "asyncio": ("", 40_000, "streams, length-prefixed, plain"),
    "pyzmq": ("zmq", 40_000, "PAIR, blocking, plain"),
    "pyzmq CURVE": ("zmq", 40_000, "PAIR, blocking, encrypted"),
    "py-libp2p": ("libp2p", 2_000, "TCP, its default security and muxer"),
}
"""The module that is needed, messages a round, and what it is."""

_HERE: Final = Path(__file__).with_name("rival.py")


def _command(system: str, python: str) -> list[str]:
    if system == OURS:
        return [sys.executable, "-m", "benchmarks.rival", system]
    # -P: modules here have names that theirs would import.
    return [python, "-P", str(_HERE), system]


@contextmanager
def _sink(command: list[str]) -> Iterator[dict[str, Any]]:
    with subprocess.Popen([*command, "sink"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.kill()


def _run(system: str, python: str, count: int) -> dict[str, float]:
    """Seconds of so many messages one way, and of a tenth as many questions and answers."""
    command = _command(system, python)
    with _sink(command) as at:
        arguments = [str(at["port"]), at["key"], str(BODY_BYTES), str(count)]
        done = subprocess.run(
            [*command, "send", *arguments], check=True, capture_output=True, text=True, timeout=SECONDS_MAX
        )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _compare(rival: str, python: str, rounds: int) -> list[Row]:
    _, count, what = RIVALS[rival]
    one_way, echo, rates = [], [], []
    for _ in range(rounds):
        ours, theirs = _run(OURS, python, count), _run(rival, python, count)
        one_way.append(theirs["one_way"] / ours["one_way"])
        echo.append(theirs["echo"] / ours["echo"])
        rates.append((count / ours["one_way"], ours["echo"] / count * ECHO_SHARE * 1e6))
    goal, ratio = GOALS.get(rival), statistics.median(one_way)
    return [
        {
            "question": f"messages of {BODY_BYTES} B one way ÷ {rival}",
            "value": statistics.median(rate for rate, _ in rates),
            "unit": "messages/s",
            "baseline": what,
            "ratio": ratio,
            **({} if goal is None else {"goal": f">= {goal:g}", "met": ratio >= goal}),
            "note": f"{min(one_way):.2g} to {max(one_way):.2g} over {rounds} rounds; more is better",
        },
        {
            "question": f"questions of {BODY_BYTES} B and their answers, one at a time ÷ {rival}",
            "value": statistics.median(microseconds for _, microseconds in rates),
            "unit": "µs each",
            "baseline": what,
            "ratio": statistics.median(echo),
            "note": f"{min(echo):.2g} to {max(echo):.2g} over {rounds} rounds; more is better",
        },
    ]


def main() -> int:
    """Compare with all that the other interpreter has."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals", description=__doc__)
    parser.add_argument("python", help="an interpreter with pyzmq and libp2p")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args()
    check_out(parser, options.out)
    end_as_by_ctrl_c()
    rows: list[Row] = []
    for rival, (module, _, _) in RIVALS.items():
        if module:
            imported = [options.python, "-c", f"import {module}"]
            found = subprocess.run(imported, capture_output=True, text=True, check=False)
            if found.returncode:
                print(f"{rival} is left out: {found.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                continue
        print(f"{rival} …", file=sys.stderr, flush=True)
        rows += _compare(rival, options.python, 3 if options.quick else 9)
        write(rows, options.out)
    print(as_table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
