"""What the contract's tests share."""

from __future__ import annotations

import pytest

from tests import ports


@pytest.fixture
def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    return ports.free_port()
