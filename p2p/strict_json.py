"""JSON from outside, read more strictly than the standard library does (threat T29).

Refused are: bytes that are not UTF-8, more than 16 levels, a name that stands twice in one object (two readers would
see two different messages), NaN and Infinity, numbers of thousands of digits, lone surrogates. What is left is either
what a `msgspec` type describes, or refused with one `RemoteProtocolError` that names the place. The caller bounds the
size before it calls.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Final, NoReturn, TypeVar

import msgspec

from p2p.binary import read_text
from p2p.errors import RemoteProtocolError

DEPTH_MAX: Final = 16

T = TypeVar("T")

_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
"""One without an end reaches to the end of the text: tried again from each quote in it, it would cost the square."""


def decode_json(data: bytes, type: type[T], what: str) -> T:
    """Read one JSON value as a `msgspec` type; members that the type does not name are passed over.

    Args:
        data: UTF-8, with no bound of its own: cut it before.
        type: a `msgspec.Struct`, or whatever else `msgspec.convert` takes.
        what: names the text in the error: "an announcement".

    Raises:
        RemoteProtocolError: it is no such thing.
    """
    value = parse_json(read_text(data), what)
    try:
        return msgspec.convert(value, type)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"{what}: {error}") from None


def parse_json(text: str, what: str, *, fractions: bool = True) -> object:
    """Read one JSON value into plain dicts, lists and so on.

    Args:
        text: the whole of it.
        what: names the text in the error.
        fractions: whether a number may have a fraction or an exponent.

    Raises:
        RemoteProtocolError: it is not JSON, or more than this page lets in.
    """
    _refuse_depth(text, what)
    read_fraction: Callable[[str], float] = float if fractions else _refuse_number
    try:
        value: object = json.loads(
            text, object_pairs_hook=_members, parse_float=read_fraction, parse_constant=_refuse_constant
        )
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RemoteProtocolError:
        raise
    except ValueError:
        # JSONDecodeError, a whole number of too many digits, 1e999, or UnicodeEncodeError for a lone surrogate.
        raise RemoteProtocolError(f"{what} is not JSON") from None
    return value


def refuse_twins(data: bytes, what: str) -> None:
    """Refuse JSON in which a name stands twice in one object, however deep; `msgspec` would take the last of them.

    For what `msgspec` has read already, straight into a type: at a third of what `parse_json` takes, which matters
    for a megabyte.

    Raises:
        RemoteProtocolError: there is one, or something else that `msgspec` may have passed over.
    """
    try:
        json.loads(read_text(data), object_pairs_hook=_members, parse_int=_number, parse_float=_number)
    except RemoteProtocolError as error:
        raise RemoteProtocolError(f"{what}: {error}") from None
    except (ValueError, RecursionError):
        raise RemoteProtocolError(f"{what} is not JSON") from None


def _number(_text: str) -> None:
    """What it is has been read elsewhere."""


def _refuse_depth(text: str, what: str) -> None:
    depth = deepest = 0
    for mark in _STRING.sub("", text):
        depth += (mark in "[{") - (mark in "]}")
        deepest = max(deepest, depth)
    if deepest > DEPTH_MAX:
        raise RemoteProtocolError(f"{what}: JSON of more than {DEPTH_MAX} levels")


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise RemoteProtocolError(f"{name[:80]!r} stands twice")
    return members


def _refuse_number(text: str) -> NoReturn:
    raise RemoteProtocolError(f"{text[:80]!r} is not a whole number")


def _refuse_constant(text: str) -> NoReturn:
    raise RemoteProtocolError(f"{text} is no value that JSON has")
