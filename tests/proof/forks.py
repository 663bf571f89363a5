"""Forks that run something and are killed: a life costs no imports, so that there can be hundreds.

Not for a process in which trio has run before: its idle worker threads would be missing in the fork.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable

PATIENCE_S = 60.0
"""No life says nothing for so long, unless it hangs."""


class Child:
    """A fork that runs a function with standard output going to us.

    Args:
        run: what it does; it is expected never to return.
    """

    def __init__(self, run: Callable[[], None]) -> None:
        self._reader, writer = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._reader)
            os.dup2(writer, 1)
            os.close(writer)
            try:
                run()
            except BaseException:  # noqa: BLE001  # it is shown, and the parent sees that the child has ended
                traceback.print_exc(file=sys.__stderr__)
            finally:
                os._exit(70)
        os.close(writer)
        self._rest = b""

    def lines_until(self, count: int, then_s: float) -> list[str]:
        """Wait for so many lines, and so much longer; return the whole lines that were said until then."""
        said: list[str] = []
        deadline = time.monotonic() + PATIENCE_S
        while len(said) < count:
            assert time.monotonic() < deadline, f"a child said nothing for {PATIENCE_S} s"
            ended = self._read(1.0)
            if came := self._whole_lines():
                said += came
                deadline = time.monotonic() + PATIENCE_S
            assert not ended, f"a child ended by itself after {said[-3:]}"
        if then_s:
            time.sleep(then_s)
        return said

    def kill(self) -> list[str]:
        """Kill it; return what it had said."""
        os.kill(self.pid, signal.SIGKILL)
        while not self._read(PATIENCE_S):
            pass
        os.close(self._reader)
        _, status = os.waitpid(self.pid, 0)
        assert os.WIFSIGNALED(status), "it was to be killed, and ended by itself"
        # A line that was cut off was not said.
        return self._whole_lines()

    def _read(self, timeout_s: float) -> bool:
        """Take what there is; whether that was the end."""
        ready, _, _ = select.select([self._reader], [], [], timeout_s)
        data = os.read(self._reader, 1 << 16) if ready else b""
        self._rest += data
        return bool(ready) and not data

    def _whole_lines(self) -> list[str]:
        *lines, self._rest = self._rest.split(b"\n")
        return [line.decode() for line in lines]
