"""How much work is a message, a handshake, a batch, an append? Counted, not timed, so that a machine's load is nothing.

Each task of `guarded` runs under the interpreter's own hooks, which tell of every call and of every bytecode
instruction. The same code gives the same counts on every machine with the same version of Python, to within a percent,
so a count that grew by more than `GROWTH_MAX` is a regression that somebody made; tests/house/test_work.py fails then.

What C does is no instruction, so it is counted by what it costs. Each call of what may be dear, which is all but what
is named in `CHEAP`, is counted by its name (cryptography, hashes, checksums, JSON, sorts, SQL, calls of the operating
system), and not one more is allowed. And so are the bytes of the memory that Python takes in pieces of `PIECE_BYTES` or
more, which is what a copy is. Not seen: how long such a call takes, what moves within its place (the front of a
bytearray cut off), what SQLite or the cryptography does for itself (a sync within a commit, the memory it takes), and
that a call of what is cheap has more to do. The timed benchmarks see those.

    .venv/bin/python -m benchmarks.guard          what it is now, beside the numbers that are kept
    .venv/bin/python -m benchmarks.guard --keep   keep these: say why in the commit
"""

from __future__ import annotations

import argparse
import dis
import gc
import json
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from unittest.mock import patch

from benchmarks import guarded
from p2p.session import sealing

if TYPE_CHECKING:
    from types import FrameType

    from _typeshed import TraceFunction

GROWTH_MAX: Final = 0.15
CHEAP: Final = frozenset({
    "builtins", "_struct", "collections", "_collections", "itertools", "_functools", "_operator", "_thread", "_weakref",
    "math", "time", "_contextvars", "select", "_abc", "gc", "sys",
})  # fmt: skip
"""Modules whose functions and types are called all the time, and do little; more of them shows as calls."""
DEAR_BUILTINS: Final = frozenset({"sorted", "sort"})
PIECE_BYTES: Final = 1024
BYTES_OF_OTHERS: Final = 4096
"""What another thread of this process may take meanwhile, such as the one that tells how the tests go."""
KEPT: Final = Path(__file__).with_name("guard.json")
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
_MAKE_CIPHER: Final = "make_cipher"
_CALLING: Final = frozenset(number for name, number in dis.opmap.items() if name.startswith("CALL"))


class Work(NamedTuple):
    """What a task did.

    Attributes:
        calls: of functions, in Python and in C.
        sites: calls that bytecode makes, among them those of types in C (`bytes(…)`), which nothing else tells.
        instructions: of bytecode.
        bytes: of memory taken in pieces of `PIECE_BYTES` or more.
        dear: how often each dear function was called, by all of the task.
    """

    calls: int
    sites: int
    instructions: int
    bytes: int
    dear: dict[str, int]


def dear_name(function: object) -> str:
    """By what name a function in C is counted; empty if it is cheap."""
    name, owner = getattr(function, "__name__", ""), getattr(function, "__self__", None)
    # Of a module, or of a class, or of one of its values.
    kind = owner if isinstance(owner, type) else type(owner)
    is_free = owner is None or isinstance(owner, ModuleType)
    home = (getattr(function, "__module__", None) or "builtins") if is_free else kind.__module__
    if home in CHEAP and name not in DEAR_BUILTINS:
        return ""
    return f"{home if is_free else kind.__name__}.{name}"


def count(task: Callable[[], object]) -> Work:
    """Run a task once and count its work."""
    calls = sites = instructions = taken = held = 0
    dear: Counter[str] = Counter()

    def on_call(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        if event == "c_call":
            calls += 1
            if name := dear_name(arg):
                dear[name] += 1
        elif event == "call":
            calls += 1
            if frame.f_code.co_name == _MAKE_CIPHER:
                dear["ciphers made"] += 1

    def on_step(frame: FrameType, event: str, arg: object) -> TraceFunction:
        nonlocal sites, instructions, taken, held
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            instructions += 1
            if frame.f_code.co_code[frame.f_lasti] in _CALLING:
                sites += 1
        # Since the step before: no instruction takes two large pieces and gives the first back.
        now, peak = tracemalloc.get_traced_memory()
        if peak - held >= PIECE_BYTES:
            taken += peak - held
        held = now
        tracemalloc.reset_peak()
        return on_step

    before = sys.gettrace(), sys.getprofile()
    was_collecting, was_tracing = gc.isenabled(), tracemalloc.is_tracing()
    # A collection may call whoever asked to be told of it.
    gc.disable()
    tracemalloc.start()
    held, _ = tracemalloc.get_traced_memory()
    sys.setprofile(on_call)
    sys.settrace(on_step)
    try:
        task()
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
        if not was_tracing:
            tracemalloc.stop()
        if was_collecting:
            gc.enable()
    # Of our own hands that stop it.
    for own in ("sys.setprofile", "sys.settrace"):
        dear.pop(own, None)
    return Work(calls, sites, instructions, taken, dict(sorted(dear.items())))


def measure() -> dict[str, Work]:
    """Count every task; what is no dear call, for one unit of it."""
    ciphers = {name: _told(cipher) for name, cipher in sealing._CIPHERS.items()}  # noqa: SLF001  # no seam for a count
    with patch.object(sealing, "_CIPHERS", ciphers):
        return {task.name: _for_one(work, task.units) for task, work in _counted()}


def _for_one(work: Work, units: int) -> Work:
    calls, sites, instructions, taken, dear = work
    return Work(calls // units, sites // units, instructions // units, taken // units, dear)


def _counted() -> Iterator[tuple[guarded.Guarded, Work]]:
    for task in guarded.ALL:
        found: list[Work] = []
        task.run(lambda doing, found=found: found.append(count(doing)))  # type: ignore[misc]  # a default binds the list
        yield task, found[0]


def _told(cipher: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    # The interpreter does not tell when a class in C is called.
    def make_cipher(key: bytes) -> Any:
        return cipher(key)

    return make_cipher


def grown(kept: Mapping[str, Any], found: Mapping[str, Work]) -> list[str]:
    """What takes more than it did, one line each."""
    lines = []
    for name, work in found.items():
        if name not in kept:
            lines.append(f"{name}: nothing is kept to compare it with")
            continue
        *numbers, dear = kept[name]
        for what, before, now in zip(Work._fields, numbers, work, strict=False):
            noise = BYTES_OF_OTHERS if what == "bytes" else 0
            if now > before * (1 + GROWTH_MAX) + noise:
                lines.append(f"{name}: {now} {what}, and {before} before ({now / max(before, 1) - 1:+.0%})")
        for what, now in work.dear.items():
            if now > dear.get(what, 0):
                lines.append(f"{name}: {now} calls of {what}, and {dear.get(what, 0)} before")
    return lines


def as_table(kept: Mapping[str, Any], found: Mapping[str, Work]) -> str:
    """Each task with what it is now, what is kept, and by how much it differs; of dear calls those that differ."""
    lines = [f"{'':<52}{'now':>10}{'kept':>10}{'':>8}"]
    for name, work in found.items():
        *numbers, dear = kept.get(name, [0, 0, 0, {}])
        lines.append(name)
        lines += [_line(*each) for each in zip(Work._fields, work[:-1], numbers, strict=False)]
        differing = [each for each in sorted({*work.dear, *dear}) if work.dear.get(each, 0) != dear.get(each, 0)]
        lines.append(_line("dear calls", sum(work.dear.values()), sum(dear.values())))
        lines += [_line(f"  {each}", work.dear.get(each, 0), dear.get(each, 0)) for each in differing]
    return "\n".join(lines)


def _line(what: str, now: int, before: int) -> str:
    change = f"{now / before - 1:+.0%}" if before and now != before else "" if now == before else "new"
    return f"    {what:<48}{now:>10,}{before:>10,}{change:>8}".rstrip()


def read_kept() -> dict[str, Any]:
    """The numbers that are kept, and of which Python they are.

    Raises:
        OSError, ValueError: there are none.
    """
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    if not isinstance(kept, dict) or not isinstance(kept.get("work"), dict) or "python" not in kept:
        raise ValueError("no object with python and work")
    return kept


def main() -> int:
    """Print what it is now beside what is kept, or keep it; 1 if something grew, 2 if there is nothing to compare."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", action="store_true", help="keep the numbers of now")
    if parser.parse_args().keep:
        lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(work)}" for name, work in measure().items())
        KEPT.write_text(f'{{\n  "python": "{PYTHON}",\n  "work": {{\n{lines}\n  }}\n}}\n', encoding="utf-8")
        return 0
    try:
        kept = read_kept()
    except (OSError, ValueError) as error:
        print(f"{KEPT}: {error}; --keep writes it anew", file=sys.stderr)
        return 2
    found = measure()
    print(as_table(kept["work"], found))
    if kept["python"] != PYTHON:
        print(f"kept by Python {kept['python']}, which has other instructions than {PYTHON}: compare calls alone")
    regressions = grown(kept["work"], found)
    print("\n".join(["", "grown:", *regressions]) if regressions else "\nnothing grew")
    return 1 if regressions else 0


if __name__ == "__main__":
    sys.exit(main())
