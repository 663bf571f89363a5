"""How much work is a message, a handshake, a batch, an append? Counted, not timed, so that a machine's load is nothing.

Each task of `guarded` and `guarded_nodes` runs under the interpreter's own hooks, which tell of every call and of every
bytecode instruction. The same code gives the same counts on every machine with the same version of Python, to within a
percent, so a count that grew by more than `GROWTH_MAX` is a regression that somebody made; tests/house/test_work.py
fails then.

What trio does for itself is left out. What our code calls of it is counted by name (checkpoints, waits, cancel scopes,
nurseries, tasks, wakings), and not one more is allowed. So nodes that run can be counted, too.

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
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self
from unittest.mock import patch

from benchmarks import guarded, guarded_nodes
from p2p.session import sealing

if TYPE_CHECKING:
    from types import CodeType, FrameType

    from _typeshed import ProfileFunction, TraceFunction

GROWTH_MAX: Final = 0.15
CHEAP: Final = frozenset({
    "builtins", "_struct", "collections", "_collections", "itertools", "_functools", "_operator", "_thread", "_weakref",
    "math", "time", "_contextvars", "select", "_abc", "gc", "sys",
})  # fmt: skip
"""Modules whose functions and types are called all the time, and do little; more of them shows as calls."""
DEAR_BUILTINS: Final = frozenset({"sorted", "sort"})
CHEAP_OF_LOOP: Final = frozenset({
    "current_time", "current_task", "CancelScope.cancel_called", "ParkingLot.__bool__", "ParkingLot.__len__",
})  # fmt: skip
"""What of the event loop only tells something; more of it shows as calls."""
PIECE_BYTES: Final = 1024
BYTES_OF_OTHERS: Final = 4096
"""What another thread of this process may take meanwhile, such as the one that tells how the tests go."""
KEPT: Final = Path(__file__).with_name("guard.json")
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
TASKS: Final = (*guarded.ALL, *guarded_nodes.ALL)
_MAKE_CIPHER: Final = "make_cipher"
_OURS: Final = frozenset({"p2p", "http_control", "benchmarks", "tests"})
_LOOP: Final = frozenset({"trio", "outcome", "sortedcontainers"})
_CALLING: Final = frozenset(number for name, number in dis.opmap.items() if name.startswith("CALL"))


class Whose(Enum):
    """Whose work it is that a frame does."""

    OURS = 1
    LOOP = 2
    CALLER = 3


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


class Counting:
    """Counts the work of its block, on this thread: of what is called in it, and of all tasks that run meanwhile.

    Attributes:
        work: what was counted, once the block is over.
    """

    def __init__(self) -> None:
        self.work = Work(0, 0, 0, 0, {})

    def __enter__(self) -> Self:
        self._before = sys.gettrace(), sys.getprofile()
        self._was_collecting, self._was_tracing = gc.isenabled(), tracemalloc.is_tracing()
        # A collection may call whoever asked to be told of it.
        gc.disable()
        tracemalloc.start()
        on_call, on_step, self._total = _hooks()
        sys.setprofile(on_call)
        sys.settrace(on_step)
        return self

    def __exit__(self, *_: object) -> None:
        trace, profile = self._before
        sys.settrace(trace)
        sys.setprofile(profile)
        if not self._was_tracing:
            tracemalloc.stop()
        if self._was_collecting:
            gc.enable()
        self.work = self._total()


def count(task: Callable[[], object]) -> Work:
    """Run a task once and count its work."""
    with Counting() as counting:
        task()
    return counting.work


def _hooks() -> tuple[ProfileFunction, TraceFunction, Callable[[], Work]]:
    """What the interpreter is to call, and what gives the work that they counted."""
    calls = sites = instructions = 0
    dear: Counter[str] = Counter()
    memory = _Memory()
    note_bytes, whose, own_end = memory.note, _Owners(memory).whose, Counting.__exit__.__code__

    def on_call(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        if frame.f_code is own_end:
            return
        if event == "c_call":
            if whose(frame) is Whose.OURS:
                calls += 1
                dear[dear_name(arg)] += 1
        elif event == "call":
            owner = whose(frame)
            if owner is Whose.OURS:
                calls += 1
                if frame.f_code.co_name == _MAKE_CIPHER:
                    dear["ciphers made"] += 1
            elif owner is Whose.LOOP and whose(frame.f_back) is Whose.OURS and _is_begun(frame):
                calls += 1
                dear[loop_name(frame.f_code)] += 1

    def on_step(frame: FrameType, event: str, arg: object) -> TraceFunction | None:
        nonlocal sites, instructions
        if event == "call":
            if frame.f_code is own_end or whose(frame) is not Whose.OURS:
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            instructions += 1
            if frame.f_code.co_code[frame.f_lasti] in _CALLING:
                sites += 1
        # Since the step before: no instruction takes two large pieces and gives the first back.
        note_bytes()
        return on_step

    def total() -> Work:
        named = {name: times for name, times in sorted(dear.items()) if name}
        return Work(calls, sites, instructions, memory.taken, named)

    return on_call, on_step, total


class _Memory:
    """The bytes that Python takes in large pieces.

    Attributes:
        taken: since this was made, as of the last `note`.
    """

    __slots__ = ("_held", "taken")

    def __init__(self) -> None:
        self.taken = 0
        self._held, _ = tracemalloc.get_traced_memory()

    def note(self) -> None:
        """Look at what was taken since the last look."""
        now, peak = tracemalloc.get_traced_memory()
        if peak - self._held >= PIECE_BYTES:
            self.taken += peak - self._held
        self._held = now
        if peak > now:
            tracemalloc.reset_peak()

    def forget(self) -> None:
        """Have what was taken since the last look be nobody's."""
        self._held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()


class _Owners:
    """Whose work each frame does."""

    __slots__ = ("_known", "_memory")

    def __init__(self, memory: _Memory) -> None:
        self._known: dict[str, Whose] = {}
        self._memory = memory

    def whose(self, frame: FrameType | None) -> Whose:
        """What is neither ours nor the loop's is his who called it."""
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            owner = self._known.get(module) or self._look_at(module)
            if owner is not Whose.CALLER:
                return owner
            frame = frame.f_back
        return Whose.OURS

    def _look_at(self, module: str) -> Whose:
        self._memory.note()
        package = module.partition(".")[0]
        owner = Whose.OURS if package in _OURS else Whose.LOOP if package in _LOOP else Whose.CALLER
        self._known[module] = owner
        self._memory.forget()
        return owner


def loop_name(code: CodeType) -> str:
    """By what name a function of the event loop is counted that was called; empty if it is cheap."""
    # A scope that is made and not entered is nothing.
    is_cheap = code.co_qualname in CHEAP_OF_LOOP or code.co_name == "__init__"
    return "" if is_cheap else f"trio.{code.co_qualname}"


def _is_begun(frame: FrameType) -> bool:
    """Whether a frame is called, and not gone on with after it waited."""
    return frame.f_code.co_code[frame.f_lasti + 1] & 3 == 0


def measure() -> dict[str, Work]:
    """Count every task; what is no dear call, for one unit of it."""
    ciphers = {name: _told(cipher) for name, cipher in sealing._CIPHERS.items()}  # noqa: SLF001  # no seam for a count
    with patch.object(sealing, "_CIPHERS", ciphers):
        return {task.name: work_of(task) for task in TASKS}


def work_of(task: guarded.Guarded) -> Work:
    """Count one task; what is no dear call, for one unit of it."""
    counting = Counting()
    task.run(counting)
    calls, sites, instructions, taken, dear = counting.work
    units = task.units
    return Work(calls // units, sites // units, instructions // units, taken // units, dear)


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
