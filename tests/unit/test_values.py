"""A frozen value is what a frozen dataclass of the same fields is, in every respect that anybody sees."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, InitVar, dataclass, field, fields, is_dataclass, replace
from itertools import product
from typing import Any, ClassVar, Unpack, get_type_hints

import pytest

import p2p
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


USUALLY = dataclass(frozen=True, slots=True)


def outcome(do: Callable[..., object], *given: Any, **named: Any) -> object:
    """What it gives, or the kind of error that it raises."""
    try:
        return do(*given, **named)
    except (TypeError, AttributeError, ValueError) as error:
        return type(error)


SEEN: list[Callable[[Any], object]] = [
    lambda value: value.x,
    repr,
    lambda value: value == type(value)(1, 2),
    lambda value: value == type(value)(3, 4),
    lambda value: value == (1, 2),
    lambda value: value == copy.deepcopy(value),
    lambda value: value == pickle.loads(pickle.dumps(value)),
    lambda value: hash(value) == hash(copy.copy(value)),
    lambda value: replace(value, a=7).a,
    lambda value: replace(value, x=7).x,
    lambda value: setattr(value, "x", 1),
    lambda value: delattr(value, "x"),
]
GIVEN: list[tuple[tuple[int, ...], dict[str, int]]] = [
    ((1, 2), {}), ((1, 2, 3), {}), ((1,), {"b": 2, "x": 3}), ((1, 2), {"y": 3}), ((), {}),
]  # fmt: skip


def behaviour(kind: type[Any]) -> list[object]:
    """What anybody can see of a class of values with the fields `a`, `b` and `x`."""
    globals()["Value"] = kind  # where pickle looks for it
    seen: list[object] = [str(inspect.signature(kind)).replace("<factory>", f"{list}"), kind.__match_args__]
    for in_order, by_name in GIVEN:
        value = outcome(kind, *in_order, **by_name)
        seen.append([outcome(see, value) for see in SEEN] if isinstance(value, kind) else value)
    del globals()["Value"]
    return seen


OPTIONS = [
    {**start, "init": init, "repr": is_shown, "compare": is_compared}
    for start, init, is_shown, is_compared in product(
        [{}, {"default": 5}, {"default_factory": list}], [True, False], [True, False], [True, False]
    )
]


def of_kind(make: Callable[[type], type], options: dict[str, Any], **more: object) -> type[Any]:
    body = {"__annotations__": {"a": "int", "b": "int", "x": "object"}, "x": field(**options), "__doc__": "It."}
    return make(type("Value", (), {"__module__": __name__, **body, **more}))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_with_each_option_of_a_field_it_is_as_usual_or_refused(options: dict[str, Any]) -> None:
    if not options["init"] and len(options) > 3:
        with pytest.raises(TypeError, match=r"Value\.x: with `init=False` a field has no default here"):
            of_kind(frozen, options)
    else:
        assert behaviour(of_kind(frozen, options)) == behaviour(of_kind(USUALLY, options))


@pytest.mark.parametrize(
    "own",
    [
        {"__eq__": lambda self, other: True},
        {"__hash__": lambda self: 3},
        {"__repr__": lambda self: "mine"},
        {"__post_init__": lambda self: object.__setattr__(self, "x", 9)},
    ],
    ids=lambda own: next(iter(own)),
)
def test_with_each_method_of_its_own_it_is_as_usual(own: dict[str, object]) -> None:
    ours, usual = of_kind(frozen, {"default": 5}, **own), of_kind(USUALLY, {"default": 5}, **own)
    assert behaviour(ours) == behaviour(usual)


@pytest.mark.parametrize("options", [{"hash": False}, {"hash": True}, {"kw_only": True}], ids=str)
def test_an_option_that_would_be_something_else_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"Value\.x: a field has no `kw_only` and no `hash` here, and is no InitVar"):
        of_kind(frozen, options)


def test_a_class_that_would_be_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match=r"WithInitVar\.c: .* is no InitVar"):

        @frozen
        class WithInitVar:
            a: int
            b: int
            c: InitVar[int]

    with pytest.raises(TypeError, match="Derived is derived from a dataclass"):

        @frozen
        class Derived(Ours):
            more: int = 1

    with pytest.raises(TypeError, match="Sole has fewer than two fields"):

        @frozen
        class Sole:
            a: int

    with pytest.raises(TypeError, match=r"Value has one of .*__setattr__"):
        of_kind(frozen, {}, __setattr__=object.__setattr__)


def test_what_is_the_class_s_is_no_field() -> None:
    @frozen
    class Counted:
        a: int
        b: int
        count: ClassVar[int] = 3

    assert [each.name for each in fields(Counted(1, 2))] == ["a", "b"]
    assert Counted.count == 3


@dataclass(frozen=True)
class Plain(Ours):
    """Derived from ours."""

    more: int = 4
    others: list[int] = field(default_factory=list, kw_only=True, compare=False)


@dataclass(frozen=True, slots=True)
class Slotted(Ours):
    """Derived from ours."""

    more: int = 4
    others: list[int] = field(default_factory=list, kw_only=True, compare=False)


@dataclass(frozen=True)
class Usually(Usual):
    """Derived from the usual one."""

    more: int = 4
    others: list[int] = field(default_factory=list, kw_only=True, compare=False)


@pytest.mark.parametrize("kind", [Plain, Slotted, Usually])
def test_a_dataclass_is_derived_from_it(kind: type[Plain]) -> None:
    value = kind("abc", 2, ("x",), [1], 5, others=[6])
    assert repr(value) == f"{kind.__name__}(name='abc', size=2, made=[1], more=5, others=[6])"
    assert (value.length, value.hidden, kind("a").more, kind("a").others) == (3, ("x",), 4, [])
    assert value == kind("abc", 2, more=5) != kind("abc", 2)
    assert hash(value) == hash(kind("abc", 2, more=5))
    assert value != Ours("abc", 2) and Ours("abc", 2) != value
    assert replace(value, name="d", more=7) == kind("d", 2, more=7)
    for copied in (copy.copy(value), copy.deepcopy(value), *(pickle.loads(pickle.dumps(value, n)) for n in range(6))):
        assert copied == value
        assert (copied.others, copied.length) == ([6], 3)
    for name in ("size", "more"):
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, 1)
        with pytest.raises(FrozenInstanceError):
            delattr(value, name)
    assert list(inspect.signature(kind).parameters) == ["name", "size", "hidden", "made", "more", "others"]


@pytest.mark.parametrize("base", [Ours, Usual])
def test_a_class_is_derived_from_it(base: type[Ours]) -> None:
    class Longer(base):  # type: ignore[misc,valid-type]
        def __post_init__(self) -> None:
            object.__setattr__(self, "length", len(self.name) + 1)

    class Other(base):  # type: ignore[misc,valid-type]
        def __init__(self, text: str) -> None:
            super().__init__(text, 3)

    assert Longer("a").length == 2
    assert repr(Longer("a")).startswith(f"{Longer.__qualname__}(name='a'")
    assert list(inspect.signature(Other).parameters) == ["text"]
    value = Other("b")
    assert value.size == 3
    with pytest.raises(FrozenInstanceError):
        value.size = 4


def test_a_class_derived_from_it_has_attributes_of_its_own() -> None:
    class Noted(Ours):
        note: int

    # With the usual one that has slots, Python 3.11 mistakes its own class here.
    value = Noted("b")
    value.note = 1
    assert value.note == 1
    del value.note
    assert not hasattr(value, "note")


@pytest.mark.parametrize("make", [dataclass(frozen=True), USUALLY])
def test_a_config_with_more_in_it_is_derived(make: Callable[[type], type]) -> None:
    class Mine(p2p.NodeConfig):
        shop: str = "here"

    mine = make(Mine)
    assert mine("a", shop="there") == replace(mine("a"), shop="there") != mine("a")
    with pytest.raises(p2p.ConfigError):
        mine("a b")


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))],
    ids=["copy", "deep", "pickle"],
)
def test_a_copied_config_is_equal(copied: Callable[[object], object]) -> None:
    configs = [
        p2p.NodeConfig("a", peers=(p2p.PeerEndpoint("127.0.0.1", 9001),)),
        p2p.BootstrapConfig(registry_url="http://127.0.0.1:1"),
        p2p.DiscoveryConfig(),
        p2p.Limits(),
        p2p.PeerEndpoint("127.0.0.1", 1, judged=("127.0.0.1",)),
    ]
    for config in configs:
        assert copied(config) == config
        assert hash(copied(config)) == hash(config)
        assert repr(copied(config)) == repr(config)


def test_the_type_hints_of_open_node_can_be_asked_for() -> None:
    from p2p.node.options import NodeOptions

    assert get_type_hints(p2p.open_node)["options"] == Unpack[NodeOptions]
