"""Processes on the hosts of a test: forks of one that has imported what a node needs, which is most of their start.

Python's own server of forks makes them, and each of them first goes into its host's namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any, TextIO

import trio

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET


class Inside:
    """A process in a namespace.

    Attributes:
        stdin, stdout: the other ends of its streams.
    """

    def __init__(self, process: BaseProcess, stdin: TextIO, stdout: TextIO) -> None:
        self._process = process
        self.stdin = stdin
        self.stdout = stdout

    def freeze(self) -> None:
        """Let it stand still for good."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """End it where it stands."""
        self._process.kill()
        self._process.join()


@contextlib.contextmanager
def inside(
    namespace: str, run: Callable[[dict[str, Any]], Awaitable[None]], settings: dict[str, Any]
) -> Iterator[Inside]:
    """Run an async function of a module in a process of that namespace, with its standard streams."""
    context = _forks()
    its_stdin, stdin = context.Pipe(duplex=False)
    stdout, its_stdout = context.Pipe(duplex=False)
    process = context.Process(target=_go, args=(namespace, run, settings, its_stdin, its_stdout), daemon=True)
    process.start()
    its_stdin.close()
    its_stdout.close()
    with open(os.dup(stdin.fileno()), "w") as to_it, open(os.dup(stdout.fileno())) as from_it:
        stdin.close()
        stdout.close()
        made = Inside(process, to_it, from_it)  # type: ignore[arg-type]  # a process of that context
        try:
            yield made
        finally:
            made.kill()
            process.close()


@functools.cache
def _forks() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "p2p.node.node", "tests.netns.participant", "tests.netns.relay_member"])
    return context


def _go(
    namespace: str,
    run: Callable[[dict[str, Any]], Awaitable[None]],
    settings: dict[str, Any],
    stdin: Connection,
    stdout: Connection,
) -> None:
    with open(f"/run/netns/{namespace}") as place:
        if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), _NEW_NETWORK):
            raise OSError(ctypes.get_errno(), f"cannot go into {namespace}")
    # What multiprocessing has put there reads nothing.
    sys.stdin = os.fdopen(stdin.fileno(), closefd=False)
    sys.stdout = os.fdopen(stdout.fileno(), "w", closefd=False)
    trio.run(run, settings)
