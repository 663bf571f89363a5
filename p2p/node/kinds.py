"""Whether what a caller hands in is of the kind that it must be, said by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from inspect import iscoroutinefunction

from p2p.errors import ConfigError
from p2p.limits import Limits

Kinds = tuple[tuple[str, tuple[type, ...], str], ...]
"""Names of fields with a space between them, what they may be, and how that is said."""


def check_kinds(settings: object, kinds: Kinds) -> None:
    """Refuse what is of another kind, before something deep inside trips over it. True and False are no numbers.

    Raises:
        ConfigError: a field is; it names the field and not the value, for that may be a secret.
    """
    for names, allowed, what in kinds:
        for name in names.split():
            check_kind(getattr(settings, name), allowed, name, what)


def check_kind(value: object, allowed: tuple[type, ...], name: str, what: str) -> None:
    """The same for one value."""
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise ConfigError(f"{name} is of the kind {type(value).__name__}: it must be {what}")


def check_plain(hook: Callable[..., object], name: str) -> None:
    """Refuse an async function where a plain one is called: nobody would ever await it."""
    if iscoroutinefunction(hook):
        raise ConfigError(f"{name} is an async function, and nobody awaits it: have a plain one start or tell a task")


def check_count(value: int, name: str) -> None:
    """Refuse what is no whole number from 1 on."""
    check_kind(value, (int,), name, "a whole number")
    if value < 1:
        raise ConfigError(f"{name} must be at least 1, not {value}")


def check_limits(limits: Limits) -> None:
    """Refuse bounds by which nothing could be measured.

    Raises:
        ConfigError: one is below 0, not of the kind of its default, or NaN.
    """
    check_kind(limits, (Limits,), "limits", "a Limits")
    for bound in fields(Limits):
        name, value = f"Limits.{bound.name}", getattr(limits, bound.name)
        if isinstance(bound.default, tuple):
            check_kind(value, (tuple,), name, "a tuple of numbers, 0 or more")
        for number in value if isinstance(value, tuple) else (value,):
            is_whole = isinstance(bound.default, int)
            what = "a whole number, 0 or more" if is_whole else "a number, 0 or more"
            check_kind(number, (int,) if is_whole else (int, float), name, what)
            # Not `number < 0`, which is false of NaN.
            if not number >= 0:
                raise ConfigError(f"{name} is {number}: it must be {what}")


def seconds_of(value: object, name: str) -> float:
    """A number of seconds above 0, however large.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ConfigError(f"{name} is a number of seconds above 0, not {repr(value)[:80]}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def utf8_of(text: str, name: str, bytes_max: int, *, bytes_min: int = 1) -> bytes:
    """The UTF-8 of a text.

    Raises:
        ConfigError: it is none, too long or too short, or holds half a character (a surrogate).
    """
    check_kind(text, (str,), name, "text")
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{name} {text[:80]!r} holds half a character, which UTF-8 cannot write") from None
    if not bytes_min <= len(data) <= bytes_max:
        raise ConfigError(f"{name} has {bytes_min}-{bytes_max} bytes of UTF-8, and not {len(data)}")
    return data
