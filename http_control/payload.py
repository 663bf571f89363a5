"""Bytes in JSON: text where they are UTF-8, else base64 under a name of its own."""

from __future__ import annotations

import base64
import binascii

from msgspec import UNSET, UnsetType

from http_control.problem import Problem


def bytes_of(text: str | None, encoded: str | None, name: str) -> bytes:
    """What was given as `name`, or as `name_b64`.

    Raises:
        Problem: neither or both were given, or it is not base64.
    """
    if (text is None) == (encoded is None):
        raise Problem(400, "invalid_argument", f"give exactly one of {name} and {name}_b64")
    if text is not None:
        return text.encode()
    assert encoded is not None
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise Problem(400, "invalid_argument", f"{name}_b64 is not base64") from None


def shown(data: bytes) -> tuple[str | UnsetType, str | UnsetType]:
    """The values of the two names; the other one is left out."""
    try:
        return data.decode(), UNSET
    except UnicodeDecodeError:
        return UNSET, base64.b64encode(data).decode()
