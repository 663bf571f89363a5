"""The `p2p` command, as long as nothing is imported yet.

Responsible for one thing: an interrupt while Python imports the rest (a few tenths of a second) ends the process as it
ends any other program, and not with a picture of what was being imported. It stands outside of the package because the
package's own import is the longest part of that time.
"""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line, see `p2p.cli.main`."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from p2p.cli import main as run

    run()


if __name__ == "__main__":
    main()
