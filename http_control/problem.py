"""The one form that every error has, whoever notices it: the server layer, a check, a route."""

from __future__ import annotations

from typing import Final

import msgspec

MODULE: Final = "p2p_http"


class Problem(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        error: a word for programs.
        message: a sentence for people.
        hint: what to do about it.
        headers: to send along.
        fields: more fields of the answer.
    """

    def __init__(
        self,
        status: int,
        error: str,
        message: str,
        *,
        hint: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        **fields: object,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = error
        self.hint = hint
        self.headers = headers
        self.fields = fields

    def body(self) -> bytes:
        """The answer's JSON."""
        value: dict[str, object] = {
            "ok": False,
            "module": MODULE,
            "status": self.status,
            "error": self.error,
            "message": str(self),
        }
        if self.hint is not None:
            value["hint"] = self.hint
        return encode(value | self.fields)


_encoder: Final = msgspec.json.Encoder()


def encode(value: object) -> bytes:
    """JSON of a value that consists of what JSON knows, structs and dataclasses."""
    return _encoder.encode(value)


WORDS: Final = {
    400: ("bad_request", "this is not a request that can be understood"),
    401: ("unauthorized", "this needs authorization"),
    403: ("forbidden", "this is not allowed"),
    404: ("not_found", "there is nothing at this path"),
    405: ("method_not_allowed", "this path does not take that method"),
    408: ("timeout", "the request took too long to arrive"),
    413: ("too_large", "the request body is too large"),
    415: ("unsupported_media_type", "a body must be application/json"),
    431: ("headers_too_large", "the request header is too large"),
    500: ("internal", "a bug of ours; the log has it"),
    501: ("not_implemented", "this is not known here"),
    505: ("version_not_supported", "HTTP/1.0 and HTTP/1.1 are spoken here"),
}


def too_large(bytes_max: int) -> Problem:
    """A body of more bytes than are taken."""
    error, message = WORDS[413]
    return Problem(413, error, f"{message}: {bytes_max} bytes are taken at the most", bytes_max=bytes_max)


def problem_of(status: int) -> Problem:
    """The error of a bare status."""
    error, message = WORDS.get(status, WORDS[400] if status < 500 else WORDS[500])
    return Problem(status, error, message)
