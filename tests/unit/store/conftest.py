"""A store on the disk, and where it lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.store.sqlite import SqliteStore
from tests.logs import identity


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path, identity(1).peer_id)
    yield store
    store.close()
