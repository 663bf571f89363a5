"""Where a server listens: TCP addresses or a unix socket, opened once and kept over restarts of what serves them."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from http_control.kinds import check_fields, path_of
from p2p import AddressInUse, ConfigError


def descriptor_limit() -> int | None:
    """How many file descriptors this process may have open; None where the system sets or tells no limit."""
    if sys.platform == "win32":
        return None
    import resource  # not there on Windows

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Bind:
    """Where to listen.

    Args:
        host: an IP address or a name; its addresses share the port.
        port: 0 for any free one.
        unix: the path of a unix socket to listen on instead.
        tls_cert, tls_key: PEM files; both or neither.

    Raises:
        ConfigError: only one of the two files is given, or TLS or a port with a unix socket; or something is no host,
            port or path.
    """

    host: str = "127.0.0.1"
    port: int = 0
    unix: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def __post_init__(self) -> None:
        check_fields(self, "host", str, "text, such as 127.0.0.1")
        check_fields(self, "port", int, "a whole number")
        for name in ("unix", "tls_cert", "tls_key"):
            object.__setattr__(self, name, path_of(getattr(self, name), name))
        if not self.host or "\0" in self.host:
            raise ConfigError("host is empty or no host: 127.0.0.1 for this machine alone, 0.0.0.0 for everybody")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("TLS needs both the certificate and the key: one of the two files is missing")
        if self.unix is not None and not _is_utf8(self.unix):
            raise ConfigError("the path of the unix socket is no UTF-8: clients could not be told of it")
        if self.unix is not None and self.is_tls:
            raise ConfigError("TLS on a unix socket protects nothing: leave out the certificate or the socket")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port {self.port} is not within 0-65535")
        if self.unix is not None and self.port:
            raise ConfigError(f"a unix socket has no port: leave out port {self.port}, or the socket")

    @property
    def is_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.tls_cert is not None


@asynccontextmanager
async def listening(bind: Bind, backlog: int) -> AsyncIterator[list[trio.SocketListener]]:
    """Sockets that listen, for the time of the block; a unix socket's file goes with them.

    Raises:
        AddressInUse: something else listens there.
        ConfigError: the address is not one of this machine, or the path is not usable.
    """
    listeners = [_unix_listener(bind.unix, backlog)] if bind.unix is not None else await _tcp_listeners(bind, backlog)
    made = None if bind.unix is None else _file_at(bind.unix)
    try:
        yield listeners
    finally:
        with trio.CancelScope(shield=True):
            for listener in listeners:
                await trio.aclose_forcefully(listener)
        # Another server may have its socket there by now.
        if bind.unix is not None and made is not None and _file_at(bind.unix) == made:
            with suppress(OSError):
                bind.unix.unlink()


async def _tcp_listeners(bind: Bind, backlog: int) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(bind.port, host=bind.host, backlog=backlog)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(error.errno, f"port {bind.port} of {bind.host} is in use: take another one") from None
        raise ConfigError(f"cannot listen on {bind.host} port {bind.port}: {error.strerror or error}") from None


def _unix_listener(path: Path, backlog: int) -> trio.SocketListener:
    _clear_stale(path)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(os.fspath(path))
        # Before anybody can connect: only who may read the token may knock, until the operator says otherwise.
        path.chmod(0o600)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot listen on the unix socket {path}: {error.strerror or error}") from None
    sock.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _clear_stale(path: Path) -> None:
    """Remove the socket of a server that was killed; a living one keeps it."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"{path} exists and is not a socket: remove it, or listen elsewhere")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        # Not waited for: one whose queue is full is alive, too.
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass
        except OSError as error:
            raise ConfigError(f"whether a server listens on {path} cannot be told: {error.strerror}") from None
    raise AddressInUse(errno.EADDRINUSE, f"a server listens on the unix socket {path}")


def _file_at(path: Path) -> tuple[int, int] | None:
    """Which file it is, whatever its name; None without one."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def urls_of(listeners: list[trio.SocketListener], bind: Bind) -> list[str]:
    """What a client types: one URL per TCP socket, `unix:PATH` for a unix socket."""
    if bind.unix is not None:
        return [f"unix:{bind.unix}"]
    scheme = "https" if bind.is_tls else "http"
    urls = []
    for listener in listeners:
        host, port = listener.socket.getsockname()[:2]
        urls.append(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}")
    return urls
