"""What errors say."""

from __future__ import annotations

import pytest

from p2p.errors import RequestFailed


@pytest.mark.parametrize(
    ("status", "words"), [(1, "handler failed"), (2, "nobody serves"), (3, "overloaded"), (9, "refused")]
)
def test_a_request_that_failed_says_why(status: int, words: str) -> None:
    error = RequestFailed(status, "alice")
    assert error.status == status
    assert str(error).startswith("alice: ")
    assert words in str(error)
