"""The browser of the tests in this room ends with them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.chromium import SHARED


@pytest.fixture(scope="session", autouse=True)
def _browser_ends() -> Iterator[None]:
    yield
    SHARED.close()
