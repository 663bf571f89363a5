"""What every test of the command line shares."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from unittest.mock import patch

import pytest
import trio

from tests.cli.processes import STARTED


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """A command sends the package's lines where it is told to, and later tests look for them where they were."""
    log = logging.getLogger("p2p")
    level = log.level
    with patch.multiple(log, handlers=[], propagate=log.propagate):
        yield
    log.setLevel(level)


@pytest.fixture(autouse=True)
def none_is_left() -> Iterator[None]:
    """No process of a test outlives it."""
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            process.kill()
            if isinstance(process, trio.Process):
                process._proc.wait()
