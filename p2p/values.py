"""Values of many fields: frozen dataclasses whose methods are not compiled at every import."""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Never, TypeVar, cast, dataclass_transform

if TYPE_CHECKING:
    from collections.abc import Callable
    from inspect import Signature

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def frozen(cls: type[T]) -> type[T]:
    """As `dataclass(frozen=True, slots=True)`, and with the same results.

    A dataclass writes its methods out for each class and compiles them, which for six classes took an eighth of what
    is ours in the import of a node. Here they go through the names of the fields, of which there are two or more.
    """
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True)(cls)
    fields = dataclasses.fields(made)
    compared = attrgetter(*(field.name for field in fields if field.compare))
    shown = [field.name for field in fields if field.repr]

    def equals(self: object, other: object) -> bool:
        return compared(self) == compared(other) if other.__class__ is self.__class__ else NotImplemented

    def show(self: object) -> str:
        return f"{cls.__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    if "__init__" not in cls.__dict__:
        made.__init__ = _initializer(cls.__qualname__, fields, getattr(cls, "__post_init__", None))
        made.__signature__ = _SignatureWhenAsked()
    made.__eq__, made.__hash__ = equals, lambda self: hash(compared(self))
    if "__repr__" not in cls.__dict__:
        made.__repr__ = show
    made.__setattr__, made.__delattr__, made.__reduce__ = _no_set, _no_delete, _reduce
    return cast("type[T]", made)


def _initializer(
    name: str, fields: tuple[dataclasses.Field[Any], ...], finish: Callable[[Any], None] | None
) -> Callable[..., None]:
    names = [field.name for field in fields if field.init]
    known = set(names)
    defaults = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    factories = {
        field.name: field.default_factory for field in fields if field.default_factory is not dataclasses.MISSING
    }
    set_field = object.__setattr__

    def init(self: object, /, *in_order: object, **by_name: object) -> None:
        placed = dict(zip(names, in_order, strict=False))
        if len(in_order) > len(names) or not placed.keys().isdisjoint(by_name):
            raise TypeError(f"{name} takes {len(names)} values at most, and each once")
        values = {**defaults, **placed, **by_name}
        for field_name in factories.keys() - values.keys():
            values[field_name] = factories[field_name]()
        if values.keys() != known:
            _refuse(name, values, names)
        for field_name, given in values.items():
            set_field(self, field_name, given)
        if finish is not None:
            finish(self)

    return init


def _refuse(name: str, values: dict[str, object], names: list[str]) -> Never:
    for given in values:
        if given not in names:
            raise TypeError(f"{name} has no field {given!r}")
    missing = ", ".join(wanted for wanted in names if wanted not in values)
    raise TypeError(f"{name} is made without {missing}")


def _no_set(_: object, name: str, __: object) -> Never:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _no_delete(_: object, name: str) -> Never:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _reduce(self: Any) -> tuple[object, ...]:
    # Copied and pickled by what it was made of: nothing can be set later.
    return type(self), tuple(getattr(self, field.name) for field in dataclasses.fields(self) if field.init)


class _SignatureWhenAsked:
    """The signature that a dataclass would have, for `help` and prompts."""

    def __get__(self, _: object, owner: Any) -> Signature:
        from inspect import Parameter, Signature

        parameters = []
        for field in dataclasses.fields(owner):
            default = field.default
            if default is dataclasses.MISSING:
                is_made = field.default_factory is not dataclasses.MISSING
                default = field.default_factory if is_made else Parameter.empty
            parameter = Parameter(field.name, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=field.type)
            if field.init:
                parameters.append(parameter)
        return Signature(parameters)
