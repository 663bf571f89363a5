"""Whether what an application hands in is of the kind that it must be, said at once and not by what trips over it.

Said by name, and not with the value, which may be a secret.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from p2p import ConfigError


def check_kind(value: object, allowed: type | tuple[type, ...], name: str, what: str) -> None:
    """Refuse what is of another kind. True and False are no numbers.

    Raises:
        ConfigError: it is.
    """
    kinds = allowed if isinstance(allowed, tuple) else (allowed,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ConfigError(f"{name} is of the kind {type(value).__name__}: it must be {what}")


def check_fields(settings: Any, names: str, allowed: type | tuple[type, ...], what: str) -> None:
    """The same for fields, named with a space between them."""
    for name in names.split():
        check_kind(getattr(settings, name), allowed, name, what)


def check_callables(settings: Any, names: str) -> None:
    """Refuse a hook that cannot be called.

    Raises:
        ConfigError: one is neither a function nor None.
    """
    for name in names.split():
        value = getattr(settings, name)
        if value is not None and not callable(value):
            raise ConfigError(f"{name} is of the kind {type(value).__name__}: it must be a function, or None")


def is_async(function: object) -> bool:
    """Whether it is an `async def`: as a function, a method, what is called like one, and as wrapped or prepared."""
    while isinstance(function, partial):
        function = function.func
    whole = inspect.unwrap(function) if callable(function) else function
    called = type(whole).__call__ if callable(whole) else None
    return any(map(inspect.iscoroutinefunction, (function, whole, called)))


def check_async(settings: Any, names: str, more: str = "", *, wanted: bool) -> None:
    """Refuse a hook that is async where it must be a plain function, or the other way round.

    Args:
        settings: has the hooks as fields.
        names: theirs.
        more: what to do about it.
        wanted: whether they must be async.

    Raises:
        ConfigError: one is of the other kind.
    """
    for name in names.split():
        value = getattr(settings, name)
        if value is not None and is_async(value) is not wanted:
            is_what = "a plain function, and must be an async" if wanted else "an async function, and must be a plain"
            raise ConfigError(f"{name} is {is_what} one{more}")


def texts_of(value: object, name: str) -> tuple[str, ...]:
    """A collection of texts. A text is one of letters, and never meant.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ConfigError(f"{name} is of the kind {type(value).__name__}: it must be a tuple of texts, such as ('a',)")
    found = tuple(value)
    for one in found:
        check_kind(one, str, f"one of {name}", "text")
    return found


def path_of(value: object, name: str) -> Path | None:
    """A path, also one that is written as text.

    Raises:
        ConfigError: it is something else.
    """
    if value is None:
        return None
    check_kind(value, (str, os.PathLike), name, "a path")
    text = os.fspath(value)  # type: ignore[call-overload]  # checked a line above
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigError(f"{name} is no path: write it as text, without zero bytes")
    return Path(text)
