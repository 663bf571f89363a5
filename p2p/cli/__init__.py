"""The command line: `p2p --id A --listen 9001`, `p2p wal …`, `p2p id`, `p2p demo`.

Importing this costs nothing: click and rich, which only the `cli` extra installs, are looked for when `main` runs.
"""

from __future__ import annotations

import io
import os
import signal
import sys


def main() -> None:
    """Run the command line with the process's arguments; exits 0, 1 on failure, 2 on wrong usage."""
    fill_standard_descriptors()
    # From the first import to the last breath an interrupt just ends the process, but while a command runs.
    is_ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    if not is_ignored:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        import click
        import rich
    except ImportError as error:
        needs = f"the command line needs {error.name}: pip install 'trio-p2p[cli]', or '.[cli]' in a clone"
        sys.stderr.write(f"p2p: {needs}\n")
        raise SystemExit(1) from None
    del click, rich
    from p2p.cli.app import run_command_line

    if not is_ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code = run_command_line(sys.argv[1:])
    if not is_ignored:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise SystemExit(code)


def fill_standard_descriptors() -> None:
    """Open /dev/null where standard input, output or error is closed.

    Else the next file or socket would get that number, and what is printed would go there.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            assert opened == number, "the lowest free number is the one that is closed"
        if getattr(sys, name) is None:
            stream = io.TextIOWrapper(io.FileIO(number, mode, closefd=False), encoding="utf-8", write_through=True)
            setattr(sys, name, stream)
