"""The whole bugs that `make mutants` plants fit the code as it is: else one that is not tried any more goes unseen."""

from __future__ import annotations

import pytest

from tests.house.source import ROOT
from tests.proof.mutants import PLANTED, Planted


@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_has_its_place_and_its_tests(bug: Planted) -> None:
    assert (ROOT / bug.path).read_text().count(bug.old) == 1, "the code changed: plant this bug where it belongs now"
    assert bug.old != bug.new
    assert all((ROOT / test).exists() for test in bug.tests)


def test_no_bug_is_planted_twice() -> None:
    assert len({(bug.path, bug.old, bug.new) for bug in PLANTED}) == len(PLANTED)
