"""Who may: the token, or the application's own rule in its place; and how often a source may be wrong (threat T53)."""

from __future__ import annotations

import hmac
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from http_control.bugs import BugLog
from http_control.contained import contained
from http_control.options import P2PHttpOptions
from http_control.pace import Guess, Pace
from http_control.problem import encode, problem_of
from http_control.source import is_in, source_of

if TYPE_CHECKING:
    from quart import Request
    from werkzeug.datastructures import Headers

_log = logging.getLogger("p2p.http")

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")
_OF_THE_SERVER: Final = frozenset({"connection", "content-length", "transfer-encoding", "upgrade"})


class Reply:
    """An answer that an application's rule may write: `res.status(403).json({"ok": False})`.

    Attributes:
        is_written: whether it was; otherwise a refusal is the usual 401.
    """

    def __init__(self) -> None:
        self.status_code = 401
        self.headers: list[tuple[str, str]] = []
        self.body: bytes | None = None
        self.is_written = False

    def status(self, code: int) -> Reply:
        """Set the HTTP status.

        Raises:
            ValueError: it is not within 200-599.
        """
        if not 200 <= code <= 599:
            raise ValueError(f"{code} is not the status of an answer: 200-599")
        self.status_code = code
        self.is_written = True
        return self

    def header(self, name: str, value: str) -> Reply:
        """Add a header.

        Raises:
            ValueError: it cannot be sent, or is the server's own to set.
        """
        name = name.lower()
        if name in _OF_THE_SERVER or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"the header {name[:80]!r}: {value[:80]!r} cannot be sent")
        self.headers.append((name, value))
        self.is_written = True
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


def _shown(headers: Headers) -> str:
    """The token that a request shows. `Authorization` may be a proxy's before us, so our own header counts first; one
    that stands twice is what HTTP makes of that, one value with a comma, which is no token."""
    own = ", ".join(headers.getlist("x-auth-token"))
    if own:
        return own
    scheme, _, rest = ", ".join(headers.getlist("authorization")).partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else ""


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
        self._pace = Pace(options.limits)
        self._bugs = BugLog(options.limits.bugs_told_per_min, is_ours=False)
        self.failures = 0

    @property
    def _has_token(self) -> bool:
        return self._options.auth_ctx is None and self._options.auth_legacy is None

    def fits(self, request: Request) -> bool:
        """Whether a token opens it and the request shows that one. Nothing is counted."""
        return self._has_token and self._is_token(_shown(request.headers))

    def _is_token(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), self._token)

    async def check(self, request: Request) -> None:
        """Return if the request is allowed.

        Raises:
            Problem, Refused: it is not.
        """
        source = self.source_of(request)
        if self._has_token:
            self._check_token(request.headers, source, int(trio.current_time()))
        else:
            await self._check_rule(request, source)

    async def _check_rule(self, request: Request, source: str) -> None:
        """Ask the application, of whom no more is asked at once than may be wrong."""
        reply = Reply()
        async with self._pace.guess(source) as guess:
            reply = await self._answer_of_rule(AuthContext(request, reply, source), guess)
        if guess.is_right:
            return
        self.failures += 1
        raise Refused(reply) if reply.is_written else problem_of(401)

    async def _answer_of_rule(self, asked: AuthContext, guess: Guess) -> Reply:
        """A rule that fails, or does not come to an end, has not said yes, and what it wrote is not used."""
        options, limits = self._options, self._options.limits
        said: object = False
        with trio.move_on_after(limits.hook_s_max) as patience:
            try:
                if options.auth_ctx is not None:
                    said = await options.auth_ctx(asked)
                else:
                    assert options.auth_legacy is not None
                    said = options.auth_legacy(asked.req, asked.res)
            except BaseException as error:  # noqa: BLE001  # an application's rule is somebody else's code
                what = "the application's rule of who may failed, and so refused"
                self._bugs.tell(what, contained(error), trio.current_time())
                return Reply()
        # Also where it went on all the same, and has said yes by now.
        if patience.cancel_called:
            _log.error("the application's rule of who may took longer than %g s, and so refused", limits.hook_s_max)
            return Reply()
        guess.is_right = said is True
        return asked.res

    def _check_token(self, headers: Headers, source: str, second: int) -> None:
        shown = _shown(headers)
        self._pace.check(source, second)
        if not shown:
            # A question, and no guess: the pace is not told.
            self.failures += 1
            raise problem_of(401)
        if not self._is_token(shown):
            self.failures += 1
            self._pace.note(source, second)
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
