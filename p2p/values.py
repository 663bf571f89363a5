"""Values of many fields: frozen dataclasses whose methods are not compiled at every import."""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, Final, Never, TypeVar, cast, dataclass_transform

if TYPE_CHECKING:
    from collections.abc import Callable
    from inspect import Signature

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def frozen(cls: type[T]) -> type[T]:
    """As `dataclass(frozen=True, slots=True)`, also to the dataclasses that are derived from it.

    A dataclass writes its methods out for each class and compiles them, which for six classes took an eighth of what
    is ours in the import of a node. Here they go through the names of the fields.

    Raises:
        TypeError: the class needs what only a dataclass has, see the checks below.
    """
    own = cls.__dict__
    _check_class(cls)
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True)(cls)
    fields = dataclasses.fields(made)
    _check_fields(cls.__qualname__, made)
    compared = attrgetter(*(field.name for field in fields if field.compare))
    shown = [field.name for field in fields if field.repr]
    names = {field.name for field in fields}

    def equals(self: object, other: object) -> bool:
        return compared(self) == compared(other) if other.__class__ is self.__class__ else NotImplemented

    def show(self: object) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def set_other(self: object, name: str, value: object) -> None:
        if type(self) is made or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)

    def delete_other(self: object, name: str) -> None:
        if type(self) is made or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        object.__delattr__(self, name)

    if "__init__" not in own:
        made.__init__ = _initializer(cls.__qualname__, fields, hasattr(cls, "__post_init__"))
        made.__signature__ = _SignatureWhenAsked(made.__init__)
    if "__eq__" not in own:
        made.__eq__ = equals
    if own.get("__hash__") is None:
        made.__hash__ = lambda self: hash(compared(self))
    if "__repr__" not in own:
        made.__repr__ = recursive_repr()(show)
    made.__setattr__, made.__delattr__ = set_other, delete_other
    made.__getstate__, made.__setstate__ = _get_state, _set_state
    # Whoever derives a dataclass from it is asked whether both are frozen.
    told = made.__dataclass_params__
    told.init = told.repr = told.eq = told.frozen = True
    return cast("type[T]", made)


_OWN_REFUSED: Final = {"__setattr__", "__delattr__", "__getstate__", "__setstate__"}


def _check_class(cls: type) -> None:
    """Refuse what nobody has needed so far, before it is silently something else."""
    name = cls.__qualname__
    if any(dataclasses.is_dataclass(base) for base in cls.__mro__[1:]):
        raise TypeError(f"{name} is derived from a dataclass: use dataclass(frozen=True, slots=True)")
    if not _OWN_REFUSED.isdisjoint(cls.__dict__):
        raise TypeError(f"{name} has one of {', '.join(sorted(_OWN_REFUSED))} of its own")


def _check_fields(name: str, made: Any) -> None:
    fields = set(dataclasses.fields(made))
    if sum(field.compare for field in fields) < 2:
        raise TypeError(f"{name} has fewer than two fields to compare by")
    missing = dataclasses.MISSING
    for field in made.__dataclass_fields__.values():
        if field.kw_only is missing:
            continue  # A ClassVar: no field, and nothing to do.
        if field.kw_only or field.hash is not None or field not in fields:
            raise TypeError(f"{name}.{field.name}: a field has no `kw_only` and no `hash` here, and is no InitVar")
        if not (field.init or field.default is field.default_factory is missing):
            raise TypeError(f"{name}.{field.name}: with `init=False` a field has no default here: set it afterwards")


def _initializer(name: str, fields: tuple[dataclasses.Field[Any], ...], has_more: bool) -> Callable[..., None]:
    names = [field.name for field in fields if field.init]
    known = set(names)
    defaults = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    factories = {
        field.name: field.default_factory for field in fields if field.default_factory is not dataclasses.MISSING
    }
    set_field = object.__setattr__

    def init(self: Any, /, *in_order: object, **by_name: object) -> None:
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
        if has_more:
            self.__post_init__()

    return init


def _refuse(name: str, values: dict[str, object], names: list[str]) -> Never:
    for given in values:
        if given not in names:
            raise TypeError(f"{name} has no field {given!r}")
    missing = ", ".join(wanted for wanted in names if wanted not in values)
    raise TypeError(f"{name} is made without {missing}")


def _get_state(self: Any) -> list[object]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _set_state(self: Any, state: list[object]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)


class _SignatureWhenAsked:
    """The signature that a dataclass would have, for `help` and prompts."""

    def __init__(self, init: Callable[..., None]) -> None:
        self._init = init

    def __get__(self, _: object, owner: Any) -> Signature | None:
        if owner.__init__ is not self._init:
            return None  # Of a class derived from it, with one of its own: looked for there.
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
        return Signature(parameters, return_annotation=None)
