"""`python -m benchmarks.rivals PYTHON [--quick] [--out FILE.json]`: this library beside others, each at its own best.

PYTHON is an interpreter that has pyzmq and libp2p, as `make bench-peers` makes it; what it does not have is left out
and said. Round by round ours and the other run in turn, sender and receiver in two processes each (see rival.py), and
the ratio is ours to theirs within the round. They are not the same thing: asyncio and plain pyzmq seal nothing, and of
all only py-libp2p knows whom it talks to as we do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from benchmarks.figures import check_out, this_machine
from benchmarks.harness import Tell, in_turn, ratio, row
from benchmarks.rival import ECHO_SHARE
from benchmarks.session import Session

OURS: Final = "trio-p2p"
BODY_BYTES: Final = 128
GOALS: Final = {"pyzmq CURVE": ">= 1"}
"""One way. Of the others none seals and is as fast, or is in reach."""
SECONDS_MAX: Final = 120.0
ERROR_MAX: Final = 2000

RIVALS: Final = {
    "asyncio": ("", 40_000, "streams, length-prefixed, plain"),
    "pyzmq": ("zmq", 40_000, "PAIR, blocking, plain"),
    "pyzmq CURVE": ("zmq", 40_000, "PAIR, blocking, encrypted"),
    "py-libp2p": ("libp2p", 2_000, "TCP, its default security and muxer"),
}
"""The module that is needed, messages a round, and what it is."""

DISTRIBUTIONS: Final = {"zmq": "pyzmq", "libp2p": "libp2p"}
"""What has the modules."""

_HERE: Final = Path(__file__).with_name("rival.py")


def _command(system: str, python: str) -> list[str]:
    if system == OURS:
        return [sys.executable, "-m", "benchmarks.rival", system]
    # -P: modules here have names that theirs would import.
    return [python, "-P", str(_HERE), system]


@contextmanager
def _sink(command: list[str]) -> Iterator[dict[str, Any]]:
    with subprocess.Popen(
        [*command, "sink"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            if not (line := process.stdout.readline()):
                raise RuntimeError(f"{command[-1]}: its sink ended before it was ready")
            yield json.loads(line)
        finally:
            process.kill()


def _run(system: str, python: str, count: int) -> dict[str, float]:
    """Seconds of so many messages one way, and of a tenth as many questions and answers."""
    command = _command(system, python)
    with _sink(command) as at:
        arguments = [str(at["port"]), at["key"], str(BODY_BYTES), str(count)]
        done = subprocess.run(
            [*command, "send", *arguments], check=False, capture_output=True, text=True, timeout=SECONDS_MAX
        )
    if done.returncode:
        raise RuntimeError(f"{system}: its sender ended with {done.returncode}: {done.stderr.strip()[-ERROR_MAX:]}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


async def _compare(rival: str, python: str, rounds: int, tell: Tell) -> None:
    _, count, what = RIVALS[rival]

    async def side(system: str) -> dict[str, float]:
        return _run(system, python, count)

    # Each run warms itself up.
    measured = await in_turn(rounds, partial(side, OURS), partial(side, rival), warm_up=0)
    ours, theirs = zip(*measured, strict=True)
    for key, question, goal, unit, scale in (
        ("one_way", f"messages of {BODY_BYTES} B one way ÷ {rival}", GOALS.get(rival, ""), "messages/s", count),
        (
            "echo",
            f"questions of {BODY_BYTES} B and answers, one at a time ÷ {rival}",
            "",
            "a second",
            count // ECHO_SHARE,
        ),
    ):
        ours_s, theirs_s = ([each[key] for each in side] for side in (ours, theirs))
        tell(
            row(
                question,
                ratio(theirs_s, ours_s),
                goal,
                value=scale / statistics.median(ours_s),
                unit=unit,
                baseline=f"{what}, {scale / statistics.median(theirs_s):,.0f}",
                note="more is better",
            )
        )


def _beside(rival: str, python: str, rounds: int, tell: Tell) -> None:
    trio.run(_compare, rival, python, rounds, tell)


def _missing(python: str, module: str) -> str:
    """Why an interpreter cannot import a module; empty if it can."""
    try:
        found = subprocess.run([python, "-P", "-c", f"import {module}"], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{python}: {error.strerror}"
    return (found.stderr.strip() or f"exit code {found.returncode}").splitlines()[-1] if found.returncode else ""


def _versions(python: str, modules: Iterable[str]) -> dict[str, str]:
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    names = [DISTRIBUTIONS[module] for module in modules]
    done = subprocess.run([python, "-P", "-c", code, *names], capture_output=True, text=True, check=True)
    return dict(zip(names, done.stdout.split(), strict=True))


def main() -> int:
    """Compare with all that the other interpreter has."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals", description=__doc__)
    parser.add_argument("python", help="an interpreter with pyzmq and libp2p")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args()
    check_out(parser, options.out)
    if why := _missing(options.python, "sys"):
        parser.error(f"no interpreter that runs: {why}")
    here = []
    for module, distribution in DISTRIBUTIONS.items():
        if why := _missing(options.python, module):
            print(f"{distribution} is left out, {options.python} cannot import it: {why}", file=sys.stderr)
        else:
            here.append(module)
    rounds = 3 if options.quick else 9
    session = Session(this_machine(_versions(options.python, here)), options.quick, options.out)
    return session.run({
        rival: partial(_beside, rival, options.python, rounds)
        for rival, (module, _, _) in RIVALS.items()
        if not module or module in here
    })  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
