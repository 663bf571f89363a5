"""A real redis-server for tests: on a unix socket of its own, keeping nothing, gone at the end."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.programs import find_program


@contextmanager
def redis_server(directory: Path, *more: str) -> Iterator[str]:
    """Run one, with more arguments; yields its URL. The test needs the mark `needs("redis-server")`."""
    program = find_program("redis-server")
    assert program is not None, "mark the test with needs('redis-server')"
    # Unix sockets have short names, temporary directories of tests long ones: so the name is relative to where it runs.
    socket = directory / "r.sock"
    arguments = ["--port", "0", "--unixsocket", "r.sock", "--save", "", "--appendonly", "no", "--dir", str(directory)]
    with subprocess.Popen(
        [program, *arguments, *more], cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if "eady to accept connections" in line:
                    break
            else:
                raise AssertionError("redis-server ended")
            yield f"unix://{socket}"
        finally:
            process.kill()
            process.wait()
