"""`p2p registry`: a registry served until somebody stops it."""

from __future__ import annotations

import dataclasses
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from p2p.cli.output import Output, ReaderGone, json_line, log_to_stderr
from p2p.cli.settings import UsageError
from p2p.cli.signals import on_signal, stop_signals
from p2p.errors import ConfigError
from p2p.ids import PeerEndpoint, is_loopback
from p2p.limits import Limits
from p2p.registry import Desk
from p2p.store.keys import read_private

if TYPE_CHECKING:
    from http_control.registry.app import RegistryOptions
    from http_control.server import ServerOptions

TOKEN_BYTES_MIN: Final = 16
TOKEN_BYTES_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """What the command line says, flag by flag."""

    listen: str
    store: str | None
    ttl: int
    token_file: Path | None
    is_open: bool
    require_signed: bool
    proxies: tuple[str, ...]
    tls_cert: Path | None
    tls_key: Path | None


def run_registry(settings: RegistrySettings, *, as_json: bool) -> int:
    """Serve a registry as the settings say; returns the exit code."""
    log_to_stderr(logging.WARNING)
    options, server = _options(settings)
    return trio.run(_run, options, server, as_json)


def _options(settings: RegistrySettings) -> tuple[RegistryOptions, ServerOptions]:
    """What the settings mean, with the table opened last.

    Raises:
        UsageError: a value is not usable, or the address needs a rule who may come in.
        ConfigError: the token file or the table cannot be used.
    """
    try:
        from http_control.limits import HttpLimits
        from http_control.registry.app import BODY_BYTES_MAX, RegistryOptions
        from http_control.registry.serving import open_table
        from http_control.server import ServerOptions
        from http_control.sockets import Bind
        from http_control.source import networks_of
    except ImportError as error:
        needs = f"a registry needs {error.name}: pip install 'trio-p2p[http]', or '.[http]' in a clone"
        raise ConfigError(needs) from None
    try:
        place = PeerEndpoint.parse(settings.listen)
    except ConfigError as error:
        raise UsageError(f"--listen {settings.listen!r}: {error}") from None
    try:
        bind = Bind(place.host, place.port, tls_cert=settings.tls_cert, tls_key=settings.tls_key)
        proxies = networks_of(settings.proxies)
    except ConfigError as error:
        raise UsageError(str(error)) from None
    if not is_loopback(place.host) and settings.token_file is None and not settings.is_open:
        raise UsageError(
            f"{place.host} is reached by others: give --token-file F to serve those who show the token, "
            "or --open to serve anybody"
        )
    if settings.token_file is not None and settings.is_open:
        raise UsageError("--open serves anybody, --token-file only those who show it: leave one out")
    token = load_token(settings.token_file) if settings.token_file is not None else None
    limits = dataclasses.replace(Limits(), registrar_ttl_s=float(settings.ttl))
    desk = Desk(limits, require_signed=settings.require_signed)
    server = ServerOptions(bind, HttpLimits(body_bytes_max=BODY_BYTES_MAX))
    return RegistryOptions(desk, open_table(settings.store), token, proxies), server


def load_token(path: Path) -> str:
    """Read a token from a file.

    Raises:
        ConfigError: it cannot be read, others can read it, or it holds no token.
    """
    token = read_private(path.expanduser(), "token file").decode("ascii", "replace").strip()
    is_visible = all("!" <= character <= "~" for character in token)
    if not TOKEN_BYTES_MIN <= len(token) <= TOKEN_BYTES_MAX or not is_visible:
        raise ConfigError(
            f"the token file {path} holds no token: one line of {TOKEN_BYTES_MIN}-{TOKEN_BYTES_MAX} letters and "
            "digits, as `openssl rand -hex 32` makes one"
        )
    return token


async def _run(options: RegistryOptions, server: ServerOptions, as_json: bool) -> int:
    from http_control.registry.serving import serve_registry

    output = Output()

    def say(event: str, text: str, **fields: object) -> None:
        output.notice(json_line({"event": event, **fields}) if as_json else f"[p2p] {text}")

    with stop_signals() as signals:
        async with trio.open_nursery() as nursery:

            def obey(number: int) -> None:
                if nursery.cancel_scope.cancel_called:
                    os._exit(128 + number)
                nursery.cancel_scope.cancel()

            nursery.start_soon(on_signal, signals, obey)
            urls: list[str] = await nursery.start(serve_registry, options, server)
            try:
                say("started", f"registry listens on {', '.join(urls)}", urls=urls, ttl_s=options.desk.room.ttl_s)
            except ReaderGone:
                nursery.cancel_scope.cancel()
    try:
        say("stopped", "registry stopped")
    except ReaderGone:
        # It is the last line in any case.
        return 0
    return 0
