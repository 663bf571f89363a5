"""Programs that some tests run beside Python: where they are, and what to say where they are not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

LIST = Path(__file__).with_name("debian-packages")
# A user's PATH leaves out where Debian puts daemons.
PLACES = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def listed() -> dict[str, str]:
    """Program -> Debian package, of all that `make test` installs."""
    rows = (line.split() for line in LIST.read_text().splitlines() if line and not line.startswith("#"))
    return {program: package for package, program, *_ in rows}


def find_program(name: str) -> str | None:
    """Where the program is, or None. Raises KeyError if tests/debian-packages does not list it."""
    listed()[name]
    return shutil.which(name, path=PLACES)


def needs(*names: str) -> pytest.MarkDecorator:
    """Mark tests that are skipped, with the reason, where one of these programs is missing."""
    packages = [listed()[name] for name in names if find_program(name) is None]
    return pytest.mark.skipif(bool(packages), reason=f"not installed: {' '.join(packages)} (Debian packages)")
