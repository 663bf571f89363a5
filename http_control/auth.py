"""Who may: the token, or the application's own rule in its place; and how often a source may be wrong (threat T53)."""

from __future__ import annotations

import hmac
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from http_control.options import P2PHttpOptions
from http_control.problem import Problem, encode, problem_of
from http_control.source import is_in, source_of

if TYPE_CHECKING:
    from quart import Request
    from werkzeug.datastructures import Headers

_log = logging.getLogger("p2p.http")


class Reply:
    """An answer that an application's rule may write: `res.status(403).json({"ok": False})`."""

    def __init__(self) -> None:
        self.status_code = 401
        self.headers: list[tuple[str, str]] = []
        self.body: bytes | None = None

    def status(self, code: int) -> Reply:
        """Set the HTTP status."""
        self.status_code = code
        return self

    def header(self, name: str, value: str) -> Reply:
        """Add a header."""
        self.headers.append((name, value))
        return self

    def json(self, value: object) -> Reply:
        """Answer with JSON."""
        self.body = encode(value)
        return self.header("content-type", "application/json")

    def text(self, value: str) -> Reply:
        """Answer with plain text."""
        self.body = value.encode()
        return self.header("content-type", "text/plain; charset=utf-8")


class Refused(Exception):
    """The application's rule said no, and wrote the answer itself."""

    def __init__(self, reply: Reply) -> None:
        super().__init__("refused by the application")
        self.reply = reply


@dataclass(frozen=True, slots=True)
class AuthContext:
    """What `auth_ctx` is asked with.

    Attributes:
        req: Quart's request.
        res: the answer, if the rule wants to write it; otherwise a refusal is the usual 401.
        source: where the request came from, an IP address or "unix"; behind a trusted proxy the client's.
    """

    req: Request
    res: Reply
    source: str


class Door:
    """Lets requests in or not.

    Args:
        options: the rule, the limits.
        token: what callers show if the application has no rule of its own.

    Attributes:
        failures: wrong or missing tokens, and refusals by the application's rule, since the start.
    """

    def __init__(self, options: P2PHttpOptions, token: str) -> None:
        self._options = options
        self._token = token.encode()
        self._proxies = options.proxy_networks()
        # Per source: the second it was wrong in, and how often.
        self._wrong: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self.failures = 0

    async def check(self, request: Request, now: float) -> None:
        """Return if the request is allowed.

        Raises:
            Problem, Refused: it is not.
        """
        options = self._options
        source = self.source_of(request)
        if options.auth_ctx is not None or options.auth_legacy is not None:
            reply = Reply()
            try:
                if options.auth_ctx is not None:
                    is_allowed = await options.auth_ctx(AuthContext(request, reply, source))
                else:
                    assert options.auth_legacy is not None
                    is_allowed = options.auth_legacy(request, reply)
            except Exception:  # noqa: BLE001  # an application's rule that fails has not said yes
                _log.exception("the application's auth hook failed: refused")
                is_allowed = False
            if is_allowed is True:
                return
            self.failures += 1
            raise Refused(reply) if reply.body is not None else problem_of(401)
        self._check_token(request.headers, source, int(now))

    def _check_token(self, headers: Headers, source: str, second: int) -> None:
        shown = headers.get("x-auth-token", "")
        scheme, _, rest = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            shown = rest.strip()
        wrong_in, count = self._wrong.get(source, (second, 0))
        if wrong_in == second and count >= self._options.limits.failures_per_s:
            raise Problem(
                429, "too_many_attempts", "too many wrong tokens from this source", headers=(("retry-after", "1"),)
            )
        if shown and hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), self._token):
            return
        self.failures += 1
        if shown:
            self._wrong[source] = (second, count + 1 if wrong_in == second else 1)
            self._wrong.move_to_end(source)
            if len(self._wrong) > self._options.limits.failure_sources_max:
                self._wrong.popitem(last=False)
        raise problem_of(401)

    def source_of(self, request: Request) -> str:
        """Whom a request counts for: the nearest address on its way that is not a trusted proxy's."""
        client = request.scope.get("client")
        forwarded = request.headers.getlist("x-forwarded-for")
        return source_of(client[0] if client else "unix", forwarded, self._is_proxy)

    def _is_proxy(self, source: str) -> bool:
        if source == "unix":
            return "unix" in self._options.trusted_proxies
        return is_in(source, self._proxies)
