"""`python -m p2p.testing`."""

from __future__ import annotations

import pytest

from p2p.testing import __main__ as command
from p2p.testing.ledger import Ledger


def test_a_world_that_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--seed", "13"]) == 0
    out = capsys.readouterr().out
    assert "world 13: " in out
    assert "well after" in out
    assert "is linked" not in out


def test_a_world_that_failed_shows_its_last_events(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "acknowledge", lambda self, name, *_: self.fail(name, "planted"))
    assert command.main(["--seed", "13", "--worlds", "2"]) == 1
    out = capsys.readouterr().out
    assert "FAILED: planted" in out
    assert "replay: python -m p2p.testing --seed 13 --trace" in out
    assert "0 of 2 worlds are well" in out
    assert max(len(part.splitlines()) for part in out.split("the last of ")) <= 60
