"""/openapi.json: OpenAPI 3.1, made from the same values that register the routes, so that it cannot say otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterable
from inspect import isclass
from typing import Any, Final

import msgspec

from http_control import shapes
from http_control.operation import JSON, Operation
from http_control.problem import WORDS

_NAMES: Final = re.compile(r"\{(\w+)\}")
_MORE_WORDS: Final = {
    409: "It cannot be in this state",
    421: "The server is not known by that name",
    429: "Too many wrong tokens, or all places for readers are taken",
    502: "What was asked for failed elsewhere",
    503: "The node does not run or its store is not available, or the process ends",
    504: "It took too long",
    507: "The disk has no room",
}


def description(operations: Iterable[tuple[str, Operation]], version: str) -> dict[str, Any]:
    """Describe operations.

    Args:
        operations: each with its full path.
        version: of the package.
    """
    found = list(operations)
    types: list[Any] = [shapes.Error]
    for _, operation in found:
        types += [one for one in (operation.answer, operation.body) if one is not None and not isinstance(one, str)]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    for type in types:
        if isclass(type) and issubclass(type, shapes.Body) and type.ONE_OF:
            components[type.__name__]["oneOf"] = _ways(type.ONE_OF)
    # Equal types may stand in the list more than once; structs hash by identity, a generic alias by value.
    by_type = dict(zip(map(_key, types), schemas, strict=True))
    error = by_type[_key(shapes.Error)]
    paths: dict[str, Any] = {}
    for path, operation in found:
        paths.setdefault(path, {})[operation.method.lower()] = _described(path, operation, by_type, error)
    return {
        "openapi": "3.1.0",
        "info": {"title": "trio-p2p HTTP control", "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "token": {"type": "apiKey", "in": "header", "name": "x-auth-token"},
            },
        },
    }


def _ways(ways: tuple[shapes.Way, ...]) -> list[dict[str, Any]]:
    """One schema for each way; the fields of the others are null there."""
    every = {name for way in ways for name in (*way.needs, *way.takes)}
    return [
        {
            "required": list(way.needs),
            "properties": {name: {"not": {"type": "null"}} for name in way.needs}
            | {name: {"type": "null"} for name in sorted(every - {*way.needs, *way.takes})},
        }
        for way in ways
    ]


def _key(type: Any) -> object:
    return repr(type)


def _described(path: str, operation: Operation, by_type: dict[object, Any], error: Any) -> dict[str, Any]:
    if isinstance(operation.answer, str):
        shape = {"type": "object" if operation.answer == JSON else "string"}
        content = {operation.answer.partition(";")[0]: {"schema": shape}}
    else:
        content = {JSON: {"schema": by_type[_key(operation.answer)]}}
    responses: dict[str, Any] = {str(operation.status): {"description": operation.summary, "content": content}}
    for status in operation.statuses:
        text = _MORE_WORDS.get(status) or WORDS[status][1].capitalize()
        if str(status) in responses:
            continue
        responses[str(status)] = {"description": text, "content": {JSON: {"schema": error}}}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": re.sub(r"\W+", "_", f"{operation.method.lower()}{path}").strip("_"),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in _NAMES.findall(path)
        ]
        + _parameters(operation.query),
        "responses": responses,
        "security": [] if operation.is_open else [{"bearer": []}, {"token": []}],
    }
    if operation.body is not None:
        schema = by_type[_key(operation.body)]
        # Also where `{}` is all there is to say: who says nothing at all does not say that it is JSON.
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    return described


def _parameters(query: type[shapes.Query]) -> list[dict[str, Any]]:
    schema = msgspec.json.schema(query)
    described: dict[str, Any] = schema["$defs"][query.__name__]
    required = described.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _without_null(value)}
        for name, value in described["properties"].items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that is not given is left out: there is no null in a query."""
    options = schema.get("anyOf")
    if options is None:
        return schema
    rest = [option for option in options if option.get("type") != "null"]
    return rest[0] if len(rest) == 1 else {"anyOf": rest}
