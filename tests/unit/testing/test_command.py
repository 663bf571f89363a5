"""`python -m p2p.testing`."""

from __future__ import annotations

import pytest

from p2p.testing import __main__ as command
from p2p.testing.ledger import Ledger
from p2p.testing.plan import draw_plan


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


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--worlds", "0"], "1 or more"),
        (["--worlds", "-3"], "1 or more"),
        (["--jobs", "0"], "1 or more"),
        (["--nodes", "0"], "name 2 or more"),
        (["--nodes", "1"], "name 2 or more"),
        (["--seconds", "-5"], "name more"),
        (["--seconds", "35"], "name more"),
        (["--seconds", "nan"], "name more"),
        (["--seconds", "inf"], "name more"),
    ],
)
def test_worlds_in_which_nothing_would_happen_are_refused(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("nodes", [2, 3, 4])
def test_a_small_world_has_what_fits_into_it(nodes: int) -> None:
    plans = [draw_plan(seed, nodes=nodes) for seed in range(100)]
    assert all(len(plan.hosts) == nodes and plan.pairs for plan in plans)
    walled = [plan for plan in plans if plan.walls]
    assert bool(walled) == (nodes > 2)
    for plan in walled:
        assert plan.relays and not set(plan.relays) & {host for wall in plan.walls for host in wall}
