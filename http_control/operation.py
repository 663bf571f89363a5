"""What a route is: one value that registers it, decodes what it takes, and describes it in /openapi.json."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
from quart import Request, Response

import p2p
from http_control import shapes
from http_control.control import Control
from http_control.problem import Problem, encode
from p2p import RemoteProtocolError, strict_json

T = TypeVar("T")

TEXT: Final = "text/plain; charset=utf-8"
EVENTS: Final = "text/event-stream"
JSON: Final = "application/json"

ALWAYS: Final = (400, 403, 405, 408, 413, 421, 431, 500, 501, 503, 505)
"""Errors that any route may answer with."""
BEHIND_THE_DOOR: Final = (401, 429)
WITH_BODY: Final = (415,)


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as a handler sees it: the envelope has been checked and the caller let in.

    Attributes:
        control: of the node under whose prefix it came; on the site, of the node that was registered first.
        seen: all whose routes the caller may use; under a prefix that is the one.
        request: Quart's.
        query: the parameters, as the operation's type.
        body: the body, as the operation's type.
        path: what stands for the names in braces of the operation's path.
    """

    control: Control
    request: Request
    query: Any
    body: Any
    path: dict[str, str]
    seen: Sequence[Control]

    @property
    def node(self) -> p2p.Node:
        """The node."""
        return self.control.node


Result = msgspec.Struct | Response
Handler = Callable[[Call], Awaitable[Result]]


@dataclass(frozen=True, slots=True)
class Operation:
    """A method on a path.

    Attributes:
        method: GET, POST, PUT or DELETE; GET answers HEAD, too.
        path: behind the prefix, with names in braces.
        summary: one line.
        handler: returns the answer, or raises a `Problem` or a `P2PError`.
        answer: the type of the answer's JSON, or its content type.
        status: of the answer.
        errors: the statuses of errors that are its own.
        query, body: the types of what it takes, for `msgspec`; no body if None.
        is_open: whether it asks for no token.
    """

    method: str
    path: str
    summary: str
    handler: Handler
    answer: type[msgspec.Struct] | str
    status: int = 200
    errors: tuple[int, ...] = ()
    query: type[shapes.Query] = shapes.Query
    body: Any = None
    is_open: bool = False

    @property
    def statuses(self) -> tuple[int, ...]:
        """All errors that it may answer with, in order."""
        found = {*ALWAYS, *self.errors}
        if not self.is_open:
            found.update(BEHIND_THE_DOOR)
        if self.body is not None:
            found.update(WITH_BODY)
        return tuple(sorted(found))


def decode_query(pairs: list[tuple[str, str]], type: type[T]) -> T:
    """The parameters of a query as a type; a list's parameter may be repeated, any other may not.

    Raises:
        Problem: a parameter is unknown, repeated, or has an unusable value.
    """
    hints = {field.name: field for field in msgspec.structs.fields(type)}  # type: ignore[arg-type]  # structs, all of them
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name not in hints:
            raise Problem(400, "invalid_argument", f"there is no parameter {name[:80]!r} here")
        if isinstance(hints[name].default, list) or hints[name].default_factory is list:
            values.setdefault(name, []).append(text)
        elif name in values:
            raise Problem(400, "invalid_argument", f"the parameter {name} stands twice")
        else:
            values[name] = text
    try:
        return msgspec.convert(values, type, strict=False)
    except msgspec.ValidationError as error:
        raise Problem(400, "invalid_argument", str(error)) from None


def decode_body(data: bytes, type: type[T]) -> T:
    """A JSON body as a type.

    Raises:
        Problem: it is not JSON, or something else than what is asked for.
    """
    if not data.strip() and type is shapes.Body:
        data = b"{}"
    try:
        return strict_json.decode_json(data, type, "the body")
    except RemoteProtocolError as error:
        raise Problem(400, "invalid_json", str(error), hint="send one JSON object, see /openapi.json") from None


def json_response(value: object, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(encode(value), status=status, content_type=JSON)
