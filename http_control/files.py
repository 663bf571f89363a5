"""Two files in the data dir: the token, and where the server listens.

`control.token` is a secret like the key beside it: made once, readable for its owner alone. `control.json` stands there
while a server runs. A killed one leaves it behind, and anybody may listen there by now: before the token is shown, the
data dir must be held by the process that the file names.
"""

from __future__ import annotations

import base64
import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from p2p import ConfigError, one_line

TOKEN_FILE: Final = "control.token"  # noqa: S105  # a file's name
CONTROL_FILE: Final = "control.json"
TOKEN_CHARS_MAX: Final = 256
CONTROL_BYTES_MAX: Final = 65_536
"""Far more than a server writes there."""


class ControlFile(msgspec.Struct, frozen=True):
    """Where a server listens.

    Attributes:
        urls: of its TCP sockets.
        unix: the path of its unix socket.
        prefix: where its routes begin.
        pid: its process.
    """

    urls: list[str]
    unix: str | None
    prefix: str
    pid: int


def new_token(entropy: Callable[[int], bytes]) -> str:
    """43 characters from 32 random bytes."""
    return base64.urlsafe_b64encode(entropy(32)).decode().rstrip("=")


def read_token(data_dir: Path) -> str:
    """The token of a data dir.

    Raises:
        ConfigError: there is none, it cannot be read, or others can read it.
    """
    path = data_dir / TOKEN_FILE
    try:
        data, mode = _read(path, TOKEN_CHARS_MAX + 2)
    except FileNotFoundError:
        if path.is_symlink():
            raise ConfigError(f"{path} is a link that leads nowhere: mend or remove it") from None
        raise ConfigError(f"no {TOKEN_FILE} in {data_dir}: no node has served HTTP from there") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    if mode & 0o077:
        raise ConfigError(f"{path} can be read by others (mode {mode:04o}): make it `chmod 600`, or remove it")
    token = data.decode("ascii", "replace").strip()
    is_token = token.isascii() and token.isprintable() and " " not in token
    if not is_token or not 16 <= len(token) <= TOKEN_CHARS_MAX:
        raise ConfigError(f"{path} holds no token: remove it, and the next start makes a new one")
    return token


def load_or_make_token(data_dir: Path, entropy: Callable[[int], bytes]) -> str:
    """The token of a data dir, made if there is none.

    Raises:
        ConfigError: it cannot be read or written, or others can read it.
    """
    path = data_dir / TOKEN_FILE
    if not path.exists():
        _write_private(path, (new_token(entropy) + "\n").encode(), replace=False)
    return read_token(data_dir)


def write_control(data_dir: Path, control: ControlFile) -> None:
    """Say where the server listens."""
    _write_private(data_dir / CONTROL_FILE, msgspec.json.encode(control) + b"\n", replace=True)


def remove_control(data_dir: Path, control: ControlFile) -> None:
    """Take back what was written, unless another server wrote since."""
    with suppress(OSError, ConfigError):
        if read_control(data_dir) == control:
            (data_dir / CONTROL_FILE).unlink()


def read_control(data_dir: Path) -> ControlFile | None:
    """Where the server of a data dir listens, or did when it was killed; None without one.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = data_dir / CONTROL_FILE
    try:
        data, _ = _read(path, CONTROL_BYTES_MAX)
        return msgspec.json.decode(data, type=ControlFile)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(one_line(f"{path}: {getattr(error, 'strerror', None) or error}")) from None


def _read(path: Path, bytes_max: int) -> tuple[bytes, int]:
    """The beginning of a file, and its permissions. Nothing is waited for: a pipe is no such file, nor is a device.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return file.read(bytes_max), stat.S_IMODE(mode)


def _write_private(path: Path, data: bytes, *, replace: bool) -> None:
    """Write a file of mode 0600 whole or not at all; without `replace` one that is there stays."""
    made = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        made.unlink(missing_ok=True)
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                made.replace(path)
            else:
                # If another one was quicker, its token counts.
                with suppress(FileExistsError):
                    os.link(made, path)
        finally:
            made.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
