"""`--http`: the node's HTTP control, served in its own process. `http_control` is imported only when asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

import p2p
from p2p.cli.settings import LEVELS, HttpSettings, Settings, UsageError
from p2p.errors import ConfigError

if TYPE_CHECKING:
    from http_control import Bind

CONTROL_FILE: Final = "control.json"
"""As `http_control.files.CONTROL_FILE`; not imported from there, for who asks may have no HTTP."""
NEEDS: Final = "HTTP control needs {}: pip install 'trio-p2p[http]', or '.[http]' in a clone"


@dataclass(frozen=True, slots=True)
class Served:
    """Where it is served.

    Attributes:
        urls: of its sockets.
        token: only where no file keeps it: a node in memory.
        how: what a caller needs, in words.
    """

    urls: list[str]
    token: str | None
    how: str


class ControlServer:
    """HTTP control as the command line wants it.

    Args:
        settings: with `http`.
        config: of the node.
        stop: ends the command in order.

    Raises:
        UsageError: the settings are not usable, or not safe.
        ConfigError: a package is missing.
    """

    def __init__(self, settings: Settings, config: p2p.NodeConfig, stop: Callable[[], None]) -> None:
        assert settings.http is not None
        try:
            from http_control import P2PHttpOptions, new_token, serve
        except ImportError as error:
            raise ConfigError(NEEDS.format(error.name)) from None
        self._serve = serve
        self._token = new_token(config.entropy) if config.data_dir is None else None
        self._data_dir = config.data_dir
        try:
            self._options = P2PHttpOptions(
                bind=_bind(settings.http),
                token=self._token,
                allowed_hosts=settings.http.hosts,
                trusted_proxies=settings.http.proxies,
                http_open=settings.http.open,
                enable_stats_line=settings.stats_every != 0,
                on_log_level=_set_level,
                on_shutdown=stop,
            )
        except ConfigError as error:
            raise UsageError(f"--http: {error}") from None
        try:
            self._options.check_exposure()
        except ConfigError:
            raise UsageError(
                f"--http {settings.http.at}: the token would travel in the clear to whoever listens: give "
                "--http-tls-cert and --http-tls-key, listen on 127.0.0.1 behind a proxy (--http-host, --http-proxy), "
                "or add --http-open if this is meant"
            ) from None

    async def serve(self, node: p2p.Node, *, task_status: trio.TaskStatus[Served] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            urls = await nursery.start(self._serve, p2p.P2PRuntime(node), self._options)
            how = f"token {self._token}" if self._data_dir is None else f"the token in {self._data_dir}/control.token"
            task_status.started(Served(urls, self._token, how))


def forget_control(data_dir: Path) -> None:
    """Remove what a killed node left behind: this one holds its data dir, and serves no HTTP."""
    with suppress(OSError):
        (data_dir / CONTROL_FILE).unlink(missing_ok=True)


def _bind(http: HttpSettings) -> Bind:
    from http_control import Bind

    host, port = "127.0.0.1", 0
    if http.at is not None:
        host, colon, digits = http.at.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not (digits.isascii() and digits.isdigit() and int(digits) <= 65535):
            raise UsageError(f"--http {http.at!r}: write HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080")
        port = int(digits)
    return Bind(host=host, port=port, unix=http.unix, tls_cert=http.tls_cert, tls_key=http.tls_key)


def _set_level(name: str) -> None:
    logging.getLogger("p2p").setLevel(LEVELS[name])
