"""The command line: `p2p --id A --listen 9001`, `p2p wal …`, `p2p id`, `p2p demo`.

Importing this costs nothing: click and rich, which only the `cli` extra installs, are looked for when `main` runs.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line with the process's arguments; exits 0, 1 on failure, 2 on wrong usage."""
    try:
        import click
        import rich
    except ImportError as error:
        sys.stderr.write(f"p2p: the command line needs {error.name}: pip install 'trio-p2p[cli]'\n")
        raise SystemExit(1) from None
    del click, rich
    from p2p.cli.app import run_command_line

    raise SystemExit(run_command_line(sys.argv[1:]))
