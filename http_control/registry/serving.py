"""Running a registry: the table opened, the server around the application, the table closed at the end."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import trio

from http_control.registry.app import RegistryOptions, make_registry
from http_control.registry.redis_table import RedisTable
from http_control.registry.sqlite import SqliteTable
from http_control.registry.table import Table
from http_control.server import ServerOptions, serve_app
from p2p import ConfigError

REDIS_SCHEMES: Final = ("redis://", "rediss://", "unix://")
CLOSE_S_MAX: Final = 0.5


def open_table(store: str | None) -> Table:
    """Open a table: in Redis for a `redis://…` URL, in a file for a path, in memory for None. Blocking.

    Raises:
        ConfigError: it cannot be opened.
    """
    if store is not None and store.startswith(REDIS_SCHEMES):
        return RedisTable(store)
    if store is not None and "://" in store:
        scheme = store.partition("://")[0]  # the rest may hold a password
        raise ConfigError(
            f"a registry has no table in {scheme}://…: it is a file, by its path, or Redis, by redis://HOST:PORT/0, "
            "rediss://… or unix://PATH"
        )
    return SqliteTable(Path(store).expanduser() if store is not None else None)


async def serve_registry(
    options: RegistryOptions,
    server: ServerOptions,
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a registry until cancelled, then close its table; `started(urls)` with the real ports.

    Raises:
        AddressInUse, ConfigError: it cannot listen as asked.
    """
    try:
        await serve_app(make_registry(options), server, task_status=task_status)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S_MAX):
            await trio.to_thread.run_sync(partial(options.table.close), abandon_on_cancel=True)
