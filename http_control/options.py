"""What an application says about its HTTP control: Vix's fields and ours, in one frozen value."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from http_control.kinds import check_async, check_callables, check_fields, texts_of
from http_control.limits import HttpLimits
from http_control.sockets import Bind
from http_control.source import Networks, networks_of
from p2p import ConfigError

if TYPE_CHECKING:
    from quart import Request

    from http_control.auth import AuthContext, Reply

LogSink = Callable[[str], None]
AuthHookCtx = Callable[["AuthContext"], Awaitable[bool]]
AuthHookLegacy = Callable[["Request", "Reply"], bool]
AdminHook = Callable[[dict[str, Any]], Awaitable[object]]

_PREFIX: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_TOKEN: Final = re.compile(r"[\x21-\x7e]{16,256}")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.]+\]")
_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9._:\[\]-]{1,260}")


@dataclass(frozen=True, slots=True)
class P2PHttpOptions:
    """How a node is shown and steered over HTTP.

    Args:
        prefix: where the routes begin.
        enable_ping, enable_status, enable_peers, enable_logs, enable_live_logs: leave routes out. `enable_peers` covers
            links, connect and disconnect, too.
        stats_every_ms: the interval of ticks on `/events`, of samples, and of the stats line in the log.
        enable_stats_line: whether the log has that line.
        auth_ctx: `async (ctx) -> bool`, replaces the token; it may write the answer itself with `ctx.res`.
        auth_legacy: `(request, response) -> bool`, the same as a plain function.
        log_sink: gets every log line, beside the ring of the last ones.
        token: what callers show; by default made at the first start and kept in the data dir.
        admin_hook: `async (value) -> object`, run by POST {prefix}/admin/hook.
        on_log_level: sets the log level of the process; the route answers 501 without it.
        on_shutdown: stops the process; the route answers 501 without it.
        allowed_hosts: more names that this server is known by, without ports ("node.example").
        allowed_origins: more origins that requests may name ("https://node.example"): for a proxy that serves the page
            under another name than it passes on as Host. Pages of other sites call nothing by it: no answer lets a
            browser read it, and what a browser asks before (CORS) is answered with 405.
        trusted_proxies: addresses or networks whose X-Forwarded-For is believed; "unix" for whoever uses the socket.
        dial_private, dial_loopback: whether POST connect may lead to local networks, and to this machine.
        bind: where `serve` listens.
        http_open: serve without TLS on an address that is not loopback, knowingly.
        limits: bounds.

    Raises:
        ConfigError: a value is not usable.
    """

    prefix: str = "/p2p"
    enable_ping: bool = True
    enable_status: bool = True
    enable_peers: bool = True
    enable_logs: bool = True
    enable_live_logs: bool = True
    enable_stats_line: bool = True
    stats_every_ms: int = 1000
    auth_ctx: AuthHookCtx | None = None
    auth_legacy: AuthHookLegacy | None = None
    log_sink: LogSink | None = None
    token: str | None = field(default=None, repr=False)
    admin_hook: AdminHook | None = None
    on_log_level: Callable[[str], None] | None = None
    on_shutdown: Callable[[], None] | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    dial_private: bool = True
    dial_loopback: bool = True
    bind: Bind = field(default=Bind())
    http_open: bool = False
    limits: HttpLimits = field(default=HttpLimits())

    def __post_init__(self) -> None:
        self._check_kinds()
        # "p2p" and "/p2p/" are meant well; what a browser or a proxy would make another path of is not.
        prefix = "/" + self.prefix.removeprefix("/").removesuffix("/")
        if not _PREFIX.fullmatch(prefix) or {".", ".."} & set(prefix.split("/")):
            raise ConfigError(f"prefix {self.prefix[:80]!r}: write it like /p2p or /api/p2p (letters, digits, ._~-)")
        object.__setattr__(self, "prefix", prefix)
        if not 100 <= self.stats_every_ms <= 3_600_000:
            raise ConfigError(f"stats_every_ms {self.stats_every_ms} is not within 100-3600000")
        if self.auth_ctx is not None and self.auth_legacy is not None:
            raise ConfigError("auth_ctx and auth_legacy are two rules for one door: give one of them")
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise ConfigError("a token is 16-256 visible ASCII characters: try secrets.token_urlsafe(32)")
        for host in self.allowed_hosts:
            if not _HOST.fullmatch(host):
                raise ConfigError(f"allowed_hosts: {host[:80]!r} is not a host name, or has a port: leave that out")
        for origin in self.allowed_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(f"allowed_origins: {origin[:80]!r} is not an origin like https://node.example")
        # As they are compared: names have no case, and an address has one spelling.
        object.__setattr__(self, "allowed_hosts", tuple(map(plain_host, self.allowed_hosts)))
        object.__setattr__(self, "allowed_origins", tuple(map(str.lower, self.allowed_origins)))
        self.proxy_networks()

    def _check_kinds(self) -> None:
        check_fields(self, "prefix", str, "text, such as /p2p")
        check_fields(self, "stats_every_ms", int, "a whole number of milliseconds")
        flags = "enable_ping enable_status enable_peers enable_logs enable_live_logs enable_stats_line"
        check_fields(self, f"{flags} dial_private dial_loopback http_open", bool, "True or False")
        check_fields(self, "token", (str, type(None)), "text, or None")
        check_fields(self, "bind", Bind, "a Bind")
        check_fields(self, "limits", HttpLimits, "HttpLimits")
        check_callables(self, "auth_ctx auth_legacy log_sink admin_hook on_log_level on_shutdown")
        for name in ("allowed_hosts", "allowed_origins", "trusted_proxies"):
            object.__setattr__(self, name, texts_of(getattr(self, name), name))
        check_async(self, "auth_ctx", ": give it as auth_legacy, which takes two arguments", wanted=True)
        check_async(self, "auth_legacy", ": give it as auth_ctx, which takes one argument", wanted=False)
        check_async(self, "admin_hook", ": write async def", wanted=True)
        check_async(self, "log_sink on_log_level on_shutdown", wanted=False)

    def proxy_networks(self) -> Networks:
        """The trusted proxies' networks."""
        try:
            return networks_of(text for text in self.trusted_proxies if text != "unix")
        except ConfigError as error:
            raise ConfigError(f"trusted_proxies: {error}") from None

    def check_exposure(self) -> None:
        """Whether it may be served where `bind` says (threat T55).

        Raises:
            ConfigError: the address is not loopback, nothing encrypts the token, and nobody said that this is meant.
        """
        bind = self.bind
        if bind.unix is not None or bind.is_tls or self.http_open or _is_loopback(bind.host):
            return
        raise ConfigError(
            f"HTTP control on {bind.host} would send its token in the clear to whoever listens: give it a certificate "
            "(tls_cert and tls_key), put it behind a proxy on loopback, or say http_open if this is meant"
        )


def plain_host(host: str) -> str:
    """A host as it stands in a URL, in its one spelling: lower case, no dot at its end, IPv6 at its shortest."""
    host = host.lower().removesuffix(".")
    if not host.startswith("["):
        return host
    try:
        return f"[{ipaddress.ip_address(host.strip('[]'))}]"
    except ValueError:
        return host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
