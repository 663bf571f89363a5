"""Limits are a frozen dataclass in every respect, though their methods are not written out field by field."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace

import pytest

from p2p.limits import Limits


def test_they_are_a_value() -> None:
    usual, few = Limits(), Limits(max_peers=2)
    assert is_dataclass(Limits)
    assert (usual, hash(usual)) == (Limits(), hash(Limits()))
    assert usual != few == replace(usual, max_peers=2)
    assert usual != "limits"
    assert len({usual, Limits(), few}) == 2
    assert all(getattr(usual, field.name) == field.default for field in fields(Limits))
    assert pickle.loads(pickle.dumps(few)) == copy.copy(few) == few


def test_what_is_shown_is_what_is_not_as_usual() -> None:
    assert repr(Limits()) == "Limits()"
    assert repr(replace(Limits(), max_peers=2, ping_after_s=1.5)) == "Limits(ping_after_s=1.5, max_peers=2)"


def test_nothing_is_set_that_is_no_bound_or_set_later() -> None:
    with pytest.raises(TypeError, match="Limits has no field 'max_pears'"):
        Limits(max_pears=2)  # type: ignore[call-arg]
    with pytest.raises(FrozenInstanceError):
        Limits().max_peers = 2  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        Limits().max_pears = 2  # type: ignore[attr-defined]
