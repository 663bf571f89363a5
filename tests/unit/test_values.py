"""A frozen value is what a frozen dataclass of the same fields is, in every respect that anybody sees."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field, fields, is_dataclass, replace

import pytest

from p2p.values import frozen


@frozen
class Ours:
    """A value."""

    name: str
    size: int = 1
    hidden: tuple[str, ...] = field(default=(), compare=False, repr=False)
    made: list[int] = field(default_factory=list, compare=False)
    length: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", len(self.name))


@dataclass(frozen=True, slots=True)
class Usual:
    """A value."""

    name: str
    size: int = 1
    hidden: tuple[str, ...] = field(default=(), compare=False, repr=False)
    made: list[int] = field(default_factory=list, compare=False)
    length: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", len(self.name))


@frozen
class Written:
    """A value that has some methods of its own."""

    size: int
    unit: str

    def __init__(self, size: int, unit: str = "m") -> None:
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "unit", unit)

    def __repr__(self) -> str:
        return f"{self.size} {self.unit}"


@pytest.mark.parametrize(
    "make",
    [
        lambda kind: kind("a"),
        lambda kind: kind("a", 2, ("x",), [3]),
        lambda kind: kind("a", made=[4], size=2),
        lambda kind: kind(name="abc"),
        lambda kind: replace(kind("a", 2), name="bc", hidden=("y",)),
        lambda kind: copy.copy(kind("a", 2, made=[5])),
        lambda kind: pickle.loads(pickle.dumps(kind("a", 2, ("z",)))),
    ],
)
def test_it_has_the_same_fields_and_looks(make: Callable[[type], Ours]) -> None:
    ours, usual = make(Ours), make(Usual)
    assert repr(ours) == repr(usual).replace("Usual", "Ours")
    for each in fields(Usual):
        assert getattr(ours, each.name) == getattr(usual, each.name)


@pytest.mark.parametrize("kind", [Ours, Usual])
def test_it_compares_by_what_is_compared(kind: type[Ours]) -> None:
    one, same, other = kind("a", 1, ("x",), [1]), kind("a", 1, ("y",), [2]), kind("b")
    assert one == same != other
    assert one != ("a", 1)
    assert {one: 1, other: 2}[same] == 1
    assert len({one, same, other}) == 2
    assert Ours("a") != Usual("a")


@pytest.mark.parametrize("kind", [Ours, Usual])
def test_each_value_has_what_a_factory_makes(kind: type[Ours]) -> None:
    assert kind("a").made is not kind("a").made


@pytest.mark.parametrize("kind", [Ours, Usual])
@pytest.mark.parametrize(
    ("in_order", "by_name"),
    [
        ((), {}),
        ((), {"size": 2}),
        (("a",), {"sise": 2}),
        (("a",), {"length": 2}),
        (("a",), {"name": "b"}),
        (("a", 1, (), [], 5), {}),
    ],
)
def test_it_is_made_of_its_fields_alone(
    kind: Callable[..., Ours], in_order: tuple[object, ...], by_name: dict[str, object]
) -> None:
    with pytest.raises(TypeError):
        kind(*in_order, **by_name)


def test_a_wrong_field_is_named() -> None:
    with pytest.raises(TypeError, match="Ours has no field 'sise'"):
        Ours("a", sise=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Ours is made without name"):
        Ours(size=2)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [Ours, Usual, Written])
def test_nothing_is_set_or_deleted_later(kind: Callable[..., Ours]) -> None:
    value = kind("a")
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'size'"):
        value.size = 3  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError, match="cannot delete field 'size'"):
        del value.size
    assert not hasattr(value, "__dict__")


def test_whoever_looks_at_it_sees_a_dataclass() -> None:
    assert is_dataclass(Ours)
    assert [each.name for each in fields(Ours)] == [each.name for each in fields(Usual)]
    ours, usual = inspect.signature(Ours).parameters, inspect.signature(Usual).parameters
    assert list(ours) == list(usual)
    assert [each.annotation for each in ours.values()] == [each.annotation for each in usual.values()]
    assert [ours[name].default for name in ("name", "size", "hidden")] == [inspect.Parameter.empty, 1, ()]
    match Ours("a", 2):
        case Ours(name, size):
            assert (name, size) == ("a", 2)


def test_methods_of_its_own_stay() -> None:
    assert repr(Written(3)) == "3 m"
    assert replace(Written(3), unit="km") == Written(3, "km") == copy.copy(Written(3, "km"))
    assert inspect.signature(Written).parameters["unit"].default == "m"
